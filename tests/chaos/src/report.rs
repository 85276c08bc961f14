//! The report at the end of a run, and the files that it leaves if something is wrong.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::checker::Violation;
use crate::faults::Planned;
use crate::history::{History, Outcome};
use crate::system::System;

/// Figures of a run.
pub fn figures(
    histories: &[History],
    faults: &BTreeMap<&'static str, usize>,
    ended_poolers: usize,
    violations: usize,
) -> String {
    let pushes = || histories.iter().flat_map(|history| &history.pushes);
    let ended = |outcomes: &[Outcome]| pushes().filter(|push| outcomes.contains(&push.outcome)).count();
    let logs = || histories.iter().flat_map(|history| &history.epochs);
    let events: usize = logs().map(|epoch| epoch.log.len()).sum();
    let streams = || histories.iter().flat_map(|history| &history.streams);
    let delivered: usize = streams().map(|stream| stream.events.len()).sum();
    let restarts: usize = streams().map(|stream| stream.restarts.len()).sum();
    let reads: usize = histories.iter().map(|history| history.reads.len()).sum();
    let kinds: Vec<_> = faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    let total: usize = faults.iter().filter(|(kind, _)| **kind != "skipped").map(|(_, count)| count).sum();
    let mut text = String::new();
    let _ = writeln!(text, "faults      {total}: {}", kinds.join(", "));
    let _ = writeln!(
        text,
        "pushes      {}: {} ok, {} rejected, {} unknown",
        pushes().count(),
        ended(&[Outcome::Ok]),
        ended(&[Outcome::ServerAhead, Outcome::Reset]),
        ended(&[Outcome::Unknown])
    );
    let _ = writeln!(text, "reads       {reads}");
    let _ = writeln!(text, "live pulls  {}, with {restarts} begun anew by the client", streams().count());
    let _ = writeln!(text, "events      {events} in logs, {delivered} delivered live");
    let follows = || histories.iter().flat_map(|history| &history.follows);
    let followed: usize = follows().map(|follow| follow.events.len()).sum();
    let _ =
        writeln!(text, "followed    {followed} events, by followers of all stores, a handler, workers and a webhook");
    let _ = writeln!(text, "histories   {} stores, {} logs", histories.len(), logs().count());
    if ended_poolers > 0 {
        let _ = writeln!(text, "poolers     {ended_poolers} ended by themselves");
    }
    let _ = write!(text, "violations  {violations}");
    text
}

/// Everything there is to find out what was wrong: the schedule, the histories, the violations with their extracts, the logs.
pub async fn leave(
    folder: &Path,
    plan: &[Planned],
    histories: &[History],
    violations: &[Violation],
    system: &System,
) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    lines(&folder.join("faults.jsonl"), plan)?;
    lines(&folder.join("violations.jsonl"), violations)?;
    for history in histories {
        let records = folder.join(&history.store);
        fs::create_dir_all(&records)?;
        lines(&records.join("logs.jsonl"), &history.epochs)?;
        lines(&records.join("pushes.jsonl"), &history.pushes)?;
        lines(&records.join("streams.jsonl"), &history.streams)?;
        lines(&records.join("reads.jsonl"), &history.reads)?;
        lines(&records.join("recoveries.jsonl"), &history.recoveries)?;
        lines(&records.join("follows.jsonl"), &history.follows)?;
        lines(&records.join("erasures.jsonl"), &history.erasures)?;
    }
    for place in &system.places {
        fs::write(folder.join(format!("sidecar-{}.log", place.number)), place.log().await)?;
    }
    for (number, cluster) in system.clusters().enumerate() {
        fs::copy(cluster.folder().join("log"), folder.join(format!("postgres-{number}.log")))?;
    }
    if let Some(shards) = &system.shards {
        fs::write(folder.join("moves.log"), shards.log().await)?;
    }
    for (number, log) in system.postgres.pooler_logs().await.iter().enumerate() {
        fs::copy(log, folder.join(format!("pooler-{number}.log")))?;
    }
    Ok(())
}

fn lines<T: Serialize>(file: &Path, records: &[T]) -> std::io::Result<()> {
    let mut text = String::new();
    for record in records {
        text.push_str(&serde_json::to_string(record)?);
        text.push('\n');
    }
    fs::write(file, text)
}
