//! Sends the events of subscriptions with a URL: at least once, and those of a store in order.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_postgres::types::ToSql;
use tokio_util::task::{AbortOnDropHandle, TaskTracker, task_tracker::TaskTrackerToken};
use tracing::{debug, info, warn};

use super::breaker::Breaker;
use super::{BATCH, EMPTY_REST, INTERVAL, LIST_INTERVAL, LOOK, REST, RETRY, Served, served};
use crate::postgres::{Database, DatabaseError};
use crate::shutdown::Ending;
use crate::telemetry::chain;
use crate::telemetry::metrics::{self, Reaction};
use crate::webhook::{SendError, Sender, Webhooks};

/// The args of a batch have no more bytes, unless it is a single event.
const MAX_BYTES: i32 = 1 << 20;

/// By how much a lease is longer than a receiver may take: for the acknowledgement, while the database fails over.
const MARGIN: Duration = Duration::from_secs(30);

/// The characters that a `webhook-id` does not contain: dots, which separate the parts of what is signed, and all that are not visible ASCII.
const NOT_IN_IDS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_');

/// The pause before the same batch is sent again doubles with each failure, up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The next events, each as JSON. `mark` says which event it is, in visible ASCII. The history has no positions.
const POLL: &str = "\
    select p.lease, p.failures, (select livestore.subscription_life($1)) as life,
        coalesce(p.position::text, left(encode(sha256(convert_to(p.store_id, 'UTF8')), 'hex'), 16) || '-' || p.seq_num) as mark,
        json_build_object(
            'position', p.position, 'storeId', p.store_id, 'seqNum', p.seq_num, 'name', p.name, 'args', p.args, 'clientId', p.client_id,
            'sessionId', p.session_id, 'createdAt', to_char(p.created_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'),
            'change', p.change
        )::text as event
    from livestore.poll($1, $2, make_interval(secs => $3), $4) p";

/// The URL of a subscription, and its life then or later: if that is the life of a batch, the URL is the one for this batch.
const URL: &str = "\
    select s.url, livestore.subscription_life($1) as life from livestore.served_subscriptions() s where s.subscription = $1";

/// `livestore.ack` and `nack` raise it if another worker has the events.
const LEASE_ENDED: &str = "LS007";

const NACK: &str = "select livestore.nack($1, make_interval(secs => $2), $3, $4)";

/// Starts and ends a [`Worker`] for each subscription with a URL. Never ends.
pub async fn run(
    database: Database,
    settings: Webhooks,
    ending: Ending,
    under_way: TaskTracker,
    commits: watch::Receiver<()>,
    mut changes: watch::Receiver<()>,
) {
    let mut workers: HashMap<Served, AbortOnDropHandle<()>> = HashMap::new();
    let is_outdated = Arc::new(Notify::new());
    // Until it is known which there are.
    let mut _held = Some(database.demand().hold());
    loop {
        database.demand().awake().await;
        changes.mark_unchanged();
        let listed = served(&database).await;
        if !listed.as_ref().is_err_and(|error| error.retry().may_pass()) {
            _held = None;
        }
        let pause = match listed {
            Ok(list) => {
                // A worker whose subscription has gone, or has another URL, ends with what is on its way. One that has panicked is started again.
                workers.retain(|served, worker| list.contains(served) && !worker.is_finished());
                for served in list {
                    let Some(url) = served.url.clone() else { continue };
                    workers.entry(served).or_insert_with_key(|served| {
                        let worker = Arc::new(Worker {
                            database: database.clone(),
                            sender: settings.sender.clone(),
                            subscription: served.name.clone(),
                            url,
                            concurrency: settings.concurrency,
                            lease: settings.timeout + MARGIN,
                            ending: ending.clone(),
                            under_way: under_way.clone(),
                            is_outdated: Arc::clone(&is_outdated),
                        });
                        AbortOnDropHandle::new(tokio::spawn(worker.run(commits.clone())))
                    });
                }
                LIST_INTERVAL
            }
            Err(error) => {
                debug!(shard = database.label(), error = %chain(&error), "cannot list the subscriptions");
                RETRY
            }
        };
        sleep(REST).await;
        tokio::select! {
            _ = changes.changed() => {}
            () = is_outdated.notified() => {}
            () = sleep(pause) => {}
        }
    }
}

/// Sends the events of one subscription.
struct Worker {
    database: Database,
    sender: Sender,
    subscription: String,
    url: String,
    concurrency: usize,
    /// The time for which events are leased.
    lease: Duration,
    ending: Ending,
    /// Tracks what is on its way, for whoever ends the process.
    under_way: TaskTracker,
    /// Told if the subscription has another URL.
    is_outdated: Arc<Notify>,
}

/// Events that were given out together.
struct Batch {
    lease: String,
    leased_until: Instant,
    /// `livestore.subscription_life`: another one after the subscription was made again.
    life: String,
    /// How often it has failed.
    failures: u32,
    /// The `webhook-id`: the same whenever this batch is sent.
    id: String,
    events: i64,
    body: Bytes,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    subscription: &'a str,
    events: &'a [Box<RawValue>],
}

/// The outcome of a batch.
enum Outcome {
    Taken,
    Failed { error: SendError, next: Duration },
    GivenBack,
}

impl Worker {
    /// Ends only with the process. Dropping the future ends what is on its way.
    async fn run(self: Arc<Self>, mut commits: watch::Receiver<()>) {
        let mut breaker = Breaker::default();
        let mut sending = JoinSet::new();
        let mut next_look = Instant::now();
        // The life in which the subscription has the URL of this worker.
        let mut known_life = None;
        // When a batch that has failed is given out again, and when nothing was given out last.
        let (mut retry_at, mut was_empty) = (None::<Instant>, None::<Instant>);
        // The database is needed until a batch that has failed is given out again, or while there may be more.
        let mut _held = Some(self.database.demand().hold());
        while !self.ending.begun.is_cancelled() {
            let pause_end = breaker.paused_until(Instant::now());
            let is_full = pause_end.is_none() && sending.len() >= breaker.places(self.concurrency);
            let look = next_look.max(pause_end.unwrap_or(next_look));
            tokio::select! {
                biased;
                () = self.ending.begun.cancelled() => {}
                Some(outcome) = sending.join_next() => {
                    if let Ok((Outcome::Failed { error, .. }, _)) = &outcome {
                        _held = (!error.needs_operator()).then(|| self.database.demand().hold());
                    }
                    // One that has panicked is sent again when its lease ends.
                    let next = outcome.map_or(INTERVAL, |outcome| self.note(&mut breaker, outcome));
                    next_look = next_look.min(Instant::now() + next);
                    if !next.is_zero() {
                        retry_at = retry_at.into_iter().chain([Instant::now() + next]).min();
                    }
                }
                () = sleep_until(look), if !is_full => {
                    self.database.demand().awake().await;
                    commits.mark_unchanged();
                    retry_at = retry_at.filter(|at| *at > Instant::now());
                    // Counted from now on: the process does not end before what is given out here is settled.
                    let token = self.under_way.token();
                    let start = Instant::now();
                    match self.poll().await {
                        Ok(Some(batch)) if known_life.as_ref() == Some(&batch.life) => {
                            drop(sending.spawn(Arc::clone(&self).deliver(batch, token)));
                        }
                        Ok(Some(batch)) => match self.has_url_of(&batch).await {
                            Ok(true) => {
                                known_life = Some(batch.life.clone());
                                drop(sending.spawn(Arc::clone(&self).deliver(batch, token)));
                            }
                            outcome => {
                                drop(sending.spawn(Arc::clone(&self).give_back(batch, token)));
                                next_look = Instant::now() + outcome.map_or_else(|error| self.failed_to_poll(&error), |_| RETRY);
                            }
                        },
                        Ok(None) => {
                            was_empty = Some(Instant::now());
                            let may_have_more = start.elapsed() >= LOOK;
                            if may_have_more {
                                _held = Some(self.database.demand().hold());
                            } else if retry_at.is_none() {
                                _held = None;
                            }
                            let pause = if may_have_more { RETRY } else { INTERVAL };
                            next_look = retry_at.into_iter().chain([Instant::now() + pause]).min().unwrap_or(next_look);
                        }
                        Err(error) => {
                            if !error.retry().may_pass() {
                                _held = None;
                            }
                            next_look = Instant::now() + self.failed_to_poll(&error);
                        }
                    }
                }
                _ = commits.changed() => {
                    // Most commits may have nothing for this subscription.
                    let earliest = was_empty.map_or(Instant::now(), |at| at + EMPTY_REST).max(Instant::now() + REST);
                    next_look = next_look.min(earliest);
                }
            }
        }
        while sending.join_next().await.is_some() {}
    }

    /// Tells the operator, and returns when to look for more.
    fn note(&self, breaker: &mut Breaker, outcome: (Outcome, i64)) -> Duration {
        let (outcome, events) = outcome;
        let (subscription, receiver) = (&self.subscription, receiver_of(&self.url));
        match outcome {
            Outcome::Taken => {
                if breaker.is_open() {
                    info!(
                        shard = self.database.label(),
                        subscription, receiver, "the receiver of a subscription takes events again"
                    );
                }
                breaker.succeeded();
                metrics::reacted(Reaction::Webhook, true, events);
                Duration::ZERO
            }
            Outcome::Failed { error, next } => {
                let now = Instant::now();
                breaker.failed(error.retry_after(), now);
                metrics::reacted(Reaction::Webhook, false, 0);
                let pause = breaker.paused_until(now).map(|end| (end - now).as_secs());
                let error = error.brief();
                warn!(shard = self.database.label(), subscription, receiver, pause, error, "a webhook was not taken");
                next
            }
            Outcome::GivenBack => INTERVAL,
        }
    }

    fn failed_to_poll(&self, error: &DatabaseError) -> Duration {
        let subscription = &self.subscription;
        if error.retry().may_pass() && !error.is_cancelled() {
            debug!(shard = self.database.label(), subscription, error = %chain(error), "a subscription waits for the database");
            RETRY
        } else {
            warn!(shard = self.database.label(), subscription, error = %chain(error), "cannot read the events of a subscription");
            INTERVAL
        }
    }

    /// The next events that no other worker has, if there are any.
    async fn poll(&self) -> Result<Option<Batch>, DatabaseError> {
        let leased_until = Instant::now() + self.lease;
        let client = self.database.background_client().await?;
        let lease = self.lease.as_secs_f64();
        let arguments: [&(dyn ToSql + Sync); 4] = [&self.subscription, &BATCH, &lease, &MAX_BYTES];
        let polled = async { client.query(&client.prepare_cached(POLL).await?, &arguments).await };
        let rows = client.in_time(polled).await??;
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(None) };
        let events: Vec<Box<RawValue>> = rows
            .iter()
            .map(|row| {
                RawValue::from_string(row.try_get("event")?)
                    .map_err(|error| DatabaseError::Unreadable(error.to_string()))
            })
            .collect::<Result<_, _>>()?;
        let data = Data { subscription: &self.subscription, events: &events };
        let body = serde_json::to_vec(&Body { r#type: "livestore.events", data });
        let body = body.map_err(|error| DatabaseError::Unreadable(error.to_string()))?;
        let (life, from, to) =
            (first.try_get::<_, &str>("life")?, first.try_get::<_, &str>("mark")?, last.try_get::<_, &str>("mark")?);
        let subscription = utf8_percent_encode(&self.subscription, NOT_IN_IDS);
        Ok(Some(Batch {
            lease: first.try_get("lease")?,
            leased_until,
            life: life.to_owned(),
            failures: first.try_get::<_, i32>("failures")?.unsigned_abs(),
            id: format!("msg_{life}_{subscription}_{from}_{to}"),
            events: events.len() as i64,
            body: body.into(),
        }))
    }

    /// Whether a batch is for the URL of this worker, and not for that of a subscription of this name that was made again since.
    async fn has_url_of(&self, batch: &Batch) -> Result<bool, DatabaseError> {
        let client = self.database.background_client().await?;
        let asked = async { client.query_opt(&client.prepare_cached(URL).await?, &[&self.subscription]).await };
        let Some(row) = client.read_in_time(asked).await?? else { return Ok(false) };
        let (url, life): (Option<&str>, Option<&str>) = (row.try_get("url")?, row.try_get("life")?);
        Ok(url == Some(&self.url) && life == Some(&batch.life))
    }

    /// Sends a batch, and tells the database what became of it.
    async fn deliver(self: Arc<Self>, batch: Batch, token: TaskTrackerToken) -> (Outcome, i64) {
        let _held = (self.database.demand().hold(), token);
        let posted = self.sender.post(&self.url, &self.subscription, &batch.id, batch.body.clone());
        let outcome = tokio::select! {
            biased;
            posted = posted => match posted {
                Ok(_) => {
                    self.settle(&batch, "select livestore.ack($1)", &[&batch.lease]).await;
                    Outcome::Taken
                }
                Err(error) => self.refused(&batch, error).await,
            },
            () = self.ending.last_moment.cancelled() => self.unsend(&batch).await,
        };
        (outcome, batch.events)
    }

    /// Leaves a batch to the next worker.
    async fn give_back(self: Arc<Self>, batch: Batch, token: TaskTrackerToken) -> (Outcome, i64) {
        let _held = (self.database.demand().hold(), token);
        let outcome = self.unsend(&batch).await;
        // Not before: it ends this worker, with all that it has begun.
        self.is_outdated.notify_one();
        (outcome, batch.events)
    }

    async fn unsend(&self, batch: &Batch) -> Outcome {
        let text: Option<&str> = None;
        self.settle(batch, NACK, &[&batch.lease, &0.0_f64, &text, &false]).await;
        Outcome::GivenBack
    }

    async fn refused(&self, batch: &Batch, error: SendError) -> Outcome {
        let is_failure = !error.is_receiver_away();
        // While the receiver is away, the breaker makes the pauses.
        let pause = pause_after(&error, if is_failure { batch.failures } else { 0 });
        let seconds = pause.as_secs_f64();
        self.settle(batch, NACK, &[&batch.lease, &seconds, &error.brief(), &is_failure]).await;
        Outcome::Failed { error, next: pause + REST }
    }

    /// Ends the lease. If the database is away for longer than the lease lasts, the batch is sent again.
    async fn settle(&self, batch: &Batch, sql: &str, parameters: &[&(dyn ToSql + Sync)]) {
        let settle = async {
            loop {
                let error = match self.execute(sql, parameters).await {
                    Ok(()) => return,
                    Err(error) => error,
                };
                let subscription = &self.subscription;
                // Also if an earlier attempt was committed, whose answer was lost.
                if matches!(&error, DatabaseError::Refused(error) if error.code().is_some_and(|code| code.code() == LEASE_ENDED))
                {
                    debug!(shard = self.database.label(), subscription, "the lease of a webhook has ended");
                    return;
                }
                if !error.retry().may_pass() {
                    warn!(shard = self.database.label(), subscription, error = %chain(&error), "cannot acknowledge a webhook: it will be sent again");
                    return;
                }
                sleep(RETRY).await;
            }
        };
        if timeout_at(batch.leased_until, settle).await.is_err() {
            let subscription = &self.subscription;
            warn!(
                shard = self.database.label(),
                subscription, "cannot acknowledge a webhook, since the database is away: it will be sent again"
            );
        }
    }

    async fn execute(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<(), DatabaseError> {
        let client = self.database.background_client().await?;
        let executed = async { client.query(&client.prepare_cached(sql).await?, parameters).await };
        client.in_time(executed).await??;
        Ok(())
    }
}

/// The pause before a batch that has failed so often before is sent again.
fn pause_after(error: &SendError, failures: u32) -> Duration {
    (RETRY * (1 << failures.min(16))).min(LONGEST_PAUSE).max(error.retry_after().unwrap_or_default())
}

/// The part of a URL that may be logged: its path and its search params may hold a secret.
fn receiver_of(url: &str) -> String {
    reqwest::Url::parse(url).map(|url| url.origin().ascii_serialization()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::*;

    #[test]
    fn a_receiver_can_put_a_batch_off_for_a_minute() {
        let refused = |seconds| SendError::Refused {
            status: StatusCode::SERVICE_UNAVAILABLE,
            retry_after: Some(Duration::from_secs(seconds)),
            excerpt: String::new(),
        };
        let pause = |seconds, failures| pause_after(&refused(seconds), failures).as_secs();
        assert_eq!((pause(0, 0), pause(7, 0), pause(7, 4), pause(86_400, 0)), (1, 7, 16, 60));
        assert_eq!((pause(86_400, 20), pause_after(&SendError::Timeout, 20).as_secs()), (300, 300));
    }

    #[test]
    fn the_secrets_of_a_url_are_not_logged() {
        assert_eq!(receiver_of("https://user:pw@hooks.example:8443/T0/B1?key=SECRET"), "https://hooks.example:8443");
    }
}
