//! `livestore.define_event`: what the args of events are.

use crate::support::{all, one, one_with, push, rejection, run};
use futures_util::future::join;
use livestore_tests::cluster::Database;
use livestore_tests::events::event;
use livestore_tests::eventually;
use serde_json::json;
use tokio_postgres::Client;

const TODO: &str = r##"{
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object", "required": ["id", "text"], "additionalProperties": false,
    "properties": {
        "id": {"type": "string"}, "text": {"type": "string", "minLength": 1}, "priority": {"type": "integer"},
        "tags": {"type": "array", "items": {"$ref": "#/definitions/tag"}}
    },
    "definitions": {"tag": {"type": "string", "maxLength": 5}}
}"##;

async fn define(client: &Client, name: &str, schema: &str, mode: &str) -> i32 {
    one_with(client, "select livestore.define_event($1, $2::text::json, $3)", &[&name, &schema, &mode]).await
}

async fn misfits(client: &Client) -> Vec<String> {
    let misfits = "select concat_ws(' ', store_id, seq_num, name, version, reason) from livestore.misfits order by 1";
    all(client, misfits).await
}

/// Why args do not fit a schema.
async fn misfit(client: &Client, schema: &str, args: &str) -> Option<String> {
    define(client, "probe", schema, "check").await;
    let commit = "select livestore.commit('probes', 'probe', $1::text::json)";
    let refused = match client.query_one(commit, &[&args]).await {
        Ok(_) => None,
        Err(error) => Some(rejection::<()>(Err(error))),
    }?;
    assert_eq!(refused.sqlstate, "LS003", "{refused:?}");
    let detail = refused.json();
    assert_eq!(detail["index"], 0);
    Some(detail["reason"].as_str().unwrap().to_string())
}

#[tokio::test]
async fn sql_is_refused_what_does_not_fit_and_pushes_are_listed() {
    let database = Database::new().await;
    let (admin, sidecar) = (database.connect("admin").await, database.connect("sidecar").await);
    assert_eq!(define(&admin, "todoCreated", TODO, "check").await, 1);
    let refused =
        rejection(sidecar.query_one("select livestore.commit('s', 'todoCreated', '{\"id\": \"1\"}')", &[]).await);
    assert_eq!(refused.sqlstate, "LS003");
    assert_eq!(refused.message, "the event does not fit the type \"todoCreated\": args.text is missing");
    let refused = rejection(
        sidecar
            .query("select livestore.commit_many('{a,b}', 'todoCreated', array['{\"id\": \"1\", \"text\": \"x\"}', '{}']::json[])", &[])
            .await,
    );
    assert_eq!(refused.json(), json!({"index": 1, "reason": "args.id is missing"}));
    assert_eq!(all::<String>(&sidecar, "select store_id from livestore.stores").await, [""; 0], "nothing was changed");
    one::<i64>(&sidecar, "select livestore.commit('s', 'todoCreated', '{\"id\": \"1\", \"text\": \"x\"}')").await;
    one::<i64>(&sidecar, "select livestore.commit('s', 'anotherName', '{}')").await;

    let batch = json!([
        event(2, "todoCreated", json!({"id": 1, "text": "x"})),
        event(3, "todoCreated", json!({"id": "2", "text": "x"})),
        event(4, "anotherName", json!(null)),
        event(5, "todoCreated", json!(null)),
    ]);
    assert_eq!(push(&sidecar, "s", batch).await.unwrap(), 6);
    let found = ["s 3 todoCreated 1 args.id is not of type string", "s 6 todoCreated 1 args is not of type object"];
    assert_eq!(misfits(&database.connect("reader").await).await, found);

    // A dedicated table is checked, too, one that is there already and one that comes later.
    run(&admin, "select livestore.create_store('s', true), livestore.create_store('own', true)").await;
    push(&sidecar, "own", json!([event(0, "todoCreated", json!({"id": "1", "text": ""}))])).await.unwrap();
    assert_eq!(misfits(&admin).await[0], "own 1 todoCreated 1 args.text is shorter than 1");
    push(&sidecar, "s", json!([event(6, "todoCreated", json!(1))])).await.unwrap();
    assert_eq!(misfits(&admin).await.len(), 4);

    run(&admin, "select livestore.reset_store('s'), livestore.drop_store('own')").await;
    assert_eq!(one::<i64>(&database.admin().await, "select count(*) from livestore.found_misfits").await, 0);
}

#[tokio::test]
async fn enforced_types_refuse_the_push_that_does_not_fit_and_no_other() {
    let database = Database::new().await;
    let (admin, sidecar) = (database.connect("admin").await, database.connect("sidecar").await);
    define(&admin, "todoCreated", TODO, "enforce").await;
    let batch = |text: &str| json!([event(0, "todoCreated", json!({"id": "1", "text": text}))]).to_string();
    let rows = sidecar
        .query(
            "select sqlstate, message from livestore.push_batch('{a,b,c}', $1, '{null,null,null}') order by push",
            &[&[batch("x"), batch(""), batch("y")].to_vec()],
        )
        .await
        .unwrap();
    let results: Vec<Option<String>> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(results, [None, Some("23514".into()), None]);
    assert_eq!(
        rows[1].get::<_, &str>(1),
        "the event does not fit the type \"todoCreated\": args.text is shorter than 1"
    );
    assert_eq!(misfits(&admin).await, [""; 0]);
    assert_eq!(all::<String>(&admin, "select store_id from livestore.events order by 1").await, ["a", "c"]);

    define(&admin, "todoCreated", TODO, "off").await;
    push(&sidecar, "b", batch("")).await.unwrap();
    one::<i64>(&sidecar, "select livestore.commit('b', 'todoCreated', '1')").await;
    assert_eq!(misfits(&admin).await, [""; 0]);
}

#[tokio::test]
async fn versions_are_kept_and_history_is_checked_against_the_last_one() {
    let database = Database::new().await;
    let (admin, sidecar) = (database.connect("admin").await, database.connect("sidecar").await);
    assert_eq!(define(&admin, "e", r#"{"type": "string"}"#, "check").await, 1);
    assert_eq!(define(&admin, "e", r#" { "type" : "string" } "#, "enforce").await, 1, "the same");
    assert_eq!(define(&admin, "e", r#"{"type": ["string", "number"]}"#, "off").await, 2);
    let types: Vec<String> =
        all(&admin, "select concat_ws(' ', name, version, mode, defined_by) from livestore.event_types order by 1")
            .await;
    assert_eq!(types, ["e 1 enforce admin", "e 2 off admin"]);
    for args in ["\"x\"", "1", "true"] {
        one_with::<i64>(&sidecar, "select livestore.commit('s', 'e', $1::text::json)", &[&args]).await;
    }
    run(&admin, "select livestore.create_store('s', true)").await;
    assert_eq!(one::<i64>(&admin, "select livestore.check_events('e')").await, 0, "off");
    define(&admin, "e", r#"{"type": ["string", "number"]}"#, "check").await;
    for name in ["'e'", "null"] {
        assert_eq!(one::<i64>(&admin, &format!("select livestore.check_events({name})")).await, 1);
        assert_eq!(misfits(&admin).await, [r#"s 3 e 2 args is not of type ["string", "number"]"#]);
    }
    define(&admin, "e", "{}", "check").await;
    assert_eq!(one::<i64>(&admin, "select livestore.check_events('e')").await, 0);
    assert_eq!(misfits(&admin).await, [""; 0]);
    assert_eq!(rejection(admin.query("select livestore.check_events('unknown')", &[]).await).sqlstate, "42704");
}

/// Each keyword, with args that fit and args that do not.
#[tokio::test]
async fn every_keyword_says_what_it_says_in_json_schema() {
    let database = Database::new().await;
    let client = database.connect("admin").await;
    for (schema, fits, reasons) in [
        ("true", &["1", "null"][..], &[][..]),
        ("false", &[], &[("1", "args must not be there")]),
        (
            "{}",
            &["1", "{\"a\": \"\\u0000\\ud800\"}"],
            &[
                ("1e400", "args is a number that JavaScript does not have"),
                ("1e-400", "args is a number that JavaScript does not have"),
            ],
        ),
        (
            r#"{"type": "integer"}"#,
            &["1", "-1.0", "1e3", "0"],
            &[("1.5", "args is not of type integer"), ("\"1\"", "")],
        ),
        (
            r#"{"type": "number"}"#,
            &["1", "1.5", "1.7976931348623157e308", "5e-324"],
            &[("null", "args is not of type number")],
        ),
        (r#"{"type": ["string", "null"]}"#, &["null", "\"\""], &[("[]", "args is not of type [\"string\", \"null\"]")]),
        (r#"{"type": "boolean"}"#, &["true", "false"], &[("0", ""), ("\"true\"", "")]),
        (r#"{"const": {"a": 1}}"#, &["{\"a\": 1.0}"], &[("{}", "args is not the const of the schema")]),
        (
            r#"{"enum": ["a", null, 1]}"#,
            &["\"a\"", "null", "1.0"],
            &[("\"b\"", "args is not in the enum of the schema")],
        ),
        (
            r#"{"minimum": 1, "maximum": 2}"#,
            &["1", "2", "\"x\""],
            &[("0.9", "args is less than 1"), ("2.1", "args is greater than 2")],
        ),
        (
            r#"{"exclusiveMinimum": 1, "exclusiveMaximum": 2}"#,
            &["1.5"],
            &[("1", "args is not greater than 1"), ("2", "args is not less than 2")],
        ),
        (r#"{"multipleOf": 0.1}"#, &["0.3", "5"], &[("0.25", "args is not a multiple of 0.1")]),
        (
            r#"{"minLength": 1, "maxLength": 2}"#,
            &["\"ä\"", "\"😀😀\"", "1"],
            &[("\"\"", "args is shorter than 1"), ("\"abc\"", "args is longer than 2")],
        ),
        (
            r#"{"minItems": 1, "maxItems": 2, "uniqueItems": true}"#,
            &["[1]", "[1, 2]", "{}"],
            &[
                ("[]", "args is shorter than 1"),
                ("[1, 2, 3]", "args is longer than 2"),
                ("[1, 1.0]", "args has an item twice"),
            ],
        ),
        (r#"{"items": {"type": "string"}}"#, &["[]", "[\"a\"]"], &[("[\"a\", 1]", "args[1] is not of type string")]),
        (
            r#"{"items": [{"type": "string"}, {"type": "number"}], "additionalItems": false}"#,
            &["[]", "[\"a\"]", "[\"a\", 1]"],
            &[("[1]", "args[0] is not of type string"), ("[\"a\", 1, 2]", "args[2] must not be there")],
        ),
        (
            r#"{"prefixItems": [{"type": "string"}], "items": {"type": "number"}}"#,
            &["[\"a\", 1]"],
            &[("[\"a\", \"b\"]", "args[1] is not of type number")],
        ),
        (r#"{"prefixItems": [{"type": "string"}]}"#, &["[\"a\", {}]"], &[("[1]", "")]),
        (
            r#"{"minProperties": 1, "maxProperties": 2}"#,
            &["{\"a\": 1}"],
            &[("{}", "args is shorter than 1"), ("{\"a\": 1, \"b\": 1, \"c\": 1}", "args is longer than 2")],
        ),
        (
            r#"{"required": ["a", "b c"]}"#,
            &["{\"a\": 1, \"b c\": null}", "1"],
            &[("{\"b c\": 1}", "args.a is missing"), ("{\"a\": 1}", "args[\"b c\"] is missing")],
        ),
        (
            r#"{"properties": {"a": {"properties": {"b": {"type": "string"}}}}}"#,
            &["{}", "{\"a\": 1}", "{\"a\": {\"b\": \"\"}, \"c\": 1}"],
            &[("{\"a\": {\"b\": 1}}", "args.a.b is not of type string")],
        ),
        (
            r#"{"properties": {"a": {}}, "additionalProperties": false}"#,
            &["{}", "{\"a\": 1}"],
            &[("{\"b\": 1}", "args[unknown field] must not be there")],
        ),
        (
            r#"{"additionalProperties": {"type": "number"}}"#,
            &["{\"a\": 1}"],
            &[("{\"a\": \"\"}", "args[unknown field] is not of type number")],
        ),
        (r#"{"patternProperties": {"^a": {"type": "number"}}, "additionalProperties": false}"#, &["{\"b\": 1}"], &[]),
        (
            r#"{"propertyNames": {"maxLength": 1}}"#,
            &["{\"a\": 1}"],
            &[("{\"ab\": 1}", "args[unknown field] is longer than 1")],
        ),
        (r#"{"anyOf": [{"type": "string"}, {"type": "null"}]}"#, &["null"], &[("1", "args fits none of anyOf")]),
        (
            r#"{"oneOf": [{"type": "number"}, {"type": "integer"}]}"#,
            &["1.5"],
            &[("1", "args fits more than one of oneOf"), ("\"\"", "args fits none of oneOf")],
        ),
        (r#"{"allOf": [{"minimum": 1}, {"maximum": 2}]}"#, &["1"], &[("3", "args is greater than 2")]),
        (r#"{"not": {"type": "null"}}"#, &["1"], &[("null", "args fits what is under not")]),
        (
            r##"{"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "array", "items": {"$ref": "#"}}}}"##,
            &["[]", "[[[]]]"],
            &[("[[1]]", "args[0][0] is not of type array")],
        ),
        (r#"{"pattern": "^a$", "format": "email", "title": "t", "$comment": "c", "default": 1}"#, &["\"b\""], &[]),
    ] {
        for args in fits {
            assert_eq!(misfit(&client, schema, args).await, None, "{schema} {args}");
        }
        for (args, reason) in reasons {
            let found = misfit(&client, schema, args).await;
            let found = found.unwrap_or_else(|| panic!("{schema} {args} fits"));
            assert!(reason.is_empty() || found == *reason, "{schema} {args}: {found}");
        }
    }
}

#[tokio::test]
async fn a_schema_that_cannot_be_checked_is_refused() {
    let database = Database::new().await;
    let client = database.connect("admin").await;
    for (schema, problem) in [
        (r#"{"if": {}}"#, r##"at #, the keyword "if" is not known here"##),
        (
            r#"{"properties": {"a": {"items": [{}, {"contains": 1}]}}}"#,
            r##"at #/properties/a/items/1, the keyword "contains" is not known here"##,
        ),
        (r#"{"type": "strin"}"#, "at #, unknown type"),
        (r#"{"type": 1}"#, "at #, unknown type"),
        ("1", "at #, a schema is an object, true or false"),
        (r#"{"allOf": {}}"#, "at #, allOf is not an array"),
        (r#"{"properties": []}"#, "at #, properties is not an object"),
        (r#"{"required": [1]}"#, "at #, required is not an array of strings"),
        (r#"{"enum": 1}"#, "at #, enum is not an array"),
        (r#"{"minLength": -1}"#, "at #, minLength is not a whole number"),
        (r#"{"multipleOf": 0}"#, "at #, multipleOf is not a number"),
        (r#"{"minimum": "1"}"#, "at #, minimum is not a number"),
        (r#"{"uniqueItems": 1}"#, "at #, uniqueItems is not true or false"),
        (r#"{"not": []}"#, "at #/not, a schema is an object"),
        (r##"{"$ref": "#/definitions/x"}"##, "$ref does not name a part of this schema"),
        (r#"{"$ref": "https://example.com"}"#, "$ref does not name a part of this schema"),
        (r##"{"$ref": "#"}"##, "$ref leads back to itself"),
        (r##"{"allOf": [{"$ref": "#"}]}"##, "to check null by it does not end"),
        (
            r##"{"$ref": "#/examples/0", "examples": [{"minLength": "abc"}]}"##,
            "$ref does not name a part of this schema",
        ),
        (r##"{"not": {"type": "string", "pattern": "^x"}}"##, "below not and oneOf"),
        (r##"{"oneOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"format": "email"}}}"##, "below not and oneOf"),
        (r##"{"$ref": "#/$defs/a", "minLength": 1, "$defs": {"a": {}}}"##, "keywords beside $ref"),
    ] {
        let sql = "select livestore.define_event('e', $1::text::json)";
        let refused = rejection(client.query(sql, &[&schema]).await);
        assert_eq!(refused.sqlstate, "22023", "{schema}");
        assert!(refused.message.contains(problem), "{schema}: {}", refused.message);
    }
    for (call, sqlstate) in [
        ("define_event('e', '{}', 'strict')", "22023"),
        ("define_event('e', '{}', null)", "22023"),
        ("define_event('', '{}')", "22023"),
        ("define_event('e', null)", "22023"),
        ("define_event('e', to_json(repeat('x', 300000)))", "22023"),
    ] {
        let refused = rejection(client.query(&format!("select livestore.{call}"), &[]).await);
        assert_eq!(refused.sqlstate, sqlstate, "{call}: {}", refused.message);
    }
    assert_eq!(all::<String>(&client, "select name from livestore.event_types").await, [""; 0]);
}

/// A few bytes of hostile args cost neither a crash nor much time.
#[tokio::test]
async fn args_that_are_hard_to_check_are_misfits() {
    let database = Database::new().await;
    let client = database.connect("admin").await;
    let recursive = r##"{"anyOf": [{"type": "number"}, {"type": "array", "items": {"$ref": "#"}}]}"##;
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    let reason = misfit(&client, recursive, &deep).await;
    if let Some(reason) = reason {
        assert!(reason.starts_with("args cannot be checked"), "{reason}");
    }
    assert_eq!(
        misfit(&client, recursive, "1e200000").await.as_deref(),
        Some("args cannot be checked (SQLSTATE 22003)")
    );
    let numbers = format!("[{}]", vec!["1e131000"; 20_000].join(","));
    let reason = misfit(&client, r#"{"items": {"type": "integer"}}"#, &numbers).await;
    assert_eq!(reason.as_deref(), Some("args[0] is a number that JavaScript does not have"));

    // Text that Postgres cannot read is replaced before the schema is looked at.
    let since = std::time::Instant::now();
    let halves = format!(r#""{}""#, r"\udc00".repeat(40_000));
    assert_eq!(misfit(&client, r#"{"maxLength": 9}"#, &halves).await.as_deref(), Some("args is longer than 9"));
    assert!(since.elapsed().as_secs() < 5, "{:?}", since.elapsed());

    // A union whose members are told apart late: the work doubles with each level. Pushes do not wait for it, not even if enforced.
    let member = r##"{"type": "object", "required": ["kind", "of"], "properties": {"kind": {"pattern": "KIND"}, "of": {"$ref": "#/$defs/e"}}}"##;
    let union = format!(
        r##"{{"$ref": "#/$defs/e", "$defs": {{"e": {{"anyOf": [{}, {}, {{"type": "number"}}]}}}}}}"##,
        member.replace("KIND", "a"),
        member.replace("KIND", "b")
    );
    let nested = format!("{}null{}", r#"{"kind": "a", "of": "#.repeat(40), "}".repeat(40));
    for mode in ["check", "enforce"] {
        define(&client, "hostile", &union, mode).await;
        let head: i64 = one(&client, "select livestore.head('s')").await;
        let batch = format!(
            r#"[{{"name":"hostile","args":{nested},"seqNum":{},"parentSeqNum":{head},"clientId":"c","sessionId":"s"}}]"#,
            head + 1
        );
        let since = std::time::Instant::now();
        push(&client, "s", batch).await.unwrap();
        assert!(since.elapsed().as_secs() < 10, "{mode}");
    }
    let late = misfits(&client).await;
    assert_eq!(late.iter().filter(|misfit| misfit.contains("args cannot be checked in time")).count(), 2, "{late:?}");
    define(&client, "e", "{}", "check").await;
    push(&client, "long", json!([event(0, "e", json!("x".repeat(300_000)))])).await.unwrap();
    assert!(
        misfits(&client).await.contains(&"long 1 e 1 args cannot be checked: they are longer than 256 KiB".to_string())
    );
}

#[tokio::test]
async fn a_repeat_by_its_key_is_not_checked_again() {
    let database = Database::new().await;
    let client = database.connect("admin").await;
    let commit = "select livestore.commit('s', 'e', '{\"a\": 1}', key => 'k')";
    let many =
        "select seq_num from livestore.commit_many('{s,s}', 'e', array['{\"a\": 1}', '{\"b\": 1}']::json[], '{k,l}')";
    assert_eq!(one::<i64>(&client, commit).await, 1);
    define(&client, "e", r#"{"required": ["b"]}"#, "check").await;
    assert_eq!(one::<i64>(&client, commit).await, 1);
    assert_eq!(all::<i64>(&client, many).await, [1, 2]);
    assert_eq!(
        rejection(client.query("select livestore.commit('s', 'e', '{\"a\": 1}', key => 'm')", &[]).await).sqlstate,
        "LS003"
    );
}

#[tokio::test]
async fn a_definition_waits_for_nobody_for_long() {
    let database = Database::new().await;
    let (admin, other) = (database.connect("admin").await, database.connect("sidecar").await);
    run(&admin, "select livestore.create_store('a', true), livestore.create_store('b', true)").await;
    for store in ["a", "shared"] {
        run(&other, &format!("begin; select livestore.commit('{store}', 'e')")).await;
        let refused = rejection(admin.query("select livestore.define_event('e', '{}')", &[]).await);
        assert_eq!((&*refused.sqlstate, &*refused.hint), ("55P03", "Try again."), "{store}");
        run(&other, "select livestore.commit('b', 'e'); commit").await;
    }
    assert_eq!(all::<String>(&admin, "select name from livestore.event_types").await, [""; 0]);
    assert_eq!(define(&admin, "e", "{}", "check").await, 1);
}

#[tokio::test]
async fn a_dedicated_table_that_is_made_at_this_moment_is_checked_too() {
    let database = Database::new().await;
    let (admin, other) = (database.connect("admin").await, database.admin().await);
    let pid: i32 = one(&admin, "select pg_backend_pid()").await;
    run(&other, "begin; select livestore.create_store('a', true)").await;
    let (version, ()) = join(define(&admin, "e", r#"{"type": "object"}"#, "check"), async {
        let waits = "select exists (select from pg_locks l where l.pid = $1 and not l.granted)";
        eventually("it waits", async || one_with(&other, waits, &[&pid]).await).await;
        run(&other, "commit").await;
    })
    .await;
    assert_eq!(version, 1);
    let misfit = json!([{"name": "e", "args": 1, "seqNum": 1, "parentSeqNum": 0, "clientId": "c", "sessionId": "s"}]);
    assert_eq!(push(&other, "a", misfit).await.unwrap(), 1);
    assert_eq!(misfits(&admin).await.len(), 1);
}
