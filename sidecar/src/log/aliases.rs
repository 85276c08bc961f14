//! Looking up stores by the names that other systems have for them, and where their events are.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use moka::future::Cache;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::store_id::StoreId;
use super::text::PgText;
use crate::postgres::{Database, DatabaseError, Unreadable, retry_naming};

/// A way to name stores: the SQL function that lists the stores of a name, at most so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Naming(pub &'static str);

/// A name of a store that is not its id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Alias {
    /// Several stores may have it.
    Name(Naming, PgText),
    /// The number of a store in Postgres.
    Number(i64),
}

/// The greatest age of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// A cached answer will do.
    Any,
    /// A fresh answer, for a client that is about to create a store if none has the name.
    Now,
}

/// The place of a store's events in Postgres, for a reader that is not the extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// In the schema `livestore`.
    pub table: Box<str>,
    /// The `store` of its rows. A reset gives it another one.
    pub store: i64,
    /// The life of the log.
    pub backend_id: Box<str>,
}

/// The time that an answer is kept. Stores are rarely dropped, and rarely get a namesake.
const FRESH: Duration = Duration::from_secs(10);

/// The number of answers that are kept.
const KEPT: u64 = 10_000;

/// The number of stores of one name that are told apart. A client can find a long id with the hash of another's in some seconds.
pub(super) const NAMESAKES: i64 = 1000;

const OF_NUMBER: &str = "select store_id from livestore.store_of_number($1)";

/// The interval at which a store that does not exist yet is looked for, however many clients wait for it.
pub(super) const AGAIN: Duration = Duration::from_secs(1);

/// A cache of what Postgres answered.
#[derive(Clone)]
pub struct Aliases {
    database: Database,
    stores: Cache<Alias, Arc<[StoreId]>>,
    /// Names that no store had a moment ago.
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

    /// The stores of a name, without asking who may know of them. Waits while the database is away.
    pub(super) async fn find(&self, alias: &Alias, age: Age) -> Result<Arc<[StoreId]>, Unreadable> {
        if age == Age::Any {
            if let Some(known) = self.stores.get(alias).await {
                return Ok(known);
            }
            if self.missing.contains_key(alias) {
                return Ok(Arc::default());
            }
        }
        let shard = || self.database.shard().cloned();
        let found: Arc<[StoreId]> = retry_naming(shard, || self.look_up(alias)).await?.into();
        if found.is_empty() {
            self.missing.insert(alias.clone(), ()).await;
        } else {
            self.stores.insert(alias.clone(), Arc::clone(&found)).await;
        }
        Ok(found)
    }

    /// At most [`NAMESAKES`].
    async fn look_up(&self, alias: &Alias) -> Result<Vec<StoreId>, DatabaseError> {
        match alias {
            Alias::Name(Naming(function), name) => {
                let query = format!("select store_id from {function}($1, $2)");
                self.look_for(&query, &[&name.as_str(), &NAMESAKES]).await
            }
            Alias::Number(number) => self.look_for(OF_NUMBER, &[number]).await,
        }
    }

    /// The same, of the stores with these names, and with these beginnings of names.
    pub(super) async fn look_up_among(
        &self,
        alias: &Alias,
        names: &[&str],
        prefixes: &[&str],
    ) -> Result<Vec<StoreId>, DatabaseError> {
        let Alias::Name(Naming(function), name) = alias else { return self.look_up(alias).await };
        let query = format!(
            "select store_id from (select store_id from {function}($1, $2)) s
             where store_id = any($3) or exists (select from unnest($4::text[]) p where starts_with(store_id, p)) limit 1000"
        );
        self.look_for(&query, &[&name.as_str(), &i64::MAX, &names, &prefixes]).await
    }

    async fn look_for(&self, query: &str, arguments: &[&(dyn ToSql + Sync)]) -> Result<Vec<StoreId>, DatabaseError> {
        let rows = self.query(query, arguments).await?;
        let store = |row: &Row| Ok(StoreId::parse(row.try_get(0)?).ok());
        rows.iter().filter_map(|row| store(row).transpose()).collect()
    }

    /// Names in order, at most `limit`, with the time of creation of a store. `function`: the SQL function that lists them.
    pub async fn list(
        &self,
        function: &'static str,
        prefix: &PgText,
        after: &PgText,
        limit: i64,
    ) -> Result<Vec<(String, DateTime<Utc>)>, DatabaseError> {
        let query = format!("select name, created_at from {function}($1, $2, $3)");
        let rows = self.query(&query, &[&prefix.as_str(), &after.as_str(), &limit]).await?;
        let at = |row: &Row| row.try_get::<_, Option<DateTime<Utc>>>(1);
        rows.iter().map(|row| Ok((row.try_get(0)?, at(row)?.unwrap_or_default()))).collect()
    }

    /// Finds the events of a store; `None` if there is no such store.
    pub(super) async fn locate(&self, store: &StoreId) -> Result<Option<Location>, DatabaseError> {
        if let Some(known) = self.locations.get(store).await {
            return Ok(Some(known));
        }
        let Some(location) = self.look_at(store).await? else {
            return Ok(None);
        };
        self.locations.insert(store.clone(), location.clone()).await;
        Ok(Some(location))
    }

    /// Drops the cached location of a store, which turned out to be wrong.
    pub(super) async fn forget(&self, store: &StoreId) {
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
        Ok(client.read_in_time(asked).await??)
    }
}
