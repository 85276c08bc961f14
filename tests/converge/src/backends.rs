//! Who is compared: this backend in each of its dialects, and the original ones that a registry has.

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
    /// What clients are given.
    pub url: String,
    backend: Arc<Backend>,
}

/// It ends when this is dropped.
enum Backend {
    Ours {
        database: Database,
        _sidecar: Sidecar,
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

    /// The log of a store.
    pub async fn log(&self, store: &str) -> Result<Log, String> {
        match &*self.backend {
            Backend::Ours { database, .. } => Ok(Log::in_postgres(database, store).await),
            _ => Log::as_pulled(self.dialect, &self.url, store).await.map_err(|error| error.to_string()),
        }
    }
}

/// All that are wanted, up; and why others are not among them.
pub async fn contestants(cluster: &'static Cluster, arguments: &Arguments) -> (Vec<Contestant>, Vec<String>) {
    let wants = |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == name);
    let mut contestants = Vec::new();
    let mut absent = vec!["Electric's own backend is in no registry.".into()];

    let ours = ["cf-ws", "cf-http", "electric", "s2"].map(|dialect| (dialect, wants(dialect)));
    let mut variants = arguments.sidecar_argument.clone();
    if variants.is_empty() {
        variants.push(String::new());
    }
    if ours.iter().any(|(_, wanted)| *wanted) {
        for variant in &variants {
            contestants.extend(this_backend(cluster, arguments, variant, &ours).await);
        }
    }
    if wants("workerd") {
        if arguments.peers.join("sync-cf/node_modules/.bin/wrangler").exists() {
            let server = SyncCf::start(&arguments.peers).await;
            let url = server.url();
            let backend = Arc::new(Backend::SyncCf { _server: server });
            contestants.push(Contestant { system: "sync-cf on workerd".into(), dialect: "cf-ws", url, backend });
        } else {
            absent.push("sync-cf on workerd is not installed: tests/bench/install-peers.".into());
        }
    }
    if wants("s2-lite") {
        if arguments.peers.join("s2-lite/bin/server").exists() {
            let (server, proxy) = (S2Lite::start(&arguments.peers).await, Node::s2_proxy());
            let listening = proxy.call("listen", json!({"s2": server.url()})).await.expect("a proxy");
            let url = listening["url"].as_str().expect("a URL").into();
            let backend = Arc::new(Backend::S2Lite { _server: server, _proxy: proxy });
            contestants.push(Contestant { system: "s2-lite".into(), dialect: "s2", url, backend });
        } else {
            absent.push("s2-lite is not installed: tests/bench/install-peers.".into());
        }
    }
    (contestants, absent)
}

async fn this_backend(
    cluster: &'static Cluster,
    arguments: &Arguments,
    variant: &str,
    dialects: &[(&'static str, bool)],
) -> Vec<Contestant> {
    let database = cluster.database().await;
    let mut start = Start::new(database.url("sidecar")).arguments(&variant.split_whitespace().collect::<Vec<_>>());
    if let Some(build) = &arguments.sidecar {
        start = start.build(build);
    }
    let sidecar = start.ready().await;
    let (ws, http) = (sidecar.url(), sidecar.http_url());
    let backend = Arc::new(Backend::Ours { database, _sidecar: sidecar });
    let wanted = dialects.iter().filter(|(_, wanted)| *wanted);
    let contestant = |&(dialect, _): &(&'static str, bool)| Contestant {
        system: format!("livestore_sync {variant}").trim().into(),
        dialect,
        url: if dialect == "cf-ws" { ws.clone() } else { http.clone() },
        backend: Arc::clone(&backend),
    };
    wanted.map(contestant).collect()
}
