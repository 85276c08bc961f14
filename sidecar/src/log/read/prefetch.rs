//! Reading a log page by page: the page that a reader will ask for next is read while it sends the one before.

use std::sync::Arc;

use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::page::{PAGE_BYTES, Page, pull};
use crate::budget::{Account, FREE, Share};
use crate::log::event::Event;
use crate::log::store_id::StoreId;
use crate::postgres::{Database, Unreadable, retry_until_available};

/// A page ends with the event with which it is large enough: so much may it take, with an event as large as any may be by default.
const MOST: usize = 2 * (PAGE_BYTES as usize + (4 << 20));

/// What one reader reads ahead: a page at most.
#[derive(Default)]
pub struct Ahead {
    pages: u32,
    next: Option<(i64, AbortOnDropHandle<Result<Page, Unreadable>>)>,
}

impl Ahead {
    /// The page after `after`. Waits while the database is away, and for memory. Cancel safe.
    ///
    /// # Errors
    /// The event that follows cannot be read.
    pub async fn page(
        &mut self,
        database: &Database,
        store: &StoreId,
        after: i64,
        account: &Account,
    ) -> Result<Page, Unreadable> {
        let ready = match &mut self.next {
            Some((from, reading)) if *from == after => reading.await.ok(),
            _ => None,
        };
        self.next = None;
        let page = match ready {
            Some(page) => page,
            None => read(database.clone(), store.clone(), after, account.take(MOST).await).await,
        }?;
        self.pages = self.pages.saturating_add(1);
        // Who takes a second page takes a third; most readers take one.
        if self.pages > 1
            && page.remaining() > 0
            && let Some(last) = page.events.last()
            && let Some(share) = account.try_take(MOST)
        {
            let reading = read(database.clone(), store.clone(), last.seq_num, Some(share)).in_current_span();
            self.next = Some((last.seq_num, AbortOnDropHandle::new(tokio::spawn(reading))));
        }
        Ok(page)
    }

    /// Gives up what was read ahead: the reader goes on elsewhere.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

async fn read(database: Database, store: StoreId, after: i64, mut share: Option<Share>) -> Result<Page, Unreadable> {
    let mut page = retry_until_available(|| pull(&database, &store, after)).await?;
    let bytes = cost(&page.events);
    if let Some(share) = &mut share {
        share.shrink(bytes);
    }
    page.share = share.filter(|_| bytes > FREE).map(Arc::new);
    Ok(page)
}

/// The memory that events take: themselves, and the text that is sent of them.
pub fn cost(events: &[Arc<Event>]) -> usize {
    2 * events.iter().map(|event| event.size()).sum::<usize>()
}
