//! The listening socket: where it comes from, and how it is given up without a connection being reset.
//!
//! Connections that wait in a listening socket are reset when it closes. One that a service manager holds (`LISTEN_FDS`) does
//! not close with this process. One of several with `SO_REUSEPORT` does: the kernel deals new connections to all of them, and
//! what it has dealt to one it does not move to another (unless `net.ipv4.tcp_migrate_req` is set). So this socket first gets a
//! filter that drops requests for new connections. A client repeats its request after a second, and by then the kernel chooses
//! among the other sockets. Connections that had begun before complete and are accepted.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::net::TcpListener;
use tokio::time::sleep;
use tracing::warn;

use crate::telemetry::chain;

/// The time that connections that had begun may take to complete: several round trips, but less than the second after which a client
/// repeats its request.
const HANDSHAKES: Duration = Duration::from_millis(900);

/// Connections that may wait to be accepted; the kernel has its own bound (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// Why there is no listening socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen on {0}: is another process there? Choose another --listen")]
    Taken(SocketAddr, #[source] io::Error),
    #[error("cannot listen on {0}: another process is there, without --reuse-port or as another user")]
    NotShared(SocketAddr, #[source] io::Error),
    #[error("the first socket of LISTEN_FDS is not a TCP listener: {0}")]
    NotAListener(io::Error),
    #[error("the operating system refuses")]
    System(#[from] io::Error),
}

/// A bound address: listened on while the sidecar serves, given up when it stops.
pub enum ListenSocket {
    /// It listens already: connections wait in it.
    Own(std::net::TcpListener),
    /// Beside those of other processes on the same port.
    Shared(Socket),
}

impl ListenSocket {
    /// Takes the socket that a service manager passes (`LISTEN_FDS`), or else binds one.
    pub fn open(address: SocketAddr, reuse_port: bool) -> Result<Self, ListenError> {
        let mut inherited = listenfd::ListenFd::from_env();
        if let Some(listener) = inherited.take_tcp_listener(0).map_err(ListenError::NotAListener)? {
            if reuse_port {
                warn!("--reuse-port does nothing for a socket that was handed over");
            }
            return Ok(Self::Own(listener));
        }
        if reuse_port {
            return bind(address, true).map(Self::Shared).map_err(|error| ListenError::NotShared(address, error));
        }
        let listen = || {
            let socket = bind(address, false)?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        };
        listen().map(Self::Own).map_err(|error| ListenError::Taken(address, error))
    }

    /// Its address; for port 0, with the port that the system chose.
    pub fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Own(listener) => listener.local_addr(),
            Self::Shared(socket) => {
                socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
            }
        }
    }

    /// Waits until no other process listens here. Connections are refused from then on, so listen soon.
    pub async fn is_ours(&self) {
        const AGAIN: Duration = Duration::from_millis(10);
        if let (Self::Shared(_), Ok(address)) = (self, self.address()) {
            // The probing socket never listens, so it keeps nobody else from listening.
            while bind(address, false).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse) {
                sleep(AGAIN).await;
            }
        }
    }

    /// Starts to accept connections.
    pub fn listen(&self) -> Result<TcpListener, ListenError> {
        let listener = match self {
            Self::Own(listener) => listener.try_clone()?,
            Self::Shared(socket) => {
                let taken = |error| match self.address() {
                    Ok(address) => ListenError::NotShared(address, error),
                    Err(_) => ListenError::System(error),
                };
                socket.listen(BACKLOG).map_err(taken)?;
                socket.try_clone()?.into()
            }
        };
        listener.set_nonblocking(true)?;
        Ok(TcpListener::from_std(listener)?)
    }

    /// If other processes share the address, stops new connections from arriving here and waits for those that have begun. Keep
    /// accepting until this returns.
    pub async fn close(self) {
        if let Self::Shared(socket) = self {
            match socket.attach_filter(&NO_BEGINNINGS) {
                Ok(()) => sleep(HANDSHAKES).await,
                Err(error) => warn!(
                    error = %chain(&error),
                    "the listening socket cannot be closed to new connections: connections that come at this moment may be reset"
                ),
            }
        }
    }
}

/// Binds an address without listening; `beside` others that share it.
///
/// # Errors
/// Another process listens there and does not share it.
pub fn bind(address: SocketAddr, beside: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(beside)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// A program for the kernel (classic BPF): drops a segment of TCP that has the flag SYN and lets others pass. Connections that
/// are accepted have it too, and get no such segment.
const NO_BEGINNINGS: [SockFilter; 5] = [
    // The byte with the flags, in the header of TCP.
    SockFilter::new(0x30, 0, 0, 13),
    // SYN of them; if it is there, the next instruction, else the one after.
    SockFilter::new(0x54, 0, 0, 0x02),
    SockFilter::new(0x15, 0, 1, 0x02),
    // Of the segment, nothing; all.
    SockFilter::new(0x06, 0, 0, 0),
    SockFilter::new(0x06, 0, 0, u32::MAX),
];

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::timeout;

    use super::*;

    /// Half of the connections would be dealt to the socket that closes, and be reset with it: here nobody accepts them, as between
    /// the last look at a socket and its end.
    #[tokio::test(flavor = "multi_thread")]
    async fn who_comes_while_a_shared_socket_closes_is_served_by_another() {
        let socket = ListenSocket::open((std::net::Ipv4Addr::LOCALHOST, 0).into(), true).unwrap();
        let address = socket.address().unwrap();
        let closing = socket.listen().unwrap();
        let other = ListenSocket::open(address, true).unwrap();
        assert!(timeout(HANDSHAKES, other.is_ours()).await.is_err(), "it is taken");
        let staying = other.listen().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = staying.accept().await {
                stream.write_all(b"served").await.unwrap();
            }
        });
        let closed = tokio::spawn(socket.close());
        sleep(HANDSHAKES / 3).await;
        let comers: Vec<_> = (0..64)
            .map(|_| {
                tokio::spawn(async move {
                    let mut answer = String::new();
                    TcpStream::connect(address).await?.read_to_string(&mut answer).await?;
                    io::Result::Ok(answer)
                })
            })
            .collect();
        closed.await.unwrap();
        drop(closing);
        for comer in comers {
            assert_eq!(comer.await.unwrap().unwrap(), "served");
        }
    }
}
