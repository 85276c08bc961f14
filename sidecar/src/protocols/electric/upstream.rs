//! A real Electric server behind this one (`--electric-url`): what clients read comes from it, what they push goes to Postgres.
//!
//! Its shapes come and go: a client of LiveStore that is told so is lost. But the log is here as well, so that whatever
//! Electric cannot answer is read from Postgres, and the client joins the shape again where it is then.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::{HeaderValue, header};
use chrono::DateTime;
use futures_util::StreamExt;
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::{info, warn};

use super::api::{Answer, RawPosition, pull_ourselves};
use super::messages::quote;
use super::offset::{Offset, Position};
use super::read::{Follow, LONG_POLL, Page, Patience, ReadError, read};
use crate::log::{Event, EventFields, Location, StoreLog};
use crate::protocols::brief;

/// How much longer than itself Electric is waited for; and then Postgres.
pub const GRACE: Duration = Duration::from_secs(5);

/// How long Electric may take for what it need not wait for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The largest page that is read: Electric's chunks have 10 MB, and a row more.
const PAGE_BYTES: usize = 32 << 20;

/// The columns of a row: those of an event and the other half of the primary key, without which Electric has no shape.
const COLUMNS: &str = r#"store,"seqNum","parentSeqNum",name,args,"clientId","sessionId""#;

/// Where Electric is.
pub struct Upstream {
    client: Client,
    url: Url,
    secret: Option<String>,
    is_failing: AtomicBool,
}

/// Why Electric has no page.
enum Failure {
    /// It does not know the shape, or no longer.
    Unknown,
    /// Events were changed or deleted.
    Mutated,
    /// It may know later.
    Unavailable,
}

impl Upstream {
    /// `url` is that of the server, without `/v1/shape`; what is behind its `?` is asked of it each time.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(url: &str, secret: Option<String>) -> Result<Self, String> {
        let mut url: Url = url.parse().map_err(|error| format!("{error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("it must begin with http:// or https://".into());
        }
        url.path_segments_mut().map_err(|()| "it has no host")?.pop_if_empty().extend(["v1", "shape"]);
        let client = Client::builder().connect_timeout(CONNECT_TIMEOUT).build();
        let client = client.map_err(|error| format!("{error}"))?;
        Ok(Self { client, url, secret, is_failing: AtomicBool::new(false) })
    }

    /// The URL of the shape of a store, with these search params beside those that say what shape it is.
    fn shape<'a>(&self, location: &Location, params: impl IntoIterator<Item = (&'a str, &'a str)>) -> Url {
        let mut url = self.url.clone();
        let table = format!("livestore.{}", quote(&location.table));
        url.query_pairs_mut().append_pair("table", &table).extend_pairs(params);
        if let Some(store) = location.store {
            url.query_pairs_mut().append_pair("where", &format!("store = {store}"));
        }
        if let Some(secret) = &self.secret {
            url.query_pairs_mut().append_pair("secret", secret);
        }
        url
    }

    async fn get(&self, url: Url, timeout: Duration) -> Result<Response, Failure> {
        let response = self.client.get(url).timeout(timeout).send().await;
        // Without the URL, which has the secret in it.
        response.map_err(|error| self.unavailable(&error.without_url().to_string()))
    }

    /// For a client of the shape API, whose search params go on to Electric: its answer as it is, body and all, or `None` if
    /// it has none for now.
    pub async fn forward(
        &self,
        location: &Location,
        params: &[(&str, &str)],
        if_none_match: Option<&HeaderValue>,
    ) -> Option<axum::response::Response> {
        let has_columns = params.iter().any(|(name, _)| *name == "columns");
        let columns = (!has_columns).then_some(("columns", COLUMNS));
        let mut request = self.client.get(self.shape(location, columns.into_iter().chain(params.iter().copied())));
        if let Some(tags) = if_none_match {
            request = request.header(header::IF_NONE_MATCH, tags);
        }
        // No timeout: a stream of events goes on for a minute.
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                self.unavailable(&error.without_url().to_string());
                return None;
            }
        };
        if is_passing(response.status()) {
            self.unavailable(&format!("it answers {}", response.status()));
            return None;
        }
        self.works();
        let mut forwarded = axum::response::Response::builder().status(response.status());
        for (name, value) in response.headers() {
            // Which pages may read it is said here, and how it travels.
            let is_ours = name.as_str().starts_with("access-control-")
                || [header::CONNECTION, header::TRANSFER_ENCODING, header::DATE].contains(name);
            if !is_ours {
                forwarded = forwarded.header(name, value);
            }
        }
        forwarded.body(axum::body::Body::from_stream(response.bytes_stream())).ok()
    }

    /// A page of a shape from this position on, or its beginning.
    async fn page(&self, location: &Location, position: Option<&RawPosition>, is_live: bool) -> Result<Chunk, Failure> {
        let position: Vec<_> = match position {
            None => vec![("offset", "-1")],
            Some(position) if position.handle.is_empty() => vec![("offset", &*position.offset)],
            Some(position) if is_live => {
                vec![("offset", &*position.offset), ("handle", &*position.handle), ("live", "true")]
            }
            Some(position) => vec![("offset", &*position.offset), ("handle", &*position.handle)],
        };
        let url = self.shape(location, [("columns", COLUMNS)].into_iter().chain(position));
        let response = self.get(url, if is_live { LONG_POLL + GRACE } else { ANSWER_TIMEOUT }).await?;
        let status = response.status();
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_string());
        let position =
            (|| Some(RawPosition { offset: header("electric-offset")?, handle: header("electric-handle")? }))();
        let body = self.body(response).await?;
        if !status.is_success() {
            let problem = format!("it answers {status}: {}", brief(&String::from_utf8_lossy(&body)));
            return Err(if is_passing(status) { self.unavailable(&problem) } else { self.unknown(&problem) });
        }
        let position =
            position.ok_or_else(|| self.unavailable("it answers without electric-offset and electric-handle"))?;
        if status == StatusCode::NO_CONTENT {
            return Ok(Chunk { events: Vec::new(), position, is_up_to_date: true });
        }
        match read_messages(&body) {
            Ok(Messages::Log { events, is_up_to_date }) => {
                self.works();
                Ok(Chunk { events, position, is_up_to_date })
            }
            Ok(Messages::Mutations) => Err(Failure::Mutated),
            Ok(Messages::MustRefetch) => Err(self.unknown("another one has taken its place")),
            Err(error) => Err(self.unavailable(&format!("its answer cannot be read: {error}"))),
        }
    }

    async fn body(&self, response: Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        let mut pieces = response.bytes_stream();
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| self.unavailable(&error.without_url().to_string()))?;
            if body.len() + piece.len() > PAGE_BYTES {
                return Err(self.unavailable(&format!("its answer has more than {PAGE_BYTES} bytes")));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    fn unavailable(&self, problem: &str) -> Failure {
        if !self.is_failing.swap(true, Ordering::Relaxed) {
            warn!(problem, "Electric does not answer as it should: logs are read from Postgres meanwhile");
        }
        Failure::Unavailable
    }

    fn unknown(&self, problem: &str) -> Failure {
        info!(problem, "a shape of Electric is gone or was never there: its readers join again");
        Failure::Unknown
    }

    fn works(&self) {
        if self.is_failing.swap(false, Ordering::Relaxed) {
            info!("Electric answers again");
        }
    }
}

/// Whether a status says "later".
fn is_passing(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// A page of a shape.
struct Chunk {
    events: Vec<Arc<Event>>,
    position: RawPosition,
    is_up_to_date: bool,
}

enum Messages {
    Log {
        events: Vec<Arc<Event>>,
        is_up_to_date: bool,
    },
    /// Rows were updated or deleted.
    Mutations,
    MustRefetch,
}

fn read_messages(body: &[u8]) -> Result<Messages, serde_json::Error> {
    #[derive(Deserialize)]
    struct Message<'a> {
        #[serde(borrow)]
        value: Option<&'a RawValue>,
        #[serde(borrow)]
        headers: Headers<'a>,
    }
    #[derive(Deserialize)]
    struct Headers<'a> {
        #[serde(borrow)]
        operation: Option<Cow<'a, str>>,
        #[serde(borrow)]
        control: Option<Cow<'a, str>>,
    }
    /// Postgres' text form of the columns.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Row<'a> {
        seq_num: String,
        parent_seq_num: String,
        #[serde(borrow)]
        name: Cow<'a, str>,
        args: Option<String>,
        #[serde(borrow)]
        client_id: Cow<'a, str>,
        #[serde(borrow)]
        session_id: Cow<'a, str>,
    }
    let (mut events, mut is_up_to_date) = (Vec::new(), false);
    for message in serde_json::from_slice::<Vec<Message<'_>>>(body)? {
        match (message.headers.operation.as_deref(), message.headers.control.as_deref(), message.value) {
            (Some("insert"), _, Some(value)) => {
                let row: Row<'_> = serde_json::from_str(value.get())?;
                let number = |text: &str| text.parse::<i64>().map_err(serde::de::Error::custom);
                let fields = EventFields {
                    name: row.name,
                    args: row.args.as_deref().map(serde_json::from_str).transpose()?,
                    seq_num: number(&row.seq_num)?,
                    parent_seq_num: number(&row.parent_seq_num)?,
                    client_id: row.client_id,
                    session_id: row.session_id,
                };
                // When it was appended this dialect does not tell.
                events.push(Arc::new(fields.appended_at(DateTime::UNIX_EPOCH)));
            }
            (Some(_), ..) => return Ok(Messages::Mutations),
            (_, Some("must-refetch"), _) => return Ok(Messages::MustRefetch),
            (_, Some("up-to-date"), _) => is_up_to_date = true,
            _ => {}
        }
    }
    events.sort_by_key(|event| event.seq_num);
    Ok(Messages::Log { events, is_up_to_date })
}

/// Where a client is: in Electric's shape, if it has joined it, and in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    shape: Option<RawPosition>,
    seq_num: i64,
    backend_id: Box<str>,
    /// See [`Offset`]: not told yet, it is not to wait.
    was_told: bool,
}

impl Place {
    fn start(location: &Location) -> Self {
        Self { shape: None, seq_num: 0, backend_id: location.backend_id.clone(), was_told: false }
    }

    /// The same in the log that a page of ours is of.
    fn of(&self, page: &Page) -> Self {
        Self { backend_id: page.position.handle.clone(), ..self.clone() }
    }

    fn reset(&self, location: &Location) -> ReadError {
        ReadError::Reset { offset: self.ours().offset, handle: (*location.backend_id).into() }
    }

    /// Reads a position of ours, or one that [`Self::position`] wrote.
    fn parse(position: &RawPosition) -> Result<Self, ReadError> {
        let parts: Vec<&str> = position.handle.rsplitn(4, '~').collect();
        let [backend_id, was_told, seq_num, handle] = parts[..] else {
            let offset: Offset = position.offset.parse().map_err(|_| ReadError::Foreign)?;
            let Offset { seq_num, was_told } = offset;
            return Ok(Self { shape: None, seq_num, backend_id: (*position.handle).into(), was_told });
        };
        let shape = RawPosition { offset: position.offset.clone(), handle: handle.into() };
        let seq_num = seq_num.parse().map_err(|_| ReadError::Foreign)?;
        let shape = (!handle.is_empty()).then_some(shape);
        Ok(Self { shape, seq_num, backend_id: backend_id.into(), was_told: was_told == "1" })
    }

    /// The handle says what a client is not asked for otherwise: what it has seen.
    fn position(&self) -> RawPosition {
        let Self { shape, seq_num, backend_id, was_told } = self;
        match shape {
            Some(RawPosition { offset, handle }) => RawPosition {
                offset: offset.clone(),
                handle: format!("{handle}~{seq_num}~{}~{backend_id}", u8::from(*was_told)),
            },
            None => {
                let offset = Offset { seq_num: *seq_num, was_told: *was_told };
                RawPosition { offset: offset.to_string(), handle: (**backend_id).into() }
            }
        }
    }

    /// The same in our own log.
    fn ours(&self) -> Position {
        let offset = Offset { seq_num: self.seq_num, was_told: self.was_told };
        Position { offset, handle: self.backend_id.clone() }
    }

    /// An answer that brings the client from here to behind the events.
    fn answer(&self, events: Vec<Arc<Event>>, is_up_to_date: bool, shape: Option<RawPosition>) -> Answer {
        let seq_num = events.last().map_or(self.seq_num, |last| last.seq_num);
        let was_told = events.is_empty();
        let behind = Self { shape, seq_num, backend_id: self.backend_id.clone(), was_told };
        let position = behind.position();
        Answer { page: Page { events, position: behind.ours(), is_up_to_date }, position }
    }
}

/// Where a client is in our own log, which may have read from Electric before.
///
/// # Errors
/// It never read here.
pub fn own_position(position: &RawPosition) -> Result<Position, ReadError> {
    Place::parse(position).map(|place| place.ours())
}

/// A page for LiveStore's client: from Electric if it has it, from Postgres if not.
///
/// # Errors
/// Those of [`read`].
pub async fn pull(
    upstream: &Upstream,
    log: &StoreLog,
    position: Option<RawPosition>,
    is_live: bool,
    patience: &mut Patience,
) -> Result<Answer, ReadError> {
    let place = position.as_ref().map(Place::parse).transpose()?;
    let nothing = || match &place {
        Some(place) => Ok(place.answer(Vec::new(), is_live, place.shape.clone())),
        None => Err(ReadError::Away),
    };
    match patience.wait_for(log.may_pull()).await {
        Some(Ok(())) => {}
        Some(Err(denied)) => return Err(denied.into()),
        None => return nothing(),
    }
    let Some(location) = patience.wait_for(locate(log, place.as_ref())).await else {
        return nothing();
    };
    let Some(location) = location else {
        // A store that does not exist yet has no shape.
        return pull_ourselves(log, position, is_live, patience).await;
    };
    let here = place.clone().unwrap_or_else(|| Place::start(&location));
    if here.seq_num > 0 && here.backend_id != location.backend_id {
        return Err(here.reset(&location));
    }
    let reader = Reader { upstream, log, here, is_live, is_new: place.is_none() };
    if !reader.is_new && reader.here.shape.is_none() {
        return reader.join(&location, patience).await;
    }
    match patience.wait_for(reader.follow(&location)).await {
        Some(Ok(answer)) => Ok(answer),
        Some(Err(Failure::Unavailable)) => reader.read_ourselves(reader.here.shape.clone(), patience).await,
        Some(Err(Failure::Unknown)) => reader.join(&location, patience).await,
        Some(Err(Failure::Mutated)) => {
            log.forget_location().await;
            match patience.wait_for(log.locate()).await {
                // The events have moved to a table of the store's own.
                Some(Some(now)) if now.backend_id == location.backend_id && now != location => {
                    reader.join(&now, patience).await
                }
                _ => Err(reader.here.reset(&location)),
            }
        }
        None => nothing(),
    }
}

/// Where the log is. What is known of it may be older than what a client knows, and a new client begins with it.
async fn locate(log: &StoreLog, place: Option<&Place>) -> Option<Location> {
    if let Some(place) = place
        && let Some(location) = log.locate().await
        && (place.seq_num == 0 || place.backend_id == location.backend_id)
    {
        return Some(location);
    }
    log.forget_location().await;
    log.locate().await
}

/// One request of a client.
struct Reader<'a> {
    upstream: &'a Upstream,
    log: &'a StoreLog,
    here: Place,
    is_live: bool,
    /// It has no position.
    is_new: bool,
}

impl Reader<'_> {
    /// Reads on in the shape, until there is an event or the end.
    async fn follow(&self, location: &Location) -> Result<Answer, Failure> {
        let Self { upstream, here, .. } = self;
        let mut shape = here.shape.clone();
        loop {
            let is_waiting = self.is_live && here.was_told && shape.is_some();
            let Chunk { mut events, position, is_up_to_date } =
                upstream.page(location, shape.as_ref(), is_waiting).await?;
            events.retain(|event| event.seq_num > here.seq_num);
            let mut last = here.seq_num;
            for event in &events {
                if event.parent_seq_num != last {
                    return Err(upstream.unknown("it does not have all events"));
                }
                last = event.seq_num;
            }
            if is_up_to_date || !events.is_empty() || shape.as_ref() == Some(&position) {
                return Ok(here.answer(events, is_up_to_date, Some(position)));
            }
            shape = Some(position);
        }
    }

    /// Enters the shape where it stands, and reads from Postgres what led there: nothing is missed, since Postgres is asked
    /// later.
    async fn join(&self, location: &Location, patience: &mut Patience) -> Result<Answer, ReadError> {
        let now = RawPosition { offset: "now".into(), handle: String::new() };
        let Some(Ok(Chunk { position, .. })) = patience.wait_for(self.upstream.page(location, Some(&now), false)).await
        else {
            return self.read_ourselves(None, patience).await;
        };
        let page = read(self.log, self.ours().as_ref(), Follow::No, patience).await?;
        // Otherwise the rest is read from Postgres next.
        let shape = page.is_up_to_date.then_some(position);
        Ok(self.here.of(&page).answer(page.events, page.is_up_to_date, shape))
    }

    /// Reads from Postgres; the client stays where it is in the shape.
    async fn read_ourselves(&self, shape: Option<RawPosition>, patience: &mut Patience) -> Result<Answer, ReadError> {
        let follow = if self.is_live && !self.is_new { Follow::TellFirst } else { Follow::No };
        let page = read(self.log, self.ours().as_ref(), follow, patience).await?;
        Ok(self.here.of(&page).answer(page.events, page.is_up_to_date, shape))
    }

    fn ours(&self) -> Option<Position> {
        (!self.is_new).then(|| self.here.ours())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use proptest::prelude::*;

    use super::*;

    fn place() -> impl Strategy<Value = Place> {
        let shape = prop::option::of(("[0-9]{1,8}_(inf|[0-9])", "[0-9]{1,6}-[0-9~]{1,6}"));
        (shape, 0..1i64 << 53, "[A-Za-z0-9_-]{21}", any::<bool>()).prop_map(|(shape, seq_num, backend_id, was_told)| {
            let shape = shape.map(|(offset, handle)| RawPosition { offset, handle });
            Place { shape, seq_num, backend_id: backend_id.into(), was_told }
        })
    }

    proptest! {
        #[test]
        fn a_client_brings_back_where_it_is(place in place()) {
            prop_assert_eq!(Place::parse(&place.position()).unwrap(), place);
        }

        #[test]
        fn nothing_makes_it_panic(offset: String, handle: String, body: Vec<u8>) {
            let _ = (Place::parse(&RawPosition { offset, handle }), read_messages(&body));
        }
    }

    #[test]
    fn messages_are_read_as_electric_writes_them() {
        // From the comment at the head of @livestore/sync-electric's index.ts, with the columns of today.
        let recorded = r#"[
            {"value":{"args":"{\"id\": \"127c3df4\", \"text\": \"1\"}","clientId":"S_YOa","sessionId":"s","seqNum":"2","name":"todoCreated","parentSeqNum":"1","store":"7"},
             "key":"\"public\".\"events\"/\"0\"",
             "headers":{"last":true,"relation":["public","events"],"operation":"insert","lsn":27294160,"op_position":0,"txids":[753]}},
            {"value":{"args":null,"clientId":"c","sessionId":"s","seqNum":"1","name":"e","parentSeqNum":"0"},"headers":{"operation":"insert"}},
            {"headers":{"control":"snapshot-end"}},
            {"headers":{"control":"up-to-date","global_last_seen_lsn":"27294160"}}]"#;
        let Messages::Log { events, is_up_to_date } = read_messages(recorded.as_bytes()).unwrap() else { panic!() };
        assert!(is_up_to_date);
        assert_eq!(events.iter().map(|event| event.seq_num).collect::<Vec<_>>(), [1, 2], "in the order of the log");
        assert!(events[0].fields().unwrap().args.is_none());
        assert_eq!(events[1].fields().unwrap().args.unwrap().get(), r#"{"id": "127c3df4", "text": "1"}"#);
        for mutation in ["\"update\"", "\"delete\""] {
            let mutated = recorded.replacen("\"insert\"", mutation, 1);
            assert!(matches!(read_messages(mutated.as_bytes()), Ok(Messages::Mutations)), "{mutation}");
        }
        let refetch = br#"[{"headers":{"control":"must-refetch"}}]"#;
        assert!(matches!(read_messages(refetch), Ok(Messages::MustRefetch)));
        for wrong in [&b"{}"[..], b"[1]", b"<html>", br#"[{"value":{"seqNum":1},"headers":{"operation":"insert"}}]"#] {
            assert!(read_messages(wrong).is_err());
        }
    }
}
