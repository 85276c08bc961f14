//! Ends statements whose answer nobody waits for any more: Postgres would go on with them, and with what they lock, without noticing.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::TryFutureExt;
use futures_util::future::MapOk;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{CancelToken, Client, Config};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::debug;

use crate::telemetry::chain;

/// The time limit of a request to cancel, until the server has closed its connection. It has a fault: a connection that is closed here
/// before can still end PgBouncer 1.18, if Postgres hangs for longer.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(20);

/// The port of URLs that name none.
const PORT: u16 = 5432;

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
    /// Its name could not be looked up before the connection was made.
    Unknown,
}

impl Canceller {
    /// `config`: that of the connection, with one address.
    pub fn of(client: &Client, config: &Config, tls: &MakeRustlsConnect) -> Self {
        let port = config.get_ports().first().copied().unwrap_or(PORT);
        let server = match (config.get_hostaddrs(), config.get_hosts()) {
            ([address, ..], _) => Server::Tcp((*address, port).into()),
            ([], [Host::Unix(folder), ..]) => Server::Unix(folder.join(format!(".s.PGSQL.{port}"))),
            _ => Server::Unknown,
        };
        let name = match config.get_hosts() {
            [Host::Tcp(name), ..] => name.clone(),
            _ => String::new(),
        };
        Self { token: client.cancel_token(), tls: tls.clone(), name, server }
    }

    /// Asks Postgres to cancel the statement, without waiting for that. Only for a connection on which nothing else will be
    /// sent: Postgres cancels the statement that runs when the request arrives.
    pub fn cancel(&self) {
        // There is none while the process ends. The statement ends without a request then, as before.
        let Ok(runtime) = Handle::try_current() else { return };
        let this = self.clone();
        runtime.spawn(async move {
            match timeout(CANCEL_TIMEOUT, this.ask()).await {
                Ok(Ok(())) => debug!("asked Postgres to cancel a statement that nobody waits for"),
                Ok(Err(error)) => debug!(%error, "a statement cannot be cancelled"),
                Err(_) => debug!("the server has not closed a request to cancel in time"),
            }
        });
    }

    async fn ask(self) -> Result<(), String> {
        let failed = |error: io::Error| error.to_string();
        match &self.server {
            Server::Tcp(address) => self.ask_over(TcpStream::connect(address).await.map_err(failed)?).await,
            Server::Unix(path) => self.ask_over(UnixStream::connect(path).await.map_err(failed)?).await,
            Server::Unknown => Err("the address of its server is not known".into()),
        }
    }

    async fn ask_over<S>(&self, stream: S) -> Result<(), String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut tls = self.tls.clone();
        let Ok(tls) = MakeTlsConnect::<S>::make_tls_connect(&mut tls, &self.name);
        let asked = self.token.cancel_query_raw(UntilClosed(stream), Tls(tls));
        asked.await.map_err(|error| chain(&error).to_string())
    }
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
