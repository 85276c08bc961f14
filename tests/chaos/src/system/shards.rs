//! A second shard, and the front, on a cluster of their own that nothing happens to. The first shard is the Postgres of every run.

use std::process::{Output, Stdio};
use std::time::Duration;

use livestore_tests::cluster::{Cluster, Database};
use livestore_tests::sidecar::Start;
use livestore_tests::watchdog;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::sleep;
use tokio_postgres::{Client, Error, NoTls};

use super::Postgres;

/// The names of the shards, by their numbers.
const NAMES: [&str; 2] = ["one", "two"];

/// The database of the front.
const FRONT: &str = "front";

/// The shard of a store, by the map of the front.
const OF: &str = "
    select coalesce(
        (select k.shard from unnest(m.moved_store_ids, m.moved_shards) k(store_id, shard) where k.store_id = $1),
        m.slots[livestore.slot($1, cardinality(m.slots)) + 1]
    )
    from livestore.shard_map() m";

/// The shard of its slot.
const OF_SLOT: &str = "select m.slots[livestore.slot($1, cardinality(m.slots)) + 1] from livestore.shard_map() m";

/// The map with other ports for the first shard. Sidecars take the address of a shard from their front, so that all of them would go the same
/// way; with a front for each, which asks the real one, each has its own network and its own pooler.
const FRONT_OF_A_PLACE: &str = "
    create extension plproxy;
    create schema livestore;
    create function livestore.real_map(
        out names text[], out numbers integer[], out connections text[], out slots integer[], out moved_store_ids text[],
        out moved_shards integer[]
    ) language plproxy as $$
        connect 'host=127.0.0.1 port={port} dbname=front user=postgres';
        select names, numbers, connections, slots, moved_store_ids, moved_shards from livestore.shard_map();
    $$;
    create function livestore.shard_map(
        out names text[], out numbers integer[], out connections text[], out slots integer[], out moved_store_ids text[],
        out moved_shards integer[]
    ) language sql security definer as $$
        select m.names, m.numbers,
            array(select replace(c.c, ' port={ports} ', ' port={theirs} ') from unnest(m.connections) with ordinality c(c, n) order by c.n),
            m.slots, m.moved_store_ids, m.moved_shards
        from livestore.real_map() m
    $$;
    grant usage on schema livestore to sidecar";

/// The part of the stores that goes to another shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Store(String),
    /// All stores of a slot.
    Slot(i32),
}

/// The time that a command may take. It waits for transactions of others, and for a shard that is away without a word.
const LONGEST: Duration = Duration::from_secs(90);

/// The moment at which a command is killed, if it has not ended before.
#[derive(Debug, Clone, Copy)]
pub enum Kill {
    Never,
    After(Duration),
    /// The shard has given the stores away, and the front does not know it.
    WhenGivenAway,
}

pub struct Shards {
    cluster: &'static Cluster,
    second: Database,
    /// The URLs of the shards for a superuser.
    urls: [String; 2],
    /// The ports of the first shard, as in its connection.
    ports: String,
    /// A connection to the front, as the superuser.
    front: Mutex<Option<Client>>,
    /// Everything that the commands have printed.
    log: Mutex<Vec<String>>,
}

impl Shards {
    /// Makes the shards of the database, which has no stores yet, and of another one.
    pub async fn start(first: &Postgres) -> Self {
        let cluster = tokio::task::spawn_blocking(Cluster::start).await.expect("a cluster").leak();
        let second = cluster.database().await;
        create(cluster, FRONT).await;
        // Its password is for something.
        for cluster in first.clusters().chain([cluster]) {
            let file = cluster.folder().join("data/pg_hba.conf");
            let before = std::fs::read_to_string(&file).expect("pg_hba.conf");
            let line = "host all livestore_front 127.0.0.1/32 scram-sha-256";
            std::fs::write(&file, format!("{line}\n{before}")).expect("pg_hba.conf");
            let postgres = cluster.connect("postgres", "postgres").await;
            postgres.batch_execute("select pg_reload_conf()").await.expect("it can be read again");
        }
        let ports: Vec<_> = first.clusters().map(Cluster::port).collect();
        let database = first.database();
        let urls = [database.url_at_any("postgres", &ports), second.url("postgres")];
        let ports = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        let shards = Self { cluster, second, urls, ports, front: Mutex::default(), log: Mutex::default() };
        let [one, two] = [0, 1].map(|shard| shards.named_url(shard));
        let made = shards.changing("init").args(["--shard", &one, "--shard", &two]).output().await;
        told(&made.expect("the program")).expect("a front");
        shards
    }

    pub fn second(&self) -> &Database {
        &self.second
    }

    pub fn cluster(&self) -> &'static Cluster {
        self.cluster
    }

    fn named_url(&self, shard: usize) -> String {
        format!("{}={}", NAMES[shard], self.urls[shard])
    }

    /// The front's URL for the sidecar of a place, which reaches the first shard at these ports.
    pub async fn front_of_place(&self, place: usize, ports: &[u16]) -> String {
        let name = format!("{FRONT}_{place}");
        create(self.cluster, &name).await;
        let theirs = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        let statements = FRONT_OF_A_PLACE
            .replace("{port}", &self.cluster.port().to_string())
            .replace("{ports}", &self.ports)
            .replace("{theirs}", &theirs);
        let front = self.cluster.connect("postgres", &name).await;
        front.batch_execute(&statements).await.expect("the front of a place");
        self.cluster.url("sidecar", &name)
    }

    /// A connection to the front, as an application has it.
    pub async fn connect_to_front(&self) -> Client {
        self.cluster.connect("sidecar", FRONT).await
    }

    /// The shard of a store now.
    pub async fn of(&self, store: &str) -> usize {
        usize::try_from(self.ask(OF, store).await).expect("a number")
    }

    /// The slot of a store, and the shard of that now.
    pub async fn slot_of(&self, store: &str) -> (i32, usize) {
        let slot = self.ask("select livestore.slot($1, livestore.slot_count())", store).await;
        (slot, usize::try_from(self.ask(OF_SLOT, store).await).expect("a number"))
    }

    async fn ask(&self, question: &str, store: &str) -> i32 {
        let mut front = self.front.lock().await;
        let client = match front.take() {
            Some(client) => client,
            None => self.cluster.connect("postgres", FRONT).await,
        };
        let row = client.query_one(question, &[&store]).await.expect("the map");
        *front = Some(client);
        row.get(0)
    }

    /// A command that changes the shards.
    fn changing(&self, name: &str) -> Command {
        let mut command = command(name);
        command.args(["--front", &self.cluster.url("postgres", FRONT)]);
        command
    }

    /// Asks whether the front and both shards agree where everything is, and no move is unfinished.
    ///
    /// # Errors
    /// The fault, in words.
    pub async fn agree(&self) -> Result<(), String> {
        let url = self.cluster.url("reader", FRONT);
        let asked = command("status").args(["--database-url", &url]).output().await;
        told(&asked.expect("the program")).map(drop)
    }

    /// Runs the command that brings a part of the stores from a shard to the other one, once, and kills it then.
    ///
    /// Returns what it has printed.
    ///
    /// # Errors
    /// The same if it fails, or that it was killed.
    pub async fn carry(&self, part: &Part, from: usize, kill: Kill) -> Result<String, String> {
        let mut command = self.changing("move");
        command.args(["--from", &self.named_url(from), "--to", &self.named_url(1 - from)]);
        match part {
            Part::Store(store) => command.args(["--store", store]),
            Part::Slot(slot) => command.args(["--slot", &slot.to_string()]),
        };
        let child = command.spawn().expect("the program");
        child.id().into_iter().for_each(watchdog::watch);
        // Dropped, it is killed.
        let ended = tokio::select! {
            output = child.wait_with_output() => told(&output.expect("the program")),
            () = self.wait_for(kill, from) => Err(format!("killed: {kill:?}")),
            () = sleep(LONGEST) => Err(format!("killed after {LONGEST:?}")),
        };
        let text = ended.as_ref().map_or_else(Clone::clone, |text| text.clone());
        self.log.lock().await.push(format!("{part:?} from {}: {text}", NAMES[from]));
        ended
    }

    async fn wait_for(&self, kill: Kill, from: usize) {
        match kill {
            Kill::Never => std::future::pending().await,
            Kill::After(time) => sleep(time).await,
            Kill::WhenGivenAway => {
                let mut before = None;
                while self.is_given_away(from, &mut before).await.is_err() {
                    sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Waits until the shard has given something away. `before`: its last move before.
    async fn is_given_away(&self, from: usize, before: &mut Option<i64>) -> Result<(), Error> {
        const LAST: &str = "select coalesce(max(m.id), 0) from livestore.shard_moves m";
        let (client, connection) = tokio_postgres::connect(&self.urls[from], NoTls).await?;
        tokio::spawn(connection);
        loop {
            let last: i64 = client.query_one(LAST, &[]).await?.get(0);
            if last > *before.get_or_insert(last) {
                return Ok(());
            }
        }
    }

    /// Everything that the commands have printed.
    pub async fn log(&self) -> String {
        self.log.lock().await.join("\n")
    }
}

fn command(name: &str) -> Command {
    let mut command = Command::from(Start::program());
    command
        .args(["shards", name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn create(cluster: &Cluster, database: &str) {
    let postgres = cluster.connect("postgres", "postgres").await;
    postgres.batch_execute(&format!("create database {database} template template0")).await.expect("a database");
}

/// Everything that a command has printed, as an error if it failed.
fn told(output: &Output) -> Result<String, String> {
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let text = format!("{}: {} {}", output.status, out.trim(), error.trim());
    if output.status.success() { Ok(text) } else { Err(text) }
}
