//! `livestore.create_event_view`: the events of a name, with a column for each field.

use crate::support::{all, one, one_with, push, rejection, run};
use livestore_tests::cluster::Database;
use livestore_tests::events::event;
use serde_json::json;

const SCHEMA: &str = r##"{
    "$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/$defs/Todo",
    "$defs": {
        "Todo": {"type": "object", "properties": {
            "title": {"type": "string"}, "size": {"type": "integer"}, "price": {"type": "number"}, "done": {"type": "boolean"},
            "due": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]}, "kind": {"enum": ["a", "b"]},
            "owner": {"$ref": "#/$defs/Owner"}, "either": {"anyOf": [{"type": "string"}, {"type": "number"}]},
            "seq_num": {"type": ["integer", "null"]}, "it's \"it\"": {"type": "string"}
        }},
        "Owner": {"type": "object", "properties": {"name": {"type": "string"}}}
    }
}"##;

#[tokio::test]
async fn its_columns_have_the_types_of_the_fields_and_no_event_makes_it_fail() {
    let database = Database::new().await;
    let (admin, reader) = (database.admin().await, database.connect("reader").await);
    one_with::<i32>(&admin, "select livestore.define_event('todo', $1::text::json)", &[&SCHEMA]).await;
    run(&admin, "create schema app; grant usage, create on schema app to reader").await;
    assert_eq!(
        one::<String>(&reader, "select livestore.create_event_view('app.\"My Todos\"', 'todo')::text").await,
        "app.\"My Todos\""
    );
    let columns =
        "select string_agg(quote_ident(a.attname) || ' ' || format_type(a.atttypid, null), ', ' order by a.attnum)
        from pg_attribute a where a.attrelid = 'app.\"My Todos\"'::regclass and a.attnum > 0";
    assert_eq!(
        one::<String>(&reader, columns).await,
        "store_id text, seq_num bigint, client_id text, session_id text, created_at timestamp with time zone, args json, \
         title text, size bigint, price double precision, done boolean, due timestamp with time zone, kind text, owner json, \
         either json, \"args.seq_num\" bigint, \"it's \"\"it\"\"\" text"
    );
    for (n, args) in [
        r#"{"title": "x", "size": 3, "price": 1.5, "done": true, "due": "2024-02-29T01:02:03.004Z", "kind": "a", "owner": {"name": "o"},
            "either": 1, "seq_num": 7, "it's \"it\"": "y"}"#,
        r#"{"title": "\u0000", "size": "1.5", "price": "1e999999", "done": 1, "due": "2023-02-29T01:02:03Z", "owner": "\ud800", "seq_num": 1e9}"#,
        r#"{"size": 1e30, "price": 1e-999, "due": "tomorrow"}"#,
        "5",
        "null",
    ]
    .into_iter()
    .enumerate()
    {
        let batch = format!(r#"[{{"name":"todo","args":{args},"seqNum":{},"parentSeqNum":{n},"clientId":"c","sessionId":"s"}}]"#, n + 1);
        push(&admin, "s", batch).await.unwrap();
    }
    run(&admin, "select livestore.create_store('s', true); select livestore.commit('other', 'unseen')").await;
    let rows: Vec<serde_json::Value> = all(
        &reader,
        r#"select to_jsonb(t) from (
               select seq_num, title, size, price, done, due, kind, owner, either, "args.seq_num", "it's ""it""" from app."My Todos"
           ) t order by t.seq_num"#,
    )
    .await;
    let empty = |seq_num: i64| {
        json!({"seq_num": seq_num, "title": null, "size": null, "price": null, "done": null, "due": null, "kind": null, "owner": null,
               "either": null, "args.seq_num": null, "it's \"it\"": null})
    };
    let mut second = empty(2);
    second["title"] = json!("\u{fffd}");
    second["owner"] = json!("\u{fffd}");
    let first = json!({"seq_num": 1, "title": "x", "size": 3, "price": 1.5, "done": true, "due": "2024-02-29T01:02:03.004+00:00", "kind": "a",
        "owner": {"name": "o"}, "either": 1, "args.seq_num": 7, "it's \"it\"": "y"});
    assert_eq!(rows, [first, second, empty(3), empty(4), empty(5)]);

    // To whoever may call what its columns are made of.
    run(&admin, "grant usage on schema app, livestore to stranger; grant select on app.\"My Todos\" to stranger; grant livestore_reader to reader").await;
    let stranger = database.connect("stranger").await;
    assert_eq!(rejection(stranger.query("select title from app.\"My Todos\"", &[]).await).sqlstate, "42501");
    run(
        &admin,
        "grant execute on function livestore.field(json, text[]), livestore.json_field(json, text[]), livestore._readable(json),
             livestore.try_bigint(text), livestore.try_double(text), livestore.try_boolean(text), livestore.try_timestamptz(text) to stranger",
    )
    .await;
    run(&stranger, "select * from app.\"My Todos\"").await;

    // A new version adds columns; one that takes some away needs another view.
    let shorter = SCHEMA.replace("\"size\": {\"type\": \"integer\"}, ", "");
    one_with::<i32>(&admin, "select livestore.define_event('todo', $1::text::json)", &[&shorter]).await;
    let refused = rejection(reader.query("select livestore.create_event_view('app.\"My Todos\"', 'todo')", &[]).await);
    assert_eq!((&*refused.sqlstate, &*refused.hint), ("42P16", "drop view app.\"My Todos\", and call this again"));
    let longer = SCHEMA.replace(
        "\"it's \\\"it\\\"\": {\"type\": \"string\"}",
        "\"it's \\\"it\\\"\": {\"type\": \"string\"}, \"last\": {\"type\": \"boolean\"}",
    );
    one_with::<i32>(&admin, "select livestore.define_event('todo', $1::text::json)", &[&longer]).await;
    run(&reader, "select livestore.create_event_view('app.\"My Todos\"', 'todo'); select last from app.\"My Todos\"")
        .await;
}

#[tokio::test]
async fn a_view_of_nothing_or_in_our_schema_is_refused() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(&admin, "select livestore.define_event('e', '{}')").await;
    for (call, sqlstate) in [
        ("'public.v', 'unknown'", "42704"),
        ("'v', 'e'", "42602"),
        ("'livestore.v', 'e'", "42602"),
        ("'a.b.c', 'e'", "42602"),
        ("'public.v; drop table x', 'e'", "22023"),
        ("'nowhere.v', 'e'", "3F000"),
    ] {
        let refused = rejection(admin.query(&format!("select livestore.create_event_view({call})"), &[]).await);
        assert_eq!(refused.sqlstate, sqlstate, "{call}: {}", refused.message);
    }
    run(&admin, "select livestore.create_event_view('public.v', 'e'); select * from public.v").await;
    // The function gives no right to create in a schema.
    let reader = database.connect("reader").await;
    assert_eq!(
        rejection(reader.query("select livestore.create_event_view('public.w', 'e')", &[]).await).sqlstate,
        "42501"
    );
}

#[tokio::test]
async fn an_index_answers_questions_to_a_view() {
    let database = Database::new().await;
    let admin = database.admin().await;
    one_with::<i32>(&admin, "select livestore.define_event('todo', $1::text::json, 'off')", &[&SCHEMA]).await;
    run(
        &admin,
        "select livestore.create_event_view('public.todos', 'todo', security_barrier => false);
         select livestore.create_event_view('public.safe_todos', 'todo');
         create index named on livestore.eventlog_1 (name, \"createdAt\");
         create index todo_title on livestore.eventlog_1 (left(livestore.field(args, 'title'), 500)) where name = 'todo';
         create index todo_size on livestore.eventlog_1 (livestore.try_bigint(livestore.field(args, 'size'))) where name = 'todo'",
    )
    .await;
    let long: String = (0..2000).map(|n| format!("{n:04}")).collect();
    for (n, title) in ["a", "\u{0}", &long, "b"].into_iter().enumerate() {
        push(&admin, "s", json!([event(n as i64, "todo", json!({"title": title, "size": n}))])).await.unwrap();
    }
    run(&admin, "set enable_seqscan = off").await;
    for (condition, index) in [("left(title, 500) = 'b'", "todo_title"), ("size = 3", "todo_size")] {
        let found: Vec<i64> = all(&admin, &format!("select seq_num from public.todos where {condition}")).await;
        assert_eq!(found, [4], "{condition}");
        let plan: Vec<String> = all(&admin, &format!("explain select * from public.todos where {condition}")).await;
        assert!(plan.iter().any(|line| line.contains(index)), "{condition}: {plan:?}");
    }
    // The barrier lets through what can tell nothing.
    for store in ["a", "b", "c", "d"] {
        let batch: serde_json::Value = (0..1000).map(|n| event(n, "todo", json!({"size": n}))).collect();
        push(&admin, store, batch).await.unwrap();
    }
    run(
        &admin,
        "update livestore.eventlog_1 e set \"createdAt\" = e.\"createdAt\" - interval '1 day' * e.\"seqNum\";
         drop index livestore.todo_title, livestore.todo_size; analyze livestore.eventlog_1; reset enable_seqscan",
    )
    .await;
    for (condition, index) in
        [("store_id = 'a' and seq_num > 990", "eventlog_1_pkey"), ("created_at > now() - interval '30 hours'", "named")]
    {
        let sql = format!("select * from public.safe_todos where {condition}");
        let plan: Vec<String> = all(&admin, &format!("explain {sql}")).await;
        assert!(plan.iter().any(|line| line.contains(index)), "{condition}: {plan:?}");
    }
}

#[tokio::test]
async fn a_function_in_a_query_sees_no_other_events() {
    let database = Database::new().await;
    let admin = database.admin().await;
    one_with::<i32>(&admin, "select livestore.define_event('todo', $1::text::json, 'off')", &[&SCHEMA]).await;
    run(
        &admin,
        "select livestore.create_event_view('public.todos', 'todo'), livestore.create_event_view('public.open_todos', 'todo', false);
         grant select on public.todos, public.open_todos to stranger; grant usage on schema livestore to stranger;
         grant execute on function livestore.field(json, text[]), livestore.json_field(json, text[]), livestore._readable(json),
             livestore.try_bigint(text), livestore.try_double(text), livestore.try_boolean(text), livestore.try_timestamptz(text) to stranger",
    )
    .await;
    for (n, name) in ["todo", "secret"].into_iter().enumerate() {
        push(&admin, "s", json!([event(n as i64, name, json!({"title": name}))])).await.unwrap();
    }
    let stranger = database.connect("stranger").await;
    run(
        &stranger,
        "create function pg_temp.leak(args json) returns boolean language plpgsql cost 0.0000001 as
             $$ begin perform set_config('leak.seen', current_setting('leak.seen', true) || args::text, false); return true; end $$",
    )
    .await;
    for (view, leaks) in [("todos", false), ("open_todos", true)] {
        run(&stranger, &format!("set leak.seen = ''; select * from public.{view} where pg_temp.leak(args)")).await;
        let seen: String = one(&stranger, "show leak.seen").await;
        assert_eq!(seen.contains("secret"), leaks, "{view}: {seen}");
    }
    // A call that replaces a view says it again.
    run(&admin, "select livestore.create_event_view('public.open_todos', 'todo')").await;
    run(&stranger, "set leak.seen = ''; select * from public.open_todos where pg_temp.leak(args)").await;
    assert!(!one::<String>(&stranger, "show leak.seen").await.contains("secret"));
}

#[tokio::test]
async fn casts_never_raise() {
    let database = Database::new().await;
    let reader = database.connect("reader").await;
    for (call, expected) in [
        ("try_boolean('true')", "true"),
        ("try_boolean('t')", "-"),
        ("try_bigint('-12')", "-12"),
        ("try_bigint('1.0')", "1"),
        ("try_bigint('123456789012345678901')", "-"),
        ("try_bigint('0x10')", "-"),
        ("try_double('1e3')", "1000"),
        ("try_double('-0.5')", "-0.5"),
        ("try_double('1.7976931348623157e308')", "-"),
        ("try_double('1.797e308')", "1.797e+308"),
        ("try_double('1e309')", "-"),
        ("try_double('5e-324')", "-"),
        ("try_double('1e9999')", "-"),
        ("try_double('NaN')", "-"),
        ("try_double('Infinity')", "-"),
        ("try_double(repeat('9', 400))", "-"),
        ("try_timestamptz('2024-02-29T23:59:59.999Z') at time zone 'UTC'", "2024-02-29 23:59:59.999"),
        ("try_timestamptz('2100-02-29T00:00:00Z')", "-"),
        ("try_timestamptz('2000-02-29T00:00:00Z') at time zone 'UTC'", "2000-02-29 00:00:00"),
        ("try_timestamptz('2024-04-31T00:00:00Z')", "-"),
        ("try_timestamptz('0000-01-01T00:00:00Z')", "-"),
        ("try_timestamptz('2024-13-01T00:00:00Z')", "-"),
        ("try_timestamptz('2024-01-01T24:00:00Z')", "-"),
        ("try_timestamptz('2024-01-01')", "-"),
        ("try_timestamptz('infinity')", "-"),
        ("try_timestamptz(null)", "-"),
    ] {
        let text = format!("select coalesce((livestore.{call})::text, '-')");
        assert_eq!(one::<String>(&reader, &text).await, expected, "{call}");
    }
}

#[tokio::test]
async fn fields_whose_columns_would_have_one_name_get_one_column() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let schema = r#"{"type": "object", "properties": {
        "store_id": {"type": "string"}, "twice": {"type": "string"}, "args.store_id": {"type": "integer"}, "twice": {"type": "boolean"}
    }}"#;
    one_with::<i32>(&admin, "select livestore.define_event('e', $1::text::json)", &[&schema]).await;
    run(&admin, "select livestore.create_event_view('public.e', 'e')").await;
    run(&admin, r#"select livestore.commit('s', 'e', '{"store_id": "x", "twice": true, "args.store_id": 7}')"#).await;
    let row = r#"select concat_ws(' ', store_id, "args.store_id", twice) from public.e"#;
    assert_eq!(one::<String>(&admin, row).await, "s 7 t");
}

#[tokio::test]
async fn a_type_that_refers_to_a_reference_has_its_columns() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let schema = r##"{
        "$ref": "#/$defs/A",
        "$defs": {"A": {"$ref": "#/definitions/a~1b"}},
        "definitions": {"a/b": {"type": "object", "properties": {"title": {"type": "string"}, "size": {"type": "integer"}}}}
    }"##;
    one_with::<i32>(&admin, "select livestore.define_event('e', $1::text::json)", &[&schema]).await;
    run(&admin, "select livestore.commit('s', 'e', '{\"title\": \"x\", \"size\": 3}')").await;
    run(&admin, "select livestore.create_event_view('public.seen', 'e')").await;
    assert_eq!(one::<String>(&admin, "select title || size from public.seen").await, "x3");
    // A type that says nothing has none.
    run(&admin, "select livestore.define_event('any', 'true'), livestore.create_event_view('public.any', 'any')").await;
}
