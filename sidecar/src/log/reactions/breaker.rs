//! A circuit breaker: while a receiver fails again and again, it gets one message after each pause, and not more.

use std::time::Duration;

use tokio::time::Instant;

/// The number of failures in a row after which it opens.
const FAILURES: u32 = 5;

/// The first pause and the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct Breaker {
    failures: u32,
    paused_until: Option<Instant>,
}

impl Breaker {
    /// The number of messages that may be on their way, of `concurrency`, once there is no pause.
    pub fn places(&self, concurrency: usize) -> usize {
        if self.is_open() { 1 } else { concurrency }
    }

    pub fn is_open(&self) -> bool {
        self.failures >= FAILURES
    }

    /// The end of the pause, if there is one.
    pub fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|end| *end > now)
    }

    /// A message was taken.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// A message was not taken. The receiver may say how long to wait.
    pub fn failed(&mut self, retry_after: Option<Duration>, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let pause = self.is_open().then(|| PAUSE * (1 << (self.failures - FAILURES).min(6)));
        let pause = pause.max(retry_after).map(|pause| pause.min(LONGEST));
        self.paused_until = pause.map(|pause| now + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_and_lets_one_through_after_each_pause() {
        let (mut breaker, mut now) = (Breaker::default(), Instant::now());
        for _ in 1..FAILURES {
            breaker.failed(None, now);
            assert_eq!((breaker.places(4), breaker.paused_until(now)), (4, None));
        }
        let mut pauses = Vec::new();
        for _ in 0..8 {
            breaker.failed(None, now);
            let end = breaker.paused_until(now).unwrap();
            pauses.push((end - now).as_secs());
            now = end;
            assert_eq!((breaker.places(4), breaker.paused_until(now)), (1, None));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        breaker.succeeded();
        assert_eq!(breaker.places(4), 4);
    }

    #[test]
    fn a_receiver_says_how_long_to_wait_within_bounds() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        let wait = Duration::from_secs(30);
        breaker.failed(Some(wait), now);
        assert_eq!((breaker.paused_until(now), breaker.places(4)), (Some(now + wait), 4));
        assert_eq!(breaker.paused_until(now + wait), None);
        breaker.failed(Some(Duration::from_secs(86_400)), now);
        assert_eq!(breaker.paused_until(now + LONGEST), None);
    }
}
