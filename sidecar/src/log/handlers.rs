//! Runs the handlers of durable subscriptions, functions in the database, by `livestore.run_subscription`. Every sidecar does this;
//! the database gives each batch of events to one of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use crate::postgres::{Database, DatabaseError};

/// The interval at which everything is looked at, although nothing was notified.
const INTERVAL: Duration = Duration::from_secs(60);

/// The same for a while after a handler has failed. The database decides when its events are given out again.
const RETRY: Duration = Duration::from_secs(1);

/// That while: longer than the longest pause that `livestore.run_subscription` makes, which is five minutes.
const RETRIES: Duration = Duration::from_secs(330);

/// The shortest time between two rounds: any role of the database can send notifications, as many as it likes.
const REST: Duration = Duration::from_millis(20);

/// The number of events of one call, which is one transaction.
const BATCH: i32 = 100;

/// The news that the listener has for the handlers.
#[derive(Debug, Default)]
pub struct Wake {
    notify: Notify,
    /// Whether there may be other subscriptions now.
    is_changed: AtomicBool,
}

impl Wake {
    /// Events were committed.
    pub fn committed(&self) {
        self.notify.notify_one();
    }

    /// Subscriptions were made, or notifications were missed.
    pub fn changed(&self) {
        self.is_changed.store(true, Ordering::Relaxed);
        self.notify.notify_one();
    }
}

pub struct Handlers {
    pub database: Database,
    pub wake: Arc<Wake>,
}

impl Handlers {
    /// Never ends.
    pub async fn run(self) {
        let mut subscriptions = Vec::new();
        let mut retries_end = Instant::now();
        self.wake.changed();
        loop {
            // A database that sleeps has nothing new.
            self.database.demand().awake().await;
            let pause = match self.round(&mut subscriptions).await {
                Ok(false) if retries_end <= Instant::now() => INTERVAL,
                Ok(false) => RETRY,
                Ok(true) => {
                    retries_end = Instant::now() + RETRIES;
                    RETRY
                }
                Err(error) if error.retry().may_pass() => {
                    debug!(error = &error as &dyn std::error::Error, "subscriptions wait for the database");
                    self.wake.is_changed.store(true, Ordering::Relaxed);
                    RETRY
                }
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "cannot run the handlers of subscriptions");
                    INTERVAL
                }
            };
            sleep(REST).await;
            tokio::select! {
                () = self.wake.notify.notified() => {}
                () = sleep(pause) => self.wake.is_changed.store(true, Ordering::Relaxed),
            }
        }
    }

    /// Calls the handlers until there is nothing for them to do. Returns whether one has failed.
    async fn round(&self, subscriptions: &mut Vec<String>) -> Result<bool, DatabaseError> {
        if self.wake.is_changed.swap(false, Ordering::Relaxed) {
            let client = self.database.background_client().await?;
            let list = client.prepare_cached("select livestore.handled_subscriptions()").await?;
            let rows = client.query(&list, &[]).await?;
            *subscriptions = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        }
        let mut has_failed = false;
        // In turns, so that one with much to do does not hold up the others.
        let mut busy = subscriptions.clone();
        while !busy.is_empty() {
            let mut still_busy = Vec::new();
            for subscription in busy {
                let client = self.database.background_client().await?;
                let run = client.prepare_cached("select events, error from livestore.run_subscription($1, $2)").await?;
                let row = match client.query_one(&run, &[&subscription, &BATCH]).await {
                    Ok(row) => row,
                    // It was removed, or its handler: the others go on.
                    Err(error) if error.as_db_error().is_some() => {
                        warn!(subscription, error = &error as &dyn std::error::Error, "a subscription cannot be run");
                        has_failed = true;
                        self.wake.is_changed.store(true, Ordering::Relaxed);
                        continue;
                    }
                    Err(error) => return Err(error.into()),
                };
                let (events, error): (i64, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
                if let Some(error) = error {
                    warn!(subscription, error, "the handler of a subscription has failed");
                    has_failed = true;
                } else if events > 0 {
                    still_busy.push(subscription);
                }
            }
            busy = still_busy;
        }
        Ok(has_failed)
    }
}
