//! How far subscriptions are, and how many events do not fit their type, for the metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::postgres::{Database, DatabaseError};
use crate::telemetry::chain;
use crate::telemetry::metrics::SubscriptionLag;

/// The shortest interval at which the database is asked.
const INTERVAL: Duration = Duration::from_secs(5);

/// The subscriptions that have metrics of their own: those with dead letters, then those that are furthest behind, and all that have had
/// metrics before. Only administrators make them, so there are few.
const MOST: i64 = 100;

/// The most misfits that are counted.
const MOST_MISFITS: i64 = 10_000;

/// The state of the subscriptions, and the number of misfits, when they were last read. Cheap to clone.
#[derive(Clone, Default)]
pub struct SubscriptionGauges(Arc<Gauges>);

#[derive(Default)]
struct Gauges {
    lags: Mutex<Vec<SubscriptionLag>>,
    misfits: AtomicU64,
    /// Somebody reads them.
    asked: Notify,
}

impl SubscriptionGauges {
    /// As they were when the database was asked last. It is asked again for whoever reads them next.
    pub fn read(&self) -> Vec<SubscriptionLag> {
        self.0.asked.notify_one();
        self.0.lags.lock().clone()
    }

    /// The same for the number of misfits.
    pub fn misfits(&self) -> u64 {
        self.0.misfits.load(Ordering::Relaxed)
    }

    /// Those that were removed have nothing to do any more: a gauge keeps the value that it had last.
    fn set(&self, mut lags: Vec<SubscriptionLag>) {
        let mut before = self.0.lags.lock();
        let gone = before.drain(..).filter(|old| lags.iter().all(|new| new.subscription != old.subscription));
        let gone: Vec<_> = gone.map(|old| SubscriptionLag::nothing(old.subscription)).take(MOST as usize).collect();
        lags.extend(gone);
        *before = lags;
    }
}

/// Never ends.
pub async fn run(database: Database, gauges: SubscriptionGauges) {
    loop {
        // A database that nobody asks about is left alone.
        gauges.0.asked.notified().await;
        database.demand().awake().await;
        let known: Vec<String> = gauges.0.lags.lock().iter().map(|lag| lag.subscription.clone()).collect();
        match read(&database, &known).await {
            Ok((lags, misfits)) => {
                gauges.set(lags);
                gauges.0.misfits.store(misfits.unsigned_abs(), Ordering::Relaxed);
            }
            Err(error) if error.retry().may_pass() && !error.is_cancelled() => {
                debug!(shard = database.label(), error = %chain(&error), "cannot read how far subscriptions are")
            }
            // The gauges keep their values, which nobody can tell from current ones.
            Err(error) => {
                warn!(shard = database.label(), error = %chain(&error), "cannot read how far subscriptions are");
            }
        }
        sleep(INTERVAL).await;
    }
}

/// `known`: those that have metrics. Without a new value, theirs would be that of a subscription that was removed.
async fn read(database: &Database, known: &[String]) -> Result<(Vec<SubscriptionLag>, i64), DatabaseError> {
    let client = database.background_client().await?;
    let select = "select s.name, s.lag_events::float8, s.lag_seconds, s.failures::float8, s.dead_letters::float8
         from (
             select name, lag_events, lag_seconds, failures, dead_letters, row_number() over (
                 order by dead_letters > 0 desc, lag_events desc nulls last, name collate \"C\"
             ) as rank
             from livestore.subscriptions
         ) s
         where s.rank <= $1 or s.name = any ($2)";
    let asked = async { client.query(&client.prepare_cached(select).await?, &[&MOST, &known]).await };
    let rows = client.read_in_time(asked).await??;
    let lag = |row: &tokio_postgres::Row| {
        Ok(SubscriptionLag {
            subscription: row.try_get(0)?,
            events: row.try_get(1)?,
            seconds: row.try_get(2)?,
            failures: row.try_get(3)?,
            dead_letters: row.try_get(4)?,
        })
    };
    let lags = rows.iter().map(lag).collect::<Result<_, DatabaseError>>()?;
    let count = "select count(*) from (select from livestore.misfits limit $1) m";
    let asked = async { client.query_one(&client.prepare_cached(count).await?, &[&MOST_MISFITS]).await };
    let misfits = client.read_in_time(asked).await??;
    Ok((lags, misfits.try_get(0)?))
}
