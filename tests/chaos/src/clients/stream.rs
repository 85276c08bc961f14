//! A live pull, as it is taken down.

use livestore_tests::client::{Client, Live};
use serde_json::Value;
use tokio::sync::mpsc;

use super::device::Happened;
use super::dialect::{erased, placed};
use crate::history::{Placed, Stream, Time};

/// One that is open, or about to be.
pub struct Following {
    pub number: u64,
    pub record: Stream,
    /// A page has come: the client knows where it is, and may push.
    pub has_page: bool,
}

impl Following {
    /// The events of a page that has come now.
    pub fn page(&mut self, message: &Value, now: Time) -> Vec<Placed> {
        self.has_page = true;
        let batch = message["value"]["batch"].as_array().map(Vec::as_slice).unwrap_or_default();
        self.record.pages.push((self.record.events.len(), now));
        self.record.erased.extend(erased(batch));
        let events: Vec<_> = batch.iter().map(placed).collect();
        let last = self.record.events.last().map_or(self.record.cursor, |placed| placed.seq_num);
        // It does so between two pages alone.
        if self.record.dialect == "s2" && events.first().is_some_and(|first| first.seq_num <= last) {
            self.record.restarts.push(self.record.events.len());
        }
        self.record.events.extend(&events);
        events
    }
}

/// Opens a live pull and hands on what it brings, until it ends or nobody wants it any more.
pub async fn follow(client: Client, cursor: i64, number: u64, happened: mpsc::UnboundedSender<Happened>) {
    let mut live: Live = client.live((cursor > 0).then_some(cursor)).await;
    while let Some(message) = live.wait().await {
        let is_over = message["event"] != "page";
        if happened.send(Happened::Heard(number, message)).is_err() || is_over {
            return;
        }
    }
}
