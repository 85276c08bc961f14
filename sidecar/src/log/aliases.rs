//! Which store a name means that somebody else gave it: to LiveStore's Electric provider a store is a table, to its S2
//! provider a stream.

use std::time::Duration;

use chrono::{DateTime, Utc};
use moka::future::Cache;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::pull::patiently;
use super::store_id::StoreId;
use crate::postgres::{Database, DatabaseError};

/// A name of the log of a store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Alias {
    /// `eventlog_<version>_<suffix>`: what `toTableName` of `@livestore/sync-electric` makes of a store id.
    Suffix(Box<str>),
    /// The rows of `livestore.eventlog_1` with this number of a store.
    Pooled(i64),
    /// What `makeS2StreamName` of `@livestore/sync-s2` makes of a store id.
    Stream(Box<str>),
}

/// Several stores have this name (`a-b` and `a_b`, `a-b` and `a b`): which one is meant cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("several stores have this name: say which one is meant with the parameter store_id")]
pub struct Ambiguous;

/// Where Postgres has the events of a store, for a reader that is not the extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// In the schema `livestore`.
    pub table: Box<str>,
    /// The `store` of its rows. A reset gives it another one.
    pub store: i64,
    /// The life of the log.
    pub backend_id: Box<str>,
}

/// How long what was looked up is believed. Stores are rarely dropped, and rarely get a namesake.
const FRESH: Duration = Duration::from_secs(10);

/// How many answers are kept.
const KEPT: u64 = 10_000;

/// How often a store that does not exist yet is looked for, however many clients wait for it.
const AGAIN: Duration = Duration::from_secs(1);

/// Answers of Postgres, kept for a while.
#[derive(Clone)]
pub struct Aliases {
    database: Database,
    stores: Cache<Alias, Result<StoreId, Ambiguous>>,
    /// Names of no store, a moment ago.
    missing: Cache<Alias, ()>,
    locations: Cache<StoreId, Location>,
}

impl Aliases {
    pub fn new(database: Database) -> Self {
        let stores = Cache::builder().max_capacity(KEPT).time_to_live(FRESH).build();
        let missing = Cache::builder().max_capacity(KEPT).time_to_live(AGAIN).build();
        let locations = Cache::builder().max_capacity(KEPT).time_to_live(FRESH).build();
        Self { database, stores, missing, locations }
    }

    /// The store of a name, `None` if there is none yet. Waits while the database is away.
    ///
    /// # Errors
    /// There are several.
    pub async fn find(&self, alias: &Alias) -> Result<Option<StoreId>, Ambiguous> {
        if let Some(known) = self.stores.get(alias).await {
            return known.map(Some);
        }
        if self.missing.contains_key(alias) {
            return Ok(None);
        }
        self.find_now(alias).await
    }

    /// The same for who is about to create a store, if there is none.
    ///
    /// # Errors
    /// There are several.
    pub async fn find_now(&self, alias: &Alias) -> Result<Option<StoreId>, Ambiguous> {
        let found = match &*patiently(|| self.look_up(alias)).await {
            [] => {
                self.missing.insert(alias.clone(), ()).await;
                return Ok(None);
            }
            [store] => Ok(store.clone()),
            _ => Err(Ambiguous),
        };
        self.stores.insert(alias.clone(), found.clone()).await;
        found.map(Some)
    }

    /// The same, once there is one.
    ///
    /// # Errors
    /// There are several.
    pub async fn wait_for(&self, alias: &Alias) -> Result<StoreId, Ambiguous> {
        loop {
            if let Some(store) = self.find(alias).await? {
                return Ok(store);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn look_up(&self, alias: &Alias) -> Result<Vec<StoreId>, DatabaseError> {
        let (query, name): (_, &(dyn ToSql + Sync)) = match alias {
            Alias::Suffix(suffix) => ("select store_id from livestore.stores_of_table_suffix($1, 2)", suffix),
            Alias::Pooled(number) => ("select store_id from livestore.store_of_number($1)", number),
            Alias::Stream(name) => ("select store_id from livestore.stores_of_stream($1, 2)", name),
        };
        let rows = self.query(query, &[name]).await?;
        let store = |row: &Row| Ok(StoreId::parse(row.try_get(0)?).ok());
        rows.iter().filter_map(|row| store(row).transpose()).collect()
    }

    /// Names of streams in order, at most `limit`, with the time of creation of a store.
    ///
    /// # Errors
    /// The database is away.
    pub async fn streams(
        &self,
        prefix: &str,
        after: &str,
        limit: i64,
    ) -> Result<Vec<(String, DateTime<Utc>)>, DatabaseError> {
        let query = "select name, created_at from livestore.list_streams($1, $2, $3)";
        let rows = self.query(query, &[&prefix, &after, &limit]).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// Where the events of a store are; `None` if there is no such store. Waits while the database is away.
    pub async fn locate(&self, store: &StoreId) -> Option<Location> {
        if let Some(known) = self.locations.get(store).await {
            return Some(known);
        }
        let location = patiently(|| self.look_at(store)).await?;
        self.locations.insert(store.clone(), location.clone()).await;
        Some(location)
    }

    /// What was known of a store has turned out to be wrong.
    pub async fn forget(&self, store: &StoreId) {
        self.locations.invalidate(store).await;
    }

    async fn look_at(&self, store: &StoreId) -> Result<Option<Location>, DatabaseError> {
        let query = "select eventlog, store, backend_id from livestore.locate_store($1)";
        let rows = self.query(query, &[&store.as_str()]).await?;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        let (table, backend_id): (&str, &str) = (row.try_get(0)?, row.try_get(2)?);
        Ok(Some(Location { table: table.into(), store: row.try_get(1)?, backend_id: backend_id.into() }))
    }

    async fn query(&self, query: &str, arguments: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, DatabaseError> {
        let client = self.database.client().await?;
        let asked = async { client.query(&client.prepare_cached(query).await?, arguments).await };
        Ok(client.in_time(asked).await??)
    }
}
