//! Taking over the event log of another LiveStore backend.

use crate::support::{all, log, one, push, rejection, run};
use livestore_tests::client::Node;
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, numbers, up_to};
use livestore_tests::flavour::Flavour;
use livestore_tests::sidecar::Sidecar;
use serde_json::Value;
use tokio_postgres::{Client, Error};

/// The table that LiveStore's own example of a sync-electric server creates, with `count` events.
async fn electric_table(client: &Client, count: i64) {
    run(
        client,
        "create table public.\"eventlog_6_todo_app\" (
             \"seqNum\" integer primary key, \"parentSeqNum\" integer, name text not null, args jsonb not null,
             \"clientId\" text not null, \"sessionId\" text not null
         )",
    )
    .await;
    add(client, 1, count).await;
}

async fn add(client: &Client, first: i64, last: i64) {
    let insert = format!(
        "insert into \"eventlog_6_todo_app\"
         select n, n - 1, 'todoCreated', json_build_object('text', 'é' || n, 'id', n)::jsonb, 'client', 'session'
         from generate_series({first}, {last}) n order by n desc"
    );
    run(client, &insert).await;
}

/// The answer to an import: the number of new events, the number of those that were there already, and the head.
async fn import(client: &Client, arguments: &str) -> Result<(i64, i64, i64), Error> {
    let select = format!("select imported, already_there, head from livestore.import_table({arguments})");
    client.query_one(&select, &[]).await.map(|row| (row.get(0), row.get(1), row.get(2)))
}

const TODO_APP: &str = "'public.\"eventlog_6_todo_app\"', 'todo-app'";

#[tokio::test]
async fn the_table_of_a_sync_electric_server_is_taken_over_in_order_and_only_once() {
    let database = Database::new().await;
    let client = database.admin().await;
    electric_table(&client, 1234).await;
    assert_eq!(import(&client, TODO_APP).await.unwrap(), (1234, 0, 1234));
    assert_eq!(log(&client, "todo-app").await, up_to(1234));
    let event = "select to_json(e) - 'created_at' - 'store_id' from livestore.events e where seq_num = 17";
    let event: Value = one(&client, &event.replace("to_json", "to_jsonb")).await;
    assert_eq!(event["args"], serde_json::json!({"text": "é17", "id": 17}));
    assert_eq!(
        (&event["name"], &event["client_id"], &event["session_id"]),
        (&"todoCreated".into(), &"client".into(), &"session".into())
    );

    assert_eq!(import(&client, TODO_APP).await.unwrap(), (0, 1234, 1234), "again");
    add(&client, 1235, 1300).await;
    assert_eq!(import(&client, TODO_APP).await.unwrap(), (66, 1234, 1300), "what was added since");
    push(&client, "todo-app", chain(1300, 5)).await.unwrap();
    assert_eq!(import(&client, TODO_APP).await.unwrap(), (0, 1300, 1305), "clients have gone on here");
    assert_eq!(log(&client, "todo-app").await, up_to(1305));
}

#[tokio::test]
async fn the_table_of_sync_cf_keeps_its_times_its_backend_id_and_events_without_args() {
    let database = Database::new().await;
    let client = database.admin().await;
    // As pgloader brings a SQLite table over.
    run(
        &client,
        r#"create table eventlog_7_x (seqnum bigint, parentseqnum bigint, name text, args text, createdat text, clientid text, sessionid text);
           insert into eventlog_7_x values
               (1, 0, 'a', '{"z": 1.0, "a": "\u0000"}', '2024-05-06T07:08:09.123Z', 'c', 's'),
               (5, 1, 'b', null, '2024-05-06T07:08:10.000Z', 'c', 's'),
               (6, 5, 'c', 'null', '2024-05-06T07:08:11.000Z', 'c', 's')"#,
    )
    .await;
    let id = "V1StGXR8_Z5jdHi6B-myT";
    assert_eq!(import(&client, &format!("'eventlog_7_x', 'x', '{id}'")).await.unwrap(), (3, 0, 6));
    assert_eq!(one::<String>(&client, "select livestore.backend_id('x')").await, id);
    let events = "select concat_ws(' ', seq_num, coalesce(args::text, 'none'), to_char(created_at at time zone 'UTC', 'HH24:MI:SS.MS'))
                  from livestore.events order by seq_num";
    let expected = [r#"1 {"z": 1.0, "a": "\u0000"} 07:08:09.123"#, "5 none 07:08:10.000", "6 null 07:08:11.000"];
    assert_eq!(all::<String>(&client, events).await, expected);
    assert_eq!(import(&client, &format!("'eventlog_7_x', 'x', '{id}'")).await.unwrap(), (0, 3, 6));
    assert_eq!(rejection(import(&client, "'eventlog_7_x', 'x', 'another'").await).sqlstate, "LS002");
    assert_eq!(rejection(import(&client, "'eventlog_7_x', 'y', 'not an id'").await).sqlstate, "22023");
    assert_eq!(one::<i64>(&client, "select count(*) from livestore.stores").await, 1);
}

#[tokio::test]
async fn what_is_not_a_chain_is_refused_whole_and_says_where() {
    let database = Database::new().await;
    let client = database.admin().await;
    for (change, sqlstate, words) in [
        ("delete from eventlog_6_todo_app where \"seqNum\" = 150", "LS003", "invalid event 49"),
        ("delete from eventlog_6_todo_app where \"seqNum\" = 101", "LS003", "follow event 100 names 101"),
        ("delete from eventlog_6_todo_app where \"seqNum\" = 1", "LS003", "follow event 0 names 1"),
        ("update eventlog_6_todo_app set \"parentSeqNum\" = null where \"seqNum\" = 120", "LS003", "invalid event 19"),
        ("update eventlog_6_todo_app set \"parentSeqNum\" = 250 where \"seqNum\" = 120", "LS003", "invalid event 19"),
        ("alter table eventlog_6_todo_app drop \"clientId\"", "42703", "has no column \"clientId\""),
        ("alter table eventlog_6_todo_app alter args type text using 'no json'", "22P02", "json"),
    ] {
        electric_table(&client, 200).await;
        run(&client, change).await;
        let rejection = rejection(import(&client, TODO_APP).await);
        assert_eq!(rejection.sqlstate, sqlstate, "{change}: {rejection:?}");
        assert!(rejection.message.contains(words), "{change}: {}", rejection.message);
        assert_eq!(one::<i64>(&client, "select count(*) from livestore.events").await, 0, "{change}");
        run(&client, "drop table eventlog_6_todo_app").await;
    }
}

#[tokio::test]
async fn a_store_with_other_events_is_left_alone() {
    let database = Database::new().await;
    let client = database.admin().await;
    electric_table(&client, 10).await;
    for (events, wrong) in
        [(chain(0, 3), 1), (serde_json::json!([livestore_tests::events::event(0, "other", Value::Null)]), 1)]
    {
        push(&client, "todo-app", events).await.unwrap();
        let rejection = rejection(import(&client, TODO_APP).await);
        assert_eq!(rejection.sqlstate, "LS001");
        assert!(rejection.message.contains(&format!("from event {wrong} on")), "{}", rejection.message);
        run(&client, "select livestore.drop_store('todo-app')").await;
    }
    // The same beginning, then an event that the table does not have.
    import(&client, TODO_APP).await.unwrap();
    push(&client, "todo-app", serde_json::json!([{"name": "e", "args": 1, "seqNum": 15, "parentSeqNum": 10, "clientId": "c", "sessionId": "s"}]))
        .await
        .unwrap();
    add(&client, 11, 14).await;
    assert_eq!(rejection(import(&client, TODO_APP).await).sqlstate, "LS001", "events 11 to 14 are not there");
    run(&client, "delete from eventlog_6_todo_app where \"seqNum\" > 10; insert into eventlog_6_todo_app values (20, 10, 'e', '1', 'c', 's')").await;
    assert_eq!(rejection(import(&client, TODO_APP).await).sqlstate, "LS001", "event 20 does not follow 15");
    assert_eq!(one::<i64>(&client, "select livestore.head('todo-app')").await, 15);
}

#[tokio::test]
async fn hooks_run_for_an_import_into_an_own_table() {
    let database = Database::new().await;
    let client = database.admin().await;
    electric_table(&client, 10).await;
    run(
        &client,
        "create table seen (store text, number bigint);
         grant insert on seen to livestore_hooks;
         create function see() returns trigger language plpgsql as
             $$ begin insert into public.seen values (livestore.current_store_id(), new.\"seqNum\"); return new; end $$;
         create trigger see after insert on livestore.eventlog_1 for each row execute function see();
         select livestore.create_store('todo-app', own_table => true)",
    )
    .await;
    run(
        &client,
        "create constraint trigger later after insert on livestore.eventlog_1 initially deferred for each row execute function see()",
    )
    .await;
    run(&client, "select livestore.apply_hooks('livestore.eventlog_1_todo_app')").await;
    import(&client, TODO_APP).await.unwrap();
    let twice: Vec<i64> = up_to(10).into_iter().flat_map(|n| [n, n]).collect();
    assert_eq!(all::<i64>(&client, "select number from seen where store = 'todo-app' order by 1").await, twice);
    assert_eq!(one::<i64>(&client, "select count(*) from only livestore.eventlog_1_todo_app").await, 10);
    let setting: Option<String> = one(&client, "select livestore.current_store_id()").await;
    assert_eq!(setting, None, "the context ends with the import");

    add(&client, 11, 12).await;
    run(
        &client,
        "create function spoil() returns trigger language plpgsql as $$ begin new.name := 'spoilt'; return new; end $$;
         create trigger spoil before insert on livestore.eventlog_1_todo_app for each row execute function spoil()",
    )
    .await;
    assert_eq!(rejection(import(&client, TODO_APP).await).sqlstate, "27000");
    assert_eq!(one::<i64>(&client, "select livestore.head('todo-app')").await, 10);
}

#[tokio::test]
async fn a_time_that_clients_cannot_be_told_is_not_taken_over() {
    let database = Database::new().await;
    let client = database.admin().await;
    electric_table(&client, 3).await;
    run(&client, "alter table eventlog_6_todo_app add \"createdAt\" timestamptz").await;
    for wrong in
        ["infinity", "-infinity", "290000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "4713-01-01 00:00:00+00 BC"]
    {
        run(&client, &format!("update eventlog_6_todo_app set \"createdAt\" = '{wrong}' where \"seqNum\" = 2")).await;
        let refused = rejection(import(&client, TODO_APP).await);
        assert!(refused.sqlstate == "LS003" && refused.message.contains("event 2"), "{wrong}: {refused:?}");
    }
    run(&client, "update eventlog_6_todo_app set \"createdAt\" = '9999-12-31T23:59:59.999Z' where \"seqNum\" = 2")
        .await;
    assert_eq!(import(&client, TODO_APP).await.unwrap(), (3, 0, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_follow_hear_of_an_import_and_of_a_backend_id_that_is_taken_over() {
    let database = Database::new().await;
    let client = database.admin().await;
    electric_table(&client, 10).await;
    let sidecar = Sidecar::on(&database).await;
    let node = Node::sync_backend();
    let mut live = node.open("cf-ws", &sidecar.url(), "todo-app").await.live(None).await;
    assert!(live.page().await.is_empty());
    import(&client, TODO_APP).await.unwrap();
    assert_eq!(numbers(&live.events(10).await), up_to(10));

    run(&client, "create table nothing (like eventlog_6_todo_app)").await;
    let follower = node.open("cf-ws", &sidecar.url(), "taken").await;
    let mut live = follower.live(None).await;
    assert!(live.page().await.is_empty());
    import(&client, "'nothing', 'taken', 'V1StGXR8_Z5jdHi6B-myT'").await.unwrap();
    let end = live.next().await;
    assert_eq!(end["error"]["_tag"], "BackendIdMismatchError", "{end}");
}

/// A view of somebody else's, whose functions note the role that they run as, and try to do damage.
async fn view_of_mallory(database: &Database) -> (Client, String) {
    let admin = database.admin().await;
    let mallory = format!("mallory_{}", database.name());
    run(
        &admin,
        &format!(
            "create role {mallory} login; create schema evil authorization {mallory};
             create table public.ran (who text, path text); grant insert on public.ran to public"
        ),
    )
    .await;
    run(
        &database.connect(&mallory).await,
        "create function evil.note(n int) returns int language plpgsql as $$
         begin
             insert into public.ran values (current_user, current_setting('search_path'));
             begin
                 execute 'set role postgres';
                 insert into public.ran values ('a role was set');
             exception when insufficient_privilege or invalid_parameter_value then null;
             end;
             begin
                 execute 'create temporary table if not exists livestore_import (n int)';
             exception when insufficient_privilege then null;
             end;
             perform set_config('search_path', 'evil, pg_catalog', false);
             return n;
         end $$;
         create function evil.compared(bigint, bigint) returns boolean language plpgsql as
             $$ begin insert into public.ran values ('the path was used by ' || current_user); return false; end $$;
         create operator evil.> (leftarg = bigint, rightarg = bigint, function = evil.compared);
         create view evil.log as
             select evil.note(n) as \"seqNum\", n - 1 as \"parentSeqNum\", 'e'::text as name, '1'::text as args, 'c'::text as \"clientId\", 's'::text as \"sessionId\"
             from generate_series(1, 250) n;
         grant usage on schema evil to public; grant select on evil.log to public",
    )
    .await;
    (admin, mallory)
}

#[tokio::test]
async fn a_source_is_read_with_the_rights_of_the_caller_and_never_as_a_superuser() {
    let database = Database::new().await;
    let (admin, mallory) = view_of_mallory(&database).await;
    for caller in ["admin", "postgres"] {
        run(&admin, "truncate public.ran").await;
        let client = database.connect(caller).await;
        if caller == "postgres" && Flavour::of_tests() == Flavour::Portable {
            // Nothing but the library can read as somebody else.
            let refused = rejection(import(&client, "'evil.log', 'postgres'").await);
            assert_eq!(refused.sqlstate, "42501");
            assert!(refused.hint.contains(&mallory), "{refused:?}");
            assert_eq!(all::<String>(&admin, "select who from public.ran").await, [""; 0]);
            continue;
        }
        assert_eq!(import(&client, &format!("'evil.log', '{caller}'")).await.unwrap(), (250, 0, 250));
        let expected = if caller == "postgres" { mallory.as_str() } else { "admin" };
        assert_eq!(all::<String>(&admin, "select distinct who from public.ran").await, [expected]);
        assert!(!one::<String>(&client, "show search_path").await.contains("evil"));
        assert_eq!(import(&client, &format!("'evil.log', '{caller}'")).await.unwrap(), (0, 250, 250), "again");
        assert_eq!(log(&client, caller).await, up_to(250));
    }

    run(&admin, "create table public.secret (like evil.log)").await;
    let client = database.connect("admin").await;
    assert_eq!(rejection(import(&client, "'public.secret', 's'").await).sqlstate, "42501");
    let sidecar = database.connect("sidecar").await;
    assert_eq!(rejection(import(&sidecar, "'evil.log', 's'").await).sqlstate, "42501");
}

#[tokio::test]
async fn the_lines_of_an_export_are_read_with_the_same_rights() {
    let database = Database::new().await;
    let (admin, mallory) = view_of_mallory(&database).await;
    push(&admin, "exported", chain(0, 250)).await.unwrap();
    run(
        &admin,
        "create table public.exported as select * from livestore.export_store('exported') line;
         grant select on public.exported to public",
    )
    .await;
    run(
        &database.connect(&mallory).await,
        "create view evil.lines as select line || left(evil.note(0)::text, 0) as line from public.exported;
         grant select on evil.lines to public",
    )
    .await;
    for caller in ["admin", "postgres"] {
        run(&admin, "truncate public.ran").await;
        let client = database.connect(caller).await;
        let import = format!("select imported, head from livestore.import_store('evil.lines', '{caller}')");
        if caller == "postgres" && Flavour::of_tests() == Flavour::Portable {
            let refused = rejection(client.query(&import, &[]).await);
            assert_eq!(refused.sqlstate, "42501");
            assert!(refused.hint.contains(&mallory), "{refused:?}");
            assert_eq!(all::<String>(&admin, "select who from public.ran").await, [""; 0]);
            continue;
        }
        let row = client.query_one(&import, &[]).await.unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (250, 250));
        run(&client, &format!("begin; {import}")).await;
        assert_eq!(all::<String>(&client, "select name from pg_cursors where name <> ''").await, [""; 0]);
        run(&client, "commit").await;
        let expected = if caller == "postgres" { mallory.as_str() } else { "admin" };
        assert_eq!(all::<String>(&admin, "select distinct who from public.ran").await, [expected]);
        assert!(!one::<String>(&client, "show search_path").await.contains("evil"));
    }
    for (change, words) in [
        ("delete from public.exported where line like '{\"storeId\":%'", "has 0 last lines"),
        ("insert into public.exported select '{\"storeId\":\"x\"}' from generate_series(1, 2)", "has 2 last lines"),
    ] {
        run(&admin, change).await;
        let import = "select livestore.import_store('public.exported', 'again')";
        let refused = rejection(admin.query(import, &[]).await);
        assert!(refused.sqlstate == "LS003" && refused.message.contains(words), "{refused:?}");
    }
}

#[tokio::test]
async fn what_writes_for_an_import_takes_nothing_that_is_not_the_end_of_a_log() {
    let database = Database::new().await;
    let client = database.connect("admin").await;
    push(&client, "s", chain(0, 3)).await.unwrap();
    for (arguments, sqlstate) in [
        ("3, '{5,4}', '{3,5}', '{e,e}', '{1,1}', '{c,c}', '{s,s}', '{now,now}'", "LS003"),
        ("3, '{4,5}', '{3}', '{e,e}', '{1,1}', '{c,c}', '{s,s}', '{now,now}'", "LS003"),
        ("3, '{4}', '{3}', '{e}', '{no}', '{c}', '{s}', '{now}'", "22P02"),
        ("3, '{4}', '{3}', '{null}', '{1}', '{c}', '{s}', '{now}'", "LS003"),
        ("3, '{null}', '{3}', '{e}', '{1}', '{c}', '{s}', '{now}'", "LS003"),
        ("2, '{4}', '{2}', '{e}', '{1}', '{c}', '{s}', '{now}'", "LS001"),
        ("1, '{2}', '{1}', '{other}', '{1}', '{c}', '{s}', '{now}'", "LS001"),
        ("5, '{9}', '{5}', '{e}', '{1}', '{c}', '{s}', '{now}'", "LS001"),
        ("0, '{4}', '{3}', '{e}', '{1}', '{c}', '{s}', '{now}'", "LS003"),
        ("null, '{4}', '{3}', '{e}', '{1}', '{c}', '{s}', '{now}'", "LS003"),
    ] {
        let result = client.query(&format!("select livestore._import_events('s', {arguments})"), &[]).await;
        assert_eq!(rejection(result).sqlstate, sqlstate, "{arguments}");
        assert_eq!(log(&client, "s").await, up_to(3));
    }
    assert_eq!(rejection(client.query("select livestore._end_import('none')", &[]).await).sqlstate, "LS004");
}
