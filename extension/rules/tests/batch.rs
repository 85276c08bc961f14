//! `validation::read_batch` without Postgres: it accepts exactly the chains, says which event breaks one, and hands on
//! `args` as they were sent.

// A test that meets something unexpected should fail where it stands.
#![allow(clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use livestore_rules::validation::{Event, Invalid, MAX_ARGS_DEPTH, MAX_SEQ_NUM, read_batch};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::value::RawValue;

/// The JSON text of an event; `args` is JSON text itself.
fn event(parent: i64, seq: i64, args: &str) -> String {
    format!(
        r#"{{"name":"e","args":{args},"seqNum":{seq},"parentSeqNum":{parent},"clientId":"client","sessionId":"session"}}"#
    )
}

fn batch(events: &[String]) -> String {
    format!("[{}]", events.join(","))
}

/// The args of a batch of one event.
fn args_of(text: &str) -> Option<&str> {
    let events = read_batch(text).unwrap_or_else(|invalid| panic!("{invalid:?}: {text}"));
    events[0].args.map(|args| args.text())
}

fn rejection(text: &str) -> Invalid {
    match read_batch(text) {
        Ok(events) => panic!("accepted {text}: {events:?}"),
        Err(invalid) => invalid,
    }
}

/// The first of these events, (parentSeqNum, seqNum) each, that does not belong in a chain.
fn first_broken(numbers: &[(i64, i64)]) -> Option<usize> {
    let breaks = |index: usize| {
        let (parent, seq) = numbers[index];
        let follows = index == 0 || parent == numbers[index - 1].1;
        !(follows && 0 <= parent && parent < seq && seq <= 9_007_199_254_740_991)
    };
    (0..numbers.len()).find(|&index| breaks(index))
}

/// Numbers near those that matter.
fn number() -> impl Strategy<Value = i64> {
    prop_oneof![-2..6i64, select(vec![MAX_SEQ_NUM - 1, MAX_SEQ_NUM, MAX_SEQ_NUM + 1, i64::MIN, i64::MAX])]
}

/// A chain with gaps, and up to two places where it may be broken.
fn nearly_a_chain() -> impl Strategy<Value = Vec<(i64, i64)>> {
    let start = prop_oneof![Just(0), 0..100i64, MAX_SEQ_NUM - 10..MAX_SEQ_NUM];
    let breaks = prop::collection::vec((any::<Index>(), number(), number()), 0..3);
    (start, prop::collection::vec(1..4i64, 0..8), breaks).prop_map(|(start, steps, breaks)| {
        let mut head = start;
        let mut numbers: Vec<_> = steps
            .iter()
            .map(|step| {
                let parent = head;
                head += step;
                (parent, head)
            })
            .collect();
        for (index, parent, seq) in breaks {
            if !numbers.is_empty() {
                let index = index.index(numbers.len());
                numbers[index] = (parent, seq);
            }
        }
        numbers
    })
}

/// JSON text in every spelling that clients may use.
fn json_text() -> impl Strategy<Value = String> {
    let space = || select(vec!["", "", " ", "\t", "\r\n  "]);
    let string = || {
        let pieces =
            vec!["a", "é", "😀", "\u{2028}", r"\u0000", r"\ud800", r"\udc00\ud83d", r#"\""#, r"\\", r"\/", "[{", "]}"];
        prop::collection::vec(select(pieces), 0..4).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
    };
    let scalar = prop_oneof![
        select(vec!["null", "true", "false", "0", "-0", "1.0", "1e400", "-1E-999", "12345678901234567890", "0.10"])
            .prop_map(str::to_string),
        string(),
    ];
    scalar.prop_recursive(4, 32, 4, move |inner| {
        let padded = (space(), inner, space()).prop_map(|(before, value, after)| format!("{before}{value}{after}"));
        let key = prop_oneof![select(vec![r#""k""#, r#""k""#, r#""a""#]).prop_map(str::to_string), string()];
        let member = (key, space(), padded.clone()).prop_map(|(key, space, value)| format!("{key}{space}:{value}"));
        prop_oneof![
            prop::collection::vec(padded, 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec(member, 0..4).prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    })
}

proptest! {
    #[test]
    fn exactly_chains_are_accepted(numbers in nearly_a_chain()) {
        let text = batch(&numbers.iter().map(|&(parent, seq)| event(parent, seq, "{}")).collect::<Vec<_>>());
        match read_batch(&text) {
            Ok(events) => {
                prop_assert_eq!(first_broken(&numbers), None);
                let read: Vec<_> = events.iter().map(|event| (event.parent_seq_num, event.seq_num)).collect();
                prop_assert_eq!(read, numbers);
            }
            Err(invalid) => prop_assert_eq!(invalid.index, first_broken(&numbers), "{}", invalid.reason),
        }
    }

    #[test]
    fn args_are_returned_byte_for_byte_wherever_they_stand(
        args in json_text(),
        other in json_text(),
        order in Just(vec![0, 1, 2, 3, 4, 5, 6]).prop_shuffle(),
        space in select(vec!["", " ", "\n\t"]),
    ) {
        let fields = [
            r#""name":"e""#.into(),
            format!(r#""args":{space}{args}{space}"#),
            r#""seqNum":1"#.into(),
            r#""parentSeqNum":0"#.into(),
            r#""clientId":"c""#.into(),
            r#""sessionId":"s""#.into(),
            format!(r#""aFieldOfTheFuture":{other}"#),
        ];
        let fields: Vec<String> = order.into_iter().map(|field| fields[field].clone()).collect();
        let text = format!("[{space}{{{space}{}{space}}}]", fields.join(&format!("{space},{space}")));
        prop_assert_eq!(args_of(&text), Some(args.as_str()));
    }

    #[test]
    fn any_text_is_read_without_a_panic(text in prop_oneof![any::<String>(), json_text()]) {
        let _ = read_batch(&text);
    }

    /// An accepted part of a damaged batch is a chain, with the numbers and args that the text shows to another reader.
    #[test]
    fn a_damaged_batch_is_never_misread(
        numbers in nearly_a_chain(),
        args in json_text(),
        damage in prop::collection::vec(
            (any::<Index>(), select(vec!["", "\"", "\\", "{", "}", "[", "]", ",", ":", "0", "9", "-", "null", "é", "\0"])), 0..4
        ),
    ) {
        let mut text = batch(&numbers.iter().map(|&(parent, seq)| event(parent, seq, &args)).collect::<Vec<_>>());
        for (place, instead) in damage {
            let mut places: Vec<&str> = text.split_inclusive(|_: char| true).collect();
            if !places.is_empty() {
                let place = place.index(places.len());
                places[place] = instead;
            }
            text = places.concat();
        }
        if let Ok(events) = read_batch(&text) {
            let read: Vec<_> = events.iter().map(|event| (event.parent_seq_num, event.seq_num)).collect();
            prop_assert_eq!(first_broken(&read), None);
            let again: Vec<BTreeMap<String, &RawValue>> = serde_json::from_str(&text).expect("another reader reads it too");
            for (event, again) in events.iter().zip(&again) {
                prop_assert_eq!(event.seq_num.to_string(), again["seqNum"].get());
                prop_assert_eq!(event.args.map(|args| args.text()), again.get("args").map(|args| args.get()));
            }
        }
    }

    #[test]
    fn args_nest_as_deep_as_the_limit_and_no_deeper(depth in MAX_ARGS_DEPTH - 3..MAX_ARGS_DEPTH + 4, objects: bool) {
        let (open, close) = if objects { (r#"{"k":"#, "}") } else { ("[", "]") };
        let args = format!("{}1{}", open.repeat(depth), close.repeat(depth));
        let text = batch(&[event(0, 1, "{}"), event(1, 2, &args)]);
        let expected = if depth <= MAX_ARGS_DEPTH { None } else { Some(1) };
        prop_assert_eq!(read_batch(&text).err().and_then(|invalid| invalid.index), expected);
    }
}

#[test]
fn an_empty_batch_is_a_chain() {
    assert_eq!(read_batch(" [ ] "), Ok(vec![]));
}

#[test]
fn every_field_is_read() {
    let text =
        r#"[{"sessionId":"s\"","clientId":"\u00e9","parentSeqNum":3,"seqNum":10,"args":{"b":1,"a":2},"name":"n"}]"#;
    let events = read_batch(text).expect("a batch");
    let [Event { name, args, seq_num, parent_seq_num, client_id, session_id }] = &events[..] else {
        panic!("one event: {events:?}");
    };
    assert_eq!((name.as_ref(), client_id.as_ref(), session_id.as_ref()), ("n", "é", "s\""));
    assert_eq!((*parent_seq_num, *seq_num), (3, 10));
    assert_eq!(args.map(|args| args.text()), Some(r#"{"b":1,"a":2}"#));
}

#[test]
fn absent_args_are_not_null_args() {
    let with =
        |args: &str| format!(r#"[{{"name":"e",{args}"seqNum":1,"parentSeqNum":0,"clientId":"c","sessionId":"s"}}]"#);
    let (absent, null) = (with(""), with(r#""args":null,"#));
    assert_eq!(args_of(&absent), None);
    assert_eq!(args_of(&null), Some("null"));
    assert_ne!(read_batch(&absent), read_batch(&null));
}

#[test]
fn equal_values_in_another_spelling_are_other_args() {
    for (one, other) in [("1", "1.0"), (r#"{"a":1}"#, r#"{"a": 1}"#), (r#""é""#, r#""\u00e9""#)] {
        assert_ne!(read_batch(&batch(&[event(0, 1, one)])), read_batch(&batch(&[event(0, 1, other)])), "{one} {other}");
    }
}

#[test]
fn brackets_in_strings_are_not_levels() {
    let args = format!(r#"["{}\"{}"]"#, "[".repeat(1000), "{".repeat(1000));
    assert_eq!(args_of(&batch(&[event(0, 1, &args)])), Some(args.as_str()));
}

#[test]
fn siblings_are_not_levels() {
    let args = format!("[{}[]]", "[{}],".repeat(1000));
    assert_eq!(args_of(&batch(&[event(0, 1, &args)])), Some(args.as_str()));
}

#[test]
fn what_is_not_an_array_is_rejected_as_a_whole() {
    for text in ["", "null", "1", "\"x\"", "{}", "[", "[{]", "[] []", "[],", "\u{feff}[]", "[\"\u{1}\"]"] {
        let Invalid { index, reason } = rejection(text);
        assert_eq!(index, None, "{text}: {reason}");
    }
}

#[test]
fn what_is_not_an_event_is_rejected_with_its_index() {
    let good = event(0, 1, "{}");
    let second = event(1, 2, "{}");
    let replaced = |from: &str, to: &str| {
        assert!(second.contains(from), "{from} is not in {second}");
        second.replace(from, to)
    };
    let bad = [
        "null".into(),
        "[]".into(),
        r#"["e",{},2,1,"client","session"]"#.into(),
        "\"event\"".into(),
        "{}".into(),
        replaced(r#""name":"e","#, ""),
        replaced(r#""name":"e""#, r#""name":null"#),
        replaced(r#""name":"e""#, r#""name":1"#),
        replaced(r#""name":"e""#, r#""name":"\u0000""#),
        replaced(r#""name":"e""#, r#""name":"\ud800""#),
        replaced(r#""name":"e""#, r#""name":"e","name":"e""#),
        replaced(r#""args":{}"#, r#""args":{},"args":{}"#),
        replaced(r#""seqNum":2,"#, ""),
        replaced(r#""seqNum":2"#, r#""seqNum":"2""#),
        replaced(r#""seqNum":2"#, r#""seqNum":2.5"#),
        replaced(r#""seqNum":2"#, r#""seqNum":2.0"#),
        replaced(r#""seqNum":2"#, r#""seqNum":1e9"#),
        replaced(r#""seqNum":2"#, r#""seqNum":null"#),
        replaced(r#""seqNum":2"#, r#""seqNum":-2"#),
        replaced(r#""seqNum":2"#, r#""seqNum":9007199254740992"#),
        replaced(r#""seqNum":2"#, r#""seqNum":18446744073709551618"#),
        replaced(r#""parentSeqNum":1,"#, ""),
        replaced(r#""parentSeqNum":1"#, r#""parentSeqNum":-1"#),
        replaced(r#""parentSeqNum":1"#, r#""parentSeqNum":1.5"#),
        replaced(r#""parentSeqNum":1"#, r#""parentSeqNum":18446744073709551617"#),
        replaced(r#","clientId":"client""#, ""),
        replaced(r#""clientId":"client""#, r#""clientId":"a\u0000b""#),
        replaced(r#","sessionId":"session""#, ""),
        replaced(r#""sessionId":"session""#, r#""sessionId":"a\u0000b""#),
    ];
    for bad in bad {
        let Invalid { index, reason } = rejection(&batch(&[good.clone(), bad.clone()]));
        assert_eq!(index, Some(1), "{bad}: {reason}");
        assert!(!reason.is_empty());
    }
}
