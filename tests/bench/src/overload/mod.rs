//! `make overload`: twice the pushes that can be committed, from clients that do not wait for one another. Those that are accepted have
//! to be answered soon, the others refused at once, the memory has to stay bounded, and afterwards all has to be as before. Then as
//! much as connections allow, over HTTP and over WebSocket.
//!
//! The table has a hook that takes a millisecond an event. So it is Postgres that limits, as it would be elsewhere, and not the machine
//! that the generator shares.

mod clients;
mod full_speed;
mod results;

use std::path::Path;
use std::time::{Duration, Instant};

use livestore_tests::cluster::Cluster;
use livestore_tests::sidecar::Sidecar;
use tokio::task::JoinSet;

use self::clients::{Clients, Transport};
use self::full_speed::FullSpeed;
use self::results::{Results, Window, is_acknowledged};
use crate::measure::cpu_time;
use crate::systems::Ours;
use crate::works::say;

const HOOK: &str =
    "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(0.001); return new; end $$;
    create trigger slow before insert on livestore.eventlog_1 for each row execute function slow()";

/// The writers that measure the capacity: enough for large groups, too few for a queue.
const WRITERS: usize = 128;

const CAPACITY: Duration = Duration::from_secs(10);
const HALF: Duration = Duration::from_secs(10);
const TWICE: Duration = Duration::from_secs(60);

/// Whether all was well. `overload.json` and `overload.svg` are put into the folder.
pub async fn run(cluster: &'static Cluster, folder: &Path) -> bool {
    let ours = Ours::start(cluster).await;
    let admin = ours.database.admin().await;
    admin.batch_execute(HOOK).await.expect("a hook");
    let clients = Clients::new(ours.sidecar.port(), Transport::Http, "overload");

    say(format!("capacity: {WRITERS} writers for {CAPACITY:?}"));
    let start = Instant::now();
    clients.push_in_turn(WRITERS, CAPACITY).await;
    let mut all = clients.take_answers();
    let capacity = all.iter().filter(is_acknowledged).count() as f64 / start.elapsed().as_secs_f64();

    let mut load = Load { clients: &clients, sidecar: &ours.sidecar, pushes: JoinSet::new(), peak: 0 };
    say(format!("half of {capacity:.0} a second for {HALF:?}"));
    let before = load.run(capacity / 2.0, HALF).await;
    let memory_before = ours.sidecar.memory();
    say(format!("twice as many as can be committed for {TWICE:?}"));
    let cpu = cpu_time();
    let overload = load.run(capacity * 2.0, TWICE).await;
    let generator_cores = (cpu_time() - cpu).as_secs_f64() / TWICE.as_secs_f64();
    say(format!("half for {HALF:?}"));
    let after = load.run(capacity / 2.0, HALF).await;
    let peak = load.finish().await;
    all.extend(clients.take_answers());
    let mut full_speed = Vec::new();
    for (transport, stores) in [(Transport::Http, "full-speed-http"), (Transport::WebSocket, "full-speed-ws")] {
        let (result, answers) = FullSpeed::run(&ours, transport, stores).await;
        full_speed.push(result);
        all.extend(answers);
    }

    let stored: i64 = admin.query_one("select count(*) from livestore.events", &[]).await.expect("a count").get(0);
    let results = Results::new(&all, capacity, [before, overload, after])
        .with_memory(memory_before, peak)
        .with_generator(generator_cores, clients.connections())
        .with_full_speed(full_speed)
        .with_stored(stored);
    results.write(folder);
    results.report()
}

/// Load of changing rates; pushes that one rate has left unanswered go on during the next.
struct Load<'a> {
    clients: &'a std::sync::Arc<Clients>,
    sidecar: &'a Sidecar,
    pushes: JoinSet<()>,
    /// The most memory that the sidecar had, in bytes.
    peak: u64,
}

impl Load<'_> {
    async fn run(&mut self, rate: f64, time: Duration) -> Window {
        let start = Instant::now();
        let Self { clients, sidecar, pushes, peak } = self;
        clients.push_at_rate(rate, time, pushes, || *peak = (*peak).max(sidecar.memory())).await;
        Window { start, end: start + time }
    }

    /// Waits for the last answers.
    async fn finish(self) -> u64 {
        self.pushes.join_all().await;
        self.peak
    }
}
