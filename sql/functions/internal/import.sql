-- The source is somebody else's: it is read with the rights of the caller, in livestore.import_table, and what was read goes as
-- plain values to functions of the owner, who alone may write to event logs.
create or replace function livestore._begin_import(store_id text, backend_id text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    store livestore.stores;
begin
    if backend_id !~ '^[A-Za-z0-9_-]{1,64}$' then
        raise exception 'a backend id has 1 to 64 characters of A-Z, a-z, 0-9, _ and -' using errcode = 'invalid_parameter_value';
    end if;
    store := livestore._lock_store(store_id);
    if backend_id is not null and backend_id <> store.backend_id then
        if store.head > 0 then
            raise exception 'the store % has events already, with the backend id %', to_json(store_id), store.backend_id
                using errcode = 'LS002', detail = json_build_object('expected', store.backend_id, 'received', backend_id),
                    hint = 'A backend id can be taken over by an empty store only.';
        end if;
        update livestore.stores s set backend_id = $2 where s.id = store.id;
        perform livestore._note_change(store.id, store.id, 'renew', store_id);
        -- Clients that follow the store have the old one.
        perform livestore._notify_heads(array[store_id], array[null::bigint]);
    end if;
end
$$;

comment on function livestore._begin_import(text, text) is
'Internal: creates the store of an import if need be, and gives an empty one the backend id of the other backend';

create or replace function livestore._import_events(
    store_id text, after bigint, seq_nums bigint[], parent_seq_nums bigint[], names text[], args text[],
    client_ids text[], session_ids text[], created_ats timestamptz[]
)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    store livestore.stores;
    batch text;
    verdict record;
    wrong bigint;
    fresh record;
begin
    store := livestore._lock_store(store_id);
    select json_agg(
        case when e.args is null
            then json_build_object('name', e.name, 'seqNum', e.seq_num, 'parentSeqNum', e.parent_seq_num, 'clientId', e.client_id, 'sessionId', e.session_id)
            else json_build_object('name', e.name, 'args', e.args::json, 'seqNum', e.seq_num, 'parentSeqNum', e.parent_seq_num, 'clientId', e.client_id, 'sessionId', e.session_id)
        end
        order by e.n
    )::text into batch
    from unnest(seq_nums, parent_seq_nums, names, args, client_ids, session_ids)
        with ordinality e(seq_num, parent_seq_num, name, args, client_id, session_id, n);
    if batch is null then
        return 0;
    end if;
    if parent_seq_nums[1] is distinct from after then
        raise exception 'this is not an event log: an event that should follow event % names % as its parent', after, parent_seq_nums[1]
            using errcode = 'LS003',
                hint = 'The first event has the parent 0, every other the event before it. Nothing was imported.';
    end if;
    select * into verdict from livestore._check_batch(batch, after);
    if verdict.sqlstate is not null then
        raise exception 'this is not an event log, in what follows event %: %', after, verdict.message
            using errcode = verdict.sqlstate, detail = coalesce(verdict.detail, ''), hint = 'Nothing was imported.';
    end if;

    -- Not every dialect can write other years, nor can JavaScript; infinity is none.
    select min(e.seq_num) into wrong
    from unnest(seq_nums, created_ats) e(seq_num, created_at)
    where e.created_at not between timestamptz '0001-01-01 00:00:00+00' and timestamptz '9999-12-31 23:59:59.999+00';
    if wrong is not null then
        raise exception 'the "createdAt" of event % is not within the years 1 to 9999', wrong
            using errcode = 'LS003', detail = json_build_object('index', array_position(seq_nums, wrong) - 1, 'reason', 'createdAt'),
                hint = 'Clients cannot be told such a time. A view can give another one. Nothing was imported.';
    end if;

    -- The events of the store must be the beginning of the table, or the table a beginning of the store's log.
    select min(i.seq_num) into wrong
    from unnest(seq_nums, parent_seq_nums, names, args, client_ids, session_ids)
        i(seq_num, parent_seq_num, name, args, client_id, session_id)
    left join livestore._stored_events(
        array_fill(store.id, array[cardinality(seq_nums)]), seq_nums
    ) e on e."seqNum" = i.seq_num
    where i.seq_num <= store.head
        and (e."seqNum" is null or (e."parentSeqNum", e.name, e.args::text, e."clientId", e."sessionId")
            is distinct from (i.parent_seq_num, i.name, i.args, i.client_id, i.session_id));
    select array_agg(i.seq_num order by i.n) as seq_nums,
        array_agg(i.parent_seq_num order by i.n) as parent_seq_nums, array_agg(i.name order by i.n) as names,
        array_agg(i.args order by i.n) as args, array_agg(i.client_id order by i.n) as client_ids,
        array_agg(i.session_id order by i.n) as session_ids,
        array_agg(coalesce(i.created_at, clock_timestamp()) order by i.n) as created_ats
    into fresh
    from unnest(seq_nums, parent_seq_nums, names, args, client_ids, session_ids, created_ats)
        with ordinality i(seq_num, parent_seq_num, name, args, client_id, session_id, created_at, n)
    where i.seq_num > store.head;
    if wrong is null and fresh.parent_seq_nums[1] <> store.head then
        wrong := fresh.seq_nums[1];
    end if;
    if wrong is not null then
        raise exception 'the store % has other events, from event % on', to_json(store_id), wrong
            using errcode = 'LS001', detail = json_build_object('minimumExpectedNum', store.head, 'providedNum', wrong - 1),
                hint = 'Import into an empty store, or one that has events of this table only. Nothing was imported.';
    end if;
    if fresh.seq_nums is null then
        return 0;
    end if;
    update livestore.stores s set head = fresh.seq_nums[cardinality(fresh.seq_nums)] where s.id = store.id;
    perform livestore._insert_events(
        store_id, store.id, store.eventlog::oid, fresh.seq_nums, fresh.parent_seq_nums, fresh.names, fresh.args,
        fresh.client_ids, fresh.session_ids, fresh.created_ats
    );
    return cardinality(fresh.seq_nums);
end
$$;

comment on function livestore._import_events(text, bigint, bigint[], bigint[], text[], text[], text[], text[], timestamptz[]) is
'Internal: appends events of a log, which follow the event after, to a store, except those that it has already; returns how many. Raises LS001 if the store has others, LS003 if they are not a chain, or of a time that clients cannot be told';

create or replace function livestore._end_import(store_id text)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    store livestore.stores;
begin
    store := livestore._lock_existing_store(store_id);
    perform livestore._notify_heads(array[store_id], array[store.head]);
    return store.head;
end
$$;

comment on function livestore._end_import(text) is 'Internal: tells who follows a store that events were imported; returns its head';

create or replace function livestore._import_source(
    source regclass, query text, store_id text, backend_id text, expected_digest text default null, expected_events bigint default null,
    out imported bigint, out already_there bigint, out head bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = iso
as $$
declare
    cursor text;
    part record;
    total bigint := 0;
    digest bytea := '';
begin
    perform livestore._begin_import(store_id, backend_id);
    cursor := livestore._open_source(source::oid, query);
    imported := 0;
    head := 0;
    loop
        select array_agg(e.seq_num order by e.n) as seq_nums, array_agg(e.parent_seq_num order by e.n) as parent_seq_nums,
            array_agg(e.name order by e.n) as names, array_agg(e.args order by e.n) as args,
            array_agg(e.client_id order by e.n) as client_ids, array_agg(e.session_id order by e.n) as session_ids,
            array_agg(e.created_at order by e.n) as created_ats
        into part
        from livestore._fetch_source(source::oid, cursor, 100)
            with ordinality e(seq_num, parent_seq_num, name, args, client_id, session_id, created_at, n);
        exit when part.seq_nums is null;
        imported := imported + livestore._import_events(
            store_id, head, part.seq_nums, part.parent_seq_nums, part.names, part.args,
            part.client_ids, part.session_ids, part.created_ats
        );
        total := total + cardinality(part.seq_nums);
        head := part.seq_nums[cardinality(part.seq_nums)];
        if expected_digest is not null then
            for place in 1..cardinality(part.seq_nums) loop
                digest := livestore._digest_exported(
                    digest, part.seq_nums[place], part.parent_seq_nums[place], part.names[place], part.args[place],
                    part.client_ids[place], part.session_ids[place], part.created_ats[place]
                );
            end loop;
        end if;
    end loop;
    if total <> expected_events or encode(digest, 'hex') <> expected_digest then
        raise exception '%', case
            when total <> expected_events then
                format('these are not the lines that were exported: of %s events there are %s', expected_events, total)
            else 'these are not the lines that were exported: an event was changed'
        end
            using errcode = 'LS003', detail = json_build_object('index', null, 'reason', 'another digest'),
                hint = 'Lines are missing, or were changed. Nothing was imported.';
    end if;
    already_there := total - imported;
    if imported > 0 then
        head := livestore._end_import(store_id);
    else
        head := livestore.head(store_id);
    end if;
end
$$;

comment on function livestore._import_source(regclass, text, text, text, text, bigint) is
'Internal: imports the events that a query on a table returns, ordered by seqNum; checks how many they are, and their digest, if those are known';

create or replace function livestore._digest_exported(
    before bytea, seq_num bigint, parent_seq_num bigint, name text, args text, client_id text, session_id text, created_at timestamptz
)
returns bytea
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return sha256(before || convert_to(
        json_build_array(seq_num, parent_seq_num, name, args, client_id, session_id, extract(epoch from created_at)::numeric(20, 6))::text, 'UTF8'
    ));
end
$$;

comment on function livestore._digest_exported(bytea, bigint, bigint, text, text, text, text, timestamptz) is
'Internal: the digest of exported events, made of that of the events before and the next event';

create or replace function livestore._export_events(store_id text, after bigint, max_events integer, digest_before bytea)
returns table (seq_num bigint, line text, digest bytea)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
#variable_conflict use_column
declare
    store livestore.stores;
    event record;
    so_far bytea := digest_before;
begin
    select * into store from livestore.stores s where s.store_id = $1;
    if not found then
        perform livestore._check_shard($1);
        raise exception 'there is no store %', to_json($1)
            using errcode = 'LS004', detail = json_build_object('storeId', $1), hint = 'livestore.stores lists them.';
    end if;
    for event in execute format(
        'select e."seqNum" as seq_num, e."parentSeqNum" as parent_seq_num, e.name, e.args::text as args, e."clientId" as client_id,
             e."sessionId" as session_id, e."createdAt" as created_at
         from only %s e where e.store = $1 and e."seqNum" > $2 order by e."seqNum" limit $3', store.eventlog
    ) using store.id, after, max_events
    loop
        so_far := livestore._digest_exported(
            so_far, event.seq_num, event.parent_seq_num, event.name, event.args, event.client_id, event.session_id, event.created_at
        );
        return query select event.seq_num, format(
            '{"seqNum":%s,"parentSeqNum":%s,"name":%s,"clientId":%s,"sessionId":%s,"createdAt":"%s"%s}',
            event.seq_num, event.parent_seq_num, to_json(event.name), to_json(event.client_id), to_json(event.session_id),
            to_char(event.created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            -- Last, and in a line, so that its bytes are found without reading it.
            case
                when event.args ~ E'[\n\r]' then ',"argsText":' || to_json(event.args)
                else coalesce(',"args":' || event.args, '')
            end
        ), so_far;
    end loop;
end
$$;

comment on function livestore._export_events(text, bigint, integer, bytea) is
'Internal: lines of livestore.export_store for the events after one, at most max_events (null: all), each with the digest up to it; digest_before: that of the event after. What livestore-sidecar export uses';

create or replace function livestore._export_end(store_id text, events bigint, digest bytea)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select format(
        '{"storeId":%s,"backendId":%s,"events":%s,"digest":"%s"}',
        to_json(store_id), to_json(livestore.backend_id(store_id)), events, encode(digest, 'hex')
    )
$$;

comment on function livestore._export_end(text, bigint, bytea) is 'Internal: the last line of livestore.export_store';
