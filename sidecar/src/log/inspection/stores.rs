//! Lists of stores.

use chrono::{DateTime, Utc};
use tokio_postgres::Row;

use super::{Inspection, ReadError};
use crate::log::store_id::StoreId;

/// Stores on a page.
pub const PAGE: i64 = 100;

/// Commits that are looked through for stores that were active recently.
const RECENT_COMMITS: i64 = 1000;

/// A row of `livestore.stores`.
#[derive(Debug)]
pub struct InspectedStore {
    pub number: i64,
    pub id: String,
    pub head: i64,
    pub backend_id: String,
    pub is_dedicated: bool,
    pub created_at: DateTime<Utc>,
    /// Of its last commit, where that is known.
    pub committed_at: Option<DateTime<Utc>>,
}

/// A page of stores begins behind this one.
#[derive(Debug)]
pub enum StoreStep {
    /// By `livestore.stores.id`: the newest first.
    Newest { before: i64 },
    /// Those whose ids begin with a text, in order; behind the store of this id and number.
    Prefix { prefix: String, after: Option<(String, i64)> },
}

const COLUMNS: &str =
    "s.id, s.store_id, s.head, s.backend_id, s.eventlog <> 'livestore.eventlog_1'::regclass, s.created_at";

impl Inspection {
    /// A page of stores, and whether others follow. Each takes an index: there may be millions.
    pub async fn stores(&self, step: &StoreStep) -> Result<(Vec<InspectedStore>, bool), ReadError> {
        let most = PAGE + 1;
        let rows = match step {
            StoreStep::Newest { before } => {
                let sql = format!(
                    "select {COLUMNS}, null::timestamptz from livestore.inspect_newest_stores($1, $2) s order by s.id desc"
                );
                self.rows(&sql, vec![Box::new(*before), Box::new(most)]).await?
            }
            StoreStep::Prefix { prefix, after } => {
                let sql = format!(
                    "select {COLUMNS}, null::timestamptz from livestore.inspect_stores_by_prefix($1, $2, $3, $4) s
                     order by livestore.stream_name(s.store_id) collate \"C\", s.id"
                );
                let (id, number) = after.as_ref().map_or(("", 0), |(id, number)| (id, *number));
                self.rows(
                    &sql,
                    vec![Box::new(prefix.clone()), Box::new(id.to_owned()), Box::new(number), Box::new(most)],
                )
                .await?
            }
        };
        page(rows)
    }

    /// The stores of the latest commits, the last first.
    pub async fn recent_stores(&self) -> Result<Vec<InspectedStore>, ReadError> {
        let sql = format!(
            "select {COLUMNS}, s.committed_at from livestore.inspect_recent_stores($1, $2) s order by s.committed_at desc"
        );
        Ok(page(self.rows(&sql, vec![Box::new(RECENT_COMMITS), Box::new(PAGE)]).await?)?.0)
    }

    pub async fn store(&self, id: &StoreId) -> Result<Option<InspectedStore>, ReadError> {
        let sql = format!("select {COLUMNS}, null::timestamptz from livestore.inspect_store($1) s");
        let rows = self.rows(&sql, vec![Box::new(id.as_str().to_owned())]).await?;
        rows.first().map(store).transpose()
    }
}

fn page(rows: Vec<Row>) -> Result<(Vec<InspectedStore>, bool), ReadError> {
    let has_more = rows.len() as i64 > PAGE;
    let stores = rows.iter().take(PAGE as usize).map(store).collect::<Result<_, _>>()?;
    Ok((stores, has_more))
}

fn store(row: &Row) -> Result<InspectedStore, ReadError> {
    Ok(InspectedStore {
        number: row.try_get(0)?,
        id: row.try_get(1)?,
        head: row.try_get(2)?,
        backend_id: row.try_get(3)?,
        is_dedicated: row.try_get(4)?,
        created_at: row.try_get(5)?,
        committed_at: row.try_get(6)?,
    })
}
