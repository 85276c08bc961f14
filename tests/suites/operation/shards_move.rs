//! `livestore-sidecar shards move`: slots and stores go to another shard while clients push.

use std::time::Duration;

use livestore_tests::breaker::Breaker;
use livestore_tests::client::Node;
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event, numbers, up_to};
use livestore_tests::eventually;
use livestore_tests::sidecar::{Sidecar, Start};
use serde_json::json;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use crate::shards::{Setup, all, batch, run, stores_of};

const DIALECTS: [&str; 5] = ["cf-ws", "cf-http", "cf-0.3", "electric", "s2"];

/// The arguments of a move between the two shards; the last ones say what goes.
fn moving(setup: &Setup, to: &str, what: &[&str]) -> Vec<String> {
    let url = |name: &str| {
        let database = if name == "one" { &setup.one } else { &setup.two };
        format!("{name}={}", database.url("postgres"))
    };
    let from = if to == "one" { "two" } else { "one" };
    let front = setup.cluster.url("postgres", &setup.front);
    let fixed = ["move", "--front", &front, "--from", &url(from), "--to", &url(to)].map(String::from);
    fixed.into_iter().chain(what.iter().map(|text| (*text).to_owned())).collect()
}

async fn goes(setup: &Setup, to: &str, what: &[&str]) -> String {
    let arguments = moving(setup, to, what);
    let (code, text) = tokio::task::spawn_blocking(move || run(&arguments)).await.unwrap();
    assert_eq!(code, 0, "{what:?} to {to}: {text}");
    text
}

async fn made() -> (Setup, Client, Client) {
    let setup = Setup::new().await;
    let (code, text) = run(&setup.init());
    assert_eq!(code, 0, "{text}");
    let (one, two) = (setup.one.admin().await, setup.two.admin().await);
    (setup, one, two)
}

async fn sidecar(setup: &Setup) -> Sidecar {
    Start::new(setup.cluster.url("sidecar", &setup.front)).arguments(&["--shards"]).ready().await
}

/// A third shard, without slots.
async fn added(setup: &Setup) -> Database {
    let three = setup.cluster.database().await;
    let (front, shard) = (setup.cluster.url("postgres", &setup.front), format!("three={}", three.url("postgres")));
    let (code, text) = run(&["add", "--front", &front, "--shard", &shard].map(String::from));
    assert_eq!(code, 0, "{text}");
    three
}

async fn slot(client: &Client, store: &str) -> String {
    all(client, &format!("select livestore.slot('{store}', 256)")).await.remove(0)
}

fn heads(store: &str) -> String {
    format!("select head from livestore.stores where store_id = '{store}'")
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_of_clients_of_every_dialect_move_while_they_push() {
    let (setup, one, two) = made().await;
    let (first, second) = (sidecar(&setup).await, sidecar(&setup).await);
    let (node, old) = (Node::sync_backend(), Node::sync_backend_0_3());
    for (n, dialect) in DIALECTS.into_iter().enumerate() {
        let store = stores_of(&one, 0).await.remove(n);
        let node = if dialect == "cf-0.3" { &old } else { &node };
        let writer = node.open(dialect, &first.url(), &store).await;
        writer.push(chain(0, 1)).await.unwrap_or_else(|error| panic!("{dialect}: {error}"));
        let mut lives = Vec::new();
        for sidecar in [&first, &second] {
            lives.push(node.open(dialect, &sidecar.url(), &store).await.live(None).await);
        }
        let backend = format!("select livestore.backend_id('{store}')");
        let before = all(&one, &backend).await;
        let pushing = tokio::spawn(async move {
            let mut head = 1;
            let mut pushed = 0;
            while pushed < 40 {
                writer.push(chain(head, 1)).await.unwrap_or_else(|error| panic!("{dialect}: {error}"));
                (head, pushed) = (head + 1, pushed + 1);
                sleep(Duration::from_millis(30)).await;
            }
            head
        });
        let slot = slot(&one, &store).await;
        for (to, what) in [
            ("two", ["--slot", &slot]),
            ("one", ["--store", &store]),
            ("two", ["--store", &store]),
            ("one", ["--slot", &slot]),
        ] {
            let text = goes(&setup, to, &what).await;
            assert!(text.contains(": 1 stores, ") && text.contains(&format!(" is at {to}")), "{text}");
        }
        let head = pushing.await.unwrap();
        for live in &mut lives {
            assert_eq!(numbers(&live.events(up_to(head).len()).await), up_to(head), "{dialect}");
        }
        assert_eq!(all(&one, &backend).await, before, "{dialect}");
        assert_eq!(
            (all(&one, &heads(&store)).await, all(&two, &heads(&store)).await),
            (vec![head.to_string()], vec![]),
            "{dialect}"
        );
    }
    let (code, text) = setup.status("reader");
    assert!(code == 0 && text.contains("128 (0-127)") && text.matches(" ok").count() == 2, "{text}");
    assert_eq!(all(&setup.at_front("postgres").await, "select store_id from livestore.moved_stores").await, [""; 0]);
    for shard in [&one, &two] {
        assert_eq!(all(shard, "select store_id from livestore.shard_stores").await, [""; 0]);
    }
    setup.stop();
}

/// A store that was an exception while its slot was at a shard is none there when the slot comes again.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_comes_back_brings_its_exceptions_and_no_older_ones() {
    let (setup, one, two) = made().await;
    let store = stores_of(&one, 0).await.remove(0);
    batch(&one, &format!("select livestore.commit('{store}', 'e')")).await;
    let slot = slot(&one, &store).await;
    for (to, what) in [
        ("two", ["--slot", &slot]),
        // The slot stays there, and then follows.
        ("one", ["--store", &store]),
        ("one", ["--slot", &slot]),
        ("two", ["--slot", &slot]),
        ("one", ["--store", &store]),
    ] {
        goes(&setup, to, &what).await;
        let at_two = format!("select livestore._is_elsewhere('{store}')");
        assert_eq!(all(&two, &at_two).await, [(to == "one").to_string()], "{what:?} to {to}");
    }
    batch(&setup.at_front("sidecar").await, &format!("select livestore.commit('{store}', 'e')")).await;
    assert_eq!((all(&one, &heads(&store)).await, all(&two, &heads(&store)).await), (vec!["2".to_owned()], vec![]));
    setup.stop();
}

/// Everything that a shard knows of a store, but what subscriptions know.
#[tokio::test(flavor = "multi_thread")]
async fn all_that_belongs_to_a_store_goes_with_it() {
    let (setup, one, two) = made().await;
    let stores = stores_of(&one, 0).await;
    let (store, own, dropped) = (&stores[0], &stores[1], &stores[2]);
    batch(&one, &format!("select livestore.create_store('{own}', true)")).await;
    for store in [store, own] {
        let odd =
            json!([event(0, "odd", json!({"text": "before"})), event(1, "even", json!({"text": "\u{0000} 1.0"}))]);
        one.execute("select livestore.push($1, $2)", &[&store, &odd]).await.unwrap();
        batch(&one, &format!("select livestore.commit('{store}', 'keyed', '{{\"a\" : 1}}', key => 'k')")).await;
        batch(&one, &format!("select livestore.erase('{store}', array[1], '{{}}')")).await;
        batch(&one, &format!("insert into livestore.relayed_events select id, 2, 7, '1', '2' from livestore.stores where store_id = '{store}'")).await;
    }
    batch(
        &one,
        "select livestore.define_event('keyed', '{\"type\": \"string\"}', 'check'), livestore.check_events('keyed')",
    )
    .await;
    batch(&one, &format!("select livestore.commit('{dropped}', 'e'); select livestore.drop_store('{dropped}')")).await;
    // These were hooked, and checked, when they were appended.
    let hook = "create function hooked() returns trigger language plpgsql as $$ begin raise 'a hook has run'; end $$;
         create trigger hook after insert on livestore.eventlog_1 for each row execute function hooked();
         select livestore.define_event('keyed', '{\"type\": \"number\"}', 'enforce');";
    batch(&two, hook).await;
    let state = format!(
        "select array[s.id::text, s.store_id, s.head::text, s.backend_id, s.created_at::text, (s.eventlog <> 'livestore.eventlog_1'::regclass)::text,
             (select string_agg(e::text, '|' order by e.seq_num) from livestore.events e where e.store_id = s.store_id),
             (select string_agg(k::text, '|') from livestore.commit_keys k where k.store = s.id),
             (select string_agg(r::text, '|') from livestore.relayed_events r where r.store = s.id),
             (select string_agg(m::text, '|') from livestore.found_misfits m where m.store = s.id),
             (select string_agg(row(r.store_id, r.store, r.seq_num, r.digest, r.rewritten_at)::text, '|') from livestore.rewritten_events r where r.store_id = s.store_id)]
         from livestore.stores s where s.store_id in ('{store}', '{own}') order by s.store_id collate \"C\""
    );
    let names = format!("select livestore.backend_id('{dropped}')");
    let (before, name) = (all(&one, &state).await, all(&one, &names).await);
    assert_eq!(before.len(), 2);
    for text in ["odd", "\\\\u0000", ",k,3)", ",2,7,1,2)", "args is not of type string", "\\\\x"] {
        assert!(before.iter().all(|row| row.contains(text)), "{text}: {before:?}");
    }
    for store in [store, own, dropped] {
        goes(&setup, "two", &["--slot", &slot(&one, store).await]).await;
    }
    assert_eq!((all(&two, &state).await, all(&two, &names).await), (before.clone(), name.clone()));
    assert_eq!(all(&one, &state).await, [""; 0]);
    // A client that got no answer pushes again, and the log knows its events.
    batch(&two, "drop trigger hook on livestore.eventlog_1; select livestore.define_event('keyed', '{}', 'off')").await;
    for store in [store, own] {
        let table = all(&two, &format!("select eventlog from livestore.stores where store_id = '{store}'")).await;
        batch(&two, &format!("drop trigger if exists hook on {}", table[0])).await;
        let odd = json!([event(0, "odd", json!({"text": "before"}))]);
        let row = two
            .query_one(
                "select livestore.push($1, $2), livestore.commit($1, 'keyed', '{\"a\" : 1}', key => 'k')",
                &[store, &odd],
            )
            .await
            .unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (3, 3), "{store}");
        batch(&two, &format!("select livestore.commit('{store}', 'e')")).await;
    }
    for call in ["head", "backend_id", "pull", "export_store", "reset_store", "drop_store"] {
        let refused = one.query(&format!("select livestore.{call}($1)"), &[store]).await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "LS005", "{call}");
    }
    // And back, where the events still are.
    let moved = all(&two, &state).await;
    batch(&two, "alter table livestore.eventlog_1 disable trigger user").await;
    // Logical replication brings rows, and not the state of sequences.
    for shard in [&one, &two] {
        let behind = "select setval('livestore.shard_moves_id_seq', 1, false), setval('livestore.rewritten_events_id_seq', 1, false)";
        batch(shard, behind).await;
    }
    for store in [store, own, dropped] {
        goes(&setup, "one", &["--slot", &slot(&one, store).await]).await;
    }
    assert_eq!((all(&one, &state).await, all(&one, &names).await), (moved, name));
    assert_eq!(all(&one, "select store_id from livestore.departed_stores").await, [""; 0]);
    setup.stop();
}

/// The commit log of the shard that a store leaves keeps its events for those that have not read them.
#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_get_each_event_from_the_shard_where_it_was_appended() {
    let (setup, one, two) = made().await;
    let store = stores_of(&one, 0).await.remove(0);
    batch(&one, &format!("select livestore.commit('{store}', 'before')")).await;
    for shard in [&one, &two] {
        batch(shard, "select livestore.subscribe('s', start => 'beginning')").await;
    }
    batch(&one, &format!("select livestore.commit('{store}', 'here')")).await;
    goes(&setup, "two", &["--store", &store]).await;
    batch(&two, &format!("select livestore.commit('{store}', 'there')")).await;
    let poll = "select concat_ws(' ', store_id, seq_num, name, change) from livestore.poll('s', 10)";
    let ack = "select livestore.ack(lease) from livestore.subscription_partitions where lease is not null";
    let mut here = Vec::new();
    assert_eq!(
        all(&one, "select livestore.prune_commits(now() + interval '1 hour')").await,
        ["1"],
        "a subscription has not read the rest"
    );
    assert_eq!(all(&one, "select livestore.remove_departed_store()").await, ["false"]);
    for _ in 0..2 {
        here.extend(all(&one, poll).await);
        batch(&one, ack).await;
    }
    assert_eq!(here, [format!("{store} 1 before"), format!("{store} 2 here"), format!("{store} leave")]);
    assert_eq!(all(&two, poll).await, [format!("{store} arrive"), format!("{store} 3 there")]);
    let read = "select concat_ws(' ', store_id, seq_num, name, change) from livestore.read_all(1)";
    assert_eq!(all(&one, read).await, here[1..]);

    // Now nobody needs them any more.
    assert_eq!(all(&one, "select livestore.prune_commits(now() + interval '1 hour')").await, ["3"]);
    let removed = "select livestore.remove_departed_store()";
    assert_eq!((all(&one, removed).await, all(&one, removed).await), (vec!["true".into()], vec!["false".into()]));
    for table in ["eventlog_1", "departed_stores", "commit_keys"] {
        assert_eq!(all(&one, &format!("select count(*) from livestore.{table}")).await, ["0"], "{table}");
    }
    assert_eq!(all(&two, &heads(&store)).await, ["3"]);
    setup.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_interrupted_is_taken_back_or_ended() {
    let (setup, one, two) = made().await;
    let stores = stores_of(&one, 0).await;
    let store = &stores[0];
    let slot = slot(&one, store).await;
    batch(&one, &format!("select livestore.commit('{store}', 'e')")).await;
    let commit = format!("select livestore.commit('{store}', 'e')");

    // The other shard does not commit.
    let fails = "create function fails() returns trigger language plpgsql as $$ begin raise 'not today'; end $$;
         create constraint trigger fails after insert on livestore.shard_moves deferrable initially deferred for each row execute function fails()";
    batch(&two, fails).await;
    let (code, text) = run(&moving(&setup, "two", &["--slot", &slot]));
    assert!(code == 4 && text.contains("not today") && text.contains("is taken back: it is at one"), "{text}");
    batch(&one, &commit).await;
    assert_eq!((all(&one, &heads(store)).await, all(&two, &heads(store)).await), (vec!["2".into()], vec![]));
    let changes = "select change from livestore.read_all(0) where change is not null";
    assert_eq!(all(&one, changes).await, ["leave", "arrive"]);
    assert_eq!(setup.status("reader").0, 0);
    batch(&two, "drop trigger fails on livestore.shard_moves").await;

    // It is killed before the front knows.
    let front = setup.at_front("postgres").await;
    let waits =
        "create function waits() returns event_trigger language plpgsql as $$ begin perform pg_sleep(60); end $$;
         create event trigger waits on ddl_command_start when tag in ('ALTER SERVER') execute function waits()";
    batch(&front, waits).await;
    let mut command = Start::program().arg("shards").args(moving(&setup, "two", &["--slot", &slot])).spawn().unwrap();
    eventually("the other shard has it", async || all(&two, &heads(store)).await == ["2"]).await;
    command.kill().unwrap();
    command.wait().unwrap();
    let (code, text) = setup.status("reader");
    assert!(code == 1 && text.contains(&format!("a move of slot {slot} to two was interrupted")), "{text}");
    assert_eq!(one.batch_execute(&commit).await.unwrap_err().code().unwrap().code(), "LS005");
    // It only looks as if nothing had arrived: it is not taken back.
    batch(&two, &format!("update livestore.shard set slots = array_remove(slots, {slot})")).await;
    let pid = "select pg_terminate_backend(pid) from pg_stat_activity where query like 'alter server%'";
    batch(&front, "drop event trigger waits").await;
    batch(&front, pid).await;
    // Another move from here comes after this one.
    let three = added(&setup).await;
    let mut elsewhere = moving(&setup, "two", &["--slot", &slot]);
    elsewhere[6] = format!("three={}", three.url("postgres"));
    let (code, text) = run(&elsewhere);
    assert!(code == 4 && text.contains("was interrupted, and its stores take no pushes"), "{text}");
    assert!(text.contains(&format!("--slot {slot} --from one=… --to two=… first")), "{text}");

    batch(&two, &format!("update livestore.shard set slots = slots || {slot}")).await;
    let text = goes(&setup, "two", &["--slot", &slot]).await;
    assert!(
        text.contains(&format!("The move of slot {slot} was interrupted, and has ended now: it is at two.")),
        "{text}"
    );
    assert!(text.contains("Nothing to do"), "{text}");
    let sql = setup.at_front("sidecar").await;
    batch(&sql, &commit).await;
    assert_eq!(all(&two, &heads(store)).await, ["3"]);
    assert_eq!(setup.status("reader").0, 0);
    setup.stop();
}

/// As after a command that was killed when the front knew of the move, and the old shard did not know that it does.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_of_which_only_the_end_is_missing_does_not_change_the_map_later() {
    let (setup, one, two) = made().await;
    let stores = stores_of(&one, 0).await;
    let (store, commit) = (&stores[0], format!("select livestore.commit('{}', 'e')", stores[0]));
    let (slot, other) = (slot(&one, store).await, slot(&one, &stores[1]).await);
    batch(&one, &commit).await;
    let forget = "update livestore.departed_stores set position = null;
         update livestore.shard_moves set finished_at = null where not is_arrival";
    goes(&setup, "two", &["--slot", &slot]).await;
    batch(&one, forget).await;
    assert_eq!(setup.status("reader").0, 1);
    goes(&setup, "one", &["--slot", &slot]).await;
    let unfinished = "select id from livestore.shard_moves where finished_at is null";
    assert_eq!(all(&one, unfinished).await, [""; 0], "it has ended, since the slot has come back");
    assert_eq!(setup.status("reader").0, 0);

    // The events of a store that does not come back may be removed, too.
    let dropped = &stores[2];
    batch(&one, &format!("select livestore.commit('{dropped}', 'e')")).await;
    goes(&setup, "two", &["--store", dropped]).await;
    batch(&one, forget).await;
    batch(&two, &format!("select livestore.drop_store('{dropped}')")).await;
    goes(&setup, "one", &["--store", dropped]).await;
    assert_eq!(all(&one, "select position is not null from livestore.departed_stores").await, ["true"]);

    // The slot need not come back by a command that knows this.
    batch(&one, forget).await;
    let text = goes(&setup, "two", &["--slot", &other]).await;
    assert!(text.contains(&format!("An earlier move of slot {slot} to two")), "{text}");
    batch(&setup.at_front("sidecar").await, &commit).await;
    assert_eq!((all(&one, &heads(store)).await, all(&two, &heads(store)).await), (vec!["2".into()], vec![]));
    assert_eq!(setup.status("reader").0, 0);
    setup.stop();
}

/// The shard that has got it has a state from before, and the other one has noted that the move has ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_no_shard_has_after_a_restore_is_taken_back() {
    let (setup, one, two) = made().await;
    let store = stores_of(&one, 0).await.remove(0);
    let (slot, commit) = (slot(&one, &store).await, format!("select livestore.commit('{store}', 'e')"));
    batch(&one, &commit).await;
    goes(&setup, "two", &["--slot", &slot]).await;
    let restored = format!(
        "delete from livestore.eventlog_1; delete from livestore.stores; delete from livestore.shard_moves;
         update livestore.shard set slots = array_remove(slots, {slot})"
    );
    batch(&two, &restored).await;
    assert_eq!(setup.status("reader").0, 1);
    let (code, text) = run(&moving(&setup, "two", &["--slot", &slot]));
    assert!(code == 4 && text.contains("is at neither shard") && text.contains("docs/scale.md"), "{text}");

    // The statement of docs/scale.md.
    let docs = std::fs::read_to_string(livestore_tests::root().join("docs/scale.md")).unwrap();
    let start = docs.find("update livestore.shard_moves set finished_at = null").unwrap();
    let statement = docs[start..].split_inclusive(';').next().unwrap().replace("slot = 17", &format!("slot = {slot}"));
    batch(&one, &statement).await;
    let (code, text) = run(&moving(&setup, "two", &["--slot", &slot]));
    assert!(code == 4 && text.contains("is taken back: it is at one"), "{text}");
    let text = goes(&setup, "one", &["--slot", &slot]).await;
    assert!(text.contains("is at one already, and the front knows it now"), "{text}");
    batch(&setup.at_front("sidecar").await, &commit).await;
    assert_eq!((all(&one, &heads(&store)).await, all(&two, &heads(&store)).await), (vec!["2".into()], vec![]));
    assert_eq!(setup.status("reader").0, 0);
    setup.stop();
}

/// The front has a state from before a shard was added.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_a_restored_front_does_not_know_is_added_again() {
    let (setup, one, _) = made().await;
    let store = stores_of(&one, 0).await.remove(0);
    let (slot, commit) = (slot(&one, &store).await, format!("select livestore.commit('{store}', 'e')"));
    batch(&one, &commit).await;
    let three = added(&setup).await;
    let mut elsewhere = moving(&setup, "two", &["--slot", &slot]);
    elsewhere[6] = format!("three={}", three.url("postgres"));
    let (code, text) = run(&elsewhere);
    assert_eq!(code, 0, "{text}");
    let front = setup.at_front("postgres").await;
    let restored = format!(
        "do $$ begin execute format(
             'alter server livestore_shards options (set p{slot} %L)', (select connection from livestore.shards where name = 'one')
         ); end $$;
         delete from livestore.shards where name = 'three'"
    );
    batch(&front, &restored).await;
    assert_eq!(setup.status("reader").0, 1);

    let (url, shard) = (setup.cluster.url("postgres", &setup.front), format!("three={}", three.url("postgres")));
    let (code, text) = run(&["add", "--front", &url, "--shard", &shard].map(String::from));
    assert!(code == 0 && text.contains("three: shard 2 again, with 1 slots"), "{text}");
    let (code, text) = run(&elsewhere);
    assert!(code == 0 && text.contains("is at three already, and the front knows it now"), "{text}");
    batch(&setup.at_front("sidecar").await, &commit).await;
    assert_eq!(all(&three.admin().await, &heads(&store)).await, ["2"]);
    assert_eq!(setup.status("reader").0, 0);
    setup.stop();
}

/// A shard that was restored to an older state gives a number once more, which has moved away with its store.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_whose_number_another_one_has_is_named() {
    let (setup, one, two) = made().await;
    let stores = stores_of(&one, 0).await;
    let commit = |store: &str| format!("select livestore.commit('{store}', 'e')");
    batch(&one, &commit(&stores[0])).await;
    goes(&setup, "two", &["--store", &stores[0]]).await;
    let restored =
        "delete from livestore.eventlog_1; delete from livestore.departed_stores; delete from livestore.store_names;
         select setval('livestore.stores_id_seq', 1, false)";
    batch(&one, restored).await;
    batch(&one, &commit(&stores[1])).await;
    let what = ["--store", &stores[1]];
    let (code, text) = run(&moving(&setup, "two", &what));
    assert!(code == 4 && text.contains(&format!("the store \"{}\" has the number 1", stores[1])), "{text}");
    assert_eq!(all(&two, &heads(&stores[1])).await, [""; 0]);

    // As the error says.
    batch(&one, &format!("create table public.lines as select livestore.export_store('{}') as line", stores[1])).await;
    batch(&one, &format!("select livestore.drop_store('{}')", stores[1])).await;
    batch(&one, "select livestore.import_store('public.lines')").await;
    goes(&setup, "two", &what).await;
    batch(&setup.at_front("sidecar").await, &commit(&stores[1])).await;
    assert_eq!(all(&two, &heads(&stores[1])).await, ["2"]);

    // The statement of docs/scale.md.
    batch(&one, "select setval('livestore.stores_id_seq', 1, false)").await;
    let docs = std::fs::read_to_string(livestore_tests::root().join("docs/scale.md")).unwrap();
    let statement = docs.lines().find(|line| line.contains("setval('livestore.stores_id_seq'")).unwrap();
    batch(&one, statement).await;
    batch(&one, &commit(&stores[2])).await;
    goes(&setup, "two", &["--store", &stores[2]]).await;
    setup.stop();
}

/// The shards of a front trust each other no further than for the stores that move.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_takes_nothing_of_stores_that_do_not_move() {
    let (setup, one, two) = made().await;
    let stores = stores_of(&one, 0).await;
    for store in &stores[..2] {
        batch(&one, &format!("select livestore.commit('{store}', 'e')")).await;
    }
    // For this shard, all stores are in the slot that moves.
    let everything = "drop index livestore.stores_slot_idx, livestore.dropped_stores_slot_idx;
         create or replace function livestore.slot(store_id text, slot_count integer) returns integer language sql immutable as 'select 5'";
    batch(&one, everything).await;
    let refused = || {
        let (code, text) = run(&moving(&setup, "two", &["--slot", "5"]));
        assert!(code == 4 && text.contains("the shard one has sent rows of stores that do not move"), "{text}");
    };
    refused();
    // A row that comes beside the events.
    for store in &stores[..2] {
        batch(&one, &format!("select livestore.drop_store('{store}')")).await;
    }
    refused();
    for table in ["stores", "dropped_stores", "shard_moves"] {
        assert_eq!(all(&two, &format!("select count(*) from livestore.{table}")).await, ["0"], "{table}");
    }
    assert_eq!(setup.status("reader").0, 0);
    setup.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn moves_that_are_not_possible_are_refused_and_change_nothing() {
    let (setup, one, two) = made().await;
    let store = stores_of(&one, 0).await.remove(0);
    batch(&one, &format!("select livestore.commit('{store}', 'e')")).await;
    let slot = slot(&one, &store).await;
    let refused = |arguments: Vec<String>, part: &str| {
        let (code, text) = run(&arguments);
        assert!(matches!(code, 2 | 4) && text.contains(part), "{part}: {code} {text}");
    };
    let change = |place: usize, value: &str| {
        let mut arguments = moving(&setup, "two", &["--slot", &slot]);
        arguments[place] = value.into();
        arguments
    };
    refused(change(4, &format!("none={}", setup.one.url("postgres"))), "the front has no shard none");
    refused(
        change(4, &format!("one={}", setup.two.url("postgres"))),
        "--from: the database of this URL is not the shard one",
    );
    refused(change(2, &setup.one.url("postgres")), "no front's");
    refused(moving(&setup, "two", &["--slot", "256"]), "there is no slot 256: they are 0 to 255");
    refused(moving(&setup, "two", &["--slot", "9-7"]), "9 comes after 7");
    refused(moving(&setup, "two", &[]), "--slot");
    refused(
        moving(&setup, "one", &["--slot", "200"]).into_iter().map(|text| text.replace("two=", "one=")).collect(),
        "are the same shard",
    );
    let nobodys = stores_of(&one, 0).await.remove(9);
    refused(moving(&setup, "two", &["--store", &nobodys]), "there is no such store at one");
    let copy = format!("create database copy template {}", setup.one.name());
    let postgres = setup.cluster.connect("postgres", "postgres").await;
    let close = "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and datname = $1";
    drop(one);
    eventually("nobody is connected to it", async || {
        postgres.execute(close, &[&setup.one.name()]).await.unwrap();
        postgres.batch_execute(&copy).await.is_ok()
    })
    .await;
    let one = setup.one.admin().await;
    let three = added(&setup).await;
    batch(&postgres, &format!("create database copy_of_three template {}", three.name())).await;
    let copied = format!("three={}", setup.cluster.url("postgres", "copy_of_three"));
    refused(change(6, &copied), "--to: the database of this URL is not the shard three");
    refused(
        change(6, &format!("three={}", three.url("postgres")))
            .into_iter()
            .map(|text| {
                if text == "--slot" {
                    "--store".into()
                } else if text == slot {
                    store.clone()
                } else {
                    text
                }
            })
            .collect(),
        "three has no slot",
    );
    let copied = format!("one={}", setup.cluster.url("postgres", "copy"));
    refused(change(4, &copied), "--from: the database of this URL is not the shard one");
    // A trigger that cannot be kept from running.
    let always = "create function hooked() returns trigger language plpgsql as $$ begin return null; end $$;
         create trigger hook after insert on livestore.eventlog_1 for each row execute function hooked();
         alter table livestore.eventlog_1 enable always trigger hook";
    batch(&two, always).await;
    refused(moving(&setup, "two", &["--slot", &slot]), "would run for events that were appended long ago");
    batch(&two, "drop trigger hook on livestore.eventlog_1").await;
    // A transaction that stays open.
    let held = setup.one.admin().await;
    batch(&held, &format!("begin; select livestore.commit('{store}', 'e')")).await;
    let arguments = moving(&setup, "two", &["--store", &store]);
    let trying = tokio::task::spawn_blocking(move || run(&arguments));
    sleep(Duration::from_secs(2)).await;
    // Meanwhile others push, and create stores.
    let others = stores_of(&one, 0).await;
    batch(
        &one,
        &format!(
            "set lock_timeout = '2s'; select livestore.commit('{}', 'e'), livestore.commit('{}', 'e')",
            others[1], others[2]
        ),
    )
    .await;
    let (code, text) = trying.await.unwrap();
    assert!(code == 4 && text.contains("stay open"), "{text}");
    batch(&held, "commit").await;
    assert_eq!((all(&one, &heads(&store)).await, all(&two, &heads(&store)).await), (vec!["2".into()], vec![]));
    for shard in [&one, &two] {
        assert_eq!(all(shard, "select id from livestore.shard_moves").await, [""; 0]);
    }
    assert_eq!(setup.status("reader").0, 0);
    setup.stop();
}

/// Stores that are on another shard than their slot, and what the other shard knows of them, when the slot follows them, and goes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_follows_a_store_and_leaves_it_again() {
    let (setup, one, two) = made().await;
    let stores = stores_of(&one, 0).await;
    let (store, dropped) = (&stores[0], &stores[1]);
    let front = setup.at_front("admin").await;
    for store in [store, dropped] {
        batch(&one, &format!("select livestore.commit('{store}', 'e', '{{\"secret\": 1}}')")).await;
        goes(&setup, "two", &["--store", store]).await;
    }
    batch(
        &two,
        &format!("select livestore.erase('{store}', array[1], '{{}}'); select livestore.drop_store('{dropped}')"),
    )
    .await;
    let name = format!("select livestore.backend_id('{dropped}')");
    let before = all(&two, &name).await;
    for store in [store, dropped] {
        goes(&setup, "two", &["--slot", &slot(&one, store).await]).await;
    }
    assert_eq!(all(&two, &name).await, before, "as after it was dropped");
    let rewritten = "select store_id from livestore.rewritten_events";
    assert_eq!(all(&two, rewritten).await, std::slice::from_ref(store));
    for store in [store, dropped] {
        goes(&setup, "one", &["--slot", &slot(&one, store).await]).await;
        batch(&front, &format!("select livestore.commit('{store}', 'e'); select livestore.drop_store('{store}'); select livestore.commit('{store}', 'e')")).await;
    }
    for shard in [&one, &two] {
        assert_eq!(all(shard, "select store_id from livestore.shard_stores").await, [""; 0]);
    }
    assert_eq!(setup.status("reader").0, 0);

    // The front finds a store that was moved by a slot of its shard.
    let there = stores_of(&one, 1).await;
    goes(&setup, "two", &["--slot", "0-126"]).await;
    batch(&front, &format!("select livestore.commit('{}', 'e')", there[0])).await;
    goes(&setup, "one", &["--store", &there[0]]).await;
    let (code, text) = run(&moving(&setup, "two", &["--slot", "127"]));
    assert!(code == 4 && text.contains("slot 127 is the last one of one"), "{text}");

    // A front, or a shard, that was restored to an older state.
    batch(&one, &format!("delete from livestore.shard_stores where store_id = '{}'", there[0])).await;
    let (code, text) = setup.status("reader");
    assert!(code == 1 && text.contains("do not agree where the store"), "{text}");
    batch(&one, &format!("insert into livestore.shard_stores values ('{}', true)", there[0])).await;
    let map = setup.at_front("postgres").await;
    let connection = |name: &str| format!("select connection from livestore.shards where name = '{name}'");
    let old = all(&map, &connection("one")).await.remove(0);
    batch(&map, &format!("alter server livestore_shards options (set p5 '{}')", old.replace('\'', "''"))).await;
    let (code, text) = run(&moving(&setup, "one", &["--slot", "5"]));
    assert!(code == 4 && text.contains("slot 5 is at two, and the front says that it is elsewhere"), "{text}");
    let text = goes(&setup, "two", &["--slot", "5"]).await;
    assert!(text.contains("slot 5 is at two already, and the front knows it now"), "{text}");
    batch(&one, "update livestore.shard set slots = slots || 5").await;
    let (code, text) = run(&moving(&setup, "two", &["--slot", "5"]));
    assert!(code == 4 && text.contains("both one and two have the right to slot 5"), "{text}");
    setup.stop();
}

/// Code of the application on the shard where events arrive runs with no more rights than in a push.
#[tokio::test(flavor = "multi_thread")]
async fn neighbours_gain_no_rights_by_a_move() {
    let (setup, one, two) = made().await;
    let store = stores_of(&one, 0).await.remove(0);
    batch(&one, &format!("select livestore.commit('{store}', 'e')")).await;
    let code = "create role low login;
         create table public.seen (who text); grant insert on public.seen to public;
         create function public.look() returns boolean language plpgsql as $$ begin
             insert into public.seen values (current_user);
             insert into public.others values (1);
             perform set_config('livestore.joined_livestore_owner', 'on', true);
             return true;
         end $$;
         alter function public.look() owner to low;
         alter table livestore.eventlog_1 add constraint low check (public.look());
         create function public.noted() returns trigger language plpgsql as $$ begin insert into public.seen values (current_user); return null; end $$;
         create trigger noted after insert on livestore.store_names for each row execute function public.noted();
         create constraint trigger late after insert on livestore.store_names deferrable initially deferred for each row execute function public.noted();
         create table public.others (n integer); grant insert on public.others to public;
         create constraint trigger late after insert on public.others deferrable initially deferred for each row execute function public.noted();
         alter table livestore.eventlog_1 enable row level security;
         create policy readers on livestore.eventlog_1 for select to livestore_reader using (true)";
    batch(&two, code).await;
    goes(&setup, "two", &["--slot", &slot(&one, &store).await]).await;
    assert_eq!(
        all(&two, "select distinct who from public.seen order by 1").await,
        ["livestore_hooks", "livestore_owner"]
    );
    assert_eq!(all(&two, &heads(&store)).await, ["1"]);
    batch(&two, &format!("select livestore.commit('{store}', 'e')")).await;
    setup.stop();
}

/// Before, the next slot got the old address, and belonged to no shard from then on.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_given_another_address_meanwhile_stops_a_move_between_two_slots() {
    let (setup, _one, two) = made().await;
    let front = setup.at_front("postgres").await;
    // The first slot waits until the other command waits for it.
    let waits = "create function waits() returns event_trigger language plpgsql as $$ begin
             for i in 1..100 loop
                 exit when exists (select from pg_locks where relation = 'livestore.shards'::regclass and not granted);
                 perform pg_sleep(0.05);
             end loop;
         end $$;
         create event trigger waits on ddl_command_start when tag in ('ALTER SERVER') execute function waits()";
    batch(&front, waits).await;
    // A slot that is named twice moves once.
    let arguments = moving(&setup, "two", &["--slot", "1,0-1"]);
    let moves = tokio::task::spawn_blocking(move || run(&arguments));
    let altering = "select pid from pg_stat_activity where query like 'alter server%' and state = 'active'";
    eventually("the first slot moves", async || !all(&front, altering).await.is_empty()).await;
    let elsewhere = setup.two.url("postgres").replace("127.0.0.1", "localhost");
    let url = setup.cluster.url("postgres", &setup.front);
    let set_address = ["set-address", "--front", &url, "--shard", &format!("two={elsewhere}")].map(String::from);
    let (code, text) = tokio::task::spawn_blocking(move || run(&set_address)).await.unwrap();
    assert_eq!(code, 0, "{text}");
    let (code, text) = moves.await.unwrap();
    let stopped = "the shard two was given another address meanwhile";
    assert!(code == 4 && text.contains("slot 0 is at two: ") && text.contains(stopped), "{code} {text}");
    batch(&front, "drop event trigger waits").await;
    let slots = "select slots[1:3] from livestore.shard_map()";
    assert_eq!(all(&front, slots).await, ["{1,0,0}"]);
    assert_eq!(setup.status("reader").0, 0);
    let text = goes(&setup, "two", &["--slot", "1,0-1"]).await;
    assert_eq!(text.matches("slot 1 is at two: ").count(), 1, "{text}");
    assert_eq!(all(&front, slots).await, ["{1,1,0}"]);
    assert_eq!(all(&two, "select count(*) from livestore.shard where slots @> '{0,1}'").await, ["1"]);

    // An address that no shard has is named.
    batch(&front, "alter server livestore_shards options (set p5 'host=nowhere')").await;
    let (code, text) = setup.status("reader");
    assert!(code == 1 && text.contains("the slots 5 have an address that no shard has"), "{text}");
    let (code, text) = run(&moving(&setup, "two", &["--slot", "5"]));
    assert!(code == 4 && text.contains("slot 5 is at one, and the front says that it is elsewhere"), "{text}");
    goes(&setup, "two", &["--slot", "6"]).await;
    setup.stop();
}

/// Before, the command waited for hours, the stores were at no shard, and no other command could change the front.
#[tokio::test(flavor = "multi_thread")]
async fn a_move_ends_although_the_network_loses_the_answer_of_the_new_shard() {
    let (setup, one, two) = made().await;
    let store = stores_of(&one, 0).await.remove(0);
    batch(&one, &format!("select livestore.commit('{store}', 'e')")).await;
    let slot = slot(&one, &store).await;
    let network = Breaker::to(setup.cluster.port()).await;
    let slow = "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(3); return null; end $$;
         create constraint trigger slow after insert on livestore.shard_moves deferrable initially deferred for each row execute function slow()";
    batch(&two, slow).await;
    let mut arguments = moving(&setup, "two", &["--slot", &slot]);
    let port = |port: u16| format!(":{port}/");
    arguments[6] = arguments[6].replace(&port(setup.cluster.port()), &port(network.port()));
    let moves = tokio::task::spawn_blocking(move || run(&arguments));
    let committing = format!(
        "select pid from pg_stat_activity where datname = '{}' and query = 'commit' and state = 'active'",
        setup.two.name()
    );
    eventually("the new shard commits", async || !all(&two, &committing).await.is_empty()).await;
    network.lose(None);
    let (code, text) = timeout(Duration::from_secs(60), moves).await.expect("it ends in time").unwrap();
    let ended = format!("The move of slot {slot} was interrupted, and has ended now: it is at two.");
    assert!(code == 4 && text.contains("has not answered in time") && text.contains(&ended), "{code} {text}");
    batch(&setup.at_front("sidecar").await, &format!("select livestore.commit('{store}', 'e')")).await;
    assert_eq!((all(&one, &heads(&store)).await, all(&two, &heads(&store)).await), (vec![], vec!["2".into()]));
    assert_eq!(setup.status("reader").0, 0);
    setup.stop();
}
