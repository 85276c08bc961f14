//! Events that were rewritten. Their author may push them once more as they were, since no answer has reached it. The log has them: if
//! it denied that, the author would push them as new ones, and what was erased would come back.

use std::collections::HashMap;

use livestore_rules::plan::Push;
use livestore_rules::validation::read_batch;
use pgrx::pg_sys::BuiltinOid::{INT8ARRAYOID, INT8OID, TEXTOID};
use pgrx::prelude::*;
use pgrx::spi::SpiClient;

use super::stored::StoredRow;
use crate::statement::Statement;

thread_local! {
    static FIND: Statement = const {
        Statement::new(
            "select distinct w.n
             from rows from (pg_catalog.unnest($1), pg_catalog.unnest($2)) with ordinality w(store, seq_num, n)
             join livestore.rewritten_events r
                 on r.store operator(pg_catalog.=) w.store and r.seq_num operator(pg_catalog.=) w.seq_num",
            &[INT8ARRAYOID, INT8ARRAYOID],
        )
    };
    static WAS_REWRITTEN: Statement = const {
        Statement::new(
            "select livestore._was_rewritten($1, $2, $3, $4, $5, $6, $7)",
            &[INT8OID, INT8OID, INT8OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID],
        )
    };
}

/// Puts an event that is pushed in the place of the stored one, if that is what the stored one was before it was rewritten. `names`
/// has the store ids by `livestore.stores.id`.
///
/// # Errors
/// Of statements.
pub fn recognize(
    client: &mut SpiClient<'_>,
    rows: &mut [StoredRow],
    pushes: &[Push<'_>],
    names: &HashMap<i64, &str>,
) -> spi::Result<()> {
    let stores: Vec<i64> = rows.iter().map(|row| row.store).collect();
    let seq_nums: Vec<i64> = rows.iter().map(|row| row.seq_num).collect();
    let found = FIND.with(|find| find.execute(client, &[stores.into(), seq_nums.into()]))?;
    let found: Vec<Option<i64>> = found.map(|row| row.get(1)).collect::<Result<_, _>>()?;
    let mut places: HashMap<(&str, i64), usize> = HashMap::new();
    for place in found.into_iter().flatten() {
        let place = usize::try_from(place - 1).unwrap_or(usize::MAX);
        if let Some((row, store)) = rows.get(place).and_then(|row| Some((row, *names.get(&row.store)?))) {
            places.insert((store, row.seq_num), place);
        }
    }
    if places.is_empty() {
        return Ok(());
    }
    for push in pushes {
        for event in read_batch(push.batch).into_iter().flatten() {
            let Some(row) = places.get(&(push.store, event.seq_num)).and_then(|&place| rows.get_mut(place)) else {
                continue;
            };
            let arguments = [
                row.store.into(),
                event.seq_num.into(),
                event.parent_seq_num.into(),
                (*event.name).into(),
                event.args.map(|args| args.text()).into(),
                (*event.client_id).into(),
                (*event.session_id).into(),
            ];
            let found = WAS_REWRITTEN.with(|was_rewritten| was_rewritten.execute(client, &arguments))?;
            if found.first().get_one::<bool>()? == Some(true) {
                row.become_event(&event);
                places.remove(&(push.store, event.seq_num));
            }
        }
    }
    Ok(())
}
