//! Checks of what gets in the way of events: indexes that refuse them, transactions that hold up their store, schemas that they do not fit,
//! handlers that cannot be called.

use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::{Client, Error};

use super::Report;
use crate::config::Config;

/// The time after which a transaction of which no more is known counts as one that stays open.
const AGAIN: Duration = Duration::from_secs(1);

/// Adds what there is to say of events.
pub async fn look(client: &Client, config: &Config, report: &mut Report) -> Result<(), Error> {
    let present = client.query_one("select to_regclass('livestore.rewrites') is not null", &[]).await?;
    if !present.get::<_, bool>(0) {
        return Ok(());
    }
    indexes(client, report).await?;
    held_stores(client, report).await?;
    misfits(client, report).await?;
    handlers(client, report).await?;
    if config.database.closes_when_idle() && !config.database.read_only {
        sleepers(client, report).await?;
    }
    Ok(())
}

/// An index on the event logs is an invisible hook: a push for which its expression raises an error, or makes an entry that is too long for
/// it, is refused. The query takes out the fields that never raise; the rest of a definition shows whether this can happen.
async fn indexes(client: &Client, report: &mut Report) -> Result<(), Error> {
    const FIELD: &str = r"livestore\.field\(args, VARIADIC ARRAY\[''::text(, ''::text)*\]\)";
    // Of the longest entry, in bytes: a character has up to four. Names and ids of clients are the developer's, and short.
    let risky = format!(
        r#"with parts as (
             select i.indexrelid, i.indisunique, m.amname, e.kind, regexp_replace(regexp_replace(regexp_replace(
                 e.definition, $re$'([^']|'')*'$re$, $re$''$re$, 'g'
             ), $re${FIELD}$re$, 'FIELD', 'g'), $re$livestore\.try_[a-z]+\(FIELD\)$re$, 'VALUE', 'g') as rest
             from pg_index i
             join pg_class c on c.oid = i.indexrelid
             join pg_am m on m.oid = c.relam
             cross join lateral (
                 select case when n <= i.indnkeyatts then 'key' else 'included' end as kind, pg_get_indexdef(i.indexrelid, n, false) as definition
                 from generate_series(1, i.indnatts) n
                 union all
                 select 'predicate', pg_get_expr(i.indpred, i.indrelid) where i.indpred is not null
             ) e
             where not i.indisprimary and i.indrelid in (
                 select 'livestore.eventlog_1'::regclass union all
                 select h.inhrelid from pg_inherits h where h.inhparent = 'livestore.eventlog_1'::regclass
             )
         ), sized as (
             select p.*, case
                 when p.kind = 'predicate' then 0
                 when p.rest in ('store', '"seqNum"', '"parentSeqNum"', '"createdAt"', 'VALUE') then 8
                 when p.rest in ('name', '"clientId"', '"sessionId"') then 200
                 when p.rest = 'md5(FIELD)' then 40
                 when p.rest = 'FIELD' and p.amname = 'hash' then 8
                 else 4 * substring(p.rest from $re$^"left"\((?:FIELD|name|"clientId"|"sessionId"), ([0-9]{{1,4}})\)$$re$)::integer
             end as bytes
             from parts p
         )
         select s.indexrelid::regclass::text, bool_or(s.indisunique), count(*) > count(s.bytes) or sum(s.bytes) > 2600 or bool_or(
             s.kind = 'predicate' and s.rest ~ $re$args|[a-zA-Z_"]+\(|(FIELD|VALUE|name|"[a-zA-Z]+")\)*::|[-+*/%|&#~@^]$re$
         )
         from sized s group by 1 order by 1"#
    );
    for row in client.query(&risky, &[]).await? {
        let (index, is_unique, can_refuse): (&str, bool, bool) = (row.get(0), row.get(1), row.get(2));
        if is_unique {
            report.wrong(format!(
                "the index {index} is unique: it refuses events with equal values, and a client whose push is refused uploads nothing more; drop index {index}"
            ));
        } else if can_refuse {
            report.wrong(format!(
                "the index {index} can refuse pushes, after which their clients push no more: an expression on args may raise an error, and an entry of a btree has at most 2,704 bytes; use livestore.field, and left(…, 600) or a hash index for texts (docs/sql.md)"
            ));
        }
    }
    Ok(())
}

/// Transactions that have written to stores and stay open. Since when those of other roles are open, only a role with `pg_read_all_stats`
/// sees; that they hold stores, every role does. A push of a sidecar that waits for such a transaction holds its stores, too.
async fn held_stores(client: &Client, report: &mut Report) -> Result<(), Error> {
    let holders = "select distinct a.pid, coalesce(a.usename::text, 'a role that was dropped'), extract(epoch from now() - a.xact_start)::float8 as seconds, l.virtualtransaction,
             quote_ident(current_user)
         from pg_stat_activity a
         join pg_locks l on l.pid = a.pid and l.granted and l.relation = 'livestore.stores'::regclass
             and l.mode in ('RowShareLock', 'RowExclusiveLock')
         where a.datname = current_database() and a.pid <> pg_backend_pid()
             and not (a.application_name = 'livestore-sidecar' and exists (select from pg_locks w where w.pid = a.pid and not w.granted))
             and (a.xact_start is null or a.xact_start < now() - interval '5 s')
         order by seconds desc";
    let mut hidden = Vec::new();
    for row in client.query(holders, &[]).await? {
        let (pid, role, seconds): (i32, &str, Option<f64>) = (row.get(0), row.get(1), row.get(2));
        match seconds {
            Some(seconds) => report.advise(format!(
                "a transaction of {role} (process {pid}) has been open for {seconds:.0} s and has written to stores: pushes to them wait until it ends"
            )),
            None => hidden.push(row.get::<_, String>(3)),
        }
    }
    if hidden.is_empty() {
        return Ok(());
    }
    // Most have ended by then.
    sleep(AGAIN).await;
    for row in client.query(holders, &[]).await? {
        let (pid, role, seconds, transaction, own_role): (i32, &str, Option<f64>, String, &str) =
            (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4));
        if seconds.is_none() && hidden.contains(&transaction) {
            report.advise(format!(
                "a transaction of {role} (process {pid}) has written to stores: pushes to them wait until it ends. {own_role} does not see since when it is open: run \"grant pg_read_all_stats to {own_role}\""
            ));
        }
    }
    Ok(())
}

async fn misfits(client: &Client, report: &mut Report) -> Result<(), Error> {
    let allowed = "select has_table_privilege('livestore.misfits', 'select')";
    if client.query_one(allowed, &[]).await?.get(0) {
        let count = "select count(*) from (select from livestore.misfits limit 10000) m";
        let count: i64 = client.query_one(count, &[]).await?.get(0);
        if count > 0 {
            report.advise(format!(
                "{count} events do not fit their type, and may stop clients for good: select * from livestore.misfits, and see docs/erasure.md"
            ));
        }
    }
    Ok(())
}

/// A handler that was dropped, or that may not be called any more, gets no events, and only its subscription falls behind.
async fn handlers(client: &Client, report: &mut Report) -> Result<(), Error> {
    let allowed =
        "select coalesce(has_function_privilege(to_regprocedure('livestore._handler(text)'), 'execute'), false)";
    if !client.query_one(allowed, &[]).await?.get::<_, bool>(0) {
        return Ok(());
    }
    let subscriptions = "select subscription from livestore.served_subscriptions() where url is null";
    for row in client.query(subscriptions, &[]).await? {
        let subscription: &str = row.get(0);
        let Err(error) = client.query_one("select livestore._handler($1)", &[&subscription]).await else { continue };
        let Some(refused) = error.as_db_error() else { return Err(error) };
        let hint = refused.hint().map(|hint| format!(" {hint}")).unwrap_or_default();
        report.wrong(format!("the subscription {subscription} is not run: {}.{hint}", refused.message()));
    }
    Ok(())
}

/// Subscriptions rest while the connections to the database are closed.
async fn sleepers(client: &Client, report: &mut Report) -> Result<(), Error> {
    let allowed = "select has_function_privilege('livestore.served_subscriptions()', 'execute')";
    if client.query_one(allowed, &[]).await?.get(0) {
        let count = "select count(*) from livestore.served_subscriptions()";
        let count: i64 = client.query_one(count, &[]).await?.get(0);
        if count > 0 {
            let of = if count == 1 { "one subscription".to_owned() } else { format!("{count} subscriptions") };
            report.advise(format!(
                "--database-idle-close: while no client is connected, the handlers and webhooks of {of} do not get what SQL and other sidecars commit; leave it out if they must not wait for the next client"
            ));
        }
    }
    Ok(())
}
