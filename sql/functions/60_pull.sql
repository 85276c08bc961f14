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

create or replace function livestore.pull_page(store_id text, after bigint, max_events integer, max_bytes integer)
returns table (
    seq_num bigint, parent_seq_num bigint, name text, args json, client_id text, session_id text, created_at timestamptz
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    store livestore.stores;
    bytes bigint := 0;
    event record;
    events refcursor;
begin
    select * into store from livestore.stores s where s.store_id = $1;
    if not found then
        return;
    end if;
    -- A transaction with a snapshot from before a drop still sees the store, but not its table, of which only the number
    -- is left.
    if store.eventlog::text ~ '^[0-9]+$' then
        raise exception 'the store % was dropped', to_json(store_id)
            using errcode = 'serialization_failure', hint = 'Read again in a new transaction.';
    end if;
    -- only: an own table is asked itself, and the shared one without its children.
    open events no scroll for execute format(
        'select "seqNum", "parentSeqNum", name, args, "clientId", "sessionId", "createdAt"
         from only %s where store = $1 and "seqNum" > $2 order by "seqNum" limit $3',
        store.eventlog
    ) using store.id, coalesce(after, 0), max_events;
    loop
        fetch events into seq_num, parent_seq_num, name, args, client_id, session_id, created_at;
        exit when not found;
        bytes := bytes + coalesce(octet_length(args::text), 0) + octet_length(name) + octet_length(client_id) + octet_length(session_id);
        return next;
        exit when bytes >= max_bytes;
    end loop;
    close events;
end
$$;

comment on function livestore.pull_page(text, bigint, integer, integer) is
'The events of a store after a sequence number, in order: at most max_events, and none after the one that reaches max_bytes (of args, name and ids)';

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

-- What the sidecar reads with. A page in which all rows are small, which is the usual, is read without adding up row by row where it
-- has to end. Nothing is unpacked to find out how large it is, but what is compressed: a page is to be small as the reader gets it.
create or replace function livestore.read_page(store_id text, after bigint, max_events integer, max_bytes integer)
returns table (
    head bigint, backend_id text,
    seq_num bigint, parent_seq_num bigint, name text, args json, client_id text, session_id text, created_at timestamptz
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
-- A plan for each page would cost more than the page: there is but one way to read it, along the primary key.
set plan_cache_mode = force_generic_plan
as $$
declare
    most bigint := max_events;
begin
    if max_events > 1 and max_bytes <= (
        select sum(
            octet_length(p.name) + octet_length(p."clientId") + octet_length(p."sessionId") + coalesce(
                case when pg_column_compression(p.args) is null
                    then pg_column_size(p.args)
                    else octet_length(p.args::text)
                end, 0)
        )
        from livestore.stores s
        cross join lateral (
            select e.name, e."clientId", e."sessionId", e.args from only livestore.eventlog_1 e
            where e.store = s.id and e."seqNum" > read_page.after
            order by e."seqNum"
            limit max_events
        ) p
        where s.store_id = read_page.store_id
    ) then
        select count(*) into most
        from (
            select sum(
                    octet_length(e.name) + octet_length(e."clientId") + octet_length(e."sessionId") + coalesce(
                        case when pg_column_compression(e.args) is null
                            then pg_column_size(e.args)
                            else octet_length(e.args::text)
                        end, 0)
                ) over before as bytes
            from livestore.stores s
            join only livestore.eventlog_1 e on e.store = s.id
            where s.store_id = read_page.store_id and e."seqNum" > read_page.after
            window before as (order by e."seqNum" rows between unbounded preceding and 1 preceding)
            order by e."seqNum"
            limit max_events
        ) page
        where coalesce(page.bytes, 0) < max_bytes;
    end if;
    return query
    select s.head, s.backend_id, e."seqNum", e."parentSeqNum", e.name, e.args, e."clientId", e."sessionId", e."createdAt"
    from livestore.stores s
    left join lateral (
        select * from only livestore.eventlog_1 l
        where l.store = s.id and l."seqNum" > read_page.after
        order by l."seqNum"
        limit most
    ) e on true
    where s.store_id = read_page.store_id and s.eventlog = 'livestore.eventlog_1'::regclass;
    if not found then
        return query
        select log.head, log.backend_id, p.seq_num, p.parent_seq_num, p.name, p.args, p.client_id, p.session_id, p.created_at
        from (select livestore.head(read_page.store_id) as head, livestore.backend_id(read_page.store_id) as backend_id) log
        left join livestore.pull_page(read_page.store_id, read_page.after, max_events, max_bytes) p on true;
    end if;
end
$$;

comment on function livestore.read_page(text, bigint, integer, integer) is
'The events of a store after a sequence number, in order, as livestore.pull_page has them, each beside the head and the backend id of the log at that moment. One row without an event if there is none. What the sidecar uses';

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
