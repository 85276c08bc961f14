create or replace function livestore._stored_events(stores bigint[], seq_nums bigint[])
returns setof livestore.eventlog_1
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    own record;
begin
    -- only, because without it Postgres would lock the dedicated tables of all stores, which inherit from this one, and plan
    -- a scan of each.
    return query
    select e.*
    from unnest(stores, seq_nums) w(store, seq_num)
    join only livestore.eventlog_1 e on e.store = w.store and e."seqNum" = w.seq_num;
    for own in
        select s.id, s.eventlog, array_agg(w.seq_num) as seq_nums
        from unnest(stores, seq_nums) w(store, seq_num)
        join livestore.stores s on s.id = w.store
        where s.eventlog <> 'livestore.eventlog_1'::regclass
        group by s.id
    loop
        return query execute format('select * from only %s where store = $1 and "seqNum" = any ($2)', own.eventlog)
            using own.id, own.seq_nums;
    end loop;
end
$$;

comment on function livestore._stored_events(bigint[], bigint[]) is
'Internal: the events that are in the log at these positions, as arrays of livestore.stores.id and seqNum';

create or replace function livestore._push_some(
    store_ids text[], batches text[], backend_ids text[], positions integer[], source text, contexts text[]
)
returns setof livestore.push_result
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    result livestore.push_result;
    chosen record;
    half constant integer := cardinality(positions) / 2;
begin
    select array_agg(store_ids[p.push] order by p.n) as store_ids,
        array_agg(batches[p.push] order by p.n) as batches,
        array_agg(backend_ids[p.push] order by p.n) as backend_ids,
        array_agg(contexts[p.push] order by p.n) as contexts
    into chosen
    from unnest(positions) with ordinality p(push, n);
    begin
        for result in
            select * from livestore._append(chosen.store_ids, chosen.batches, chosen.backend_ids, source, chosen.contexts)
        loop
            result.push := positions[result.push];
            return next result;
        end loop;
        return;
    exception when others then
        if half = 0 then
            result := null;
            result.push := positions[1];
            result.appended := 0;
            get stacked diagnostics
                result.sqlstate = returned_sqlstate,
                result.message = message_text,
                result.detail = pg_exception_detail,
                result.hint = pg_exception_hint;
            -- LS… from a hook that pushes to another store says nothing about this push, and must not be read as its result. LS005 of
            -- this store is its result, even if a move has ended since, and the store is here by now. So is LS003 of a store that cannot
            -- be: no hook ran for it.
            if result.sqlstate like 'LS%' and not (
                result.sqlstate = 'LS005'
                and result.detail = json_build_object('storeId', store_ids[positions[1]])::text
                or result.sqlstate = 'LS003' and char_length(store_ids[positions[1]]) not between 1 and 1024
            ) then
                result.sqlstate := '09000';
            end if;
            return next result;
            return;
        end if;
    end;
    -- One of these pushes failed and rolled all of them back. Trying the halves, in order, finds it.
    return query select * from livestore._push_some(store_ids, batches, backend_ids, positions[:half], source, contexts);
    return query select * from livestore._push_some(store_ids, batches, backend_ids, positions[half + 1:], source, contexts);
end
$$;

comment on function livestore._push_some(text[], text[], text[], integer[], text, text[]) is
'Internal: carries out the pushes at these positions together and, if an error stops them, in halves, so that it stops only the push that it belongs to';

create or replace function livestore._lock_free_stores(store_ids text[], out free integer[], out held integer[], out new integer[])
language sql
set search_path = pg_catalog, pg_temp
as $$
    with locked as materialized (
        select s.id from livestore.stores s where s.store_id = any (store_ids)
        order by s.store_id collate "C" for update skip locked
    )
    select array_agg(p.push::integer order by p.push) filter (where l.id is not null),
        array_agg(p.push::integer order by p.push) filter (where l.id is null and s.id is not null),
        array_agg(p.push::integer order by p.push) filter (where s.id is null)
    from unnest(store_ids) with ordinality p(store_id, push)
    left join livestore.stores s on s.store_id = p.store_id
    left join locked l on l.id = s.id
$$;

comment on function livestore._lock_free_stores(text[]) is
'Internal: locks the rows of the stores that nobody else holds, without waiting, and tells which pushes are to those, which to stores that are held, and which to stores that do not exist';

-- SKIP LOCKED still waits if another transaction has locked a version of the row that is newer than the one the statement sees.
create or replace function livestore._find_free_stores(store_ids text[], out free integer[], out held integer[], out new integer[])
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '3ms'
as $$
declare
    half constant integer := cardinality(store_ids) / 2;
    first record;
    second record;
begin
    select * into free, held, new from livestore._lock_free_stores(store_ids);
exception when lock_not_available then
    if half = 0 then
        held := array[1];
        return;
    end if;
    first := livestore._find_free_stores(store_ids[:half]);
    second := livestore._find_free_stores(store_ids[half + 1:]);
    free := first.free || array(select p.push + half from unnest(second.free) p(push));
    held := first.held || array(select p.push + half from unnest(second.held) p(push));
    new := first.new || array(select p.push + half from unnest(second.new) p(push));
    free := nullif(free, '{}');
    held := nullif(held, '{}');
    new := nullif(new, '{}');
end
$$;

comment on function livestore._find_free_stores(text[]) is
'Internal: livestore._lock_free_stores for any stores, which never fails: where it would wait, it tries halves, so that only the stores for which it would wait count as held';
