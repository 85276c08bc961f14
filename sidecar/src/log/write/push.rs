//! A push that waits to be committed.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;
use tracing::Span;

use super::outcome::Pushed;
use crate::log::context::Context;
use crate::log::error::PushError;
use crate::log::event::Batch;
use crate::log::store_id::StoreId;

/// The most that one transaction takes on. More makes a commit slower without making it cheaper.
pub const GROUP_PUSHES: usize = 512;
pub const GROUP_BYTES: usize = 8 << 20;

/// A push that waits.
pub struct Push {
    pub store: StoreId,
    pub batch: Batch,
    pub intended: Intended,
    pub context: Arc<Context>,
    pub queued: Instant,
    pub deadline: Instant,
    /// Whether it has failed before.
    pub was_tried: bool,
    pub reply: oneshot::Sender<Result<Pushed, PushError>>,
    /// The request, for traces.
    pub span: Span,
    /// Freed with the push.
    pub _space: Space,
}

/// The log that a push is meant for, by its backend id: a push that waits must not go into the log that follows a reset.
pub enum Intended {
    /// Its client says so.
    Named(String),
    /// Its client names none, as those of sync-electric, sync-s2 and sync-cf 0.3. This is the one that the sidecar followed when the push
    /// came.
    Followed(Arc<str>),
    /// Nobody knows.
    Any,
}

impl Intended {
    pub fn backend_id(&self) -> Option<&str> {
        match self {
            Self::Named(backend_id) => Some(backend_id),
            Self::Followed(backend_id) => Some(backend_id),
            Self::Any => None,
        }
    }
}

/// The room of a push in the queue, until it is dropped.
pub struct Space(#[expect(dead_code, reason = "held until it is dropped")] pub OwnedSemaphorePermit);

impl Push {
    /// Whether its client does not wait for the answer any more.
    pub fn is_over(&self) -> bool {
        self.deadline <= Instant::now() || self.reply.is_closed()
    }

    pub fn answer(self, answer: Result<Pushed, PushError>) {
        let _ = self.reply.send(answer);
    }

    pub fn size(&self) -> usize {
        size(&self.batch, &self.context)
    }
}

/// In bytes.
pub fn size(batch: &Batch, context: &Context) -> usize {
    batch.json().len() + context.size()
}
