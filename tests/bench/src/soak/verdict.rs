//! Whether something grew. The median of the first fifth of the load, once it is warm, against that of the last fifth: a number
//! that goes up and down with the load does not count, but a leak does, if it lasts for long enough.

use serde::Serialize;

use super::sample::{Phase, Sample};
use crate::measure::median;

/// The load is warm after a fifth of its time, and after five minutes at the latest.
const WARM: f64 = 300.0;

/// The growth that still counts as flat: a part of the first value, or a number, whichever is larger.
struct Bound {
    part: f64,
    least: f64,
}

/// Room for the allocator, which gives memory back late.
const MEMORY: Bound = Bound { part: 0.10, least: 16.0 };

/// As many as clients come and go by chance between two medians.
const DESCRIPTORS: Bound = Bound { part: 0.05, least: 16.0 };

/// The threads that wait for files and names come and go.
const THREADS: Bound = Bound { part: 0.0, least: 2.0 };

/// None more.
const CONNECTIONS: Bound = Bound { part: 0.0, least: 0.0 };

/// When all clients have gone: a connection that reads the metrics, one that Postgres has just been asked for.
const AFTERWARDS: Bound = Bound { part: 0.0, least: 4.0 };

/// One thing that has to hold.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    pub what: String,
    pub was: f64,
    pub became: f64,
    pub at_most: f64,
    pub holds: bool,
}

impl Check {
    fn new(what: impl Into<String>, was: f64, became: f64, bound: &Bound) -> Self {
        let at_most = was + (was * bound.part).max(bound.least);
        // Without samples nothing is proven.
        Self { what: what.into(), was, became, at_most, holds: became <= at_most }
    }
}

type Series = fn(&Sample) -> f64;

/// All of them.
pub fn judge(samples: &[Sample]) -> Vec<Check> {
    let growing: [(&str, Series, &Bound); 5] = [
        ("memory of the sidecar, MiB", |sample| sample.memory_mib, &MEMORY),
        ("its open files", |sample| sample.descriptors, &DESCRIPTORS),
        ("its threads", |sample| sample.threads, &THREADS),
        ("its connections to Postgres", |sample| sample.sidecar_postgres_connections, &CONNECTIONS),
        ("connections to Postgres", |sample| sample.postgres_connections, &CONNECTIONS),
    ];
    let returning: [(&str, Series); 3] = [
        ("its open files", |sample| sample.descriptors),
        ("connections of clients, as it counts them", |sample| sample.connections),
        ("live streams, as it counts them", |sample| sample.live_streams),
    ];
    let grown = growing.into_iter().map(|(what, series, bound)| {
        let (first, last) = ends(samples, series);
        Check::new(format!("{what}: first and last fifth"), first, last, bound)
    });
    let returned = returning.into_iter().map(|(what, series)| {
        let last_of = |phase| samples.iter().rfind(|sample| sample.phase == phase).map_or(f64::NAN, series);
        Check::new(format!("{what}: before and after"), last_of(Phase::Before), last_of(Phase::After), &AFTERWARDS)
    });
    grown.chain(returned).collect()
}

/// The medians of the first and of the last fifth of what is left after the warm-up.
fn ends(samples: &[Sample], series: Series) -> (f64, f64) {
    let load: Vec<&Sample> = samples.iter().filter(|sample| sample.phase == Phase::Load).collect();
    let time = load.last().map_or(0.0, |sample| sample.seconds);
    let warm = (time / 5.0).min(WARM);
    let values: Vec<f64> = load.iter().filter(|sample| sample.seconds > warm).map(|sample| series(sample)).collect();
    let fifth = values.len().div_ceil(5);
    (median(&values[..fifth]), median(&values[values.len() - fifth..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(phase: Phase, seconds: f64, memory_mib: f64, descriptors: f64) -> Sample {
        Sample {
            phase,
            seconds,
            memory_mib,
            descriptors,
            threads: 6.0,
            postgres_connections: 11.0,
            sidecar_postgres_connections: 10.0,
            connections: 0.0,
            live_streams: 0.0,
            pushes_per_second: 300.0,
            p99_ms: Some(5.0),
            longest_ms: Some(9.0),
        }
    }

    /// Half an hour of load, and the files that are open after it.
    fn soak(memory: impl Fn(f64) -> f64, descriptors: impl Fn(f64) -> f64, after: f64) -> Vec<String> {
        let load = (1..=360).map(|n| f64::from(n) * 5.0);
        let mut samples = vec![sample(Phase::Before, -1.0, 20.0, 30.0)];
        samples.extend(load.map(|seconds| sample(Phase::Load, seconds, memory(seconds), descriptors(seconds))));
        samples.push(sample(Phase::After, 1_830.0, 60.0, after));
        judge(&samples).into_iter().filter(|check| !check.holds).map(|check| check.what).collect()
    }

    #[test]
    fn what_goes_up_and_down_is_flat() {
        let wave = |seconds: f64| 800.0 + 60.0 * (seconds / 20.0).sin();
        assert!(soak(|seconds| if seconds < 200.0 { seconds } else { 200.0 }, wave, 32.0).is_empty());
    }

    #[test]
    fn a_leak_is_found() {
        assert_eq!(
            soak(|seconds| 100.0 + seconds * 0.02, |_| 800.0, 32.0),
            ["memory of the sidecar, MiB: first and last fifth"]
        );
        assert_eq!(soak(|_| 100.0, |seconds| 800.0 + seconds * 0.05, 32.0), ["its open files: first and last fifth"]);
        assert_eq!(soak(|_| 100.0, |_| 800.0, 90.0), ["its open files: before and after"]);
    }

    #[test]
    fn nothing_is_proven_without_samples() {
        assert!(judge(&[]).iter().all(|check| !check.holds));
    }
}
