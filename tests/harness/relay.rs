//! The peer relay by hand: devices of users.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_tungstenite::tungstenite::Message;

use crate::eventually;
use crate::rpc::{Received, Rpc};
use crate::sidecar::Sidecar;
use crate::tokens;

/// The time of an event is this plus its number.
pub const EPOCH: i64 = 1_750_000_000_000;

/// The latest time that JavaScript knows.
const END_OF_TIME: i64 = 8_640_000_000_000_000;

/// The URL that devices connect to.
pub fn url(sidecar: &Sidecar) -> String {
    format!("{}/api/v1/livestore/sync", sidecar.url())
}

/// The URL for the devices of a user, if the sidecar was started with [`tokens::WITH_SECRET`].
pub fn url_of(sidecar: &Sidecar, user: &str) -> String {
    format!("{}?token={}", url(sidecar), tokens::token(user))
}

/// An event of a device.
pub fn event(client_id: &str, number: i64, data: Value) -> Value {
    json!({
        "eventName": "todoCreated", "eventNumber": number, "clientId": client_id, "sessionId": "session",
        "data": data, "timestamp": EPOCH + number,
    })
}

/// Events with these numbers.
pub fn events(client_id: &str, numbers: impl IntoIterator<Item = i64>) -> Value {
    numbers.into_iter().map(|number| event(client_id, number, json!({"id": number}))).collect()
}

/// The answer that a sender gets.
pub fn ack(received: usize, last_timestamp: i64) -> Value {
    let payload = json!({"receivedCount": received, "lastTimestamp": last_timestamp});
    json!({"type": "ack", "clientId": "server", "sessionId": "", "timestamp": 0, "payload": payload})
}

/// A connection of a device.
pub struct Peer {
    connection: Rpc,
    client_id: String,
    session_id: String,
}

impl Peer {
    /// A connection that has not said yet which device it is.
    pub async fn connect(url: &str, client_id: &str) -> Self {
        Self::connect_with(url, &[], client_id).await.expect("a connection")
    }

    /// The same with request headers.
    ///
    /// # Errors
    /// The status and the body of a server that does not accept the connection.
    pub async fn connect_with(
        url: &str,
        headers: &[(&'static str, &str)],
        client_id: &str,
    ) -> Result<Self, (u16, String)> {
        let connection = Rpc::connect_with(url, headers).await?;
        Ok(Self { connection, client_id: client_id.into(), session_id: format!("session of {client_id}") })
    }

    /// A device that is online: its first message was answered.
    pub async fn join(url: &str, client_id: &str) -> Self {
        let mut peer = Self::connect(url, client_id).await;
        peer.online().await;
        peer
    }

    /// Several, one after the other.
    pub async fn join_all<const N: usize>(url: &str, client_ids: [&str; N]) -> [Self; N] {
        let mut peers = Vec::new();
        for client_id in client_ids {
            peers.push(Self::join(url, client_id).await);
        }
        peers.try_into().ok().expect("as many")
    }

    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// A message of this device.
    pub fn message(&self, kind: &str, payload: Value) -> Value {
        json!({
            "type": kind, "clientId": self.client_id, "sessionId": self.session_id, "timestamp": EPOCH, "payload": payload,
        })
    }

    /// Sends a message, and returns it as it was sent.
    pub async fn send(&mut self, kind: &str, payload: Value) -> String {
        let text = self.message(kind, payload).to_string();
        self.send_text(&text).await;
        text
    }

    pub async fn send_text(&mut self, text: &str) {
        self.connection.send_text(text.into()).await;
    }

    pub async fn send_binary(&mut self, bytes: &[u8]) {
        self.connection.send_message(Message::binary(bytes.to_vec())).await;
    }

    pub async fn push(&mut self, events: Value) -> String {
        self.send("push", json!({"events": events})).await
    }

    pub async fn pull(&mut self, since: i64) {
        self.send("pull", json!({"sinceTimestamp": since})).await;
    }

    /// `peer_pull`.
    pub async fn ask(&mut self, request_id: &str) -> String {
        self.send("peer_pull", json!({"requestId": request_id, "sinceTimestamp": 0, "retentionDays": 30})).await
    }

    /// `peer_pull_response`.
    pub async fn respond(&mut self, request_id: &str, events: Value, has_more: bool) -> String {
        let payload = json!({"requestId": request_id, "events": events, "hasMore": has_more});
        self.send("peer_pull_response", payload).await
    }

    /// The next message, as it came.
    pub async fn next_text(&mut self) -> String {
        match self.connection.text().await {
            Ok(text) => text,
            Err(end) => panic!("the connection of {} ended: {end:?}", self.client_id),
        }
    }

    /// The next message.
    pub async fn next(&mut self) -> Value {
        serde_json::from_str(&self.next_text().await).expect("JSON")
    }

    /// The next message, of this type.
    pub async fn next_of(&mut self, kind: &str) -> Value {
        let message = self.next().await;
        assert_eq!(message["type"], kind, "{} was sent {message}", self.client_id);
        message
    }

    /// The code of the next message, an error.
    pub async fn error(&mut self) -> String {
        self.next_of("error").await["code"].as_str().expect("a code").into()
    }

    /// The other devices that are online, by a pull. Its answer is what comes next: nothing else was on its way.
    pub async fn online(&mut self) -> Vec<String> {
        self.pull(END_OF_TIME).await;
        let response = self.next_of("pull_response").await;
        serde_json::from_value(response["onlinePeers"].clone()).expect("names")
    }

    /// Waits until exactly these other devices are online.
    pub async fn sees(&mut self, client_ids: &[&str]) {
        let what = format!("{} sees {client_ids:?}", self.client_id);
        let this = Mutex::new(self);
        eventually(&what, || async { this.lock().await.online().await == client_ids }).await;
    }

    /// Pushes, and waits until this sender has its ack and these devices have the push.
    pub async fn push_to(&mut self, others: &mut [&mut Self], events: Value) {
        let sent = self.push(events.clone()).await;
        let events = events.as_array().expect("events");
        let last = events.last().map_or(0, |event| event["timestamp"].as_i64().expect("a time"));
        assert_eq!(self.next().await, ack(events.len(), last));
        for other in others {
            assert!(other.next_text().await == sent, "{} got something else than it was sent", other.client_id);
        }
    }

    /// Pushes as a device does in a failover: again when the server refuses it for now, and over a new connection when it closes this one.
    pub async fn push_until_acknowledged(&mut self, url: &str, events: Value) {
        loop {
            self.push(events.clone()).await;
            match self.connection.text().await {
                Ok(answer) => {
                    let answer: Value = serde_json::from_str(&answer).expect("JSON");
                    if answer["type"] == "ack" {
                        return;
                    }
                    assert_eq!(answer["type"], "error", "{answer}");
                }
                Err(_) => *self = Self::join(url, &self.client_id.clone()).await,
            }
        }
    }

    /// The end of the connection by the server; messages before it are dropped.
    pub async fn closed(&mut self) -> Received {
        loop {
            if let Err(end) = self.connection.text().await {
                return end;
            }
        }
    }

    /// Whether nothing arrives for this long.
    pub async fn is_quiet_for(&mut self, time: Duration) -> bool {
        self.connection.is_quiet_for(time).await
    }
}
