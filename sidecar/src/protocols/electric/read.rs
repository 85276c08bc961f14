//! Reading a log page by page, each request for itself, with patience at its end.
//!
//! LiveStore's client stops syncing for good when a pull fails. So whoever has a position is answered: with events, or after
//! a while with a page that says that there is nothing new, whatever happened to the database meanwhile.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep_until;

use super::offset::{Offset, Position};
use crate::limits::memory::Share;
use crate::log::{Denied, Events, PullError, Reader, StreamEnd, Unreadable};
use crate::shutdown::Ending;

/// The time that a live request waits for events, as in Electric (`ELECTRIC_LONG_POLL_TIMEOUT`).
pub const LONG_POLL: Duration = Duration::from_secs(20);

/// The time that a request allows itself to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// For events, if there are none.
    pub is_live: bool,
    /// The client has a position, so that it can be told that nothing is new.
    pub has_position: bool,
}

/// Ends when a request has waited long enough.
pub struct Patience(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Patience {
    pub fn new(wait: Wait, long_poll: Duration, ending: &Ending) -> Self {
        let deadline = tokio::time::Instant::now() + long_poll;
        let is_for_events = wait.is_live && wait.has_position;
        let end = if is_for_events { ending.begun.clone() } else { ending.last_moment.clone() };
        Self(Some(Box::pin(async move {
            tokio::select! {
                () = end.cancelled() => {}
                // Without a position, and without a second request to come, there is no answer but the log.
                () = sleep_until(deadline), if wait.is_live || wait.has_position => {}
            }
        })))
    }

    /// The result of a future, if it comes in time.
    pub async fn wait_for<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            value = future => Some(value),
            () = self.end() => None,
        }
    }

    async fn end(&mut self) {
        if let Some(waiting) = &mut self.0 {
            waiting.await;
            self.0 = None;
        }
    }
}

/// A page of a log.
#[derive(Debug)]
pub struct Page {
    pub events: Events,
    /// The position of the client behind it.
    pub position: Position,
    /// Whether there was no more.
    pub is_up_to_date: bool,
    /// The memory that it takes.
    pub share: Option<Arc<Share>>,
}

impl Page {
    /// For a client that has waited long enough. Whether it is up to date is not known unless it was following.
    pub fn empty(position: Position, is_live: bool) -> Self {
        let offset = if is_live { position.offset.told() } else { position.offset };
        Self {
            events: Events::default(),
            position: Position { offset, ..position },
            is_up_to_date: is_live,
            share: None,
        }
    }

    fn of(events: Events, before: i64, backend_id: &str, is_up_to_date: bool) -> Self {
        let offset = match events.last() {
            Some(last) => Offset::after(last.seq_num),
            None => Offset::after(before).told(),
        };
        Self { events, position: Position { offset, handle: backend_id.into() }, is_up_to_date, share: None }
    }
}

/// Why there is no page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(
        "the position {offset} belongs to another log, which this store had before it was reset, or which another server \
         has: the client has to drop what it synced and start anew"
    )]
    Reset { offset: Offset, handle: Arc<str> },
    #[error("the position is not one of this server: the client has to drop what it synced and start anew")]
    Foreign,
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// For a client without a position only.
    #[error("the database is not available, try again later")]
    Away,
}

/// The way in which a client follows a log that has nothing new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// Not at all.
    No,
    /// Until there is something.
    Wait,
    /// Send an empty page first (see [`Offset`]), and wait in the next request.
    TellFirst,
}

impl Follow {
    pub fn is_live(self) -> bool {
        self != Self::No
    }
}

/// The page after a position, or the first.
pub async fn read(
    reader: &Reader,
    position: Option<&Position>,
    follow: Follow,
    patience: &mut Patience,
) -> Result<Page, ReadError> {
    let Some(position) = position else {
        let start = Offset::after(0);
        let page = patience.wait_for(history(reader, start, None)).await.ok_or(ReadError::Away)?;
        return page.map_err(|error| read_error(error, start));
    };
    let page = match follow {
        Follow::No => patience.wait_for(history(reader, position.offset, position.backend_id())).await,
        Follow::Wait | Follow::TellFirst => patience.wait_for(news(reader, position, follow)).await,
    };
    match page {
        Some(Ok(page)) => Ok(page),
        Some(Err(PullError::Rewound)) => {
            // The client is ahead of the log. It is told that there is nothing new, until the operator has solved that.
            patience.wait_for(std::future::pending::<()>()).await;
            nothing(Some(position), follow)
        }
        Some(Err(error)) => Err(read_error(error, position.offset)),
        None => nothing(Some(position), follow),
    }
}

/// For a client that has waited long enough.
pub fn nothing(position: Option<&Position>, follow: Follow) -> Result<Page, ReadError> {
    position.map(|position| Page::empty(position.clone(), follow.is_live())).ok_or(ReadError::Away)
}

pub fn read_error(error: PullError, offset: Offset) -> ReadError {
    match error {
        PullError::Denied(denied) => ReadError::Denied(denied),
        PullError::BackendIdMismatch { expected, .. } => ReadError::Reset { offset, handle: expected },
        PullError::Unreadable(unreadable) => unreadable.into(),
        PullError::Rewound => ReadError::Away,
    }
}

async fn history(reader: &Reader, after: Offset, backend_id: Option<&str>) -> Result<Page, PullError> {
    let mut pages = reader.scan(after.seq_num, backend_id.map(Into::into));
    let page = pages.next().await?.ok_or(PullError::Rewound)?;
    // A client that comes for the second time reads on. Meanwhile it takes in this page.
    if after.seq_num > 0 {
        pages.keep_next_ready();
    }
    let is_up_to_date = page.remaining() == 0;
    Ok(Page { share: page.share, ..Page::of(page.events, after.seq_num, &page.backend_id, is_up_to_date) })
}

async fn news(reader: &Reader, position: &Position, follow: Follow) -> Result<Page, PullError> {
    let after = position.offset.seq_num;
    let mut subscription = reader.subscribe(after, position.backend_id()).await?;
    // The tail is kept even if this request is given up, because the client will ask again.
    subscription.linger();
    let is_told_first = follow == Follow::TellFirst && !position.offset.was_told;
    loop {
        let delivery = match subscription.next().await {
            Ok(delivery) => delivery,
            Err(StreamEnd::Reset { expected, received }) if after > 0 => {
                return Err(PullError::BackendIdMismatch { expected, received: (*received).into() });
            }
            // Nothing of the old log was read: the next request finds the new one.
            Err(StreamEnd::Reset { expected, .. }) => return Ok(Page::of(Events::default(), after, &expected, true)),
            Err(StreamEnd::Unreadable) => return Err(Unreadable.into()),
            Err(StreamEnd::Rewound) => return Err(PullError::Rewound),
            // The next request is refused.
            Err(StreamEnd::Expired) => return Ok(Page::of(Events::default(), after, subscription.backend_id(), true)),
        };
        if !delivery.events.is_empty() || is_told_first {
            let is_up_to_date = delivery.remaining == 0;
            let page = Page::of(delivery.events, after, subscription.backend_id(), is_up_to_date);
            return Ok(Page { share: delivery.share, ..page });
        }
    }
}
