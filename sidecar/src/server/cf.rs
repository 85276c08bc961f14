//! The requests of sync-cf, on any path: their search params tell them.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout;
use tracing::info;

use super::{INFO, STRANGERS_BYTES, Server, bad_request, refuse, refuse_any, upgrade_required};
use crate::config::Dialect;
use crate::log::{Context, StoreId, StoreLog};
use crate::protocols::{cf_0_3, rpc, websocket};
use crate::refusals::{Asked, Reason};

/// How long a WebSocket waits for a database that is away before its client is told to come back.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The paths of the other protocols.
const ENDPOINTS: [&str; 6] =
    ["/api/electric", "/api/s2", "/v1/shape", "/v1/streams", "/v1/basins", "/api/v1/livestore/sync"];

/// The search params by which sync-cf's own worker tells its requests (`SearchParamsSchema`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SearchParams {
    store_id: String,
    transport: Option<String>,
    payload: Option<String>,
}

pub async fn any_path(State(server): State<Arc<Server>>, request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let path = request.uri().path();
    match serde_urlencoded::from_str(query) {
        Ok(SearchParams { store_id, transport, payload }) => {
            // Effect 4's HTTP client ends the URL that it was given with a slash.
            let dialect = match transport.as_deref().map(|transport| transport.trim_end_matches('/')) {
                Some("ws") => Dialect::CfWs,
                Some("http") => Dialect::CfHttp,
                None if path.ends_with("/websocket") => Dialect::Cf03,
                None => return bad_request("no such endpoint, see / for those there are (missing field `transport`)"),
                Some(_) => return bad_request("no such endpoint, see / for those there are (unknown `transport`)"),
            };
            sync(server, dialect, &store_id, payload.as_deref(), request).await
        }
        Err(_) if path == "/" && query.is_empty() && matches!(*request.method(), Method::GET | Method::HEAD) => {
            INFO.into_response()
        }
        Err(error) => refuse_any(request.headers(), StatusCode::NOT_FOUND, &no_endpoint(path, &error.to_string())),
    }
}

/// What to do about a URL that leads nowhere: most often something in front was to take a prefix away.
fn no_endpoint(path: &str, error: &str) -> String {
    let found = ENDPOINTS.iter().find_map(|endpoint| Some((endpoint, path.find(endpoint)?)));
    match found {
        Some((endpoint, at)) if at > 0 => format!(
            "no such endpoint: {endpoint} is one, let the proxy in front take {} away, or the client leave it out",
            &path[..at]
        ),
        _ => format!("no such endpoint, see / for those there are ({error})"),
    }
}

async fn sync(
    server: Arc<Server>,
    dialect: Dialect,
    store_id: &str,
    payload: Option<&str>,
    request: Request,
) -> Response {
    if let Err(refusal) = server.admit(dialect, request.headers()) {
        return refuse(refusal);
    }
    let parsed = StoreId::parse(store_id).and_then(|store| {
        let payload = payload.map(decode_payload).transpose()?;
        // Effect 4 writes an absent payload as null.
        let payload = payload.filter(|payload| payload.get() != "null");
        let context = server.context(dialect, &store, payload.as_deref(), request.headers(), request.uri().query())?;
        Ok((store, context))
    });
    let (store, context) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            server.refused(Asked::Connect, Reason::Malformed, dialect, &error);
            return bad_request(&error);
        }
    };
    let log = server.log.store(store, context);
    match dialect {
        Dialect::CfHttp => http(server, log, request).await,
        _ => websocket(server, dialect, log, request).await,
    }
}

async fn websocket(server: Arc<Server>, dialect: Dialect, log: StoreLog, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let Ok(upgrade) = WebSocketUpgrade::from_request_parts(&mut parts, &()).await else {
        return upgrade_required();
    };
    if let Err(denied) = log.has_place().await {
        return refuse((StatusCode::SERVICE_UNAVAILABLE, denied.to_string()));
    }
    let log = match timeout(CONNECT_TIMEOUT, log.connect()).await {
        Ok(Ok(log)) => log,
        Ok(Err(denied)) if denied.may_pass() => return refuse((StatusCode::SERVICE_UNAVAILABLE, denied.to_string())),
        Ok(Err(denied)) => return bad_request(&denied.to_string()),
        Err(_) => return (StatusCode::SERVICE_UNAVAILABLE, "the database is away, try again\n").into_response(),
    };
    // The span of the request names store and dialect.
    info!("connected");
    let meter = websocket::meter::of(&parts.extensions);
    meter.begin(log.account_to_send());
    let upgrade = websocket::bounded(upgrade, server.settings.max_frame_bytes);
    let (connections, shutdown) = (server.connections.clone(), server.ending.begun.clone());
    match dialect {
        Dialect::Cf03 => {
            let secret = server.settings.admin_secret.clone();
            upgrade
                .on_upgrade(move |socket| connections.track_future(cf_0_3::serve(log, socket, meter, secret, shutdown)))
        }
        _ => upgrade.on_upgrade(move |socket| connections.track_future(rpc::serve(log, socket, meter, shutdown))),
    }
}

async fn http(server: Arc<Server>, log: StoreLog, request: Request) -> Response {
    if request.method() != Method::POST {
        let headers = [(header::ALLOW, "POST, OPTIONS")];
        return (StatusCode::METHOD_NOT_ALLOWED, headers, "this endpoint takes POST\n").into_response();
    }
    // Who it is comes first, and what it sends is looked at only if it is somebody.
    let most = if log.is_stranger().await {
        STRANGERS_BYTES.min(server.settings.max_frame_bytes)
    } else {
        server.settings.max_frame_bytes
    };
    match server.body_of_at_most(request.into_body(), &log.account_to_send(), most).await {
        Ok(body) => rpc::answer(log, body, &server.connections, server.ending.clone()).await,
        Err(refusal) => refuse(refusal),
    }
}

/// The sync payload of a URL: JSON, percent-encoded once more than the search params are.
fn decode_payload(encoded: &str) -> Result<Box<RawValue>, String> {
    let json = percent_decode_str(encoded).decode_utf8().map_err(|error| format!("malformed payload: {error}"))?;
    if json.len() > Context::PAYLOAD_BYTES {
        return Err(format!("malformed payload: it has more than {} bytes", Context::PAYLOAD_BYTES));
    }
    serde_json::from_str(&json).map_err(|error| format!("malformed payload: {error}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

    use super::*;

    #[test]
    fn fuzz_search_params() {
        fuzzing::text_target!("search_params", |query| {
            let Ok(SearchParams { payload: Some(payload), .. }) = serde_urlencoded::from_str(query) else { return };
            let Ok(payload) = decode_payload(&payload) else { return };
            assert!(payload.get().len() <= Context::PAYLOAD_BYTES);
            let encoded = utf8_percent_encode(payload.get(), NON_ALPHANUMERIC).to_string();
            assert_eq!(decode_payload(&encoded).unwrap().get(), payload.get());
        });
    }
}
