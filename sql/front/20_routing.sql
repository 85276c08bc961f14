-- A constant, and not a count of the options: every call needs it.
create or replace function livestore.slot_count()
returns integer
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select @slots@
$$;

comment on function livestore.slot_count() is 'Number of slots, which never changes';

create or replace function livestore._slots()
returns table (slot integer, number integer)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select substr(split_part(o.option, '=', 1), 2)::integer, s.number
    from pg_foreign_server f
    cross join lateral unnest(f.srvoptions) o(option)
    left join livestore.shards s on s.connection = substr(o.option, strpos(o.option, '=') + 1)
    where f.srvname = 'livestore_shards' and o.option ~ '^p[0-9]+='
$$;

comment on function livestore._slots() is 'Internal: the shard of each slot, from the options of the server livestore_shards, which PL/Proxy follows';

-- Called for each push. PL/pgSQL keeps its plans, and the options of the server are only read for a store that has moved.
create or replace function livestore._route(store_id text)
returns integer
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    slot integer;
begin
    -- Of a moved store, any slot of its shard.
    if exists (select from livestore.moved_stores m where m.store_id = $1) then
        select min(o.slot)
        into slot
        from livestore.moved_stores m
        join livestore.shards s on s.name = m.shard
        join livestore._slots() o on o.number = s.number
        where m.store_id = $1;
    end if;
    -- Null belongs nowhere, and any shard says what is wrong with it.
    return coalesce(slot, livestore.slot($1, livestore.slot_count()), 0);
end
$$;

comment on function livestore._route(text) is 'Internal: the slot by which PL/Proxy finds the shard of a store';

create or replace function livestore._routes(store_ids text[])
returns integer[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (select from livestore.moved_stores m where m.store_id = any (store_ids)) then
        return array(select livestore._route(s.store_id) from unnest(store_ids) with ordinality s(store_id, n) order by s.n);
    end if;
    -- A third of the time that as many calls take.
    return array(
        select coalesce(livestore.slot(s.store_id, livestore.slot_count()), 0)
        from unnest(store_ids) with ordinality s(store_id, n)
        order by s.n
    );
end
$$;

comment on function livestore._routes(text[]) is 'Internal: the slots of many stores, in their order';

create or replace function livestore.shard_map(
    out names text[], out numbers integer[], out connections text[], out slots integer[], out moved_store_ids text[],
    out moved_shards integer[]
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select s.names, s.numbers, s.connections, (select array_agg(o.number order by o.slot) from livestore._slots() o),
        coalesce(m.store_ids, '{}'), coalesce(m.shards, '{}')
    from (
        select array_agg(s.name order by s.number) as names, array_agg(s.number order by s.number) as numbers,
            array_agg(s.connection order by s.number) as connections
        from livestore.shards s
    ) s
    cross join (
        select array_agg(m.store_id) as store_ids, array_agg(s.number) as shards
        from livestore.moved_stores m join livestore.shards s on s.name = m.shard
    ) m
$$;

comment on function livestore.shard_map() is
'Where each store is, one row: the shards (names, numbers, connections), the number of the shard of each slot, from slot 0, and the stores that are elsewhere with the numbers of their shards. Sidecars read it with --shards';

-- PL/Proxy writes where it comes from into the texts of an error, and a DETAIL would be no JSON any more.
create or replace function livestore._as_on_shard(message text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select regexp_replace(coalesce(message, ''), E'^(\\S+\\(\\d+\\): \\[.*?\\] REMOTE [A-Z]+: |Remote (detail|hint): )', '')
$$;

comment on function livestore._as_on_shard(text) is 'Internal: a text of an error, as it was on the shard';

create or replace function livestore._state_as_on_shard(state text, message text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select case when state = 'XX000' and message like 'PL/Proxy function %' then '08006' else state end
$$;

comment on function livestore._state_as_on_shard(text, text) is
'Internal: the SQLSTATE of an error. PL/Proxy''s own errors, which have one for all, say that it does not reach a shard, or that the connection was lost';

create or replace function livestore._raise_as_on_shard(state text, message text, detail text, hint text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception using
        errcode = livestore._state_as_on_shard(state, message),
        message = livestore._as_on_shard(message),
        detail = livestore._as_on_shard(detail),
        hint = livestore._as_on_shard(hint);
end
$$;

comment on function livestore._raise_as_on_shard(text, text, text, text) is 'Internal: raises an error as it was raised on the shard';
