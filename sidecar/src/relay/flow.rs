//! How much the devices of one user may send through one sidecar.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::UserId;

/// How often users that have been quiet are forgotten.
const FORGET: Duration = Duration::from_secs(60);

/// Messages and bytes a second for each user, with bursts of a second.
pub struct Flow {
    messages: DefaultKeyedRateLimiter<UserId>,
    bytes: DefaultKeyedRateLimiter<UserId>,
    most_bytes: NonZeroU32,
}

impl Flow {
    pub fn new(messages: NonZeroU32, bytes: NonZeroU32) -> Self {
        Self {
            messages: RateLimiter::keyed(Quota::per_second(messages)),
            bytes: RateLimiter::keyed(Quota::per_second(bytes)),
            most_bytes: bytes,
        }
    }

    /// Waits until a message of this size may be taken.
    pub async fn admit(&self, user: &UserId, bytes: usize) {
        self.messages.until_key_ready(user).await;
        let mut left = u32::try_from(bytes).unwrap_or(u32::MAX);
        while let Some(part) = NonZeroU32::new(left.min(self.most_bytes.get())) {
            // Never more than the limit, so there is room in time.
            let _ = self.bytes.until_key_n_ready(user, part).await;
            left -= part.get();
        }
    }

    /// Runs for ever.
    pub async fn forget_regularly(self: Arc<Self>) {
        loop {
            tokio::time::sleep(FORGET).await;
            self.messages.retain_recent();
            self.bytes.retain_recent();
        }
    }
}
