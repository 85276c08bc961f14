//! The books that the clients of a soak keep.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

/// The number of mistakes that are kept: a client that makes one usually makes many.
const KEPT: usize = 20;

/// The work that was done, in numbers.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Tally {
    pub pushes: u64,
    pub events: u64,
    /// Events that reached live readers, each counted for each of them.
    pub delivered: u64,
    /// One-off reads of whole logs.
    pub reads: u64,
    /// Pushes that had to be refused, and were.
    pub refused: u64,
    /// Streams that their clients ended, and those that they dropped.
    pub closed: u64,
    pub dropped: u64,
    /// Stores that began empty: new ones, and old ones that were reset.
    pub stores: u64,
    pub mistakes: u64,
}

/// Shared by all clients.
#[derive(Debug, Default)]
pub struct Books {
    page: Mutex<Page>,
}

#[derive(Debug, Default)]
struct Page {
    tally: Tally,
    /// Of the pushes since the last sample.
    latencies: Vec<Duration>,
    mistakes: Vec<String>,
}

impl Books {
    pub fn count(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut self.page().tally);
    }

    pub fn pushed(&self, events: u64, took: Duration) {
        let mut page = self.page();
        page.tally.pushes += 1;
        page.tally.events += events;
        page.latencies.push(took);
    }

    pub fn mistake(&self, text: String) {
        let mut page = self.page();
        page.tally.mistakes += 1;
        if page.mistakes.len() < KEPT {
            page.mistakes.push(text);
        }
    }

    pub fn tally(&self) -> Tally {
        self.page().tally.clone()
    }

    /// The time that each push since the last call took.
    pub fn take_latencies(&self) -> Vec<Duration> {
        std::mem::take(&mut self.page().latencies)
    }

    pub fn mistakes(&self) -> Vec<String> {
        self.page().mistakes.clone()
    }

    /// A client that panics does so elsewhere, so the page is consistent even if the lock is poisoned.
    fn page(&self) -> MutexGuard<'_, Page> {
        self.page.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
