//! The listening socket: where it comes from, and how it is given up without a connection being reset.
//!
//! Connections that wait in a listening socket are reset when it closes. One that a service manager holds (`LISTEN_FDS`) does
//! not close with this process. One of several with `SO_REUSEPORT` does: the kernel deals new connections to all of them, and
//! what it has dealt to one it does not move to another (but where `net.ipv4.tcp_migrate_req` is set). So this one is made deaf
//! first: a filter on it drops what would begin a connection. A client sends that again after a second and is dealt anew, by
//! then among those that are left. What had begun before completes, and is accepted.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::net::TcpListener;
use tokio::time::sleep;
use tracing::warn;

/// How long connections that had begun are given to complete: several round trips, and less than the second after which who
/// was not heard tries again.
const HANDSHAKES: Duration = Duration::from_millis(900);

/// Connections that may wait to be accepted; the kernel has its own bound (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// Why there is no listening socket.
#[derive(Debug, thiserror::Error)]
pub enum NoDoor {
    #[error("cannot listen on {0}: is another process there? Choose another --listen")]
    Taken(SocketAddr, #[source] io::Error),
    #[error("cannot listen on {0}: another process is there, without --reuse-port or as another user")]
    NotShared(SocketAddr, #[source] io::Error),
    #[error("the first socket of LISTEN_FDS is not a TCP listener: {0}")]
    NotAListener(io::Error),
    #[error("the operating system refuses")]
    System(#[from] io::Error),
}

/// A listening socket, to be closed when it is time.
pub struct Door {
    /// Beside those of other processes on the same port.
    shared: Option<Socket>,
}

impl Door {
    /// The socket that is held for this service (`LISTEN_FDS`), or else one of our own.
    ///
    /// # Errors
    /// There is none.
    pub async fn open(address: SocketAddr, reuse_port: bool) -> Result<(TcpListener, Self), NoDoor> {
        let mut inherited = listenfd::ListenFd::from_env();
        if let Some(listener) = inherited.take_tcp_listener(0).map_err(NoDoor::NotAListener)? {
            if reuse_port {
                warn!("--reuse-port does nothing for a socket that was handed over");
            }
            listener.set_nonblocking(true)?;
            return Ok((TcpListener::from_std(listener)?, Self { shared: None }));
        }
        if reuse_port {
            let socket = bind_beside(address).map_err(|error| NoDoor::NotShared(address, error))?;
            let listener = TcpListener::from_std(socket.try_clone()?.into())?;
            return Ok((listener, Self { shared: Some(socket) }));
        }
        let listener = TcpListener::bind(address).await.map_err(|error| NoDoor::Taken(address, error))?;
        Ok((listener, Self { shared: None }))
    }

    /// Sees to it that no connection begins here any more, if others take them, and waits for those that have begun. The
    /// listener goes on accepting until this ends.
    pub async fn close(self) {
        if let Some(socket) = self.shared {
            match socket.attach_filter(&NO_BEGINNINGS) {
                Ok(()) => sleep(HANDSHAKES).await,
                Err(error) => warn!(
                    error = &error as &dyn std::error::Error,
                    "the listening socket cannot be made deaf: connections that come at this moment may be reset"
                ),
            }
        }
    }
}

fn bind_beside(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
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
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    /// Half of the connections would be dealt to the socket that closes, and be reset with it: here nobody accepts them, as between
    /// the last look at a socket and its end.
    #[tokio::test(flavor = "multi_thread")]
    async fn who_comes_while_a_shared_socket_closes_is_served_by_another() {
        let (closing, door) = Door::open((std::net::Ipv4Addr::LOCALHOST, 0).into(), true).await.unwrap();
        let address = closing.local_addr().unwrap();
        let (staying, _other) = Door::open(address, true).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = staying.accept().await {
                stream.write_all(b"served").await.unwrap();
            }
        });
        let closed = tokio::spawn(door.close());
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
