//! Reading a log page by page: the page that a reader will ask for next is read while it sends the one before.

use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::pull::{Page, pull};
use super::store_id::StoreId;
use crate::postgres::{Database, Unreadable, retry_until_available};

/// What one reader reads ahead: a page at most.
#[derive(Default)]
pub struct Ahead {
    pages: u32,
    next: Option<(i64, AbortOnDropHandle<Result<Page, Unreadable>>)>,
}

impl Ahead {
    /// The page after `after`. Waits while the database is away. Cancel safe.
    ///
    /// # Errors
    /// The event that follows cannot be read.
    pub async fn page(&mut self, database: &Database, store: &StoreId, after: i64) -> Result<Page, Unreadable> {
        let ready = match &mut self.next {
            Some((from, reading)) if *from == after => reading.await.ok(),
            _ => None,
        };
        self.next = None;
        let page = match ready {
            Some(page) => page,
            None => read(database.clone(), store.clone(), after).await,
        }?;
        self.pages = self.pages.saturating_add(1);
        // Who takes a second page takes a third; most readers take one.
        if self.pages > 1
            && page.remaining() > 0
            && let Some(last) = page.events.last()
        {
            let reading = read(database.clone(), store.clone(), last.seq_num).in_current_span();
            self.next = Some((last.seq_num, AbortOnDropHandle::new(tokio::spawn(reading))));
        }
        Ok(page)
    }

    /// Gives up what was read ahead: the reader goes on elsewhere.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

async fn read(database: Database, store: StoreId, after: i64) -> Result<Page, Unreadable> {
    retry_until_available(|| pull(&database, &store, after)).await
}
