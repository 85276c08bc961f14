//! Snippets of the pages that no other test runs.

use std::process::{Command, Stdio};

use jsonwebtoken::dangerous::insecure_decode;
use livestore_tests::client::newer_node;
use livestore_tests::cluster::{Database, bin};
use livestore_tests::root;
use livestore_tests::sidecar::{Sidecar, Start};
use serde_json::{Value, json};

/// The code blocks of a page in this language, in order.
fn snippets(page: &str, language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(page)).unwrap();
    let fence = format!("```{language}\n");
    let blocks = text.split(&fence).skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_event_of_the_readme_is_committed() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let [sql] = &snippets("README.md", "sql")[..] else { panic!("one block") };
    admin.batch_execute(sql).await.unwrap();
    let row = admin.query_one("select store_id, name, args->>'text' from livestore.events", &[]).await.unwrap();
    let event: (String, String, String) = (row.get(0), row.get(1), row.get(2));
    assert_eq!(event, ("todos".into(), "todoCreated".into(), "from SQL".into()));
}

/// The secret of the sidecars whose tokens a snippet makes.
const SECRET: &str = "a secret of at least 32 characters";

/// Runs a snippet of a shell in which `livestore-sidecar` is that of the tests.
fn shell(script: &str) -> String {
    let program = Start::program();
    let folder = std::path::Path::new(program.get_program()).parent().unwrap().to_owned();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let output = Command::new("sh")
        .args(["-ec", script])
        .env("PATH", path)
        .env("LIVESTORE_JWT_SECRET", SECRET)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_that_export_and_import_a_store_run() {
    let (from, to) = (Database::new().await, Database::new().await);
    from.admin().await.batch_execute("select livestore.commit('todos', 'e')").await.unwrap();
    let [commands] = &snippets("docs/sql.md", "sh")[..] else { panic!("one block") };
    let folder = tempfile::tempdir().unwrap();
    shell(&format!(
        "cd {}; export DATABASE_URL='{}' OTHER_DATABASE_URL='{}'\n{commands}",
        folder.path().display(),
        from.url("reader"),
        to.url("admin")
    ));
    let head = to.admin().await.query_one("select livestore.head('todos')", &[]).await.unwrap();
    assert_eq!(head.get::<_, i64>(0), 1);
}

/// Runs the recipe of a page, which imports 100,000 events as `args` has them. `prepare` writes what the old backend exports.
async fn import(page: &str, store: &str, prepare: &str, args: &str, time: &str) -> Database {
    let (database, folder) = (Database::new().await, tempfile::tempdir().unwrap());
    let admin = database.admin().await;
    let recipe = snippets(page, "sh").into_iter().next().expect("a recipe");
    // An administrator of an application's database may do that.
    admin.batch_execute("grant create on schema public to admin").await.unwrap();
    let url = database.url("admin");
    shell(&format!(
        "cd {}; export DATABASE_URL='{url}' BACKEND_ID=V1StGXR8_Z5jdHi6B-myT\n{prepare}\n{recipe}",
        folder.path().display()
    ));
    let wrong = format!(
        "select count(*) from generate_series(1, 100000) g
         full join livestore.events e on e.seq_num = g and e.store_id = $1
         where (e.parent_seq_num, e.name, e.args::text, e.client_id, e.session_id, to_char(e.created_at at time zone 'utc', 'YYYY MS'))
             is distinct from (g - 1, 'todoCreated', {args}, 'c', 's', {time})"
    );
    assert_eq!(admin.query_one(&wrong, &[&store]).await.unwrap().get::<_, i64>(0), 0, "{page}");
    // The recipe leaves nothing behind.
    let tables = "select count(*) from pg_class where relnamespace = 'public'::regnamespace";
    assert_eq!(admin.query_one(tables, &[]).await.unwrap().get::<_, i64>(0), 0, "{page}");
    database
}

/// Args with what a shell, CSV or SQL could take for its own.
const TEXT: &str = r#"it''s "quoted", a\b %s $x ü 日本"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_d1_is_imported() {
    // The table as sync-cf makes it. With wrangler, the dump differs by its first line.
    let table = r#"create table "eventlog_7_x" ("seqNum" integer primary key not null, "parentSeqNum" integer not null, "name" text not null,
            "args" text, "createdAt" text not null, "clientId" text not null, "sessionId" text not null) strict;"#;
    // First a dump in which an event is missing: what the commands leave behind is not in the way of the next one.
    let recipe = snippets("docs/cloudflare.md", "sh").into_iter().next().expect("a recipe");
    let prepare = format!(
        r#"sqlite3 broken.db <<'SQL'
        {table}
        insert into eventlog_7_x values (2, 1, 'todoCreated', null, '2024-05-06T07:08:09.123Z', 'c', 's');
SQL
        sqlite3 broken.db .dump > d1.sql
        if ({recipe}
        ) 2> failed; then exit 1; fi
        grep 'this is not an event log' failed
        sqlite3 old.db <<'SQL'
        {table}
        with recursive n(g) as (select 1 union all select g + 1 from n where g < 100000)
        insert into eventlog_7_x select g, g - 1, 'todoCreated',
            case when g % 100 > 0 then '{{ "id":' || char(10) || g || ', "text": ' || json_quote('{TEXT}') || '}}' end,
            '2024-05-06T07:08:09.123Z', 'c', 's' from n;
SQL
        sqlite3 old.db .dump > d1.sql"#
    );
    let args = format!(
        "case when g % 100 > 0 then '{{ \"id\":' || chr(10) || g || ', \"text\": ' || to_json('{TEXT}'::text) || '}}' end"
    );
    let database = import("docs/cloudflare.md", "x", &prepare, &args, "'2024 123'").await;
    let id = database.admin().await.query_one("select livestore.backend_id('x')", &[]).await.unwrap();
    assert_eq!(id.get::<_, &str>(0), "V1StGXR8_Z5jdHi6B-myT");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_s2_reads_is_imported() {
    // A line as `s2 read --format json` writes it; the first is a command to S2 itself.
    let prepare = format!(
        r#"(echo '{{"seq_num":0,"timestamp":1714979289123,"headers":[["","fence"]],"body":"token"}}'
        psql "$DATABASE_URL" -qAt <<'SQL'
        select format('{{"seq_num":%s,"timestamp":1714979289123,"body":%s}}', g, to_json(format(
            '{{"name":"todoCreated","args":{{ "id": %s, "text": %s}},"seqNum":%s,"parentSeqNum":%s,"clientId":"c","sessionId":"s"}}',
            g, to_json('{TEXT}'::text), g, g - 1)))
        from generate_series(1, 100000) g;
SQL
        ) > records.jsonl"#
    );
    let args = format!("'{{ \"id\": ' || g || ', \"text\": ' || to_json('{TEXT}'::text) || '}}'");
    import("docs/s2.md", "todos", &prepare, &args, "'2024 123'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_electric_is_imported_from_another_database() {
    let (from, to) = (Database::new().await, Database::new().await);
    let table = "create table public.\"eventlog_6_my_store\" (\"seqNum\" integer primary key, \"parentSeqNum\" integer, name text not null,
            args jsonb not null, \"clientId\" text not null, \"sessionId\" text not null);
        insert into public.\"eventlog_6_my_store\"
        select g, g - 1, 'todoCreated', json_build_object('id', g), 'c', 's' from generate_series(100000, 1, -1) g";
    from.admin().await.batch_execute(table).await.unwrap();
    let recipe = snippets("docs/electric.md", "sh").into_iter().next().expect("a recipe");
    shell(&format!(
        "export OLD_DATABASE_URL='{}' DATABASE_URL='{}'\n{recipe}",
        from.url("postgres"),
        to.url("postgres")
    ));
    let admin = to.admin().await;
    admin.batch_execute("select livestore.import_table('public.\"eventlog_6_my_store\"', 'my-store')").await.unwrap();
    let wrong = "select count(*) from public.\"eventlog_6_my_store\" o
         full join livestore.events e on e.seq_num = o.\"seqNum\"
         where (e.parent_seq_num, e.args::text) is distinct from (o.\"parentSeqNum\"::bigint, o.args::text)";
    assert_eq!(admin.query_one(wrong, &[]).await.unwrap().get::<_, i64>(0), 0);
    assert_eq!(admin.query_one("select livestore.head('my-store')", &[]).await.unwrap().get::<_, i64>(0), 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_the_inspectors_page_run() {
    let database = Database::new().await;
    let blocks = snippets("docs/inspector.md", "sh");
    let [_, commands, transfer] = &blocks[..] else { panic!("{blocks:?}") };
    let said = shell(&format!("export DATABASE_URL='{}'\n{commands}", database.url("sidecar")));
    assert!(said.contains("committed as event 1"), "{said}");

    let other = Database::new().await;
    let secret = "the secret of the other one";
    let sidecar = Sidecar::on(&database).await;
    let target = Start::new(other.url("admin")).arguments(&["--inspector-secret", secret]).ready().await;
    let transfer = transfer.replace("http://localhost:8787", &sidecar.http_url());
    let folder = tempfile::tempdir().unwrap();
    shell(&format!(
        "cd {}; export OTHER_SIDECAR_URL='{}' OTHER_INSPECTOR_SECRET='{secret}'\n{transfer}",
        folder.path().display(),
        target.http_url()
    ));
    let head = "select livestore.head('todos')";
    assert_eq!(other.admin().await.query_one(head, &[]).await.unwrap().get::<_, i64>(0), 1);
}

/// The recipes as far as they run without the provider: their URLs and options mean something to the sidecar.
#[test]
fn the_recipes_for_managed_postgres_have_urls_and_options_that_the_sidecar_reads() {
    let folder = tempfile::tempdir().unwrap();
    let key = "openssl req -x509 -nodes -newkey rsa:2048 -days 2 -subj /CN=provider -keyout key -out prod-ca-2021.crt";
    let recipes = snippets("docs/managed.md", "sh");
    assert_eq!(recipes.len(), 6);
    let enter = format!("cd {}; unset LIVESTORE_JWT_SECRET", folder.path().display());
    shell(&format!("{enter}; {key} 2> /dev/null; cp prod-ca-2021.crt global-bundle.pem"));
    for recipe in recipes {
        let exports: Vec<&str> = recipe.lines().filter(|line| line.starts_with("export ")).collect();
        let serve = recipe.lines().last().unwrap().replace("livestore-sidecar", "livestore-sidecar check");
        // Nobody listens there.
        let elsewhere = r#"DATABASE_URL=$(echo "$DATABASE_URL" | sed 's|@[^/]*/|@127.0.0.1:1/|')"#;
        let report = shell(&format!("{enter}; {}; {elsewhere}; {serve} || true", exports.join("; ")));
        assert!(report.contains("WRONG   the database cannot be reached"), "{recipe}{report}");
        assert!(report.contains("\n1 wrong"), "{recipe}{report}");
    }
}

#[test]
fn the_function_that_runs_the_image_gives_it_every_setting() {
    let [function] = &snippets("docs/managed.md", "sh docker")[..] else { panic!("one block") };
    let script = format!("docker() {{ printf '%s\\n' \"$@\"; }}\n{function}\nlivestore-sidecar check --shards");
    let mut shell = Command::new("bash");
    shell.args(["-ec", &script]).env("DATABASE_URL", "postgres://u@h/d").env("LIVESTORE_AUTH", "jwt");
    shell.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318").stdin(Stdio::null());
    // The value has two words.
    shell.env("LIVESTORE_ALLOW", "a-{sub}=write b=read").env_remove("LIVESTORE_LISTEN");
    let output = |shell: &mut Command| String::from_utf8(shell.output().unwrap().stdout).unwrap();
    let passed = output(&mut shell);
    let passed: Vec<_> = passed.lines().collect();
    assert!(passed.contains(&"-i"), "an import reads the standard input: {passed:?}");
    // The first process of a container ignores signals that it does not catch.
    assert!(passed.contains(&"--init"), "Ctrl-C ends a command that goes on: {passed:?}");
    for setting in [
        "DATABASE_URL",
        "PGPASSWORD",
        "LIVESTORE_AUTH",
        "LIVESTORE_ALLOW",
        "LIVESTORE_LISTEN=127.0.0.1:8787",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    ] {
        assert!(passed.windows(2).any(|words| words == ["-e", setting]), "{setting}: {passed:?}");
    }
    assert!(passed.ends_with(&["livestore-sidecar", "check", "--shards"]), "{passed:?}");
    let passed = output(shell.env("LIVESTORE_LISTEN", "127.0.0.1:9000"));
    assert!(passed.contains("-e\nLIVESTORE_LISTEN=127.0.0.1:9000\n"), "{passed}");
}

#[test]
fn the_token_command_makes_the_claims_that_the_page_shows() {
    let command = snippets("docs/security.md", "sh").into_iter().find(|block| block.contains(" token ")).unwrap();
    let token = shell(&command);
    let mut claims = insecure_decode::<Value>(token.trim()).unwrap().claims;
    let shown = snippets("docs/security.md", "json").into_iter().find(|block| block.contains(r#""public-*": "write""#));
    let mut shown: Value = serde_json::from_str(&shown.unwrap()).unwrap();
    for claims in [&mut claims, &mut shown] {
        assert!(claims.as_object_mut().unwrap().remove("exp").unwrap().is_number());
    }
    // When it was made.
    claims.as_object_mut().unwrap().remove("iat");
    assert_eq!(claims, shown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_connects_as_the_page_on_the_relay_does_is_answered() {
    let database = Database::new().await;
    let [settings, make] = &snippets("docs/relay.md", "sh")[..] else { panic!("two blocks") };
    assert!(settings.contains("LIVESTORE_AUTH=jwt LIVESTORE_JWT_SECRET="), "{settings}");
    let arguments = ["--auth", "jwt", "--jwt-secret", SECRET];
    let sidecar = Start::new(database.url("sidecar")).arguments(&arguments).ready().await;
    let [script] = &snippets("docs/relay.md", "js")[..] else { panic!("one block") };
    let token = shell(make);
    let script = script.replace("wss://sync.example.com", &sidecar.url()).replace('…', token.trim());
    let script = format!("{script}\nsocket.onmessage = ({{ data }}) => {{ console.log(data); process.exit() }}");
    let output = tokio::process::Command::new(newer_node()).args(["-e", &script]).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["type"], json!("pull_response"), "{answer}");
}

/// With a cluster of the tests in the place of the machine's, whose socket is elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn the_commands_for_a_debian_machine_make_a_database_and_settings_for_a_sidecar() {
    let (database, folder) = (Database::alone().await, tempfile::tempdir().unwrap());
    let cluster = database.cluster();
    let [create] = &snippets("docs/install.md", "sh debian-database")[..] else { panic!("one block") };
    let [settings] = &snippets("docs/install.md", "sh debian-settings")[..] else { panic!("one block") };
    let written = "/etc/livestore-sync/sidecar.env";
    assert!(settings.contains(written));
    let file = folder.path().join("sidecar.env");
    let settings = settings.replace(written, &file.display().to_string());
    let programs = bin("psql");
    shell(&format!(
        "export PATH={}:$PATH PGHOST=127.0.0.1 PGPORT={} PGUSER=postgres\n\
         sudo() {{ if [ \"$1\" = -u ]; then shift 2; fi; \"$@\"; }}\n{create}{settings}",
        programs.parent().unwrap().display(),
        cluster.port()
    ));
    let settings = std::fs::read_to_string(file).unwrap();
    let mut start = Start::new(cluster.url("livestore-sidecar", "app"));
    for (name, value) in settings.lines().map(|line| line.split_once('=').unwrap()) {
        match name {
            "DATABASE_URL" => assert_eq!(value, "postgres://livestore-sidecar@%2Frun%2Fpostgresql/app"),
            _ => start = start.environment(name, value),
        }
    }
    start.ready().await;
}
