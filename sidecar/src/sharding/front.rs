//! The front: a database without events, whose functions go to the shards.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use clap::Args;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::ShardsError;
use super::moving::Subject;
use super::session::Session;
use super::shard::{FRONT_ROLE, IDENTITY, Keys};
use crate::check::MEMBERS;
use crate::postgres::{Address, address, elsewhere};

/// The functions of the front, which an upgrade replaces.
const FUNCTIONS: [&str; 5] = [
    include_str!("../../../sql/functions/api/shards.sql"),
    include_str!("../../../sql/front/20_routing.sql"),
    include_str!("../../../sql/front/30_functions.sql"),
    include_str!("../../../sql/front/40_batches.sql"),
    include_str!("../../../sql/front/90_privileges.sql"),
];
const PREAMBLE: &str = include_str!("../../../sql/preamble.sql");
const SCHEMA: &str = include_str!("../../../sql/front/10_schema.sql");

/// A shard, as the front knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub name: String,
    pub number: i32,
    pub connection: String,
}

/// The state of the database that is, or is to be, the front.
#[derive(Debug)]
pub struct State {
    pub identity: String,
    /// The roles of the cluster.
    pub roles: BTreeSet<String>,
    pub members: BTreeSet<(String, String)>,
    /// The shards of a front; none if it is none yet.
    pub shards: Option<Vec<Known>>,
}

impl State {
    /// Reads a database, and changes nothing. A problem that hides the others comes alone.
    pub async fn read(session: &Session) -> Result<Result<Self, String>, ShardsError> {
        let row = session
            .row(
                &format!(
                "select r.rolsuper, r.rolname::text, to_regclass('livestore.shards') is not null,
                     exists (select from pg_depend d where d.refclassid = 'pg_namespace'::regclass and d.refobjid = to_regnamespace('livestore')),
                     exists (select from pg_available_extensions e where e.name = 'plproxy'),
                     {IDENTITY},
                     split_part(current_setting('server_version'), '.', 1)
                 from pg_roles r where r.rolname = current_user"
                ),
                &[],
            )
            .await?;
        let is_front: bool = session.read(&row, 2)?;
        let (is_superuser, role): (bool, String) = (session.read(&row, 0)?, session.read(&row, 1)?);
        if !is_superuser {
            return Ok(Err(format!(
                "the front: the role {role} is no superuser, which functions of PL/Proxy take: connect as one"
            )));
        }
        if !is_front && session.read::<bool>(&row, 3)? {
            return Ok(Err(
                "the front has a schema livestore that is no front's: name a database without livestore_sync".into(),
            ));
        }
        if !session.read::<bool>(&row, 4)? {
            let major: String = session.read(&row, 6)?;
            return Ok(Err(format!(
                "the front's server does not have PL/Proxy: apt-get install postgresql-{major}-plproxy on its machine"
            )));
        }
        let shards = if is_front { Some(shards(session).await?) } else { None };
        let mut roles = BTreeSet::new();
        for row in session.rows("select r.rolname::text from pg_roles r", &[]).await? {
            roles.insert(session.read(&row, 0)?);
        }
        let mut members = BTreeSet::new();
        for row in session.rows(MEMBERS, &[]).await? {
            members.insert((session.read(&row, 0)?, session.read(&row, 1)?));
        }
        Ok(Ok(Self { identity: session.read(&row, 5)?, roles, members, shards }))
    }
}

/// The front whose shards a command changes.
#[derive(Debug, Args)]
pub struct Front {
    /// The front, as a superuser.
    #[arg(long = "front", env = "LIVESTORE_FRONT_URL", hide_env_values = true, value_name = "URL")]
    url: String,

    /// PEM file of the authority that signs the certificates of the databases. Without it, the authorities that this system trusts.
    #[arg(long, env = "LIVESTORE_DATABASE_ROOT_CERTIFICATE", value_name = "FILE")]
    database_root_certificate: Option<PathBuf>,
}

impl Front {
    /// Connects to it, and reads what it is. It has to be a front already. Also returns its shards.
    pub async fn open(&self) -> Result<(Session, State, Vec<Known>), ShardsError> {
        let session = Session::open("the front".into(), self.address("--front", &self.url)?).await?;
        let refused = |problem| ShardsError::Refused(vec![problem]);
        let state = State::read(&session).await?.map_err(refused)?;
        let none = || refused("the front is none yet: run livestore-sidecar shards init".into());
        let shards = state.shards.clone().ok_or_else(none)?;
        Ok((session, state, shards))
    }

    /// The address of the URL of an option.
    pub fn address(&self, option: &'static str, url: &str) -> Result<Address, ShardsError> {
        Ok(address(option, url, self.database_root_certificate.as_deref())?)
    }

    /// The identity of a shard as the front, which `session` leads to, sees it: [`super::shard::State::identity`].
    pub async fn identity_of(&self, session: &Session, shard: &Known) -> Result<String, ShardsError> {
        let query = "select livestore._shard_identity(o.slot) from livestore._slots() o where o.number = $1 limit 1";
        if let Some(row) = ask_shard(session, query, &[&shard.number]).await?.first() {
            return session.read(row, 0);
        }
        // The front asks shards by their slots. This one has none yet.
        let mut address = shard_address(&self.url, self.database_root_certificate.as_deref(), &shard.connection)?;
        address.config.user(FRONT_ROLE).password(secrets(session).await?.1);
        let itself =
            Session::open(format!("the shard {}, at the address that the front has", shard.name), address).await?;
        itself.value(&format!("select {IDENTITY}"), &[]).await
    }
}

/// Asks a shard through the front, in a transaction. PL/Proxy waits for a shard that hangs as long as the statement may take, and other commands
/// wait for this one.
pub async fn ask_shard(
    session: &Session,
    query: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, ShardsError> {
    let before: String = session.value("select current_setting('statement_timeout')", &[]).await?;
    session.run("set local statement_timeout = '30s'").await?;
    let rows = session.rows(query, parameters).await?;
    session.rows("select set_config('statement_timeout', $1, true)", &[&before]).await?;
    Ok(rows)
}

/// The shards that a front knows, in the order of their numbers.
pub async fn shards(session: &Session) -> Result<Vec<Known>, ShardsError> {
    let rows = session.rows("select s.name, s.number, s.connection from livestore.shards s order by 2", &[]).await?;
    let known = |row| {
        Ok(Known { name: session.read(row, 0)?, number: session.read(row, 1)?, connection: session.read(row, 2)? })
    };
    rows.iter().map(known).collect()
}

/// The parts of a front.
pub struct Plan<'a> {
    pub shards: &'a [Known],
    /// The number of the shard of each slot.
    pub slots: &'a [i32],
    pub keys: &'a Keys,
    /// Stores that stay on the first shard.
    pub pins: &'a [String],
    pub password: &'a str,
    pub members: &'a BTreeSet<(String, String)>,
}

/// Makes the front, in a transaction that ends only if it reaches every shard.
pub async fn make(session: &Session, plan: &Plan<'_>) -> Result<(), ShardsError> {
    session.begin().await?;
    session.hide_parameters().await?;
    session.run("create schema if not exists livestore").await?;
    session.run(PREAMBLE).await?;
    session.run(SCHEMA).await?;
    let names: Vec<&str> = plan.shards.iter().map(|shard| &*shard.name).collect();
    let numbers: Vec<i32> = plan.shards.iter().map(|shard| shard.number).collect();
    let connections: Vec<&str> = plan.shards.iter().map(|shard| &*shard.connection).collect();
    session
        .rows(
            "insert into livestore.shards (name, number, connection) select * from unnest($1::text[], $2::integer[], $3::text[])",
            &[&names, &numbers, &connections],
        )
        .await?;
    let Keys { seed, heads_key, rewrite_key } = plan.keys;
    session
        .rows(
            "insert into livestore.shared_keys (seed, heads_key, rewrite_key) values ($1, $2, $3)",
            &[seed, heads_key, rewrite_key],
        )
        .await?;
    if let Some(first) = names.first() {
        session
            .rows(
                "insert into livestore.moved_stores (store_id, shard) select p, $2 from unnest($1::text[]) p",
                &[&plan.pins, first],
            )
            .await?;
    }
    let server: String = session
        .value(
            "select format('create server livestore_shards foreign data wrapper plproxy options (%s)', string_agg(
                 format('p%s %L', o.slot - 1, s.connection), ', ' order by o.slot
             ))
             from unnest($1::integer[]) with ordinality o(number, slot)
             join livestore.shards s on s.number = o.number",
            &[&plan.slots],
        )
        .await?;
    session.run(&server).await?;
    // The functions of the front run as livestore_owner, which nobody is: its user mapping can be read by superusers alone. The role that it
    // names may call functions of the shards, and has no other rights.
    let mapping = format!(
        "create user mapping for livestore_owner server livestore_shards options (user '{FRONT_ROLE}', password %L)"
    );
    session.run_with_secret(&mapping, plan.password).await?;
    make_functions(session, i32::try_from(plan.slots.len()).unwrap_or(i32::MAX)).await?;
    for (role, group) in plan.members {
        let grant: String =
            session.value("select format('grant %I to %I', $1::text, $2::text)", &[group, role]).await?;
        session.run(&grant).await?;
    }
    for shard in plan.shards {
        let slot = plan.slots.iter().position(|number| *number == shard.number);
        if let Some(slot) = slot.and_then(|slot| i32::try_from(slot).ok()) {
            ask_shard(session, "select livestore._shard_version($1)", &[&slot]).await?;
        }
    }
    session.run("commit").await
}

/// Makes the functions of the front, or those of this version out of older ones. Rights that somebody has to older ones stay.
pub async fn make_functions(session: &Session, slot_count: i32) -> Result<(), ShardsError> {
    session
        .rows(
            "select set_config('livestore.older', coalesce(array_agg(p.oid), '{}')::text, true)
             from pg_proc p where p.pronamespace = 'livestore'::regnamespace and to_regproc('livestore.shard_map') is not null",
            &[],
        )
        .await?;
    for script in FUNCTIONS {
        session.run(&script.replace("@slots@", &slot_count.to_string())).await?;
    }
    Ok(())
}

/// Gives a shard another address, for all its slots, within [`begin_change`].
pub async fn readdress(session: &Session, shard: &Known) -> Result<(), ShardsError> {
    // The options first: by the address that they have, the front finds the slots of the shard.
    let options: Option<String> = session
        .value(
            "select 'alter server livestore_shards options (' || string_agg(format('set p%s %L', o.slot, $2::text), ', ') || ')'
             from livestore._slots() o where o.number = $1",
            &[&shard.number, &shard.connection],
        )
        .await?;
    if let Some(options) = options {
        session.run(&options).await?;
    }
    let change = "update livestore.shards s set connection = $2 where s.number = $1";
    session.rows(change, &[&shard.number, &shard.connection]).await.map(drop)
}

/// Begins a transaction that changes the map: no other does so meanwhile. Reading the map goes on.
pub async fn begin_change(session: &Session) -> Result<(), ShardsError> {
    session.begin().await?;
    session
        .run(
            "set local statement_timeout = 0; set local idle_in_transaction_session_timeout = 0;
             select set_config(s.name, '0', true) from pg_settings s where s.name = 'transaction_timeout'",
        )
        .await?;
    match session.run("lock table livestore.shards in share row exclusive mode").await {
        Err(error) if error.is_busy() => Err(ShardsError::Refused(vec![
            "another command is changing the shards of this front: wait until it has ended".into(),
        ])),
        done => done,
    }
}

/// Notes on which shard a slot or a store is, within [`begin_change`]. A slot gets the address that the shard has now: by another one, it would
/// belong to no shard.
pub async fn assign(session: &Session, subject: &Subject, to: &Known) -> Result<(), ShardsError> {
    match subject {
        Subject::Slot(slot) => {
            let option: String = session
                .value(
                    "select format('alter server livestore_shards options (set p%s %L)', $1::integer, s.connection)
                     from livestore.shards s where s.number = $2",
                    &[slot, &to.number],
                )
                .await?;
            session.run(&option).await?;
            session
                .rows(
                    "delete from livestore.moved_stores m where m.shard = $2 and livestore.slot(m.store_id, livestore.slot_count()) = $1",
                    &[slot, &to.name],
                )
                .await
                .map(drop)
        }
        Subject::Store(store_id) => {
            session.rows("delete from livestore.moved_stores m where m.store_id = $1", &[store_id]).await?;
            session
                .rows(
                    "insert into livestore.moved_stores (store_id, shard) select $1::text, $2::text
                     where not exists (
                         select from livestore._slots() o where o.slot = livestore.slot($1::text, livestore.slot_count()) and o.number = $3
                     )",
                    &[store_id, &to.name, &to.number],
                )
                .await
                .map(drop)
        }
    }
}

/// The number of the shard of each slot, by the map of a front; none if the slot has an address that no shard has.
pub async fn slots(session: &Session) -> Result<Vec<Option<i32>>, ShardsError> {
    session.value("select m.slots from livestore.shard_map() m", &[]).await
}

/// The shard that has a slot or a store, by the map of a front; none if there is no such slot, or it has an address that no shard has.
pub async fn place_of(session: &Session, subject: &Subject) -> Result<Option<i32>, ShardsError> {
    let slot = match subject {
        Subject::Slot(_) => "$1::integer",
        Subject::Store(_) => "livestore._route($1::text)",
    };
    let query = format!("select o.number from livestore._slots() o where o.slot = {slot}");
    let rows = session.rows(&query, &[subject.parameter()]).await?;
    Ok(rows.first().map(|row| session.read::<Option<i32>>(row, 0)).transpose()?.flatten())
}

/// How many stores are single exceptions on a shard, by the map of a front.
pub async fn exceptions(session: &Session, shard: &Known) -> Result<i64, ShardsError> {
    session.value("select count(*) from livestore.moved_stores m where m.shard = $1", &[&shard.name]).await
}

/// The secrets that a shard is given when it is added.
pub async fn secrets(session: &Session) -> Result<(Keys, String), ShardsError> {
    let row = session.row("select k.seed, k.heads_key, k.rewrite_key from livestore.shared_keys k", &[]).await?;
    let keys =
        Keys { seed: session.read(&row, 0)?, heads_key: session.read(&row, 1)?, rewrite_key: session.read(&row, 2)? };
    let password = session
        .value(
            "select substr(o.option, 10)
             from pg_user_mapping m
             join pg_foreign_server s on s.oid = m.umserver and s.srvname = 'livestore_shards'
             cross join lateral unnest(m.umoptions) o(option)
             where m.umuser = to_regrole('livestore_owner') and o.option like 'password=%'",
            &[],
        )
        .await?;
    Ok((keys, password))
}

/// The address of a shard, for the role of the front's URL.
pub fn shard_address(url: &str, root_certificate: Option<&Path>, connection: &str) -> Result<Address, ShardsError> {
    let front = address("--database-url", url, root_certificate)?;
    let config = elsewhere(&front.config, connection).map_err(|error| {
        ShardsError::Refused(vec![format!("the connection {connection:?} of a shard cannot be read: {error}")])
    })?;
    Ok(Address { config, ..front })
}
