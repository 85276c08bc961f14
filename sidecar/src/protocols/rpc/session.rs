//! One WebSocket connection: reads requests, runs them side by side, and ends in an explicit close.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use axum::extract::ws::WebSocket;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, info};

use super::pull::Puller;
use super::requests::{BadRequest, Cursor, Operation, Request, Transport, push_failure};
use super::wire::{ClientFrame, Form, PONG, RequestId, defect, read_frames};
use crate::log::{OverLimit, PushError, Pushed, StoreLog};
use crate::protocols::websocket::close::{ALL_ANSWERED, BUG, Close, NO_PULL, SHUTDOWN, STRANGER, UNAVAILABLE};
use crate::protocols::websocket::meter::Meter;
use crate::protocols::websocket::{Incoming, Outgoing, Socket};

/// Chunks of one pull that may be on their way before the client has acknowledged the first of them.
const UNACKED_CHUNKS: usize = 10;

/// Pulls of one connection that may be under way at once. A client has one or two.
const PULLS: usize = 32;

/// Pushes of one connection that may be under way before nothing more is read from it.
const PUSHES: usize = 64;

/// Ended requests that are remembered: an Ack or Interrupt for them may still be on its way.
const ENDED_REQUESTS: usize = 256;

/// Serves a connection until it ends.
pub async fn serve(log: StoreLog, socket: WebSocket, meter: Arc<Meter>, shutdown: CancellationToken) {
    let mut socket = Socket::new(socket, meter, shutdown);
    let mut session = Session {
        log,
        outgoing: socket.outgoing().clone(),
        pulls: HashMap::new(),
        pull_tasks: JoinSet::new(),
        pushes: FuturesUnordered::new(),
        ended: VecDeque::new(),
        has_pulled: false,
        is_eof: false,
    };
    let close = session.run(&mut socket).await;
    info!(store = ?session.log.id(), code = close.code, reason = close.reason, "disconnected");
    // Boxed: it takes no room while the connection is open.
    Box::pin(async move {
        session.end(&close).await;
        socket.end(close).await;
    })
    .await;
}

/// The state of one connection. Its tasks end with it.
struct Session {
    log: StoreLog,
    outgoing: Outgoing,
    pulls: HashMap<RequestId, Pull>,
    pull_tasks: JoinSet<RequestId>,
    /// Not tasks: most connections have one at a time, and it is answered from where it was read.
    pushes: FuturesUnordered<BoxFuture<'static, ()>>,
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
    async fn run(&mut self, socket: &mut Socket) -> Close {
        loop {
            if self.is_eof && self.pulls.is_empty() && self.pushes.is_empty() {
                return ALL_ANSWERED;
            }
            let may_read = self.pushes.len() < PUSHES;
            let incoming = tokio::select! {
                biased;
                Some(ended) = self.pull_tasks.join_next() => {
                    match ended {
                        Ok(id) => self.forget(&id),
                        Err(error) if error.is_panic() => return BUG,
                        Err(_) => {}
                    }
                    continue;
                }
                Some(()) = self.pushes.next() => continue,
                incoming = socket.receive(may_read) => incoming,
            };
            let result = match incoming {
                // Boxed: most connections wait for a message most of the time.
                Ok(Incoming::Text(text)) => Box::pin(self.receive(&text)).await,
                Ok(Incoming::Binary) => {
                    Box::pin(self.send(defect("a binary frame: this protocol is JSON in text frames"))).await
                }
                Ok(Incoming::Tick) if !self.has_pulled && self.pushes.is_empty() => Err(NO_PULL),
                Ok(Incoming::Tick) => Ok(()),
                Err(close) => Err(close),
            };
            if let Err(close) = result {
                return close;
            }
        }
    }

    async fn receive(&mut self, text: &str) -> Result<(), Close> {
        let frames = match read_frames(text) {
            Ok(frames) => frames,
            Err(error) => return self.send(defect(error.text())).await,
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
        debug!(store = ?self.log.id(), ?id, tag, trace_id = frame.trace_id.as_deref(), "request");
        let payload = frame.payload.map_or("null", |payload| payload.get());
        let Request { payload, operation } = match Request::parse(Transport::WebSocket, self.log.id(), tag, payload) {
            Ok(request) => request,
            Err(BadRequest::UnknownTag) => return self.answer(id.clone(), id.unknown_tag(tag)).await,
            Err(BadRequest::Malformed(message)) => {
                if tag.ends_with(".Push") {
                    self.log.refuse_malformed(&message);
                }
                return self.answer(id.clone(), id.die(&message)).await;
            }
        };
        match operation {
            Operation::Pull { live, cursor } => {
                // A live one would end, and be told of, with the connection.
                let span = if live { Span::none() } else { frame.span(self.log.id()) };
                self.pull(id, self.log.for_request(payload), live, cursor, span).await?;
            }
            Operation::Push { batch, .. } if batch.is_empty() => self.answer(id.clone(), id.success("{}")).await?,
            Operation::Push { batch, backend_id } => {
                // Queued here and not in the future, so that pushes keep the order in which they came.
                let span = frame.span(self.log.id());
                let pushed = span.in_scope(|| self.log.for_request(payload).push(batch, backend_id, OverLimit::Wait));
                self.push(id, pushed.instrument(span));
            }
            // Over WebSocket a Ping is a frame.
            Operation::Ping => {}
        }
        Ok(())
    }

    fn push(&mut self, id: RequestId, pushed: impl Future<Output = Result<Pushed, PushError>> + Send + 'static) {
        let outgoing = self.outgoing.clone();
        self.remember(id.clone());
        self.pushes.push(Box::pin(async move {
            let answer = match pushed.await {
                Ok(_) => id.success("{}"),
                Err(error) => match push_failure(&error) {
                    Some(failure) => id.failure(&failure),
                    None => return outgoing.close(UNAVAILABLE),
                },
            };
            let _ = outgoing.send(answer).await;
        }));
    }

    async fn pull(
        &mut self,
        id: RequestId,
        log: StoreLog,
        live: bool,
        cursor: Option<Cursor>,
        span: Span,
    ) -> Result<(), Close> {
        self.has_pulled = true;
        if let Some(running) = self.pulls.get(&id) {
            match id.form() {
                // The second request joins the first one: both get the same answers.
                Form::Effect3 => return Ok(()),
                Form::Effect4 => running.task.abort(),
            }
        } else if self.pulls.len() == PULLS {
            return self.answer(id.clone(), id.die("too many pulls on one connection")).await;
        }
        let acks = Arc::new(Semaphore::new(UNACKED_CHUNKS));
        let puller = Puller { log, id: id.clone(), outgoing: self.outgoing.clone(), acks: Arc::clone(&acks) };
        let interrupt = CancellationToken::new();
        let interrupted = interrupt.clone();
        let pulling = async move {
            // The task that sends the chunks sends the Exit, too: none can come after it.
            let result = tokio::select! {
                biased;
                () = interrupted.cancelled() => puller.outgoing.send(puller.id.interrupted()).await,
                result = puller.run(live, cursor) => result,
            };
            if let Err(reason) = result {
                puller.outgoing.close(reason);
            }
            puller.id
        };
        let task = self.pull_tasks.spawn(pulling.instrument(span));
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

    /// Disconnects a client that names an unknown request. It has reconnected without repeating its requests, and would wait
    /// for answers to those of an earlier connection.
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

    async fn send(&mut self, frame: String) -> Result<(), Close> {
        self.outgoing.send(frame).await
    }

    /// Lets pushes that are under way be answered if this sidecar goes, and ends everything else.
    async fn end(mut self, close: &Close) {
        self.pull_tasks.abort_all();
        if *close == SHUTDOWN {
            while self.pushes.next().await.is_some() {}
        }
    }
}
