create or replace function livestore.store_digest(store_id text)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select left(encode(sha256(convert_to(livestore.heads_key() || store_id, 'UTF8')), 'hex'), 32)
$$;

comment on function livestore.store_digest(text) is
'The digest that identifies a store in the notifications of the channel livestore_heads';

create or replace function livestore.legacy_notify()
returns boolean
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select coalesce(
        lower(nullif(current_setting('livestore.legacy_notify', true), '')) in ('on', 'true', 'yes', '1'),
        (select i.legacy_notify from livestore.instance i order by i.created_at limit 1)
    )
$$;

comment on function livestore.legacy_notify() is
'Whether commits are also notified on the channel livestore, with store ids, which sidecars before 0.3 listen to: the value of the setting livestore.legacy_notify or, without it, whether the database was updated from such a version';

create or replace function livestore.push(store_id text, events json, backend_id text default null)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    result livestore.push_result;
begin
    select * into result from livestore._append(array[store_id], array[events::text], array[backend_id]);
    if result.sqlstate is not null then
        raise exception '%', result.message
            using errcode = result.sqlstate, detail = coalesce(result.detail, ''), hint = coalesce(result.hint, '');
    end if;
    return result.head;
end
$$;

comment on function livestore.push(text, json, text) is
'Appends a batch, a JSON array of {"name","args","seqNum","parentSeqNum","clientId","sessionId"}, to the log of a store, whole or not at all, and returns the new head. A batch that is in the log already is accepted again. Raises LS001 (server ahead), LS002 (backend id mismatch), LS003 (invalid batch), LS005 (the store is on another shard), each with a JSON DETAIL, or what a hook raises';

-- lock_timeout: a transaction that stays open with the row of one store locked must not hold up pushes to all other stores. A
-- caller that retries such pushes itself sets livestore.held_stores to skip, and does not wait at all. Sidecars of 0.2 do not
-- set it.
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
    -- Rows are locked and updated in the same subtransaction. If another one had locked them, the update would need a
    -- multixact.
    begin
        return query select * from livestore._append(store_ids, batches, backend_ids, source, contexts);
        return;
    exception when others then
        null;
    end;

    -- An error has rolled everything back. Pushes to new stores come first, in the order of store ids. Whether another
    -- transaction is just creating such a store can only be found out by waiting, and a session that waits must have locked
    -- nothing. Then the existing stores are locked without waiting, and those that others have locked are left out.
    select array_agg(p.push::integer order by p.store_id collate "C", p.push) filter (where s.id is null and not e.is_elsewhere) as new,
        array_agg(p.push::integer order by p.push) filter (where s.id is not null) as existing,
        array_agg(p.push::integer order by p.push) filter (where e.is_elsewhere) as elsewhere
    into known
    from unnest(store_ids) with ordinality p(store_id, push)
    left join livestore.stores s on s.store_id = p.store_id
    cross join lateral (select case when s.id is null then livestore._is_elsewhere(p.store_id) else false end) e(is_elsewhere);
    -- All at once: each of them would fail, and take those that are carried out together with it along.
    return query
    select e.push, null::bigint, 0, null::text, null::timestamptz, 'LS005', error.*
    from unnest(known.elsewhere) e(push), livestore._elsewhere_error(store_ids[e.push]) error;
    if known.new is not null then
        return query select * from livestore._push_some(store_ids, batches, backend_ids, known.new, source, contexts);
    end if;
    select * into stores
    from livestore._find_free_stores((select array_agg(store_ids[p.push] order by p.n) from unnest(known.existing) with ordinality p(push, n)));
    return query
    select known.existing[held.n], null::bigint, 0, null::text, null::timestamptz,
        '55P03', 'another transaction has locked the store', null::text, 'Try again.'
    -- stores.new are stores that existed above, and were dropped since.
    from unnest(stores.held || stores.new) held(n);
    if stores.free is not null then
        return query
        select * from livestore._push_some(
            store_ids, batches, backend_ids, array(select known.existing[f.n] from unnest(stores.free) with ordinality f(n, i) order by f.i),
            source, contexts
        );
    end if;
end
$$;

comment on function livestore.push_batch(text[], text[], text[], text, text[]) is
'Many pushes to many stores at once, as arrays with one element for each push: its storeId, its batch as JSON text, its backend id or null. Returns a result for each; one that fails does not fail the others. Later pushes of a store build on earlier ones. Pushes to a store that another transaction has locked fail with 55P03: try them again. source becomes part of the notification, so that a sidecar recognizes its own. contexts: what hooks can read of each request, a JSON object as text or null (livestore.current_context)';
