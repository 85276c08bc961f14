//! The system under test: Postgres, several sidecars, and a network, between them and to the clients, that can be broken.

mod clock;
mod disk;
mod place;
mod postgres;
mod shards;

use std::ops::Range;

use livestore_tests::cluster::{Cluster, Database};
use tokio::sync::Mutex;
use tokio_postgres::Client;

pub use clock::{Clock, Machine};
pub use disk::Disk;
pub use place::{POOLED, Place};
pub use postgres::Postgres;
pub use shards::{Kill, Part, Shards};

pub struct System {
    /// The database, or the first shard.
    pub postgres: Postgres,
    /// The rest, if there are shards.
    pub shards: Option<Shards>,
    pub places: Vec<Place>,
    /// Nothing, if libfaketime is not there.
    pub clock: Option<Clock>,
    /// A connection as the superuser, from a moment when there were some.
    admin: Mutex<Option<Client>>,
}

impl System {
    /// Starts Postgres, with a standby or without, and with another shard or without, and so many sidecars.
    pub async fn start(sidecars: usize, has_standby: bool, has_shards: bool) -> Self {
        let clock = Clock::find();
        let postgres = Postgres::start(has_standby, clock.as_ref()).await;
        let shards = if has_shards { Some(Shards::start(&postgres).await) } else { None };
        let mut places = Vec::new();
        for number in 0..sidecars {
            places.push(Place::open(number, &postgres, shards.as_ref(), clock.as_ref()).await);
        }
        Self { postgres, shards, places, clock, admin: Mutex::new(None) }
    }

    /// Runs statements in the first database as the superuser, on a new connection if the last one is gone, until they succeed or Postgres refuses
    /// them for a reason of its own.
    ///
    /// # Errors
    /// That of the last attempt.
    pub async fn execute(&self, statements: &str) -> Result<(), tokio_postgres::Error> {
        let mut admin = self.admin.lock().await;
        let client = match admin.take() {
            Some(client) if !client.is_closed() => client,
            _ => self.try_connect(0).await?,
        };
        let done = client.batch_execute(statements).await;
        *admin = Some(client);
        done
    }

    /// The same again and again for as long as Postgres may be away.
    pub async fn insist(&self, statements: &str) {
        for _ in 0..200 {
            match self.execute(statements).await {
                Ok(()) => return,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            }
        }
        eprintln!("chaos: Postgres does not do this: {statements}");
    }

    /// The numbers of the databases with stores.
    pub fn databases(&self) -> Range<usize> {
        0..1 + usize::from(self.shards.is_some())
    }

    /// A database with stores, on the server that is its primary now.
    pub fn database(&self, number: usize) -> Database {
        let further = self.shards.as_ref().filter(|_| number > 0);
        further.map_or_else(|| self.postgres.database(), |shards| shards.second().clone())
    }

    /// All clusters: a primary, its standby, and that of the second shard.
    pub fn clusters(&self) -> impl Iterator<Item = &'static Cluster> {
        self.postgres.clusters().chain(self.shards.as_ref().map(Shards::cluster))
    }

    /// The number of the database that has a store, or would create it.
    pub async fn database_of(&self, store: &str) -> usize {
        match &self.shards {
            Some(shards) => shards.of(store).await,
            None => 0,
        }
    }

    /// A connection of one's own to a database with stores, as soon as there is one.
    pub async fn connect(&self, number: usize) -> Client {
        loop {
            match self.try_connect(number).await {
                Ok(client) => return client,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            }
        }
    }

    /// The same to the one that has a store.
    pub async fn connect_for(&self, store: &str) -> Client {
        self.connect(self.database_of(store).await).await
    }

    async fn try_connect(&self, number: usize) -> Result<Client, tokio_postgres::Error> {
        let database = self.database(number);
        database.cluster().try_connect("postgres", database.name()).await
    }
}
