//! Reading a log up to where it stands, page by page.

use tokio::time::Instant;

use super::cursor::check_cursor;
use super::page::Page;
use super::prefetch::Prefetch;
use crate::auth::Refused;
use crate::log::error::{Denied, PullError};
use crate::refusals::Reason;

/// The pages of a log up to its end.
pub struct Scan {
    after: i64,
    backend_id: Option<String>,
    until: Option<Instant>,
    is_complete: bool,
    prefetch: Prefetch,
}

impl Scan {
    /// Reads the events after a cursor, as long as a token lasts.
    pub fn new(prefetch: Prefetch, after: i64, backend_id: Option<String>, until: Option<Instant>) -> Self {
        Self { after, backend_id, until, is_complete: false, prefetch }
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
        let page = self.prefetch.page(self.after).await?;
        check_cursor(self.prefetch.store(), &page, self.after, self.backend_id.as_deref())?;
        // A reset between two pages must not mix two logs.
        self.backend_id.get_or_insert_with(|| (*page.backend_id).into());
        self.after = page.events.last().map_or(page.head, |event| event.seq_num);
        self.is_complete = page.remaining() == 0;
        Ok(Some(page))
    }
}
