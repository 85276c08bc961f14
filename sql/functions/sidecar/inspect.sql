-- Reads for the inspector and for the commands that list stores, with the rights of the owner of the tables: a policy cannot make a full store
-- look empty.
create or replace function livestore.inspect_store(store_id text)
returns setof livestore.stores
language plpgsql
stable
security definer
rows 1
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
begin
    return query select s.* from livestore.stores s where s.store_id = $1;
    if not found then
        perform livestore._check_shard($1);
    end if;
end
$$;

comment on function livestore.inspect_store(text) is
'The row of a store; none if there is no such store. Raises LS005 if it is on another shard. What the sidecar uses';

create or replace function livestore.inspect_newest_stores(before bigint, max_stores bigint)
returns setof livestore.stores
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select s.* from livestore.stores s where s.id < before order by s.id desc limit max_stores
$$;

comment on function livestore.inspect_newest_stores(bigint, bigint) is
'The stores whose numbers are less than before, the greatest number first. What the sidecar uses';

-- By the index on stream_name: it replaces each character by one, so that ids that begin alike have names that do. It is in the order of
-- bytes, and has no character behind '~'.
create or replace function livestore.inspect_stores_by_prefix(prefix text, after text, after_number bigint, max_stores bigint)
returns setof livestore.stores
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select s.*
    from livestore.stores s
    where livestore.stream_name(s.store_id) collate "C" >= livestore.stream_name(prefix)
        and livestore.stream_name(s.store_id) collate "C" < livestore.stream_name(prefix) || '~'
        and starts_with(s.store_id, prefix)
        and (livestore.stream_name(s.store_id) collate "C", s.id) > (livestore.stream_name(after), after_number)
    order by livestore.stream_name(s.store_id) collate "C", s.id
    limit max_stores
$$;

comment on function livestore.inspect_stores_by_prefix(text, text, bigint, bigint) is
'The stores whose ids begin with a text, in the order of livestore.stream_name, after the store with this id and number (an empty id and 0: from the first one on). What the sidecar uses';

create or replace function livestore.inspect_recent_stores(max_commits bigint, max_stores bigint)
returns table (
    id bigint, store_id text, head bigint, backend_id text, eventlog regclass, created_at timestamptz, committed_at timestamptz
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select s.id, s.store_id, s.head, s.backend_id, s.eventlog, s.created_at, r.committed_at
    from (
        select u.store, max(c.committed_at) as committed_at
        from (select * from livestore.commits c order by c.position desc limit max_commits) c
        cross join lateral unnest(c.stores) u(store)
        group by u.store
    ) r
    join livestore.stores s on s.id = r.store
    order by r.committed_at desc
    limit max_stores
$$;

comment on function livestore.inspect_recent_stores(bigint, bigint) is
'The stores of the last max_commits commits, and when they had the last one, the latest first. What the sidecar uses';

create or replace function livestore.inspect_events(
    store_id text, begin_at bigint, is_backward boolean, only_name text, only_client text, since timestamptz, until timestamptz,
    max_name integer, max_args integer, max_events integer, max_seconds double precision
)
returns table (
    seq_num bigint, parent_seq_num bigint, name text, args text, has_all_args boolean, client_id text, session_id text,
    created_at timestamptz
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    deadline constant timestamptz := clock_timestamp() + make_interval(secs => max_seconds);
    store livestore.stores;
    event record;
    place bigint := begin_at;
    slice integer := greatest(max_events, 500);
    looked integer;
    wanted integer := 0;
begin
    select * into store from livestore.stores s where s.store_id = $1;
    if not found then
        perform livestore._check_shard($1);
        return;
    end if;
    loop
        looked := 0;
        -- In slices: with a limit, Postgres goes along the primary key. Without one, it may sort the whole log first.
        for event in execute format(
            'select e."seqNum" as seq_num, e."parentSeqNum" as parent_seq_num, e.name, e.args, e."clientId" as client_id,
                 e."sessionId" as session_id, e."createdAt" as created_at,
                 ($3 is null or e.name = $3) and ($4 is null or e."clientId" = $4)
                     and ($5 is null or e."createdAt" >= $5) and ($6 is null or e."createdAt" < $6) as is_wanted
             from only %s e
             where e.store = $1 and e."seqNum" %s $2
             order by e."seqNum" %s
             limit $7', store.eventlog, case when is_backward then '<' else '>' end, case when is_backward then 'desc' else 'asc' end
        ) using store.id, place, only_name, only_client, since, until, slice
        loop
            looked := looked + 1;
            place := event.seq_num;
            if event.is_wanted then
                wanted := wanted + 1;
                seq_num := event.seq_num;
                parent_seq_num := event.parent_seq_num;
                name := left(event.name, max_name);
                args := left(event.args::text, max_args);
                has_all_args := event.args is null or char_length(event.args::text) <= max_args;
                client_id := left(event.client_id, max_name);
                session_id := left(event.session_id, max_name);
                created_at := event.created_at;
                return next;
                if wanted >= max_events then
                    return;
                end if;
            end if;
            if (event.is_wanted or looked % 100 = 0) and clock_timestamp() >= deadline then
                seq_num := place;
                parent_seq_num := null;
                name := null;
                args := null;
                has_all_args := null;
                client_id := null;
                session_id := null;
                created_at := null;
                return next;
                return;
            end if;
        end loop;
        exit when looked < slice;
        slice := least(slice * 2, 10000);
    end loop;
end
$$;

comment on function livestore.inspect_events(text, bigint, boolean, text, text, timestamptz, timestamptz, integer, integer, integer, double precision) is
'Events of a store before begin_at, the last one first, or after it, the first one first: at most max_events, of those that the filters take (null: all), with the beginnings of name, ids and args, in characters. After max_seconds it looks no further: then the last row has nothing but the number of the event that it looked at last, from which to go on. Raises LS005 if the store is on another shard. What the sidecar uses';

create or replace function livestore.inspect_event_types(only_name text, max_types bigint)
returns table (name text, schema json)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select distinct on (t.name collate "C") t.name, t.schema
    from livestore.event_types t
    where only_name is null or t.name = only_name
    order by t.name collate "C", t.version desc
    limit max_types
$$;

comment on function livestore.inspect_event_types(text, bigint) is
'The types of events, or of those of one name, in order, with the latest version of each schema. What the sidecar uses';

create or replace function livestore.inspect_dead_letters(max_letters bigint)
returns table (
    id bigint, subscription text, store_id text, seq_num bigint, name text, failures integer, error text, failed_at timestamptz,
    is_queued boolean
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select d.id, d.subscription, d.store_id, d.seq_num, left(d.name, 300), d.failures, left(d.error, 500), d.failed_at, d.is_queued
    from livestore.dead_letters d
    order by d.id desc
    limit max_letters
$$;

comment on function livestore.inspect_dead_letters(bigint) is
'The latest dead letters, with the beginnings of their names and errors. What the sidecar uses';

create or replace function livestore.lock_log(store_id text, backend_id text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    store livestore.stores;
begin
    -- In the order in which livestore._rewrite and livestore.reset_store lock.
    perform livestore._forget_errors($1);
    store := livestore._lock_existing_store($1);
    if store.backend_id is distinct from $2 then
        raise exception 'the store % was reset, or has a new backend id', to_json($1)
            using errcode = 'LS002', detail = json_build_object('expected', store.backend_id, 'received', $2),
                hint = 'Nothing was changed. Look at the store anew.';
    end if;
end
$$;

comment on function livestore.lock_log(text, text) is
'Locks a store until the end of the transaction, so that what follows changes the log that somebody has looked at. Raises LS002 if the store has another backend id, LS004 if there is no such store. What the sidecar uses';
