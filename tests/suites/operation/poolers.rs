//! Poolers between a sidecar and Postgres: session mode is as good as a direct connection, transaction mode is refused.

use std::process::Command;
use std::time::Duration;

use livestore_tests::breaker::Breaker;
use livestore_tests::client::Node;
use livestore_tests::cluster::Database;
use livestore_tests::dialects::Caller;
use livestore_tests::events::chain;
use livestore_tests::eventually;
use livestore_tests::pooler::Pooler;
use livestore_tests::rpc::Rpc;
use livestore_tests::sidecar::{Sidecar, Start};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::abandoned_statements::leave_while_reading;
use crate::postgres_tls::Authority;

const REFUSED: &str = "--database-url leads to a pooler in transaction mode";

/// The exit code of a sidecar with this URL, and its log.
async fn end(url: String, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Start::new(url).arguments(arguments).command();
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The exit code of `check` for this URL, and its report.
async fn check(url: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Start::program();
    command.arg("check").args(arguments).env("DATABASE_URL", url).env("LIVESTORE_LISTEN", "127.0.0.1:0");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// Reads the log of a store, writes to it over a dialect and from SQL, and sees each of them arrive live.
async fn delivers(sidecar: &Sidecar, database: &Database, store: &str) {
    let mut live = Rpc::open(&sidecar.url(), store).await;
    live.pull("1".into(), store, true).await;
    for round in 0..2 {
        let answer = Caller::new(sidecar, store).write("electric", chain(2 * round, 1)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let commit = "select livestore.commit($1, 'from-sql')";
        database.admin().await.query_one(commit, &[&store]).await.unwrap();
        let last = 2 * round + 2;
        let mut seen = String::new();
        while !seen.contains(&format!("\"seqNum\":{last}")) {
            seen = live.frame().await.to_string();
            live.send(json!({"_tag": "Ack", "requestId": "1"})).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_session_mode_is_as_good_as_postgres() {
    let database = Database::alone().await;
    let mut pooler = Pooler::start(&database, "pool_mode = session").await;
    let url = database.url_at("sidecar", pooler.port());
    let sidecar = Start::new(&url).ready().await;
    delivers(&sidecar, &database, "before").await;
    let (code, report) = check(&url, &["--max-connections", "100"]).await;
    assert!(code == Some(0) && report.contains("notifications arrive"), "{report}");
    let client = Node::sync_backend().open("cf-ws", &sidecar.url(), "kept").await;
    client.push(chain(0, 3)).await.unwrap();

    pooler.restart(&database, "pool_mode = session").await;
    client.push(chain(3, 1)).await.unwrap();
    delivers(&sidecar, &database, "after").await;
    eventually("it is ready", || async { sidecar.get("/readyz").await.0 == 200 }).await;

    // A pooler that is put into another mode is noticed when connections are made again.
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    pooler.restart(&database, "pool_mode = transaction").await;
    eventually("it says why it is not ready", || async {
        let (status, text) = sidecar.get("/readyz").await;
        status == 503 && text.contains(REFUSED)
    })
    .await;
    pooler.restart(&database, "pool_mode = session").await;
    eventually("it is ready again", || async { sidecar.get("/readyz").await.0 == 200 }).await;
    delivers(&sidecar, &database, "again").await;
    database.stop();
}

/// PgBouncer 1.18 ended when the client closed the connection of a cancel request before PgBouncer did.
#[tokio::test(flavor = "multi_thread")]
async fn cancelled_statements_do_not_end_a_pooler() {
    let authority = Authority::new();
    authority.sign("IP:127.0.0.1");
    let tls = |name: &str| authority.file(name).display().to_string();
    let with_tls = format!(
        "client_tls_sslmode = require\nclient_tls_key_file = {}\nclient_tls_cert_file = {}",
        tls("server.key"),
        tls("server.crt")
    );
    let readable = Command::new("chmod").arg("-R").arg("a+rX").arg(authority.file("")).status().unwrap();
    assert!(readable.success());
    let certificate = authority.certificate().display().to_string();
    for (settings, mode) in [("", "disable"), (&*with_tls, "verify-full")] {
        let database = Database::new().await;
        let mut pooler = Pooler::start(&database, &format!("pool_mode = session\n{settings}")).await;
        let url = format!("{}?sslmode={mode}", database.url_at("sidecar", pooler.port()));
        let start = Start::new(url).arguments(&["--database-root-certificate", &certificate]);
        leave_while_reading(&database, start).await;
        let log = std::fs::read_to_string(pooler.log()).unwrap();
        assert!(pooler.runs(), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_transaction_mode_is_refused_before_anything_is_set() {
    let database = Database::alone().await;
    for settings in [
        "pool_mode = transaction",
        "pool_mode = transaction\ndefault_pool_size = 1",
        "pool_mode = transaction\nserver_round_robin = 1\nmin_pool_size = 2",
        "pool_mode = transaction\nserver_round_robin = 1\nmin_pool_size = 5",
        "pool_mode = statement",
    ] {
        let pooler = Pooler::start(&database, settings).await;
        let url = database.url_at("sidecar", pooler.port());
        let (code, log) = end(url.clone(), &[]).await;
        assert!(code == Some(4) && log.contains(REFUSED) && log.contains("session mode"), "{settings}: {log}");
        let (code, report) = check(&url, &[]).await;
        assert!(code == Some(1) && report.contains(&format!("WRONG   {REFUSED}")), "{settings}: {report}");
        // Nothing of ours is left in the processes that other clients share.
        // `select 1` is PgBouncer's own, of a connection that was idle for long.
        let left = "select string_agg(query, '; ') from pg_stat_activity
            where usename = 'sidecar' and query !~ '^(select 1|select pg_catalog.(pg_backend_pid|current_setting).*|)$'";
        let left: Option<String> = database.admin().await.query_one(left, &[]).await.unwrap().get(0);
        assert_eq!(left, None, "{settings}");
    }
    database.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_mode_is_seen_among_busy_clients() {
    let database = Database::alone().await;
    let pooler = Pooler::start(&database, "pool_mode = transaction\ndefault_pool_size = 4").await;
    let url = database.url_at("sidecar", pooler.port());
    let busy: Vec<_> = (0..6)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move {
                let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
                tokio::spawn(connection);
                loop {
                    client.simple_query("select pg_sleep(random() * 0.002)").await.unwrap();
                }
            })
        })
        .collect();
    for _ in 0..10 {
        let (code, log) = end(url.clone(), &[]).await;
        assert!(code == Some(4) && log.contains(REFUSED), "{log}");
    }
    busy.iter().for_each(tokio::task::JoinHandle::abort);
    database.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_that_a_pooler_refuses_is_named() {
    let database = Database::alone().await;
    let pooler = Pooler::start(&database, "pool_mode = session").await;
    let url = format!("{}?options=-c%20work_mem%3D4MB", database.url_at("sidecar", pooler.port()));
    let (code, log) = end(url, &[]).await;
    assert!(code == Some(4) && log.contains("ignore_startup_parameters"), "{log}");
    database.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_of_its_own_is_listened_at() {
    let database = Database::alone().await;
    let pooler = Pooler::start(&database, "pool_mode = session").await;
    let direct = Breaker::to(database.cluster().port()).await;
    let (url, listen_url) = (database.url_at("sidecar", pooler.port()), database.url_at("sidecar", direct.port()));
    let sidecar = Start::new(&url).arguments(&["--listen-url", &listen_url]).ready().await;
    delivers(&sidecar, &database, "before").await;
    direct.cut();
    eventually("it does not listen", || async {
        sidecar.get("/readyz").await.1.contains("follows the commits of others")
    })
    .await;
    direct.mend();
    eventually("it listens", || async { sidecar.get("/readyz").await.0 == 200 }).await;
    delivers(&sidecar, &database, "after").await;
    let (code, report) = check(&url, &["--listen-url", &listen_url]).await;
    assert!(code == Some(0) && report.contains("notifications arrive"), "{report}");

    // Neither another database nor a pooler in transaction mode will do.
    let elsewhere = format!("postgres://sidecar@127.0.0.1:{}/livestore_template", database.cluster().port());
    let (code, log) = end(url.clone(), &["--listen-url", &elsewhere]).await;
    assert!(code == Some(4) && log.contains("does not arrive at --listen-url"), "{log}");
    let pooler = Pooler::start(&database, "pool_mode = transaction").await;
    let (code, log) = end(url, &["--listen-url", &database.url_at("sidecar", pooler.port())]).await;
    assert!(code == Some(4) && log.contains("--listen-url leads to a pooler in transaction mode"), "{log}");
    database.stop();
}

/// The port of a server that is Postgres until it is to LISTEN, and then answers nothing.
async fn without_listen(database: &Database) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, target) = (listener.local_addr().unwrap().port(), database.cluster().port());
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let far = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
                let ((mut questions, mut near), (mut answers, mut far)) = (near.into_split(), far.into_split());
                tokio::spawn(async move { tokio::io::copy(&mut answers, &mut near).await });
                let mut bytes = [0; 4096];
                while let Ok(length @ 1..) = questions.read(&mut bytes).await {
                    if bytes[..length].windows(7).any(|word| word == b"listen ") {
                        std::future::pending::<()>().await;
                    }
                    far.write_all(&bytes[..length]).await.unwrap();
                }
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listen_url_that_does_not_answer_does_not_stop_readyz() {
    let database = Database::new().await;
    let listen_url = database.url_at("sidecar", without_listen(&database).await);
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--listen-url", &listen_url]).serve();
    for _ in 0..2 {
        let answer = timeout(Duration::from_secs(20), sidecar.get("/readyz")).await.expect("an answer");
        assert_eq!(answer.0, 503, "{answer:?}");
    }
}
