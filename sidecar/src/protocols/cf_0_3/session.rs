//! One WebSocket connection.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::ws::WebSocket;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendError;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::feed::{Ask, Feed, RESET};
use super::messages::{self, ClientMessage, PONG};
use crate::auth::{Guess, Secret};
use crate::limits::peer::Peer;
use crate::log::{Admitted, Batch, PushError, ResetError, StoreLog};
use crate::protocols::websocket::close::{Close, EXPIRED, SHUTDOWN};
use crate::protocols::websocket::meter::Meter;
use crate::protocols::websocket::{Incoming, Outgoing, Socket};
use crate::telemetry::chain;
use crate::time::passed;

/// The number of messages that may wait for the feed while it sends.
const ASKS: usize = 128;

/// Pushes and admin requests of one connection that may be under way before nothing more is read from it.
const REQUESTS: usize = 64;

/// The longest id of a request. The client's have 21 characters; they are remembered and repeated.
const ID_BYTES: usize = 128;

/// The time that requests under way may take to be answered when the sidecar ends: less than it has by default.
const FAREWELL: Duration = Duration::from_secs(5);

/// Serves a connection until it ends. `admin_secret`: that of admin requests, and who guesses it; without, there are none.
pub async fn serve(
    log: StoreLog,
    socket: WebSocket,
    meter: Arc<Meter>,
    admin_secret: Option<(Arc<Secret>, Peer)>,
    shutdown: CancellationToken,
) {
    let mut socket = Socket::new(socket, meter, shutdown);
    let outgoing = socket.outgoing().clone();
    let (feed, asked) = mpsc::channel(ASKS);
    let backend_id = Arc::default();
    let feeding = Feed::new(log.clone(), outgoing.clone(), asked, Arc::clone(&backend_id));
    let mut feeds = JoinSet::new();
    let closing = outgoing.clone();
    feeds.spawn(async move {
        if let Err(close) = feeding.run().await {
            closing.close(close);
        }
    });
    let until = log.until().await;
    let mut session = Session {
        log,
        until,
        outgoing,
        feed,
        backend_id,
        admin_secret,
        requests: JoinSet::new(),
        unqueued: None,
        has_pulled: false,
    };
    let close = session.run(&mut socket).await;
    info!(store = ?session.log.id(), code = close.code, reason = close.reason, "disconnected");
    if close == SHUTDOWN
        && let Some((request_id, admission)) = session.unqueued.take()
        && let Ok(Ok(push)) = timeout(FAREWELL / 2, admission).await
    {
        session.push(request_id, push);
    }
    let Session { mut requests, feed, .. } = session;
    if [SHUTDOWN, EXPIRED].contains(&close) {
        // A committed push is acknowledged, after its events: a client waits for ever for an answer that is lost.
        let answered = async {
            while requests.join_next().await.is_some() {}
            drop(feed);
            feeds.join_next().await;
        };
        let _ = timeout(FAREWELL, answered).await;
    }
    drop((requests, feeds));
    socket.end(close).await;
}

struct Session {
    log: StoreLog,
    /// When the client's token ends. Its connection ends then, also without a live stream: the client does not try a push again that was
    /// refused, while it may have a new token for its next connection.
    until: Option<Instant>,
    outgoing: Outgoing,
    feed: mpsc::Sender<Ask>,
    /// The log that this connection knows, once it does.
    backend_id: Arc<OnceLock<Arc<str>>>,
    admin_secret: Option<(Arc<Secret>, Peer)>,
    requests: JoinSet<()>,
    /// A push that waits until it may be queued, and its id; nothing is read meanwhile.
    unqueued: Option<(String, Admission)>,
    has_pulled: bool,
}

impl Session {
    async fn run(&mut self, socket: &mut Socket) -> Close {
        loop {
            let has_ended = self.until.is_some_and(|until| until <= Instant::now());
            if has_ended && self.requests.is_empty() && self.unqueued.is_none() {
                return EXPIRED;
            }
            let may_read = !has_ended && self.requests.len() < REQUESTS && self.unqueued.is_none();
            let incoming = tokio::select! {
                biased;
                Some(_) = self.requests.join_next() => continue,
                admitted = admitted(&mut self.unqueued) => {
                    match (self.unqueued.take(), admitted) {
                        (Some((request_id, _)), Ok(push)) => self.push(request_id, push),
                        // The sidecar ends.
                        (Some(_), Err(PushError::Unavailable)) | (None, _) => {}
                        (Some((request_id, _)), Err(error)) => {
                            if let Err(close) = self.refuse(&request_id, &error.to_string()).await {
                                return close;
                            }
                        }
                    }
                    continue;
                }
                () = passed(self.until), if !has_ended => continue,
                incoming = socket.receive(may_read) => incoming,
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
        if request_id.len() > ID_BYTES {
            return self.refuse("", &format!("a requestId has at most {ID_BYTES} bytes")).await;
        }
        match &*message.kind {
            "WSMessage.Ping" => {
                if !self.has_pulled {
                    let _ = self.feed.try_send(Ask::Ping);
                }
                self.outgoing.send(PONG).await
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
                None => self.refuse_malformed(request_id, "malformed batch: it is missing").await,
                Some(Err(error)) => self.refuse_malformed(request_id, &format!("malformed batch: {error}")).await,
                Some(Ok(batch)) if batch.is_empty() => self.outgoing.send(messages::push_ack(request_id)).await,
                Some(Ok(batch)) => {
                    let log = self.log.clone();
                    self.unqueued = Some((request_id.into(), Box::pin(log.admit(batch))));
                    Ok(())
                }
            },
            "WSMessage.AdminResetRoomReq" | "WSMessage.AdminInfoReq" => self.admin(&message).await,
            unknown => self.refuse(request_id, &format!("unknown message: {unknown}")).await,
        }
    }

    /// A push that failed for a fault which passes would not be tried again by its client: it waits for the database.
    fn push(&mut self, request_id: String, push: Admitted) {
        let (outgoing, feed, backend_id) = (self.outgoing.clone(), self.feed.clone(), Arc::clone(&self.backend_id));
        let position = push.parent();
        // Queued here and not in the task, so that pushes keep the order in which they came.
        let pushed = push.push(self.backend_id.get().map(|id| id.to_string()));
        self.requests.spawn(async move {
            let result = pushed.await;
            if let Err(PushError::BackendIdMismatch { received, .. }) = &result {
                // The connection stays with the log that is gone: it is neither fed from another one nor writes there.
                backend_id.get_or_init(|| received.as_str().into());
            } else if let Some(after) = position {
                let _ = feed.send(Ask::Position { after }).await;
            }
            let error = match result {
                Ok(pushed) => {
                    let asked = feed.send(Ask::Pushed { request_id, head: pushed.head() }).await;
                    // The token has ended, and no event will be sent before the acknowledgement.
                    if let Err(SendError(Ask::Pushed { request_id, .. })) = asked {
                        let _ = outgoing.send(messages::push_ack(&request_id)).await;
                    }
                    return;
                }
                // Only if the sidecar ends: the client must not take it for an answer.
                Err(PushError::Unavailable) => return,
                // The words of the original.
                Err(PushError::ServerAhead { minimum_expected_num, provided_num }) => {
                    format!(
                        "Invalid parent event number. Received e{provided_num} but expected e{minimum_expected_num}"
                    )
                }
                Err(PushError::BackendIdMismatch { .. }) => RESET.into(),
                Err(error) => error.to_string(),
            };
            let _ = outgoing.send(messages::error(&request_id, &error)).await;
        });
    }

    async fn admin(&mut self, message: &ClientMessage<'_>) -> Result<(), Close> {
        let request_id = message.request_id.to_string();
        let Some((secret, peer)) = &self.admin_secret else {
            return self.refuse(&request_id, "admin requests are switched off on this server: --admin-secret").await;
        };
        let given = message.admin_secret.as_deref().unwrap_or_default();
        match secret.guess(given, *peer).await {
            Guess::Right => {}
            Guess::Wrong => {
                self.log.refuse_secret();
                return self.refuse(&request_id, "Invalid admin secret").await;
            }
            Guess::TooMany => {
                self.log.refuse_secret();
                return self.refuse(&request_id, "too many admin requests, try again later").await;
            }
        }
        let (log, outgoing) = (self.log.clone(), self.outgoing.clone());
        let is_reset = message.kind == "WSMessage.AdminResetRoomReq";
        self.requests.spawn(async move {
            let answer = if is_reset {
                match async { log.administrator().await?.reset().await }.await {
                    Ok(()) => {
                        warn!(store = ?log.id(), "a store was reset by an admin request");
                        messages::admin_reset_room_res(&request_id)
                    }
                    Err(failure) => {
                        let source = match &failure {
                            ResetError::Database(source) => Some(chain(source).to_string()),
                            ResetError::Denied(_) | ResetError::NotAllowed => None,
                        };
                        error!(store = ?log.id(), error = source, "{failure}");
                        messages::error(&request_id, &failure.to_string())
                    }
                }
            } else {
                match log.administrator().await {
                    Ok(administrator) => match administrator.backend_id().await {
                        Ok(backend_id) => messages::admin_info_res(&request_id, &backend_id),
                        Err(unreadable) => messages::error(&request_id, &unreadable.to_string()),
                    },
                    Err(denied) => messages::error(&request_id, &denied.to_string()),
                }
            };
            let _ = outgoing.send(answer).await;
        });
        Ok(())
    }

    async fn refuse_malformed(&mut self, request_id: &str, message: &str) -> Result<(), Close> {
        self.log.refuse_malformed(message);
        self.refuse(request_id, message).await
    }

    async fn refuse(&mut self, request_id: &str, message: &str) -> Result<(), Close> {
        self.outgoing.send(messages::error(request_id, message)).await
    }
}

/// The decision on a push before it is queued.
type Admission = BoxFuture<'static, Result<Admitted, PushError>>;

async fn admitted(unqueued: &mut Option<(String, Admission)>) -> Result<Admitted, PushError> {
    match unqueued {
        Some((_, admission)) => admission.await,
        None => std::future::pending().await,
    }
}
