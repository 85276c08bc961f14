//! The backends that are compared: this one in each of its dialects, and the original ones that a registry has.

use std::sync::Arc;

use livestore_tests::client::Node;
use livestore_tests::cluster::{Cluster, Database};
use livestore_tests::convergence::Log;
use livestore_tests::peers::{S2Lite, SyncCf};
use livestore_tests::sidecar::{Sidecar, Start};
use serde_json::json;

use crate::Arguments;

/// A backend in one of its dialects.
pub struct Contestant {
    pub system: String,
    pub dialect: &'static str,
    /// The URL for clients.
    pub url: String,
    /// Of a backend whose clients are browsers.
    pub web: Option<u16>,
    backend: Arc<Backend>,
}

/// It ends when this is dropped.
enum Backend {
    Ours {
        database: Database,
        sidecar: Sidecar,
    },
    SyncCf {
        _server: SyncCf,
    },
    /// Behind a server as LiveStore's guide shows it.
    S2Lite {
        _server: S2Lite,
        _proxy: Node,
    },
}

impl Contestant {
    pub fn is_ours(&self) -> bool {
        matches!(&*self.backend, Backend::Ours { .. })
    }

    /// The number of pushes that the server has refused so far because its log has more events, if it counts them.
    pub async fn server_ahead(&self) -> Option<usize> {
        let Backend::Ours { sidecar, .. } = &*self.backend else { return None };
        let (_, metrics) = sidecar.get("/metrics").await;
        let refused = |line: &&str| line.starts_with("livestore_pushes_total{") && line.contains("\"server_ahead\"");
        let counts = metrics.lines().filter(refused).filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
        Some(counts.sum::<f64>() as usize)
    }

    /// The log of a store.
    pub async fn log(&self, store: &str) -> Result<Log, String> {
        match &*self.backend {
            Backend::Ours { database, .. } => Ok(Log::in_postgres(database, store).await),
            _ => Log::as_pulled(self.dialect, &self.url, store).await.map_err(|error| error.to_string()),
        }
    }
}

/// A dialect of ours, by the name that selects it.
const OURS: [&str; 5] = ["cf-ws", "cf-http", "electric", "s2", WEB];
const WORKERD: &str = "workerd";
const WEB_WORKERD: &str = "web-workerd";
const S2_LITE: &str = "s2-lite";
const WEB: &str = "web";

/// All that are wanted, up; and why others are not among them.
pub async fn contestants(cluster: &'static Cluster, arguments: &Arguments) -> (Vec<Contestant>, Vec<String>) {
    let wants = |name: &str| arguments.wants(name);
    let mut contestants = Vec::new();
    let mut absent = vec!["Electric's own backend is in no registry.".into()];
    if OURS.into_iter().any(wants) {
        let as_it_is = [String::new()];
        let variants = if arguments.sidecar_argument.is_empty() { &as_it_is[..] } else { &arguments.sidecar_argument };
        for variant in variants {
            contestants.extend(this_backend(cluster, arguments, variant).await);
        }
    }
    if [WORKERD, WEB_WORKERD].into_iter().any(wants) {
        if arguments.peers.join("sync-cf/node_modules/.bin/wrangler").exists() {
            contestants.extend(sync_cf(arguments).await);
        } else {
            absent.push("sync-cf on workerd is not installed: tests/bench/install-peers.".into());
        }
    }
    if wants(S2_LITE) {
        if arguments.peers.join("s2-lite/bin/server").exists() {
            contestants.push(s2_lite(arguments).await);
        } else {
            absent.push("s2-lite is not installed: tests/bench/install-peers.".into());
        }
    }
    (contestants, absent)
}

/// A sidecar with a database of its own, in each dialect.
async fn this_backend(cluster: &'static Cluster, arguments: &Arguments, variant: &str) -> Vec<Contestant> {
    let database = cluster.database().await;
    let mut start = Start::new(database.url("sidecar")).arguments(&variant.split_whitespace().collect::<Vec<_>>());
    if let Some(build) = &arguments.sidecar {
        start = start.build(build);
    }
    let sidecar = start.ready().await;
    let (ws, http, port) = (sidecar.url(), sidecar.http_url(), sidecar.port());
    let backend = Arc::new(Backend::Ours { database, sidecar });
    let wanted = OURS.into_iter().filter(|name| arguments.wants(name));
    let contestant = |name: &'static str| Contestant {
        system: format!("livestore_sync {variant}").trim().into(),
        dialect: if name == WEB { "cf-ws" } else { name },
        url: if ["cf-ws", WEB].contains(&name) { ws.clone() } else { http.clone() },
        web: (name == WEB).then_some(port),
        backend: Arc::clone(&backend),
    };
    wanted.map(contestant).collect()
}

async fn sync_cf(arguments: &Arguments) -> Vec<Contestant> {
    let server = SyncCf::start(&arguments.peers).await;
    let (url, port) = (server.url(), server.port());
    let backend = Arc::new(Backend::SyncCf { _server: server });
    let wanted = [WORKERD, WEB_WORKERD].into_iter().filter(|name| arguments.wants(name));
    let contestant = |name| Contestant {
        system: "sync-cf on workerd".into(),
        dialect: "cf-ws",
        url: url.clone(),
        web: (name == WEB_WORKERD).then_some(port),
        backend: Arc::clone(&backend),
    };
    wanted.map(contestant).collect()
}

async fn s2_lite(arguments: &Arguments) -> Contestant {
    let (server, proxy) = (S2Lite::start(&arguments.peers).await, Node::s2_proxy());
    let listening = proxy.call("listen", json!({"s2": server.url()})).await.expect("a proxy");
    let url = listening["url"].as_str().expect("a URL").into();
    let backend = Arc::new(Backend::S2Lite { _server: server, _proxy: proxy });
    Contestant { system: S2_LITE.into(), dialect: "s2", url, web: None, backend }
}
