//! The slot, or the store, that goes to another shard.

use std::fmt;
use std::str::FromStr;

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::super::ShardsError;
use super::super::session::Session;

/// Slots as the operator says them: 17, or 16-31.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots {
    pub first: i32,
    pub last: i32,
}

impl FromStr for Slots {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number =
            |text: &str| text.parse().map_err(|_| format!("{text:?} is no slot: name one, as 17, or some, as 16-31"));
        let (first, last) = (number(first)?, number(last)?);
        if first > last { Err(format!("{first} comes after {last}")) } else { Ok(Self { first, last }) }
    }
}

/// The slot or the store that goes to another shard as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Slot(i32),
    Store(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Slot(slot) => write!(f, "slot {slot}"),
            Self::Store(store_id) => write!(f, "the store {store_id:?}"),
        }
    }
}

impl Subject {
    /// The arguments of the command that name it.
    pub fn argument(&self) -> String {
        match self {
            Self::Slot(slot) => format!("--slot {slot}"),
            // As a shell reads it: whoever may push chooses the id of a store.
            Self::Store(store_id) => format!("--store '{}'", store_id.replace('\'', "'\\''")),
        }
    }

    /// A condition on a store id, for a shard of so many slots. `$1` is [`Self::parameter`]. There is an index for it on `livestore.stores`.
    pub fn matches(&self, store_id: &str, slot_count: i32) -> String {
        match self {
            Self::Slot(_) => format!("livestore.slot({store_id}, {slot_count}) = $1::integer"),
            Self::Store(_) => format!("{store_id} = $1::text"),
        }
    }

    pub fn parameter(&self) -> &(dyn ToSql + Sync) {
        match self {
            Self::Slot(slot) => slot,
            Self::Store(store_id) => store_id,
        }
    }

    /// The slot, and the store, for a table that has both.
    pub fn columns(&self) -> (Option<i32>, Option<&str>) {
        match self {
            Self::Slot(slot) => (Some(*slot), None),
            Self::Store(store_id) => (None, Some(store_id)),
        }
    }

    /// From two columns of a row, as in [`Self::columns`].
    pub fn read(session: &Session, row: &Row, column: usize) -> Result<Self, ShardsError> {
        Ok(match session.read::<Option<i32>>(row, column)? {
            Some(slot) => Self::Slot(slot),
            None => Self::Store(session.read(row, column + 1)?),
        })
    }

    /// Whether a shard has the right to it.
    pub async fn is_at(&self, session: &Session) -> Result<bool, ShardsError> {
        let query = match self {
            Self::Slot(_) => "select exists (select from livestore.shard h where $1::integer = any (h.slots))",
            Self::Store(_) => "select not livestore._is_elsewhere($1::text)",
        };
        session.value(query, &[self.parameter()]).await
    }

    /// Gives a shard the right to it, or takes it away. The row of `livestore.shard` is locked.
    pub async fn put(&self, session: &Session, is_here: bool) -> Result<(), ShardsError> {
        match self {
            Self::Slot(slot) => {
                let change = if is_here {
                    "update livestore.shard set slots = slots || $1::integer where $1::integer <> all (slots)"
                } else {
                    "update livestore.shard set slots = array_remove(slots, $1::integer)"
                };
                session.rows(change, &[slot]).await?;
            }
            Self::Store(store_id) => {
                session.rows("delete from livestore.shard_stores e where e.store_id = $1", &[store_id]).await?;
                session
                    .rows(
                        "insert into livestore.shard_stores (store_id, is_here)
                         select $1::text, $2::boolean from livestore.shard h where (livestore.slot($1::text, h.slot_count) = any (h.slots)) <> $2::boolean",
                        &[store_id, &is_here],
                    )
                    .await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_quoted_for_a_shell() {
        let store = Subject::Store("it's $(here)".into());
        assert_eq!(store.argument(), r"--store 'it'\''s $(here)'");
    }

    #[test]
    fn slots_are_one_or_a_range() {
        assert_eq!("17".parse(), Ok(Slots { first: 17, last: 17 }));
        assert_eq!("16-31".parse(), Ok(Slots { first: 16, last: 31 }));
        for text in ["", "a", "-1", "3-1", "1-2-3", "1-", "99999999999"] {
            assert!(text.parse::<Slots>().is_err(), "{text}");
        }
    }
}
