//! `@livestore/sync-s2` 0.4.0 from npm, unmodified, its recording, and its endpoint by hand. The behaviour that it shares with
//! other clients is tested in `client.rs` and `shared_store.rs`.

use std::time::{Duration, Instant};

use livestore_tests::breaker::Breaker;
use livestore_tests::client::Node;
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event, numbers, up_to};
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::sse::{Message, Messages};
use livestore_tests::{eventually, root};
use reqwest::{Client, Method, RequestBuilder, Url};
use serde_json::{Value, json};

/// A pull by hand; the cursor is the record that was seen last.
fn pull(sidecar: &Sidecar, store: &str, cursor: Option<i64>, live: bool) -> RequestBuilder {
    let cursor = cursor.map_or(json!("from-start"), |seen| json!(seen));
    pull_with(sidecar, &json!({"storeId": store, "s2SeqNum": cursor, "live": live}).to_string())
}

fn pull_with(sidecar: &Sidecar, args: &str) -> RequestBuilder {
    let url = format!("{}/api/s2", sidecar.http_url());
    Client::new().get(Url::parse_with_params(&url, [("args", args)]).unwrap())
}

fn request(sidecar: &Sidecar, method: Method, body: impl ToString) -> RequestBuilder {
    Client::new().request(method, format!("{}/api/s2", sidecar.http_url())).body(body.to_string())
}

async fn answer(request: RequestBuilder) -> (u16, Value) {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default())
}

/// The sequence numbers of the events in batches.
fn events(messages: &[Message]) -> Vec<i64> {
    let batches = messages.iter().filter(|message| message.event == "batch");
    let records = batches.flat_map(|batch| batch.json()["records"].as_array().unwrap().clone());
    let event = |record: Value| serde_json::from_str::<Value>(record["body"].as_str().unwrap()).unwrap();
    records.map(|record| event(record)["seqNum"].as_i64().unwrap()).collect()
}

async fn talkative(database: &Database) -> Sidecar {
    Start::new(database.url("sidecar")).arguments(&["--log", "info,livestore_sidecar::protocols=debug"]).ready().await
}

fn pulls(sidecar: &Sidecar) -> usize {
    sidecar.log().matches("\"message\":\"pull\"").count()
}

async fn push(database: &Database, store: &str, batch: Value) {
    database.admin().await.execute("select livestore.push($1, $2)", &[&store, &batch]).await.unwrap();
}

/// The contents of a message without its times.
fn normalised(message: &Message) -> (String, Option<String>, Value) {
    let mut data = serde_json::from_str(&message.data).unwrap_or_else(|_| json!(message.data));
    fn forget(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if name == "timestamp" {
                        *value = json!(value.as_i64().unwrap() > 1_700_000_000_000);
                    }
                    forget(value);
                }
            }
            Value::Array(values) => values.iter_mut().for_each(forget),
            _ => {}
        }
    }
    forget(&mut data);
    (message.event.clone(), message.id.clone(), data)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recording_gets_the_same_answers() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let recording = std::fs::read_to_string(root().join("tests/wire/sync-s2-0.4.0.jsonl")).unwrap();
    let client = Client::new();
    let mut compared = 0;
    let mut live: Option<(Messages, Vec<Message>)> = None;
    for line in recording.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let (recorded, expected) = (&line["request"], &line["response"]);
        let method: Method = recorded["method"].as_str().unwrap().parse().unwrap();
        let url = format!("{}{}", sidecar.http_url(), recorded["url"].as_str().unwrap());
        let mut request = client.request(method.clone(), url).header("accept", recorded["accept"].as_str().unwrap());
        if !recorded["body"].is_null() {
            request = request.body(recorded["body"].to_string());
        }
        if method != Method::GET {
            let response = request.send().await.unwrap();
            assert_eq!(json!(response.status().as_u16()), expected["status"]);
            let kind = response.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_string());
            assert_eq!(json!(kind), expected["contentType"], "{recorded}");
            assert_eq!(json!(response.text().await.unwrap()), expected["body"]);
            compared += 1;
            continue;
        }
        let mut messages = Messages::of(request).await;
        assert_eq!(json!(messages.response.status().as_u16()), expected["status"]);
        assert_eq!(json!(messages.response.headers()["content-type"].to_str().unwrap()), expected["contentType"]);
        let expected = parse_all(expected["body"].as_str().unwrap());
        if recorded["args"]["live"] == true {
            let first = messages.next().await.unwrap();
            assert_eq!(normalised(&first), normalised(&expected[0]));
            live = Some((messages, expected[1..].to_vec()));
            compared += 1;
        } else {
            let received: Vec<_> = messages.rest().await.iter().map(normalised).collect();
            assert_eq!(received, expected.iter().map(normalised).collect::<Vec<_>>());
            compared += received.len();
        }
    }
    let (mut messages, expected) = live.unwrap();
    for expected in &expected {
        assert_eq!(normalised(&messages.next().await.unwrap()), normalised(expected));
        compared += 1;
    }
    assert_eq!(compared, 10, "answers and messages of the original");
}

fn parse_all(body: &str) -> Vec<Message> {
    body.split("\n\n").filter(|block| !block.is_empty()).map(livestore_tests::sse::parse).map(Option::unwrap).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_of_10_000_events_comes_in_bounded_batches_with_what_remains() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    for start in (0..10_000).step_by(1000) {
        push(&database, "long", chain(start, 1000)).await;
    }
    push(&database, "long", (10_000..10_009).map(|parent| event(parent, "e", json!("x".repeat(400_000)))).collect())
        .await;
    let messages = Messages::of(pull(&sidecar, "long", None, false)).await.rest().await;
    assert_eq!(events(&messages), up_to(10_009));
    let (done, batches) = messages.split_last().unwrap();
    assert_eq!((&*done.event, &*done.data), ("message", "[DONE]"));
    let (mut count, mut bytes) = (0, 0);
    for batch in batches {
        let records = batch.json()["records"].as_array().unwrap().clone();
        let sizes: Vec<usize> = records.iter().map(|record| 8 + record["body"].as_str().unwrap().len()).collect();
        assert!(records.len() <= 1000 && sizes.iter().sum::<usize>() <= 1 << 20);
        (count, bytes) = (count + records.len(), bytes + sizes.iter().sum::<usize>());
        assert_eq!(batch.id, Some(format!("{},{count},{bytes}", records.last().unwrap()["seq_num"])));
    }
    let client = Node::sync_backend().open("s2", &sidecar.url(), "long").await;
    let pages = client.pages(None).await.unwrap();
    let mut remaining = 10_009;
    for page in &pages {
        remaining -= page["batch"].as_array().unwrap().len();
        if remaining > 0 {
            assert_eq!(page["pageInfo"], json!({"_tag": "MoreKnown", "remaining": remaining}));
        }
    }
    assert_eq!(pages.last().unwrap()["pageInfo"]["_tag"], "NoMore");
    let mut live = client.live(Some(9_000)).await;
    assert_eq!(numbers(&live.events(1009).await), (9_001..=10_009).collect::<Vec<_>>());
}

/// The client takes the end of the stream for the end of the log.
#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_lets_a_read_come_to_its_end() {
    let database = Database::new().await;
    for head in 0..24 {
        push(&database, "s", json!([event(head, "blob", json!("x".repeat(800_000)))])).await;
    }
    let sidecar = Sidecar::on(&database).await;
    let mut stream = Messages::of(pull(&sidecar, "s", None, false)).await;
    let mut messages = vec![stream.next().await.unwrap()];
    let port = sidecar.port();
    let ended = tokio::spawn(sidecar.terminate());
    eventually("no connection is taken any more", || async {
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err()
    })
    .await;
    messages.extend(stream.rest().await);
    assert_eq!(events(&messages), up_to(24));
    assert!(ended.await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_an_error_and_no_log_forks() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let node = Node::sync_backend();
    let (a, b) = (node.open("s2", &sidecar.url(), "s").await, node.open("s2", &sidecar.url(), "s").await);
    let mut live = a.live(None).await;
    b.push(chain(0, 7)).await.unwrap();
    let error = a.push(json!([event(3, "other", json!({}))])).await.unwrap_err();
    assert_eq!(error["_tag"], "UnknownError", "the client tries again");
    assert_eq!(numbers(&live.events(7).await), up_to(7));
    a.push(json!([event(7, "other", json!({}))])).await.unwrap();
    a.push(json!([event(7, "other", json!({}))])).await.unwrap();
    let batch = json!({"storeId": "s", "batch": [event(3, "another", json!({}))]});
    let (status, body) = answer(request(&sidecar, Method::POST, &batch)).await;
    assert_eq!(status, 409);
    assert_eq!(body, json!({"success": false, "error": "the batch builds on event 3, but the head of the log is 8"}));
}

/// When a stream breaks off, the client asks again with the cursor that it began with, and would get events that it has already.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_has_brought_something_ends_and_is_resumed_without_a_gap_or_a_repeat() {
    let database = Database::new().await;
    let sidecar = talkative(&database).await;
    let network = Breaker::to(sidecar.port()).await;
    let client = Node::sync_backend().open("s2", &format!("http://127.0.0.1:{}", network.port()), "s").await;
    let mut live = client.live(None).await;
    assert!(live.page().await.is_empty());
    let mut head = 0;
    for _ in 0..3 {
        push(&database, "s", chain(head, 2)).await;
        assert_eq!(numbers(&live.events(2).await), [head + 1, head + 2]);
        head += 2;
        let before = pulls(&sidecar);
        eventually("the client asks again", || async { pulls(&sidecar) > before }).await;
        network.cut();
        network.mend();
    }
    push(&database, "s", chain(head, 1)).await;
    assert_eq!(numbers(&live.events(1).await), [head + 1]);
    assert!(live.is_quiet_for(Duration::from_secs(3)).await);
    let count = pulls(&sidecar);
    assert!(live.is_quiet_for(Duration::from_secs(3)).await);
    assert_eq!(pulls(&sidecar), count, "it waits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_soon_also_when_there_is_more_and_more() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let writer = database.admin().await;
    let writing = tokio::spawn(async move {
        for head in 0.. {
            writer.execute("select livestore.push('busy', $1)", &[&chain(head, 1)]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let mut seen: Vec<i64> = Vec::new();
    for _ in 0..3 {
        let since = Instant::now();
        let last = seen.last().map(|seq_num| seq_num - 1);
        seen.extend(events(&Messages::of(pull(&sidecar, "busy", last, true)).await.rest().await));
        assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    }
    writing.abort();
    assert_eq!(seen, up_to(seen.len() as i64));
}

/// The client takes no negative number.
#[tokio::test(flavor = "multi_thread")]
async fn a_time_before_1970_stops_no_client() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    push(&database, "s", chain(0, 3)).await;
    let age = "update livestore.eventlog_1 set \"createdAt\" = '1969-12-31' where \"seqNum\" > 1";
    database.admin().await.batch_execute(age).await.unwrap();
    let client = Node::sync_backend().open("s2", &sidecar.url(), "s").await;
    assert_eq!(numbers(&client.pull(None).await.unwrap()), up_to(3));
    let (_, tail) = answer(Client::new().get(format!("{}/v1/streams/s/records/tail", sidecar.http_url()))).await;
    assert_eq!(tail["tail"], json!({"seq_num": 3, "timestamp": 0}));
    let appended = json!({"records": [{"body": event(3, "e", json!({})).to_string()}]});
    let (status, appended) = answer(
        Client::new()
            .post(format!("{}/v1/streams/s/records", sidecar.http_url()))
            .header("content-type", "application/json")
            .body(appended.to_string()),
    )
    .await;
    assert_eq!((status, &appended["tail"]["seq_num"]), (200, &json!(4)), "{appended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_exist_is_an_empty_stream() {
    let database = Database::new().await;
    let sidecar = talkative(&database).await;
    let client = Node::sync_backend().open("s2", &sidecar.url(), "new").await;
    let mut live = client.live(None).await;
    assert!(live.page().await.is_empty());
    assert!(live.is_quiet_for(Duration::from_secs(3)).await);
    assert_eq!(pulls(&sidecar), 2, "one request, and one that waits");
    let stores = "select count(*) from livestore.stores";
    assert_eq!(database.admin().await.query_one(stores, &[]).await.unwrap().get::<_, i64>(0), 0);
    push(&database, "new", chain(0, 1)).await;
    assert_eq!(numbers(&live.events(1).await), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_stream_pings_and_says_where_the_tail_is() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    push(&database, "s", chain(0, 3)).await;
    let request = pull(&sidecar, "s", Some(2), true).header("accept-encoding", "gzip");
    let mut messages = Messages::of(request).await;
    let headers = messages.response.headers().clone();
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
    assert_eq!((header("x-accel-buffering"), header("content-encoding")), (Some("no"), None));
    assert_eq!(header("cache-control"), Some("no-store, no-transform"));
    let since = Instant::now();
    for _ in 0..2 {
        let ping = messages.next().await.unwrap();
        assert_eq!((&*ping.event, &ping.json()["tail"]["seq_num"]), ("ping", &json!(3)));
    }
    assert!((5..25).contains(&since.elapsed().as_secs()), "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_gone_is_noticed_within_seconds() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    push(&database, "s", chain(0, 1)).await;
    let before = sidecar.sockets();
    let mut streams = Vec::new();
    for _ in 0..50 {
        let mut stream = Messages::of(pull(&sidecar, "s", Some(0), true)).await;
        assert_eq!(stream.next().await.unwrap().event, "ping");
        streams.push(stream);
    }
    assert!(sidecar.sockets() >= before + 50);
    drop(streams);
    let since = Instant::now();
    eventually("their sockets are closed", || async { sidecar.sockets() <= before + 5 }).await;
    assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_that_is_not_one_of_the_log_is_an_error_and_not_an_end() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let client = Node::sync_backend().open("s2", &sidecar.url(), "s").await;
    client.push(chain(0, 5)).await.unwrap();
    client.pull(None).await.unwrap();
    database.admin().await.execute("select livestore.reset_store('s')", &[]).await.unwrap();
    let error = client.pull(Some(5)).await.unwrap_err();
    assert!(error.to_string().contains("has lost events that this client has seen"), "{error}");
    let end = client.live(Some(5)).await.next().await;
    assert_eq!((&end["event"], &end["error"]["_tag"]), (&json!("fail"), &json!("UnknownError")), "{end}");
    client.push(chain(0, 1)).await.unwrap();
    assert_eq!(numbers(&client.pull(None).await.unwrap()), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_get_an_error_and_change_nothing() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--max-frame-bytes", "1000"]).ready().await;
    let args = json!({"storeId": "s", "s2SeqNum": 0, "live": true}).to_string();
    for args in [
        String::new(),
        "{}".into(),
        "[1".into(),
        args.replace("\"s\"", "\"\""),
        args.replace(":0", ":-1"),
        args.replace(":0", ":1.5"),
        args.replace(":0", ":9007199254740991"),
        args.replace(":0", ":\"start\""),
        args.replace("true", "1"),
    ] {
        let messages = Messages::of(pull_with(&sidecar, &args)).await;
        assert_eq!(messages.response.status(), 400, "{args}");
        let messages = messages.rest().await;
        assert_eq!((messages.len(), &*messages[0].event), (1, "error"), "what the client reads: {args}");
        assert!(!messages[0].data.is_empty());
    }
    for (body, status) in [
        (String::new(), 400),
        ("{}".into(), 400),
        (json!({"storeId": "s", "batch": [1]}).to_string(), 400),
        (json!({"storeId": "", "batch": []}).to_string(), 400),
        (json!({"storeId": "s", "batch": [event(0, "e", json!({})), event(5, "e", json!({}))]}).to_string(), 400),
        (json!({"storeId": "s".repeat(1000), "batch": []}).to_string(), 413),
        (json!({"storeId": "s", "batch": []}).to_string(), 200),
    ] {
        let (answered, text) = answer(request(&sidecar, Method::POST, &body)).await;
        assert_eq!((answered, &text["success"]), (status, &json!(status == 200)), "{body}: {text}");
    }
    assert_eq!(answer(request(&sidecar, Method::DELETE, "")).await.0, 405);
    assert_eq!(answer(request(&sidecar, Method::HEAD, "")).await.0, 200);
    let stores = "select count(*) from livestore.stores";
    assert_eq!(database.admin().await.query_one(stores, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_told_in_the_words_of_the_stream() {
    let database = Database::new().await;
    let may = "create function may(text, action text, payload json) returns boolean language plpgsql as
               $$ begin if action = 'pull' and payload->>'user' = 'eve' then raise exception E'not\nyou'; end if; return action <> 'push'; end $$";
    database.everywhere(may).await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--authorize-function", "public.may"]).ready().await;
    let open = async |user: &str| {
        let payload = json!({"payload": {"user": user}});
        Node::sync_backend().open_with("s2", &sidecar.url(), "s", payload).await
    };
    let (ann, eve) = (open("ann").await, open("eve").await);
    assert!(ann.pull(None).await.unwrap().is_empty());
    for error in [eve.pull(None).await.unwrap_err(), eve.live(None).await.next().await] {
        assert!(error.to_string().contains("not\\nyou"), "{error}");
    }
    assert!(ann.push(chain(0, 1)).await.unwrap_err().to_string().contains("403"));
    let silent = "create or replace function may(text, action text, payload json) returns boolean language plpgsql as
                  $$ begin raise exception ''; end $$";
    database.everywhere(silent).await;
    assert!(ann.pull(None).await.unwrap_err().to_string().contains("refused"), "a refusal without a word");
    let off = Start::new(database.url("sidecar")).arguments(&["--dialects", "cf-ws"]).ready().await;
    assert_eq!(answer(request(&off, Method::HEAD, "")).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_nothing_fails_that_can_wait() {
    let database = Database::new().await;
    let postgres = Breaker::to(database.cluster().port()).await;
    let url = database.url_at("sidecar", postgres.port());
    let sidecar = Start::new(url).arguments(&["--push-timeout", "1s"]).ready().await;
    push(&database, "s", chain(0, 2)).await;
    let mut following = Messages::of(pull(&sidecar, "s", Some(0), true)).await;
    assert_eq!(events(&[following.next().await.unwrap()]), [2]);
    assert!(following.next().await.is_none(), "it ends in order");
    postgres.cut();
    assert_eq!(answer(request(&sidecar, Method::HEAD, "")).await.0, 200);
    let (status, _) = answer(request(&sidecar, Method::POST, json!({"storeId": "s", "batch": chain(2, 1)}))).await;
    assert_eq!(status, 503, "a push is tried again");
    let waiting = [(None, false), (Some(0), true)].map(|(cursor, live)| {
        let request = pull(&sidecar, "s", cursor, live);
        tokio::spawn(async move {
            let mut messages = Messages::of(request).await;
            let mut signs = 0;
            loop {
                let message = messages.next().await.unwrap();
                if message.event != "ping" {
                    return (signs + messages.comments, message);
                }
                signs += 1;
            }
        })
    });
    tokio::time::sleep(Duration::from_secs(12)).await;
    postgres.mend();
    for (waiting, expected) in waiting.into_iter().zip([vec![1, 2], vec![2]]) {
        let (signs, first) = waiting.await.unwrap();
        assert_eq!(events(&[first]), expected);
        assert!(signs > 0, "it says that it is alive");
    }
}
