//! Effect RPC over HTTP: a POST holds a request, the answer is a JSON array of frames that ends with the Exit.
//!
//! A client of this dialect stops syncing for good when a pull fails, so that an answer waits for a database that is
//! away: white space goes on in the array meanwhile, for whoever closes silent connections in between.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use tokio::sync::mpsc;
use tokio::time::{interval, sleep, timeout};
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug};

use super::requests::{BadRequest, Cursor, Operation, Request, Transport, pull_failure, push_failure, unknown_error};
use super::wire::{ClientFrame, PONG, RequestId, defect, read_frames};
use crate::limits::memory::{Share, counted};
use crate::log::{Denied, Events, OverLimit, Page, PullError, Scan, StoreLog};
use crate::protocols::chunks::chunks;
use crate::protocols::{body, status_of};
use crate::shutdown::Ending;

/// The time that an answer waits for the database before a client that has a cursor is told that there is nothing new: it will
/// ask again. Less than the 10 s that a ping may take, and that a shutdown takes by default.
const AWAY: Duration = Duration::from_secs(5);

/// The answer to requests that a shutdown ends. Clients try a push again, but not a first pull, which is therefore answered
/// only at the very end.
const SHUTDOWN: &str = "the server shuts down, try again";

const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Answers a POST; the rest of the answer is written by a task on `tasks`.
pub async fn answer(log: StoreLog, request: Bytes, tasks: &TaskTracker, ending: Ending) -> Response {
    let Ok(text) = std::str::from_utf8(&request) else {
        return array(StatusCode::BAD_REQUEST, format!("[{}]", defect("the body is not UTF-8")));
    };
    let frames = match read_frames(text) {
        Ok(frames) => frames,
        Err(error) => return array(StatusCode::BAD_REQUEST, format!("[{}]", defect(error.text()))),
    };
    let connected = timeout(AWAY, log.connect()).await;
    if let Ok(Err(denied)) = &connected
        && !(denied.may_pass() && frames.iter().all(|frame| needs_no_place(&log, frame)))
    {
        return refuse(&frames, denied);
    }
    let (pieces, answered) = body::written();
    let (log, is_admitted) = match connected {
        Ok(Ok(log)) => (log, true),
        _ => (log, false),
    };
    let answer = Answer { log, pieces, is_empty: true, is_admitted, ending };
    tasks.spawn(async move {
        let gone = answer.pieces.clone();
        tokio::select! {
            () = gone.closed() => {}
            () = answer.write(&request) => {}
        }
    });
    array(StatusCode::OK, answered)
}

/// Whether a client without a place among the connections of its subject can be answered so that it asks again in a while: with a
/// pong, or that there is nothing new.
fn needs_no_place(log: &StoreLog, frame: &ClientFrame<'_>) -> bool {
    let payload = frame.payload.map_or("null", |payload| payload.get());
    let request = Request::parse(Transport::Http, log.id(), frame.tag.as_deref().unwrap_or_default(), payload);
    let operation = request.map(|request| request.operation);
    &*frame.kind != "Request" || matches!(operation, Ok(Operation::Ping | Operation::Pull { cursor: Some(_), .. }))
}

/// The status is for proxies and logs. The client only reads the array.
fn refuse(frames: &[ClientFrame<'_>], denied: &Denied) -> Response {
    let failure = unknown_error(&denied.to_string());
    let exits = frames.iter().filter_map(|frame| frame.id.and_then(RequestId::parse)).map(|id| id.failure(&failure));
    let status = if denied.may_pass() { status_of(denied) } else { StatusCode::BAD_REQUEST };
    array(status, format!("[{}]", exits.collect::<Vec<_>>().join(",")))
}

fn array(status: StatusCode, body: impl Into<Body>) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.into()).into_response()
}

/// The client does not read the rest.
struct Gone;

struct Answer {
    log: StoreLog,
    pieces: mpsc::Sender<Bytes>,
    is_empty: bool,
    /// Whether the client may connect at all: not decided while the database is away.
    is_admitted: bool,
    ending: Ending,
}

impl Answer {
    async fn write(mut self, body: &Bytes) {
        let pieces = self.pieces.clone();
        let mut keep_alive = interval(KEEP_ALIVE);
        keep_alive.reset();
        let frames = std::str::from_utf8(body).map_err(|_| ()).and_then(|text| read_frames(text).map_err(|_| ()));
        let writing = async {
            for frame in frames.unwrap_or_default() {
                self.frame(&frame).await?;
            }
            let end = if self.is_empty { "[]" } else { "]" };
            self.pieces.send(end.into()).await.map_err(|_| Gone)
        };
        tokio::pin!(writing);
        loop {
            tokio::select! {
                _ = &mut writing => return,
                _ = keep_alive.tick() => drop(pieces.try_send(" ".into())),
            }
        }
    }

    async fn frame(&mut self, frame: &ClientFrame<'_>) -> Result<(), Gone> {
        match &*frame.kind {
            "Request" => {
                let span = frame.span(self.log.id());
                self.request(frame).instrument(span).await
            }
            "Ping" => self.send(PONG.into()).await,
            "Ack" | "Interrupt" | "Eof" => Ok(()),
            unknown => self.send(defect(&format!("Unknown request tag: {unknown}"))).await,
        }
    }

    async fn request(&mut self, frame: &ClientFrame<'_>) -> Result<(), Gone> {
        let Some(id) = frame.id.and_then(RequestId::parse) else {
            return self.send(defect("a Request needs an id, a string or a number")).await;
        };
        let tag = frame.tag.as_deref().unwrap_or_default();
        debug!(store = ?self.log.id(), ?id, tag, trace_id = frame.trace_id.as_deref(), "request");
        let payload = frame.payload.map_or("null", |payload| payload.get());
        let Request { payload, operation } = match Request::parse(Transport::Http, self.log.id(), tag, payload) {
            Ok(request) => request,
            Err(BadRequest::UnknownTag) => return self.send(id.unknown_tag(tag)).await,
            Err(BadRequest::Malformed(message)) => {
                if tag.ends_with(".Push") {
                    self.log.refuse_malformed(&message);
                }
                return self.send(id.die(&message)).await;
            }
        };
        if let (false, Operation::Pull { cursor: Some(cursor), .. }) = (self.is_admitted, &operation) {
            return self.nothing_new(&id, &cursor.backend_id).await;
        }
        if !self.is_admitted && !matches!(operation, Operation::Ping) {
            let is_pull = matches!(operation, Operation::Pull { .. });
            let end = if is_pull { &self.ending.very_end } else { &self.ending.last_moment };
            let connected = tokio::select! {
                connected = self.log.connect() => connected.map_err(|denied| denied.to_string()),
                () = end.cancelled() => Err(SHUTDOWN.into()),
            };
            match connected {
                Ok(log) => (self.log, self.is_admitted) = (log, true),
                Err(refusal) => return self.send(id.failure(&unknown_error(&refusal))).await,
            }
        }
        let log = self.log.for_request(payload);
        match operation {
            Operation::Ping => self.send(id.success(r#"{"_tag":"SyncMessage.Pong"}"#)).await,
            Operation::Push { batch, .. } if batch.is_empty() => self.send(id.success("{}")).await,
            Operation::Push { batch, backend_id } => {
                let answer = match log.push(batch, backend_id, OverLimit::Wait).await {
                    Ok(_) => id.success("{}"),
                    Err(error) => {
                        id.failure(&push_failure(&error).unwrap_or_else(|| unknown_error(&error.to_string())))
                    }
                };
                self.send(answer).await
            }
            Operation::Pull { cursor, .. } => self.pull(&id, &log, cursor).await,
        }
    }

    async fn pull(&mut self, id: &RequestId, log: &StoreLog, cursor: Option<Cursor>) -> Result<(), Gone> {
        let known = cursor.as_ref().map(|cursor| cursor.backend_id.clone());
        // "Nothing new" is a chunk with the backend id, which a client without a cursor does not know; and a stream without
        // any chunk would end its sync for good.
        let end = if known.is_some() { &self.ending.last_moment } else { &self.ending.very_end };
        let first = tokio::select! {
            first = first_page(log, cursor) => Some(first),
            () = end.cancelled() => None,
            () = sleep(AWAY), if known.is_some() => None,
        };
        match (first, known) {
            (Some(Ok((pages, page))), _) => self.pages(id, pages, page).await,
            // Ahead of the log, it hears nothing until the operator has helped.
            (Some(Err(PullError::Rewound)) | None, Some(backend_id)) => self.nothing_new(id, &backend_id).await,
            (Some(Err(error)), _) => self.fail(id, &error).await,
            (None, None) => self.send(id.failure(&unknown_error(SHUTDOWN))).await,
        }
    }

    async fn fail(&mut self, id: &RequestId, error: &PullError) -> Result<(), Gone> {
        let failure = pull_failure(error).unwrap_or_else(|| unknown_error(&error.to_string()));
        self.send(id.failure(&failure)).await
    }

    async fn nothing_new(&mut self, id: &RequestId, backend_id: &str) -> Result<(), Gone> {
        self.send(id.chunk(Events::default().all(), 0, backend_id)).await?;
        self.send(id.success("null")).await
    }

    async fn pages(&mut self, id: &RequestId, mut pages: Scan, mut page: Page) -> Result<(), Gone> {
        loop {
            for (chunk, left) in chunks(&page.events, page.remaining()) {
                self.send_counted(id.chunk(chunk, left, &page.backend_id), page.share.clone()).await?;
            }
            let next = tokio::select! {
                next = pages.next() => next,
                // The client goes on from the last event that it was sent.
                () = self.ending.last_moment.cancelled() => Ok(None),
            };
            page = match next {
                Ok(Some(page)) => page,
                Ok(None) => return self.send(id.success("null")).await,
                Err(error) => return self.fail(id, &error).await,
            }
        }
    }

    async fn send(&mut self, frame: String) -> Result<(), Gone> {
        self.send_counted(frame, None).await
    }

    async fn send_counted(&mut self, frame: String, share: Option<Arc<Share>>) -> Result<(), Gone> {
        let separator = if std::mem::take(&mut self.is_empty) { '[' } else { ',' };
        self.pieces.send(counted(format!("{separator}{frame}"), share)).await.map_err(|_| Gone)
    }
}

async fn first_page(log: &StoreLog, cursor: Option<Cursor>) -> Result<(Scan, Page), PullError> {
    let after = cursor.as_ref().map_or(0, |cursor| cursor.event_sequence_number);
    let mut pages = log.reader().await?.scan(after, cursor.map(|cursor| cursor.backend_id));
    let page = pages.next().await?.ok_or(PullError::Rewound)?;
    Ok((pages, page))
}
