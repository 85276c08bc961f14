//! The figures of the overview. They are measured while somebody looks, once for all who do.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics_exporter_prometheus::PrometheusHandle;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::log::Log;
use crate::telemetry::metrics::render;
use crate::telemetry::samples::Totals;

/// The interval between samples.
const INTERVAL: Duration = Duration::from_secs(1);

/// The samples that are kept: five minutes.
const KEPT: usize = 300;

/// Quantiles are those of this many samples: single seconds have too few values.
const WINDOW: usize = 10;

/// After a pause that is longer, nobody has looked, and there is a gap in the samples.
const GAP: Duration = Duration::from_secs(5);

/// A moment, as the overview shows it. Rates are events a second, times are milliseconds.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// In seconds since 1970.
    pub at: f64,
    pub pushes: f64,
    pub events: f64,
    pub delivered: f64,
    pub refusals: f64,
    pub commit_median: Option<f64>,
    pub commit_99: Option<f64>,
    pub delivery_median: Option<f64>,
    pub delivery_99: Option<f64>,
    pub connections: f64,
    pub streams: f64,
    pub by_dialect: Vec<(String, f64)>,
    /// Refusals since the sidecar began.
    pub by_reason: Vec<(String, f64)>,
    pub queue_bytes: f64,
    pub buffer_bytes: f64,
}

/// Samples of the metrics, while there are viewers.
pub struct Sampler {
    metrics: PrometheusHandle,
    log: Log,
    state: Mutex<State>,
    latest: watch::Sender<Option<Arc<Figures>>>,
}

#[derive(Default)]
struct State {
    totals: VecDeque<(Instant, Totals)>,
    figures: VecDeque<Arc<Figures>>,
    is_running: bool,
}

impl Sampler {
    pub fn new(metrics: PrometheusHandle, log: Log) -> Arc<Self> {
        Arc::new(Self { metrics, log, state: Mutex::default(), latest: watch::Sender::new(None) })
    }

    /// The figures so far, and those to come.
    pub fn look(self: &Arc<Self>) -> (Vec<Arc<Figures>>, watch::Receiver<Option<Arc<Figures>>>) {
        let receiver = self.latest.subscribe();
        let mut state = self.state.lock();
        if !state.is_running {
            state.is_running = true;
            tokio::spawn(Arc::clone(self).run());
        }
        (state.figures.iter().cloned().collect(), receiver)
    }

    async fn run(self: Arc<Self>) {
        loop {
            self.sample();
            sleep(INTERVAL).await;
            let mut state = self.state.lock();
            if self.latest.receiver_count() == 0 {
                state.is_running = false;
                return;
            }
        }
    }

    fn sample(&self) {
        let totals = Totals::read(&render(&self.metrics, self.log.gauges()));
        let now = Instant::now();
        let mut state = self.state.lock();
        if state.totals.back().is_some_and(|(at, _)| now - *at > GAP) {
            (state.totals, state.figures) = Default::default();
        }
        let figures = state.totals.back().map(|(at, before)| {
            let window = &state.totals[state.totals.len().saturating_sub(WINDOW)].1;
            Arc::new(figures(&totals, before, (now - *at).as_secs_f64(), window))
        });
        state.totals.push_back((now, totals));
        while state.totals.len() > WINDOW {
            state.totals.pop_front();
        }
        if let Some(figures) = figures {
            state.figures.push_back(Arc::clone(&figures));
            while state.figures.len() > KEPT {
                state.figures.pop_front();
            }
            self.latest.send_replace(Some(figures));
        }
    }
}

fn figures(now: &Totals, before: &Totals, seconds: f64, window: &Totals) -> Figures {
    let rate = |value: fn(&Totals) -> f64| (value(now) - value(before)) / seconds;
    let commit = |part| now.commit.quantile_since(&window.commit, part).map(|seconds| seconds * 1000.0);
    let delivery = |part| now.delivery.quantile_since(&window.delivery, part).map(|seconds| seconds * 1000.0);
    Figures {
        at: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
        pushes: rate(|totals| totals.pushes),
        events: rate(|totals| totals.events),
        delivered: rate(|totals| totals.delivered),
        refusals: rate(|totals| totals.refusals.values().sum()),
        commit_median: commit(0.5),
        commit_99: commit(0.99),
        delivery_median: delivery(0.5),
        delivery_99: delivery(0.99),
        connections: now.connections,
        streams: now.streams.values().fold(0.0, |sum, streams| sum + streams),
        by_dialect: now.streams.iter().map(|(dialect, streams)| (dialect.clone(), *streams)).collect(),
        by_reason: now.refusals.iter().map(|(reason, count)| (reason.clone(), *count)).collect(),
        queue_bytes: now.queue_bytes,
        buffer_bytes: now.buffer_bytes,
    }
}
