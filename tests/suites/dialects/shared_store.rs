//! One store, clients of every protocol: they see one log.

use std::net::TcpListener;
use std::time::Duration;

use livestore_tests::client::{Client, Node};
use livestore_tests::cluster::Database;
use livestore_tests::device::Device;
use livestore_tests::events::{event, numbers, up_to};
use livestore_tests::sidecar::{Sidecar, Start};
use serde_json::{Value, json};

/// The head that an error of a push names, or that a pull finds.
async fn head_after(client: &Client, error: &Value) -> i64 {
    match error["_tag"].as_str() {
        Some("ServerAheadError") => return error["minimumExpectedNum"].as_i64().unwrap(),
        // The clients of sync-electric and sync-s2 do not pass on the head that the server told them.
        Some("UnknownError") => {
            assert!(error.to_string().contains("409"), "{error}");
            let events = client.pull(None).await.unwrap();
            return events.last().unwrap()["seqNum"].as_i64().unwrap();
        }
        _ => {}
    }
    // 0.3 has only a text.
    let text = error.to_string();
    let (_, rest) = text.split_once("but expected e").unwrap_or_else(|| panic!("{error}"));
    rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

/// Appends events one by one, each onto the head that there is.
async fn write(client: Client, name: &str, count: i64) {
    let (mut head, mut written) = (0, 0);
    while written < count {
        match client.push(json!([event(head, name, json!({"n": written}))])).await {
            Ok(()) => (head, written) = (head + 1, written + 1),
            Err(error) => head = head_after(&client, &error).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_every_protocol_see_one_order_while_all_write() {
    const EACH: i64 = 80;
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let (node, old) = (Node::sync_backend(), Node::sync_backend_0_3());
    let mut clients = Vec::new();
    for dialect in ["cf-ws", "cf-http", "cf-0.3", "electric", "s2"] {
        let node = if dialect == "cf-0.3" { &old } else { &node };
        clients.push((dialect, node.open(dialect, &sidecar.url(), "shared").await));
    }
    let mut lives = Vec::new();
    for (_, client) in &clients {
        lives.push(client.live(None).await);
    }
    let writers: Vec<_> =
        clients.iter().map(|(dialect, client)| tokio::spawn(write(client.clone(), dialect, EACH))).collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let all = 5 * EACH;
    let mut logs = Vec::new();
    for live in &mut lives {
        logs.push(live.events(all as usize).await);
    }
    for (_, client) in &clients {
        logs.push(client.pull(None).await.unwrap());
    }
    for log in &mut logs {
        // sync-electric and sync-s2 do not have the time of an event.
        log.iter_mut().for_each(|event| drop(event.as_object_mut().unwrap().remove("createdAt")));
        assert_eq!(numbers(log), up_to(all));
    }
    assert!(logs.iter().all(|log| *log == logs[0]));
    for (dialect, _) in &clients {
        let own = logs[0].iter().filter(|event| event["name"] == *dialect);
        let own: Vec<_> = own.map(|event| event["args"]["n"].as_i64().unwrap()).collect();
        assert_eq!(own, (0..EACH).collect::<Vec<_>>(), "{dialect}");
    }
}

/// Appends events in batches, rebasing onto the events that its own live pull brings, as LiveStore does; then reads on until it
/// has seen so many. Returns the events that it saw.
async fn write_and_follow(client: Client, name: String, count: i64, total: i64) -> Vec<Value> {
    const BATCH: i64 = 20;
    let mut live = client.live(None).await;
    let (mut seen, mut head, mut written) = (Vec::<Value>::new(), 0, 0);
    while written < count {
        let batch: Value = (0..BATCH).map(|n| event(head + n, &name, json!({"n": written + n}))).collect();
        if client.push(batch).await.is_ok() {
            (head, written) = (head + BATCH, written + BATCH);
            continue;
        }
        loop {
            seen.extend(live.page().await);
            let last = seen.last().map_or(0, |event| event["seqNum"].as_i64().unwrap());
            if last > head {
                head = last;
                break;
            }
        }
    }
    while (seen.len() as i64) < total {
        seen.extend(live.page().await);
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_of_10_000_events_on_three_protocols_end_with_the_same_log() {
    const EACH: i64 = 3_340;
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let writers: Vec<_> = ["cf-ws", "electric", "s2"]
        .into_iter()
        .map(|dialect| {
            let url = sidecar.url();
            tokio::spawn(async move {
                let client = Node::sync_backend().open(dialect, &url, "shared").await;
                write_and_follow(client, dialect.into(), EACH, 3 * EACH).await
            })
        })
        .collect();
    let mut logs = Vec::new();
    for writer in writers {
        let mut log = writer.await.unwrap();
        log.iter_mut().for_each(|event| drop(event.as_object_mut().unwrap().remove("createdAt")));
        assert_eq!(numbers(&log), up_to(3 * EACH));
        logs.push(log);
    }
    assert!(logs[0] == logs[1] && logs[1] == logs[2]);
    let each = "select count(*) filter (where n = own) = count(*) and count(*) = 3 * $1::bigint from (
                    select (args->>'n')::bigint as n, row_number() over (partition by name order by seq_num) - 1 as own
                    from livestore.events
                ) events";
    let is_whole: bool = database.admin().await.query_one(each, &[&EACH]).await.unwrap().get(0);
    assert!(is_whole, "every event of every writer is there once, in its order");
}

#[tokio::test(flavor = "multi_thread")]
async fn full_clients_of_every_protocol_share_their_tables() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let (port, url) = (sidecar.port(), sidecar.http_url());
    let (ws, http, old, electric, s2) = tokio::join!(
        Device::open("ws", port),
        Device::open_over_http("http", port),
        Device::open_0_3("old", port),
        Device::open_electric("electric", &url),
        Device::open_s2("s2", &url)
    );
    let mut ids = Vec::new();
    let devices = [&old, &http, &ws, &electric, &s2];
    for (id, device) in ["1", "2", "3", "4", "5", "6", "7", "8", "9"].into_iter().zip(devices.into_iter().cycle()) {
        device.create(id).await;
        ids.push(id);
        for device in devices {
            device.settles(&ids).await;
        }
    }
    let writers = "select string_agg(client_id || (args->'id')::text, ' ' order by seq_num) from livestore.events";
    let writers: String = database.admin().await.query_one(writers, &[]).await.unwrap().get(0);
    assert_eq!(writers, r#"old"1" http"2" ws"3" electric"4" s2"5" old"6" http"7" ws"8" electric"9""#);
}

/// A client of 0.4 over HTTP stops syncing for good at the first pull that fails: none may.
#[tokio::test(flavor = "multi_thread")]
async fn full_clients_over_http_survive_restarts_of_postgres_and_of_the_sidecar() {
    let database = Database::alone().await;
    // Held by somebody else, as systemd does it: no connection is refused while the sidecar is away.
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let start = || Start::new(database.url("sidecar")).socket(&socket);
    let mut sidecar = start().ready().await;
    assert_eq!(sidecar.port(), port);
    let url = sidecar.http_url();
    let (http, electric, s2, ws) = tokio::join!(
        Device::open_over_http("http", port),
        Device::open_electric("electric", &url),
        Device::open_s2("s2", &url),
        Device::open("ws", port)
    );
    let settle = async |ids: &[&str]| {
        tokio::join!(http.settles(ids), electric.settles(ids), s2.settles(ids), ws.settles(ids));
    };
    http.create("1").await;
    settle(&["1"]).await;

    let cluster = database.cluster();
    tokio::task::spawn_blocking(|| cluster.pg_ctl(&["stop", "-m", "fast"])).await.unwrap();
    http.create("2").await;
    tokio::time::sleep(Duration::from_secs(12)).await;
    tokio::task::spawn_blocking(|| cluster.pg_ctl(&["start"])).await.unwrap();
    settle(&["1", "2"]).await;
    electric.create("3").await;
    settle(&["1", "2", "3"]).await;

    for id in ["4", "5", "6"] {
        assert!(sidecar.terminate().await.success());
        tokio::time::sleep(Duration::from_secs(2)).await;
        sidecar = start().ready().await;
        ws.create(id).await;
        let ids: Vec<_> = ["1", "2", "3", "4", "5", "6"].into_iter().take_while(|other| *other <= id).collect();
        settle(&ids).await;
    }
    http.create("7").await;
    settle(&["1", "2", "3", "4", "5", "6", "7"]).await;
    electric.create("8").await;
    settle(&["1", "2", "3", "4", "5", "6", "7", "8"]).await;
    s2.create("9").await;
    settle(&["1", "2", "3", "4", "5", "6", "7", "8", "9"]).await;
    drop(sidecar);
    database.stop();
}
