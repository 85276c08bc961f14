//! Reading a log up to where it stands, page by page.

use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::authorize::Denied;
use super::pull::{self, Page, patiently};
use super::store_id::StoreId;
use super::{Log, PullError, check_cursor};
use crate::auth::Refused;
use crate::postgres::Database;

/// The pages of a log up to its end.
pub struct History {
    log: Log,
    store: StoreId,
    after: i64,
    backend_id: Option<String>,
    until: Option<Instant>,
    is_complete: bool,
    /// The page that comes next, on its way while the one before is being sent.
    next: Option<AbortOnDropHandle<Page>>,
}

impl History {
    /// Of the events after a cursor, as far as a token lasts.
    pub(super) fn new(
        log: Log,
        store: StoreId,
        after: i64,
        backend_id: Option<String>,
        until: Option<Instant>,
    ) -> Self {
        Self { log, store, after, backend_id, until, is_complete: false, next: None }
    }

    /// The next page: at least one, and `None` after the last. Waits while the database is away. Cancel safe.
    ///
    /// # Errors
    /// The cursor is not one of this log.
    pub async fn next(&mut self) -> Result<Option<Page>, PullError> {
        if self.is_complete {
            return Ok(None);
        }
        if self.until.is_some_and(|until| until <= Instant::now()) {
            return Err(PullError::Denied(Denied(Refused::Expired.to_string())));
        }
        let page = match &mut self.next {
            Some(next) => next.await.ok(),
            None => None,
        };
        self.next = None;
        let page = match page {
            Some(page) => page,
            None => read(self.log.database.clone(), self.store.clone(), self.after).await,
        };
        check_cursor(&self.store, &page, self.after, self.backend_id.as_deref())?;
        // A reset between two pages must not mix two logs.
        self.backend_id.get_or_insert_with(|| (*page.backend_id).into());
        self.after = page.events.last().map_or(page.head, |event| event.seq_num);
        self.is_complete = page.remaining() == 0;
        if !self.is_complete {
            let reading = read(self.log.database.clone(), self.store.clone(), self.after);
            self.next = Some(AbortOnDropHandle::new(tokio::spawn(reading)));
        }
        Ok(Some(page))
    }
}

async fn read(database: Database, store: StoreId, after: i64) -> Page {
    patiently(|| pull::pull(&database, &store, after)).await
}
