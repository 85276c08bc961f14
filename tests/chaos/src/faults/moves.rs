//! Stores that go over to the other shard while clients write to them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::Kills;
use crate::system::{Kill, Part, Shards};

/// The time after which a move should have ended, whatever was wrong.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Default)]
pub struct Moves {
    /// One at a time.
    under_way: tokio::sync::Mutex<()>,
    unfinished: Mutex<Vec<(String, String)>>,
}

impl Moves {
    /// Repeats the command until it succeeds. The first attempts are killed.
    pub async fn carry_out(&self, shards: &Shards, store: &str, is_slot: bool, kills: Kills) {
        let _alone = self.under_way.lock().await;
        let (part, from) = if is_slot {
            let (slot, from) = shards.slot_of(store).await;
            (Part::Slot(slot), from)
        } else {
            (Part::Store(store.into()), shards.of(store).await)
        };
        let start = Instant::now();
        for attempt in 1.. {
            let is_killed = attempt <= kills.times;
            let end = match kills.after {
                _ if !is_killed => Kill::Never,
                Some(after) => Kill::After(Duration::from_millis(after) * attempt),
                None => Kill::WhenGivenAway,
            };
            match shards.carry(&part, from, end).await {
                Ok(told) => {
                    eprintln!("           at attempt {attempt}, after {:.1} s: {told}", start.elapsed().as_secs_f64());
                    return;
                }
                Err(why) if start.elapsed() > PATIENCE => {
                    let what = format!("{part:?} has not moved after {} s: {why}", PATIENCE.as_secs());
                    eprintln!("chaos: {what}");
                    self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).push((store.into(), what));
                    return;
                }
                Err(_) => sleep(Duration::from_millis(if is_killed { 20 } else { 200 })).await,
            }
        }
    }

    /// The moves that have not ended: their stores, and why.
    pub fn unfinished(&self) -> Vec<(String, String)> {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
