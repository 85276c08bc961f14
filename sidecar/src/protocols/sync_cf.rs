//! sync-cf: which of its dialects a request is in. Requests come on any path; their search params tell them apart.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use clap::Args;
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout;
use tracing::info;

use super::{Protocol, Services, cf_0_3, endpoint_in, info, refuse_any, rpc, websocket};
use crate::auth::{AuthSettings, Secret};
use crate::gate::answers::{bad_request, refuse, upgrade_required};
use crate::gate::{Dialect, Gate};
use crate::limits::peer::Peer;
use crate::log::{Context, Malformed, StoreId, StoreLog};
use crate::settings::{SettingsError, check_secret};
use crate::telemetry::refusals::{Asked, Reason};

pub const PROTOCOL: Protocol = Protocol { dialects: &[rpc::WS, rpc::HTTP, cf_0_3::CF_0_3], paths: &[], headers: &[] };

#[derive(Debug, Clone, Args)]
#[group(skip)]
pub struct Settings {
    /// The secret of sync-cf 0.3's admin requests. Without, there are none. The database role then needs livestore_admin, too.
    #[arg(long, env = "LIVESTORE_ADMIN_SECRET", hide_env_values = true, value_name = "SECRET")]
    pub admin_secret: Option<String>,
}

impl Settings {
    pub fn check(&self, _: &AuthSettings) -> Result<(), SettingsError> {
        check_secret("--admin-secret", self.admin_secret.as_deref())
    }
}

struct SyncCf {
    gate: Arc<Gate>,
    admin_secret: Option<Arc<Secret>>,
}

pub fn router(services: &Services, settings: Settings) -> Result<Router, SettingsError> {
    let admin_secret = settings.admin_secret.map(|secret| Arc::new(Secret::new(secret)));
    let state = SyncCf { gate: Arc::clone(&services.gate), admin_secret };
    Ok(Router::new().fallback(any_path).with_state(Arc::new(state)))
}

/// The bytes that a client without a valid token may send, to be told so in the form of the protocol.
const STRANGERS_BYTES: usize = 64 << 10;

/// The time that a WebSocket waits for a database or an authorize service that is away, or for the keys of tokens, before its client is told to
/// come back.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The search params by which sync-cf's own worker tells its requests (`SearchParamsSchema`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SearchParams {
    store_id: String,
    transport: Option<String>,
    payload: Option<String>,
}

async fn any_path(State(cf): State<Arc<SyncCf>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
    match serde_urlencoded::from_str(query) {
        Ok(SearchParams { store_id, transport, payload }) => {
            // Effect 4's HTTP client ends the URL that it was given with a slash.
            let dialect = match transport.as_deref().map(|transport| transport.trim_end_matches('/')) {
                Some("ws") => &rpc::WS,
                Some("http") => &rpc::HTTP,
                None if path.ends_with("/websocket") => &cf_0_3::CF_0_3,
                None => return bad_request("no such endpoint, see / for those there are (missing field `transport`)"),
                Some(_) => return bad_request("no such endpoint, see / for those there are (unknown `transport`)"),
            };
            sync(&cf, dialect, &store_id, payload.as_deref(), parts, body).await
        }
        Err(_) if path == "/" && query.is_empty() && matches!(parts.method, Method::GET | Method::HEAD) => {
            info().into_response()
        }
        Err(error) => refuse_any(&parts.headers, StatusCode::NOT_FOUND, &no_endpoint(path, &error.to_string())),
    }
}

/// Advice about a URL that leads nowhere: most often something in front was to take a prefix away.
fn no_endpoint(path: &str, error: &str) -> String {
    match endpoint_in(path) {
        Some((endpoint, at)) if at > 0 => format!(
            "no such endpoint: {endpoint} is one, let the proxy in front take {} away, or the client leave it out",
            &path[..at]
        ),
        _ => format!("no such endpoint, see / for those there are ({error})"),
    }
}

async fn sync(
    cf: &SyncCf,
    dialect: &Dialect,
    store_id: &str,
    payload: Option<&str>,
    parts: Parts,
    body: Body,
) -> Response {
    if let Err(refusal) = cf.gate.admit(dialect, &parts.headers) {
        return refuse(refusal);
    }
    let parsed = StoreId::parse(store_id).and_then(|store| {
        let payload = payload.map(decode_payload).transpose()?;
        // Effect 4 writes an absent payload as null.
        let payload = payload.filter(|payload| payload.get() != "null");
        let context = cf.gate.context(dialect, &store, payload.as_deref(), &parts)?;
        Ok((store, context))
    });
    let (store, context) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            cf.gate.refused(Asked::Connect, Reason::Malformed, dialect, error.text());
            return bad_request(error.text());
        }
    };
    let log = cf.gate.log.store(store, context);
    match *dialect == rpc::HTTP {
        true => http(&cf.gate, log, &parts.method, body).await,
        false => websocket(cf, dialect, log, parts).await,
    }
}

async fn websocket(cf: &SyncCf, dialect: &Dialect, log: StoreLog, mut parts: Parts) -> Response {
    let Ok(upgrade) = WebSocketUpgrade::from_request_parts(&mut parts, &()).await else {
        return upgrade_required();
    };
    // A client that is refused before there is a connection tries again soon, and loses nothing.
    if cf.gate.ending.parting.is_cancelled() && *dialect == rpc::WS {
        return refuse((StatusCode::SERVICE_UNAVAILABLE, "the server shuts down, reconnect".into()));
    }
    if let Err(denied) = log.has_place().await {
        return refuse((StatusCode::SERVICE_UNAVAILABLE, denied.to_string()));
    }
    let log = match timeout(CONNECT_TIMEOUT, log.connect()).await {
        Ok(Ok(log)) => log,
        Ok(Err(denied)) if denied.may_pass() => return refuse((StatusCode::SERVICE_UNAVAILABLE, denied.to_string())),
        Ok(Err(denied)) => return bad_request(&denied.to_string()),
        Err(_) => {
            let text = "the server cannot decide now whether this is allowed: try again";
            return refuse((StatusCode::SERVICE_UNAVAILABLE, text.into()));
        }
    };
    // The span of the request names store and dialect.
    info!("connected");
    let meter = websocket::meter::of(&parts.extensions);
    meter.begin(log.account_to_send());
    let upgrade = websocket::bounded(upgrade, cf.gate.max_frame_bytes);
    let (connections, shutdown) = (cf.gate.connections.clone(), cf.gate.ending.begun.clone());
    if *dialect == cf_0_3::CF_0_3 {
        let secret = cf.admin_secret.clone().map(|secret| (secret, Peer::of(&parts.extensions)));
        upgrade.on_upgrade(move |socket| connections.track_future(cf_0_3::serve(log, socket, meter, secret, shutdown)))
    } else {
        let ending = cf.gate.ending.clone();
        upgrade.on_upgrade(move |socket| connections.track_future(rpc::serve(log, socket, meter, ending)))
    }
}

async fn http(gate: &Gate, log: StoreLog, method: &Method, body: Body) -> Response {
    if method != Method::POST {
        let headers = [(header::ALLOW, "POST, OPTIONS")];
        return (StatusCode::METHOD_NOT_ALLOWED, headers, "this endpoint takes POST\n").into_response();
    }
    // Authentication comes first: the body of a stranger is not read.
    let most = if log.is_stranger().await { STRANGERS_BYTES } else { gate.max_frame_bytes };
    match gate.body_of_at_most(body, &log.account_to_send(), most).await {
        Ok(body) => rpc::answer(log, body, &gate.connections, gate.ending.clone()).await,
        Err(refusal) => refuse(refusal),
    }
}

/// The sync payload of a URL: JSON, percent-encoded once more than the search params are.
fn decode_payload(encoded: &str) -> Result<Box<RawValue>, Malformed> {
    let json =
        percent_decode_str(encoded).decode_utf8().map_err(|error| Malformed::because("malformed payload", error))?;
    if json.len() > Context::PAYLOAD_BYTES {
        return Err(Malformed::new(format!("malformed payload: it has more than {} bytes", Context::PAYLOAD_BYTES)));
    }
    serde_json::from_str(&json).map_err(|error| Malformed::because("malformed payload", error))
}

#[cfg(test)]
mod tests {
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
