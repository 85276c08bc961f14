//! The interface that a round needs of a client.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::device::Device;

/// A full client with a store of its own.
pub trait Client {
    /// Creates the todos, each by a commit of its own, at a pace of `commitAll` in `tests/clients/livestore.mjs`.
    fn create_all(&self, ids: &[String], pace: &str) -> impl Future<Output = ()>;

    fn state(&self) -> impl Future<Output = State>;

    /// The ids in its table, in order; nothing if its store has ended.
    fn todos(&self) -> impl Future<Output = Option<Vec<String>>>;

    /// Everything that can be known of it in the end.
    fn record(&self, name: &str) -> impl Future<Output = Record>;
}

/// The state of a client, which changes while it syncs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    Runs(Status),
    /// With the cause; null when the process has ended.
    Ended(Value),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub head: i64,
    pub backend_head: i64,
    /// The number of events that the leader has not confirmed to the session.
    pub pending_in_session: usize,
    /// The number of events that the server has not confirmed to the leader.
    pub pending_in_leader: usize,
    pub is_connected: bool,
}

impl State {
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Runs(Status { is_connected: true, .. }))
    }

    pub fn is_settled(&self) -> bool {
        matches!(self, Self::Runs(Status { pending_in_session: 0, pending_in_leader: 0, .. }))
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    pub name: String,
    pub state: State,
    pub todos: Option<Vec<String>>,
    /// Unknown of a client that cannot be watched.
    pub traffic: Option<Traffic>,
    pub disk: Option<Disk>,
}

/// The number of an event and the id of its todo.
pub type Event = (i64, Option<String>);

/// The events that a client has pushed, the errors that its pushes ended with, and the events that its pull has brought.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Traffic {
    pub offered: Vec<Event>,
    pub acknowledged: Vec<Event>,
    pub failures: BTreeMap<String, usize>,
    /// The number of the last event that its pull has brought.
    pub received: i64,
}

impl Traffic {
    /// The number of pushes that the server, or the network, has refused.
    pub fn refused(&self) -> usize {
        self.failures.iter().filter(|(error, _)| *error != Self::GIVEN_UP).map(|(_, count)| count).sum()
    }

    /// The number of pushes that the client gave up because a pull brought events.
    pub fn given_up(&self) -> usize {
        self.failures.get(Self::GIVEN_UP).copied().unwrap_or(0)
    }

    const GIVEN_UP: &str = "Interrupt";
}

/// A client's own log.
#[derive(Debug, Serialize, Deserialize)]
pub struct Disk {
    /// Up to here it believes that the server has the events.
    pub head: i64,
    pub events: Vec<Event>,
}

impl Record {
    /// Of a client that could not be opened.
    pub fn of_failure(name: &str, error: Value) -> Self {
        Self { name: name.into(), state: State::Ended(error), todos: None, traffic: None, disk: None }
    }
}

impl Client for Device {
    async fn create_all(&self, ids: &[String], pace: &str) {
        // One that fails shows in the table.
        let _ = self.try_create_all(ids, pace).await;
    }

    async fn state(&self) -> State {
        match self.ask("status", json!({})).await {
            Ok(status) => State::Runs(serde_json::from_value(status).expect("a status")),
            Err(error) => State::Ended(self.ask("ended", json!({})).await.unwrap_or(error)),
        }
    }

    async fn todos(&self) -> Option<Vec<String>> {
        let rows = self.ask("todos", json!({})).await.ok()?;
        Some(rows.as_array()?.iter().filter_map(|row| Some(row["id"].as_str()?.into())).collect())
    }

    async fn record(&self, name: &str) -> Record {
        let known = async |method| self.ask(method, json!({})).await.ok();
        Record {
            name: name.into(),
            state: self.state().await,
            todos: Client::todos(self).await,
            traffic: known("traffic").await.and_then(|traffic| serde_json::from_value(traffic).ok()),
            disk: known("eventlog").await.and_then(|disk| serde_json::from_value(disk).ok()),
        }
    }
}
