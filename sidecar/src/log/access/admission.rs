//! Whether a push may go into the queue, and when.

use super::authorize::Action;
use super::store::{Reserved, StoreLog};
use crate::auth::Access;
use crate::log::error::PushError;
use crate::log::event::Batch;

impl StoreLog {
    /// Whether the client may append this, and now. Its own limit comes before what it makes others do.
    pub(in crate::log) async fn may_push_now(&self, batch: &Batch) -> Result<(), PushError> {
        let (limits, bytes) = (self.limits(), batch.json().len());
        self.check_token(Access::Write, Action::Push.refusal()).await?;
        if let Some(subject) = self.context().subject() {
            limits.subjects.check(subject, bytes)?;
        }
        self.authorize(Action::Push).await?;
        limits.stores.check(self.id(), bytes)?;
        match self.context().subject() {
            Some(subject) if self.begins(batch).await => limits.check_new_store(subject, self.id()).await,
            _ => Ok(()),
        }
    }

    /// For a client that would not try again: waits until it may push this, and until there is room in the queue. `None` if there
    /// never will be, since the sidecar ends.
    ///
    /// # Errors
    /// It may not.
    pub async fn admit(&self, batch: Batch) -> Option<Result<Reserved, PushError>> {
        if let Err(error) = self.wait_until_it_may_push(&batch).await {
            self.answered(&batch.origin(), Err(&error));
            return Some(Err(error));
        }
        // Not before: what waits shall not keep others out.
        let space = self.log.commits.room(self.id(), &batch, self.context()).await?;
        Some(Ok(Reserved { batch, space }))
    }

    pub(in crate::log) async fn wait_until_it_may_push(&self, batch: &Batch) -> Result<(), PushError> {
        let (limits, bytes) = (self.limits(), batch.json().len());
        limits.check_sizes(batch.sizes())?;
        self.check_token(Access::Write, Action::Push.refusal()).await?;
        if let Some(subject) = self.context().subject() {
            limits.subjects.wait(subject, bytes).await;
        }
        self.authorize(Action::Push).await?;
        limits.stores.wait(self.id(), bytes).await;
        if let Some(subject) = self.context().subject()
            && self.begins(batch).await
        {
            limits.wait_for_new_store(subject, self.id()).await;
        }
        Ok(())
    }

    /// Whether there is no such store yet.
    async fn begins(&self, batch: &Batch) -> bool {
        batch.parent() == Some(0) && matches!(self.locate().await, Ok(None))
    }
}
