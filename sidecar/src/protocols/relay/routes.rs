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

use super::session::{self, Guest};
use super::{PATH, RELAY, Settings};
use crate::auth::{Identity, TokenError};
use crate::gate::Gate;
use crate::gate::answers::{bad_request, refuse, upgrade_required};
use crate::log::{Malformed, StoreId, StoreLog};
use crate::protocols::{Services, websocket};
use crate::relay::Relay;
use crate::settings::SettingsError;
use crate::telemetry::refusals::{Asked, Reason, Whom, refused};

struct PeerRelay {
    gate: Arc<Gate>,
    relay: Option<Relay>,
    /// The store in which events are kept, with `{user}` for the user.
    store: Option<String>,
}

pub fn router(services: &Services, settings: Settings) -> Result<Router, SettingsError> {
    let (gate, relay) = (Arc::clone(&services.gate), services.relay.clone());
    let state = PeerRelay { gate, relay, store: settings.relay_store };
    Ok(Router::new().route(PATH, get(connect)).with_state(Arc::new(state)))
}

async fn connect(State(peers): State<Arc<PeerRelay>>, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let gate = &peers.gate;
    if let Err(refusal) = gate.admit(&RELAY, &parts.headers) {
        return refuse(refusal);
    }
    let Some(relay) = peers.relay.clone() else {
        return refuse((
            StatusCode::NOT_FOUND,
            "the peer relay is off on this server: it needs notifications of Postgres, and --live is poll".into(),
        ));
    };
    let credentials = gate.credentials(&parts);
    let identity = match gate.authentication.identify(&credentials).await {
        Ok(identity) => Arc::new(identity),
        Err(TokenError::TooMany { subject, most }) => {
            let whom = Whom { dialect: RELAY.name, subject: Some(&subject), ..Whom::default() };
            let text = TokenError::TooMany { subject: Arc::clone(&subject), most }.to_string();
            refused(Asked::Connect, Reason::Connections, whom, &text);
            return refuse((StatusCode::SERVICE_UNAVAILABLE, text));
        }
        Err(error @ TokenError::NoKeys) => return refuse((StatusCode::SERVICE_UNAVAILABLE, error.to_string())),
        Err(error) => {
            gate.refused(Asked::Connect, Reason::Token, &RELAY, &error.to_string());
            let headers = [(header::WWW_AUTHENTICATE, "Bearer")];
            return (StatusCode::UNAUTHORIZED, headers, format!("{error}\n")).into_response();
        }
    };
    let history = match peers.store.as_deref().map(|name| history(gate, name, &identity, &parts)).transpose() {
        Ok(history) => history,
        Err(error) => {
            gate.refused(Asked::Connect, Reason::Malformed, &RELAY, error.text());
            return bad_request(error.text());
        }
    };
    let Ok(upgrade) = WebSocketUpgrade::from_request_parts(&mut parts, &()).await else {
        return upgrade_required();
    };
    info!(dialect = %RELAY, "connected");
    let memory = &gate.memory;
    let meter = websocket::meter::of(&parts.extensions);
    meter.begin(match &identity.claims {
        Some(_) => memory.subject(&identity.subject),
        None => memory.strangers(),
    });
    let upgrade = websocket::bounded(upgrade, gate.max_frame_bytes);
    let (connections, shutdown) = (gate.connections.clone(), gate.ending.begun.clone());
    let account = match &identity.claims {
        Some(_) => memory.subject(&identity.subject),
        None => memory.connection(),
    };
    let guest = Guest { identity, history, account };
    upgrade.on_upgrade(move |socket| connections.track_future(session::serve(relay, guest, socket, meter, shutdown)))
}

/// The log of the user's store.
fn history(gate: &Gate, name: &str, identity: &Arc<Identity>, parts: &Parts) -> Result<StoreLog, Malformed> {
    let store = StoreId::parse(&name.replace("{user}", &identity.subject))?;
    let context = gate.context(&RELAY, &store, None, parts)?;
    Ok(gate.log.store(store, context.of(Arc::clone(identity))).given())
}
