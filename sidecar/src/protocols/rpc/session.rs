//! One WebSocket connection: reads requests, runs them side by side, and ends in an explicit close.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, interval_at, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::close::{
    ALL_ANSWERED, BUG, CLOSED_BY_CLIENT, Close, NO_PULL, SHUTDOWN, SILENT, SLOW, STRANGER, TOO_LARGE, UNAVAILABLE,
};
use super::pull::Puller;
use super::requests::{BadRequest, Cursor, Request, push_failure};
use super::wire::{ClientFrame, Form, PONG, RequestId, defect, read_frames};
use crate::log::{Log, PushError, Pushed, StoreId};

/// Frames that wait for a client to read them. With [`UNACKED_CHUNKS`] this bounds what a slow client costs.
const OUTGOING_FRAMES: usize = 8;

/// Chunks of one pull that may be on their way before the client has acknowledged the first of them.
const UNACKED_CHUNKS: usize = 4;

/// Pulls of one connection that may be under way at once. A client has one or two.
const PULLS: usize = 32;

/// Pushes of one connection that may be under way at once.
const PUSHES: usize = 64;

/// Ended requests that are remembered: an Ack or Interrupt for them may still be on its way.
const ENDED_REQUESTS: usize = 256;

/// How long a client may leave a frame unread before it is disconnected.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a silent connection is pinged, and how long it may stay silent.
const PING_INTERVAL: Duration = Duration::from_secs(15);
const SILENCE: Duration = Duration::from_secs(75);

/// How long a client has to answer a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a session needs from the rest of the sidecar.
#[derive(Clone)]
pub struct SessionConfig {
    pub log: Log,
    /// Cancelled when the sidecar shuts down.
    pub shutdown: CancellationToken,
}

/// The state of one connection. Its tasks end with it.
pub struct Session {
    log: Log,
    shutdown: CancellationToken,
    store: StoreId,
    outgoing: mpsc::Sender<Message>,
    /// Where tasks ask for the connection to be closed.
    close: mpsc::Sender<Close>,
    pulls: HashMap<RequestId, Pull>,
    pull_tasks: JoinSet<RequestId>,
    pushes: JoinSet<()>,
    ended: VecDeque<RequestId>,
    has_pulled: bool,
    /// The client will send no further requests.
    is_eof: bool,
}

struct Pull {
    task: AbortHandle,
    acks: Arc<Semaphore>,
    interrupt: CancellationToken,
}

impl Session {
    /// Serves a connection until it ends.
    pub async fn serve(config: SessionConfig, store: StoreId, socket: WebSocket) {
        let (sink, mut stream) = socket.split();
        let (outgoing, frames) = mpsc::channel(OUTGOING_FRAMES);
        let (close, mut closing) = mpsc::channel(1);
        let writer = tokio::spawn(write(sink, frames, close.clone()));
        info!(?store, "connected");
        let mut session = Self {
            log: config.log,
            shutdown: config.shutdown,
            store,
            outgoing,
            close,
            pulls: HashMap::new(),
            pull_tasks: JoinSet::new(),
            pushes: JoinSet::new(),
            ended: VecDeque::new(),
            has_pulled: false,
            is_eof: false,
        };
        let close = session.read(&mut stream, &mut closing).await;
        info!(store = ?session.store, code = close.code, reason = close.reason, "disconnected");
        session.end(close, stream).await;
        let _ = writer.await;
    }

    async fn read(&mut self, stream: &mut SplitStream<WebSocket>, closing: &mut mpsc::Receiver<Close>) -> Close {
        let shutdown = self.shutdown.clone();
        let mut heard = Instant::now();
        let mut ping = interval_at(heard + PING_INTERVAL, PING_INTERVAL);
        loop {
            if self.is_eof && self.pulls.is_empty() && self.pushes.is_empty() {
                return ALL_ANSWERED;
            }
            let message = tokio::select! {
                biased;
                () = shutdown.cancelled() => return SHUTDOWN,
                Some(close) = closing.recv() => return close,
                Some(ended) = self.pull_tasks.join_next() => {
                    match ended {
                        Ok(id) => self.forget(&id),
                        Err(error) if error.is_panic() => return BUG,
                        Err(_) => {}
                    }
                    continue;
                }
                Some(_) = self.pushes.join_next() => continue,
                _ = ping.tick() => {
                    if heard.elapsed() > SILENCE {
                        return SILENT;
                    }
                    if !self.has_pulled && self.pushes.is_empty() {
                        return NO_PULL;
                    }
                    // A full queue means that the client is slow, not that it is gone: its writer will tell.
                    let _ = self.outgoing.try_send(Message::Ping(bytes::Bytes::new()));
                    continue;
                }
                message = stream.next() => message,
            };
            heard = Instant::now();
            let result = match message {
                Some(Ok(Message::Text(text))) => self.receive(&text).await,
                Some(Ok(Message::Binary(_))) => {
                    self.send(defect("a binary frame: this protocol is JSON in text frames")).await
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
                Some(Ok(Message::Close(_))) | None => return CLOSED_BY_CLIENT,
                Some(Err(error)) => {
                    debug!(error = &error as &dyn std::error::Error, "the connection broke");
                    return if is_too_large(&error) { TOO_LARGE } else { CLOSED_BY_CLIENT };
                }
            };
            if let Err(close) = result {
                return close;
            }
        }
    }

    async fn receive(&mut self, text: &str) -> Result<(), Close> {
        let frames = match read_frames(text) {
            Ok(frames) => frames,
            Err(error) => return self.send(defect(&error)).await,
        };
        for frame in frames {
            match &*frame.kind {
                "Ping" => self.send(PONG.into()).await?,
                "Request" => self.request(&frame).await?,
                "Ack" => self.ack(&frame).await?,
                "Interrupt" => self.interrupt(&frame).await?,
                "Eof" => self.is_eof = true,
                unknown => self.send(defect(&format!("Unknown request tag: {unknown}"))).await?,
            }
        }
        Ok(())
    }

    async fn request(&mut self, frame: &ClientFrame<'_>) -> Result<(), Close> {
        let Some(id) = frame.id.and_then(RequestId::parse) else {
            return self.send(defect("a Request needs an id, a string or a number")).await;
        };
        let tag = frame.tag.as_deref().unwrap_or_default();
        debug!(store = ?self.store, ?id, tag, trace_id = frame.trace_id.as_deref(), "request");
        let payload = frame.payload.map_or("null", |payload| payload.get());
        match Request::parse(&self.store, tag, payload) {
            Ok(Request::Pull { live, cursor }) => self.pull(id, live, cursor).await?,
            Ok(Request::Push { batch, .. }) if batch.is_empty() => self.answer(id.clone(), id.success("{}")).await?,
            Ok(Request::Push { batch, backend_id }) => {
                while self.pushes.len() >= PUSHES {
                    self.pushes.join_next().await;
                }
                // Queued here and not in the task, so that pushes keep the order in which they came.
                let pushed = self.log.push(self.store.clone(), batch, backend_id);
                self.push(id, pushed);
            }
            Err(BadRequest::UnknownTag) => {
                let message = format!("Unknown request tag: {tag}");
                let answer = match id.form() {
                    Form::Effect3 => defect(&message),
                    Form::Effect4 => id.die(&message),
                };
                self.answer(id, answer).await?;
            }
            Err(BadRequest::Malformed(message)) => self.answer(id.clone(), id.die(&message)).await?,
        }
        Ok(())
    }

    fn push(&mut self, id: RequestId, pushed: impl Future<Output = Result<Pushed, PushError>> + Send + 'static) {
        let (outgoing, close) = (self.outgoing.clone(), self.close.clone());
        self.remember(id.clone());
        self.pushes.spawn(async move {
            let answer = match pushed.await {
                Ok(_) => id.success("{}"),
                Err(error) => match push_failure(&error) {
                    Some(failure) => id.failure(&failure),
                    None => return drop(close.try_send(UNAVAILABLE)),
                },
            };
            let _ = outgoing.send(Message::text(answer)).await;
        });
    }

    async fn pull(&mut self, id: RequestId, live: bool, cursor: Option<Cursor>) -> Result<(), Close> {
        self.has_pulled = true;
        if let Some(running) = self.pulls.get(&id) {
            match id.form() {
                // Joined: the answers to the first are the answers to both.
                Form::Effect3 => return Ok(()),
                Form::Effect4 => running.task.abort(),
            }
        } else if self.pulls.len() == PULLS {
            return self.answer(id.clone(), id.die("too many pulls on one connection")).await;
        }
        let puller = Puller {
            log: self.log.clone(),
            store: self.store.clone(),
            id: id.clone(),
            outgoing: self.outgoing.clone(),
            acks: Arc::new(Semaphore::new(UNACKED_CHUNKS)),
        };
        let acks = Arc::clone(&puller.acks);
        let interrupt = CancellationToken::new();
        let (close, interrupted) = (self.close.clone(), interrupt.clone());
        let task = self.pull_tasks.spawn(async move {
            // The task that sends the chunks sends the Exit, too: none can come after it.
            let result = tokio::select! {
                biased;
                () = interrupted.cancelled() => puller.send(puller.id.interrupted()).await,
                result = puller.run(live, cursor) => result,
            };
            if let Err(reason) = result {
                let _ = close.try_send(reason);
            }
            puller.id
        });
        self.pulls.insert(id, Pull { task, acks, interrupt });
        Ok(())
    }

    async fn ack(&mut self, frame: &ClientFrame<'_>) -> Result<(), Close> {
        let Some(id) = frame.request_id.and_then(RequestId::parse) else {
            return self.send(defect("an Ack needs a requestId")).await;
        };
        let Some(pull) = self.pulls.get(&id) else {
            return self.known(&id);
        };
        pull.acks.add_permits(1);
        Ok(())
    }

    async fn interrupt(&mut self, frame: &ClientFrame<'_>) -> Result<(), Close> {
        let Some(id) = frame.request_id.and_then(RequestId::parse) else {
            return self.send(defect("an Interrupt needs a requestId")).await;
        };
        let Some(pull) = self.pulls.get(&id) else {
            // A push cannot be taken back: its own Exit answers.
            return self.known(&id);
        };
        pull.interrupt.cancel();
        Ok(())
    }

    /// A client that reconnected without asking again speaks of requests of an earlier connection: it waits for answers
    /// that will not come, until it is disconnected.
    fn known(&self, id: &RequestId) -> Result<(), Close> {
        if self.ended.contains(id) { Ok(()) } else { Err(STRANGER) }
    }

    fn forget(&mut self, id: &RequestId) {
        // A pull that was replaced by another of the same id must not take that one with it.
        if self.pulls.get(id).is_some_and(|pull| pull.task.is_finished()) {
            self.pulls.remove(id);
        }
        self.remember(id.clone());
    }

    fn remember(&mut self, id: RequestId) {
        if self.ended.len() == ENDED_REQUESTS {
            self.ended.pop_front();
        }
        self.ended.push_back(id);
    }

    async fn answer(&mut self, id: RequestId, frame: String) -> Result<(), Close> {
        self.remember(id);
        self.send(frame).await
    }

    async fn send(&self, frame: String) -> Result<(), Close> {
        self.outgoing.send(Message::text(frame)).await.map_err(|_| SLOW)
    }

    /// Lets pushes that are under way be answered, ends everything else and closes.
    async fn end(mut self, close: Close, mut stream: SplitStream<WebSocket>) {
        self.pull_tasks.abort_all();
        if close == SHUTDOWN {
            while self.pushes.join_next().await.is_some() {}
        }
        let reason = Utf8Bytes::from_static(close.reason);
        let frame = Message::Close(Some(CloseFrame { code: close.code, reason }));
        if self.outgoing.send(frame).await.is_ok() {
            // The client's close, or nothing for a while: to drop the socket with unread data in it would reset the
            // connection, and the client might never see our last frames.
            let _ = timeout(CLOSE_TIMEOUT, async { while let Some(Ok(_)) = stream.next().await {} }).await;
        }
    }
}

/// Sends what the tasks of a connection produce. A client that does not read for too long is disconnected.
async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    mut frames: mpsc::Receiver<Message>,
    close: mpsc::Sender<Close>,
) {
    while let Some(frame) = frames.recv().await {
        match timeout(WRITE_TIMEOUT, sink.send(frame)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return drop(close.try_send(CLOSED_BY_CLIENT)),
            Err(_) => return drop(close.try_send(SLOW)),
        }
    }
    let _ = timeout(CLOSE_TIMEOUT, sink.close()).await;
}

fn is_too_large(error: &axum::Error) -> bool {
    use tokio_tungstenite::tungstenite::Error;
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Error>());
    matches!(source, Some(Error::Capacity(_)))
}
