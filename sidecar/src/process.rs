//! The life of the serving process: start, serve, shut down.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{error, info, warn};

use crate::check;
use crate::config::Config;
use crate::gate::Gate;
use crate::inspector::{self, Checks, Inspector, Kind};
use crate::limits::memory::Memory;
use crate::log::{Databases, Live, Log};
use crate::postgres::{Database, DatabaseError, cancellations_ended};
use crate::protocols::Services;
use crate::relay::Relay;
use crate::server::listen_socket::{ListenError, ListenSocket};
use crate::server::{Server, ServerSettings, accept};
use crate::settings::SettingsError;
use crate::shutdown::{By, Ending, Signals};
use crate::telemetry::chain;
use crate::telemetry::{self, metrics};

/// The interval at which a database that is away is tried at start.
const START_RETRY: Duration = Duration::from_millis(250);

/// The time that telling other sidecars may take, and that statements may take to be cancelled if nothing was served.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the process ends other than by a signal. Each has an exit code of its own.
#[derive(Debug, thiserror::Error)]
enum Fatal {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    // The log line has the sources behind each text.
    #[error("the database did not come up within --database-wait: start Postgres, or correct --database-url")]
    Unreachable(#[source] DatabaseError),
    #[error(transparent)]
    Database(DatabaseError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("a task that never ends has ended: please report this, with the log")]
    Bug,
    #[error("the operating system refuses")]
    System(#[from] std::io::Error),
}

impl Fatal {
    fn exit_code(&self) -> u8 {
        match self {
            Self::System(_) | Self::Bug | Self::Listen(ListenError::System(_)) => 1,
            Self::Settings(_) | Self::Metrics(_) | Self::Listen(ListenError::NotAListener(_)) => 2,
            Self::Unreachable(_) => 3,
            Self::Database(_) => 4,
            Self::Listen(ListenError::Taken(..) | ListenError::NotShared(..)) => 5,
        }
    }
}

/// Serves until a signal ends it.
pub fn run(config: Config) -> ExitCode {
    with_signals(async |signals| live(config, signals).await)
}

/// Runs what the process is there for. Signals are caught from the beginning.
pub fn with_signals(life: impl AsyncFnOnce(Signals) -> ExitCode) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("livestore-sidecar: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(async {
        match Signals::catch() {
            Ok(signals) => life(signals).await,
            Err(error) => {
                eprintln!("livestore-sidecar: {error}");
                ExitCode::FAILURE
            }
        }
    });
    // Tasks that are still running are past the deadline.
    runtime.shutdown_background();
    code
}

/// Serves until one of the signals comes.
pub async fn live(config: Config, signals: Signals) -> ExitCode {
    // Before there is a log to write this problem to.
    if let Err(problem) = config.telemetry.check() {
        eprintln!("livestore-sidecar: {problem}");
        return ExitCode::from(2);
    }
    let traces = match telemetry::init(&config.telemetry, &Handle::current()) {
        Ok(traces) => traces,
        Err(error) => {
            eprintln!("livestore-sidecar: {error}");
            return ExitCode::from(2);
        }
    };
    // No reason to end: an application beside it may have variables of its own.
    for variable in &config.unknown_variables {
        warn!("{}", variable.text);
    }
    let result = async {
        let mut sidecar = Sidecar::start(config, signals).await?;
        match sidecar.serve().await {
            Ok(Some((serving, end))) => sidecar.shut_down(serving, end).await,
            unserved => {
                let _ = timeout(EXIT_TIMEOUT, end_tasks(&mut sidecar.tasks)).await;
                unserved.map(drop)
            }
        }
    };
    let result = result.await;
    if let Some(traces) = traces {
        traces.end();
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            error!(error = %chain(&fatal), "cannot go on");
            ExitCode::from(fatal.exit_code())
        }
    }
}

/// A sidecar that is started.
struct Sidecar {
    settings: ServerSettings,
    database_wait: Duration,
    socket: ListenSocket,
    server: Arc<Server>,
    router: Router,
    /// None of them ends by itself.
    tasks: JoinSet<()>,
    signals: Signals,
}

impl Sidecar {
    /// Builds everything from the settings, binds the addresses, and answers probes. Needs no database yet.
    async fn start(config: Config, signals: Signals) -> Result<Self, Fatal> {
        if let Some(problem) = config.problems().next() {
            return Err(problem.into());
        }
        let authentication = Arc::new(config.auth.authentication()?);
        let (whole, database) = (config.clone(), config.database.database()?);
        let webhooks = config.webhooks.webhooks()?;
        let metrics = metrics::install()?;
        // Each connection is a file; --max-connections limits how many there are.
        if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
            warn!(error = %chain(&error), "the limit of open files stays as it is");
        }
        // Before clients can come: another process may have the address.
        let probes = match config.server.health_listen {
            None => None,
            Some(address) => {
                Some(TcpListener::bind(address).await.map_err(|error| ListenError::Taken(address, error))?)
            }
        };
        let socket = ListenSocket::open(config.server.listen, config.server.reuse_port)?;
        config.auth.check_address(socket.address()?)?;

        let (ending, mut tasks) = (Ending::default(), JoinSet::new());
        tasks.spawn(metrics::maintain(metrics.clone()));
        let memory = Memory::new(config.gate.max_buffer_bytes, config.gate.max_buffer_bytes_per_client);
        let has_relay = config.protocols.has_relay() && config.live() == Live::Listen;
        if has_relay != config.protocols.has_relay() {
            info!("the peer relay is off: its devices hear of each other by notifications, and this sidecar polls");
        }
        let is_sharded = config.database.shards;
        let databases = match is_sharded {
            true => Databases::Shards(database.clone(), Box::new(config.database.clone())),
            false => Databases::One(database.clone()),
        };
        let log = Log::start(databases, config.log, webhooks, memory, authentication, ending.clone(), &mut tasks);
        let home = log.clone();
        let relay = has_relay.then(|| Relay::start(move || home.first_database(), &config.relay, &mut tasks));
        let dialects = config.protocols.dialects.clone();
        let gate = Arc::new(Gate::new(config.gate, &config.auth, dialects, log, ending)?);
        let address = socket.address()?;
        let has_inspector = config.inspector.serves(address);
        if has_inspector && is_sharded {
            info!("{}", inspector::SHARDS);
        }
        let inspector = (has_inspector && !is_sharded).then(|| {
            let is_local = address.ip().is_loopback() && whole.gate.allowed_hosts.is_empty();
            let checks = checks(whole, database);
            let (gate, metrics) = (Arc::clone(&gate), metrics.clone());
            Inspector::new(config.inspector, &config.auth, is_local, gate, metrics, checks)
        });
        let services = Services { gate, relay };
        let server = Arc::new(Server { services, metrics, is_open: AtomicBool::new(false), is_sharded });
        let router = Arc::clone(&server).router(config.protocols, inspector, config.demo.demo)?;
        if let Some(listener) = probes {
            // To the very end of the process.
            let router = Arc::clone(&server).probes();
            tokio::spawn(accept::serve(listener, router, config.server.connections, Ending::default()));
        }
        let database_wait = config.database.database_wait;
        Ok(Self { settings: config.server, database_wait, socket, server, router, tasks, signals })
    }

    /// Accepts connections until a signal comes or something fails. `None` if a signal comes before that.
    async fn serve(&mut self) -> Result<Option<(JoinHandle<()>, Result<By, Fatal>)>, Fatal> {
        let Services { gate, .. } = &self.server.services;
        // The sidecar listens before it knows that the database is there, because clients cope better with waiting than with
        // reconnecting. But if another process listens on this address, clients are served there: then this one listens only
        // when the database is ready, or the other process has ended.
        tokio::select! {
            biased;
            _ = self.signals.requested() => return Ok(None),
            () = self.socket.is_ours() => {}
            ready = ready(&gate.log, self.database_wait) => ready?,
        }
        let listener = self.socket.listen()?;
        self.server.is_open.store(true, Ordering::Relaxed);
        let router = self.router.clone();
        let serving = tokio::spawn(accept::serve(listener, router, self.settings.connections, gate.ending.clone()));
        info!(listen = %self.socket.address()?, version = env!("CARGO_PKG_VERSION"), "serving");
        let end = tokio::select! {
            by = self.signals.requested() => Ok(by),
            Some(_) = self.tasks.join_next() => Err(Fatal::Bug),
            fatal = watch_database(&gate.log, self.database_wait) => Err(fatal),
        };
        Ok(Some((serving, end)))
    }

    /// Lets what is under way come to its end, within the deadline or until somebody insists.
    async fn shut_down(self, serving: JoinHandle<()>, end: Result<By, Fatal>) -> Result<(), Fatal> {
        let Self { settings, socket, server, mut signals, mut tasks, .. } = self;
        let Services { gate, relay } = &server.services;
        let shutting_down = async {
            let delay = if matches!(end, Ok(By::Manager)) { settings.shutdown_delay } else { Duration::ZERO };
            gate.ending.announce(delay);
            sleep(delay).await;
            socket.close().await;
            gate.ending.begin(settings.shutdown_deadline);
            gate.connections.close();
            let deadline = Instant::now() + settings.shutdown_deadline;
            let ended = timeout_at(deadline, async {
                let exited = async {
                    if let Some(relay) = relay {
                        // Within bounds: without a link there is nobody to tell.
                        let _ = timeout(EXIT_TIMEOUT, relay.exit()).await;
                    }
                };
                // Other sidecars' devices hear of it at once, however long the devices here take to leave.
                tokio::join!(exited, gate.connections.wait(), gate.log.delivered());
                let _ = serving.await;
                end_tasks(&mut tasks).await;
            });
            if ended.await.is_err() {
                warn!("the deadline passed before all connections, of clients and to the database, were closed");
            }
        };
        tokio::select! {
            () = shutting_down => {}
            () = signals.insisted() => warn!("interrupted again: what is open is cut off"),
        }
        end.map(drop)
    }
}

/// Ends what runs in the background, and the statements that it waits for.
async fn end_tasks(tasks: &mut JoinSet<()>) {
    tasks.shutdown().await;
    cancellations_ended().await;
}

/// What `livestore-sidecar check` says, for the inspector.
fn checks(config: Config, database: Database) -> Checks {
    let config = Arc::new(config);
    Box::new(move || {
        let (config, database) = (Arc::clone(&config), database.clone());
        Box::pin(async move {
            let findings = check::findings(&config, database).await;
            let kind = |kind| match kind {
                check::Kind::Good => Kind::Good,
                check::Kind::Advice => Kind::Advice,
                check::Kind::Wrong => Kind::Wrong,
            };
            findings.into_iter().map(|(of, text)| (kind(of), text)).collect()
        })
    })
}

/// Ends only if the database cannot be used: it does not come up in time, or is set up wrong.
async fn watch_database(log: &Log, wait: Duration) -> Fatal {
    match ready(log, wait).await {
        Ok(()) => {
            info!("the database is ready");
            std::future::pending().await
        }
        Err(fatal) => fatal,
    }
}

/// Waits for the database.
async fn ready(log: &Log, wait: Duration) -> Result<(), Fatal> {
    let waiting = async {
        let mut is_first = true;
        loop {
            match log.check().await {
                Err(error) if error.retry().may_pass() => {
                    if std::mem::take(&mut is_first) {
                        warn!(error = %chain(&error), "waiting for the database");
                    }
                    sleep(START_RETRY).await;
                }
                result => return result,
            }
        }
    };
    match timeout(wait, waiting).await {
        Ok(result) => result.map_err(Fatal::Database),
        Err(_) => log.check().await.map_err(Fatal::Unreachable),
    }
}
