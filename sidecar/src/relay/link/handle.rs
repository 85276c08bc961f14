//! The part of the link that devices use.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::relay::{ClientId, SidecarId, UserId};

/// The size of the queue, in KiB; a message costs one at least, as does a device that joins. It may have left again when the database comes.
const ROOM: usize = 64 << 10;

/// Commands to the link. Cheap to clone.
#[derive(Clone)]
pub struct LinkHandle {
    commands: mpsc::UnboundedSender<Command>,
    room: Arc<Semaphore>,
}

pub enum Command {
    Join { user: UserId, client_id: ClientId, done: oneshot::Sender<()>, _room: OwnedSemaphorePermit },
    Leave { user: UserId, client_id: ClientId, connection: i64 },
    Send { to: Vec<SidecarId>, message: String, done: oneshot::Sender<bool>, _room: OwnedSemaphorePermit },
    Exit { done: oneshot::Sender<()> },
}

impl Command {
    /// Answers a command while the link is broken.
    pub fn refuse(self) {
        match self {
            Self::Join { done, .. } | Self::Exit { done } => drop(done.send(())),
            Self::Send { done, .. } => drop(done.send(false)),
            // Nobody knows of it any more.
            Self::Leave { .. } => {}
        }
    }
}

impl LinkHandle {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Command>) {
        let (sender, commands) = mpsc::unbounded_channel();
        (Self { commands: sender, room: Arc::new(Semaphore::new(ROOM)) }, commands)
    }

    /// Makes a device known, and learns of the others of the user; if the link is broken, that is for later.
    pub async fn join(&self, user: &UserId, client_id: &ClientId) {
        let Ok(_room) = Arc::clone(&self.room).acquire_owned().await else { return };
        let (done, waiting) = oneshot::channel();
        let _ = self.commands.send(Command::Join { user: user.clone(), client_id: client_id.clone(), done, _room });
        let _ = waiting.await;
    }

    pub fn leave(&self, user: &UserId, client_id: &ClientId, connection: i64) {
        let _ = self.commands.send(Command::Leave { user: user.clone(), client_id: client_id.clone(), connection });
    }

    /// Sends a message, behind those before it; waits for room. False: it was not sent, or is not known to be.
    pub async fn send(&self, to: Vec<SidecarId>, message: String) -> bool {
        let room = u32::try_from((message.len() / 1024 + 1).min(ROOM)).unwrap_or(u32::MAX);
        let Ok(_room) = Arc::clone(&self.room).acquire_many_owned(room).await else {
            return false;
        };
        let (done, sent) = oneshot::channel();
        let _ = self.commands.send(Command::Send { to, message, done, _room });
        sent.await.unwrap_or(false)
    }

    /// Tells the others that this sidecar ends, as far as the link is there.
    pub async fn exit(&self) {
        let (done, exited) = oneshot::channel();
        let _ = self.commands.send(Command::Exit { done });
        let _ = exited.await;
    }
}
