//! Log lines as text: they contain text from clients, which cannot be taken for anything else.

use std::io::Read;
use std::process::{Child, Stdio};
use std::time::Duration;

use livestore_tests::cluster::Database;
use livestore_tests::dialects::Caller;
use livestore_tests::events::chain;
use livestore_tests::rpc::Rpc;
use livestore_tests::sidecar::{Sidecar, Start, http_get};
use livestore_tests::{eventually, free_port, http_rpc};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_forge_a_line_nor_control_a_terminal() {
    let (database, port) = (Database::new().await, free_port());
    let sidecar = Start::program()
        .args(["--listen", &format!("127.0.0.1:{port}"), "--log", "info,livestore_sidecar=debug"])
        .env("DATABASE_URL", database.url("sidecar"))
        .env("LIVESTORE_SHUTDOWN_DELAY", "0s")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut sidecar = Killed(sidecar);
    eventually("it is ready", || async { tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() }).await;
    eventually("it is ready", || async { http_get(port, "/readyz").await.0 == 200 }).await;
    let forged = "\n2026-01-01T00:00:00Z ERROR livestore_sidecar: forged \u{1b}[31m\r\u{9b}31m\u{202e}";
    let mut rpc = Rpc::connect(&format!("ws://127.0.0.1:{port}/?storeId=s%0As&transport=ws")).await;
    // Names of spans, of events, of clients; a trace; a message that is none.
    let batch =
        json!([{"name": forged, "args": {}, "seqNum": 1, "parentSeqNum": 1, "clientId": forged, "sessionId": forged}]);
    rpc.push(json!("2"), "s\ns", batch).await;
    rpc.frame().await;
    rpc.request(json!("1"), forged, json!({})).await;
    rpc.frame().await;
    let payload = json!({"storeId": "s\ns", "live": false, "cursor": {"_tag": "None"}});
    rpc.send(json!({"_tag": "Request", "id": "7", "tag": "SyncWsRpc.Pull", "payload": payload, "headers": [], "traceId": forged, "spanId": forged}))
        .await;
    rpc.exit(&json!("7")).await;
    let tagged = json!({"_tag": "Request", "id": "1", "tag": forged, "payload": {}, "headers": []}).to_string();
    let url = format!("http://127.0.0.1:{port}/?storeId=s%0As&transport=http");
    reqwest::Client::new().post(url).body(tagged).send().await.unwrap().text().await.unwrap();
    let url = format!("http://127.0.0.1:{port}/v1/shape?table=%22eventlog_6_a%0A%1B%22&offset=0_1&handle=%0Aforged");
    let _ = reqwest::get(url).await;
    std::process::Command::new("kill").args(["-TERM", &sidecar.0.id().to_string()]).status().unwrap();
    sidecar.0.wait().unwrap();
    let mut log = String::new();
    sidecar.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("forged") && log.contains("a client is refused"), "{log}");
    for line in log.lines() {
        let is_ours = line.len() > 27 && line.as_bytes()[10] == b'T' && line.starts_with("20");
        assert!(is_ours && !line.starts_with("2026-01-01T00:00:00Z"), "{line:?}\n{log}");
        assert!(!line.contains(|c: char| c.is_control() || c == '\u{202e}'), "{line:?}");
    }
}

/// A process that does not outlive a test.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

/// The position that a client claims to have is not a fact, and need not be logged again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_of_a_client_is_a_warning_once_a_minute() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    database.admin().await.execute("select livestore.push('s', $1)", &[&chain(0, 1)]).await.unwrap();
    let id = Caller::new(&sidecar, "s").read("cf-http").await.text;
    let id = id.split("\"backendId\":\"").nth(1).unwrap().split('"').next().unwrap().to_string();
    for cursor in 100..110 {
        let pull = http_rpc::post(&sidecar, "s", http_rpc::pull("s", Some((&id, cursor))));
        tokio::time::timeout(Duration::from_secs(20), http_rpc::send(pull)).await.unwrap();
    }
    let log = sidecar.log();
    assert!(!log.contains("\"ERROR\""), "{log}");
    let lines: Vec<_> = log.lines().filter(|line| line.contains("renew_backend_ids")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(lines[0].contains("claims") && lines[0].contains("\"WARN\""), "{}", lines[0]);
}
