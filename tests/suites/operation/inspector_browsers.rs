//! The inspector in real browsers: `tests/web/inspector.mjs`, `tests/web/inspector-session.mjs`.

use std::time::Duration;

use livestore_tests::cluster::Database;
use livestore_tests::events::event;
use livestore_tests::root;
use livestore_tests::rpc::Rpc;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::tokens::{SECRET, WITH_SECRET};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;

const EVIL: &str = "<script>alert(1)</script><img src=x onerror=alert(2)>";

/// Clients that follow the store `todos`, and one that pushes to it.
async fn traffic(sidecar: &Sidecar) -> JoinSet<()> {
    let url = format!("{}/?storeId=todos&transport=ws", sidecar.url());
    let mut clients = JoinSet::new();
    for _ in 0..3 {
        let mut client = Rpc::connect_with(&url, &[("user-agent", "a client of the tests")]).await.unwrap();
        client.pull(json!("1"), "todos", true).await;
        clients.spawn(async move {
            loop {
                if client.frame().await["_tag"] == "Chunk" {
                    client.send(json!({"_tag": "Ack", "requestId": "1"})).await;
                }
            }
        });
    }
    let mut client = Rpc::connect_with(&url, &[]).await.unwrap();
    // A connection without a pull is closed after a while.
    client.pull(json!("0"), "todos", true).await;
    clients.spawn(async move {
        // There is one event already.
        for n in 1.. {
            let todo = json!({"id": n.to_string(), "text": "buy milk"});
            let id = json!(n.to_string());
            client.push(id.clone(), "todos", json!([event(n, "todoCreated", todo)])).await;
            client.exit(&id).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    clients
}

async fn look(browser: &str) {
    let database = Database::new().await;
    let admin = database.admin().await;
    let evil = json!([{"name": EVIL, "args": {"text": EVIL}, "seqNum": 1, "parentSeqNum": 0, "clientId": EVIL, "sessionId": EVIL}]);
    admin.execute("select livestore.push('evil', $1::text::json)", &[&evil.to_string()]).await.unwrap();
    admin
        .batch_execute(
            "select livestore.commit('todos', 'todoCreated', '{\"id\": \"0\", \"text\": \"bake bread\"}'), livestore.commit('quiet', 'e');
             create table public.big as
                 select g as \"seqNum\", g - 1 as \"parentSeqNum\", 'e'::text as name, '{}'::text as args, 'c'::text as \"clientId\",
                     's'::text as \"sessionId\"
                 from generate_series(1, 100000) g;
             select livestore.import_table('public.big', 'big')",
        )
        .await
        .unwrap();
    let sidecar = Sidecar::on(&database).await;
    let _traffic = traffic(&sidecar).await;
    let mut node = Command::new("node");
    node.arg(root().join("tests/web/inspector.mjs")).args([browser, &sidecar.http_url()]).kill_on_drop(true);
    if let Ok(folder) = std::env::var("LIVESTORE_SCREENSHOTS") {
        node.arg(folder);
    }
    let output = timeout(Duration::from_secs(300), node.output()).await.expect("it ends").unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{browser}: {said}{}", String::from_utf8_lossy(&output.stderr));
    let measured: Value = serde_json::from_str(&said).unwrap();
    println!("{browser}: {measured}");
    // Far more than it takes: it shows that the page is told, and does not ask now and then.
    assert!(measured["live"].as_i64() < Some(2500), "{browser}: {measured}");
}

#[tokio::test(flavor = "multi_thread")]
async fn chromium_shows_what_happens_and_runs_nothing_that_clients_send() {
    look("chrome").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn firefox_shows_what_happens_and_runs_nothing_that_clients_send() {
    look("firefox").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_live_says_when_it_is_not() {
    let database = Database::new().await;
    database.admin().await.batch_execute("select livestore.commit('todos', 'e')").await.unwrap();
    let sidecar = Start::new(database.url("sidecar")).arguments(&WITH_SECRET).ready().await;
    let mut node = Command::new("node");
    node.arg(root().join("tests/web/inspector-session.mjs")).args([&sidecar.http_url(), SECRET]).kill_on_drop(true);
    let output = timeout(Duration::from_secs(120), node.output()).await.expect("it ends").unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
}
