//! What is tried: Postgres, several sidecars, and a network between them and to the clients that can be broken.

mod clock;
mod disk;
mod place;

use livestore_tests::cluster::{Cluster, Database};
use tokio::sync::Mutex;
use tokio_postgres::Client;

pub use clock::Clock;
pub use disk::Disk;
pub use place::Place;

/// Few connections, so that they can be exhausted; little WAL, so that a disk is soon full. Deadlocks and checkpoints as ever.
const SETTINGS: &str = "max_connections = 60\nmax_wal_size = '64MB'\nmin_wal_size = '32MB'\ncheckpoint_timeout = '30s'";

pub struct System {
    pub database: Database,
    pub places: Vec<Place>,
    /// Nothing, if this machine does not let us mount one.
    pub disk: Option<Disk>,
    /// Nothing, if libfaketime is not there.
    pub clock: Option<Clock>,
    /// A connection as the superuser, from a moment when there were some.
    admin: Mutex<Option<Client>>,
}

impl System {
    /// Starts Postgres and so many sidecars.
    pub async fn start(sidecars: usize) -> Self {
        let disk = Disk::mount();
        let parent = disk.as_ref().map_or_else(std::env::temp_dir, |disk| disk.folder().to_path_buf());
        let starting = tokio::task::spawn_blocking(move || Cluster::start_in(&parent, SETTINGS).leak());
        let cluster = starting.await.expect("a cluster");
        if let Some(disk) = &disk {
            disk.unmount_after(cluster.folder());
        }
        let database = cluster.database().await;
        let clock = Clock::find();
        let mut places = Vec::new();
        for number in 0..sidecars {
            places.push(Place::open(number, &database, clock.as_ref()).await);
        }
        Self { database, places, disk, clock, admin: Mutex::new(None) }
    }

    /// Runs statements as the superuser, on a new connection if the last one is gone, until they succeed or Postgres refuses
    /// them for a reason of its own.
    ///
    /// # Errors
    /// That of the last attempt.
    pub async fn execute(&self, statements: &str) -> Result<(), tokio_postgres::Error> {
        let mut admin = self.admin.lock().await;
        let client = match admin.take() {
            Some(client) if !client.is_closed() => client,
            _ => self.database.cluster().try_connect("postgres", self.database.name()).await?,
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

    /// A connection of one's own, as soon as there is one.
    pub async fn connect(&self) -> Client {
        loop {
            match self.database.cluster().try_connect("postgres", self.database.name()).await {
                Ok(client) => return client,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            }
        }
    }

    /// Starts Postgres if it does not run.
    pub async fn raise_postgres(&self) {
        let cluster = self.database.cluster();
        for _ in 0..20 {
            if self.database.cluster().try_connect("postgres", self.database.name()).await.is_ok() {
                return;
            }
            let start = move || cluster.try_pg_ctl(&["start", "-t", "10"]);
            let _ = tokio::task::spawn_blocking(start).await;
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
        eprintln!("chaos: Postgres does not start; its log is in {}", cluster.folder().display());
    }
}
