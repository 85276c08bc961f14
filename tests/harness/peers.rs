//! The original backends, as `tests/bench/install-peers` installs them: each on a port and in a folder of its own, and ended with
//! this process.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use crate::free_port;
use crate::sidecar::http_get;

/// The time that a backend may take until its first answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// A basin of s2-lite in which reading or appending creates a stream.
pub const BASIN: &str = "benchmark-basin";

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
        let folder = crate::watchdog::folder();
        let process = watched(&peers.join("sync-cf/node_modules/.bin/wrangler"))
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

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The `url` for clients.
    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }
}

/// s2-lite, durable on the local disk.
pub struct S2Lite {
    port: u16,
    _process: Group,
    _folder: TempDir,
}

impl S2Lite {
    /// From where `install-peers` has put it, as it comes: it makes appends durable every 5 ms.
    pub async fn start(peers: &Path) -> Self {
        Self::start_with(peers, "5ms").await
    }

    /// The same with another interval at which appends are made durable, in the words of SlateDB, on which it is built.
    pub async fn start_with(peers: &Path, flush_interval: &str) -> Self {
        let port = free_port();
        let folder = crate::watchdog::folder();
        let process = watched(&peers.join("s2-lite/bin/server"))
            .arg("--local-root")
            .arg(folder.path())
            .args(["--no-dashboard", "--port", &port.to_string()])
            .env("RUST_LOG", "warn")
            .env("SL8_FLUSH_INTERVAL", flush_interval)
            .spawn_quietly();
        answers(port).await;
        create_basin(port).await;
        Self { port, _process: process, _folder: folder }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of its API.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }
}

/// Streams are created at the first append.
async fn create_basin(port: u16) {
    let config = json!({"create_stream_on_append": true, "create_stream_on_read": true});
    let request = reqwest::Client::new()
        .post(format!("http://127.0.0.1:{port}/v1/basins"))
        .header("content-type", "application/json")
        .body(json!({"basin": BASIN, "config": config}).to_string());
    let answer = request.send().await.expect("an answer of s2-lite");
    assert!(answer.status().is_success(), "s2-lite creates no basin: {}", answer.status());
}

/// A program with the processes that it starts: they end together, at the latest with this process, however that ends.
fn watched(program: &Path) -> Command {
    assert!(program.exists(), "{} is not there; install-peers comes before", program.display());
    let mut command = Command::new("sh");
    command.args(["-c", "\"$0\" \"$@\" < /dev/null & cat > /dev/null; kill -KILL 0"]).arg(program);
    command
}

struct Group(Child);

impl Drop for Group {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

trait SpawnQuietly {
    fn spawn_quietly(&mut self) -> Group;
}

impl SpawnQuietly for Command {
    fn spawn_quietly(&mut self) -> Group {
        self.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        Group(self.spawn().expect("a shell"))
    }
}

async fn answers(port: u16) {
    let start = Instant::now();
    while http_get(port, "/").await.0 == 0 {
        assert!(start.elapsed() < PATIENCE, "nothing answers on port {port}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
