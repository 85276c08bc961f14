//! The examples of the documentation work as they stand.

use std::net::TcpListener;
use std::process::Command;

use livestore_tests::client::{Node, newer_node};
use livestore_tests::cluster::Database;
use livestore_tests::device::Device;
use livestore_tests::dialects::DIALECTS;
use livestore_tests::events::event;
use livestore_tests::sidecar::Start;
use livestore_tests::tokens::{SECRET, Signer, WITH_SECRET, now, token};
use livestore_tests::{eventually, root};
use serde_json::json;
use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

/// The SQL of a page, in order.
fn sql_of(page: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(page)).unwrap();
    let blocks = text.split("```sql\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_string()).collect()
}

#[test]
fn the_configuration_page_is_what_help_says() {
    let mut generate = Command::new(root().join("docs/generate"));
    let output = generate.arg(Start::program().get_program()).output().unwrap();
    let page = std::fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    assert!(page.contains("--database-url"), "{page}");
    assert!(String::from_utf8(output.stdout).unwrap() == page, "make docs writes it anew");
}

#[test]
fn the_tests_have_every_dialect_of_the_sidecar() {
    let page = std::fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let (_, dialects) = page.split_once("--dialects").unwrap();
    let values = dialects.lines().take_while(|line| !line.contains("[env:"));
    let listed: Vec<_> = values.filter_map(|line| line.trim().strip_prefix("- ")?.split(':').next()).collect();
    let tested: Vec<_> = DIALECTS.into_iter().chain(["relay"]).collect();
    assert_eq!(listed, tested, "tests/harness/dialects.rs");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hooks_of_the_documentation_reject_and_materialize() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let blocks = sql_of("docs/hooks.md");
    assert_eq!(blocks.len(), 6);
    admin.execute("select livestore.create_store('own', true)", &[]).await.unwrap();
    // The other way to give a hook its rights, for later.
    let (definer, blocks): (Vec<_>, Vec<_>) = blocks.into_iter().partition(|block| block.contains("app_hooks"));
    for block in blocks {
        admin.batch_execute(&block).await.unwrap_or_else(|error| panic!("{error:?}\n{block}"));
    }

    let sidecar = database.connect("sidecar").await;
    for store in ["shared", "own"] {
        let push = "select livestore.push($1, $2)";
        let long = json!([event(0, "todoCreated", json!({"id": "1", "text": "x".repeat(281)}))]);
        let error = sidecar.execute(push, &[&store, &long]).await.unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!((error.message(), error.code().code()), ("a todo has at most 280 characters", "P0001"));

        let fine = json!([event(0, "todoCreated", json!({"id": "1", "text": "buy milk"}))]);
        sidecar.execute(push, &[&store, &fine]).await.unwrap();
    }
    let todos = "select s.store_id, t.id, t.text from app.todos t join livestore.stores s on s.id = t.store order by 1";
    let todos = admin.query(todos, &[]).await.unwrap();
    let todos: Vec<(String, String, String)> = todos.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let todo = |store: &str| (store.to_string(), "1".to_string(), "buy milk".to_string());
    assert_eq!(todos, [todo("own"), todo("shared")]);

    // The function that decides on the rights of users.
    let members = "insert into app.members values ('ann', 'shared', true), ('bob', 'shared', false)";
    admin.execute(members, &[]).await.unwrap();
    let start = Start::new(database.url("sidecar")).arguments(&["--authorize-function", "app.may_sync"]);
    let process = start.ready().await;
    let node = Node::sync_backend();
    let url = process.url();
    let open = |payload| node.open_with("cf-http", &url, "shared", json!({"payload": payload}));
    let next = json!([event(1, "todoCreated", json!({"id": "2", "text": "call mum"}))]);
    for (payload, why) in [
        (json!({"authToken": "eve"}), "log in to open shared"),
        (json!({"authToken": "bob"}), "not allowed to push to this store"),
    ] {
        let error = open(payload).await.push(next.clone()).await.unwrap_err();
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
    assert_eq!(open(json!({"authToken": "bob"})).await.pull(None).await.unwrap().len(), 1);
    open(json!({"authToken": "ann"})).await.push(next).await.unwrap();

    // The hook that knows the claims of the user who pushes.
    let arguments = [&WITH_SECRET[..], &["--allow", "*=write"]].concat();
    let verifying = Start::new(database.url("sidecar")).arguments(&arguments).ready().await;
    let url = verifying.url();
    let open = |token: String| node.open_with("cf-http", &url, "shared", json!({"payload": {"authToken": token}}));
    let third = json!([event(2, "todoCreated", json!({"id": "3", "text": "write"}))]);
    let viewer = Signer::secret(SECRET).sign(&json!({"sub": "ann", "exp": now() + 3600, "role": "viewer"}));
    let error = open(viewer).await.push(third.clone()).await.unwrap_err();
    assert!(error.to_string().contains("viewers cannot change shared"), "{error}");
    open(token("ann")).await.push(third).await.unwrap();

    admin.batch_execute(&definer[0]).await.unwrap();
    admin.batch_execute("revoke all on app.todos from livestore_hooks").await.unwrap();
    let fourth = json!([event(3, "todoCreated", json!({"id": "4", "text": "rest"}))]);
    sidecar.execute("select livestore.push('shared', $1)", &[&fourth]).await.unwrap();
    let todos = "select count(*) from app.todos where id = '4'";
    assert_eq!(admin.query_one(todos, &[]).await.unwrap().get::<_, i64>(0), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_a_client_did_not_upload_are_recovered_from_its_database() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ann = Device::open("ann", unused).await;
    for id in ["1", "2", "3"] {
        ann.create(id).await;
    }
    eventually("the client's database has them", || async { ann.status().await["head"] == 3 }).await;
    let uploaded = "select livestore.commit('todos', 'todoCreated', $1::json, 'ann', 'static')";
    admin.execute(uploaded, &[&json!({"id": "1", "text": "todo 1"})]).await.unwrap();

    let folder = tempfile::tempdir().unwrap();
    let (pending, sql) = (folder.path().join("pending.json"), folder.path().join("recover.sql"));
    let in_memory = json!(
        ["3", "it's 4"].map(|id| json!({"name": "todoCreated", "args": {"id": id, "text": format!("todo {id}")}}))
    );
    std::fs::write(&pending, in_memory.to_string()).unwrap();
    for _ in 0..2 {
        let mut recover = Command::new(newer_node());
        recover.arg(root().join("examples/recover-events/recover.mjs")).arg("todos").arg(ann.eventlog()).arg(&pending);
        let output = recover.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::write(&sql, output.stdout).unwrap();
        database.tool("psql", &["-f", sql.to_str().unwrap()]);
        let log = "select args->>'id', client_id from livestore.events order by seq_num";
        assert_eq!(result_of(&admin, log).await, "1 ann, 2 ann, 3 ann, it's 4 ann");
    }
}

/// The pages that people read, by their paths in the project.
fn pages() -> Vec<String> {
    let files = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.md"])
        .current_dir(root())
        .output();
    let files = String::from_utf8(files.unwrap().stdout).unwrap();
    files.lines().map(String::from).collect()
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | ' '))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let read = |page: &str| std::fs::read_to_string(root().join(page)).unwrap();
    let mut count = 0;
    for page in pages() {
        let text = read(&page);
        let folder = std::path::Path::new(&page).parent().unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.contains(char::is_whitespace) {
                continue;
            }
            count += 1;
            let (path, fragment) = link.split_once('#').map_or((link, None), |(path, fragment)| (path, Some(fragment)));
            let target = if path.is_empty() { root().join(&page) } else { root().join(folder).join(path) };
            assert!(target.exists(), "{page} links to {link}");
            if let Some(fragment) = fragment {
                let text = std::fs::read_to_string(&target).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                assert!(headings.any(|heading| anchor(heading) == fragment), "{page} links to {link}");
            }
        }
    }
    assert!(count > 50, "{count} links");
}

/// The contents of the site, too, and mdBook makes no page of what is not in them.
#[test]
fn the_contents_of_the_documentation_have_every_page_once() {
    let contents = std::fs::read_to_string(root().join("docs/README.md")).unwrap();
    let links = contents.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let mut listed: Vec<String> =
        links.map(|link| link.strip_prefix("../").map_or_else(|| format!("docs/{link}"), String::from)).collect();
    let mut there = pages();
    there.retain(|page| page != "docs/README.md");
    listed.sort();
    there.sort();
    assert_eq!(listed, there);
}

#[test]
fn the_snippets_of_the_readme_are_pieces_of_the_examples() {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let example = |path: &str| std::fs::read_to_string(root().join("examples").join(path)).unwrap();
    let examples = ["react/src/livestore.worker.ts", "expo/store.ts", "node/main.ts"].map(example);
    let snippets: Vec<&str> = readme.split("```ts\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(snippets.len(), examples.len());
    for (snippet, example) in snippets.iter().zip(&examples) {
        assert!(example.contains(snippet), "{snippet} is not in\n{example}");
    }

    // Each example is a folder to copy: they have the same schema, and none takes it from another.
    let schemas = ["react/src/schema.ts", "expo/schema.ts", "node/schema.ts"].map(example);
    assert!(schemas.iter().all(|schema| *schema == schemas[0]));

    // The commands install the versions that the examples were tried with.
    let commands: Vec<&str> = readme.split("`pnpm add ").skip(1).map(|rest| rest.split('`').next().unwrap()).collect();
    let manifests = ["react", "expo", "node"].map(|name| {
        let manifest = example(&format!("{name}/package.json"));
        serde_json::from_str::<serde_json::Value>(&manifest).unwrap()
    });
    assert_eq!(commands.len(), manifests.len());
    for (command, manifest) in commands.iter().zip(&manifests) {
        for package in command.split(' ') {
            let (name, version) = package.rsplit_once('@').unwrap();
            assert_eq!(manifest["dependencies"][name], version, "{name}");
        }
    }
    let utils =
        format!("`pnpm add @livestore/utils@{}`", manifests[0]["dependencies"]["@livestore/utils"].as_str().unwrap());
    let known_problems = std::fs::read_to_string(root().join("docs/known-problems.md")).unwrap();
    assert!(known_problems.contains(&utils), "{utils}");
    let overrides = readme.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let overrides: serde_json::Value = serde_json::from_str(overrides).unwrap();
    assert!(manifests.iter().all(|manifest| manifest["overrides"] == overrides["overrides"]), "{overrides}");

    // pnpm 11 refuses to install packages with install scripts unless this file decides about each.
    assert!(readme.contains("](examples/node/pnpm-workspace.yaml)"));
    let workspace = example("node/pnpm-workspace.yaml");
    assert!(["react", "expo"].iter().all(|name| example(&format!("{name}/pnpm-workspace.yaml")).contains(&workspace)));
    let preset =
        format!("babel-preset-expo@{}`", manifests[1]["devDependencies"]["babel-preset-expo"].as_str().unwrap());
    assert!(example("expo/README.md").contains(&preset), "{preset}");
}

/// So that they are run: by the tests of the examples.
#[test]
fn the_code_of_auth_and_encryption_is_that_of_their_examples() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let blocks = |page: &str, language: &str| {
        let (text, fence) = (read(page), format!("```{language}\n"));
        let blocks = text.split(&fence).skip(1);
        blocks.map(|block| block.split("```").next().unwrap().to_string()).collect::<Vec<_>>()
    };
    let send_token = read("examples/supabase-auth/src/send-token.ts");
    assert!(blocks("docs/auth.md", "ts").contains(&send_token));
    // The app of the browser tests runs this one.
    assert!(blocks("docs/auth.md", "ts").contains(&read("tests/web/src/send-cookies.ts")));
    let readme = read("examples/supabase-auth/README.md").replace("\n   ", "\n");
    assert!(readme.contains(&blocks("docs/auth.md", "sh")[0]), "{readme}");
    let [schema, crypto] = &blocks("docs/encryption.md", "ts")[..] else { panic!("two blocks") };
    let (_, of_page) = schema.split_once("\n\n").unwrap();
    assert!(read("examples/encryption/schema.ts").contains(of_page));
    assert!(read("examples/encryption/crypto.ts").contains(&**crypto));
    let todos = ["react", "supabase-auth"].map(|name| read(&format!("examples/{name}/src/schema.ts")));
    assert_eq!(todos[0], todos[1]);
}

/// The names that a snippet takes from the reader's app.
const OF_THE_APP: &str = "declare const schema: import('@livestore/livestore').LiveStoreSchema.Any
declare const adapter: import('@livestore/livestore').Adapter
declare const storeId: string
declare const token: () => string
";

#[test]
fn the_typescript_of_the_pages_compiles() {
    let folder = tempfile::tempdir().unwrap();
    let modules = root().join("tests/clients/node_modules");
    std::os::unix::fs::symlink(modules, folder.path().join("node_modules")).unwrap();
    let mut snippets = Vec::new();
    for page in pages().into_iter().filter(|page| page.starts_with("docs/")) {
        let text = std::fs::read_to_string(root().join(&page)).unwrap();
        for snippet in text.split("```ts\n").skip(1) {
            let snippet = snippet.split("```").next().unwrap();
            let name = format!("{}-{}.ts", page.replace(['/', '.'], "-"), snippets.len());
            std::fs::write(folder.path().join(&name), format!("{OF_THE_APP}export {{}}\n{snippet}")).unwrap();
            snippets.push(name);
        }
    }
    assert!(snippets.len() >= 5, "{snippets:?}");
    let options = "--strict --noEmit --skipLibCheck --target ES2023 --module ESNext --moduleResolution bundler --lib ES2023,DOM,DOM.Iterable";
    let output = Command::new("node")
        .arg(root().join("tests/web/node_modules/typescript/bin/tsc"))
        .args(options.split(' '))
        .args(&snippets)
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// The result of a statement, as the page writes it: rows are separated by commas, columns by spaces.
async fn result_of(client: &tokio_postgres::Client, statement: &str) -> String {
    let messages = client.simple_query(statement).await.unwrap_or_else(|error| panic!("{error:?}\n{statement}"));
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = |row: &SimpleQueryRow| (0..row.len()).map(|n| row.get(n).unwrap_or("null")).collect::<Vec<_>>().join(" ");
    rows.map(row).collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn the_examples_of_the_sql_reference_return_what_it_says() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let (mut statements, mut compared) = (0, 0);
    for block in sql_of("docs/sql.md") {
        // A statement ends with its line; the body of a function does not.
        let (mut statement, mut result, mut is_quoted) = (String::new(), String::new(), false);
        for line in block.lines() {
            if let Some(expected) = line.strip_prefix("-- => ") {
                assert_eq!(result, expected, "{block}");
                compared += 1;
                continue;
            }
            is_quoted ^= line.matches("$$").count() % 2 == 1;
            statement = format!("{statement}{line}\n");
            if line.ends_with(';') && !is_quoted {
                result = result_of(&admin, &std::mem::take(&mut statement)).await;
                statements += 1;
            }
        }
        assert_eq!(statement, "", "it is whole: {block}");
    }
    assert!(statements > 25 && compared > 20, "{statements} {compared}");
}

#[tokio::test]
async fn the_sql_reference_has_every_function_that_is_for_people() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let functions = "select distinct p.proname::text from pg_proc p
         where p.pronamespace = 'livestore'::regnamespace
             and obj_description(p.oid, 'pg_proc') !~ '^Internal|What the sidecar uses|peer relay' order by 1";
    let functions: Vec<String> = admin.query(functions, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert!(functions.len() > 12, "{functions:?}");
    let page = std::fs::read_to_string(root().join("docs/sql.md")).unwrap();
    for function in functions {
        assert!(page.contains(&format!("livestore.{function}(")), "{function}");
    }
}

#[tokio::test]
async fn the_sql_of_the_page_on_electric_runs() {
    let database = Database::new().await;
    let admin = database.admin().await;
    admin
        .batch_execute(
            "create table public.\"eventlog_6_my_store\" (\"seqNum\" integer, \"parentSeqNum\" integer, name text, args jsonb, \"clientId\" text, \"sessionId\" text);
             insert into public.\"eventlog_6_my_store\" values (1, 0, 'e', '{}', 'c', 's')",
        )
        .await
        .unwrap();
    let blocks = sql_of("docs/electric.md");
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        admin.batch_execute(&block).await.unwrap_or_else(|error| panic!("{error:?}\n{block}"));
    }
    let head: i64 = admin.query_one("select livestore.head('my-store')", &[]).await.unwrap().get(0);
    assert_eq!(head, 1);
}

#[tokio::test]
async fn application_roles_see_their_stores_only() {
    let database = Database::new().await;
    let admin = database.admin().await;
    for block in sql_of("docs/security.md") {
        admin.batch_execute(&block).await.unwrap_or_else(|error| panic!("{error:?}\n{block}"));
    }
    let events = "select livestore.commit('user-ann-1', 'hers'), livestore.commit('user-bob-1', 'his');
        insert into app.members values (session_user, 'user-bob-1')";
    admin.batch_execute(events).await.unwrap();
    for (role, view, store) in
        [("app_of_ann", "ann.events", "user-ann-1"), ("app_users", "app.my_events", "user-bob-1")]
    {
        admin.batch_execute(&format!("set role {role}")).await.unwrap();
        let seen = admin.query(&format!("select store_id from {view}"), &[]).await.unwrap();
        let seen: Vec<String> = seen.iter().map(|row| row.get(0)).collect();
        assert_eq!(seen, [store], "{role}");
        for forbidden in ["livestore.events", "livestore.stores", "livestore.eventlog_1"] {
            let refused = admin.query(&format!("select * from {forbidden}"), &[]).await.unwrap_err();
            assert_eq!(refused.code().unwrap().code(), "42501", "{role}, {forbidden}");
        }
        let written = admin.execute(&format!("delete from {view}"), &[]).await.unwrap_err();
        assert!(written.as_db_error().is_some(), "{role}");
        admin.batch_execute("reset role").await.unwrap();
    }
}

#[tokio::test]
async fn the_sql_of_the_runbook_runs() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let page = std::fs::read_to_string(root().join("docs/runbook.md")).unwrap();
    let inline = page.split('`').filter(|code| code.starts_with("select ") && !code.contains("pg_terminate_backend"));
    let mut statements: Vec<_> = inline.map(|code| code.replace("its name", "handled")).collect();
    statements.extend(sql_of("docs/runbook.md"));
    assert!(statements.len() > 6, "{statements:?}");
    admin.batch_execute("select livestore.subscribe('handled')").await.unwrap();
    for statement in statements {
        admin.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
}

#[tokio::test]
async fn the_sql_of_the_page_on_erasure_runs() {
    let database = Database::new().await;
    let admin = database.connect("admin").await;
    let log = r#"select livestore.commit('todos', 'todoCreated', '{"id": "1", "text": "x", "author": "ann"}');
        select livestore.commit('todos', 'todoCreated', '{"id": 2}')"#;
    admin.batch_execute(log).await.unwrap();
    let blocks = sql_of("docs/erasure.md");
    assert_eq!(blocks.len(), 3);
    let mut results = Vec::new();
    for block in &blocks {
        let mut last = String::new();
        for statement in block.split_inclusive(";\n").filter(|statement| !statement.trim().is_empty()) {
            last = result_of(&admin, statement).await;
        }
        results.push(last);
    }
    assert_eq!(results[1], "todos 2 todoCreated args.text is missing");
    let args = r#"1 {"id": "erased", "text": "", "author": ""}, 2 {"id": "2", "text": "?"}"#;
    assert_eq!(result_of(&admin, "select seq_num, args from livestore.pull('todos')").await, args);
    assert_eq!(result_of(&admin, "select count(*) from livestore.misfits").await, "0");
}
