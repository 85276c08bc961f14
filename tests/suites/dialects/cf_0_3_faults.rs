//! sync-cf 0.3 when something goes wrong. Its client pulls once in its life, does not look for gaps and repeats nothing, so a
//! mistake of the server here stays.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use livestore_tests::breaker::Breaker;
use livestore_tests::cluster::Database;
use livestore_tests::device::Device;
use livestore_tests::events::{chain, event, numbers, up_to};
use livestore_tests::eventually;
use livestore_tests::rpc::{Received, Rpc};
use livestore_tests::sidecar::{Sidecar, Start};
use serde_json::{Value, json};

async fn connect(sidecar: &Sidecar) -> Rpc {
    Rpc::connect(&format!("{}/websocket?storeId=s", sidecar.url())).await
}

fn ping() -> Value {
    json!({"_tag": "WSMessage.Ping", "requestId": "ping"})
}

fn pull_req(cursor: i64) -> Value {
    json!({"_tag": "WSMessage.PullReq", "requestId": "pull", "cursor": cursor})
}

fn push_req(id: &str, batch: Value) -> Value {
    json!({"_tag": "WSMessage.PushReq", "requestId": id, "batch": batch})
}

/// The numbers of the events of a PullRes.
fn events_of(message: &Value) -> Vec<i64> {
    let batch = message["batch"].as_array().unwrap_or_else(|| panic!("no PullRes: {message}"));
    numbers(&batch.iter().map(|event| event["eventEncoded"].clone()).collect::<Vec<_>>())
}

async fn append(database: &Database, head: i64, count: i64) {
    database.admin().await.execute("select livestore.push('s', $1)", &[&chain(head, count)]).await.unwrap();
}

/// A sidecar that hears nothing of what others commit, since its listening connection is stuck, does not know it yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_has_everything_whether_its_sidecar_has_heard_of_it_or_not() {
    let database = Database::alone().await;
    let sidecar = Sidecar::on(&database).await;
    let mut first = connect(&sidecar).await;
    first.send(pull_req(0)).await;
    assert!(events_of(&first.frame().await).is_empty());

    let stopped = database.stopped("query like 'select livestore.heads_key()%'").await;
    append(&database, 0, 3).await;
    let mut second = connect(&sidecar).await;
    second.send(pull_req(0)).await;
    let answer = second.frame().await;
    drop(stopped);
    assert_eq!(events_of(&answer), [1, 2, 3]);
    assert_eq!(answer["remaining"], 0);
    assert_eq!(events_of(&first.frame().await), [1, 2, 3]);
}

/// Events that others push between the upgrade and the first ping of such a client are not sent, either.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_pings_without_a_pull_is_sent_nothing_from_the_first_moment_on() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    append(&database, 0, 3).await;
    let mut rpc = connect(&sidecar).await;
    append(&database, 3, 2).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    rpc.send(ping()).await;
    assert_eq!(rpc.frame().await["_tag"], "WSMessage.Pong");
    append(&database, 5, 1).await;
    assert!(rpc.is_quiet_for(Duration::from_secs(7)).await);
    rpc.send(push_req("p", chain(1, 1))).await;
    let mut seen = Vec::new();
    while seen.len() < 5 {
        let frame = rpc.frame().await;
        if frame["_tag"] == "WSMessage.PullRes" {
            seen.extend(events_of(&frame));
        }
    }
    assert_eq!(seen, [2, 3, 4, 5, 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_hears_of_everything_since_it_is_there() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    append(&database, 0, 3).await;
    let mut rpc = connect(&sidecar).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    append(&database, 3, 2).await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(events_of(&rpc.frame().await));
    }
    assert_eq!(seen, [4, 5]);
    append(&database, 5, 1).await;
    assert_eq!(events_of(&rpc.frame().await), [6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_push_is_acknowledged_though_there_is_nothing_to_send() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    append(&database, 0, 3).await;
    let mut rpc = connect(&sidecar).await;
    rpc.send(pull_req(3)).await;
    assert_eq!(events_of(&rpc.frame().await), [0; 0]);
    rpc.send(push_req("again", chain(2, 1))).await;
    assert_eq!(rpc.frame().await, json!({"_tag": "WSMessage.PushAck", "requestId": "again"}));
}

/// Without its events, the client would take the next event of somebody else for its own and push its own again.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_a_shutdown_waits_for_is_in_the_log_once() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let port = sidecar.port();
    let device = Device::open_0_3("old", port).await;
    device.create("1").await;
    device.settles(&["1"]).await;
    let holder = database.admin().await;
    holder.batch_execute("begin; select from livestore.stores for update").await.unwrap();
    device.create("2").await;
    // One that is still on its way would be lost with the connection, and the client does not repeat it.
    eventually("the push waits", || async { sidecar.metric("livestore_held_stores").await == 1.0 }).await;
    let ended = tokio::spawn(sidecar.terminate());
    tokio::time::sleep(Duration::from_millis(300)).await;
    holder.batch_execute("rollback").await.unwrap();
    assert!(ended.await.unwrap().success());
    let _sidecar = Start::new(database.url("sidecar")).port(port).ready().await;
    device.create("3").await;
    device.settles(&["1", "2", "3"]).await;
    let ids = "select string_agg(args->>'id', ' ' order by seq_num) from livestore.events";
    let ids: String = database.admin().await.query_one(ids, &[]).await.unwrap().get(0);
    assert_eq!(ids, "1 2 3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_acknowledges_what_was_pushed_while_history_streams() {
    let database = Database::new().await;
    let admin = database.admin().await;
    for head in 0..40 {
        let batch = json!([event(head, "blob", json!("x".repeat(800_000)))]);
        admin.execute("select livestore.push('s', $1)", &[&batch]).await.unwrap();
    }
    let sidecar = Sidecar::on(&database).await;
    let mut rpc = connect(&sidecar).await;
    rpc.send(pull_req(0)).await;
    rpc.send(push_req("p", chain(40, 1))).await;
    let head = || async { admin.query_one("select livestore.head('s')", &[]).await.unwrap().get::<_, i64>(0) };
    eventually("it is in the log", || async { head().await == 41 }).await;
    let ended = tokio::spawn(sidecar.terminate());
    let (mut seen, mut is_acknowledged) = (Vec::new(), false);
    let end = loop {
        match rpc.receive().await {
            Received::Frame(frame) if frame["_tag"] == "WSMessage.PushAck" => is_acknowledged = true,
            Received::Frame(frame) => seen.extend(events_of(&frame)),
            end => break end,
        }
    };
    assert_eq!((end, seen, is_acknowledged), (Received::Close(1012), up_to(41), true));
    assert!(ended.await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_that_wait_for_the_database_cost_bounded_memory_and_do_not_hold_up_a_shutdown() {
    let database = Database::new().await;
    let breaker = Breaker::to(database.cluster().port()).await;
    let url = database.url_at("sidecar", breaker.port());
    let sidecar = Start::new(url).arguments(&["--push-timeout", "1s", "--max-event-bytes", "16777216"]).ready().await;
    breaker.cut();
    let before = sidecar.memory();
    let mut rpc = connect(&sidecar).await;
    let large = json!([event(0, "blob", json!("x".repeat(8 << 20)))]);
    let sent = Arc::new(AtomicUsize::new(0));
    let sending = Arc::clone(&sent);
    tokio::spawn(async move {
        for n in 0..40 {
            rpc.send(push_req(&n.to_string(), large.clone())).await;
            sending.store(n + 1, Ordering::Relaxed);
        }
    });
    let mut before_that = usize::MAX;
    while std::mem::replace(&mut before_that, sent.load(Ordering::Relaxed)) != sent.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_secs(6)).await;
    }
    assert!(before_that < 15, "nothing more is read once the queue is full: {before_that}");
    let grown = sidecar.memory().saturating_sub(before) >> 20;
    // Twice the queue: each event is there as the client sent it, and as others will get it.
    assert!(grown < 300, "{grown} MiB");
    let start = Instant::now();
    assert!(sidecar.terminate().await.success());
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_after_a_reset_does_not_join_two_logs() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    append(&database, 0, 3).await;
    let mut rpc = connect(&sidecar).await;
    rpc.send(pull_req(3)).await;
    rpc.frame().await;
    database.admin().await.execute("select livestore.reset_store('s')", &[]).await.unwrap();
    let over = rpc.frame().await;
    assert!(over["requestId"] == "pull" && over["message"].as_str().unwrap().contains("was reset"), "{over}");
    append(&database, 0, 3).await;
    rpc.send(push_req("p", json!([event(3, "of another life", json!({}))]))).await;
    let refused = rpc.frame().await;
    assert!(refused["requestId"] == "p" && refused["message"].as_str().unwrap().contains("was reset"), "{refused}");
    let head: i64 = database.admin().await.query_one("select livestore.head('s')", &[]).await.unwrap().get(0);
    assert_eq!(head, 3);
}

/// The client has reconnected, so its connection has not been sent anything that says which log it knows. It repeats nothing by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_waits_during_a_reset_is_answered() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    append(&database, 0, 3).await;
    let mut follower = connect(&sidecar).await;
    follower.send(pull_req(3)).await;
    follower.frame().await;
    let mut rpc = connect(&sidecar).await;
    rpc.send(ping()).await;
    assert_eq!(rpc.frame().await["_tag"], "WSMessage.Pong");
    let holder = database.admin_of("s").await;
    holder.batch_execute("begin; select livestore.reset_store('s')").await.unwrap();
    rpc.send(push_req("p", chain(3, 1))).await;
    eventually("the push waits", || async { sidecar.metric("livestore_held_stores").await == 1.0 }).await;
    holder.batch_execute("commit").await.unwrap();
    let refused = tokio::time::timeout(Duration::from_secs(5), rpc.frame()).await.expect("an answer");
    assert!(refused["requestId"] == "p" && refused["message"].as_str().unwrap().contains("was reset"), "{refused}");
    // Neither may a later push join the two logs, nor is the client sent events of the new one behind those that it has.
    append(&database, 0, 4).await;
    rpc.send(push_req("q", json!([event(4, "of another life", json!({}))]))).await;
    let refused = rpc.frame().await;
    assert!(refused["requestId"] == "q" && refused["message"].as_str().unwrap().contains("was reset"), "{refused}");
    assert!(rpc.is_quiet_for(Duration::from_secs(1)).await);
    let head: i64 = database.admin().await.query_one("select livestore.head('s')", &[]).await.unwrap().get(0);
    assert_eq!(head, 4);
}

/// As in the original server, which selects the events after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_below_0_is_that_of_a_client_without_events() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    for count in [0, 3] {
        if count > 0 {
            append(&database, 0, count).await;
        }
        let mut rpc = connect(&sidecar).await;
        rpc.send(pull_req(-1)).await;
        let answer = tokio::time::timeout(Duration::from_secs(5), rpc.frame()).await.expect("an answer");
        assert_eq!((events_of(&answer), &answer["remaining"]), (up_to(count), &json!(0)));
    }
    assert!(!sidecar.log().contains("deleted from the table"), "{}", sidecar.log());
}
