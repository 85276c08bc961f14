//! The metrics of one moment, for the inspector. Read from the text for Prometheus: one place counts.

use std::collections::BTreeMap;

use super::metrics::{
    BUFFER_BYTES, COMMIT_QUEUE, COMMIT_SECONDS, COMMITTED_EVENTS, CONNECTIONS, DELIVERED_EVENTS, DELIVERY_LAG,
    LIVE_STREAMS, PUSHES, REFUSALS,
};

/// The counters and gauges of one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Totals {
    /// Pushes that were accepted.
    pub pushes: f64,
    pub events: f64,
    pub delivered: f64,
    /// Refusals by reason.
    pub refusals: BTreeMap<String, f64>,
    pub connections: f64,
    pub queue_bytes: f64,
    pub buffer_bytes: f64,
    /// Live streams by dialect.
    pub streams: BTreeMap<String, f64>,
    pub commit: Buckets,
    pub delivery: Buckets,
}

/// A histogram: how many values were at most so large, in seconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Buckets(Vec<(f64, f64)>);

impl Buckets {
    /// The value that this part of the values since another moment did not exceed: the bound of its bucket, in seconds. `None` if there were none.
    pub fn quantile_since(&self, before: &Self, part: f64) -> Option<f64> {
        let count_before =
            |bound: f64| before.0.iter().find(|(other, _)| *other == bound).map_or(0.0, |(_, count)| *count);
        let counts: Vec<_> = self.0.iter().map(|(bound, count)| (*bound, count - count_before(*bound))).collect();
        let all = counts.last().map_or(0.0, |(_, count)| *count);
        let found = counts.iter().find(|(_, count)| all > 0.0 && *count >= part * all)?;
        // Those above the last bound are as large as that, at least.
        let last = counts.iter().rev().find(|(bound, _)| bound.is_finite()).map_or(0.0, |(bound, _)| *bound);
        Some(if found.0.is_finite() { found.0 } else { last })
    }
}

impl Totals {
    /// Reads the text of [`super::metrics::render`].
    pub fn read(text: &str) -> Self {
        let mut totals = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse::<f64>() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            totals.add(name, labels.trim_end_matches('}'), value);
        }
        totals
    }

    fn add(&mut self, name: &str, labels: &str, value: f64) {
        let bucket =
            || Some((name.strip_suffix("_bucket")?, label(labels, "le")?.replace("+Inf", "inf").parse().ok()?));
        match (name, bucket()) {
            (PUSHES, _) if label(labels, "outcome") == Some("accepted") => self.pushes += value,
            (COMMITTED_EVENTS, _) => self.events += value,
            (DELIVERED_EVENTS, _) => self.delivered += value,
            (REFUSALS, _) => {
                let reason = label(labels, "reason").unwrap_or_default();
                *self.refusals.entry(reason.into()).or_default() += value;
            }
            (CONNECTIONS, _) => self.connections = value,
            (COMMIT_QUEUE, _) => self.queue_bytes = value,
            (BUFFER_BYTES, _) => self.buffer_bytes = value,
            (LIVE_STREAMS, _) => {
                let dialect = label(labels, "dialect").unwrap_or_default();
                *self.streams.entry(dialect.into()).or_default() += value;
            }
            (_, Some((COMMIT_SECONDS, bound))) => self.commit.0.push((bound, value)),
            (_, Some((DELIVERY_LAG, bound))) => self.delivery.0.push((bound, value)),
            _ => {}
        }
    }
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key == name).then(|| value.trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_summed_and_quantiles_are_those_of_the_time_between() {
        let text = |accepted: u32, fast: u32, slow: u32| {
            format!(
                "# TYPE livestore_pushes_total counter
livestore_pushes_total{{dialect=\"cf-ws\",outcome=\"accepted\"}} {accepted}
livestore_pushes_total{{dialect=\"s2\",outcome=\"accepted\"}} 1
livestore_pushes_total{{dialect=\"s2\",outcome=\"invalid\"}} 5
livestore_live_streams{{dialect=\"cf-ws\"}} 3
livestore_commit_seconds_bucket{{le=\"0.001\"}} {fast}
livestore_commit_seconds_bucket{{le=\"0.01\"}} {slow}
livestore_commit_seconds_bucket{{le=\"+Inf\"}} {slow}
livestore_connections 4
livestore_refusals_total{{asked=\"push\",reason=\"hook\"}} 2
livestore_refusals_total{{asked=\"pull\",reason=\"hook\"}} 1
"
            )
        };
        let (before, now) = (Totals::read(&text(10, 100, 100)), Totals::read(&text(30, 101, 110)));
        assert_eq!((now.pushes - before.pushes, now.connections), (20.0, 4.0));
        assert_eq!((now.streams.get("cf-ws"), now.refusals.get("hook")), (Some(&3.0), Some(&3.0)));
        assert_eq!(now.commit.quantile_since(&before.commit, 0.1), Some(0.001));
        assert_eq!(now.commit.quantile_since(&before.commit, 0.5), Some(0.01));
        assert_eq!(now.commit.quantile_since(&now.commit, 0.5), None);
        assert_eq!(now.delivery.quantile_since(&before.delivery, 0.5), None);
    }
}
