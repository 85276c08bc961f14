//! Requests that are refused, for the operator: a client of LiveStore does not show it. A device whose push is rejected never uploads
//! again, and looks as if all were well.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tracing::warn;

use crate::telemetry::log_throttle::LogThrottle;
use crate::telemetry::metrics;

/// How often a refusal of one subject is mentioned in the log.
const MENTION_EVERY: Duration = Duration::from_secs(60);

/// How many are told apart: a stranger who varies what it asks for writes that many lines a minute at most.
const TOLD_APART: usize = 1000;

/// The most of a client's text, or of a hook's, that a line has.
const TEXT_CHARACTERS: usize = 300;

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Asked {
    Connect,
    Pull,
    Push,
    /// To administer a store.
    Admin,
}

impl Asked {
    pub const ALL: [Self; 4] = [Self::Connect, Self::Pull, Self::Push, Self::Admin];

    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Admin => "admin",
        }
    }
}

/// What refuses a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The page comes from an origin that is not allowed.
    Origin,
    /// There is no token, or not a good one.
    Token,
    /// The token does not allow it.
    Access,
    /// The subject of the token has too many connections, and too many requests that wait for one.
    Connections,
    /// The admin secret, or that of Electric's clients.
    Secret,
    /// The operator's authorize function.
    Authorize,
    /// A hook of the operator.
    Hook,
    /// Another error of Postgres: a constraint, for one.
    Database,
    /// The batch is none that a log can have, or exceeds a limit of its size.
    Invalid,
    /// The request has not the form of its protocol.
    Malformed,
}

impl Reason {
    pub const ALL: [Self; 10] = [
        Self::Origin,
        Self::Token,
        Self::Access,
        Self::Connections,
        Self::Secret,
        Self::Authorize,
        Self::Hook,
        Self::Database,
        Self::Invalid,
        Self::Malformed,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Token => "token",
            Self::Access => "access",
            Self::Connections => "connections",
            Self::Secret => "secret",
            Self::Authorize => "authorize",
            Self::Hook => "hook",
            Self::Database => "database",
            Self::Invalid => "invalid",
            Self::Malformed => "malformed",
        }
    }
}

/// A refusal, as far as it is known whom it met.
#[derive(Debug, Default, Clone, Copy)]
pub struct Whom<'a> {
    pub dialect: &'a str,
    pub store: Option<&'a str>,
    /// Of a token.
    pub subject: Option<&'a str>,
    /// The `clientId` of the first event of a push.
    pub client: Option<&'a str>,
    /// The name of the first event of a push.
    pub event: Option<&'a str>,
    /// Strangers of a server that asks for tokens are all one.
    pub is_stranger: bool,
}

/// Counts a refusal, and tells the operator of it once in a while for each subject; without tokens, for each store.
pub fn refused(asked: Asked, reason: Reason, whom: Whom<'_>, text: &str) {
    type Key = (Asked, Reason, Option<Arc<str>>);
    static SAID: LazyLock<LogThrottle<Key>> = LazyLock::new(|| LogThrottle::new(MENTION_EVERY, TOLD_APART));
    metrics::refused(asked, reason);
    let Whom { dialect, store, subject, client, event, is_stranger } = whom;
    let who = subject.or(store.filter(|_| !is_stranger));
    let Some(suppressed) = SAID.suppressed((asked, reason, who.map(Arc::from))) else {
        return;
    };
    warn!(
        asked = asked.name(),
        reason = reason.name(),
        dialect,
        store = store.map(brief),
        subject,
        client = client.map(brief),
        event = event.map(brief),
        text = brief(text),
        suppressed,
        "a client is refused"
    );
}

fn brief(text: &str) -> String {
    text.chars().take(TEXT_CHARACTERS).collect()
}
