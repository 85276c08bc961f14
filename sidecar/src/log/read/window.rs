//! The latest events of a log, in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use super::page::{PAGE_BYTES, PAGE_EVENTS};
use crate::log::event::Event;

/// The most that a window holds. A subscriber that is further behind reads from Postgres.
const EVENTS: usize = 512;
const BYTES: usize = 512 << 10;

// A page holds more than a window, so a subscriber that reads pages catches up with the tail.
const _: () = assert!(PAGE_EVENTS as usize >= EVENTS && PAGE_BYTES as usize >= BYTES);

/// The head of a log, and the events that lead up to it, each the parent of the next.
#[derive(Default)]
pub struct Window {
    position: i64,
    events: VecDeque<Arc<Event>>,
    bytes: usize,
}

impl Window {
    /// The last event that the log is known to have.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// Adds events whose first one follows `position`.
    pub fn append(&mut self, events: Vec<Arc<Event>>) {
        for event in events {
            self.position = event.seq_num;
            self.bytes += event.size();
            self.events.push_back(event);
        }
        while (self.events.len() > EVENTS || self.bytes > BYTES)
            && let Some(oldest) = self.events.pop_front()
        {
            self.bytes -= oldest.size();
        }
    }

    /// The log stands at `head`, and what leads there is not held.
    pub fn skip_to(&mut self, head: i64) {
        *self = Self { position: head, ..Self::default() };
    }

    /// The events after `last`, if the window still holds all of them.
    pub fn after(&self, last: i64) -> Option<Vec<Arc<Event>>> {
        let first = self.events.partition_point(|event| event.seq_num <= last);
        let follows = self.events.get(first).is_some_and(|event| event.parent_seq_num == last);
        follows.then(|| self.events.range(first..).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::events;

    #[test]
    fn it_holds_the_latest_events_within_its_bounds() {
        for (count, bytes, held) in [(600, 1, 512), (10, 100 << 10, 5)] {
            let mut window = Window::default();
            window.append(events(0, count, bytes));
            assert_eq!(window.after(count - held).map(|events| events.len() as i64), Some(held));
            assert!(window.after(count - held - 1).is_none() && window.after(count).is_none());
            window.skip_to(700);
            window.append(events(700, 1, 1));
            assert!(window.after(count - 1).is_none() && window.after(699).is_none(), "what it skipped is not held");
            assert_eq!((window.position(), window.after(700).map(|events| events.len())), (701, Some(1)));
        }
    }
}
