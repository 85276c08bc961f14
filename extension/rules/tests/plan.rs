//! `plan::plan` without Postgres, against a model: a log is a list of events, and a batch may be appended if it is a
//! part of the log followed by events that build on its end.

// A test that meets something unexpected should fail where it stands.
#![allow(clippy::expect_used, clippy::panic)]

use std::collections::HashSet;

use livestore_rules::plan::{Insert, MAX_AHEAD, Plan, Push, Stored, StoredEvent, Verdict, plan};
use proptest::prelude::*;
use proptest::sample::{Index, select};

const STORES: [&str; 3] = ["todos", "notes", "α 🦀"];
const BACKEND_IDS: [&str; 3] = ["backend-of-todos", "backend-of-notes", "backend-of-α"];

#[derive(Debug, Clone, PartialEq)]
struct Event {
    parent: i64,
    seq: i64,
    name: &'static str,
    args: Option<&'static str>,
    client: &'static str,
    session: &'static str,
}

impl Event {
    fn text(&self) -> String {
        let Self { parent, seq, name, client, session, .. } = self;
        let args = self.args.map(|args| format!(r#""args":{args},"#)).unwrap_or_default();
        format!(
            r#"{{"name":"{name}",{args}"seqNum":{seq},"parentSeqNum":{parent},"clientId":"{client}","sessionId":"{session}"}}"#
        )
    }

    fn of(insert: &Insert<'_>) -> Self {
        let event = &insert.event;
        let known = |text: &str| *WORDS.iter().find(|word| **word == text).expect("a word of the model");
        Self {
            parent: event.parent_seq_num,
            seq: event.seq_num,
            name: known(&event.name),
            args: event
                .args
                .map(|args| *ARGS.iter().flatten().find(|known| **known == args.text()).expect("known args")),
            client: known(&event.client_id),
            session: known(&event.session_id),
        }
    }
}

/// Few, so that two clients now and then make the same event.
const WORDS: [&str; 2] = ["a", "b"];
const ARGS: [Option<&str>; 6] =
    [None, Some("null"), Some("1"), Some("1.0"), Some(r#"{"a":1,"b":2}"#), Some(r#"{"b":2,"a":1}"#)];

/// The logs of [`STORES`].
type Logs = [Vec<Event>; 3];

fn head(log: &[Event]) -> i64 {
    log.last().map_or(0, |event| event.seq)
}

#[derive(Debug, Clone, PartialEq)]
enum Outcome {
    Accepted { head: i64, appended: usize },
    ServerAhead { head: i64, provided: i64 },
    BackendIdMismatch { expected: String, received: String },
    Invalid { index: Option<usize> },
}

impl From<&Verdict> for Outcome {
    fn from(verdict: &Verdict) -> Self {
        match verdict.clone() {
            Verdict::Accepted { head, appended } => Self::Accepted { head, appended },
            Verdict::ServerAhead { minimum_expected_num, provided_num } => {
                Self::ServerAhead { head: minimum_expected_num, provided: provided_num }
            }
            Verdict::BackendIdMismatch { expected, received } => Self::BackendIdMismatch { expected, received },
            Verdict::Invalid(invalid) => Self::Invalid { index: invalid.index },
        }
    }
}

/// The model: decides on one push and carries it out.
fn carry_out(log: &mut Vec<Event>, expected_id: &str, attempt: &Attempted) -> Outcome {
    let batch = &attempt.batch;
    let broken = (0..batch.len())
        .find(|&at| batch[at].seq <= batch[at].parent || at > 0 && batch[at].parent != batch[at - 1].seq);
    if broken.is_some() {
        return Outcome::Invalid { index: broken };
    }
    if let Some(received) = attempt.backend_id.filter(|received| *received != expected_id) {
        return Outcome::BackendIdMismatch { expected: expected_id.into(), received: received.into() };
    }
    let fits = |known: usize| {
        batch[..known].iter().all(|event| log.contains(event))
            && batch.get(known).is_none_or(|first_new| first_new.parent == head(log))
    };
    match (0..=batch.len()).find(|&known| fits(known)) {
        Some(known) => {
            log.extend_from_slice(&batch[known..]);
            Outcome::Accepted { head: head(log), appended: batch.len() - known }
        }
        None => Outcome::ServerAhead { head: head(log), provided: batch[0].parent },
    }
}

/// A client's attempt, in terms of the log as it is then.
#[derive(Debug, Clone)]
struct Attempt {
    store: usize,
    /// The number of events of the log's end that the batch repeats, and of those that it leaves out at the end.
    repeated: usize,
    left_out: usize,
    /// One of the repeated events is another in this field.
    altered: Option<(Index, Field)>,
    /// The new events: the distance to the event before, and what is in it.
    new: Vec<(i64, Event)>,
    /// The place where the chain is broken, and by how much.
    broken: Option<(Index, i64)>,
    backend_id: Option<bool>,
}

#[derive(Debug, Clone, Copy)]
enum Field {
    Name,
    Args,
    Client,
    Session,
}

/// A push as it is sent.
#[derive(Debug, Clone)]
struct Attempted {
    store: usize,
    batch: Vec<Event>,
    text: String,
    backend_id: Option<&'static str>,
}

impl Attempt {
    fn made_on(&self, log: &[Event]) -> Attempted {
        let from = log.len().saturating_sub(self.repeated);
        let to = log.len().saturating_sub(self.left_out).max(from);
        let mut batch = log[from..to].to_vec();
        if let Some((at, field)) = &self.altered
            && !batch.is_empty()
        {
            let event = &mut batch[at.index(to - from)];
            let other = |word| if word == "a" { "b" } else { "a" };
            match field {
                Field::Name => event.name = other(event.name),
                Field::Client => event.client = other(event.client),
                Field::Session => event.session = other(event.session),
                Field::Args => {
                    let position = ARGS.iter().position(|args| *args == event.args).expect("known args");
                    event.args = ARGS[(position + 1) % ARGS.len()];
                }
            }
        }
        let mut parent = head(&log[..to]);
        for (distance, event) in &self.new {
            batch.push(Event { parent, seq: parent + distance, ..event.clone() });
            parent += distance;
        }
        if let Some((at, by)) = &self.broken
            && !batch.is_empty()
        {
            let at = at.index(batch.len());
            batch[at].seq = batch[at].parent.max(batch[at].seq + by);
        }
        let text = format!("[{}]", batch.iter().map(Event::text).collect::<Vec<_>>().join(","));
        let backend_id = self.backend_id.map(|right| if right { BACKEND_IDS[self.store] } else { "another" });
        Attempted { store: self.store, batch, text, backend_id }
    }
}

fn content() -> impl Strategy<Value = Event> {
    (select(&WORDS[..]), select(&ARGS[..]), select(&WORDS[..]), select(&WORDS[..]))
        .prop_map(|(name, args, client, session)| Event { parent: 0, seq: 0, name, args, client, session })
}

/// New events, each with its distance to the one before.
fn news() -> impl Strategy<Value = Vec<(i64, Event)>> {
    prop::collection::vec((1..4i64, content()), 0..4)
}

fn attempt() -> impl Strategy<Value = Attempt> {
    let ends = prop_oneof![
        // At the head; a repeat of everything up to the head; behind it; any part of the log.
        3 => Just((0, 0)),
        1 => (0..6usize).prop_map(|repeated| (repeated, 0)),
        1 => (0..6usize).prop_map(|behind| (behind, behind)),
        1 => (0..6usize, 0..4usize),
    ];
    let field = select(vec![Field::Name, Field::Args, Field::Client, Field::Session]);
    let altered = prop::option::weighted(0.2, (any::<Index>(), field));
    let broken = prop::option::weighted(0.1, (any::<Index>(), prop_oneof![-3..0i64, 1..4i64]));
    let backend_id = prop_oneof![4 => Just(None), 4 => Just(Some(true)), 1 => Just(Some(false))];
    (0..STORES.len(), ends, altered, news(), broken, backend_id).prop_map(
        |(store, (repeated, left_out), altered, new, broken, backend_id)| Attempt {
            store,
            repeated,
            left_out,
            altered,
            new,
            broken,
            backend_id,
        },
    )
}

/// Groups of pushes, one after another.
fn history() -> impl Strategy<Value = Vec<Vec<Attempt>>> {
    prop::collection::vec(prop::collection::vec(attempt(), 1..7), 1..8)
}

/// The pushes with the state of their stores.
fn group<'a>(logs: &Logs, pushes: &'a [Attempted]) -> Vec<Push<'a>> {
    let push = |push: &'a Attempted| Push {
        store: STORES[push.store],
        batch: &push.text,
        backend_id: push.backend_id,
        store_head: head(&logs[push.store]),
        store_backend_id: BACKEND_IDS[push.store],
    };
    pushes.iter().map(push).collect()
}

/// Asks for a plan as `livestore._append` does: with a second call if the first wants to see events.
fn decide(logs: &Logs, pushes: &[Attempted]) -> (Vec<Outcome>, Vec<(usize, Event)>) {
    let group = group(logs, pushes);
    let decided = match plan(&group, None, &|| MAX_AHEAD) {
        Plan::Lookup(lookups) => {
            let stored = look_up(logs, pushes, &lookups);
            plan(&group, Some(&stored), &|| MAX_AHEAD)
        }
        decided => decided,
    };
    let Plan::Decided { verdicts, inserts } = decided else {
        panic!("a plan that was told what it asked for asks again");
    };
    let inserts = inserts.iter().map(|insert| (pushes[insert.push].store, Event::of(insert))).collect();
    (verdicts.iter().map(Outcome::from).collect(), inserts)
}

fn look_up<'a>(logs: &'a Logs, pushes: &[Attempted], lookups: &[(usize, i64)]) -> Stored<'a> {
    assert!(!lookups.is_empty(), "a request that asks for nothing");
    let mut seen = HashSet::new();
    let mut stored = Stored::new();
    for &(push, seq) in lookups {
        let Attempted { store, batch, .. } = &pushes[push];
        assert!(seen.insert((*store, seq)), "asks twice for event {seq}");
        assert!(seq <= head(&logs[*store]), "asks for event {seq}, which cannot be in the log");
        assert!(batch.iter().any(|event| event.seq == seq), "asks for event {seq}, which the push does not name");
        if let Some(event) = logs[*store].iter().find(|event| event.seq == seq) {
            let event = StoredEvent {
                parent_seq_num: event.parent,
                name: event.name,
                args: event.args,
                client_id: event.client,
                session_id: event.session,
            };
            stored.insert((STORES[*store], seq), event);
        }
    }
    stored
}

fn is_chain(log: &[Event]) -> bool {
    let parents = std::iter::once(0).chain(log.iter().map(|event| event.seq));
    log.iter().zip(parents).all(|(event, parent)| event.parent == parent && event.seq > parent)
}

/// The group made on the model, the outcome of each push, and the logs after it.
fn model(logs: &Logs, group: &[Attempt]) -> (Vec<Attempted>, Vec<Outcome>, Logs) {
    let mut after = logs.clone();
    let (mut pushes, mut outcomes) = (Vec::new(), Vec::new());
    for attempt in group {
        let push = attempt.made_on(&after[attempt.store]);
        outcomes.push(carry_out(&mut after[push.store], BACKEND_IDS[push.store], &push));
        pushes.push(push);
    }
    (pushes, outcomes, after)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn verdicts_and_logs_are_those_of_the_model(history in history()) {
        let mut logs = Logs::default();
        for group in &history {
            let (pushes, outcomes, after) = model(&logs, group);
            let (decided, inserts) = decide(&logs, &pushes);
            prop_assert_eq!(decided, outcomes);
            for (store, event) in inserts {
                logs[store].push(event);
            }
            prop_assert_eq!(&logs, &after);
            for log in &logs {
                prop_assert!(is_chain(log), "not a chain: {:?}", log);
            }
        }
    }

    #[test]
    fn a_group_is_decided_as_its_pushes_one_by_one(history in history()) {
        let mut logs = Logs::default();
        for group in &history {
            let (pushes, _, after) = model(&logs, group);
            let (together, _) = decide(&logs, &pushes);
            let mut one_by_one = Vec::new();
            for push in &pushes {
                let (outcome, inserts) = decide(&logs, std::slice::from_ref(push));
                one_by_one.extend(outcome);
                for (store, event) in inserts {
                    logs[store].push(event);
                }
            }
            prop_assert_eq!(together, one_by_one);
            logs = after;
        }
    }

    #[test]
    fn what_was_accepted_is_accepted_again_and_adds_nothing(history in history(), again: Index) {
        let mut logs = Logs::default();
        let mut accepted = Vec::new();
        for group in &history {
            let (pushes, outcomes, after) = model(&logs, group);
            logs = after;
            let pairs = pushes.into_iter().zip(outcomes);
            accepted.extend(pairs.filter(|(_, outcome)| matches!(outcome, Outcome::Accepted { .. })).map(|(push, _)| push));
        }
        if !accepted.is_empty() {
            let push = accepted[again.index(accepted.len())].clone();
            let repeated = Outcome::Accepted { head: head(&logs[push.store]), appended: 0 };
            let (outcomes, inserts) = decide(&logs, &[push.clone(), push]);
            prop_assert_eq!(outcomes, vec![repeated.clone(), repeated]);
            prop_assert_eq!(inserts, vec![]);
        }
    }

    #[test]
    fn pushes_at_the_head_need_no_second_call(before in news(), pushes in prop::collection::vec(news(), 1..6)) {
        let at_the_head = |new| Attempt {
            store: 0, repeated: 0, left_out: 0, altered: None, new, broken: None, backend_id: Some(true),
        };
        let (_, _, logs) = model(&Logs::default(), &[at_the_head(before)]);
        let (pushes, _, after) = model(&logs, &pushes.into_iter().map(at_the_head).collect::<Vec<_>>());
        let Plan::Decided { verdicts, inserts } = plan(&group(&logs, &pushes), None, &|| MAX_AHEAD) else {
            return Err(TestCaseError::fail("it asks for events of the log"));
        };
        prop_assert!(verdicts.iter().all(|verdict| verdict.sqlstate().is_none()));
        prop_assert_eq!(logs[0].len() + inserts.len(), after[0].len());
    }
}

/// The verdict on one event with these numbers, by a log that ends at its parent.
fn jump(parent: i64, seq: i64, max_ahead: i64) -> Outcome {
    let text = Event { parent, seq, name: "a", args: None, client: "a", session: "a" }.text();
    let batch = format!("[{text}]");
    let push = Push { store: "s", batch: &batch, backend_id: None, store_head: parent, store_backend_id: "b" };
    match plan(&[push], None, &|| max_ahead) {
        Plan::Decided { verdicts, .. } => (&verdicts[0]).into(),
        Plan::Lookup(lookups) => panic!("{lookups:?}"),
    }
}

#[test]
fn no_event_may_use_up_the_numbers_of_a_log() {
    let invalid = Outcome::Invalid { index: Some(0) };
    let accepted = |head| Outcome::Accepted { head, appended: 1 };
    let last = (1 << 53) - 1;
    assert_eq!(jump(0, last, MAX_AHEAD), invalid);
    assert_eq!(jump(7, 7 + MAX_AHEAD, MAX_AHEAD), accepted(7 + MAX_AHEAD));
    assert_eq!(jump(7, 8 + MAX_AHEAD, MAX_AHEAD), invalid);
    // Under any bound, no number of jumps gets beyond the middle: from there on it is one by one.
    assert_eq!(jump(0, last, i64::MAX), invalid);
    assert_eq!(jump(0, 1 << 52, i64::MAX), invalid);
    assert_eq!(jump(0, (1 << 52) - 1, i64::MAX), accepted((1 << 52) - 1));
    assert_eq!(jump(1 << 52, (1 << 52) + 2, MAX_AHEAD), invalid);
    assert_eq!(jump(1 << 52, (1 << 52) + 1, MAX_AHEAD), accepted((1 << 52) + 1));
    assert_eq!(jump(last - 1, last, MAX_AHEAD), accepted(last));
    assert_eq!(jump(last, last + 1, MAX_AHEAD), invalid);
    // A bound of 0 forbids gaps, and nothing else.
    assert_eq!(jump(1, 2, 0), accepted(2));
    assert_eq!(jump(1, 3, 0), invalid);
}

#[test]
fn a_jump_is_measured_from_the_head_and_not_from_the_event_before() {
    let event = |parent, seq| Event { parent, seq, name: "a", args: None, client: "a", session: "a" }.text();
    let batch = format!("[{},{},{}]", event(5, 6), event(6, 100), event(100, 170));
    let push = Push { store: "s", batch: &batch, backend_id: None, store_head: 5, store_backend_id: "b" };
    let Plan::Decided { verdicts, inserts } = plan(&[push, push], None, &|| 100) else { panic!("a look-up") };
    assert_eq!(Outcome::from(&verdicts[0]), Outcome::Invalid { index: Some(2) });
    assert_eq!(inserts, []);
}
