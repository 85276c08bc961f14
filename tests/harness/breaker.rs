//! A TCP relay that can be cut, stalled, slowed, reset and lost: the network between a client and a sidecar, or a sidecar and Postgres.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Relays connections to a port on this machine until it is cut.
pub struct Breaker {
    port: u16,
    target: Arc<AtomicU16>,
    state: Arc<watch::Sender<State>>,
    blows: Arc<watch::Sender<Blows>>,
}

/// The blows that connections have had so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Blows {
    resets: u64,
    losses: u64,
    /// The time after the last loss at which the near side is reset.
    near_gives_up: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Whole,
    /// Connections are closed, and new ones too.
    Cut,
    /// Connections stay, and carry nothing.
    Stalled,
    /// Everything is on its way for so long.
    Slow(Duration),
}

impl Breaker {
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(watch::Sender::new(State::Whole));
        let blows = Arc::new(watch::Sender::new(Blows::default()));
        let target = Arc::new(AtomicU16::new(target));
        let (relay, relay_blows, relay_target) = (Arc::clone(&state), Arc::clone(&blows), Arc::clone(&target));
        tokio::spawn(async move {
            loop {
                let near = accept(&listener).await;
                let target = relay_target.load(Ordering::Relaxed);
                tokio::spawn(carry(near, target, relay.subscribe(), relay_blows.subscribe()));
            }
        });
        Self { port, target, state, blows }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Brings new connections to another port, as a name that leads to another machine now. Those that there are stay.
    pub fn lead_to(&self, target: u16) {
        self.target.store(target, Ordering::Relaxed);
    }

    /// Closes every connection, and new ones as they come, until [`Self::mend`].
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Lets nothing through any more, without closing anything, until [`Self::mend`]: a laptop that sleeps.
    pub fn stall(&self) {
        self.state.send_replace(State::Stalled);
    }

    /// Lets everything be late, until [`Self::mend`]: a phone at the edge of its network.
    pub fn slow(&self, delay: Duration) {
        self.state.send_replace(State::Slow(delay));
    }

    /// Ends the connections that there are with a RST, which loses what is under way; new ones are welcome.
    pub fn reset(&self) {
        self.blows.send_modify(|blows| blows.resets += 1);
    }

    /// Loses the connections that there are for good: they carry nothing any more, and neither side is told, not even when the other
    /// one closes. New ones are welcome. A firewall that forgets what it has let through.
    ///
    /// `near_gives_up`: the time after which the near side is told all the same, as its system does when nothing is acknowledged.
    pub fn lose(&self, near_gives_up: Option<Duration>) {
        self.blows.send_modify(|blows| {
            blows.losses += 1;
            blows.near_gives_up = near_gives_up;
        });
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

/// The next connection. A relay that ended at an error, such as too many open files, would be an outage that no test asked for.
pub(crate) async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                eprintln!("a relay cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn carry(near: TcpStream, target: u16, mut state: watch::Receiver<State>, mut blows: watch::Receiver<Blows>) {
    if state.wait_for(|state| *state != State::Stalled).await.is_ok_and(|state| *state == State::Cut) {
        return;
    }
    let Ok(far) = TcpStream::connect(("127.0.0.1", target)).await else {
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (mut near_reads, mut near_writes) = near.into_split();
    let (mut far_reads, mut far_writes) = far.into_split();
    let mut cut = state.clone();
    let before = *blows.borrow_and_update();
    let now = tokio::select! {
        () = pump(&mut near_reads, &mut far_writes, state.clone()) => before,
        () = pump(&mut far_reads, &mut near_writes, state) => before,
        _ = cut.wait_for(|state| *state == State::Cut) => before,
        Ok(now) = blows.wait_for(|now| *now != before) => *now,
    };
    if now.losses != before.losses {
        tokio::join!(swallow(near_reads, near_writes, now.near_gives_up), swallow(far_reads, far_writes, None));
    } else if now.resets != before.resets {
        let _ = (near_reads.as_ref().set_zero_linger(), far_reads.as_ref().set_zero_linger());
        // Dropped, a half that writes says goodbye first, and a socket that has done so sends no RST.
        near_writes.forget();
        far_writes.forget();
    }
}

/// Takes what one side sends, and answers nothing, until that side has enough, or is reset after a while.
async fn swallow(mut reads: OwnedReadHalf, writes: OwnedWriteHalf, until_reset: Option<Duration>) {
    let mut buffer = vec![0; 4 << 10];
    let swallowing = async { while reads.read(&mut buffer).await.is_ok_and(|read| read > 0) {} };
    match until_reset {
        None => swallowing.await,
        Some(time) => {
            if tokio::time::timeout(time, swallowing).await.is_err() {
                let _ = reads.as_ref().set_zero_linger();
                writes.forget();
            }
        }
    }
}

/// Carries one direction until it ends, and nothing while the network is stalled.
async fn pump(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = from.read(&mut buffer).await
        && read > 0
        && passes(&mut state).await
        && to.write_all(&buffer[..read]).await.is_ok()
    {}
}

/// Waits as long as the network makes everything wait; false if there is no network any more.
async fn passes(state: &mut watch::Receiver<State>) -> bool {
    let delay = match *state.borrow_and_update() {
        State::Slow(delay) => delay,
        _ => Duration::ZERO,
    };
    // Mended, it is not slow any more.
    let _ = tokio::time::timeout(delay, state.wait_for(|state| !matches!(state, State::Slow(_)))).await;
    state.wait_for(|state| *state != State::Stalled).await.is_ok()
}
