//! LiveStore 0.4.0's clients from npm, unmodified: `@livestore/sync-cf` over WebSocket (`makeWsSync`) and over HTTP
//! (`makeHttpSync`), and `@livestore/sync-electric` and `@livestore/sync-s2` as far as they can do the same
//! (`electric.rs` and `s2.rs` have the rest).

use std::time::Duration;

use livestore_tests::client::Node;
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event, numbers, up_to};
use livestore_tests::eventually;
use livestore_tests::sidecar::Sidecar;
use serde_json::{Value, json};

/// Each test runs with each of the clients.
macro_rules! with_each_client {
    ($($test:ident)*) => {
        mod cf_ws {
            $(#[tokio::test(flavor = "multi_thread")] async fn $test() { super::$test("cf-ws").await })*
        }
        mod cf_http {
            $(#[tokio::test(flavor = "multi_thread")] async fn $test() { super::$test("cf-http").await })*
        }
    };
    ($client:ident: $($test:ident)*) => {
        mod $client {
            $(#[tokio::test(flavor = "multi_thread")] async fn $test() { super::$test(stringify!($client)).await })*
        }
    };
}

with_each_client! {
    connects_pings_and_pulls_an_empty_log
    pushes_1_and_250_events_and_pulls_with_and_without_cursor
    a_live_pull_idles_and_then_receives
    pulls_a_history_of_10_000_events
    payloads_of_100_kb_travel_whole
    a_push_behind_the_head_is_told_the_right_numbers
    a_reset_is_a_backend_id_mismatch
    an_interrupted_pull_ends_and_the_client_goes_on
    two_clients_see_one_order_while_both_write
    a_commit_made_in_sql_arrives_live
    args_come_back_as_they_were_sent
}

with_each_client! { electric:
    connects_pings_and_pulls_an_empty_log
    a_live_pull_idles_and_then_receives
    payloads_of_100_kb_travel_whole
    an_interrupted_pull_ends_and_the_client_goes_on
    a_commit_made_in_sql_arrives_live
}

with_each_client! { s2:
    connects_pings_and_pulls_an_empty_log
    pushes_1_and_250_events_and_pulls_with_and_without_cursor
    a_live_pull_idles_and_then_receives
    payloads_of_100_kb_travel_whole
    an_interrupted_pull_ends_and_the_client_goes_on
    a_commit_made_in_sql_arrives_live
    args_come_back_as_they_were_sent
}

async fn connects_pings_and_pulls_an_empty_log(cf: &str) {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let client = Node::sync_backend().open(cf, &sidecar.url(), "empty").await;
    client.connect().await;
    client.call("ping", json!({})).await.unwrap();
    // The client says so to itself, on a fiber of its own.
    let is_connected = || async { client.call("isConnected", json!({})).await.unwrap() == true };
    eventually("it is connected", is_connected).await;
    let pages = client.pages(None).await.unwrap();
    assert_eq!(pages.len(), 1);
    assert_eq!(pages[0]["batch"], json!([]));
    assert_eq!(pages[0]["pageInfo"]["_tag"], "NoMore");
    let stores: i64 =
        database.admin().await.query_one("select count(*) from livestore.stores", &[]).await.unwrap().get(0);
    assert_eq!(stores, 0, "a pull writes nothing");
}

async fn pushes_1_and_250_events_and_pulls_with_and_without_cursor(cf: &str) {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let client = Node::sync_backend().open(cf, &sidecar.url(), "todos").await;
    client.pull(None).await.unwrap();
    client.push(chain(0, 1)).await.unwrap();
    client.push(chain(1, 250)).await.unwrap();
    assert_eq!(numbers(&client.pull(None).await.unwrap()), up_to(251));
    assert_eq!(numbers(&client.pull(Some(249)).await.unwrap()), [250, 251]);
    assert_eq!(numbers(&client.pull(Some(251)).await.unwrap()), [0; 0]);

    let rows = database
        .admin()
        .await
        .query("select seq_num, args::text from livestore.events order by seq_num", &[])
        .await
        .unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>(), up_to(251));
    assert_eq!(rows[250].get::<_, &str>(1), r#"{"id":251}"#);
}

async fn a_live_pull_idles_and_then_receives(cf: &str) {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let node = Node::sync_backend();
    let (writer, reader) = (node.open(cf, &sidecar.url(), "s").await, node.open(cf, &sidecar.url(), "s").await);
    let mut live = reader.live(None).await;
    assert!(live.page().await.is_empty(), "each run of history has a page");
    assert!(live.is_quiet_for(Duration::from_millis(500)).await);
    writer.push(chain(0, 1)).await.unwrap();
    assert_eq!(numbers(&live.events(1).await), [1]);
    writer.push(chain(1, 150)).await.unwrap();
    assert_eq!(numbers(&live.events(150).await), (2..=151).collect::<Vec<_>>());
    assert!(live.is_quiet_for(Duration::from_millis(200)).await);
}

async fn pulls_a_history_of_10_000_events(cf: &str) {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    for start in (0..10_000).step_by(1000) {
        admin.execute("select livestore.push('long', $1)", &[&chain(start, 1000)]).await.unwrap();
    }
    let client = Node::sync_backend().open(cf, &sidecar.url(), "long").await;
    let pages = client.pages(None).await.unwrap();
    let mut remaining = 10_000;
    for page in &pages {
        let length = page["batch"].as_array().unwrap().len();
        assert!((1..=100).contains(&length));
        remaining -= length;
        let expected = if remaining == 0 { json!("NoMore") } else { json!("MoreKnown") };
        assert_eq!(page["pageInfo"]["_tag"], expected);
        if remaining > 0 {
            assert_eq!(page["pageInfo"]["remaining"], remaining);
        }
    }
    assert_eq!(numbers(&client.pull(None).await.unwrap()), up_to(10_000));

    let mut live = client.live(Some(9_000)).await;
    assert_eq!(numbers(&live.events(1000).await), (9_001..=10_000).collect::<Vec<_>>());
}

async fn payloads_of_100_kb_travel_whole(cf: &str) {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let client = Node::sync_backend().open(cf, &sidecar.url(), "large").await;
    let mut live = client.live(None).await;
    let batch: Value = (0..30).map(|parent| event(parent, "blob", json!({"data": "x".repeat(100_000)}))).collect();
    client.push(batch.clone()).await.unwrap();
    for events in [client.pull(None).await.unwrap(), live.events(30).await] {
        assert_eq!(numbers(&events), up_to(30));
        for (sent, received) in batch.as_array().unwrap().iter().zip(&events) {
            assert_eq!(sent["args"], received["args"]);
        }
    }
}

async fn a_push_behind_the_head_is_told_the_right_numbers(cf: &str) {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let client = Node::sync_backend().open(cf, &sidecar.url(), "s").await;
    client.push(chain(0, 7)).await.unwrap();
    let error = client.push(json!([event(3, "other", json!({}))])).await.unwrap_err();
    assert_eq!(error["_tag"], "ServerAheadError");
    assert_eq!((&error["minimumExpectedNum"], &error["providedNum"]), (&json!(7), &json!(3)));
    assert_eq!(numbers(&client.pull(None).await.unwrap()), up_to(7));
}

async fn a_reset_is_a_backend_id_mismatch(cf: &str) {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let node = Node::sync_backend();
    let client = node.open(cf, &sidecar.url(), "s").await;
    client.pull(None).await.unwrap();
    client.push(chain(0, 3)).await.unwrap();
    let mut live = client.live(Some(3)).await;
    assert!(live.page().await.is_empty());

    let admin = database.admin().await;
    let before: String = admin.query_one("select livestore.backend_id('s')", &[]).await.unwrap().get(0);
    let after: String = admin.query_one("select livestore.reset_store('s')", &[]).await.unwrap().get(0);
    assert_ne!(before, after);

    let end = live.end().await;
    assert_eq!((&end["event"], &end["error"]["_tag"]), (&json!("fail"), &json!("BackendIdMismatchError")), "{end}");
    for error in [client.push(chain(3, 1)).await.unwrap_err(), client.pull(Some(3)).await.unwrap_err()] {
        assert_eq!(error["_tag"], "BackendIdMismatchError");
        assert_eq!((&error["expected"], &error["received"]), (&json!(after), &json!(before)));
    }
    let fresh = node.open(cf, &sidecar.url(), "s").await;
    assert!(fresh.pull(None).await.unwrap().is_empty());
    fresh.push(chain(0, 1)).await.unwrap();
}

async fn an_interrupted_pull_ends_and_the_client_goes_on(cf: &str) {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let client = Node::sync_backend().open(cf, &sidecar.url(), "s").await;
    let mut first = client.live(None).await;
    first.page().await;
    first.stop().await;
    client.push(chain(0, 1)).await.unwrap();
    let mut second = client.live(None).await;
    assert_eq!(numbers(&second.events(1).await), [1]);
    let connections = if cf == "cf-ws" { 1 } else { 0 };
    assert_eq!(sidecar.log().matches("\"connected\"").count(), connections, "the connection was never lost");
}

async fn two_clients_see_one_order_while_both_write(cf: &str) {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let node = Node::sync_backend();
    let clients = [node.open(cf, &sidecar.url(), "race").await, node.open(cf, &sidecar.url(), "race").await];
    let mut lives = [clients[0].live(None).await, clients[1].live(None).await];
    let writers = [0, 1].map(|writer| {
        let client = clients[writer].clone();
        tokio::spawn(async move {
            let (mut head, mut written) = (0, 0);
            while written < 100 {
                match client.push(json!([event(head, "e", json!({"writer": writer, "n": written}))])).await {
                    Ok(()) => (head, written) = (head + 1, written + 1),
                    Err(error) if error["_tag"] == "ServerAheadError" => {
                        head = error["minimumExpectedNum"].as_i64().unwrap()
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        })
    });
    for writer in writers {
        writer.await.unwrap();
    }
    let seen = [lives[0].events(200).await, lives[1].events(200).await];
    assert_eq!(seen[0], seen[1]);
    assert_eq!(numbers(&seen[0]), up_to(200));
}

async fn a_commit_made_in_sql_arrives_live(cf: &str) {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let client = Node::sync_backend().open(cf, &sidecar.url(), "s").await;
    let mut live = client.live(None).await;
    live.page().await;
    let admin = database.admin().await;
    admin.execute("select livestore.commit('s', 'greeted', '{\"b\": 1, \"a\": 2}')", &[]).await.unwrap();
    let events = live.events(1).await;
    assert_eq!(events[0]["name"], "greeted");
    assert_eq!(events[0]["args"], json!({"b": 1, "a": 2}));
    assert_eq!((&events[0]["clientId"], &events[0]["sessionId"]), (&json!("server"), &json!("sql")));
}

async fn args_come_back_as_they_were_sent(cf: &str) {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let client = Node::sync_backend().open(cf, &sidecar.url(), "exact").await;
    let args = [
        json!({"z": 1, "a": {"y": [null, true, 1e300, -0.5], "b": "\u{0}\u{2028}😀\"\\"}}),
        json!(null),
        json!([]),
        json!("text"),
        json!(12345678901234567u64),
    ];
    let batch: Value = (0..).zip(&args).map(|(parent, args)| event(parent, "e", args.clone())).collect();
    let mut live = client.live(None).await;
    client.push(batch).await.unwrap();
    let mut without = event(5, "none", json!(null));
    without.as_object_mut().unwrap().remove("args");
    client.push(json!([without])).await.unwrap();
    for events in [client.pull(None).await.unwrap(), live.events(6).await] {
        for (event, sent) in events.iter().zip(&args) {
            assert_eq!(event["args"].to_string(), js(sent).to_string());
        }
        assert!(events[5].get("args").is_none(), "an event without args has none: {}", events[5]);
    }
}

/// A value as JavaScript holds it: numbers are doubles.
fn js(value: &Value) -> Value {
    match value.as_u64() {
        Some(n) if n > 1 << 53 => json!((n as f64) as u64),
        _ => value.clone(),
    }
}
