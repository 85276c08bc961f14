//! Helpers of the log's unit tests.
use std::sync::Arc;

use chrono::DateTime;
use clap::Parser;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::event::Event;
use super::write::push::{Intended, Push};
use super::write::queue::CommitQueue;
use super::*;
use crate::postgres::DatabaseSettings;
use crate::shutdown::Ending;
use crate::webhook::WebhookSettings;

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    database: DatabaseSettings,
    #[command(flatten)]
    log: LogSettings,
    #[command(flatten)]
    webhooks: WebhookSettings,
}

fn settings() -> Settings {
    settings_with(&[])
}

fn settings_with(more: &[&str]) -> Settings {
    let database = ["test", "--database-url=postgres://127.0.0.1:1/nowhere", "--database-connections=1"];
    let times = ["--push-timeout=60s", "--contention-window=0s", "--max-batch-events=2", "--new-stores-per-hour=1"];
    let rates = ["pushes", "store-pushes"].map(|name| format!("--{name}-per-second=2"));
    let bytes = ["push-bytes", "store-bytes"].map(|name| format!("--{name}-per-second=1000"));
    let given = database
        .into_iter()
        .chain(times)
        .map(String::from)
        .chain(rates)
        .chain(bytes)
        .chain(more.iter().map(|text| (*text).to_owned()));
    let mut settings = Settings::parse_from(given);
    settings.log.push.max_event_bytes = 100;
    settings
}

/// A database that is away.
pub fn nowhere() -> Database {
    settings().database.database().unwrap()
}

/// One that nobody needs.
pub async fn asleep() -> Database {
    let database = settings_with(&["--database-idle-close=1s"]).database.database().unwrap();
    tokio::select! {
        () = database.demand().watch(|| false, || ()) => {}
        () = database.demand().asleep() => {}
    }
    database
}

/// Logs that everybody may use, where a batch has two events of a hundred bytes.
pub fn public_log(tasks: &mut JoinSet<()>) -> Log {
    public_log_with(tasks, settings())
}

/// The same with this time limit of pushes.
pub fn public_log_within(tasks: &mut JoinSet<()>, push_timeout: Duration) -> Log {
    let mut settings = settings();
    settings.log.push_timeout = push_timeout;
    public_log_with(tasks, settings)
}

fn public_log_with(tasks: &mut JoinSet<()>, settings: Settings) -> Log {
    let memory = Memory::new(1 << 20, 1 << 20);
    let webhooks = settings.webhooks.webhooks().unwrap();
    Log::start(
        Databases::One(nowhere()),
        settings.log,
        webhooks,
        memory,
        Arc::new(Authentication::None),
        Ending::default(),
        tasks,
    )
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
    Page { events: events.into(), head, backend_id: backend_id.into(), share: None }
}

/// A push of one event as the committer gets it, and its answer.
pub fn push(name: &str, after: i64, bytes: usize) -> (Push, BoxFuture<'static, Result<Pushed, PushError>>) {
    let (queue, mut waiting) = CommitQueue::new(CancellationToken::new());
    let (store, batch, context) = (store(name), chain(after, 1, bytes), Arc::<Context>::default());
    let space = queue.reserve(&store, &batch, &context).unwrap();
    let answer = queue.push(store, batch, Intended::Any, context, space, None);
    (waiting.pushes.try_recv().unwrap(), Box::pin(answer))
}
