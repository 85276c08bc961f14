//! Pushes against the log: acknowledged events are there, once, with the number that was acknowledged, and in the order of time.

use std::collections::HashMap;

use super::known::Known;
use super::{Findings, Places, Rule, is_reset_between};
use crate::history::{History, Outcome, Placed, Push};

pub(super) fn check_agreement(history: &History, places: &Places, findings: &mut Findings) {
    for push in history.pushes.iter().filter(|push| push.outcome == Outcome::Ok) {
        for placed in &push.events {
            let seq_num = placed.seq_num;
            match places.get(&placed.event) {
                None => findings.add(Rule::Lost, format!("event {seq_num} was acknowledged and is gone"), &[push]),
                Some(place) if place.seq_num != seq_num => {
                    let what = format!("event {} was acknowledged as {seq_num}", place.seq_num);
                    findings.add(Rule::Lost, what, &[push]);
                }
                Some(_) => {}
            }
        }
    }
    for push in &history.pushes {
        match push.outcome {
            Outcome::ServerAhead => check_refusal(history, places, push, findings),
            Outcome::Reset if !is_reset_between(history, push.since, push.end) => {
                findings.add(Rule::FalseReset, "a push was told of a reset that was none".into(), &[push]);
            }
            _ => {}
        }
    }
}

/// A push is not refused for its own events, written by it or by one that it repeats. A log does not change: the events that are at the numbers of
/// a push in the end were there when it was refused for those.
fn check_refusal(history: &History, places: &Places, push: &Push, findings: &mut Findings) {
    // No reset came between: a push that was given up may get into the next log, after its repetition was refused for what the last one had.
    let is_of_its_time = |epoch: usize| {
        let previous = epoch.checked_sub(1).and_then(|previous| history.epochs[previous].reset);
        previous.is_none_or(|(_, done)| done < push.start)
            && history.epochs[epoch].reset.is_none_or(|(asked, _)| asked > push.end)
    };
    let is_there = |placed: &Placed| {
        places.get(&placed.event).is_some_and(|place| place.seq_num == placed.seq_num && is_of_its_time(place.epoch))
    };
    if push.events.iter().all(is_there) {
        findings.add(Rule::FalseRefusal, "a push was refused, and its events are in the log".into(), &[push]);
    }
}

/// An event that nobody had begun to push when another was known to be in the log comes after that.
pub(super) fn check_time(history: &History, known: &Known, findings: &mut Findings) {
    let mut begun: HashMap<Placed, &Push> = HashMap::new();
    for push in &history.pushes {
        for placed in &push.events {
            let first = begun.entry(*placed).or_insert(push);
            if push.start < first.start {
                *first = push;
            }
        }
    }
    for (epoch, life) in history.epochs.iter().enumerate() {
        for entry in &life.log {
            let Some(push) = begun.get(&Placed { seq_num: entry.seq_num, event: entry.event }) else { continue };
            let before = known.before(epoch, push.start);
            if before >= entry.seq_num {
                let what = format!("event {} was pushed when event {before} was known to be there", entry.seq_num);
                findings.add(Rule::Overtaken, what, &[entry, *push]);
            }
        }
    }
}
