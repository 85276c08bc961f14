//! Rows in a terminal: tables for people, JSON for programs.

use std::io::{IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::source::{Row, SourceError};
use crate::telemetry::printable;

/// The most of a value that a line or a cell shows, in characters.
const BRIEF: usize = 120;

pub struct Output<'a> {
    is_json: bool,
    columns: &'a [&'a str],
    has_colours: bool,
}

impl<'a> Output<'a> {
    pub fn new(is_json: bool, columns: &'a [&'a str]) -> Self {
        let has_colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { is_json, columns, has_colours }
    }

    pub fn table(&self, rows: &[Row]) -> Result<(), SourceError> {
        if self.is_json {
            return rows.iter().try_for_each(|row| line(&row.json));
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(self.columns);
        for row in rows {
            table.add_row(self.columns.iter().map(|column| shown(row, column)));
        }
        table.trim_fmt().lines().try_for_each(line)
    }

    /// A row by itself, as it comes.
    pub fn row(&self, row: &Row) -> Result<(), SourceError> {
        if self.is_json {
            return line(&row.json);
        }
        let (dim, plain) = if self.has_colours { ("\x1b[2m", "\x1b[0m") } else { ("", "") };
        let cell = |(index, column): (usize, &&str)| match index {
            // Numbers and times come first.
            0 | 1 => format!("{dim}{}{plain}", shown(row, column)),
            _ => shown(row, column),
        };
        line(&self.columns.iter().enumerate().map(cell).collect::<Vec<_>>().join("  "))
    }
}

/// A bar on the terminal, if there is one. Without a length, it only counts.
pub fn progress(length: Option<u64>, template: &str) -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(length, target).with_style(style)
}

/// A field of a row: args as they are, and texts without their quotes. In place of a name, a row of another change than an event has the change.
fn shown(row: &Row, column: &str) -> String {
    let column = if column == "name" && row.raw(column).is_none() { "change" } else { column };
    let text = if column == "args" { None } else { row.text(column) };
    brief(text.as_deref().or(row.raw(column)).unwrap_or_default())
}

/// The beginning of a value. Clients choose what is in it: no character of it moves the cursor.
fn brief(text: &str) -> String {
    let end = text.char_indices().nth(BRIEF).map_or(text.len(), |(end, _)| end);
    let ellipsis = if end < text.len() { "…" } else { "" };
    format!("{}{ellipsis}", printable(&text[..end]).replace('\n', "\\u{a}"))
}

/// Prints a line.
pub fn line(text: &str) -> Result<(), SourceError> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_write_moves_no_cursor() {
        let shown = brief("\u{1b}[2J\u{9b}31m\u{202e}\n");
        assert!(!shown.chars().any(|character| character.is_control() || character == '\u{202e}'), "{shown}");
        assert_eq!(brief(&"x".repeat(200)).chars().count(), BRIEF + 1);
        assert_eq!(brief("ü"), "ü");
    }

    #[test]
    fn args_are_shown_as_they_are_and_texts_without_quotes() {
        let json = r#"{"seq_num" : 12, "name" : "ü\u0021", "args" : {"b": "\ud83d", "a":  1e400}, "client_id" : null}"#;
        let row = Row::read(json.into()).unwrap();
        let cells = ["seq_num", "name", "args", "client_id", "nothing"].map(|column| shown(&row, column));
        assert_eq!(cells, ["12", "ü!", r#"{"b": "\ud83d", "a":  1e400}"#, "", ""]);
        for (json, name) in
            [(r#"{"name": null, "change": "reset"}"#, "reset"), (r#"{"name": "e", "change": null}"#, "e")]
        {
            assert_eq!(shown(&Row::read(json.into()).unwrap(), "name"), name);
        }
    }
}
