//! Recordings of `@livestore/sync-cf` 0.4.0 and its original server, over WebSocket and over HTTP, played to the sidecar: it gives the same answers.
//!
//! Not compared: times and backend ids, the text of a defect (Effect's schema errors), the fibers in an interrupt, and
//! chunks that the original sends for a pull that has ended. Answers of different requests may come in another order.
//!
//! One answer differs on purpose. The original stores an event without `args` as null and returns `"args":null`; such
//! an event comes back here as it was sent. A client compares an event that comes back with its own pending one, and
//! `null` is not `undefined` to it (`isEqualEncoded` in @livestore/common): it would rebase and push the event again.

use std::collections::HashMap;

use livestore_tests::cluster::Database;
use livestore_tests::root;
use livestore_tests::rpc::Rpc;
use livestore_tests::sidecar::{Sidecar, Start};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn the_recording_over_websocket_gets_the_same_answers() {
    let database = Database::new().await;
    // The original never holds events back to deliver them together.
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--contention-window=0s"]).ready().await;
    let recording = std::fs::read_to_string(root().join("tests/wire/sync-cf-0.4.0-ws.jsonl")).unwrap();
    let lines: Vec<Value> = recording.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut backend_id = None;
    let mut compared = 0;
    for connection in lines.chunk_by(|_, next| next.get("open").is_none()) {
        compared += replay(connection, &sidecar.url(), &mut backend_id).await;
    }
    assert_eq!(compared, 19, "frames of the original, without those that are set aside");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recording_over_http_gets_the_same_answers() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let recording = std::fs::read_to_string(root().join("tests/wire/sync-cf-0.4.0-http.jsonl")).unwrap();
    let client = reqwest::Client::new();
    let mut backend_id: Option<String> = None;
    let mut compared = 0;
    for line in recording.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let (recorded, expected) = (&line["request"], &line["response"]);
        assert_eq!(recorded["method"], "POST");
        let body = with_backend_id(recorded["body"].clone(), backend_id.as_deref());
        let mut request = client.post(format!("{}{}", sidecar.http_url(), recorded["url"].as_str().unwrap()));
        for (name, value) in recorded["headers"].as_object().unwrap() {
            request = request.header(name, value.as_str().unwrap());
        }
        let response = request.body(body.to_string()).send().await.unwrap();
        assert_eq!(json!(response.status().as_u16()), expected["status"]);
        assert_eq!(json!(response.headers()["content-type"].to_str().unwrap()), expected["contentType"]);
        let frames: Vec<Value> = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        if let Some(id) = frames[0].pointer("/values/0/backendId").and_then(Value::as_str) {
            backend_id.get_or_insert(id.into());
        }
        let expected: Vec<Value> = serde_json::from_str(expected["body"].as_str().unwrap()).unwrap();
        let normalise = |frames: Vec<Value>| frames.into_iter().map(normalised).collect::<Vec<_>>();
        compared += frames.len();
        assert_eq!(normalise(frames), normalise(expected), "{recorded}");
    }
    assert_eq!(compared, 15, "frames of the original");
}

/// Frames by the request that they answer; those that answer none are under null.
type Answers = HashMap<String, Vec<Value>>;

/// Plays one connection: sends what the client sent, each frame after the answers that it had received by then.
async fn replay(lines: &[Value], url: &str, backend_id: &mut Option<String>) -> usize {
    let mut rpc = Rpc::connect(&format!("{url}{}", lines[0]["open"].as_str().unwrap())).await;
    let (mut expected, mut received) = (Answers::new(), Answers::new());
    for line in &lines[1..] {
        let frame = &line["frame"];
        if line["from"] == "server" {
            let answers = expected.entry(frame["requestId"].to_string()).or_default();
            if answers.last().is_none_or(|last| last["_tag"] != "Exit") {
                answers.push(normalised(frame.clone()));
            }
            continue;
        }
        receive(&mut rpc, &expected, &mut received, backend_id).await;
        rpc.send(with_backend_id(frame.clone(), backend_id.as_deref())).await;
    }
    receive(&mut rpc, &expected, &mut received, backend_id).await;
    assert_eq!(received, expected);
    received.values().map(Vec::len).sum()
}

async fn receive(rpc: &mut Rpc, expected: &Answers, received: &mut Answers, backend_id: &mut Option<String>) {
    let count = |answers: &Answers| answers.values().map(Vec::len).sum::<usize>();
    while count(received) < count(expected) {
        let frame = rpc.frame().await;
        if let Some(id) = frame.pointer("/values/0/backendId").and_then(Value::as_str) {
            backend_id.get_or_insert(id.into());
        }
        received.entry(frame["requestId"].to_string()).or_default().push(normalised(frame));
    }
}

/// The recorded backend id is the original's; the client of today has learned ours.
fn with_backend_id(mut frame: Value, backend_id: Option<&str>) -> Value {
    for pointer in ["/payload/backendId/value", "/payload/cursor/value/backendId"] {
        if let (Some(id), Some(backend_id)) = (frame.pointer_mut(pointer), backend_id)
            && id != "wrong"
        {
            *id = json!(backend_id);
        }
    }
    frame
}

fn normalised(mut frame: Value) -> Value {
    for pointer in ["/values/0/backendId", "/exit/cause/error/expected"] {
        if let Some(id) = frame.pointer_mut(pointer) {
            assert_eq!(id.as_str().unwrap().len(), 21);
            *id = json!("the backend id");
        }
    }
    if let Some(defect) = frame.pointer_mut("/exit/cause/defect") {
        *defect = json!("a text");
    }
    if frame.pointer("/exit/cause").is_some_and(|cause| cause.to_string().contains("Interrupt")) {
        frame["exit"]["cause"] = json!("an interrupt");
    }
    if let Some(exit) = frame.get_mut("exit").and_then(Value::as_object_mut) {
        exit.retain(|key, value| key != "value" || !value.is_null());
    }
    let events = frame.pointer_mut("/values/0/batch").and_then(Value::as_array_mut);
    for event in events.into_iter().flatten() {
        let created_at = event.pointer_mut("/metadata/value/createdAt").unwrap();
        assert_eq!(created_at.as_str().unwrap().len(), "2026-11-21T00:47:15.455Z".len());
        *created_at = json!("a time");
        event["eventEncoded"].as_object_mut().unwrap().retain(|key, value| key != "args" || !value.is_null());
    }
    frame
}
