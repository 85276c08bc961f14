//! Traces that clients began go on in the sidecar, down to the statement: as a collector receives them.

use livestore_tests::client::Node;
use livestore_tests::cluster::Database;
use livestore_tests::collector::{Collector, attribute, hex};
use livestore_tests::events::chain;
use livestore_tests::eventually;
use livestore_tests::rpc::Rpc;
use livestore_tests::sidecar::{Sidecar, Start};
use reqwest::Client;
use serde_json::json;

const TRACE: &str = "0b962dc3b22602d47c7abf3a2605b715";
const SPAN: &str = "ab01972282fc3020";

async fn start() -> (Database, Collector, Sidecar) {
    let (database, collector) = (Database::new().await, Collector::start().await);
    let start = Start::new(database.url("sidecar")).environment("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint());
    let sidecar = start.environment("OTEL_BSP_SCHEDULE_DELAY", "200").ready().await;
    (database, collector, sidecar)
}

/// Asserts that a trace has a span of this name below the client's, and one of a statement below that.
async fn goes_down_to(collector: &Collector, trace_id: &str, name: &str, statement: &str) {
    let has_arrived = || async {
        let spans = collector.spans(trace_id);
        spans.iter().any(|span| span.name == name) && spans.iter().any(|span| span.name == statement)
    };
    eventually(&format!("the trace has {name} and {statement}"), has_arrived).await;
    let spans = collector.spans(trace_id);
    let ours = spans.iter().find(|span| span.name == name).unwrap();
    assert_eq!(hex(&ours.parent_span_id), SPAN, "{ours:?}");
    let statements: Vec<_> = spans.iter().filter(|span| span.name == statement).collect();
    assert!(statements.iter().any(|sql| sql.parent_span_id == ours.span_id), "{spans:?}");
    assert!(statements.iter().all(|sql| attribute(sql, "db.system.name") == Some("postgresql")));
    assert!(statements.iter().all(|sql| sql.end_time_unix_nano > sql.start_time_unix_nano));
    assert_eq!(attribute(ours, "store"), Some("s"), "{ours:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_over_websocket_go_on_in_their_traces() {
    let (_database, collector, sidecar) = start().await;
    let mut rpc = Rpc::open(&sidecar.url(), "s").await;
    let trace = |n: u8| format!("{n:x}{}", &TRACE[1..]);
    for (id, tag, payload) in [
        ("1", "SyncWsRpc.Push", json!({"storeId": "s", "batch": chain(0, 2), "backendId": {"_tag": "None"}})),
        ("2", "SyncWsRpc.Pull", json!({"storeId": "s", "live": false, "cursor": {"_tag": "None"}})),
    ] {
        let request = json!({"_tag": "Request", "id": id, "tag": tag, "payload": payload, "headers": [],
                             "traceId": trace(id.parse().unwrap()), "spanId": SPAN, "sampled": true});
        rpc.send(request).await;
        while rpc.frame().await["_tag"] != "Exit" {}
    }
    goes_down_to(&collector, &trace(1), "SyncWsRpc.Push", "livestore.push_batch").await;
    goes_down_to(&collector, &trace(2), "SyncWsRpc.Pull", "livestore.read_page").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_over_http_go_on_in_their_traces_and_unsampled_ones_are_not_sent() {
    let (_database, collector, sidecar) = start().await;
    let push = async |trace_id: &str, flags: &str, parent: i64| {
        let body = json!({"_tag": "@livestore/sync-electric.Push", "storeId": "s", "batch": chain(parent, 1)});
        let url = format!("{}/api/electric?token=hunter2", sidecar.http_url());
        let request = Client::new().post(url).header("traceparent", format!("00-{trace_id}-{SPAN}-{flags}"));
        assert_eq!(request.body(body.to_string()).send().await.unwrap().status(), 200);
    };
    let unsampled = format!("f{}", &TRACE[1..]);
    push(&unsampled, "00", 0).await;
    push(TRACE, "01", 1).await;
    goes_down_to(&collector, TRACE, "request", "livestore.push_batch").await;
    assert!(collector.spans(&unsampled).is_empty());
    assert!(!collector.text().contains("hunter2") && !collector.text().contains("todoCreated"));
}

/// The sender of a header does not decide whether a trace is sent, unless the operator says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_have_its_traces_sent() {
    for (sampler, argument) in [("parentbased_always_off", ""), ("parentbased_traceidratio", "0")] {
        for is_trusted in [false, true] {
            let (database, collector) = (Database::new().await, Collector::start().await);
            let sidecar = Start::new(database.url("sidecar"))
                .environment("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint())
                .environment("OTEL_TRACES_SAMPLER", sampler)
                .environment("OTEL_TRACES_SAMPLER_ARG", argument)
                .arguments(if is_trusted { &["--trust-traceparent"] } else { &[] })
                .ready()
                .await;
            let body = json!({"_tag": "@livestore/sync-electric.Push", "storeId": "s", "batch": chain(0, 1)});
            let request = Client::new().post(format!("{}/api/electric", sidecar.http_url()));
            let request = request.header("traceparent", format!("00-{TRACE}-{SPAN}-01")).body(body.to_string());
            assert_eq!(request.send().await.unwrap().status(), 200);
            let mut rpc = Rpc::open(&sidecar.url(), "s").await;
            let payload = json!({"storeId": "s", "live": false, "cursor": {"_tag": "None"}});
            let trace = format!("1{}", &TRACE[1..]);
            rpc.send(json!({"_tag": "Request", "id": "1", "tag": "SyncWsRpc.Pull", "payload": payload, "headers": [],
                            "traceId": trace, "spanId": SPAN, "sampled": true}))
                .await;
            while rpc.frame().await["_tag"] != "Exit" {}
            // The spans that are left are sent at the end.
            assert!(sidecar.terminate().await.success());
            let sent = [TRACE, &trace].map(|trace| !collector.spans(trace).is_empty());
            assert_eq!(sent, [is_trusted; 2], "{sampler}, {is_trusted}");
        }
    }
}

/// LiveStore's own clients have trace ids in every request.
#[tokio::test(flavor = "multi_thread")]
async fn an_npm_client_is_traced_and_what_is_left_is_sent_at_the_end() {
    let (_database, collector, sidecar) = start().await;
    let client = Node::sync_backend().open("cf-ws", &sidecar.url(), "s").await;
    client.push(chain(0, 2)).await.unwrap();
    assert!(sidecar.terminate().await.success());
    let text = collector.text();
    assert!(text.contains("SyncWsRpc.Push") && text.contains("livestore.push_batch"), "{text}");
}

#[test]
fn a_system_without_certificates_is_told() {
    let mut command = Start::program();
    command.args(["--database-url", "postgres://localhost/x", "--otlp-endpoint", "http://127.0.0.1:1"]);
    command.env("SSL_CERT_FILE", "/dev/null").env("SSL_CERT_DIR", "/nonexistent");
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && error.contains("CA certificates"), "{}: {error}", output.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_holds_nobody_up() {
    let database = Database::new().await;
    let nowhere = format!("http://127.0.0.1:{}", livestore_tests::free_port());
    let start = Start::new(database.url("sidecar")).arguments(&["--otlp-endpoint", &nowhere]);
    let sidecar = start.ready().await;
    let client = Node::sync_backend().open("cf-ws", &sidecar.url(), "s").await;
    client.push(chain(0, 2)).await.unwrap();
    let since = std::time::Instant::now();
    assert!(sidecar.terminate().await.success());
    assert!(since.elapsed() < std::time::Duration::from_secs(30), "{:?}", since.elapsed());
}
