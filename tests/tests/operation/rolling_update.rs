//! An update as docs/operations.md describes it, under load: the new library and scripts are installed, the extension is
//! updated, then the sidecars, one by one. [`Load::finish`] checks the books.

use std::time::Duration;

use livestore_tests::cluster::Database;
use livestore_tests::load::Load;
use livestore_tests::sidecar::{Sidecar, Start};

async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_from_the_first_release_under_load_loses_nothing() {
    let database = Database::new().await;
    let admin = database.admin().await;
    admin
        .batch_execute("drop extension livestore_sync; create extension livestore_sync version '0.1.0'")
        .await
        .unwrap();
    let mut sidecars = vec![Sidecar::on(&database).await, Sidecar::on(&database).await];
    let urls: Vec<String> = sidecars.iter().map(Sidecar::url).collect();
    let loads = [Load::start("a", &urls, 2, 2), Load::start("b", &urls, 1, 1)];
    pause(1000).await;

    admin.batch_execute("alter extension livestore_sync update").await.unwrap();
    let version = admin.query_one("select extversion from pg_extension where extname = 'livestore_sync'", &[]).await;
    assert_eq!(version.unwrap().get::<_, &str>(0), env!("CARGO_PKG_VERSION"));
    pause(1000).await;
    for sidecar in &sidecars {
        assert_eq!(sidecar.get("/readyz").await, (200, "ready\n".into()), "a sidecar that was there before goes on");
    }

    for _ in 0..2 {
        let old = sidecars.remove(0);
        let port = old.port();
        assert!(old.terminate().await.success());
        sidecars.push(Start::new(database.url("sidecar")).port(port).ready().await);
        pause(1000).await;
    }
    for load in loads {
        assert!(load.finish(&database).await > 10);
    }
}
