//! Durable subscriptions that sidecars serve: those with a handler, a function in the database, and those with a URL, which get
//! webhooks. Every sidecar does this; the database gives each batch of events to one of them.

mod breaker;
mod handlers;
mod lag;
mod webhooks;

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use crate::postgres::{Database, DatabaseError};
use crate::shutdown::Ending;
use crate::webhook::Webhooks;

pub use lag::SubscriptionGauges;

/// The interval at which everything is looked at, although nothing was notified: a sidecar that has died may have had events.
const INTERVAL: Duration = Duration::from_secs(15);

/// The interval at which the list of subscriptions is read, although nothing was notified.
const LIST_INTERVAL: Duration = Duration::from_secs(60);

/// The pause after something has failed.
const RETRY: Duration = Duration::from_secs(1);

/// The shortest time between two rounds: any role of the database can send notifications, as many as it likes.
const REST: Duration = Duration::from_millis(20);

/// The same after a round that found nothing: most commits may have nothing for anybody here.
const EMPTY_REST: Duration = Duration::from_millis(200);

/// `livestore.poll` passes over events of no interest for so long. A call that took as long and returned nothing may not have come to the end.
const LOOK: Duration = Duration::from_secs(1);

/// The number of events of one batch.
const BATCH: i32 = 100;

/// News for those who serve subscriptions.
#[derive(Debug, Default)]
pub struct Wake {
    commits: watch::Sender<()>,
    subscriptions: watch::Sender<()>,
}

impl Wake {
    /// Events were committed.
    pub fn committed(&self) {
        self.commits.send_replace(());
    }

    /// Subscriptions were made, or notifications were missed.
    pub fn changed(&self) {
        self.subscriptions.send_replace(());
        self.commits.send_replace(());
    }
}

/// Serves all subscriptions on `tasks`, which never end. When the process ends, nothing more is sent; `under_way` tracks what is on
/// its way to a receiver, which at the last moment is given back.
pub fn start(
    database: &Database,
    wake: &Wake,
    webhooks: Webhooks,
    ending: Ending,
    under_way: TaskTracker,
    gauges: SubscriptionGauges,
    tasks: &mut JoinSet<()>,
) {
    tasks.spawn(handlers::run(database.clone(), wake.commits.subscribe(), wake.subscriptions.subscribe()));
    let (commits, subscriptions) = (wake.commits.subscribe(), wake.subscriptions.subscribe());
    tasks.spawn(webhooks::run(database.clone(), webhooks, ending, under_way, commits, subscriptions));
    tasks.spawn(lag::run(database.clone(), gauges));
}

/// A subscription that sidecars serve. Without a URL it has a handler.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Served {
    name: String,
    url: Option<String>,
}

async fn served(database: &Database) -> Result<Vec<Served>, DatabaseError> {
    let client = database.background_client().await?;
    let list = "select subscription, url from livestore.served_subscriptions()";
    let asked = async { client.query(&client.prepare_cached(list).await?, &[]).await };
    let rows = client.read_in_time(asked).await??;
    rows.iter().map(|row| Ok(Served { name: row.try_get(0)?, url: row.try_get(1)? })).collect()
}
