//! `livestore._append`, declared in `sql/flavours/native/push.sql`: the one way by which pushes get into logs.
//!
//! 1. [`stores`] creates and locks the rows of the stores.
//! 2. [`livestore_rules::plan`] decides on each push, if need be with events that [`stored`] reads and [`rewritten`] knows better.
//! 3. [`events`] advances the heads and inserts the events, which runs hooks.
//! 4. [`crate::commit_log`] notes what the transaction appends, and [`crate::notify`] tells those who listen.

mod events;
mod rewritten;
mod stored;
mod stores;

use std::collections::HashMap;

use livestore_rules::plan::{Insert, Plan, Push, StoredEvent, Verdict, plan};
use pgrx::Array;
use pgrx::datum::{TimestampWithTimeZone, clock_timestamp};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use crate::bounds::max_ahead;
use crate::commit_log::{self, Advance};
use crate::hook_errors::repaired;
use crate::notify::notify;
use stored::StoredRow;
use stores::Store;

pub use events::Event;
pub use events::insert_with_hooks;
pub use stores::Row;

/// The pushes of a call, each at the same place in every list.
struct Group<'a> {
    stores: Vec<&'a str>,
    batches: Vec<&'a str>,
    backend_ids: Vec<Option<&'a str>>,
    contexts: Vec<Option<&'a str>>,
}

/// One push of a group.
struct GroupPush<'a> {
    store: &'a str,
    batch: &'a str,
    backend_id: Option<&'a str>,
}

impl<'a> Group<'a> {
    /// Raises an error unless there is one element for each push.
    fn new(
        stores: Vec<Option<&'a str>>,
        batches: Vec<Option<&'a str>>,
        backend_ids: Vec<Option<&'a str>>,
        contexts: Option<Vec<Option<&'a str>>>,
    ) -> Self {
        let count = stores.len();
        let contexts = contexts.unwrap_or_else(|| vec![None; count]);
        if [batches.len(), backend_ids.len(), contexts.len()].iter().any(|&length| length != count) {
            ereport!(
                ERROR,
                PgSqlErrorCode::ERRCODE_ARRAY_ELEMENT_ERROR,
                "store_ids, batches, backend_ids and contexts must have one element for each push"
            );
        }
        let Some(stores) = stores.into_iter().collect() else {
            ereport!(ERROR, PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, "a store id is null");
        };
        let batches = batches.into_iter().map(Option::unwrap_or_default).collect();
        Self { stores, batches, backend_ids, contexts }
    }

    fn pushes(&self) -> impl Iterator<Item = GroupPush<'a>> {
        self.stores.iter().zip(&self.batches).zip(&self.backend_ids).map(|((&store, &batch), &backend_id)| GroupPush {
            store,
            batch,
            backend_id,
        })
    }
}

/// A row of `livestore.push_result`.
type Outcome = (
    i32,
    Option<i64>,
    i32,
    Option<String>,
    Option<TimestampWithTimeZone>,
    Option<&'static str>,
    Option<String>,
    Option<String>,
    Option<&'static str>,
);

/// Locks the stores and carries the pushes out. Returns a result for each push: one that is rejected does not fail the
/// others. An error of a hook or of Postgres fails all of them. Each of `contexts` is null or a JSON object, which hooks can
/// read. `source` becomes part of the notification, so that a sidecar recognises its own.
///
/// Postgres calls this function through [`livestore_append`], so that errors of hooks arrive as they were raised.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn append(
    store_ids: Array<'_, &str>,
    batches: Array<'_, &str>,
    backend_ids: Array<'_, &str>,
    source: Option<&str>,
    contexts: Option<Array<'_, &str>>,
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
    let group = Group::new(
        store_ids.iter().collect(),
        batches.iter().collect(),
        backend_ids.iter().collect(),
        contexts.as_ref().map(|contexts| contexts.iter().collect()),
    );
    Spi::connect_mut(|client| Ok(TableIterator::new(carry_out(client, &group, source)?)))
}

repaired!(livestore_append, append_wrapper, pg_finfo_livestore_append);

fn carry_out(client: &mut SpiClient<'_>, group: &Group<'_>, source: Option<&str>) -> spi::Result<Vec<Outcome>> {
    let stores = stores::lock(client, group)?;
    // Pushes whose store is not in `stores` are left out: another transaction has locked its row.
    let (positions, pushes): (Vec<usize>, Vec<Push<'_>>) = group
        .pushes()
        .enumerate()
        .filter_map(|(position, push)| {
            let store = stores.get(push.store)?;
            let push = Push {
                store: push.store,
                batch: push.batch,
                backend_id: push.backend_id,
                store_head: store.head,
                store_backend_id: &store.backend_id,
            };
            Some((position, push))
        })
        .unzip();
    let mut rows: Vec<StoredRow>;
    let (verdicts, inserts) = match plan(&pushes, None, &max_ahead) {
        Plan::Decided { verdicts, inserts } => (verdicts, inserts),
        Plan::Lookup(wanted) => {
            let wanted = wanted.iter().filter_map(|&(push, seq_num)| {
                let store = pushes.get(push)?.store;
                Some((stores.get(store)?.row?, seq_num))
            });
            rows = stored::read(client, wanted)?;
            let names: HashMap<i64, &str> =
                stores.iter().filter_map(|(name, store)| Some((store.row?.id, &**name))).collect();
            rewritten::recognize(client, &mut rows, &pushes, &names)?;
            let stored =
                rows.iter().filter_map(|row| Some(((*names.get(&row.store)?, row.seq_num), row.event()))).collect();
            match plan(&pushes, Some(&stored), &max_ahead) {
                Plan::Decided { verdicts, inserts } => (verdicts, inserts),
                Plan::Lookup(_) => error!("a plan asks for what it has been told"),
            }
        }
    };
    let at = clock_timestamp();
    if !inserts.is_empty() {
        let contexts: Vec<Option<&str>> =
            positions.iter().map(|&position| group.contexts.get(position).copied().flatten()).collect();
        write(client, &stores, &pushes, &inserts, &contexts, at, source)?;
    }
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
    let held = group.stores.iter().enumerate().filter(|(_, store)| !stores.contains_key(**store));
    Ok(decided.chain(held.map(|(position, _)| is_held(position))).collect())
}

/// The result of a push whose store another transaction has locked. `livestore.push_batch` returns the same text.
fn is_held(position: usize) -> Outcome {
    let message = Some("another transaction has locked the store".to_owned());
    (number(position), None, 0, None, None, Some("55P03"), message, None, Some("Try again."))
}

/// A place in a list as SQL counts: from 1.
fn number(position: usize) -> i32 {
    i32::try_from(position + 1).unwrap_or(i32::MAX)
}

/// Heads, events and hooks, the entry in the commit log, and the notification.
fn write(
    client: &mut SpiClient<'_>,
    stores: &HashMap<String, Store>,
    pushes: &[Push<'_>],
    inserts: &[Insert<'_>],
    contexts: &[Option<&str>],
    at: TimestampWithTimeZone,
    source: Option<&str>,
) -> spi::Result<()> {
    let mut advances: Vec<(&str, Advance)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut events = Vec::with_capacity(inserts.len());
    // The push that the event before belongs to (events of one push are adjacent), the row of its store, and the index of
    // that store in `advances`.
    let mut current: Option<(usize, Row, &Push<'_>, usize)> = None;
    for Insert { push: index, event } in inserts {
        let (row, push, place) = match current {
            Some((current, row, push, place)) if current == *index => (row, push, place),
            _ => {
                let Some((push, store)) = pushes.get(*index).and_then(|push| Some((push, stores.get(push.store)?)))
                else {
                    error!("a plan inserts into a store that is not in it");
                };
                let Some(row) = store.row else {
                    ereport!(
                        ERROR,
                        PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE,
                        "a store was created or dropped meanwhile: try again"
                    );
                };
                let place = *places.entry(push.store).or_insert_with(|| {
                    advances.push((push.store, Advance { store: row.id, upto: 0, events: 0 }));
                    advances.len() - 1
                });
                current = Some((*index, row, push, place));
                (row, push, place)
            }
        };
        // The events of a store are in the order of its log: the last one is its head.
        if let Some((_, advance)) = advances.get_mut(place) {
            advance.upto = event.seq_num;
            advance.events = advance.events.saturating_add(1);
        }
        events.push(Event {
            row,
            store: push.store,
            context: contexts.get(*index).copied().flatten(),
            push: *index,
            seq_num: event.seq_num,
            created_at: at,
            content: StoredEvent {
                parent_seq_num: event.parent_seq_num,
                name: &event.name,
                args: event.args.map(|args| args.text()),
                client_id: &event.client_id,
                session_id: &event.session_id,
            },
        });
    }
    // The heads are updated before the hooks run, because a hook that appends to the same store must build on the new head.
    // The commit log is written before them, too, because the events that hooks append come after these.
    events::advance(client, advances.iter().map(|(_, advance)| (advance.store, advance.upto)))?;
    commit_log::note(advances.iter().map(|(_, advance)| *advance));
    insert_with_hooks(client, &events)?;
    notify(client, advances.iter().map(|(store, advance)| (*store, Some(advance.upto))), source)
}
