//! `livestore-sidecar export` and `import`.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use livestore_tests::client::newer_node;
use livestore_tests::cluster::Database;
use livestore_tests::events::event;
use livestore_tests::root;
use livestore_tests::sidecar::{Sidecar, Start};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

/// Runs a command of the program on a database; `input` is what it reads.
fn command(url: &str, arguments: &[&str], input: Option<&[u8]>) -> Output {
    let mut command = Start::program();
    command.args(arguments).env("DATABASE_URL", url);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = piped.unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It may end before it has read everything.
    let _ = stdin.write_all(input.unwrap_or_default());
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn succeeds(url: &str, arguments: &[&str], input: Option<&[u8]>) -> (Vec<u8>, String) {
    let output = command(url, arguments, input);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {said}");
    (output.stdout, said.trim().to_owned())
}

fn fails(url: &str, arguments: &[&str], input: Option<&[u8]>, code: i32, reason: &str) {
    let output = command(url, arguments, input);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(said.contains(reason), "{arguments:?}: {said}");
}

/// Everything that a log has, but for its store id.
async fn contents(database: &Database, store: &str) -> Vec<String> {
    let all = "select concat_ws('|', e.seq_num, e.parent_seq_num, e.name, coalesce(e.args::text, 'none'), e.client_id, e.session_id, e.created_at,
             livestore.backend_id(e.store_id))
         from livestore.events e where e.store_id = $1 order by e.seq_num";
    database.admin().await.query(all, &[&store]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// A log with everything that a log may have.
async fn filled(database: &Database) {
    let admin = database.admin().await;
    let many: Value = (0..2500).map(|n| event(n, "typed", json!({"n": n}))).collect();
    admin.execute("select livestore.push('a \"store\"', $1::text::json)", &[&many.to_string()]).await.unwrap();
    let odd = r#"[
        {"name":"a,\"args\":{","args":"\u0000\ud800 ,\"args\": \\ ","seqNum":2501,"parentSeqNum":2500,"clientId":",\"","sessionId":"\t"},
        {"name":"none","seqNum":2502,"parentSeqNum":2501,"clientId":"c","sessionId":"s"},
        {"name":"lines","args":{
            "a":1.0, "tab":	1
        },"seqNum":2510,"parentSeqNum":2502,"clientId":"c","sessionId":"s"},
        {"name":"last","args":null,"seqNum":2511,"parentSeqNum":2510,"clientId":"c","sessionId":"s"}]"#;
    admin.execute("select livestore.push('a \"store\"', $1::text::json)", &[&odd]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_the_same_after_export_and_import() {
    let (from, to) = (Database::new().await, Database::new().await);
    filled(&from).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("store.jsonl").display().to_string();
    let (reader, admin) = (from.url("reader"), to.url("admin"));
    let store = "a \"store\"";
    let (_, said) = succeeds(&reader, &["export", store, "--output", &file], None);
    assert_eq!(said, "exported 2504 events");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    let (lines, _) = succeeds(&reader, &["export", store], None);
    assert_eq!(lines, std::fs::read(&file).unwrap());
    assert_eq!(lines.iter().filter(|&&byte| byte == b'\n').count(), 2505);
    // As SQL writes it.
    let sql = "select string_agg(l, E'\\n') || E'\\n' from livestore.export_store($1) l";
    let sql: String = from.admin().await.query_one(sql, &[&store]).await.unwrap().get(0);
    assert_eq!(sql.as_bytes(), lines);

    let expected = contents(&from, store).await;
    let (_, said) = succeeds(&admin, &["import", &file], None);
    assert_eq!(said, "imported 2504 events, 0 were there already; the head is 2511");
    assert_eq!(contents(&to, store).await, expected);
    let (_, said) = succeeds(&admin, &["import"], Some(&lines));
    assert_eq!(said, "imported 0 events, 2504 were there already; the head is 2511");
    succeeds(&admin, &["import", &file, "--store", "another"], None);
    assert_eq!(contents(&to, "another").await, expected);

    // Events that were added since follow.
    from.admin().await.execute("select livestore.commit($1, 'later')", &[&store]).await.unwrap();
    let (longer, _) = succeeds(&reader, &["export", store], None);
    let (_, said) = succeeds(&admin, &["import"], Some(&longer));
    assert_eq!(said, "imported 1 events, 2504 were there already; the head is 2512");
    assert_eq!(contents(&to, store).await, contents(&from, store).await);
}

/// An administrator may write to `/dev/null`, or to a file that others may not read.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_replaces_a_file_and_nothing_else() {
    let database = Database::new().await;
    database.admin().await.batch_execute("select livestore.commit('todos', 'e')").await.unwrap();
    let url = database.url("reader");
    let (lines, _) = succeeds(&url, &["export", "todos"], None);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let shown = |name: &str| path(name).display().to_string();

    // A pipe, of which somebody reads the other end.
    assert!(Command::new("mkfifo").arg(path("pipe")).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = path("pipe");
        move || std::fs::read(pipe).unwrap()
    });
    succeeds(&url, &["export", "todos", "--output", &shown("pipe")], None);
    assert_eq!(reader.join().unwrap(), lines);
    assert!(std::fs::symlink_metadata(path("pipe")).unwrap().file_type().is_fifo());

    // A link to a file for its owner alone.
    std::fs::write(path("file"), "before").unwrap();
    std::fs::set_permissions(path("file"), Permissions::from_mode(0o600)).unwrap();
    symlink(path("file"), path("link")).unwrap();
    // Another export to the same file may be under way.
    std::fs::write(path("file.part"), "another").unwrap();
    succeeds(&url, &["export", "todos", "--output", &shown("link")], None);
    assert!(path("link").is_symlink());
    assert_eq!(std::fs::read(path("file")).unwrap(), lines);
    assert_eq!(std::fs::read(path("file.part")).unwrap(), b"another");
    assert_eq!(path("file").metadata().unwrap().permissions().mode() & 0o777, 0o600);

    // The standard output under its other name, behind what is there.
    std::fs::write(path("all"), "before\n").unwrap();
    let all = std::fs::File::options().append(true).open(path("all")).unwrap();
    let mut command = Start::program();
    command.args(["export", "todos", "--output", "/dev/stdout"]).env("DATABASE_URL", &url).stdout(all);
    assert!(command.status().unwrap().success());
    assert_eq!(std::fs::read(path("all")).unwrap(), [b"before\n", &*lines].concat());

    // Before anything is exported.
    fails(&url, &["export", "todos", "--output", &shown("")], None, 1, "directory");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 5, "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_whole_changes_nothing() {
    let (from, to) = (Database::new().await, Database::new().await);
    filled(&from).await;
    let (lines, _) = succeeds(&from.url("reader"), &["export", "a \"store\""], None);
    let text = String::from_utf8(lines).unwrap();
    let admin = to.url("admin");
    let without_the_last: String = text.lines().take(2504).map(|line| format!("{line}\n")).collect();
    let without_one: String =
        text.lines().enumerate().filter(|(n, _)| *n != 7).map(|(_, line)| format!("{line}\n")).collect();
    for (file, reason) in [
        (without_the_last, "has 0 last lines"),
        (without_one, "not an event log"),
        (text.replacen("{\"n\":17}", "{\"n\":18}", 1), "not the lines that were exported: an event was changed"),
        (format!("{text}{text}"), "has 2 last lines"),
        (text.replacen("\"seqNum\":9,", "\"seqNum\":nine,", 1), "invalid input syntax for type json"),
        (format!("\u{0}{text}"), "invalid byte sequence"),
        (String::new(), "has 0 last lines"),
    ] {
        fails(&admin, &["import"], Some(file.as_bytes()), 4, reason);
    }
    let stores: i64 = to.admin().await.query_one("select count(*) from livestore.stores", &[]).await.unwrap().get(0);
    assert_eq!(stores, 0);

    fails(&admin, &["import", "/nowhere.jsonl"], None, 1, "/nowhere.jsonl");
    fails(&admin, &["export", "unknown"], None, 4, "there is no store \"unknown\"");
    fails(&admin, &["export", "unknown", "--output", "/nowhere/file"], None, 1, "/nowhere/file");
    fails(&to.url("sidecar"), &["import"], Some(text.as_bytes()), 4, "permission denied for function import_store");
    fails(&from.url("stranger"), &["export", "a \"store\""], None, 4, "permission denied");
    let database = to.name();
    to.admin().await.batch_execute(&format!("revoke temporary on database {database} from public")).await.unwrap();
    let hint =
        format!("hint: An import takes the right to make them: grant temporary on database {database} to admin.");
    fails(&admin, &["import"], Some(text.as_bytes()), 4, &hint);
    to.admin().await.batch_execute(&format!("grant temporary on database {database} to public")).await.unwrap();
    // A store with other events, or of another life.
    to.admin().await.execute("select livestore.commit('a \"store\"', 'mine')", &[]).await.unwrap();
    fails(&admin, &["import"], Some(text.as_bytes()), 4, "has other events, from event 1 on");
}

/// Runs `livestore sync …` until it says that it is done. It may not end by itself: its clients go on pinging.
async fn livestore_cli(sidecar: &Sidecar, dialect: &str, arguments: &[&str], done: &str) {
    let clients = root().join("tests/clients");
    let mut child = tokio::process::Command::new(newer_node())
        .arg(clients.join("node_modules/.bin/livestore"))
        .arg("sync")
        .args(arguments)
        .args(["--config", clients.join("livestore-cli.mjs").to_str().unwrap(), "--store-id", "todos"])
        .env("DIALECT", dialect)
        .env("SIDECAR", format!("http://127.0.0.1:{}", sidecar.port()))
        .current_dir(&clients)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = String::new();
    loop {
        let line =
            tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await.unwrap_or_else(|_| panic!("{said}"));
        let Some(line) = line.unwrap() else { panic!("{dialect} {arguments:?}: {said}") };
        said.push_str(&line);
        said.push('\n');
        if line.contains(done) {
            return;
        }
    }
}

/// LiveStore's own command moves a store from one sidecar to another, over every dialect that it speaks.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_of_livestore_exports_and_imports() {
    let from = Database::new().await;
    let source = Sidecar::on(&from).await;
    let todos: Value = (0..120).map(|n| event(n, "todoCreated", json!({"id": n.to_string(), "text": "x"}))).collect();
    from.admin().await.execute("select livestore.push('todos', $1::text::json)", &[&todos.to_string()]).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let log = "select string_agg(concat_ws('|', seq_num, parent_seq_num, name, args::jsonb, client_id, session_id), E'\n' order by seq_num) from livestore.events";
    let expected: String = from.admin().await.query_one(log, &[]).await.unwrap().get(0);
    for dialect in ["cf-ws", "cf-http", "electric", "s2"] {
        let file = folder.path().join(format!("{dialect}.json")).display().to_string();
        livestore_cli(&source, dialect, &["export", &file], "Exported 120 events").await;
        let to = Database::new().await;
        let target = Sidecar::on(&to).await;
        livestore_cli(&target, dialect, &["import", &file], "Successfully imported 120 events").await;
        assert_eq!(to.admin().await.query_one(log, &[]).await.unwrap().get::<_, String>(0), expected, "{dialect}");
    }
}
