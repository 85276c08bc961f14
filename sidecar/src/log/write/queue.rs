//! The queue that pushes of every dialect go through. The committer (`commit.rs`) turns all that waits into one transaction: commits with
//! a NOTIFY queue behind one another in a whole Postgres instance, so a transaction for each push would be three times slower.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use super::held::Held;
use super::outcome::Pushed;
use super::push::{Intended, Push, Space, size};
use crate::log::context::Context;
use crate::log::error::PushError;
use crate::log::event::Batch;
use crate::log::store_id::StoreId;
use crate::telemetry::metrics::Limit;

/// The limit of the queue in KiB. When it is reached, and while the committer is behind, pushes are refused and clients try
/// again later. A refusal costs next to nothing, and pushes that are accepted are answered soon.
const QUEUE_KIBIBYTES: usize = 64 << 10;

/// The interval at which a push that waits for room checks again.
const ROOM_RETRY: Duration = Duration::from_millis(50);

const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// The time by which a commit that began in time may exceed the deadline of its pushes.
const GRACE: Duration = Duration::from_secs(1);

/// The writing end: cheap to clone, never waits.
#[derive(Clone)]
pub struct CommitQueue {
    pushes: mpsc::UnboundedSender<Push>,
    space: Arc<Semaphore>,
    is_behind: Arc<AtomicBool>,
    held: Arc<Held>,
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
    /// `last_moment`, of a shutdown, bounds how long a push waits for the database.
    pub fn new(last_moment: CancellationToken) -> (Self, Waiting) {
        let (pushes, waiting) = mpsc::unbounded_channel();
        let space = Arc::new(Semaphore::new(QUEUE_KIBIBYTES));
        let is_behind = Arc::new(AtomicBool::new(false));
        let held = Arc::<Held>::default();
        let waiting = Waiting { pushes: waiting, held: Arc::clone(&held), is_behind: Arc::clone(&is_behind) };
        (Self { pushes, space, is_behind, held, last_moment }, waiting)
    }

    /// Bytes that wait.
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
        let pushes = self.pushes.clone();
        async move {
            // To let a push in while the committer is behind would make the pushes that wait already wait even longer. One that is gone, of a
            // shard that is none any more, never catches up.
            while (held.is_full(&store) || is_behind.load(Ordering::Relaxed)) && !pushes.is_closed() {
                sleep(ROOM_RETRY).await;
            }
            room.await.ok().map(Space)
        }
    }

    /// The number of stores with pushes that are tried again.
    pub fn held_stores(&self) -> usize {
        self.held.count()
    }

    /// Those of them whose pushes have waited for more than 5 seconds.
    pub fn long_held_stores(&self) -> usize {
        self.held.count_longer_than(Duration::from_secs(5))
    }

    /// Queues a push at once, so that pushes are carried out in the order of these calls. Returns a future that ends after the commit;
    /// dropping it does not take the push back. Without `patience`, it waits for the database as long as it exists.
    pub fn push(
        &self,
        store: StoreId,
        batch: Batch,
        intended: Intended,
        context: Arc<Context>,
        space: Space,
        patience: Option<Duration>,
    ) -> impl Future<Output = Result<Pushed, PushError>> + use<> {
        let (reply, answer) = oneshot::channel();
        let queued = Instant::now();
        let deadline = queued + patience.unwrap_or(FOR_EVER);
        self.send(Push {
            store,
            batch,
            intended,
            context,
            queued,
            deadline,
            was_tried: false,
            reply,
            span: Span::current(),
            _space: space,
        });
        // Clients of pushes with a time limit try again, so they get an answer when the process ends.
        let last_moment = patience.map(|_| self.last_moment.clone());
        async move {
            // A client is told in time to try again, whatever the committer waits for.
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

impl CommitQueue {
    /// Queues a push that another shard has refused.
    pub fn send(&self, push: Push) {
        // If the committer is gone, so is the place for the answer, and the answer is an error.
        let _ = self.pushes.send(push);
    }
}

/// With a KiB for the cost of a push beside its text. A push larger than the whole queue counts as the whole, and goes alone: room for more
/// than that never comes, and a push that waited for it would keep all others out.
fn kibibytes(batch: &Batch, context: &Context) -> u32 {
    u32::try_from((size(batch, context) / 1024 + 1).min(QUEUE_KIBIBYTES)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::log::testing::{chain, store};

    fn queue() -> (CommitQueue, Waiting) {
        CommitQueue::new(CancellationToken::new())
    }

    #[test]
    fn the_queue_is_bounded_in_bytes() {
        let (queue, _waiting) = queue();
        let (store, batch, context) = (store("s"), chain(0, 1, 16 << 20), Context::default());
        let taken: Vec<_> = (0..9).map_while(|_| queue.reserve(&store, &batch, &context).ok()).collect();
        assert!(taken.len() == 3 && queue.waiting() > 48 << 20, "{}", queue.waiting());
        drop(taken);
        assert_eq!(queue.waiting(), 0);
        queue.is_behind.store(true, Ordering::Relaxed);
        assert!(queue.reserve(&store, &batch, &context).is_err());
    }

    #[tokio::test]
    async fn a_push_larger_than_the_queue_goes_alone() {
        let (queue, _waiting) = queue();
        let (store, large, small, context) = (store("s"), chain(0, 1, 65 << 20), chain(0, 1, 1), Context::default());
        let space = queue.room(&store, &large, &context).now_or_never().flatten().expect("the queue is empty");
        assert!(queue.reserve(&store, &small, &context).is_err());
        let waits = queue.room(&store, &large, &context);
        drop(space);
        assert!(waits.await.is_some());
        assert!(queue.reserve(&store, &large, &context).is_ok());
    }

    #[tokio::test]
    async fn pushes_keep_their_order_and_clients_that_try_again_are_told_at_the_last_moment() {
        let (queue, mut waiting) = queue();
        let [one, two, patient] = [(0, Some(FOR_EVER)), (1, Some(FOR_EVER)), (2, None)].map(|(after, patience)| {
            let (store, batch, context) = (store("s"), chain(after, 1, 1), Arc::<Context>::default());
            let space = queue.reserve(&store, &batch, &context).unwrap();
            queue.push(store, batch, Intended::Any, context, space, patience)
        });
        let mut pushes: Vec<_> = std::iter::from_fn(|| waiting.pushes.try_recv().ok()).collect();
        assert_eq!(pushes.iter().filter_map(|push| push.batch.parent()).collect::<Vec<_>>(), [0, 1, 2]);
        pushes.remove(0).reply.send(Ok(Pushed { head: 1 })).unwrap();
        queue.last_moment.cancel();
        assert_eq!((one.await, two.await), (Ok(Pushed { head: 1 }), Err(PushError::Unavailable)));
        assert!(patient.now_or_never().is_none());
    }
}
