//! Clients that push to one store at the same moment: live events come in windows, to unmodified clients of each dialect.

use std::time::{Duration, Instant};

use livestore_tests::client::{Client, Live, Node};
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event, numbers, up_to};
use livestore_tests::sidecar::{Sidecar, Start};
use serde_json::json;

/// A long window, so that an event that arrives sooner was certainly not held back.
const WINDOW: Duration = Duration::from_secs(5);

const DIALECTS: [&str; 4] = ["cf-ws", "electric", "s2", "cf-0.3"];

struct Readers {
    writer: Client,
    lives: Vec<(&'static str, Live)>,
    _clients: Vec<Client>,
}

impl Readers {
    /// That have the first event of a store, each in a dialect of its own.
    async fn start(sidecar: &Sidecar) -> Self {
        let (node, old) = (Node::sync_backend(), Node::sync_backend_0_3());
        let writer = node.open("cf-http", &sidecar.url(), "s").await;
        writer.push(chain(0, 1)).await.unwrap();
        let (mut clients, mut lives) = (Vec::new(), Vec::new());
        for dialect in DIALECTS {
            let node = if dialect == "cf-0.3" { &old } else { &node };
            let client = node.open(dialect, &sidecar.url(), "s").await;
            let mut live = client.live(None).await;
            assert_eq!(numbers(&live.events(1).await), [1], "{dialect}");
            lives.push((dialect, live));
            clients.push(client);
        }
        Self { writer, lives, _clients: clients }
    }

    async fn refused(&self) {
        let error = self.writer.push(json!([event(0, "late", json!({}))])).await.unwrap_err();
        assert_eq!(error["_tag"], "ServerAheadError");
    }

    /// The next page of each that brings something.
    async fn pages(&mut self) -> Vec<(&'static str, Vec<i64>)> {
        let mut pages = Vec::new();
        for (dialect, live) in &mut self.lives {
            let page = loop {
                let page = live.page().await;
                if !page.is_empty() {
                    break page;
                }
            };
            pages.push((*dialect, numbers(&page)));
        }
        pages
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_contended_store_are_delivered_together() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--contention-window=5s"]).ready().await;
    let mut readers = Readers::start(&sidecar).await;

    // Nobody waits as long as no push was refused.
    let start = Instant::now();
    readers.writer.push(chain(1, 1)).await.unwrap();
    assert_eq!(readers.pages().await, DIALECTS.map(|dialect| (dialect, vec![2])));
    assert!(start.elapsed() < WINDOW, "{:?}", start.elapsed());

    readers.refused().await;
    for head in 2..7 {
        readers.writer.push(chain(head, 1)).await.unwrap();
    }
    // Committed by somebody else, and heard of.
    database.admin().await.execute("select livestore.commit('s', 'e', '{}')", &[]).await.unwrap();
    for (dialect, page) in readers.pages().await {
        // 0.3 gets its events before its pushes are acknowledged.
        let expected: &[i64] = if dialect == "cf-0.3" { &[3] } else { &[3, 4, 5, 6, 7, 8] };
        assert_eq!(page, expected, "{dialect}");
    }
    let late = Node::sync_backend().open("cf-ws", &sidecar.url(), "s").await;
    assert_eq!(numbers(&late.pull(None).await.unwrap()), up_to(8));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_window_nothing_is_held_back() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--contention-window=0s"]).ready().await;
    let mut readers = Readers::start(&sidecar).await;
    for head in 1..4 {
        readers.refused().await;
        readers.writer.push(chain(head, 1)).await.unwrap();
        assert_eq!(readers.pages().await, DIALECTS.map(|dialect| (dialect, vec![head + 1])));
    }
}
