//! Readers of live logs.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::clients::ClientGuard;
use super::events::Events;
use super::prefetch::{Prefetch, cost};
use super::tail::{News, Pace, StreamEnd, Tail, TailState};
use crate::limits::memory::{FREE, Share};
use crate::log::context::Context;
use crate::log::error::PullError;
use crate::postgres::Unreadable;
use crate::telemetry::metrics::{self, GaugeGuard};
use crate::time::passed;

/// One reader of a live log.
pub struct Subscription {
    tail: Arc<Tail>,
    changed: watch::Receiver<TailState>,
    last: i64,
    backend_id: Arc<str>,
    is_first: bool,
    pace: Pace,
    /// When the token of the reader ends.
    until: Option<Instant>,
    prefetch: Prefetch,
    reader: Option<(ClientGuard<Arc<Tail>>, GaugeGuard)>,
}

/// Events to deliver next.
#[derive(Debug)]
pub struct Delivery {
    pub events: Events,
    /// The number of events that the log is known to have beyond: exact if its sequence numbers have no gaps.
    pub remaining: i64,
    /// The memory for the events and their text.
    pub share: Option<Arc<Share>>,
}

impl Subscription {
    /// Follows a log from a position on, or from where it stands; `prefetch` reads what its tail does not hold.
    pub(in crate::log) async fn begin(after: Option<i64>, prefetch: Prefetch) -> Result<Self, Unreadable> {
        let (tail, changed, backend_id) = prefetch.follow().await?;
        let last = after.unwrap_or_else(|| tail.position());
        Ok(Self {
            tail,
            changed,
            last,
            backend_id,
            is_first: true,
            pace: Pace::InWindows,
            until: None,
            prefetch,
            reader: None,
        })
    }

    /// Makes this the subscription of a client: it ends when the client's token expires, and keeps the client's place among
    /// the connections of its subject.
    pub(in crate::log) fn of(self, reader: Arc<Context>, until: Option<Instant>) -> Self {
        let gauge = GaugeGuard::stream(reader.dialect());
        let client = ClientGuard::new(Arc::clone(&self.tail), reader, self.last);
        Self { until, reader: Some((client, gauge)), ..self }
    }

    /// Its events are not held back while the store is contended.
    pub fn at_once(self) -> Self {
        Self { pace: Pace::AtOnce, ..self }
    }

    pub fn backend_id(&self) -> &Arc<str> {
        &self.backend_id
    }

    /// The last event that was read.
    pub fn last(&self) -> i64 {
        self.last
    }

    /// The head of the log when it was last read.
    pub fn position(&self) -> i64 {
        self.tail.position()
    }

    /// The head in Postgres, which the tail may not have heard of yet. `None` if the log was reset: the subscription is about to end.
    /// Waits while the database is away.
    pub async fn head(&self) -> Result<Option<i64>, Unreadable> {
        let page = self.prefetch.status().await?;
        self.tail.compare(page.head, Some(&page.backend_id));
        Ok((page.backend_id == self.backend_id).then_some(page.head))
    }

    /// Waits for events after the last that it returned: each is returned once, in order. The first call does not wait and may return
    /// none. Events of a contended store come a moment later, together. Cancel safe.
    pub async fn next(&mut self) -> Result<Delivery, StreamEnd> {
        let mut has_waited = false;
        loop {
            if self.until.is_some_and(|until| until <= Instant::now()) {
                return Err(StreamEnd::Expired);
            }
            let is_elsewhere = match &*self.changed.borrow_and_update() {
                TailState::Ended(end) => return Err(end.clone()),
                state => matches!(state, TailState::Elsewhere),
            };
            if is_elsewhere {
                let until = self.until;
                // Boxed: it is rare.
                let going_over = Box::pin(self.go_over());
                tokio::select! {
                    biased;
                    gone_over = going_over => gone_over?,
                    () = passed(until) => {}
                }
                continue;
            }
            let news = self.tail.after(self.last, self.pace);
            let held_until = match news {
                News::Held(until) => Some(until),
                News::None | News::There { .. } => None,
            };
            if let News::There { position, recent } = news {
                let until = self.until;
                let (from, delivery) = match recent {
                    Some(events) => {
                        self.prefetch.forget();
                        let bytes = cost(&events);
                        let share = match bytes {
                            0..=FREE => None,
                            _ => tokio::select! {
                                biased;
                                () = passed(until) => continue,
                                share = self.prefetch.account().take(bytes) => share,
                            },
                        };
                        ("tail", (events.into(), share.map(Arc::new)))
                    }
                    // Boxed: a stream reads for a moment, and waits for years.
                    None => tokio::select! {
                        biased;
                        () = passed(until) => continue,
                        page = Box::pin(self.read_page()) => ("database", page?),
                    },
                };
                let (events, share) = delivery;
                if let Some(last) = events.last() {
                    metrics::delivered(from, events.len());
                    if has_waited {
                        let lag = chrono::Utc::now() - last.created_at;
                        metrics::delivery_lag(lag.to_std().unwrap_or_default());
                    }
                    self.last = last.seq_num;
                    if let Some((client, _)) = &self.reader {
                        client.has(self.last);
                    }
                    self.is_first = false;
                    return Ok(Delivery { events, remaining: (position - self.last).max(0), share });
                }
            }
            if std::mem::take(&mut self.is_first) {
                return Ok(Delivery { events: Events::default(), remaining: 0, share: None });
            }
            tokio::select! {
                changed = self.changed.changed() => changed.map_err(|_| StreamEnd::Rewound)?,
                () = passed([self.until, held_until].into_iter().flatten().min()) => {}
            }
            has_waited = true;
        }
    }

    /// Goes on from the last event on the shard where the store is now. Cancel safe.
    async fn go_over(&mut self) -> Result<(), StreamEnd> {
        loop {
            let (tail, changed, backend_id) = self.prefetch.follow().await.map_err(|_| StreamEnd::Unreadable)?;
            if backend_id == self.backend_id && self.last <= tail.position() {
                if let Some((client, _)) = &mut self.reader {
                    *client = client.at(Arc::clone(&tail));
                }
                (self.tail, self.changed) = (tail, changed);
                self.changed.mark_changed();
                return Ok(());
            }
            // A tail may lag behind, so Postgres is asked.
            match self.prefetch.check(self.last, Some(&self.backend_id)).await {
                Ok(()) => {}
                Err(PullError::BackendIdMismatch { expected, .. }) => {
                    return Err(tail.end_of_life(expected, Arc::clone(&self.backend_id)));
                }
                Err(PullError::Unreadable(_)) => return Err(StreamEnd::Unreadable),
                Err(PullError::Rewound | PullError::Denied(_)) => return Err(StreamEnd::Rewound),
            }
        }
    }

    /// Keeps the tail for a while without this subscription: a client that polls comes back, and then costs no query.
    pub fn linger(&self) {
        self.tail.linger();
    }

    async fn read_page(&mut self) -> Result<(Events, Option<Arc<Share>>), StreamEnd> {
        let page = self.prefetch.page(self.last).await.map_err(|_| StreamEnd::Unreadable)?;
        if page.backend_id == self.backend_id {
            Ok((page.events, page.share))
        } else {
            // At once, so that the next subscriber has the new log.
            self.tail.refresh();
            Err(self.tail.end_of_life(page.backend_id, Arc::clone(&self.backend_id)))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limits::memory::Memory;
    use crate::log::testing::{events, page, public_log, store};

    #[tokio::test]
    async fn each_event_is_delivered_once_in_order_until_the_log_or_the_token_ends() {
        let shards = Arc::clone(&public_log(&mut tokio::task::JoinSet::new()).shards);
        let tail = shards.first().tails.get_or_create(&store("s"));
        tail.apply(None, 0, page(0, "a", Vec::new()));
        let prefetch = || Prefetch::new(Arc::clone(&shards), store("s"), Memory::new(1 << 20, 1 << 20).strangers());
        let mut subscription = Subscription::begin(None, prefetch()).await.unwrap();
        assert!(subscription.next().await.unwrap().events.is_empty(), "the first call does not wait");
        for (after, count) in [(0, 2), (2, 1)] {
            tail.publish("a", events(after, count, 1), || true);
            let Delivery { events, remaining, .. } = subscription.next().await.unwrap();
            assert_eq!((events.first().map(|event| event.parent_seq_num), remaining), (Some(after), 0));
            assert_eq!(subscription.last(), subscription.position());
        }
        let expired = Subscription::begin(Some(0), prefetch()).await.unwrap();
        let mut expired = expired.of(Arc::default(), Some(Instant::now()));
        assert_eq!(expired.next().await.err(), Some(StreamEnd::Expired));
        // The database that has the event is away.
        let behind = Subscription::begin(Some(-1), prefetch()).await.unwrap();
        let mut behind = behind.of(Arc::default(), Some(Instant::now() + Duration::from_millis(50)));
        assert_eq!(behind.next().await.err(), Some(StreamEnd::Expired));
        tail.apply(Some(3), 0, page(0, "a", Vec::new()));
        assert_eq!(subscription.next().await.err(), Some(StreamEnd::Rewound));
    }
}
