//! The paths of S2: the endpoint of sync-s2, and the REST API.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{REST, SYNC_S2, Settings, api, names, rest};
use crate::gate::{Gate, is_for};
use crate::limits::memory::Account;
use crate::log::{Action, Age, FindError, PgText, StoreId, StoreLog};
use crate::protocols::{Services, read_json, status_of};
use crate::settings::SettingsError;
use crate::telemetry::refusals::{Asked, Reason};

struct S2 {
    gate: Arc<Gate>,
    created: Created,
}

pub fn router(services: &Services, _: Settings) -> Result<Router, SettingsError> {
    let router = Router::new()
        // The client may be given a URL of its own for each of its requests.
        .route("/api/s2", any(api))
        .route("/api/s2/{request}", any(api))
        .route("/v1/basins", post(create_basin))
        .route("/v1/streams", get(list_streams).post(create_stream))
        .route("/v1/streams/{stream}/records", get(read).post(append))
        .route("/v1/streams/{stream}/records/tail", get(tail));
    Ok(router.with_state(Arc::new(S2 { gate: Arc::clone(&services.gate), created: Created::default() })))
}

async fn api(State(s2): State<Arc<S2>>, request: Request) -> Response {
    let refusal = s2.gate.admit(&SYNC_S2, request.headers());
    match (request.method().clone(), refusal) {
        (Method::GET, Err((status, message))) => api::refuse_pull(status, &message),
        (_, Err((status, message))) => api::failure(status, &message),
        (Method::HEAD, _) => api::ping(),
        // Boxed: a future has room for the largest it waits for, and pushes are many.
        (Method::GET, _) => Box::pin(pull(s2, &request.into_parts().0)).await,
        (Method::POST, _) => push(s2, request).await,
        _ => {
            let headers = [(header::ALLOW, "GET, HEAD, POST, OPTIONS")];
            let message = "this endpoint takes GET, HEAD and POST";
            (headers, api::failure(StatusCode::METHOD_NOT_ALLOWED, message)).into_response()
        }
    }
}

async fn pull(s2: Arc<S2>, request: &Parts) -> Response {
    let parsed = api::Pull::parse(request.uri.query().unwrap_or_default()).and_then(|pull| {
        let log = s2.gate.store(&SYNC_S2, &pull.store_id, pull.payload.as_deref(), request)?;
        Ok((pull, log))
    });
    match parsed {
        Ok((pull, log)) => api::pull(log, pull, &s2.gate.connections, &s2.gate.ending).await,
        Err(error) => api::refuse_pull(StatusCode::BAD_REQUEST, error.text()),
    }
}

async fn push(s2: Arc<S2>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = match s2.gate.receive(&SYNC_S2, &parts, body).await {
        Ok(body) => body,
        Err((status, message)) => return api::failure(status, &message),
    };
    let parsed = api::Push::parse(&body).and_then(|push| {
        let log = s2.gate.store(&SYNC_S2, &push.store_id, None, &parts)?;
        Ok((push.batch, log))
    });
    match parsed {
        Ok((batch, log)) => api::push(log, batch).await,
        Err(error) => {
            s2.gate.refused(Asked::Push, Reason::Malformed, &SYNC_S2, error.text());
            api::failure(StatusCode::BAD_REQUEST, error.text())
        }
    }
}

/// Names of basins and streams that were created here, to tell whether a name is new. Creating them is not necessary: a basin
/// is a name for this database, and a stream begins with its first record.
#[derive(Default)]
struct Created {
    /// Hashes: a name may have some kilobytes.
    names: Mutex<HashSet<u64>>,
    hasher: RandomState,
}

/// The number of names that are remembered.
const CREATED: usize = 10_000;

impl Created {
    /// Whether it is new.
    fn add(&self, what: &str, name: &str) -> bool {
        let name = self.hasher.hash_one((what, name));
        let mut names = self.names.lock();
        if names.len() == CREATED {
            names.clear();
        }
        names.insert(name)
    }
}

/// An error for a client of the REST API.
struct RestError(StatusCode, &'static str, String);

impl IntoResponse for RestError {
    fn into_response(self) -> Response {
        rest::failure(self.0, self.1, &self.2)
    }
}

fn invalid(message: impl Into<String>) -> RestError {
    RestError(StatusCode::UNPROCESSABLE_ENTITY, "invalid", message.into())
}

fn unreadable(error: &impl ToString) -> RestError {
    RestError(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string())
}

fn stream_text(name: &str) -> Result<PgText, RestError> {
    PgText::parse("the name of a stream", name).map_err(invalid)
}

impl S2 {
    async fn admit_rest(&self, parts: &Parts) -> Result<Account, RestError> {
        let refuse = |(status, message)| RestError(status, "permission_denied", message);
        self.gate.admit(&REST, &parts.headers).map_err(refuse)?;
        self.gate.identify(&REST, parts).await.map_err(refuse)
    }

    async fn json<T: for<'de> Deserialize<'de>>(&self, body: Body, account: &Account) -> Result<T, RestError> {
        let body = self.gate.body(body, account).await;
        let body = body.map_err(|(status, message)| RestError(status, "invalid", message))?;
        read_json(&body).map_err(|error| invalid(format!("malformed request: {error}")))
    }

    /// An append must not create a second store of a name.
    async fn find(&self, name: PgText, parts: &Parts) -> Result<Option<StoreLog>, RestError> {
        let context = self.gate.unnamed_context(&REST, None, parts).map_err(invalid)?;
        let (age, action) =
            if parts.method == Method::POST { (Age::Now, Action::Push) } else { (Age::Any, Action::Pull) };
        let found = self.gate.log.find(&names::stream(name), age, action, &Arc::new(context)).await;
        found.map_err(|error| match error {
            FindError::Ambiguous => RestError(StatusCode::CONFLICT, "ambiguous_stream", error.to_string()),
            FindError::Unreadable(_) => unreadable(&error),
            FindError::Denied(denied) => RestError(status_of(&denied), "unavailable", denied.to_string()),
        })
    }

    /// The log of a stream, and whether there is such a store already.
    async fn stream(&self, name: &str, parts: &Parts) -> Result<(StoreLog, bool), RestError> {
        #[derive(Deserialize)]
        struct Params {
            store_id: Option<String>,
        }
        self.admit_rest(parts).await?;
        let query = parts.uri.query().unwrap_or_default();
        let Params { store_id } =
            serde_urlencoded::from_str(query).map_err(|error| invalid(format!("malformed search params: {error}")))?;
        let is_stream_name =
            name.len() <= 100 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        let (store_id, exists) = match store_id {
            Some(store_id) => (store_id, true),
            // A name that `makeS2StreamName` cannot have made is a store id.
            None if !is_stream_name => (name.into(), true),
            None => match self.find(stream_text(name)?, parts).await? {
                Some(log) => {
                    is_for(&REST, log.id());
                    return Ok((log, true));
                }
                None => (name.into(), false),
            },
        };
        let store = StoreId::parse(&store_id).map_err(invalid)?;
        let context = self.gate.context(&REST, &store, None, parts).map_err(invalid)?;
        Ok((self.gate.log.store(store, context), exists))
    }
}

async fn create_basin(State(s2): State<Arc<S2>>, request: Request) -> Result<Response, RestError> {
    #[derive(Deserialize)]
    struct Basin {
        basin: String,
    }
    let (parts, body) = request.into_parts();
    let account = s2.admit_rest(&parts).await?;
    let Basin { basin } = s2.json(body, &account).await?;
    if basin.is_empty() || basin.len() > 48 {
        return Err(invalid("the name of a basin has 1 to 48 characters"));
    }
    let info = json!({"name": basin, "scope": "aws:us-east-1", "state": "active"});
    // That a name is taken is not for everybody where it may be another client who took it.
    let is_new = !s2.gate.log.is_public() || s2.created.add("basin", &basin);
    created(is_new, "basin", info)
}

async fn create_stream(State(s2): State<Arc<S2>>, request: Request) -> Result<Response, RestError> {
    #[derive(Deserialize)]
    struct Stream {
        stream: String,
    }
    let (parts, body) = request.into_parts();
    let account = s2.admit_rest(&parts).await?;
    let Stream { stream } = s2.json(body, &account).await?;
    StoreId::parse(&stream).map_err(invalid)?;
    // Neither the stores that there are nor what others create is for everybody where an operator says who may see which.
    let is_new = !s2.gate.log.is_public() || {
        let alias = names::stream(stream_text(&stream)?);
        let exists = s2.gate.log.has_alias(&alias).await.map_err(|error| unreadable(&error))?;
        s2.created.add("stream", &stream) && !exists
    };
    let info = json!({"name": stream, "created_at": now(), "deleted_at": null});
    created(is_new, "stream", info)
}

fn created(is_new: bool, what: &str, info: Value) -> Result<Response, RestError> {
    if is_new {
        return Ok(rest::answer(StatusCode::CREATED, info));
    }
    Err(RestError(StatusCode::CONFLICT, "resource_already_exists", format!("the {what} exists")))
}

fn now() -> String {
    humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string()
}

async fn list_streams(State(s2): State<Arc<S2>>, request: Request) -> Result<Response, RestError> {
    #[derive(Deserialize)]
    struct Params {
        #[serde(default)]
        prefix: String,
        #[serde(default)]
        start_after: String,
        limit: Option<i64>,
    }
    let (parts, _) = request.into_parts();
    s2.admit_rest(&parts).await?;
    if !s2.gate.log.is_public() {
        let message =
            "streams are not listed where tokens, or a function or service of the operator, decide who may read which";
        return Err(RestError(StatusCode::FORBIDDEN, "permission_denied", message.into()));
    }
    let query = parts.uri.query().unwrap_or_default();
    let Params { prefix, start_after, limit } =
        serde_urlencoded::from_str(query).map_err(|error| invalid(format!("malformed search params: {error}")))?;
    let limit = limit.unwrap_or(1000).clamp(0, 1000);
    let prefix = PgText::parse("prefix", prefix).map_err(invalid)?;
    let start_after = PgText::parse("start_after", start_after).map_err(invalid)?;
    let listed = s2.gate.log.list(names::LIST, &prefix, &start_after, limit + 1).await;
    let mut streams = listed.map_err(|_| {
        RestError(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "the database is not available, try again later".into(),
        )
    })?;
    let has_more = i64::try_from(streams.len()).is_ok_and(|count| count > limit);
    streams.truncate(usize::try_from(limit).unwrap_or(0));
    let stream = |(name, at): (String, chrono::DateTime<chrono::Utc>)| json!({"name": name, "created_at": at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true), "deleted_at": null});
    let streams: Vec<_> = streams.into_iter().map(stream).collect();
    Ok(rest::answer(StatusCode::OK, json!({"streams": streams, "has_more": has_more})))
}

async fn append(
    State(s2): State<Arc<S2>>,
    Path(stream): Path<String>,
    request: Request,
) -> Result<Response, RestError> {
    let (parts, body) = request.into_parts();
    let (log, _) = s2.stream(&stream, &parts).await?;
    if parts.headers.get("s2-format").is_some_and(|format| format != "raw") {
        return Err(invalid("records are text: s2-format must be raw"));
    }
    let body = s2
        .gate
        .body(body, &log.account_to_send())
        .await
        .map_err(|(status, message)| RestError(status, "invalid", message))?;
    let append = rest::Append::parse(&body).map_err(|error| {
        log.refuse_malformed(error.text());
        invalid(error)
    })?;
    Ok(rest::append(log, append).await)
}

async fn read(State(s2): State<Arc<S2>>, Path(stream): Path<String>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let is_stream = header("accept").is_some_and(|accept| accept.contains("text/event-stream"));
    let reading = async {
        let (log, exists) = s2.stream(&stream, &parts).await?;
        let query = parts.uri.query().unwrap_or_default();
        let read = rest::Read::parse(query, is_stream, header("last-event-id")).map_err(invalid)?;
        let answer = rest::read(log, read, exists, &s2.gate.connections, &s2.gate.ending).await;
        answer.map_err(|error| {
            let (status, code) = rest::status(&error);
            RestError(status, code, error.to_string())
        })
    };
    match reading.await {
        Ok(answer) => answer,
        // A server between here and LiveStore's client passes it on, and the client reads nothing else.
        Err(RestError(status, _, message)) if is_stream => api::refuse_pull(status, &message),
        Err(refusal) => refusal.into_response(),
    }
}

async fn tail(State(s2): State<Arc<S2>>, Path(stream): Path<String>, request: Request) -> Result<Response, RestError> {
    let (log, _) = s2.stream(&stream, &request.into_parts().0).await?;
    Ok(rest::tail(log).await)
}
