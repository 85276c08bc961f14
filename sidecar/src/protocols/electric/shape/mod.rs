//! Electric's shape API for event logs, `GET /v1/shape`: for servers that make their URLs with `makeElectricUrl` of
//! `@livestore/sync-electric`, and for `ShapeStream` of `@electric-sql/client`.
//!
//! After <https://electric-sql.com/openapi.html> and the source of Electric 1.x (`shapes/api/params.ex`, `response.ex`). An
//! event log has no updates and no subsets, and its only condition is which store it is.

mod request;
mod sse;
mod table;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::messages::{MUST_REFETCH, Rows, page, up_to_date};
use super::offset::{Offset, Position};
use super::read::{Follow, LONG_POLL, Page, Patience, ReadError, read, read_error};
use super::upstream::Upstream;
use crate::limits::memory::{Account, FREE, Share, counted};
use crate::log::{AbsentArgs, Event, FindError, Reader, StoreLog};
use crate::protocols::status_of;
pub use request::{Request, Since, has_secret};

/// For who does not have it.
pub fn wrong_secret() -> Response {
    uncached(StatusCode::UNAUTHORIZED, json!({"message": "Unauthorized - Invalid API secret"}))
}

/// The conditions of an answer beside the log.
pub struct Audience {
    /// Whether everybody may read it, a shared cache too.
    pub is_public: bool,
    pub if_none_match: Option<HeaderValue>,
}

/// Answers a request, after at most [`LONG_POLL`] if the client has a position; a stream goes on on `tasks`.
pub async fn answer(
    log: StoreLog,
    request: Request,
    audience: Audience,
    mut patience: Patience,
    upstream: Option<&Upstream>,
    tasks: &TaskTracker,
    shutdown: CancellationToken,
) -> Response {
    debug!(store = ?log.id(), since = ?request.since, is_live = request.is_live, is_sse = request.is_sse, "shape");
    let reader = match patience.wait_for(log.reader()).await {
        Some(Ok(reader)) => reader,
        Some(Err(denied)) => return refuse(&denied.into()),
        None => match &request.since {
            Since::At(position) if request.is_sse => {
                return stream_response(&request, position, &audience, sse::nothing_yet(position));
            }
            _ => return nothing(&request, &audience),
        },
    };
    if let Some(upstream) = upstream {
        match forward(upstream, &reader, &request, &audience, &mut patience, &shutdown).await {
            Ok(response) => return response,
            Err(Instead::Nothing) => return nothing(&request, &audience),
            Err(Instead::ReadOurselves) => {}
        }
    }
    if let (true, Since::At(position)) = (request.is_sse, &request.since) {
        let stream =
            sse::open(&reader, position, Rows::new(&request.relation, request.columns), &mut patience, tasks, shutdown);
        return match stream.await {
            Ok(stream) => stream_response(&request, position, &audience, stream),
            Err(refusal) => refuse(&refusal),
        };
    }
    let page = match &request.since {
        Since::Start => read(&reader, None, Follow::No, &mut patience).await,
        Since::At(position) => read(&reader, Some(position), request.follow(), &mut patience).await,
        Since::Now => match patience.wait_for(reader.follow()).await {
            Some(Ok(end)) => {
                let position = Position { offset: Offset::after(end.last()), handle: (**end.backend_id()).into() };
                Ok(Page::empty(position, true))
            }
            Some(Err(error)) => Err(read_error(error, Offset::after(0))),
            None => Err(ReadError::Away),
        },
    };
    match page {
        Ok(page) => page_response(&request, page, &audience, Some(&log.account())),
        Err(refusal) => refuse(&refusal),
    }
}

/// For a client that has waited long enough for what cannot be had: nothing new.
pub fn nothing(request: &Request, audience: &Audience) -> Response {
    match &request.since {
        Since::At(position) => page_response(request, Page::empty(position.clone(), request.is_live), audience, None),
        Since::Start | Since::Now => refuse(&ReadError::Away),
    }
}

/// Rows that keep the share of their events until they are sent, and one for the names in them. If there is no memory for that now, it does
/// not count: readers that wait with a page in memory would wait for each other.
fn counted_rows(
    text: String,
    rows: &Rows,
    events: usize,
    share: Option<Arc<Share>>,
    account: Option<&Account>,
) -> Bytes {
    let names = rows.names_in(events);
    let of_names = account.filter(|_| names > FREE).and_then(|account| account.try_take(names));
    counted(counted(text, share), of_names.map(Arc::new))
}

fn page_response(request: &Request, read: Page, audience: &Audience, account: Option<&Account>) -> Response {
    let Page { events, position, is_up_to_date, share } = read;
    let from = match &request.since {
        Since::Start => "-1".to_string(),
        Since::Now => "now".to_string(),
        Since::At(position) => position.offset.to_string(),
    };
    // Caches may keep the first page, so it must not say that there are no more events.
    let is_up_to_date = is_up_to_date && request.since != Since::Start;
    let mut headers = electric_headers(request, &position);
    let mut add = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    add("content-type", "application/json");
    if is_up_to_date {
        add("electric-up-to-date", "");
    }
    add("electric-has-data", if events.is_empty() { "false" } else { "true" });
    if !request.is_live {
        add("electric-schema", &request.columns.schema());
    }
    add("cache-control", &caching(request, is_up_to_date || !events.is_empty(), audience));
    let etag = etag(&position, &from, &events);
    add("etag", &etag);
    let has_it = audience.if_none_match.as_ref().and_then(|value| value.to_str().ok());
    if has_it.is_some_and(|tags| tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag)) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    let end = is_up_to_date.then(|| up_to_date(position.offset.seq_num));
    let rows = Rows::new(&request.relation, request.columns);
    let body = page(&events, &rows, end);
    let body = counted_rows(body, &rows, events.len(), share, account);
    (StatusCode::OK, headers, Body::from(body)).into_response()
}

fn stream_response(request: &Request, position: &Position, audience: &Audience, stream: sse::Stream) -> Response {
    let mut headers = electric_headers(request, &Position { handle: stream.handle.clone(), ..position.clone() });
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    let caching = match stream.has_begun && audience.is_public {
        true => format!("public, max-age={}", sse::LIFETIME.as_secs() - 1),
        false => "no-store".into(),
    };
    if let Ok(caching) = HeaderValue::from_str(&caching) {
        headers.insert(header::CACHE_CONTROL, caching);
    }
    (StatusCode::OK, headers, stream.body).into_response()
}

fn electric_headers(request: &Request, position: &Position) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut add = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    add("electric-handle", (*position.handle).into());
    add("electric-offset", position.offset.to_string());
    if request.is_live {
        add("electric-cursor", next_cursor(request.cursor).to_string());
    }
    headers
}

/// Names this answer. A cache must not revalidate one without events, because the next one may have some. Others have what may be
/// rewritten in it.
fn etag(position: &Position, from: &str, events: &[Arc<Event>]) -> String {
    let content = if events.is_empty() {
        moment()
    } else {
        let mut hasher = DefaultHasher::new();
        events.iter().for_each(|event| event.json(AbsentArgs::Omit).hash(&mut hasher));
        hasher.finish().into()
    };
    format!("\"{}:{from}:{}:{content:x}\"", position.handle, position.offset)
}

/// For a page of a log that everybody may read.
pub const A_MINUTE: &str = "public, max-age=60";

/// The time that caches may keep an answer. Electric lets them keep what is followed by other pages for a week. Here an event can be
/// rewritten (`livestore.erase`), and is gone from caches a minute later.
fn caching(request: &Request, is_read: bool, audience: &Audience) -> String {
    const NO: &str = "no-store";
    if !audience.is_public && !request.is_live {
        // The client's rights have to be checked again when it asks again.
        return PRIVATE.into();
    }
    let age = match &request.since {
        Since::Start => A_MINUTE,
        // The answer depends on the time of the request, which is not part of the URL.
        Since::Now => NO,
        // Nothing could be read.
        Since::At(_) if !is_read => NO,
        Since::At(_) if request.is_live && request.cursor.is_none() => NO,
        Since::At(_) if request.is_live && audience.is_public => "public, max-age=5, stale-while-revalidate=5",
        Since::At(_) if request.is_live => NO,
        Since::At(_) => A_MINUTE,
    };
    age.into()
}

/// For what depends on who asks.
const PRIVATE: &str = "private, no-cache";

/// 2024-10-09T00:00:00Z, from which Electric counts.
const EPOCH: u64 = 1_728_432_000;

/// The cursor for the next live request of a client. Clients that ask within the same [`LONG_POLL`] get the same one, so that
/// a cache can answer their next requests together. If a client has this cursor already, it was answered by the cache, and
/// would get the same answer again. So it gets another cursor.
fn next_cursor(previous: Option<u64>) -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let interval = LONG_POLL.as_secs();
    let next = since_epoch.as_secs().saturating_sub(EPOCH).div_ceil(interval) * interval;
    match previous {
        Some(previous) if next <= previous => previous.saturating_add(1 + u64::from(since_epoch.subsec_nanos()) % 3600),
        _ => next,
    }
}

fn moment() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}

fn refuse(refusal: &ReadError) -> Response {
    let message = json!({"message": refusal.to_string()});
    match refusal {
        ReadError::Denied(denied) => uncached(status_of(denied), message),
        ReadError::Reset { handle, .. } => {
            let mut response = uncached(StatusCode::CONFLICT, serde_json::Value::Null);
            if let Ok(handle) = HeaderValue::from_str(handle) {
                response.headers_mut().insert(HeaderName::from_static("electric-handle"), handle);
            }
            *response.body_mut() = axum::body::Body::from(MUST_REFETCH);
            response
        }
        ReadError::Foreign => uncached(StatusCode::GONE, message),
        ReadError::Unreadable(_) => uncached(StatusCode::INTERNAL_SERVER_ERROR, message),
        ReadError::Away => {
            let mut response = uncached(StatusCode::SERVICE_UNAVAILABLE, message);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
    }
}

/// The store of a name is ambiguous. Not 400, which makes LiveStore's client start over, without end.
pub fn not_found(problem: &FindError) -> Response {
    let status = match problem {
        FindError::Ambiguous => StatusCode::UNPROCESSABLE_ENTITY,
        FindError::Unreadable(_) => StatusCode::INTERNAL_SERVER_ERROR,
        FindError::Denied(denied) => status_of(denied),
    };
    uncached(status, json!({"message": problem.to_string()}))
}

/// JSON that no cache may keep: errors, and what is of the moment.
pub fn uncached(status: StatusCode, body: serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], body.to_string())
        .into_response()
}

/// Asks an Electric behind us, and passes on what it says, body and all.
async fn forward(
    upstream: &Upstream,
    reader: &Reader,
    request: &Request,
    audience: &Audience,
    patience: &mut Patience,
    shutdown: &CancellationToken,
) -> Result<Response, Instead> {
    let forwarding = async {
        let location = reader.locate().await.ok().flatten().ok_or(Instead::ReadOurselves)?;
        if matches!(&request.since, Since::At(position) if position.handle == location.backend_id) {
            return Err(Instead::ReadOurselves);
        }
        let params: Vec<_> = request.params.iter().map(|(name, value)| (&**name, &**value)).collect();
        let asking = async {
            loop {
                let tags = audience.if_none_match.as_ref();
                let (token_ends, shutdown) = (reader.ended(), shutdown.clone());
                let end = async move {
                    tokio::select! {
                        _ = token_ends => {}
                        () = shutdown.cancelled_owned() => {}
                    }
                };
                if let Some(response) = upstream.forward(&location, &params, tags, end).await {
                    return response;
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        let mut response = match &request.since {
            Since::At(_) => tokio::select! {
                response = asking => response,
                denied = reader.ended() => return Ok(refuse(&denied.into())),
            },
            // A client without a position can begin to read from Postgres instead.
            _ => timeout(GIVE_UP, asking).await.map_err(|_| Instead::ReadOurselves)?,
        };
        if !audience.is_public {
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(PRIVATE));
            response.headers_mut().remove("surrogate-control");
        }
        Ok(response)
    };
    patience.wait_for(forwarding).await.unwrap_or(Err(Instead::Nothing))
}

/// The time that a client without a position waits for Electric.
const GIVE_UP: Duration = Duration::from_secs(10);

/// The time that an Electric that does not answer is left alone.
const AGAIN: Duration = Duration::from_secs(1);

/// Why there is no answer of Electric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instead {
    /// It cannot know: the store does not exist yet, or the client began to read here.
    ReadOurselves,
    /// It did not answer in time.
    Nothing,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_never_the_one_before() {
        let first = next_cursor(None);
        assert!(first.is_multiple_of(LONG_POLL.as_secs()));
        assert!(next_cursor(Some(first)) > first && next_cursor(Some(u64::MAX)) == u64::MAX);
        assert!(next_cursor(Some(0)) >= first);
    }
}
