//! `make soak`: a mixed load for a long time, far below what the sidecar can do, and what the sidecar holds meanwhile. Memory, open files
//! and connections to Postgres must not grow, and nobody may see anything but every event once, in order.

mod books;
mod follower;
mod sample;
mod slot;
mod verdict;
mod visitor;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use livestore_tests::cluster::Cluster;
use livestore_tests::dialects::Caller;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::books::{Books, Tally};
use self::sample::{Phase, Sample, Sampler};
use self::slot::{Shared, Slot};
use self::verdict::Check;
use crate::machine::{self, Machine};
use crate::report::panels::{Line, Panel, panels};
use crate::systems::Ours;
use crate::works::{Size, say};

/// Stores that have clients at a time, each with a writer, three live readers and visitors.
const STORES: u64 = 200;

/// Of all writers together: a small part of the load that a machine of two cores takes.
const PUSHES_PER_SECOND: u32 = 300;

const SAMPLE: Duration = Duration::from_secs(5);

/// The time for which the sidecar is watched when all clients have gone.
const AFTER: Duration = Duration::from_secs(30);

#[derive(Serialize)]
struct Results<'a> {
    machine: &'a Machine,
    minutes: f64,
    checks: &'a [Check],
    tally: &'a Tally,
    mistakes: &'a [String],
    samples: &'a [Sample],
}

/// Whether all was well. `soak.json` and `soak.svg` are put into the folder.
pub async fn run(cluster: &'static Cluster, minutes: f64, folder: &Path) -> bool {
    let time = Duration::from_secs_f64(minutes * 60.0);
    let ours = Ours::start(cluster).await;
    let admin = ours.database.admin().await;
    let shared = Arc::new(Shared { ours, admin, books: Books::default() });
    let mut samples = before(&shared).await;
    say(format!("{PUSHES_PER_SECOND} pushes a second to {STORES} stores for {minutes} minutes"));
    samples.extend(load(&shared, time).await);
    let (tally, mistakes) = (shared.books.tally(), shared.books.mistakes());
    let checks = verdict::judge(&samples);

    std::fs::create_dir_all(folder).expect("a folder");
    let machine = machine::describe(&Size { rounds: 1, time, is_quick: false, only: Vec::new() });
    let results =
        Results { machine: &machine, minutes, checks: &checks, tally: &tally, mistakes: &mistakes, samples: &samples };
    let json = serde_json::to_string_pretty(&results).expect("JSON");
    std::fs::write(folder.join("soak.json"), json + "\n").expect("a file");
    plot(&folder.join("soak.svg"), &samples);
    report(&checks, &tally, &mistakes)
}

/// The sidecar with all that it makes once: the connections of its pool above all.
async fn before(shared: &Shared) -> Vec<Sample> {
    for _ in 0..5 {
        let callers = (0..64).map(|_| async { Caller::new(&shared.ours.sidecar, "warm-up").read("cf-http").await });
        join_all(callers).await;
    }
    sleep(Duration::from_secs(2)).await;
    let mut sampler = Sampler::new(shared, Instant::now());
    vec![sampler.take(Phase::Before).await]
}

/// The load, and what is left of it.
async fn load(shared: &Arc<Shared>, time: Duration) -> Vec<Sample> {
    let (stop, stopped) = watch::channel(false);
    let period = Duration::from_secs(STORES) / PUSHES_PER_SECOND;
    let mut slots = JoinSet::new();
    for number in 0..STORES {
        slots.spawn(Slot::new(number, Arc::clone(shared), period, stopped.clone()).run());
    }
    let start = Instant::now();
    let mut sampler = Sampler::new(shared, start);
    let mut samples = Vec::new();
    while start.elapsed() < time {
        sleep(SAMPLE).await;
        samples.push(sampler.take(Phase::Load).await);
        if samples.len() % 12 == 0 {
            tell(&samples[samples.len() - 1], &shared.books.tally());
        }
    }
    say("the load stops");
    stop.send_replace(true);
    while let Some(slot) = slots.join_next().await {
        if let Err(error) = slot {
            shared.books.mistake(slot::reason(error));
        }
    }
    let end = Instant::now();
    while end.elapsed() < AFTER {
        sleep(SAMPLE).await;
        samples.push(sampler.take(Phase::After).await);
    }
    samples
}

/// A line a minute.
fn tell(sample: &Sample, tally: &Tally) {
    say(format!(
        "  {:.0} min: {:.0} MiB, {} open files, {} connections to Postgres, {:.0} pushes/s, p99 {:.1} ms; {} events delivered, {} mistakes",
        sample.seconds / 60.0,
        sample.memory_mib,
        sample.descriptors,
        sample.sidecar_postgres_connections,
        sample.pushes_per_second,
        sample.p99_ms.unwrap_or(f64::NAN),
        tally.delivered,
        tally.mistakes
    ));
}

/// Prints the results, and returns whether they are good.
fn report(checks: &[Check], tally: &Tally, mistakes: &[String]) -> bool {
    println!(
        "{} pushes of {} events to {} logs, {} delivered live, {} whole reads, {} refused pushes, {} streams ended and {} dropped",
        tally.pushes,
        tally.events,
        tally.stores,
        tally.delivered,
        tally.reads,
        tally.refused,
        tally.closed,
        tally.dropped
    );
    for check in checks {
        let mark = if check.holds { "flat" } else { "GREW" };
        println!("{mark}  {}: {:.1}, {:.1}; at most {:.1}", check.what, check.was, check.became, check.at_most);
    }
    println!("{} mistakes", tally.mistakes);
    for mistake in mistakes {
        println!("  {mistake}");
    }
    tally.mistakes == 0 && checks.iter().all(|check| check.holds)
}

fn plot(file: &Path, samples: &[Sample]) {
    let line = |name: &'static str, series: fn(&Sample) -> f64| {
        let points = samples.iter().map(|sample| (sample.seconds / 60.0, series(sample)));
        Line { name, points: points.filter(|(_, value)| value.is_finite()).collect() }
    };
    let all = [
        Panel { title: "memory of the sidecar, MiB", lines: vec![line("", |sample| sample.memory_mib)] },
        Panel {
            title: "open files of the sidecar, and connections of clients",
            lines: vec![
                line("open files", |sample| sample.descriptors),
                line("connections of clients", |sample| sample.connections),
            ],
        },
        Panel {
            title: "connections to Postgres",
            lines: vec![
                line("all", |sample| sample.postgres_connections),
                line("of the sidecar", |sample| sample.sidecar_postgres_connections),
            ],
        },
        Panel { title: "pushes a second", lines: vec![line("", |sample| sample.pushes_per_second)] },
        Panel {
            title: "push until acknowledged, p99 of 5 s, ms",
            lines: vec![line("", |sample| sample.p99_ms.unwrap_or(f64::NAN))],
        },
    ];
    panels(file, "minutes since the load began", &all);
}
