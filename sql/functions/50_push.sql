create or replace function livestore.push(store_id text, events json, backend_id text default null)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    result livestore.push_result;
begin
    select * into result from livestore.append(array[store_id], array[events::text], array[backend_id]);
    if result.sqlstate is not null then
        raise exception '%', result.message
            using errcode = result.sqlstate, detail = coalesce(result.detail, ''), hint = coalesce(result.hint, '');
    end if;
    return result.head;
end
$$;

comment on function livestore.push(text, json, text) is
'Appends a batch, a JSON array of {"name","args","seqNum","parentSeqNum","clientId","sessionId"}, to the log of a store, whole or not at all, and returns the new head. A batch that is in the log already is accepted again. Raises LS001 (server ahead), LS002 (backend id mismatch), LS003 (invalid batch), each with a JSON DETAIL, or what a hook raises';

create or replace function livestore.push_some(
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
            select * from livestore.append(chosen.store_ids, chosen.batches, chosen.backend_ids, source, chosen.contexts)
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
            -- A hook that pushes to another store, and fails, does not speak of this one.
            if result.sqlstate like 'LS%' then
                result.sqlstate := '09000';
            end if;
            return next result;
            return;
        end if;
    end;
    -- One of them failed and took the others with it. Halves find it, in the order of the pushes.
    return query select * from livestore.push_some(store_ids, batches, backend_ids, positions[:half], source, contexts);
    return query select * from livestore.push_some(store_ids, batches, backend_ids, positions[half + 1:], source, contexts);
end
$$;

comment on function livestore.push_some(text[], text[], text[], integer[], text, text[]) is
'Internal: carries out the pushes at these positions together and, if an error stops them, in halves, so that it stops only the push that it belongs to';

create or replace function livestore.lock_free_stores(store_ids text[], out free integer[], out held integer[], out new integer[])
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

comment on function livestore.lock_free_stores(text[]) is
'Internal: locks the rows of the stores that nobody else holds, without waiting, and tells which pushes are to those, which to stores that are held, and which to stores that do not exist';

-- SKIP LOCKED still waits if another transaction has locked a version of the row that is newer than the one the statement sees.
create or replace function livestore.find_free_stores(store_ids text[], out free integer[], out held integer[], out new integer[])
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '3ms'
as $$
declare
    half constant integer := cardinality(store_ids) / 2;
    first record;
    second record;
begin
    select * into free, held, new from livestore.lock_free_stores(store_ids);
exception when lock_not_available then
    if half = 0 then
        held := array[1];
        return;
    end if;
    first := livestore.find_free_stores(store_ids[:half]);
    second := livestore.find_free_stores(store_ids[half + 1:]);
    free := first.free || array(select p.push + half from unnest(second.free) p(push));
    held := first.held || array(select p.push + half from unnest(second.held) p(push));
    new := first.new || array(select p.push + half from unnest(second.new) p(push));
    free := nullif(free, '{}');
    held := nullif(held, '{}');
    new := nullif(new, '{}');
end
$$;

comment on function livestore.find_free_stores(text[]) is
'Internal: livestore.lock_free_stores for any stores, which never fails: where it would wait, it tries halves, so that only the stores for which it would wait count as held';

-- lock_timeout: a transaction that stays open holding one store must not hold up the pushes to all others. Who tries again by
-- itself, and says so by livestore.held_stores, does not wait at all; sidecars of 0.2 do not.
create or replace function livestore.push_batch(
    store_ids text[], batches text[], backend_ids text[], source text default null, contexts text[] default null
)
returns setof livestore.push_result
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '200ms'
as $$
declare
    stores record;
    known record;
begin
    if cardinality(batches) is distinct from cardinality(store_ids) or cardinality(backend_ids) is distinct from cardinality(store_ids)
        or cardinality(contexts) <> cardinality(store_ids) then
        raise exception 'store_ids, batches, backend_ids and contexts must have one element for each push'
            using errcode = 'array_subscript_error';
    end if;
    if octet_length(source) > 200 then
        raise exception 'source has more than 200 bytes' using errcode = 'string_data_right_truncation';
    end if;
    -- Locks and updates belong to one subtransaction: a row that another one locked would need a multixact.
    begin
        return query select * from livestore.append(store_ids, batches, backend_ids, source, contexts);
        return;
    exception when others then
        null;
    end;

    -- Something failed, and took everything with it. New stores come first, by name: whether somebody else is
    -- just creating one can only be found out by waiting, and a session that waits must hold nothing that comes later. Stores that
    -- somebody else holds are left out then; the others are free, so that locking them waits for nobody.
    select array_agg(p.push::integer order by p.store_id collate "C", p.push) filter (where s.id is null) as new,
        array_agg(p.push::integer order by p.push) filter (where s.id is not null) as existing
    into known
    from unnest(store_ids) with ordinality p(store_id, push)
    left join livestore.stores s on s.store_id = p.store_id;
    if known.new is not null then
        return query select * from livestore.push_some(store_ids, batches, backend_ids, known.new, source, contexts);
    end if;
    select * into stores
    from livestore.find_free_stores((select array_agg(store_ids[p.push] order by p.n) from unnest(known.existing) with ordinality p(push, n)));
    return query
    select known.existing[held.n], null::bigint, 0, null::text, null::timestamptz,
        '55P03', 'another transaction holds the store', null::text, 'Try again.'
    -- Those that are new now were dropped a moment ago.
    from unnest(stores.held || stores.new) held(n);
    if stores.free is not null then
        return query
        select * from livestore.push_some(
            store_ids, batches, backend_ids, array(select known.existing[f.n] from unnest(stores.free) with ordinality f(n, i) order by f.i),
            source, contexts
        );
    end if;
end
$$;

comment on function livestore.push_batch(text[], text[], text[], text, text[]) is
'Many pushes to many stores at once, as arrays with one element for each push: its storeId, its batch as JSON text, its backend id or null. Returns a result for each; one that fails does not fail the others. Later pushes of a store build on earlier ones. A store that another transaction holds fails its pushes with 55P03: try them again. source comes back in the notification, so that a sidecar knows its own. contexts: what hooks may know of each request, a JSON object as text or null (livestore.current_context)';

create or replace function livestore.commit(
    store_id text, name text, args json default null, client_id text default 'server', session_id text default 'sql'
)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    head bigint;
begin
    head := (livestore.lock_store(store_id)).head;
    return livestore.push(
        store_id,
        json_build_array(
            case when args is null
                then json_build_object('name', name, 'seqNum', head + 1, 'parentSeqNum', head, 'clientId', client_id, 'sessionId', session_id)
                else json_build_object('name', name, 'args', args, 'seqNum', head + 1, 'parentSeqNum', head, 'clientId', client_id, 'sessionId', session_id)
            end
        )
    );
end
$$;

comment on function livestore.commit(text, text, json, text, text) is
'Appends one event at the head of the log of a store, from SQL, and returns its seq_num. args null: an event without args. The event takes effect, and reaches live clients, when the transaction commits';
