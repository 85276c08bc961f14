//! The calls of a device to its client. Answers come as [`Happened`].

use serde_json::json;
use tokio::time::{Instant, timeout};

use super::{Happened, InFlight, PATIENCE, Phase, Running, close};
use crate::clients::dialect::{erased, event, placed};
use crate::clients::stream::{Following, follow};
use crate::history::{Outcome, Push, Read, Stream};

impl Running {
    pub(super) fn open(&mut self) {
        let number = self.number();
        self.opening = Some(number);
        let (nodes, url, dialect) = (self.device.nodes.clone(), self.device.url.clone(), self.device.dialect);
        let (store, happened) = (self.device.store.name.clone(), self.happened.clone());
        let backend_id = self.backend_id.clone();
        tokio::spawn(async move {
            let client = dialect.open(&nodes, &url, &store, backend_id.as_deref()).await;
            let _ = happened.send(Happened::Opened(number, client));
        });
    }

    pub(super) fn pull(&mut self) {
        let number = self.number();
        let Some((_, client)) = &self.client else { return };
        let now = self.device.recorder.now();
        let cursor = self.pending.head();
        let record = Stream {
            client: self.device.number,
            dialect: self.device.dialect.name().into(),
            since: self.since,
            start: now,
            end: now,
            cursor,
            after: self.pending.last(),
            events: Vec::new(),
            pages: Vec::new(),
            erased: Vec::new(),
            restarts: Vec::new(),
            is_told_of_reset: false,
            is_of_another_log: false,
            ending: String::new(),
        };
        self.following = Some(Following { number, record, has_page: false });
        tokio::spawn(follow(client.clone(), cursor, number, self.happened.clone()));
    }

    pub(super) fn push(&mut self, now: Instant) {
        let may = self.in_flight.is_none() && !self.waits_for_pull && now >= self.next_push;
        let batch = self.pending.batch();
        if !may || !self.has_history || batch.is_empty() {
            return;
        }
        let number = self.number();
        let Some((_, client)) = &self.client else { return };
        let now = self.device.recorder.now();
        let push = Push {
            client: self.device.number,
            dialect: self.device.dialect.name().into(),
            since: self.since,
            start: now,
            end: now,
            outcome: Outcome::Unknown,
            events: batch.clone(),
        };
        let ticket = self.device.recorder.push_begins(&self.device.store.name, push);
        let events = batch.iter().copied().map(event).collect();
        let (client, happened) = (client.clone(), self.happened.clone());
        tokio::spawn(async move {
            // The device gives up before.
            if let Ok(answer) = timeout(2 * PATIENCE, client.push(events)).await {
                let _ = happened.send(Happened::Pushed(number, answer));
            }
        });
        let rebases = self.pending.rebases();
        self.in_flight = Some(InFlight { number, ticket, batch, rebases, start: Instant::now() });
    }

    /// As an app that starts elsewhere, with a client of its own: LiveStore's has a live pull on its connection and no other.
    pub(super) fn read(&mut self, phase: Phase) {
        self.is_reading = true;
        let (happened, recorder) = (self.happened.clone(), self.device.recorder.clone());
        let (number, dialect, store) = (self.device.number, self.device.dialect, self.device.store.name.clone());
        let (nodes, (sidecar, url)) = (self.device.nodes.clone(), self.device.reads_at.clone());
        tokio::spawn(async move {
            let start = recorder.now();
            let client = dialect.open(&nodes, &url, &store, None).await;
            let answer = timeout(2 * PATIENCE, client.pull(None)).await;
            let answer = answer.map_or_else(|_| Err("no answer".into()), |answer| answer.map_err(|e| e.to_string()));
            let failure = answer.as_ref().err().cloned();
            if let Ok(events) = answer {
                let (erased, events) = (erased(&events), events.iter().map(placed).collect());
                let (dialect, end) = (dialect.name().into(), recorder.now());
                recorder.read(&store, Read { client: number, dialect, sidecar, start, end, events, erased });
            }
            close(client);
            let _ = happened.send(Happened::HasRead(phase, failure));
        });
    }

    /// Asks a client of 0.3 whether it is connected: it would say nothing, and not pull again.
    pub(super) fn look(&mut self) {
        let Some((number, client)) = self.client.clone() else { return };
        let happened = self.happened.clone();
        tokio::spawn(async move {
            let answer = timeout(PATIENCE, client.call("isConnected", json!({}))).await;
            let is_connected = answer.is_ok_and(|answer| answer == Ok(json!(true)));
            let _ = happened.send(Happened::IsConnected(number, is_connected));
        });
    }
}
