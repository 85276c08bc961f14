//! Change data capture: what readers of the write-ahead log make of the event logs.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use livestore_tests::cluster::{Cluster, Database, bin};
use livestore_tests::events::chain;
use livestore_tests::eventually;
use livestore_tests::sidecar::Start;
use serde_json::Value;
use tokio_postgres::Client;

/// A cluster whose changes can be decoded.
fn publisher() -> &'static Cluster {
    static CLUSTER: OnceLock<&'static Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start_with("wal_level = logical").leak())
}

/// The tables as a subscriber has them: without the extension.
const TABLES: &str = r#"
    create schema livestore;
    create table livestore.store_names (store bigint primary key, store_id text not null);
    create table livestore.eventlog_1 (store bigint, "seqNum" bigint, "parentSeqNum" bigint, name text, args json, "clientId" text,
        "sessionId" text, "createdAt" timestamptz, primary key (store, "seqNum"))"#;

/// Every event that is in the tables, with its store. `from`: where an event is read from.
const EVENTS: &str = r#"
    select coalesce(string_agg(concat_ws(' ', n.store_id, e."seqNum", e."parentSeqNum", e.name, coalesce(e.args::text, 'null'), e."clientId"),
        ',' order by n.store_id, e."seqNum"), '')
    from livestore.eventlog_1 e join livestore.store_names n on n.store = e.store"#;

async fn sql(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

async fn text(client: &Client, sql: &str) -> String {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

async fn write(admin: &Client) {
    for (store, first) in [("a", 0), ("b", 0), ("c", 0), ("a", 5)] {
        let push = "select livestore.push($1, $2)";
        admin.execute(push, &[&store, &chain(first, 5)]).await.unwrap();
    }
    // As an erasure does it, and a rewrite.
    let change = r#"update livestore.eventlog_1 e set args = '{"erased": true}' from livestore.store_names n
        where n.store = e.store and n.store_id = 'a' and e."seqNum" = 2;
        delete from livestore.eventlog_1 e using livestore.store_names n where n.store = e.store and n.store_id = 'a' and e."seqNum" = 3"#;
    sql(admin, change).await;
}

/// Resets and drops a store of each kind.
async fn end(admin: &Client) {
    sql(admin, "select livestore.reset_store('a'), livestore.reset_store('b'); select livestore.commit('b', 'again')")
        .await;
    sql(
        admin,
        "select livestore.create_store('d', true); select livestore.commit('d', 'e'), livestore.commit('f', 'e')",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_ends_with_the_same_rows() {
    let database = publisher().database().await;
    let admin = database.admin().await;
    let other = Cluster::start_empty().leak();
    let subscriber = other.connect("postgres", "postgres").await;
    sql(&subscriber, TABLES).await;
    sql(&admin, "create publication livestore_events for table livestore.eventlog_1, livestore.store_names").await;
    let connection = database.url("postgres");
    sql(&subscriber, &format!("create subscription events connection '{connection}' publication livestore_events"))
        .await;
    let agree = async |what: &str| {
        let same = async || text(&subscriber, EVENTS).await == text(&admin, EVENTS).await;
        eventually(what, same).await;
        assert!(text(&admin, EVENTS).await.contains("b 1 0"));
    };
    write(&admin).await;
    agree("commits and erasures").await;

    // A store moves, and the publication has to get its table.
    sql(&admin, "select livestore.create_store('b', own_table => true)").await;
    let check = Start::program()
        .args(["check", "--listen", "127.0.0.1:0"])
        .env("DATABASE_URL", database.url("sidecar"))
        .output();
    let report = String::from_utf8(check.unwrap().stdout).unwrap();
    let remedy = "alter publication livestore_events add table livestore.eventlog_1_b";
    assert!(report.contains(remedy), "{report}");
    let table =
        r#"create table livestore.eventlog_1_b (primary key (store, "seqNum")) inherits (livestore.eventlog_1)"#;
    sql(&subscriber, table).await;
    sql(&admin, remedy).await;
    sql(&subscriber, "alter subscription events refresh publication").await;
    sql(&admin, "select livestore.commit('b', 'moved')").await;
    agree("a move").await;

    end(&admin).await;
    let table =
        r#"create table livestore.eventlog_1_d (primary key (store, "seqNum")) inherits (livestore.eventlog_1)"#;
    sql(&subscriber, table).await;
    sql(&admin, "alter publication livestore_events add table livestore.eventlog_1_d").await;
    sql(&subscriber, "alter subscription events refresh publication").await;
    agree("resets").await;
    sql(&admin, "select livestore.commit('d', 'e')").await;
    agree("a new table").await;
    let before: i64 = subscriber.query_one("select count(*) from livestore.eventlog_1_d", &[]).await.unwrap().get(0);
    assert_eq!(before, 2);
    sql(&admin, "select livestore.drop_store('d'), livestore.drop_store('f')").await;
    agree("drops").await;
    let left = "select count(*) from livestore.eventlog_1_d";
    assert_eq!(subscriber.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
    let stores = "select string_agg(store_id, ' ' order by store_id) from livestore.store_names";
    assert_eq!(text(&subscriber, stores).await, "a b c");
    sql(
        &subscriber,
        "alter subscription events disable; alter subscription events set (slot_name = none); drop subscription events",
    )
    .await;
    sql(&admin, "select pg_drop_replication_slot('events')").await;
}

/// The rows that a consumer of wal2json keeps.
#[derive(Default)]
struct Consumer {
    names: BTreeMap<i64, String>,
    events: BTreeMap<(i64, i64), String>,
}

impl Consumer {
    fn apply(&mut self, change: &Value) {
        let table = change["table"].as_str().unwrap_or_default();
        let values = |key: &str| -> BTreeMap<String, Value> {
            let columns = change[key].as_array().into_iter().flatten();
            columns.map(|column| (column["name"].as_str().unwrap().into(), column["value"].clone())).collect()
        };
        let (new, old) = (values("columns"), values("identity"));
        let number = |of: &BTreeMap<String, Value>, name: &str| of[name].as_i64().unwrap();
        let is_gone = change["action"] == "D";
        if table == "store_names" {
            if is_gone {
                self.names.remove(&number(&old, "store"));
            } else {
                self.names.insert(number(&new, "store"), new["store_id"].as_str().unwrap().into());
            }
        } else if table.starts_with("eventlog_1") {
            let key = |of: &BTreeMap<String, Value>| (number(of, "store"), number(of, "seqNum"));
            if is_gone {
                self.events.remove(&key(&old));
            } else {
                let args = new["args"].as_str().unwrap_or("null").to_owned();
                let [name, client] = ["name", "clientId"].map(|name| new[name].as_str().unwrap());
                let text = format!("{} {name} {args} {client}", number(&new, "parentSeqNum"));
                self.events.insert(key(&new), text);
            }
        }
    }

    fn events(&self) -> String {
        let mut all: Vec<_> =
            self.events.iter().map(|((store, number), event)| (&self.names[store], number, event)).collect();
        all.sort();
        let all: Vec<_> = all.into_iter().map(|(store, number, event)| format!("{store} {number} {event}")).collect();
        all.join(",")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_wal2json_ends_with_the_same_rows() {
    if !bin("postgres").parent().unwrap().join("../lib/wal2json.so").exists() {
        // Only Debian's PostgreSQL has the plugin.
        return;
    }
    let database: Database = publisher().database().await;
    let admin = database.admin().await;
    // Newer minor versions load only the plugins that the operator lists.
    let lists_plugins = "select exists (select from pg_settings where name = 'output_plugin_libraries')";
    if admin.query_one(lists_plugins, &[]).await.unwrap().get(0) {
        sql(&admin, "alter system set output_plugin_libraries = pgoutput, wal2json").await;
        sql(&admin, "select pg_reload_conf()").await;
        let is_listed = async || text(&admin, "show output_plugin_libraries").await == "pgoutput, wal2json";
        eventually("the plugin is listed", is_listed).await;
    }
    sql(&admin, "select pg_create_logical_replication_slot('json', 'wal2json')").await;
    let mut consumer = Consumer::default();
    let steps = [
        "",
        "select livestore.create_store('b', own_table => true); select livestore.commit('b', 'moved')",
        "end",
        "select livestore.drop_store('d'), livestore.drop_store('f'), livestore.drop_store('c')",
    ];
    for step in steps {
        match step {
            "" => write(&admin).await,
            "end" => end(&admin).await,
            _ => sql(&admin, step).await,
        }
        let changes = "select data from pg_logical_slot_get_changes('json', null, null, 'format-version', '2', 'add-tables', 'livestore.*')";
        for row in admin.query(changes, &[]).await.unwrap() {
            consumer.apply(&serde_json::from_str(row.get(0)).unwrap());
        }
        assert_eq!(consumer.events(), text(&admin, EVENTS).await, "{step}");
        assert!(consumer.events().contains("b 1 0"));
    }
    assert_eq!(consumer.names.values().collect::<Vec<_>>(), ["a", "b"]);
    sql(&admin, "select pg_drop_replication_slot('json')").await;
}
