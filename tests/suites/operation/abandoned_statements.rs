//! Statements whose answer nobody waits for any more: Postgres is told to end them.

use std::time::Duration;

use livestore_tests::cluster::Database;
use livestore_tests::dialects::Caller;
use livestore_tests::events::chain;
use livestore_tests::rpc::Rpc;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::{eventually, eventually_within};

/// The processes of Postgres that carry out such a statement of the sidecar.
async fn at_work(database: &Database, statement: &str) -> Vec<i32> {
    let sql = "select pid from pg_stat_activity
        where datname = current_database() and application_name = 'livestore-sidecar' and state = 'active' and query like $1";
    let rows = database.admin().await.query(sql, &[&format!("%{statement}%")]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Before, each try went on for as long as the hook took, on a connection of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_takes_too_long_is_cancelled_and_tried_again() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    let hook = "create table public.pace (seconds float8); insert into public.pace values (600);
        grant select on public.pace to public;
        create function public.slow() returns trigger language plpgsql as
            $$ begin perform pg_sleep(seconds) from public.pace; return new; end $$;
        create trigger slow before insert on livestore.eventlog_1 for each row execute function public.slow()";
    admin.batch_execute(hook).await.unwrap();
    let caller = Caller::new(&sidecar, "slow");
    let ends = async {
        eventually("the commit begins", || async { !at_work(&database, "livestore.push_batch(").await.is_empty() })
            .await;
        let first = at_work(&database, "livestore.push_batch(").await;
        admin.batch_execute("update public.pace set seconds = 0").await.unwrap();
        // The sidecar gives up after 30 s.
        eventually_within(Duration::from_secs(60), "the commit ends", || async {
            !at_work(&database, "livestore.push_batch(").await.iter().any(|pid| first.contains(pid))
        })
        .await;
    };
    let (answer, ()) = tokio::join!(caller.write("electric", chain(0, 1)), ends);
    assert_eq!(answer.status, 200, "{answer:?}");
    let stored = "select count(*) from livestore.events where store_id = 'slow'";
    assert_eq!(admin.query_one(stored, &[]).await.unwrap().get::<_, i64>(0), 1);
}

/// Before, it went on for 30 s, and whoever got the connection next waited for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_whose_client_leaves_is_cancelled_and_the_next_one_is_not() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--database-connections", "1"]).ready().await;
    let answer = Caller::new(&sidecar, "s").write("electric", chain(0, 3)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    sidecar.terminate().await;
    // A sidecar that has none of the events in memory.
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--database-connections", "1"]).ready().await;
    let mut holder = database.admin().await;
    for _ in 0..5 {
        let lock = holder.transaction().await.unwrap();
        lock.batch_execute("lock table livestore.eventlog_1 in access exclusive mode").await.unwrap();
        let mut reader = Rpc::open(&sidecar.url(), "s").await;
        reader.pull("1".into(), "s", false).await;
        eventually("the read waits", || async { !at_work(&database, "livestore.read_page(").await.is_empty() }).await;
        drop(reader);
        let ends = || async { at_work(&database, "livestore.read_page(").await.is_empty() };
        eventually_within(Duration::from_secs(10), "the read ends", ends).await;
        lock.rollback().await.unwrap();
        for _ in 0..10 {
            let mut reader = Rpc::open(&sidecar.url(), "s").await;
            reader.pull("1".into(), "s", false).await;
            let frame = reader.frame().await.to_string();
            assert!(frame.contains("\"seqNum\":1"), "{frame}");
        }
    }
    assert!(!sidecar.log().contains("canceling statement"), "{}", sidecar.log());
}
