-- extension/src/append/stores.rs in SQL.
create or replace function livestore._lock_existing_stores(names text[], skips boolean)
returns setof livestore.stores
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
begin
    -- Locks in the order of store ids, and locks nothing unless all stores exist: missing ones are created first, while
    -- nothing is locked. Otherwise two groups could deadlock.
    if cardinality(names) = 1 then
        if skips then
            return query select s.* from livestore.stores s where s.store_id = names[1] for update skip locked;
        else
            return query select s.* from livestore.stores s where s.store_id = names[1] for update;
        end if;
    elsif skips then
        return query
        select s.*
        from unnest(names) n(name)
        join livestore.stores s on s.store_id = n.name
        where (select count(*) from unnest(names) n(name) join livestore.stores k on k.store_id = n.name) = cardinality(names)
        order by s.store_id collate "C"
        for update of s skip locked;
    else
        return query
        select s.*
        from unnest(names) n(name)
        join livestore.stores s on s.store_id = n.name
        where (select count(*) from unnest(names) n(name) join livestore.stores k on k.store_id = n.name) = cardinality(names)
        order by s.store_id collate "C"
        for update of s;
    end if;
end
$$;

comment on function livestore._lock_existing_stores(text[], boolean) is
'Internal: locks these stores, each once. None of them if one does not exist; with skips, those that another transaction holds are left out';

-- Needs the events of the batches, because it creates a store only for a push that will be accepted. A push that is refused
-- changes nothing.
create or replace function livestore._begin_stores(all_names text[], skips boolean, store_ids text[], received text[], read record)
returns setof livestore.stores
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    missing record;
    plan record;
    begun text[];
    existing text[];
    locked livestore.stores[];
begin
    for round in 1..100 loop
        select coalesce(array_agg(m.name), '{}') as names, coalesce(array_agg(m.backend_id), '{}') as backend_ids
        into missing
        from (
            select w.name, livestore.backend_id(w.name) as backend_id
            from unnest(all_names) w(name)
            where not exists (select from livestore.stores s where s.store_id = w.name)
        ) m;
        begun := '{}';
        if cardinality(missing.names) > 0 then
            select * into plan from livestore._plan(
                array(select array_position(missing.names, p.store_id) from unnest(store_ids) with ordinality p(store_id, push) order by p.push),
                received, array_fill(null::bigint, array[cardinality(missing.names)]),
                array_fill(0::bigint, array[cardinality(missing.names)]), missing.backend_ids,
                read.pushes, read.names, read.args, read.seq_nums, read.parent_seq_nums, read.client_ids, read.session_ids,
                read.unreadable, read.flaws
            );
            begun := array(
                select m.name from unnest(missing.names, plan.events) m(name, events) where m.events > 0 order by m.name collate "C"
            );
        end if;
        if cardinality(begun) > 0 then
            if skips then
                perform livestore._register_free_stores(begun);
            else
                perform livestore._register_stores(begun);
            end if;
        end if;
        existing := array(select w.name from unnest(all_names) w(name) where w.name = any (begun) or w.name <> all (missing.names));
        if cardinality(existing) > 0 then
            locked := array(select s from livestore._lock_existing_stores(existing, skips) s);
            -- One was dropped, or created, since it was looked for.
            continue when cardinality(locked) = 0 and not skips;
            if cardinality(locked) < cardinality(existing) and not skips then
                raise exception 'another transaction has dropped a store' using errcode = 'lock_not_available';
            end if;
        end if;
        return query select s.* from unnest(locked) s;
        -- Stores that do not exist, and that no push begins.
        return query
        select null::bigint, m.name, 0::bigint, m.backend_id, null::regclass, null::timestamptz
        from unnest(missing.names, missing.backend_ids) m(name, backend_id)
        where m.name <> all (begun);
        return;
    end loop;
    raise exception 'other transactions drop a store again and again' using errcode = 'lock_not_available';
end
$$;

comment on function livestore._begin_stores(text[], boolean, text[], text[], record) is
'Internal: the rows of stores, of which not all exist, locked; those that a push begins are created first, and one that does not exist has no id. A store that is missing is held by another transaction, and the caller does not want to wait. read: what livestore._read_batches returns';
