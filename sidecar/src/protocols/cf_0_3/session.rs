//! One WebSocket connection.

use std::time::Duration;

use axum::extract::ws::WebSocket;
use subtle::ConstantTimeEq;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::feed::{Ask, Feed};
use super::messages::{self, ClientMessage, PONG};
use crate::log::{Batch, PushError, Pushed, ResetError, StoreLog};
use crate::protocols::websocket::close::{Close, SHUTDOWN};
use crate::protocols::websocket::{Incoming, Outgoing, Socket};

/// What may wait for the feed while it sends.
const ASKS: usize = 128;

/// Pushes and admin requests of one connection that may be under way at once.
const REQUESTS: usize = 64;

/// How long a push that the database cannot take waits before it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Serves a connection until it ends. `admin_secret`: that of admin requests; without, there are none.
pub async fn serve(log: StoreLog, socket: WebSocket, admin_secret: Option<String>, shutdown: CancellationToken) {
    let mut socket = Socket::new(socket, shutdown);
    let outgoing = socket.outgoing().clone();
    let (feed, asked) = mpsc::channel(ASKS);
    let feeding = Feed::new(log.clone(), outgoing.clone(), asked);
    let mut tasks = JoinSet::new();
    let closing = outgoing.clone();
    tasks.spawn(async move {
        if let Err(close) = feeding.run().await {
            closing.close(close);
        }
    });
    let mut session = Session { log, outgoing, feed, admin_secret, requests: JoinSet::new(), has_pulled: false };
    let close = session.run(&mut socket).await;
    info!(store = ?session.log.id(), code = close.code, reason = close.reason, "disconnected");
    tasks.abort_all();
    session.end(&close).await;
    drop(tasks);
    socket.end(close).await;
}

struct Session {
    log: StoreLog,
    outgoing: Outgoing,
    feed: mpsc::Sender<Ask>,
    admin_secret: Option<String>,
    requests: JoinSet<()>,
    has_pulled: bool,
}

impl Session {
    async fn run(&mut self, socket: &mut Socket) -> Close {
        loop {
            let incoming = tokio::select! {
                biased;
                Some(_) = self.requests.join_next() => continue,
                incoming = socket.receive() => incoming,
            };
            let result = match incoming {
                Ok(Incoming::Text(text)) => self.receive(&text).await,
                Ok(Incoming::Binary) => {
                    self.refuse("", "a binary message: this protocol is JSON in text messages").await
                }
                Ok(Incoming::Tick) => Ok(()),
                Err(close) => Err(close),
            };
            if let Err(close) = result {
                return close;
            }
        }
    }

    async fn receive(&mut self, text: &str) -> Result<(), Close> {
        let message: ClientMessage<'_> = match serde_json::from_str(text) {
            Ok(message) => message,
            Err(error) => return self.refuse("", &format!("not a message of sync-cf 0.3: {error}")).await,
        };
        let request_id = &*message.request_id;
        while self.requests.len() >= REQUESTS {
            self.requests.join_next().await;
        }
        match &*message.kind {
            "WSMessage.Ping" => {
                if !self.has_pulled {
                    let _ = self.feed.try_send(Ask::Hold);
                }
                self.outgoing.send(PONG.into()).await
            }
            "WSMessage.PullReq" => {
                self.has_pulled = true;
                let ask = Ask::Pull { request_id: request_id.into(), cursor: message.cursor.unwrap_or(0) };
                match self.feed.try_send(ask) {
                    Ok(()) => Ok(()),
                    Err(_) => self.refuse(request_id, "too many pulls on one connection").await,
                }
            }
            "WSMessage.PushReq" => match message.batch.map(|batch| Batch::parse(batch.get())) {
                None => self.refuse(request_id, "malformed batch: it is missing").await,
                Some(Err(error)) => self.refuse(request_id, &format!("malformed batch: {error}")).await,
                Some(Ok(batch)) if batch.is_empty() => self.outgoing.send(messages::push_ack(request_id)).await,
                Some(Ok(batch)) => {
                    self.push(request_id.into(), batch);
                    Ok(())
                }
            },
            "WSMessage.AdminResetRoomReq" | "WSMessage.AdminInfoReq" => self.admin(&message).await,
            unknown => self.refuse(request_id, &format!("unknown message: {unknown}")).await,
        }
    }

    fn push(&mut self, request_id: String, batch: Batch) {
        let (log, outgoing, feed) = (self.log.clone(), self.outgoing.clone(), self.feed.clone());
        let (position, again) = (batch.parent(), batch.clone());
        // Queued here and not in the task, so that pushes keep the order in which they came.
        let first = log.push(batch, None);
        self.requests.spawn(async move {
            let mut result = first.await;
            while result == Err(PushError::Unavailable) {
                sleep(RETRY).await;
                result = log.push(again.clone(), None).await;
            }
            let told = match position {
                Some(after) => feed.send(Ask::Position { after }).await,
                None => Ok(()),
            };
            let answer = match result {
                Ok(Pushed { head }) if told.is_ok() => {
                    let _ = feed.send(Ask::Pushed { request_id, head }).await;
                    return;
                }
                Ok(_) => messages::push_ack(&request_id),
                // The words of the original.
                Err(PushError::ServerAhead { minimum_expected_num, provided_num }) => messages::error(
                    &request_id,
                    &format!(
                        "Invalid parent event number. Received e{provided_num} but expected e{minimum_expected_num}"
                    ),
                ),
                Err(error) => messages::error(&request_id, &error.to_string()),
            };
            let _ = outgoing.send(answer).await;
        });
    }

    async fn admin(&mut self, message: &ClientMessage<'_>) -> Result<(), Close> {
        let request_id = message.request_id.to_string();
        let Some(secret) = &self.admin_secret else {
            return self.refuse(&request_id, "admin requests are switched off on this server: --admin-secret").await;
        };
        let given = message.admin_secret.as_deref().unwrap_or_default();
        if !bool::from(given.as_bytes().ct_eq(secret.as_bytes())) {
            warn!(store = ?self.log.id(), "an admin request with a wrong secret");
            return self.refuse(&request_id, "Invalid admin secret").await;
        }
        let (log, outgoing) = (self.log.clone(), self.outgoing.clone());
        let is_reset = message.kind == "WSMessage.AdminResetRoomReq";
        self.requests.spawn(async move {
            let answer = if is_reset {
                match log.reset().await {
                    Ok(()) => {
                        warn!(store = ?log.id(), "a store was reset by an admin request");
                        messages::admin_reset_room_res(&request_id)
                    }
                    Err(failure) => {
                        let source = match &failure {
                            ResetError::Database(source) => Some(source as &dyn std::error::Error),
                            ResetError::NotAllowed => None,
                        };
                        error!(store = ?log.id(), error = source, "{failure}");
                        messages::error(&request_id, &failure.to_string())
                    }
                }
            } else {
                messages::admin_info_res(&request_id, &log.backend_id().await)
            };
            let _ = outgoing.send(answer).await;
        });
        Ok(())
    }

    async fn refuse(&self, request_id: &str, message: &str) -> Result<(), Close> {
        self.outgoing.send(messages::error(request_id, message)).await
    }

    /// Lets what is under way be answered if this sidecar goes, as long as its deadline allows.
    async fn end(mut self, close: &Close) {
        if *close == SHUTDOWN {
            while self.requests.join_next().await.is_some() {}
        }
    }
}
