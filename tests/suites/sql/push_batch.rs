//! `livestore.push_batch`: many pushes in one call, a result for each, and none that takes another down.

use std::time::SystemTime;

use crate::support::{Ears, Push, broken_chains, log, one, push, push_batch, rejection, run, stored};
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event, up_to};
use livestore_tests::flavour::Flavour;
use serde_json::{Value, json};
use tokio_postgres::Client;

/// An event with a name that a hook looks for.
fn named(parent: i64, name: &str) -> Value {
    json!([event(parent, name, json!({}))])
}

/// A hook that rejects events named `bad`.
pub async fn reject_bad_events(admin: &Client) {
    run(
        admin,
        "create function public.reject_bad() returns trigger language plpgsql as $$
         begin
             if new.name = 'bad' then
                 raise exception 'not this one' using errcode = 'P0042', detail = 'the detail', hint = 'the hint';
             end if;
             return new;
         end $$;
         create trigger reject_bad before insert on livestore.eventlog_1 for each row execute function public.reject_bad()",
    )
    .await;
}

#[tokio::test]
async fn each_push_has_its_result() {
    let database = Database::new().await;
    let client = database.connect("sidecar").await;
    push(&client, "old", chain(0, 3)).await.unwrap();
    let id: String = one(&client, "select livestore.backend_id('old')").await;
    let outcomes = push_batch(
        &client,
        &[
            Push::to("new", chain(0, 2)),
            Push::to("old", named(1, "late")),
            Push::to("old", chain(3, 1)).believing_in(&id),
            Push::to("old", chain(4, 1)).believing_in("an older life"),
            Push::to("new", json!([{}])),
            Push::to("old", chain(0, 3)),
            Push::to("another", chain(0, 1)),
            Push::to("old", chain(2, 3)),
            Push::to("unused", json!([])),
        ],
    )
    .await;
    let briefs: Vec<_> =
        outcomes.iter().map(|outcome| (outcome.push, outcome.brief(), outcome.appended.unwrap())).collect();
    assert_eq!(
        briefs,
        [
            (1, Ok(2), 2),
            (2, Err("LS001"), 0),
            (3, Ok(4), 1),
            (4, Err("LS002"), 0),
            (5, Err("LS003"), 0),
            (6, Ok(4), 0),
            (7, Ok(1), 1),
            (8, Ok(5), 1),
            (9, Ok(0), 0),
        ]
    );
    assert_eq!(outcomes[1].json(), json!({"minimumExpectedNum": 3, "providedNum": 1}));
    assert_eq!(outcomes[3].json(), json!({"expected": id, "received": "an older life"}));
    assert_eq!(outcomes[4].json()["index"], 0);
    for outcome in &outcomes {
        let failed = outcome.sqlstate.is_some();
        assert_eq!(outcome.message.is_some() && outcome.hint.is_some(), failed, "{outcome:?}");
        assert_eq!(outcome.backend_id.is_some(), !failed, "{outcome:?}");
        assert_eq!(outcome.created_at.is_some(), outcome.appended > Some(0), "{outcome:?}");
    }
    assert_eq!(outcomes[5].backend_id.as_deref(), Some(id.as_str()));
    assert_eq!(log(&client, "old").await, up_to(5));
    let stores: Vec<String> = crate::support::all(&client, "select store_id from livestore.stores order by 1").await;
    assert_eq!(stores, ["another", "new", "old"]);
}

#[tokio::test]
async fn created_at_is_that_of_the_stored_events() {
    let database = Database::new().await;
    let client = database.connect("sidecar").await;
    // A store that begins, and one that is there: they do not go the same way.
    for begins in [true, false] {
        if !begins {
            run(&database.admin().await, "select livestore.reset_store('s')").await;
        }
        let outcomes = push_batch(&client, &[Push::to("s", chain(0, 2)), Push::to("s", chain(2, 2))]).await;
        let stored: Vec<SystemTime> = crate::support::all(&client, "select created_at from livestore.pull('s')").await;
        let [first, second] = [&outcomes[0], &outcomes[1]].map(|outcome| outcome.created_at.unwrap());
        assert_eq!([first, first, second, second].to_vec(), stored);
        let id: String = one(&client, "select livestore.backend_id('s')").await;
        assert!(outcomes.iter().all(|outcome| outcome.backend_id.as_deref() == Some(&id)));
    }
}

#[tokio::test]
async fn pushes_to_one_store_build_on_one_another() {
    let database = Database::new().await;
    let client = database.connect("sidecar").await;
    let pushes: Vec<_> = (0..50).map(|n| Push::to("s", chain(n * 2, 2))).collect();
    let outcomes = push_batch(&client, &pushes).await;
    let heads: Vec<_> = outcomes.iter().map(|outcome| outcome.head.unwrap()).collect();
    assert_eq!(heads, (1..=50).map(|n| n * 2).collect::<Vec<_>>());
    assert_eq!(log(&client, "s").await, up_to(100));
    assert_eq!(broken_chains(&client).await, [""; 0]);
}

#[tokio::test]
async fn of_two_pushes_on_one_head_the_first_wins() {
    let database = Database::new().await;
    let client = database.connect("sidecar").await;
    for parent in [0, 1] {
        let pushes = [Push::to("s", named(parent, "first")), Push::to("s", named(parent, "second"))];
        let outcomes = push_batch(&client, &pushes).await;
        assert_eq!([outcomes[0].brief(), outcomes[1].brief()], [Ok(parent + 1), Err("LS001")]);
        assert_eq!(outcomes[1].json(), json!({"minimumExpectedNum": parent + 1, "providedNum": parent}));
    }
}

#[tokio::test]
async fn the_same_push_twice_in_a_call_is_appended_once() {
    let database = Database::new().await;
    let client = database.connect("sidecar").await;
    for parent in [0, 2] {
        let pushes =
            [Push::to("s", chain(parent, 2)), Push::to("s", chain(parent, 2)), Push::to("s", chain(parent, 1))];
        let outcomes = push_batch(&client, &pushes).await;
        let briefs: Vec<_> = outcomes.iter().map(|outcome| (outcome.brief(), outcome.appended.unwrap())).collect();
        assert_eq!(briefs, [(Ok(parent + 2), 2), (Ok(parent + 2), 0), (Ok(parent + 2), 0)]);
    }
    assert_eq!(log(&client, "s").await, up_to(4));
}

#[tokio::test]
async fn what_is_not_json_fails_alone() {
    let database = Database::new().await;
    let client = database.connect("sidecar").await;
    for bad in ["", "nonsense", "[", "[}", r#"[{"name":"\ud800"}]"#, "[1e]"] {
        let before = log(&client, "good").await.len() as i64;
        let pushes = [Push::to("good", chain(before, 1)), Push::to("bad", bad), Push::to("good", chain(before + 1, 1))];
        let outcomes = push_batch(&client, &pushes).await;
        let briefs: Vec<_> = outcomes.iter().map(|outcome| outcome.brief()).collect();
        assert_eq!(briefs, [Ok(before + 1), Err("LS003"), Ok(before + 2)], "{bad}");
    }
    assert_eq!(log(&client, "bad").await, [0; 0]);
}

#[tokio::test]
async fn a_push_that_a_hook_rejects_fails_alone() {
    let database = Database::new().await;
    reject_bad_events(&database.admin().await).await;
    let client = database.connect("sidecar").await;
    push(&client, "a", chain(0, 1)).await.unwrap();
    let mut pushes = vec![Push::to("a", chain(1, 1)), Push::to("a", named(2, "bad")), Push::to("a", chain(2, 1))];
    pushes.extend((0..60).map(|n| Push::to(format!("s{n}"), named(0, if n % 7 == 3 { "bad" } else { "good" }))));
    let outcomes = push_batch(&client, &pushes).await;
    let mut expected = vec![Ok(2), Err("P0042"), Ok(3)];
    expected.extend((0..60).map(|n| if n % 7 == 3 { Err("P0042") } else { Ok(1) }));
    assert_eq!(outcomes.iter().map(|outcome| outcome.brief()).collect::<Vec<_>>(), expected);
    let rejected = &outcomes[1];
    assert_eq!(rejected.message.as_deref(), Some("not this one"));
    assert_eq!((rejected.detail.as_deref(), rejected.hint.as_deref()), (Some("the detail"), Some("the hint")));
    let bad: i64 = one(&client, "select count(*) from livestore.events where name = 'bad'").await;
    assert_eq!(bad, 0);
    assert_eq!(one::<i64>(&client, "select count(*) from livestore.events").await, 3 + 60 - 9);
    assert_eq!(broken_chains(&client).await, [""; 0]);
}

#[tokio::test]
async fn a_push_that_builds_on_one_that_a_hook_rejects_is_behind_the_head() {
    let database = Database::new().await;
    reject_bad_events(&database.admin().await).await;
    let client = database.connect("sidecar").await;
    let pushes = [Push::to("s", chain(0, 2)), Push::to("s", named(2, "bad")), Push::to("s", chain(3, 1))];
    let outcomes = push_batch(&client, &pushes).await;
    let briefs: Vec<_> = outcomes.iter().map(|outcome| outcome.brief()).collect();
    assert_eq!(briefs, [Ok(2), Err("P0042"), Err("LS001")]);
    assert_eq!(outcomes[2].json(), json!({"minimumExpectedNum": 2, "providedNum": 3}));
}

#[tokio::test]
async fn a_push_that_a_hook_rejects_leaves_no_store_behind() {
    let database = Database::new().await;
    reject_bad_events(&database.admin().await).await;
    let client = database.connect("sidecar").await;
    let outcomes = push_batch(&client, &[Push::to("good", chain(0, 1)), Push::to("rejected", named(0, "bad"))]).await;
    assert_eq!(outcomes[1].brief(), Err("P0042"));
    let stores: Vec<String> = crate::support::all(&client, "select store_id from livestore.stores").await;
    assert_eq!(stores, ["good"]);
}

#[tokio::test]
async fn a_push_to_an_impossible_store_id_fails_alone() {
    let database = Database::new().await;
    let client = database.connect("sidecar").await;
    let (empty, long) = (String::new(), "x".repeat(1025));
    let pushes = [Push::to("good", chain(0, 1)), Push::to(empty, chain(0, 1)), Push::to(long, chain(0, 1))];
    let outcomes = push_batch(&client, &pushes).await;
    let failed: Vec<_> = outcomes.iter().map(|outcome| outcome.brief().is_err()).collect();
    assert_eq!(failed, [false, true, true], "{outcomes:?}");
    assert_eq!(log(&client, "good").await, up_to(1));

    let sql = "select sqlstate from livestore.push_batch(array['good', null], array[$1, $1], array[null, null]) order by push";
    let sqlstates: Vec<Option<String>> = crate::support::all_with(&client, sql, &[&chain(1, 1).to_string()]).await;
    assert!(sqlstates[0].is_none() && sqlstates[1].is_some(), "{sqlstates:?}");
}

#[tokio::test]
async fn a_group_with_one_unusual_push_is_carried_out_as_well() {
    let database = Database::new().await;
    let client = database.connect("sidecar").await;
    for store in ["a", "b"] {
        push(&client, store, chain(0, 2)).await.unwrap();
    }
    let group = [
        Push::to("a", chain(2, 1)),
        Push::to("new", chain(0, 1)),
        Push::to("b", chain(0, 2)),
        Push::to("a", chain(3, 2)),
        Push::to("b", chain(9, 1)),
    ];
    let outcomes = push_batch(&client, &group).await;
    let outcomes: Vec<_> = outcomes.iter().map(crate::support::Outcome::brief).collect();
    assert_eq!(outcomes, [Ok(3), Ok(1), Ok(2), Ok(5), Err("LS001")]);
    assert_eq!(log(&client, "a").await, up_to(5));
    assert_eq!(broken_chains(&client).await, [""; 0]);
}

#[tokio::test]
async fn arrays_of_unequal_length_are_refused_whole() {
    let database = Database::new().await;
    let client = database.connect("sidecar").await;
    let batch = chain(0, 1).to_string();
    for (stores, batches, backend_ids) in [(2, 1, 2), (1, 2, 2), (2, 2, 1), (0, 1, 1), (1, 1, 0)] {
        let stores = vec!["s"; stores];
        let batches = vec![batch.as_str(); batches];
        let backend_ids = vec![None::<&str>; backend_ids];
        let sql = "select * from livestore.push_batch($1, $2, $3)";
        let rejection = rejection(client.query(sql, &[&stores, &batches, &backend_ids]).await);
        assert_eq!(rejection.sqlstate, "2202E", "{rejection:?}");
    }
    assert_eq!(stored(&database.admin().await).await, [""; 0]);
}

#[tokio::test]
async fn no_pushes_have_no_results() {
    let database = Database::new().await;
    let client = database.connect("sidecar").await;
    assert_eq!(push_batch(&client, &[]).await, []);
    let nulls = client.query("select * from livestore.push_batch(null, null, null)", &[]).await.unwrap();
    assert!(nulls.is_empty());
}

#[tokio::test]
async fn a_call_is_all_or_nothing_for_the_transaction_around_it() {
    let database = Database::new().await;
    let mut client = database.connect("sidecar").await;
    let transaction = client.transaction().await.unwrap();
    let outcomes = push_batch(transaction.client(), &[Push::to("a", chain(0, 1)), Push::to("b", chain(0, 1))]).await;
    assert!(outcomes.iter().all(|outcome| outcome.brief() == Ok(1)));
    transaction.rollback().await.unwrap();
    assert_eq!(stored(&database.admin().await).await, [""; 0]);
}

/// Ears that hear a notice of each statement.
async fn statement_counter(database: &Database) -> Ears {
    let ears = Ears::on(database).await;
    run(
        &ears.client,
        "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;
         set auto_explain.log_level = notice; set auto_explain.log_format = json",
    )
    .await;
    ears
}

/// The statements that a call executes, those in functions included.
async fn statements(ears: &mut Ears, pushes: &[Push]) -> Vec<String> {
    ears.notices();
    let outcomes = push_batch(&ears.client, pushes).await;
    assert!(outcomes.iter().all(|outcome| outcome.sqlstate.is_none()), "{outcomes:?}");
    let text = |notice: &String| {
        let (_, plan) = notice.split_once("plan:").expect("a plan of auto_explain");
        let plan: Value = serde_json::from_str(plan).expect("JSON");
        plan["Query Text"].as_str().expect("a statement").trim().to_string()
    };
    ears.notices().iter().map(text).collect()
}

#[tokio::test]
async fn three_hundred_pushes_take_as_many_statements_as_two() {
    let database = Database::new().await;
    let mut ears = statement_counter(&database).await;
    let two = |parent| ["one", "two"].map(|store| Push::to(store, chain(parent, 1)));
    let many = |parent| {
        (0..300i64).map(|n| Push::to(format!("many {}", n % 150), chain(parent + n / 150, 1))).collect::<Vec<_>>()
    };
    // A store is new but once.
    statements(&mut ears, &two(0)).await;
    statements(&mut ears, &many(0)).await;

    let mut appended = [statements(&mut ears, &two(1)).await, statements(&mut ears, &many(2)).await];
    // Many stores are named in several notifications, and here two channels hear of them.
    appended.iter_mut().for_each(Vec::dedup);
    assert_eq!(appended[0], appended[1]);
    assert!(appended[0].iter().any(|statement| statement.starts_with("insert into livestore.eventlog_1")));
    let repeated = [statements(&mut ears, &two(1)).await, statements(&mut ears, &many(2)).await];
    assert_eq!(repeated[0], repeated[1]);
}

#[tokio::test]
async fn three_hundred_new_stores_take_as_many_writes_as_one() {
    let database = Database::new().await;
    let mut ears = statement_counter(&database).await;
    let new_stores = |count| (0..count).map(|n| Push::to(format!("{n} of {count}"), chain(0, 1))).collect::<Vec<_>>();
    let mut writes = [statements(&mut ears, &new_stores(1)).await, statements(&mut ears, &new_stores(300)).await];
    for statements in &mut writes {
        statements.retain(|statement| ["insert", "update", "delete"].iter().any(|verb| statement.starts_with(verb)));
    }
    // The portable flavour writes its entry of the commit log when the transaction commits, and until then into a table.
    let count = if Flavour::of_tests() == Flavour::Portable { 8 } else { 5 };
    for statements in writes {
        assert_eq!(statements.len(), count, "stores, their names, heads, events, the commit log: {statements:#?}");
    }
}

#[tokio::test]
async fn a_caller_that_skips_held_stores_is_told_which() {
    let database = Database::new().await;
    let (holder, client) = (database.connect("sidecar").await, database.connect("sidecar").await);
    push(&client, "held", chain(0, 1)).await.unwrap();
    run(&holder, "begin; select livestore.commit('held', 'e')").await;
    run(&client, "set livestore.held_stores = 'skip'").await;
    let to_held = Push::to("held", chain(1, 1));
    for (pushes, expected) in [
        (vec![to_held.clone()], vec![Err("55P03")]),
        (vec![Push::to("free", chain(0, 1)), to_held.clone()], vec![Ok(1), Err("55P03")]),
        (vec![to_held.clone(), Push::to("free", chain(1, 1)), to_held], vec![Err("55P03"), Ok(2), Err("55P03")]),
    ] {
        let outcomes = push_batch(&client, &pushes).await;
        assert_eq!(outcomes.iter().map(|outcome| outcome.brief()).collect::<Vec<_>>(), expected);
    }
    run(&holder, "commit").await;
    assert_eq!(log(&client, "held").await, up_to(2));
}

/// All stores of the group wait meanwhile.
#[tokio::test]
async fn a_large_batch_that_comes_twice_in_a_group_is_decided_in_time() {
    let database = Database::new().await;
    let client = database.connect("sidecar").await;
    run(&client, "set statement_timeout = '10s'").await;
    let small = chain(0, 2);
    let group = [
        Push::to("a", chain(0, 100)),
        Push::to("b", &small),
        Push::to("a", chain(100, 7900)),
        Push::to("a", chain(0, 8000)),
        Push::to("b", chain(1, 3)),
        Push::to("a", chain(50, 60)),
    ];
    let outcomes = push_batch(&client, &group).await;
    let outcomes: Vec<_> = outcomes.iter().map(|outcome| (outcome.brief(), outcome.appended)).collect();
    let expected = [(100, 100), (2, 2), (8000, 7900), (8000, 0), (4, 2), (8000, 0)];
    assert_eq!(outcomes, expected.map(|(head, appended)| (Ok(head), Some(appended))));
    // Of the log, many pushes name the same events.
    let group: Vec<Push> = (0..200).map(|_| Push::to("a", chain(0, 200))).collect();
    let outcomes = push_batch(&client, &group).await;
    assert!(outcomes.iter().all(|outcome| outcome.brief() == Ok(8000) && outcome.appended == Some(0)));
    assert_eq!(broken_chains(&database.admin().await).await, [""; 0]);
}

/// Each push of the group is a statement of its own there.
#[tokio::test]
async fn a_large_batch_in_a_group_of_many_is_written_in_time_to_a_table_with_hooks() {
    let database = Database::new().await;
    let (admin, client) = (database.admin().await, database.connect("sidecar").await);
    reject_bad_events(&admin).await;
    run(&admin, "select livestore.create_store('own', true)").await;
    run(&client, "set statement_timeout = '10s'").await;
    let mut group: Vec<Push> = (0..500).map(|n| Push::to(format!("s{}", n % 250), chain(n / 250, 1))).collect();
    group.insert(100, Push::to("large", chain(0, 8000)));
    group.insert(200, Push::to("own", chain(0, 8000)));
    let outcomes = push_batch(&client, &group).await;
    assert!(outcomes.iter().all(|outcome| outcome.brief().is_ok()));
    assert_eq!((log(&admin, "large").await, log(&admin, "own").await), (up_to(8000), up_to(8000)));
    assert_eq!((log(&admin, "s7").await, broken_chains(&admin).await), (up_to(2), vec![]));
}
