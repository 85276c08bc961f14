//! The part of S2's REST API that a log can honour, <https://s2.dev/docs/rest>: appending, reading, the tail, and the names of
//! streams. A record is an event of LiveStore as JSON text.

use std::fmt;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use serde::de::{Error as _, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::api::events;
use super::limits::Limits;
use super::records::{Tail, milliseconds, records_into, timestamp};
use super::stream::{Follow, Writer};
use crate::limits::memory::{Share, counted};
use crate::log::{
    Batch, Events, Malformed, OverLimit, Page, PullError, PushError, Reader, Receipt, StoreLog, StreamEnd, Unreadable,
};
use crate::protocols::{body, read_json};
use crate::shutdown::Ending;

/// The most that one answer without a stream has, <https://s2.dev/docs/limits>.
const MOST: Limits = Limits { records: Some(1000), bytes: Some(1 << 20), until: None };

/// The longest that an answer without a stream waits for records.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Records to append.
#[derive(Debug)]
pub struct Append {
    batch: Batch,
    match_seq_num: Option<i64>,
    has_fencing_token: bool,
}

impl Append {
    pub fn parse(body: &[u8]) -> Result<Self, Malformed> {
        #[derive(Deserialize)]
        struct Body {
            records: Records,
            match_seq_num: Option<i64>,
            fencing_token: Option<String>,
        }
        let Body { records: Records(events), match_seq_num, fencing_token } =
            read_json(body).map_err(|error| Malformed::because("malformed request", error))?;
        let batch = Batch::parse(&events)
            .map_err(|error| Malformed::because("a record is not an event of LiveStore", error))?;
        if batch.is_empty() {
            return Err(Malformed::new("there are no records"));
        }
        let has_fencing_token = fencing_token.is_some_and(|token| !token.is_empty());
        Ok(Self { batch, match_seq_num, has_fencing_token })
    }
}

/// The bodies of records as a JSON array of events. They are looked at one by one: a list of small records takes many times their bytes.
struct Records(String);

impl<'de> Deserialize<'de> for Records {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Record {
            body: Option<String>,
        }
        struct Bodies;
        impl<'de> Visitor<'de> for Bodies {
            type Value = Records;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of records")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut records: A) -> Result<Records, A::Error> {
                let mut events = String::from("[");
                for index in 0.. {
                    let Some(Record { body }) = records.next_element()? else { break };
                    let body = body.unwrap_or_default();
                    let values = serde_json::from_str::<Vec<IgnoredAny>>(&format!("[{body}]")).map_err(|error| {
                        A::Error::custom(format_args!("record {index} is not an event of LiveStore as JSON: {error}"))
                    })?;
                    if values.len() != 1 {
                        let text = format!("record {index} is not one event of LiveStore as JSON");
                        return Err(A::Error::custom(text));
                    }
                    events.extend([if index > 0 { "," } else { "" }, &*body]);
                }
                events.push(']');
                Ok(Records(events))
            }
        }
        deserializer.deserialize_seq(Bodies)
    }
}

/// Appends records; the answer comes after the commit.
pub async fn append(log: StoreLog, append: Append) -> Response {
    let Append { batch, match_seq_num, has_fencing_token } = append;
    debug!(store = ?log.id(), match_seq_num, "append");
    if has_fencing_token {
        return answer(StatusCode::PRECONDITION_FAILED, json!({"fencing_token_mismatch": ""}));
    }
    let (parent, last) = (batch.parent().unwrap_or(0), batch.last().unwrap_or(0));
    // The head that S2 would be asked to expect, and the one that the events say they follow.
    let is_expected = log.is_read_only() || match_seq_num.is_none_or(|expected| expected == parent);
    let pushed = if is_expected {
        log.push(batch, None, OverLimit::Refuse).await
    } else {
        match async { Ok::<_, PullError>(log.writer().await?.head().await?) }.await {
            Ok(head) => Err(PushError::ServerAhead { minimum_expected_num: head, provided_num: parent }),
            Err(error) => return refuse(&error),
        }
    };
    match pushed {
        Ok(pushed) => {
            let Receipt { appended_at, head, head_appended_at } = match log.receipt(&pushed, last).await {
                Ok(receipt) => receipt,
                Err(unreadable) => return refuse(&unreadable.into()),
            };
            let position = |seq_num: i64, at: Option<DateTime<Utc>>| {
                let timestamp = at.map_or(0, milliseconds);
                json!({"seq_num": seq_num, "timestamp": timestamp})
            };
            answer(
                StatusCode::OK,
                json!({
                    "start": position(parent, appended_at),
                    "end": position(last, appended_at),
                    "tail": position(head, head_appended_at),
                }),
            )
        }
        Err(PushError::ServerAhead { minimum_expected_num, .. }) => {
            answer(StatusCode::PRECONDITION_FAILED, json!({"seq_num_mismatch": minimum_expected_num}))
        }
        Err(error @ (PushError::Invalid(_) | PushError::BackendIdMismatch { .. })) => {
            failure(StatusCode::UNPROCESSABLE_ENTITY, "invalid", &error.to_string())
        }
        Err(error @ PushError::Rejected(_)) => failure(StatusCode::FORBIDDEN, "permission_denied", &error.to_string()),
        Err(error @ PushError::Throttled(_)) => {
            failure(StatusCode::TOO_MANY_REQUESTS, "rate_limited", &error.to_string())
        }
        Err(error @ PushError::Unavailable) => {
            failure(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &error.to_string())
        }
    }
}

/// The end of a stream.
pub async fn tail(log: StoreLog) -> Response {
    let tail = match async { Ok(log.reader().await?.end().await?) }.await {
        Ok(end) => tail_of(&end).json(),
        Err(error) => return refuse(&error),
    };
    json_answer(StatusCode::OK, format!(r#"{{"tail":{tail}}}"#))
}

fn tail_of(end: &Page) -> Tail {
    Tail { seq_num: end.head, timestamp: end.events.last().map_or(0, |event| timestamp(event)) }
}

/// The records to read, from the search params and headers of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    start: Start,
    limits: Limits,
    wait: Option<Duration>,
    /// Whether a start behind the tail is one at the tail.
    clamp: bool,
    is_stream: bool,
    /// The part of a stream that came before it broke off: the last record, how many there were, and their bytes.
    resumed: Option<(i64, u64, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    SeqNum(i64),
    Timestamp(i64),
    TailOffset(i64),
}

impl Read {
    /// `last_event_id` is of a stream only.
    pub fn parse(query: &str, is_stream: bool, last_event_id: Option<&str>) -> Result<Self, Malformed> {
        #[derive(Deserialize)]
        struct Params {
            seq_num: Option<u64>,
            timestamp: Option<u64>,
            tail_offset: Option<u64>,
            count: Option<u64>,
            bytes: Option<u64>,
            until: Option<u64>,
            wait: Option<u64>,
            clamp: Option<bool>,
        }
        let Params { seq_num, timestamp, tail_offset, count, bytes, until, wait, clamp } =
            serde_urlencoded::from_str(query).map_err(|error| Malformed::because("malformed search params", error))?;
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX).min(1 << 53);
        let start = match (seq_num, timestamp, tail_offset) {
            (Some(seq_num), None, None) => Start::SeqNum(number(seq_num)),
            (None, Some(timestamp), None) => Start::Timestamp(number(timestamp)),
            (None, None, offset) => Start::TailOffset(number(offset.unwrap_or(0))),
            _ => return Err(Malformed::new("only one of seq_num, timestamp and tail_offset says where to start")),
        };
        let resumed = last_event_id.filter(|_| is_stream).map(parse_id).transpose()?;
        let limits = Limits { records: count, bytes, until: until.map(number) };
        let wait = wait.map(Duration::from_secs);
        Ok(Self { start, limits, wait, clamp: clamp.unwrap_or(false), is_stream, resumed })
    }
}

/// The id of a batch, see [`Writer`].
fn parse_id(id: &str) -> Result<(i64, u64, u64), Malformed> {
    let parts: Vec<u64> = id.split(',').map_while(|part| part.parse().ok()).collect();
    match parts[..] {
        [seq_num, records, bytes] if id.matches(',').count() == 2 => {
            Ok((i64::try_from(seq_num).unwrap_or(i64::MAX - 1).min(1 << 53), records, bytes))
        }
        _ => Err(Malformed::new("Last-Event-ID is not <seq_num>,<count>,<bytes>")),
    }
}

/// Reads records: as a stream that a task on `tasks` writes, or at once. `exists`: whether the name of the stream is that of a
/// store already.
pub async fn read(
    log: StoreLog,
    read: Read,
    exists: bool,
    tasks: &TaskTracker,
    ending: &Ending,
) -> Result<Response, PullError> {
    debug!(store = ?log.id(), ?read, "read");
    let reader = log.reader().await?;
    let (start, limits, records, bytes) = match read.resumed {
        Some((seq_num, records, bytes)) => {
            (Start::SeqNum(seq_num + 1), read.limits.less(records, bytes), records, bytes)
        }
        None => (read.start, read.limits, 0, 0),
    };
    let mut end = reader.end().await?;
    let mut after = match start {
        Start::SeqNum(seq_num) => seq_num,
        Start::TailOffset(offset) => (end.head - offset).max(0),
        Start::Timestamp(timestamp) => match DateTime::from_timestamp_millis(timestamp) {
            Some(moment) => reader.last_before(moment).await?,
            None => end.head,
        },
    };
    if after > end.head && log.is_read_only() {
        // A standby may still follow: a client that begins earlier than it asked to gets events twice.
        match reader.catch_up(after).await {
            Ok(()) | Err(PullError::Rewound) => end = reader.end().await?,
            Err(error) => return Err(error),
        }
    }
    if after > end.head {
        if !read.clamp {
            return Ok(unwritten(&end));
        }
        after = end.head;
    }
    if !read.is_stream {
        return read_at_once(&reader, after, limits, read.wait, &end, &ending.begun).await;
    }
    let (pieces, body) = body::written();
    let writer = Writer::new(pieces, limits).resume(records, bytes);
    // A reader that sets limits does not wait for more records, unless it asks to (`wait`).
    let wait = read.wait.or((read.limits != Limits::NONE).then_some(Duration::ZERO));
    let shutdown = ending.begun.clone();
    match wait {
        Some(Duration::ZERO) => tasks.spawn(writer.history(ready(Ok(reader)), after, ending.clone())),
        Some(wait) => tasks.spawn(writer.live(ready(Ok(reader)), after, Follow::For(wait), shutdown)),
        None if !exists => tasks.spawn(writer.live(ready(Ok(reader)), after, Follow::Briefly, shutdown)),
        // As LiveStore's helpers ask for their client, which must not lose a stream that has brought something.
        None if read.clamp && read.resumed.is_none() => {
            tasks.spawn(writer.live(ready(Ok(reader)), after, Follow::WithPauses, shutdown))
        }
        None => tasks.spawn(writer.live(ready(Ok(reader)), after, Follow::Forever, shutdown)),
    };
    Ok(events(StatusCode::OK, body))
}

async fn read_at_once(
    reader: &Reader,
    after: i64,
    limits: Limits,
    wait: Option<Duration>,
    end: &Page,
    shutdown: &CancellationToken,
) -> Result<Response, PullError> {
    let found = if after < end.head {
        let page = reader.scan(after, None).next().await;
        page.map(|page| page.map(|page| (page.events, page.share)).unwrap_or_default())
    } else {
        let wait = wait.unwrap_or(Duration::ZERO).min(LONGEST_WAIT);
        tokio::select! {
            news = timeout(wait, news(reader, after)) => match news {
                Ok(news) => news,
                Err(_) => return Ok(unwritten(end)),
            },
            () = shutdown.cancelled() => return Ok(unwritten(end)),
        }
    };
    match found {
        Ok((events, share)) => {
            let mut wanted = limits;
            let wanted = wanted.take(&events);
            // At least one record is returned, even if it exceeds the limits of one answer.
            let mut most = MOST;
            let answered = most.take(&events.part(0..wanted)).max(1).min(wanted);
            let mut body = String::from(r#"{"records":["#);
            records_into(&mut body, events.part(0..answered));
            body.push_str("]}");
            Ok(json_answer(StatusCode::OK, counted(body, share)))
        }
        Err(error @ (PullError::Denied(_) | PullError::Unreadable(_))) => Err(error),
        Err(_) => Ok(unwritten(end)),
    }
}

async fn news(reader: &Reader, after: i64) -> Result<(Events, Option<Arc<Share>>), PullError> {
    let mut subscription = reader.subscribe(after, None).await?;
    loop {
        match subscription.next().await {
            Ok(delivery) if delivery.events.is_empty() => {}
            Ok(delivery) => return Ok((delivery.events, delivery.share)),
            // As if nothing came; the next request is refused.
            Err(StreamEnd::Expired) => return Ok((Events::default(), None)),
            Err(StreamEnd::Unreadable) => return Err(Unreadable.into()),
            Err(StreamEnd::Reset { .. } | StreamEnd::Rewound) => return Err(PullError::Rewound),
        }
    }
}

/// There is nothing to read from there on.
fn unwritten(end: &Page) -> Response {
    json_answer(StatusCode::RANGE_NOT_SATISFIABLE, format!(r#"{{"tail":{}}}"#, tail_of(end).json()))
}

fn refuse(error: &PullError) -> Response {
    let (status, code) = status(error);
    failure(status, code, &error.to_string())
}

/// S2's answer to a stream that cannot be read.
pub fn status(error: &PullError) -> (StatusCode, &'static str) {
    match error {
        PullError::Denied(denied) if denied.may_pass() => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        PullError::Denied(_) => (StatusCode::FORBIDDEN, "permission_denied"),
        PullError::Unreadable(_) | PullError::BackendIdMismatch { .. } | PullError::Rewound => {
            (StatusCode::INTERNAL_SERVER_ERROR, "internal")
        }
    }
}

/// An error as S2 writes it.
pub fn failure(status: StatusCode, code: &str, message: &str) -> Response {
    answer(status, json!({"code": code, "message": message}))
}

pub fn answer(status: StatusCode, body: Value) -> Response {
    json_answer(status, body.to_string())
}

fn json_answer(status: StatusCode, body: impl Into<Body>) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-store")];
    (status, headers, body.into()).into_response()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_makes_it_panic(query: String, id: String, body: Vec<u8>, record: String) {
            let _ = (Read::parse(&query, true, Some(&id)), Append::parse(&body));
            let _ = Append::parse(json!({"records": [{"body": record}]}).to_string().as_bytes());
        }
    }

    #[test]
    fn a_record_is_one_event_and_not_a_way_to_say_more() {
        let event = r#"{"name":"e","args":1,"seqNum":1,"parentSeqNum":0,"clientId":"c","sessionId":"s"}"#;
        for body in ["", "1", "[]", "1],[2", &format!("{event},{event}"), &format!("{event}] [")] {
            assert!(Append::parse(json!({"records": [{"body": body}]}).to_string().as_bytes()).is_err(), "{body}");
        }
        assert!(Append::parse(json!({"records": [{"body": event}]}).to_string().as_bytes()).is_ok());
    }

    #[test]
    fn fuzz_append() {
        fuzzing::target!("append", |body| {
            let Ok(Append { batch, .. }) = Append::parse(body) else { return };
            let events = batch.into_last_appended(usize::MAX, DateTime::UNIX_EPOCH).len();
            // It does not read everything, numbers of other fields for one.
            if let Ok(Value::Object(request)) = serde_json::from_slice(body) {
                assert_eq!(Some(events), request["records"].as_array().map(Vec::len));
            }
        });
    }

    #[test]
    fn fuzz_read() {
        fuzzing::text_target!("read", |text| {
            let (query, id) = text.split_once('\n').map_or((text, None), |(query, id)| (query, Some(id)));
            let Ok(read) = Read::parse(query, true, id) else { return };
            let (Start::SeqNum(start) | Start::Timestamp(start) | Start::TailOffset(start)) = read.start;
            assert!((0..=1 << 53).contains(&start));
            let Some((seq_num, records, bytes)) = read.resumed else { return };
            assert!((0..=1 << 53).contains(&seq_num));
            assert_eq!(parse_id(&format!("{seq_num},{records},{bytes}")).unwrap(), (seq_num, records, bytes));
            assert_eq!(Read::parse(query, false, id).unwrap().resumed, None);
        });
    }
}
