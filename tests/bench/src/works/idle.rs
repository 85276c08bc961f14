//! Idle connections: the cost of fifty thousand clients that are connected and have nothing to say.

use std::time::Duration;

use futures_util::future::join_all;

use super::{OURS, Size, say};
use crate::measure::{Bound, Figure, Section};
use crate::systems::Ours;
use crate::wire::rpc::Rpc;

const MOST: u32 = 50_000;

/// The connections from one address.
const AN_ADDRESS: u32 = 10_000;

pub async fn all(ours: &Ours, size: &Size) -> Vec<Section> {
    let connections = if size.is_quick { 2_000 } else { MOST };
    let open_files = rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(0, |(soft, _)| soft);
    // Each is an open file here, and one of the sidecar, which inherits the limit.
    let connections = connections.min(u32::try_from(open_files.saturating_sub(1_000)).unwrap_or(MOST));
    say(format!("{connections} idle live connections"));
    let sidecar = Ours::sidecar(&ours.database).await;
    let admin = ours.database.admin().await;
    let postgres = async || {
        let count = "select count(*) from pg_stat_activity where datname = current_database() and backend_type = 'client backend'";
        admin.query_one(count, &[]).await.expect("a count").get::<_, i64>(0)
    };
    // A first client causes the costs that come only once.
    let mut first = Rpc::open(&sidecar.url(), "idle-first", 0).await;
    first.follow().await;
    let (memory, database) = (sidecar.memory(), postgres().await);
    let mut held = Vec::new();
    for group in (0..connections).collect::<Vec<_>>().chunks(100) {
        let url = sidecar.url();
        let opening = group.iter().map(|index| {
            let (url, store) = (url.clone(), format!("idle-{}", index / 10));
            let address = u8::try_from(2 + index / AN_ADDRESS).expect("an address");
            async move {
                let mut rpc = Rpc::open_idle(&url, &store, address).await;
                rpc.follow().await;
                rpc
            }
        });
        held.extend(join_all(opening).await);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let each = (sidecar.memory() - memory) as f64 / f64::from(connections) / 1024.0;
    let more = (postgres().await - database) as f64;
    // They are live: an event that is pushed now arrives.
    Rpc::open(&sidecar.url(), "idle-7", 0).await.push(1).await;
    assert_eq!(held[70].next_page().await, 1);
    let title =
        format!("{connections} idle live connections on {} stores: memory of the sidecar for each", connections / 10);
    let section = Section::new("idle", title, "KiB", vec![Figure::new(OURS, vec![each])]);
    vec![section.claim("KiB a connection", each, Bound::AtMost(12.0)).note(format!(
        "With them, the sidecar has {more} more connections to Postgres: the pool has filled, to 8 at most."
    ))]
}
