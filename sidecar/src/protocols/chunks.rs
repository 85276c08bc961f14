//! The number of events that clients of sync-cf are sent at once.

use crate::log::{Events, Part};

/// The events of a chunk, as in sync-cf's `constants.ts`.
pub const CHUNK_EVENTS: usize = 100;

/// The bytes of a chunk. sync-cf's own are 900,000. Its client connects anew when no whole message has come for ten seconds or so, and then
/// gets the same chunk from its beginning: on a slow link it would never get it.
pub const CHUNK_BYTES: usize = 128 << 10;

/// The cost of an event in a chunk beside its own JSON.
pub const EVENT_OVERHEAD: usize = 160;

/// Splits events into chunks that stay within the bounds, each with the number of events that follow it if `remaining`
/// follow all of them. An event that is larger than a chunk has one to itself. No events make one empty chunk: every run
/// of history has at least one.
pub fn chunks(events: &Events, remaining: i64) -> impl Iterator<Item = (Part<'_>, i64)> {
    let mut chunks = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, event) in events.iter().enumerate() {
        let size = event.size() + EVENT_OVERHEAD;
        if index > start && (index - start == CHUNK_EVENTS || bytes + size > CHUNK_BYTES) {
            chunks.push(start..index);
            (start, bytes) = (index, 0);
        }
        bytes += size;
    }
    chunks.push(start..events.len());
    chunks.into_iter().map(move |chunk| {
        let left = i64::try_from(events.len() - chunk.end).unwrap_or(i64::MAX);
        (events.part(chunk), remaining.saturating_add(left))
    })
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::log::Batch;

    fn events(args: &[usize]) -> Events {
        let batch: Vec<Value> = args
            .iter()
            .enumerate()
            .map(|(parent, size)| {
                json!({"name": "e", "args": "x".repeat(*size), "seqNum": parent + 1, "parentSeqNum": parent, "clientId": "c", "sessionId": "s"})
            })
            .collect();
        let batch = Batch::parse(&Value::from(batch).to_string()).unwrap();
        batch.into_last_appended(args.len(), DateTime::UNIX_EPOCH).into()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn chunks_hold_every_event_once_in_order_within_their_bounds(
            sizes in prop::collection::vec(prop_oneof![30 => 0..2000usize, 1 => 200_000..1_000_000usize], 0..250)
        ) {
            let events = events(&sizes);
            let chunks: Vec<_> = chunks(&events, 7).collect();
            let numbers = |events: Part<'_>| events.iter().map(|event| event.seq_num).collect::<Vec<_>>();
            prop_assert_eq!(chunks.iter().flat_map(|(chunk, _)| numbers(*chunk)).collect::<Vec<_>>(), numbers(events.all()));
            prop_assert!(!chunks.is_empty());
            let mut left = 7 + events.len();
            for (chunk, remaining) in chunks {
                left -= chunk.len();
                prop_assert_eq!(remaining, left as i64);
                prop_assert!(chunk.len() <= CHUNK_EVENTS);
                let bytes: usize = chunk.iter().map(|event| event.size() + EVENT_OVERHEAD).sum();
                prop_assert!(chunk.len() <= 1 || bytes <= CHUNK_BYTES, "{}", bytes);
            }
        }
    }
}
