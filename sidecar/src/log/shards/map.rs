//! The map: which shard has which store. The front database keeps it.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use tokio_postgres::Row;

use crate::postgres::DatabaseError;

/// The most slots that there are.
const MOST_SLOTS: usize = 4096;

/// The columns of `livestore.shard_map()`.
pub const READ: &str =
    "select names, numbers, connections, slots, moved_store_ids, moved_shards from livestore.shard_map()";

/// A shard, as the front database knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub name: Arc<str>,
    pub number: i32,
    /// In the form of libpq, without user and password.
    pub connection: Box<str>,
}

/// The shards, and the stores of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardMap {
    /// By their numbers.
    shards: Vec<Listed>,
    /// The shard of each slot, by its position among `shards`.
    slots: Vec<usize>,
    /// The same of stores that are elsewhere than their slot.
    moved: HashMap<Box<str>, usize>,
}

/// The slot of a store: `livestore.slot` computes the same. `count` is a power of two.
fn slot(store: &str, count: usize) -> usize {
    let hash = digest(&SHA256, store.as_bytes());
    let first = hash.as_ref().iter().take(4).fold(0, |number, byte| number << 8 | usize::from(*byte));
    first & (count - 1)
}

impl ShardMap {
    /// Reads the row of [`READ`].
    ///
    /// # Errors
    /// The map contradicts itself.
    pub fn read(row: &Row) -> Result<Self, DatabaseError> {
        let (names, numbers, connections) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let moved_stores: Option<Vec<String>> = row.try_get(4)?;
        let moved_shards: Option<Vec<i32>> = row.try_get(5)?;
        let moved = (moved_stores.unwrap_or_default(), moved_shards.unwrap_or_default());
        let slots: Vec<Option<i32>> = row.try_get(3)?;
        let slots = slots.iter().zip(0..).map(|(number, slot)| {
            number.ok_or_else(|| {
                format!("slot {slot} has an address that no shard has: see livestore-sidecar shards status")
            })
        });
        let slots = slots.collect::<Result<_, _>>();
        slots.and_then(|slots| Self::new(names, numbers, connections, slots, moved)).map_err(DatabaseError::Map)
    }

    /// `slots` and `moved` name shards by their numbers.
    pub fn new(
        names: Vec<String>,
        numbers: Vec<i32>,
        connections: Vec<String>,
        slots: Vec<i32>,
        moved: (Vec<String>, Vec<i32>),
    ) -> Result<Self, String> {
        if names.is_empty() || names.len() != numbers.len() || names.len() != connections.len() {
            return Err("there is no shard, or not each has a name, a number and a connection".into());
        }
        let listed = names.into_iter().zip(numbers).zip(connections);
        let mut shards: Vec<_> = listed
            .map(|((name, number), connection)| Listed { name: name.into(), number, connection: connection.into() })
            .collect();
        shards.sort_unstable_by_key(|shard| shard.number);
        let is_twice = |(place, shard): (usize, &Listed)| {
            shards[..place].iter().any(|other| other.number == shard.number || other.name == shard.name)
        };
        if shards.iter().enumerate().any(is_twice) {
            return Err("two shards have the same name or number".into());
        }
        if !slots.len().is_power_of_two() || slots.len() > MOST_SLOTS {
            return Err(format!("the number of slots is {}, and not a power of two up to {MOST_SLOTS}", slots.len()));
        }
        let position = |number: i32| {
            let found = shards.binary_search_by_key(&number, |shard| shard.number);
            found.map_err(|_| format!("there is no shard with the number {number}"))
        };
        let slots = slots.into_iter().map(position).collect::<Result<_, _>>()?;
        let (stores, numbers) = moved;
        if stores.len() != numbers.len() {
            return Err("not each store that was moved has a shard".into());
        }
        let moved = stores.into_iter().zip(numbers).map(|(store, number)| Ok((store.into(), position(number)?)));
        let moved = moved.collect::<Result<_, String>>()?;
        Ok(Self { shards, slots, moved })
    }

    pub fn shards(&self) -> &[Listed] {
        &self.shards
    }

    /// The shard of a store, by its position among [`Self::shards`].
    pub fn of(&self, store: &str) -> usize {
        match self.moved.get(store) {
            Some(shard) => *shard,
            None => self.slots[slot(store, self.slots.len())],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    fn map(numbers: &[i32], slots: &[i32], moved: (&[&str], &[i32])) -> Result<ShardMap, String> {
        let names: Vec<_> = numbers.iter().map(|number| format!("shard_{number}")).collect();
        let connections = numbers.iter().map(|number| format!("host=h{number}")).collect();
        ShardMap::new(names, numbers.to_vec(), connections, slots.to_vec(), (texts(moved.0), moved.1.to_vec()))
    }

    /// Computed with `printf %s STORE | sha256sum | cut -c1-8`.
    #[test]
    fn a_slot_is_the_end_of_the_first_four_bytes_of_the_hash() {
        for (store, first) in [
            ("", 0xe3b0_c442),
            ("s", 0x043a_7187),
            ("team-1", 0x7e2a_2d5f),
            ("a/b c", 0x0af9_9a60),
            ("Ünïcödé", 0x39af_95d0),
            ("漢字", 0xc6d2_9771),
            (&"x".repeat(1024), 0x49ab_d65b),
        ] {
            for count in [1, 2, 256, 4096] {
                assert_eq!(slot(store, count), first % count, "{store:?}, {count}");
            }
        }
    }

    #[test]
    fn a_store_is_where_it_was_moved_or_where_its_slot_is() {
        // By their numbers, whatever their order; numbers may be missing.
        let map = map(&[5, 0, 3], &[0, 5], (&["moved"], &[3])).unwrap();
        let of = |store: &str| map.shards()[map.of(store)].number;
        assert_eq!(
            map.shards().iter().map(|shard| &*shard.name).collect::<Vec<_>>(),
            ["shard_0", "shard_3", "shard_5"]
        );
        for store in ["", "s", "Ünïcödé", "moved?"] {
            assert_eq!(of(store), [0, 5][slot(store, 2)], "{store}");
        }
        assert_eq!(of("moved"), 3);
    }

    #[test]
    fn a_map_that_contradicts_itself_is_refused() {
        let none = (&[][..], &[][..]);
        for (numbers, slots, moved, error) in [
            (&[][..], &[0][..], none, "no shard"),
            (&[0, 0], &[0], none, "same name or number"),
            (&[0, 1], &[0, 1, 0], none, "3, and not a power of two"),
            (&[0, 1], &[], none, "0, and not a power of two"),
            (&[0, 1], &[0; 8192], none, "up to 4096"),
            (&[0, 1], &[0, 2], none, "no shard with the number 2"),
            (&[0, 1], &[0, 1], (&["s"], &[7]), "no shard with the number 7"),
            (&[0, 1], &[0, 1], (&["s"], &[]), "not each store"),
        ] {
            let refused = map(numbers, slots, moved).unwrap_err();
            assert!(refused.contains(error), "{refused}");
        }
    }
}
