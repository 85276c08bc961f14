//! `livestore-sidecar dev`: a sidecar with a Postgres cluster of its own, for a developer's machine. Both end together; the data
//! stay.

mod banner;
mod cluster;
mod programs;

use std::fs::{self, File, TryLockError};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use axum::Router;
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::task::AbortOnDropHandle;
use tower_http::services::ServeDir;

use self::banner::Banner;
use self::cluster::{Cluster, ClusterError};
use self::programs::{NoPostgres, Programs};
use crate::config::Config;
use crate::install::{Flavour, Install, InstallError};
use crate::postgres::{DatabaseError, connect_once, told};
use crate::process;
use crate::settings::SettingsError;
use crate::settings::environment::Unknown;
use crate::settings::values::address;
use crate::shutdown::Signals;
use crate::telemetry::chain;

/// The role that the cluster belongs to, and its database.
const NAME: &str = "livestore";

/// The role with which the sidecar connects.
const SIDECAR_ROLE: &str = "livestore_sidecar";

/// The folder of the data, unless another one is named.
const DATA: &str = ".livestore";

const GITIGNORE: &str = "# Made by livestore-sidecar dev: secrets and data of this machine.\n*\n";

#[derive(Debug, Args)]
// The database is optional, and nobody waits for clients when Ctrl-C is pressed.
#[command(mut_arg("database_url", |argument| argument.required(false).help(DATABASE_URL)))]
#[command(mut_arg("shutdown_delay", |argument| argument.default_value("0s")))]
pub struct Dev {
    /// Folder of the cluster, of its secrets and of a file `env` for scripts. Created if it does not exist.
    #[arg(long, env = "LIVESTORE_DATA", default_value = DATA, value_name = "FOLDER")]
    data: PathBuf,

    /// Folder of Postgres' programs (initdb, pg_ctl). Without it: what is on the PATH, then where Debian, Red Hat, Homebrew and
    /// Postgres.app put them.
    #[arg(long, env = "LIVESTORE_POSTGRES_BIN", value_name = "FOLDER")]
    postgres_bin: Option<PathBuf>,

    /// Without it: what is installed in the cluster already, or else native where this Postgres has the library.
    #[arg(long, value_enum)]
    flavour: Option<Flavour>,

    /// Serve the files of this folder, too: an app to try this with, as `vite build` makes it.
    #[arg(long, env = "LIVESTORE_APP", value_name = "FOLDER")]
    app: Option<PathBuf>,

    /// Address and port of the app.
    #[arg(long, env = "LIVESTORE_APP_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_parser = address)]
    app_listen: SocketAddr,

    #[command(flatten)]
    config: Config,
}

const DATABASE_URL: &str = "Another database, instead of a private cluster: one that livestore_sync is installed in";

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    NoPostgres(#[from] NoPostgres),
    #[error(
        "another `make run` or `livestore-sidecar dev` uses {}: stop it, or choose another --data and --listen", .0.display()
    )]
    InUse(PathBuf),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{}", chain(.0))]
    Unreachable(#[from] DatabaseError),
    #[error("{}", told(.0))]
    Sql(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Install(#[from] InstallError),
    #[error("--app {}: this folder has no index.html", .0.display())]
    NoApp(PathBuf),
    #[error("--app-listen {0}: {1}; stop whoever serves there, or choose another address")]
    App(SocketAddr, #[source] std::io::Error),
    #[error("{}: {error}", .path.display())]
    File {
        path: PathBuf,
        #[source]
        error: std::io::Error,
    },
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::File { .. } => 1,
            Self::NoPostgres(_) | Self::InUse(_) | Self::Settings(_) | Self::NoApp(_) => 2,
            Self::Cluster(_) | Self::Unreachable(_) => 3,
            Self::Sql(_) => 4,
            Self::Install(error) => error.exit_code(),
            Self::App(..) => 5,
        }
    }

    fn of(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::File { path, error }
    }
}

impl Dev {
    /// Serves until a signal ends it.
    pub fn run(mut self, unknown_variables: Vec<Unknown>) -> ExitCode {
        self.config.unknown_variables = unknown_variables;
        process::with_signals(async |signals| match self.live(signals).await {
            Ok(code) => code,
            Err(failure) => {
                eprintln!("livestore-sidecar: {failure}");
                ExitCode::from(failure.exit_code())
            }
        })
    }

    async fn live(mut self, mut signals: Signals) -> Result<ExitCode, Failure> {
        let mut hangup = Hangup::from_now_on().map_err(Failure::of(&self.data))?;
        if let Some(app) = self.app.as_ref().filter(|app| !app.join("index.html").is_file()) {
            return Err(Failure::NoApp(app.clone()));
        }
        let folder = Folder::create(&self.data)?;
        let listen = self.config.server.listen;
        // A shell that has sourced the file `env` of an earlier run does not name another database.
        let given = self.config.database.url().map(str::to_owned).filter(|url| Some(url) != folder.url().as_ref());
        // Neither does an empty variable. An empty option is a mistake.
        let has_empty_variable = || std::env::var_os("DATABASE_URL").is_some_and(|value| value.is_empty());
        let given = given.filter(|url| !url.is_empty() || !has_empty_variable());
        let (cluster, url, kept) = match given {
            Some(url) => {
                let database = banner::tell_of_other_database(&url, &folder.0);
                (None, url, database)
            }
            None => {
                let starting = self.start_cluster(&folder);
                let (cluster, url) = tokio::select! {
                    biased;
                    _ = signals.requested() => return Ok(ExitCode::SUCCESS),
                    () = hangup.requested() => return Ok(ExitCode::SUCCESS),
                    started = starting => started?,
                };
                self.config.database.set_url(url.replacen(NAME, SIDECAR_ROLE, 1));
                let kept = if cluster.folder.starts_with(&folder.0) { &folder.0 } else { &cluster.folder };
                let kept = kept.display().to_string();
                (Some(cluster), url, kept)
            }
        };
        let is_own = cluster.is_some();
        // The receivers of another database refuse what is signed with a secret of this folder, and that makes dead letters. Without a
        // secret nothing is sent, and nothing counts as a failure.
        let secret = if is_own {
            // In the form of a webhook's secret: every text of these digits is base64.
            Some(format!("whsec_{}", folder.secret("webhook-secret")?))
        } else {
            None
        };
        let secret = secret.filter(|secret| self.config.webhooks.serve_development(secret));
        let app = match &self.app {
            Some(files) => Some(serve_app(files, self.app_listen).await?),
            None => None,
        };
        let banner = Banner {
            listen,
            has_inspector: self.config.inspector.serves(listen),
            has_demo: self.config.demo.demo,
            dialects: self.config.protocols.dialects.clone(),
            app: app.as_ref().map(|_| self.app_listen),
            // The password of another database is not for a terminal.
            database: if is_own { format!("'{url}'") } else { r#""$DATABASE_URL""#.into() },
            kept,
            env: folder.0.join("env"),
        };
        let announced = async {
            banner.ready().await;
            // Not before: a database that is never reached does not take the place of the folder's own in this file.
            folder.write_env(&url, listen, secret.as_ref())?;
            banner.print();
            Ok::<_, Failure>(())
        };
        let code = tokio::select! {
            // If another process has the address, this ends before that process is asked whether it is ready.
            biased;
            code = process::live(self.config, signals) => code,
            () = hangup.requested() => ExitCode::SUCCESS,
            Err(failure) = announced => return Err(failure),
        };
        drop((app, cluster));
        Ok(code)
    }

    /// Starts the cluster, and installs livestore_sync in its database.
    async fn start_cluster(&self, folder: &Folder) -> Result<(Cluster, String), Failure> {
        let lock = folder.lock()?;
        let password = folder.secret("password")?;
        let programs = Programs::find(self.postgres_bin.as_deref(), cluster::version(&folder.0))?;
        let cluster = Cluster::start(lock, &folder.0, &programs, &password)?;
        fs::write(folder.0.join("port"), cluster.port.to_string()).map_err(Failure::of(&folder.0))?;
        let url = url(&password, cluster.port);

        let address = |url: &str| crate::postgres::address("--database-url", url, None);
        let maintenance = connect_once(address(&format!("{}postgres", url.trim_end_matches(NAME)))?).await?;
        tokio::spawn(maintenance.connection);
        if maintenance.client.query_opt("select from pg_database where datname = $1", &[&NAME]).await?.is_none() {
            maintenance.client.batch_execute(&format!("create database {NAME}")).await?;
        }
        Install::with(url.clone(), self.flavour, SIDECAR_ROLE.into(), password).carry_out().await?;
        let database = connect_once(address(&url)?).await?;
        tokio::spawn(database.connection);
        let admin = match self.config.protocols.has_admin() {
            true => format!("grant livestore_admin to {SIDECAR_ROLE}"),
            false => format!("revoke livestore_admin from {SIDECAR_ROLE}"),
        };
        database.client.batch_execute(&admin).await?;
        Ok((cluster, url))
    }
}

/// SIGHUP: a terminal that is closed ends this, too. None where it is ignored, as under `nohup`.
struct Hangup(Option<Signal>);

impl Hangup {
    fn from_now_on() -> std::io::Result<Self> {
        // Before the handler, which takes the place of that. Only Linux has this file: elsewhere a terminal ends this under `nohup`, too.
        let is_ignored = fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status));
        if is_ignored { Ok(Self(None)) } else { signal(SignalKind::hangup()).map(|signal| Self(Some(signal))) }
    }

    /// Cancel safe.
    async fn requested(&mut self) {
        match &mut self.0 {
            Some(signal) => _ = signal.recv().await,
            None => std::future::pending().await,
        }
    }
}

/// Whether SIGHUP, the first of all signals, is in the mask of those that a process ignores.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// Serves the files of a folder until the handle is dropped.
async fn serve_app(files: &Path, listen: SocketAddr) -> Result<AbortOnDropHandle<()>, Failure> {
    let listener = TcpListener::bind(listen).await.map_err(|error| Failure::App(listen, error))?;
    let router = Router::new().fallback_service(ServeDir::new(files));
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        // It has no end but the handle's.
        let _ = axum::serve(listener, router).await;
    })))
}

/// The folder that `--data` names, as an absolute path.
struct Folder(PathBuf);

impl Folder {
    fn create(path: &Path) -> Result<Self, Failure> {
        let is_new = !path.exists();
        let folder =
            fs::create_dir_all(path).and_then(|()| path.canonicalize()).map(Self).map_err(Failure::of(path))?;
        // Secrets and a cluster do not belong in the repository of an app. A folder that somebody else has made is left as it is.
        let ignore = folder.0.join(".gitignore");
        if (is_new || folder.0.ends_with(DATA)) && !ignore.exists() {
            fs::write(&ignore, GITIGNORE).map_err(Failure::of(&ignore))?;
        }
        Ok(folder)
    }

    /// Held as long as this process lives. A cluster that runs although nobody holds it was left behind by a process that was
    /// killed.
    fn lock(&self) -> Result<File, Failure> {
        let path = self.0.join("lock");
        let file = File::options().create(true).append(true).open(&path).map_err(Failure::of(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(Failure::InUse(self.0.clone())),
            Err(TryLockError::Error(error)) => Err(Failure::File { path, error }),
        }
    }

    /// A secret in the file of this name, made at the first start: 48 hexadecimal digits.
    fn secret(&self, name: &str) -> Result<String, Failure> {
        let path = self.0.join(name);
        if let Some(secret) = read(&path) {
            return Ok(secret);
        }
        let mut bytes = [0; 24];
        File::open("/dev/urandom").and_then(|mut random| random.read_exact(&mut bytes)).map_err(Failure::of(&path))?;
        let secret: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        write_secret(&path, &secret).map_err(Failure::of(&path))?;
        Ok(secret)
    }

    /// The database of the last run, if there was one.
    fn url(&self) -> Option<String> {
        Some(url(&read(&self.0.join("password"))?, read(&self.0.join("port"))?.parse().ok()?))
    }

    /// Writes the variables that scripts take, for a shell to source.
    fn write_env(&self, url: &str, listen: SocketAddr, webhook_secret: Option<&String>) -> Result<(), Failure> {
        let path = self.0.join("env");
        let quoted = url.replace('\'', r"'\''");
        let mut env =
            format!("export DATABASE_URL='{quoted}'\nexport LIVESTORE_URL=http://{}\n", banner::reachable(listen));
        if let Some(secret) = webhook_secret {
            env += &format!("export LIVESTORE_WEBHOOK_SECRET={secret}\n");
        }
        write_secret(&path, &env).map_err(Failure::of(&path))
    }
}

/// The database as the role that it belongs to.
fn url(password: &str, port: u16) -> String {
    format!("postgres://{NAME}:{password}@127.0.0.1:{port}/{NAME}")
}

/// The line in a file, if there is one.
fn read(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|line| !line.is_empty())
}

/// A file that nobody else may read, in place of the one that is there.
fn write_secret(path: &Path, text: &str) -> std::io::Result<()> {
    if path.exists() {
        fs::remove_file(path)?;
    }
    File::options().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hangup_that_is_ignored_is_in_the_mask_of_the_process() {
        for (mask, is_ignored) in [("0000000000000001", true), ("fffffffe7ffbfeff", true), ("0000000000001000", false)]
        {
            let status = format!("Name:\tdev\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\nSigCgt:\t0000000000000001\n");
            assert_eq!(ignores_hangup(&status), is_ignored, "{mask}");
        }
        assert!(!ignores_hangup(""));
    }
}
