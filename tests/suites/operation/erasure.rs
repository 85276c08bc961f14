//! `livestore.erase` and `livestore.rewrite_event`, as clients see them: docs/erasure.md has the table.

use livestore_tests::client::{Live, Node};
use livestore_tests::cluster::Database;
use livestore_tests::device::Device;
use livestore_tests::events::event;
use livestore_tests::eventually;
use livestore_tests::sidecar::{Sidecar, Start};
use serde_json::{Value, json};
use std::time::Duration;
use tokio_postgres::Client;

async fn sql(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// Full clients: one that has the event, and one that comes later.
async fn erased_for_full_clients(dialect: &str) {
    let database = Database::new().await;
    let admin = database.admin().await;
    let sidecar = Sidecar::on(&database).await;
    let mut old = Device::open_in("todos", dialect, "old", sidecar.port()).await;
    old.create("secret").await;
    old.create("other").await;
    let head = "select livestore.head('todos')";
    eventually("both are in the log", async || admin.query_one(head, &[]).await.unwrap().get::<_, i64>(0) == 2).await;
    eventually("their author knows", async || old.status().await["pending"] == 0).await;
    sql(&admin, r#"select livestore.erase('todos', '{1}', '{"id": "erased", "text": ""}', 'request 17')"#).await;

    let new = Device::open_in("todos", dialect, "new", sidecar.port()).await;
    eventually("the new one has all", async || new.todos().await.len() == 2).await;
    assert_eq!(new.todos().await, ["erased", "other"], "{dialect}");
    // The one that has it keeps it, and both go on.
    old.create("x").await;
    new.create("y").await;
    eventually("both have what the other writes", async || {
        old.todos().await.len() == 4 && new.todos().await.len() == 4
    })
    .await;
    assert_eq!(
        (old.todos().await, new.todos().await),
        (
            vec!["other".into(), "secret".into(), "x".into(), "y".into()],
            vec!["erased".into(), "other".into(), "x".into(), "y".into()]
        ),
        "{dialect}"
    );

    sql(&admin, "select livestore.renew_backend_id('todos')").await;
    match dialect {
        "electric" => {
            // It has a position in a log that is gone, and pulls no more.
            new.create("z").await;
            let later = Device::open_in("todos", dialect, "later", sidecar.port()).await;
            eventually("a new one has all", async || {
                let todos = later.todos().await;
                ["erased", "other", "x", "y"].iter().all(|id| todos.iter().any(|todo| todo == id))
            })
            .await;
            assert!(!later.todos().await.contains(&"secret".to_string()));
            assert_eq!(old.todos().await, ["other", "secret", "x", "y"]);
        }
        "s2" => {
            // It is not told of backend ids.
            new.create("z").await;
            eventually("it goes on", async || old.todos().await == ["other", "secret", "x", "y", "z"]).await;
        }
        _ => {
            eventually("it ends", async || old.ask("ended", json!({})).await != Ok(Value::Null)).await;
            old.reload().await;
            eventually("it has the log as it is", async || old.todos().await == ["erased", "other", "x", "y"]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_websocket() {
    erased_for_full_clients("cf-ws").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http() {
    erased_for_full_clients("cf-http").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_electric() {
    erased_for_full_clients("electric").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_s2() {
    erased_for_full_clients("s2").await;
}

/// While others follow the store, so that sidecars hold its latest events in memory.
#[tokio::test(flavor = "multi_thread")]
async fn sidecars_forget_what_was_erased() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let sidecars = [
        Sidecar::on(&database).await,
        Start::new(database.url("sidecar")).arguments(&["--live", "poll"]).ready().await,
    ];
    let node = Node::sync_backend();
    for dialect in ["cf-ws", "cf-http", "electric", "s2"] {
        for own_table in [false, true] {
            let store = format!("{dialect} {own_table}");
            sql(&admin, &format!("select livestore.create_store('{store}', {own_table})")).await;
            let mut followers = Vec::new();
            for sidecar in &sidecars {
                let follower = node.open(dialect, &sidecar.url(), &store).await;
                followers.push((follower.live(None).await, follower));
            }
            let writer = node.open(dialect, &sidecars[0].url(), &store).await;
            for n in 0..4 {
                writer.push(json!([event(n, "e", json!({"secret": n}))])).await.unwrap();
            }
            for (live, _) in &mut followers {
                events_up_to(live, 4).await;
            }
            sql(&admin, &format!("select livestore.erase('{store}', '{{1,2,3,4}}', '{{\"erased\": true}}')")).await;
            // Sidecars that listen are told within milliseconds, those that poll look once a second at least.
            tokio::time::sleep(Duration::from_secs(2)).await;
            for sidecar in &sidecars {
                // A live pull takes what it can from memory.
                let newcomer = node.open(dialect, &sidecar.url(), &store).await;
                let pulled = newcomer.pull(None).await.unwrap();
                assert_eq!(pulled.len(), 4, "{store}: {pulled:?}");
                assert!(pulled.iter().all(|event| event["args"] == json!({"erased": true})), "{store}: {pulled:?}");
                for cursor in [None, Some(2)] {
                    // Of Electric's, a cursor alone is not a position.
                    if cursor.is_some() && dialect == "electric" {
                        continue;
                    }
                    let mut live = newcomer.live(cursor).await;
                    let events = events_up_to(&mut live, 4).await;
                    assert_eq!(events.len() as i64, 4 - cursor.unwrap_or(0), "{store}");
                    assert!(events.iter().all(|event| event["args"] == json!({"erased": true})), "{store}: {events:?}");
                }
            }
            // The followers go on where they were.
            writer.push(json!([event(4, "e", json!({"new": 5}))])).await.unwrap();
            for (live, _) in &mut followers {
                let events = events_up_to(live, 5).await;
                assert_eq!((events.len(), &events[0]["args"]), (1, &json!({"new": 5})), "{store}");
            }
        }
    }
}

/// The events that a live pull brings, up to this one.
async fn events_up_to(live: &mut Live, last: i64) -> Vec<Value> {
    let mut events: Vec<Value> = Vec::new();
    while events.last().is_none_or(|event| event["seqNum"].as_i64() < Some(last)) {
        let page = live.next().await;
        events.extend(page["value"]["batch"].as_array().unwrap_or_else(|| panic!("{page}")).clone());
    }
    events
}

/// An event that the schema of the application does not allow stops every client that gets it. The runbook in docs/erasure.md.
#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_log_is_mended() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let sidecar = Sidecar::on(&database).await;
    let writer = Device::open("writer", sidecar.port()).await;
    writer.create("a").await;
    eventually("it is in the log", async || {
        admin.query_one("select livestore.head('todos')", &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    sql(&admin, r#"select livestore.commit('todos', 'todoCreated', '{"id": 2}')"#).await;
    sql(&admin, r#"select livestore.commit('todos', 'todoCreated', '{"id": "c", "text": ""}')"#).await;
    // They say nothing: one has the events before it, a new one has none.
    let stuck = Device::open("stuck", sidecar.port()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((writer.todos().await, stuck.todos().await), (vec!["a".to_string()], vec![]));

    // Found, by the type of the event, and mended.
    let todo = r#"{"type": "object", "required": ["id", "text"], "properties": {"id": {"type": "string"}, "text": {"type": "string"}}}"#;
    sql(
        &admin,
        &format!(
            "select livestore.define_event('todoCreated', '{todo}'); select livestore.check_events('todoCreated')"
        ),
    )
    .await;
    let found = "select concat_ws(' ', store_id, seq_num, reason) from livestore.misfits";
    let found: Vec<String> = admin.query(found, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(found, ["todos 2 args.text is missing"]);
    sql(&admin, r#"select livestore.rewrite_event('todos', 2, 'todoCreated', '{"id": "b", "text": ""}')"#).await;
    for mut device in [writer, stuck] {
        device.reload().await;
        eventually("it goes on", async || device.todos().await == ["a", "b", "c"]).await;
    }
}
