//! The state of a database before an installation.

use tokio_postgres::{Client, Row};

use super::Flavour;
use super::changes::is_newer;

/// The version that this program installs.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Makes the role a member of livestore_owner and livestore_hooks, until [`LEAVE_ROLES`].
pub const JOIN_ROLES: &str = include_str!("../../../sql/flavours/portable/join.sql");

/// Ends the memberships that [`State::read`] has taken. The last statement before a commit.
pub const LEAVE_ROLES: &str = include_str!("../../../sql/flavours/portable/leave.sql");

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The flavour and the version of what is called.
    pub installed: Option<(Flavour, String)>,
    /// The highest version that was ever installed, if it was read: that of the tables. An older livestore.sql brings back its functions only.
    pub highest: Option<String>,
    /// Whether it is an extension without the library: pg_tle's.
    pub is_of_pg_tle: bool,
    /// Whether it is the front of shards (`sql/front`).
    pub is_front: bool,
    /// Whether this Postgres has the library in this version.
    pub has_library: bool,
    pub is_superuser: bool,
    /// The role that installs.
    pub role: String,
    /// Whether there is a store, or this was not read.
    pub has_stores: bool,
}

/// The part of the state that a command needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Which version there is.
    Version,
    /// And whether there are stores.
    Stores,
}

impl State {
    /// Reads the catalogs. Within the transaction that changes them.
    pub async fn read(client: &Client, wanted: Wanted) -> Result<Self, tokio_postgres::Error> {
        let row = client
            .query_one(
                "select (select e.extversion from pg_extension e where e.extname = 'livestore_sync'),
                     exists (
                         select from pg_proc p
                         join pg_namespace n on n.oid = p.pronamespace and n.nspname = 'livestore'
                         join pg_language l on l.oid = p.prolang and l.lanname = 'c'
                     ),
                     exists (
                         select from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                         where n.nspname = 'livestore' and p.proname = 'flavour' and p.pronargs = 0
                             and p.proowner = to_regrole('livestore_owner')
                     ),
                     (
                         select count(*) = 2 from pg_available_extension_versions v
                         where v.name = 'livestore_sync' and v.version in ($1, 'portable')
                     ),
                     r.rolsuper, r.rolname::text,
                     exists (
                         select from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                         where n.nspname = 'livestore' and p.proname = 'shard_map' and p.proowner = to_regrole('livestore_owner')
                     ),
                     (
                         select substring(p.prosrc from '''([^'']+)''') from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                         where n.nspname = 'livestore' and p.proname = 'version' and p.pronargs = 0
                             and p.proowner = to_regrole('livestore_owner')
                     )
                 from pg_roles r where r.rolname = current_user",
                &[&VERSION],
            )
            .await?;
        let extension: Option<String> = row.try_get(0)?;
        let (has_native, has_portable): (bool, bool) = (row.try_get(1)?, row.try_get(2)?);
        let is_of_pg_tle = extension.is_some() && !has_native;
        let installed = match (extension, has_portable) {
            (Some(version), _) if has_native => Some((Flavour::Native, version)),
            // From its text: not everybody may call it.
            (_, true) => Some((Flavour::Portable, row.try_get::<_, Option<String>>(7)?.unwrap_or_default())),
            (_, false) => None,
        };
        let is_superuser: bool = row.try_get(4)?;
        let is_portable = matches!(installed, Some((Flavour::Portable, _)));
        let is_older = installed.as_ref().is_some_and(|(_, version)| version != VERSION && !is_newer(version));
        // Nobody but the members of its owner can read what follows. A role that may not become one hears at least that there is nothing to do.
        let highest = if is_portable && (wanted == Wanted::Stores || is_older) {
            client.batch_execute(JOIN_ROLES).await?;
            let highest = "select (
                     select v.version from livestore.versions v
                     order by string_to_array(split_part(v.version, '-', 1), '.')::integer[] desc limit 1
                 )";
            look(client, highest).await?.try_get(0)?
        } else {
            None
        };
        let has_stores = match (&installed, wanted) {
            (None, _) => false,
            (_, Wanted::Version) => true,
            // Its owner is a superuser, and others can change nothing.
            (Some((Flavour::Native, _)), _) if !is_superuser => true,
            (Some(_), Wanted::Stores) => {
                look(client, "select exists (select from livestore.stores)").await?.try_get(0)?
            }
        };
        Ok(Self {
            installed,
            highest,
            is_of_pg_tle,
            is_front: row.try_get(6)?,
            has_library: row.try_get(3)?,
            is_superuser,
            role: row.try_get(5)?,
            has_stores,
        })
    }
}

/// The one row of a query, without keeping its locks: two programs that both kept them, and want to lock the same tables against all others
/// next, would wait for each other.
async fn look(client: &Client, query: &str) -> Result<Row, tokio_postgres::Error> {
    client.batch_execute("savepoint look").await?;
    let row = client.query_one(query, &[]).await?;
    client.batch_execute("rollback to savepoint look; release savepoint look").await?;
    Ok(row)
}
