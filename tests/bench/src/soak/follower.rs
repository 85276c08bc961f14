//! A live reader that checks what it gets: each event once, in order, whatever happens to its connections.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::watch;
use tokio::time::sleep;

use super::slot::Shared;
use crate::wire::live::{Cursor, Dialect, Live, Page};

/// The life of a connection, in milliseconds.
const CONNECTION: std::ops::Range<u64> = 2_000..20_000;

/// Until the next one.
const PAUSE: std::ops::Range<u64> = 0..1_000;

pub struct Follower {
    dialect: Dialect,
    store: String,
    shared: Arc<Shared>,
    cursor: Cursor,
    dice: ChaCha8Rng,
}

impl Follower {
    pub fn new(dialect: Dialect, store: &str, shared: Arc<Shared>, seed: u64) -> Self {
        let dice = ChaCha8Rng::seed_from_u64(seed);
        Self { dialect, store: store.into(), shared, cursor: Cursor::default(), dice }
    }

    /// From connection to connection, until the end of the log is known and reached.
    pub async fn run(mut self, mut end: watch::Receiver<Option<u64>>) {
        loop {
            let port = self.shared.ours.sidecar.port();
            let mut live = Live::open(self.dialect, port, &self.store, &self.cursor).await;
            let time = sleep(Duration::from_millis(self.dice.random_range(CONNECTION)));
            tokio::pin!(time);
            let has_all = loop {
                let target = *end.borrow_and_update();
                if target.is_some_and(|target| self.cursor.last >= target) {
                    break true;
                }
                tokio::select! {
                    page = live.next(&self.cursor) => self.take(page),
                    () = &mut time => break false,
                    // A follower that knows the end waits for its events.
                    changed = end.changed(), if target.is_none() => match self.dialect {
                        // The writer has failed: nobody will ever know the end.
                        _ if changed.is_err() => return,
                        Dialect::WebSocket => {}
                        // A request that waits is given up: the next one is for the missing events.
                        Dialect::Sse | Dialect::Electric => break false,
                    },
                }
            };
            if self.dice.random_bool(0.5) {
                live.close().await;
                self.shared.books.count(|tally| tally.closed += 1);
            } else {
                drop(live);
                self.shared.books.count(|tally| tally.dropped += 1);
            }
            if has_all {
                let (target, last) = (*end.borrow(), self.cursor.last);
                assert_eq!(target, Some(last), "{:?}: more events than were pushed", self.dialect);
                return;
            }
            sleep(Duration::from_millis(self.dice.random_range(PAUSE))).await;
        }
    }

    fn take(&mut self, page: Page) {
        for event in &page.events {
            let last = self.cursor.last;
            assert_eq!(*event, last + 1, "{:?}: an event is repeated, missing or out of order", self.dialect);
            self.cursor.last = *event;
        }
        self.cursor.token = page.token;
        self.shared.books.count(|tally| tally.delivered += page.events.len() as u64);
    }
}
