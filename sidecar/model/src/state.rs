//! The state of the model: one store in Postgres, sidecars, and their clients.

use super::pages::{Ask, Pages};
use super::promises::Promise;
use super::tail::{Listener, Tail};

/// A life of the log: how often it was reset. Stands for the backend id.
pub type Life = u8;

/// A sequence number. The log has no gaps.
pub type SeqNum = u8;

/// An event as a reader gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Event {
    pub life: Life,
    pub seq_num: SeqNum,
    /// Not rewritten when it was read.
    pub is_original: bool,
}

/// Events of one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Page {
    pub life: Life,
    pub head: SeqNum,
    pub events: Vec<Event>,
}

impl Page {
    pub fn is_followed(&self) -> bool {
        self.events.last().is_some_and(|last| last.seq_num < self.head)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub postgres: Postgres,
    pub sidecars: Vec<Sidecar>,
    pub pushers: Vec<Pusher>,
    pub streams: Vec<Stream>,
    pub scans: Vec<Scan>,
    /// The faults that may still happen.
    pub faults: Faults,
    /// The promise that the last step broke.
    pub broken: Option<Promise>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Postgres {
    /// The log in each of its lives, the current one last: who pushed the event. `None`: an event of before, or of SQL.
    pub lives: Vec<Vec<Option<usize>>>,
    /// An event of the current life that was rewritten.
    pub rewritten: Option<SeqNum>,
    /// Statements whose connection is lost: they may still be carried out.
    pub orphans: Vec<Statement>,
}

/// A call of `livestore.push_batch` with one push of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Statement {
    pub pusher: usize,
    pub push: Push,
    pub source: Source,
}

/// A connection that commits: the sidecar, and a number.
pub type Source = (usize, u8);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Push {
    pub life: Life,
    pub parent: SeqNum,
}

/// The answer of Postgres to a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    Appended,
    /// It was in the log before, which now has this head.
    Repeated(SeqNum),
    /// Another one was first.
    ServerAhead(SeqNum),
    OtherLife,
}

/// A notification: the head of the log, or `None` if it was reset or events of it were rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Note {
    pub head: Option<SeqNum>,
    pub source: Option<Source>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Sidecar {
    pub committer: Committer,
    pub listener: Listener,
    pub tail: Option<Tail>,
    pub pages: Pages,
    /// It has been told that the event was rewritten: from now on, its readers get the new one.
    pub has_heard: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Committer {
    /// The connections so far.
    pub connections: u8,
    pub is_connected: bool,
    /// The connection whose notifications are ignored.
    pub own: Option<u8>,
    /// The push that is being committed.
    pub pushing: Option<Pushing>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pushing {
    pub pusher: usize,
    pub push: Push,
    /// The answer is under way.
    pub answer: Option<Answer>,
    /// Events were dropped since it was sent: it may have been rewritten.
    pub is_of_before: bool,
}

/// A client that pushes one event. If another one was first, it rebases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pusher {
    Idle,
    /// In the queue of a sidecar. `is_repeated`: a commit of it has an unknown outcome.
    Waiting {
        at: usize,
        push: Push,
        is_repeated: bool,
    },
    Pushing,
    /// It has no answer.
    Unknown(Push),
    Acknowledged {
        life: Life,
        seq_num: SeqNum,
    },
    /// The log was reset.
    Dropped,
}

/// A client with a live stream, at a sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Stream {
    pub at: usize,
    /// The life of the events that it has; none before the first stream.
    pub life: Option<Life>,
    /// The last event that it has.
    pub last: SeqNum,
    pub subscription: Option<Subscription>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subscription {
    pub life: Life,
    /// The life of the pages that it has read.
    pub pages: Option<Life>,
    /// Its tail has ended.
    pub end: Option<End>,
    /// The page that it waits for.
    pub ask: Option<Ask>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    Reset,
    Rewound,
}

/// A client that reads the whole log once.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scan {
    pub at: usize,
    pub stage: Stage,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Stage {
    Idle,
    Reading {
        ask: Ask,
        life: Option<Life>,
        events: Vec<Event>,
        /// The last event that was acknowledged before it began.
        must_have: (Life, SeqNum),
    },
    Done,
}

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Faults {
    /// SQL commits an event.
    pub commits: u8,
    pub resets: u8,
    pub rewrites: u8,
    /// The connection that listens is lost.
    pub deaf: u8,
    /// The connection that commits is lost.
    pub lost_commits: u8,
    /// A sidecar is killed, and starts again.
    pub crashes: u8,
    /// A client goes to the other sidecar.
    pub moves: u8,
}

impl State {
    /// The current life of the log.
    pub fn life(&self) -> Life {
        self.postgres.lives.len() as Life - 1
    }

    pub fn log(&self) -> &[Option<usize>] {
        self.postgres.lives.last().map_or(&[], |log| log)
    }

    pub fn head(&self) -> SeqNum {
        self.log().len() as SeqNum
    }

    /// The page after `after`, as Postgres has it now.
    pub fn snapshot(&self, after: SeqNum, size: SeqNum) -> Page {
        let (life, head) = (self.life(), self.head());
        let events = (after + 1..=head.min(after.saturating_add(size)))
            .map(|seq_num| Event { life, seq_num, is_original: self.postgres.rewritten != Some(seq_num) })
            .collect();
        Page { life, head, events }
    }

    /// Whether an event is one that was rewritten, as it was before.
    pub fn is_outdated(&self, event: Event) -> bool {
        event.is_original && event.life == self.life() && self.postgres.rewritten == Some(event.seq_num)
    }

    /// Commits an event.
    pub fn append(&mut self, pusher: Option<usize>, source: Option<Source>) {
        if let Some(log) = self.postgres.lives.last_mut() {
            log.push(pusher);
        }
        self.notify(Note { head: Some(self.head()), source });
    }

    /// The last event that its author knows to be in the log.
    pub fn acknowledged(&self) -> (Life, SeqNum) {
        let by_sql = self.log().iter().rposition(Option::is_none).map_or(0, |place| place as SeqNum + 1);
        let pushed = self.pushers.iter().filter_map(|pusher| match pusher {
            Pusher::Acknowledged { life, seq_num } => Some((*life, *seq_num)),
            _ => None,
        });
        pushed.fold((self.life(), by_sql), Ord::max)
    }

    /// Tells those who listen.
    pub fn notify(&mut self, note: Note) {
        for sidecar in &mut self.sidecars {
            if sidecar.listener.is_heard {
                sidecar.listener.notes.push(note);
            }
        }
    }

    pub fn breaks(&mut self, promise: Promise) {
        self.broken.get_or_insert(promise);
    }
}
