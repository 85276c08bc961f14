//! The events that a client has written and not yet seen in its live pull. LiveStore's sync processor calls them pending.

use std::collections::VecDeque;

use crate::history::{EventId, Placed};

#[derive(Debug, Default)]
pub struct Pending {
    events: VecDeque<EventId>,
    /// The number of acknowledged ones, counted from the first.
    acknowledged: usize,
    /// The last event of the log that the client has seen.
    head: i64,
    last: Option<EventId>,
    /// The number of times that others were first: a push from before is not repeated, but made anew with other numbers.
    rebases: u64,
}

/// A batch is small: the more pushes, the more there is to go wrong.
const BATCH: usize = 8;

impl Pending {
    pub fn head(&self) -> i64 {
        self.head
    }

    /// The event at the head.
    pub fn last(&self) -> Option<EventId> {
        self.last
    }

    pub fn rebases(&self) -> u64 {
        self.rebases
    }

    pub fn len(&self) -> usize {
        self.events.len()
    }

    pub fn add(&mut self, event: EventId) {
        self.events.push_back(event);
    }

    /// The events to push next, with the numbers that they have behind everything that came before.
    pub fn batch(&self) -> Vec<Placed> {
        let placed = (self.head + 1..).zip(&self.events).map(|(seq_num, &event)| Placed { seq_num, event });
        placed.skip(self.acknowledged).take(BATCH).collect()
    }

    /// Whether this was acknowledged or has come.
    pub fn is_settled(&self, event: EventId) -> bool {
        self.events.iter().position(|pending| *pending == event).is_none_or(|index| index < self.acknowledged)
    }

    /// A batch was acknowledged; some of it may have come meanwhile.
    pub fn acknowledge(&mut self, batch: &[Placed]) {
        let last = batch.last().map(|placed| placed.event);
        if let Some(index) = self.events.iter().position(|pending| Some(*pending) == last) {
            self.acknowledged = self.acknowledged.max(index + 1);
        }
    }

    /// An event came. Says whether it was new to this client; any other mistake is for the checker to find.
    pub fn hear(&mut self, placed: Placed) -> bool {
        if placed.seq_num <= self.head {
            return false;
        }
        (self.head, self.last) = (placed.seq_num, Some(placed.event));
        if self.events.front() == Some(&placed.event) {
            self.events.pop_front();
            self.acknowledged = self.acknowledged.saturating_sub(1);
        } else {
            self.acknowledged = 0;
            self.rebases += 1;
        }
        true
    }

    /// The log was reset: LiveStore drops what it has, and what it wanted to push.
    pub fn start_over(&mut self) {
        *self = Self { rebases: self.rebases + 1, ..Self::default() };
    }
}
