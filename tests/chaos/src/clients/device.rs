//! A device of a user: what LiveStore does above its sync backend, which is the unmodified client from npm.
//!
//! It follows its store, writes, pushes what it wrote onto what it has seen, waits for its live pull when the server is ahead,
//! makes the push anew behind what others wrote, and repeats a push whose outcome it does not know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use livestore_tests::client::Client;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::dialect::{Dialect, Nodes, event, is_reset, outcome, placed};
use super::pending::Pending;
use super::stores::Store;
use super::stream::{Following, follow};
use crate::history::{EventId, Outcome, Placed, Push, Read, Recorder, Stream, Ticket, Time};

/// How long a push, or a read, may go without an answer. A push is then repeated.
const PATIENCE: Duration = Duration::from_secs(12);

/// How long a push that failed waits to be repeated, at first and at most.
const RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(4);

/// How long an app takes to pull again after a pull that failed.
const REOPEN: Duration = Duration::from_millis(250);

/// Time for everything that is due.
const TICK: Duration = Duration::from_millis(50);

/// What a device is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Write,
    /// Write one more event, and be done when it is acknowledged.
    Recover,
    End,
}

/// What others may know of a device.
#[derive(Debug, Default)]
pub struct Status {
    pub head: AtomicI64,
    pub has_recovered: AtomicBool,
}

/// What a device waits for.
pub enum Happened {
    Opened(u64, Client),
    Heard(u64, Value),
    Pushed(u64, Result<(), Value>),
    HasRead,
    IsConnected(u64, bool),
    BackendId(u64, Value),
}

pub struct Device {
    pub number: u32,
    pub dialect: Dialect,
    pub nodes: Nodes,
    pub url: String,
    /// Another sidecar.
    pub reads_at: String,
    pub store: Arc<Store>,
    pub recorder: Recorder,
    pub random: ChaCha8Rng,
    /// How long it takes between two events, and two reads, on average.
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
    /// Numbers for clients, streams and pushes: what comes from one that was given up is not for its successor.
    numbers: u64,
    client: Option<(u64, Client)>,
    opening: Option<u64>,
    following: Option<Following>,
    in_flight: Option<InFlight>,
    since: Time,
    backend_id: Option<String>,
    made: u32,
    losses: usize,
    has_left: bool,
    is_reading: bool,
    /// After ServerAhead, until the live pull brings what it lacks.
    waits_for_pull: bool,
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
    pub async fn run(self, mut phase: watch::Receiver<Phase>) -> crate::history::Recovery {
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
            waits_for_pull: false,
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
        self.push(now);
        if phase == Phase::Write && now >= self.next_read && !self.is_reading {
            self.next_read = now + self.some(self.device.reads_every);
            self.read();
        }
        if self.device.dialect == Dialect::Cf03 && now >= self.next_look {
            self.next_look = now + Duration::from_millis(300);
            self.look();
        }
        let has_recovered = self.proof.is_some_and(|proof| self.pending.is_settled(proof));
        self.device.status.has_recovered.store(has_recovered, Ordering::Relaxed);
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

    fn open(&mut self) {
        let number = self.number();
        self.opening = Some(number);
        let (nodes, url, dialect) = (self.device.nodes.clone(), self.device.url.clone(), self.device.dialect);
        let (store, happened) = (self.device.store.name.clone(), self.happened.clone());
        let backend_id = self.backend_id.clone();
        tokio::spawn(async move {
            let client = dialect.open(&nodes, &url, &store, backend_id.as_deref()).await;
            let _ = happened.send(Happened::Opened(number, client));
        });
    }

    fn pull(&mut self) {
        let number = self.number();
        let Some((_, client)) = &self.client else { return };
        let now = self.device.recorder.now();
        let cursor = self.pending.head();
        let record = Stream {
            client: self.device.number,
            dialect: self.device.dialect.name().into(),
            since: self.since,
            start: now,
            end: now,
            cursor,
            events: Vec::new(),
            restarts: Vec::new(),
            is_told_of_reset: false,
            ending: String::new(),
        };
        self.following = Some(Following { number, record, has_page: false });
        tokio::spawn(follow(client.clone(), cursor, number, self.happened.clone()));
    }

    fn push(&mut self, now: Instant) {
        let may = self.in_flight.is_none() && !self.waits_for_pull && now >= self.next_push;
        // As LiveStore, which pushes once it has seen history.
        let has_page = self.following.as_ref().is_some_and(|following| following.has_page);
        let batch = self.pending.batch();
        if !may || !has_page || batch.is_empty() {
            return;
        }
        let number = self.number();
        let Some((_, client)) = &self.client else { return };
        let now = self.device.recorder.now();
        let push = Push {
            client: self.device.number,
            dialect: self.device.dialect.name().into(),
            since: self.since,
            start: now,
            end: now,
            outcome: Outcome::Unknown,
            events: batch.clone(),
        };
        let ticket = self.device.recorder.push_begins(&self.device.store.name, push);
        let events = batch.iter().copied().map(event).collect();
        let (client, happened) = (client.clone(), self.happened.clone());
        tokio::spawn(async move {
            // The device gives up before.
            if let Ok(answer) = timeout(2 * PATIENCE, client.push(events)).await {
                let _ = happened.send(Happened::Pushed(number, answer));
            }
        });
        let rebases = self.pending.rebases();
        self.in_flight = Some(InFlight { number, ticket, batch, rebases, start: Instant::now() });
    }

    /// As an app that starts elsewhere, with a client of its own: LiveStore's has a live pull on its connection and no other.
    fn read(&mut self) {
        self.is_reading = true;
        let (happened, recorder) = (self.happened.clone(), self.device.recorder.clone());
        let (number, dialect, store) = (self.device.number, self.device.dialect, self.device.store.name.clone());
        let (nodes, url) = (self.device.nodes.clone(), self.device.reads_at.clone());
        tokio::spawn(async move {
            let start = recorder.now();
            let client = dialect.open(&nodes, &url, &store, None).await;
            // One that fails says nothing.
            if let Ok(Ok(events)) = timeout(2 * PATIENCE, client.pull(None)).await {
                let events = events.iter().map(placed).collect();
                let dialect = dialect.name().into();
                recorder.read(&store, Read { client: number, dialect, start, end: recorder.now(), events });
            }
            close(client);
            let _ = happened.send(Happened::HasRead);
        });
    }

    /// Asks a client of 0.3 whether it is connected: it would say nothing, and not pull again.
    fn look(&mut self) {
        let Some((number, client)) = self.client.clone() else { return };
        let happened = self.happened.clone();
        tokio::spawn(async move {
            let answer = timeout(PATIENCE, client.call("isConnected", json!({}))).await;
            let is_connected = answer.is_ok_and(|answer| answer == Ok(json!(true)));
            let _ = happened.send(Happened::IsConnected(number, is_connected));
        });
    }

    /// The id of the log, which a full client keeps on disk, and without which a cursor means nothing.
    fn ask_backend_id(&self) {
        let Some((number, client)) = self.client.clone() else { return };
        let happened = self.happened.clone();
        tokio::spawn(async move {
            if let Ok(Ok(id)) = timeout(PATIENCE, client.call("backendId", json!({}))).await {
                let _ = happened.send(Happened::BackendId(number, id));
            }
        });
    }

    fn take(&mut self, what: Happened) {
        match what {
            Happened::Opened(number, client) if self.opening == Some(number) => {
                self.opening = None;
                self.losses = 0;
                self.client = Some((number, client));
                self.next_look = Instant::now() + Duration::from_secs(2);
            }
            Happened::Opened(_, client) => close(client),
            Happened::Heard(number, message) => {
                if self.following.as_ref().is_some_and(|following| following.number == number) {
                    self.hear(&message);
                }
            }
            Happened::Pushed(number, answer) => {
                if let Some(push) = self.in_flight.take_if(|push| push.number == number) {
                    self.settle(&push, answer);
                }
            }
            Happened::HasRead => self.is_reading = false,
            Happened::BackendId(number, id) if self.client.as_ref().is_some_and(|(client, _)| *client == number) => {
                self.backend_id = id.as_str().map(str::to_owned);
            }
            Happened::BackendId(..) => {}
            Happened::IsConnected(number, false) if self.client.as_ref().is_some_and(|(client, _)| *client == number) => {
                self.replace("its connection is lost");
            }
            Happened::IsConnected(..) => {}
        }
    }

    fn hear(&mut self, message: &Value) {
        let Some(following) = &mut self.following else { return };
        if message["event"] == "page" {
            let before = self.pending.rebases();
            for placed in following.page(message) {
                self.pending.hear(placed);
            }
            if self.device.dialect == Dialect::CfWs && self.backend_id.is_none() {
                self.ask_backend_id();
            }
            if self.pending.rebases() > before {
                self.waits_for_pull = false;
                self.next_push = Instant::now();
            }
            self.device.status.head.store(self.pending.head(), Ordering::Relaxed);
        } else if is_reset(&message["error"]) {
            following.record.is_told_of_reset = true;
            self.start_over(&message.to_string());
        } else {
            self.losses += 1;
            if self.losses >= self.device.dialect.losses_of_a_life() {
                self.replace(&message.to_string());
            } else {
                self.stop_following(&message.to_string());
                self.next_pull = Instant::now() + REOPEN;
            }
        }
    }

    fn settle(&mut self, push: &InFlight, answer: Result<(), Value>) {
        let is_same = push.rebases == self.pending.rebases();
        let outcome = answer.as_ref().map_or_else(outcome, |()| Outcome::Ok);
        self.device.recorder.push_ends(&push.ticket, outcome);
        match outcome {
            Outcome::Ok => {
                self.pending.acknowledge(&push.batch);
                self.retry = RETRY;
            }
            // Told so, these wait for what they lack, for ever; others repeat what they know until it has come.
            Outcome::ServerAhead
                if is_same && matches!(self.device.dialect, Dialect::CfWs | Dialect::CfHttp | Dialect::Cf03) =>
            {
                self.waits_for_pull = true;
            }
            Outcome::ServerAhead | Outcome::Unknown if is_same => self.retry_later(),
            Outcome::ServerAhead | Outcome::Unknown => self.retry = RETRY,
            Outcome::Reset => self.start_over("a push was told of a reset"),
        }
    }

    fn retry_later(&mut self) {
        self.next_push = Instant::now() + self.retry;
        self.retry = (self.retry * 2).min(LONGEST_RETRY);
    }

    fn give_up_push(&mut self) {
        if let Some(push) = self.in_flight.take() {
            self.device.recorder.push_ends(&push.ticket, Outcome::Unknown);
            self.retry_later();
        }
    }

    fn stop_following(&mut self, why: &str) {
        if let Some(following) = self.following.take() {
            let record = Stream { end: self.device.recorder.now(), ending: why.into(), ..following.record };
            self.device.recorder.stream(&self.device.store.name, record);
        }
    }

    fn drop_client(&mut self, why: &str) {
        self.stop_following(why);
        self.give_up_push();
        self.opening = None;
        if let Some((_, client)) = self.client.take() {
            close(client);
        }
    }

    /// The app is reloaded: a new client, with what the old one had on disk.
    fn replace(&mut self, why: &str) {
        self.drop_client(why);
        self.waits_for_pull = false;
        self.next_pull = Instant::now() + REOPEN;
    }

    fn start_over(&mut self, why: &str) {
        self.drop_client(why);
        self.pending.start_over();
        self.device.status.head.store(0, Ordering::Relaxed);
        self.waits_for_pull = false;
        self.proof = None;
        self.backend_id = None;
        self.since = self.device.recorder.now();
    }

    fn end(mut self) -> crate::history::Recovery {
        let has_pushed = self.proof.is_some_and(|proof| self.pending.is_settled(proof));
        let state = format!(
            "client {:?}, live pull {}, in flight {:?}, waits for pull {}, {} pending",
            self.client.as_ref().map(|(number, _)| number),
            self.following.is_some(),
            self.in_flight.as_ref().map(|push| &push.batch),
            self.waits_for_pull,
            self.pending.len()
        );
        let head = self.pending.head();
        self.drop_client("the run");
        let (client, dialect) = (self.device.number, self.device.dialect.name().into());
        crate::history::Recovery { client, dialect, has_pushed, head, state }
    }
}

fn close(client: Client) {
    tokio::spawn(async move { timeout(PATIENCE, client.call("close", json!({}))).await });
}
