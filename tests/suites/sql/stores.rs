//! Stores: creating them, with or without a dedicated table, emptying and dropping them.

use crate::support::{Push, all, broken_chains, log, one, one_with, push, push_batch, rejection, run, stored};
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event, up_to};
use serde_json::{Value, json};
use tokio_postgres::Client;

/// The dedicated table that `create_store` gives a store, as it answers it.
async fn own_table(client: &Client, store: &str) -> String {
    one_with(client, "select livestore.create_store($1, own_table => true)::text", &[&store]).await
}

/// The number of events in a table itself, without its child tables.
async fn events_in(client: &Client, table: &str) -> i64 {
    one(client, &format!("select count(*) from only {table}")).await
}

#[tokio::test]
async fn creating_a_store_is_idempotent_and_leaves_its_events_alone() {
    let database = Database::new().await;
    let client = database.admin().await;
    for _ in 0..2 {
        let table: String = one(&client, "select livestore.create_store('s')::text").await;
        assert_eq!(table, "livestore.eventlog_1");
    }
    assert_eq!(one::<i64>(&client, "select livestore.head('s')").await, 0);
    push(&client, "s", chain(0, 3)).await.unwrap();
    let before = stored(&client).await;
    one::<String>(&client, "select livestore.create_store('s')::text").await;
    assert_eq!(stored(&client).await, before);
    assert_eq!(own_table(&client, "s").await, "livestore.eventlog_1_s");
    let moved = stored(&client).await;
    for call in ["create_store('s')", "create_store('s', own_table => true)", "create_store('s', own_table => false)"] {
        let table: String = one(&client, &format!("select livestore.{call}::text")).await;
        assert_eq!(table, "livestore.eventlog_1_s", "{call}");
        assert_eq!(stored(&client).await, moved, "{call}");
    }
}

/// The error of the constraint would show the row, and fail the whole group.
#[tokio::test]
async fn a_store_id_has_1_to_1024_characters() {
    let database = Database::new().await;
    let client = database.admin().await;
    let (longest, too_long) = ("é".repeat(1024), "é".repeat(1025));
    push(&client, &longest, chain(0, 1)).await.unwrap();
    for store in ["", &*too_long] {
        for sql in [
            "select livestore.commit($1, 'e')",
            "select livestore.push($1, '[{\"name\":\"e\",\"seqNum\":1,\"parentSeqNum\":0,\"clientId\":\"c\",\"sessionId\":\"s\"}]')",
            "select livestore.commit_many(array['others', $1], 'e')",
            "select livestore.create_store($1)",
            "select livestore.create_store($1, own_table => true)",
        ] {
            let rejection = rejection(client.query(sql, &[&store]).await);
            assert_eq!(
                (&*rejection.sqlstate, &*rejection.message),
                ("LS003", "a store id has 1 to 1,024 characters"),
                "{sql}"
            );
            assert_eq!(
                rejection.json(),
                json!({"index": null, "reason": "the store id is empty or too long"}),
                "{sql}"
            );
        }
        let pushes = [Push::to("first", chain(0, 1)), Push::to(store, chain(0, 1)), Push::to(&longest, chain(1, 1))];
        let outcomes = push_batch(&client, &pushes).await;
        let outcomes: Vec<_> = outcomes.iter().map(|outcome| outcome.brief()).collect();
        assert!(matches!(outcomes[..], [Ok(_), Err("LS003"), Ok(_)]), "{outcomes:?}");
    }
    assert_eq!(all::<String>(&client, "select store_id from livestore.stores order by 1").await, ["first", &*longest]);
}

#[tokio::test]
async fn a_store_with_a_table_of_its_own_works_as_any_other() {
    let database = Database::new().await;
    let (admin, client) = (database.admin().await, database.connect("sidecar").await);
    push(&client, "pooled", chain(0, 3)).await.unwrap();
    let table = own_table(&client, "own").await;
    assert_eq!(push(&client, "own", chain(0, 3)).await.unwrap(), 3);
    assert_eq!(push(&client, "own", chain(1, 4)).await.unwrap(), 5, "partly a repeat");
    assert_eq!(push(&client, "own", chain(0, 5)).await.unwrap(), 5, "a repeat");
    assert_eq!(rejection(push(&client, "own", chain(7, 1)).await).sqlstate, "LS001");
    assert_eq!(one::<i64>(&client, "select livestore.commit('own', 'e')").await, 6);
    assert_eq!(log(&client, "own").await, up_to(6));
    assert_eq!(all::<i64>(&client, "select seq_num from livestore.pull('own', 2, 3)").await, [3, 4, 5]);
    assert_eq!((events_in(&admin, &table).await, events_in(&admin, "livestore.eventlog_1").await), (6, 3));
    assert_eq!(broken_chains(&admin).await, [""; 0]);
}

#[tokio::test]
async fn one_call_pushes_to_shared_and_own_tables() {
    let database = Database::new().await;
    let (admin, client) = (database.admin().await, database.connect("sidecar").await);
    let tables = [own_table(&client, "own 1").await, own_table(&client, "own 2").await];
    let pushes: Vec<_> =
        (0..4).flat_map(|n| ["own 1", "pooled", "own 2"].map(|store| Push::to(store, chain(n * 2, 2)))).collect();
    let outcomes = push_batch(&client, &pushes).await;
    assert!(outcomes.iter().all(|outcome| outcome.appended == Some(2)), "{outcomes:?}");
    for store in ["own 1", "pooled", "own 2"] {
        assert_eq!(log(&client, store).await, up_to(8), "{store}");
    }
    for table in tables.iter().map(String::as_str).chain(["livestore.eventlog_1"]) {
        assert_eq!(events_in(&admin, table).await, 8, "{table}");
    }

    // The same again, and something else in its place: both have to be looked up, each in its table.
    let repeats = push_batch(&client, &pushes).await;
    assert!(repeats.iter().all(|outcome| outcome.brief() == Ok(8) && outcome.appended == Some(0)), "{repeats:?}");
    let others = ["own 1", "pooled", "own 2"].map(|store| Push::to(store, json!([event(3, "other", json!({}))])));
    let rejected = push_batch(&client, &others).await;
    assert!(rejected.iter().all(|outcome| outcome.brief() == Err("LS001")), "{rejected:?}");
}

#[tokio::test]
async fn events_move_into_an_own_table_unchanged() {
    let database = Database::new().await;
    let client = database.admin().await;
    push(&client, "s", chain(0, 100)).await.unwrap();
    push(&client, "neighbour", chain(0, 10)).await.unwrap();
    let rows = "select e::text from livestore.events e order by store_id, seq_num";
    let before: Vec<String> = all(&client, rows).await;
    let table = own_table(&client, "s").await;
    assert_eq!(all::<String>(&client, rows).await, before);
    assert_eq!(all::<i64>(&client, "select seq_num from livestore.pull('s', 0, 1000)").await, up_to(100));
    assert_eq!((events_in(&client, &table).await, events_in(&client, "livestore.eventlog_1").await), (100, 10));
    assert_eq!(push(&client, "s", chain(90, 20)).await.unwrap(), 110, "its head is where it was");
}

#[tokio::test]
async fn events_move_into_an_own_table_although_the_log_has_columns_of_others() {
    let database = Database::new().await;
    let client = database.admin().await;
    push(&client, "s", json!([event(0, "todo.created", json!({})), event(1, "todo.deleted", json!({}))]))
        .await
        .unwrap();
    run(
        &client,
        "alter table livestore.eventlog_1
             add column kind text not null generated always as (split_part(name, '.', 1)) stored,
             add column note text;
         update livestore.eventlog_1 set note = 'seen' where \"seqNum\" = 1",
    )
    .await;
    let rows = "select concat_ws(' ', \"seqNum\", name, kind, note) from livestore.eventlog_1 order by \"seqNum\"";
    let before: Vec<String> = all(&client, rows).await;
    assert_eq!(before, ["1 todo.created todo seen", "2 todo.deleted todo"]);
    let table = own_table(&client, "s").await;
    assert_eq!(all::<String>(&client, rows).await, before);
    assert_eq!(push(&client, "s", chain(2, 1)).await.unwrap(), 3);
    assert_eq!((events_in(&client, &table).await, events_in(&client, "livestore.eventlog_1").await), (3, 0));
}

#[tokio::test]
async fn an_own_table_has_the_primary_key_and_takes_no_other_store() {
    let database = Database::new().await;
    let client = database.admin().await;
    let table = own_table(&client, "s").await;
    let key: Vec<String> = all(
        &client,
        "select pg_get_constraintdef(oid) from pg_constraint where conrelid = 'livestore.eventlog_1_s'::regclass and contype = 'p'",
    )
    .await;
    assert_eq!(key, [r#"PRIMARY KEY (store, "seqNum")"#]);
    let insert = format!("insert into {table} select id + $1, 1, 0, 'e', null, 'c', 's', now() from livestore.stores");
    client.execute(&insert, &[&0i64]).await.unwrap();
    assert_eq!(rejection(client.execute(&insert, &[&0i64]).await).sqlstate, "23505", "the same event twice");
    assert_eq!(rejection(client.execute(&insert, &[&1i64]).await).sqlstate, "23514", "another store");
}

#[tokio::test]
async fn own_tables_are_named_as_livestores_electric_provider_names_them() {
    let database = Database::new().await;
    let client = database.admin().await;
    let fifty_two = "x".repeat(52);
    for (store, table) in [
        ("todos", "eventlog_1_todos"),
        ("Todos_2", "eventlog_1_Todos_2"),
        ("a-b.c d/e", "eventlog_1_a_b_c_d_e"),
        ("über", "eventlog_1__ber"),
        // JavaScript counts it as two characters.
        ("a😀b", "eventlog_1_a__b"),
        ("日本", "eventlog_1___"),
        (r#"";drop table x--"#, "eventlog_1___drop_table_x__"),
        (&fifty_two, &format!("eventlog_1_{fifty_two}")),
    ] {
        own_table(&client, store).await;
        let name: String = one_with(
            &client,
            "select c.relname::text from livestore.stores s join pg_class c on c.oid = s.eventlog where s.store_id = $1",
            &[&store],
        )
        .await;
        assert_eq!(name, table);
    }
}

#[tokio::test]
async fn a_name_of_more_than_63_characters_is_a_hash() {
    let database = Database::new().await;
    let client = database.admin().await;
    let long = ["x".repeat(53), "x".repeat(54), "😀".repeat(27), "é".repeat(1024)];
    let mut tables = Vec::new();
    for store in &long {
        let table = own_table(&client, store).await;
        let name = table.strip_prefix("livestore.").unwrap().trim_matches('"').to_string();
        let hash = name.strip_prefix("eventlog_1_hash_").unwrap_or_else(|| panic!("{name}"));
        assert!(name.len() <= 63 && hash.parse::<i32>().is_ok(), "{name}");
        assert!(!tables.contains(&name), "{name} twice");
        tables.push(name);
        push(&client, store, chain(0, 2)).await.unwrap();
        assert_eq!(log(&client, store).await, [1, 2]);
    }
}

/// The results are those of `Hash.string` of effect 3.21.2 from npm.
#[tokio::test]
async fn the_hash_is_that_of_livestore() {
    let database = Database::new().await;
    let client = database.admin().await;
    for (text, hash) in [
        ("x".repeat(60), 513_662_213),
        ("a-b".repeat(30), -241_057_851),
        ("😀é".repeat(40), -230_874_107),
        ("ü".repeat(1000), 1_050_348_293),
    ] {
        let found: i32 = one_with(&client, "select livestore.hash_string($1)", &[&text]).await;
        assert_eq!(found, hash);
    }
}

#[tokio::test]
async fn stores_whose_names_collide_stay_apart() {
    let database = Database::new().await;
    let client = database.admin().await;
    let stores = ["a_b", "a-b", "a.b", "a b", &"y".repeat(53), "hash_of_another"];
    let mut tables = Vec::new();
    for (count, store) in (1..).zip(stores) {
        push(&client, store, chain(0, count)).await.unwrap();
        tables.push(own_table(&client, store).await);
    }
    for (count, store) in (1..).zip(stores) {
        push(&client, store, chain(count, 1)).await.unwrap();
        assert_eq!(log(&client, store).await, up_to(count + 1), "{store}");
    }
    tables.sort();
    tables.dedup();
    assert_eq!(tables.len(), stores.len(), "{tables:?}");
}

#[tokio::test]
async fn a_name_with_a_number_may_be_taken_too() {
    let database = Database::new().await;
    let client = database.admin().await;
    // A collision is resolved with the number of the store, 3 here.
    for store in ["a_b", "a_b_3", "a-b"] {
        let result = client.execute("select livestore.create_store($1, own_table => true)", &[&store]).await;
        assert!(result.is_ok(), "{store}: {result:?}");
    }
}

#[tokio::test]
async fn a_reset_empties_the_log_and_begins_another() {
    let database = Database::new().await;
    let client = database.admin().await;
    push(&client, "neighbour", chain(0, 3)).await.unwrap();
    for own in [false, true] {
        let store = format!("own {own}");
        one_with::<String>(&client, "select livestore.create_store($1, $2)::text", &[&store, &own]).await;
        push(&client, &store, chain(0, 5)).await.unwrap();
        let table = "select eventlog::text from livestore.stores where store_id = $1";
        let before: String = one_with(&client, table, &[&store]).await;
        one_with::<String>(&client, "select livestore.reset_store($1)", &[&store]).await;
        assert_eq!(log(&client, &store).await, [0; 0]);
        assert_eq!(one_with::<i64>(&client, "select livestore.head($1)", &[&store]).await, 0);
        assert_eq!(one_with::<String>(&client, table, &[&store]).await, before, "it stays where it is");
        assert_eq!(rejection(push(&client, &store, chain(5, 1)).await).sqlstate, "LS001");
        assert_eq!(push(&client, &store, chain(0, 2)).await.unwrap(), 2);
        assert_eq!(log(&client, &store).await, [1, 2]);
    }
    assert_eq!(log(&client, "neighbour").await, up_to(3));
}

#[tokio::test]
async fn a_dropped_store_is_gone_with_its_table() {
    let database = Database::new().await;
    let client = database.admin().await;
    push(&client, "neighbour", chain(0, 3)).await.unwrap();
    for own in [false, true, true] {
        one_with::<String>(&client, "select livestore.create_store('s', $1)::text", &[&own]).await;
        push(&client, "s", chain(0, 5)).await.unwrap();
        run(&client, "select livestore.drop_store('s')").await;
        assert_eq!(log(&client, "s").await, [0; 0]);
        assert_eq!(all::<String>(&client, "select store_id from livestore.stores").await, ["neighbour"]);
        assert_eq!(all::<String>(&client, "select inhrelid::regclass::text from pg_inherits").await, [""; 0]);
        assert_eq!(push(&client, "s", chain(0, 1)).await.unwrap(), 1);
        run(&client, "select livestore.drop_store('s')").await;
    }
    assert_eq!(log(&client, "neighbour").await, up_to(3));
    assert_eq!(events_in(&client, "livestore.eventlog_1").await, 3, "nothing of it is left");
}

/// Everybody who needs the table waits behind whoever waits to lock it.
#[tokio::test]
async fn a_reader_that_stays_in_a_transaction_fails_a_reset_and_holds_nobody_up() {
    let database = Database::new().await;
    let (admin, reader) = (database.connect("admin").await, database.connect("reader").await);
    let table = own_table(&admin, "own").await;
    push(&admin, "own", chain(0, 3)).await.unwrap();
    run(&reader, &format!("begin; select from {table}")).await;
    for call in ["reset_store('own')", "drop_store('own')"] {
        let since = std::time::Instant::now();
        let refused = rejection(admin.query(&format!("select livestore.{call}"), &[]).await);
        assert!(refused.sqlstate == "55P03" && refused.message.contains(&table), "{refused:?}");
        assert!(since.elapsed() < std::time::Duration::from_secs(20), "{:?}", since.elapsed());
    }
    assert_eq!(log(&database.connect("reader").await, "own").await, up_to(3));
    run(&reader, "commit").await;
    run(&admin, "select livestore.reset_store('own'), livestore.drop_store('own')").await;
}

#[tokio::test]
async fn numbers_of_stores_are_not_used_again() {
    let database = Database::new().await;
    let client = database.admin().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        push(&client, "s", chain(0, 1)).await.unwrap();
        ids.push(one::<i64>(&client, "select id from livestore.stores where store_id = 's'").await);
        run(&client, "select livestore.drop_store('s')").await;
    }
    assert!(ids[0] < ids[1] && ids[1] < ids[2], "{ids:?}");
}

#[tokio::test]
async fn a_store_that_must_exist_and_does_not_raises_ls004() {
    let database = Database::new().await;
    let client = database.admin().await;
    for store in ["missing", "with \"quotes\"", ""] {
        for function in ["reset_store", "drop_store"] {
            let rejection = rejection(client.execute(&format!("select livestore.{function}($1)"), &[&store]).await);
            assert_eq!(rejection.sqlstate, "LS004", "{function}");
            assert_eq!(rejection.json(), json!({"storeId": store}));
            assert!(!rejection.message.is_empty() && !rejection.hint.is_empty(), "{rejection:?}");
        }
    }
    assert_eq!(stored(&client).await, [""; 0]);
}

/// A move by logical replication leaves this behind: rows, and a sequence that knows nothing of them.
#[tokio::test]
async fn stores_begin_although_the_sequence_of_their_numbers_is_behind() {
    let database = Database::new().await;
    let (admin, client) = (database.admin().await, database.connect("sidecar").await);
    run(
        &admin,
        "insert into livestore.stores (id, store_id, backend_id) overriding system value
         select n, 'moved ' || n, livestore.backend_id('moved ' || n) from generate_series(1, 3000) n",
    )
    .await;
    // The very first number is one that the sequence has not given yet.
    let pushes: Vec<_> = (0..1000).map(|n| Push::to(format!("new {n}"), chain(0, 1))).collect();
    let outcomes = push_batch(&client, &pushes).await;
    assert!(outcomes.iter().all(|outcome| outcome.brief() == Ok(1)), "{:?}", outcomes[0]);
    assert_eq!(all::<i64>(&admin, "select id from livestore.stores where id > 3000 order by id").await, {
        (3001..=4000).collect::<Vec<i64>>()
    });

    // Replication goes on, and each way to get a number copes.
    for way in [
        "select livestore.commit('by commit', 'e')",
        "select livestore.create_store('by create_store')",
        "select livestore.reset_store('new 1')",
        "select livestore.relay_append('by relay', '{e}', '{null}', '{c}', '{s}', '{1}', '{1}')",
    ] {
        run(
            &admin,
            "insert into livestore.stores (id, store_id, backend_id) overriding system value
             select 1 + max(id) + 500, 'later ' || max(id), 'b' from livestore.stores",
        )
        .await;
        run(&admin, way).await;
        let (numbers, newest): (i64, i64) = {
            let row = admin.query_one("select count(distinct id), max(id) from livestore.stores", &[]).await.unwrap();
            (row.get(0), row.get(1))
        };
        let next: i64 = one(&admin, "select last_value from livestore.stores_id_seq").await;
        assert_eq!((next, numbers), (newest, one(&admin, "select count(*) from livestore.stores").await), "{way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_that_begin_at_once_get_numbers_of_their_own_although_the_sequence_is_behind() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(
        &admin,
        "insert into livestore.stores (id, store_id, backend_id) overriding system value select n, 'm' || n, 'b' from generate_series(1, 500) n",
    )
    .await;
    let sessions = (0..8).map(|session| {
        let database = database.clone();
        tokio::spawn(async move {
            let client = database.connect("sidecar").await;
            for n in 0..20 {
                run(&client, &format!("select livestore.commit('s {session} {n}', 'e')")).await;
            }
        })
    });
    for session in sessions.collect::<Vec<_>>() {
        session.await.unwrap();
    }
    assert_eq!(one::<i64>(&admin, "select count(*) from livestore.stores where id > 500 and head = 1").await, 160);
}

#[tokio::test]
async fn a_store_gets_a_new_backend_id_and_keeps_its_events() {
    let database = Database::new().await;
    let admin = database.connect("admin").await;
    for store in ["s", "other"] {
        push(&admin, store, chain(0, 2)).await.unwrap();
    }
    let ids = "select string_agg(livestore.backend_id(s), ' ' order by s) from unnest(array['other', 's']) s";
    let before: String = one(&admin, ids).await;
    let renewed: String = one(&admin, "select livestore.renew_backend_id('s')").await;
    let after: String = one(&admin, ids).await;
    assert_eq!(after, format!("{} {renewed}", before.split(' ').next().unwrap()));
    assert_ne!(after, before);
    assert_eq!(push(&admin, "s", chain(2, 1)).await.unwrap(), 3);
    let changes = "select store_id || ' ' || change from livestore.read_all(0) where change is not null";
    assert_eq!(one::<String>(&admin, changes).await, "s renew");
    let refused = rejection(admin.query("select livestore.renew_backend_id('none')", &[]).await);
    assert_eq!(refused.sqlstate, "LS004");
}

#[tokio::test]
async fn sizes_are_those_of_the_tables() {
    let database = Database::new().await;
    let admin = database.admin().await;
    for (store, own_table) in [("shared", false), ("own", true)] {
        run(&admin, &format!("select livestore.create_store('{store}', {own_table})")).await;
        let batch: Value =
            (0..2000).map(|n| event(n, "todoCreated", json!({"id": n, "text": "buy milk and bread"}))).collect();
        push(&admin, store, batch).await.unwrap();
    }
    run(&admin, "select livestore.create_store('empty')").await;
    let reader = database.connect("reader").await;
    let sizes: Vec<String> =
        all(&reader, "select concat_ws(' ', store_id, events, own_table, last_event_at is null) from livestore.store_sizes order by 1").await;
    assert_eq!(sizes, ["empty 0 f t", "own 2000 t f", "shared 2000 f f"]);
    for (store, table) in [("shared", "eventlog_1"), ("own", "eventlog_1_own")] {
        let told: i64 =
            one(&reader, &format!("select bytes from livestore.store_sizes where store_id = '{store}'")).await;
        let real: i64 = one(&admin, &format!("select pg_total_relation_size('livestore.{table}')")).await;
        let share = told as f64 / real as f64;
        assert!((0.6..1.2).contains(&share), "{store}: {told} of {real}");
    }
    assert_eq!(one::<i64>(&reader, "select sum(events)::bigint from livestore.daily_growth").await, 4000);
    assert_eq!(
        one::<i64>(&reader, "select sum(bytes)::bigint from livestore.daily_growth").await,
        one::<i64>(&reader, "select sum(bytes)::bigint from livestore.store_sizes").await
    );
}
