//! Names and texts of the metrics for Prometheus, in one place. They are an interface: dashboards and alerts name them, and
//! docs/operations.md lists them. No label has more values than this program has words for: never a store, a user or an address. The
//! exception are durable subscriptions: only administrators make them.

use std::sync::Arc;
use std::time::Duration;

use metrics::{Label, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

use crate::telemetry::refusals::{Asked, Reason};

/// The metrics: a line for each, with its text.
macro_rules! metrics {
    ($($kind:ident $name:ident = $metric:literal, $text:literal;)*) => {
        $(pub(super) const $name: &str = $metric;)*

        fn describe() {
            $(metrics!($kind $name $text);)*
        }
    };
    (counter $name:ident $text:literal) => { describe_counter!($name, $text) };
    (gauge $name:ident $text:literal) => { describe_gauge!($name, $text) };
    (histogram $name:ident $text:literal) => { describe_histogram!($name, $text) };
}

metrics! {
    counter PUSHES = "livestore_pushes_total", "Pushes that were answered, by dialect and outcome";
    histogram COMMIT_PUSHES = "livestore_commit_pushes", "Pushes in one transaction";
    histogram COMMIT_SECONDS = "livestore_commit_seconds", "How long a transaction took, from here to Postgres and back";
    counter COMMIT_FAILURES = "livestore_commit_failures_total", "Transactions that were rolled back, or that the database was not there for; they are tried again";
    counter COMMITTED_EVENTS = "livestore_committed_events_total", "Events that this sidecar appended, but for those of the peer relay";
    gauge COMMIT_QUEUE = "livestore_commit_queue_bytes", "Pushes that wait for the database, in bytes; 64 MiB may";
    gauge BUFFER_BYTES = "livestore_buffer_bytes", "Memory that is taken for what is on its way to clients and from them, of --max-buffer-bytes";
    gauge HELD_STORES = "livestore_held_stores", "Stores whose pushes wait, since another transaction holds them";
    gauge LONG_HELD_STORES = "livestore_long_held_stores", "Those of them whose pushes have waited for more than 5 seconds";
    counter DELIVERED_EVENTS = "livestore_delivered_events_total", "Events that live streams were given, each stream counted";
    histogram DELIVERY_LAG = "livestore_delivery_lag_seconds", "From an event's createdAt, by the clock of Postgres, until a stream that waited for it was given it, by the clock of this machine";
    counter TAIL_READS = "livestore_tail_reads_total", "How often live streams were given events, from memory (tail) or from Postgres (database)";
    counter PAGES = "livestore_pages_read_total", "Pages of logs that were read: from Postgres (database), from --read-database-url (standby) or from --page-cache-bytes (cache)";
    gauge LIVE_STREAMS = "livestore_live_streams", "Live streams and long polls, by dialect";
    gauge CONNECTIONS = "livestore_connections", "Connections of clients";
    counter REQUESTS = "livestore_http_requests_total", "HTTP requests that were answered, by status; a WebSocket is one";
    gauge POOL = "livestore_database_pool_connections", "Connections to Postgres for reading and for functions, by state";
    gauge POOL_WAITING = "livestore_database_pool_waiting", "What waits for a connection to Postgres";
    gauge LISTENING = "livestore_listening", "1 while commits of others are heard of";
    counter LISTENER_LOSSES = "livestore_listener_losses_total", "How often the connection that listens for commits was lost";
    gauge RELAY_DEVICES = "livestore_relay_devices", "Devices of the peer relay that are connected here";
    counter RELAY_MESSAGES = "livestore_relay_messages_total", "Messages that devices of the peer relay sent here";
    counter LIMIT_HITS = "livestore_limit_hits_total", "How often a limit that an operator sets was exceeded, by limit";
    counter REFUSALS = "livestore_refusals_total", "Requests of clients that were refused, by what they asked for and the reason";
    counter REACTIONS = "livestore_subscription_batches_total", "Batches of durable subscriptions that this sidecar gave to a handler or a webhook, by outcome";
    counter REACTED_EVENTS = "livestore_subscription_events_total", "Events of durable subscriptions that were handled or taken";
    gauge SUBSCRIPTION_LAG = "livestore_subscription_lag_events", "Positions of the commit log that a durable subscription is behind";
    gauge SUBSCRIPTION_LAG_SECONDS = "livestore_subscription_lag_seconds", "Age of the first commit that a durable subscription has not passed";
    gauge SUBSCRIPTION_FAILURES = "livestore_subscription_failures", "Failures of the events that a durable subscription gives out next";
    gauge DEAD_LETTERS = "livestore_subscription_dead_letters", "Events that a durable subscription has given up";
    gauge MISFITS = "livestore_misfits", "Events that do not fit their type, as livestore.misfits shows them; 10,000 for more";
    gauge BUILD = "livestore_build_info", "1, with the version of the sidecar";
}

/// The interval at which recorded values are summed up.
const UPKEEP: Duration = Duration::from_secs(5);

const SECONDS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
const GROUPS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 32.0, 128.0, 256.0, 512.0];

labels! {
    /// A limit that somebody can exceed. All but that of the queue are the operator's.
    pub enum Limit {
        Connections = "connections",
        ConnectionsPerAddress = "connections_per_address",
        ConnectionsPerSubject = "connections_per_subject",
        HeadTimeout = "head_timeout",
        HeadBytes = "head_bytes",
        FrameBytes = "frame_bytes",
        BatchEvents = "batch_events",
        EventBytes = "event_bytes",
        PushesPerSubject = "pushes_per_subject",
        PushesPerStore = "pushes_per_store",
        NewStoresPerSubject = "new_stores_per_subject",
        BufferBytes = "buffer_bytes",
        Queue = "queue",
        Relay = "relay",
    }
}

impl Limit {
    /// Somebody went beyond it.
    pub fn hit(self) {
        counter!(LIMIT_HITS, "limit" => self.name()).increment(1);
    }
}

/// A push was answered.
pub fn pushed(dialect: &'static str, outcome: &'static str) {
    counter!(PUSHES, "dialect" => dialect, "outcome" => outcome).increment(1);
}

/// A request was refused.
pub fn refused(asked: Asked, reason: Reason) {
    counter!(REFUSALS, "asked" => asked.name(), "reason" => reason.name()).increment(1);
}

/// A transaction was committed, after so much time in Postgres.
pub fn committed(pushes: usize, took: Duration) {
    histogram!(COMMIT_PUSHES).record(u32::try_from(pushes).unwrap_or(u32::MAX));
    histogram!(COMMIT_SECONDS).record(took);
}

/// So many events of it are new.
pub fn committed_events(count: usize) {
    counter!(COMMITTED_EVENTS).increment(count as u64);
}

/// A transaction was not, or is not known to be. `reason`: `unavailable` or `rolled_back`.
pub fn not_committed(reason: &'static str) {
    counter!(COMMIT_FAILURES, "reason" => reason).increment(1);
}

/// A live stream was given events. `from`: `tail` or `database`.
pub fn delivered(from: &'static str, events: usize) {
    counter!(TAIL_READS, "from" => from).increment(1);
    counter!(DELIVERED_EVENTS).increment(events as u64);
}

/// A page of a log was read. `from`: `database`, `standby` or `cache`.
pub fn page_read(from: &'static str) {
    counter!(PAGES, "from" => from).increment(1);
}

/// So long after it was appended, an event reached a stream that was waiting for it.
pub fn delivery_lag(lag: Duration) {
    histogram!(DELIVERY_LAG).record(lag);
}

/// Counts one in a gauge until it is dropped.
#[derive(Debug)]
pub struct GaugeGuard(metrics::Gauge);

impl GaugeGuard {
    fn new(gauge: metrics::Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge)
    }

    /// A live stream of this dialect.
    pub fn stream(dialect: &'static str) -> Self {
        Self::new(gauge!(LIVE_STREAMS, "dialect" => dialect))
    }

    pub fn connection() -> Self {
        Self::new(gauge!(CONNECTIONS))
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// A request was answered.
pub fn answered(status: u16) {
    counter!(REQUESTS, "status" => status.to_string()).increment(1);
}

/// The connection that listens for commits was lost.
pub fn listener_lost() {
    counter!(LISTENER_LOSSES).increment(1);
}

/// A device of the peer relay sent something.
pub fn relayed() {
    counter!(RELAY_MESSAGES).increment(1);
}

labels! {
    /// The two ways in which sidecars serve a durable subscription.
    pub enum Reaction {
        Handler = "handler",
        Webhook = "webhook",
    }
}

/// A handler or a receiver got a batch, and has taken it with so many events, or has failed.
pub fn reacted(by: Reaction, is_taken: bool, events: i64) {
    let outcome = if is_taken { "taken" } else { "failed" };
    counter!(REACTIONS, "by" => by.name(), "outcome" => outcome).increment(1);
    counter!(REACTED_EVENTS, "by" => by.name()).increment(events.unsigned_abs());
}

/// How far a durable subscription is, as `livestore.subscriptions` shows it.
#[derive(Debug, Clone)]
pub struct SubscriptionLag {
    pub subscription: String,
    pub events: f64,
    pub seconds: f64,
    pub failures: f64,
    pub dead_letters: f64,
}

impl SubscriptionLag {
    /// Of a subscription that does not exist any more.
    pub fn nothing(subscription: String) -> Self {
        Self { subscription, events: 0.0, seconds: 0.0, failures: 0.0, dead_letters: 0.0 }
    }
}

/// The values of gauges that are read when Prometheus asks.
#[derive(Debug, Clone)]
pub struct GaugeValues {
    pub buffer_bytes: usize,
    pub relay_devices: usize,
    /// Of each database.
    pub shards: Vec<ShardGauges>,
}

/// Those of one database.
#[derive(Debug, Clone, Default)]
pub struct ShardGauges {
    /// Its name, if it is one of several: the label of its gauges.
    pub shard: Option<Arc<str>>,
    pub is_listening: bool,
    pub queued_bytes: usize,
    pub held_stores: usize,
    pub long_held_stores: usize,
    pub pool_idle: usize,
    pub pool_busy: usize,
    pub pool_waiting: usize,
    pub subscriptions: Vec<SubscriptionLag>,
    /// None until they were counted: a value that jumps from 0 would look like new misfits.
    pub misfits: Option<u64>,
}

impl ShardGauges {
    /// It is served no more: a gauge keeps the value that it had last.
    pub fn forget(self) {
        let subscriptions = self.subscriptions.into_iter().map(|lag| SubscriptionLag::nothing(lag.subscription));
        // There is nothing to hear of, and nothing is missed. Misfits stay as they were: its database may be served at another address now.
        Self { shard: self.shard, is_listening: true, subscriptions: subscriptions.collect(), ..Self::default() }.set();
    }

    fn set(self) {
        let label = self.shard.map(|shard| Label::new("shard", shard.to_string()));
        let labels: Vec<Label> = label.into_iter().collect();
        let with = |name: &'static str, value: &str| [&labels[..], &[Label::new(name, value.to_owned())]].concat();
        gauge!(LISTENING, labels.clone()).set(f64::from(u8::from(self.is_listening)));
        gauge!(COMMIT_QUEUE, labels.clone()).set(self.queued_bytes as f64);
        gauge!(HELD_STORES, labels.clone()).set(self.held_stores as f64);
        gauge!(LONG_HELD_STORES, labels.clone()).set(self.long_held_stores as f64);
        if let Some(misfits) = self.misfits {
            gauge!(MISFITS, labels.clone()).set(misfits as f64);
        }
        gauge!(POOL, with("state", "idle")).set(self.pool_idle as f64);
        gauge!(POOL, with("state", "busy")).set(self.pool_busy as f64);
        gauge!(POOL_WAITING, labels.clone()).set(self.pool_waiting as f64);
        for SubscriptionLag { subscription, events, seconds, failures, dead_letters } in self.subscriptions {
            let labels = with("subscription", &subscription);
            gauge!(SUBSCRIPTION_LAG, labels.clone()).set(events);
            gauge!(SUBSCRIPTION_LAG_SECONDS, labels.clone()).set(seconds);
            gauge!(SUBSCRIPTION_FAILURES, labels.clone()).set(failures);
            gauge!(DEAD_LETTERS, labels).set(dead_letters);
        }
    }
}

/// The text that Prometheus reads.
pub fn render(handle: &PrometheusHandle, values: GaugeValues) -> String {
    gauge!(BUFFER_BYTES).set(values.buffer_bytes as f64);
    gauge!(RELAY_DEVICES).set(values.relay_devices as f64);
    values.shards.into_iter().for_each(ShardGauges::set);
    handle.render()
}

/// Runs for ever: what is recorded is kept whole until then, read or not.
pub async fn maintain(handle: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        handle.run_upkeep();
    }
}

/// Call once, before anything is counted.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(COMMIT_PUSHES.into()), &GROUPS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .install_recorder()?;
    describe();
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    // The rate of a series that was not there before misses its first count.
    for limit in Limit::ALL {
        counter!(LIMIT_HITS, "limit" => limit.name()).absolute(0);
    }
    for asked in Asked::ALL {
        for reason in Reason::ALL {
            counter!(REFUSALS, "asked" => asked.name(), "reason" => reason.name()).absolute(0);
        }
    }
    for reason in ["unavailable", "rolled_back"] {
        counter!(COMMIT_FAILURES, "reason" => reason).absolute(0);
    }
    for from in ["tail", "database"] {
        counter!(TAIL_READS, "from" => from).absolute(0);
    }
    for by in Reaction::ALL {
        for outcome in ["taken", "failed"] {
            counter!(REACTIONS, "by" => by.name(), "outcome" => outcome).absolute(0);
        }
        counter!(REACTED_EVENTS, "by" => by.name()).absolute(0);
    }
    for name in [COMMITTED_EVENTS, DELIVERED_EVENTS, LISTENER_LOSSES, RELAY_MESSAGES] {
        counter!(name).absolute(0);
    }
    gauge!(CONNECTIONS).set(0.0);
    Ok(handle)
}
