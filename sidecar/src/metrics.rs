//! What Prometheus reads: names and texts of the metrics, in one place. They are an interface: dashboards and alerts name them.
//! No label has more values than this program has words for: never a store, a user or an address.

use metrics::{counter, describe_counter};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};

const LIMIT_HITS: &str = "livestore_limit_hits_total";

/// A limit that an operator sets, by the name of its option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Connections,
    ConnectionsPerAddress,
    ConnectionsPerSubject,
    HeadTimeout,
    FrameBytes,
    BatchEvents,
    EventBytes,
    PushesPerSubject,
    PushesPerStore,
    NewStoresPerSubject,
    Relay,
}

impl Limit {
    const ALL: [Self; 11] = [
        Self::Connections,
        Self::ConnectionsPerAddress,
        Self::ConnectionsPerSubject,
        Self::HeadTimeout,
        Self::FrameBytes,
        Self::BatchEvents,
        Self::EventBytes,
        Self::PushesPerSubject,
        Self::PushesPerStore,
        Self::NewStoresPerSubject,
        Self::Relay,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsPerAddress => "connections_per_address",
            Self::ConnectionsPerSubject => "connections_per_subject",
            Self::HeadTimeout => "head_timeout",
            Self::FrameBytes => "frame_bytes",
            Self::BatchEvents => "batch_events",
            Self::EventBytes => "event_bytes",
            Self::PushesPerSubject => "pushes_per_subject",
            Self::PushesPerStore => "pushes_per_store",
            Self::NewStoresPerSubject => "new_stores_per_subject",
            Self::Relay => "relay",
        }
    }

    /// Somebody went beyond it.
    pub fn hit(self) {
        counter!(LIMIT_HITS, "limit" => self.name()).increment(1);
    }
}

/// Call once, before anything is counted.
///
/// # Errors
/// Something else records already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new().install_recorder()?;
    describe_counter!(LIMIT_HITS, "How often a limit that an operator sets was exceeded, by limit");
    // An alert on a rate misses the first one of a series that was not there before.
    for limit in Limit::ALL {
        counter!(LIMIT_HITS, "limit" => limit.name()).absolute(0);
    }
    Ok(handle)
}
