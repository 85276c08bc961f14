//! Connections to Postgres, what its errors mean, and whether the extension is there.

mod backoff;
mod cancel;
mod database;
mod demand;
mod hosts;
mod pool;
mod retry;
mod secret;
mod servers;
mod session;
mod sessions;
mod settings;
mod standbys;
mod tls;
mod url;

use std::error::Error;
use std::time::Duration;

use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

pub use self::backoff::Backoff;
pub use self::cancel::cancellations_ended;
pub use self::database::{Database, Notifications, PoolClient};
pub use self::demand::{Demand, Hold};
pub use self::hosts::elsewhere;
pub use self::pool::Pooled;
pub use self::retry::{Retry, Unreadable, retry_naming, retry_until_available};
pub use self::secret::{hide_parameters, run_with_secret};
pub use self::servers::{Address, Connected, Server, connect_once, connect_once_to_read, told};
pub use self::session::{ANSWER_TIMEOUT, LIMIT_STATEMENTS, renew as renew_session};
pub use self::settings::{DatabaseSettings, address, warn_if_unencrypted};
pub use self::standbys::Unfit;
pub use self::url::is_this_machine;

use crate::telemetry::chain;

/// The oldest version of the extension that this sidecar works with, as major and minor. Newer ones with the same major
/// keep what sidecars call: the extension is updated first, and then the sidecars, one by one.
const OLDEST_EXTENSION: (u32, u32) = (0, 3);

/// The remedy if a database has no livestore_sync.
pub const INSTALL: &str = "run livestore-sidecar install, or as a superuser \"create extension livestore_sync\"";

/// The remedy if it is an older version than a function that is called.
pub const UPDATE: &str = "run livestore-sidecar upgrade, or as a superuser \"alter extension livestore_sync update\"";

/// Whether a function of the extension is missing: an older version has fewer.
pub fn lacks_function(error: &tokio_postgres::error::DbError) -> bool {
    *error.code() == SqlState::UNDEFINED_FUNCTION && error.message().contains("livestore.")
}

/// The SQLSTATE of the extension for a store that is on another shard.
const ELSEWHERE: &str = "LS005";

/// The time that a connection may take to be made, and a readiness check to be answered.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The time that the other end of a connection may leave packets unanswered before the connection counts as lost.
const SILENCE: Duration = Duration::from_secs(15);

/// The interval at which a silent connection is probed then.
const PROBE: Duration = Duration::from_secs(5);

/// Why the sidecar cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    #[error("the database cannot be reached")]
    Unreachable(#[source] tokio_postgres::Error),
    #[error("the database cannot be reached: its host cannot be looked up")]
    UnknownHost(#[source] std::io::Error),
    #[error("the database refuses the connection: check the user, the password and the database of its URL")]
    Login(#[source] tokio_postgres::Error),
    #[error(
        "the database has no rule for this user, this database and this address without TLS (pg_hba.conf): if they are right, add ?sslmode=verify-full to its URL, with sslrootcert=FILE for an authority of its own"
    )]
    NoRuleWithoutTls(#[source] tokio_postgres::Error),
    #[error("the database refuses a statement")]
    Refused(#[source] tokio_postgres::Error),
    #[error(
        "TLS with the database fails: its certificate has to be signed by --database-root-certificate (without it, by an authority that this system trusts), and be for the host of --database-url"
    )]
    Tls(#[source] tokio_postgres::Error),
    #[error(
        "the database does not use channel binding, which channel_binding=require in its URL asks for: that takes sslmode=verify-full, and a server that authenticates with scram-sha-256"
    )]
    ChannelBinding(#[source] tokio_postgres::Error),
    #[error("no connection to the database was made in time")]
    ConnectTimeout,
    #[error("no connection to the database became free in time")]
    NoneFree,
    #[error("the database did not answer in time")]
    NoAnswer,
    #[error(
        "the database is still at a commit that it has not answered in time: if it waits for a synchronous standby, bring one back, or change synchronous_standby_names"
    )]
    StillCommitting,
    #[error("what the database answers cannot be read: {0}")]
    Unreadable(String),
    #[error("event {seq_num:?} of a store cannot be read: {problem}")]
    UnreadableEvent { seq_num: Option<i64>, problem: String },
    #[error(
        "a log has no event after {after}, although its head is {head}: its last events were deleted from the table, or cannot be seen; put them back, or empty the log with livestore.reset_store"
    )]
    EventsMissing { after: i64, head: i64 },
    #[error(
        "row level security is forced on {tables}, and would hide events from everybody: run \"alter table … no force row level security\""
    )]
    RowSecurityForced { tables: String },
    #[error("the connection to the database is lost")]
    Lost,
    #[error(
        "the store is on another shard: a sidecar without --shards needs it, with the URL of the front database; with it, a move of the store has not ended, or livestore.shard_map() at the front and livestore.shard here differ"
    )]
    Elsewhere,
    #[error(
        "livestore.shard_map() is not there, or this role may not call it: with --shards, --database-url has to lead to the front database, which \"livestore-sidecar shards init\" makes"
    )]
    NotAFront,
    #[error(
        "the front database says that this is shard {number}, and livestore.shard here says {}: correct livestore.shards there, or the address",
        found.map_or_else(|| "that it is none".into(), |found| found.to_string())
    )]
    OtherShard { number: i32, found: Option<i32> },
    #[error("the map of the shards cannot be used: {0}")]
    Map(String),
    #[error(
        "{option} leads to a pooler in transaction mode, where LISTEN, prepared statements and settings do not last: use the URL of a direct connection to Postgres, or of a pooler in session mode (Supabase: port 5432 instead of 6543; Neon: the host without -pooler; pgbouncer: pool_mode = session)"
    )]
    TransactionMode { option: &'static str },
    #[error(
        "the pooler of the database URL refuses the parameter options: use the URL of a direct connection, or add options to ignore_startup_parameters of pgbouncer"
    )]
    StartupParameter(#[source] tokio_postgres::Error),
    #[error(
        "what is sent at --database-url does not arrive at --listen-url: both have to lead to the same database, and --listen-url to Postgres itself"
    )]
    NotHeard,
    #[error(
        "nothing can be pushed to this server: it is a standby, and --database-url has to lead to the primary (of several hosts it takes the right one), or default_transaction_read_only is on for this role or database"
    )]
    ReadOnly,
    #[error(
        "the server is on timeline {timeline} of its cluster, which has failed over to {latest} since: fence it. If it was put back on purpose, restart the sidecars"
    )]
    Superseded { timeline: u32, latest: u32 },
    #[error(
        "this database is the front of shards, and has no events of its own: start the sidecar (and its check) with --shards; to look at one shard, use the URL of that shard, which livestore-sidecar shards status names"
    )]
    Front,
    #[error("livestore_sync is not installed in this database: {INSTALL}")]
    ExtensionMissing,
    #[error(
        "the extension livestore_sync has version {found}, and this sidecar works with {major}.{minor}.0 and later {major}.x: run \"alter extension livestore_sync update\", or install the sidecar of that version",
        major = OLDEST_EXTENSION.0,
        minor = OLDEST_EXTENSION.1
    )]
    ExtensionVersion { found: String },
    #[error("the role of the database URL may not push: run \"grant livestore_writer to <role>\"")]
    PrivilegeMissing,
    #[error(
        "--authorize-function {function}: {problem}; create it, and grant usage on its schema and execute on it to the role of the database URL"
    )]
    AuthorizeFunction { function: String, problem: String },
    #[error("--authorize-url does not answer: {problem}")]
    AuthorizeUrl { problem: String },
}

impl DatabaseError {
    /// The text for anybody who asks, for example at /readyz: without Postgres' message about the operator's function.
    pub fn to_strangers(&self) -> String {
        match self {
            Self::AuthorizeFunction { .. } => "the authorize function cannot be called: see the log".into(),
            Self::AuthorizeUrl { .. } => "the authorize service does not answer: see the log".into(),
            other => other.to_string(),
        }
    }

    /// The text for the person who runs a command: with its sources, and what to do.
    pub fn to_operator(&self) -> String {
        let advice = self.advice().map(|advice| format!("; {advice}")).unwrap_or_default();
        format!("{}{advice}", chain(self))
    }

    /// The remedy for a server that does not answer, which the error alone does not say.
    fn advice(&self) -> Option<&'static str> {
        match self {
            // With a code, it did answer.
            Self::Unreachable(error) if error.code().is_some() => None,
            Self::Unreachable(_) | Self::UnknownHost(_) | Self::ConnectTimeout => {
                Some("start Postgres, or correct --database-url")
            }
            _ => None,
        }
    }

    /// Whether Postgres has ended the statement, most often because it took longer than one may. The next one may fare no better.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Unreachable(error) | Self::Refused(error) if error.code() == Some(&SqlState::QUERY_CANCELED))
    }

    /// Whether the same may succeed later.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unreachable(_)
            | Self::UnknownHost(_)
            | Self::ConnectTimeout
            | Self::NoneFree
            | Self::NoAnswer
            | Self::StillCommitting
            | Self::Lost
            | Self::ReadOnly
            | Self::Superseded { .. }
            | Self::Elsewhere
            | Self::AuthorizeUrl { .. } => Retry::Soon,
            Self::Refused(error) => error.code().map_or(Retry::WhenMended, Retry::after),
            Self::Login(_)
            | Self::NoRuleWithoutTls(_)
            | Self::Tls(_)
            | Self::ChannelBinding(_)
            | Self::TransactionMode { .. }
            | Self::StartupParameter(_)
            | Self::NotAFront
            | Self::Map(_)
            | Self::OtherShard { .. }
            | Self::NotHeard
            | Self::Front
            | Self::ExtensionMissing
            | Self::ExtensionVersion { .. }
            | Self::PrivilegeMissing
            | Self::EventsMissing { .. }
            | Self::RowSecurityForced { .. }
            | Self::AuthorizeFunction { .. } => Retry::WhenMended,
            Self::Unreadable(_) | Self::UnreadableEvent { .. } => Retry::Never,
        }
    }
}

impl From<tokio_postgres::Error> for DatabaseError {
    fn from(error: tokio_postgres::Error) -> Self {
        if error.code().is_some_and(is_elsewhere) {
            Self::Elsewhere
        } else if is_tls_refusal(&error) {
            Self::Tls(error)
        } else if error.source().is_some_and(|source| source.to_string() == "server did not use channel binding") {
            Self::ChannelBinding(error)
        } else if is_startup_parameter(&error) {
            Self::StartupParameter(error)
        } else if is_ours(&error) {
            Self::Unreadable(error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}")))
        } else if error.code().map_or_else(|| is_of_the_way(&error), |code| Retry::after(code) == Retry::Soon) {
            Self::Unreachable(error)
        } else if has_no_rule_without_tls(&error) {
            Self::NoRuleWithoutTls(error)
        } else if error.code().is_none_or(is_login) {
            Self::Login(error)
        } else {
            Self::Refused(error)
        }
    }
}

/// Whether the server refuses the user, the password or the database. Without a code, it is the login that fails.
fn is_login(code: &SqlState) -> bool {
    code.code().starts_with("28") || *code == SqlState::INVALID_CATALOG_NAME
}

/// Whether a store is on another shard.
pub fn is_elsewhere(code: &SqlState) -> bool {
    code.code() == ELSEWHERE
}

/// Whether TLS fails for good, because of the certificate or because the server does not support TLS. A connection that
/// breaks off during the handshake may succeed later.
fn is_tls_refusal(error: &tokio_postgres::Error) -> bool {
    let Some(source) = error.source() else {
        return false;
    };
    let inner = source.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    let is_rustls = inner.is_some_and(|inner| inner.is::<rustls::Error>());
    // tokio-postgres has no other name for it.
    is_rustls || source.to_string() == "server does not support TLS"
}

/// Whether no rule of pg_hba.conf takes this connection, which has no TLS: providers have rules for TLS alone.
fn has_no_rule_without_tls(error: &tokio_postgres::Error) -> bool {
    let refused = error.as_db_error().filter(|error| *error.code() == SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
    // The second text is of Postgres before 14.
    refused.is_some_and(|error| ["no encryption", "SSL off"].iter().any(|text| error.message().contains(text)))
}

/// Whether a pooler takes fewer parameters of a connection than Postgres does. The only one that a URL adds is `options`.
fn is_startup_parameter(error: &tokio_postgres::Error) -> bool {
    let message = error.as_db_error().filter(|error| *error.code() == SqlState::PROTOCOL_VIOLATION);
    message.is_some_and(|error| error.message().contains("unsupported startup parameter"))
}

/// Whether the error comes neither from Postgres nor from the network: a value cannot be read, or cannot be sent.
/// tokio-postgres does not expose the kind of an error, only its text.
fn is_ours(error: &tokio_postgres::Error) -> bool {
    const BEGINNINGS: [&str; 6] = [
        "error serializing parameter",
        "error deserializing column",
        "error encoding message",
        "invalid column",
        "query returned an unexpected number",
        "expected ",
    ];
    error.code().is_none() && {
        let text = error.to_string();
        BEGINNINGS.iter().any(|beginning| text.starts_with(beginning))
    }
}

/// Whether the network failed, as opposed to a login that the server refused.
fn is_of_the_way(error: &tokio_postgres::Error) -> bool {
    error.source().is_none_or(|source| source.is::<std::io::Error>())
}

/// Whether an error ends the connection, so that what became of its last statement is not known; or says that this
/// server is not, or no longer, the one to write to.
pub fn is_disconnection(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => {
            let ends = matches!(code.code().get(..2), Some("08" | "57")) && *code != SqlState::QUERY_CANCELED;
            ends || *code == SqlState::READ_ONLY_SQL_TRANSACTION
        }
        None => !is_ours(error),
    }
}

/// Whether this sidecar works with a version of the extension.
pub fn works_with(extension: &str) -> bool {
    let mut numbers = extension.split('.').map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return false;
    };
    major == OLDEST_EXTENSION.0 && minor >= OLDEST_EXTENSION.1
}

/// The numbers of a version, to compare it with another one.
pub fn version_numbers(version: &str) -> Vec<u32> {
    version.split('.').map(|number| number.parse().unwrap_or(0)).collect()
}

type TlsStream = <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream;

/// The version of livestore_sync in the database, of either flavour.
async fn installed_version(client: &Client) -> Result<String, DatabaseError> {
    // Versions before 0.3 have no function to ask.
    let found = client
        .query_one(
            "select (select e.extversion from pg_extension e where e.extname = 'livestore_sync'),
                 (
                     select has_schema_privilege(n.oid, 'usage') and has_function_privilege(p.oid, 'execute')
                     from pg_namespace n
                     join pg_proc p on p.pronamespace = n.oid and p.proname = 'version' and p.pronargs = 0
                     where n.nspname = 'livestore'
                 )",
            &[],
        )
        .await?;
    match (found.try_get::<_, Option<bool>>(1)?, found.try_get::<_, Option<String>>(0)?) {
        (Some(true), _) => Ok(client.query_one("select livestore.version()", &[]).await?.try_get(0)?),
        (Some(false), _) => Err(DatabaseError::PrivilegeMissing),
        (None, Some(version)) => Ok(version),
        (None, None) => {
            refuse_front(client).await?;
            Err(DatabaseError::ExtensionMissing)
        }
    }
}

/// Refuses the front of shards: to install livestore_sync there would take the map of the shards away.
///
/// # Errors
/// It is one, or does not answer.
pub async fn refuse_front(client: &Client) -> Result<(), DatabaseError> {
    let map = "select exists (
             select from pg_proc p
             join pg_namespace n on n.oid = p.pronamespace and n.nspname = 'livestore'
             where p.proname = 'shard_map' and p.pronargs = 0
         )";
    match client.query_one(map, &[]).await?.try_get(0)? {
        true => Err(DatabaseError::Front),
        false => Ok(()),
    }
}

async fn check(client: &Client) -> Result<(), DatabaseError> {
    let version = installed_version(client).await?;
    if !works_with(&version) {
        return Err(DatabaseError::ExtensionVersion { found: version });
    }
    // A catalog look-up by name would itself need the privilege on the schema.
    let privilege = client
            .query_one(
                "select has_schema_privilege(n.oid, 'usage') and coalesce(bool_and(has_function_privilege(p.oid, 'execute')), false)
                 from pg_namespace n
                 left join pg_proc p on p.pronamespace = n.oid and p.proname in ('push_batch', 'read_page', 'backend_id', 'head')
                 where n.nspname = 'livestore'
                 group by n.oid",
                &[],
            )
            .await?;
    if !privilege.try_get(0)? {
        return Err(DatabaseError::PrivilegeMissing);
    }
    let forced = client
        .query_one(
            "select string_agg(c.oid::regclass::text, ', ' order by c.relname) from pg_class c
             join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'livestore'
             where c.relrowsecurity and c.relforcerowsecurity",
            &[],
        )
        .await?;
    match forced.try_get(0)? {
        Some(tables) => Err(DatabaseError::RowSecurityForced { tables }),
        None => Ok(()),
    }
}
