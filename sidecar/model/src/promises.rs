//! The promises (`docs/reliability.md`) that hold in every state.

use stateright::Property;

use super::Protocol;
use super::state::{Pusher, State};

/// A promise that a step can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Promise {
    Lives,
    Logs,
    Reads,
    Rewritten,
    Streams,
}

/// Guarantee 1 and 3.
pub const PUSHES: &str = "an acknowledged push is in the log, and none is there twice";
/// Guarantee 2.
pub const LIVES: &str = "no log, no page and no read mixes two lives of the log";
/// Guarantee 4.
pub const STREAMS: &str = "a live stream delivers every event once and in order";
pub const LOGS: &str = "a client is told to drop its log only after a reset";
/// Guarantee 5.
pub const READS: &str = "a read has everything that was acknowledged before it began";
/// `docs/erasure.md`.
pub const REWRITTEN: &str = "a sidecar that knows of a rewrite gives nobody the event as it was";
/// Guarantee 6.
pub const REST: &str = "when nothing is left to do, every live stream is open and has everything";
pub const END: &str = "from every state, there is an end";

pub fn all() -> Vec<Property<Protocol>> {
    vec![
        Property::always(PUSHES, |_, state: &State| pushes_are_kept(state)),
        Property::always(LIVES, |_, state: &State| state.broken != Some(Promise::Lives)),
        Property::always(STREAMS, |_, state: &State| state.broken != Some(Promise::Streams)),
        Property::always(LOGS, |_, state: &State| state.broken != Some(Promise::Logs)),
        Property::always(READS, |_, state: &State| state.broken != Some(Promise::Reads)),
        Property::always(REWRITTEN, |_, state: &State| state.broken != Some(Promise::Rewritten)),
        Property::always(REST, |protocol: &Protocol, state: &State| {
            state.broken.is_some() || !protocol.is_at_rest(state) || is_complete(state)
        }),
        Property::always(END, |protocol: &Protocol, state: &State| protocol.at_rest(state).is_some()),
    ]
}

fn pushes_are_kept(state: &State) -> bool {
    state.pushers.iter().enumerate().all(|(pusher, phase)| {
        let count = |log: &Vec<_>| log.iter().filter(|by| **by == Some(pusher)).count();
        let is_there = match phase {
            Pusher::Acknowledged { life, seq_num } => {
                let log = state.postgres.lives.get(usize::from(*life));
                log.and_then(|log| log.get(usize::from(*seq_num) - 1)) == Some(&Some(pusher))
            }
            _ => true,
        };
        is_there && state.postgres.lives.iter().all(|log| count(log) <= 1)
    })
}

fn is_complete(state: &State) -> bool {
    state
        .streams
        .iter()
        .all(|stream| stream.subscription.is_some() && stream.life == Some(state.life()) && stream.last == state.head())
}
