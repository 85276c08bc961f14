//! The peer relay: its one endpoint, and who may use it.

use std::sync::Arc;

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tracing::info;

use super::{Server, bad_request, refuse, upgrade_required};
use crate::auth::{Identity, Refused};
use crate::config::Dialect;
use crate::log::{StoreId, StoreLog};
use crate::protocols::relay::{self, Guest};
use crate::protocols::websocket;
use crate::refusals::{Asked, Reason, Whom, refused};

/// As LiveStore's other endpoints are found below `/api`.
const PATH: &str = "/api/v1/livestore/sync";

pub fn router() -> Router<Arc<Server>> {
    Router::new().route(PATH, get(connect))
}

async fn connect(State(server): State<Arc<Server>>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    if let Err(refusal) = server.admit(Dialect::Relay, &parts.headers) {
        return refuse(refusal);
    }
    let Some(relay) = server.relay.clone() else {
        return refuse((StatusCode::NOT_FOUND, "the peer relay is switched off on this server".into()));
    };
    let credentials = server.credentials(&parts.headers, parts.uri.query());
    let identity = match server.settings.authentication.identify(&credentials).await {
        Ok(identity) => Arc::new(identity),
        Err(Refused::TooMany { subject, most }) => {
            let whom = Whom { dialect: Dialect::Relay.name(), subject: Some(&subject), ..Whom::default() };
            let text = Refused::TooMany { subject: Arc::clone(&subject), most }.to_string();
            refused(Asked::Connect, Reason::Connections, whom, &text);
            return refuse((StatusCode::SERVICE_UNAVAILABLE, text));
        }
        Err(error) => {
            server.refused(Asked::Connect, Reason::Token, Dialect::Relay, &error.to_string());
            let headers = [(header::WWW_AUTHENTICATE, "Bearer")];
            return (StatusCode::UNAUTHORIZED, headers, format!("{error}\n")).into_response();
        }
    };
    let history = match server.settings.relay_store.as_deref().map(|name| history(&server, name, &identity, &parts)) {
        None => None,
        Some(Ok(history)) => Some(history),
        Some(Err(error)) => {
            server.refused(Asked::Connect, Reason::Malformed, Dialect::Relay, &error);
            return bad_request(&error);
        }
    };
    let Ok(upgrade) = WebSocketUpgrade::from_request_parts(&mut parts, &()).await else {
        return upgrade_required();
    };
    info!(dialect = %Dialect::Relay, "connected");
    let budget = &server.settings.budget;
    let meter = websocket::meter::of(&parts.extensions);
    meter.begin(match &identity.claims {
        Some(_) => budget.subject(&identity.subject),
        None => budget.strangers(),
    });
    let upgrade = websocket::bounded(upgrade, server.settings.max_frame_bytes);
    let (connections, shutdown) = (server.connections.clone(), server.ending.begun.clone());
    let guest = Guest { identity, history };
    upgrade.on_upgrade(move |socket| connections.track_future(relay::serve(relay, guest, socket, meter, shutdown)))
}

/// The log of the user's store.
fn history(server: &Server, name: &str, identity: &Arc<Identity>, parts: &Parts) -> Result<StoreLog, String> {
    let store = StoreId::parse(&name.replace("{user}", &identity.subject))?;
    let context = server.context(Dialect::Relay, &store, None, &parts.headers, parts.uri.query())?;
    Ok(server.log.store(store, context.of(Arc::clone(identity))).given())
}
