//! The log by itself: one chain for each epoch, no event twice, none that nobody pushed.

use std::collections::HashMap;

use super::{Findings, Place, Places, Rule};
use crate::history::{History, Outcome, Placed, Push};

pub(super) fn check(history: &History, findings: &mut Findings) -> Places {
    // A push that was refused wrote nothing.
    let mut pushed: HashMap<Placed, &Push> = HashMap::new();
    for push in &history.pushes {
        for placed in &push.events {
            let known = pushed.entry(*placed).or_insert(push);
            if is_refused(known) && !is_refused(push) {
                *known = push;
            }
        }
    }
    let mut places = Places::new();
    for (epoch, life) in history.epochs.iter().enumerate() {
        let mut head = 0;
        for entry in &life.log {
            if (entry.parent_seq_num, entry.seq_num) != (head, head + 1) {
                findings.add(Rule::Broken, format!("the log goes from {head} to {}", entry.seq_num), &[entry]);
            }
            head = entry.seq_num;
            let place = Place { epoch, seq_num: entry.seq_num };
            if let Some(other) = places.insert(entry.event, place) {
                let (first, again) = (other.seq_num, entry.seq_num);
                findings.add(Rule::Doubled, format!("an event is in the log as {first} and as {again}"), &[entry]);
            }
            match pushed.get(&Placed { seq_num: entry.seq_num, event: entry.event }) {
                None => findings.add(Rule::Phantom, format!("nobody pushed event {head} there"), &[entry]),
                Some(push) if is_refused(push) => {
                    findings.add(Rule::Phantom, format!("every push of event {head} was refused"), &[entry, push]);
                }
                Some(_) => {}
            }
        }
    }
    places
}

fn is_refused(push: &Push) -> bool {
    matches!(push.outcome, Outcome::ServerAhead | Outcome::Reset)
}
