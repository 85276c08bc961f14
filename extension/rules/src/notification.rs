//! The payloads of notifications. `NOTIFY livestore_heads` has `{"source": …, "heads": {"<digest>": <head>, …}}`; `NOTIFY
//! livestore` has store ids in place of the digests. A head of null means that the store was reset, dropped or given another
//! backend id.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// The size at which a payload is closed and the next one begins. Postgres refuses payloads of 8,000 bytes. A payload may
/// exceed this size only with a single entry, the largest of which has 6,144 bytes: a store id of 1,024 characters, all
/// escaped.
const PAGE_BYTES: usize = 1500;

/// The name of a store on a channel to which everybody may listen: `livestore.store_digest`.
pub fn store_digest(key: &str, store: &str) -> String {
    let digest = Sha256::new().chain_update(key).chain_update(store).finalize();
    let mut text = String::with_capacity(32);
    for byte in digest.iter().take(16) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The payloads that name these heads: several, if one would be too long.
pub fn heads_payloads<S: Into<String>>(
    source: Option<&str>,
    heads: impl IntoIterator<Item = (S, Option<i64>)>,
) -> Vec<String> {
    let mut payloads = Vec::new();
    let mut page = Map::new();
    let mut bytes = 0;
    let payload = |page: Map<String, Value>| json!({"source": source, "heads": page}).to_string();
    for (store, head) in heads {
        let store = store.into();
        let name = Value::from(&*store);
        // Room for a head and what is around it.
        let length = name.to_string().len() + 24;
        if bytes + length > PAGE_BYTES && !page.is_empty() {
            payloads.push(payload(std::mem::take(&mut page)));
            bytes = 0;
        }
        bytes += length;
        page.insert(store, head.into());
    }
    if !page.is_empty() {
        payloads.push(payload(page));
    }
    payloads
}
