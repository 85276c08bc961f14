//! The shard to which a slot or a store goes. All of it is one transaction: nobody sees a log before it is whole.

use std::collections::BTreeMap;

use tokio_postgres::types::ToSql;

use super::super::ShardsError;
use super::super::session::Session;
use super::source::{Log, tell};
use super::subject::Subject;

/// The number of logs that are copied by one statement.
const LOGS: usize = 1000;

const COLUMNS: &str = "store, \"seqNum\", \"parentSeqNum\", name, args, \"clientId\", \"sessionId\", \"createdAt\"";

pub struct Target<'a> {
    session: &'a Session,
    /// Triggers are kept from running by `session_replication_role`.
    has_triggers: bool,
    /// The logs that have been copied, as far as they were then.
    copied: BTreeMap<i64, Log>,
    pub events: u64,
}

impl<'a> Target<'a> {
    pub async fn begin(session: &'a Session) -> Result<Self, ShardsError> {
        session.begin_long(false).await?;
        session.join_roles().await?;
        // Hooks have run when the events were appended.
        let row = session
            .row(
                "select count(*) > 0, count(*) filter (where t.tgenabled in ('A', 'R')) > 0
                 from pg_trigger t where t.tgrelid = 'livestore.eventlog_1'::regclass and not t.tgisinternal and t.tgenabled <> 'D'",
                &[],
            )
            .await?;
        let (has_triggers, are_always_on): (bool, bool) = (session.read(&row, 0)?, session.read(&row, 1)?);
        let database = &session.database;
        if are_always_on {
            return Err(ShardsError::Refused(vec![format!(
                "{database}: a trigger of livestore.eventlog_1 is enabled ALWAYS or REPLICA, and would run for events that were appended long ago: disable it while stores move there"
            )]));
        }
        if has_triggers {
            let switched = session
                .run("set local session_replication_role = replica; set local session_replication_role = origin")
                .await;
            if switched.as_ref().is_err_and(ShardsError::is_forbidden) {
                return Err(ShardsError::Refused(vec![format!(
                    "{database}: livestore.eventlog_1 has triggers or event types, which must not run for events that were appended long ago. Connect as a role that may set session_replication_role, for example a superuser"
                )]));
            }
            switched?;
        }
        session
            .run("create temporary table arriving (like livestore.eventlog_1) on commit drop; grant select on arriving to livestore_hooks")
            .await?;
        Ok(Self { session, has_triggers, copied: BTreeMap::new(), events: 0 })
    }

    /// Brings the copies to the state of the logs at the other shard, as its transaction sees them. Returns how many events were missing.
    pub async fn follow(&mut self, source: &Session, logs: Vec<Log>) -> Result<u64, ShardsError> {
        let logs: BTreeMap<i64, Log> = logs.into_iter().map(|log| (log.number, log)).collect();
        let is_over = |log: &&Log| !logs.get(&log.number).is_some_and(|now| now.continues(log));
        let over: Vec<Log> = self.copied.values().filter(is_over).cloned().collect();
        self.remove(&over).await?;
        self.copied.retain(|number, _| !over.iter().any(|log| log.number == *number));
        let new: Vec<&Log> = logs.values().filter(|log| !self.copied.contains_key(&log.number)).collect();
        self.create(&new).await?;
        let tables = self.tables(&logs).await?;
        let mut shared: Vec<(i64, i64)> = Vec::new();
        let mut events = 0;
        for log in logs.values() {
            let after = self.copied.get(&log.number).map_or(0, |copied| copied.head);
            match tables.get(&log.number) {
                _ if log.head == after => {}
                Some(table) => events += self.copy(source, &log.table, table, &[(log.number, after)]).await?,
                None => shared.push((log.number, after)),
            }
        }
        for some in shared.chunks(LOGS) {
            events += self.copy(source, SHARED, SHARED, some).await?;
        }
        self.set_heads(&logs).await?;
        self.copied = logs;
        self.events += events;
        Ok(events)
    }

    /// Copies the rest, of logs that nobody can change any more, and takes over the right to them.
    pub async fn take_over(&self, source: &Session, subject: &Subject) -> Result<(), ShardsError> {
        let session = self.session;
        let numbers: Vec<i64> = self.copied.keys().copied().collect();
        for some in numbers.chunks(LOGS) {
            let query = format!(
                "select m.store, m.seq_num, m.name, m.version, m.reason, m.found_at from livestore.found_misfits m where m.store = any ({})",
                array(some.iter())
            );
            let table = "livestore.found_misfits (store, seq_num, name, version, reason, found_at)";
            source.copy(&query, session, table).await?;
        }
        self.replace(
            source,
            subject,
            "rewritten_events",
            "store_id, store, seq_num, digest, reason, rewritten_at, rewritten_by",
        )
        .await?;
        self.replace(source, subject, "dropped_stores", "store_id, backend_id").await?;
        if let Subject::Slot(slot) = subject {
            self.take_over_exceptions(source, *slot).await?;
        }
        subject.put(session, true).await?;
        tell(session, "arrive", "select s.id, s.id, s.store_id from livestore.stores s where s.id = any ($1)", &numbers)
            .await
    }

    /// Rows of a table that say which store they are of, instead of those that are here.
    async fn replace(
        &self,
        source: &Session,
        subject: &Subject,
        table: &str,
        columns: &str,
    ) -> Result<(), ShardsError> {
        let condition = subject.matches("r.store_id");
        let delete = format!("delete from livestore.{table} r where {condition}");
        self.session.rows(&delete, &[subject.parameter()]).await?;
        // COPY takes no parameters.
        let literal: String = match subject {
            Subject::Slot(slot) => slot.to_string(),
            Subject::Store(store_id) => source.value("select quote_literal($1::text)", &[store_id]).await?,
        };
        let query = format!("select {columns} from livestore.{table} r where {}", condition.replace("$1", &literal));
        source.copy(&query, self.session, &format!("livestore.{table} ({columns})")).await.map(drop)
    }

    /// Stores of the slot that are elsewhere. Those that are here already are no exceptions any more.
    async fn take_over_exceptions(&self, source: &Session, slot: i32) -> Result<(), ShardsError> {
        let elsewhere = source
            .rows(
                "select e.store_id from livestore.shard_stores e, livestore.shard h
                 where not e.is_here and livestore.slot(e.store_id, h.slot_count) = $1::integer",
                &[&slot],
            )
            .await?;
        let elsewhere: Vec<String> = elsewhere.iter().map(|row| source.read(row, 0)).collect::<Result<_, _>>()?;
        let session = self.session;
        session
            .rows(
                "insert into livestore.shard_stores (store_id, is_here) select u.store_id, false from unnest($1::text[]) u(store_id)
                 on conflict do nothing",
                &[&elsewhere],
            )
            .await?;
        session
            .rows(
                "delete from livestore.shard_stores e using livestore.shard h
                 where e.is_here and livestore.slot(e.store_id, h.slot_count) = $1::integer",
                &[&slot],
            )
            .await
            .map(drop)
    }

    /// Registers logs without events.
    async fn create(&self, logs: &[&Log]) -> Result<(), ShardsError> {
        let session = self.session;
        let column = |of: fn(&Log) -> &str| logs.iter().map(|log| of(log)).collect::<Vec<&str>>();
        let (store_ids, backend_ids) = (column(|log| &log.store_id), column(|log| &log.backend_id));
        let created: Vec<&str> = column(|log| &log.created_at);
        let numbers: Vec<i64> = logs.iter().map(|log| log.number).collect();
        // They may have been here before.
        self.without_triggers(
            "select livestore._remove_departed(d.id) from livestore.departed_stores d where d.id = any ($1) or d.store_id = any ($2)",
            &[&numbers, &store_ids],
        )
        .await?;
        session
            .rows(
                "insert into livestore.stores (id, store_id, backend_id, created_at) overriding system value
                 select u.id, u.store_id, u.backend_id, u.created_at::timestamptz
                 from unnest($1::bigint[], $2::text[], $3::text[], $4::text[]) u(id, store_id, backend_id, created_at)",
                &[&numbers, &store_ids, &backend_ids, &created],
            )
            .await?;
        for log in logs.iter().filter(|log| log.has_own_table) {
            session.rows("select livestore.create_store($1, true)", &[&log.store_id]).await?;
        }
        Ok(())
    }

    /// The dedicated tables that logs have here.
    async fn tables(&self, logs: &BTreeMap<i64, Log>) -> Result<BTreeMap<i64, String>, ShardsError> {
        let own: Vec<i64> = logs.values().filter(|log| log.has_own_table).map(|log| log.number).collect();
        if own.is_empty() {
            return Ok(BTreeMap::new());
        }
        let query = "select s.id, s.eventlog::text from livestore.stores s where s.id = any ($1)";
        let rows = self.session.rows(query, &[&own]).await?;
        rows.iter().map(|row| Ok((self.session.read(row, 0)?, self.session.read(row, 1)?))).collect()
    }

    /// Copies events of logs after a sequence number, with what belongs to them.
    async fn copy(&self, source: &Session, from: &str, to: &str, logs: &[(i64, i64)]) -> Result<u64, ShardsError> {
        let session = self.session;
        let (numbers, after) =
            (array(logs.iter().map(|(number, _)| number)), array(logs.iter().map(|(_, after)| after)));
        let of = |columns: &str, table: &str, number: &str| {
            format!(
                "select {columns} from unnest({numbers}, {after}) w(number, after)
                 cross join lateral (select * from only {table} k where k.store = w.number and k.{number} > w.after order by k.{number}) e"
            )
        };
        let events = source.copy(&of(COLUMNS, from, "\"seqNum\""), session, &format!("arriving ({COLUMNS})")).await?;
        let table = format!(
            "select livestore._move_events('pg_temp.arriving'::regclass::oid, '{}'::regclass::oid)",
            to.replace('\'', "''")
        );
        self.without_triggers(&table, &[]).await?;
        session.run("truncate arriving").await?;
        let keys = "store, key, seq_num";
        source
            .copy(&of(keys, "livestore.commit_keys", "seq_num"), session, &format!("livestore.commit_keys ({keys})"))
            .await?;
        let relayed = "store, \"seqNum\", key, event_number, \"timestamp\"";
        let table = format!("livestore.relayed_events ({relayed})");
        source.copy(&of(relayed, "livestore.relayed_events", "\"seqNum\""), session, &table).await?;
        Ok(events)
    }

    async fn set_heads(&self, logs: &BTreeMap<i64, Log>) -> Result<(), ShardsError> {
        let (numbers, heads): (Vec<i64>, Vec<i64>) = logs.values().map(|log| (log.number, log.head)).unzip();
        self.session
            .rows(
                "update livestore.stores s set head = u.head from unnest($1::bigint[], $2::bigint[]) u(id, head) where s.id = u.id and s.head <> u.head",
                &[&numbers, &heads],
            )
            .await
            .map(drop)
    }

    /// Removes copies of logs that were reset, dropped or rewritten since.
    async fn remove(&self, logs: &[Log]) -> Result<(), ShardsError> {
        if logs.is_empty() {
            return Ok(());
        }
        let session = self.session;
        let numbers: Vec<i64> = logs.iter().map(|log| log.number).collect();
        self.without_triggers(
            "select livestore._delete_events(s.eventlog, s.id) from livestore.stores s where s.id = any ($1) and s.eventlog = 'livestore.eventlog_1'::regclass",
            &[&numbers],
        )
        .await?;
        let own = "select s.eventlog::text from livestore.stores s where s.id = any ($1) and s.eventlog <> 'livestore.eventlog_1'::regclass";
        let own = session.rows(own, &[&numbers]).await?;
        session.rows("delete from livestore.stores s where s.id = any ($1)", &[&numbers]).await?;
        for row in &own {
            session.run(&format!("drop table {}", session.read::<String>(row, 0)?)).await?;
        }
        for table in ["commit_keys", "relayed_events"] {
            session.rows(&format!("delete from livestore.{table} k where k.store = any ($1)"), &[&numbers]).await?;
        }
        Ok(())
    }

    async fn without_triggers(&self, statement: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<(), ShardsError> {
        if !self.has_triggers {
            return self.session.rows(statement, parameters).await.map(drop);
        }
        self.session.run("set local session_replication_role = replica").await?;
        self.session.rows(statement, parameters).await?;
        self.session.run("set local session_replication_role = origin").await
    }
}

const SHARED: &str = "livestore.eventlog_1";

/// Numbers as an array in SQL.
fn array<'a>(numbers: impl Iterator<Item = &'a i64>) -> String {
    let numbers: Vec<String> = numbers.map(i64::to_string).collect();
    format!("'{{{}}}'::bigint[]", numbers.join(","))
}
