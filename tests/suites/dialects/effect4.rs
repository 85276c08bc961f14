//! A client made of `effect` 4 from npm: the RPC client of LiveStore's development line, with the schemas of sync-cf. Its
//! wire has number ids and other shapes of failures; a failure in the wrong shape is a crash there.

use std::time::Duration;

use livestore_tests::breaker::Breaker;
use livestore_tests::client::{Client, Node};
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event, numbers, up_to};
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::{eventually, free_port};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn pushes_pulls_and_follows() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let node = Node::effect4();
    let (writer, reader) =
        (node.open("cf-ws", &sidecar.url(), "s").await, node.open("cf-ws", &sidecar.url(), "s").await);
    let mut live = reader.live(None).await;
    assert!(live.page().await.is_empty());
    writer.push(chain(0, 1)).await.unwrap();
    writer.push(chain(1, 99)).await.unwrap();
    writer.push(json!([])).await.unwrap();
    assert_eq!(numbers(&live.events(100).await), up_to(100));
    assert_eq!(numbers(&writer.pull(None).await.unwrap()), up_to(100));
    assert_eq!(numbers(&writer.pull(Some(97)).await.unwrap()), [98, 99, 100]);
    live.stop().await;
    let mut again = reader.live(Some(98)).await;
    assert_eq!(numbers(&again.events(2).await), [99, 100]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_args_arrives_with_null() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    database.admin().await.execute("select livestore.commit('s', 'bare')", &[]).await.unwrap();
    for dialect in ["cf-ws", "cf-http"] {
        let client = Node::effect4().open(dialect, &sidecar.url(), "s").await;
        let events = client.pull(None).await.unwrap();
        assert_eq!(events[0]["args"], json!(null));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_pulls_and_fails_over_http() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let client = Node::effect4().open("cf-http", &sidecar.url(), "s").await;
    assert!(client.pull(None).await.unwrap().is_empty());
    client.push(chain(0, 250)).await.unwrap();
    assert_eq!(numbers(&client.pull(None).await.unwrap()), up_to(250));
    assert_eq!(numbers(&client.pull(Some(248)).await.unwrap()), [249, 250]);
    let ahead = client.push(json!([event(2, "late", json!({}))])).await.unwrap_err();
    assert_eq!(
        (&ahead["_tag"], &ahead["minimumExpectedNum"], &ahead["providedNum"]),
        (&json!("ServerAheadError"), &json!(250), &json!(2))
    );
    let unknown = client.push(json!([event(250, "a", json!({})), event(9, "b", json!({}))])).await.unwrap_err();
    assert_eq!(unknown["_tag"], "UnknownError", "{unknown}");
    database.admin().await.execute("select livestore.reset_store('s')", &[]).await.unwrap();
    for mismatch in [client.pull(Some(250)).await.unwrap_err(), client.push(chain(250, 1)).await.unwrap_err()] {
        assert_eq!(mismatch["_tag"], "BackendIdMismatchError");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_a_form_that_it_understands() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let client = Node::effect4().open("cf-ws", &sidecar.url(), "s").await;
    client.pull(None).await.unwrap();
    client.push(chain(0, 5)).await.unwrap();

    let ahead = client.push(json!([event(2, "late", json!({}))])).await.unwrap_err();
    assert_eq!(
        (&ahead["_tag"], &ahead["minimumExpectedNum"], &ahead["providedNum"]),
        (&json!("ServerAheadError"), &json!(5), &json!(2))
    );

    let unknown = client.push(json!([event(5, "a", json!({})), event(9, "b", json!({}))])).await.unwrap_err();
    assert_eq!(unknown["_tag"], "UnknownError", "{unknown}");

    let mut live = client.live(Some(5)).await;
    live.page().await;
    let id: String = database.admin().await.query_one("select livestore.reset_store('s')", &[]).await.unwrap().get(0);
    for mismatch in [
        live.end().await["error"].clone(),
        client.pull(Some(5)).await.unwrap_err(),
        client.push(chain(5, 1)).await.unwrap_err(),
    ] {
        assert_eq!((&mismatch["_tag"], &mismatch["expected"]), (&json!("BackendIdMismatchError"), &json!(id)));
    }
}

/// A client that pings often, and so knows soon that its network is dead.
async fn watchful(url: &str, interval: Duration) -> Client {
    let options = json!({"ping": {"requestInterval": interval.as_millis()}});
    Node::effect4().open_with("cf-ws", url, "s", json!({"options": options})).await
}

async fn is_connected(client: &Client) -> bool {
    client.call("isConnected", json!({})).await.unwrap() == true
}

/// As upstream has it: in an error of Effect 4, LiveStore does not recognize a connection that was lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_closed_ends_its_live_pull_for_good_though_it_reconnects() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let (url, port) = (sidecar.url(), sidecar.port());
    let client = Node::effect4().open("cf-ws", &url, "s").await;
    client.push(chain(0, 2)).await.unwrap();
    let mut live = client.live(None).await;
    assert_eq!(numbers(&live.events(2).await), [1, 2]);
    assert!(sidecar.terminate().await.success());
    let end = live.end().await;
    assert_eq!((&end["event"], &end["error"]["_tag"]), (&json!("fail"), &json!("UnknownError")), "{end}");
    let _sidecar = Start::new(database.url("sidecar")).port(port).ready().await;
    eventually("it reconnects", || is_connected(&client)).await;
    client.push(chain(2, 1)).await.unwrap();
    assert_eq!(numbers(&client.pull(Some(2)).await.unwrap()), [3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_database_goes_unnoticed() {
    let database = Database::new().await;
    let breaker = Breaker::to(database.cluster().port()).await;
    let sidecar = Start::new(database.url_at("sidecar", breaker.port())).ready().await;
    let client = watchful(&sidecar.url(), Duration::from_secs(3)).await;
    client.push(chain(0, 1)).await.unwrap();
    let mut live = client.live(None).await;
    assert_eq!(numbers(&live.events(1).await), [1]);
    let outage = breaker.cut_for(Duration::from_secs(10));
    let watch = async {
        for _ in 0..90 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(is_connected(&client).await, "pings are answered");
        }
        client.push(chain(1, 1)).await.unwrap();
    };
    tokio::join!(outage, watch);
    assert_eq!(numbers(&live.events(1).await), [2]);
    database.admin().await.execute("select livestore.push('s', $1)", &[&chain(2, 1)]).await.unwrap();
    assert_eq!(numbers(&live.events(1).await), [3]);
}

/// A push that waits too long would cost another client its connection, and this one its live pull.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_the_database_does_not_take_leaves_its_live_pull_alive() {
    let database = Database::new().await;
    let breaker = Breaker::to(database.cluster().port()).await;
    let url = database.url_at("sidecar", breaker.port());
    let sidecar = Start::new(url).arguments(&["--push-timeout", "1s"]).ready().await;
    let client = Node::effect4().open("cf-ws", &sidecar.url(), "s").await;
    client.push(chain(0, 2)).await.unwrap();
    let mut live = client.live(None).await;
    assert_eq!(numbers(&live.events(2).await), [1, 2]);
    breaker.cut();
    assert_eq!(
        client.push(chain(2, 1)).await.unwrap_err()["_tag"],
        "UnknownError",
        "after which LiveStore pushes again"
    );
    assert!(is_connected(&client).await);
    breaker.mend();
    eventually("it is pushed", || async { client.push(chain(2, 1)).await.is_ok() }).await;
    assert_eq!(numbers(&live.events(1).await), [3]);
}

/// The client reconnects without asking for its pull again.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_network_that_stalled_it_is_asked_to_pull_again() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let network = Breaker::to(sidecar.port()).await;
    let client = watchful(&format!("ws://127.0.0.1:{}", network.port()), Duration::from_secs(1)).await;
    client.push(chain(0, 2)).await.unwrap();
    let mut live = client.live(None).await;
    assert_eq!(numbers(&live.events(2).await), [1, 2]);
    network.stall();
    eventually("it notices", || async { !is_connected(&client).await }).await;
    database.admin().await.execute("select livestore.push('s', $1)", &[&chain(2, 1)]).await.unwrap();
    network.mend();
    assert_eq!(numbers(&live.events(1).await), [3]);
    client.push(chain(3, 1)).await.unwrap();
    assert_eq!(numbers(&live.events(1).await), [4]);
}

/// With a delay that is long enough for a client to leave by itself, nothing ends its live pull.
#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_with_a_long_delay_leaves_its_live_pull_alive() {
    let database = Database::new().await;
    let port = free_port();
    let start = || Start::new(database.url("sidecar")).port(port).arguments(&["--reuse-port"]);
    let start = || start().environment("LIVESTORE_SHUTDOWN_DELAY", "20s");
    let old = start().ready().await;
    let client = watchful(&old.url(), Duration::from_secs(1)).await;
    client.push(chain(0, 2)).await.unwrap();
    let mut live = client.live(None).await;
    assert_eq!(numbers(&live.events(2).await), [1, 2]);
    let new = start().serve();
    old.signal("TERM");
    eventually("it leaves", || async { !is_connected(&client).await }).await;
    eventually("it comes to the next one", || is_connected(&client)).await;
    database.admin().await.execute("select livestore.push('s', $1)", &[&chain(2, 1)]).await.unwrap();
    assert_eq!(numbers(&live.events(1).await), [3]);
    assert!(old.terminate().await.success());
    eventually("it pushes", || async { client.push(chain(3, 1)).await.is_ok() }).await;
    assert_eq!(numbers(&live.events(1).await), [4]);
    drop(new);
}
