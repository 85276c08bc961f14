//! What happens in the database beside the clients: SQL transactions that commit events, and everything that follows the events of all
//! stores: readers of the commit log, a handler, workers, and the receiver of a webhook. With shards, all of it is on each of them.

mod followers;
mod front;
mod subscriptions;
mod transactions;
mod workers;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::Row;

use crate::history::{EventId, Placed, Recorder};
use crate::system::System;

pub use subscriptions::SECRET;

/// The stores that only SQL writes to, by their numbers. With shards, two of them are on each to begin with.
const STORES: Range<usize> = 3..7;

/// The store that a deferred trigger writes to.
const AUDIT: &str = "sql-audit";

pub struct Reactions {
    system: Arc<System>,
    /// No more is written, and no more is read after that.
    is_written: Arc<AtomicBool>,
    is_over: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
    followers: Vec<JoinHandle<()>>,
    subscriptions: subscriptions::Subscriptions,
}

impl Reactions {
    pub async fn start(system: &Arc<System>, recorder: &Recorder, seed: u64) -> Self {
        transactions::create(system).await;
        let subscriptions = subscriptions::Subscriptions::start(system, recorder).await;
        let (is_written, is_over) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let mut writers = transactions::start(system, recorder, seed, &is_written);
        writers.extend(front::start(system, recorder, seed, &is_written));
        let mut followers = followers::start(system, recorder, seed, &is_over);
        followers.extend(workers::start(system, seed, &is_over).await);
        Self { system: Arc::clone(system), is_written, is_over, writers, followers, subscriptions }
    }

    /// The names of the stores that only SQL writes to.
    pub fn stores() -> impl Iterator<Item = String> {
        STORES.map(|n| format!("sql-{n}")).chain([AUDIT.to_owned()])
    }

    /// Ends the transactions, and waits until everybody has followed all events, at most so long.
    pub async fn finish(self, recorder: &Recorder, patience: Duration) {
        for (flag, tasks) in [(self.is_written, self.writers), (self.is_over, self.followers)] {
            flag.store(true, Ordering::SeqCst);
            let deadline = Instant::now() + patience;
            for mut task in tasks {
                match timeout_at(deadline, &mut task).await {
                    Ok(ended) => ended.expect("a task that ends"),
                    // It lacks events then, and the checker says which.
                    Err(_) => task.abort(),
                }
            }
        }
        transactions::record_audits(&self.system, recorder).await;
        workers::record(&self.system, recorder).await;
        self.subscriptions.finish(&self.system, recorder, patience).await;
    }
}

/// The event of a row that has its `seq_num`, and its args as `client` and `n`.
fn placed(row: &Row) -> Placed {
    let number = |name| u32::try_from(row.get::<_, i64>(name)).unwrap_or(u32::MAX);
    Placed { seq_num: row.get("seq_num"), event: EventId { client: number("client"), n: number("n") } }
}
