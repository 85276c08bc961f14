//! Events to push.

use serde_json::{Value, json};

/// An event that follows `parent`, with the next sequence number.
pub fn event(parent: i64, name: &str, args: Value) -> Value {
    json!({"name": name, "args": args, "seqNum": parent + 1, "parentSeqNum": parent, "clientId": "client", "sessionId": "session"})
}

/// A chain of `count` small events after `parent`.
pub fn chain(parent: i64, count: i64) -> Value {
    (parent..parent + count).map(|parent| event(parent, "todoCreated", json!({"id": parent + 1}))).collect()
}

/// The sequence numbers of events.
pub fn numbers(events: &[Value]) -> Vec<i64> {
    events.iter().map(|event| event["seqNum"].as_i64().expect("seqNum")).collect()
}

/// `1, 2, … n`: a log without gaps.
pub fn up_to(n: i64) -> Vec<i64> {
    (1..=n).collect()
}
