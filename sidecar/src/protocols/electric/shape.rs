//! Electric's shape API for event logs, `GET /v1/shape`: for servers that make their URLs with `makeElectricUrl` of
//! `@livestore/sync-electric`, and for `ShapeStream` of `@electric-sql/client`.
//!
//! After <https://electric-sql.com/openapi.html> and the source of Electric 1.x (`shapes/api/params.ex`, `response.ex`). An
//! event log has no updates and no subsets, and its only condition is which store it is.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, error};

use super::messages::{Columns, MUST_REFETCH, Relation, page, up_to_date};
use super::offset::{Offset, Position};
use super::read::{Follow, LONG_POLL, Page, Patience, ReadError, Wait, read};
use super::sse;
use super::table::{parse_columns, parse_table};
use super::upstream::Upstream;
use crate::log::{StoreLog, Table};

/// Where a client wants to read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// `-1`: the first event.
    Start,
    /// `now`: the end, without events.
    Now,
    At(Position),
}

/// A request for a shape, from the search params of its URL.
#[derive(Debug)]
pub struct Request {
    /// Without the parameter `store_id`, the table tells the store.
    pub store_id: Option<String>,
    pub table: Table,
    relation: Relation,
    since: Since,
    columns: Columns,
    is_live: bool,
    is_sse: bool,
    /// What keeps live requests of many clients the same, so that a cache answers them with one. LiveStore's client has none.
    cursor: Option<u64>,
    /// What goes on to Electric, if there is one behind us.
    params: Vec<(String, String)>,
}

/// What is wrong with a request, by search param.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Errors(BTreeMap<&'static str, String>);

impl Errors {
    fn add(&mut self, param: &'static str, problem: impl Into<String>) {
        self.0.entry(param).or_insert_with(|| problem.into());
    }

    /// As Electric says it.
    pub fn response(self) -> Response {
        let errors: BTreeMap<_, _> = self.0.into_iter().map(|(param, problem)| (param, [problem])).collect();
        failure(StatusCode::BAD_REQUEST, json!({"message": "Invalid request", "errors": errors}))
    }
}

/// Search params that an Electric behind us gets from a client; the others say what shape it is, and are ours.
const FORWARDED: [&str; 12] = [
    "offset",
    "handle",
    "live",
    "live_sse",
    "experimental_live_sse",
    "cursor",
    "columns",
    "log",
    "replica",
    "expired_handle",
    "cache-buster",
    "experimental_compaction",
];

impl Request {
    /// # Errors
    /// What is wrong with it.
    pub fn parse(query: &str) -> Result<Self, Errors> {
        let params: Vec<(String, String)> = serde_urlencoded::from_str(query).unwrap_or_default();
        let param = |name: &str| params.iter().rev().find(|(key, _)| key == name).map(|(_, value)| &**value);
        let mut errors = Errors::default();

        let is = |name: &'static str, errors: &mut Errors| match param(name) {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => {
                errors.add(name, "is invalid");
                false
            }
        };
        let is_live = is("live", &mut errors);
        let is_sse = is("live_sse", &mut errors) | is("experimental_live_sse", &mut errors);
        if is_sse && !is_live {
            errors.add("live_sse", "can't be true unless live is also true");
        }
        let cursor = param("cursor").and_then(|cursor| cursor.parse().ok());

        let condition = param("where").map(|condition| (condition, param("params[1]")));
        let table = match param("table").map(|table| parse_table(table, condition)) {
            Some(Ok(table)) => Some(table),
            Some(Err((param, problem))) => {
                errors.add(param, problem);
                None
            }
            None => {
                errors.add("table", "can't be blank");
                None
            }
        };
        let columns =
            match param("columns").map(|columns| parse_columns(columns).and_then(|names| Columns::choose(&names))) {
                Some(Ok(columns)) => columns,
                Some(Err(problem)) => {
                    errors.add("columns", problem);
                    Columns::ALL
                }
                None => Columns::ALL,
            };
        if !matches!(param("replica"), None | Some("default" | "full")) {
            errors.add("replica", "is invalid");
        }
        let is_changes_only = match param("log") {
            None | Some("full") => false,
            Some("changes_only") => true,
            Some(_) => {
                errors.add("log", "is invalid");
                false
            }
        };
        if let Some((name, _)) = params.iter().find(|(name, _)| name.starts_with("subset__")) {
            errors.add("subset", format!("{name}: an event log has no subsets, read it from the start"));
        }

        let since = match param("offset") {
            None => Err("can't be blank"),
            Some("-1" | "now") if is_live => {
                errors.add("live", "can't be true when offset is -1 or now");
                Ok(Since::Start)
            }
            // Everything in a log is a change, so that without those of before there is nothing yet.
            Some("-1") if is_changes_only => Ok(Since::Now),
            Some("-1") => Ok(Since::Start),
            Some("now") => Ok(Since::Now),
            Some(offset) => offset.parse::<Offset>().map(|offset| match param("handle") {
                Some(handle) if !handle.is_empty() => Since::At(Position { offset, handle: handle.into() }),
                _ => {
                    errors.add("handle", "can't be blank when offset != -1");
                    Since::Start
                }
            }),
        };
        let since = since.unwrap_or_else(|problem| {
            errors.add("offset", problem);
            Since::Start
        });

        let store_id = param("store_id").map(Into::into);
        let is_forwarded = |name: &str| FORWARDED.contains(&name);
        match table {
            Some((table, relation)) if errors.0.is_empty() => {
                let params = params.into_iter().filter(|(name, _)| is_forwarded(name)).collect();
                Ok(Self { store_id, table, relation, since, columns, is_live, is_sse, cursor, params })
            }
            _ => Err(errors),
        }
    }

    /// `grace`: how much longer the client waits than Electric would let it.
    pub fn patience(&self, grace: Duration, shutdown: CancellationToken) -> Patience {
        let wait = Wait { is_live: self.is_live, has_position: matches!(self.since, Since::At(_)) };
        Patience::new(wait, LONG_POLL + grace, shutdown)
    }

    /// Whether the client waits for what is to come.
    pub fn is_live(&self) -> bool {
        self.is_live
    }

    fn follow(&self) -> Follow {
        match (self.is_live, self.cursor) {
            (false, _) => Follow::No,
            (true, Some(_)) => Follow::Wait,
            (true, None) => Follow::TellFirst,
        }
    }
}

/// Whether a request has the secret, in one of the search params that Electric takes it from.
pub fn has_secret(query: &str, secret: &str) -> bool {
    let params: Vec<(Cow<'_, str>, Cow<'_, str>)> = serde_urlencoded::from_str(query).unwrap_or_default();
    params
        .iter()
        .filter(|(name, _)| matches!(&**name, "secret" | "api_secret" | "source_secret"))
        .any(|(_, given)| given.as_bytes().ct_eq(secret.as_bytes()).into())
}

pub fn wrong_secret() -> Response {
    failure(StatusCode::UNAUTHORIZED, json!({"message": "Unauthorized - Invalid API secret"}))
}

/// What an answer depends on beside the log.
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
    tasks: &TaskTracker,
    shutdown: CancellationToken,
) -> Response {
    debug!(store = ?log.id(), since = ?request.since, is_live = request.is_live, is_sse = request.is_sse, "shape");
    if let (true, Since::At(position)) = (request.is_sse, &request.since) {
        let stream =
            sse::open(log, position, request.relation.clone(), request.columns, &mut patience, tasks, shutdown);
        return match stream.await {
            Ok(stream) => stream_response(&request, position, &audience, stream),
            Err(refusal) => refuse(&refusal),
        };
    }
    let page = match &request.since {
        Since::Start => read(&log, None, Follow::No, &mut patience).await,
        Since::At(position) => read(&log, Some(position), request.follow(), &mut patience).await,
        Since::Now => match patience.wait_for(log.follow()).await {
            Some(Ok(end)) => {
                let position = Position { offset: Offset::after(end.last()), handle: (**end.backend_id()).into() };
                Ok(Page::empty(position, true))
            }
            Some(Err(error)) => Err(super::read::read_error(error, Offset::after(0))),
            None => Err(ReadError::Away),
        },
    };
    match page {
        Ok(page) => page_response(&request, page, &audience),
        Err(refusal) => refuse(&refusal),
    }
}

/// For a client that has waited long enough for what cannot be had: nothing new.
pub fn nothing(request: &Request, audience: &Audience) -> Response {
    match &request.since {
        Since::At(position) => page_response(request, Page::empty(position.clone(), request.is_live), audience),
        Since::Start | Since::Now => refuse(&ReadError::Away),
    }
}

fn page_response(request: &Request, read: Page, audience: &Audience) -> Response {
    let Page { events, position, is_up_to_date } = read;
    let from = match &request.since {
        Since::Start => "-1".to_string(),
        Since::Now => "now".to_string(),
        Since::At(position) => position.offset.to_string(),
    };
    // The first page may be in caches for a week: it does not say that there is no more.
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
    add("cache-control", &caching(request, !is_up_to_date && !events.is_empty(), audience));
    // An answer without events is none to revalidate: the next one may have some.
    let moment = if events.is_empty() { format!(":{}", moment()) } else { String::new() };
    let etag = format!("\"{}:{from}:{}{moment}\"", position.handle, position.offset);
    add("etag", &etag);
    let has_it = audience.if_none_match.as_ref().and_then(|value| value.to_str().ok());
    if has_it.is_some_and(|tags| tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag)) {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    let end = is_up_to_date.then(|| up_to_date(position.offset.seq_num));
    match page(&events, &request.relation, request.columns, end) {
        Ok(body) => (StatusCode::OK, headers, body).into_response(),
        Err(broken) => {
            error!(error = &broken as &dyn std::error::Error, "an event cannot be read");
            failure(StatusCode::INTERNAL_SERVER_ERROR, json!({"message": "an event cannot be read"}))
        }
    }
}

fn stream_response(request: &Request, position: &Position, audience: &Audience, stream: sse::Stream) -> Response {
    let mut headers = electric_headers(request, &Position { handle: stream.handle.clone(), ..position.clone() });
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    let visibility = if audience.is_public { "public" } else { "private" };
    let age = sse::LIFETIME.as_secs() - 1;
    if let Ok(caching) = HeaderValue::from_str(&format!("{visibility}, max-age={age}")) {
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

/// How long caches may keep an answer, as Electric has it. A log is only ever added to: a page that is followed by another
/// never changes.
fn caching(request: &Request, is_full: bool, audience: &Audience) -> String {
    const A_WEEK: &str = "max-age=604800, s-maxage=3600, stale-while-revalidate=2629746";
    let age = match &request.since {
        Since::Start => A_WEEK,
        // Depends on when it is asked, and nothing in the URL tells when that is.
        Since::Now => return "no-store".into(),
        Since::At(_) if request.is_live && request.cursor.is_none() => return "no-store".into(),
        Since::At(_) if request.is_live => "max-age=5, stale-while-revalidate=5",
        Since::At(_) if is_full => A_WEEK,
        Since::At(_) => "max-age=60, stale-while-revalidate=300",
    };
    format!("{}, {age}", if audience.is_public { "public" } else { "private" })
}

/// 2024-10-09T00:00:00Z, from which Electric counts.
const EPOCH: u64 = 1_728_432_000;

/// Whoever asks within the same [`LONG_POLL`] gets the same cursor, so that their next requests are one to a cache. A client
/// that has it already got an answer from there, which it must not get again.
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
        ReadError::Denied(_) => failure(StatusCode::FORBIDDEN, message),
        ReadError::Reset { handle, .. } => {
            let mut response = failure(StatusCode::CONFLICT, serde_json::Value::Null);
            if let Ok(handle) = HeaderValue::from_str(handle) {
                response.headers_mut().insert(HeaderName::from_static("electric-handle"), handle);
            }
            *response.body_mut() = axum::body::Body::from(MUST_REFETCH);
            response
        }
        ReadError::Foreign => failure(StatusCode::GONE, message),
        ReadError::Away => {
            let mut response = failure(StatusCode::SERVICE_UNAVAILABLE, message);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
    }
}

/// Several stores have the name of the table. Not 400, which makes LiveStore's client start over, without end.
pub fn ambiguous(problem: &crate::log::Ambiguous) -> Response {
    failure(StatusCode::UNPROCESSABLE_ENTITY, json!({"message": problem.to_string()}))
}

/// As Electric's errors look. No cache may keep one.
pub fn failure(status: StatusCode, body: serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")], body.to_string())
        .into_response()
}

/// Asks an Electric behind us, and passes on what it says, body and all.
///
/// # Errors
/// What to do instead.
pub async fn forward(
    upstream: &Upstream,
    log: &StoreLog,
    request: &Request,
    audience: &Audience,
    patience: &mut Patience,
) -> Result<Response, Instead> {
    let forwarding = async {
        if let Err(denied) = log.may_pull().await {
            return Ok(refuse(&denied.into()));
        }
        let location = log.locate().await.ok_or(Instead::ReadOurselves)?;
        if matches!(&request.since, Since::At(position) if position.handle == location.backend_id) {
            return Err(Instead::ReadOurselves);
        }
        let params: Vec<_> = request.params.iter().map(|(name, value)| (&**name, &**value)).collect();
        loop {
            if let Some(response) = upstream.forward(&location, &params, audience.if_none_match.as_ref()).await {
                return Ok(response);
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    patience.wait_for(forwarding).await.unwrap_or(Err(Instead::Nothing))
}

/// How long an Electric that does not answer is left alone.
const AGAIN: Duration = Duration::from_secs(1);

/// Why there is no answer of Electric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instead {
    /// It cannot know: the store does not exist yet, or the client began to read here.
    ReadOurselves,
    /// It did not answer in time.
    Nothing,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_makes_it_panic(
            query: String,
            params in prop::collection::vec((prop::sample::select(&FORWARDED[..]), ".{0,20}"), 0..6)
        ) {
            let _ = (Request::parse(&query), has_secret(&query, "secret"));
            let params = serde_urlencoded::to_string(params).unwrap_or_default();
            let _ = Request::parse(&format!("table=eventlog_6_a&{params}"));
        }
    }

    #[test]
    fn a_cursor_is_never_the_one_before() {
        let first = next_cursor(None);
        assert!(first.is_multiple_of(LONG_POLL.as_secs()));
        assert!(next_cursor(Some(first)) > first && next_cursor(Some(u64::MAX)) == u64::MAX);
        assert_eq!(next_cursor(Some(0)), next_cursor(None));
    }
}
