//! Bad input: a clear error, the log unchanged, the process alive.

use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event, up_to};
use livestore_tests::eventually;
use livestore_tests::http_rpc;
use livestore_tests::rpc::{Received, Rpc};
use livestore_tests::sidecar::Sidecar;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

struct Setup {
    database: Database,
    sidecar: Sidecar,
}

impl Setup {
    /// A store `s` with three events.
    async fn new() -> Self {
        let database = Database::new().await;
        let sidecar = Sidecar::on(&database).await;
        database.admin().await.execute("select livestore.push('s', $1)", &[&chain(0, 3)]).await.unwrap();
        Self { database, sidecar }
    }

    async fn open(&self) -> Rpc {
        Rpc::open(&self.sidecar.url(), "s").await
    }

    /// The log is as it was, and a proper push still works.
    async fn assert_unharmed(self) {
        let admin = self.database.admin().await;
        let row = admin.query_one("select count(*), max(seq_num), count(distinct store_id) from livestore.events", &[]);
        let row = row.await.unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)), (3, 3, 1));
        let mut rpc = self.open().await;
        rpc.push(json!("after"), "s", chain(3, 1)).await;
        assert_eq!(rpc.exit(&json!("after")).await, json!({"_tag": "Success", "value": {}}));
        assert_eq!(self.sidecar.get("/healthz").await.0, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_frame_is_answered_with_a_defect_and_the_connection_goes_on() {
    let setup = Setup::new().await;
    let mut rpc = setup.open().await;
    let no_frames = [
        "not json",
        "",
        "{",
        "null",
        "17",
        "\"text\"",
        "{}",
        "[]x",
        "[1]",
        r#"{"_tag":5}"#,
        r#"{"_tag":"Nope"}"#,
        r#"{"_tag":"Request"}"#,
        r#"{"_tag":"Request","id":null,"tag":"SyncWsRpc.Pull"}"#,
        r#"{"_tag":"Request","id":{"a":1}}"#,
        r#"{"_tag":"Ack"}"#,
        r#"{"_tag":"Interrupt","requestId":[]}"#,
        "{\"_tag\":\"Ping\",\"_tag\":\"Ping\"}",
    ];
    for text in no_frames {
        rpc.send_text(text.into()).await;
        let frame = rpc.frame().await;
        assert_eq!(frame["_tag"], "Defect", "{text}: {frame}");
        assert!(!frame["defect"].as_str().unwrap().is_empty());
    }
    rpc.send_text("[".repeat(100_000)).await;
    assert_eq!(rpc.frame().await["_tag"], "Defect");
    rpc.send_message(Message::binary(vec![0, 159, 146, 150])).await;
    let frame = rpc.frame().await;
    assert!(frame["defect"].as_str().unwrap().contains("binary"), "{frame}");
    rpc.send(json!({"_tag": "Ping"})).await;
    assert_eq!(rpc.frame().await, json!({"_tag": "Pong"}));
    setup.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_of_the_wrong_form_die_with_the_reason() {
    let setup = Setup::new().await;
    let mut rpc = setup.open().await;
    let none = json!({"_tag": "None"});
    let with = |field: &str, value: Value| {
        let mut event = event(3, "e", json!({}));
        event[field] = value;
        json!({"storeId": "s", "batch": [event], "backendId": none})
    };
    let bad = [
        ("SyncWsRpc.Pull", json!(null)),
        ("SyncWsRpc.Pull", json!([])),
        ("SyncWsRpc.Pull", json!({"storeId": 1, "live": true, "cursor": none})),
        ("SyncWsRpc.Pull", json!({"storeId": "s", "live": "x", "cursor": none})),
        ("SyncWsRpc.Pull", json!({"storeId": "s", "live": true})),
        ("SyncWsRpc.Pull", json!({"storeId": "s", "live": true, "cursor": {"_tag": "Some"}})),
        (
            "SyncWsRpc.Pull",
            json!({"storeId": "s", "live": true, "cursor": {"_tag": "Some", "value": {"backendId": "b", "eventSequenceNumber": 1.5}}}),
        ),
        ("SyncWsRpc.Pull", json!({"storeId": "other", "live": true, "cursor": none})),
        ("SyncWsRpc.Push", json!({"storeId": "other", "batch": chain(0, 1), "backendId": none})),
        ("SyncWsRpc.Push", json!({"storeId": "s", "batch": {}, "backendId": none})),
        ("SyncWsRpc.Push", json!({"storeId": "s", "batch": [17], "backendId": none})),
        ("SyncWsRpc.Push", json!({"storeId": "s", "batch": chain(3, 1), "backendId": "text"})),
        (
            "SyncWsRpc.Push",
            json!({"storeId": "s", "batch": chain(3, 1), "backendId": {"_tag": "Some", "value": "x".repeat(1000)}}),
        ),
        (
            "SyncWsRpc.Push",
            json!({"storeId": "s", "batch": chain(3, 1), "backendId": {"_tag": "Some", "value": "a\u{0}b"}}),
        ),
        ("SyncWsRpc.Push", with("name", json!(7))),
        ("SyncWsRpc.Push", with("clientId", json!(null))),
        ("SyncWsRpc.Push", with("seqNum", json!("4"))),
        ("SyncWsRpc.Push", with("seqNum", json!(4.5))),
        ("SyncWsRpc.Push", with("seqNum", json!(1e300))),
    ];
    for (index, (tag, payload)) in bad.into_iter().enumerate() {
        let id = json!(index.to_string());
        rpc.request(id.clone(), tag, payload.clone()).await;
        let exit = rpc.exit(&id).await;
        assert_eq!((&exit["_tag"], &exit["cause"]["_tag"]), (&json!("Failure"), &json!("Die")), "{payload}: {exit}");
        assert!(exit["cause"]["defect"].as_str().unwrap().len() > 10, "{exit}");
    }
    setup.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_no_chain_is_refused_with_the_event_at_fault() {
    let setup = Setup::new().await;
    let mut rpc = setup.open().await;
    let number = |seq_num: i64, parent: i64| json!([{"name": "e", "args": {}, "seqNum": seq_num, "parentSeqNum": parent, "clientId": "c", "sessionId": "s"}]);
    let hole = json!([event(3, "a", json!({})), event(5, "b", json!({}))]);
    let bad = [
        (hole, "parentSeqNum 5 must be the seqNum of the event before it, 4"),
        (json!([event(3, "a", json!({})), event(3, "b", json!({}))]), "parentSeqNum 3"),
        (number(-1, 3), "seqNum -1"),
        (number(4, -3), "parentSeqNum -3"),
        (number(3, 3), "seqNum 3 must be greater"),
        (number((1 << 53) + 1, 3), "9007199254740993"),
        (json!([event(3, "nul\u{0}", json!({}))]), "name contains the character U+0000"),
    ];
    for (index, (batch, reason)) in bad.into_iter().enumerate() {
        let id = json!(index.to_string());
        rpc.push(id.clone(), "s", batch).await;
        let exit = rpc.exit(&id).await;
        let error = &exit["cause"]["error"];
        assert_eq!((&exit["cause"]["_tag"], &error["_tag"]), (&json!("Fail"), &json!("UnknownError")), "{exit}");
        assert!(error["cause"]["message"].as_str().unwrap().contains(reason), "{exit}");
    }
    setup.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_of_50_mb_closes_the_connection_with_1009() {
    let setup = Setup::new().await;
    let before = setup.sidecar.memory();
    let mut rpc = setup.open().await;
    let batch = json!([event(3, "large", json!("x".repeat(50_000_000)))]);
    // The server closes while this is still being sent.
    rpc.push(json!("0"), "s", batch).await;
    let end = rpc.closed().await;
    assert!(matches!(end, Received::Close(1009) | Received::Broken), "{end:?}");
    eventually("the log says why", || async { setup.sidecar.log().contains("too large") }).await;
    assert!(setup.sidecar.memory().saturating_sub(before) < 50 << 20);
    setup.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_raises_reaches_the_client_with_its_message_and_other_errors_without_theirs() {
    let setup = Setup::new().await;
    setup
        .database
        .everywhere(
            "create table secrets (id int primary key);
             grant insert on secrets to livestore_hooks;
             insert into secrets values (1);
             create function guard() returns trigger language plpgsql as $$
             begin
                 if new.name = 'forbidden' then raise exception 'todos are closed on Sundays'; end if;
                 if new.name = 'clumsy' then insert into public.secrets values (1); end if;
                 return new;
             end $$;
             create trigger guard before insert on livestore.eventlog_1 for each row execute function guard();",
        )
        .await;
    let mut rpc = setup.open().await;
    for (name, expected) in
        [("forbidden", "todos are closed on Sundays"), ("clumsy", "the database rejected the batch (SQLSTATE 23505)")]
    {
        rpc.push(json!(name), "s", json!([event(3, name, json!({}))])).await;
        let error = &rpc.exit(&json!(name)).await["cause"]["error"];
        assert_eq!(error["_tag"], "UnknownError");
        assert_eq!(error["cause"]["message"], expected);
    }
    setup.assert_unharmed().await;
}

/// The original server selects the events after it.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_below_0_is_that_of_a_client_without_events() {
    let setup = Setup::new().await;
    let sidecar = &setup.sidecar;
    for (store, events) in [("empty", 0), ("s", 3)] {
        let first = http_rpc::send(http_rpc::post(sidecar, store, http_rpc::pull(store, None))).await;
        let backend_id = first.frames[0].pointer("/values/0/backendId").unwrap().as_str().unwrap();
        let again = http_rpc::send(http_rpc::post(sidecar, store, http_rpc::pull(store, Some((backend_id, -1))))).await;
        assert_eq!((again.numbers(), &again.exit()["_tag"]), (up_to(events), &json!("Success")));
        for live in [false, true] {
            let mut rpc = Rpc::open(&sidecar.url(), store).await;
            let cursor = json!({"backendId": backend_id, "eventSequenceNumber": -1});
            let cursor = json!({"_tag": "Some", "value": cursor});
            rpc.request(json!("1"), "SyncWsRpc.Pull", json!({"storeId": store, "live": live, "cursor": cursor})).await;
            let chunk = rpc.frame().await;
            let batch = chunk.pointer("/values/0/batch").unwrap_or_else(|| panic!("{chunk}")).as_array().unwrap();
            assert_eq!(batch.len(), events as usize, "{live}: {chunk}");
        }
    }
    assert!(!sidecar.log().contains("deleted from the table"), "{}", sidecar.log());
    setup.assert_unharmed().await;
}
