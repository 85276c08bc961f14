//! Durable subscriptions: `livestore.subscribe`, `poll`, `ack`, `nack`, `resend`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{all, one, push, rejection, run};
use livestore_tests::cluster::Database;
use livestore_tests::events::chain;
use livestore_tests::eventually;
use serde_json::json;
use tokio_postgres::Client;

/// A batch: its lease, and its events as text.
pub struct Batch {
    pub lease: Option<String>,
    pub events: Vec<String>,
}

pub async fn poll(client: &Client, arguments: &str) -> Batch {
    let sql = format!(
        "select p.lease, concat_ws(' ', p.store_id, p.seq_num, p.name, p.change, nullif(p.failures, 0)) from livestore.poll({arguments}) p"
    );
    let rows = client.query(&sql, &[]).await.unwrap();
    let leases: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(leases.len() <= 1, "{leases:?}");
    Batch { lease: leases.into_iter().next(), events: rows.iter().map(|row| row.get(1)).collect() }
}

impl Batch {
    async fn ack(&self, client: &Client) {
        client.execute("select livestore.ack($1)", &[&self.lease]).await.unwrap();
    }

    async fn nack(&self, client: &Client, error: &str) {
        client.execute("select livestore.nack($1, '0', $2)", &[&self.lease, &error]).await.unwrap();
    }
}

pub async fn commit(client: &Client, store: &str, name: &str) {
    client.execute("select livestore.commit($1, $2)", &[&store, &name]).await.unwrap();
}

#[tokio::test]
async fn a_subscription_gets_what_it_asks_for_in_order_and_once() {
    let database = Database::new().await;
    let (admin, worker) = (database.admin().await, database.connect("sidecar").await);
    commit(&admin, "before", "mailed").await;
    run(&admin, "select livestore.subscribe('mails', array['mailed', 'sent'], 'user-%')").await;
    assert!(poll(&worker, "'mails'").await.events.is_empty());
    for (store, name) in [("user-1", "mailed"), ("other", "mailed"), ("user-2", "typed"), ("user-1", "sent")] {
        commit(&admin, store, name).await;
    }
    run(&admin, "select livestore.reset_store('user-2'); select livestore.reset_store('other')").await;
    let first = poll(&worker, "'mails', 1").await;
    assert_eq!(first.events, ["user-1 1 mailed"]);
    // Leased to somebody.
    assert!(poll(&worker, "'mails'").await.events.is_empty());
    first.ack(&worker).await;
    let second = poll(&worker, "'mails'").await;
    assert_eq!(second.events, ["user-1 2 sent", "user-2 reset"]);
    second.ack(&worker).await;
    assert!(poll(&worker, "'mails'").await.events.is_empty());
    let state = "select (position, lag_events, lag_seconds, failures, dead_letters)::text from livestore.subscriptions";
    let last: i64 = one(&admin, "select max(position) from livestore.commits").await;
    let reader = database.connect("reader").await;
    assert_eq!(one::<String>(&reader, state).await, format!("({last},0,0,0,0)"));
    run(&admin, "select livestore.unsubscribe('mails')").await;
    for call in ["poll('mails')", "unsubscribe('mails')"] {
        let refused = rejection(admin.query(&format!("select livestore.{call}"), &[]).await);
        assert_eq!(refused.sqlstate, "42704", "{call}");
    }
}

#[tokio::test]
async fn a_late_worker_is_refused_with_everything_that_it_has_done() {
    let database = Database::new().await;
    let (admin, late, other) =
        (database.admin().await, database.connect("sidecar").await, database.connect("sidecar").await);
    run(
        &admin,
        "select livestore.subscribe('s'); create table public.done (n int); grant insert on public.done to sidecar",
    )
    .await;
    commit(&admin, "a", "e").await;
    let first = poll(&late, "'s', lease_time => '1 second'").await;
    run(&admin, "update livestore.subscription_partitions set leased_until = now() - interval '1 second'").await;
    // Nobody else has come yet: it may still acknowledge. And then somebody comes.
    run(&late, "begin; insert into public.done values (1)").await;
    let second = poll(&other, "'s'").await;
    assert_eq!(second.events, ["a 1 e 1"]);
    let refused = rejection(late.execute("select livestore.ack($1)", &[&first.lease]).await);
    assert_eq!(refused.sqlstate, "LS007");
    run(&late, "rollback").await;
    let refused = rejection(late.execute("select livestore.nack($1)", &[&first.lease]).await);
    assert_eq!(refused.sqlstate, "LS007");
    second.ack(&other).await;
    assert_eq!(rejection(other.execute("select livestore.ack($1)", &[&second.lease]).await).sqlstate, "LS007");
    assert_eq!(one::<i64>(&admin, "select count(*) from public.done").await, 0);
}

#[tokio::test]
async fn what_fails_is_given_out_again_alike_then_one_by_one_and_becomes_a_dead_letter() {
    let database = Database::new().await;
    let (admin, worker) = (database.admin().await, database.connect("sidecar").await);
    run(&admin, "select livestore.subscribe('s', max_failures => 2)").await;
    for name in ["good", "bad", "fine"] {
        commit(&admin, "a", name).await;
    }
    let batch = poll(&worker, "'s'").await;
    assert_eq!(batch.events, ["a 1 good", "a 2 bad", "a 3 fine"]);
    batch.nack(&worker, "first").await;
    // Later events do not change the batch, and neither does another limit.
    commit(&admin, "a", "later").await;
    let again = poll(&worker, "'s', 2").await;
    assert_eq!(again.events, ["a 1 good 1", "a 2 bad 1", "a 3 fine 1"]);
    again.nack(&worker, "second").await;
    let one_by_one = poll(&worker, "'s'").await;
    assert_eq!(one_by_one.events, ["a 1 good"]);
    one_by_one.ack(&worker).await;
    for failures in ["a 2 bad", "a 2 bad 1"] {
        let batch = poll(&worker, "'s'").await;
        assert_eq!(batch.events, [failures]);
        batch.nack(&worker, &"x".repeat(2000)).await;
    }
    let batch = poll(&worker, "'s'").await;
    assert_eq!(batch.events, ["a 3 fine"]);
    batch.ack(&worker).await;
    let batch = poll(&worker, "'s'").await;
    assert_eq!(batch.events, ["a 4 later"]);
    let letter =
        "select concat_ws(' ', id, store_id, seq_num, name, failures, length(error)) from livestore.dead_letters";
    assert_eq!(one::<String>(&admin, letter).await, "1 a 2 bad 2 1000");
    batch.ack(&worker).await;

    // It is sent again, fails, and at last does not.
    for is_last in [false, true] {
        run(&admin, "select livestore.resend(1)").await;
        commit(&admin, "a", "next").await;
        let batch = poll(&worker, "'s'").await;
        assert_eq!(batch.events, ["a 2 bad"]);
        if is_last {
            batch.ack(&worker).await;
        } else {
            batch.nack(&worker, "still").await;
            let batch = poll(&worker, "'s'").await;
            assert_eq!(batch.events, ["a 2 bad 1"]);
            batch.nack(&worker, "still").await;
        }
        let batch = poll(&worker, "'s'").await;
        assert!(batch.events.len() == 1 && batch.events[0].ends_with("next"), "{:?}", batch.events);
        batch.ack(&worker).await;
    }
    assert_eq!(one::<i64>(&admin, "select count(*) from livestore.dead_letters").await, 0);
    assert_eq!(rejection(admin.query("select livestore.resend(1)", &[]).await).sqlstate, "42704");
}

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

#[tokio::test]
async fn bad_arguments_are_refused_and_change_nothing() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(&admin, "select livestore.commit('a', 'e'); select livestore.subscribe('s')").await;
    for (call, sqlstate) in [
        ("subscribe('s')", "23505"),
        ("subscribe('')", "23514"),
        ("subscribe(null)", "23502"),
        ("subscribe('t', partitions => 0)", "23514"),
        ("subscribe('t', partitions => 257)", "23514"),
        ("subscribe('t', max_failures => 0)", "23514"),
        ("subscribe('t', start => 'soon')", "22023"),
        ("subscribe('t', start => null)", "22023"),
        ("subscribe('t', start => '2')", "LS006"),
        ("subscribe('t', names => '{}')", "22023"),
        ("subscribe('t', names => '{e,null}')", "22023"),
        ("subscribe('t', stores => repeat('x', 2000))", "22023"),
        (r"subscribe('t', stores => E'abc\\')", "22025"),
        (r"subscribe('t', stores => E'\\\\\\')", "22025"),
        ("poll('s', 0)", "22023"),
        ("poll('s', 10001)", "22023"),
        ("poll('s', lease_time => '0')", "22023"),
        ("poll('s', lease_time => '2 days')", "22023"),
        ("poll(null)", "42704"),
        ("ack('none')", "LS007"),
        ("ack(null)", "LS007"),
        ("nack('none')", "LS007"),
    ] {
        let refused = rejection(admin.query(&format!("select livestore.{call}"), &[]).await);
        assert_eq!(refused.sqlstate, sqlstate, "{call}");
    }
    commit(&admin, "a", "f").await;
    let batch = poll(&admin, "'s'").await;
    let refused = rejection(admin.query("select livestore.nack($1, '2 days')", &[&batch.lease]).await);
    assert_eq!(refused.sqlstate, "22023");
    batch.ack(&admin).await;
    assert_eq!(all::<String>(&admin, "select name from livestore.subscriptions").await, ["s"]);

    run(&admin, r"select livestore.subscribe('t', stores => E'ab\\\\%')").await;
    commit(&admin, r"ab\c", "e").await;
    assert_eq!(poll(&admin, "'t'").await.events, [r"ab\c 1 e"]);
}

/// A handler runs as its caller, in the transaction that acknowledges.
#[tokio::test]
async fn a_handler_in_the_database_has_each_event_once_and_the_rights_of_its_caller() {
    let database = Database::new().await;
    let (admin, worker) = (database.admin().await, database.connect("sidecar").await);
    run(
        &admin,
        "create table public.mails (store_id text, seq_num bigint, sent_by text);
         grant insert on public.mails to sidecar;
         create function public.send(event livestore.polled_event) returns void language plpgsql as $$
         begin
             insert into public.mails values (event.store_id, event.seq_num, current_user);
             if event.name = 'bad' then
                 raise exception 'no address';
             end if;
         end $$;
         create function public.many(event livestore.polled_event) returns setof int language sql as 'select 1';
         select livestore.subscribe('mails', max_failures => 2, handler => 'public.send(livestore.polled_event)')",
    )
    .await;
    for name in ["good", "fine"] {
        commit(&admin, "a", name).await;
    }
    let handle = "select concat_ws(' ', events, error) from livestore.run_subscription('mails')";
    assert_eq!(one::<String>(&worker, handle).await, "2");
    assert_eq!(one::<String>(&worker, handle).await, "0");
    for name in ["right", "bad", "next"] {
        commit(&admin, "a", name).await;
    }
    // Twice as a batch; then one by one, the bad one twice.
    let mut outcomes = Vec::new();
    for _ in 0..7 {
        outcomes.push(one::<String>(&worker, handle).await);
        run(&admin, "update livestore.subscription_partitions set retry_at = null").await;
    }
    let failed = "0 no address";
    assert_eq!(outcomes, [failed, failed, "1", failed, failed, "1", "0"]);
    let mails: Vec<String> =
        all(&admin, "select concat_ws(' ', store_id, seq_num, sent_by) from public.mails order by seq_num").await;
    assert_eq!(mails, ["a 1 sidecar", "a 2 sidecar", "a 3 sidecar", "a 5 sidecar"]);
    let letter: String = one(&admin, "select error from livestore.dead_letters").await;
    assert!(letter.starts_with("no address\nPL/pgSQL function public.send("), "{letter}");

    for handler in ["now()", "public.many(livestore.polled_event)"] {
        let sql = format!("select livestore.subscribe('t', handler => '{handler}')");
        assert_eq!(rejection(admin.query(&sql, &[]).await).sqlstate, "42P13", "{handler}");
    }
    run(&admin, "drop function public.send").await;
    assert_eq!(rejection(worker.query(handle, &[]).await).sqlstate, "42883");
    // The number that it had, as a dump keeps it, is another function's now.
    run(
        &admin,
        "create function public.other() returns int language sql as 'select 1';
         update livestore.subscribers set handler = 'public.other()' where name = 'mails'",
    )
    .await;
    assert_eq!(rejection(worker.query(handle, &[]).await).sqlstate, "42883");
    run(&admin, "select livestore.subscribe('plain')").await;
    let refused = rejection(worker.query("select livestore.run_subscription('plain')", &[]).await);
    assert_eq!(refused.sqlstate, "42883");
}

#[tokio::test]
async fn a_handler_gets_nothing_of_a_superuser_nor_of_a_worker_if_it_has_rights_of_its_own() {
    let database = Database::new().await;
    let (admin, worker) = (database.admin().await, database.connect("sidecar").await);
    run(
        &admin,
        "create table public.ran (who text); grant insert on public.ran to public;
         create schema app; grant create, usage on schema app to public",
    )
    .await;
    run(
        &database.connect("reader").await,
        "create function app.cardinality(livestore.polled_event[]) returns int language plpgsql as
             $$ begin insert into public.ran values (current_user); return 1; end $$;
         create function app.format(text, regproc) returns text language plpgsql as
             $$ begin insert into public.ran values (current_user); return 'select 1'; end $$;
         create function app.handle(event livestore.polled_event) returns void language plpgsql security definer as $$
         begin
             insert into public.ran values (current_user);
             perform set_config('search_path', 'app, pg_catalog', false);
         end $$",
    )
    .await;
    run(
        &database.connect("admin").await,
        "select livestore.subscribe('s', handler => 'app.handle(livestore.polled_event)');
         select livestore.commit('a', 'e'), livestore.commit('a', 'e')",
    )
    .await;
    let handle = "select concat_ws(' ', events, error) from livestore.run_subscription('s')";
    let refused = rejection(admin.query(handle, &[]).await);
    assert_eq!(refused.sqlstate, "42501");
    assert_eq!(all::<String>(&admin, "select who from public.ran").await, [""; 0]);
    assert_eq!(one::<String>(&worker, handle).await, "2");
    assert_eq!(all::<String>(&admin, "select distinct who from public.ran").await, ["reader"]);
    run(
        &admin,
        "alter function app.handle(livestore.polled_event) owner to postgres; select livestore.commit('a', 'e')",
    )
    .await;
    assert_eq!(one::<String>(&admin, handle).await, "1");
}

/// As after a clock that was set back, or the promotion of a standby with another one.
#[tokio::test]
async fn partitions_that_were_polled_in_the_future_are_free() {
    let database = Database::new().await;
    let (admin, worker) = (database.admin().await, database.connect("sidecar").await);
    run(&admin, "select livestore.subscribe('s', partitions => 2)").await;
    // Two stores of different partitions.
    let stores: Vec<String> = all(
        &admin,
        "select min(s::text) from generate_series(1, 100) s group by livestore._partition_of(s::text, 2) order by 1",
    )
    .await;
    for store in &stores {
        commit(&admin, store, "e").await;
    }
    let (first, second) = (poll(&worker, "'s'").await, poll(&worker, "'s'").await);
    // The clock is set ahead after the second was polled and before it is given back, and set back then.
    run(
        &admin,
        "update livestore.subscription_partitions
         set leased_until = leased_until - interval '2 hours', polled_at = polled_at - interval '2 hours'
         where leased_until is not null and polled_at = (select max(polled_at) from livestore.subscription_partitions)",
    )
    .await;
    second.nack(&worker, "later").await;
    run(
        &admin,
        "update livestore.subscription_partitions
         set leased_until = leased_until + interval '2 hours', retry_at = retry_at + interval '2 hours',
             polled_at = polled_at + interval '2 hours'",
    )
    .await;
    let mut again = Vec::new();
    for _ in 0..2 {
        let batch = poll(&worker, "'s'").await;
        again.extend(batch.events.iter().map(|event| event.split(' ').next().unwrap().to_owned()));
        batch.ack(&worker).await;
    }
    again.sort_unstable();
    assert_eq!(again, stores);
    let late = rejection(worker.query("select livestore.ack($1)", &[&first.lease]).await);
    assert_eq!(late.sqlstate, "LS007");
    // One that was polled a moment ahead keeps its lease.
    commit(&admin, &stores[0], "e").await;
    assert_eq!(poll(&worker, "'s'").await.events.len(), 1);
    run(
        &admin,
        "update livestore.subscription_partitions set polled_at = clock_timestamp() + interval '50 seconds' where lease is not null",
    )
    .await;
    assert!(poll(&worker, "'s'").await.events.is_empty());
}

/// Workers whose connections are terminated again and again put an effect into a table for each event, in the transaction that
/// acknowledges: each event has one effect, and those of a store are in order.
#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_killed_have_every_effect_exactly_once() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(
        &admin,
        "create table public.effects (id bigint generated always as identity, store_id text, seq_num bigint);
         grant select, insert on public.effects to sidecar;
         select livestore.subscribe('s', partitions => 4, max_failures => 1000)",
    )
    .await;
    let is_done = Arc::new(AtomicBool::new(false));
    let workers: Vec<_> = (0..3)
        .map(|number| {
            let (database, is_done) = (database.clone(), Arc::clone(&is_done));
            tokio::spawn(async move {
                while !is_done.load(Ordering::Relaxed) {
                    let client = database.connect("sidecar").await;
                    let _ = client.batch_execute("set application_name = 'worker'").await;
                    loop {
                        if is_done.load(Ordering::Relaxed) {
                            return;
                        }
                        // A lease is committed before its events are handled, so that it lives on when the worker dies.
                        let polled = format!(
                            "select lease, store_id, seq_num from livestore.poll('s', {}, '1 second')",
                            1 + number * 3
                        );
                        let Ok(rows) = client.query(&polled, &[]).await else { break };
                        let Some(first) = rows.first() else {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                            continue;
                        };
                        if client.batch_execute("begin").await.is_err() {
                            break;
                        }
                        let mut is_alive = true;
                        for row in &rows {
                            let (store, seq_num): (String, i64) = (row.get(1), row.get(2));
                            let insert = "insert into public.effects (store_id, seq_num) values ($1, $2)";
                            is_alive = is_alive && client.execute(insert, &[&store, &seq_num]).await.is_ok();
                        }
                        let lease: String = first.get(0);
                        is_alive = is_alive && client.execute("select livestore.ack($1)", &[&lease]).await.is_ok();
                        if !is_alive {
                            // Also a lease that was over.
                            if client.batch_execute("rollback").await.is_err() {
                                break;
                            }
                        } else if client.batch_execute("commit").await.is_err() {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    let writer = database.connect("sidecar").await;
    for round in 0..300 {
        commit(&writer, &format!("s{}", round % 11), "e").await;
        if round % 20 == 10 {
            run(
                &admin,
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where application_name = 'worker' and datname = current_database() order by random() limit 1",
            )
            .await;
        }
    }
    let count = "select count(*) from public.effects";
    eventually("all events are handled", async || one::<i64>(&admin, count).await >= 300).await;
    is_done.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    assert_eq!(one::<i64>(&admin, "select count(distinct (store_id, seq_num)) from public.effects").await, 300);
    assert_eq!(one::<i64>(&admin, count).await, 300);
    let disorder = "select count(*) from (
             select seq_num, lag(seq_num, 1, 0::bigint) over (partition by store_id order by id) as before from public.effects
         ) e where seq_num <> before + 1";
    assert_eq!(one::<i64>(&admin, disorder).await, 0);
}

/// Batches are bounded in bytes, in the history and in the commit log, and are the same when they are given out again.
#[tokio::test]
async fn a_batch_has_so_many_bytes_or_a_single_event() {
    let database = Database::new().await;
    let (admin, worker) = (database.admin().await, database.connect("sidecar").await);
    let write =
        "select livestore.commit('s' || n % 2, n::text, to_json(repeat('x', case n when 3 then 3000 else 400 end)))
         from generate_series(1, 6) n";
    for start in ["beginning", "now"] {
        if start == "beginning" {
            run(&admin, write).await;
        }
        run(&admin, &format!("select livestore.subscribe('s', start => '{start}')")).await;
        if start == "now" {
            run(&admin, write).await;
        }
        let (mut sizes, mut names) = (Vec::new(), Vec::new());
        loop {
            let batch = poll(&worker, "'s', max_bytes => 1000").await;
            if batch.events.is_empty() {
                break;
            }
            batch.nack(&worker, "not yet").await;
            let again = poll(&worker, "'s', 100, max_bytes => 1").await;
            let plain = |events: &[String]| {
                events.iter().map(|event| event.split(' ').nth(2).unwrap().to_owned()).collect::<Vec<_>>()
            };
            assert_eq!(plain(&again.events), plain(&batch.events));
            sizes.push(again.events.len());
            names.extend(plain(&again.events));
            again.ack(&worker).await;
        }
        let in_order =
            if start == "beginning" { ["1", "3", "5", "2", "4", "6"] } else { ["1", "2", "3", "4", "5", "6"] };
        assert_eq!(names, in_order);
        let in_pieces: &[usize] = if start == "beginning" { &[1, 1, 2, 2] } else { &[2, 1, 2, 1] };
        assert_eq!(sizes, in_pieces, "{start}");
        run(&admin, "select livestore.unsubscribe('s')").await;
    }
    for bytes in ["null", "0", "67108865"] {
        let refused = rejection(worker.query(&format!("select livestore.poll('s', max_bytes => {bytes})"), &[]).await);
        assert_eq!(refused.sqlstate, "22023", "{bytes}");
    }
    // A reader of everything gets 8 MiB at a time, and goes on from the last position.
    run(&admin, "select livestore.commit('big', n::text, to_json(repeat('x', 3 << 20))) from generate_series(1, 5) n")
        .await;
    let (mut position, mut pages) = (12_i64, Vec::new());
    loop {
        let rows = admin
            .query("select position, octet_length(args::text) from livestore.read_all($1)", &[&position])
            .await
            .unwrap();
        let Some(last) = rows.last() else { break };
        position = last.get(0);
        pages.push(rows.len());
    }
    assert_eq!(pages, [2, 2, 1]);
}

#[tokio::test]
async fn what_is_given_back_has_not_failed() {
    let database = Database::new().await;
    let (admin, worker) = (database.admin().await, database.connect("sidecar").await);
    run(&admin, "select livestore.subscribe('s', max_failures => 1)").await;
    commit(&admin, "a", "e").await;
    for _ in 0..3 {
        let batch = poll(&worker, "'s'").await;
        assert_eq!(batch.events, ["a 1 e"]);
        let given_back = "select livestore.nack($1, '0', 'away', is_failure => false)";
        worker.execute(given_back, &[&batch.lease]).await.unwrap();
    }
    assert_eq!(one::<String>(&admin, "select error || failures from livestore.subscriptions").await, "away0");
    let batch = poll(&worker, "'s'").await;
    batch.nack(&worker, "bad").await;
    assert_eq!(one::<i64>(&admin, "select count(*) from livestore.dead_letters").await, 1);
}

#[tokio::test]
async fn a_url_is_one_and_only_what_serves_it_learns_it() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(&admin, "create function public.f(event livestore.polled_event) returns void language sql as ''").await;
    let handler = "https://a.example/', handler => 'public.f(livestore.polled_event)";
    let long = format!("https://a.example/{}", "x".repeat(2048));
    for url in ["", "a.example", "ftp://a.example", "https://", "https://a b", &long, handler] {
        let subscribe = format!("select livestore.subscribe('s', url => '{url}')");
        assert_eq!(rejection(admin.query(&subscribe, &[]).await).sqlstate, "22023", "{url}");
    }
    run(
        &admin,
        "select livestore.subscribe('with url', url => 'https://a.example/hook?key=1'); select livestore.subscribe('plain');
         select livestore.subscribe('with handler', handler => 'public.f(livestore.polled_event)')",
    )
    .await;
    let served = "select string_agg(concat_ws('=', subscription, url), ' ') from livestore.served_subscriptions()";
    let sidecar = database.connect("sidecar").await;
    assert_eq!(one::<String>(&sidecar, served).await, "with handler with url=https://a.example/hook?key=1");
    let reader = database.connect("reader").await;
    let refused = rejection(reader.query("select url from livestore.subscribers", &[]).await);
    assert_eq!(refused.sqlstate, "42501");
    // It changes with a restore.
    let life = "select livestore.database_life()";
    let before: String = one(&sidecar, life).await;
    run(&admin, "select livestore.renew_backend_ids()").await;
    let after: String = one(&sidecar, life).await;
    assert!(before != after && before.len() == 21, "{before} {after}");
}

/// A handler that takes longer than a statement may, or that asserts something: no `others`.
#[tokio::test]
async fn a_handler_that_is_cancelled_or_asserts_has_failed() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let handler = "create function public.handle(event livestore.polled_event) returns void language plpgsql as $$
        begin
            if event.name = 'slow' then
                perform pg_sleep(5);
            end if;
            assert event.name <> 'wrong', 'it is wrong';
        end $$;
        select livestore.subscribe('s', max_failures => 1, handler => 'public.handle(livestore.polled_event)')";
    run(&admin, handler).await;
    for (name, error) in [("slow", "canceling statement due to statement timeout"), ("wrong", "it is wrong")] {
        commit(&admin, "a", name).await;
        run(&admin, "set statement_timeout = '500ms'").await;
        let failed: String = one(&admin, "select error from livestore.run_subscription('s')").await;
        assert!(failed.starts_with(error), "{failed}");
        run(&admin, "reset statement_timeout; update livestore.subscription_partitions set retry_at = null").await;
    }
    let letters = "select string_agg(name || ' ' || failures, ' ' order by id) from livestore.dead_letters";
    assert_eq!(one::<String>(&admin, letters).await, "slow 1 wrong 1");
}

/// At the commit nobody would count it, and all events behind it would wait for ever.
#[tokio::test]
async fn a_handler_that_breaks_a_deferred_constraint_has_failed() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(
        &admin,
        "create table public.kinds (name text primary key);
         insert into public.kinds values ('good');
         create table public.seen (kind text references public.kinds deferrable initially deferred);
         create function public.handle(event livestore.polled_event) returns void language sql as
             'insert into public.seen values (event.name)';
         select livestore.subscribe('s', max_failures => 1, handler => 'public.handle(livestore.polled_event)')",
    )
    .await;
    for name in ["bad", "good"] {
        commit(&admin, "a", name).await;
    }
    // Together, then one by one.
    for _ in 0..4 {
        run(&admin, "update livestore.subscription_partitions set retry_at = null").await;
        run(&admin, "select livestore.run_subscription('s')").await;
    }
    let letters = "select string_agg(name || ' ' || failures, ' ' order by id) from livestore.dead_letters";
    assert_eq!(one::<String>(&admin, letters).await, "bad 1");
    assert_eq!(one::<String>(&admin, "select string_agg(kind, ' ') from public.seen").await, "good");

    // The transaction of the caller goes on as before: constraints are still deferred, and no other commit waits for it.
    commit(&admin, "a", "good").await;
    run(
        &admin,
        "create or replace function public.handle(event livestore.polled_event) returns void language sql as
             $$ insert into public.seen values (event.name); select livestore.commit('b', 'handled') $$;
         begin",
    )
    .await;
    assert_eq!(one::<i64>(&admin, "select events from livestore.run_subscription('s')").await, 1);
    let turns =
        "select count(*) from pg_locks where relation = 'livestore.commit_turn'::regclass and pid = pg_backend_pid()";
    assert_eq!(one::<i64>(&admin, turns).await, 0);
    run(&admin, "insert into public.seen values ('new'); insert into public.kinds values ('new'); commit").await;
}

/// Each commit wakes those who wait for other events: they write nothing.
#[tokio::test]
async fn a_poll_that_finds_nothing_new_writes_nothing() {
    let database = Database::new().await;
    let (admin, worker) = (database.admin().await, database.connect("sidecar").await);
    run(&admin, "select livestore.subscribe('s', partitions => 5)").await;
    assert!(poll(&worker, "'s'").await.events.is_empty());
    let versions = "select string_agg(ctid::text, ' ' order by partition) from livestore.subscription_partitions";
    let before: String = one(&admin, versions).await;
    for _ in 0..3 {
        assert!(poll(&worker, "'s'").await.events.is_empty());
    }
    assert_eq!(one::<String>(&admin, versions).await, before);
    // Partitions have their turns nevertheless.
    for store in 0..20 {
        commit(&admin, &format!("s{store}"), "e").await;
    }
    let mut events = 0;
    for _ in 0..5 {
        events += poll(&worker, "'s', 100").await.events.len();
    }
    assert_eq!(events, 20);
}

/// The name of a handler may come to belong to somebody else: its schema was dropped, and a stranger has made it anew.
#[tokio::test]
async fn a_function_of_a_stranger_with_the_name_of_a_handler_is_not_called() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let handler = "create or replace function app.handle(event livestore.polled_event) returns void language sql as ''";
    run(&admin, "create schema app").await;
    run(&admin, handler).await;
    run(&admin, "select livestore.subscribe('s', handler => 'app.handle(livestore.polled_event)')").await;
    run(&admin, "select livestore.commit('todos', 'e')").await;
    let handled = "select events from livestore.run_subscription('s')";
    assert_eq!(one::<i64>(&admin, handled).await, 1);
    run(
        &admin,
        "drop schema app cascade; create schema app authorization stranger; select livestore.commit('todos', 'e')",
    )
    .await;
    assert_eq!(rejection(admin.query(handled, &[]).await).sqlstate, "42883");
    run(&admin, "grant usage on schema livestore to stranger").await;
    run(&database.connect("stranger").await, handler).await;
    let sidecar = database.connect("sidecar").await;
    let refused = rejection(sidecar.query(handled, &[]).await);
    assert!(refused.sqlstate == "42501" && refused.message.contains("belongs to stranger"), "{refused:?}");
    // The schema is still the stranger's, who could drop the handler between two of its events.
    run(&admin, "alter function app.handle(livestore.polled_event) owner to postgres").await;
    let refused = rejection(admin.query(handled, &[]).await);
    assert!(refused.sqlstate == "42501" && refused.message.contains("its schema to stranger"), "{refused:?}");
    let anew = "select livestore.subscribe('t', handler => 'app.handle(livestore.polled_event)')";
    assert_eq!(rejection(admin.query(anew, &[]).await).sqlstate, "42501");
    run(&admin, "alter schema app owner to postgres").await;
    // Postgres could not tell which one is meant. That is no failure of the events.
    run(
        &admin,
        "create function app.handle(event livestore.polled_event, n integer default 0) returns void language sql as ''",
    )
    .await;
    assert_eq!(rejection(admin.query(handled, &[]).await).sqlstate, "42725");
    assert_eq!(one::<i64>(&admin, "select failures from livestore.subscriptions where name = 's'").await, 0);
    run(&admin, "drop function app.handle(livestore.polled_event, integer)").await;
    assert_eq!(one::<i64>(&admin, handled).await, 1);
}

/// A worker waits for a partition, and gets that of a subscription of the same name that was made again meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn the_events_of_a_subscription_that_was_made_again_are_for_its_new_handler() {
    let database = Database::new().await;
    let (admin, worker) = (database.admin().await, database.admin().await);
    run(
        &admin,
        "create table public.handled (by text, name text);
         create function public.old(event livestore.polled_event) returns void language sql as
             $$ insert into public.handled values ('old', event.name) $$;
         create function public.new(event livestore.polled_event) returns void language sql as
             $$ insert into public.handled values ('new', event.name) $$;
         select livestore.subscribe('s', handler => 'public.old(livestore.polled_event)')",
    )
    .await;
    run(&admin, "begin; lock table livestore.subscription_partitions in access exclusive mode").await;
    let handle = "select events from livestore.run_subscription('s')";
    let running = tokio::spawn(async move { one::<i64>(&worker, handle).await });
    let waits = "select exists (
        select from pg_locks where relation = 'livestore.subscription_partitions'::regclass and not granted
    )";
    eventually("it waits", async || one(&admin, waits).await).await;
    run(
        &admin,
        "select livestore.unsubscribe('s');
         select livestore.subscribe('s', partitions => 3, handler => 'public.new(livestore.polled_event)');
         select livestore.commit('a', 'e');
         commit",
    )
    .await;
    assert_eq!(running.await.unwrap(), 1);
    assert_eq!(one::<i64>(&admin, handle).await, 0);
    assert_eq!(one::<String>(&admin, "select string_agg(by || ' ' || name, ',') from public.handled").await, "new e");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_removed_when_its_handler_has_finished() {
    let database = Database::new().await;
    let (admin, worker) = (database.admin().await, database.admin().await);
    run(
        &admin,
        "create table public.handled (name text);
         create function public.handle(event livestore.polled_event) returns void language sql as
             $$ select pg_sleep(1); insert into public.handled values (event.name) $$;
         select livestore.subscribe('s', handler => 'public.handle(livestore.polled_event)');
         select livestore.commit('a', 'e')",
    )
    .await;
    let running =
        tokio::spawn(async move { one::<i64>(&worker, "select events from livestore.run_subscription('s')").await });
    let is_run = "select exists (
        select from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()
    )";
    eventually("it runs", async || one(&admin, is_run).await).await;
    run(&admin, "select livestore.unsubscribe('s')").await;
    assert_eq!(running.await.unwrap(), 1);
    assert_eq!(one::<i64>(&admin, "select count(*) from public.handled").await, 1);
    assert_eq!(one::<i64>(&admin, "select count(*) from livestore.subscriptions").await, 0);
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

/// A commit to very many stores is read slowly, for each partition. All of them in one call would take longer than a statement may.
#[tokio::test]
async fn partitions_without_events_of_interest_are_passed_in_several_calls() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(
        &admin,
        "select livestore.subscribe('rare', array['rare'], partitions => 32);
         alter function livestore._commit_entries(bigint, bigint) rename to _quick_commit_entries;
         create function livestore._commit_entries(
             after bigint, last_position bigint,
             out first bigint, out store bigint, out upto bigint, out events integer, out change text, out store_id text
         )
         returns setof record language sql as
             'select pg_sleep(0.2); select * from livestore._quick_commit_entries($1, $2)';
         select livestore.commit('a', 'e');
         select livestore.commit('j', 'rare');
         set statement_timeout = '4s'",
    )
    .await;
    let mut polls = 0;
    let batch = loop {
        let batch = poll(&admin, "'rare'").await;
        if batch.lease.is_some() {
            break batch;
        }
        polls += 1;
        assert!(polls < 32, "it does not come to an end");
    };
    // It is in the last partition.
    assert_eq!(batch.events, ["j 1 rare"]);
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

/// The events for which it was given out again are gone: the next ones are no part of it, and have not failed.
#[tokio::test]
async fn a_batch_whose_events_are_gone_is_passed() {
    let database = Database::new().await;
    let (admin, worker) = (database.admin().await, database.connect("sidecar").await);
    run(&admin, "select livestore.subscribe('commits', stores => '%')").await;
    for (store, name) in [("za", "e"), ("zb", "e")] {
        commit(&admin, store, name).await;
    }
    run(&admin, "select livestore.subscribe('history', stores => '%', start => 'beginning')").await;
    for subscription in ["commits", "history"] {
        let batch = poll(&worker, &format!("'{subscription}', 1")).await;
        assert_eq!(batch.events, ["za 1 e"], "{subscription}");
        batch.nack(&worker, "failed").await;
    }
    run(&admin, "select livestore.reset_store('za')").await;
    let batch = poll(&worker, "'commits'").await;
    assert_eq!(batch.events, ["zb 1 e", "za reset"]);
    let batch = poll(&worker, "'history'").await;
    assert_eq!(batch.events, ["zb 1 e"]);
    batch.ack(&worker).await;
    assert_eq!(poll(&worker, "'history'").await.events, ["za reset"]);
}

/// The last event of a batch of one fails for good, after an earlier one was given the name that is asked for.
#[tokio::test]
async fn an_event_that_was_renamed_meanwhile_does_not_take_the_place_of_the_one_that_failed() {
    let database = Database::new().await;
    let (admin, worker) = (database.admin().await, database.connect("sidecar").await);
    let subscribe = "names => '{want}', max_failures => 1";
    run(&admin, &format!("select livestore.subscribe('commits', {subscribe})")).await;
    for name in ["other", "want"] {
        commit(&admin, "a", name).await;
    }
    run(&admin, &format!("select livestore.subscribe('history', {subscribe}, start => 'beginning')")).await;
    let mut batches = Vec::new();
    for subscription in ["commits", "history"] {
        let batch = poll(&worker, &format!("'{subscription}'")).await;
        assert_eq!(batch.events, ["a 2 want"], "{subscription}");
        batches.push((subscription, batch));
    }
    run(&admin, "select livestore.rewrite_event('a', 1, 'want', null)").await;
    for (subscription, batch) in batches {
        batch.nack(&worker, "failed").await;
        let batch = poll(&worker, &format!("'{subscription}'")).await;
        assert_eq!(batch.events, ["a 1 want"], "{subscription}");
        batch.ack(&worker).await;
        let batch = poll(&worker, &format!("'{subscription}'")).await;
        assert_eq!(batch.events, ["a 2 want"], "{subscription}");
        batch.nack(&worker, "failed").await;
        assert_eq!(poll(&worker, &format!("'{subscription}'")).await.events, ["a 1 rewrite"], "{subscription}");
    }
    let letters =
        "select string_agg(concat_ws(' ', subscription, seq_num), ', ' order by id) from livestore.dead_letters";
    assert_eq!(one::<String>(&admin, letters).await, "commits 2, history 2");
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

/// Eight of them take longer than a statement may. They would, each time that they come again.
#[tokio::test]
async fn a_slow_handler_gets_its_events_one_by_one_after_the_first_that_take_too_long() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(
        &admin,
        "create function public.handle(event livestore.polled_event) returns void language sql as 'select pg_sleep(0.2)';
         select livestore.subscribe('s', handler => 'public.handle(livestore.polled_event)')",
    )
    .await;
    for _ in 0..8 {
        commit(&admin, "a", "e").await;
    }
    run(&admin, "set statement_timeout = '1s'").await;
    let mut outcomes = Vec::new();
    for _ in 0..4 {
        let handle = "select coalesce(error, events::text) from livestore.run_subscription('s')";
        let outcome: String = one(&admin, handle).await;
        outcomes.push(outcome.lines().next().unwrap_or_default().to_owned());
    }
    assert_eq!(outcomes, ["canceling statement due to statement timeout", "1", "1", "1"]);
    assert_eq!(one::<i64>(&admin, "select failures + dead_letters from livestore.subscriptions").await, 0);
}
