//! An update as docs/operations.md describes it, under load: the new library and scripts are installed, the extension is
//! updated, then the sidecars, one by one. [`Load::finish`] checks the books.

use std::time::Duration;

use livestore_tests::cluster::Database;
use livestore_tests::events::chain;
use livestore_tests::load::Load;
use livestore_tests::sidecar::{Sidecar, Start};

async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

/// The statements of a sidecar of 0.2.0, prepared before the update and used after it.
const OLD_STATEMENTS: [&str; 4] = [
    "select push, head, appended, backend_id, created_at, sqlstate, message, detail
     from livestore.push_batch(array[$1::text], array[$2::text], array[null], 'old', array[null], array[null], array[null])",
    "select s.head, s.backend_id, e.\"seqNum\", e.args from livestore.stores s
     left join lateral (select * from only livestore.eventlog_1 e where e.store = s.id order by e.\"seqNum\") e on true
     where s.store_id = $1 and $2::text is not null",
    "select log.head, log.backend_id, e.seq_num, e.args
     from (select livestore.head($1) as head, livestore.backend_id($1) as backend_id offset 0) log
     left join livestore.pull_page($1, 0, 10, 1000) e on $2::text is not null",
    "select store_id from livestore.stores where livestore.table_suffix(store_id) = $1 and $2::text is not null",
];

#[tokio::test(flavor = "multi_thread")]
async fn an_update_from_each_release_leaves_old_sidecars_at_work() {
    for release in ["0.1.0", "0.2.0"] {
        let database = Database::new().await;
        let admin = database.admin().await;
        let install = format!("drop extension livestore_sync; create extension livestore_sync version '{release}'");
        admin.batch_execute(&install).await.unwrap();
        let old = database.connect("sidecar").await;
        let mut statements = Vec::new();
        for statement in OLD_STATEMENTS {
            statements.push(old.prepare(statement).await.unwrap());
        }
        for head in 1..=3 {
            let batch = chain(head - 1, 1).to_string();
            for statement in &statements {
                let rows =
                    old.query(statement, &[&"s", &batch]).await.unwrap_or_else(|e| panic!("{release} {head}: {e:?}"));
                assert!(!rows.is_empty(), "{release} {head}");
                if statement.columns()[1..].first().is_some_and(|column| column.name() == "head") {
                    assert_eq!(rows[0].get::<_, Option<i64>>("head"), Some(head), "{release}");
                }
            }
            if head == 1 {
                admin.batch_execute("alter extension livestore_sync update").await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_that_are_replaced_under_load_lose_nothing() {
    let database = Database::new().await;
    let admin = database.admin().await;
    admin
        .batch_execute(
            "drop extension livestore_sync; create extension livestore_sync version '0.1.0';
             alter extension livestore_sync update",
        )
        .await
        .unwrap();
    let version = admin.query_one("select extversion from pg_extension where extname = 'livestore_sync'", &[]).await;
    assert_eq!(version.unwrap().get::<_, &str>(0), env!("CARGO_PKG_VERSION"));
    let mut sidecars = vec![Sidecar::on(&database).await, Sidecar::on(&database).await];
    let urls: Vec<String> = sidecars.iter().map(Sidecar::url).collect();
    let loads = [Load::start("a", &urls, 2, 2), Load::start("b", &urls, 1, 1)];
    pause(1000).await;
    for _ in 0..2 {
        for load in &loads {
            load.goes_on().await;
        }
        let old = sidecars.remove(0);
        let port = old.port();
        assert!(old.terminate().await.success());
        sidecars.push(Start::new(database.url("sidecar")).port(port).ready().await);
        pause(1000).await;
    }
    for load in loads {
        load.finish(&database).await;
    }
}
