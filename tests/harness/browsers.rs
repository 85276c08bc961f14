//! The todo app of `tests/web` in Chromium, used as a person would.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::client::Node;
use crate::convergence::{Client, Record, State};
use crate::{PATIENCE, eventually, root};

/// Browsers, each with user data of its own.
pub struct Browsers {
    node: Node,
    folder: TempDir,
}

impl Browsers {
    #[expect(clippy::new_without_default, reason = "it starts a process")]
    pub fn new() -> Self {
        Self { node: Node::browsers(), folder: crate::watchdog::folder() }
    }

    /// With what pages and workers log in a file.
    pub fn with_log(log: &Path) -> Self {
        Self { node: Node::browsers_with_log(log), folder: crate::watchdog::folder() }
    }

    /// Serves the app; its URL for a sync backend at a port is [`page`].
    pub async fn serve_app(&self) -> String {
        static BUILT: OnceCell<()> = OnceCell::const_new();
        BUILT.get_or_init(build).await;
        self.node.call("serve", json!({})).await.expect("the app").as_str().expect("a URL").into()
    }

    pub async fn open(&self, name: &str, url: &str) -> Browser {
        self.try_open(name, url).await.expect("a browser")
    }

    /// The same where the app may not come up.
    ///
    /// # Errors
    /// The condition that the driver waited for in vain.
    pub async fn try_open(&self, name: &str, url: &str) -> Result<Browser, Value> {
        self.start(name, url, &json!([])).await
    }

    /// With these cookies, as Playwright takes them.
    pub async fn open_with_cookies(&self, name: &str, url: &str, cookies: &Value) -> Browser {
        self.start(name, url, cookies).await.expect("a browser")
    }

    async fn start(&self, name: &str, url: &str, cookies: &Value) -> Result<Browser, Value> {
        let browser = Browser { node: self.node.clone(), name: name.into() };
        let directory = self.folder.path().join(name);
        browser.ask("open", json!({"directory": directory, "url": url, "cookies": cookies})).await?;
        Ok(browser)
    }

    /// One more tab in the browser of another profile: another session of the same client.
    pub async fn open_tab(&self, name: &str, of: &Browser, url: &str) -> Browser {
        let browser = Browser { node: self.node.clone(), name: name.into() };
        browser.call("tab", json!({"of": of.name, "url": url})).await;
        browser
    }
}

impl Drop for Browsers {
    /// Browsers that still run would write to the folder while it is removed.
    fn drop(&mut self) {
        self.node.terminate();
    }
}

async fn build() {
    let mut npm = Command::new("npm");
    npm.args(["run", "build"]).current_dir(root().join("tests/web")).kill_on_drop(true);
    let output =
        tokio::time::timeout(4 * PATIENCE, npm.output()).await.expect("the app is built in time").expect("npm");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// The URL of the app on a store of the sync backend at a port.
pub fn page(app: &str, store: &str, port: u16) -> String {
    format!("{app}?storeId={store}&sync=ws://127.0.0.1:{port}")
}

/// A profile of a browser, or a tab of one.
#[derive(Clone)]
pub struct Browser {
    node: Node,
    name: String,
}

impl Browser {
    async fn ask(&self, method: &str, mut params: Value) -> Result<Value, Value> {
        params["profile"] = json!(self.name);
        self.node.ask(method, params).await.unwrap_or(Err(Value::Null))
    }

    /// Asks the driver, which answers.
    pub async fn call(&self, method: &str, params: Value) -> Value {
        let answer = self.ask(method, params).await;
        answer.unwrap_or_else(|error| panic!("{method} in browser {}: {error}", self.name))
    }

    pub async fn sign_in(&self, email: &str, password: &str) {
        self.call("signIn", json!({"email": email, "password": password})).await;
    }

    /// Until the page has its form to sign in again.
    pub async fn sign_out(&self) {
        self.call("signOut", json!({})).await;
    }

    pub async fn add(&self, text: &str) {
        self.call("add", json!({"text": text})).await;
    }

    pub async fn complete(&self, text: &str) {
        self.call("complete", json!({"text": text})).await;
    }

    pub async fn reload(&self) {
        self.call("reload", json!({})).await;
    }

    /// The list on the page; completed todos have a check mark.
    pub async fn todos(&self) -> Vec<String> {
        let todos = self.call("todos", json!({})).await;
        let line = |todo: &Value| {
            let mark = if todo["completed"] == true { "✓ " } else { "" };
            format!("{mark}{}", todo["text"].as_str().expect("a text"))
        };
        todos.as_array().expect("todos").iter().map(line).collect()
    }

    /// Waits until the page has exactly this list.
    pub async fn shows(&self, list: &[&str]) {
        let what = format!("browser {} shows {list:?}", self.name);
        eventually(&what, || async { self.todos().await == list }).await;
    }

    /// Waits until the page says this about its connection.
    pub async fn says(&self, status: &str) {
        let what = format!("browser {} says {status}", self.name);
        eventually(&what, || async { self.call("status", json!({})).await == status }).await;
    }

    /// Saves a picture of the page for people to look at.
    pub async fn picture(&self, name: &str) {
        let folder = root().join("target/test-artifacts/web");
        std::fs::create_dir_all(&folder).expect("a folder");
        self.call("screenshot", json!({"path": folder.join(name).with_extension("png")})).await;
    }

    /// The errors of the page and of its worker.
    pub async fn errors(&self) -> Vec<String> {
        let errors = self.call("errors", json!({})).await;
        errors.as_array().expect("errors").iter().map(|error| error.as_str().expect("a text").into()).collect()
    }
}

impl Client for Browser {
    async fn create_all(&self, ids: &[String], pace: &str) {
        // A failure shows in the list.
        let _ = self.ask("createAll", json!({"ids": ids, "pace": pace})).await;
    }

    async fn state(&self) -> State {
        match self.ask("syncState", json!({})).await {
            Ok(Value::Null) => {
                let errors = self.ask("errors", json!({})).await.unwrap_or_default();
                let last = errors.as_array().and_then(|errors| errors.last()).cloned().unwrap_or_default();
                State::Ended(json!({"_tag": "Console", "message": last}))
            }
            Ok(status) => State::Runs(serde_json::from_value(status).expect("a status")),
            Err(error) => State::Ended(error),
        }
    }

    async fn todos(&self) -> Option<Vec<String>> {
        serde_json::from_value(self.ask("ids", json!({})).await.ok()?).ok()
    }

    /// The pushes of the worker, and the contents of the browser's storage, cannot be seen from the page.
    async fn record(&self, name: &str) -> Record {
        let (state, todos) = (self.state().await, Client::todos(self).await);
        Record { name: name.into(), state, todos, traffic: None, disk: None }
    }
}
