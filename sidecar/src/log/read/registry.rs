//! The stores that are followed.

use std::collections::HashMap;
use std::sync::Weak;

use livestore_rules::notification::store_digest;
use serde::Deserialize;

use crate::log::store_id::StoreId;

/// The name of a store in notifications, as `livestore.store_digest` makes it: any role of the database can listen to those.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct StoreDigest(Box<str>);

impl StoreDigest {
    pub fn new(key: &str, store: &StoreId) -> Self {
        Self(store_digest(key, store.as_str()).into())
    }
}

/// The tails by the ids of their stores, and by the digests that stand for these in notifications.
pub struct Registry<T> {
    tails: HashMap<StoreId, Weak<T>>,
    /// The key of the digests, once Postgres has told it.
    key: Option<Box<str>>,
    digests: HashMap<StoreDigest, StoreId>,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self { tails: HashMap::new(), key: None, digests: HashMap::new() }
    }
}

impl<T> Registry<T> {
    pub fn get(&self, store: &StoreId) -> Option<&Weak<T>> {
        self.tails.get(store)
    }

    /// The store that a digest stands for, if it is followed.
    pub fn store(&self, digest: &StoreDigest) -> Option<&StoreId> {
        self.digests.get(digest)
    }

    pub fn stores(&self) -> impl Iterator<Item = &StoreId> {
        self.tails.keys()
    }

    pub fn insert(&mut self, store: &StoreId, tail: Weak<T>) {
        if let Some(key) = &self.key {
            self.digests.insert(StoreDigest::new(key, store), store.clone());
        }
        self.tails.insert(store.clone(), tail);
    }

    /// Removes a tail, unless a successor has taken its place.
    pub fn remove(&mut self, store: &StoreId, tail: &Weak<T>) {
        if !self.get(store).is_some_and(|present| present.ptr_eq(tail)) {
            return;
        }
        if let Some(key) = &self.key {
            self.digests.remove(&StoreDigest::new(key, store));
        }
        self.tails.remove(store);
    }

    /// From now on, digests are made with this key. Returns whether it differs from the one before.
    pub fn set_key(&mut self, key: &str) -> bool {
        if self.key.as_deref() == Some(key) {
            return false;
        }
        self.digests = self.tails.keys().map(|store| (StoreDigest::new(key, store), store.clone())).collect();
        self.key = Some(key.into());
        true
    }
}
