//! The lines that tell a developer what to connect to.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::config::Host;

use crate::gate::Dialect;
use crate::postgres::address;
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
    /// URL of the database, as a shell takes it.
    pub database: String,
    /// Where the data stays.
    pub kept: String,
    /// The file for scripts.
    pub env: PathBuf,
}

impl Banner {
    /// Waits until the sidecar is ready.
    pub async fn ready(&self) {
        let host = reachable(self.listen);
        while !tokio::task::spawn_blocking(move || health::is_fine(host, "/readyz")).await.unwrap_or(false) {
            sleep(INTERVAL).await;
        }
    }

    pub fn print(self) {
        let host = reachable(self.listen);
        let endpoints = protocols::endpoints(&self.dialects).replace("<this host>", &host.to_string());
        let app = self.app.map(|app| format!("  app             http://{}\n", local_name(app))).unwrap_or_default();
        let page = |name: &str, is_served: bool, path: &str| {
            if is_served { format!("  {name:<15} http://{}{path}\n", local_name(self.listen)) } else { String::new() }
        };
        let pages = page("inspector", self.has_inspector, "/") + &page("demo", self.has_demo, "/demo/");
        let (database, kept, env) = (self.database, self.kept, self.env.display());
        // A terminal that is gone does not end what is served.
        let _ = writeln!(
            std::io::stdout(),
            "\nlivestore_sync is ready.\n{endpoints}{app}{pages}  events          psql {database} -c 'select * from livestore.events'
  for scripts     source {env}\nCtrl-C stops it; the data stays in {kept}.",
        );
    }
}

/// Tells that the database is not that of the folder: a shell may still have the URL of another project's. Returns its description.
pub fn tell_of_other_database(url: &str, data: &Path) -> String {
    let database = describe(url).unwrap_or_else(|| "another database".into());
    let is_of_shell = std::env::var("DATABASE_URL").is_ok_and(|value| value == url);
    let option = if is_of_shell { "DATABASE_URL is set" } else { "--database-url is given" };
    let _ = writeln!(std::io::stdout(), "{option}: serving {database}, and not a cluster in {}.", data.display());
    database
}

/// A database without its password. None if the URL cannot be read, which the sidecar reports.
fn describe(url: &str) -> Option<String> {
    let config = address("--database-url", url, None).ok()?.config;
    let name = config.get_dbname().or(config.get_user())?;
    let ports = config.get_ports();
    let hosts = config.get_hosts().iter().enumerate().map(|(index, host)| match host {
        Host::Tcp(host) => format!("{host}:{}", ports.get(index).or(ports.first()).unwrap_or(&5432)),
        Host::Unix(folder) => folder.display().to_string(),
    });
    let hosts = hosts.collect::<Vec<_>>().join(", ");
    Some(if hosts.is_empty() { format!("the database {name}") } else { format!("the database {name} at {hosts}") })
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
