//! The functions of the library, called directly by somebody who means harm: an error at worst, and the connection goes on.

use crate::support::{one, push, run};
use livestore_tests::cluster::Database;
use livestore_tests::events::chain;
use livestore_tests::flavour::is_skipped;
use tokio_postgres::Client;

/// Expressions of a type that no function expects.
fn hostile(sql_type: &str) -> Vec<&'static str> {
    match sql_type {
        "text[]" => vec![
            "null",
            "'{}'",
            "array[null]",
            "array['s', null, 's']",
            "'{{s,t},{u,null}}'",
            "'[-5:-3]={a,b,c}'",
            "array[repeat('x', 1000000)]",
            "array_fill('[]'::text, array[20000])",
            "array[repeat('[', 100000)]",
            "array['[{\"name\":\"e\",\"args\":1,\"seqNum\":9223372036854775808,\"parentSeqNum\":-1,\"clientId\":\"\",\"sessionId\":\"\"}]']",
            "array['\u{1}\u{10ffff}']",
        ],
        "bigint[]" => vec![
            "null",
            "'{}'",
            "array[null]",
            "'{1,null,3}'",
            "'{{1,2},{3,4}}'",
            "array[-9223372036854775808]",
            "array[9223372036854775807]",
            "array_fill(1::bigint, array[20000])",
        ],
        "timestamp with time zone[]" => {
            vec!["null", "'{}'", "array[null]", "'{infinity}'", "'{-infinity}'", "'{{now},{now}}'"]
        }
        "text" => {
            vec!["null", "''", "'s'", "repeat('x', 1000000)", "'select 1; select 2'", "'drop table x'", "'select $1'"]
        }
        "integer" => vec!["null", "0", "-1", "2147483647", "-2147483648"],
        "bigint" => vec!["null", "0", "-1", "9223372036854775807", "-9223372036854775808"],
        "oid" => {
            vec!["null", "0", "1", "4294967295", "'pg_class'::regclass::oid", "'livestore.eventlog_1'::regclass::oid"]
        }
        other => panic!("what is hostile of the type {other}?"),
    }
}

/// Calls that differ from an ordinary one in one argument, and some that differ in all.
fn calls(name: &str, types: &[String]) -> Vec<String> {
    let values: Vec<_> = types.iter().map(|it| hostile(it)).collect();
    let ordinary = |it: &str| match it {
        "text[]" => "array['s']",
        "bigint[]" => "array[1]",
        "timestamp with time zone[]" => "array[now()]",
        "text" => "'select 1'",
        _ => "1",
    };
    let call = |arguments: Vec<&str>| {
        let arguments: Vec<_> = arguments.iter().zip(types).map(|(value, it)| format!("{value}::{it}")).collect();
        format!("select * from {name}({})", arguments.join(", "))
    };
    let most = values.iter().map(Vec::len).max().unwrap_or(1);
    let mut calls: Vec<_> = (0..most).map(|n| call(values.iter().map(|list| list[n % list.len()]).collect())).collect();
    for (place, list) in values.iter().enumerate() {
        for value in list {
            let mut arguments: Vec<_> = types.iter().map(|it| ordinary(it)).collect();
            arguments[place] = value;
            calls.push(call(arguments));
        }
    }
    calls
}

/// An error of any kind will do, if it is one that Postgres, or we, meant.
async fn survives(client: &Client, call: &str) -> bool {
    run(client, "begin").await;
    let failed = client.query(call, &[]).await.is_err_and(|error| {
        let error = error.as_db_error().unwrap_or_else(|| panic!("{call}: the connection broke: {error}"));
        let text = error.message();
        assert!(
            !text.contains("panic") && !text.contains("unwrap") && !text.contains("index out of"),
            "{call}: {error:?}"
        );
        true
    });
    run(client, "rollback").await;
    assert_eq!(one::<String>(client, "select current_user::text").await, "postgres", "{call}");
    failed
}

/// The functions of the library that are declared in the database.
async fn declared(client: &Client) -> Vec<(String, Vec<String>)> {
    let functions = client
        .query(
            "select p.oid::regproc::text, array(select format_type(t, null) from unnest(p.proargtypes) with ordinality a(t, n) order by n)
             from pg_proc p join pg_language l on l.oid = p.prolang
             where l.lanname = 'c' and p.pronamespace = 'livestore'::regnamespace",
            &[],
        )
        .await
        .unwrap();
    functions.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn every_function_of_the_library_survives_hostile_arguments() {
    if is_skipped("it has no library") {
        return;
    }
    for release in [None, Some("0.1.0"), Some("0.2.0")] {
        let database = Database::new().await;
        let client = database.admin().await;
        if let Some(release) = release {
            run(
                &client,
                &format!("drop extension livestore_sync; create extension livestore_sync version '{release}'"),
            )
            .await;
        }
        push(&client, "s", chain(0, 1)).await.unwrap();
        let pid: i32 = one(&client, "select pg_backend_pid()").await;
        let functions = declared(&client).await;
        assert!(functions.len() >= if release.is_some() { 1 } else { 7 }, "{functions:?}");
        for (name, types) in functions {
            let mut failed = 0;
            for call in calls(&name, &types) {
                failed += usize::from(survives(&client, &call).await);
            }
            assert!(failed > 0 || types.len() < 5, "{release:?} {name}: nothing of this was refused");
        }
        assert_eq!(one::<i32>(&client, "select pg_backend_pid()").await, pid);
        assert_eq!(push(&client, "s", chain(1, 1)).await.unwrap(), 2, "{release:?}");
    }
}

#[tokio::test]
async fn arrays_of_different_lengths_are_refused() {
    let database = Database::new().await;
    let client = database.admin().await;
    for call in [
        "livestore._append('{s,t}', '{[]}', '{null}')",
        "livestore._append('{s}', '{[]}', '{}')",
        "livestore._append('{s}', '{[]}', '{null}', null, '{}')",
        "livestore._insert_events('s', 1, 'livestore.eventlog_1'::regclass, '{1,2}', '{0}', '{e}', '{null}', '{c}', '{s}', '{2024-01-01}')",
    ] {
        let refused = crate::support::rejection(client.query(&format!("select * from {call}"), &[]).await);
        assert_eq!(refused.sqlstate, "2202E", "{call}");
    }
}
