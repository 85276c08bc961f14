//! The resources that a sidecar holds at a moment.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::slot::Shared;
use crate::measure::{Latency, milliseconds};

/// When a sample was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    Before,
    Load,
    After,
}

#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    pub phase: Phase,
    /// Since the load began; negative before.
    pub seconds: f64,
    pub memory_mib: f64,
    pub descriptors: f64,
    pub threads: f64,
    /// Of all clients, this one included, and of the sidecar.
    pub postgres_connections: f64,
    pub sidecar_postgres_connections: f64,
    /// From the metrics of the sidecar.
    pub connections: f64,
    pub live_streams: f64,
    /// Since the sample before.
    pub pushes_per_second: f64,
    pub p99_ms: Option<f64>,
    pub longest_ms: Option<f64>,
}

/// Takes samples.
pub struct Sampler<'a> {
    shared: &'a Shared,
    begin: Instant,
    last: Instant,
}

impl<'a> Sampler<'a> {
    /// `begin`: when the load begins, or began.
    pub fn new(shared: &'a Shared, begin: Instant) -> Self {
        Self { shared, begin, last: Instant::now() }
    }

    pub async fn take(&mut self, phase: Phase) -> Sample {
        let Shared { ours, admin, books } = self.shared;
        let sql = "select count(*), count(*) filter (where usename = 'sidecar') from pg_stat_activity where backend_type = 'client backend'";
        let row = admin.query_one(sql, &[]).await.expect("Postgres answers");
        let (_, metrics) = ours.sidecar.get("/metrics").await;
        let latencies = books.take_latencies();
        let now = Instant::now();
        let longest = latencies.iter().max().copied();
        let sample = Sample {
            phase,
            seconds: seconds_between(self.begin, now),
            memory_mib: ours.sidecar.memory() as f64 / f64::from(1 << 20),
            descriptors: ours.sidecar.descriptors() as f64,
            threads: ours.sidecar.threads() as f64,
            postgres_connections: row.get::<_, i64>(0) as f64,
            sidecar_postgres_connections: row.get::<_, i64>(1) as f64,
            connections: sum(&metrics, "livestore_connections"),
            live_streams: sum(&metrics, "livestore_live_streams"),
            pushes_per_second: latencies.len() as f64 / (now - self.last).as_secs_f64(),
            p99_ms: Latency::of(latencies).map(|latency| latency.p99),
            longest_ms: longest.map(milliseconds),
        };
        self.last = now;
        sample
    }
}

fn seconds_between(begin: Instant, now: Instant) -> f64 {
    let before: Duration = begin.saturating_duration_since(now);
    now.saturating_duration_since(begin).as_secs_f64() - before.as_secs_f64()
}

/// All series of a metric, whatever their labels.
fn sum(metrics: &str, name: &str) -> f64 {
    let values = metrics.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
    let values = values.filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'));
    values.filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn series_of_a_metric_are_added_up() {
        let metrics = "# HELP live Streams\nlive{dialect=\"s2\"} 2\nlive{dialect=\"cf-ws\"} 3\nlive_more 7\n";
        assert!((sum(metrics, "live") - 5.0).abs() < 1e-9);
        assert!((sum("live 4\n", "live") - 4.0).abs() < 1e-9);
    }
}
