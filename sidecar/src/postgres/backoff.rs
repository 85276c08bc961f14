use std::time::Duration;

/// Waits between attempts: each twice as long as the one before, up to a bound.
pub struct Backoff {
    next: Duration,
    longest: Duration,
    attempts: u32,
}

impl Backoff {
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, longest, attempts: 0 }
    }

    /// The number of calls of [`Self::sleep`].
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    pub async fn sleep(&mut self) {
        self.attempts = self.attempts.saturating_add(1);
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(self.longest);
    }
}
