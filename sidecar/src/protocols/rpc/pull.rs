//! Pulls over WebSocket: history and live events, in chunks that the client acknowledges.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::requests::{Cursor, pull_failure};
use super::wire::RequestId;
use crate::limits::memory::Share;
use crate::log::{Delivery, Events, PullError, StoreLog, StreamEnd, Unreadable};
use crate::protocols::chunks::chunks;
use crate::protocols::websocket::Outgoing;
use crate::protocols::websocket::close::{Close, EXPIRED, REWOUND, SLOW};

/// The time that a client may leave chunks unacknowledged: as long as it may take to apply them.
const ACK_TIMEOUT: Duration = Duration::from_secs(300);

/// One pull.
pub struct Puller {
    pub log: StoreLog,
    pub id: RequestId,
    pub outgoing: Outgoing,
    /// A permit for each chunk that may be sent before an Ack.
    pub acks: Arc<Semaphore>,
}

impl Puller {
    /// Streams until the end of the history, or of the connection when live. An error closes the connection.
    pub async fn run(&self, live: bool, cursor: Option<Cursor>) -> Result<(), Close> {
        let after = cursor.as_ref().map_or(0, |cursor| cursor.event_sequence_number);
        let received = cursor.map(|cursor| cursor.backend_id);
        // Boxed, as all that takes a moment: it takes no room in a stream that waits.
        if live { self.follow(after, received).await } else { Box::pin(self.history(after, received)).await }
    }

    async fn history(&self, after: i64, received: Option<String>) -> Result<(), Close> {
        let mut pages = match self.log.reader().await {
            Ok(reader) => reader.scan(after, received),
            Err(denied) => return self.refuse(&denied.into()).await,
        };
        loop {
            match pages.next().await {
                Ok(Some(page)) => {
                    self.send_chunks(&page.events, page.remaining(), &page.backend_id, page.share.as_ref()).await?
                }
                Ok(None) => return self.outgoing.send(self.id.success("null")).await,
                Err(error) => return self.refuse(&error).await,
            }
        }
    }

    async fn follow(&self, after: i64, received: Option<String>) -> Result<(), Close> {
        let subscribing = async { self.log.reader().await?.subscribe(after, received.as_deref()).await };
        let mut events = match Box::pin(subscribing).await {
            Ok(events) => events,
            Err(error) => return Box::pin(self.refuse(&error)).await,
        };
        let backend_id = Arc::clone(events.backend_id());
        loop {
            match events.next().await {
                Ok(delivery) => {
                    let Delivery { events, remaining, share } = delivery;
                    Box::pin(self.send_chunks(&events, remaining, &backend_id, share.as_ref())).await?
                }
                Err(StreamEnd::Reset { expected, received }) => {
                    let mismatch = PullError::BackendIdMismatch { expected, received: (*received).into() };
                    return Box::pin(self.refuse(&mismatch)).await;
                }
                Err(StreamEnd::Unreadable) => return Box::pin(self.refuse(&Unreadable.into())).await,
                Err(StreamEnd::Rewound) => return Err(REWOUND),
                Err(StreamEnd::Expired) => return Err(EXPIRED),
            }
        }
    }

    /// A client that is ahead of the log is disconnected: an error would end its sync for good, and the operator can help.
    async fn refuse(&self, error: &PullError) -> Result<(), Close> {
        match pull_failure(error) {
            Some(failure) => self.outgoing.send(self.id.failure(&failure)).await,
            None => Err(REWOUND),
        }
    }

    async fn send_chunks(
        &self,
        events: &Events,
        remaining: i64,
        backend_id: &str,
        share: Option<&Arc<Share>>,
    ) -> Result<(), Close> {
        for (chunk, left) in chunks(events, remaining) {
            match timeout(ACK_TIMEOUT, self.acks.acquire()).await {
                Ok(Ok(permit)) => permit.forget(),
                _ => return Err(SLOW),
            }
            self.outgoing.send_counted(self.id.chunk(chunk, left, backend_id), share.cloned()).await?;
        }
        Ok(())
    }
}
