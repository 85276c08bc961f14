//! Requests that are refused, for the operator: a client of LiveStore does not show it. A device whose push is rejected never uploads
//! again, and looks as if all were well.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tracing::warn;

use crate::telemetry::log_throttle::LogThrottle;
use crate::telemetry::metrics;

/// The interval at which a refusal of one subject is mentioned in the log.
const MENTION_EVERY: Duration = Duration::from_secs(60);

/// The number of subjects that are told apart: a stranger who varies its requests writes that many lines a minute at most.
const TOLD_APART: usize = 1000;

/// The most of a client's text, or of a hook's, that a line has.
const TEXT_CHARACTERS: usize = 300;

/// The number of refusals that the inspector shows.
const REMEMBERED: usize = 1000;

labels! {
    /// The action that was refused.
    pub enum Asked {
        Connect = "connect",
        Pull = "pull",
        Push = "push",
        /// To administer a store.
        Admin = "admin",
    }
}

labels! {
    /// The reason of a refusal.
    pub enum Reason {
        /// The page comes from an origin that is not allowed.
        Origin = "origin",
        /// There is no token, or not a good one.
        Token = "token",
        /// The token does not allow it.
        Access = "access",
        /// The subject of the token has too many connections, and too many requests that wait for one.
        Connections = "connections",
        /// The admin secret, or that of Electric's clients.
        Secret = "secret",
        /// The operator's authorize function.
        Authorize = "authorize",
        /// A hook of the operator.
        Hook = "hook",
        /// Another error of Postgres: a constraint, for one.
        Database = "database",
        /// The batch is none that a log can have, or exceeds a limit of its size.
        Invalid = "invalid",
        /// The request has not the form of its protocol.
        Malformed = "malformed",
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

/// A refusal that the inspector shows. Texts of clients are cut off.
#[derive(Debug)]
pub struct Refusal {
    pub at: SystemTime,
    pub asked: Asked,
    pub reason: Reason,
    pub dialect: String,
    pub store: Option<String>,
    pub subject: Option<String>,
    pub client: Option<String>,
    pub event: Option<String>,
    pub text: String,
}

/// The latest refusals, the last one at the end.
static LATEST: Mutex<VecDeque<Arc<Refusal>>> = Mutex::new(VecDeque::new());

fn remember(refusal: Refusal) {
    let refusal = Arc::new(refusal);
    let mut latest = LATEST.lock();
    let oldest = if latest.len() < REMEMBERED { None } else { latest.pop_front() };
    latest.push_back(refusal);
    drop(latest);
    drop(oldest);
}

/// The latest refusals, the last one first.
pub fn latest() -> Vec<Arc<Refusal>> {
    LATEST.lock().iter().rev().cloned().collect()
}

/// The reason why a request is wrong, without the part of it that serde repeats: that may be a secret, or what a user wrote.
pub fn without_input(text: &str) -> Cow<'_, str> {
    let marks = ["invalid type: ", "invalid value: ", "unknown variant ", "unknown field "];
    let Some(start) = marks.iter().filter_map(|mark| Some(text.find(mark)? + mark.len())).min() else {
        return text.into();
    };
    // The expectation is serde's own text, and the last one is not the client's.
    let end = text.rfind(", expected ").or_else(|| text.rfind(" at line "));
    let rest = end.filter(|end| *end >= start).map_or("", |end| &text[end..]);
    format!("{}…{rest}", &text[..start]).into()
}

/// Counts a refusal, and tells the operator of it once in a while for each subject; without tokens, for each store.
pub fn refused(asked: Asked, reason: Reason, whom: Whom<'_>, text: &str) {
    type Key = (Asked, Reason, Option<Arc<str>>);
    static SAID: LazyLock<LogThrottle<Key>> = LazyLock::new(|| LogThrottle::new(MENTION_EVERY, TOLD_APART));
    metrics::refused(asked, reason);
    let text = &*if reason == Reason::Malformed { without_input(text) } else { text.into() };
    let Whom { dialect, store, subject, client, event, is_stranger } = whom;
    remember(Refusal {
        at: SystemTime::now(),
        asked,
        reason,
        dialect: dialect.into(),
        store: store.map(brief),
        subject: subject.map(brief),
        client: client.map(brief),
        event: event.map(brief),
        text: brief(text),
    });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_wrote_is_not_repeated() {
        for (text, said) in [
            (
                r#"invalid type: string "SECRET", expected i64 at line 1 column 9"#,
                "invalid type: …, expected i64 at line 1 column 9",
            ),
            (
                r#"malformed: unknown variant `a, expected b at line`, expected `c` or `d` at line 2 column 3"#,
                "malformed: unknown variant …, expected `c` or `d` at line 2 column 3",
            ),
            ("missing field `seqNum` at line 1 column 2", "missing field `seqNum` at line 1 column 2"),
        ] {
            assert_eq!(without_input(text), said);
        }
    }
}
