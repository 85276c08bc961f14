//! `livestore.commit`: one event at the head of a log, from SQL.

use crate::support::{Rejection, all, broken_chains, log, one, one_with, push, rejection, run, stored};
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, up_to};
use serde_json::{Value, json};

#[tokio::test]
async fn the_first_commit_creates_the_store_and_later_ones_go_on() {
    let database = Database::new().await;
    let client = database.connect("sidecar").await;
    for expected in 1..=3 {
        assert_eq!(one::<i64>(&client, "select livestore.commit('s', 'greeted')").await, expected);
    }
    push(&client, "s", chain(3, 2)).await.unwrap();
    assert_eq!(one::<i64>(&client, "select livestore.commit('s', 'greeted')").await, 6);
    assert_eq!(log(&client, "s").await, up_to(6));
    assert_eq!(broken_chains(&client).await, [""; 0]);
}

#[tokio::test]
async fn a_commit_says_what_it_was_told_and_its_defaults() {
    let database = Database::new().await;
    let client = database.connect("sidecar").await;
    run(
        &client,
        r#"select livestore.commit('s', 'n"', '{"a": 1}', 'the client', 'the session');
           select livestore.commit('s', 'n')"#,
    )
    .await;
    let events: Vec<Value> = all(
        &client,
        "select to_jsonb(e) - 'created_at' from livestore.events e
         where created_at between now() - interval '1 min' and now() order by seq_num",
    )
    .await;
    assert_eq!(
        json!(events),
        json!([
            {"store_id": "s", "seq_num": 1, "parent_seq_num": 0, "name": "n\"", "args": {"a": 1}, "client_id": "the client",
             "session_id": "the session"},
            {"store_id": "s", "seq_num": 2, "parent_seq_num": 1, "name": "n", "args": null, "client_id": "server",
             "session_id": "sql"},
        ])
    );
}

#[tokio::test]
async fn args_are_stored_byte_for_byte_and_sql_null_is_no_args() {
    let database = Database::new().await;
    let client = database.connect("sidecar").await;
    let spellings = ["{ \"b\":1.0,\n\"a\" : [ ] , \"b\":2}", r#""\u0000 \ud800""#, "1e400", "null"];
    for args in spellings {
        one_with::<i64>(&client, "select livestore.commit('s', 'e', $1::text::json)", &[&args]).await;
    }
    one::<i64>(&client, "select livestore.commit('s', 'e', null)").await;
    let args: Vec<Option<String>> = all(&client, "select args::text from livestore.pull('s')").await;
    let expected: Vec<_> = spellings.map(Some).into_iter().chain([None]).collect();
    assert_eq!(args.iter().map(Option::as_deref).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn what_cannot_be_committed_changes_nothing() {
    let database = Database::new().await;
    let client = database.admin().await;
    for call in ["commit('s', null)", "commit('s', 'e', client_id => null)", "commit('s', 'e', session_id => null)"] {
        let Rejection { sqlstate, .. } = rejection(client.execute(&format!("select livestore.{call}"), &[]).await);
        assert_eq!(sqlstate, "LS003", "{call}");
    }
    rejection(client.execute("select livestore.commit(null, 'e')", &[]).await);
    assert_eq!(stored(&client).await, [""; 0]);
}

#[tokio::test]
async fn a_log_that_has_reached_the_last_number_takes_no_more() {
    let database = Database::new().await;
    let client = database.admin().await;
    push(&client, "s", chain(0, 1)).await.unwrap();
    // Versions before 0.3 let a log get this far.
    run(
        &client,
        "update livestore.stores set head = 9007199254740991;
         update livestore.eventlog_1 set \"seqNum\" = 9007199254740991",
    )
    .await;
    let rejection = rejection(client.execute("select livestore.commit('s', 'e')", &[]).await);
    assert_eq!(rejection.sqlstate, "LS003");
    assert!(rejection.message.contains("takes no more events until livestore.reset_store"), "{rejection:?}");
}

#[tokio::test]
async fn a_commit_belongs_to_the_transaction_around_it() {
    let database = Database::new().await;
    let (client, reader) = (database.connect("sidecar").await, database.connect("reader").await);
    run(&client, "begin; select livestore.commit('s', 'first'), livestore.commit('s', 'second')").await;
    assert_eq!(log(&reader, "s").await, [0; 0]);
    assert_eq!(log(&client, "s").await, [1, 2]);
    run(&client, "savepoint here; select livestore.commit('s', 'third'); rollback to here; commit").await;
    assert_eq!(log(&reader, "s").await, [1, 2]);
    run(&client, "begin; select livestore.commit('s', 'third'); rollback").await;
    assert_eq!(one::<i64>(&client, "select livestore.head('s')").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_commits_all_find_a_place() {
    let database = Database::new().await;
    let sessions: Vec<_> = (0..16)
        .map(|session| {
            let database = database.clone();
            tokio::spawn(async move {
                let client = database.connect("sidecar").await;
                let mut numbers = Vec::new();
                for _ in 0..10 {
                    let sql = "select livestore.commit('s', 'e', to_json($1::int))";
                    numbers.push(one_with::<i64>(&client, sql, &[&session]).await);
                }
                numbers
            })
        })
        .collect();
    let mut numbers = Vec::new();
    for session in sessions {
        numbers.extend(session.await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, up_to(160), "each has a number of its own");
    let admin = database.admin().await;
    assert_eq!(log(&admin, "s").await, up_to(160));
    assert_eq!(broken_chains(&admin).await, [""; 0]);
    let each: Vec<i64> = all(&admin, "select count(*) from livestore.events group by args::text").await;
    assert_eq!(each, [10; 16]);
}
