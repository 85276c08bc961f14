//! The code of the extension that reads events.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use livestore_rules::plan::{MAX_AHEAD, Plan, Push, Stored, StoredEvent, Verdict, plan};
use livestore_rules::validation::{Event, MAX_ARGS_DEPTH, MAX_SEQ_NUM, read_batch};
use serde_json::{Value, json};

/// The depth to which JSON nests, counted in another way than the extension does: without its strings.
fn depth(json: &str) -> i64 {
    let unescaped = json.replace("\\\\", "").replace("\\\"", "");
    let outside_strings = unescaped.split('"').step_by(2).flat_map(str::chars);
    let depths = outside_strings.scan(0, |depth, c| {
        *depth += i64::from("[{".contains(c)) - i64::from("]}".contains(c));
        Some(*depth)
    });
    depths.max().unwrap_or(0)
}

fn write(event: &Event<'_>) -> String {
    let args = event.args.map(|args| format!(r#""args":{},"#, args.text())).unwrap_or_default();
    format!(
        r#"{{"name":{},{args}"seqNum":{},"parentSeqNum":{},"clientId":{},"sessionId":{}}}"#,
        json!(event.name),
        event.seq_num,
        event.parent_seq_num,
        json!(event.client_id),
        json!(event.session_id),
    )
}

#[test]
fn fuzz_batch() {
    fuzzing::text_target!("batch", |text| {
        let events = match read_batch(text) {
            Ok(events) => events,
            Err(invalid) => {
                assert!(!invalid.reason.is_empty());
                return;
            }
        };
        assert!(events.windows(2).all(|pair| pair[1].parent_seq_num == pair[0].seq_num));
        for event in &events {
            assert!(0 <= event.parent_seq_num && event.parent_seq_num < event.seq_num && event.seq_num <= MAX_SEQ_NUM);
            assert!(![&event.name, &event.client_id, &event.session_id].into_iter().any(|text| text.contains('\0')));
            if let Some(args) = event.args {
                assert!(serde_json::from_str::<serde::de::IgnoredAny>(args.text()).is_ok());
                assert!(depth(args.text()) <= i64::try_from(MAX_ARGS_DEPTH).unwrap());
            }
        }
        let written = format!("[{}]", events.iter().map(write).collect::<Vec<_>>().join(","));
        assert_eq!(read_batch(&written).unwrap(), events);
    });
}

/// The first line is the head of a store, and a backend id if there is one; each other line is a batch. The log holds the events
/// of the first batch, as far as the head.
#[test]
fn fuzz_plan() {
    fuzzing::text_target!("plan", |text| {
        let (first, batches) = text.split_once('\n').unwrap_or((text, ""));
        let (head, backend_id) = first.split_once(' ').map_or((first, None), |(head, id)| (head, Some(id)));
        let Ok(head @ 0..=MAX_SEQ_NUM) = head.parse::<i64>() else { return };
        let push = |batch| Push { store: "a", batch, backend_id, store_head: head, store_backend_id: "b" };
        let pushes: Vec<_> = batches.split('\n').map(push).collect();
        let log = read_batch(pushes[0].batch).unwrap_or_default();
        let stored: Stored<'_> = log
            .iter()
            .filter(|event| event.seq_num <= head)
            .map(|event| (("a", event.seq_num), stored(event)))
            .collect::<HashMap<_, _>>();
        if let Plan::Lookup(lookups) = plan(&pushes, None, &|| MAX_AHEAD) {
            assert!(lookups.iter().all(|(push, seq_num)| *push < pushes.len() && *seq_num <= head));
        }
        let Plan::Decided { verdicts, inserts } = plan(&pushes, Some(&stored), &|| MAX_AHEAD) else { unreachable!() };
        assert_eq!(verdicts.len(), pushes.len());
        let mut end = head;
        let mut inserts = inserts.iter();
        for (index, verdict) in verdicts.iter().enumerate() {
            if let Verdict::Accepted { head, appended } = verdict {
                for insert in inserts.by_ref().take(*appended) {
                    assert!(insert.push == index && insert.event.parent_seq_num == end);
                    let Event { seq_num, parent_seq_num, .. } = insert.event;
                    assert!(seq_num == parent_seq_num + 1 || seq_num <= MAX_SEQ_NUM / 2, "{seq_num}");
                    end = seq_num;
                }
                assert_eq!(*head, end);
            }
            assert_eq!(verdict.sqlstate().is_some(), verdict.message().is_some());
            assert!(verdict.detail().is_none_or(|detail| serde_json::from_str::<Value>(&detail).is_ok()));
        }
        assert_eq!(inserts.next(), None);
    });
}

fn stored<'a>(event: &'a Event<'_>) -> StoredEvent<'a> {
    StoredEvent {
        parent_seq_num: event.parent_seq_num,
        name: &event.name,
        args: event.args.map(|args| args.text()),
        client_id: &event.client_id,
        session_id: &event.session_id,
    }
}
