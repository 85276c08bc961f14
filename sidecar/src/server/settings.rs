//! The settings of the server: where it listens, how many connections it takes, and how it ends.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

use crate::settings::SettingsError;
use crate::settings::values::{address, at_least, duration, lasting};

#[derive(Debug, Clone, Args)]
pub struct ServerSettings {
    /// Address and port to serve on; not needed if systemd hands over a socket.
    #[arg(long, env = "LIVESTORE_LISTEN", default_value = "127.0.0.1:8787", value_parser = address)]
    pub listen: SocketAddr,

    /// Listen beside other sidecars on the same address, of the same user (SO_REUSEPORT): the next one begins before the last one
    /// ends, as soon as its database answers. See docs/operations.md.
    #[arg(long, env = "LIVESTORE_REUSE_PORT")]
    pub reuse_port: bool,

    /// A second address, for /healthz, /readyz and /metrics of this process alone. Needed with --reuse-port, where another
    /// process may answer on the first.
    #[arg(long, env = "LIVESTORE_HEALTH_LISTEN", value_name = "ADDRESS", value_parser = address)]
    pub health_listen: Option<SocketAddr>,

    #[command(flatten)]
    pub connections: ConnectionSettings,

    /// The time after SIGTERM in which requests are still served, but /readyz answers 503 and every answer closes its
    /// connection. It has to be longer than clients keep an idle connection (4 s in Node), and than a load balancer takes to
    /// look at /readyz. From 20s on, WebSocket clients of LiveStore's development line survive deploys.
    #[arg(long, env = "LIVESTORE_SHUTDOWN_DELAY", default_value = "5s", value_parser = duration)]
    pub shutdown_delay: Duration,

    /// The time that a shutdown may take after --shutdown-delay, to finish what is being committed and to close connections.
    #[arg(long, env = "LIVESTORE_SHUTDOWN_DEADLINE", default_value = "10s", value_parser = lasting(Duration::from_secs(1)))]
    pub shutdown_deadline: Duration,
}

/// Limits on connections.
#[derive(Debug, Clone, Copy, Args)]
pub struct ConnectionSettings {
    /// Connections that the sidecar accepts.
    #[arg(long, env = "LIVESTORE_MAX_CONNECTIONS", default_value_t = 10_000, value_parser = at_least(1_usize))]
    pub max_connections: usize,

    /// Connections from one address. Those from this machine, such as a proxy's, do not count.
    #[arg(long, env = "LIVESTORE_MAX_CONNECTIONS_PER_ADDRESS", default_value_t = 1000, value_parser = at_least(1_usize))]
    pub max_connections_per_address: usize,

    /// The largest head of a request, in bytes: its URL and its headers.
    #[arg(long, env = "LIVESTORE_MAX_HEAD_BYTES", default_value_t = 64 << 10, value_parser = at_least(8192_u32))]
    pub max_head_bytes: u32,

    #[command(flatten)]
    pub timeouts: Timeouts,
}

/// Timeouts of clients.
#[derive(Debug, Clone, Copy, Args)]
pub struct Timeouts {
    /// The time that a client may take to send the head of a request.
    #[arg(long, env = "LIVESTORE_HEAD_TIMEOUT", default_value = "60s", value_parser = lasting(Duration::from_secs(1)))]
    pub head_timeout: Duration,

    /// The time that a connection is kept for the next request: longer than the proxy in front keeps it (nginx and AWS' load balancer 60 s,
    /// Traefik 90 s), or requests meet connections that are being closed. See docs/proxies.md.
    #[arg(long, env = "LIVESTORE_IDLE_CLOSE", default_value = "100s", value_parser = lasting(Duration::from_secs(1)))]
    pub idle_close: Duration,
}

impl ServerSettings {
    pub fn check(&self) -> Result<(), SettingsError> {
        if self.health_listen == Some(self.listen) && self.listen.port() != 0 {
            return Err("--health-listen is the address of --listen: give it a port of its own".into());
        }
        Ok(())
    }
}

impl Timeouts {
    /// Longer than both, and short enough to add to any instant.
    pub fn longest(self) -> Duration {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        self.head_timeout.max(self.idle_close).min(YEAR) + Duration::from_secs(1)
    }
}
