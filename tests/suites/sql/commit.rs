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
    for call in [
        "commit('s', null)",
        "commit('s', '')",
        "commit('s', 'e', client_id => null)",
        "commit('s', 'e', session_id => null)",
    ] {
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

/// Each way to write the args leads to one function.
#[tokio::test]
async fn args_may_be_json_jsonb_text_a_literal_or_nothing() {
    let database = Database::new().await;
    let admin = database.admin().await;
    for (call, args) in [
        ("'s', 'e'", None),
        ("'s', 'e', null", None),
        ("'s', 'e', client_id => 'c'", None),
        ("'s', 'e', '{\"a\": 1.0}'", Some("{\"a\": 1.0}")),
        ("'s', 'e', '{\"a\": 1.0}'::text", Some("{\"a\": 1.0}")),
        ("'s', 'e', '{\"a\": 1.0}'::json", Some("{\"a\": 1.0}")),
        ("'s', 'e', '{\"a\":1.0}'::jsonb", Some("{\"a\": 1.0}")),
        ("'s', 'e', json_build_object('a', 1)", Some("{\"a\" : 1}")),
        ("'s', 'e', args => '{}', session_id => 'x'", Some("{}")),
        ("store_id => 's', name => 'e', args => '[]', key => 'k'", Some("[]")),
    ] {
        let seq_num: i64 = one(&admin, &format!("select livestore.commit({call})")).await;
        let stored = format!("select args::text from livestore.events where seq_num = {seq_num}");
        assert_eq!(one::<Option<String>>(&admin, &stored).await.as_deref(), args, "{call}");
    }
    let hook = "set role livestore_hooks; select livestore.commit('s', 'e', '{}'); reset role";
    run(&admin, hook).await;
    for bad in ["null, 'e'", "'s', 'e', '{}', key => ''", "'s', 'e', '{'"] {
        let refused = rejection(admin.query(&format!("select livestore.commit({bad})"), &[]).await);
        assert!(["22023", "22P02"].contains(&&*refused.sqlstate), "{bad}: {refused:?}");
    }
    let long = format!("select livestore.commit('s', 'e', key => '{}')", "ä".repeat(513));
    assert_eq!(rejection(admin.query(&long, &[]).await).sqlstate, "22023");
}

#[tokio::test]
async fn an_expected_head_is_the_head_or_nothing_is_written() {
    let database = Database::new().await;
    let admin = database.admin().await;
    assert_eq!(one::<i64>(&admin, "select livestore.commit('s', 'e', expected_head => 0)").await, 1);
    assert_eq!(one::<i64>(&admin, "select livestore.commit('s', 'e', expected_head => 1)").await, 2);
    for head in [0, 1, 3] {
        let commit = format!("select livestore.commit('s', 'e', expected_head => {head})");
        let refused = rejection(admin.query(&commit, &[]).await);
        assert_eq!(refused.sqlstate, "LS001");
        assert_eq!(refused.json(), json!({"minimumExpectedNum": 2, "providedNum": head}));
    }
    assert_eq!(one::<i64>(&admin, "select livestore.head('s')").await, 2);
}

/// Ten sessions commit with the same keys at the same time, one by one and many at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_committed_once() {
    let database = Database::new().await;
    let tasks: Vec<_> = (0..10)
        .map(|session| {
            let database = database.clone();
            tokio::spawn(async move {
                let client = database.connect("sidecar").await;
                let mut numbers = Vec::new();
                for key in 0..20 {
                    if session % 2 == 0 {
                        let commit = format!("select livestore.commit('s', 'e', '{{\"by\": {session}}}', key => 'k{key}')");
                        numbers.push(one::<i64>(&client, &commit).await);
                    } else {
                        let commit = format!(
                            "select seq_num from livestore.commit_many(array['s', 'x{session}', 's'], 'e', keys => array['k{key}', null, 'k{key}'])"
                        );
                        let rows: Vec<i64> = all(&client, &commit).await;
                        assert_eq!(rows[0], rows[2]);
                        numbers.push(rows[0]);
                    }
                }
                numbers
            })
        })
        .collect();
    let mut all_numbers = Vec::new();
    for task in tasks {
        all_numbers.push(task.await.unwrap());
    }
    let admin = database.admin().await;
    assert!(all_numbers.iter().all(|numbers| *numbers == all_numbers[0]), "{all_numbers:?}");
    assert_eq!(one::<i64>(&admin, "select livestore.head('s')").await, 20);
    // A key belongs to a log: after a reset it is free again.
    run(&admin, "select livestore.reset_store('s')").await;
    assert_eq!(one::<i64>(&admin, "select livestore.commit('s', 'e', key => 'k7')").await, 1);
    // A commit that is rolled back leaves no key.
    run(&admin, "begin; select livestore.commit('s', 'e', key => 'gone'); rollback").await;
    assert_eq!(one::<i64>(&admin, "select livestore.commit('s', 'e', key => 'gone')").await, 2);
    run(&admin, "select livestore.drop_store('s')").await;
    assert_eq!(one::<i64>(&admin, "select count(*) from livestore.commit_keys").await, 0);
}

#[tokio::test]
async fn many_stores_get_an_event_in_one_call_or_none_does() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(&admin, "select livestore.commit('b', 'before'), livestore.create_store('own', own_table => true)").await;
    let commit = "select concat_ws(' ', store_id, seq_num) from livestore.commit_many(
        array['b', 'own', 'a', 'b'], 'e', array['1', '2', null, '\"\\u0000\"']::json[], client_id => 'job')";
    assert_eq!(all::<String>(&admin, commit).await, ["b 2", "own 1", "a 1", "b 3"]);
    let stored = "select string_agg(concat_ws(' ', store_id, seq_num, coalesce(args::text, '-'), client_id), ',' order by store_id, seq_num)
        from livestore.events where name = 'e'";
    assert_eq!(one::<String>(&admin, stored).await, "a 1 - job,b 2 1 job,b 3 \"\\u0000\" job,own 1 2 job");
    let shared =
        "select string_agg(args::text, ' ') from livestore.commit_many(array['x', 'y'], 'shared', array['7']::json[]) m
        join livestore.events e using (store_id, seq_num)";
    run(&admin, &format!("select * from ({shared}) s")).await;
    assert_eq!(
        one::<String>(&admin, "select string_agg(args::text, ' ') from livestore.events where name = 'shared'").await,
        "7 7"
    );
    assert_eq!(all::<String>(&admin, "select store_id from livestore.commit_many('{}', 'e')").await, [""; 0]);

    let hook = "create function public.reject() returns trigger language plpgsql as $$
        begin if new.args::text = '13' then raise exception 'unlucky'; end if; return new; end $$;
        create trigger reject before insert on livestore.eventlog_1 for each row execute function public.reject()";
    run(&admin, hook).await;
    let refused = rejection(
        admin.query("select * from livestore.commit_many(array['p', 'q'], 'e', array['1', '13']::json[])", &[]).await,
    );
    assert_eq!((&*refused.sqlstate, &*refused.message), ("P0001", "unlucky"));
    assert_eq!(one::<i64>(&admin, "select livestore.head('p') + livestore.head('q')").await, 0);
    for bad in [
        "null, 'e'",
        "array['a', null], 'e'",
        "array['a', 'b'], 'e', array['1', '2', '3']::json[]",
        "array['a', 'b'], 'e', keys => array['k']",
        "array['a'], 'e', keys => array['']",
    ] {
        let refused = rejection(admin.query(&format!("select livestore.commit_many({bad})"), &[]).await);
        assert_eq!(refused.sqlstate, "22023", "{bad}");
    }
}
