//! The log of one store for one client: what protocols work with.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::authorize::Action;
use crate::auth::{Access, Identity, TokenError};
use crate::limits::memory::Account;
use crate::log::Log;
use crate::log::aliases::Location;
use crate::log::context::Context;
use crate::log::error::{Denied, PushError};
use crate::log::event::Origin;
use crate::log::shards::{Shard, ShardOf};
use crate::log::store_id::StoreId;
use crate::postgres::{DatabaseError, Unreadable};
use crate::telemetry::metrics;
use crate::telemetry::refusals::{Asked, Reason, Whom, refused};

/// The interval at which a request checks again for missing keys, or for a place among the connections of its subject.
const RETRY: Duration = Duration::from_secs(1);

/// Cheap to clone. [`Self::reader`] and [`Self::push`] ask the operator's authorize function first, if there is one.
#[derive(Clone)]
pub struct StoreLog {
    pub(super) log: Log,
    store: StoreId,
    pub(super) context: Arc<Context>,
    /// The actions that the operator's function has allowed already: it is asked once for each connection or request.
    pub(super) allowed: Option<Action>,
    /// See [`Self::given`].
    is_own: bool,
    /// Completes when the previous push of this client is queued.
    pub(super) last_push: Arc<Mutex<Option<oneshot::Receiver<()>>>>,
}

impl Log {
    /// The log of a store, for a client with this context.
    pub fn store(&self, store: StoreId, context: impl Into<Arc<Context>>) -> StoreLog {
        let (log, context, last_push) = (self.clone(), context.into(), Arc::default());
        StoreLog { log, store, context, allowed: None, is_own: false, last_push }
    }
}

impl StoreLog {
    /// The shard of the store, as far as is known now.
    pub(super) fn shard(&self) -> ShardOf<'_> {
        self.log.shards.of(&self.store)
    }

    /// Reads from the database of the store, which is chosen anew for each attempt. Waits while it is away.
    pub(super) async fn read<T, F: Future<Output = Result<T, DatabaseError>>>(
        &self,
        attempt: impl FnMut(Arc<Shard>) -> F,
    ) -> Result<T, Unreadable> {
        self.log.shards.read(&self.store, attempt).await
    }

    /// See [`super::reader::Reader::locate`].
    pub(super) async fn locate(&self) -> Result<Option<Location>, Unreadable> {
        self.read(|shard| async move { shard.aliases.locate(&self.store).await }).await
    }

    /// Whether everybody who can reach this sidecar may read it.
    pub fn is_public(&self) -> bool {
        self.log.is_public()
    }

    /// The memory for what this client is sent, once it is known who it is.
    pub fn account(&self) -> Account {
        self.context.account(&self.log.memory)
    }

    /// The memory for what this client sends.
    pub fn account_to_send(&self) -> Account {
        match self.context.subject() {
            Some(subject) => self.log.memory.subject(subject),
            None => self.log.memory.strangers(),
        }
    }

    /// Whether the credentials beside the payload are known to be bad.
    pub async fn is_stranger(&self) -> bool {
        let identity = self.context.identity(&self.log.authentication).await;
        identity.is_err_and(|refused| !refused.may_pass())
    }

    /// The longest time that a push waits for the database.
    pub fn patience(&self) -> Duration {
        self.log.push_timeout
    }

    /// The log of a store that the operator has assigned to this client: token rules do not apply.
    pub fn given(self) -> Self {
        Self { is_own: true, ..self }
    }

    /// Whether nothing can be appended through this sidecar, and what it reads may be behind.
    pub fn is_read_only(&self) -> bool {
        self.log.is_read_only()
    }

    pub fn id(&self) -> &StoreId {
        &self.store
    }

    /// For one request of this client, which may have a payload of its own.
    pub fn for_request(&self, payload: Option<&RawValue>) -> Self {
        let context = self.context.with_payload(payload);
        // With another payload, a request is a connection of its own.
        let allowed = self.allowed.filter(|_| Arc::ptr_eq(&context, &self.context));
        Self { context, allowed, ..self.clone() }
    }

    /// Whether this client has a place among the connections of its subject.
    pub async fn has_place(&self) -> Result<(), Denied> {
        match self.context.identity(&self.log.authentication).await {
            Err(TokenError::TooMany { subject, most }) => Err(self.crowded(subject, most)),
            _ => Ok(()),
        }
    }

    /// Waits for a place among the connections of its subject, if it is a client that has one.
    pub(super) async fn wait_for_place(&self) -> Result<(), Denied> {
        match self.identity().await {
            Err(denied) if denied.may_pass() => Err(denied),
            _ => Ok(()),
        }
    }

    /// Tells the operator of a subject that has taken all of its places; returns what to tell the client.
    fn crowded(&self, subject: Arc<str>, most: usize) -> Denied {
        let whom = Whom { subject: Some(&subject), is_stranger: false, ..self.whom(None) };
        let text = TokenError::TooMany { subject: Arc::clone(&subject), most }.to_string();
        refused(Asked::Connect, Reason::Connections, whom, &text);
        Denied::new(Reason::Connections, text)
    }

    /// Identifies the client. Waits for the keys of tokens, and for a place among the connections of its subject. The wait
    /// for a place is limited, because a request that waits takes up a connection.
    async fn identity(&self) -> Result<&Identity, Denied> {
        let authentication = &self.log.authentication;
        loop {
            match self.context.identity(authentication).await {
                Ok(identity) => {
                    self.context.waits_no_more();
                    return Ok(identity);
                }
                // The keys can be fetched again later, and a client that is refused stops syncing for good.
                Err(TokenError::NoKeys) => {}
                Err(TokenError::TooMany { subject, .. }) if self.context.may_wait(authentication, &subject) => {}
                Err(TokenError::TooMany { subject, most }) => return Err(self.crowded(subject, most)),
                Err(refused) => return Err(Denied::new(Reason::Token, refused.to_string())),
            }
            sleep(RETRY).await;
        }
    }

    /// Asks whether the client may connect, and returns the log for its connection; tells the operator if not. Waits while the
    /// database is away, and for a place.
    pub async fn connect(&self) -> Result<Self, Denied> {
        self.ask(Action::Connect).await.inspect_err(|denied| self.tell(Action::Connect, denied))?;
        Ok(Self { allowed: Some(Action::Connect), ..self.clone() })
    }

    /// Tells the operator of a client that is refused.
    pub(super) fn tell(&self, action: Action, denied: &Denied) {
        // A temporary refusal was reported already, by [`Self::crowded`].
        if !denied.may_pass() {
            refused(action.asked(), denied.reason, self.whom(None), &denied.text);
        }
    }

    /// Tells the operator of a push that could not be parsed.
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
    pub fn answered(&self, origin: &Origin, result: Result<(), &PushError>) {
        metrics::pushed(self.context.dialect(), result.as_ref().map_or_else(|error| error.name(), |()| "accepted"));
        if let Err(error) = result
            && let Some(reason) = error.refusal()
        {
            refused(Asked::Push, reason, self.whom(Some(origin)), &error.to_string());
        }
    }

    pub(super) async fn check_token(&self, access: Access, refusal: &str) -> Result<(), Denied> {
        let identity = self.identity().await?;
        if identity.has_ended() {
            return Err(Denied::new(Reason::Token, TokenError::Expired.to_string()));
        }
        if self.is_own || identity.may(self.store.as_str(), access) {
            Ok(())
        } else {
            Err(Denied::new(Reason::Access, refusal))
        }
    }

    /// When the client's token ends.
    pub async fn until(&self) -> Option<Instant> {
        self.context.identity(&self.log.authentication).await.ok()?.until
    }

    /// The log for a request that may do this; `None` if it may not. Waits as [`Self::connect`].
    pub(super) async fn allowed_to(self, action: Action) -> Option<Self> {
        self.authorize(action).await.ok()?;
        Some(Self { allowed: Some(action), ..self })
    }

    pub(super) async fn authorize(&self, action: Action) -> Result<(), Denied> {
        if self.allowed.is_none() {
            self.ask(Action::Connect).await?;
        }
        self.ask(action).await
    }

    /// The token decides first, then the operator's function.
    async fn ask(&self, action: Action) -> Result<(), Denied> {
        self.check_token(action.access(), action.refusal()).await?;
        if !self.log.has_authorizer || self.allowed == Some(action) {
            return Ok(());
        }
        let ask = |shard: Arc<Shard>| async move {
            match &shard.authorizer {
                Some(authorizer) => authorizer.ask(&self.store, action, &self.context).await,
                None => Ok(Ok(())),
            }
        };
        let undecided = "the server could not tell whether this is allowed";
        let asked = self.read(ask).await;
        asked.unwrap_or_else(|_| Err(Denied::new(Reason::Authorize, undecided)))
    }
}
