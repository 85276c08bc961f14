//! The history of a run, as far as clients and the log can tell. The checker decides by this alone.

mod recorder;

use serde::{Deserialize, Serialize};

pub use recorder::{Recorder, Ticket};

/// Microseconds since the run began, on one clock for everybody: a call that ended before another one began came before it.
pub type Time = u64;

/// One event: its client, and its number among those of the client. An event keeps its number through every rebase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EventId {
    pub client: u32,
    pub n: u32,
}

/// An event at its place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Placed {
    pub seq_num: i64,
    pub event: EventId,
}

/// The outcome of a call, as far as its client knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    Ok,
    /// The server said that the log has gone on: nothing was written.
    ServerAhead,
    /// The server said that the log was reset: nothing was written.
    Reset,
    /// An error that leaves open what happened, or no answer.
    Unknown,
}

/// An attempt to append events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Push {
    pub client: u32,
    pub dialect: String,
    /// When the client began with the log that it knows: a reset since then explains that it is told of one.
    pub since: Time,
    pub start: Time,
    /// With an unknown outcome, the time at which the client gave up. The events may still be appended later.
    pub end: Time,
    pub outcome: Outcome,
    pub events: Vec<Placed>,
}

/// A live pull, from when it was asked for to when it ended, with everything that it brought.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    pub client: u32,
    pub dialect: String,
    pub since: Time,
    pub start: Time,
    pub end: Time,
    /// The last event that the client had before: its number, and the event itself, which tells its log.
    pub cursor: i64,
    pub after: Option<EventId>,
    pub events: Vec<Placed>,
    /// When the event with this index, and those after it, came.
    pub pages: Vec<(usize, Time)>,
    /// Those of the events that came erased.
    pub erased: Vec<EventId>,
    /// At which of the events the client itself began anew from an earlier one: sync-s2 does, when a stream breaks off.
    pub restarts: Vec<usize>,
    /// It ended because the server said that the log was reset.
    pub is_told_of_reset: bool,
    /// It ended because a page had another backend id, though the client had events.
    pub is_of_another_log: bool,
    /// The reason why it ended, for readers of the history.
    pub ending: String,
}

/// The dialects of the exports that the inspector makes.
pub const EXPORT: &str = "export";
pub const EXPORT_OF_STANDBY: &str = "export of a standby";

/// A pull of everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Read {
    pub client: u32,
    pub dialect: String,
    /// The sidecar that was asked.
    pub sidecar: usize,
    pub start: Time,
    pub end: Time,
    pub events: Vec<Placed>,
    /// Those of the events that came erased.
    pub erased: Vec<EventId>,
}

/// The events of a store that a follower of all stores has had, in the order in which it had them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follow {
    pub by: String,
    /// It may have the same event again.
    pub may_repeat: bool,
    pub events: Vec<Followed>,
}

/// An event, and its position in the commit log if the follower knows it. With shards, each has a follower and a commit log of its own: the
/// events of a store come from the one that had it when they were written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Followed {
    pub database: usize,
    /// The follower was told before that the store has left this database, and not that it has come back.
    pub has_left: bool,
    pub position: Option<i64>,
    pub placed: Placed,
}

/// The recovery of a client after the last fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    pub client: u32,
    pub dialect: String,
    /// An event that it made after the last fault was acknowledged.
    pub has_pushed: bool,
    /// The last event that its live stream brought.
    pub head: i64,
    /// All of its reads after that failed: the last failure.
    pub unread: Option<String>,
    /// A description of its activity, for readers of the history.
    pub state: String,
}

/// The life of a log, from its beginning or a reset to the next reset or the end of the run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// The reset that began it was committed after this.
    pub start: Time,
    /// The reset that ended it was asked for, and answered. Nothing, for the one that lives.
    pub reset: Option<(Time, Time)>,
    /// The log as it was in the end, in the order of its numbers.
    pub log: Vec<Entry>,
}

/// The operator has erased what some events say. They keep their places.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// When that was answered.
    pub done: Time,
    /// Nothing was wrong with the system then, nor later.
    pub is_calm: bool,
    pub events: Vec<EventId>,
}

/// A sidecar was told to end while something was wrong with its networks or with Postgres: from then until it had ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hindered {
    pub sidecar: usize,
    pub start: Time,
    pub end: Time,
}

/// A row of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub seq_num: i64,
    pub parent_seq_num: i64,
    pub event: EventId,
}

/// Everything about one store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    pub store: String,
    pub epochs: Vec<Epoch>,
    pub pushes: Vec<Push>,
    pub streams: Vec<Stream>,
    pub reads: Vec<Read>,
    pub hindered: Vec<Hindered>,
    pub erasures: Vec<Erasure>,
    pub recoveries: Vec<Recovery>,
    pub follows: Vec<Follow>,
}
