//! Full LiveStore clients (`@livestore/adapter-node` 0.4.0 with `makeWsSync`), each in a process of its own: commits on one
//! reach the SQLite tables of the other, whatever happens in between.
//!
//! Two clients of 0.4.0 that commit at the same moment double their own events, with any server
//! (livestorejs/livestore#1530). So here either one of them commits, or both while they are apart.

use std::time::Duration;

use livestore_tests::breaker::Breaker;
use livestore_tests::cluster::Database;
use livestore_tests::device::Device;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::{PATIENCE, eventually};
use serde_json::json;

/// The ids of the todos in the order of the log, which must be a chain.
async fn log(database: &Database) -> Vec<String> {
    let rows = database.admin().await;
    let rows = rows.query("select seq_num, parent_seq_num, args->>'id' from livestore.events order by seq_num", &[]);
    let mut head = 0;
    let mut ids = Vec::new();
    for row in rows.await.unwrap() {
        assert_eq!(row.get::<_, i64>(1), head);
        head = row.get(0);
        ids.push(row.get(2));
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_on_one_appear_in_the_tables_of_the_other() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let (a, b) = tokio::join!(Device::open("a", sidecar.port()), Device::open("b", sidecar.port()));
    a.create("1").await;
    b.settles(&["1"]).await;
    b.create("2").await;
    a.settles(&["1", "2"]).await;
    a.node.call("commit", json!({"event": "todoCompleted", "args": {"id": "2"}})).await.unwrap();
    eventually("it is completed on b, too", || async {
        b.node.call("todos", json!({})).await.unwrap()[1]["completed"] == true
    })
    .await;
    assert_eq!(log(&database).await, ["1", "2", "2"]);

    let late = Device::open("late", sidecar.port()).await;
    late.settles(&["1", "2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_args_is_pushed_once() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let (a, b) = tokio::join!(Device::open("a", sidecar.port()), Device::open("b", sidecar.port()));
    a.create("1").await;
    b.settles(&["1"]).await;
    a.node.call("commit", json!({"event": "allCompleted"})).await.unwrap();
    eventually("it is completed on b, too", || async {
        b.node.call("todos", json!({})).await.unwrap()[0]["completed"] == true
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Sent back with args, be it null, it would be pushed again and again.
    let names = "select string_agg(name || coalesce(args::text, ''), ' ' order by seq_num) from livestore.events";
    let names: String = database.admin().await.query_one(names, &[]).await.unwrap().get(0);
    assert_eq!(names, r#"todoCreated{"id":"1","text":"todo 1"} allCompleted"#);
    assert_eq!(a.status().await["pending"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_of_3_s_with_commits_on_both_sides_ends_in_one_log() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let breaker = Breaker::to(sidecar.port()).await;
    let (a, b) = tokio::join!(Device::open("a", sidecar.port()), Device::open("b", breaker.port()));
    a.create("0").await;
    b.settles(&["0"]).await;

    breaker.cut();
    for n in 1..=5 {
        a.create(&format!("a{n}")).await;
        b.create(&format!("b{n}")).await;
    }
    a.settles(&["0", "a1", "a2", "a3", "a4", "a5"]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(b.todos().await, ["0", "b1", "b2", "b3", "b4", "b5"]);
    breaker.mend();

    let all = ["0", "a1", "a2", "a3", "a4", "a5", "b1", "b2", "b3", "b4", "b5"];
    tokio::join!(a.settles(&all), b.settles(&all));
    assert_eq!(log(&database).await, all, "b has rebased onto a");
    // Both go on.
    b.create("last").await;
    a.settles(&["0", "a1", "a2", "a3", "a4", "a5", "b1", "b2", "b3", "b4", "b5", "last"]).await;
}

/// LiveStore 0.4 gives up a silent connection and opens another, but does not ask for its live pull again there.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_stalls_for_30_s_is_survived() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let breaker = Breaker::to(sidecar.port()).await;
    let (a, b) = tokio::join!(Device::open("a", sidecar.port()), Device::open("b", breaker.port()));
    a.create("0").await;
    b.settles(&["0"]).await;
    breaker.stall();
    a.create("1").await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    breaker.mend();
    b.settles(&["0", "1"]).await;
    b.create("2").await;
    a.settles(&["0", "1", "2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_of_the_sidecar_and_of_postgres_are_survived() {
    let database = Database::alone().await;
    let mut sidecar = Sidecar::on(&database).await;
    let port = sidecar.port();
    let (a, b) = tokio::join!(Device::open("a", port), Device::open("b", port));
    a.create("1").await;
    b.settles(&["1"]).await;

    assert!(sidecar.terminate().await.success());
    a.create("2").await;
    sidecar = Start::new(database.url("sidecar")).port(port).ready().await;
    tokio::join!(a.settles(&["1", "2"]), b.settles(&["1", "2"]));

    a.create("3").await;
    sidecar.kill();
    a.create("4").await;
    sidecar = Start::new(database.url("sidecar")).port(port).ready().await;
    tokio::join!(a.settles(&["1", "2", "3", "4"]), b.settles(&["1", "2", "3", "4"]));

    let cluster = database.cluster();
    let restart = tokio::task::spawn_blocking(|| cluster.pg_ctl(&["restart", "-m", "immediate"]));
    a.create("5").await;
    restart.await.unwrap();
    tokio::join!(a.settles(&["1", "2", "3", "4", "5"]), b.settles(&["1", "2", "3", "4", "5"]));
    b.create("6").await;
    a.settles(&["1", "2", "3", "4", "5", "6"]).await;
    assert_eq!(log(&database).await, ["1", "2", "3", "4", "5", "6"]);
    drop(sidecar);
    database.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_makes_clients_start_over() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let device = Device::open("a", sidecar.port()).await;
    device.create("1").await;
    device.settles(&["1"]).await;
    let mut shutdowns = device.node.unsolicited();
    database.admin().await.execute("select livestore.reset_store('todos')", &[]).await.unwrap();
    let shutdown = tokio::time::timeout(PATIENCE, shutdowns.recv()).await.unwrap().unwrap();
    assert_eq!(shutdown["cause"]["reason"], "backend-id-mismatch", "{shutdown}");
}
