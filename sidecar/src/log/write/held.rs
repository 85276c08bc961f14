//! Pushes that are tried again: another transaction holds their store, or another error of theirs is temporary. They are committed on a
//! connection of their own, so that they do not delay other stores.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::push::{GROUP_BYTES, GROUP_PUSHES, Push};
use crate::log::store_id::StoreId;

/// The time that the pushes of a store wait before they are tried again: at first about as long as a commit takes.
const SHORTEST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_millis(128);

/// Pushes that wait for longer are logged.
const LONG: Duration = Duration::from_secs(2);

/// The share of the queue that the pushes of one store may take, so that there is room for others.
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
    /// When they are tried next; none while they are being tried.
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
    /// Puts a push behind those of its store that wait; returns it if there are none.
    pub fn join(&self, push: Push) -> Option<Push> {
        let mut stores = self.stores.lock();
        let Some(waiting) = stores.get_mut(&push.store) else {
            return Some(push);
        };
        waiting.bytes += push.size();
        waiting.pushes.push_back(push);
        None
    }

    /// Holds pushes, in this order.
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

    /// Whether a store has no room left.
    pub fn is_full(&self, store: &StoreId) -> bool {
        self.stores.lock().get(store).is_some_and(|waiting| waiting.bytes >= STORE_BYTES)
    }

    /// The number of stores that have pushes here.
    pub fn count(&self) -> usize {
        self.stores.lock().len()
    }

    /// The number of those whose pushes have waited for longer than this.
    pub fn count_longer_than(&self, time: Duration) -> usize {
        self.stores.lock().values().filter(|waiting| waiting.since.elapsed() > time).count()
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

    /// Puts pushes that failed once more before the others of their store.
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
                continue;
            }
            if std::mem::take(&mut waiting.is_logged) {
                let seconds = (waiting.since.elapsed().as_secs_f64() * 1e3).round() / 1e3;
                info!(?store, seconds, "pushes wait no longer");
            }
            if waiting.pushes.is_empty() {
                stores.remove(store);
            } else {
                // Pushes that came while the others were tried are due at once, and have not waited for long.
                let now = Instant::now();
                (waiting.due, waiting.since, waiting.pause) = (Some(now), now, SHORTEST);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::{push, store};

    fn parents(group: &[Push]) -> Vec<i64> {
        group.iter().filter_map(|push| push.batch.parent()).collect()
    }

    #[tokio::test]
    async fn pushes_of_a_store_wait_in_their_order_until_none_is_left() {
        let (held, one) = (Held::default(), |after| push("s", after, 1).0);
        assert!(held.join(one(0)).is_some(), "nothing waits yet");
        held.hold(vec![one(0), one(1)]);
        assert!(held.join(one(2)).is_none());
        let mut group = held.due().await;
        assert_eq!(parents(&group), [0, 1, 2]);
        assert!(held.join(one(3)).is_none());
        let tried = [store("s"), store("s"), store("s")];
        held.put_back(&tried, group.split_off(1));
        assert_eq!((parents(&held.due().await), held.count()), (vec![1, 2, 3], 1));
        held.put_back(&tried, Vec::new());
        assert!(held.count() == 0 && held.join(one(4)).is_some());
        held.hold(vec![push("s", 4, STORE_BYTES).0]);
        assert!(held.is_full(&store("s")) && !held.is_full(&store("other")));
    }

    #[tokio::test]
    async fn a_store_whose_pushes_are_committed_does_not_wait_for_long() {
        let (held, one) = (Held::default(), |after| push("s", after, 1).0);
        let long = Duration::from_millis(30);
        held.hold(vec![one(0)]);
        tokio::time::sleep(2 * long).await;
        assert_eq!(held.count_longer_than(long), 1);
        // Others come each time before the last ones are committed.
        drop(held.due().await);
        assert!(held.join(one(1)).is_none());
        held.put_back(&[store("s")], Vec::new());
        assert_eq!((held.count(), held.count_longer_than(long)), (1, 0));
    }
}
