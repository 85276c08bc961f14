//! Durable subscriptions: `livestore.subscribe`, `poll`, `ack`, `nack`, `resend`.

mod handlers;
mod history;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use livestore_tests::cluster::Database;
use livestore_tests::eventually;
use tokio_postgres::Client;

use crate::support::{all, one, rejection, run};

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
