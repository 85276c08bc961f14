//! Checks of the database.

use std::time::Instant;

use tokio_postgres::{Client, Row};

use super::{Report, events, replication, rights, standbys};
use crate::config::Config;
use crate::log::{Live, check_authorize_function, check_authorize_url};
use crate::postgres::{Database, DatabaseError, version_numbers};
use crate::telemetry::chain;

/// Beside the pool: one each for groups of pushes, pushes that wait for a held store, the listener, the peer relay, handlers and /readyz, and
/// two for changes by the inspector.
const OWN_CONNECTIONS: i64 = 8;

/// The same of a sidecar that only reads: one to poll on, one for /readyz.
const OWN_CONNECTIONS_TO_READ: i64 = 2;

/// By how much clocks may differ before it shows in `createdAt` and in metrics, in seconds.
const SKEW: f64 = 2.0;

/// The versions that the extension is tested with, and those that it compiles for.
const TESTED: [i32; 3] = [15, 16, 18];
const COMPILES: std::ops::RangeInclusive<i32> = 14..=18;

/// Adds what there is to say of the database.
pub async fn look(config: &Config, database: Database, report: &mut Report) {
    match database.check().await {
        Ok(()) if database.is_read_only() => report.good("the database is reached and has the extension"),
        Ok(()) => report.good("the database is reached, has the extension, and its role may push"),
        Err(error) => {
            report.wrong(error.to_operator());
            let is_reached = matches!(
                error,
                DatabaseError::PrivilegeMissing
                    | DatabaseError::ExtensionMissing
                    | DatabaseError::ExtensionVersion { .. }
                    | DatabaseError::RowSecurityForced { .. }
            );
            if !is_reached {
                return;
            }
        }
    }
    let looked = async {
        let client = database.client().await?;
        server(&client, report).await?;
        if database.is_read_only() {
            standbys::lag(&client, report).await?;
        }
        extension(&client, report).await?;
        row_security(&client, report).await?;
        channels(&client, report).await?;
        role(&client, config, report).await?;
        parameters(&client, config, report).await?;
        rights::look(&client, report).await?;
        if let Some(function) = &config.log.authorize_function {
            rights::authorize_function(&client, function, report).await?;
        }
        replication::look(&client, report).await?;
        events::look(&client, config, report).await?;
        Ok::<_, DatabaseError>(())
    };
    if let Err(error) = looked.await {
        report.wrong(format!("the database does not answer the queries of this check: {}", chain(&error)));
        return;
    }
    standbys::look(config, &database, report).await;
    if let Some(function) = &config.log.authorize_function {
        match check_authorize_function(database.clone(), function.clone()).await {
            Ok(()) => report.good(format!("--authorize-function {function} can be called")),
            Err(error) => report.wrong(error),
        }
    }
    if let Some(url) = &config.log.authorize_url {
        match config.webhooks.webhooks() {
            Ok(webhooks) => match check_authorize_url(url.clone(), webhooks.operators_sender).await {
                Ok(()) => report.good("--authorize-url answers"),
                Err(error) => report.wrong(format!("--authorize-url: {error}")),
            },
            Err(error) => report.wrong(error),
        }
    }
    if config.live() == Live::Listen {
        notifications(&database, report).await;
    }
}

async fn server(client: &Client, report: &mut Report) -> Result<(), tokio_postgres::Error> {
    let start = Instant::now();
    let row = client
        .query_one(
            "select current_setting('server_version_num')::integer / 10000 as major, current_setting('server_version') as version,
                 current_setting('server_encoding') as encoding,
                 extract(epoch from clock_timestamp())::float8 as clock",
            &[],
        )
        .await?;
    let round_trip = start.elapsed();
    let (major, version): (i32, &str) = (row.get("major"), row.get("version"));
    match major {
        _ if TESTED.contains(&major) => report.good(format!("PostgreSQL {version}, {round_trip:.1?} away")),
        _ if COMPILES.contains(&major) => {
            report.advise(format!("PostgreSQL {version}: the extension is not tested with it"))
        }
        _ => report.wrong(format!("PostgreSQL {version}: the extension is for {COMPILES:?}")),
    }
    if row.get::<_, &str>("encoding") != "UTF8" {
        report.wrong("the encoding of the database is not UTF8: events could not be stored; create a database with encoding 'UTF8'");
    }
    let ours = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let skew = ours - round_trip.as_secs_f64() / 2.0 - row.get::<_, f64>("clock");
    if skew.abs() > SKEW {
        report.advise(format!("the clock of the database differs by {skew:.1} s: tokens and metrics go by this machine's, createdAt by the database's"));
    }
    Ok(())
}

async fn extension(client: &Client, report: &mut Report) -> Result<(), tokio_postgres::Error> {
    let available = client
        .query_opt(
            "select installed_version, default_version from pg_available_extensions
             where name = 'livestore_sync' and installed_version <> default_version",
            &[],
        )
        .await?;
    let mut can_update = false;
    if let Some(row) = available {
        let (installed, available): (&str, &str) = (row.get(0), row.get(1));
        if version_numbers(installed) < version_numbers(available) {
            can_update = true;
            report.advise(format!(
                "the extension has version {installed}, {available} is there: run \"alter extension livestore_sync update\""
            ));
        }
    }
    let callable = "select from pg_proc p join pg_namespace n on n.oid = p.pronamespace and n.nspname = 'livestore'
         where p.proname = 'flavour' and has_schema_privilege(n.oid, 'usage') and has_function_privilege(p.oid, 'execute')";
    if client.query_opt(callable, &[]).await?.is_some() {
        let known = "select livestore.version(), livestore.flavour(), exists (select from pg_extension e where e.extname = 'livestore_sync')";
        let row = client.query_one(known, &[]).await?;
        let (version, flavour, is_extension): (&str, &str, bool) = (row.get(0), row.get(1), row.get(2));
        report.good(format!("livestore_sync {version}, the {flavour} flavour"));
        let own = env!("CARGO_PKG_VERSION");
        // Nothing goes back to an older version, and nothing has to: newer ones keep what sidecars call.
        if version_numbers(version) < version_numbers(own) && !can_update {
            let remedy = match (flavour, is_extension) {
                ("portable", true) => {
                    format!(
                        "run livestore-pg_tle--update.sql of {own}, and then \"alter extension livestore_sync update\""
                    )
                }
                ("portable", false) => "run \"livestore-sidecar upgrade\" as the owner of the database".to_owned(),
                _ => format!(
                    "install the extension of {own} on the machine of the database, and then run \"alter extension livestore_sync update\""
                ),
            };
            report.advise(format!("the database has livestore_sync {version}, and this program is {own}: {remedy}"));
        }
    }
    Ok(())
}

/// Whether the ids of stores are told to everybody who may connect.
async fn channels(client: &Client, report: &mut Report) -> Result<(), tokio_postgres::Error> {
    // It reads a table with the rights of its owner, which may have lost them: `rights.rs` reports that.
    let callable = "select from pg_proc p join pg_namespace n on n.oid = p.pronamespace and n.nspname = 'livestore'
         where p.proname = 'legacy_notify' and has_schema_privilege(n.oid, 'usage') and has_function_privilege(p.oid, 'execute')
             and has_schema_privilege(p.proowner, n.oid, 'usage')";
    if client.query_opt(callable, &[]).await?.is_none() {
        return Ok(());
    }
    let row = client.query_one("select livestore.legacy_notify(), current_database()::text", &[]).await?;
    if row.get(0) {
        let database: &str = row.get(1);
        report.advise(format!(
            "every role that may connect hears the ids of all stores on the channel livestore, which sidecars before 0.3 listen to: once there are none, run \"alter database {database} set livestore.legacy_notify = off\", and restart the sidecars"
        ));
    }
    Ok(())
}

/// Row level security does less here than its name suggests.
async fn row_security(client: &Client, report: &mut Report) -> Result<(), tokio_postgres::Error> {
    let row = client
        .query_one(
            "select string_agg(c.oid::regclass::text, ', ' order by c.relname) from pg_class c
             join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'livestore' where c.relrowsecurity",
            &[],
        )
        .await?;
    if let Some(tables) = row.get::<_, Option<&str>>(0) {
        report.advise(format!(
            "row level security is on for {tables}: its policies apply to roles that read the tables directly, not to livestore.events, livestore.pull and the sidecar, which read as their owner"
        ));
    }
    Ok(())
}

async fn role(client: &Client, config: &Config, report: &mut Report) -> Result<(), tokio_postgres::Error> {
    let row = client
        .query_one(
            "select current_user::text as name, r.rolsuper as is_superuser,
                 coalesce(pg_has_role(to_regrole('livestore_admin'), 'member'), false) as is_admin,
                 case when to_regrole('livestore_writer') is null then 'livestore-sidecar install creates its role'
                     else coalesce(
                         (
                             select 'connect as ' || quote_ident(w.rolname) from pg_roles w
                             where w.rolcanlogin and not w.rolsuper and pg_has_role(w.oid, 'livestore_writer', 'member')
                             order by w.rolname <> 'livestore_sidecar', pg_has_role(w.oid, to_regrole('livestore_admin'), 'member'), w.rolname limit 1
                         ),
                         case when to_regrole('livestore_sidecar') is not null then 'grant livestore_writer to livestore_sidecar, and connect as that role'
                             else 'create role livestore_sidecar login password ''…'' in role livestore_writer' end
                     )
                 end as remedy
             from pg_roles r where r.rolname = current_user",
            &[],
        )
        .await?;
    let name: &str = row.get("name");
    let (is_superuser, is_admin): (bool, bool) = (row.get("is_superuser"), row.get("is_admin"));
    if is_superuser {
        report.advise(format!(
            "the role {name} is a superuser: the sidecar needs livestore_writer only; {}",
            row.get::<_, &str>("remedy")
        ));
    }
    match (&config.protocols.sync_cf.admin_secret, is_admin) {
        (Some(_), false) => report.wrong(format!("--admin-secret: the role {name} may not reset stores; grant livestore_admin to {name}")),
        (None, true) if !is_superuser && !config.inspector.serves(config.server.listen) => report.advise(format!(
            "the role {name} may reset stores, and nobody can ask for it without --admin-secret or the inspector: revoke livestore_admin from {name}"
        )),
        _ => {}
    }
    Ok(())
}

async fn parameters(client: &Client, config: &Config, report: &mut Report) -> Result<(), tokio_postgres::Error> {
    let row = client
        .query_one(
            "select current_setting('fsync')::boolean as fsync, current_setting('synchronous_commit') as synchronous_commit,
                 current_setting('full_page_writes')::boolean as full_page_writes,
                 current_setting('synchronous_standby_names') = 'walproposer' as is_neon,
                 current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint
                     - coalesce(current_setting('reserved_connections', true)::bigint, 0) as places,
                 (select count(*) from pg_stat_activity where datid is not null and application_name <> 'livestore-sidecar') as others,
                 (select count(*) from pg_stat_activity where application_name = 'livestore-sidecar' and pid <> pg_backend_pid()) as sidecars,
                 (select case r.rolsuper when true then -1 else r.rolconnlimit end from pg_roles r where r.rolname = current_user) as role_limit,
                 (select d.datconnlimit from pg_database d where d.datname = current_database()) as database_limit,
                 (select setting::bigint from pg_settings where name = 'transaction_timeout') as transaction_timeout,
                 (select setting::bigint from pg_settings where name = 'statement_timeout') as statement_timeout,
                 (select setting::bigint from pg_settings where name = 'idle_session_timeout') as idle_session_timeout,
                 pg_notification_queue_usage() as notifications",
            &[],
        )
        .await?;
    durability(&row, report);
    let (places, others, sidecars): (i64, i64, i64) = (row.get("places"), row.get("others"), row.get("sidecars"));
    let own = if config.database.read_only { OWN_CONNECTIONS_TO_READ } else { OWN_CONNECTIONS };
    // A second pool calls the authorize function.
    let pools = if config.log.authorize_function.is_some() { 2 } else { 1 };
    let needed = pools * i64::from(config.database.database_connections) + own;
    match places - others {
        free if free < needed => report.wrong(format!(
            "max_connections leaves {free} to sidecars, one needs {needed}: raise max_connections, or lower --database-connections"
        )),
        free => report.good(format!(
            "max_connections leaves {free} to sidecars; each takes up to {needed}, {sidecars} are in use"
        )),
    }
    for (what, remedy, limit) in [
        ("the role of --database-url", "alter role", row.get::<_, i32>("role_limit")),
        ("this database", "alter database", row.get("database_limit")),
    ] {
        if (0..needed).contains(&i64::from(limit)) {
            report.wrong(format!(
                "{what} may have {limit} connections, a sidecar needs {needed}: raise it ({remedy} … connection limit), or lower --database-connections"
            ));
        }
    }
    let transaction_timeout: Option<i64> = row.get("transaction_timeout");
    if transaction_timeout.is_some_and(|milliseconds| (1..1000).contains(&milliseconds)) {
        report.advise(
            "transaction_timeout is under a second: large commits may not end in time; raise it for the sidecar's role",
        );
    }
    let statement_timeout: i64 = row.get("statement_timeout");
    if (1..1000).contains(&statement_timeout) {
        report.advise(format!("statement_timeout is {statement_timeout} ms: large pulls and commits may not end in time; raise it for the sidecar's role"));
    }
    let idle: i64 = row.get("idle_session_timeout");
    if (1..60_000).contains(&idle) {
        report.advise(format!("idle_session_timeout is {idle} ms: it ends connections that the sidecar keeps; set it to 0 for the sidecar's role"));
    }
    let notifications: f64 = row.get("notifications");
    if notifications > 0.1 {
        let percent = notifications * 100.0;
        report.wrong(format!("the queue of notifications is {percent:.0} % full: a session that LISTENs is in a transaction that stays open; see pg_stat_activity. When it is full, no push commits"));
    }
    Ok(())
}

/// The durability of an acknowledgement.
fn durability(row: &Row, report: &mut Report) {
    let (fsync, full_page_writes): (bool, bool) = (row.get("fsync"), row.get("full_page_writes"));
    let (synchronous_commit, is_neon): (&str, bool) = (row.get("synchronous_commit"), row.get("is_neon"));
    let mut is_durable = true;
    // Neon's storage has a commit before it is answered, and its Postgres keeps nothing on a disk of its own.
    if !fsync && !is_neon {
        report.wrong(
            "fsync is off: a crash of the machine may lose or destroy everything that was acknowledged; switch it on",
        );
        is_durable = false;
    }
    if synchronous_commit == "off" || is_neon && synchronous_commit == "local" {
        report.wrong(format!("synchronous_commit is {synchronous_commit}: a crash loses events that were acknowledged, and clients that saw them get stuck; switch it on, for the sidecar's role at least"));
        is_durable = false;
    }
    if !full_page_writes && !is_neon {
        report.advise(
            "full_page_writes is off: unless the file system never tears a page, a crash may destroy the database",
        );
    }
    if is_durable {
        let kept_by = if is_neon { "Neon's storage" } else { "fsync on" };
        report
            .good(format!("an acknowledgement survives a crash ({kept_by}, synchronous_commit {synchronous_commit})"));
    }
}

/// Whether notifications reach the connection that listens.
async fn notifications(database: &Database, report: &mut Report) {
    match database.hears().await {
        Ok(true) => report.good("notifications arrive"),
        Ok(false) => report.wrong("notifications do not arrive: --listen-url has to lead to the same database as --database-url, directly or through a pooler that passes notifications on"),
        Err(error) => report.wrong(format!("notifications cannot be tried: {}", chain(&error))),
    }
}
