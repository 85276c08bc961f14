//! Messages that wait for a device: a bounded queue, so that one device that does not read holds up nobody else.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// The size of the queue, in KiB; a message costs one at least. A longer message fits into an empty mailbox.
const ROOM: usize = 4 << 10;

/// Why a device is not online any more, while its connection still is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It has connected again.
    Replaced,
    /// It does not read what it is sent.
    Slow,
    /// Messages for it may have been lost.
    Missed,
}

/// The end at which messages for a device are put in.
pub struct Mailbox {
    letters: mpsc::UnboundedSender<(Bytes, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
    end: Arc<End>,
}

/// The end at which the device takes them out.
pub struct Inbox {
    letters: mpsc::UnboundedReceiver<(Bytes, OwnedSemaphorePermit)>,
    end: Arc<End>,
}

#[derive(Default)]
struct End {
    reason: OnceLock<Ended>,
    is_over: CancellationToken,
}

/// Waits for the end of a device from outside its inbox.
#[derive(Clone)]
pub struct Ending(Arc<End>);

pub fn mailbox() -> (Mailbox, Inbox) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let (room, end) = (Arc::new(Semaphore::new(ROOM)), Arc::<End>::default());
    (Mailbox { letters: sender, room, end: Arc::clone(&end) }, Inbox { letters: receiver, end })
}

impl Mailbox {
    /// If there is no room left, this is the end of the device. One that has ended gets no more.
    pub fn put(&self, text: &Bytes) {
        if self.has_ended() {
            return;
        }
        let room = u32::try_from((text.len() / 1024 + 1).min(ROOM)).unwrap_or(u32::MAX);
        match Arc::clone(&self.room).try_acquire_many_owned(room) {
            // An inbox that is dropped belongs to a device that is leaving.
            Ok(permit) => drop(self.letters.send((text.clone(), permit))),
            Err(_) => self.end(Ended::Slow),
        }
    }

    pub fn has_ended(&self) -> bool {
        self.end.is_over.is_cancelled()
    }

    /// The first reason counts.
    pub fn end(&self, reason: Ended) {
        let _ = self.end.reason.set(reason);
        self.end.is_over.cancel();
    }
}

impl Inbox {
    /// The next message; `None` if there will be none.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.letters.recv().await.map(|(text, _)| text)
    }

    pub fn ending(&self) -> Ending {
        Ending(Arc::clone(&self.end))
    }
}

impl Ending {
    /// Waits until the device is not online any more, though its connection is.
    pub async fn ended(&self) -> Ended {
        self.0.is_over.cancelled().await;
        self.0.reason.get().copied().unwrap_or(Ended::Missed)
    }
}
