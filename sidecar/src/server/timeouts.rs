//! Whose turn it is on a connection, and for how long it may be kept waiting: a client that has begun a request and does not get
//! on with it is in nobody's interest, while one that is only quiet may be a proxy that keeps connections for the next request.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, Response, StatusCode};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::telemetry::metrics::Limit;

/// How long a client may take over what it still sends on a connection that is closed for it, and over a pause in that.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_PAUSE: Duration = Duration::from_secs(1);

/// What is read and thrown away meanwhile.
const LINGER_BYTES: usize = 256 << 20;

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the head of a request, the first one of a connection from its beginning.
    pub head: Duration,
    /// To begin the next request.
    pub idle: Duration,
}

impl Patience {
    /// Longer than both, and short enough to be added to any time.
    pub fn longest(self) -> Duration {
        const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
        self.head.max(self.idle).min(YEAR) + Duration::from_secs(1)
    }
}

#[derive(Debug, Clone, Copy)]
enum Turn {
    /// The client's, to send the head of a request; whether anything of it has come.
    Head { since: Instant, has_begun: bool },
    /// Ours, until the answer is sent; for ever with a WebSocket.
    Ours,
    /// Nobody's, between two requests.
    Idle { since: Instant },
}

/// What has gone over a connection, and what is waited for.
pub struct Used {
    state: Mutex<(Instant, Turn)>,
    patience: Patience,
}

impl Used {
    pub fn new(patience: Patience) -> Arc<Self> {
        let since = Instant::now();
        Arc::new(Self { state: Mutex::new((since, Turn::Head { since, has_begun: false })), patience })
    }

    /// When something last went over the connection.
    pub fn last(&self) -> Instant {
        self.state.lock().0
    }

    fn turn(&self, turn: Turn) {
        self.state.lock().1 = turn;
    }

    /// Something has come, or gone.
    pub fn now(&self, is_read: bool) {
        let mut state = self.state.lock();
        let now = Instant::now();
        state.0 = now;
        if is_read {
            match state.1 {
                Turn::Idle { .. } => state.1 = Turn::Head { since: now, has_begun: true },
                Turn::Head { since, .. } => state.1 = Turn::Head { since, has_begun: true },
                Turn::Ours => {}
            }
        }
    }

    /// When it is too late for what is waited for.
    fn deadline(&self) -> Option<Instant> {
        match self.state.lock().1 {
            Turn::Head { since, .. } => since.checked_add(self.patience.head),
            Turn::Idle { since } => since.checked_add(self.patience.idle),
            Turn::Ours => None,
        }
    }

    fn is_too_late(&self) {
        // A connection that is quiet between two requests may be closed at any time.
        if matches!(self.state.lock().1, Turn::Head { has_begun: true, .. }) {
            Limit::HeadTimeout.hit();
        }
    }
}

/// The clock of a connection. It has a timer only while something is waited for.
#[derive(Default)]
pub struct Clock {
    timer: Option<Pin<Box<Sleep>>>,
    lingering: Option<Lingering>,
}

/// The client's last bytes.
struct Lingering {
    until: Instant,
    pause: Instant,
    bytes: usize,
}

impl Clock {
    /// Whether a client that has sent nothing new has been waited for long enough.
    pub fn is_over(&mut self, used: &Used, context: &mut Context<'_>) -> bool {
        let is_over = used.deadline().is_some_and(|deadline| self.poll(deadline, context).is_ready());
        if is_over {
            used.is_too_late();
        }
        is_over
    }

    fn poll(&mut self, deadline: Instant, context: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        timer.as_mut().poll(context)
    }

    /// Ends a connection so that the client gets what it was sent last: says that no more will come, and reads for a while what
    /// the client still sends. To close with that unread would reset the connection, and take back an answer that has not been
    /// read yet, such as that a body is too large.
    pub fn poll_shutdown(
        &mut self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut lingering = match self.lingering.take() {
            Some(lingering) => lingering,
            None => {
                ready!(Pin::new(&mut stream).poll_shutdown(context))?;
                let now = Instant::now();
                Lingering { until: now + LINGER, pause: now + LINGER_PAUSE, bytes: 0 }
            }
        };
        let mut buffer = [0; 8 << 10];
        loop {
            let mut thrown_away = ReadBuf::new(&mut buffer);
            match Pin::new(&mut stream).poll_read(context, &mut thrown_away) {
                Poll::Ready(Ok(())) if !thrown_away.filled().is_empty() && lingering.bytes < LINGER_BYTES => {
                    lingering.bytes += thrown_away.filled().len();
                    lingering.pause = Instant::now() + LINGER_PAUSE;
                }
                // It has closed, too, or will not come to an end.
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    let deadline = lingering.pause.min(lingering.until);
                    self.lingering = Some(lingering);
                    return self.poll(deadline, context).map(Ok);
                }
            }
            if lingering.until <= Instant::now() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// Serves the requests of a connection, one after the other.
///
/// # Errors
/// None.
pub fn answer(
    router: &TowerToHyperService<Router>,
    used: &Arc<Used>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Answer>, Infallible>> + Send + use<> {
    used.turn(Turn::Ours);
    let (answer, used) = (router.call(request), Arc::clone(used));
    async move {
        let answer = answer.await?;
        // A WebSocket knows by itself how long it waits.
        let used = (answer.status() != StatusCode::SWITCHING_PROTOCOLS).then_some(used);
        Ok(answer.map(|body| Answer { body, used }))
    }
}

/// The body of an answer. When it is sent, or nobody wants it any more, the connection is free for the next request.
pub struct Answer {
    body: Body,
    used: Option<Arc<Used>>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(used) = &self.used {
            used.turn(Turn::Idle { since: Instant::now() });
        }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
