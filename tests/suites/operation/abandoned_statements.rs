//! Statements that take too long, and those whose answer nobody waits for any more: Postgres ends them.

use std::time::Duration;

use livestore_tests::breaker::Breaker;
use livestore_tests::cluster::Database;
use livestore_tests::dialects::Caller;
use livestore_tests::events::chain;
use livestore_tests::relay::{Peer, event, events, url_of};
use livestore_tests::rpc::Rpc;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::tokens::{SECRET, Signer, WITH_SECRET, now};
use livestore_tests::{eventually, eventually_within};
use serde_json::json;
use tokio::time::timeout;
use tokio_postgres::Client;

/// The time that the sidecar waits for the answer to a statement.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(35);

/// The processes of Postgres that carry out such a statement of the sidecar.
pub async fn at_work(database: &Database, statement: &str) -> Vec<i32> {
    let sql = "select pid from pg_stat_activity
        where datname = current_database() and application_name = 'livestore-sidecar' and state = 'active' and query like $1";
    let rows = database.admin().await.query(sql, &[&format!("%{statement}%")]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Lets clients leave whose reads wait for a lock, and waits until Postgres has ended these reads. `start`: a sidecar on the database, in
/// which the stores `one` to `four` are empty.
pub async fn leave_while_reading(database: &Database, start: Start) {
    let sidecar = start.arguments(&["--page-cache-bytes", "0"]).ready().await;
    let stores = ["one", "two", "three", "four"];
    for store in stores {
        let answer = Caller::new(&sidecar, store).write("electric", chain(0, 1)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let mut holder = database.admin().await;
    for _ in 0..5 {
        let lock = holder.transaction().await.unwrap();
        lock.batch_execute("lock table livestore.eventlog_1 in access exclusive mode").await.unwrap();
        let mut readers = Vec::new();
        for store in stores {
            let mut reader = Rpc::open(&sidecar.url(), store).await;
            reader.pull("1".into(), store, false).await;
            readers.push(reader);
        }
        let are_waiting = async |count| at_work(database, "livestore.read_page(").await.len() == count;
        eventually("the reads wait", || are_waiting(stores.len())).await;
        drop(readers);
        eventually_within(Duration::from_secs(20), "the reads end", || are_waiting(0)).await;
        lock.rollback().await.unwrap();
    }
    sidecar.terminate().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_cancelled_over_a_unix_socket_and_by_the_name_of_the_host() {
    for url in
        [Database::socket_url, |database: &Database, role: &str| database.url(role).replace("127.0.0.1", "localhost")]
    {
        let database = Database::new().await;
        leave_while_reading(&database, Start::new(url(&database, "sidecar"))).await;
    }
}

/// Before, each try went on for as long as the hooks took, on a connection of its own. Postgres ends it after 30 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_takes_too_long_is_cancelled_and_its_pushes_are_tried_in_halves() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    // The others arrive while the first push takes a second. Two in one transaction never end.
    let hook = "create sequence public.calls;
        grant all on public.calls to public;
        create function public.slow() returns trigger language plpgsql as $$ begin
            if nextval('public.calls') = 1 then
                perform pg_sleep(1);
            elsif exists (select from pg_locks where locktype = 'advisory' and objid = 4711 and pid = pg_backend_pid()) then
                perform pg_sleep(600);
            end if;
            perform pg_advisory_xact_lock(4711);
            return new;
        end $$;
        create trigger slow before insert on livestore.eventlog_1 for each row execute function public.slow()";
    admin.batch_execute(hook).await.unwrap();
    let callers = ["first", "second", "third"].map(|store| Caller::new(&sidecar, store));
    let is_at_work = async || at_work(&database, "livestore.push_batch(").await;
    let pushes = async {
        let first = callers[0].write("electric", chain(0, 1));
        let others = async {
            eventually("the first push is there", async || !is_at_work().await.is_empty()).await;
            tokio::join!(callers[1].write("electric", chain(0, 1)), callers[2].write("electric", chain(0, 1)))
        };
        let (first, (second, third)) = tokio::join!(first, others);
        [first, second, third]
    };
    let meanwhile = async {
        let calls = "select last_value from public.calls";
        eventually("two are in one transaction", async || {
            admin.query_one(calls, &[]).await.unwrap().get::<_, i64>(0) == 3
        })
        .await;
        is_at_work().await.len()
    };
    let (answers, at_work) = tokio::join!(pushes, meanwhile);
    assert_eq!(at_work, 1);
    for answer in answers {
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let stored = "select count(*) from livestore.events";
    assert_eq!(admin.query_one(stored, &[]).await.unwrap().get::<_, i64>(0), 3);
}

/// Before, it went on for 30 s, and whoever got the connection next waited for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_whose_client_leaves_is_cancelled_and_the_next_one_is_not() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--database-connections", "1"]).ready().await;
    let answer = Caller::new(&sidecar, "s").write("electric", chain(0, 3)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    sidecar.terminate().await;
    // A sidecar that has none of the events in memory.
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--database-connections", "1"]).ready().await;
    let mut holder = database.admin().await;
    for _ in 0..5 {
        let lock = holder.transaction().await.unwrap();
        lock.batch_execute("lock table livestore.eventlog_1 in access exclusive mode").await.unwrap();
        let mut reader = Rpc::open(&sidecar.url(), "s").await;
        reader.pull("1".into(), "s", false).await;
        eventually("the read waits", || async { !at_work(&database, "livestore.read_page(").await.is_empty() }).await;
        drop(reader);
        let ends = || async { at_work(&database, "livestore.read_page(").await.is_empty() };
        eventually_within(Duration::from_secs(10), "the read ends", ends).await;
        lock.rollback().await.unwrap();
        for _ in 0..10 {
            let mut reader = Rpc::open(&sidecar.url(), "s").await;
            reader.pull("1".into(), "s", false).await;
            let frame = reader.frame().await.to_string();
            assert!(frame.contains("\"seqNum\":1"), "{frame}");
        }
    }
    assert!(!sidecar.log().contains("canceling statement"), "{}", sidecar.log());
}

/// Before, the next users got their connections, and waited until the statements had ended.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_the_pushes_of_a_device_that_has_connected_again() {
    let database = Database::new().await;
    let arguments = ["--relay-store", "relay-{user}", "--database-connections", "3"];
    let arguments = [&WITH_SECRET[..], &arguments].concat();
    let sidecar = Start::new(database.url("sidecar")).arguments(&arguments).ready().await;
    let hook = "create function public.slow() returns trigger language plpgsql as $$ begin
            perform pg_sleep(12);
            return new;
        end $$;
        create trigger slow before insert on livestore.eventlog_1 for each row execute function public.slow()";
    database.admin().await.batch_execute(hook).await.unwrap();
    let url = url_of(&sidecar, "ann");
    let mut before: Option<Peer> = None;
    // Postgres is given no more than two at once.
    for (number, at_once) in [(1, 1), (2, 2), (3, 2)] {
        let mut device = Peer::connect(&url, "a").await;
        device.push(events("a", [number])).await;
        if let Some(before) = &mut before {
            before.closed().await;
        }
        before = Some(device);
        let are_at_work = async || at_work(&database, "livestore.relay_append(").await.len() == at_once;
        eventually_within(Duration::from_secs(5), "the push is at work, too", are_at_work).await;
    }
    let claims = json!({"sub": "bob", "exp": now() + 3600, "livestore": {"other": "read"}});
    let other = Caller::with_token(&sidecar, "other", &Signer::secret(SECRET).sign(&claims));
    let answer = timeout(Duration::from_secs(3), other.read("electric")).await.expect("it is answered at once");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(at_work(&database, "livestore.relay_append(").await.len(), 2);
}

/// Before, the next reader got its connection, and waited until the other transaction had ended.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_the_reset_of_an_administrator_who_leaves() {
    let database = Database::new().await;
    let arguments = ["--admin-secret", "hunter2", "--database-connections", "1"];
    let sidecar = Start::new(database.url("admin")).arguments(&arguments).ready().await;
    let admin = database.admin().await;
    admin.batch_execute("select livestore.commit('s', 'e'); select livestore.commit('other', 'e')").await.unwrap();
    admin.batch_execute("begin; select from livestore.stores where store_id = 's' for update").await.unwrap();
    let mut administrator = Rpc::connect(&format!("{}/websocket?storeId=s", sidecar.url())).await;
    let reset = json!({"_tag": "WSMessage.AdminResetRoomReq", "requestId": "a", "adminSecret": "hunter2"});
    administrator.send(reset).await;
    let is_at_work = async || !at_work(&database, "livestore.reset_store(").await.is_empty();
    eventually("the reset waits", is_at_work).await;
    drop(administrator);
    eventually("the administrator has left", async || sidecar.log().contains("disconnected")).await;
    let reading = async { Caller::new(&sidecar, "other").read("electric").await };
    let answer = timeout(Duration::from_secs(5), reading).await.expect("it is answered at once");
    assert_eq!(answer.status, 200, "{answer:?}");
    admin.batch_execute("rollback").await.unwrap();
}

/// Before, Postgres noticed nothing until the statement had ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_of_a_sidecar_that_is_gone_ends_soon() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let hook = "create function public.slow() returns trigger language plpgsql as $$ begin
            perform pg_sleep(28);
            return new;
        end $$;
        create trigger slow before insert on livestore.eventlog_1 for each row execute function public.slow()";
    database.admin().await.batch_execute(hook).await.unwrap();
    let mut client = Rpc::open(&sidecar.url(), "s").await;
    client.push("1".into(), "s", chain(0, 1)).await;
    let are_at_work = async |count| at_work(&database, "livestore.push_batch(").await.len() == count;
    eventually("the push is at work", async || are_at_work(1).await).await;
    drop(sidecar);
    eventually_within(Duration::from_secs(15), "it ends", async || are_at_work(0).await).await;
}

/// Changes the standbys that commits wait for.
async fn standbys(admin: &Client, change: &str) {
    for statement in [change, "select pg_reload_conf()", "checkpoint"] {
        admin.batch_execute(statement).await.unwrap();
    }
}

/// Before, each repeat left one more process behind, every 35 s, until Postgres took no connections any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_waits_for_a_standby_is_not_repeated_beside_it() {
    let database = Database::alone().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    standbys(&admin, "alter system set synchronous_standby_names = 'nobody'").await;
    let callers = ["first", "second", "third"].map(|store| Caller::new(&sidecar, store));
    let at_work = async || at_work(&database, "livestore.push_batch(").await.len();
    let pushes = async {
        let others = async {
            eventually("the first push waits for the standby", async || at_work().await == 1).await;
            tokio::join!(callers[1].write("cf-ws", chain(0, 1)), callers[2].write("cf-ws", chain(0, 1)))
        };
        let (first, (second, third)) = tokio::join!(callers[0].write("cf-ws", chain(0, 1)), others);
        [first, second, third]
    };
    let meanwhile = async {
        let is_late = async || sidecar.log().contains("a commit waits for the database");
        eventually("it is not answered in time", is_late).await;
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(at_work().await, 1);
        }
        assert!(sidecar.log().contains("is still at a commit"), "{}", sidecar.log());
        standbys(&admin, "alter system reset synchronous_standby_names").await;
    };
    let (answers, ()) = tokio::join!(pushes, meanwhile);
    for answer in answers {
        assert!(answer.text.contains("Success"), "{answer:?}");
    }
    let stored = "select string_agg(store_id || ' ' || seq_num, ', ' order by store_id) from livestore.events";
    assert_eq!(admin.query_one(stored, &[]).await.unwrap().get::<_, &str>(0), "first 1, second 1, third 1");
    database.stop();
}

/// Postgres has no time limit for this wait, and each repeat would leave one more process there.
#[tokio::test(flavor = "multi_thread")]
async fn appends_of_the_relay_that_wait_for_a_standby_are_waited_for() {
    let database = Database::alone().await;
    let arguments = [&WITH_SECRET[..], &["--relay-store", "relay-{user}"]].concat();
    let sidecar = Start::new(database.url("sidecar")).arguments(&arguments).ready().await;
    let users = ["ann", "bob", "cy"];
    let mut devices = Vec::new();
    for user in users {
        let url = url_of(&sidecar, user);
        devices.push((Peer::join(&url, "device").await, url));
    }
    let admin = database.admin().await;
    standbys(&admin, "alter system set synchronous_standby_names = 'nobody'").await;
    let pushes: Vec<_> = devices
        .into_iter()
        .map(|(mut device, url)| {
            tokio::spawn(async move {
                device.push_until_acknowledged(&url, json!([event("device", 1, json!(1))])).await;
            })
        })
        .collect();
    let appending = async || at_work(&database, "livestore.relay_append(").await;
    eventually("two appends have begun", async || appending().await.len() == 2).await;
    for _ in 0..ANSWER_TIMEOUT.as_secs() + 5 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let appending = appending().await;
        assert_eq!(appending.len(), 2, "{appending:?}");
    }
    standbys(&admin, "alter system reset synchronous_standby_names").await;
    for pushed in pushes {
        pushed.await.unwrap();
    }
    let stored = "select string_agg(store_id || ' ' || seq_num, ', ' order by store_id) from livestore.events";
    let expected = "relay-ann 1, relay-bob 1, relay-cy 1";
    assert_eq!(admin.query_one(stored, &[]).await.unwrap().get::<_, &str>(0), expected);
    database.stop();
}

/// A connection that is lost and not silent, as by a firewall between: Postgres does not notice that nobody waits for its commit any more.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_waits_for_a_standby_is_not_repeated_when_its_connection_is_lost() {
    let database = Database::alone().await;
    let breaker = Breaker::to(database.cluster().port()).await;
    let sidecar = Start::new(database.url_at("sidecar", breaker.port())).ready().await;
    let admin = database.admin().await;
    standbys(&admin, "alter system set synchronous_standby_names = 'nobody'").await;
    let caller = Caller::new(&sidecar, "todos");
    let at_work = async || at_work(&database, "livestore.push_batch(").await.len();
    let meanwhile = async {
        for _ in 0..3 {
            eventually("the push waits for the standby", async || at_work().await == 1).await;
            breaker.cut_for(Duration::from_millis(100)).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert_eq!(at_work().await, 1);
        }
        standbys(&admin, "alter system reset synchronous_standby_names").await;
    };
    let (answer, ()) = tokio::join!(caller.write("cf-ws", chain(0, 1)), meanwhile);
    assert!(answer.text.contains("Success"), "{answer:?}");
    assert_eq!(admin.query_one("select count(*) from livestore.events", &[]).await.unwrap().get::<_, i64>(0), 1);
    database.stop();
}
