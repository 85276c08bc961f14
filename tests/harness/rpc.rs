//! The WebSocket protocol by hand, for what a real client never sends and for recordings of one.

use std::time::Duration;

use crate::PATIENCE;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

/// A connection.
pub struct Rpc {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// One thing that arrives on a connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    Frame(Value),
    Close(u16),
    /// The connection broke without a close.
    Broken,
}

impl Rpc {
    /// `url` with the path and the search params.
    pub async fn connect(url: &str) -> Self {
        Self::try_connect(url).await.expect("a connection")
    }

    /// `None` if nobody answers, or not as a WebSocket server.
    pub async fn try_connect(url: &str) -> Option<Self> {
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let (socket, _) = connect_async_with_config(url, Some(config), true).await.ok()?;
        Some(Self { socket })
    }

    /// With request headers, as a browser sends cookies.
    ///
    /// # Errors
    /// The status and the body of a server that does not accept the connection.
    pub async fn connect_with(url: &str, headers: &[(&'static str, &str)]) -> Result<Self, (u16, String)> {
        let mut request = url.into_client_request().expect("a URL");
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().expect("a header"));
        }
        match connect_async_with_config(request, None, true).await {
            Ok((socket, _)) => Ok(Self { socket }),
            Err(Error::Http(response)) => {
                let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
                Err((response.status().as_u16(), body.into()))
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// To a store; `url` as clients are given it.
    pub async fn open(url: &str, store: &str) -> Self {
        Self::connect(&format!("{url}/?storeId={store}&transport=ws")).await
    }

    pub async fn send(&mut self, frame: Value) {
        self.send_text(frame.to_string()).await;
    }

    pub async fn send_text(&mut self, text: String) {
        self.send_message(Message::text(text)).await;
    }

    pub async fn send_message(&mut self, message: Message) {
        // A server that closes in the middle of it is not this function's business.
        let _ = self.socket.send(message).await;
    }

    /// Sends a Request. `id` is a string for the Effect 3 form, a number for Effect 4.
    pub async fn request(&mut self, id: Value, tag: &str, payload: Value) {
        self.send(json!({"_tag": "Request", "id": id, "tag": tag, "payload": payload, "headers": []})).await;
    }

    pub async fn push(&mut self, id: Value, store: &str, batch: Value) {
        let payload = json!({"storeId": store, "batch": batch, "backendId": {"_tag": "None"}});
        self.request(id, "SyncWsRpc.Push", payload).await;
    }

    pub async fn pull(&mut self, id: Value, store: &str, live: bool) {
        let payload = json!({"storeId": store, "live": live, "cursor": {"_tag": "None"}});
        self.request(id, "SyncWsRpc.Pull", payload).await;
    }

    /// The next frame or the end; fails if nothing arrives in time.
    pub async fn receive(&mut self) -> Received {
        tokio::time::timeout(PATIENCE, self.receive_patiently()).await.expect("nothing arrives")
    }

    /// The next frame or the end, however long it takes. Cancel safe.
    pub async fn receive_patiently(&mut self) -> Received {
        match self.text_patiently().await {
            Ok(text) => Received::Frame(serde_json::from_str(&text).expect("a JSON frame")),
            Err(end) => end,
        }
    }

    /// The next frame as it came; fails if nothing arrives in time.
    ///
    /// # Errors
    /// The end of the connection.
    pub async fn text(&mut self) -> Result<String, Received> {
        tokio::time::timeout(PATIENCE, self.text_patiently()).await.expect("nothing arrives")
    }

    async fn text_patiently(&mut self) -> Result<String, Received> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text.as_str().into()),
                Some(Ok(Message::Close(frame))) => {
                    return Err(Received::Close(frame.map_or(1005, |frame| frame.code.into())));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(Received::Broken),
            }
        }
    }

    /// The next frame.
    pub async fn frame(&mut self) -> Value {
        match self.receive().await {
            Received::Frame(frame) => frame,
            end => panic!("the connection ended: {end:?}"),
        }
    }

    /// Frames until the Exit of a request, that one included.
    pub async fn until_exit(&mut self, id: &Value) -> Vec<Value> {
        let mut frames = Vec::new();
        loop {
            let frame = self.frame().await;
            let is_exit = frame["_tag"] == "Exit" && frame["requestId"] == *id;
            frames.push(frame);
            if is_exit {
                return frames;
            }
        }
    }

    /// The `exit` of a request; frames before it are dropped.
    pub async fn exit(&mut self, id: &Value) -> Value {
        self.until_exit(id).await.pop().expect("an Exit")["exit"].clone()
    }

    /// Whether nothing arrives for this long.
    pub async fn is_quiet_for(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.receive_patiently()).await.is_err()
    }

    /// The code with which the server closes; frames before it are dropped.
    pub async fn closed(&mut self) -> Received {
        loop {
            match self.receive().await {
                Received::Frame(_) => {}
                end => return end,
            }
        }
    }
}
