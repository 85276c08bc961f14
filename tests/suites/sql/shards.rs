//! One of several databases: the stores of its slots are here, and LS005 says of all others that they are elsewhere.

use std::time::Duration;

use crate::support::{Push, all, log, one, one_with, push, push_batch, rejection, run};
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, up_to};
use livestore_tests::flavour::{Flavour, is_skipped};
use livestore_tests::root;
use serde_json::json;
use tokio_postgres::Client;

/// Stores of slot 0 and slot 1 of two.
const HERE: [&str; 2] = ["a", "😀"];
const ELSEWHERE: [&str; 2] = ["todos", "ä"];

/// Makes the database a shard with one slot of two.
const MAKE_SHARD: &str = "insert into livestore.shard (number, slot_count, slots) values (0, 2, '{0}')";

/// Everything that is called with the id of a store. Those that only an administrator calls come last.
const CALLS: [&str; 23] = [
    "livestore.head($1)",
    "livestore.backend_id($1)",
    "livestore.pull($1)",
    "livestore.pull($1, 0, 0)",
    "livestore.pull_page($1, 0, 100, 1000)",
    "livestore.read_page($1, 0, 100, 1000)",
    "livestore.locate_store($1)",
    "livestore.inspect_store($1)",
    "livestore.inspect_events($1, 9, true, null, null, null, null, 9, 9, 9, 1)",
    "livestore.relay_page($1, 0, 100, 1000)",
    "livestore.push($1, '[{\"name\":\"e\",\"seqNum\":1,\"parentSeqNum\":0,\"clientId\":\"c\",\"sessionId\":\"s\"}]')",
    "livestore.push($1, '[{\"name\":\"e\",\"seqNum\":9,\"parentSeqNum\":8,\"clientId\":\"c\",\"sessionId\":\"s\"}]')",
    "livestore.commit($1, 'e')",
    "livestore.commit_many(array[$1], 'e')",
    "livestore.create_store($1)",
    "livestore.relay_append($1, '{e}', '{null}', '{c}', '{s}', '{41}', '{1.50}')",
    "livestore.export_store($1)",
    "livestore.reset_store($1)",
    "livestore.drop_store($1)",
    "livestore.renew_backend_id($1)",
    "livestore.rewrite_event($1, 1, 'e', null)",
    "livestore.erase($1, '{1}', '{}')",
    "livestore.lock_log($1, 'a backend id')",
];

async fn shard() -> (Database, Client) {
    let database = Database::new().await;
    let client = database.admin().await;
    run(&client, MAKE_SHARD).await;
    (database, client)
}

/// The answer of a call, or the SQLSTATE of its error.
async fn answer(client: &Client, call: &str, store: &str) -> Result<usize, String> {
    let sql = format!("select * from {}", call.replace("$1", "$1::text"));
    match client.query(&sql, &[&store]).await {
        Ok(rows) => Ok(rows.len()),
        Err(error) => Err(error.code().unwrap_or_else(|| panic!("{call}: {error:?}")).code().to_owned()),
    }
}

#[tokio::test]
async fn the_slot_of_a_store_is_the_same_everywhere() {
    let client = Database::new().await.connect("reader").await;
    for (store, slots, slot) in [
        ("", 256, 66),
        ("a", 256, 18),
        ("todos", 256, 39),
        ("ä", 256, 63),
        ("😀", 256, 52),
        ("todos", 1, 0),
        ("todos", 2, 1),
        ("todos", 4096, 0xe27),
    ] {
        let found: i32 = one_with(&client, "select livestore.slot($1, $2)", &[&store, &slots]).await;
        assert_eq!(found, slot, "{store:?} of {slots}");
    }
}

#[tokio::test]
async fn every_function_says_that_a_store_is_on_another_shard() {
    let (database, client) = shard().await;
    let before: i64 = one(&client, "select count(*) from livestore.stores").await;
    for call in CALLS {
        for store in ELSEWHERE {
            assert_eq!(answer(&client, call, store).await, Err("LS005".into()), "{call} of {store}");
        }
    }
    assert_eq!(one::<i64>(&client, "select count(*) from livestore.stores").await, before);
    let sidecar = database.connect("sidecar").await;
    let refused = rejection(push(&sidecar, "todos", chain(0, 1)).await);
    assert_eq!((refused.sqlstate.as_str(), refused.json()), ("LS005", json!({"storeId": "todos"})));
    assert!(refused.message.contains("\"todos\" is on another shard") && refused.hint.contains("--shards"));
    let reader = database.connect("reader").await;
    for call in &CALLS[..10] {
        assert_eq!(answer(&reader, call, "todos").await, Err("LS005".into()), "{call}");
    }
}

/// With the row, for the stores that are here, and without it, for all.
#[tokio::test]
async fn stores_that_are_here_notice_nothing() {
    let ((_shard, shard), (_whole, whole)) = (shard().await, {
        let database = Database::new().await;
        let client = database.admin().await;
        (database, client)
    });
    for call in CALLS {
        let expected = answer(&whole, call, "todos").await;
        assert_ne!(expected, Err("LS005".into()), "{call}");
        assert_eq!(answer(&shard, call, "a").await, expected, "{call}");
    }
}

#[tokio::test]
async fn each_push_of_a_batch_has_its_own_answer() {
    let stores = ["a", "todos", "😀", "ä", "todos", "a"];
    let parents = [1, 0, 0, 7, 1, 2];
    let pushes: Vec<_> = stores.iter().zip(parents).map(|(store, parent)| Push::to(*store, chain(parent, 1))).collect();
    for skips in ["", "skip"] {
        let (database, client) = shard().await;
        let sidecar = database.connect("sidecar").await;
        push(&client, "a", chain(0, 1)).await.unwrap();
        run(&sidecar, &format!("set livestore.held_stores = '{skips}'")).await;
        let outcomes = push_batch(&sidecar, &pushes).await;
        let brief: Vec<_> = outcomes.iter().map(|outcome| outcome.brief()).collect();
        assert_eq!(brief, [Ok(2), Err("LS005"), Ok(1), Err("LS005"), Err("LS005"), Ok(3)], "{skips}");
        assert_eq!(outcomes[3].json(), json!({"storeId": "ä"}));
        let alone = rejection(push(&sidecar, "todos", chain(0, 1)).await);
        assert_eq!((&outcomes[1].message, &outcomes[1].hint), (&Some(alone.message), &Some(alone.hint)));
        assert_eq!(log(&client, "a").await, up_to(3));
    }
}

/// A sidecar that looks for a store by the name of its stream or table must not create a second one while neither shard lists it.
#[tokio::test]
async fn a_store_that_leaves_is_found_by_its_other_names() {
    let (_database, client) = shard().await;
    run(&client, "select livestore.create_store('a'), livestore.create_store('😀')").await;
    let names = "select array_agg(name order by n) from livestore.list_streams('', '', 10) with ordinality s(name, created_at, n)";
    let found = |column: &str| {
        format!(
            "select array_agg(f.store_id order by f.store_id) from (values ('a'), ('😀')) w(store_id)
             cross join lateral livestore.{column} f"
        )
    };
    let questions = [
        names.to_owned(),
        found("stores_of_stream(livestore.stream_name(w.store_id), 10)"),
        found("stores_of_table_suffix(livestore.table_suffix(w.store_id), 10)"),
        "select array_agg(f.store_id order by f.store_id)
         from livestore.kept_logs k cross join lateral livestore.store_of_number(k.id) f"
            .to_owned(),
    ];
    let mut answers = Vec::new();
    for question in &questions {
        answers.push(one::<Vec<String>>(&client, question).await);
    }
    assert!(answers.iter().all(|answer| answer.len() == 2), "{answers:?}");
    run(
        &client,
        "insert into livestore.shard_moves (slot, shard) values (0, 'two');
         insert into livestore.departed_stores
         select s.id, s.store_id, s.head, s.backend_id, s.eventlog, s.created_at, m.id
         from livestore.stores s, livestore.shard_moves m;
         delete from livestore.stores",
    )
    .await;
    for (question, answer) in questions.iter().zip(&answers) {
        assert_eq!(one::<Vec<String>>(&client, question).await, *answer, "{question}");
    }
    // The other shard may have been asked before it had them.
    run(&client, "update livestore.shard_moves set finished_at = now()").await;
    for (question, answer) in questions.iter().zip(&answers) {
        assert_eq!(one::<Vec<String>>(&client, question).await, *answer, "{question}");
    }
    run(&client, "update livestore.shard_moves set finished_at = now() - interval '2 minutes'").await;
    for question in &questions {
        assert_eq!(one::<Option<Vec<String>>>(&client, question).await, None, "{question}");
    }
}

/// It says nothing about the store that the push is to.
#[tokio::test]
async fn a_hook_that_writes_to_another_shard_fails_like_any_hook() {
    let (database, client) = shard().await;
    run(
        &client,
        "create function public.copy() returns trigger language plpgsql as $$
             begin perform livestore.commit('todos', 'copied'); return new; end $$;
         create trigger copy before insert on livestore.eventlog_1 for each row execute function public.copy()",
    )
    .await;
    run(&client, "select livestore.create_store('a')").await;
    let pushes = [Push::to("a", chain(0, 1)), Push::to("😀", chain(0, 1))];
    for outcome in push_batch(&database.connect("sidecar").await, &pushes).await {
        assert_eq!(outcome.brief(), Err("09000"), "{outcome:?}");
    }
}

#[tokio::test]
async fn exceptions_count_more_than_slots() {
    let (_database, client) = shard().await;
    run(&client, "insert into livestore.shard_stores values ('a', false), ('todos', true)").await;
    assert_eq!(push(&client, "todos", chain(0, 2)).await.unwrap(), 2);
    assert_eq!(rejection(push(&client, "a", chain(0, 2)).await).sqlstate, "LS005");
    // Nobody asks about a store that exists.
    run(&client, "delete from livestore.shard_stores").await;
    assert_eq!(push(&client, "todos", chain(2, 2)).await.unwrap(), 4);
    assert_eq!(one::<i64>(&client, "select livestore.head('todos')").await, 4);
    run(&client, "select livestore.drop_store('todos')").await;
    assert_eq!(rejection(push(&client, "todos", chain(0, 2)).await).sqlstate, "LS005");
}

/// A store that came from another shard has a number of that shard. The next store gets one of this shard all the same.
#[tokio::test]
async fn numbers_of_stores_stay_in_the_range_of_the_shard() {
    let (_database, client) = shard().await;
    run(
        &client,
        "update livestore.shard set number = 1;
         alter table livestore.stores alter id restart with 1099511627777;
         insert into livestore.stores (id, store_id, backend_id) overriding system value
         values (7, 'from 0', 'x'), (2 * 1099511627776 + 1, 'from 2', 'y')",
    )
    .await;
    for store in HERE {
        push(&client, store, chain(0, 1)).await.unwrap();
    }
    // As after logical replication, which leaves the sequence behind.
    run(&client, "insert into livestore.stores (id, store_id, backend_id) overriding system value values (1099511627779, 'b', 'z')").await;
    run(&client, "insert into livestore.shard_stores values ('next', true); select livestore.create_store('next')")
        .await;
    let numbers = "select id - 1099511627776 from livestore.stores where store_id not like 'from%' order by id";
    assert_eq!(all::<i64>(&client, numbers).await, [1, 2, 3, 4]);
}

/// A transaction that takes a slot away locks the row first: a push then waits, creates its store elsewhere, and loses nothing.
#[tokio::test]
async fn no_store_is_created_while_a_shard_gives_it_away() {
    let (database, client) = shard().await;
    let (mover, sidecar) = (database.admin().await, database.connect("sidecar").await);
    run(&mover, "begin; select from livestore.shard for update; update livestore.shard set slots = '{}'").await;
    let held = push_batch(&sidecar, &[Push::to("a", chain(0, 1))]).await;
    assert_eq!(held[0].brief(), Err("55P03"), "{held:?}");
    let waiting = tokio::spawn(async move { push(&client, "a", chain(0, 1)).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished());
    run(&mover, "commit").await;
    assert_eq!(rejection(waiting.await.unwrap()).sqlstate, "LS005");

    // The other way around: the mover waits for a store that is being created.
    run(&mover, "update livestore.shard set slots = '{0}'").await;
    let creator = database.admin().await;
    run(&creator, "begin; select livestore.create_store('a')").await;
    run(&mover, "set lock_timeout = '100ms'").await;
    let waits = rejection(mover.batch_execute("select from livestore.shard for update").await);
    assert_eq!(waits.sqlstate, "55P03");
}

/// The slot of a store comes, and goes, between the push's look for the store and its answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_during_a_move_is_accepted_or_elsewhere() {
    let (database, client) = shard().await;
    let (mover, sidecar) = (database.admin().await, database.connect("sidecar").await);
    let moving = tokio::spawn(async move {
        loop {
            run(&mover, "update livestore.shard set slots = '{0,1}'").await;
            run(&mover, "update livestore.shard set slots = '{}'").await;
        }
    });
    let mut found = [0; 2];
    for n in 0.. {
        for skips in ["", "skip"] {
            run(&sidecar, &format!("set livestore.held_stores = '{skips}'")).await;
            for outcome in push_batch(&sidecar, &[Push::to(format!("{skips}{n}"), chain(0, 1))]).await {
                match outcome.brief() {
                    Ok(_) => found[0] += 1,
                    Err("LS005") => found[1] += 1,
                    // The row of the shard is locked.
                    Err("55P03") if skips == "skip" => {}
                    _ => panic!("{outcome:?}"),
                }
            }
        }
        if n >= 300 && found.iter().all(|count| *count > 50) {
            break;
        }
    }
    moving.abort();
    drop(client);
}

#[tokio::test]
async fn a_restored_dump_is_the_same_shard() {
    let (database, client) = shard().await;
    run(&client, "insert into livestore.shard_stores values ('a', false)").await;
    let name = format!("{}_restored", database.name());
    run(&client, &format!("create database {name} template template0")).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("dump").display().to_string();
    database.tool("pg_dump", &["-f", &file]);
    database.tool("psql", &["-d", &name, "-v", "ON_ERROR_STOP=1", "-q", "-f", &file]);
    let restored = database.cluster().connect("postgres", &name).await;
    for store in ["a", "todos"] {
        assert_eq!(rejection(push(&restored, store, chain(0, 1)).await).sqlstate, "LS005", "{store}");
    }
    push(&restored, "😀", chain(0, 1)).await.unwrap();
}

/// A database with the portable flavour of the last release, with data.
async fn portable_release() -> (Database, Client) {
    let database = Database::new().await;
    let client = database.admin().await;
    run(&client, Flavour::of_tests().uninstall()).await;
    run(&client, "drop schema if exists livestore").await;
    run(&client, &std::fs::read_to_string(root().join("sql/releases/livestore-0.3.0.sql")).unwrap()).await;
    push(&client, "s", chain(0, 3)).await.unwrap();
    (database, client)
}

/// The contents of the schema, a line for each fact.
async fn made_of(client: &Client) -> Vec<String> {
    all(
        client,
        "select p.oid::regprocedure || md5(pg_get_functiondef(p.oid)) || p.proowner::regrole || coalesce(p.proacl::text, '')
         from pg_proc p where p.pronamespace = 'livestore'::regnamespace
         union all
         select c.oid::regclass || c.relowner::regrole::text || c.relreplident::text || coalesce((select array_agg(a::text order by a::text) from unnest(c.relacl) a)::text, '')
         from pg_class c where c.relnamespace = 'livestore'::regnamespace
         union all
         select a.attrelid::regclass || ' ' || a.attname || format_type(a.atttypid, a.atttypmod)
         from pg_attribute a join pg_class c on c.oid = a.attrelid
         where c.relnamespace = 'livestore'::regnamespace and a.attnum > 0
         order by 1",
    )
    .await
}

#[tokio::test]
async fn the_script_of_the_portable_flavour_updates_the_last_release() {
    if Flavour::of_tests() == Flavour::Native {
        return;
    }
    let (_database, client) = portable_release().await;
    let fresh = Database::new().await.admin().await;
    for _ in 0..2 {
        run(&client, Flavour::Portable.install()).await;
        assert_eq!(made_of(&client).await, made_of(&fresh).await);
    }
    assert_eq!(log(&client, "s").await, up_to(3));
    assert_eq!(push(&client, "s", chain(3, 1)).await.unwrap(), 4);
    let versions = ["0.3.0", env!("CARGO_PKG_VERSION")];
    assert_eq!(all::<String>(&client, "select version from livestore.versions order by id").await, versions);
}

#[tokio::test]
async fn the_portable_flavour_of_the_last_release_becomes_todays_native_one() {
    if is_skipped("it has no library") {
        return;
    }
    let (_database, client) = portable_release().await;
    run(&client, "create extension livestore_sync version 'portable'; alter extension livestore_sync update").await;
    let fresh = Database::new().await.admin().await;
    assert_eq!(made_of(&client).await, made_of(&fresh).await);
    assert_eq!(push(&client, "s", chain(3, 1)).await.unwrap(), 4);
}

/// The events of a store that is on another shard go once the commit log is pruned, in parts.
#[tokio::test]
async fn what_a_store_leaves_behind_is_removed_in_parts() {
    let (_database, client) = shard().await;
    run(&client, "select livestore.create_store('a'), livestore.create_store('😀', true)").await;
    run(
        &client,
        "insert into livestore.eventlog_1 select s.id, i, i - 1, 'e', null, 'c', 's', now()
         from livestore.stores s, generate_series(1, 10001) i where s.store_id = 'a'",
    )
    .await;
    run(&client, "select livestore.commit('😀', 'e'); update livestore.stores set head = 10001 where store_id = 'a'")
        .await;
    run(
        &client,
        "insert into livestore.shard_moves (slot, shard) values (0, 'two');
         insert into livestore.departed_stores
         select s.id, s.store_id, s.head, s.backend_id, s.eventlog, s.created_at, m.id, case s.store_id when 'a' then 1 else 2 end
         from livestore.stores s, livestore.shard_moves m;
         delete from livestore.stores",
    )
    .await;
    let remove = "select livestore.remove_departed_store()";
    assert!(!one::<bool>(&client, remove).await, "the commit log has them");
    run(&client, "update livestore.instance set pruned_commits = 1").await;
    let left = "select count(*) from livestore.eventlog_1";
    for (more, events) in [(true, 2), (true, 1), (false, 1)] {
        assert_eq!((one::<bool>(&client, remove).await, one::<i64>(&client, left).await), (more, events));
    }
    run(&client, "update livestore.instance set pruned_commits = 2").await;
    let table: String = one(&client, "select eventlog::text from livestore.departed_stores").await;
    assert!(one::<bool>(&client, remove).await && !one::<bool>(&client, remove).await);
    assert_eq!(one::<Option<String>>(&client, &format!("select to_regclass('{table}')::text")).await, None);
}
