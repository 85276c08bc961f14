//! Functions that the SQL of versions 0.1 and 0.2 declares. A database has that SQL until `alter extension livestore_sync update`, and
//! calls today's library with it. To be removed once no update from those versions is supported.

use livestore_rules::plan::{Plan, Push, Stored, StoredEvent, Verdict, plan};
use pgrx::Array;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

use crate::bounds::max_ahead;

/// Version 0.2 calls this first for ordinary pushes, and falls back to `livestore.append` if it returns no row. It never
/// does.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn append_pooled(
    _store_ids: Array<'_, &str>,
    _batches: Array<'_, &str>,
    _backend_ids: Array<'_, &str>,
    _source: Option<&str>,
) -> TableIterator<
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
> {
    TableIterator::new([])
}

/// Decides what becomes of each push.
///
/// The first five arrays have one element for each push; the `stored_*` arrays one for each event that an earlier call
/// asked for and that exists, or are all null in a first call.
///
/// Returns one row of arrays:
/// - `lookup_*`: events of the log to look up first; when there are any, all other columns are empty.
/// - `sqlstate` … `appended`: one element for each push; `sqlstate` is null if it is accepted.
/// - `event_*`: one element for each event to insert; `event_push` is the position of its push, from 1.
#[pg_extern(sql = false, stable, parallel_safe)]
#[allow(clippy::too_many_arguments, clippy::type_complexity)]
fn plan_pushes(
    store_ids: Array<'_, &str>,
    batches: Array<'_, &str>,
    backend_ids: Array<'_, &str>,
    store_heads: Array<'_, i64>,
    store_backend_ids: Array<'_, &str>,
    stored_store_ids: Option<Array<'_, &str>>,
    stored_seq_nums: Option<Array<'_, i64>>,
    stored_parent_seq_nums: Option<Array<'_, i64>>,
    stored_names: Option<Array<'_, &str>>,
    stored_args: Option<Array<'_, &str>>,
    stored_client_ids: Option<Array<'_, &str>>,
    stored_session_ids: Option<Array<'_, &str>>,
) -> TableIterator<
    'static,
    (
        name!(lookup_push, Vec<i32>),
        name!(lookup_seq_num, Vec<i64>),
        name!(sqlstate, Vec<Option<&'static str>>),
        name!(message, Vec<Option<String>>),
        name!(detail, Vec<Option<String>>),
        name!(hint, Vec<Option<&'static str>>),
        name!(head, Vec<Option<i64>>),
        name!(appended, Vec<i32>),
        name!(event_push, Vec<i32>),
        name!(event_seq_num, Vec<i64>),
        name!(event_parent_seq_num, Vec<i64>),
        name!(event_name, Vec<String>),
        name!(event_args, Vec<Option<String>>),
        name!(event_client_id, Vec<String>),
        name!(event_session_id, Vec<String>),
    ),
> {
    same_length(&[store_ids.len(), batches.len(), backend_ids.len(), store_heads.len(), store_backend_ids.len()]);
    same_length(&[
        stored_store_ids.as_ref().map_or(0, |it| it.len()),
        stored_seq_nums.as_ref().map_or(0, |it| it.len()),
        stored_parent_seq_nums.as_ref().map_or(0, |it| it.len()),
        stored_names.as_ref().map_or(0, |it| it.len()),
        stored_args.as_ref().map_or(0, |it| it.len()),
        stored_client_ids.as_ref().map_or(0, |it| it.len()),
        stored_session_ids.as_ref().map_or(0, |it| it.len()),
    ]);
    let pushes: Vec<Push<'_>> = store_ids
        .iter()
        .zip(batches.iter())
        .zip(backend_ids.iter())
        .zip(store_heads.iter())
        .zip(store_backend_ids.iter())
        .map(|((((store, batch), backend_id), head), store_backend_id)| Push {
            store: store.unwrap_or_default(),
            batch: batch.unwrap_or_default(),
            backend_id,
            store_head: head.unwrap_or_default(),
            store_backend_id: store_backend_id.unwrap_or_default(),
        })
        .collect();

    let stored = (|| {
        let keys = stored_store_ids.as_ref()?.iter().zip(stored_seq_nums.as_ref()?.iter());
        let mut parents = stored_parent_seq_nums.as_ref()?.iter();
        let mut names = stored_names.as_ref()?.iter();
        let mut args = stored_args.as_ref()?.iter();
        let mut client_ids = stored_client_ids.as_ref()?.iter();
        let mut session_ids = stored_session_ids.as_ref()?.iter();
        let mut stored = Stored::new();
        for (store, seq_num) in keys {
            let event = StoredEvent {
                parent_seq_num: parents.next()??,
                name: names.next()??,
                args: args.next()?,
                client_id: client_ids.next()??,
                session_id: session_ids.next()??,
            };
            stored.insert((store?, seq_num?), event);
        }
        Some(stored)
    })();

    TableIterator::once(columns(plan(&pushes, stored.as_ref(), &max_ahead)))
}

/// Turns a plan into the result row. The event columns are moved into Postgres' memory here; nothing borrows from the
/// arguments afterwards.
#[allow(clippy::type_complexity)]
fn columns(
    plan: Plan<'_>,
) -> (
    Vec<i32>,
    Vec<i64>,
    Vec<Option<&'static str>>,
    Vec<Option<String>>,
    Vec<Option<String>>,
    Vec<Option<&'static str>>,
    Vec<Option<i64>>,
    Vec<i32>,
    Vec<i32>,
    Vec<i64>,
    Vec<i64>,
    Vec<String>,
    Vec<Option<String>>,
    Vec<String>,
    Vec<String>,
) {
    let (lookups, verdicts, inserts) = match plan {
        Plan::Lookup(lookups) => (lookups, Vec::new(), Vec::new()),
        Plan::Decided { verdicts, inserts } => (Vec::new(), verdicts, inserts),
    };
    let (lookup_push, lookup_seq_num) = lookups.into_iter().map(|(push, seq_num)| (position(push), seq_num)).unzip();
    let accepted = |verdict: &Verdict| match verdict {
        Verdict::Accepted { head, appended } => (Some(*head), *appended),
        _ => (None, 0),
    };
    (
        lookup_push,
        lookup_seq_num,
        verdicts.iter().map(Verdict::sqlstate).collect(),
        verdicts.iter().map(Verdict::message).collect(),
        verdicts.iter().map(Verdict::detail).collect(),
        verdicts.iter().map(Verdict::hint).collect(),
        verdicts.iter().map(|verdict| accepted(verdict).0).collect(),
        verdicts.iter().map(|verdict| i32::try_from(accepted(verdict).1).unwrap_or(i32::MAX)).collect(),
        inserts.iter().map(|insert| position(insert.push)).collect(),
        inserts.iter().map(|insert| insert.event.seq_num).collect(),
        inserts.iter().map(|insert| insert.event.parent_seq_num).collect(),
        inserts.iter().map(|insert| insert.event.name.to_string()).collect(),
        inserts.iter().map(|insert| insert.event.args.map(|args| args.text().into())).collect(),
        inserts.iter().map(|insert| insert.event.client_id.to_string()).collect(),
        inserts.iter().map(|insert| insert.event.session_id.to_string()).collect(),
    )
}

/// Arrays with one element for each push, or for each event, have as many.
fn same_length(lengths: &[usize]) {
    if lengths.windows(2).any(|pair| pair[0] != pair[1]) {
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_ARRAY_ELEMENT_ERROR,
            "the arrays must have one element each for the same pushes or events"
        );
    }
}

/// A place in a Rust slice as SQL counts: from 1.
fn position(index: usize) -> i32 {
    i32::try_from(index + 1).unwrap_or(i32::MAX)
}
