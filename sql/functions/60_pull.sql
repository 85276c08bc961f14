-- Whoever reads, reads by functions that run with the rights of the owner of the tables: row level security that is switched on for
-- the tables cannot make a log look empty. With row_security off it cannot if it is forced on the owner, either: that is an error.
create or replace function livestore.head(store_id text)
returns bigint
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select coalesce((select s.head from livestore.stores s where s.store_id = $1), 0)
$$;

comment on function livestore.head(text) is 'The sequence number of the last event of a store; 0 if its log is empty or the store does not exist';

-- Written in Rust: extension/src/read_page.rs.
create or replace function livestore.read_page(store_id text, after bigint, max_events integer, max_bytes integer)
returns table (
    head bigint, backend_id text,
    seq_num bigint, parent_seq_num bigint, name text, args json, client_id text, session_id text, created_at timestamptz
)
language c
stable
strict
security definer
rows 1000
set search_path = pg_catalog, pg_temp
set row_security = off
-- A plan for each page would cost more than the page: there is but one way to read it, along the primary key.
set plan_cache_mode = force_generic_plan
as 'MODULE_PATHNAME', 'livestore_read_page';

comment on function livestore.read_page(text, bigint, integer, integer) is
'The events of a store after a sequence number, in order: at most max_events, and none after the one that reaches max_bytes (of args, name and ids); each beside the head and the backend id of the log at that moment. One row without an event if there is none. What the sidecar uses';

create or replace function livestore.pull_page(store_id text, after bigint, max_events integer, max_bytes integer)
returns table (
    seq_num bigint, parent_seq_num bigint, name text, args json, client_id text, session_id text, created_at timestamptz
)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select p.seq_num, p.parent_seq_num, p.name, p.args, p.client_id, p.session_id, p.created_at
    from livestore.read_page($1, coalesce($2, 0), coalesce($3, 2147483647), $4) p
    where p.seq_num is not null
$$;

comment on function livestore.pull_page(text, bigint, integer, integer) is
'The events of livestore.read_page';

create or replace function livestore.pull(store_id text, after bigint default 0, max_events integer default 100)
returns setof livestore.events
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select $1, p.seq_num, p.parent_seq_num, p.name, p.args, p.client_id, p.session_id, p.created_at
    from livestore.pull_page($1, $2, $3, 2147483647) p
    order by p.seq_num
$$;

comment on function livestore.pull(text, bigint, integer) is
'The events of a store after a sequence number, in order, at most max_events; none if the store does not exist';

create or replace function livestore.stores_of_table_suffix(suffix text, max_stores bigint)
returns table (store_id text)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select s.store_id from livestore.stores s where livestore.table_suffix(s.store_id) = suffix limit max_stores
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
    select s.store_id from livestore.stores s where livestore.stream_name(s.store_id) collate "C" = stream limit max_stores
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
$$;

comment on function livestore.store_of_number(bigint) is
'The store that has this number in the event logs, if there is one. What the sidecar uses';

create or replace function livestore.list_streams(prefix text, after text, max_streams bigint)
returns table (name text, created_at timestamptz)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select livestore.stream_name(s.store_id) collate "C", min(s.created_at) filter (where isfinite(s.created_at))
    from livestore.stores s
    where livestore.stream_name(s.store_id) collate "C" >= prefix
        and livestore.stream_name(s.store_id) collate "C" > after
        and starts_with(livestore.stream_name(s.store_id), prefix)
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
$$;

comment on function livestore.locate_store(text) is
'Where the events of a store are, for a reader of the tables: the name of the table, the number of the store there, and the backend id. No row if there is no such store. What the sidecar uses';
