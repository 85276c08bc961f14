//! The faults of Postgres.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::system::System;

/// The sidecars' connections.
const SIDECARS: &str = "from pg_stat_activity where usename = 'sidecar'";

/// Without a checkpoint, as a crash, and up again after a while.
pub async fn stop(system: &System, lasts: Duration) {
    let database = system.postgres.database();
    let cluster = database.cluster();
    let _ = tokio::task::spawn_blocking(|| cluster.try_pg_ctl(&["stop", "-m", "immediate"])).await;
    sleep(lasts).await;
    system.postgres.raise().await;
}

/// Ends every connection of the sidecars whose number is a multiple of `one_in`.
pub async fn terminate(system: &System, one_in: u32) {
    system.insist(&format!("select pg_terminate_backend(pid) {SIDECARS} and pid % {one_in} = 0")).await;
}

/// Postgres may stop for good when it cannot write its log, so it is started again once there is room.
pub async fn fill_disk(system: &System, lasts: Duration) {
    let Some(disk) = system.postgres.disk() else { return };
    disk.fill();
    sleep(lasts).await;
    disk.clear();
    system.postgres.raise().await;
}

/// Takes every connection that there is, those of the sidecars too.
pub async fn exhaust(system: &System, lasts: Duration) {
    let held = async {
        let mut held = Vec::new();
        let database = system.postgres.database();
        let cluster = database.cluster();
        let Ok(first) = cluster.try_connect("postgres", "postgres").await else { return held };
        // Twice: the second round takes the connections that the sidecars have lost.
        for _ in 0..2 {
            while let Ok(Ok(client)) =
                timeout(Duration::from_secs(1), cluster.try_connect("postgres", "postgres")).await
            {
                held.push(client);
            }
            let _ = first.batch_execute(&format!("select pg_terminate_backend(pid) {SIDECARS}")).await;
        }
        held.push(first);
        held
    };
    let held = held.await;
    sleep(lasts).await;
    drop(held);
}

/// A hook of the operator's that raises for every third event.
pub async fn raise(system: &System, lasts: Duration) {
    let create = "create or replace function chaos_raise() returns trigger language plpgsql as
             $$ begin if (new.args->>'n')::int % 3 = 0 then raise 'chaos'; end if; return null; end $$;
         drop trigger if exists chaos on livestore.eventlog_1;
         create trigger chaos after insert on livestore.eventlog_1 for each row execute function chaos_raise()";
    system.insist(create).await;
    sleep(lasts).await;
    // A store with its own table that came here meanwhile has the trigger, too, and keeps it.
    let end =
        "create or replace function chaos_raise() returns trigger language plpgsql as $$ begin return null; end $$;
         drop trigger if exists chaos on livestore.eventlog_1";
    system.insist(end).await;
}
