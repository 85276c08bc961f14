//! Checks of the standbys that histories are read from.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Error};

use super::Report;
use crate::config::Config;
use crate::postgres::{Database, Unfit};
use crate::telemetry::chain;

/// A standby that is behind by more than this takes no part in reading, or shows old logs, in seconds.
const LAG: f64 = 60.0;

/// The time that standbys get to follow, and the interval at which they are asked meanwhile.
const PATIENCE: Duration = Duration::from_secs(3);
const INTERVAL: Duration = Duration::from_millis(200);

/// Adds what there is to say of the hosts of `--read-database-url`.
pub async fn look(config: &Config, database: &Database, report: &mut Report) {
    let needed = i64::from(config.database.database_connections);
    let mut standbys = database.try_standbys().await;
    let start = Instant::now();
    // They have to replay what the primary has written up to now.
    while standbys.iter().any(|found| matches!(found, Err(Unfit::Behind))) && start.elapsed() < PATIENCE {
        sleep(INTERVAL).await;
        standbys = database.try_standbys().await;
    }
    for (host, found) in standbys.into_iter().enumerate() {
        let host = host + 1;
        match found {
            Ok(client) => {
                if let Err(error) = standby(&client, host, needed, report).await {
                    let error = chain(&error);
                    report.wrong(format!("--read-database-url, host {host}: it does not answer the queries of this check: {error}"));
                }
            }
            Err(Unfit::Behind) => report.advise(format!(
                "--read-database-url, host {host}: it is behind the primary; histories come from the primary until it has followed"
            )),
            Err(unfit) => report.wrong(format!(
                "--read-database-url, host {host}: {}; histories come from the primary",
                chain(&unfit)
            )),
        }
    }
}

/// One that can be read from.
async fn standby(client: &Client, host: usize, needed: i64, report: &mut Report) -> Result<(), Error> {
    report.good(format!("--read-database-url, host {host}: a standby that follows"));
    let free = "select current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint
             - (select count(*) from pg_stat_activity where datid is not null and application_name <> 'livestore-sidecar')";
    let free: i64 = client.query_one(free, &[]).await?.get(0);
    if free < needed {
        report.wrong(format!(
            "--read-database-url, host {host}: max_connections leaves {free} to sidecars, one needs {needed}: raise max_connections, or lower --database-connections"
        ));
    }
    lag(client, report).await
}

/// How far the server of this connection is behind its primary.
pub async fn lag(client: &Client, report: &mut Report) -> Result<(), Error> {
    // A standby that has replayed what it had received is behind by nothing, however long ago the last commit was. Something
    // may have arrived this moment, so it gets time to replay it.
    let received: Option<PgLsn> = client.query_one("select pg_last_wal_receive_lsn()", &[]).await?.get(0);
    let sql = "select pg_is_wal_replay_paused(),
             exists (select from pg_stat_get_wal_receiver() r where r.pid is not null),
             case when pg_last_wal_replay_lsn() >= $1 then 0
                 else extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())
             end::float8
         where pg_is_in_recovery()";
    let start = Instant::now();
    let (is_paused, is_connected, behind): (bool, bool, Option<f64>) = loop {
        let Some(row) = client.query_opt(sql, &[&received]).await? else {
            report.advise("this server is no standby: without --read-only, the sidecar also takes pushes");
            return Ok(());
        };
        let (is_paused, is_connected, behind) = (row.get(0), row.get(1), row.get(2));
        if is_paused || behind == Some(0.0) || start.elapsed() > PATIENCE {
            break (is_paused, is_connected, behind);
        }
        sleep(INTERVAL).await;
    };
    if is_paused {
        report.wrong("its replay is paused: nothing new arrives; run \"select pg_wal_replay_resume()\" there");
    }
    if !is_connected {
        report
            .advise("the standby has no connection to its primary: it gets nothing new, unless it restores an archive");
    }
    match behind {
        Some(seconds) if seconds > LAG => report.advise(format!("the standby is {seconds:.0} s behind its primary")),
        Some(seconds) => report.good(format!("the standby is {seconds:.0} s behind its primary")),
        None => report.advise("the standby has replayed nothing yet"),
    }
    Ok(())
}
