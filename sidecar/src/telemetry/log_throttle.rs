//! A limit on log lines that clients cause: each is written once in a while.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Says whether a line is due, and counts those that were not written meanwhile.
pub struct LogThrottle<K> {
    every: Duration,
    /// The number of keys that are told apart at once. Beyond that, new keys wait until others expire.
    keys: usize,
    written: Mutex<HashMap<K, (Instant, u64)>>,
}

impl<K: Hash + Eq> LogThrottle<K> {
    pub fn new(every: Duration, keys: usize) -> Self {
        Self { every, keys, written: Mutex::default() }
    }

    /// `None` if this was written lately; otherwise how many lines were suppressed since.
    pub fn suppressed(&self, key: K) -> Option<u64> {
        self.suppressed_at(key, Instant::now())
    }

    fn suppressed_at(&self, key: K, now: Instant) -> Option<u64> {
        let mut written = self.written.lock();
        if let Some((last, count)) = written.get_mut(&key) {
            if now.duration_since(*last) < self.every {
                *count = count.saturating_add(1);
                return None;
            }
            *last = now;
            return Some(std::mem::take(count));
        }
        if written.len() >= self.keys {
            written.retain(|_, (last, _)| now.duration_since(*last) < self.every);
            if written.len() >= self.keys {
                return None;
            }
        }
        written.insert(key, (now, 0));
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn each_key_has_a_line_a_while_and_the_others_are_counted() {
        let (throttle, start) = (LogThrottle::new(MINUTE, 100), Instant::now());
        let said = [1, 1, 1, 2].map(|key| throttle.suppressed_at(key, start));
        assert_eq!(said, [Some(0), None, None, Some(0)]);
        let said = [1, 1].map(|key| throttle.suppressed_at(key, start + MINUTE));
        assert_eq!(said, [Some(2), None]);
    }

    #[test]
    fn there_is_a_bound_to_what_is_remembered() {
        let (throttle, start) = (LogThrottle::new(MINUTE, 100), Instant::now());
        for key in 0..200 {
            throttle.suppressed_at(key, start);
        }
        let remembered = throttle.written.lock().len();
        assert_eq!((remembered, throttle.suppressed_at(100, start)), (100, None));
        assert_eq!(throttle.suppressed_at(100, start + MINUTE), Some(0));
    }
}
