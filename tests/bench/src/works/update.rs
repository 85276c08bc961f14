//! The update of the extension from the release before, in a database with many events, while others push.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use livestore_tests::cluster::{Cluster, Database};
use serde_json::json;
use tokio_postgres::Client;

use super::{Size, say};
use crate::measure::{Bound, Figure, Section, milliseconds};

const RELEASE: &str = "0.2.0";
const STORES: i64 = 2_000;
const WRITERS: i64 = 4;

/// Before and after the update.
const AROUND: Duration = Duration::from_secs(5);

const BEFORE: &str = "before the update";
const DURING: &str = "while it runs";

/// Pushes one event at a time to stores that nobody else writes to. Returns when each push began, how long it took, and the errors.
async fn push(
    client: Client,
    writer: i64,
    events: i64,
    is_over: Arc<AtomicBool>,
) -> (Vec<(Instant, Duration)>, Vec<String>) {
    let (mut pushes, mut errors) = (Vec::new(), Vec::new());
    let mut head = events;
    while !is_over.load(Ordering::Relaxed) {
        for store in (0..STORES).filter(|store| store % WRITERS == writer) {
            let event = json!([{
                "name": "todoCreated", "args": {"id": head.to_string(), "text": "buy milk"},
                "seqNum": head + 1, "parentSeqNum": head, "clientId": "c", "sessionId": "s"
            }]);
            let start = Instant::now();
            // Not prepared: an update drops what a prepared statement refers to.
            let push = format!("select livestore.push('store-{store}', '{event}')");
            // One that is under way in a function that the update drops fails, and is repeated, as sidecars do.
            while let Err(error) = client.batch_execute(&push).await {
                errors.push(error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().into()));
            }
            pushes.push((start, start.elapsed()));
        }
        head += 1;
    }
    (pushes, errors)
}

/// The release before, with logs that are all as long.
async fn filled(database: &Database, events: i64) -> Client {
    let admin = database.admin().await;
    let fill = format!(
        "drop extension livestore_sync; create extension livestore_sync version '{RELEASE}';
        insert into livestore.stores (store_id, head, backend_id)
            select 'store-' || n, {events}, 'backend-' || n from generate_series(0, {last}) n;
        insert into livestore.eventlog_1
            select s.id, e, e - 1, 'todoCreated', json_build_object('id', e::text, 'text', 'buy milk, bread and apples'), 'client', 'session', now()
            from livestore.stores s, generate_series(1, {events}) e;
        vacuum analyze livestore.eventlog_1; vacuum analyze livestore.stores; checkpoint",
        last = STORES - 1,
    );
    for statement in fill.split(';') {
        admin.batch_execute(statement).await.expect(statement);
    }
    admin
}

/// The sequential scans of event logs so far.
async fn scans(admin: &Client) -> i64 {
    let scans = "select coalesce(sum(seq_scan), 0)::bigint from pg_stat_user_tables where relname like 'eventlog%'";
    admin.query_one(scans, &[]).await.expect("statistics").get(0)
}

pub async fn all(cluster: &'static Cluster, size: &Size) -> Vec<Section> {
    let each = if size.is_quick { 500 } else { 10_000 };
    let title = format!(
        "Update from {RELEASE} with {} million events, while {WRITERS} connections push: the longest push",
        each * STORES / 1_000_000
    );
    say(&title);
    let database = cluster.database().await;
    let admin = filled(&database, each).await;
    let scanned = scans(&admin).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let client = database.admin().await;
        writers.push(tokio::spawn(push(client, writer, each, Arc::clone(&is_over))));
    }
    let start = Instant::now();
    tokio::time::sleep(AROUND).await;
    let update = Instant::now();
    let updated = database.admin().await.batch_execute("alter extension livestore_sync update").await;
    updated.expect("the update");
    let took = update.elapsed();
    tokio::time::sleep(AROUND).await;
    is_over.store(true, Ordering::Relaxed);
    let (mut before, mut during, mut errors) = (Duration::ZERO, Duration::ZERO, Vec::new());
    for writer in writers {
        let (pushes, failed) = writer.await.expect("a writer");
        errors.extend(failed);
        for (began, length) in pushes {
            let longest = if began + length < update { &mut before } else { &mut during };
            *longest = length.max(*longest);
        }
    }
    assert!(start + AROUND <= update && before > Duration::ZERO, "nothing was pushed");
    // Statistics are written when a session is idle.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let scanned = scans(&admin).await - scanned;
    let figures =
        vec![Figure::new(BEFORE, vec![milliseconds(before)]), Figure::new(DURING, vec![milliseconds(during)])];
    let section = Section::new("update", title, "ms", figures);
    vec![section.claim("1 s", milliseconds(during) / 1000.0, Bound::AtMost(1.0)).note(format!(
        "The update took {:.0} ms. It read the event logs from end to end {scanned} times, and {} pushes failed and were repeated{}",
        milliseconds(took),
        errors.len(),
        errors.first().map_or_else(|| ".".into(), |error| format!(", the first with: {error}"))
    ))]
}
