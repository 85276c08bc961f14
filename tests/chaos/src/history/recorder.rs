//! Takes down what clients do while they do it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::{
    Epoch, Erasure, EventId, Follow, Followed, Hindered, History, Outcome, Push, Read, Recovery, Stream, Time,
};

/// Shared by everybody who records.
#[derive(Clone)]
pub struct Recorder(Arc<Inner>);

struct Inner {
    start: Instant,
    stores: Mutex<BTreeMap<String, History>>,
    shutdowns: Mutex<Vec<Hindered>>,
    disturbances: Mutex<Vec<Disturbance>>,
}

/// Something was wrong with the networks of a sidecar, or of all, or with Postgres.
struct Disturbance {
    sidecar: Option<usize>,
    start: Time,
    end: Time,
}

/// For so long after a disturbance, connections are made anew and pauses between tries end.
const AFTERMATH: Time = 5_000_000;

/// A push that has begun: whatever happens to its client, it is in the history.
#[derive(Debug, Clone)]
pub struct Ticket {
    store: String,
    index: usize,
}

impl Recorder {
    pub fn start() -> Self {
        Self(Arc::new(Inner {
            start: Instant::now(),
            stores: Mutex::default(),
            shutdowns: Mutex::default(),
            disturbances: Mutex::default(),
        }))
    }

    pub fn now(&self) -> Time {
        u64::try_from(self.0.start.elapsed().as_micros()).unwrap_or(Time::MAX)
    }

    fn stores(&self) -> MutexGuard<'_, BTreeMap<String, History>> {
        self.0.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, store: &str, change: impl FnOnce(&mut History) -> T) -> T {
        let mut stores = self.stores();
        let fresh = || History { store: store.into(), ..History::default() };
        change(stores.entry(store.into()).or_insert_with(fresh))
    }

    pub fn push_begins(&self, store: &str, push: Push) -> Ticket {
        let index = self.with(store, |history| {
            history.pushes.push(push);
            history.pushes.len() - 1
        });
        Ticket { store: store.into(), index }
    }

    pub fn push_ends(&self, ticket: &Ticket, outcome: Outcome) {
        let end = self.now();
        self.with(&ticket.store, |history| {
            let push = &mut history.pushes[ticket.index];
            (push.end, push.outcome) = (end, outcome);
        });
    }

    pub fn stream(&self, store: &str, stream: Stream) {
        self.with(store, |history| history.streams.push(stream));
    }

    pub fn read(&self, store: &str, read: Read) {
        self.with(store, |history| history.reads.push(read));
    }

    pub fn epoch(&self, store: &str, epoch: Epoch) {
        self.with(store, |history| history.epochs.push(epoch));
    }

    pub fn follow(&self, store: &str, by: &str, may_repeat: bool, followed: Followed) {
        self.with(store, |history| {
            let index = history.follows.iter().position(|follow| follow.by == by).unwrap_or_else(|| {
                history.follows.push(Follow { by: by.into(), may_repeat, events: Vec::new() });
                history.follows.len() - 1
            });
            history.follows[index].events.push(followed);
        });
    }

    /// Everybody in `by` follows this store, whether it gets an event or not.
    pub fn followed_by(&self, store: &str, by: &[&str]) {
        self.with(store, |history| {
            for by in by.iter().filter(|by| history.follows.iter().all(|follow| follow.by != **by)).collect::<Vec<_>>()
            {
                history.follows.push(Follow { by: (*by).into(), may_repeat: true, events: Vec::new() });
            }
        });
    }

    pub fn recovery(&self, store: &str, recovery: Recovery) {
        self.with(store, |history| history.recoveries.push(recovery));
    }

    /// The end of the last reset of a store: its present log began after that was asked for.
    pub fn epoch_start(&self, store: &str) -> Time {
        self.with(store, |history| history.epochs.last().and_then(|epoch| epoch.reset).map_or(0, |(start, _)| start))
    }

    /// A sidecar was told to end at this moment, and has ended now.
    pub fn shut_down(&self, sidecar: usize, start: Time) {
        let shutdown = Hindered { sidecar, start, end: self.now() };
        self.0.shutdowns.lock().unwrap_or_else(PoisonError::into_inner).push(shutdown);
    }

    /// Something was wrong around a sidecar, or around all, from this moment to now.
    pub fn disturbed(&self, sidecar: Option<usize>, start: Time) {
        let disturbance = Disturbance { sidecar, start, end: self.now() };
        self.0.disturbances.lock().unwrap_or_else(PoisonError::into_inner).push(disturbance);
    }

    /// These events were erased by now. `is_calm`: all faults were over.
    pub fn erased(&self, store: &str, events: Vec<EventId>, is_calm: bool) {
        let done = self.now();
        self.with(store, |history| history.erasures.push(Erasure { done, is_calm, events }));
    }

    /// Everything that was recorded, as a history for each store.
    pub fn finish(&self) -> Vec<History> {
        let disturbances = self.0.disturbances.lock().unwrap_or_else(PoisonError::into_inner);
        let is_hindered = |shutdown: &Hindered| {
            disturbances.iter().any(|disturbance| {
                disturbance.sidecar.is_none_or(|sidecar| sidecar == shutdown.sidecar)
                    && disturbance.start <= shutdown.end
                    && shutdown.start <= disturbance.end + AFTERMATH
            })
        };
        let shutdowns = self.0.shutdowns.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let hindered: Vec<_> = shutdowns.into_iter().filter(is_hindered).collect();
        let stores = std::mem::take(&mut *self.stores());
        stores.into_values().map(|history| History { hindered: hindered.clone(), ..history }).collect()
    }
}
