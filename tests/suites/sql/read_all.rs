//! `livestore.read_all`: the events of all stores in the order of commits.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{Ears, Push, all, one, push, push_batch, rejection, run};
use livestore_tests::cluster::Database;
use livestore_tests::events::chain;
use serde_json::{Value, json};
use tokio_postgres::Client;

/// The rows as text: position, store, sequence number and name, or the change.
async fn read(client: &Client, arguments: &str) -> Vec<String> {
    let sql = format!(
        "select concat_ws(' ', r.position, r.store_id, r.seq_num, r.name, r.change) from livestore.read_all({arguments}) r"
    );
    all(client, &sql).await
}

async fn commit(client: &Client, store: &str, name: &str) {
    run(client, &format!("select livestore.commit('{store}', '{name}')")).await;
}

#[tokio::test]
async fn events_of_all_stores_come_in_the_order_of_commits() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(&admin, "select livestore.create_store('own', own_table => true)").await;
    let client = database.connect("sidecar").await;
    let reader = database.connect("reader").await;
    assert!(read(&reader, "0").await.is_empty());
    let named = |from: u64, name: &str| json!([{"name": name, "args": {"of": name}, "seqNum": from + 5, "parentSeqNum": from, "clientId": "c", "sessionId": "s"}]);
    push_batch(&client, &[Push::to("a", chain(0, 2)), Push::to("own", chain(0, 2)), Push::to("a", named(2, "gap"))])
        .await;
    commit(&client, "own", "last").await;
    let names: Vec<String> = all(&admin, "select distinct name from livestore.events order by 1").await;
    assert!(names.len() >= 3, "{names:?}");
    let rows = read(&reader, "0").await;
    let brief: Vec<_> = rows.iter().map(|row| row.split(' ').take(3).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(brief, ["1 a 1", "2 a 2", "3 a 7", "4 own 1", "5 own 2", "6 own 3"]);
    // From anywhere, in pages of any size, also in the middle of a commit.
    for size in 1..=7 {
        let (mut pages, mut after) = (Vec::new(), 0_i64);
        loop {
            let page = read(&reader, &format!("{after}, null, {size}")).await;
            let Some(last) = page.last() else { break };
            after = last.split(' ').next().unwrap().parse().unwrap();
            pages.extend(page);
        }
        assert_eq!(pages, rows, "pages of {size}");
    }
    // Everything that an event has is there.
    let same = "select count(*) = 6 from livestore.read_all(0) r
         join livestore.events e on (e.store_id, e.seq_num, e.name, e.args::text, e.client_id, e.session_id, e.created_at)
             is not distinct from (r.store_id, r.seq_num, r.name, r.args::text, r.client_id, r.session_id, r.created_at)";
    assert!(one::<bool>(&admin, same).await);
    // Of some names only, with the position up to which it has looked.
    assert_eq!(read(&reader, "0, array['last', 'gap']").await, ["3 a 7 gap", "6 own 3 last"]);
    assert_eq!(read(&reader, "0, array['gap']").await, ["3 a 7 gap", "6"]);
    assert_eq!(read(&reader, "3, array['gap']").await, ["6"]);
    assert!(read(&reader, "6, array['gap']").await.is_empty());
}

#[tokio::test]
async fn one_call_looks_at_no_more_than_ten_times_what_it_may_return() {
    let database = Database::new().await;
    let client = database.connect("sidecar").await;
    push(&client, "a", chain(0, 250)).await.unwrap();
    commit(&client, "a", "rare").await;
    for (after, expected) in [("0", "100"), ("100", "200"), ("200", "251 a 251 rare")] {
        assert_eq!(read(&client, &format!("{after}, array['rare'], 10")).await, [expected]);
    }
}

#[tokio::test]
async fn stores_that_are_reset_moved_or_dropped_are_told() {
    let database = Database::new().await;
    let admin = database.admin().await;
    for store in ["a", "b"] {
        commit(&admin, store, "e").await;
    }
    run(&admin, "select livestore.create_store('a', own_table => true)").await;
    // In one transaction, with appends around.
    run(
        &admin,
        "begin; select livestore.commit('a', 'e'); select livestore.reset_store('a'); select livestore.commit('a', 'f');
         select livestore.commit('a', 'g'); commit",
    )
    .await;
    run(&admin, "begin; select livestore.drop_store('b'); rollback").await;
    run(&admin, "begin; savepoint s; select livestore.drop_store('b'); rollback to s; commit").await;
    run(&admin, "select livestore.drop_store('b')").await;
    commit(&admin, "b", "new").await;
    // The first events of both are gone with their logs.
    let rows = ["3 a move", "5 a reset", "6 a 1 f", "7 a 2 g", "8 b drop", "9 b 1 new"];
    assert_eq!(read(&admin, "0").await, rows);
    assert_eq!(read(&admin, "0, array['f']").await, ["3 a move", "5 a reset", "6 a 1 f", "8 b drop", "9"]);
    let numbers = "select bool_and(case e.change when 'reset' then s.id = e.upto and e.store < e.upto
                 when 'move' then e.store = e.upto else e.upto = 0 end)
         from livestore.commits c, unnest(c.stores, c.upto, c.changes, c.store_ids) e(store, upto, change, store_id)
         left join livestore.stores s on s.store_id = e.store_id where e.change is not null";
    assert!(one::<bool>(&admin, numbers).await);
}

/// A statement of a sidecar has 30 seconds, and subscriptions may have stood still for weeks.
#[tokio::test]
async fn old_commits_are_pruned_in_parts() {
    let database = Database::new().await;
    let (admin, sidecar) = (database.admin().await, database.connect("sidecar").await);
    run(
        &admin,
        "insert into livestore.commits
         select n, n, '{1}', '{1}', '{1}', now() - interval '8 days' from generate_series(1, 200050) n;
         select livestore.subscribe('s', partitions => 256, start => '200040')",
    )
    .await;
    for position in [100_000, 200_000, 200_040, 200_040] {
        assert_eq!(one::<i64>(&sidecar, "select livestore.prune_old_commits()").await, position);
    }
    assert_eq!(one::<i64>(&admin, "select min(position) from livestore.commits").await, 200_041);
}

#[tokio::test]
async fn what_was_pruned_is_an_error_and_no_gap() {
    let database = Database::new().await;
    let admin = database.admin().await;
    for store in ["a", "b", "c"] {
        commit(&admin, store, "e").await;
    }
    run(&admin, "update livestore.commits set committed_at = now() - interval '8 days' where position <= 2").await;
    let sidecar = database.connect("sidecar").await;
    assert_eq!(one::<i64>(&sidecar, "select livestore.prune_old_commits()").await, 2);
    assert_eq!(one::<i64>(&sidecar, "select livestore.prune_old_commits()").await, 2);
    assert_eq!(read(&sidecar, "2").await, ["3 c 1 e"]);
    let refused = rejection(sidecar.query("select * from livestore.read_all(1)", &[]).await);
    assert_eq!((&*refused.sqlstate, refused.json()), ("LS006", json!({"prunedPosition": 2})));
    // An administrator chooses the time. The next event has its position behind those that were removed.
    let refused = rejection(sidecar.query("select livestore.prune_commits(now())", &[]).await);
    assert_eq!(refused.sqlstate, "42501");
    assert_eq!(one::<i64>(&admin, "select livestore.prune_commits(now())").await, 3);
    assert!(read(&sidecar, "3").await.is_empty());
    commit(&admin, "a", "e").await;
    assert_eq!(read(&sidecar, "3").await, ["4 a 2 e"]);
    for arguments in ["null", "0, null, 0", "0, null, 10001", "0, null, null"] {
        let sql = format!("select * from livestore.read_all({arguments})");
        assert_eq!(rejection(sidecar.query(&sql, &[]).await).sqlstate, "22023", "{arguments}");
    }
}

#[tokio::test]
async fn a_commit_tells_its_position() {
    let database = Database::new().await;
    let mut ears = Ears::on_digests(&database).await;
    run(&ears.client, "unlisten livestore_heads; listen livestore_commits").await;
    let client = database.connect("sidecar").await;
    push(&client, "a", chain(0, 3)).await.unwrap();
    run(&client, "begin; select livestore.commit('b', 'e'); rollback").await;
    run(&client, "begin; select livestore.commit('b', 'e'); select livestore.commit('c', 'e'); commit").await;
    run(&database.admin().await, "select livestore.reset_store('a')").await;
    assert_eq!(ears.payloads().await, ["3", "5", "6"]);
}

/// Sessions append to shared and dedicated tables, in transactions of several statements, some of which are rolled back. A reader
/// that goes on from the last position has every event once, and those of a store in their order.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_has_every_event_once_while_others_commit() {
    let database = Database::new().await;
    run(&database.admin().await, "select livestore.create_store('s3', own_table => true)").await;
    let is_done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (database, is_done) = (database.clone(), Arc::clone(&is_done));
        tokio::spawn(async move {
            let client = database.connect("reader").await;
            let (mut seen, mut after) = (Vec::new(), 0_i64);
            loop {
                let was_done = is_done.load(Ordering::Relaxed);
                let sql = "select position, store_id, seq_num from livestore.read_all($1, null, 7)";
                let rows = client.query(sql, &[&after]).await.unwrap();
                for row in &rows {
                    after = row.get(0);
                    if let (Some(store), Some(seq_num)) =
                        (row.get::<_, Option<String>>(1), row.get::<_, Option<i64>>(2))
                    {
                        seen.push((store, seq_num));
                    }
                }
                if was_done && rows.is_empty() {
                    return seen;
                }
            }
        })
    };
    let sessions: Vec<_> = (0..5)
        .map(|number| {
            let database = database.clone();
            tokio::spawn(async move {
                let client = database.connect("sidecar").await;
                for round in 0..40 {
                    let (first, second) = (format!("s{}", (round + number) % 5), format!("t{number}"));
                    let end = if round % 5 == 4 { "rollback" } else { "commit" };
                    let sql = format!(
                        "begin; select livestore.commit('{first}', 'e'); select livestore.commit('{second}', 'f');
                         select pg_sleep(0.00{}); {end}",
                        round % 4
                    );
                    run(&client, &sql).await;
                }
            })
        })
        .collect();
    for session in sessions {
        session.await.unwrap();
    }
    is_done.store(true, Ordering::Relaxed);
    let seen = reader.await.unwrap();
    assert_eq!(seen.len(), 5 * 32 * 2);
    let mut heads: HashMap<String, i64> = HashMap::new();
    for (store, seq_num) in seen {
        let head = heads.entry(store.clone()).or_default();
        assert_eq!(seq_num, *head + 1, "{store}");
        *head = seq_num;
    }
    let stored: Value = serde_json::from_str(
        &one::<String>(
            &database.admin().await,
            "select json_object_agg(store_id, head)::text from livestore.stores where head > 0",
        )
        .await,
    )
    .unwrap();
    assert_eq!(stored, json!(heads));
}
