//! How much somebody may send: so many things and so many bytes a second, with bursts of a second.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// How often those that have been quiet are forgotten.
const FORGET: Duration = Duration::from_secs(60);

/// What each may send in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub things: NonZeroU32,
    pub bytes: NonZeroU32,
}

/// Keeps everybody to one rate.
pub struct Flow<K: Hash + Eq + Clone> {
    things: DefaultKeyedRateLimiter<K>,
    bytes: DefaultKeyedRateLimiter<K>,
    rate: Rate,
}

impl<K: Hash + Eq + Clone + Send + Sync + 'static> Flow<K> {
    pub fn new(rate: Rate) -> Arc<Self> {
        let (things, bytes) = (Quota::per_second(rate.things), Quota::per_second(rate.bytes));
        Arc::new(Self { things: RateLimiter::keyed(things), bytes: RateLimiter::keyed(bytes), rate })
    }

    /// Whether something of this size may be taken now; then it is.
    pub fn may(&self, who: &K, bytes: usize) -> bool {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.rate.bytes.get());
        let has_room =
            NonZeroU32::new(bytes).is_none_or(|bytes| matches!(self.bytes.check_key_n(who, bytes), Ok(Ok(()))));
        has_room && self.things.check_key(who).is_ok()
    }

    /// Waits until something of this size may be taken.
    pub async fn admit(&self, who: &K, bytes: usize) {
        self.things.until_key_ready(who).await;
        let mut left = u32::try_from(bytes).unwrap_or(u32::MAX);
        while let Some(part) = NonZeroU32::new(left.min(self.rate.bytes.get())) {
            // Never more than the limit, so there is room in time.
            let _ = self.bytes.until_key_n_ready(who, part).await;
            left -= part.get();
        }
    }

    /// Runs for ever.
    pub async fn forget_regularly(self: Arc<Self>) {
        loop {
            tokio::time::sleep(FORGET).await;
            self.things.retain_recent();
            self.bytes.retain_recent();
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn flow(things: u32, bytes: u32) -> Arc<Flow<&'static str>> {
        Flow::new(Rate { things: things.try_into().unwrap(), bytes: bytes.try_into().unwrap() })
    }

    #[test]
    fn each_has_a_burst_of_a_second() {
        let things = flow(2, 1000);
        assert!(things.may(&"a", 0) && things.may(&"a", 1) && !things.may(&"a", 1));
        assert!(things.may(&"b", 1));
        let bytes = flow(1000, 100);
        assert!(bytes.may(&"a", 60) && !bytes.may(&"a", 60) && bytes.may(&"b", 60));
    }

    #[test]
    fn what_is_larger_than_a_second_is_taken_when_nothing_was_before() {
        let bytes = flow(1000, 100);
        assert!(bytes.may(&"a", usize::MAX) && !bytes.may(&"a", 1));
    }
}
