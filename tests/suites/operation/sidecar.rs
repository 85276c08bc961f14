//! The process: its start, the settings that it refuses, and its output.

use std::io::Read;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use livestore_tests::breaker::Breaker;
use livestore_tests::cluster::Database;
use livestore_tests::dialects::Caller;
use livestore_tests::events::chain;
use livestore_tests::flavour::Flavour;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::{PATIENCE, eventually, free_port};
use serde_json::Value;

/// Runs it until it ends by itself; exit status and log.
fn end_of(mut command: Command) -> (ExitStatus, String) {
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if start.elapsed() > PATIENCE {
            child.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    (status, log)
}

/// Asserts that it ends with this code and says what to do, once.
fn refuses(start: &Start, code: i32, advice: &str) {
    let (status, log) = end_of(start.command());
    assert_eq!(status.code(), Some(code), "{log}");
    assert!(log.contains(advice) && log.lines().all(|line| line.matches(advice).count() <= 1), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_loopback_it_serves_without_authentication_only_if_told_to() {
    let database = Database::new().await;
    let beyond = |more: &[&str]| {
        let mut command = Command::new(Start::new("").command().get_program());
        command.args(["--listen", "0.0.0.0:0"]).args(more).env("DATABASE_URL", database.url("sidecar"));
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    };
    let (status, log) = end_of(beyond(&[]));
    assert_eq!(status.code(), Some(2));
    assert!(log.contains("--insecure-no-auth"), "{log}");

    let mut child = beyond(&["--insecure-no-auth"]).spawn().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(child.try_wait().unwrap().is_none(), "it serves");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_on_the_same_machine_is_reached_by_its_unix_socket() {
    let database = Database::new().await;
    let sidecar = Start::new(database.socket_url("sidecar")).ready().await;
    let answer = Caller::new(&sidecar, "s").write("s2", chain(0, 1)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let by_tcp = "select count(*) from pg_stat_activity
                  where application_name = 'livestore-sidecar' and datname = current_database() and client_addr is not null";
    let count: i64 = database.admin().await.query_one(by_tcp, &[]).await.unwrap().get(0);
    assert_eq!(count, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_does_not_come_up_ends_it_with_3() {
    let url = format!("postgres://sidecar@127.0.0.1:{}/nowhere", free_port());
    refuses(&Start::new(url).arguments(&["--database-wait", "1s"]), 3, "start Postgres");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_set_up_wrong_ends_it_with_4_at_once() {
    let database = Database::new().await;
    refuses(&Start::new(database.url("stranger")), 4, "grant livestore_writer");
    refuses(&Start::new(database.url("nobody")), 4, "the database refuses the connection");
    refuses(&Start::new(database.url("nobody")), 4, "check the user, the password and the database of its URL");
    refuses(
        &Start::new(database.url("sidecar").replace(database.name(), "postgres")),
        4,
        "create extension livestore_sync",
    );
    refuses(
        &Start::new(database.url("sidecar").replace(database.name(), "missing")),
        4,
        "the database refuses the connection",
    );

    let version = "create or replace function livestore.version() returns text language sql immutable
        set search_path = pg_catalog, pg_temp as $$ select '9.9.9' $$";
    database.admin().await.batch_execute(version).await.unwrap();
    refuses(&Start::new(database.url("sidecar")), 4, "version 9.9.9");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_ends_it_with_5() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    refuses(&Start::new(database.url("sidecar")).port(sidecar.port()), 5, "another --listen");
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_make_no_sense_end_it_with_2() {
    let start = |arguments: &[&str]| Start::new("postgres://localhost").arguments(arguments);
    refuses(&start(&["--push-timeout", "soon"]), 2, "--push-timeout");
    for listen in ["localhost:8787", ":8787", "8787"] {
        let mut command = Start::program();
        command.args(["--database-url", "postgres://localhost", "--listen", listen]).stderr(Stdio::piped());
        let (status, told) = end_of(command);
        assert!(
            status.code() == Some(2) && told.contains("such as 127.0.0.1:8787 or 0.0.0.0:8787"),
            "{listen}: {told}"
        );
    }
    for (option, url, advice) in [
        ("--electric-url", "foo", "begin it with http:// or https://"),
        ("--electric-url", "localhost:3000", "begin it with http:// or https://"),
    ] {
        refuses(&start(&[option, url]), 2, advice);
    }
    for url in ["http://id.example.com/keys", "id.example.com/keys"] {
        let jwks = ["--auth", "jwt", "--jwks-url", url];
        refuses(&start(&jwks), 2, "--jwks-url");
        refuses(&start(&jwks), 2, "begin");
    }
    refuses(&Start::new("postgres:///app"), 2, "--database-url: it names no host");
    refuses(&Start::new("mysql://u:p@h/d"), 2, "--database-url: it is no URL of a Postgres database");
    // With these it would start, and serve nobody.
    for (option, value, why) in [
        ("--max-connections", "0", "it must be at least 1: with less, no client is served"),
        ("--max-connections-per-subject", "0", "at least 1"),
        ("--head-timeout", "0s", "it must be at least 1s: with less, no client is served"),
        ("--push-timeout", "0s", "at least 100ms"),
        ("--shutdown-deadline", "5000years", "longer than a year"),
        ("--max-frame-bytes", "0", "at least 1000"),
        ("--max-event-bytes", "1", "at least 256"),
        ("--max-batch-events", "0", "at least 1"),
        ("--pushes-per-second", "0", "at least 1"),
        ("--relay-bytes-per-second", "1", "at least 1000"),
        ("--relay-store", "", "--relay-store: storeId is empty"),
        ("--authorize-function", "", "--authorize-function is empty"),
    ] {
        refuses(&start(&[option, value]), 2, why);
        let variable = format!("LIVESTORE_{}", option.trim_start_matches("--").replace('-', "_").to_uppercase());
        refuses(&start(&[]).environment(&variable, value), 2, why);
    }
    refuses(&start(&["--database-connections", "0"]), 2, "--database-connections");
    refuses(&start(&["--log", "loud=very=much"]), 2, "--log");
    refuses(&Start::new("not a url"), 2, "--database-url");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_a_database_that_is_only_starting() {
    let database = Database::new().await;
    let breaker = Breaker::to(database.cluster().port()).await;
    breaker.cut();
    let sidecar = Start::new(database.url_at("sidecar", breaker.port())).serve();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(sidecar.get("/healthz").await.0, 200);
    assert_eq!(sidecar.get("/readyz").await.0, 503);
    breaker.mend();
    eventually("it is ready", || async { sidecar.get("/readyz").await.0 == 200 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readyz_says_what_is_missing() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    database.admin().await.batch_execute(Flavour::of_tests().uninstall()).await.unwrap();
    // An answer is shared for a second by all who ask.
    eventually("it says what is missing", async || {
        let (status, reason) = sidecar.get("/readyz").await;
        status == 503 && reason.contains("create extension livestore_sync")
    })
    .await;
    assert_eq!(sidecar.get("/healthz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_health_check_asks_whether_it_lives() {
    let health = |listen: &str| {
        let mut command = Start::program();
        // All of a container's settings are there when its health check runs.
        command.args(["health"]).env("LIVESTORE_LISTEN", listen).env("DATABASE_URL", "postgres://localhost");
        command.stderr(Stdio::null()).status().unwrap().code()
    };
    let sidecar = Start::new(format!("postgres://sidecar@127.0.0.1:{}/nowhere", free_port())).serve();
    assert_eq!(health(&format!("127.0.0.1:{}", sidecar.port())), Some(0));
    assert_eq!(health(&format!("0.0.0.0:{}", sidecar.port())), Some(0));
    assert_eq!(health(&format!("127.0.0.1:{}", free_port())), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_json_when_asked_for_and_hold_no_password() {
    let database = Database::new().await;
    let url = database.url("sidecar").replace("sidecar@", "sidecar:hunter2@");
    let sidecar = Start::new(url).arguments(&["--log", "trace"]).ready().await;
    let log = sidecar.log();
    for line in log.lines() {
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        assert!(entry["level"].is_string() && entry["timestamp"].is_string());
    }
    assert!(!log.contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn help_names_every_setting_with_its_environment_variable() {
    let mut command = Start::new("").command();
    let help = command.arg("--help").stdout(Stdio::piped()).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for name in
        ["LIVESTORE_LISTEN", "DATABASE_URL", "LIVESTORE_AUTH", "LIVESTORE_SHUTDOWN_DEADLINE", "LIVESTORE_LOG_FORMAT"]
    {
        assert!(help.contains(name), "{help}");
    }
}
