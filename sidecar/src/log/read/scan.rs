//! Reading a log up to where it stands, page by page.

use std::sync::Arc;

use tokio::time::Instant;

use super::page::Page;
use super::prefetch::Prefetch;
use crate::auth::TokenError;
use crate::log::error::{Denied, PullError};
use crate::telemetry::refusals::Reason;

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
    pub fn new(mut prefetch: Prefetch, after: i64, backend_id: Option<String>, until: Option<Instant>) -> Self {
        if let Some(backend_id) = &backend_id {
            prefetch.resume(backend_id);
        }
        Self { after, backend_id, until, is_complete: false, prefetch }
    }

    /// Has the next page read, for a client that will ask for it in another request.
    pub fn keep_next_ready(&self) {
        if !self.is_complete {
            self.prefetch.keep_ready(self.after);
        }
    }

    /// The next page: at least one, and `None` after the last. Waits while the database is away. Cancel safe.
    pub async fn next(&mut self) -> Result<Option<Page>, PullError> {
        if self.is_complete {
            return Ok(None);
        }
        if self.until.is_some_and(|until| until <= Instant::now()) {
            return Err(PullError::Denied(Denied::new(Reason::Token, TokenError::Expired.to_string())));
        }
        let page = loop {
            let page = self.prefetch.page(self.after).await?;
            match check_cursor(&page, self.after, self.backend_id.as_deref()) {
                Ok(()) => break page,
                Err(_) => Box::pin(self.prefetch.catch_up(self.after, self.backend_id.as_deref())).await?,
            }
        };
        // A reset between two pages must not mix two logs.
        self.backend_id.get_or_insert_with(|| (*page.backend_id).into());
        self.after = page.events.last().map_or(page.head, |event| event.seq_num);
        self.is_complete = page.remaining() == 0;
        Ok(Some(page))
    }
}

/// Whether the cursor of a client is one of the log that a page is of.
pub fn check_cursor(log: &Page, after: i64, backend_id: Option<&str>) -> Result<(), PullError> {
    if let Some(received) = backend_id
        && *received != *log.backend_id
    {
        return Err(PullError::BackendIdMismatch { expected: Arc::clone(&log.backend_id), received: received.into() });
    }
    // To go on would join the events that the client has to events that do not follow them.
    if after > log.head { Err(PullError::Rewound) } else { Ok(()) }
}
