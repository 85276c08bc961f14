//! Removes old entries from the commit log, `livestore.commits`, and the events of stores that are on another shard, once nobody reads them any more.

use std::time::Duration;

use tokio::time::sleep;
use tracing::{debug, warn};

use crate::postgres::{Database, DatabaseError};
use crate::telemetry::chain;

/// The interval between two rounds. All sidecars do this; a round that finds nothing costs a few pages.
const INTERVAL: Duration = Duration::from_secs(3600);

/// The time before the first round: a sidecar that starts has other work.
const DELAY: Duration = Duration::from_secs(30);

const PRUNE: &str = "select livestore.prune_old_commits()";

/// The entries that one call of it removes at most.
const PART: i64 = 500_000;

/// Never ends.
pub async fn run(database: Database) {
    let mut pause = DELAY;
    loop {
        sleep(pause).await;
        pause = INTERVAL;
        // A database that sleeps is not woken for this.
        database.demand().awake().await;
        match prune(&database).await {
            Ok(position) => debug!(shard = database.label(), position, "pruned the commit log"),
            Err(error) => {
                let shard = database.label();
                warn!(shard, error = %chain(&error), "cannot prune the commit log");
            }
        }
    }
}

/// Returns the position up to which entries have been removed. The database may have a version before stores could move.
async fn prune(database: &Database) -> Result<i64, DatabaseError> {
    let client = database.background_client().await?;
    // Postgres ends each statement after 30 s, so this cuts off none that does well.
    let ask = async |sql| {
        let asked = async { client.query_one(&client.prepare_cached(sql).await?, &[]).await };
        Ok::<_, DatabaseError>(client.in_time(asked).await??)
    };
    // The first call tells where the log began before the second one. An entry has one position at least.
    let mut position: i64 = ask(PRUNE).await?.try_get(0)?;
    loop {
        let before = std::mem::replace(&mut position, ask(PRUNE).await?.try_get(0)?);
        if position - before < PART {
            break;
        }
    }
    let can_move = ask("select to_regprocedure('livestore.remove_departed_store()') is not null").await?;
    if can_move.try_get(0)? {
        while ask("select livestore.remove_departed_store()").await?.try_get(0)? {}
    }
    Ok(position)
}
