//! One request in each dialect that has a log, by hand: for what they all have in common.

use std::time::Duration;

use reqwest::{Client, RequestBuilder, Url};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::PATIENCE;
use crate::http_rpc;
use crate::rpc::{Received, Rpc};
use crate::sidecar::Sidecar;

pub const DIALECTS: [&str; 7] = ["cf-ws", "cf-http", "cf-0.3", "electric", "electric-shape", "s2", "s2-rest"];

/// Those that can append.
pub const WRITERS: [&str; 6] = ["cf-ws", "cf-http", "cf-0.3", "electric", "s2", "s2-rest"];

/// A client of a store, and the headers and query that it sends with everything.
pub struct Caller<'a> {
    pub sidecar: &'a Sidecar,
    pub store: &'a str,
    pub headers: Vec<(&'static str, String)>,
    pub query: Vec<(&'static str, String)>,
}

/// An answer: its status, and all that it says.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub text: String,
}

impl<'a> Caller<'a> {
    pub fn new(sidecar: &'a Sidecar, store: &'a str) -> Self {
        Self { sidecar, store, headers: Vec::new(), query: Vec::new() }
    }

    /// One that sends this token in the header `authorization`.
    pub fn with_token(sidecar: &'a Sidecar, store: &'a str, token: &str) -> Self {
        let headers = vec![("authorization", format!("Bearer {token}"))];
        Self { headers, ..Self::new(sidecar, store) }
    }

    fn url(&self, scheme: &str, path: &str, params: &[(&str, &str)]) -> Url {
        let query = self.query.iter().map(|(name, value)| (*name, &**value));
        let params: Vec<_> = params.iter().copied().chain(query).collect();
        Url::parse_with_params(&format!("{scheme}://127.0.0.1:{}{path}", self.sidecar.port()), params).expect("a URL")
    }

    fn request(&self, body: Option<Value>, path: &str, params: &[(&str, &str)]) -> RequestBuilder {
        let url = self.url("http", path, params);
        let request = match body {
            Some(body) => Client::new().post(url).header("content-type", "application/json").body(body.to_string()),
            None => Client::new().get(url),
        };
        self.headers.iter().fold(request, |request, (name, value)| request.header(*name, value))
    }

    async fn connect(&self, path: &str, params: &[(&str, &str)]) -> Result<Rpc, Answer> {
        let headers: Vec<_> = self.headers.iter().map(|(name, value)| (*name, &**value)).collect();
        let connecting = Rpc::connect_with(self.url("ws", path, params).as_str(), &headers).await;
        connecting.map_err(|(status, text)| Answer { status, text })
    }

    async fn rpc(&self) -> Result<Rpc, Answer> {
        self.connect("/", &[("storeId", self.store), ("transport", "ws")]).await
    }

    async fn rpc_0_3(&self) -> Result<Rpc, Answer> {
        self.connect("/websocket", &[("storeId", self.store)]).await
    }

    /// A live pull: the events that are there, and the connection that brings more.
    pub async fn follow(&self, dialect: &str) -> Result<Rpc, Answer> {
        let mut rpc = match dialect {
            "cf-ws" => {
                let mut rpc = self.rpc().await?;
                rpc.pull(json!("0"), self.store, true).await;
                rpc
            }
            "cf-0.3" => {
                let mut rpc = self.rpc_0_3().await?;
                rpc.send(json!({"_tag": "WSMessage.PullReq", "requestId": "0"})).await;
                rpc
            }
            other => panic!("{other} does not speak WebSocket"),
        };
        let first = rpc.frame().await;
        assert!(first.to_string().contains("seqNum"), "{first}");
        Ok(rpc)
    }

    /// The answer to a long poll, or the whole of a stream.
    pub async fn wait(&self, dialect: &str, position: (&str, &str)) -> Answer {
        let (offset, handle) = position;
        let table = format!("eventlog_6_{}", self.store);
        let shape = [("table", &*table), ("offset", offset), ("handle", handle), ("live", "true")];
        match dialect {
            "electric" => {
                let position = json!({"_tag": "Some", "value": {"offset": offset, "handle": handle}});
                let tag = "@livestore/sync-electric.Pull";
                let args = json!({"_tag": tag, "storeId": self.store, "handle": position, "live": true}).to_string();
                answer(self.request(None, "/api/electric", &[("args", &args)])).await
            }
            "electric-shape" => answer(self.request(None, "/v1/shape", &shape)).await,
            "electric-shape (SSE)" => {
                answer(self.request(None, "/v1/shape", &[&shape[..], &[("live_sse", "true")]].concat())).await
            }
            "s2" => {
                let args = json!({"storeId": self.store, "s2SeqNum": 0, "live": true}).to_string();
                answer(self.request(None, "/api/s2", &[("args", &args)])).await
            }
            "s2-rest" => {
                let path = format!("/v1/streams/{}/records", self.store);
                let request = self.request(None, &path, &[("seq_num", "1")]).header("accept", "text/event-stream");
                answer(request).await
            }
            other => panic!("{other} does not wait"),
        }
    }

    /// Asks for all events.
    pub async fn read(&self, dialect: &str) -> Answer {
        let store = self.store;
        match dialect {
            "cf-ws" => match self.rpc().await {
                Ok(mut rpc) => {
                    rpc.pull(json!("0"), store, false).await;
                    until_end(rpc, "\"Exit\"").await
                }
                Err(refused) => refused,
            },
            "cf-0.3" => match self.rpc_0_3().await {
                Ok(mut rpc) => {
                    rpc.send(json!({"_tag": "WSMessage.PullReq", "requestId": "0"})).await;
                    until_end(rpc, "\"requestId\"").await
                }
                Err(refused) => refused,
            },
            "cf-http" => {
                let body = http_rpc::pull(store, None);
                answer(self.request(Some(body), "/", &[("storeId", store), ("transport", "http")])).await
            }
            "electric" => {
                let tag = "@livestore/sync-electric.Pull";
                let args =
                    json!({"_tag": tag, "storeId": store, "handle": {"_tag": "None"}, "live": false}).to_string();
                answer(self.request(None, "/api/electric", &[("args", &args)])).await
            }
            "electric-shape" => {
                let table = format!("eventlog_6_{store}");
                answer(self.request(None, "/v1/shape", &[("table", &table), ("offset", "-1")])).await
            }
            "s2" => {
                let args = json!({"storeId": store, "s2SeqNum": "from-start", "live": false}).to_string();
                answer(self.request(None, "/api/s2", &[("args", &args)])).await
            }
            "s2-rest" => answer(self.request(None, &format!("/v1/streams/{store}/records"), &[("seq_num", "0")])).await,
            other => panic!("no dialect {other}"),
        }
    }

    /// Asks to append a batch.
    pub async fn write(&self, dialect: &str, batch: Value) -> Answer {
        let store = self.store;
        match dialect {
            "cf-ws" => match self.rpc().await {
                Ok(mut rpc) => {
                    rpc.push(json!("0"), store, batch).await;
                    until_end(rpc, "\"Exit\"").await
                }
                Err(refused) => refused,
            },
            "cf-0.3" => match self.rpc_0_3().await {
                Ok(mut rpc) => {
                    let request = json!({"_tag": "WSMessage.PushReq", "requestId": "0", "batch": batch});
                    rpc.send(request).await;
                    until_end(rpc, "\"requestId\":\"0\"").await
                }
                Err(refused) => refused,
            },
            "cf-http" => {
                let body = http_rpc::push(store, batch);
                answer(self.request(Some(body), "/", &[("storeId", store), ("transport", "http")])).await
            }
            "electric" => {
                let body = json!({"_tag": "@livestore/sync-electric.Push", "storeId": store, "batch": batch});
                answer(self.request(Some(body), "/api/electric", &[])).await
            }
            "s2" => answer(self.request(Some(json!({"storeId": store, "batch": batch})), "/api/s2", &[])).await,
            "s2-rest" => {
                let records = batch.as_array().expect("a batch").iter().map(|event| json!({"body": event.to_string()}));
                let body = json!({"records": records.collect::<Value>()});
                answer(self.request(Some(body), &format!("/v1/streams/{store}/records"), &[])).await
            }
            other => panic!("{other} does not write"),
        }
    }
}

async fn answer(request: RequestBuilder) -> Answer {
    let answered = timeout(PATIENCE, async {
        let response = request.timeout(Duration::from_secs(60)).send().await.expect("an answer");
        Answer { status: response.status().as_u16(), text: response.text().await.expect("a whole answer") }
    });
    answered.await.expect("an answer")
}

/// Frames up to one that holds this text, or up to the end of the connection.
async fn until_end(mut rpc: Rpc, last: &str) -> Answer {
    let mut text = String::new();
    loop {
        match rpc.receive().await {
            Received::Frame(frame) => {
                let frame = frame.to_string();
                text.push_str(&frame);
                if frame.contains(last) {
                    return Answer { status: 101, text };
                }
            }
            Received::Close(code) => return Answer { status: code, text },
            Received::Broken => return Answer { status: 0, text },
        }
    }
}
