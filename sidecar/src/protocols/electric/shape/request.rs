//! Requests of the shape API.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;
use subtle::ConstantTimeEq;

use super::table::{parse_columns, parse_table};
use super::uncached;
use crate::log::Alias;
use crate::protocols::brief;
use crate::protocols::electric::messages::{Columns, Relation};
use crate::protocols::electric::offset::{Offset, Position};
use crate::protocols::electric::read::{Follow, LONG_POLL, Patience, Wait};
use crate::shutdown::Ending;

/// The position that a client wants to read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Since {
    /// `-1`: the first event.
    Start,
    /// `now`: the end, without events.
    Now,
    At(Position),
}

/// A request for a shape, from the search params of its URL.
#[derive(Debug)]
pub struct Request {
    /// Without the parameter `store_id`, the table tells the store.
    pub store_id: Option<String>,
    pub table: Alias,
    pub relation: Relation,
    pub since: Since,
    pub columns: Columns,
    pub is_live: bool,
    pub is_sse: bool,
    /// The cursor that keeps live requests of many clients the same, so that a cache answers them with one. LiveStore's client has none.
    pub cursor: Option<u64>,
    /// The parameters that go on to Electric, if there is one behind us.
    pub params: Vec<(String, String)>,
}

/// The faults of a request, by search param.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Errors(BTreeMap<&'static str, String>);

impl Errors {
    fn add(&mut self, param: &'static str, problem: impl Into<String>) {
        self.0.entry(param).or_insert_with(|| problem.into());
    }

    /// As Electric says it.
    pub fn response(self) -> Response {
        let errors: BTreeMap<_, _> = self.0.into_iter().map(|(param, problem)| (param, [problem])).collect();
        uncached(StatusCode::BAD_REQUEST, json!({"message": "Invalid request", "errors": errors}))
    }
}

/// Search params that an Electric behind us gets from a client; the others say what shape it is, and are ours.
const FORWARDED: [&str; 12] = [
    "offset",
    "handle",
    "live",
    "live_sse",
    "experimental_live_sse",
    "cursor",
    "columns",
    "log",
    "replica",
    "expired_handle",
    "cache-buster",
    "experimental_compaction",
];

impl Request {
    pub fn parse(query: &str) -> Result<Self, Errors> {
        let params: Vec<(String, String)> = serde_urlencoded::from_str(query).unwrap_or_default();
        let param = |name: &str| params.iter().find(|(key, _)| key == name).map(|(_, value)| &**value);
        let mut errors = Errors::default();
        // If a parameter occurred twice, Electric might take another value than the one that is checked here.
        let mut names = HashSet::new();
        if let Some((name, _)) = params.iter().find(|(name, _)| !names.insert(name)) {
            errors.add("params", format!("{}: is given more than once", brief(name)));
        }

        let is = |name: &'static str, errors: &mut Errors| match param(name) {
            None | Some("false") => false,
            Some("true") => true,
            Some(_) => {
                errors.add(name, "is invalid");
                false
            }
        };
        let is_live = is("live", &mut errors);
        let is_sse = is("live_sse", &mut errors) | is("experimental_live_sse", &mut errors);
        if is_sse && !is_live {
            errors.add("live_sse", "can't be true unless live is also true");
        }
        let cursor = param("cursor").and_then(|cursor| cursor.parse().ok());

        let condition = param("where").map(|condition| (condition, param("params[1]")));
        let table = match param("table").map(|table| parse_table(table, condition)) {
            Some(Ok(table)) => Some(table),
            Some(Err((param, problem))) => {
                errors.add(param, problem);
                None
            }
            None => {
                errors.add("table", "can't be blank");
                None
            }
        };
        let columns =
            match param("columns").map(|columns| parse_columns(columns).and_then(|names| Columns::choose(&names))) {
                Some(Ok(columns)) => columns,
                Some(Err(problem)) => {
                    errors.add("columns", problem);
                    Columns::ALL
                }
                None => Columns::ALL,
            };
        if !matches!(param("replica"), None | Some("default" | "full")) {
            errors.add("replica", "is invalid");
        }
        let is_changes_only = match param("log") {
            None | Some("full") => false,
            Some("changes_only") => true,
            Some(_) => {
                errors.add("log", "is invalid");
                false
            }
        };
        if let Some((name, _)) = params.iter().find(|(name, _)| name.starts_with("subset__")) {
            errors.add("subset", format!("{name}: an event log has no subsets, read it from the start"));
        }

        let since = match param("offset") {
            None => Err("can't be blank"),
            Some("-1" | "now") if is_live => {
                errors.add("live", "can't be true when offset is -1 or now");
                Ok(Since::Start)
            }
            // A log consists of changes. Without the earlier ones, the shape is empty, as for `now`.
            Some("-1") if is_changes_only => Ok(Since::Now),
            Some("-1") => Ok(Since::Start),
            Some("now") => Ok(Since::Now),
            Some(offset) => offset.parse::<Offset>().map(|offset| match param("handle") {
                Some(handle) if !handle.is_empty() => Since::At(Position { offset, handle: handle.into() }),
                _ => {
                    errors.add("handle", "can't be blank when offset != -1");
                    Since::Start
                }
            }),
        };
        let since = since.unwrap_or_else(|problem| {
            errors.add("offset", problem);
            Since::Start
        });

        let store_id = param("store_id").map(Into::into);
        let is_forwarded = |name: &str| FORWARDED.contains(&name);
        match table {
            Some((table, relation)) if errors.0.is_empty() => {
                let params = params.into_iter().filter(|(name, _)| is_forwarded(name)).collect();
                Ok(Self { store_id, table, relation, since, columns, is_live, is_sse, cursor, params })
            }
            _ => Err(errors),
        }
    }

    /// `grace`: how much longer the client waits than Electric would let it.
    pub fn patience(&self, grace: Duration, ending: &Ending) -> Patience {
        let wait = Wait { is_live: self.is_live, has_position: matches!(self.since, Since::At(_)) };
        Patience::new(wait, LONG_POLL + grace, ending)
    }

    /// The way in which the client waits for events.
    pub fn follow(&self) -> Follow {
        match (self.is_live, self.cursor) {
            (false, _) => Follow::No,
            (true, Some(_)) => Follow::Wait,
            (true, None) => Follow::TellFirst,
        }
    }
}

/// Whether a request has the secret, in one of the search params that Electric takes it from.
pub fn has_secret(query: &str, secret: &str) -> bool {
    let params: Vec<(Cow<'_, str>, Cow<'_, str>)> = serde_urlencoded::from_str(query).unwrap_or_default();
    params
        .iter()
        .filter(|(name, _)| matches!(&**name, "secret" | "api_secret" | "source_secret"))
        .any(|(_, given)| given.as_bytes().ct_eq(secret.as_bytes()).into())
}

#[cfg(test)]
mod tests {
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    use super::*;
    use crate::protocols::electric::messages::quote;

    proptest! {
        #[test]
        fn nothing_makes_it_panic(
            query: String,
            params in prop::collection::vec((prop::sample::select(&FORWARDED[..]), ".{0,20}"), 0..6)
        ) {
            let _ = (Request::parse(&query), has_secret(&query, "secret"));
            let params = serde_urlencoded::to_string(params).unwrap_or_default();
            let _ = Request::parse(&format!("table=eventlog_6_a&{params}"));
        }
    }

    #[test]
    fn fuzz_request() {
        fuzzing::text_target!("request", |query| {
            let decoded = percent_decode_str(&query.replace('+', " ")).decode_utf8_lossy().into_owned();
            assert!(!has_secret(query, "t0p secret") || decoded.contains("t0p secret"));
            let request = match Request::parse(query) {
                Ok(request) => request,
                Err(errors) => {
                    assert!(!errors.0.is_empty());
                    return;
                }
            };
            let Request { table, relation, since, columns, is_live, is_sse, params, .. } = request;
            let name = format!("{}.{}", quote(&relation.schema), quote(&relation.table));
            let condition = match &table {
                Alias::Number(store) => Some(format!("store = {store}")),
                _ => None,
            };
            let again = parse_table(&name, condition.as_deref().map(|condition| (condition, None)));
            match again {
                // The name may have been cut, to 60 bytes at least: that is the name of another store, or of none.
                Ok((_, again)) if relation.table.len() >= 60 => assert_eq!(again, relation),
                Err(_) if relation.table.len() >= 60 => {}
                again => assert_eq!(again, Ok((table, relation))),
            }
            assert!(is_live || !is_sse);
            assert!(!is_live || matches!(since, Since::At(_)));
            assert!(params.iter().all(|(name, _)| FORWARDED.contains(&&**name)));
            assert!(columns.schema().contains("\"pk_index\":0"));
        });
    }
}
