//! Pushes against the log: acknowledged events are there, once, with the number that was acknowledged, and in the order of time.

use std::collections::HashMap;

use super::known::Known;
use super::{Findings, Places, Rule, is_reset_between};
use crate::history::{Epoch, History, Outcome, Placed, Push, Time};

pub(super) fn check_agreement(history: &History, places: &Places, findings: &mut Findings) {
    let mut acknowledged: HashMap<Placed, Time> = HashMap::new();
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
            let first = acknowledged.entry(*placed).or_insert(push.end);
            *first = push.end.min(*first);
        }
    }
    let mut known = acknowledged;
    let mut learn = |placed: &Placed, time: Time| {
        let first = known.entry(*placed).or_insert(time);
        *first = time.min(*first);
    };
    for read in &history.reads {
        read.events.iter().for_each(|placed| learn(placed, read.end));
    }
    for stream in &history.streams {
        let ends = stream.pages.iter().skip(1).map(|(first, _)| *first).chain([stream.events.len()]);
        for ((first, came), end) in stream.pages.iter().zip(ends) {
            stream.events[*first..end].iter().for_each(|placed| learn(placed, *came));
        }
    }
    for push in &history.pushes {
        match push.outcome {
            Outcome::ServerAhead => check_refusal(history, places, push, &known, findings),
            Outcome::Reset if !is_reset_between(history, push.since, push.end) => {
                findings.add(Rule::FalseReset, "a push was told of a reset that was none".into(), &[push]);
            }
            _ => {}
        }
    }
}

/// A push whose events are in the log, as somebody knows who pushed or got them, is a repeated one: acknowledged, not refused.
fn check_refusal(
    history: &History,
    places: &Places,
    push: &Push,
    known: &HashMap<Placed, Time>,
    findings: &mut Findings,
) {
    let is_there = |placed: &Placed| {
        // A log that was reset since then, or meanwhile, has it no more.
        let is_alive = |epoch: &Epoch| epoch.reset.is_none_or(|(asked, _)| asked > push.end);
        known.get(placed).is_some_and(|end| *end < push.start)
            && places.get(&placed.event).is_some_and(|place| is_alive(&history.epochs[place.epoch]))
    };
    if push.events.iter().all(is_there) {
        findings.add(Rule::FalseRefusal, "a push was refused that repeats what is in the log".into(), &[push]);
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
