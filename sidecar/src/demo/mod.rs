//! `--demo`: a page with two devices side by side, each a LiveStore client that can be switched off, and the log in Postgres beside them.
//! The page is built from `examples/demo` and speaks the same protocols as every client: sync-cf, Electric's shapes and sync-electric.

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use clap::Args;

use crate::auth::{Auth, AuthSettings};
use crate::settings::SettingsError;

#[derive(Debug, Clone, Args)]
pub struct DemoSettings {
    /// Serve a demo at /demo/: two devices, and the log in Postgres beside them. Everybody who reaches the sidecar may use its store, demo.
    #[arg(long, env = "LIVESTORE_DEMO")]
    pub demo: bool,
}

impl DemoSettings {
    pub fn check(&self, auth: &AuthSettings) -> Result<(), SettingsError> {
        if self.demo && auth.auth != Auth::None {
            return Err("--demo has no tokens, and --auth jwt asks for them: use one of the two".into());
        }
        Ok(())
    }
}

/// A file: its path, its type, its content.
type File = (&'static str, &'static str, &'static [u8]);

macro_rules! file {
    ($path:literal, $kind:literal) => {
        ($path, $kind, include_bytes!(concat!("files/", $path)))
    };
}

static FILES: [File; 8] = [
    file!("index.html", "text/html; charset=utf-8"),
    file!("device.html", "text/html; charset=utf-8"),
    file!("assets/index.js", "text/javascript"),
    file!("assets/device.js", "text/javascript"),
    file!("assets/store-id.js", "text/javascript"),
    file!("assets/store-id.css", "text/css"),
    file!("assets/wa-sqlite.wasm", "application/wasm"),
    file!("LICENSES.txt", "text/plain; charset=utf-8"),
];

/// The page loads nothing from elsewhere. SQLite is WebAssembly.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self' ws: wss:; frame-src 'self'; worker-src 'self'; frame-ancestors 'self'; form-action 'none'; base-uri 'none'";

pub fn router() -> Router {
    Router::new()
        // Requests come without a slash at the end.
        .route("/demo", get(async || file("index.html")))
        .route("/demo/{*path}", get(async |Path(path): Path<String>| file(&path)))
        .layer(map_response(async |mut response: Response| {
            let policy = HeaderValue::from_static(CONTENT_SECURITY_POLICY);
            response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
            response
        }))
}

fn file(path: &str) -> Response {
    match FILES.iter().find(|(known, _, _)| *known == path) {
        Some((_, kind, content)) => {
            let headers = [(header::CONTENT_TYPE, *kind), (header::CACHE_CONTROL, "no-cache")];
            (headers, *content).into_response()
        }
        None => (StatusCode::NOT_FOUND, "no such file\n").into_response(),
    }
}
