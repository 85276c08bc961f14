//! The stores of a run, and their resets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{Client, Transaction};

use crate::history::{Entry, Epoch, EventId, Recorder};
use crate::system::{Shards, System};

/// A few that many write to, and many that few write to.
pub struct Stores {
    pub contended: Vec<Arc<Store>>,
    pub quiet: Vec<Arc<Store>>,
    /// Those that no client writes to.
    pub others: Vec<Arc<Store>>,
    recorder: Recorder,
}

pub struct Store {
    pub name: String,
    /// Clients that cannot tell one life of a log from the next are kept away while it is reset, as an operator would have to.
    is_closed_to_blind: AtomicBool,
    blind: AtomicUsize,
}

/// The time that clients may take to leave a store. They do at their next tick.
const LEAVING: Duration = Duration::from_secs(60);

impl Store {
    fn new(name: String) -> Self {
        Self { name, is_closed_to_blind: AtomicBool::new(false), blind: AtomicUsize::new(0) }
    }

    pub fn is_closed_to_blind(&self) -> bool {
        self.is_closed_to_blind.load(Ordering::SeqCst)
    }

    pub fn blind_comes(&self) {
        self.blind.fetch_add(1, Ordering::SeqCst);
    }

    pub fn blind_leaves(&self) {
        self.blind.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Stores {
    pub fn new(contended: usize, quiet: usize, others: impl Iterator<Item = String>, recorder: Recorder) -> Self {
        let named = |kind: &str, count| (0..count).map(|n| Arc::new(Store::new(format!("{kind}-{n}")))).collect();
        let others = others.map(|name| Arc::new(Store::new(name))).collect();
        Self { contended: named("contended", contended), quiet: named("quiet", quiet), others, recorder }
    }

    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Those of clients.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Store>> {
        self.contended.iter().chain(&self.quiet)
    }

    /// Those of clients, and the others.
    pub fn everything(&self) -> impl Iterator<Item = &Arc<Store>> {
        self.all().chain(&self.others)
    }

    /// Gives tables of their own to some stores: of those that move, both kinds do. Only applications in SQL use them otherwise.
    pub async fn give_tables(&self, shards: &Shards) {
        let front = shards.connect_to_front().await;
        for store in [self.contended.last(), self.quiet.last(), self.others.first()].into_iter().flatten() {
            let create = "select livestore.create_store($1, true)";
            front.execute(create, &[&store.name]).await.expect("a store with its own table");
        }
    }

    /// Resets a contended store, and keeps its log as it was in that moment.
    pub async fn reset(&self, system: &System, store: usize) {
        let store = &self.contended[store];
        store.is_closed_to_blind.store(true, Ordering::SeqCst);
        let start = Instant::now();
        while store.blind.load(Ordering::SeqCst) > 0 {
            // One that is still there would go on in the next log, which no sidecar can prevent.
            assert!(start.elapsed() < LEAVING, "clients that cannot tell a reset do not leave {}", store.name);
            sleep(Duration::from_millis(20)).await;
        }
        let began = self.recorder.epoch_start(&store.name);
        let asked = self.recorder.now();
        let mut seen = None;
        loop {
            let mut admin = system.connect_for(&store.name).await;
            match reset(&mut admin, &store.name, &mut seen).await {
                Ok(log) => {
                    // Of a store that nobody has pushed to there is nothing to reset.
                    if let Some(log) = log {
                        let reset = Some((asked, self.recorder.now()));
                        self.recorder.epoch(&store.name, Epoch { start: began, reset, log });
                    }
                    break;
                }
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        }
        store.is_closed_to_blind.store(false, Ordering::SeqCst);
    }

    /// Erases what some events of a contended store say. `is_calm`: all faults are over.
    pub async fn erase(&self, system: &System, store: usize, is_calm: bool) {
        let store = &self.contended[store];
        loop {
            let mut admin = system.connect_for(&store.name).await;
            match timeout(Duration::from_secs(10), erase(&mut admin, &store.name)).await {
                Ok(Ok(events)) => return self.recorder.erased(&store.name, events, is_calm),
                // Postgres would refuse it for ever.
                Ok(Err(error)) if error.code().is_some_and(|code| code.code().starts_with("42")) => panic!("{error:?}"),
                _ => sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// Takes down the logs that live at the end of the run.
    pub async fn record_logs(&self, system: &System) {
        for store in self.everything() {
            // The one that has the store, and then the others, where nothing of it may be left.
            let here = system.database_of(&store.name).await;
            let mut entries = Vec::new();
            for number in std::iter::once(here).chain(system.databases().filter(|number| *number != here)) {
                let admin = system.connect(number).await;
                entries.extend(log(&admin, &store.name).await.expect("the log of a store"));
            }
            let start = self.recorder.epoch_start(&store.name);
            self.recorder.epoch(&store.name, Epoch { start, reset: None, log: entries });
            self.recorder.followed_by(&store.name, &["follower 0", "follower 1", "handler", "webhook", "workers"]);
        }
    }

    /// The number of the last event of each store, in their order.
    pub async fn heads(&self, system: &System) -> Vec<i64> {
        let mut admins = Vec::new();
        for number in system.databases() {
            admins.push(system.connect(number).await);
        }
        let mut heads = Vec::new();
        for store in self.all() {
            let admin = &admins[system.database_of(&store.name).await];
            let head = admin.query_one("select coalesce(livestore.head($1), 0)", &[&store.name]).await;
            // None is -1: nobody is there.
            heads.push(head.map_or(-1, |row| row.get(0)));
        }
        heads
    }
}

/// In one transaction, so that no event comes between the log that is taken down and the reset. `seen` is the log that an attempt
/// before this one read, whose commit may have happened though nobody said so.
async fn reset(
    admin: &mut Client,
    store: &str,
    seen: &mut Option<(String, Vec<Entry>)>,
) -> Result<Option<Vec<Entry>>, tokio_postgres::Error> {
    let transaction = admin.transaction().await?;
    let id = "select backend_id from livestore.stores where store_id = $1 for update";
    let Some(row) = transaction.query_opt(id, &[&store]).await? else {
        check_shard(&transaction, store).await?;
        return Ok(None);
    };
    let id: String = row.get(0);
    if let Some((_, log)) = seen.take_if(|(before, _)| *before != id) {
        return Ok(Some(log));
    }
    let log = log(transaction.client(), store).await?;
    *seen = Some((id, log.clone()));
    transaction.execute("select livestore.reset_store($1)", &[&store]).await?;
    transaction.commit().await?;
    Ok(Some(log))
}

/// Of a store that has gone over to another shard since it was looked for, nothing is here: that is an error.
async fn check_shard(transaction: &Transaction<'_>, store: &str) -> Result<(), tokio_postgres::Error> {
    transaction.execute("select livestore._check_shard($1)", &[&store]).await.map(|_| ())
}

/// They stay the events of their clients, by which the checker knows them.
async fn erase(admin: &mut Client, store: &str) -> Result<Vec<EventId>, tokio_postgres::Error> {
    let erase = "
        with chosen as materialized (
            select e.seq_num, (e.args->>'client')::bigint as client, (e.args->>'n')::bigint as n
            from livestore.events e where e.store_id = $1 and e.args->>'erased' is null order by random() limit 20
        )
        select client, n, livestore.erase(
            $1, array[seq_num], json_build_object('client', client, 'n', n, 'erased', true), 'a person asked for it'
        ) from chosen";
    let number = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
    let event = |row: &tokio_postgres::Row| EventId { client: number(row.get(0)), n: number(row.get(1)) };
    let transaction = admin.transaction().await?;
    let erased: Vec<_> = transaction.query(erase, &[&store]).await?.iter().map(event).collect();
    if erased.is_empty() {
        check_shard(&transaction, store).await?;
    }
    transaction.commit().await?;
    Ok(erased)
}

async fn log(admin: &Client, store: &str) -> Result<Vec<Entry>, tokio_postgres::Error> {
    let rows = "select seq_num, parent_seq_num, (args->>'client')::bigint, (args->>'n')::bigint
                from livestore.events where store_id = $1 order by seq_num";
    let number = |value: i64| u32::try_from(value).unwrap_or(u32::MAX);
    let entry = |row: &tokio_postgres::Row| Entry {
        seq_num: row.get(0),
        parent_seq_num: row.get(1),
        event: EventId { client: number(row.get(2)), n: number(row.get(3)) },
    };
    Ok(admin.query(rows, &[&store]).await?.iter().map(entry).collect())
}
