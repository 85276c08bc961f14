//! `make bench`: this backend beside its peers, with the same work in the same run on the same machine. Systems take turns, round
//! by round; the results are the median of the rounds and the ratio of two medians. `make soak` and `make overload` are about
//! this backend alone, with the same clients.

mod machine;
mod measure;
mod overload;
mod report;
mod soak;
mod systems;
mod wire;
mod works;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use livestore_tests::cluster::Cluster;
use livestore_tests::peers::{S2Lite, SyncCf};

use crate::measure::Section;
use crate::systems::Ours;
use crate::works::{
    Peers, Size, Systems, cost, fan_out, growth, idle, inspector, push, read, shards, standby, start, together, update,
};

/// Postgres as one would set it on a machine of this size. Durable: fsync and synchronous_commit are on, as they are by default.
const POSTGRES_SETTINGS: &str = "shared_buffers = '2GB'\nmax_wal_size = '8GB'\nwal_compression = on\n";

const OPEN_FILES: u64 = 60_000;

#[derive(Parser)]
struct Arguments {
    /// The folder into which install-peers has put the peers.
    #[arg(long, default_value = "target/peers")]
    peers: PathBuf,
    /// The folder for the report.
    #[arg(long)]
    out: PathBuf,
    /// In under five minutes: fewer rounds, shorter ones, smaller logs.
    #[arg(long)]
    quick: bool,
    /// Only these, by their names or beginnings of them: push-1, push-64, push-1000, push-batch, inspector, read, together, fan-out, idle, cost, growth, standby, start, update, shards.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Without the peers: to look at ours.
    #[arg(long)]
    alone: bool,
    /// Not the benchmark, but a mixed load of ours for so many minutes, to see whether anything grows.
    #[arg(long, value_name = "MINUTES")]
    soak: Option<f64>,
    /// Not the benchmark, but twice the pushes that ours can commit.
    #[arg(long, conflicts_with = "soak")]
    overload: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Fifty thousand connections and some, if this user may allow them to itself.
    let _ = rlimit::Resource::NOFILE.set(OPEN_FILES, OPEN_FILES);
    let limit = rlimit::increase_nofile_limit(u64::MAX).expect("a limit");
    assert!(limit >= 12_000, "the benchmark needs 12,000 open files, and this machine allows {limit}: ulimit -n");
    // One thread: the machine belongs to what is measured.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(run(&arguments))
}

async fn run(arguments: &Arguments) -> ExitCode {
    let cluster =
        tokio::task::spawn_blocking(|| Cluster::start_with(POSTGRES_SETTINGS)).await.expect("a cluster").leak();
    let is_good = if let Some(minutes) = arguments.soak {
        soak::run(cluster, minutes, &arguments.out).await
    } else if arguments.overload {
        overload::run(cluster, &arguments.out).await
    } else {
        benchmark(cluster, arguments).await;
        true
    };
    cluster.pg_ctl(&["stop", "-m", "immediate"]);
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn benchmark(cluster: &'static Cluster, arguments: &Arguments) {
    let (rounds, seconds) = if arguments.quick { (2, 2) } else { (3, 4) };
    let time = Duration::from_secs(seconds);
    let size = &Size { rounds, time, is_quick: arguments.quick, only: arguments.only.clone() };
    let (mut sections, machine) = (Vec::new(), machine::describe(size));
    // After each work, so that one that fails does not cost the others.
    let write = |sections: &[Section]| report::write(&arguments.out, sections, &machine);
    if ["push", "inspector", "read", "together", "fan-out"].into_iter().any(|work| size.wants(work)) {
        works::say("starting the systems");
        let ours = Ours::start(cluster).await;
        let peers = if arguments.alone {
            None
        } else {
            Some(Peers {
                sync_cf: SyncCf::start(&arguments.peers).await,
                s2_lite: S2Lite::start(&arguments.peers).await,
                s2_lite_at_1_ms: S2Lite::start_with(&arguments.peers, "1ms").await,
            })
        };
        let portable = Ours::portable(cluster).await;
        let systems = Systems { ours, portable, peers };
        sections.extend(push::all(&systems, size).await);
        write(&sections);
        sections.extend(inspector::all(&systems, size).await);
        write(&sections);
        if size.wants("read") {
            sections.extend(read::all(&systems, size).await);
            write(&sections);
        }
        if size.wants("together") {
            sections.extend(together::all(&systems, size).await);
            write(&sections);
        }
        if size.wants("fan-out") {
            sections.extend(fan_out::all(&systems, size).await);
            write(&sections);
        }
    }
    // Of these there is no other side: the peers have ended, so that nothing runs beside them.
    if size.wants("idle") {
        sections.extend(idle::all(&Ours::start(cluster).await, size).await);
        write(&sections);
    }
    if size.wants("cost") {
        sections.extend(cost::all(&Ours::start(cluster).await, size).await);
        write(&sections);
    }
    if size.wants("standby") {
        sections.extend(standby::all(size).await);
        write(&sections);
    }
    if size.wants("start") {
        sections.extend(start::all(&Ours::start(cluster).await, size).await);
        write(&sections);
    }
    if size.wants("update") {
        sections.extend(update::all(cluster, size).await);
        write(&sections);
    }
    if size.wants("shards") {
        sections.extend(shards::all(size).await);
        write(&sections);
    }
    if size.wants("growth") {
        sections.extend(growth::all(cluster, size).await);
        write(&sections);
    }
}
