//! How S2's clients name stores: as streams.

use crate::log::{Alias, Naming, PgText};

/// The SQL function that lists the streams of all stores.
pub const LIST: &str = "livestore.list_streams";

/// What `makeS2StreamName` of `@livestore/sync-s2` makes of a store id.
pub fn stream(name: PgText) -> Alias {
    Alias::Name(Naming("livestore.stores_of_stream"), name)
}
