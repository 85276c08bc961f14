//! Makes things go wrong, and right again.

use std::collections::BTreeMap;
use std::slice;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use livestore_tests::breaker::Breaker;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Fault, Kills, Link, Millis, Planned, moves, postgres};
use crate::clients::Stores;
use crate::system::{Machine, POOLED, System};

/// The deadline of the shutdown of a sidecar.
const DEADLINE: Duration = Duration::from_secs(10);

pub struct Injector {
    pub system: Arc<System>,
    pub stores: Arc<Stores>,
    pub counts: Mutex<BTreeMap<&'static str, usize>>,
    moves: moves::Moves,
}

impl Injector {
    pub fn new(system: Arc<System>, stores: Arc<Stores>) -> Self {
        Self { system, stores, counts: Mutex::default(), moves: moves::Moves::default() }
    }

    /// Carries out a schedule, and returns when everything is healed.
    pub async fn run(self: &Arc<Self>, plan: &[Planned]) {
        let start = Instant::now();
        let mut faults = Vec::new();
        for planned in plan {
            let (injector, planned) = (Arc::clone(self), *planned);
            faults.push(tokio::spawn(async move {
                sleep_until(start + Duration::from_millis(planned.at)).await;
                injector.inject(planned).await;
            }));
        }
        for fault in faults {
            fault.await.expect("a fault that is healed");
        }
        self.system.postgres.raise().await;
    }

    /// The moves that have not ended: their stores, and why.
    pub fn unfinished(&self) -> Vec<(String, String)> {
        self.moves.unfinished()
    }

    async fn inject(&self, Planned { at, fault, lasts }: Planned) {
        let seconds = |millis: Millis| millis as f64 / 1000.0;
        if let Some(missing) = self.missing(fault) {
            eprintln!("{:7.1} s  {fault}: skipped, {missing}", seconds(at));
            *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry("skipped").or_default() += 1;
            return;
        }
        eprintln!("{:7.1} s  {fault}, for {:.1} s", seconds(at), seconds(lasts));
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(fault.kind()).or_default() += 1;
        let start = self.stores.recorder().now();
        self.carry_out(fault, Duration::from_millis(lasts)).await;
        if let Some(sidecar) = fault.disturbs() {
            self.stores.recorder().disturbed(sidecar, start);
        }
    }

    /// The requirement of a fault that this machine lacks.
    fn missing(&self, fault: Fault) -> Option<&'static str> {
        match fault {
            Fault::FillDisk if self.system.postgres.disk().is_none() => Some("which takes root and a mount"),
            Fault::Clock { .. } | Fault::PostgresClock { .. } if self.system.clock.is_none() => {
                Some("which takes libfaketime")
            }
            _ => None,
        }
    }

    async fn carry_out(&self, fault: Fault, lasts: Duration) {
        let system = &*self.system;
        if fault.cuts_off(POOLED) {
            system.postgres.excuse_poolers(Instant::now(), Instant::now() + lasts);
        }
        let _whole = if fault.breaks_postgres() { Some(system.postgres.whole().await) } else { None };
        match fault {
            Fault::Kill { sidecar } => {
                system.places[sidecar].kill().await;
                sleep(lasts).await;
                system.places[sidecar].start().await;
            }
            Fault::Freeze { sidecar } => {
                system.places[sidecar].signal("STOP").await;
                sleep(lasts).await;
                system.places[sidecar].signal("CONT").await;
            }
            Fault::Deploy => {
                for place in &system.places {
                    let (start, began) = (self.stores.recorder().now(), Instant::now());
                    if !place.terminate().await {
                        eprintln!("chaos: sidecar {} was told to end, and did not do so in order", place.number);
                    }
                    // Its deadline passed, and what was open was cut off.
                    if place.number == POOLED && began.elapsed() > DEADLINE {
                        system.postgres.excuse_poolers(began, Instant::now());
                    }
                    self.stores.recorder().shut_down(place.number, start);
                    place.start().await;
                    sleep(Duration::from_millis(500)).await;
                }
            }
            Fault::Clock { sidecar, by_seconds } => {
                if let Some(clock) = &system.clock {
                    clock.set(Machine::Sidecar(sidecar), by_seconds);
                    sleep(lasts).await;
                    clock.set(Machine::Sidecar(sidecar), 0);
                }
            }
            Fault::PostgresClock { by_seconds } => {
                if let Some(clock) = &system.clock {
                    clock.set(Machine::Postgres, by_seconds);
                    sleep(lasts).await;
                    clock.set(Machine::Postgres, 0);
                }
            }
            Fault::Cut { link } => self.disturb(link, lasts, Breaker::cut).await,
            Fault::Stall { link } => self.disturb(link, lasts, Breaker::stall).await,
            Fault::Slow { link, by } => {
                self.disturb(link, lasts, |network| network.slow(Duration::from_millis(by))).await;
            }
            Fault::Reset { link } => self.networks(link).iter().for_each(Breaker::reset),
            Fault::Lose { link } => {
                // A sidecar has to notice by itself. The clients of HTTP can't, so that their system has to.
                let near_gives_up = matches!(link, Link::Clients(_)).then_some(lasts);
                self.networks(link).iter().for_each(|network| network.lose(near_gives_up));
                sleep(lasts).await;
            }
            Fault::StopPooler => system.postgres.stop_poolers(lasts).await,
            Fault::StopPostgres => postgres::stop(system, lasts).await,
            Fault::Terminate { one_in } => postgres::terminate(system, one_in).await,
            Fault::FillDisk => postgres::fill_disk(system, lasts).await,
            Fault::Exhaust => postgres::exhaust(system, lasts).await,
            Fault::Raise => postgres::raise(system, lasts).await,
            Fault::FailOver { away } => system.postgres.fail_over(Duration::from_millis(away)).await,
            Fault::ResetStore { store } => self.stores.reset(system, store).await,
            Fault::Erase { store } => self.stores.erase(system, store, false).await,
            Fault::MoveStore { store, kills } => self.carry(store, false, kills).await,
            Fault::MoveSlot { store, kills } => self.carry(store, true, kills).await,
        }
    }

    /// Brings a store, or those of its slot, to the other shard.
    async fn carry(&self, store: usize, is_slot: bool, kills: Kills) {
        let store = self.stores.everything().nth(store);
        if let (Some(shards), Some(store)) = (&self.system.shards, store) {
            self.moves.carry_out(shards, &store.name, is_slot, kills).await;
        }
    }

    fn networks(&self, link: Link) -> &[Breaker] {
        match link {
            Link::Clients(place) => slice::from_ref(&self.system.places[place].clients),
            Link::Postgres(place) => &self.system.places[place].postgres,
        }
    }

    async fn disturb(&self, link: Link, lasts: Duration, how: impl Fn(&Breaker)) {
        self.networks(link).iter().for_each(how);
        sleep(lasts).await;
        self.networks(link).iter().for_each(Breaker::mend);
    }
}
