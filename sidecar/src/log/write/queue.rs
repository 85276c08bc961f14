//! The queue that pushes of every dialect go through. A committer turns whatever waits into one transaction (`commit.rs`).
//!
//! NOTIFY makes commits of the whole Postgres instance queue behind one another, so a transaction for each push would
//! be three times slower than one for all that wait (docs/architecture.md).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::held::Held;
use super::outcome::Pushed;
use super::push::{Push, Space, size};
use crate::log::context::Context;
use crate::log::error::PushError;
use crate::log::event::Batch;
use crate::log::store_id::StoreId;
use crate::telemetry::metrics::Limit;

/// The most that may wait, in KiB: beyond it pushes are refused, and the clients try again later. So they are when the committer is
/// behind: what is refused early costs next to nothing, and what is accepted is answered soon.
const QUEUE_KIBIBYTES: usize = 64 << 10;

/// How often a push that waits looks whether there is room for it.
const ROOM_RETRY: Duration = Duration::from_millis(50);

const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// What a commit that began in time may take beyond the deadline of its pushes before their clients are told to come back.
const GRACE: Duration = Duration::from_secs(1);

/// The writing end: cheap to clone, never waits.
#[derive(Clone)]
pub struct CommitQueue {
    pushes: mpsc::UnboundedSender<Push>,
    space: Arc<Semaphore>,
    is_behind: Arc<AtomicBool>,
    held: Arc<Held>,
    timeout: Duration,
    last_moment: CancellationToken,
}

/// The reading end.
pub struct Waiting {
    pub pushes: mpsc::UnboundedReceiver<Push>,
    /// Those that are tried again.
    pub held: Arc<Held>,
    /// Pushes come faster than they are committed.
    pub is_behind: Arc<AtomicBool>,
}

impl CommitQueue {
    /// `timeout` bounds how long a push waits for the database, and so does the last moment of a shutdown. A committer takes what waits
    /// out of [`Waiting`].
    pub fn new(timeout: Duration, last_moment: CancellationToken) -> (Self, Waiting) {
        let (pushes, waiting) = mpsc::unbounded_channel();
        let space = Arc::new(Semaphore::new(QUEUE_KIBIBYTES));
        let is_behind = Arc::new(AtomicBool::new(false));
        let held = Arc::<Held>::default();
        let waiting = Waiting { pushes: waiting, held: Arc::clone(&held), is_behind: Arc::clone(&is_behind) };
        (Self { pushes, space, is_behind, held, timeout, last_moment }, waiting)
    }

    /// How long a push waits for the database.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Ends when pushes that wait are answered all the same, since the process ends.
    pub fn last_moment(&self) -> CancellationToken {
        self.last_moment.clone()
    }

    /// How much waits, in bytes.
    pub fn waiting(&self) -> usize {
        (QUEUE_KIBIBYTES - self.space.available_permits()) << 10
    }

    /// Takes the room that a push needs.
    pub fn reserve(&self, store: &StoreId, batch: &Batch, context: &Context) -> Result<Space, PushError> {
        if self.held.is_full(store) {
            Limit::Queue.hit();
            return Err(PushError::Throttled("another transaction holds this store; try again later".into()));
        }
        let space = Arc::clone(&self.space).try_acquire_many_owned(kibibytes(batch, context));
        match space {
            Ok(space) if !self.is_behind.load(Ordering::Relaxed) => Ok(Space(space)),
            _ => {
                Limit::Queue.hit();
                Err(PushError::Throttled("more is being pushed than the database commits; try again later".into()))
            }
        }
    }

    /// The same, as soon as there is room.
    pub fn room(
        &self,
        store: &StoreId,
        batch: &Batch,
        context: &Context,
    ) -> impl Future<Output = Option<Space>> + Send + use<> {
        let room = Arc::clone(&self.space).acquire_many_owned(kibibytes(batch, context));
        let (held, is_behind, store) = (Arc::clone(&self.held), Arc::clone(&self.is_behind), store.clone());
        async move {
            // What is let in while others have waited for long only makes them wait longer.
            while held.is_full(&store) || is_behind.load(Ordering::Relaxed) {
                sleep(ROOM_RETRY).await;
            }
            room.await.ok().map(Space)
        }
    }

    /// How many stores are waited for that other transactions hold.
    pub fn held_stores(&self) -> usize {
        self.held.count()
    }

    /// Puts a push into the queue at once, so that pushes are carried out in the order of these calls. The future that
    /// it returns ends after the commit; dropping it does not take the push back. Without `patience`, it waits for the
    /// database as long as the future is there.
    pub fn push(
        &self,
        store: StoreId,
        batch: Batch,
        backend_id: Option<String>,
        context: Arc<Context>,
        space: Space,
        patience: Option<Duration>,
    ) -> impl Future<Output = Result<Pushed, PushError>> + use<> {
        let (reply, answer) = oneshot::channel();
        let queued = Instant::now();
        let deadline = queued + patience.unwrap_or(FOR_EVER);
        // If the committer is gone, so is `reply`, and the answer is an error.
        let _ = self.pushes.send(Push {
            store,
            batch,
            backend_id,
            context,
            queued,
            deadline,
            reply,
            span: Span::current(),
            _space: space,
        });
        // Who has patience would not come back.
        let last_moment = patience.map(|_| self.last_moment.clone());
        async move {
            // Whatever the committer is waiting for, a client is told in time to come back.
            let answer = async { timeout_at(deadline + GRACE, answer).await.ok().and_then(Result::ok) };
            let answer = match last_moment {
                None => answer.await,
                Some(last_moment) => tokio::select! {
                    biased;
                    answer = answer => answer,
                    () = last_moment.cancelled() => None,
                },
            };
            answer.unwrap_or(Err(PushError::Unavailable))
        }
    }
}

/// A KiB on top stands for what a push costs beside its text.
fn kibibytes(batch: &Batch, context: &Context) -> u32 {
    u32::try_from(size(batch, context) / 1024 + 1).unwrap_or(u32::MAX)
}
