//! Decides whether a history can be: a pure function of what was recorded, in time n log n.
//!
//! The log that Postgres holds in the end is the one order there may be. It remains to show that everybody agrees with it:
//! acknowledged pushes ([`pushes`]), live streams ([`streams`]), reads ([`reads`]) and followers of all stores ([`follows`]), that time
//! does, too, and that nobody gets what was erased ([`erasures`]).

mod erasures;
mod follows;
mod known;
mod log;
mod pushes;
mod reads;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value;

use crate::history::{EventId, History, Recovery, Time};
use known::Known;

/// The kinds of violations.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Copy, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// An acknowledged event is not in the log, or not where it was acknowledged.
    Lost,
    /// An event is in the log more than once.
    Doubled,
    /// The log is not one chain of numbers without a gap.
    Broken,
    /// The log, or a client, has an event that nobody pushed there, or whose push was refused.
    Phantom,
    /// An event that was pushed after another was acknowledged is before it.
    Overtaken,
    /// A live stream skipped, repeated or reordered events.
    Disorder,
    /// A client saw something else than the log has, or the front and the shards do not agree where the stores are.
    Disagreement,
    /// A read lacks what was acknowledged, or read by somebody, before it began.
    Stale,
    /// A client was told that its log is over, which makes it drop everything, though nobody had reset it.
    FalseReset,
    /// A push was refused though its events are in the log: written by it, or repeated.
    FalseRefusal,
    /// A follower of all stores lacks an event.
    Missed,
    /// An event came as it had been, long after it was erased.
    Unerased,
    /// The inspector answered with something else than a page, or that the database is away.
    Inspector,
    /// A client did not come back after the last fault, or could not read then, or a store did not get to the shard that it was moved to.
    Stuck,
    /// A pooler ended although no connection to it had been cut off.
    Pooler,
}

/// A rule that was broken, and the part of the history that shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Violation {
    pub rule: Rule,
    pub store: String,
    pub what: String,
    pub extract: Vec<Value>,
}

impl Violation {
    /// The inspector gave an answer that it should not have given.
    pub fn of_inspector(answer: String) -> Self {
        Self { rule: Rule::Inspector, store: "the inspector".into(), what: answer, extract: Vec::new() }
    }

    /// All moves are over, and it is not clear where everything is.
    pub fn of_shards(what: String) -> Self {
        Self { rule: Rule::Disagreement, store: "the shards".into(), what, extract: Vec::new() }
    }

    /// `what`: the last line of its log.
    pub fn of_pooler(what: String) -> Self {
        Self { rule: Rule::Pooler, store: "a pooler".into(), what, extract: Vec::new() }
    }

    /// A move was repeated again and again, and has not ended.
    pub fn of_move(store: String, what: String) -> Self {
        Self { rule: Rule::Stuck, store, what, extract: Vec::new() }
    }
}

/// All that is wrong with the history of a store.
pub fn check(history: &History) -> Vec<Violation> {
    let mut findings = Findings { store: history.store.clone(), violations: Vec::new() };
    let places = log::check(history, &mut findings);
    pushes::check_agreement(history, &places, &mut findings);
    let known = Known::new(history, &places);
    pushes::check_time(history, &known, &mut findings);
    streams::check(history, &places, &mut findings);
    reads::check(history, &places, &known, &mut findings);
    follows::check(history, &places, &mut findings);
    erasures::check(history, &mut findings);
    check_recoveries(history, &mut findings);
    findings.violations
}

/// The places of the events in all logs of a store: the number of the epoch and that of the event.
type Places = HashMap<EventId, Place>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    epoch: usize,
    seq_num: i64,
}

struct Findings {
    store: String,
    violations: Vec<Violation>,
}

impl Findings {
    fn add(&mut self, rule: Rule, what: String, extract: &[&dyn Extract]) {
        let extract = extract.iter().map(|record| record.json()).collect();
        self.violations.push(Violation { rule, store: self.store.clone(), what, extract });
    }
}

/// A part of a history that a violation shows.
trait Extract {
    fn json(&self) -> Value;
}

impl<T: Serialize> Extract for T {
    fn json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// The time that a sidecar may take to hear of events and resets elsewhere: a live stream begins with the log that its sidecar
/// knows, and reports a reset only once the sidecar hears of it. That takes milliseconds, except on networks that are slow on
/// purpose.
const HEARSAY: Time = 5_000_000;

/// Whether a reset of the store explains that a client, which knows the log since then, was told of one at that time.
fn is_reset_between(history: &History, since: Time, told: Time) -> bool {
    let mut resets = history.epochs.iter().filter_map(|epoch| epoch.reset);
    resets.any(|(asked, done)| asked <= told && since <= done)
}

fn check_recoveries(history: &History, findings: &mut Findings) {
    let head = history.epochs.last().and_then(|epoch| epoch.log.last()).map_or(0, |entry| entry.seq_num);
    for recovery in &history.recoveries {
        let Recovery { client, dialect, has_pushed, head: seen, unread, state } = recovery;
        let who = format!("client {client} ({dialect})");
        if !has_pushed {
            findings.add(Rule::Stuck, format!("{who} has not pushed since the last fault: {state}"), &[recovery]);
        }
        if *seen < head {
            findings.add(Rule::Stuck, format!("{who} has {seen} of {head} events: {state}"), &[recovery]);
        }
        if let Some(failure) = unread {
            findings.add(Rule::Stuck, format!("{who} could not read since the last fault: {failure}"), &[recovery]);
        }
    }
}
