//! Committing pushes, a group at a time, on one connection.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Fuse, join};
use tokio::time::{Instant, timeout};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Span, debug_span, error, warn};

use super::held::Held;
use super::outcome::{Appended, Failed, Outcome, Pushed, log_rollback, outcome};
use super::push::{GROUP_BYTES, GROUP_PUSHES, Intended, Push};
use super::queue::Waiting;
use crate::log::error::PushError;
use crate::log::read::tails::Tails;
use crate::log::shards::Elsewhere;
use crate::log::store_id::StoreId;
use crate::postgres::{
    ANSWER_TIMEOUT, Backoff, Connected, Database, DatabaseError, LIMIT_STATEMENTS, Server, is_disconnection,
    renew_session,
};
use crate::telemetry::chain;
use crate::telemetry::metrics;

/// If a push has waited for longer than this, and more pushes wait, new ones are refused.
const QUEUE_TIME: Duration = Duration::from_secs(1);

/// Commits the pushes of a [`super::queue::CommitQueue`], one transaction at a time: so the pushes of a store are committed,
/// and reach its tail, in order. [`Held`] keeps the pushes that have to be tried again.
pub struct Committer {
    session: Session,
    waiting: Waiting,
}

/// Commits on one connection, which is made when it is needed.
struct Session {
    database: Database,
    tails: Arc<Tails>,
    /// Whether this sidecar ignores the notifications of this session, since it gives the events to its tails itself.
    is_main: bool,
    /// [`Tails::changes`] when the last group was sent.
    changes: u64,
    connection: Option<Connection>,
    /// The process of a group whose answer did not come.
    unanswered: Option<Process>,
    /// For pushes whose store is on another shard, if there are several.
    elsewhere: Option<Elsewhere>,
}

struct Connection {
    client: Client,
    /// The future that does the I/O of `client`. It is polled only while a statement runs. As a task of its own, it would be
    /// woken twice for each commit, and would have to wake the committer.
    driver: Driver,
    /// Undoes what the hooks of the portable flavour have left in the session. The extension does so itself.
    renew: Option<String>,
    /// Marks the notifications of this connection's commits.
    source: Arc<str>,
    server: Option<Server>,
    /// None if the server does not say.
    process: Option<Process>,
    made: Instant,
}

/// A process of Postgres. A later one may have the same number.
#[derive(Clone, Copy)]
struct Process {
    id: i32,
    started: DateTime<Utc>,
}

type Driver = Fuse<BoxFuture<'static, Result<(), tokio_postgres::Error>>>;

/// The outcome of a statement, while its connection is driven.
async fn driven<T>(
    driver: &mut Driver,
    statement: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, CommitError> {
    let mut statement = pin!(statement);
    let lost = tokio::select! {
        biased;
        result = &mut statement => return Ok(result?),
        end = driver => end.err(),
    };
    // The answer may have been read before the end: an error that gives the reason, for one.
    match statement.now_or_never() {
        Some(result) => Ok(result?),
        None => Err(CommitError::Unavailable(lost.map_or(DatabaseError::Lost, DatabaseError::from))),
    }
}

/// Why a group is not committed, or not known to be.
enum CommitError {
    /// The database cannot be reached, or refuses to serve: whether the group was committed is not known.
    Unavailable(DatabaseError),
    /// The database rolled the group back.
    RolledBack(tokio_postgres::Error),
}

impl From<tokio_postgres::Error> for CommitError {
    fn from(error: tokio_postgres::Error) -> Self {
        if is_disconnection(&error) { Self::Unavailable(error.into()) } else { Self::RolledBack(error) }
    }
}

const PUSH_BATCH: &str = "\
    select push, head, appended, backend_id, created_at, sqlstate, message, detail
    from livestore.push_batch($1, $2, $3, $4, $5)";

/// Stores that another transaction holds are left out at once, and tried again: see `held.rs`.
const SKIP_HELD_STORES: &str = "set livestore.held_stores = 'skip'";

/// The process of this connection.
const PROCESS: &str = "select a.pid, a.backend_start from pg_stat_activity a where a.pid = pg_backend_pid()";

/// Whether a process waits in the middle of a statement: for a standby, a lock or a disk, for which a repeat would wait, too. A hook that
/// hangs is another matter: it holds up the stores of its own group, and no others.
const IS_WAITING: &str = "\
    select exists (
        select from pg_stat_activity a
        where a.pid = $1 and a.backend_start = $2 and a.wait_event_type in ('IPC', 'Lock', 'LWLock', 'IO')
    )";

impl Committer {
    pub fn new(database: Database, tails: Arc<Tails>, waiting: Waiting, elsewhere: Option<Elsewhere>) -> Self {
        Self { session: Session::new(database, tails, true, elsewhere), waiting }
    }

    /// Commits until every [`super::queue::CommitQueue`] is dropped and the queue is empty.
    pub async fn run(mut self) {
        let Session { database, tails, elsewhere, .. } = &self.session;
        let again = Session::new(database.clone(), Arc::clone(tails), false, elsewhere.clone());
        let retrying = AbortOnDropHandle::new(tokio::spawn(retry(Arc::clone(&self.waiting.held), again)));
        let demand = database.demand().clone();
        loop {
            let group = tokio::select! {
                biased;
                group = self.next_group() => group,
                () = demand.asleep(), if self.session.connection.is_some() => {
                    self.session.disown_connection();
                    continue;
                }
            };
            let Some(group) = group else { break };
            // While the database is away, the queue does not count as behind: pushes wait as long as their clients do, and
            // are not refused.
            let is_behind = Arc::clone(&self.waiting.is_behind);
            let failed = self.session.commit_until_answered(group, || is_behind.store(false, Ordering::Relaxed)).await;
            self.waiting.held.hold(failed);
        }
        drop(retrying);
    }

    /// Waits for pushes. Those to stores that are held are left to [`Held`].
    async fn next_group(&mut self) -> Option<Vec<Push>> {
        let waiting = &mut self.waiting;
        let first = loop {
            // All that waited may be left to `held`.
            if waiting.pushes.is_empty() {
                waiting.is_behind.store(false, Ordering::Relaxed);
            }
            if let Some(push) = waiting.held.join(waiting.pushes.recv().await?) {
                break push;
            }
        };
        let mut bytes = first.size();
        let is_late = first.queued.elapsed() > QUEUE_TIME;
        let mut group = vec![first];
        while group.len() < GROUP_PUSHES
            && bytes < GROUP_BYTES
            && let Ok(push) = waiting.pushes.try_recv()
        {
            if let Some(push) = waiting.held.join(push) {
                bytes += push.size();
                group.push(push);
            }
        }
        waiting.is_behind.store(is_late && !waiting.pushes.is_empty(), Ordering::Relaxed);
        Some(group)
    }
}

/// Tries what is held, when it is time.
async fn retry(held: Arc<Held>, mut session: Session) {
    let demand = session.database.demand().clone();
    loop {
        let group = tokio::select! {
            biased;
            group = held.due() => group,
            () = demand.asleep(), if session.connection.is_some() => {
                session.disown_connection();
                continue;
            }
        };
        let tried: Vec<StoreId> = group.iter().map(|push| push.store.clone()).collect();
        let failed = session.commit_until_answered(group, || {}).await;
        held.put_back(&tried, failed);
    }
}

impl Session {
    fn new(database: Database, tails: Arc<Tails>, is_main: bool, elsewhere: Option<Elsewhere>) -> Self {
        Self { database, tails, is_main, changes: 0, connection: None, unanswered: None, elsewhere }
    }

    /// Commits a group, and repeats that until the database has answered for every push or the deadline of the push has
    /// passed. A repeat is safe if it is unknown whether a transaction was committed: events that are in the log are accepted
    /// again. Returns the pushes to try again later, in order. `while_away` is called when the database is away.
    async fn commit_until_answered(&mut self, group: Vec<Push>, while_away: impl Fn()) -> Vec<Push> {
        let mut again = Vec::new();
        let mut groups = vec![group];
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        let mut is_repeated = false;
        while let Some(mut group) = groups.pop() {
            let now = Instant::now();
            // A repeat leaves out pushes whose client no longer waits for the answer.
            for late in group.extract_if(.., |push| push.deadline <= now || (is_repeated && push.reply.is_closed())) {
                let _ = late.reply.send(Err(PushError::Unavailable));
            }
            if let Some(elsewhere) = self.elsewhere.as_ref().filter(|elsewhere| elsewhere.ended.is_cancelled()) {
                group.into_iter().for_each(|push| elsewhere.send(push));
                continue;
            }
            if group.is_empty() {
                continue;
            }
            let start = Instant::now();
            let ended = self.elsewhere.as_ref().map(|elsewhere| elsewhere.ended.clone());
            let committed = async {
                match ended {
                    // A database that does not answer must not keep the pushes when it is none of the shards any more.
                    Some(ended) => ended.run_until_cancelled(self.commit(&group)).await,
                    None => Some(self.commit(&group).await),
                }
            };
            let Some(committed) = committed.await else {
                self.disown_connection();
                groups.push(group);
                continue;
            };
            match committed {
                Ok(outcomes) => {
                    metrics::committed(group.len(), start.elapsed());
                    self.settle(group, outcomes, &mut again);
                }
                Err(CommitError::Unavailable(error)) => {
                    metrics::not_committed("unavailable");
                    let pushes = group.len();
                    let shard = self.database.label();
                    warn!(shard, error = %chain(&error), pushes, "a commit waits for the database");
                    while_away();
                    if matches!(error, DatabaseError::StillCommitting) {
                        // A name may lead to another server by now: this one may wait for a standby that was promoted. An idle connection
                        // leaves nothing behind.
                        if self.connection.as_ref().is_some_and(|connection| connection.made.elapsed() > ANSWER_TIMEOUT)
                        {
                            self.disown_connection();
                        }
                    } else {
                        self.disown_connection();
                        // The group may have been committed without an answer, and its notification ignored as our own. So the
                        // tails ask Postgres.
                        for push in &group {
                            self.tails.refresh(&push.store);
                        }
                    }
                    groups.push(group);
                    is_repeated = true;
                    backoff.sleep().await;
                }
                // The error does not tell which push caused it, for example if a deferred trigger raised it at the commit, or if
                // all of them together took too long.
                // The halves are tried until it belongs to one push.
                Err(CommitError::RolledBack(error)) if group.len() > 1 => {
                    metrics::not_committed("rolled_back");
                    log_rollback(&error, "a commit was rolled back, its pushes are tried in halves");
                    let second = group.split_off(group.len() / 2);
                    groups.push(second);
                    groups.push(group);
                }
                Err(CommitError::RolledBack(error)) => {
                    metrics::not_committed("rolled_back");
                    log_rollback(&error, "a commit was rolled back");
                    let failed = Failed::from(&error);
                    for push in group {
                        self.fail(push, failed.clone(), &mut again);
                    }
                }
            }
        }
        again
    }

    async fn commit(&mut self, group: &[Push]) -> Result<Vec<Outcome>, CommitError> {
        self.database.demand().touch();
        if self.connection.as_ref().is_some_and(|connection| !self.database.is_current(connection.server)) {
            self.disown_connection();
        }
        let Connection { client, driver, renew, source, process, .. } = match &mut self.connection {
            Some(connection) => connection,
            none => {
                let connection = connect(&self.database).await?;
                if self.is_main {
                    self.tails.own(Some(Arc::clone(&connection.source)));
                }
                none.insert(connection)
            }
        };
        // A commit that waits for a standby goes on when its connection is closed. Each repeat would leave one more process behind.
        if let Some(before) = self.unanswered {
            if before.is_waiting(client, driver).await? {
                return Err(CommitError::Unavailable(DatabaseError::StillCommitting));
            }
            self.unanswered = None;
        }
        let stores: Vec<&str> = group.iter().map(|push| push.store.as_str()).collect();
        let batches: Vec<&str> = group.iter().map(|push| push.batch.json()).collect();
        let backend_ids: Vec<Option<&str>> = group.iter().map(|push| push.intended.backend_id()).collect();
        let contexts: Vec<&str> = group.iter().map(|push| push.context.json()).collect();
        let arguments: [(&(dyn ToSql + Sync), Type); 5] = [
            (&stores, Type::TEXT_ARRAY),
            (&batches, Type::TEXT_ARRAY),
            (&backend_ids, Type::TEXT_ARRAY),
            (&&**source, Type::TEXT),
            (&contexts, Type::TEXT_ARRAY),
        ];
        self.changes = self.tails.changes();
        // The statement gets a span in the trace of each push.
        let statements: Vec<_> = group.iter().map(|push| statement(&push.span, group.len())).collect();
        // Sent together. The statement has no name, under which a hook of the group before could have put another one.
        let renewing = async {
            match renew {
                Some(renew) => client.batch_execute(renew).await,
                None => Ok(()),
            }
        };
        let query = join(renewing, client.query_typed(PUSH_BATCH, &arguments)).map(Ok);
        let answers = timeout(ANSWER_TIMEOUT, driven(driver, query)).await;
        drop(statements);
        let answers = answers.unwrap_or(Err(CommitError::Unavailable(DatabaseError::NoAnswer)));
        let outcomes = answers.and_then(|(renewed, rows)| {
            renewed.map_err(|error| CommitError::Unavailable(error.into()))?;
            Ok(rows?.iter().map(outcome).collect::<Result<_, _>>()?)
        });
        if matches!(outcomes, Err(CommitError::Unavailable(_))) {
            self.unanswered = *process;
        }
        outcomes
    }

    /// Gives up the connection. Notifications of what it may still commit are heard from now on.
    fn disown_connection(&mut self) {
        self.connection = None;
        if self.is_main {
            self.tails.own(None);
        }
    }

    /// Publishes and answers pushes with an outcome, and puts aside those that are worth another try.
    fn settle(&mut self, group: Vec<Push>, mut outcomes: Vec<Outcome>, again: &mut Vec<Push>) {
        let mut group: Vec<Option<Push>> = group.into_iter().map(Some).collect();
        outcomes.sort_unstable_by_key(|outcome| outcome.push);
        for Outcome { push, result } in outcomes {
            let Some(push) = group.get_mut(push).and_then(Option::take) else {
                error!(push, "livestore.push_batch answered for a push that it was not given");
                continue;
            };
            match result {
                Ok(Appended { head, count, backend_id, created_at }) => {
                    metrics::committed_events(count);
                    match created_at {
                        Some(at) => {
                            let events = push.batch.into_last_appended(count, at);
                            self.tails.publish(&push.store, &backend_id, events, self.changes);
                        }
                        None => self.tails.hint(&push.store, head),
                    }
                    let _ = push.reply.send(Ok(Pushed { head }));
                }
                Err(failed) => self.fail(push, failed, again),
            }
        }
    }

    /// Answers a push that failed, unless it is worth another try.
    fn fail(&mut self, mut push: Push, failed: Failed, again: &mut Vec<Push>) {
        let Failed { error, lacks_something, is_elsewhere } = failed;
        if is_elsewhere && let Some(elsewhere) = &self.elsewhere {
            return elsewhere.send(push);
        }
        let is_first = !std::mem::replace(&mut push.was_tried, true);
        let is_worth_it = match &error {
            _ if lacks_something => is_first,
            PushError::Unavailable => push.deadline > Instant::now() && !push.reply.is_closed(),
            // It may build on one that is tried again.
            PushError::ServerAhead { .. } => again.iter().any(|before| before.store == push.store),
            _ => false,
        };
        if is_worth_it {
            return again.push(push);
        }
        // The database knows of changes that live streams have not heard of.
        match error {
            PushError::ServerAhead { minimum_expected_num, .. } => {
                self.tails.refused(&push.store, minimum_expected_num)
            }
            PushError::BackendIdMismatch { .. } => self.tails.refresh(&push.store),
            _ => {}
        }
        let error = match (error, &push.intended) {
            // Either the log was reset while the push waited, or before, and this sidecar has not heard of it. By the time the client tries
            // again, its pull has told it, or the sidecar knows.
            (PushError::BackendIdMismatch { .. }, Intended::Followed(_)) => PushError::Unavailable,
            (error, _) => error,
        };
        let _ = push.reply.send(Err(error));
    }
}

/// The span of the statement in the trace of a request.
fn statement(request: &Span, pushes: usize) -> Span {
    debug_span!(
        parent: request,
        "sql",
        otel.name = "livestore.push_batch",
        otel.kind = "client",
        db.system.name = "postgresql",
        pushes
    )
}

async fn connect(database: &Database) -> Result<Connection, CommitError> {
    let Connected { client, connection, server, .. } = database.connect().await.map_err(CommitError::Unavailable)?;
    let mut driver: Driver = connection.boxed().fuse();
    let preparing = async {
        let settings = format!("{SKIP_HELD_STORES}; {LIMIT_STATEMENTS}");
        client.batch_execute(&settings).await?;
        let first = "select gen_random_uuid()::text, livestore.flavour() = 'portable'";
        let first = client.query_one(first, &[]).await?;
        let renew = first.try_get::<_, bool>(1)?.then(|| renew_session(&settings));
        Ok((renew, first.try_get::<_, &str>(0)?.into(), Process::of(&client).await?))
    };
    let prepared = timeout(ANSWER_TIMEOUT, driven(&mut driver, preparing)).await;
    let (renew, source, process) = match prepared {
        Ok(Ok(prepared)) => prepared,
        // The error belongs to the connection and not to a push, so the pushes are tried again.
        Ok(Err(CommitError::RolledBack(error))) => return Err(CommitError::Unavailable(error.into())),
        Ok(Err(unavailable)) => return Err(unavailable),
        Err(_) => return Err(CommitError::Unavailable(DatabaseError::NoAnswer)),
    };
    Ok(Connection { client, driver, renew, source, server, process, made: Instant::now() })
}

impl Process {
    /// That of a connection; none if the server does not say.
    async fn of(client: &Client) -> Result<Option<Self>, tokio_postgres::Error> {
        let rows = match client.query_typed(PROCESS, &[]).await {
            // Somebody has taken the right to this view from everybody.
            Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => return Ok(None),
            rows => rows?,
        };
        let Some(row) = rows.first() else { return Ok(None) };
        let (id, started) = (row.try_get(0)?, row.try_get::<_, Option<_>>(1)?);
        Ok(started.map(|started| Self { id, started }))
    }

    /// Whether it waits in the middle of a statement, as the server of another connection sees it. Another server has no such process.
    async fn is_waiting(self, client: &Client, driver: &mut Driver) -> Result<bool, CommitError> {
        let arguments: [(&(dyn ToSql + Sync), Type); 2] = [(&self.id, Type::INT4), (&self.started, Type::TIMESTAMPTZ)];
        let asking = async {
            let rows = match client.query_typed(IS_WAITING, &arguments).await {
                // As in `of`.
                Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => return Ok(false),
                rows => rows?,
            };
            rows.first().map_or(Ok(false), |row| row.try_get(0))
        };
        match timeout(ANSWER_TIMEOUT, driven(driver, asking)).await {
            // The error belongs to the connection, as in `connect`.
            Ok(Err(CommitError::RolledBack(error))) => Err(CommitError::Unavailable(error.into())),
            Ok(asked) => asked,
            Err(_) => Err(CommitError::Unavailable(DatabaseError::NoAnswer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::log::error::Denied;
    use crate::log::testing::{nowhere, push};
    use crate::telemetry::refusals::Reason;

    fn committer() -> (mpsc::UnboundedSender<Push>, Committer) {
        let ((sender, pushes), database) = (mpsc::unbounded_channel(), nowhere());
        let waiting = Waiting { pushes, held: Arc::default(), is_behind: Arc::default() };
        (sender, Committer::new(database.clone(), Tails::new(database, Duration::ZERO, 0), waiting, None))
    }

    #[tokio::test]
    async fn a_group_is_bounded_and_a_late_one_that_leaves_others_says_so() {
        for (pushes, bytes, groups) in [(600, 1, [512, 88]), (3, 5 << 20, [2, 1])] {
            let (sender, mut committer) = committer();
            for after in 0..pushes {
                let push = push("s", after, bytes).0;
                sender.send(Push { queued: push.queued - 2 * QUEUE_TIME, ..push }).unwrap();
            }
            for (group, is_behind) in groups.into_iter().zip([true, false]) {
                assert_eq!(committer.next_group().await.unwrap().len(), group);
                assert_eq!(committer.waiting.is_behind.load(Ordering::Relaxed), is_behind);
            }
        }
    }

    /// Nobody could push any more.
    #[tokio::test]
    async fn a_queue_whose_last_pushes_wait_for_a_held_store_is_not_behind() {
        let (sender, mut committer) = committer();
        committer.waiting.held.hold(vec![push("held", 0, 1).0]);
        let pushes = (0..600).map(|after| push(if after < 512 { "s" } else { "held" }, after, 1).0);
        for push in pushes {
            sender.send(Push { queued: push.queued - 2 * QUEUE_TIME, ..push }).unwrap();
        }
        assert_eq!(committer.next_group().await.unwrap().len(), GROUP_PUSHES);
        assert!(committer.waiting.is_behind.load(Ordering::Relaxed));
        assert!(committer.next_group().now_or_never().is_none());
        assert!(!committer.waiting.is_behind.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn a_push_is_tried_again_if_that_may_help_and_so_is_what_builds_on_it() {
        let (mut committer, mut again) = (committer().1, Vec::new());
        let ahead = PushError::ServerAhead { minimum_expected_num: 0, provided_num: 1 };
        let pushes = [("s", 0), ("s", 1), ("other", 1), ("lost", 0)].map(|(store, after)| push(store, after, 1));
        let (group, answers): (Vec<_>, Vec<_>) = pushes.into_iter().unzip();
        let failed = |error| Err(Failed { error, lacks_something: false, is_elsewhere: false });
        let results = [PushError::Unavailable, ahead.clone(), ahead.clone()].map(failed).into_iter().enumerate();
        let in_any_order = results.map(|(push, result)| Outcome { push, result }).rev().collect();
        committer.session.settle(group, in_any_order, &mut again);
        let again: Vec<_> = again.iter().map(|push| (push.store.as_str(), push.batch.parent())).collect();
        assert_eq!(again, [("s", Some(0)), ("s", Some(1))]);
        let answers = futures_util::future::join_all(answers.into_iter().skip(2)).await;
        assert_eq!(answers, [Err(ahead), Err(PushError::Unavailable)]);
    }

    #[tokio::test]
    async fn a_push_to_a_store_that_is_elsewhere_is_sent_there_if_there_are_several_shards() {
        let mut committer = committer().1;
        let failed = Failed { error: PushError::Unavailable, lacks_something: false, is_elsewhere: true };
        let mut again = Vec::new();
        let (waiting, _answer) = push("s", 0, 1);
        committer.session.fail(waiting, failed.clone(), &mut again);
        assert_eq!(again.len(), 1, "as while the database is away");
        let (pushes, mut sent) = mpsc::unbounded_channel();
        committer.session.elsewhere = Some(Elsewhere { pushes, ended: Default::default() });
        committer.session.fail(again.pop().unwrap(), failed, &mut again);
        assert!(again.is_empty() && !sent.try_recv().unwrap().is_over());
        // Nothing is committed by a shard that is none any more, whether its database is there or not.
        committer.session.elsewhere.as_ref().unwrap().ended.cancel();
        let pushes = [push("s", 1, 1), push("s", 2, 1)];
        let (group, _answers): (Vec<_>, Vec<_>) = pushes.into_iter().unzip();
        assert!(committer.session.commit_until_answered(group, || {}).await.is_empty());
        let parents: Vec<_> = std::iter::from_fn(|| sent.try_recv().ok()).map(|push| push.batch.parent()).collect();
        assert_eq!(parents, [Some(1), Some(2)]);
    }

    #[tokio::test]
    async fn a_push_that_lacked_something_is_tried_once_more() {
        let mut committer = committer().1;
        let (push, answer) = push("s", 0, 1);
        let error = PushError::Rejected(Denied::new(Reason::Database, "SQLSTATE 42883"));
        let failed = Failed { error: error.clone(), lacks_something: true, is_elsewhere: false };
        let (mut first, mut second) = (Vec::new(), Vec::new());
        committer.session.fail(push, failed.clone(), &mut first);
        committer.session.fail(first.pop().unwrap(), failed, &mut second);
        assert!(second.is_empty());
        assert_eq!(answer.await, Err(error));
    }
}
