//! S2's REST API, of s2-lite; and the requests of `@livestore/sync-s2` to a server of its own (`/api/s2`), which is ours.

use std::fmt::Write;

use http_body_util::BodyExt;
use livestore_tests::peers::BASIN;

use super::http::Http;
use super::{batch, count, event};

/// The two APIs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Api {
    /// `POST /v1/streams/{name}/records`: a record an event, nothing is checked.
    Rest,
    /// `POST /api/s2`: a batch of events that has to go on from the head.
    LiveStore,
}

/// Of every request.
const HEADERS: &[(&str, &str)] = &[("s2-basin", BASIN), ("accept", "text/event-stream")];

/// A connection that is kept.
pub struct S2 {
    http: Http,
    api: Api,
    store: String,
    head: u64,
}

impl S2 {
    /// `head`: the head of the log, from which pushes go on.
    pub async fn open(api: Api, port: u16, store: &str, head: u64) -> Self {
        Self { http: Http::connect(port).await, api, store: store.into(), head }
    }

    /// Pushes the next events and waits for the acknowledgement.
    pub async fn push(&mut self, events: u64) {
        let mut body = String::with_capacity(320 * events as usize + 64);
        let path = match self.api {
            Api::LiveStore => {
                write!(body, r#"{{"storeId":"{}","batch":"#, self.store).expect("a String takes everything");
                batch(&mut body, self.head, events);
                body.push('}');
                "/api/s2".into()
            }
            Api::Rest => {
                body.push_str(r#"{"records":["#);
                for seq_num in self.head + 1..=self.head + events {
                    let mut record = String::with_capacity(256);
                    event(&mut record, seq_num);
                    let comma = if seq_num > self.head + 1 { "," } else { "" };
                    let record = serde_json::to_string(&record).expect("a text");
                    write!(body, r#"{comma}{{"body":{record}}}"#).expect("a String takes everything");
                }
                body.push_str("]}");
                format!("/v1/streams/{}/records", self.store)
            }
        };
        self.http.post(&path, &HEADERS[..1], body).await;
        self.head += events;
    }

    /// Reads the log from its beginning as an event stream, and returns the number of these events.
    pub async fn read(&mut self, events: u64) -> u64 {
        let path = match self.api {
            Api::LiveStore => {
                let store = &self.store;
                format!(
                    "/api/s2?args=%7B%22storeId%22%3A%22{store}%22%2C%22s2SeqNum%22%3A%22from-start%22%2C%22live%22%3Afalse%7D"
                )
            }
            Api::Rest => format!("/v1/streams/{}/records?seq_num=0&count={events}", self.store),
        };
        let mut body = self.http.get(&path, HEADERS).await.into_body();
        let mut seen = 0;
        // A needle may be cut in two by the end of a piece of the body: the end of one goes before the next.
        let needle = r#""body":"#;
        let mut rest: Vec<u8> = Vec::new();
        while seen < events {
            let Some(frame) = body.frame().await else { break };
            let Ok(data) = frame.expect("the stream goes on").into_data() else { continue };
            let kept = needle.len() - 1;
            rest.extend_from_slice(&data[..data.len().min(kept)]);
            seen += count(&rest, needle) + count(&data, needle);
            if data.len() > kept {
                rest.clear();
                rest.extend_from_slice(&data[data.len() - kept..]);
            }
            let surplus = rest.len().saturating_sub(kept);
            rest.drain(..surplus);
        }
        // The rest of the stream is not read, because the connection is not kept.
        seen
    }
}
