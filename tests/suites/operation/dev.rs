//! `livestore-sidecar dev`: a sidecar with a Postgres cluster of its own.

use std::future::ready;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use livestore_tests::client::Node;
use livestore_tests::cluster::{Database, bin};
use livestore_tests::events::{chain, numbers};
use livestore_tests::program::Program;
use livestore_tests::sidecar::Start;
use livestore_tests::{PATIENCE, eventually, free_port};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A folder that the user of Postgres may enter.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    folder
}

fn command(data: &Path, port: u16) -> Command {
    let mut command = Start::program();
    command.arg("dev").env_remove("DATABASE_URL").env("LIVESTORE_DATA", data);
    command.env("LIVESTORE_LISTEN", format!("127.0.0.1:{port}")).env("LIVESTORE_POSTGRES_BIN", bin("").as_os_str());
    command.stdin(Stdio::null());
    command
}

/// The same command, begun by another program.
fn under(program: &[&str], command: &Command) -> Command {
    let mut outer = Command::new(program[0]);
    outer.args(&program[1..]).arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

/// Starts it, and waits for the last line of what it tells.
fn start(command: &mut Command, log: &Path) -> (Program, String) {
    let mut child = Program::start(command.stdout(std::fs::File::create(log).unwrap()));
    let start = Instant::now();
    loop {
        let output = std::fs::read_to_string(log).unwrap();
        if output.contains("Ctrl-C") {
            return (child, output);
        }
        if let Some(status) = child.try_wait().unwrap() {
            panic!("it ended, {status}:\n{output}");
        }
        assert!(start.elapsed() < PATIENCE, "it is not ready:\n{output}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn signal(child: &mut Child, name: &str) -> std::process::ExitStatus {
    Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
    child.wait().unwrap()
}

/// The end of one that does not serve.
fn refused(command: &mut Command, code: i32) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert_eq!(status.code(), Some(code), "{text}");
    text
}

/// Sources the file for scripts, and asks the database.
fn psql(data: &Path, sql: &str) -> String {
    let script = format!(". {}/env && psql \"$DATABASE_URL\" -XAtc \"$0\"", data.display());
    let output = Command::new("sh").args(["-c", &script, sql]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// An answer, head and body, to a path as it is: a client would take the dots out.
async fn raw_get(port: u16, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Until a cluster is being created.
fn wait_for_initdb(data: &Path) {
    let start = Instant::now();
    while !data.join("postgres.new/PG_VERSION").exists() {
        assert!(start.elapsed() < PATIENCE, "there is no cluster");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn is_served(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

fn postgres_port(data: &Path) -> u16 {
    std::fs::read_to_string(data.join("port")).unwrap().trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_with_a_cluster_of_its_own_whatever_ended_it_before() {
    let folder = folder();
    let (data, log, port) = (folder.path().join("data"), folder.path().join("log"), free_port());
    let url = format!("ws://127.0.0.1:{port}");

    // An app, served beside it.
    let (app, app_port) = (folder.path().join("app"), free_port());
    std::fs::create_dir(&app).unwrap();
    std::fs::write(app.join("index.html"), "<p>the app").unwrap();
    std::fs::write(app.join("sqlite.wasm"), "").unwrap();
    let listen = format!("127.0.0.1:{app_port}");
    let (mut child, output) =
        start(command(&data, port).args(["--flavour", "portable", "--app-listen", &listen, "--app"]).arg(&app), &log);
    let app_url = format!("http://localhost:{app_port}");
    assert!(output.contains(&app_url), "{output}");
    for (path, status, kind) in
        [("/", 200, "text/html"), ("/sqlite.wasm", 200, "application/wasm"), ("/../log", 404, "")]
    {
        let answer = raw_get(app_port, path).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")) && answer.contains(kind), "{path}: {answer}");
    }
    assert!(output.contains(&format!("makeWsSync({{ url: '{url}' }})")) && output.contains("psql"), "{output}");
    for name in ["env", "password", "webhook-secret"] {
        let mode = std::fs::metadata(data.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    Node::sync_backend().open("cf-ws", &url, "todos").await.push(chain(0, 2)).await.unwrap();
    assert_eq!(psql(&data, "select livestore.flavour() || count(*) from livestore.events"), "portable2");
    // A service on this machine gets webhooks, signed with the secret that the file names.
    let env = std::fs::read_to_string(data.join("env")).unwrap();
    let secret = env.split("LIVESTORE_WEBHOOK_SECRET=").nth(1).unwrap().trim();
    let receiver = Node::webhook_receiver();
    let mut messages = receiver.messages_of("webhooks");
    let listening = receiver.call("listen", json!({"sub": "webhooks", "secret": secret})).await.unwrap();
    psql(
        &data,
        &format!(
            "select livestore.subscribe('s', start => 'beginning', url => '{}')",
            listening["url"].as_str().unwrap()
        ),
    );
    let message = tokio::time::timeout(PATIENCE, messages.recv()).await.unwrap().unwrap();
    assert_eq!(message["value"]["isVerified"], true, "{message}");
    let second = refused(&mut command(&data, free_port()), 2);
    assert!(second.contains("choose another --data"), "{second}");
    let admins = "select pg_has_role('livestore_sidecar', 'livestore_admin', 'usage')";
    assert_eq!(psql(&data, admins), "f");

    // Postgres is left behind, and is stopped by the next one.
    signal(&mut child, "KILL");
    let left_behind = psql(&data, "select pg_postmaster_start_time()");
    // Whatever runs the tests may ignore SIGHUP. An empty variable names no other database.
    let mut again = command(&data, port);
    again.env("LIVESTORE_ADMIN_SECRET", "0123456789abcdef").env("DATABASE_URL", "");
    let (mut child, _) = start(&mut under(&["env", "--default-signal=HUP"], &again), &log);
    assert_ne!(psql(&data, "select pg_postmaster_start_time()"), left_behind);
    assert_eq!(psql(&data, admins), "t");
    let client = Node::sync_backend().open("cf-ws", &url, "todos").await;
    assert_eq!(numbers(&client.pull(None).await.unwrap()), [1, 2]);
    drop(client);

    // The signals of a terminal that is closed, of Ctrl-C, and of a service manager.
    let first = postgres_port(&data);
    for name in ["HUP", "INT", "TERM"] {
        let status = signal(&mut child, name);
        assert!(status.success(), "{name}: {status}");
        assert!(!is_served(port) && !is_served(first), "something is left after {name}");
        // The address of an earlier run, which a shell may have, is no other database.
        let env = std::fs::read_to_string(data.join("env")).unwrap();
        let database = env.split('\'').nth(1).unwrap();
        (child, _) = start(command(&data, port).env("DATABASE_URL", database), &log);
        assert_eq!(postgres_port(&data), first, "the port stays");
        assert_eq!(psql(&data, "select count(*) from livestore.events"), "2");
    }
    signal(&mut child, "TERM");
}

/// Its receivers refuse what is signed with a secret that they do not have.
#[tokio::test(flavor = "multi_thread")]
async fn the_webhooks_of_another_database_are_not_sent_and_not_given_up() {
    let (folder, database) = (folder(), Database::new().await);
    let (data, log, port) = (folder.path().join("data"), folder.path().join("log"), free_port());
    let admin = database.admin().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hooks", listener.local_addr().unwrap());
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let router = Router::new().fallback(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        ready(StatusCode::UNAUTHORIZED)
    });
    tokio::spawn(async move { axum::serve(listener, router).await });
    admin.execute("select livestore.subscribe('s', max_failures => 1, url => $1)", &[&url]).await.unwrap();
    admin.execute("select livestore.commit('todos', 'e')", &[]).await.unwrap();
    // It goes on when its terminal is closed, too.
    let mut other = command(&data, port);
    other.args(["--webhook-private-addresses", "--database-url", &database.url("sidecar")]);
    let mut other = under(&["nohup"], &other);
    let (mut child, _) = start(&mut other, &log);
    let state = "select concat_ws(' ', failures, dead_letters, error) from livestore.subscriptions";
    eventually("the event was given back", async || {
        let state: String = admin.query_one(state, &[]).await.unwrap().get(0);
        state.starts_with("0 0 there is no secret to sign with")
    })
    .await;
    assert_eq!(requests.load(Ordering::Relaxed), 0);
    assert!(!data.join("webhook-secret").exists());
    assert!(!std::fs::read_to_string(data.join("env")).unwrap().contains("LIVESTORE_WEBHOOK_SECRET"));
    Command::new("kill").args(["-s", "HUP", &child.id().to_string()]).status().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(child.try_wait().unwrap().is_none() && is_served(port), "nohup did not help");
    assert!(signal(&mut child, "TERM").success());
}

#[test]
fn nothing_of_it_gets_into_the_repository_of_an_app() {
    let folder = folder();
    let (app, log) = (folder.path().join("app"), folder.path().join("log"));
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(&app).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    std::fs::create_dir(&app).unwrap();
    git(&["init", "-q"]);
    let status = || git(&["status", "--porcelain"]);
    let data = app.join(".livestore");
    let (mut child, _) = start(&mut command(&data, free_port()), &log);
    assert_eq!(status(), "");
    signal(&mut child, "INT");
    assert!(data.join("password").exists());
    // One of an earlier version, and one of another name. They have a password before there is a cluster.
    std::fs::remove_file(data.join(".gitignore")).unwrap();
    for data in [data, app.join("named")] {
        refused(command(&data, free_port()).args(["--postgres-bin", "/tmp"]), 2);
        assert!(data.join("password").exists());
        assert_eq!(status(), "", "{}", data.display());
    }
    // One that somebody else has made is left as it is.
    let made = app.join("made");
    std::fs::create_dir(&made).unwrap();
    refused(command(&made, free_port()).args(["--postgres-bin", "/tmp"]), 2);
    assert!(!made.join(".gitignore").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_while_it_starts_leaves_nothing_behind() {
    let folder = folder();
    let (data, log, port) = (folder.path().join("data"), folder.path().join("log"), free_port());
    let mut child = Program::start(command(&data, port).stdout(Stdio::null()));
    wait_for_initdb(&data);
    let status = signal(&mut child, "INT");
    assert!(status.success(), "{status}");
    assert!(!data.join("postgres/postmaster.pid").exists(), "Postgres is still there");
    let (mut child, _) = start(&mut command(&data, port), &log);
    signal(&mut child, "INT");
}

#[test]
fn a_first_start_that_was_killed_is_made_again() {
    let folder = folder();
    let (data, log, port) = (folder.path().join("data"), folder.path().join("log"), free_port());
    let temporary = folder.path().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let mut child = Program::start(command(&data, port).env("TMPDIR", &temporary).stdout(Stdio::null()));
    wait_for_initdb(&data);
    signal(&mut child, "KILL");
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0, "the password for initdb is left behind");
    let password = data.join("postgres.password");
    assert!(password.exists());
    // initdb lives, and has the lock: nobody else writes there meanwhile.
    let lock = std::fs::File::open(data.join("lock")).unwrap();
    assert!(lock.try_lock().is_err(), "initdb does not have the lock");
    lock.lock().unwrap();
    drop(lock);
    assert!(data.join("postgres.new/global/pg_control").exists() && !data.join("postgres").exists());
    std::fs::remove_file(data.join("postgres.new/global/pg_control")).unwrap();
    let (mut child, _) = start(&mut command(&data, port), &log);
    assert!(!data.join("postgres.new").exists() && !password.exists());
    signal(&mut child, "INT");
}

/// A cluster in the place for those whose user may not enter the folder of the data, removed at the end.
struct Elsewhere(PathBuf);

impl Drop for Elsewhere {
    fn drop(&mut self) {
        if let Ok(place) = self.0.canonicalize() {
            let _ = std::fs::remove_dir_all(place);
        }
    }
}

#[test]
fn it_says_where_the_cluster_is_if_the_user_of_postgres_may_not_enter_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
    // Only root starts Postgres as another user.
    if folder.path().metadata().unwrap().uid() != 0 {
        return;
    }
    let (data, log, port) = (folder.path().join("data"), folder.path().join("log"), free_port());
    let elsewhere = Elsewhere(data.join("postgres"));
    let (mut child, output) = start(&mut command(&data, port), &log);
    signal(&mut child, "INT");
    let place = elsewhere.0.canonicalize().unwrap();
    assert!(!place.starts_with(folder.path()), "{}", place.display());
    let place = place.display();
    let created = format!("cluster in {place}, because the user postgres may not enter {}", data.display());
    assert!(output.contains(&created), "{output}");
    assert!(output.ends_with(&format!("the data stays in {place}.\n")), "{output}");
    assert!(!Path::new(&format!("{place}.password")).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_it_from_serving_is_told() {
    let folder = folder();
    let (data, log, port) = (folder.path().join("data"), folder.path().join("log"), free_port());
    let text = refused(command(&data, port).args(["--postgres-bin", "/tmp"]), 2);
    assert!(text.contains("--postgres-bin /tmp: this folder has no initdb"), "{text}");
    let (mut child, _) = start(&mut command(&data, port), &log);

    let (taken, other, app) = (format!("127.0.0.1:{port}"), folder.path().join("other"), folder.path().join("app"));
    let serve_app = || {
        let mut command = command(&other, free_port());
        command.args(["--app-listen", &taken, "--app"]).arg(&app);
        command
    };
    let text = refused(&mut serve_app(), 2);
    assert!(text.contains(&format!("--app {}: this folder has no index.html", app.display())), "{text}");
    std::fs::create_dir(&app).unwrap();
    std::fs::write(app.join("index.html"), "").unwrap();
    let text = refused(&mut serve_app(), 5);
    assert!(text.contains("--app-listen"), "{text}");

    // Somebody else serves at that address: Postgres is stopped again.
    let text = refused(&mut command(&other, port), 5);
    assert!(!is_served(postgres_port(&other)), "{text}");
    signal(&mut child, "TERM");

    let settings = data.join("postgres/postgresql.conf");
    let before = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, format!("{before}\nshared_bufers = '1MB'\n")).unwrap();
    let text = refused(&mut command(&data, port), 3);
    assert!(text.contains("Postgres does not start") && text.contains("shared_bufers"), "{text}");
    std::fs::write(&settings, before).unwrap();

    let version = data.join("postgres/PG_VERSION");
    let before = std::fs::read_to_string(&version).unwrap();
    std::fs::write(&version, "13\n").unwrap();
    let text = refused(&mut command(&data, port), 2);
    assert!(text.contains("the data are those of PostgreSQL 13"), "{text}");
    std::fs::write(&version, before).unwrap();

    // A database of somebody else is used as it is.
    let (mut child, _) = start(&mut command(&data, port), &log);
    let env = std::fs::read_to_string(data.join("env")).unwrap();
    let database = env.split('\'').nth(1).unwrap();
    let (next, project) = (free_port(), folder.path().join("project"));
    let (mut second, output) = start(command(&project, next).env("DATABASE_URL", database), &log);
    let name = format!("the database livestore at 127.0.0.1:{}", postgres_port(&data));
    let first = format!("DATABASE_URL is set: serving {name}, and not a cluster in {}.\n", project.display());
    assert!(output.starts_with(&first) && output.contains(&format!("127.0.0.1:{next}")), "{output}");
    assert!(output.ends_with(&format!("the data stays in {name}.\n")) && !output.contains(database), "{output}");
    assert_eq!(psql(&project, "select current_database()"), "livestore");
    for child in [&mut second, &mut child] {
        assert!(signal(child, "TERM").success());
    }

    // One that is never reached does not take the place of the folder's own database in the file for scripts.
    let mut unreachable = command(&data, port);
    unreachable.args(["--database-url", "postgres://ann:secret@127.0.0.1:1/app", "--database-wait", "100ms"]);
    let text = refused(&mut unreachable, 3);
    assert!(text.starts_with("--database-url is given: serving the database app at 127.0.0.1:1, and not"), "{text}");
    assert!(!text.contains("secret"), "{text}");
    assert_eq!(std::fs::read_to_string(data.join("env")).unwrap(), env);
    let text = refused(command(&data, port).args(["--database-url", ""]), 2);
    assert!(text.contains("--database-url: it names no host"), "{text}");
}
