//! Full LiveStore clients of every dialect notice neither a deploy, nor an outage of the database, nor both at once. A client of
//! LiveStore 0.4 over HTTP stops syncing for good at the first pull that fails, and at the first connection that is refused or
//! reset. A [`Witness`] between them and the sidecars counts those.

use std::net::TcpListener;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use livestore_tests::cluster::{Cluster, Database};
use livestore_tests::device::Fleet;
use livestore_tests::sidecar::{Sidecar, Start, http_get};
use livestore_tests::witness::{Troubles, Witness};
use livestore_tests::{eventually, free_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

async fn in_turn(cluster: &'static Cluster, arguments: &'static [&'static str]) {
    tokio::task::spawn_blocking(|| cluster.pg_ctl(arguments)).await.unwrap();
}

/// 60 s without a database, in the middle of which the sidecar is replaced. Half of the devices are there before, half come
/// while the database is away: their first pull has no answer but the log.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_60_s_with_a_deploy_in_it_goes_unnoticed() {
    let database = Database::alone().await;
    let cluster = database.cluster();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let start = || Start::new(database.url("sidecar")).socket(&socket).environment("LIVESTORE_SHUTDOWN_DELAY", "5s");
    // The old one stays for what it holds: a first pull of sync-cf over HTTP.
    let start = || start().arguments(&["--shutdown-deadline", "2m"]);
    let old = start().ready().await;
    let witness = Witness::of(old.port()).await;
    let fleet = Fleet::open("early", witness.port()).await;
    fleet.create("1").await;
    fleet.settles(&["1"]).await;

    in_turn(cluster, &["stop", "-m", "fast"]).await;
    let begin = Instant::now();
    fleet.create("2").await;
    let late = Fleet::open("late", witness.port()).await;
    tokio::time::sleep(Duration::from_secs(20).saturating_sub(begin.elapsed())).await;
    let new = start().serve();
    let ended = tokio::spawn(old.terminate());
    tokio::time::sleep(Duration::from_secs(60).saturating_sub(begin.elapsed())).await;
    in_turn(cluster, &["start"]).await;

    tokio::join!(fleet.settles(&["1", "2"]), late.settles(&["1", "2"]));
    assert!(ended.await.unwrap().success());
    Fleet::hears_of(&database, "3").await;
    tokio::join!(fleet.settles(&["1", "2", "3"]), late.settles(&["1", "2", "3"]));
    late.create("4").await;
    tokio::join!(fleet.settles(&["1", "2", "3", "4"]), late.settles(&["1", "2", "3", "4"]));
    assert_eq!(witness.troubles(), Troubles::NONE);
    drop(new);
    database.stop();
}

/// Clients that come for one request each, a thousand in a second if the machine lets them.
struct Newcomers {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

impl Newcomers {
    fn to(port: u16) -> Self {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..4).map(|_| tokio::spawn(come(port, Arc::clone(&stop), Arc::clone(&served)))).collect();
        Self { stop, served, tasks }
    }

    /// The number of clients that were served, without a single failure.
    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
        self.served.load(Ordering::Relaxed)
    }
}

async fn come(port: u16, stop: Arc<AtomicBool>, served: Arc<AtomicUsize>) {
    while !stop.load(Ordering::Relaxed) {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("no connection is refused");
        let request = b"GET /healthz HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.expect("no connection is reset");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("no connection is reset");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
        served.fetch_add(1, Ordering::Relaxed);
        pause(3).await;
    }
}

/// Replaces the sidecar twice, the next one there before the last one is told to end, while every client pushes and is told
/// of what others push.
async fn deploys_go_unnoticed(database: &Database, start: impl Fn() -> Start) {
    let start = || start().environment("LIVESTORE_SHUTDOWN_DELAY", "5s");
    let mut sidecar: Sidecar = start().ready().await;
    let witness = Witness::of(sidecar.port()).await;
    let newcomers = Newcomers::to(sidecar.port());
    let fleet = Fleet::open("device", witness.port()).await;
    let mut ids: Vec<String> = Vec::new();
    let mut next_id = || {
        ids.push(format!("{:03}", ids.len()));
        ids.clone()
    };
    for _ in 0..2 {
        let next = start().serve();
        let ended = tokio::spawn(std::mem::replace(&mut sidecar, next).terminate());
        while !ended.is_finished() {
            fleet.create(next_id().last().unwrap()).await;
            pause(500).await;
        }
        assert!(ended.await.unwrap().success());
        let pushed = next_id();
        fleet.create(pushed.last().unwrap()).await;
        fleet.settles(&pushed.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let pulled = next_id();
        Fleet::hears_of(database, pulled.last().unwrap()).await;
        fleet.settles(&pulled.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    assert_eq!(witness.troubles(), Troubles::NONE);
    assert!(witness.connections() > 8, "{} connections", witness.connections());
    let served = newcomers.end().await;
    assert!(served > 100, "{served} newcomers");
}

#[tokio::test(flavor = "multi_thread")]
async fn deploys_that_hand_over_a_socket_go_unnoticed() {
    let database = Database::new().await;
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    deploys_go_unnoticed(&database, || Start::new(database.url("sidecar")).socket(&socket)).await;
}

/// Each has a socket of its own on the same port. It is at the end of the old one's that connections could be reset.
#[tokio::test(flavor = "multi_thread")]
async fn deploys_beside_each_other_on_one_port_go_unnoticed() {
    let database = Database::new().await;
    let port = free_port();
    deploys_go_unnoticed(&database, || Start::new(database.url("sidecar")).port(port).arguments(&["--reuse-port"]))
        .await;
}

/// A proxy in front takes part in a deploy: it looks at `/readyz`, and sends nothing new to a sidecar that is about to end.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_about_to_end_says_so_and_goes_on_accepting_for_a_while() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--shutdown-delay", "3s"]).ready().await;
    let port = sidecar.port();
    let start = Instant::now();
    sidecar.signal("TERM");
    eventually("it is not ready any more", || async { http_get(port, "/readyz").await.0 == 503 }).await;
    let last = Newcomers::to(port);
    pause(500).await;
    assert!(last.end().await > 10, "those who do not know yet are served");
    assert!(sidecar.terminate().await.success());
    assert!(start.elapsed() >= Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_says_how_it_is_on_an_address_of_its_own() {
    let database = Database::new().await;
    let (port, [here, there]) = (free_port(), [free_port(), free_port()]);
    let start = |health: u16, url: String| {
        let address = format!("127.0.0.1:{health}");
        Start::new(url).port(port).arguments(&["--reuse-port", "--health-listen", &address])
    };
    let good = start(here, database.url("sidecar")).serve();
    eventually("one is ready", || async { http_get(here, "/readyz").await.0 == 200 }).await;
    let mut bad = start(there, format!("postgres://sidecar@127.0.0.1:{}/nowhere", free_port())).command();
    bad.stderr(Stdio::null());
    let bad = tokio::process::Command::from(bad).kill_on_drop(true).spawn().unwrap();
    eventually("the other one is not", || async { http_get(there, "/readyz").await.0 == 503 }).await;
    for _ in 0..40 {
        assert_eq!(http_get(port, "/readyz").await.0, 200, "who cannot serve takes no connections");
    }
    assert_eq!((http_get(there, "/healthz").await.0, http_get(there, "/v1/health").await.0), (200, 404));
    let mut health = Start::program();
    health.args(["health", "--health-listen", &format!("127.0.0.1:{there}")]);
    assert!(health.status().unwrap().success());
    drop(good);
    eventually("it serves where nobody else does", || async { http_get(port, "/readyz").await.0 == 503 }).await;
    drop(bad);
}
