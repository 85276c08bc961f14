//! The results of an overload.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::clients::{Answer, Outcome};
use super::full_speed::FullSpeed;
use crate::measure::{Latency, milliseconds};
use crate::report::panels::{Line, Panel, panels};

const SECOND: Duration = Duration::from_secs(1);

/// By how much a second may be slower than the slowest under half the load before, and count as usual.
const USUAL: f64 = 1.5;

/// The part of the intended load that has to be offered: the generator must not be the limit.
const OFFERED: f64 = 0.98;

/// The limits for an overload: for accepted pushes, for refused ones, and for the sidecar, whose queue has room for 64 MiB.
pub const LONGEST_ACKNOWLEDGED_MS: f64 = 10_000.0;
const SLOWEST_REFUSED_MS: f64 = 1_000.0;
pub const MORE_MEMORY_MIB: f64 = 256.0;

/// A part of the time, by when pushes were due.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub start: Instant,
    pub end: Instant,
}

impl Window {
    pub fn of(self, all: &[Answer]) -> impl Iterator<Item = &Answer> + Clone {
        all.iter().filter(move |answer| (self.start..self.end).contains(&answer.due))
    }

    /// Its seconds.
    fn seconds(self) -> Vec<Self> {
        let count = (self.end - self.start).as_secs_f64().round() as u32;
        (0..count).map(|n| Self { start: self.start + SECOND * n, end: self.start + SECOND * (n + 1) }).collect()
    }

    fn time(self) -> f64 {
        (self.end - self.start).as_secs_f64()
    }
}

/// The times that answers of a kind took, in milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Times {
    pub a_second: f64,
    p50: f64,
    p99: f64,
    pub longest: f64,
}

impl fmt::Display for Times {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { a_second, p50, p99, longest } = self;
        write!(formatter, "{a_second:.0}/s: p50 {p50:.1} ms, p99 {p99:.1} ms, longest {longest:.1} ms")
    }
}

/// A second, for the plot.
#[derive(Debug, Clone, Serialize)]
struct Moment {
    second: f64,
    acknowledged: f64,
    refused: f64,
    p99_ms: Option<f64>,
}

#[derive(Debug, Serialize)]
pub struct Results {
    /// Events a second that can be committed.
    capacity: f64,
    offered_a_second: f64,
    acknowledged: Times,
    refused: Times,
    /// Under half the load before: the slowest second's p99.
    p99_before_ms: f64,
    /// After the overload, until that is so again; nothing if it was not.
    seconds_to_recover: Option<usize>,
    acknowledged_in_all: i64,
    stored: i64,
    unexpected: Vec<String>,
    memory_before_mib: f64,
    memory_peak_mib: f64,
    generator_cores: f64,
    connections: usize,
    seconds: Vec<Moment>,
    full_speed: Vec<FullSpeed>,
}

impl Results {
    /// Of all answers, with half the load, twice the load, and half again.
    pub fn new(all: &[Answer], capacity: f64, [before, overload, after]: [Window; 3]) -> Self {
        let usual = before.seconds().into_iter().filter_map(|second| p99(second.of(all))).fold(0.0, f64::max);
        let is_usual = |second: Window| p99(second.of(all)).is_some_and(|p99| p99 <= usual * USUAL);
        let late = after.seconds().into_iter().rposition(|second| !is_usual(second));
        let to_recover = late.map_or(0, |second| second + 1);
        let unexpected = all.iter().filter_map(|answer| match &answer.outcome {
            Outcome::Unexpected(text) => Some(text.clone()),
            _ => None,
        });
        let moments = [before, overload, after].into_iter().flat_map(Window::seconds).map(|second| Moment {
            second: (second.start - before.start).as_secs_f64(),
            acknowledged: second.of(all).filter(is_acknowledged).count() as f64,
            refused: second.of(all).filter(is_refused).count() as f64,
            p99_ms: p99(second.of(all)),
        });
        Self {
            capacity,
            offered_a_second: overload.of(all).count() as f64 / overload.time(),
            acknowledged: times(overload.of(all).filter(is_acknowledged), overload),
            refused: times(overload.of(all).filter(is_refused), overload),
            p99_before_ms: usual,
            seconds_to_recover: (to_recover < after.seconds().len()).then_some(to_recover),
            acknowledged_in_all: all.iter().filter(is_acknowledged).count() as i64,
            stored: 0,
            unexpected: unexpected.collect(),
            memory_before_mib: 0.0,
            memory_peak_mib: 0.0,
            generator_cores: 0.0,
            connections: 0,
            seconds: moments.collect(),
            full_speed: Vec::new(),
        }
    }

    pub fn with_memory(self, before: u64, peak: u64) -> Self {
        Self { memory_before_mib: mib(before), memory_peak_mib: mib(peak), ..self }
    }

    pub fn with_generator(self, generator_cores: f64, connections: usize) -> Self {
        Self { generator_cores, connections, ..self }
    }

    pub fn with_full_speed(self, full_speed: Vec<FullSpeed>) -> Self {
        Self { full_speed, ..self }
    }

    /// Adds the number of events in the log.
    pub fn with_stored(self, stored: i64) -> Self {
        Self { stored, ..self }
    }

    pub fn write(&self, folder: &Path) {
        std::fs::create_dir_all(folder).expect("a folder");
        let json = serde_json::to_string_pretty(self).expect("JSON");
        std::fs::write(folder.join("overload.json"), json + "\n").expect("a file");
        let line = |name: &'static str, series: fn(&Moment) -> Option<f64>| Line {
            name,
            points: self.seconds.iter().filter_map(|moment| Some((moment.second, series(moment)?))).collect(),
        };
        let all = [
            Panel {
                title: "pushes a second",
                lines: vec![
                    line("acknowledged", |moment| Some(moment.acknowledged)),
                    line("refused", |moment| Some(moment.refused)),
                ],
            },
            Panel { title: "push until acknowledged, p99, ms", lines: vec![line("", |moment| moment.p99_ms)] },
        ];
        panels(&folder.join("overload.svg"), "seconds: half the capacity, twice, and half again", &all);
    }

    /// Prints the results, and returns whether they are good.
    pub fn report(&self) -> bool {
        let Self { capacity, offered_a_second, unexpected, stored, acknowledged_in_all, .. } = self;
        println!("capacity {capacity:.0} events/s; offered {offered_a_second:.0}/s");
        for (what, times) in [("acknowledged", &self.acknowledged), ("refused", &self.refused)] {
            println!("{what} {times}");
        }
        println!("memory {:.0} MiB before, {:.0} MiB at most", self.memory_before_mib, self.memory_peak_mib);
        println!("load generator: {:.2} cores, {} connections", self.generator_cores, self.connections);
        let recovered = self.seconds_to_recover.map_or("not".into(), |seconds| format!("after {seconds} s"));
        println!("p99 as under half the load ({:.1} ms) again: {recovered}", self.p99_before_ms);
        // All of them, whether or not the first is good.
        let full_speed: Vec<bool> = self.full_speed.iter().map(FullSpeed::report).collect();
        let full_speed_is_good = !full_speed.contains(&false);
        println!("{acknowledged_in_all} events acknowledged, {stored} in the log");
        println!("{} unexpected answers", unexpected.len());
        for answer in unexpected.iter().take(10) {
            println!("  {answer}");
        }
        let is_offered = *offered_a_second >= capacity * 2.0 * OFFERED;
        if !is_offered {
            println!("The load generator did not offer twice the capacity: this proves nothing.");
        }
        let is_bounded = self.acknowledged.longest < LONGEST_ACKNOWLEDGED_MS
            && self.refused.p99 < SLOWEST_REFUSED_MS
            && self.memory_peak_mib < self.memory_before_mib + MORE_MEMORY_MIB
            && full_speed_is_good;
        if !is_bounded {
            println!("Times or memory are beyond what an overload may cost.");
        }
        let is_right = unexpected.is_empty() && stored == acknowledged_in_all;
        is_offered && is_bounded && is_right && self.refused.a_second > 0.0 && self.seconds_to_recover.is_some()
    }
}

pub fn is_acknowledged(answer: &&Answer) -> bool {
    matches!(answer.outcome, Outcome::Acknowledged)
}

pub fn is_refused(answer: &&Answer) -> bool {
    matches!(answer.outcome, Outcome::Refused)
}

/// Of those that were acknowledged, in milliseconds.
fn p99<'a>(answers: impl Iterator<Item = &'a Answer>) -> Option<f64> {
    let took = answers.filter(is_acknowledged).map(|answer| answer.took).collect();
    Latency::of(took).map(|latency| latency.p99)
}

pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

pub fn times<'a>(answers: impl Iterator<Item = &'a Answer>, window: Window) -> Times {
    let took: Vec<Duration> = answers.map(|answer| answer.took).collect();
    let (count, longest) = (took.len() as f64, took.iter().max().copied());
    let Some(Latency { p50, p99 }) = Latency::of(took) else { return Times::default() };
    Times { a_second: count / window.time(), p50, p99, longest: longest.map_or(0.0, milliseconds) }
}
