//! Figures, and the values that they are made of.

use std::time::Duration;

use serde::Serialize;
use tokio_postgres::Client;

/// The results of one system in one measurement, a value for each round.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    pub system: String,
    pub rounds: Vec<f64>,
    /// Of the rounds.
    pub median: f64,
    /// Latencies of all rounds in milliseconds, where there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// The cores that the load generator itself took, from 0 to 2; `None` if another program made the load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generator_cores: Option<f64>,
    /// A difference in the measurement of this system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
}

/// The claim that a section makes: one system against another.
#[derive(Debug, Clone, Serialize)]
pub struct Target {
    pub against: String,
    pub bound: Bound,
    pub ratio: f64,
    pub reached: bool,
}

/// The bound for the ratio of ours to the other.
#[derive(Debug, Clone, Copy, Serialize)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtLeast(least) => ratio >= least,
            Self::AtMost(most) => ratio <= most,
        }
    }
}

/// One row of the report: the same work done by several systems.
#[derive(Debug, Clone, Serialize)]
pub struct Section {
    /// Names its plot.
    pub id: &'static str,
    pub title: String,
    pub unit: &'static str,
    pub figures: Vec<Figure>,
    pub targets: Vec<Target>,
    /// Remarks on points that cannot be seen from the figures.
    pub notes: Vec<String>,
}

impl Figure {
    pub fn new(system: &str, rounds: Vec<f64>) -> Self {
        let median = median(&rounds);
        Self { system: system.into(), rounds, median, latency: None, generator_cores: None, note: None }
    }

    pub fn with_latencies(mut self, latencies: Vec<Duration>) -> Self {
        self.latency = Latency::of(latencies);
        self
    }

    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }
}

impl Latency {
    pub fn of(mut latencies: Vec<Duration>) -> Option<Self> {
        latencies.sort_unstable();
        let at = |part: f64| latencies.get((latencies.len() as f64 * part) as usize).map(|time| milliseconds(*time));
        Some(Self { p50: at(0.5)?, p99: at(0.99)? })
    }
}

impl Section {
    pub fn new(id: &'static str, title: impl Into<String>, unit: &'static str, figures: Vec<Figure>) -> Self {
        Self { id, title: title.into(), unit, figures, targets: Vec::new(), notes: Vec::new() }
    }

    /// Adds a bound for the first figure, ours, in comparison with that of another system.
    pub fn target(mut self, against: &str, bound: Bound) -> Self {
        if let (Some(ours), Some(other)) = (self.median_of(&self.figures[0].system), self.median_of(against)) {
            let ratio = ours / other;
            self.targets.push(Target { against: against.into(), bound, ratio, reached: bound.holds(ratio) });
        }
        self
    }

    /// The same for two figures of any kind, named in words.
    pub fn claim(mut self, against: &str, ratio: f64, bound: Bound) -> Self {
        self.targets.push(Target { against: against.into(), bound, ratio, reached: bound.holds(ratio) });
        self
    }

    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    pub fn median_of(&self, system: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.system == system).map(|figure| figure.median)
    }
}

pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// CPU time that this process has used so far.
pub fn cpu_time() -> Duration {
    Processor::of("self").expect("a Linux").own
}

/// The CPU time of a process.
pub struct Processor {
    pub parent: u32,
    /// That it has used so far.
    pub own: Duration,
    /// That its children had used when they ended.
    pub ended_children: Duration,
}

impl Processor {
    /// `process`: its id, or `self`. `None` if it has ended.
    pub fn of(process: &str) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The name of the program, before the last parenthesis, may have spaces in it. Behind it: state, parent, and from the twelfth field
        // on utime, stime, cutime and cstime in ticks of 10 ms.
        let fields: Vec<u64> =
            stat.rsplit(')').next()?.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        let ticks = |from: usize| Some(Duration::from_millis(fields.get(from..from + 2)?.iter().sum::<u64>() * 10));
        let parent = u32::try_from(*fields.get(1)?).ok()?;
        Some(Self { parent, own: ticks(11)?, ended_children: ticks(13)? })
    }

    /// The CPU time of a process and of all its children so far, the ended ones too.
    fn of_family(process: u32) -> Duration {
        let all = std::fs::read_dir("/proc").expect("a Linux").flatten();
        let children =
            all.filter_map(|entry| Self::of(entry.file_name().to_str()?)).filter(|one| one.parent == process);
        let own = Self::of(&process.to_string()).map_or(Duration::ZERO, |one| one.own + one.ended_children);
        children.fold(own, |sum, child| sum + child.own + child.ended_children)
    }
}

/// The CPU time of a Postgres of this machine so far, with all its processes.
pub async fn postgres_cpu(admin: &Client) -> Duration {
    let folder: String = admin.query_one("show data_directory", &[]).await.expect("a folder").get(0);
    let file = std::fs::read_to_string(format!("{folder}/postmaster.pid")).expect("a running Postgres");
    Processor::of_family(file.lines().next().and_then(|line| line.parse().ok()).expect("a process id"))
}
