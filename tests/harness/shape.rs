//! The HTTP protocols of Electric by hand: LiveStore's endpoint and the shape API.

use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder, Url};
use serde_json::{Value, json};

use crate::PATIENCE;
use crate::sidecar::Sidecar;

/// The answer to a request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn to(request: RequestBuilder) -> Self {
        let response = tokio::time::timeout(PATIENCE, request.send()).await.expect("an answer").expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Self { status, headers, text: response.text().await.expect("a whole answer") }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{}: {error}: {}", self.status, self.text))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("ASCII"))
    }

    /// The sequence numbers of the rows.
    pub fn numbers(&self) -> Vec<i64> {
        let number = |message: &Value| Some(message["value"]["seqNum"].as_str()?.parse().expect("a number"));
        self.json().as_array().expect("messages").iter().filter_map(number).collect()
    }

    /// The values of the control messages.
    pub fn controls(&self) -> Vec<String> {
        let control = |message: &Value| message["headers"]["control"].as_str().map(Into::into);
        self.json().as_array().expect("messages").iter().filter_map(control).collect()
    }

    pub fn offset(&self) -> &str {
        self.header("electric-offset").expect("electric-offset")
    }

    pub fn handle(&self) -> &str {
        self.header("electric-handle").expect("electric-handle")
    }
}

fn url(sidecar: &Sidecar, path: &str, params: &[(&str, &str)]) -> Url {
    Url::parse_with_params(&format!("{}{path}", sidecar.http_url()), params).expect("a URL")
}

/// A GET of the shape API.
pub fn get(sidecar: &Sidecar, params: &[(&str, &str)]) -> RequestBuilder {
    Client::new().get(url(sidecar, "/v1/shape", params))
}

/// The answer to it, with the table of a store.
pub async fn shape(sidecar: &Sidecar, table: &str, params: &[(&str, &str)]) -> Answer {
    Answer::to(get(sidecar, &[&[("table", table)], params].concat())).await
}

/// A pull of LiveStore's endpoint; the position is an offset and a handle.
pub fn pull(sidecar: &Sidecar, store: &str, position: Option<(&str, &str)>, live: bool) -> RequestBuilder {
    let handle = match position {
        None => json!({"_tag": "None"}),
        Some((offset, handle)) => json!({"_tag": "Some", "value": {"offset": offset, "handle": handle}}),
    };
    let args = json!({"_tag": "@livestore/sync-electric.Pull", "storeId": store, "handle": handle, "live": live});
    pull_with(sidecar, &args.to_string())
}

pub fn pull_with(sidecar: &Sidecar, args: &str) -> RequestBuilder {
    Client::new().get(url(sidecar, "/api/electric", &[("args", args)])).timeout(Duration::from_secs(60))
}

/// A push to LiveStore's endpoint.
pub fn push(sidecar: &Sidecar, store: &str, batch: Value) -> RequestBuilder {
    post(sidecar, &json!({"_tag": "@livestore/sync-electric.Push", "storeId": store, "batch": batch}).to_string())
}

pub fn post(sidecar: &Sidecar, body: &str) -> RequestBuilder {
    request(sidecar, Method::POST).body(body.to_string())
}

pub fn request(sidecar: &Sidecar, method: Method) -> RequestBuilder {
    Client::new().request(method, url(sidecar, "/api/electric", &[]))
}
