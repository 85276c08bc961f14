//! Limits of pushes: by batch, by subject, by store.

use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use moka::future::Cache;
use tokio::task::JoinSet;

use super::error::PushError;
use super::settings::PushSettings;
use super::store_id::StoreId;
use crate::limits::rate_limit::{Rate, RateLimit};
use crate::telemetry::metrics::Limit;

const HOUR: Duration = Duration::from_secs(3600);

/// The number of store creations that are remembered.
const BEGUN: u64 = 100_000;

/// The subject of a token.
type Subject = Arc<str>;

/// The fate of a push that is over a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverLimit {
    Refuse,
    /// For a client that would take an error for a final one.
    Wait,
}

/// Keeps pushes within the bounds. Those of subjects apply to clients with a token: without one, all clients would be one subject.
pub struct Limits {
    settings: PushSettings,
    pub subjects: PushRate<Subject>,
    pub stores: PushRate<StoreId>,
    new_stores: DefaultKeyedRateLimiter<Subject>,
    /// Store creations already counted; a retry is free.
    begun: Cache<(Subject, StoreId), ()>,
}

impl Limits {
    /// `tasks` runs what forgets old keys.
    pub fn start(settings: PushSettings, tasks: &mut JoinSet<()>) -> Arc<Self> {
        let limits = Arc::new(Self {
            settings,
            subjects: PushRate::start(settings.per_subject(), Limit::PushesPerSubject, "you push too fast", tasks),
            stores: PushRate::start(
                settings.per_store(),
                Limit::PushesPerStore,
                "this store is pushed to too fast",
                tasks,
            ),
            new_stores: RateLimiter::keyed(Quota::per_hour(settings.new_stores_per_hour)),
            begun: Cache::builder().max_capacity(BEGUN).time_to_live(HOUR).build(),
        });
        tasks.spawn(Arc::clone(&limits).forget_regularly());
        limits
    }

    async fn forget_regularly(self: Arc<Self>) {
        loop {
            tokio::time::sleep(HOUR).await;
            self.new_stores.retain_recent();
        }
    }

    /// Looks at the sizes of the events of a push, in bytes.
    pub fn check_sizes(&self, sizes: impl ExactSizeIterator<Item = usize>) -> Result<(), PushError> {
        let PushSettings { max_batch_events: batch_events, max_event_bytes: event_bytes, .. } = self.settings;
        let count = sizes.len();
        if count > batch_events {
            Limit::BatchEvents.hit();
            let message = format!("a batch has at most {batch_events} events, this one has {count}");
            return Err(PushError::Invalid(message));
        }
        if let Some((index, size)) = sizes.enumerate().find(|(_, size)| *size > event_bytes) {
            Limit::EventBytes.hit();
            let number = index + 1;
            let message = format!("an event has at most {event_bytes} bytes, event {number} of this batch has {size}");
            return Err(PushError::Invalid(message));
        }
        Ok(())
    }

    /// Lets a subject begin a store: now, or as soon as it has not begun too many in the last hour.
    pub async fn begin(&self, subject: &Subject, store: &StoreId, over_limit: OverLimit) -> Result<(), PushError> {
        if self.has_begun(subject, store).await || self.may_begin(subject, store).await {
            return Ok(());
        }
        Limit::NewStoresPerSubject.hit();
        if over_limit == OverLimit::Refuse {
            let most = self.settings.new_stores_per_hour;
            return Err(PushError::Throttled(format!(
                "you create too many stores: at most {most} an hour; try again later"
            )));
        }
        self.new_stores.until_key_ready(subject).await;
        self.begun.insert((Arc::clone(subject), store.clone()), ()).await;
        Ok(())
    }

    async fn has_begun(&self, subject: &Subject, store: &StoreId) -> bool {
        self.begun.get(&(Arc::clone(subject), store.clone())).await.is_some()
    }

    async fn may_begin(&self, subject: &Subject, store: &StoreId) -> bool {
        let may = self.new_stores.check_key(subject).is_ok();
        if may {
            self.begun.insert((Arc::clone(subject), store.clone()), ()).await;
        }
        may
    }
}

/// One rate, and what a client that exceeds it is told.
pub struct PushRate<K: Hash + Eq + Clone> {
    rate_limit: Arc<RateLimit<K>>,
    rate: Rate,
    limit: Limit,
    complaint: &'static str,
}

impl<K: Hash + Eq + Clone + Send + Sync + 'static> PushRate<K> {
    fn start(rate: Rate, limit: Limit, complaint: &'static str, tasks: &mut JoinSet<()>) -> Self {
        Self { rate_limit: RateLimit::start(rate, tasks), rate, limit, complaint }
    }

    /// Whether this much more may be pushed now; then it counts.
    pub fn may(&self, who: &K, bytes: usize) -> bool {
        self.rate_limit.may(who, bytes)
    }

    /// Lets so much more be pushed: now, or as soon as it may be.
    pub async fn pass(&self, who: &K, bytes: usize, over_limit: OverLimit) -> Result<(), PushError> {
        let is_over = match over_limit {
            OverLimit::Refuse => !self.may(who, bytes),
            OverLimit::Wait => self.rate_limit.admit(who, bytes).await,
        };
        if is_over {
            self.limit.hit();
        }
        if is_over && over_limit == OverLimit::Refuse {
            let (Rate { items, bytes }, complaint) = (self.rate, self.complaint);
            let message = format!("{complaint}: at most {items} pushes and {bytes} bytes a second; try again later");
            return Err(PushError::Throttled(message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::testing::{public_log, store};

    #[tokio::test]
    async fn a_push_is_refused_beyond_a_limit_or_waits() {
        let log = public_log(&mut JoinSet::new());
        let (limits, ann, store) = (&log.limits, Arc::from("ann"), store("s"));
        for (sizes, error) in [
            (&[100, 100][..], None),
            (&[1, 1, 1], Some("a batch has at most 2 events, this one has 3")),
            (&[1, 101], Some("an event has at most 100 bytes, event 2 of this batch has 101")),
        ] {
            let checked = limits.check_sizes(sizes.iter().copied());
            assert_eq!(checked.err().map(|error| error.to_string()).as_deref(), error);
        }
        for is_allowed in [true, true, false] {
            assert_eq!(limits.stores.pass(&store, 1, OverLimit::Refuse).await.is_ok(), is_allowed);
        }
        assert!(limits.stores.pass(&store, 1, OverLimit::Wait).await.is_ok());
        // A store that was begun may be begun again.
        for (name, is_allowed) in [("a", true), ("a", true), ("b", false), ("a", true)] {
            let store = StoreId::parse(name).unwrap();
            assert_eq!(limits.begin(&ann, &store, OverLimit::Refuse).await.is_ok(), is_allowed, "{name}");
        }
    }
}
