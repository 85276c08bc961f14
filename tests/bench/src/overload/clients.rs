//! Clients that push one event at a time to a store of their own, over `POST /api/s2` on a connection that is kept.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::wire::batch;
use crate::wire::http::Http;

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

#[derive(Debug, Clone)]
pub struct Answer {
    /// The time at which it was due, and the time that it took from then on: a client that comes late has waited, too.
    pub due: Instant,
    pub took: Duration,
    pub outcome: Outcome,
}

struct Client {
    http: Http,
    store: String,
    head: u64,
}

/// All connections, those that have nothing to do on a stack: it grows as far as answers are waited for.
pub struct Clients {
    port: u16,
    idle: Mutex<Stack>,
    answers: Mutex<Vec<Answer>>,
}

#[derive(Default)]
struct Stack {
    clients: Vec<Client>,
    opened: usize,
}

impl Clients {
    pub fn new(port: u16) -> Arc<Self> {
        Arc::new(Self { port, idle: Mutex::default(), answers: Mutex::default() })
    }

    /// Everything that was answered since the last call.
    pub fn take_answers(&self) -> Vec<Answer> {
        std::mem::take(&mut lock(&self.answers))
    }

    /// The number of connections.
    pub fn connections(&self) -> usize {
        lock(&self.idle).opened
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
        let mut body = format!(r#"{{"storeId":"{}","batch":"#, client.store);
        batch(&mut body, client.head, 1);
        body.push('}');
        let (status, text) = client.http.try_post("/api/s2", body).await;
        let outcome = match status.as_u16() {
            200 => {
                client.head += 1;
                Outcome::Acknowledged
            }
            429 if memchr::memmem::find(&text, b"try again later").is_some() => Outcome::Refused,
            _ => Outcome::Unexpected(format!("{status}: {}", String::from_utf8_lossy(&text))),
        };
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
        Client { http: Http::connect(self.port).await, store: format!("overload-{number}"), head: 0 }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
