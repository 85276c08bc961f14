//! A subscription from the beginning, and what of the commit log is kept for subscriptions.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use livestore_tests::cluster::Database;
use livestore_tests::events::chain;
use serde_json::json;

use super::{commit, poll};
use crate::support::{one, push, rejection, run};

/// Sessions write while a subscription to the whole history is made and read.
#[tokio::test(flavor = "multi_thread")]
async fn from_the_beginning_nothing_is_missed_or_doubled_while_others_write() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(&admin, "select livestore.create_store('s1', own_table => true)").await;
    for store in 0..20 {
        push(&admin, &format!("s{store}"), chain(0, 1 + store % 7)).await.unwrap();
    }
    // As after an update from a version without the commit log.
    run(&admin, "select livestore.prune_commits(now() + interval '1 hour')").await;
    let is_done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..3)
        .map(|number| {
            let (database, is_done) = (database.clone(), Arc::clone(&is_done));
            tokio::spawn(async move {
                let client = database.connect("sidecar").await;
                let mut round = number;
                while !is_done.load(Ordering::Relaxed) {
                    round += 1;
                    let sql = format!(
                        "begin; select livestore.commit('s{}', 'e'); select pg_sleep(0.00{}); commit",
                        round % 23,
                        round % 3
                    );
                    run(&client, &sql).await;
                }
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    run(&admin, "select livestore.subscribe('s', partitions => 2, start => 'beginning')").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let worker = database.connect("sidecar").await;
    let mut heads: HashMap<String, i64> = HashMap::new();
    let mut empty = 0;
    while empty < 3 {
        if is_done.load(Ordering::Relaxed) {
            empty += 1;
        }
        let rows = worker.query("select lease, store_id, seq_num from livestore.poll('s', 7)", &[]).await.unwrap();
        for row in &rows {
            empty = 0;
            let head = heads.entry(row.get(1)).or_default();
            assert_eq!(row.get::<_, i64>(2), *head + 1, "{}", row.get::<_, String>(1));
            *head += 1;
        }
        if let Some(row) = rows.first() {
            worker.execute("select livestore.ack($1)", &[&row.get::<_, String>(0)]).await.unwrap();
        }
        if heads.values().sum::<i64>() > 120 {
            is_done.store(true, Ordering::Relaxed);
        }
    }
    for writer in writers {
        writer.await.unwrap();
    }
    // Events that were written after the last poll.
    loop {
        let rows = worker.query("select lease, store_id, seq_num from livestore.poll('s', 100)", &[]).await.unwrap();
        let Some(row) = rows.first() else { break };
        worker.execute("select livestore.ack($1)", &[&row.get::<_, String>(0)]).await.unwrap();
        for row in &rows {
            *heads.entry(row.get(1)).or_default() += 1;
        }
    }
    let stored =
        "select string_agg(store_id || head, ',' order by store_id collate \"C\") from livestore.stores where head > 0";
    let mut read: Vec<_> = heads.into_iter().collect();
    read.sort();
    let read = read.into_iter().map(|(store, head)| format!("{store}{head}")).collect::<Vec<_>>().join(",");
    assert_eq!(one::<String>(&admin, stored).await, read);
    assert_eq!(one::<i64>(&admin, "select count(*) from livestore.subscription_history").await, 0);
}

#[tokio::test]
async fn a_store_that_is_reset_or_dropped_during_its_history_is_told() {
    let database = Database::new().await;
    let (admin, worker) = (database.admin().await, database.connect("sidecar").await);
    for store in ["a", "b", "c"] {
        push(&admin, store, chain(0, 2)).await.unwrap();
    }
    run(&admin, "select livestore.subscribe('s', start => 'beginning')").await;
    let batch = poll(&worker, "'s', 1").await;
    assert!(batch.events[0].starts_with("a 1 "), "{:?}", batch.events);
    batch.ack(&worker).await;
    run(&admin, "select livestore.reset_store('a'); select livestore.drop_store('b')").await;
    commit(&admin, "a", "new").await;
    let batch = poll(&worker, "'s'").await;
    assert_eq!(batch.events.len(), 2);
    assert!(batch.events.iter().all(|event| event.starts_with("c ")), "{:?}", batch.events);
    batch.ack(&worker).await;
    let batch = poll(&worker, "'s'").await;
    assert_eq!(batch.events, ["a reset", "b drop", "a 1 new"]);
    batch.ack(&worker).await;
    assert!(poll(&worker, "'s'").await.events.is_empty());
}

/// With many stores, a subscription from the beginning takes long.
#[tokio::test]
async fn commits_go_on_while_somebody_subscribes_and_come_once() {
    let database = Database::new().await;
    let (admin, other) = (database.admin().await, database.admin().await);
    run(&other, "set statement_timeout = '10s'").await;
    for event in ["a", "b"] {
        commit(&other, event, "before").await;
    }
    run(&admin, "begin; select livestore.subscribe('s', start => 'beginning')").await;
    for event in ["a", "new"] {
        commit(&other, event, "meanwhile").await;
    }
    run(&admin, "commit").await;
    commit(&other, "b", "afterwards").await;
    let mut events = Vec::new();
    while let batch = poll(&admin, "'s'").await
        && !batch.events.is_empty()
    {
        batch.ack(&admin).await;
        events.extend(batch.events);
    }
    events.sort();
    assert_eq!(events, ["a 1 before", "a 2 meanwhile", "b 1 before", "b 2 afterwards", "new 1 meanwhile"]);
}

#[tokio::test]
async fn the_commit_log_is_kept_for_the_slowest() {
    let database = Database::new().await;
    let (admin, worker) = (database.admin().await, database.connect("sidecar").await);
    commit(&admin, "a", "e").await;
    run(&admin, "select livestore.subscribe('s')").await;
    for _ in 0..3 {
        commit(&admin, "a", "e").await;
    }
    let prune = "select livestore.prune_commits(now() + interval '1 hour')";
    assert_eq!(one::<i64>(&admin, prune).await, 1);
    poll(&worker, "'s', 2").await.ack(&worker).await;
    assert_eq!(one::<i64>(&admin, prune).await, 3);
    assert_eq!(poll(&worker, "'s'").await.events, ["a 4 e"]);
    run(&admin, "select livestore.unsubscribe('s')").await;
    assert_eq!(one::<i64>(&admin, prune).await, 4);
}

/// It would not know of the subscription, and remove what that has yet to read.
#[tokio::test]
async fn pruning_with_an_older_snapshot_than_a_subscription_fails() {
    let database = Database::new().await;
    let (admin, other) = (database.admin().await, database.admin().await);
    for _ in 0..5 {
        commit(&admin, "a", "e").await;
    }
    run(&other, "begin isolation level repeatable read; select count(*) from livestore.commits").await;
    run(&admin, "select livestore.subscribe('s', start => '2')").await;
    let prune = "select livestore.prune_commits(now() + interval '1 hour')";
    assert_eq!(rejection(other.execute(prune, &[]).await).sqlstate, "40001");
    assert_eq!(poll(&admin, "'s'").await.events, ["a 3 e", "a 4 e", "a 5 e"]);
}

/// One call would take longer than a statement may, and the next one would begin where it did.
#[tokio::test]
async fn a_history_without_events_of_interest_is_passed_in_several_calls() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(
        &admin,
        "insert into livestore.stores (store_id, head, backend_id)
             select 's' || n, 1, 'unused' || n from generate_series(1, 600) n
             union all
             select 'last', 25000, 'unused';
         insert into livestore.eventlog_1 (store, \"seqNum\", \"parentSeqNum\", name, \"clientId\", \"sessionId\", \"createdAt\")
             select s.id, 24999, 24998, 'rare', 'c', 's', now() from livestore.stores s where s.store_id = 'last';
         alter function livestore._history_events(oid, bigint, bigint, bigint, text[], integer) rename to _quick_history_events;
         create function livestore._history_events(
             eventlog oid, store bigint, after bigint, upto bigint, names text[], max_events integer,
             out seq_num bigint, out name text, out args json, out client_id text, out session_id text, out created_at timestamptz
         )
         returns setof record language sql as
             'select pg_sleep(0.01); select * from livestore._quick_history_events($1, $2, $3, $4, $5, $6)';
         select livestore.subscribe('rare', array['rare'], start => 'beginning');
         set statement_timeout = '5s'",
    )
    .await;
    let mut polls = 0;
    let batch = loop {
        let batch = poll(&admin, "'rare'").await;
        if batch.lease.is_some() {
            break batch;
        }
        polls += 1;
        assert!(polls < 20, "it does not come to an end");
    };
    assert_eq!(batch.events, ["last 24999 rare"]);
    // The same events come again, although the rest of the history was not looked at.
    batch.nack(&admin, "failed").await;
    let batch = poll(&admin, "'rare'").await;
    assert_eq!(batch.events, ["last 24999 rare 1"]);
    batch.ack(&admin).await;
    assert!(poll(&admin, "'rare'").await.events.is_empty());
    assert_eq!(one::<i64>(&admin, "select history_stores from livestore.subscriptions").await, 0);
}

/// A client may leave a gap of two thousand million numbers. Nobody waits until it is passed.
#[tokio::test]
async fn gaps_in_a_history_take_no_time() {
    let database = Database::new().await;
    let (admin, worker) = (database.admin().await, database.connect("sidecar").await);
    let mut parent = 0;
    for seq_num in (1..=20).map(|n| n * 2_000_000_000_i64) {
        let event =
            json!([{"name": "e", "seqNum": seq_num, "parentSeqNum": parent, "clientId": "c", "sessionId": "s"}]);
        push(&worker, "gaps", event).await.unwrap();
        parent = seq_num;
    }
    commit(&admin, "later", "rare").await;
    for (subscription, names) in [("all", "null"), ("rare", "array['rare']")] {
        run(&admin, &format!("select livestore.subscribe('{subscription}', {names}, start => 'beginning')")).await;
        let mut events = Vec::new();
        for _ in 0..25 {
            let batch = poll(&worker, &format!("'{subscription}'")).await;
            if batch.lease.is_some() {
                batch.ack(&worker).await;
            }
            events.extend(batch.events);
        }
        assert_eq!(events.last().unwrap(), "later 1 rare");
        assert_eq!(events.len(), if subscription == "all" { 21 } else { 1 });
    }
}

#[tokio::test]
async fn an_event_of_the_history_that_was_renamed_into_a_batch_is_given_out() {
    let database = Database::new().await;
    let (admin, worker) = (database.admin().await, database.connect("sidecar").await);
    for name in ["other", "want"] {
        commit(&admin, "a", name).await;
    }
    run(&admin, "select livestore.subscribe('s', names => '{want}', max_failures => 1, start => 'beginning')").await;
    let batch = poll(&worker, "'s'").await;
    assert_eq!(batch.events, ["a 2 want"]);
    run(&admin, "select livestore.rewrite_event('a', 1, 'want', null), livestore.rewrite_event('a', 2, 'other', null)")
        .await;
    batch.nack(&worker, "failed").await;
    assert_eq!(poll(&worker, "'s'").await.events, ["a 1 want"]);
    assert_eq!(one::<i64>(&admin, "select count(*) from livestore.dead_letters").await, 0);
}
