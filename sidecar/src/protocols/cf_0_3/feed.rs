//! The events that a connection is sent: the answer to its pull, and whatever is pushed to the store from then on.

use tokio::sync::mpsc;

use super::messages::{Reason, error, pull_res, push_ack};
use crate::log::{Delivery, StoreLog, StreamEnd, Subscription};
use crate::protocols::chunks::chunks;
use crate::protocols::websocket::Outgoing;
use crate::protocols::websocket::close::Close;

/// What a feed is told by its connection.
#[derive(Debug)]
pub enum Ask {
    /// History after the cursor, then what is pushed.
    Pull { request_id: String, cursor: i64 },
    /// A client that speaks without having asked for a pull has reconnected. It would take the next event for the one
    /// after its last and never learn of those between, so that it hears nothing until its position is known.
    Hold,
    /// A push built on this event: where the client stands.
    Position { after: i64 },
    /// A push is in the log, up to this event.
    Pushed { request_id: String, head: i64 },
}

/// One task sends all events of a connection, so that none comes twice or out of order.
pub struct Feed {
    log: StoreLog,
    outgoing: Outgoing,
    asked: mpsc::Receiver<Ask>,
    /// What is sent next; none while the client's position is not known, or nothing is to be sent any more.
    live: Option<Subscription>,
    /// The id of the client's pull, by which it can be told that this is over.
    pull_id: Option<String>,
    is_position_known: bool,
    /// The last event that was sent.
    sent: Option<i64>,
    /// Pushes to acknowledge once their events were sent. That order, and not the original's, lets a client's position be
    /// known by its next push: what is acknowledged, it has seen.
    unacknowledged: Vec<(String, i64)>,
}

const RESET: &str = "the log of this store was reset: clear the local data of the app and reload it";

impl Feed {
    pub fn new(log: StoreLog, outgoing: Outgoing, asked: mpsc::Receiver<Ask>) -> Self {
        let (live, pull_id, sent) = (None, None, None);
        Self { log, outgoing, asked, live, pull_id, is_position_known: false, sent, unacknowledged: Vec::new() }
    }

    /// Runs as long as the connection. An error closes it.
    pub async fn run(mut self) -> Result<(), Close> {
        // As in the original, a connection hears of pushes before it has asked for anything, if it may.
        self.live = self.log.follow().await.ok();
        loop {
            tokio::select! {
                biased;
                asked = self.asked.recv() => match asked {
                    None => return Ok(()),
                    Some(Ask::Pull { request_id, cursor }) => self.pull(request_id, cursor).await?,
                    // Once events were sent, it is too late: an older one must not follow a later one.
                    Some(Ask::Hold | Ask::Position { .. }) if self.is_position_known => {}
                    Some(Ask::Hold) => self.live = None,
                    Some(Ask::Position { after }) => {
                        self.live = self.log.subscribe(after, None).await.ok();
                        self.is_position_known = self.live.is_some();
                    }
                    Some(Ask::Pushed { request_id, head }) => self.unacknowledged.push((request_id, head)),
                },
                delivery = next(&mut self.live) => match delivery {
                    Ok(delivery) => self.send(Reason::Push, &delivery).await?,
                    Err(_) => self.end(RESET).await?,
                },
            }
            self.acknowledge().await?;
        }
    }

    /// Answers a pull. What is pushed meanwhile is part of the answer: the client would mix up the two.
    async fn pull(&mut self, request_id: String, cursor: i64) -> Result<(), Close> {
        self.pull_id = Some(request_id);
        self.is_position_known = true;
        self.live = None;
        let mut events = match self.log.subscribe(cursor, None).await {
            Ok(events) => events,
            Err(refusal) => return self.end(&refusal.to_string()).await,
        };
        loop {
            let Ok(delivery) = events.next().await else {
                return self.end(RESET).await;
            };
            self.send(Reason::Pull, &delivery).await?;
            if delivery.remaining == 0 {
                self.live = Some(events);
                return Ok(());
            }
        }
    }

    async fn send(&mut self, reason: Reason, delivery: &Delivery) -> Result<(), Close> {
        if reason == Reason::Push && delivery.events.is_empty() {
            return Ok(());
        }
        let request_id = self.pull_id.as_deref().unwrap_or_default();
        for (chunk, left) in chunks(&delivery.events, delivery.remaining) {
            let remaining = if reason == Reason::Pull { left } else { 0 };
            self.outgoing.send(pull_res(reason, request_id, chunk, remaining)).await?;
        }
        self.is_position_known = true;
        self.sent = delivery.events.last().map(|event| event.seq_num).or(self.sent);
        Ok(())
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
        let is_seen = |head: i64| self.live.is_none() || self.sent.is_some_and(|sent| sent >= head);
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
