//! Monitoring: metrics, and a line in the log for each request.

use std::time::Duration;

use livestore_tests::client::Node;
use livestore_tests::cluster::Database;
use livestore_tests::dialects::{Caller, WRITERS};
use livestore_tests::events::{chain, event};
use livestore_tests::relay::Peer;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::{eventually, root};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

/// The names of all metrics, without what histograms add to them.
async fn names(sidecar: &Sidecar) -> Vec<String> {
    let (status, text) = sidecar.get("/metrics").await;
    assert_eq!(status, 200);
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, _)| name.to_string()).collect()
}

/// A sidecar that has done something of everything.
async fn busy() -> (Database, Sidecar) {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    for dialect in WRITERS {
        let caller = Caller::new(&sidecar, dialect);
        caller.write(dialect, chain(0, 3)).await;
        caller.write(dialect, chain(1, 1)).await;
        caller.write(dialect, json!([event(7, "e", json!({}))])).await;
    }
    (database, sidecar)
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_are_counted_by_dialect_and_outcome() {
    let (_database, sidecar) = busy().await;
    let pushes = async |dialect: &str, outcome: &str| {
        sidecar.metric(&format!("livestore_pushes_total{{dialect=\"{dialect}\",outcome=\"{outcome}\"}}")).await
    };
    for dialect in WRITERS {
        let counts = (pushes(dialect, "accepted").await, pushes(dialect, "server_ahead").await);
        assert!(counts.0 >= 2.0 && counts.1 == 1.0, "{dialect}: {counts:?}");
    }
    assert_eq!(sidecar.metric("livestore_committed_events_total").await, 3.0 * WRITERS.len() as f64);
    let commits = sidecar.metric("livestore_commit_seconds_count").await;
    let committed = sidecar.metric("livestore_commit_pushes_sum").await;
    assert!(commits >= 6.0 && committed >= commits, "{commits} {committed}");
    assert!(sidecar.metric("livestore_http_requests_total{status=\"101\"}").await >= 6.0);
    assert_eq!(sidecar.metric("livestore_listening").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_counted_while_they_last_and_what_they_get() {
    let (_database, sidecar) = busy().await;
    let streams = || sidecar.metric("livestore_live_streams{dialect=\"cf-ws\"}");
    let mut live = Caller::new(&sidecar, "cf-ws").follow("cf-ws").await.unwrap();
    eventually("it is counted", || async { streams().await == 1.0 }).await;
    let connections = sidecar.metric("livestore_connections").await;
    assert!(connections >= 2.0, "the stream, and who asks: {connections}");
    let lags = sidecar.metric("livestore_delivery_lag_seconds_count").await;
    let from_tail = sidecar.metric("livestore_tail_reads_total{from=\"tail\"}").await;
    let delivered = sidecar.metric("livestore_delivered_events_total").await;
    let accepted = Caller::new(&sidecar, "cf-ws").write("cf-ws", chain(3, 2)).await;
    assert!(accepted.text.contains("Success"), "{accepted:?}");
    live.frame().await;
    assert_eq!(sidecar.metric("livestore_delivery_lag_seconds_count").await, lags + 1.0);
    assert_eq!(sidecar.metric("livestore_tail_reads_total{from=\"tail\"}").await, from_tail + 1.0);
    assert!(sidecar.metric("livestore_tail_reads_total{from=\"database\"}").await >= 1.0, "what was there before");
    assert_eq!(sidecar.metric("livestore_delivered_events_total").await, delivered + 2.0);
    drop(live);
    eventually("it is gone", || async { streams().await == 0.0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_of_the_relay_and_an_outage_are_seen() {
    let database = Database::alone().await;
    let sidecar = Sidecar::on(&database).await;
    let device = Peer::join(&livestore_tests::relay::url(&sidecar), "a").await;
    eventually("it is counted", || async { sidecar.metric("livestore_relay_devices").await == 1.0 }).await;
    assert!(sidecar.metric("livestore_relay_messages_total").await >= 1.0);
    drop(device);
    eventually("it is gone", || async { sidecar.metric("livestore_relay_devices").await == 0.0 }).await;

    let cluster = database.cluster();
    tokio::task::block_in_place(|| cluster.pg_ctl(&["stop", "-m", "fast"]));
    eventually("it does not listen", || async { sidecar.metric("livestore_listening").await == 0.0 }).await;
    assert_eq!(sidecar.metric("livestore_listener_losses_total").await, 1.0);
    let push = tokio::spawn(
        Client::new()
            .post(format!("{}/api/electric", sidecar.http_url()))
            .body(json!({"_tag": "@livestore/sync-electric.Push", "storeId": "s", "batch": chain(0, 1)}).to_string())
            .send(),
    );
    eventually("the push waits", || async { sidecar.metric("livestore_commit_queue_bytes").await > 0.0 }).await;
    let failures = "livestore_commit_failures_total{reason=\"unavailable\"}";
    eventually("it is tried", || async { sidecar.metric(failures).await >= 1.0 }).await;
    tokio::task::block_in_place(|| cluster.pg_ctl(&["start"]));
    assert_eq!(push.await.unwrap().unwrap().status(), 200);
    eventually("it listens", || async { sidecar.metric("livestore_listening").await == 1.0 }).await;
    assert_eq!(sidecar.metric("livestore_commit_queue_bytes").await, 0.0);
    database.stop();
}

/// They are an interface, which dashboards rely on.
#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_in_the_documentation_and_the_other_way_round() {
    let (database, sidecar) = busy().await;
    database.admin().await.batch_execute("select livestore.subscribe('s')").await.unwrap();
    let _live = Caller::new(&sidecar, "cf-ws").follow("cf-ws").await.unwrap();
    Caller::new(&sidecar, "cf-ws").write("cf-ws", chain(3, 2)).await;
    eventually("all were counted once", || async {
        let names = names(&sidecar).await;
        ["livestore_delivery_lag_seconds", "livestore_subscription_lag_seconds"]
            .iter()
            .all(|name| names.contains(&name.to_string()))
    })
    .await;
    let mut there = names(&sidecar).await;
    there.sort();
    let documentation = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let (_, documentation) = documentation.split_once("## Metrics").unwrap();
    let mut documented: Vec<_> = documentation
        .lines()
        .filter_map(|line| line.strip_prefix("| `livestore_")?.split(['`', '{']).next())
        .map(|name| format!("livestore_{name}"))
        .collect();
    documented.sort();
    assert_eq!(there, documented);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_has_a_line_with_its_ids_and_without_its_token() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--log", "info"]).ready().await;
    let trace_id = "0b962dc3b22602d47c7abf3a2605b715";
    let url = format!("{}/api/electric?token=hunter2", sidecar.http_url());
    let body = json!({"_tag": "@livestore/sync-electric.Push", "storeId": "the-store", "batch": chain(0, 1)});
    let request = Client::new().post(url).header("traceparent", format!("00-{trace_id}-ab01972282fc3020-01"));
    assert_eq!(request.body(body.to_string()).send().await.unwrap().status(), 200);
    eventually("it is logged", || async { sidecar.log().contains("\"answered\"") }).await;
    let log = sidecar.log();
    let lines: Vec<Value> = log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let lines: Vec<_> = lines.iter().filter(|line| line["message"] == "answered").collect();
    assert_eq!(lines.len(), 1, "one for each request, none for /readyz: {log}");
    let (line, span) = (lines[0], &lines[0]["span"]);
    assert_eq!(line["status"], 200, "{line}");
    let milliseconds = line["milliseconds"].as_number().expect("a time").to_string();
    assert!(milliseconds.split_once('.').is_none_or(|(_, places)| places.len() <= 3), "{milliseconds}");
    let expected = json!({"name": "request", "method": "POST", "path": "/api/electric", "dialect": "electric",
                          "store": "the-store", "trace_id": trace_id});
    assert_eq!(span, &expected);
    assert!(!log.contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_of_a_connection_names_its_store_and_dialect_once() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--log", "info"]).ready().await;
    let client = Node::sync_backend().open("cf-ws", &sidecar.url(), "the-store").await;
    client.pull(None).await.unwrap();
    let log = sidecar.log();
    let line = log.lines().find(|line| line.contains("\"connected\"")).unwrap_or_else(|| panic!("{log}"));
    assert_eq!((line.matches("the-store").count(), line.matches("cf-ws").count()), (1, 1), "{line}");
}

/// The dashboard and the alerts ask only for metrics and labels that exist.
#[tokio::test(flavor = "multi_thread")]
async fn the_dashboard_and_the_alerts_name_metrics_and_labels_that_exist() {
    let (database, sidecar) = busy().await;
    database.admin().await.batch_execute("select livestore.subscribe('s')").await.unwrap();
    let _live = Caller::new(&sidecar, "cf-ws").follow("cf-ws").await.unwrap();
    Caller::new(&sidecar, "cf-ws").write("cf-ws", chain(3, 2)).await;
    eventually("all were counted once", || async {
        let metrics = sidecar.get("/metrics").await.1;
        ["livestore_delivery_lag_seconds_bucket{", "livestore_subscription_lag_seconds{"]
            .iter()
            .all(|name| metrics.contains(name))
    })
    .await;
    let (_, metrics) = sidecar.get("/metrics").await;
    let series = |name: &str| metrics.lines().find(|line| line.split(['{', ' ']).next() == Some(name));
    for file in ["docs/grafana.json", "docs/alerts.yaml"] {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let is_part = |c: char| !c.is_ascii_alphanumeric() && c != '_';
        let mut named: Vec<_> = text.split(is_part).filter(|word| word.starts_with("livestore_")).collect();
        named.retain(|name| *name != "livestore_sync");
        assert!(named.len() > 8, "{file}");
        for name in named {
            assert!(series(name).is_some(), "{file}: {name}");
        }
    }
    let alerts = std::fs::read_to_string(root().join("docs/alerts.yaml")).unwrap();
    let mut alerts: Vec<_> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let runbook = std::fs::read_to_string(root().join("docs/runbook.md")).unwrap();
    let mut explained: Vec<_> = runbook.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    alerts.sort_unstable();
    explained.sort_unstable();
    assert_eq!(alerts, explained);
    let dashboard = std::fs::read_to_string(root().join("docs/grafana.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let (expression, legend) = (target["expr"].as_str().unwrap(), target["legendFormat"].as_str().unwrap());
            let Some((_, label)) = legend.split_once("{{") else { continue };
            let label = label.split("}}").next().unwrap();
            let name = expression
                .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .find(|word| word.starts_with("livestore_"));
            let line = series(name.unwrap()).unwrap();
            // Prometheus itself says which instance it is.
            assert!(label == "instance" || line.contains(&format!("{label}=\"")), "{expression}: {label}");
        }
    }
}

/// A value that jumps from 0 at each start would look like new misfits.
#[tokio::test(flavor = "multi_thread")]
async fn misfits_of_before_are_no_new_ones_after_a_start() {
    let database = Database::new().await;
    let misfit = r#"select livestore.define_event('e', '{"type": "object"}');
        select livestore.push('s', '[{"name":"e","args":1,"seqNum":1,"parentSeqNum":0,"clientId":"c","sessionId":"s"}]')"#;
    database.admin().await.batch_execute(misfit).await.unwrap();
    let sidecar = Sidecar::on(&database).await;
    let misfits = async || {
        let (_, text) = sidecar.get("/metrics").await;
        text.lines().find_map(|line| line.strip_prefix("livestore_misfits ")).map(str::to_owned)
    };
    let first = async {
        loop {
            if let Some(first) = misfits().await {
                return first;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert_eq!(timeout(Duration::from_secs(20), first).await.as_deref(), Ok("1"));
}

/// There are metrics for 100 of them.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_subscriptions_the_one_that_is_behind_has_metrics() {
    let database = Database::new().await;
    let admin = database.admin().await;
    for statement in [
        "select livestore.subscribe('z is behind')",
        "select livestore.commit('s', 'e')",
        "select livestore.subscribe('a' || n) from generate_series(1, 101) n",
    ] {
        admin.batch_execute(statement).await.unwrap();
    }
    let sidecar = Sidecar::on(&database).await;
    let has = |text: &str, metric: &str, name: &str, value: &str| {
        let (begin, name) = (format!("livestore_subscription_{metric}{{"), format!("\"{name}\""));
        let value = format!(" {value}");
        text.lines().any(|line| line.starts_with(&begin) && line.contains(&name) && line.ends_with(&value))
    };
    eventually("its lag", async || has(&sidecar.get("/metrics").await.1, "lag_events", "z is behind", "1")).await;
    // A hundred that are as far behind come before it, and before one that is not behind but has a dead letter.
    for statement in [
        "select livestore.commit('s', 'e')",
        "select livestore.subscribe('b' || n, start => '0') from generate_series(1, 100) n",
        "select livestore.subscribe('y has failed')",
        "insert into livestore.dead_letters (subscription, partition, store_id, failures) values ('y has failed', 0, 's', 1)",
    ] {
        admin.batch_execute(statement).await.unwrap();
    }
    eventually("its dead letter", async || {
        let (_, text) = sidecar.get("/metrics").await;
        let is_there = has(&text, "dead_letters", "y has failed", "1");
        assert!(!is_there || has(&text, "lag_events", "z is behind", "2"), "{text}");
        is_there
    })
    .await;
}
