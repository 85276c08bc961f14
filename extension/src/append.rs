//! `livestore.append_pooled`, declared in `sql/functions/40_append.sql`: the usual push, in as few and as simple statements as
//! there can be. What is not usual is left to `livestore.append`, which can do everything.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::CStr;

use pgrx::Array;
use pgrx::datum::{DatumWithOid, TimestampWithTimeZone, clock_timestamp};
use pgrx::pg_sys::BuiltinOid::{INT8ARRAYOID, INT8OID, TEXTARRAYOID, TEXTOID, TIMESTAMPTZOID};
use pgrx::prelude::*;
use pgrx::spi::{OwnedPreparedStatement, SpiClient, SpiTupleTable};

use crate::bounds::max_ahead;
use crate::hooks::are_on_shared_log;
use crate::notification::{heads_payloads, store_digest};
use crate::plan::{Insert, Plan, Push, Verdict, plan};
use crate::roles::RunsAs;
use crate::sql::same_length;

/// A statement that a session prepares once: planning would cost more than carrying it out.
struct Statement {
    text: &'static CStr,
    parameters: &'static [PgBuiltInOids],
    prepared: RefCell<Option<OwnedPreparedStatement>>,
}

impl Statement {
    const fn new(text: &'static CStr, parameters: &'static [PgBuiltInOids]) -> Self {
        Self { text, parameters, prepared: RefCell::new(None) }
    }

    fn execute<'c>(
        &self,
        client: &mut SpiClient<'c>,
        arguments: &[DatumWithOid<'_>],
    ) -> spi::Result<SpiTupleTable<'c>> {
        let mut prepared = self.prepared.borrow_mut();
        let prepared = match &mut *prepared {
            Some(prepared) => prepared,
            none => {
                let types: Vec<PgOid> = self.parameters.iter().map(|&oid| oid.into()).collect();
                none.insert(client.prepare_mut(self.text, &types)?.keep())
            }
        };
        client.update(&*prepared, None, arguments)
    }
}

thread_local! {
    /// Nothing is locked unless all stores are there: new ones have to come first, or two groups could wait for each other.
    /// Joins, since `= any ($1)` in a plan that is kept may compare each name with each store. In the order of names: a number
    /// changes with a reset, and two groups could wait for each other if one of them saw the number before it.
    static LOCK: Statement = const {
        Statement::new(
            c"select s.store_id, s.id, s.head, s.backend_id, s.eventlog = 'livestore.eventlog_1'::regclass
              from pg_catalog.unnest($1) name
              join livestore.stores s on s.store_id = name
              where (select count(*) from pg_catalog.unnest($1) name join livestore.stores k on k.store_id = name) = $2
              order by s.store_id collate \"C\"
              for update of s",
            &[TEXTARRAYOID, INT8OID],
        )
    };
    /// The same for one store.
    static LOCK_ONE: Statement = const {
        Statement::new(
            c"select s.store_id, s.id, s.head, s.backend_id, s.eventlog = 'livestore.eventlog_1'::regclass
              from livestore.stores s
              where s.store_id = $1
              for update of s",
            &[TEXTOID],
        )
    };
    /// The same two for a caller that does not wait: those that nobody else holds.
    static LOCK_FREE: Statement = const {
        Statement::new(
            c"select s.store_id, s.id, s.head, s.backend_id, s.eventlog = 'livestore.eventlog_1'::regclass
              from pg_catalog.unnest($1) name
              join livestore.stores s on s.store_id = name
              where (select count(*) from pg_catalog.unnest($1) name join livestore.stores k on k.store_id = name) = $2
              order by s.store_id collate \"C\"
              for update of s skip locked",
            &[TEXTARRAYOID, INT8OID],
        )
    };
    static LOCK_ONE_FREE: Statement = const {
        Statement::new(
            c"select s.store_id, s.id, s.head, s.backend_id, s.eventlog = 'livestore.eventlog_1'::regclass
              from livestore.stores s
              where s.store_id = $1
              for update of s skip locked",
            &[TEXTOID],
        )
    };
    /// How many of these there are that this function can push to, locked by others or not.
    static COUNT_POOLED: Statement = const {
        Statement::new(
            c"select count(*)
              from pg_catalog.unnest($1) name
              join livestore.stores s on s.store_id = name
              where s.eventlog = 'livestore.eventlog_1'::regclass",
            &[TEXTARRAYOID],
        )
    };
    static ADVANCE: Statement = const {
        Statement::new(
            c"update livestore.stores s set head = n.head
              from rows from (pg_catalog.unnest($1), pg_catalog.unnest($2)) n(id, head)
              where s.id = n.id",
            &[INT8ARRAYOID, INT8ARRAYOID],
        )
    };
    static INSERT: Statement = const {
        Statement::new(
            c"insert into livestore.eventlog_1
              select e.store, e.seq_num, e.parent_seq_num, e.name, e.args::json, e.client_id, e.session_id, $8
              from rows from (
                  pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4),
                  pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7)
              ) e(store, seq_num, parent_seq_num, name, args, client_id, session_id)",
            &[
                INT8ARRAYOID,
                INT8ARRAYOID,
                INT8ARRAYOID,
                TEXTARRAYOID,
                TEXTARRAYOID,
                TEXTARRAYOID,
                TEXTARRAYOID,
                TIMESTAMPTZOID,
            ],
        )
    };
    /// The same two for one event, which is a third of the work: an array that is taken apart is a table that is written and read.
    static ADVANCE_ONE: Statement = const {
        Statement::new(c"update livestore.stores s set head = $2 where s.id = $1", &[INT8OID, INT8OID])
    };
    static INSERT_ONE: Statement = const {
        Statement::new(
            c"insert into livestore.eventlog_1 values ($1, $2, $3, $4, $5::json, $6, $7, $8)",
            &[INT8OID, INT8OID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID],
        )
    };
    static CHANNELS: Statement = const {
        Statement::new(
            c"select i.heads_key,
                  coalesce(
                      pg_catalog.lower(nullif(pg_catalog.current_setting('livestore.legacy_notify', true), ''))
                          in ('on', 'true', 'yes', '1'),
                      i.legacy_notify
                  )
              from livestore.instance i order by i.created_at limit 1",
            &[],
        )
    };
    static NOTIFY: Statement = const { Statement::new(c"select pg_catalog.pg_notify($1, $2)", &[TEXTOID, TEXTOID]) };
}

/// Whether the caller tries pushes again that find their store held by another transaction (`set livestore.held_stores = 'skip'`),
/// so that nobody has to wait for that.
fn skips_held_stores() -> bool {
    // SAFETY: the name ends with a NUL, a setting that is missing is null, and what is returned is a string of Postgres' own that
    // lives until the setting is next changed: it is compared at once.
    unsafe {
        let value = pgrx::pg_sys::GetConfigOption(c"livestore.held_stores".as_ptr(), true, false);
        !value.is_null() && CStr::from_ptr(value) == c"skip"
    }
}

fn has_heads_key() -> bool {
    // SAFETY: the names end with a NUL, and what does not exist may be missing.
    unsafe {
        let schema = pgrx::pg_sys::get_namespace_oid(c"livestore".as_ptr(), true);
        let instance = pgrx::pg_sys::get_relname_relid(c"instance".as_ptr(), schema);
        pgrx::pg_sys::get_attnum(instance, c"heads_key".as_ptr()) > 0
    }
}

/// The message for a push whose store is held, as `livestore.push_batch` says it.
const HELD: (&str, &str, &str) = ("55P03", "another transaction holds the store", "Try again.");

/// The row of a store, locked.
struct Store {
    id: i64,
    head: i64,
    backend_id: String,
}

/// The arguments are those of `livestore.append`. No row if this is not a usual push: a store does not exist yet or has a
/// table of its own, there are hooks, or a push names events that are in the log already. Nothing is written then. Pushes to
/// stores that another transaction holds are left out if the caller wants that.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn append_pooled(
    store_ids: Array<'_, &str>,
    batches: Array<'_, &str>,
    backend_ids: Array<'_, &str>,
    source: Option<&str>,
) -> spi::Result<
    TableIterator<
        'static,
        (
            name!(push, i32),
            name!(head, Option<i64>),
            name!(appended, i32),
            name!(backend_id, Option<String>),
            name!(created_at, Option<TimestampWithTimeZone>),
            name!(sqlstate, Option<&'static str>),
            name!(message, Option<String>),
            name!(detail, Option<String>),
            name!(hint, Option<&'static str>),
        ),
    >,
> {
    same_length(&[store_ids.len(), batches.len(), backend_ids.len()]);
    let names: Vec<&str> = store_ids.iter().map(Option::unwrap_or_default).collect();
    let batches: Vec<&str> = batches.iter().map(Option::unwrap_or_default).collect();
    Spi::connect_mut(|client| {
        let Some(stores) = lock(client, &names)? else {
            return Ok(TableIterator::new([]));
        };
        // After the locks: a hook may be made while they are waited for.
        if are_on_shared_log() {
            return Ok(TableIterator::new([]));
        }
        // Others are held.
        let (positions, pushes): (Vec<usize>, Vec<Push<'_>>) = names
            .iter()
            .zip(batches)
            .zip(backend_ids.iter())
            .enumerate()
            .filter_map(|(position, ((&name, batch), backend_id))| {
                let store = stores.get(name)?;
                let push = Push {
                    store: name,
                    batch,
                    backend_id,
                    store_head: store.head,
                    store_backend_id: &store.backend_id,
                };
                Some((position, push))
            })
            .unzip();
        let Plan::Decided { verdicts, inserts } = plan(&pushes, None, &max_ahead) else {
            return Ok(TableIterator::new([]));
        };
        let at = clock_timestamp();
        if !inserts.is_empty() {
            write(client, &stores, &pushes, &inserts, at, source)?;
        }
        let number = |position: usize| i32::try_from(position + 1).unwrap_or(i32::MAX);
        let held = names.iter().enumerate().filter(|(_, name)| !stores.contains_key(**name)).map(|(position, _)| {
            let (sqlstate, message, hint) = HELD;
            (number(position), None, 0, None, None, Some(sqlstate), Some(message.to_owned()), None, Some(hint))
        });
        let decided = verdicts.iter().zip(&pushes).zip(&positions).map(|((verdict, push), &position)| {
            let (head, appended) = match verdict {
                Verdict::Accepted { head, appended } => (Some(*head), *appended),
                _ => (None, 0),
            };
            (
                number(position),
                head,
                i32::try_from(appended).unwrap_or(i32::MAX),
                head.map(|_| push.store_backend_id.to_owned()),
                (appended > 0).then_some(at),
                verdict.sqlstate(),
                verdict.message(),
                verdict.detail(),
                verdict.hint(),
            )
        });
        let rows: Vec<_> = decided.chain(held).collect();
        Ok(TableIterator::new(rows))
    })
}

/// Locks the rows of these stores, each once; `None` if one does not exist, or is not for this function. Those that are not there
/// then are held by another transaction.
fn lock(client: &mut SpiClient<'_>, names: &[&str]) -> spi::Result<Option<HashMap<String, Store>>> {
    let skips = skips_held_stores();
    let mut distinct = names.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let count = i64::try_from(distinct.len()).unwrap_or(i64::MAX);
    let rows = match (&distinct[..], skips) {
        (&[name], false) => LOCK_ONE.with(|lock| lock.execute(client, &[name.into()])),
        (&[name], true) => LOCK_ONE_FREE.with(|lock| lock.execute(client, &[name.into()])),
        (_, false) => LOCK.with(|lock| lock.execute(client, &[distinct.clone().into(), count.into()])),
        (_, true) => LOCK_FREE.with(|lock| lock.execute(client, &[distinct.clone().into(), count.into()])),
    }?;
    let mut stores = HashMap::with_capacity(rows.len());
    for row in rows {
        let (Some(name), Some(id), Some(head), Some(backend_id), Some(true)) =
            (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?)
        else {
            return Ok(None);
        };
        let name: String = name;
        stores.insert(name, Store { id, head, backend_id });
    }
    if count > 0 && i64::try_from(stores.len()) == Ok(count) {
        return Ok(Some(stores));
    }
    if !skips && !stores.is_empty() {
        // A store was dropped while this waited for its lock. It is created again without holding the others.
        ereport!(ERROR, PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE, "another transaction has dropped a store");
    }
    if !skips || count == 0 {
        return Ok(None);
    }
    let pooled = COUNT_POOLED.with(|pooled| pooled.execute(client, &[distinct.into()]))?.first().get(1)?;
    Ok((pooled == Some(count)).then_some(stores))
}

/// Heads, events, and the notification.
fn write(
    client: &mut SpiClient<'_>,
    stores: &HashMap<String, Store>,
    pushes: &[Push<'_>],
    inserts: &[Insert<'_>],
    at: TimestampWithTimeZone,
    source: Option<&str>,
) -> spi::Result<()> {
    let store = |insert: &Insert<'_>| pushes.get(insert.push).map_or("", |push| push.store);
    let id = |name: &str| stores.get(name).map_or(0, |store| store.id);
    // The events of a store are in the order of its log: the last one is its head.
    let heads: HashMap<&str, i64> = inserts.iter().map(|insert| (store(insert), insert.event.seq_num)).collect();
    let (ids, new): (Vec<i64>, Vec<i64>) = heads.iter().map(|(name, head)| (id(name), *head)).unzip();
    let advanced = match (&ids[..], &new[..]) {
        (&[id], &[head]) => ADVANCE_ONE.with(|advance| advance.execute(client, &[id.into(), head.into()])),
        _ => ADVANCE.with(|advance| advance.execute(client, &[ids.into(), new.into()])),
    }?;
    let inserted = insert(client, inserts, |insert| id(store(insert)), at)?;
    // Nothing but a hook that was made in just this moment can be the reason: the long way is tried next.
    if advanced.len() != heads.len() || inserted.len() != inserts.len() {
        error!(
            "of {} events {} were inserted, of {} heads {} advanced",
            inserts.len(),
            inserted.len(),
            heads.len(),
            advanced.len()
        );
    }
    notify(client, &heads, source)
}

/// Tells those who listen where the logs stand.
fn notify(client: &mut SpiClient<'_>, heads: &HashMap<&str, i64>, source: Option<&str>) -> spi::Result<()> {
    // The SQL of version 0.2.0, which may call this library, has the old channel only.
    let (key, is_legacy) = if has_heads_key() {
        let channels = CHANNELS.with(|channels| channels.execute(client, &[]))?;
        if channels.is_empty() { (None, Some(true)) } else { channels.first().get_two::<String, bool>()? }
    } else {
        (None, Some(true))
    };
    let digests =
        key.map(|key| heads.iter().map(|(store, head)| (store_digest(&key, store), *head)).collect::<Vec<_>>());
    let ids = (is_legacy == Some(true)).then(|| heads.iter().map(|(store, head)| (*store, *head)));
    let payloads = [
        ("livestore_heads", digests.map(|heads| heads_payloads(source, heads))),
        ("livestore", ids.map(|heads| heads_payloads(source, heads))),
    ];
    for (channel, payloads) in payloads {
        for payload in payloads.unwrap_or_default() {
            NOTIFY.with(|notify| notify.execute(client, &[channel.into(), payload.into()]))?;
        }
    }
    Ok(())
}

/// The events into the shared table; `store` knows the number of an event's store.
fn insert<'c, 'e>(
    client: &mut SpiClient<'c>,
    inserts: &[Insert<'e>],
    store: impl Fn(&Insert<'e>) -> i64,
    at: TimestampWithTimeZone,
) -> spi::Result<SpiTupleTable<'c>> {
    // There are no hooks, but one may be made in just this moment.
    let _hooks = RunsAs::hooks();
    if let [insert] = inserts {
        let event = &insert.event;
        let arguments = [
            store(insert).into(),
            event.seq_num.into(),
            event.parent_seq_num.into(),
            (&*event.name).into(),
            event.args.map(|args| args.text()).into(),
            (&*event.client_id).into(),
            (&*event.session_id).into(),
            at.into(),
        ];
        return INSERT_ONE.with(|insert| insert.execute(client, &arguments));
    }
    let events = || inserts.iter().map(|insert| &insert.event);
    let arguments = [
        inserts.iter().map(store).collect::<Vec<_>>().into(),
        events().map(|event| event.seq_num).collect::<Vec<_>>().into(),
        events().map(|event| event.parent_seq_num).collect::<Vec<_>>().into(),
        events().map(|event| &*event.name).collect::<Vec<_>>().into(),
        events().map(|event| event.args.map(|args| args.text())).collect::<Vec<_>>().into(),
        events().map(|event| &*event.client_id).collect::<Vec<_>>().into(),
        events().map(|event| &*event.session_id).collect::<Vec<_>>().into(),
        at.into(),
    ];
    INSERT.with(|insert| insert.execute(client, &arguments))
}
