//! Endpoints that are written with a slash too many, or reach the sidecar with a prefix that a proxy was to take away.

use std::time::Duration;

use livestore_tests::client::Node;
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, numbers};
use livestore_tests::relay::Peer;
use livestore_tests::shape::Answer;
use livestore_tests::sidecar::{Sidecar, Start};
use reqwest::{Client, Method};
use serde_json::json;

/// The number of requests that were answered so far.
fn requests(sidecar: &Sidecar) -> usize {
    sidecar.log().matches("\"message\":\"answered\"").count()
}

/// Options of a client of this endpoint that asks for nothing by itself.
fn endpoint(sidecar: &Sidecar, path: &str) -> serde_json::Value {
    json!({"options": {"endpoint": format!("{}{path}", sidecar.http_url()), "ping": {"enabled": false}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slash_too_many_leads_to_the_same_endpoint() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let node = Node::sync_backend();
    for dialect in ["electric", "s2"] {
        for (path, number) in [(format!("/api/{dialect}/"), 0), (format!("//api/{dialect}"), 1)] {
            let store = format!("{dialect}-{number}");
            let client = node.open_with(dialect, &sidecar.url(), &store, endpoint(&sidecar, &path)).await;
            let before = requests(&sidecar);
            client.push(chain(0, 2)).await.unwrap();
            let mut live = client.live(None).await;
            assert_eq!(numbers(&live.events(2).await), [1, 2], "{path}");
            assert!(live.is_quiet_for(Duration::from_secs(1)).await);
            live.stop().await;
            assert!(requests(&sidecar) - before < 10, "{} requests for {path}", requests(&sidecar) - before);
        }
    }
    for path in ["/v1/health/", "//v1/shape/?table=eventlog_6_s&offset=-1"] {
        assert_eq!(sidecar.get(path).await.0, 200, "{path}");
    }
    // A proxy that keeps strangers from these compares the path as it is.
    for path in ["/healthz/", "//readyz", "/metrics/"] {
        assert_eq!(sidecar.get(path).await.0, 404, "{path}");
    }
    Peer::connect(&format!("{}//api/v1/livestore/sync/", sidecar.url()), "a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_that_nobody_took_away_is_an_error_that_says_so() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let node = Node::sync_backend();
    for dialect in ["electric", "s2"] {
        for (path, expected) in [
            (format!("/sync/api/{dialect}"), format!("/api/{dialect} is one, let the proxy in front take /sync away")),
            ("/elsewhere".into(), "no such endpoint, see /".into()),
        ] {
            let client = node.open_with(dialect, &sidecar.url(), "s", endpoint(&sidecar, &path)).await;
            let before = requests(&sidecar);
            let error = client.pull(None).await.unwrap_err().to_string();
            assert!(error.contains(&expected), "{dialect} {path}: {error}");
            let end = client.live(None).await.next().await;
            assert!(end["event"] == "fail" && end.to_string().contains(&expected), "{dialect} {path}: {end}");
            client.push(chain(0, 1)).await.unwrap_err();
            tokio::time::sleep(Duration::from_secs(1)).await;
            let count = requests(&sidecar) - before;
            assert!(count < 15, "{count} requests of {dialect} for {path}");
        }
    }
    let answer = Answer::to(Client::new().get(format!("{}/sync/api/s2", sidecar.http_url()))).await;
    assert_eq!((answer.status, answer.header("content-type")), (404, Some("text/plain; charset=utf-8")));
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_answered_where_get_is() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).ready().await;
    for path in ["/", "/healthz", "/readyz", "/metrics", "/v1/health", "/nowhere", "/?storeId=s&transport=http"] {
        let url = format!("{}{path}", sidecar.http_url());
        let get = Client::new().get(&url).send().await.unwrap();
        let head = Client::new().request(Method::HEAD, &url).send().await.unwrap();
        assert_eq!(head.status(), get.status(), "{path}");
        assert_eq!(head.headers().get("content-type"), get.headers().get("content-type"), "{path}");
        assert!(head.text().await.unwrap().is_empty(), "{path}");
    }
}
