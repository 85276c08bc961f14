//! Ends statements whose answer nobody waits for any more: Postgres would go on with them, and with what they lock, without noticing.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::TryFutureExt;
use futures_util::future::MapOk;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, TryAcquireError};
use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{CancelToken, Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::{debug, warn};

use super::{CONNECT_TIMEOUT, PROBE, SILENCE};
use crate::telemetry::chain;
use crate::telemetry::log_throttle::LogThrottle;

/// The requests of this process that may be under way. Each has a connection until its server closes it.
const MOST: u32 = 64;

static REQUESTS: Semaphore = Semaphore::const_new(MOST as usize);

/// The time for which a server may keep the connection of a request, and be alive. Long, because a connection that is closed here first can
/// end PgBouncer 1.18.
const PATIENCE: Duration = Duration::from_secs(600);

/// The interval at which the log says that there are too many.
const MENTION_EVERY: Duration = Duration::from_secs(60);

/// The port of URLs that name none.
const PORT: u16 = 5432;

/// Waits until no request to cancel is under way, and lets no other begin. Call it when the process ends: a request that is cut off can end
/// a pooler.
pub async fn cancellations_ended() {
    let _all = REQUESTS.acquire_many(MOST).await;
    REQUESTS.close();
}

/// Cancels the statement that a connection is at, over a connection of its own.
#[derive(Clone)]
pub struct Canceller {
    token: CancelToken,
    tls: MakeRustlsConnect,
    /// The name that the server's certificate must have, if there is TLS.
    name: String,
    server: Server,
}

/// The address of a server.
#[derive(Clone)]
enum Server {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Server {
    /// The first one of a configuration that has an address, or the folder of a Unix socket.
    fn of(config: &Config) -> Option<Self> {
        let port = config.get_ports().first().copied().unwrap_or(PORT);
        match (config.get_hostaddrs(), config.get_hosts()) {
            ([address, ..], _) => Some(Self::Tcp((*address, port).into())),
            ([], [Host::Unix(folder), ..]) => Some(Self::Unix(folder.join(format!(".s.PGSQL.{port}")))),
            _ => None,
        }
    }
}

impl Canceller {
    /// `config`: that of the connection, with one address.
    pub fn of(client: &Client, config: &Config, tls: &MakeRustlsConnect) -> Option<Self> {
        let name = match config.get_hosts() {
            [Host::Tcp(name), ..] => name.clone(),
            _ => String::new(),
        };
        Some(Self { token: client.cancel_token(), tls: tls.clone(), name, server: Server::of(config)? })
    }

    /// Asks Postgres to cancel the statement, without waiting for that. Only for a connection on which nothing else will be
    /// sent: Postgres cancels the statement that runs when the request arrives.
    pub fn cancel(&self) {
        // The statement ends without a request, too, at its own time limit. There is no runtime while the process ends.
        let Ok(runtime) = Handle::try_current() else { return };
        let permit = match REQUESTS.try_acquire() {
            Ok(permit) => permit,
            Err(TryAcquireError::NoPermits) => return mention_limit(),
            Err(TryAcquireError::Closed) => return,
        };
        let this = self.clone();
        runtime.spawn(async move {
            match this.ask().await {
                Ok(()) => debug!("asked Postgres to cancel a statement that nobody waits for"),
                Err(error) => debug!(%error, "a statement cannot be cancelled"),
            }
            drop(permit);
        });
    }

    async fn ask(self) -> Result<(), String> {
        match &self.server {
            Server::Tcp(address) => {
                let stream = connected(TcpStream::connect(address)).await?;
                // A machine that is gone closes nothing.
                let keepalive = TcpKeepalive::new().with_time(SILENCE).with_interval(PROBE);
                let socket = SockRef::from(&stream);
                let set =
                    socket.set_tcp_keepalive(&keepalive).and_then(|()| socket.set_tcp_user_timeout(Some(SILENCE)));
                set.map_err(|error| error.to_string())?;
                self.ask_over(stream).await
            }
            Server::Unix(path) => self.ask_over(connected(UnixStream::connect(path)).await?).await,
        }
    }

    async fn ask_over<S>(&self, stream: S) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut tls = self.tls.clone();
        let Ok(tls) = MakeTlsConnect::<S>::make_tls_connect(&mut tls, &self.name);
        let asked = timeout(PATIENCE, self.token.cancel_query_raw(UntilClosed(stream), Tls(tls))).await;
        asked
            .map_err(|_| "the server has not closed the connection".to_string())?
            .map_err(|error| chain(&error).to_string())
    }
}

/// Tells the operator of statements that go on until their own time limit.
fn mention_limit() {
    static SAID: LazyLock<LogThrottle<()>> = LazyLock::new(|| LogThrottle::new(MENTION_EVERY, 1));
    if let Some(suppressed) = SAID.suppressed(()) {
        warn!(
            suppressed,
            "a statement that nobody waits for is not cancelled: the database has not answered {MOST} requests to cancel yet"
        );
    }
}

/// A connection that is made in time.
async fn connected<S>(connecting: impl Future<Output = io::Result<S>>) -> Result<S, String> {
    let connected = timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    connected.map_err(|error| error.to_string())
}

/// A connection whose shutdown waits until the server has closed it, as libpq does with requests to cancel. If the client closes it before,
/// PgBouncer 1.18 can end with all its connections (PgBouncer #801).
struct UntilClosed<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for UntilClosed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for UntilClosed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut bytes = [0; 64];
            let mut buffer = ReadBuf::new(&mut bytes);
            // A server may reset the connection, or close it without TLS's close_notify. It is closed then, too.
            if ready!(Pin::new(&mut self.0).poll_read(cx, &mut buffer)).is_err() || buffer.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: TlsStream + Unpin> TlsStream for UntilClosed<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.0.channel_binding()
    }
}

/// Makes TLS streams whose shutdown waits for the server.
struct Tls<T>(T);

impl<S, T: TlsConnect<S>> TlsConnect<UntilClosed<S>> for Tls<T> {
    type Stream = UntilClosed<T::Stream>;
    type Error = T::Error;
    type Future = MapOk<T::Future, fn(T::Stream) -> Self::Stream>;

    fn connect(self, UntilClosed(stream): UntilClosed<S>) -> Self::Future {
        self.0.connect(stream).map_ok(UntilClosed)
    }
}
