//! One module for each protocol that LiveStore clients speak. Each translates between its wire and [`crate::log`], or
//! [`crate::relay`]; none knows of another.
//!
//! A protocol has in its folder all that is its own: routes, state, settings, messages. A new one needs its `mod` below and its name
//! in the list.

mod body;
mod cf_0_3;
mod chunks;
mod electric;
mod relay;
mod rpc;
mod s2;
mod sync_cf;
pub mod websocket;

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::Response;
use clap::builder::PossibleValue;
use clap::{Args, ValueEnum};
use serde::Deserialize;

use crate::auth::AuthSettings;
use crate::gate::answers::refuse;
use crate::gate::{Dialect, Gate};
use crate::log::Denied;
use crate::relay::Relay;
use crate::settings::SettingsError;

/// The most of a client's own text that an error repeats.
const BRIEF: usize = 500;

/// The description of a protocol.
struct Protocol {
    dialects: &'static [Dialect],
    /// Its endpoints, if it has paths of its own.
    paths: &'static [&'static str],
    /// Headers of its answers that web pages read.
    headers: &'static [&'static str],
}

/// The services that the handlers of protocols use.
pub struct Services {
    pub gate: Arc<Gate>,
    /// If the peer relay is served.
    pub relay: Option<Relay>,
}

macro_rules! protocols {
    ($($name:ident),*) => {
        static PROTOCOLS: &[Protocol] = &[$($name::PROTOCOL),*];

        /// The protocols that are served, and their settings.
        #[derive(Debug, Clone, Args)]
        pub struct ProtocolSettings {
            /// The protocols that are spoken.
            #[arg(long, env = "LIVESTORE_DIALECTS", value_delimiter = ',', value_enum, default_values_t = DIALECTS.clone())]
            pub dialects: Vec<Dialect>,

            $(#[command(flatten)]
            pub $name: $name::Settings,)*
        }

        impl ProtocolSettings {
            pub fn check(&self, auth: &AuthSettings) -> Result<(), SettingsError> {
                $(self.$name.check(auth)?;)*
                Ok(())
            }
        }

        /// The endpoints of all protocols.
        pub fn router(services: &Services, settings: ProtocolSettings) -> Result<Router, SettingsError> {
            Ok(Router::new()$(.merge($name::router(services, settings.$name)?))*)
        }
    };
}

// The protocols, in the order in which they are shown.
protocols!(sync_cf, electric, s2, relay);

static DIALECTS: LazyLock<Vec<Dialect>> =
    LazyLock::new(|| PROTOCOLS.iter().flat_map(|protocol| protocol.dialects).copied().collect());

impl ValueEnum for Dialect {
    fn value_variants<'a>() -> &'a [Self] {
        &DIALECTS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name).help(self.clients))
    }
}

impl ProtocolSettings {
    /// Whether stores are reset by a protocol, for which the sidecar's role needs livestore_admin.
    pub fn has_admin(&self) -> bool {
        self.sync_cf.admin_secret.is_some()
    }

    /// Whether the peer relay is served.
    pub fn has_relay(&self) -> bool {
        self.dialects.contains(&relay::RELAY)
    }
}

/// Headers of answers that web pages read.
pub fn headers() -> impl Iterator<Item = HeaderName> {
    PROTOCOLS.iter().flat_map(|protocol| protocol.headers).map(|name| HeaderName::from_static(name))
}

/// The endpoints of dialects, a line for each, with `<this host>` for the address.
pub fn endpoints(dialects: &[Dialect]) -> String {
    dialects.iter().map(|Dialect { url, usage, .. }| format!("  {url:<50} {usage}\n")).collect()
}

/// The page at `/`.
fn info() -> &'static str {
    static INFO: LazyLock<String> = LazyLock::new(|| {
        let endpoints = endpoints(&DIALECTS);
        format!(
            "livestore-sidecar {}\n
A LiveStore sync backend on Postgres. Endpoints:

{endpoints}  /healthz                                           200 while the process lives
  /readyz                                            200 when it can serve, else 503 with the reason
  /metrics                                           for Prometheus
  /                                                  for a browser, unless --inspector is off: stores, events, clients
",
            env!("CARGO_PKG_VERSION")
        )
    });
    &INFO
}

/// The endpoint of a protocol that is part of a path, and where it begins there.
fn endpoint_in(path: &str) -> Option<(&'static str, usize)> {
    let mut endpoints = PROTOCOLS.iter().flat_map(|protocol| protocol.paths);
    endpoints.find_map(|endpoint| Some((*endpoint, path.find(endpoint)?)))
}

/// Refuses a request whose protocol is not known, in a form that every client understands. The client of S2 needs an event:
/// it takes every other answer for an empty log, and asks again at once.
pub fn refuse_any(headers: &HeaderMap, status: StatusCode, message: &str) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if accept.is_some_and(|accept| accept.contains("text/event-stream")) {
        return s2::refuse_pull(status, message);
    }
    refuse((status, message.into()))
}

/// Reads a body. It must be UTF-8 from end to end (RFC 8259, section 8.1): `serde_json` itself does not look at what it skips.
pub fn read_json<'de, T: Deserialize<'de>>(body: &'de [u8]) -> Result<T, serde_json::Error> {
    let text = std::str::from_utf8(body).map_err(serde::de::Error::custom)?;
    serde_json::from_str(text)
}

/// The status of a refusal.
pub fn status_of(denied: &Denied) -> StatusCode {
    if denied.may_pass() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::FORBIDDEN }
}

/// The beginning of a message: what it says of a client's input may be as long as the input.
pub fn brief(message: &str) -> Cow<'_, str> {
    match message.char_indices().nth(BRIEF) {
        Some((end, _)) => format!("{}…", &message[..end]).into(),
        None => message.into(),
    }
}
