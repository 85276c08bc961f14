//! Patroni, with an etcd of one process.

use std::path::{Path, PathBuf};
use std::process::Command;

use livestore_tests::cluster::{Agent, Cluster, bin};
use livestore_tests::free_port;
use livestore_tests::sidecar::http_get;

use super::{Manager, adapt, programs, recipe};

pub struct Patroni {
    nodes: [&'static Cluster; 2],
    /// The ports of Patroni's REST API.
    rest: [u16; 2],
    programs: PathBuf,
    // It ends before its machine.
    _etcd: Agent,
    _machine: Cluster,
}

impl Patroni {
    pub fn of(nodes: [&'static Cluster; 2]) -> Self {
        let machine = Cluster::managed();
        let programs = programs(&machine);
        let [client, peer] = [machine.port(), free_port()].map(|port| format!("http://127.0.0.1:{port}"));
        let mut etcd = machine.command(&programs.join("usr/bin/etcd"));
        etcd.arg("--data-dir").arg(machine.folder().join("etcd"));
        etcd.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        etcd.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        etcd.args(["--initial-cluster", &format!("default={peer}")]);
        let patroni = Self {
            nodes,
            rest: [free_port(), free_port()],
            _etcd: machine.start_agent(etcd),
            programs,
            _machine: machine,
        };
        for node in [0, 1] {
            std::fs::write(patroni.config(node), patroni.recipe(node)).unwrap();
        }
        patroni
    }

    fn config(&self, node: usize) -> PathBuf {
        self.nodes[node].folder().join("config.yml")
    }

    fn recipe(&self, node: usize) -> String {
        let local = |port: u16| format!("127.0.0.1:{port}");
        let cluster = self.nodes[node];
        let (postgres, rest) = (local(cluster.port()), local(self.rest[node]));
        adapt(
            &recipe("yaml"),
            &[
                ("etcd1:2379, etcd2:2379, etcd3:2379", &local(self._machine.port())),
                ("0.0.0.0:8008", &rest),
                ("db1:8008", &rest),
                ("0.0.0.0:5432", &postgres),
                ("db1:5432", &postgres),
                ("name: db1", &format!("name: {}", NAMES[node])),
                ("/var/lib/postgresql/15/livestore", &cluster.folder().join("data").display().to_string()),
                ("/usr/lib/postgresql/15/bin", &bin("").display().to_string()),
                // The roles of the tests have no passwords.
                ("scram-sha-256", "trust"),
            ],
        )
    }

    /// Without the Python packages of the machine: those that were unpacked are enough.
    fn python(&self, node: usize, program: &str) -> Command {
        let mut command = self.nodes[node].command(Path::new("/usr/bin/python3"));
        command.env("PYTHONPATH", self.programs.join("usr/lib/python3/dist-packages"));
        command.arg("-S").arg(self.programs.join("usr/bin").join(program));
        command
    }
}

const NAMES: [&str; 2] = ["db1", "db2"];

impl Manager for Patroni {
    fn create(&self, _: usize) -> Option<Command> {
        None
    }

    fn agent(&self, node: usize) -> Command {
        let mut command = self.python(node, "patroni");
        command.arg(self.config(node));
        command
    }

    fn switch_over(&self, leader: usize) -> Command {
        let mut command = self.python(leader, "patronictl");
        command.arg("-c").arg(self.config(leader)).args(["switchover", "--force", "--leader", NAMES[leader]]);
        command.args(["--candidate", NAMES[1 - leader], "livestore"]);
        command
    }

    async fn is_settled(&self, leader: usize) -> bool {
        http_get(self.rest[leader], "/primary").await.0 == 200
            && http_get(self.rest[1 - leader], "/sync").await.0 == 200
    }
}
