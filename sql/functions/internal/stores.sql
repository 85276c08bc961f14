-- Backend ids have the form of nanoid's, which LiveStore's own backends use: 21 characters of [A-Za-z0-9_-].
create or replace function livestore._make_backend_id(seed text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select translate(left(encode(sha256(convert_to(seed, 'UTF8')), 'base64'), 21), '+/', '-_')
$$;

comment on function livestore._make_backend_id(text) is 'Internal: 21 URL-safe characters that depend on the seed alone';

create or replace function livestore._dedicated_table_name(store_id text, id bigint)
returns text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    full_name text := 'eventlog_1_' || livestore.table_suffix(store_id);
    table_name text := full_name;
    suffix text := '_' || id;
begin
    -- Two store ids may yield the same name: a-b and a_b, or two with the same hash. The second gets its number as a suffix
    -- and, as long as that name is taken as well, an underscore more.
    while to_regclass(format('livestore.%I', table_name)) is not null loop
        table_name := left(full_name, 63 - length(suffix)) || suffix;
        suffix := suffix || '_';
    end loop;
    return table_name;
end
$$;

comment on function livestore._dedicated_table_name(text, bigint) is
'Internal: a free name for the dedicated table of a store, eventlog_1_ and livestore.table_suffix';

-- Every function that writes to stores first creates the rows of missing ones, while nothing is locked, and then locks rows,
-- both in the order of store ids. So no two of them can deadlock.
create or replace function livestore._mend_store_numbers()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Stores that came from other shards kept the numbers of those.
    greatest_number constant bigint := max(s.id) from livestore.kept_logs s
        where s.id <= coalesce((select (h.number + 1) * 1099511627776 from livestore.shard h), 9223372036854775807);
begin
    -- The sequence is behind if rows came by logical replication, which does not replicate sequences, or by COPY.
    if greatest_number >= (select q.last_value + q.is_called::integer from livestore.stores_id_seq q) then
        -- One transaction at a time, each of which checks again: a number must not be given twice.
        lock table livestore.instance in share row exclusive mode;
        perform setval('livestore.stores_id_seq', greatest_number)
        from livestore.stores_id_seq q where greatest_number >= q.last_value + q.is_called::integer;
    end if;
end
$$;

comment on function livestore._mend_store_numbers() is
'Internal: sees to it that the next number of a store is greater than all there are';

-- After logical replication, an insert would fail, and a subscription or an erasure with it.
create or replace function livestore._mend_row_numbers(numbered regclass)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    numbers constant text := pg_get_serial_sequence(numbered::text, 'id');
    greatest_number bigint;
    next_number bigint;
begin
    for round in 1..2 loop
        execute format('select max(n.id) from %s n', numbered) into greatest_number;
        execute format('select q.last_value + q.is_called::integer from %s q', numbers) into next_number;
        exit when coalesce(greatest_number < next_number, true);
        if round = 1 then
            -- One transaction at a time, each of which checks again, as for the numbers of stores.
            execute format('lock table %s in share row exclusive mode', numbered);
        else
            perform setval(numbers::regclass, greatest_number);
        end if;
    end loop;
end
$$;

comment on function livestore._mend_row_numbers(regclass) is
'Internal: sees to it that the next id of a table is greater than all there are: logical replication brings rows, and not the state of the sequence';

create or replace function livestore._register_stores(store_ids text[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    missing constant text[] := array_agg(distinct w.store_id) from unnest(store_ids) w(store_id)
        where not exists (select from livestore.stores s where s.store_id = w.store_id);
    noted text[];
begin
    if missing is null then
        return;
    end if;
    -- The error of the constraint shows the row, whose backend id is the operator's.
    if exists (select from unnest(missing) m(store_id) where char_length(m.store_id) not between 1 and 1024) then
        raise exception 'a store id has 1 to 1,024 characters'
            using errcode = 'LS003', detail = json_build_object('index', null, 'reason', 'the store id is empty or too long'),
                hint = 'Nothing was changed. Choose another store id.';
    end if;
    -- A transaction that takes stores or slots away from this shard waits for those that are being created, and they for it.
    perform from livestore.shard for share;
    if found then
        perform livestore._check_shard(m.store_id) from unnest(missing) m(store_id);
    end if;
    perform livestore._mend_store_numbers();
    -- Names the constraint, so that only an existing store is ignored. Any other conflict is an error.
    insert into livestore.stores (store_id, backend_id)
    select m.store_id, livestore.backend_id(m.store_id)
    from unnest(missing) m(store_id)
    order by m.store_id collate "C"
    on conflict on constraint stores_store_id_key do nothing;
    -- Under an older snapshot, a store that was dropped since has the backend id of its former life, and clients of that life would take
    -- the new log for theirs. A row of dropped_stores that this snapshot does not see makes the insert fail with 40001.
    if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
        with added as (
            insert into livestore.dropped_stores (store_id, backend_id)
            select m.store_id, '' from unnest(missing) m(store_id)
            on conflict on constraint dropped_stores_store_id_key do nothing
            returning store_id
        )
        select array_agg(a.store_id) into noted from added a;
        delete from livestore.dropped_stores d where d.store_id = any (noted);
    end if;
end
$$;

comment on function livestore._register_stores(text[]) is 'Internal: adds the stores that do not exist yet; raises LS005 if one belongs to another shard';

create or replace function livestore._register_free_stores(store_ids text[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '3ms'
as $$
begin
    perform livestore._register_stores(store_ids);
end
$$;

comment on function livestore._register_free_stores(text[]) is
'Internal: livestore._register_stores for a caller that does not wait: fails with 55P03 if another transaction is creating one of them';

create or replace function livestore._lock_store(store_id text)
returns livestore.stores
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    store livestore.stores;
begin
    -- Again, if it is dropped while this waits for its lock.
    loop
        perform livestore._register_stores(array[store_id]);
        select * into store from livestore.stores s where s.store_id = $1 for update;
        exit when found;
    end loop;
    return store;
end
$$;

comment on function livestore._lock_store(text) is 'Internal: the row of a store, created if need be and locked';

create or replace function livestore._lock_existing_store(store_id text)
returns livestore.stores
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    store livestore.stores;
begin
    select * into store from livestore.stores s where s.store_id = $1 for update;
    if not found then
        perform livestore._check_shard(store_id);
        raise exception 'there is no store %', to_json(store_id)
            using errcode = 'LS004', detail = json_build_object('storeId', store_id),
                hint = 'Stores are listed in livestore.stores; a push or livestore.create_store creates one.';
    end if;
    return store;
end
$$;

comment on function livestore._lock_existing_store(text) is 'Internal: the row of a store, locked; raises LS004 if there is none';

create or replace function livestore._lock_eventlog(eventlog regclass)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '2s'
as $$
begin
    execute format('lock table only %s in access exclusive mode', eventlog);
exception when lock_not_available then
    raise exception 'another transaction reads or writes %', eventlog
        using errcode = 'lock_not_available',
            hint = 'Nothing was changed. pg_locks and pg_stat_activity show the transaction. Try again when it has ended.';
end
$$;

comment on function livestore._lock_eventlog(regclass) is
'Internal: locks the dedicated table of a store, for two seconds at most: while this waits, everybody else who needs the table waits for it';

create or replace function livestore._drop_events(eventlog regclass, store bigint, head bigint)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    is_shared constant boolean := eventlog = 'livestore.eventlog_1'::regclass;
begin
    if not is_shared then
        perform livestore._lock_eventlog(eventlog);
    end if;
    -- A decoder reads deletes, but not that a table was dropped.
    if head > 0 and (is_shared or livestore._is_decoded()) then
        perform livestore._delete_events(eventlog, store);
    end if;
    if not is_shared then
        execute format('drop table %s', eventlog);
    end if;
end
$$;

comment on function livestore._drop_events(regclass, bigint, bigint) is
'Internal: removes the events of a store that is dropped or has left, with its dedicated table, if it has one';

-- By triggers, because a restore writes livestore.stores without our functions. None is on updates, which every push makes.
create or replace function livestore._follow_stores()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if tg_op = 'INSERT' then
        insert into livestore.store_names (store, store_id)
        select c.id, c.store_id from changed c
        on conflict (store) do update set store_id = excluded.store_id;
    else
        delete from livestore.store_names n using changed c where n.store = c.id;
    end if;
    return null;
end
$$;

comment on function livestore._follow_stores() is 'Internal: triggers on livestore.stores, which keep livestore.store_names';

create or replace trigger follow_new_stores after insert on livestore.stores
    referencing new table as changed for each statement execute function livestore._follow_stores();
create or replace trigger follow_dropped_stores after delete on livestore.stores
    referencing old table as changed for each statement execute function livestore._follow_stores();

comment on trigger follow_new_stores on livestore.stores is 'Keeps livestore.store_names';
comment on trigger follow_dropped_stores on livestore.stores is 'Keeps livestore.store_names';

create or replace function livestore._is_decoded()
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select current_setting('wal_level') = 'logical'
$$;

comment on function livestore._is_decoded() is
'Internal: whether somebody may read changes by logical decoding, who is told of deleted rows and not of a dropped table';

create or replace function livestore._copy_indexes(eventlog oid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
-- The text of a definition is searched.
set quote_all_identifiers = off
as $$
declare
    found record;
    definition text;
begin
    for found in
        select i.indexrelid::regclass::text as name, pg_get_indexdef(i.indexrelid) as definition,
            i.indexprs is null and i.indpred is null as is_plain
        from pg_index i
        where i.indrelid = 'livestore.eventlog_1'::regclass and i.indisvalid and not i.indisprimary
        order by 1
    loop
        definition := regexp_replace(
            found.definition, E' INDEX .*? ON (?:ONLY )?livestore\\.eventlog_1 USING ', format(' INDEX ON %s USING ', eventlog::regclass)
        );
        if found.is_plain then
            execute definition;
        else
            -- Its expressions are somebody's code, which must not run as the owner of the event logs.
            raise warning 'the index % is not on %', found.name, eventlog::regclass using hint = definition;
        end if;
    end loop;
end
$$;

comment on function livestore._copy_indexes(oid) is
'Internal: gives the dedicated table of a store the indexes that were added to livestore.eventlog_1; warns of those with expressions or a condition';

create or replace function livestore._warn_of_publications(eventlog oid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    publication record;
begin
    for publication in
        select p.oid, p.pubname
        from pg_publication p
        join pg_publication_rel r on r.prpubid = p.oid
        where r.prrelid = 'livestore.eventlog_1'::regclass
            and not exists (select from pg_publication_rel o where o.prpubid = p.oid and o.prrelid = eventlog)
        order by p.pubname
    loop
        raise warning 'the publication % does not have the events of the dedicated table %', publication.pubname, eventlog::regclass
            using hint = format('alter publication %I add table %s', publication.pubname, eventlog::regclass);
    end loop;
end
$$;

comment on function livestore._warn_of_publications(oid) is
'Internal: warns of publications that have livestore.eventlog_1 and not the dedicated table of a store';
