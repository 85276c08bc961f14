//! Reading a log page by page. The page that a reader will ask for next is read while it sends the one before.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::page::{self, PAGE_BYTES, Page};
use super::pages::Pages;
use super::tails::Followed;
use crate::limits::memory::{Account, FREE, Share};
use crate::log::error::PullError;
use crate::log::event::Event;
use crate::log::shards::{Shard, Shards};
use crate::log::store_id::StoreId;
use crate::postgres::Unreadable;

/// The memory to reserve before the size of a page is known. A page ends with the event that reaches its bound in bytes, and
/// an event has at most 4 MiB by default. Twice that, for the text that is made of the events.
const MOST: usize = 2 * (PAGE_BYTES as usize + (4 << 20));

/// The pause before a log that has caught up is read again.
const AGAIN: Duration = Duration::from_millis(20);

/// The pages of one reader. At most one is read before it is asked for.
pub struct Prefetch {
    shards: Arc<Shards>,
    store: StoreId,
    account: Account,
    pages: u32,
    /// The backend id of the pages so far.
    life: Option<Arc<str>>,
    next: Option<(i64, AbortOnDropHandle<Result<Page, Unreadable>>)>,
}

impl Prefetch {
    /// `account`: the memory for the pages.
    pub fn new(shards: Arc<Shards>, store: StoreId, account: Account) -> Self {
        Self { shards, store, account, pages: 0, life: None, next: None }
    }

    pub fn account(&self) -> &Account {
        &self.account
    }

    /// The page after `after`. Waits while the database is away, and for memory. Cancel safe.
    pub async fn page(&mut self, after: i64) -> Result<Page, Unreadable> {
        let ready = match &mut self.next {
            Some((from, reading)) if *from == after => reading.await.ok(),
            _ => None,
        };
        self.next = None;
        let page = match ready {
            Some(page) => page,
            // The memory first: a reader that waits for it holds no page.
            // Boxed: a live stream waits for years, and reads for a moment.
            None => Box::pin(self.read(after, self.account.take(MOST).await)).await,
        }?;
        self.life = Some(Arc::clone(&page.backend_id));
        self.pages = self.pages.saturating_add(1);
        // Prefetch from page two on: most readers stop after one.
        if self.pages > 1
            && page.remaining() > 0
            && let Some(last) = page.events.last()
            && !self.pages().has(&self.store, last.seq_num)
            && let Some(share) = self.account.try_take(MOST)
        {
            let reading = self.read(last.seq_num, Some(share)).in_current_span();
            self.next = Some((last.seq_num, AbortOnDropHandle::new(tokio::spawn(reading))));
        }
        Ok(page)
    }

    /// The pages of the shard of the store.
    fn pages(&self) -> Arc<Pages> {
        self.shards.of(&self.store).tails.pages()
    }

    /// Follows the log. Waits while the database is away.
    pub async fn follow(&self) -> Result<Followed, Unreadable> {
        self.shards.follow(&self.store).await
    }

    /// The log has to catch up with this cursor, or is another one: asks Postgres, and has its tail ask, too.
    ///
    /// # Errors
    /// The log does not have it, and will not.
    pub async fn check(&self, after: i64, backend_id: Option<&str>) -> Result<(), PullError> {
        let (store, shards) = (&self.store, &self.shards);
        let ask = |shard: Arc<Shard>| async move { shard.tails.pages().catch_up(store, after, backend_id).await };
        shards.read(store, ask).await??;
        shards.of(store).tails.refresh(store);
        sleep(AGAIN).await;
        Ok(())
    }

    /// The head and the backend id of the log, without events. Waits while the database is away.
    pub async fn status(&self) -> Result<Page, Unreadable> {
        self.shards.read(&self.store, |shard| async move { page::status(&shard.database, &self.store).await }).await
    }

    /// Waits until the log has what the reader has seen, as [`Pages::catch_up`] does.
    pub async fn catch_up(&mut self, after: i64, backend_id: Option<&str>) -> Result<(), PullError> {
        // The page that did not fit is of another life, or of a moment ago.
        self.forget();
        self.life = None;
        self.check(after, backend_id).await
    }

    /// The reader has read this log before, by another request: the backend id of the pages that it has.
    pub fn resume(&mut self, life: &str) {
        self.life = Some(life.into());
    }

    /// Has the page after `after` read and kept, for a client that will ask for it in another request. It is tried once: nobody waits for
    /// it, and a read that waits for its database, or for its operator, would keep its memory from those who do.
    pub fn keep_ready(&self, after: i64) {
        let pages = self.pages();
        if pages.keeps()
            && !pages.has(&self.store, after)
            && let Some(share) = self.account.try_take(MOST)
        {
            let (store, life) = (self.store.clone(), self.life.clone());
            let reading = async move {
                let _ = pages.read(&store, after, life.as_deref()).await;
                drop(share);
            };
            tokio::spawn(reading.in_current_span());
        }
    }

    /// Drops what was read ahead: the reader goes on elsewhere.
    pub fn forget(&mut self) {
        (self.pages, self.next) = (0, None);
    }

    fn read(&self, after: i64, share: Option<Share>) -> impl Future<Output = Result<Page, Unreadable>> + use<> {
        read(Arc::clone(&self.shards), self.store.clone(), after, self.life.clone(), self.account.clone(), share)
    }
}

async fn read(
    shards: Arc<Shards>,
    store: StoreId,
    after: i64,
    life: Option<Arc<str>>,
    account: Account,
    mut share: Option<Share>,
) -> Result<Page, Unreadable> {
    let (of, life) = (&store, life.as_deref());
    let pages = |shard: Arc<Shard>| async move { shard.tails.pages().read(of, after, life).await };
    let mut page = shards.read(of, pages).await?;
    let bytes = cost(&page.events);
    if let Some(share) = &mut share {
        fit(share, &account, bytes);
    }
    page.share = share.filter(|_| bytes > FREE).map(Arc::new);
    Ok(page)
}

/// Makes the share of a page as large as the page is. It may be larger than what was reserved. If there is no memory for the rest now, the
/// rest does not count: readers that wait with a page in memory would wait for each other.
fn fit(share: &mut Share, account: &Account, bytes: usize) {
    let more = bytes.saturating_sub(share.bytes());
    if more > 0
        && let Some(more) = account.try_take(more)
    {
        share.merge(more);
    }
    share.shrink(bytes);
}

/// The memory of events, and of the text that is made of them.
pub fn cost(events: &[Arc<Event>]) -> usize {
    2 * events.iter().map(|event| event.size()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::memory::Memory;

    #[test]
    fn a_page_counts_with_its_size() {
        let memory = Memory::new(100, 100);
        let account = memory.connection();
        let mut share = account.try_take(10).unwrap();
        for (bytes, counted) in [(40, 40), (4, 4), (101, 4), (50, 50)] {
            fit(&mut share, &account, bytes);
            assert_eq!((share.bytes(), memory.taken()), (counted, counted));
        }
    }
}
