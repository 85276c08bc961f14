//! Histories that come from a standby: what is left to the primary.

use std::time::Duration;

use futures_util::future::join_all;
use livestore_tests::cluster::{Cluster, Database};
use livestore_tests::sidecar::{Sidecar, Start};

use super::read::{Reader, fill};
use super::{Size, say};
use crate::measure::{Bound, Figure, Section, postgres_cpu};
use crate::systems::MORE_CONNECTIONS;

const CLIENTS: usize = 200;
const STORES: usize = 100;
const EVENTS: u64 = 20_000;

const ALONE: &str = "the primary alone";
const WITH_STANDBY: &str = "with one standby";

/// The clients read all of their logs, which others read at the same time. Returns the CPU seconds of the primary.
async fn read(primary: &Database, sidecar: &Sidecar) -> f64 {
    let admin = primary.admin().await;
    let before = postgres_cpu(&admin).await;
    join_all((0..CLIENTS).map(|client| async move {
        let read = Reader::Rpc(sidecar.url()).read(&format!("history-{}", client % STORES), EVENTS).await;
        assert_eq!(read, EVENTS);
    }))
    .await;
    (postgres_cpu(&admin).await - before).as_secs_f64()
}

pub async fn all(size: &Size) -> Vec<Section> {
    let title = format!("{CLIENTS} clients read {STORES} logs of {EVENTS} events: CPU of the primary");
    say(&title);
    let database = Database::alone().await;
    let standby = database.cluster().standby().await.leak();
    let admin = database.admin().await;
    for store in 0..STORES {
        fill(&admin, &format!("history-{store}"), EVENTS).await;
    }
    admin.batch_execute("checkpoint").await.expect("a checkpoint");
    database.cluster().standby_catches_up().await;
    let there = database.on(standby).url("sidecar");
    let (mut alone, mut with_standby) = (Vec::new(), Vec::new());
    for _ in 0..size.rounds {
        // New ones each time: pages that were kept would cost nobody anything.
        for (seconds, arguments) in [
            (&mut alone, &[MORE_CONNECTIONS][..]),
            (&mut with_standby, &[MORE_CONNECTIONS, "--read-database-url", &there]),
        ] {
            let sidecar = Start::new(database.url("sidecar"))
                .arguments(arguments)
                .environment("LIVESTORE_LOG", "warn,livestore_sidecar=info,livestore_sidecar::server::observe=warn")
                .ready()
                .await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            seconds.push(read(&database, &sidecar).await);
        }
    }
    Cluster::pg_ctl(standby, &["stop", "-m", "immediate"]);
    database.stop();
    let figures = vec![Figure::new(ALONE, alone), Figure::new(WITH_STANDBY, with_standby)];
    let section = Section::new("standby", title, "CPU-seconds", figures);
    let of = |name| section.median_of(name).unwrap_or(f64::NAN);
    let ratio = of(WITH_STANDBY) / of(ALONE);
    vec![
        section
            .claim("with one standby, against without", ratio, Bound::AtMost(0.1))
            .note("Two clients read each log. The sidecar reads each page once, keeps it for the others, and is a new one in each round."),
    ]
}
