//! Followers of the commit log and of subscriptions: each has every event of the log that lives, in its order, and those that promise it
//! have no event twice. Each shard has an order of its own, and all of them together have every event.

use std::collections::{HashMap, HashSet};

use super::{Findings, Places, Rule};
use crate::history::{EventId, Follow, History};

pub(super) fn check(history: &History, places: &Places, findings: &mut Findings) {
    for follow in &history.follows {
        let seen = check_order(follow, places, findings);
        let Some(log) = history.epochs.last().map(|epoch| &epoch.log) else { continue };
        let missed: Vec<_> = log.iter().filter(|entry| !seen.contains(&entry.event)).collect();
        if let Some(first) = missed.first() {
            let what = format!("{} has missed {} events, the first is {}", follow.by, missed.len(), first.seq_num);
            findings.add(Rule::Missed, what, &[*first]);
        }
    }
}

/// The last entry of a database: its position, and its place in the logs.
#[derive(Default)]
struct Last {
    position: Option<i64>,
    event: (usize, i64),
}

/// The events that it has had.
fn check_order(follow: &Follow, places: &Places, findings: &mut Findings) -> HashSet<EventId> {
    let mut seen: HashMap<EventId, usize> = HashMap::new();
    let mut lasts: HashMap<usize, Last> = HashMap::new();
    for followed in &follow.events {
        let (by, seq_num) = (&follow.by, followed.placed.seq_num);
        let last = lasts.entry(followed.database).or_default();
        if followed.position.is_some() && followed.position <= last.position {
            findings.add(
                Rule::Disorder,
                format!("{by} has read position {:?} after {:?}", followed.position, last.position),
                &[followed],
            );
        }
        last.position = followed.position;
        if followed.has_left {
            let what = format!("{by} has had event {seq_num} of a store after it had left");
            findings.add(Rule::Disorder, what, &[followed]);
        }
        match places.get(&followed.placed.event) {
            None => {
                findings.add(Rule::Phantom, format!("{by} has had an event {seq_num} that is in no log"), &[followed])
            }
            Some(place) if place.seq_num != seq_num => {
                findings.add(
                    Rule::Disagreement,
                    format!("{by} has had event {} as {seq_num}", place.seq_num),
                    &[followed],
                );
            }
            Some(place) => {
                if let Some(database) = seen.insert(followed.placed.event, followed.database) {
                    // One shard has written it, and no other delivers it.
                    if !follow.may_repeat || database != followed.database {
                        findings.add(Rule::Doubled, format!("{by} has had event {seq_num} twice"), &[followed]);
                    }
                    continue;
                }
                if (place.epoch, seq_num) <= last.event {
                    let what = format!("{by} has had event {seq_num} after {}", last.event.1);
                    findings.add(Rule::Disorder, what, &[followed]);
                }
                last.event = (place.epoch, seq_num);
            }
        }
    }
    seen.into_keys().collect()
}
