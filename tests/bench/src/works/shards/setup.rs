//! Shards for the benchmark: each is a Postgres of its own, as in production, and the front is a database on the server of the first.

use std::process::Stdio;

use livestore_tests::cluster::{Cluster, Database};
use livestore_tests::sidecar::{Sidecar, Start};
use tokio_postgres::{Client, NoTls};

use crate::systems::MORE_CONNECTIONS;

/// Of each Postgres. There are up to four beside one another, and a database that is alone has the same.
const POSTGRES_SETTINGS: &str = "shared_buffers = '512MB'\nmax_wal_size = '4GB'\nwal_compression = on\n";

/// A front and its shards.
pub struct Shards {
    pub shards: Vec<Database>,
    front: String,
}

/// A database on a Postgres of its own.
pub async fn alone() -> Database {
    let cluster = tokio::task::spawn_blocking(|| Cluster::start_with(POSTGRES_SETTINGS)).await.expect("a cluster");
    cluster.leak().database().await
}

/// A connection over the Unix socket, as the sidecars of this benchmark have them.
pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("a connection");
    tokio::spawn(connection);
    client
}

/// A sidecar at this address, which writes no line for each request.
pub async fn sidecar(url: String, arguments: &[&str]) -> Sidecar {
    Start::new(url)
        .arguments(&[MORE_CONNECTIONS])
        .arguments(arguments)
        .environment("LIVESTORE_LOG", "warn,livestore_sidecar=info,livestore_sidecar::server::observe=warn")
        .ready()
        .await
}

impl Shards {
    pub async fn start(count: usize) -> Self {
        let mut shards = Vec::new();
        for _ in 0..count {
            shards.push(alone().await);
        }
        let front = format!("front_of_{count}");
        let postgres = shards[0].cluster().connect("postgres", "postgres").await;
        postgres.batch_execute(&format!("create database {front} template template0")).await.expect("a database");
        let shards = Self { shards, front };
        let mut init = Start::program();
        init.args(["shards", "init", "--front", &shards.front_url("postgres")]).stdout(Stdio::null());
        for (number, shard) in shards.shards.iter().enumerate() {
            init.args(["--shard", &format!("shard-{number}={}", shard.socket_url("postgres"))]);
        }
        assert!(init.status().expect("the sidecar").success(), "shards init");
        shards
    }

    pub fn front_url(&self, role: &str) -> String {
        let shard = &self.shards[0];
        shard.socket_url(role).replace(&format!("/{}", shard.name()), &format!("/{}", self.front))
    }

    /// Stores with this beginning of their names, as many of each shard.
    pub async fn stores(&self, prefix: &str, of_each: usize) -> Vec<Vec<String>> {
        let front = connect(&self.front_url("postgres")).await;
        let sql = "select o.number, q.store_id
                   from (select $1 || i as store_id, i from generate_series(1, $2) i) q
                   join livestore._slots() o on o.slot = livestore._route(q.store_id)
                   order by q.i";
        let mut stores = vec![Vec::new(); self.shards.len()];
        // More than are taken: slots are not equally full.
        let tried = i32::try_from(of_each * self.shards.len() * 2 + 400).expect("a number");
        for row in front.query(sql, &[&prefix, &tried]).await.expect("stores") {
            let shard: &mut Vec<String> = &mut stores[usize::try_from(row.get::<_, i32>(0)).expect("a number")];
            if shard.len() < of_each {
                shard.push(row.get(1));
            }
        }
        assert!(stores.iter().all(|stores| stores.len() == of_each), "too few stores were tried");
        stores
    }

    pub fn stop(&self) {
        self.shards.iter().for_each(Database::stop);
    }
}
