//! What is measured: started here, each on a port and in a folder of its own, and ended with this process.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use livestore_tests::cluster::{Cluster, Database};
use livestore_tests::free_port;
use livestore_tests::sidecar::{Sidecar, Start};
use tempfile::TempDir;

use crate::wire::s2::S2;

/// How long a system may take to answer for the first time.
const PATIENCE: Duration = Duration::from_secs(120);

/// A database with the extension, and a sidecar.
pub struct Ours {
    pub database: Database,
    pub sidecar: Sidecar,
}

impl Ours {
    /// On a new database of this cluster.
    pub async fn start(cluster: &'static Cluster) -> Self {
        let database = cluster.database().await;
        let sidecar = Self::sidecar(&database).await;
        Self { database, sidecar }
    }

    /// One more sidecar on a database.
    pub async fn sidecar(database: &Database) -> Sidecar {
        // Nobody writes a line for each request here: it would be read by the benchmark. That it serves is info, too.
        let log = "warn,livestore_sidecar=info,livestore_sidecar::server::observe=warn";
        // As pgbench does it, and as docs/performance.md says.
        Start::new(database.socket_url("sidecar"))
            .arguments(&[MORE_CONNECTIONS])
            .environment("LIVESTORE_LOG", log)
            .ready()
            .await
    }
}

/// Room for the idle connections; everything else is as it comes.
pub const MORE_CONNECTIONS: &str = "--max-connections=20000";

/// `@livestore/sync-cf` on workerd, under `wrangler dev`.
pub struct SyncCf {
    port: u16,
    _process: Group,
    _folder: TempDir,
}

impl SyncCf {
    /// From where `install-peers` has put it.
    pub async fn start(peers: &Path) -> Self {
        let port = free_port();
        let folder = tempfile::tempdir().expect("a folder");
        let process = Command::new(peers.join("sync-cf/node_modules/.bin/wrangler"))
            .args(["dev", "--local", "--ip", "127.0.0.1", "--port", &port.to_string(), "--inspector-port"])
            .arg(free_port().to_string())
            .arg("--persist-to")
            .arg(folder.path())
            .args(["--log-level", "warn"])
            .current_dir(peers.join("sync-cf"))
            .envs([("CI", "1"), ("WRANGLER_SEND_METRICS", "false")])
            .spawn_quietly();
        answers(port).await;
        Self { port, _process: process, _folder: folder }
    }

    /// What clients are given as `url`.
    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }
}

/// s2-lite, durable on the local disk.
pub struct S2Lite {
    pub port: u16,
    _process: Group,
    _folder: TempDir,
}

impl S2Lite {
    /// From where `install-peers` has put it.
    pub async fn start(peers: &Path) -> Self {
        let port = free_port();
        let folder = tempfile::tempdir().expect("a folder");
        let process = Command::new(peers.join("s2-lite/bin/server"))
            .arg("--local-root")
            .arg(folder.path())
            .args(["--no-dashboard", "--port", &port.to_string()])
            .env("RUST_LOG", "warn")
            .spawn_quietly();
        answers(port).await;
        S2::create_basin(port).await;
        Self { port, _process: process, _folder: folder }
    }
}

/// A process with the processes that it has started: ended together.
struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", "--", &format!("-{}", self.0.id())]).status();
        let _ = self.0.wait();
    }
}

trait SpawnQuietly {
    fn spawn_quietly(&mut self) -> Group;
}

impl SpawnQuietly for Command {
    fn spawn_quietly(&mut self) -> Group {
        self.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Group(self.spawn().unwrap_or_else(|error| panic!("{self:?}: {error}; install-peers comes before")))
    }
}

async fn answers(port: u16) {
    let start = Instant::now();
    while livestore_tests::sidecar::http_get(port, "/").await.0 == 0 {
        assert!(start.elapsed() < PATIENCE, "nothing answers on port {port}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A tool of the Postgres that `$PG_CONFIG` names, e.g. `pgbench`.
pub fn postgres_tool(name: &str) -> PathBuf {
    livestore_tests::cluster::bin(name)
}
