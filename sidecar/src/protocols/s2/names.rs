//! Streams, which are stores in the names of S2's clients.

use crate::log::{Alias, Naming, PgText};

/// The SQL function that lists the streams of all stores.
pub const LIST: &str = "livestore.list_streams";

/// The name that `makeS2StreamName` of `@livestore/sync-s2` gives to a store id.
pub fn stream(name: PgText) -> Alias {
    Alias::Name(Naming("livestore.stores_of_stream"), name)
}
