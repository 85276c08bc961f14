//! NOTIFY on channel `livestore`: every commit that appended, or emptied a log, names its stores and their heads.

use std::collections::BTreeMap;

use crate::support::{Ears, Push, one, one_with, push, push_batch, rejection, run};
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event};
use livestore_tests::eventually;
use livestore_tests::flavour::is_skipped;
use serde_json::{Value, json};

#[tokio::test]
async fn a_push_batch_is_one_notification_with_its_source_and_all_heads() {
    let database = Database::new().await;
    let client = database.connect("sidecar").await;
    let mut ears = Ears::on(&database).await;
    // Stores that begin, and stores that are there: they do not go the same way.
    for before in [0, 5] {
        let pushes = [
            Push::to("a", chain(before, 2)),
            Push::to("b", chain(before / 5, 1)),
            Push::to("a", chain(before + 2, 3)),
            Push::to("c \"😀\"", chain(before / 5, 1)),
        ];
        push_batch(&client, &pushes).await;
        let (five, one) = (before + 5, before / 5 + 1);
        assert_eq!(ears.heard().await, [json!({"source": "tests", "heads": {"a": five, "b": one, "c \"😀\"": one}})]);
    }
}

#[tokio::test]
async fn push_and_commit_notify_without_a_source() {
    let database = Database::new().await;
    let client = database.connect("sidecar").await;
    let mut ears = Ears::on(&database).await;
    push(&client, "s", chain(0, 3)).await.unwrap();
    assert_eq!(ears.heard().await, [json!({"source": null, "heads": {"s": 3}})]);
    one::<i64>(&client, "select livestore.commit('s', 'e')").await;
    assert_eq!(ears.heard().await, [json!({"source": null, "heads": {"s": 4}})]);
}

#[tokio::test]
async fn a_log_that_is_another_one_now_is_named_without_a_head() {
    let database = Database::new().await;
    let admin = database.admin().await;
    for own_table in [false, true] {
        run(&admin, &format!("select livestore.create_store('s', {own_table}), livestore.commit('s', 'e')")).await;
        let mut ears = Ears::on(&database).await;
        for change in ["renew_backend_ids()", "reset_store('s')", "drop_store('s')"] {
            run(&admin, &format!("select livestore.{change}")).await;
            assert_eq!(ears.heard().await, [json!({"source": null, "heads": {"s": null}})], "{change}");
        }
    }
}

/// A store that begins while the locks are waited for gets a new id, too.
#[tokio::test(flavor = "multi_thread")]
async fn every_store_whose_backend_id_is_renewed_is_named() {
    let database = Database::new().await;
    let (holder, renewer) = (database.admin().await, database.admin().await);
    run(&holder, "select livestore.create_store('held')").await;
    run(&holder, "begin; select from livestore.stores for update").await;
    let mut ears = Ears::on(&database).await;
    let pid: i32 = one(&renewer, "select pg_backend_pid()").await;
    let renewed = tokio::spawn(async move { one::<i64>(&renewer, "select livestore.renew_backend_ids()").await });
    let waits = "select coalesce(wait_event_type = 'Lock', false) from pg_stat_activity where pid = $1";
    eventually("it waits", async || one_with::<bool>(&ears.client, waits, &[&pid]).await).await;
    run(&ears.client, "select livestore.create_store('new')").await;
    let before: String = one(&ears.client, "select livestore.backend_id('new')").await;
    run(&holder, "commit").await;
    assert_eq!(renewed.await.unwrap(), 2);
    assert_ne!(one::<String>(&ears.client, "select livestore.backend_id('new')").await, before);
    assert_eq!(ears.heard().await, [json!({"source": null, "heads": {"held": null, "new": null}})]);
}

#[tokio::test]
async fn what_appends_nothing_does_not_notify() {
    let database = Database::new().await;
    let client = database.connect("sidecar").await;
    push(&client, "s", chain(0, 3)).await.unwrap();
    let mut ears = Ears::on(&database).await;
    push(&client, "s", chain(0, 3)).await.expect("a repeat");
    push(&client, "s", "[]").await.expect("an empty batch");
    rejection(push(&client, "s", json!([event(1, "late", json!({}))])).await);
    rejection(push(&client, "new", "[{}]").await);
    let nothing = [Push::to("s", chain(1, 2)), Push::to("s", "[]"), Push::to("s", chain(5, 1)), Push::to("t", "{}")];
    push_batch(&client, &nothing).await;
    for quiet in ["create_store('new')", "create_store('s')", "backend_id('other')", "head('s')", "pull('s')"] {
        run(&client, &format!("select livestore.{quiet}")).await;
    }
    assert_eq!(ears.heard().await, [json!(null); 0]);

    // Only the store that grew is named.
    push_batch(&client, &[Push::to("s", chain(0, 3)), Push::to("grown", chain(0, 1)), Push::to("t", "{}")]).await;
    assert_eq!(ears.heard().await, [json!({"source": "tests", "heads": {"grown": 1}})]);
}

#[tokio::test]
async fn a_notification_comes_after_the_commit_and_not_without_it() {
    let database = Database::new().await;
    let client = database.connect("sidecar").await;
    let mut ears = Ears::on(&database).await;
    run(&client, "begin").await;
    push(&client, "s", chain(0, 1)).await.unwrap();
    assert_eq!(ears.heard().await, [json!(null); 0], "not committed yet");
    run(&client, "commit").await;
    assert_eq!(ears.heard().await, [json!({"source": null, "heads": {"s": 1}})]);
    assert_eq!(one::<i64>(&ears.client, "select livestore.head('s')").await, 1);

    run(&client, "begin").await;
    push(&client, "s", chain(1, 1)).await.unwrap();
    run(&client, "rollback").await;
    assert_eq!(ears.heard().await, [json!(null); 0], "rolled back");
}

/// The heads of all payloads, each store in one of them only.
fn united(payloads: &[String]) -> BTreeMap<String, i64> {
    let mut heads = BTreeMap::new();
    for payload in payloads {
        assert!(payload.len() < 8000, "a payload of {} bytes", payload.len());
        let payload: Value = serde_json::from_str(payload).expect("JSON");
        assert_eq!(payload["source"], "tests");
        for (store, head) in payload["heads"].as_object().expect("heads") {
            let before = heads.insert(store.clone(), head.as_i64().expect("a head"));
            assert_eq!(before, None, "{store} is named twice");
        }
    }
    heads
}

#[tokio::test]
async fn payloads_stay_below_8000_bytes_whatever_the_store_ids() {
    let database = Database::new().await;
    let client = database.connect("sidecar").await;
    let mut ears = Ears::on(&database).await;
    // In JSON a character takes 1 byte, 4, 2, or 6.
    let groups: [Vec<String>; 5] = [
        (0..40).map(|n| format!("{n:04}{}", "x".repeat(996))).collect(),
        (0..40).map(|n| format!("{n:04}{}", "😀".repeat(1020))).collect(),
        (0..40).map(|n| format!("{n:04}{}", "\"".repeat(1020))).collect(),
        (0..40).map(|n| format!("{n:04}{}", "\u{1}".repeat(1020))).collect(),
        (0..1000).map(|n| format!("{n}")).collect(),
    ];
    for stores in groups {
        // Stores that begin, and then stores that are there: they do not go the same way.
        for head in [1, 2] {
            let pushes: Vec<_> = stores.iter().map(|store| Push::to(store, chain(head - 1, 1))).collect();
            push_batch(&client, &pushes).await;
            let heads = united(&ears.payloads().await);
            let expected: BTreeMap<_, _> = stores.iter().map(|store| (store.clone(), head)).collect();
            assert!(heads == expected, "{} of {} stores", heads.len(), expected.len());
        }
    }
}

/// Below `push_batch`, which would try again with smaller groups.
#[tokio::test]
async fn payloads_stay_below_8000_bytes_wherever_the_longest_id_stands() {
    let database = Database::new().await;
    let mut ears = Ears::on(&database).await;
    for before in (0..=3000).step_by(250) {
        let mut stores: Vec<_> = (0..before / 50).map(|n| format!("a{n:023}")).collect();
        stores.push(format!("b{}", "\u{1}".repeat(1023)));
        stores.extend((0..30).map(|n| format!("c{n:02}{}", "x".repeat(170))));
        let heads = vec![(1i64 << 53) - 1; stores.len()];
        let notify = "select livestore._notify_heads($1, $2, 'tests')";
        ears.client
            .query(notify, &[&stores, &heads])
            .await
            .unwrap_or_else(|error| panic!("{before} bytes before: {error:?}"));
        let expected: BTreeMap<_, _> = stores.into_iter().zip(heads).collect();
        assert!(united(&ears.payloads().await) == expected, "{before} bytes before it");
    }
}

#[tokio::test]
async fn nobody_without_rights_learns_the_ids_of_stores() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let mut ears = Ears::on_digests(&database).await;
    let client = database.connect("sidecar").await;
    let stores: Vec<_> = (0..300).map(|n| format!("secret {n} \"😀\"")).collect();
    let mut digests = BTreeMap::new();
    for store in &stores {
        digests.insert(one_with::<String>(&admin, "select livestore.store_digest($1)", &[store]).await, store.clone());
    }
    // Stores that begin, and stores that are there: they do not go the same way.
    for head in [1, 2] {
        let pushes: Vec<_> = stores.iter().map(|store| Push::to(store, chain(head - 1, 1))).collect();
        push_batch(&client, &pushes).await;
        let payloads = ears.payloads().await;
        assert!(payloads.iter().all(|payload| !payload.contains("secret")));
        let heard: Vec<_> =
            united(&payloads).into_iter().map(|(digest, head)| (digests[&digest].clone(), head)).collect();
        assert_eq!(
            heard.into_iter().collect::<BTreeMap<_, _>>(),
            stores.iter().map(|store| (store.clone(), head)).collect()
        );
    }
    let store = &stores[7];
    let of = |head: Value| {
        let (digest, _) = digests.iter().find(|(_, name)| *name == store).unwrap();
        json!({"source": null, "heads": {digest: head}})
    };
    for (change, head) in [
        ("commit($1, 'e')::text", json!(3)),
        ("reset_store($1)::text", Value::Null),
        ("create_store($1, true)::text", json!("none")),
        ("commit($1, 'e')::text", json!(1)),
        ("drop_store($1)::text", Value::Null),
    ] {
        admin.query(&format!("select livestore.{change}"), &[store]).await.unwrap();
        let expected = if head == "none" { vec![] } else { vec![of(head)] };
        assert_eq!(ears.heard().await, expected, "{change}");
    }
    let stranger = database.connect("stranger").await;
    for key in ["store_digest('s')", "heads_key()"] {
        let refused = stranger.query(&format!("select livestore.{key}"), &[]).await;
        assert_eq!(rejection(refused).sqlstate, "42501");
    }
}

#[tokio::test]
async fn a_database_that_was_updated_tells_old_sidecars_until_the_setting_is_off() {
    if is_skipped("no release has it") {
        return;
    }
    for release in ["0.1.0", "0.2.0"] {
        let database = Database::new().await;
        let admin = database.admin().await;
        run(&admin, &format!("drop extension livestore_sync; create extension livestore_sync version '{release}'"))
            .await;
        // A connection of an old sidecar, which stays open.
        let old = database.connect("sidecar").await;
        push_batch(&old, &[Push::to("s", chain(0, 1))]).await;
        run(&admin, "alter extension livestore_sync update; listen livestore_heads").await;
        assert!(one::<bool>(&admin, "select livestore.legacy_notify()").await);
        let mut ears = Ears::on(&database).await;
        let ids = json!({"source": "tests", "heads": {"s": 2}});
        push_batch(&old, &[Push::to("s", chain(1, 1))]).await;
        assert_eq!(ears.heard().await, [ids], "{release}");

        run(&ears.client, "listen livestore_heads").await;
        let digest: String = one(&admin, "select livestore.store_digest('s')").await;
        let digests = |head: i64| json!({"source": "tests", "heads": {&*digest: head}});
        push_batch(&old, &[Push::to("s", chain(2, 1))]).await;
        assert_eq!(ears.heard().await, [digests(3), json!({"source": "tests", "heads": {"s": 3}})], "both");
        let name = database.name();
        run(&admin, &format!("alter database {name} set livestore.legacy_notify = off")).await;
        let new = database.connect("sidecar").await;
        push_batch(&new, &[Push::to("s", chain(3, 1)), Push::to("s", chain(0, 1))]).await;
        push_batch(&new, &[Push::to("s", chain(4, 1))]).await;
        assert_eq!(ears.heard().await, [digests(4), digests(5)], "the long way and the short one");
    }
}
