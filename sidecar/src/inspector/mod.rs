//! The inspector: pages for a browser that show what the sidecar and its database do, and let an operator change it by hand.
//!
//! - [`access`] decides who may look, and who may change something; [`login`] asks for the secret or a token.
//! - [`routes`] has the paths. [`reads`] answers with [`pages`], [`changes`] takes forms, [`stream`] sends what follows by itself.
//! - [`live`] measures, while somebody looks.
//!
//! Pages are whole without a script; scripts add what is live. Everything is escaped by the templates, and the pages may load
//! nothing but their own files.

mod access;
mod answers;
mod api;
mod assets;
mod changes;
mod commit;
mod forms;
mod live;
mod login;
mod pages;
mod reads;
mod routes;
mod settings;
mod stream;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::Redirect;
use axum::routing::any;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Mutex;
use tokio::time::Instant;

pub use self::settings::InspectorSettings;

use self::access::{Door, Lock};
use self::live::Sampler;
use crate::auth::AuthSettings;
use crate::gate::Gate;
use crate::log::Inspection;

/// The path of all pages: the cookie is for them alone.
const PREFIX: &str = "/inspector";

/// How long findings count: they ask the database much.
const FINDINGS_LAST: Duration = Duration::from_secs(60);

/// How a finding about the settings or the database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Good,
    Advice,
    Wrong,
}

/// Looks at the settings and the database.
pub type Checks = Box<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<(Kind, String)>> + Send>> + Send + Sync>;

/// Findings, and when they were made.
type Findings = (Instant, Vec<(Kind, String)>);

/// The state that all pages share.
pub struct Inspector {
    gate: Arc<Gate>,
    inspection: Inspection,
    door: Door,
    sampler: Arc<Sampler>,
    checks: Checks,
    findings: Mutex<Option<Findings>>,
}

impl Inspector {
    /// `is_local`: the sidecar listens on an address of this machine alone, and the operator names no other host.
    pub fn new(
        settings: InspectorSettings,
        auth: &AuthSettings,
        is_local: bool,
        gate: Arc<Gate>,
        metrics: PrometheusHandle,
        checks: Checks,
    ) -> Self {
        let log = gate.log.clone();
        let door = Door {
            is_open: is_local && log.is_public() && !auth.insecure_no_auth,
            authentication: Arc::clone(&gate.authentication),
            takes_tokens: !gate.authentication.is_none() && !log.has_authorizer(),
            secret: settings.inspector_secret.map(Lock::new),
        };
        let (inspection, sampler) = (log.inspect(), Sampler::new(metrics, log));
        Self { gate, inspection, door, sampler, checks, findings: Mutex::default() }
    }

    /// All pages.
    pub fn router(self) -> Router {
        routes::router(Arc::new(self))
    }

    /// Made once for all who look, and to their end, whether somebody waits or not.
    async fn findings(self: &Arc<Self>) -> Vec<(Kind, String)> {
        let this = Arc::clone(self);
        let finding = tokio::spawn(async move {
            let mut findings = this.findings.lock().await;
            match &*findings {
                Some((at, known)) if at.elapsed() < FINDINGS_LAST => known.clone(),
                _ => {
                    let new = (this.checks)().await;
                    *findings = Some((Instant::now(), new.clone()));
                    new
                }
            }
        });
        finding.await.unwrap_or_default()
    }
}

/// Why there is no inspector where there are several databases.
pub const SHARDS: &str = "the inspector is off: it shows one database, and --shards serves several. To look at one of them, start a sidecar with its URL \
    and without --shards";

/// The only page where there is no inspector.
pub fn none() -> Router {
    let page = any(async || (StatusCode::NOT_FOUND, format!("{SHARDS}\n")));
    Router::new().route(PREFIX, page.clone()).route(&format!("{PREFIX}/{{*path}}"), page)
}

/// The redirect to the first page, if a request for `/` is that of a person at a browser: clients and `curl` ask for no HTML.
pub fn first_page(method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<Redirect> {
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let is_it = matches!(*method, Method::GET | Method::HEAD)
        && uri.path() == "/"
        && uri.query().is_none()
        && accepts.contains("text/html")
        && !headers.contains_key(header::UPGRADE);
    is_it.then(|| Redirect::to(PREFIX))
}
