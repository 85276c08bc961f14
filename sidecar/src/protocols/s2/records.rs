//! Events as the records of a stream.

use chrono::{DateTime, Utc};

use crate::log::{AbsentArgs, Event, Events, Part, quote_into};

/// The bounds of a batch, <https://s2.dev/docs/limits>, metered as S2 does it.
const BATCH_RECORDS: usize = 1000;
const BATCH_BYTES: usize = 1 << 20;

/// The bytes that S2 meters for a record beside its body.
const RECORD_OVERHEAD: usize = 8;

/// The end of a stream: the number of the record to come, and the time of the last one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tail {
    pub seq_num: i64,
    pub timestamp: i64,
}

impl Tail {
    pub fn json(self) -> String {
        format!(r#"{{"seq_num":{},"timestamp":{}}}"#, self.seq_num, self.timestamp)
    }
}

/// The record of an event.
pub fn seq_num(event: &Event) -> i64 {
    event.seq_num - 1
}

/// When it was appended, in milliseconds since 1970.
pub fn timestamp(event: &Event) -> i64 {
    milliseconds(event.created_at)
}

/// The time of a record: never before 1970, since clients of S2 take no negative numbers.
pub fn milliseconds(time: DateTime<Utc>) -> i64 {
    time.timestamp_millis().max(0)
}

/// The bytes that S2 counts for an event.
pub fn metered(event: &Event) -> usize {
    RECORD_OVERHEAD + event.json(AbsentArgs::Omit).len()
}

/// Events as S2 writes records in a JSON array, without its brackets; the body of a record is the text of the event.
pub fn records_into(records: &mut String, events: Part<'_>) {
    const ENVELOPE: usize = 96;
    // About an eighth of the JSON of an event are characters that need an escape in a string.
    records.reserve(events.iter().map(|event| event.size() + event.size() / 8 + ENVELOPE).sum());
    events.encode_into(records, "records", |records, event| {
        let mut numbers = itoa::Buffer::new();
        records.push_str(r#"{"seq_num":"#);
        records.push_str(numbers.format(seq_num(event)));
        records.push_str(r#","timestamp":"#);
        records.push_str(numbers.format(timestamp(event)));
        records.push_str(r#","body":"#);
        quote_into(records, event.json(AbsentArgs::Omit));
        records.push('}');
    });
}

/// Splits the first so many events into batches that stay within the bounds. A record that is larger than a batch has one to itself.
pub fn batches(events: &Events, wanted: usize) -> Vec<Part<'_>> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, event) in events.iter().enumerate().take(wanted) {
        let size = metered(event);
        if index > start && (index - start == BATCH_RECORDS || bytes + size > BATCH_BYTES) {
            batches.push(events.part(start..index));
            (start, bytes) = (index, 0);
        }
        bytes += size;
    }
    if start < wanted {
        batches.push(events.part(start..wanted));
    }
    batches
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::log::Batch;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn batches_hold_every_event_once_in_order_within_their_bounds(
            sizes in prop::collection::vec(prop_oneof![60 => 0..200usize, 1 => 200_000..1_500_000usize], 0..2500)
        ) {
            let batch: Vec<Value> = (0..).zip(&sizes).map(|(parent, size)| {
                json!({"name": "e", "args": "é".repeat(size / 2), "seqNum": parent + 1, "parentSeqNum": parent, "clientId": "c", "sessionId": "s"})
            }).collect();
            let events = Batch::parse(&Value::from(batch).to_string()).unwrap().into_last_appended(sizes.len(), DateTime::UNIX_EPOCH);
            let events = Events::from(events);
            let batches = batches(&events, events.len());
            let numbers = |events: Part<'_>| events.iter().map(|event| seq_num(event)).collect::<Vec<_>>();
            prop_assert_eq!(batches.iter().flat_map(|batch| numbers(*batch)).collect::<Vec<_>>(), numbers(events.all()));
            for batch in batches {
                let bytes: usize = batch.iter().map(|event| metered(event)).sum();
                prop_assert!((1..=BATCH_RECORDS).contains(&batch.len()) && (batch.len() == 1 || bytes <= BATCH_BYTES));
            }
        }
    }
}
