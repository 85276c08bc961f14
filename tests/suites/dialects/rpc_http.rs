//! Effect RPC over HTTP by hand: forms, compression, bad input, and a database that is away.

use std::time::{Duration, Instant};

use livestore_tests::breaker::Breaker;
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event, up_to};
use livestore_tests::eventually;
use livestore_tests::http_rpc::{ping, post, pull, push, read, request, send};
use livestore_tests::sidecar::{Sidecar, Start};
use serde_json::{Value, json};

/// A store `s` with three events.
async fn setup() -> (Database, Sidecar) {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    database.admin().await.execute("select livestore.push('s', $1)", &[&chain(0, 3)]).await.unwrap();
    (database, sidecar)
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_have_the_form_that_the_id_asks_for() {
    let (_database, sidecar) = setup().await;
    let ahead = json!({"_tag": "ServerAheadError", "minimumExpectedNum": 3, "providedNum": 1});
    let fail = json!({"_tag": "Fail", "error": ahead});
    for (id, cause) in [(json!("7"), fail.clone()), (json!(7), json!([fail]))] {
        let batch = json!([event(1, "other", json!({}))]);
        let payload = json!({"storeId": "s", "payload": null, "batch": batch, "backendId": {"_tag": "None"}});
        let answer = send(post(&sidecar, "s", request(id.clone(), "SyncHttpRpc.Push", payload))).await;
        let exit = json!({"_tag": "Failure", "cause": cause});
        assert_eq!(answer.frames, [json!({"_tag": "Exit", "requestId": id, "exit": exit})]);

        let answer = send(post(&sidecar, "s", request(id.clone(), "SyncHttpRpc.Ping", json!({"storeId": "s"})))).await;
        assert_eq!(answer.exit(), &json!({"_tag": "Success", "value": {"_tag": "SyncMessage.Pong"}}));
        assert_eq!(answer.frames[0]["requestId"], id);
    }

    let mut without = event(3, "none", json!(null));
    without.as_object_mut().unwrap().remove("args");
    send(post(&sidecar, "s", push("s", json!([without])))).await;
    for (id, args) in [(json!("7"), None), (json!(7), Some(json!(null)))] {
        let payload = json!({"storeId": "s", "cursor": {"_tag": "None"}});
        let answer = send(post(&sidecar, "s", request(id, "SyncHttpRpc.Pull", payload))).await;
        assert_eq!(answer.numbers(), up_to(4));
        assert_eq!(answer.frames[0].pointer("/values/0/batch/3/eventEncoded/args"), args.as_ref());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_requests_in_one_body_are_answered_in_order() {
    let (_database, sidecar) = setup().await;
    let requests = json!([ping("s"), push("s", chain(3, 2)), push("s", json!([])), pull("s", None)]);
    let answer = send(post(&sidecar, "s", requests)).await;
    let tags: Vec<_> = answer.frames.iter().map(|frame| frame["_tag"].as_str().unwrap()).collect();
    assert_eq!(tags, ["Exit", "Exit", "Exit", "Chunk", "Exit"]);
    assert_eq!(answer.numbers(), up_to(5));
    assert!(answer.frames.iter().all(|frame| frame["exit"].get("cause").is_none()), "{answer:?}");
    assert!(send(post(&sidecar, "s", json!([]))).await.frames.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_compressed_for_whoever_takes_it() {
    let (_database, sidecar) = setup().await;
    send(post(&sidecar, "s", push("s", chain(3, 500)))).await;
    let plain = post(&sidecar, "s", pull("s", None)).send().await.unwrap();
    assert!(plain.headers().get("content-encoding").is_none());
    assert_eq!(plain.headers()["content-type"], "application/json");
    let size = plain.bytes().await.unwrap().len();
    let compressed = post(&sidecar, "s", pull("s", None)).header("accept-encoding", "gzip, br").send().await.unwrap();
    assert_eq!(compressed.headers()["content-encoding"], "gzip");
    let compressed = compressed.bytes().await.unwrap().len();
    assert!(compressed < size / 5, "{compressed} of {size}");

    let url = format!("{}/?storeId=s&transport=http", sidecar.http_url());
    let decoding = reqwest::Client::new().post(url).body(pull("s", None).to_string());
    assert_eq!(send(decoding).await.numbers(), up_to(503));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_gets_a_clear_answer_and_changes_nothing() {
    let (database, sidecar) = setup().await;
    for body in ["not json", "", "{", "[1]", "{\"_tag\":1}", "\"Request\""] {
        let answer = send(post(&sidecar, "s", body)).await;
        assert_eq!((answer.status, &answer.frames[0]["_tag"]), (400, &json!("Defect")), "{body}");
    }
    assert_eq!(post(&sidecar, "s", "").body(vec![0xff, 0xfe]).send().await.unwrap().status(), 400);
    for (body, defect) in [
        (request(json!("0"), "SyncWsRpc.Pull", json!({})), "Unknown request tag: SyncWsRpc.Pull"),
        (json!({"_tag": "Request", "id": {}, "tag": "SyncHttpRpc.Ping"}), "a Request needs an id"),
        (json!({"_tag": "Hello"}), "Unknown request tag: Hello"),
    ] {
        let answer = send(post(&sidecar, "s", body)).await;
        assert_eq!((answer.status, answer.frames[0]["_tag"].as_str()), (200, Some("Defect")));
        assert!(answer.frames[0]["defect"].as_str().unwrap().contains(defect), "{answer:?}");
    }
    let event = json!({"name": "e", "seqNum": 4, "parentSeqNum": 3, "clientId": "c", "sessionId": "s"});
    for (payload, why) in [
        (json!(null), "payload"),
        (json!({"storeId": "s", "batch": [event]}), "backendId"),
        (json!({"storeId": "s", "batch": [{"name": "e"}], "backendId": {"_tag": "None"}}), "batch"),
        (json!({"storeId": "other", "batch": [event], "backendId": {"_tag": "None"}}), "differs"),
        (
            json!({"storeId": "s", "batch": [event], "backendId": {"_tag": "None"}, "payload": "x".repeat(65_536)}),
            "bytes",
        ),
    ] {
        let answer = send(post(&sidecar, "s", request(json!("0"), "SyncHttpRpc.Push", payload))).await;
        let cause = &answer.exit()["cause"];
        assert!(cause["_tag"] == "Die" && cause["defect"].as_str().unwrap().contains(why), "{why}: {answer:?}");
    }
    let gap = send(post(&sidecar, "s", push("s", json!([event, event])))).await;
    assert_eq!(gap.exit()["cause"]["error"]["_tag"], "UnknownError", "{gap:?}");
    let head: i64 = database.admin().await.query_one("select livestore.head('s')", &[]).await.unwrap().get(0);
    assert_eq!(head, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_post_or_too_large_is_refused() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--max-frame-bytes", "100000"]).ready().await;
    let (status, body) = sidecar.get("/?storeId=s&transport=http").await;
    assert_eq!((status, body.trim()), (405, "this endpoint takes POST"));
    let large = push("s", json!([event(0, "e", json!("x".repeat(100_000)))]));
    let response = post(&sidecar, "s", large).send().await.unwrap();
    assert_eq!(response.status(), 413);
    assert!(response.text().await.unwrap().contains("100000 bytes"));
    assert_eq!(send(post(&sidecar, "s", pull("s", None))).await.numbers(), [0; 0]);
    for (path, why) in [("/?storeId=&transport=http", "empty"), ("/?storeId=s&transport=http&payload=%7B", "payload")] {
        let response = reqwest::Client::new().post(format!("{}{path}", sidecar.http_url())).send().await.unwrap();
        assert_eq!(response.status(), 400);
        assert!(response.text().await.unwrap().contains(why), "{why}");
    }
}

/// The id of the store's log, as a first pull brings it.
async fn backend_id(sidecar: &Sidecar) -> String {
    let answer = send(post(sidecar, "s", pull("s", None))).await;
    answer.frames[0]["values"][0]["backendId"].as_str().unwrap().into()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_nothing_fails_that_can_wait() {
    let database = Database::new().await;
    let breaker = Breaker::to(database.cluster().port()).await;
    let url = database.url_at("sidecar", breaker.port());
    let sidecar = Start::new(url).arguments(&["--push-timeout", "2s"]).ready().await;
    send(post(&sidecar, "s", push("s", chain(0, 3)))).await;
    let id = backend_id(&sidecar).await;
    breaker.cut();

    let start = Instant::now();
    let pong = send(post(&sidecar, "s", ping("s"))).await;
    assert_eq!(pong.exit()["_tag"], "Success");
    assert!(start.elapsed() < Duration::from_secs(5), "a ping needs no database");

    // A client that knows the whole log is told that nothing is new.
    let nothing = send(post(&sidecar, "s", pull("s", Some((&id, 3))))).await;
    assert_eq!(nothing.frames.len(), 2, "{nothing:?}");
    let chunk = &nothing.frames[0]["values"][0];
    assert_eq!(chunk, &json!({"batch": [], "pageInfo": {"_tag": "NoMore"}, "backendId": id}));
    assert_eq!(nothing.exit()["_tag"], "Success");

    let pushed = send(post(&sidecar, "s", push("s", chain(3, 1)))).await;
    assert_eq!(pushed.exit()["cause"]["error"]["_tag"], "UnknownError", "the client tries the same batch again");

    // A first pull is held, with signs of life for proxies in between.
    let mut held = post(&sidecar, "s", pull("s", None)).send().await.unwrap();
    assert_eq!(held.status(), 200);
    assert_eq!(held.chunk().await.unwrap().unwrap(), " ");
    breaker.mend();
    let held = read(held).await;
    assert_eq!((held.numbers(), &held.exit()["_tag"]), (up_to(3), &json!("Success")));
    assert_eq!(send(post(&sidecar, "s", push("s", chain(3, 1)))).await.exit()["_tag"], "Success");
    assert_eq!(send(post(&sidecar, "s", pull("s", Some((&id, 3))))).await.numbers(), [4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_frees_what_it_was_waiting_for() {
    let database = Database::new().await;
    let breaker = Breaker::to(database.cluster().port()).await;
    let sidecar = Start::new(database.url_at("sidecar", breaker.port())).ready().await;
    breaker.cut();
    let waiting = || sidecar.log().matches("a read waits for the database").count();
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(post(&sidecar, "s", pull("s", None)).send().await.unwrap());
    }
    eventually("all wait", || async { waiting() == 10 }).await;
    // Each would say again that it waits, after 8 attempts.
    drop(held);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(waiting(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_answers_what_is_under_way() {
    let database = Database::new().await;
    let breaker = Breaker::to(database.cluster().port()).await;
    let sidecar = Start::new(database.url_at("sidecar", breaker.port())).ready().await;
    let id = backend_id(&sidecar).await;
    breaker.cut();
    let requests =
        [pull("s", Some((&id, 0))), pull("s", None)].map(|body| tokio::spawn(send(post(&sidecar, "s", body))));
    eventually("both are under way", || async { sidecar.log().matches("a read waits for the database").count() > 1 })
        .await;
    let ended = tokio::spawn(sidecar.terminate());
    let [known, first] = requests;
    assert_eq!(known.await.unwrap().frames[0]["values"][0]["batch"], json!([]));
    let first = first.await.unwrap();
    assert_eq!(first.exit()["cause"]["error"]["_tag"], "UnknownError", "{first:?}");
    assert!(ended.await.unwrap().success());
}

/// A client stops for good at a first pull that fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_does_not_fail_a_pull_that_the_database_can_answer() {
    let database = Database::new().await;
    let breaker = Breaker::to(database.cluster().port()).await;
    let sidecar = Start::new(database.url_at("sidecar", breaker.port())).ready().await;
    send(post(&sidecar, "s", push("s", chain(0, 3)))).await;
    breaker.cut();
    let first = tokio::spawn(send(post(&sidecar, "s", pull("s", None))));
    eventually("it waits", || async { sidecar.log().contains("a read waits for the database") }).await;
    let ended = tokio::spawn(sidecar.terminate());
    tokio::time::sleep(Duration::from_secs(1)).await;
    breaker.mend();
    assert_eq!(first.await.unwrap().numbers(), up_to(3));
    assert!(ended.await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_disconnected() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let database = Database::new().await;
    let admin = database.admin().await;
    for head in 0..40 {
        let batch = json!([event(head, "blob", json!("x".repeat(800_000)))]);
        admin.execute("select livestore.push('s', $1)", &[&batch]).await.unwrap();
    }
    let sidecar = Sidecar::on(&database).await;
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", sidecar.port())).await.unwrap();
    let body = pull("s", None).to_string();
    let head = format!(
        "POST /?storeId=s&transport=http HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(45)).await;
    let mut received = Vec::new();
    let _ =
        tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut received)).await.expect("it has ended");
    assert!(received.len() < 30_000_000 && !received.ends_with(b"0\r\n\r\n"), "{} bytes", received.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_ahead_of_the_log_is_told_nothing_until_the_operator_has_helped() {
    let (database, sidecar) = setup().await;
    let id = backend_id(&sidecar).await;
    let answer = send(post(&sidecar, "s", pull("s", Some((&id, 9))))).await;
    assert_eq!((answer.numbers().len(), &answer.exit()["_tag"]), (0, &json!("Success")));
    eventually("the log says what to do", || async { sidecar.log().contains("renew_backend_ids") }).await;
    database.everywhere("select livestore.renew_backend_ids()").await;
    let answer = send(post(&sidecar, "s", pull("s", Some((&id, 9))))).await;
    let error: &Value = &answer.exit()["cause"]["error"];
    assert_eq!((&error["_tag"], &error["received"]), (&json!("BackendIdMismatchError"), &json!(id)));
}
