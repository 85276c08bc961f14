//! The payload of `NOTIFY livestore_heads`: `{"source": …, "heads": {"<digest>": <head>, …}}`, and of `NOTIFY livestore`, with store ids instead.
//! A head of null: the log is another one now.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

/// Postgres refuses a payload of 8,000 bytes. The longest store id is 1,024 characters, which are 6,144 bytes of JSON at most.
const PAGE_BYTES: usize = 1500;

/// The name of a store on a channel to which everybody may listen: `livestore.store_digest`.
pub fn store_digest(key: &str, store: &str) -> String {
    let digest = Sha256::new().chain_update(key).chain_update(store).finalize();
    let mut text = String::with_capacity(32);
    for byte in digest.iter().take(16) {
        // Nothing goes wrong with a text that grows.
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
