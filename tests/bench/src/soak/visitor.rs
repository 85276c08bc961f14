//! Clients that come once, with a connection of their own in any dialect: some read a whole log, some are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use livestore_tests::dialects::{Answer, Caller, DIALECTS, WRITERS};
use livestore_tests::events::{chain, event};
use rand::Rng;
use rand::SeedableRng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;

use super::slot::Shared;
use crate::wire::seq_nums;

/// Between two visits to a store, in milliseconds.
const PAUSE: std::ops::Range<u64> = 1_000..9_000;

/// sync-cf 0.3 sends a log in messages of so many events, of which a visitor takes the first.
const FIRST_MESSAGE: u64 = 100;

/// The mistake in a push.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// It goes on from the beginning of a log that has events.
    Behind,
    /// An event whose parent comes after it.
    Nonsense,
}

pub struct Visitor {
    store: String,
    shared: Arc<Shared>,
    /// The number that the head of the log has reached at least.
    head: Arc<AtomicU64>,
    dice: ChaCha8Rng,
}

impl Visitor {
    pub fn new(store: &str, shared: Arc<Shared>, head: Arc<AtomicU64>, seed: u64) -> Self {
        Self { store: store.into(), shared, head, dice: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// One visit after another, until the log has ended.
    pub async fn run(mut self, mut end: watch::Receiver<Option<u64>>) {
        loop {
            let pause = Duration::from_millis(self.dice.random_range(PAUSE));
            tokio::select! {
                () = sleep(pause) => {}
                _ = end.wait_for(Option::is_some) => return,
            }
            match self.dice.random_range(0..4) {
                0 => self.is_refused(Fault::Nonsense).await,
                1 if self.head.load(Ordering::Relaxed) > 0 => self.is_refused(Fault::Behind).await,
                _ => self.read().await,
            }
        }
    }

    async fn read(&mut self) {
        let dialect = *DIALECTS.choose(&mut self.dice).expect("a dialect");
        let least = match dialect {
            "cf-0.3" => self.head.load(Ordering::Relaxed).min(FIRST_MESSAGE),
            _ => self.head.load(Ordering::Relaxed),
        };
        let answer = Caller::new(&self.shared.ours.sidecar, &self.store).read(dialect).await;
        let events = seq_nums(answer.text.as_bytes());
        let is_whole = events.iter().copied().eq(1..=events.len() as u64) && events.len() as u64 >= least;
        // A stream of S2 that nobody has written to is not there.
        let is_missing = dialect == "s2-rest" && answer.status == 404 && least == 0;
        assert!(is_whole || is_missing, "{dialect}: a read of {least} events or more: {events:?} in {answer:?}");
        self.shared.books.count(|tally| tally.reads += 1);
    }

    async fn is_refused(&mut self, fault: Fault) {
        let dialect = *WRITERS.choose(&mut self.dice).expect("a dialect");
        let batch = match fault {
            Fault::Behind => chain(0, 1),
            Fault::Nonsense => {
                let mut event = event(0, "todoCreated", json!({}));
                event["parentSeqNum"] = json!(7);
                json!([event])
            }
        };
        let answer = Caller::new(&self.shared.ours.sidecar, &self.store).write(dialect, batch).await;
        assert!(says_no(dialect, fault, &answer), "{dialect}: a push that has to be refused ({fault:?}): {answer:?}");
        self.shared.books.count(|tally| tally.refused += 1);
    }
}

/// Whether a push is refused in the way of its dialect.
fn says_no(dialect: &str, fault: Fault, answer: &Answer) -> bool {
    let (status, text) = match (dialect, fault) {
        ("cf-ws", Fault::Behind) => (101, "ServerAheadError"),
        ("cf-ws", Fault::Nonsense) => (101, "Failure"),
        ("cf-http", Fault::Behind) => (200, "ServerAheadError"),
        ("cf-http", Fault::Nonsense) => (200, "Failure"),
        ("cf-0.3", _) => (101, "WSMessage.Error"),
        ("electric", Fault::Behind) => (409, "ServerAheadError"),
        ("s2", Fault::Behind) => (409, "error"),
        ("s2-rest", Fault::Behind) => (412, "seq_num_mismatch"),
        ("s2-rest", Fault::Nonsense) => (422, "invalid"),
        (_, Fault::Nonsense) => (400, "error"),
        (other, Fault::Behind) => panic!("{other} does not write"),
    };
    answer.status == status && answer.text.contains(text)
}
