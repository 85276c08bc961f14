//! The end of the process: the signals that ask for it, and the steps by which requests and connections end.

use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::info;

/// The time that requests wait for the database once a shutdown has begun, if its deadline allows. Less than the 10 s
/// that a ping of a client may take: with one socket that is handed from process to process, the next one begins only then.
const LAST_MOMENT: Duration = Duration::from_secs(5);

/// The time in which a client of LiveStore's development line leaves a connection that is silent: it pings every 10 s, and gives up at
/// the second ping that brings no answer.
const LEAVING: Duration = Duration::from_secs(20);

/// The time that is left for the last answers to arrive.
const MARGIN: Duration = Duration::from_secs(1);

/// SIGINTs that come within this time are one Ctrl-C: a terminal sends it to the whole group, and `npx` and the launcher for npm pass theirs
/// on.
const ONE_KEYSTROKE: Duration = Duration::from_millis(500);

/// A shutdown, step by step. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Ending {
    /// The shutdown is announced: each connection serves at most one more request, and `/readyz` answers 503.
    pub announced: CancellationToken,
    /// The shutdown is announced, and begins late enough for clients to leave by themselves ([`LEAVING`]).
    pub parting: CancellationToken,
    /// No connection is accepted any more; streams end.
    pub begun: CancellationToken,
    /// Requests that still wait for the database are told that there is nothing new, or to come again.
    pub last_moment: CancellationToken,
    /// Requests that can only be answered by a failure are answered now.
    pub very_end: CancellationToken,
}

impl Ending {
    /// Says that a shutdown begins after this delay.
    pub fn announce(&self, delay: Duration) {
        self.announced.cancel();
        if delay >= LEAVING {
            self.parting.cancel();
        }
    }

    /// Ends streams now, and what waits after a while that leaves time before the deadline.
    pub fn begin(&self, deadline: Duration) {
        self.announced.cancel();
        self.begun.cancel();
        let Self { last_moment, very_end, .. } = self.clone();
        let first = LAST_MOMENT.min(deadline / 2);
        let then = deadline.saturating_sub(MARGIN).saturating_sub(first);
        tokio::spawn(async move {
            sleep(first).await;
            last_moment.cancel();
            sleep(then).await;
            very_end.cancel();
        });
    }
}

/// The signal that asks for the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// SIGTERM: whoever manages services.
    Manager,
    /// SIGINT: somebody at a terminal, who waits.
    Person,
}

/// SIGTERM and SIGINT, from now on. None is missed between two calls.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    requested_at: Option<Instant>,
}

impl Signals {
    pub fn catch() -> std::io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, requested_at: None })
    }

    /// Ends at the first of them.
    pub async fn requested(&mut self) -> By {
        let by = tokio::select! {
            _ = self.terminate.recv() => By::Manager,
            _ = self.interrupt.recv() => By::Person,
        };
        info!(?by, "shutting down");
        self.requested_at = Some(Instant::now());
        by
    }

    /// Ends at a further SIGINT: the person at the terminal does not want to wait. Whoever manages services has a time of its own.
    pub async fn insisted(&mut self) {
        let is_the_same = |at: Instant| at.elapsed() < ONE_KEYSTROKE;
        self.interrupt.recv().await;
        while self.requested_at.is_some_and(is_the_same) {
            self.interrupt.recv().await;
        }
    }
}
