//! sync-cf 0.4 over WebSocket: ours and Cloudflare's speak the same.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async_with_config, connect_async_with_config};

use super::{batch, count};

/// The buffer that a client reads into. tungstenite clears all of it for each read: with its default of 128 KiB, that was a quarter of what
/// the load generator took. One that reads a log gets long frames, and keeps the default.
const SMALL_BUFFER: usize = 4 << 10;

/// A connection to one store.
pub struct Rpc {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    store: String,
    head: u64,
    requests: u64,
    /// The request of the live pull.
    pull: u64,
}

impl Rpc {
    /// `url` as clients are given it. `head`: the head of the log, from which pushes go on.
    pub async fn open(url: &str, store: &str, head: u64) -> Self {
        Self::open_with(WebSocketConfig::default().read_buffer_size(SMALL_BUFFER), url, store, head).await
    }

    /// The same to read a whole log.
    pub async fn open_to_read(url: &str, store: &str) -> Self {
        Self::open_with(WebSocketConfig::default(), url, store, 0).await
    }

    async fn open_with(config: WebSocketConfig, url: &str, store: &str, head: u64) -> Self {
        let config = config.max_message_size(None).max_frame_size(None);
        let url = format!("{url}/?storeId={store}&transport=ws");
        let (socket, _) =
            connect_async_with_config(&url, Some(config), true).await.unwrap_or_else(|error| panic!("{url}: {error}"));
        Self { socket, store: store.into(), head, requests: 0, pull: 0 }
    }

    /// The same from another address of this machine, 127.0.0.`address`, as one of many connections that are mostly idle.
    pub async fn open_idle(url: &str, store: &str, address: u8) -> Self {
        // One address has 28,000 ports for connections.
        let config = WebSocketConfig::default().read_buffer_size(SMALL_BUFFER / 2);
        let server: SocketAddr = url.trim_start_matches("ws://").parse().expect("an address");
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((Ipv4Addr::new(127, 0, 0, address), 0).into()).expect("a free port");
        let stream = socket.connect(server).await.expect("a connection");
        stream.set_nodelay(true).expect("a connection");
        let url = format!("{url}/?storeId={store}&transport=ws");
        let (socket, _) = client_async_with_config(&url, MaybeTlsStream::Plain(stream), Some(config))
            .await
            .unwrap_or_else(|error| panic!("{url}: {error}"));
        Self { socket, store: store.into(), head: 0, requests: 0, pull: 0 }
    }

    /// Pushes the next events and waits for the acknowledgement.
    pub async fn push(&mut self, events: u64) {
        if let Err(frame) = self.try_push(events).await {
            panic!("{}", String::from_utf8_lossy(&frame));
        }
    }

    /// The same where the push may be refused.
    ///
    /// # Errors
    /// The answer, if the push failed.
    pub async fn try_push(&mut self, events: u64) -> Result<(), Bytes> {
        self.send_push(events).await;
        loop {
            let frame = self.receive().await;
            if count(&frame, r#""_tag":"Chunk""#) > 0 {
                self.take(&frame).await;
            } else if count(&frame, r#""_tag":"Exit""#) > 0 {
                if count(&frame, r#""_tag":"Success""#) > 0 {
                    return Ok(());
                }
                self.head -= events;
                return Err(frame);
            }
        }
    }

    /// Pushes the next events without waiting.
    pub async fn send_push(&mut self, events: u64) {
        let mut batch_of_events = String::with_capacity(256 * events as usize + 256);
        batch(&mut batch_of_events, self.head, events);
        let payload =
            format!(r#"{{"storeId":"{}","batch":{batch_of_events},"backendId":{{"_tag":"None"}}}}"#, self.store);
        self.request("Push", &payload).await;
        self.head += events;
    }

    /// Reads the log from its beginning until there are so many events, by a live pull, as clients do, and returns their number.
    pub async fn read(&mut self, events: u64) -> u64 {
        self.head = events;
        self.follow().await
    }

    /// Begins a live pull, waits until the events of the log are there, and returns their number.
    pub async fn follow(&mut self) -> u64 {
        let store = &self.store;
        let payload = format!(r#"{{"storeId":"{store}","live":true,"cursor":{{"_tag":"None"}}}}"#);
        self.request("Pull", &payload).await;
        self.pull = self.requests;
        // The first page, empty if the log is.
        let mut events = self.next_page().await;
        while events < self.head {
            events += self.next_page().await;
        }
        events
    }

    /// Waits for the next page of a live pull, and returns the number of its events.
    pub async fn next_page(&mut self) -> u64 {
        loop {
            let frame = self.receive().await;
            if count(&frame, r#""_tag":"Chunk""#) > 0 {
                return self.take(&frame).await;
            }
            assert!(count(&frame, r#""_tag":"Exit""#) == 0, "{}", String::from_utf8_lossy(&frame));
        }
    }

    /// Counts the events of a chunk, and asks for the next.
    async fn take(&mut self, frame: &[u8]) -> u64 {
        let id = self.pull;
        self.send(format!(r#"{{"_tag":"Ack","requestId":"{id}"}}"#)).await;
        count(frame, r#""parentSeqNum":"#)
    }

    async fn request(&mut self, tag: &str, payload: &str) {
        self.requests += 1;
        let id = self.requests;
        self.send(format!(
            r#"{{"_tag":"Request","id":"{id}","tag":"SyncWsRpc.{tag}","payload":{payload},"headers":[]}}"#
        ))
        .await;
    }

    async fn send(&mut self, text: String) {
        self.socket.send(Message::text(text)).await.expect("the connection holds");
    }

    async fn receive(&mut self) -> Bytes {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => return text.into(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                end => panic!("the connection ended: {end:?}"),
            }
        }
    }
}
