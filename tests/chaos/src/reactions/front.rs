//! An application at the front of the shards, which commits events with keys: each one again and again, until it is acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use super::STORES;
use crate::history::{EventId, Outcome, Placed, Push, Recorder};
use crate::system::{Shards, System};

/// The first number of an application: those of devices and of other writers are others.
const FIRST: u32 = 15_000;
const APPLICATIONS: u32 = 2;

/// A shard may be away without a word.
const PATIENCE: Duration = Duration::from_secs(10);

const COMMIT: &str =
    "select livestore.commit($1, 'e', json_build_object('client', $2::bigint, 'n', $3::bigint), key => $4)";

/// Without shards, there is no front.
pub fn start(system: &Arc<System>, recorder: &Recorder, seed: u64, is_over: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    if system.shards.is_none() {
        return Vec::new();
    }
    let applications = (FIRST..FIRST + APPLICATIONS).map(|number| {
        let (system, recorder, is_over) = (Arc::clone(system), recorder.clone(), Arc::clone(is_over));
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ (u64::from(number) << 32));
        tokio::spawn(async move {
            let Some(shards) = &system.shards else { return };
            let mut client = None;
            let mut n = 0;
            while !is_over.load(Ordering::SeqCst) {
                n += 1;
                let store = format!("sql-{}", random.random_range(STORES));
                commit(shards, &mut client, &recorder, &store, EventId { client: number, n }).await;
                sleep(Duration::from_millis(random.random_range(0..300))).await;
            }
        })
    });
    applications.collect()
}

/// Commits one event. Its number is known only when it is acknowledged.
async fn commit(shards: &Shards, client: &mut Option<Client>, recorder: &Recorder, store: &str, event: EventId) {
    let (start, key) = (recorder.now(), format!("{} {}", event.client, event.n));
    let seq_num = loop {
        let connected = match client.take() {
            Some(client) => client,
            None => shards.connect_to_front().await,
        };
        let (number, n) = (i64::from(event.client), i64::from(event.n));
        let answer = timeout(PATIENCE, connected.query_one(COMMIT, &[&store, &number, &n, &key])).await;
        match answer {
            Ok(Ok(row)) => {
                *client = Some(connected);
                break row.get(0);
            }
            Ok(Err(_)) if !connected.is_closed() => *client = Some(connected),
            // The statement may go on without us.
            _ => {}
        }
        sleep(Duration::from_millis(50)).await;
    };
    let push = Push {
        client: event.client,
        dialect: "front".into(),
        since: start,
        start,
        end: recorder.now(),
        outcome: Outcome::Ok,
        events: vec![Placed { seq_num, event }],
    };
    recorder.push_begins(store, push);
}
