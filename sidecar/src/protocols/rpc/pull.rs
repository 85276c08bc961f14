//! Pulls: history and live events, in chunks that the client acknowledges.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::Message;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::close::{Close, REWOUND, SLOW};
use super::requests::{Cursor, backend_id_mismatch};
use super::wire::{RequestId, chunks};
use crate::log::{BadCursor, Event, Log, StoreId, StreamEnd};

/// How long a client may leave chunks unacknowledged: as long as it may take to apply them.
const ACK_TIMEOUT: Duration = Duration::from_secs(300);

/// One pull.
pub struct Puller {
    pub log: Log,
    pub store: StoreId,
    pub id: RequestId,
    pub outgoing: mpsc::Sender<Message>,
    /// A permit for each chunk that may be sent before an Ack.
    pub acks: Arc<Semaphore>,
}

impl Puller {
    /// Streams until the end of the history, or of the connection when live. An error closes the connection.
    pub async fn run(&self, live: bool, cursor: Option<Cursor>) -> Result<(), Close> {
        let after = cursor.as_ref().map_or(0, |cursor| cursor.event_sequence_number);
        let received = cursor.map(|cursor| cursor.backend_id);
        if live { self.follow(after, received).await } else { self.history(after, received).await }
    }

    async fn history(&self, mut after: i64, mut received: Option<String>) -> Result<(), Close> {
        loop {
            let page = match self.log.pull(&self.store, after, received.as_deref()).await {
                Ok(page) => page,
                Err(bad) => return self.refuse(&bad).await,
            };
            let backend_id = &*page.backend_id;
            // A reset between two pages must not mix two logs.
            received.get_or_insert_with(|| backend_id.into());
            after = page.events.last().map_or(page.head, |event| event.seq_num);
            let remaining = (page.head - after).max(0);
            self.send_chunks(&page.events, remaining, backend_id).await?;
            if remaining == 0 {
                return self.send(self.id.success("null")).await;
            }
        }
    }

    async fn follow(&self, after: i64, received: Option<String>) -> Result<(), Close> {
        let mut events = match self.log.subscribe(&self.store, after, received.as_deref()).await {
            Ok(events) => events,
            Err(bad) => return self.refuse(&bad).await,
        };
        let backend_id = Arc::clone(events.backend_id());
        loop {
            match events.next().await {
                Ok(delivery) => self.send_chunks(&delivery.events, delivery.remaining, &backend_id).await?,
                Err(StreamEnd::Reset { expected, received }) => {
                    return self.send(self.id.failure(&backend_id_mismatch(&expected, &received))).await;
                }
                Err(StreamEnd::Rewound) => return Err(REWOUND),
            }
        }
    }

    async fn refuse(&self, cursor: &BadCursor) -> Result<(), Close> {
        match cursor {
            BadCursor::BackendIdMismatch { expected, received } => {
                self.send(self.id.failure(&backend_id_mismatch(expected, received))).await
            }
            BadCursor::Rewound => Err(REWOUND),
        }
    }

    async fn send_chunks(&self, events: &[Arc<Event>], remaining: i64, backend_id: &str) -> Result<(), Close> {
        let mut left = i64::try_from(events.len()).unwrap_or(i64::MAX).saturating_add(remaining);
        for chunk in chunks(events) {
            left -= i64::try_from(chunk.len()).unwrap_or(0);
            match timeout(ACK_TIMEOUT, self.acks.acquire()).await {
                Ok(Ok(permit)) => permit.forget(),
                _ => return Err(SLOW),
            }
            self.send(self.id.chunk(chunk, left, backend_id)).await?;
        }
        Ok(())
    }

    pub async fn send(&self, frame: String) -> Result<(), Close> {
        self.outgoing.send(Message::text(frame)).await.map_err(|_| SLOW)
    }
}
