//! The paths of Electric: the endpoint of sync-electric and the shape API.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use serde_json::{Value, json};

use super::{Server, observe};
use crate::auth::penalty;
use crate::config::Dialect;
use crate::log::{Action, Age, Alias, Context, StoreId, StoreLog};
use crate::protocols::electric::{GRACE, api, shape};
use crate::refusals::{Asked, Reason};

pub fn router() -> Router<Arc<Server>> {
    Router::new()
        // The client may be given a URL of its own for each of its requests.
        .route("/api/electric", any(api))
        .route("/api/electric/{request}", any(api))
        .route("/v1/shape", any(shape))
        .route("/v1/health", get(health))
}

async fn api(State(server): State<Arc<Server>>, request: Request) -> Response {
    if let Err((status, message)) = server.admit(Dialect::Electric, request.headers()) {
        return api::failure(status, &message, Value::Null);
    }
    match *request.method() {
        Method::HEAD => api::ping(),
        // Boxed: a future has room for the largest it waits for, and pushes are many.
        Method::GET => Box::pin(pull(server, &request.into_parts().0)).await,
        Method::POST => push(server, request).await,
        _ => {
            let headers = [(header::ALLOW, "GET, HEAD, POST, OPTIONS")];
            (
                headers,
                api::failure(StatusCode::METHOD_NOT_ALLOWED, "this endpoint takes GET, HEAD and POST", Value::Null),
            )
                .into_response()
        }
    }
}

async fn pull(server: Arc<Server>, request: &Parts) -> Response {
    let parsed = api::Pull::parse(request.uri.query().unwrap_or_default()).and_then(|pull| {
        let log = server.store(
            Dialect::Electric,
            &pull.store_id,
            pull.payload.as_deref(),
            &request.headers,
            request.uri.query(),
        )?;
        Ok((pull, log))
    });
    match parsed {
        Ok((pull, log)) => api::pull(log, pull, server.settings.electric.as_ref(), &server.ending).await,
        // Not 400, which the client takes for an empty log.
        Err(error) => api::failure(StatusCode::UNPROCESSABLE_ENTITY, &error, Value::Null),
    }
}

async fn push(server: Arc<Server>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let account = match server.identify(Dialect::Electric, &parts).await {
        Ok(account) => account,
        Err(refused) => return api::failure(StatusCode::FORBIDDEN, &refused, Value::Null),
    };
    let body = match server.body(body, &account).await {
        Ok(body) => body,
        Err((status, message)) => return api::failure(status, &message, Value::Null),
    };
    let parsed = api::Push::parse(&body).and_then(|push| {
        let log = server.store(Dialect::Electric, &push.store_id, None, &parts.headers, parts.uri.query())?;
        Ok((push.batch, log))
    });
    match parsed {
        Ok((batch, log)) => api::push(log, batch).await,
        Err(error) => {
            server.refused(Asked::Push, Reason::Malformed, Dialect::Electric, &error);
            api::failure(StatusCode::BAD_REQUEST, &error, json!({"_tag": "InvalidPushError"}))
        }
    }
}

async fn shape(State(server): State<Arc<Server>>, request: Request) -> Response {
    if let Err((status, message)) = server.admit(Dialect::ElectricShape, request.headers()) {
        return shape::uncached(status, json!({"message": message}));
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let headers = [(header::ALLOW, "GET, HEAD, OPTIONS")];
        let message = json!({"message": "an event log can be read as a shape, and nothing else"});
        return (headers, shape::uncached(StatusCode::METHOD_NOT_ALLOWED, message)).into_response();
    }
    let (request, _) = request.into_parts();
    let query = request.uri.query().unwrap_or_default();
    if server.settings.electric_secret.as_ref().is_some_and(|secret| !shape::has_secret(query, secret)) {
        server.refused(Asked::Pull, Reason::Secret, Dialect::ElectricShape, "a wrong --electric-secret");
        penalty().await;
        return shape::wrong_secret();
    }
    let audience = shape::Audience {
        is_public: server.log.is_public(),
        if_none_match: request.headers.get(header::IF_NONE_MATCH).cloned(),
    };
    let asked = match shape::Request::parse(query) {
        Ok(asked) => asked,
        Err(errors) => return errors.response(),
    };
    // Which stores there are is not for everybody.
    if let Err(refused) = server.identify(Dialect::ElectricShape, &request).await {
        return shape::uncached(StatusCode::FORBIDDEN, json!({"message": refused}));
    }
    let electric = server.settings.electric.as_ref();
    let mut patience = asked.patience(electric.map(|_| GRACE).unwrap_or_default(), &server.ending);
    let context = match server.unnamed_context(Dialect::ElectricShape, None, &request.headers, request.uri.query()) {
        Ok(context) => Arc::new(context),
        Err(error) => return shape::uncached(StatusCode::BAD_REQUEST, json!({"message": error})),
    };
    let log = match patience.wait_for(find(&server, &asked, &context)).await {
        Some(Ok(log)) => log,
        Some(Err(refusal)) => return refusal,
        None => return shape::nothing(&asked, &audience),
    };
    observe::is_for(Dialect::ElectricShape, log.id());
    shape::answer(log, asked, audience, patience, electric, &server.connections, server.ending.begun.clone()).await
}

/// The store that is meant. One that does not exist yet is waited for by whoever waits for events, and is an empty log to
/// others.
async fn find(server: &Server, asked: &shape::Request, context: &Arc<Context>) -> Result<StoreLog, Response> {
    let store = |name: &str| StoreId::parse(name).map(|store| server.log.store(store, Arc::clone(context)));
    let invalid = |error| shape::uncached(StatusCode::BAD_REQUEST, json!({"message": error}));
    if let Some(store_id) = &asked.store_id {
        return store(store_id).map_err(invalid);
    }
    // Whose token does not let it use a store of this name need not wait for one: it is refused.
    let is_awaited = asked.is_live
        && !server.log.has_alias(&asked.table).await.map_err(|unreadable| shape::not_found(&unreadable.into()))?;
    let found = match is_awaited {
        true => server.log.wait_for(&asked.table, Action::Pull, context).await.map(Some),
        false => server.log.find(&asked.table, Age::Any, Action::Pull, context).await,
    };
    match (found.map_err(|error| shape::not_found(&error))?, &asked.table) {
        (Some(log), _) => Ok(log),
        (None, Alias::Name(_, name)) => store(name.as_str()).map_err(invalid),
        (None, Alias::Number(number)) => {
            let message = format!("there is no store with the number {number}: see livestore.stores");
            Err(shape::uncached(StatusCode::BAD_REQUEST, json!({"message": message})))
        }
    }
}

/// As Electric says whether it can serve.
async fn health(State(server): State<Arc<Server>>) -> Response {
    if !server.settings.dialects.contains(&Dialect::ElectricShape) {
        return shape::uncached(StatusCode::NOT_FOUND, json!({"message": "the shape API is switched off"}));
    }
    let (status, text) = match server.log.ready().await {
        Ok(()) => (StatusCode::OK, "active"),
        Err(_) => (StatusCode::ACCEPTED, "waiting"),
    };
    shape::uncached(status, json!({"status": text}))
}
