//! The common part of all protocols over WebSocket: a bounded way out, pings, and an explicit close.

pub mod close;
pub mod meter;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, interval_at, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::close::{CLOSED_BY_CLIENT, Close, SHUTDOWN, SILENT, SLOW, TOO_LARGE};
use crate::limits::memory::{Account, FREE, Share};
use crate::protocols::websocket::meter::Meter;
use crate::telemetry::chain;
use crate::telemetry::metrics::Limit;

/// Frames that wait for a client to read them: with the frames' size this bounds what a slow client costs.
const OUTGOING_FRAMES: usize = 8;

/// The time that a client may leave a frame unread before it is disconnected.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The interval at which a silent connection is pinged, and the time that it may stay silent.
const PING_INTERVAL: Duration = Duration::from_secs(15);
const SILENCE: Duration = Duration::from_secs(75);

/// The time that a message may take to arrive, as the body of a request, and that it may wait for memory.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(60);

/// The pings of a client that are answered before it must have read the answers. tungstenite puts them into a buffer that has no bound.
const PINGS: usize = 16;

/// The time that a client has to answer a close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The bytes that are read from a connection at once. tungstenite clears, and often moves, a buffer of this size for each read, and keeps
/// one for each connection: its default of 128 KiB was a third of the work of a push. Longer messages are put together.
const READ_BYTES: usize = 1 << 10;

/// The upgrade of a connection on which a client may send messages of `max_bytes`.
pub fn bounded<F>(upgrade: WebSocketUpgrade<F>, max_bytes: usize) -> WebSocketUpgrade<F> {
    upgrade.max_message_size(max_bytes).max_frame_size(max_bytes).read_buffer_size(READ_BYTES)
}

/// The connection to a client.
pub struct Socket {
    stream: SplitStream<WebSocket>,
    outgoing: Outgoing,
    writer: JoinHandle<()>,
    heard: Instant,
    ping: Interval,
    shutdown: CancellationToken,
    meter: Arc<Meter>,
    /// The memory of the last message, until the next one is read.
    last: Option<Arc<Share>>,
    /// The client's pings since a frame was last sent behind the answers to them.
    pings: usize,
}

/// The events of a connection.
#[derive(Debug)]
pub enum Incoming {
    Text(Utf8Bytes),
    Binary,
    /// Every 15 s.
    Tick,
}

/// A frame to send, and the memory that it holds until it is written.
struct Frame {
    message: Message,
    share: Option<Arc<Share>>,
}

/// The way out. Cheap to clone, for the tasks of a connection.
#[derive(Clone)]
pub struct Outgoing {
    // Boxed: a queue reserves room for 32 values.
    frames: mpsc::Sender<Box<Frame>>,
    closing: Arc<Closing>,
}

/// Why a connection is to be closed, once there is a reason.
#[derive(Default)]
struct Closing {
    reason: OnceLock<Close>,
    told: Notify,
}

impl Closing {
    /// The first reason counts.
    fn set(&self, reason: Close) {
        if self.reason.set(reason).is_ok() {
            self.told.notify_one();
        }
    }

    /// Waits for the reason. Cancel safe, for one at a time.
    async fn reason(&self) -> Close {
        loop {
            if let Some(reason) = self.reason.get() {
                return reason.clone();
            }
            self.told.notified().await;
        }
    }
}

impl Frame {
    fn boxed(message: Message, share: Option<Arc<Share>>) -> Box<Self> {
        Box::new(Self { message, share })
    }
}

impl Outgoing {
    /// Sends a text frame; waits while the client is slow.
    pub async fn send(&self, frame: impl Into<Utf8Bytes>) -> Result<(), Close> {
        self.send_counted(frame, None).await
    }

    /// The same for a frame that holds this memory until it is written.
    pub async fn send_counted(&self, frame: impl Into<Utf8Bytes>, share: Option<Arc<Share>>) -> Result<(), Close> {
        self.frames.send(Frame::boxed(Message::Text(frame.into()), share)).await.map_err(|_| SLOW)
    }

    /// The same, with memory that is taken first. Other clients of this account may hold all of it unread: this one is then
    /// disconnected with them, so that nobody waits longer than a client may leave a frame unread.
    pub async fn send_from(&self, account: &Account, frame: Utf8Bytes) -> Result<(), Close> {
        let share = match frame.len() {
            0..=FREE => None,
            bytes => timeout(WRITE_TIMEOUT, account.take(bytes)).await.map_err(|_| SLOW)?.map(Arc::new),
        };
        self.send_counted(frame, share).await
    }

    /// Asks for the connection to be closed. The first reason counts.
    pub fn close(&self, reason: Close) {
        self.closing.set(reason);
    }
}

impl Socket {
    /// `shutdown` is cancelled when the sidecar shuts down.
    pub fn new(socket: WebSocket, meter: Arc<Meter>, shutdown: CancellationToken) -> Self {
        Self::with_queue(socket, meter, shutdown, OUTGOING_FRAMES)
    }

    /// The same with another bound of the frames that wait for the client.
    pub fn with_queue(socket: WebSocket, meter: Arc<Meter>, shutdown: CancellationToken, frames: usize) -> Self {
        let (sink, stream) = socket.split();
        let (frames, unsent) = mpsc::channel(frames);
        let outgoing = Outgoing { frames, closing: Arc::default() };
        let writer = tokio::spawn(write(sink, unsent, Arc::clone(&outgoing.closing)));
        let heard = Instant::now();
        let ping = interval_at(heard + PING_INTERVAL, PING_INTERVAL);
        Self { stream, outgoing, writer, heard, ping, shutdown, meter, last: None, pings: 0 }
    }

    pub fn outgoing(&self) -> &Outgoing {
        &self.outgoing
    }

    /// The memory of the last message, for what is made of it and takes longer than until the next one is read.
    pub fn memory(&self) -> Option<Arc<Share>> {
        self.last.clone()
    }

    /// Waits for the next event. While the protocol cannot take more, it says so (`may_read`), and nothing is read: the client is
    /// held back by its own connection. Cancel safe.
    pub async fn receive(&mut self, may_read: bool) -> Result<Incoming, Close> {
        if may_read {
            self.last = None;
        } else {
            self.heard = Instant::now();
        }
        loop {
            let message = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Err(SHUTDOWN),
                close = self.outgoing.closing.reason() => return Err(close),
                _ = self.ping.tick() => {
                    if let Some(close) = self.meter.overdue(MESSAGE_TIMEOUT) {
                        return Err(close);
                    }
                    // A client that sends is not silent, even if nothing is read. Whether it reads, the writer tells.
                    if self.meter.is_arriving() || self.pings == PINGS {
                        self.heard = Instant::now();
                    }
                    if self.heard.elapsed() > SILENCE {
                        return Err(SILENT);
                    }
                    // A full queue means that the client is slow, not that it is gone: its writer will tell.
                    let _ = self.outgoing.frames.try_send(Frame::boxed(Message::Ping(bytes::Bytes::new()), None));
                    return Ok(Incoming::Tick);
                }
                // It is written when the answers to the client's pings are: until there is room for it, no other ping is read.
                room = self.outgoing.frames.reserve(), if self.pings == PINGS => {
                    room.map_err(|_| SLOW)?.send(Frame::boxed(Message::Ping(bytes::Bytes::new()), None));
                    self.pings = 0;
                    continue;
                }
                message = self.stream.next(), if may_read && self.pings < PINGS => message,
            };
            self.heard = Instant::now();
            match message {
                Some(Ok(Message::Text(text))) => {
                    self.last = self.meter.delivered().map(Arc::new);
                    return Ok(Incoming::Text(text));
                }
                Some(Ok(Message::Binary(_))) => {
                    drop(self.meter.delivered());
                    return Ok(Incoming::Binary);
                }
                Some(Ok(Message::Ping(payload))) => {
                    self.pings += 1;
                    self.meter.control(payload.len());
                }
                Some(Ok(Message::Pong(payload))) => self.meter.control(payload.len()),
                Some(Ok(Message::Close(_))) | None => return Err(CLOSED_BY_CLIENT),
                Some(Err(error)) => {
                    debug!(error = %chain(&error), "the connection broke");
                    return Err(if is_too_large(&error) { too_large() } else { CLOSED_BY_CLIENT });
                }
            }
        }
    }

    /// Closes the connection, after what was sent before.
    pub async fn end(self, close: Close) {
        let Self { mut stream, outgoing, writer, .. } = self;
        let reason = Utf8Bytes::from_static(close.reason);
        let frame = Message::Close(Some(CloseFrame { code: close.code, reason }));
        if outgoing.frames.send(Frame::boxed(frame, None)).await.is_ok() {
            // The client's close, or nothing for a while: to drop the socket with unread data in it would reset the
            // connection, and the client might never see our last frames.
            let reading = async {
                let mut pings = 0;
                while pings < PINGS
                    && let Some(Ok(message)) = stream.next().await
                {
                    pings += usize::from(matches!(message, Message::Ping(_)));
                }
            };
            let _ = timeout(CLOSE_TIMEOUT, reading).await;
        }
        let _ = writer.await;
    }
}

/// Sends what the tasks of a connection produce. A client that does not read for too long is disconnected.
async fn write(mut sink: SplitSink<WebSocket, Message>, mut frames: mpsc::Receiver<Box<Frame>>, closing: Arc<Closing>) {
    while let Some(frame) = frames.recv().await {
        let Frame { message, share: _share } = *frame;
        let is_last = matches!(message, Message::Close(_));
        match timeout(WRITE_TIMEOUT, sink.send(message)).await {
            Ok(Ok(())) if is_last => break,
            Ok(Ok(())) => {}
            Ok(Err(_)) => return closing.set(CLOSED_BY_CLIENT),
            Err(_) => return closing.set(SLOW),
        }
    }
    let _ = timeout(CLOSE_TIMEOUT, sink.close()).await;
}

fn too_large() -> Close {
    Limit::FrameBytes.hit();
    TOO_LARGE
}

fn is_too_large(error: &axum::Error) -> bool {
    use tokio_tungstenite::tungstenite::Error;
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Error>());
    matches!(source, Some(Error::Capacity(_)))
}
