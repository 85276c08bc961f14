//! The verdict on each push of a group: pure decisions, made while the stores' rows are locked.
//!
//! Several pushes of one store in the same group chain on one another: the second is judged by the head that the first
//! leaves behind.

use std::collections::{HashMap, HashSet};

use serde_json::json;

use crate::codes;
use crate::validation::{Event, Invalid, MAX_SEQ_NUM, read_batch};

/// The default limit on gaps: an event that does not directly follow its parent may be at most this far ahead of the head.
/// `livestore.instance.max_ahead` overrides it.
pub const MAX_AHEAD: i64 = 1 << 31;

/// Events beyond this number must not leave a gap. Clients can therefore use up at most half of all numbers by gaps; the
/// other half remains for events that directly follow each other.
const LAST_GAP: i64 = MAX_SEQ_NUM / 2;

/// One push, and the state of its store as read under the lock. A store that is not registered yet has head 0 and the
/// backend id that it will have.
#[derive(Debug, Clone, Copy)]
pub struct Push<'a> {
    pub store: &'a str,
    pub batch: &'a str,
    /// The backend id that the client believes in, if it says so.
    pub backend_id: Option<&'a str>,
    pub store_head: i64,
    pub store_backend_id: &'a str,
}

/// The outcome for one push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The events are in the log once the plan is carried out. `appended` counts the events at the end of the batch that
    /// are new: 0 for a repeated push.
    Accepted {
        head: i64,
        appended: usize,
    },
    ServerAhead {
        minimum_expected_num: i64,
        provided_num: i64,
    },
    BackendIdMismatch {
        expected: String,
        received: String,
    },
    Invalid(Invalid),
}

impl Verdict {
    /// The SQLSTATE that `livestore.push` raises for this outcome.
    pub fn sqlstate(&self) -> Option<&'static str> {
        match self {
            Self::Accepted { .. } => None,
            Self::ServerAhead { .. } => Some(codes::SERVER_AHEAD),
            Self::BackendIdMismatch { .. } => Some(codes::BACKEND_ID_MISMATCH),
            Self::Invalid(_) => Some(codes::INVALID),
        }
    }

    /// The fault, in a sentence.
    pub fn message(&self) -> Option<String> {
        match self {
            Self::Accepted { .. } => None,
            Self::ServerAhead { minimum_expected_num, provided_num } => Some(format!(
                "the batch builds on event {provided_num}, but the head of the log is {minimum_expected_num}"
            )),
            Self::BackendIdMismatch { expected, received } => {
                Some(format!("the backend id is {expected}, not {received}"))
            }
            Self::Invalid(Invalid { index: Some(index), reason }) => Some(format!("invalid event {index}: {reason}")),
            Self::Invalid(Invalid { index: None, reason }) => Some(format!("invalid batch: {reason}")),
        }
    }

    /// The numbers of [`Self::message`], as JSON for programs.
    pub fn detail(&self) -> Option<String> {
        let detail = match self {
            Self::Accepted { .. } => return None,
            Self::ServerAhead { minimum_expected_num, provided_num } => {
                json!({"minimumExpectedNum": minimum_expected_num, "providedNum": provided_num})
            }
            Self::BackendIdMismatch { expected, received } => json!({"expected": expected, "received": received}),
            Self::Invalid(Invalid { index, reason }) => json!({"index": index, "reason": reason}),
        };
        Some(detail.to_string())
    }

    /// The advice for the caller.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Accepted { .. } => None,
            Self::ServerAhead { .. } => {
                Some("Pull the events after the last one you know, rebase onto them, push again.")
            }
            Self::BackendIdMismatch { .. } => {
                Some("The log was reset since the client last pulled: drop the local log and pull from the start.")
            }
            Self::Invalid(_) => Some("Correct the batch: it is rejected whole, and a retry will not help."),
        }
    }
}

/// An event that is in the log already, at a sequence number that a push names again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent<'a> {
    pub parent_seq_num: i64,
    pub name: &'a str,
    pub args: Option<&'a str>,
    pub client_id: &'a str,
    pub session_id: &'a str,
}

/// Events of the log by store and sequence number.
pub type Stored<'a> = HashMap<(&'a str, i64), StoredEvent<'a>>;

/// An event to insert, and the push (by position) that it came with.
#[derive(Debug, PartialEq, Eq)]
pub struct Insert<'a> {
    pub push: usize,
    pub event: Event<'a>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Plan<'a> {
    /// One verdict for each push, in order, and the events to insert, in log order for each store.
    Decided { verdicts: Vec<Verdict>, inserts: Vec<Insert<'a>> },
    /// A push names sequence numbers that are in the log already, so only the stored events can tell whether it is a repeat.
    /// The caller reads these events and plans again. Each is a push, by its position, and a sequence number; an event that
    /// several pushes name is listed once.
    Lookup(Vec<(usize, i64)>),
}

/// Decides on a group of pushes. In the first call `stored` is `None`; if the decision depends on stored events, the result
/// is a [`Plan::Lookup`], and the caller passes those that exist as `stored` in a second call. `max_ahead` is called only if
/// an event leaves a gap, which LiveStore's clients never do.
pub fn plan<'a>(pushes: &[Push<'a>], stored: Option<&Stored<'_>>, max_ahead: &dyn Fn() -> i64) -> Plan<'a> {
    let mut planner =
        Planner { stored, max_ahead, heads: HashMap::new(), inserts: Vec::new(), planned: HashMap::new() };
    let batches: Vec<_> = pushes.iter().map(|push| read_batch(push.batch)).collect();
    if stored.is_none() {
        let lookups = lookups(pushes, &batches);
        if !lookups.is_empty() {
            return Plan::Lookup(lookups);
        }
    }
    let verdicts = pushes
        .iter()
        .zip(batches)
        .enumerate()
        .map(|(index, (push, batch))| planner.decide(index, push, batch))
        .collect();
    Plan::Decided { verdicts, inserts: planner.inserts }
}

/// The events of the log that a decision may depend on: those that a push names at or below the head. A first push at
/// the head, the usual case, names none.
fn lookups(pushes: &[Push<'_>], batches: &[Result<Vec<Event<'_>>, Invalid>]) -> Vec<(usize, i64)> {
    let mut seen = HashSet::new();
    let mut lookups = Vec::new();
    for (index, (push, batch)) in pushes.iter().zip(batches).enumerate() {
        let events = batch.as_deref().unwrap_or_default();
        for event in events.iter().take_while(|event| event.seq_num <= push.store_head) {
            if seen.insert((push.store, event.seq_num)) {
                lookups.push((index, event.seq_num));
            }
        }
    }
    lookups
}

struct Planner<'a, 's> {
    stored: Option<&'s Stored<'s>>,
    max_ahead: &'s dyn Fn() -> i64,
    /// Heads of the stores that this plan has advanced.
    heads: HashMap<&'a str, i64>,
    inserts: Vec<Insert<'a>>,
    /// The place in `inserts` of an event of this plan.
    planned: HashMap<(&'a str, i64), usize>,
}

impl<'a> Planner<'a, '_> {
    fn decide(&mut self, index: usize, push: &Push<'a>, batch: Result<Vec<Event<'a>>, Invalid>) -> Verdict {
        let batch = match batch {
            Ok(batch) => batch,
            Err(invalid) => return Verdict::Invalid(invalid),
        };
        if let Some(received) = push.backend_id
            && received != push.store_backend_id
        {
            return Verdict::BackendIdMismatch { expected: push.store_backend_id.into(), received: received.into() };
        }
        let head = self.heads.get(push.store).copied().unwrap_or(push.store_head);
        let Some(first) = batch.first() else {
            return Verdict::Accepted { head, appended: 0 };
        };
        let provided_num = first.parent_seq_num;
        let repeated = batch.iter().take_while(|event| self.is_in_log(push.store, event)).count();
        let appended = batch.len() - repeated;
        // The events after the repeated part must follow the head, too: events that others pushed may stand in between.
        let follows_head = batch.get(repeated).is_none_or(|event| event.parent_seq_num == head);
        if !follows_head {
            return Verdict::ServerAhead { minimum_expected_num: head, provided_num };
        }
        if let Some(invalid) = self.jump_too_far(head, &batch, repeated) {
            return Verdict::Invalid(invalid);
        }
        let new_head = if appended > 0 { batch.last().map_or(head, |event| event.seq_num) } else { head };
        self.heads.insert(push.store, new_head);
        for event in batch.into_iter().skip(repeated) {
            self.planned.insert((push.store, event.seq_num), self.inserts.len());
            self.inserts.push(Insert { push: index, event });
        }
        Verdict::Accepted { head: new_head, appended }
    }

    /// The first new event whose gap is too large: it is too far ahead of the head, or uses up the numbers that [`LAST_GAP`]
    /// reserves.
    fn jump_too_far(&self, head: i64, batch: &[Event<'_>], repeated: usize) -> Option<Invalid> {
        let new = batch.iter().enumerate().skip(repeated);
        let mut jumps = new.filter(|(_, event)| event.seq_num > event.parent_seq_num + 1).peekable();
        jumps.peek()?;
        let max_ahead = (self.max_ahead)();
        jumps.find_map(|(index, Event { seq_num, .. })| {
            let reason = if seq_num - head > max_ahead {
                format!("seqNum {seq_num} is more than {max_ahead} ahead of the head of the log, {head}")
            } else if *seq_num > LAST_GAP {
                format!(
                    "seqNum {seq_num} leaves no room: beyond {LAST_GAP} every event must directly follow its parent"
                )
            } else {
                return None;
            };
            Some(Invalid { index: Some(index), reason })
        })
    }

    /// Whether the log, with what this plan adds to it, holds exactly this event.
    fn is_in_log(&self, store: &str, event: &Event<'_>) -> bool {
        let key = (store, event.seq_num);
        if let Some(&position) = self.planned.get(&key) {
            return self.inserts.get(position).is_some_and(|insert| insert.event == *event);
        }
        self.stored.and_then(|stored| stored.get(&key)).is_some_and(|stored| {
            *stored
                == StoredEvent {
                    parent_seq_num: event.parent_seq_num,
                    name: &event.name,
                    args: event.args.map(|args| args.text()),
                    client_id: &event.client_id,
                    session_id: &event.session_id,
                }
        })
    }
}
