//! The messages of a shape: events as rows that were inserted, and how far the log is known.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::log::Event;

/// The columns of an event log in the order of LiveStore's schema, each with its type in Postgres.
const COLUMNS: [(&str, &str); 6] = [
    ("seqNum", "int8"),
    ("parentSeqNum", "int8"),
    ("name", "text"),
    ("args", "json"),
    ("clientId", "text"),
    ("sessionId", "text"),
];

/// The primary key, which every shape has.
pub const KEY: &str = "seqNum";

/// Some of the columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns([bool; COLUMNS.len()]);

impl Columns {
    pub const ALL: Self = Self([true; COLUMNS.len()]);

    pub fn choose(names: &[String]) -> Result<Self, String> {
        let mut chosen = Self([false; COLUMNS.len()]);
        for name in names {
            let column = COLUMNS.iter().position(|(column, _)| column == name);
            chosen.0
                [column.ok_or_else(|| format!("has no column \"{name}\": an event log has {}", Self::names()))?] = true;
        }
        if !chosen.has(KEY) {
            return Err(format!("must include the primary key, \"{KEY}\""));
        }
        Ok(chosen)
    }

    fn names() -> String {
        COLUMNS.map(|(name, _)| name).join(", ")
    }

    fn has(self, name: &str) -> bool {
        self.chosen().any(|(column, _)| column == name)
    }

    fn chosen(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        COLUMNS.into_iter().zip(self.0).filter_map(|(column, is_chosen)| is_chosen.then_some(column))
    }

    /// The header `electric-schema`.
    pub fn schema(self) -> String {
        let column = |(name, kind): (&str, &str)| {
            let mut column = json!({"type": kind});
            if name == KEY {
                column["pk_index"] = json!(0);
            }
            if name != "args" {
                column["not_null"] = json!(true);
            }
            (name.to_string(), column)
        };
        Value::Object(self.chosen().map(column).collect()).to_string()
    }
}

/// The table that a shape is of, as its rows name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    pub schema: Box<str>,
    pub table: Box<str>,
}

/// The `args` that a client whose wire form requires them gets for an event that has none.
pub const NO_ARGS: &str = "null";

/// An event as a row. Every value is a string: it is Postgres' text form, and LiveStore's client insists on it.
pub fn row(event: &Event, relation: &Relation, columns: Columns) -> Result<String, serde_json::Error> {
    let fields = event.fields()?;
    let Relation { schema, table } = relation;
    let seq_num = fields.seq_num.to_string();
    let mut value = String::with_capacity(event.size() + 64);
    for (name, _) in columns.chosen() {
        let text = match name {
            "seqNum" => &seq_num,
            "parentSeqNum" => &fields.parent_seq_num.to_string(),
            "name" => &*fields.name,
            "args" => fields.args.map_or(NO_ARGS, |args| args.text()),
            "clientId" => &*fields.client_id,
            _ => &*fields.session_id,
        };
        let separator = if value.is_empty() { '{' } else { ',' };
        value.push_str(&format!("{separator}\"{name}\":{}", serde_json::to_string(text)?));
    }
    let key = serde_json::to_string(&format!("{}.{}/\"{seq_num}\"", quote(schema), quote(table)))?;
    let relation = json!([schema, table]);
    Ok(format!(
        r#"{{"key":{key},"value":{value}}},"headers":{{"operation":"insert","relation":{relation},"lsn":"{seq_num}","op_position":0,"last":true}}}}"#
    ))
}

/// As Postgres quotes an identifier.
pub fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

/// Says that a client has seen all there is up to this event.
pub fn up_to_date(seq_num: i64) -> String {
    format!(r#"{{"headers":{{"control":"up-to-date","global_last_seen_lsn":"{seq_num}"}}}}"#)
}

/// Says that a client has to begin anew.
pub const MUST_REFETCH: &str = r#"[{"headers":{"control":"must-refetch"}}]"#;

/// A page as a JSON array.
pub fn page(
    events: &[Arc<Event>],
    relation: &Relation,
    columns: Columns,
    up_to_date: Option<String>,
) -> Result<String, serde_json::Error> {
    let mut messages = events.iter().map(|event| row(event, relation, columns)).collect::<Result<Vec<_>, _>>()?;
    messages.extend(up_to_date);
    Ok(format!("[{}]", messages.join(",")))
}
