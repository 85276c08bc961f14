//! Accepting connections, within bounds: how many there may be, and how long one may take to say what it wants.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use axum::Router;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::map_response;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::settings::ConnectionSettings;
use super::timeouts::{self, Activity, Clock};
use crate::limits::peer::Peer;
use crate::limits::quota::{Permit, Quota};
use crate::protocols::websocket::meter::Meter;
use crate::shutdown::Ending;
use crate::telemetry::chain;
use crate::telemetry::metrics::{GaugeGuard, Limit};

/// The time that a client may leave what it is sent unread before it is disconnected.
const UNREAD: Duration = Duration::from_secs(30);

/// For how long a connection that was just used stays open in a shutdown. Clients send their next request on it as soon as
/// they have an answer, some cannot send it again, and some of them stop syncing for good when a request fails.
const LINGER: Duration = Duration::from_secs(1);

/// After an error that is the process's own, such as too many open files.
const PAUSE: Duration = Duration::from_secs(1);

/// The interval at which refused connections are mentioned in the log.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// The most connections that are accepted after a shutdown has begun, on a socket that still gets new ones.
const MOST_LAST: usize = 4096;

/// The number of refused clients that are answered at the same time.
const REFUSALS: usize = 100;

/// To a client that is one too many.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: 46\r\nretry-after: 10\r\nconnection: close\r\n\r\ntoo many connections: close some, or try later";

/// To who asks for `/healthz` then.
const ALIVE: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 3\r\nconnection: close\r\n\r\nok\n";

/// Serves until a shutdown begins, and then until every request is answered.
pub async fn serve(listener: TcpListener, router: Router, settings: ConnectionSettings, ending: Ending) {
    let Ending { announced, begun: shutdown, .. } = ending;
    let router =
        router.layer(map_response(move |response| std::future::ready(last_if(announced.is_cancelled(), response))));
    let refusals = Arc::new(Semaphore::new(REFUSALS));
    let (open, tasks) = (Open::new(settings), TaskTracker::new());
    let mut reception = Reception { router, settings, open, refusals, tasks, shutdown: shutdown.clone() };
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => reception.take(stream, address),
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                warn!(error = %chain(&error), "a connection cannot be accepted");
                sleep(PAUSE).await;
            }
        }
    }
    // Connections that have arrived by now would be reset.
    if let Ok(listener) = listener.into_std() {
        for (stream, address) in std::iter::from_fn(|| listener.accept().ok()).take(MOST_LAST) {
            if let Ok(stream) = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
                reception.take(stream, address);
            }
        }
    }
    reception.tasks.close();
    reception.tasks.wait().await;
}

/// The address at which connections arrive.
struct Reception {
    router: Router,
    settings: ConnectionSettings,
    open: Open,
    refusals: Arc<Semaphore>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Reception {
    fn take(&mut self, stream: TcpStream, address: SocketAddr) {
        prepare(&stream);
        match self.open.admit(address) {
            Some(admitted) => {
                let activity = Activity::new(self.settings.timeouts);
                let (clock, meter, unread) = Default::default();
                let stream = Counted { stream, activity, clock, meter, unread, _admitted: admitted };
                let peer = Peer::at(address);
                self.tasks.spawn(serve_one(stream, peer, self.router.clone(), self.settings, self.shutdown.clone()));
            }
            // Beyond some, they are closed without a word.
            None => {
                if let Ok(permit) = Arc::clone(&self.refusals).try_acquire_owned() {
                    self.tasks.spawn(async {
                        refuse(stream).await;
                        drop(permit);
                    });
                }
            }
        }
    }
}

/// Adds `connection: close` to an answer after which its connection serves no other request: in a shutdown, after a request
/// that was not read to its end, and if other clients need the connection more (503).
fn last_if(is_last: bool, mut response: Response) -> Response {
    let status = response.status();
    let ends = [StatusCode::PAYLOAD_TOO_LARGE, StatusCode::REQUEST_TIMEOUT, StatusCode::SERVICE_UNAVAILABLE];
    if (is_last || ends.contains(&status)) && status != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn serve_one(
    stream: Counted,
    peer: Peer,
    router: Router,
    settings: ConnectionSettings,
    shutdown: CancellationToken,
) {
    let activity = Arc::clone(&stream.activity);
    let (meter, router) = (Arc::clone(&stream.meter), TowerToHyperService::new(router));
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(Arc::clone(&meter));
        request.extensions_mut().insert(peer);
        timeouts::answer(&router, &activity, request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // The connection checks its timeouts itself, but only when it is read from. Because of this timeout, which is never
        // the first, hyper reads as soon as an answer is sent.
        .header_read_timeout(settings.timeouts.longest())
        .max_buf_size(settings.max_head_bytes as usize)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = unused_in(&shutdown, &activity) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        if error.is_parse_too_large() {
            Limit::HeadBytes.hit();
        }
        debug!(error = %chain(&error), "a connection broke");
    }
}

/// Ends in a shutdown, when the connection has not been used for a while.
async fn unused_in(shutdown: &CancellationToken, activity: &Activity) {
    shutdown.cancelled().await;
    loop {
        let until = activity.last() + LINGER;
        if until <= Instant::now() {
            return;
        }
        sleep_until(until).await;
    }
}

async fn refuse(mut stream: TcpStream) {
    let _ = timeout(PAUSE, async {
        // An answer that comes before its request is none to many clients.
        let mut head = [0; 1024];
        let length = stream.read(&mut head).await?;
        // The sidecar is alive, and must not be restarted: that would disconnect all clients that are served.
        let is_probe = [&b"GET /healthz "[..], b"HEAD /healthz "].iter().any(|probe| head[..length].starts_with(probe));
        stream.write_all(if is_probe { ALIVE } else { REFUSAL }).await?;
        stream.shutdown().await?;
        // To close with a request unread would reset the connection, and the client might not see the answer.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    })
    .await;
}

fn prepare(stream: &TcpStream) {
    let prepared = stream.set_nodelay(true).and_then(|()| SockRef::from(stream).set_tcp_user_timeout(Some(UNREAD)));
    if let Err(error) = prepared {
        debug!(
            error = %chain(&error),
            "a connection without a limit for a client that does not read"
        );
    }
}

/// It was gone before it was accepted.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// The connections that are open.
struct Open {
    settings: ConnectionSettings,
    all: Arc<Semaphore>,
    by_address: Arc<Quota<IpAddr>>,
    warned: Option<Instant>,
}

/// A connection that counts, until this is dropped.
struct Admitted {
    _of_all: OwnedSemaphorePermit,
    _of_address: Option<Permit<IpAddr>>,
    _gauge: GaugeGuard,
}

impl Open {
    fn new(settings: ConnectionSettings) -> Self {
        let all = Arc::new(Semaphore::new(settings.max_connections.min(Semaphore::MAX_PERMITS)));
        Self { settings, all, by_address: Quota::new(settings.max_connections_per_address), warned: None }
    }

    fn admit(&mut self, address: SocketAddr) -> Option<Admitted> {
        let Peer(address) = Peer::at(address);
        let Ok(of_all) = Arc::clone(&self.all).try_acquire_owned() else {
            return self.refuse(Limit::Connections);
        };
        let of_address = match address {
            None => None,
            Some(address) => match self.by_address.take(address) {
                None => return self.refuse(Limit::ConnectionsPerAddress),
                permit => permit,
            },
        };
        Some(Admitted { _of_all: of_all, _of_address: of_address, _gauge: GaugeGuard::connection() })
    }

    fn refuse(&mut self, limit: Limit) -> Option<Admitted> {
        limit.hit();
        if self.warned.is_none_or(|warned| warned.elapsed() > WARN_EVERY) {
            self.warned = Some(Instant::now());
            let open = self.settings.max_connections - self.all.available_permits();
            warn!(open, "connections are refused: see --max-connections and --max-connections-per-address");
        }
        None
    }
}

/// A connection that counts for as long as it is open, as a WebSocket, too.
struct Counted {
    stream: TcpStream,
    activity: Arc<Activity>,
    clock: Clock,
    meter: Arc<Meter>,
    unread: Unread,
    _admitted: Admitted,
}

/// Whether a client leaves what it was sent unread. Over HTTP, it is then not read from: hyper would take its next requests, and keep the heads
/// of answers to them without a bound.
#[derive(Default)]
struct Unread {
    is_blocked: bool,
    /// The task that reads.
    reader: Option<Waker>,
}

impl Unread {
    fn written(&mut self, is_ready: bool) {
        self.is_blocked = !is_ready;
        if is_ready && let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, activity, clock, meter, unread, .. } = &mut *self;
        ready!(meter.poll_room(context));
        let before = buffer.filled().len();
        let read = if unread.is_blocked && !meter.has_begun() {
            unread.reader = Some(context.waker().clone());
            Poll::Pending
        } else {
            Pin::new(stream).poll_read(context, buffer)
        };
        meter.read(buffer.filled().len() - before);
        match read {
            Poll::Ready(_) => activity.now(true),
            // As if the client had closed it.
            Poll::Pending if clock.is_over(activity, context) => return Poll::Ready(Ok(())),
            Poll::Pending => {}
        }
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, clock, .. } = &mut *self;
        clock.poll_shutdown(stream, context)
    }
}

impl Counted {
    fn written<T>(&mut self, polled: Poll<T>) -> Poll<T> {
        self.unread.written(polled.is_ready());
        if polled.is_ready() {
            self.activity.now(false);
        }
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Timeouts;
    use super::*;

    #[test]
    fn places_are_counted_and_given_back() {
        let timeouts = Timeouts { head_timeout: Duration::ZERO, idle_close: Duration::ZERO };
        let settings =
            ConnectionSettings { max_connections: 4, max_connections_per_address: 2, timeouts, max_head_bytes: 0 };
        let mut open = Open::new(settings);
        let mut from = |ip: &str| open.admit((ip.parse::<IpAddr>().unwrap(), 1).into());
        let (first, second) = (from("10.0.0.1").unwrap(), from("::ffff:10.0.0.1").unwrap());
        assert!(from("10.0.0.1").is_none(), "the same address, as IPv4 and as IPv6");
        let third = from("10.0.0.2").unwrap();
        let local = from("127.0.0.1").unwrap();
        assert!(from("127.0.0.1").is_none() && from("10.0.0.3").is_none(), "four in all");
        drop((first, local));
        let again: Vec<_> = [from("10.0.0.1"), from("::1")].into_iter().flatten().collect();
        assert_eq!(again.len(), 2);
        drop((second, third, again));
        assert_eq!(open.all.available_permits(), 4);
    }

    #[test]
    fn the_refusal_has_the_length_that_it_says() {
        let text = String::from_utf8_lossy(REFUSAL);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{}", body.len());
    }
}
