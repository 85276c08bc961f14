//! A physical backup, restored to an earlier point, and the clients that are ahead of it.

use livestore_tests::cluster::Database;
use livestore_tests::device::Device;
use livestore_tests::sidecar::Sidecar;
use livestore_tests::{PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_ahead_of_a_restored_log_are_held_and_start_over_when_the_operator_says_so() {
    let database = Database::alone().await;
    let cluster = database.cluster();
    let sidecar = Sidecar::on(&database).await;
    let mut ahead = Device::open("ahead", sidecar.port()).await;
    ahead.create("1").await;
    ahead.settles(&["1"]).await;
    cluster.archive().await;
    for id in ["2", "3"] {
        ahead.create(id).await;
    }
    ahead.settles(&["1", "2", "3"]).await;
    let admin = database.admin().await;
    admin.execute("select pg_create_restore_point('three')", &[]).await.unwrap();
    for id in ["4", "5"] {
        ahead.create(id).await;
    }
    ahead.settles(&["1", "2", "3", "4", "5"]).await;
    // The file that was switched away from: the server soon begins the next one by itself.
    let last: String = admin.query_one("select pg_walfile_name(pg_switch_wal() - 1)", &[]).await.unwrap().get(0);
    let archived = "select count(*) from pg_stat_archiver where last_archived_wal >= $1";
    let is_archived = || async { admin.query_one(archived, &[&last]).await.unwrap().get::<_, i64>(0) == 1 };
    eventually("what was written is archived", is_archived).await;
    drop(admin);
    tokio::task::block_in_place(|| cluster.restore_to("three"));

    eventually("it is seen", || async { sidecar.log().contains("renew_backend_ids") }).await;
    let mut other = Device::open("other", sidecar.port()).await;
    other.settles(&["1", "2", "3"]).await;
    assert_eq!(ahead.todos().await, ["1", "2", "3", "4", "5"], "nothing follows what the log does not have");

    let admin = database.admin().await;
    let mut shutdowns = ahead.node.unsolicited();
    admin.execute("select livestore.renew_backend_ids()", &[]).await.unwrap();
    // LiveStore then drops what it has, and ends; the app is loaded again.
    let shutdown = tokio::time::timeout(PATIENCE, shutdowns.recv()).await.unwrap().unwrap();
    assert_eq!(shutdown["cause"]["reason"], "backend-id-mismatch", "{shutdown}");
    ahead.reload().await;
    ahead.settles(&["1", "2", "3"]).await;
    other.reload().await;
    ahead.create("6").await;
    for device in [&ahead, &other] {
        device.settles(&["1", "2", "3", "6"]).await;
    }
    database.stop();
}
