//! Rate limits per key: a number of items and of bytes per second, with bursts of one second.

use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::task::JoinSet;

/// The interval at which quiet keys are removed.
const FORGET: Duration = Duration::from_secs(60);

/// A request that is admitted faster did not wait.
const NOTICEABLE: Duration = Duration::from_millis(1);

/// The amount that each key may send in a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub items: NonZeroU32,
    pub bytes: NonZeroU32,
}

/// One rate, for each key by itself.
pub struct RateLimit<K: Hash + Eq + Clone> {
    items: DefaultKeyedRateLimiter<K>,
    bytes: DefaultKeyedRateLimiter<K>,
    rate: Rate,
}

impl<K: Hash + Eq + Clone + Send + Sync + 'static> RateLimit<K> {
    /// `tasks` runs what forgets keys that have been quiet.
    pub fn start(rate: Rate, tasks: &mut JoinSet<()>) -> Arc<Self> {
        let limit = Self::new(rate);
        tasks.spawn(Arc::clone(&limit).forget_regularly());
        limit
    }

    fn new(rate: Rate) -> Arc<Self> {
        let (items, bytes) = (Quota::per_second(rate.items), Quota::per_second(rate.bytes));
        Arc::new(Self { items: RateLimiter::keyed(items), bytes: RateLimiter::keyed(bytes), rate })
    }

    /// Whether something of this size may be taken now; if so, takes it. More than half a second's bytes are counted as half
    /// a second's: a large item would otherwise need a second without any others, which may never come.
    pub fn may(&self, who: &K, bytes: usize) -> bool {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.rate.bytes.get().div_ceil(2));
        self.items.check_key(who).is_ok()
            && NonZeroU32::new(bytes).is_none_or(|bytes| matches!(self.bytes.check_key_n(who, bytes), Ok(Ok(()))))
    }

    /// Waits until something of this size may be taken; returns whether it had to.
    pub async fn admit(&self, who: &K, bytes: usize) -> bool {
        let start = Instant::now();
        self.items.until_key_ready(who).await;
        let mut left = u32::try_from(bytes).unwrap_or(u32::MAX);
        // In parts, between which there is room for others, and never more than the limit.
        while let Some(part) = NonZeroU32::new(left.min(self.rate.bytes.get().div_ceil(8))) {
            let _ = self.bytes.until_key_n_ready(who, part).await;
            left -= part.get();
        }
        start.elapsed() >= NOTICEABLE
    }

    async fn forget_regularly(self: Arc<Self>) {
        loop {
            tokio::time::sleep(FORGET).await;
            self.items.retain_recent();
            self.bytes.retain_recent();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate_limit(items: u32, bytes: u32) -> Arc<RateLimit<&'static str>> {
        RateLimit::new(Rate { items: items.try_into().unwrap(), bytes: bytes.try_into().unwrap() })
    }

    #[test]
    fn each_has_a_burst_of_a_second() {
        let items = rate_limit(2, 1000);
        assert!(items.may(&"a", 0) && items.may(&"a", 1) && !items.may(&"a", 1));
        assert!(items.may(&"b", 1));
        let bytes = rate_limit(1000, 100);
        assert!(bytes.may(&"a", 40) && bytes.may(&"a", 40) && !bytes.may(&"a", 40) && bytes.may(&"b", 40));
    }

    #[test]
    fn what_is_larger_than_the_limit_counts_as_half_of_it() {
        let bytes = rate_limit(1000, 100);
        assert!(bytes.may(&"a", 20) && bytes.may(&"a", usize::MAX) && !bytes.may(&"a", 40));
    }

    #[tokio::test]
    async fn who_waits_pays_for_all_of_it() {
        let bytes = rate_limit(1000, 1000);
        assert!(!bytes.admit(&"a", 800).await, "at once");
        let start = Instant::now();
        assert!(bytes.admit(&"a", 700).await);
        assert!(start.elapsed() > Duration::from_millis(400), "{:?}", start.elapsed());
    }
}
