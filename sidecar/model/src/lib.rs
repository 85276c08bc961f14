//! A model of how sidecars commit, tell each other, and read: small enough to be checked in every order of its steps.
//!
//! It has one store, two sidecars and a few clients, and follows the code of `sidecar/src/log/read` and `sidecar/src/log/write` step by
//! step. A step is what happens at once: a statement that Postgres carries out, an answer that a sidecar handles, a notification that it
//! takes. Everything that waits for something is a state in between, so that anything else can happen first. Faults are steps, too; a
//! [`Setting`] says how many of each there may be. The checker tries every order, and shows the steps that lead to a state in
//! which a promise ([`promises`]) is broken.
//!
//! Each rule of the protocol that matters ([`rules::Rule`]) can be switched off. The tests show that a promise breaks without it. The code
//! keeps all of them.
//!
//! | module | code |
//! |---|---|
//! | [`commit`] | `write/commit.rs`, `extension/rules/src/plan.rs` |
//! | [`tail`] | `read/tail.rs`, `tails.rs`, `window.rs`, `listener.rs`, `poll.rs` |
//! | [`pages`] | `read/pages.rs`, `page.rs` |
//! | [`clients`] | `read/subscription.rs`, `scan.rs`, `claims.rs`, `access/reader.rs` |
//!
//! Postgres is what it promises to be: a transaction happens at one moment, a statement sees one snapshot, and notifications arrive in the
//! order of the commits, on every connection that has listened since before. A connection that is lost loses all that has not arrived.
//! A statement whose connection is lost is carried out or not, at any time afterwards.
//!
//! Simplified: a push is one event and a transaction of its own, and sequence numbers have no gaps. There is no time: whatever waits for
//! a while (a pause, a heartbeat, a deadline) happens at any moment. So an answer may be as late as it likes, and events are never held
//! back for a contended store. A last page is kept however short it is. Nothing is dropped because it is old or large, but windows.
//!
//! Not covered: standbys and failovers, held stores and groups that are tried in halves (`held.rs`), prefetched pages, pages that cannot be
//! read, the memory of texts, the protocols, and clients that know no backend id. That everything ends is shown for one order of steps
//! from every state, and not for all.

// Only tests use it.
#![cfg(test)]

mod actions;
mod clients;
mod commit;
mod pages;
mod promises;
mod rules;
mod state;
mod tail;
mod tests;

use rules::Rule;
use state::{Faults, SeqNum};

/// The participants, and the limits of a check.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The events that the log has at first.
    pub events: usize,
    /// The sidecars of those who push, of those with live streams, and of those who read.
    pub pushers: &'static [usize],
    pub streams: &'static [usize],
    pub scans: &'static [usize],
    /// The most events of a page, and of a window.
    pub page: SeqNum,
    pub window: usize,
    /// The sidecars listen at first.
    pub listens: bool,
    /// `--live poll`.
    pub polls: bool,
    pub faults: Faults,
}

/// The protocol, in a setting.
#[derive(Debug, Clone)]
pub struct Protocol {
    pub setting: Setting,
    /// The rule that is switched off.
    pub without: Option<Rule>,
}

impl Protocol {
    pub fn keeps(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }
}
