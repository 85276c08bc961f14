//! One of the databases that have the stores: what it is before, and what makes a shard of it.

use std::collections::BTreeSet;

use super::ShardsError;
use super::session::Session;
use crate::check::MEMBERS;

/// The role with which the front calls functions of a shard.
pub const FRONT_ROLE: &str = "livestore_front";

/// The comment on that role, by which a front knows its own: a server has one role of this name, with one password. It is made of the seed,
/// which nobody else can read: `seed` is a query for it.
pub fn mark(seed: &str) -> String {
    format!(
        "select 'Of the front of the shards with the key ' || left(encode(sha256(convert_to('front ' || k.seed, 'UTF8')), 'hex'), 16)
         from ({seed}) k"
    )
}

/// The query for the seed of a shard.
const SEED: &str = "select i.seed from livestore.instance i order by i.created_at limit 1";

/// The same for two connections to the same database.
pub const IDENTITY: &str = "concat_ws(
    ' ', date_part('epoch', pg_postmaster_start_time()), (select d.oid from pg_database d where d.datname = current_database())
)";

/// The functions that the front calls, which is all that its role may do: it reads no table, and is no member of another role. The front decides
/// for itself which of its roles may call which of them.
const GRANTS: &str = "
    grant usage on schema livestore to livestore_front;
    grant execute on function
        livestore.version(), livestore.push(text, json, text), livestore.push_batch(text[], text[], text[], text, text[]),
        livestore.commit(text, text, json, text, text, bigint, text), livestore.pull(text, bigint, integer),
        livestore.pull_page(text, bigint, integer, integer), livestore.head(text), livestore.backend_id(text),
        livestore.create_store(text, boolean), livestore.reset_store(text), livestore.drop_store(text)
    to livestore_front;";

/// The distance between the first numbers of stores of two shards: a store keeps its number when it moves.
const NUMBERS: i64 = 1 << 40;

/// The keys that all shards share, in `livestore.instance`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    pub seed: String,
    pub heads_key: String,
    pub rewrite_key: String,
}

/// The place of a shard among the others: a row of `livestore.shard`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub number: i32,
    pub slot_count: i32,
    pub slots: Vec<i32>,
}

/// Stores of the first shard that its slots say are elsewhere, and names of dropped ones with their next backend ids.
#[derive(Debug, Default)]
pub struct Exceptions {
    pub pins: Vec<String>,
    pub dropped: Vec<String>,
    pub dropped_ids: Vec<String>,
}

/// The state of a database that is to be a shard.
#[derive(Debug)]
pub struct State {
    pub version: String,
    /// The same for two URLs that lead to the same database.
    pub identity: String,
    pub place: Option<Place>,
    pub has_stores: bool,
    /// Roles that may log in, with the role of livestore_sync that they are members of.
    pub members: BTreeSet<(String, String)>,
    /// Statements that create what was added to the event logs.
    pub hooks: Vec<String>,
    /// The mark that the role of the front would have if this were the first shard.
    pub mark: String,
    /// The comment on that role, if the server has such a role.
    pub front_role: Option<String>,
}

impl State {
    /// Reads a database, and changes nothing. A problem that hides the others comes alone.
    pub async fn read(session: &Session) -> Result<Result<Self, String>, ShardsError> {
        session.begin().await?;
        let state = Self::within(session).await?;
        session.rollback().await?;
        Ok(state)
    }

    async fn within(session: &Session) -> Result<Result<Self, String>, ShardsError> {
        let row = session
            .row(
                // From the catalogs: the schema is not everybody's to use.
                &format!("select 'stores' = any (t.names), 'shard' = any (t.names),
                     {IDENTITY},
                     r.rolsuper or r.rolcreaterole, r.rolname::text
                 from pg_roles r
                 cross join (
                     select coalesce(array_agg(c.relname::text), '{{}}') from pg_class c
                     join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'livestore' and c.relname in ('stores', 'shard')
                 ) t(names)
                 where r.rolname = current_user"),
                &[],
            )
            .await?;
        let database = &session.database;
        if !session.read::<bool>(&row, 0)? {
            return Ok(Err(format!("{database} does not have livestore_sync: run livestore-sidecar install there")));
        }
        if !session.read::<bool>(&row, 1)? {
            return Ok(Err(format!("{database} has livestore_sync before 0.4: run livestore-sidecar upgrade there")));
        }
        if !session.read::<bool>(&row, 3)? {
            let role: String = session.read(&row, 4)?;
            return Ok(Err(format!(
                "{database}: the role {role} may create no role for the front: connect as the owner of the database, with CREATEROLE, or as a superuser"
            )));
        }
        session.join_roles().await?;
        let place = session
            .rows("select s.number, s.slot_count, s.slots from livestore.shard s", &[])
            .await?
            .first()
            .map(|row| {
                Ok::<_, ShardsError>(Place {
                    number: session.read(row, 0)?,
                    slot_count: session.read(row, 1)?,
                    slots: session.read(row, 2)?,
                })
            })
            .transpose()?;
        let mut members = BTreeSet::new();
        for row in session.rows(MEMBERS, &[]).await? {
            members.insert((session.read(&row, 0)?, session.read(&row, 1)?));
        }
        let hooks = session.rows("select h from livestore.export_hooks() h", &[]).await?;
        let front_role =
            "select coalesce(shobj_description(r.oid, 'pg_authid'), '') from pg_roles r where r.rolname = $1";
        let front_role = session.rows(front_role, &[&FRONT_ROLE]).await?;
        Ok(Ok(Self {
            mark: session.value(&mark(SEED), &[]).await?,
            front_role: front_role.first().map(|row| session.read(row, 0)).transpose()?,
            version: session.value("select livestore.version()", &[]).await?,
            identity: session.read(&row, 2)?,
            place,
            has_stores: session.value("select exists (select from livestore.stores)", &[]).await?,
            members,
            hooks: hooks.iter().map(|row| session.read(row, 0)).collect::<Result<_, _>>()?,
        }))
    }
}

/// Makes a shard of a database, in a transaction; of one that is the shard already, sees to the rest. One that has had nothing yet may have
/// another number. The first shard may have stores: those of other slots stay, and are returned. `shared` is what the first shard has, or none if this is the first.
pub async fn make(
    session: &Session,
    place: &Place,
    password: &str,
    shared: Option<(&Keys, &Exceptions)>,
) -> Result<(Keys, Exceptions), ShardsError> {
    session.begin().await?;
    session.hide_parameters().await?;
    session.join_roles().await?;
    session.act_as_owner().await?;
    // Nobody creates a store while its shard is decided on.
    session.run("lock table livestore.stores in share row exclusive mode").await?;
    let is_new = session.rows("select from livestore.shard", &[]).await?.is_empty();
    if is_new {
        session
            .rows(
                "insert into livestore.shard (number, slot_count, slots) values ($1, $2, $3)",
                &[&place.number, &place.slot_count, &place.slots],
            )
            .await?;
    }
    let renumber = "update livestore.shard h set number = $1
         where h.number <> $1 and h.slots = '{}' and not exists (select from livestore.stores) returning h.number";
    if !session.rows(renumber, &[&place.number]).await?.is_empty() {
        number_stores(session, place).await?;
    }
    let made = match shared {
        None => first(session).await?,
        Some((keys, exceptions)) => {
            if is_new {
                further(session, place, keys, exceptions).await?;
            }
            (keys.clone(), Exceptions::default())
        }
    };
    // A move reads the stores of a slot while nobody can create some.
    for table in ["stores", "dropped_stores", "rewritten_events"] {
        let index = format!(
            "create index if not exists {table}_slot_idx on livestore.{table} (livestore.slot(store_id, {}))",
            place.slot_count
        );
        session.run(&index).await?;
    }
    session.act_as_self().await?;
    let is_there: bool = session.value("select to_regrole($1) is not null", &[&FRONT_ROLE]).await?;
    let role = if is_there { format!("alter role {FRONT_ROLE}") } else { format!("create role {FRONT_ROLE} login") };
    session.run_with_secret(&format!("{role} password %L"), password).await?;
    let mark: String = session.value(&mark(SEED), &[]).await?;
    let comment: String =
        session.value("select format('comment on role %I is %L', $1::text, $2::text)", &[&FRONT_ROLE, &mark]).await?;
    session.run(&comment).await?;
    let connect: String = session
        .value("select format('grant connect on database %I to %I', current_database(), $1::text)", &[&FRONT_ROLE])
        .await?;
    session.run(&connect).await?;
    session.run(GRANTS).await?;
    session.commit().await?;
    Ok(made)
}

async fn first(session: &Session) -> Result<(Keys, Exceptions), ShardsError> {
    session
        .run(
            "insert into livestore.shard_stores (store_id, is_here)
             select s.store_id, true from livestore.stores s join livestore.shard h on livestore.slot(s.store_id, h.slot_count) <> all (h.slots)
             on conflict do nothing",
        )
        .await?;
    let pins = session.rows("select e.store_id from livestore.shard_stores e where e.is_here", &[]).await?;
    let dropped = session.rows("select d.store_id, d.backend_id from livestore.dropped_stores d", &[]).await?;
    let row = session
        .row("select i.seed, i.heads_key, i.rewrite_key from livestore.instance i order by i.created_at limit 1", &[])
        .await?;
    let keys =
        Keys { seed: session.read(&row, 0)?, heads_key: session.read(&row, 1)?, rewrite_key: session.read(&row, 2)? };
    let column = |rows: &[tokio_postgres::Row], column| {
        rows.iter().map(|row| session.read(row, column)).collect::<Result<Vec<String>, _>>()
    };
    let exceptions =
        Exceptions { pins: column(&pins, 0)?, dropped: column(&dropped, 0)?, dropped_ids: column(&dropped, 1)? };
    Ok((keys, exceptions))
}

async fn further(session: &Session, place: &Place, keys: &Keys, exceptions: &Exceptions) -> Result<(), ShardsError> {
    if session.value("select exists (select from livestore.stores)", &[]).await? {
        return Err(ShardsError::Refused(vec![has_stores(&session.database)]));
    }
    session
        .rows(
            "update livestore.instance set seed = $1, heads_key = $2, rewrite_key = $3",
            &[&keys.seed, &keys.heads_key, &keys.rewrite_key],
        )
        .await?;
    session
        .rows(
            "insert into livestore.shard_stores (store_id, is_here)
             select p.store_id, false from unnest($1::text[]) p(store_id)
             where livestore.slot(p.store_id, $2) = any ($3) on conflict do nothing",
            &[&exceptions.pins, &place.slot_count, &place.slots],
        )
        .await?;
    // A store that is created again here must not be taken for the one that was dropped there.
    session
        .rows(
            "insert into livestore.dropped_stores (store_id, backend_id)
             select d.store_id, d.backend_id from unnest($1::text[], $2::text[]) d(store_id, backend_id)
             where livestore.slot(d.store_id, $3) = any ($4) on conflict do nothing",
            &[&exceptions.dropped, &exceptions.dropped_ids, &place.slot_count, &place.slots],
        )
        .await?;
    number_stores(session, place).await
}

/// The numbers of the stores that are created at this shard.
async fn number_stores(session: &Session, place: &Place) -> Result<(), ShardsError> {
    let first_number = i64::from(place.number) * NUMBERS + 1;
    session.run(&format!("alter table livestore.stores alter column id restart with {first_number}")).await
}

/// Why a server with another role of this name cannot have a shard.
pub fn has_another_role(database: &str) -> String {
    format!(
        "{database}: its server has a role {FRONT_ROLE} already, of another front or of somebody else. A server has shards of one front only"
    )
}

/// Why a database cannot be a further shard.
pub fn has_stores(database: &str) -> String {
    format!(
        "{database} has stores: only the first shard may have some. Export them there, drop them, and import them at the front's shards afterwards, or name this shard first"
    )
}
