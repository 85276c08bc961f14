//! Pages that several clients read at the same time are read from Postgres once: a team starts at the same moment, after a deploy.
//!
//! - A reader of a page that is being read shares that read, if it began after the reader asked: it gets what it would have got alone.
//! - A page that others follow cannot change any more, except that events are rewritten or their log is reset. It is kept for a while,
//!   as long as the sidecar hears of such changes; with each of them, all pages are dropped.
//! - The last page of a log is kept, too, and is right as long as the head is the same. That is asked each time, as it is for the first
//!   page of a reader. If it is not, the log is one that others write to, and its last page is not kept.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use parking_lot::{Mutex, RwLock};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::claims::Claims;
use super::page::{Page, pull, pull_from_standby, status};
use super::texts::Texts;
use crate::log::error::PullError;
use crate::log::event::Event;
use crate::log::store_id::StoreId;
use crate::postgres::{Database, DatabaseError, Server};
use crate::telemetry::metrics;

/// A page that nobody has asked for in this time is dropped.
const IDLE: Duration = Duration::from_secs(60);

/// A last page of fewer events is read instead of asking whether it is still the last one.
const WORTH_ASKING: usize = 50;

/// The memory of an event besides its text, about; and of a page besides its events, with the id of its store.
const EVENT_BYTES: usize = 192;
const PAGE_OVERHEAD: usize = 1024;

// The event with the counters of its `Arc`, and the pointer to it.
const _: () = assert!(size_of::<Event>() + 3 * size_of::<usize>() <= EVENT_BYTES);

/// A page by its store and the event that it follows.
type Key = (StoreId, i64);

/// The pages of all stores.
pub struct Pages {
    database: Database,
    kept: Cache<Key, Kept>,
    texts: Arc<Texts>,
    state: RwLock<State>,
    reads: Mutex<HashMap<Key, Read>>,
    /// Orders questions and reads.
    clock: AtomicU64,
    claims: Claims,
}

#[derive(Default)]
struct State {
    /// The server that tells of changes, if one does.
    listening: Option<Option<Server>>,
    /// How often pages were dropped: one that was read before is not kept.
    dropped: u64,
}

/// A page, and how often pages had been dropped before.
#[derive(Clone)]
struct Kept {
    /// `None`: the last page of a log that others write to. To keep it costs a question each time, and helps nobody.
    page: Option<Page>,
    /// The read that it comes from.
    read: u64,
    dropped: u64,
}

impl Kept {
    fn is_followed(&self) -> bool {
        self.page.as_ref().is_some_and(|page| page.remaining() > 0)
    }
}

/// A page that is being read; `None` if that fails. The read ends when nobody waits for it any more.
type Reading = Shared<BoxFuture<'static, Option<(Page, Source)>>>;

struct Read {
    began: u64,
    page: WeakShared<BoxFuture<'static, Option<(Page, Source)>>>,
}

/// The server that a page was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Primary,
    /// Others follow the page there. Whether the log is still the same one, only the primary knows.
    Standby,
}

impl Pages {
    /// Keeps so many bytes at most: half of it are events, half of it texts that were made of them.
    pub fn new(database: Database, bytes: usize) -> Arc<Self> {
        let weigh = |_: &Key, kept: &Kept| u32::try_from(size(kept.page.as_ref())).unwrap_or(u32::MAX);
        let kept = Cache::builder()
            .max_capacity(bytes.div_ceil(2) as u64)
            .weigher(weigh)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(IDLE)
            .build();
        let texts = Arc::new(Texts::new(bytes / 2, IDLE));
        let (state, reads, clock) = Default::default();
        let claims = Claims::new(database.clone());
        Arc::new(Self { database, kept, texts, state, reads, clock, claims })
    }

    /// From now on, this server tells of changes, or none does. All pages are dropped: they may have changed before.
    pub fn listen_to(&self, server: Option<Option<Server>>) {
        self.drop_all();
        self.state.write().listening = server;
    }

    /// Drops all pages: events were rewritten, or a log was reset.
    pub fn drop_all(&self) {
        // First: no read that begins after this may take what a standby had before.
        self.database.ask_standbys_anew();
        self.state.write().dropped += 1;
        self.kept.invalidate_all();
        self.kept.run_pending_tasks();
        self.texts.drop_all();
    }

    /// Gives back the memory of idle pages, without end: the cache itself does so only while it is used.
    pub async fn tidy(self: Arc<Self>) {
        loop {
            sleep(IDLE / 2).await;
            self.kept.run_pending_tasks();
            self.texts.tidy();
        }
    }

    /// Whether a page that is read now would be kept.
    pub fn keeps(&self) -> bool {
        self.kept.policy().max_capacity() != Some(0) && self.hears()
    }

    /// Whether changes are heard of.
    pub fn hears(&self) -> bool {
        self.state.read().listening.is_some_and(|server| self.database.is_current(server))
    }

    /// Whether a page is kept that others follow.
    pub fn has(&self, store: &StoreId, after: i64) -> bool {
        self.kept.get(&(store.clone(), after)).is_some_and(|kept| self.is_good(&kept) && kept.is_followed())
    }

    fn is_good(&self, kept: &Kept) -> bool {
        let state = self.state.read();
        kept.dropped == state.dropped && state.listening.is_some_and(|server| self.database.is_current(server))
    }

    /// A page that is kept, if it is still one of the log. `life`: the backend id of the pages that its reader has; the first one asks
    /// for the log's.
    async fn known(&self, key: &Key, life: Option<&str>) -> Option<Page> {
        let kept = self.kept.get(key).filter(|kept| self.is_good(kept))?;
        let Some(page) = self.confirm(&key.0, kept.page.clone()?, life).await.ok()? else {
            self.kept.insert(key.clone(), Kept { page: None, ..kept });
            return None;
        };
        // Asking may have taken long.
        if !self.is_good(&kept) {
            return None;
        }
        metrics::page_read("cache");
        Some(self.shared(page, kept.read))
    }

    /// A page that was read before or elsewhere, if the log has it. One that others follow is not asked about if its reader is in the same
    /// life of the log.
    async fn confirm(&self, store: &StoreId, page: Page, life: Option<&str>) -> Result<Option<Page>, DatabaseError> {
        let is_followed = page.remaining() > 0;
        if is_followed && life == Some(&*page.backend_id) {
            return Ok(Some(page));
        }
        let now = status(&self.database, store).await?;
        let is_as_it_was = if is_followed { now.head >= page.head } else { now.head == page.head };
        Ok((now.backend_id == page.backend_id && is_as_it_was).then_some(Page { head: now.head, ..page }))
    }

    /// Waits until the log has what a client has seen, if it may still come: see [`Claims::catch_up`].
    pub async fn catch_up(
        &self,
        store: &StoreId,
        after: i64,
        backend_id: Option<&str>,
    ) -> Result<Result<(), PullError>, DatabaseError> {
        self.claims.catch_up(store, after, backend_id).await
    }

    /// Reads the page after `after`, of now or kept. `life`: the backend id of the pages that the reader has; `None` for its first one.
    /// The caller has reserved the memory for it.
    pub async fn read(
        self: &Arc<Self>,
        store: &StoreId,
        after: i64,
        life: Option<&str>,
    ) -> Result<Page, DatabaseError> {
        let key = (store.clone(), after);
        let asked = self.clock.fetch_add(1, Ordering::Relaxed);
        loop {
            if let Some(page) = self.known(&key, life).await {
                return Ok(page);
            }
            let (began, reading, is_shared) = self.join(&key);
            match reading.await {
                // Others may have committed meanwhile. If the page cannot change, it is kept.
                Some(_) if began < asked => {}
                Some((page, source)) => {
                    let page = match source {
                        Source::Primary => Some(page),
                        Source::Standby => self.confirm(store, page, life).await?,
                    };
                    match page {
                        Some(page) if is_shared => return Ok(self.shared(page, began)),
                        Some(page) => return Ok(page),
                        None => return pull(&self.database, store, after).await,
                    }
                }
                // Everybody gets the error that they meet themselves.
                None => return pull(&self.database, store, after).await,
            }
        }
    }

    /// The same page for one of several readers.
    fn shared(&self, page: Page, read: u64) -> Page {
        Page { events: page.events.with_texts(self.texts.of(read)), ..page }
    }

    /// The read of a page that is under way, which others asked for, or one that begins now.
    fn join(self: &Arc<Self>, key: &Key) -> (u64, Reading, bool) {
        let mut reads = self.reads.lock();
        if let Some(read) = reads.get(key)
            && let Some(reading) = read.page.upgrade()
        {
            return (read.began, reading, true);
        }
        let began = self.clock.fetch_add(1, Ordering::Relaxed);
        let done = Done { pages: Arc::downgrade(self), key: key.clone(), began };
        let this = Arc::clone(self);
        // A task of its own: no reader waits for another one that does not go on.
        let task = async move { this.begin(&done).await };
        let task = AbortOnDropHandle::new(tokio::spawn(task.in_current_span()));
        let reading = task.map(|page| page.ok().flatten()).boxed().shared();
        if let Some(page) = reading.downgrade() {
            reads.insert(key.clone(), Read { began, page });
        }
        (began, reading, false)
    }

    async fn begin(&self, read: &Done) -> Option<(Page, Source)> {
        let (store, after) = &read.key;
        let dropped = self.state.read().dropped;
        // The cache is told of changes that a standby may not have yet.
        let from_standby = if self.hears() { pull_from_standby(&self.database, store, *after).await } else { None };
        let (page, source) = match from_standby {
            // Events may have been rewritten meanwhile.
            Some(page) if self.state.read().dropped == dropped => (page, Source::Standby),
            _ => (pull(&self.database, store, *after).await.ok()?, Source::Primary),
        };
        metrics::page_read(if source == Source::Standby { "standby" } else { "database" });
        let kept = Kept { page: Some(page.clone()), read: read.began, dropped };
        let is_worth_it = kept.is_followed()
            || (page.events.len() >= WORTH_ASKING
                && self.kept.get(&read.key).is_none_or(|before| before.page.is_some() || !self.is_good(&before)));
        if is_worth_it && self.is_good(&kept) {
            self.kept.insert(read.key.clone(), kept);
            // Otherwise it evicts now and then, and holds dozens of pages more until then.
            self.kept.run_pending_tasks();
        }
        Some((page, source))
    }
}

/// Removes a read when it is done, in whatever way.
struct Done {
    pages: Weak<Pages>,
    key: Key,
    began: u64,
}

impl Drop for Done {
    fn drop(&mut self) {
        let Some(pages) = self.pages.upgrade() else { return };
        let mut reads = pages.reads.lock();
        if reads.get(&self.key).is_some_and(|read| read.began == self.began) {
            reads.remove(&self.key);
        }
    }
}

/// The memory of a page, about.
fn size(page: Option<&Page>) -> usize {
    PAGE_OVERHEAD
        + page.into_iter().flat_map(|page| &*page.events).map(|event| event.held() + EVENT_BYTES).sum::<usize>()
}
