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

create or replace function livestore._remove_departed(number bigint)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    log livestore.departed_stores;
begin
    delete from livestore.departed_stores d where d.id = number returning d.* into log;
    if log.eventlog <> 'livestore.eventlog_1'::regclass then
        perform livestore._lock_eventlog(log.eventlog);
    end if;
    if log.head > 0 and (log.eventlog = 'livestore.eventlog_1'::regclass or livestore._is_decoded()) then
        perform livestore._delete_events(log.eventlog, number);
    end if;
    if log.eventlog <> 'livestore.eventlog_1'::regclass then
        execute format('drop table %s', log.eventlog);
    end if;
    delete from livestore.commit_keys k where k.store = number;
    delete from livestore.relayed_events r where r.store = number;
    delete from livestore.found_misfits m where m.store = number;
    -- They went along with the store.
    if not exists (select from livestore.stores s where s.store_id = log.store_id) then
        delete from livestore.rewritten_events r where r.store_id = log.store_id;
    end if;
end
$$;

comment on function livestore._remove_departed(bigint) is 'Internal: removes what is left of a store that is on another shard';
