//! The HTTP protocol of sync-cf by hand: a request, and the frames of its answer.

use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};

use crate::PATIENCE;
use crate::sidecar::Sidecar;

/// The frames of an answer, and its status.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub frames: Vec<Value>,
}

impl Answer {
    /// The `exit` of the only request.
    pub fn exit(&self) -> &Value {
        let last = self.frames.last().expect("a frame");
        assert_eq!(last["_tag"], "Exit", "{last}");
        &last["exit"]
    }

    /// The sequence numbers of all events in it.
    pub fn numbers(&self) -> Vec<i64> {
        let batches = self.frames.iter().filter_map(|frame| frame.pointer("/values/0/batch")?.as_array());
        batches.flatten().map(|event| event["eventEncoded"]["seqNum"].as_i64().expect("a number")).collect()
    }
}

/// A POST to a store, for what a test adds to it.
pub fn post(sidecar: &Sidecar, store: &str, body: impl ToString) -> RequestBuilder {
    let url = format!("{}/?storeId={store}&transport=http", sidecar.http_url());
    let client = reqwest::Client::builder().no_gzip().build().expect("a client");
    client.post(url).header("content-type", "application/json").body(body.to_string())
}

pub async fn send(request: RequestBuilder) -> Answer {
    read(request.send().await.expect("an answer")).await
}

pub async fn read(response: Response) -> Answer {
    let status = response.status().as_u16();
    let text = tokio::time::timeout(PATIENCE, response.text()).await.expect("an answer").expect("a whole answer");
    let frames = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{status}: {error}: {text}"));
    Answer { status, frames }
}

/// A request; `id` is a string for the Effect 3 form, a number for Effect 4.
pub fn request(id: Value, tag: &str, payload: Value) -> Value {
    json!({"_tag": "Request", "id": id, "tag": tag, "payload": payload, "headers": []})
}

pub fn push(store: &str, batch: Value) -> Value {
    let payload = json!({"storeId": store, "batch": batch, "backendId": {"_tag": "None"}});
    request(json!("0"), "SyncHttpRpc.Push", payload)
}

/// A pull; the cursor is a backend id and a sequence number.
pub fn pull(store: &str, cursor: Option<(&str, i64)>) -> Value {
    let cursor = match cursor {
        None => json!({"_tag": "None"}),
        Some((id, number)) => json!({"_tag": "Some", "value": {"backendId": id, "eventSequenceNumber": number}}),
    };
    request(json!("0"), "SyncHttpRpc.Pull", json!({"storeId": store, "cursor": cursor}))
}

pub fn ping(store: &str) -> Value {
    request(json!("0"), "SyncHttpRpc.Ping", json!({"storeId": store}))
}
