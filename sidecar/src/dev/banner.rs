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

pub struct Banner {
    pub listen: SocketAddr,
    /// Whether the inspector is served, and the demo.
    pub has_inspector: bool,
    pub has_demo: bool,
    pub dialects: Vec<Dialect>,
    pub app: Option<SocketAddr>,
    /// URL of the database.
    pub database: String,
    /// Folder of the data.
    pub data: PathBuf,
}

impl Banner {
    /// Prints them as soon as the sidecar is ready.
    pub async fn print(self) {
        let host = reachable(self.listen);
        while !tokio::task::spawn_blocking(move || health::is_fine(host, "/readyz")).await.unwrap_or(false) {
            sleep(INTERVAL).await;
        }
        let endpoints = protocols::endpoints(&self.dialects).replace("<this host>", &host.to_string());
        let app = self.app.map(|app| format!("  app             http://{}\n", local_name(app))).unwrap_or_default();
        let page = |name: &str, is_served: bool, path: &str| {
            if is_served { format!("  {name:<15} http://{}{path}\n", local_name(self.listen)) } else { String::new() }
        };
        let pages = page("inspector", self.has_inspector, "/") + &page("demo", self.has_demo, "/demo/");
        let (database, data) = (self.database, self.data.display());
        // A terminal that is gone does not end what is served.
        let _ = writeln!(
            std::io::stdout(),
            "\nlivestore_sync is ready.\n{endpoints}{app}{pages}  events          psql '{database}' -c 'select * from livestore.events'
  for scripts     source {data}/env\nCtrl-C stops it; the data stays in {data}.",
        );
    }
}

/// The same for a browser: an app may keep data only where a page is trusted, which a name of this machine is.
fn local_name(listen: SocketAddr) -> String {
    match reachable(listen).ip() {
        ip if ip.is_loopback() => format!("localhost:{}", listen.port()),
        _ => listen.to_string(),
    }
}

/// The address at which programs of this machine reach whoever listens on one.
pub fn reachable(listen: SocketAddr) -> SocketAddr {
    match listen.ip() {
        ip if ip.is_unspecified() => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), listen.port()),
        _ => listen,
    }
}
