//! The paths of the inspector, and what holds for all of them.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;

use super::access::{NOT_OWN_PAGE, NoEntry, is_of_other_page, is_own_page};
use super::answers::problem;
use super::stream::Streams;
use super::{Inspector, PREFIX, api, assets, changes, login, reads};
use crate::auth::Access;
use crate::limits::peer::Peer;

/// How the paths for programs begin.
const API: &str = "/inspector/api/";

/// Answers at the same time.
const PAGES: usize = 16;

/// Pages load their own files and nothing else, and are in no frame of another page.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

pub fn router(inspector: Arc<Inspector>) -> Router {
    let path = |name: &str| format!("{PREFIX}/{name}");
    let streams = Arc::new(Streams::new());
    let pages = Router::new()
        .route(PREFIX, get(reads::overview))
        .route(&path("stores"), get(reads::stores))
        .route(&path("store"), get(reads::store))
        .route(&path("rows"), get(reads::rows))
        .route(&path("clients"), get(reads::clients))
        .route(&path("event"), get(reads::event))
        .route(&path("refusals"), get(reads::refused))
        .route(&path("subscriptions"), get(reads::subscriptions))
        .route(&path("confirm"), get(reads::confirm))
        .route(&path("commit"), post(changes::commit))
        .route(&path("rewrite"), post(changes::rewrite))
        .route(&path("erase"), post(changes::erase))
        .route(&path("reset"), post(changes::reset))
        .route(&path("drop"), post(changes::drop_store))
        .route(&path("resend"), post(changes::resend))
        .route(&path("api/list"), get(api::list))
        .route(&path("api/commit"), post(api::commit))
        .layer(from_fn_with_state(Arc::new(Semaphore::new(PAGES)), in_turn));
    let inside = pages
        .route(&path("live"), get(reads::live))
        .route(&path("follow"), get(reads::follow))
        // Whole logs take long: no page waits for them.
        .route(&path("export"), get(reads::export))
        .route(&path("api/export"), get(api::export))
        .route(&path("api/import"), post(api::import))
        .layer(from_fn_with_state(Arc::clone(&inspector), enter))
        .layer(Extension(streams));
    inside
        .route(&path("login"), get(login::page).post(login::log_in))
        .route(&path("logout"), post(login::log_out))
        .route(&path("assets/{name}"), get(assets::file))
        .layer(from_fn(around))
        .with_state(inspector)
}

/// Wraps every answer.
async fn around(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Answers a few requests at a time: pages are large. Each keeps its turn until its answer is read.
async fn in_turn(State(turns): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    let turn = turns.acquire_owned().await;
    next.run(request).await.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _ = &turn;
            frame
        }))
    })
}

/// Lets in those who may look; a form counts only from a page of the inspector. Programs get text, and others a page.
async fn enter(State(inspector): State<Arc<Inspector>>, mut request: Request, next: Next) -> Response {
    let headers = request.headers();
    let path = request.uri().path();
    // The script that follows something live shows the text.
    let is_program = path.starts_with(API) || path.ends_with("/live") || path.ends_with("/follow");
    let refuse = |text: &'static str| match is_program {
        true => (StatusCode::FORBIDDEN, text).into_response(),
        false => problem(StatusCode::FORBIDDEN, None, "Refused", text, PREFIX),
    };
    if is_of_other_page(headers) {
        return refuse("another page asks for this");
    }
    if request.method() == Method::POST && !is_own_page(headers) {
        return refuse(NOT_OWN_PAGE);
    }
    match inspector.door.admit(headers, Peer::of(request.extensions())).await {
        Ok(mut visitor) => {
            if inspector.gate.log.is_read_only() {
                visitor.access = visitor.access.min(Access::Read);
            }
            request.extensions_mut().insert(Arc::new(visitor));
            next.run(request).await
        }
        Err(no_entry) => {
            let told = no_entry.to_string();
            let text = (no_entry != NoEntry::NoSession).then_some(&*told);
            // A page that follows something live asks again after the one, and not after the other.
            let status = match no_entry {
                NoEntry::Later(_) => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::UNAUTHORIZED,
            };
            if is_program { (status, told).into_response() } else { inspector.login(status, text) }
        }
    }
}
