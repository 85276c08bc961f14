//! What `NOTIFY livestore` says: `{"source": …, "heads": {"<storeId>": <head>, …}}`. `livestore.notify_heads` writes the same in SQL.

use serde_json::{Map, Value, json};

/// Postgres refuses a payload of 8,000 bytes. The longest store id is 1,024 characters, which are 6,144 bytes of JSON at most.
const PAGE_BYTES: usize = 1500;

/// The payloads that name these heads: several, if one would be too long.
pub fn heads_payloads<'a>(source: Option<&str>, heads: impl IntoIterator<Item = (&'a str, i64)>) -> Vec<String> {
    let mut payloads = Vec::new();
    let mut page = Map::new();
    let mut bytes = 0;
    let payload = |page: Map<String, Value>| json!({"source": source, "heads": page}).to_string();
    for (store, head) in heads {
        let name = Value::from(store);
        // Room for a head and what is around it.
        let length = name.to_string().len() + 24;
        if bytes + length > PAGE_BYTES && !page.is_empty() {
            payloads.push(payload(std::mem::take(&mut page)));
            bytes = 0;
        }
        bytes += length;
        page.insert(store.to_owned(), head.into());
    }
    if !page.is_empty() {
        payloads.push(payload(page));
    }
    payloads
}
