//! `--live poll`: sidecars that ask the commit log instead of listening.

use std::time::Duration;

use livestore_tests::client::Node;
use livestore_tests::cluster::Database;
use livestore_tests::events::chain;
use livestore_tests::eventually;
use livestore_tests::sidecar::{Sidecar, Start};
use serde_json::Value;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;

async fn poller(database: &Database) -> Sidecar {
    Start::new(database.url("sidecar")).arguments(&["--live", "poll"]).ready().await
}

async fn sql(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap();
}

/// The event numbers of the next page that has some.
async fn next(live: &mut livestore_tests::client::Live) -> Vec<i64> {
    loop {
        let message = live.next().await;
        assert_eq!(message["event"], "page", "{message}");
        let numbers: Vec<i64> = message["value"]["batch"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["seqNum"].as_i64().unwrap())
            .collect();
        if !numbers.is_empty() {
            return numbers;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn live_clients_get_what_others_commit() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let sidecars = [poller(&database).await, poller(&database).await];
    let listeners =
        "select count(*) from pg_stat_activity where query ilike 'listen %' and datname = current_database()";
    assert_eq!(admin.query_one(listeners, &[]).await.unwrap().get::<_, i64>(0), 0);
    for dialect in ["cf-ws", "cf-http", "electric", "s2"] {
        let node = Node::sync_backend();
        let (writer, reader) = (
            node.open(dialect, &sidecars[0].url(), dialect).await,
            node.open(dialect, &sidecars[1].url(), dialect).await,
        );
        let mut live = reader.live(None).await;
        writer.push(chain(0, 1)).await.unwrap();
        assert_eq!(next(&mut live).await, [1], "{dialect}");
        sql(&admin, &format!("select livestore.commit('{dialect}', 'e')")).await;
        assert_eq!(next(&mut live).await, [2], "{dialect}");
        // A transaction that is long under way has its position when it ends.
        sql(
            &admin,
            &format!("begin; select livestore.commit('{dialect}', 'e'); select livestore.commit('other', 'e')"),
        )
        .await;
        sleep(Duration::from_millis(200)).await;
        sql(&admin, "commit").await;
        assert_eq!(next(&mut live).await, [3], "{dialect}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_and_restores_end_the_streams() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let sidecar = poller(&database).await;
    let node = Node::sync_backend();
    for end in [
        "select livestore.reset_store('s')",
        "select livestore.drop_store('s')",
        "select livestore.renew_backend_id('s')",
        "select livestore.renew_backend_ids()",
    ] {
        sql(&admin, "select livestore.commit('s', 'e')").await;
        let client = node.open("cf-ws", &sidecar.url(), "s").await;
        let mut live = client.live(None).await;
        assert!(!next(&mut live).await.is_empty());
        sql(&admin, end).await;
        let ended = loop {
            let message = live.next().await;
            if message["event"] != "page" {
                break message;
            }
            assert_eq!(message["value"]["batch"], Value::Array(Vec::new()), "{message}");
        };
        assert_eq!(ended["event"], "fail", "{end}: {ended}");
        assert!(ended["error"].to_string().contains("BackendIdMismatch"), "{end}: {ended}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missed_over_a_lost_connection_or_a_pruned_log() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let sidecar = poller(&database).await;
    let client = Node::sync_backend().open("cf-ws", &sidecar.url(), "s").await;
    let mut live = client.live(None).await;
    sql(&admin, "select livestore.commit('s', 'e')").await;
    assert_eq!(next(&mut live).await, [1]);
    for n in 2..=4 {
        // All of its connections, in the middle of a commit.
        sql(&admin, "begin; select livestore.commit('s', 'e')").await;
        let kill = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'sidecar' and datname = current_database()";
        sql(&admin, kill).await;
        sql(&admin, "commit").await;
        if n == 3 {
            sql(&admin, "select livestore.prune_commits(now() + interval '1 hour')").await;
        }
        assert_eq!(next(&mut live).await, [n]);
        eventually("it is ready", async || sidecar.get("/readyz").await.0 == 200).await;
    }
    assert!(sidecar.log().contains("the connection that follows commits is lost"));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_asks_less_often_while_nothing_is_committed_and_runs_handlers() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let sidecar = poller(&database).await;
    let handler = "create table public.done (seq_num bigint);
        create function public.handle(event livestore.polled_event) returns void language sql security definer
            as $$ insert into public.done values (event.seq_num) $$;
        select livestore.subscribe('s', handler => 'public.handle(livestore.polled_event)')";
    sql(&admin, handler).await;
    sql(&admin, "select livestore.commit('s', 'e')").await;
    let done = async || admin.query_one("select count(*) from public.done", &[]).await.unwrap().get::<_, i64>(0);
    eventually("it is handled", async || done().await == 1).await;
    let start = Instant::now();
    sql(&admin, "select livestore.commit('s', 'e')").await;
    eventually("it is handled", async || done().await == 2).await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());

    // About three rounds in as many seconds, of which each is one transaction.
    sleep(Duration::from_secs(3)).await;
    let polls = "select xact_start from pg_stat_activity where query like '%heads_since%' and usename = 'sidecar' and datname = current_database()";
    let begun = "select query_start from pg_stat_activity where query like '%heads_since%' and usename = 'sidecar' and datname = current_database()";
    assert!(admin.query(polls, &[]).await.unwrap().len() == 1);
    let (mut starts, end) = (std::collections::BTreeSet::new(), Instant::now() + Duration::from_secs(3));
    while Instant::now() < end {
        starts.insert(admin.query_one(begun, &[]).await.unwrap().get::<_, std::time::SystemTime>(0));
        sleep(Duration::from_millis(20)).await;
    }
    assert!((2..=5).contains(&starts.len()), "{} polls in 3 s", starts.len());

    // The relay cannot work so.
    let (status, text) = sidecar.get("/api/v1/livestore/sync").await;
    assert_eq!(status, 404);
    assert!(text.contains("--live is poll"), "{text}");
    assert!(sidecar.log().contains("the peer relay is off"));
}
