//! `livestore-sidecar shards`: a front by PL/Proxy before two databases.

use livestore_tests::client::Node;
use livestore_tests::cluster::{Cluster, Database};
use livestore_tests::events::{chain, event, numbers};
use livestore_tests::sidecar::Start;
use serde_json::{Value, json};
use tokio_postgres::Client;

/// A cluster on which the role of the front needs its password, and the databases there.
pub struct Setup {
    pub cluster: &'static Cluster,
    pub one: Database,
    pub two: Database,
    pub front: String,
}

/// An answer of the program: its exit code, and everything that it printed.
pub fn run(arguments: &[String]) -> (i32, String) {
    let output = Start::program().arg("shards").args(arguments).output().expect("the program");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().expect("a code"), text)
}

impl Setup {
    pub async fn new() -> Self {
        let cluster = tokio::task::spawn_blocking(Cluster::start).await.expect("a cluster").leak();
        let setup =
            Self { cluster, one: cluster.database().await, two: cluster.database().await, front: "front".into() };
        let postgres = cluster.connect("postgres", "postgres").await;
        batch(&postgres, "create database front template template0").await;
        batch(&postgres, "alter system set log_statement = 'all'").await;
        // Not for what is ours.
        let given = "alter default privileges grant execute on functions to reader; alter default privileges grant select on tables to reader";
        batch(&setup.at_front("postgres").await, given).await;
        setup.let_the_front_in("scram-sha-256").await;
        setup
    }

    /// How Postgres asks for the role of the front.
    async fn let_the_front_in(&self, method: &str) {
        let file = self.cluster.folder().join("data/pg_hba.conf");
        let before = std::fs::read_to_string(&file).expect("pg_hba.conf");
        let others: String =
            before.lines().filter(|line| !line.contains("livestore_front")).collect::<Vec<_>>().join("\n");
        let lines = format!("host all livestore_front 127.0.0.1/32 {method}\n{others}\n");
        std::fs::write(&file, lines).expect("it can be written");
        tokio::task::block_in_place(|| self.cluster.pg_ctl(&["reload"]));
    }

    pub async fn at_front(&self, role: &str) -> Client {
        self.cluster.connect(role, &self.front).await
    }

    /// The arguments of `shards init` for the two databases.
    pub fn init(&self) -> Vec<String> {
        let shard = |name: &str, database: &Database| format!("{name}={}", database.url("postgres"));
        let front = self.cluster.url("postgres", &self.front);
        ["init", "--front", &front, "--shard", &shard("one", &self.one), "--shard", &shard("two", &self.two)]
            .map(String::from)
            .to_vec()
    }

    pub fn status(&self, role: &str) -> (i32, String) {
        run(&["status", "--database-url", &self.cluster.url(role, &self.front)].map(String::from))
    }

    pub fn stop(&self) {
        self.cluster.pg_ctl(&["stop", "-m", "immediate"]);
    }
}

pub async fn batch(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

/// The first column of all rows, as text.
pub async fn all(client: &Client, sql: &str) -> Vec<String> {
    let rows = client.query(&format!("select q.c::text from ({sql}) q(c)"), &[]).await;
    rows.unwrap_or_else(|error| panic!("{sql}: {error:?}")).iter().map(|row| row.get(0)).collect()
}

/// Stores of the first half of the slots, or of the second.
pub async fn stores_of(client: &Client, shard: i32) -> Vec<String> {
    let sql = format!(
        "select 'store ' || i from generate_series(1, 40) i where livestore.slot('store ' || i, 256) / 128 = {shard}"
    );
    all(client, &sql).await
}

const STORES: &str = "select store_id from livestore.stores order by store_id collate \"C\"";

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_every_dialect_sync_through_a_sidecar_at_the_front() {
    let setup = Setup::new().await;
    let (one, two) = (setup.one.admin().await, setup.two.admin().await);
    let (code, text) = run(&setup.init());
    assert_eq!(code, 0, "{text}");
    let sidecar = Start::new(setup.cluster.url("sidecar", &setup.front)).arguments(&["--shards"]).ready().await;
    let front = setup.at_front("sidecar").await;
    let (node, old) = (Node::sync_backend(), Node::sync_backend_0_3());
    let (here, there) = (stores_of(&one, 0).await, stores_of(&one, 1).await);
    for (n, dialect) in ["cf-ws", "cf-http", "cf-0.3", "electric", "s2"].into_iter().enumerate() {
        let node = if dialect == "cf-0.3" { &old } else { &node };
        for store in [&here[n], &there[n]] {
            let (writer, reader) =
                (node.open(dialect, &sidecar.url(), store).await, node.open(dialect, &sidecar.url(), store).await);
            writer.push(chain(0, 2)).await.unwrap_or_else(|error| panic!("{dialect} {store}: {error}"));
            let mut live = reader.live(None).await;
            assert_eq!(numbers(&live.events(2).await), [1, 2], "{dialect} {store}");
            let committed: i64 =
                front.query_one("select livestore.commit($1, 'e')", &[store]).await.expect("a commit").get(0);
            assert_eq!((committed, numbers(&live.events(1).await)), (3, vec![3]), "{dialect} {store}");
        }
    }
    for (shard, stores) in [(&one, &here), (&two, &there)] {
        let mut expected = stores[..5].to_vec();
        expected.sort();
        assert_eq!(all(shard, STORES).await, expected);
    }
    drop(sidecar);
    setup.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_front_goes_to_the_shard_of_each_store() {
    let setup = Setup::new().await;
    let (one, two) = (setup.one.admin().await, setup.two.admin().await);
    let (here, there) = (stores_of(&one, 0).await, stores_of(&one, 1).await);
    // Stores that are there before: one of each half.
    for store in [&here[0], &there[0], &there[1]] {
        one.execute("select livestore.push($1, $2)", &[&store, &chain(0, 3)]).await.unwrap();
    }
    one.execute("select livestore.drop_store($1)", &[&there[1]]).await.unwrap();
    let backend_ids =
        format!("select livestore.backend_id(s) from unnest(array['{}', '{}', '{}']) s", there[0], there[1], there[2]);
    let before = all(&one, &backend_ids).await;

    let (code, text) = run(&setup.init());
    assert!(code == 0 && text.contains("1 stores of the first shard stay there"), "{text}");
    let (code, text) = run(&setup.init());
    assert!(code == 0 && text.contains("Nothing to do"), "{text}");
    let front = setup.at_front("sidecar").await;
    assert_eq!(all(&front, &backend_ids).await, before, "the same as on the shard that had all stores");

    let slots = front.query_one("select slots from livestore.shard_map()", &[]).await.unwrap().get::<_, Vec<i32>>(0);
    assert_eq!((slots.len(), slots[0], slots[127], slots[128], slots[255]), (256, 0, 0, 1, 1));
    let map = "select array[names::text, numbers::text, moved_store_ids::text, moved_shards::text] from livestore.shard_map()";
    assert_eq!(
        all(&front, map).await,
        [format!("{{\"{{one,two}}\",\"{{0,1}}\",\"{{\\\"{}\\\"}}\",\"{{0}}\"}}", there[0])]
    );

    // Of a store that stays, of one that is here, and of one that is there.
    for (store, head) in [(&there[0], 3), (&here[1], 0), (&there[2], 0)] {
        let sql = "select livestore.push($1, $2), livestore.commit($1, 'e', '{\"a\" : 1}', key => 'k'), livestore.commit($1, 'e', key => 'k'), livestore.head($1)";
        let row = front.query_one(sql, &[store, &chain(head, 2)]).await.unwrap();
        let heads: [i64; 4] = [row.get(0), row.get(1), row.get(2), row.get(3)];
        assert_eq!(heads, [head + 2, head + 3, head + 3, head + 3], "{store}");
        let pulled = "select count(*), max(seq_num), (array_agg(args::text order by seq_num desc))[1] from ";
        for from in ["livestore.pull($1)", "livestore.events($1)"] {
            let row = front.query_one(&format!("{pulled} {from}"), &[store]).await.unwrap();
            assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (head + 3, head + 3), "{store} {from}");
            assert_eq!(row.get::<_, &str>(2), "{\"a\" : 1}", "byte for byte");
        }
    }
    assert_eq!(all(&two, STORES).await, [there[2].clone()]);
    let numbers: Vec<String> = all(&two, "select id from livestore.stores").await;
    assert_eq!(numbers, [((1_i64 << 40) + 1).to_string()]);

    // Errors are those of the shard.
    let refused = front.query("select livestore.push($1, $2)", &[&there[2], &chain(8, 1)]).await.unwrap_err();
    let refused = refused.as_db_error().unwrap();
    assert_eq!(refused.code().code(), "LS001");
    assert_eq!(refused.message(), "the batch builds on event 8, but the head of the log is 3");
    let detail: Value = serde_json::from_str(refused.detail().unwrap()).unwrap();
    assert_eq!(detail, json!({"minimumExpectedNum": 3, "providedNum": 8}));

    batches(&setup, &front, &here, &there).await;
    let map_is_behind =
        "update livestore.shard set slots = array(select s from unnest(slots) s where s <> livestore.slot($1, 256))";
    two.execute(map_is_behind, &[&there[5]]).await.unwrap();
    elsewhere(&front, &here, &there).await;
    let (code, text) = setup.status("reader");
    assert!(code == 1 && text.contains("it has other slots than the front says"), "{text}");

    let created = front.query_one("select livestore.create_store($1, true)", &[&there[6]]).await.unwrap();
    assert!(created.get::<_, &str>(0).starts_with("livestore.eventlog_1_store_"));
    rights(&setup).await;
    setup.stop();
}

/// Positions are those of the arguments, whichever shard a push went to.
async fn batches(setup: &Setup, front: &Client, here: &[String], there: &[String]) {
    // The last one is elsewhere than its slot.
    let stores = [&there[3], &here[2], &there[3], &here[2], &there[4], &there[0]];
    let events = [chain(0, 1), chain(0, 2), chain(1, 1), chain(7, 1), json!([event(0, "", json!(null))]), chain(6, 1)];
    let batches: Vec<String> = events.iter().map(Value::to_string).collect();
    let sql = "select push, head, sqlstate from livestore.push_batch($1, $2, array_fill(null::text, array[6]), 'tests') order by push";
    let rows = front.query(sql, &[&stores.as_slice(), &batches]).await.unwrap();
    let brief: Vec<(i32, Option<i64>, Option<&str>)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let expected = [
        (1, Some(1), None),
        (2, Some(2), None),
        (3, Some(2), None),
        (4, None, Some("LS001")),
        (5, Some(1), None),
        (6, Some(7), None),
    ];
    assert_eq!(brief, expected);
    // Without one that has moved, and with a name that belongs nowhere.
    let sql = "select string_agg(concat_ws(' ', push, head, sqlstate), ', ' order by push) from livestore.push_batch($1, $2, array_fill(null::text, array[3]))";
    let names = [Some(&there[3]), None, Some(&here[2])];
    let batches = [chain(2, 1), chain(0, 1), chain(2, 1)].map(|batch| batch.to_string());
    let row = front.query_one(sql, &[&names.as_slice(), &batches.as_slice()]).await.unwrap();
    assert_eq!(row.get::<_, &str>(0), "1 3, 2 22004, 3 3");
    // A shard that cannot be reached: each push has its own outcome.
    let away = |is_there: bool| format!("alter database {} allow_connections {is_there}", setup.two.name());
    let postgres = setup.cluster.connect("postgres", "postgres").await;
    batch(&postgres, &away(false)).await;
    let closed = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'livestore_front'";
    batch(&postgres, closed).await;
    let stores = [&here[2], &there[4]];
    let batches = [chain(2, 1), chain(1, 1)].map(|events| events.to_string());
    let sql = "select push, head, sqlstate, message from livestore.push_batch($1, $2, array_fill(null::text, array[2])) order by push";
    let rows = front.query(sql, &[&stores.as_slice(), &batches.as_slice()]).await.unwrap();
    assert_eq!((rows[0].get::<_, i64>(1), rows[0].get::<_, Option<&str>>(2)), (3, None));
    assert!(
        rows[1].get::<_, Option<i64>>(1).is_none() && rows[1].get::<_, &str>(2) == "08006",
        "{}",
        rows[1].get::<_, &str>(2)
    );
    let message: &str = rows[1].get(3);
    assert!(message.contains("not currently accepting connections"), "{message}");
    let lost = front.query("select livestore.commit($1, 'e')", &[&there[4]]).await.unwrap_err();
    assert_eq!(lost.code().unwrap().code(), "08006");
    batch(&postgres, &away(true)).await;
    let rows = front.query(sql, &[&stores.as_slice(), &batches.as_slice()]).await.unwrap();
    assert_eq!((rows[0].get::<_, i64>(1), rows[1].get::<_, i64>(1)), (3, 2));
    let none: [&str; 0] = [];
    let sql = "select count(*) from livestore.push_batch($1::text[], $1::text[], $1::text[])";
    assert_eq!(front.query_one(sql, &[&none.as_slice()]).await.unwrap().get::<_, i64>(0), 0);
}

/// The front's map still names the shard that has given the slot away.
async fn elsewhere(front: &Client, here: &[String], there: &[String]) {
    let sql = "select push, head, sqlstate, detail from livestore.push_batch($1, $2, array_fill(null::text, array[2])) order by push";
    let batch = chain(0, 1).to_string();
    let rows = front.query(sql, &[&[&there[5], &here[3]].as_slice(), &[&batch, &batch].as_slice()]).await.unwrap();
    assert_eq!((rows[0].get::<_, Option<i64>>(1), rows[0].get::<_, &str>(2)), (None, "LS005"));
    let detail: Value = serde_json::from_str(rows[0].get(3)).unwrap();
    assert_eq!(detail, json!({"storeId": there[5]}));
    assert_eq!(rows[1].get::<_, i64>(1), 1);
    for call in ["head($1)", "backend_id($1)", "pull($1)", "commit($1, 'e')", "create_store($1)"] {
        let refused = front.query(&format!("select livestore.{call}"), &[&there[5]]).await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "LS005", "{call}");
    }
}

/// Nobody gets more by the front than by a shard, and nobody the rights of the front's role.
async fn rights(setup: &Setup) {
    let code = async |role: &str, sql: &str| {
        let result = setup.at_front(role).await.batch_execute(sql).await;
        result.err().map(|error| error.code().expect("a code").code().to_owned())
    };
    assert_eq!(code("reader", "select livestore.head('s')").await, None);
    for (role, sql) in [
        ("stranger", "select livestore.head('s')"),
        ("reader", "select livestore.commit('s', 'e')"),
        ("sidecar", "select livestore.reset_store('store 1')"),
        ("reader", "select * from livestore.shared_keys"),
        ("reader", "select livestore.drop_store('store 1')"),
        ("sidecar", "select livestore._push('s', '[]', null)"),
        ("admin", "create user mapping for admin server livestore_shards"),
    ] {
        assert_eq!(code(role, sql).await.as_deref(), Some("42501"), "{role}: {sql}");
    }
    let readable = "select coalesce(umoptions::text, 'hidden') from pg_user_mappings";
    assert_eq!(all(&setup.at_front("admin").await, readable).await, ["hidden"]);
    // The rights of the front's role on a shard: with its password, which a superuser of the front can read.
    let options = all(&setup.at_front("postgres").await, readable).await.remove(0);
    let password = options.split("password=").nth(1).unwrap().trim_end_matches('}').to_owned();
    let log = std::fs::read_to_string(setup.cluster.folder().join("log")).unwrap();
    assert!(log.contains("create server livestore_shards") && !log.contains(&password), "{log}");
    // A command takes the password from the environment, as libpq does. This role may connect, and see nothing.
    let url = setup.cluster.url("livestore_front", &setup.front);
    for (password, expected) in [(None, 3), (Some(&password), 4)] {
        let mut status = Start::program();
        status.args(["shards", "status", "--database-url", &url]).env_remove("PGPASSWORD");
        let output = status.envs(password.map(|password| ("PGPASSWORD", password))).output().unwrap();
        assert_eq!(output.status.code(), Some(expected), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let url = setup.two.url("livestore_front").replace("livestore_front@", &format!("livestore_front:{password}@"));
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    batch(&client, "select livestore.head('store 1') where false").await;
    for sql in
        ["select * from livestore.events", "select * from livestore.stores", "select livestore.export_store('s')"]
    {
        let refused = client.batch_execute(sql).await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "42501", "{sql}");
    }
}

/// Obstacles are told before anything is changed.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_shard_is_refused_and_nothing_is_changed() {
    let setup = Setup::new().await;
    let (one, two) = (setup.one.admin().await, setup.two.admin().await);
    let refused = |arguments: &[String], texts: &[&str]| {
        let (code, text) = run(arguments);
        assert!(code == 4 || code == 2, "{arguments:?}: {text}");
        for part in texts {
            assert!(text.contains(part), "{part}: {text}");
        }
    };
    batch(&two, "create role livestore_front login").await;
    refused(
        &setup.init(),
        &["the shard two: its server has a role livestore_front already", "the shard one: its server"],
    );
    batch(&two, "drop role livestore_front").await;
    batch(&two, "select livestore.create_store('s')").await;
    batch(&two, "create role only_here login").await;
    refused(&setup.init(), &["the shard two has stores"]);
    batch(&two, "select livestore.drop_store('s')").await;
    let mut twice = setup.init();
    twice[6] = twice[4].replace("one=", "two=");
    refused(&twice, &["the shard two and the shard one are the same database"]);
    let mut front_is_shard = setup.init();
    front_is_shard[2] = setup.one.url("postgres");
    refused(&front_is_shard, &["the front has a schema livestore that is no front's"]);
    let mut front_of_nobody = setup.init();
    front_of_nobody[2] = setup.cluster.url("sidecar", "front");
    refused(&front_of_nobody, &["the role sidecar is no superuser"]);
    for (arguments, text) in [
        (&["--slots", "100"], "a power of two"),
        (&["--slots", "1"], "fewer slots than shards"),
        (&["--shard", "one=postgres://u@h/d"], "the same name"),
    ] {
        refused(&[setup.init(), arguments.map(String::from).to_vec()].concat(), &[text]);
    }
    // An error does not quote a password.
    let (front, nameless) = (setup.cluster.url("postgres", &setup.front), "postgres://u:secret@h/d");
    let named = format!("one={}", setup.one.url("postgres"));
    for (option, arguments) in [
        ("--shard", &["init", "--front", &front, "--shard", nameless][..]),
        ("--shard", &["add", "--front", &front, "--shard", nameless]),
        ("--shard", &["set-address", "--front", &front, "--shard", nameless]),
        ("--from", &["move", "--front", &front, "--from", nameless, "--to", &named, "--slot", "1"]),
        ("--to", &["move", "--front", &front, "--from", &named, "--to", nameless, "--slot", "1"]),
    ] {
        let (code, text) = run(&arguments.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert!(code == 2 && text.contains(&format!("{option}: it has the form")), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }
    for client in [&one, &two] {
        assert_eq!(all(client, "select number from livestore.shard").await, [""; 0]);
        batch(
            client,
            "select livestore.create_store('a'), livestore.create_store('store 1'), livestore.drop_store('a')",
        )
        .await;
        batch(client, "select livestore.drop_store('store 1')").await;
    }
    let schema = "select coalesce(to_regnamespace('livestore')::text, 'none')";
    assert_eq!(all(&setup.at_front("postgres").await, schema).await, ["none"]);
    setup.stop();
}

/// An installation that stops on the way goes on when it is repeated.
#[tokio::test(flavor = "multi_thread")]
async fn init_is_repeated_after_an_interruption_and_a_shard_is_added() {
    let setup = Setup::new().await;
    setup.let_the_front_in("reject").await;
    let (code, text) = run(&setup.init());
    assert!(code == 4 && text.contains("the front:") && text.contains("livestore_front"), "{text}");
    let two = setup.two.admin().await;
    assert_eq!(all(&two, "select number from livestore.shard").await, ["1"]);
    let sequence = "select last_value from livestore.stores_id_seq";
    let before = all(&two, sequence).await;
    setup.let_the_front_in("scram-sha-256").await;
    // A hook on one of them is worth a word.
    batch(&two, "create index on livestore.eventlog_1 (name)").await;
    let (code, text) = run(&setup.init());
    assert!(code == 0 && text.contains("differ in hooks"), "{text}");
    assert_eq!(all(&two, sequence).await, before);
    let (code, text) = setup.status("sidecar");
    assert!(code == 0 && text.contains(" one ") && text.matches(" ok").count() == 2, "{text}");

    let three = setup.cluster.database().await;
    let shard = format!("three={}", three.url("postgres"));
    let front = setup.cluster.url("postgres", &setup.front);
    let add = ["add", "--front", &front, "--shard", &shard].map(String::from);
    let (code, text) = run(&add);
    assert!(code == 0 && text.contains("three: shard 2, without slots"), "{text}");
    assert!(run(&add).1.contains("Nothing to do"));
    let three = three.admin().await;
    assert_eq!(
        all(&three, "select array[number, slot_count, cardinality(slots)] from livestore.shard").await,
        ["{2,256,0}"]
    );
    let keys = "select array[seed, heads_key, rewrite_key] from livestore.instance";
    assert_eq!(all(&three, keys).await, all(&two, keys).await);
    let (code, text) = setup.status("sidecar");
    assert!(code == 0 && text.contains(" three ") && text.matches(" ok").count() == 3, "{text}");
    let refused = three.batch_execute("select livestore.create_store('s')").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "LS005");

    let other = setup.cluster.url("postgres", "postgres");
    let (code, text) = run(&["status", "--database-url", &other].map(String::from));
    assert!(code == 4 && text.contains("is no front"), "{text}");
    setup.stop();
}

/// Its number may be that of another shard since.
#[tokio::test(flavor = "multi_thread")]
async fn an_addition_that_was_interrupted_is_repeated_after_another_one() {
    let setup = Setup::new().await;
    let (code, text) = run(&setup.init());
    assert_eq!(code, 0, "{text}");
    let front = setup.cluster.url("postgres", &setup.front);
    let add =
        |name: &str, url: &str| run(&["add", "--front", &front, "--shard", &format!("{name}={url}")].map(String::from));
    let (three, four) = (setup.cluster.database().await, setup.cluster.database().await);
    let (code, text) = add("three", &three.url("postgres"));
    assert!(code == 0 && text.contains("three: shard 2"), "{text}");
    // As if the command had been killed before the front knew.
    batch(&setup.at_front("postgres").await, "delete from livestore.shards where name = 'three'").await;
    let (code, text) = add("four", &four.url("postgres"));
    assert!(code == 0 && text.contains("four: shard 2"), "{text}");
    let (code, text) = add("three", &three.url("postgres"));
    assert!(code == 0 && text.contains("three: shard 3"), "{text}");
    let place =
        "select array[number::text, (select last_value::text from livestore.stores_id_seq)] from livestore.shard";
    assert_eq!(all(&three.admin().await, place).await, [format!("{{3,{}}}", 3 * (1_i64 << 40) + 1)]);
    assert_eq!(setup.status("sidecar").0, 0);
    let (code, text) = add("five", &four.url("postgres").replace("127.0.0.1", "localhost"));
    assert!(code == 4 && text.contains("is the shard four of this front"), "{text}");
    // One of another front has other keys.
    let other = setup.cluster.database().await;
    let becomes = "select livestore.renew_backend_ids(); insert into livestore.shard values (2, 256, '{}')";
    batch(&other.admin().await, becomes).await;
    let (code, text) = add("five", &other.url("postgres"));
    assert!(code == 4 && text.contains("delete from livestore.shard"), "{text}");
    setup.stop();
}

/// Shards of managed Postgres: the portable flavour, and an owner who is no superuser.
#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_a_database_makes_a_shard_of_it() {
    let cluster = tokio::task::spawn_blocking(Cluster::start_empty).await.expect("a cluster").leak();
    let superuser = cluster.connect("postgres", "postgres").await;
    batch(&superuser, "create role owner login createrole").await;
    for statement in ["create database one owner owner", "create database two owner owner", "create database front"] {
        batch(&superuser, statement).await;
    }
    let url = |name| cluster.url("owner", name);
    for name in ["one", "two"] {
        let installed =
            Start::program().args(["install", "--sidecar-role", "sidecar"]).env("DATABASE_URL", url(name)).output();
        assert!(installed.expect("the program").status.success());
    }
    let shards = ["one", "two"].map(|name| format!("{name}={}", url(name)));
    let front = cluster.url("postgres", "front");
    let init = ["init", "--front", &front, "--slots", "2", "--shard", &shards[0], "--shard", &shards[1]];
    let (code, text) = run(&init.map(String::from));
    assert!(code == 0 && text.contains("two: 1 of 2 slots"), "{text}");
    let sidecar = cluster.connect("sidecar", "front").await;
    batch(&sidecar, "select livestore.commit('a', 'e'), livestore.commit('todos', 'e')").await;
    for (name, store) in [("one", "a"), ("two", "todos")] {
        assert_eq!(all(&cluster.connect("sidecar", name).await, STORES).await, [store]);
    }
    let moving = ["move", "--front", &front, "--from", &shards[0], "--to", &shards[1], "--slot", "0"].map(String::from);
    let (code, text) = run(&moving);
    assert!(code == 4 && text.contains("both shards are on one server"), "{text}");
    batch(&superuser, "grant livestore_owner, livestore_hooks to owner").await;
    let (code, text) = run(&moving);
    assert!(code == 0 && text.contains("slot 0 is at two: 1 stores, 1 events"), "{text}");
    assert_eq!(all(&cluster.connect("sidecar", "two").await, STORES).await, ["a", "todos"]);
    batch(&superuser, "revoke livestore_owner, livestore_hooks from owner").await;
    let members = "select m.member::regrole from pg_auth_members m
         where m.roleid in ('livestore_owner'::regrole, 'livestore_hooks'::regrole)
             and coalesce((to_jsonb(m) ->> 'set_option')::boolean, true)";
    assert_eq!(all(&superuser, members).await, [""; 0], "nobody is left with the rights of the owner");
    cluster.pg_ctl(&["stop", "-m", "immediate"]);
}
