//! A serverless database that is suspended while nobody uses it, and started by the next connection.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use livestore_tests::cluster::{Cluster, Database};
use livestore_tests::device::Fleet;
use livestore_tests::dialects::Caller;
use livestore_tests::events::chain;
use livestore_tests::eventually;
use livestore_tests::relay::{Peer, events, url};
use livestore_tests::rpc::Rpc;
use livestore_tests::sidecar::Start;
use livestore_tests::witness::{Troubles, Witness};
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

/// The proxy that such a provider has in front of Postgres: it starts Postgres for the first connection.
struct Proxy {
    port: u16,
    cluster: &'static Cluster,
    is_suspended: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
    turn: Arc<Mutex<()>>,
}

impl Proxy {
    async fn before(cluster: &'static Cluster) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy =
            Self { port, cluster, is_suspended: Arc::default(), connections: Arc::default(), turn: Arc::default() };
        let (is_suspended, connections, turn) =
            (Arc::clone(&proxy.is_suspended), Arc::clone(&proxy.connections), Arc::clone(&proxy.turn));
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                let (is_suspended, turn) = (Arc::clone(&is_suspended), Arc::clone(&turn));
                tokio::spawn(async move {
                    let waking = turn.lock().await;
                    if is_suspended.swap(false, Ordering::Relaxed) {
                        tokio::task::spawn_blocking(|| cluster.pg_ctl(&["start"])).await.unwrap();
                    }
                    drop(waking);
                    if let Ok(mut far) = TcpStream::connect(("127.0.0.1", cluster.port())).await {
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        proxy
    }

    /// Stops Postgres until somebody connects.
    async fn suspend(&self) {
        let _waking = self.turn.lock().await;
        let cluster = self.cluster;
        tokio::task::spawn_blocking(|| cluster.pg_ctl(&["stop", "-m", "fast"])).await.unwrap();
        self.is_suspended.store(true, Ordering::Relaxed);
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

/// The number of connections of the sidecar.
async fn sidecars(database: &Database) -> i64 {
    let connections = "select count(*) from pg_stat_activity where application_name = 'livestore-sidecar'";
    database.admin().await.query_one(connections, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_suspended_under_clients_comes_back_unnoticed() {
    let database = Database::alone().await;
    let proxy = Proxy::before(database.cluster()).await;
    let sidecar = Start::new(database.url_at("sidecar", proxy.port)).ready().await;
    let witness = Witness::of(sidecar.port()).await;
    let fleet = Fleet::open("device", witness.port()).await;
    fleet.create("1").await;
    fleet.settles(&["1"]).await;
    for (id, all) in [("2", &["1", "2"][..]), ("3", &["1", "2", "3"])] {
        proxy.suspend().await;
        fleet.create(id).await;
        fleet.settles(all).await;
    }
    Fleet::hears_of(&database, "4").await;
    fleet.settles(&["1", "2", "3", "4"]).await;
    assert_eq!(witness.troubles(), Troubles::NONE);
    database.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_no_client_needs_can_sleep_and_wakes_for_the_first() {
    let database = Database::alone().await;
    let proxy = Proxy::before(database.cluster()).await;
    let sidecar =
        Start::new(database.url_at("sidecar", proxy.port)).arguments(&["--database-idle-close", "2s"]).ready().await;
    {
        // As long as somebody follows a log, the sidecar listens, however quiet it is.
        let mut live = Rpc::open(&sidecar.url(), "live").await;
        live.pull("1".into(), "live", true).await;
        live.frame().await;
        live.send(json!({"_tag": "Ack", "requestId": "1"})).await;
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        assert!(sidecars(&database).await > 0);
        database.admin().await.query_one("select livestore.commit('live', 'from-sql')", &[]).await.unwrap();
        assert!(live.frame().await.to_string().contains("from-sql"));
        let fleet = Fleet::open("early", sidecar.port()).await;
        fleet.create("1").await;
        fleet.settles(&["1"]).await;
        let mut peers = Peer::join_all(&url(&sidecar), ["a", "b"]).await;
        peers[0].push(events("a", [1])).await;
        peers[1].next_of("push").await;
    }
    eventually("all connections are closed", || async { sidecars(&database).await == 0 }).await;
    assert!(sidecar.log().contains("nobody is connected"));
    proxy.suspend().await;
    let before = proxy.connections();
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(sidecar.get("/readyz").await.0, 200);
    assert_eq!(sidecar.metric("livestore_listening").await, 1.0);
    assert_eq!(proxy.connections(), before, "the database was not woken");

    // Commits elsewhere reach the first client once it has come.
    let fleet = Fleet::open("late", sidecar.port()).await;
    fleet.settles(&["1"]).await;
    assert!(proxy.connections() > before);
    Fleet::hears_of(&database, "2").await;
    fleet.settles(&["1", "2"]).await;
    let mut peers = Peer::join_all(&url(&sidecar), ["a", "b"]).await;
    peers[0].push(events("a", [2])).await;
    peers[1].next_of("push").await;
    drop((fleet, peers));

    // A push alone wakes it, too, and then it sleeps again.
    eventually("all connections are closed", || async { sidecars(&database).await == 0 }).await;
    proxy.suspend().await;
    let answer = Caller::new(&sidecar, "pushed").write("electric", chain(0, 1)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    eventually("all connections are closed", || async { sidecars(&database).await == 0 }).await;
    database.stop();
}

const ASLEEP: &str = "nobody is connected";

/// The second pause after a failure is longer than the time after which the sidecar would sleep.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_does_not_sleep_while_a_handler_has_failed() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let handler = "create function public.handle(event livestore.polled_event) returns void language plpgsql as
            $$ begin raise exception 'not yet'; end $$;
        select livestore.subscribe('s', handler => 'public.handle(livestore.polled_event)');
        select livestore.commit('todos', 'e')";
    admin.batch_execute(handler).await.unwrap();
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--database-idle-close", "1s"]).ready().await;
    eventually("it is tried a third time", async || {
        let failures = "select failures >= 3 from livestore.subscriptions";
        admin.query_one(failures, &[]).await.unwrap().get(0)
    })
    .await;
    assert!(!sidecar.log().contains(ASLEEP), "{}", sidecar.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_sleeps_once_a_webhook_was_taken_and_not_before() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let router = Router::new().fallback(move |_: Bytes| {
        let is_taken = counted.fetch_add(1, Ordering::Relaxed) >= 2;
        ready(if is_taken { StatusCode::NO_CONTENT } else { StatusCode::INTERNAL_SERVER_ERROR })
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hooks", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    admin.execute("select livestore.subscribe('s', url => $1)", &[&url]).await.unwrap();
    admin.execute("select livestore.commit('todos', 'e')", &[]).await.unwrap();
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let arguments = ["--database-idle-close", "1s", "--webhook-secret", secret, "--webhook-private-addresses"];
    let sidecar = Start::new(database.url("sidecar")).arguments(&arguments).ready().await;
    eventually("it is sent a third time", async || requests.load(Ordering::Relaxed) == 3).await;
    assert!(!sidecar.log().contains(ASLEEP), "{}", sidecar.log());
    eventually("the database may sleep", async || sidecar.log().contains(ASLEEP)).await;
    let done = "select failures = 0 and error is null from livestore.subscriptions";
    assert!(admin.query_one(done, &[]).await.unwrap().get::<_, bool>(0));
}
