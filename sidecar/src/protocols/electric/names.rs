//! Tables, which are stores in the names of Electric's clients.

use crate::log::{Alias, Naming, PgText};

/// A table `eventlog_<version>_<suffix>`: what `toTableName` of `@livestore/sync-electric` makes of a store id.
pub fn table(suffix: PgText) -> Alias {
    Alias::Name(Naming("livestore.stores_of_table_suffix"), suffix)
}

/// Whether a suffix may be that of a store id, or of some id with this beginning. In doubt it may: the hash of a long id is not looked at.
pub fn may_name(suffix: &str, store_id: &str, is_prefix: bool) -> bool {
    let escaped: String = store_id
        .chars()
        .flat_map(|c| match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' => [Some(c), None],
            // Two units in UTF-16.
            '\u{10000}'.. => [Some('_'); 2],
            _ => [Some('_'), None],
        })
        .flatten()
        .collect();
    suffix.starts_with("hash_") || suffix == escaped || is_prefix && suffix.starts_with(&escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_may_be_that_of_an_id_which_is_escaped_or_hashed() {
        for (id, suffix, is_whole, is_beginning) in [
            ("my-todos", "my_todos", true, true),
            ("my_todos", "my_todos", true, true),
            ("my-", "my_todos", false, true),
            ("todos", "my_todos", false, false),
            ("my-todos-2", "my_todos", false, false),
            ("😀.é", "____", true, true),
            ("a long id", "hash_-123", true, true),
        ] {
            assert_eq!((may_name(suffix, id, false), may_name(suffix, id, true)), (is_whole, is_beginning), "{id}");
        }
    }
}
