//! The settings of logs.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::limits::rate_limit::Rate;
use crate::settings::values::{LEAST_BYTES_PER_SECOND, LEAST_EVENT_BYTES, at_least, lasting, rate, up_to};
use crate::settings::{SettingsError, check_text};

#[derive(Debug, Clone, Args)]
pub struct LogSettings {
    /// An SQL function that says who may do what, e.g. app.may_sync: (store_id text, action text, payload json, headers json)
    /// returns boolean. Asked with the actions connect, pull and push. See docs/hooks.md.
    #[arg(long, env = "LIVESTORE_AUTHORIZE_FUNCTION", value_name = "FUNCTION", conflicts_with = "authorize_url")]
    pub authorize_function: Option<String>,

    /// The URL of a service that says who may do what, instead of a function: gets a POST with storeId, action, payload, headers
    /// and claims, signed with --webhook-secret, and answers {"allow": true, "ttl": 60} or {"allow": false, "reason": "…"}; ttl is
    /// the time in seconds for which the answer holds. While it does not answer, clients wait. See docs/hooks.md.
    #[arg(long, env = "LIVESTORE_AUTHORIZE_URL", value_name = "URL")]
    pub authorize_url: Option<String>,

    /// The way in which this sidecar learns of commits of others. listen: by LISTEN, at once. poll: from the commit log, which it
    /// asks every 50 ms while others commit and every second while nobody does; for a connection on which notifications do not
    /// arrive. The peer relay needs notifications, and is off then.
    #[arg(long, env = "LIVESTORE_LIVE", value_enum, default_value_t = Live::Listen)]
    pub live: Live,

    #[command(flatten)]
    pub push: PushSettings,

    /// The time that a push waits for a database that is away before its client is told to come back.
    #[arg(long, env = "LIVESTORE_PUSH_TIMEOUT", default_value = "90s", value_parser = lasting(Duration::from_millis(100)))]
    pub push_timeout: Duration,

    /// While several clients push to one store at the same time, its live events are held back until none has followed for
    /// this time, but at most four times as long, and then delivered together. Clients of LiveStore 0.4 lose fewer of their
    /// events that way. 0s: never. See docs/known-problems.md.
    #[arg(long, env = "LIVESTORE_CONTENTION_WINDOW", default_value = "250ms", value_parser = up_to(Duration::from_secs(5)))]
    pub contention_window: Duration,

    /// Memory for pages of logs that several clients may read: each is read from Postgres once, and kept for a minute after it was last
    /// read, unless events were rewritten or a log was reset. 0: none is kept.
    #[arg(long, env = "LIVESTORE_PAGE_CACHE_BYTES", default_value_t = 32 << 20)]
    pub page_cache_bytes: usize,
}

/// The way in which a sidecar learns of commits of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Live {
    Listen,
    Poll,
}

impl LogSettings {
    /// Whether a function or a URL of the operator decides who reads and writes what.
    pub fn has_authorizer(&self) -> bool {
        self.authorize_function.is_some() || self.authorize_url.is_some()
    }

    pub fn check(&self) -> Result<(), SettingsError> {
        check_text("--authorize-function", self.authorize_function.as_deref())?;
        match &self.authorize_url {
            Some(url) if !url.starts_with("https://") && !url.starts_with("http://") => {
                Err("--authorize-url must be an http or https URL".into())
            }
            _ => Ok(()),
        }
    }
}

/// Limits of pushes.
#[derive(Debug, Clone, Copy, Args)]
pub struct PushSettings {
    /// Events that one push may hold.
    #[arg(long, env = "LIVESTORE_MAX_BATCH_EVENTS", default_value_t = 10_000, value_parser = at_least(1_usize))]
    pub max_batch_events: usize,

    /// The largest event that may be pushed, in bytes.
    #[arg(long, env = "LIVESTORE_MAX_EVENT_BYTES", default_value_t = 4 << 20, value_parser = at_least(LEAST_EVENT_BYTES))]
    pub max_event_bytes: usize,

    /// Pushes per second of all clients with tokens of one subject. More wait (sync-cf), or are refused with 429 and tried again
    /// (sync-electric, sync-s2).
    #[arg(long, env = "LIVESTORE_PUSHES_PER_SECOND", default_value = "1000", value_parser = rate(1))]
    pushes_per_second: NonZeroU32,

    /// Bytes per second that one subject of tokens may push.
    #[arg(long, env = "LIVESTORE_PUSH_BYTES_PER_SECOND", default_value = "16777216", value_parser = rate(LEAST_BYTES_PER_SECOND))]
    push_bytes_per_second: NonZeroU32,

    /// Pushes a second that one store takes, of all clients on this sidecar.
    #[arg(long, env = "LIVESTORE_STORE_PUSHES_PER_SECOND", default_value = "10000", value_parser = rate(1))]
    store_pushes_per_second: NonZeroU32,

    /// Bytes per second that all clients on this sidecar may push to one store.
    #[arg(long, env = "LIVESTORE_STORE_BYTES_PER_SECOND", default_value = "67108864", value_parser = rate(LEAST_BYTES_PER_SECOND))]
    store_bytes_per_second: NonZeroU32,

    /// New stores that one subject of tokens may create in an hour.
    #[arg(long, env = "LIVESTORE_NEW_STORES_PER_HOUR", default_value = "1000", value_parser = rate(1))]
    pub new_stores_per_hour: NonZeroU32,
}

impl PushSettings {
    pub fn per_subject(&self) -> Rate {
        Rate { items: self.pushes_per_second, bytes: self.push_bytes_per_second }
    }

    pub fn per_store(&self) -> Rate {
        Rate { items: self.store_pushes_per_second, bytes: self.store_bytes_per_second }
    }
}
