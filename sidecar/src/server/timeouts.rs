//! Timeouts of connections. A client that has begun a request must finish it soon; a connection without a
//! request may be a proxy's, kept open for the next one.

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

use super::settings::Timeouts;
use crate::telemetry::metrics::Limit;

/// A connection that closes is read for so long, or until such a pause: the client may still be sending.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_PAUSE: Duration = Duration::from_secs(1);

/// The most bytes that are read and dropped meanwhile.
const LINGER_BYTES: usize = 256 << 20;

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// The client is to send the head of a request; `has_begun` once a byte of it has arrived.
    Head { since: Instant, has_begun: bool },
    /// The sidecar is to answer; a WebSocket stays in this phase.
    Answering,
    /// Between two requests.
    Idle { since: Instant },
}

/// When a connection was last used, and its phase.
pub struct Activity {
    state: Mutex<(Instant, Phase)>,
    timeouts: Timeouts,
}

impl Activity {
    pub fn new(timeouts: Timeouts) -> Arc<Self> {
        let since = Instant::now();
        Arc::new(Self { state: Mutex::new((since, Phase::Head { since, has_begun: false })), timeouts })
    }

    /// When something last went over the connection.
    pub fn last(&self) -> Instant {
        self.state.lock().0
    }

    fn enter(&self, phase: Phase) {
        self.state.lock().1 = phase;
    }

    /// Bytes were read, or written.
    pub fn now(&self, is_read: bool) {
        let mut state = self.state.lock();
        let now = Instant::now();
        state.0 = now;
        if is_read {
            match state.1 {
                Phase::Idle { .. } => state.1 = Phase::Head { since: now, has_begun: true },
                Phase::Head { since, .. } => state.1 = Phase::Head { since, has_begun: true },
                Phase::Answering => {}
            }
        }
    }

    /// When the present phase times out.
    fn deadline(&self) -> Option<Instant> {
        match self.state.lock().1 {
            Phase::Head { since, .. } => since.checked_add(self.timeouts.head_timeout),
            Phase::Idle { since } => since.checked_add(self.timeouts.idle_close),
            Phase::Answering => None,
        }
    }

    fn timed_out(&self) {
        // A connection that is quiet between two requests may be closed at any time.
        if matches!(self.state.lock().1, Phase::Head { has_begun: true, .. }) {
            Limit::HeadTimeout.hit();
        }
    }
}

/// The clock of a connection. It has a timer only while a phase can time out.
#[derive(Default)]
pub struct Clock {
    timer: Option<Pin<Box<Sleep>>>,
    lingering: Option<Lingering>,
}

/// Reading what a client still sends on a connection that closes.
struct Lingering {
    until: Instant,
    pause: Instant,
    bytes: usize,
}

impl Clock {
    /// Whether the present phase has timed out; called when there is nothing to read.
    pub fn is_over(&mut self, activity: &Activity, context: &mut Context<'_>) -> bool {
        let is_over = activity.deadline().is_some_and(|deadline| self.poll(deadline, context).is_ready());
        if is_over {
            activity.timed_out();
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
pub fn answer(
    router: &TowerToHyperService<Router>,
    activity: &Arc<Activity>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Answer>, Infallible>> + Send + use<> {
    activity.enter(Phase::Answering);
    let (answer, activity) = (router.call(request), Arc::clone(activity));
    async move {
        let answer = answer.await?;
        // A WebSocket knows by itself how long it waits.
        let activity = (answer.status() != StatusCode::SWITCHING_PROTOCOLS).then_some(activity);
        Ok(answer.map(|body| Answer { body, activity }))
    }
}

/// The body of an answer. When it is sent, or nobody wants it any more, the connection is free for the next request.
pub struct Answer {
    body: Body,
    activity: Option<Arc<Activity>>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(activity) = &self.activity {
            activity.enter(Phase::Idle { since: Instant::now() });
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
