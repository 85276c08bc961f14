//! Reading the log of a store, for a client that may.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::{Instant, sleep};

use super::authorize::Action;
use super::store::StoreLog;
use crate::auth::TokenError;
use crate::limits::memory::Account;
use crate::log::aliases::Location;
use crate::log::error::{Denied, PullError};
use crate::log::read::page::{self, Page};
use crate::log::read::prefetch::Prefetch;
use crate::log::read::scan::Scan;
use crate::log::read::subscription::Subscription;
use crate::log::store_id::StoreId;
use crate::postgres::{Database, DatabaseError, Unreadable};
use crate::telemetry::refusals::Reason;
use crate::time::passed;

/// The time that a tail gets to catch up with Postgres before it is checked again.
const LAG: Duration = Duration::from_millis(20);

/// A client that may read a store. Only [`StoreLog::reader`] makes one, so nothing is read without asking.
pub struct Reader {
    store: StoreLog,
    /// When the token of the client ends.
    until: Option<Instant>,
}

impl StoreLog {
    /// Asks whether the client may read, once for each pull, and tells the operator if not. Waits while the database is away.
    pub async fn reader(&self) -> Result<Reader, Denied> {
        self.authorize(Action::Pull).await.inspect_err(|denied| self.tell(Action::Pull, denied))?;
        Ok(Reader { store: self.clone(), until: self.until().await })
    }

    /// The head and the backend id of the log, without events.
    pub(super) async fn status(&self) -> Result<Page, Unreadable> {
        self.read(|shard| async move { page::status(&shard.database, self.id()).await }).await
    }

    /// The first event after this one, and where the log stands.
    pub(super) async fn next_after(&self, after: i64) -> Result<Page, Unreadable> {
        self.read(|shard| async move { page::next(&shard.database, self.id(), after).await }).await
    }

    /// See [`Reader::end`].
    pub(super) async fn end(&self) -> Result<Page, Unreadable> {
        const ROUNDS: usize = 3;
        let mut page = self.status().await?;
        for _ in 0..ROUNDS {
            if page.head == 0 || (!page.events.is_empty() && page.remaining() == 0) {
                break;
            }
            // An event that cannot be read is reported to those who read it.
            let Ok(next) = self.next_after(page.head - 1).await else { break };
            page = next;
        }
        Ok(page)
    }
}

impl Reader {
    pub fn id(&self) -> &StoreId {
        self.store.id()
    }

    /// The memory for what this client is sent.
    pub fn account(&self) -> Account {
        self.store.account()
    }

    /// Reads from the database of the store, which is chosen anew for each attempt. Waits while it is away.
    pub async fn read<T, F: Future<Output = Result<T, DatabaseError>>>(
        &self,
        mut attempt: impl FnMut(Database) -> F,
    ) -> Result<T, Unreadable> {
        self.store.read(|shard| attempt(shard.database.clone())).await
    }

    /// Completes when the client's token expires, with the refusal to send. Until then it keeps the client's place among the
    /// connections of its subject.
    pub fn ended(&self) -> impl Future<Output = Denied> + Send + use<> {
        let (until, context) = (self.until, Arc::clone(&self.store.context));
        async move {
            passed(until).await;
            drop(context);
            Denied::new(Reason::Token, TokenError::Expired.to_string())
        }
    }

    /// The events after a cursor, up to the head: the last event that the client has seen, and the backend id that came with it.
    pub fn scan(&self, after: i64, backend_id: Option<String>) -> Scan {
        Scan::new(self.prefetch(), from_beginning(after), backend_id, self.until)
    }

    /// The head of the log, and the event there. While others append, the event may be a slightly older one. Waits while the
    /// database is away.
    pub async fn end(&self) -> Result<Page, Unreadable> {
        self.store.end().await
    }

    /// The last event that was appended before a moment, 0 if none was. Waits while the database is away.
    pub async fn last_before(&self, moment: DateTime<Utc>) -> Result<i64, Unreadable> {
        let (mut before, mut not_before) = (0, self.end().await?.head);
        while before < not_before {
            let middle = before + (not_before - before) / 2;
            let page = self.store.next_after(middle).await?;
            match page.events.first() {
                Some(event) if event.created_at < moment => before = event.seq_num,
                _ => not_before = middle,
            }
        }
        Ok(before)
    }

    /// Follows the log from where it stands now. Waits while the database is away.
    pub async fn follow(&self) -> Result<Subscription, PullError> {
        let subscription = Subscription::begin(None, self.prefetch()).await?;
        Ok(subscription.of(Arc::clone(&self.store.context), self.until))
    }

    /// Follows the log from a cursor on. Waits while the database is away.
    pub async fn subscribe(&self, after: i64, backend_id: Option<&str>) -> Result<Subscription, PullError> {
        let after = from_beginning(after);
        loop {
            let subscription = Subscription::begin(Some(after), self.prefetch()).await?;
            let has_id = backend_id.is_none_or(|id| id == &**subscription.backend_id());
            if has_id && after <= subscription.position() {
                return Ok(subscription.of(Arc::clone(&self.store.context), self.until));
            }
            // A tail may lag behind. An error makes the client drop its log, so Postgres is asked first.
            drop(subscription);
            self.prefetch().check(after, backend_id).await?;
        }
    }

    /// Subscribes, and reads the head of the log from Postgres. Waits while the database is away.
    pub async fn subscribe_at_head(&self, after: i64) -> Result<(Subscription, i64), PullError> {
        loop {
            let subscription = self.subscribe(after, None).await?;
            if let Some(head) = subscription.head().await? {
                return Ok((subscription, head));
            }
            drop(subscription);
            sleep(LAG).await;
        }
    }

    /// Waits until the log has this event, if a standby may still follow. See [`PullError::Rewound`].
    pub async fn catch_up(&self, after: i64) -> Result<(), PullError> {
        self.prefetch().check(after, None).await
    }

    /// Finds the table that holds the events of the store, if the store exists; cached for a while. Waits while the database is away.
    pub async fn locate(&self) -> Result<Option<Location>, Unreadable> {
        self.store.locate().await
    }

    /// The answer of [`Self::locate`] was wrong.
    pub async fn forget_location(&self) {
        self.store.shard().aliases.forget(self.id()).await;
    }

    fn prefetch(&self) -> Prefetch {
        Prefetch::new(Arc::clone(&self.store.log.shards), self.id().clone(), self.store.account())
    }
}

/// A cursor before the first event is at the beginning, as in the original servers. An empty log would seem to lack events otherwise.
fn from_beginning(after: i64) -> i64 {
    after.max(0)
}
