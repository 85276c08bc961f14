//! The memory that a message takes before it is whole: what was read of its connection and not handed on.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::close::{Close, NO_MEMORY, UNFINISHED};
use crate::limits::memory::{Account, Beyond, FREE, Share};

/// Memory is taken in pieces, as a message arrives.
const STEP: usize = 128 << 10;

/// The bytes of a control frame of a client before its payload.
const CONTROL_HEAD: usize = 6;

/// Counts what is read of a connection, from when it is a WebSocket.
#[derive(Default)]
pub struct Meter(Mutex<Option<Count>>);

struct Count {
    account: Account,
    /// Read since the last message.
    bytes: usize,
    share: Option<Share>,
    taking: Option<Pin<Box<dyn Future<Output = Option<Share>> + Send>>>,
    /// The time since when a message larger than [`FREE`] has been arriving.
    since: Option<Instant>,
    /// The part of this time in which it waited for memory, until now or until the wait that goes on.
    waited: Duration,
    waiting: Option<Instant>,
}

impl Count {
    /// The memory of the message that was arriving. Nothing of it is left.
    fn reset(&mut self) -> Option<Share> {
        (self.bytes, self.since, self.waited, self.waiting, self.taking) = (0, None, Duration::ZERO, None, None);
        self.share.take()
    }

    fn beyond(&self) -> Beyond {
        self.share.as_ref().map_or(Beyond::Nothing, Share::beyond)
    }

    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.bytes > FREE + self.share.as_ref().map_or(0, Share::bytes) && self.beyond() != Beyond::All {
            let (account, beyond) = (self.account.clone(), self.beyond());
            let taking =
                self.taking.get_or_insert_with(|| Box::pin(async move { account.take_more(STEP, beyond).await }));
            let taken = ready!(taking.as_mut().poll(context));
            self.taking = None;
            match (&mut self.share, taken) {
                (Some(share), Some(taken)) => share.merge(taken),
                (none, Some(taken)) => *none = Some(taken),
                (_, None) => break,
            }
        }
        Poll::Ready(())
    }
}

impl Meter {
    /// From now on.
    pub fn begin(&self, account: Account) {
        let (share, taking, since, waiting) = (None, None, None, None);
        *self.0.lock() = Some(Count { account, bytes: 0, share, taking, since, waited: Duration::ZERO, waiting });
    }

    /// Whether the connection is a WebSocket.
    pub fn has_begun(&self) -> bool {
        self.0.lock().is_some()
    }

    /// Whether there is memory for what is read next. Until then nothing is, and the client is held back by its own connection.
    pub fn poll_room(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut count = self.0.lock();
        let Some(count) = &mut *count else { return Poll::Ready(()) };
        let room = count.poll_room(context);
        if room.is_pending() {
            count.waiting.get_or_insert_with(Instant::now);
        } else if let Some(began) = count.waiting.take() {
            count.waited += began.elapsed();
        }
        room
    }

    pub fn read(&self, bytes: usize) {
        if let Some(count) = &mut *self.0.lock() {
            count.bytes += bytes;
            if count.bytes > FREE {
                count.since.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Called when a message is complete: returns the memory that it takes.
    pub fn delivered(&self) -> Option<Share> {
        self.0.lock().as_mut()?.reset()
    }

    /// Called for a control frame with a payload of this size. It may come between the parts of a message, which count on.
    pub fn control(&self, payload: usize) {
        if let Some(count) = &mut *self.0.lock() {
            let bytes = count.bytes.saturating_sub(CONTROL_HEAD + payload);
            if bytes <= FREE {
                drop(count.reset());
            }
            count.bytes = bytes;
        }
    }

    /// Whether a message larger than [`FREE`] is arriving.
    pub fn is_arriving(&self) -> bool {
        self.0.lock().as_ref().is_some_and(|count| count.since.is_some())
    }

    /// Why the connection is to be closed: a message has been arriving for longer than this, or has waited for memory for so long. The
    /// latter is not the client's fault, and does not count as the former.
    pub fn overdue(&self, time: Duration) -> Option<Close> {
        let count = self.0.lock();
        let count = count.as_ref()?;
        let waited = count.waited + count.waiting.map_or(Duration::ZERO, |began| began.elapsed());
        if waited > time {
            return Some(NO_MEMORY);
        }
        (count.since?.elapsed().saturating_sub(waited) > time).then_some(UNFINISHED)
    }
}

/// The meter of the connection that a request came on, or one that counts nothing.
pub fn of(extensions: &axum::http::Extensions) -> Arc<Meter> {
    extensions.get::<Arc<Meter>>().cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::thread::sleep;

    use futures_util::FutureExt;

    use super::*;
    use crate::limits::memory::Memory;

    const KIB: usize = 1 << 10;

    fn meter(account: Account) -> Meter {
        let meter = Meter::default();
        meter.begin(account);
        meter
    }

    /// Reads as much, in the pieces in which connections are read, if there is memory for it.
    fn read(meter: &Meter, bytes: usize) -> bool {
        (0..bytes / KIB).all(|_| {
            let has_room = poll_fn(|context| meter.poll_room(context)).now_or_never().is_some();
            if has_room {
                meter.read(KIB);
            }
            has_room
        })
    }

    /// On a connection of each account, a message of 512 KiB arrives in pieces of 100 KiB, in turn with the others.
    fn all_arrive(accounts: &[Account]) {
        let mut arriving: Vec<_> = accounts.iter().map(|account| (meter(account.clone()), 0)).collect();
        for _ in 0..200 {
            arriving.retain_mut(|(meter, arrived)| {
                if read(meter, 100 * KIB) {
                    *arrived += 100 * KIB;
                }
                let is_whole = *arrived >= 512 * KIB;
                if is_whole {
                    assert!(meter.delivered().is_some());
                }
                !is_whole
            });
        }
        assert_eq!(
            arriving.len(),
            0,
            "these wait for each other: {:?}",
            arriving.iter().map(|(_, n)| n).collect::<Vec<_>>()
        );
    }

    #[test]
    fn messages_that_arrive_together_and_need_more_than_there_is_all_arrive() {
        let memory = Memory::new(1 << 20, 1 << 20);
        all_arrive(&vec![memory.strangers(); 16]);
        // Of many clients of which none has reached its limit.
        let subjects: Vec<_> = (0..16).map(|n| memory.subject(&n.to_string().into())).collect();
        all_arrive(&subjects);
        // Both limits.
        let memory = Memory::new(1 << 20, 512 * KIB);
        all_arrive(&(0..16).map(|n| memory.subject(&(n % 3).to_string().into())).collect::<Vec<_>>());
        assert_eq!(memory.taken(), 0);
    }

    #[test]
    fn one_message_goes_beyond_a_limit_until_its_memory_is_given_back() {
        let memory = Memory::new(256 * KIB, 256 * KIB);
        let meters = [(); 3].map(|()| meter(memory.strangers()));
        for meter in &meters[..2] {
            assert!(read(meter, 128 * KIB + FREE));
        }
        assert_eq!((read(&meters[0], 512 * KIB), read(&meters[1], 512 * KIB)), (true, false));
        let whole = meters[0].delivered();
        assert!(!read(&meters[1], KIB), "it is whole, and still in memory");
        drop(whole);
        assert!(read(&meters[1], 512 * KIB));
        let [first, second, third] = meters;
        assert!(!read(&third, 512 * KIB));
        drop((first, second));
        assert!(read(&third, 512 * KIB), "a connection that ends gives everything back");
    }

    #[test]
    fn time_without_memory_is_not_the_clients() {
        let memory = Memory::new(256 * KIB, 256 * KIB);
        let hog = memory.strangers().try_take(256 * KIB);
        let turns = [(); 2].map(|()| meter(memory.strangers()));
        assert!(read(&turns[0], 128 * KIB) && !read(&turns[1], 128 * KIB));
        sleep(Duration::from_millis(20));
        let time = Duration::from_millis(15);
        assert_eq!(turns.each_ref().map(|meter| meter.overdue(time)), [Some(UNFINISHED), Some(NO_MEMORY)]);
        drop(hog);
        assert!(read(&turns[1], KIB));
        assert_eq!(turns[1].overdue(Duration::from_secs(60)), None);
        assert!(turns[1].is_arriving());
        drop(turns[1].delivered());
        assert_eq!((turns[1].overdue(Duration::ZERO), turns[1].is_arriving()), (None, false));
    }

    #[test]
    fn control_frames_add_up_to_nothing() {
        let memory = Memory::new(1 << 20, 1 << 20);
        let quiet = meter(memory.strangers());
        for payload in (0..10_000).map(|n| n % 126) {
            assert!(poll_fn(|context| quiet.poll_room(context)).now_or_never().is_some());
            quiet.read(CONTROL_HEAD + payload);
            quiet.control(payload);
        }
        assert_eq!((memory.taken(), quiet.is_arriving()), (0, false));

        // Between the parts of a message they do not hide it.
        let slow = meter(memory.strangers());
        for _ in 0..100 {
            assert!(read(&slow, KIB));
            slow.read(CONTROL_HEAD);
            slow.control(0);
        }
        sleep(Duration::from_millis(2));
        assert_eq!((memory.taken(), slow.overdue(Duration::from_millis(1))), (STEP, Some(UNFINISHED)));
    }
}
