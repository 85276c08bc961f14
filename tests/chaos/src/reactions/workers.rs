//! Programs that share a durable subscription of a database by `livestore.poll`: each writes what it makes of events in the transaction that
//! acknowledges them, and dies now and then before it has.

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

const WORKERS: u64 = 3;

const SUBSCRIBE: &str = "
    create table public.worked (id bigint generated always as identity, store_id text, seq_num bigint, client bigint, n bigint);
    select livestore.subscribe('polled', partitions => 4, max_failures => 1000, start => 'beginning')";

/// The worker reads and writes in the same statement: one that dies in between has done neither.
const WORK: &str = "
    with given as materialized (select p.* from livestore.poll('polled', $1, '2 seconds') p), written as (
        insert into public.worked (store_id, seq_num, client, n)
        select g.store_id, g.seq_num, (g.args->>'client')::bigint, (g.args->>'n')::bigint
        from given g where g.change is null order by g.position
    )
    select min(g.lease), count(*) from given g";

pub async fn start(system: &Arc<System>, seed: u64, is_over: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    for database in system.databases() {
        let admin = system.connect(database).await;
        admin.batch_execute(SUBSCRIBE).await.expect("a subscription");
    }
    let work = |(database, number): (usize, u64)| {
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ (number << 40) ^ (database as u64) << 48);
        let (system, is_over) = (Arc::clone(system), Arc::clone(is_over));
        tokio::spawn(async move {
            let mut client = system.connect(database).await;
            loop {
                let is_last = is_over.load(Ordering::SeqCst);
                match work(&mut client, &mut random, !is_last).await {
                    // Leases of those that have died have to end first.
                    Ok(0) if is_last && is_done(&client).await => return,
                    Ok(_) => {}
                    Err(_) => client = system.connect(database).await,
                }
                sleep(Duration::from_millis(random.random_range(0..100))).await;
            }
        })
    };
    let databases = system.databases().flat_map(|database| (0..WORKERS).map(move |number| (database, number)));
    databases.map(work).collect()
}

/// Returns the number of events.
async fn work(client: &mut Client, random: &mut ChaCha8Rng, may_die: bool) -> Result<i64, Error> {
    // Given out in a transaction of its own, as a program does it that works for long.
    let most: i32 = random.random_range(1..200);
    let is_split = random.random_bool(0.5);
    if is_split {
        let rows = client
            .query(
                "select lease, store_id, seq_num, (args->>'client')::bigint as client, (args->>'n')::bigint as n, change
                 from livestore.poll('polled', $1, '2 seconds')",
                &[&most],
            )
            .await?;
        let Some(first) = rows.first() else { return Ok(0) };
        if may_die && random.random_bool(0.1) {
            return Ok(rows.len() as i64);
        }
        let pause = if random.random_bool(0.05) { 3000 } else { random.random_range(0..50) };
        sleep(Duration::from_millis(pause)).await;
        let transaction = client.transaction().await?;
        for row in rows.iter().filter(|row| row.get::<_, Option<&str>>("change").is_none()) {
            let placed = placed(row);
            let (client, n) = (i64::from(placed.event.client), i64::from(placed.event.n));
            let insert = "insert into public.worked (store_id, seq_num, client, n) values ($1, $2, $3, $4)";
            transaction.execute(insert, &[&row.get::<_, &str>("store_id"), &placed.seq_num, &client, &n]).await?;
        }
        // Raises LS007 if another worker has them, which undoes what this one has written.
        transaction.execute("select livestore.ack($1)", &[&first.get::<_, &str>("lease")]).await?;
        transaction.commit().await?;
        return Ok(rows.len() as i64);
    }
    let transaction = client.transaction().await?;
    let row = transaction.query_one(WORK, &[&most]).await?;
    let (lease, count): (Option<String>, i64) = (row.get(0), row.get(1));
    if may_die && random.random_bool(0.1) {
        transaction.rollback().await?;
        return Ok(count);
    }
    if let Some(lease) = lease {
        transaction.execute("select livestore.ack($1)", &[&lease]).await?;
    }
    transaction.commit().await?;
    Ok(count)
}

async fn is_done(client: &Client) -> bool {
    let lag = "select lag_events = 0 and history_stores = 0 from livestore.subscriptions where name = 'polled'";
    client.query_one(lag, &[]).await.is_ok_and(|row| row.get(0))
}

/// Takes down what they have written.
pub async fn record(system: &System, recorder: &Recorder) {
    for database in system.databases() {
        let admin = system.connect(database).await;
        let rows = admin.query("select store_id, seq_num, client, n from public.worked order by id", &[]).await;
        for row in rows.expect("what the workers have written") {
            let followed = Followed { database, has_left: false, position: None, placed: placed(&row) };
            recorder.follow(row.get("store_id"), "workers", false, followed);
        }
    }
}
