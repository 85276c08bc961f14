//! Secrets that a request may bring, and how fast they can be guessed.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use subtle::ConstantTimeEq;
use tokio::time::{sleep, timeout};

use crate::limits::peer::Peer;

/// The number of guesses a second that are checked of the clients of one address, so that they do not keep others from guessing right.
const GUESSES_OF_ONE: NonZeroU32 = NonZeroU32::MIN.saturating_add(4);

/// The same for all clients together.
const GUESSES_OF_ALL: NonZeroU32 = NonZeroU32::MIN.saturating_add(49);

/// Addresses that are remembered before those that have not guessed lately are forgotten.
const ADDRESSES: usize = 1000;

/// The time that a guess waits for its turn.
const PATIENCE: Duration = Duration::from_secs(5);

/// The time that the answer to a wrong guess takes.
const PENALTY: Duration = Duration::from_secs(1);

/// A secret that is asked for rarely: by whoever administers.
pub struct Secret {
    text: String,
    turns: DefaultDirectRateLimiter,
    turns_of_one: DefaultKeyedRateLimiter<Option<IpAddr>>,
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
        let turns = RateLimiter::direct(Quota::per_second(GUESSES_OF_ALL));
        Self { text, turns, turns_of_one: RateLimiter::keyed(Quota::per_second(GUESSES_OF_ONE)) }
    }

    /// Looks at a guess in its turn. A wrong one takes a second, in which its sender can do nothing else on its connection.
    pub async fn guess(&self, given: &str, Peer(address): Peer) -> Guess {
        if self.turns_of_one.len() > ADDRESSES {
            self.turns_of_one.retain_recent();
        }
        let turn = async {
            self.turns_of_one.until_key_ready(&address).await;
            self.turns.until_ready().await;
        };
        if timeout(PATIENCE, turn).await.is_err() {
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

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    #[tokio::test]
    async fn guesses_of_one_address_keep_nobody_else_out() {
        let secret = Secret::new("right".into());
        let at = |last: u8| Peer(Some([10, 0, 0, last].into()));
        let wrong = join_all((0..60).map(|_| secret.guess("wrong", at(1))));
        let right = async {
            sleep(Duration::from_millis(50)).await;
            secret.guess("right", at(2)).await
        };
        let first = async {
            tokio::select! {
                _ = wrong => None,
                right = right => Some(right),
            }
        };
        assert_eq!(timeout(Duration::from_secs(1), first).await.ok().flatten(), Some(Guess::Right));
    }
}
