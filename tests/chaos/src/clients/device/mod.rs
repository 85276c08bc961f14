//! A device of a user: it does the work of LiveStore above the sync backend, which is the unmodified client from npm.
//!
//! It follows its store, writes, pushes what it wrote onto what it has seen, waits for its live pull when the server is ahead,
//! makes the push anew behind what others wrote, and repeats a push whose outcome it does not know.

mod answers;
mod calls;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use livestore_tests::client::Client;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::dialect::{Dialect, Nodes};
use super::pending::Pending;
use super::stores::Store;
use super::stream::Following;
use crate::history::{EventId, Placed, Recorder, Recovery, Ticket, Time};

/// The time that a push, or a read, may go without an answer. A push is then repeated.
const PATIENCE: Duration = Duration::from_secs(12);

/// The time until a push that failed is repeated, at first and at most.
const RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(4);

/// The time that an app takes to pull again after a pull that failed.
const REOPEN: Duration = Duration::from_millis(250);

/// Time for everything that is due.
const TICK: Duration = Duration::from_millis(50);

/// The task of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Write,
    /// Write one more event, and be done when it is acknowledged.
    Recover,
    /// Read, and write nothing.
    Read,
    End,
}

/// The state of a device that others can see.
#[derive(Debug, Default)]
pub struct Status {
    pub head: AtomicI64,
    pub has_recovered: AtomicBool,
    /// A read that it began in [`Phase::Read`] has succeeded.
    pub has_read: AtomicBool,
    /// The requests under way, in words, while it recovers.
    pub state: Mutex<String>,
}

/// The messages that a device waits for.
pub enum Happened {
    Opened(u64, Client),
    Heard(u64, Value),
    Pushed(u64, Result<(), Value>),
    /// The phase in which the read began, and its failure.
    HasRead(Phase, Option<String>),
    IsConnected(u64, bool),
}

pub struct Device {
    pub number: u32,
    pub dialect: Dialect,
    pub nodes: Nodes,
    pub url: String,
    /// Another sidecar, and its URL.
    pub reads_at: (usize, String),
    pub store: Arc<Store>,
    pub recorder: Recorder,
    pub random: ChaCha8Rng,
    /// The average time between two events, and between two reads.
    pub pace: Duration,
    pub reads_every: Duration,
    pub status: Arc<Status>,
}

/// A push that is under way.
struct InFlight {
    number: u64,
    ticket: Ticket,
    batch: Vec<Placed>,
    rebases: u64,
    start: Instant,
}

/// A device that runs.
pub struct Running {
    device: Device,
    happened: mpsc::UnboundedSender<Happened>,
    pending: Pending,
    /// Numbers for clients, streams and pushes, by which a late answer to one that was given up is not taken for its successor's.
    numbers: u64,
    client: Option<(u64, Client)>,
    opening: Option<u64>,
    following: Option<Following>,
    in_flight: Option<InFlight>,
    since: Time,
    /// The id of the log, which a full client keeps on disk, and without which a cursor means nothing.
    backend_id: Option<String>,
    made: u32,
    losses: usize,
    has_left: bool,
    is_reading: bool,
    /// Its reads in [`Phase::Read`]: whether one succeeded, or the last failure.
    calm_read: Option<Result<(), String>>,
    /// After ServerAhead, until the live pull brings what it lacks.
    waits_for_pull: bool,
    /// Its client has a page. LiveStore pushes from then on, also while its live pull is interrupted.
    has_history: bool,
    retry: Duration,
    next_push: Instant,
    next_pull: Instant,
    next_event: Instant,
    next_read: Instant,
    next_look: Instant,
    /// The event that it makes to show that it has recovered.
    proof: Option<EventId>,
}

impl Device {
    /// Runs until the phase is [`Phase::End`].
    pub async fn run(self, mut phase: watch::Receiver<Phase>) -> Recovery {
        let (happened, mut happens) = mpsc::unbounded_channel();
        let mut running = Running::new(self, happened);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(what) = happens.recv() => running.take(what),
                _ = ticks.tick() => {
                    let phase = *phase.borrow_and_update();
                    if phase == Phase::End {
                        return running.end();
                    }
                    running.tick(phase);
                }
            }
        }
    }
}

impl Running {
    fn new(device: Device, happened: mpsc::UnboundedSender<Happened>) -> Self {
        let now = Instant::now();
        if device.dialect.is_blind() {
            device.store.blind_comes();
        }
        Self {
            since: device.recorder.now(),
            device,
            happened,
            pending: Pending::default(),
            numbers: 0,
            client: None,
            opening: None,
            following: None,
            in_flight: None,
            backend_id: None,
            made: 0,
            losses: 0,
            has_left: false,
            is_reading: false,
            calm_read: None,
            waits_for_pull: false,
            has_history: false,
            retry: RETRY,
            next_push: now,
            next_pull: now,
            next_event: now,
            next_read: now + Duration::from_secs(2),
            next_look: now,
            proof: None,
        }
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Does what is due.
    fn tick(&mut self, phase: Phase) {
        let now = Instant::now();
        if phase == Phase::Recover {
            *self.device.status.state.lock().unwrap_or_else(PoisonError::into_inner) = self.state();
        }
        if phase == Phase::Read {
            self.calm_read.get_or_insert_with(|| Err("it has no answer yet".into()));
            self.device.status.has_read.store(self.has_read(), Ordering::Relaxed);
        }
        if self.device.dialect.is_blind() && self.is_kept_away() {
            return;
        }
        match &self.client {
            None if self.opening.is_none() => self.open(),
            None => return,
            Some(_) if self.following.is_none() && now >= self.next_pull => self.pull(),
            Some(_) => {}
        }
        match phase {
            Phase::Write if now >= self.next_event => {
                self.next_event = now + self.some(self.device.pace);
                // Nobody writes on and on while nothing arrives.
                if self.pending.len() < 12 {
                    self.make_event();
                }
            }
            Phase::Recover if self.proof.is_none() => self.proof = Some(self.make_event()),
            _ => {}
        }
        if self.in_flight.as_ref().is_some_and(|push| push.start.elapsed() > PATIENCE) {
            self.give_up_push();
            if self.device.dialect == Dialect::Cf03 {
                self.replace("a push has no answer");
            }
        }
        // A pull of 0.3 whose request was lost with its connection waits for ever, also on the next connection.
        let patience = Time::try_from(PATIENCE.as_micros()).unwrap_or(Time::MAX);
        let is_unheard = |following: &Following| {
            !following.has_page && self.device.recorder.now() - following.record.start > patience
        };
        if self.device.dialect == Dialect::Cf03 && self.following.as_ref().is_some_and(is_unheard) {
            self.replace("a pull has no answer");
        }
        self.push(now);
        let reads_every = match phase {
            Phase::Write => Some(self.device.reads_every),
            Phase::Read => Some(self.device.reads_every / 2),
            Phase::Recover | Phase::End => None,
        };
        if let Some(every) = reads_every
            && now >= self.next_read
            && !self.is_reading
        {
            self.next_read = now + self.some(every);
            self.read(phase);
        }
        if self.device.dialect == Dialect::Cf03 && now >= self.next_look {
            self.next_look = now + Duration::from_millis(300);
            self.look();
        }
        let has_recovered = self.proof.is_some_and(|proof| self.pending.is_settled(proof));
        self.device.status.has_recovered.store(has_recovered, Ordering::Relaxed);
    }

    fn has_read(&self) -> bool {
        self.calm_read == Some(Ok(()))
    }

    /// A random time around this one.
    fn some(&mut self, time: Duration) -> Duration {
        time.mul_f64(self.device.random.random_range(0.3..1.7))
    }

    fn make_event(&mut self) -> EventId {
        self.made += 1;
        let event = EventId { client: self.device.number, n: self.made };
        self.pending.add(event);
        event
    }

    /// Leaves while the store is reset, and starts over when it was.
    fn is_kept_away(&mut self) -> bool {
        let is_closed = self.device.store.is_closed_to_blind();
        if is_closed && !self.has_left {
            self.has_left = true;
            self.start_over("the store is being reset");
            self.device.store.blind_leaves();
        } else if !is_closed && self.has_left {
            self.has_left = false;
            self.device.store.blind_comes();
            self.since = self.device.recorder.now();
        }
        self.has_left
    }

    fn state(&self) -> String {
        format!(
            "client {:?}, opening {}, live pull {}, in flight {:?}, waits for pull {}, {} pending",
            self.client.as_ref().map(|(number, _)| number),
            self.opening.is_some(),
            self.following.as_ref().map_or("none", |following| if following.has_page { "heard" } else { "unheard" }),
            self.in_flight.as_ref().map(|push| &push.batch),
            self.waits_for_pull,
            self.pending.len()
        )
    }

    fn end(mut self) -> Recovery {
        let has_pushed = self.proof.is_some_and(|proof| self.pending.is_settled(proof));
        let state = self.state();
        let head = self.pending.head();
        self.drop_client("the run");
        let (client, dialect) = (self.device.number, self.device.dialect.name().into());
        let unread = self.calm_read.and_then(Result::err);
        Recovery { client, dialect, has_pushed, head, unread, state }
    }
}

/// A request that nobody waits for any more would be repeated by its client, and might reach the next log after a reset.
fn give_up(client: Client) {
    tokio::spawn(async move { timeout(PATIENCE, client.call("giveUp", json!({}))).await });
}

fn close(client: Client) {
    tokio::spawn(async move { timeout(PATIENCE, client.call("close", json!({}))).await });
}
