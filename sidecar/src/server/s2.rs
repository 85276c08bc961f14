//! The paths of S2: the endpoint of sync-s2.

use axum::Router;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;

use super::Server;
use crate::config::Dialect;
use crate::protocols::s2::api;

pub fn router() -> Router<Server> {
    Router::new()
        // The client may be given a URL of its own for each of its requests.
        .route("/api/s2", any(api))
        .route("/api/s2/{request}", any(api))
}

async fn api(State(server): State<Server>, request: Request) -> Response {
    let refusal = server.admit(Dialect::S2, request.headers());
    match (request.method().clone(), refusal) {
        (Method::GET, Err((status, message))) => api::refuse_pull(status, &message),
        (_, Err((status, message))) => api::failure(status, &message),
        (Method::HEAD, _) => api::ping(),
        (Method::GET, _) => pull(server, &request.into_parts().0).await,
        (Method::POST, _) => push(server, request).await,
        _ => {
            let headers = [(header::ALLOW, "GET, HEAD, POST, OPTIONS")];
            let message = "this endpoint takes GET, HEAD and POST";
            (headers, api::failure(StatusCode::METHOD_NOT_ALLOWED, message)).into_response()
        }
    }
}

async fn pull(server: Server, request: &Parts) -> Response {
    let parsed = api::Pull::parse(request.uri.query().unwrap_or_default()).and_then(|pull| {
        let log = server.store(&pull.store_id, pull.payload.as_deref(), &request.headers)?;
        Ok((pull, log))
    });
    match parsed {
        Ok((pull, log)) => api::pull(log, pull, &server.connections, server.shutdown).await,
        Err(error) => api::refuse_pull(StatusCode::BAD_REQUEST, &error),
    }
}

async fn push(server: Server, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = match server.body(body).await {
        Ok(body) => body,
        Err((status, message)) => return api::failure(status, &message),
    };
    let parsed = api::Push::parse(&body).and_then(|push| {
        let log = server.store(&push.store_id, None, &parts.headers)?;
        Ok((push.batch, log))
    });
    match parsed {
        Ok((batch, log)) => api::push(log, batch).await,
        Err(error) => api::failure(StatusCode::BAD_REQUEST, &error),
    }
}
