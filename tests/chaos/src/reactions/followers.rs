//! Readers of all stores of a database, by `livestore.read_all`: each remembers the position up to which it has read, and nothing else.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_postgres::{Client, Error};

use super::placed;
use crate::history::{Followed, Recorder};
use crate::system::System;

const FOLLOWERS: u64 = 2;

/// An event of somebody else has no numbers: it is none of this run.
const READ: &str = "
    select position, store_id, seq_num, (args->>'client')::bigint as client, (args->>'n')::bigint as n, change
    from livestore.read_all($1, null, $2)";

pub fn start(system: &Arc<System>, recorder: &Recorder, seed: u64, is_over: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    let follow = |(database, number): (usize, u64)| {
        let mut follower = Follower {
            name: format!("follower {number}"),
            database,
            departed: HashSet::new(),
            position: 0,
            random: ChaCha8Rng::seed_from_u64(seed ^ number ^ (database as u64) << 16),
            recorder: recorder.clone(),
        };
        let (system, is_over) = (Arc::clone(system), Arc::clone(is_over));
        tokio::spawn(async move {
            let mut client = system.connect(database).await;
            loop {
                // Asked before the read: what is committed later need not be read.
                let is_last = is_over.load(Ordering::SeqCst);
                match follower.read(&client).await {
                    Ok(0) if is_last => return,
                    Ok(_) => {}
                    Err(_) => client = system.connect(database).await,
                }
                let pause = follower.random.random_range(0..100);
                sleep(Duration::from_millis(pause)).await;
            }
        })
    };
    let databases = system.databases().flat_map(|database| (0..FOLLOWERS).map(move |number| (database, number)));
    databases.map(follow).collect()
}

struct Follower {
    name: String,
    database: usize,
    /// The stores that have left this database.
    departed: HashSet<String>,
    position: i64,
    random: ChaCha8Rng,
    recorder: Recorder,
}

impl Follower {
    /// Returns the number of rows.
    async fn read(&mut self, client: &Client) -> Result<usize, Error> {
        let most: i32 = self.random.random_range(1..500);
        let rows = client.query(READ, &[&self.position, &most]).await?;
        for row in &rows {
            self.position = row.get("position");
            let (store, change) = (row.get::<_, Option<&str>>("store_id"), row.get::<_, Option<&str>>("change"));
            let Some(store) = store else { continue };
            match change {
                Some("leave") => drop(self.departed.insert(store.into())),
                Some("arrive") => drop(self.departed.remove(store)),
                None if row.get::<_, Option<i64>>("seq_num").is_some() => {
                    let (database, has_left) = (self.database, self.departed.contains(store));
                    let followed = Followed { database, has_left, position: Some(self.position), placed: placed(row) };
                    self.recorder.follow(store, &self.name, false, followed);
                }
                _ => {}
            }
        }
        Ok(rows.len())
    }
}
