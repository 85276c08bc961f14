//! How much may be pushed: by one batch, by one subject, to one store.

use std::num::NonZeroU32;
use std::sync::Arc;

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use tokio::task::JoinSet;

use super::event::Batch;
use super::outcome::PushError;
use super::store_id::StoreId;
use crate::flow::{Flow, Rate};
use crate::metrics::Limit;

/// Whom a token is for.
type Subject = Arc<str>;

/// What an operator sets.
#[derive(Debug, Clone, Copy)]
pub struct PushBounds {
    pub batch_events: usize,
    pub event_bytes: usize,
    pub per_subject: Rate,
    pub per_store: Rate,
    pub new_stores_per_hour: NonZeroU32,
}

/// Keeps pushes within the bounds. What they say of subjects is for those that a token names: without authentication all clients
/// would be one.
pub struct Limits {
    bounds: PushBounds,
    subjects: Arc<Flow<Subject>>,
    stores: Arc<Flow<StoreId>>,
    new_stores: DefaultKeyedRateLimiter<Subject>,
}

impl Limits {
    /// What is to be forgotten is forgotten on `tasks`.
    pub fn start(bounds: PushBounds, tasks: &mut JoinSet<()>) -> Arc<Self> {
        let (subjects, stores) = (Flow::new(bounds.per_subject), Flow::new(bounds.per_store));
        tasks.spawn(Arc::clone(&subjects).forget_regularly());
        tasks.spawn(Arc::clone(&stores).forget_regularly());
        let new_stores = RateLimiter::keyed(Quota::per_hour(bounds.new_stores_per_hour));
        Arc::new(Self { bounds, subjects, stores, new_stores })
    }

    /// # Errors
    /// The batch is too large, or an event of it is.
    pub fn check_size(&self, batch: &Batch) -> Result<(), PushError> {
        let PushBounds { batch_events, event_bytes, .. } = self.bounds;
        if batch.len() > batch_events {
            Limit::BatchEvents.hit();
            let message = format!("a batch has at most {batch_events} events, this one has {}", batch.len());
            return Err(PushError::Invalid(message));
        }
        if let Some((seq_num, size)) = batch.larger_than(event_bytes) {
            Limit::EventBytes.hit();
            let message = format!("an event has at most {event_bytes} bytes, e{seq_num} has {size}");
            return Err(PushError::Invalid(message));
        }
        Ok(())
    }

    /// Whether this much more may be pushed to a store now; then it counts.
    pub fn may(&self, store: &StoreId, bytes: usize) -> bool {
        self.stores.may(store, bytes)
    }

    /// The same for somebody who pushes to it.
    ///
    /// # Errors
    /// Which limit is reached.
    pub fn check_rate(&self, subject: Option<&Subject>, store: &StoreId, bytes: usize) -> Result<(), PushError> {
        if let Some(subject) = subject
            && !self.subjects.may(subject, bytes)
        {
            Limit::PushesPerSubject.hit();
            return Err(too_fast("you push", self.bounds.per_subject));
        }
        if !self.stores.may(store, bytes) {
            Limit::PushesPerStore.hit();
            return Err(too_fast("this store is pushed to", self.bounds.per_store));
        }
        Ok(())
    }

    /// The same for a client that would not try again: waits until it may.
    pub async fn admit(&self, subject: Option<&Subject>, store: &StoreId, bytes: usize) {
        if let Some(subject) = subject {
            self.subjects.admit(subject, bytes).await;
        }
        self.stores.admit(store, bytes).await;
    }

    /// # Errors
    /// This subject has begun too many stores in the last hour.
    pub fn check_new_store(&self, subject: &Subject) -> Result<(), PushError> {
        self.new_stores.check_key(subject).map_err(|_| {
            Limit::NewStoresPerSubject.hit();
            let most = self.bounds.new_stores_per_hour;
            PushError::Throttled(format!("you begin too many stores: at most {most} an hour; try again later"))
        })
    }
}

fn too_fast(who: &str, rate: Rate) -> PushError {
    let Rate { things, bytes } = rate;
    PushError::Throttled(format!("{who} too fast: at most {things} pushes and {bytes} bytes a second; try again later"))
}
