//! A TCP relay in front of sidecars that keeps books of what a client behind it would have noticed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Relays connections to a port on this machine.
pub struct Witness {
    port: u16,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    refused: AtomicUsize,
    reset: AtomicUsize,
    unanswered: AtomicUsize,
}

/// The failures that clients have met so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Troubles {
    /// Nobody took the connection.
    pub refused: usize,
    /// The connection broke off, in either direction, while the client held it.
    pub reset: usize,
    /// A request over HTTP that the connection ended without an answer to, although in order.
    pub unanswered: usize,
}

impl Troubles {
    pub const NONE: Self = Self { refused: 0, reset: 0, unanswered: 0 };
}

impl Witness {
    pub async fn of(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let seen = Arc::new(Seen::default());
        let relay = Arc::clone(&seen);
        tokio::spawn(async move {
            loop {
                let near = crate::breaker::accept(&listener).await;
                tokio::spawn(carry(near, target, Arc::clone(&relay)));
            }
        });
        Self { port, seen }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The number of connections that were made.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::Relaxed)
    }

    pub fn troubles(&self) -> Troubles {
        let Seen { refused, reset, unanswered, .. } = &*self.seen;
        let [refused, reset, unanswered] = [refused, reset, unanswered].map(|count| count.load(Ordering::Relaxed));
        Troubles { refused, reset, unanswered }
    }
}

/// The state of a connection.
#[derive(Default)]
struct Standing {
    /// The client is gone, so a failure after that is its own doing.
    has_left: AtomicBool,
    is_websocket: AtomicBool,
    /// The client has sent something that nothing followed.
    waits: AtomicBool,
    /// The beginning of that message.
    last: Mutex<String>,
}

async fn carry(near: TcpStream, target: u16, seen: Arc<Seen>) {
    seen.connections.fetch_add(1, Ordering::Relaxed);
    let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else {
        seen.refused.fetch_add(1, Ordering::Relaxed);
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let standing = Standing::default();
    let (near_reads, near_writes) = near.into_split();
    let (far_reads, far_writes) = far.into_split();
    let (is_reset, is_over) = tokio::join!(
        there(near_reads, far_writes, &standing, &seen), //
        back(far_reads, near_writes, &standing, &seen)
    );
    // The server had ended the connection when this request was on its way.
    if is_over && !is_reset && standing.waits() {
        standing.count_unanswered(&seen);
    }
}

impl Standing {
    /// The client has sent a request over HTTP that nothing followed.
    fn waits(&self) -> bool {
        !self.is_websocket.load(Ordering::Relaxed) && self.waits.load(Ordering::Relaxed)
    }

    fn count_unanswered(&self, seen: &Seen) {
        seen.unanswered.fetch_add(1, Ordering::Relaxed);
        eprintln!("unanswered: {}", self.last.lock().unwrap());
    }
}

/// From the client. Returns whether the connection broke off.
async fn there(mut near: OwnedReadHalf, mut far: OwnedWriteHalf, standing: &Standing, seen: &Seen) -> bool {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = near.read(&mut buffer).await {
        standing.waits.store(true, Ordering::Relaxed);
        *standing.last.lock().unwrap() = String::from_utf8_lossy(&buffer[..read.min(200)]).into();
        if far.write_all(&buffer[..read]).await.is_err() {
            // Data after the end of a WebSocket is no loss to anybody.
            if !standing.is_websocket.load(Ordering::Relaxed) {
                seen.reset.fetch_add(1, Ordering::Relaxed);
            }
            return true;
        }
    }
    standing.has_left.store(true, Ordering::Relaxed);
    let _ = far.shutdown().await;
    false
}

/// To the client. Returns whether the server ended the connection in order, and with nothing left to answer, before the client did.
async fn back(mut far: OwnedReadHalf, mut near: OwnedWriteHalf, standing: &Standing, seen: &Seen) -> bool {
    let mut buffer = vec![0; 64 << 10];
    let mut is_first = true;
    let end = loop {
        match far.read(&mut buffer).await {
            Ok(read @ 1..) => {
                if std::mem::take(&mut is_first) && buffer.starts_with(b"HTTP/1.1 101") {
                    standing.is_websocket.store(true, Ordering::Relaxed);
                }
                standing.waits.store(false, Ordering::Relaxed);
                if near.write_all(&buffer[..read]).await.is_err() {
                    return false;
                }
            }
            end => break end,
        }
    };
    let has_left = standing.has_left.load(Ordering::Relaxed);
    let waits = standing.waits();
    match end {
        Err(_) if !has_left => drop(seen.reset.fetch_add(1, Ordering::Relaxed)),
        Ok(_) if !has_left && waits => standing.count_unanswered(seen),
        _ => {}
    }
    let is_over = end.is_ok() && !has_left && !waits;
    let _ = near.shutdown().await;
    is_over
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A server that ends its connection after the first answer.
    async fn server() -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            assert!(client.read(&mut request).await.unwrap() > 0);
            client.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        });
        port
    }

    /// The troubles of a client that has an answer, and may send another request before it sees that the connection has ended.
    async fn troubles(sends_another: bool) -> Troubles {
        const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        let witness = Witness::of(server().await).await;
        let mut client = TcpStream::connect(("127.0.0.1", witness.port())).await.unwrap();
        client.write_all(REQUEST).await.unwrap();
        assert!(client.read(&mut [0; 1024]).await.unwrap() > 0);
        // The end has come to the relay.
        assert!(client.peek(&mut [0; 1]).await.unwrap() == 0);
        if sends_another {
            client.write_all(REQUEST).await.unwrap();
        }
        drop(client);
        tokio::time::sleep(Duration::from_millis(300)).await;
        witness.troubles()
    }

    #[tokio::test]
    async fn a_request_that_crosses_the_end_of_its_connection_is_unanswered() {
        assert_eq!(troubles(false).await, Troubles::NONE);
        assert_eq!(troubles(true).await, Troubles { unanswered: 1, ..Troubles::NONE });
    }
}
