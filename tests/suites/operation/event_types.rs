//! `examples/event-types`: the types of events, from the schema of an app.

use std::path::Path;
use std::process::{Command, Output};

use livestore_tests::client::newer_node;
use livestore_tests::cluster::Database;
use livestore_tests::device::Device;
use livestore_tests::eventually;
use livestore_tests::root;
use livestore_tests::sidecar::Sidecar;

/// Runs the command of the README in the folder of an app with this schema and the packages of the test clients. It can be repeated.
fn define(database: &Database, schema: &str) {
    for output in [run(database, schema), run(database, schema)] {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("ERROR"), "{said}");
    }
}

fn run(database: &Database, schema: &str) -> Output {
    let readme = std::fs::read_to_string(root().join("examples/event-types/README.md")).unwrap();
    let command = readme.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let app = folder.path();
    std::os::unix::fs::symlink(root().join("tests/clients/node_modules"), app.join("node_modules")).unwrap();
    std::fs::write(app.join("package.json"), r#"{"type": "module"}"#).unwrap();
    std::fs::copy(root().join("examples/event-types/define-events.mjs"), app.join("define-events.mjs")).unwrap();
    std::fs::create_dir(app.join("src")).unwrap();
    std::fs::copy(Path::new(schema), app.join("src/schema.ts")).unwrap();
    let node = newer_node();
    let path = format!("{}:{}", node.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    shell.args(["-c", command]).current_dir(app).env("PATH", &path);
    shell.env("DATABASE_URL", database.url("postgres")).output().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_cannot_be_defined_fails_the_command_and_leaves_the_others_as_they_were() {
    let (database, schema) = (Database::new().await, root().join("examples/event-types/schema.ts"));
    let admin = database.connect("postgres").await;
    for refused in ["v1.TaskAdded", "v1.AllTasksDone"] {
        let constraint =
            format!("alter table livestore.event_types add constraint refused check (name <> '{refused}')");
        admin.batch_execute(&constraint).await.unwrap();
        let output = run(&database, schema.to_str().unwrap());
        assert!(!output.status.success(), "{refused}: {}", String::from_utf8_lossy(&output.stdout));
        let types = admin.query_one("select count(*) from livestore.event_types", &[]).await.unwrap();
        assert_eq!(types.get::<_, i64>(0), 0, "{refused}");
        admin.batch_execute("alter table livestore.event_types drop constraint refused").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_cannot_be_read_fails_the_command() {
    let (database, folder) = (Database::new().await, tempfile::tempdir().unwrap());
    let schema = folder.path().join("schema.ts");
    std::fs::write(&schema, "throw new Error('unfinished')").unwrap();
    let output = run(&database, schema.to_str().unwrap());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("unfinished"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_schema_becomes_types_that_say_what_clients_take() {
    let database = Database::new().await;
    let admin = database.admin().await;
    define(&database, root().join("examples/event-types/schema.ts").to_str().unwrap());
    let types = "select string_agg(concat_ws(' ', name, version, mode), ', ' order by name) from livestore.event_types";
    let types: String = admin.query_one(types, &[]).await.unwrap().get(0);
    assert_eq!(types, "v1.AllTasksDone 1 check, v1.TaskAdded 1 check");
    let person = r#""assignee": {"kind": "person", "name": "Ann"}"#;
    let whole = format!(r#"{{"id": "1", "title": "x", "due": "2026-11-27T12:00:00.000Z", "priority": 3, {person}}}"#);
    for (name, args, reason) in [
        ("v1.AllTasksDone", None, None),
        ("v1.TaskAdded", Some(whole.clone()), None),
        (
            "v1.TaskAdded",
            Some(format!(r#"{{"id": "1", "title": "x", "priority": null, {person}, "unknown": 1}}"#)),
            None,
        ),
        (
            "v1.TaskAdded",
            Some(r#"{"id": "1", "title": "x", "priority": 1, "assignee": {"kind": "team", "members": ["a"]}}"#.into()),
            None,
        ),
        ("v1.TaskAdded", None, Some("args is not of type object")),
        ("v1.TaskAdded", Some(whole.replace("\"1\"", "1")), Some("args.id is not of type string")),
        ("v1.TaskAdded", Some(whole.replace("\"x\"", "\"\"")), Some("args.title is shorter than 1")),
        (
            "v1.TaskAdded",
            Some(whole.replace("\"2026-11-27T12:00:00.000Z\"", "5")),
            Some("args.due is not of type string"),
        ),
        ("v1.TaskAdded", Some(whole.replace("3", "3.5")), Some("args.priority fits none of anyOf")),
        ("v1.TaskAdded", Some(whole.replace("\"priority\": 3,", "")), Some("args.priority is missing")),
        ("v1.TaskAdded", Some(whole.replace("person", "robot")), Some("args.assignee fits none of anyOf")),
    ] {
        let commit = "select livestore.commit('s', $1, $2::text::json)";
        let found = admin
            .query_one(commit, &[&name, &args])
            .await
            .err()
            .map(|error| error.as_db_error().unwrap().message().to_string());
        let expected = reason.map(|reason| format!("the event does not fit the type \"{name}\": {reason}"));
        assert_eq!(found, expected, "{name} {args:?}");
    }
    let view = "select livestore.create_event_view('public.tasks', 'v1.TaskAdded'); ";
    admin.batch_execute(view).await.unwrap();
    let rows = "select id || ' ' || title || ' ' || (due at time zone 'UTC')::text || ' ' || priority::text || ' ' || (assignee->>'name')
        from public.tasks where seq_num = 2";
    assert_eq!(admin.query_one(rows, &[]).await.unwrap().get::<_, &str>(0), "1 x 2026-11-27 12:00:00 3 Ann");
}

/// Events that a client of the app writes fit the types that the script makes.
#[tokio::test(flavor = "multi_thread")]
async fn the_events_of_the_todo_app_fit_their_types() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let folder = tempfile::tempdir().unwrap();
    let driver = std::fs::read_to_string(root().join("tests/clients/driver/todo-schema.mjs")).unwrap();
    let module = format!(
        "import * as livestore from '@livestore/livestore'\n{driver}\nexport const {{ schema }} = makeTodoSchema(livestore)\n"
    );
    // Its parameter is described in a comment.
    let module = module.replace(
        "({ Events, makeSchema, Schema, State }, { isIdempotent = true } = {})",
        "({ Events, makeSchema, Schema, State }: any, { isIdempotent = true } = {})",
    );
    std::fs::write(folder.path().join("schema.ts"), module).unwrap();
    define(&database, folder.path().join("schema.ts").to_str().unwrap());
    let sidecar = Sidecar::on(&database).await;
    let device = Device::open("a", sidecar.port()).await;
    device.create("1").await;
    for (event, args) in [("todoCompleted", serde_json::json!({"id": "1"})), ("allCompleted", serde_json::Value::Null)]
    {
        let commit = if args.is_null() {
            serde_json::json!({"event": event})
        } else {
            serde_json::json!({"event": event, "args": args})
        };
        device.ask("commit", commit).await.unwrap();
    }
    eventually("they are in the log", async || {
        admin.query_one("select livestore.head('todos')", &[]).await.unwrap().get::<_, i64>(0) == 3
    })
    .await;
    let checked = "select livestore.check_events(), (select count(*) from livestore.event_types), (select count(*) from livestore.misfits)";
    let row = admin.query_one(checked, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)), (0, 3, 0));
}
