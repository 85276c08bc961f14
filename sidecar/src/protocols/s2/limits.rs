//! The part of a stream that a reader wants.

use std::sync::Arc;

use super::records::{metered, timestamp};
use crate::log::Event;

/// The rest of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub records: Option<u64>,
    /// Metered.
    pub bytes: Option<u64>,
    /// Records from this time on are not wanted, in milliseconds since 1970.
    pub until: Option<i64>,
}

impl Limits {
    pub const NONE: Self = Self { records: None, bytes: None, until: None };

    /// The number of events that are wanted, of those that come next. Fewer than all: nothing more is wanted.
    pub fn take(&mut self, events: &[Arc<Event>]) -> usize {
        let mut taken = 0;
        for event in events {
            let size = metered(event) as u64;
            let is_beyond = self.records == Some(0)
                || self.bytes.is_some_and(|bytes| bytes < size)
                || self.until.is_some_and(|until| timestamp(event) >= until);
            if is_beyond {
                break;
            }
            self.records = self.records.map(|records| records - 1);
            self.bytes = self.bytes.map(|bytes| bytes - size);
            taken += 1;
        }
        taken
    }

    /// Whether no further record is wanted, whatever it is.
    pub fn is_exhausted(&self) -> bool {
        self.records == Some(0) || self.bytes == Some(0)
    }

    /// The rest after this much.
    pub fn less(self, records: u64, bytes: u64) -> Self {
        Self {
            records: self.records.map(|limit| limit.saturating_sub(records)),
            bytes: self.bytes.map(|limit| limit.saturating_sub(bytes)),
            ..self
        }
    }
}
