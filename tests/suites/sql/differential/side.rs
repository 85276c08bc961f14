//! Two databases that get the same.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tokio_postgres::types::ToSql;

use super::batches::{Event, Start};
use super::{Belief, Hooks, Push, Step};
use crate::support::{Ears, one_with, run};
use livestore_tests::cluster::Cluster;
use livestore_tests::flavour::Flavour;

/// The objects of the application that a case needs.
const APPLICATION: &str = "
    create table public.seen (n bigint generated always as identity, what text);
    grant insert on public.seen to livestore_hooks;
    create function public.witness() returns trigger language plpgsql as $$
    begin
        insert into public.seen (what) values (concat_ws(' ', new.name, new.\"seqNum\", current_user, livestore.current_store_id(),
            livestore.current_context()::text, '|', livestore.current_payload()::text, '|', livestore.current_claims()::text));
        return null;
    end $$;
    create function public.before() returns trigger language plpgsql as $$
    begin
        if new.name = 'bad' then
            raise exception 'not this one' using errcode = 'P0042', detail = 'the detail', hint = 'the hint';
        elsif new.name = 'changed' then
            new.name := 'another';
        end if;
        return new;
    end $$;
    create function public.relay() returns trigger language plpgsql as $$
    begin
        if livestore.current_store_id() not like '%relayed' then
            perform livestore.commit(split_part(livestore.current_store_id(), '-', 1) || '-relayed', 'relayed', new.args);
        end if;
        insert into public.seen (what) values (concat_ws(' ', livestore.current_store_id(), livestore.current_payload()::text));
        return null;
    end $$";

const EVERYTHING: &str = "
    select format('%s %s %s %s', s.store_id, s.head, s.backend_id, c.relname)
    from livestore.stores s join pg_class c on c.oid = s.eventlog where s.store_id like $1
    union all
    select format('%s %s %s %s %L %s %s', store_id, seq_num, parent_seq_num, name, args, client_id, session_id)
    from livestore.events where store_id like $1
    union all
    select format('%s %s', store_id, backend_id) from livestore.dropped_stores where store_id like $1
    union all
    select format('seen %s %s', row_number() over (order by n), what) from public.seen
    order by 1";

/// The commit log after a position, in its order. Appends to a store that come one after the other are one here: the native flavour
/// has an entry for each subtransaction.
const COMMITTED: &str = "
    select format('%s %s %s %s', r.first_position - $1, coalesce(s.store_id, '?'), max(r.upto), sum(r.events))
    from (
        select *, count(*) filter (where is_other) over (partition by first_position order by n) as run
        from (
            select c.first_position, e.*, lag(e.store) over (partition by c.first_position order by e.n) is distinct from e.store as is_other
            from livestore.commits c
            cross join lateral unnest(c.stores, c.upto, c.events) with ordinality e(store, upto, events, n)
            where c.position > $1
        ) e
    ) r
    left join livestore.stores s on s.id = r.store
    group by r.first_position, r.run, s.store_id order by r.first_position, r.run";

/// A database, with a connection that hears its notifications.
struct Side {
    ears: Ears,
    position: i64,
}

impl Side {
    async fn new(cluster: &'static Cluster, flavour: Flavour) -> Self {
        let database = cluster.database_of(flavour).await;
        let ears = Ears::on(&database).await;
        run(&ears.client, "update livestore.instance set seed = 'seed', heads_key = 'key'; listen livestore_heads")
            .await;
        run(&ears.client, APPLICATION).await;
        Self { ears, position: 0 }
    }

    /// The rows of a statement as text, or its error.
    async fn ask(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Vec<String> {
        let sql = format!("select (r.*)::text from ({sql}) r");
        match self.ears.client.query(&sql, parameters).await {
            Ok(rows) => rows.iter().map(|row| row.get(0)).collect(),
            Err(error) => {
                let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}: {sql}"));
                let code = error.code().code();
                vec![format!("{code} {} {:?} {:?}", error.message(), error.detail(), error.hint())]
            }
        }
    }

    async fn everything(&mut self, prefix: &str) -> Vec<String> {
        let like = format!("{prefix}-%");
        let rows = self.ears.client.query(EVERYTHING, &[&like]).await.unwrap();
        let mut all: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let rows = self.ears.client.query(COMMITTED, &[&self.position]).await.unwrap();
        all.extend(rows.iter().map(|row| row.get::<_, String>(0)));
        all.extend(self.ears.payloads().await);
        self.position =
            one_with(&self.ears.client, "select coalesce(max(position), 0) from livestore.commits", &[]).await;
        run(&self.ears.client, "truncate public.seen").await;
        all
    }
}

/// The numbers of pushes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pushes {
    pub all: usize,
    pub accepted: usize,
}

pub struct Pair {
    native: Side,
    portable: Side,
    pushes: Pushes,
}

/// The state of a store, as a case knows it.
#[derive(Default)]
struct Known {
    head: i64,
    /// The events that were pushed, by their parents.
    events: HashMap<i64, (String, i64)>,
}

impl Pair {
    pub async fn new(cluster: &'static Cluster) -> Self {
        let (native, portable) =
            (Side::new(cluster, Flavour::Native).await, Side::new(cluster, Flavour::Portable).await);
        Self { native, portable, pushes: Pushes::default() }
    }

    pub fn pushes(&self) -> Pushes {
        self.pushes
    }

    async fn both(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<String>, TestCaseError> {
        let native = self.native.ask(sql, parameters).await;
        let portable = self.portable.ask(sql, parameters).await;
        prop_assert_eq!(&native, &portable, "native and portable, {}", sql);
        Ok(native)
    }

    /// Carries the steps out in both databases, in stores of their own.
    pub async fn carry_out(&mut self, steps: &[Step]) -> Result<(), TestCaseError> {
        static CASE: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("c{}", CASE.fetch_add(1, Ordering::Relaxed));
        let result = self.carry_out_in(&prefix, steps).await;
        // The next case begins without what is left of this one.
        self.set_hooks(Hooks::None).await;
        let (native, portable) = (self.native.everything(&prefix).await, self.portable.everything(&prefix).await);
        result?;
        prop_assert_eq!(native, portable, "what is stored, committed and notified, native and portable");
        Ok(())
    }

    async fn carry_out_in(&mut self, prefix: &str, steps: &[Step]) -> Result<(), TestCaseError> {
        let mut stores: [Known; 5] = Default::default();
        // Names that have to be quoted, and one that a name of a table cannot have.
        let names = ["-a", "-b", "-ü '\" \\ \n", "-C", "-😀"].map(|name| format!("{prefix}{name}"));
        for step in steps {
            match step {
                Step::Group(pushes) => {
                    let mut batches = Vec::new();
                    let mut beliefs = Vec::new();
                    for push in pushes {
                        batches.push(write(push, &mut stores[push.store]));
                        beliefs.push(self.backend_id(push, &names[push.store]).await);
                    }
                    let of: Vec<_> = pushes.iter().map(|push| &names[push.store]).collect();
                    let contexts: Vec<_> = pushes.iter().map(|push| push.context).collect();
                    let sql =
                        "select push, head, appended, backend_id, created_at is null, sqlstate, message, detail, hint
                        from livestore.push_batch($1, $2, $3, 'source', $4)";
                    let outcomes = self.both(sql, &[&of, &batches, &beliefs, &contexts]).await?;
                    self.pushes.all += pushes.len();
                    // The sixth value of a row is null.
                    self.pushes.accepted += outcomes.iter().filter(|row| row.contains(",f,,")).count();
                }
                Step::Single(push) => {
                    let batch = write(push, &mut stores[push.store]);
                    let belief = self.backend_id(push, &names[push.store]).await;
                    let sql = "select livestore.push($1, $2::text::json, $3)";
                    self.both(sql, &[&names[push.store], &batch, &belief]).await?;
                }
                Step::Commit(store, args) => {
                    let sql = "select livestore.commit($1, 'committed', $2::text::json)";
                    self.both(sql, &[&names[*store], args]).await?;
                }
                Step::Dedicate(store) => {
                    self.both("select livestore.create_store($1, true)", &[&names[*store]]).await?;
                }
                Step::Reset(store) => self.renew("reset_store", &names[*store]).await?,
                Step::Drop(store) => self.renew("drop_store", &names[*store]).await?,
                Step::Hooks(hooks) => self.set_hooks(*hooks).await,
                Step::Read { store, after, max_events, max_bytes } => {
                    let one_time = "update livestore.eventlog_1 set \"createdAt\" = '2026-01-02 03:04:05.678901+00'";
                    for side in [&self.native, &self.portable] {
                        run(&side.ears.client, one_time).await;
                    }
                    for sql in [
                        "select seq_num, parent_seq_num, name, args::text, client_id, session_id, created_at
                         from livestore.pull_page($1, $2, $3, $4)",
                        "select head, backend_id, events from livestore.read_page($1, $2, $3, $4)",
                    ] {
                        self.both(sql, &[&names[*store], after, max_events, max_bytes]).await?;
                    }
                }
            }
            for (known, name) in stores.iter_mut().zip(&names) {
                known.head = one_with(&self.native.ears.client, "select livestore.head($1)", &[name]).await;
            }
        }
        Ok(())
    }

    async fn backend_id(&self, push: &Push, store: &str) -> Option<String> {
        match push.backend_id {
            Belief::None => None,
            Belief::Right => {
                Some(one_with(&self.native.ears.client, "select livestore.backend_id($1)", &[&store]).await)
            }
            Belief::Wrong => Some("\"wrong\" \u{1f} ü".into()),
        }
    }

    /// Gives a log another backend id, which is random: the portable one gets that of the other.
    async fn renew(&self, function: &str, store: &str) -> Result<(), TestCaseError> {
        let sql = format!("select livestore.{function}($1) is null");
        self.both(&sql, &[&store]).await?;
        for table in ["stores", "dropped_stores"] {
            let sql = format!("select backend_id from livestore.{table} where store_id = $1");
            if let Some(row) = self.native.ears.client.query_opt(&sql, &[&store]).await.unwrap() {
                let sql = format!("update livestore.{table} set backend_id = $2 where store_id = $1");
                self.portable.ears.client.execute(&sql, &[&store, &row.get::<_, String>(0)]).await.unwrap();
            }
        }
        Ok(())
    }

    async fn set_hooks(&self, hooks: Hooks) {
        let create = match hooks {
            Hooks::None => "",
            Hooks::Witness => {
                "create trigger hook after insert on TABLE for each row execute function public.witness();"
            }
            Hooks::Deferred => {
                "create constraint trigger hook after insert on TABLE deferrable initially deferred
                     for each row execute function public.witness();"
            }
            Hooks::Before => {
                "create trigger hook before insert on TABLE for each row execute function public.before();"
            }
            Hooks::Relay => "create trigger hook after insert on TABLE for each row execute function public.relay();",
        };
        let create = create.replace("TABLE", "livestore.eventlog_1");
        let mut sql = String::new();
        let _ = write!(
            sql,
            "drop trigger if exists hook on livestore.eventlog_1; {create}
             select livestore.apply_hooks(s.eventlog) from livestore.stores s where s.eventlog <> 'livestore.eventlog_1'::regclass"
        );
        for side in [&self.native, &self.portable] {
            run(&side.ears.client, &sql).await;
        }
    }
}

/// The text of a batch, for a log as far as it is known.
fn write(push: &Push, store: &mut Known) -> String {
    let mut parent = match push.batch.start {
        Start::Head => store.head,
        Start::Before(count) => (store.head - count).max(0),
        Start::After(count) => store.head + count,
    };
    let is_damaged = !push.batch.damage.is_empty();
    let mut events = Vec::new();
    for event in &push.batch.events {
        let known = push.batch.is_repeated.then(|| store.events.get(&parent).cloned()).flatten();
        let (text, seq_num) = known.unwrap_or_else(|| event.write(parent));
        if !is_damaged {
            store.events.insert(parent, (text.clone(), seq_num));
        }
        events.push(text);
        parent = seq_num;
    }
    // Later pushes of the group go on from here, if this one is accepted.
    let is_valid = !is_damaged && push.batch.events.iter().all(Event::looks_valid);
    if matches!(push.batch.start, Start::Head) && is_valid && !matches!(push.backend_id, Belief::Wrong) {
        store.head = parent;
    }
    push.batch.damaged(&events)
}
