//! pgbouncer in front of a cluster.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::cluster::{Database, is_root};
use crate::{free_port, watchdog};

/// A pooler that runs. It ends when this is dropped.
pub struct Pooler {
    folder: TempDir,
    port: u16,
    child: Child,
}

impl Pooler {
    /// In front of the cluster of a database, with these lines in its configuration, e.g. `pool_mode = session`.
    pub async fn start(database: &Database, settings: &str) -> Self {
        let folder = watchdog::folder();
        let port = free_port();
        let child = run(folder.path(), port, database, settings);
        let pooler = Self { folder, port, child };
        pooler.listens().await;
        pooler
    }

    /// Ends it, and starts another one on the same port.
    pub async fn restart(&mut self, database: &Database, settings: &str) {
        self.end();
        self.child = run(self.folder.path(), self.port, database, settings);
        self.listens().await;
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The file with its log, and with that of those before it.
    pub fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    async fn listens(&self) {
        crate::eventually("pgbouncer listens", || async {
            tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok()
        })
        .await;
    }

    /// Whether its process still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it, and with it all connections.
    pub fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.end();
    }
}

fn run(folder: &Path, port: u16, database: &Database, settings: &str) -> Child {
    let (users, configuration) = (folder.join("users"), folder.join("pgbouncer.ini"));
    std::fs::write(&users, "\"sidecar\" \"\"\n\"postgres\" \"\"\n\"stranger\" \"\"\n").expect("a file");
    let text = format!(
        "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
         auth_type = trust\nauth_file = {}\ndefault_pool_size = 30\n{settings}\n",
        database.cluster().port(),
        users.display(),
    );
    std::fs::write(&configuration, text).expect("a file");
    let mut command = Command::new("/usr/sbin/pgbouncer");
    if is_root() {
        let readable = Command::new("chmod").args(["-R", "a+rX"]).arg(folder).status();
        assert!(readable.expect("chmod").success());
        command.args(["-u", "postgres"]);
    }
    let log = OpenOptions::new().create(true).append(true).open(folder.join("log")).expect("a file");
    command.arg(configuration).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let child = command.spawn().expect("pgbouncer; was it installed with packaging/install-prerequisites test?");
    watchdog::watch(child.id());
    child
}
