//! Electric's answers, in the form in which sync-electric's client reads them.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::DateTime;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::log::{Event, StoredEvent};

/// The content of a page.
pub enum Messages {
    Log {
        events: Vec<Arc<Event>>,
        is_up_to_date: bool,
    },
    /// Rows were updated or deleted.
    Mutations,
    MustRefetch,
}

/// Reads a page: a JSON array of messages.
pub fn read_messages(body: &[u8]) -> Result<Messages, serde_json::Error> {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        value: Option<&'a RawValue>,
        #[serde(borrow)]
        headers: Headers<'a>,
    }
    #[derive(Deserialize)]
    struct Headers<'a> {
        #[serde(borrow)]
        operation: Option<Cow<'a, str>>,
        #[serde(borrow)]
        control: Option<Cow<'a, str>>,
    }
    /// Postgres' text form of the columns.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Row<'a> {
        seq_num: String,
        parent_seq_num: String,
        #[serde(borrow)]
        name: Cow<'a, str>,
        args: Option<String>,
        #[serde(borrow)]
        client_id: Cow<'a, str>,
        #[serde(borrow)]
        session_id: Cow<'a, str>,
    }
    let (mut events, mut is_up_to_date) = (Vec::new(), false);
    for message in serde_json::from_slice::<Vec<Message<'_>>>(body)? {
        match (message.headers.operation.as_deref(), message.headers.control.as_deref(), message.value) {
            (Some("insert"), _, Some(value)) => {
                let row: Row<'_> = serde_json::from_str(value.get())?;
                let number = |text: &str| text.parse::<i64>().map_err(serde::de::Error::custom);
                let args: Option<&RawValue> = row.args.as_deref().map(serde_json::from_str).transpose()?;
                let event = StoredEvent {
                    name: &row.name,
                    args: args.map(RawValue::get),
                    seq_num: number(&row.seq_num)?,
                    parent_seq_num: number(&row.parent_seq_num)?,
                    client_id: &row.client_id,
                    session_id: &row.session_id,
                };
                // When it was appended this dialect does not tell.
                events.push(Arc::new(event.appended_at(DateTime::UNIX_EPOCH)));
            }
            (Some(_), ..) => return Ok(Messages::Mutations),
            (_, Some("must-refetch"), _) => return Ok(Messages::MustRefetch),
            (_, Some("up-to-date"), _) => is_up_to_date = true,
            _ => {}
        }
    }
    events.sort_by_key(|event| event.seq_num);
    Ok(Messages::Log { events, is_up_to_date })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::AbsentArgs;
    use crate::protocols::electric::messages::{Columns, Relation, Rows, page, up_to_date};

    proptest! {
        #[test]
        fn nothing_makes_it_panic(body: Vec<u8>) {
            let _ = read_messages(&body);
        }
    }

    #[test]
    fn messages_are_read_as_electric_writes_them() {
        // From the comment at the head of @livestore/sync-electric's index.ts, with the columns of today.
        let recorded = r#"[
            {"value":{"args":"{\"id\": \"127c3df4\", \"text\": \"1\"}","clientId":"S_YOa","sessionId":"s","seqNum":"2","name":"todoCreated","parentSeqNum":"1","store":"7"},
             "key":"\"public\".\"events\"/\"0\"",
             "headers":{"last":true,"relation":["public","events"],"operation":"insert","lsn":27294160,"op_position":0,"txids":[753]}},
            {"value":{"args":null,"clientId":"c","sessionId":"s","seqNum":"1","name":"e","parentSeqNum":"0"},"headers":{"operation":"insert"}},
            {"headers":{"control":"snapshot-end"}},
            {"headers":{"control":"up-to-date","global_last_seen_lsn":"27294160"}}]"#;
        let Messages::Log { events, is_up_to_date } = read_messages(recorded.as_bytes()).unwrap() else { panic!() };
        assert!(is_up_to_date);
        assert_eq!(events.iter().map(|event| event.seq_num).collect::<Vec<_>>(), [1, 2], "in the order of the log");
        assert!(events[0].fields().unwrap().args.is_none());
        assert_eq!(events[1].fields().unwrap().args.unwrap().text(), r#"{"id": "127c3df4", "text": "1"}"#);
        for mutation in ["\"update\"", "\"delete\""] {
            let mutated = recorded.replacen("\"insert\"", mutation, 1);
            assert!(matches!(read_messages(mutated.as_bytes()), Ok(Messages::Mutations)), "{mutation}");
        }
        let refetch = br#"[{"headers":{"control":"must-refetch"}}]"#;
        assert!(matches!(read_messages(refetch), Ok(Messages::MustRefetch)));
        for wrong in [&b"{}"[..], b"[1]", b"<html>", br#"[{"value":{"seqNum":1},"headers":{"operation":"insert"}}]"#] {
            assert!(read_messages(wrong).is_err());
        }
    }

    /// Messages that are read here are written there, for clients.
    #[test]
    fn fuzz_messages() {
        fuzzing::target!("messages", |body| {
            let Ok(Messages::Log { events, is_up_to_date }) = read_messages(body) else { return };
            assert!(events.is_sorted_by_key(|event| event.seq_num));
            let relation = Relation::new("livestore", "eventlog_1");
            let end = is_up_to_date.then(|| up_to_date(1));
            let page = page(&events.clone().into(), &Rows::new(&relation, Columns::ALL), end);
            let Messages::Log { events: again, is_up_to_date: again_up_to_date } =
                read_messages(page.as_bytes()).unwrap()
            else {
                panic!("{page}")
            };
            let json = |events: &[Arc<Event>]| {
                events.iter().map(|event| event.json(AbsentArgs::Null).to_string()).collect::<Vec<_>>()
            };
            assert_eq!((json(&again), again_up_to_date), (json(&events), is_up_to_date));
        });
    }
}
