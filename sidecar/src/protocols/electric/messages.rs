//! The messages of a shape: events as rows that were inserted, and how far the log is known.

use serde_json::{Value, json};

use crate::log::{Event, Events, quote_into};

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

/// The longest name of a schema or table, in bytes. Postgres cuts longer ones, too.
const NAME_BYTES: usize = 63;

impl Relation {
    /// Every row repeats both names twice, so they must not be as long as a client likes.
    pub fn new(schema: &str, table: &str) -> Self {
        let [schema, table] = [schema, table].map(|name| name[..name.floor_char_boundary(NAME_BYTES)].into());
        Self { schema, table }
    }
}

/// The `args` that a client whose wire form requires them gets for an event that has none.
pub const NO_ARGS: &str = "null";

/// Writes events as rows of a table. Every value is a string: it is Postgres' text form, and LiveStore's client insists on it.
pub struct Rows {
    columns: Columns,
    /// The key up to the number, as JSON: `"\"livestore\".\"eventlog_1\"/\"7\""` is a whole one.
    key: String,
    relation: String,
    /// The name of what is written of an event.
    encoding: String,
}

impl Rows {
    pub fn new(relation: &Relation, columns: Columns) -> Self {
        let Relation { schema, table } = relation;
        let key = Value::from(format!("{}.{}/\"", quote(schema), quote(table))).to_string();
        let key = key.strip_suffix('"').unwrap_or(&key).to_owned();
        let relation = json!([schema, table]).to_string();
        let encoding = format!("rows {:?} {relation}", columns.0);
        Self { columns, key, relation, encoding }
    }

    /// The bytes of the table's names in so many rows, which the memory that is taken for events does not count.
    pub fn names_in(&self, rows: usize) -> usize {
        rows * (self.key.len() + self.relation.len())
    }

    /// Appends the row of an event.
    pub fn write(&self, rows: &mut String, event: &Event) {
        let (mut seq_num, mut parent) = (itoa::Buffer::new(), itoa::Buffer::new());
        let (seq_num, parent) = (seq_num.format(event.seq_num), parent.format(event.parent_seq_num));
        let values = event.values();
        for part in [r#"{"key":"#, &self.key, seq_num, r#"\"","value":{"#] {
            rows.push_str(part);
        }
        for (place, (name, _)) in self.columns.chosen().enumerate() {
            for part in [if place == 0 { "\"" } else { ",\"" }, name, "\":"] {
                rows.push_str(part);
            }
            match name {
                "seqNum" => quote_into(rows, seq_num),
                "parentSeqNum" => quote_into(rows, parent),
                "name" => rows.push_str(values.name),
                "args" => quote_into(rows, values.args.unwrap_or(NO_ARGS)),
                "clientId" => rows.push_str(values.client_id),
                _ => rows.push_str(values.session_id),
            }
        }
        for part in [
            r#"},"headers":{"operation":"insert","relation":"#,
            &self.relation,
            r#","lsn":""#,
            seq_num,
            r#"","op_position":0,"last":true}}"#,
        ] {
            rows.push_str(part);
        }
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
pub fn page(events: &Events, rows: &Rows, up_to_date: Option<String>) -> String {
    const ROW_BYTES: usize = 256;
    let mut page = String::with_capacity(events.iter().map(|event| event.size() + ROW_BYTES).sum());
    page.push('[');
    events.all().encode_into(&mut page, &rows.encoding, |page, event| rows.write(page, event));
    if let Some(up_to_date) = up_to_date {
        if !events.is_empty() {
            page.push(',');
        }
        page.push_str(&up_to_date);
    }
    page.push(']');
    page
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::log::StoredEvent;

    #[test]
    fn long_names_of_a_table_do_not_make_long_rows() {
        let event =
            StoredEvent { name: "e", args: None, seq_num: 1, parent_seq_num: 0, client_id: "c", session_id: "s" };
        let event = event.appended_at(DateTime::UNIX_EPOCH);
        for (name, most) in [("s", 512), ("é", 512), ("\u{1}", 2048), ("\"", 1024)] {
            let name = name.repeat(20_000);
            let (mut row, relation) = (String::new(), Relation::new(&name, &name));
            Rows::new(&relation, Columns::ALL).write(&mut row, &event);
            assert!(row.len() < event.size() + most, "{} bytes: {row}", row.len());
            assert!((252..row.len()).contains(&Rows::new(&relation, Columns::ALL).names_in(1)));
            let message: Value = serde_json::from_str(&row).unwrap();
            assert_eq!(message["headers"]["relation"], json!([relation.schema, relation.table]));
            assert_eq!(message["key"], format!("{}.{}/\"1\"", quote(&relation.schema), quote(&relation.table)));
        }
    }
}
