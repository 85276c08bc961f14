//! Secrets that a request may bring, and how fast they can be guessed.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use subtle::ConstantTimeEq;
use tokio::time::{sleep, timeout};

/// The number of guesses a second that are checked, of all clients together.
const GUESSES_A_SECOND: NonZeroU32 = NonZeroU32::MIN.saturating_add(4);

/// The time that a guess waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// The time that the answer to a wrong guess takes.
const PENALTY: Duration = Duration::from_secs(1);

/// A secret that is asked for rarely: by whoever administers.
pub struct Secret {
    text: String,
    turns: DefaultDirectRateLimiter,
}

/// The outcome of a guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guess {
    Right,
    Wrong,
    /// It was not looked at: too many others are.
    TooMany,
}

impl Secret {
    pub fn new(text: String) -> Self {
        Self { text, turns: RateLimiter::direct(Quota::per_second(GUESSES_A_SECOND)) }
    }

    /// Looks at a guess in its turn. A wrong one takes a second, in which its sender can do nothing else on its connection.
    pub async fn guess(&self, given: &str) -> Guess {
        if timeout(PATIENCE, self.turns.until_ready()).await.is_err() {
            return Guess::TooMany;
        }
        if is_equal(given, &self.text) {
            return Guess::Right;
        }
        sleep(PENALTY).await;
        Guess::Wrong
    }
}

/// Secrets stay out of every log.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// In a time that tells nothing but the length.
fn is_equal(given: &str, secret: &str) -> bool {
    given.as_bytes().ct_eq(secret.as_bytes()).into()
}

/// Delays the answer to a wrong secret as [`Secret::guess`] does. For secrets that come with every request: requests with the
/// right secret cannot be made to take turns.
pub async fn penalty() {
    sleep(PENALTY).await;
}
