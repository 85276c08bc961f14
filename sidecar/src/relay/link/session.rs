//! One life of the connection to Postgres, and its SQL.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Notification, Row, Statement};
use tracing::{debug, warn};

use super::GROUP_BYTES;
use crate::postgres::{Database, DatabaseError, Notifications, is_disconnection};
use crate::relay::hub::{Hub, Known};
use crate::relay::parcel::{Devices, Parcel};
use crate::relay::{ClientId, SidecarId, UserId};

/// The interval at which a sidecar renews its lease: for 15 s of silence it counts as alive.
pub const RENEWAL: Duration = Duration::from_secs(5);

/// The time that Postgres may take to answer before the link counts as broken, and for each MiB on top.
const PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE_PER_MEBIBYTE: Duration = Duration::from_secs(1);

const ENTER: &str = "select livestore.relay_enter(interval '15 seconds', $1)";
const RENEW: &str = "select livestore.relay_renew($1, interval '15 seconds')";
const JOIN: &str = "select user_id, client_id, connection, sidecar from livestore.relay_join($1, $2, $3)";
const LEAVE: &str = "select livestore.relay_leave($1, $2, $3, $4)";
const SEND: &str = "select livestore.relay_send($1, $2, $3)";
const FETCH: &str = "select livestore.relay_fetch($1)";

/// The channel is known to those only who may send on it. So its name is not in the text of a statement, which roles that monitor the
/// database see in `pg_stat_activity` and `pg_stat_statements`: they could listen to what devices say to each other.
const NAME_CHANNEL: &str = "select set_config('livestore.relay_channel', $1, false)";
const LISTEN: &str = "\
    do language plpgsql $$
    begin
        execute format('listen %I', current_setting('livestore.relay_channel'));
    end
    $$";

/// One life of the connection.
pub struct LinkSession {
    client: Client,
    statements: Statements,
    /// With them, the connection ends: what was not sent yet must not be carried out behind what comes next.
    pub notifications: Notifications,
    /// The name of this life: messages for an earlier one reach nobody.
    pub id: SidecarId,
    pub renewal: Interval,
}

struct Statements {
    join: Statement,
    leave: Statement,
    send: Statement,
    fetch: Statement,
    renew: Statement,
}

impl LinkSession {
    pub async fn open(database: &Database, previous: Option<&SidecarId>) -> Result<Self, DatabaseError> {
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
        // Nobody sends to it before a device of it is known.
        in_time(client.query_one(NAME_CHANNEL, &[&format!("livestore_relay_{id}")])).await?;
        in_time(client.batch_execute(LISTEN)).await?;
        let mut renewal = interval(RENEWAL);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { client, statements, notifications, id: id.into(), renewal })
    }

    pub async fn join(&mut self, hub: &Hub, devices: &[(UserId, ClientId)]) -> Result<(), DatabaseError> {
        let (users, clients): (Vec<&str>, Vec<&str>) =
            devices.iter().map(|(user, client)| (&**user, &**client)).unzip();
        let rows = in_time(self.client.query(&self.statements.join, &[&&*self.id, &users, &clients])).await?;
        let known = rows.iter().map(known).collect::<Result<_, _>>()?;
        let gone = hub.learn(&self.id, known);
        if gone.is_empty() { Ok(()) } else { self.leave(&gone).await }
    }

    pub async fn leave(&mut self, devices: &Devices) -> Result<(), DatabaseError> {
        let users: Vec<&str> = devices.iter().map(|(user, ..)| &**user).collect();
        let clients: Vec<&str> = devices.iter().map(|(_, client, _)| &**client).collect();
        let connections: Vec<i64> = devices.iter().map(|(.., connection)| *connection).collect();
        let arguments: [&(dyn ToSql + Sync); 4] = [&&*self.id, &users, &clients, &connections];
        in_time(self.client.execute(&self.statements.leave, &arguments)).await?;
        Ok(())
    }

    /// Sends each sidecar the messages for it. False: Postgres did not take them, and that is all.
    pub async fn send(&mut self, messages: &[(Vec<SidecarId>, String)]) -> Result<bool, DatabaseError> {
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
    pub async fn tell(&mut self, missed: &[UserId]) -> Result<(), DatabaseError> {
        if missed.is_empty() {
            return Ok(());
        }
        let missed: Vec<&str> = missed.iter().map(|user| &**user).collect();
        in_time(self.client.execute("select livestore.relay_miss($1, $2)", &[&&*self.id, &missed])).await?;
        Ok(())
    }

    pub async fn renew(&mut self, hub: &Hub) -> Result<(), DatabaseError> {
        hub.question();
        let is_known: bool = in_time(self.client.query_one(&self.statements.renew, &[&&*self.id])).await?.try_get(0)?;
        if !is_known || !self.notifications.are_current() {
            return Err(DatabaseError::Lost);
        }
        hub.answered();
        Ok(())
    }

    pub async fn exit(&mut self) -> Result<(), DatabaseError> {
        in_time(self.client.execute("select livestore.relay_exit($1)", &[&&*self.id])).await?;
        Ok(())
    }

    pub async fn hear(&mut self, hub: &Hub, notification: &Notification) -> Result<(), DatabaseError> {
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

async fn in_time<T>(statement: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, DatabaseError> {
    Ok(timeout(PATIENCE, statement).await.map_err(|_| DatabaseError::NoAnswer)??)
}
