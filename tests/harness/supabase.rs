//! Supabase's sign-in (GoTrue), as an app sees it: sessions that end and can be renewed, and the keys of their tokens.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::tokens::{Signer, now};

/// A project that listens on a port of this machine. Everybody may sign in with the password `secret`.
pub struct Supabase {
    pub url: String,
    project: Arc<Project>,
    server: JoinHandle<()>,
}

struct Project {
    signer: Signer,
    issuer: String,
    /// The seconds that a token lives for.
    lifetime: AtomicI64,
    renewals: AtomicUsize,
    /// The scopes of the requests to sign out.
    sign_outs: Mutex<Vec<String>>,
    is_down: AtomicBool,
}

/// The name of its key.
const KEY: &str = "b9f1";

impl Supabase {
    pub async fn start(lifetime: i64) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let issuer = format!("{url}/auth/v1");
        let project = Arc::new(Project {
            signer: Signer::es256(),
            issuer,
            lifetime: AtomicI64::new(lifetime),
            renewals: AtomicUsize::new(0),
            sign_outs: Mutex::default(),
            is_down: AtomicBool::new(false),
        });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&project));
        let server = tokio::spawn(async { axum::serve(listener, router).await.expect("it serves") });
        Self { url, project, server }
    }

    /// The sessions that were renewed.
    pub fn renewals(&self) -> usize {
        self.project.renewals.load(Ordering::Relaxed)
    }

    /// The scopes with which devices have signed out.
    pub fn sign_outs(&self) -> Vec<String> {
        self.project.sign_outs.lock().expect("no panic").clone()
    }

    /// The seconds that a token lives for from now on.
    pub fn set_lifetime(&self, seconds: i64) {
        self.project.lifetime.store(seconds, Ordering::Relaxed);
    }

    /// Answers every request from now on as a project that is down. Apps take that for a network that fails.
    pub fn go_down(&self) {
        self.project.is_down.store(true, Ordering::Relaxed);
    }
}

impl Drop for Supabase {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Project {
    /// As GoTrue answers a sign-in, with the claims of Supabase's documentation.
    fn session(&self, user: &str) -> Value {
        let lifetime = self.lifetime.load(Ordering::Relaxed);
        let (now, expires) = (now(), now() + lifetime);
        let claims = json!({
            "aal": "aal1", "amr": [{"method": "password", "timestamp": now}],
            "app_metadata": {"provider": "email", "providers": ["email"]}, "aud": "authenticated",
            "email": "ann@example.com", "exp": expires, "iat": now, "iss": self.issuer, "phone": "",
            "role": "authenticated", "session_id": "2f6a1d3c-6a0e-4f0e-9a53-5f0d9a4f7a11", "sub": user,
            "user_metadata": {}, "is_anonymous": false
        });
        json!({
            "access_token": self.signer.sign_as(KEY, &claims), "token_type": "bearer",
            "expires_in": lifetime, "expires_at": expires, "refresh_token": user,
            "user": {
                "id": user, "aud": "authenticated", "role": "authenticated", "email": "ann@example.com",
                "app_metadata": claims["app_metadata"], "user_metadata": {}, "created_at": "2026-01-02T03:04:05Z"
            }
        })
    }
}

/// The user of an address: a UUID, as of every user.
pub fn user_of(email: &str) -> String {
    let number: u32 = email.bytes().map(u32::from).sum();
    format!("123e4567-e89b-12d3-a456-{number:012}")
}

async fn answer(
    State(project): State<Arc<Project>>,
    method: Method,
    uri: axum::http::Uri,
    Query(query): Query<Vec<(String, String)>>,
    body: Bytes,
) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let parameter = |wanted: &str| query.iter().find(|(name, _)| name == wanted).map(|(_, value)| &**value);
    let (status, text) = match (&method, uri.path(), parameter("grant_type")) {
        _ if project.is_down.load(Ordering::Relaxed) => (StatusCode::SERVICE_UNAVAILABLE, json!({})),
        (&Method::GET, "/auth/v1/.well-known/jwks.json", _) => {
            (StatusCode::OK, json!({"keys": [project.signer.jwk(KEY)]}))
        }
        (&Method::POST, "/auth/v1/token", Some("password")) if body["password"] == "secret" => {
            (StatusCode::OK, project.session(&user_of(body["email"].as_str().unwrap_or_default())))
        }
        (&Method::POST, "/auth/v1/token", Some("password")) => {
            (StatusCode::BAD_REQUEST, json!({"code": "invalid_credentials", "message": "Invalid login credentials"}))
        }
        (&Method::POST, "/auth/v1/token", Some("refresh_token")) => {
            project.renewals.fetch_add(1, Ordering::Relaxed);
            (StatusCode::OK, project.session(body["refresh_token"].as_str().unwrap_or_default()))
        }
        (&Method::POST, "/auth/v1/logout", _) => {
            let scope = parameter("scope").unwrap_or_default().to_string();
            project.sign_outs.lock().expect("no panic").push(scope);
            (StatusCode::OK, json!({}))
        }
        (&Method::OPTIONS, ..) => (StatusCode::OK, json!({})),
        _ => (StatusCode::NOT_FOUND, json!({})),
    };
    let any = |name| (name, "*");
    let cors = [any(header::ACCESS_CONTROL_ALLOW_ORIGIN), any(header::ACCESS_CONTROL_ALLOW_METHODS)];
    // `*` does not include authorization.
    let headers = "authorization, apikey, content-type, x-client-info, x-supabase-api-version";
    (status, cors, [(header::ACCESS_CONTROL_ALLOW_HEADERS, headers)], Json(text)).into_response()
}
