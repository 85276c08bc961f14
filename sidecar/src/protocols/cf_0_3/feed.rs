//! The events that a connection is sent: the answer to its pull, and whatever is pushed to the store from then on.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::messages::{Reason, error, pull_res, push_ack};
use crate::log::{Delivery, Denied, Events, Reader, StoreLog, StreamEnd, Subscription, Unreadable};
use crate::protocols::chunks::chunks;
use crate::protocols::websocket::Outgoing;
use crate::protocols::websocket::close::{Close, EXPIRED, UNAVAILABLE};
use crate::time::passed;

/// The time that a connection may be silent before it counts as one that only listens. A client pings as soon as it is connected.
const SILENCE: Duration = Duration::from_secs(5);

/// The time that a pull waits for events that its sidecar has not heard of, before it reads the head again.
const UNHEARD: Duration = Duration::from_secs(5);

pub const RESET: &str = "the log of this store was reset: clear the local data of the app and reload it";

/// The messages of a connection to its feed.
#[derive(Debug)]
pub enum Ask {
    /// History after the cursor, then what is pushed.
    Pull { request_id: String, cursor: i64 },
    /// The client has said something else than that it wants to pull.
    Ping,
    /// A push built on this event: where the client stands.
    Position { after: i64 },
    /// A push is in the log, up to this event.
    Pushed { request_id: String, head: i64 },
}

/// One task sends all events of a connection, so that none comes twice or out of order.
///
/// A client that pings without having asked for a pull has reconnected. It would take the next event for the one after its
/// last, and never learn of the events in between. So it is sent nothing until its next push tells its position. A client of
/// an empty log, or one that only listens, is at the head.
pub struct Feed {
    log: StoreLog,
    /// The right to read, for the first pull until this time. It was checked when the connection began, so that the authorize
    /// function is asked once.
    reader: Option<(Reader, Instant)>,
    outgoing: Outgoing,
    asked: mpsc::Receiver<Ask>,
    /// The next events to send; none while the client's position is not known, or nothing is to be sent any more.
    live: Option<Subscription>,
    /// If the client says nothing until this time, it counts as one that only listens, and gets the events of this
    /// subscription.
    listening: Option<(Subscription, Instant)>,
    /// The id of the client's pull, by which it can be told that this is over.
    pull_id: Option<String>,
    /// The last event that the client has.
    seen: Option<i64>,
    /// Pushes that wait for their acknowledgement. It is sent after their events, unlike in the original server. So a client
    /// has seen all events that were acknowledged, and its next push tells its position.
    unacknowledged: Vec<(String, i64)>,
    /// The log that this connection knows.
    backend_id: Arc<OnceLock<Arc<str>>>,
}

impl Feed {
    /// `backend_id` is set to that of the log once it is known.
    pub fn new(
        log: StoreLog,
        outgoing: Outgoing,
        asked: mpsc::Receiver<Ask>,
        backend_id: Arc<OnceLock<Arc<str>>>,
    ) -> Self {
        let (live, listening, pull_id, seen, unacknowledged) = (None, None, None, None, Vec::new());
        Self { log, reader: None, outgoing, asked, live, listening, pull_id, seen, unacknowledged, backend_id }
    }

    /// Runs as long as the connection can ask, and until what was pushed is acknowledged. An error closes the connection.
    pub async fn run(mut self) -> Result<(), Close> {
        let mut is_asked = true;
        self.listen().await;
        while is_asked || !self.unacknowledged.is_empty() {
            let silence = self.listening.as_ref().map(|(_, until)| *until);
            tokio::select! {
                biased;
                asked = self.asked.recv(), if is_asked => match asked {
                    Some(asked) => self.hear(asked).await?,
                    None => is_asked = false,
                },
                delivery = next(&mut self.live) => match delivery {
                    Ok(delivery) => self.send(Reason::Push, &delivery).await?,
                    Err(end) => self.over(end).await?,
                },
                () = passed(silence) => {
                    if let Some((events, _)) = self.listening.take() {
                        self.follow(events);
                    }
                }
            }
            self.acknowledge().await?;
        }
        Ok(())
    }

    async fn listen(&mut self) {
        let Ok(reader) = self.log.reader().await else { return };
        let Ok(events) = reader.follow().await else { return };
        let until = Instant::now() + SILENCE;
        self.reader = Some((reader, until));
        if events.last() == 0 {
            self.follow(events);
        } else {
            self.listening = Some((events, until));
        }
    }

    async fn reader(&mut self) -> Result<Reader, Denied> {
        match self.reader.take() {
            Some((reader, until)) if Instant::now() < until => Ok(reader),
            _ => self.log.reader().await,
        }
    }

    async fn hear(&mut self, asked: Ask) -> Result<(), Close> {
        self.listening = None;
        match asked {
            Ask::Ping => {}
            Ask::Pull { request_id, cursor } => self.pull(request_id, cursor).await?,
            // Later, an older event would follow a newer one.
            Ask::Position { after } if self.seen.is_none() => {
                if let Ok(reader) = self.reader().await
                    && let Ok(events) = reader.subscribe(after, None).await
                {
                    self.follow(events);
                }
            }
            Ask::Position { .. } => {}
            Ask::Pushed { request_id, head } => self.unacknowledged.push((request_id, head)),
        }
        Ok(())
    }

    /// The client's position is known: that of this subscription.
    fn follow(&mut self, events: Subscription) {
        self.seen = Some(events.last());
        self.backend_id.get_or_init(|| Arc::clone(events.backend_id()));
        // A push is acknowledged after its events were sent.
        self.live = Some(events.at_once());
    }

    /// Answers a pull, up to the head of the log or further. Events that are pushed meanwhile become part of the answer,
    /// because the client could not tell them from it.
    async fn pull(&mut self, request_id: String, cursor: i64) -> Result<(), Close> {
        self.pull_id = Some(request_id);
        self.live = None;
        let subscribing = async { self.reader().await?.subscribe_at_head(cursor).await };
        let mut head = match subscribing.await {
            Ok((events, head)) => {
                self.follow(events);
                head
            }
            Err(refusal) => return self.end(&refusal.to_string()).await,
        };
        let mut last = self.seen.unwrap_or(cursor);
        loop {
            let mut delivery = match timeout(UNHEARD, next(&mut self.live)).await {
                Ok(Ok(delivery)) => delivery,
                Ok(Err(end)) => return self.over(end).await,
                // A failover may have cost the log its last events.
                Err(_) => {
                    head = head.min(self.head().await.unwrap_or(head));
                    Delivery { events: Events::default(), remaining: 0, share: None }
                }
            };
            last = delivery.events.last().map_or(last, |event| event.seq_num);
            delivery.remaining = delivery.remaining.max(head - last);
            // Postgres has events that the tail has not heard of yet.
            if delivery.events.is_empty() && delivery.remaining > 0 {
                continue;
            }
            self.send(Reason::Pull, &delivery).await?;
            if delivery.remaining == 0 {
                return Ok(());
            }
        }
    }

    /// The head of the log that is followed.
    async fn head(&self) -> Option<i64> {
        self.live.as_ref()?.head().await.ok()?
    }

    async fn send(&mut self, reason: Reason, delivery: &Delivery) -> Result<(), Close> {
        if reason == Reason::Push && delivery.events.is_empty() {
            return Ok(());
        }
        let request_id = self.pull_id.as_deref().unwrap_or_default();
        for (chunk, left) in chunks(&delivery.events, delivery.remaining) {
            let remaining = if reason == Reason::Pull { left } else { 0 };
            self.outgoing.send_counted(pull_res(reason, request_id, chunk, remaining), delivery.share.clone()).await?;
        }
        self.seen = delivery.events.last().map(|event| event.seq_num).or(self.seen);
        Ok(())
    }

    /// The log is another one, or the client may not follow it any more.
    async fn over(&mut self, end: StreamEnd) -> Result<(), Close> {
        match end {
            // A standby may have less than before. The client comes back, and waits for it.
            StreamEnd::Reset { .. } | StreamEnd::Rewound if self.log.is_read_only() => Err(UNAVAILABLE),
            StreamEnd::Reset { .. } | StreamEnd::Rewound => self.end(RESET).await,
            StreamEnd::Unreadable => self.end(&Unreadable.to_string()).await,
            StreamEnd::Expired => {
                self.live = None;
                // Committed pushes are acknowledged. A push that is committed later, its own task acknowledges when it finds nobody here.
                self.asked.close();
                while let Some(asked) = self.asked.recv().await {
                    if let Ask::Pushed { request_id, head } = asked {
                        self.unacknowledged.push((request_id, head));
                    }
                }
                self.acknowledge().await?;
                Err(EXPIRED)
            }
        }
    }

    /// Tells the client that its pull is over.
    async fn end(&mut self, message: &str) -> Result<(), Close> {
        self.live = None;
        match &self.pull_id {
            Some(request_id) => self.outgoing.send(error(request_id, message)).await,
            None => Ok(()),
        }
    }

    async fn acknowledge(&mut self) -> Result<(), Close> {
        let is_seen = |head: i64| self.live.is_none() || self.seen.is_some_and(|seen| seen >= head);
        for (request_id, _) in self.unacknowledged.extract_if(.., |(_, head)| is_seen(*head)) {
            self.outgoing.send(push_ack(&request_id)).await?;
        }
        Ok(())
    }
}

async fn next(live: &mut Option<Subscription>) -> Result<Delivery, StreamEnd> {
    match live {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}
