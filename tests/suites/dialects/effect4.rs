//! A client made of `effect` 4 from npm: the RPC client of LiveStore's development line, with the schemas of sync-cf. Its
//! wire has number ids and other shapes of failures; a failure in the wrong shape is a crash there.

use std::time::Duration;

use livestore_tests::client::Node;
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event, numbers, up_to};
use livestore_tests::eventually;
use livestore_tests::sidecar::{Sidecar, Start};
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

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_sidecar_ends_the_stream_and_the_client_comes_back() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let (url, port) = (sidecar.url(), sidecar.port());
    let client = Node::effect4().open("cf-ws", &url, "s").await;
    client.push(chain(0, 2)).await.unwrap();
    let mut live = client.live(None).await;
    assert_eq!(numbers(&live.events(2).await), [1, 2]);
    assert!(sidecar.terminate().await.success());
    assert_eq!(live.end().await["error"]["_tag"], "IsOfflineError");
    let _sidecar = Start::new(database.url("sidecar")).port(port).ready().await;
    eventually("the client pulls again", || async { client.pull(Some(2)).await.is_ok() }).await;
    let mut live = client.live(Some(2)).await;
    live.page().await;
    client.push(chain(2, 1)).await.unwrap();
    assert_eq!(numbers(&live.events(1).await), [3]);
    assert!(live.is_quiet_for(Duration::from_millis(200)).await);
}
