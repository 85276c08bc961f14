//! Read models: tables that a handler makes of events, and `livestore.rebuild`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::subscriptions::{commit, poll};
use crate::support::{one, push, rejection, run};
use livestore_tests::cluster::Database;
use livestore_tests::events::chain;
use livestore_tests::eventually;

/// A read model, as docs/reactions.md makes it: it counts the events of each store.
const READ_MODEL: &str = "
    create table public.counts (store_id text primary key, n bigint not null);
    create function public.count_event(event livestore.polled_event) returns void language plpgsql security definer
        set search_path = pg_catalog, pg_temp as $$
    begin
        if event.change in ('reset', 'drop') then
            delete from public.counts c where c.store_id = event.store_id;
        elsif event.change is null then
            insert into public.counts values (event.store_id, 1) on conflict (store_id) do update set n = counts.n + 1;
        end if;
    end $$;
    select livestore.subscribe('counts', partitions => 3, handler => 'public.count_event(livestore.polled_event)')";

const RIGHT: &str = "
    select coalesce(string_agg(concat_ws(' ', s.store_id, s.n), ',' order by s.store_id), '') = (
        select coalesce(string_agg(concat_ws(' ', c.store_id, c.n), ',' order by c.store_id), '') from public.counts c
    )
    from (select store_id, count(*) as n from livestore.events group by 1) s";

/// It is built again while others write, in place and as a second copy.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_model_is_built_again_without_a_gap_or_a_double_while_others_write() {
    let database = Database::new().await;
    let admin = database.admin().await;
    // From before the subscription, as after an update from a version without the commit log.
    for store in 0..10 {
        push(&admin, &format!("s{store}"), chain(0, 30)).await.unwrap();
    }
    run(&admin, "select livestore.prune_commits(now() + interval '1 hour')").await;
    run(&admin, READ_MODEL).await;
    let is_done = Arc::new(AtomicBool::new(false));
    let spawn = |sql: fn(usize) -> String| {
        let (database, is_done) = (database.clone(), Arc::clone(&is_done));
        tokio::spawn(async move {
            let client = database.connect("postgres").await;
            let mut round = 0;
            while !is_done.load(Ordering::Relaxed) {
                round += 1;
                run(&client, &sql(round)).await;
            }
        })
    };
    let write = |round: usize| {
        let pause = round % 3;
        format!("begin; select livestore.commit('s{}', 'e'); select pg_sleep(0.00{pause}); commit", round % 13)
    };
    let mut tasks = vec![spawn(write), spawn(write)];
    tasks.push(spawn(|round| {
        format!("select livestore.create_store('s{0}'), livestore.reset_store('s{0}'), pg_sleep(0.05)", round % 11)
    }));
    for _ in 0..2 {
        tasks.push(spawn(|_| "select events from livestore.run_subscription('counts', 17)".into()));
    }
    let caught_up = "select lag_events = 0 and history_stores = 0 from livestore.subscriptions where name = 'counts'";
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        run(&admin, "begin; select livestore.rebuild('counts'); truncate public.counts; commit").await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    is_done.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    let finish = async || {
        eventually("it has caught up", async || {
            run(&admin, "select livestore.run_subscription('counts', 1000) from generate_series(1, 10)").await;
            one(&admin, caught_up).await
        })
        .await;
    };
    finish().await;
    assert!(one::<bool>(&admin, RIGHT).await);
    assert_eq!(one::<i64>(&admin, "select count(*) from livestore.dead_letters").await, 0);

    // A worker that is late is told.
    let worker = database.connect("sidecar").await;
    commit(&admin, "s1", "e").await;
    let batch = poll(&worker, "'counts'").await;
    run(&admin, "begin; select livestore.rebuild('counts'); truncate public.counts; commit").await;
    assert_eq!(rejection(worker.execute("select livestore.ack($1)", &[&batch.lease]).await).sqlstate, "LS007");
    finish().await;
    assert!(one::<bool>(&admin, RIGHT).await);
}

/// A rebuild holds up nobody but its own handler until its transaction ends.
#[tokio::test]
async fn commits_go_on_while_a_rebuild_is_under_way() {
    let database = Database::new().await;
    let (admin, other) = (database.admin().await, database.admin().await);
    run(&admin, READ_MODEL).await;
    commit(&admin, "a", "e").await;
    run(&other, "select livestore.run_subscription('counts')").await;
    let life = "select livestore.subscription_life('counts')";
    let before: String = one(&admin, life).await;
    run(&admin, "begin; select livestore.rebuild('counts')").await;
    run(&other, "set lock_timeout = '1s'; select livestore.commit('a', 'e')").await;
    // It has nothing to do until then.
    assert_eq!(one::<i64>(&other, "select events from livestore.run_subscription('counts')").await, 0);
    run(&admin, "truncate public.counts; commit").await;
    run(&other, "select livestore.run_subscription('counts') from generate_series(1, 5)").await;
    assert!(one::<bool>(&admin, RIGHT).await);
    assert_ne!(one::<String>(&admin, life).await, before, "webhooks have other ids");
}
