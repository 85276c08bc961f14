//! `livestore.field`: a field of args that can be read whatever a client has sent.

use crate::support::{all, one, push, run};
use livestore_tests::cluster::Database;
use livestore_tests::events::event;
use proptest::prelude::*;
use serde_json::{Value, json};

#[tokio::test]
async fn every_field_that_json_allows_can_be_read() {
    let database = Database::new().await;
    let reader = database.connect("reader").await;
    for (args, path, expected) in [
        (r#"{"a": {"b": "x"}}"#, "'a', 'b'", Some("x")),
        (r#"{"a": [1, "two"]}"#, "'a', '1'", Some("two")),
        (r#"{"a": {"b": 1.50}}"#, "'a'", Some(r#"{"b": 1.50}"#)),
        (r#"{"a": null}"#, "'a'", None),
        (r#"{"a": 1}"#, "'b'", None),
        ("5", "'a'", None),
        (r#"{"a": 1e999999}"#, "'a'", Some("1e999999")),
        (r#"{"a": "x\u0000y"}"#, "'a'", Some("x\u{fffd}y")),
        (r#"{"a": "\u0000\u0000"}"#, "'a'", Some("\u{fffd}\u{fffd}")),
        (r#"{"b": "\u0000", "a": "fine"}"#, "'a'", Some("fine")),
        (r#"{"\u0000": 1, "a": "fine"}"#, "'a'", Some("fine")),
        (r#"{"a": "\\u0000 \\\\u0000 \"\\"}"#, "'a'", Some(r#"\u0000 \\u0000 "\"#)),
        (r#"{"a": "\\\u0000"}"#, "'a'", Some("\\\u{fffd}")),
        (r#"{"a": "\ud800", "b": "\udbffx\uDC00y"}"#, "'b'", Some("\u{fffd}x\u{fffd}y")),
        (r#"{"a": "\ud83d\ude00"}"#, "'a'", Some("😀")),
        (r#"{"a": "\ud800\uD83D\uDE00\ude00"}"#, "'a'", Some("\u{fffd}😀\u{fffd}")),
        (r#"{"a": "\u00e4\n"}"#, "'a'", Some("ä\n")),
        (r#"{"a": "\ud83d\\ude00"}"#, "'a'", Some("\u{fffd}\\ude00")),
        (r#"{"a": "\\xde00\ude00\\\ud83d\ude00\udc00"}"#, "'a'", Some("\\xde00\u{fffd}\\😀\u{fffd}")),
        (r#"{"a": "\ud83d\ud83d\u0000\ude00\ude00"}"#, "'a'", Some("\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{fffd}")),
    ] {
        let field = format!("select livestore.field($1::text::json, {path})");
        let row = reader.query_one(&field, &[&args]).await.unwrap_or_else(|error| panic!("{args}: {error:?}"));
        assert_eq!(row.get::<_, Option<&str>>(0), expected, "{args}");
    }
    assert_eq!(one::<Option<String>>(&reader, "select livestore.field(null, 'a')").await, None);
}

/// A push with hooks that read args holds locks meanwhile.
#[tokio::test]
async fn many_halves_of_pairs_are_read_in_time() {
    let database = Database::new().await;
    let client = database.connect("reader").await;
    run(&client, "set statement_timeout = '2s'").await;
    for (unit, read) in [
        (r"\udc00", "\u{fffd}"),
        (r"\ud800", "\u{fffd}"),
        (r"\ud83d\ude00", "😀"),
        (r"\\", "\\"),
        (r"\u0000", "\u{fffd}"),
    ] {
        let args = format!(r#"{{"a": "x{}"}}"#, unit.repeat(40_000));
        let field = client.query_one("select livestore.field($1::text::json, 'a')", &[&args]).await;
        let field: String = field.unwrap_or_else(|error| panic!("{unit}: {error:?}")).get(0);
        assert!(field == format!("x{}", read.repeat(40_000)), "{unit}: {} bytes", field.len());
    }
}

#[tokio::test]
async fn it_is_for_indexes_and_parallel_queries_and_hooks() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let index = "create index email on livestore.eventlog_1 (livestore.field(args, 'email')) where name = 'e'";
    run(&admin, index).await;
    for (n, email) in ["a@example.com", "\u{0}", "b@example.com"].into_iter().enumerate() {
        push(&admin, "s", json!([event(n as i64, "e", json!({"email": email}))])).await.unwrap();
    }
    let found =
        "select seq_num from livestore.events where name = 'e' and livestore.field(args, 'email') = 'b@example.com'";
    assert_eq!(one::<i64>(&admin, found).await, 3);
    let plan = "explain select * from livestore.eventlog_1 where name = 'e' and livestore.field(args, 'email') = 'b@example.com'";
    run(&admin, "set enable_seqscan = off").await;
    let plan: Vec<String> = all(&admin, plan).await;
    assert!(plan.iter().any(|line| line.contains("Index Scan using email")), "{plan:?}");
    run(&admin, "reset enable_seqscan; set max_parallel_workers_per_gather = 2; set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0")
        .await;
    let plan: Vec<String> =
        all(&admin, "explain select count(livestore.field(args, 'x')) from only livestore.eventlog_1").await;
    assert!(plan.iter().any(|line| line.contains("Parallel")), "{plan:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1))]
    /// What serde_json reads is what it reads.
    #[test]
    fn it_reads_what_others_read(texts in proptest::collection::vec("\\PC*|[\\\\\"u0-9dDa-f\\x00]{0,12}", 200)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let database = Database::new().await;
            let admin = database.admin().await;
            for text in &texts {
                let args: Value = json!({"other": text, "a": {"b": text}});
                let read: String = admin.query_one("select livestore.field($1::text::json, 'a', 'b')", &[&args.to_string()]).await.unwrap().get(0);
                assert_eq!(read, text.replace('\0', "\u{fffd}"));
            }
        });
    }
}
