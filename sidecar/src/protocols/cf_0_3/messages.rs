//! Messages, as `ws-message-types.ts` defines them.

use std::borrow::Cow;
use std::fmt::Write;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::log::{AbsentArgs, Part};
use crate::protocols::brief;
use crate::protocols::chunks::EVENT_OVERHEAD;

/// A message from a client. Which fields are there depends on `kind`; fields that we do not know are ignored.
#[derive(Deserialize)]
pub struct ClientMessage<'a> {
    #[serde(rename = "_tag", borrow)]
    pub kind: Cow<'a, str>,
    #[serde(rename = "requestId", borrow)]
    pub request_id: Cow<'a, str>,
    pub cursor: Option<i64>,
    #[serde(borrow)]
    pub batch: Option<&'a RawValue>,
    #[serde(rename = "adminSecret", borrow)]
    pub admin_secret: Option<Cow<'a, str>>,
}

/// Why a client is sent events: it asked for them, or somebody pushed them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Pull,
    Push,
}

pub const PONG: &str = r#"{"_tag":"WSMessage.Pong","requestId":"ping"}"#;

/// Events; `remaining` more are known to follow.
pub fn pull_res(reason: Reason, request_id: &str, events: Part<'_>, remaining: i64) -> String {
    let size: usize = events.iter().map(|event| event.size() + EVENT_OVERHEAD).sum();
    let mut message = String::with_capacity(size + EVENT_OVERHEAD);
    message.push_str(r#"{"_tag":"WSMessage.PullRes","batch":["#);
    events.encode_into(&mut message, "sync-cf 0.3", |message, event| {
        for part in [
            r#"{"eventEncoded":"#,
            event.json(AbsentArgs::Omit),
            r#","metadata":{"_tag":"Some","value":{"createdAt":""#,
            &event.created_at_iso(),
            r#""}}}"#,
        ] {
            message.push_str(part);
        }
    });
    let context = match reason {
        Reason::Pull => "pull",
        Reason::Push => "push",
    };
    let request_id = json!({"context": context, "requestId": request_id});
    let _ = write!(message, r#"],"requestId":{request_id},"remaining":{remaining}}}"#);
    message
}

pub fn push_ack(request_id: &str) -> String {
    tagged("PushAck", request_id, json!({}))
}

pub fn error(request_id: &str, message: &str) -> String {
    tagged("Error", request_id, json!({"message": brief(message)}))
}

pub fn admin_reset_room_res(request_id: &str) -> String {
    tagged("AdminResetRoomRes", request_id, json!({}))
}

/// `id` stands for that of the Durable Object.
pub fn admin_info_res(request_id: &str, id: &str) -> String {
    tagged("AdminInfoRes", request_id, json!({"info": {"durableObjectId": id}}))
}

fn tagged(tag: &str, request_id: &str, mut message: Value) -> String {
    message["_tag"] = format!("WSMessage.{tag}").into();
    message["requestId"] = brief(request_id).into();
    message.to_string()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::log::{Batch, Events};

    #[test]
    fn fuzz_message() {
        #[derive(Deserialize)]
        struct PullRes<'a> {
            #[serde(borrow)]
            batch: Vec<&'a RawValue>,
        }
        fuzzing::text_target!("message", |text| {
            let Ok(message) = serde_json::from_str::<ClientMessage<'_>>(text) else { return };
            let id = &*message.request_id;
            for answer in [push_ack(id), error(id, &message.kind), admin_reset_room_res(id), admin_info_res(id, "")] {
                let answer: Value = serde_json::from_str(&answer).unwrap();
                assert_eq!(answer["requestId"], *brief(id));
                assert!(answer["message"].as_str().is_none_or(|message| message.len() < 4096));
            }
            let batch = message.batch.and_then(|batch| Batch::parse(batch.get()).ok());
            let events =
                batch.map(|batch| batch.into_last_appended(usize::MAX, DateTime::UNIX_EPOCH)).unwrap_or_default();
            let answer = pull_res(Reason::Push, id, Events::from(events.clone()).all(), 0);
            let PullRes { batch } = serde_json::from_str(&answer).unwrap();
            assert_eq!(batch.len(), events.len());
        });
    }
}
