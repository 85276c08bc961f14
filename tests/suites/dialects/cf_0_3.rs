//! `@livestore/sync-cf` 0.3.1 from npm, unmodified (`makeCfSync`), its recording, and its messages by hand.

use std::time::Duration;

use livestore_tests::breaker::Breaker;
use livestore_tests::client::{Client, Node};
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event, numbers, up_to};
use livestore_tests::rpc::{Received, Rpc};
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::{eventually, root};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

async fn open(sidecar: &Sidecar, store: &str) -> Client {
    Node::sync_backend_0_3().open("cf-0.3", &sidecar.url(), store).await
}

async fn by_hand(sidecar: &Sidecar, store: &str) -> Rpc {
    Rpc::connect(&format!("{}/websocket?storeId={store}", sidecar.url())).await
}

fn pull_req(id: &str, cursor: impl Into<Option<i64>>) -> Value {
    match cursor.into() {
        Some(cursor) => json!({"_tag": "WSMessage.PullReq", "requestId": id, "cursor": cursor}),
        None => json!({"_tag": "WSMessage.PullReq", "requestId": id}),
    }
}

fn push_req(id: &str, batch: Value) -> Value {
    json!({"_tag": "WSMessage.PushReq", "requestId": id, "batch": batch})
}

/// The events of a PullRes.
fn events_of(message: &Value) -> Vec<Value> {
    assert_eq!(message["_tag"], "WSMessage.PullRes", "{message}");
    message["batch"].as_array().unwrap().iter().map(|event| event["eventEncoded"].clone()).collect()
}

/// The next message of this kind; others before it are dropped.
async fn next(rpc: &mut Rpc, kind: &str) -> Value {
    loop {
        let message = rpc.frame().await;
        if message["_tag"] == format!("WSMessage.{kind}") {
            return message;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_pushes_and_follows() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let (writer, reader) = (open(&sidecar, "todos").await, open(&sidecar, "todos").await);
    writer.connect().await;
    assert_eq!(writer.call("isConnected", json!({})).await.unwrap(), true);
    let pages = writer.pages(None).await.unwrap();
    assert_eq!((pages.len(), &pages[0]["remaining"]), (1, &json!(0)));

    let mut live = reader.live(None).await;
    assert!(live.page().await.is_empty());
    writer.push(chain(0, 1)).await.unwrap();
    assert_eq!(numbers(&live.events(1).await), [1]);
    writer.push(chain(1, 250)).await.unwrap();
    assert_eq!(numbers(&live.events(250).await), (2..=251).collect::<Vec<_>>());
    assert!(live.is_quiet_for(Duration::from_millis(300)).await);

    assert_eq!(numbers(&writer.pull(None).await.unwrap()), up_to(251));
    assert_eq!(numbers(&writer.pull(Some(249)).await.unwrap()), [250, 251]);
    let stored: i64 =
        database.admin().await.query_one("select count(*) from livestore.events", &[]).await.unwrap().get(0);
    assert_eq!(stored, 251);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_comes_in_pages_of_100_with_what_remains() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    for start in (0..2500).step_by(500) {
        admin.execute("select livestore.push('long', $1)", &[&chain(start, 500)]).await.unwrap();
    }
    let pages = open(&sidecar, "long").await.pages(None).await.unwrap();
    let mut remaining = 2500;
    for page in &pages {
        let length = page["batch"].as_array().unwrap().len();
        assert!((1..=100).contains(&length));
        remaining -= length;
        assert_eq!(page["remaining"], remaining);
    }
    assert_eq!(remaining, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_behind_the_head_gets_the_words_of_the_original() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let client = open(&sidecar, "s").await;
    client.push(chain(0, 3)).await.unwrap();
    let error = client.push(json!([event(0, "other", json!({}))])).await.unwrap_err();
    assert_eq!(error["_tag"], "InvalidPushError");
    assert!(error.to_string().contains("Invalid parent event number. Received e0 but expected e3"), "{error}");
    client.push(chain(0, 3)).await.unwrap();
    assert_eq!(numbers(&client.pull(None).await.unwrap()), up_to(3), "a repeated push is accepted and changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn args_come_back_as_they_were_sent() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let client = open(&sidecar, "exact").await;
    let mut live = client.live(None).await;
    let args =
        json!({"z": 1, "a": {"y": [null, true, 1e300], "b": "\u{0}\u{2028}😀\"\\"}, "data": "x".repeat(100_000)});
    let batch: Value = (0..12).map(|parent| event(parent, "e", args.clone())).collect();
    client.push(batch).await.unwrap();
    for events in [live.events(12).await, client.pull(None).await.unwrap()] {
        assert_eq!(numbers(&events), up_to(12));
        assert!(events.iter().all(|event| event["args"] == args));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_connection_hears_of_every_push_in_order_whether_it_has_pulled_or_not() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let mut silent = by_hand(&sidecar, "s").await;
    let mut writer = by_hand(&sidecar, "s").await;
    let mut puller = by_hand(&sidecar, "s").await;
    puller.send(pull_req("p", None)).await;
    assert_eq!(next(&mut puller, "PullRes").await["requestId"], json!({"context": "pull", "requestId": "p"}));
    puller.send(json!({"_tag": "WSMessage.Ping", "requestId": "ping"})).await;
    assert_eq!(puller.frame().await, json!({"_tag": "WSMessage.Pong", "requestId": "ping"}));
    // A connection cannot hear of pushes from before it follows the log.
    tokio::time::sleep(Duration::from_millis(500)).await;
    for head in 0..50 {
        writer.send(push_req(&head.to_string(), chain(head, 1))).await;
    }
    for rpc in [&mut silent, &mut writer, &mut puller] {
        let mut seen = Vec::new();
        while seen.len() < 50 {
            let message = next(rpc, "PullRes").await;
            assert_eq!((&message["requestId"]["context"], &message["remaining"]), (&json!("push"), &json!(0)));
            seen.extend(numbers(&events_of(&message)));
        }
        assert_eq!(seen, up_to(50));
    }
    assert!(silent.is_quiet_for(Duration::from_millis(300)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_while_others_push_misses_nothing_and_repeats_nothing() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    database.admin().await.execute("select livestore.push('s', $1)", &[&chain(0, 1500)]).await.unwrap();
    let mut writer = by_hand(&sidecar, "s").await;
    let mut readers = Vec::new();
    for head in 1500..1600 {
        writer.send(push_req("w", chain(head, 1))).await;
        next(&mut writer, "PushAck").await;
        if head % 20 == 0 {
            let mut reader = by_hand(&sidecar, "s").await;
            reader.send(pull_req("r", 10)).await;
            readers.push(reader);
        }
    }
    for reader in &mut readers {
        // As the client does it: pushed events that arrive before the first answer to the pull are put aside.
        let (mut seen, mut aside, mut is_complete) = (Vec::new(), Vec::new(), false);
        while seen.last() != Some(&1600) {
            let message = next(reader, "PullRes").await;
            let events = numbers(&events_of(&message));
            if message["requestId"]["context"] == "pull" {
                assert!(!is_complete);
                seen.extend(events);
                is_complete = message["remaining"] == 0;
                let head = seen.last().copied().unwrap_or(10);
                seen.extend(aside.iter().filter(|number| is_complete && **number > head));
            } else if seen.is_empty() {
                aside.extend(events);
            } else {
                assert!(is_complete, "no push between the pages of a pull");
                seen.extend(events);
            }
        }
        assert_eq!(seen, (11..=1600).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_messages_get_an_error_and_the_connection_goes_on() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let mut rpc = by_hand(&sidecar, "s").await;
    for text in [
        "not json",
        "",
        "{}",
        "[]",
        "null",
        r#"{"_tag":"WSMessage.PullReq"}"#,
        r#"{"_tag":"WSMessage.PullReq","requestId":7}"#,
    ] {
        rpc.send_text(text.into()).await;
        assert_eq!(rpc.frame().await["_tag"], "WSMessage.Error", "{text}");
    }
    rpc.send_message(Message::binary(vec![1])).await;
    assert_eq!(rpc.frame().await["_tag"], "WSMessage.Error");
    for (message, why) in [
        (json!({"_tag": "WSMessage.Hello", "requestId": "x"}), "unknown message: WSMessage.Hello"),
        (json!({"_tag": "WSMessage.PushReq", "requestId": "x"}), "malformed batch"),
        (push_req("x", json!([{"name": "e"}])), "malformed batch"),
        (push_req("x", json!("no")), "malformed batch"),
        (push_req("x", json!([event(0, "e", json!({})), event(0, "e", json!({}))])), "event"),
        (push_req("x", chain(5, 1)), "Invalid parent event number. Received e5 but expected e0"),
        (pull_req("x", 7), "lost events"),
    ] {
        rpc.send(message).await;
        let answer = rpc.frame().await;
        assert_eq!((&answer["_tag"], &answer["requestId"]), (&json!("WSMessage.Error"), &json!("x")), "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(why), "{answer}");
    }
    rpc.send(push_req("empty", json!([]))).await;
    assert_eq!(rpc.frame().await, json!({"_tag": "WSMessage.PushAck", "requestId": "empty"}));
    let stores: i64 =
        database.admin().await.query_one("select count(*) from livestore.stores", &[]).await.unwrap().get(0);
    assert_eq!(stores, 0);
    rpc.send(push_req("good", chain(0, 1))).await;
    next(&mut rpc, "PushAck").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_waits_for_the_database_as_long_as_its_connection_lives() {
    let database = Database::new().await;
    let breaker = Breaker::to(database.cluster().port()).await;
    let url = database.url_at("sidecar", breaker.port());
    let sidecar = Start::new(url).arguments(&["--push-timeout", "500ms"]).ready().await;
    let client = open(&sidecar, "s").await;
    let mut live = client.live(None).await;
    live.page().await;
    breaker.cut();
    let pushing = tokio::spawn({
        let client = client.clone();
        async move { client.push(chain(0, 2)).await }
    });
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!pushing.is_finished(), "the client would not try again");
    breaker.mend();
    pushing.await.unwrap().unwrap();
    assert_eq!(numbers(&live.events(2).await), [1, 2]);
}

/// A client, and the breaker between it and the sidecar.
async fn behind_a_breaker(sidecar: &Sidecar) -> (Client, Breaker) {
    let breaker = Breaker::to(sidecar.port()).await;
    let url = format!("ws://127.0.0.1:{}", breaker.port());
    (Node::sync_backend_0_3().open("cf-0.3", &url, "s").await, breaker)
}

/// Cuts a client off, lets others push meanwhile, and brings it back.
async fn push_while_away(client: &Client, breaker: &Breaker, database: &Database, head: i64, count: i64) {
    let is_connected = |expected: bool| async move { client.call("isConnected", json!({})).await.unwrap() == expected };
    breaker.cut();
    eventually("it has noticed", || is_connected(false)).await;
    database.admin().await.execute("select livestore.push('s', $1)", &[&chain(head, count)]).await.unwrap();
    breaker.mend();
    eventually("it is back", || is_connected(true)).await;
}

/// The client asks for a pull once in its life: after it has reconnected, the server must find out what it lacks.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reconnected_gets_what_it_missed_with_its_next_push() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let (client, breaker) = behind_a_breaker(&sidecar).await;
    let mut live = client.live(None).await;
    live.page().await;
    client.push(chain(0, 1)).await.unwrap();
    assert_eq!(numbers(&live.events(1).await), [1]);

    push_while_away(&client, &breaker, &database, 1, 120).await;
    let error = client.push(json!([event(1, "mine", json!({}))])).await.unwrap_err();
    assert!(error.to_string().contains("Received e1 but expected e121"), "{error}");
    assert_eq!(numbers(&live.events(120).await), (2..=121).collect::<Vec<_>>());
    client.push(json!([event(121, "mine", json!({}))])).await.unwrap();
    assert_eq!(live.events(1).await[0]["name"], "mine");
    assert!(live.is_quiet_for(Duration::from_millis(300)).await);
}

/// It does not look whether events follow one another: sent the next one, it would never learn of those between.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reconnected_is_sent_nothing_until_its_position_is_known() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let (client, breaker) = behind_a_breaker(&sidecar).await;
    let mut live = client.live(None).await;
    live.page().await;
    push_while_away(&client, &breaker, &database, 0, 5).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    database.admin().await.execute("select livestore.push('s', $1)", &[&chain(5, 5)]).await.unwrap();
    assert!(live.is_quiet_for(Duration::from_secs(1)).await, "a gap");
    client.push(json!([event(0, "mine", json!({}))])).await.unwrap_err();
    assert_eq!(numbers(&live.events(10).await), up_to(10));

    // A client that missed nothing goes on from its position.
    push_while_away(&client, &breaker, &database, 10, 0).await;
    client.push(chain(10, 2)).await.unwrap();
    assert_eq!(numbers(&live.events(2).await), [11, 12]);
    database.admin().await.execute("select livestore.push('s', $1)", &[&chain(12, 1)]).await.unwrap();
    assert_eq!(numbers(&live.events(1).await), [13]);
}

/// So that the parent of its next push tells how far it has read.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_acknowledged_after_its_events_were_sent() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let mut rpc = by_hand(&sidecar, "s").await;
    rpc.send(pull_req("p", None)).await;
    rpc.frame().await;
    for head in 0..100 {
        rpc.send(push_req("w", chain(head, 1))).await;
        assert_eq!(numbers(&events_of(&rpc.frame().await)), [head + 1]);
        assert_eq!(rpc.frame().await["_tag"], "WSMessage.PushAck");
    }
    rpc.send(push_req("again", chain(99, 1))).await;
    assert_eq!(rpc.frame().await, json!({"_tag": "WSMessage.PushAck", "requestId": "again"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_requests_take_the_secret_and_the_privilege() {
    let database = Database::new().await;
    let reset = |secret: &str| json!({"_tag": "WSMessage.AdminResetRoomReq", "requestId": "a", "adminSecret": secret});
    let info = |secret: &str| json!({"_tag": "WSMessage.AdminInfoReq", "requestId": "a", "adminSecret": secret});
    let error = |message: &str| json!({"_tag": "WSMessage.Error", "requestId": "a", "message": message});
    let admin = database.admin().await;
    admin.execute("select livestore.push('s', $1)", &[&chain(0, 3)]).await.unwrap();

    let off = Sidecar::on(&database).await;
    let mut rpc = by_hand(&off, "s").await;
    for message in [reset(""), info("")] {
        rpc.send(message).await;
        assert_eq!(rpc.frame().await, error("admin requests are switched off on this server: --admin-secret"));
    }

    let arguments = ["--admin-secret", "hunter2"];
    let unprivileged = Start::new(database.url("sidecar")).arguments(&arguments).ready().await;
    let mut rpc = by_hand(&unprivileged, "s").await;
    rpc.send(reset("hunter2")).await;
    assert!(rpc.frame().await["message"].as_str().unwrap().contains("grant livestore_admin"));

    let sidecar = Start::new(database.url("admin")).arguments(&arguments).ready().await;
    let mut rpc = by_hand(&sidecar, "s").await;
    for message in
        [reset("wrong"), info("hunter22"), info(""), json!({"_tag": "WSMessage.AdminInfoReq", "requestId": "a"})]
    {
        rpc.send(message).await;
        assert_eq!(rpc.frame().await, error("Invalid admin secret"));
    }
    rpc.send(info("hunter2")).await;
    let backend_id: String = admin.query_one("select livestore.backend_id('s')", &[]).await.unwrap().get(0);
    let expected = json!({"_tag": "WSMessage.AdminInfoRes", "requestId": "a", "info": {"durableObjectId": backend_id}});
    assert_eq!(rpc.frame().await, expected);
    let heads = || async { admin.query_one("select livestore.head('s')", &[]).await.unwrap().get::<_, i64>(0) };
    assert_eq!(heads().await, 3);

    // Clients that follow the log are told that it was reset.
    let follower = open(&sidecar, "s").await;
    let mut live = follower.live(None).await;
    assert_eq!(live.page().await.len(), 3);
    rpc.send(reset("hunter2")).await;
    assert_eq!(next(&mut rpc, "AdminResetRoomRes").await["requestId"], "a");
    assert_eq!(heads().await, 0);
    let end = live.end().await;
    assert!(end["event"] == "fail" && end.to_string().contains("was reset"), "{end}");
    let mut fresh = by_hand(&sidecar, "none").await;
    fresh.send(reset("hunter2")).await;
    assert_eq!(next(&mut fresh, "AdminResetRoomRes").await["requestId"], "a", "nothing to reset is no error");
    assert!(!sidecar.log().contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_closes_the_connection_and_a_get_learns_what_this_is() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let (status, body) = sidecar.get("/websocket?storeId=s").await;
    assert_eq!((status, body.trim()), (426, "this endpoint speaks WebSocket"));
    assert_eq!(sidecar.get("/websocket").await.0, 404);
    let mut rpc = by_hand(&sidecar, "s").await;
    rpc.send(pull_req("p", None)).await;
    rpc.frame().await;
    let ended = tokio::spawn(sidecar.terminate());
    assert_eq!(rpc.closed().await, Received::Close(1012));
    assert!(ended.await.unwrap().success());
}

/// Plays the recording: the same acknowledgements and errors, the same events. Not compared: times, the ids of requests to which
/// pushed events belong (any id does), and the grouping of events of several pushes. The original acknowledges before it writes.
#[tokio::test(flavor = "multi_thread")]
async fn the_recording_gets_the_same_answers() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let recording = std::fs::read_to_string(root().join("tests/wire/sync-cf-0.3.1-ws.jsonl")).unwrap();
    let lines: Vec<Value> = recording.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut rpc = Rpc::connect(&format!("{}{}", sidecar.url(), lines[0]["open"].as_str().unwrap())).await;
    let (mut expected, mut received) = (Answers::default(), Answers::default());
    for line in &lines[1..] {
        if line["from"] == "client" {
            rpc.send(line["frame"].clone()).await;
            continue;
        }
        expected.add(&line["frame"]);
        while received.size() < expected.size() {
            received.add(&rpc.frame().await);
        }
    }
    assert_eq!(received, expected);
    assert_eq!((expected.others.len(), expected.events.len(), expected.pulls), (4, 3, 1));
}

#[derive(Debug, Default, PartialEq)]
struct Answers {
    events: Vec<Value>,
    pulls: usize,
    others: Vec<Value>,
}

impl Answers {
    fn add(&mut self, frame: &Value) {
        if frame["_tag"] != "WSMessage.PullRes" {
            return self.others.push(frame.clone());
        }
        self.pulls += usize::from(frame["requestId"]["context"] == "pull");
        assert_eq!(frame["remaining"], 0);
        for event in frame["batch"].as_array().unwrap() {
            let mut event = event.clone();
            let created_at = event.pointer_mut("/metadata/value/createdAt").unwrap();
            assert_eq!(created_at.as_str().unwrap().len(), "2026-11-21T00:46:40.149Z".len());
            *created_at = json!("a time");
            self.events.push(event);
        }
    }

    fn size(&self) -> usize {
        self.events.len() + self.pulls + self.others.len()
    }
}
