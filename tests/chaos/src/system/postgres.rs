//! The database of a run: one server, or a primary and a standby that has each commit before the primary answers.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use livestore_tests::cluster::{Cluster, Database};
use livestore_tests::pooler::Pooler;
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep};

use super::{Clock, Disk, Machine};

/// As many connections as `check` asks for three sidecars and the sessions of a run, so that some are left when nothing exhausts them;
/// little WAL, so that a disk is soon full. Deadlocks and checkpoints as ever.
const SETTINGS: &str =
    "max_connections = 120\nmax_wal_size = '64MB'\nmin_wal_size = '32MB'\ncheckpoint_timeout = '30s'";

/// A standby goes on where it was after its primary was away, and soon.
const STANDBY_SETTINGS: &str = "\nwal_keep_size = '64MB'\nwal_retrieve_retry_interval = '500ms'";

/// It tries a server that it did not reach every second, instead of every fifteen.
const POOLER_SETTINGS: &str = "pool_mode = session\nserver_login_retry = 1";

/// The time after a connection to a pooler was cut off in which the pooler may end: PgBouncer 1.18 does if it was one of a request to cancel.
const EXCUSED: Duration = Duration::from_secs(10);

pub struct Postgres {
    servers: Vec<Server>,
    /// On the first of them.
    database: Database,
    primary: AtomicUsize,
    /// In front of each server.
    poolers: Mutex<Vec<Pooler>>,
    pooler_ports: Vec<u16>,
    ends: std::sync::Mutex<Ends>,
    whole: Mutex<()>,
}

/// The poolers that ended although no fault stopped them.
#[derive(Default)]
struct Ends {
    /// When each was found, and the last line of its log.
    found: Vec<(Instant, String)>,
    /// The times in which connections to poolers were cut off.
    excuses: Vec<(Instant, Instant)>,
}

struct Server {
    cluster: &'static Cluster,
    /// Nothing, if this machine does not let us mount one.
    disk: Option<Disk>,
}

impl Server {
    /// On a disk of its own: when that of the primary is full, a standby has room.
    fn mount() -> (PathBuf, Option<Disk>) {
        let disk = Disk::mount();
        (disk.as_ref().map_or_else(std::env::temp_dir, |disk| disk.folder().to_path_buf()), disk)
    }

    fn new(cluster: Cluster, disk: Option<Disk>) -> Self {
        if let Some(disk) = &disk {
            disk.unmount_after(cluster.folder());
        }
        Self { cluster: cluster.leak(), disk }
    }
}

impl Postgres {
    pub async fn start(has_standby: bool, clock: Option<&Clock>) -> Self {
        let settings = format!("{SETTINGS}{}", if has_standby { STANDBY_SETTINGS } else { "" });
        let (folder, disk) = Server::mount();
        let environment = clock.map(|clock| clock.environment(Machine::Postgres)).unwrap_or_default();
        let starting = tokio::task::spawn_blocking(move || Cluster::start_as(&folder, &settings, &environment));
        let first = Server::new(starting.await.expect("a cluster"), disk);
        let database = first.cluster.database().await;
        let mut servers = vec![first];
        if has_standby {
            let (folder, disk) = Server::mount();
            servers.push(Server::new(servers[0].cluster.standby_in(&folder).await, disk));
        }
        let mut poolers = Vec::new();
        for server in &servers {
            poolers.push(Pooler::start(&database.on(server.cluster), POOLER_SETTINGS).await);
        }
        let pooler_ports = poolers.iter().map(Pooler::port).collect();
        let (primary, whole) = (AtomicUsize::new(0), Mutex::default());
        Self {
            servers,
            database,
            primary,
            poolers: Mutex::new(poolers),
            pooler_ports,
            ends: std::sync::Mutex::default(),
            whole,
        }
    }

    /// The port of the pooler in front of a server.
    pub fn pooler_port(&self, server: usize) -> u16 {
        self.pooler_ports[server]
    }

    /// Kills the poolers, and starts others after a while.
    pub async fn stop_poolers(&self, lasts: Duration) {
        let mut poolers = self.poolers.lock().await;
        poolers.iter_mut().for_each(Pooler::end);
        sleep(lasts).await;
        for (pooler, server) in poolers.iter_mut().zip(&self.servers) {
            pooler.restart(&self.database.on(server.cluster), POOLER_SETTINGS).await;
        }
    }

    /// Starts the poolers that have ended by themselves, as systemd would.
    pub async fn raise_poolers(&self) {
        let mut poolers = self.poolers.lock().await;
        for (pooler, server) in poolers.iter_mut().zip(&self.servers) {
            if !pooler.runs() {
                let log = std::fs::read_to_string(pooler.log()).unwrap_or_default();
                let last = log.lines().last().unwrap_or_default().to_string();
                eprintln!("           a pooler has ended by itself: {last}");
                self.ends().found.push((Instant::now(), last));
                pooler.restart(&self.database.on(server.cluster), POOLER_SETTINGS).await;
            }
        }
    }

    fn ends(&self) -> std::sync::MutexGuard<'_, Ends> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something cuts off connections to the poolers between these times.
    pub fn excuse_poolers(&self, from: Instant, to: Instant) {
        self.ends().excuses.push((from, to + EXCUSED));
    }

    /// The number of poolers that ended when connections to them were cut off, and what the log of each of the others that ended says.
    pub fn ended_poolers(&self) -> (usize, Vec<String>) {
        let Ends { found, excuses } = &*self.ends();
        let is_excused = |at: &Instant| excuses.iter().any(|(from, to)| (from..=to).contains(&at));
        let (excused, others): (Vec<_>, Vec<_>) = found.iter().cloned().partition(|(at, _)| is_excused(at));
        (excused.len(), others.into_iter().map(|(_, last)| last).collect())
    }

    pub async fn pooler_logs(&self) -> Vec<PathBuf> {
        self.poolers.lock().await.iter().map(Pooler::log).collect()
    }

    fn primary(&self) -> &Server {
        &self.servers[self.primary.load(Ordering::SeqCst)]
    }

    /// The database on the server that is the primary now.
    pub fn database(&self) -> Database {
        self.database.on(self.primary().cluster)
    }

    /// The disk of the primary.
    pub fn disk(&self) -> Option<&Disk> {
        self.primary().disk.as_ref()
    }

    pub fn clusters(&self) -> impl Iterator<Item = &'static Cluster> {
        self.servers.iter().map(|server| server.cluster)
    }

    /// A fault of the primary holds this until the primary is mended: a slow machine makes faults last longer than planned, and
    /// two at a time could break it for good.
    pub async fn whole(&self) -> MutexGuard<'_, ()> {
        self.whole.lock().await
    }

    /// The primary is lost, after a while its standby takes its place, and it comes back as the standby of that.
    pub async fn fail_over(&self, away: Duration) {
        let old = self.primary.load(Ordering::SeqCst);
        let new = 1 - old;
        let (old_server, new_server) = (self.servers[old].cluster, self.servers[new].cluster);
        old_server.standby_catches_up().await;
        let killed = Instant::now();
        tokio::task::spawn_blocking(|| old_server.kill()).await.expect("a crash");
        sleep(away).await;
        let promoting = tokio::task::spawn_blocking(|| new_server.pg_ctl(&["promote"]));
        promoting.await.expect("a promotion");
        self.primary.store(new, Ordering::SeqCst);
        let promoted = killed.elapsed().as_secs_f64();
        old_server.follow(new_server).await;
        let whole = killed.elapsed().as_secs_f64();
        eprintln!("           a primary again after {promoted:.1} s, with a standby again after {whole:.1} s");
    }

    /// Starts the primary if it does not run.
    pub async fn raise(&self) {
        let database = self.database();
        let cluster = database.cluster();
        for _ in 0..20 {
            if cluster.try_connect("postgres", database.name()).await.is_ok() {
                return;
            }
            let start = move || cluster.try_pg_ctl(&["start", "-t", "10"]);
            let _ = tokio::task::spawn_blocking(start).await;
            sleep(Duration::from_millis(200)).await;
        }
        eprintln!("chaos: Postgres does not start; its log is in {}", cluster.folder().display());
    }
}
