//! Reads against the log and the clock: each is the beginning of a log that was alive then, and has all that was known before.

use super::known::Known;
use super::{Findings, Places, Rule};
use crate::history::{EXPORT_OF_STANDBY, History, Read};

pub(super) fn check(history: &History, places: &Places, known: &Known, findings: &mut Findings) {
    for read in &history.reads {
        let mut alive = (0..history.epochs.len()).filter(|&epoch| is_alive(history, epoch, read));
        let Some(first) = read.events.first() else {
            let is_empty = |epoch| known.before(epoch, read.start) == 0 || may_be_short(history, read);
            if !history.epochs.is_empty() && !alive.any(is_empty) {
                findings.add(Rule::Stale, format!("client {} read nothing of a log with events", read.client), &[read]);
            }
            continue;
        };
        let Some(epoch) = places.get(&first.event).map(|place| place.epoch) else {
            findings.add(Rule::Phantom, format!("client {} read an event that is in no log", read.client), &[read]);
            continue;
        };
        let log = &history.epochs[epoch].log;
        let is_beginning = read.events.len() <= log.len()
            && read
                .events
                .iter()
                .zip(log)
                .all(|(read, entry)| (read.seq_num, read.event) == (entry.seq_num, entry.event));
        if !is_beginning {
            let what = format!("what client {} read is not the beginning of the log", read.client);
            findings.add(Rule::Disagreement, what, &[read]);
        }
        let before = known.before(epoch, read.start);
        let length = read.events.len() as i64;
        let is_stale = length < before && !may_be_short(history, read);
        if is_stale || !alive.any(|alive| alive == epoch) {
            let what = format!("client {} read {length} events when {before} were known to be there", read.client);
            findings.add(Rule::Stale, what, &[read]);
        }
    }
}

/// Whether the log of an epoch may have been there at some moment of a read.
fn is_alive(history: &History, epoch: usize, read: &Read) -> bool {
    let life = &history.epochs[epoch];
    life.start <= read.end && life.reset.is_none_or(|(_, done)| done >= read.start)
}

/// sync-s2's read of history is the first part of its live pull, which goes on from there and would not survive another ending. So
/// it ends in order, though not at its end, if its sidecar ends while the database is away or the read takes too long; and if the
/// store is reset in the middle of it, the client asks again and gets what the new log has after its cursor.
///
/// An export from a standby has what the standby has.
fn may_be_short(history: &History, read: &Read) -> bool {
    let resets = history.epochs.iter().filter_map(|epoch| epoch.reset);
    let shutdowns = history.hindered.iter().filter(|shutdown| shutdown.sidecar == read.sidecar);
    let mut occasions = shutdowns.map(|shutdown| (shutdown.start, shutdown.end)).chain(resets);
    let mut is_hindered = || occasions.any(|(start, end)| start <= read.end && read.start <= end);
    read.dialect == EXPORT_OF_STANDBY || read.dialect == "s2" && is_hindered()
}
