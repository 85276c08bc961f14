//! The memory that a message takes before it is whole: what was read of its connection and not handed on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::limits::memory::{Account, FREE, Share};

/// Memory is taken in pieces, as a message arrives.
const STEP: usize = 128 << 10;

/// Counts what is read of a connection, from when it is a WebSocket.
#[derive(Default)]
pub struct Meter(Mutex<Option<Count>>);

struct Count {
    account: Account,
    /// Read since the last message.
    bytes: usize,
    share: Option<Share>,
    taking: Option<Pin<Box<dyn Future<Output = Option<Share>> + Send>>>,
    /// The time since when a message larger than [`FREE`] has been arriving.
    since: Option<Instant>,
}

impl Meter {
    /// From now on.
    pub fn begin(&self, account: Account) {
        *self.0.lock() = Some(Count { account, bytes: 0, share: None, taking: None, since: None });
    }

    /// Whether there is memory for what is read next. Until then nothing is, and the client is held back by its own connection.
    pub fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut count = self.0.lock();
        let Some(count) = &mut *count else { return Poll::Ready(()) };
        while count.bytes > FREE + count.share.as_ref().map_or(0, Share::bytes) {
            let account = count.account.clone();
            let taking = count.taking.get_or_insert_with(|| Box::pin(async move { account.take(STEP).await }));
            let taken = ready!(taking.as_mut().poll(context));
            count.taking = None;
            match (&mut count.share, taken) {
                (Some(share), Some(taken)) => share.merge(taken),
                (none, Some(taken)) => *none = Some(taken),
                (_, None) => break,
            }
        }
        Poll::Ready(())
    }

    pub fn read(&self, bytes: usize) {
        if let Some(count) = &mut *self.0.lock() {
            count.bytes += bytes;
            if count.bytes > FREE {
                count.since.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Called when a message is complete: returns the memory that it takes.
    pub fn delivered(&self) -> Option<Share> {
        let mut count = self.0.lock();
        let count = count.as_mut()?;
        (count.bytes, count.since) = (0, None);
        count.share.take()
    }

    /// Whether a message has been arriving for longer than this.
    pub fn is_unfinished_for(&self, time: Duration) -> bool {
        self.0.lock().as_ref().and_then(|count| count.since).is_some_and(|since| since.elapsed() > time)
    }
}

/// The meter of the connection that a request came on, or one that counts nothing.
pub fn of(extensions: &axum::http::Extensions) -> Arc<Meter> {
    extensions.get::<Arc<Meter>>().cloned().unwrap_or_default()
}
