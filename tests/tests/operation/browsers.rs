//! What browsers ask before they let a page talk to us, and which protocols are spoken at all.

use livestore_tests::cluster::Database;
use livestore_tests::http_rpc::{ping, post};
use livestore_tests::rpc::Rpc;
use livestore_tests::sidecar::{Sidecar, Start};
use reqwest::{Method, Response};

async fn with(arguments: &[&str]) -> (Database, Sidecar) {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(arguments).ready().await;
    (database, sidecar)
}

async fn preflight(sidecar: &Sidecar, origin: &str) -> Response {
    let url = format!("{}/?storeId=s&transport=http", sidecar.http_url());
    reqwest::Client::new()
        .request(Method::OPTIONS, url)
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type,x-livestore-store-id")
        .send()
        .await
        .unwrap()
}

fn header(response: &Response, name: &str) -> Option<String> {
    response.headers().get(name).map(|value| value.to_str().unwrap().into())
}

/// Whether a page of this origin gets through: the preflight, the request itself, and a WebSocket.
async fn serves(sidecar: &Sidecar, origin: &str) -> [bool; 3] {
    let allow = "access-control-allow-origin";
    let matches = |value: Option<String>| value.is_some_and(|value| value == origin || value == "*");
    let preflight = preflight(sidecar, origin).await;
    assert_eq!(preflight.status(), 204);
    let asked = matches(header(&preflight, allow));
    if asked {
        assert_eq!(header(&preflight, "access-control-allow-headers").unwrap(), "content-type,x-livestore-store-id");
        assert!(header(&preflight, "access-control-allow-methods").unwrap().contains("POST"));
    }
    let response = post(sidecar, "s", ping("s")).header("origin", origin).send().await.unwrap();
    let answered = response.status() == 200 && matches(header(&response, allow));
    if !answered {
        assert_eq!(response.status(), 403);
        assert!(response.text().await.unwrap().contains("--cors-origins"));
    }
    let url = format!("{}/?storeId=s&transport=ws", sidecar.url());
    let connected = Rpc::connect_with(&url, &[("origin", origin)]).await.is_ok();
    let url = format!("{}/websocket?storeId=s", sidecar.url());
    assert_eq!(Rpc::connect_with(&url, &[("origin", origin)]).await.is_ok(), connected);
    [asked, answered, connected]
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_setting_only_pages_of_this_machine_are_served() {
    let (_database, sidecar) = with(&[]).await;
    assert_eq!(serves(&sidecar, "http://localhost:5173").await, [true; 3]);
    assert_eq!(serves(&sidecar, "https://app.example.com").await, [false; 3]);
    assert_eq!(serves(&sidecar, "null").await, [false; 3]);
    assert_eq!(header(&preflight(&sidecar, "http://localhost").await, "access-control-allow-credentials"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_origins_are_served_with_cookies_and_no_others() {
    let (_database, sidecar) = with(&["--cors-origins", "https://app.example.com,https://other.example"]).await;
    assert_eq!(serves(&sidecar, "https://app.example.com").await, [true; 3]);
    assert_eq!(serves(&sidecar, "https://other.example").await, [true; 3]);
    for foreign in ["https://example.com", "http://app.example.com", "http://localhost:5173"] {
        assert_eq!(serves(&sidecar, foreign).await, [false; 3], "{foreign}");
    }
    let preflight = preflight(&sidecar, "https://app.example.com").await;
    assert_eq!(header(&preflight, "access-control-allow-credentials").unwrap(), "true");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_origin_is_served_if_told_so_but_without_cookies() {
    for arguments in [&["--cors-origins", "*"][..], &["--insecure-no-auth"]] {
        let (_database, sidecar) = with(arguments).await;
        assert_eq!(serves(&sidecar, "https://app.example.com").await, [true; 3]);
        let preflight = preflight(&sidecar, "https://app.example.com").await;
        assert_eq!(header(&preflight, "access-control-allow-origin").unwrap(), "*");
        assert_eq!(header(&preflight, "access-control-allow-credentials"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_origin_or_no_dialect_ends_it_with_2() {
    for (arguments, why) in [
        (["--cors-origins", "app.example.com"], "not an origin"),
        (["--cors-origins", "https://app.example.com/path"], "not an origin"),
        (["--dialects", "cf-ws,smoke-signals"], "smoke-signals"),
        (["--forward-headers", "not a header"], "--forward-headers"),
        (["--admin-secret", ""], "--admin-secret"),
    ] {
        let output = Start::new("postgres://localhost").arguments(&arguments).command().output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {log}");
        assert!(log.contains(why), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn protocols_can_be_switched_off() {
    for (dialects, open) in [("cf-ws", [true, false, false]), ("cf-http,cf-0.3", [false, true, true])] {
        let (_database, sidecar) = with(&["--dialects", dialects]).await;
        let [ws, http, old] = open;
        let try_ws = |path: &str| {
            let url = format!("{}{path}", sidecar.url());
            async move { Rpc::connect_with(&url, &[]).await }
        };
        for (path, is_open) in [("/?storeId=s&transport=ws", ws), ("/websocket?storeId=s", old)] {
            match try_ws(path).await {
                Ok(_) => assert!(is_open, "{path}"),
                Err((status, body)) => {
                    assert!(!is_open && status == 404 && body.contains("--dialects"), "{path}: {status} {body}");
                }
            }
        }
        let status = post(&sidecar, "s", ping("s")).send().await.unwrap().status();
        assert_eq!(status, if http { 200 } else { 404 });
        assert_eq!(sidecar.get("/healthz").await.0, 200);
    }
}
