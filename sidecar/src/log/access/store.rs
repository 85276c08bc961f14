//! The log of one store, as one client sees it: what protocols work with.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::{Either, FutureExt};
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{SemaphorePermit, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::authorize::Action;
use crate::auth::{Access, Identity, Refused};
use crate::budget::{Account, FREE, Share};
use crate::log::aliases::Location;
use crate::log::context::Context;
use crate::log::event::{Batch, Origin};
use crate::log::limits::Limits;
use crate::log::read::page::{self as pull, Page};
use crate::log::read::scan::Scan;
use crate::log::write::outcome::Pushed;
use crate::log::write::push::Space;
use crate::metrics;
use crate::postgres::{Database, Unreadable, retry_until_available};
use crate::refusals::{Asked, Reason, Whom, refused};
use crate::time::passed;

use crate::log::error::{Denied, PullError, PushError};
use crate::log::read::cursor::check_cursor;
use crate::log::read::prefetch::Prefetch;
use crate::log::read::subscription::Subscription;
use crate::log::store_id::StoreId;
use crate::log::{LAG, Log};

/// How often keys that are away, or a place among the connections of a subject, are looked for.
const RETRY: Duration = Duration::from_secs(1);

/// Cheap to clone. Pushes and pulls are asked of the operator's authorize function first, if there is one.
#[derive(Clone)]
pub struct StoreLog {
    pub(in crate::log) log: Log,
    store: StoreId,
    context: Arc<Context>,
    /// With another payload than that which was asked about, a request is a connection of its own.
    is_connected: bool,
    /// By the word of the operator, its token need not name it.
    is_own: bool,
    /// Ends when the push before is queued.
    last_push: Arc<Mutex<Option<oneshot::Receiver<()>>>>,
}

/// A batch that has its room in the queue.
pub struct Reserved {
    pub(in crate::log) batch: Batch,
    pub(in crate::log) space: Space,
}

impl Reserved {
    /// The event that the batch builds on.
    pub fn parent(&self) -> Option<i64> {
        self.batch.parent()
    }
}

/// What becomes of a push that is beyond a limit.
#[derive(Clone, Copy)]
enum Beyond {
    Refuse,
    Wait,
}

/// The room of a push in the queue.
enum Room {
    Taken(Space),
    /// It has none yet; what is large has memory meanwhile.
    Awaited(Option<Share>),
}

impl StoreLog {
    pub(in crate::log) fn new(log: Log, store: StoreId, context: Arc<Context>) -> Self {
        Self { log, store, context, is_connected: true, is_own: false, last_push: Arc::default() }
    }

    pub(in crate::log) fn unconnected(self) -> Self {
        Self { is_connected: false, ..self }
    }

    pub(in crate::log) fn database(&self) -> &Database {
        &self.log.database
    }

    /// One of the connections that pushes of the peer relay may use at once.
    pub(in crate::log) async fn relay_turn(&self) -> Option<SemaphorePermit<'_>> {
        self.log.relay_turns.acquire().await.ok()
    }

    pub(in crate::log) fn limits(&self) -> &Limits {
        &self.log.limits
    }

    pub(in crate::log) fn context(&self) -> &Context {
        &self.context
    }

    /// The memory for what this client is sent, once it is known who it is.
    pub fn account(&self) -> Account {
        self.context.account(&self.log.budget)
    }

    /// The memory for what this client sends.
    pub fn account_to_send(&self) -> Account {
        match self.context.subject() {
            Some(subject) => self.log.budget.subject(subject),
            None => self.log.budget.strangers(),
        }
    }

    /// Whether it is known already, by what came beside the payloads of its requests, that this client is nobody.
    pub async fn is_stranger(&self) -> bool {
        let identity = self.context.identity(&self.log.authentication).await;
        matches!(identity, Err(refused) if !matches!(refused, Refused::NoKeys | Refused::TooMany { .. }))
    }

    /// How long a client that is told of it waits for the database.
    pub(in crate::log) fn patience(&self) -> Duration {
        self.log.commits.timeout()
    }

    /// The same, if the operator has given the store to this client, whatever its token says.
    pub fn given(self) -> Self {
        Self { is_own: true, ..self }
    }

    pub fn id(&self) -> &StoreId {
        &self.store
    }

    /// For one request of this client, which may have a payload of its own.
    pub fn for_request(&self, payload: Option<&RawValue>) -> Self {
        let context = self.context.with_payload(payload);
        let is_connected = self.is_connected && Arc::ptr_eq(&context, &self.context);
        Self { context, is_connected, ..self.clone() }
    }

    /// Whether this client has a place among the connections of its subject.
    ///
    /// # Errors
    /// What to tell it.
    pub async fn has_place(&self) -> Result<(), Denied> {
        match self.context.identity(&self.log.authentication).await {
            Err(Refused::TooMany { subject, most }) => Err(self.crowded(subject, most)),
            _ => Ok(()),
        }
    }

    /// Waits for a place among the connections of its subject, if it is a client that has one.
    ///
    /// # Errors
    /// Too many wait, or this one has waited for too long.
    pub(in crate::log) async fn wait_for_place(&self) -> Result<(), Denied> {
        match self.identity().await {
            Err(denied) if denied.may_pass() => Err(denied),
            _ => Ok(()),
        }
    }

    /// Tells the operator of a subject that has all of its places, and what to tell the client.
    fn crowded(&self, subject: Arc<str>, most: usize) -> Denied {
        let whom = Whom { subject: Some(&subject), is_stranger: false, ..self.whom(None) };
        let text = Refused::TooMany { subject: Arc::clone(&subject), most }.to_string();
        refused(Asked::Connect, Reason::Connections, whom, &text);
        Denied::new(Reason::Connections, text)
    }

    /// Who it is. Waits for the keys that tell, and for a place among the connections of its subject: within bounds, since what waits
    /// takes up a connection that somebody else could have.
    async fn identity(&self) -> Result<&Identity, Denied> {
        let authentication = &self.log.authentication;
        loop {
            match self.context.identity(authentication).await {
                Ok(identity) => {
                    self.context.waits_no_more();
                    return Ok(identity);
                }
                // It passes, and a client that was told no would stop for good.
                Err(Refused::NoKeys) => {}
                Err(Refused::TooMany { subject, .. }) if self.context.may_wait(authentication, &subject) => {}
                Err(Refused::TooMany { subject, most }) => return Err(self.crowded(subject, most)),
                Err(refused) => return Err(Denied::new(Reason::Token, refused.to_string())),
            }
            sleep(RETRY).await;
        }
    }

    /// Asks whether the client may connect. Waits while the database is away, and for a place among the connections of its
    /// subject.
    pub async fn connect(&self) -> Result<(), Denied> {
        self.ask(Action::Connect).await.inspect_err(|denied| self.refuse(Action::Connect, denied))
    }

    /// Tells the operator of a client that may not.
    fn refuse(&self, action: Action, denied: &Denied) {
        // That has been told already.
        if !denied.may_pass() {
            refused(action.asked(), denied.reason, self.whom(None), &denied.text);
        }
    }

    /// Tells the operator of a push that is none, and never gets here.
    pub fn refuse_malformed(&self, text: &str) {
        refused(Asked::Push, Reason::Malformed, self.whom(None), text);
    }

    /// Tells the operator of a wrong admin secret.
    pub fn refuse_secret(&self) {
        let whom = Whom { is_stranger: true, subject: None, ..self.whom(None) };
        refused(Asked::Admin, Reason::Secret, whom, "a wrong admin secret, or too many guesses");
    }

    fn whom<'a>(&'a self, origin: Option<&'a Origin>) -> Whom<'a> {
        let subject = self.context.subject().map(|subject| &**subject);
        Whom {
            dialect: self.context.dialect(),
            store: Some(self.store.as_str()),
            subject,
            client: origin.map(|origin| &*origin.client_id),
            event: origin.map(|origin| &*origin.name),
            is_stranger: subject.is_none() && !self.log.authentication.is_none(),
        }
    }

    /// Counts what became of a push, and tells the operator if it was refused.
    pub(in crate::log) fn answered(&self, origin: &Origin, result: Result<(), &PushError>) {
        metrics::pushed(self.context.dialect(), result.as_ref().map_or_else(|error| error.name(), |()| "accepted"));
        if let Err(error) = result
            && let Some(reason) = error.refusal()
        {
            refused(Asked::Push, reason, self.whom(Some(origin)), &error.to_string());
        }
    }

    pub(in crate::log) async fn check_token(&self, access: Access, refusal: &str) -> Result<(), Denied> {
        let identity = self.identity().await?;
        if identity.has_ended() {
            return Err(Denied::new(Reason::Token, Refused::Expired.to_string()));
        }
        if self.is_own || identity.may(self.store.as_str(), access) {
            Ok(())
        } else {
            Err(Denied::new(Reason::Access, refusal))
        }
    }

    /// Ends when the token does that let this client in, with what to tell it. The client keeps its place among the connections of
    /// its subject as long as the future is there.
    pub async fn ended(&self) -> impl Future<Output = Denied> + Send + use<> {
        let (until, context) = (self.until().await, Arc::clone(&self.context));
        async move {
            passed(until).await;
            drop(context);
            Denied::new(Reason::Token, Refused::Expired.to_string())
        }
    }

    /// When the token ends that let this client in.
    async fn until(&self) -> Option<Instant> {
        self.context.identity(&self.log.authentication).await.ok()?.until
    }

    /// Whether the token lets the client do this. Waits as [`Self::connect`].
    pub(in crate::log) async fn has_token_for(&self, action: Action) -> bool {
        self.check_token(action.access(), action.refusal()).await.is_ok()
    }

    /// Whether the client may do this. Waits as [`Self::connect`].
    pub(in crate::log) async fn is_allowed(&self, action: Action) -> bool {
        self.authorize(action).await.is_ok()
    }

    /// The same for a client that is told if it may not.
    async fn permit(&self, action: Action) -> Result<(), Denied> {
        self.authorize(action).await.inspect_err(|denied| self.refuse(action, denied))
    }

    pub(in crate::log) async fn authorize(&self, action: Action) -> Result<(), Denied> {
        if !self.is_connected {
            self.ask(Action::Connect).await?;
        }
        self.ask(action).await
    }

    /// The token decides first, then the operator's function.
    async fn ask(&self, action: Action) -> Result<(), Denied> {
        self.check_token(action.access(), action.refusal()).await?;
        match &self.log.authorizer {
            Some(authorizer) => {
                let asked = retry_until_available(|| authorizer.ask(&self.store, action, &self.context)).await;
                let undecided = "the server could not tell whether this is allowed";
                asked.unwrap_or_else(|_| Err(Denied::new(Reason::Authorize, undecided)))
            }
            None => Ok(()),
        }
    }

    /// Returns a future of the outcome, which comes after the commit. Pushes of one client are carried out in the order
    /// of these calls, as far as their futures are polled; dropping a future does not take its push back.
    pub fn push(
        &self,
        batch: Batch,
        backend_id: Option<String>,
    ) -> impl Future<Output = Result<Pushed, PushError>> + use<> {
        self.push_when(Beyond::Refuse, batch, backend_id)
    }

    /// The same for a client that is not to be told of what passes: what is beyond a limit waits until it is not, as long as a push
    /// waits for the database.
    pub fn push_in_turn(
        &self,
        batch: Batch,
        backend_id: Option<String>,
    ) -> impl Future<Output = Result<Pushed, PushError>> + use<> {
        self.push_when(Beyond::Wait, batch, backend_id)
    }

    fn push_when(
        &self,
        beyond: Beyond,
        batch: Batch,
        backend_id: Option<String>,
    ) -> impl Future<Output = Result<Pushed, PushError>> + use<> {
        let origin = batch.origin();
        let pushed = match self.log.limits.check_sizes(batch.sizes()).and_then(|()| self.room(beyond, &batch)) {
            Ok(room) => Either::Left(self.push_in_time(beyond, batch, room, backend_id)),
            Err(error) => Either::Right(std::future::ready(Err(error))),
        };
        counted(self.clone(), origin, pushed)
    }

    /// Room in the queue, or memory to wait for it.
    fn room(&self, beyond: Beyond, batch: &Batch) -> Result<Room, PushError> {
        match (self.log.commits.reserve(&self.store, batch, &self.context), beyond) {
            (Ok(space), _) => Ok(Room::Taken(space)),
            (Err(error), Beyond::Refuse) => Err(error),
            (Err(_), Beyond::Wait) if batch.json().len() <= FREE => Ok(Room::Awaited(None)),
            (Err(_), Beyond::Wait) => {
                let memory = self.account_to_send().try_take(batch.json().len()).ok_or(PushError::Unavailable)?;
                Ok(Room::Awaited(Some(memory)))
            }
        }
    }

    fn push_in_time(
        &self,
        beyond: Beyond,
        batch: Batch,
        room: Room,
        backend_id: Option<String>,
    ) -> impl Future<Output = Result<Pushed, PushError>> + use<> {
        let patience = self.log.commits.timeout();
        let mut last_push = self.last_push.lock();
        let previous = last_push.take().and_then(still_waiting);
        let room = match room {
            Room::Taken(space)
                if previous.is_none()
                    && self.log.is_public()
                    && self.log.limits.stores.may(&self.store, batch.json().len()) =>
            {
                return Either::Left(self.queue(Reserved { batch, space }, backend_id, Some(patience)));
            }
            room => room,
        };
        let this = self.clone();
        let (queued, next) = oneshot::channel::<()>();
        *last_push = Some(next);
        // It is large, and every request would have room for it.
        Either::Right(Box::pin(async move {
            let last_moment = this.log.commits.last_moment();
            let admitted = async {
                match beyond {
                    Beyond::Refuse => this.may_push_now(&batch).await?,
                    Beyond::Wait => this.wait_until_it_may_push(&batch).await?,
                }
                let room = match room {
                    Room::Taken(space) => Some(space),
                    Room::Awaited(_memory) => this.log.commits.room(&this.store, &batch, &this.context).await,
                };
                room.ok_or(PushError::Unavailable)
            };
            let admitted = last_moment.run_until_cancelled(timeout(patience, admitted)).await;
            if let Some(previous) = previous {
                let _ = previous.await;
            }
            let space = admitted.and_then(Result::ok).unwrap_or(Err(PushError::Unavailable))?;
            let pushed = this.queue(Reserved { batch, space }, backend_id, Some(patience));
            drop(queued);
            pushed.await
        }))
    }

    fn queue(
        &self,
        push: Reserved,
        backend_id: Option<String>,
        patience: Option<Duration>,
    ) -> impl Future<Output = Result<Pushed, PushError>> + use<> {
        let Reserved { batch, space } = push;
        let (store, context) = (self.store.clone(), Arc::clone(&self.context));
        self.log.commits.push(store, batch, backend_id, context, space, patience)
    }

    /// Like [`Self::push`], for what was admitted: waits for the database as long as the future is there.
    pub fn push_patiently(
        &self,
        push: Reserved,
        backend_id: Option<String>,
    ) -> impl Future<Output = Result<Pushed, PushError>> + use<> {
        let origin = push.batch.origin();
        counted(self.clone(), origin, self.queue(push, backend_id, None))
    }

    /// Asks whether the client may read, for whoever reads the log elsewhere. Waits while the database is away.
    ///
    /// # Errors
    /// It may not.
    pub async fn may_pull(&self) -> Result<(), Denied> {
        self.permit(Action::Pull).await
    }

    /// Asks whether the client may append, for whoever answers without doing so. Waits while the database is away.
    ///
    /// # Errors
    /// It may not.
    pub async fn may_push(&self) -> Result<(), Denied> {
        self.permit(Action::Push).await
    }

    /// Where the events of the store are; `None` if it does not exist. What is known is believed for a while. Waits while the
    /// database is away.
    ///
    /// # Errors
    /// It cannot be told.
    pub async fn locate(&self) -> Result<Option<Location>, Unreadable> {
        self.log.aliases.locate(&self.store).await
    }

    /// What [`Self::locate`] said is wrong by now.
    pub async fn forget_location(&self) {
        self.log.aliases.forget(&self.store).await;
    }

    fn prefetch(&self) -> Prefetch {
        Prefetch::new(self.log.database.clone(), self.store.clone(), self.account())
    }

    /// The events after a cursor, up to where the log stands now: the last event that a client has seen, and the backend
    /// id that came with it.
    ///
    /// # Errors
    /// Not allowed.
    pub async fn history(&self, after: i64, backend_id: Option<String>) -> Result<Scan, PullError> {
        self.permit(Action::Pull).await?;
        Ok(Scan::new(self.prefetch(), after, backend_id, self.until().await))
    }

    /// Where the log stands, and the last event, or one shortly before it if many are being appended. Waits while the database
    /// is away; does not ask whether the client may know.
    ///
    /// # Errors
    /// It cannot be read where the log stands.
    pub async fn end(&self) -> Result<Page, Unreadable> {
        const ROUNDS: usize = 3;
        let mut page = self.status().await?;
        for _ in 0..ROUNDS {
            if page.head == 0 || (!page.events.is_empty() && page.remaining() == 0) {
                break;
            }
            // One that cannot be read is told of to whoever reads it.
            let Ok(next) = self.next_after(page.head - 1).await else { break };
            page = next;
        }
        Ok(page)
    }

    /// The first event after this one, and where the log stands. Waits while the database is away; does not ask whether the
    /// client may know.
    ///
    /// # Errors
    /// That event cannot be read.
    pub async fn next_after(&self, after: i64) -> Result<Page, Unreadable> {
        retry_until_available(|| pull::next(&self.log.database, &self.store, after)).await
    }

    /// The last event that was appended before a moment, 0 if none was. Waits while the database is away; does not ask
    /// whether the client may know.
    ///
    /// # Errors
    /// An event cannot be read.
    pub async fn last_before(&self, moment: DateTime<Utc>) -> Result<i64, Unreadable> {
        let (mut before, mut not_before) = (0, self.end().await?.head);
        while before < not_before {
            let middle = before + (not_before - before) / 2;
            let page = self.next_after(middle).await?;
            match page.events.first() {
                Some(event) if event.created_at < moment => before = event.seq_num,
                _ => not_before = middle,
            }
        }
        Ok(before)
    }

    /// Follows the log from a cursor on. Waits while the database is away.
    ///
    /// # Errors
    /// Not allowed, or the cursor is not one of this log, as Postgres knows it.
    pub async fn subscribe(&self, after: i64, backend_id: Option<&str>) -> Result<Subscription, PullError> {
        self.permit(Action::Pull).await?;
        let tails = &self.log.tails;
        loop {
            let subscription = Subscription::begin(tails, Some(after), self.prefetch()).await?;
            let has_id = backend_id.is_none_or(|id| id == &**subscription.backend_id());
            if has_id && after <= subscription.position() {
                return Ok(subscription.of(Arc::clone(&self.context), self.until().await));
            }
            // A tail may lag behind, after a reset or a commit of somebody else. What a client is told here makes it drop
            // its log, so Postgres is asked.
            let page = self.status().await?;
            check_cursor(&self.store, &page, after, backend_id)?;
            tails.refresh(&self.store);
            drop(subscription);
            tokio::time::sleep(LAG).await;
        }
    }

    /// [`Self::subscribe`], and [`Self::head_of`] that.
    ///
    /// # Errors
    /// Not allowed, or the cursor is not one of this log.
    pub async fn subscribe_at_head(&self, after: i64) -> Result<(Subscription, i64), PullError> {
        loop {
            let subscription = self.subscribe(after, None).await?;
            if let Some(head) = subscription.head().await? {
                return Ok((subscription, head));
            }
            drop(subscription);
            tokio::time::sleep(LAG).await;
        }
    }

    /// The id of this life of the log, without asking whether the client may know it. Waits while the database is away.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn backend_id(&self) -> Result<Arc<str>, Unreadable> {
        Ok(self.status().await?.backend_id)
    }

    async fn status(&self) -> Result<Page, Unreadable> {
        retry_until_available(|| pull::status(&self.log.database, &self.store)).await
    }

    /// Follows the log from where it stands now. Waits while the database is away.
    ///
    /// # Errors
    /// Not allowed.
    pub async fn follow(&self) -> Result<Subscription, PullError> {
        self.permit(Action::Pull).await?;
        let subscription = Subscription::begin(&self.log.tails, None, self.prefetch()).await?;
        Ok(subscription.of(Arc::clone(&self.context), self.until().await))
    }
}

/// What became of a push, which is [`StoreLog::answered`].
fn counted<T>(
    log: StoreLog,
    origin: Arc<Origin>,
    pushed: impl Future<Output = Result<T, PushError>>,
) -> impl Future<Output = Result<T, PushError>> {
    pushed.inspect(move |pushed| log.answered(&origin, pushed.as_ref().map(drop)))
}

/// What ends when a push is queued, unless it is queued already.
fn still_waiting(mut queued: oneshot::Receiver<()>) -> Option<oneshot::Receiver<()>> {
    (queued.try_recv() == Err(TryRecvError::Empty)).then_some(queued)
}
