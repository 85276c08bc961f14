//! Shards beside one database: groups of pushes from SQL, single pushes through a sidecar, many stores, and more and more shards.

mod groups;
mod setup;

use std::time::{Duration, Instant};

use livestore_tests::cluster::Database;

use self::groups::{Load, System};
use self::setup::{Shards, alone, sidecar};
use super::{Size, say};
use crate::measure::{Bound, Figure, Section, median, milliseconds};
use crate::wire::rpc::Rpc;

const ONE: &str = "one database";

const GROUP: usize = 64;

/// The goals: of groups on shards against one database, and of the latency of single pushes.
const GROUPS: Bound = Bound::AtLeast(0.85);
const SINGLE: Bound = Bound::AtMost(1.5);

pub async fn all(size: &Size) -> Vec<Section> {
    let (one, two) = (alone().await, Shards::start(2).await);
    let mut sections = Vec::new();
    if size.wants("shards-groups") {
        sections.push(groups(&one, &two, size).await);
    }
    if size.wants("shards-sidecar") {
        sections.push(single(&one, &two, size).await);
    }
    if size.wants("shards-stores") || size.wants("shards-growth") {
        let four = Shards::start(4).await;
        if size.wants("shards-stores") {
            sections.push(stores(&one, &four, size).await);
        }
        if size.wants("shards-growth") {
            let single = Shards::start(1).await;
            sections.push(growth([&single, &two, &four], size).await);
            single.stop();
        }
        four.stop();
    }
    two.stop();
    one.stop();
    sections
}

/// Has the systems take turns.
async fn rounds(mut systems: Vec<System>, size: &Size) -> Vec<Figure> {
    for system in &mut systems {
        system.warm_up(size.time.min(Duration::from_secs(2))).await;
    }
    for _ in 0..size.rounds {
        for system in &mut systems {
            system.round(size.time).await;
        }
    }
    systems.into_iter().map(System::figure).collect()
}

/// Adds the bound for each of the others against the last figure, one database.
fn against_one(mut section: Section, bound: Bound) -> Section {
    let one = section.median_of(ONE).unwrap_or(f64::NAN);
    let others: Vec<_> = section.figures.iter().filter(|figure| figure.system != ONE).cloned().collect();
    for figure in others {
        section = section.claim(&format!("{}, against {ONE}", figure.system), figure.median / one, bound);
    }
    section
}

async fn groups(one: &Database, two: &Shards, size: &Size) -> Section {
    const CALLERS: usize = 2;
    let load = Load { callers: CALLERS, stores: CALLERS * GROUP, group: GROUP };
    // A shard gets as many of each group as one database.
    let twice = Load { stores: 2 * load.stores, group: 2 * GROUP, ..load };
    let title = format!("Shards: {CALLERS} callers, groups of {GROUP} pushes from SQL");
    say(&title);
    let systems = vec![
        System::by_front(two, "two shards, through the front", "groups-front-", load).await,
        System::by_front(two, "two shards, through the front, groups of 128", "groups-twice-", twice).await,
        System::directly(two, "two shards, a caller for each", "groups-direct-", load).await,
        System::alone(one, ONE, "groups", load).await,
    ];
    against_one(Section::new("shards-groups", title, "pushes/s", rounds(systems, size).await), GROUPS)
        .note("At the front, PL/Proxy splits each group: a shard gets half of it. So what a commit costs, however many pushes are in it, is spent twice.")
}

/// A push at a time, in turn to stores of all shards.
async fn single(one: &Database, two: &Shards, size: &Size) -> Section {
    const STORES: usize = 8;
    let title = "Shards: 1 writer, 1 event a push, through a sidecar";
    say(title);
    let sidecars =
        [sidecar(two.front_url("sidecar"), &["--shards"]).await, sidecar(one.socket_url("sidecar"), &[]).await];
    let stores: Vec<String> = two.stores("single-", STORES / 2).await.into_iter().flatten().collect();
    let mut heads = [0, 0];
    let mut all = [Vec::new(), Vec::new()];
    let mut medians = [Vec::new(), Vec::new()];
    for round in 0..=size.rounds {
        for (which, sidecar) in sidecars.iter().enumerate() {
            // New ones: a sidecar closes connections that do not pull.
            let mut writers = Vec::new();
            for store in &stores {
                writers.push(Rpc::open(&sidecar.url(), store, heads[which]).await);
            }
            let (start, mut latencies) = (Instant::now(), Vec::new());
            while start.elapsed() < size.time {
                for writer in &mut writers {
                    let sent = Instant::now();
                    writer.push(1).await;
                    latencies.push(sent.elapsed());
                }
                heads[which] += 1;
            }
            // The first is to warm up.
            if round > 0 {
                let times: Vec<f64> = latencies.iter().map(|time| milliseconds(*time)).collect();
                medians[which].push(median(&times));
                all[which].extend(latencies);
            }
        }
    }
    let figures = ["two shards, --shards", ONE].into_iter().zip(medians).zip(all);
    let figures = figures.map(|((name, medians), all)| Figure::new(name, medians).with_latencies(all)).collect();
    against_one(Section::new("shards-sidecar", title, "ms, p50", figures), SINGLE)
}

async fn stores(one: &Database, four: &Shards, size: &Size) -> Section {
    const CALLERS: usize = 4;
    const STORES: usize = 10_000;
    let load = Load { callers: CALLERS, stores: STORES, group: GROUP };
    let title = format!("Shards: {STORES} stores, {CALLERS} callers, groups of {GROUP} pushes from SQL");
    say(&title);
    let systems = vec![
        System::by_front(four, "four shards, through the front", "many-front-", load).await,
        System::directly(four, "four shards, a caller for each", "many-direct-", load).await,
        System::alone(one, ONE, "many", load).await,
    ];
    against_one(Section::new("shards-stores", title, "pushes/s", rounds(systems, size).await), GROUPS)
        .note("At the front, PL/Proxy splits each group: a shard gets about 16 pushes of it.")
}

async fn growth(all: [&Shards; 3], size: &Size) -> Section {
    const CALLERS: usize = 4;
    let load = Load { callers: CALLERS, stores: CALLERS * GROUP, group: GROUP };
    let title = format!("Shards: from 1 to 4, {CALLERS} callers, groups of {GROUP} pushes from SQL");
    say(&title);
    let mut systems = Vec::new();
    for shards in all.into_iter().rev() {
        let name = |how: &str| match shards.shards.len() {
            1 => format!("1 shard, {how}"),
            count => format!("{count} shards, {how}"),
        };
        systems.push(System::directly(shards, &name("directly"), "growth-direct-", load).await);
        systems.push(System::by_front(shards, &name("through the front"), "growth-front-", load).await);
    }
    Section::new("shards-growth", title, "pushes/s", rounds(systems, size).await)
        .target("1 shard, directly", Bound::AtLeast(0.85))
        .note("All shards share the cores of one machine, and its disk: more shards cannot be faster here than cores allow.")
}
