//! Tables, which are stores in the names of Electric's clients.

use crate::log::{Alias, Naming, PgText};

/// A table `eventlog_<version>_<suffix>`: what `toTableName` of `@livestore/sync-electric` makes of a store id.
pub fn table(suffix: PgText) -> Alias {
    Alias::Name(Naming("livestore.stores_of_table_suffix"), suffix)
}
