create or replace function livestore.stores_of_table_suffix(suffix text, max_stores bigint)
returns table (store_id text)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    (select s.store_id from livestore.stores s where livestore.table_suffix(s.store_id) = suffix limit max_stores)
    union all
    select l.store_id from livestore._leaving_stores() l where livestore.table_suffix(l.store_id) = suffix
    limit max_stores
$$;

comment on function livestore.stores_of_table_suffix(text, bigint) is
'The stores that the name of an Electric shape may mean, by livestore.table_suffix. What the sidecar uses';

create or replace function livestore.stores_of_stream(stream text, max_stores bigint)
returns table (store_id text)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    (select s.store_id from livestore.stores s where livestore.stream_name(s.store_id) collate "C" = stream limit max_stores)
    union all
    select l.store_id from livestore._leaving_stores() l where livestore.stream_name(l.store_id) = stream
    limit max_stores
$$;

comment on function livestore.stores_of_stream(text, bigint) is
'The stores that the name of an S2 stream may mean, by livestore.stream_name. What the sidecar uses';

create or replace function livestore.store_of_number(number bigint)
returns table (store_id text)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select s.store_id from livestore.stores s where s.id = number
    union all
    select l.store_id from livestore._leaving_stores() l where l.id = number
$$;

comment on function livestore.store_of_number(bigint) is
'The store that has this number in the event logs, if there is one. What the sidecar uses';

-- No name has a character behind '~', so the search ends where the prefix does.
create or replace function livestore.list_streams(prefix text, after text, max_streams bigint)
returns table (name text, created_at timestamptz)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select s.name, min(s.created_at)
    from (
        (
            select livestore.stream_name(s.store_id) collate "C", min(s.created_at) filter (where isfinite(s.created_at))
            from livestore.stores s
            where livestore.stream_name(s.store_id) collate "C" >= prefix
                and livestore.stream_name(s.store_id) collate "C" < prefix || '~'
                and livestore.stream_name(s.store_id) collate "C" > after
                and starts_with(livestore.stream_name(s.store_id), prefix)
            group by 1 order by 1 limit max_streams
        )
        union all
        select livestore.stream_name(l.store_id) collate "C", case when isfinite(l.created_at) then l.created_at end
        from livestore._leaving_stores() l
        where livestore.stream_name(l.store_id) collate "C" > after and starts_with(livestore.stream_name(l.store_id), prefix)
    ) s(name, created_at)
    group by 1 order by 1 limit max_streams
$$;

comment on function livestore.list_streams(text, text, bigint) is
'Names of S2 streams that begin with a text, in the order of their bytes after another name, and when their first store was registered. What the sidecar uses';

create or replace function livestore.locate_store(store_id text)
returns table (eventlog text, store bigint, backend_id text)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select c.relname::text, s.id, s.backend_id
    from livestore.stores s join pg_class c on c.oid = s.eventlog
    where s.store_id = $1
    union all
    select null, null, null
    where case when exists (select from livestore.stores s where s.store_id = $1) then false else not livestore._check_shard($1) end
$$;

comment on function livestore.locate_store(text) is
'Where the events of a store are, for a reader of the tables: the name of the table, the number of the store there, and the backend id. No row if there is no such store; raises LS005 if it is on another shard. What the sidecar uses';
