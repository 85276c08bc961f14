//! Connections that ask for too much: too many of them, or too slow to say what they want.

use std::time::{Duration, Instant};

use livestore_tests::cluster::Database;
use livestore_tests::dialects::Caller;
use livestore_tests::events::chain;
use livestore_tests::http_rpc::ping;
use livestore_tests::rpc::Rpc;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::{PATIENCE, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

async fn start(arguments: &[&str]) -> (Database, Sidecar) {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(arguments).ready().await;
    (database, sidecar)
}

async fn connect(sidecar: &Sidecar) -> TcpStream {
    TcpStream::connect(("127.0.0.1", sidecar.port())).await.unwrap()
}

/// All that the server says until it closes.
async fn read_to_end(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    // A reset is an end, too.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut text)).await.expect("it closes");
    String::from_utf8_lossy(&text).into()
}

async fn is_served(sidecar: &Sidecar, head: i64) {
    let answer = Caller::new(sidecar, "s").write("electric", chain(head, 1)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_drips_the_head_of_a_request_is_disconnected() {
    let (_database, sidecar) = start(&["--head-timeout", "2s", "--idle-close", "2s"]).await;
    let since = Instant::now();
    let mut drip = connect(&sidecar).await;
    drip.write_all(b"GET /healthz HTTP/1.1\r\nhost: h\r\n").await.unwrap();
    let mut silent = connect(&sidecar).await;
    silent.write_all(b"").await.unwrap();
    let mut kept = connect(&sidecar).await;
    kept.write_all(b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    while timeout(PATIENCE, async { drip.write_all(b"x: y\r\n").await.is_ok() }).await.unwrap() {
        assert!(since.elapsed() < PATIENCE, "never");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(since.elapsed() >= Duration::from_secs(2));
    assert!(read_to_end(silent).await.is_empty());
    assert!(read_to_end(kept).await.ends_with("ok\n"));
    is_served(&sidecar, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_no_head_that_takes_long() {
    let (_database, sidecar) = start(&["--head-timeout", "1s"]).await;
    let mut rpc = Rpc::open(&sidecar.url(), "s").await;
    rpc.pull("live".into(), "s", true).await;
    rpc.frame().await;
    assert!(rpc.is_quiet_for(Duration::from_secs(3)).await);
    is_served(&sidecar, 0).await;
    assert!(rpc.frame().await.to_string().contains("seqNum"));
}

/// Clients over HTTP send their next request on a connection that they have; some stop for good when they find it closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_meets_a_shutdown_on_a_kept_connection_is_answered() {
    let (_database, sidecar) = start(&[]).await;
    let request = b"GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n";
    let (mut kept, mut fresh) = (connect(&sidecar).await, connect(&sidecar).await);
    kept.write_all(request).await.unwrap();
    assert!(kept.read(&mut [0; 1024]).await.unwrap() > 0);
    sidecar.signal("TERM");
    let answer = loop {
        kept.write_all(request).await.unwrap();
        let mut text = vec![0; 1024];
        let length = timeout(PATIENCE, kept.read(&mut text)).await.unwrap().unwrap();
        let answer = String::from_utf8_lossy(&text[..length]).to_string();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ok\n"), "{answer:?}");
        if answer.contains("connection: close") {
            break answer;
        }
    };
    fresh.write_all(request).await.unwrap();
    assert_eq!(read_to_end(fresh).await.len(), answer.len());
    assert!(read_to_end(kept).await.is_empty());
    assert!(sidecar.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_told_so_and_places_come_back() {
    let (_database, sidecar) = start(&["--max-connections", "3"]).await;
    let url = sidecar.url();
    let (first, _second, _third) = (Rpc::open(&url, "s").await, Rpc::open(&url, "s").await, Rpc::open(&url, "s").await);
    eventually("no place is left", || async { sidecar.get("/readyz").await.0 == 503 }).await;
    let (status, text) = sidecar.get("/readyz").await;
    assert_eq!((status, &*text), (503, "too many connections: close some, or try later"));
    assert_eq!(sidecar.get("/healthz").await, (200, "ok\n".into()), "to restart it would help nobody");
    eventually("it is logged", || async { sidecar.log().contains("connections are refused") }).await;
    drop(first);
    eventually("a place is free", || async { sidecar.get("/readyz").await.0 == 200 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_half_open_connections_keep_nobody_else_out() {
    rlimit::increase_nofile_limit(20_000).unwrap();
    let (_database, sidecar) = start(&["--head-timeout", "40s"]).await;
    is_served(&sidecar, 0).await;
    let (memory, sockets) = (sidecar.memory(), sidecar.sockets());
    let mut half_open = Vec::new();
    for number in 0..5000 {
        let mut stream = connect(&sidecar).await;
        if number % 2 == 0 {
            stream.write_all(b"POST /api/electric HTTP/1.1\r\nhost: h\r\ncontent-le").await.unwrap();
        }
        half_open.push(stream);
    }
    eventually("they are all open", || async { sidecar.sockets() >= sockets + 4000 }).await;
    for head in 1..20 {
        is_served(&sidecar, head).await;
    }
    let grown = sidecar.memory().saturating_sub(memory);
    assert!(grown < 200 << 20, "{} MiB for 5,000 connections", grown >> 20);
    eventually("they are disconnected", || async { sidecar.sockets() < sockets + 100 }).await;
}

/// A proxy that keeps connections for as long as the sidecar does sends requests on some that are just being closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_kept_for_as_long_as_the_operator_says_whatever_a_head_may_take() {
    let (_database, sidecar) = start(&["--head-timeout", "1s", "--idle-close", "5s"]).await;
    let body = ping("s").to_string();
    let request = format!(
        "POST /?storeId=s&transport=http HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let ask = async |stream: &mut TcpStream| {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with("0\r\n\r\n") {
            let mut text = [0; 4096];
            let length = timeout(PATIENCE, stream.read(&mut text)).await.unwrap().unwrap();
            assert!(length > 0, "closed with the request on its way: {answer:?}");
            answer += &String::from_utf8_lossy(&text[..length]);
        }
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    };
    let mut kept = Vec::new();
    for _ in 0..40 {
        let mut stream = connect(&sidecar).await;
        ask(&mut stream).await;
        kept.push(stream);
    }
    // Around the time that a head may take, and beyond it.
    for (number, stream) in kept.iter_mut().enumerate() {
        if number == 0 {
            tokio::time::sleep(Duration::from_millis(980)).await;
        }
        tokio::time::sleep(Duration::from_millis(if number == 30 { 1000 } else { 1 })).await;
        ask(stream).await;
    }
    // The next head may not take longer than any other.
    let since = Instant::now();
    let mut drip = kept.pop().unwrap();
    drip.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
    assert!(read_to_end(drip).await.is_empty());
    assert!(since.elapsed() >= Duration::from_secs(1), "{:?}", since.elapsed());
    assert_eq!(sidecar.hits("head_timeout").await, 1.0);
    let last = Instant::now();
    let mut quiet = kept.pop().unwrap();
    ask(&mut quiet).await;
    assert!(read_to_end(quiet).await.is_empty());
    assert!(last.elapsed() >= Duration::from_secs(5), "{:?}", last.elapsed());
    // None is forgotten, whatever it was that it waited for last.
    for mut stream in kept {
        let end = timeout(Duration::from_secs(20), stream.read(&mut [0; 1])).await;
        assert!(matches!(end, Ok(Ok(0))), "{end:?}");
    }
    assert_eq!(sidecar.hits("head_timeout").await, 1.0, "whoever is only quiet is no limit's");
    assert!(sidecar.get("/healthz").await.0 == 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_wait_until_the_answers_to_those_before_are_read() {
    let (_database, sidecar) = start(&[]).await;
    let (mut reader, mut writer) = connect(&sidecar).await.into_split();
    // The end of the body is read after the answer is written.
    let request = b"HEAD /healthz HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n";
    let requests = request.repeat(1000);
    let (since, mut sent) = (Instant::now(), 0);
    while let Ok(written) = timeout(Duration::from_secs(3), writer.write(&requests[sent % requests.len()..])).await {
        sent += written.unwrap();
        assert!(since.elapsed() < Duration::from_secs(60), "{sent} bytes were taken");
    }

    // The last one that has begun.
    let rest = sent.next_multiple_of(request.len()) - sent;
    let finishing = async { writer.write_all(&request[request.len() - rest..]).await.unwrap() };
    let reading = async {
        let (mut heads, mut text) = (0, Vec::new());
        while heads < (sent + rest) / request.len() {
            let start = text.len().saturating_sub(3);
            assert!(reader.read_buf(&mut text).await.unwrap() > 0, "closed after {heads}");
            heads += text[start..].windows(4).filter(|end| end == b"\r\n\r\n").count();
        }
    };
    timeout(PATIENCE, async { tokio::join!(finishing, reading) }).await.expect("all are answered");
}

/// Clients that send all before they read would be reset by a server that closes with something unread.
#[tokio::test(flavor = "multi_thread")]
async fn who_sends_too_much_reads_that_it_was_too_much() {
    let (_database, sidecar) = start(&["--max-frame-bytes", "65536"]).await;
    let body = vec![b'x'; 4 << 20];
    for (path, header, status) in [
        ("/api/electric", "", "413"),
        ("/api/s2", "", "413"),
        ("/?storeId=s&transport=http", "", "413"),
        ("/?storeId=s&transport=http", "origin: https://evil.example\r\n", "403"),
        ("/nowhere", "", "404"),
        ("/api/electric", "content-encoding: gzip\r\n", "415"),
    ] {
        for _ in 0..10 {
            let mut stream = connect(&sidecar).await;
            let length = body.len();
            let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\n{header}content-length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.write_all(&body).await.unwrap_or_else(|error| panic!("{path}: {error}"));
            tokio::time::sleep(Duration::from_millis(5)).await;
            let mut answer = Vec::new();
            let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {read:?} {answer}");
            assert!(status != "413" || answer.contains("connection: close"), "{answer}");
        }
    }
    is_served(&sidecar, 0).await;
}
