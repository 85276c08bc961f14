//! `--relay-store`: the events that devices push to each other are also in a LiveStore store of their user.

use livestore_tests::client::Node;
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, numbers, up_to};
use livestore_tests::relay::{EPOCH, Peer, ack, event, events, url_of};
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::tokens::{WITH_SECRET, now};
use serde_json::{Value, json};

async fn start(database: &Database) -> Sidecar {
    let arguments = [&WITH_SECRET[..], &["--relay-store", "relay-{user}"]].concat();
    Start::new(database.url("sidecar")).arguments(&arguments).ready().await
}

/// The pages of an empty history.
const NOTHING: [Vec<Value>; 1] = [Vec::new()];

/// A device of ann.
async fn join(sidecar: &Sidecar, client_id: &str) -> Peer {
    Peer::join(&url_of(sidecar, "ann"), client_id).await
}

/// The pages of a pull.
async fn pages(device: &mut Peer, since: i64) -> Vec<Vec<Value>> {
    device.pull(since).await;
    let mut pages = Vec::new();
    loop {
        let response = device.next_of("pull_response").await;
        assert_eq!((&response["clientId"], &response["sessionId"]), (&json!("server"), &json!("")));
        let payload = &response["payload"];
        assert_eq!(payload["fromClientId"], "server");
        assert!(response["onlinePeers"].is_array(), "{response}");
        pages.push(payload["events"].as_array().unwrap().clone());
        if payload["hasMore"] == false {
            return pages;
        }
        assert_eq!(payload["hasMore"], true);
    }
}

/// The events of a pull.
async fn pull(device: &mut Peer, since: i64) -> Vec<Value> {
    pages(device, since).await.concat()
}

fn event_numbers(events: &[Value]) -> Vec<i64> {
    events.iter().map(|event| event["eventNumber"].as_i64().unwrap()).collect()
}

/// The log of a store: the name, the arguments, the client and the session of each event.
async fn log(database: &Database, store: &str) -> Vec<(String, Value, String, String)> {
    let sql = "select name, args, client_id, session_id from livestore.events where store_id = $1 order by seq_num";
    let rows = database.admin().await.query(sql, &[&store]).await.unwrap();
    rows.iter()
        .map(|row| (row.get(0), row.get::<_, Option<Value>>(1).unwrap_or_default(), row.get(2), row.get(3)))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_are_in_the_store_of_the_user_and_come_back_as_they_were() {
    let database = Database::new().await;
    let [near, far] = [start(&database).await, start(&database).await];
    let (mut a, mut b) = (join(&near, "a").await, join(&far, "b").await);
    a.sees(&["b"]).await;
    assert_eq!(pages(&mut a, 0).await, NOTHING);
    let data = [
        json!({"z": 1, "a": [null, true, 1e300, -0.5], "b": {"type": "pull", "": "😀\u{0}\u{2028}\"\\"}}),
        json!("text"),
        json!(null),
        json!([]),
        json!(9_007_199_254_740_993_i64),
    ];
    let mut pushed: Vec<_> = (7..).zip(data).map(|(number, data)| event("a", number, data)).collect();
    pushed[1]["eventName"] = json!("é \"\\");
    pushed[2]["sessionId"] = json!("another");
    pushed[3]["clientId"] = json!("of long ago");
    a.push_to(&mut [&mut b], json!(pushed[..3])).await;
    b.push_to(&mut [&mut a], json!(pushed[3..])).await;
    for device in [&mut a, &mut b] {
        assert_eq!(pull(device, 0).await, pushed);
    }
    let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_string();
    let expected: Vec<_> = pushed
        .iter()
        .map(|event| {
            (text(event, "eventName"), event["data"].clone(), text(event, "clientId"), text(event, "sessionId"))
        })
        .collect();
    assert_eq!(log(&database, "relay-ann").await, expected);

    let mut bob = Peer::join(&url_of(&near, "bob"), "a").await;
    assert_eq!(pages(&mut bob, 0).await, NOTHING, "a store of his own");
    bob.push_to(&mut [], events("a", 1..2)).await;
    assert_eq!(log(&database, "relay-bob").await.len(), 1);
    assert_eq!(pull(&mut a, 0).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_pushed_again_are_acknowledged_and_in_the_store_once() {
    let database = Database::new().await;
    let [near, far] = [start(&database).await, start(&database).await];
    let mut a = join(&near, "a").await;
    for numbers in [1..4, 1..4, 2..6, 5..6] {
        a.push_to(&mut [], events("a", numbers)).await;
    }
    let mut a = join(&far, "a").await;
    a.push_to(&mut [], events("a", 1..7)).await;
    a.push_to(&mut [], json!([])).await;
    assert_eq!(event_numbers(&pull(&mut a, 0).await), up_to(6));
    // A device counts for itself.
    let mut b = join(&far, "b").await;
    b.push_to(&mut [&mut a], events("b", 1..3)).await;
    assert_eq!(event_numbers(&pull(&mut b, 0).await), [1, 2, 3, 4, 5, 6, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_with_a_long_number_or_timestamp_is_refused_and_not_stored() {
    let database = Database::new().await;
    let sidecar = start(&database).await;
    let (mut a, mut b) = (join(&sidecar, "a").await, join(&sidecar, "b").await);
    let push = a.message("push", json!({"events": events("a", 1..3)})).to_string();
    let (number, timestamp) = ("\"eventNumber\":2".to_string(), format!("\"timestamp\":{}", EPOCH + 2));
    for (field, long) in [
        (&number, format!("{number}{}", "7".repeat(1024))),
        (&number, format!("\"eventNumber\":[\"{}\"]", "x".repeat(1024))),
        (&timestamp, format!("{timestamp}.{}", "0".repeat(1024))),
    ] {
        assert_eq!(push.matches(&**field).count(), 1, "{push}");
        a.send_text(&push.replace(&**field, &long)).await;
        assert_eq!(a.error().await, "invalid_message", "{long}");
    }
    assert_eq!(pages(&mut a, 0).await, NOTHING);
    let mut longest = event("a", 3, json!({}));
    longest["eventNumber"] = json!("x".repeat(254));
    a.push_to(&mut [&mut b], json!([longest])).await;
    assert_eq!(pull(&mut b, 0).await, [longest]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_brings_what_arrived_since() {
    const MINUTE: i64 = 60_000;
    let database = Database::new().await;
    let sidecar = start(&database).await;
    let mut a = join(&sidecar, "a").await;
    let before = now() * 1000;
    let mut made = [event("a", 1, json!({})), event("a", 2, json!({})), event("a", 3, json!({}))];
    made[0]["timestamp"] = json!(1000);
    made[1]["timestamp"] = json!(before);
    made[2]["timestamp"] = json!(before + 120 * MINUTE);
    a.push_to(&mut [], json!(made)).await;
    let after = now() * 1000 + 1000;
    for since in [0, before - 10 * MINUTE, before, before + MINUTE / 2] {
        assert_eq!(event_numbers(&pull(&mut a, since).await), [1, 2, 3], "{since}");
    }
    assert_eq!(pages(&mut a, after + 10 * MINUTE).await, NOTHING);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_comes_in_pages_of_at_most_100_events() {
    let database = Database::new().await;
    let sidecar = start(&database).await;
    let mut a = join(&sidecar, "a").await;
    for start in (1..251).step_by(50) {
        a.push_to(&mut [], events("a", start..start + 50)).await;
    }
    let mut b = join(&sidecar, "b").await;
    let history = pages(&mut b, 0).await;
    assert!(history.len() >= 3 && history.iter().all(|page| (1..=100).contains(&page.len())));
    assert_eq!(history.concat(), events("a", 1..251).as_array().unwrap().clone());
    for number in 251..271 {
        a.push_to(&mut [&mut b], json!([event("a", number, json!("x".repeat(100_000)))])).await;
    }
    let history = pages(&mut b, 0).await;
    assert!(history.iter().all(|page| (1..=100).contains(&page.len())));
    assert_eq!(event_numbers(&history.concat()), up_to(270));
    assert_eq!(b.online().await, ["a"], "and nothing follows");
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_push_at_the_same_time_all_find_a_place_in_their_order() {
    const EACH: i64 = 100;
    let database = Database::new().await;
    let [near, far] = [start(&database).await, start(&database).await];
    let (mut a, mut b) = (join(&near, "a").await, join(&far, "b").await);
    a.sees(&["b"]).await;
    for number in 0..EACH {
        a.push(events("a", number..number + 1)).await;
        b.push(events("b", number..number + 1)).await;
    }
    for (device, other) in [(&mut a, "b"), (&mut b, "a")] {
        let (mut acks, mut pushes) = (Vec::new(), Vec::new());
        while acks.len() + pushes.len() < 2 * usize::try_from(EACH).unwrap() {
            let message = device.next().await;
            if message["type"] == "push" {
                assert_eq!(message["clientId"], other);
                pushes.extend(event_numbers(message["payload"]["events"].as_array().unwrap()));
            } else {
                acks.push(message);
            }
        }
        assert_eq!(acks, (0..EACH).map(|number| ack(1, EPOCH + number)).collect::<Vec<_>>());
        assert_eq!(pushes, (0..EACH).collect::<Vec<_>>());
    }
    let history = pull(&mut a, 0).await;
    assert_eq!(history, pull(&mut b, 0).await);
    assert_eq!(history.len(), 2 * usize::try_from(EACH).unwrap());
    for device in ["a", "b"] {
        let own: Vec<_> = history.iter().filter(|event| event["clientId"] == device).cloned().collect();
        assert_eq!(event_numbers(&own), (0..EACH).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_sync_cf_and_devices_write_one_log() {
    let database = Database::new().await;
    let (relay, sidecar) = (start(&database).await, Sidecar::on(&database).await);
    let mut a = join(&relay, "a").await;
    a.push_to(&mut [], events("a", 7..10)).await;
    let client = Node::sync_backend().open("cf-ws", &sidecar.url(), "relay-ann").await;
    let mut live = client.live(None).await;
    let heard = live.events(3).await;
    assert_eq!(numbers(&heard), [1, 2, 3]);
    assert_eq!((&heard[2]["name"], &heard[2]["args"]), (&json!("todoCreated"), &json!({"id": 9})));
    assert_eq!((&heard[2]["clientId"], &heard[2]["sessionId"]), (&json!("a"), &json!("session")));

    client.push(chain(3, 2)).await.unwrap();
    assert_eq!(numbers(&live.events(2).await), [4, 5]);
    a.push_to(&mut [], events("a", 10..11)).await;
    let last = live.events(1).await;
    assert_eq!(
        (&last[0]["seqNum"], &last[0]["parentSeqNum"], &last[0]["args"]),
        (&json!(6), &json!(5), &json!({"id": 10}))
    );

    let mut history = pull(&mut a, 0).await;
    let created = "select (extract(epoch from created_at) * 1000)::bigint from livestore.events where seq_num in (4, 5) order by seq_num";
    for (row, event) in database.admin().await.query(created, &[]).await.unwrap().iter().zip(&mut history[3..5]) {
        let timestamp = event["timestamp"].take().as_i64().unwrap();
        assert!((timestamp - row.get::<_, i64>(0)).abs() <= 1, "{timestamp} is no time in milliseconds");
    }
    let of_client = |number: i64| {
        json!({"eventName": "todoCreated", "eventNumber": number, "clientId": "client", "sessionId": "session",
            "data": {"id": number}, "timestamp": null})
    };
    let mut expected = events("a", 7..10).as_array().unwrap().clone();
    expected.extend([of_client(4), of_client(5), event("a", 10, json!({"id": 10}))]);
    assert_eq!(history, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_rejects_a_push_and_nobody_gets_it() {
    let database = Database::new().await;
    database
        .everywhere(
            "create function public.no_secrets() returns trigger language plpgsql as $$
             begin
                 if new.args::text like '%secret%' then raise exception 'no secrets here'; end if;
                 return new;
             end $$;
             create trigger no_secrets before insert on livestore.eventlog_1 for each row execute function public.no_secrets()",
        )
        .await;
    let sidecar = start(&database).await;
    let (mut a, mut b) = (join(&sidecar, "a").await, join(&sidecar, "b").await);
    a.push(json!([event("a", 1, json!("fine")), event("a", 2, json!("secret"))])).await;
    let error = a.next_of("error").await;
    assert_eq!((&error["code"], &error["message"]), (&json!("rejected"), &json!("no secrets here")));
    assert!(pull(&mut a, 0).await.is_empty());
    a.push_to(&mut [&mut b], events("a", 3..4)).await;
    assert_eq!(event_numbers(&pull(&mut b, 0).await), [3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_or_drop_of_the_store_takes_the_history_with_it() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let sidecar = start(&database).await;
    let mut a = join(&sidecar, "a").await;
    for end in ["reset_store", "drop_store"] {
        a.push_to(&mut [], events("a", 1..3)).await;
        assert_eq!(event_numbers(&pull(&mut a, 0).await), [1, 2]);
        admin.batch_execute(&format!("select livestore.{end}('relay-ann')")).await.unwrap();
        assert!(pull(&mut a, 0).await.is_empty(), "{end}");
        let left: i64 = admin.query_one("select count(*) from livestore.relayed_events", &[]).await.unwrap().get(0);
        assert_eq!(left, 0, "{end}");
    }
}
