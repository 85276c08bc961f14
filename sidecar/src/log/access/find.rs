//! Finds the store that a client means by a name that several stores may have: the one that the client may use.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::try_join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::timeout;

use super::authorize::Action;
use super::store::StoreLog;
use crate::log::Log;
use crate::log::aliases::{AGAIN, Age, Alias, NAMESAKES};
use crate::log::context::Context;
use crate::log::error::Denied;
use crate::log::shards::Shard;
use crate::log::store_id::StoreId;
use crate::log::text::PgText;
use crate::postgres::{DatabaseError, Unreadable, retry_naming};

/// The operator's function is asked about at most so many of the stores that a token allows.
const ASKED: usize = 16;

/// The time in which another shard may answer that it has a store of the same name, once one has.
const SHARD_PATIENCE: Duration = Duration::from_secs(1);

/// Why no store was found by a name.
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

impl Log {
    /// Whether a client may use a store of a name, should there be one: the store with this very name, or one that its token allows and
    /// that may have the name. `may_have` says so of a store id, and of the beginning of one (`true`). Not by the stores that there are:
    /// those of others are none of its business.
    pub async fn may_come_to_use(
        &self,
        name: StoreId,
        action: Action,
        context: &Arc<Context>,
        may_have: impl Fn(&str, bool) -> bool,
    ) -> bool {
        if self.store(name, Arc::clone(context)).allowed_to(action).await.is_some() {
            return true;
        }
        let identity = context.identity(&self.authentication).await;
        identity.is_ok_and(|identity| {
            // Without rules, the token allows all stores, and something else has refused this one.
            identity.stores().is_none_or(|(names, prefixes)| {
                names.iter().any(|name| may_have(name, false)) || prefixes.iter().any(|prefix| may_have(prefix, true))
            })
        })
    }

    /// Whether there is a store of a name. Waits while the database is away.
    pub async fn has_alias(&self, alias: &Alias) -> Result<bool, Unreadable> {
        Ok(!self.stores_of(alias, Age::Any).await?.is_empty())
    }

    /// Finds the store that a client means by a name that several stores may have: the one that this client may use. `None`
    /// if there is none (yet): stores of other clients with this name do not count. Waits while the database is away.
    pub async fn find(
        &self,
        alias: &Alias,
        age: Age,
        action: Action,
        context: &Arc<Context>,
    ) -> Result<Option<StoreLog>, FindError> {
        let stores = self.stores_of(alias, age).await?;
        let log = |store: &StoreId| self.store(store.clone(), Arc::clone(context));
        // The number of a store is unique, so there is nothing to choose. The rights of the client are checked when it uses
        // the store.
        if let (Alias::Number(_), [store]) = (alias, &*stores) {
            return Ok(Some(log(store)));
        }
        if let Some(store) = stores.first() {
            log(store).wait_for_place().await?;
        }
        let stores = if stores.len() < NAMESAKES as usize { stores } else { self.find_among(alias, context).await? };
        let mut usable = Vec::new();
        for store in stores.iter().map(log) {
            if store.check_token(action.access(), action.refusal()).await.is_ok() {
                usable.push(store);
            }
        }
        // Whether the client may use a store with this very name is asked when it does.
        let is_certain =
            |store: &StoreLog| matches!(alias, Alias::Name(_, name) if name.as_str() == store.id().as_str());
        if usable.len() > ASKED {
            return Err(FindError::Ambiguous);
        }
        if usable.len() > 1 || usable.first().is_some_and(|store| !is_certain(store)) {
            let mut allowed = Vec::new();
            for store in usable {
                allowed.extend(store.allowed_to(action).await);
            }
            usable = allowed;
        }
        if usable.len() > 1 { Err(FindError::Ambiguous) } else { Ok(usable.pop()) }
    }

    /// The stores of a name. Waits while the database is away.
    async fn stores_of(&self, alias: &Alias, age: Age) -> Result<Arc<[StoreId]>, Unreadable> {
        self.on_all_shards(|shard| async move { shard.aliases.find(alias, age).await }).await
    }

    /// Looks for stores on all shards. A shard that does not answer delays only those who find nothing on the others.
    async fn on_all_shards<F: Future<Output = Result<Arc<[StoreId]>, Unreadable>>>(
        &self,
        find: impl Fn(Arc<Shard>) -> F,
    ) -> Result<Arc<[StoreId]>, Unreadable> {
        loop {
            let shards = self.shards.all();
            if let [one] = &*shards {
                // It may be no shard yet.
                tokio::select! {
                    biased;
                    found = find(Arc::clone(one)) => return found,
                    () = self.shards.changed(&shards) => continue,
                }
            }
            let mut asked: FuturesUnordered<_> = shards.iter().map(|shard| find(Arc::clone(shard))).collect();
            let asking = async {
                let mut all = Vec::new();
                loop {
                    let next = match all.is_empty() {
                        true => asked.next().await,
                        false => timeout(SHARD_PATIENCE, asked.next()).await.unwrap_or(None),
                    };
                    match next {
                        Some(found) => all.extend(found?.iter().cloned()),
                        None => break,
                    }
                }
                // One that has just moved may be known on both.
                all.sort_unstable();
                all.dedup();
                Ok(all.into())
            };
            tokio::select! {
                biased;
                found = asking => return found,
                () = self.shards.changed(&shards) => {}
            }
        }
    }

    /// Names of stores in order, as [`crate::log::aliases::Aliases::list`] returns them, of all shards.
    pub async fn list(
        &self,
        function: &'static str,
        prefix: &PgText,
        after: &PgText,
        limit: i64,
    ) -> Result<Vec<(String, DateTime<Utc>)>, DatabaseError> {
        let shards = self.shards.all();
        let listing = shards.iter().map(|shard| shard.aliases.list(function, prefix, after, limit));
        let mut lists = try_join_all(listing).await?;
        if lists.len() == 1 {
            return Ok(lists.pop().unwrap_or_default());
        }
        let mut names: Vec<_> = lists.into_iter().flatten().collect();
        names.sort_unstable();
        names.dedup_by(|next, one| next.0 == one.0);
        names.truncate(usize::try_from(limit).unwrap_or(0));
        Ok(names)
    }

    /// The stores with this name that the token allows, for a name that [`NAMESAKES`] stores have, or more.
    async fn find_among(&self, alias: &Alias, context: &Context) -> Result<Arc<[StoreId]>, Unreadable> {
        let Ok(identity) = context.identity(&self.authentication).await else {
            return Ok(Arc::default());
        };
        let Some((mut names, mut prefixes)) = identity.stores() else {
            return self.stores_of(alias, Age::Any).await;
        };
        // No store has such a name.
        names.retain(|name| !name.contains('\0'));
        prefixes.retain(|prefix| !prefix.contains('\0'));
        let (names, prefixes) = (&names, &prefixes);
        self.on_all_shards(|shard| async move {
            let name = || shard.name().cloned();
            Ok(retry_naming(name, || shard.aliases.look_up_among(alias, names, prefixes)).await?.into())
        })
        .await
    }

    /// The same, once there is one.
    pub async fn wait_for(&self, alias: &Alias, action: Action, context: &Arc<Context>) -> Result<StoreLog, FindError> {
        loop {
            if let Some(store) = self.find(alias, Age::Any, action, context).await? {
                return Ok(store);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}
