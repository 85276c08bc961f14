//! Faults from a seed: the same ones at the same times on the same targets, whatever the machine does.

use std::collections::HashMap;
use std::ops::Range;

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::{Fault, Kills, Link, Millis};
use crate::system::POOLED;

/// A fault, the time at which it begins, and its duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Planned {
    pub at: Millis,
    pub fault: Fault,
    pub lasts: Millis,
}

/// Clients get so long to connect before the first fault.
const FIRST: Millis = 3_000;

/// A target, which can only have one fault at a time.
#[derive(Debug, PartialEq, Eq, Hash, Clone, Copy)]
enum Target {
    Postgres,
    Sidecar(usize),
    Link(Link),
    Map,
}

/// The parts of the system that can be broken.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    pub sidecars: usize,
    /// The number of contended stores.
    pub contended: usize,
    /// The number of all stores: contended ones are the first of them.
    pub all: usize,
    pub has_standby: bool,
    pub has_shards: bool,
}

/// The faults of a run that lasts so long. The last one is over at its end.
pub fn schedule(seed: u64, length: Millis, extent: Extent) -> Vec<Planned> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut deck = Vec::new();
    let mut busy: HashMap<Target, Millis> = HashMap::new();
    let mut plan = Vec::new();
    let mut at = FIRST;
    while at < length {
        // Like cards: every kind comes before one comes again.
        if deck.is_empty() {
            let failovers = if extent.has_standby { FAILOVERS } else { 0 };
            deck = KINDS.iter().copied().chain(std::iter::repeat_n(FAIL_OVER, failovers)).collect();
            deck.shuffle(&mut random);
        }
        let Some(kind) = deck.pop() else { break };
        let (fault, lasts) = deal(kind, extent, &mut random);
        let targets = targets(fault, extent.sidecars);
        let is_free = targets.iter().all(|target| busy.get(target).is_none_or(|until| *until <= at));
        // One that does not fit is for later in this deck.
        if !is_free {
            deck.insert(0, kind);
            at += 250;
            continue;
        }
        if at + lasts <= length {
            // A moment to come back, so that the next one finds something to break.
            busy.extend(targets.into_iter().map(|target| (target, at + lasts + 1_000)));
            plan.push(Planned { at, fault, lasts });
        }
        at += random.random_range(500..3_500);
    }
    if extent.has_shards {
        plan.extend(moves(seed, length, extent));
        plan.sort_by_key(|planned| planned.at);
    }
    plan
}

/// The moves of a run, beside its other faults, which are the same without them. Nobody knows how long they take: one that begins while another
/// is under way waits for it.
fn moves(seed: u64, length: Millis, extent: Extent) -> Vec<Planned> {
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ (1 << 51));
    let (mut plan, mut at) = (Vec::new(), FIRST);
    while at < length {
        // Half of them are of stores that much is written to.
        let stores = if random.random_bool(0.5) { extent.contended } else { extent.all };
        let store = random.random_range(0..stores);
        let times = if random.random_bool(0.5) { random.random_range(1..4) } else { 0 };
        let kills = Kills { times, after: random.random_bool(0.5).then(|| random.random_range(20..600)) };
        let is_slot = random.random_bool(0.25);
        let fault = if is_slot { Fault::MoveSlot { store, kills } } else { Fault::MoveStore { store, kills } };
        plan.push(Planned { at, fault, lasts: 0 });
        at += random.random_range(2_000..6_000);
    }
    plan
}

/// The targets of a fault, for kinds that hit one of several.
struct Drawn {
    sidecar: usize,
    store: usize,
    clients: Link,
    postgres: Link,
}

/// Makes a fault of one kind, and says how long it lasts.
type Kind = fn(&Drawn, &mut dyn FnMut(Range<Millis>) -> Millis) -> (Fault, Millis);

/// The time in which a sidecar notices that Postgres does not answer: statements may take 30 s, and it waits a little longer.
const NOTICED: Millis = 40_000;

/// The kinds that any run has.
const KINDS: &[Kind] = &[
    |on, time| (Fault::Kill { sidecar: on.sidecar }, time(100..3_000)),
    |on, time| (Fault::Freeze { sidecar: on.sidecar }, time(500..8_000)),
    |_, _| (Fault::Deploy, 6_000),
    |on, time| {
        let by_seconds = time(1..100_000) as i64 * if time(0..2) == 0 { 1 } else { -1 };
        (Fault::Clock { sidecar: on.sidecar, by_seconds }, time(2_000..8_000))
    },
    |_, time| {
        let by_seconds = time(1..100_000) as i64 * if time(0..2) == 0 { 1 } else { -1 };
        (Fault::PostgresClock { by_seconds }, time(2_000..8_000))
    },
    |on, time| (Fault::Cut { link: on.clients }, time(100..4_000)),
    |on, time| (Fault::Cut { link: on.postgres }, time(100..6_000)),
    |on, time| (Fault::Stall { link: on.clients }, time(1_000..8_000)),
    |on, time| (Fault::Stall { link: on.postgres }, time(1_000..8_000)),
    |on, time| (Fault::Slow { link: on.clients, by: time(50..500) }, time(2_000..8_000)),
    |on, time| (Fault::Slow { link: on.postgres, by: time(20..200) }, time(2_000..8_000)),
    |on, _| (Fault::Reset { link: on.clients }, 0),
    |on, _| (Fault::Reset { link: on.postgres }, 0),
    |on, time| (Fault::Lose { link: on.clients }, time(2_000..8_000)),
    |on, _| (Fault::Lose { link: on.postgres }, NOTICED),
    |_, time| (Fault::StopPooler, time(100..4_000)),
    |_, time| (Fault::StopPostgres, time(500..6_000)),
    |_, time| (Fault::Terminate { one_in: time(1..4) as u32 }, 0),
    |_, time| (Fault::FillDisk, time(1_000..6_000)),
    |_, time| (Fault::Exhaust, time(1_000..6_000)),
    |_, time| (Fault::Raise, time(500..5_000)),
    |on, _| (Fault::ResetStore { store: on.store }, 1_000),
    |on, _| (Fault::Erase { store: on.store }, 500),
];

/// That of a run with a standby, which is there to be failed over to: so often in a deck.
const FAIL_OVER: Kind = |_, time| {
    let away = time(500..4_000);
    (Fault::FailOver { away }, away + REBUILD)
};
const FAILOVERS: usize = 4;

/// About the time until a lost primary is back as a standby, once the other one is promoted.
const REBUILD: Millis = 5_000;

fn deal(kind: Kind, extent: Extent, random: &mut ChaCha8Rng) -> (Fault, Millis) {
    let sidecar = random.random_range(0..extent.sidecars);
    let store = random.random_range(0..extent.contended);
    let drawn = Drawn { sidecar, store, clients: Link::Clients(sidecar), postgres: Link::Postgres(sidecar) };
    kind(&drawn, &mut |range| random.random_range(range))
}

fn targets(fault: Fault, sidecars: usize) -> Vec<Target> {
    match fault {
        Fault::Kill { sidecar } | Fault::Freeze { sidecar } | Fault::Clock { sidecar, .. } => {
            vec![Target::Sidecar(sidecar)]
        }
        // A deploy waits for connections to be drained, and for sidecars to be ready: nothing else then.
        Fault::Deploy => (0..sidecars).map(Target::Sidecar).chain([Target::Postgres]).collect(),
        Fault::StopPooler => vec![Target::Link(Link::Postgres(POOLED))],
        Fault::Cut { link }
        | Fault::Stall { link }
        | Fault::Slow { link, .. }
        | Fault::Reset { link }
        | Fault::Lose { link } => vec![Target::Link(link)],
        // `pg_ctl` compares times while it starts a server.
        Fault::PostgresClock { .. }
        | Fault::StopPostgres
        | Fault::Terminate { .. }
        | Fault::FillDisk
        | Fault::Exhaust
        | Fault::Raise
        | Fault::FailOver { .. }
        | Fault::ResetStore { .. }
        | Fault::Erase { .. } => vec![Target::Postgres],
        Fault::MoveStore { .. } | Fault::MoveSlot { .. } => vec![Target::Map],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Extent = Extent { sidecars: 3, contended: 3, all: 20, has_standby: false, has_shards: false };
    const PAIR: Extent = Extent { has_standby: true, ..ALONE };
    const SHARDS: Extent = Extent { has_shards: true, ..ALONE };

    #[test]
    fn a_seed_makes_the_same_schedule_and_another_one_another() {
        let plan = schedule(7, 60_000, ALONE);
        assert_eq!(plan, schedule(7, 60_000, ALONE));
        assert_ne!(plan, schedule(8, 60_000, ALONE));
    }

    #[test]
    fn faults_end_with_the_run_and_a_target_has_one_at_a_time() {
        for (seed, extent) in (0..200).flat_map(|seed| [(seed, ALONE), (seed, PAIR), (seed, SHARDS)]) {
            let plan = schedule(seed, 60_000, extent);
            assert!(plan.len() > 12, "{seed}: {}", plan.len());
            for (index, one) in plan.iter().enumerate() {
                assert!(one.at + one.lasts <= 60_000);
                let their = targets(one.fault, 3);
                for other in &plan[index + 1..] {
                    let shares = targets(other.fault, 3).iter().any(|target| their.contains(target));
                    assert!(!shares || other.at >= one.at + one.lasts, "{seed}: {one:?} {other:?}");
                }
            }
        }
    }

    #[test]
    fn moves_come_besides() {
        let plan = schedule(7, 60_000, SHARDS);
        let others = plan.iter().filter(|planned| targets(planned.fault, 3) != [Target::Map]);
        assert!(others.eq(&schedule(7, 60_000, ALONE)));
    }

    #[test]
    fn every_kind_comes() {
        let kinds = |extent| {
            let plan = schedule(1, 120_000, extent);
            plan.iter().map(|planned| planned.fault.kind()).collect::<std::collections::HashSet<_>>().len()
        };
        assert_eq!(kinds(ALONE), KINDS.len());
        assert_eq!(kinds(PAIR), KINDS.len() + 1);
        assert_eq!(kinds(SHARDS), KINDS.len() + 2);
    }
}
