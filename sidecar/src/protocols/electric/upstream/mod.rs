//! A real Electric server behind this one (`--electric-url`): what clients read comes from it, what they push goes to Postgres.
//!
//! Its shapes come and go: a client of LiveStore that is told so is lost. But the log is here as well, so that whatever
//! Electric cannot answer is read from Postgres, and the client joins the shape again where it is then.

mod messages;
mod reader;

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue, header};
use futures_util::StreamExt;
use reqwest::{Client, Response, StatusCode, Url};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{info, warn};

use super::api::RawPosition;
use super::messages::quote;
use super::read::LONG_POLL;
use crate::limits::memory::{Account, FREE, Share};
use crate::log::{Event, Location};
use crate::protocols::brief;
use messages::{Messages, read_messages};
pub use reader::{own_position, pull};

/// The time that Electric is waited for beyond its own timeout; and then Postgres.
pub const GRACE: Duration = Duration::from_secs(5);

/// The time that Electric may take for an answer that need not wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The largest page that is read: Electric's chunks have 10 MB, and a row more.
const PAGE_BYTES: usize = 32 << 20;

/// The size of an answer that does not say how large it is: a chunk, and a row of 4 MiB.
const UNANNOUNCED: u64 = (10 + 4) << 20;

/// The memory for an answer is this many times its size: for its events, and for the text that is made of them.
const COPIES: usize = 2;

/// The headers of its answers that clients get, beside those that begin with `electric-`.
const PASSED_ON: [HeaderName; 11] = [
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::ETAG,
    header::EXPIRES,
    header::LAST_MODIFIED,
    header::RETRY_AFTER,
    header::VARY,
    HeaderName::from_static("surrogate-control"),
    HeaderName::from_static("x-accel-buffering"),
];

/// The columns of a row: those of an event and the other half of the primary key, without which Electric has no shape.
const COLUMNS: &str = r#"store,"seqNum","parentSeqNum",name,args,"clientId","sessionId""#;

/// The URL of Electric.
pub struct Upstream {
    client: Client,
    url: Url,
    secret: Option<String>,
    is_failing: AtomicBool,
}

/// Why a URL cannot be that of an Electric server.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    #[error("it is no URL ({0}): begin it with http:// or https://")]
    NotUrl(<Url as FromStr>::Err),
    #[error("begin it with http:// or https://")]
    NotHttp,
    #[error("it has no host")]
    NoHost,
    #[error(transparent)]
    Client(#[from] reqwest::Error),
}

/// Why Electric has no page.
enum NoPage {
    /// It does not know the shape, or no longer.
    Unknown,
    /// Events were changed or deleted.
    Mutated,
    /// It may know later.
    Unavailable,
}

impl Upstream {
    /// `url` is that of the server, without `/v1/shape`; what is behind its `?` is asked of it each time.
    pub fn new(url: &str, secret: Option<String>) -> Result<Self, UrlError> {
        let mut url: Url = url.parse().map_err(UrlError::NotUrl)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(UrlError::NotHttp);
        }
        url.path_segments_mut().map_err(|()| UrlError::NoHost)?.pop_if_empty().extend(["v1", "shape"]);
        let client = Client::builder().connect_timeout(CONNECT_TIMEOUT).build()?;
        Ok(Self { client, url, secret, is_failing: AtomicBool::new(false) })
    }

    /// The URL of the shape of a store, with these search params beside those that say what shape it is.
    fn shape<'a>(&self, location: &Location, params: impl IntoIterator<Item = (&'a str, &'a str)>) -> Url {
        let mut url = self.url.clone();
        let table = format!("livestore.{}", quote(&location.table));
        let condition = format!("store = {}", location.store);
        url.query_pairs_mut().append_pair("table", &table).append_pair("where", &condition).extend_pairs(params);
        if let Some(secret) = &self.secret {
            url.query_pairs_mut().append_pair("secret", secret);
        }
        url
    }

    async fn get(&self, url: Url, time: Duration) -> Result<Response, NoPage> {
        match timeout(time, self.client.get(url).send()).await {
            // Without the URL, which has the secret in it.
            Ok(response) => response.map_err(|error| self.unavailable(&error.without_url().to_string())),
            Err(_) => Err(self.unavailable("it does not answer in time")),
        }
    }

    /// For a client of the shape API, whose search params go on to Electric: its answer as it is, body and all, or `None` if
    /// it has none for now. A stream ends with `end`.
    pub async fn forward(
        &self,
        location: &Location,
        params: &[(&str, &str)],
        if_none_match: Option<&HeaderValue>,
        end: impl Future<Output = ()> + Send + 'static,
    ) -> Option<axum::response::Response> {
        let columns = params.iter().find(|(name, _)| *name == "columns");
        let columns = columns.map_or_else(|| COLUMNS.to_string(), |(_, chosen)| format!("store,{chosen}"));
        let others = params.iter().copied().filter(|(name, _)| *name != "columns");
        let mut request = self.client.get(self.shape(location, [("columns", &*columns)].into_iter().chain(others)));
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
            // Nothing else: a cookie of whatever is in front of Electric, for one, would be taken for ours.
            if PASSED_ON.contains(name) || name.as_str().starts_with("electric-") {
                forwarded = forwarded.header(name, value);
            }
        }
        let is_stream = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
        // A page ends by itself; one that was cut short would be taken for the whole.
        let end = async move { if is_stream { end.await } else { std::future::pending().await } };
        forwarded.body(axum::body::Body::from_stream(response.bytes_stream().take_until(end))).ok()
    }

    /// A page of a shape from this position on, or its beginning, with memory of this account.
    async fn page(
        &self,
        account: &Account,
        location: &Location,
        position: Option<&RawPosition>,
        is_live: bool,
    ) -> Result<Chunk, NoPage> {
        // The state of a shape changes, while the URL that asks for it does not: no cache is to answer.
        let moment = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let moment = moment.as_nanos().to_string();
        let position: Vec<_> = match position {
            None => vec![("offset", "-1")],
            Some(position) if position.handle.is_empty() => {
                vec![("offset", &*position.offset), ("cache-buster", &*moment)]
            }
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
        let (body, share) = self.body(account, response).await?;
        if !status.is_success() {
            let problem = format!("it answers {status}: {}", brief(&String::from_utf8_lossy(&body)));
            return Err(if is_passing(status) { self.unavailable(&problem) } else { self.unknown(&problem) });
        }
        let position =
            position.ok_or_else(|| self.unavailable("it answers without electric-offset and electric-handle"))?;
        if status == StatusCode::NO_CONTENT {
            return Ok(Chunk { events: Vec::new(), position, is_up_to_date: true, share: None });
        }
        match read_messages(&body) {
            Ok(Messages::Log { events, is_up_to_date }) => {
                self.works();
                Ok(Chunk { events, position, is_up_to_date, share: share.map(Arc::new) })
            }
            Ok(Messages::Mutations) => Err(NoPage::Mutated),
            Ok(Messages::MustRefetch) => Err(self.unknown("another one has taken its place")),
            Err(error) => Err(self.unavailable(&format!("its answer cannot be read: {error}"))),
        }
    }

    /// The rest of an answer, and the memory for what is made of it.
    async fn body(&self, account: &Account, response: Response) -> Result<(Vec<u8>, Option<Share>), NoPage> {
        let announced = usize::try_from(response.content_length().unwrap_or(UNANNOUNCED)).unwrap_or(usize::MAX);
        let (mut body, mut share) = (Vec::new(), None);
        let mut pieces = response.bytes_stream();
        let mut until = Instant::now() + ANSWER_TIMEOUT;
        loop {
            let piece = timeout_at(until, pieces.next()).await;
            let Some(piece) = piece.map_err(|_| self.unavailable("its answer does not end in time"))? else { break };
            let piece = piece.map_err(|error| self.unavailable(&error.without_url().to_string()))?;
            if body.len() + piece.len() > PAGE_BYTES {
                return Err(self.unavailable(&format!("its answer has more than {PAGE_BYTES} bytes")));
            }
            // Not before: most requests wait for events, and then get few.
            if share.is_none() && body.len() + piece.len() > FREE {
                share = account.take(announced.saturating_mul(COPIES)).await;
                until = Instant::now() + ANSWER_TIMEOUT;
            }
            body.extend_from_slice(&piece);
        }
        if let Some(share) = &mut share {
            share.shrink(COPIES * body.len());
        }
        Ok((body, share))
    }

    fn unavailable(&self, problem: &str) -> NoPage {
        if !self.is_failing.swap(true, Ordering::Relaxed) {
            warn!(problem, "Electric does not answer as it should: logs are read from Postgres meanwhile");
        }
        NoPage::Unavailable
    }

    fn unknown(&self, problem: &str) -> NoPage {
        info!(problem, "a shape of Electric is gone or was never there: its readers join again");
        NoPage::Unknown
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
    /// The memory that it takes, and what is made of it.
    share: Option<Arc<Share>>,
}
