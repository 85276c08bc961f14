//! The shard to which a slot or a store goes. All of it is one transaction: nobody sees a log before it is whole.

use std::collections::BTreeMap;

use tokio_postgres::types::ToSql;

use super::super::ShardsError;
use super::super::session::Session;
use super::source::{Log, finish_earlier, tell};
use super::subject::Subject;

/// The number of logs that are copied by one statement.
const LOGS: usize = 1000;

/// The tables, beside the events, that have rows of stores. Those of the other shard arrive in temporary tables, too.
const TABLES: [&str; 5] = ["commit_keys", "relayed_events", "found_misfits", "rewritten_events", "dropped_stores"];

const COLUMNS: &str = "store, \"seqNum\", \"parentSeqNum\", name, args, \"clientId\", \"sessionId\", \"createdAt\"";

pub struct Target<'a> {
    session: &'a Session,
    slot_count: i32,
    /// Triggers and rules are kept from running by `session_replication_role`.
    has_triggers: bool,
    /// The logs that have been copied, as far as they were then.
    copied: BTreeMap<i64, Log>,
    pub events: u64,
}

impl<'a> Target<'a> {
    pub async fn begin(session: &'a Session, slot_count: i32) -> Result<Self, ShardsError> {
        // For itself: it may lock the table.
        session.begin_as_owner(false).await?;
        session.rows("select livestore._admit_hooks('livestore.eventlog_1'::regclass::oid)", &[]).await?;
        session.commit().await?;
        session.begin_as_owner(false).await?;
        // Until the end, nobody creates a trigger there, which would run for old events.
        session.run("lock table only livestore.eventlog_1 in row exclusive mode").await?;
        let has_triggers = has_triggers(session).await?;
        session.act_as_self().await?;
        if has_triggers {
            let switched = "set local session_replication_role = replica; set local session_replication_role = origin";
            session.run(switched).await.map_err(|error| if error.is_forbidden() {
                ShardsError::Refused(vec![format!(
                    "{}: livestore.eventlog_1 has triggers or event types, which must not run for events that were appended long ago. Connect as a role that may set session_replication_role, for example a superuser",
                    session.database
                )])
            } else {
                error
            })?;
        }
        session
            .run(
                "create temporary table arriving (like livestore.eventlog_1) on commit drop;
                 grant all on arriving to livestore_owner; grant select on arriving to livestore_hooks",
            )
            .await?;
        for table in TABLES {
            let arriving = format!(
                "create temporary table arriving_{table} (like livestore.{table}) on commit drop; grant all on arriving_{table} to livestore_owner"
            );
            session.run(&arriving).await?;
        }
        // It has a number of its own here.
        session.run("alter table arriving_rewritten_events drop column id").await?;
        session.act_as_owner().await?;
        Ok(Self { session, slot_count, has_triggers, copied: BTreeMap::new(), events: 0 })
    }

    /// Brings the copies to the state of the logs at the other shard, as its transaction sees them. Returns how many events were missing.
    pub async fn follow(&mut self, source: &Session, subject: &Subject, logs: Vec<Log>) -> Result<u64, ShardsError> {
        self.admit(source, subject, &logs).await?;
        let logs: BTreeMap<i64, Log> = logs.into_iter().map(|log| (log.number, log)).collect();
        let is_over = |log: &&Log| !logs.get(&log.number).is_some_and(|now| now.continues(log));
        let over: Vec<i64> = self.copied.values().filter(is_over).map(|log| log.number).collect();
        self.remove(&over).await?;
        for number in &over {
            self.copied.remove(number);
        }
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

    /// Copies the rest, of logs that nobody can change any more, and takes over the right to them. `from` and `token` say which move this is.
    pub async fn take_over(
        &self,
        source: &Session,
        subject: &Subject,
        from: &str,
        token: &str,
    ) -> Result<(), ShardsError> {
        let session = self.session;
        let numbers: Vec<i64> = self.copied.keys().copied().collect();
        let store_ids: Vec<&str> = self.copied.values().map(|log| &*log.store_id).collect();
        // Tables that they had here before are locked when they are dropped, so this comes last.
        self.without_triggers(
            "select livestore._remove_departed_log(d.id) from livestore.departed_stores d where d.id = any ($1) or d.store_id = any ($2)",
            &[&numbers, &store_ids],
        )
        .await?;
        for some in numbers.chunks(LOGS) {
            let columns = "store, seq_num, name, version, reason, found_at";
            let numbers = array(some.iter());
            let query = format!("select {columns} from livestore.found_misfits m where m.store = any ({numbers})");
            self.receive(source, &query, "found_misfits", columns, &format!("r.store = any ({numbers})")).await?;
        }
        let mended = "select livestore._mend_row_numbers('livestore.rewritten_events'), livestore._mend_row_numbers('livestore.shard_moves')";
        session.rows(mended, &[]).await?;
        let rewritten = "store_id, store, seq_num, digest, reason, rewritten_at, rewritten_by";
        self.replace(source, subject, "rewritten_events", rewritten).await?;
        self.replace(source, subject, "dropped_stores", "store_id, backend_id").await?;
        self.follow_rewrites(&store_ids).await?;
        if let Subject::Slot(slot) = subject {
            self.take_over_exceptions(source, *slot).await?;
        }
        subject.put(session, true).await?;
        session.run_deferred().await?;
        finish_earlier(session, subject).await?;
        let (slot, store_id) = subject.columns();
        let arrival = "insert into livestore.shard_moves (token, is_arrival, slot, store_id, shard, finished_at)
             values ($1::text::uuid, true, $2, $3, $4, clock_timestamp())";
        session.rows(arrival, &[&token, &slot, &store_id, &from]).await?;
        let stores = "select s.id, s.id, s.store_id from livestore.stores s where s.id = any ($1)";
        tell(session, "arrive", stores, &numbers).await
    }

    /// Dead letters that an earlier time here has left, of events that were rewritten since.
    async fn follow_rewrites(&self, store_ids: &[&str]) -> Result<(), ShardsError> {
        let condition =
            "l.store_id = any ($1) and l.name is not null and r.store_id = l.store_id and r.seq_num = l.seq_num";
        let are_there = format!(
            "select exists (select from livestore.dead_letters l, livestore.rewritten_events r where {condition})"
        );
        if self.session.value(&are_there, &[&store_ids]).await? {
            let update = format!(
                "update livestore.dead_letters l set name = e.name, args = e.args, error = null
                 from livestore.rewritten_events r
                 join livestore.stores s on s.store_id = r.store_id
                 cross join lateral livestore._stored_events(array[s.id], array[r.seq_num]) e
                 where {condition}"
            );
            self.session.rows(&update, &[&store_ids]).await?;
        }
        Ok(())
    }

    /// Rows of a table that say which store they are of, instead of those that are here. Of the stores of a slot, those that are on other
    /// shards than the slot keep what their shards know of them.
    async fn replace(
        &self,
        source: &Session,
        subject: &Subject,
        table: &str,
        columns: &str,
    ) -> Result<(), ShardsError> {
        let condition = subject.matches("r.store_id", self.slot_count);
        let other_place = |is_here: bool| match subject {
            Subject::Slot(_) => format!(
                "and not exists (select from livestore.shard_stores e where e.store_id = r.store_id and e.is_here = {is_here})"
            ),
            Subject::Store(_) => String::new(),
        };
        let here = format!("{condition} {}", other_place(true));
        let delete = format!("delete from livestore.{table} r where {here}");
        self.session.rows(&delete, &[subject.parameter()]).await?;
        // COPY takes no parameters. Each database quotes for itself.
        let literal = async |session: &Session| match subject {
            Subject::Slot(slot) => Ok(slot.to_string()),
            Subject::Store(store_id) => session.value("select quote_literal($1::text)", &[store_id]).await,
        };
        let query = format!(
            "select {columns} from livestore.{table} r where {} {}",
            condition.replace("$1", &literal(source).await?),
            other_place(false)
        );
        let mut admitted = here.replace("$1", &literal(self.session).await?);
        if table == "rewritten_events" {
            // An event that was rewritten is compared by the number of its store.
            admitted.push_str(
                " and not exists (select from livestore.kept_logs k where k.id = r.store and k.store_id <> r.store_id)",
            );
        }
        self.receive(source, &query, table, columns, &admitted).await
    }

    /// Copies rows of a query into a table. They are in a table of their own first, where `admitted` is a condition on each row `r`: the
    /// shards of a front trust each other no further than for the stores that move.
    async fn receive(
        &self,
        source: &Session,
        query: &str,
        table: &str,
        columns: &str,
        admitted: &str,
    ) -> Result<(), ShardsError> {
        let session = self.session;
        source.copy(query, session, &format!("arriving_{table} ({columns})")).await?;
        self.refuse_others(source, &format!("arriving_{table}"), admitted).await?;
        let rows = format!("insert into livestore.{table} ({columns}) select {columns} from arriving_{table}");
        session.rows(&rows, &[]).await?;
        session.run(&format!("truncate arriving_{table}")).await
    }

    /// Stops the move if a row has arrived that is of none of its stores.
    async fn refuse_others(&self, source: &Session, table: &str, admitted: &str) -> Result<(), ShardsError> {
        let others = format!("select exists (select from {table} r where ({admitted}) is not true)");
        if self.session.value(&others, &[]).await? {
            return Err(sends_others(source));
        }
        Ok(())
    }

    /// Stops the move if a log is not of the subject, or has the number of another store that is, or was, here: a shard that was restored to
    /// an older state gives numbers once more.
    async fn admit(&self, source: &Session, subject: &Subject, logs: &[Log]) -> Result<(), ShardsError> {
        let is_new = |log: &&Log| self.copied.get(&log.number).is_none_or(|known| known.store_id != log.store_id);
        let (numbers, store_ids): (Vec<i64>, Vec<&str>) =
            logs.iter().filter(is_new).map(|log| (log.number, &*log.store_id)).unzip();
        if numbers.is_empty() {
            return Ok(());
        }
        let others = format!(
            "select exists (select from unnest($2::text[]) u(store_id) where not {})",
            subject.matches("u.store_id", self.slot_count)
        );
        if self.session.value(&others, &[subject.parameter(), &store_ids]).await? {
            return Err(sends_others(source));
        }
        let taken = "select u.id, to_json(u.store_id)::text, to_json(k.store_id)::text from unnest($1::bigint[], $2::text[]) u(id, store_id)
             join livestore.kept_logs k on k.id = u.id and k.store_id <> u.store_id limit 1";
        match self.session.rows(taken, &[&numbers, &store_ids]).await?.first() {
            Some(row) => {
                let (number, store_id, other): (i64, String, String) =
                    (self.session.read(row, 0)?, self.session.read(row, 1)?, self.session.read(row, 2)?);
                Err(ShardsError::Refused(vec![format!(
                    "the store {store_id} has the number {number} at {}, and so has the store {other} at {}: one of them was restored to an older state, and has given the number once more. Nothing was moved. The store gets another number if you export it, drop it and import it again while nobody pushes to it. docs/scale.md, Move stores to another shard, says what to do after a restore",
                    source.database, self.session.database
                )]))
            }
            None => Ok(()),
        }
    }

    /// Stores of the slot that are elsewhere. Those that are here already are no exceptions any more.
    async fn take_over_exceptions(&self, source: &Session, slot: i32) -> Result<(), ShardsError> {
        let of = |is_here: bool| {
            format!(
                "select e.store_id from livestore.shard_stores e where e.is_here = {is_here} and livestore.slot(e.store_id, {}) = $1::integer",
                self.slot_count
            )
        };
        let ids = async |session: &Session, is_here: bool| {
            let rows = session.rows(&of(is_here), &[&slot]).await?;
            rows.iter().map(|row| session.read(row, 0)).collect::<Result<Vec<String>, ShardsError>>()
        };
        let session = self.session;
        let (elsewhere, here) = (ids(source, false).await?, ids(session, true).await?);
        let old = format!(
            "delete from livestore.shard_stores e where livestore.slot(e.store_id, {}) = $1::integer",
            self.slot_count
        );
        session.rows(&old, &[&slot]).await?;
        let new = "insert into livestore.shard_stores (store_id, is_here)
             select u.store_id, false from unnest($1::text[]) u(store_id)
             where u.store_id <> all ($2::text[]) and livestore.slot(u.store_id, $3) = $4";
        session.rows(new, &[&elsewhere, &here, &self.slot_count, &slot]).await.map(drop)
    }

    /// Registers logs without events.
    async fn create(&self, logs: &[&Log]) -> Result<(), ShardsError> {
        let session = self.session;
        let column = |of: fn(&Log) -> &str| logs.iter().map(|log| of(log)).collect::<Vec<&str>>();
        let (store_ids, backend_ids) = (column(|log| &log.store_id), column(|log| &log.backend_id));
        let created: Vec<&str> = column(|log| &log.created_at);
        let numbers: Vec<i64> = logs.iter().map(|log| log.number).collect();
        // Sidecars remove what stores leave behind, but not what is locked.
        let locked =
            "select from livestore.departed_stores d where d.id = any ($1) or d.store_id = any ($2) for update";
        session.rows(locked, &[&numbers, &store_ids]).await?;
        // They may have been here before, under another number if they were reset since. Tables of their own stay until the end.
        for table in ["commit_keys", "relayed_events", "found_misfits"] {
            let old = format!(
                "delete from livestore.{table} k
                 where k.store = any ($1) or k.store in (select d.id from livestore.departed_stores d where d.store_id = any ($2))"
            );
            session.rows(&old, &[&numbers, &store_ids]).await?;
        }
        let letters = "delete from livestore.dead_letters l using livestore.departed_stores d
             where d.store_id = any ($2) and d.id <> all ($1) and l.store_id = d.store_id and l.name is not null";
        session.rows(letters, &[&numbers, &store_ids]).await?;
        self.without_triggers(
            "select livestore._remove_departed_log(d.id) from livestore.departed_stores d
             where (d.id = any ($1) or d.store_id = any ($2)) and d.eventlog = 'livestore.eventlog_1'::regclass",
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
        let admitted = format!("r.store = any ({numbers})");
        self.refuse_others(source, "arriving", &admitted).await?;
        let table = format!(
            "select livestore._move_events('pg_temp.arriving'::regclass::oid, '{}'::regclass::oid)",
            to.replace('\'', "''")
        );
        self.without_triggers(&table, &[]).await?;
        session.run("truncate arriving").await?;
        let keys = "store, key, seq_num";
        let query = of(keys, "livestore.commit_keys", "seq_num");
        self.receive(source, &query, "commit_keys", keys, &admitted).await?;
        let relayed = "store, \"seqNum\", key, event_number, \"timestamp\"";
        let query = of(relayed, "livestore.relayed_events", "\"seqNum\"");
        self.receive(source, &query, "relayed_events", relayed, &admitted).await?;
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
    async fn remove(&self, numbers: &[i64]) -> Result<(), ShardsError> {
        if numbers.is_empty() {
            return Ok(());
        }
        let session = self.session;
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
        self.replication_role("replica").await?;
        self.session.rows(statement, parameters).await?;
        self.replication_role("origin").await
    }

    async fn replication_role(&self, role: &str) -> Result<(), ShardsError> {
        self.session.act_as_self().await?;
        self.session.run(&format!("set local session_replication_role = {role}")).await?;
        self.session.act_as_owner().await
    }
}

/// Whether a shard has hooks that must be kept from running: they have run when the events were appended.
async fn has_triggers(session: &Session) -> Result<bool, ShardsError> {
    let row = session
        .row(
            "select count(*) > 0, count(*) filter (where h.enabled in ('A', 'R')) > 0, (
                 select count(*) > 0 from pg_constraint c
                 where c.conrelid = 'livestore.eventlog_1'::regclass and c.condeferrable and c.contype in ('u', 'x', 'p')
             )
             from (
                 select t.tgenabled as enabled from pg_trigger t where t.tgrelid = 'livestore.eventlog_1'::regclass and not t.tgisinternal
                 union all
                 select r.ev_enabled from pg_rewrite r where r.ev_class = 'livestore.eventlog_1'::regclass and r.ev_type = '3'
             ) h
             where h.enabled <> 'D'",
            &[],
        )
        .await?;
    let database = &session.database;
    if session.read(&row, 1)? {
        return Err(ShardsError::Refused(vec![format!(
            "{database}: a trigger or a rule of livestore.eventlog_1 is enabled ALWAYS or REPLICA, and would run for events that were appended long ago: disable it while stores move there"
        )]));
    }
    if session.read(&row, 2)? {
        return Err(ShardsError::Refused(vec![format!(
            "{database}: livestore.eventlog_1 has a constraint that is deferrable, and would be checked as the role that moves stores: make it not deferrable"
        )]));
    }
    session.read(&row, 0)
}

/// Why a move stops if a shard sends more than it was asked for.
fn sends_others(source: &Session) -> ShardsError {
    ShardsError::Refused(vec![format!(
        "{} has sent rows of stores that do not move. Nothing was moved. See whether somebody has changed its functions or tables",
        source.database
    )])
}

const SHARED: &str = "livestore.eventlog_1";

/// Numbers as an array in SQL.
fn array<'a>(numbers: impl Iterator<Item = &'a i64>) -> String {
    let numbers: Vec<String> = numbers.map(i64::to_string).collect();
    format!("'{{{}}}'::bigint[]", numbers.join(","))
}
