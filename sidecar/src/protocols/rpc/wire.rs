//! Frames: what a client sends, and what it is sent, in both of Effect's forms.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::sync::Arc;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tracing::{Span, debug_span};

use crate::log::{AbsentArgs, Malformed, Part, StoreId};
use crate::protocols::brief;
use crate::protocols::chunks::EVENT_OVERHEAD;
use crate::telemetry::traces::Parent;

/// The most frames in one message.
const FRAMES: usize = 1000;

/// The longest id of a request. Clients count; ids are remembered.
const ID_BYTES: usize = 64;

pub const PONG: &str = r#"{"_tag":"Pong"}"#;

/// Fails every request of an Effect 4 client as a lost connection would, and keeps the connection. The RPC client sends this
/// message to itself when it loses its connection, and does not check where one comes from. LiveStore's development line pulls
/// again only if the error has a socket's error as its `cause`. The client's own errors have it as their `reason`. Effect 3
/// ignores the message, since it does not look into arrays.
pub const CONNECTION_LOST: &str = concat!(
    r#"[{"_tag":"ClientProtocolError","error":{"_tag":"RpcClientError","reason":{"_tag":"SocketCloseError","code":1012},"#,
    r#""message":"the server asks to pull again","cause":{"_tag":"SocketError","#,
    r#""~effect/socket/Socket/SocketError":"~effect/socket/Socket/SocketError","#,
    r#""reason":{"_tag":"SocketCloseError","code":1012}}}}]"#
);

/// A frame from a client. Which fields are there depends on `tag`; fields that we do not know are ignored.
#[derive(Deserialize)]
pub struct ClientFrame<'a> {
    #[serde(rename = "_tag", borrow)]
    pub kind: Cow<'a, str>,
    #[serde(borrow)]
    pub id: Option<&'a RawValue>,
    #[serde(rename = "requestId", borrow)]
    pub request_id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub tag: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub payload: Option<&'a RawValue>,
    #[serde(rename = "traceId", borrow)]
    pub trace_id: Option<Cow<'a, str>>,
    #[serde(rename = "spanId", borrow)]
    pub span_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub sampled: Option<&'a RawValue>,
}

impl ClientFrame<'_> {
    /// The part of the client's trace in which a request is carried out.
    pub fn span(&self, store: &StoreId) -> Span {
        let tag = self.tag.as_deref().unwrap_or_default();
        let id = brief(self.id.map_or("", RawValue::get));
        let span = debug_span!("rpc", otel.name = %brief(tag), otel.kind = "server", store = store.as_str(), %id);
        if let (Some(trace_id), Some(span_id)) = (&self.trace_id, &self.span_id) {
            Parent { trace_id, span_id, is_sampled: self.sampled.is_none_or(|sampled| sampled.get() != "false") }
                .adopt(&span);
        }
        span
    }
}

/// The frames of an array. Too many are not collected: a list of small values takes many times their bytes.
struct Frames<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Frames<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Array;
        impl<'de> Visitor<'de> for Array {
            type Value = Frames<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of frames")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Frames<'de>, A::Error> {
                let mut frames = Vec::new();
                while let Some(frame) = array.next_element()? {
                    if frames.len() == FRAMES {
                        return Err(A::Error::custom(format_args!("more than {FRAMES} in one message")));
                    }
                    frames.push(frame);
                }
                Ok(Frames(frames))
            }
        }
        deserializer.deserialize_seq(Array)
    }
}

/// Reads a WebSocket message: a frame, or an array of frames.
pub fn read_frames(text: &str) -> Result<Vec<ClientFrame<'_>>, Malformed> {
    let frames = if text.trim_ascii_start().starts_with('[') {
        serde_json::from_str::<Frames<'_>>(text)
            .and_then(|Frames(frames)| frames.into_iter().map(|frame| serde_json::from_str(frame.get())).collect())
    } else {
        serde_json::from_str(text).map(|frame| vec![frame])
    };
    frames.map_err(|error| Malformed::because("not a frame of Effect RPC", error))
}

/// The two wire forms of Effect RPC, told apart by the JSON type of a request's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `@effect/rpc`, as LiveStore 0.4 uses it: string ids.
    Effect3,
    /// `effect` 4: number ids.
    Effect4,
}

/// The id of a request, exactly as the client wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// `None` if it is neither a string nor a number, or longer than any client's.
    pub fn parse(id: &RawValue) -> Option<Self> {
        let text = id.get();
        let is_scalar = text.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit());
        (is_scalar && text.len() <= ID_BYTES).then(|| Self(text.into()))
    }

    pub fn form(&self) -> Form {
        if self.0.starts_with('"') { Form::Effect3 } else { Form::Effect4 }
    }

    /// The end of a request. `value` is JSON; a stream ends with `null`.
    pub fn success(&self, value: &str) -> String {
        self.exit(&format!(r#"{{"_tag":"Success","value":{value}}}"#))
    }

    /// The answer to a request that there is none of.
    pub fn unknown_tag(&self, tag: &str) -> String {
        let message = format!("Unknown request tag: {tag}");
        match self.form() {
            Form::Effect3 => defect(&message),
            Form::Effect4 => self.die(&message),
        }
    }

    /// The end of a request in an error of its schema.
    pub fn failure(&self, error: &Value) -> String {
        self.failed(&json!({"_tag": "Fail", "error": error}))
    }

    /// The end of a request in a defect: the request itself is wrong.
    pub fn die(&self, defect: &str) -> String {
        self.failed(&json!({"_tag": "Die", "defect": brief(defect)}))
    }

    /// The end of a request that the client interrupted.
    pub fn interrupted(&self) -> String {
        match self.form() {
            Form::Effect3 => self.failed(&json!({"_tag": "Interrupt", "fiberId": {"_tag": "None"}})),
            Form::Effect4 => self.failed(&json!({"_tag": "Interrupt", "fiberId": null})),
        }
    }

    fn failed(&self, reason: &Value) -> String {
        let cause = match self.form() {
            Form::Effect3 => reason.to_string(),
            Form::Effect4 => format!("[{reason}]"),
        };
        self.exit(&format!(r#"{{"_tag":"Failure","cause":{cause}}}"#))
    }

    fn exit(&self, exit: &str) -> String {
        format!(r#"{{"_tag":"Exit","requestId":{},"exit":{exit}}}"#, self.0)
    }

    /// A chunk of a pull: `remaining` events are known to follow it.
    pub fn chunk(&self, events: Part<'_>, remaining: i64, backend_id: &str) -> String {
        let (encoding, absent_args) = match self.form() {
            Form::Effect3 => ("rpc", AbsentArgs::Omit),
            Form::Effect4 => ("rpc with null", AbsentArgs::Null),
        };
        let size: usize = events.iter().map(|event| event.size() + EVENT_OVERHEAD).sum();
        let mut chunk = String::with_capacity(size + EVENT_OVERHEAD);
        let _ = write!(chunk, r#"{{"_tag":"Chunk","requestId":{},"values":[{{"batch":["#, self.0);
        events.encode_into(&mut chunk, encoding, |chunk, event| {
            for part in [
                r#"{"eventEncoded":"#,
                event.json(absent_args),
                r#","metadata":{"_tag":"Some","value":{"_tag":"SyncMessage.SyncMetadata","createdAt":""#,
                &event.created_at_iso(),
                r#""}}}"#,
            ] {
                chunk.push_str(part);
            }
        });
        let backend_id = Value::from(backend_id);
        let _ = match remaining {
            ..=0 => write!(chunk, r#"],"pageInfo":{{"_tag":"NoMore"}},"backendId":{backend_id}}}]}}"#),
            n => write!(chunk, r#"],"pageInfo":{{"_tag":"MoreKnown","remaining":{n}}},"backendId":{backend_id}}}]}}"#),
        };
        chunk
    }
}

/// A frame that no request asked for: the client sent something that cannot be answered otherwise.
pub fn defect(message: &str) -> String {
    json!({"_tag": "Defect", "defect": brief(message)}).to_string()
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    use super::*;
    use crate::log::{Batch, Events};

    fn events() -> Events {
        let batch = r#"[{"name":"e","args":{},"seqNum":1,"parentSeqNum":0,"clientId":"c","sessionId":"s"}]"#;
        Batch::parse(batch).unwrap().into_last_appended(1, DateTime::UNIX_EPOCH).into()
    }

    fn id(json: &str) -> RequestId {
        RequestId::parse(&RawValue::from_string(json.into()).unwrap()).unwrap()
    }

    proptest! {
        #[test]
        fn frames_are_json_whatever_the_text(text in any::<String>(), backend_id in any::<String>()) {
            for frame in [CONNECTION_LOST.into(), id("1").die(&text), id("\"a\"").failure(&json!({"x": text})), defect(&text), id("\"a\"").chunk(events().all(), 7, &backend_id)] {
                prop_assert!(serde_json::from_str::<Value>(&frame).is_ok(), "{}", frame);
            }
        }

        #[test]
        fn reading_frames_never_panics(text in any::<String>()) {
            let _ = read_frames(&text);
        }
    }

    #[test]
    fn ids_that_are_neither_text_nor_number_or_too_long_are_none() {
        for json in ["null", "true", "{}", "[]", &format!("\"{}\"", "x".repeat(ID_BYTES))] {
            assert_eq!(RequestId::parse(&RawValue::from_string(json.into()).unwrap()), None, "{json}");
        }
        assert_eq!((id("\"7\"").form(), id("7").form()), (Form::Effect3, Form::Effect4));
    }

    #[test]
    fn fuzz_frames() {
        /// The text of an error is cut, whatever it repeats.
        const ANSWER_BYTES: usize = 4096;

        #[derive(Deserialize)]
        struct Exit<'a> {
            #[serde(rename = "requestId", borrow)]
            request_id: &'a RawValue,
        }
        fuzzing::text_target!("frames", |text| {
            let frames = match read_frames(text) {
                Ok(frames) => frames,
                Err(error) => {
                    let answer = defect(error.text());
                    assert!(serde_json::from_str::<Value>(&answer).is_ok() && answer.len() < ANSWER_BYTES, "{answer}");
                    return;
                }
            };
            assert!(frames.len() <= FRAMES && serde_json::from_str::<IgnoredAny>(text).is_ok());
            for ClientFrame { kind, id, request_id, .. } in frames {
                for id in [id, request_id].into_iter().flatten() {
                    let Some(parsed) = RequestId::parse(id) else { continue };
                    for answer in [
                        parsed.success("null"),
                        parsed.interrupted(),
                        parsed.die(&kind),
                        parsed.chunk(events().all(), 1, &kind),
                    ] {
                        let exit: Exit<'_> = serde_json::from_str(&answer).unwrap();
                        assert_eq!(exit.request_id.get(), id.get());
                    }
                    assert!(parsed.die(&kind).len() < ANSWER_BYTES);
                }
            }
        });
    }
}
