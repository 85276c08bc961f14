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

create or replace function livestore._elsewhere_error(store_id text)
returns table (message text, detail text, hint text)
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select format('the store %s is on another shard', to_json($1)), json_build_object('storeId', $1)::text,
        'Ask the front database (livestore.shard_map() there says where each store is), or let sidecars do it: --shards.'
$$;

comment on function livestore._elsewhere_error(text) is 'Internal: what LS005 says of a store that is on another shard';

-- Returns true, so that it can be an operand.
create or replace function livestore._check_shard(store_id text)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    error record;
begin
    if livestore._is_elsewhere(store_id) then
        select * into error from livestore._elsewhere_error(store_id);
        raise exception '%', error.message using errcode = 'LS005', detail = error.detail, hint = error.hint;
    end if;
    return true;
end
$$;

comment on function livestore._check_shard(text) is
'Internal: raises LS005 if a store that does not exist here belongs to another shard. Called where no store was found, so that it costs nothing for those that exist';

create or replace function livestore._leaving_stores()
returns table (id bigint, store_id text, created_at timestamptz)
language sql
stable
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select d.id, d.store_id, d.created_at
    from livestore.shard_moves m join livestore.departed_stores d on d.move = m.id
    where m.finished_at is null or m.finished_at > now() - interval '1 minute'
$$;

comment on function livestore._leaving_stores() is
'Internal: stores that have left for another shard, which may not list them yet. Somebody who asks both shards for a store by another name than its id must not find none';

create or replace function livestore._remove_departed_log(number bigint)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    log livestore.departed_stores;
begin
    delete from livestore.departed_stores d where d.id = number returning d.* into log;
    perform livestore._drop_events(log.eventlog, log.id, log.head);
end
$$;

comment on function livestore._remove_departed_log(bigint) is 'Internal: removes the events that are left of a store that is on another shard';

create or replace function livestore._remove_departed(number bigint)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    departed constant text := d.store_id from livestore.departed_stores d where d.id = number;
begin
    perform livestore._remove_departed_log(number);
    delete from livestore.commit_keys k where k.store = number;
    delete from livestore.relayed_events r where r.store = number;
    delete from livestore.found_misfits m where m.store = number;
    -- They went along with the store, or hold its events.
    if not exists (select from livestore.stores s where s.store_id = departed) then
        delete from livestore.rewritten_events r where r.store_id = departed;
        delete from livestore.dead_letters d where d.store_id = departed and d.name is not null;
    end if;
end
$$;

comment on function livestore._remove_departed(bigint) is 'Internal: removes all that is left of a store that is on another shard';
