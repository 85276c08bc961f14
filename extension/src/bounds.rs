//! Bounds that the owner of the database may change, in `livestore.instance`: a setting, which any role can change for its
//! session, would not bind those whom they are for.

use pgrx::prelude::*;

use livestore_rules::plan::MAX_AHEAD;

/// Reads the column through `to_jsonb`: a database whose SQL is still of version 0.2.0 also calls this library, and has no
/// column `max_ahead`.
const MAX_AHEAD_SET: &str = "\
    select (pg_catalog.to_jsonb(i) operator(pg_catalog.->>) 'max_ahead')::pg_catalog.int8
    from livestore.instance i order by i.created_at limit 1";

/// The greatest distance of an event that leaves a gap from the head.
pub fn max_ahead() -> i64 {
    match Spi::get_one(MAX_AHEAD_SET) {
        Ok(set) => set.unwrap_or(MAX_AHEAD),
        Err(spi::Error::InvalidPosition) => MAX_AHEAD,
        Err(error) => error!("{error}"),
    }
}
