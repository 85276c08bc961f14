//! The messages, as JSON.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::protocols::brief;

/// The longest eventNumber and timestamp, in bytes. With `--relay-store` they are stored beside the log, whose limits do not count them.
const NUMBER_BYTES: usize = 256;

/// The clientId of the server itself.
pub const SERVER: &str = "server";

/// The fields that every message of a device has. Its `timestamp` is between the devices.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope<'a> {
    #[serde(borrow, rename = "type")]
    pub kind: Cow<'a, str>,
    #[serde(borrow, default)]
    pub client_id: Cow<'a, str>,
    #[serde(borrow, default)]
    pub session_id: Cow<'a, str>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

impl<'a> Envelope<'a> {
    /// The payload, as that of one type.
    pub fn payload<T: Deserialize<'a>>(&self) -> Result<T, Refusal> {
        let payload = self.payload.ok_or_else(|| Refusal::Payload("it is missing".into()))?;
        let payload = serde_json::from_str(payload.get());
        payload.map(|Object(payload)| payload).map_err(|error| Refusal::Payload(error.to_string()))
    }
}

/// The payload of `push`.
#[derive(Deserialize)]
pub struct Push<'a> {
    #[serde(borrow)]
    pub events: Vec<Object<Event<'a>>>,
}

/// An event of a push. What its number and its data are is between the devices.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event<'a> {
    #[serde(borrow)]
    pub event_name: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "event_number")]
    pub event_number: Option<&'a RawValue>,
    #[serde(borrow)]
    pub client_id: Cow<'a, str>,
    #[serde(borrow)]
    pub session_id: Cow<'a, str>,
    /// `None` if there was no such field, which is not the same as `null`.
    #[serde(borrow, default, deserialize_with = "present")]
    pub data: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "number")]
    pub timestamp: &'a RawValue,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

fn event_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    let value = Option::<&RawValue>::deserialize(deserializer)?;
    value.map(|value| bounded("an eventNumber", value)).transpose()
}

fn bounded<'a, E: serde::de::Error>(what: &str, value: &'a RawValue) -> Result<&'a RawValue, E> {
    match value.get().len() {
        0..=NUMBER_BYTES => Ok(value),
        _ => Err(E::custom(format!("{what} has at most {NUMBER_BYTES} bytes"))),
    }
}

/// A number in the words of its sender.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<&'de RawValue, D::Error> {
    let value = bounded::<D::Error>("a timestamp", <&RawValue>::deserialize(deserializer)?)?;
    // 1e999 has the syntax of a number, but is none to those who get it back in an ack.
    serde_json::from_str::<f64>(value.get()).map_err(|_| D::Error::custom("a timestamp is a number"))?;
    Ok(value)
}

/// A struct that is a JSON object: serde's derive would take an array for the fields in their order, too.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

/// The payload of `pull`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pull {
    /// In milliseconds.
    pub since_timestamp: f64,
}

/// The payload of `peer_pull`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerPull<'a> {
    #[serde(borrow)]
    pub request_id: Cow<'a, str>,
    #[serde(rename = "sinceTimestamp")]
    _since_timestamp: f64,
    #[serde(rename = "retentionDays")]
    _retention_days: Option<f64>,
}

/// The payload of `peer_pull_response`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerPullResponse<'a> {
    #[serde(borrow)]
    pub request_id: Cow<'a, str>,
    #[serde(rename = "events")]
    _events: Vec<IgnoredAny>,
    #[serde(rename = "hasMore")]
    _has_more: bool,
}

/// An empty JSON array.
pub fn no_events() -> Box<RawValue> {
    RawValue::from_string("[]".into()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// The answer to a push: of how many events, and the timestamp of the last.
pub fn ack(events: &[Object<Event<'_>>]) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Payload<'a> {
        received_count: usize,
        last_timestamp: Timestamp<'a>,
    }
    #[derive(Serialize)]
    #[serde(untagged)]
    enum Timestamp<'a> {
        OfLast(&'a RawValue),
        NoEvents(u8),
    }
    let last_timestamp =
        events.last().map_or(Timestamp::NoEvents(0), |Object(event)| Timestamp::OfLast(event.timestamp));
    from_server("ack", &Payload { received_count: events.len(), last_timestamp }, None::<()>)
}

/// An answer to a pull. `events`: a JSON array.
pub fn pull_response(events: &RawValue, has_more: bool, online_peers: &[impl AsRef<str>]) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Payload<'a> {
        events: &'a RawValue,
        from_client_id: &'a str,
        has_more: bool,
    }
    let peers: Vec<&str> = online_peers.iter().map(AsRef::as_ref).collect();
    from_server("pull_response", &Payload { events, from_client_id: SERVER, has_more }, Some(peers))
}

fn from_server(kind: &str, payload: &impl Serialize, online_peers: Option<impl Serialize>) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Message<'a, P, O> {
        #[serde(rename = "type")]
        kind: &'a str,
        client_id: &'a str,
        session_id: &'a str,
        timestamp: u8,
        payload: &'a P,
        #[serde(skip_serializing_if = "Option::is_none")]
        online_peers: Option<O>,
    }
    let message = Message { kind, client_id: SERVER, session_id: "", timestamp: 0, payload, online_peers };
    serde_json::to_string(&message).unwrap_or_default()
}

/// The fault of a message. The connection stays open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("Failed to parse message")]
    Unreadable { reason: String },
    #[error("malformed payload: {0}")]
    Payload(String),
    #[error("unknown type {0:?}: there are push, pull, peer_pull and peer_pull_response")]
    UnknownType(String),
    #[error("{0}")]
    NotIdentified(&'static str),
    #[error("this connection is that of another device: open one for each clientId")]
    WrongDevice,
    #[error("{0}")]
    InUse(String),
    #[error("{0}")]
    Rejected(String),
    #[error("{0}")]
    Unavailable(String),
}

impl Refusal {
    fn code(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } | Self::Payload(_) => "invalid_message",
            Self::UnknownType(_) => "unknown_type",
            Self::NotIdentified(_) => "not_identified",
            Self::WrongDevice => "wrong_device",
            Self::InUse(_) => "request_id_in_use",
            Self::Rejected(_) => "rejected",
            Self::Unavailable(_) => "unavailable",
        }
    }

    pub fn to_json(&self) -> String {
        #[derive(Serialize)]
        struct Error<'a> {
            #[serde(rename = "type")]
            kind: &'static str,
            code: &'static str,
            message: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<&'a str>,
        }
        let message = self.to_string();
        let reason = match self {
            Self::Unreadable { reason } => Some(&**reason),
            _ => None,
        };
        let error = Error { kind: "error", code: self.code(), message: &brief(&message), reason };
        serde_json::to_string(&error).unwrap_or_default()
    }
}
