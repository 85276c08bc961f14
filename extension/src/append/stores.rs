//! The rows of the stores that a group pushes to: created if need be, and locked.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;

use livestore_rules::plan::{Plan, Push, Verdict, plan};
use pgrx::pg_sys::BuiltinOid::{INT8OID, TEXTARRAYOID, TEXTOID};
use pgrx::prelude::*;
use pgrx::spi::{SpiClient, SpiTupleTable};

use super::Group;
use crate::bounds::max_ahead;
use crate::hook_errors::Watch;
use crate::statement::Statement;

/// The number of attempts to lock stores that other transactions drop at the same time, before the call gives up.
const ROUNDS: usize = 100;

/// The rows of the stores that `$1` names, locked; none if fewer than `$2` exist. `$held`: what becomes of rows that others hold.
macro_rules! lock {
    ($held:literal) => {
        concat!(
            "select s.store_id, s.id, s.head, s.backend_id, s.eventlog::pg_catalog.oid
              from pg_catalog.unnest($1) name
              join livestore.stores s on s.store_id operator(pg_catalog.=) name
              where (
                  select pg_catalog.count(*) from pg_catalog.unnest($1) name
                  join livestore.stores k on k.store_id operator(pg_catalog.=) name
              ) operator(pg_catalog.=) $2
              order by s.store_id collate pg_catalog.\"C\"
              for update of s",
            $held
        )
    };
}

/// The same for the one store that `$1` names.
macro_rules! lock_one {
    ($held:literal) => {
        concat!(
            "select s.store_id, s.id, s.head, s.backend_id, s.eventlog::pg_catalog.oid
              from livestore.stores s
              where s.store_id operator(pg_catalog.=) $1
              for update of s",
            $held
        )
    };
}

thread_local! {
    /// Locks the rows of several stores.
    /// - It locks nothing unless all stores exist. Missing ones are created first, while nothing is locked; otherwise two
    ///   groups could deadlock.
    /// - It locks in the order of store ids. The numbers (`id`) would be no stable order: a reset changes them, and two
    ///   groups of which one saw the old number could deadlock.
    /// - It joins, because a cached plan for `= any ($1)` may compare each store with each name.
    static LOCK: Statement = const { Statement::new(lock!(""), &[TEXTARRAYOID, INT8OID]) };
    /// The same for one store.
    static LOCK_ONE: Statement = const { Statement::new(lock_one!(""), &[TEXTOID]) };
    /// `LOCK` and `LOCK_ONE` for a caller that does not wait: they skip rows that another transaction has locked.
    static LOCK_FREE: Statement = const { Statement::new(lock!(" skip locked"), &[TEXTARRAYOID, INT8OID]) };
    static LOCK_ONE_FREE: Statement = const { Statement::new(lock_one!(" skip locked"), &[TEXTOID]) };
    /// Tells which stores of a list exist, without waiting for locks, and which backend id those that do not exist will have.
    static LOOK: Statement = const {
        Statement::new(
            "select name, s.id is not null, livestore.backend_id(name)
              from pg_catalog.unnest($1) name
              left join livestore.stores s on s.store_id operator(pg_catalog.=) name",
            &[TEXTARRAYOID],
        )
    };
    static REGISTER: Statement =
        const { Statement::new("select livestore._register_stores($1)", &[TEXTARRAYOID]) };
    static REGISTER_FREE: Statement =
        const { Statement::new("select livestore._register_free_stores($1)", &[TEXTARRAYOID]) };
}

/// The state of a store. It does not change before the transaction ends: its row is locked, or it does not exist.
pub struct Store {
    /// `None` if it does not exist, since no push to it will be accepted.
    pub row: Option<Row>,
    pub head: i64,
    pub backend_id: String,
}

/// The row of a store in `livestore.stores`.
#[derive(Clone, Copy)]
pub struct Row {
    pub id: i64,
    /// The table of its events.
    pub eventlog: pg_sys::Oid,
}

/// Whether the caller has set `livestore.held_stores` to `skip`: it retries pushes to stores that another transaction has
/// locked, so that this call need not wait for the lock.
fn skips_held_stores() -> bool {
    // SAFETY: the name ends with a NUL, a setting that is missing is null, and what is returned is a string of Postgres' own that
    // lives until the setting is next changed: it is compared at once.
    unsafe {
        let value = pg_sys::GetConfigOption(c"livestore.held_stores".as_ptr(), true, false);
        !value.is_null() && CStr::from_ptr(value) == c"skip"
    }
}

/// Locks the stores of a group, after creating those that do not exist and to which a push will be accepted. If the caller
/// does not want to wait, stores that another transaction has locked are missing in the result.
///
/// # Errors
/// Of statements. 55P03 (try again) if other transactions drop a store again and again, or drop one while others of the group
/// are locked.
pub fn lock(client: &mut SpiClient<'_>, group: &Group<'_>) -> spi::Result<HashMap<String, Store>> {
    let skips = skips_held_stores();
    let mut names = group.stores.clone();
    names.sort_unstable();
    names.dedup();
    let locked = lock_existing(client, &names, skips)?;
    if locked.len() == names.len() {
        return Ok(locked);
    }
    if !locked.is_empty() {
        return held_or_dropped(locked, skips);
    }
    // One may be on another shard: LS005 arrives as it was raised.
    let _watch = Watch::new();
    for _ in 0..ROUNDS {
        let missing = missing(client, &names)?;
        let new = to_begin(group, &missing);
        if !new.is_empty() {
            let register = if skips { &REGISTER_FREE } else { &REGISTER };
            register.with(|register| register.execute(client, &[new.clone().into()]))?;
        }
        let existing: Vec<&str> =
            names.iter().copied().filter(|name| new.contains(name) || !missing.contains_key(*name)).collect();
        let mut locked = if existing.is_empty() { HashMap::new() } else { lock_existing(client, &existing, skips)? };
        if locked.is_empty() && !existing.is_empty() && !skips {
            // One was dropped, or created, since it was looked for.
            continue;
        }
        if locked.len() < existing.len() {
            locked = held_or_dropped(locked, skips)?;
        }
        for (name, backend_id) in missing {
            locked.entry(name).or_insert(Store { row: None, head: 0, backend_id });
        }
        // A new store is locked, unless another transaction has created it meanwhile and holds it.
        locked.retain(|name, store| store.row.is_some() || !new.contains(&&**name));
        return Ok(locked);
    }
    ereport!(ERROR, PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, "other transactions drop a store again and again");
}

/// Some of the stores are not there, and others are locked.
fn held_or_dropped(locked: HashMap<String, Store>, skips: bool) -> spi::Result<HashMap<String, Store>> {
    if !skips {
        // A store was dropped while this call waited for its lock. To create it again would mean to wait with the other
        // stores locked, so the caller has to try again from the start.
        ereport!(ERROR, PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, "another transaction has dropped a store");
    }
    Ok(locked)
}

/// Locks these stores, each once. None of them if one does not exist; those that others hold are missing if `skips`.
fn lock_existing(client: &mut SpiClient<'_>, names: &[&str], skips: bool) -> spi::Result<HashMap<String, Store>> {
    let count = i64::try_from(names.len()).unwrap_or(i64::MAX);
    let rows = match (names, skips) {
        (&[name], false) => LOCK_ONE.with(|lock| lock.execute(client, &[name.into()])),
        (&[name], true) => LOCK_ONE_FREE.with(|lock| lock.execute(client, &[name.into()])),
        (_, false) => LOCK.with(|lock| lock.execute(client, &[names.to_vec().into(), count.into()])),
        (_, true) => LOCK_FREE.with(|lock| lock.execute(client, &[names.to_vec().into(), count.into()])),
    }?;
    read_stores(rows)
}

fn read_stores(rows: SpiTupleTable<'_>) -> spi::Result<HashMap<String, Store>> {
    let mut stores = HashMap::with_capacity(rows.len());
    for row in rows {
        let (Some(name), Some(id), Some(head), Some(backend_id), Some(eventlog)) =
            (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?)
        else {
            return Err(spi::Error::InvalidPosition);
        };
        let name: String = name;
        stores.insert(name, Store { row: Some(Row { id, eventlog }), head, backend_id });
    }
    Ok(stores)
}

/// The stores that do not exist, and the backend ids that they will have.
fn missing(client: &mut SpiClient<'_>, names: &[&str]) -> spi::Result<HashMap<String, String>> {
    let mut missing = HashMap::new();
    for row in LOOK.with(|look| look.execute(client, &[names.to_vec().into()]))? {
        if let (Some(name), Some(false), Some(backend_id)) = (row.get(1)?, row.get(2)?, row.get(3)?) {
            missing.insert(name, backend_id);
        }
    }
    Ok(missing)
}

/// The missing stores that have to be created, ordered by name: those to which the group has a push that will be accepted. A
/// push that is refused creates no store.
fn to_begin<'a>(group: &Group<'a>, missing: &HashMap<String, String>) -> Vec<&'a str> {
    let pushes: Vec<Push<'_>> = group
        .pushes()
        .filter_map(|push| {
            let backend_id = missing.get(push.store)?;
            Some(Push {
                store: push.store,
                batch: push.batch,
                backend_id: push.backend_id,
                store_head: 0,
                store_backend_id: backend_id,
            })
        })
        .collect();
    // Nothing is in these logs that would have to be looked up.
    let Plan::Decided { verdicts, .. } = plan(&pushes, None, &max_ahead) else { return Vec::new() };
    let accepted: HashSet<&str> = verdicts
        .iter()
        .zip(&pushes)
        .filter(|(verdict, _)| matches!(verdict, Verdict::Accepted { appended: 1.., .. }))
        .map(|(_, push)| push.store)
        .collect();
    let mut new: Vec<&'a str> = group.stores.iter().copied().filter(|store| accepted.contains(store)).collect();
    new.sort_unstable();
    new.dedup();
    new
}
