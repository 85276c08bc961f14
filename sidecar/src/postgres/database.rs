//! The database: connections to read with, to commit on and to listen on.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool::managed::{BuildError, Object, Pool, PoolError, TimeoutType};
use deadpool::{Runtime, Status};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OnceCell, mpsc};
use tokio::time::{sleep, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Notification};
use tokio_util::task::AbortOnDropHandle;

use super::demand::Demand;
use super::pool::{Connections, Pooled};
use super::servers::{Address, Connected, Server, Servers};
use super::standbys::{StandbyInUse, Standbys, Unfit};
use super::{CONNECT_TIMEOUT, DatabaseError, check};

/// The time that a connection of the pool may take to be made, beyond what the attempts themselves take.
const CREATE_TIMEOUT: Duration = Duration::from_secs(10);

/// The interval at which the other hosts of the URL are asked whether one of them is the primary now.
const LOOK: Duration = Duration::from_secs(10);

/// The time that a notification may take to arrive.
const NOTIFICATION: Duration = Duration::from_secs(3);

/// The notifications that are kept until they are read: at most 8 MB. Any role of the database can send some, faster than they are read.
const UNREAD_NOTIFICATIONS: usize = 1024;

/// The notifications that arrive on a connection. Dropping this closes the connection, and statements that were not sent yet
/// are not executed.
pub struct Notifications {
    arrived: mpsc::Receiver<Notification>,
    /// Some had no place.
    were_lost: Arc<AtomicBool>,
    servers: Arc<Servers>,
    server: Option<Server>,
    _connection: AbortOnDropHandle<()>,
}

impl Notifications {
    /// Records that this connection is not a session, since a pooler in transaction mode is in between.
    pub fn distrust(&self) -> DatabaseError {
        self.servers.distrust()
    }

    /// Whether they come from a server that is still the one to work with.
    pub fn are_current(&self) -> bool {
        self.servers.is_current(self.server)
    }

    /// The server that they come from.
    pub fn server(&self) -> Option<Server> {
        self.server
    }

    /// The next ones, at most so many; none if the connection is lost. Cancel safe.
    pub async fn next(&mut self, most: usize) -> Vec<Notification> {
        let mut next = Vec::new();
        self.arrived.recv_many(&mut next, most).await;
        next
    }

    /// Whether some were lost since this was last asked, because they came faster than they were read.
    pub fn were_lost(&self) -> bool {
        self.were_lost.swap(false, Ordering::AcqRel)
    }
}

/// A connection of the pool.
pub type PoolClient = Object<Connections>;

/// The database, and a pool of connections to it for reading.
#[derive(Clone)]
pub struct Database {
    servers: Arc<Servers>,
    /// The servers to listen at.
    listen_servers: Arc<Servers>,
    /// Set once a notification that was sent through `servers` has arrived at `listen_servers`.
    is_heard: Arc<OnceCell<()>>,
    demand: Demand,
    pool: Pool<Connections>,
    /// For functions of the operator. They could replace the prepared statements of their session, and keep its settings.
    functions: Pool<Connections>,
    /// To read histories from.
    standbys: Option<Arc<Standbys>>,
    /// Nothing is written, and the server may be a standby.
    is_read_only: bool,
    /// A connection outside the pool, to check the database. A pool that clients keep busy must not make the check fail.
    checking: Pool<Connections>,
}

impl Database {
    /// Makes no connection yet. Listens at another address if one is given, and reads histories from these standbys; `connections` bounds
    /// the pool, and that of each standby. `is_read_only`: the server at `address` may be a standby itself.
    pub fn new(
        address: Address,
        listen: Option<Address>,
        standbys: Option<Address>,
        is_read_only: bool,
        connections: usize,
        demand: Demand,
    ) -> Result<Self, BuildError> {
        let servers = address.servers();
        let servers = Arc::new(if is_read_only { servers.for_reading() } else { servers });
        let listen_servers = match listen {
            None => Arc::clone(&servers),
            Some(listen) => Arc::new(listen.servers().beside(&servers)),
        };
        let pool_of = |connections: Connections, size| {
            let pool = Pool::builder(connections).max_size(size).runtime(Runtime::Tokio1);
            pool.create_timeout(Some(CREATE_TIMEOUT)).build()
        };
        let pool = |servers: &Arc<Servers>, size| {
            pool_of(Connections { servers: Arc::clone(servers), are_renewed: false }, size)
        };
        let standbys = match standbys {
            None => None,
            Some(address) => {
                let each = address.servers().standbys_of(&servers).into_iter().map(Arc::new);
                let pools = each.map(|standby| pool(&standby, connections)).collect::<Result<_, _>>()?;
                Some(Arc::new(Standbys::new(pools)))
            }
        };
        let functions = pool_of(Connections { servers: Arc::clone(&servers), are_renewed: true }, connections)?;
        let (pool, checking) = (pool(&servers, connections)?, pool(&servers, 1)?);
        let is_heard = Arc::default();
        Ok(Self { servers, listen_servers, is_heard, demand, pool, functions, standbys, is_read_only, checking })
    }

    /// The name of the database, if it is one of several.
    pub fn shard(&self) -> Option<&Arc<str>> {
        self.servers.shard()
    }

    /// The same for log lines.
    pub fn label(&self) -> Option<&str> {
        self.shard().map(|name| &**name)
    }

    /// Whether nothing can be written, and the server may be behind another one.
    pub fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// The clients' need of the database.
    pub fn demand(&self) -> &Demand {
        &self.demand
    }

    /// Closes the connections of the pool while nobody needs them. Never ends.
    pub async fn close_when_idle(self) {
        let is_busy = || self.pool().1 > 0;
        let close = || {
            self.pool.retain(|_, _| false);
            self.functions.retain(|_, _| false);
            self.checking.retain(|_, _| false);
            if let Some(standbys) = &self.standbys {
                standbys.close_idle();
            }
        };
        self.demand.watch(is_busy, close).await;
    }

    /// Notices that another host of the URL was promoted although the primary in use goes on. Never ends.
    pub async fn look_for_successors(self) {
        if !self.servers.are_several() {
            return std::future::pending().await;
        }
        loop {
            sleep(LOOK).await;
            self.demand.awake().await;
            self.servers.look_for_successor().await;
        }
    }

    /// A connection beside the pool: the committer's and the listener's, which drive it.
    pub async fn connect(&self) -> Result<Connected, DatabaseError> {
        self.demand.touch();
        self.servers.connect().await
    }

    /// Whether a server is still the one to work with, as far as this process knows: none of a later timeline was met.
    pub fn is_current(&self, server: Option<Server>) -> bool {
        self.servers.is_current(server)
    }

    /// A connection to LISTEN on, and its notifications. A task drives the connection.
    pub async fn connect_to_listen(&self) -> Result<(Client, Notifications), DatabaseError> {
        let Connected { client, mut connection, server, .. } = self.listen_servers.connect().await?;
        let (sender, arrived) = mpsc::channel(UNREAD_NOTIFICATIONS);
        let were_lost = Arc::new(AtomicBool::new(false));
        let lost = Arc::clone(&were_lost);
        let connection = tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
                let AsyncMessage::Notification(notification) = message else { continue };
                match sender.try_send(notification) {
                    Ok(()) => {}
                    // To wait for a place would hold up the answers that come on this connection.
                    Err(TrySendError::Full(_)) => lost.store(true, Ordering::Release),
                    Err(TrySendError::Closed(_)) => return,
                }
            }
        });
        let (servers, _connection) = (Arc::clone(&self.listen_servers), AbortOnDropHandle::new(connection));
        Ok((client, Notifications { arrived, were_lost, servers, server, _connection }))
    }

    /// A connection of the pool; waits for one to be free.
    pub async fn client(&self) -> Result<PoolClient, DatabaseError> {
        self.demand.touch();
        client_of(&self.pool).await
    }

    /// The same for work that no client waits for: the database may be suspended for all of it.
    pub async fn background_client(&self) -> Result<PoolClient, DatabaseError> {
        client_of(&self.pool).await
    }

    /// A connection for a function of the operator that a client waits for. Its statements have no names: a function that runs on it could
    /// replace those.
    pub async fn function_client(&self) -> Result<PoolClient, DatabaseError> {
        self.demand.touch();
        client_of(&self.functions).await
    }

    /// The same for a function that no client waits for.
    pub async fn background_function_client(&self) -> Result<PoolClient, DatabaseError> {
        client_of(&self.functions).await
    }

    /// A connection to a standby that has all that was asked for, if there is one.
    pub async fn standby(&self) -> Option<(PoolClient, StandbyInUse<'_>)> {
        self.standbys.as_ref()?.client(&self.servers, async || self.client().await).await
    }

    /// Tries each of the standbys: a connection to it, or the reason why it is not read from.
    pub async fn try_standbys(&self) -> Vec<Result<PoolClient, Unfit>> {
        match &self.standbys {
            Some(standbys) => standbys.try_all(&self.servers, async || self.client().await).await,
            None => Vec::new(),
        }
    }

    /// Events were rewritten, or may have been: a standby has to follow before it is read again.
    pub fn ask_standbys_anew(&self) {
        if let Some(standbys) = &self.standbys {
            standbys.ask_anew();
        }
    }

    /// The numbers of idle connections of the pools, of busy ones, and of requests that wait for one.
    pub fn pool(&self) -> (usize, usize, usize) {
        let (reading, functions) = (self.pool.status(), self.functions.status());
        let busy = busy(&self.pool) + busy(&self.functions);
        (reading.available + functions.available, busy, reading.waiting + functions.waiting)
    }

    /// Whether everything is there that serving takes: the database, the extension in a version that this sidecar
    /// knows, the privilege to push.
    pub async fn check(&self) -> Result<(), DatabaseError> {
        self.ask(async |client| check(client).await).await?;
        if Arc::ptr_eq(&self.servers, &self.listen_servers) {
            return Ok(());
        }
        let heard = || async { if self.hears().await? { Ok(()) } else { Err(DatabaseError::NotHeard) } };
        self.is_heard.get_or_try_init(heard).await.copied()
    }

    /// Whether it is the shard with this number: another one would create stores that belong elsewhere.
    pub async fn check_shard(&self, number: i32) -> Result<(), DatabaseError> {
        let shard = async |client: &Pooled| Ok(client.query_opt("select number from livestore.shard", &[]).await);
        let found = match self.ask(shard).await? {
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => None,
            row => row?.map(|row| row.try_get(0)).transpose()?,
        };
        if found == Some(number) { Ok(()) } else { Err(DatabaseError::OtherShard { number, found }) }
    }

    /// Whether a notification arrives.
    pub async fn hears(&self) -> Result<bool, DatabaseError> {
        let listening = async {
            let (listener, notifications) = self.connect_to_listen().await?;
            listener.batch_execute("listen livestore_check").await?;
            Ok((listener, notifications))
        };
        let listening = timeout(CONNECT_TIMEOUT, listening).await;
        let (_listener, mut notifications) = listening.unwrap_or(Err(DatabaseError::NoAnswer))?;
        let payload: String = self
            .ask(async |client| {
                let notify = "with mark as materialized (select gen_random_uuid()::text as payload)
                     select payload from mark, pg_notify('livestore_check', payload)";
                Ok(client.query_one(notify, &[]).await?.try_get(0)?)
            })
            .await?;
        let arrives = async {
            loop {
                match &notifications.next(1).await[..] {
                    [] => return false,
                    [notification, ..] if notification.payload() == payload => return true,
                    _ => {}
                }
            }
        };
        Ok(timeout(NOTIFICATION, arrives).await.unwrap_or(false))
    }

    /// Asks on the connection that is for this alone.
    pub async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&Pooled) -> Result<T, DatabaseError>,
    ) -> Result<T, DatabaseError> {
        let connecting = timeout(CONNECT_TIMEOUT, client_of(&self.checking)).await;
        let client = connecting.unwrap_or(Err(DatabaseError::NoAnswer))?;
        let answer = timeout(CONNECT_TIMEOUT, client.reading().run(question(&client))).await;
        answer.unwrap_or(Err(DatabaseError::NoAnswer))
    }
}

/// The connections that are in use.
fn busy(pool: &Pool<Connections>) -> usize {
    let Status { size, available, .. } = pool.status();
    size.saturating_sub(available)
}

pub(super) async fn client_of(pool: &Pool<Connections>) -> Result<PoolClient, DatabaseError> {
    pool.get().await.map_err(|error| match error {
        PoolError::Backend(error) => error,
        PoolError::Timeout(TimeoutType::Create) => DatabaseError::ConnectTimeout,
        PoolError::Timeout(TimeoutType::Wait | TimeoutType::Recycle) => DatabaseError::NoneFree,
        PoolError::Closed | PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_) => DatabaseError::Lost,
    })
}
