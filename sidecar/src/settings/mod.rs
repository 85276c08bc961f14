//! What can be set, as flags and as environment variables.

mod meaning;
mod values;

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::HeaderName;
use clap::{Args, Parser, Subcommand, ValueEnum};

use self::values::{
    LEAST_BUFFER_BYTES, LEAST_BYTES_PER_SECOND, LEAST_EVENT_BYTES, LEAST_FRAME_BYTES, at_least, duration, lasting,
    rate, up_to,
};
use crate::auth::{Access, Template};

/// Speaks LiveStore's sync protocols in front of a Postgres with the extension livestore_sync.
#[derive(Debug, Parser)]
#[command(version, about, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Program {
    #[command(subcommand)]
    pub command: Option<Command>,

    #[command(flatten)]
    pub config: Config,
}

/// The settings of a sidecar.
#[derive(Debug, Args)]
pub struct Config {
    /// Address and port to serve on; not needed if systemd hands over a socket.
    #[arg(long, env = "LIVESTORE_LISTEN", default_value = "127.0.0.1:8787")]
    pub listen: SocketAddr,

    /// Listen beside other sidecars on the same address, of the same user (SO_REUSEPORT): the next one begins before the last one
    /// ends, as soon as its database answers. See docs/operations.md.
    #[arg(long, env = "LIVESTORE_REUSE_PORT")]
    pub reuse_port: bool,

    /// A second address, for /healthz, /readyz and /metrics of this process alone. Needed with --reuse-port, where another
    /// process may answer on the first.
    #[arg(long, env = "LIVESTORE_HEALTH_LISTEN", value_name = "ADDRESS")]
    pub health_listen: Option<SocketAddr>,

    /// The database: postgres://user:password@host:port/database. Its role needs livestore_writer and nothing else. With
    /// ?sslmode=verify-full over TLS; with several hosts (host:port,host:port) the one of them that allows writes.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, required = true)]
    pub database_url: Option<String>,

    /// Who may connect. none: everybody, which takes --insecure-no-auth beyond loopback. jwt: whoever has a good token.
    #[arg(long, env = "LIVESTORE_AUTH", default_value = "none")]
    pub auth: Auth,

    /// The secret that signs tokens (HS256, HS384, HS512): at least 32 bytes.
    #[arg(long, env = "LIVESTORE_JWT_SECRET", hide_env_values = true, value_name = "SECRET")]
    pub jwt_secret: Option<String>,

    /// Take a --jwt-secret that has less than 32 bytes, for development: who guesses it makes tokens.
    #[arg(long, env = "LIVESTORE_INSECURE_SHORT_SECRET")]
    pub insecure_short_secret: bool,

    /// The public key of whoever signs tokens: RSA, EC or Ed25519, as PEM or JWK, or a file that holds it.
    #[arg(long, env = "LIVESTORE_JWT_PUBLIC_KEY", value_name = "KEY", allow_hyphen_values = true)]
    pub jwt_public_key: Option<String>,

    /// Where the public keys of an identity provider are (JWKS), e.g. https://id.example.com/.well-known/jwks.json. They are
    /// asked for at most every 5 s, and kept while the provider is away.
    #[arg(long, env = "LIVESTORE_JWKS_URL", value_name = "URL")]
    pub jwks_url: Option<String>,

    /// The audience (aud) that tokens must be for. Without, it is not looked at.
    #[arg(long, env = "LIVESTORE_JWT_AUDIENCE", value_name = "AUDIENCE")]
    pub jwt_audience: Option<String>,

    /// The issuer (iss) that tokens must be of. Without, it is not looked at.
    #[arg(long, env = "LIVESTORE_JWT_ISSUER", value_name = "ISSUER")]
    pub jwt_issuer: Option<String>,

    /// The claim that says what a token allows: an object of stores, or beginnings of their names with * behind, and read, write
    /// or admin, e.g. {"todos": "write", "public-*": "read"}.
    #[arg(long, env = "LIVESTORE_ACCESS_CLAIM", default_value = "livestore", value_name = "CLAIM")]
    pub access_claim: String,

    /// What every token allows, beside its claim, with {sub} for its subject, e.g. user-{sub}-*=write. *=write: everything.
    #[arg(long, env = "LIVESTORE_ALLOW", value_name = "STORE=ACCESS", value_delimiter = ',')]
    pub allow: Vec<Template>,

    /// By how much the clocks of those who make tokens may be wrong.
    #[arg(long, env = "LIVESTORE_JWT_LEEWAY", default_value = "0s", value_parser = duration)]
    pub jwt_leeway: Duration,

    /// Serve everybody who can reach the address, also beyond this machine, and without --cors-origins pages of every origin.
    #[arg(long, env = "LIVESTORE_INSECURE_NO_AUTH")]
    pub insecure_no_auth: bool,

    /// An SQL function that says who may do what, e.g. app.may_sync: (store_id text, action text, payload json, headers json)
    /// returns boolean. Asked with the actions connect, pull and push. See docs/hooks.md.
    #[arg(long, env = "LIVESTORE_AUTHORIZE_FUNCTION", value_name = "FUNCTION")]
    pub authorize_function: Option<String>,

    /// Request headers that hooks and the authorize function get, e.g. cookie,authorization.
    #[arg(long, env = "LIVESTORE_FORWARD_HEADERS", value_name = "NAMES", value_delimiter = ',')]
    pub forward_headers: Vec<HeaderName>,

    /// Origins of the web pages that are served, e.g. https://app.example.com, or * for all, or local for those of this machine.
    /// Without: local.
    #[arg(long, env = "LIVESTORE_CORS_ORIGINS", value_name = "ORIGINS", value_delimiter = ',')]
    pub cors_origins: Vec<String>,

    /// Names in the header Host that are served beside those of this machine (localhost, 127.0.0.1) and names without a dot, e.g.
    /// sync.example.com for a proxy in front, or * for all. Pages of these hosts are served, too, unless --cors-origins says otherwise. Without: all names with
    /// --auth jwt or --insecure-no-auth, else none.
    #[arg(long, env = "LIVESTORE_ALLOWED_HOSTS", value_name = "HOSTS", value_delimiter = ',')]
    pub allowed_hosts: Vec<String>,

    /// The protocols that are spoken.
    #[arg(long, env = "LIVESTORE_DIALECTS", value_delimiter = ',', default_values_t = Dialect::ALL)]
    pub dialects: Vec<Dialect>,

    /// The secret of sync-cf 0.3's admin requests. Without, there are none. The database role then needs livestore_admin, too.
    #[arg(long, env = "LIVESTORE_ADMIN_SECRET", hide_env_values = true, value_name = "SECRET")]
    pub admin_secret: Option<String>,

    /// The secret of Electric's shape API: clients send it (secret=…), and it is sent on to --electric-url. Without, none is
    /// asked for.
    #[arg(long, env = "LIVESTORE_ELECTRIC_SECRET", hide_env_values = true, value_name = "SECRET")]
    pub electric_secret: Option<String>,

    /// The store to which the peer relay appends what it relays, so that pulls are answered from history: a name with {user}
    /// for the user, e.g. relay-{user}. Without, nothing is kept.
    #[arg(long, env = "LIVESTORE_RELAY_STORE", value_name = "STORE")]
    pub relay_store: Option<String>,

    /// How many events one push may hold.
    #[arg(long, env = "LIVESTORE_MAX_BATCH_EVENTS", default_value_t = 10_000, value_parser = at_least(1_usize))]
    pub max_batch_events: usize,

    /// The largest event that may be pushed, in bytes.
    #[arg(long, env = "LIVESTORE_MAX_EVENT_BYTES", default_value_t = 4 << 20, value_parser = at_least(LEAST_EVENT_BYTES))]
    pub max_event_bytes: usize,

    /// How many pushes a second are taken from one subject of tokens. More are refused, to be tried again; those of clients that
    /// would not try again wait.
    #[arg(long, env = "LIVESTORE_PUSHES_PER_SECOND", default_value = "1000", value_parser = rate(1))]
    pub pushes_per_second: NonZeroU32,

    /// How many bytes.
    #[arg(long, env = "LIVESTORE_PUSH_BYTES_PER_SECOND", default_value = "16777216", value_parser = rate(LEAST_BYTES_PER_SECOND))]
    pub push_bytes_per_second: NonZeroU32,

    /// How many pushes a second one store takes, of all clients on this sidecar.
    #[arg(long, env = "LIVESTORE_STORE_PUSHES_PER_SECOND", default_value = "10000", value_parser = rate(1))]
    pub store_pushes_per_second: NonZeroU32,

    /// How many bytes.
    #[arg(long, env = "LIVESTORE_STORE_BYTES_PER_SECOND", default_value = "67108864", value_parser = rate(LEAST_BYTES_PER_SECOND))]
    pub store_bytes_per_second: NonZeroU32,

    /// How many stores that do not exist one subject of tokens may begin in an hour.
    #[arg(long, env = "LIVESTORE_NEW_STORES_PER_HOUR", default_value = "1000", value_parser = rate(1))]
    pub new_stores_per_hour: NonZeroU32,

    /// How many messages a second the devices of one user may send through the peer relay. More wait.
    #[arg(long, env = "LIVESTORE_RELAY_MESSAGES_PER_SECOND", default_value = "1000", value_parser = rate(1))]
    pub relay_messages_per_second: NonZeroU32,

    /// How many bytes.
    #[arg(long, env = "LIVESTORE_RELAY_BYTES_PER_SECOND", default_value = "8388608", value_parser = rate(LEAST_BYTES_PER_SECOND))]
    pub relay_bytes_per_second: NonZeroU32,

    /// A real Electric server on the same database, from which clients of Electric's protocols then read, e.g.
    /// http://electric:3000. See docs/electric.md.
    #[arg(long, env = "LIVESTORE_ELECTRIC_URL", hide_env_values = true, value_name = "URL")]
    pub electric_url: Option<String>,

    /// Who signs the certificate of the database: a PEM file. Without, whom this system trusts.
    #[arg(long, env = "LIVESTORE_DATABASE_ROOT_CERTIFICATE", value_name = "FILE")]
    pub database_root_certificate: Option<PathBuf>,

    /// Connections to the database for reading; up to five more push (two), listen, relay and ask for /readyz.
    #[arg(long, env = "LIVESTORE_DATABASE_CONNECTIONS", default_value_t = 8, value_parser = at_least(1_u16))]
    pub database_connections: u16,

    /// How long to wait for the database at start before giving up.
    #[arg(long, env = "LIVESTORE_DATABASE_WAIT", default_value = "5m", value_parser = duration)]
    pub database_wait: Duration,

    /// How long a push waits for a database that is away before its client is told to come back.
    #[arg(long, env = "LIVESTORE_PUSH_TIMEOUT", default_value = "90s", value_parser = lasting(Duration::from_millis(100)))]
    pub push_timeout: Duration,

    /// While clients push to one store at the same moment, its live events are held back until none has followed for so long, four
    /// times that at most, and delivered together: clients of LiveStore 0.4 lose fewer of their events. 0s: never. See
    /// docs/known-problems.md.
    #[arg(long, env = "LIVESTORE_CONTENTION_WINDOW", default_value = "250ms", value_parser = up_to(Duration::from_secs(5)))]
    pub contention_window: Duration,

    /// How long everything goes on once SIGTERM has come, but for 503 at /readyz and a connection: close with each answer: longer than
    /// clients keep a connection that they do not use (4 s in Node), and than a load balancer takes to look at /readyz.
    #[arg(long, env = "LIVESTORE_SHUTDOWN_DELAY", default_value = "5s", value_parser = duration)]
    pub shutdown_delay: Duration,

    /// After that, how long a shutdown may take to finish what is being committed and to close connections.
    #[arg(long, env = "LIVESTORE_SHUTDOWN_DEADLINE", default_value = "10s", value_parser = lasting(Duration::from_secs(1)))]
    pub shutdown_deadline: Duration,

    /// How many connections there may be.
    #[arg(long, env = "LIVESTORE_MAX_CONNECTIONS", default_value_t = 10_000, value_parser = at_least(1_usize))]
    pub max_connections: usize,

    /// How many from one address; those from this machine, a proxy's for one, do not count.
    #[arg(long, env = "LIVESTORE_MAX_CONNECTIONS_PER_ADDRESS", default_value_t = 1000, value_parser = at_least(1_usize))]
    pub max_connections_per_address: usize,

    /// How many of one subject of tokens: WebSockets, and requests that are being answered.
    #[arg(long, env = "LIVESTORE_MAX_CONNECTIONS_PER_SUBJECT", default_value_t = 1000, value_parser = at_least(1_usize))]
    pub max_connections_per_subject: usize,

    /// The largest head of a request, in bytes: its URL and its headers.
    #[arg(long, env = "LIVESTORE_MAX_HEAD_BYTES", default_value_t = 64 << 10, value_parser = at_least(8192_u32))]
    pub max_head_bytes: u32,

    /// How long a client may take to send the head of a request.
    #[arg(long, env = "LIVESTORE_HEAD_TIMEOUT", default_value = "60s", value_parser = lasting(Duration::from_secs(1)))]
    pub head_timeout: Duration,

    /// How long a connection is kept for the next request: longer than the proxy in front keeps it (nginx and AWS' load balancer 60 s,
    /// Traefik 90 s), or requests meet connections that are being closed. See docs/proxies.md.
    #[arg(long, env = "LIVESTORE_IDLE_CLOSE", default_value = "100s", value_parser = lasting(Duration::from_secs(1)))]
    pub idle_close: Duration,

    /// The largest frame that a client may send, in bytes.
    #[arg(long, env = "LIVESTORE_MAX_FRAME_BYTES", default_value_t = 16 << 20, value_parser = at_least(LEAST_FRAME_BYTES))]
    pub max_frame_bytes: usize,

    /// How many bytes may be on their way at once, to clients and from them: bodies and messages that arrive, pages that are
    /// read, and what waits for a client to read it. A request that finds no room waits.
    #[arg(long, env = "LIVESTORE_MAX_BUFFER_BYTES", default_value_t = 256 << 20, value_parser = at_least(LEAST_BUFFER_BYTES))]
    pub max_buffer_bytes: usize,

    /// How many of them for one subject of tokens, for all clients without a token that send something, and for each
    /// connection without a token that reads.
    #[arg(long, env = "LIVESTORE_MAX_BUFFER_BYTES_PER_CLIENT", default_value_t = 32 << 20, value_parser = at_least(LEAST_BUFFER_BYTES))]
    pub max_buffer_bytes_per_client: usize,

    /// What to log: a level, or directives like "info,livestore_sidecar::log=debug".
    #[arg(long, env = "LIVESTORE_LOG", default_value = "info")]
    pub log: String,

    /// An OpenTelemetry collector to send traces to, by OTLP over HTTP, e.g. http://localhost:4318. OpenTelemetry's other
    /// variables count, too: OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,

    /// Send every trace that a client says is sampled, whatever OTEL_TRACES_SAMPLER says. Only for clients, or a proxy in front of
    /// them, that you trust: anybody can send a header.
    #[arg(long, env = "LIVESTORE_TRUST_TRACEPARENT", requires = "otlp_endpoint")]
    pub trust_traceparent: bool,

    /// How log lines look.
    #[arg(long, env = "LIVESTORE_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
}

/// What else the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Looks at these settings, the database and what it is set to, and says what is wrong and how to mend it
    Check(Box<Config>),

    /// Makes a token, to try --auth jwt with, and prints it
    Token(NewToken),
    /// Asks the sidecar on this machine whether it lives, for a container's health check
    Health(Health),
}

/// Whom to ask.
#[derive(Debug, Args)]
pub struct Health {
    /// Where it serves.
    #[arg(long, env = "LIVESTORE_LISTEN", default_value = "127.0.0.1:8787")]
    pub listen: SocketAddr,

    /// Where it says how it is, if that is elsewhere.
    #[arg(long, env = "LIVESTORE_HEALTH_LISTEN", value_name = "ADDRESS")]
    pub health_listen: Option<SocketAddr>,
}

/// What a token shall say.
#[derive(Debug, Args)]
pub struct NewToken {
    /// The secret of the sidecar that will take it.
    #[arg(long, env = "LIVESTORE_JWT_SECRET", hide_env_values = true, value_name = "SECRET")]
    pub jwt_secret: String,

    /// A store that it opens, or the beginning of its name with * behind; several if given several times.
    #[arg(long, required = true)]
    pub store: Vec<String>,

    /// What it allows there: read, write or admin.
    #[arg(long, default_value = "write")]
    pub access: Access,

    /// How long it lasts.
    #[arg(long, default_value = "1h", value_parser = lasting(Duration::from_secs(1)))]
    pub expires: Duration,

    /// Who it is for (sub).
    #[arg(long, default_value = "developer")]
    pub subject: String,

    /// The claim that says what it allows: as the sidecar has it.
    #[arg(long, env = "LIVESTORE_ACCESS_CLAIM", default_value = "livestore", value_name = "CLAIM")]
    pub access_claim: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Auth {
    None,
    Jwt,
}

/// A protocol that clients of LiveStore speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum Dialect {
    /// @livestore/sync-cf 0.4 and later over WebSocket
    CfWs,
    /// @livestore/sync-cf 0.4 and later over HTTP
    CfHttp,
    /// @livestore/sync-cf 0.3
    #[value(name = "cf-0.3")]
    Cf03,
    /// @livestore/sync-electric
    Electric,
    /// Electric's shape API, for servers that make their URLs with makeElectricUrl
    ElectricShape,
    /// @livestore/sync-s2
    S2,
    /// S2's REST API, for servers that make their requests with s2-proxy-helpers
    S2Rest,
    /// The peer relay, for devices of one user
    Relay,
}

impl Dialect {
    pub const ALL: [Self; 8] = [
        Self::CfWs,
        Self::CfHttp,
        Self::Cf03,
        Self::Electric,
        Self::ElectricShape,
        Self::S2,
        Self::S2Rest,
        Self::Relay,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::CfWs => "cf-ws",
            Self::CfHttp => "cf-http",
            Self::Cf03 => "cf-0.3",
            Self::Electric => "electric",
            Self::ElectricShape => "electric-shape",
            Self::S2 => "s2",
            Self::S2Rest => "s2-rest",
            Self::Relay => "relay",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}
