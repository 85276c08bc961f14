//! Load that keeps books: writers that know what was acknowledged, followers that check every event they are sent. Both
//! recover by themselves, as LiveStore's client does: they reconnect, repeat a push whose outcome they do not know, and
//! rebase when the server is ahead.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::cluster::Database;
use crate::eventually;
use crate::rpc::{Received, Rpc};

/// Writers and followers of one store.
pub struct Load {
    store: String,
    stop: Arc<AtomicBool>,
    /// The number of events that were acknowledged so far.
    acknowledged: Arc<AtomicUsize>,
    writers: Vec<JoinHandle<usize>>,
    followers: Vec<JoinHandle<Vec<Value>>>,
    /// The number of the event at which followers end, which is unknown until the writers have stopped.
    target: tokio::sync::watch::Sender<Option<i64>>,
}

impl Load {
    /// On one store; each of the URLs gets as many writers and followers.
    pub fn start(store: &str, urls: &[String], writers: usize, followers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let target = tokio::sync::watch::Sender::new(None);
        let url = |url: &String| format!("{url}/?storeId={store}&transport=ws");
        let mut load = Self {
            store: store.into(),
            stop: Arc::clone(&stop),
            acknowledged: Arc::default(),
            writers: Vec::new(),
            followers: Vec::new(),
            target: target.clone(),
        };
        for (index, url) in urls.iter().map(url).enumerate() {
            for writer in 0..writers {
                let name = format!("{index}-{writer}");
                let acknowledged = Arc::clone(&load.acknowledged);
                let writer = Writer { url: url.clone(), store: store.into(), name, acknowledged };
                load.writers.push(tokio::spawn(writer.run(Arc::clone(&stop))));
            }
            for _ in 0..followers {
                load.followers.push(tokio::spawn(follow(url.clone(), store.into(), target.subscribe())));
            }
        }
        load
    }

    /// Waits until ten more events are acknowledged: before a fault, which is to meet a load, and after it, which the load
    /// is to survive. A pause alone lets a slow machine do nothing in between.
    pub async fn goes_on(&self) {
        let acknowledged = || self.acknowledged.load(Ordering::Relaxed);
        let before = acknowledged();
        eventually("ten more events are acknowledged", || async { acknowledged() >= before + 10 }).await;
    }

    /// Waits until the load goes on, stops the writers, lets the followers catch up, and checks the books: every
    /// acknowledged event is in the log once, the log is one chain, and every follower saw exactly the log. Returns the
    /// number of events.
    pub async fn finish(self, database: &Database) -> usize {
        self.goes_on().await;
        self.finish_with(database, 0).await
    }

    /// The same at once, with this many more events in the log than the writers know of.
    pub async fn finish_with(self, database: &Database, others: usize) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let mut acknowledged = Vec::new();
        for writer in self.writers {
            acknowledged.push(writer.await.expect("a writer"));
        }
        let admin = database.admin().await;
        let rows = admin
            .query(
                "select seq_num, parent_seq_num, args from livestore.events where store_id = $1 order by seq_num",
                &[&self.store],
            )
            .await
            .expect("the log");
        let mut head = 0;
        let mut written: HashMap<(String, i64), usize> = HashMap::new();
        let mut log = Vec::new();
        for row in &rows {
            let (seq_num, parent, args): (i64, i64, Value) = (row.get(0), row.get(1), row.get(2));
            assert_eq!(parent, head, "the log is a chain");
            head = seq_num;
            let key = (args["writer"].as_str().expect("a writer").to_string(), args["n"].as_i64().expect("a number"));
            *written.entry(key).or_default() += 1;
            log.push(args);
        }
        assert!(written.values().all(|&count| count == 1), "an event is in the log twice");
        let total = acknowledged.iter().sum::<usize>() + others;
        assert_eq!(written.len(), total, "events that were acknowledged, and events in the log");

        self.target.send_replace(Some(head));
        for follower in self.followers {
            let seen = follower.await.expect("a follower");
            assert!(seen == log, "a follower saw {} events, the log has {}", seen.len(), log.len());
        }
        total
    }
}

struct Writer {
    url: String,
    store: String,
    name: String,
    acknowledged: Arc<AtomicUsize>,
}

/// The outcome of an attempt to push.
enum Outcome {
    Acknowledged,
    ServerAhead(i64),
    Unknown,
}

impl Writer {
    /// Writes one event after the other and returns how many were acknowledged. Ends only with an outcome that it
    /// knows, so that the log must hold exactly what it counts.
    async fn run(self, stop: Arc<AtomicBool>) -> usize {
        let (mut head, mut count) = (0, 0);
        let mut connection = None;
        let mut is_unsettled = false;
        while is_unsettled || !stop.load(Ordering::Relaxed) {
            let event = json!({
                "name": "written", "args": {"writer": self.name, "n": count}, "seqNum": head + 1,
                "parentSeqNum": head, "clientId": self.name, "sessionId": "s",
            });
            match self.push(&mut connection, event).await {
                Outcome::Acknowledged => {
                    (head, count, is_unsettled) = (head + 1, count + 1, false);
                    self.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                Outcome::ServerAhead(to) => (head, is_unsettled) = (to, false),
                Outcome::Unknown => {
                    (connection, is_unsettled) = (None, true);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        count
    }

    async fn push(&self, connection: &mut Option<Rpc>, event: Value) -> Outcome {
        if connection.is_none() {
            *connection = Rpc::try_connect(&self.url).await;
        }
        let Some(rpc) = connection else {
            return Outcome::Unknown;
        };
        rpc.push(json!("push"), &self.store, json!([event])).await;
        let Ok(Received::Frame(frame)) = tokio::time::timeout(Duration::from_secs(15), rpc.receive()).await else {
            return Outcome::Unknown;
        };
        match &frame["exit"] {
            exit if exit["_tag"] == "Success" => Outcome::Acknowledged,
            exit if exit["cause"]["error"]["_tag"] == "ServerAheadError" => {
                Outcome::ServerAhead(exit["cause"]["error"]["minimumExpectedNum"].as_i64().expect("a number"))
            }
            _ => panic!("an answer that a client does not survive: {frame}"),
        }
    }
}

/// Follows a store until the target, from connection to connection, and returns the args of the events. Panics on an
/// event that is repeated, out of order or missing before another.
async fn follow(url: String, store: String, mut target: tokio::sync::watch::Receiver<Option<i64>>) -> Vec<Value> {
    let mut seen = Vec::new();
    let mut last = 0;
    let mut backend_id = None;
    loop {
        let Some(mut rpc) = Rpc::try_connect(&url).await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let cursor = match &backend_id {
            Some(id) => json!({"_tag": "Some", "value": {"backendId": id, "eventSequenceNumber": last}}),
            None => json!({"_tag": "None"}),
        };
        let payload = json!({"storeId": store, "live": true, "cursor": cursor});
        rpc.request(json!("live"), "SyncWsRpc.Pull", payload).await;
        loop {
            if target.borrow_and_update().is_some_and(|target| last >= target) {
                return seen;
            }
            let received = tokio::select! {
                received = rpc.receive_patiently() => received,
                _ = target.changed() => continue,
            };
            let Received::Frame(frame) = received else { break };
            assert_eq!(frame["_tag"], "Chunk", "{frame}");
            rpc.send(json!({"_tag": "Ack", "requestId": "live"})).await;
            backend_id = Some(frame["values"][0]["backendId"].clone());
            for event in frame["values"][0]["batch"].as_array().expect("a batch") {
                let event = &event["eventEncoded"];
                assert_eq!(event["parentSeqNum"], last, "a live stream skips, repeats or reorders");
                last = event["seqNum"].as_i64().expect("seqNum");
                seen.push(event["args"].clone());
            }
        }
    }
}
