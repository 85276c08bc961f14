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

use tokio_util::task::TaskTracker;

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

/// Why the sidecar is not ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error("the connection that listens for commits is not established")]
    NotListening,
}

impl Log {
    /// Starts the committer and the listener on `tasks`. Neither needs the database to be there yet. `push_timeout`
    /// bounds how long a push waits for the database.
    pub fn start(database: Database, push_timeout: Duration, tasks: &TaskTracker) -> Self {
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

    /// The events after a position, a page of them. Waits while the database is away.
    pub async fn pull(&self, store: &StoreId, after: i64) -> Page {
        pull::patiently(|| pull::pull(&self.database, store, after)).await
    }

    /// Follows a log from a position on. Waits while the database is away.
    pub async fn subscribe(&self, store: &StoreId, after: i64) -> Subscription {
        self.tails.subscribe(store, after).await
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
