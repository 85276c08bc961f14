//! Which store a name means that somebody else gave it: to LiveStore's Electric provider a store is a table, to its S2
//! provider a stream.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use moka::future::Cache;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::Log;
use super::access::authorize::Action;
use super::context::Context;
use super::error::Denied;
use super::store_id::StoreId;
use super::text::PgText;
use crate::postgres::{Database, DatabaseError, Unreadable, retry_until_available};

/// A name of the log of a store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Alias {
    /// `eventlog_<version>_<suffix>`: what `toTableName` of `@livestore/sync-electric` makes of a store id.
    Suffix(PgText),
    /// The rows of `livestore.eventlog_1` with this number of a store.
    Pooled(i64),
    /// What `makeS2StreamName` of `@livestore/sync-s2` makes of a store id.
    Stream(PgText),
}

/// Why it cannot be told which store a name means.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// `a-b` and `a_b`, `a-b` and `a b`; or long ids whose hashes are the same.
    #[error("several stores have this name: say which one is meant with the parameter store_id")]
    Ambiguous,
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The stores of a name are looked up only for a request that has a place among the connections of its subject.
    #[error(transparent)]
    Denied(#[from] Denied),
}

/// How old an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Age {
    /// As old as it is kept.
    Any,
    /// Of now: for whoever is about to create a store, if there is none of the name.
    Now,
}

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

/// How many stores of one name are told apart. Whoever may create stores can find long ids with the hash of somebody else's, at
/// some seconds each.
const NAMESAKES: i64 = 1000;

const OF_SUFFIX: &str = "select store_id from livestore.stores_of_table_suffix($1, $2)";
const OF_STREAM: &str = "select store_id from livestore.stores_of_stream($1, $2)";
const OF_NUMBER: &str = "select store_id from livestore.store_of_number($1)";

/// How many of those that a token allows the operator's authorize function is asked about.
const ASKED: usize = 16;

/// How often a store that does not exist yet is looked for, however many clients wait for it.
const AGAIN: Duration = Duration::from_secs(1);

/// Answers of Postgres, kept for a while.
#[derive(Clone)]
pub struct Aliases {
    database: Database,
    stores: Cache<Alias, Arc<[StoreId]>>,
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

    /// The stores of a name, whoever may know of them. Waits while the database is away.
    async fn find(&self, alias: &Alias, age: Age) -> Result<Arc<[StoreId]>, Unreadable> {
        if age == Age::Any {
            if let Some(known) = self.stores.get(alias).await {
                return Ok(known);
            }
            if self.missing.contains_key(alias) {
                return Ok(Arc::default());
            }
        }
        let found: Arc<[StoreId]> = retry_until_available(|| self.look_up(alias)).await?.into();
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
            Alias::Suffix(suffix) => self.look_for(OF_SUFFIX, &[&suffix.as_str(), &NAMESAKES]).await,
            Alias::Pooled(number) => self.look_for(OF_NUMBER, &[number]).await,
            Alias::Stream(name) => self.look_for(OF_STREAM, &[&name.as_str(), &NAMESAKES]).await,
        }
    }

    /// The same, of the stores with these names, and with these beginnings of names.
    async fn look_up_among(
        &self,
        alias: &Alias,
        names: &[&str],
        prefixes: &[&str],
    ) -> Result<Vec<StoreId>, DatabaseError> {
        let (of_alias, name) = match alias {
            Alias::Suffix(suffix) => (OF_SUFFIX, suffix.as_str()),
            Alias::Stream(name) => (OF_STREAM, name.as_str()),
            Alias::Pooled(_) => return self.look_up(alias).await,
        };
        let query = format!(
            "select store_id from ({of_alias}) s
             where store_id = any($3) or exists (select from unnest($4::text[]) p where starts_with(store_id, p)) limit 1000"
        );
        self.look_for(&query, &[&name, &i64::MAX, &names, &prefixes]).await
    }

    async fn look_for(&self, query: &str, arguments: &[&(dyn ToSql + Sync)]) -> Result<Vec<StoreId>, DatabaseError> {
        let rows = self.query(query, arguments).await?;
        let store = |row: &Row| Ok(StoreId::parse(row.try_get(0)?).ok());
        rows.iter().filter_map(|row| store(row).transpose()).collect()
    }

    /// Names of streams in order, at most `limit`, with the time of creation of a store.
    ///
    /// # Errors
    /// The database is away.
    pub async fn streams(
        &self,
        prefix: &PgText,
        after: &PgText,
        limit: i64,
    ) -> Result<Vec<(String, DateTime<Utc>)>, DatabaseError> {
        let query = "select name, created_at from livestore.list_streams($1, $2, $3)";
        let rows = self.query(query, &[&prefix.as_str(), &after.as_str(), &limit]).await?;
        let at = |row: &Row| row.try_get::<_, Option<DateTime<Utc>>>(1);
        rows.iter().map(|row| Ok((row.try_get(0)?, at(row)?.unwrap_or_default()))).collect()
    }

    /// Where the events of a store are; `None` if there is no such store. Waits while the database is away.
    ///
    /// # Errors
    /// It cannot be told.
    pub async fn locate(&self, store: &StoreId) -> Result<Option<Location>, Unreadable> {
        if let Some(known) = self.locations.get(store).await {
            return Ok(Some(known));
        }
        let Some(location) = retry_until_available(|| self.look_at(store)).await? else {
            return Ok(None);
        };
        self.locations.insert(store.clone(), location.clone()).await;
        Ok(Some(location))
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

impl Log {
    /// Whether there is a store of a name. Waits while the database is away.
    ///
    /// # Errors
    /// It cannot be told.
    pub async fn has_alias(&self, alias: &Alias) -> Result<bool, Unreadable> {
        Ok(!self.aliases.find(alias, Age::Any).await?.is_empty())
    }

    /// The store that a client means by a name: the one that it may use, of those that have the name. `None` if there is none (yet),
    /// so that nobody's store stands in the way of another's. Waits while the database is away.
    ///
    /// # Errors
    /// It may use several, or there is no place for it.
    pub async fn find(
        &self,
        alias: &Alias,
        age: Age,
        action: Action,
        context: &Arc<Context>,
    ) -> Result<Option<StoreId>, FindError> {
        let stores = self.aliases.find(alias, age).await?;
        // There is no other of its number; whether it may be used is found out by whoever uses it.
        if let (Alias::Pooled(_), [store]) = (alias, &*stores) {
            return Ok(Some(store.clone()));
        }
        if let Some(store) = stores.first() {
            self.store_of(store, context).wait_for_place().await?;
        }
        let stores = if stores.len() < NAMESAKES as usize { stores } else { self.find_among(alias, context).await? };
        let mut usable = Vec::new();
        for store in stores.iter() {
            if self.store_of(store, context).has_token_for(action).await {
                usable.push(store);
            }
        }
        // One with the very name is asked about by whoever uses it.
        let is_certain = |store: &StoreId| matches!(alias, Alias::Suffix(name) | Alias::Stream(name) if name.as_str() == store.as_str());
        if usable.len() > ASKED {
            return Err(FindError::Ambiguous);
        }
        if usable.len() > 1 || usable.first().is_some_and(|store| !is_certain(store)) {
            let mut allowed = Vec::new();
            for store in usable {
                if self.store_of(store, context).is_allowed(action).await {
                    allowed.push(store);
                }
            }
            usable = allowed;
        }
        match usable[..] {
            [] => Ok(None),
            [store] => Ok(Some(store.clone())),
            _ => Err(FindError::Ambiguous),
        }
    }

    /// The stores of a name that the token is about, however many have the name.
    async fn find_among(&self, alias: &Alias, context: &Context) -> Result<Arc<[StoreId]>, Unreadable> {
        let Ok(identity) = context.identity(&self.authentication).await else {
            return Ok(Arc::default());
        };
        let Some((mut names, mut prefixes)) = identity.stores() else {
            return self.aliases.find(alias, Age::Any).await;
        };
        // No store has such a name.
        names.retain(|name| !name.contains('\0'));
        prefixes.retain(|prefix| !prefix.contains('\0'));
        Ok(retry_until_available(|| self.aliases.look_up_among(alias, &names, &prefixes)).await?.into())
    }

    /// The same, once there is one.
    ///
    /// # Errors
    /// There are several.
    pub async fn wait_for(&self, alias: &Alias, action: Action, context: &Arc<Context>) -> Result<StoreId, FindError> {
        loop {
            if let Some(store) = self.find(alias, Age::Any, action, context).await? {
                return Ok(store);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}
