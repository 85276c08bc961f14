//! `heads_payloads`: every head once, each payload short enough for Postgres, in the form that sidecars read.

// A test that meets something unexpected should fail where it stands.
#![allow(clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use livestore_rules::notification::{heads_payloads, store_digest};
use proptest::prelude::*;
use serde_json::{Value, json};

const HEAD: i64 = (1 << 53) - 1;

/// All heads of all payloads, which are all of this source.
fn united(payloads: &[String], source: Option<&str>) -> BTreeMap<String, i64> {
    let mut heads = BTreeMap::new();
    for payload in payloads {
        assert!(payload.len() < 8000, "{} bytes", payload.len());
        let payload: Value = serde_json::from_str(payload).expect("JSON");
        assert_eq!(payload["source"], json!(source));
        for (store, head) in payload["heads"].as_object().expect("heads") {
            let before = heads.insert(store.clone(), head.as_i64().expect("a head"));
            assert_eq!(before, None, "{store} is named twice");
        }
    }
    heads
}

#[test]
fn the_longest_ids_of_the_longest_source_fit() {
    let source = "\u{1}".repeat(200);
    for (before, after) in [(0, 0), (3, 3), (60, 60)] {
        let mut heads: Vec<_> = (0..before).map(|n| (format!("a{n:020}"), HEAD)).collect();
        heads.push(("\u{1}".repeat(1024), HEAD));
        heads.extend((0..after).map(|n| (format!("z{n:020}"), HEAD)));
        let payloads = heads_payloads(Some(&source), heads.iter().map(|(store, head)| (store.as_str(), Some(*head))));
        assert_eq!(united(&payloads, Some(&source)), heads.into_iter().collect());
    }
}

#[test]
fn a_digest_depends_on_the_key_and_the_store() {
    assert_eq!(store_digest("key", "s").len(), 32);
    assert_ne!(store_digest("key", "s"), store_digest("key", "t"));
    assert_ne!(store_digest("key", "s"), store_digest("other", "s"));
}

#[test]
fn nothing_is_not_notified() {
    assert_eq!(heads_payloads::<String>(None, []), [""; 0]);
}

proptest! {
    #[test]
    fn each_head_is_named_once(heads in proptest::collection::btree_map(".{1,60}", 0..=HEAD, 1..200)) {
        let payloads = heads_payloads(None, heads.iter().map(|(store, head)| (store.as_str(), Some(*head))));
        prop_assert_eq!(united(&payloads, None), heads);
    }
}
