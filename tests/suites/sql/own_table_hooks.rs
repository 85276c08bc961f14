//! Hooks on dedicated tables: a child table inherits no triggers, so they are copied when it is created, and on request.

use crate::support::{Push, all, one, push, push_batch, rejection, run};
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event};
use serde_json::{Value, json};
use tokio_postgres::Client;

/// A database whose hook counts events in a table, and rejects those named `bad`.
async fn hooked() -> Database {
    let database = Database::new().await;
    run(
        &database.admin().await,
        "create table public.seen (name text, fired_on regclass);
         grant insert on public.seen to livestore_hooks;
         create function public.see() returns trigger language plpgsql as $$
         begin
             if new.name = 'bad' then raise exception 'not this one' using errcode = 'P0042'; end if;
             insert into public.seen values (new.name, tg_relid);
             return new;
         end $$;
         create trigger see before insert on livestore.eventlog_1 for each row execute function public.see()",
    )
    .await;
    database
}

fn named(parent: i64, name: &str) -> Value {
    json!([event(parent, name, json!({}))])
}

async fn seen(client: &Client) -> Vec<String> {
    all(client, "select name || ' on ' || fired_on from public.seen order by 1").await
}

#[tokio::test]
async fn a_new_own_table_has_the_hooks_of_the_shared_one() {
    let database = hooked().await;
    let admin = database.admin().await;
    let client = database.connect("sidecar").await;
    run(&client, "select livestore.create_store('own', own_table => true)").await;
    push(&client, "own", named(0, "good")).await.unwrap();
    assert_eq!(rejection(push(&client, "own", named(1, "bad")).await).sqlstate, "P0042");
    let pushes =
        [Push::to("own", named(1, "good")), Push::to("own", named(2, "bad")), Push::to("pooled", named(0, "good"))];
    let outcomes = push_batch(&client, &pushes).await;
    assert_eq!(outcomes.iter().map(|outcome| outcome.brief()).collect::<Vec<_>>(), [Ok(2), Err("P0042"), Ok(1)]);
    let own = "good on livestore.eventlog_1_own";
    assert_eq!(seen(&admin).await, ["good on livestore.eventlog_1", own, own]);
}

#[tokio::test]
async fn events_that_move_into_an_own_table_fire_no_hook() {
    let database = hooked().await;
    let admin = database.admin().await;
    push(&admin, "s", chain(0, 5)).await.unwrap();
    run(&admin, "delete from public.seen; select livestore.create_store('s', own_table => true)").await;
    assert_eq!(seen(&admin).await, [""; 0]);
    push(&admin, "s", chain(5, 1)).await.unwrap();
    assert_eq!(seen(&admin).await, ["todoCreated on livestore.eventlog_1_s"]);
}

#[tokio::test]
async fn hooks_of_every_kind_are_copied_as_they_are() {
    let database = hooked().await;
    let admin = database.admin().await;
    run(
        &admin,
        "create function public.nothing() returns trigger language plpgsql as 'begin return null; end';
         create trigger \"Quoted \"\" name\" after insert on livestore.eventlog_1
             for each row when (new.name like '%x%') execute function public.nothing('an argument');
         create trigger statement after insert on livestore.eventlog_1
             referencing new table as added for each statement execute function public.nothing();
         create trigger changes before update of name or delete on livestore.eventlog_1
             for each row execute function public.nothing();
         create constraint trigger deferred after insert on livestore.eventlog_1
             deferrable initially deferred for each row execute function public.nothing();
         create trigger disabled after insert on livestore.eventlog_1 for each row execute function public.nothing();
         create trigger always after insert on livestore.eventlog_1 for each row execute function public.nothing();
         create trigger replica after insert on livestore.eventlog_1 for each row execute function public.nothing();
         alter table livestore.eventlog_1 disable trigger disabled;
         alter table livestore.eventlog_1 enable always trigger always;
         alter table livestore.eventlog_1 enable replica trigger replica;
         select livestore.create_store('own', own_table => true)",
    )
    .await;
    let triggers = |table: &str| {
        format!(
            "select tgenabled::text || ' ' || replace(pg_get_triggerdef(oid), ' ON {table} ', ' ON the log ') from pg_trigger
             where tgrelid = '{table}'::regclass and not tgisinternal order by tgname"
        )
    };
    let shared: Vec<String> = all(&admin, &triggers("livestore.eventlog_1")).await;
    let own: Vec<String> = all(&admin, &triggers("livestore.eventlog_1_own")).await;
    assert_eq!(shared.len(), 8);
    let shared: Vec<_> =
        shared.iter().map(|it| it.replace("livestore.eventlog_1_own", "livestore.eventlog_1")).collect();
    assert_eq!(own, shared);
    push(&admin, "own", chain(0, 2)).await.unwrap();
}

#[tokio::test]
async fn changed_hooks_reach_an_own_table_with_apply_hooks() {
    let database = hooked().await;
    let admin = database.admin().await;
    run(
        &admin,
        "select livestore.create_store('own', own_table => true);
         drop trigger see on livestore.eventlog_1;
         create function public.reject_worse() returns trigger language plpgsql as $$
         begin
             if new.name = 'worse' then raise exception 'nor this' using errcode = 'P0043'; end if;
             return new;
         end $$;
         create trigger reject_worse before insert on livestore.eventlog_1 for each row execute function public.reject_worse()",
    )
    .await;
    push(&admin, "own", named(0, "worse")).await.expect("the own table has the hooks of its creation");
    assert_eq!(rejection(push(&admin, "own", named(1, "bad")).await).sqlstate, "P0042");

    assert_eq!(one::<i32>(&admin, "select livestore.apply_hooks('livestore.eventlog_1_own')").await, 1);
    assert_eq!(rejection(push(&admin, "own", named(1, "worse")).await).sqlstate, "P0043");
    push(&admin, "own", named(1, "bad")).await.expect("that hook is gone");

    run(&admin, "drop trigger reject_worse on livestore.eventlog_1").await;
    let applied = "select livestore.apply_hooks(eventlog) from livestore.stores where eventlog <> 'livestore.eventlog_1'::regclass";
    assert_eq!(all::<i32>(&admin, applied).await, [0]);
    push(&admin, "own", named(2, "worse")).await.expect("there are no hooks");
}

#[tokio::test]
async fn hooks_are_applied_to_own_tables_only() {
    let database = hooked().await;
    let admin = database.admin().await;
    run(&admin, "create table public.mine (name text)").await;
    for table in ["livestore.eventlog_1", "livestore.stores", "public.mine"] {
        let result = admin.execute(&format!("select livestore.apply_hooks('{table}')"), &[]).await;
        assert_eq!(rejection(result).sqlstate, "42809", "{table}");
    }
    push(&admin, "s", named(0, "good")).await.unwrap();
    assert_eq!(seen(&admin).await, ["good on livestore.eventlog_1"], "its hook is still there");
}

#[tokio::test]
async fn a_hook_on_an_own_table_must_not_change_or_skip_an_event_either() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(
        &admin,
        "create function public.skip() returns trigger language plpgsql as 'begin return null; end';
         create function public.change() returns trigger language plpgsql as 'begin new.name := ''changed''; return new; end'",
    )
    .await;
    for function in ["skip", "change"] {
        run(
            &admin,
            &format!(
                "select livestore.create_store('{function}', own_table => true);
                 create trigger {function} before insert on livestore.eventlog_1_{function}
                     for each row execute function public.{function}()"
            ),
        )
        .await;
        assert_eq!(rejection(push(&admin, function, named(0, "e")).await).sqlstate, "27000", "{function}");
    }
}
