//! The source of the answers: a database, or a sidecar that serves its inspector.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Once;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};
use reqwest::header::{CONTENT_TYPE, COOKIE, HeaderMap, HeaderName, HeaderValue, ORIGIN, SET_COOKIE};
use reqwest::{Response, StatusCode, Url};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio_postgres::error::{Severity, SqlState};

use crate::log::{List, ListKind};
use crate::postgres::{
    self, Connected, DatabaseError, INSTALL, connect_once, connect_once_to_read, is_this_machine, refuse_front, told,
    warn_if_unencrypted,
};
use crate::settings::SettingsError;
use crate::telemetry::chain;

/// The time that an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The same for a whole log.
pub const LONG: Duration = Duration::from_secs(24 * 3600);

/// Some commands connect twice.
static IS_WARNED: Once = Once::new();

#[derive(Debug, Args)]
struct Options {
    /// The database: postgres://user:password@host:port/database. The role takes livestore_reader; to commit, livestore_writer; to import, livestore_admin.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: Option<String>,

    /// PEM file of the authority that signs the certificate of the database. Without it, the authorities that this system trusts.
    #[arg(long, env = "LIVESTORE_DATABASE_ROOT_CERTIFICATE", value_name = "FILE")]
    database_root_certificate: Option<PathBuf>,

    /// Ask this sidecar instead of the database: http://host:port. It has to serve its inspector. An option on the command line takes
    /// precedence over the environment; of two variables, that of the sidecar counts.
    #[arg(long, env = "LIVESTORE_SIDECAR_URL", value_name = "URL")]
    sidecar_url: Option<String>,

    /// The inspector's secret, or a token whose claim gives "*". Needed unless the sidecar's inspector asks for none; an import always needs it.
    #[arg(long, env = "LIVESTORE_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
}

/// The options of one source: the database, or a sidecar.
#[derive(Debug)]
pub struct Address(Options);

impl FromArgMatches for Address {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Self::from_arg_matches_mut(&mut matches.clone())
    }

    // Not `conflicts_with` of clap, for which a variable is as much as an option.
    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, clap::Error> {
        let is_typed = |id| matches.value_source(id) == Some(ValueSource::CommandLine);
        let (is_database, is_sidecar) = (is_typed("database_url"), is_typed("sidecar_url"));
        let is_token = is_typed("token");
        let mut options = Options::from_arg_matches_mut(matches)?;
        match (is_database, is_sidecar) {
            (true, true) => {
                let text = "--database-url and --sidecar-url do not go together: leave one out";
                return Err(clap::Error::raw(ErrorKind::ArgumentConflict, text));
            }
            (true, false) => options.sidecar_url = None,
            (false, true) => options.database_url = None,
            (false, false) => {}
        }
        // An empty variable counts as none. An empty option is a mistake, which is told where it is read.
        for (option, is_typed) in [
            (&mut options.database_url, is_database),
            (&mut options.sidecar_url, is_sidecar),
            (&mut options.token, is_token),
        ] {
            option.take_if(|value| value.is_empty() && !is_typed);
        }
        Ok(Self(options))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Address {
    fn augment_args(command: Command) -> Command {
        Options::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Options::augment_args_for_update(command)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("say which database to ask with --database-url (DATABASE_URL), or which sidecar with --sidecar-url")]
    Nowhere,
    #[error("args are not JSON: {0}")]
    Args(serde_json::Error),
    #[error("--sidecar-url: {0}")]
    Url(String),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{}", .0.to_operator())]
    Unreachable(#[from] DatabaseError),
    #[error("the sidecar does not answer: {}", chain(.0))]
    NoAnswer(reqwest::Error),
    #[error("this system cannot send requests: {}", chain(.0))]
    Client(reqwest::Error),
    #[error("{}", told_with_advice(.0))]
    Sql(#[from] tokio_postgres::Error),
    #[error("{0}")]
    Refused(String),
    /// Repeated without a look, an event would be there twice.
    #[error(
        "{0}\nIt is not known whether the event was committed: look with livestore-sidecar events before you commit it again."
    )]
    Unknown(Box<SourceError>),
    #[error("{name}: {error}")]
    File { name: String, error: std::io::Error },
    #[error(transparent)]
    System(#[from] std::io::Error),
}

impl SourceError {
    pub fn file(name: &str) -> impl FnOnce(std::io::Error) -> Self {
        let name = name.to_owned();
        move |error| Self::File { name, error }
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Self::File { .. } | Self::System(_) | Self::Client(_) => 1,
            Self::Nowhere | Self::Args(_) | Self::Url(_) | Self::Settings(_) => 2,
            Self::Unreachable(_) | Self::NoAnswer(_) | Self::Unknown(_) => 3,
            Self::Sql(_) | Self::Refused(_) => 4,
        }
    }
}

/// The same as [`told`]. Of what the schema does not have, the error of Postgres says only that it is not there.
fn told_with_advice(error: &tokio_postgres::Error) -> String {
    let missing = [SqlState::UNDEFINED_TABLE, SqlState::UNDEFINED_FUNCTION, SqlState::INVALID_SCHEMA_NAME];
    let is_missing = error
        .as_db_error()
        .is_some_and(|error| missing.contains(error.code()) && error.message().contains("livestore"));
    match is_missing {
        true => format!(
            "{}\nlivestore_sync is not installed in this database, or in an older version: {INSTALL}",
            told(error)
        ),
        false => told(error),
    }
}

/// A row of a list.
pub struct Row {
    /// As it came: args byte for byte, but for line breaks.
    pub json: String,
    /// Not read as values: args may have numbers and strings that JSON allows and serde cannot hold.
    fields: HashMap<String, Box<RawValue>>,
}

impl Row {
    pub fn read(json: String) -> Result<Self, serde_json::Error> {
        let fields = serde_json::from_str(&json)?;
        Ok(Self { json, fields })
    }

    /// A field as JSON; none if it is null.
    pub fn raw(&self, field: &str) -> Option<&str> {
        self.fields.get(field).map(|value| value.get()).filter(|value| *value != "null")
    }

    pub fn text(&self, field: &str) -> Option<String> {
        serde_json::from_str(self.raw(field)?).ok()
    }

    pub fn number(&self, field: &str) -> Option<i64> {
        serde_json::from_str(self.raw(field)?).ok()
    }
}

/// An event, as a sidecar takes it: with its args byte for byte, of which `null` is another value than none.
#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<&'a RawValue>,
}

/// One of them, connected.
pub enum Source {
    Database(tokio_postgres::Client),
    Sidecar { url: Url, client: reqwest::Client },
}

impl Address {
    /// To write: of several hosts of a database, the one that allows it.
    pub async fn open(&self) -> Result<Source, SourceError> {
        self.open_by(connect_once).await
    }

    /// To read: of several hosts the one that allows writes, which has everything; a standby will do if there is no other.
    pub async fn open_to_read(&self) -> Result<Source, SourceError> {
        let opened = match self.open_by(connect_once).await {
            Err(SourceError::Unreachable(DatabaseError::ReadOnly)) => self.open_by(connect_once_to_read).await,
            opened => opened,
        };
        opened?.but_no_front().await
    }

    async fn open_by(
        &self,
        connect: impl AsyncFnOnce(postgres::Address) -> Result<Connected, DatabaseError>,
    ) -> Result<Source, SourceError> {
        if let Some(url) = &self.0.sidecar_url {
            return self.sidecar(url).await;
        }
        let url = self.0.database_url.as_deref().ok_or(SourceError::Nowhere)?;
        let root_certificate = self.0.database_root_certificate.as_deref();
        let address = postgres::address("--database-url", url, root_certificate)?;
        IS_WARNED.call_once(|| warn_if_unencrypted("--database-url", url, root_certificate));
        let Connected { client, connection, .. } = connect(address).await?;
        tokio::spawn(connection);
        client.batch_execute("set client_min_messages = warning").await?;
        Ok(Source::Database(client))
    }

    async fn sidecar(&self, url: &str) -> Result<Source, SourceError> {
        // Of localhost:8787, localhost is the scheme.
        let is_http = |url: &Url| matches!(url.scheme(), "http" | "https");
        let url: Option<Url> = url.parse().ok().filter(is_http);
        let url = url.ok_or_else(|| SourceError::Url("begin it with http:// or https://".into()))?;
        if is_unencrypted(&url) {
            IS_WARNED.call_once(|| {
                eprintln!(
                    "livestore-sidecar: --sidecar-url: tokens and events cross the network unencrypted; begin it with https://, unless nobody else is on that network"
                );
            });
        }
        let origin = url.origin().ascii_serialization();
        let origin = HeaderValue::from_str(&origin).map_err(|_| SourceError::Url("it has no host".into()))?;
        // No page can set the second one. It counts where a proxy replaces the header Host, which has to fit the origin.
        let own = (HeaderName::from_static("sec-fetch-site"), HeaderValue::from_static("same-origin"));
        let mut headers = HeaderMap::from_iter([(ORIGIN, origin), own]);
        let build = |headers: HeaderMap| {
            let builder = reqwest::Client::builder().timeout(PATIENCE).redirect(reqwest::redirect::Policy::none());
            builder.default_headers(headers).build().map_err(SourceError::Client)
        };
        if let Some(token) = &self.0.token {
            let form = serde_urlencoded::to_string([("key", token)]).unwrap_or_default();
            let request = build(headers.clone())?.post(endpoint(&url, "login")?);
            let request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
            let answer = request.send().await.map_err(SourceError::NoAnswer)?;
            let cookie = answer
                .headers()
                .get(SET_COOKIE)
                .and_then(|cookie| cookie.to_str().ok()?.split(';').next()?.parse().ok());
            match cookie {
                Some(cookie) => headers.insert(COOKIE, cookie),
                None if answer.status() == StatusCode::UNAUTHORIZED => {
                    let page = answer.text().await.unwrap_or_default();
                    let reason = problem_of(&page).map(|problem| format!(": {problem}")).unwrap_or_default();
                    return Err(SourceError::Refused(format!("the sidecar does not take this token{reason}")));
                }
                None => return Err(refusal(answer).await),
            };
        }
        Ok(Source::Sidecar { url, client: build(headers)? })
    }
}

/// Whether it leads to another machine without TLS.
fn is_unencrypted(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    // An address of IPv6 has brackets.
    url.scheme() == "http" && !is_this_machine(host.trim_matches(['[', ']']))
}

pub fn endpoint(url: &Url, path: &str) -> Result<Url, SourceError> {
    url.join(&format!("/inspector/{path}")).map_err(|error| SourceError::Url(error.to_string()))
}

/// The problem that the inspector's page for logging in tells, as text.
fn problem_of(page: &str) -> Option<String> {
    let (_, rest) = page.split_once("role=\"alert\">")?;
    let (problem, _) = rest.split_once('<')?;
    let escapes = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&amp;", "&")];
    Some(escapes.iter().fold(problem.to_owned(), |text, (escape, character)| text.replace(escape, character)))
}

fn unreadable(error: serde_json::Error) -> SourceError {
    SourceError::Refused(format!("the answer cannot be read: {error}"))
}

pub async fn refusal(answer: Response) -> SourceError {
    match answer.status() {
        StatusCode::UNAUTHORIZED => {
            let is_text =
                answer.headers().get(CONTENT_TYPE).is_some_and(|content| content.as_bytes().starts_with(b"text/plain"));
            let text = answer.text().await.unwrap_or_default();
            let reason = if is_text { Some(text) } else { problem_of(&text) };
            SourceError::Refused(match reason.as_deref().map(str::trim) {
                None | Some("" | "log in to look") => "the sidecar asks for --token (LIVESTORE_TOKEN)".into(),
                Some(reason) => format!(
                    "the sidecar does not take this token any more: {}",
                    reason.chars().take(500).collect::<String>()
                ),
            })
        }
        status => {
            let text = answer.text().await.unwrap_or_default();
            if status == StatusCode::NOT_FOUND {
                let reason = text.trim().strip_prefix("the inspector is off: ");
                return SourceError::Refused(match reason {
                    Some(reason) => format!("this sidecar does not serve its inspector: {reason}"),
                    None => "this sidecar does not serve its inspector: start it with --inspector on".into(),
                });
            }
            SourceError::Refused(format!("{}: {}", status.as_u16(), text.chars().take(500).collect::<String>()))
        }
    }
}

/// Asks for a whole log. Its end is as far away as the log is long.
pub async fn get(client: &reqwest::Client, url: Url) -> Result<Response, SourceError> {
    let answer = client.get(url).timeout(LONG).send().await.map_err(SourceError::NoAnswer)?;
    if answer.status().is_success() { Ok(answer) } else { Err(refusal(answer).await) }
}

impl Source {
    /// Refuses the front of shards, which has neither events nor what reads them.
    pub async fn but_no_front(self) -> Result<Self, SourceError> {
        if let Self::Database(client) = &self {
            refuse_front(client).await.map_err(|error| match error {
                DatabaseError::Front => SourceError::Refused(error.to_string()),
                error => error.into(),
            })?;
        }
        Ok(self)
    }

    pub async fn list(&self, list: &List) -> Result<Vec<Row>, SourceError> {
        let lines = match self {
            Self::Database(client) => list.ask(client).await?,
            Self::Sidecar { url, client } => {
                let mut url = endpoint(url, "api/list")?;
                let numbers = [("after", list.after.to_string()), ("limit", list.limit.to_string())];
                url.query_pairs_mut()
                    .append_pair("of", list.of.name())
                    .append_pair("id", &list.id)
                    .extend_pairs(numbers);
                let answer = client.get(url).send().await.map_err(SourceError::NoAnswer)?;
                if !answer.status().is_success() {
                    return Err(refusal(answer).await);
                }
                let text = answer.text().await.map_err(SourceError::NoAnswer)?;
                text.lines().map(str::to_owned).collect()
            }
        };
        lines.into_iter().map(|line| Row::read(line).map_err(unreadable)).collect()
    }

    /// The row of a store.
    pub async fn store(&self, id: &str) -> Result<Option<Row>, SourceError> {
        // The id that is the beginning of all others is the first of them.
        let list = List { of: ListKind::Stores, id: id.to_owned(), after: 0, limit: 10 };
        let stores = self.list(&list).await?;
        Ok(stores.into_iter().find(|store| store.text("store_id").as_deref() == Some(id)))
    }

    /// Commits an event, and returns its number.
    pub async fn commit(&self, store: &str, name: &str, args: Option<Box<RawValue>>) -> Result<i64, SourceError> {
        match self {
            Self::Database(client) => {
                let sql = "select livestore.commit($1, $2, $3::text::json, 'server', 'command line')";
                let args = args.as_ref().map(|args| args.get());
                let committed = client.query_one(sql, &[&store, &name, &args]).await;
                let row = committed.map_err(|error| match error.as_db_error() {
                    Some(refused) if refused.parsed_severity() == Some(Severity::Error) => error.into(),
                    // A server that ends a session does not say how its commit has ended, either.
                    _ => SourceError::Unknown(Box::new(error.into())),
                })?;
                Ok(row.try_get(0)?)
            }
            Self::Sidecar { url, client } => {
                let body = serde_json::to_string(&Body { id: store, name, args: args.as_deref() })
                    .map_err(SourceError::Args)?;
                let request = client.post(endpoint(url, "api/commit")?).header("content-type", "application/json");
                let lost = |error: reqwest::Error| match error.is_connect() {
                    true => SourceError::NoAnswer(error),
                    false => SourceError::Unknown(Box::new(SourceError::NoAnswer(error))),
                };
                let answer = request.body(body).send().await.map_err(lost)?;
                let status = answer.status();
                if !status.is_success() {
                    let refusal = refusal(answer).await;
                    // The database may have been lost at the commit, or the sidecar behind a proxy.
                    return Err(if status.is_server_error() {
                        SourceError::Unknown(Box::new(refusal))
                    } else {
                        refusal
                    });
                }
                let text = answer.text().await.map_err(lost)?;
                let answer: Value = serde_json::from_str(&text).map_err(unreadable)?;
                Ok(answer["seq_num"].as_i64().unwrap_or_default())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sidecar_is_asked_without_tls_on_this_machine_only() {
        for (url, expected) in [
            ("http://sync.example.com:8787", true),
            ("http://10.0.0.7:8787", true),
            ("http://[2001:db8::1]:8787", true),
            ("https://sync.example.com", false),
            ("http://localhost:8787", false),
            ("http://127.0.0.1:8787", false),
            ("http://[::1]:8787", false),
        ] {
            assert_eq!(is_unencrypted(&url.parse().unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn a_row_is_read_whatever_is_in_its_args() {
        for args in [r#"{"x": "\ud83d"}"#, r#"{"x": 1e400}"#, r#"{"x": 12345678901234567890.0, "x": 1}"#, "\"a\""] {
            let json = format!(r#"{{"seq_num" : 7, "name" : "a\tb", "args" : {args}, "client_id" : null}}"#);
            let row = Row::read(json.clone()).unwrap();
            assert_eq!((row.number("seq_num"), row.text("name").as_deref()), (Some(7), Some("a\tb")));
            assert_eq!((row.json.as_str(), row.raw("args"), row.text("client_id")), (&*json, Some(args), None));
        }
        assert!(Row::read("[]".into()).is_err() && Row::read("<html>".into()).is_err());
    }
}
