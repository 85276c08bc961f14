//! The live tails of a sidecar: one for each store that has subscribers.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::pages::Pages;
use super::registry::{Registry, StoreDigest};
use super::tail::{StreamEnd, Tail, TailState};
use crate::log::event::Event;
use crate::log::store_id::StoreId;
use crate::postgres::{Database, DatabaseError, Unreadable, is_elsewhere, retry_until_available};

/// A tail, its changes, and the backend id of its log.
pub type Followed = (Arc<Tail>, watch::Receiver<TailState>, Arc<str>);

/// The tails of all stores that have subscribers.
pub struct Tails {
    database: Database,
    tails: Arc<Mutex<Registry<Tail>>>,
    /// The mark of notifications of our own commits, which are [`Tails::publish`]ed.
    own_source: Mutex<Option<Arc<str>>>,
    /// How often events that were there before may have changed: with each change that this sidecar hears of, and after each time in
    /// which it heard nothing.
    changes: AtomicU64,
    /// For how long events of a contended store are held back.
    contention_window: Duration,
    pages: Arc<Pages>,
}

impl Tails {
    /// Events of a contended store are held back for `contention_window` and delivered together; zero: never. `page_bytes`: the memory
    /// for pages of earlier events.
    pub fn new(database: Database, contention_window: Duration, page_bytes: usize) -> Arc<Self> {
        let pages = Pages::new(database.clone(), page_bytes);
        let (tails, own_source, changes) = Default::default();
        Arc::new(Self { database, tails, own_source, changes, contention_window, pages })
    }

    /// The pages of events before the tails.
    pub fn pages(&self) -> Arc<Pages> {
        Arc::clone(&self.pages)
    }

    /// Sets the mark of this sidecar's own notifications. Those with this mark are ignored from now on; with `None`, none
    /// are.
    pub fn own(&self, source: Option<Arc<str>>) {
        *self.own_source.lock() = source;
    }

    pub fn is_own(&self, source: &str) -> bool {
        self.own_source.lock().as_deref() == Some(source)
    }

    /// How often events that were there before may have changed so far.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// Events that were just committed, in order. `changes`: how often [`Tails::changes`] had counted before the commit was sent. If it has
    /// counted more since, the events may have been rewritten before this answer to their push came, and are not held.
    pub fn publish(&self, store: &StoreId, backend_id: &str, events: Vec<Arc<Event>>, changes: u64) {
        if let Some(tail) = self.get(store) {
            tail.publish(backend_id, events, || self.changes() == changes);
        }
    }

    /// From now on, digests are made with this key. Returns whether it differs from the one before.
    pub fn set_key(&self, key: &str) -> bool {
        self.tails.lock().set_key(key)
    }

    /// Handles a notification of the new head of a store.
    pub fn hear(&self, digest: &StoreDigest, head: i64) {
        let store = self.tails.lock().store(digest).cloned();
        if let Some(store) = store {
            self.hint(&store, head);
        }
    }

    /// Handles notifications that the logs of stores were reset, dropped or given another backend id, or that events of them were rewritten.
    pub fn hear_of_others(&self, digests: &HashSet<StoreDigest>) {
        // Also pages of stores that nobody follows are kept.
        self.pages.drop_all();
        let stores: Vec<StoreId> = {
            let tails = self.tails.lock();
            digests.iter().filter_map(|digest| tails.store(digest).cloned()).collect()
        };
        let tails: Vec<_> = stores.iter().filter_map(|store| self.get(store)).collect();
        if !tails.is_empty() {
            // Before the tails drop what they hold: an answer that comes after that is late.
            self.changes.fetch_add(1, Ordering::SeqCst);
        }
        for tail in tails {
            tail.forget();
        }
    }

    /// Compares the tail of a store with a head that the store may have.
    pub fn hint(&self, store: &StoreId, head: i64) {
        if let Some(tail) = self.get(store) {
            tail.compare(head, None);
        }
    }

    /// Takes note that a push to a store was refused because another one was first. `head` is the head that Postgres
    /// returned.
    pub fn refused(&self, store: &StoreId, head: i64) {
        if let Some(tail) = self.get(store) {
            tail.refused(Instant::now());
            tail.compare(head, None);
        }
    }

    /// The log of a store may have changed.
    pub fn refresh(&self, store: &StoreId) {
        if let Some(tail) = self.get(store) {
            tail.refresh();
        }
    }

    /// The log of a store may have changed, with events that were there before.
    pub fn forget(&self, store: &StoreId) {
        // Before the tail drops what it holds: an answer that comes after that is late.
        self.changes.fetch_add(1, Ordering::SeqCst);
        self.pages.drop_all();
        if let Some(tail) = self.get(store) {
            tail.forget();
        }
    }

    /// Compares every tail with its store, after a time in which hints may have been missed.
    pub async fn resync(&self) -> Result<(), DatabaseError> {
        const STORES_A_QUERY: usize = 1000;
        self.changes.fetch_add(1, Ordering::SeqCst);
        let stores: Vec<StoreId> = self.tails.lock().stores().cloned().collect();
        for stores in stores.chunks(STORES_A_QUERY) {
            let names: Vec<&str> = stores.iter().map(StoreId::as_str).collect();
            let client = retry_until_available(|| self.database.client()).await;
            let client = client.map_err(|error| DatabaseError::Unreadable(error.to_string()))?;
            let heads = "select livestore.head(w.store_id), livestore.backend_id(w.store_id)
                 from unnest($1::text[]) with ordinality w(store_id, position) order by w.position";
            let rows = client.read_in_time(client.query(heads, &[&names])).await?;
            if rows.as_ref().is_err_and(|error| error.code().is_some_and(is_elsewhere)) {
                // One of them is on another shard: each finds out for itself.
                stores.iter().filter_map(|store| self.get(store)).for_each(|tail| tail.forget());
                continue;
            }
            let rows = rows?;
            for (store, row) in stores.iter().zip(rows) {
                if let Some(tail) = self.get(store) {
                    // Nobody has told of events that were rewritten.
                    tail.forget_held();
                    tail.compare(row.try_get(0)?, Some(row.try_get(1)?));
                }
            }
        }
        Ok(())
    }

    /// The tail of a store. Waits until it is known where the log stands. `None` if the store is on another shard.
    pub async fn follow(&self, store: &StoreId) -> Result<Option<Followed>, Unreadable> {
        loop {
            let tail = self.get_or_create(store);
            let mut changed = tail.changes();
            let state = changed.wait_for(|state| !matches!(state, TailState::Unknown)).await;
            if let Ok(TailState::Following { backend_id }) = state.as_deref() {
                let backend_id = Arc::clone(backend_id);
                drop(state);
                return Ok(Some((tail, changed, backend_id)));
            }
            match state.as_deref() {
                Ok(TailState::Ended(StreamEnd::Unreadable)) => return Err(Unreadable),
                Ok(TailState::Elsewhere) => return Ok(None),
                _ => {}
            }
            // It ended meanwhile; the next one begins with the new life of the log.
        }
    }

    /// Ends the tails of stores that are on another shard now: their readers go over to it.
    pub fn leave(&self, is_elsewhere: impl Fn(&StoreId) -> bool) {
        // Of a store that comes back, they may be old.
        self.pages.drop_all();
        let stores: Vec<StoreId> = self.tails.lock().stores().filter(|store| is_elsewhere(store)).cloned().collect();
        for tail in stores.iter().filter_map(|store| self.get(store)) {
            tail.leave();
        }
    }

    /// The tail of a store, if somebody follows it.
    pub fn get(&self, store: &StoreId) -> Option<Arc<Tail>> {
        self.tails.lock().get(store).and_then(Weak::upgrade)
    }

    /// The backend id of the log of a store, if somebody follows it.
    pub fn backend_id(&self, store: &StoreId) -> Option<Arc<str>> {
        self.get(store)?.backend_id()
    }

    pub(super) fn get_or_create(&self, store: &StoreId) -> Arc<Tail> {
        // Declared before the guard, to be dropped after it: the last owner of a tail locks the registry to remove it.
        let mut ended = None;
        let mut tails = self.tails.lock();
        if let Some(tail) = tails.get(store).and_then(Weak::upgrade) {
            if !tail.has_ended() {
                return tail;
            }
            ended = Some(tail);
        }
        let tail = Tail::new(self.database.clone(), store.clone(), Arc::clone(&self.tails), self.contention_window);
        tails.insert(store, Arc::downgrade(&tail));
        drop(tails);
        drop(ended);
        tail.refresh();
        tail
    }
}
