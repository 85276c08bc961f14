//! JSON Web Tokens, good and bad.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// The secret of [`token`]s.
pub const SECRET: &str = "a secret of the tests, which nobody else knows";

/// The arguments of a sidecar that asks for tokens with this secret.
pub const WITH_SECRET: [&str; 4] = ["--auth", "jwt", "--jwt-secret", SECRET];

/// A token of this user, good for an hour.
pub fn token(user: &str) -> String {
    Signer::secret(SECRET).token(user)
}

/// Seconds since 1970.
pub fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    now.as_secs().try_into().expect("not yet")
}

/// Somebody who signs tokens.
pub struct Signer {
    algorithm: Algorithm,
    key: EncodingKey,
    public_key: Option<PathBuf>,
    _folder: Option<TempDir>,
}

impl Signer {
    /// With a secret, HS256.
    pub fn secret(secret: &str) -> Self {
        let key = EncodingKey::from_secret(secret.as_bytes());
        Self { algorithm: Algorithm::HS256, key, public_key: None, _folder: None }
    }

    /// With a new private key.
    pub fn rs256() -> Self {
        Self::generate(Algorithm::RS256, &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"], EncodingKey::from_rsa_pem)
    }

    /// With a new private key.
    pub fn es256() -> Self {
        Self::generate(Algorithm::ES256, &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"], EncodingKey::from_ec_pem)
    }

    /// With a new private key.
    pub fn eddsa() -> Self {
        Self::generate(Algorithm::EdDSA, &["ED25519"], EncodingKey::from_ed_pem)
    }

    fn generate(
        algorithm: Algorithm,
        kind: &[&str],
        parse: impl FnOnce(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>,
    ) -> Self {
        let folder = crate::watchdog::folder();
        let (private, public) = (folder.path().join("private.pem"), folder.path().join("public.pem"));
        openssl(Command::new("openssl").arg("genpkey").arg("-out").arg(&private).arg("-algorithm").args(kind));
        openssl(Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&private).arg("-out").arg(&public));
        let key = parse(&std::fs::read(private).expect("the key")).expect("a key");
        Self { algorithm, key, public_key: Some(public), _folder: Some(folder) }
    }

    /// The file with the public key.
    pub fn public_key(&self) -> &Path {
        self.public_key.as_deref().expect("a key pair")
    }

    /// The private key.
    pub fn private_pem(&self) -> String {
        std::fs::read_to_string(self.public_key().with_file_name("private.pem")).expect("the key")
    }

    /// The public key itself.
    pub fn public_pem(&self) -> String {
        std::fs::read_to_string(self.public_key()).expect("the key")
    }

    /// A token of this user, good for an hour.
    pub fn token(&self, user: &str) -> String {
        self.token_until(user, now() + 3600)
    }

    pub fn token_until(&self, user: &str, seconds: i64) -> String {
        self.sign(&json!({"sub": user, "exp": seconds}))
    }

    /// A token with these claims.
    pub fn sign(&self, claims: &Value) -> String {
        jsonwebtoken::encode(&Header::new(self.algorithm), claims, &self.key).expect("a token")
    }
}

fn openssl(command: &mut Command) {
    let output = command.output().expect("openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// An identity provider: serves its public keys at a URL.
pub struct Provider {
    pub url: String,
    state: Arc<Mutex<Served>>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Served {
    answer: String,
    takes: Duration,
    requests: usize,
}

impl Provider {
    pub async fn start() -> Self {
        let state = Arc::<Mutex<Served>>::default();
        let served = Arc::clone(&state);
        let keys = axum::routing::get(move || {
            let (takes, answer) = {
                let mut served = served.lock().expect("no panic");
                served.requests += 1;
                (served.takes, served.answer.clone())
            };
            async move {
                tokio::time::sleep(takes).await;
                answer
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/keys", listener.local_addr().expect("an address"));
        let router = axum::Router::new().route("/keys", keys);
        let server = tokio::spawn(async { axum::serve(listener, router).await.expect("it serves") });
        Self { url, state, server }
    }

    /// Says this from now on.
    pub fn says(&self, answer: impl ToString) {
        self.state.lock().expect("no panic").answer = answer.to_string();
    }

    /// Takes this long for each answer from now on.
    pub fn takes(&self, time: Duration) {
        self.state.lock().expect("no panic").takes = time;
    }

    /// The number of requests that it got.
    pub fn requests(&self) -> usize {
        self.state.lock().expect("no panic").requests
    }

    /// It goes away.
    pub fn stop(&self) {
        self.server.abort();
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Signer {
    /// The public key as a JWK of this name.
    pub fn jwk(&self, name: &str) -> Value {
        let jwk = Jwk::from_encoding_key(&self.key, self.algorithm).expect("a key");
        let mut jwk = serde_json::to_value(jwk).expect("JSON");
        jwk["kid"] = json!(name);
        jwk
    }

    /// A token with these claims and this header besides the algorithm.
    pub fn sign_with(&self, header: Value, claims: &Value) -> String {
        let mut all = serde_json::to_value(Header::new(self.algorithm)).expect("JSON");
        for (name, value) in header.as_object().expect("an object") {
            all[name] = value.clone();
        }
        let header: Header = serde_json::from_value(all).expect("a header");
        jsonwebtoken::encode(&header, claims, &self.key).expect("a token")
    }

    /// A token with these claims that names its key.
    pub fn sign_as(&self, name: &str, claims: &Value) -> String {
        let header = Header { kid: Some(name.into()), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.key).expect("a token")
    }
}
