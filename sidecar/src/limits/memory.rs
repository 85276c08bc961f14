//! Memory for data in transit: bodies and messages that arrive, pages that are read, and data that waits for a client to read
//! it. It is limited in bytes, for each client and in total. A reader that finds no room waits, and so does its client.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

use crate::telemetry::metrics::Limit;

/// Messages up to this size are not counted, so that pings and acknowledgements always pass: acknowledgements let memory be
/// given back.
pub const FREE: usize = 16 << 10;

/// The interval at which waiting requests are mentioned in the log.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// The memory of the process.
pub struct Memory {
    all: Arc<Semaphore>,
    bytes: usize,
    each: usize,
    subjects: Mutex<HashMap<Arc<str>, Weak<Semaphore>>>,
    strangers: Arc<Semaphore>,
    warned: Mutex<Option<Instant>>,
}

/// The bytes of one client.
#[derive(Clone)]
pub struct Account {
    memory: Arc<Memory>,
    own: Arc<Semaphore>,
}

/// A part of it, given back when this is dropped.
pub struct Share {
    own: OwnedSemaphorePermit,
    all: OwnedSemaphorePermit,
}

impl Memory {
    /// So many bytes in all, and for each client.
    pub fn new(bytes: usize, each: usize) -> Arc<Self> {
        let [bytes, each] = [bytes, each].map(|bytes| bytes.min(u32::MAX as usize).min(Semaphore::MAX_PERMITS));
        let [all, strangers] = [bytes, each].map(|bytes| Arc::new(Semaphore::new(bytes)));
        Arc::new(Self { all, bytes, each, subjects: Mutex::default(), strangers, warned: Mutex::default() })
    }

    /// The account that all clients with tokens of one subject share.
    pub fn subject(self: &Arc<Self>, subject: &Arc<str>) -> Account {
        let mut subjects = self.subjects.lock();
        let known = subjects.get(subject).and_then(Weak::upgrade);
        let own = known.unwrap_or_else(|| {
            // Those that are gone are forgotten now and then.
            if subjects.len() == subjects.capacity() {
                subjects.retain(|_, own| own.strong_count() > 0);
            }
            let own = Arc::new(Semaphore::new(self.each));
            subjects.insert(Arc::clone(subject), Arc::downgrade(&own));
            own
        });
        drop(subjects);
        Account { memory: Arc::clone(self), own }
    }

    /// The account that all unidentified clients share.
    pub fn strangers(self: &Arc<Self>) -> Account {
        Account { memory: Arc::clone(self), own: Arc::clone(&self.strangers) }
    }

    /// A client that is known by its connection only.
    pub fn connection(self: &Arc<Self>) -> Account {
        Account { memory: Arc::clone(self), own: Arc::new(Semaphore::new(self.each)) }
    }

    /// Bytes in use.
    pub fn taken(&self) -> usize {
        self.bytes - self.all.available_permits()
    }

    fn exceeded(&self) {
        Limit::BufferBytes.hit();
        let mut warned = self.warned.lock();
        if warned.is_none_or(|warned| warned.elapsed() > WARN_EVERY) {
            *warned = Some(Instant::now());
            let taken = self.taken();
            warn!(taken, "clients wait for memory: see --max-buffer-bytes and --max-buffer-bytes-per-client");
        }
    }
}

impl Account {
    /// Waits until there is so much. An amount larger than the whole counts as the whole.
    pub async fn take(&self, bytes: usize) -> Option<Share> {
        if let Some(share) = self.try_take(bytes) {
            return Some(share);
        }
        self.memory.exceeded();
        let bytes = self.permits(bytes);
        // First the client's own memory, then the shared one, so that a client that has to wait for its own does not take
        // shared memory meanwhile.
        let own = Arc::clone(&self.own).acquire_many_owned(bytes).await.ok()?;
        let all = Arc::clone(&self.memory.all).acquire_many_owned(bytes).await.ok()?;
        Some(Share { own, all })
    }

    /// The same, if there is so much now.
    pub fn try_take(&self, bytes: usize) -> Option<Share> {
        let bytes = self.permits(bytes);
        let own = Arc::clone(&self.own).try_acquire_many_owned(bytes).ok()?;
        let all = Arc::clone(&self.memory.all).try_acquire_many_owned(bytes).ok()?;
        Some(Share { own, all })
    }

    fn permits(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.memory.each).min(self.memory.bytes)).unwrap_or(u32::MAX)
    }
}

impl Share {
    /// Gives back what is more than this.
    pub fn shrink(&mut self, bytes: usize) {
        let more = self.own.num_permits().saturating_sub(bytes);
        drop((self.own.split(more), self.all.split(more)));
    }

    /// Both in one.
    pub fn merge(&mut self, other: Self) {
        self.own.merge(other.own);
        self.all.merge(other.all);
    }

    pub fn bytes(&self) -> usize {
        self.own.num_permits()
    }
}

impl std::fmt::Debug for Account {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Account")
    }
}

impl std::fmt::Debug for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Share").field(&self.bytes()).finish()
    }
}

/// Bytes that keep their share of the memory until the last copy of them is dropped.
pub fn counted(bytes: impl Into<Bytes>, share: Option<Arc<Share>>) -> Bytes {
    struct Counted(Bytes, #[expect(dead_code, reason = "held until it is dropped")] Arc<Share>);
    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }
    match share {
        None => bytes.into(),
        Some(share) => Bytes::from_owner(Counted(bytes.into(), share)),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn each_has_its_part_and_all_together_have_no_more() {
        let memory = Memory::new(100, 60);
        let (ann, bob) = (memory.subject(&"ann".into()), memory.subject(&"bob".into()));
        let first = ann.try_take(40).unwrap();
        assert!(memory.subject(&"ann".into()).try_take(21).is_none(), "ann has it on all of her connections");
        let mut second = bob.try_take(1000).unwrap();
        assert_eq!((second.bytes(), memory.taken()), (60, 100), "what is too large counts as all");
        assert!(ann.take(10).now_or_never().is_none());
        second.shrink(50);
        let third = ann.take(10).now_or_never().unwrap().unwrap();
        assert!(memory.connection().try_take(1).is_none());
        let rides = counted("text", Some(Arc::new(third)));
        drop((first, second));
        assert_eq!(memory.taken(), 10);
        drop(rides.slice(1..));
        drop(rides);
        assert_eq!(memory.taken(), 0);
    }
}
