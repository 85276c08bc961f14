//! pg_auto_failover, with its monitor.

use std::path::{Path, PathBuf};
use std::process::Command;

use livestore_tests::cluster::{Agent, Cluster, bin};
use livestore_tests::eventually;

use super::{Manager, adapt, programs, recipe, run};

const NAMES: [&str; 2] = ["db1", "db2"];

pub struct PgAutoFailover {
    nodes: [&'static Cluster; 2],
    programs: PathBuf,
    // It ends before its machine.
    _agent: Agent,
    monitor: Cluster,
}

impl PgAutoFailover {
    pub async fn of(nodes: [&'static Cluster; 2]) -> Self {
        let monitor = Cluster::managed();
        let programs = programs(&monitor);
        let values = [
            ("/usr/lib/postgresql/15/bin", &*programs.join("usr/lib/postgresql/15/bin").display().to_string()),
            ("/var/lib/postgresql/monitor", &monitor.folder().join("data").display().to_string()),
            ("--hostname monitor", "--hostname 127.0.0.1 --listen 127.0.0.1"),
            ("--pgport 5432", &format!("--pgport {}", monitor.port())),
            ("scram-sha-256", "trust"),
        ];
        run(&mut create(&programs, &monitor, "create monitor", &values));
        let agent = monitor.start_agent(run_service(&programs, &monitor));
        eventually("the monitor serves", || async { monitor.try_connect("postgres", DATABASE).await.is_ok() }).await;
        Self { nodes, programs, _agent: agent, monitor }
    }
}

/// The database of the monitor.
const DATABASE: &str = "pg_auto_failover";

/// `pg_autoctl` on a machine, with these arguments.
fn pg_autoctl<'a>(programs: &Path, machine: &Cluster, arguments: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = machine.command(&programs.join("usr/bin/pg_autoctl"));
    let libraries = format!("lib/{}-linux-gnu", std::env::consts::ARCH);
    command.env("LD_LIBRARY_PATH", programs.join(libraries)).env("XDG_RUNTIME_DIR", machine.folder());
    command.args(arguments);
    command
}

/// The command of the recipe that begins like this, with the values of the test.
fn create(programs: &Path, machine: &Cluster, command: &str, values: &[(&str, &str)]) -> Command {
    let recipe = recipe("sh").replace("\\\n", " ");
    let line =
        recipe.lines().filter_map(|line| line.strip_prefix("pg_autoctl ")).find(|line| line.starts_with(command));
    pg_autoctl(programs, machine, adapt(line.expect("it is in the recipe"), values).split_whitespace())
}

fn run_service(programs: &Path, machine: &Cluster) -> Command {
    let mut command = pg_autoctl(programs, machine, ["run", "--pgdata"]);
    command.arg(machine.folder().join("data"));
    command
}

impl Manager for PgAutoFailover {
    fn create(&self, node: usize) -> Option<Command> {
        let cluster = self.nodes[node];
        let values = [
            ("/usr/lib/postgresql/15/bin/", &*bin("").display().to_string()),
            ("/var/lib/postgresql/15/livestore", &cluster.folder().join("data").display().to_string()),
            ("--hostname db1", "--hostname 127.0.0.1 --listen 127.0.0.1"),
            ("--pgport 5432", &format!("--pgport {}", cluster.port())),
            ("monitor:5432", &format!("127.0.0.1:{}", self.monitor.port())),
            ("--name db1", &format!("--name {}", NAMES[node])),
            ("scram-sha-256", "trust"),
        ];
        Some(create(&self.programs, cluster, "create postgres", &values))
    }

    fn agent(&self, node: usize) -> Command {
        run_service(&self.programs, self.nodes[node])
    }

    fn switch_over(&self, leader: usize) -> Command {
        let mut command = pg_autoctl(&self.programs, self.nodes[leader], ["perform", "switchover", "--pgdata"]);
        command.arg(self.nodes[leader].folder().join("data"));
        command
    }

    async fn is_settled(&self, leader: usize) -> bool {
        let states = "select nodename, reportedstate::text from pgautofailover.node
                      where reportedstate = goalstate and health = 1 order by reportedstate";
        let rows = self.monitor.connect("postgres", DATABASE).await.query(states, &[]).await.unwrap();
        let mut states: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        states.sort_by(|one, other| one.1.cmp(&other.1));
        states
            == [(NAMES[leader], "primary"), (NAMES[1 - leader], "secondary")]
                .map(|(name, state)| (name.into(), state.into()))
    }
}
