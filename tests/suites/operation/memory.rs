//! Data in transit is bounded in bytes: incoming data before its sender is known, and outgoing data that clients do not read.

use std::time::Duration;

use livestore_tests::cluster::Database;
use livestore_tests::dialects::Caller;
use livestore_tests::events::{chain, event};
use livestore_tests::rpc::Rpc;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::tokens::{SECRET, Signer, WITH_SECRET, now};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const MIB: u64 = 1 << 20;

/// A client may take 32 MiB by default. The rest is for buffers that grow and for answers of Postgres: on an idle machine it is 102 MiB in all,
/// on a busy one 110.
const BOUND: u64 = 120 * MIB;

fn token(subject: &str, access: &str) -> String {
    Signer::secret(SECRET).sign(&json!({"sub": subject, "exp": now() + 3600, "livestore": {"*": access}}))
}

/// A connection on which this was sent, as far as the sidecar takes it: somebody who does not finish.
async fn send(sidecar: &Sidecar, head: String, body: usize) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", sidecar.port())).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let body = vec![b'x'; body];
    let _ = timeout(Duration::from_millis(500), stream.write_all(&body)).await;
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_with_large_bodies_take_next_to_nothing() {
    let database = Database::new().await;
    for arguments in [&WITH_SECRET[..], &[]] {
        let sidecar = Start::new(database.url("sidecar")).arguments(arguments).ready().await;
        let before = sidecar.peak_memory();
        let mut open = Vec::new();
        for path in ["/?storeId=s&transport=http", "/api/electric", "/api/s2", "/v1/streams/s/records"] {
            for _ in 0..15 {
                let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", 15 * MIB);
                open.push(send(&sidecar, head, (15 * MIB - 1) as usize));
            }
        }
        let open = futures_util::future::join_all(open).await;
        sleep(Duration::from_secs(1)).await;
        let took = sidecar.peak_memory() - before;
        assert!(took < BOUND, "{arguments:?}: {} MiB", took / MIB);
        // Clients with small requests are answered meanwhile.
        let caller = Caller::with_token(&sidecar, "s", &token("ann", "write"));
        let answer = timeout(Duration::from_secs(5), caller.read("cf-http")).await.expect("an answer");
        assert!(answer.text.contains("NoMore"), "{answer:?}");
        drop(open);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_not_finished_take_what_one_client_may() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&WITH_SECRET).ready().await;
    let before = sidecar.peak_memory();
    let ann = token("ann", "read");
    let opening = (0..40).map(|_| {
        let head = format!(
            "GET /?storeId=s&transport=ws&token={ann} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let sidecar = &sidecar;
        async move {
            let mut stream = send(sidecar, head, 0).await;
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 101");
            // A text frame of 15 MiB, masked with 0.
            let mut frame = vec![0x81, 0xff];
            frame.extend_from_slice(&(15 * MIB).to_be_bytes());
            frame.extend_from_slice(&[0; 4]);
            frame.resize((14 * MIB) as usize, b'x');
            let _ = timeout(Duration::from_millis(500), stream.write_all(&frame)).await;
            stream
        }
    });
    let open = futures_util::future::join_all(opening).await;
    sleep(Duration::from_secs(1)).await;
    let took = sidecar.peak_memory() - before;
    // One of the messages goes beyond what the client may take.
    let bound = BOUND + 32 * MIB;
    assert!(took < bound, "{} MiB", took / MIB);
    assert!(sidecar.hits("buffer_bytes").await >= 1.0 && sidecar.log().contains("clients wait for memory"));
    let other = Caller::with_token(&sidecar, "s", &token("bob", "write"));
    assert!(other.write("cf-ws", chain(0, 1)).await.text.contains("Success"), "others have what is theirs");
    drop(open);
    livestore_tests::eventually("it is given back", || async { sidecar.metric("livestore_buffer_bytes").await == 0.0 })
        .await;
}

/// The head of a request for a WebSocket.
fn upgrade(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// A text frame, masked with 0, that announces so many bytes.
fn frame(announced: u64, text: &[u8]) -> Vec<u8> {
    [&[0x81, 0xff], &announced.to_be_bytes()[..], &[0; 4], text].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_only_announced_take_next_to_nothing() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&WITH_SECRET).ready().await;
    let path = format!("/?storeId=s&transport=ws&token={}", token("ann", "read"));
    let before = sidecar.peak_memory();
    let opening = (0..200).map(|_| async {
        let mut stream = send(&sidecar, upgrade(&path), 0).await;
        stream.read_exact(&mut [0; 12]).await.unwrap();
        stream.write_all(&frame(15 * MIB, b"x")).await.unwrap();
        stream
    });
    let open = futures_util::future::join_all(opening).await;
    sleep(Duration::from_secs(1)).await;
    let took = sidecar.peak_memory() - before;
    assert!(took < 100 * MIB, "{} MiB", took / MIB);
    drop(open);
}

/// The first push of a store, of some 600 KB.
fn large_push(store: &str) -> Vec<u8> {
    let batch = [event(0, "large", json!("x".repeat(600_000)))];
    let payload = json!({"storeId": store, "batch": batch, "backendId": {"_tag": "None"}});
    let push = json!({"_tag": "Request", "id": "1", "tag": "SyncWsRpc.Push", "payload": payload, "headers": []});
    frame(push.to_string().len() as u64, push.to_string().as_bytes())
}

/// Each has begun to send what together is more than there is memory for, and goes on only then.
#[tokio::test(flavor = "multi_thread")]
async fn messages_that_arrive_together_do_not_wait_for_each_other() {
    let database = Database::new().await;
    let limits = ["--max-frame-bytes", "1000000", "--max-buffer-bytes-per-client", "1048576"];
    let of_one = [&limits[..], &["--max-buffer-bytes", "4194304"]].concat();
    let of_all = [&limits[..], &["--max-buffer-bytes", "1048576"], &WITH_SECRET].concat();
    for (name, arguments) in [("client", of_one), ("all", of_all)] {
        let sidecar = Start::new(database.url("sidecar")).arguments(&arguments).ready().await;
        let opening = (0..16).map(|n| {
            let (sidecar, store) = (&sidecar, format!("{name}-{n}"));
            async move {
                let token = token(&format!("subject {n}"), "write");
                let path = format!("/?storeId={store}&transport=ws&token={token}");
                let mut stream = send(sidecar, upgrade(&path), 0).await;
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                // A connection without a pull would be closed after 15 s.
                let cursor = json!({"_tag": "None"});
                let payload = json!({"storeId": store, "live": true, "cursor": cursor});
                let pull =
                    json!({"_tag": "Request", "id": "0", "tag": "SyncWsRpc.Pull", "payload": payload, "headers": []});
                let pull = pull.to_string();
                stream.write_all(&frame(pull.len() as u64, pull.as_bytes())).await.unwrap();
                (stream, large_push(&store))
            }
        });
        let mut open = futures_util::future::join_all(opening).await;
        for (stream, push) in &mut open {
            stream.write_all(&push[..150_000]).await.unwrap();
        }
        livestore_tests::eventually("nothing is left", || async { sidecar.hits("buffer_bytes").await >= 1.0 }).await;
        let finishing = open.into_iter().map(|(mut stream, push)| async move {
            stream.write_all(&push[150_000..]).await.unwrap();
            let mut answer = Vec::new();
            let reading = async {
                while !answer.windows(4).any(|word| word == b"Exit") && stream.read_buf(&mut answer).await.unwrap() > 0
                {
                }
            };
            let _ = timeout(Duration::from_secs(20), reading).await;
            String::from_utf8_lossy(&answer).into_owned()
        });
        for answer in futures_util::future::join_all(finishing).await {
            assert!(answer.contains("Exit"), "{name}: {answer}");
        }
        let admin = database.admin().await;
        let pushed = "select count(*) from livestore.stores where store_id like $1 || '-%' and head > 0";
        assert_eq!(admin.query_one(pushed, &[&name]).await.unwrap().get::<_, i64>(0), 16);
        livestore_tests::eventually("all is given back", || async {
            sidecar.metric("livestore_buffer_bytes").await == 0.0
        })
        .await;
    }
}

/// A device that only listens sends a pong every 15 s: these are the pongs of half a day.
#[tokio::test(flavor = "multi_thread")]
async fn pongs_are_not_the_beginning_of_a_message() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&WITH_SECRET).ready().await;
    let path = format!("/api/v1/livestore/sync?token={}", token("ann", "read"));
    let mut stream = send(&sidecar, upgrade(&path), 0).await;
    stream.read_exact(&mut [0; 12]).await.unwrap();
    stream.write_all(&[0x8a, 0x80, 0, 0, 0, 0].repeat(3000)).await.unwrap();
    // Its pong says that they are read.
    stream.write_all(&[0x89, 0x84, 0, 0, 0, 0, b'l', b'a', b's', b't']).await.unwrap();
    let mut heard = Vec::new();
    timeout(Duration::from_secs(10), async {
        while !heard.ends_with(b"last") {
            heard.push(stream.read_u8().await.unwrap());
        }
    })
    .await
    .expect("a pong");
    assert_eq!(sidecar.metric("livestore_buffer_bytes").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_many_small_values_take_what_their_bytes_take() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&WITH_SECRET).ready().await;
    let token = token("ann", "write");
    let many = |value: &str| vec![value; (15 * MIB) as usize / (value.len() + 1)].join(",");
    let before = sidecar.peak_memory();
    let (frames, records) = (format!("[{}]", many("1")), format!(r#"{{"records":[{}]}}"#, many("{}")));
    let post = |path: &str, body: &str| {
        let length = body.len();
        let head = format!("POST {path}token={token} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n");
        [head.as_bytes(), body.as_bytes()].concat()
    };
    let socket = upgrade(&format!("/?storeId=s&transport=ws&token={token}"));
    for (head, message, answer) in [
        (socket, frame(frames.len() as u64, frames.as_bytes()), "more than 1000"),
        (String::new(), post("/?storeId=s&transport=http&", &frames), "more than 1000"),
        (String::new(), post("/v1/streams/s/records?", &records), "record 0"),
    ] {
        let mut stream = send(&sidecar, head, 0).await;
        stream.write_all(&message).await.unwrap();
        let mut heard = Vec::new();
        let hearing = timeout(Duration::from_secs(30), async {
            while !String::from_utf8_lossy(&heard).contains(answer) {
                assert!(stream.read_buf(&mut heard).await.unwrap() > 0, "{:?}", String::from_utf8_lossy(&heard));
            }
        });
        hearing.await.expect("an answer");
    }
    let took = sidecar.peak_memory() - before;
    assert!(took < 100 * MIB, "{} MiB", took / MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn pongs_that_are_not_read_take_next_to_nothing() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&WITH_SECRET).ready().await;
    let ping = |payload: &[u8]| [&[0x89, 0x80 | payload.len() as u8, 0, 0, 0, 0][..], payload].concat();
    let token = token("ann", "read");
    for path in ["/?storeId=s&transport=ws&", "/websocket?storeId=s&", "/api/v1/livestore/sync?"] {
        let before = sidecar.peak_memory();
        let mut stream = send(&sidecar, upgrade(&format!("{path}token={token}")), 0).await;
        stream.read_exact(&mut [0; 12]).await.unwrap();
        let pings = ping(&[b'x'; 125]).repeat(1000);
        let _ = timeout(Duration::from_secs(3), async { while stream.write_all(&pings).await.is_ok() {} }).await;
        let took = sidecar.peak_memory() - before;
        assert!(took < 16 * MIB, "{path}: {} MiB", took / MIB);

        // A client that reads gets all answers.
        let mut stream = send(&sidecar, upgrade(&format!("{path}token={token}")), 0).await;
        stream.read_exact(&mut [0; 12]).await.unwrap();
        stream.write_all(&[ping(b"first").repeat(100), ping(b"last")].concat()).await.unwrap();
        let mut heard = Vec::new();
        let hearing = timeout(Duration::from_secs(10), async {
            while !heard.ends_with(b"last") {
                heard.push(stream.read_u8().await.unwrap());
            }
        });
        hearing.await.expect("a pong");
        assert_eq!(heard.windows(5).filter(|word| word == b"first").count(), 100, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_the_relay_that_are_not_read_take_what_one_client_may() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&WITH_SECRET).ready().await;
    let path = format!("/api/v1/livestore/sync?token={}", token("ann", "read"));
    let message = |kind: &str, device: &str, payload: serde_json::Value| {
        json!({"type": kind, "clientId": device, "sessionId": "s", "timestamp": 1, "payload": payload}).to_string()
    };
    let join = async |device: String| {
        let mut stream = send(&sidecar, upgrade(&path), 0).await;
        stream.read_exact(&mut [0; 12]).await.unwrap();
        let pull = message("pull", &device, json!({"sinceTimestamp": 0}));
        stream.write_all(&frame(pull.len() as u64, pull.as_bytes())).await.unwrap();
        stream
    };
    let open = futures_util::future::join_all((0..30).map(|n| join(format!("d{n}")))).await;
    livestore_tests::eventually("they are online", || async {
        sidecar.metric("livestore_relay_devices").await == 30.0
    })
    .await;
    let before = sidecar.peak_memory();
    let mut sender = join("sender".into()).await;
    let event = json!({"eventName": "e", "eventNumber": 1, "clientId": "c", "sessionId": "s", "timestamp": 1,
        "data": "x".repeat((12 * MIB) as usize)});
    let push = message("push", "sender", json!({"events": [event]}));
    sender.write_all(&frame(push.len() as u64, push.as_bytes())).await.unwrap();
    sleep(Duration::from_secs(2)).await;
    let took = sidecar.peak_memory() - before;
    assert!(took < BOUND, "{} MiB", took / MIB);
    assert!(sidecar.metric("livestore_buffer_bytes").await > 12.0 * MIB as f64, "it is counted");
    drop(open);
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_that_are_not_read_take_what_one_client_may() {
    let database = Database::new().await;
    let admin = database.admin().await;
    for parent in 0..6 {
        let batch = json!([event(parent, "large", json!("x".repeat(4_000_000)))]);
        admin.execute("select livestore.push('s', $1)", &[&batch]).await.unwrap();
    }
    for (arguments, sockets, bound) in [(&WITH_SECRET[..], 4, BOUND), (&[], 1, BOUND)] {
        let sidecar = Start::new(database.url("sidecar")).arguments(arguments).ready().await;
        let before = sidecar.peak_memory();
        let ann = token("ann", "read");
        let mut open = Vec::new();
        for _ in 0..sockets {
            let mut rpc = Rpc::connect(&format!("{}/?storeId=s&transport=ws&token={ann}", sidecar.url())).await;
            for id in 0..32 {
                rpc.pull(json!(id.to_string()), "s", id % 2 == 0).await;
            }
            open.push(rpc);
        }
        sleep(Duration::from_secs(3)).await;
        let took = sidecar.peak_memory() - before;
        assert!(took < bound, "{arguments:?}: {} MiB", took / MIB);
        // A client that reads gets all of it.
        let other = Caller::with_token(&sidecar, "s", &token("bob", "read"));
        for dialect in ["cf-http", "electric", "s2-rest"] {
            let answer = timeout(Duration::from_secs(20), other.read(dialect)).await.expect("an answer");
            assert!(answer.text.contains("large"), "{dialect}");
        }
        let mut rpc = open.swap_remove(0);
        // So does a client that was slow: four of a pull are sent before one is acknowledged.
        for _ in 0..4 {
            let chunk = timeout(Duration::from_secs(20), rpc.frame()).await.expect("a chunk");
            assert_eq!(chunk["_tag"], "Chunk");
        }
    }
}
