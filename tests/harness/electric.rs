//! A stand-in for an Electric server, since none runs where the tests do. It reads the same Postgres, answers in the form of
//! Electric's documentation and of the recordings in `@livestore/sync-electric`, insists on being asked as Electric does,
//! and can be told to fail in the ways in which Electric does.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_postgres::Client;

use crate::cluster::Database;

/// The search params of a request.
pub type Params = BTreeMap<String, String>;

pub struct Electric {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    postgres: Client,
    state: Mutex<Behaviour>,
    requests: Mutex<Vec<(Params, u16)>>,
}

#[derive(Debug, Clone)]
struct Behaviour {
    /// Changes when shapes are rotated.
    generation: u64,
    failure: Option<Failure>,
    /// It has not got further in replication than this.
    replicated: i64,
    long_poll: Duration,
}

/// The ways in which it can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    Status(u16),
    /// It accepts requests and does not answer.
    Silent,
    /// It answers something else.
    Nonsense,
    /// It leaves out the first row of each page.
    Gaps,
    /// It has lost the shape, but only for requests that wait for new events.
    NotLive,
}

/// The sequence number 7 is the offset `1007_0`.
const FIRST_LSN: i64 = 1000;

/// Rows of a chunk.
const CHUNK: i64 = 100;

pub const SECRET: &str = "elec&tric";

impl Electric {
    pub async fn on(database: &Database) -> Self {
        let behaviour =
            Behaviour { generation: 1, failure: None, replicated: i64::MAX, long_poll: Duration::from_secs(20) };
        let shared = Arc::new(Shared {
            postgres: database.admin().await,
            state: Mutex::new(behaviour),
            requests: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let router = Router::new().route("/some/where/v1/shape", get(shape)).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { port, shared }
    }

    /// For `--electric-url`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/some/where/?source_id=src", self.port)
    }

    /// The requests so far, with the status of the answer.
    pub fn requests(&self) -> Vec<(Params, u16)> {
        self.shared.requests.lock().unwrap().clone()
    }

    pub fn fail(&self, failure: Option<Failure>) {
        self.shared.state.lock().unwrap().failure = failure;
    }

    /// Shapes get new handles, as after a restart.
    pub fn rotate(&self) {
        self.shared.state.lock().unwrap().generation += 1;
    }

    /// Lags behind from here on.
    pub fn replicate_to(&self, seq_num: i64) {
        self.shared.state.lock().unwrap().replicated = seq_num;
    }
}

async fn shape(State(shared): State<Arc<Shared>>, Query(params): Query<Params>) -> Response {
    if params.get("live_sse").is_some_and(|sse| sse == "true") {
        shared.requests.lock().unwrap().push((params, 200));
        return ([("content-type", "text/event-stream")], Body::from_stream(names(shared))).into_response();
    }
    let answer = answer(&shared, &params).await;
    shared.requests.lock().unwrap().push((params, answer.status().as_u16()));
    answer
}

async fn answer(shared: &Shared, params: &Params) -> Response {
    let behaviour = shared.state.lock().unwrap().clone();
    match behaviour.failure {
        Some(Failure::Status(status)) => return StatusCode::from_u16(status).expect("a status").into_response(),
        Some(Failure::Silent) => std::future::pending().await,
        Some(Failure::Nonsense) => {
            return ([("electric-offset", "0_0"), ("electric-handle", "1-1")], "<html>").into_response();
        }
        Some(Failure::Gaps | Failure::NotLive) | None => {}
    }
    let param = |name: &str| params.get(name).map(String::as_str);
    if (param("secret"), param("source_id")) != (Some(SECRET), Some("src")) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let table = param("table").unwrap_or_default();
    let columns: Vec<_> = param("columns").unwrap_or_default().split(',').collect();
    let condition = param("where").unwrap_or("true");
    let is_known = condition.starts_with("store = ");
    if !table.starts_with("livestore.\"eventlog_1")
        || !is_known
        || !["store", "\"seqNum\""].iter().all(|key| columns.contains(key))
    {
        return (StatusCode::BAD_REQUEST, "Electric knows no such shape").into_response();
    }

    let mut number = 17u64;
    for byte in table.bytes().chain(condition.bytes()) {
        number = number.wrapping_mul(31) + u64::from(byte);
    }
    let handle = format!("{}-{}", number % 1_000_000, behaviour.generation);
    let select = format!(
        "select {} from only {table} t where {condition} and \"seqNum\" > $1 and \"seqNum\" <= $2 order by t.\"seqNum\" limit $3",
        columns.iter().map(|column| format!("{column}::text")).collect::<Vec<_>>().join(", ")
    );
    let end = format!("select coalesce(max(\"seqNum\"), 0) from only {table} where {condition} and \"seqNum\" <= $1");
    let Ok(row) = shared.postgres.query_one(&end, &[&behaviour.replicated]).await else {
        return (StatusCode::BAD_REQUEST, "no such table").into_response();
    };
    let head: i64 = row.get(0);
    let (mut after, is_first) = match param("offset") {
        Some("-1") => (0, true),
        Some("now") => (head, false),
        Some(offset) if param("handle") == Some(&*handle) => {
            let lsn = offset.split_once('_').and_then(|(lsn, _)| lsn.parse::<i64>().ok());
            (lsn.map_or(0, |lsn| (lsn - FIRST_LSN).max(0)), false)
        }
        Some(_) => {
            let headers =
                [("electric-handle", handle), ("cache-control", "public, max-age=60, must-revalidate".into())];
            return (StatusCode::CONFLICT, headers, r#"[{"headers":{"control":"must-refetch"}}]"#).into_response();
        }
        None => return (StatusCode::BAD_REQUEST, "offset is missing").into_response(),
    };
    if after > head && behaviour.replicated == i64::MAX {
        // Rows that the client has were deleted.
        let deletion =
            json!([{"key": "k", "value": {}, "headers": {"operation": "delete", "relation": ["livestore", table]}}]);
        return (
            [("electric-handle", handle), ("electric-offset", format!("{}_0", FIRST_LSN + after))],
            deletion.to_string(),
        )
            .into_response();
    }

    let is_live = param("live") == Some("true");
    if is_live && behaviour.failure == Some(Failure::NotLive) {
        return (StatusCode::CONFLICT, [("electric-handle", handle)], "[]").into_response();
    }
    let until = Instant::now() + behaviour.long_poll;
    let rows = loop {
        let replicated = shared.state.lock().unwrap().replicated;
        let rows = shared.postgres.query(&select, &[&after, &replicated, &CHUNK]).await.expect("rows");
        let has_rotated = shared.state.lock().unwrap().generation != behaviour.generation;
        if !is_live || !rows.is_empty() || Instant::now() > until || has_rotated {
            break rows;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let mut messages = Vec::new();
    let left_out = usize::from(behaviour.failure == Some(Failure::Gaps));
    for row in rows.iter().skip(left_out) {
        let mut value = serde_json::Map::new();
        for (index, column) in columns.iter().enumerate() {
            value.insert(column.trim_matches('"').to_string(), json!(row.get::<_, Option<String>>(index)));
        }
        after = value["seqNum"].as_str().expect("a number").parse().expect("a number");
        let key = format!("\"livestore\".\"eventlog_1\"/{}/{after}", value["store"]);
        let headers = json!({
            "operation": "insert", "relation": ["livestore", "eventlog_1"], "lsn": (FIRST_LSN + after).to_string(),
            "op_position": 0, "txids": [753], "last": true,
        });
        messages.push(json!({"value": value, "key": key, "headers": headers}));
    }
    let is_up_to_date = rows.len() < CHUNK as usize && !is_first;
    if is_up_to_date {
        messages.push(
            json!({"headers": {"control": "up-to-date", "global_last_seen_lsn": (FIRST_LSN + after).to_string()}}),
        );
    }
    let offset = if after == 0 { "0_0".to_string() } else { format!("{}_0", FIRST_LSN + after) };
    let mut response = Response::builder()
        .header("content-type", "application/json")
        .header("electric-handle", handle)
        .header("electric-offset", &offset)
        .header("electric-schema", r#"{"seqNum":{"type":"int8"},"args":{"type":"json"}}"#)
        .header("access-control-allow-origin", "*")
        .header("set-cookie", "auth_token=of-somebody-else; Path=/")
        .header("x-internal", "10.0.0.1")
        .header("cache-control", "public, max-age=60, stale-while-revalidate=300")
        .header("etag", format!("\"of-electric:{offset}\""));
    if is_up_to_date {
        response = response.header("electric-up-to-date", "");
    }
    if is_live {
        response = response.header("electric-cursor", "12345");
    }
    response.body(in_two_pieces(&Value::from(messages))).expect("a response")
}

/// A stream of events, for as long as it is read: every so often the names of all events that there are.
fn names(shared: Arc<Shared>) -> impl Stream<Item = std::io::Result<String>> {
    stream::repeat(shared).then(|shared| async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let names = "select coalesce(string_agg(name, ' '), '') from livestore.events";
        let names: String = shared.postgres.query_one(names, &[]).await.expect("names").get(0);
        Ok(format!("data: {names}\n\n"))
    })
}

/// The body in two pieces with a pause in between: a proxy must not wait for the whole before it forwards the first.
fn in_two_pieces(messages: &Value) -> Body {
    let text = messages.to_string();
    let (first, second) = text.split_at(text.len() / 2);
    let pieces = stream::iter([first.to_string(), second.to_string()]).enumerate().then(|(index, piece)| async move {
        tokio::time::sleep(Duration::from_millis(300 * index as u64)).await;
        Ok::<_, std::io::Error>(piece)
    });
    Body::from_stream(pieces)
}
