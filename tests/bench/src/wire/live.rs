//! A client that follows a store, whatever it speaks: over a WebSocket, by Server-Sent Events, or by long polls.

use http_body_util::BodyExt;
use hyper::body::Incoming;
use livestore_tests::rpc::{Received, Rpc};
use serde_json::{Value, json};

use super::http::Http;
use super::seq_nums;

#[derive(Debug, Clone, Copy)]
pub enum Dialect {
    WebSocket,
    Sse,
    Electric,
}

impl Dialect {
    pub const ALL: [Self; 3] = [Self::WebSocket, Self::Sse, Self::Electric];
}

/// The position of a client in the log, from which its next connection goes on.
#[derive(Debug, Clone, Default)]
pub struct Cursor {
    /// The number of the last event.
    pub last: u64,
    /// The value that the server gave the client to keep: the id of the log, or Electric's handle and offset.
    pub token: Value,
}

/// Events that arrived together: their numbers, and the token to go on with.
#[derive(Debug)]
pub struct Page {
    pub events: Vec<u64>,
    pub token: Value,
}

/// A connection that follows.
pub enum Live {
    WebSocket { rpc: Box<Rpc>, owes_ack: bool },
    Sse { http: Http, store: String, body: Option<Incoming>, received: Vec<u8> },
    Electric { http: Http, store: String },
}

impl Live {
    pub async fn open(dialect: Dialect, port: u16, store: &str, cursor: &Cursor) -> Self {
        match dialect {
            Dialect::WebSocket => {
                let mut rpc = Rpc::open(&format!("ws://127.0.0.1:{port}"), store).await;
                let position = match &cursor.token {
                    Value::Null => json!({"_tag": "None"}),
                    id => {
                        json!({"_tag": "Some", "value": {"backendId": id, "eventSequenceNumber": cursor.last}})
                    }
                };
                let payload = json!({"storeId": store, "live": true, "cursor": position});
                rpc.request(json!("live"), "SyncWsRpc.Pull", payload).await;
                Self::WebSocket { rpc: Box::new(rpc), owes_ack: false }
            }
            Dialect::Sse => {
                Self::Sse { http: Http::connect(port).await, store: store.into(), body: None, received: Vec::new() }
            }
            Dialect::Electric => Self::Electric { http: Http::connect(port).await, store: store.into() },
        }
    }

    /// The next page, however long it takes; cancel safe. A server that says that something is wrong has failed.
    pub async fn next(&mut self, cursor: &Cursor) -> Page {
        match self {
            Self::WebSocket { rpc, owes_ack } => {
                if std::mem::take(owes_ack) {
                    rpc.send(json!({"_tag": "Ack", "requestId": "live"})).await;
                }
                let received = rpc.receive_patiently().await;
                let Received::Frame(frame) = received else { panic!("a live pull ended: {received:?}") };
                assert_eq!(frame["_tag"], "Chunk", "{frame}");
                *owes_ack = true;
                Page { events: seq_nums(frame.to_string().as_bytes()), token: frame["values"][0]["backendId"].clone() }
            }
            Self::Sse { http, store, body, received } => loop {
                let stream = match body {
                    Some(stream) => stream,
                    None => body.insert(stream(http, store, cursor).await),
                };
                if let Some(end) = memchr::memmem::find(received, b"\n\n") {
                    let block: Vec<u8> = received.drain(..end + 2).collect();
                    assert!(!block.starts_with(b"event: error"), "{}", String::from_utf8_lossy(&block));
                    let events = seq_nums(&block);
                    if !events.is_empty() {
                        return Page { events, token: Value::Null };
                    }
                    continue;
                }
                match stream.frame().await {
                    Some(frame) => {
                        let frame = frame.expect("the connection holds");
                        received.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
                    }
                    // Soon after it has brought something, it ends in order; the client asks for the next.
                    None => {
                        assert!(received.is_empty(), "half a message: {}", String::from_utf8_lossy(received));
                        *body = None;
                    }
                }
            },
            Self::Electric { http, store } => {
                let handle = match &cursor.token {
                    Value::Null => json!({"_tag": "None"}),
                    position => json!({"_tag": "Some", "value": position}),
                };
                let is_live = !cursor.token.is_null();
                let path = query(
                    "/api/electric",
                    &json!({
                        "_tag": "@livestore/sync-electric.Pull", "storeId": store, "payload": null, "handle": handle, "live": is_live,
                    }),
                );
                let answer = http.get(&path, &[]).await;
                let header = |name: &str| answer.headers()[name].to_str().expect("ASCII").to_string();
                let token = json!({"offset": header("electric-offset"), "handle": header("electric-handle")});
                let page = answer.into_body().collect().await.expect("a page").to_bytes();
                Page { events: seq_nums(&page), token }
            }
        }
    }

    /// Ends it as a client does that says goodbye; dropping it instead stands for a client that has lost its network.
    pub async fn close(self) {
        if let Self::WebSocket { mut rpc, .. } = self {
            rpc.send(json!({"_tag": "Interrupt", "requestId": "live"})).await;
            rpc.send_message(tokio_tungstenite::tungstenite::Message::Close(None)).await;
            rpc.closed().await;
        }
    }
}

/// The events after the cursor, as an event stream.
async fn stream(http: &mut Http, store: &str, cursor: &Cursor) -> Incoming {
    // The record that was seen last: that of event 1 is 0.
    let seen = cursor.last.checked_sub(1).map_or(json!("from-start"), |record| json!(record));
    let path = query("/api/s2", &json!({"storeId": store, "s2SeqNum": seen, "live": true}));
    http.get(&path, &[("accept", "text/event-stream")]).await.into_body()
}

fn query(path: &str, args: &Value) -> String {
    let query = serde_urlencoded::to_string([("args", args.to_string())]).expect("a query");
    format!("{path}?{query}")
}
