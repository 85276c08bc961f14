//! Chooses the server: of several hosts the one that allows writes, and after a failover never again the one of before.
//!
//! A promoted standby begins a new timeline of its cluster. A server of an older one is a primary that was given up: what it
//! has may lack what was acknowledged since, and what it takes will be lost. It may be back, and allow writes, before anybody
//! has fenced it. This process does not go back to it. As long as it can reach the new one, it also leaves an old one that goes
//! on: it looks for the new one among the other hosts. A process that cannot reach it cannot know.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::timeout;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, Connection, SimpleQueryMessage, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::{info, warn};

use super::cancel::Canceller;
use super::hosts::{addresses, only};
use super::session;
use super::sessions::Sessions;
use super::{CONNECT_TIMEOUT, DatabaseError, PROBE, Retry, SILENCE, TlsStream, is_ours};
use crate::telemetry::chain;

/// The time for which a server may not take the data of a command: it may write to a slow disk, and hours of copying would be lost.
const STALL: Duration = Duration::from_secs(120);

/// The least time in which a server says who it is.
const LEAST_TO_IDENTIFY: Duration = Duration::from_secs(2);

/// The least time to connect to one of several hosts.
const LEAST: Duration = Duration::from_secs(1);

/// The identity of a server's cluster, and how often that has failed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Server {
    cluster: u64,
    timeline: u32,
}

impl Server {
    /// As Postgres' functions name them.
    pub fn new(cluster: i64, timeline: i32) -> Self {
        Self { cluster: cluster.cast_unsigned(), timeline: timeline.cast_unsigned() }
    }
}

/// A connection that is made, and to whom. Whoever gets it drives it.
pub struct Connected {
    pub client: Client,
    pub connection: Connection<Socket, TlsStream>,
    /// None if the server does not say.
    pub server: Option<Server>,
    /// None if its address is not known.
    pub canceller: Option<Canceller>,
}

/// A connection about which nothing is known yet.
struct LoggedIn {
    /// The configuration of this connection: it has one address.
    config: Config,
    client: Client,
    connection: Connection<Socket, TlsStream>,
}

/// A database URL, and how to connect there.
pub struct Address {
    /// The option that has it.
    pub option: &'static str,
    pub config: Config,
    pub tls: MakeRustlsConnect,
    /// The name of the database, if it is one of several.
    pub shard: Option<Arc<str>>,
}

impl Address {
    pub fn servers(mut self) -> Servers {
        self.config.application_name("livestore-sidecar");
        Servers { settings: session::settings(), ..Servers::new(self, SILENCE) }
    }
}

/// A connection for a command that needs no other.
///
/// # Errors
/// Of [`Servers::connect`].
pub async fn connect_once(address: Address) -> Result<Connected, DatabaseError> {
    Servers::new(address, STALL).connect().await
}

/// The same for a command that only reads: a standby will do.
///
/// # Errors
/// Of [`Servers::connect`].
pub async fn connect_once_to_read(address: Address) -> Result<Connected, DatabaseError> {
    Servers::new(address, STALL).for_reading().connect().await
}

/// An error of Postgres with all that it says.
pub fn told(error: &tokio_postgres::Error) -> String {
    let Some(error) = error.as_db_error() else {
        let cause = chain(error);
        return if is_ours(error) {
            format!("what the database answers cannot be read: {cause}")
        } else {
            format!("the connection to the database was lost: {cause}")
        };
    };
    let part = |name: &str, text: Option<&str>| text.map(|text| format!("\n{name}: {text}")).unwrap_or_default();
    format!("{}{}{}", error.message(), part("detail", error.detail()), part("hint", error.hint()))
}

/// The use of the servers of a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// The one that allows writes is wanted.
    Primary,
    /// Any is wanted, to read from: whoever uses it asks what it is.
    Any,
}

/// The hosts of a database URL.
pub struct Servers {
    role: Role,
    each: Vec<Config>,
    tls: MakeRustlsConnect,
    sessions: Sessions,
    /// The settings of each connection.
    settings: String,
    shard: Option<Arc<str>>,
    /// The one that was the right one last is tried first: another may be away without a word, and cost time.
    last: AtomicUsize,
    /// The latest timeline of each cluster that was met.
    met: Arc<Mutex<HashMap<u64, u32>>>,
}

impl Servers {
    /// `patience`: for data that the other side does not take.
    fn new(Address { option, mut config, tls, shard }: Address, patience: Duration) -> Self {
        // A machine that is gone answers nothing, and a command would wait for hours.
        config
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives_idle(SILENCE)
            .keepalives_interval(PROBE)
            .tcp_user_timeout(patience);
        let config = &config;
        let hosts = config.get_hosts().len().max(config.get_hostaddrs().len());
        let each = match hosts {
            0 | 1 => vec![config.clone()],
            _ => (0..hosts).map(|index| only(config, index)).collect(),
        };
        let each = each.into_iter().map(|mut config| {
            // Whether the server allows writes is asked below, together with the rest. Only `read-write` is kept, so that
            // `log_in` goes on to the next address if one does not allow writes.
            if config.get_target_session_attrs() != TargetSessionAttrs::ReadWrite {
                config.target_session_attrs(TargetSessionAttrs::Any);
            }
            config
        });
        Self {
            role: Role::Primary,
            each: each.collect(),
            tls,
            sessions: Sessions::of(option),
            settings: session::settings_of_commands(),
            shard,
            last: AtomicUsize::new(0),
            met: Arc::default(),
        }
    }

    /// Shares knowledge of failovers with the servers of another URL to the same database.
    pub fn beside(self, others: &Self) -> Self {
        Self { met: Arc::clone(&others.met), ..self }
    }

    /// The first of the hosts that answers, to read from.
    pub fn for_reading(self) -> Self {
        Self { role: Role::Any, ..self }
    }

    /// Each of the hosts for itself, to read from. `primary`: the servers of the same database that allow writes.
    pub fn standbys_of(self, primary: &Self) -> Vec<Self> {
        let Self { each, tls, sessions, settings, shard, .. } = self;
        let standby = |config| Self {
            role: Role::Any,
            each: vec![config],
            tls: tls.clone(),
            sessions: Sessions::of(sessions.option()),
            settings: settings.clone(),
            shard: shard.clone(),
            last: AtomicUsize::new(0),
            met: Arc::clone(&primary.met),
        };
        each.into_iter().map(standby).collect()
    }

    /// The name of the database, if it is one of several.
    pub fn shard(&self) -> Option<&Arc<str>> {
        self.shard.as_ref()
    }

    /// A connection turned out to be no session.
    pub fn distrust(&self) -> DatabaseError {
        self.sessions.distrust()
    }

    /// A connection to the server that allows writes, or to any if it is only to read from.
    ///
    /// # Errors
    /// Why there is none; if waiting may help with any of the hosts, what is wrong with that.
    pub async fn connect(&self) -> Result<Connected, DatabaseError> {
        let (hosts, last) = (self.each.len(), self.last.load(Ordering::Relaxed));
        let mut worst = None;
        for index in (last..hosts).chain(0..last) {
            match self.connect_to(index).await {
                Ok(connected) => return Ok(connected),
                Err(error) => {
                    let is_telling = matches!(error, DatabaseError::Superseded { .. });
                    if is_telling || worst.as_ref().is_none_or(|worst: &DatabaseError| worst.retry() != Retry::Soon) {
                        worst = Some(error);
                    }
                }
            }
        }
        Err(worst.unwrap_or(DatabaseError::ConnectTimeout))
    }

    /// The time until one of the hosts has let this in. The rest of a connection takes many round trips, and has a time of its own: the
    /// share of a host among several would be too short for a database that is far away.
    fn patience(&self) -> Duration {
        (CONNECT_TIMEOUT / u32::try_from(self.each.len()).unwrap_or(u32::MAX)).max(LEAST)
    }

    /// Whether there is another server to look for.
    pub fn are_several(&self) -> bool {
        self.role == Role::Primary && self.each.len() > 1
    }

    /// Asks the hosts that are not in use for the successor of the one that is: that may go on, and not know that it was given up.
    pub async fn look_for_successor(&self) {
        let last = self.last.load(Ordering::Relaxed);
        for (index, config) in self.each.iter().enumerate().filter(|(index, _)| *index != last) {
            let Ok(LoggedIn { client, mut connection, .. }) = self.log_in(config).await else { continue };
            let identified = timeout(CONNECT_TIMEOUT, self.identify(&client, &mut connection)).await;
            let Ok(Ok(Some(server))) = identified else { continue };
            if self.succeeds(server) && self.meet(server).is_ok() {
                self.last.store(index, Ordering::Relaxed);
            }
        }
    }

    async fn connect_to(&self, index: usize) -> Result<Connected, DatabaseError> {
        let logged_in = self.log_in(&self.each[index]).await?;
        let beginning = timeout(CONNECT_TIMEOUT, Box::pin(self.begin(index, logged_in))).await;
        beginning.unwrap_or(Err(DatabaseError::ConnectTimeout))
    }

    /// Logs in at the first address of this host that accepts the login.
    async fn log_in(&self, config: &Config) -> Result<LoggedIn, DatabaseError> {
        let connecting = async {
            let mut failed = DatabaseError::Lost;
            for config in addresses(config).await.map_err(DatabaseError::UnknownHost)? {
                match config.connect(self.tls.clone()).await {
                    Ok((client, connection)) => return Ok(LoggedIn { config, client, connection }),
                    Err(error) => failed = error.into(),
                }
            }
            Err(failed)
        };
        timeout(self.patience(), connecting).await.unwrap_or(Err(DatabaseError::ConnectTimeout))
    }

    /// Finds out whether a host is the right one, and whether the connection is a session, and sets it up.
    async fn begin(&self, index: usize, logged_in: LoggedIn) -> Result<Connected, DatabaseError> {
        let LoggedIn { config, client, mut connection } = logged_in;
        // A pooler lets clients in although its server is away, and others of the hosts wait for their turn.
        let identified = timeout(self.patience().max(LEAST_TO_IDENTIFY), self.identify(&client, &mut connection)).await;
        let server = identified.unwrap_or(Err(DatabaseError::ConnectTimeout))?;
        if let Some(server) = server {
            self.meet(server)?;
        }
        // Not only at the end: whoever waits for this connection may give up before, and begins with this host next time.
        if self.last.swap(index, Ordering::Relaxed) != index {
            let (shard, of) = (self.shard.as_deref(), self.each.len());
            info!(shard, host = index + 1, of, "the database is at another host of its URL");
        }
        let begin = async {
            self.sessions.prove(&client, || config.connect(self.tls.clone())).await?;
            // Not before: through a pooler in transaction mode, a setting would reach other clients.
            Ok::<_, DatabaseError>(client.batch_execute(&self.settings).await?)
        };
        tokio::select! {
            biased;
            begun = begin => begun?,
            end = &mut connection => return Err(end.err().map_or(DatabaseError::Lost, DatabaseError::from)),
        }
        let canceller = Canceller::of(&client, &config, &self.tls);
        Ok(Connected { client, connection, server, canceller })
    }

    /// The server of a connection, if it has to allow writes.
    async fn identify(
        &self,
        client: &Client,
        connection: &mut Connection<Socket, TlsStream>,
    ) -> Result<Option<Server>, DatabaseError> {
        match self.role {
            Role::Any => Ok(None),
            Role::Primary => tokio::select! {
                biased;
                server = identify(client) => server,
                end = connection => Err(end.err().map_or(DatabaseError::Lost, DatabaseError::from)),
            },
        }
    }

    fn meet(&self, Server { cluster, timeline }: Server) -> Result<(), DatabaseError> {
        let mut met = self.met.lock();
        let latest = met.entry(cluster).or_insert(timeline);
        if timeline < *latest {
            let latest = *latest;
            warn!(
                shard = self.shard.as_deref(),
                timeline, latest, "a server of before the failover allows writes: fence it"
            );
            return Err(DatabaseError::Superseded { timeline, latest });
        }
        if timeline > std::mem::replace(latest, timeline) {
            info!(shard = self.shard.as_deref(), timeline, "the database has failed over");
        }
        Ok(())
    }

    /// Whether a server is of a later timeline than any that was met of its cluster.
    fn succeeds(&self, Server { cluster, timeline }: Server) -> bool {
        self.met.lock().get(&cluster).is_some_and(|latest| timeline > *latest)
    }

    /// Whether a server is of the cluster and the timeline of the primary. If the primary does not tell its own, any is.
    pub fn is_of_now(&self, Server { cluster, timeline }: Server) -> bool {
        let met = self.met.lock();
        met.is_empty() || met.get(&cluster) == Some(&timeline)
    }

    /// Whether no later primary of its cluster was met since.
    pub fn is_current(&self, server: Option<Server>) -> bool {
        server.is_none_or(|Server { cluster, timeline }| {
            self.met.lock().get(&cluster).is_none_or(|latest| timeline >= *latest)
        })
    }
}

/// One round trip. A standby has no timeline that it writes to. With the schema of each name, since the search path is not set yet.
const IDENTIFY: &str = "\
    select pg_catalog.current_setting('transaction_read_only'), system_identifier,
        case when not pg_catalog.pg_is_in_recovery() then pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()) end
    from pg_catalog.pg_control_system()";

/// For servers that do not have `pg_control_system`, or on which this role may not call it.
const IS_READ_ONLY: &str = "select pg_catalog.current_setting('transaction_read_only')";

/// The identity of this server.
async fn identify(client: &Client) -> Result<Option<Server>, DatabaseError> {
    let messages = match client.simple_query(IDENTIFY).await {
        Err(error) if error.code().is_some_and(is_unknown) => client.simple_query(IS_READ_ONLY).await?,
        messages => messages?,
    };
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = row.ok_or(DatabaseError::Lost)?;
    if row.try_get(0)? == Some("on") {
        return Err(DatabaseError::ReadOnly);
    }
    if row.len() < 3 {
        return Ok(None);
    }
    let cluster = row.try_get(1)?.and_then(|text| text.parse::<i64>().ok());
    let timeline = row.try_get(2)?.and_then(|file| u32::from_str_radix(file.get(..8)?, 16).ok());
    Ok(cluster.zip(timeline).map(|(cluster, timeline)| Server { cluster: cluster.cast_unsigned(), timeline }))
}

/// By class: a feature that is not there, a name that is not, or a privilege.
fn is_unknown(code: &SqlState) -> bool {
    matches!(code.code().get(..2), Some("0A" | "42" | "55"))
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::Host;

    use super::*;
    use crate::postgres::tls;
    use crate::postgres::url::{Roots, parse};

    fn servers(url: &str) -> Servers {
        let (config, tls) = (parse(url).unwrap().config, tls::connector(&Roots::System).unwrap());
        Servers::new(Address { option: "--database-url", config, tls, shard: None }, STALL)
    }

    #[test]
    fn each_host_has_what_the_url_says_of_all() {
        let url =
            "postgres://u:p@one:5432,two:5433/d?target_session_attrs=read-write&application_name=a&sslmode=verify-full";
        let servers = servers(url);
        let hosts: Vec<_> =
            servers.each.iter().map(|one| (one.get_hosts().to_vec(), one.get_ports().to_vec())).collect();
        let host = |name: &str, port| (vec![Host::Tcp(name.into())], vec![port]);
        assert_eq!(hosts, [host("one", 5432), host("two", 5433)]);
        for one in &servers.each {
            assert_eq!((one.get_user(), one.get_password(), one.get_dbname()), (Some("u"), Some(&b"p"[..]), Some("d")));
            assert_eq!(one.get_application_name(), Some("a"));
            assert_eq!(one.get_ssl_mode(), tokio_postgres::config::SslMode::Require);
        }
    }

    /// Commands, too, would wait for hours for a machine that is gone.
    #[test]
    fn every_connection_ends_when_the_other_side_is_silent() {
        for one in servers("postgres://u@one,two/d").each {
            assert_eq!((one.get_keepalives_idle(), one.get_keepalives_interval()), (SILENCE, Some(PROBE)));
            assert_eq!((one.get_tcp_user_timeout(), one.get_connect_timeout()), (Some(&STALL), Some(&CONNECT_TIMEOUT)));
        }
    }

    #[test]
    fn a_primary_that_was_given_up_is_refused() {
        let servers = servers("postgres://u@h/d");
        let server = |cluster, timeline| Server { cluster, timeline };
        servers.meet(server(7, 1)).unwrap();
        servers.meet(server(7, 2)).unwrap();
        assert!(matches!(servers.meet(server(7, 1)), Err(DatabaseError::Superseded { timeline: 1, latest: 2 })));
        assert!(!servers.is_current(Some(server(7, 1))) && servers.is_current(Some(server(7, 2))));
        assert!(servers.succeeds(server(7, 3)) && !servers.succeeds(server(7, 2)) && !servers.succeeds(server(8, 3)));
        servers.meet(server(8, 1)).unwrap();
        assert!(
            servers.is_current(Some(server(8, 1))) && servers.is_current(None),
            "another cluster is another database"
        );
    }
}
