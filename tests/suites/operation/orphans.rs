//! A runner of tests or benchmarks that is killed leaves nothing behind.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use livestore_tests::client::Node;
use livestore_tests::cluster::Database;
use livestore_tests::pooler::Pooler;
use livestore_tests::sidecar::Start;
use livestore_tests::{eventually, watchdog};

/// Is in the environment of the runner and so in that of all its processes.
const MARK: &str = "LIVESTORE_TEST_RUNNER";

const STARTED: &str = "everything runs";

#[tokio::test(flavor = "multi_thread")]
async fn processes_and_folders_of_a_killed_runner_go_with_it() {
    if std::env::var_os(MARK).is_some() {
        return run_until_killed().await;
    }
    let folder = tempfile::tempdir().unwrap();
    // Postgres' user has a folder in it.
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let mark = format!("{MARK}={}", folder.path().display());

    let mut runner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "orphans::processes_and_folders_of_a_killed_runner_go_with_it", "--nocapture"])
        .env(MARK, folder.path())
        .env("TMPDIR", folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(runner.stdout.take().unwrap());
    assert!(output.lines().any(|line| line.unwrap().ends_with(STARTED)), "the runner ended before it was killed");
    for program in ["livestore-sidec", "postgres", "pgbouncer", "node", "sleep"] {
        let runs = || async { marked(&mark).iter().any(|name| name.starts_with(program)) };
        eventually(&format!("{program} runs"), runs).await;
    }

    runner.kill().unwrap();
    runner.wait().unwrap();
    eventually("all its processes have ended", || async { marked(&mark).is_empty() }).await;
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// Starts one of everything that tests start, says so, and waits.
async fn run_until_killed() {
    let database = Database::new().await;
    let pooler = Pooler::start(&database, "pool_mode = session").await;
    let sidecar = Start::new(database.url_at("sidecar", pooler.port())).ready().await;
    let _client = Node::sync_backend().open("cf-ws", &sidecar.url(), "store").await;
    let script = ["-c", "sleep 600 & wait"];
    let group = tokio::process::Command::new("sh").args(script).process_group(0).spawn().unwrap();
    watchdog::watch_group(group.id().unwrap());
    println!("{STARTED}");
    std::future::pending().await
}

/// The names of the processes that have this in their environment.
fn marked(mark: &str) -> Vec<String> {
    let is_marked = |process: &Path| {
        let environment = std::fs::read(process.join("environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
    };
    let processes = std::fs::read_dir("/proc").unwrap().map(|process| process.unwrap().path());
    processes
        .filter(|process| is_marked(process))
        .filter_map(|process| Some(std::fs::read_to_string(process.join("comm")).ok()?.trim().to_owned()))
        .collect()
}
