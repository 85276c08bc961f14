//! Faults under load: whatever is killed, cut or restarted, nothing acknowledged is lost or doubled, and every live
//! stream brings every event once, in order. [`Load::finish`] checks the books.

use std::time::{Duration, Instant};

use livestore_tests::breaker::Breaker;
use livestore_tests::client::Node;
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event, numbers, up_to};
use livestore_tests::eventually;
use livestore_tests::load::Load;
use livestore_tests::rpc::{Received, Rpc};
use livestore_tests::sidecar::{Sidecar, Start};
use serde_json::{Value, json};

async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_on_one_sidecar_arrives_live_on_the_other() {
    let database = Database::new().await;
    let sidecars = [Sidecar::on(&database).await, Sidecar::on(&database).await];
    let load = Load::start("two", &sidecars.each_ref().map(Sidecar::url), 2, 3);
    pause(4000).await;
    load.finish(&database).await;
    // Followers do not poll, so the events of the others came through notifications.
    for sidecar in &sidecars {
        let log = sidecar.log();
        let warnings = log.lines().filter(|line| line.contains("WARN") && !line.contains("not ready"));
        assert_eq!(warnings.count(), 0, "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_is_killed_under_load() {
    let database = Database::new().await;
    let mut sidecar = Sidecar::on(&database).await;
    let other = Sidecar::on(&database).await;
    let load = Load::start("killed", &[sidecar.url(), other.url()], 2, 2);
    for _ in 0..4 {
        pause(700).await;
        load.goes_on().await;
        let port = sidecar.port();
        sidecar.kill();
        sidecar = Start::new(database.url("sidecar")).port(port).ready().await;
    }
    load.finish(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_restarted_without_mercy_under_load() {
    let database = Database::alone().await;
    let sidecars = [Sidecar::on(&database).await, Sidecar::on(&database).await];
    let load = Load::start("restarted", &sidecars.each_ref().map(Sidecar::url), 2, 2);
    for _ in 0..3 {
        pause(1000).await;
        load.goes_on().await;
        let cluster = database.cluster();
        tokio::task::spawn_blocking(move || cluster.pg_ctl(&["restart", "-m", "immediate"])).await.unwrap();
    }
    load.finish(&database).await;
    for sidecar in sidecars {
        assert_eq!(sidecar.get("/readyz").await.0, 200);
    }
    database.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_connection_to_the_database_is_terminated_again_and_again_under_load() {
    let database = Database::new().await;
    let sidecars = [Sidecar::on(&database).await, Sidecar::on(&database).await];
    let load = Load::start("terminated", &sidecars.each_ref().map(Sidecar::url), 2, 2);
    let admin = database.admin().await;
    load.goes_on().await;
    for _ in 0..15 {
        pause(200).await;
        let terminate = "select pg_terminate_backend(pid) from pg_stat_activity
                         where application_name = 'livestore-sidecar' and datname = any ($1)";
        admin.execute(terminate, &[&database.names()]).await.unwrap();
    }
    load.finish(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listening_connection_is_cut_and_nothing_that_others_commit_meanwhile_is_missed() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let load = Load::start("heard", &[sidecar.url()], 0, 3);
    let admin = database.admin().await;
    for n in 0..200 {
        // The last one, too: nothing comes after it that would tell of it.
        if n % 20 == 19 {
            let terminate = "select pg_terminate_backend(pid) from pg_stat_activity
                             where application_name = 'livestore-sidecar' and datname = any ($1)
                             and query like 'select livestore.heads_key()%'";
            let names = database.names();
            let terminated = admin.execute(terminate, &[&names]).await.unwrap();
            assert_eq!(terminated, names.len() as u64, "one connection listens to each database");
        }
        let commit = "select livestore.commit('heard', 'written', json_build_object('writer', 'sql', 'n', $1::int))";
        admin.execute(commit, &[&n]).await.unwrap();
        pause(10).await;
    }
    // The books know nothing of these events: it is the followers that count.
    load.finish_with(&database, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_network_to_the_database_is_cut_under_load() {
    let database = Database::new().await;
    let breaker = Breaker::to(database.cluster().port()).await;
    let sidecar = Start::new(database.url_at("sidecar", breaker.port())).ready().await;
    let load = Load::start("cut", &[sidecar.url()], 3, 3);
    for _ in 0..3 {
        pause(700).await;
        load.goes_on().await;
        breaker.cut_for(Duration::from_millis(1500)).await;
    }
    load.finish(&database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_its_sidecar_has_given_up_arrives_live_all_the_same() {
    let database = Database::new().await;
    database
        .everywhere(
            "create function slow() returns trigger language plpgsql as
                 $$ begin if new.name = 'slow' then perform pg_sleep(3); end if; return null; end $$;
             create trigger slow after insert on livestore.eventlog_1 for each row execute function slow()",
        )
        .await;
    database.admin().await.batch_execute("select livestore.create_store('s')").await.unwrap();
    let breaker = Breaker::to(database.cluster().port()).await;
    let url = database.url_at("sidecar", breaker.port());
    let sidecar = Start::new(url).arguments(&["--push-timeout", "1s"]).ready().await;
    let mut live = Rpc::open(&sidecar.url(), "s").await;
    live.pull(json!("live"), "s", true).await;
    live.frame().await;

    let mut writer = Rpc::open(&sidecar.url(), "s").await;
    writer.push(json!("p"), "s", json!([event(0, "slow", json!({}))])).await;
    pause(300).await;
    // Postgres does not notice that nobody waits for its answer any more.
    breaker.cut_for(Duration::from_millis(50)).await;
    assert_eq!(writer.closed().await, Received::Close(1013), "the outcome is not known");
    let chunk = live.frame().await;
    assert_eq!(chunk.pointer("/values/0/batch/0/eventEncoded/name").unwrap(), "slow");

    let mut writer = Rpc::open(&sidecar.url(), "s").await;
    writer.push(json!("p"), "s", json!([event(0, "slow", json!({}))])).await;
    assert_eq!(writer.exit(&json!("p")).await["_tag"], "Success", "a repeated push");
    assert!(live.is_quiet_for(Duration::from_millis(300)).await, "is not delivered again");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_pings_are_answered_pulls_wait_and_pushes_wait_within_a_bound() {
    let database = Database::new().await;
    let breaker = Breaker::to(database.cluster().port()).await;
    let url = database.url_at("sidecar", breaker.port());
    let sidecar = Start::new(url).arguments(&["--push-timeout", "2s"]).ready().await;
    let mut live = Rpc::open(&sidecar.url(), "s").await;
    live.pull(json!("live"), "s", true).await;
    live.frame().await;

    breaker.cut();
    eventually("the sidecar notices", || async { sidecar.get("/readyz").await.0 == 503 }).await;
    assert_eq!(sidecar.get("/healthz").await.0, 200);
    live.send(json!({"_tag": "Ping"})).await;
    assert_eq!(live.frame().await, json!({"_tag": "Pong"}));

    let mut pull = Rpc::open(&sidecar.url(), "s").await;
    pull.pull(json!("0"), "s", false).await;
    let mut push = Rpc::open(&sidecar.url(), "s").await;
    let start = Instant::now();
    push.push(json!("0"), "s", chain(0, 1)).await;
    assert_eq!(push.closed().await, Received::Close(1013), "no error that would stop the client for good");
    let waited = start.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(30)).contains(&waited), "{waited:?}");
    assert!(pull.is_quiet_for(Duration::from_millis(300)).await);

    breaker.mend();
    assert_eq!(pull.exit(&json!("0")).await["_tag"], "Success");
    let mut push = Rpc::open(&sidecar.url(), "s").await;
    push.push(json!("0"), "s", chain(0, 1)).await;
    assert_eq!(push.exit(&json!("0")).await["_tag"], "Success");
    let chunk = live.frame().await;
    assert_eq!(chunk.pointer("/values/0/batch/0/eventEncoded/seqNum").unwrap(), 1, "the live stream was kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_an_open_transaction_holds_does_not_hold_up_the_others() {
    /// With the same slot as the other one: a transaction is on one shard.
    const NEW: &str = "new-463";
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let mut admin = database.admin_of("held").await;
    admin.execute("select livestore.create_store('held')", &[]).await.unwrap();
    let transaction = admin.transaction().await.unwrap();
    for store in ["held", NEW] {
        transaction.execute("select livestore.commit($1, 'first')", &[&store]).await.unwrap();
    }
    // One waits for the row of its store, the other for whether the store will exist.
    let mut held = Rpc::open(&sidecar.url(), "held").await;
    held.push(json!("p"), "held", json!([event(1, "second", json!({}))])).await;
    let mut new = Rpc::open(&sidecar.url(), NEW).await;
    new.push(json!("p"), NEW, json!([event(0, "mine", json!({}))])).await;

    // Each comes at another time, and could cost everybody a wait of its own.
    let mut more = Vec::new();
    for n in 0..6 {
        let mut rpc = Rpc::open(&sidecar.url(), "held").await;
        rpc.push(json!("p"), "held", json!([event(1, "other", json!(n))])).await;
        more.push(rpc);
        pause(300).await;
    }
    let load = Load::start("free", &[sidecar.url()], 2, 2);
    pause(3000).await;
    load.finish(&database).await;

    transaction.commit().await.unwrap();
    more.push(held);
    let mut accepted = 0;
    for mut rpc in more {
        accepted += i32::from(rpc.exit(&json!("p")).await["_tag"] == "Success");
    }
    assert_eq!(accepted, 1, "they all build on the same event");
    assert_eq!(new.exit(&json!("p")).await["cause"]["error"]["_tag"], "ServerAheadError");
}

/// The usual time of a push to a store that has nothing to do with others: the median of some pushes, before each of which
/// `disturb` is called.
async fn usual_push(sidecar: &Sidecar, store: &str, pushes: i64, mut disturb: impl AsyncFnMut(i64)) -> Duration {
    let mut rpc = Rpc::open(&sidecar.url(), store).await;
    let mut took = Vec::new();
    for n in 0..pushes {
        disturb(n).await;
        let start = Instant::now();
        rpc.push(json!(n.to_string()), store, chain(n, 1)).await;
        assert_eq!(rpc.exit(&json!(n.to_string())).await["_tag"], "Success");
        took.push(start.elapsed());
    }
    took.sort_unstable();
    took[took.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_waits_costs_others_nothing_and_keeps_the_order_of_its_pushes() {
    const PUSHES: i64 = 25;
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let setup = database.admin().await;
    let hook = "create schema app; create table app.balances ();
        create function app.look() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp
            as $$ begin perform from app.balances; return new; end $$";
    setup.batch_execute(hook).await.unwrap();
    for (kind, stores, prepare, hold) in [
        (
            "row",
            PUSHES,
            "select livestore.create_store('row-' || n) from generate_series(0, 24) n",
            "select from livestore.stores where store_id like 'row-%' for update",
        ),
        ("new", PUSHES, "select", "select livestore.create_store('new-' || n) from generate_series(0, 24) n"),
        (
            "one",
            1,
            "select livestore.create_store('one-0')",
            "select from livestore.stores where store_id = 'one-0' for update",
        ),
        (
            "hook",
            1,
            "create trigger look before insert on livestore.eventlog_1 for each row when (new.name = 'look') execute function app.look()",
            "lock table app.balances",
        ),
    ] {
        setup.batch_execute(prepare).await.unwrap();
        let quiet = usual_push(&sidecar, &format!("before-{kind}"), PUSHES, async |_| {}).await;
        let mut admin = database.admin().await;
        let transaction = admin.transaction().await.unwrap();
        transaction.batch_execute(hold).await.unwrap();
        let mut held = Vec::new();
        for store in 0..stores {
            held.push(Rpc::open(&sidecar.url(), &format!("{kind}-{store}")).await);
        }
        let beside = format!("beside-{kind}");
        let during = usual_push(&sidecar, &beside, PUSHES, async |n| {
            let (store, after) = (n % stores, n / stores);
            let batch = json!([event(after, "look", json!({}))]);
            let rpc = &mut held[usize::try_from(store).unwrap()];
            rpc.push(json!(n.to_string()), &format!("{kind}-{store}"), batch).await;
        })
        .await;
        // A push that waits for the store waits 200 ms.
        assert!(during < 5 * quiet + Duration::from_millis(80), "{kind}: {during:?} instead of {quiet:?}");
        assert_eq!(sidecar.metric("livestore_held_stores").await, stores as f64, "{kind}");
        transaction.commit().await.unwrap();
        for n in 0..PUSHES {
            let rpc = &mut held[usize::try_from(n % stores).unwrap()];
            assert_eq!(rpc.exit(&json!(n.to_string())).await["_tag"], "Success", "{kind}: push {n}");
        }
        let is_over = || async { sidecar.metric("livestore_held_stores").await == 0.0 };
        eventually("nothing waits any more", is_over).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_told_to_end_finishes_its_commits_closes_its_sockets_and_exits_0() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let port = sidecar.port();
    let mut live = Rpc::open(&sidecar.url(), "s").await;
    live.pull(json!("live"), "s", true).await;
    live.frame().await;
    let mut writer = Rpc::open(&sidecar.url(), "s").await;
    // A commit that takes a while: the row of its store is locked.
    let mut admin = database.admin().await;
    admin.execute("select livestore.create_store('s')", &[]).await.unwrap();
    let transaction = admin.transaction().await.unwrap();
    transaction.execute("select from livestore.stores where store_id = 's' for update", &[]).await.unwrap();
    writer.push(json!("p"), "s", chain(0, 1)).await;
    pause(300).await;

    let ending = tokio::spawn(sidecar.terminate());
    pause(500).await;
    assert!(!ending.is_finished(), "the commit is still under way");
    assert_eq!(live.closed().await, Received::Close(1012));
    assert!(Rpc::try_connect(&format!("ws://127.0.0.1:{port}/?storeId=s&transport=ws")).await.is_none());
    transaction.commit().await.unwrap();
    assert_eq!(writer.exit(&json!("p")).await["_tag"], "Success");
    assert_eq!(writer.closed().await, Received::Close(1012));
    assert_eq!(ending.await.unwrap().code(), Some(0));
    let count: i64 = admin.query_one("select livestore.head('s')", &[]).await.unwrap().get(0);
    assert_eq!(count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_at_its_deadline_whatever_hangs() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar"))
        .arguments(&["--shutdown-deadline", "1s", "--push-timeout", "60s"])
        .ready()
        .await;
    let mut admin = database.admin().await;
    admin.execute("select livestore.create_store('s')", &[]).await.unwrap();
    let transaction = admin.transaction().await.unwrap();
    transaction.execute("select from livestore.stores where store_id = 's' for update", &[]).await.unwrap();
    let mut writer = Rpc::open(&sidecar.url(), "s").await;
    writer.push(json!("p"), "s", chain(0, 1)).await;
    pause(300).await;
    let start = Instant::now();
    assert_eq!(sidecar.terminate().await.code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(30), "not the 60 s of the push");
}

/// The client gives a connection up when no whole message has come for a while, and begins with the same chunk on the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_of_large_events_arrives_on_a_slow_link() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let batch: Value = (0..31).map(|parent| event(parent, "blob", json!("x".repeat(33_000)))).collect();
    database.admin().await.execute("select livestore.push('s', $1)", &[&batch]).await.unwrap();
    let link = Breaker::to(sidecar.port()).await;
    // 64 KiB each time, at most: 44 KB a second.
    link.slow(Duration::from_millis(1500));
    let client = Node::sync_backend().open("cf-ws", &format!("ws://127.0.0.1:{}", link.port()), "s").await;
    let mut live = client.live(None).await;
    assert_eq!(numbers(&live.events(31).await), up_to(31));
}
