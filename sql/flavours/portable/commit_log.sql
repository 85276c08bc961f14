-- Two triggers give a commit its positions, when its transaction commits. The first, on an insert, only queues the second, on an
-- update, behind everything that was deferred to the commit by then.
create or replace function livestore._queue_commit()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    update livestore.pending_commits p set is_last = true
    where p.transaction = new.transaction and p.id = new.id
        and not exists (select from livestore.pending_commits l where l.transaction = new.transaction and l.is_last);
    return null;
end
$$;

comment on function livestore._queue_commit() is
'Internal: trigger that queues livestore._number_commit behind everything that is deferred to the end of the transaction';

-- Positions are taken under a lock that is held until the commit is visible, so that they become visible in their order; NOTIFY holds
-- such a lock anyway. It must be the last lock that a transaction takes: a deferred trigger of the application may append, and would
-- wait for a store while holding it. lock_timeout: with one of the session's, a commit would fail that only waits for other commits. It still
-- holds for the lock that NOTIFY takes after this: a value set for the rest of the transaction would outlast `set constraints immediate`.
create or replace function livestore._number_commit()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = 0
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
as $$
declare
    stores bigint[] := new.stores;
    upto bigint[] := new.upto;
    events integer[] := new.events;
    changes text[] := new.changes;
    store_ids text[] := new.store_ids;
    total bigint;
    next_position bigint;
    first_position bigint;
begin
    delete from livestore.pending_commits p where p.transaction = new.transaction and p.id = new.id;
    if exists (select from livestore.pending_commits p where p.transaction = new.transaction) then
        -- Appends to a store that come one after the other are one, up to about a thousand events: a reader of the commit log finds its
        -- place in an entry by reading it from the end.
        with others as (
            delete from livestore.pending_commits p where p.transaction = new.transaction
            returning p.id, p.stores, p.upto, p.events, p.changes, p.store_ids
        ), entries as (
            select a.id, e.n, e.store, e.upto, e.events, e.change, e.store_id,
                e.change is not null or lag(e.change) over w is not null
                    or lag(e.store) over w is distinct from e.store as is_other
            from (
                select new.id as id, new.stores as stores, new.upto as upto, new.events as events, new.changes as changes,
                    new.store_ids as store_ids
                union all
                select o.id, o.stores, o.upto, o.events, o.changes, o.store_ids from others o
            ) a
            cross join lateral unnest(a.stores, a.upto, a.events, a.changes, a.store_ids)
                with ordinality e(store, upto, events, change, store_id, n)
            window w as (order by a.id, e.n)
        ), runs as (
            select e.store, e.upto, e.events, e.change, e.store_id,
                count(*) filter (where e.is_other) over (order by e.id, e.n) as run, e.id, e.n
            from entries e
        ), parts as (
            select u.*, (sum(u.events) over (partition by u.run order by u.id, u.n) - u.events) / 1000 as part from runs u
        )
        select array_agg(r.store order by r.run, r.part), array_agg(r.upto order by r.run, r.part),
            array_agg(r.events order by r.run, r.part),
            case when count(r.change) > 0 then array_agg(r.change order by r.run, r.part) end,
            case when count(r.change) > 0 then array_agg(r.store_id order by r.run, r.part) end
        into stores, upto, events, changes, store_ids
        from (
            select p.run, p.part, p.store, max(p.upto) as upto, sum(p.events)::integer as events, min(p.change) as change,
                min(p.store_id) as store_id
            from parts p group by p.run, p.part, p.store
        ) r;
    end if;
    total := events[1];
    if cardinality(events) > 1 then
        total := (select sum(e.n) from unnest(events) e(n));
    end if;
    lock table livestore.commit_turn in exclusive mode;
    next_position := nextval('livestore.commit_positions'::regclass);
    -- Logical replication and restores of single tables leave the sequence behind.
    first_position := greatest(
        next_position,
        (select max(c.position) + 1 from livestore.commits c),
        (select i.pruned_commits + 1 from livestore.instance i order by i.created_at limit 1)
    );
    if first_position + total - 1 <> next_position then
        perform setval('livestore.commit_positions'::regclass, first_position + total - 1);
    end if;
    insert into livestore.commits
    values (first_position, first_position + total - 1, stores, upto, events, clock_timestamp(), changes, store_ids);
    perform pg_notify('livestore_commits', (first_position + total - 1)::text);
    return null;
end
$$;

comment on function livestore._number_commit() is
'Internal: trigger that moves what a transaction has appended from livestore.pending_commits to livestore.commits';

-- Named so that no hook of an application has these names: set constraints knows constraints by schema and name.
drop trigger if exists livestore_queue_commit on livestore.pending_commits;
create constraint trigger livestore_queue_commit after insert on livestore.pending_commits
    deferrable initially deferred for each row execute function livestore._queue_commit();
alter table livestore.pending_commits enable always trigger livestore_queue_commit;
comment on trigger livestore_queue_commit on livestore.pending_commits is 'Queues the other trigger, at the end of a transaction';

drop trigger if exists livestore_number_commit on livestore.pending_commits;
create constraint trigger livestore_number_commit after update on livestore.pending_commits
    deferrable initially deferred for each row execute function livestore._number_commit();
alter table livestore.pending_commits enable always trigger livestore_number_commit;
comment on trigger livestore_number_commit on livestore.pending_commits is 'Gives a commit its positions';

create or replace function livestore._note_change(store bigint, number_afterwards bigint, change text, store_id text)
returns void
language sql
strict
set search_path = pg_catalog, pg_temp
as $$
    insert into livestore.pending_commits (stores, upto, events, changes, store_ids)
    values (array[store], array[number_afterwards], array[1], array[change], array[store_id])
$$;

comment on function livestore._note_change(bigint, bigint, text, text) is
'Internal: notes for livestore.commits that this transaction has changed a store. change: reset, drop, move, renew, rewrite, leave or arrive; number_afterwards: livestore.stores.id afterwards, 0 for none; for a rewrite, the event';
