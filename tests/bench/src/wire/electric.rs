//! The requests of `@livestore/sync-electric` to its server (`/api/electric`).

use std::fmt::Write;

use http_body_util::BodyExt;
use serde_json::json;

use super::http::Http;
use super::{batch, count};

/// A connection that is kept.
pub struct Electric {
    http: Http,
    store: String,
    head: u64,
}

impl Electric {
    /// `head`: the head of the log, from which pushes go on.
    pub async fn open(port: u16, store: &str, head: u64) -> Self {
        Self { http: Http::connect(port).await, store: store.into(), head }
    }

    /// Pushes the next events and waits for the acknowledgement.
    pub async fn push(&mut self, events: u64) {
        let mut body = String::with_capacity(320 * events as usize + 96);
        write!(body, r#"{{"_tag":"@livestore/sync-electric.Push","storeId":"{}","batch":"#, self.store)
            .expect("a String takes everything");
        batch(&mut body, self.head, events);
        body.push('}');
        self.http.post("/api/electric", &[], body).await;
        self.head += events;
    }

    /// Reads the log from its beginning, page after page, and returns the number of these events.
    pub async fn read(&mut self, events: u64) -> u64 {
        let mut handle = json!({"_tag": "None"});
        let mut seen = 0;
        loop {
            let args = json!({
                "_tag": "@livestore/sync-electric.Pull", "storeId": self.store, "payload": null, "handle": handle, "live": false,
            });
            let query = serde_urlencoded::to_string([("args", args.to_string())]).expect("a query");
            let answer = self.http.get(&format!("/api/electric?{query}"), &[]).await;
            let header = |name: &str| answer.headers()[name].to_str().expect("ASCII").to_string();
            let value = json!({"offset": header("electric-offset"), "handle": header("electric-handle")});
            handle = json!({"_tag": "Some", "value": value});
            let page = answer.into_body().collect().await.expect("a page").to_bytes();
            seen += count(&page, r#""operation":"insert""#);
            if seen >= events || count(&page, "up-to-date") > 0 {
                return seen;
            }
        }
    }
}
