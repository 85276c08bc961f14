//! Fan-out: the time from one push until the last of many live subscribers has it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::{OURS, SYNC_CF, Size, Systems, say};
use crate::measure::{Bound, Figure, Section, milliseconds};
use crate::systems::Ours;
use crate::wire::rpc::Rpc;

const MANY: &str = "livestore_sync, 2,000 subscribers";

/// Pushes `pushes` events, one after the other has arrived everywhere, with the subscribers spread over these servers.
async fn measure(urls: &[String], store: &str, subscribers: usize, pushes: usize) -> Vec<Duration> {
    let (arrived, all) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let mut following = JoinSet::new();
    for group in (0..subscribers).collect::<Vec<_>>().chunks(50) {
        let opening = group.iter().map(|index| async move {
            let mut rpc = Rpc::open(&urls[index % urls.len()], store, 0).await;
            rpc.follow().await;
            rpc
        });
        for mut rpc in join_all(opening).await {
            let (arrived, all) = (Arc::clone(&arrived), Arc::clone(&all));
            following.spawn(async move {
                loop {
                    let events = rpc.next_page().await as usize;
                    if arrived.fetch_add(events, Ordering::Relaxed) + events == subscribers {
                        all.notify_one();
                    }
                }
            });
        }
    }
    let mut times = Vec::new();
    let mut head = 0;
    while times.len() < pushes {
        // Ours closes a connection that has no pull after 15 seconds.
        let mut pusher = Rpc::open(&urls[0], store, head).await;
        for _ in 0..20 {
            arrived.store(0, Ordering::Relaxed);
            let start = Instant::now();
            pusher.push(1).await;
            all.notified().await;
            times.push(start.elapsed());
            head += 1;
        }
    }
    following.shutdown().await;
    times
}

fn figure(system: &str, rounds: Vec<Vec<Duration>>) -> Figure {
    let p50 = |round: &Vec<Duration>| {
        let mut times = round.clone();
        times.sort_unstable();
        milliseconds(times[times.len() / 2])
    };
    let medians = rounds.iter().map(p50).collect();
    Figure::new(system, medians).with_latencies(rounds.into_iter().flatten().collect())
}

pub async fn all(systems: &Systems, size: &Size) -> Vec<Section> {
    say("1 push to 200 and 2,000 live subscribers");
    let ours = &systems.ours;
    let second = Ours::sidecar(&ours.database).await;
    let one = [ours.sidecar.url()];
    let two = [ours.sidecar.url(), second.url()];
    let cf = systems.peers.as_ref().map(|peers| [peers.sync_cf.url()]);
    let (mut at_one, mut at_two, mut at_many, mut at_cf) = (vec![], vec![], vec![], vec![]);
    for round in 0..size.rounds {
        at_one.push(measure(&one, &format!("fan-{round}"), 200, 100).await);
        at_two.push(measure(&two, &format!("fan-two-{round}"), 200, 100).await);
        at_many.push(measure(&one, &format!("fan-many-{round}"), 2000, 40).await);
        if let Some(cf) = &cf {
            at_cf.push(measure(cf, &format!("fan-{round}"), 200, 40).await);
        }
    }
    let mut figures =
        vec![figure(OURS, at_one), figure("livestore_sync, 200 on two sidecars", at_two), figure(MANY, at_many)];
    if cf.is_some() {
        figures.insert(1, figure(SYNC_CF, at_cf));
    }
    let title = "1 push to 200 live subscribers, until the last has it";
    let section = Section::new("fan-out", title, "ms, p50", figures);
    let many = section.median_of(MANY).unwrap_or(f64::NAN) / 10.0 / section.figures[0].median;
    let section = section.target(SYNC_CF, Bound::AtMost(1.0 / 30.0));
    vec![section.claim("for each of 2,000 subscribers, beside each of 200", many, Bound::AtMost(0.7))]
}
