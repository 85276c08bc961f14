//! A live tail: where the log of a store stands that somebody follows, and its latest events.
//!
//! A tail is a hint and a cache. What a subscriber has seen is a number that the subscriber keeps; it takes the events
//! that follow that number from the tail if the tail still holds them, and from Postgres if not. So an event is
//! delivered once and in order whatever happens to the tail, and a slow subscriber costs no memory.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, warn};

use super::clients::Clients;
use super::contention::Contention;
use super::page::{Page, pull, status};
use super::registry::Registry;
use super::window::Window;
use crate::log::event::Event;
use crate::log::store_id::StoreId;
use crate::postgres::{Backoff, Database, DatabaseError, Hold, Retry};
use crate::telemetry::chain;

/// The time that a tail is kept for clients that poll: longer than they take to come back.
const LINGER: Duration = Duration::from_secs(30);

/// Why a stream ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEnd {
    /// The store was reset or dropped: the log has another backend id now.
    Reset { expected: Arc<str>, received: Arc<str> },
    /// The log has lost events that it had, and has kept its backend id.
    Rewound,
    /// The next events cannot be read.
    Unreadable,
    /// The token of the reader has expired.
    Expired,
}

/// The next events of a subscriber.
pub enum News {
    None,
    /// There are events, but they are held back until this time, and then delivered together with those that follow.
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

#[derive(Debug)]
pub enum TailState {
    /// Not read from Postgres yet.
    Unknown,
    Following {
        backend_id: Arc<str>,
    },
    Ended(StreamEnd),
    /// The store is on another shard: its readers go over to it.
    Elsewhere,
}

pub struct Tail {
    database: Database,
    /// Keeps the sidecar connected to the database, so that notifications of this store arrive.
    _demand: Hold,
    store: StoreId,
    /// The registry that holds this tail until it is dropped.
    registry: Arc<Mutex<Registry<Tail>>>,
    /// For how long events are held back while the store is contended.
    contention_window: Duration,
    this: Weak<Tail>,
    state: Mutex<State>,
    changed: watch::Sender<TailState>,
    clients: Clients,
}

impl AsRef<Clients> for Arc<Tail> {
    fn as_ref(&self) -> &Clients {
        &self.clients
    }
}

#[derive(Default)]
struct State {
    window: Window,
    contention: Contention,
    refresh: Refresh,
    /// How often it has forgotten what it held: a page that was read before does not count.
    forgotten: u64,
    /// A task keeps the tail until then.
    lingers_until: Option<Instant>,
}

/// The state of the task that compares a tail with Postgres. Each tail has at most one.
#[derive(Default, PartialEq)]
enum Refresh {
    #[default]
    Idle,
    Running,
    /// Something happened since it began: look once more.
    Again,
}

impl Tail {
    pub fn new(
        database: Database,
        store: StoreId,
        registry: Arc<Mutex<Registry<Self>>>,
        contention_window: Duration,
    ) -> Arc<Self> {
        let (state, changed) = (Mutex::default(), watch::Sender::new(TailState::Unknown));
        Arc::new_cyclic(|this| {
            let this = Weak::clone(this);
            let _demand = database.demand().hold();
            let clients = Clients::default();
            Self { database, _demand, store, registry, contention_window, this, state, changed, clients }
        })
    }

    pub fn changes(&self) -> watch::Receiver<TailState> {
        self.changed.subscribe()
    }

    /// The end of the streams of a log that has another backend id now. From a standby, that may be the one of before: the streams end, and
    /// their clients' next pulls find out (`claims.rs`).
    pub fn end_of_life(&self, expected: Arc<str>, received: Arc<str>) -> StreamEnd {
        if self.database.is_read_only() { StreamEnd::Rewound } else { StreamEnd::Reset { expected, received } }
    }

    fn shard(&self) -> Option<&str> {
        self.database.label()
    }

    /// The clients that follow it.
    pub fn clients(&self) -> &Clients {
        &self.clients
    }

    /// That of the log that it follows.
    pub fn backend_id(&self) -> Option<Arc<str>> {
        match &*self.changed.borrow() {
            TailState::Following { backend_id } => Some(Arc::clone(backend_id)),
            TailState::Unknown | TailState::Ended(_) | TailState::Elsewhere => None,
        }
    }

    pub fn has_ended(&self) -> bool {
        matches!(*self.changed.borrow(), TailState::Ended(_) | TailState::Elsewhere)
    }

    /// Events that were just committed, in order. They are held if they are `current`: not rewritten since.
    pub fn publish(&self, backend_id: &str, events: Vec<Arc<Event>>, are_current: impl FnOnce() -> bool) {
        let (Some(first), Some(last)) = (events.first(), events.last()) else {
            return;
        };
        let mut state = self.state.lock();
        let is_following =
            matches!(&*self.changed.borrow(), TailState::Following { backend_id: id } if **id == *backend_id);
        if is_following && first.parent_seq_num == state.window.position() {
            // Under the lock: what changes from now on makes the tail drop them.
            let is_held = are_current();
            self.append(&mut state, events, is_held);
            drop(state);
            self.wake();
        } else if !is_following || last.seq_num > state.window.position() {
            drop(state);
            self.refresh();
        }
    }

    /// Looks at Postgres if the log does not stand where this tail does.
    pub fn compare(&self, head: i64, backend_id: Option<&str>) {
        let position = self.position();
        let is_same = match &*self.changed.borrow() {
            TailState::Following { backend_id: id } => {
                position == head && backend_id.is_none_or(|other| **id == *other)
            }
            _ => false,
        };
        if !is_same {
            self.refresh();
        }
    }

    /// The head of the log.
    pub fn position(&self) -> i64 {
        self.state.lock().window.position()
    }

    /// The events that follow this one.
    pub fn after(&self, last: i64, pace: Pace) -> News {
        let state = self.state.lock();
        let position = state.window.position();
        if position <= last {
            return News::None;
        }
        let held = match pace {
            Pace::AtOnce => None,
            Pace::InWindows => state.contention.held(last, Instant::now()),
        };
        held.map_or_else(|| News::There { position, recent: state.window.after(last) }, News::Held)
    }

    /// A push was refused, since another one was first.
    pub fn refused(&self, now: Instant) {
        self.state.lock().contention.refused(now, self.contention_window);
    }

    /// The store is on another shard.
    pub fn leave(&self) {
        self.changed.send_if_modified(|state| {
            let is_alive = !matches!(state, TailState::Ended(_));
            if is_alive {
                *state = TailState::Elsewhere;
            }
            is_alive
        });
    }

    /// The head of the log in Postgres, without events.
    async fn status(&self) -> Result<Page, DatabaseError> {
        status(&self.database, &self.store).await
    }

    /// A page of events. An event that cannot be read is left to subscribers, which may never ask for it.
    async fn page(&self, after: i64) -> Result<Page, DatabaseError> {
        match pull(&self.database, &self.store, after).await {
            Err(DatabaseError::UnreadableEvent { .. }) => self.status().await,
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

    /// The log may have been reset, or events of it rewritten: what is held of it is dropped. Looks at Postgres, soon.
    pub fn forget(&self) {
        self.forget_held();
        self.refresh();
    }

    /// Drops the events that are held.
    pub fn forget_held(&self) {
        let mut state = self.state.lock();
        let position = state.window.position();
        state.window.skip_to(position);
        state.forgotten += 1;
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

    /// Takes over a page that was read from `from` on (`None`: the first look, without events), after it had forgotten so often. Returns
    /// whether to look once more.
    pub(super) fn apply(&self, from: Option<i64>, forgotten: u64, page: Page) -> bool {
        if self.has_ended() {
            return false;
        }
        let end = match &*self.changed.borrow() {
            TailState::Following { backend_id } if *backend_id != page.backend_id => {
                Some(self.end_of_life(Arc::clone(&page.backend_id), Arc::clone(backend_id)))
            }
            _ if from.is_some_and(|from| page.head < from) => Some(StreamEnd::Rewound),
            _ => None,
        };
        if let Some(end) = end {
            warn!(shard = self.shard(), store = ?self.store, ?end, "live streams of a store end");
            self.changed.send_replace(TailState::Ended(end));
            return false;
        }

        let mut state = self.state.lock();
        if from.is_none() {
            state.window.skip_to(page.head);
        } else if page.head > state.window.position() {
            let position = state.window.position();
            let news: Vec<_> = page.events.iter().filter(|event| event.seq_num > position).cloned().collect();
            let is_chain = news.first().is_some_and(|first| first.parent_seq_num == position)
                && news.last().is_some_and(|last| last.seq_num == page.head);
            if is_chain && state.forgotten == forgotten {
                self.append(&mut state, news, true);
            } else {
                // Too much for one page, or not as it is now: subscribers read it themselves.
                debug!(store = ?self.store, from = position, to = page.head, "a tail skips ahead");
                state.window.skip_to(page.head);
            }
        }
        let again = state.refresh == Refresh::Again;
        state.refresh = if again { Refresh::Running } else { Refresh::Idle };
        drop(state);
        if from.is_none() {
            self.changed.send_if_modified(|state| {
                // Unless it has left meanwhile.
                let is_first = matches!(state, TailState::Unknown);
                if is_first {
                    *state = TailState::Following { backend_id: page.backend_id };
                }
                is_first
            });
        } else {
            self.wake();
        }
        again
    }

    /// Adds events, the first of which follows the head of the tail. Those that are not held are read by subscribers themselves.
    fn append(&self, state: &mut State, events: Vec<Arc<Event>>, is_held: bool) {
        state.contention.appended(state.window.position(), Instant::now(), self.contention_window);
        match events.last() {
            Some(last) if !is_held => state.window.skip_to(last.seq_num),
            _ => state.window.append(events),
        }
    }

    fn wake(&self) {
        self.changed.send_modify(|_| ());
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.store, &self.this);
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

/// Looks at Postgres as often as there is reason to, until it answers or the tail is gone.
async fn refresh(tail: Weak<Tail>) {
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
    while let Some(tail) = tail.upgrade().filter(|tail| !tail.has_ended()) {
        let is_first = matches!(*tail.changed.borrow(), TailState::Unknown);
        let from = (!is_first).then(|| tail.position());
        let forgotten = tail.state.lock().forgotten;
        let page = match from {
            None => tail.status().await,
            Some(from) => tail.page(from).await,
        };
        match page {
            Ok(page) => {
                if !tail.apply(from, forgotten, page) {
                    return;
                }
            }
            Err(DatabaseError::Elsewhere) => {
                debug!(shard = tail.shard(), store = ?tail.store, "the readers of a store go over to another shard");
                tail.leave();
                return;
            }
            Err(error) if error.retry() == Retry::Never => {
                error!(shard = tail.shard(), store = ?tail.store, error = %chain(&error), "live streams of a store end: it cannot be read");
                tail.changed.send_replace(TailState::Ended(StreamEnd::Unreadable));
                return;
            }
            Err(error) => {
                if backoff.attempts() == 0 {
                    warn!(shard = tail.shard(), store = ?tail.store, error = %chain(&error), "a live tail waits for the database");
                }
                drop(tail);
                backoff.sleep().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::{events, nowhere, page, store};

    /// A tail of a log that stands at event 5.
    fn tail() -> Arc<Tail> {
        let tail = Tail::new(nowhere(), store("s"), Arc::default(), Duration::ZERO);
        assert!(!tail.apply(None, 0, page(5, "a", Vec::new())));
        tail
    }

    fn recent(tail: &Tail, last: i64) -> Option<usize> {
        match tail.after(last, Pace::AtOnce) {
            News::There { recent, .. } => recent.map(|events| events.len()),
            News::None | News::Held(_) => None,
        }
    }

    #[tokio::test]
    async fn it_takes_only_events_that_follow_its_own() {
        let tail = tail();
        tail.publish("a", events(5, 2, 1), || true);
        assert_eq!([4, 5, 6, 7].map(|last| recent(&tail, last)), [None, Some(2), Some(1), None]);
        for (backend_id, after) in [("a", 8), ("b", 7)] {
            tail.publish(backend_id, events(after, 1, 1), || true);
            assert_eq!(tail.position(), 7, "it looks at Postgres instead");
        }
        assert!(tail.apply(Some(7), 0, page(9, "a", events(6, 3, 1))), "a second look was asked for");
        assert_eq!((tail.position(), recent(&tail, 5)), (9, Some(4)));
        assert!(!tail.apply(Some(9), 0, page(20, "a", events(9, 3, 1))), "more than a page");
        assert_eq!((tail.position(), recent(&tail, 9)), (20, None));
    }

    /// A page that was read before events were rewritten, and a push that is answered late, are not held.
    #[tokio::test]
    async fn it_forgets_what_may_have_been_rewritten() {
        let tail = tail();
        tail.publish("a", events(5, 2, 1), || true);
        tail.forget_held();
        assert_eq!((tail.position(), recent(&tail, 5)), (7, None));
        tail.apply(Some(7), 0, page(8, "a", events(7, 1, 1)));
        assert_eq!((tail.position(), recent(&tail, 7)), (8, None), "of before");
        tail.apply(Some(8), 1, page(9, "a", events(8, 1, 1)));
        assert_eq!(recent(&tail, 8), Some(1));
        tail.forget();
        tail.publish("a", events(9, 1, 1), || false);
        assert_eq!((tail.position(), recent(&tail, 9)), (10, None), "a late answer");
        tail.publish("a", events(10, 1, 1), || true);
        assert_eq!(recent(&tail, 10), Some(1));
    }

    #[tokio::test]
    async fn one_of_a_store_that_is_elsewhere_stays_ended() {
        let first = Tail::new(nowhere(), store("s"), Arc::default(), Duration::ZERO);
        for (tail, from) in [(tail(), Some(5)), (first, None)] {
            tail.leave();
            assert!(!tail.apply(from, 0, page(9, "a", events(5, 4, 1))), "a page that comes late");
            assert!(tail.has_ended() && matches!(*tail.changes().borrow(), TailState::Elsewhere));
        }
    }

    #[tokio::test]
    async fn it_ends_with_its_log() {
        let reset = StreamEnd::Reset { expected: "b".into(), received: "a".into() };
        for (end, head, backend_id) in [(reset, 9, "b"), (StreamEnd::Rewound, 4, "a")] {
            let tail = tail();
            assert!(!tail.apply(Some(5), 0, page(head, backend_id, Vec::new())) && tail.has_ended());
            assert!(matches!(&*tail.changes().borrow(), TailState::Ended(ended) if *ended == end));
        }
    }
}
