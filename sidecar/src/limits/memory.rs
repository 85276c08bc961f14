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
    /// Held by the one message that may go beyond all of it ([`Account::take_more`]).
    turn: Arc<Semaphore>,
    subjects: Mutex<HashMap<Arc<str>, Weak<Own>>>,
    strangers: Arc<Own>,
    /// The bytes that all clients without a token may have together: the rest is for those who send.
    readers: Arc<Semaphore>,
    warned: Mutex<Option<Instant>>,
}

/// The bytes of one client.
#[derive(Clone)]
pub struct Account {
    memory: Arc<Memory>,
    own: Arc<Own>,
    /// Shared with others of its kind.
    kind: Option<Arc<Semaphore>>,
}

/// The memory of one account.
struct Own {
    bytes: Arc<Semaphore>,
    /// Held by the one message that may go beyond these bytes.
    turn: Arc<Semaphore>,
}

impl Own {
    fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { bytes: Arc::new(Semaphore::new(bytes)), turn: Arc::new(Semaphore::new(1)) })
    }
}

/// A part of it, given back when this is dropped.
pub struct Share {
    /// Known by its name for as long as something of it is in use.
    _of: Arc<Own>,
    /// Less than `all` with the turn of the account.
    own: OwnedSemaphorePermit,
    kind: Option<OwnedSemaphorePermit>,
    all: OwnedSemaphorePermit,
    turn_of_account: Option<OwnedSemaphorePermit>,
    turn_of_all: Option<OwnedSemaphorePermit>,
}

/// The limits that a message may go beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beyond {
    Nothing,
    Account,
    All,
}

impl Memory {
    /// So many bytes in all, and for each client. Settings allow no more than a `u32`.
    pub fn new(bytes: usize, each: usize) -> Arc<Self> {
        let [bytes, each] = [bytes, each].map(|bytes| bytes.min(u32::MAX as usize).min(Semaphore::MAX_PERMITS));
        let (all, turn, strangers) = (Arc::new(Semaphore::new(bytes)), Arc::new(Semaphore::new(1)), Own::new(each));
        let readers = Arc::new(Semaphore::new((bytes - each.min(bytes)).max(bytes / 2)));
        Arc::new(Self {
            all,
            bytes,
            each,
            turn,
            subjects: Mutex::default(),
            strangers,
            readers,
            warned: Mutex::default(),
        })
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
            let own = Own::new(self.each);
            subjects.insert(Arc::clone(subject), Arc::downgrade(&own));
            own
        });
        drop(subjects);
        Account { memory: Arc::clone(self), own, kind: None }
    }

    /// The account that all unidentified clients share.
    pub fn strangers(self: &Arc<Self>) -> Account {
        Account { memory: Arc::clone(self), own: Arc::clone(&self.strangers), kind: None }
    }

    /// A client that is known by its connection only.
    pub fn connection(self: &Arc<Self>) -> Account {
        let (own, kind) = (Own::new(self.each), Some(Arc::clone(&self.readers)));
        Account { memory: Arc::clone(self), own, kind }
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
        let own = Arc::clone(&self.own.bytes).acquire_many_owned(bytes).await.ok()?;
        let kind = match &self.kind {
            Some(kind) => Some(Arc::clone(kind).acquire_many_owned(bytes).await.ok()?),
            None => None,
        };
        let all = Arc::clone(&self.memory.all).acquire_many_owned(bytes).await.ok()?;
        Some(self.share(own, kind, all))
    }

    /// Waits for more memory for a message that has begun to arrive, and holds what it has meanwhile. Messages that wait for each
    /// other would wait for ever. So one of each account has the turn to go beyond the memory of the account, and one of those to go
    /// beyond all, until its share is dropped: the excess is one message for each of these limits.
    pub async fn take_more(&self, bytes: usize, beyond: Beyond) -> Option<Share> {
        let none = |semaphore: &Arc<Semaphore>| Arc::clone(semaphore).try_acquire_many_owned(0).ok();
        let nothing = || Some(self.share(none(&self.own.bytes)?, None, none(&self.memory.all)?));
        match beyond {
            Beyond::Nothing => tokio::select! {
                biased;
                share = self.take(bytes) => share,
                turn = Arc::clone(&self.own.turn).acquire_owned() => Some(Share { turn_of_account: turn.ok(), ..nothing()? }),
            },
            Beyond::Account => tokio::select! {
                biased;
                all = Arc::clone(&self.memory.all).acquire_many_owned(self.permits(bytes)) => {
                    Some(Share { all: all.ok()?, ..nothing()? })
                }
                turn = Arc::clone(&self.memory.turn).acquire_owned() => Some(Share { turn_of_all: turn.ok(), ..nothing()? }),
            },
            Beyond::All => None,
        }
    }

    /// The same as [`Self::take`], if there is so much now.
    pub fn try_take(&self, bytes: usize) -> Option<Share> {
        let bytes = self.permits(bytes);
        let own = Arc::clone(&self.own.bytes).try_acquire_many_owned(bytes).ok()?;
        let kind = match &self.kind {
            Some(kind) => Some(Arc::clone(kind).try_acquire_many_owned(bytes).ok()?),
            None => None,
        };
        let all = Arc::clone(&self.memory.all).try_acquire_many_owned(bytes).ok()?;
        Some(self.share(own, kind, all))
    }

    fn share(&self, own: OwnedSemaphorePermit, kind: Option<OwnedSemaphorePermit>, all: OwnedSemaphorePermit) -> Share {
        Share { _of: Arc::clone(&self.own), own, kind, all, turn_of_account: None, turn_of_all: None }
    }

    fn permits(&self, bytes: usize) -> u32 {
        let most = if self.kind.is_some() { self.memory.bytes / 2 } else { self.memory.bytes };
        u32::try_from(bytes.min(self.memory.each).min(most)).unwrap_or(u32::MAX)
    }
}

impl Share {
    /// Gives back what is more than this.
    pub fn shrink(&mut self, bytes: usize) {
        for permit in [&mut self.own, &mut self.all].into_iter().chain(&mut self.kind) {
            drop(permit.split(permit.num_permits().saturating_sub(bytes)));
        }
    }

    /// Both in one.
    pub fn merge(&mut self, other: Self) {
        self.own.merge(other.own);
        if let (Some(kind), Some(other)) = (&mut self.kind, other.kind) {
            kind.merge(other);
        }
        self.all.merge(other.all);
        self.turn_of_account = self.turn_of_account.take().or(other.turn_of_account);
        self.turn_of_all = self.turn_of_all.take().or(other.turn_of_all);
    }

    pub fn bytes(&self) -> usize {
        self.all.num_permits()
    }

    pub fn beyond(&self) -> Beyond {
        match (&self.turn_of_account, &self.turn_of_all) {
            (_, Some(_)) => Beyond::All,
            (Some(_), None) => Beyond::Account,
            (None, None) => Beyond::Nothing,
        }
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
    fn clients_without_a_token_that_do_not_read_leave_memory_to_those_who_send() {
        let memory = Memory::new(100, 20);
        let held: Vec<_> = (0..10).filter_map(|_| memory.connection().try_take(20)).collect();
        assert_eq!((held.len(), memory.taken()), (4, 80));
        assert!(memory.strangers().try_take(20).is_some());
        drop(held);
        assert_eq!(memory.connection().try_take(20).map(|share| share.bytes()), Some(20));
    }

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
