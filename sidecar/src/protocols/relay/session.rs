//! One WebSocket connection.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::ws::{Utf8Bytes, WebSocket};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::history::History;
use super::messages::{self, Envelope, Event, Object, PeerPull, PeerPullResponse, Pull, Push, Refusal, SERVER};
use crate::auth::Identity;
use crate::limits::memory::Account;
use crate::log::StoreLog;
use crate::protocols::brief;
use crate::protocols::websocket::close::{self, Close, SLOW};
use crate::protocols::websocket::meter::Meter;
use crate::protocols::websocket::{Incoming, Outgoing, Socket};
use crate::relay::{AskError, Device, Ended, Ending, Inbox, Relay, Unreachable, UserId};
use crate::time::passed;

/// The longest clientId, sessionId and requestId, in bytes.
const ID_BYTES: usize = 256;

/// Frames that wait behind the one that is being written: others wait in the inbox, which is bounded in bytes.
const OUTGOING_FRAMES: usize = 1;

/// The device that connects.
pub struct Guest {
    /// Kept while it is connected: it has a place among the connections of its subject.
    pub identity: Arc<Identity>,
    /// The store that keeps the events of the user, if there is one.
    pub history: Option<StoreLog>,
    /// The memory for the messages of other devices, until it has read them.
    pub account: Account,
}

/// Serves a connection until it ends.
pub async fn serve(relay: Relay, guest: Guest, socket: WebSocket, meter: Arc<Meter>, shutdown: CancellationToken) {
    let mut socket = Socket::with_queue(socket, meter, shutdown, OUTGOING_FRAMES);
    let outgoing = socket.outgoing().clone();
    let (sender, arrivals) = mpsc::channel(1);
    let Guest { identity, history, account } = guest;
    let history = history.map(History::new);
    let host = Host { relay, user: Arc::clone(&identity.subject), history, outgoing, account, arrivals: sender };
    let deliveries = JoinSet::new();
    let mut session = Session { host: Arc::new(host), device: None, ending: None, work: None, arrivals, deliveries };
    let close = session.run(&mut socket, identity.until).await;
    info!(code = close.code, reason = close.reason, "disconnected");
    drop(session);
    socket.end(close).await;
}

struct Session {
    host: Arc<Host>,
    /// Once it has said who it is.
    device: Option<Arc<Device>>,
    ending: Option<Ending>,
    /// The message that is being handled; nothing is read meanwhile.
    work: Option<BoxFuture<'static, Result<(), Close>>>,
    arrivals: mpsc::Receiver<Arrival>,
    deliveries: JoinSet<()>,
}

/// A device that has just said who it is.
type Arrival = (Arc<Device>, Inbox);

impl Session {
    async fn run(&mut self, socket: &mut Socket, until: Option<Instant>) -> Close {
        loop {
            let is_free = self.work.is_none();
            let incoming = tokio::select! {
                biased;
                () = passed(until) => return close::EXPIRED,
                ended = ending(self.ending.as_ref()) => return match ended {
                    Ended::Replaced => close::REPLACED,
                    Ended::Slow => SLOW,
                    Ended::Missed => close::MISSED,
                },
                Some(arrival) = self.arrivals.recv() => {
                    self.arrive(arrival);
                    continue;
                }
                result = working(&mut self.work) => {
                    self.work = None;
                    match result {
                        Ok(()) => continue,
                        Err(close) => return close,
                    }
                }
                incoming = socket.receive(is_free) => incoming,
            };
            match incoming {
                Ok(Incoming::Text(text)) => {
                    let (host, device) = (Arc::clone(&self.host), self.device.clone());
                    self.work = Some(Box::pin(async move { host.receive(device, text).await }));
                }
                Ok(Incoming::Binary) => {
                    let refusal = Refusal::Unreadable { reason: "messages are JSON in text frames".into() };
                    let host = Arc::clone(&self.host);
                    self.work = Some(Box::pin(async move { host.send(refusal.to_json()).await }));
                }
                Ok(Incoming::Tick) => {}
                Err(close) => return close,
            }
        }
    }

    fn arrive(&mut self, (device, mut inbox): Arrival) {
        self.ending = Some(inbox.ending());
        self.device = Some(device);
        let host = Arc::clone(&self.host);
        self.deliveries.spawn(async move {
            while let Some(text) = inbox.next().await {
                // It came out of a text frame, or out of Postgres.
                let Ok(text) = Utf8Bytes::try_from(text) else { return };
                if let Err(close) = host.outgoing.send_from(&host.account, text).await {
                    return host.outgoing.close(close);
                }
            }
        });
    }
}

async fn ending(device: Option<&Ending>) -> Ended {
    match device {
        Some(ending) => ending.ended().await,
        None => std::future::pending().await,
    }
}

async fn working<T>(work: &mut Option<BoxFuture<'static, T>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// Handles the messages of a connection, one after the other.
struct Host {
    relay: Relay,
    user: UserId,
    history: Option<History>,
    outgoing: Outgoing,
    account: Account,
    arrivals: mpsc::Sender<Arrival>,
}

/// Why a message is not answered as it should be.
pub enum Failure {
    Refused(Refusal),
    Closing(Close),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Unreachable> for Failure {
    fn from(unreachable: Unreachable) -> Self {
        Self::Refused(Refusal::Unavailable(unreachable.to_string()))
    }
}

impl From<Close> for Failure {
    fn from(close: Close) -> Self {
        Self::Closing(close)
    }
}

/// A message that is well-formed.
enum Message<'a> {
    Push(Vec<Object<Event<'a>>>),
    Pull { since: f64 },
    PeerPull(Cow<'a, str>),
    PeerPullResponse(Cow<'a, str>),
}

impl<'a> Message<'a> {
    fn read(envelope: &Envelope<'a>) -> Result<Self, Refusal> {
        Ok(match &*envelope.kind {
            "push" => Self::Push(envelope.payload::<Push<'a>>()?.events),
            "pull" => Self::Pull { since: envelope.payload::<Pull>()?.since_timestamp },
            "peer_pull" => Self::PeerPull(request_id(envelope.payload::<PeerPull<'a>>()?.request_id)?),
            "peer_pull_response" => {
                Self::PeerPullResponse(request_id(envelope.payload::<PeerPullResponse<'a>>()?.request_id)?)
            }
            unknown => return Err(Refusal::UnknownType(unknown.chars().take(ID_BYTES).collect())),
        })
    }
}

fn request_id(id: Cow<'_, str>) -> Result<Cow<'_, str>, Refusal> {
    match id.len() {
        1..=ID_BYTES => Ok(id),
        _ => Err(Refusal::Payload(format!("a requestId has 1 to {ID_BYTES} bytes"))),
    }
}

/// Whether the first message of a connection says who it is.
fn identify(envelope: &Envelope<'_>) -> Result<(), Refusal> {
    let is_id = |id: &str| (1..=ID_BYTES).contains(&id.len()) && !id.contains('\0');
    if !is_id(&envelope.client_id) || !is_id(&envelope.session_id) {
        return Err(Refusal::NotIdentified(
            "say who this is: clientId and sessionId have 1 to 256 bytes, none of them 0",
        ));
    }
    if envelope.client_id == SERVER {
        return Err(Refusal::NotIdentified("the clientId server is that of the server: choose another one"));
    }
    Ok(())
}

/// A message as other devices get it: as it came, but for the white space around it. It waits in their mailboxes, where a part of the
/// frame would keep all of it in memory, and what arrived with it.
fn for_others(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.trim().as_bytes())
}

impl Host {
    async fn send(&self, message: String) -> Result<(), Close> {
        self.outgoing.send(message).await
    }

    async fn receive(&self, device: Option<Arc<Device>>, text: Utf8Bytes) -> Result<(), Close> {
        self.relay.admit(&self.user, text.len()).await;
        match self.handle(device, &text).await {
            Ok(()) => Ok(()),
            Err(Failure::Refused(refusal)) => self.send(refusal.to_json()).await,
            Err(Failure::Closing(close)) => Err(close),
        }
    }

    async fn handle(&self, device: Option<Arc<Device>>, text: &str) -> Result<(), Failure> {
        let Object(envelope): Object<Envelope<'_>> = serde_json::from_str(text)
            .map_err(|error| Refusal::Unreadable { reason: brief(&error.to_string()).into() })?;
        let message = Message::read(&envelope)?;
        let device = match device {
            Some(device) if device.client_id() == envelope.client_id => device,
            Some(_) => return Err(Refusal::WrongDevice.into()),
            None => {
                identify(&envelope)?;
                let (device, inbox) = self.relay.join(self.user.clone(), (*envelope.client_id).into()).await;
                let device = Arc::new(device);
                // Before it is answered, which may take long: messages of others are waiting already.
                let _ = self.arrivals.send((Arc::clone(&device), inbox)).await;
                device
            }
        };
        match message {
            Message::Push(events) => {
                if let Some(history) = &self.history {
                    history.append(&events).await?;
                }
                device.push(for_others(text)).await?;
                self.send(messages::ack(&events)).await?;
            }
            Message::Pull { since } => match &self.history {
                Some(history) => history.answer(since, &device, &self.outgoing, &self.account).await?,
                None => self.send(messages::pull_response(&messages::no_events(), false, &device.peers())).await?,
            },
            Message::PeerPull(request_id) => {
                device.ask(&request_id, for_others(text)).await.map_err(|error| match error {
                    AskError::InUse => Failure::Refused(Refusal::InUse(error.to_string())),
                    AskError::Unreachable(unreachable) => unreachable.into(),
                })?
            }
            Message::PeerPullResponse(request_id) => device.answer(&request_id, for_others(text)).await?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn read(text: &str) -> Result<Message<'_>, Refusal> {
        let Object(envelope): Object<Envelope<'_>> = serde_json::from_str(text)
            .map_err(|error| Refusal::Unreadable { reason: brief(&error.to_string()).into() })?;
        identify(&envelope)?;
        Message::read(&envelope)
    }

    #[test]
    fn a_message_for_others_does_not_keep_its_frame() {
        for white_space in [0, 1 << 20] {
            let frame = Utf8Bytes::from(format!("{0}{{\"type\": \"push\"}}{0}", " ".repeat(white_space)));
            let message = for_others(&frame);
            assert_eq!(message, "{\"type\": \"push\"}");
            assert!(!frame.as_bytes().as_ptr_range().contains(&message.as_ptr()), "{white_space}");
        }
    }

    #[test]
    fn a_number_and_a_timestamp_have_a_greatest_length() {
        let push = |number: &str, timestamp: &str| {
            let event = format!(
                r#"{{"eventName":"e","eventNumber":{number},"clientId":"c","sessionId":"s","timestamp":{timestamp}}}"#
            );
            format!(r#"{{"type":"push","clientId":"c","sessionId":"s","payload":{{"events":[{event}]}}}}"#)
        };
        let (text, digits) = (|length: usize| format!("\"{}\"", "x".repeat(length - 2)), |length| "1".repeat(length));
        for (number, timestamp, is_valid) in [
            (text(256), digits(256), true),
            ("null".into(), "1.5".into(), true),
            (text(257), digits(1), false),
            (text(3), digits(257), false),
        ] {
            let text = push(&number, &timestamp);
            match read(&text) {
                Ok(Message::Push(events)) => assert!(is_valid && events.len() == 1, "{text}"),
                Err(refusal) => assert!(!is_valid && refusal.to_json().contains("at most 256 bytes"), "{text}"),
                Ok(_) => panic!("{text}"),
            }
        }
    }

    #[test]
    fn fuzz_message() {
        fuzzing::text_target!("message", |text| match read(text) {
            Err(refusal) => {
                let answer = refusal.to_json();
                let json: Value = serde_json::from_str(&answer).unwrap();
                assert!(json["type"] == "error" && answer.len() < 4096, "{answer}");
            }
            Ok(Message::Push(events)) => {
                let ack = messages::ack(&events);
                let json: Value = serde_json::from_str(&ack).unwrap();
                assert_eq!(json["payload"]["receivedCount"], events.len());
            }
            Ok(Message::Pull { since }) => assert!(since.is_finite()),
            Ok(Message::PeerPull(id) | Message::PeerPullResponse(id)) => assert!((1..=ID_BYTES).contains(&id.len())),
        });
    }
}
