//! The log of a store as lines, as `livestore-sidecar export` writes them.

use std::sync::Arc;

use serde_json::Value;

use super::{Inspection, Parameter, ReadError, Source};
use crate::log::read::page::{pull, pull_from_standby};
use crate::log::store_id::StoreId;

/// Lines of an export: so far, and whatever the next lines need.
#[derive(Debug, Default)]
pub struct Exported {
    after: i64,
    events: i64,
    digest: Vec<u8>,
    /// The backend id of the log.
    life: Option<Arc<str>>,
    is_whole: bool,
}

impl Inspection {
    /// The next lines, some megabyte at most or one event; empty behind the last one.
    pub async fn export(&self, store: &StoreId, so_far: &mut Exported) -> Result<String, ReadError> {
        if so_far.is_whole {
            return Ok(String::new());
        }
        // The bounds of a page hold for this one, too.
        let shard = self.0.shards.of(store);
        let database = &shard.database;
        // A standby may still have events as they were before a rewrite: it is read only while changes are heard of.
        let hears = shard.tails.pages().hears();
        let of_standby = if hears { pull_from_standby(database, store, so_far.after).await } else { None };
        let (source, page) = match of_standby {
            Some(page) => (Source::Standby, page),
            None => (Source::Primary, pull(database, store, so_far.after).await?),
        };
        // Two logs must not become one file.
        let life = so_far.life.get_or_insert_with(|| Arc::clone(&page.backend_id));
        if *life != page.backend_id {
            return Err(ReadError::Refused("the store was reset meanwhile".into()));
        }
        let life = Value::from(&**life);
        let count = i32::try_from(page.events.len()).unwrap_or(i32::MAX);
        drop(page);
        let mut lines = String::new();
        if count > 0 {
            let sql = "select * from livestore._export_events($1, $2, $3, $4)";
            let parameters = || -> Vec<Parameter> {
                let store = Box::new(store.as_str().to_owned());
                vec![store, Box::new(so_far.after), Box::new(count), Box::new(so_far.digest.clone())]
            };
            let rows = match self.rows_of(source, sql, parameters()).await {
                // A standby was away, or it is not the one that has the page, and lags behind.
                Err(_) if source == Source::Standby => self.rows(sql, parameters()).await?,
                Ok(rows) if source == Source::Standby && rows.is_empty() => self.rows(sql, parameters()).await?,
                rows => rows?,
            };
            // No lines would count as the end.
            if rows.is_empty() {
                return Err(ReadError::Refused("the store was reset meanwhile".into()));
            }
            for row in rows {
                lines.push_str(row.try_get(1)?);
                lines.push('\n');
                (so_far.after, so_far.digest) = (row.try_get(0)?, row.try_get(2)?);
                so_far.events += 1;
            }
            return Ok(lines);
        }
        so_far.is_whole = true;
        let sql = "select livestore._export_end($1, $2, $3)";
        for row in self
            .rows(
                sql,
                vec![Box::new(store.as_str().to_owned()), Box::new(so_far.events), Box::new(so_far.digest.clone())],
            )
            .await?
        {
            let end: &str = row.try_get(0)?;
            if serde_json::from_str::<Value>(end).is_ok_and(|end| end["backendId"] != life) {
                return Err(ReadError::Refused("the store was reset meanwhile".into()));
            }
            lines.push_str(end);
            lines.push('\n');
        }
        Ok(lines)
    }
}
