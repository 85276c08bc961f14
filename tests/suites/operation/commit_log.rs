//! The sidecar keeps the commit log short.

use livestore_tests::cluster::Database;
use livestore_tests::events::chain;
use livestore_tests::eventually;
use livestore_tests::sidecar::Sidecar;

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_removes_old_entries() {
    let database = Database::new().await;
    let admin = database.admin().await;
    admin.execute("select livestore.push('s', $1)", &[&chain(0, 2)]).await.unwrap();
    admin.execute("select livestore.push('t', $1)", &[&chain(0, 1)]).await.unwrap();
    let age = "update livestore.commits set committed_at = now() - interval '3 days' where position = 2;
        update livestore.instance set keep_commits = '2 days'";
    admin.batch_execute(age).await.unwrap();
    let _sidecar = Sidecar::on(&database).await;
    let left = "select array_agg(position) from livestore.commits";
    let is_pruned = || async { admin.query_one(left, &[]).await.unwrap().get::<_, Vec<i64>>(0) == [3] };
    eventually("the old entry is gone", is_pruned).await;
}
