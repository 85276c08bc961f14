//! Runs the handlers of durable subscriptions, functions in the database, by `livestore.run_subscription`.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::{BATCH, INTERVAL, LIST_INTERVAL, REST, RETRY, served};
use crate::postgres::{Database, DatabaseError};
use crate::telemetry::metrics::{self, Reaction};

/// Handlers are tried every [`RETRY`] for a while after one has failed, and the database decides when its events are given out again.
/// That while: longer than the longest pause that `livestore.run_subscription` makes, which is five minutes.
const RETRIES: Duration = Duration::from_secs(330);

/// Never ends.
pub async fn run(database: Database, mut commits: watch::Receiver<()>, mut changes: watch::Receiver<()>) {
    let mut subscriptions = Vec::new();
    let (mut retries_end, mut next_list) = (Instant::now(), Instant::now());
    changes.mark_changed();
    loop {
        // A database that sleeps has nothing new.
        database.demand().awake().await;
        commits.mark_unchanged();
        if changes.has_changed().unwrap_or(false) {
            changes.mark_unchanged();
            next_list = Instant::now();
        }
        let round = async {
            if next_list <= Instant::now() {
                let all = served(&database).await?;
                subscriptions =
                    all.into_iter().filter(|served| served.url.is_none()).map(|served| served.name).collect();
                next_list = Instant::now() + LIST_INTERVAL;
            }
            call_all(&database, &subscriptions).await
        };
        let pause = match round.await {
            Ok(false) if retries_end <= Instant::now() => INTERVAL,
            Ok(false) => RETRY,
            Ok(true) => {
                retries_end = Instant::now() + RETRIES;
                next_list = Instant::now();
                RETRY
            }
            Err(error) if error.retry().may_pass() => {
                debug!(error = &error as &dyn std::error::Error, "subscriptions wait for the database");
                next_list = Instant::now();
                RETRY
            }
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "cannot run the handlers of subscriptions");
                INTERVAL
            }
        };
        sleep(REST).await;
        tokio::select! {
            _ = commits.changed() => {}
            () = sleep(pause) => {}
        }
    }
}

/// Calls the handlers until there is nothing for them to do. Returns whether one has failed.
async fn call_all(database: &Database, subscriptions: &[String]) -> Result<bool, DatabaseError> {
    let mut has_failed = false;
    // In turns, so that one with much to do does not hold up the others.
    let mut busy: Vec<&String> = subscriptions.iter().collect();
    while !busy.is_empty() {
        let mut still_busy = Vec::new();
        for subscription in busy {
            let client = database.background_client().await?;
            let run = client.prepare_cached("select events, error from livestore.run_subscription($1, $2)").await?;
            let row = match client.query_one(&run, &[&subscription, &BATCH]).await {
                Ok(row) => row,
                // It was removed, or its handler: the others go on.
                Err(error) if error.as_db_error().is_some() => {
                    warn!(subscription, error = &error as &dyn std::error::Error, "a subscription cannot be run");
                    has_failed = true;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let (events, error): (i64, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
            if let Some(error) = error {
                warn!(subscription, error, "the handler of a subscription has failed");
                metrics::reacted(Reaction::Handler, false, 0);
                has_failed = true;
            } else if events > 0 {
                metrics::reacted(Reaction::Handler, true, events);
                still_busy.push(subscription);
            }
        }
        busy = still_busy;
    }
    Ok(has_failed)
}
