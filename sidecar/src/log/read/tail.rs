//! Live tails: for each store that somebody follows, where its log stands and the latest events.
//!
//! A tail is a hint and a cache. What a subscriber has seen is a number that the subscriber keeps; it takes the events
//! that follow that number from the tail if the tail still holds them, and from Postgres if not. So an event is
//! delivered once and in order whatever happens to the tail, and a slow subscriber costs no memory.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, warn};

use super::contention::Contention;
use super::page::{PAGE_BYTES, PAGE_EVENTS, Page, pull, status};
use super::prefetch::Ahead;
use super::store_digest::StoreDigest;
use super::subscription::Subscription;
use crate::budget::Account;
use crate::log::event::Event;
use crate::log::store_id::StoreId;
use crate::postgres::{Backoff, Database, DatabaseError, Retry, Unreadable, retry_until_available};

/// The most that a tail holds. Whoever is further behind reads from Postgres.
const TAIL_EVENTS: usize = 512;
const TAIL_BYTES: usize = 512 << 10;

/// How long a tail is kept for clients that poll: longer than they take to come back.
const LINGER: Duration = Duration::from_secs(30);

/// The tails of all stores that have subscribers.
pub struct Tails {
    database: Database,
    tails: Mutex<Followed>,
    /// The mark of notifications that are not news: what they announce is [`Tails::publish`]ed after the commit.
    own_source: Mutex<Option<Arc<str>>>,
    /// For how long events of a contended store are held back.
    contention_window: Duration,
}

/// The tails by the ids of their stores, and by what stands for those in notifications.
#[derive(Default)]
struct Followed {
    tails: HashMap<StoreId, Weak<Tail>>,
    /// What digests are made with, once Postgres has told it.
    key: Option<Box<str>>,
    digests: HashMap<StoreDigest, StoreId>,
}

impl Followed {
    fn insert(&mut self, store: &StoreId, tail: Weak<Tail>) {
        if let Some(key) = &self.key {
            self.digests.insert(StoreDigest::new(key, store), store.clone());
        }
        self.tails.insert(store.clone(), tail);
    }

    fn remove(&mut self, store: &StoreId) {
        if let Some(key) = &self.key {
            self.digests.remove(&StoreDigest::new(key, store));
        }
        self.tails.remove(store);
    }

    /// Returns whether it is another one than before.
    fn set_key(&mut self, key: &str) -> bool {
        if self.key.as_deref() == Some(key) {
            return false;
        }
        self.digests = self.tails.keys().map(|store| (StoreDigest::new(key, store), store.clone())).collect();
        self.key = Some(key.into());
        true
    }
}

impl Tails {
    /// Events of a contended store are held back for `contention_window` and delivered together; zero: never.
    pub fn new(database: Database, contention_window: Duration) -> Arc<Self> {
        Arc::new(Self { database, tails: Mutex::default(), own_source: Mutex::default(), contention_window })
    }

    /// From now on, only notifications with this mark are passed over.
    pub fn own(&self, source: Option<Arc<str>>) {
        *self.own_source.lock() = source;
    }

    pub fn is_own(&self, source: &str) -> bool {
        self.own_source.lock().as_deref() == Some(source)
    }

    /// Events that were just committed, in order.
    pub fn publish(&self, store: &StoreId, backend_id: &str, events: Vec<Arc<Event>>) {
        if let Some(tail) = self.get(store) {
            tail.publish(backend_id, events);
        }
    }

    /// From now on, digests are made with this. Returns whether it is another key than before.
    pub fn set_key(&self, key: &str) -> bool {
        self.tails.lock().set_key(key)
    }

    /// The log of a store is said to stand here; `None`: it is another log now.
    pub fn hear(&self, digest: &StoreDigest, head: Option<i64>) {
        let store = self.tails.lock().digests.get(digest).cloned();
        match (store, head) {
            (Some(store), Some(head)) => self.hint(&store, head),
            (Some(store), None) => self.refresh(&store),
            (None, _) => {}
        }
    }

    /// The head of a store is said to be this.
    pub fn hint(&self, store: &StoreId, head: i64) {
        if let Some(tail) = self.get(store) {
            tail.compare(head, None);
        }
    }

    /// A push to a store was refused, since another one was first: the head is this.
    pub fn refused(&self, store: &StoreId, head: i64) {
        if let Some(tail) = self.get(store) {
            tail.state.lock().contention.refused(Instant::now(), self.contention_window);
            tail.compare(head, None);
        }
    }

    /// The log of a store may have changed.
    pub fn refresh(&self, store: &StoreId) {
        if let Some(tail) = self.get(store) {
            tail.refresh();
        }
    }

    /// Compares every tail with its store, after a time in which hints may have been missed.
    pub async fn resync(&self) -> Result<(), DatabaseError> {
        const STORES_A_QUERY: usize = 1000;
        let stores: Vec<StoreId> = self.tails.lock().tails.keys().cloned().collect();
        for stores in stores.chunks(STORES_A_QUERY) {
            let names: Vec<&str> = stores.iter().map(StoreId::as_str).collect();
            let client = retry_until_available(|| self.database.client()).await;
            let client = client.map_err(|error| DatabaseError::Unreadable(error.to_string()))?;
            let standing = "select livestore.head(w.store_id), livestore.backend_id(w.store_id)
                 from unnest($1::text[]) with ordinality w(store_id, position) order by w.position";
            let rows = client.in_time(client.query(standing, &[&names])).await??;
            for (store, row) in stores.iter().zip(rows) {
                if let Some(tail) = self.get(store) {
                    tail.compare(row.try_get(0)?, Some(row.try_get(1)?));
                }
            }
        }
        Ok(())
    }

    /// Follows a store from a position on; without one, from where its log stands.
    ///
    /// # Errors
    /// Where it stands cannot be read.
    pub async fn subscribe(
        self: &Arc<Self>,
        store: &StoreId,
        after: Option<i64>,
        account: Account,
    ) -> Result<Subscription, Unreadable> {
        loop {
            let tail = self.get_or_create(store);
            let mut changed = tail.changed.subscribe();
            let standing = changed.wait_for(|standing| !matches!(standing, Standing::Unknown)).await;
            if let Ok(Standing::Following { backend_id }) = standing.as_deref() {
                let backend_id = Arc::clone(backend_id);
                drop(standing);
                let after = after.unwrap_or_else(|| tail.position());
                return Ok(Subscription::new(tail, changed, after, backend_id, account));
            }
            if matches!(standing.as_deref(), Ok(Standing::Ended(StreamEnd::Unreadable))) {
                return Err(Unreadable);
            }
            // It ended meanwhile; the next one begins with the new life of the log.
        }
    }

    fn get(&self, store: &StoreId) -> Option<Arc<Tail>> {
        self.tails.lock().tails.get(store).and_then(Weak::upgrade)
    }

    fn get_or_create(self: &Arc<Self>, store: &StoreId) -> Arc<Tail> {
        // Declared before the guard, to be dropped after it: the last owner of a tail locks the map to take it out.
        let mut ended = None;
        let mut tails = self.tails.lock();
        if let Some(tail) = tails.tails.get(store).and_then(Weak::upgrade) {
            if !matches!(*tail.changed.borrow(), Standing::Ended(_)) {
                return tail;
            }
            ended = Some(tail);
        }
        let tail = Arc::new_cyclic(|this| Tail {
            store: store.clone(),
            tails: Arc::clone(self),
            this: Weak::clone(this),
            state: Mutex::default(),
            changed: watch::Sender::new(Standing::Unknown),
        });
        tails.insert(store, Arc::downgrade(&tail));
        drop(tails);
        drop(ended);
        tail.refresh();
        tail
    }
}

/// Why a stream ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEnd {
    /// The store was reset or dropped: the log has another backend id now.
    Reset { expected: Arc<str>, received: Arc<str> },
    /// The log has lost events that it had, and has kept its backend id.
    Rewound,
    /// What follows cannot be read.
    Unreadable,
    /// The token of the reader has expired.
    Expired,
}

/// The next events of a subscriber.
pub enum News {
    None,
    /// There are events; they come together with what follows until then.
    Held(Instant),
    /// The log stands at this position, and these are the events up to there, if the tail still holds them.
    There {
        position: i64,
        recent: Option<Vec<Arc<Event>>>,
    },
}

/// Whether a subscriber's events are held back while a store is contended.
#[derive(Clone, Copy)]
pub enum Pace {
    InWindows,
    AtOnce,
}

/// What subscribers wait for changes of.
#[derive(Debug)]
pub enum Standing {
    /// Not read from Postgres yet.
    Unknown,
    Following {
        backend_id: Arc<str>,
    },
    Ended(StreamEnd),
}

pub struct Tail {
    store: StoreId,
    tails: Arc<Tails>,
    this: Weak<Tail>,
    state: Mutex<State>,
    changed: watch::Sender<Standing>,
}

#[derive(Default)]
struct State {
    /// The last event that the log is known to have.
    position: i64,
    /// The events that lead up to `position`, each the parent of the next.
    recent: VecDeque<Arc<Event>>,
    recent_bytes: usize,
    contention: Contention,
    refresh: Refresh,
    /// A task keeps the tail until then.
    lingers_until: Option<Instant>,
}

/// One look at Postgres at a time for each tail.
#[derive(Default, PartialEq)]
enum Refresh {
    #[default]
    Idle,
    Running,
    /// Something happened since it began: look once more.
    Again,
}

impl Tail {
    fn publish(&self, backend_id: &str, events: Vec<Arc<Event>>) {
        let (Some(first), Some(last)) = (events.first(), events.last()) else {
            return;
        };
        let mut state = self.state.lock();
        let is_following =
            matches!(&*self.changed.borrow(), Standing::Following { backend_id: id } if **id == *backend_id);
        if is_following && first.parent_seq_num == state.position {
            self.append(&mut state, events);
            drop(state);
            self.wake();
        } else if !is_following || last.seq_num > state.position {
            drop(state);
            self.refresh();
        }
    }

    /// Looks at Postgres if the log does not stand where this tail does.
    fn compare(&self, head: i64, backend_id: Option<&str>) {
        let position = self.position();
        let is_same = match &*self.changed.borrow() {
            Standing::Following { backend_id: id } => position == head && backend_id.is_none_or(|other| **id == *other),
            _ => false,
        };
        if !is_same {
            self.refresh();
        }
    }

    /// Where the log stands.
    pub fn position(&self) -> i64 {
        self.state.lock().position
    }

    /// The events that follow this one.
    pub fn after(&self, last: i64, pace: Pace) -> News {
        let state = self.state.lock();
        if state.position <= last {
            return News::None;
        }
        let held = match pace {
            Pace::AtOnce => None,
            Pace::InWindows => state.contention.held(last, Instant::now()),
        };
        held.map_or_else(|| News::There { position: state.position, recent: state.after(last) }, News::Held)
    }

    /// A page of events from Postgres. Waits while the database is away. Cancel safe.
    ///
    /// # Errors
    /// The event that follows cannot be read.
    pub async fn page(&self, ahead: &mut Ahead, after: i64, account: &Account) -> Result<Page, Unreadable> {
        ahead.page(&self.tails.database, &self.store, after, account).await
    }

    /// The same, if the database answers. An event that cannot be read is left to subscribers, who need not come to it.
    async fn pull(&self, after: i64) -> Result<Page, DatabaseError> {
        match pull(&self.tails.database, &self.store, after).await {
            Err(DatabaseError::UnreadableEvent { .. }) => status(&self.tails.database, &self.store).await,
            page => page,
        }
    }

    /// Stays for a while even if nobody subscribes.
    pub fn linger(self: &Arc<Self>) {
        let until = Instant::now() + LINGER;
        if self.state.lock().lingers_until.replace(until).is_none() {
            tokio::spawn(linger(Arc::clone(self), until));
        }
    }

    /// Looks at Postgres, soon.
    pub fn refresh(&self) {
        let mut state = self.state.lock();
        if state.refresh == Refresh::Idle {
            state.refresh = Refresh::Running;
            tokio::spawn(refresh(Weak::clone(&self.this)));
        } else {
            state.refresh = Refresh::Again;
        }
    }

    /// Takes over a page that was read from `from` on (`None`: the first look, without events). Returns whether to look
    /// once more.
    fn apply(&self, from: Option<i64>, page: Page) -> bool {
        let end = match &*self.changed.borrow() {
            Standing::Following { backend_id } if *backend_id != page.backend_id => {
                Some(StreamEnd::Reset { expected: page.backend_id.clone(), received: backend_id.clone() })
            }
            _ if from.is_some_and(|from| page.head < from) => Some(StreamEnd::Rewound),
            _ => None,
        };
        if let Some(end) = end {
            warn!(store = ?self.store, ?end, "live streams of a store end");
            self.changed.send_replace(Standing::Ended(end));
            return false;
        }

        let mut state = self.state.lock();
        if from.is_none() {
            state.position = page.head;
        } else if page.head > state.position {
            let position = state.position;
            let news: Vec<_> = page.events.into_iter().filter(|event| event.seq_num > position).collect();
            let is_chain = news.first().is_some_and(|first| first.parent_seq_num == position)
                && news.last().is_some_and(|last| last.seq_num == page.head);
            if is_chain {
                self.append(&mut state, news);
            } else {
                // Too much for one page: subscribers read it themselves.
                debug!(store = ?self.store, from = position, to = page.head, "a tail skips ahead");
                state.skip_to(page.head);
            }
        }
        let again = state.refresh == Refresh::Again;
        state.refresh = if again { Refresh::Running } else { Refresh::Idle };
        drop(state);
        if from.is_none() {
            self.changed.send_replace(Standing::Following { backend_id: page.backend_id });
        } else {
            self.wake();
        }
        again
    }

    /// Events whose first one follows where the tail stands.
    fn append(&self, state: &mut State, events: Vec<Arc<Event>>) {
        state.contention.appended(state.position, Instant::now(), self.tails.contention_window);
        state.append(events);
    }

    fn wake(&self) {
        self.changed.send_modify(|_| ());
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let mut tails = self.tails.tails.lock();
        // A successor may have taken the place.
        if tails.tails.get(&self.store).is_some_and(|tail| Weak::ptr_eq(tail, &self.this)) {
            tails.remove(&self.store);
        }
    }
}

impl State {
    /// Events whose first one follows `position`.
    fn append(&mut self, events: Vec<Arc<Event>>) {
        for event in events {
            self.position = event.seq_num;
            self.recent_bytes += event.size();
            self.recent.push_back(event);
        }
        while (self.recent.len() > TAIL_EVENTS || self.recent_bytes > TAIL_BYTES)
            && let Some(oldest) = self.recent.pop_front()
        {
            self.recent_bytes -= oldest.size();
        }
    }

    fn skip_to(&mut self, head: i64) {
        self.position = head;
        self.recent.clear();
        self.recent_bytes = 0;
    }

    /// The events after `last`, if they are still here.
    fn after(&self, last: i64) -> Option<Vec<Arc<Event>>> {
        let first = self.recent.partition_point(|event| event.seq_num <= last);
        let follows = self.recent.get(first).is_some_and(|event| event.parent_seq_num == last);
        follows.then(|| self.recent.range(first..).cloned().collect())
    }
}

async fn linger(tail: Arc<Tail>, mut until: Instant) {
    loop {
        sleep_until(until).await;
        let mut state = tail.state.lock();
        match state.lingers_until {
            Some(later) if later > until => until = later,
            _ => {
                state.lingers_until = None;
                return;
            }
        }
    }
}

/// Looks at Postgres, as often as there is reason to, and as patiently as the tail lives.
async fn refresh(tail: Weak<Tail>) {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    while let Some(tail) = tail.upgrade() {
        let is_first = matches!(*tail.changed.borrow(), Standing::Unknown);
        let from = (!is_first).then(|| tail.position());
        let page = match from {
            None => status(&tail.tails.database, &tail.store).await,
            Some(from) => tail.pull(from).await,
        };
        match page {
            Ok(page) => {
                if !tail.apply(from, page) {
                    return;
                }
            }
            Err(error) if error.retry() == Retry::Never => {
                error!(store = ?tail.store, error = &error as &dyn std::error::Error, "live streams of a store end: it cannot be read");
                tail.changed.send_replace(Standing::Ended(StreamEnd::Unreadable));
                return;
            }
            Err(error) => {
                if backoff.attempts() == 0 {
                    warn!(store = ?tail.store, error = &error as &dyn std::error::Error, "a live tail waits for the database");
                }
                drop(tail);
                backoff.sleep().await;
            }
        }
    }
}

// A page holds more than a tail, so a subscriber that reads history catches up with the tail.
const _: () = assert!(PAGE_EVENTS as usize >= TAIL_EVENTS && PAGE_BYTES as usize >= TAIL_BYTES);
