//! A device of a user: a full LiveStore client in a process of its own, with what it keeps on disk.

use std::path::PathBuf;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::Node;
use crate::cluster::Database;
use crate::eventually;

pub struct Device {
    pub node: Node,
    name: String,
    params: Value,
    folder: TempDir,
}

impl Device {
    /// `@livestore/adapter-node` 0.4.0 with `makeWsSync`, on the store `todos` of the sidecar on this port.
    pub async fn open(name: &str, port: u16) -> Self {
        Self::on(Node::livestore(), name, json!({"url": format!("ws://127.0.0.1:{port}")})).await
    }

    /// The same with `makeHttpSync`.
    pub async fn open_over_http(name: &str, port: u16) -> Self {
        let params = json!({"url": format!("http://127.0.0.1:{port}"), "dialect": "cf-http"});
        Self::on(Node::livestore_over_http(), name, params).await
    }

    /// The same with `makeSyncBackend` of `@livestore/sync-electric`, of which the endpoint is `/api/electric` behind the URL.
    pub async fn open_electric(name: &str, url: &str) -> Self {
        Self::on(Node::livestore_over_http(), name, json!({"url": url, "dialect": "electric"})).await
    }

    /// The same with `makeSyncBackend` of `@livestore/sync-s2`.
    pub async fn open_s2(name: &str, url: &str) -> Self {
        Self::on(Node::livestore_over_http(), name, json!({"url": url, "dialect": "s2"})).await
    }

    /// `@livestore/adapter-node` 0.3.1 with `makeCfSync`.
    pub async fn open_0_3(name: &str, port: u16) -> Self {
        Self::on(Node::livestore_0_3(), name, json!({"url": format!("ws://127.0.0.1:{port}")})).await
    }

    /// By the name of its dialect, on another store.
    pub async fn open_in(store: &str, dialect: &str, name: &str, port: u16) -> Self {
        let (node, scheme) = match dialect {
            "cf-ws" => (Node::livestore(), "ws"),
            _ => (Node::livestore_over_http(), "http"),
        };
        let url = format!("{scheme}://127.0.0.1:{port}");
        Self::on(node, name, json!({"url": url, "dialect": dialect, "storeId": store})).await
    }

    /// In this process, which may hold others, with these parameters of the driver's `open`.
    pub async fn on(node: Node, name: &str, params: Value) -> Self {
        Self::try_on(node, name, params).await.expect("a store")
    }

    /// The same where it may fail.
    ///
    /// # Errors
    /// The client's error, or null when its process has ended.
    pub async fn try_on(node: Node, name: &str, mut params: Value) -> Result<Self, Value> {
        let folder = crate::watchdog::folder();
        if params.get("storeId").is_none() {
            params["storeId"] = json!("todos");
        }
        params["clientId"] = json!(name);
        params["directory"] = json!(folder.path());
        node.ask("open", params.clone()).await.unwrap_or(Err(Value::Null))?;
        Ok(Self { node, name: name.into(), params, folder })
    }

    /// Loads the app again, one of 0.4, with what is on its disk.
    pub async fn reload(&mut self) {
        self.node = match self.params["dialect"].as_str() {
            None | Some("cf-ws") => Node::livestore(),
            _ => Node::livestore_over_http(),
        };
        self.node.call("open", self.params.clone()).await.expect("a store");
    }

    /// Asks its client, in the process that it may share with others.
    ///
    /// # Errors
    /// The client's error, or null when its process has ended.
    pub async fn ask(&self, method: &str, mut params: Value) -> Result<Value, Value> {
        params["clientId"] = json!(self.name);
        self.node.ask(method, params).await.unwrap_or(Err(Value::Null))
    }

    /// The database of its event log, of a client of 0.4.
    pub fn eventlog(&self) -> PathBuf {
        let store = self.params["storeId"].as_str().expect("a store");
        self.folder.path().join(store).join("eventlog@6.db")
    }

    pub async fn create(&self, id: &str) {
        self.ask("commit", json!({"event": "todoCreated", "args": todo(id)})).await.expect("a commit");
    }

    /// Creates all of them, each by a commit of its own, at a pace of `commitAll`.
    ///
    /// # Errors
    /// The client's error, or null when its process has ended.
    pub async fn try_create_all(&self, ids: &[String], pace: &str) -> Result<(), Value> {
        let args: Vec<_> = ids.iter().map(|id| todo(id)).collect();
        self.ask("commitAll", json!({"event": "todoCreated", "args": args, "pace": pace})).await.map(drop)
    }

    /// The ids of the todos in its table.
    pub async fn todos(&self) -> Vec<String> {
        let rows = self.ask("todos", json!({})).await.expect("rows");
        rows.as_array().expect("rows").iter().map(|row| row["id"].as_str().expect("an id").into()).collect()
    }

    pub async fn status(&self) -> Value {
        self.ask("status", json!({})).await.expect("a status")
    }

    /// Waits until the table holds exactly these and the server has everything.
    pub async fn settles(&self, ids: &[&str]) {
        let name = &self.name;
        eventually(&format!("the table of {name} holds {ids:?}"), || async { self.todos().await == ids }).await;
        eventually(&format!("{name} has nothing pending"), || async { self.status().await["pending"] == 0 }).await;
    }
}

fn todo(id: &str) -> Value {
    json!({"id": id, "text": format!("todo {id}")})
}

/// A device of each dialect of LiveStore 0.4, each with a store of its own, of the dialect's name: full clients that commit at
/// the same moment can lose events (`docs/known-problems.md`).
pub struct Fleet(Vec<Device>);

impl Fleet {
    pub const DIALECTS: [&str; 4] = ["cf-ws", "cf-http", "electric", "s2"];

    pub async fn open(name: &str, port: u16) -> Self {
        let open = async |dialect: &str| Device::open_in(dialect, dialect, &format!("{name}-{dialect}"), port).await;
        Self(join_all(Self::DIALECTS.map(open)).await)
    }

    pub async fn create(&self, id: &str) {
        join_all(self.0.iter().map(|device| device.create(id))).await;
    }

    /// A commit by somebody else, of which the devices have to be told.
    pub async fn hears_of(database: &Database, id: &str) {
        let admin = database.admin().await;
        for store in Self::DIALECTS {
            let args = json!({"id": id, "text": "by somebody else"});
            let commit = "select livestore.commit($1, 'todoCreated', $2::json)";
            admin.execute(commit, &[&store, &args]).await.expect("a commit");
        }
    }

    pub async fn settles(&self, ids: &[&str]) {
        join_all(self.0.iter().map(|device| device.settles(ids))).await;
    }
}
