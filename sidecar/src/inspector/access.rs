//! Who looks, and what they may do.
//!
//! Without authentication, whoever is on this machine may look and append: clients may do that here, too. Otherwise there is a login, with the
//! secret of the operator or with a token for all stores. Its cookie is a session that the secret signs, or the token itself: nothing
//! is kept here, so that every sidecar takes the session of every other.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::pbkdf2;
use axum::http::header::{COOKIE, HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderValue};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::auth::{Access, Authentication, Credentials, Guess, Identity, Secret, only};
use crate::gate::is_for_this_machine;
use crate::limits::peer::Peer;
use crate::telemetry::refusals::{Asked, Reason, Whom, refused};

const COOKIE_NAME: &str = "livestore_inspector";

/// How long a session lasts that the secret has opened.
const LASTS: Duration = Duration::from_secs(12 * 3600);

/// Marks the sessions that the secret signs; the others are tokens.
const OF_SECRET: &str = "secret:";

/// The work to make the key of the sessions, as OWASP recommends for PBKDF2 with SHA-256.
const ITERATIONS: NonZeroU32 = NonZeroU32::MIN.saturating_add(599_999);

/// The largest cookie, in bytes. Browsers keep no larger ones.
const COOKIE_BYTES: usize = 4096;

/// The door of the inspector.
pub struct Door {
    /// Everybody on this machine may come in.
    pub is_open: bool,
    pub authentication: Arc<Authentication>,
    /// Tokens count. Not if the operator's own function decides who reads what: a token alone says less then.
    pub takes_tokens: bool,
    pub secret: Option<Lock>,
}

/// The operator's secret, and the keys that are made of it.
pub struct Lock {
    secret: Secret,
    sign: EncodingKey,
    verify: DecodingKey,
}

impl Lock {
    pub fn new(secret: String) -> Self {
        // Not the secret itself: another program may sign tokens with it. It is made slowly, because a cookie lets whoever has one, or makes
        // one, try secrets on a machine of their own.
        let mut key = [0; 32];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            ITERATIONS,
            b"livestore inspector session",
            secret.as_bytes(),
            &mut key,
        );
        let (sign, verify) = (EncodingKey::from_secret(&key), DecodingKey::from_secret(&key));
        Self { secret: Secret::new(secret), sign, verify }
    }

    /// Looks at a guess in its turn, and tells the operator of a wrong one.
    async fn guess(&self, given: &str, peer: Peer) -> Result<(), NoEntry> {
        let no_entry = match self.secret.guess(given, peer).await {
            Guess::Right => return Ok(()),
            Guess::Wrong => NoEntry::WrongSecret,
            Guess::TooMany => NoEntry::TooMany,
        };
        let whom = Whom { dialect: "inspector", is_stranger: true, ..Whom::default() };
        refused(Asked::Admin, Reason::Secret, whom, "a wrong secret of the inspector, or too many guesses");
        Err(no_entry)
    }
}

/// Somebody who may look.
pub struct Visitor {
    /// The access to every store.
    pub access: Access,
    /// `sub` of a token.
    pub subject: Arc<str>,
    /// There is a session that can be ended.
    pub is_logged_in: bool,
    /// Has the operator's secret.
    pub is_operator: bool,
    /// Of a token: its place among the connections of its subject.
    pub identity: Option<Arc<Identity>>,
    /// The end of the session, or of the token.
    pub until: Option<Instant>,
}

impl Visitor {
    /// `sessionId` of the events that they commit.
    pub fn session(&self) -> &str {
        if self.subject.is_empty() { "inspector" } else { &self.subject }
    }
}

#[derive(Serialize, Deserialize)]
struct Session {
    exp: u64,
}

/// Why somebody does not come in.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoEntry {
    #[error("log in to look")]
    NoSession,
    #[error("{0}")]
    Token(String),
    /// The same token may be taken later.
    #[error("{0}")]
    Later(String),
    #[error("the claim of this token does not give \"*\": read, write or admin for all stores")]
    NotForAll,
    #[error(
        "tokens are not taken here, as --authorize-function or --authorize-url decides what they allow: use the inspector's secret"
    )]
    NoTokens,
    #[error("this sidecar takes no tokens (--auth none)")]
    NoAuthentication,
    #[error("this is not the secret")]
    WrongSecret,
    #[error("too many guesses at once: try again in a few seconds")]
    TooMany,
}

impl Door {
    /// Lets in whoever sends these headers.
    pub async fn admit(&self, headers: &HeaderMap, peer: Peer) -> Result<Visitor, NoEntry> {
        if let Some(session) = cookie(headers) {
            match self.of_session(&session, peer).await {
                Ok(visitor) => return Ok(visitor),
                Err(no_entry) if !self.is_open => return Err(no_entry),
                Err(_) => {}
            }
        }
        // A proxy on this machine brings others.
        if self.is_open && !is_forwarded(headers) && is_for_this_machine(headers) {
            return Ok(Visitor {
                access: Access::Write,
                subject: "".into(),
                is_logged_in: false,
                is_operator: false,
                identity: None,
                until: None,
            });
        }
        Err(NoEntry::NoSession)
    }

    async fn of_session(&self, session: &str, peer: Peer) -> Result<Visitor, NoEntry> {
        match session.strip_prefix(OF_SECRET) {
            Some(session) => {
                let lock = self.secret.as_ref().ok_or(NoEntry::NoSession)?;
                let session = jsonwebtoken::decode::<Session>(session, &lock.verify, &Validation::default());
                let exp = match session {
                    Ok(session) => session.claims.exp,
                    Err(error) if *error.kind() == ErrorKind::ExpiredSignature => return Err(NoEntry::NoSession),
                    // A guess of the secret, or a session of before it was changed.
                    Err(_) => return Err(lock.guess("", peer).await.err().unwrap_or(NoEntry::NoSession)),
                };
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let until = Instant::now() + Duration::from_secs(exp.saturating_sub(now)).min(LASTS);
                Ok(Visitor {
                    access: Access::Admin,
                    subject: "".into(),
                    is_logged_in: true,
                    is_operator: true,
                    identity: None,
                    until: Some(until),
                })
            }
            None => self.of_token(session).await,
        }
    }

    async fn of_token(&self, token: &str) -> Result<Visitor, NoEntry> {
        if self.authentication.is_none() {
            return Err(NoEntry::NoAuthentication);
        }
        if !self.takes_tokens {
            return Err(NoEntry::NoTokens);
        }
        let identified = self.authentication.identify(&Credentials::of_token(token)).await;
        let identity = identified.map_err(|refused| match refused.may_pass() {
            true => NoEntry::Later(refused.to_string()),
            false => NoEntry::Token(refused.to_string()),
        })?;
        let access = identity.over_all_stores.ok_or(NoEntry::NotForAll)?;
        let (subject, until) = (Arc::clone(&identity.subject), identity.until);
        Ok(Visitor {
            access,
            subject,
            is_logged_in: true,
            is_operator: false,
            identity: Some(Arc::new(identity)),
            until,
        })
    }

    /// The cookie for a secret or a token that was typed in.
    pub async fn log_in(&self, typed: &str, headers: &HeaderMap, peer: Peer) -> Result<HeaderValue, NoEntry> {
        // A token begins with an object in base64.
        let is_token = typed.starts_with("eyJ") && typed.bytes().filter(|byte| *byte == b'.').count() == 2;
        let session = match &self.secret {
            Some(lock) if !is_token => {
                lock.guess(typed, peer).await?;
                let exp = (SystemTime::now() + LASTS).duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let session = jsonwebtoken::encode(&Header::default(), &Session { exp }, &lock.sign);
                format!("{OF_SECRET}{}", session.map_err(|_| NoEntry::WrongSecret)?)
            }
            _ => {
                self.of_token(typed).await?;
                typed.to_owned()
            }
        };
        if session.len() > COOKIE_BYTES {
            return Err(NoEntry::Token("this token is too long for a cookie".into()));
        }
        // Browsers send no cookie that is marked so over plain HTTP.
        let is_https = headers.get(ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://"));
        let secure = if is_https { "; Secure" } else { "" };
        let cookie = format!(
            "{COOKIE_NAME}={session}; Path=/inspector; HttpOnly; SameSite=Strict; Max-Age={}{secure}",
            LASTS.as_secs()
        );
        HeaderValue::from_str(&cookie).map_err(|_| NoEntry::Token("the token is not a JSON Web Token".into()))
    }
}

/// The cookie that ends a session.
pub fn end_session() -> HeaderValue {
    HeaderValue::from_static("livestore_inspector=; Path=/inspector; HttpOnly; SameSite=Strict; Max-Age=0")
}

fn cookie(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|cookies| cookies.to_str().ok());
    let cookies = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|cookie| cookie.split_once('='));
    let (_, value) = only(cookies.filter(|(name, _)| name.trim() == COOKIE_NAME))?;
    Some(value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// How names of headers begin that proxies of several makers add.
const IS_FORWARDED: [&str; 6] = ["x-forwarded-", "x-original-", "x-envoy-", "x-appengine-", "x-azure-", "cf-"];

/// Whether a proxy says that it brings the request.
fn is_forwarded(headers: &HeaderMap) -> bool {
    let names = ["forwarded", "via", "x-real-ip", "true-client-ip", "x-client-ip", "x-cluster-client-ip"];
    headers
        .keys()
        .map(|name| name.as_str())
        .any(|name| names.contains(&name) || IS_FORWARDED.iter().any(|prefix| name.starts_with(prefix)))
}

/// Whether a page of another origin makes the browser ask in the background. It would not see the answer, but make us work.
pub fn is_of_other_page(headers: &HeaderMap) -> bool {
    let is = |name: &str, value: &str| headers.get(name).is_some_and(|header| header == value);
    let is_other =
        headers.contains_key("sec-fetch-site") && !is("sec-fetch-site", "same-origin") && !is("sec-fetch-site", "none");
    // A link that somebody follows.
    is_other && !(is("sec-fetch-mode", "navigate") && is("sec-fetch-dest", "document"))
}

/// Why a form does not count. A proxy may be the reason.
pub const NOT_OWN_PAGE: &str = "this was not sent by a page of the inspector: if it was, a proxy in front replaces the header Host, and has to pass it on as it is";

/// Whether a form was sent by a page of the inspector, and not by one of another origin. Browsers say so in a header that pages cannot
/// set; over plain HTTP beyond this machine, they only name the origin.
pub fn is_own_page(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        return site == "same-origin";
    }
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(origin), Some(host)) = (text(ORIGIN), text(HOST)) else {
        return false;
    };
    origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Peer = Peer(None);

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        all.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn door(is_open: bool, secret: Option<&str>) -> Door {
        let secret = secret.map(|secret| Lock::new(secret.into()));
        Door { is_open, authentication: Arc::new(Authentication::None), takes_tokens: false, secret }
    }

    #[test]
    fn forms_of_other_pages_do_not_count() {
        for (is_own, all) in [
            (true, &[("sec-fetch-site", "same-origin")][..]),
            (true, &[("origin", "http://10.0.0.1:8787"), ("host", "10.0.0.1:8787")]),
            (false, &[("sec-fetch-site", "same-site"), ("origin", "http://a:1"), ("host", "a:1")]),
            (false, &[("sec-fetch-site", "cross-site")]),
            (false, &[("sec-fetch-site", "none")]),
            (false, &[("origin", "http://10.0.0.1:3000"), ("host", "10.0.0.1:8787")]),
            (false, &[("origin", "null"), ("host", "10.0.0.1:8787")]),
            (false, &[("host", "10.0.0.1:8787")]),
            (false, &[]),
        ] {
            assert_eq!(is_own_page(&headers(all)), is_own, "{all:?}");
        }
    }

    #[tokio::test]
    async fn the_secret_opens_a_session_and_only_its_own() {
        let (one, other) =
            (door(false, Some("a secret of the operator")), door(false, Some("another secret entirely")));
        let cookie = one.log_in("a secret of the operator", &headers(&[]), HERE).await.unwrap();
        let pair = cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
        let with = headers(&[("cookie", &format!("a=b; {pair}; c=d"))]);
        assert_eq!(one.admit(&with, HERE).await.map(|visitor| visitor.access).ok(), Some(Access::Admin));
        assert_eq!(other.admit(&with, HERE).await.err(), Some(NoEntry::WrongSecret));
        assert_eq!(one.admit(&headers(&[]), HERE).await.err(), Some(NoEntry::NoSession));
        // Of two, neither counts.
        let twice = headers(&[("cookie", &format!("{pair}; {pair}"))]);
        assert_eq!(one.admit(&twice, HERE).await.err(), Some(NoEntry::NoSession));
        assert_eq!(
            one.admit(&headers(&[("cookie", "livestore_inspector=secret:")]), HERE).await.err(),
            Some(NoEntry::WrongSecret)
        );
        assert_eq!(
            one.admit(&headers(&[("cookie", "livestore_inspector=a.b.c")]), HERE).await.err(),
            Some(NoEntry::NoAuthentication)
        );
        assert_eq!(one.log_in("a secret of the operato", &headers(&[]), HERE).await.err(), Some(NoEntry::WrongSecret));
        let secure =
            one.log_in("a secret of the operator", &headers(&[("origin", "https://a.example")]), HERE).await.unwrap();
        assert!(secure.to_str().unwrap().ends_with("; Secure") && !cookie.to_str().unwrap().contains("Secure"));
    }

    #[tokio::test]
    async fn a_token_is_refused_for_the_reason_that_there_is() {
        for secret in [None, Some("a secret of the operator")] {
            let no_entry = door(true, secret).log_in("eyJh.b.c", &headers(&[]), HERE).await.err();
            assert_eq!(no_entry, Some(NoEntry::NoAuthentication));
        }
    }

    /// Signing cookies with guesses of the secret leads no further than typing them.
    #[tokio::test]
    async fn cookies_are_guesses_of_the_secret() {
        let door = door(false, Some("a secret of the operator"));
        // The key is not made of the secret in one step.
        let key = EncodingKey::from_secret(b"livestore inspector session a secret of the operator");
        let session = jsonwebtoken::encode(&Header::default(), &Session { exp: u64::MAX >> 12 }, &key).unwrap();
        let with = headers(&[("cookie", &format!("livestore_inspector=secret:{session}"))]);
        assert_eq!(door.admit(&with, HERE).await.err(), Some(NoEntry::WrongSecret));
    }

    #[tokio::test]
    async fn an_open_door_is_for_this_machine_and_gives_no_administration() {
        let open = door(true, None);
        assert_eq!(
            open.admit(&headers(&[("host", "localhost")]), HERE).await.map(|visitor| visitor.access).ok(),
            Some(Access::Write)
        );
        for name in [
            "x-forwarded-for",
            "x-forwarded-proto",
            "cf-connecting-ip",
            "forwarded",
            "via",
            "x-real-ip",
            "x-client-ip",
            "x-original-forwarded-for",
            "x-envoy-external-address",
        ] {
            assert_eq!(
                open.admit(&headers(&[(name, "1.2.3.4")]), HERE).await.err(),
                Some(NoEntry::NoSession),
                "{name}"
            );
        }
        assert_eq!(open.admit(&headers(&[("host", "evil.example")]), HERE).await.err(), Some(NoEntry::NoSession));
    }
}
