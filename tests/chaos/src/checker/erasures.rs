//! Erased events: nobody gets what they said, a while after the operator has erased it.

use std::collections::{HashMap, HashSet};

use super::{Findings, Rule};
use crate::history::{EventId, History, Placed, Time};

/// The time until nobody gets it any more: a sidecar that has lost its connection to Postgres without a word notices that within 10 s, and
/// a page that is on its way takes as long as its network is stalled.
const FORGETTING: Time = 20_000_000;

/// The same while nothing is wrong. A notification takes milliseconds; a sidecar that polls asks every second.
const FORGETTING_IN_CALM: Time = 3_000_000;

pub(super) fn check(history: &History, findings: &mut Findings) {
    let mut gone: HashMap<EventId, Time> = HashMap::new();
    for erasure in &history.erasures {
        for event in &erasure.events {
            let first = gone.entry(*event).or_insert(Time::MAX);
            let forgetting = if erasure.is_calm { FORGETTING_IN_CALM } else { FORGETTING };
            *first = erasure.done.saturating_add(forgetting).min(*first);
        }
    }
    for read in &history.reads {
        if let Some(placed) = unerased(&gone, &read.events, &read.erased, |_| read.start) {
            let what = format!("client {} read event {}, which was erased", read.client, placed.seq_num);
            findings.add(Rule::Unerased, what, &[read]);
        }
    }
    for stream in &history.streams {
        let came = |index: usize| {
            let page = stream.pages.partition_point(|(first, _)| *first <= index);
            page.checked_sub(1).map_or(0, |page| stream.pages[page].1)
        };
        if let Some(placed) = unerased(&gone, &stream.events, &stream.erased, came) {
            let what = format!("client {} was sent event {}, which was erased", stream.client, placed.seq_num);
            findings.add(Rule::Unerased, what, &[placed]);
        }
    }
}

/// The first event that came as it had been after it was gone. `came`: when the one with an index did.
fn unerased<'a>(
    gone: &HashMap<EventId, Time>,
    events: &'a [Placed],
    erased: &[EventId],
    came: impl Fn(usize) -> Time,
) -> Option<&'a Placed> {
    let erased: HashSet<_> = erased.iter().collect();
    let is_unerased = |(index, placed): &(usize, &Placed)| {
        gone.get(&placed.event).is_some_and(|gone| *gone < came(*index)) && !erased.contains(&placed.event)
    };
    events.iter().enumerate().find(is_unerased).map(|(_, placed)| placed)
}
