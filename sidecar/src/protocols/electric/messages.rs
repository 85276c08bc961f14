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

/// Writes events as rows of a table. Every value is a string: it is Postgres' text form, and LiveStore's client insists on it.
pub struct Rows {
    columns: Columns,
    /// The key up to the number, as JSON: `"\"livestore\".\"eventlog_1\"/\"7\""` is a whole one.
    key: String,
    relation: String,
}

impl Rows {
    pub fn new(relation: &Relation, columns: Columns) -> Self {
        let Relation { schema, table } = relation;
        let key = Value::from(format!("{}.{}/\"", quote(schema), quote(table))).to_string();
        let key = key.strip_suffix('"').unwrap_or(&key).to_owned();
        Self { columns, key, relation: json!([schema, table]).to_string() }
    }

    /// Appends the row of an event.
    pub fn write(&self, rows: &mut Vec<u8>, event: &Event) -> Result<(), serde_json::Error> {
        let fields = event.fields()?;
        let (seq_num, parent) = (fields.seq_num.to_string(), fields.parent_seq_num.to_string());
        for part in [r#"{"key":"#, &self.key, &seq_num, r#"\"","value":{"#] {
            rows.extend_from_slice(part.as_bytes());
        }
        for (place, (name, _)) in self.columns.chosen().enumerate() {
            let text = match name {
                "seqNum" => &*seq_num,
                "parentSeqNum" => &*parent,
                "name" => &*fields.name,
                "args" => fields.args.map_or(NO_ARGS, |args| args.text()),
                "clientId" => &*fields.client_id,
                _ => &*fields.session_id,
            };
            rows.extend_from_slice(if place == 0 { b"\"" } else { b",\"" });
            rows.extend_from_slice(name.as_bytes());
            rows.extend_from_slice(b"\":");
            serde_json::to_writer(&mut *rows, text)?;
        }
        for part in [
            r#"},"headers":{"operation":"insert","relation":"#,
            &self.relation,
            r#","lsn":""#,
            &seq_num,
            r#"","op_position":0,"last":true}}"#,
        ] {
            rows.extend_from_slice(part.as_bytes());
        }
        Ok(())
    }
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
pub fn page(events: &[Arc<Event>], rows: &Rows, up_to_date: Option<String>) -> Result<Vec<u8>, serde_json::Error> {
    const ROW_BYTES: usize = 256;
    let mut page = Vec::with_capacity(events.iter().map(|event| event.size() + ROW_BYTES).sum());
    page.push(b'[');
    for event in events {
        rows.write(&mut page, event)?;
        page.push(b',');
    }
    match up_to_date {
        Some(up_to_date) => page.extend_from_slice(up_to_date.as_bytes()),
        None if page.len() > 1 => drop(page.pop()),
        None => {}
    }
    page.push(b']');
    Ok(page)
}
