//! The requests that browsers make before they let a page talk to us, and the protocols that are spoken at all.

use livestore_tests::cluster::Database;
use livestore_tests::events::chain;
use livestore_tests::http_rpc::{ping, post, push};
use livestore_tests::rpc::Rpc;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::tokens::WITH_SECRET;
use reqwest::{Client, Method, Response};
use serde_json::json;

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

/// The status of what asks for a WebSocket with these headers.
async fn upgrade(sidecar: &Sidecar, headers: &[(&str, &str)]) -> u16 {
    let request = Client::new().get(format!("{}/?storeId=s&transport=ws", sidecar.http_url()));
    let request = request.header("upgrade", "websocket").header("sec-websocket-version", "13");
    let request = request.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_may_ask_for_a_websocket_in_two_lines() {
    let (_database, sidecar) = with(&[]).await;
    for lines in [&["Upgrade"][..], &["keep-alive", "Upgrade"], &["Upgrade", "keep-alive"], &["te, upgrade"]] {
        let headers: Vec<_> = lines.iter().map(|&line| ("connection", line)).collect();
        assert_eq!(upgrade(&sidecar, &headers).await, 101, "{lines:?}");
    }
    assert_eq!(upgrade(&sidecar, &[("connection", "keep-alive")]).await, 426);
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
async fn an_origin_may_be_listed_in_other_words_than_browsers_use() {
    let listed = "https://app.example.com:443,HTTP://Other.Example:80/,https://bücher.example";
    let (_database, sidecar) = with(&["--cors-origins", listed]).await;
    for origin in ["https://app.example.com", "http://other.example", "https://xn--bcher-kva.example"] {
        assert_eq!(serves(&sidecar, origin).await, [true; 3], "{origin}");
    }
    for origin in ["http://app.example.com", "https://app.example.com:444", "https://other.example"] {
        assert_eq!(serves(&sidecar, origin).await, [false; 3], "{origin}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_the_internet_may_be_let_into_a_private_network() {
    let (_database, sidecar) = with(&["--cors-origins", "https://app.example.com"]).await;
    let asked = |origin: &'static str| {
        let request = Client::new().request(Method::OPTIONS, format!("{}/api/electric", sidecar.http_url()));
        let request = request.header("origin", origin).header("access-control-request-method", "POST");
        request.header("access-control-request-private-network", "true").send()
    };
    let name = "access-control-allow-private-network";
    assert_eq!(header(&asked("https://app.example.com").await.unwrap(), name).as_deref(), Some("true"));
    assert_eq!(header(&asked("https://evil.example").await.unwrap(), name), None);
    assert_eq!(header(&preflight(&sidecar, "https://app.example.com").await, name), None, "nobody asked");
}

/// The name of the page resolves to this machine: its GETs are of the same origin, and have no Origin.
#[tokio::test(flavor = "multi_thread")]
async fn without_authentication_pages_of_other_names_than_this_machines_read_nothing() {
    const PATHS: [&str; 6] =
        ["/", "/api/electric", "/api/s2", "/v1/streams", "/v1/shape?table=eventlog_6_s&offset=-1", "/nowhere"];
    let get = |sidecar: &Sidecar, path: &str, host: &str| {
        Client::new().get(format!("{}{path}", sidecar.http_url())).header("host", host).send()
    };
    let pull = json!({"storeId": "s", "s2SeqNum": "from-start", "live": false}).to_string();
    let (_database, sidecar) = with(&[]).await;
    let pushed = post(&sidecar, "s", push("s", chain(0, 1))).send().await.unwrap();
    assert_eq!(pushed.status(), 200);
    for path in PATHS {
        for host in ["evil.example", "evil.example:8787", "127.0.0.1.evil.example", "192.168.0.1:8787"] {
            let response = get(&sidecar, path, host).await.unwrap();
            assert_eq!(response.status(), 421, "{path} {host}");
            let text = response.text().await.unwrap();
            assert!(text.contains("set up --auth jwt"), "{text}");
        }
        for host in ["localhost", "LOCALHOST:8787", "app.localhost:1", "127.0.0.2:8787", "[::1]:8787", "sidecar:8787"] {
            assert_ne!(get(&sidecar, path, host).await.unwrap().status(), 421, "{path} {host}");
        }
    }
    let s2 = get(&sidecar, &format!("/api/s2?args={pull}"), "localhost").await.unwrap().text().await.unwrap();
    assert!(s2.contains("event: batch"), "{s2}");
    let url = format!("{}/api/s2?args={pull}", sidecar.http_url());
    let refused = Client::new().get(url).header("host", "evil.example").header("accept", "text/event-stream");
    let refused = refused.send().await.unwrap().text().await.unwrap();
    assert!(refused.starts_with("event: error"), "{refused}");
    assert_eq!(upgrade(&sidecar, &[("connection", "upgrade"), ("host", "evil.example")]).await, 421);
    // The paths for load balancers reveal nothing of events, so they answer to any host.
    for probe in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(get(&sidecar, probe, "10.0.0.1:8787").await.unwrap().status(), 200, "{probe}");
    }

    let (_database, sidecar) = with(&["--allowed-hosts", "Sync.example.com,10.0.2.2"]).await;
    assert_eq!(get(&sidecar, "/", "sync.example.com").await.unwrap().status(), 200);
    assert_eq!(get(&sidecar, "/", "evil.example").await.unwrap().status(), 421);
    let (_database, with_tokens) = with(&[&WITH_SECRET[..], &["--allowed-hosts", "sync.example.com"]].concat()).await;
    let text = get(&with_tokens, "/", "evil.example").await.unwrap().text().await.unwrap();
    assert!(text.contains("add it to --allowed-hosts") && !text.contains("--auth jwt"), "{text}");
    let emulator = [("connection", "upgrade"), ("host", "10.0.2.2:8787"), ("origin", "http://10.0.2.2:8787")];
    assert_eq!(upgrade(&sidecar, &emulator).await, 101, "an app on Android's emulator");
    for arguments in [&["--insecure-no-auth"][..], &["--allowed-hosts", "*"], &WITH_SECRET] {
        let (_database, sidecar) = with(arguments).await;
        assert_eq!(get(&sidecar, "/", "sync.example.com").await.unwrap().status(), 200, "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_take_no_answer_for_something_else() {
    let (_database, sidecar) = with(&[]).await;
    for path in ["/", "/healthz", "/metrics", "/nowhere", "/api/electric", "/api/s2", "/v1/streams", "/v1/shape"] {
        let response = reqwest::get(format!("{}{path}", sidecar.http_url())).await.unwrap();
        assert_eq!(header(&response, "x-content-type-options").as_deref(), Some("nosniff"), "{path}");
        assert_eq!(header(&response, "cross-origin-resource-policy").as_deref(), Some("same-origin"), "{path}");
    }
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
        (["--allowed-hosts", "https://app.example.com"], "not a host"),
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
