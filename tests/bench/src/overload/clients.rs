//! Clients that push one event at a time to a store of their own, on a connection that is kept: over `POST /api/s2`, or over the
//! WebSocket of sync-cf.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::wire::batch;
use crate::wire::http::Http;
use crate::wire::rpc::Rpc;

/// The time after which the open loop looks again for pushes that are due.
const TICK: Duration = Duration::from_millis(5);

/// The outcome of a push.
#[derive(Debug, Clone)]
pub enum Outcome {
    Acknowledged,
    /// The client is told to come back later.
    Refused,
    /// Nothing else is right.
    Unexpected(String),
}

impl Outcome {
    fn of_failure(text: &[u8]) -> Self {
        match memchr::memmem::find(text, b"try again later") {
            Some(_) => Self::Refused,
            None => Self::Unexpected(String::from_utf8_lossy(text).into_owned()),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Answer {
    /// The time at which it was due, and the time that it took from then on: a client that comes late has waited, too.
    pub due: Instant,
    pub took: Duration,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub enum Transport {
    Http,
    WebSocket,
}

enum Client {
    Http { http: Http, store: String, head: u64 },
    WebSocket(Box<Rpc>),
}

impl Client {
    async fn push(&mut self) -> Outcome {
        match self {
            Self::Http { http, store, head } => {
                let mut body = format!(r#"{{"storeId":"{store}","batch":"#);
                batch(&mut body, *head, 1);
                body.push('}');
                let (status, text) = http.try_post("/api/s2", body).await;
                match status.as_u16() {
                    200 => {
                        *head += 1;
                        Outcome::Acknowledged
                    }
                    429 => Outcome::of_failure(&text),
                    _ => Outcome::Unexpected(format!("{status}: {}", String::from_utf8_lossy(&text))),
                }
            }
            Self::WebSocket(rpc) => match rpc.try_push(1).await {
                Ok(()) => Outcome::Acknowledged,
                Err(frame) => Outcome::of_failure(&frame),
            },
        }
    }
}

/// All connections, those that have nothing to do on a stack: it grows as far as answers are waited for.
pub struct Clients {
    port: u16,
    transport: Transport,
    /// The beginning of the names of their stores.
    stores: &'static str,
    idle: Mutex<Stack>,
    answers: Mutex<Vec<Answer>>,
}

#[derive(Default)]
struct Stack {
    clients: Vec<Client>,
    opened: usize,
}

impl Clients {
    pub fn new(port: u16, transport: Transport, stores: &'static str) -> Arc<Self> {
        Arc::new(Self { port, transport, stores, idle: Mutex::default(), answers: Mutex::default() })
    }

    /// Everything that was answered since the last call.
    pub fn take_answers(&self) -> Vec<Answer> {
        std::mem::take(&mut lock(&self.answers))
    }

    /// The number of connections.
    pub fn connections(&self) -> usize {
        lock(&self.idle).opened
    }

    /// Opens so many connections.
    pub async fn open(&self, count: usize) {
        let clients = join_all((0..count).map(|_| self.client())).await;
        lock(&self.idle).clients.extend(clients);
    }

    /// So many clients, each of which waits for an answer before its next push.
    pub async fn push_in_turn(&self, clients: usize, time: Duration) {
        let end = Instant::now() + time;
        let loops = (0..clients).map(|_| async {
            while Instant::now() < end {
                self.push(Instant::now()).await;
            }
        });
        join_all(loops).await;
    }

    /// So many pushes a second, whatever becomes of them; those that are not answered yet at the end are left in `pushes`.
    /// `meanwhile` is called again and again.
    pub async fn push_at_rate(
        self: &Arc<Self>,
        rate: f64,
        time: Duration,
        pushes: &mut JoinSet<()>,
        mut meanwhile: impl FnMut(),
    ) {
        let start = Instant::now();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut sent: u32 = 0;
        while start.elapsed() < time {
            ticks.tick().await;
            let elapsed = start.elapsed().min(time).as_secs_f64();
            while f64::from(sent) < rate * elapsed {
                let due = start + Duration::from_secs_f64(f64::from(sent) / rate);
                let clients = Arc::clone(self);
                pushes.spawn(async move { clients.push(due).await });
                sent += 1;
            }
            while pushes.try_join_next().is_some() {}
            meanwhile();
        }
    }

    async fn push(&self, due: Instant) {
        let mut client = self.client().await;
        let outcome = client.push().await;
        lock(&self.answers).push(Answer { due, took: due.elapsed(), outcome });
        lock(&self.idle).clients.push(client);
    }

    /// One that has nothing to do, or a new one.
    async fn client(&self) -> Client {
        let number = {
            let mut idle = lock(&self.idle);
            if let Some(client) = idle.clients.pop() {
                return client;
            }
            idle.opened += 1;
            idle.opened
        };
        let (port, store) = (self.port, format!("{}-{number}", self.stores));
        match self.transport {
            Transport::Http => Client::Http { http: Http::connect(port).await, store, head: 0 },
            Transport::WebSocket => {
                let mut rpc = Rpc::open(&format!("ws://127.0.0.1:{port}"), &store, 0).await;
                // As every client does. A connection that never pulls is closed after a while.
                rpc.follow().await;
                Client::WebSocket(Box::new(rpc))
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
