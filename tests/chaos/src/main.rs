//! `make chaos`: clients of every dialect on several sidecars and one Postgres or a pair, or two shards, faults from a seed, and a checker that decides
//! whether what the clients saw can be.

mod checker;
mod clients;
mod faults;
mod history;
mod onlooker;
mod reactions;
mod report;
mod system;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use clap::Parser;
use livestore_tests::flavour::Flavour;

use crate::checker::Violation;
use crate::clients::{Fleet, Stores};
use crate::faults::{Extent, Injector, schedule};
use crate::history::Recorder;
use crate::onlooker::Onlookers;
use crate::reactions::Reactions;
use crate::system::System;

const SIDECARS: usize = 3;
const CONTENDED: usize = 3;
const QUIET: usize = 12;

/// Time for clients to read once from every sidecar, and what sidecars then keep of it.
const READING: Duration = Duration::from_secs(3);

/// The time that the first read of a device may take when all faults are over.
const READ_PATIENCE: Duration = Duration::from_secs(30);

/// The time between two looks at the poolers.
const SUPERVISION: Duration = Duration::from_secs(1);

/// The number of violations that are shown; all are in the file.
const SHOWN: usize = 20;

#[derive(Parser)]
struct Arguments {
    /// The seconds during which there are faults.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Makes the schedule of the faults. Without: another one each time.
    #[arg(long)]
    seed: Option<u64>,
    /// Postgres is a primary with a synchronous standby, and fails over.
    #[arg(long)]
    standby: bool,
    /// So many databases with stores, to which stores are moved while clients write, behind a front: 1 or 2. Faults other than moves are
    /// those of the first.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    shards: u8,
    /// The seconds that clients may take to be back after the last fault. A WebSocket client whose connection was lost for good notices it
    /// after up to 20 s (its second ping). Then it pauses, for up to 36 s if it has lost many before. The sidecar closes the new
    /// connection, on which it does not pull again, after 15 s, and it pauses once more: 107 s, and some for a machine with more to do.
    #[arg(long, default_value_t = 130)]
    patience: u64,
    /// The folder for the files that explain a violation.
    #[arg(long, default_value = "target/chaos")]
    out: PathBuf,
    /// Shows the schedule, and does nothing.
    #[arg(long)]
    plan: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| u64::from(rand_seed()));
    let standby = if arguments.standby { " STANDBY=1" } else { "" };
    let shards = if arguments.shards > 1 { " SHARDS=2" } else { "" };
    let flavour = match Flavour::of_tests() {
        Flavour::Native => "",
        Flavour::Portable => " FLAVOUR=portable",
    };
    println!(
        "seed {seed}, {} s; the same faults again: make chaos SECONDS={0} SEED={seed}{standby}{shards}{flavour}",
        arguments.seconds
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(run(&arguments, seed))
}

/// A seed from the clock, so that runs differ unless a seed is given.
fn rand_seed() -> u32 {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    time.map_or(0, |time| time.subsec_nanos() ^ time.as_secs() as u32) % 1_000_000
}

async fn run(arguments: &Arguments, seed: u64) -> ExitCode {
    let has_shards = arguments.shards > 1;
    let all = CONTENDED + QUIET + Reactions::stores().count();
    let extent = Extent { sidecars: SIDECARS, contended: CONTENDED, all, has_standby: arguments.standby, has_shards };
    let plan = schedule(seed, arguments.seconds * 1000, extent);
    if arguments.plan {
        for planned in &plan {
            println!("{:7.1} s  {}, for {:.1} s", planned.at as f64 / 1e3, planned.fault, planned.lasts as f64 / 1e3);
        }
        return ExitCode::SUCCESS;
    }
    let patience = Duration::from_secs(arguments.patience);
    let recorder = Recorder::start();
    let system = Arc::new(System::start(SIDECARS, arguments.standby, has_shards).await);
    let stores = Arc::new(Stores::new(CONTENDED, QUIET, Reactions::stores(), recorder.clone()));
    if let Some(shards) = &system.shards {
        stores.give_tables(shards).await;
    }
    let reactions = Reactions::start(&system, &recorder, seed).await;
    let fleet = Fleet::start(&system, &stores, &recorder, seed);
    let looked_at = stores.all().map(|store| store.name.clone()).collect();
    // The inspector is off with shards.
    let onlookers = (!has_shards).then(|| Onlookers::start(&system, &recorder, seed, looked_at));
    eprintln!("{SIDECARS} sidecars, {} clients, {} stores, {} faults", fleet.len(), CONTENDED + QUIET, plan.len());

    let supervised = Arc::clone(&system);
    let supervisor = tokio::spawn(async move {
        loop {
            tokio::time::sleep(SUPERVISION).await;
            supervised.postgres.raise_poolers().await;
        }
    });
    let injector = Arc::new(Injector::new(Arc::clone(&system), Arc::clone(&stores)));
    injector.run(&plan).await;
    let recovered = fleet.recover(&stores, &system, patience).await;
    let is_calm = recovered.is_ok();
    match recovered {
        Ok(time) => {
            eprintln!("everybody is back after {:.1} s", time.as_secs_f64());
            // Faults empty what sidecars keep. Now that they are over, only an erasure does.
            fleet.read(READING).await;
            for store in 0..CONTENDED {
                stores.erase(&system, store, true).await;
            }
            fleet.read(2 * READING).await;
            fleet.have_read(READ_PATIENCE).await;
        }
        Err(missing) => {
            eprintln!("not everybody is back after {} s:\n{}", patience.as_secs(), missing.join("\n"));
        }
    }
    fleet.end(&recorder).await;
    let unexpected = match onlookers {
        Some(onlookers) => onlookers.finish(is_calm).await,
        None => Vec::new(),
    };
    reactions.finish(&recorder, patience * 2).await;
    stores.record_logs(&system).await;

    let histories = recorder.finish();
    let unexpected = unexpected.into_iter().map(Violation::of_inspector);
    let unfinished = injector.unfinished().into_iter().map(|(store, what)| Violation::of_move(store, what));
    let disagreement = match &system.shards {
        Some(shards) => shards.agree().await.err().map(Violation::of_shards),
        None => None,
    };
    system.postgres.raise_poolers().await;
    let (excused, ended) = system.postgres.ended_poolers();
    let ended_poolers = excused + ended.len();
    let of_poolers = ended.into_iter().map(Violation::of_pooler);
    let of_system = unexpected.chain(unfinished).chain(disagreement).chain(of_poolers);
    let violations: Vec<_> = histories.iter().flat_map(checker::check).chain(of_system).collect();
    if !violations.is_empty() {
        let folder = arguments.out.join(format!("seed-{seed}"));
        report::leave(&folder, &plan, &histories, &violations, &system).await.expect("a folder for what was found");
        show(&violations);
        println!("history, violations and logs: {}", folder.display());
    }
    let counts = injector.counts.lock().unwrap_or_else(PoisonError::into_inner).clone();
    println!("seed        {seed}\n{}", report::figures(&histories, &counts, ended_poolers, violations.len()));
    assert!(!supervisor.is_finished(), "nobody has started poolers again");
    supervisor.abort();
    for place in &system.places {
        place.kill().await;
    }
    for cluster in system.clusters() {
        cluster.try_pg_ctl(&["stop", "-m", "immediate"]);
    }
    if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn show(violations: &[Violation]) {
    for Violation { rule, store, what, .. } in violations.iter().take(SHOWN) {
        println!("{rule:?} in {store}: {what}");
    }
    if violations.len() > SHOWN {
        println!("and {} more", violations.len() - SHOWN);
    }
}
