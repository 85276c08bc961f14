//! The shape API: `ShapeStream` of `@electric-sql/client` and LiveStore's client behind a server as LiveStore's guide shows
//! it, both from npm and unmodified.

use std::time::{Duration, Instant};

use livestore_tests::client::Node;
use livestore_tests::cluster::Database;
use livestore_tests::device::Device;
use livestore_tests::events::{chain, numbers, up_to};
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::{PATIENCE, eventually};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

const TABLE: &str = "\"eventlog_6_todo_app\"";

async fn push(database: &Database, store: &str, batch: Value) {
    database.admin().await.execute("select livestore.push($1, $2)", &[&store, &batch]).await.unwrap();
}

/// A `ShapeStream` on the log of `todo-app`.
struct Stream {
    node: Node,
    sub: &'static str,
    messages: UnboundedReceiver<Value>,
}

impl Stream {
    async fn follow(node: &Node, sub: &'static str, sidecar: &Sidecar, further: Value) -> Self {
        let messages = node.messages_of(sub);
        let mut params =
            json!({"sub": sub, "url": format!("{}/v1/shape", sidecar.http_url()), "params": {"table": TABLE}});
        for (key, value) in further.as_object().unwrap() {
            params[key] = value.clone();
        }
        node.call("follow", params).await.unwrap();
        Self { node: node.clone(), sub, messages }
    }

    async fn next(&mut self) -> Value {
        tokio::time::timeout(PATIENCE, self.messages.recv()).await.expect("a message").expect("a message")
    }

    /// The values of the next rows.
    async fn rows(&mut self, count: usize) -> Vec<Value> {
        let mut rows = Vec::new();
        while rows.len() < count {
            let page = self.next().await;
            assert_eq!(page["event"], "page", "{page}");
            for message in page["value"].as_array().unwrap() {
                assert!(message["headers"]["control"] != "must-refetch", "{message}");
                rows.extend(message.get("value").cloned());
            }
        }
        rows
    }

    async fn state(&self) -> Value {
        self.node.call("state", json!({"sub": self.sub})).await.unwrap()
    }

    async fn is_up_to_date(&self) {
        eventually("the stream is up to date", || async { self.state().await["isUpToDate"] == true }).await;
    }
}

/// `seqNum` of rows, which a client of Electric has as big integers.
fn seq_nums(rows: &[Value]) -> Vec<i64> {
    rows.iter().map(|row| row["seqNum"].as_str().unwrap().parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shape_stream_follows_a_log_and_catches_up_after_restarts_in_both_modes() {
    let database = Database::new().await;
    let mut sidecar = Sidecar::on(&database).await;
    let port = sidecar.port();
    push(&database, "todo-app", chain(0, 2500)).await;
    let node = Node::shape_stream();
    let mut polling = Stream::follow(&node, "polling", &sidecar, json!({})).await;
    let mut streaming = Stream::follow(&node, "streaming", &sidecar, json!({"liveSse": true})).await;
    for stream in [&mut polling, &mut streaming] {
        let rows = stream.rows(2500).await;
        assert_eq!(seq_nums(&rows), up_to(2500));
        let value = json!({"seqNum": "7", "parentSeqNum": "6", "name": "todoCreated", "args": {"id": 7}, "clientId": "client", "sessionId": "session"});
        assert_eq!(rows[6], value, "parsed by the types of electric-schema");
        stream.is_up_to_date().await;
    }
    push(&database, "todo-app", chain(2500, 1)).await;
    assert_eq!(seq_nums(&polling.rows(1).await), [2501]);
    assert_eq!(seq_nums(&streaming.rows(1).await), [2501]);
    for restart in 0..2 {
        sidecar.kill();
        let head = 2501 + restart * 10;
        push(&database, "todo-app", chain(head, 10)).await;
        sidecar = Start::new(database.url("sidecar")).port(port).ready().await;
        let expected: Vec<_> = (head + 1..=head + 10).collect();
        assert_eq!(seq_nums(&polling.rows(10).await), expected);
        assert_eq!(seq_nums(&streaming.rows(10).await), expected);
    }
    let requests = streaming.state().await["requests"].clone();
    let last = requests.as_array().unwrap().last().unwrap();
    assert_eq!(last["params"]["live_sse"], "true", "the stream has not fallen back to polling: {last}");
    assert_eq!(last["headers"]["content-type"], "text/event-stream");

    // A later client goes on from the position of an earlier one.
    let state = polling.state().await;
    push(&database, "todo-app", chain(2521, 3)).await;
    assert_eq!(seq_nums(&polling.rows(3).await), [2522, 2523, 2524]);
    let further = json!({"offset": state["offset"], "handle": state["handle"], "subscribe": false});
    let mut later = Stream::follow(&node, "later", &sidecar, further).await;
    assert_eq!(seq_nums(&later.rows(3).await), [2522, 2523, 2524]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shape_stream_starts_over_when_the_log_was_reset() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    push(&database, "todo-app", chain(0, 3)).await;
    let node = Node::shape_stream();
    for (name, further) in [("polling", json!({})), ("streaming", json!({"liveSse": true}))] {
        let mut stream = Stream::follow(&node, name, &sidecar, further).await;
        let rows = stream.rows(1).await.len();
        if rows < 3 {
            stream.rows(3 - rows).await;
        }
        stream.is_up_to_date().await;
        database.admin().await.execute("select livestore.reset_store('todo-app')", &[]).await.unwrap();
        push(&database, "todo-app", chain(0, 2)).await;
        let mut events = Vec::new();
        let mut was_told = false;
        while events.len() < 2 {
            for message in stream.next().await["value"].as_array().unwrap() {
                was_told |= message["headers"]["control"] == "must-refetch";
                events.extend(message.get("value").cloned());
            }
        }
        assert!(was_told, "{name}");
        assert_eq!(seq_nums(&events), [1, 2], "{name}");
        push(&database, "todo-app", chain(2, 1)).await;
        assert_eq!(seq_nums(&stream.rows(1).await), [3], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_offsets_and_modes_are_honoured() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    push(&database, "todo-app", chain(0, 3)).await;
    let node = Node::shape_stream();
    let params = json!({"table": TABLE, "columns": ["seqNum", "clientId"], "replica": "full"});
    let mut few = Stream::follow(&node, "columns", &sidecar, json!({"params": params})).await;
    let rows = few.rows(3).await;
    assert_eq!(rows[2], json!({"seqNum": "3", "clientId": "client"}));
    for (name, further) in [("now", json!({"offset": "now"})), ("changes", json!({"log": "changes_only"}))] {
        let mut stream = Stream::follow(&node, name, &sidecar, further).await;
        stream.is_up_to_date().await;
        let head: i64 =
            database.admin().await.query_one("select livestore.head('todo-app')", &[]).await.unwrap().get(0);
        push(&database, "todo-app", chain(head, 1)).await;
        assert_eq!(seq_nums(&stream.rows(1).await), [head + 1], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn livestore_syncs_through_a_server_as_its_guide_shows_it() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--electric-secret", "42"]).ready().await;
    let proxy = Node::electric_proxy();
    let listening = proxy.call("listen", json!({"sidecar": sidecar.http_url(), "apiSecret": "42"})).await.unwrap();
    let endpoint = listening["url"].as_str().unwrap();
    let node = Node::sync_backend();
    let options = json!({"options": {"endpoint": endpoint}});
    let store = "Todo-App 1/ä";
    let client = node.open_with("electric", endpoint, store, options).await;
    let mut live = client.live(None).await;
    assert!(live.page().await.is_empty(), "there is no such store yet");
    let since = Instant::now();
    client.push(chain(0, 2)).await.unwrap();
    assert_eq!(numbers(&live.events(2).await), [1, 2]);
    assert!(since.elapsed() < Duration::from_secs(15), "not found before the next poll: {:?}", since.elapsed());
    let other = node.open("cf-ws", &sidecar.url(), store).await;
    other.push(chain(2, 1500)).await.unwrap();
    assert_eq!(numbers(&live.events(1500).await), (3..=1502).collect::<Vec<_>>());
    assert_eq!(numbers(&client.pull(None).await.unwrap()), up_to(1502));
    // A page for each push that was seen apart, so how many pulls that took is up to the machine; a quiet log takes none.
    let before = proxy.call("pulls", json!({})).await.unwrap().as_array().unwrap().len();
    assert!(live.is_quiet_for(Duration::from_secs(2)).await);
    let pulls = proxy.call("pulls", json!({})).await.unwrap();
    assert!(pulls.as_array().unwrap().iter().all(|pull| pull["status"] == 200), "{pulls}");
    assert_eq!(pulls[0]["params"]["table"], "\"eventlog_6_Todo_App_1__\"");
    let more = pulls.as_array().unwrap().len() - before;
    assert!(more <= 2, "{more} pulls of a log in which nothing happens");

    // A name of more than 63 characters is a hash.
    let long = "ä😀".repeat(60);
    let client = node.open_with("electric", endpoint, &long, json!({"options": {"endpoint": endpoint}})).await;
    client.push(chain(0, 2)).await.unwrap();
    assert_eq!(numbers(&client.pull(None).await.unwrap()), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_client_behind_such_a_server_shares_its_table_with_one_of_sync_cf() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let proxy = Node::electric_proxy();
    let listening = proxy.call("listen", json!({"sidecar": sidecar.http_url()})).await.unwrap();
    // The client asks for /api/electric of it, which this server takes for any path.
    let (a, b) =
        tokio::join!(Device::open_electric("a", listening["url"].as_str().unwrap()), Device::open("b", sidecar.port()));
    let mut ids = Vec::new();
    for (id, device) in [("1", &a), ("2", &b), ("3", &a), ("4", &b)] {
        device.create(id).await;
        ids.push(id);
        tokio::join!(a.settles(&ids), b.settles(&ids));
    }
}
