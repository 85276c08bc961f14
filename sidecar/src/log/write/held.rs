//! Pushes that are tried again: another transaction holds their store, or something else of their own passes. They wait here, store
//! by store, and are committed on a connection of their own, so that a store that waits costs others nothing.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::push::{GROUP_BYTES, GROUP_PUSHES, Push};
use crate::log::store_id::StoreId;

/// How long the pushes of a store wait before they are tried again: at first as long as another commit takes.
const SHORTEST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_millis(128);

/// What has waited for so long is worth a line in the log.
const LONG: Duration = Duration::from_secs(2);

/// What waits for one store may take so much of the queue, so that there is room for others.
const STORE_BYTES: usize = 16 << 20;

/// The pushes that wait, in the order of each store.
#[derive(Default)]
pub struct Held {
    stores: Mutex<HashMap<StoreId, Waiting>>,
    changed: Notify,
}

struct Waiting {
    pushes: VecDeque<Push>,
    bytes: usize,
    since: Instant,
    /// When they are tried next; none while they are.
    due: Option<Instant>,
    pause: Duration,
    is_logged: bool,
}

impl Waiting {
    fn new() -> Self {
        let since = Instant::now();
        Self {
            pushes: VecDeque::new(),
            bytes: 0,
            since,
            due: Some(since + SHORTEST),
            pause: SHORTEST,
            is_logged: false,
        }
    }
}

impl Held {
    /// Puts a push behind those of its store that wait; gives it back if there are none.
    pub fn join(&self, push: Push) -> Option<Push> {
        let mut stores = self.stores.lock();
        let Some(waiting) = stores.get_mut(&push.store) else {
            return Some(push);
        };
        waiting.bytes += push.size();
        waiting.pushes.push_back(push);
        None
    }

    /// These wait from now on, in this order.
    pub fn hold(&self, pushes: Vec<Push>) {
        if pushes.is_empty() {
            return;
        }
        let mut stores = self.stores.lock();
        for push in pushes {
            let waiting = stores.entry(push.store.clone()).or_insert_with(Waiting::new);
            waiting.bytes += push.size();
            waiting.pushes.push_back(push);
        }
        drop(stores);
        self.changed.notify_one();
    }

    /// Whether as much waits for this store as may.
    pub fn is_full(&self, store: &StoreId) -> bool {
        self.stores.lock().get(store).is_some_and(|waiting| waiting.bytes >= STORE_BYTES)
    }

    /// How many stores are waited for.
    pub fn count(&self) -> usize {
        self.stores.lock().len()
    }

    /// Waits for pushes whose time has come.
    pub async fn due(&self) -> Vec<Push> {
        loop {
            let changed = self.changed.notified();
            let next = self.stores.lock().values().filter_map(|waiting| waiting.due).min();
            match next {
                Some(due) if due <= Instant::now() => return self.take(),
                Some(due) => tokio::select! {
                    () = sleep_until(due) => {}
                    () = changed => {}
                },
                None => changed.await,
            }
        }
    }

    /// Pushes whose time has come: as many as one transaction takes on, and those of a store in their order.
    fn take(&self) -> Vec<Push> {
        let now = Instant::now();
        let (mut group, mut taken) = (Vec::new(), 0);
        for waiting in self.stores.lock().values_mut().filter(|waiting| waiting.due.is_some_and(|due| due <= now)) {
            while group.len() < GROUP_PUSHES
                && taken < GROUP_BYTES
                && let Some(push) = waiting.pushes.pop_front()
            {
                waiting.due = None;
                taken += push.size();
                waiting.bytes -= push.size();
                group.push(push);
            }
        }
        group
    }

    /// What failed once more is the first of its store again.
    pub fn put_back(&self, tried: &[StoreId], failed: Vec<Push>) {
        let mut stores = self.stores.lock();
        for push in failed.into_iter().rev() {
            let waiting = stores.entry(push.store.clone()).or_insert_with(Waiting::new);
            if waiting.due.is_none() {
                waiting.pause = (2 * waiting.pause).min(LONGEST);
                waiting.due = Some(Instant::now() + waiting.pause);
            }
            waiting.bytes += push.size();
            waiting.pushes.push_front(push);
        }
        for store in tried {
            let Some(waiting) = stores.get_mut(store) else { continue };
            if waiting.due.is_some() {
                if waiting.since.elapsed() > LONG && !std::mem::replace(&mut waiting.is_logged, true) {
                    let pushes = waiting.pushes.len();
                    warn!(?store, pushes, "pushes wait: another transaction holds their store, or what a hook needs");
                }
            } else if waiting.pushes.is_empty() {
                if waiting.is_logged {
                    let seconds = (waiting.since.elapsed().as_secs_f64() * 1e3).round() / 1e3;
                    info!(?store, seconds, "pushes wait no longer");
                }
                stores.remove(store);
            } else {
                // What came meanwhile.
                (waiting.due, waiting.pause) = (Some(Instant::now()), SHORTEST);
            }
        }
    }
}
