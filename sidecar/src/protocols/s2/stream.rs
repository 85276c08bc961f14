//! Records as Server-Sent Events.
//!
//! When a stream breaks off, LiveStore's client asks again with the cursor from before it, and fails for good if it gets an
//! event twice. When a stream ends in order, the client resumes after the last event. So a live stream ends by itself soon
//! after its first events: only streams without events can then break off.

use std::fmt::Write;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::limits::Limits;
use super::records::{Tail, batches, metered, records_into, seq_num, timestamp};
use crate::limits::memory::{Share, counted};
use crate::log::{Denied, Events, PullError, Reader, StreamEnd, Unreadable};
use crate::shutdown::Ending;

/// The interval of pings on a live stream that has nothing new. S2: 5 to 15 s.
const PING: Duration = Duration::from_secs(10);

/// The time that a stream that has to end goes on after its first records.
const SOON: Duration = Duration::from_secs(1);

const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// The client is gone. One that reads nothing for long is disconnected by `server::accept`; a slow one gets everything, since it would
/// take a stream that ends early for whole.
struct Gone;

/// Whether the reader's limits are reached.
#[derive(PartialEq, Eq)]
enum Wanted {
    More,
    NoMore,
}

/// The part of the records to come that a reader wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// Everything, with pauses: the stream ends soon after its first records, for a client that must not lose a stream which
    /// has brought records.
    WithPauses,
    /// Everything, as long as it listens.
    Forever,
    /// Records that come within this time after the last one.
    For(Duration),
    /// Little: the store does not exist, and may be another one by the next request.
    Briefly,
}

/// The time that a stream of no store goes on.
const BRIEFLY: Duration = Duration::from_secs(5);

/// Returns a reader: at once if the client's rights were checked already, or after the check, which waits for the database.
pub trait Asking: Future<Output = Result<Reader, Denied>> + Send + 'static {}

impl<T: Future<Output = Result<Reader, Denied>> + Send + 'static> Asking for T {}

/// Writes the events of a log to a client.
pub struct Writer {
    pieces: mpsc::Sender<Bytes>,
    keep_alive: Interval,
    limits: Limits,
    /// The stream has brought so much so far.
    records: u64,
    bytes: u64,
    /// The time of its last record is not known before it has brought one.
    tail: Tail,
}

/// The time that the database may take for a page when a shutdown has come to its last moment.
const LATE: Duration = Duration::from_secs(1);

/// The end of a stream that has brought all that was wanted.
const DONE: &str = "data: [DONE]\n\n";

impl Writer {
    pub fn new(pieces: mpsc::Sender<Bytes>, limits: Limits) -> Self {
        let mut keep_alive = interval_at(Instant::now() + PING, PING);
        keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { pieces, keep_alive, limits, records: 0, bytes: 0, tail: Tail::default() }
    }

    /// Goes on with a stream that has brought this much before.
    pub fn resume(self, records: u64, bytes: u64) -> Self {
        Self { records, bytes, ..self }
    }

    /// Sends everything after an event, up to the head. If a shutdown leaves too little time, the stream ends earlier, and
    /// the client goes on live from where it is.
    pub async fn history(mut self, reader: impl Asking, after: i64, ending: Ending) {
        let gone = self.pieces.clone();
        tokio::select! {
            () = gone.closed() => {}
            () = ending.very_end.cancelled() => {}
            _ = self.write_history(reader, after, &ending.last_moment) => {}
        }
    }

    async fn write_history(
        &mut self,
        reader: impl Asking,
        after: i64,
        last_moment: &CancellationToken,
    ) -> Result<(), Gone> {
        let mut pages = match self.until_late(last_moment, Box::pin(reader)).await? {
            Ok(reader) => reader.scan(after, None),
            Err(denied) => return self.fail(&denied.into()).await,
        };
        loop {
            let page = match self.until_late(last_moment, pages.next()).await? {
                Ok(Some(page)) => page,
                Ok(None) => return self.send(DONE.into()).await,
                Err(error) => return self.fail(&error).await,
            };
            self.tail.seq_num = page.head;
            let has_more = page.remaining() > 0;
            if self.events(&page.events, has_more, page.share.as_ref()).await? == Wanted::NoMore {
                return self.send(DONE.into()).await;
            }
        }
    }

    /// The events that follow, as they come.
    pub async fn live(mut self, reader: impl Asking, after: i64, follow: Follow, shutdown: CancellationToken) {
        let gone = self.pieces.clone();
        tokio::select! {
            () = gone.closed() => {}
            () = shutdown.cancelled() => {}
            _ = self.write_live(reader, after, follow) => {}
        }
    }

    async fn write_live(&mut self, reader: impl Asking, after: i64, follow: Follow) -> Result<(), Gone> {
        // Boxed, so that what takes a moment takes no room in a stream that waits.
        let subscribing = Box::pin(async { reader.await?.subscribe(after, None).await });
        let mut subscription = match self.patiently(subscribing).await? {
            Ok(subscription) => subscription,
            Err(error) => return self.fail(&error).await,
        };
        subscription.linger();
        let patience = match follow {
            Follow::WithPauses => FOREVER,
            Follow::Forever => FOREVER,
            Follow::For(wait) => wait.min(FOREVER),
            Follow::Briefly => BRIEFLY,
        };
        if self.limits.is_exhausted() {
            return self.send(DONE.into()).await;
        }
        let mut end = pin!(sleep_until(Instant::now() + patience));
        let mut may_end = matches!(follow, Follow::For(_) | Follow::Briefly);
        let mut has_begun = false;
        loop {
            let delivery = tokio::select! {
                delivery = subscription.next() => delivery,
                () = &mut end, if may_end => {
                    // The client of a stream that only pauses comes again.
                    let is_done = matches!(follow, Follow::For(_));
                    return if is_done { self.send(DONE.into()).await } else { Ok(()) };
                }
                _ = self.keep_alive.tick() => {
                    self.ping().await?;
                    continue;
                }
            };
            let delivery = match delivery {
                Ok(delivery) => delivery,
                Err(StreamEnd::Unreadable) => return self.fail(&Unreadable.into()).await,
                // The log is no more: the client's next request is told.
                Err(_) => return Ok(()),
            };
            self.tail.seq_num = subscription.position().max(subscription.last());
            if delivery.events.is_empty() {
                self.ping().await?;
            } else {
                if self.events(&delivery.events, true, delivery.share.as_ref()).await? == Wanted::NoMore {
                    return self.send(DONE.into()).await;
                }
                match follow {
                    Follow::Forever => {}
                    Follow::For(_) => end.as_mut().reset(Instant::now() + patience),
                    // Soon after the first, however many there are.
                    Follow::WithPauses | Follow::Briefly if !has_begun => {
                        end.as_mut().reset(Instant::now() + SOON);
                        may_end = true;
                    }
                    Follow::WithPauses | Follow::Briefly => {}
                }
                has_begun = true;
            }
        }
    }

    async fn events(&mut self, events: &Events, with_tail: bool, share: Option<&Arc<Share>>) -> Result<Wanted, Gone> {
        let wanted = self.limits.take(events);
        let batches = batches(events, wanted);
        let count = batches.len();
        for (index, batch) in batches.into_iter().enumerate() {
            let Some(last) = batch.last() else { continue };
            self.records += batch.len() as u64;
            self.bytes += batch.iter().map(|event| metered(event) as u64).sum::<u64>();
            self.tail.timestamp = timestamp(last);
            // The client counts what remains by the tail; without one, there is nothing more.
            let has_tail = with_tail || index + 1 < count;
            let tail = if has_tail { format!(",\"tail\":{}", self.tail.json()) } else { String::new() };
            let id = format!("{},{},{}", seq_num(last), self.records, self.bytes);
            let mut piece = format!("event: batch\nid: {id}\ndata: {{\"records\":[");
            records_into(&mut piece, batch);
            let _ = write!(piece, "]{tail}}}\n\n");
            self.send_counted(piece, share.cloned()).await?;
        }
        let is_all = wanted == events.len() && !self.limits.is_exhausted();
        Ok(if is_all { Wanted::More } else { Wanted::NoMore })
    }

    async fn ping(&mut self) -> Result<(), Gone> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        self.send(format!("event: ping\ndata: {{\"timestamp\":{now},\"tail\":{}}}\n\n", self.tail.json())).await
    }

    /// The client gives up; it shows the text.
    async fn fail(&mut self, error: &PullError) -> Result<(), Gone> {
        self.send(error_event(&error.to_string())).await
    }

    /// Waits for the database as [`Self::patiently`], though not much longer than to the last moment of a shutdown.
    async fn until_late<T>(
        &mut self,
        last_moment: &CancellationToken,
        future: impl Future<Output = T>,
    ) -> Result<T, Gone> {
        let late = async {
            last_moment.cancelled().await;
            sleep(LATE).await;
        };
        tokio::select! {
            value = self.patiently(future) => value,
            () = late => Err(Gone),
        }
    }

    /// Waits for the database as long as the client is there, and says so in between.
    async fn patiently<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Gone> {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                value = &mut future => return Ok(value),
                _ = self.keep_alive.tick() => self.send(": waiting\n\n".into()).await?,
            }
        }
    }

    async fn send(&mut self, piece: String) -> Result<(), Gone> {
        self.send_counted(piece, None).await
    }

    async fn send_counted(&mut self, piece: String, share: Option<Arc<Share>>) -> Result<(), Gone> {
        self.keep_alive.reset();
        self.pieces.send(counted(piece, share)).await.map_err(|_| Gone)
    }
}

/// An error in the words of the stream.
pub fn error_event(message: &str) -> String {
    // Without any data there would be no message to the client; a lone carriage return ends a line, too.
    let message = if message.trim().is_empty() { "refused" } else { message };
    let lines: Vec<_> = message.split(['\r', '\n']).map(|line| format!("data: {line}\n")).collect();
    format!("event: error\n{}\n", lines.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No text of an error ends its event, or begins another.
    #[test]
    fn fuzz_error_event() {
        fuzzing::text_target!("error_event", |message| {
            let event = error_event(message);
            let mut lines = event.strip_suffix("\n\n").unwrap().split(['\n', '\r']);
            assert_eq!(lines.next(), Some("event: error"));
            let data: Vec<_> = lines.map(|line| line.strip_prefix("data: ").unwrap()).collect();
            assert!(data.concat() == message.replace(['\n', '\r'], "") || data == ["refused"]);
        });
    }
}
