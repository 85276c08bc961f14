//! This backend, as it is measured. The other systems are in `livestore_tests::peers`.

use std::path::PathBuf;

use livestore_tests::cluster::{Cluster, Database};
use livestore_tests::flavour::Flavour;
use livestore_tests::sidecar::{Sidecar, Start};

/// A database with the extension, and a sidecar.
pub struct Ours {
    pub database: Database,
    pub sidecar: Sidecar,
}

impl Ours {
    /// On a new database of this cluster.
    pub async fn start(cluster: &'static Cluster) -> Self {
        let database = cluster.database().await;
        let sidecar = Self::sidecar(&database).await;
        Self { database, sidecar }
    }

    /// The same with the portable flavour of the SQL.
    pub async fn portable(cluster: &'static Cluster) -> Self {
        let database = cluster.database_of(Flavour::Portable).await;
        let sidecar = Self::sidecar(&database).await;
        Self { database, sidecar }
    }

    /// One more sidecar on a database.
    pub async fn sidecar(database: &Database) -> Sidecar {
        // Nobody writes a line for each request here: it would be read by the benchmark. That it serves is info, too.
        let log = "warn,livestore_sidecar=info,livestore_sidecar::server::observe=warn";
        // As pgbench does it, and as docs/performance.md says.
        Start::new(database.socket_url("sidecar"))
            .arguments(&[MORE_CONNECTIONS])
            .environment("LIVESTORE_LOG", log)
            .ready()
            .await
    }
}

/// Room for the idle connections; everything else is as it comes.
pub const MORE_CONNECTIONS: &str = "--max-connections=60000";

/// A tool of the Postgres that `$PG_CONFIG` names, e.g. `pgbench`.
pub fn postgres_tool(name: &str) -> PathBuf {
    livestore_tests::cluster::bin(name)
}
