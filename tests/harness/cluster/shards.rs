//! `LIVESTORE_TEST_SHARDS=2`: each database of a test is a front, with that many shards behind it, and sidecars serve these (`--shards`).
//!
//! A server has shards of one front only, because the role of the front is the whole server's. Copies of a front and its shards
//! share seed and password, and the same role serves all of them: `livestore-sidecar shards init` runs once for each cluster, and each test gets
//! copies. SQL of a test goes to the front, whose functions are those of the product. `shards.sql` adds the rest: the
//! tables of all shards. [`Database::admin_of`] and [`Database::everywhere`] lead to the shards themselves.

use std::process::Stdio;
use std::sync::LazyLock;

use tokio_postgres::Client;

use super::{Cluster, Database, TEMPLATE};
use crate::sidecar::Start;

/// The template of the fronts. Those of its shards have its name and their number.
const FRONT: &str = "livestore_template_front";

/// The number of shards that `$LIVESTORE_TEST_SHARDS` says, if tests run with shards.
pub fn shards_of_tests() -> Option<usize> {
    static SHARDS: LazyLock<Option<usize>> = LazyLock::new(|| {
        let text = std::env::var("LIVESTORE_TEST_SHARDS").ok().filter(|text| !text.is_empty())?;
        let number = text.parse().ok().filter(|number| (2..=16).contains(number));
        Some(number.unwrap_or_else(|| panic!("LIVESTORE_TEST_SHARDS is a number from 2 to 16, and not {text}")))
    });
    *SHARDS
}

/// The databases behind a front: their names.
fn behind(front: &str) -> impl Iterator<Item = String> {
    (0..shards_of_tests().unwrap_or_default()).map(move |number| format!("{front}_{number}"))
}

/// Creates the templates of a front and its shards, if tests run with shards.
pub(super) async fn create_templates(cluster: &Cluster, postgres: &Client) {
    if shards_of_tests().is_none() {
        return;
    }
    create(postgres, FRONT, "template0").await;
    let mut init = Start::program();
    init.args(["shards", "init", "--front", &cluster.url("postgres", FRONT)]).stdout(Stdio::null());
    for (number, shard) in behind(FRONT).enumerate() {
        create(postgres, &shard, TEMPLATE).await;
        init.args(["--shard", &format!("{number}={}", cluster.url("postgres", &shard))]);
    }
    assert!(init.status().expect("the sidecar; was it built?").success(), "shards init");
    let front = cluster.connect("postgres", FRONT).await;
    front.batch_execute(include_str!("shards.sql")).await.expect("the tables of all shards");
}

/// Creates a front of this name with its shards, or nothing if tests run without shards.
pub(super) async fn copy_front(cluster: &Cluster, postgres: &Client, name: &str) -> bool {
    if shards_of_tests().is_none() {
        return false;
    }
    create(postgres, name, FRONT).await;
    for (shard, template) in behind(name).zip(behind(FRONT)) {
        create(postgres, &shard, &template).await;
    }
    let front = cluster.connect("postgres", name).await;
    front.batch_execute("select fixture.settle()").await.expect("a map");
    true
}

async fn create(postgres: &Client, name: &str, template: &str) {
    let create = format!("create database {name} template {template}");
    postgres.batch_execute(&create).await.expect("a database");
}

impl Database {
    /// The names of the databases that have stores: of this one, or of the shards behind it.
    pub fn names(&self) -> Vec<String> {
        match shards_of_tests() {
            None => vec![self.name.clone()],
            Some(_) => behind(&self.name).collect(),
        }
    }

    /// A connection as the superuser to the database that has a store: transactions and locks at a front are its own.
    pub async fn admin_of(&self, store: &str) -> Client {
        let admin = self.admin().await;
        if shards_of_tests().is_none() {
            return admin;
        }
        let number = "select o.number from livestore._slots() o where o.slot = livestore._route($1)";
        let number: i32 = admin.query_one(number, &[&store]).await.expect("a shard").get(0);
        self.cluster.connect("postgres", &format!("{}_{number}", self.name)).await
    }

    /// A connection as the superuser to the database that the peer relay uses: with shards, the first of them.
    pub async fn admin_of_relay(&self) -> Client {
        self.cluster.connect("postgres", &self.names()[0]).await
    }

    /// Runs statements in each database that has stores: hooks and functions are on each shard.
    pub async fn everywhere(&self, sql: &str) {
        for name in self.names() {
            let admin = self.cluster.connect("postgres", &name).await;
            admin.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        }
    }
}
