create or replace function livestore._is_elsewhere(store_id text)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select coalesce((
        select not coalesce(
            (select e.is_here from livestore.shard_stores e where e.store_id = $1),
            livestore.slot($1, s.slot_count) = any (s.slots)
        )
        from livestore.shard s
    ), false)
$$;

comment on function livestore._is_elsewhere(text) is
'Internal: whether a store that does not exist here belongs to another shard';

-- Returns true, so that it can be an operand.
create or replace function livestore._check_shard(store_id text)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    if livestore._is_elsewhere(store_id) then
        raise exception 'the store % is on another shard', to_json(store_id)
            using errcode = 'LS005', detail = json_build_object('storeId', store_id),
                hint = 'Ask the front database (livestore.shard_map() there says where each store is), or let sidecars do it: --shards.';
    end if;
    return true;
end
$$;

comment on function livestore._check_shard(text) is
'Internal: raises LS005 if a store that does not exist here belongs to another shard. Called where no store was found, so that it costs nothing for those that exist';
