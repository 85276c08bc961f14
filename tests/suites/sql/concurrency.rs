//! Many sessions at once: no deadlock, no broken chain, every success in the log once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::support::{Outcome, Push, all, broken_chains, log, one, one_with, push, push_batch, rejection, run};
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event, up_to};
use livestore_tests::eventually;
use serde_json::{Value, json};
use tokio::sync::Barrier;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

/// Numbers that look random and are the same in every run: xorshift.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % 1_000_003).unwrap() % sides
    }
}

/// A sidecar with a queue of its own: it pushes groups, and learns the heads from the answers.
struct Session {
    number: usize,
    client: Client,
    heads: HashMap<String, i64>,
    dice: Dice,
    made: usize,
}

impl Session {
    async fn on(database: &Database, number: usize) -> Self {
        let client = database.connect("sidecar").await;
        let dice = Dice(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(number as u64 + 1));
        Self { number, client, heads: HashMap::new(), dice, made: 0 }
    }

    /// Pushes to some of these stores, in any order and some of them twice. Returns the names of the events that were
    /// accepted, each with its store, and what went wrong otherwise.
    async fn push_some(&mut self, stores: &[String]) -> (Vec<(String, String)>, Vec<Outcome>) {
        let mut heads = self.heads.clone();
        let mut group = Vec::new();
        for _ in 0..1 + self.dice.below(2 * stores.len()) {
            let store = &stores[self.dice.below(stores.len())];
            let head = heads.entry(store.clone()).or_insert(0);
            let names: Vec<_> = (0..1 + self.dice.below(3))
                .map(|_| {
                    self.made += 1;
                    format!("{} of session {}", self.made, self.number)
                })
                .collect();
            let batch: Value = (*head..).zip(&names).map(|(parent, name)| event(parent, name, json!({}))).collect();
            *head += i64::try_from(names.len()).unwrap();
            group.push((store.clone(), names, batch));
        }
        let pushes: Vec<_> = group.iter().map(|(store, _, batch)| Push::to(store, batch)).collect();
        let outcomes = push_batch(&self.client, &pushes).await;
        let (mut accepted, mut failed) = (Vec::new(), Vec::new());
        for ((store, names, batch), outcome) in group.into_iter().zip(outcomes) {
            match outcome.brief() {
                Ok(head) => {
                    assert_eq!(outcome.appended, i32::try_from(batch.as_array().unwrap().len()).ok());
                    accepted.extend(names.into_iter().map(|name| (store.clone(), name)));
                    self.heads.insert(store, head);
                }
                Err("LS001") => {
                    self.heads.insert(store, outcome.json()["minimumExpectedNum"].as_i64().unwrap());
                }
                Err(_) => failed.push(outcome),
            }
        }
        (accepted, failed)
    }
}

fn named(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix} {n}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_sessions_on_the_same_stores_lose_nothing_and_never_deadlock() {
    let database = Database::new().await;
    // Half of the pushes go to stores that others reset, drop and give dedicated tables meanwhile.
    let (kept, changing) = (Arc::new(named("kept", 6)), Arc::new(named("changing", 4)));
    let sessions: Vec<_> = (0..16)
        .map(|number| {
            let (database, kept, changing) = (database.clone(), Arc::clone(&kept), Arc::clone(&changing));
            tokio::spawn(async move {
                let mut session = Session::on(&database, number).await;
                let (mut accepted, mut failed) = (Vec::new(), Vec::new());
                for round in 0..24 {
                    let stores = if round % 2 == 0 { kept.to_vec() } else { [&kept[..], &changing[..]].concat() };
                    let (new, others) = session.push_some(&stores).await;
                    accepted.extend(new);
                    failed.extend(others);
                }
                (accepted, failed)
            })
        })
        .collect();
    let operators: Vec<_> = (0..2)
        .map(|number| {
            let (database, kept, changing) = (database.clone(), Arc::clone(&kept), Arc::clone(&changing));
            tokio::spawn(async move {
                let client = database.admin().await;
                let mut dice = Dice(77 + number);
                for round in 0..24 {
                    let store = &changing[dice.below(changing.len())];
                    let sql = match dice.below(4) {
                        0 => "select livestore.reset_store($1)::text",
                        1 => "select livestore.drop_store($1)::text",
                        _ => "select livestore.create_store($1, own_table => true)::text",
                    };
                    if let Err(error) = client.query_one(sql, &[&store]).await {
                        assert_eq!(error.code().map(|code| code.code()), Some("LS004"), "{sql}: {error:?}");
                    }
                    // Each of these stores moves into a dedicated table while it is written to.
                    let sql = "select livestore.create_store($1, own_table => true)::text";
                    client.query_one(sql, &[&kept[round % 3]]).await.unwrap();
                }
            })
        })
        .collect();
    let reader = {
        let (database, kept) = (database.clone(), Arc::clone(&kept));
        tokio::spawn(async move {
            let client = database.connect("reader").await;
            let mut lengths = HashMap::new();
            for round in 0..100 {
                let store = &kept[round % kept.len()];
                let sql = "select parent_seq_num, seq_num from livestore.pull($1, 0, 1000000)";
                let events = client.query(sql, &[store]).await.unwrap();
                let parents: Vec<i64> = events.iter().map(|event| event.get(0)).collect();
                let numbers: Vec<i64> = events.iter().map(|event| event.get(1)).collect();
                assert_eq!(numbers, up_to(i64::try_from(events.len()).unwrap()), "{store}");
                assert!(numbers.iter().zip(&parents).all(|(number, parent)| number - 1 == *parent), "{store}");
                let before = lengths.insert(store.clone(), events.len());
                assert!(before.unwrap_or(0) <= events.len(), "{store} has become shorter");
            }
        })
    };
    for other in operators.into_iter().chain([reader]) {
        other.await.unwrap();
    }
    let mut accepted = Vec::new();
    for session in sessions {
        let (new, failed) = session.await.unwrap();
        accepted.extend(new);
        // A store that was held for too long may be tried again; nothing else may go wrong.
        let wrong: Vec<_> = failed.iter().filter(|outcome| outcome.brief() != Err("55P03")).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    let admin = database.admin().await;
    assert_eq!(broken_chains(&admin).await, [""; 0]);
    let rows = admin.query("select store_id, name from livestore.events", &[]).await.unwrap();
    let in_the_log: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let sorted = |events: &[(String, String)]| {
        let mut kept: Vec<_> = events.iter().filter(|(store, _)| store.starts_with("kept")).cloned().collect();
        kept.sort();
        kept
    };
    assert!(sorted(&accepted).len() > 100, "only {} events", sorted(&accepted).len());
    assert!(sorted(&in_the_log) == sorted(&accepted), "what was acknowledged is in the log, once, and nothing else");
    for event in in_the_log.iter().filter(|(store, _)| store.starts_with("changing")) {
        assert!(accepted.contains(event), "{event:?} is in the log, but was not acknowledged");
    }
    assert_eq!(deadlocks(admin).await, 0);
}

/// The number of deadlocks in the database, once all other sessions have ended and so reported theirs.
async fn deadlocks(admin: Client) -> i64 {
    let alone = "select count(*) = 1 from pg_stat_activity where datname = current_database()";
    eventually("the other sessions have ended", async || one::<bool>(&admin, alone).await).await;
    one(&admin, "select deadlocks from pg_stat_database where datname = current_database()").await
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_create_the_same_stores_in_any_order_do_not_deadlock() {
    let database = Database::new().await;
    let admin = database.admin().await;
    for round in 0..5 {
        let stores = Arc::new(named(&format!("round {round}, store"), 30));
        let barrier = Arc::new(Barrier::new(8));
        let sessions: Vec<_> = (0..8)
            .map(|number| {
                let (database, stores, barrier) = (database.clone(), Arc::clone(&stores), Arc::clone(&barrier));
                tokio::spawn(async move {
                    let client = database.connect("sidecar").await;
                    let mut pushes: Vec<_> = stores
                        .iter()
                        .map(|store| Push::to(store, json!([event(0, "e", json!({"session": number}))])))
                        .collect();
                    pushes.rotate_left(4 * number);
                    if number % 2 == 1 {
                        pushes.reverse();
                    }
                    barrier.wait().await;
                    push_batch(&client, &pushes).await
                })
            })
            .collect();
        let mut winners = 0;
        for session in sessions {
            for outcome in session.await.unwrap() {
                match outcome.brief() {
                    Ok(1) => winners += 1,
                    Err("LS001" | "55P03") => {}
                    _ => panic!("{outcome:?}"),
                }
            }
        }
        // Sessions that wait for each other's new stores give up, perhaps both of them.
        assert!(winners >= stores.len() as i64 / 2, "{winners} of {}", stores.len());
        let events = "select count(*) from livestore.events where store_id = any ($1)";
        assert_eq!(
            one_with::<i64>(&admin, events, &[&*stores]).await,
            winners,
            "each store has the event of its winner"
        );
    }
    assert_eq!(broken_chains(&admin).await, [""; 0]);
    assert_eq!(deadlocks(admin).await, 0);
}

/// Below `push_batch`, which gives up waiting before Postgres looks for deadlocks.
#[tokio::test(flavor = "multi_thread")]
async fn locks_are_taken_in_an_order_that_cannot_deadlock() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(&admin, &format!("alter database {} set deadlock_timeout = '20ms'", database.name())).await;
    let barrier = Arc::new(Barrier::new(8));
    let sessions: Vec<_> = (0..8)
        .map(|number| {
            let (database, barrier) = (database.clone(), Arc::clone(&barrier));
            tokio::spawn(async move {
                let client = database.admin().await;
                let mut dice = Dice(7 + number);
                let mut errors = Vec::new();
                // Each time first with new stores, then with the same again.
                for round in 0..40 {
                    let mut stores = named(&format!("{}", round / 2), 40);
                    (0..stores.len()).for_each(|place| stores.swap(place, dice.below(40)));
                    let batches = vec![chain(0, 1).to_string(); stores.len()];
                    let sql = "select count(*) from livestore._append($1, $2, array_fill(null::text, array[40]))";
                    barrier.wait().await;
                    errors.extend(client.query(sql, &[&stores, &batches]).await.err());
                }
                errors
            })
        })
        .collect();
    for session in sessions {
        let errors = session.await.unwrap();
        assert!(errors.is_empty(), "{errors:?}");
    }
    assert_eq!(deadlocks(admin).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_sessions_with_the_same_head_one_wins_and_the_other_learns_the_head() {
    let database = Database::new().await;
    let clients = [Arc::new(database.connect("sidecar").await), Arc::new(database.connect("sidecar").await)];
    let mut head = 0;
    for round in 0..30 {
        let barrier = Arc::new(Barrier::new(2));
        let racers = [0, 1].map(|racer| {
            let (client, barrier) = (Arc::clone(&clients[racer]), Arc::clone(&barrier));
            // One event or two, so that the loser learns the head of the winner and not its own.
            let count = 1 + i64::try_from((racer + round) % 2).unwrap();
            let batch: Value = (head..head + count).map(|parent| event(parent, "e", json!({"racer": racer}))).collect();
            tokio::spawn(async move {
                barrier.wait().await;
                push(&client, "s", batch).await
            })
        });
        let [first, second] = racers;
        let (winner, loser) = match (first.await.unwrap(), second.await.unwrap()) {
            (Ok(winner), Err(loser)) | (Err(loser), Ok(winner)) => (winner, rejection(Err::<(), _>(loser))),
            both => panic!("{both:?}"),
        };
        assert_eq!(loser.sqlstate, "LS001");
        assert_eq!(loser.json(), json!({"minimumExpectedNum": winner, "providedNum": head}));
        head = winner;
    }
    assert_eq!(broken_chains(&database.admin().await).await, [""; 0]);
}

/// Starts a call from a session of its own, and returns once it waits for somebody's lock. The result is a number.
async fn waiting(database: &Database, call: &str) -> JoinHandle<Result<i64, tokio_postgres::Error>> {
    let client = database.connect("sidecar").await;
    let pid: i32 = one(&client, "select pg_backend_pid()").await;
    let sql = format!("select livestore.{call}::bigint");
    let result = tokio::spawn(async move { client.query_one(&sql, &[]).await.map(|row| row.get(0)) });
    let admin = database.admin().await;
    let waits = "select coalesce(wait_event_type = 'Lock', false) from pg_stat_activity where pid = $1";
    eventually("the call waits", async || one_with::<bool>(&admin, waits, &[&pid]).await).await;
    result
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_waits_for_another_sees_what_became_of_it() {
    let database = Database::new().await;
    let holder = database.connect("sidecar").await;
    for (store, parent) in [("new", 0), ("old", 2)] {
        for (end, expected) in [("rollback", Ok(parent + 1)), ("commit", Err("LS001"))] {
            let store = format!("{store}, {end}");
            if parent > 0 {
                push(&holder, &store, chain(0, parent)).await.unwrap();
            }
            run(&holder, "begin").await;
            push(&holder, &store, json!([event(parent, "first", json!({})), event(parent + 1, "first", json!({}))]))
                .await
                .unwrap();
            let second = json!([event(parent, "second", json!({}))]);
            let waiting = waiting(&database, &format!("push('{store}', '{second}')")).await;
            run(&holder, end).await;
            let result = waiting.await.unwrap();
            match expected {
                Ok(head) => assert_eq!(result.unwrap(), head, "{store}"),
                Err(sqlstate) => {
                    let rejection = rejection(result);
                    assert_eq!(rejection.sqlstate, sqlstate, "{store}");
                    assert_eq!(rejection.json(), json!({"minimumExpectedNum": parent + 2, "providedNum": parent}));
                }
            }
        }
    }
    assert_eq!(broken_chains(&holder).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_for_a_reset_or_a_drop_goes_on_with_the_new_log() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let mut failed = Vec::new();
    for own_table in [false, true] {
        for change in ["reset_store", "drop_store"] {
            let calls = [
                ("push", format!("push('s', '{}')", chain(0, 2)), 2),
                ("commit", "commit('s', 'e')".into(), 1),
                ("create_store", "create_store('s', own_table => true)".into(), 0),
            ];
            for (name, call, events) in calls {
                run(&admin, &format!("select livestore.create_store('s', {own_table})")).await;
                push(&admin, "s", chain(0, 3)).await.unwrap();
                run(&admin, &format!("begin; select livestore.{change}('s')")).await;
                let waiting = waiting(&database, &call).await;
                run(&admin, "commit").await;
                match waiting.await.unwrap() {
                    Ok(_) => assert_eq!(log(&admin, "s").await, up_to(events), "{change}, {name}"),
                    Err(error) => failed.push((change, own_table, name, rejection(Err::<(), _>(error)).message)),
                }
                run(&admin, "select livestore.create_store('s'), livestore.drop_store('s')").await;
            }
        }
    }
    assert_eq!(failed, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_waits_for_a_move_goes_into_the_own_table() {
    let database = Database::new().await;
    let admin = database.admin().await;
    push(&admin, "s", chain(0, 3)).await.unwrap();
    run(&admin, "begin; select livestore.create_store('s', own_table => true)").await;
    let waiting = waiting(&database, &format!("push('s', '{}')", chain(2, 3))).await;
    run(&admin, "commit").await;
    assert_eq!(waiting.await.unwrap().unwrap(), 5);
    assert_eq!(
        all::<i64>(&admin, "select \"seqNum\" from only livestore.eventlog_1_s order by 1").await,
        [1, 2, 3, 4, 5]
    );
    assert_eq!(one::<i64>(&admin, "select count(*) from only livestore.eventlog_1").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_stores_get_tables_at_once_although_their_names_collide() {
    let database = Database::new().await;
    let holder = database.admin().await;
    for (end, table) in [("rollback", "eventlog_1_a_b"), ("commit", "eventlog_1_a_b_")] {
        run(&holder, "begin; select livestore.create_store('a_b', own_table => true)").await;
        let waiting = waiting(&database, "create_store('a-b', own_table => true)::oid").await;
        run(&holder, end).await;
        let created = waiting.await.unwrap().unwrap_or_else(|error| panic!("{end}: {error:?}"));
        let name: String =
            one_with(&holder, "select relname::text from pg_class where oid::bigint = $1", &[&created]).await;
        assert!(name.starts_with(table), "{end}: {name}");
        assert_eq!(push(&holder, "a-b", chain(0, 2)).await.unwrap(), 2, "{end}");
        run(&holder, "select livestore.drop_store('a-b')").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_held_does_not_hold_up_the_others() {
    let database = Database::new().await;
    let (holder, client) = (database.admin().await, database.connect("sidecar").await);
    push(&holder, "held", chain(0, 1)).await.unwrap();
    push(&holder, "free", chain(0, 1)).await.unwrap();
    run(&holder, "begin").await;
    push(&holder, "held", chain(1, 1)).await.unwrap();
    let pushes = [Push::to("held", chain(1, 1)), Push::to("free", chain(1, 1)), Push::to("new", chain(0, 1))];
    let outcomes =
        tokio::time::timeout(Duration::from_secs(10), push_batch(&client, &pushes)).await.expect("an answer");
    assert_eq!(outcomes.iter().map(|outcome| outcome.brief()).collect::<Vec<_>>(), [Err("55P03"), Ok(2), Ok(1)]);
    run(&holder, "commit").await;
    let outcomes = push_batch(&client, &pushes).await;
    assert_eq!(outcomes.iter().map(|outcome| outcome.brief()).collect::<Vec<_>>(), [Ok(2), Ok(2), Ok(1)], "repeats");
}

/// A store that did not exist when a group began to lock its stores is not locked: its head may have moved on.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_comes_into_being_while_a_group_waits_is_not_forked() {
    let database = Database::new().await;
    let (mut holder, group, mut other) = (database.admin().await, database.admin().await, database.admin().await);
    run(&holder, "select livestore.create_store('held')").await;
    let held = holder.transaction().await.unwrap();
    held.execute("select from livestore.stores where store_id = 'held' for update", &[]).await.unwrap();
    let mine = json!([event(3, "mine", json!({}))]).to_string();
    let waiting = tokio::spawn(async move {
        let push =
            "select count(*) from livestore.push_batch(array['new', 'held'], array[$1, '[]'], array[null, null])";
        group.query_one(push, &[&mine]).await.unwrap();
    });
    let admin = database.admin().await;
    let waits =
        "select count(*) = 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    eventually("the group waits", async || one::<bool>(&admin, waits).await).await;
    other.execute("select livestore.push('new', $1)", &[&chain(0, 3)]).await.unwrap();
    let theirs = other.transaction().await.unwrap();
    theirs.execute("select livestore.commit('new', 'theirs')", &[]).await.unwrap();
    held.commit().await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    theirs.commit().await.unwrap();
    waiting.await.unwrap();
    let parents: Vec<i64> = all(&holder, "select parent_seq_num from livestore.events order by seq_num").await;
    assert_eq!(parents, [0, 1, 2, 3]);
}

/// A group that waits for a store holds only those whose names come before it, whatever their numbers are: a reset gives a store
/// another number, and groups that go by what they have read of it could wait for each other.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_does_not_change_the_order_of_locks() {
    let database = Database::new().await;
    let mut holder = database.admin().await;
    for store in ["a", "b"] {
        push(&holder, store, chain(0, 1)).await.unwrap();
    }
    run(&holder, "select livestore.reset_store('a')").await;
    assert_eq!(all::<String>(&holder, "select store_id from livestore.stores order by id").await, ["b", "a"]);
    for locks in [
        "select livestore._append('{b,a}', '{[],[]}', '{null,null}')",
        "select livestore._append('{b,new,a}', array['[]', '[{\"name\":\"e\",\"seqNum\":1,\"parentSeqNum\":0,\"clientId\":\"c\",\"sessionId\":\"s\"}]', '[]'], '{null,null,null}')",
    ] {
        let held = holder.transaction().await.unwrap();
        held.execute("select from livestore.stores where store_id = 'a' for update", &[]).await.unwrap();
        let group = database.admin().await;
        let waiting = tokio::spawn(async move { group.batch_execute(locks).await.unwrap() });
        let admin = database.admin().await;
        let waits =
            "select count(*) = 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        eventually("the group waits", async || one::<bool>(&admin, waits).await).await;
        run(&admin, "select from livestore.stores where store_id = 'b' for update nowait").await;
        held.commit().await.unwrap();
        waiting.await.unwrap();
    }
}
