//! The system under test: Postgres, several sidecars, and a network, between them and to the clients, that can be broken.

mod clock;
mod disk;
mod place;
mod postgres;

use tokio::sync::Mutex;
use tokio_postgres::Client;

pub use clock::{Clock, Machine};
pub use disk::Disk;
pub use place::{POOLED, Place};
pub use postgres::Postgres;

pub struct System {
    pub postgres: Postgres,
    pub places: Vec<Place>,
    /// Nothing, if libfaketime is not there.
    pub clock: Option<Clock>,
    /// A connection as the superuser, from a moment when there were some.
    admin: Mutex<Option<Client>>,
}

impl System {
    /// Starts Postgres, with a standby or without, and so many sidecars.
    pub async fn start(sidecars: usize, has_standby: bool) -> Self {
        let clock = Clock::find();
        let postgres = Postgres::start(has_standby, clock.as_ref()).await;
        let mut places = Vec::new();
        for number in 0..sidecars {
            places.push(Place::open(number, &postgres, clock.as_ref()).await);
        }
        Self { postgres, places, clock, admin: Mutex::new(None) }
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
            _ => self.try_connect().await?,
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
            match self.try_connect().await {
                Ok(client) => return client,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            }
        }
    }

    async fn try_connect(&self) -> Result<Client, tokio_postgres::Error> {
        let database = self.postgres.database();
        database.cluster().try_connect("postgres", database.name()).await
    }
}
