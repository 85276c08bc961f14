//! The events that a connection is sent: the answer to its pull, and whatever is pushed to the store from then on.

use tokio::sync::mpsc;

use super::messages::{Reason, error, pull_res};
use crate::log::{StoreLog, StreamEnd, Subscription};
use crate::protocols::chunks::chunks;
use crate::protocols::websocket::Outgoing;
use crate::protocols::websocket::close::Close;

/// What a feed is asked for.
#[derive(Debug)]
pub enum Ask {
    /// History after the cursor, then what is pushed.
    Pull { request_id: String, cursor: i64 },
    /// The client turns out to lack what follows this event.
    CatchUp { after: i64 },
}

/// One task sends all events of a connection, so that none comes twice or out of order.
pub struct Feed {
    pub log: StoreLog,
    pub outgoing: Outgoing,
    pub asked: mpsc::Receiver<Ask>,
}

const RESET: &str = "the log of this store was reset: clear the local data of the app and reload it";

impl Feed {
    /// Runs as long as the connection. An error closes it.
    pub async fn run(mut self) -> Result<(), Close> {
        // As in the original, a connection hears of pushes before it has asked for anything, if it may.
        let mut live = self.log.follow().await.ok();
        // The id of the client's pull, by which it can be told that this is over.
        let mut request_id = String::new();
        let mut has_sent = false;
        loop {
            let delivery = tokio::select! {
                biased;
                asked = self.asked.recv() => {
                    match asked {
                        None => return Ok(()),
                        Some(Ask::Pull { request_id: id, cursor }) => {
                            live = self.pull(&id, cursor).await?;
                            (request_id, has_sent) = (id, true);
                        }
                        // A client that reconnected without asking. If it was sent newer events meanwhile, it is too
                        // late for these: an older one would stop it.
                        Some(Ask::CatchUp { after }) if !has_sent => {
                            live = self.log.subscribe(after, None).await.ok();
                        }
                        Some(Ask::CatchUp { .. }) => {}
                    }
                    continue;
                }
                delivery = next(&mut live) => delivery,
            };
            match delivery {
                Ok(delivery) if delivery.events.is_empty() => {}
                Ok(delivery) => {
                    for (chunk, _) in chunks(&delivery.events, 0) {
                        self.outgoing.send(pull_res(Reason::Push, &request_id, chunk, 0)).await?;
                    }
                    has_sent = true;
                }
                Err(_) => {
                    live = None;
                    self.outgoing.send(error(&request_id, RESET)).await?;
                }
            }
        }
    }

    /// Answers a pull. What is pushed meanwhile is part of the answer: the client would mix up the two.
    async fn pull(&self, request_id: &str, cursor: i64) -> Result<Option<Subscription>, Close> {
        let mut events = match self.log.subscribe(cursor, None).await {
            Ok(events) => events,
            Err(refusal) => {
                self.outgoing.send(error(request_id, &refusal.to_string())).await?;
                return Ok(None);
            }
        };
        loop {
            let Ok(delivery) = events.next().await else {
                self.outgoing.send(error(request_id, RESET)).await?;
                return Ok(None);
            };
            for (chunk, left) in chunks(&delivery.events, delivery.remaining) {
                self.outgoing.send(pull_res(Reason::Pull, request_id, chunk, left)).await?;
            }
            if delivery.remaining == 0 {
                return Ok(Some(events));
            }
        }
    }
}

async fn next(live: &mut Option<Subscription>) -> Result<crate::log::Delivery, StreamEnd> {
    match live {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}
