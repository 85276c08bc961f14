//! The harness of the tests: real Postgres clusters, real sidecar processes, real npm clients, and a way to cut the
//! network between them. Everything has random ports and folders of its own and is gone when the test process is.

pub mod breaker;
pub mod browsers;
mod bundle;
pub mod client;
pub mod cluster;
pub mod collector;
pub mod convergence;
pub mod device;
pub mod dialects;
pub mod electric;
pub mod events;
pub mod flavour;
pub mod http_rpc;
pub mod load;
pub mod peers;
pub mod pooler;
pub mod program;
pub mod relay;
pub mod rpc;
pub mod shape;
pub mod sidecar;
pub mod sse;
pub mod supabase;
pub mod tokens;
pub mod watchdog;
pub mod witness;

use std::future::Future;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The root of the repository.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is below the root").to_path_buf()
}

/// A port for this process alone until it ends, also while nothing is bound to it: below those that systems give to connections, and
/// those that `dev` chooses. A socket without a file marks it for other processes.
pub fn free_port() -> u16 {
    static TAKEN: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let take = |port: u16| {
        let name = SocketAddr::from_abstract_name(format!("livestore test port {port}")).ok()?;
        let mark = UnixListener::bind_addr(&name).ok()?;
        TcpListener::bind(("127.0.0.1", port)).ok()?;
        Some((port, mark))
    };
    let first = 10_000 + (std::process::id() % 5_000) as u16;
    let (port, mark) = (first..20_000).find_map(take).expect("a free port");
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner).push(mark);
    port
}

/// When something that should happen counts as not happening. Generous: the machines that run this are at times ten times
/// slower than usual, and a test that passes never waits for it.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until a condition holds, and fails with `what` if it does not.
pub async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl FnMut() -> F) {
    eventually_within(PATIENCE, what, condition).await;
}

/// The same for what takes longer.
pub async fn eventually_within<F: Future<Output = bool>>(time: Duration, what: &str, mut condition: impl FnMut() -> F) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < time, "not within {time:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_port_that_is_not_bound_stays_that_of_the_test() {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let first: u16 = range.split_whitespace().next().unwrap().parse().unwrap();
        let ports: HashSet<u16> = (0..50).map(|_| free_port()).collect();
        assert!(
            ports.len() == 50 && ports.iter().all(|port| *port < first),
            "{ports:?}, connections have those from {first}"
        );
    }
}
