//! The work that is measured, a file for each kind.

pub mod cost;
pub mod fan_out;
pub mod growth;
pub mod idle;
pub mod inspector;
pub mod push;
pub mod read;
pub mod shards;
pub mod standby;
pub mod start;
pub mod together;
pub mod update;

use std::time::Duration;

use livestore_tests::peers::{S2Lite, SyncCf};

use crate::systems::Ours;

pub const OURS: &str = "livestore_sync";
pub const OURS_S2: &str = "livestore_sync, sync-s2";
pub const OURS_ELECTRIC: &str = "livestore_sync, sync-electric";
pub const OURS_PORTABLE: &str = "livestore_sync, portable flavour";
pub const SYNC_CF: &str = "sync-cf on workerd";
pub const S2_LITE: &str = "s2-lite";
pub const S2_LITE_AT_1_MS: &str = "s2-lite, flushing every ms";
pub const POSTGRES: &str = "bare PostgreSQL";

/// The extent of the work: everything, or as much as fits into five minutes.
#[derive(Debug, Clone)]
pub struct Size {
    pub rounds: usize,
    /// Of one system in one round.
    pub time: Duration,
    pub is_quick: bool,
    /// The beginnings of the names of what is measured; nothing for everything.
    pub only: Vec<String>,
}

impl Size {
    /// Whether something is measured, by the beginning of its name.
    pub fn wants(&self, work: &str) -> bool {
        let is_part =
            |work: &str, only: &str| work == only || work.strip_prefix(only).is_some_and(|rest| rest.starts_with('-'));
        self.only.is_empty() || self.only.iter().any(|only| is_part(work, only) || is_part(only, work))
    }
}

/// All systems, up and idle.
pub struct Systems {
    pub ours: Ours,
    pub portable: Ours,
    /// `None` without the peers, to look at ours alone.
    pub peers: Option<Peers>,
}

pub struct Peers {
    pub sync_cf: SyncCf,
    pub s2_lite: S2Lite,
    /// The same with its setting for short waits.
    pub s2_lite_at_1_ms: S2Lite,
}

/// A progress line: the report is what counts.
pub fn say(line: impl AsRef<str>) {
    eprintln!("bench: {}", line.as_ref());
}
