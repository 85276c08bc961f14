//! `make converge`: full clients commit at the same moment on one store, another one starts, and all should end with the same. The
//! systems take turns, round by round. Clients of LiveStore 0.4.0 do not always converge, with any server (livestorejs/livestore#1530);
//! the report says how often, and why not.

mod backends;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use livestore_tests::cluster::Cluster;
use livestore_tests::convergence::{Log, Nodes, Processes, Round, Verdict, Web, logs};

use crate::backends::{Contestant, contestants};
use crate::report::{Row, Variation};

/// The folder for the logs of the clients and the details of each round.
const ROUNDS: &str = "target/converge";

#[derive(Parser)]
struct Arguments {
    /// The number of rounds of each system.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only these: cf-ws, cf-http, electric, s2, web (this backend; the last in browsers), workerd, web-workerd, s2-lite (the
    /// original ones). Without: all but the browsers.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The number of clients that commit at the same moment.
    #[arg(long, value_delimiter = ',', default_value = "2")]
    writers: Vec<usize>,
    /// The number of events that each of them commits.
    #[arg(long, value_delimiter = ',', default_value = "30")]
    events: Vec<usize>,
    /// The pace of their commits: burst (all events in one turn of the event loop), groups (ten in a turn), turns (each in a turn
    /// of its own), typing (one every 50 ms).
    #[arg(long, value_delimiter = ',', default_value = "burst")]
    pace: Vec<String>,
    /// One process for all writers, or one for each.
    #[arg(long, value_delimiter = ',', default_value = "each", value_parser = processes)]
    processes: Vec<Processes>,
    /// Whether a todo may be created twice: plain (no), as in most apps, or idempotent (yes).
    #[arg(long, value_delimiter = ',', default_value = "plain")]
    materializers: Vec<String>,
    /// Another build of the sidecar.
    #[arg(long)]
    sidecar: Option<PathBuf>,
    /// Arguments for the sidecar, separated by spaces. Given several times: one sidecar for each, compared side by side.
    #[arg(long, allow_hyphen_values = true)]
    sidecar_argument: Vec<String>,
    /// The folder into which tests/bench/install-peers has put the original backends.
    #[arg(long, default_value = "target/peers")]
    peers: PathBuf,
    /// The seconds without any change after which the clients of a round count as stuck.
    #[arg(long, default_value_t = 8)]
    stillness: u64,
    /// The seconds that the writers of a round may take, and again the client that starts after them.
    #[arg(long, default_value_t = 60)]
    limit: u64,
    /// The folder for the report. The logs of the clients stay in target/converge.
    #[arg(long, default_value = ROUNDS)]
    out: PathBuf,
}

impl Arguments {
    /// Whether it is wanted, by its name.
    fn wants(&self, name: &str) -> bool {
        let is_quick = !name.starts_with("web");
        if self.only.is_empty() { is_quick } else { self.only.iter().any(|only| only == name) }
    }
}

fn rounds() -> PathBuf {
    PathBuf::from(ROUNDS).join("rounds")
}

fn processes(name: &str) -> Result<Processes, String> {
    match name {
        "one" => Ok(Processes::One),
        "each" => Ok(Processes::Each),
        other => Err(format!("{other} is neither one nor each")),
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    // The backends run in folders of their own.
    if let Ok(peers) = arguments.peers.canonicalize() {
        arguments.peers = peers;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("a runtime").block_on(run(&arguments))
}

async fn run(arguments: &Arguments) -> ExitCode {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.expect("a cluster").leak();
    let (contestants, absent) = contestants(cluster, arguments).await;
    let mut rows = rows(&contestants, arguments);
    let _ = std::fs::remove_dir_all(rounds());
    for number in 0..arguments.rounds {
        for (index, (contestant, row)) in rows.iter_mut().enumerate() {
            let verdict = play(contestant, row, arguments, &format!("{index}-{number}")).await;
            eprintln!("converge: {}: {}", row.name(), report::line(&verdict));
            row.verdicts.push(verdict);
        }
        // The results so far, in case somebody ends the run.
        let known: Vec<_> = rows.iter().map(|(_, row)| row).collect();
        report::write(&arguments.out, &known, &absent);
    }
    let is_whole = rows.iter().filter(|(contestant, _)| contestant.is_ours()).all(|(_, row)| row.is_log_whole());
    cluster.pg_ctl(&["stop", "-m", "immediate"]);
    println!("{}", arguments.out.join("converge.md").display());
    if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Every combination of what is varied.
fn rows<'a>(contestants: &'a [Contestant], arguments: &Arguments) -> Vec<(&'a Contestant, Row)> {
    let mut rows = Vec::new();
    for variation in variations(arguments) {
        for contestant in contestants {
            let (system, dialect) = (contestant.system.clone(), contestant.dialect.into());
            let is_web = contestant.web.is_some();
            rows.push((
                contestant,
                Row { system, dialect, is_web, variation: variation.clone(), verdicts: Vec::new() },
            ));
        }
    }
    rows
}

fn variations(arguments: &Arguments) -> Vec<Variation> {
    let mut variations = Vec::new();
    for &writers in &arguments.writers {
        for &events in &arguments.events {
            for pace in &arguments.pace {
                for &processes in &arguments.processes {
                    for materializers in &arguments.materializers {
                        let (pace, materializers) = (pace.clone(), materializers.clone());
                        variations.push(Variation { writers, events, pace, processes, materializers });
                    }
                }
            }
        }
    }
    variations
}

async fn play(contestant: &Contestant, row: &Row, arguments: &Arguments, name: &str) -> Verdict {
    let round = Round {
        writers: row.variation.writers,
        events: row.variation.events,
        pace: row.variation.pace.clone(),
        stillness: Duration::from_secs(arguments.stillness),
        limit: Duration::from_secs(arguments.limit),
    };
    let (store, folder) = (format!("converge-{name}"), rounds().join(name));
    let Variation { processes, materializers, .. } = row.variation.clone();
    let before = contestant.server_ahead().await;
    let played = match contestant.web {
        Some(port) => {
            let (store, folder) = (store.clone(), folder.clone());
            Web { port, store, materializers, processes, folder }.play(&round).await
        }
        None => {
            let (dialect, url) = (row.dialect.clone(), contestant.url.clone());
            let (store, folder) = (store.clone(), folder.clone());
            Nodes { dialect, url, store, materializers, processes, folder }.play(&round).await
        }
    };
    let (log, error) = match contestant.log(&store).await {
        Ok(log) => (log, None),
        Err(error) => (Log::default(), Some(error)),
    };
    let mut verdict = Verdict::of(&played, &log, &logs(&folder));
    verdict.server_ahead = contestant.server_ahead().await.zip(before).map(|(after, before)| after - before);
    if let Some(error) = error {
        verdict.reasons.insert(format!("its log cannot be read: {error}"));
        verdict.converged = false;
    }
    report::keep(&folder, row, &verdict, &played, &log);
    verdict
}
