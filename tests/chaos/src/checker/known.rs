//! The known length of a log over time: acknowledgements and reads prove that it was so long at a time.

use super::Places;
use crate::history::{History, Outcome, Time};

/// For each epoch, the length of the log that somebody had been told of before a time.
pub(super) struct Known(Vec<Vec<(Time, i64)>>);

impl Known {
    pub(super) fn new(history: &History, places: &Places) -> Self {
        let mut told = vec![Vec::new(); history.epochs.len()];
        let acknowledged = history.pushes.iter().filter(|push| push.outcome == Outcome::Ok);
        let pushed = acknowledged.map(|push| (push.end, &push.events));
        let read = history.reads.iter().map(|read| (read.end, &read.events));
        for (end, events) in pushed.chain(read) {
            if let Some(last) = events.last().and_then(|placed| places.get(&placed.event)) {
                told[last.epoch].push((end, last.seq_num));
            }
        }
        for epoch in &mut told {
            epoch.sort_unstable();
            let mut longest = 0;
            for (_, seq_num) in epoch {
                longest = longest.max(*seq_num);
                *seq_num = longest;
            }
        }
        Self(told)
    }

    /// The least length of the log of an epoch before this time.
    pub(super) fn before(&self, epoch: usize, time: Time) -> i64 {
        let told = &self.0[epoch];
        let count = told.partition_point(|(end, _)| *end < time);
        count.checked_sub(1).map_or(0, |last| told[last].1)
    }
}
