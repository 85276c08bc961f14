//! The sidecar keeps the commit log short, and runs the handlers of subscriptions.

use std::time::Duration;

use livestore_tests::cluster::Database;
use livestore_tests::dialects::Caller;
use livestore_tests::events::chain;
use livestore_tests::eventually;
use livestore_tests::sidecar::Sidecar;
use tokio::time::{Instant, sleep};

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_removes_old_entries() {
    let database = Database::new().await;
    let admin = database.admin().await;
    admin.execute("select livestore.push('s', $1)", &[&chain(0, 2)]).await.unwrap();
    admin.execute("select livestore.push('t', $1)", &[&chain(0, 1)]).await.unwrap();
    let age = "update livestore.commits set committed_at = now() - interval '3 days' where position = 2;
        update livestore.instance set keep_commits = '2 days'";
    admin.batch_execute(age).await.unwrap();
    let _sidecar = Sidecar::on(&database).await;
    let left = "select array_agg(position) from livestore.commits";
    let is_pruned = || async { admin.query_one(left, &[]).await.unwrap().get::<_, Vec<i64>>(0) == [3] };
    eventually("the old entry is gone", is_pruned).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_with_much_to_do_does_not_hold_up_another() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let handlers = "create table public.done (subscription text, seq_num bigint);
        create function public.slow(event livestore.polled_event) returns void language plpgsql security definer as $$
        begin
            perform pg_sleep(0.01);
            insert into public.done values ('slow', event.seq_num);
        end $$;
        create function public.quick(event livestore.polled_event) returns void language sql security definer
            as $$ insert into public.done values ('quick', event.seq_num) $$;
        select livestore.push('s', (select json_agg(json_build_object('name', 'e', 'seqNum', n, 'parentSeqNum', n - 1, 'clientId', 'c',
            'sessionId', 's')) from generate_series(1, 1500) n));
        select livestore.subscribe('slow', start => 'beginning', handler => 'public.slow(livestore.polled_event)');
        select livestore.subscribe('quick', array['quick'], handler => 'public.quick(livestore.polled_event)')";
    admin.batch_execute(handlers).await.unwrap();
    let _sidecar = Sidecar::on(&database).await;
    let done = async |subscription: &str| {
        let count = "select count(*) from public.done where subscription = $1";
        admin.query_one(count, &[&subscription]).await.unwrap().get::<_, i64>(0)
    };
    eventually("the slow one has begun", async || done("slow").await > 0).await;
    admin.batch_execute("select livestore.commit('s', 'quick')").await.unwrap();
    eventually("the quick one is handled", async || done("quick").await == 1).await;
    assert!(done("slow").await < 1500);
}

/// As when the machine of Postgres hangs: a process that runs a handler does nothing any more, and its connection stays.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_whose_process_hangs_does_not_stop_the_others() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let handlers = "create table public.done (subscription text);
        create function public.hanging(event livestore.polled_event) returns void language sql security definer
            as $$ select pg_sleep(2); insert into public.done values ('hanging') $$;
        create function public.other(event livestore.polled_event) returns void language sql security definer
            as $$ insert into public.done values ('other') $$;
        select livestore.subscribe('a', array['hanging'], handler => 'public.hanging(livestore.polled_event)');
        select livestore.subscribe('b', array['other'], handler => 'public.other(livestore.polled_event)')";
    admin.batch_execute(handlers).await.unwrap();
    let _sidecar = Sidecar::on(&database).await;
    admin.batch_execute("select livestore.commit('s', 'hanging')").await.unwrap();
    let runs = format!("wait_event = 'PgSleep' and datname = '{}'", database.name());
    let is_run = format!("select exists (select from pg_stat_activity where {runs})");
    eventually("it runs", async || admin.query_one(&is_run, &[]).await.unwrap().get(0)).await;
    let stopped = database.stopped(&runs).await;
    admin.batch_execute("select livestore.commit('s', 'other')").await.unwrap();
    let done = async |subscription: &str| {
        let count = "select count(*) from public.done where subscription = $1";
        admin.query_one(count, &[&subscription]).await.unwrap().get::<_, i64>(0)
    };
    // Postgres has 30 s for a run, and the sidecar waits a little longer.
    let began = Instant::now();
    while done("other").await == 0 {
        assert!(began.elapsed() < Duration::from_secs(90), "the other handler is not run");
        sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(done("hanging").await, 0);
    drop(stopped);
    eventually("it is run, or run again", async || done("hanging").await > 0).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!((done("hanging").await, done("other").await), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_run_handlers_once_for_each_event() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let sidecars = [Sidecar::on(&database).await, Sidecar::on(&database).await];
    let handler = "create table public.mails (store_id text, seq_num bigint);
        create function public.send(event livestore.polled_event) returns void language plpgsql
            security definer set search_path = pg_catalog, pg_temp as $$
        begin
            if event.name = 'bad' then
                raise exception 'no address for %', event.store_id;
            end if;
            insert into public.mails values (event.store_id, event.seq_num);
        end $$;
        select livestore.subscribe('mails', partitions => 3, max_failures => 2, handler => 'public.send(livestore.polled_event)')";
    admin.batch_execute(handler).await.unwrap();
    // By clients of a sidecar, and by SQL.
    for round in 0..20 {
        let store = format!("s{}", round % 5);
        if round < 5 {
            let caller = Caller::new(&sidecars[round % 2], &store);
            assert_eq!(caller.write("electric", chain(0, 2)).await.status, 200);
        } else {
            admin.execute("select livestore.commit($1, 'e')", &[&store]).await.unwrap();
        }
    }
    let count = "select count(*) from public.mails";
    let counted = async || admin.query_one(count, &[]).await.unwrap().get::<_, i64>(0);
    eventually("all are handled", async || counted().await >= 25).await;
    let distinct = "select count(distinct (store_id, seq_num)) from public.mails";
    assert_eq!((counted().await, admin.query_one(distinct, &[]).await.unwrap().get::<_, i64>(0)), (25, 25));

    // One that fails is told to the operator, and does not hold up the others for ever.
    for name in ["bad", "good"] {
        admin.execute("select livestore.commit('s1', $1)", &[&name]).await.unwrap();
    }
    eventually("the next one is handled", async || counted().await == 26).await;
    let letters = "select string_agg(store_id || ' ' || name, ',') from livestore.dead_letters";
    assert_eq!(admin.query_one(letters, &[]).await.unwrap().get::<_, String>(0), "s1 bad");
    let is_told = |sidecar: &Sidecar| {
        sidecar
            .log()
            .lines()
            .any(|line| line.contains("no address for s1") && line.contains("\"subscription\":\"mails\""))
    };
    assert!(sidecars.iter().any(is_told), "{}", sidecars[0].log());
}

/// Of what `livestore.run_subscription` cannot check before the commit, which fails then and undoes what it has counted: a constraint in a schema that
/// the sidecar may not use, and one that the handler has deferred.
#[tokio::test(flavor = "multi_thread")]
async fn a_handler_whose_commit_fails_has_failed() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let handlers = "create schema private;
        create table private.kinds (name text primary key);
        insert into private.kinds values ('good');
        create table private.seen (kind text references private.kinds deferrable initially deferred);
        create table public.seen (kind text references private.kinds deferrable initially immediate);
        create function public.handle_privately(event livestore.polled_event) returns void language sql security definer
            as $$ insert into private.seen values (event.name) $$;
        create function public.defer(event livestore.polled_event) returns void language sql security definer
            as $$ set constraints all deferred; insert into public.seen values (event.name) $$;
        select livestore.subscribe('private', max_failures => 1, handler => 'public.handle_privately(livestore.polled_event)');
        select livestore.subscribe('deferred', max_failures => 1, handler => 'public.defer(livestore.polled_event)');
        select livestore.commit('s', 'bad'); select livestore.commit('s', 'good')";
    admin.batch_execute(handlers).await.unwrap();
    let sidecar = Sidecar::on(&database).await;
    let seen = "select (select string_agg(kind, ' ') from private.seen) || ', ' || (select string_agg(kind, ' ') from public.seen)";
    let seen = async || admin.query_one(seen, &[]).await.unwrap().get::<_, Option<String>>(0);
    eventually("the next events are handled", async || seen().await.as_deref() == Some("good, good")).await;
    let letters = "select string_agg(concat_ws(' ', subscription, name, failures, error like '%violates foreign key%'), ', ' order by id)
        from livestore.dead_letters";
    let letters: String = admin.query_one(letters, &[]).await.unwrap().get(0);
    let mut letters: Vec<_> = letters.split(", ").collect();
    letters.sort_unstable();
    assert_eq!(letters, ["deferred bad 1 t", "private bad 1 t"]);
    assert!(sidecar.log().contains("(at the commit)"), "{}", sidecar.log());
}
