//! HTTP: accepts connections, and brings requests to the protocols and to what a load balancer asks.

pub mod accept;
mod compression;
pub mod listen_socket;
mod normalize;
mod observe;
mod probes;
mod settings;
mod timeouts;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use metrics_exporter_prometheus::PrometheusHandle;

pub use self::settings::{ConnectionSettings, ServerSettings, Timeouts};

use self::compression::compressed;
use crate::demo;
use crate::gate::Gate;
use crate::inspector::{self, Inspector, first_page};
use crate::protocols::{self, ProtocolSettings, Services, refuse_any};
use crate::settings::SettingsError;

/// The served endpoints.
pub struct Server {
    pub services: Services,
    pub metrics: PrometheusHandle,
    /// Connections are accepted.
    pub is_open: AtomicBool,
    /// There are several databases.
    pub is_sharded: bool,
}

impl Server {
    fn gate(&self) -> &Gate {
        &self.services.gate
    }

    /// All that is served to clients, and to a browser: the inspector, if there is one, and the demo.
    pub fn router(
        self: Arc<Self>,
        settings: ProtocolSettings,
        inspector: Option<Inspector>,
        has_demo: bool,
    ) -> Result<Router, SettingsError> {
        let sync = compressed(protocols::router(&self.services, settings)?)
            .layer(self.gate().origins.cors(protocols::headers().collect()));
        let state = (Arc::clone(&self.services.gate), inspector.is_some());
        // No page of another origin reads the inspector: CORS is for the protocols.
        let mut pages = Router::new();
        let has_pages = inspector.is_some() || has_demo || self.is_sharded;
        if self.is_sharded {
            pages = pages.merge(inspector::none());
        } else if let Some(inspector) = inspector {
            pages = pages.merge(inspector.router());
        }
        if has_demo {
            pages = pages.merge(demo::router());
        }
        let served = match has_pages {
            // Around the routes as a whole: they match the path as it is then.
            true => Router::new().fallback_service(compressed(pages).fallback_service(sync)),
            false => sync,
        };
        let served = served.layer(from_fn_with_state(state, for_clients));
        let routes = probes::router().fallback_service(served).with_state(self);
        // Around the routes as a whole: they match the path as it is then.
        Ok(Router::new().fallback_service(routes).layer(from_fn(around)))
    }

    /// Endpoints about this process alone, on an address of its own.
    pub fn probes(self: Arc<Self>) -> Router {
        probes::router().with_state(self).layer(map_response(async |response| for_our_pages(response)))
    }
}

/// Wraps every request, whatever its path. One layer, because each layer boxes and copies the request inside it.
async fn around(request: Request, next: Next) -> Response {
    let response = observe::observe(normalize::normalize(request), next).await;
    for_our_pages(to_be_tried_again(response))
}

/// Refuses requests that no client of ours sends, whatever their protocol, answers preflights as sync-cf does, and brings a browser to the
/// first page of the inspector, if there is one.
async fn for_clients(State((gate, has_inspector)): State<(Arc<Gate>, bool)>, request: Request, next: Next) -> Response {
    // Keeps out pages whose name resolves to this machine, where no token does.
    if !gate.hosts.serve(request.headers()) {
        let message = match gate.log.is_public() {
            // The option alone would end the error, and open every store to the internet.
            true => {
                "without tokens, this server answers only to names of its own machine, as everyone who reaches it reads and writes \
                 every store: use localhost, or let the operator set up --auth jwt; --allowed-hosts alone only opens the stores"
            }
            false => "this server does not answer to this name: let the operator add it to --allowed-hosts",
        };
        return refuse_any(request.headers(), StatusCode::MISDIRECTED_REQUEST, message);
    }
    // A few bytes that are compressed may stand for very many.
    if request.headers().get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        let message = "the body of a request must not be compressed";
        return refuse_any(request.headers(), StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
    }
    if has_inspector && let Some(redirect) = first_page(request.method(), request.uri(), request.headers()) {
        return redirect.into_response();
    }
    let is_preflight = request.method() == Method::OPTIONS;
    let mut response = next.run(request).await;
    if is_preflight {
        *response.status_mut() = StatusCode::NO_CONTENT;
    }
    response
}

/// Keeps browsers from taking an answer for something else, and from handing it to pages that may not read it.
fn for_our_pages(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Requests of other pages under the rules of CORS are not concerned.
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}

/// Says when to come back to whoever is refused for something that passes: rates are of a second, the rest may take longer.
fn to_be_tried_again(mut response: Response) -> Response {
    let after = match response.status() {
        StatusCode::TOO_MANY_REQUESTS => "1",
        StatusCode::SERVICE_UNAVAILABLE => "10",
        _ => return response,
    };
    response.headers_mut().entry(header::RETRY_AFTER).or_insert(HeaderValue::from_static(after));
    response
}
