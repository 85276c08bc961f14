//! A primary that is lost and a standby that takes its place, as docs/operations.md describes it: nothing that was acknowledged
//! is missing, and neither sidecars nor clients have to be started again. [`Load::finish`] checks the books.

use std::time::Duration;

use livestore_tests::breaker::Breaker;
use livestore_tests::cluster::{Cluster, Database};
use livestore_tests::device::Fleet;
use livestore_tests::events::chain;
use livestore_tests::eventually;
use livestore_tests::load::Load;
use livestore_tests::relay::{Peer, event, url_of};
use livestore_tests::rpc::Rpc;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::tokens::WITH_SECRET;
use livestore_tests::witness::{Troubles, Witness};
use serde_json::json;

async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

async fn pg_ctl(cluster: &'static Cluster, arguments: &'static [&'static str]) {
    tokio::task::spawn_blocking(|| cluster.pg_ctl(arguments)).await.unwrap();
}

/// The heads of the logs of the fleet, and their backend ids.
async fn logs(database: &Database) -> Vec<(i64, String)> {
    let heads = "select livestore.head(name), livestore.backend_id(name) from unnest($1::text[]) name";
    let rows = database.admin().await.query(heads, &[&&Fleet::DIALECTS[..]]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_is_killed_is_followed_by_its_standby() {
    let database = Database::alone().await;
    let primary = database.cluster();
    let standby = primary.standby().await.leak();
    let url = database.url_at_any("sidecar", &[primary.port(), standby.port()]);
    let sidecars = [Start::new(&url).ready().await, Start::new(&url).ready().await];
    let witness = Witness::of(sidecars[0].port()).await;
    let fleet = Fleet::open("device", witness.port()).await;
    fleet.create("1").await;
    fleet.settles(&["1"]).await;
    let before = logs(&database).await;
    let load = Load::start("books", &sidecars.each_ref().map(Sidecar::url), 2, 2);
    pause(1500).await;
    load.goes_on().await;

    primary.kill();
    fleet.create("2").await;
    pause(1000).await;
    pg_ctl(standby, &["promote"]).await;
    let promoted = database.on(standby);
    fleet.settles(&["1", "2"]).await;
    Fleet::hears_of(&promoted, "3").await;
    fleet.settles(&["1", "2", "3"]).await;
    pause(1000).await;
    load.finish(&promoted).await;
    for sidecar in &sidecars {
        eventually("it is ready", || async { sidecar.get("/readyz").await.0 == 200 }).await;
    }

    // The old one comes back, allows writes, and is the first in the URL, while the new one is away for a moment.
    pg_ctl(primary, &["start"]).await;
    // With no standby to wait for, it would take pushes.
    let old = database.admin().await;
    old.batch_execute("alter system reset synchronous_standby_names").await.unwrap();
    old.batch_execute("select pg_reload_conf()").await.unwrap();
    let given_up = logs(&database).await;
    assert!(given_up.iter().all(|(head, _)| *head == 1), "{given_up:?}");
    pg_ctl(standby, &["stop", "-m", "fast"]).await;
    fleet.create("4").await;
    for sidecar in &sidecars {
        eventually("it is not gone back to", || async { sidecar.get("/readyz").await.1.contains("fence it") }).await;
    }
    pause(1000).await;
    assert_eq!(logs(&database).await, given_up);
    pg_ctl(standby, &["start"]).await;
    fleet.settles(&["1", "2", "3", "4"]).await;
    Fleet::hears_of(&promoted, "5").await;
    fleet.settles(&["1", "2", "3", "4", "5"]).await;
    let after = logs(&promoted).await;
    assert!(
        after.iter().zip(&before).all(|(after, before)| after.0 == 5 && after.1 == before.1),
        "{after:?} {before:?}"
    );
    assert_eq!(witness.troubles(), Troubles::NONE);
    primary.pg_ctl(&["stop", "-m", "immediate"]);
    standby.pg_ctl(&["stop", "-m", "immediate"]);
}

/// Nobody has fenced it. A synchronous primary acknowledges nothing then, and clients would wait for as long as it is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_goes_on_beside_its_successor_is_left() {
    let database = Database::alone().await;
    let primary = database.cluster();
    let standby = primary.standby().await.leak();
    let url = database.url_at_any("sidecar", &[primary.port(), standby.port()]);
    let sidecar = Start::new(&url).ready().await;
    let relay = [&WITH_SECRET[..], &["--relay-store", "relay-{user}"]].concat();
    let relay = Start::new(&url).arguments(&relay).ready().await;
    let devices = url_of(&relay, "ann");
    let mut device = Peer::join(&devices, "device").await;
    device.push_to(&mut [], json!([event("device", 1, json!(1))])).await;
    let load = Load::start("books", &[sidecar.url()], 2, 2);
    load.goes_on().await;
    pg_ctl(standby, &["promote"]).await;
    // An append of the relay waits there too.
    let pushed = tokio::spawn(async move {
        device.push_until_acknowledged(&devices, json!([event("device", 2, json!(2))])).await;
    });
    let promoted = database.on(standby);
    let has_more = "select livestore.head('books') > $1";
    let head: i64 = promoted.admin().await.query_one("select livestore.head('books')", &[]).await.unwrap().get(0);
    eventually("the successor is written to", || async {
        promoted.admin().await.query_one(has_more, &[&head]).await.unwrap().get(0)
    })
    .await;
    eventually("it is ready", || async { sidecar.get("/readyz").await.0 == 200 }).await;
    load.finish(&promoted).await;
    pushed.await.unwrap();
    let stored = "select array_agg(args::text order by seq_num) from livestore.events where store_id = 'relay-ann'";
    let stored: Vec<String> = promoted.admin().await.query_one(stored, &[]).await.unwrap().get(0);
    assert_eq!(stored, ["1", "2"]);
    database.stop();
    standby.pg_ctl(&["stop", "-m", "immediate"]);
}

/// As a DNS record that names the successor now. The sidecar looks for no other host, and its connections go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_does_not_wait_at_a_server_to_which_its_name_leads_no_more() {
    let database = Database::alone().await;
    let primary = database.cluster();
    let standby = primary.standby().await.leak();
    let name = Breaker::to(primary.port()).await;
    let sidecar = Start::new(database.url_at_any("sidecar", &[name.port()])).ready().await;
    let mut writer = Rpc::open(&sidecar.url(), "s").await;
    writer.push(json!("1"), "s", chain(0, 1)).await;
    assert_eq!(writer.exit(&json!("1")).await["_tag"], "Success");
    pg_ctl(standby, &["promote"]).await;
    name.lead_to(standby.port());
    writer.push(json!("2"), "s", chain(1, 1)).await;
    assert_eq!(writer.exit(&json!("2")).await["_tag"], "Success");
    let promoted = database.on(standby).admin().await;
    let heads = "select array_agg(head) from livestore.stores";
    let heads: Vec<i64> = promoted.query_one(heads, &[]).await.unwrap().get(0);
    assert_eq!(heads, [2]);
    // Old entries of the commit log are removed beside it.
    let waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep' and query not like '%prune%'";
    let waiting: i64 = database.admin().await.query_one(waiting, &[]).await.unwrap().get(0);
    assert!(waiting <= 1, "{waiting} commits wait at the old primary");
    database.stop();
    standby.pg_ctl(&["stop", "-m", "immediate"]);
}

/// A commit waits for the standby, and is seen by nobody meanwhile. If the primary is restarted then, it is seen, whether the
/// standby has it or not: a repeated push finds its events in the log. That it waits all the same is by the lock on its store.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_repeated_is_not_acknowledged_before_the_standby_has_it() {
    let database = Database::alone().await;
    let primary = database.cluster();
    let standby = primary.standby().await.leak();
    let sidecar = Sidecar::on(&database).await;
    pg_ctl(standby, &["stop", "-m", "fast"]).await;
    let mut writer = Rpc::open(&sidecar.url(), "s").await;
    writer.push(json!("p"), "s", chain(0, 1)).await;
    assert!(writer.is_quiet_for(Duration::from_secs(2)).await, "the standby is away");
    pg_ctl(primary, &["restart", "-m", "immediate"]).await;
    eventually("the event is seen", || async {
        let head = "select livestore.head('s')";
        database.admin().await.query_one(head, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    eventually("the sidecar is ready", || async { sidecar.get("/readyz").await.0 == 200 }).await;
    assert!(writer.is_quiet_for(Duration::from_secs(3)).await, "the standby does not have it yet");
    pg_ctl(standby, &["start"]).await;
    assert_eq!(writer.exit(&json!("p")).await["_tag"], "Success");
    database.stop();
    standby.pg_ctl(&["stop", "-m", "immediate"]);
}
