//! The way to other sidecars: one connection to Postgres, which tells them who is online here, brings them messages, and
//! hears what they say.
//!
//! While it is broken, messages are lost in both directions. Once it is back, whoever may have missed one is told to connect
//! again, here and elsewhere: devices that connect ask for what they missed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Notification, Row, Statement};
use tracing::{debug, info, warn};

use super::hub::{Hub, Known};
use super::parcel::{Devices, Parcel};
use super::{ClientId, SidecarId, UserId};
use crate::postgres::{Backoff, Database, DatabaseError, Notifications, is_disconnection};

/// How often a sidecar says that it is alive: for 15 s of silence it counts as such.
const RENEWAL: Duration = Duration::from_secs(5);

/// How long Postgres may take to answer before the link counts as broken, and for each MiB on top.
const PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE_PER_MEBIBYTE: Duration = Duration::from_secs(1);

/// What goes into one statement.
const GROUP_COMMANDS: usize = 512;
const GROUP_BYTES: usize = 1 << 20;

/// What may wait to be sent, in KiB; a message costs one at least.
const ROOM: usize = 64 << 10;

/// How devices use the link. Cheap to clone.
#[derive(Clone)]
pub struct Way {
    commands: mpsc::UnboundedSender<Command>,
    room: Arc<Semaphore>,
}

enum Command {
    Join { user: UserId, client_id: ClientId, done: oneshot::Sender<()> },
    Leave { user: UserId, client_id: ClientId, connection: i64 },
    Send { to: Vec<SidecarId>, message: String, done: oneshot::Sender<bool>, _room: OwnedSemaphorePermit },
    Exit { done: oneshot::Sender<()> },
}

impl Way {
    /// Makes a device known, and learns of the others of the user; if the link is broken, that is for later.
    pub async fn join(&self, user: &UserId, client_id: &ClientId) {
        let (done, waiting) = oneshot::channel();
        let _ = self.commands.send(Command::Join { user: user.clone(), client_id: client_id.clone(), done });
        let _ = waiting.await;
    }

    pub fn leave(&self, user: &UserId, client_id: &ClientId, connection: i64) {
        let _ = self.commands.send(Command::Leave { user: user.clone(), client_id: client_id.clone(), connection });
    }

    /// Sends a message, behind those before it; waits for room. False: it was not sent, or is not known to be.
    pub async fn send(&self, to: Vec<SidecarId>, message: String) -> bool {
        let room = u32::try_from((message.len() / 1024 + 1).min(ROOM)).unwrap_or(u32::MAX);
        let Ok(_room) = Arc::clone(&self.room).acquire_many_owned(room).await else {
            return false;
        };
        let (done, sent) = oneshot::channel();
        let _ = self.commands.send(Command::Send { to, message, done, _room });
        sent.await.unwrap_or(false)
    }

    /// Tells the others that this sidecar ends, as far as the link is there.
    pub async fn exit(&self) {
        let (done, exited) = oneshot::channel();
        let _ = self.commands.send(Command::Exit { done });
        let _ = exited.await;
    }
}

/// The other end.
pub struct Link {
    database: Database,
    hub: Arc<Hub>,
    commands: mpsc::UnboundedReceiver<Command>,
    /// A command that does not fit into the group before it.
    next: Option<Command>,
}

/// One life of the connection.
struct Line {
    client: Client,
    statements: Statements,
    /// With them, the connection ends: what was not sent yet must not be carried out behind what comes next.
    notifications: Notifications,
    /// The name of this life: whoever sends to another one sends to nobody.
    id: SidecarId,
    renewal: Interval,
}

struct Statements {
    join: Statement,
    leave: Statement,
    send: Statement,
    fetch: Statement,
    renew: Statement,
}

/// How a life of the connection ends.
enum End {
    Lost(DatabaseError),
    /// The sidecar ends.
    Exit,
}

impl From<DatabaseError> for End {
    fn from(error: DatabaseError) -> Self {
        Self::Lost(error)
    }
}

impl Link {
    pub fn new(database: Database, hub: Arc<Hub>) -> (Way, Self) {
        let (sender, commands) = mpsc::unbounded_channel();
        let way = Way { commands: sender, room: Arc::new(Semaphore::new(ROOM)) };
        (way, Self { database, hub, commands, next: None })
    }

    /// Runs for ever, connecting again when the connection is lost.
    pub async fn run(mut self) {
        let first_backoff = || Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        let (mut backoff, mut previous) = (first_backoff(), None);
        // As long as no device has connected, there is nobody to tell and nothing to hear.
        match self.commands.recv().await {
            Some(Command::Exit { done }) => {
                let _ = done.send(());
                return self.refuse_all().await;
            }
            first => self.next = first,
        }
        loop {
            match self.open(previous.as_ref()).await {
                Ok(line) => {
                    info!(sidecar = &*line.id, "relaying to other sidecars");
                    let is_first = previous.replace(line.id.clone()).is_none();
                    let since = Instant::now();
                    match self.serve(line, is_first).await {
                        End::Exit => return self.refuse_all().await,
                        End::Lost(error) => {
                            warn!(
                                error = &error as &dyn std::error::Error,
                                "the way to other sidecars is lost, reconnecting"
                            );
                        }
                    }
                    if since.elapsed() > RENEWAL {
                        backoff = first_backoff();
                    }
                }
                Err(error) if backoff.attempts() == 0 => {
                    warn!(error = &error as &dyn std::error::Error, "other sidecars cannot be reached, trying again");
                }
                Err(_) => {}
            }
            // Before there was a first connection, nothing is known, and everybody waits for it.
            let has_been_up = previous.is_some();
            if has_been_up && let Some(command) = self.next.take() {
                refuse(command);
            }
            let pause = backoff.sleep();
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    Some(command) = self.commands.recv(), if has_been_up => refuse(command),
                }
            }
        }
    }

    async fn refuse_all(mut self) {
        while let Some(command) = self.commands.recv().await {
            refuse(command);
        }
    }

    /// Connects, while nothing can be sent.
    async fn open(&mut self, previous: Option<&SidecarId>) -> Result<Line, DatabaseError> {
        let opening = Line::open(&self.database, previous);
        tokio::pin!(opening);
        loop {
            tokio::select! {
                biased;
                line = &mut opening => return line,
                Some(command) = self.commands.recv(), if previous.is_some() => refuse(command),
            }
        }
    }

    /// Serves one life of the connection, until it breaks.
    async fn serve(&mut self, mut line: Line, is_first: bool) -> End {
        if !is_first {
            let missed = self.hub.start_over();
            if let Err(error) = line.tell(&missed).await {
                self.hub.remember(missed);
                return End::Lost(error);
            }
        }
        loop {
            let waiting = self.next.take();
            let result = tokio::select! {
                biased;
                _ = line.renewal.tick() => {
                    self.next = waiting;
                    line.renew(&self.hub).await.map_err(End::Lost)
                }
                notification = line.notifications.next() => {
                    self.next = waiting;
                    match notification {
                        Some(notification) => line.hear(&self.hub, &notification).await.map_err(End::Lost),
                        None => Err(End::Lost(DatabaseError::Lost)),
                    }
                }
                command = next_command(waiting.is_some(), &mut self.commands) => match waiting.or(command) {
                    Some(command) => self.carry_out(&mut line, command).await,
                    None => Err(End::Exit),
                },
            };
            if let Err(end) = result {
                return end;
            }
        }
    }

    /// Carries out a command, together with those of its kind that follow.
    async fn carry_out(&mut self, line: &mut Line, command: Command) -> Result<(), End> {
        match command {
            Command::Join { user, client_id, done } => {
                let mut known = HashSet::from([(user.clone(), client_id.clone())]);
                let (mut devices, mut waiting) = (vec![(user, client_id)], vec![done]);
                while let Some(Command::Join { user, client_id, done }) = self.another(devices.len(), |command| {
                    matches!(command, Command::Join { user, client_id, .. } if known.insert((user.clone(), client_id.clone())))
                }) {
                    devices.push((user, client_id));
                    waiting.push(done);
                }
                let result = line.join(&self.hub, &devices).await;
                for done in waiting {
                    let _ = done.send(());
                }
                Ok(result?)
            }
            Command::Leave { user, client_id, connection } => {
                let mut devices = vec![(user, client_id, connection)];
                while let Some(Command::Leave { user, client_id, connection }) =
                    self.another(devices.len(), |command| matches!(command, Command::Leave { .. }))
                {
                    devices.push((user, client_id, connection));
                }
                Ok(line.leave(&devices).await?)
            }
            Command::Send { to, message, done, _room } => {
                let mut bytes = message.len();
                let (mut messages, mut waiting) = (vec![(to, message)], vec![(done, _room)]);
                while bytes < GROUP_BYTES
                    && let Some(Command::Send { to, message, done, _room }) =
                        self.another(messages.len(), |command| matches!(command, Command::Send { .. }))
                {
                    bytes += message.len();
                    messages.push((to, message));
                    waiting.push((done, _room));
                }
                let sent = line.send(&messages).await;
                for (done, _) in waiting {
                    let _ = done.send(matches!(sent, Ok(true)));
                }
                sent.map(drop)?;
                Ok(())
            }
            Command::Exit { done } => {
                let _ = line.exit().await;
                let _ = done.send(());
                Err(End::Exit)
            }
        }
    }

    /// The next command, if there is one that fits.
    fn another(&mut self, len: usize, mut fits: impl FnMut(&Command) -> bool) -> Option<Command> {
        if len >= GROUP_COMMANDS || self.next.is_some() {
            return None;
        }
        let command = self.commands.try_recv().ok()?;
        if fits(&command) {
            return Some(command);
        }
        self.next = Some(command);
        None
    }
}

/// None if there is a command that waits.
async fn next_command(is_waiting: bool, commands: &mut mpsc::UnboundedReceiver<Command>) -> Option<Command> {
    if is_waiting { None } else { commands.recv().await }
}

/// Answers a command while the link is broken.
fn refuse(command: Command) {
    match command {
        Command::Join { done, .. } | Command::Exit { done } => drop(done.send(())),
        Command::Send { done, .. } => drop(done.send(false)),
        // Nobody knows of it any more.
        Command::Leave { .. } => {}
    }
}

impl Line {
    async fn open(database: &Database, previous: Option<&SidecarId>) -> Result<Self, DatabaseError> {
        let (client, notifications) = database.connect_to_listen().await?;
        // Nothing here has to survive a crash of Postgres: no commit waits for the disk.
        in_time(client.batch_execute("set synchronous_commit to off")).await?;
        let statements = Statements {
            join: in_time(client.prepare(JOIN)).await?,
            leave: in_time(client.prepare(LEAVE)).await?,
            send: in_time(client.prepare(SEND)).await?,
            fetch: in_time(client.prepare(FETCH)).await?,
            renew: in_time(client.prepare(RENEW)).await?,
        };
        let previous = previous.map(|id| &**id);
        let id: String = in_time(client.query_one(ENTER, &[&previous])).await?.try_get(0)?;
        // Letters and digits. Nobody sends to it before a device of it is known.
        in_time(client.batch_execute(&format!("listen livestore_relay_{id}"))).await?;
        let mut renewal = interval(RENEWAL);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { client, statements, notifications, id: id.into(), renewal })
    }

    async fn join(&mut self, hub: &Hub, devices: &[(UserId, ClientId)]) -> Result<(), DatabaseError> {
        let (users, clients): (Vec<&str>, Vec<&str>) =
            devices.iter().map(|(user, client)| (&**user, &**client)).unzip();
        let rows = in_time(self.client.query(&self.statements.join, &[&&*self.id, &users, &clients])).await?;
        let known = rows.iter().map(known).collect::<Result<_, _>>()?;
        let gone = hub.learn(&self.id, known);
        if gone.is_empty() { Ok(()) } else { self.leave(&gone).await }
    }

    async fn leave(&mut self, devices: &Devices) -> Result<(), DatabaseError> {
        let users: Vec<&str> = devices.iter().map(|(user, ..)| &**user).collect();
        let clients: Vec<&str> = devices.iter().map(|(_, client, _)| &**client).collect();
        let connections: Vec<i64> = devices.iter().map(|(.., connection)| *connection).collect();
        let arguments: [&(dyn ToSql + Sync); 4] = [&&*self.id, &users, &clients, &connections];
        in_time(self.client.execute(&self.statements.leave, &arguments)).await?;
        Ok(())
    }

    /// Sends each sidecar the messages for it. False: Postgres did not take them, and that is all.
    async fn send(&mut self, messages: &[(Vec<SidecarId>, String)]) -> Result<bool, DatabaseError> {
        let mut texts = HashMap::<&str, String>::new();
        for (to, message) in messages {
            for sidecar in to {
                let text = texts.entry(&**sidecar).or_insert_with(|| format!(r#"{{"at":"{}","messages":["#, self.id));
                text.push_str(message);
                text.push(',');
            }
        }
        let finish = |(sidecar, mut text): (_, String)| {
            text.pop();
            text.push_str("]}");
            (sidecar, text)
        };
        let mut part = (Vec::new(), Vec::new());
        let mut bytes = 0;
        // Not all copies of what is long in one statement.
        for (sidecar, text) in texts.into_iter().map(finish) {
            if bytes + text.len() > GROUP_BYTES && bytes > 0 {
                if !self.send_some(&part.0, &part.1, bytes).await? {
                    return Ok(false);
                }
                part = Default::default();
                bytes = 0;
            }
            bytes += text.len();
            part.0.push(sidecar);
            part.1.push(text);
        }
        self.send_some(&part.0, &part.1, bytes).await
    }

    async fn send_some(&mut self, sidecars: &[&str], texts: &[String], bytes: usize) -> Result<bool, DatabaseError> {
        let mebibytes = u32::try_from(bytes >> 20).unwrap_or(u32::MAX);
        let patience = PATIENCE + PATIENCE_PER_MEBIBYTE * mebibytes;
        let arguments: [&(dyn ToSql + Sync); 3] = [&&*self.id, &sidecars, &texts];
        let sending = self.client.query_one(&self.statements.send, &arguments);
        match timeout(patience, sending).await.map_err(|_| DatabaseError::NoAnswer)? {
            Ok(sent) if sent.try_get(0)? => Ok(true),
            // Others have taken this sidecar for dead.
            Ok(_) => Err(DatabaseError::Lost),
            Err(error) if is_disconnection(&error) => Err(error.into()),
            Err(error) => {
                warn!(sqlstate = error.code().map(SqlState::code), "messages to other sidecars were not sent");
                Ok(false)
            }
        }
    }

    /// Tells the others whose messages their devices may have missed.
    async fn tell(&mut self, missed: &[UserId]) -> Result<(), DatabaseError> {
        if missed.is_empty() {
            return Ok(());
        }
        let missed: Vec<&str> = missed.iter().map(|user| &**user).collect();
        in_time(self.client.execute("select livestore.relay_miss($1, $2)", &[&&*self.id, &missed])).await?;
        Ok(())
    }

    async fn renew(&mut self, hub: &Hub) -> Result<(), DatabaseError> {
        hub.question();
        let is_known: bool = in_time(self.client.query_one(&self.statements.renew, &[&&*self.id])).await?.try_get(0)?;
        if !is_known || !self.notifications.are_current() {
            return Err(DatabaseError::Lost);
        }
        hub.answered();
        Ok(())
    }

    async fn exit(&mut self) -> Result<(), DatabaseError> {
        in_time(self.client.execute("select livestore.relay_exit($1)", &[&&*self.id])).await?;
        Ok(())
    }

    async fn hear(&mut self, hub: &Hub, notification: &Notification) -> Result<(), DatabaseError> {
        let fetched;
        let text = match notification.payload().split_once(':') {
            Some((number, "")) => {
                let Ok(number) = number.parse::<i64>() else {
                    return Ok(());
                };
                let row = in_time(self.client.query_one(&self.statements.fetch, &[&number])).await?;
                fetched = row.try_get::<_, Option<String>>(0)?;
                // Removed, since this sidecar was taken for dead: what it held is lost.
                fetched.as_deref().ok_or(DatabaseError::Lost)?
            }
            Some((_, text)) => text,
            None => return Ok(()),
        };
        match serde_json::from_str::<Parcel<'_>>(text) {
            Ok(parcel) => hub.hear(parcel),
            // The text stays out of the log: it may hold what devices say to each other.
            Err(error) => debug!(line = error.line(), column = error.column(), "a text that is not another sidecar's"),
        }
        Ok(())
    }
}

fn known(row: &Row) -> Result<Known, tokio_postgres::Error> {
    let text = |column| row.try_get::<_, &str>(column).map(Arc::from);
    Ok(Known {
        user: text("user_id")?,
        client_id: text("client_id")?,
        connection: row.try_get("connection")?,
        sidecar: text("sidecar")?,
    })
}

const ENTER: &str = "select livestore.relay_enter(interval '15 seconds', $1)";
const RENEW: &str = "select livestore.relay_renew($1, interval '15 seconds')";
const JOIN: &str = "select user_id, client_id, connection, sidecar from livestore.relay_join($1, $2, $3)";
const LEAVE: &str = "select livestore.relay_leave($1, $2, $3, $4)";
const SEND: &str = "select livestore.relay_send($1, $2, $3)";
const FETCH: &str = "select livestore.relay_fetch($1)";

async fn in_time<T>(statement: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, DatabaseError> {
    Ok(timeout(PATIENCE, statement).await.map_err(|_| DatabaseError::NoAnswer)??)
}
