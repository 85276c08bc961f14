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

/// The stores `s` whose ids begin with $1, by the index on stream_name: it replaces each character by one, so that ids that begin alike have
/// names that do. It is in the order of bytes, and has no character behind '~'.
macro_rules! begins_with {
    () => {
        "livestore.stream_name(s.store_id) collate \"C\" >= livestore.stream_name($1)
             and livestore.stream_name(s.store_id) collate \"C\" < livestore.stream_name($1) || '~'
             and starts_with(s.store_id, $1)"
    };
}
pub(super) use begins_with;

const COLUMNS: &str =
    "s.id, s.store_id, s.head, s.backend_id, s.eventlog <> 'livestore.eventlog_1'::regclass, s.created_at";

impl Inspection {
    /// A page of stores, and whether others follow. Each takes an index: there may be millions.
    pub async fn stores(&self, step: &StoreStep) -> Result<(Vec<InspectedStore>, bool), ReadError> {
        let most = PAGE + 1;
        let rows = match step {
            StoreStep::Newest { before } => {
                let sql = format!(
                    "select {COLUMNS}, null::timestamptz from livestore.stores s where s.id < $1 order by s.id desc limit $2"
                );
                self.rows(&sql, vec![Box::new(*before), Box::new(most)]).await?
            }
            StoreStep::Prefix { prefix, after } => {
                let begins_with = begins_with!();
                let sql = format!(
                    "select {COLUMNS}, null::timestamptz from livestore.stores s
                     where {begins_with}
                         and (livestore.stream_name(s.store_id) collate \"C\", s.id) > (livestore.stream_name($2), $3)
                     order by livestore.stream_name(s.store_id) collate \"C\", s.id limit $4"
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
            "select {COLUMNS}, r.committed_at
             from (
                 select u.store, max(c.committed_at) as committed_at
                 from (select * from livestore.commits c order by c.position desc limit $1) c
                 cross join lateral unnest(c.stores) u(store)
                 group by u.store
             ) r
             join livestore.stores s on s.id = r.store
             order by r.committed_at desc limit $2"
        );
        Ok(page(self.rows(&sql, vec![Box::new(RECENT_COMMITS), Box::new(PAGE)]).await?)?.0)
    }

    pub async fn store(&self, id: &StoreId) -> Result<Option<InspectedStore>, ReadError> {
        let sql = format!("select {COLUMNS}, null::timestamptz from livestore.stores s where s.store_id = $1");
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
