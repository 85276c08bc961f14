//! The database as a whole.

use chrono::{DateTime, Utc};

use super::{Inspection, ReadError};

/// The database and what is installed in it.
#[derive(Debug)]
pub struct InspectedDatabase {
    pub postgres: String,
    pub name: String,
    pub role: String,
    pub version: String,
    pub flavour: String,
    /// The last position of the commit log.
    pub position: Option<i64>,
    /// Whether the role may change what is in a log, as it is: a member that does not inherit may not.
    pub is_admin: bool,
}

/// The connections of a sidecar to this database, as far as the role may see them.
#[derive(Debug)]
pub struct Session {
    pub address: String,
    pub role: String,
    pub connections: i64,
    pub since: Option<DateTime<Utc>>,
}

impl Inspection {
    pub async fn database(&self) -> Result<InspectedDatabase, ReadError> {
        let sql = "select current_setting('server_version'), current_database()::text, current_user::text, livestore.version(),
                 livestore.flavour(), nullif(livestore.last_position(), 0),
                 coalesce(pg_has_role(to_regrole('livestore_admin'), 'usage'), false)";
        let rows = self.rows(sql, Vec::new()).await?;
        let row = rows.first().ok_or_else(|| ReadError::Refused("no row".into()))?;
        Ok(InspectedDatabase {
            postgres: row.try_get(0)?,
            name: row.try_get(1)?,
            role: row.try_get(2)?,
            version: row.try_get(3)?,
            flavour: row.try_get(4)?,
            position: row.try_get(5)?,
            is_admin: row.try_get(6)?,
        })
    }

    /// The sidecars of this database, by the machines that they run on.
    pub async fn sessions(&self) -> Result<Vec<Session>, ReadError> {
        let sql = "select coalesce(host(a.client_addr), 'socket of this machine'), coalesce(a.usename::text, '?'), count(*), min(a.backend_start)
             from pg_stat_activity a
             where a.datname = current_database() and a.application_name = 'livestore-sidecar'
             group by 1, 2 order by 1, 2 limit 100";
        let rows = self.rows(sql, Vec::new()).await?;
        let session = |row: &tokio_postgres::Row| {
            Ok(Session {
                address: row.try_get(0)?,
                role: row.try_get(1)?,
                connections: row.try_get(2)?,
                since: row.try_get(3)?,
            })
        };
        rows.iter().map(session).collect()
    }
}
