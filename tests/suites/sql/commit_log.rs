//! `livestore.commits`: a position for each event of each store, in the order in which commits become visible.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::push_batch::reject_bad_events;
use crate::support::{Push, all, one, push, push_batch, rejection, run};
use livestore_tests::cluster::{Cluster, Database};
use livestore_tests::events::{chain, event};
use livestore_tests::eventually;
use serde_json::json;
use tokio_postgres::Client;

/// The entries as text: positions, and for each store its head and its number of events.
async fn entries(admin: &Client) -> Vec<String> {
    all(
        admin,
        "select format('%s-%s:%s', c.first_position, c.position, (
             select string_agg(format(' %s %s/%s', coalesce(s.store_id, '?'), e.upto, e.events), '' order by e.n)
             from unnest(c.stores, c.upto, c.events) with ordinality e(store, upto, events, n)
             left join livestore.stores s on s.id = e.store
         ))
         from livestore.commits c order by c.position",
    )
    .await
}

/// Imports a log into the store `imported`.
async fn import(admin: &Client, events: i64) {
    let import = format!(
        "create table public.source as
             select g as \"seqNum\", g - 1 as \"parentSeqNum\", 'e'::text as name, '{{}}'::text as args,
                 'c'::text as \"clientId\", 's'::text as \"sessionId\"
             from generate_series(1, {events}) g;
         select livestore.import_table('public.source', 'imported')"
    );
    run(admin, &import).await;
}

#[tokio::test]
async fn a_commit_has_as_many_positions_as_events() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(&admin, "select livestore.create_store('own', own_table => true)").await;
    let client = database.connect("sidecar").await;
    push(&client, "a", chain(0, 2)).await.unwrap();
    let gap = json!([{"name": "e", "seqNum": 9, "parentSeqNum": 2, "clientId": "c", "sessionId": "s"}]);
    let group =
        [Push::to("b", chain(0, 3)), Push::to("own", chain(0, 1)), Push::to("a", gap), Push::to("b", chain(3, 1))];
    push_batch(&client, &group).await;
    // Nothing is appended.
    push(&client, "a", chain(0, 2)).await.unwrap();
    push(&client, "b", chain(9, 1)).await.unwrap_err();
    run(&client, "select livestore.commit('a', 'e')").await;
    assert_eq!(entries(&admin).await, ["1-2: a 2/2", "3-8: b 4/4 own 1/1 a 9/1", "9-9: a 10/1"]);
}

/// Logical replication copies the tables, and not the sequence.
#[tokio::test]
async fn positions_go_on_where_the_sequence_was_left_behind() {
    let database = Database::new().await;
    let admin = database.admin().await;
    push(&admin, "a", chain(0, 3)).await.unwrap();
    run(&admin, "select livestore.subscribe('s')").await;
    let left_behind = "select setval('livestore.commit_positions', 1, false)";
    run(&admin, left_behind).await;
    push(&admin, "a", chain(3, 2)).await.unwrap();
    assert_eq!(entries(&admin).await, ["1-3: a 3/3", "4-5: a 5/2"]);
    let events = "select count(*) from livestore.poll('s')";
    assert_eq!(one::<i64>(&admin, events).await, 2);
    run(&admin, "select livestore.unsubscribe('s'); select livestore.prune_commits(now() + interval '1 hour')").await;
    run(&admin, left_behind).await;
    push(&admin, "a", chain(5, 1)).await.unwrap();
    push(&admin, "a", chain(6, 1)).await.unwrap();
    assert_eq!(entries(&admin).await, ["6-6: a 6/1", "7-7: a 7/1"]);
}

/// The other sequences.
#[tokio::test]
async fn rows_get_new_numbers_where_the_sequence_was_left_behind() {
    let database = Database::new().await;
    let admin = database.admin().await;
    push(&admin, "a", chain(0, 4)).await.unwrap();
    run(&admin, "select livestore.subscribe('s', start => 'beginning', max_failures => 1)").await;
    let nack = "select livestore.nack(lease, '0') from livestore.poll('s', 1)";
    let write = async || {
        run(&admin, nack).await;
        run(&admin, "select livestore.erase('a', '{1}', '{}')").await;
    };
    write().await;
    write().await;
    run(
        &admin,
        "select setval('livestore.dead_letters_id_seq', 1, false), setval('livestore.rewritten_events_id_seq', 1, false)",
    )
    .await;
    write().await;
    write().await;
    for table in ["dead_letters", "rewritten_events"] {
        let ids: Vec<i64> = all(&admin, &format!("select id from livestore.{table} order by 1")).await;
        assert_eq!(ids, [1, 2, 3, 4], "{table}");
    }
}

/// Another session would commit it.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_has_changed_a_store_cannot_be_prepared() {
    let start = || Cluster::start_with("max_prepared_transactions = 2");
    let database = tokio::task::spawn_blocking(start).await.unwrap().leak().database().await;
    let admin = database.admin().await;
    push(&admin, "a", chain(0, 1)).await.unwrap();
    run(&admin, "begin; select livestore.create_store('a', true)").await;
    assert_eq!(rejection(admin.execute("prepare transaction 'x'", &[]).await).sqlstate, "0A000");
    run(&admin, "begin read only; select 1; commit").await;
    run(&admin, "begin; select count(*) from livestore.events; prepare transaction 'y'").await;
    run(&admin, "rollback prepared 'y'").await;
    // One that has changed a store in a part that was rolled back can be prepared, and the next one cannot.
    run(&admin, "begin; savepoint a; select livestore.create_store('a', true); rollback to a").await;
    run(&admin, "prepare transaction 'z'").await;
    run(&admin, "begin; select livestore.create_store('a', true)").await;
    assert_eq!(rejection(admin.execute("prepare transaction 'x'", &[]).await).sqlstate, "0A000");
    run(&admin, "rollback prepared 'z'").await;
    push(&admin, "a", chain(1, 1)).await.unwrap();
    let entries = entries(&admin).await;
    assert!(entries.len() == 2 && entries[1].ends_with(": a 2/1"), "{entries:?}");
}

/// A reader of the commit log finds its place in an entry by reading it from the end.
#[tokio::test]
async fn a_large_transaction_has_entries_of_limited_size() {
    let database = Database::new().await;
    let admin = database.admin().await;
    import(&admin, 5000).await;
    let largest = "select max(e) from livestore.commits c cross join lateral unnest(c.events) e";
    assert!((1000..=2000).contains(&one::<i32>(&admin, largest).await));
    let read = "select array_agg(r.seq_num order by r.position) = array(select generate_series(1::bigint, 5000))
        from livestore.read_all(0, null, 10000) r";
    assert!(one::<bool>(&admin, read).await);
    for after in [0, 999, 1000, 1001, 2500, 4999] {
        let next = format!("select min(r.seq_num) from livestore.read_all({after}, null, 7) r");
        assert_eq!(one::<i64>(&admin, &next).await, after + 1);
    }
}

#[tokio::test]
async fn an_import_and_the_relay_are_in_it() {
    let database = Database::new().await;
    let admin = database.admin().await;
    import(&admin, 250).await;
    run(&admin, "select livestore.relay_append('relayed', '{e,f}', '{null,null}', '{c,c}', '{s,s}', '{1,2}', '{1,2}')")
        .await;
    assert_eq!(entries(&admin).await, ["1-250: imported 250/250", "251-252: relayed 2/2"]);
}

#[tokio::test]
async fn positions_are_taken_when_the_transaction_commits() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let (early, other) = (database.connect("sidecar").await, database.connect("sidecar").await);
    run(&early, "begin; select livestore.commit('early', 'e')").await;
    run(&other, "select livestore.commit('other', 'e')").await;
    assert_eq!(entries(&admin).await, ["1-1: other 1/1"]);
    run(&early, "select livestore.commit('late', 'e'); commit").await;
    assert_eq!(entries(&admin).await, ["1-1: other 1/1", "2-3: early 1/1 late 1/1"]);
}

#[tokio::test]
async fn what_is_rolled_back_has_no_position() {
    let database = Database::new().await;
    let admin = database.admin().await;
    reject_bad_events(&admin).await;
    let client = database.connect("sidecar").await;
    run(&client, "begin; select livestore.commit('a', 'e'); rollback").await;
    run(
        &client,
        "begin; select livestore.commit('a', 'e');
         savepoint one; select livestore.commit('b', 'e');
         savepoint two; select livestore.commit('c', 'e'); release two;
         rollback to one; select livestore.commit('d', 'e'); commit",
    )
    .await;
    // A group that fails is tried again in parts.
    let bad = json!([event(0, "bad", json!({}))]);
    let outcomes = push_batch(&client, &[Push::to("e", chain(0, 1)), Push::to("f", bad)]).await;
    assert_eq!(outcomes.iter().map(|outcome| outcome.brief()).collect::<Vec<_>>(), [Ok(1), Err("P0042")]);
    assert_eq!(entries(&admin).await, ["1-2: a 1/1 d 1/1", "3-3: e 1/1"]);
}

/// A trigger of the application that is deferred to the commit may append: the positions are taken after it.
#[tokio::test(flavor = "multi_thread")]
async fn deferred_triggers_that_append_come_first_and_do_not_deadlock() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(
        &admin,
        "create table public.orders (id int);
         grant insert on public.orders to sidecar;
         create table public.receipts (id int);
         create function public.note_order() returns trigger language plpgsql security definer
             set search_path = pg_catalog, pg_temp as $$
         begin
             perform livestore.commit('orders', 'ordered');
             insert into public.receipts values (new.id);
             return null;
         end $$;
         create function public.note_receipt() returns trigger language plpgsql security definer
             set search_path = pg_catalog, pg_temp as $$
         begin
             perform livestore.commit('orders', 'receipted');
             return null;
         end $$;
         create constraint trigger note_order after insert on public.orders deferrable initially deferred
             for each row execute function public.note_order();
         create constraint trigger note_receipt after insert on public.receipts deferrable initially deferred
             for each row execute function public.note_receipt()",
    )
    .await;
    let sessions: Vec<_> = (0..4)
        .map(|number| {
            let database = database.clone();
            tokio::spawn(async move {
                let client = database.connect("sidecar").await;
                for round in 0..25 {
                    let sql = format!(
                        "begin; insert into public.orders values ({round}); select livestore.commit('s{number}', 'e'); commit"
                    );
                    run(&client, &sql).await;
                }
            })
        })
        .collect();
    for session in sessions {
        session.await.unwrap();
    }
    let entries = entries(&admin).await;
    assert_eq!(entries.len(), 100);
    assert!(entries.iter().all(|entry| entry.ends_with("/2")), "{entries:?}");
    assert_eq!(one::<i64>(&admin, "select max(position) from livestore.commits").await, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_waits_for_its_turn_whatever_the_lock_timeout_of_the_session_is() {
    let database = Database::new().await;
    let holder = database.admin().await;
    let client = database.connect("sidecar").await;
    // Not shorter: NOTIFY waits for the commits of other databases, and on the portable flavour nothing excepts that from the timeout.
    run(&client, "set lock_timeout = '1s'").await;
    run(&holder, "begin; lock table livestore.commit_turn in exclusive mode").await;
    let waiting = tokio::spawn(async move {
        run(&client, "select livestore.commit('s', 'e')").await;
        one::<String>(&client, "show lock_timeout").await
    });
    let admin = database.admin().await;
    let waits =
        "select count(*) = 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    eventually("the commit waits", async || one::<bool>(&admin, waits).await).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!waiting.is_finished());
    run(&holder, "commit").await;
    assert_eq!(waiting.await.unwrap(), "1s");
    assert_eq!(entries(&admin).await, ["1-1: s 1/1"]);
}

#[tokio::test]
async fn nobody_but_the_owner_takes_the_turn_or_writes_the_log() {
    let database = Database::new().await;
    for role in ["stranger", "reader", "sidecar", "admin"] {
        let client = database.connect(role).await;
        for sql in [
            "begin; lock table livestore.commit_turn in share mode",
            "insert into livestore.commits values (1, 1, '{1}', '{1}', '{1}', now())",
            "select nextval('livestore.commit_positions')",
        ] {
            assert_eq!(rejection(client.batch_execute(sql).await).sqlstate, "42501", "{role}: {sql}");
            run(&client, "rollback").await;
        }
    }
}

/// Sessions commit, roll back and stay open, and a reader that goes on from the greatest position that it has seen misses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_on_from_a_position_misses_nothing() {
    let database = Database::new().await;
    let is_done = Arc::new(AtomicBool::new(false));
    let reader = {
        let (database, is_done) = (database.clone(), Arc::clone(&is_done));
        tokio::spawn(async move {
            let client = database.connect("reader").await;
            let (mut seen, mut last) = (Vec::new(), 0_i64);
            loop {
                let was_done = is_done.load(Ordering::Relaxed);
                let sql =
                    "select first_position, position from livestore.commits where position > $1 order by position";
                for row in client.query(sql, &[&last]).await.unwrap() {
                    seen.extend(row.get::<_, i64>(0)..=row.get::<_, i64>(1));
                    last = row.get(1);
                }
                if was_done {
                    return seen;
                }
            }
        })
    };
    let sessions: Vec<_> = (0..6)
        .map(|number| {
            let database = database.clone();
            tokio::spawn(async move {
                let client = database.connect("sidecar").await;
                for round in 0..60 {
                    let (store, pause) = (format!("s{}", (round * 7 + number) % 9), (round * number) % 4);
                    let end = if round % 5 == 4 { "rollback" } else { "commit" };
                    let sql = format!(
                        "begin; select livestore.commit('{store}', 'e'); select livestore.commit('{store}', 'f');
                         select pg_sleep(0.00{pause}); {end}"
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
    let admin = database.admin().await;
    let positions: Vec<i64> =
        all(&admin, "select p from livestore.commits c, generate_series(c.first_position, c.position) p order by p")
            .await;
    assert_eq!(positions.len(), 6 * 48 * 2);
    assert_eq!(seen, positions);
    assert_eq!(one::<i64>(&admin, "select count(*) from livestore.events").await, 6 * 48 * 2);
}
