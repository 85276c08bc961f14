//! What is known of a request beside its events: hooks and the operator's authorize function get it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::value::RawValue;

/// The sync payload of a client and the headers of its request that the operator forwards.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Context {
    payload: Option<Box<str>>,
    headers: Option<Box<str>>,
}

impl Context {
    /// The largest payload, in bytes: each push carries it into the database.
    pub const PAYLOAD_BYTES: usize = 64 << 10;

    /// `headers`: names in lower case.
    pub fn new(payload: Option<&RawValue>, headers: &BTreeMap<String, String>) -> Self {
        let headers = (!headers.is_empty()).then(|| serde_json::json!(headers).to_string().into());
        Self { payload: present(payload).map(Box::from), headers }
    }

    /// The same with the payload of a single request, if that one has its own.
    pub fn with_payload(self: &Arc<Self>, payload: Option<&RawValue>) -> Arc<Self> {
        match present(payload) {
            Some(payload) if self.payload() != Some(payload) => {
                Arc::new(Self { payload: Some(payload.into()), headers: self.headers.clone() })
            }
            _ => Arc::clone(self),
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

    /// In bytes.
    pub fn size(&self) -> usize {
        [self.payload(), self.headers()].into_iter().flatten().map(str::len).sum()
    }
}

/// Effect 4 writes an absent payload as null.
fn present(payload: Option<&RawValue>) -> Option<&str> {
    payload.map(RawValue::get).filter(|payload| *payload != "null")
}
