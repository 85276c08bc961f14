//! Requests to cancel, whose connections the sidecar must not close: PgBouncer 1.18 may end if a client closes them before it does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use livestore_tests::cluster::Database;
use livestore_tests::dialects::Caller;
use livestore_tests::events::chain;
use livestore_tests::eventually;
use livestore_tests::rpc::Rpc;
use livestore_tests::sidecar::{Sidecar, Start};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::abandoned_statements::at_work;

/// The requests that a sidecar has under way at most.
const MOST: usize = 64;

/// The connections with which a sidecar reads.
const CONNECTIONS: usize = 8;

/// The code of a request to cancel, after its length of 16 bytes.
const CANCEL: u32 = 80_877_102;

/// A server in front of Postgres that carries out requests to cancel at once, and closes their connections late.
struct LateServer {
    port: u16,
    counts: Arc<Counts>,
    closes: watch::Sender<bool>,
}

#[derive(Default)]
struct Counts {
    requests: AtomicUsize,
    /// Requests whose connection the client closed first.
    cut_off: AtomicUsize,
}

impl LateServer {
    async fn before(database: &Database) -> Self {
        let target = database.cluster().port();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (counts, closes) = (Arc::new(Counts::default()), watch::Sender::new(false));
        let (counted, closing) = (Arc::clone(&counts), closes.subscribe());
        tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let far = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
                tokio::spawn(carry(near, far, Arc::clone(&counted), closing.clone()));
            }
        });
        Self { port, counts, closes }
    }

    fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }

    fn cut_off(&self) -> usize {
        self.counts.cut_off.load(Ordering::SeqCst)
    }
}

async fn carry(mut near: TcpStream, mut far: TcpStream, counts: Arc<Counts>, mut closing: watch::Receiver<bool>) {
    let mut first = [0; 8];
    if near.read_exact(&mut first).await.is_err() || far.write_all(&first).await.is_err() {
        return;
    }
    if first[4..] != CANCEL.to_be_bytes() {
        let _ = copy_bidirectional(&mut near, &mut far).await;
        return;
    }
    let mut key = [0; 8];
    near.read_exact(&mut key).await.unwrap();
    far.write_all(&key).await.unwrap();
    let _ = far.read(&mut key).await;
    counts.requests.fetch_add(1, Ordering::SeqCst);
    tokio::select! {
        _ = near.read(&mut key) => drop(counts.cut_off.fetch_add(1, Ordering::SeqCst)),
        _ = closing.wait_for(|closes| *closes) => {}
    }
}

/// As many clients as there are connections begin to read, and have to wait.
async fn read(sidecar: &Sidecar) -> Vec<Rpc> {
    let mut readers = Vec::new();
    for number in 0..CONNECTIONS {
        let store = format!("s{number}");
        let mut reader = Rpc::open(&sidecar.url(), &store).await;
        reader.pull("1".into(), &store, false).await;
        readers.push(reader);
    }
    readers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_keeps_the_connections_of_64_requests_until_the_server_closes_them() {
    let database = Database::new().await;
    let server = LateServer::before(&database).await;
    let url = format!("{}?sslmode=disable", database.url_at("sidecar", server.port));
    let arguments = ["--page-cache-bytes", "0", "--shutdown-delay", "0s", "--shutdown-deadline", "100s"];
    let sidecar = Start::new(url).arguments(&arguments).ready().await;
    for number in 0..CONNECTIONS {
        let store = format!("s{number}");
        let answer = Caller::new(&sidecar, &store).write("electric", chain(0, 1)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let mut holder = database.admin().await;
    let lock = holder.transaction().await.unwrap();
    lock.batch_execute("lock table livestore.eventlog_1 in access exclusive mode").await.unwrap();
    let reading = async |count| at_work(&database, "livestore.read_page(").await.len() == count;
    for round in 1..=MOST / CONNECTIONS {
        let readers = read(&sidecar).await;
        eventually("the reads wait", || reading(CONNECTIONS)).await;
        drop(readers);
        eventually("the reads end", || reading(0)).await;
        eventually("each has its request", async || server.requests() == round * CONNECTIONS).await;
    }
    // Postgres ends the next ones once it notices that their connections are closed.
    let readers = read(&sidecar).await;
    eventually("the reads wait", || reading(CONNECTIONS)).await;
    drop(readers);
    let is_said = async || sidecar.log().contains("has not answered 64 requests to cancel");
    eventually("the operator is told", is_said).await;
    lock.rollback().await.unwrap();
    eventually("the reads end", || reading(0)).await;
    sidecar.signal("TERM");
    // All of them are kept for longer than 20 s then, which was a limit once.
    sleep(Duration::from_secs(20)).await;
    assert_eq!((server.requests(), server.cut_off()), (MOST, 0), "{}", sidecar.log());
    server.closes.send_replace(true);
    let closed = Instant::now();
    let ended = sidecar.terminate().await;
    assert!(ended.success() && server.cut_off() == 0, "{ended:?}");
    assert!(closed.elapsed() < Duration::from_secs(60), "it waited for the deadline");
}
