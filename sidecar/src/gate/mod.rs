//! The gate finds out which client sends a request and which log it is about. It is below the protocols and knows none of
//! them.
//!
//! - [`hosts`] and [`origins`] say which names and which web pages are served.
//! - [`body`] reads what a request sends, within bounds.
//! - [`answers`] are those to requests that do not come through.

pub mod answers;
mod body;
mod dialect;
mod hosts;
mod origins;
mod settings;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use serde_json::value::RawValue;
use tokio_util::task::TaskTracker;
use tracing::Span;
use tracing::field::display;

pub use self::dialect::Dialect;
pub use self::settings::GateSettings;

use self::hosts::Hosts;
use self::origins::Origins;
use crate::auth::{AuthSettings, Authentication, Credentials};
use crate::limits::memory::{Account, Memory};
use crate::log::{Context, Log, Malformed, StoreId, StoreLog};
use crate::settings::SettingsError;
use crate::shutdown::Ending;
use crate::telemetry::refusals::{Asked, Reason, Whom, refused};

/// The state that the handlers of all protocols share.
pub struct Gate {
    pub log: Log,
    pub hosts: Hosts,
    pub origins: Origins,
    pub authentication: Arc<Authentication>,
    /// Memory for bodies and messages.
    pub memory: Arc<Memory>,
    pub max_frame_bytes: usize,
    /// Connections outlive their handlers; a shutdown waits for them here.
    pub connections: TaskTracker,
    pub ending: Ending,
    /// Those that are switched on.
    dialects: Vec<Dialect>,
    /// The request headers that hooks and the authorize function get.
    forward_headers: Vec<HeaderName>,
}

impl Gate {
    pub fn new(
        settings: GateSettings,
        auth: &AuthSettings,
        dialects: Vec<Dialect>,
        log: Log,
        ending: Ending,
    ) -> Result<Self, SettingsError> {
        Ok(Self {
            hosts: settings.hosts(auth)?,
            origins: settings.origins(auth)?,
            authentication: log.authentication(),
            memory: log.memory(),
            max_frame_bytes: settings.max_frame_bytes,
            connections: TaskTracker::new(),
            ending,
            dialects,
            forward_headers: settings.forward_headers,
            log,
        })
    }

    pub fn serves(&self, dialect: &Dialect) -> bool {
        self.dialects.contains(dialect)
    }

    /// Whether a request is served at all.
    pub fn admit(&self, dialect: &Dialect, headers: &HeaderMap) -> Result<(), (StatusCode, String)> {
        if !self.serves(dialect) {
            let message = format!("{dialect} is switched off on this server: --dialects switches it on");
            return Err((StatusCode::NOT_FOUND, message));
        }
        // Programs may name an origin, too, as React Native does. A page can only send a token if its origin is allowed.
        let is_no_page = Credentials::have_bearer(headers);
        if !is_no_page && !self.origins.allow(headers) {
            let text = "the origin of the page is not allowed: --cors-origins";
            self.refused(Asked::Connect, Reason::Origin, dialect, text);
            let message = "pages of this origin are not served: the operator can allow it with --cors-origins";
            return Err((StatusCode::FORBIDDEN, message.into()));
        }
        Ok(())
    }

    /// Tells the operator of a request that is refused before it is known who sends it.
    pub fn refused(&self, asked: Asked, reason: Reason, dialect: &Dialect, text: &str) {
        let whom = Whom { dialect: dialect.name, is_stranger: true, ..Whom::default() };
        refused(asked, reason, whom, text);
    }

    /// The context of a request, for hooks and the authorize function.
    pub fn context(
        &self,
        dialect: &Dialect,
        store: &StoreId,
        payload: Option<&RawValue>,
        parts: &Parts,
    ) -> Result<Context, Malformed> {
        is_for(dialect, store);
        self.unnamed_context(dialect, payload, parts)
    }

    /// The same before it is known which store the request is about.
    pub fn unnamed_context(
        &self,
        dialect: &Dialect,
        payload: Option<&RawValue>,
        parts: &Parts,
    ) -> Result<Context, Malformed> {
        if payload.is_some_and(|payload| payload.get().len() > Context::PAYLOAD_BYTES) {
            return Err(Malformed::new(format!(
                "malformed payload: it has more than {} bytes",
                Context::PAYLOAD_BYTES
            )));
        }
        let mut forwarded = forwarded(&self.forward_headers, &parts.headers);
        if !self.origins.trust_cookies(&parts.headers) {
            forwarded.remove(header::COOKIE.as_str());
        }
        let user_agent = parts.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok());
        Ok(Context::new(dialect.name, payload, &forwarded, self.credentials(parts)).with_user_agent(user_agent))
    }

    /// The tokens that a request brings beside its sync payload.
    pub fn credentials(&self, parts: &Parts) -> Credentials {
        Credentials::new(&parts.headers, parts.uri.query(), self.origins.trust_cookies(&parts.headers))
    }

    /// Checks the token of a request that has no sync payload, or whose payload is not read yet: before anything is read or looked
    /// up for it.
    pub async fn identify(&self, dialect: &Dialect, parts: &Parts) -> Result<Account, (StatusCode, String)> {
        let credentials = self.credentials(parts);
        match self.authentication.identify(&credentials).await {
            Ok(identity) if identity.claims.is_some() => Ok(self.memory.subject(&identity.subject)),
            Err(refused) if !refused.may_pass() => {
                let text = refused.to_string();
                self.refused(Asked::Connect, Reason::Token, dialect, &text);
                Err((StatusCode::FORBIDDEN, text))
            }
            // These errors are temporary: the request waits later, for the keys or for a place among the connections of its
            // subject.
            Ok(_) | Err(_) => Ok(self.memory.strangers()),
        }
    }

    /// The log of a store, for a request that is a connection of its own.
    pub fn store(
        &self,
        dialect: &Dialect,
        store_id: &str,
        payload: Option<&RawValue>,
        parts: &Parts,
    ) -> Result<StoreLog, Malformed> {
        let store = StoreId::parse(store_id)?;
        let context = self.context(dialect, &store, payload, parts)?;
        Ok(self.log.store(store, context))
    }

    /// Reads what somebody with a good token sends.
    pub async fn receive(&self, dialect: &Dialect, parts: &Parts, body: Body) -> Result<Bytes, (StatusCode, String)> {
        let account = self.identify(dialect, parts).await?;
        self.body(body, &account).await
    }

    /// Reads a body within the bounds, once there is memory for it.
    pub async fn body(&self, body: Body, account: &Account) -> Result<Bytes, (StatusCode, String)> {
        body::read(body, account, self.max_frame_bytes).await
    }

    /// The same with a bound that may be lower.
    pub async fn body_of_at_most(
        &self,
        body: Body,
        account: &Account,
        most: usize,
    ) -> Result<Bytes, (StatusCode, String)> {
        body::read(body, account, most.min(self.max_frame_bytes)).await
    }
}

/// Whether a request names this machine, or one of the local network, and no other: it comes from no page of the internet.
pub fn is_for_this_machine(headers: &HeaderMap) -> bool {
    Hosts::default().serve(headers)
}

/// Notes in the span of a request what it turned out to ask for.
pub fn is_for(dialect: &Dialect, store: &StoreId) {
    let span = Span::current();
    span.record("dialect", display(dialect));
    span.record("store", store.as_str());
}

/// The headers of these names that the request has, names in lower case. Bytes in them that are not UTF-8 are replaced.
fn forwarded(names: &[HeaderName], headers: &HeaderMap) -> BTreeMap<String, String> {
    let value = |name: &HeaderName| {
        let values: Vec<_> =
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        // Cookies are joined in their own way.
        let separator = if *name == header::COOKIE { "; " } else { ", " };
        (!values.is_empty()).then(|| (name.as_str().to_string(), values.join(separator)))
    };
    names.iter().filter_map(value).collect()
}
