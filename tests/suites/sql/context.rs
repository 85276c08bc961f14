//! The context of hooks: the store, the sync payload and the headers of the request that they run for.

use crate::push_batch::reject_bad_events;
use crate::support::{Push, all, all_with, one, push, push_batch, rejection, run};
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event};
use serde_json::json;
use tokio_postgres::Client;

/// A hook that writes down what it knows, for each event.
const WITNESS: &str = "
    create table public.seen (n bigint generated always as identity, seq_num bigint, store text, payload text, headers text);
    grant insert on public.seen to livestore_hooks;
    create function public.witness() returns trigger language plpgsql as $$
    begin
        insert into public.seen (seq_num, store, payload, headers) values (
            new.\"seqNum\", livestore.current_store_id(), livestore.current_payload()::text, livestore.current_headers()::text
        );
        return null;
    end $$;
    create trigger witness after insert on livestore.eventlog_1 for each row execute function public.witness()";

async fn seen(admin: &Client) -> Vec<String> {
    all(
        admin,
        "select format('%s %s %s %s', store, seq_num, coalesce(payload, '-'), coalesce(headers, '-')) from public.seen order by n",
    )
    .await
}

async fn setup() -> (Database, Client) {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(&admin, WITNESS).await;
    (database, admin)
}

trait By {
    fn by(self, user: &str) -> Self;
}

impl By for Push {
    fn by(self, user: &str) -> Self {
        self.with_payload(json!({"user": user})).with_headers(json!({"cookie": format!("session={user}")}))
    }
}

#[tokio::test]
async fn each_push_of_a_batch_has_the_context_of_its_own_request() {
    let (database, admin) = setup().await;
    run(&admin, "select livestore.create_store('own', own_table => true)").await;
    let client = database.connect("sidecar").await;
    let pushes = [
        Push::to("a", chain(0, 2)).by("ann"),
        Push::to("own", chain(0, 1)).by("bob"),
        Push::to("b", chain(0, 1)),
        Push::to("a", chain(2, 1)).by("cem"),
        Push::to("a", chain(0, 1)).by("late"),
        Push::to("b", chain(1, 1)).with_payload("null"),
        Push::to("b", chain(2, 1)).with_payload(json!([1, "\u{0}"])),
    ];
    push_batch(&client, &pushes).await;
    let of = |store: &str, n: i64, name: &str| {
        format!("{store} {n} {{\"user\":\"{name}\"}} {{\"cookie\":\"session={name}\"}}")
    };
    let expected = [
        of("a", 1, "ann"),
        of("a", 2, "ann"),
        of("own", 1, "bob"),
        "b 1 - -".into(),
        of("a", 3, "cem"),
        "b 2 null -".into(),
        "b 3 [1,\"\\u0000\"] -".into(),
    ];
    assert_eq!(seen(&admin).await, expected);
}

#[tokio::test]
async fn a_push_from_sql_knows_its_store_and_no_payload() {
    let (database, admin) = setup().await;
    let client = database.connect("sidecar").await;
    push_batch(&client, &[Push::to("a", chain(0, 1)).by("ann")]).await;
    push(&client, "s", chain(0, 1)).await.unwrap();
    client.execute("select livestore.commit('s', 'e')", &[]).await.unwrap();
    run(&client, "set livestore.payload = '{}'; set livestore.headers = '{}'; select livestore.commit('s', 'e')").await;
    let expected = ["s 1 - -", "s 2 - -", "s 3 - -"];
    assert_eq!(seen(&admin).await[1..], expected, "nothing is left of the push before, and nothing can be pretended");
}

#[tokio::test]
async fn outside_of_a_push_there_is_no_context() {
    let (database, admin) = setup().await;
    let client = database.connect("sidecar").await;
    let none = "select num_nulls(livestore.current_store_id(), livestore.current_payload()::text, livestore.current_headers()::text)";
    assert_eq!(one::<i32>(&client, none).await, 3);
    run(&client, "begin").await;
    push_batch(&client, &[Push::to("a", chain(0, 1)).by("ann")]).await;
    assert_eq!(one::<i32>(&client, none).await, 3, "not even later in the same transaction");
    run(&client, "commit").await;
    assert_eq!(seen(&admin).await.len(), 1);
}

#[tokio::test]
async fn a_hook_that_appends_elsewhere_goes_on_in_its_own_context() {
    let (database, admin) = setup().await;
    run(
        &admin,
        "create function public.relay() returns trigger language plpgsql as $$
         begin
             if livestore.current_store_id() = 'inbox' then
                 perform livestore.commit('log', 'noted', to_json(new.name));
             end if;
             return null;
         end $$;
         create trigger relay after insert on livestore.eventlog_1 for each row execute function public.relay()",
    )
    .await;
    let client = database.connect("sidecar").await;
    push_batch(&client, &[Push::to("inbox", chain(0, 2)).by("ann"), Push::to("z", chain(0, 1)).by("bob")]).await;
    let stores: Vec<String> =
        all(&admin, "select store || ' ' || (payload::json->>'user') from public.seen order by n").await;
    let mut sorted = stores.clone();
    sorted.sort();
    assert_eq!(sorted, ["inbox ann", "inbox ann", "log ann", "log ann", "z bob"], "{stores:?}");
    assert_eq!(stores.last().unwrap(), "z bob");
}

#[tokio::test]
async fn a_hook_rejects_one_push_of_many_by_its_payload() {
    let (database, admin) = setup().await;
    run(
        &admin,
        "create function public.members_only() returns trigger language plpgsql as $$
         begin
             if livestore.current_payload()->>'user' is distinct from 'ann' then
                 raise exception '% may not write to %', livestore.current_payload()->>'user', livestore.current_store_id();
             end if;
             return new;
         end $$;
         create trigger members_only before insert on livestore.eventlog_1 for each row execute function public.members_only()",
    )
    .await;
    let client = database.connect("sidecar").await;
    let pushes = ["ann", "eve", "ann", "mallory"].map(|name| Push::to(name, chain(0, 1)).by(name));
    let pushes: Vec<_> = pushes
        .into_iter()
        .enumerate()
        .map(|(n, push)| if n == 2 { Push::to("ann", chain(1, 1)).by("ann") } else { push })
        .collect();
    let outcomes = push_batch(&client, &pushes).await;
    assert_eq!(
        outcomes.iter().map(|outcome| outcome.brief()).collect::<Vec<_>>(),
        [Ok(1), Err("P0001"), Ok(2), Err("P0001")]
    );
    assert_eq!(outcomes[1].message.as_deref(), Some("eve may not write to eve"));
    assert_eq!(outcomes[3].message.as_deref(), Some("mallory may not write to mallory"));
}

#[tokio::test]
async fn a_statement_hook_runs_once_for_each_push() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(
        &admin,
        "create table public.pushes (n bigint generated always as identity, what text);
         grant insert on public.pushes to livestore_hooks;
         create function public.count_events() returns trigger language plpgsql as $$
         begin
             insert into public.pushes (what)
                 select livestore.current_store_id() || ' ' || count(*) || ' ' || (livestore.current_payload()->>'user') from appended;
             return null;
         end $$;
         create trigger count_events after insert on livestore.eventlog_1 referencing new table as appended
             for each statement execute function public.count_events()",
    )
    .await;
    let client = database.connect("sidecar").await;
    push_batch(
        &client,
        &[
            Push::to("a", chain(0, 3)).by("ann"),
            Push::to("b", chain(0, 1)).by("bob"),
            Push::to("a", chain(3, 2)).by("bob"),
        ],
    )
    .await;
    let pushes: Vec<String> = all(&admin, "select what from public.pushes order by n").await;
    assert_eq!(pushes, ["a 3 ann", "b 1 bob", "a 2 bob"]);
}

#[tokio::test]
async fn contexts_that_are_wrong_fail_their_own_push_or_the_call() {
    let (database, _admin) = setup().await;
    let client = database.connect("sidecar").await;
    let outcomes = push_batch(
        &client,
        &[
            Push::to("a", chain(0, 1)).with_payload("{not json"),
            Push::to("b", json!([event(0, "e", json!({}))])).by("bob"),
        ],
    )
    .await;
    assert_eq!(outcomes.iter().map(|outcome| outcome.brief()).collect::<Vec<_>>(), [Err("22P02"), Ok(1)]);
    let short = "select * from livestore.push_batch('{a,b}', '{[],[]}', '{null,null}', null, '{null}')";
    assert_eq!(rejection(client.query(short, &[]).await).sqlstate, "2202E");
}

/// A role that may do nothing here but use the application's table, whose trigger commits an event.
async fn stranger(database: &Database, admin: &Client) -> Client {
    run(
        admin,
        "create table public.orders (id int);
         create function public.commit_order() returns trigger language plpgsql security definer
             set search_path = pg_catalog, pg_temp as $$
         begin
             perform livestore.commit('orders', 'ordered');
             return null;
         end $$;
         create trigger commit_order after insert on public.orders for each row execute function public.commit_order();
         grant insert on public.orders to stranger",
    )
    .await;
    database.connect("stranger").await
}

#[tokio::test]
async fn a_context_cannot_be_forged_by_settings() {
    let (database, admin) = setup().await;
    let client = stranger(&database, &admin).await;
    let forged = "
        set livestore.store_id = 'boss';
        set livestore.payload = '{\"sub\":\"the-boss\"}';
        set livestore.headers = '{\"x\":\"y\"}';
        set livestore.claims = '{\"sub\":\"the-boss\"}';
        set livestore.signature = '';
        insert into public.orders values (1);
        set livestore.signature = '5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8';
        insert into public.orders values (2)";
    run(&client, forged).await;
    assert_eq!(seen(&admin).await, ["orders 1 - -", "orders 2 - -"]);
    // Nor by a role that may push without a push of its own.
    for role in ["sidecar", "reader"] {
        let client = database.connect(role).await;
        run(&client, "set livestore.payload = '{}'; set livestore.claims = '{}'").await;
        let none = "select num_nulls(livestore.current_context()::text, livestore.current_claims()::text, livestore.current_store_id())";
        assert_eq!(one::<i32>(&client, none).await, 3, "{role}");
    }
}

/// A trigger with rights of its own, on a table that a hook writes to, finds no context to read, to keep for the next push, or to clear.
#[tokio::test]
async fn other_code_in_a_push_can_neither_read_nor_replay_nor_clear_a_context() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(
        &admin,
        "select livestore.define_event('e', '{\"type\": \"object\", \"required\": [\"id\"]}', 'enforce');
         create schema app; grant usage, create on schema app to public;
         create table public.kept (n bigint generated always as identity, context text); grant insert, select on public.kept to stranger",
    )
    .await;
    run(
        &database.connect("stranger").await,
        "create table app.notes (seq_num bigint); grant insert on app.notes to public;
         create function app.overhear() returns trigger language plpgsql security definer as $$
         declare
             setting text;
         begin
             for setting in select name from pg_settings where name like 'livestore.%' union select 'livestore.context' loop
                 insert into public.kept (context) values (current_setting(setting, true));
                 perform set_config(setting, coalesce(
                     (select k.context from public.kept k where k.context <> '' order by k.n limit 1), ''
                 ), true);
                 if new.seq_num > 2 then
                     perform set_config(setting, '', true);
                 end if;
             end loop;
             return null;
         end $$;
         create trigger overhear after insert on app.notes for each row execute function app.overhear()",
    )
    .await;
    run(
        &admin,
        "create function app.note() returns trigger language plpgsql as
             $$ begin insert into app.notes values (new.\"seqNum\"); return new; end $$;
         create trigger a_note before insert on livestore.eventlog_1 for each row execute function app.note()",
    )
    .await;
    run(&admin, WITNESS).await;
    let client = database.connect("sidecar").await;
    let push = |store: &str, count: i64, user: &str| {
        let batch: Vec<_> = (0..count).map(|n| event(n, "e", json!({"id": n}))).collect();
        Push::to(store, json!(batch)).by(user)
    };
    push_batch(&client, &[push("a", 1, "ann"), push("b", 2, "bob")]).await;
    push_batch(&client, &[push("c", 3, "cid")]).await;
    let (a, b, c) = (r#"{"user":"ann"}"#, r#"{"user":"bob"}"#, r#"{"user":"cid"}"#);
    let expected = [("a", 1, a), ("b", 1, b), ("b", 2, b), ("c", 1, c), ("c", 2, c), ("c", 3, c)];
    let known: Vec<String> =
        all(&admin, "select concat_ws(' ', store, seq_num, payload) from public.seen order by n").await;
    assert_eq!(known, expected.map(|(store, n, payload)| format!("{store} {n} {payload}")));
    assert_eq!(all::<String>(&admin, "select context from public.kept where context like '%user%'").await, [""; 0]);
    // A type is still enforced.
    let misfit = json!([event(0, "e", json!({"id": 0})), event(1, "e", json!({"id": 1})), event(2, "e", json!({}))]);
    assert_eq!(push_batch(&client, &[Push::to("d", misfit).by("dan")]).await[0].brief(), Err("23514"));
    assert_eq!(one::<i64>(&admin, "select livestore.head('d')").await, 0);
}

#[tokio::test]
async fn a_push_that_fails_leaves_no_context() {
    let (database, admin) = setup().await;
    reject_bad_events(&admin).await;
    let client = database.connect("sidecar").await;
    let bad = json!([event(0, "bad", json!({}))]);
    run(&client, "begin").await;
    let outcomes = push_batch(&client, &[Push::to("a", &bad).by("ann"), Push::to("b", chain(0, 1)).by("bob")]).await;
    assert_eq!(outcomes.iter().map(|outcome| outcome.brief()).collect::<Vec<_>>(), [Err("P0042"), Ok(1)]);
    let none = "select num_nulls(livestore.current_context()::text, livestore.current_store_id())";
    assert_eq!(one::<i32>(&client, none).await, 2);
    run(&client, "select livestore.commit('s', 'e')").await;
    run(&client, "commit").await;
    assert_eq!(seen(&admin).await, ["b 1 {\"user\":\"bob\"} {\"cookie\":\"session=bob\"}", "s 1 - -"]);
}

#[tokio::test]
async fn the_whole_context_is_there_as_it_was_passed() {
    let (database, admin) = setup().await;
    run(
        &admin,
        "create table public.contexts (context text, claims text);
         grant insert on public.contexts to livestore_hooks;
         create function public.overhear() returns trigger language plpgsql as $$
         begin
             insert into public.contexts values (livestore.current_context()::text, livestore.current_claims()::text);
             return null;
         end $$;
         create trigger overhear after insert on livestore.eventlog_1 for each row execute function public.overhear()",
    )
    .await;
    let client = database.connect("sidecar").await;
    let context = r#"{"payload": [1.0, "\u0000"],"claims":{"sub":"ann","n":1e2},"dialect":"cf-ws"}"#;
    let sql = "select sqlstate from livestore.push_batch(array['s'], array[$1], array[null], null, array[$2])";
    let batch = chain(0, 1).to_string();
    assert_eq!(all_with::<Option<String>>(&client, sql, &[&batch, &context]).await, [None]);
    let overheard = admin.query_one("select context, claims from public.contexts", &[]).await.unwrap();
    assert_eq!(overheard.get::<_, String>(0), context);
    assert_eq!(overheard.get::<_, String>(1), r#"{"sub":"ann","n":1e2}"#);
}

#[tokio::test]
async fn a_hook_is_in_its_own_context_again_after_it_has_appended_elsewhere() {
    let (database, admin) = setup().await;
    run(
        &admin,
        "create function public.relay() returns trigger language plpgsql security definer as $$
         begin
             if livestore.current_store_id() = 'inbox' then
                 perform livestore.commit('log', 'noted');
                 perform livestore.push_batch(
                     '{other}', array['[{\"name\":\"e\",\"seqNum\":' || new.\"seqNum\" || ',\"parentSeqNum\":' || new.\"parentSeqNum\" || ',\"clientId\":\"c\",\"sessionId\":\"s\"}]'], '{null}', null,
                     array['{\"payload\":{\"user\":\"other\"}}']
                 );
                 begin
                     perform livestore.push('log', '[{}]');
                 exception when others then null;
                 end;
                 insert into public.seen (seq_num, store, payload, headers) values (
                     -new.\"seqNum\", livestore.current_store_id(), livestore.current_payload()::text, livestore.current_headers()::text
                 );
             end if;
             return null;
         end $$;
         create trigger relay after insert on livestore.eventlog_1 for each row execute function public.relay()",
    )
    .await;
    let client = database.connect("sidecar").await;
    push_batch(&client, &[Push::to("inbox", chain(0, 2)).by("ann"), Push::to("z", chain(0, 1)).by("bob")]).await;
    let who: Vec<String> = all(
        &admin,
        "select format('%s %s %s', store, seq_num, payload::json->>'user') from public.seen order by store, abs(seq_num), seq_num",
    )
    .await;
    assert_eq!(
        who,
        [
            "inbox -1 ann",
            "inbox 1 ann",
            "inbox -2 ann",
            "inbox 2 ann",
            "log 1 ann",
            "log 2 ann",
            "other 1 other",
            "other 2 other",
            "z 1 bob"
        ]
    );
}
