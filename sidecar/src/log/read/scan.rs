//! Reading a log up to where it stands, page by page.

use tokio::time::Instant;

use super::page::Page;
use super::prefetch::Ahead;
use crate::auth::Refused;
use crate::budget::Account;
use crate::log::access::authorize::Denied;
use crate::log::store_id::StoreId;
use crate::log::{Log, PullError, check_cursor};
use crate::refusals::Reason;

/// The pages of a log up to its end.
pub struct History {
    log: Log,
    store: StoreId,
    after: i64,
    backend_id: Option<String>,
    until: Option<Instant>,
    is_complete: bool,
    ahead: Ahead,
    account: Account,
}

impl History {
    /// Of the events after a cursor, as far as a token lasts.
    pub(in crate::log) fn new(
        log: Log,
        store: StoreId,
        after: i64,
        backend_id: Option<String>,
        until: Option<Instant>,
        account: Account,
    ) -> Self {
        Self { log, store, after, backend_id, until, is_complete: false, ahead: Ahead::default(), account }
    }

    /// The next page: at least one, and `None` after the last. Waits while the database is away. Cancel safe.
    ///
    /// # Errors
    /// The cursor is not one of this log, or the log cannot be read on.
    pub async fn next(&mut self) -> Result<Option<Page>, PullError> {
        if self.is_complete {
            return Ok(None);
        }
        if self.until.is_some_and(|until| until <= Instant::now()) {
            return Err(PullError::Denied(Denied::new(Reason::Token, Refused::Expired.to_string())));
        }
        let page = self.ahead.page(&self.log.database, &self.store, self.after, &self.account).await?;
        check_cursor(&self.store, &page, self.after, self.backend_id.as_deref())?;
        // A reset between two pages must not mix two logs.
        self.backend_id.get_or_insert_with(|| (*page.backend_id).into());
        self.after = page.events.last().map_or(page.head, |event| event.seq_num);
        self.is_complete = page.remaining() == 0;
        Ok(Some(page))
    }
}
