//! Finds the log that a client of the shape API means, from its parameters, which are in SQL.

use crate::log::{Alias, PgText};
use crate::protocols::electric::messages::Relation;
use crate::protocols::electric::names;

/// The schema of a table that is named without one.
const DEFAULT_SCHEMA: &str = "public";

/// The table of all stores that have none of their own.
const POOL: &str = "eventlog_1";

/// Reads the parameters `table`, and `where` with the first of its `params`.
pub fn parse_table(
    table: &str,
    condition: Option<(&str, Option<&str>)>,
) -> Result<(Alias, Relation), (&'static str, String)> {
    let invalid = || ("table", "is not a table name: write \"eventlog_6_<storeId>\"".to_string());
    let mut identifiers = Vec::new();
    let mut rest = table;
    loop {
        let (identifier, behind) = parse_identifier(rest).ok_or_else(invalid)?;
        identifiers.push(identifier);
        match behind.strip_prefix('.') {
            Some(behind) => rest = behind,
            None if behind.is_empty() => break,
            None => return Err(invalid()),
        }
    }
    // Nothing in Postgres has such a name.
    PgText::check("the name", table).map_err(|problem| ("table", problem.into()))?;
    let (schema, name) = match &mut identifiers[..] {
        [name] => (DEFAULT_SCHEMA.to_string(), std::mem::take(name)),
        [schema, name] => (std::mem::take(schema), std::mem::take(name)),
        _ => return Err(invalid()),
    };
    let relation = Relation::new(&schema, &name);
    if name == POOL {
        let store = condition.and_then(|(condition, param)| store_of(condition, param));
        let needed = "must be store = <livestore.stores.id>: this table has the events of many stores";
        return store.map(|store| (Alias::Number(store), relation)).ok_or(("where", needed.into()));
    }
    let suffix = name.strip_prefix("eventlog_").and_then(|rest| rest.split_once('_')).filter(|(version, suffix)| {
        !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit()) && !suffix.is_empty()
    });
    let Some((_, suffix)) = suffix else {
        let unknown = "is not an event log: those are named \"eventlog_6_<storeId>\", as makeElectricUrl does it";
        return Err(("table", unknown.into()));
    };
    if condition.is_some() {
        return Err(("where", "is not supported: a shape is the whole log of a store".into()));
    }
    let suffix = PgText::parse("the name", suffix).map_err(|problem| ("table", problem.into()))?;
    Ok((names::table(suffix), relation))
}

/// `store = 17`, or `store = $1` with that parameter, in any of the ways to write it.
fn store_of(condition: &str, param: Option<&str>) -> Option<i64> {
    let condition: String = condition.chars().filter(|c| !c.is_whitespace() && !"\"'()".contains(*c)).collect();
    let (column, value) = condition.split_once('=')?;
    let value = if value == "$1" { param? } else { value };
    (column == "store").then(|| value.parse().ok())?
}

/// Reads the parameter `columns`.
pub fn parse_columns(columns: &str) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    let mut rest = columns;
    loop {
        let (name, behind) = parse_identifier(rest.trim_start()).ok_or("is not a list of column names")?;
        names.push(name);
        match behind.trim_start().strip_prefix(',') {
            Some(behind) => rest = behind,
            None if behind.trim().is_empty() => return Ok(names),
            None => return Err("is not a list of column names".into()),
        }
    }
}

/// An identifier at the beginning, as Electric reads it: without quotes it is taken as it is, since a column of an event log
/// that is folded to lower case would be none.
fn parse_identifier(text: &str) -> Option<(String, &str)> {
    if let Some(mut rest) = text.strip_prefix('"') {
        let mut identifier = String::new();
        loop {
            let (before, behind) = rest.split_once('"')?;
            identifier.push_str(before);
            match behind.strip_prefix('"') {
                Some(more) => {
                    identifier.push('"');
                    rest = more;
                }
                None => return (!identifier.is_empty()).then_some((identifier, behind)),
            }
        }
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(text.len());
    (end > 0).then(|| (text[..end].to_string(), &text[end..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocols::electric::messages::{Columns, quote};

    fn suffix(table: &str) -> Option<(String, String)> {
        match parse_table(table, None) {
            Ok((Alias::Name(_, suffix), relation)) => {
                Some((suffix.as_str().into(), format!("{}/{}", relation.schema, relation.table)))
            }
            _ => None,
        }
    }

    #[test]
    fn a_table_is_read_with_and_without_schema_and_quotes() {
        for (table, expected, relation) in [
            ("\"eventlog_6_Todo_App\"", "Todo_App", "public/eventlog_6_Todo_App"),
            ("eventlog_6_a", "a", "public/eventlog_6_a"),
            ("public.eventlog_6_a", "a", "public/eventlog_6_a"),
            ("\"my schema\".\"eventlog_17_hash_-123\"", "hash_-123", "my schema/eventlog_17_hash_-123"),
            ("livestore.\"eventlog_1_a\"", "a", "livestore/eventlog_1_a"),
        ] {
            assert_eq!(suffix(table), Some((expected.into(), relation.into())), "{table}");
        }
        for wrong in [
            "",
            "\"\"",
            "todos",
            "eventlog_6_",
            "eventlog_x_a",
            "eventlog__a",
            "a.b.eventlog_6_a",
            "eventlog_6_a; drop",
            "\"eventlog_6_a",
            "eventlog_6_a.",
            "\"eventlog_6_a\0b\"",
            "\"sch\0ema\".eventlog_6_a",
        ] {
            assert!(suffix(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_long_name_is_looked_up_whole_and_told_as_postgres_cuts_it() {
        // The 63rd byte of the second one is in the middle of a character.
        for before in [52, 51] {
            let name = format!("{}{}", "x".repeat(before), "é".repeat(100));
            let table = format!("\"{}\".\"eventlog_6_{name}\"", "s".repeat(20_000));
            let told = format!("{}/eventlog_6_{}", "s".repeat(63), "x".repeat(before));
            assert_eq!(suffix(&table), Some((name, told)), "{before}");
        }
    }

    #[test]
    fn the_shared_table_takes_the_number_of_a_store() {
        for (condition, param) in
            [("store = 17", None), ("store=17", None), ("(\"store\" = '17')", None), ("store = $1", Some("17"))]
        {
            let (table, _) = parse_table("livestore.eventlog_1", Some((condition, param))).unwrap();
            assert_eq!(table, Alias::Number(17), "{condition}");
        }
        for condition in [
            None,
            Some(("store = $1", None)),
            Some(("store > 17", None)),
            Some(("name = 'e'", None)),
            Some(("store = 1 or 1 = 1", None)),
        ] {
            assert_eq!(parse_table("livestore.eventlog_1", condition).unwrap_err().0, "where", "{condition:?}");
        }
        assert_eq!(parse_table("eventlog_6_a", Some(("name = 'e'", None))).unwrap_err().0, "where");
    }

    #[test]
    fn columns_are_a_list_of_names() {
        assert_eq!(parse_columns("seqNum,\"clientId\" , name").unwrap(), ["seqNum", "clientId", "name"]);
        for wrong in ["", ",", "a,", "a b", "\"a"] {
            assert!(parse_columns(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(table: String, columns: String, condition: String) {
            let _ = (parse_table(&table, Some((&condition, Some(&columns)))), parse_columns(&columns));
        }

        #[test]
        fn a_quoted_name_comes_back(name in "[^\0]{1,20}") {
            let quoted = quote(&name);
            prop_assert_eq!(parse_identifier(&quoted), Some((name, "")));
        }
    }

    #[test]
    fn fuzz_columns() {
        fuzzing::text_target!("columns", |text| {
            assert_eq!(parse_identifier(&quote(text)), (!text.is_empty()).then(|| (text.into(), "")));
            let Ok(names) = parse_columns(text) else { return };
            let quoted: Vec<_> = names.iter().map(|name| quote(name)).collect();
            assert_eq!(parse_columns(&quoted.join(" , ")), Ok(names.clone()));
            if let Ok(columns) = Columns::choose(&names) {
                assert!(names.iter().all(|name| columns.schema().contains(&format!("\"{name}\""))));
            }
        });
    }
}
