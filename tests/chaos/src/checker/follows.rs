//! Followers of the commit log and of subscriptions: each has every event of the log that lives, in its order, and those that promise it
//! have no event twice.

use std::collections::HashSet;

use super::{Findings, Places, Rule};
use crate::history::{Follow, History};

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

/// The events that it has had.
fn check_order(follow: &Follow, places: &Places, findings: &mut Findings) -> HashSet<crate::history::EventId> {
    let (mut seen, mut last, mut last_position) = (HashSet::new(), (0, 0), None);
    for followed in &follow.events {
        let (by, seq_num) = (&follow.by, followed.placed.seq_num);
        if followed.position.is_some() && followed.position <= last_position {
            findings.add(
                Rule::Disorder,
                format!("{by} has read position {:?} after {last_position:?}", followed.position),
                &[followed],
            );
        }
        last_position = followed.position;
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
                if !seen.insert(followed.placed.event) {
                    if !follow.may_repeat {
                        findings.add(Rule::Doubled, format!("{by} has had event {seq_num} twice"), &[followed]);
                    }
                    continue;
                }
                if (place.epoch, seq_num) <= last {
                    findings.add(Rule::Disorder, format!("{by} has had event {seq_num} after {}", last.1), &[followed]);
                }
                last = (place.epoch, seq_num);
            }
        }
    }
    seen
}
