//! Lines of the log that somebody else causes: each once in a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Says whether something was said lately, and counts what was not said meanwhile.
pub struct Seldom<K> {
    every: Duration,
    /// How many are told apart at once. Beyond that, new ones wait until the time of others is over.
    keys: usize,
    said: Mutex<HashMap<K, (Instant, u64)>>,
}

impl<K: Hash + Eq> Seldom<K> {
    pub fn new(every: Duration, keys: usize) -> Self {
        Self { every, keys, said: Mutex::default() }
    }

    /// Whether it is time to say this, and if so, how often it was not said since the last time.
    pub fn suppressed(&self, key: K) -> Option<u64> {
        self.suppressed_at(key, Instant::now())
    }

    fn suppressed_at(&self, key: K, now: Instant) -> Option<u64> {
        let mut said = self.said.lock();
        if let Some((last, count)) = said.get_mut(&key) {
            if now.duration_since(*last) < self.every {
                *count = count.saturating_add(1);
                return None;
            }
            *last = now;
            return Some(std::mem::take(count));
        }
        if said.len() >= self.keys {
            said.retain(|_, (last, _)| now.duration_since(*last) < self.every);
            if said.len() >= self.keys {
                return None;
            }
        }
        said.insert(key, (now, 0));
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn each_key_has_a_line_a_while_and_the_others_are_counted() {
        let (seldom, start) = (Seldom::new(MINUTE, 100), Instant::now());
        let said = [1, 1, 1, 2].map(|key| seldom.suppressed_at(key, start));
        assert_eq!(said, [Some(0), None, None, Some(0)]);
        let said = [1, 1].map(|key| seldom.suppressed_at(key, start + MINUTE));
        assert_eq!(said, [Some(2), None]);
    }

    #[test]
    fn there_is_a_bound_to_what_is_remembered() {
        let (seldom, start) = (Seldom::new(MINUTE, 100), Instant::now());
        for key in 0..200 {
            seldom.suppressed_at(key, start);
        }
        let remembered = seldom.said.lock().len();
        assert_eq!((remembered, seldom.suppressed_at(100, start)), (100, None));
        assert_eq!(seldom.suppressed_at(100, start + MINUTE), Some(0));
    }
}
