//! The log of a store after a round.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::Event;
use crate::client::Node;
use crate::cluster::Database;

/// The time that a client may take to read it.
const READING: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    pub number: i64,
    pub parent: i64,
    /// Of the todo.
    pub id: String,
}

#[derive(Debug, Default, Serialize)]
pub struct Log(pub Vec<Entry>);

impl Log {
    /// As Postgres has it.
    pub async fn in_postgres(database: &Database, store: &str) -> Self {
        let events = "select seq_num, parent_seq_num, coalesce(args->>'id', '') from livestore.events
            where store_id = $1 order by seq_num";
        let rows = database.admin().await.query(events, &[&store]).await.expect("the log");
        let entry = |row: &tokio_postgres::Row| Entry { number: row.get(0), parent: row.get(1), id: row.get(2) };
        Self(rows.iter().map(entry).collect())
    }

    /// As a client of sync backends that starts now reads it.
    ///
    /// # Errors
    /// The client's error.
    pub async fn as_pulled(dialect: &str, url: &str, store: &str) -> Result<Self, Value> {
        let node = Node::sync_backend_on_newer_node();
        let client = node.open(dialect, url, store).await;
        let reading = tokio::time::timeout(READING, client.pull(None)).await;
        let events = reading.unwrap_or_else(|_| Err("a pull that does not end".into()))?;
        let number = |event: &Value, field| event[field].as_i64().unwrap_or(-1);
        let entry = |event: &Value| Entry {
            number: number(event, "seqNum"),
            parent: number(event, "parentSeqNum"),
            id: event["args"]["id"].as_str().unwrap_or_default().into(),
        };
        Ok(Self(events.iter().map(entry).collect()))
    }

    /// Whether each event follows the one before it, from the beginning.
    pub fn is_chain(&self) -> bool {
        (1..).zip(&self.0).all(|(number, entry)| entry.number == number && entry.parent == number - 1)
    }

    /// The todos that were created more than once.
    pub fn doubled(&self) -> Vec<String> {
        let mut counts = BTreeMap::new();
        for Entry { id, .. } in &self.0 {
            *counts.entry(id).or_insert(0) += 1;
        }
        counts.into_iter().filter(|(_, count)| *count > 1).map(|(id, _)| id.clone()).collect()
    }

    /// The todos that it creates, in order.
    pub fn ids(&self) -> Vec<String> {
        self.0.iter().map(|entry| entry.id.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    pub fn has(&self, id: &str) -> bool {
        self.0.iter().any(|entry| entry.id == id)
    }

    pub fn has_event(&self, (number, id): &Event) -> bool {
        self.0.iter().any(|entry| entry.number == *number && Some(&entry.id) == id.as_ref())
    }
}
