//! The faults, with the time at which each begins and its duration.

mod inject;
mod moves;
mod postgres;
mod schedule;

use std::fmt;

use serde::Serialize;

use crate::system::POOLED;

pub use inject::Injector;
pub use schedule::{Extent, Planned, schedule};

/// Milliseconds since the load began.
pub type Millis = u64;

/// Something that goes wrong. Sidecars and stores are numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// `kill -9`, and a new process after a while.
    Kill { sidecar: usize },
    /// SIGSTOP, and SIGCONT after a while: connections stay, and nobody answers.
    Freeze { sidecar: usize },
    /// Each sidecar is told to end and started anew, one after the other.
    Deploy,
    /// The time of day of a sidecar jumps, and back.
    Clock { sidecar: usize, by_seconds: i64 },
    /// That of Postgres does.
    PostgresClock { by_seconds: i64 },
    /// A network closes connections, and new ones as they come.
    Cut { link: Link },
    /// A network carries nothing, and closes nothing.
    Stall { link: Link },
    /// A network is slow.
    Slow { link: Link, by: Millis },
    /// A network resets the connections that there are, once.
    Reset { link: Link },
    /// A network loses the connections that there are, for good: the server is never told, a client when its system gives up.
    Lose { link: Link },
    /// The pooler in front of Postgres is killed, and another one starts after a while.
    StopPooler,
    /// `pg_ctl stop -m immediate`, and start after a while.
    StopPostgres,
    /// `pg_terminate_backend` of the sidecars' connections: every one, or one in so many.
    Terminate { one_in: u32 },
    /// The disk of Postgres is full.
    FillDisk,
    /// All connections to Postgres are taken.
    Exhaust,
    /// A hook raises for some events.
    Raise,
    /// The primary is killed, after so long its standby is promoted, and it comes back as the standby of that.
    FailOver { away: Millis },
    /// A store is reset.
    ResetStore { store: usize },
    /// The operator erases what some events of a store say.
    Erase { store: usize },
    /// A store goes over to the other shard.
    MoveStore { store: usize, kills: Kills },
    /// All stores of the slot that this one has do.
    MoveSlot { store: usize, kills: Kills },
}

/// The command that moves is killed so many times before it may end: each time later by this, or at the worst moment, in which nobody may write
/// to what moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Kills {
    pub times: u32,
    pub after: Option<Millis>,
}

/// A network between two neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Link {
    /// Clients and a sidecar.
    Clients(usize),
    /// A sidecar and Postgres.
    Postgres(usize),
}

impl Fault {
    /// Whether it leaves Postgres in a state that a failover must not meet, and the other way round.
    fn breaks_postgres(self) -> bool {
        matches!(
            self,
            Self::PostgresClock { .. }
                | Self::StopPostgres
                | Self::Terminate { .. }
                | Self::FillDisk
                | Self::Exhaust
                | Self::Raise
                | Self::FailOver { .. }
        )
    }

    /// The sidecar, or all of them by `Some(None)`, between which and its neighbours something is wrong meanwhile.
    fn disturbs(self) -> Option<Option<usize>> {
        match self {
            Self::Cut { link }
            | Self::Stall { link }
            | Self::Slow { link, .. }
            | Self::Reset { link }
            | Self::Lose { link } => {
                let (Link::Clients(place) | Link::Postgres(place)) = link;
                Some(Some(place))
            }
            Self::Freeze { sidecar } => Some(Some(sidecar)),
            Self::StopPooler => Some(Some(POOLED)),
            // A store waits for the next attempt.
            Self::MoveStore { kills, .. } | Self::MoveSlot { kills, .. } if kills.times > 0 => Some(None),
            _ if self.breaks_postgres() => Some(None),
            _ => None,
        }
    }

    /// Whether it closes connections between this sidecar and Postgres, or keeps the two from each other.
    fn cuts_off(self, place: usize) -> bool {
        match self {
            Self::Kill { sidecar } => sidecar == place,
            Self::Cut { link } | Self::Stall { link } | Self::Reset { link } | Self::Lose { link } => {
                matches!(link, Link::Postgres(of) if of == place)
            }
            _ => false,
        }
    }

    /// Its name in figures.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Kill { .. } => "kill",
            Self::Freeze { .. } => "freeze",
            Self::Deploy => "deploy",
            Self::Clock { .. } => "clock",
            Self::PostgresClock { .. } => "clock of Postgres",
            Self::Cut { link: Link::Clients(_) } => "cut clients",
            Self::Cut { .. } => "cut Postgres",
            Self::Stall { link: Link::Clients(_) } => "stall clients",
            Self::Stall { .. } => "stall Postgres",
            Self::Slow { link: Link::Clients(_), .. } => "slow clients",
            Self::Slow { .. } => "slow Postgres",
            Self::Reset { link: Link::Clients(_) } => "reset clients",
            Self::Reset { .. } => "reset Postgres",
            Self::Lose { link: Link::Clients(_) } => "lose clients",
            Self::Lose { .. } => "lose Postgres",
            Self::StopPooler => "stop pooler",
            Self::StopPostgres => "stop Postgres",
            Self::Terminate { .. } => "terminate",
            Self::FillDisk => "fill disk",
            Self::Exhaust => "exhaust",
            Self::Raise => "raise",
            Self::FailOver { .. } => "failover",
            Self::ResetStore { .. } => "reset store",
            Self::Erase { .. } => "erase",
            Self::MoveStore { .. } => "move store",
            Self::MoveSlot { .. } => "move slot",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind())?;
        match self {
            Self::Kill { sidecar } | Self::Freeze { sidecar } => write!(f, " {sidecar}"),
            Self::Clock { sidecar, by_seconds } => write!(f, " {sidecar} {by_seconds:+} s"),
            Self::PostgresClock { by_seconds } => write!(f, " {by_seconds:+} s"),
            Self::Slow { link: Link::Clients(place) | Link::Postgres(place), by } => write!(f, " {place} by {by} ms"),
            Self::Cut { link } | Self::Stall { link } | Self::Reset { link } | Self::Lose { link } => {
                let (Link::Clients(place) | Link::Postgres(place)) = link;
                write!(f, " {place}")
            }
            Self::Terminate { one_in } => write!(f, " one in {one_in}"),
            Self::FailOver { away } => write!(f, " after {:.1} s", *away as f64 / 1e3),
            Self::ResetStore { store } | Self::Erase { store } => write!(f, " {store}"),
            Self::MoveStore { store, kills } | Self::MoveSlot { store, kills } => {
                write!(f, " {store}")?;
                match kills {
                    Kills { times: 0, .. } => Ok(()),
                    Kills { times, after: Some(after) } => write!(f, ", killed {times} times from {after} ms on"),
                    Kills { times, after: None } => write!(f, ", killed {times} times at the worst moment"),
                }
            }
            Self::Deploy | Self::StopPooler | Self::StopPostgres | Self::FillDisk | Self::Exhaust | Self::Raise => {
                Ok(())
            }
        }
    }
}
