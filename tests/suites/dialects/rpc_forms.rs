//! The two wire forms of Effect RPC, flow control, and the end of connections, none of which a single client shows in full.

use std::time::Duration;

use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event};
use livestore_tests::eventually;
use livestore_tests::rpc::{Received, Rpc};
use livestore_tests::sidecar::{Sidecar, http_get};
use serde_json::{Value, json};

async fn setup() -> (Database, Sidecar) {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    (database, sidecar)
}

/// The causes of a failure in the form that belongs to the id: one, or a list of one.
fn cause(id: &Value, cause: Value) -> Value {
    if id.is_string() { cause } else { json!([cause]) }
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_echoed_and_failures_have_the_form_that_belongs_to_them() {
    let (_database, sidecar) = setup().await;
    for ids in [[json!("0"), json!("1"), json!("2"), json!("3")], [json!(0), json!(1), json!(2), json!(3)]] {
        let store = if ids[0].is_string() { "effect3" } else { "effect4" };
        let mut rpc = Rpc::open(&sidecar.url(), store).await;

        rpc.push(ids[0].clone(), store, chain(0, 2)).await;
        assert_eq!(rpc.exit(&ids[0]).await, json!({"_tag": "Success", "value": {}}));

        rpc.push(ids[1].clone(), store, json!([event(0, "other", json!(null))])).await;
        let error = json!({"_tag": "ServerAheadError", "minimumExpectedNum": 2, "providedNum": 0});
        let expected = json!({"_tag": "Failure", "cause": cause(&ids[1], json!({"_tag": "Fail", "error": error}))});
        assert_eq!(rpc.exit(&ids[1]).await, expected);

        rpc.request(ids[2].clone(), "SyncWsRpc.Pull", json!({"storeId": store, "live": 1})).await;
        let exit = rpc.exit(&ids[2]).await;
        let die = if ids[2].is_string() { &exit["cause"] } else { &exit["cause"][0] };
        assert_eq!((&exit["_tag"], &die["_tag"]), (&json!("Failure"), &json!("Die")));
        assert!(die["defect"].as_str().unwrap().contains("payload"));

        rpc.pull(ids[3].clone(), store, false).await;
        let frames = rpc.until_exit(&ids[3]).await;
        assert_eq!(frames.last().unwrap()["exit"], json!({"_tag": "Success", "value": null}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_args_is_left_out_for_effect_3_and_null_for_effect_4() {
    let (_database, sidecar) = setup().await;
    let mut rpc = Rpc::open(&sidecar.url(), "s").await;
    rpc.pull(json!("live3"), "s", true).await;
    rpc.pull(json!(4), "s", true).await;
    for _ in 0..2 {
        assert_eq!(rpc.frame().await["_tag"], "Chunk");
    }
    let mut without = event(0, "e", json!(null));
    without.as_object_mut().unwrap().remove("args");
    rpc.push(json!("p"), "s", json!([without])).await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let frame = rpc.frame().await;
        if frame["_tag"] == "Chunk" {
            let event = frame.pointer("/values/0/batch/0/eventEncoded").unwrap();
            seen.push((frame["requestId"].is_string(), event.get("args").cloned()));
        }
    }
    seen.sort_by_key(|(is_effect3, _)| *is_effect3);
    assert_eq!(seen, [(false, Some(json!(null))), (true, None)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_tag_is_a_defect_for_effect_3_and_a_die_for_effect_4() {
    let (_database, sidecar) = setup().await;
    let mut rpc = Rpc::open(&sidecar.url(), "s").await;
    rpc.request(json!("0"), "SyncWsRpc.Nope", json!({})).await;
    assert_eq!(rpc.frame().await, json!({"_tag": "Defect", "defect": "Unknown request tag: SyncWsRpc.Nope"}));
    rpc.request(json!(1), "SyncWsRpc.Nope", json!({})).await;
    let exit = rpc.exit(&json!(1)).await;
    assert_eq!(exit["cause"], json!([{"_tag": "Die", "defect": "Unknown request tag: SyncWsRpc.Nope"}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupt_ends_a_pull_in_both_forms() {
    let (_database, sidecar) = setup().await;
    let mut rpc = Rpc::open(&sidecar.url(), "s").await;
    for (id, interrupt) in [
        (json!("a"), json!({"_tag": "Interrupt", "fiberId": {"_tag": "None"}})),
        (json!(7), json!([{"_tag": "Interrupt", "fiberId": null}])),
    ] {
        rpc.pull(id.clone(), "s", true).await;
        assert_eq!(rpc.frame().await["_tag"], "Chunk");
        rpc.send(json!({"_tag": "Interrupt", "requestId": id})).await;
        assert_eq!(rpc.exit(&id).await, json!({"_tag": "Failure", "cause": interrupt}));
    }
    rpc.push(json!("p"), "s", chain(0, 1)).await;
    assert_eq!(rpc.frame().await["_tag"], "Exit", "no chunk of an ended pull comes first");
    assert!(rpc.is_quiet_for(Duration::from_millis(200)).await, "nor after it");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_in_flight_is_joined_by_effect_3_and_replaced_by_effect_4() {
    let (_database, sidecar) = setup().await;
    for id in [json!("0"), json!(0)] {
        let store = if id.is_string() { "three" } else { "four" };
        let mut rpc = Rpc::open(&sidecar.url(), store).await;
        rpc.pull(id.clone(), store, true).await;
        rpc.frame().await;
        rpc.pull(id.clone(), store, true).await;
        if id.is_number() {
            assert_eq!(rpc.frame().await["_tag"], "Chunk", "the second begins anew");
        }
        rpc.push(json!("p"), store, chain(0, 1)).await;
        let frames = [rpc.frame().await, rpc.frame().await];
        assert_eq!(frames.iter().filter(|frame| frame["_tag"] == "Chunk").count(), 1);
        assert!(rpc.is_quiet_for(Duration::from_millis(200)).await, "one pull, one chunk");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_push_succeeds_and_an_array_of_frames_is_taken() {
    let (_database, sidecar) = setup().await;
    let mut rpc = Rpc::open(&sidecar.url(), "s").await;
    let push =
        json!({"storeId": "s", "batch": [], "backendId": {"_tag": "Some", "value": "whatever"}, "payload": null});
    let request = json!({"_tag": "Request", "id": 1, "tag": "SyncWsRpc.Push", "payload": push, "headers": []});
    rpc.send(json!([{"_tag": "Ping"}, request])).await;
    assert_eq!(rpc.frame().await, json!({"_tag": "Pong"}));
    assert_eq!(rpc.exit(&json!(1)).await, json!({"_tag": "Success", "value": {}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn eof_closes_the_connection_once_everything_is_answered() {
    let (_database, sidecar) = setup().await;
    let mut rpc = Rpc::open(&sidecar.url(), "s").await;
    rpc.push(json!("p"), "s", chain(0, 3)).await;
    rpc.send(json!({"_tag": "Eof"})).await;
    assert_eq!(rpc.exit(&json!("p")).await["_tag"], "Success");
    assert_eq!(rpc.closed().await, Received::Close(1000));
}

#[tokio::test(flavor = "multi_thread")]
async fn acks_and_interrupts_of_requests_that_nobody_made_here_close_the_connection() {
    let (_database, sidecar) = setup().await;
    for tag in ["Ack", "Interrupt"] {
        let mut rpc = Rpc::open(&sidecar.url(), "s").await;
        rpc.send(json!({"_tag": tag, "requestId": "17"})).await;
        assert_eq!(rpc.closed().await, Received::Close(1012));

        // Of one that has just ended they are merely late.
        let mut rpc = Rpc::open(&sidecar.url(), "s").await;
        rpc.pull(json!("0"), "s", false).await;
        rpc.exit(&json!("0")).await;
        rpc.send(json!({"_tag": tag, "requestId": "0"})).await;
        rpc.send(json!({"_tag": "Ping"})).await;
        assert_eq!(rpc.frame().await, json!({"_tag": "Pong"}));
    }
}

/// LiveStore's clients keep a pull over a network that stalls, and reconnect without asking for it again. One of the development
/// line would never pull again if its connection were closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_effect_4_that_waits_for_a_pull_of_an_earlier_connection_is_told_to_pull_again() {
    let (_database, sidecar) = setup().await;
    let mut rpc = Rpc::open(&sidecar.url(), "s").await;
    let lost = rpc.frame().await;
    assert_eq!(lost[0]["_tag"], "ClientProtocolError", "in an array, which Effect 3 ignores");

    rpc.pull(json!(18), "s", true).await;
    assert_eq!(rpc.frame().await["requestId"], 18);
    for _ in 0..2 {
        rpc.send(json!({"_tag": "Ack", "requestId": 17})).await;
    }
    assert_eq!(rpc.frame().await, lost, "once for each id");
    rpc.pull(json!(19), "s", true).await;
    assert_eq!(rpc.frame().await["requestId"], 19);
    // Of the pull that the message has ended, it is merely late.
    rpc.send(json!({"_tag": "Ack", "requestId": 18})).await;
    assert!(rpc.is_quiet_for(Duration::from_secs(4)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_ack_gets_a_few_chunks_and_the_rest_when_it_does() {
    let (database, sidecar) = setup().await;
    database.admin().await.execute("select livestore.push('s', $1)", &[&chain(0, 2000)]).await.unwrap();
    let mut rpc = Rpc::open(&sidecar.url(), "s").await;
    rpc.pull(json!("0"), "s", false).await;
    let (mut events, mut chunks) = (0, 0);
    while tokio::time::timeout(Duration::from_millis(500), rpc.frame()).await.is_ok_and(|frame| {
        events += frame.pointer("/values/0/batch").unwrap().as_array().unwrap().len();
        true
    }) {
        chunks += 1;
    }
    assert!((1..20).contains(&chunks), "{chunks} chunks without an Ack");
    for _ in 0..20 {
        rpc.send(json!({"_tag": "Ack", "requestId": "0"})).await;
    }
    for frame in rpc.until_exit(&json!("0")).await {
        events += frame.pointer("/values/0/batch").map_or(0, |batch| batch.as_array().unwrap().len());
    }
    assert_eq!(events, 2000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_costs_bounded_memory() {
    let (database, sidecar) = setup().await;
    let mut stalled = Vec::new();
    for _ in 0..8 {
        let mut rpc = Rpc::open(&sidecar.url(), "s").await;
        rpc.pull(json!("0"), "s", true).await;
        rpc.frame().await;
        // As if acknowledged in advance: only the socket holds it back.
        for _ in 0..1000 {
            rpc.send(json!({"_tag": "Ack", "requestId": "0"})).await;
        }
        stalled.push(rpc);
    }
    let before = sidecar.memory();
    let admin = database.admin().await;
    let mut expected = 0;
    for parent in (0..400).step_by(20) {
        let batch: Value = (parent..parent + 20).map(|parent| event(parent, "e", json!("x".repeat(100_000)))).collect();
        admin.execute("select livestore.push('s', $1)", &[&batch]).await.unwrap();
        expected += 20;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let grown = sidecar.memory().saturating_sub(before);
    assert!(grown < 200 << 20, "40 MB of events for 8 stalled clients cost {} MB", grown >> 20);

    // Each goes on from its position, with every event once.
    for mut rpc in stalled {
        let mut last = 0;
        while last < expected {
            for event in rpc.frame().await.pointer("/values/0/batch").unwrap().as_array().unwrap() {
                assert_eq!(event.pointer("/eventEncoded/parentSeqNum").unwrap(), last);
                last = event.pointer("/eventEncoded/seqNum").unwrap().as_i64().unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn resets_of_an_empty_log_reach_those_who_follow_it() {
    let (database, sidecar) = setup().await;
    let admin = database.admin().await;
    admin.execute("select livestore.create_store('s')", &[]).await.unwrap();
    for _ in 0..2 {
        let mut rpc = Rpc::open(&sidecar.url(), "s").await;
        rpc.pull(json!("0"), "s", true).await;
        let before = rpc.frame().await.pointer("/values/0/backendId").unwrap().clone();
        let after: String = admin.query_one("select livestore.reset_store('s')", &[]).await.unwrap().get(0);
        let error = rpc.exit(&json!("0")).await["cause"]["error"].clone();
        assert_eq!(error, json!({"_tag": "BackendIdMismatchError", "expected": after, "received": before}));

        let mut rpc = Rpc::open(&sidecar.url(), "s").await;
        rpc.pull(json!("0"), "s", true).await;
        assert_eq!(rpc.frame().await.pointer("/values/0/backendId").unwrap(), &json!(after));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_ahead_of_a_restored_log_gets_nothing_until_the_operator_renews_the_backend_ids() {
    let (database, sidecar) = setup().await;
    let admin = database.admin().await;
    admin.execute("select livestore.push('s', $1)", &[&chain(0, 5)]).await.unwrap();
    let id: String = admin.query_one("select livestore.backend_id('s')", &[]).await.unwrap().get(0);
    let cursor = json!({"_tag": "Some", "value": {"backendId": id, "eventSequenceNumber": 5}});
    // As a restore would.
    admin
        .batch_execute("delete from livestore.eventlog_1 where \"seqNum\" > 2; update livestore.stores set head = 2")
        .await
        .unwrap();
    for live in [true, false] {
        let mut rpc = Rpc::open(&sidecar.url(), "s").await;
        let payload = json!({"storeId": "s", "live": live, "cursor": cursor});
        rpc.request(json!("0"), "SyncWsRpc.Pull", payload).await;
        assert_eq!(rpc.receive().await, Received::Close(1013));
    }
    eventually("the log says what to do", || async { sidecar.log().contains("renew_backend_ids") }).await;

    database.everywhere("select livestore.renew_backend_ids()").await;
    let mut rpc = Rpc::open(&sidecar.url(), "s").await;
    rpc.request(json!("0"), "SyncWsRpc.Pull", json!({"storeId": "s", "live": true, "cursor": cursor})).await;
    assert_eq!(rpc.exit(&json!("0")).await["cause"]["error"]["_tag"], "BackendIdMismatchError");
    let events: i64 = admin.query_one("select count(*) from livestore.events", &[]).await.unwrap().get(0);
    assert_eq!(events, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_pull_is_closed_after_a_while() {
    let (_database, sidecar) = setup().await;
    let mut rpc = Rpc::open(&sidecar.url(), "s").await;
    rpc.push(json!("p"), "s", chain(0, 1)).await;
    assert_eq!(rpc.exit(&json!("p")).await["_tag"], "Success");
    assert_eq!(rpc.receive().await, Received::Close(1012));
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_websocket_get_an_answer_that_helps() {
    let (_database, sidecar) = setup().await;
    let (status, info) = sidecar.get("/").await;
    assert_eq!(status, 200);
    assert!(info.contains("transport=ws") && info.contains("/readyz"), "{info}");
    assert_eq!(sidecar.get("/any/path?storeId=s&transport=ws").await.0, 426);
    assert_eq!(sidecar.get("/?storeId=s").await.0, 400);
    assert_eq!(sidecar.get("/?storeId=s&transport=carrier-pigeon").await.0, 400);
    assert_eq!(sidecar.get("/elsewhere").await.0, 404);
    assert_eq!(sidecar.get("/?storeId=&transport=ws").await.0, 400);
    assert_eq!(sidecar.get(&format!("/?storeId={}&transport=ws", "x".repeat(1025))).await.0, 400);
    let (status, body) = sidecar.get("/?storeId=s&transport=ws&payload=%257Bnot%2520json").await;
    assert_eq!(status, 400);
    assert!(body.contains("payload"), "{body}");
    assert_eq!(http_get(sidecar.port(), "/healthz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_large_names_and_of_args_that_compress_well_is_read_in_bounded_memory() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    // 100 MB each; Postgres keeps a hundredth of it.
    for (store, name, args) in
        [("names", "repeat('x', 100000)", "null"), ("args", "'e'", "to_json(repeat('x', 100000))")]
    {
        let fill = format!(
            "do $$ begin for n in 1..1000 loop perform livestore.commit('{store}', {name}, {args}); end loop; end $$"
        );
        admin.batch_execute(&fill).await.unwrap();
    }
    for store in ["names", "args"] {
        let before = sidecar.memory();
        let mut rpc = Rpc::open(&sidecar.url(), store).await;
        rpc.pull(json!("1"), store, false).await;
        let (mut events, mut most) = (0, 0);
        while events < 1000 {
            let frame = rpc.frame().await;
            events += frame["values"][0]["batch"].as_array().expect("a chunk").len();
            rpc.send(json!({"_tag": "Ack", "requestId": "1"})).await;
            most = most.max(sidecar.memory().saturating_sub(before));
        }
        assert!(most < 100 << 20, "{store}: {} MiB more", most >> 20);
    }
}
