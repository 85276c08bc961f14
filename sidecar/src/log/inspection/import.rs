//! Taking over a log from lines, as `livestore-sidecar import` sends them.

use std::pin::pin;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{SinkExt, Stream, TryStreamExt};
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::Inspection;
use super::actions::{ActionError, IMPORTS, on_own_connection};

/// The bytes that are sent at a time, about.
const CHUNK: usize = 64 << 10;

/// A large log takes long, but nobody waits for ever for a store that another transaction holds.
const LIMITS: &str = "set statement_timeout = 0; set lock_timeout = '30s'";

/// Postgres' own error has no hint.
const BEGIN: &str = "begin;
    do $$
    begin
        if not pg_catalog.has_database_privilege(pg_catalog.current_database(), 'temporary') then
            raise exception 'permission denied to create temporary tables in database %',
                    pg_catalog.to_json(pg_catalog.current_database())
                using errcode = 'insufficient_privilege', hint = pg_catalog.format(
                    'An import takes the right to make them: grant temporary on database %I to %I.',
                    pg_catalog.current_database(), current_user
                );
        end if;
    end
    $$;
    create temp table imported_lines (line text) on commit drop";

/// The outcome of an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Events that are new.
    pub imported: i64,
    pub already_there: i64,
    /// The number of the last event of the log.
    pub head: i64,
}

/// Imports the lines of a file that `livestore.export_store` has written, whole or not at all. They come in pieces of any size.
///
/// # Errors
/// Of the stream, and of Postgres: the file is not whole, or does not fit the store.
pub async fn import<E: From<tokio_postgres::Error>>(
    client: &Client,
    store: Option<&str>,
    pieces: impl Stream<Item = Result<Bytes, E>>,
) -> Result<Imported, E> {
    client.batch_execute(BEGIN).await?;
    let mut sink = pin!(client.copy_in("copy pg_temp.imported_lines from stdin").await?);
    let (mut pieces, mut lines) = (pin!(pieces), Lines::default());
    while let Some(piece) = pieces.try_next().await? {
        // One of a large file is sent in parts, so that little of it is held here.
        for part in piece.chunks(CHUNK) {
            sink.send(lines.escape(part)).await?;
        }
    }
    sink.send(lines.end()).await?;
    sink.as_mut().finish().await?;
    let import = "select imported, already_there, head from livestore.import_store('pg_temp.imported_lines', $1)";
    let row = client.query_one(import, &[&store]).await?;
    let done = Imported { imported: row.try_get(0)?, already_there: row.try_get(1)?, head: row.try_get(2)? };
    client.batch_execute("commit").await?;
    Ok(done)
}

impl Inspection {
    /// Imports lines on a connection of its own.
    pub async fn import(
        &self,
        store: Option<String>,
        pieces: impl Stream<Item = Result<Bytes, ActionError>> + Send + 'static,
    ) -> Result<Imported, ActionError> {
        on_own_connection(&self.0.first_database(), &IMPORTS, LIMITS, async move |client| {
            import(&client, store.as_deref(), pieces).await
        })
        .await
    }
}

/// Lines in the text format of COPY. White space around them and empty ones are left out.
#[derive(Default)]
struct Lines {
    has_begun: bool,
}

impl Lines {
    fn escape(&mut self, piece: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(piece.len() + piece.len() / 8);
        for &byte in piece {
            match byte {
                b'\n' => self.end_line(&mut out),
                b' ' | b'\t' | b'\r' if !self.has_begun => {}
                byte => {
                    self.has_begun = true;
                    match byte {
                        b'\\' => out.put_slice(b"\\\\"),
                        b'\t' => out.put_slice(b"\\t"),
                        b'\r' => out.put_slice(b"\\r"),
                        _ => out.put_u8(byte),
                    }
                }
            }
        }
        out.freeze()
    }

    fn end_line(&mut self, out: &mut BytesMut) {
        if std::mem::take(&mut self.has_begun) {
            out.put_u8(b'\n');
        }
    }

    /// The end of the last line, which may lack its line break.
    fn end(&mut self) -> Bytes {
        let mut out = BytesMut::new();
        self.end_line(&mut out);
        out.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_whatever_the_pieces() {
        let file = b"\r\n  {\"a\\b\": \"\t\"}\r\n\n \t\n{\"last\": 1}";
        for size in 1..=file.len() {
            let mut lines = Lines::default();
            let mut all: Vec<u8> = file.chunks(size).flat_map(|piece| lines.escape(piece)).collect();
            all.extend(lines.end());
            let text = String::from_utf8(all).unwrap();
            assert_eq!(text, "{\"a\\\\b\": \"\\t\"}\\r\n{\"last\": 1}\n", "{size}");
        }
    }
}
