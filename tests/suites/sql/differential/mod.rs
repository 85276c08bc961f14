//! Both flavours do the same: two databases get the same random pushes, and everything that is returned, notified and stored is
//! compared, but for times and random texts.

mod batches;
mod side;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use batches::{Batch, batch};
use livestore_tests::cluster::Cluster;
use side::Pair;

/// Hooks as applications have them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Hooks {
    None,
    /// Writes down each event, with what is known of its request.
    Witness,
    /// The same, deferred to the commit.
    Deferred,
    /// Rejects events named `bad`, and changes those named `changed`.
    Before,
    /// Appends to another store.
    Relay,
}

#[derive(Debug, Clone)]
pub struct Push {
    /// Of a few stores.
    pub store: usize,
    pub batch: Batch,
    pub backend_id: Belief,
    pub context: Option<&'static str>,
}

/// The backend id that a client believes in.
#[derive(Debug, Clone, Copy)]
pub enum Belief {
    None,
    Right,
    Wrong,
}

#[derive(Debug, Clone)]
pub enum Step {
    Group(Vec<Push>),
    /// `livestore.push`.
    Single(Push),
    Commit(usize, Option<&'static str>),
    Dedicate(usize),
    Reset(usize),
    Drop(usize),
    Hooks(Hooks),
    Read {
        store: usize,
        after: i64,
        max_events: i32,
        max_bytes: i32,
    },
}

fn push() -> impl Strategy<Value = Push> {
    let belief = prop_oneof![6 => Just(Belief::None), 3 => Just(Belief::Right), 1 => Just(Belief::Wrong)];
    let contexts = vec![
        None,
        Some(r#"{"payload":{"user":"ann"},"claims": {"sub":"a\u0000\ud800"}}"#),
        Some(r#"{"payload":1,"payload":[2.0],"claims":null}"#),
        Some("{not json"),
        Some("[1]"),
        Some(r#"{"\ud800":1}"#),
        Some("{}"),
    ];
    let context = prop_oneof![3 => Just(None), 3 => Just(contexts[1]), 2 => select(contexts)];
    (0..5usize, batch(), belief, context).prop_map(|(store, batch, backend_id, context)| Push {
        store,
        batch,
        backend_id,
        context,
    })
}

fn step() -> impl Strategy<Value = Step> {
    let hooks = vec![Hooks::None, Hooks::Witness, Hooks::Deferred, Hooks::Before, Hooks::Relay];
    prop_oneof![
        12 => prop::collection::vec(push(), 1..12).prop_map(Step::Group),
        4 => push().prop_map(Step::Single),
        2 => (0..5usize, select(vec![None, Some("{\"a\": 1.0}"), Some("\"\\u0000\"")])).prop_map(|(store, args)| Step::Commit(store, args)),
        1 => (0..5usize).prop_map(Step::Dedicate),
        1 => (0..5usize).prop_map(Step::Reset),
        1 => (0..5usize).prop_map(Step::Drop),
        2 => select(hooks).prop_map(Step::Hooks),
        2 => (0..5usize, -1..6i64, -1..5i32, select(vec![-1, 0, 1, 150, 10_000]))
            .prop_map(|(store, after, max_events, max_bytes)| Step::Read { store, after, max_events, max_bytes }),
    ]
}

/// The number of sequences of steps that are tried. Each has some fifty pushes.
const CASES: u32 = 100;

#[test]
fn both_flavours_do_the_same() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cluster = Cluster::shared();
    let mut pair = runtime.block_on(Pair::new(cluster));
    let config = Config {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(CASES),
        max_shrink_iters: 400,
        failure_persistence: None,
        rng_seed: std::env::var("PROPTEST_RNG_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .map_or(RngSeed::Random, RngSeed::Fixed),
        ..Config::default()
    };
    let pair = std::cell::RefCell::new(&mut pair);
    let result = TestRunner::new(config)
        .run(&prop::collection::vec(step(), 4..16), |steps| runtime.block_on(pair.borrow_mut().carry_out(&steps)));
    if let Err(error) = result {
        panic!("{error}");
    }
    let pushes = pair.borrow().pushes();
    assert!(pushes.accepted * 4 > pushes.all && pushes.accepted < pushes.all, "the pushes are of one kind: {pushes:?}");
    eprintln!("{pushes:?}");
}
