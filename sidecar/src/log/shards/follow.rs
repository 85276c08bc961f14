//! Follows the map of the front database: starts and ends shards, and sends pushes on to where their stores are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::error::SqlState;
use tracing::{error, info, warn};

use super::Shards;
use super::map::{self, Listed, ShardMap};
use super::shard::{Common, Shard};
use crate::log::error::PushError;
use crate::log::store_id::StoreId;
use crate::log::write::push::Push;
use crate::postgres::{Backoff, Database, DatabaseError, DatabaseSettings};
use crate::telemetry::chain;

/// The interval at which the map is read.
const INTERVAL: Duration = Duration::from_secs(1);

/// The shortest pause before it is read because a store was refused.
const REST: Duration = Duration::from_millis(50);

/// The time for which somebody waits for the map. While the front database is away, the map of before counts.
const PATIENCE: Duration = Duration::from_secs(2);

/// The time in which a shard that is none any more gives away the pushes that wait for it.
const FAREWELL: Duration = Duration::from_secs(15);

/// The front database, and what is known of the shards.
pub struct Front {
    database: Database,
    known: watch::Sender<Arc<Known>>,
    /// Somebody wants the map to be read now.
    wanted: Notify,
    /// How often it was begun to be read.
    begun: AtomicU64,
    /// The last of these that has ended, whether it brought a map or not.
    ended: watch::Sender<u64>,
}

/// The shards at a moment.
pub struct Known {
    /// `None`: not known yet. The only shard is the front database then, which has no stores.
    map: Option<ShardMap>,
    /// As in the map.
    pub shards: Vec<Arc<Shard>>,
}

impl Known {
    pub fn of(&self, store: &StoreId) -> &Arc<Shard> {
        &self.shards[self.map.as_ref().map_or(0, |map| map.of(store.as_str()))]
    }

    pub fn first(&self) -> &Arc<Shard> {
        &self.shards[0]
    }

    pub fn has_map(&self) -> bool {
        self.map.is_some()
    }
}

impl Front {
    /// `nowhere` stands for all shards until there is a map.
    pub fn new(database: Database, nowhere: Arc<Shard>) -> Self {
        let known = watch::Sender::new(Arc::new(Known { map: None, shards: vec![nowhere] }));
        Self { database, known, wanted: Notify::new(), begun: AtomicU64::new(0), ended: watch::Sender::new(0) }
    }

    pub fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.borrow())
    }

    pub fn subscribe(&self) -> watch::Receiver<Arc<Known>> {
        self.known.subscribe()
    }

    /// Waits until there is a map. While there is none, the log says why.
    pub async fn has_map(&self) {
        // The sender is ours, so this waits.
        let _ = self.subscribe().wait_for(|known| known.map.is_some()).await;
    }

    /// Waits until the map was read once more, or cannot be.
    pub async fn look_anew(&self) {
        let before = self.begun.load(Ordering::SeqCst);
        let mut ended = self.ended.subscribe();
        self.wanted.notify_one();
        // The map of before counts.
        let _ = timeout(PATIENCE, ended.wait_for(|ended| *ended > before)).await;
    }

    /// Waits for the first map.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn find(&self) -> Result<(), DatabaseError> {
        if self.known.borrow().map.is_some() {
            return Ok(());
        }
        read(&self.database).await?;
        self.look_anew().await;
        if self.known.borrow().map.is_some() { Ok(()) } else { Err(DatabaseError::NoAnswer) }
    }
}

/// The shards that a front database lists.
///
/// # Errors
/// There is no map, or it cannot be used.
pub async fn shards_of(
    front: &Database,
    settings: &DatabaseSettings,
) -> Result<Vec<(Arc<str>, Database)>, DatabaseError> {
    let map = read(front).await?;
    let database =
        |shard: &Listed| Ok((Arc::clone(&shard.name), settings.shard(Arc::clone(&shard.name), &shard.connection)?));
    map.shards().iter().map(database).collect()
}

async fn read(front: &Database) -> Result<ShardMap, DatabaseError> {
    let client = front.client().await?;
    let asked = async { client.query_one(&client.prepare_cached(map::READ).await?, &[]).await };
    match client.read_in_time(asked).await? {
        Err(error) if error.code().is_some_and(is_no_front) => Err(DatabaseError::NotAFront),
        row => ShardMap::read(&row?),
    }
}

fn is_no_front(code: &SqlState) -> bool {
    let codes = [SqlState::UNDEFINED_FUNCTION, SqlState::INVALID_SCHEMA_NAME, SqlState::INSUFFICIENT_PRIVILEGE];
    codes.contains(code)
}

/// Reads the map again and again. Never ends.
pub async fn run(
    shards: Arc<Shards>,
    settings: DatabaseSettings,
    common: Common,
    elsewhere: mpsc::UnboundedSender<Push>,
) {
    let Shards::Several(front) = &*shards else { return };
    let mut running = Running { settings, common, elsewhere, tasks: Vec::new() };
    // The last warning, to give it once.
    let mut said = None;
    loop {
        let begun = front.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let read = read(&front.database).await.and_then(|map| running.change(front, map));
        match read {
            Ok(()) if said.take().is_some() => info!("the map of the shards is read again"),
            Ok(()) => {}
            Err(error) => {
                let error = chain(&error).to_string();
                if said.as_ref() != Some(&error) {
                    warn!(error, "cannot read the map of the shards: the one of before counts");
                    said = Some(error);
                }
            }
        }
        front.ended.send_replace(begun);
        if running.has_failed() {
            return;
        }
        sleep(REST).await;
        let _ = timeout(INTERVAL, front.wanted.notified()).await;
    }
}

/// The shards that run.
struct Running {
    settings: DatabaseSettings,
    common: Common,
    elsewhere: mpsc::UnboundedSender<Push>,
    tasks: Vec<(Arc<Shard>, JoinSet<()>)>,
}

impl Running {
    /// Starts the shards of a new map that are not running, and ends those that it does not have.
    fn change(&mut self, front: &Front, map: ShardMap) -> Result<(), DatabaseError> {
        let before = front.known();
        if before.map.as_ref() == Some(&map) {
            return Ok(());
        }
        let mut new = Vec::new();
        for listed in map.shards() {
            if self.find(listed).is_none() {
                new.push((listed, self.settings.shard(Arc::clone(&listed.name), &listed.connection)?));
            }
        }
        for (listed, database) in new {
            info!(shard = &*listed.name, number = listed.number, "serving a shard");
            let mut tasks = JoinSet::new();
            let mut common = self.common.clone();
            common.settings.page_cache_bytes /= map.shards().len();
            let (shard, waiting) = Shard::new(database, Some(listed.clone()), &common);
            shard.start(waiting, common, Some(self.elsewhere.clone()), &mut tasks);
            self.tasks.push((shard, tasks));
        }
        let shards: Vec<_> = map.shards().iter().filter_map(|listed| self.find(listed)).cloned().collect();
        let known = Arc::new(Known { map: Some(map), shards });
        front.known.send_replace(Arc::clone(&known));
        for shard in &before.shards {
            shard.tails.leave(|store| !Arc::ptr_eq(known.of(store), shard));
        }
        let is_over = |(shard, _): &mut (Arc<Shard>, _)| !known.shards.iter().any(|other| Arc::ptr_eq(other, shard));
        for (shard, tasks) in self.tasks.extract_if(.., is_over) {
            info!(shard = shard.database.label(), "a shard is served no more");
            shard.gauges().forget();
            shard.ended.cancel();
            tokio::spawn(async move {
                sleep(FAREWELL).await;
                drop(tasks);
            });
        }
        Ok(())
    }

    fn find(&self, listed: &Listed) -> Option<&Arc<Shard>> {
        self.tasks.iter().map(|(shard, _)| shard).find(|shard| shard.listed.as_ref() == Some(listed))
    }

    /// Whether a task has ended that never ends.
    fn has_failed(&mut self) -> bool {
        let failed = self.tasks.iter_mut().find_map(|(shard, tasks)| tasks.try_join_next().map(|_| shard));
        if let Some(shard) = failed {
            error!(shard = shard.database.label(), "a task of a shard has ended");
            return true;
        }
        false
    }
}

/// Sends on the pushes that came before there was a map, once there is one. Never ends.
pub async fn send_on(
    shards: Arc<Shards>,
    mut waiting: mpsc::UnboundedReceiver<Push>,
    elsewhere: mpsc::UnboundedSender<Push>,
) {
    if let Shards::Several(front) = &*shards {
        front.has_map().await;
    }
    while let Some(push) = waiting.recv().await {
        let _ = elsewhere.send(push);
    }
    std::future::pending().await
}

/// Sends pushes that were refused by a shard, or could not be sent, to where their stores are: those of a store in order. Never ends.
pub async fn send_anew(shards: Arc<Shards>, mut pushes: mpsc::UnboundedReceiver<Push>) {
    let Shards::Several(front) = &*shards else { return };
    let first_backoff = || Backoff::new(REST, INTERVAL);
    let (mut backoff, mut before, mut last) = (first_backoff(), front.known(), Instant::now());
    let mut group = Vec::new();
    while pushes.recv_many(&mut group, usize::MAX).await > 0 {
        front.look_anew().await;
        let known = front.known();
        if !Arc::ptr_eq(&known, &before) || last.elapsed() > 2 * INTERVAL {
            (backoff, before) = (first_backoff(), Arc::clone(&known));
        }
        for push in group.drain(..) {
            if push.is_over() {
                push.answer(Err(PushError::Unavailable));
            } else {
                known.of(&push.store).commits.send(push);
            }
        }
        // If the map is wrong, they come back at once.
        backoff.sleep().await;
        last = Instant::now();
    }
}
