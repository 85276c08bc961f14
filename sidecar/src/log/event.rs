//! Events as they travel through the sidecar: encoded once, shared by all receivers.

use std::fmt::{self, Display};
use std::ops::{Deref, Range};
use std::sync::Arc;

use chrono::{DateTime, Datelike, Timelike, Utc};
use livestore_rules::validation::{self, Args};

use super::json::quote_into;

/// An event of a log, in LiveStore's wire form (`LiveStoreEvent.Global.Encoded` of `@livestore/common`).
#[derive(Debug)]
pub struct Event {
    pub seq_num: i64,
    pub parent_seq_num: i64,
    pub created_at: DateTime<Utc>,
    json: Json,
}

/// The form of an event without `args`: some clients accept a missing field, some need a `null`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbsentArgs {
    Omit,
    Null,
}

#[derive(Debug, Clone)]
enum Json {
    WithArgs(Object),
    WithoutArgs { omitted: Object, null: Object },
}

impl Json {
    fn get(&self, absent_args: AbsentArgs) -> &Object {
        match (self, absent_args) {
            (Self::WithArgs(json), _) => json,
            (Self::WithoutArgs { omitted, .. }, AbsentArgs::Omit) => omitted,
            (Self::WithoutArgs { null, .. }, AbsentArgs::Null) => null,
        }
    }

    fn size(&self) -> usize {
        self.get(AbsentArgs::Null).text.len()
    }

    /// The bytes of all its forms.
    fn held(&self) -> usize {
        match self {
            Self::WithArgs(json) => json.text.len(),
            Self::WithoutArgs { omitted, null } => omitted.text.len() + null.text.len(),
        }
    }
}

/// A JSON object, and the places of its values, so that nobody who needs them has to parse it.
#[derive(Debug, Clone)]
struct Object {
    text: Box<str>,
    name: Place,
    args: Option<Place>,
    client_id: Place,
    session_id: Place,
}

/// A part of a text. An event has less than 4 GiB.
#[derive(Debug, Clone, Copy)]
struct Place {
    start: u32,
    end: u32,
}

impl From<Range<usize>> for Place {
    fn from(Range { start, end }: Range<usize>) -> Self {
        let [start, end] = [start, end].map(|byte| u32::try_from(byte).unwrap_or(u32::MAX));
        Self { start, end }
    }
}

/// The values of an event, as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Values<'a> {
    pub name: &'a str,
    /// `None` if the client sent none.
    pub args: Option<&'a str>,
    pub client_id: &'a str,
    pub session_id: &'a str,
}

/// An event as it is stored.
#[derive(Debug, Clone, Copy)]
pub struct StoredEvent<'a> {
    pub name: &'a str,
    /// JSON.
    pub args: Option<&'a str>,
    pub seq_num: i64,
    pub parent_seq_num: i64,
    pub client_id: &'a str,
    pub session_id: &'a str,
}

/// The fields of an event as a client has sent them.
impl<'a> From<&'a validation::Event<'a>> for StoredEvent<'a> {
    fn from(event: &'a validation::Event<'a>) -> Self {
        Self {
            name: &event.name,
            args: event.args.map(Args::text),
            seq_num: event.seq_num,
            parent_seq_num: event.parent_seq_num,
            client_id: &event.client_id,
            session_id: &event.session_id,
        }
    }
}

impl StoredEvent<'_> {
    fn json(&self) -> Json {
        match self.args {
            Some(args) => Json::WithArgs(self.write(Some(args))),
            None => Json::WithoutArgs { omitted: self.write(None), null: self.write(Some("null")) },
        }
    }

    /// In the order of LiveStore's own schema.
    fn write(&self, args: Option<&str>) -> Object {
        // The names of the fields, and numbers of the greatest length.
        const REST: usize = 128;
        let texts = self.name.len() + self.client_id.len() + self.session_id.len() + args.map_or(0, str::len);
        let mut json = String::with_capacity(texts + REST);
        let mut numbers = itoa::Buffer::new();
        json.push_str(r#"{"name":"#);
        let name = quoted(&mut json, self.name);
        let args = args.map(|args| {
            json.push_str(r#","args":"#);
            appended(&mut json, |json| json.push_str(args))
        });
        json.push_str(r#","seqNum":"#);
        json.push_str(numbers.format(self.seq_num));
        json.push_str(r#","parentSeqNum":"#);
        json.push_str(numbers.format(self.parent_seq_num));
        json.push_str(r#","clientId":"#);
        let client_id = quoted(&mut json, self.client_id);
        json.push_str(r#","sessionId":"#);
        let session_id = quoted(&mut json, self.session_id);
        json.push('}');
        Object { text: json.into_boxed_str(), name, args, client_id, session_id }
    }

    /// The event as it was appended at this time.
    pub fn appended_at(&self, created_at: DateTime<Utc>) -> Event {
        Event { seq_num: self.seq_num, parent_seq_num: self.parent_seq_num, created_at, json: self.json() }
    }
}

impl Event {
    /// The event as a JSON object.
    pub fn json(&self, absent_args: AbsentArgs) -> &str {
        &self.json.get(absent_args).text
    }

    /// The values of its fields, as JSON.
    pub fn values(&self) -> Values<'_> {
        let Object { text, name, args, client_id, session_id } = self.json.get(AbsentArgs::Omit);
        let at = |place: &Place| text.get(place.start as usize..place.end as usize).unwrap_or_default();
        Values { name: at(name), args: args.as_ref().map(at), client_id: at(client_id), session_id: at(session_id) }
    }

    /// The fields; `args` are absent if the client sent none.
    pub fn fields(&self) -> Result<validation::Event<'_>, serde_json::Error> {
        serde_json::from_str(self.json(AbsentArgs::Omit))
    }

    /// The size of the event, about: that of its JSON.
    pub fn size(&self) -> usize {
        self.json.size()
    }

    /// The memory that its texts take.
    pub fn held(&self) -> usize {
        self.json.held()
    }

    /// `createdAt` as JavaScript's `toISOString` writes it, of the years 0 to 9999.
    pub fn created_at_iso(&self) -> Iso {
        let at = self.created_at.naive_utc();
        let (date, time) = (at.date(), at.time());
        // A leap second is in the nanoseconds of chrono, and in no clock.
        let milliseconds = (time.nanosecond() / 1_000_000).min(999);
        let year = u32::try_from(date.year()).unwrap_or(0).min(9999);
        let mut iso = *b"0000-00-00T00:00:00.000Z";
        let parts = [
            (0..4, year),
            (5..7, date.month()),
            (8..10, date.day()),
            (11..13, time.hour()),
            (14..16, time.minute()),
            (17..19, time.second()),
            (20..23, milliseconds),
        ];
        // By hand: chrono takes longer for this than everything else about an event that is read.
        for (places, mut value) in parts {
            for place in iso[places].iter_mut().rev() {
                *place = b'0' + (value % 10) as u8;
                value /= 10;
            }
        }
        Iso(iso)
    }
}

/// A time as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Iso([u8; 24]);

impl Deref for Iso {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Display for Iso {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

/// A batch of the right form. The database decides whether it is valid.
#[derive(Debug)]
pub struct Batch {
    /// The JSON array as the client sent it, from which the event is stored.
    json: Box<str>,
    events: Vec<Unappended>,
    origin: Arc<Origin>,
}

/// The origin of a batch, by its first event: for the log line about a push that is refused.
#[derive(Debug, Default)]
pub struct Origin {
    pub name: Box<str>,
    pub client_id: Box<str>,
}

/// An event that has no time yet.
#[derive(Debug)]
struct Unappended {
    seq_num: i64,
    parent_seq_num: i64,
    json: Json,
}

impl Batch {
    /// Reads a JSON array of events. The error is for the client that sent it.
    pub fn parse(json: &str) -> Result<Self, serde_json::Error> {
        let fields: Vec<validation::Event<'_>> = serde_json::from_str(json)?;
        let events = fields
            .iter()
            .map(|event| Unappended {
                seq_num: event.seq_num,
                parent_seq_num: event.parent_seq_num,
                json: StoredEvent::from(event).json(),
            })
            .collect();
        let origin =
            fields.first().map(|first| Origin { name: (*first.name).into(), client_id: (*first.client_id).into() });
        Ok(Self { json: json.into(), events, origin: Arc::new(origin.unwrap_or_default()) })
    }

    pub fn json(&self) -> &str {
        &self.json
    }

    pub fn origin(&self) -> Arc<Origin> {
        Arc::clone(&self.origin)
    }

    /// The event that the batch builds on.
    pub fn parent(&self) -> Option<i64> {
        self.events.first().map(|event| event.parent_seq_num)
    }

    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// The sizes of its events, in bytes.
    pub fn sizes(&self) -> impl ExactSizeIterator<Item = usize> {
        self.events.iter().map(|event| event.json.size())
    }

    pub fn last(&self) -> Option<i64> {
        self.events.last().map(|event| event.seq_num)
    }

    /// The first event that has no `args`, as its sequence number.
    pub fn first_without_args(&self) -> Option<i64> {
        self.events.iter().find(|event| matches!(event.json, Json::WithoutArgs { .. })).map(|event| event.seq_num)
    }

    /// The last `count` events, as they are in the log since `created_at`.
    pub fn into_last_appended(mut self, count: usize, created_at: DateTime<Utc>) -> Vec<Arc<Event>> {
        let first = self.events.len().saturating_sub(count);
        self.events
            .drain(first..)
            .map(|Unappended { seq_num, parent_seq_num, json }| {
                Arc::new(Event { seq_num, parent_seq_num, created_at, json })
            })
            .collect()
    }
}

/// Appends something, and returns its place.
fn appended(json: &mut String, append: impl FnOnce(&mut String)) -> Place {
    let start = json.len();
    append(json);
    Place::from(start..json.len())
}

fn quoted(json: &mut String, text: &str) -> Place {
    appended(json, |json| quote_into(json, text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use livestore_rules::validation::read_batch;

    fn quote(text: &str) -> String {
        serde_json::Value::from(text).to_string()
    }

    fn only(json: &str) -> Arc<Event> {
        Batch::parse(json).unwrap().into_last_appended(1, DateTime::UNIX_EPOCH).remove(0)
    }

    proptest! {
        #[test]
        fn times_are_written_as_chrono_writes_them(microseconds in -62_167_219_200_000_000i64..253_402_300_800_000_000) {
            let event = only(r#"[{"name":"e","args":1,"seqNum":1,"parentSeqNum":0,"clientId":"c","sessionId":"s"}]"#);
            let event = StoredEvent::from(&event.fields().unwrap()).appended_at(DateTime::from_timestamp_micros(microseconds).unwrap());
            prop_assert_eq!(&*event.created_at_iso(), event.created_at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true));
        }

        #[test]
        fn what_a_client_sent_comes_back_byte_for_byte(name in any::<String>(), client in any::<String>(), text in any::<String>()) {
            let (name, client, text) = (quote(&name), quote(&client), quote(&text));
            let args = format!("{{ \"z\" :1.0,\"a\":[ {text},12345678901234567890123, \"\\u0000\\ud800\"] }}");
            let event = format!(r#"{{"name":{name},"args":{args},"seqNum":7,"parentSeqNum":3,"clientId":{client},"sessionId":"s"}}"#);
            let back = only(&format!("[{event}]"));
            prop_assert_eq!(back.json(AbsentArgs::Omit), &event);
            let values = Values { name: &name, args: Some(&args), client_id: &client, session_id: "\"s\"" };
            prop_assert_eq!(back.values(), values);
        }
    }

    #[test]
    fn absent_args_are_left_out_or_null_and_null_is_null() {
        let absent = only(r#"[{"name":"e","seqNum":1,"parentSeqNum":0,"clientId":"c","sessionId":"s"}]"#);
        assert!(!absent.json(AbsentArgs::Omit).contains("args"));
        assert_eq!((absent.values().args, absent.values().client_id), (None, "\"c\""));
        assert!(absent.json(AbsentArgs::Null).contains(r#""args":null,"#));
        let null = only(r#"[{"name":"e","args":null,"seqNum":1,"parentSeqNum":0,"clientId":"c","sessionId":"s"}]"#);
        assert_eq!(null.json(AbsentArgs::Omit), absent.json(AbsentArgs::Null));
    }

    #[test]
    fn only_what_was_appended_is_published() {
        let json = r#"[{"name":"a","seqNum":1,"parentSeqNum":0,"clientId":"c","sessionId":"s"},{"name":"b","seqNum":2,"parentSeqNum":1,"clientId":"c","sessionId":"s"}]"#;
        let appended = Batch::parse(json).unwrap().into_last_appended(1, DateTime::UNIX_EPOCH);
        assert_eq!(appended.iter().map(|event| event.seq_num).collect::<Vec<_>>(), [2]);
    }

    /// Live clients are sent one reading of a batch, and another one is stored: both must agree.
    #[test]
    fn fuzz_batch() {
        fuzzing::text_target!("batch", |text| {
            let batch = Batch::parse(text);
            let stored = read_batch(text).map(|events| {
                let event = |event: &validation::Event<'_>| {
                    let args = event.args.map(|args| args.text().to_string());
                    let [name, client, session] =
                        [&event.name, &event.client_id, &event.session_id].map(ToString::to_string);
                    (event.seq_num, event.parent_seq_num, name, args, client, session)
                };
                events.iter().map(event).collect::<Vec<_>>()
            });
            let Ok(batch) = batch else {
                assert!(stored.is_err(), "{stored:?}");
                return;
            };
            assert_eq!(batch.json(), text);
            let (last, without_args) = (batch.last(), batch.first_without_args());
            let events = batch.into_last_appended(usize::MAX, DateTime::UNIX_EPOCH);
            assert_eq!(events.last().map(|event| event.seq_num), last);
            let mut published = Vec::new();
            for event in &events {
                for absent in [AbsentArgs::Omit, AbsentArgs::Null] {
                    assert_eq!(only(&format!("[{}]", event.json(absent))).json(absent), event.json(absent));
                }
                let validation::Event { name, args, seq_num, parent_seq_num, client_id, session_id } =
                    event.fields().unwrap();
                assert!(args.is_some() || without_args.is_some());
                let args = args.map(|args| args.text().to_string());
                let [name, client, session] = [name, client_id, session_id].map(|text| text.to_string());
                published.push((seq_num, parent_seq_num, name, args, client, session));
            }
            if let Ok(stored) = stored {
                assert_eq!(published, stored);
            }
        });
    }
}
