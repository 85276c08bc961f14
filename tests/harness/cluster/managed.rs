//! A machine on which a cluster manager, such as Patroni, creates and runs Postgres.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{Cluster, as_postgres, new_folder, watchdog};
use crate::free_port;

/// A manager's process on a machine. It is killed when this is dropped.
pub struct Agent {
    child: Child,
    /// Names its process group, for the watchdog.
    sign: PathBuf,
}

impl Cluster {
    /// A machine with nothing but a folder. The manager is to create the data in `data` there, and to serve at its port.
    pub fn managed() -> Self {
        let folder = new_folder(&std::env::temp_dir());
        // The manager would start Postgres again.
        let first = format!("for agent in {}/agent-*; do kill -KILL -- -${{agent##*-}}; done;", folder.display());
        Self { port: free_port(), environment: Vec::new(), watchdog: watchdog(&folder, &first), folder }
    }

    /// A program that runs as the user of Postgres, with its home in the folder.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = as_postgres(program);
        command.env("HOME", &self.folder).stdin(Stdio::null());
        command
    }

    /// Starts the manager, which logs to `agent.log`.
    pub fn start_agent(&self, mut command: Command) -> Agent {
        let log = File::options().create(true).append(true).open(self.folder.join("agent.log")).expect("a log");
        command.stdout(log.try_clone().expect("a log")).stderr(log).process_group(0);
        let child = command.spawn().expect("the manager; was it unpacked by tests/scripts/install-cluster-managers?");
        let sign = self.folder.join(format!("agent-{}", child.id()));
        File::create(&sign).expect("a file");
        Agent { child, sign }
    }

    /// Ends Postgres and its manager as a machine that loses its power does.
    pub fn lose(&self, agent: Agent) {
        agent.signal("-STOP");
        self.kill_with(Some(agent.child.id()));
    }
}

impl Agent {
    fn signal(&self, name: &str) {
        // It may have ended.
        let group = format!("-{}", self.child.id());
        let _ = Command::new("kill").args([name, "--", &group]).stderr(Stdio::null()).status();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.signal("-KILL");
        let _ = std::fs::remove_file(&self.sign);
        let _ = self.child.wait();
    }
}
