//! A shape as Server-Sent Events: a live request that goes on for a while.

use std::time::Duration;

use axum::body::{Body, Bytes};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::counted_rows;
use crate::limits::memory::Account;
use crate::log::{Delivery, Reader, Subscription};
use crate::protocols::body;
use crate::protocols::electric::messages::{Rows, up_to_date};
use crate::protocols::electric::offset::Position;
use crate::protocols::electric::read::{Patience, ReadError, read_error};

/// After this long the client connects anew, as with Electric: until then caches answer others with the same stream.
pub const LIFETIME: Duration = Duration::from_secs(60);

/// The interval of keep-alives on a silent stream.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

const SIGN_OF_LIFE: &str = ": keep-alive\n\n";

/// A stream that has begun.
pub struct Stream {
    pub body: Body,
    /// The handle of the shape.
    pub handle: Box<str>,
    /// Whether events are streamed. If not, the answer is empty, since the database is away or the sidecar shuts down.
    pub has_begun: bool,
}

/// Streams what follows a position; a task on `tasks` does it.
pub async fn open(
    reader: &Reader,
    position: &Position,
    rows: Rows,
    patience: &mut Patience,
    tasks: &TaskTracker,
    shutdown: CancellationToken,
) -> Result<Stream, ReadError> {
    let offset = position.offset;
    let subscribing = reader.subscribe(offset.seq_num, position.backend_id());
    let Some(subscribed) = patience.wait_for(subscribing).await else {
        return Ok(nothing_yet(position));
    };
    let subscription = subscribed.map_err(|error| read_error(error, offset))?;
    subscription.linger();
    let handle = (**subscription.backend_id()).into();
    let (pieces, body) = body::written();
    let feed = Feed { subscription, rows, pieces, account: reader.account() };
    tasks.spawn(async move {
        let gone = feed.pieces.clone();
        tokio::select! {
            () = gone.closed() => {}
            () = shutdown.cancelled() => {}
            () = sleep(LIFETIME) => {}
            () = feed.run() => {}
        }
    });
    Ok(Stream { body, handle, has_begun: true })
}

/// The database is away, or the server ends: nothing is sent, and the client comes again.
pub fn nothing_yet(position: &Position) -> Stream {
    Stream { body: Body::from(": nothing yet\n\n"), handle: position.handle.clone(), has_begun: false }
}

struct Feed {
    subscription: Subscription,
    rows: Rows,
    pieces: mpsc::Sender<Bytes>,
    account: Account,
}

impl Feed {
    /// Ends when the log does, or when the client is gone: it resumes after what it was sent whole.
    async fn run(mut self) {
        // The first at once: an answer begins with its first piece.
        if self.pieces.send(SIGN_OF_LIFE.into()).await.is_err() {
            return;
        }
        let mut keep_alive = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
        loop {
            let piece = tokio::select! {
                delivery = self.subscription.next() => match delivery {
                    Ok(delivery) if delivery.events.is_empty() => continue,
                    Ok(delivery) => {
                        let (text, events) = (self.messages(&delivery), delivery.events.len());
                        counted_rows(text, &self.rows, events, delivery.share, Some(&self.account))
                    }
                    // The next request is told.
                    Err(_) => return,
                },
                _ = keep_alive.tick() => SIGN_OF_LIFE.into(),
            };
            if self.pieces.send(piece).await.is_err() {
                return;
            }
        }
    }

    /// The client takes in what it was sent at each up-to-date, and resumes behind it.
    fn messages(&self, delivery: &Delivery) -> String {
        let mut messages = String::new();
        for event in delivery.events.iter() {
            messages.push_str("data: ");
            self.rows.write(&mut messages, event);
            messages.push_str("\n\n");
        }
        if delivery.remaining == 0 {
            messages.extend(["data: ", &up_to_date(self.subscription.last()), "\n\n"]);
        }
        messages
    }
}
