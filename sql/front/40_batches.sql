-- A shard counts the pushes that it gets from 1. The positions go with them, and come back in their places.
create or replace function livestore._push_batch(
    slots integer[], positions integer[], store_ids text[], batches text[], backend_ids text[], contexts text[], source text
)
returns setof livestore.push_result
language plproxy
as $$
    cluster 'livestore_shards';
    split slots, positions, store_ids, batches, backend_ids, contexts;
    run on slots;
    select (positions::integer[])[r.push] as push, r.head, r.appended, r.backend_id, r.created_at, r.sqlstate, r.message, r.detail, r.hint
        from livestore.push_batch(store_ids, batches, backend_ids, source, contexts) as r;
$$;

comment on function livestore._push_batch(integer[], integer[], text[], text[], text[], text[], text) is
'Internal: livestore.push_batch on each of the shards that have these stores, with the pushes to those';

create or replace function livestore.push_batch(
    store_ids text[], batches text[], backend_ids text[], source text default null, contexts text[] default null
)
returns setof livestore.push_result
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    slots integer[];
    results livestore.push_result[];
    part record;
    state text;
    message text;
    detail text;
    hint text;
begin
    if cardinality(batches) is distinct from cardinality(store_ids) or cardinality(backend_ids) is distinct from cardinality(store_ids)
        or cardinality(contexts) <> cardinality(store_ids) then
        raise exception 'store_ids, batches, backend_ids and contexts must have one element for each push'
            using errcode = 'array_subscript_error';
    end if;
    slots := livestore._routes(store_ids);
    contexts := coalesce(contexts, array_fill(null::text, array[cardinality(store_ids)]));
    begin
        results := array(
            select r
            from livestore._push_batch(
                slots, array(select generate_series(1, cardinality(store_ids))), store_ids, batches, backend_ids, contexts, source
            ) r
        );
        return query select * from unnest(results);
        return;
    exception when others then
        null;
    end;
    -- A shard has failed. Others may have committed their part, which they accept again.
    for part in
        select array_agg(p.push::integer order by p.push) as positions, array_agg(p.store_id order by p.push) as store_ids,
            array_agg(batches[p.push] order by p.push) as batches, array_agg(backend_ids[p.push] order by p.push) as backend_ids,
            array_agg(contexts[p.push] order by p.push) as contexts, array_agg(slots[p.push] order by p.push) as slots
        from unnest(store_ids) with ordinality p(store_id, push)
        left join livestore._slots() o on o.slot = slots[p.push]
        group by o.number
    loop
        begin
            results := array(
                select r
                from livestore._push_batch(
                    part.slots, part.positions, part.store_ids, part.batches, part.backend_ids, part.contexts, source
                ) r
            );
            return query select * from unnest(results);
        exception when others then
            get stacked diagnostics state = returned_sqlstate, message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
            return query
            select p.push, null::bigint, 0, null::text, null::timestamptz, livestore._state_as_on_shard(state, message),
                livestore._as_on_shard(message),
                nullif(livestore._as_on_shard(detail), ''), nullif(livestore._as_on_shard(hint), '')
            from unnest(part.positions) p(push);
        end;
    end loop;
end
$$;

comment on function livestore.push_batch(text[], text[], text[], text, text[]) is
'livestore.push_batch, a call on each shard that has some of the stores. Each is a transaction of its own: a rollback at the front does not undo it. If a shard fails as a whole, because it cannot be reached, for example, the outcome of each push to it says so. The others are asked once more then, and appended is 0 for what they had committed';

create or replace function livestore._shard_identity(slot integer)
returns text
language plproxy
security definer
set search_path = pg_catalog, pg_temp
as $$
    cluster 'livestore_shards';
    run on slot;
    select pg_catalog.concat_ws(
        ' ', pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()),
        (select d.oid from pg_catalog.pg_database d where d.datname operator(pg_catalog.=) pg_catalog.current_database())
    ) as identity;
$$;

comment on function livestore._shard_identity(integer) is
'Internal: asks the shard of a slot for the start of its server and the number of its database, to see whether somebody else means the same one';

create or replace function livestore._shard_version(slot integer)
returns text
language plproxy
security definer
set search_path = pg_catalog, pg_temp
as $$
    cluster 'livestore_shards';
    run on slot;
    select livestore.version() as version;
$$;

comment on function livestore._shard_version(integer) is 'Internal: asks the shard of a slot for its version, to see whether the front reaches it';
