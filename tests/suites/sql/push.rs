//! `livestore.push`: the batches that it accepts, those that it rejects, and its errors.

use crate::support::{
    Push, Rejection, all_with, log, one, one_with, push, push_batch, push_to_life, rejection, run, stored,
};
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event, up_to};
use serde_json::{Value, json};
use tokio_postgres::Client;

/// A copy of an event with another value in a field.
fn with(event: &Value, field: &str, value: Value) -> Value {
    let mut event = event.clone();
    event[field] = value;
    event
}

/// A copy of an event without a field.
fn without(event: &Value, field: &str) -> Value {
    let mut event = event.clone();
    event.as_object_mut().unwrap().remove(field).expect("the field");
    event
}

/// Pushes what must be rejected, and checks what all rejections have in common.
async fn rejected(client: &Client, store: &str, batch: &Value, backend_id: Option<&str>) -> Rejection {
    let before = stored(client).await;
    let rejection = rejection(push_to_life(client, store, batch, backend_id).await);
    assert_eq!(stored(client).await, before, "a rejected push changes nothing: {rejection:?}");
    assert!(!rejection.message.is_empty() && !rejection.hint.is_empty(), "{rejection:?}");
    rejection
}

#[tokio::test]
async fn a_push_that_does_not_build_on_the_head_raises_ls001_with_both_numbers() {
    let database = Database::new().await;
    let client = database.admin().await;
    push(&client, "s", chain(0, 3)).await.unwrap();
    let new = |parent| event(parent, "new", json!({}));
    let cases = [
        ("s", json!([new(0)]), 3, 0),
        ("s", json!([new(2)]), 3, 2),
        ("s", json!([new(2), new(3), new(4)]), 3, 2),
        ("s", json!([new(7)]), 3, 7),
        // Event 2 is in the log, but the event after it is not.
        ("s", json!([chain(1, 1)[0], new(2)]), 3, 1),
        ("missing", json!([new(4)]), 0, 4),
    ];
    for (store, batch, head, provided) in cases {
        let rejection = rejected(&client, store, &batch, None).await;
        assert_eq!(rejection.sqlstate, "LS001", "{batch}");
        assert_eq!(rejection.json(), json!({"minimumExpectedNum": head, "providedNum": provided}), "{batch}");
    }
}

#[tokio::test]
async fn a_push_to_another_life_of_the_log_raises_ls002_with_both_ids() {
    let database = Database::new().await;
    let client = database.admin().await;
    push(&client, "s", chain(0, 3)).await.unwrap();
    for (store, batch) in [("s", chain(3, 1)), ("s", chain(1, 1)), ("s", json!([])), ("missing", chain(0, 1))] {
        let expected: String = one_with(&client, "select livestore.backend_id($1)", &[&store]).await;
        let rejection = rejected(&client, store, &batch, Some("an older life")).await;
        assert_eq!(rejection.sqlstate, "LS002", "{store} {batch}");
        assert_eq!(rejection.json(), json!({"expected": expected, "received": "an older life"}));
    }
    for store in ["s", "new"] {
        let id: String = one_with(&client, "select livestore.backend_id($1)", &[&store]).await;
        let head = log(&client, store).await.last().copied().unwrap_or(0);
        push_to_life(&client, store, chain(head, 1), Some(&id)).await.expect("the right id is accepted");
    }
}

#[tokio::test]
async fn a_batch_that_is_not_a_chain_raises_ls003_with_the_index_of_the_event() {
    let database = Database::new().await;
    let client = database.admin().await;
    push(&client, "s", chain(0, 3)).await.unwrap();
    let first = event(3, "e", json!({}));
    let second = event(4, "e", json!({}));
    let mut deep = json!(1);
    for _ in 0..513 {
        deep = json!([deep]);
    }
    let cases = [
        (json!({}), json!(null)),
        (json!(null), json!(null)),
        (json!("text"), json!(null)),
        (json!([null]), json!(0)),
        (json!([first, []]), json!(1)),
        (json!([first, without(&second, "name")]), json!(1)),
        (json!([first, without(&second, "seqNum")]), json!(1)),
        (json!([first, without(&second, "parentSeqNum")]), json!(1)),
        (json!([first, without(&second, "clientId")]), json!(1)),
        (json!([first, without(&second, "sessionId")]), json!(1)),
        (json!([first, with(&second, "name", json!(7))]), json!(1)),
        (json!([first, with(&second, "name", json!("a\0b"))]), json!(1)),
        (json!([first, with(&second, "clientId", json!("a\0b"))]), json!(1)),
        (json!([first, with(&second, "sessionId", json!("a\0b"))]), json!(1)),
        (json!([first, with(&second, "seqNum", json!("5"))]), json!(1)),
        (json!([first, with(&second, "seqNum", json!(5.5))]), json!(1)),
        (json!([first, with(&second, "seqNum", json!(-5))]), json!(1)),
        (json!([first, with(&second, "seqNum", json!(4))]), json!(1)),
        (json!([first, with(&second, "seqNum", json!(1u64 << 53))]), json!(1)),
        (json!([first, with(&second, "seqNum", json!(u64::MAX))]), json!(1)),
        (json!([with(&first, "parentSeqNum", json!(-1))]), json!(0)),
        // The parent is not the event before it.
        (json!([first, event(5, "e", json!({}))]), json!(1)),
        (json!([first, first]), json!(1)),
        (json!([first, event(3, "e", json!({}))]), json!(1)),
        (json!([first, with(&second, "args", deep)]), json!(1)),
    ];
    for (batch, index) in cases {
        let rejection = rejected(&client, "s", &batch, None).await;
        assert_eq!(rejection.sqlstate, "LS003", "{batch}");
        assert_eq!(rejection.json()["index"], index, "{batch}");
        assert!(!rejection.json()["reason"].as_str().unwrap().is_empty(), "{batch}");
    }
    rejected(&client, "missing", &json!([null]), None).await;
}

#[tokio::test]
async fn a_push_returns_the_new_head_and_stores_every_field() {
    let database = Database::new().await;
    let client = database.admin().await;
    let batch = json!([
        {"name": "n", "args": {"k": 1}, "seqNum": 1, "parentSeqNum": 0, "clientId": "c", "sessionId": "s"},
        {"sessionId": "😀", "clientId": "'\";\\", "parentSeqNum": 1, "seqNum": 2, "name": "v1.Über", "unknown": [1]},
    ]);
    assert_eq!(push(&client, "s", batch).await.unwrap(), 2);
    let events: Vec<Value> = all_with(
        &client,
        "select to_jsonb(e) - 'created_at' from livestore.events e where created_at between now() - interval '1 min' and now()
         order by seq_num",
        &[],
    )
    .await;
    assert_eq!(
        json!(events),
        json!([
            {"store_id": "s", "seq_num": 1, "parent_seq_num": 0, "name": "n", "args": {"k": 1}, "client_id": "c",
             "session_id": "s"},
            {"store_id": "s", "seq_num": 2, "parent_seq_num": 1, "name": "v1.Über", "args": null, "client_id": "'\";\\",
             "session_id": "😀"},
        ])
    );
    assert_eq!(one::<i64>(&client, "select head from livestore.stores").await, 2);
}

#[tokio::test]
async fn an_empty_batch_is_accepted_and_writes_nothing() {
    let database = Database::new().await;
    let client = database.admin().await;
    push(&client, "s", chain(0, 3)).await.unwrap();
    let before = stored(&client).await;
    assert_eq!(push(&client, "s", "[]").await.unwrap(), 3);
    assert_eq!(push(&client, "missing", "[]").await.unwrap(), 0);
    assert_eq!(stored(&client).await, before);
}

#[tokio::test]
async fn gaps_are_legal() {
    let database = Database::new().await;
    let client = database.admin().await;
    let far = |parent, seq: i64| with(&event(parent, "e", json!({})), "seqNum", json!(seq));
    assert_eq!(push(&client, "s", json!([far(0, 3), far(3, 10)])).await.unwrap(), 10);
    assert_eq!(log(&client, "s").await, [3, 10]);
}

#[tokio::test]
async fn no_push_ends_a_store_by_using_up_its_numbers() {
    let database = Database::new().await;
    let (admin, client) = (database.admin().await, database.connect("sidecar").await);
    let far = |parent, seq: i64| json!([with(&event(parent, "e", json!({})), "seqNum", json!(seq))]);
    let bound = 1 << 31;
    // The short way, and the long one, which a hook brings about.
    for (store, hook) in [
        ("short", ""),
        (
            "long",
            "create function public.hook() returns trigger language plpgsql as 'begin return null; end';
                  create trigger hook after insert on livestore.eventlog_1 for each row execute function public.hook()",
        ),
    ] {
        run(&admin, hook).await;
        push(&client, store, chain(0, 1)).await.unwrap();
        for seq in [(1 << 53) - 1, bound + 2] {
            let outcome = push_batch(&client, &[Push::to(store, far(1, seq))]).await.remove(0);
            assert_eq!(outcome.brief(), Err("LS003"), "{outcome:?}");
            assert_eq!(outcome.json()["index"], 0);
            assert!(outcome.message.unwrap().contains("is more than 2147483648 ahead of the head of the log, 1"));
        }
        // Nobody raises the bound by a setting, and the owner raises it for all.
        for setting in ["livestore.max_ahead", "max_ahead"] {
            let _ = client.batch_execute(&format!("set {setting} = '9007199254740991'")).await;
        }
        assert_eq!(rejection(push(&client, store, far(1, bound + 2)).await).sqlstate, "LS003");
        let raise = client.batch_execute("update livestore.instance set max_ahead = 9007199254740991").await;
        assert_eq!(rejection(raise).sqlstate, "42501");
        run(&admin, "update livestore.instance set max_ahead = 9007199254740991").await;
        assert_eq!(push(&client, store, far(1, bound + 2)).await.unwrap(), bound + 2);
        let last = rejection(push(&client, store, far(bound + 2, (1 << 53) - 1)).await);
        assert!(last.message.contains("leaves no room"), "{last:?}");
        run(&admin, "update livestore.instance set max_ahead = default").await;
        let committed = format!("select livestore.commit('{store}', 'e')");
        assert_eq!(one::<i64>(&client, &committed).await, bound + 3, "the store lives");
    }
}

#[tokio::test]
async fn a_repeated_push_is_accepted_and_writes_nothing() {
    let database = Database::new().await;
    let client = database.admin().await;
    for batch in [chain(0, 3), chain(3, 2)] {
        push(&client, "s", batch).await.unwrap();
    }
    let before = stored(&client).await;
    for (batch, why) in [
        (chain(0, 3), "after others were appended"),
        (chain(3, 2), "at the head"),
        (chain(2, 2), "a part of two batches"),
        (chain(0, 5), "all of the log"),
    ] {
        assert_eq!(push(&client, "s", &batch).await.unwrap(), 5, "{why}");
    }
    assert_eq!(stored(&client).await, before);
}

#[tokio::test]
async fn a_batch_whose_first_part_is_in_the_log_appends_the_rest() {
    let database = Database::new().await;
    let client = database.admin().await;
    push(&client, "s", chain(0, 3)).await.unwrap();
    let before = stored(&client).await;
    assert_eq!(push(&client, "s", chain(1, 4)).await.unwrap(), 5);
    assert_eq!(log(&client, "s").await, up_to(5));
    let after = stored(&client).await;
    let events_before = before.iter().filter(|row| row.contains("todoCreated"));
    assert!(events_before.clone().count() == 3 && events_before.into_iter().all(|row| after.contains(row)));
}

#[tokio::test]
async fn a_repeat_with_one_field_changed_is_another_event() {
    let database = Database::new().await;
    let client = database.admin().await;
    let original = event(1, "e", json!({"a": 1}));
    push(&client, "s", json!([chain(0, 1)[0], original, chain(2, 1)[0]])).await.unwrap();
    let spelled = |args: &str| original.to_string().replace(r#"{"a":1}"#, args);
    assert_eq!(push(&client, "s", format!("[{}]", spelled(r#"{"a":1}"#))).await.unwrap(), 3, "the original itself");
    for changed in [
        with(&original, "name", json!("f")).to_string(),
        with(&original, "clientId", json!("another")).to_string(),
        with(&original, "sessionId", json!("another")).to_string(),
        with(&original, "parentSeqNum", json!(0)).to_string(),
        without(&original, "args").to_string(),
        spelled("null"),
        spelled(r#"{"a":1.0}"#),
        spelled(r#"{"a": 1}"#),
        spelled(r#"{"a":1,"a":1}"#),
    ] {
        let before = stored(&client).await;
        let rejection = rejection(push(&client, "s", format!("[{changed}]")).await);
        assert_eq!(rejection.sqlstate, "LS001", "{changed}");
        assert_eq!(rejection.json()["minimumExpectedNum"], 3, "{changed}");
        assert_eq!(stored(&client).await, before);
    }
}

#[tokio::test]
async fn args_come_back_byte_for_byte() {
    let database = Database::new().await;
    let client = database.admin().await;
    let nested = format!("{}{}", "[".repeat(512), "]".repeat(512));
    let spellings = [
        "null",
        "true",
        "1",
        "1.0",
        "1e400",
        "-0",
        "12345678901234567890",
        r#""""#,
        r#""\u0000""#,
        r#""\ud800""#,
        r#""\udc00\ud800 \uD83D\uDE00 😀 \/ / \" \u2028""#,
        "[ ]",
        "{\n\t\"z\" : 1,\r\n \"a\":{ }  }",
        r#"{"b":1,"a":2,"b":3}"#,
        r#"{"":"","__proto__":null,"\u0000":[1,2 ,3]}"#,
        nested.as_str(),
    ];
    for (parent, args) in (0..).zip(spellings) {
        let event = event(parent, "e", json!("ARGS")).to_string().replace(r#""ARGS""#, &format!(" {args}\n"));
        push(&client, "s", format!("[{event}]")).await.unwrap_or_else(|error| panic!("{args}: {error:?}"));
    }
    let head = i64::try_from(spellings.len()).unwrap();
    push(&client, "s", json!([without(&event(head, "e", json!(null)), "args")])).await.unwrap();

    let expected: Vec<_> = spellings.iter().copied().map(Some).chain([None]).collect();
    for source in ["livestore.events where store_id = 's'", "livestore.pull('s')"] {
        let args: Vec<Option<String>> =
            all_with(&client, &format!("select args::text from {source} order by seq_num"), &[]).await;
        assert_eq!(args.iter().map(Option::as_deref).collect::<Vec<_>>(), expected, "{source}");
    }
}

#[tokio::test]
async fn a_store_id_is_any_text_of_up_to_1024_characters() {
    let database = Database::new().await;
    let client = database.admin().await;
    // Characters of four bytes that do not compress: 4,000 bytes, more than an index entry of a btree holds.
    let scattered: String =
        (0..1000u32).map(|n| char::from_u32(0x1_0000 + n.wrapping_mul(2_654_435_761) % 0x2_0000).unwrap()).collect();
    let longest = "é".repeat(1024);
    let ids = [
        " ",
        "a b",
        "A B",
        "it's",
        "\"quoted\"",
        "back\\slash",
        "new\nline",
        "$1",
        "%s",
        "a/b?c=d&e",
        "null",
        "Ünï",
        "日本語",
        "👩‍👩‍👧",
        "e\u{301}",
        "é",
        "\u{202e}",
        scattered.as_str(),
        longest.as_str(),
    ];
    for (count, id) in (1..).zip(ids) {
        push(&client, id, chain(0, count)).await.unwrap_or_else(|error| panic!("{id:?}: {error:?}"));
    }
    for (count, id) in (1..).zip(ids) {
        assert_eq!(log(&client, id).await, up_to(count), "{id:?}");
        assert_eq!(one_with::<i64>(&client, "select livestore.head($1)", &[&id]).await, count);
        assert_eq!(one_with::<i64>(&client, "select count(*) from livestore.pull($1)", &[&id]).await, count);
    }
}

#[tokio::test]
async fn an_empty_or_longer_store_id_is_refused() {
    let database = Database::new().await;
    let client = database.admin().await;
    for id in ["".to_string(), "x".repeat(1025), "😀".repeat(1025)] {
        rejection(push(&client, &id, chain(0, 1)).await);
        rejection(client.query_one("select livestore.create_store($1)", &[&id]).await);
        rejection(client.query_one("select livestore.commit($1, 'e')", &[&id]).await);
    }
    assert_eq!(stored(&client).await, [""; 0]);
}
