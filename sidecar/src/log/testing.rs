//! What the unit tests of the log share.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::event::Event;
use super::write::push::Push;
use super::*;
use crate::flow::Rate;
use crate::postgres::tls;

/// A database that is away.
pub fn nowhere() -> Database {
    let url = tls::parse("postgres://127.0.0.1:1/nowhere").unwrap();
    Database::new(url, tls::connector(None).unwrap(), 1).unwrap()
}

/// Logs that everybody may use, where a batch has two events of ten bytes.
pub fn public_log(tasks: &mut JoinSet<()>) -> Log {
    let per_store = Rate { things: 2.try_into().unwrap(), bytes: 1000.try_into().unwrap() };
    let config = LogConfig {
        budget: Budget::new(1 << 20, 1 << 20),
        push_timeout: Duration::from_secs(60),
        last_moment: CancellationToken::new(),
        contention_window: Duration::ZERO,
        bounds: PushBounds {
            batch_events: 2,
            event_bytes: 100,
            per_subject: per_store,
            per_store,
            new_stores_per_hour: 1.try_into().unwrap(),
        },
        authentication: Arc::new(Authentication::None),
        authorize_function: None,
    };
    Log::start(nowhere(), config, tasks)
}

pub fn store(name: &str) -> StoreId {
    StoreId::parse(name).unwrap()
}

/// So many events after one, each with `args` of so many bytes.
pub fn chain(after: i64, events: i64, bytes: usize) -> Batch {
    let args = "x".repeat(bytes);
    let event =
        |n| json!({"name": "e", "args": args, "seqNum": n + 1, "parentSeqNum": n, "clientId": "c", "sessionId": "s"});
    Batch::parse(&(after..after + events).map(event).collect::<Value>().to_string()).unwrap()
}

pub fn events(after: i64, events: i64, bytes: usize) -> Vec<Arc<Event>> {
    chain(after, events, bytes).into_last_appended(usize::MAX, DateTime::UNIX_EPOCH)
}

pub fn page(head: i64, backend_id: &str, events: Vec<Arc<Event>>) -> Page {
    Page { events, head, backend_id: backend_id.into(), share: None }
}

/// A push of one event as the committer gets it, and its answer.
pub fn push(name: &str, after: i64, bytes: usize) -> (Push, BoxFuture<'static, Result<Pushed, PushError>>) {
    let (queue, mut waiting) = CommitQueue::new(Duration::from_secs(60), CancellationToken::new());
    let (store, batch, context) = (store(name), chain(after, 1, bytes), Arc::<Context>::default());
    let space = queue.reserve(&store, &batch, &context).unwrap();
    let answer = queue.push(store, batch, None, context, space, None);
    (waiting.pushes.try_recv().unwrap(), Box::pin(answer))
}
