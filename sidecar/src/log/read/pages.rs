//! Pages that several clients read at the same time are read from Postgres once: a team starts at the same moment, after a deploy.
//!
//! - Whoever asks for a page that is being read shares that read, if it began after they asked: they get what they would have got by
//!   themselves.
//! - A page that others follow cannot change any more, except that events are rewritten or their log is reset. It is kept for a while,
//!   as long as the sidecar hears of such changes; with each of them, all pages are dropped.
//! - The last page of a log is kept, too, and is right as long as the head is the same. That is asked each time.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::{Mutex, RwLock};
use tokio::time::sleep;
use tracing::Instrument;

use super::page::{Page, pull, status};
use crate::log::store_id::StoreId;
use crate::postgres::{Database, DatabaseError};
use crate::telemetry::metrics;

/// A page that nobody has asked for in this time is dropped.
const IDLE: Duration = Duration::from_secs(60);

/// A last page of fewer events is read instead of asking whether it is still the last one.
const WORTH_ASKING: usize = 50;

/// The memory of an event besides its text, about.
const EVENT_BYTES: usize = 128;

/// A page by its store and the event that it follows.
type Key = (StoreId, i64);

/// The pages of all stores.
pub struct Pages {
    database: Database,
    kept: Cache<Key, Kept>,
    state: RwLock<State>,
    reads: Mutex<HashMap<Key, Read>>,
    /// Orders questions and reads.
    clock: AtomicU64,
}

#[derive(Default)]
struct State {
    /// Changes are heard of.
    is_listening: bool,
    /// How often pages were dropped: one that was read before is not kept.
    dropped: u64,
}

/// A page, and how often pages had been dropped before.
#[derive(Clone)]
struct Kept {
    page: Page,
    dropped: u64,
}

/// A page that is being read; `None` if that fails.
#[derive(Clone)]
struct Read {
    began: u64,
    page: Shared<BoxFuture<'static, Option<Page>>>,
}

impl Pages {
    /// Keeps so many bytes of pages at most.
    pub fn new(database: Database, bytes: usize) -> Arc<Self> {
        let weigh = |_: &Key, kept: &Kept| u32::try_from(size(&kept.page)).unwrap_or(u32::MAX);
        let kept = Cache::builder()
            .max_capacity(bytes as u64)
            .weigher(weigh)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(IDLE)
            .build();
        Arc::new(Self { database, kept, state: RwLock::default(), reads: Mutex::default(), clock: AtomicU64::new(0) })
    }

    /// Whether changes are heard of from now on. What was kept may have changed before.
    pub fn listen(&self, is_listening: bool) {
        self.state.write().is_listening = is_listening;
        self.drop_all();
    }

    /// Drops all pages: events were rewritten, or a log was reset.
    pub fn drop_all(&self) {
        let mut state = self.state.write();
        state.dropped += 1;
        self.kept.invalidate_all();
        self.kept.run_pending_tasks();
    }

    /// Gives the memory of pages back that nobody has asked for, for ever: the cache itself does so only while it is used.
    pub async fn tidy(self: Arc<Self>) {
        loop {
            sleep(IDLE / 2).await;
            self.kept.run_pending_tasks();
        }
    }

    /// Whether a page is kept that others follow.
    pub fn has(&self, store: &StoreId, after: i64) -> bool {
        self.kept(store, after).is_some_and(|page| page.remaining() > 0)
    }

    /// A page that is kept, if it is still one of the log. `life`: the backend id of the pages that its reader has; the first one asks
    /// for the log's.
    pub async fn known(&self, store: &StoreId, after: i64, life: Option<&str>) -> Option<Page> {
        let mut page = self.kept(store, after)?;
        let is_followed = page.remaining() > 0;
        if !(is_followed && life == Some(&*page.backend_id)) {
            let now = status(&self.database, store).await.ok()?;
            let is_as_it_was = if is_followed { now.head >= page.head } else { now.head == page.head };
            if now.backend_id != page.backend_id || !is_as_it_was {
                return None;
            }
            page.head = now.head;
        }
        metrics::page_read("cache");
        Some(page)
    }

    fn kept(&self, store: &StoreId, after: i64) -> Option<Page> {
        let Kept { page, dropped } = self.kept.get(&(store.clone(), after))?;
        (dropped == self.state.read().dropped).then_some(page)
    }

    /// Reads the page after `after`, of now or kept. `life`: as for [`Self::known`].
    pub async fn read(
        self: &Arc<Self>,
        store: &StoreId,
        after: i64,
        life: Option<&str>,
    ) -> Result<Page, DatabaseError> {
        let key = (store.clone(), after);
        let asked = self.clock.fetch_add(1, Ordering::Relaxed);
        loop {
            if let Some(page) = self.known(store, after, life).await {
                return Ok(page);
            }
            let Read { began, page } = self.join(&key);
            let page = page.await;
            if began < asked {
                // Others may have committed meanwhile. If the page cannot change, it is kept.
                continue;
            }
            return match page {
                Some(page) => Ok(page),
                // Everybody gets the error that they meet themselves.
                None => pull(&self.database, store, after).await,
            };
        }
    }

    /// The read of a page that is under way, or one that begins now.
    fn join(self: &Arc<Self>, key: &Key) -> Read {
        let mut reads = self.reads.lock();
        if let Some(read) = reads.get(key) {
            return read.clone();
        }
        let began = self.clock.fetch_add(1, Ordering::Relaxed);
        // A task of its own: no reader waits for another one that does not go on.
        let reading = tokio::spawn(Arc::clone(self).begin(key.clone()).in_current_span());
        let page = reading.map(|page| page.ok().flatten()).boxed().shared();
        let read = Read { began, page };
        reads.insert(key.clone(), read.clone());
        read
    }

    async fn begin(self: Arc<Self>, key: Key) -> Option<Page> {
        let dropped = self.state.read().dropped;
        let page = pull(&self.database, &key.0, key.1).await.ok();
        metrics::page_read("database");
        if let Some(page) = &page {
            self.keep(key.clone(), page, dropped);
        }
        self.reads.lock().remove(&key);
        page
    }

    fn keep(&self, key: Key, page: &Page, dropped: u64) {
        // Nothing may be dropped in between.
        let state = self.state.read();
        let is_worth_it = page.remaining() > 0 || page.events.len() >= WORTH_ASKING;
        if state.is_listening && state.dropped == dropped && is_worth_it {
            self.kept.insert(key, Kept { page: page.clone(), dropped });
        }
    }
}

/// The memory of a page, about.
fn size(page: &Page) -> usize {
    page.events.iter().map(|event| event.size() + EVENT_BYTES).sum()
}
