//! Start: from the exec of a sidecar to its first 200 of `/readyz`, with the database up.

use std::time::{Duration, Instant};

use livestore_tests::sidecar::Start;

use super::{OURS, Size, say};
use crate::measure::{Bound, Figure, Section, milliseconds};
use crate::systems::Ours;

pub async fn all(ours: &Ours, size: &Size) -> Vec<Section> {
    say("start");
    let mut times = Vec::new();
    for _ in 0..size.rounds * 4 {
        let port = livestore_tests::free_port();
        let start = Instant::now();
        let mut process = Start::new(ours.database.url("sidecar")).port(port).command();
        let mut process = process.stderr(std::process::Stdio::null()).spawn().expect("the sidecar");
        livestore_tests::watchdog::watch(process.id());
        while livestore_tests::sidecar::http_get(port, "/readyz").await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        times.push(milliseconds(start.elapsed()));
        let _ = process.kill();
        let _ = process.wait();
    }
    let figure = Figure::new(OURS, times);
    let median = figure.median;
    let section = Section::new("start", "Start of a sidecar until it is ready", "ms", vec![figure]);
    vec![section.claim("ms", median, Bound::AtMost(30.0))]
}
