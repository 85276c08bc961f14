//! The common traits of the clients of the dialects, and their differences.

use livestore_tests::client::{Client, Node};
use serde_json::{Value, json};

use crate::history::{EventId, Outcome, Placed};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    CfWs,
    CfHttp,
    Cf03,
    Electric,
    S2,
}

/// The Node processes that clients live in: LiveStore 0.3 cannot be loaded beside 0.4.
#[derive(Clone)]
pub struct Nodes {
    pub new: Node,
    pub old: Node,
}

impl Dialect {
    pub const ALL: [Self; 5] = [Self::CfWs, Self::CfHttp, Self::Cf03, Self::Electric, Self::S2];

    pub fn name(self) -> &'static str {
        match self {
            Self::CfWs => "cf-ws",
            Self::CfHttp => "cf-http",
            Self::Cf03 => "cf-0.3",
            Self::Electric => "electric",
            Self::S2 => "s2",
        }
    }

    /// Whether a client of it cannot tell that a log was reset: its cursor is a number and nothing else.
    pub fn is_blind(self) -> bool {
        matches!(self, Self::Cf03 | Self::S2)
    }

    /// Whether its pushes are requests of their own, and not on a connection with its pull.
    pub fn is_http(self) -> bool {
        matches!(self, Self::CfHttp | Self::Electric | Self::S2)
    }

    /// After how many lost pulls a client is replaced, as in an app that is reloaded. That of 0.3 pulls once in its life. That of
    /// sync-cf waits longer after each lost connection of its life, up to 36 s. Others begin to pull anew themselves.
    pub fn losses_of_a_life(self) -> usize {
        match self {
            Self::Cf03 => 1,
            Self::CfWs => 3,
            Self::CfHttp | Self::Electric | Self::S2 => usize::MAX,
        }
    }

    /// Opens a client. `backend_id` is what one of sync-cf had on its disk.
    pub async fn open(self, nodes: &Nodes, url: &str, store: &str, backend_id: Option<&str>) -> Client {
        let node = if self == Self::Cf03 { &nodes.old } else { &nodes.new };
        let mut further = match self {
            Self::CfWs => json!({"options": {"ping": {"requestInterval": 5_000}}}),
            Self::CfHttp => json!({"options": {"livePull": {"pollInterval": 500}}}),
            _ => json!({}),
        };
        if let Some(backend_id) = backend_id {
            further["backendId"] = json!(backend_id);
        }
        node.open_with(self.name(), url, store, further).await
    }
}

/// An event as it is pushed.
pub fn event(placed: Placed) -> Value {
    let Placed { seq_num, event: EventId { client, n } } = placed;
    json!({
        "name": "written", "args": {"client": client, "n": n}, "seqNum": seq_num, "parentSeqNum": seq_num - 1,
        "clientId": format!("c{client}"), "sessionId": "s",
    })
}

/// An event as it comes. One that is not ours has no place in any log here, and is found as a phantom.
pub fn placed(event: &Value) -> Placed {
    let number = |name: &str| event["args"][name].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(u32::MAX);
    let id = EventId { client: number("client"), n: number("n") };
    let seq_num = event["seqNum"].as_i64().unwrap_or(-1);
    let is_whole = event["clientId"] == format!("c{}", id.client)
        && event["name"] == "written"
        && event["parentSeqNum"] == seq_num - 1;
    let event_id = if is_whole { id } else { EventId { client: u32::MAX, n: u32::MAX } };
    Placed { seq_num, event: event_id }
}

/// Those of some events that the operator has erased.
pub fn erased(events: &[Value]) -> Vec<EventId> {
    events.iter().filter(|event| event["args"]["erased"] == true).map(|event| placed(event).event).collect()
}

/// The outcome of a push, as its error tells it.
pub fn outcome(error: &Value) -> Outcome {
    let text = error.to_string();
    match error["_tag"].as_str() {
        Some("ServerAheadError") => Outcome::ServerAhead,
        Some("BackendIdMismatchError") => Outcome::Reset,
        // The clients of sync-electric and sync-s2 have the status alone, and repeat the push until their pull brings the rest.
        _ if text.contains("(409") || text.contains("\"status\":409") => Outcome::ServerAhead,
        // 0.3 has only a text.
        _ if text.contains("but expected e") => Outcome::ServerAhead,
        _ => Outcome::Unknown,
    }
}

/// Whether a live pull ended because its log was reset.
pub fn is_reset(error: &Value) -> bool {
    let text = error.to_string();
    error["_tag"] == "BackendIdMismatchError" || text.contains("was reset") || text.contains("status code: 410")
}
