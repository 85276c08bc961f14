//! Functions of the database that a subscription calls.

use livestore_tests::cluster::Database;
use livestore_tests::eventually;

use super::commit;
use crate::support::{all, one, rejection, run};

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
