//! Checks of the shards behind a front database: each of them, and whether they are alike.

use std::sync::Arc;

use tokio::time::timeout;
use tokio_postgres::Client;

use super::{PATIENCE, Report, database};
use crate::config::Config;
use crate::log::shards_of;
use crate::postgres::{Database, DatabaseError};
use crate::telemetry::chain;

/// Roles that may log in, and the groups of livestore_sync that they are members of.
pub const MEMBERS: &str = "
    select u.rolname::text, r.rolname::text
    from pg_auth_members m
    join pg_roles r on r.oid = m.roleid and r.rolname in ('livestore_reader', 'livestore_writer', 'livestore_admin')
    join pg_roles u on u.oid = m.member and u.rolcanlogin
    order by 1, 2";

/// The properties that should be the same on all shards.
#[derive(PartialEq, Eq)]
struct Common {
    version: String,
    members: Vec<(String, String)>,
    hooks: Vec<String>,
    types: Vec<String>,
}

/// Looks at each shard that the front database lists.
pub async fn look(config: &Config, front: Database, report: &mut Report) {
    let shards = match shards_of(&front, &config.database).await {
        Ok(shards) => shards,
        Err(error) => return report.wrong(chain(&error)),
    };
    report.good(format!("the front database lists {} shards", shards.len()));
    let mut first: Option<(Arc<str>, Common)> = None;
    for (name, database) in shards {
        report.shard = Some(Arc::clone(&name));
        database::look(config, database.clone(), report).await;
        // That it is not reached was said.
        if let Ok(Ok(common)) = timeout(PATIENCE, common(&database, report)).await {
            match &first {
                Some((other, expected)) => compare(&common, other, expected, report),
                None => first = Some((name, common)),
            }
        }
    }
    report.shard = None;
}

async fn common(database: &Database, report: &mut Report) -> Result<Common, DatabaseError> {
    let client = database.client().await?;
    let moves = "select coalesce('slot ' || m.slot, 'the store ' || to_json(m.store_id)), m.shard, m.started_at < now() - interval '10 s'
         from livestore.shard_moves m where m.finished_at is null";
    for row in client.query(moves, &[]).await? {
        let (subject, shard, is_old): (String, String, bool) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        if is_old {
            report.wrong(format!(
                "a move of {subject} to the shard {shard} was interrupted, and its stores take no pushes: run the same command again (livestore-sidecar shards move)"
            ));
        }
    }
    let version = client.query_one("select livestore.version()", &[]).await?.try_get(0)?;
    let members = client.query(MEMBERS, &[]).await?;
    let members =
        members.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, DatabaseError>>()?;
    let types = "select distinct on (t.name) format('%s %s %s', t.name, t.mode, t.schema) from livestore.event_types t order by t.name, t.version desc";
    let hooks = column(&client, "select h from livestore.export_hooks() h").await?;
    Ok(Common { version, members, hooks, types: column(&client, types).await? })
}

async fn column(client: &Client, query: &str) -> Result<Vec<String>, DatabaseError> {
    let rows = client.query(query, &[]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

fn compare(found: &Common, other: &str, expected: &Common, report: &mut Report) {
    if found.version != expected.version {
        report.advise(format!("it has livestore_sync {}, and {other} has {}", found.version, expected.version));
    }
    let (missing, more) =
        (difference(&expected.members, &found.members), difference(&found.members, &expected.members));
    for (roles, here) in [(missing, "not here"), (more, "only here")] {
        for (role, group) in roles {
            report.wrong(format!("unlike on {other}, the role {role} is {here} a member of {group}: sidecars and applications use the same roles on all shards"));
        }
    }
    if found.hooks != expected.hooks {
        report.advise(format!("it differs from {other} in hooks, indexes or policies of the event logs: compare livestore.export_hooks() of both"));
    }
    if found.types != expected.types {
        report.advise(format!("it differs from {other} in livestore.event_types: call livestore.define_event on both"));
    }
    if found == expected {
        report.good(format!("it has the roles, hooks and event types of {other}"));
    }
}

fn difference<'a>(some: &'a [(String, String)], others: &[(String, String)]) -> Vec<&'a (String, String)> {
    some.iter().filter(|member| !others.contains(member)).collect()
}
