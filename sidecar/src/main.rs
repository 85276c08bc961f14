//! The sidecar: LiveStore's sync protocols in front of a Postgres with the extension `livestore_sync`.

mod auth;
mod check;
mod gate;
mod health;
mod limits;
mod log;
mod postgres;
mod protocols;
mod relay;
mod server;
mod settings;
mod shutdown;
mod telemetry;
mod time;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::limits::memory::Memory;
use crate::limits::rate_limit::Rate;
use crate::log::{Log, LogConfig};
use crate::postgres::DatabaseError;
use crate::protocols::s2::routes::Created;
use crate::relay::Relay;
use crate::server::accept::{self, Bounds};
use crate::server::listen_socket::{ListenError, ListenSocket};
use crate::server::timeouts::Timeouts;
use crate::server::{Server, Settings};
use crate::settings::{Command, Config, Dialect, NewToken, Program};
use crate::shutdown::{By, Ending, Signals};

/// A push allocates small pieces and frees them soon, often on another thread: with glibc that was an eighth of its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often a database that is away is tried at start.
const START_RETRY: Duration = Duration::from_millis(250);

/// How long telling other sidecars may take.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the process ends other than by a signal. Each has an exit code of its own.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Config(String),
    #[error("{0}; start Postgres, or correct --database-url")]
    Unreachable(#[source] DatabaseError),
    #[error("{0}")]
    Database(#[source] DatabaseError),
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("a task that never ends has ended: please report this, with the log")]
    Bug,
    #[error("the operating system refuses")]
    System(#[from] std::io::Error),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::System(_) | Self::Bug | Self::Listen(ListenError::System(_)) => 1,
            Self::Config(_) | Self::Listen(ListenError::NotAListener(_)) => 2,
            Self::Unreachable(_) => 3,
            Self::Database(_) => 4,
            Self::Listen(ListenError::Taken(..) | ListenError::NotShared(..)) => 5,
        }
    }
}

fn main() -> ExitCode {
    let Program { command, config } = Program::parse();
    match command {
        None => {}
        Some(Command::Token(token)) => return mint(&token),
        Some(Command::Check(config)) => return check::run(&config),
        Some(Command::Health(health)) => return health::ask(health.health_listen.unwrap_or(health.listen)),
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("livestore-sidecar: {error}");
            return ExitCode::FAILURE;
        }
    };
    let otlp_endpoint = config.otlp_endpoint.as_deref();
    let traces = match telemetry::init(
        &config.log,
        config.log_format,
        otlp_endpoint,
        config.trust_traceparent,
        runtime.handle(),
    ) {
        Ok(traces) => traces,
        Err(error) => {
            eprintln!("livestore-sidecar: {error}");
            return ExitCode::from(2);
        }
    };
    let result = runtime.block_on(run(config));
    if let Some(traces) = traces {
        traces.end();
    }
    // What is still there is past the deadline.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            error!(error = &failure as &dyn std::error::Error, "cannot go on");
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Prints a token.
fn mint(token: &NewToken) -> ExitCode {
    let NewToken { jwt_secret, store, access, expires, subject, access_claim } = token;
    let minted = auth::mint(jwt_secret, subject, *expires, access_claim, store, *access);
    match minted.and_then(|token| writeln!(std::io::stdout(), "{token}").map_err(|error| error.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("livestore-sidecar: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> Result<(), Failure> {
    config.check().map_err(Failure::Config)?;
    let authentication = Arc::new(config.authentication().map_err(Failure::Config)?);
    let hosts = config.hosts().map_err(Failure::Config)?;
    let origins = config.origins().map_err(Failure::Config)?;
    let electric = config.electric().map_err(Failure::Config)?;
    let metrics = telemetry::metrics::install().map_err(|error| Failure::Config(error.to_string()))?;
    let database = config.database().map_err(Failure::Config)?;
    // A connection is a file; how many are served is said by --max-connections.
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        warn!(error = &error as &dyn std::error::Error, "the limit of open files stays as it is");
    }
    // Before clients can come: it may be another's.
    let probes = match config.health_listen {
        None => None,
        Some(address) => Some(TcpListener::bind(address).await.map_err(|error| ListenError::Taken(address, error))?),
    };
    let socket = ListenSocket::open(config.listen, config.reuse_port)?;
    let listen = socket.address()?;
    config.check_address(listen).map_err(Failure::Config)?;

    let bounds = Bounds {
        connections: config.max_connections,
        connections_per_address: config.max_connections_per_address,
        timeouts: Timeouts { head: config.head_timeout, idle: config.idle_close },
        head_bytes: config.max_head_bytes as usize,
    };
    let ending = Ending::default();
    let connections = TaskTracker::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(telemetry::metrics::maintain(metrics.clone()));
    let budget = Memory::new(config.max_buffer_bytes, config.max_buffer_bytes_per_client);
    let log_config = LogConfig {
        budget: Arc::clone(&budget),
        push_timeout: config.push_timeout,
        contention_window: config.contention_window,
        last_moment: ending.last_moment.clone(),
        bounds: config.push_bounds(),
        authentication: Arc::clone(&authentication),
        authorize_function: config.authorize_function,
    };
    let rate = Rate { things: config.relay_messages_per_second, bytes: config.relay_bytes_per_second };
    let relay = config.dialects.contains(&Dialect::Relay).then(|| Relay::start(database.clone(), rate, &mut tasks));
    let log = Log::start(database, log_config, &mut tasks);
    let settings = Settings {
        dialects: config.dialects.into_iter().collect(),
        hosts,
        origins,
        authentication,
        forward_headers: config.forward_headers,
        admin_secret: config.admin_secret.map(|secret| Arc::new(auth::Secret::new(secret))),
        electric_secret: config.electric_secret,
        electric,
        relay_store: config.relay_store,
        max_frame_bytes: config.max_frame_bytes,
        budget,
    };
    let server = Arc::new(Server {
        log: log.clone(),
        settings: Arc::new(settings),
        connections: connections.clone(),
        ending: ending.clone(),
        relay: relay.clone(),
        metrics,
        created: Created::default(),
        is_open: AtomicBool::new(false),
    });
    if let Some(probes) = probes {
        // To the very end of the process.
        tokio::spawn(accept::serve(probes, Arc::clone(&server).probes(), bounds, Ending::default()));
    }
    // Serving begins before the database is known to be there: clients wait better than they reconnect. But where others serve
    // them, they do not have to.
    let mut signals = Signals::catch()?;
    tokio::select! {
        biased;
        _ = signals.requested() => return Ok(()),
        () = socket.is_ours() => {}
        ready = ready(&log, config.database_wait) => ready?,
    }
    let listener = socket.listen()?;
    server.is_open.store(true, Ordering::Relaxed);
    let serving = tokio::spawn(accept::serve(listener, server.router(), bounds, ending.clone()));
    info!(%listen, version = env!("CARGO_PKG_VERSION"), "serving");

    let result = tokio::select! {
        by = signals.requested() => Ok(by),
        Some(_) = tasks.join_next() => Err(Failure::Bug),
        failure = watch_database(&log, config.database_wait) => Err(failure),
    };

    let end = async {
        ending.announced.cancel();
        if matches!(result, Ok(By::Manager)) {
            sleep(config.shutdown_delay).await;
        }
        socket.close().await;
        ending.begin(config.shutdown_deadline);
        connections.close();
        let deadline = Instant::now() + config.shutdown_deadline;
        let ended = timeout_at(deadline, async {
            let exited = async {
                if let Some(relay) = relay {
                    // Not for ever: without a link there is nobody to tell.
                    let _ = timeout(EXIT_TIMEOUT, relay.exit()).await;
                }
            };
            // Devices of other sidecars hear of it at once, however long those of this one take to leave.
            tokio::join!(exited, connections.wait());
            let _ = serving.await;
        });
        if ended.await.is_err() {
            warn!("the deadline passed with connections open");
        }
    };
    tokio::select! {
        () = end => {}
        () = signals.insisted() => warn!("interrupted again: what is open is cut off"),
    }
    result.map(drop)
}

/// Ends only if the database cannot be used: it does not come up in time, or is set up wrong.
async fn watch_database(log: &Log, patience: Duration) -> Failure {
    match ready(log, patience).await {
        Ok(()) => {
            info!("the database is ready");
            std::future::pending().await
        }
        Err(failure) => failure,
    }
}

/// Waits for the database.
///
/// # Errors
/// It does not come up in time, or is set up wrong.
async fn ready(log: &Log, patience: Duration) -> Result<(), Failure> {
    let waiting = async {
        let mut is_first = true;
        loop {
            match log.check().await {
                Err(error) if error.retry().may_pass() => {
                    if std::mem::take(&mut is_first) {
                        warn!(error = &error as &dyn std::error::Error, "waiting for the database");
                    }
                    sleep(START_RETRY).await;
                }
                result => return result,
            }
        }
    };
    match timeout(patience, waiting).await {
        Ok(result) => result.map_err(Failure::Database),
        Err(_) => log.check().await.map_err(Failure::Unreachable),
    }
}
