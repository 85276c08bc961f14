//! Digests of store ids, as `livestore.store_digest` makes them: any role of the database can listen to notifications.

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::log::store_id::StoreId;

/// The first half of a SHA-256, in hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
pub struct StoreDigest(Box<str>);

impl StoreDigest {
    pub fn new(key: &str, store: &StoreId) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digest = Sha256::new().chain_update(key).chain_update(store.as_str()).finalize();
        let digits = digest.iter().take(16).flat_map(|byte| [byte >> 4, byte & 15]);
        Self(
            digits
                .filter_map(|digit| DIGITS.get(usize::from(digit)))
                .map(|&digit| char::from(digit))
                .collect::<String>()
                .into(),
        )
    }
}
