//! `--read-database-url`: histories come from standbys, and whoever reads gets the same as from the primary alone.

use std::time::Duration;

use futures_util::future::{join, join_all};
use livestore_tests::cluster::{Cluster, Database};
use livestore_tests::events::{chain, up_to};
use livestore_tests::eventually;
use livestore_tests::rpc::Rpc;
use livestore_tests::sidecar::{Sidecar, Start};
use serde_json::json;
use tokio::time::sleep;
use tokio_postgres::Client;

use crate::check::finds;
use crate::page_cache::{first_name, pages, read, sql};

/// Two and a half pages.
pub const EVENTS: i64 = 2500;

pub struct Setup {
    pub database: Database,
    pub admin: Client,
    pub standby: &'static Cluster,
    /// A superuser there.
    pub there: Client,
    pub sidecar: Sidecar,
}

/// A primary, a standby, and a sidecar for the URLs of both. A store `s` is filled.
pub async fn setup(sidecar: impl FnOnce(String, String) -> Start) -> Setup {
    let database = Database::alone().await;
    let standby = database.cluster().standby().await.leak();
    let admin = database.admin().await;
    fill(&admin, "s").await;
    let there = database.on(standby).admin().await;
    replayed(&admin, &there).await;
    let sidecar = sidecar(database.url("sidecar"), database.on(standby).url("sidecar")).ready().await;
    Setup { database, admin, standby, there, sidecar }
}

/// A sidecar that keeps no pages, and reads from the standby.
fn reading(primary: String, standby: String) -> Start {
    Start::new(primary).arguments(&["--page-cache-bytes", "0", "--read-database-url", &standby])
}

async fn fill(admin: &Client, store: &str) {
    let events = chain(0, EVENTS).to_string();
    admin.execute("select livestore.push($1, $2::text::json)", &[&store, &events]).await.unwrap();
}

pub async fn replayed(admin: &Client, there: &Client) {
    let now: String = admin.query_one("select pg_current_wal_insert_lsn()::text", &[]).await.unwrap().get(0);
    eventually("the standby follows", async || {
        let row = there.query_one("select pg_last_wal_replay_lsn() >= $1::text::pg_lsn", &[&now]).await.unwrap();
        row.get::<_, bool>(0)
    })
    .await;
}

/// An export by the inspector is what the primary exports.
async fn exports_are_right(sidecar: &Sidecar, admin: &Client) {
    let rows = admin.query("select * from livestore.export_store('s')", &[]).await.unwrap();
    let expected: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let (status, lines) = sidecar.get("/inspector/export?id=s").await;
    assert_eq!(status, 200);
    assert_eq!(lines.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_come_from_a_standby_and_the_end_of_a_log_from_the_primary() {
    let Setup { database, admin, standby, there, sidecar } = setup(reading).await;
    eventually("the standby has what the primary had at the start", async || {
        assert_eq!(read(&sidecar, "s").await.numbers(), up_to(EVENTS));
        pages(&sidecar, "standby").await > 1.0
    })
    .await;
    let before = (pages(&sidecar, "standby").await, pages(&sidecar, "database").await);
    assert_eq!(read(&sidecar, "s").await.numbers(), up_to(EVENTS));
    assert_eq!((pages(&sidecar, "standby").await, pages(&sidecar, "database").await), (before.0 + 2.0, before.1 + 1.0));

    exports_are_right(&sidecar, &admin).await;
    let (url, arguments) = (database.url("sidecar"), ["--read-database-url", &database.on(standby).url("sidecar")]);
    finds(&url, &arguments, "ok", "host 1: a standby that follows").await;
    let elsewhere = arguments[1].replace(database.name(), "postgres");
    finds(&url, &["--read-database-url", &elsewhere], "WRONG", "host 1: its URL names another database").await;

    // While nothing is replayed, everybody gets everything.
    sql(&there, "select pg_wal_replay_pause()").await;
    let later = chain(EVENTS, 1500).to_string();
    admin.execute("select livestore.push('s', $1::text::json)", &[&later]).await.unwrap();
    let mut live = Rpc::open(&sidecar.url(), "s").await;
    live.pull(json!("1"), "s", true).await;
    let answers = join_all((0..10).map(|_| read(&sidecar, "s"))).await;
    assert!(answers.iter().all(|answer| answer.numbers() == up_to(EVENTS + 1500)));
    assert!(pages(&sidecar, "standby").await >= before.0 + 4.0);
    exports_are_right(&sidecar, &admin).await;
    finds(&url, &arguments, "advice", "host 1: it is behind the primary").await;
    sql(&there, "select pg_wal_replay_resume()").await;

    // A standby that is away, and one that was promoted, are not read from.
    let stopped = pages(&sidecar, "standby").await;
    tokio::task::spawn_blocking(|| standby.pg_ctl(&["stop", "-m", "immediate"])).await.unwrap();
    sql(&admin, "alter system reset synchronous_standby_names").await;
    sql(&admin, "select pg_reload_conf()").await;
    assert_eq!(read(&sidecar, "s").await.numbers(), up_to(EVENTS + 1500));
    assert_eq!(pages(&sidecar, "standby").await, stopped);
    tokio::task::spawn_blocking(|| {
        standby.pg_ctl(&["start"]);
        standby.pg_ctl(&["promote"]);
    })
    .await
    .unwrap();
    let there = database.on(standby).admin().await;
    sql(&there, "select livestore.reset_store('s')").await;
    let from_there = async || {
        assert_eq!(read(&sidecar, "s").await.numbers(), up_to(EVENTS + 1500));
        sidecar.log().contains("it is no standby")
    };
    eventually("what it is is found out", from_there).await;
    finds(&url, &arguments, "WRONG", "host 1: it is no standby").await;
    exports_are_right(&sidecar, &admin).await;
    assert_eq!(pages(&sidecar, "standby").await, stopped);
}

/// The standbys are read in turn: the one that is asked for lines may not have the page that the other one has.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_whole_while_one_of_two_standbys_lags() {
    let database = Database::alone().await;
    let first = database.cluster().standby().await.leak();
    let second = database.cluster().standby().await.leak();
    let admin = database.admin().await;
    fill(&admin, "s").await;
    let (there, lags) = (database.on(first).admin().await, database.on(second).admin().await);
    replayed(&admin, &there).await;
    replayed(&admin, &lags).await;
    let hosts = format!("127.0.0.1:{},127.0.0.1:{}", first.port(), second.port());
    let standbys = format!("postgres://sidecar@{hosts}/{}", database.name());
    let sidecar = reading(database.url("sidecar"), standbys).ready().await;
    eventually("a standby is read", async || {
        exports_are_right(&sidecar, &admin).await;
        pages(&sidecar, "standby").await > 0.0 || read(&sidecar, "s").await.numbers().is_empty()
    })
    .await;
    sql(&lags, "select pg_wal_replay_pause()").await;
    let later = chain(EVENTS, 4500).to_string();
    admin.execute("select livestore.push('s', $1::text::json)", &[&later]).await.unwrap();
    replayed(&admin, &there).await;
    for _ in 0..4 {
        exports_are_right(&sidecar, &admin).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_lags_behind_brings_nothing_that_was_rewritten_or_reset() {
    let Setup { admin, there, sidecar, .. } = setup(reading).await;
    sql(&there, "alter system set recovery_min_apply_delay = '5s'").await;
    sql(&there, "select pg_reload_conf()").await;
    let name = first_name(&read(&sidecar, "s").await);
    let before = pages(&sidecar, "standby").await;
    sql(&admin, "select livestore.rewrite_event('s', 1, 'other', null)").await;
    let is_rewritten = async || first_name(&read(&sidecar, "s").await) == "other";
    eventually("the rewritten event is read", is_rewritten).await;
    assert_ne!(name, "other");
    for _ in 0..5 {
        assert!(is_rewritten().await);
    }
    eventually("the standby follows, and is read from", async || {
        assert!(is_rewritten().await);
        pages(&sidecar, "standby").await > before + 4.0
    })
    .await;

    sql(&admin, "select livestore.reset_store('s')").await;
    fill(&admin, "s").await;
    eventually("the new log is read", async || first_name(&read(&sidecar, "s").await) == name).await;
    for _ in 0..5 {
        assert_eq!(first_name(&read(&sidecar, "s").await), name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_vanishes_in_the_middle_of_reads_is_missed_by_nobody() {
    let Setup { standby, sidecar, .. } = setup(reading).await;
    for after in [0, 2, 5, 10, 20] {
        eventually("the standby is read from", async || {
            let before = pages(&sidecar, "standby").await;
            read(&sidecar, "s").await;
            pages(&sidecar, "standby").await > before
        })
        .await;
        let killing = async {
            sleep(Duration::from_millis(after)).await;
            tokio::task::spawn_blocking(|| standby.kill()).await.unwrap();
        };
        let (answers, ()) = join(join_all((0..30).map(|_| read(&sidecar, "s"))), killing).await;
        assert!(answers.iter().all(|answer| answer.numbers() == up_to(EVENTS)), "killed after {after} ms");
        tokio::task::spawn_blocking(|| standby.pg_ctl(&["start"])).await.unwrap();
    }
}
