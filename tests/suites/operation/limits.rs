//! Limits for clients, on every dialect: a request beyond them is refused with the reason, changes nothing, and is counted.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use livestore_tests::cluster::Database;
use livestore_tests::dialects::{Answer, Caller, DIALECTS, WRITERS};
use livestore_tests::events::{chain, event};
use livestore_tests::http_rpc;
use livestore_tests::relay::{self, Peer};
use livestore_tests::rpc::{Received, Rpc};
use livestore_tests::shape;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::tokens::{SECRET, Signer, WITH_SECRET, now};
use livestore_tests::{client::Node, eventually};
use serde_json::{Value, json};
use tokio::time::timeout;

async fn start(arguments: &[&str]) -> (Database, Sidecar) {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(arguments).ready().await;
    (database, sidecar)
}

async fn start_with_tokens(arguments: &[&str]) -> (Database, Sidecar) {
    start(&[&WITH_SECRET, arguments].concat()).await
}

/// A token of this subject that allows everything.
fn token(subject: &str) -> String {
    Signer::secret(SECRET).sign(&json!({"sub": subject, "exp": now() + 3600, "livestore": {"*": "write"}}))
}

async fn head(database: &Database, store: &str) -> i64 {
    database.admin().await.query_one("select livestore.head($1)", &[&store]).await.unwrap().get(0)
}

/// Whether clients of this dialect take the answer for an acknowledgement.
fn is_accepted(dialect: &str, answer: &Answer) -> bool {
    match dialect {
        "cf-ws" | "cf-http" => answer.text.contains("Success"),
        "cf-0.3" => answer.text.contains("PushAck"),
        _ => answer.status == 200,
    }
}

/// A status, where the dialect has one, that says why.
fn status(dialect: &str, of_http: u16) -> u16 {
    match dialect {
        "cf-ws" | "cf-0.3" => 101,
        "cf-http" => 200,
        _ => of_http,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_of_too_many_events_or_with_too_large_a_one_is_refused() {
    let (database, sidecar) = start(&["--max-batch-events", "3", "--max-event-bytes", "300"]).await;
    let large = json!([event(0, "small", json!({})), event(1, "large", json!("x".repeat(300)))]);
    for (n, dialect) in WRITERS.into_iter().enumerate() {
        let caller = Caller::new(&sidecar, dialect);
        let many = caller.write(dialect, chain(0, 4)).await;
        assert!(many.text.contains("at most 3 events"), "{dialect}: {many:?}");
        // S2 has a status of its own for invalid requests.
        let expected = if dialect == "s2-rest" { 422 } else { status(dialect, 400) };
        assert_eq!(many.status, expected, "{dialect}");
        let large = caller.write(dialect, large.clone()).await;
        assert!(large.text.contains("at most 300 bytes, event 2 of this batch has"), "{dialect}: {large:?}");
        assert_eq!(head(&database, dialect).await, 0);
        let fits = caller.write(dialect, chain(0, 3)).await;
        assert!(is_accepted(dialect, &fits), "{dialect}: {fits:?}");
        let hits = (sidecar.hits("batch_events").await, sidecar.hits("event_bytes").await);
        assert_eq!(hits, ((n + 1) as f64, (n + 1) as f64), "{dialect}");
    }
}

/// 0.3 does not repeat a push that was refused, and versions after 0.4 park it for good, so pushes of sync-cf wait.
async fn is_slowed_down(database: &Database, caller: &Caller<'_>, dialect: &str, why: &str) {
    let since = Instant::now();
    // The same batch each time: a repeated push is accepted, too.
    let waits = dialect.starts_with("cf-");
    let count = if waits { 6 } else { 20 };
    let answers = join_all((0..count).map(|_| caller.write(dialect, chain(0, 1)))).await;
    let (taken, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| is_accepted(dialect, answer));
    assert_eq!(head(database, caller.store).await, 1, "{dialect}");
    if waits {
        assert_eq!(taken.len(), 6, "{refused:?}");
        // One at once, and one more each second.
        assert!(since.elapsed() > Duration::from_secs(4), "{:?}", since.elapsed());
        return;
    }
    assert!(!taken.is_empty() && !refused.is_empty(), "{dialect}: {taken:?} {refused:?}");
    for answer in refused {
        assert!(answer.text.contains(why), "{dialect}: {answer:?}");
        assert_eq!(answer.status, status(dialect, 429), "{dialect}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_that_pushes_too_fast_is_slowed_down_and_others_are_not() {
    let (database, sidecar) = start_with_tokens(&["--pushes-per-second", "1"]).await;
    for dialect in WRITERS {
        let caller = Caller::with_token(&sidecar, dialect, &token(dialect));
        is_slowed_down(&database, &caller, dialect, "you push too fast: at most 1 pushes").await;
        let other = Caller::with_token(&sidecar, dialect, &token(&format!("other of {dialect}")));
        let head = head(&database, dialect).await;
        assert!(is_accepted(dialect, &other.write(dialect, chain(head, 1)).await), "{dialect}");
    }
    assert!(sidecar.hits("pushes_per_subject").await >= 5.0);
    assert_eq!(sidecar.hits("pushes_per_store").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_pushed_to_too_fast_takes_no_more_for_a_while() {
    let (database, sidecar) = start(&["--store-pushes-per-second", "1"]).await;
    for dialect in WRITERS {
        let caller = Caller::new(&sidecar, dialect);
        is_slowed_down(&database, &caller, dialect, "this store is pushed to too fast").await;
        let elsewhere = format!("elsewhere-{dialect}");
        assert!(is_accepted(dialect, &Caller::new(&sidecar, &elsewhere).write(dialect, chain(0, 1)).await));
    }
    assert!(sidecar.hits("pushes_per_store").await >= 5.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_count_as_pushes_do() {
    let (_database, sidecar) = start(&["--store-bytes-per-second", "1000"]).await;
    let batch = |head| json!([event(head, "e", json!("x".repeat(700)))]);
    for dialect in ["s2-rest", "electric", "s2"] {
        let caller = Caller::new(&sidecar, dialect);
        let answers = join_all((0..20).map(|_| caller.write(dialect, batch(0)))).await;
        assert!(answers.iter().any(|answer| is_accepted(dialect, answer)), "{dialect}: {answers:?}");
        assert!(answers.iter().any(|answer| answer.text.contains("1000 bytes a second")), "{dialect}: {answers:?}");
        // One that is larger than the limit is taken, too.
        let large = json!([event(0, "e", json!("x".repeat(5000)))]);
        let store = format!("large-{dialect}");
        assert!(is_accepted(dialect, &Caller::new(&sidecar, &store).write(dialect, large).await));
    }
}

/// Large ones would fill the queue while the database has nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn pushes_that_wait_for_a_limit_keep_nobody_else_out() {
    let arguments = ["--push-bytes-per-second", "1000", "--push-timeout", "15s"];
    let (database, sidecar) = start_with_tokens(&arguments).await;
    // Four of them are the queue, but for less than the push of another client takes.
    let large: Value = (0..4).map(|parent| event(parent, "large", json!("x".repeat(4_190_000)))).collect();
    let mut rpc = Rpc::connect(&format!("{}/?storeId=s&transport=ws&token={}", sidecar.url(), token("ann"))).await;
    let sending = tokio::spawn(async move {
        for id in 0..4 {
            rpc.push(json!(id.to_string()), "s", large.clone()).await;
        }
        rpc.closed().await;
    });
    let since = Instant::now();
    for n in 0.. {
        let other = Caller::with_token(&sidecar, "other", &token(&format!("bob {n}")));
        let answer = other.write("electric", json!([event(n, "e", json!("x".repeat(100_000)))])).await;
        assert!(is_accepted("electric", &answer), "after {:?}: {answer:?}", since.elapsed());
        if sending.is_finished() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    sending.await.unwrap();
    assert!(head(&database, "other").await > 10);
    assert_eq!(sidecar.hits("queue").await, 0.0);
}

/// Not for ever: its client connects again and brings it once more. It is never told of an error, which some versions take for the
/// last word.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_waits_for_too_long_loses_its_connection_and_not_its_client() {
    let (database, sidecar) = start(&["--store-pushes-per-second", "1", "--push-timeout", "1500ms"]).await;
    let mut rpc = Rpc::open(&sidecar.url(), "s").await;
    for n in 0..8 {
        rpc.push(json!(n.to_string()), "s", chain(n, 1)).await;
    }
    let mut accepted = 0;
    loop {
        match rpc.receive().await {
            Received::Frame(frame) if frame["exit"]["_tag"] == "Success" => accepted += 1,
            Received::Close(code) => break assert_eq!(code, 1013),
            other => panic!("{other:?}"),
        }
    }
    assert!((1..8).contains(&accepted), "{accepted}");
    assert!(head(&database, "s").await >= accepted);
}

/// A client that is told to come back does, with the same batch: everything arrives, once and in order.
#[tokio::test(flavor = "multi_thread")]
async fn a_livestore_client_that_is_slowed_down_brings_everything() {
    const COUNT: i64 = 25;
    let (database, sidecar) = start(&["--store-pushes-per-second", "2"]).await;
    let node = Node::livestore();
    let folder = tempfile::tempdir().unwrap();
    let params = json!({"url": sidecar.url(), "storeId": "todos", "clientId": "a", "directory": folder.path()});
    node.call("open", params).await.unwrap();
    for n in 0..COUNT {
        let args = json!({"id": n.to_string(), "text": "todo"});
        node.call("commit", json!({"event": "todoCreated", "args": args})).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eventually("everything has arrived", || async { head(&database, "todos").await == COUNT }).await;
    let ids = "select string_agg(args->>'id', ' ' order by seq_num) from livestore.events";
    let ids: String = database.admin().await.query_one(ids, &[]).await.unwrap().get(0);
    assert_eq!(ids, (0..COUNT).map(|n| n.to_string()).collect::<Vec<_>>().join(" "));
    assert!(sidecar.hits("pushes_per_store").await > 0.0, "it was slowed down");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_may_begin_so_many_stores_an_hour() {
    for dialect in WRITERS {
        let (database, sidecar) = start_with_tokens(&["--new-stores-per-hour", "2"]).await;
        let (ann, bob) = (token("ann"), token("bob"));
        for store in ["one", "two"] {
            let caller = Caller::with_token(&sidecar, store, &ann);
            assert!(is_accepted(dialect, &caller.write(dialect, chain(0, 1)).await), "{dialect}");
        }
        let third = Caller::with_token(&sidecar, "three", &ann);
        // Clients of sync-cf would not try again, or not all of them: they wait.
        match timeout(Duration::from_secs(3), third.write(dialect, chain(0, 1))).await {
            Ok(third) => {
                assert!(third.text.contains("too many stores: at most 2 an hour"), "{dialect}: {third:?}");
                assert_eq!(third.status, status(dialect, 429), "{dialect}");
            }
            Err(_) => assert!(dialect.starts_with("cf-"), "{dialect}"),
        }
        assert_eq!(head(&database, "three").await, 0);
        // The stores that exist, and other subjects, go on.
        let more = Caller::with_token(&sidecar, "one", &ann).write(dialect, chain(1, 1)).await;
        assert!(is_accepted(dialect, &more), "{dialect}: {more:?}");
        let again = Caller::with_token(&sidecar, "two", &ann).write(dialect, chain(0, 1)).await;
        assert!(is_accepted(dialect, &again), "{dialect}: {again:?}");
        let other = Caller::with_token(&sidecar, "three", &bob).write(dialect, chain(0, 1)).await;
        assert!(is_accepted(dialect, &other), "{dialect}: {other:?}");
        assert_eq!(sidecar.hits("new_stores_per_subject").await, 1.0, "{dialect}");
    }
}

/// A client that is told no tries again, for ever: that begins nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_tried_again_begins_one_store() {
    let (database, sidecar) = start_with_tokens(&["--new-stores-per-hour", "2"]).await;
    let hook = "create function no() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
                create trigger no before insert on livestore.eventlog_1 for each row when (new.name = 'bad') execute function no()";
    database.admin().await.batch_execute(hook).await.unwrap();
    let ann = token("ann");
    for _ in 0..4 {
        let bad = json!([event(0, "bad", json!({}))]);
        let answer = Caller::with_token(&sidecar, "one", &ann).write("electric", bad).await;
        assert_eq!(answer.status, 403, "{answer:?}");
    }
    for (store, status) in [("two", 200), ("three", 429), ("one", 200)] {
        let answer = Caller::with_token(&sidecar, store, &ann).write("electric", chain(0, 1)).await;
        assert_eq!(answer.status, status, "{store}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_has_so_many_connections() {
    let (database, sidecar) = start_with_tokens(&["--max-connections-per-subject", "5"]).await;
    database.admin().await.execute("select livestore.push('s', $1)", &[&chain(0, 1)]).await.unwrap();
    let (ann, bob) = (token("ann"), token("bob"));
    let connect = async |token: &str| {
        let url = format!("{}/?storeId=s&transport=ws", sidecar.url());
        Rpc::connect_with(&url, &[("authorization", &format!("Bearer {token}"))]).await
    };
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(connect(&ann).await.unwrap());
    }
    // A WebSocket client tries again by itself; an HTTP client may stop for good at an error, so it waits.
    let relay = livestore_tests::relay::url(&sidecar);
    let device = async || Rpc::connect_with(&relay, &[("authorization", &format!("Bearer {ann}"))]).await;
    for refused in [connect(&ann).await.err(), device().await.err()] {
        let (status, text) = refused.expect("it is one too many");
        assert!(status == 503 && text.contains("too many connections, 5"), "{status} {text}");
    }
    let read = async |dialect| (dialect, Caller::with_token(&sidecar, "s", &ann).read(dialect).await);
    let over_http = DIALECTS.into_iter().filter(|dialect| !["cf-ws", "cf-0.3"].contains(dialect));
    let mut reads = Box::pin(join_all(over_http.map(read)));
    assert!(timeout(Duration::from_secs(3), &mut reads).await.is_err());
    let _other = connect(&bob).await.unwrap();
    drop(held.pop());
    for (dialect, answer) in reads.await {
        assert!(answer.status == 200, "{dialect}: {answer:?}");
    }
    let mut online = None;
    eventually("a place is free", || async { device().await.is_ok() }).await;
    while online.is_none() {
        online = device().await.ok();
    }
    assert!(device().await.is_err(), "a device has a place, too");
    drop(online);
    eventually("a place is free", || async { connect(&ann).await.is_ok() }).await;
    assert!(sidecar.hits("connections_per_subject").await >= 7.0);
}

/// Requests of a subject of tokens beyond its own limit wait in a short queue, and do not take the connections of all.
#[tokio::test(flavor = "multi_thread")]
async fn a_subject_over_its_limit_leaves_connections_to_others() {
    let (database, sidecar) =
        start_with_tokens(&["--max-connections", "100", "--max-connections-per-subject", "5"]).await;
    database.admin().await.execute("select livestore.push('s', $1)", &[&chain(0, 1)]).await.unwrap();
    let (ann, bob) = (token("ann"), token("bob"));
    let node = Node::sync_backend();
    let of_ann = json!({"payload": {"authToken": ann}});
    let poller = node.open_with("cf-http", &sidecar.url(), "s", of_ann.clone()).await;
    assert_eq!(poller.pull(None).await.unwrap().len(), 1);
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(Caller::with_token(&sidecar, "s", &ann).follow("cf-ws").await.unwrap());
    }
    let mut clients = Vec::new();
    for dialect in ["cf-ws", "cf-http", "electric", "s2"] {
        clients.push((dialect, node.open_with(dialect, &sidecar.url(), "s", of_ann.clone()).await));
    }
    let mut pulls =
        Box::pin(join_all(clients.iter().map(async |(dialect, client)| (dialect, client.pull(None).await))));
    assert!(timeout(Duration::from_secs(2), &mut pulls).await.is_err());

    let records = format!("{}/v1/streams/s/records?seq_num=0", sidecar.http_url());
    let (mut refused, mut waiting) = (0, Vec::new());
    for n in 0..200 {
        let request = match n % 5 {
            0 => shape::get(&sidecar, &[("table", "eventlog_6_s"), ("offset", "-1")]),
            1 => shape::pull(&sidecar, "s", None, false),
            2 => reqwest::Client::new().get(&records),
            // A repeat of events that are there, so that a push that waits changes nothing either.
            3 => shape::push(&sidecar, "s", chain(0, 1)),
            _ => http_rpc::post(&sidecar, "s", http_rpc::pull("s", None)),
        };
        let mut answer = tokio::spawn(request.bearer_auth(&ann).send());
        match timeout(Duration::from_secs(1), &mut answer).await {
            Ok(answer) => {
                let answer = answer.unwrap().unwrap();
                let expected = if n % 5 == 3 { 429 } else { 503 };
                assert_eq!(answer.status(), expected, "{n}");
                assert!(answer.headers().contains_key("retry-after"), "{n}: {answer:?}");
                assert!(answer.text().await.unwrap().contains("too many connections, 5"), "{n}");
                refused += 1;
            }
            Err(_) => waiting.push(answer),
        }
    }
    // The clients have the other places in the queue, one or two each; a WebSocket has none, and connects again.
    assert!((1..=2).contains(&waiting.len()) && refused + waiting.len() == 200, "{refused} {}", waiting.len());
    let other = node.open_with("cf-ws", &sidecar.url(), "s", json!({"payload": {"authToken": bob}})).await;
    assert_eq!(other.pull(None).await.unwrap().len(), 1);
    // A client with a cursor is told instead that nothing is new, and goes on.
    assert!(poller.pull(Some(1)).await.unwrap().is_empty());
    let mut live = poller.live(Some(1)).await;
    assert!(live.is_quiet_for(Duration::from_secs(1)).await);
    assert!(sidecar.metric("livestore_connections").await < 30.0);
    let series = "livestore_refusals_total{asked=\"connect\",reason=\"connections\"}";
    assert!(sidecar.metric(series).await >= 198.0);
    let log = sidecar.log();
    assert!(log.contains("this subject has too many connections") && log.contains("ann"), "{log}");

    drop(held);
    for (dialect, pulled) in pulls.await {
        assert_eq!(pulled.unwrap().len(), 1, "{dialect}");
    }
    for answer in waiting {
        assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    }
    other.push(chain(1, 1)).await.unwrap();
    assert_eq!(live.events(1).await.len(), 1);
}

/// They keep it even when nothing is left of their request but the answer.
#[tokio::test(flavor = "multi_thread")]
async fn streams_of_events_have_a_place_as_long_as_they_last() {
    let (database, sidecar) = start_with_tokens(&["--max-connections-per-subject", "1"]).await;
    database.admin().await.execute("select livestore.push('s', $1)", &[&chain(0, 1)]).await.unwrap();
    let ann = token("ann");
    let connect = async || {
        let url = format!("{}/?storeId=s&transport=ws", sidecar.url());
        Rpc::connect_with(&url, &[("authorization", &format!("Bearer {ann}"))]).await
    };
    let first = shape::get(&sidecar, &[("table", "eventlog_6_s"), ("offset", "-1")]).bearer_auth(&ann);
    let first = shape::Answer::to(first).await;
    let position = [("offset", first.offset()), ("handle", first.handle())];
    let shape = [&[("table", "eventlog_6_s"), ("live", "true"), ("live_sse", "true")], &position[..]].concat();
    let s2 = reqwest::Client::new().get(format!("{}/v1/streams/s/records?seq_num=1", sidecar.http_url()));
    for stream in [shape::get(&sidecar, &shape), s2.header("accept", "text/event-stream")] {
        eventually("a place is free", || async { connect().await.is_ok() }).await;
        let mut open = None;
        while open.is_none() {
            let request = stream.try_clone().unwrap().bearer_auth(&ann).send();
            open = timeout(Duration::from_secs(5), request).await.ok().and_then(Result::ok);
        }
        assert_eq!(open.as_ref().unwrap().status(), 200);
        assert_eq!(connect().await.err().expect("it is one too many").0, 503);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_with_a_history_has_one_place_and_its_pushes_have_a_size() {
    let arguments = ["--max-connections-per-subject", "1", "--relay-store", "relay-{user}", "--max-batch-events", "3"];
    let (database, sidecar) = start_with_tokens(&arguments).await;
    let url = format!("{}?token={}", relay::url(&sidecar), token("ann"));
    let mut device = Peer::join(&url, "a").await;
    device.push(relay::events("a", 1..=3)).await;
    assert_eq!(device.next().await["type"], "ack");
    device.push(relay::events("a", 4..=7)).await;
    let refused = device.next_of("error").await;
    assert!(refused.to_string().contains("at most 3 events"), "{refused}");
    assert_eq!(head(&database, "relay-ann").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_is_refused() {
    let (_database, sidecar) = start(&["--max-head-bytes", "8192"]).await;
    let client = reqwest::Client::new();
    let long = "x".repeat(9000);
    let of_url = client.get(format!("{}/healthz?{long}", sidecar.http_url())).send().await.unwrap();
    let of_header = client.get(format!("{}/healthz", sidecar.http_url())).header("x", long).send().await.unwrap();
    assert_eq!((of_url.status().as_u16(), of_header.status().as_u16()), (431, 431));
    let fits =
        client.get(format!("{}/healthz", sidecar.http_url())).header("x", "x".repeat(7000)).send().await.unwrap();
    assert_eq!(fits.status(), 200);
    assert_eq!(sidecar.hits("head_bytes").await, 2.0);
}

/// 10 MB of spaces, or a thousand times that, are a few KB when compressed.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_compressed_is_refused_unread() {
    let (database, sidecar) = start(&[]).await;
    for (path, encoding) in [
        ("/api/electric", "gzip"),
        ("/api/s2", "deflate"),
        ("/?storeId=s&transport=http", "br"),
        ("/v1/streams/s/records", "zstd"),
    ] {
        let request = reqwest::Client::new().post(format!("{}{path}", sidecar.http_url()));
        let batch: Value = chain(0, 1);
        let response = request.header("content-encoding", encoding).body(batch.to_string()).send().await.unwrap();
        assert_eq!(response.status(), 415, "{path}");
        assert!(response.text().await.unwrap().contains("must not be compressed"));
    }
    assert_eq!(head(&database, "s").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_is_too_large_is_refused() {
    let (database, sidecar) = start(&["--max-frame-bytes", "2000"]).await;
    let batch = json!([event(0, "e", json!("x".repeat(3000)))]);
    for (n, dialect) in WRITERS.into_iter().enumerate() {
        let answer = Caller::new(&sidecar, "s").write(dialect, batch.clone()).await;
        let expected = if dialect.starts_with("cf-") && dialect != "cf-http" { 1009 } else { 413 };
        assert_eq!(answer.status, expected, "{dialect}: {answer:?}");
        assert_eq!(sidecar.hits("frame_bytes").await, (n + 1) as f64, "{dialect}");
    }
    assert_eq!(head(&database, "s").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_name_every_limit_and_nobody() {
    let (_database, sidecar) = start_with_tokens(&[]).await;
    let answer = Caller::with_token(&sidecar, "the-store", &token("the-subject")).write("electric", chain(0, 1)).await;
    assert_eq!(answer.status, 200);
    let (status, metrics) = sidecar.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(
        metrics.contains("# HELP livestore_limit_hits_total")
            && metrics.contains("# TYPE livestore_limit_hits_total counter")
    );
    assert!(metrics.matches("livestore_limit_hits_total{").count() == 14, "{metrics}");
    assert!(!metrics.contains("the-store") && !metrics.contains("the-subject"), "{metrics}");
}
