//! Appending to the log of a store, for a client that may.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::{Either, FutureExt};
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::time::{Instant, timeout, timeout_at};

use super::authorize::Action;
use super::store::StoreLog;
use crate::auth::Access;
use crate::limits::memory::Share;
use crate::log::context::Context;
use crate::log::error::{Denied, PushError};
use crate::log::event::{Batch, Origin};
use crate::log::limits::OverLimit;
use crate::log::write::outcome::Pushed;
use crate::log::write::push::{Intended, Space};
use crate::postgres::{Database, Unreadable};

/// A client that may append to a store. Only a check makes one, so nothing is appended without asking.
pub struct Writer<'a>(&'a StoreLog);

/// A batch that may be appended, and that has its room in the queue.
pub struct Admitted {
    store: StoreLog,
    batch: Batch,
    /// The log that it is meant for, unless its client names one.
    followed: Intended,
    space: Space,
}

/// When an event was appended, and where the log stands.
pub struct Receipt {
    pub appended_at: Option<DateTime<Utc>>,
    pub head: i64,
    pub head_appended_at: Option<DateTime<Utc>>,
}

impl StoreLog {
    /// Asks whether the client may append, when nothing is to be appended; tells the operator if not. Waits while the database is away.
    pub async fn writer(&self) -> Result<Writer<'_>, Denied> {
        self.authorize(Action::Push).await.inspect_err(|denied| self.tell(Action::Push, denied))?;
        Ok(Writer(self))
    }

    /// Appends a batch. The future returns the outcome, after the commit. Pushes of one client are queued in the order of
    /// these calls, as long as their futures are polled. Dropping a future does not cancel a push that is queued. The caller keeps the memory
    /// of the request meanwhile.
    pub fn push(
        &self,
        batch: Batch,
        backend_id: Option<String>,
        over_limit: OverLimit,
    ) -> impl Future<Output = Result<Pushed, PushError>> + use<> {
        self.push_holding(None, batch, backend_id, over_limit)
    }

    /// The same. `memory`, of the message that the batch was in, is held until the push has its room in the queue.
    pub fn push_holding(
        &self,
        memory: Option<Arc<Share>>,
        batch: Batch,
        backend_id: Option<String>,
        over_limit: OverLimit,
    ) -> impl Future<Output = Result<Pushed, PushError>> + use<> {
        let origin = batch.origin();
        // Before it waits for anything, such as the operator's function.
        let intended = backend_id.map_or_else(|| self.followed(), Intended::Named);
        let checked = self.check_sizes(batch.sizes());
        let pushed = match checked {
            Ok(()) if self.is_read_only() => Either::Right(self.read_only(over_limit).boxed()),
            checked => match checked.and_then(|()| self.room(&batch, over_limit)) {
                Ok(room) => Either::Left(self.push_in_time(batch, room, memory, intended, over_limit)),
                Err(error) => Either::Right(std::future::ready(Err(error)).boxed()),
            },
        };
        counted(self.clone(), origin, pushed)
    }

    /// Admits a push of a client that would not try again: waits for limits, and for room in the queue.
    /// [`PushError::Unavailable`] means that the sidecar shuts down.
    pub async fn admit(self, batch: Batch) -> Result<Admitted, PushError> {
        let followed = self.followed();
        let admitting = async {
            self.check_sizes(batch.sizes())?;
            if self.is_read_only() {
                self.check_token(Access::Write, Action::Push.refusal()).await?;
                // As while the database is away.
                self.log.last_moment.cancelled().await;
                return Err(PushError::Unavailable);
            }
            self.admit_within_limits(&batch, OverLimit::Wait).await?;
            // Room comes last: a push that waits shall not keep others out.
            self.room_for(&batch, OverLimit::Wait).await
        };
        match admitting.await {
            Ok(space) => Ok(Admitted { store: self, batch, followed, space }),
            Err(error) => {
                self.answered(&batch.origin(), Err(&error));
                Err(error)
            }
        }
    }

    /// For a push that succeeded: when an event of it was appended, and where the log stands. Waits while the database is away.
    pub async fn receipt(&self, _: &Pushed, seq_num: i64) -> Result<Receipt, Unreadable> {
        let own = self.next_after(seq_num - 1).await?;
        let appended_at = own.events.first().map(|event| event.created_at);
        let end = if own.head == seq_num { own } else { self.end().await? };
        let head_appended_at = end.events.last().map(|event| event.created_at);
        Ok(Receipt { appended_at, head: end.head, head_appended_at })
    }

    /// Room in the queue. `None`: there is none now, and the client waits.
    fn room(&self, batch: &Batch, over_limit: OverLimit) -> Result<Option<Space>, PushError> {
        match self.shard().commits.reserve(self.id(), batch, &self.context) {
            Ok(space) => Ok(Some(space)),
            Err(_) if over_limit == OverLimit::Wait => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The end of a push to a sidecar that only reads: its client waits, as while the database is away, or goes elsewhere.
    fn read_only(&self, over_limit: OverLimit) -> impl Future<Output = Result<Pushed, PushError>> + use<> {
        let this = self.clone();
        async move {
            let (patience, last_moment) = (this.log.push_timeout, this.log.last_moment.clone());
            let asking = async {
                this.check_token(Access::Write, Action::Push.refusal()).await?;
                if over_limit == OverLimit::Wait {
                    std::future::pending::<()>().await;
                }
                Err(PushError::Unavailable)
            };
            let asked = last_moment.run_until_cancelled(timeout(patience, asking)).await;
            asked.and_then(Result::ok).unwrap_or(Err(PushError::Unavailable))
        }
    }

    fn push_in_time(
        &self,
        batch: Batch,
        room: Option<Space>,
        memory: Option<Arc<Share>>,
        intended: Intended,
        over_limit: OverLimit,
    ) -> impl Future<Output = Result<Pushed, PushError>> + use<> {
        let patience = self.log.push_timeout;
        let mut last_push = self.last_push.lock();
        let previous = last_push.take().and_then(still_waiting);
        // A push that has to wait gives its room back: it would keep others out of a queue that is not busy, among them the push that it
        // waits for.
        if let Some(space) = room
            && let Some(writer) = self.public_writer()
            && previous.is_none()
            && self.log.limits.stores.may(self.id(), batch.json().len())
        {
            return Either::Left(writer.queue(batch, space, intended, Some(patience)));
        }
        let this = self.clone();
        let (queued, next) = oneshot::channel::<()>();
        *last_push = Some(next);
        let deadline = Instant::now() + patience;
        // Boxed, because this future is large, and the future of every request would have to reserve room for it.
        Either::Right(Box::pin(async move {
            let admitted = this.in_time(deadline, this.admit_within_limits(&batch, over_limit)).await;
            if let Some(previous) = previous {
                let _ = previous.await;
            }
            let writer = admitted?;
            let space = this.in_time(deadline, this.room_for(&batch, over_limit)).await?;
            let pushed = writer.queue(batch, space, intended, Some(deadline.saturating_duration_since(Instant::now())));
            drop((queued, memory));
            pushed.await
        }))
    }

    /// The log that a push is meant for whose client names none.
    fn followed(&self) -> Intended {
        self.shard().tails.backend_id(self.id()).map_or(Intended::Any, Intended::Followed)
    }

    /// A writer without any check, if everybody may write.
    fn public_writer(&self) -> Option<Writer<'_>> {
        self.log.is_public().then_some(Writer(self))
    }

    /// The result of a step of a push whose client waits until then.
    fn in_time<T>(
        &self,
        deadline: Instant,
        step: impl Future<Output = Result<T, PushError>>,
    ) -> impl Future<Output = Result<T, PushError>> {
        let step = self.log.last_moment.run_until_cancelled(timeout_at(deadline, step));
        step.map(|step| step.and_then(Result::ok).unwrap_or(Err(PushError::Unavailable)))
    }

    /// Whether the client may append this now.
    async fn admit_within_limits(&self, batch: &Batch, over_limit: OverLimit) -> Result<Writer<'_>, PushError> {
        let (limits, bytes) = (&self.log.limits, batch.json().len());
        self.check_token(Access::Write, Action::Push.refusal()).await?;
        // The client's own limit comes before the work that it causes others.
        let subject = self.context.subject();
        if let Some(subject) = subject {
            limits.subjects.pass(subject, bytes, over_limit).await?;
        }
        let writer = self.writer_of(bytes, over_limit).await?;
        if let Some(subject) = subject
            && self.begins(batch).await
        {
            limits.begin(subject, self.id(), over_limit).await?;
        }
        Ok(writer)
    }

    /// The room of a push that may be queued.
    async fn room_for(&self, batch: &Batch, over_limit: OverLimit) -> Result<Space, PushError> {
        match over_limit {
            OverLimit::Refuse => self.shard().commits.reserve(self.id(), batch, &self.context),
            OverLimit::Wait => {
                let room = self.shard().commits.room(self.id(), batch, &self.context);
                room.await.ok_or(PushError::Unavailable)
            }
        }
    }

    /// Looks at the sizes of the events of a push, in bytes.
    pub fn check_sizes(&self, sizes: impl ExactSizeIterator<Item = usize>) -> Result<(), PushError> {
        self.log.limits.check_sizes(sizes)
    }

    /// Asks whether the client may append, and keeps to the limit of the store. [`Self::answered`] tells the operator.
    pub async fn writer_of(&self, bytes: usize, over_limit: OverLimit) -> Result<Writer<'_>, PushError> {
        self.authorize(Action::Push).await?;
        self.log.limits.stores.pass(self.id(), bytes, over_limit).await?;
        Ok(Writer(self))
    }

    /// Whether this push would create the store.
    async fn begins(&self, batch: &Batch) -> bool {
        batch.parent() == Some(0) && matches!(self.locate().await, Ok(None))
    }
}

impl Writer<'_> {
    /// The database of the store, as far as is known now.
    pub fn database(&self) -> Database {
        self.0.shard().database.clone()
    }

    /// That database has refused a store that is elsewhere: [`Self::database`] is looked up.
    pub async fn look_anew(&self) {
        self.0.log.shards.look_anew().await;
    }

    pub fn context(&self) -> &Context {
        &self.0.context
    }

    /// The head of the log. Waits while the database is away.
    pub async fn head(&self) -> Result<i64, Unreadable> {
        Ok(self.0.status().await?.head)
    }

    fn queue(
        &self,
        batch: Batch,
        space: Space,
        intended: Intended,
        patience: Option<Duration>,
    ) -> impl Future<Output = Result<Pushed, PushError>> + use<> {
        let (store, context) = (self.0.id().clone(), Arc::clone(&self.0.context));
        self.0.shard().commits.push(store, batch, intended, context, space, patience)
    }
}

impl Admitted {
    /// The event that the batch builds on.
    pub fn parent(&self) -> Option<i64> {
        self.batch.parent()
    }

    /// Like [`StoreLog::push`], but waits for the database as long as the future is there. [`PushError::BackendIdMismatch`] also means that
    /// the log was reset since the push was admitted.
    pub fn push(self, backend_id: Option<String>) -> impl Future<Output = Result<Pushed, PushError>> + use<> {
        let Self { store, batch, followed, space } = self;
        let origin = batch.origin();
        let intended = match backend_id.map_or(followed, Intended::Named) {
            // Its client does not try again, so it has to be told of a reset now.
            Intended::Followed(backend_id) => Intended::Named(backend_id.to_string()),
            intended => intended,
        };
        let pushed = Writer(&store).queue(batch, space, intended, None);
        counted(store, origin, pushed)
    }
}

/// The outcome of a push, which [`StoreLog::answered`] counts.
fn counted<T>(
    log: StoreLog,
    origin: Arc<Origin>,
    pushed: impl Future<Output = Result<T, PushError>>,
) -> impl Future<Output = Result<T, PushError>> {
    pushed.inspect(move |pushed| log.answered(&origin, pushed.as_ref().map(drop)))
}

/// The end of the wait for a push that is not queued yet.
fn still_waiting(mut queued: oneshot::Receiver<()>) -> Option<oneshot::Receiver<()>> {
    (queued.try_recv() == Err(TryRecvError::Empty)).then_some(queued)
}

#[cfg(test)]
mod tests {
    use serde_json::value::to_raw_value;

    use super::*;
    use crate::log::testing::{chain, public_log, public_log_within, store};

    #[tokio::test]
    async fn a_connection_is_asked_about_once_and_another_payload_is_another_connection() {
        let logs = public_log(&mut tokio::task::JoinSet::new());
        let log = logs.store(store("s"), Context::default()).connect().await.unwrap();
        let other = to_raw_value(&1).unwrap();
        let allowed = [None, Some(&*other)].map(|payload| log.for_request(payload).allowed);
        assert_eq!(allowed, [Some(Action::Connect), None]);
        let pushed = log.push(chain(0, 1, 1), None, OverLimit::Refuse);
        assert!(logs.shards.first().commits.waiting() > 0 && pushed.now_or_never().is_none(), "queued at once");
        let refused = log.push(chain(0, 3, 1), None, OverLimit::Wait).now_or_never().unwrap();
        assert!(matches!(refused, Err(PushError::Invalid(_))), "too many events");
    }

    /// Before, the time in the queue was counted anew.
    #[tokio::test]
    async fn a_push_that_has_waited_for_a_limit_waits_for_the_database_only_for_the_rest_of_its_time() {
        let mut tasks = tokio::task::JoinSet::new();
        let logs = public_log_within(&mut tasks, Duration::from_secs(4));
        let log = logs.store(store("s"), Context::default()).connect().await.unwrap();
        let start = Instant::now();
        // Two a second.
        let pushes = (0..8).map(|after| Box::pin(log.push(chain(after, 1, 1), None, OverLimit::Wait)));
        let answers = futures_util::future::join_all(pushes).await;
        assert!(answers.iter().all(|answer| *answer == Err(PushError::Unavailable)), "{answers:?}");
        assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn a_push_that_waits_for_a_limit_or_for_another_push_has_no_room_in_the_queue() {
        // The committer is one of them. Its database is away.
        let mut tasks = tokio::task::JoinSet::new();
        let logs = public_log(&mut tasks);
        let log = logs.store(store("s"), Context::default()).connect().await.unwrap();
        let commits = &logs.shards.first().commits;
        let others = store("other");
        let push = |after| Box::pin(log.push(chain(after, 1, 1), None, OverLimit::Wait));
        let queued = [push(0), push(1)];
        let before = commits.waiting();
        let mut waiting = futures_util::future::join(push(2), push(3));
        assert!((&mut waiting).now_or_never().is_none() && commits.waiting() == before, "over the limit of the store");
        let mut taken = Vec::new();
        for batch in [15 << 20, 1 << 20, 16 << 10, 1].map(|bytes| chain(0, 1, bytes)) {
            while let Ok(space) = commits.reserve(&others, &batch, &Context::default()) {
                taken.push(space);
            }
        }
        let outcome = timeout(Duration::from_secs(3), &mut waiting).await;
        assert!(outcome.is_err(), "there is no room");
        drop(taken);
        let both = async {
            while commits.waiting() < before + (2 << 10) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            _ = &mut waiting => panic!("the database is away"),
            queued = timeout(Duration::from_secs(5), both) => queued.unwrap(),
        }
        drop(queued);
    }
}
