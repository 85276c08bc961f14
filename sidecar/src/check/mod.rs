//! `livestore-sidecar check`: looks at what serving takes, and says what is wrong and how to fix it.

mod database;
mod events;
mod replication;
mod rights;
mod shards;
mod standbys;

#[cfg(feature = "sharding")]
pub use self::shards::MEMBERS;

use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::time::timeout;

use crate::auth::{Auth, check_jwks};
use crate::config::Config;
use crate::postgres::{Database, cancellations_ended};
use crate::server::listen_socket::bind;
use crate::server::{ConnectionSettings, Timeouts};
use crate::settings::SettingsError;

/// The time that other services may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// For how long nginx and AWS' load balancer keep a connection for the next request.
const PROXIES_KEEP: Duration = Duration::from_secs(60);

/// How a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Good,
    /// It works, but not as well or as safely as it could.
    Advice,
    /// Serving, or what is promised, fails.
    Wrong,
}

/// Findings, printed as they come if somebody waits for them.
#[derive(Default)]
struct Report {
    findings: Vec<(Kind, String)>,
    is_printed: bool,
    /// The shard that is looked at.
    shard: Option<Arc<str>>,
}

impl Report {
    fn good(&mut self, text: impl Display) {
        self.add(Kind::Good, text);
    }

    fn advise(&mut self, text: impl Display) {
        self.add(Kind::Advice, text);
    }

    fn wrong(&mut self, text: impl Display) {
        self.add(Kind::Wrong, text);
    }

    fn add(&mut self, kind: Kind, text: impl Display) {
        let text = match &self.shard {
            Some(shard) => format!("shard {shard}: {text}"),
            None => text.to_string(),
        };
        if self.is_printed {
            let name = match kind {
                Kind::Good => "ok",
                Kind::Advice => "advice",
                Kind::Wrong => "WRONG",
            };
            // A reader that stops early still gets the exit code.
            let _ = writeln!(std::io::stdout(), "{name:<7} {text}");
        }
        self.findings.push((kind, text));
    }

    fn count(&self, kind: Kind) -> usize {
        self.findings.iter().filter(|(other, _)| *other == kind).count()
    }
}

/// The findings about the settings and the database of a sidecar that serves.
pub async fn findings(config: &Config, database: Database) -> Vec<(Kind, String)> {
    let mut report = Report::default();
    look(config, &mut report);
    database::look(config, database, &mut report).await;
    report.findings
}

/// Prints a line for each thing that was looked at. Exit code 0 if nothing is wrong, else 1.
pub fn run(config: &Config) -> ExitCode {
    let mut report = Report { is_printed: true, ..Report::default() };
    look(config, &mut report);
    address(config, &mut report);
    match (config.database.database(), tokio::runtime::Builder::new_current_thread().enable_all().build()) {
        (Ok(database), Ok(runtime)) => runtime.block_on(async {
            keys(config, &mut report).await;
            electric(config, &mut report).await;
            match config.database.shards {
                true => shards::look(config, database, &mut report).await,
                false => database::look(config, database, &mut report).await,
            }
            let _ = timeout(PATIENCE, cancellations_ended()).await;
        }),
        (Err(problem), _) => report.wrong(problem),
        (_, Err(error)) => report.wrong(error),
    }
    let (wrong, advice) = (report.count(Kind::Wrong), report.count(Kind::Advice));
    let _ = writeln!(std::io::stdout(), "\n{wrong} wrong, {advice} to think about");
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether the identity provider answers. While it does not, clients wait.
async fn keys(config: &Config, report: &mut Report) {
    if let Some(url) = &config.auth.jwks_url {
        match check_jwks(url).await {
            Ok(()) => report.good("--jwks-url has keys"),
            Err(problem) => report.wrong(SettingsError::of("--jwks-url")(problem)),
        }
    }
}

/// Whether the Electric server behind this sidecar answers. While it does not, Postgres is read.
async fn electric(config: &Config, report: &mut Report) {
    let Some(url) = config.protocols.electric.url() else {
        return;
    };
    let health = format!("{}/v1/health", url.trim_end_matches('/'));
    match reqwest::Client::new().get(health).timeout(PATIENCE).send().await {
        Ok(answer) if answer.status() == StatusCode::OK => {
            report.good("the Electric server of --electric-url is active")
        }
        Ok(answer) => {
            report.advise(format!("--electric-url: its /v1/health answers {}; is it starting?", answer.status()))
        }
        Err(_) => report.wrong(
            "--electric-url: nobody answers there: start Electric, or correct the URL; until then Postgres is read",
        ),
    }
}

/// Whether there is room for a sidecar.
fn address(config: &Config, report: &mut Report) {
    let server = &config.server;
    let listen = Some(("--listen", server.listen, server.reuse_port));
    let health = server.health_listen.map(|address| ("--health-listen", address, false));
    for (option, address, shared) in listen.into_iter().chain(health) {
        match bind(address, shared) {
            Ok(_) if shared => report.good(format!("{address} is free, or shared by --reuse-port")),
            Ok(_) => report.good(format!("{address} is free")),
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                report.advise(format!("{address} is taken: by a sidecar that runs? Otherwise choose another {option}"));
            }
            Err(error) => report.wrong(format!("{option} {address}: {error}")),
        }
    }
    if server.reuse_port && server.health_listen.is_none() {
        report.advise("--reuse-port without --health-listen: a probe may reach another sidecar on this port: give each a --health-listen of its own, such as 127.0.0.1:8801 and 127.0.0.1:8802");
    }
}

/// Checks that need no other service.
fn look(config: &Config, report: &mut Report) {
    let auth = &config.auth;
    for problem in config.problems().chain(auth.check_address(config.server.listen).err()) {
        report.wrong(problem);
    }
    for variable in config.unknown_variables.iter().filter(|variable| variable.is_misspelled) {
        report.wrong(&variable.text);
    }
    if report.count(Kind::Wrong) == 0 {
        report.good("the settings go together");
    }
    for variable in config.unknown_variables.iter().filter(|variable| !variable.is_misspelled) {
        report.advise(&variable.text);
    }
    if auth.auth == Auth::Jwt {
        for (option, is_given) in
            [("--jwt-audience", auth.jwt_audience.is_some()), ("--jwt-issuer", auth.jwt_issuer.is_some())]
        {
            if !is_given && auth.jwks_url.is_some() {
                report
                    .advise(format!("{option}: without, tokens that the provider made for others are good here, too"));
            }
        }
    } else if !config.server.listen.ip().is_loopback() {
        report.advise(
            "--auth none: everybody who reaches this address reads and writes every store; --auth jwt asks for tokens",
        );
    } else if !config.log.has_authorizer()
        && let Ok(hosts) = config.gate.hosts(auth)
    {
        // Behind a proxy, every client is local.
        for host in hosts.beyond_this_machine() {
            report.advise(format!(
                "--allowed-hosts {host}: without --auth jwt, everyone who reaches this sidecar under that name, for example through a proxy, reads and writes every store"
            ));
        }
        if auth.insecure_no_auth && (config.gate.allowed_hosts.is_empty() || config.gate.cors_origins.is_empty()) {
            report.advise(
                "--insecure-no-auth: everyone who reaches this sidecar, for example through a proxy, and every web page in a browser of this machine reads and writes every store; leave it out, or list --allowed-hosts and --cors-origins",
            );
        }
    }
    if config.gate.cors_origins.iter().any(|origin| origin == "*") {
        report.advise("--cors-origins *: pages of every origin are served; list those of your app");
    }
    if auth.auth == Auth::None && config.gate.allowed_hosts.iter().any(|host| host == "*") {
        report.advise(
            "--allowed-hosts *: without authentication, pages whose name resolves to this machine read everything; list the names that clients use",
        );
    }
    let ConnectionSettings { max_connections, timeouts: Timeouts { idle_close, .. }, .. } = config.server.connections;
    if idle_close <= PROXIES_KEEP {
        report.advise(format!(
            "--idle-close is {}: proxies keep connections for 60 s or more, and some of their requests will meet one that is being closed",
            humantime::format_duration(idle_close)
        ));
    }
    config.database.unencrypted().for_each(|advice| report.advise(advice));
    let is_local =
        |url: &str| ["http://localhost", "http://127.0.0.1", "http://[::1]"].iter().any(|local| url.starts_with(local));
    if config.log.authorize_url.as_deref().is_some_and(|url| url.starts_with("http://") && !is_local(url)) {
        report.advise(
            "--authorize-url: tokens cross the network unencrypted, and somebody there could answer; use https, unless nobody else is on that network",
        );
    }
    if auth.has_blank_end() {
        report.advise(
            "--jwt-secret begins or ends with white space, such as a line break: tokens that are signed without it are refused",
        );
    }
    if auth.takes_short_secret() {
        report.advise(
            "--insecure-short-secret: --jwt-secret has less than 32 bytes, and whoever guesses it can make tokens; openssl rand -base64 32 makes one",
        );
    }
    let files = rlimit::Resource::NOFILE.get_hard().unwrap_or(u64::MAX);
    let needed = max_connections as u64 + u64::from(config.database.database_connections) + 32;
    if files < needed {
        report.advise(format!(
            "--max-connections is {}, but this system gives a process {files} files: raise the limit (LimitNOFILE= in systemd, ulimit -Hn) to {needed}",
            max_connections
        ));
    }
}
