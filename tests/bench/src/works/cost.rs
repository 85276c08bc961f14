//! The cost of a million events, for those who pay for processors, WAL and disk.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::{Size, say};
use crate::measure::{Figure, Processor, Section, postgres_cpu};
use crate::systems::Ours;
use crate::wire::rpc::Rpc;

const STORES: u64 = 64;
const FOLLOWERS: usize = 10;

/// The use of the machine so far.
#[derive(Debug, Clone, Copy)]
struct Used {
    sidecar: Duration,
    postgres: Duration,
    /// Bytes.
    wal: i64,
    disk: i64,
}

struct Meter<'a> {
    ours: &'a Ours,
    admin: Client,
}

impl<'a> Meter<'a> {
    async fn new(ours: &'a Ours) -> Self {
        Self { ours, admin: ours.database.admin().await }
    }

    async fn read(&self) -> Used {
        let sql = "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint,
            (select sum(pg_total_relation_size(oid))::bigint from pg_class where relnamespace = 'livestore'::regnamespace and relkind = 'r')";
        let row = self.admin.query_one(sql, &[]).await.expect("sizes");
        let sidecar = Processor::of(&self.ours.sidecar.pid().to_string()).map_or(Duration::ZERO, |sidecar| sidecar.own);
        Used { sidecar, postgres: postgres_cpu(&self.admin).await, wal: row.get(0), disk: row.get(1) }
    }

    /// What `work` takes.
    async fn take(&self, work: impl Future<Output = ()>) -> Used {
        self.admin.batch_execute("checkpoint").await.expect("a checkpoint");
        let before = self.read().await;
        work.await;
        let after = self.read().await;
        Used {
            sidecar: after.sidecar.saturating_sub(before.sidecar),
            postgres: after.postgres.saturating_sub(before.postgres),
            wal: after.wal - before.wal,
            disk: after.disk - before.disk,
        }
    }
}

fn store(run: &str, number: u64) -> String {
    format!("cost-{run}-{number}")
}

/// Each store gets so many events, one a push.
async fn push(ours: &Ours, run: &str, events: u64) {
    let mut writers = JoinSet::new();
    for number in 0..STORES {
        let (url, store) = (ours.sidecar.url(), store(run, number));
        writers.spawn(async move {
            let (mut writer, mut opened) = (Rpc::open(&url, &store, 0).await, Instant::now());
            for head in 0..events {
                // Ours closes a connection that has no pull after 15 seconds.
                if opened.elapsed() > Duration::from_secs(10) {
                    (writer, opened) = (Rpc::open(&url, &store, head).await, Instant::now());
                }
                writer.push(1).await;
            }
        });
    }
    writers.join_all().await;
}

/// The same, with ten who follow each store.
async fn push_to_followers(ours: &Ours, run: &str, events: u64) {
    let mut followers = JoinSet::new();
    for number in 0..STORES {
        for mut follower in join_all((0..FOLLOWERS).map(async |_| {
            let mut rpc = Rpc::open(&ours.sidecar.url(), &store(run, number), 0).await;
            rpc.follow().await;
            rpc
        }))
        .await
        {
            followers.spawn(async move {
                let mut received = 0;
                while received < events {
                    received += follower.next_page().await;
                }
            });
        }
    }
    push(ours, run, events).await;
    followers.join_all().await;
}

async fn read(ours: &Ours, run: &str, events: u64) {
    for number in 0..STORES {
        let received = Rpc::open_to_read(&ours.sidecar.url(), &store(run, number)).await.read(events).await;
        assert_eq!(received, events);
    }
}

pub async fn all(ours: &Ours, size: &Size) -> Vec<Section> {
    let events: u64 = if size.is_quick { 500 } else { 4_000 };
    say(format!("the cost of a million events, from {}", events * STORES));
    let meter = Meter::new(ours).await;
    push(ours, "warm", events / 10).await;
    let pushed = meter.take(push(ours, "alone", events)).await;
    let read = meter.take(read(ours, "alone", events)).await;
    let followed = meter.take(push_to_followers(ours, "followed", events)).await;

    let millions = (STORES * events) as f64 / 1e6;
    let seconds = |time: Duration| time.as_secs_f64() / millions;
    let more = |with: Duration, without: Duration| with.saturating_sub(without);
    let figure = |name: &str, time: Duration| Figure::new(name, vec![seconds(time)]);
    let figures = vec![
        figure("push: sidecar", pushed.sidecar),
        figure("push: Postgres", pushed.postgres),
        figure("read once: sidecar", read.sidecar),
        figure("read once: Postgres", read.postgres),
        figure("ten followers: sidecar", more(followed.sidecar, pushed.sidecar)),
        figure("ten followers: Postgres", more(followed.postgres, pushed.postgres)),
    ];
    let title = "A million events pushed, read once, and received by ten followers";
    let megabytes = |bytes: i64| bytes as f64 / 1e6 / millions;
    let section = Section::new("cost", title, "seconds of CPU", figures)
        .note(format!(
            "Measured with {} events: {STORES} stores with a writer each, one event a push.",
            events * STORES
        ))
        .note(format!(
            "A million pushes write {:.0} MB of WAL and keep {:.0} MB in tables and indexes.",
            megabytes(pushed.wal),
            megabytes(pushed.disk)
        ));
    vec![section]
}
