//! What is known of a request beside its events: hooks and the operator's authorize function get it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::value::RawValue;

/// The sync payload of a client and the headers of its request that the operator forwards.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Context {
    payload: Option<Box<str>>,
    headers: Option<Box<str>>,
    /// Both, as `livestore.push_batch` takes them.
    json: Option<Box<str>>,
}

impl Context {
    /// The largest payload, in bytes: each push carries it into the database.
    pub const PAYLOAD_BYTES: usize = 64 << 10;

    /// `headers`: names in lower case.
    pub fn new(payload: Option<&RawValue>, headers: &BTreeMap<String, String>) -> Self {
        let payload = payload.map(RawValue::get).filter(|payload| *payload != "null").map(Box::from);
        let headers = (!headers.is_empty()).then(|| serde_json::json!(headers).to_string().into());
        Self::of(payload, headers)
    }

    fn of(payload: Option<Box<str>>, headers: Option<Box<str>>) -> Self {
        let json = (payload.is_some() || headers.is_some()).then(|| {
            let (payload, headers) = (payload.as_deref().unwrap_or("null"), headers.as_deref().unwrap_or("null"));
            format!(r#"{{"payload":{payload},"headers":{headers}}}"#).into()
        });
        Self { payload, headers, json }
    }

    /// The same with the payload of a single request, if that one has its own.
    pub fn with_payload(self: &Arc<Self>, payload: Option<&RawValue>) -> Arc<Self> {
        match payload.map(RawValue::get) {
            None | Some("null") => Arc::clone(self),
            Some(payload) if self.payload() == Some(payload) => Arc::clone(self),
            Some(payload) => Arc::new(Self::of(Some(payload.into()), self.headers.clone())),
        }
    }

    /// The sync payload, as JSON.
    pub fn payload(&self) -> Option<&str> {
        self.payload.as_deref()
    }

    /// The forwarded headers, as a JSON object.
    pub fn headers(&self) -> Option<&str> {
        self.headers.as_deref()
    }

    pub fn json(&self) -> Option<&str> {
        self.json.as_deref()
    }
}
