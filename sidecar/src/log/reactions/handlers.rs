//! Runs the handlers of durable subscriptions, functions in the database, by `livestore.run_subscription`.

use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tracing::{debug, warn};

use super::{BATCH, EMPTY_REST, INTERVAL, LIST_INTERVAL, LOOK, RETRY, served};
use crate::postgres::{Database, DatabaseError, Retry};
use crate::telemetry::chain;
use crate::telemetry::metrics::{self, Reaction};

/// Handlers are tried every [`RETRY`] for a while after one has failed, and the database decides when its events are given out again.
/// That while: longer than the longest pause that `livestore.run_subscription` makes, which is five minutes.
const RETRIES: Duration = Duration::from_secs(330);

/// A handler that cannot even be called is tried again after this time.
const UNCALLABLE: Duration = Duration::from_secs(10);

const RUN: &str = "select events, error from livestore.run_subscription($1, $2)";

/// After a run of $4 events whose commit has failed: gives out the same events, which therefore come first, and counts the failure, with the pauses of
/// `livestore.run_subscription`. If there are fewer, another sidecar was faster, and these are others.
const FAIL: &str = "\
    select livestore.nack(p.lease, make_interval(secs => least(power(2, least(p.failures, 10)), 300)), $3, p.events >= $4)
    from (select lease, max(failures) as failures, count(*) as events from livestore.poll($1, $2) group by lease) p";

/// Never ends.
pub async fn run(database: Database, mut commits: watch::Receiver<()>, mut changes: watch::Receiver<()>) {
    let (mut subscriptions, mut resting, mut begin_behind) = (Vec::new(), HashMap::new(), String::new());
    let (mut retries_end, mut next_list) = (Instant::now(), Instant::now());
    // Until then a handler may have events that have failed. The database is needed for them, and while there is something to do.
    let (mut needed_until, mut _held) = (Instant::now(), Some(database.demand().hold()));
    changes.mark_changed();
    loop {
        // Commits to a database that sleeps wait for the client that wakes it.
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
            call_all(&database, &subscriptions, &mut resting, &mut begin_behind).await
        };
        let outcome = round.await;
        match &outcome {
            Ok(round) => {
                if round.is_retried {
                    needed_until = Instant::now() + RETRIES;
                }
                let is_needed = round.has_events || round.may_have_more || needed_until > Instant::now();
                _held = is_needed.then(|| database.demand().hold());
            }
            Err(error) if error.retry().may_pass() => {}
            Err(_) => _held = None,
        }
        let pause = match outcome {
            Ok(Round { has_events: true, has_failed: false, .. }) => Duration::ZERO,
            Ok(Round { has_failed: false, may_have_more: false, .. }) if retries_end <= Instant::now() => INTERVAL,
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
    /// At least one has failed that could be called: its events come again.
    is_retried: bool,
    /// At least one has passed over events for as long as one call does.
    may_have_more: bool,
}

/// Calls each handler once, so that one with much to do does not hold up the others.
///
/// `resting`: those that could not be called, and until when they are left alone. For a handler that has failed, the database knows.
/// `begin_behind`: the one at which the last round has ended early. Those behind it come first, or they would never be called if that happens each time.
async fn call_all(
    database: &Database,
    subscriptions: &[String],
    resting: &mut HashMap<String, Instant>,
    begin_behind: &mut String,
) -> Result<Round, DatabaseError> {
    let mut round = Round::default();
    resting.retain(|_, end| *end > Instant::now());
    for subscription in in_turn(subscriptions, begin_behind) {
        if resting.contains_key(&subscription) {
            continue;
        }
        begin_behind.clone_from(&subscription);
        let start = Instant::now();
        let (events, error) = match run_one(database, &subscription).await? {
            Ok(outcome) => outcome,
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
        if let Some(error) = error {
            warn!(shard = database.label(), subscription, error, "the handler of a subscription has failed");
            metrics::reacted(Reaction::Handler, false, 0);
            (round.has_failed, round.is_retried) = (true, true);
        } else if events > 0 {
            metrics::reacted(Reaction::Handler, true, events);
            round.has_events = true;
        } else {
            round.may_have_more |= start.elapsed() >= LOOK;
        }
    }
    begin_behind.clear();
    Ok(round)
}

/// The names, in their order, beginning behind one of them.
fn in_turn(names: &[String], begin_behind: &str) -> Vec<String> {
    let (before, behind) = names.split_at(names.partition_point(|name| name.as_str() <= begin_behind));
    behind.iter().chain(before).cloned().collect()
}

/// Runs a handler: the number of events, or why it has failed. The inner error: it could not be run.
async fn run_one(
    database: &Database,
    subscription: &str,
) -> Result<Result<(i64, Option<String>), Error>, DatabaseError> {
    let client = database.background_function_client().await?;
    let arguments: [(&(dyn ToSql + Sync), Type); 2] = [(&subscription, Type::TEXT), (&BATCH, Type::INT4)];
    let run = async {
        let mut rows = pin!(client.query_typed_raw(RUN, arguments).await?);
        let outcome = match rows.try_next().await? {
            Some(row) => (row.try_get(0)?, row.try_get(1)?),
            None => (0, None),
        };
        // Postgres sends the row, and then commits.
        Ok((outcome, rows.try_next().await))
    };
    // Postgres ends a run after 30 s, whatever the handler sets, so this cuts off none that does well. The commit does not count: one that
    // waits for a standby goes on in Postgres, and its events are not given out twice.
    let (outcome, committed) = match client.in_time(run).await? {
        Ok(run) => run,
        Err(error) => return Ok(Err(error)),
    };
    drop(client);
    let Err(error) = committed else { return Ok(Ok(outcome)) };
    let Some(text) = failure_of_handler(&error, outcome.0) else { return Ok(Err(error)) };
    count_failure(database, subscription, &text, outcome.0).await?;
    Ok(Ok((0, Some(text))))
}

/// The text of an error at the commit, if what the handler has done is the reason, as when it breaks a deferred constraint.
fn failure_of_handler(error: &Error, events: i64) -> Option<String> {
    let error = error.as_db_error().filter(|_| events > 0)?;
    let may_pass = Retry::after(error.code()).may_pass() && *error.code() != SqlState::QUERY_CANCELED;
    (!may_pass).then(|| format!("{} (at the commit)", error.message()))
}

/// Counts a failure at the commit, which has undone all that `livestore.run_subscription` would have counted. Otherwise the same events would
/// come for ever, and those behind them never. Not on the connection of the handler, which may have set a search_path.
async fn count_failure(database: &Database, subscription: &str, error: &str, events: i64) -> Result<(), DatabaseError> {
    let client = database.background_client().await?;
    let arguments: [&(dyn ToSql + Sync); 4] = [&subscription, &BATCH, &error, &events];
    let counted = async { client.query(&client.prepare_cached(FAIL).await?, &arguments).await };
    client.in_time(counted).await??;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_begins_behind_the_one_at_which_the_last_has_ended() {
        let names: Vec<String> = ["a", "b", "c"].map(Into::into).to_vec();
        for (begin_behind, expected) in [("", "abc"), ("a", "bca"), ("b", "cab"), ("bb", "cab"), ("c", "abc")] {
            assert_eq!(in_turn(&names, begin_behind).concat(), expected, "{begin_behind}");
        }
    }
}
