//! Code that is not the sidecar's, in its sessions: hooks, handlers and authorize functions, whose owners may be hostile. What they leave
//! in a session reaches nothing that the sidecar executes next.

use std::time::{Duration, Instant};

use livestore_tests::cluster::{Cluster, Database};
use livestore_tests::dialects::Caller;
use livestore_tests::events::chain;
use livestore_tests::eventually;
use livestore_tests::relay::{self, Peer, events};
use livestore_tests::rpc::Rpc;
use livestore_tests::sidecar::{Sidecar, Start};
use tokio_postgres::Client;

/// A table for what `code` finds, with functions for it.
const LOOT: &str = "
    create schema app;
    create table app.loot (who name default current_user, what text);
    grant usage on schema app to public;
    grant insert, select on app.loot to public;
    -- A session may keep all of these.
    create function app.spoil() returns void language plpgsql as $$ begin
        insert into app.loot select current_user, 'prepared: ' || statement from pg_catalog.pg_prepared_statements;
        perform set_config('statement_timeout', '1ms', false), set_config('default_transaction_read_only', 'on', false),
            set_config('search_path', 'nowhere', false), set_config('livestore.held_stores', '', false),
            set_config('client_encoding', 'latin1', false), pg_advisory_lock(1);
    end $$;";

async fn count(admin: &Client, what: &str) -> i64 {
    admin.query_one(&format!("select count(*) from {what}"), &[]).await.unwrap().get(0)
}

async fn nothing_was_looted(admin: &Client) {
    let loot = admin.query("select who::text || ': ' || what from app.loot", &[]).await.unwrap();
    let loot: Vec<String> = loot.iter().map(|row| row.get(0)).collect();
    assert!(loot.is_empty(), "{loot:?}");
}

async fn push(sidecar: &Sidecar, store: &str, head: i64) {
    let answer = Caller::new(sidecar, store).write("electric", chain(head, 1)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// The function of a hook may run as somebody who has no right on logs. It replaces the statements that are prepared in its session.
#[tokio::test(flavor = "multi_thread")]
async fn a_hook_does_not_replace_what_the_sidecar_executes_next() {
    let database = Database::new().await;
    let admin = database.admin().await;
    admin.batch_execute(LOOT).await.unwrap();
    let hook = "
        grant usage on schema livestore to stranger;
        create function app.evil(text[], text[], text[], text, text[]) returns setof livestore.push_result language plpgsql as $$ begin
            insert into app.loot (what) values ('evil');
            return query select * from livestore.push_batch($1, $2, $3, $4, $5);
        end $$;
        create function app.hook() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
        declare
            found record;
        begin
            for found in
                select name, statement, parameter_types::text[] as types from pg_prepared_statements where statement like '%push_batch(%'
            loop
                execute format('deallocate %I', found.name);
                execute format('prepare %I (%s) as %s', found.name, array_to_string(found.types, ','),
                    replace(found.statement, 'livestore.push_batch', 'app.evil'));
            end loop;
            return new;
        exception when others then
            return new;
        end $$;
        alter function app.hook() owner to stranger;
        create trigger hook before insert on livestore.eventlog_1 for each row execute function app.hook();";
    admin.batch_execute(hook).await.unwrap();
    let sidecar = Sidecar::on(&database).await;
    for head in 0..3 {
        push(&sidecar, "s", head).await;
    }
    nothing_was_looted(&admin).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_a_hook_leaves_do_not_reach_the_next_push() {
    let database = Database::new().await;
    let admin = database.admin().await;
    admin.batch_execute(LOOT).await.unwrap();
    let hook = "
        create function app.hook() returns trigger language plpgsql as $$ begin
            perform app.spoil();
            return null;
        end $$;
        create trigger hook after insert on livestore.eventlog_1 for each row execute function app.hook();";
    admin.batch_execute(hook).await.unwrap();
    let sidecar = Sidecar::on(&database).await;
    for head in 0..3 {
        push(&sidecar, "s", head).await;
    }
    nothing_was_looted(&admin).await;
    let log = sidecar.log();
    let mut warnings = log.lines().filter(|line| line.contains("\"WARN\"") && !line.contains("not ready"));
    assert_eq!(warnings.next(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_handlers_and_authorize_functions_leave_in_a_session_reaches_nobody() {
    let database = Database::new().await;
    let admin = database.admin().await;
    admin.batch_execute(LOOT).await.unwrap();
    let functions = "
        create table app.calls (what text, path text default current_setting('search_path'),
            idle text default current_setting('idle_in_transaction_session_timeout'));
        grant insert on app.calls to sidecar;
        create function app.may_sync(store text, action text) returns boolean language plpgsql as $$ begin
            insert into app.calls values ('asked');
            perform app.spoil();
            return true;
        end $$;
        create function app.handle(event livestore.polled_event) returns void language plpgsql as $$ begin
            insert into app.calls values ('handled');
            perform app.spoil();
        end $$;
        select livestore.subscribe('handled', handler => 'app.handle(livestore.polled_event)');";
    admin.batch_execute(functions).await.unwrap();
    let arguments = ["--authorize-function", "app.may_sync", "--database-connections", "1"];
    let sidecar = Start::new(database.url("sidecar")).arguments(&arguments).ready().await;
    for head in 0..3 {
        push(&sidecar, "s", head).await;
        let handled = async || count(&admin, "app.calls where what = 'handled'").await == head + 1;
        eventually("it is handled", handled).await;
        let answer = Caller::new(&sidecar, "s").read("electric").await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    nothing_was_looted(&admin).await;
    assert!(count(&admin, "app.calls where what = 'asked'").await >= 6);
    let others = "app.calls where path <> 'pg_catalog, pg_temp' or idle <> '1min'";
    assert_eq!(count(&admin, others).await, 0);
}

/// Any role that may connect may send notifications.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_notifications_makes_live_events_neither_late_nor_the_sidecar_large() {
    let database = Database::alone().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    let mut live = Rpc::open(&sidecar.url(), "s").await;
    live.pull("live".into(), "s", true).await;
    live.frame().await;
    let before = sidecar.memory();
    let flood = "select count(pg_notify('livestore_heads', left('{\"heads\":{' || (
            select string_agg('\"' || md5(i::text || j::text || random()) || '\":null', ',') from generate_series(1, 150) j
        ) || '}}', 7999))) from generate_series(1, 2000) i";
    let floods: Vec<_> = futures_util::future::join_all((0..3).map(|_| database.connect("stranger"))).await;
    let flooding = floods.into_iter().map(|client| {
        tokio::spawn(async move {
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(8) {
                client.query_one(flood, &[]).await.unwrap();
            }
        })
    });
    let flooding: Vec<_> = flooding.collect();
    let (mut latest, mut largest) = (Duration::ZERO, 0);
    while flooding.iter().any(|flood| !flood.is_finished()) {
        admin.batch_execute("select livestore.commit('s', 'e')").await.unwrap();
        let committed = Instant::now();
        while !live.frame().await.to_string().contains("seqNum") {}
        latest = latest.max(committed.elapsed());
        largest = sidecar.memory().max(largest);
        live.send(serde_json::json!({"_tag": "Ack", "requestId": "live"})).await;
    }
    let grown = largest.saturating_sub(before) >> 20;
    assert!(latest < Duration::from_secs(15) && grown < 80, "{latest:?} late, {grown} MiB larger");
}

/// The name of a sidecar's channel is known to those only who send on it: what devices say to each other goes there.
#[tokio::test(flavor = "multi_thread")]
async fn the_channel_of_a_relay_is_not_in_the_text_of_a_statement() {
    let cluster =
        tokio::task::spawn_blocking(|| Cluster::start_with("shared_preload_libraries = 'pg_stat_statements'\n"));
    let database = cluster.await.unwrap().leak().database().await;
    let admin = database.admin().await;
    admin.batch_execute("create extension pg_stat_statements").await.unwrap();
    let (first, second) = (Sidecar::on(&database).await, Sidecar::on(&database).await);
    let mut ann = Peer::join(&relay::url(&first), "a").await;
    let mut bob = Peer::join(&relay::url(&second), "b").await;
    ann.sees(&["b"]).await;
    let text = ann.push(events("a", [1])).await;
    assert_eq!(bob.next_text().await, text);
    let texts = "(select query from pg_stat_statements union all select query from pg_stat_activity where pid <> pg_backend_pid()) q
        where query ~ 'livestore_relay_[0-9a-f]'";
    assert_eq!(count(&admin, texts).await, 0);
    database.stop();
}
