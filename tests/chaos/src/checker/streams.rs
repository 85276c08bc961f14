//! Live streams against the log: each brings every event after its cursor once, in order, until it ends.

use super::{Findings, HEARSAY, Places, Rule, is_reset_between};
use crate::history::{History, Stream};

pub(super) fn check(history: &History, places: &Places, findings: &mut Findings) {
    for stream in &history.streams {
        check_order(stream, findings);
        check_content(stream, places, findings);
        let since = stream.since.saturating_sub(HEARSAY);
        if stream.is_told_of_reset && !is_reset_between(history, since, stream.end) {
            let what = format!("a live stream of client {} was told of a reset that was none", stream.client);
            findings.add(Rule::FalseReset, what, &[&Around::of(stream, stream.events.len())]);
        }
    }
}

fn check_order(stream: &Stream, findings: &mut Findings) {
    let mut last = stream.cursor;
    for (index, placed) in stream.events.iter().enumerate() {
        let is_restart =
            stream.restarts.binary_search(&index).is_ok() && (stream.cursor + 1..=last).contains(&placed.seq_num);
        if placed.seq_num != last + 1 && !is_restart {
            let what = format!("a live stream of client {} brought {} after {last}", stream.client, placed.seq_num);
            findings.add(Rule::Disorder, what, &[&Around::of(stream, index)]);
            // Its consequences are not worth violations of their own.
            return;
        }
        last = placed.seq_num;
    }
}

fn check_content(stream: &Stream, places: &Places, findings: &mut Findings) {
    // A cursor means something only in the log that it came from.
    let mut epoch = stream.after.and_then(|after| places.get(&after)).map(|place| place.epoch);
    for (index, placed) in stream.events.iter().enumerate() {
        let (client, seq_num) = (stream.client, placed.seq_num);
        let (rule, what) = match places.get(&placed.event) {
            None => (Rule::Phantom, format!("client {client} was sent an event {seq_num} that is in no log")),
            Some(place) if place.seq_num != seq_num => {
                (Rule::Disagreement, format!("client {client} was sent event {} as {seq_num}", place.seq_num))
            }
            Some(place) if *epoch.get_or_insert(place.epoch) != place.epoch => {
                (Rule::Disagreement, format!("a live stream of client {client} went on in the log after a reset"))
            }
            Some(_) => continue,
        };
        findings.add(rule, what, &[&Around::of(stream, index)]);
        return;
    }
    if stream.is_of_another_log {
        let what = format!("a live stream of client {} brought a page of another log", stream.client);
        findings.add(Rule::Disagreement, what, &[&Around::of(stream, stream.events.len())]);
    }
}

/// A stream with the events around one: all of them would hide it.
#[derive(serde::Serialize)]
struct Around {
    stream: Stream,
    index: usize,
}

impl Around {
    fn of(stream: &Stream, index: usize) -> Self {
        const EACH_SIDE: usize = 5;
        let end = stream.events.len().min(index + EACH_SIDE);
        let events = stream.events[index.saturating_sub(EACH_SIDE).min(end)..end].to_vec();
        Self { stream: Stream { events, ..stream.clone() }, index }
    }
}
