//! The peer relay on one sidecar: its messages by hand, and what happens to devices that do it wrong.

use std::time::{Duration, Instant};

use livestore_tests::PATIENCE;
use livestore_tests::cluster::Database;
use livestore_tests::relay::{EPOCH, Peer, ack, event, events, url};
use livestore_tests::rpc::Received;
use livestore_tests::sidecar::{Sidecar, Start};
use serde_json::{Value, json};

async fn start(arguments: &[&str]) -> Sidecar {
    Start::new(Database::new().await.url("sidecar")).arguments(arguments).ready().await
}

/// A message with which a device that is called this may begin.
fn first(client_id: &str, session_id: &str) -> String {
    let payload = json!({"sinceTimestamp": 0});
    json!({"type": "pull", "clientId": client_id, "sessionId": session_id, "timestamp": 1, "payload": payload})
        .to_string()
}

/// The answer to every text that is not a message.
const UNREADABLE: &str = "Failed to parse message";

#[tokio::test(flavor = "multi_thread")]
async fn a_push_reaches_the_other_devices_byte_for_byte() {
    let sidecar = start(&[]).await;
    let [mut a, mut b, mut c] = Peer::join_all(&url(&sidecar), ["a", "b", "c"]).await;
    let with_data = |data: &str| {
        format!(
            r#"{{"type":"push","clientId":"a","sessionId":"s","timestamp":5,"payload":{{"events":[{{"eventName":"e",
                "eventNumber":9007199254740993,"clientId":"a","sessionId":"s","data":{data},"timestamp":7}}]}}}}"#
        )
    };
    let order = "{ \"payload\" : {\"events\":[ {\"timestamp\":3,\"sessionId\":\"s\",\"data\":{\"z\":1,\"a\":[ ]},\
                 \"clientId\":\"a\",\"eventNumber\":1,\"eventName\":\"e\"}\t] },\r\n\"timestamp\":5,\"type\":\"push\",\
                 \"sessionId\":\"s\",\"clientId\":\"a\" }";
    let more = r#"{"v":2,"type":"push","clientId":"a","sessionId":"s","timestamp":1.5,"trace":{"x":null},
        "payload":{"source":[],"events":[{"eventName":"e","eventNumber":1,"clientId":"x","sessionId":"y","data":null,
        "timestamp":1,"extra":true},{"eventName":"é","eventNumber":2,"clientId":"x","sessionId":"y","data":"","timestamp":2}]}}"#;
    let empty =
        r#"{"type":"push","clientId":"a","sessionId":"another","timestamp":0,"payload":{"events":[]}}"#.to_string();
    for (text, received, last) in [
        (order.to_string(), 1, 3),
        (with_data(r#""\u0000\ud800 \/ \u00e9 é 😀 \ud83d\ude00 \b\"""#), 1, 7),
        (with_data("\"\u{2028}\u{7f}\u{feff}\""), 1, 7),
        (with_data("[123456789012345678901234567890, 1e400, -0.0, 1.0, 1E+2, 0.1000]"), 1, 7),
        (with_data(r#"{"k":1,"k":2,"":{"type":"pull"}}"#), 1, 7),
        (more.to_string(), 2, 2),
        (empty, 0, 0),
    ] {
        a.send_text(&text).await;
        assert_eq!(a.next().await, ack(received, last));
        assert_eq!(b.next_text().await, text);
        assert_eq!(c.next_text().await, text);
    }
    for device in [&mut a, &mut b, &mut c] {
        assert_eq!(device.online().await.len(), 2, "and nothing comes twice, or back to the sender");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_that_do_not_wait_for_their_acks_keep_their_order() {
    let sidecar = start(&[]).await;
    let [mut a, mut b] = Peer::join_all(&url(&sidecar), ["a", "b"]).await;
    let mut sent = Vec::new();
    for number in 0..500 {
        sent.push(a.push(events("a", number..=number)).await);
    }
    for (number, sent) in (0..).zip(sent) {
        assert_eq!(a.next().await, ack(1, EPOCH + number));
        assert_eq!(b.next_text().await, sent);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_holds_no_events_and_names_the_others_in_order() {
    let sidecar = start(&[]).await;
    let mut a = Peer::join(&url(&sidecar), "a").await;
    assert_eq!(a.online().await, [""; 0]);
    let [_z, _b, _upper] = Peer::join_all(&url(&sidecar), ["z", "b", "B"]).await;
    a.push_to(&mut [], events("a", 0..10)).await;
    a.pull(0).await;
    let expected = json!({
        "type": "pull_response", "clientId": "server", "sessionId": "", "timestamp": 0,
        "payload": {"events": [], "fromClientId": "server", "hasMore": false}, "onlinePeers": ["B", "b", "z"],
    });
    assert_eq!(a.next().await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_online_from_its_first_message_of_any_type_to_its_end() {
    let sidecar = start(&[]).await;
    let url = url(&sidecar);
    let mut a = Peer::join(&url, "a").await;
    let _silent = Peer::connect(&url, "silent").await;
    let mut b = Peer::connect(&url, "b").await;
    b.push_to(&mut [&mut a], events("b", 1..3)).await;
    let mut c = Peer::connect(&url, "c").await;
    let asked = c.ask("r").await;
    assert_eq!([a.next_text().await, b.next_text().await], [asked.clone(), asked]);
    let mut d = Peer::connect(&url, "d").await;
    d.respond("nobody asked", json!([]), false).await;
    assert_eq!(d.online().await, ["a", "b", "c"]);
    assert_eq!(a.online().await, ["b", "c", "d"]);
    drop(b);
    a.sees(&["c", "d"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_pull_reaches_all_others_and_each_answer_only_the_one_that_asked() {
    let sidecar = start(&[]).await;
    let [mut a, mut b, mut c, mut d] = Peer::join_all(&url(&sidecar), ["a", "b", "c", "d"]).await;
    let asked = [a.ask("one").await, a.ask("two, \"é\"").await];
    for other in [&mut b, &mut c, &mut d] {
        assert_eq!([other.next_text().await, other.next_text().await], asked);
    }
    let mut answers = Vec::new();
    for has_more in [true, true, false] {
        answers.push(b.respond("one", events("a", 0..100), has_more).await);
    }
    for answer in answers {
        assert_eq!(a.next_text().await, answer);
    }
    for request_id in ["one", "two, \"é\""] {
        let answer = c.respond(request_id, json!([]), false).await;
        assert_eq!(a.next_text().await, answer, "after another has said all it has to say");
    }
    let odd = "{ \"payload\":{\"hasMore\":true ,\"more\":1e400,\"events\":[{\"data\":\"\\ud800\"}],\"requestId\":\"one\"},\
               \"timestamp\":1,\"clientId\":\"d\",\"sessionId\":\"s\",\"type\":\"peer_pull_response\"}";
    d.send_text(odd).await;
    assert_eq!(a.next_text().await, odd);
    for device in [&mut a, &mut b, &mut c, &mut d] {
        assert_eq!(device.online().await.len(), 3, "no acks, no answers to others");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn late_answers_to_a_device_that_left_are_dropped() {
    let sidecar = start(&[]).await;
    let url = url(&sidecar);
    let [mut asker, mut responder] = Peer::join_all(&url, ["asker", "responder"]).await;
    asker.ask("r").await;
    responder.next_of("peer_pull").await;
    drop(asker);
    responder.sees(&[]).await;
    responder.respond("r", json!([]), true).await;
    let mut asker = Peer::join(&url, "asker").await;
    responder.respond("r", json!([]), true).await;
    responder.push_to(&mut [&mut asker], events("responder", 1..2)).await;

    asker.ask("s").await;
    responder.next_of("peer_pull").await;
    let mut asker = Peer::join(&url, "asker").await;
    responder.respond("s", json!([]), true).await;
    responder.push_to(&mut [&mut asker], events("responder", 2..3)).await;
    // Its request is forgotten, so others may use the id.
    responder.ask("s").await;
    asker.next_of("peer_pull").await;
    asker.respond("s", json!([]), false).await;
    responder.next_of("peer_pull_response").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_belongs_to_the_device_that_used_it_first() {
    let sidecar = start(&[]).await;
    let [mut a, mut b, mut c] = Peer::join_all(&url(&sidecar), ["a", "b", "c"]).await;
    a.ask("r").await;
    assert_eq!(b.next_of("peer_pull").await["clientId"], "a");
    b.ask("r").await;
    assert_eq!(b.error().await, "request_id_in_use");
    assert_eq!(c.next_of("peer_pull").await["clientId"], "a");
    let answer = c.respond("r", json!([]), false).await;
    assert_eq!(a.next_text().await, answer);
    a.ask("r").await;
    assert_eq!(b.next_of("peer_pull").await["clientId"], "a", "its own it may use again");
    c.next_of("peer_pull").await;
    for device in [&mut a, &mut b, &mut c] {
        assert_eq!(device.online().await.len(), 2);
    }
    drop(a);
    b.sees(&["c"]).await;
    b.ask("r").await;
    assert_eq!(c.next_of("peer_pull").await["clientId"], "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_messages_get_an_error_and_the_connection_goes_on() {
    let sidecar = start(&[]).await;
    let [mut a, mut b] = Peer::join_all(&url(&sidecar), ["a", "b"]).await;
    let as_array = r#"["pull","a","session of a",{"sinceTimestamp":0}]"#;
    for text in ["not json", "", "[]", as_array, "null", "7", "\"text\"", "{}", "{", r#"{"type":7}"#] {
        a.send_text(text).await;
        let error = a.next_of("error").await;
        assert_eq!((&error["code"], &error["message"]), (&json!("invalid_message"), &json!(UNREADABLE)), "{text}");
    }
    for text in [format!("{}x", a.message("push", json!({"events": []}))), r#"{"type":"pull","clientId":"a"}"#.into()] {
        a.send_text(&text).await;
        assert_eq!(a.error().await, "invalid_message", "{text}");
    }
    a.send_binary(first("a", "s").as_bytes()).await;
    assert_eq!(a.error().await, "invalid_message", "a binary message");
    for (kind, payload) in [
        ("push", Value::Null),
        ("push", json!({})),
        ("push", json!([[]])),
        ("push", json!({"events": {}})),
        ("push", json!({"events": [7]})),
        ("push", json!({"events": [{}]})),
        ("push", json!({"events": [["e", "a", "s", 7]]})),
        ("pull", Value::Null),
        ("pull", json!({"sinceTimestamp": "yesterday"})),
        ("peer_pull", json!({"sinceTimestamp": 0, "retentionDays": 30})),
        ("peer_pull", json!({"requestId": 7, "sinceTimestamp": 0, "retentionDays": 30})),
        ("peer_pull_response", json!({"events": [], "hasMore": false})),
        ("peer_pull_response", json!([])),
    ] {
        a.send(kind, payload.clone()).await;
        let error = a.next_of("error").await;
        assert_eq!(error["code"], "invalid_message", "{kind} {payload}");
        assert!(error["message"].is_string(), "{error}");
    }
    for kind in ["hello", "", "PUSH", "ack", "pull_response", "error"] {
        a.send(kind, json!({})).await;
        assert_eq!(a.error().await, "unknown_type", "{kind}");
    }
    for other in ["b", "A", "c"] {
        a.send_text(&first(other, "s")).await;
        assert_eq!(a.error().await, "wrong_device", "{other}");
    }
    a.push_to(&mut [&mut b], events("a", 1..2)).await;
    assert_eq!((a.online().await, b.online().await), (vec!["b".to_string()], vec!["a".to_string()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_has_to_say_which_one_it_is() {
    let sidecar = start(&[]).await;
    let mut others = Peer::join(&url(&sidecar), "others").await;
    let long = "é".repeat(128);
    let too_long = format!("{long}x");
    let mut peer = Peer::connect(&url(&sidecar), &long).await;
    peer.send_text("not json").await;
    assert_eq!(peer.next_of("error").await["message"], UNREADABLE);
    peer.send("hello", json!({})).await;
    assert_eq!(peer.error().await, "unknown_type");
    peer.send("push", json!({"events": 7})).await;
    assert_eq!(peer.error().await, "invalid_message");
    for (client_id, session_id) in [("", "s"), ("a", ""), ("server", "s"), (&too_long, "s"), ("a", &too_long)] {
        peer.send_text(&first(client_id, session_id)).await;
        assert_eq!(peer.error().await, "not_identified", "{client_id} {session_id}");
    }
    assert_eq!(others.online().await, [""; 0]);
    peer.send_text(&first(&long, &long)).await;
    peer.next_of("pull_response").await;
    peer.push_to(&mut [&mut others], events(&long, 1..2)).await;
    assert_eq!(others.online().await, [long]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_closes_the_connection_with_1009() {
    let sidecar = start(&["--max-frame-bytes", "10000"]).await;
    let [mut a, mut b] = Peer::join_all(&url(&sidecar), ["a", "b"]).await;
    a.push_to(&mut [&mut b], json!([event("a", 1, json!("x".repeat(9_000)))])).await;
    a.push(json!([event("a", 2, json!("x".repeat(11_000)))])).await;
    assert_eq!(a.closed().await, Received::Close(1009));
    b.sees(&[]).await;
    let mut a = Peer::join(&url(&sidecar), "a").await;
    a.push_to(&mut [&mut b], events("a", 3..4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_connects_again_takes_the_place_of_its_first_connection() {
    let sidecar = start(&[]).await;
    let [mut a, mut b] = Peer::join_all(&url(&sidecar), ["a", "b"]).await;
    for number in 0..5 {
        let mut again = Peer::join(&url(&sidecar), "a").await;
        assert_eq!(a.closed().await, Received::Close(4409));
        b.push_to(&mut [&mut again], events("b", number..=number)).await;
        again.push_to(&mut [&mut b], events("a", number..=number)).await;
        assert_eq!((again.online().await, b.online().await), (vec!["b".to_string()], vec!["a".to_string()]));
        a = again;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_do_not_read_are_closed_with_1013_and_hold_up_nobody() {
    let sidecar = start(&["--relay-bytes-per-second", "1000000000"]).await;
    let [mut writer, mut reader] = Peer::join_all(&url(&sidecar), ["writer", "reader"]).await;
    let slow = ["slow 1", "slow 2", "slow 3", "slow 4", "slow 5"];
    let mut slow = Vec::from(Peer::join_all(&url(&sidecar), slow).await);
    let (start, before, mut most) = (Instant::now(), sidecar.memory(), 0);
    while !slow.is_empty() {
        assert!(start.elapsed() < PATIENCE, "{} devices that do not read are online", slow.len());
        for number in 0..20 {
            let events = json!([event("writer", number, json!("x".repeat(100_000)))]);
            writer.push_to(&mut [&mut reader], events).await;
            most = most.max(sidecar.memory());
        }
        let online = writer.online().await;
        // At once, while the server waits for room to say why.
        for mut peer in slow.extract_if(.., |peer| !online.iter().any(|name| name == peer.client_id())) {
            assert_eq!(peer.closed().await, Received::Close(1013));
        }
    }
    assert!(most.saturating_sub(before) < 100 << 20, "{before} bytes before, {most} at most");
    assert_eq!(writer.online().await, ["reader"]);
}

/// The rate is the amount for each second, and that much may come at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_slowed_down_and_nothing_of_it_is_lost() {
    for (arguments, count, bytes, least) in [
        (["--relay-messages-per-second", "100"], 500, 10, Duration::from_secs(2)),
        (["--relay-bytes-per-second", "100000"], 40, 20_000, Duration::from_secs(3)),
    ] {
        let sidecar = start(&arguments).await;
        let [mut a, mut b] = Peer::join_all(&url(&sidecar), ["a", "b"]).await;
        let start = Instant::now();
        let mut sent = Vec::new();
        for number in 0..count {
            sent.push(a.push(json!([event("a", number, json!("x".repeat(bytes)))])).await);
        }
        for (number, sent) in (0..).zip(sent) {
            assert_eq!(a.next().await, ack(1, EPOCH + number));
            assert!(b.next_text().await == sent);
        }
        assert!(start.elapsed() > least, "{arguments:?}: {:?}", start.elapsed());
        assert_eq!(b.online().await, ["a"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_longer_than_a_second_allows_comes_through_all_the_same() {
    let sidecar = start(&["--relay-bytes-per-second", "10000"]).await;
    let [mut a, mut b] = Peer::join_all(&url(&sidecar), ["a", "b"]).await;
    a.push_to(&mut [&mut b], json!([event("a", 1, json!("x".repeat(30_000)))])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_closes_with_1012() {
    let sidecar = start(&[]).await;
    let [mut a, mut silent] = [Peer::join(&url(&sidecar), "a").await, Peer::connect(&url(&sidecar), "silent").await];
    let ended = tokio::spawn(sidecar.terminate());
    assert_eq!(a.closed().await, Received::Close(1012));
    assert_eq!(silent.closed().await, Received::Close(1012));
    assert!(ended.await.unwrap().success());
}
