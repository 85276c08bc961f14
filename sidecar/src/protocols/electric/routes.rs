//! The paths of Electric: the endpoint of sync-electric and the shape API.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use serde_json::{Value, json};

use super::{ELECTRIC, GRACE, SHAPE, Settings, Upstream, api, names, shape};
use crate::auth::penalty;
use crate::gate::{Gate, is_for};
use crate::log::{Action, Age, Alias, Context, FindError, Malformed, StoreId, StoreLog};
use crate::protocols::Services;
use crate::settings::SettingsError;
use crate::telemetry::refusals::{Asked, Reason};

struct Electric {
    gate: Arc<Gate>,
    /// Asked of clients of the shape API.
    secret: Option<String>,
    /// The source that clients read from, if it is not Postgres.
    upstream: Option<Upstream>,
}

pub fn router(services: &Services, settings: Settings) -> Result<Router, SettingsError> {
    let upstream = settings.upstream()?;
    let state = Electric { gate: Arc::clone(&services.gate), secret: settings.electric_secret, upstream };
    let router = Router::new()
        // The client may be given a URL of its own for each of its requests.
        .route("/api/electric", any(api))
        .route("/api/electric/{request}", any(api))
        .route("/v1/shape", any(shape))
        .route("/v1/health", get(health));
    Ok(router.with_state(Arc::new(state)))
}

async fn api(State(electric): State<Arc<Electric>>, request: Request) -> Response {
    if let Err((status, message)) = electric.gate.admit(&ELECTRIC, request.headers()) {
        return api::failure(status, &message, Value::Null);
    }
    match *request.method() {
        Method::HEAD => api::ping(),
        // Boxed: a future has room for the largest it waits for, and pushes are many.
        Method::GET => Box::pin(pull(electric, &request.into_parts().0)).await,
        Method::POST => push(electric, request).await,
        _ => {
            let message = "this endpoint takes GET, HEAD and POST";
            let answer = api::failure(StatusCode::METHOD_NOT_ALLOWED, message, Value::Null);
            ([(header::ALLOW, "GET, HEAD, POST, OPTIONS")], answer).into_response()
        }
    }
}

async fn pull(electric: Arc<Electric>, request: &Parts) -> Response {
    let parsed = api::Pull::parse(request.uri.query().unwrap_or_default()).and_then(|pull| {
        let log = electric.gate.store(&ELECTRIC, &pull.store_id, pull.payload.as_deref(), request)?;
        Ok((pull, log))
    });
    match parsed {
        Ok((pull, log)) => api::pull(log, pull, electric.upstream.as_ref(), &electric.gate.ending).await,
        // Not 400, which the client takes for an empty log.
        Err(error) => api::failure(StatusCode::UNPROCESSABLE_ENTITY, error.text(), Value::Null),
    }
}

async fn push(electric: Arc<Electric>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = match electric.gate.receive(&ELECTRIC, &parts, body).await {
        Ok(body) => body,
        Err((status, message)) => return api::failure(status, &message, Value::Null),
    };
    let parsed = api::Push::parse(&body).and_then(|push| {
        let log = electric.gate.store(&ELECTRIC, &push.store_id, None, &parts)?;
        Ok((push.batch, log))
    });
    match parsed {
        Ok((batch, log)) => api::push(log, batch).await,
        Err(error) => {
            electric.gate.refused(Asked::Push, Reason::Malformed, &ELECTRIC, error.text());
            api::failure(StatusCode::BAD_REQUEST, error.text(), json!({"_tag": "InvalidPushError"}))
        }
    }
}

async fn shape(State(electric): State<Arc<Electric>>, request: Request) -> Response {
    if let Err((status, message)) = electric.gate.admit(&SHAPE, request.headers()) {
        return shape::uncached(status, json!({"message": message}));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let headers = [(header::ALLOW, "GET, HEAD, OPTIONS")];
        let message = json!({"message": "an event log can be read as a shape, and nothing else"});
        return (headers, shape::uncached(StatusCode::METHOD_NOT_ALLOWED, message)).into_response();
    }
    let (request, _) = request.into_parts();
    let query = request.uri.query().unwrap_or_default();
    if electric.secret.as_ref().is_some_and(|secret| !shape::has_secret(query, secret)) {
        electric.gate.refused(Asked::Pull, Reason::Secret, &SHAPE, "a wrong --electric-secret");
        penalty().await;
        return shape::wrong_secret();
    }
    let audience = shape::Audience {
        is_public: electric.gate.log.is_public(),
        if_none_match: request.headers.get(header::IF_NONE_MATCH).cloned(),
    };
    let asked = match shape::Request::parse(query) {
        Ok(asked) => asked,
        Err(errors) => return errors.response(),
    };
    // A list of stores is not for everybody.
    if let Err((status, message)) = electric.gate.identify(&SHAPE, &request).await {
        return shape::uncached(status, json!({"message": message}));
    }
    let upstream = electric.upstream.as_ref();
    let mut patience = asked.patience(upstream.map(|_| GRACE).unwrap_or_default(), &electric.gate.ending);
    let context = match electric.gate.unnamed_context(&SHAPE, None, &request) {
        Ok(context) => Arc::new(context),
        Err(error) => return shape::uncached(StatusCode::BAD_REQUEST, json!({"message": error.text()})),
    };
    let log = match patience.wait_for(find(&electric, &asked, &context)).await {
        Some(Ok(log)) => log,
        Some(Err(refusal)) => return refusal,
        None => return shape::nothing(&asked, &audience),
    };
    is_for(&SHAPE, log.id());
    let Gate { connections, ending, .. } = &*electric.gate;
    shape::answer(log, asked, audience, patience, upstream, connections, ending.begun.clone()).await
}

/// Finds the store that a request means. If it does not exist yet, a request that waits for events waits for the store, if it
/// may come to use it; to other requests it is an empty log.
async fn find(electric: &Electric, asked: &shape::Request, context: &Arc<Context>) -> Result<StoreLog, Response> {
    let logs = &electric.gate.log;
    let store = |name: &str| StoreId::parse(name).map(|store| logs.store(store, Arc::clone(context)));
    let invalid = |error: Malformed| shape::uncached(StatusCode::BAD_REQUEST, json!({"message": error.text()}));
    if let Some(store_id) = &asked.store_id {
        return store(store_id).map_err(invalid);
    }
    // No store has a name that is too long for a store id, and names that were looked up are kept for a while.
    let named = match &asked.table {
        Alias::Name(_, name) => Some((StoreId::parse(name.as_str()).map_err(invalid)?, name.as_str())),
        Alias::Number(_) => None,
    };
    let refuse = |error: FindError| shape::not_found(&error);
    let mut found = logs.find(&asked.table, Age::Any, Action::Pull, context).await.map_err(refuse)?;
    if found.is_none() && asked.is_live {
        // A client whose token allows no store of this name need not wait for one. It is refused, whether others have one or not.
        let is_awaited = match named {
            Some((store, suffix)) => {
                let may_have = |id: &str, is_prefix: bool| names::may_name(suffix, id, is_prefix);
                logs.may_come_to_use(store, Action::Pull, context, may_have).await
            }
            None => true,
        };
        if is_awaited {
            found = Some(logs.wait_for(&asked.table, Action::Pull, context).await.map_err(refuse)?);
        }
    }
    match (found, &asked.table) {
        (Some(log), _) => Ok(log),
        (None, Alias::Name(_, name)) => store(name.as_str()).map_err(invalid),
        (None, Alias::Number(number)) => {
            let message = format!("there is no store with the number {number}: see livestore.stores");
            Err(shape::uncached(StatusCode::BAD_REQUEST, json!({"message": message})))
        }
    }
}

/// As Electric says whether it can serve.
async fn health(State(electric): State<Arc<Electric>>) -> Response {
    if !electric.gate.serves(&SHAPE) {
        return shape::uncached(StatusCode::NOT_FOUND, json!({"message": "the shape API is switched off"}));
    }
    let (status, text) = match electric.gate.log.ready().await {
        Ok(_) => (StatusCode::OK, "active"),
        Err(_) => (StatusCode::ACCEPTED, "waiting"),
    };
    shape::uncached(status, json!({"status": text}))
}
