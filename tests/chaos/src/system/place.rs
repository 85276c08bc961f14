//! The place of a sidecar: its address, the networks on both of its sides, and the process of the moment.

use std::net::TcpListener;

use livestore_tests::breaker::Breaker;
use livestore_tests::sidecar::{Sidecar, Start};
use tokio::sync::{Mutex, MutexGuard};

use super::{Clock, Machine, Postgres, Shards};
use crate::reactions::SECRET;

/// The place that reaches Postgres through a pooler, and polls.
pub const POOLED: usize = 1;

/// The place that reads histories from the standby, if there is one.
const READS_STANDBY: usize = 2;

pub struct Place {
    pub number: usize,
    /// Between clients and the sidecar.
    pub clients: Breaker,
    /// Between the sidecar and each server of Postgres, or of the first shard.
    pub postgres: Vec<Breaker>,
    /// That of its front, if it has shards.
    database_url: String,
    has_shards: bool,
    /// Of one place, if there is a standby and there are no shards: whichever server is a standby then.
    read_database_url: Option<String>,
    /// Held as systemd holds it, so that connections wait while the sidecar is away. Every other place has only a port, where
    /// connections are refused meanwhile.
    socket: Option<TcpListener>,
    port: u16,
    environment: Vec<(&'static str, String)>,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    sidecar: Option<Sidecar>,
    /// The logs of the sidecars before it.
    logs: Vec<String>,
}

impl Place {
    pub async fn open(number: usize, postgres: &Postgres, shards: Option<&Shards>, clock: Option<&Clock>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let database = postgres.database();
        let mut breakers = Vec::new();
        for (server, cluster) in postgres.clusters().enumerate() {
            let port = if number == POOLED { postgres.pooler_port(server) } else { cluster.port() };
            breakers.push(Breaker::to(port).await);
        }
        let ports: Vec<_> = breakers.iter().map(Breaker::port).collect();
        let place = Self {
            number,
            clients: Breaker::to(port).await,
            database_url: match (shards, &ports[..]) {
                (Some(shards), ports) => shards.front_of_place(number, ports).await,
                (None, [port]) => database.url_at("sidecar", *port),
                (None, ports) => database.url_at_any("sidecar", ports),
            },
            has_shards: shards.is_some(),
            read_database_url: (ports.len() > 1 && number == READS_STANDBY && shards.is_none())
                .then(|| database.url_at_any("sidecar", &ports)),
            postgres: breakers,
            socket: number.is_multiple_of(2).then_some(listener),
            port,
            environment: clock.map(|clock| clock.environment(Machine::Sidecar(number))).unwrap_or_default(),
            running: Mutex::default(),
        };
        place.start().await;
        place
    }

    /// The URL for clients.
    pub fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.clients.port())
    }

    /// Whether it reads histories from a standby.
    pub fn reads_standby(&self) -> bool {
        self.read_database_url.is_some()
    }

    fn command(&self) -> Start {
        // Not a line for each request.
        let log = "warn,livestore_sidecar=info,livestore_sidecar::server::observe=warn";
        let start = Start::new(self.database_url.clone())
            .environment("LIVESTORE_LOG", log)
            .environment("LIVESTORE_WEBHOOK_SECRET", SECRET)
            .environment("LIVESTORE_WEBHOOK_PRIVATE_ADDRESSES", "true")
            // One of them asks the commit log, the others listen.
            .environment("LIVESTORE_LIVE", if self.number == POOLED { "poll" } else { "listen" });
        let start = if self.has_shards { start.arguments(&["--shards"]) } else { start };
        let start = match &self.read_database_url {
            Some(url) => start.environment("LIVESTORE_READ_DATABASE_URL", url),
            None => start,
        };
        let start = self.environment.iter().fold(start, |start, (name, value)| start.environment(name, value));
        match &self.socket {
            Some(socket) => start.socket(socket),
            None => start.port(self.port),
        }
    }

    /// Starts a sidecar if none runs. It may have to wait for its port, and for the database.
    pub async fn start(&self) {
        let mut running = self.running.lock().await;
        if running.sidecar.is_none() {
            let command = self.command();
            let starting = tokio::task::spawn_blocking(move || command.serve());
            running.sidecar = Some(starting.await.expect("a sidecar"));
        }
    }

    pub async fn signal(&self, name: &str) {
        if let Some(sidecar) = &self.running.lock().await.sidecar {
            sidecar.signal(name);
        }
    }

    /// With no chance to clean up.
    pub async fn kill(&self) {
        if let (Some(sidecar), _running) = self.take().await {
            let pid = sidecar.pid();
            sidecar.kill();
            Clock::clean_up(pid);
        }
    }

    /// As systemd does it in an update; says whether it ended as it should.
    pub async fn terminate(&self) -> bool {
        match self.take().await {
            (Some(sidecar), _running) => {
                let pid = sidecar.pid();
                let is_orderly = sidecar.terminate().await.success();
                Clock::clean_up(pid);
                is_orderly
            }
            (None, _) => true,
        }
    }

    /// The process that runs, whose log is kept; nobody starts another before the guard is gone.
    async fn take(&self) -> (Option<Sidecar>, MutexGuard<'_, Running>) {
        let mut running = self.running.lock().await;
        let sidecar = running.sidecar.take();
        running.logs.extend(sidecar.iter().map(Sidecar::log));
        (sidecar, running)
    }

    /// Everything that was logged here.
    pub async fn log(&self) -> String {
        let running = self.running.lock().await;
        let logs = running.logs.iter().cloned().chain(running.sidecar.iter().map(Sidecar::log));
        logs.collect::<Vec<_>>().join("\n")
    }
}
