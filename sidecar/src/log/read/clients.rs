//! The clients that follow a tail, for an operator who asks.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use chrono::{DateTime, Utc};
use parking_lot::Mutex;

use crate::log::context::Context;

/// A client that follows a log.
#[derive(Debug)]
pub struct Client {
    pub context: Arc<Context>,
    pub since: DateTime<Utc>,
    last: AtomicI64,
}

impl Client {
    /// The last event that it was given.
    pub fn last(&self) -> i64 {
        self.last.load(Ordering::Relaxed)
    }
}

/// Those of one tail.
#[derive(Debug, Default)]
pub struct Clients {
    by_number: Mutex<HashMap<u64, Arc<Client>>>,
    next: AtomicU64,
}

impl Clients {
    /// Some of them, those that came first, and how many there are.
    pub fn list(&self, most: usize) -> (Vec<Arc<Client>>, usize) {
        let by_number = self.by_number.lock();
        let mut clients: Vec<_> = by_number.iter().map(|(number, client)| (*number, Arc::clone(client))).collect();
        drop(by_number);
        let count = clients.len();
        clients.sort_unstable_by_key(|(number, _)| *number);
        (clients.into_iter().take(most).map(|(_, client)| client).collect(), count)
    }

    pub fn add(&self, context: Arc<Context>, last: i64) -> (u64, Arc<Client>) {
        let client = Arc::new(Client { context, since: Utc::now(), last: last.into() });
        (self.take_over(Arc::clone(&client)), client)
    }

    fn take_over(&self, client: Arc<Client>) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.by_number.lock().insert(number, client);
        number
    }

    pub fn remove(&self, number: u64) {
        self.by_number.lock().remove(&number);
    }
}

/// A client, until it is dropped.
pub struct ClientGuard<T: AsRef<Clients>> {
    tail: T,
    number: u64,
    client: Arc<Client>,
}

impl<T: AsRef<Clients>> ClientGuard<T> {
    pub fn new(tail: T, context: Arc<Context>, last: i64) -> Self {
        let (number, client) = tail.as_ref().add(context, last);
        Self { tail, number, client }
    }

    /// The same client, that follows another tail.
    pub fn at(&self, tail: T) -> Self {
        let number = tail.as_ref().take_over(Arc::clone(&self.client));
        Self { tail, number, client: Arc::clone(&self.client) }
    }

    /// It was given everything up to this event.
    pub fn has(&self, last: i64) {
        self.client.last.store(last, Ordering::Relaxed);
    }
}

impl<T: AsRef<Clients>> Drop for ClientGuard<T> {
    fn drop(&mut self) {
        self.tail.as_ref().remove(self.number);
    }
}
