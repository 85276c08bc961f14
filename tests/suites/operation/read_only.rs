//! `--read-only`: a sidecar that has only a standby.

use std::time::Duration;

use livestore_tests::client::Node;
use livestore_tests::events::{chain, numbers, up_to};
use livestore_tests::eventually;
use livestore_tests::http_rpc::{Answer, post, pull, push, send};
use livestore_tests::rpc::Rpc;
use livestore_tests::sidecar::{Sidecar, Start};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

use crate::check::finds;
use crate::page_cache::{read, sql};
use crate::standbys::{EVENTS, Setup, replayed, setup};

/// A sidecar that has only the standby.
fn reading_only(_: String, standby: String) -> Start {
    Start::new(standby).arguments(&["--read-only", "--push-timeout", "1s"])
}

async fn backend_id(admin: &Client) -> String {
    admin.query_one("select livestore.backend_id('s')", &[]).await.unwrap().get(0)
}

async fn append(admin: &Client, parent: i64, count: i64) {
    let events = chain(parent, count).to_string();
    admin.execute("select livestore.push('s', $1::text::json)", &[&events]).await.unwrap();
}

async fn from(sidecar: &Sidecar, cursor: (&str, i64)) -> Answer {
    send(post(sidecar, "s", pull("s", Some(cursor)))).await
}

/// The sequence numbers of the frames of a live pull, as far as they go.
fn numbers_of(frame: &Value) -> Vec<i64> {
    let batch = frame.pointer("/values/0/batch").and_then(Value::as_array);
    batch.into_iter().flatten().map(|event| event["eventEncoded"]["seqNum"].as_i64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_histories_and_live_events_and_pushes_wait() {
    let Setup { database, admin, standby, there, sidecar } = setup(reading_only).await;
    assert_eq!(read(&sidecar, "s").await.numbers(), up_to(EVENTS));

    let mut live = Rpc::open(&sidecar.url(), "s").await;
    live.pull(json!("1"), "s", true).await;
    let mut seen = Vec::new();
    while seen.len() < usize::try_from(EVENTS).unwrap() {
        let frame = live.frame().await;
        live.send(json!({"_tag": "Ack", "requestId": "1"})).await;
        seen.extend(numbers_of(&frame));
    }
    append(&admin, EVENTS, 1).await;
    seen.extend(numbers_of(&live.frame().await));
    assert_eq!(seen, up_to(EVENTS + 1));

    // Over HTTP, the client is told to come back; over WebSocket, the connection is closed. Both wait before.
    let began = Instant::now();
    let refused = send(post(&sidecar, "s", push("s", chain(EVENTS + 1, 1)))).await;
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(refused.exit()["_tag"], "Failure");
    assert!(refused.exit().to_string().contains("not available"), "{}", refused.exit());
    live.push(json!("2"), "s", chain(EVENTS + 1, 1)).await;
    live.closed().await;
    let node = Node::sync_backend();
    for dialect in ["cf-ws", "cf-http", "electric", "s2"] {
        let client = node.open(dialect, &sidecar.url(), "s").await;
        let mut live = client.live(None).await;
        assert_eq!(numbers(&live.events((EVENTS + 1).try_into().unwrap()).await), up_to(EVENTS + 1), "{dialect}");
        let refused = client.push(chain(EVENTS + 1, 1)).await.unwrap_err();
        assert_eq!(refused["_tag"], "UnknownError", "{dialect}: the client tries again");
    }
    let head: i64 = admin.query_one("select livestore.head('s')", &[]).await.unwrap().get(0);
    assert_eq!(head, EVENTS + 1);
    assert_eq!(sidecar.get("/readyz").await.0, 200);

    let (url, arguments) = (database.on(standby).url("sidecar"), ["--read-only"]);
    finds(&url, &arguments, "ok", "0 s behind its primary").await;
    sql(&there, "select pg_wal_replay_pause()").await;
    finds(&url, &arguments, "WRONG", "its replay is paused").await;
    sql(&there, "select pg_wal_replay_resume()").await;

    // A standby that was promoted is served on.
    tokio::task::spawn_blocking(|| standby.pg_ctl(&["promote"])).await.unwrap();
    eventually("it is read again", async || read(&sidecar, "s").await.numbers() == up_to(EVENTS + 1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_follows_a_long_transaction_is_not_behind() {
    let Setup { database, admin, standby, there, .. } = setup(reading_only).await;
    let url = database.on(standby).url("sidecar");
    // It always has something to replay, and the last commit was seconds ago.
    sql(&admin, "begin; create table filler (line text)").await;
    let writing = tokio::spawn(async move {
        loop {
            sql(&admin, "insert into filler select 'a line' from generate_series(1, 1000)").await;
        }
    });
    let commits_are_old = "select clock_timestamp() - pg_last_xact_replay_timestamp() > '2 s'";
    eventually("the last commit is old", async || there.query_one(commits_are_old, &[]).await.unwrap().get(0)).await;
    for _ in 0..5 {
        finds(&url, &["--read-only"], "ok", "0 s behind its primary").await;
    }
    writing.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_have_more_than_the_standby_wait_until_it_follows() {
    let Setup { database, admin, there, sidecar, .. } = setup(reading_only).await;
    let before = backend_id(&admin).await;
    sql(&there, "select pg_wal_replay_pause()").await;
    append(&admin, EVENTS, 10).await;

    // It has events that the standby lacks: nothing is said of that, for as long as it lasts.
    let waiting = from(&sidecar, (&before, EVENTS + 10)).await;
    assert_eq!((waiting.exit()["_tag"].as_str(), waiting.numbers()), (Some("Success"), vec![]), "{waiting:?}");
    let mut live = Rpc::open(&sidecar.url(), "s").await;
    let cursor = json!({"_tag": "Some", "value": {"backendId": before, "eventSequenceNumber": EVENTS + 10}});
    live.request(json!("1"), "SyncWsRpc.Pull", json!({"storeId": "s", "live": true, "cursor": cursor})).await;
    assert!(live.is_quiet_for(Duration::from_secs(4)).await);

    // And this one is of a log that has been reset since.
    sql(&admin, "select livestore.reset_store('s')").await;
    append(&admin, 0, 3).await;
    let after = backend_id(&admin).await;
    assert_ne!(before, after);
    let waiting = from(&sidecar, (&after, 3)).await;
    assert_eq!((waiting.exit()["_tag"].as_str(), waiting.numbers()), (Some("Success"), vec![]), "{waiting:?}");
    assert!(sidecar.log().contains("does not have yet"));

    // With a transaction of ten seconds after they asked, it is known that it was reset.
    sql(&there, "select pg_wal_replay_resume()").await;
    replayed(&admin, &there).await;
    let other = database.admin().await;
    let writing = tokio::spawn(async move {
        loop {
            sql(&other, "select pg_current_xact_id()").await;
            sleep(Duration::from_millis(500)).await;
        }
    });
    let refused = live.exit(&json!("1")).await;
    assert!(refused.to_string().contains("BackendIdMismatch"), "{refused}");
    append(&admin, 3, 2).await;
    eventually("the new log is read", async || from(&sidecar, (&after, 3)).await.numbers() == [4, 5]).await;
    eventually("a client of the old one is told", async || {
        from(&sidecar, (&before, EVENTS)).await.exit().to_string().contains("BackendIdMismatch")
    })
    .await;

    // Without its primary, a standby cannot know.
    writing.abort();
    database.stop();
    let stopped = Instant::now();
    while stopped.elapsed() < Duration::from_secs(12) {
        let waiting = from(&sidecar, ("a backend id that was never seen", 1)).await;
        assert_eq!((waiting.exit()["_tag"].as_str(), waiting.numbers()), (Some("Success"), vec![]), "{waiting:?}");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_s2_that_is_ahead_gets_nothing_twice() {
    let Setup { admin, there, sidecar, .. } = setup(reading_only).await;
    sql(&there, "select pg_wal_replay_pause()").await;
    append(&admin, EVENTS, 10).await;
    let url = format!("{}/v1/streams/s/records?seq_num={}&clamp=true", sidecar.http_url(), EVENTS + 5);
    let ask = reqwest::Client::new().get(url).header("s2-basin", "basin-of-tests").send();
    let asking = tokio::spawn(async move { ask.await.unwrap().text().await.unwrap() });
    sleep(Duration::from_secs(2)).await;
    assert!(!asking.is_finished(), "{}", asking.await.unwrap());
    sql(&there, "select pg_wal_replay_resume()").await;
    let answer: Value = serde_json::from_str(&asking.await.unwrap()).unwrap();
    let numbers: Vec<_> =
        answer["records"].as_array().unwrap().iter().map(|record| record["seq_num"].as_i64().unwrap()).collect();
    assert_eq!(numbers, (EVENTS + 5..EVENTS + 10).collect::<Vec<_>>());
}
