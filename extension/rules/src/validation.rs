//! Reading a batch: JSON text in, a chain of events or the first thing that is wrong with it out.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The largest sequence number: what a JavaScript client can count to without losing precision.
pub const MAX_SEQ_NUM: i64 = (1 << 53) - 1;

/// The greatest nesting of `args`. Postgres' JSON functions recurse, so that a value stored without a bound could be stored but
/// never queried.
pub const MAX_ARGS_DEPTH: usize = 512;

// Our own texts instead of those of serde, because the portable flavour has to raise the same ones
// (sql/flavours/portable/batches.sql).
const NOT_A_BATCH: &str = "not a JSON array of events";
const NOT_AN_EVENT: &str = "not an event, which has name, clientId and sessionId (strings), seqNum and parentSeqNum \
                            (integers), each once, and args at most once";

/// An event as LiveStore clients encode it (`LiveStoreEvent.Global.Encoded`), borrowed from the text of its batch.
/// Fields that LiveStore does not know are ignored, as LiveStore itself ignores them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event<'a> {
    #[serde(borrow)]
    pub name: Cow<'a, str>,
    /// The exact text that the client sent; `None` if there was no such field (which is not the same as `null`).
    #[serde(borrow, default, deserialize_with = "present")]
    pub args: Option<Args<'a>>,
    pub seq_num: i64,
    pub parent_seq_num: i64,
    #[serde(borrow)]
    pub client_id: Cow<'a, str>,
    #[serde(borrow)]
    pub session_id: Cow<'a, str>,
}

/// JSON text, compared byte for byte.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(transparent)]
pub struct Args<'a>(#[serde(borrow)] &'a RawValue);

impl<'a> Args<'a> {
    pub fn text(self) -> &'a str {
        self.0.get()
    }
}

impl PartialEq for Args<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for Args<'_> {}

/// Without this, serde would read a `null` as an absent field.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Args<'de>>, D::Error> {
    Args::deserialize(deserializer).map(Some)
}

/// Why a batch is not a chain of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The event at fault, counted from 0; `None` when the batch as a whole is unreadable.
    pub index: Option<usize>,
    pub reason: String,
}

/// Reads a batch: a JSON array of events, each event's parent the event before it. An empty array is a valid batch.
///
/// # Errors
/// The first event that cannot be read or does not follow its predecessor.
pub fn read_batch(text: &str) -> Result<Vec<Event<'_>>, Invalid> {
    let raw: Vec<&RawValue> =
        serde_json::from_str(text).map_err(|_| Invalid { index: None, reason: NOT_A_BATCH.into() })?;
    let mut events: Vec<Event<'_>> = Vec::with_capacity(raw.len());
    for (index, item) in raw.into_iter().enumerate() {
        let event = read_event(item).and_then(|event| check_event(event, events.last()));
        events.push(event.map_err(|reason| Invalid { index: Some(index), reason })?);
    }
    Ok(events)
}

fn read_event(item: &RawValue) -> Result<Event<'_>, String> {
    // serde's derive reads an array as a struct's fields in order; an event is an object.
    if !item.get().starts_with('{') {
        return Err("an event must be a JSON object".into());
    }
    serde_json::from_str(item.get()).map_err(|_| NOT_AN_EVENT.into())
}

fn check_event<'a>(event: Event<'a>, previous: Option<&Event<'a>>) -> Result<Event<'a>, String> {
    let Event { seq_num, parent_seq_num, .. } = event;
    if parent_seq_num < 0 {
        return Err(format!("parentSeqNum {parent_seq_num} is negative"));
    }
    if seq_num <= parent_seq_num {
        return Err(format!("seqNum {seq_num} must be greater than its parentSeqNum {parent_seq_num}"));
    }
    if seq_num > MAX_SEQ_NUM {
        return Err(format!(
            "seqNum {seq_num} is greater than {MAX_SEQ_NUM}, the last that clients can count to; \
             a log that has reached it takes no more events until livestore.reset_store empties it"
        ));
    }
    if let Some(previous) = previous
        && parent_seq_num != previous.seq_num
    {
        return Err(format!(
            "parentSeqNum {parent_seq_num} must be the seqNum of the event before it, {}",
            previous.seq_num
        ));
    }
    for (field, text) in [("name", &event.name), ("clientId", &event.client_id), ("sessionId", &event.session_id)] {
        if text.contains('\0') {
            return Err(format!("{field} contains the character U+0000, which Postgres cannot store in a text"));
        }
    }
    if event.args.is_some_and(|args| nests_deeper_than(args.text(), MAX_ARGS_DEPTH)) {
        return Err(format!("args nests deeper than {MAX_ARGS_DEPTH} levels"));
    }
    Ok(event)
}

/// Whether JSON text that is known to be valid has more than `limit` arrays and objects around one value.
fn nests_deeper_than(json: &str, limit: usize) -> bool {
    let mut depth = 0usize;
    let mut in_string = false;
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if in_string => {
                bytes.next();
            }
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > limit {
                    return true;
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}
