//! Sidecar processes.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Database, shards_of_tests};
use crate::{PATIENCE, watchdog};

/// A sidecar that runs. It is killed when this is dropped.
pub struct Sidecar {
    child: Child,
    port: u16,
    log: Arc<Mutex<Vec<String>>>,
}

/// The settings with which a sidecar is started.
pub struct Start {
    program: PathBuf,
    database_url: String,
    port: u16,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    listener: Option<TcpListener>,
}

impl Start {
    /// For a database URL, on a random port.
    pub fn new(database_url: impl Into<String>) -> Self {
        Self {
            program: binary(),
            database_url: database_url.into(),
            port: 0,
            arguments: Vec::new(),
            environment: Vec::new(),
            listener: None,
        }
    }

    /// On this port: that of a predecessor.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Another build of it.
    pub fn build(mut self, program: &Path) -> Self {
        self.program = program.into();
        self
    }

    /// On a socket that somebody else holds, handed over as systemd does it.
    pub fn socket(mut self, listener: &TcpListener) -> Self {
        self.listener = Some(listener.try_clone().expect("a socket"));
        self
    }

    /// With these arguments besides.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&argument| argument.into()));
        self
    }

    /// With an environment variable besides.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The program without any argument.
    pub fn program() -> Command {
        Command::new(binary())
    }

    /// The command, for tests of how it ends.
    pub fn command(&self) -> Command {
        let mut command = match &self.listener {
            None => Command::new(&self.program),
            Some(_) => {
                let mut shell = Command::new("sh");
                shell
                    .args(["-c", "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" \"$@\""])
                    .arg(&self.program);
                shell
            }
        };
        let stdin = self
            .listener
            .as_ref()
            .map_or_else(Stdio::null, |listener| OwnedFd::from(listener.try_clone().expect("a socket")).into());
        command
            .args(["--listen", &format!("127.0.0.1:{}", self.port), "--log-format", "json"])
            .args(&self.arguments)
            .env("DATABASE_URL", &self.database_url)
            // Tests that restart sidecars again and again would otherwise wait for this delay each time.
            .env("LIVESTORE_SHUTDOWN_DELAY", "0s")
            .envs(shards_of_tests().map(|_| ("LIVESTORE_SHARDS", "true")))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(stdin)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }

    /// Starts it and waits until it serves; whether the database is there is another question.
    pub fn serve(self) -> Sidecar {
        let mut child = self.command().spawn().expect("the sidecar; was it built?");
        watchdog::watch(child.id());
        let log = Arc::new(Mutex::new(Vec::new()));
        let ports = collect(child.stderr.take().expect("stderr"), Arc::clone(&log));
        match ports.recv_timeout(PATIENCE) {
            Ok(port) => Sidecar { child, port, log },
            Err(_) => panic!("the sidecar does not serve:\n{}", log.lock().unwrap().join("\n")),
        }
    }

    /// Starts it and waits until it is ready.
    pub async fn ready(self) -> Sidecar {
        let sidecar = self.serve();
        let start = Instant::now();
        while sidecar.get("/readyz").await.0 != 200 {
            assert!(start.elapsed() < PATIENCE, "the sidecar is not ready:\n{}", sidecar.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        sidecar
    }
}

impl Sidecar {
    /// One on this database, with the role that a sidecar should have.
    pub async fn on(database: &Database) -> Self {
        Start::new(database.url("sidecar")).ready().await
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The number of the process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The `url` for clients of sync-cf.
    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    /// The same for requests over HTTP.
    pub fn http_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The lines that it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// An HTTP request; status and body.
    pub async fn get(&self, path: &str) -> (u16, String) {
        http_get(self.port, path).await
    }

    /// The value of a metric, by its name and labels as Prometheus reads them; 0 if there is none. With shards, the sum of those of all.
    pub async fn metric(&self, series: &str) -> f64 {
        let (_, metrics) = self.get("/metrics").await;
        let values = metrics.lines().filter_map(|line| line.rsplit_once(' '));
        let of_a_shard = format!("{series}{{shard=\"");
        let is_it = |name: &str| name == series || (shards_of_tests().is_some() && name.starts_with(&of_a_shard));
        values
            .filter(|(name, _)| is_it(name))
            .filter_map(|(_, value)| value.parse::<f64>().ok())
            .fold(0.0, |sum, value| sum + value)
    }

    /// The number of times that a limit was exceeded.
    pub async fn hits(&self, limit: &str) -> f64 {
        self.metric(&format!("livestore_limit_hits_total{{limit=\"{limit}\"}}")).await
    }

    /// Sends a signal by name, e.g. `KILL`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(status.expect("kill").success());
    }

    /// Kills it with no chance to clean up, and waits for it to be gone.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Asks it to end, and waits until it has.
    pub async fn terminate(mut self) -> ExitStatus {
        self.signal("TERM");
        tokio::task::block_in_place(|| self.child.wait()).expect("it ends")
    }

    /// The number of its open sockets.
    pub fn sockets(&self) -> usize {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs");
        let is_socket = |target: std::path::PathBuf| target.to_string_lossy().starts_with("socket:");
        open.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok())
            .filter(|target| is_socket(target.clone()))
            .count()
    }

    /// The number of its open files, sockets included.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs").count()
    }

    /// Resident memory in bytes.
    pub fn memory(&self) -> u64 {
        self.status("VmRSS:") * 1024
    }

    /// The most that it has ever had, in bytes.
    pub fn peak_memory(&self) -> u64 {
        self.status("VmHWM:") * 1024
    }

    pub fn threads(&self) -> u64 {
        self.status("Threads:")
    }

    /// A number that Linux keeps about the process, where it is a size in KiB.
    fn status(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let value = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux says it");
        value.trim().trim_end_matches(" kB").parse().expect("a number")
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- log of the sidecar on port {}\n{}", self.port, self.log());
        }
    }
}

/// An HTTP GET; status and body. Status 0 if there is no answer.
pub async fn http_get(port: u16, path: &str) -> (u16, String) {
    match reqwest::get(format!("http://127.0.0.1:{port}{path}")).await {
        Ok(response) => (response.status().as_u16(), response.text().await.unwrap_or_default()),
        Err(_) => (0, String::new()),
    }
}

/// Beside the test binaries: `target/debug/deps/…` and `target/debug/livestore-sidecar`.
fn binary() -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    // target/<profile>/deps/<test>, and target/<profile>/livestore-bench.
    let folder = test.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).expect("target/<profile>");
    folder.join("livestore-sidecar")
}

/// Collects the log and sends the port once it is known.
fn collect(stderr: std::process::ChildStderr, log: Arc<Mutex<Vec<String>>>) -> Receiver<u16> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let entry: Value = serde_json::from_str(&line).unwrap_or_default();
            let port = entry["listen"].as_str().and_then(|listen| listen.rsplit(':').next()?.parse().ok());
            if let (Some("serving"), Some(port)) = (entry["message"].as_str(), port) {
                let _ = sender.send(port);
            }
            log.lock().unwrap().push(line);
        }
    });
    receiver
}
