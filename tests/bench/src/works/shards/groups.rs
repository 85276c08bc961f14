//! Groups of pushes from SQL: what a sidecar sends to Postgres when many clients push at the same time.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use livestore_tests::cluster::Database;
use tokio_postgres::{Client, Statement};

use super::setup::{Shards, connect};
use crate::measure::{Figure, postgres_cpu};
use crate::wire::batch;

/// The load on a system: callers, the stores of all of them, and the pushes of a group, of an event each.
#[derive(Clone, Copy)]
pub struct Load {
    pub callers: usize,
    pub stores: usize,
    pub group: usize,
}

/// One connection, with stores to which nobody else pushes.
struct Caller {
    client: Client,
    push: Statement,
    group: usize,
    stores: Vec<String>,
    heads: Vec<u64>,
    next: usize,
}

impl Caller {
    async fn open(url: &str, stores: Vec<String>, group: usize) -> Self {
        assert!(stores.len() >= group, "a group has no store twice");
        let client = connect(url).await;
        let nulls = format!("array_fill(null::text, array[{group}])");
        let push = format!("select push, head, sqlstate, message from livestore.push_batch($1, $2, {nulls})");
        let push = client.prepare(&push).await.expect("push_batch");
        let heads = vec![0; stores.len()];
        Self { client, push, group, stores, heads, next: 0 }
    }

    /// Pushes an event to each of the next stores.
    async fn push(&mut self) {
        let count = self.stores.len();
        let indexes: Vec<usize> = (0..self.group).map(|offset| (self.next + offset) % count).collect();
        self.next = (self.next + self.group) % count;
        let stores: Vec<&str> = indexes.iter().map(|&index| &*self.stores[index]).collect();
        let batches: Vec<String> = indexes
            .iter()
            .map(|&index| {
                let mut events = String::with_capacity(256);
                batch(&mut events, self.heads[index], 1);
                events
            })
            .collect();
        let rows = self.client.query(&self.push, &[&stores, &batches]).await.expect("an answer");
        assert_eq!(rows.len(), self.group, "an outcome for each push");
        for row in rows {
            let refused: Option<&str> = row.get(2);
            assert!(refused.is_none(), "{refused:?}: {:?}", row.get::<_, Option<&str>>(3));
            let position = usize::try_from(row.get::<_, i32>(0) - 1).expect("a position");
            self.heads[indexes[position]] += 1;
        }
    }

    async fn push_for(&mut self, time: Duration) -> usize {
        let (start, mut pushes) = (Instant::now(), 0);
        while start.elapsed() < time {
            self.push().await;
            pushes += self.group;
        }
        pushes
    }
}

/// One or several Postgres, and those who push to them.
pub struct System {
    name: String,
    callers: Vec<Caller>,
    postgres: Vec<Client>,
    rounds: Vec<f64>,
    pushes: usize,
    cpu: Duration,
}

impl System {
    /// One database.
    pub async fn alone(database: &Database, name: &str, prefix: &str, load: Load) -> Self {
        let Load { callers, stores, group } = load;
        let url = database.socket_url("sidecar");
        let of_caller = |caller| (0..stores / callers).map(|n| format!("{prefix}-{caller}-{n}")).collect();
        let callers = join_all((0..callers).map(|caller| Caller::open(&url, of_caller(caller), group))).await;
        Self::new(name, callers, std::slice::from_ref(database)).await
    }

    /// Shards: each caller calls the front, with stores of all shards.
    pub async fn by_front(shards: &Shards, name: &str, prefix: &str, load: Load) -> Self {
        let Load { callers, stores, group } = load;
        let url = shards.front_url("sidecar");
        let (count, of_shards) = (shards.shards.len(), shards.stores(prefix, stores / shards.shards.len()).await);
        // A group has stores of all shards.
        let mut of_callers = vec![Vec::new(); callers];
        for index in 0..stores / count {
            of_callers[index % callers].extend(of_shards.iter().map(|stores| stores[index].clone()));
        }
        let callers = join_all(of_callers.into_iter().map(|stores| Caller::open(&url, stores, group))).await;
        Self::new(name, callers, &shards.shards).await
    }

    /// Shards: each caller calls one of them, as a sidecar does for each shard.
    pub async fn directly(shards: &Shards, name: &str, prefix: &str, load: Load) -> Self {
        let Load { callers, stores, group } = load;
        let count = shards.shards.len();
        let mut of_shards = shards.stores(prefix, stores / count).await;
        let mut opened = Vec::new();
        for caller in 0..callers {
            let of_shard = &mut of_shards[caller % count];
            let own = of_shard.split_off(of_shard.len() - stores / callers);
            opened.push(Caller::open(&shards.shards[caller % count].socket_url("sidecar"), own, group).await);
        }
        Self::new(name, opened, &shards.shards).await
    }

    async fn new(name: &str, callers: Vec<Caller>, databases: &[Database]) -> Self {
        let postgres = join_all(databases.iter().map(Database::admin)).await;
        Self { name: name.into(), callers, postgres, rounds: Vec::new(), pushes: 0, cpu: Duration::ZERO }
    }

    /// Creates the stores, and has everything planned and cached.
    pub async fn warm_up(&mut self, time: Duration) {
        join_all(self.callers.iter_mut().map(|caller| async {
            for _ in 0..caller.stores.len().div_ceil(caller.group) {
                caller.push().await;
            }
            caller.push_for(time).await;
        }))
        .await;
    }

    pub async fn round(&mut self, time: Duration) {
        let (cpu, start) = (self.cpu_so_far().await, Instant::now());
        let pushed = join_all(self.callers.iter_mut().map(|caller| caller.push_for(time))).await;
        let pushes: usize = pushed.into_iter().sum();
        self.rounds.push(pushes as f64 / start.elapsed().as_secs_f64());
        self.pushes += pushes;
        self.cpu += self.cpu_so_far().await - cpu;
    }

    async fn cpu_so_far(&self) -> Duration {
        join_all(self.postgres.iter().map(postgres_cpu)).await.into_iter().sum()
    }

    pub fn figure(self) -> Figure {
        let each = self.cpu.as_secs_f64() * 1e6 / self.pushes as f64;
        Figure::new(&self.name, self.rounds).with_note(format!("{each:.0} µs of CPU of Postgres a push"))
    }
}
