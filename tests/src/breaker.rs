//! A TCP relay that can be cut: the network between a client and a sidecar, or a sidecar and Postgres.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Relays connections to a port on this machine until it is cut.
pub struct Breaker {
    port: u16,
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Whole,
    /// Connections are closed, and new ones too.
    Cut,
    /// Connections stay, and carry nothing.
    Stalled,
}

impl Breaker {
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(watch::Sender::new(State::Whole));
        let relay = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, target, relay.subscribe()));
            }
        });
        Self { port, state }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes every connection, and new ones as they come, until [`Self::mend`].
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Lets nothing through any more, without closing anything, until [`Self::mend`]: a laptop that sleeps.
    pub fn stall(&self) {
        self.state.send_replace(State::Stalled);
    }

    pub fn mend(&self) {
        self.state.send_replace(State::Whole);
    }

    /// A cut of this length.
    pub async fn cut_for(&self, time: Duration) {
        self.cut();
        tokio::time::sleep(time).await;
        self.mend();
    }
}

async fn carry(near: TcpStream, target: u16, mut state: watch::Receiver<State>) {
    if state.wait_for(|state| *state != State::Stalled).await.is_ok_and(|state| *state == State::Cut) {
        return;
    }
    let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else {
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (near_reads, near_writes) = near.into_split();
    let (far_reads, far_writes) = far.into_split();
    let mut cut = state.clone();
    tokio::select! {
        () = pump(near_reads, far_writes, state.clone()) => {}
        () = pump(far_reads, near_writes, state) => {}
        _ = cut.wait_for(|state| *state == State::Cut) => {}
    }
}

/// Carries one direction until it ends, and nothing while the network is stalled.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = from.read(&mut buffer).await
        && read > 0
        && state.wait_for(|state| *state != State::Stalled).await.is_ok()
        && to.write_all(&buffer[..read]).await.is_ok()
    {}
}
