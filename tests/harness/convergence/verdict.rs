//! The verdict on a round: on its clients, and on the log.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use super::{Entry, Event, Log, Played, Record, State, Traffic};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// All clients have the same todos, all of them, and nothing pending.
    pub converged: bool,
    /// Until the writers agreed.
    pub seconds: Option<f64>,
    /// Why it did not converge.
    pub reasons: BTreeSet<String>,
    pub missing: Missing,
    /// Events that were acknowledged to a client, or are confirmed in its database, and are not in the log.
    pub lost: BTreeSet<String>,
    /// Todos that were created by several events of the log, each of which a client has pushed.
    pub pushed_twice: BTreeSet<String>,
    /// Events of the log that no client has pushed with their numbers.
    pub never_pushed: BTreeSet<String>,
    pub is_chain: bool,
    /// Traffic that failed, by the name of the error.
    pub failures: BTreeMap<String, usize>,
    /// The number of pushes that clients have seen refused.
    pub refused: usize,
    /// The number of pushes that the server has refused because its log has more events, if it counts them.
    pub server_ahead: Option<usize>,
    pub given_up: usize,
    /// Refused ones of the client that had most of them.
    pub most_refused: usize,
}

/// The events that are not in the log.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Missing {
    pub count: usize,
    /// Their client never handed them to its sync backend.
    pub never_pushed: usize,
    /// They are in the database of their client.
    pub on_disk: usize,
}

impl Verdict {
    /// `logs` is what the clients have logged.
    pub fn of(played: &Played, log: &Log, logs: &str) -> Self {
        let all: BTreeSet<_> = played.created.iter().flatten().collect();
        let converged = played.records.iter().all(|record| record.state.is_settled() && shows(record, &all));
        let mut reasons = BTreeSet::new();
        if !converged {
            reasons.extend(played.records.iter().filter_map(|record| reason(record, log, logs)));
        }
        let traffic = || played.records.iter().filter_map(|record| record.traffic.as_ref());
        let mut failures = BTreeMap::new();
        for (error, count) in traffic().flat_map(|traffic| &traffic.failures) {
            *failures.entry(error.clone()).or_insert(0) += count;
        }
        Self {
            converged,
            seconds: played.agreed_after.map(|time| time.as_secs_f64()),
            reasons,
            missing: Missing::of(played, log),
            lost: lost(played, log),
            pushed_twice: log.doubled().into_iter().collect(),
            never_pushed: never_pushed(played, log),
            is_chain: log.is_chain(),
            failures,
            server_ahead: None,
            refused: traffic().map(Traffic::refused).sum(),
            given_up: traffic().map(Traffic::given_up).sum(),
            most_refused: traffic().map(Traffic::refused).max().unwrap_or(0),
        }
    }

    /// Whether the log is as it has to be, whatever the clients made of it: one chain of what they have pushed, each event once, with
    /// everything that was acknowledged.
    pub fn is_log_whole(&self) -> bool {
        self.is_chain && self.lost.is_empty() && self.never_pushed.is_empty()
    }
}

impl Missing {
    fn of(played: &Played, log: &Log) -> Self {
        let mut missing = Self::default();
        for (ids, record) in played.created.iter().zip(&played.records) {
            for id in ids.iter().filter(|id| !log.has(id)) {
                let is_it = |event: &Event| event.1.as_ref() == Some(id);
                let was_pushed = |traffic: &Traffic| traffic.offered.iter().any(is_it);
                missing.count += 1;
                missing.never_pushed +=
                    usize::from(record.traffic.as_ref().is_some_and(|traffic| !was_pushed(traffic)));
                missing.on_disk += usize::from(record.disk.as_ref().is_some_and(|disk| disk.events.iter().any(is_it)));
            }
        }
        missing
    }
}

fn shows(record: &Record, ids: &BTreeSet<&String>) -> bool {
    record.todos.as_ref().is_some_and(|todos| todos.len() == ids.len() && todos.iter().all(|id| ids.contains(id)))
}

/// Events that were acknowledged and are not in the log, and events that a client has below its head and the log does not have
/// there.
fn lost(played: &Played, log: &Log) -> BTreeSet<String> {
    let pushes = played.records.iter().filter_map(|record| record.traffic.as_ref());
    let acknowledged = pushes.flat_map(|traffic| &traffic.acknowledged);
    let disks = played.records.iter().filter_map(|record| record.disk.as_ref());
    let confirmed = disks.flat_map(|disk| disk.events.iter().filter(|(number, _)| *number <= disk.head));
    acknowledged.chain(confirmed).filter(|event| !log.has_event(event)).filter_map(|(_, id)| id.clone()).collect()
}

/// Of clients whose pushes are unknown, every event counts as pushed.
fn never_pushed(played: &Played, log: &Log) -> BTreeSet<String> {
    let writers = &played.records[..played.created.len()];
    let Some(pushes) = writers.iter().map(|record| record.traffic.as_ref()).collect::<Option<Vec<_>>>() else {
        return BTreeSet::new();
    };
    let pushed: BTreeSet<_> = pushes.iter().flat_map(|traffic| &traffic.offered).collect();
    let was_pushed = |entry: &&Entry| pushed.contains(&(entry.number, Some(entry.id.clone())));
    log.0.iter().filter(|entry| !was_pushed(entry)).map(|entry| entry.id.clone()).collect()
}

/// The reason why a client has not converged, or none if it has the events of the log.
fn reason(record: &Record, log: &Log, logs: &str) -> Option<String> {
    let who = if record.name == "reader" { "the client that started later" } else { "a writer" };
    let what = match &record.state {
        State::Ended(Value::Null) => "its process ended".into(),
        State::Ended(cause) => format!("its store shut down: {}", summary(cause, logs)),
        State::Runs(status) if !status.is_connected => "it is not connected".into(),
        State::Runs(status) if (status.backend_head as usize) < log.0.len() => {
            let received = record.traffic.as_ref().map(|traffic| traffic.received > status.backend_head);
            let what = match received {
                Some(true) => "does not take events that its pull brought",
                Some(false) => "is not brought the newest events",
                None => "does not have the newest events",
            };
            format!("its leader {what}")
        }
        State::Runs(status) if status.pending_in_leader > 0 && has_gap(record) => {
            "its leader holds events whose numbers leave gaps, which it cannot push".into()
        }
        State::Runs(status) if status.pending_in_leader > 0 => "its leader does not push what it holds".into(),
        State::Runs(status) if status.pending_in_session > 0 => "its session does not hand over what it holds".into(),
        State::Runs(_) if shows(record, &log.0.iter().map(|entry| &entry.id).collect()) => return None,
        State::Runs(_) => "it has nothing pending, and other todos than the log".into(),
    };
    Some(format!("{who}: {what}"))
}

/// Whether the pending events of a client leave a gap after the log that it knows, or among themselves.
fn has_gap(record: &Record) -> bool {
    let Some(disk) = &record.disk else { return false };
    let pending = disk.events.iter().map(|(number, _)| *number).filter(|number| *number > disk.head);
    !pending.eq(disk.head + 1..=disk.events.iter().map(|(number, _)| *number).max().unwrap_or(disk.head))
}

/// The innermost message of an error.
fn summary(cause: &Value, logs: &str) -> String {
    let text = cause.to_string();
    if let Some(unique) = unique(&text).or_else(|| unique(logs)) {
        return unique;
    }
    let mut innermost = cause;
    while let Some(next) =
        ["cause", "reason", "note"].into_iter().map(|key| &innermost[key]).find(|next| next.is_object())
    {
        innermost = next;
    }
    let message = innermost["message"].as_str().unwrap_or(&text);
    let tag = innermost["_tag"].as_str().unwrap_or("error");
    let line = message.lines().next().unwrap_or_default();
    format!("{tag} {}", line.chars().take(100).collect::<String>()).trim().into()
}

fn unique(text: &str) -> Option<String> {
    let found = text.split("UNIQUE constraint failed: ").nth(1)?;
    let column: String = found.chars().take_while(|c| c.is_alphanumeric() || "_.".contains(*c)).collect();
    Some(format!("UNIQUE constraint failed: {column}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A writer that has pushed two events, which were acknowledged, and the reader.
    fn played() -> Played {
        let created = vec![vec!["a".to_string(), "b".into()]];
        let events = json!([[1, "a"], [2, "b"]]);
        let traffic = json!({"offered": events, "acknowledged": events, "failures": {}, "received": 2});
        let status =
            json!({"head": 2, "backendHead": 2, "pendingInSession": 0, "pendingInLeader": 0, "isConnected": true});
        let record = |name: &str, traffic: Value| Record {
            name: name.into(),
            state: State::Runs(serde_json::from_value(status.clone()).unwrap()),
            todos: Some(created.concat()),
            traffic: serde_json::from_value(traffic).ok(),
            disk: serde_json::from_value(json!({"head": 2, "events": events})).ok(),
        };
        let records = vec![record("writer-0", traffic), record("reader", Value::Null)];
        Played { created, records, agreed_after: None }
    }

    fn verdict(log: &[(i64, i64, &str)]) -> Verdict {
        let entry = |&(number, parent, id): &(i64, i64, &str)| Entry { number, parent, id: id.into() };
        Verdict::of(&played(), &Log(log.iter().map(entry).collect()), "")
    }

    #[test]
    fn a_log_is_whole_if_it_has_what_was_pushed_and_nothing_else() {
        let whole = verdict(&[(1, 0, "a"), (2, 1, "b")]);
        assert!(whole.is_log_whole() && whole.converged, "{whole:?}");

        let lacks_one = verdict(&[(1, 0, "a")]);
        assert!(!lacks_one.is_log_whole() && lacks_one.lost.contains("b"), "{lacks_one:?}");
        let other_place = verdict(&[(1, 0, "b"), (2, 1, "a")]);
        assert!(!other_place.is_log_whole() && other_place.lost.len() == 2, "{other_place:?}");
        let twice = verdict(&[(1, 0, "a"), (2, 1, "b"), (3, 2, "b")]);
        assert!(!twice.is_log_whole() && twice.never_pushed.contains("b"), "{twice:?}");
        let gap = verdict(&[(1, 0, "a"), (2, 1, "b"), (4, 3, "c")]);
        assert!(!gap.is_log_whole() && !gap.is_chain, "{gap:?}");
    }
}
