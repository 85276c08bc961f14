//! Figures and events that follow on a page by themselves, as Server-Sent Events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

use super::access::Visitor;
use super::{Inspector, pages};
use crate::limits::quota::{Permit, Quota};
use crate::log::{Delivery, Filter, InspectedEvent, StoreId, StreamEnd, Subscription, shortened_name};
use crate::time::passed;

/// Streams of all pages together, and of one subject.
const STREAMS: usize = 100;
const STREAMS_EACH: usize = 20;

/// The interval at which an idle stream shows that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The interval between rows, at least.
const PACE: Duration = Duration::from_millis(200);

/// The streams that there may be.
pub struct Streams {
    all: Arc<Semaphore>,
    each: Arc<Quota<Arc<str>>>,
}

/// The right to a stream: its place, and its visitor's among the connections of a subject.
pub struct Place {
    _all: OwnedSemaphorePermit,
    _own: Option<Permit<Arc<str>>>,
    visitor: Arc<Visitor>,
}

impl Streams {
    pub fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(STREAMS)), each: Quota::new(STREAMS_EACH) }
    }

    /// `None`: too many pages are open.
    pub fn take(&self, visitor: Arc<Visitor>) -> Option<Place> {
        // Without a token, nobody can be told from the others: they would share the places of one.
        let own = match &visitor.identity {
            Some(_) => Some(self.each.take(Arc::clone(&visitor.subject))?),
            None => None,
        };
        let all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        Some(Place { _all: all, _own: own, visitor })
    }
}

/// Ends with the process, and with the session of whoever looks: then its last event says so.
fn answer(inspector: &Inspector, place: Place, events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let (ending, until) = (inspector.gate.ending.begun.clone(), place.visitor.until);
    let last = async move {
        let _place = place;
        tokio::select! {
            () = ending.cancelled_owned() => None,
            () = passed(until) => Some(end(SESSION_ENDED)),
        }
    };
    let begins = Some((Box::pin(events), Box::pin(last)));
    let events = stream::unfold(begins, |state| async move {
        let (mut events, mut last) = state?;
        tokio::select! {
            biased;
            last = &mut last => last.map(|event| (event, None)),
            event = events.next() => event.map(|event| (event, Some((events, last)))),
        }
    });
    let headers = [("cache-control", "no-store"), ("x-accel-buffering", "no")];
    let events = Sse::new(events.map(Ok::<_, Infallible>));
    (headers, events.keep_alive(KeepAlive::new().interval(KEEP_ALIVE))).into_response()
}

fn json(name: &str, value: &impl Serialize) -> Event {
    let text = serde_json::to_string(value).unwrap_or_default();
    Event::default().event(name).data(text)
}

/// The figures so far, and then one each second.
pub fn figures(inspector: &Inspector, place: Place) -> Response {
    let (past, receiver) = inspector.sampler.look();
    let first = stream::iter([json("past", &past)]);
    let rest = stream::unfold(receiver, async |mut receiver| {
        receiver.changed().await.ok()?;
        let figures = receiver.borrow_and_update().clone()?;
        Some((json("figures", &figures), receiver))
    });
    answer(inspector, place, first.chain(rest))
}

/// The events that a page has already.
pub struct From {
    pub after: i64,
    /// The backend id of their log.
    pub life: Option<String>,
}

/// The state of a stream of events.
enum Following {
    Begins {
        inspector: Arc<Inspector>,
        from: From,
    },
    /// The next rows come at this time or later.
    Goes {
        subscription: Box<Subscription>,
        at: Instant,
    },
    Ended,
}

/// The events after this one that the filter takes, as rows.
pub fn events(inspector: &Arc<Inspector>, place: Place, store: StoreId, from: From, filter: Filter) -> Response {
    let begins = Following::Begins { inspector: Arc::clone(inspector), from };
    let events = stream::unfold((begins, store, filter), |(state, store, filter)| async move {
        let (event, state) = match state {
            Following::Begins { inspector, from } => match inspector.inspection.follow(&store, from.after).await {
                Ok(subscription) if from.life.is_none_or(|life| *life == **subscription.backend_id()) => {
                    // Browsers drop an event without data.
                    (Event::default().event("following").data(&**subscription.backend_id()), goes(subscription))
                }
                Ok(_) => (end(RESET), Following::Ended),
                Err(_) => (end("The log cannot be read."), Following::Ended),
            },
            Following::Goes { mut subscription, at } => match next(&mut subscription, at).await {
                Ok(delivery) => {
                    let news = delivery.events.iter().rev().filter_map(|event| inspected(event, &filter));
                    let rows = pages::rows(store.as_str(), &news.collect::<Vec<_>>()).into_string();
                    let head = subscription.last();
                    (json("rows", &(head, rows)), goes(*subscription))
                }
                Err(StreamEnd::Reset { .. } | StreamEnd::Rewound) => (end(RESET), Following::Ended),
                Err(StreamEnd::Unreadable) => (end("The next event cannot be read."), Following::Ended),
                Err(StreamEnd::Expired) => (end(SESSION_ENDED), Following::Ended),
            },
            Following::Ended => return None,
        };
        Some((event, (state, store, filter)))
    });
    answer(inspector, place, events)
}

/// The same as in `inspector.js`.
const SESSION_ENDED: &str = "Your session has ended: log in again.";

const RESET: &str = "The store was reset or dropped: load the page anew.";

fn goes(subscription: Subscription) -> Following {
    Following::Goes { subscription: Box::new(subscription), at: Instant::now() + PACE }
}

async fn next(subscription: &mut Subscription, at: Instant) -> Result<Delivery, StreamEnd> {
    // Events that arrive meanwhile come together: a busy store costs no more than a quiet one.
    sleep_until(at).await;
    subscription.next().await
}

fn end(text: &str) -> Event {
    Event::default().event("end").data(text)
}

/// The event as a page shows it, if the filter takes it.
fn inspected(event: &crate::log::Event, filter: &Filter) -> Option<InspectedEvent> {
    let fields = event.fields().ok()?;
    let args = fields.args.map(|args| args.text().to_owned());
    let whole = InspectedEvent {
        seq_num: event.seq_num,
        parent_seq_num: event.parent_seq_num,
        name: fields.name.into_owned(),
        client_id: fields.client_id.into_owned(),
        session_id: fields.session_id.into_owned(),
        created_at: event.created_at,
        ..InspectedEvent::with_args(args)
    };
    // Filters are for whole names.
    filter.takes(&whole).then(|| InspectedEvent {
        name: shortened_name(&whole.name),
        client_id: shortened_name(&whole.client_id),
        session_id: shortened_name(&whole.session_id),
        ..whole
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Access, Authentication, Credentials};

    async fn visitor(subject: Option<&str>) -> Arc<Visitor> {
        let identity = Authentication::None.identify(&Credentials::default()).await.unwrap();
        Arc::new(Visitor {
            access: Access::Admin,
            subject: subject.unwrap_or_default().into(),
            is_logged_in: true,
            is_operator: subject.is_none(),
            identity: subject.map(|_| Arc::new(identity)),
            until: None,
        })
    }

    #[tokio::test]
    async fn only_subjects_of_tokens_share_places() {
        let (ann, bob, operators) = (visitor(Some("ann")).await, visitor(Some("bob")).await, visitor(None).await);
        let streams = Streams::new();
        let take = |visitor: &Arc<Visitor>| streams.take(Arc::clone(visitor));
        let mut of_subjects: Vec<_> =
            [&ann, &bob].iter().flat_map(|visitor| (0..STREAMS_EACH).map(move |_| take(visitor).unwrap())).collect();
        assert!(take(&ann).is_none());
        let of_operators: Vec<_> = (0..STREAMS - 2 * STREAMS_EACH).map(|_| take(&operators).unwrap()).collect();
        assert!(of_operators.len() > STREAMS_EACH && take(&operators).is_none());
        of_subjects.pop();
        assert!(take(&operators).is_some());
    }
}
