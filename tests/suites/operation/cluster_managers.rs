//! Cluster managers that promote a standby, with their recipes in docs/operations.md: nothing that was acknowledged is missing, and
//! neither sidecars nor clients have to be started again. `tests/scripts/install-cluster-managers` unpacks the managers, and
//! `make test-all` runs these tests. They take minutes, because managers wait before they promote.

mod patroni;
mod pg_auto_failover;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use livestore_tests::cluster::{Agent, Cluster, Database};
use livestore_tests::device::Fleet;
use livestore_tests::load::Load;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::witness::{Troubles, Witness};
use livestore_tests::{eventually, eventually_within, root};
use patroni::Patroni;
use pg_auto_failover::PgAutoFailover;
use serde_json::Value;

/// When a manager counts as not bringing a lost node back: that takes several rounds of waiting, of a recovery, a checkpoint and a copy.
const REWIND: Duration = Duration::from_secs(400);

/// The differences between managers. A node is an index of [`Managed::nodes`].
trait Manager {
    /// The command that creates the cluster of a node, if that is not the agent's work.
    fn create(&self, node: usize) -> Option<Command>;

    /// The process that runs on the machine of a node.
    fn agent(&self, node: usize) -> Command;

    /// The command that makes the other node the primary.
    fn switch_over(&self, leader: usize) -> Command;

    /// Whether this node is the primary, and the other one would take its place if it were lost.
    async fn is_settled(&self, leader: usize) -> bool;
}

/// Two nodes and their manager.
struct Managed<M> {
    nodes: [&'static Cluster; 2],
    agents: [Option<Agent>; 2],
    manager: M,
}

impl<M: Manager> Managed<M> {
    /// The first node is the primary.
    async fn start(nodes: [&'static Cluster; 2], manager: M) -> Self {
        let mut managed = Self { nodes, agents: [None, None], manager };
        for node in [0, 1] {
            if let Some(mut command) = managed.manager.create(node) {
                run(&mut command);
            }
            managed.start_agent(node);
            eventually("it serves", || async { nodes[node].try_connect("postgres", "postgres").await.is_ok() }).await;
        }
        managed.settles(0).await;
        managed
    }

    fn start_agent(&mut self, node: usize) {
        self.agents[node] = Some(self.nodes[node].start_agent(self.manager.agent(node)));
    }

    /// Waits until this node is the primary and the other one its synchronous standby.
    async fn settles(&self, leader: usize) {
        let is_settled = || self.manager.is_settled(leader);
        eventually_within(REWIND, "a node leads, and the other one follows", is_settled).await;
        let replication = "select count(*) from pg_stat_replication where sync_state in ('sync', 'quorum')";
        let admin = self.nodes[leader].connect("postgres", "postgres").await;
        assert_eq!(admin.query_one(replication, &[]).await.unwrap().get::<_, i64>(0), 1);
        let admin = self.nodes[1 - leader].connect("postgres", "postgres").await;
        assert!(admin.query_one("select pg_is_in_recovery()", &[]).await.unwrap().get::<_, bool>(0));
    }
}

impl<M: Manager> Managed<M> {
    /// The node that leads, once the other one follows it.
    async fn leader(&self) -> usize {
        let is_settled = || async { self.manager.is_settled(0).await || self.manager.is_settled(1).await };
        eventually_within(REWIND, "a node leads, and the other one follows", is_settled).await;
        usize::from(!self.manager.is_settled(0).await)
    }
}

impl<M> Drop for Managed<M> {
    fn drop(&mut self) {
        self.agents = [None, None];
        for node in self.nodes {
            node.try_pg_ctl(&["stop", "-m", "immediate"]);
            if std::thread::panicking() {
                let log = std::fs::read_to_string(node.folder().join("agent.log")).unwrap_or_default();
                eprintln!("--- log of the manager on port {}\n{log}", node.port());
            }
        }
    }
}

fn run(command: &mut Command) {
    let output = tokio::task::block_in_place(|| command.output()).expect("it runs");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{command:?}: {text}");
}

/// The block of docs/operations.md in this language.
fn recipe(language: &str) -> String {
    let page = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let (_, recipe) = page.split_once(&format!("```{language}\n")).expect("a recipe");
    recipe.split_once("```").unwrap().0.into()
}

/// A recipe with the values of the test in place of its own.
fn adapt(recipe: &str, values: &[(&str, &str)]) -> String {
    values.iter().fold(recipe.to_owned(), |recipe, (written, meant)| {
        assert!(recipe.contains(written), "{written} is not in the recipe: {recipe}");
        recipe.replace(written, meant)
    })
}

/// The managers' programs in the folder of a machine: the user of Postgres may not read the folder that the tests run in.
fn programs(machine: &Cluster) -> PathBuf {
    let (unpacked, programs) = (root().join("target/cluster-managers"), machine.folder().join("programs"));
    assert!(unpacked.exists(), "tests/scripts/install-cluster-managers comes before");
    run(Command::new("cp").arg("-r").arg(unpacked).arg(&programs));
    programs
}

/// All events in order, and the backend ids.
async fn everything(database: &Database) -> Vec<Value> {
    let events =
        "select json_build_array(store_id, seq_num, parent_seq_num, name, args, livestore.backend_id(store_id))
                  from livestore.events order by store_id, seq_num";
    database.admin().await.query(events, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// The longest times between two commits in this store, in seconds.
async fn pauses(database: &Database, store: &str) -> Vec<f64> {
    let pauses = "select extract(epoch from created_at - lag(created_at) over (order by seq_num))::float8 as pause
                  from livestore.events where store_id = $1 order by pause desc nulls last limit 3";
    database.admin().await.query(pauses, &[&store]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Clients, and what they sync through: two sidecars on the nodes.
struct Clients {
    /// The same database on each node.
    databases: [Database; 2],
    url: String,
    sidecars: [Sidecar; 2],
    witness: Witness,
    fleet: Fleet,
    load: Load,
    /// The events that the devices have so far.
    todos: Vec<String>,
}

impl Clients {
    async fn on<M: Manager>(managed: &Managed<M>) -> Self {
        let [first, second] = managed.nodes;
        first.create_template().await;
        let database = first.database().await;
        let url = database.url_at_any("sidecar", &[first.port(), second.port()]);
        let sidecars = [Start::new(&url).ready().await, Start::new(&url).ready().await];
        let witness = Witness::of(sidecars[0].port()).await;
        let fleet = Fleet::open("device", witness.port()).await;
        let load = Load::start("books", &sidecars.each_ref().map(Sidecar::url), 2, 2);
        let databases = [database.clone(), database.on(second)];
        let mut clients = Self { databases, url, sidecars, witness, fleet, load, todos: Vec::new() };
        clients.push().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        clients.load.goes_on().await;
        clients
    }

    /// Each device creates a todo, and is told that it is stored.
    async fn push(&mut self) {
        self.todos.push((self.todos.len() + 1).to_string());
        self.fleet.create(self.todos.last().unwrap()).await;
        self.settle().await;
    }

    /// The devices are told of a todo that somebody else creates on this node.
    async fn follow(&mut self, node: usize) {
        self.todos.push((self.todos.len() + 1).to_string());
        Fleet::hears_of(&self.databases[node], self.todos.last().unwrap()).await;
        self.settle().await;
    }

    async fn settle(&self) {
        self.fleet.settles(&self.todos.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }

    /// Nothing that was acknowledged is missing on the node that leads, the other one has the same, and no client has noticed
    /// anything.
    async fn finish(self, name: &str, leader: usize) {
        let (primary, standby) = (&self.databases[leader], &self.databases[1 - leader]);
        let events = self.load.finish(primary).await;
        eprintln!("{name}: {events} events, with pauses of {:?} s", pauses(primary, "books").await);
        for sidecar in &self.sidecars {
            eventually("it is ready", || async { sidecar.get("/readyz").await.0 == 200 }).await;
        }
        let log = everything(primary).await;
        eventually("the standby has the same", || async { everything(standby).await == log }).await;
        assert_eq!(self.witness.troubles(), Troubles::NONE);
        let mut check = Start::program();
        run(check.arg("check").env("DATABASE_URL", &self.url).env("LIVESTORE_LISTEN", "127.0.0.1:0"));
    }
}

async fn everything_survives<M: Manager>(name: &str, mut managed: Managed<M>) {
    let mut clients = Clients::on(&managed).await;

    let start = Instant::now();
    managed.nodes[0].lose(managed.agents[0].take().unwrap());
    clients.push().await;
    eprintln!("{name}: the primary's machine is lost, and a push is acknowledged after {:?}", start.elapsed());
    clients.follow(1).await;

    managed.start_agent(0);
    managed.settles(1).await;
    eprintln!("{name}: the old primary is a standby after {:?}", start.elapsed());
    clients.push().await;

    let mut switch_over = managed.manager.switch_over(1);
    let switching = tokio::task::spawn_blocking(move || run(&mut switch_over));
    clients.push().await;
    switching.await.unwrap();
    managed.settles(0).await;
    clients.follow(0).await;

    // Some managers start it again, others promote the standby.
    let start = Instant::now();
    let first = managed.nodes[0];
    tokio::task::spawn_blocking(|| first.kill()).await.unwrap();
    clients.push().await;
    eprintln!("{name}: Postgres alone is killed, and a push is acknowledged after {:?}", start.elapsed());
    clients.finish(name, managed.leader().await).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make test-all runs it"]
async fn patroni_fails_over() {
    let nodes = [Cluster::managed().leak(), Cluster::managed().leak()];
    everything_survives("Patroni", Managed::start(nodes, Patroni::of(nodes)).await).await;
}

/// Postgres goes on as a primary that nobody fences. Its commits wait for a standby that it has no more.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "make test-all runs it"]
async fn a_primary_that_patroni_has_lost_is_left() {
    let nodes = [Cluster::managed().leak(), Cluster::managed().leak()];
    let mut managed = Managed::start(nodes, Patroni::of(nodes)).await;
    let mut clients = Clients::on(&managed).await;
    let start = Instant::now();
    managed.agents[0] = None;
    eventually("the standby is promoted", || async {
        let admin = nodes[1].connect("postgres", "postgres").await;
        !admin.query_one("select pg_is_in_recovery()", &[]).await.unwrap().get::<_, bool>(0)
    })
    .await;
    eprintln!("the standby is promoted after {:?}", start.elapsed());
    clients.push().await;
    eprintln!("a push is acknowledged after {:?}", start.elapsed());
    managed.start_agent(0);
    managed.settles(1).await;
    clients.finish("Patroni, whose agent was killed", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make test-all runs it"]
async fn pg_auto_failover_fails_over() {
    let nodes = [Cluster::managed().leak(), Cluster::managed().leak()];
    everything_survives("pg_auto_failover", Managed::start(nodes, PgAutoFailover::of(nodes).await).await).await;
}
