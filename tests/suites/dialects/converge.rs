//! Full clients that commit at the same moment, in each dialect: the short form of `make converge`.
//!
//! LiveStore 0.4.0 does not always get through this, with any server (docs/known-problems.md). But in every round the log is one
//! chain of the events that the clients have pushed, each of them once, with everything that was acknowledged. So an event that
//! is missing is one that its client has not pushed.

use std::time::Duration;

use futures_util::future::join_all;
use livestore_tests::cluster::Database;
use livestore_tests::convergence::{Log, Nodes, Played, Processes, Round, Verdict, logs};
use livestore_tests::device::Fleet;
use livestore_tests::sidecar::Sidecar;

/// On a store of its own, named after dialect and pace.
async fn play(
    database: &Database,
    sidecar: &Sidecar,
    dialect: &str,
    events: usize,
    pace: &str,
) -> (Played, Log, Verdict) {
    let limit = Duration::from_secs(60);
    let round = Round { writers: 2, events, pace: pace.into(), stillness: Duration::from_secs(6), limit };
    let folder = tempfile::tempdir().unwrap();
    let store = format!("{dialect}-{pace}");
    let nodes = Nodes {
        dialect: dialect.into(),
        url: if dialect == "cf-ws" { sidecar.url() } else { sidecar.http_url() },
        store: store.clone(),
        materializers: "idempotent".into(),
        processes: Processes::One,
        folder: folder.path().into(),
    };
    let played = nodes.play(&round).await;
    let log = Log::in_postgres(database, &store).await;
    let verdict = Verdict::of(&played, &log, &logs(folder.path()));
    (played, log, verdict)
}

/// A backlog that a leader takes at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_few_events_of_two_clients_at_the_same_moment_are_soon_everywhere() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    join_all(Fleet::DIALECTS.map(async |dialect| {
        let (played, log, verdict) = play(&database, &sidecar, dialect, 8, "burst").await;
        assert!(verdict.converged && verdict.is_log_whole(), "{dialect}: {verdict:?}\n{played:?}\n{log:?}");
    }))
    .await;
}

/// More than a leader takes at once, committed while others' events arrive: here clients get stuck, or end.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_whole_whatever_clients_make_of_many_events_at_the_same_moment() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    join_all(Fleet::DIALECTS.map(async |dialect| {
        let (played, log, verdict) = play(&database, &sidecar, dialect, 30, "turns").await;
        assert!(verdict.is_log_whole(), "{dialect}: {verdict:?}\n{played:?}\n{log:?}");
    }))
    .await;
}
