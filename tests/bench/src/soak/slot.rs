//! One store after another, each with a writer, live readers and visitors, until its time has come.
//!
//! Stores end so that the data stays small, and so that a sidecar sees what it sees in a year: logs that are reset under the same
//! name, and names that it never hears of again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use livestore_tests::rpc::Rpc;
use rand::Rng;
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_postgres::Client;

use super::books::Books;
use super::follower::Follower;
use super::visitor::Visitor;
use crate::systems::Ours;
use crate::wire::live::Dialect;
use crate::wire::s2::Api;
use crate::wire::writer::{Target, Writer};

/// The life of a store, in seconds.
const LIFE: std::ops::Range<u64> = 20..60;

/// The time that its clients may take to end once it has ended.
const PATIENCE: Duration = Duration::from_secs(60);

/// A writer opens a new connection after this time: it never pulls over its WebSocket, and the sidecar closes connections that
/// neither push nor pull for long.
const CONNECTION: Duration = Duration::from_secs(5);

/// One push in so many has ten events.
const SELDOM: u32 = 10;

/// The state that all slots share.
pub struct Shared {
    pub ours: Ours,
    pub admin: Client,
    pub books: Books,
}

/// A place for a store.
pub struct Slot {
    number: u64,
    shared: Arc<Shared>,
    /// Between two pushes.
    period: Duration,
    stop: watch::Receiver<bool>,
    dice: ChaCha8Rng,
}

impl Slot {
    pub fn new(number: u64, shared: Arc<Shared>, period: Duration, stop: watch::Receiver<bool>) -> Self {
        Self { number, shared, period, stop, dice: ChaCha8Rng::seed_from_u64(number) }
    }

    /// Until the load stops.
    pub async fn run(mut self) {
        // Not all in the same moment.
        sleep(Duration::from_millis(self.dice.random_range(0..5_000))).await;
        let mut generation = 0;
        while !*self.stop.borrow() {
            // No hyphen: it would have to be quoted in the name of a shape's table.
            let store = format!("soak_{}_{generation}", self.number);
            self.shared.books.count(|tally| tally.stores += 1);
            if self.live(&store).await == 0 {
                // It was never created.
                continue;
            }
            let is_kept = self.dice.random_bool(0.5);
            generation += u64::from(!is_kept);
            let ended = if is_kept { self.reset(&store).await } else { self.drop_store(&store).await };
            if let Err(error) = ended {
                self.shared.books.mistake(format!("{store}: its end: {error}"));
            }
        }
    }

    async fn drop_store(&self, store: &str) -> Result<(), tokio_postgres::Error> {
        self.shared.admin.execute("select livestore.drop_store($1)", &[&store]).await.map(drop)
    }

    /// Empties a store, and waits until the sidecar has heard of it. A client that reads before that gets the end of the old log
    /// and is then told to begin anew, which is right, but is not tested here.
    async fn reset(&self, store: &str) -> Result<(), tokio_postgres::Error> {
        let row = self.shared.admin.query_one("select livestore.reset_store($1)", &[&store]).await?;
        let backend_id: String = row.get(0);
        let is_heard = async {
            loop {
                let mut rpc = Rpc::open(&self.shared.ours.sidecar.url(), store).await;
                rpc.pull(json!("live"), store, true).await;
                if rpc.frame().await["values"][0]["backendId"] == *backend_id {
                    return;
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        if timeout(PATIENCE, is_heard).await.is_err() {
            self.shared.books.mistake(format!("{store}: not known to be reset within {PATIENCE:?}"));
        }
        Ok(())
    }

    /// The life of a store, from its first event until all of its clients have seen the last.
    /// Returns where its log ended.
    async fn live(&mut self, store: &str) -> u64 {
        let (end, ended) = watch::channel(None);
        let head = Arc::new(AtomicU64::new(0));
        let mut clients = JoinSet::new();
        for dialect in Dialect::ALL {
            let follower = Follower::new(dialect, store, Arc::clone(&self.shared), self.dice.random());
            clients.spawn(follower.run(ended.clone()));
        }
        let visitor = Visitor::new(store, Arc::clone(&self.shared), Arc::clone(&head), self.dice.random());
        clients.spawn(visitor.run(ended));
        clients.spawn(self.writer(store).run(Arc::clone(&head), end));

        let all = async {
            while let Some(client) = clients.join_next().await {
                if let Err(error) = client {
                    // A client that is ended because another one has failed has made no mistake.
                    if error.is_panic() {
                        self.shared.books.mistake(format!("{store}: {}", reason(error)));
                    }
                    // Without a writer, no reader would know when to end.
                    clients.abort_all();
                }
            }
        };
        let most = Duration::from_secs(LIFE.end) + PATIENCE;
        if timeout(most, all).await.is_err() {
            let late = clients.len();
            clients.shutdown().await;
            self.shared
                .books
                .mistake(format!("{store}: {late} clients did not see its last event within {PATIENCE:?}"));
        }
        head.load(Ordering::Relaxed)
    }

    fn writer(&mut self, store: &str) -> WriterOfStore {
        let sidecar = &self.shared.ours.sidecar;
        let targets =
            [Target::Rpc(sidecar.url()), Target::S2(Api::LiveStore, sidecar.port()), Target::Electric(sidecar.port())];
        WriterOfStore {
            store: store.into(),
            target: targets.choose(&mut self.dice).expect("three").clone(),
            life: Duration::from_secs(self.dice.random_range(LIFE)),
            period: self.period,
            shared: Arc::clone(&self.shared),
            stop: self.stop.clone(),
            dice: ChaCha8Rng::seed_from_u64(self.dice.random()),
        }
    }
}

/// The only one that appends to a store, so that it knows where its log ends.
struct WriterOfStore {
    store: String,
    target: Target,
    life: Duration,
    period: Duration,
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
    dice: ChaCha8Rng,
}

impl WriterOfStore {
    /// Publishes the head of the log after each push, and at the end that it is the end.
    async fn run(mut self, head: Arc<AtomicU64>, end: watch::Sender<Option<u64>>) {
        let start = Instant::now();
        let mut ticks = interval(self.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut writer, mut opened) = (Writer::open(&self.target, &self.store, 0).await, start);
        let mut written = 0;
        while start.elapsed() < self.life && !*self.stop.borrow() {
            ticks.tick().await;
            if opened.elapsed() > CONNECTION {
                (writer, opened) = (Writer::open(&self.target, &self.store, written).await, Instant::now());
            }
            let events = if self.dice.random_ratio(1, SELDOM) { 10 } else { 1 };
            let sent = Instant::now();
            writer.push(events).await;
            self.shared.books.pushed(events, sent.elapsed());
            written += events;
            head.store(written, Ordering::Relaxed);
        }
        end.send_replace(Some(written));
    }
}

/// The message of a client that panicked.
pub fn reason(error: JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "was ended".into() };
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast::<&str>().map_or_else(|_| "a panic".into(), |text| (*text).into()),
    }
}
