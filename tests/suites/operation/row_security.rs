//! Row level security on the tables of the extension, as linters of hosted databases ask for it.

use std::time::Duration;

use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event};
use livestore_tests::eventually;
use livestore_tests::http_rpc::{post, pull, push, send};
use livestore_tests::sidecar::Sidecar;
use serde_json::json;

const TABLES: [&str; 6] = ["eventlog_1", "stores", "relayed_events", "commits", "event_types", "dead_letters"];

#[tokio::test(flavor = "multi_thread")]
async fn row_level_security_makes_no_log_look_empty() {
    let database = Database::new().await;
    let admin = database.admin().await;
    admin
        .batch_execute(
            "select livestore.commit('s', 'e', '{}'), livestore.create_store('own', true), livestore.commit('own', 'e', '{}');
             select livestore.define_event('typed', '{\"type\": \"object\", \"properties\": {\"n\": {\"type\": \"number\"}}}');
             select livestore.subscribe('mine');
             insert into livestore.dead_letters (subscription, partition, store_id, failures, error) values ('mine', 0, 's', 1, 'a reason')",
        )
        .await
        .unwrap();
    let sidecar = Sidecar::on(&database).await;
    for (n, table) in TABLES.into_iter().enumerate() {
        admin.batch_execute(&format!("alter table livestore.{table} enable row level security")).await.unwrap();
        let head = i64::try_from(n).unwrap() + 1;
        for store in ["s", "own"] {
            let pulled = send(post(&sidecar, store, pull(store, None))).await;
            assert_eq!(pulled.numbers(), (1..=head).collect::<Vec<_>>(), "{table}");
            let pushed = send(post(&sidecar, store, push(store, chain(head, 1)))).await;
            assert_eq!(pushed.exit()["_tag"], "Success", "{table}: {pushed:?}");
        }
        let shape = sidecar.get("/v1/shape?table=livestore.eventlog_1_s&offset=-1").await;
        assert_eq!(shape.0, 200, "{table}: {}", shape.1);
        assert!(sidecar.get("/v1/streams").await.1.contains("\"own\""), "{table}");
        let last = format!("data-seq=\"{}\"", head + 1);
        for (path, shown) in [
            ("/inspector/store?id=s", &*last),
            ("/inspector/store?id=own", &last),
            ("/inspector/store?id=s", "<option>typed"),
            ("/inspector/store?id=s&type=typed", "name=\"arg.n\""),
            ("/inspector/event?id=own&number=1", "Event 1"),
            ("/inspector/stores", "<code>own</code>"),
            ("/inspector/stores?recent=1", "<code>own</code>"),
            ("/inspector/stores?prefix=ow", "<code>own</code>"),
            ("/inspector/export?id=s", "\"storeId\":\"s\""),
            ("/inspector/subscriptions", "a reason"),
            ("/inspector/api/list?of=stores", "\"own\""),
            ("/inspector/api/list?of=stores&id=o", "\"own\""),
            ("/inspector/api/list?of=events&id=own&limit=1", "\"seq_num\" : 1,"),
            ("/inspector/api/list?of=commits&after=0", "\"own\""),
        ] {
            let (status, text) = sidecar.get(path).await;
            assert!(status == 200 && text.contains(shown), "{table}: {path}: {status} {text}");
        }
        let reader = database.connect("reader").await;
        for (sql, count) in [
            ("select count(*) from livestore.pull('s')", head + 1),
            ("select livestore.head('s')", head + 1),
            ("select count(*) from livestore.relay_page('s', 0, 10, 1000)", head + 1),
            ("select count(*) from livestore.events where store_id = 's'", head + 1),
        ] {
            assert_eq!(reader.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), count, "{table}: {sql}");
        }
    }
    assert_eq!(sidecar.get("/readyz").await, (200, "ready\n".into()));
    // A table of one store, and an import.
    admin
        .batch_execute(
            "alter table livestore.eventlog_1_own enable row level security;
             select livestore.commit('own', 'e', '{}');
             create table public.imported as select * from livestore.eventlog_1 where store = (select id from livestore.stores where store_id = 's');
             select livestore.import_table('public.imported', 'other')",
        )
        .await
        .unwrap();

    // Forced on the owner, it is an error. A superuser is never bound, whichever role owns the extension.
    admin.batch_execute("alter table livestore.eventlog_1 force row level security").await.unwrap();
    // An answer is shared for a second by all who ask.
    eventually("it is not ready", async || {
        let (status, reason) = sidecar.get("/readyz").await;
        status == 503 && reason.contains("row level security is forced on livestore.eventlog_1")
    })
    .await;
    admin.batch_execute("alter table livestore.eventlog_1 no force row level security").await.unwrap();
    eventually("it is ready", async || sidecar.get("/readyz").await.0 == 200).await;
}

/// Functions fail if their owner is bound by the policies.
#[tokio::test]
async fn a_log_that_its_owner_cannot_see_is_an_error_and_not_empty() {
    let database = Database::new().await;
    let admin = database.admin().await;
    admin
        .batch_execute(
            "select livestore.commit('s', 'e', '{}');
             grant all on all tables in schema livestore to stranger;
             grant usage, create on schema livestore to stranger;
             grant all on all sequences in schema livestore to stranger;
             grant execute on all functions in schema livestore to stranger;
             alter table livestore.stores owner to stranger;
             alter table livestore.eventlog_1 owner to stranger;
             alter function livestore.read_page(text, bigint, integer, integer) owner to stranger;
             alter function livestore.pull_page(text, bigint, integer, integer) owner to stranger;
             alter function livestore.head(text) owner to stranger;
             alter function livestore.backend_id(text) owner to stranger;
             alter function livestore.push(text, json, text) owner to stranger;
             alter function livestore.create_store(text, boolean) owner to stranger;
             alter table livestore.stores enable row level security;
             alter table livestore.stores force row level security",
        )
        .await
        .unwrap();
    let sidecar = database.connect("sidecar").await;
    for call in [
        "read_page('s', 0, 10, 1000)",
        "pull_page('s', 0, 10, 1000)",
        "head('s')",
        "backend_id('s')",
        "pull('s')",
        "create_store('s')",
        "push('s', '[{\"name\":\"e\",\"seqNum\":2,\"parentSeqNum\":1,\"clientId\":\"c\",\"sessionId\":\"s\"}]')",
    ] {
        let error = sidecar.query(&format!("select * from livestore.{call}"), &[]).await.expect_err(call);
        let error = error.as_db_error().unwrap();
        assert!(error.message().contains("row-level security"), "{call}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_page_below_the_head_is_no_end() {
    let database = Database::new().await;
    let admin = database.admin().await;
    admin.batch_execute("select livestore.commit('s', 'e', '{}'), livestore.commit('s', 'e', '{}')").await.unwrap();
    let sidecar = Sidecar::on(&database).await;
    let rows = "create table kept as select * from livestore.eventlog_1; delete from livestore.eventlog_1";
    admin.batch_execute(rows).await.unwrap();
    let request = post(&sidecar, "s", pull("s", None));
    let waiting = tokio::spawn(send(request));
    eventually("the operator is told", || async {
        sidecar.log().contains("has no event after 0, although its head is 2")
    })
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished(), "the client waits");
    admin.batch_execute("insert into livestore.eventlog_1 select * from kept").await.unwrap();
    assert_eq!(waiting.await.unwrap().numbers(), [1, 2]);
    let gap = push("s", json!([event(2, "e", json!({}))]));
    assert_eq!(send(post(&sidecar, "s", gap)).await.exit()["_tag"], "Success");
}
