//! Snippets of the pages that no other test runs.

use std::process::Command;

use jsonwebtoken::dangerous::insecure_decode;
use livestore_tests::client::newer_node;
use livestore_tests::cluster::Database;
use livestore_tests::root;
use livestore_tests::sidecar::Start;
use livestore_tests::tokens::{WITH_SECRET, token};
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
    assert_eq!(event, ("my-store".into(), "todoCreated".into(), "from SQL".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_a_durable_object_is_imported() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let table = "create table public.eventlog_7_x
        (seqnum bigint, parentseqnum bigint, name text, args text, createdat text, clientid text, sessionid text);
        insert into public.eventlog_7_x values (1, 0, 'a', '{}', '2024-05-06T07:08:09.123Z', 'c', 's')";
    admin.batch_execute(table).await.unwrap();
    let [sql] = &snippets("docs/cloudflare.md", "sql")[..] else { panic!("one block") };
    let id = "V1StGXR8_Z5jdHi6B-myT";
    admin.batch_execute(&sql.replace('…', id)).await.unwrap();
    let row = admin.query_one("select livestore.head('x'), livestore.backend_id('x')", &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, String>(1)), (1, id.into()));
}

/// Runs a snippet of a shell in which `livestore-sidecar` is that of the tests.
fn shell(script: &str) -> String {
    let program = Start::program();
    let folder = std::path::Path::new(program.get_program()).parent().unwrap().to_owned();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let secret = "a secret of at least 32 characters";
    let output = Command::new("sh")
        .args(["-ec", script])
        .env("PATH", path)
        .env("LIVESTORE_JWT_SECRET", secret)
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
    let sidecar = Start::new(database.url("sidecar")).arguments(&WITH_SECRET).ready().await;
    let [script] = &snippets("docs/relay.md", "js")[..] else { panic!("one block") };
    let script = script.replace("wss://sync.example.com", &sidecar.url()).replace('…', &token("ann"));
    let script = format!("{script}\nsocket.onmessage = ({{ data }}) => {{ console.log(data); process.exit() }}");
    let output = tokio::process::Command::new(newer_node()).args(["-e", &script]).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["type"], json!("pull_response"), "{answer}");
}
