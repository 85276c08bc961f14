//! The log: the only part of the sidecar that knows SQL, and all that a protocol knows of Postgres.

mod backoff;
mod database;
mod event;
mod listener;
mod pull;
mod push;
mod store_id;
mod subscription;
mod tail;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::error;

pub use database::{Database, DatabaseError};
pub use event::{AbsentArgs, Batch, Event};
pub use pull::Page;
pub use push::{PushError, Pushed};
pub use store_id::StoreId;
pub use subscription::Subscription;
pub use tail::StreamEnd;

use listener::Listener;
use push::CommitQueue;
use tail::Tails;

/// The logs of all stores. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    database: Database,
    commits: CommitQueue,
    tails: Arc<Tails>,
    is_listening: Arc<AtomicBool>,
}

/// How long a tail is given to catch up with Postgres before it is looked at again.
const LAG: Duration = Duration::from_millis(20);

/// A cursor that does not belong to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadCursor {
    /// It is from another life of the log.
    BackendIdMismatch { expected: Arc<str>, received: String },
    /// It is beyond the head: the log has lost events that a client has seen.
    Rewound,
}

fn check_cursor(store: &StoreId, log: &Page, after: i64, backend_id: Option<&str>) -> Result<(), BadCursor> {
    if let Some(received) = backend_id
        && *received != *log.backend_id
    {
        return Err(BadCursor::BackendIdMismatch { expected: Arc::clone(&log.backend_id), received: received.into() });
    }
    if backend_id.is_some() && after > log.head {
        // To go on would join what the client has to events that do not follow it.
        error!(
            ?store,
            head = log.head,
            cursor = after,
            "a client has seen events that the log does not have: was an older state restored? \
             Then run \"select livestore.renew_backend_ids()\""
        );
        return Err(BadCursor::Rewound);
    }
    Ok(())
}

/// Why the sidecar is not ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("the connection that listens for commits is not established")]
    NotListening,
}

impl Log {
    /// Starts the committer and the listener on `tasks`: neither ends by itself. Neither needs the database to be there
    /// yet. `push_timeout` bounds how long a push waits for the database.
    pub fn start(database: Database, push_timeout: Duration, tasks: &mut JoinSet<()>) -> Self {
        let tails = Tails::new(database.clone());
        let is_listening = Arc::new(AtomicBool::new(false));
        let (commits, committer) = CommitQueue::new(database.clone(), Arc::clone(&tails), push_timeout);
        let listener =
            Listener { database: database.clone(), tails: Arc::clone(&tails), is_listening: Arc::clone(&is_listening) };
        tasks.spawn(committer.run());
        tasks.spawn(listener.run());
        Self { database, commits, tails, is_listening }
    }

    /// Queues a push at once and returns a future of its outcome, which comes after the commit.
    pub fn push(
        &self,
        store: StoreId,
        batch: Batch,
        backend_id: Option<String>,
    ) -> impl Future<Output = Result<Pushed, PushError>> + use<> {
        self.commits.push(store, batch, backend_id)
    }

    /// Follows a log from a cursor on: the last event that a client has seen, and the backend id that came with it. Waits
    /// while the database is away.
    ///
    /// # Errors
    /// The cursor is not one of this log, as Postgres knows it.
    pub async fn subscribe(
        &self,
        store: &StoreId,
        after: i64,
        backend_id: Option<&str>,
    ) -> Result<Subscription, BadCursor> {
        loop {
            let subscription = self.tails.subscribe(store, after).await;
            let has_id = backend_id.is_none_or(|id| id == &**subscription.backend_id());
            if has_id && after <= subscription.position() {
                return Ok(subscription);
            }
            // A tail may lag behind, after a reset or a commit of somebody else. What a client is told here makes it drop
            // its log, so Postgres is asked.
            let log = pull::patiently(|| pull::status(&self.database, store)).await;
            check_cursor(store, &log, after, backend_id)?;
            self.tails.refresh(store);
            drop(subscription);
            tokio::time::sleep(LAG).await;
        }
    }

    /// A page of the events after a cursor. Waits while the database is away.
    ///
    /// # Errors
    /// The cursor is not one of this log.
    pub async fn pull(&self, store: &StoreId, after: i64, backend_id: Option<&str>) -> Result<Page, BadCursor> {
        let page = pull::patiently(|| pull::pull(&self.database, store, after)).await;
        check_cursor(store, &page, after, backend_id)?;
        Ok(page)
    }

    /// Whether pushes and pulls would be served right now.
    ///
    /// # Errors
    /// What is missing.
    pub async fn ready(&self) -> Result<(), NotReady> {
        self.database.check().await?;
        if self.is_listening.load(Ordering::Relaxed) { Ok(()) } else { Err(NotReady::NotListening) }
    }
}
