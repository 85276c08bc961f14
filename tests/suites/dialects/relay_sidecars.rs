//! The peer relay across sidecars: they are one relay.

use livestore_tests::cluster::Database;
use livestore_tests::relay::{EPOCH, Peer, ack, event, events, url};
use livestore_tests::rpc::Received;
use livestore_tests::sidecar::Sidecar;
use serde_json::json;

/// Sidecars on one database, and where devices connect.
async fn start<const N: usize>() -> ([Sidecar; N], [String; N]) {
    let database = Database::new().await;
    let mut sidecars = Vec::new();
    for _ in 0..N {
        sidecars.push(Sidecar::on(&database).await);
    }
    let urls = sidecars.iter().map(url).collect::<Vec<_>>().try_into().unwrap();
    (sidecars.try_into().ok().unwrap(), urls)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_devices_on_two_sidecars_are_as_on_one() {
    let (_sidecars, [near, far]) = start().await;
    let [mut a, mut b] = Peer::join_all(&near, ["a", "b"]).await;
    let mut c = Peer::connect(&far, "c").await;
    assert_eq!(c.online().await, ["a", "b"], "with its first answer");
    a.sees(&["b", "c"]).await;
    assert_eq!(b.online().await, ["a", "c"]);
    for size in [1, 7_000, 50_000] {
        let data = json!("ä\u{0}".repeat(size));
        a.push_to(&mut [&mut b, &mut c], json!([event("a", 1, data.clone())])).await;
        b.push_to(&mut [&mut a, &mut c], json!([event("b", 1, data.clone())])).await;
        c.push_to(&mut [&mut a, &mut b], json!([event("c", 1, data)])).await;
    }
    let asked = c.ask("r").await;
    assert_eq!((a.next_text().await, b.next_text().await), (asked.clone(), asked));
    for (numbers, has_more) in [(0..500, true), (500..501, false)] {
        for responder in [&mut a, &mut b] {
            let answer = responder.respond("r", events("x", numbers.clone()), has_more).await;
            assert_eq!(c.next_text().await, answer);
        }
    }
    let asked = a.ask("s").await;
    assert_eq!((b.next_text().await, c.next_text().await), (asked.clone(), asked));
    for responder in [&mut b, &mut c] {
        let answer = responder.respond("s", events("x", 0..500), false).await;
        assert_eq!(a.next_text().await, answer);
        responder.respond("never asked", json!([]), false).await;
    }
    for device in [&mut a, &mut b, &mut c] {
        assert_eq!(device.online().await.len(), 2, "and nothing else arrives");
    }
    drop(c);
    a.sees(&["b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_elsewhere_is_what_came_byte_for_byte() {
    let (_sidecars, [near, far]) = start().await;
    let (mut a, mut b) = (Peer::join(&near, "a").await, Peer::join(&far, "b").await);
    a.sees(&["b"]).await;
    for filler in [0, 10_000] {
        let data = format!(
            r#"["\u0000\ud800 \/ é 😀 \ud83d\ude00 \\u0000 ' $1 \b\"", 123456789012345678901234567890, 1e400, -0.0, "{}"]"#,
            "'".repeat(filler)
        );
        let push = format!(
            "{{ \"payload\" : {{\"events\":[ {{\"timestamp\":3,\"sessionId\":\"s\",\"data\":{data},\r\n\"clientId\":\"a\",\
             \"eventNumber\":1,\"eventName\":\"e\"}}\t] }},\"timestamp\":5,\"type\":\"push\",\"sessionId\":\"s\",\"clientId\":\"a\" }}"
        );
        a.send_text(&push).await;
        assert_eq!(a.next().await, ack(1, 3));
        assert_eq!(b.next_text().await, push);
        b.ask("r").await;
        a.next_of("peer_pull").await;
        let answer = format!(
            "{{\"payload\":{{ \"hasMore\":false,\"events\":[{data}],\"requestId\":\"\\u0072\"}},\"clientId\":\"a\",\
             \"type\":\"peer_pull_response\",\"sessionId\":\"s\",\"timestamp\":1}}"
        );
        a.send_text(&answer).await;
        assert_eq!(b.next_text().await, answer);
    }
}

/// From 1 byte to 100 KB, many of them about as long as a notification may be.
fn size(n: i64) -> usize {
    let n = usize::try_from(n).unwrap();
    match n % 10 {
        0 => 100_000,
        1..=5 => 7_000 + n,
        6 => 1,
        _ => n,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_pushes_of_any_size_arrive_elsewhere_in_their_order() {
    let (_sidecars, [near, far, farther]) = start().await;
    let (mut a, mut b, mut c) =
        (Peer::join(&near, "a").await, Peer::join(&far, "b").await, Peer::join(&farther, "c").await);
    a.sees(&["b", "c"]).await;
    for round in 0..10 {
        let numbers = round * 100..(round + 1) * 100;
        let mut sent = Vec::new();
        for number in numbers.clone() {
            let data = if number % 2 == 0 { "x".repeat(size(number)) } else { "é".repeat(size(number) / 2) };
            sent.push(a.push(json!([event("a", number, json!(data))])).await);
        }
        for (number, sent) in numbers.zip(sent) {
            assert_eq!(a.next().await, ack(1, EPOCH + number));
            assert!(b.next_text().await == sent, "number {number}");
            assert!(c.next_text().await == sent, "number {number}");
        }
    }
    for device in [&mut a, &mut b, &mut c] {
        assert_eq!(device.online().await.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_moves_is_where_it_connected_last() {
    let (_sidecars, urls) = start::<2>().await;
    let mut a = Peer::join(&urls[0], "a").await;
    let mut mover = Peer::join(&urls[1], "mover").await;
    for number in 0..10 {
        let mut moved = Peer::join(&urls[number % 2], "mover").await;
        assert_eq!(mover.closed().await, Received::Close(4409));
        let number = i64::try_from(number).unwrap();
        a.push_to(&mut [&mut moved], events("a", number..number + 1)).await;
        moved.push_to(&mut [&mut a], events("mover", number..number + 1)).await;
        assert_eq!((moved.online().await, a.online().await), (vec!["a".to_string()], vec!["mover".to_string()]));
        mover = moved;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_connections_of_a_device_at_the_same_time_one_stays_on_all_sidecars() {
    let (_sidecars, [near, far]) = start().await;
    let mut a = Peer::join(&near, "a").await;
    for round in 0..20 {
        let (mut here, mut there) = tokio::join!(Peer::connect(&near, "b"), Peer::connect(&far, "b"));
        here.pull(0).await;
        there.pull(0).await;
        let (mut stays, at) = tokio::select! {
            end = here.closed() => { assert_eq!(end, Received::Close(4409)); (there, "there") }
            end = there.closed() => { assert_eq!(end, Received::Close(4409)); (here, "here") }
        };
        let sent = a.push(events("a", round..round + 1)).await;
        a.next_of("ack").await;
        while stays.next_text().await != sent {}
        assert_eq!(stays.online().await, ["a"], "the one that stays is {at}");
        drop(stays);
        a.sees(&[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_of_5000_events_comes_from_a_device_elsewhere_in_pages() {
    let (_sidecars, [near, far]) = start().await;
    let mut old = Peer::join(&near, "old").await;
    let mut new = Peer::join(&far, "new").await;
    let asked = new.ask("everything").await;
    assert_eq!(old.next_text().await, asked);
    for page in 0..50 {
        old.respond("everything", events("old", page * 100..(page + 1) * 100), page < 49).await;
    }
    let mut numbers = Vec::new();
    loop {
        let page = new.next_of("peer_pull_response").await;
        let events = page["payload"]["events"].as_array().unwrap();
        numbers.extend(events.iter().map(|event| event["eventNumber"].as_i64().unwrap()));
        if page["payload"]["hasMore"] == false {
            break;
        }
    }
    assert_eq!(numbers, (0..5000).collect::<Vec<_>>());
    assert_eq!((old.online().await, new.online().await), (vec!["new".to_string()], vec!["old".to_string()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn late_answers_from_elsewhere_to_a_device_that_left_are_dropped() {
    let (_sidecars, urls) = start::<2>().await;
    let mut responder = Peer::join(&urls[0], "responder").await;
    let mut asker = Peer::join(&urls[1], "asker").await;
    for (number, url) in (0..).zip([&urls[1], &urls[0], &urls[1]]) {
        let request_id = format!("r{number}");
        asker.ask(&request_id).await;
        responder.next_of("peer_pull").await;
        drop(asker);
        responder.sees(&[]).await;
        asker = Peer::join(url, "asker").await;
        responder.sees(&["asker"]).await;
        responder.respond(&request_id, json!([]), false).await;
        responder.push_to(&mut [&mut asker], events("responder", number..number + 1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_id_belongs_to_its_device_on_all_sidecars() {
    let (_sidecars, [near, far]) = start().await;
    let [mut a, mut b] = Peer::join_all(&near, ["a", "b"]).await;
    let mut c = Peer::join(&far, "c").await;
    a.sees(&["b", "c"]).await;
    a.ask("r").await;
    assert_eq!(c.next_of("peer_pull").await["clientId"], "a");
    c.ask("r").await;
    assert_eq!(c.error().await, "request_id_in_use");
    assert_eq!(b.next_of("peer_pull").await["clientId"], "a");
    let answer = c.respond("r", json!([]), false).await;
    assert_eq!(a.next_text().await, answer);
    assert_eq!(b.online().await, ["a", "c"]);
    drop(a);
    c.sees(&["b"]).await;
    c.ask("r").await;
    assert_eq!(b.next_of("peer_pull").await["clientId"], "c");
}

/// Postgres has no texts with a NUL.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_odd_harm_nobody() {
    let (_sidecars, [near, far]) = start().await;
    let mut odd = Vec::new();
    for name in ["\u{0}", "a\u{0}b", "{\"\\", "'; drop table livestore.relay_devices; --", "\u{feff}é😀", "NULL"] {
        let mut peer = Peer::connect(&near, name).await;
        // Whether it is let in is not the point.
        peer.pull(0).await;
        odd.push(peer);
    }
    let [mut a, mut b] = [Peer::join(&near, "a").await, Peer::join(&far, "b").await];
    let mut with_nul = Peer::connect(&far, "b\u{0}").await;
    with_nul.pull(0).await;
    drop(odd);
    drop(with_nul);
    a.sees(&["b"]).await;
    b.sees(&["a"]).await;
    let mut quoted = Peer::join(&far, "{\"\\,'é").await;
    a.sees(&["b", "{\"\\,'é"]).await;
    a.push_to(&mut [&mut b, &mut quoted], events("a", 1..2)).await;
    quoted.push_to(&mut [&mut a, &mut b], events("q", 1..2)).await;
}

/// Its lease would last for as long as the clock was ahead, and its devices would count as connected.
#[tokio::test]
async fn a_sidecar_that_died_before_the_clock_was_set_back_is_forgotten() {
    let database = Database::new().await;
    let writer = database.connect("sidecar").await;
    let enter = "select livestore.relay_enter('15 s')";
    let dead: String = writer.query_one(enter, &[]).await.unwrap().get(0);
    let alive: String = writer.query_one(enter, &[]).await.unwrap().get(0);
    let renew = "select livestore.relay_renew($1, '15 s')";
    let is_known = async |sidecar: &String| writer.query_one(renew, &[sidecar]).await.unwrap().get::<_, bool>(0);
    assert!(is_known(&alive).await && is_known(&dead).await);
    let ahead = "update livestore.relay_sidecars set expires_at = expires_at + interval '2 hours' where sidecar = $1";
    database.admin().await.execute(ahead, &[&dead]).await.unwrap();
    assert!(is_known(&alive).await);
    assert!(!is_known(&dead).await);
}
