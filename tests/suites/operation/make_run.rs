//! `make run`, as a new user would: a cluster, a sidecar, a client, `psql`, and an end that leaves the data.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use livestore_tests::client::Node;
use livestore_tests::events::{chain, numbers};
use livestore_tests::program::Program;
use livestore_tests::{free_port, root};

/// The time that building may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(1200);

fn make_run(data: &Path, port: u16) -> Program {
    let mut make = Command::new("make");
    make.arg("run")
        .current_dir(root())
        .env("LIVESTORE_DATA", data)
        .env("LIVESTORE_LISTEN", format!("127.0.0.1:{port}"))
        .env_remove("DATABASE_URL")
        .stdin(Stdio::null())
        .stdout(std::fs::OpenOptions::new().create(true).append(true).open(data.with_extension("log")).unwrap());
    Program::start(&mut make)
}

/// Waits for the lines that tell how to connect, and returns them.
fn wait_until_ready(child: &mut Child, data: &Path, runs: usize) -> String {
    let start = Instant::now();
    loop {
        let output = std::fs::read_to_string(data.with_extension("log")).unwrap();
        if output.matches("Ctrl-C").count() == runs {
            return output;
        }
        if let Some(status) = child.try_wait().unwrap() {
            panic!("make run ended, {status}:\n{output}");
        }
        assert!(start.elapsed() < PATIENCE, "make run is not ready:\n{output}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Sources the env file and asks the database.
fn psql(data: &Path, sql: &str) -> String {
    let script = format!(". {}/env && psql \"$DATABASE_URL\" -XAtc \"$0\"", data.display());
    let output = Command::new("sh").args(["-c", &script, sql]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().into()
}

fn terminate(mut child: Program, port: u16) {
    Command::new("kill").arg(child.id().to_string()).status().unwrap();
    child.wait().unwrap();
    let is_gone = std::net::TcpStream::connect(("127.0.0.1", port)).is_err();
    assert!(is_gone, "the sidecar is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn make_run_serves_stops_cleanly_and_keeps_the_data() {
    let folder = tempfile::tempdir().unwrap();
    // The postgres user must be able to enter it.
    Command::new("chmod").arg("755").arg(folder.path()).status().unwrap();
    let (data, port) = (folder.path().join("data"), free_port());

    let mut child = make_run(&data, port);
    let output = wait_until_ready(&mut child, &data, 1);
    let url = format!("ws://127.0.0.1:{port}");
    assert!(output.contains(&url) && output.contains("psql"), "{output}");
    // Another one on the same data is refused, and harms nobody.
    let second = Command::new("make").arg("run").current_dir(root()).env("LIVESTORE_DATA", &data).output().unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("another `make run`"), "{second:?}");
    let client = Node::sync_backend().open("cf-ws", &url, "todos").await;
    client.push(chain(0, 3)).await.unwrap();
    assert_eq!(psql(&data, "select count(*) from livestore.events where store_id = 'todos'"), "3");
    let env = std::fs::read_to_string(data.join("env")).unwrap();
    assert!(env.contains(&format!("export LIVESTORE_URL=http://127.0.0.1:{port}")), "{env}");
    let postgres = psql(&data, "select inet_server_port()").parse().unwrap();
    terminate(child, port);
    assert!(std::net::TcpStream::connect(("127.0.0.1", postgres)).is_err(), "Postgres is still there");

    let mut child = make_run(&data, port);
    wait_until_ready(&mut child, &data, 2);
    let client = Node::sync_backend().open("cf-ws", &url, "todos").await;
    assert_eq!(numbers(&client.pull(None).await.unwrap()), [1, 2, 3]);
    terminate(child, port);
}
