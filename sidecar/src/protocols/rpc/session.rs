//! One WebSocket connection: reads requests, runs them side by side, and ends in an explicit close.
//!
//! A client of LiveStore 0.4 that loses its connection pulls again on the next one, so a close is the answer to every doubt. A
//! client of the development line (Effect 4) never pulls again after a close. It is told to pull again instead
//! ([`CONNECTION_LOST`]), and before a shutdown it is left alone until it goes by itself ([`Session::fall_silent`]).

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::WebSocket;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, debug, info};

use super::pull::Puller;
use super::requests::{BadRequest, Cursor, Operation, Request, Transport, push_failure};
use super::wire::{CONNECTION_LOST, ClientFrame, Form, PONG, RequestId, defect, read_frames};
use crate::limits::memory::Share;
use crate::log::{OverLimit, PushError, Pushed, StoreLog};
use crate::protocols::websocket::close::{ALL_ANSWERED, BUG, Close, NO_PULL, REWOUND, SHUTDOWN, STRANGER, UNAVAILABLE};
use crate::protocols::websocket::meter::Meter;
use crate::protocols::websocket::{Incoming, Outgoing, Socket};
use crate::shutdown::Ending;

/// Chunks of one pull that may be on their way before the client has acknowledged the first of them.
const UNACKED_CHUNKS: usize = 10;

/// Pulls of one connection that may be under way at once. A client has one or two.
const PULLS: usize = 32;

/// Pushes of one connection that may be under way before nothing more is read from it.
const PUSHES: usize = 64;

/// Ended requests that are remembered: an Ack or Interrupt for them may still be on its way.
const ENDED_REQUESTS: usize = 256;

/// The time that a client may take to send a request, before one of Effect 4 is told to pull again.
const UNASKED: Duration = Duration::from_secs(3);

/// The pause before a client that is ahead of the log is told to pull again. Clients that reconnect pause by themselves.
const AHEAD: Duration = Duration::from_secs(10);

/// Serves a connection until it ends.
pub async fn serve(log: StoreLog, socket: WebSocket, meter: Arc<Meter>, ending: Ending) {
    let mut socket = Socket::new(socket, meter, ending.begun);
    let mut session = Session {
        log,
        outgoing: socket.outgoing().clone(),
        form: None,
        pulls: HashMap::new(),
        pull_tasks: JoinSet::new(),
        pushes: FuturesUnordered::new(),
        ended: VecDeque::new(),
        unasked: Some(Box::pin(sleep(UNASKED))),
        has_pulled: false,
        is_eof: false,
        parting: ending.parting,
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

/// Waits until it has elapsed; for ever, if there is none.
async fn elapsed(sleep: &mut Option<Pin<Box<Sleep>>>) {
    match sleep {
        Some(sleep) => sleep.await,
        None => std::future::pending().await,
    }
}

/// The state of one connection. Its tasks end with it.
struct Session {
    log: StoreLog,
    outgoing: Outgoing,
    /// The form of the client's ids, once it has sent one.
    form: Option<Form>,
    pulls: HashMap<RequestId, Pull>,
    pull_tasks: JoinSet<(RequestId, Result<(), Close>)>,
    /// Not tasks: most connections have one at a time, and it is answered from where it was read.
    pushes: FuturesUnordered<BoxFuture<'static, Result<(), Close>>>,
    ended: VecDeque<RequestId>,
    /// Until the client has begun a pull, or was told to.
    unasked: Option<Pin<Box<Sleep>>>,
    has_pulled: bool,
    /// The client will send no further requests.
    is_eof: bool,
    /// See [`Ending::parting`].
    parting: CancellationToken,
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
                () = self.parting.cancelled(), if self.may_be_lost() => {
                    return Box::pin(self.fall_silent(socket)).await;
                }
                Some(ended) = self.pull_tasks.join_next() => self.pull_ended(ended).map(|()| None),
                Some(answered) = self.pushes.next() => answered.map(|()| None),
                () = elapsed(&mut self.unasked) => {
                    self.unasked = None;
                    // It may wait for a pull of an earlier connection. A client that sends requests shows its form by itself.
                    if self.form.is_none() { self.outgoing.send(CONNECTION_LOST).await.map(|()| None) } else { Ok(None) }
                }
                incoming = socket.receive(may_read) => incoming.map(Some),
            };
            let result = match incoming {
                Ok(None) => continue,
                // Boxed: most connections wait for a message most of the time.
                Ok(Some(Incoming::Text(text))) => Box::pin(self.receive(&text, socket.memory())).await,
                Ok(Some(Incoming::Binary)) => {
                    Box::pin(self.send(defect("a binary frame: this protocol is JSON in text frames"))).await
                }
                Ok(Some(Incoming::Tick)) if !self.has_pulled && self.pushes.is_empty() => Err(NO_PULL),
                Ok(Some(Incoming::Tick)) => Ok(()),
                Err(close) => Err(close),
            };
            if let Err(close) = result
                && let Err(close) = Box::pin(self.ask_to_pull_again(close)).await
            {
                return close;
            }
        }
    }

    fn pull_ended(&mut self, ended: Result<(RequestId, Result<(), Close>), JoinError>) -> Result<(), Close> {
        match ended {
            Ok((id, result)) => {
                self.forget(&id);
                result
            }
            Err(error) if error.is_panic() => Err(BUG),
            Err(_) => Ok(()),
        }
    }

    /// Tells a client of Effect 4 to pull again, where the connection of another one is closed for that. Its other requests
    /// fail, too, and it pushes again later.
    async fn ask_to_pull_again(&mut self, close: Close) -> Result<(), Close> {
        if self.form != Some(Form::Effect4) || ![NO_PULL, STRANGER, UNAVAILABLE, REWOUND].contains(&close) {
            return Err(close);
        }
        info!(store = ?self.log.id(), reason = close.reason, "the client is asked to pull again");
        self.pull_tasks.abort_all();
        for (id, _) in std::mem::take(&mut self.pulls) {
            self.remember(id);
        }
        self.unasked = None;
        // A client without a pull that waits has ended its sync, and would not pull however often it is asked.
        self.has_pulled = true;
        self.send(CONNECTION_LOST.into()).await
    }

    /// Whether the client has a pull that it would not begin again after a close.
    fn may_be_lost(&self) -> bool {
        self.form == Some(Form::Effect4) && !self.pulls.is_empty()
    }

    /// Sends nothing more, once the pushes that are under way are answered. The client misses the answers to its pings and opens
    /// another connection. A pull that it waits for survives that, unlike a close, and the next sidecar tells it to pull again.
    async fn fall_silent(&mut self, socket: &mut Socket) -> Close {
        self.pull_tasks.abort_all();
        while self.pushes.next().await.is_some() {}
        loop {
            if let Err(close) = socket.receive(true).await {
                return close;
            }
        }
    }

    /// `memory`: that of the message.
    async fn receive(&mut self, text: &str, memory: Option<Arc<Share>>) -> Result<(), Close> {
        let frames = match read_frames(text) {
            Ok(frames) => frames,
            Err(error) => return self.send(defect(error.text())).await,
        };
        for frame in frames {
            match &*frame.kind {
                "Ping" => self.send(PONG.into()).await?,
                "Request" => self.request(&frame, memory.as_ref()).await?,
                "Ack" => self.ack(&frame).await?,
                "Interrupt" => self.interrupt(&frame).await?,
                "Eof" => self.is_eof = true,
                unknown => self.send(defect(&format!("Unknown request tag: {unknown}"))).await?,
            }
        }
        Ok(())
    }

    async fn request(&mut self, frame: &ClientFrame<'_>, memory: Option<&Arc<Share>>) -> Result<(), Close> {
        let Some(id) = frame.id.and_then(RequestId::parse) else {
            return self.send(defect("a Request needs an id, a string or a number")).await;
        };
        self.form = Some(id.form());
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
                let (log, memory) = (self.log.for_request(payload), memory.cloned());
                let pushed = span.in_scope(|| log.push_holding(memory, batch, backend_id, OverLimit::Wait));
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
                    None => return Err(UNAVAILABLE),
                },
            };
            // If the writer has ended, it has said why.
            let _ = outgoing.send(answer).await;
            Ok(())
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
        (self.has_pulled, self.unasked) = (true, None);
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
            if result == Err(REWOUND) && puller.id.form() == Form::Effect4 {
                sleep(AHEAD).await;
            }
            (puller.id, result)
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
            return self.known(id);
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
            return self.known(id);
        };
        pull.interrupt.cancel();
        Ok(())
    }

    /// Disconnects a client that names an unknown request. It has reconnected without repeating its requests, and would wait
    /// for answers to those of an earlier connection.
    fn known(&mut self, id: RequestId) -> Result<(), Close> {
        if self.ended.contains(&id) {
            return Ok(());
        }
        self.form = Some(id.form());
        self.remember(id);
        Err(STRANGER)
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
