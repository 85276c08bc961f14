//! The lines that tell a developer what to connect to.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::sleep;

use crate::gate::Dialect;
use crate::{health, protocols};

/// The interval at which the sidecar is asked whether it is ready.
const INTERVAL: Duration = Duration::from_millis(100);

/// Prints them as soon as the sidecar is ready.
pub async fn print(listen: SocketAddr, dialects: Vec<Dialect>, url: String, data: PathBuf) {
    let host = reachable(listen);
    while !tokio::task::spawn_blocking(move || health::is_fine(host, "/readyz")).await.unwrap_or(false) {
        sleep(INTERVAL).await;
    }
    let endpoints = protocols::endpoints(&dialects).replace("<this host>", &host.to_string());
    // A terminal that is gone does not end what is served.
    let _ = writeln!(
        std::io::stdout(),
        "\nlivestore_sync is ready.\n{endpoints}  events          psql '{url}' -c 'select * from livestore.events'
  for scripts     source {}/env\nCtrl-C stops it; the data stays in {}.",
        data.display(),
        data.display()
    );
}

/// The address at which programs of this machine reach whoever listens on one.
pub fn reachable(listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        ip if ip.is_unspecified() => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), listen.port()),
        _ => listen,
    }
}
