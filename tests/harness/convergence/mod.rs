//! Rounds in which full clients commit at the same moment on one store, and what comes of it.

mod client;
mod log;
mod verdict;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde::Serialize;
use serde_json::{Value, json};

pub use self::client::{Client, Event, Record, State, Traffic};
pub use self::log::{Entry, Log};
pub use self::verdict::{Missing, Verdict};
use crate::browsers::{Browser, Browsers, page};
use crate::client::Node;
use crate::device::Device;

/// The time after which clients are asked for their states again.
const INTERVAL: Duration = Duration::from_millis(100);

/// The time that clients may take to reach their server before they commit.
const CONNECTING: Duration = Duration::from_secs(20);

/// Writers commit at once; a further client starts when they have settled.
#[derive(Debug, Clone)]
pub struct Round {
    pub writers: usize,
    /// Of each writer.
    pub events: usize,
    /// Of the commits of a writer: `burst`, `groups`, `turns` or `typing`.
    pub pace: String,
    /// The time without any change after which the clients count as stuck.
    pub stillness: Duration,
    /// The time that the writers may take in all, and again the further client after them.
    pub limit: Duration,
}

/// The outcome of a round for its clients.
#[derive(Debug, Serialize)]
pub struct Played {
    /// The ids of the todos that each writer created.
    pub created: Vec<Vec<String>>,
    /// Of the writers, and of the client that started after them.
    pub records: Vec<Record>,
    /// The time that the writers took to agree, if they did.
    pub agreed_after: Option<Duration>,
}

impl Round {
    /// Plays it with clients that are opened by name. One that cannot be opened has no store.
    pub async fn play<C: Client>(&self, open: impl AsyncFn(&str) -> Result<C, Value>) -> Played {
        let names: Vec<_> = (0..self.writers).map(writer).collect();
        let created: Vec<Vec<_>> =
            names.iter().map(|name| (0..self.events).map(|event| format!("{name}-{event:04}")).collect()).collect();
        let mut expected = created.concat();
        expected.sort_unstable();

        let mut clients = join_all(names.iter().map(|name| open(name))).await;
        connected(&clients).await;
        let start = Instant::now();
        join_all(clients.iter().zip(&created).map(async |(client, ids)| {
            if let Ok(client) = client {
                client.create_all(ids, &self.pace).await;
            }
        }))
        .await;
        let agreed_after = self.settles(&clients, &expected).await.then(|| start.elapsed());
        clients.push(open("reader").await);
        self.settles(&clients, &expected).await;

        let names = names.iter().map(|name| &**name).chain(["reader"]);
        let records = join_all(names.zip(&clients).map(async |(name, client)| match client {
            Ok(client) => client.record(name).await,
            Err(error) => Record::of_failure(name, error.clone()),
        }));
        Played { created, records: records.await, agreed_after }
    }

    /// Waits until all clients have exactly these todos and nothing pending, and says whether they do; or until nothing changes.
    async fn settles<C: Client>(&self, clients: &[Result<C, Value>], expected: &[String]) -> bool {
        let start = Instant::now();
        let (mut last, mut changed) = (Vec::new(), start);
        while start.elapsed() < self.limit && changed.elapsed() < self.stillness {
            let states = states(clients).await;
            if states.iter().all(State::is_settled) && have(clients, expected).await {
                return true;
            }
            // One that is still on its way to the server is not stuck.
            let is_waiting = states.iter().any(|state| matches!(state, State::Runs(status) if !status.is_connected));
            if states != last || is_waiting {
                (last, changed) = (states, Instant::now());
            }
            tokio::time::sleep(INTERVAL).await;
        }
        false
    }
}

async fn connected<C: Client>(clients: &[Result<C, Value>]) {
    let start = Instant::now();
    while !states(clients).await.iter().all(State::is_connected) && start.elapsed() < CONNECTING {
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn states<C: Client>(clients: &[Result<C, Value>]) -> Vec<State> {
    join_all(clients.iter().map(async |client| match client {
        Ok(client) => client.state().await,
        Err(error) => State::Ended(error.clone()),
    }))
    .await
}

async fn have<C: Client>(clients: &[Result<C, Value>], expected: &[String]) -> bool {
    let todos = join_all(clients.iter().flatten().map(Client::todos)).await;
    todos.iter().all(|todos| todos.as_deref() == Some(expected))
}

/// Full clients on Node 24, each with databases of its own.
#[derive(Debug, Clone)]
pub struct Nodes {
    pub dialect: String,
    /// The `url` for clients of the dialect.
    pub url: String,
    pub store: String,
    /// `plain` or `idempotent`, see `tests/clients/livestore.mjs`.
    pub materializers: String,
    pub processes: Processes,
    /// The folder for their logs.
    pub folder: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Processes {
    /// One for all writers.
    One,
    /// One for each.
    Each,
}

impl Nodes {
    /// The clients that started after the others have a process of their own in any case.
    pub async fn play(&self, round: &Round) -> Played {
        std::fs::create_dir_all(&self.folder).expect("a folder for the logs of clients");
        let shared = (self.processes == Processes::One).then(|| Node::livestore_with_log(&self.log("writers")));
        round
            .play(async |name| {
                let shared = shared.as_ref().filter(|_| name != "reader");
                let node = shared.cloned().unwrap_or_else(|| Node::livestore_with_log(&self.log(name)));
                let params = json!({
                    "url": self.url,
                    "dialect": self.dialect,
                    "storeId": self.store,
                    "materializers": self.materializers,
                });
                Device::try_on(node, name, params).await
            })
            .await
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(name).with_extension("log")
    }
}

/// Browsers with the app of `tests/web`, whose clients live in workers.
#[derive(Debug, Clone)]
pub struct Web {
    /// Of the sync backend, for `makeWsSync`.
    pub port: u16,
    pub store: String,
    pub materializers: String,
    /// One: the writers are tabs of one profile. These are sessions of one client, with one leader, and only it talks to the server.
    pub processes: Processes,
    /// The folder for their logs.
    pub folder: PathBuf,
}

impl Web {
    /// The client that starts after the others has a profile of its own in any case.
    pub async fn play(&self, round: &Round) -> Played {
        std::fs::create_dir_all(&self.folder).expect("a folder for the logs of browsers");
        let browsers = Browsers::with_log(&self.folder.join("browsers.log"));
        let app = browsers.serve_app().await;
        let url = format!("{}&materializers={}", page(&app, &self.store, self.port), self.materializers);
        let tabs = match self.processes {
            Processes::One => tabs(&browsers, &url, round.writers).await,
            Processes::Each => Vec::new(),
        };
        round
            .play(async |name| match tabs.iter().find(|(tab, _)| tab == name) {
                Some((_, tab)) => Ok(tab.clone()),
                None => browsers.try_open(name, &url).await,
            })
            .await
    }
}

/// Tabs for the writers, in one browser.
async fn tabs(browsers: &Browsers, url: &str, writers: usize) -> Vec<(String, Browser)> {
    let first = browsers.open(&writer(0), url).await;
    let mut tabs = vec![(writer(0), first.clone())];
    for name in (1..writers).map(writer) {
        let tab = browsers.open_tab(&name, &first, url).await;
        tabs.push((name, tab));
    }
    tabs
}

fn writer(number: usize) -> String {
    format!("writer-{number}")
}

/// The logs of clients in the files of a folder.
pub fn logs(folder: &Path) -> String {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path());
    let logs = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.filter_map(|path| Some(String::from_utf8_lossy(&std::fs::read(path).ok()?).into_owned())).collect()
}
