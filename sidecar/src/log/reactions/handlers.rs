//! Runs the handlers of durable subscriptions, functions in the database, by `livestore.run_subscription`.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_postgres::types::{ToSql, Type};
use tracing::{debug, warn};

use super::{BATCH, EMPTY_REST, INTERVAL, LIST_INTERVAL, RETRY, served};
use crate::postgres::{Database, DatabaseError};
use crate::telemetry::chain;
use crate::telemetry::metrics::{self, Reaction};

/// Handlers are tried every [`RETRY`] for a while after one has failed, and the database decides when its events are given out again.
/// That while: longer than the longest pause that `livestore.run_subscription` makes, which is five minutes.
const RETRIES: Duration = Duration::from_secs(330);

/// A handler that cannot even be called is tried again after this time.
const UNCALLABLE: Duration = Duration::from_secs(10);

const RUN: &str = "select events, error from livestore.run_subscription($1, $2)";

/// Never ends.
pub async fn run(database: Database, mut commits: watch::Receiver<()>, mut changes: watch::Receiver<()>) {
    let (mut subscriptions, mut resting) = (Vec::new(), HashMap::new());
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
            call_all(&database, &subscriptions, &mut resting).await
        };
        let pause = match round.await {
            Ok(Round { has_events: true, has_failed: false }) => Duration::ZERO,
            Ok(Round { has_failed: false, .. }) if retries_end <= Instant::now() => INTERVAL,
            Ok(Round { has_failed: false, .. }) => RETRY,
            Ok(Round { has_events, .. }) => {
                retries_end = Instant::now() + RETRIES;
                next_list = Instant::now();
                if has_events { Duration::ZERO } else { RETRY }
            }
            Err(error) if error.retry().may_pass() => {
                debug!(shard = database.label(), error = %chain(&error), "subscriptions wait for the database");
                next_list = Instant::now();
                RETRY
            }
            Err(error) => {
                warn!(shard = database.label(), error = %chain(&error), "cannot run the handlers of subscriptions");
                INTERVAL
            }
        };
        if pause.is_zero() {
            continue;
        }
        sleep(EMPTY_REST).await;
        tokio::select! {
            _ = commits.changed() => {}
            () = sleep(pause) => {}
        }
    }
}

/// The outcome of one call of each handler.
#[derive(Default)]
struct Round {
    /// At least one had events: there may be more.
    has_events: bool,
    has_failed: bool,
}

/// Calls each handler once, so that one with much to do does not hold up the others.
///
/// `resting`: those that could not be called, and until when they are left alone. For a handler that has failed, the database knows.
async fn call_all(
    database: &Database,
    subscriptions: &[String],
    resting: &mut HashMap<String, Instant>,
) -> Result<Round, DatabaseError> {
    let mut round = Round::default();
    resting.retain(|_, end| *end > Instant::now());
    for subscription in subscriptions.iter().filter(|name| !resting.contains_key(*name)).cloned().collect::<Vec<_>>() {
        let client = database.background_function_client().await?;
        let arguments: [(&(dyn ToSql + Sync), Type); 2] = [(&subscription, Type::TEXT), (&BATCH, Type::INT4)];
        // Postgres ends a run after 30 s, whatever the handler sets, so this cuts off none that does well. The commit does not count: one that
        // waits for a standby goes on in Postgres, and its events are not given out twice.
        let row = match client.in_time(client.query_typed_one(RUN, &arguments)).await? {
            Ok(row) => row,
            // It was removed, or its handler: the others go on.
            Err(error) if error.as_db_error().is_some() => {
                warn!(shard = database.label(), subscription, error = %chain(&error), "a subscription cannot be run");
                metrics::reacted(Reaction::Handler, false, 0);
                resting.insert(subscription, Instant::now() + UNCALLABLE);
                round.has_failed = true;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let (events, error): (i64, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        if let Some(error) = error {
            warn!(shard = database.label(), subscription, error, "the handler of a subscription has failed");
            metrics::reacted(Reaction::Handler, false, 0);
            round.has_failed = true;
        } else if events > 0 {
            metrics::reacted(Reaction::Handler, true, events);
            round.has_events = true;
        }
    }
    Ok(round)
}
