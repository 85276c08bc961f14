//! Reading: `pull`, `head` and `backend_id`, of stores that exist and of stores that do not.

use crate::support::{all, all_with, log, one, one_with, push, rejection, run, stored};
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event, up_to};
use livestore_tests::flavour::Flavour;
use serde_json::json;
use tokio_postgres::Client;

async fn backend_id(client: &Client, store: &str) -> String {
    one_with(client, "select livestore.backend_id($1)", &[&store]).await
}

#[tokio::test]
async fn a_pull_starts_after_a_number_and_ends_at_a_count() {
    let database = Database::new().await;
    let client = database.connect("reader").await;
    push(&database.admin().await, "s", chain(0, 250)).await.unwrap();
    push(&database.admin().await, "other", chain(0, 3)).await.unwrap();
    for (call, expected) in [
        ("pull('s')", (1..=100).collect::<Vec<i64>>()),
        ("pull('s', 240)", (241..=250).collect()),
        ("pull('s', 250)", vec![]),
        ("pull('s', 9007199254740991)", vec![]),
        ("pull('s', 10, 3)", vec![11, 12, 13]),
        ("pull('s', 10, 0)", vec![]),
        ("pull('s', max_events => 1000)", (1..=250).collect()),
        ("pull('s', -1, 1)", vec![1]),
        ("pull('s', null, 1)", vec![1]),
        ("pull('s', 245, null)", (246..=250).collect()),
        ("pull('other')", vec![1, 2, 3]),
        ("pull('missing')", vec![]),
        ("pull(null)", vec![]),
    ] {
        assert_eq!(all::<i64>(&client, &format!("select seq_num from livestore.{call}")).await, expected, "{call}");
    }
}

#[tokio::test]
async fn a_pull_from_within_a_gap_starts_with_the_next_event() {
    let database = Database::new().await;
    let client = database.admin().await;
    let mut late = event(3, "e", json!({}));
    late["seqNum"] = json!(10);
    push(&client, "s", chain(0, 3)).await.unwrap();
    push(&client, "s", json!([late])).await.unwrap();
    for after in [3i64, 5, 9] {
        let events: Vec<i64> = all_with(&client, "select seq_num from livestore.pull('s', $1)", &[&after]).await;
        assert_eq!(events, [10]);
    }
}

#[tokio::test]
async fn a_pull_has_the_rows_of_the_view() {
    let database = Database::new().await;
    let client = database.admin().await;
    push(&client, "s", chain(0, 3)).await.unwrap();
    run(&client, "select livestore.commit('s', 'without args')").await;
    let rows = "select jsonb_agg(e order by seq_num)::text from";
    let pulled: String = one(&client, &format!("{rows} livestore.pull('s') e")).await;
    assert_eq!(pulled, one::<String>(&client, &format!("{rows} livestore.events e")).await);
}

#[tokio::test]
async fn a_page_ends_with_the_event_that_reaches_the_bytes() {
    let database = Database::new().await;
    let client = database.connect("reader").await;
    let large: serde_json::Value = (0..10).map(|parent| event(parent, "e", json!("x".repeat(1000)))).collect();
    push(&database.admin().await, "s", large).await.unwrap();
    for (bytes, expected) in [(1, 1), (1000, 1), (1500, 2), (5000, 5), (1_000_000, 10)] {
        let sql = "select seq_num from livestore.pull_page('s', 0, 100, $1)";
        assert_eq!(all_with::<i64>(&client, sql, &[&bytes]).await, up_to(expected), "{bytes} bytes");
    }
}

/// It is one value in memory, whatever a reader asks for.
#[tokio::test]
async fn a_page_has_at_most_ten_thousand_events_and_64_mebibytes() {
    let database = Database::new().await;
    let (client, owner) = (database.connect("reader").await, database.admin().await);
    for (store, count, args) in [("many", 10_010, "null"), ("large", 20, "to_json(repeat('x', 4 * 1024 * 1024))")] {
        let insert = format!(
            "select livestore.create_store('{store}');
             insert into livestore.eventlog_1
             select s.id, n, n - 1, 'e', {args}, 'c', 's', now()
             from livestore.stores s, generate_series(1, {count}) n where s.store_id = '{store}'"
        );
        run(&owner, &insert).await;
    }
    let length =
        |most: i32| format!("select octet_length(events) from livestore.read_page('many', 0, {most}, 2147483647)");
    let page: i32 = one(&client, &length(i32::MAX)).await;
    assert_eq!(page, one::<i32>(&client, &length(10_000)).await);
    assert!(page > one::<i32>(&client, &length(9_999)).await);
    let large = "select octet_length(events) / 1024 / 1024 from livestore.read_page('large', 0, 100, 2147483647)";
    assert_eq!(one::<i32>(&client, large).await, 64);
}

#[tokio::test]
async fn the_head_is_the_last_number_and_0_without_events() {
    let database = Database::new().await;
    let client = database.admin().await;
    run(&client, "select livestore.create_store('empty')").await;
    push(&client, "s", chain(0, 3)).await.unwrap();
    for (store, head) in [("s", 3), ("empty", 0), ("missing", 0)] {
        assert_eq!(one_with::<i64>(&client, "select livestore.head($1)", &[&store]).await, head, "{store}");
    }
}

#[tokio::test]
async fn reading_a_store_that_does_not_exist_writes_nothing() {
    let database = Database::new().await;
    let client = database.admin().await;
    // Postgres itself refuses to write in such a transaction.
    run(&client, "begin read only").await;
    run(&client, "select livestore.backend_id('s'), livestore.head('s'), (select count(*) from livestore.pull('s'))")
        .await;
    run(&client, "commit").await;
    assert_eq!(stored(&client).await, [""; 0]);
}

#[tokio::test]
async fn a_backend_id_is_21_url_safe_characters_and_different_for_each_store() {
    let database = Database::new().await;
    let client = database.connect("reader").await;
    let ids: Vec<String> =
        all(&client, "select livestore.backend_id('store ' || n) from generate_series(1, 500) n").await;
    for id in &ids {
        let url_safe = |character: char| character.is_ascii_alphanumeric() || character == '_' || character == '-';
        assert!(id.len() == 21 && id.chars().all(url_safe), "{id}");
    }
    let text = ids.concat();
    assert!(text.contains('-') && text.contains('_'), "the 64 characters are all used");
    let different: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(different.len(), 500);
}

#[tokio::test]
async fn databases_have_different_backend_ids_for_a_store_of_the_same_name() {
    let mut ids = Vec::new();
    let cluster = Database::new().await;
    let admin = cluster.admin().await;
    for n in 0..2 {
        // Not a copy of the template, which has its seed.
        let name = format!("{}_{n}", cluster.name());
        run(&admin, &format!("create database {name} template template0")).await;
        let client = cluster.cluster().connect("postgres", &name).await;
        run(&client, Flavour::of_tests().install()).await;
        ids.push(backend_id(&client, "s").await);
    }
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn a_store_is_created_with_the_backend_id_that_was_answered_before() {
    let database = Database::new().await;
    let client = database.admin().await;
    for (store, creation) in [
        ("pushed", format!("select livestore.push('pushed', '{}')", chain(0, 1))),
        ("committed", "select livestore.commit('committed', 'e')".into()),
        ("created", "select livestore.create_store('created')".into()),
        ("own", "select livestore.create_store('own', own_table => true)".into()),
    ] {
        let before = backend_id(&client, store).await;
        run(&client, &creation).await;
        assert_eq!(backend_id(&client, store).await, before, "{store}");
        let registered: String =
            one_with(&client, "select backend_id from livestore.stores where store_id = $1", &[&store]).await;
        assert_eq!(registered, before);
        run(&client, &format!("select livestore.commit('{store}', 'later'), livestore.create_store('{store}', true)"))
            .await;
        assert_eq!(backend_id(&client, store).await, before, "{store}, after more events and a move");
    }
}

#[tokio::test]
async fn a_reset_changes_the_backend_id_each_time() {
    let database = Database::new().await;
    let client = database.admin().await;
    push(&client, "s", chain(0, 1)).await.unwrap();
    let other = backend_id(&client, "other").await;
    let mut ids = vec![backend_id(&client, "s").await];
    for _ in 0..3 {
        let answered: String = one(&client, "select livestore.reset_store('s')").await;
        assert_eq!(backend_id(&client, "s").await, answered);
        assert!(!ids.contains(&answered), "{answered} in {ids:?}");
        ids.push(answered);
    }
    assert_eq!(backend_id(&client, "other").await, other);
}

#[tokio::test]
async fn a_store_that_is_dropped_and_created_again_has_another_backend_id() {
    let database = Database::new().await;
    let client = database.admin().await;
    let mut ids = vec![backend_id(&client, "s").await];
    for _ in 0..3 {
        push(&client, "s", chain(0, 2)).await.unwrap();
        run(&client, "select livestore.drop_store('s')").await;
        let meanwhile = backend_id(&client, "s").await;
        assert_eq!(backend_id(&client, "s").await, meanwhile, "the same at every call");
        assert!(!ids.contains(&meanwhile), "{meanwhile} in {ids:?}");
        let old = ids.last().unwrap().clone();
        let stale = crate::support::push_to_life(&client, "s", chain(0, 1), Some(&old)).await;
        assert_eq!(rejection(stale).json(), json!({"expected": meanwhile, "received": old}));
        push(&client, "s", chain(0, 1)).await.unwrap();
        assert_eq!(backend_id(&client, "s").await, meanwhile, "the one that was answered in between");
        assert_eq!(log(&client, "s").await, [1]);
        run(&client, "select livestore.reset_store('s')").await;
        ids.extend([meanwhile, backend_id(&client, "s").await]);
    }
    let different: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(different.len(), ids.len(), "{ids:?}");
}

#[tokio::test]
async fn renewing_backend_ids_changes_all_of_them_and_keeps_the_events() {
    let database = Database::new().await;
    let client = database.admin().await;
    let stores = ["pooled", "own", "dropped", "never created"];
    run(&client, "select livestore.create_store('own', own_table => true)").await;
    for store in &stores[..3] {
        push(&client, store, chain(0, 2)).await.unwrap();
    }
    run(&client, "select livestore.drop_store('dropped')").await;
    let mut ids = std::collections::HashSet::new();
    for round in 1..=3 {
        for store in stores {
            ids.insert(backend_id(&client, store).await);
        }
        assert_eq!(ids.len(), 4 * round, "all are new: {ids:?}");
        assert_eq!(one::<i64>(&client, "select livestore.renew_backend_ids()").await, 2);
    }
    for (store, events) in [("pooled", 2), ("own", 2), ("dropped", 0)] {
        assert_eq!(log(&client, store).await, up_to(events), "{store}");
        let meanwhile = backend_id(&client, store).await;
        push(&client, store, chain(events, 1)).await.unwrap();
        assert_eq!(backend_id(&client, store).await, meanwhile);
    }
}

#[tokio::test]
async fn a_pull_in_a_transaction_from_before_a_drop_does_not_end_in_a_syntax_error() {
    let database = Database::new().await;
    let (client, admin) = (database.connect("reader").await, database.admin().await);
    run(&admin, "select livestore.create_store('s', own_table => true), livestore.commit('s', 'e')").await;
    run(&client, "begin isolation level repeatable read; select from livestore.stores").await;
    run(&admin, "select livestore.drop_store('s')").await;
    // The table is gone, whatever this transaction sees: no events, or an error that is not about our syntax.
    if let Err(error) = client.query("select * from livestore.pull('s')", &[]).await {
        assert_ne!(error.code().map(|code| code.code()), Some("42601"), "{error:?}");
    }
}

/// Otherwise it would have the backend id of its former life, whose clients would take the new log for theirs.
#[tokio::test]
async fn a_transaction_from_before_a_store_began_and_was_dropped_cannot_create_it_again() {
    let database = Database::new().await;
    let admin = database.admin().await;
    for level in ["repeatable read", "serializable"] {
        for is_first_life in [true, false] {
            let writer = database.admin().await;
            if !is_first_life {
                run(&admin, "select livestore.commit('s', 'e'); select livestore.drop_store('s')").await;
            }
            run(&writer, &format!("begin isolation level {level}; select from livestore.stores")).await;
            let former = backend_id(&admin, "s").await;
            run(&admin, "select livestore.commit('s', 'a'); select livestore.commit('s', 'b')").await;
            run(&admin, "select livestore.drop_store('s')").await;
            let refused = rejection(writer.batch_execute("select livestore.commit('s', 'other')").await);
            assert_eq!(refused.sqlstate, "40001", "{level}, first life: {is_first_life}: {refused:?}");
            run(&writer, "rollback").await;
            // One that sees the drop creates it, and leaves nothing behind.
            let meanwhile = backend_id(&admin, "s").await;
            assert_ne!(meanwhile, former);
            run(&writer, &format!("begin isolation level {level}; select livestore.commit('s', 'other'); commit"))
                .await;
            assert_eq!(backend_id(&admin, "s").await, meanwhile, "{level}");
            run(&writer, &format!("begin isolation level {level}; select livestore.commit('new', 'e'); commit")).await;
            assert_eq!(all::<String>(&admin, "select store_id from livestore.dropped_stores").await, ["s"]);
            run(&admin, "select livestore.drop_store('s'), livestore.drop_store('new')").await;
            run(&admin, "delete from livestore.dropped_stores").await;
        }
    }
}

/// The sidecar's page of a history, which has to fit into memory.
#[tokio::test]
async fn numbers_and_times_of_relayed_events_count_in_a_page_and_are_short() {
    let database = Database::new().await;
    let client = database.admin().await;
    push(&client, "s", chain(0, 3)).await.unwrap();
    // As versions before 0.4.0 took them.
    run(
        &client,
        "insert into livestore.relayed_events
         select s.id, n, n, to_json(repeat('7', 1000000)), to_json(n) from livestore.stores s, generate_series(1, 2) n",
    )
    .await;
    for (after, max_bytes, expected) in [
        (0, "1000000", &[1][..]),
        (1, "1000000", &[2]),
        (2, "1000000", &[3]),
        (0, "1500000", &[1, 2]),
        (0, "3000000", &[1, 2, 3]),
        (0, "0", &[1]),
    ] {
        let page = format!("select seq_num from livestore.relay_page('s', {after}, 100, {max_bytes})");
        assert_eq!(all::<i64>(&client, &page).await, expected, "{page}");
    }

    let append = "select livestore.relay_append('new', '{e,e}', '{null,null}', '{c,c}', '{s,s}', array['1', $1], array['1', $2])";
    let digits = |length| "7".repeat(length);
    for (number, timestamp) in [(digits(257), digits(1)), (digits(1), digits(257))] {
        let refused = rejection(client.query(append, &[&number, &timestamp]).await);
        assert_eq!((&*refused.sqlstate, &refused.json()["index"]), ("LS003", &json!(1)), "{refused:?}");
    }
    assert_eq!(one::<i64>(&client, "select livestore.head('new')").await, 0);
    assert_eq!(one_with::<i64>(&client, append, &[&digits(256), &digits(256)]).await, 2);
}

/// Anybody may ask for a prefix, where there are no tokens.
#[tokio::test]
async fn streams_are_listed_without_a_look_at_those_behind_the_prefix() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(
        &admin,
        "insert into livestore.stores (store_id, backend_id)
         select s, 'b' from unnest(array['a', 'a-1', 'a~', 'a🙂', 'az']) s union all select 'b' || n, 'b' from generate_series(1, 10000) n",
    )
    .await;
    let names = |prefix: &str| format!("select name from livestore.list_streams('{prefix}', '', 1000)");
    assert_eq!(all::<String>(&admin, &names("a")).await, ["a", "a-", "a--", "a-1", "az"]);
    assert_eq!(all::<String>(&admin, &names("a-")).await, ["a-", "a--", "a-1"]);
    let plan = all::<String>(&admin, &format!("explain (analyze, buffers, timing off) {}", names("a"))).await;
    let buffers = plan.iter().find_map(|line| line.trim().strip_prefix("Buffers: shared hit=")).unwrap();
    let buffers: i32 = buffers.split(' ').next().unwrap().parse().unwrap();
    assert!(buffers < 500, "{plan:?}");
}
