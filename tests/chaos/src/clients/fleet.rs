//! All the devices of a run.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use livestore_tests::client::Node;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::Stores;
use super::device::{Device, Phase, Status};
use super::dialect::{Dialect, Nodes};
use super::stores::Store;
use crate::history::{Recorder, Recovery};
use crate::system::System;

/// So many clients of each dialect write to a contended store, so many clients of any to a quiet one.
const EACH_ON_CONTENDED: usize = 2;
const ON_QUIET: usize = 2;

/// While devices recover, those that are not back are told so often.
const TELLING: Duration = Duration::from_secs(20);

pub struct Fleet {
    devices: Vec<Member>,
    phase: watch::Sender<Phase>,
    /// They live as long as their clients.
    _nodes: Vec<Nodes>,
}

struct Member {
    store: usize,
    store_name: String,
    dialect: Dialect,
    status: Arc<Status>,
    running: JoinHandle<Recovery>,
}

impl Fleet {
    pub fn start(system: &System, stores: &Stores, recorder: &Recorder, seed: u64) -> Self {
        let node = |_| Nodes { new: Node::sync_backend_on_newer_node(), old: Node::sync_backend_0_3() };
        let nodes: Vec<_> = (0..2).map(node).collect();
        let mut fleet = Self { devices: Vec::new(), phase: watch::Sender::new(Phase::Write), _nodes: nodes };
        for (index, store) in stores.all().enumerate() {
            let is_contended = index < stores.contended.len();
            let count = if is_contended { EACH_ON_CONTENDED * Dialect::ALL.len() } else { ON_QUIET };
            for n in 0..count {
                let number = fleet.devices.len();
                let dialect = Dialect::ALL[(index + n) % Dialect::ALL.len()];
                // Those of one store, and of one dialect, are at different sidecars.
                let place = |number: usize| &system.places[number % system.places.len()];
                let (url, reads_at) = (place(number).url(), (place(number + 1).number, place(number + 1).url()));
                let pace = Duration::from_millis(if is_contended { 900 } else { 3_000 });
                fleet.add(Start { index, store, number, dialect, url, reads_at, pace, recorder, seed });
            }
        }
        fleet
    }

    fn add(&mut self, start: Start<'_>) {
        let Start { index, store, number, dialect, url, reads_at, pace, recorder, seed } = start;
        let status = Arc::<Status>::default();
        let number = u32::try_from(number).unwrap_or(u32::MAX);
        let device = Device {
            number,
            dialect,
            nodes: self._nodes[index % self._nodes.len()].clone(),
            url,
            reads_at,
            store: Arc::clone(store),
            recorder: recorder.clone(),
            random: ChaCha8Rng::seed_from_u64(seed ^ (u64::from(number) << 32)),
            pace,
            reads_every: Duration::from_secs(4),
            status: Arc::clone(&status),
        };
        let running = tokio::spawn(device.run(self.phase.subscribe()));
        self.devices.push(Member { store: index, store_name: store.name.clone(), dialect, status, running });
    }

    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// Lets every device write one more event, and waits until all are acknowledged and everybody has everything, at most so
    /// long.
    ///
    /// # Errors
    /// The devices that are not back, a line each.
    pub async fn recover(&self, stores: &Stores, system: &System, patience: Duration) -> Result<Duration, Vec<String>> {
        self.phase.send_replace(Phase::Recover);
        let (start, mut told) = (Instant::now(), TELLING);
        loop {
            sleep(Duration::from_millis(200)).await;
            let has_recovered = |device: &Member| device.status.has_recovered.load(Ordering::Relaxed);
            let is_late = start.elapsed() >= patience;
            if !is_late && start.elapsed() <= told && !self.devices.iter().all(has_recovered) {
                continue;
            }
            let heads = stores.heads(system).await;
            let head = |device: &Member| device.status.head.load(Ordering::Relaxed);
            let missing: Vec<String> = self
                .devices
                .iter()
                .filter(|device| !has_recovered(device) || head(device) != heads[device.store])
                .map(|device| {
                    let acknowledged = if has_recovered(device) { "acknowledged" } else { "not acknowledged" };
                    let Member { store_name, dialect, store, status, .. } = device;
                    let state = status.state.lock().unwrap_or_else(PoisonError::into_inner);
                    format!(
                        "{dialect:?} of {store_name}, at {} of {}, its last push {acknowledged}: {state}",
                        head(device),
                        heads[*store]
                    )
                })
                .collect();
            match missing {
                none if none.is_empty() => return Ok(start.elapsed()),
                missing if is_late => return Err(missing),
                missing if start.elapsed() > told => {
                    eprintln!("not back after {} s:\n{}", told.as_secs(), missing.join("\n"));
                    told += TELLING;
                }
                _ => {}
            }
        }
    }

    /// Lets every device read for so long, and write nothing.
    pub async fn read(&self, time: Duration) {
        self.phase.send_replace(Phase::Read);
        sleep(time).await;
    }

    /// Waits until every device has read, at most so long.
    pub async fn have_read(&self, patience: Duration) {
        let start = Instant::now();
        let has_read = |device: &Member| device.status.has_read.load(Ordering::Relaxed);
        while start.elapsed() < patience && !self.devices.iter().all(has_read) {
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ends all devices, and takes down what became of them.
    pub async fn end(self, recorder: &Recorder) {
        self.phase.send_replace(Phase::End);
        for device in self.devices {
            let recovery = device.running.await.expect("a device");
            recorder.recovery(&device.store_name, recovery);
        }
    }
}

/// The parts of a device.
struct Start<'a> {
    index: usize,
    store: &'a Arc<Store>,
    number: usize,
    dialect: Dialect,
    url: String,
    reads_at: (usize, String),
    pace: Duration,
    recorder: &'a Recorder,
    seed: u64,
}
