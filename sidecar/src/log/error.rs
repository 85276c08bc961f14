//! Why a client does not get what it asks a log for.

use std::error::Error;
use std::fmt::Display;
use std::sync::Arc;

use crate::postgres::Unreadable;
use crate::telemetry::refusals::Reason;

/// A request that is malformed. The text is for the client that sent it.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Malformed {
    text: String,
    #[source]
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Malformed {
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), source: None }
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// An error for input that cannot be read: `what` names the input, and `source` is the error of reading it.
    pub fn because(what: impl Display, source: impl Error + Send + Sync + 'static) -> Self {
        Self { text: format!("{what}: {source}"), source: Some(Box::new(source)) }
    }
}

/// The text.
impl From<Malformed> for String {
    fn from(malformed: Malformed) -> Self {
        malformed.text
    }
}

/// The token, the operator's function or something else says no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Denied {
    pub reason: Reason,
    /// For the client.
    pub text: String,
}

impl Denied {
    pub fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }

    /// Whether the same request may be allowed later.
    pub fn may_pass(&self) -> bool {
        self.reason == Reason::Connections
    }
}

/// Why a client cannot read on from where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// The cursor of the client has another backend id than the log.
    #[error("the log was reset")]
    BackendIdMismatch { expected: Arc<str>, received: String },
    /// Its cursor is beyond the head: the log has lost events that a client has seen.
    #[error("the log has lost events that this client has seen: ask the operator")]
    Rewound,
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
}

/// Why a push is not in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    #[error("the batch builds on event {provided_num}, but the head of the log is {minimum_expected_num}")]
    ServerAhead { minimum_expected_num: i64, provided_num: i64 },
    #[error("the backend id is {expected}, not {received}")]
    BackendIdMismatch { expected: String, received: String },
    #[error("{0}")]
    Invalid(String),
    /// A hook of the operator says no, or the authorize function, whose message it is; or the token.
    #[error(transparent)]
    Rejected(Denied),
    /// The push exceeds a rate limit, or there is no room in the queue. Nothing of it is in the log.
    #[error("{0}")]
    Throttled(String),
    /// The database was away for too long: whether the push is in the log is not known. It may
    /// be repeated, since a repeated push is accepted.
    #[error("the database is not available, try again later")]
    Unavailable,
}

impl From<Denied> for PushError {
    fn from(denied: Denied) -> Self {
        if denied.may_pass() { Self::Throttled(denied.text) } else { Self::Rejected(denied) }
    }
}

impl PushError {
    /// The reason to report to the operator; `None` if the client recovers by itself.
    pub fn refusal(&self) -> Option<Reason> {
        match self {
            Self::Rejected(denied) => Some(denied.reason),
            Self::Invalid(_) => Some(Reason::Invalid),
            Self::ServerAhead { .. } | Self::BackendIdMismatch { .. } | Self::Throttled(_) | Self::Unavailable => None,
        }
    }

    /// As metrics name it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ServerAhead { .. } => "server_ahead",
            Self::BackendIdMismatch { .. } => "backend_id_mismatch",
            Self::Invalid(_) => "invalid",
            Self::Rejected(_) => "rejected",
            Self::Throttled(_) => "throttled",
            Self::Unavailable => "unavailable",
        }
    }
}
