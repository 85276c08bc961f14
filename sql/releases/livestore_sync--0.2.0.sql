-- complain if this file is fed to psql instead of create extension
\echo Use "create extension livestore_sync" to load this file. \quit

do $$
begin
    if current_setting('server_encoding') <> 'UTF8' then
        raise exception 'livestore_sync needs a database with the encoding UTF8, this one has %', current_setting('server_encoding')
            using errcode = 'feature_not_supported', hint = 'Create the database with: create database … encoding ''UTF8'' template template0';
    end if;
end
$$;

comment on schema livestore is 'LiveStore event logs: stores, their events, and the functions that append and read';

-- Roles belong to the whole cluster: another database may have them already, or be creating them right now.
do $$
declare
    role_name text;
begin
    foreach role_name in array array['livestore_reader', 'livestore_writer', 'livestore_admin'] loop
        begin
            if to_regrole(role_name) is null then
                execute format('create role %I nologin', role_name);
            end if;
        exception when duplicate_object or unique_violation then
            null;
        end;
    end loop;
    if not pg_has_role('livestore_writer', 'livestore_reader', 'usage') then
        grant livestore_reader to livestore_writer;
    end if;
    if not pg_has_role('livestore_admin', 'livestore_writer', 'usage') then
        grant livestore_writer to livestore_admin;
    end if;
end
$$;
-- Hash.string of npm's effect, with which LiveStore shortens names: over UTF-16 units from the last to the first, in 32 bits.
create function livestore.hash_string(string text)
returns integer
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    hash bigint := 5381;
    code integer;
    unit integer;
begin
    for position in reverse char_length(string)..1 loop
        code := ascii(substr(string, position, 1));
        foreach unit in array case
            when code < 65536 then array[code]
            else array[56320 + (code - 65536) % 1024, 55296 + (code - 65536) / 1024]
        end loop
            hash := (hash * 33 # unit) & 4294967295;
            hash := hash - case when hash >= 2147483648 then 4294967296 else 0 end;
        end loop;
    end loop;
    hash := (hash & 3221225471) | (((hash & 4294967295) >> 1) & 1073741824);
    return hash - case when hash >= 2147483648 then 4294967296 else 0 end;
end
$$;

comment on function livestore.hash_string(text) is 'Internal: Hash.string of npm''s effect';

-- What toTableName of @livestore/sync-electric makes of a store id: JavaScript replaces UTF-16 units, so a character outside
-- the basic plane becomes two underscores. 52: with the 11 characters before it a name has the 63 that Postgres allows.
create function livestore.table_suffix(store_id text)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    escaped text := regexp_replace(regexp_replace(store_id, U&'[\+010000-\+10FFFF]', '__', 'g'), '[^a-zA-Z0-9_]', '_', 'g');
begin
    return case when length(escaped) <= 52 then escaped else 'hash_' || livestore.hash_string(store_id) end;
end
$$;

comment on function livestore.table_suffix(text) is
'What follows eventlog_<version>_ in the name of a store''s table as LiveStore''s Electric provider derives it: characters outside [a-zA-Z0-9_] replaced, LiveStore''s hash if that is too long. Several stores may have the same';

-- makeS2StreamName of @livestore/sync-s2, which works on UTF-16 units, too.
create function livestore.stream_name(store_id text)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return left(regexp_replace(regexp_replace(store_id, U&'[\+010000-\+10FFFF]', '--', 'g'), '[^a-zA-Z0-9_-]', '-', 'g'), 100);
end
$$;

comment on function livestore.stream_name(text) is
'The name of the S2 stream that LiveStore derives from a store id: 100 characters, those outside [a-zA-Z0-9_-] replaced. Several stores may have the same';
-- The 1 is the version of the persistence format, as in the names that LiveStore's own backends give their tables.
create table livestore.eventlog_1 (
    store bigint not null,
    "seqNum" bigint not null,
    "parentSeqNum" bigint not null,
    name text not null,
    -- json and not jsonb: what a client sent comes back byte for byte, \u0000 and lone surrogates included.
    args json,
    "clientId" text not null,
    "sessionId" text not null,
    "createdAt" timestamptz not null,
    primary key (store, "seqNum")
);

comment on table livestore.eventlog_1 is 'The events of all stores without a table of their own (those inherit from this one). Written by functions only; put hooks here';
comment on column livestore.eventlog_1.store is 'livestore.stores.id';
comment on column livestore.eventlog_1."seqNum" is 'Position in the log of the store, from 1; gaps are legal';
comment on column livestore.eventlog_1."parentSeqNum" is 'seqNum of the event before this one, 0 for the first';
comment on column livestore.eventlog_1.name is 'Name of the event in the schema of the application';
comment on column livestore.eventlog_1.args is 'Arguments of the event as the client sent them; null if it sent none';
comment on column livestore.eventlog_1."clientId" is 'The client that made the event';
comment on column livestore.eventlog_1."sessionId" is 'The session of that client';
comment on column livestore.eventlog_1."createdAt" is 'When the event was appended here';

create table livestore.stores (
    id bigint generated always as identity primary key,
    store_id text not null,
    head bigint not null default 0 check (head between 0 and 9007199254740991),
    backend_id text not null,
    eventlog regclass not null default 'livestore.eventlog_1',
    created_at timestamptz not null default now(),
    constraint stores_store_id_length check (char_length(store_id) between 1 and 1024),
    -- A unique constraint would need a btree, whose entries end at 2,704 bytes: too short for 1,000 characters of any
    -- script. A hash index holds text of any length.
    constraint stores_store_id_key exclude using hash (store_id with =)
)
-- head changes at every push: room on the page, and no index on it, keep those updates HOT.
with (fillfactor = 50);

comment on table livestore.stores is 'One row for each store: the head of its event log and where the log lives. Written by functions only';
comment on column livestore.stores.id is 'Number of the store in event log tables; never reused';
comment on column livestore.stores.store_id is 'The storeId of LiveStore clients: any text of 1 to 1,024 characters';
comment on column livestore.stores.head is 'Sequence number of the last event, 0 for an empty log';
comment on column livestore.stores.backend_id is 'Names the life of the log: 21 URL-safe characters, new after a reset';
comment on column livestore.stores.eventlog is 'The table that holds the events: the shared one, or one of its own';
comment on column livestore.stores.created_at is 'When the store was registered';

create index stores_table_suffix_idx on livestore.stores (livestore.table_suffix(store_id));
comment on index livestore.stores_table_suffix_idx is 'Finds the store that the name of an Electric shape means';

create index stores_stream_name_idx on livestore.stores (livestore.stream_name(store_id) collate "C");
comment on index livestore.stores_stream_name_idx is 'Finds the store that the name of an S2 stream means, and lists streams in order';

create view livestore.events as
select
    stores.store_id,
    event."seqNum" as seq_num,
    event."parentSeqNum" as parent_seq_num,
    event.name,
    event.args,
    event."clientId" as client_id,
    event."sessionId" as session_id,
    event."createdAt" as created_at
from livestore.eventlog_1 event
join livestore.stores stores on stores.id = event.store;

comment on view livestore.events is 'Every event of every store, to query; a log is in order of seq_num';

comment on column livestore.events.store_id is 'The storeId of LiveStore clients';
comment on column livestore.events.seq_num is 'Position in the log of the store, from 1; gaps are legal';
comment on column livestore.events.parent_seq_num is 'seq_num of the event before this one, 0 for the first';
comment on column livestore.events.name is 'Name of the event in the schema of the application';
comment on column livestore.events.args is 'Arguments of the event as the client sent them; null if it sent none';
comment on column livestore.events.client_id is 'The client that made the event';
comment on column livestore.events.session_id is 'The session of that client';
comment on column livestore.events.created_at is 'When the event was appended here';

create table livestore.dropped_stores (
    store_id text not null,
    backend_id text not null,
    constraint dropped_stores_store_id_key exclude using hash (store_id with =)
);

comment on table livestore.dropped_stores is 'Stores that were dropped, so that a later store of the same name is not taken for the same log';
comment on column livestore.dropped_stores.store_id is 'The storeId that was dropped';
comment on column livestore.dropped_stores.backend_id is 'The backend id that a store of this name will have when it is created again';

create table livestore.instance (
    seed text not null default gen_random_uuid()::text,
    created_at timestamptz not null default now()
);

comment on table livestore.instance is 'What backend ids are derived from. After a restore there are two rows, and the older one, which came with the data, counts';
comment on column livestore.instance.seed is 'A random text';
comment on column livestore.instance.created_at is 'When the extension was created';

insert into livestore.instance default values;

-- Without these, pg_dump leaves out what an extension's own tables hold.
select pg_catalog.pg_extension_config_dump('livestore.stores', '');
select pg_catalog.pg_extension_config_dump('livestore.stores_id_seq', '');
select pg_catalog.pg_extension_config_dump('livestore.eventlog_1', '');
select pg_catalog.pg_extension_config_dump('livestore.dropped_stores', '');
select pg_catalog.pg_extension_config_dump('livestore.instance', '');

create type livestore.push_result as (
    push integer,
    head bigint,
    appended integer,
    backend_id text,
    created_at timestamptz,
    sqlstate text,
    message text,
    detail text,
    hint text
);

comment on type livestore.push_result is 'The outcome of one push of livestore.push_batch';
comment on column livestore.push_result.push is 'Position of the push in the arguments, from 1';
comment on column livestore.push_result.head is 'The head of the log after this push; null if it failed';
comment on column livestore.push_result.appended is 'How many events at the end of the batch are new; 0 if the log had them all';
comment on column livestore.push_result.backend_id is 'The backend id of the log; null if the push failed';
comment on column livestore.push_result.created_at is 'The createdAt of the events that were appended';
comment on column livestore.push_result.sqlstate is 'null if the push is in the log; LS… (see livestore.push) or what a hook raised if it is not';
comment on column livestore.push_result.message is 'What is wrong, in a sentence';
comment on column livestore.push_result.detail is 'For LS…: the same as JSON';
comment on column livestore.push_result.hint is 'What to do next';
-- What sidecars tell each other of the devices at the peer relay. Nothing here outlives a crash, nor has to: a device that
-- connects again is there again, and messages are for those who are online.
create unlogged table livestore.relay_sidecars (
    sidecar text primary key,
    expires_at timestamptz not null
);

comment on table livestore.relay_sidecars is 'The sidecars between which the peer relay works. Unlogged: gone after a crash of Postgres';
comment on column livestore.relay_sidecars.sidecar is 'Names one connection of a sidecar; it listens to the channel livestore_relay_<sidecar>';
comment on column livestore.relay_sidecars.expires_at is 'When it counts as dead, unless it renews its lease before';

-- Not one of an unlogged table, which a crash would set back.
create sequence livestore.relay_connections;

comment on sequence livestore.relay_connections is 'Numbers of connections to the peer relay';

create unlogged table livestore.relay_devices (
    user_id text not null check (octet_length(user_id) <= 256),
    client_id text not null check (octet_length(client_id) <= 256),
    connection bigint not null default nextval('livestore.relay_connections'),
    sidecar text not null references livestore.relay_sidecars on delete cascade,
    primary key (user_id, client_id)
);
create index on livestore.relay_devices (sidecar);

comment on table livestore.relay_devices is 'The devices that are connected to the peer relay. Unlogged: gone after a crash of Postgres';
comment on column livestore.relay_devices.user_id is 'Whose device it is: the sub of the token, or the empty text without authentication';
comment on column livestore.relay_devices.client_id is 'The lasting name of the device';
comment on column livestore.relay_devices.connection is 'Number of the connection of this device: the greatest is the one that counts';
comment on column livestore.relay_devices.sidecar is 'Where it is connected';

create unlogged table livestore.relay_parcels (
    id bigint generated always as identity primary key,
    sidecar text not null references livestore.relay_sidecars on delete cascade,
    body text not null
);
create index on livestore.relay_parcels (sidecar);

comment on table livestore.relay_parcels is 'Messages that are too long for a notification, until they are fetched. Unlogged, and emptied for good when nothing is on its way';
comment on column livestore.relay_parcels.id is 'What the notification names';
comment on column livestore.relay_parcels.sidecar is 'The sidecar that it is for';
comment on column livestore.relay_parcels.body is 'JSON, as sidecars understand it';

create type livestore.relay_device as (user_id text, client_id text, connection bigint, sidecar text);

comment on type livestore.relay_device is 'A device at the peer relay, as in livestore.relay_devices';
comment on column livestore.relay_device.user_id is 'Whose device it is';
comment on column livestore.relay_device.client_id is 'The lasting name of the device';
comment on column livestore.relay_device.connection is 'Number of its connection';
comment on column livestore.relay_device.sidecar is 'Where it is connected';

-- With --relay-store, what devices push to each other is in an event log, too. A log has no place for the number and the time
-- that a device gave an event, by which other devices know it: they are here.
create table livestore.relayed_events (
    store bigint not null,
    "seqNum" bigint not null,
    key bigint not null,
    event_number json,
    "timestamp" json,
    primary key (store, "seqNum")
);
create index on livestore.relayed_events (store, key);

comment on table livestore.relayed_events is 'Events that came through the peer relay: what its devices know of them beside what the event log holds';
comment on column livestore.relayed_events.store is 'livestore.stores.id';
comment on column livestore.relayed_events."seqNum" is 'Position in the event log of the store';
comment on column livestore.relayed_events.key is 'Hash of who made the event and its number, to find one that is pushed again';
comment on column livestore.relayed_events.event_number is 'eventNumber, as the device sent it';
comment on column livestore.relayed_events."timestamp" is 'timestamp, as the device sent it';

select pg_catalog.pg_extension_config_dump('livestore.relayed_events', '');
-- Backend ids have the form of nanoid's, which LiveStore's own backends use: 21 characters of [A-Za-z0-9_-].
create or replace function livestore.make_backend_id(seed text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select translate(left(encode(sha256(convert_to(seed, 'UTF8')), 'base64'), 21), '+/', '-_')
$$;

comment on function livestore.make_backend_id(text) is 'Internal: 21 URL-safe characters that depend on the seed alone';

-- security definer: the seed in livestore.instance is nobody else's to read.
create or replace function livestore.backend_id(store_id text)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(
        (select s.backend_id from livestore.stores s where s.store_id = $1),
        (select d.backend_id from livestore.dropped_stores d where d.store_id = $1),
        livestore.make_backend_id((select i.seed from livestore.instance i order by i.created_at limit 1) || $1)
    )
$$;

comment on function livestore.backend_id(text) is
'The backend id of a store: it names the life of the log and changes when the log is reset. For a store that does not exist: the id that it will have. Writes nothing';
create or replace function livestore.own_table_name(store_id text, id bigint)
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
    -- Two store ids may have one name (a-b and a_b, or the same hash): the second gets its number behind it, and a line for
    -- each store whose own name looks like that.
    while to_regclass(format('livestore.%I', table_name)) is not null loop
        table_name := left(full_name, 63 - length(suffix)) || suffix;
        suffix := suffix || '_';
    end loop;
    return table_name;
end
$$;

comment on function livestore.own_table_name(text, bigint) is
'Internal: a free name for the own table of a store, eventlog_1_ and livestore.table_suffix';

create or replace function livestore.apply_hooks(eventlog regclass)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    hook record;
    hooks integer := 0;
    shared constant text := ' ON livestore.eventlog_1 ';
begin
    if not exists (select from pg_inherits where inhrelid = eventlog and inhparent = 'livestore.eventlog_1'::regclass) then
        raise exception '% is not the own table of a store', eventlog using errcode = 'wrong_object_type';
    end if;
    for hook in select tgname from pg_trigger where tgrelid = eventlog and not tgisinternal loop
        execute format('drop trigger %I on %s', hook.tgname, eventlog);
    end loop;
    for hook in
        select tgname, tgenabled, pg_get_triggerdef(oid) as definition
        from pg_trigger
        where tgrelid = 'livestore.eventlog_1'::regclass and not tgisinternal
        order by tgname
    loop
        execute overlay(
            hook.definition placing format(' ON %s ', eventlog)
            from strpos(hook.definition, shared) for length(shared)
        );
        if hook.tgenabled <> 'O' then
            execute format(
                'alter table %s %s trigger %I', eventlog,
                case hook.tgenabled when 'D' then 'disable' when 'A' then 'enable always' else 'enable replica' end,
                hook.tgname
            );
        end if;
        hooks := hooks + 1;
    end loop;
    return hooks;
end
$$;

comment on function livestore.apply_hooks(regclass) is
'Gives the own table of a store the triggers that livestore.eventlog_1 has now, instead of those it had; returns how many. A child table does not inherit triggers: call this after changing hooks, for each stores.eventlog that is not eventlog_1';

create or replace function livestore.create_store(store_id text, own_table boolean default false)
returns regclass
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    store livestore.stores;
    table_name text;
begin
    store := livestore.lock_store(store_id);
    if not own_table or store.eventlog <> 'livestore.eventlog_1'::regclass then
        return store.eventlog;
    end if;

    table_name := livestore.own_table_name(store_id, store.id);
    execute format(
        'create table livestore.%I (constraint own_store check (store = %s), primary key (store, "seqNum")) inherits (livestore.eventlog_1)',
        table_name, store.id
    );
    execute format('comment on table livestore.%I is %L', table_name, 'The events of the store ' || store_id);
    execute format('grant select on livestore.%I to livestore_reader', table_name);
    -- Events that the store has already move before the hooks are there: they were hooked when they were appended.
    execute format('insert into livestore.%I select * from only livestore.eventlog_1 where store = $1', table_name) using store.id;
    delete from only livestore.eventlog_1 e where e.store = store.id;
    update livestore.stores s set eventlog = format('livestore.%I', table_name)::regclass
        where s.id = store.id returning s.eventlog into store.eventlog;
    perform livestore.apply_hooks(store.eventlog);
    return store.eventlog;
end
$$;

comment on function livestore.create_store(text, boolean) is
'Registers a store and returns the table of its events. Idempotent, and not needed before a push. own_table => true gives the store a table of its own, and moves the events that it has';

-- Taken by every function that writes to stores, always in this order, so that no two wait for each other: first new rows,
-- by store_id, while nothing is locked; then locks, by id.
create or replace function livestore.register_stores(store_ids text[])
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    insert into livestore.stores (store_id, backend_id)
    select missing.store_id, livestore.backend_id(missing.store_id)
    from (select distinct unnest(store_ids) as store_id) missing
    where not exists (select from livestore.stores s where s.store_id = missing.store_id)
    order by missing.store_id collate "C"
    on conflict do nothing
$$;

comment on function livestore.register_stores(text[]) is 'Internal: adds the stores that do not exist yet';

create or replace function livestore.lock_store(store_id text)
returns livestore.stores
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    store livestore.stores;
begin
    -- Again, if it is dropped while this waits for its lock.
    loop
        perform livestore.register_stores(array[store_id]);
        select * into store from livestore.stores s where s.store_id = $1 for update;
        exit when found;
    end loop;
    return store;
end
$$;

comment on function livestore.lock_store(text) is 'Internal: the row of a store, created if need be and locked';

create or replace function livestore.lock_existing_store(store_id text)
returns livestore.stores
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    store livestore.stores;
begin
    select * into store from livestore.stores s where s.store_id = $1 for update;
    if not found then
        raise exception 'there is no store %', to_json(store_id)
            using errcode = 'LS004', detail = json_build_object('storeId', store_id),
                hint = 'Stores are listed in livestore.stores; a push or livestore.create_store creates one.';
    end if;
    return store;
end
$$;

comment on function livestore.lock_existing_store(text) is 'Internal: the row of a store, locked; raises LS004 if there is none';

create or replace function livestore.reset_store(store_id text)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    store livestore.stores;
begin
    store := livestore.lock_existing_store(store_id);
    execute format('delete from only %s where store = $1', store.eventlog) using store.id;
    delete from livestore.relayed_events r where r.store = store.id;
    -- A new number, too: whoever reads the table by it, as Electric does, must not take the two logs for one.
    update livestore.stores s set id = default, head = 0, backend_id = livestore.make_backend_id(gen_random_uuid()::text)
        where s.id = store.id returning s.* into store;
    if store.eventlog <> 'livestore.eventlog_1'::regclass then
        execute format(
            'alter table %s drop constraint own_store, add constraint own_store check (store = %s)', store.eventlog, store.id
        );
    end if;
    perform livestore.notify_heads(array[store_id], array[null::bigint]);
    return store.backend_id;
end
$$;

comment on function livestore.reset_store(text) is
'Empties the log of a store and returns its new backend id; its number in livestore.stores is new, too. Clients drop their local log, with what they had not pushed, and start over. Raises LS004 if there is no such store';

create or replace function livestore.drop_store(store_id text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    store livestore.stores;
begin
    store := livestore.lock_existing_store(store_id);
    if store.eventlog = 'livestore.eventlog_1'::regclass then
        delete from only livestore.eventlog_1 e where e.store = store.id;
    else
        execute format('drop table %s', store.eventlog);
    end if;
    delete from livestore.relayed_events r where r.store = store.id;
    delete from livestore.dropped_stores d where d.store_id = $1;
    insert into livestore.dropped_stores (store_id, backend_id)
        values (store_id, livestore.make_backend_id(gen_random_uuid()::text));
    delete from livestore.stores s where s.id = store.id;
    perform livestore.notify_heads(array[store_id], array[null::bigint]);
end
$$;

comment on function livestore.drop_store(text) is
'Removes a store and its events for good. A push to the same storeId later begins a new log, with another backend id. Raises LS004 if there is no such store';

create or replace function livestore.renew_backend_ids()
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    renewed bigint;
begin
    perform livestore.notify_heads(array_agg(s.store_id), array_agg(null::bigint))
    from (select l.store_id from livestore.stores l order by l.id for update) s;
    update livestore.stores s set backend_id = livestore.make_backend_id(gen_random_uuid()::text);
    get diagnostics renewed = row_count;
    update livestore.dropped_stores d set backend_id = livestore.make_backend_id(gen_random_uuid()::text);
    update livestore.instance i set seed = gen_random_uuid()::text;
    return renewed;
end
$$;

comment on function livestore.renew_backend_ids() is
'Gives every store a new backend id and keeps the events; returns the number of stores. For after a restore of an older state: clients that have seen events which the restored logs lack drop their local logs and pull anew';
-- The context of a request: what a hook may know of who pushes. It is in settings of the transaction, which the functions
-- that append make for each push (livestore.push_batch).
create or replace function livestore.enter_context(store_id text, payload text, headers text, claims text)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    select set_config('livestore.store_id', store_id, true),
        set_config('livestore.payload', coalesce(payload, ''), true),
        set_config('livestore.headers', coalesce(headers, ''), true),
        set_config('livestore.claims', coalesce(claims, ''), true)
$$;

comment on function livestore.enter_context(text, text, text, text) is
'Internal: makes this the context of the hooks that run next. Payload, headers and claims are JSON or null';

create or replace function livestore.current_store_id()
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select nullif(current_setting('livestore.store_id', true), '')
$$;

comment on function livestore.current_store_id() is
'In a hook: the store that is pushed to. Elsewhere null';

create or replace function livestore.current_payload()
returns json
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select nullif(current_setting('livestore.payload', true), '')::json
$$;

comment on function livestore.current_payload() is
'In a hook: the sync payload of the client that pushes, as it sent it; null if it has none, and for pushes from SQL';

create or replace function livestore.current_headers()
returns json
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select nullif(current_setting('livestore.headers', true), '')::json
$$;

comment on function livestore.current_headers() is
'In a hook: the request headers that the sidecar forwards (--forward-headers), a JSON object with names in lower case; null if there are none, and for pushes from SQL';

create or replace function livestore.current_claims()
returns json
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select nullif(current_setting('livestore.claims', true), '')::json
$$;

comment on function livestore.current_claims() is
'In a hook: what the token of the client that pushes says, a JSON object, sub for one; null without authentication, and for pushes from SQL';
-- Written in Rust: extension/src/plan.rs decides, extension/src/sql.rs converts.
create or replace function livestore.plan_pushes(
    store_ids text[], batches text[], backend_ids text[], store_heads bigint[], store_backend_ids text[],
    stored_store_ids text[], stored_seq_nums bigint[], stored_parent_seq_nums bigint[],
    stored_names text[], stored_args text[], stored_client_ids text[], stored_session_ids text[]
)
returns table (
    lookup_push integer[], lookup_seq_num bigint[],
    sqlstate text[], message text[], detail text[], hint text[], head bigint[], appended integer[],
    event_push integer[], event_seq_num bigint[], event_parent_seq_num bigint[],
    event_name text[], event_args text[], event_client_id text[], event_session_id text[]
)
language c
stable
parallel safe
as 'MODULE_PATHNAME', 'plan_pushes_wrapper';

comment on function livestore.plan_pushes(text[], text[], text[], bigint[], text[], text[], bigint[], bigint[], text[], text[], text[], text[]) is
'Internal: decides what becomes of each push, given the state of its store, and lists the events to insert';

create or replace function livestore.notify_heads(store_ids text[], heads bigint[], source text default null)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    -- A payload must stay under 8,000 bytes: 1,500 and the longest id there can be (1,024 characters, 6 bytes each in JSON).
    select pg_notify('livestore', json_build_object('source', source, 'heads', json_object_agg(page.store_id, page.head))::text)
    from (
        select h.store_id, h.head, sum(octet_length(to_json(h.store_id)::text) + 24) over (order by h.store_id) / 1500 as number
        from unnest(store_ids, heads) h(store_id, head)
    ) page
    group by page.number
$$;

comment on function livestore.notify_heads(text[], bigint[], text) is
'Internal: NOTIFY livestore, {"source": …, "heads": {"<storeId>": <head>, …}}; several if one would be too long. A head of null: the log is another one now';

create or replace function livestore.stored_events(stores bigint[], seq_nums bigint[])
returns setof livestore.eventlog_1
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    own record;
begin
    -- only: through inheritance this would lock the tables of all stores, and plan a look at each.
    return query
    select e.*
    from unnest(stores, seq_nums) w(store, seq_num)
    join only livestore.eventlog_1 e on e.store = w.store and e."seqNum" = w.seq_num;
    for own in
        select s.id, s.eventlog, array_agg(w.seq_num) as seq_nums
        from unnest(stores, seq_nums) w(store, seq_num)
        join livestore.stores s on s.id = w.store
        where s.eventlog <> 'livestore.eventlog_1'::regclass
        group by s.id
    loop
        return query execute format('select * from only %s where store = $1 and "seqNum" = any ($2)', own.eventlog)
            using own.id, own.seq_nums;
    end loop;
end
$$;

comment on function livestore.stored_events(bigint[], bigint[]) is
'Internal: the events that are in the log at these positions, as arrays of livestore.stores.id and seqNum';

-- The settings end with the function: a hook may append to another store, and goes on in its own context then.
create or replace function livestore.append(
    store_ids text[], batches text[], backend_ids text[], source text default null,
    payloads text[] default null, headers text[] default null, claims text[] default null
)
returns setof livestore.push_result
language plpgsql
set search_path = pg_catalog, pg_temp
set livestore.store_id = ''
as $$
declare
    store record;
    plan record;
    stored record;
    hooks record;
    part record;
    inserted bigint := 0;
    changed bigint;
    appended_at timestamptz;
begin
    select array_agg(s.id order by p.push) as ids,
        array_agg(coalesce(s.head, 0) order by p.push) as heads,
        array_agg(coalesce(s.backend_id, livestore.backend_id(p.store_id)) order by p.push) as backend_ids,
        array_agg(distinct s.eventlog::oid) as eventlogs,
        array_agg(distinct s.id) filter (where s.eventlog <> 'livestore.eventlog_1'::regclass) as own_ids
    into store
    from unnest(store_ids) with ordinality p(store_id, push)
    left join livestore.stores s on s.store_id = p.store_id;

    plan := livestore.plan_pushes(
        store_ids, batches, backend_ids, store.heads, store.backend_ids, null, null, null, null, null, null, null
    );
    if cardinality(plan.lookup_push) > 0 then
        select coalesce(array_agg(store_ids[array_position(store.ids, e.store)]), '{}') as store_ids,
            coalesce(array_agg(e."seqNum"), '{}') as seq_nums,
            coalesce(array_agg(e."parentSeqNum"), '{}') as parent_seq_nums,
            coalesce(array_agg(e.name), '{}') as names,
            coalesce(array_agg(e.args::text), '{}') as args,
            coalesce(array_agg(e."clientId"), '{}') as client_ids,
            coalesce(array_agg(e."sessionId"), '{}') as session_ids
        into stored
        from livestore.stored_events(
            (select array_agg(store.ids[l.push] order by l.n) from unnest(plan.lookup_push) with ordinality l(push, n)),
            plan.lookup_seq_num
        ) e;

        plan := livestore.plan_pushes(
            store_ids, batches, backend_ids, store.heads, store.backend_ids,
            stored.store_ids, stored.seq_nums, stored.parent_seq_nums,
            stored.names, stored.args, stored.client_ids, stored.session_ids
        );
    end if;

    appended_at := clock_timestamp();
    if cardinality(plan.event_push) > 0 then
        -- Heads first: a hook that appends to the same store goes on from here. Only from the heads that the plan began
        -- with: a store that came into being, or went, while others were being locked is not locked itself.
        update livestore.stores s set head = h.head
        from (
            select store.ids[p.push] as id, min(store.heads[p.push]) as planned, max(p.head) as head
            from unnest(plan.head, plan.appended) with ordinality p(head, appended, push)
            where p.appended > 0
            group by 1
        ) h
        where s.id = h.id and s.head = h.planned;
        get diagnostics changed = row_count;
        if changed <> (
            select count(distinct store_ids[p.push])
            from unnest(plan.appended) with ordinality p(appended, push) where p.appended > 0
        ) then
            raise exception 'a store was created or dropped meanwhile'
                using errcode = 'serialization_failure', hint = 'Try again.';
        end if;

        -- Bit 2 of tgtype: a BEFORE trigger.
        select count(*) > 0 as exist, coalesce(bool_or(t.tgtype & 2 <> 0), false) as may_change,
            array_agg(distinct t.tgname) filter (where t.tginitdeferred) as deferred
        into hooks
        from pg_trigger t
        where t.tgrelid = any (store.eventlogs) and not t.tgisinternal;

        if not hooks.exist and store.own_ids is null then
            insert into livestore.eventlog_1
            select store.ids[e.push], e.seq_num, e.parent_seq_num, e.name, e.args::json, e.client_id, e.session_id, appended_at
            from unnest(
                plan.event_push, plan.event_seq_num, plan.event_parent_seq_num,
                plan.event_name, plan.event_args, plan.event_client_id, plan.event_session_id
            ) e(push, seq_num, parent_seq_num, name, args, client_id, session_id);
            get diagnostics inserted = row_count;
        else
            -- A statement for each table and, if there are hooks, for each push: it has the context of its request.
            for part in
                select min(e.push) as push, s.eventlog, array_agg(s.id order by e.n) as ids,
                    array_agg(e.seq_num order by e.n) as seq_nums, array_agg(e.parent_seq_num order by e.n) as parent_seq_nums,
                    array_agg(e.name order by e.n) as names, array_agg(e.args order by e.n) as args,
                    array_agg(e.client_id order by e.n) as client_ids, array_agg(e.session_id order by e.n) as session_ids
                from unnest(
                    plan.event_push, plan.event_seq_num, plan.event_parent_seq_num,
                    plan.event_name, plan.event_args, plan.event_client_id, plan.event_session_id
                ) with ordinality e(push, seq_num, parent_seq_num, name, args, client_id, session_id, n)
                join livestore.stores s on s.id = store.ids[e.push]
                group by s.eventlog, case when hooks.exist then e.push end
                order by 1
            loop
                if hooks.exist then
                    perform livestore.enter_context(
                        store_ids[part.push],
                        case when payloads is not null then payloads[part.push]
                            when pg_trigger_depth() > 0 then current_setting('livestore.payload', true) end,
                        case when headers is not null then headers[part.push]
                            when pg_trigger_depth() > 0 then current_setting('livestore.headers', true) end,
                        case when claims is not null then claims[part.push]
                            when pg_trigger_depth() > 0 then current_setting('livestore.claims', true) end
                    );
                end if;
                execute format(
                    'insert into %s
                     select e.id, e.seq_num, e.parent_seq_num, e.name, e.args::json, e.client_id, e.session_id, $1
                     from unnest($2, $3, $4, $5, $6, $7, $8) e(id, seq_num, parent_seq_num, name, args, client_id, session_id)',
                    part.eventlog
                )
                using appended_at, part.ids, part.seq_nums, part.parent_seq_nums, part.names, part.args, part.client_ids, part.session_ids;
                get diagnostics changed = row_count;
                inserted := inserted + changed;
                -- A hook that is deferred to the commit would fail everything that is committed with this push: it runs now.
                for i in 1..coalesce(cardinality(hooks.deferred), 0) loop
                    execute format('set constraints livestore.%I immediate', hooks.deferred[i]);
                    execute format('set constraints livestore.%I deferred', hooks.deferred[i]);
                end loop;
            end loop;
        end if;

        -- A client that gets back another event than it pushed takes its own for missing, and pushes it again.
        if hooks.may_change then
            select count(*) into changed
            from unnest(
                plan.event_push, plan.event_seq_num, plan.event_parent_seq_num,
                plan.event_name, plan.event_args, plan.event_client_id, plan.event_session_id
            ) p(push, seq_num, parent_seq_num, name, args, client_id, session_id)
            left join livestore.stored_events(
                (select array_agg(store.ids[p.push] order by p.n) from unnest(plan.event_push) with ordinality p(push, n)),
                plan.event_seq_num
            ) e on e.store = store.ids[p.push] and e."seqNum" = p.seq_num
            where (e."seqNum", e."parentSeqNum", e.name, e."clientId", e."sessionId", e."createdAt")
                is distinct from (p.seq_num, p.parent_seq_num, p.name, p.client_id, p.session_id, appended_at)
                or e.args::text is distinct from p.args;
            if inserted <> cardinality(plan.event_push) or changed > 0 then
                raise exception 'a BEFORE trigger on the event log skipped or changed events'
                    using errcode = 'triggered_data_change_violation',
                        hint = 'A hook lets an event pass as it is (return new) or rejects it (raise exception).';
            end if;
        end if;

        perform livestore.notify_heads(array_agg(h.store_id), array_agg(h.head), source)
        from (
            select store_ids[p.push] as store_id, max(p.head) as head
            from unnest(plan.head, plan.appended) with ordinality p(head, appended, push)
            where p.appended > 0
            group by 1
        ) h;
    end if;

    return query
    select p.push::integer, p.head, p.appended,
        case when p.sqlstate is null then store.backend_ids[p.push] end,
        case when p.appended > 0 then appended_at end,
        p.sqlstate, p.message, p.detail, p.hint
    from unnest(plan.head, plan.appended, plan.sqlstate, plan.message, plan.detail, plan.hint)
        with ordinality p(head, appended, sqlstate, message, detail, hint, push);
end
$$;

comment on function livestore.append(text[], text[], text[], text, text[], text[], text[]) is
'Internal: carries out pushes to stores whose rows are locked. What a hook raises goes through. payloads, headers: null for a push from SQL; one that a hook makes has those of the hook';

-- Written in Rust: extension/src/append.rs.
create or replace function livestore.append_pooled(store_ids text[], batches text[], backend_ids text[], source text)
returns table (
    push integer, head bigint, appended integer, backend_id text, created_at timestamptz,
    sqlstate text, message text, detail text, hint text
)
language c
as 'MODULE_PATHNAME', 'append_pooled_wrapper';

comment on function livestore.append_pooled(text[], text[], text[], text) is
'Internal: livestore.append and the locks that it needs, for pushes that are all of the usual kind: to stores that exist and are in the shared table, with nothing that is in the log already, and no hooks. No row otherwise, and nothing is written';
create or replace function livestore.lock_stores(store_ids text[], batches text[], backend_ids text[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    missing record;
    existing bigint;
    locked bigint;
begin
    if array_position(store_ids, null) is not null then
        raise exception 'a store id is null' using errcode = 'null_value_not_allowed';
    end if;
    loop
        -- Only a push that will be accepted creates a store: bad input changes nothing.
        select array_agg(p.store_id) as store_ids, array_agg(p.batch) as batches, array_agg(p.backend_id) as backend_ids,
            array_agg(0::bigint) as heads, array_agg(livestore.backend_id(p.store_id)) as store_backend_ids
        into missing
        from unnest(store_ids, batches, backend_ids) p(store_id, batch, backend_id)
        where not exists (select from livestore.stores s where s.store_id = p.store_id);
        if missing.store_ids is not null then
            perform livestore.register_stores(array_agg(p.store_id))
            from livestore.plan_pushes(
                    missing.store_ids, missing.batches, missing.backend_ids, missing.heads, missing.store_backend_ids,
                    null, null, null, null, null, null, null
                ) plan,
                unnest(missing.store_ids, plan.appended) p(store_id, appended)
            where p.appended > 0;
        end if;

        select count(*) into existing from livestore.stores s where s.store_id = any (store_ids);
        perform from livestore.stores s where s.store_id = any (store_ids) order by s.id for update;
        get diagnostics locked = row_count;
        -- Again, if a store was dropped while this waited for its lock.
        exit when locked >= existing;
    end loop;
end
$$;

comment on function livestore.lock_stores(text[], text[], text[]) is
'Internal: creates the stores that the pushes begin and locks the rows of all, in an order that cannot deadlock';

create or replace function livestore.push(store_id text, events json, backend_id text default null)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    result livestore.push_result;
begin
    perform livestore.lock_stores(array[store_id], array[events::text], array[backend_id]);
    select * into result from livestore.append(array[store_id], array[events::text], array[backend_id]);
    if result.sqlstate is not null then
        raise exception '%', result.message
            using errcode = result.sqlstate, detail = coalesce(result.detail, ''), hint = coalesce(result.hint, '');
    end if;
    return result.head;
end
$$;

comment on function livestore.push(text, json, text) is
'Appends a batch, a JSON array of {"name","args","seqNum","parentSeqNum","clientId","sessionId"}, to the log of a store, whole or not at all, and returns the new head. A batch that is in the log already is accepted again. Raises LS001 (server ahead), LS002 (backend id mismatch), LS003 (invalid batch), each with a JSON DETAIL, or what a hook raises';

create or replace function livestore.push_some(
    store_ids text[], batches text[], backend_ids text[], positions integer[], source text,
    payloads text[], headers text[], claims text[]
)
returns setof livestore.push_result
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    result livestore.push_result;
    chosen record;
    half constant integer := cardinality(positions) / 2;
begin
    select array_agg(store_ids[p.push] order by p.n) as store_ids,
        array_agg(batches[p.push] order by p.n) as batches,
        array_agg(backend_ids[p.push] order by p.n) as backend_ids,
        array_agg(payloads[p.push] order by p.n) as payloads,
        array_agg(headers[p.push] order by p.n) as headers,
        array_agg(claims[p.push] order by p.n) as claims
    into chosen
    from unnest(positions) with ordinality p(push, n);
    begin
        perform livestore.lock_stores(chosen.store_ids, chosen.batches, chosen.backend_ids);
        for result in
            select * from livestore.append(
                chosen.store_ids, chosen.batches, chosen.backend_ids, source, chosen.payloads, chosen.headers, chosen.claims
            )
        loop
            result.push := positions[result.push];
            return next result;
        end loop;
        return;
    exception when others then
        if half = 0 then
            result := null;
            result.push := positions[1];
            result.appended := 0;
            get stacked diagnostics
                result.sqlstate = returned_sqlstate,
                result.message = message_text,
                result.detail = pg_exception_detail,
                result.hint = pg_exception_hint;
            -- A hook that pushes to another store, and fails, does not speak of this one.
            if result.sqlstate like 'LS%' then
                result.sqlstate := '09000';
            end if;
            return next result;
            return;
        end if;
    end;
    -- One of them failed and took the others with it. Halves find it, in the order of the pushes.
    return query select * from livestore.push_some(store_ids, batches, backend_ids, positions[:half], source, payloads, headers, claims);
    return query select * from livestore.push_some(store_ids, batches, backend_ids, positions[half + 1:], source, payloads, headers, claims);
end
$$;

comment on function livestore.push_some(text[], text[], text[], integer[], text, text[], text[], text[]) is
'Internal: carries out the pushes at these positions together and, if an error stops them, in halves, so that it stops only the push that it belongs to';

-- lock_timeout: a transaction that stays open holding one store must not hold up the pushes to all others.
create or replace function livestore.push_batch(
    store_ids text[], batches text[], backend_ids text[], source text default null,
    payloads text[] default null, headers text[] default null, claims text[] default null
)
returns setof livestore.push_result
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '200ms'
set livestore.payload = ''
set livestore.headers = ''
set livestore.claims = ''
as $$
declare
    stores record;
begin
    if cardinality(batches) is distinct from cardinality(store_ids) or cardinality(backend_ids) is distinct from cardinality(store_ids) then
        raise exception 'store_ids, batches and backend_ids must have one element for each push'
            using errcode = 'array_subscript_error';
    end if;
    if cardinality(payloads) <> cardinality(store_ids) or cardinality(headers) <> cardinality(store_ids)
        or cardinality(claims) <> cardinality(store_ids) then
        raise exception 'payloads, headers and claims must have one element for each push, or be null'
            using errcode = 'array_subscript_error';
    end if;
    if octet_length(source) > 200 then
        raise exception 'source has more than 200 bytes' using errcode = 'string_data_right_truncation';
    end if;
    -- The usual case, and what is almost as usual. Locks and updates belong to one subtransaction: a row that another one
    -- locked would need a multixact.
    begin
        return query select * from livestore.append_pooled(store_ids, batches, backend_ids, source);
        if found then
            return;
        end if;
        perform livestore.lock_stores(store_ids, batches, backend_ids);
        return query select * from livestore.append(store_ids, batches, backend_ids, source, payloads, headers, claims);
        return;
    exception when others then
        null;
    end;

    -- Something failed, and took everything with it. Stores that somebody else holds are left out now; the others are
    -- free, so that locking them waits for nobody. New stores come last: whether somebody else is just creating one can
    -- only be found out by waiting.
    with free as materialized (
        select s.id from livestore.stores s where s.store_id = any (store_ids) order by s.id for update skip locked
    )
    select array_agg(p.push::integer order by p.push) filter (where l.id is not null) as free,
        array_agg(p.push::integer order by p.push) filter (where l.id is null and s.id is not null) as held,
        array_agg(p.push::integer order by p.push) filter (where s.id is null) as new
    into stores
    from unnest(store_ids) with ordinality p(store_id, push)
    left join livestore.stores s on s.store_id = p.store_id
    left join free l on l.id = s.id;
    return query
    select held.push, null::bigint, 0, null::text, null::timestamptz,
        '55P03', 'another transaction holds the store', null::text, 'Try again.'
    from unnest(stores.held) held(push);
    if stores.free is not null then
        return query select * from livestore.push_some(store_ids, batches, backend_ids, stores.free, source, payloads, headers, claims);
    end if;
    if stores.new is not null then
        return query select * from livestore.push_some(store_ids, batches, backend_ids, stores.new, source, payloads, headers, claims);
    end if;
end
$$;

comment on function livestore.push_batch(text[], text[], text[], text, text[], text[], text[]) is
'Many pushes to many stores at once, as arrays with one element for each push: its storeId, its batch as JSON text, its backend id or null. Returns a result for each; one that fails does not fail the others. Later pushes of a store build on earlier ones. A store that another transaction holds fails its pushes with 55P03: try them again. source comes back in the notification, so that a sidecar knows its own. payloads, headers, claims: what hooks may know of each request, each as JSON text or null';

create or replace function livestore.commit(
    store_id text, name text, args json default null, client_id text default 'server', session_id text default 'sql'
)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    head bigint;
begin
    head := (livestore.lock_store(store_id)).head;
    return livestore.push(
        store_id,
        json_build_array(
            case when args is null
                then json_build_object('name', name, 'seqNum', head + 1, 'parentSeqNum', head, 'clientId', client_id, 'sessionId', session_id)
                else json_build_object('name', name, 'args', args, 'seqNum', head + 1, 'parentSeqNum', head, 'clientId', client_id, 'sessionId', session_id)
            end
        )
    );
end
$$;

comment on function livestore.commit(text, text, json, text, text) is
'Appends one event at the head of the log of a store, from SQL, and returns its seq_num. args null: an event without args. The event takes effect, and reaches live clients, when the transaction commits';
create or replace function livestore.head(store_id text)
returns bigint
language sql
stable
set search_path = pg_catalog, pg_temp
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
set search_path = pg_catalog, pg_temp
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
-- Runs with the rights of its caller, who must own the extension's tables: nobody else may write into a log past push.
create or replace function livestore.import_table(
    source regclass, store_id text, backend_id text default null,
    out imported bigint, out already_there bigint, out head bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
set livestore.store_id = ''
set livestore.payload = ''
set livestore.headers = ''
set livestore.claims = ''
as $$
declare
    store livestore.stores;
    wanted constant text[] := array['seqNum', 'parentSeqNum', 'name', 'args', 'clientId', 'sessionId', 'createdAt'];
    found_columns text[];
    part record;
    plan record;
    wrong bigint;
    inserted bigint;
    hook record;
begin
    -- Tools that copy tables fold names to lower case, or write them with underscores.
    select array_agg(
            (
                select quote_ident(a.attname)
                from pg_attribute a
                where a.attrelid = source and a.attnum > 0 and not a.attisdropped
                    and lower(replace(a.attname, '_', '')) = lower(w.name)
                order by a.attname = w.name desc
                limit 1
            )
            order by w.n
        )
    into found_columns
    from unnest(wanted) with ordinality w(name, n);
    for i in 1..6 loop
        if found_columns[i] is null then
            raise exception '% has no column "%"', source, wanted[i]
                using errcode = 'undefined_column',
                    hint = 'An event log has the columns "seqNum", "parentSeqNum", name, args, "clientId", "sessionId" and, if it knows, "createdAt". A view can rename others.';
        end if;
    end loop;
    if backend_id !~ '^[A-Za-z0-9_-]{1,64}$' then
        raise exception 'a backend id has 1 to 64 characters of A-Z, a-z, 0-9, _ and -' using errcode = 'invalid_parameter_value';
    end if;

    store := livestore.lock_store(store_id);
    if backend_id is not null and backend_id <> store.backend_id then
        if store.head > 0 then
            raise exception 'the store % has events already, with the backend id %', to_json(store_id), store.backend_id
                using errcode = 'LS002', detail = json_build_object('expected', store.backend_id, 'received', backend_id),
                    hint = 'A backend id can be taken over by an empty store only.';
        end if;
        update livestore.stores s set backend_id = $3 where s.id = store.id returning s.backend_id into store.backend_id;
        -- Who follows the store has the old one.
        perform livestore.notify_heads(array[store_id], array[null::bigint]);
    end if;

    -- A copy, so that every look is at the same events.
    execute format(
        'create temporary table livestore_import as
         select %s::bigint as seq_num, %s::bigint as parent_seq_num, %s::text as name, %s::text::json as args,
             %s::text as client_id, %s::text as session_id, coalesce(%s::text::timestamptz, clock_timestamp()) as created_at
         from %s order by 1',
        found_columns[1], found_columns[2], found_columns[3], found_columns[4], found_columns[5], found_columns[6],
        coalesce(found_columns[7], 'null'), source
    );
    head := 0;
    for part in
        select min(e.parent_seq_num) as parent, max(e.seq_num) as last,
            json_agg(
                case when e.args is null
                    then json_build_object('name', e.name, 'seqNum', e.seq_num, 'parentSeqNum', e.parent_seq_num, 'clientId', e.client_id, 'sessionId', e.session_id)
                    else json_build_object('name', e.name, 'args', e.args, 'seqNum', e.seq_num, 'parentSeqNum', e.parent_seq_num, 'clientId', e.client_id, 'sessionId', e.session_id)
                end
                order by e.seq_num
            )::text as batch
        from (select i.*, (row_number() over (order by i.seq_num) - 1) / 100 as part from pg_temp.livestore_import i) e
        group by e.part
        order by e.part
    loop
        if part.parent is distinct from head then
            raise exception '% is not an event log: an event that should follow event % names % as its parent', source, head, part.parent
                using errcode = 'LS003',
                    hint = 'The first event has the parent 0, every other the event before it. Nothing was imported.';
        end if;
        plan := livestore.plan_pushes(
            array[store_id], array[part.batch], array[null::text], array[head], array[store.backend_id],
            null, null, null, null, null, null, null
        );
        if plan.sqlstate[1] is not null then
            raise exception '% is not an event log, in what follows event %: %', source, head, plan.message[1]
                using errcode = plan.sqlstate[1], detail = coalesce(plan.detail[1], ''), hint = 'Nothing was imported.';
        end if;
        head := part.last;
    end loop;

    -- What the store has already must be the beginning of the table, or the table a beginning of what it has.
    execute format(
        'select count(*), min(i.seq_num) filter (where e."seqNum" is null or (e."parentSeqNum", e.name, e.args::text, e."clientId", e."sessionId")
             is distinct from (i.parent_seq_num, i.name, i.args::text, i.client_id, i.session_id))
         from pg_temp.livestore_import i
         left join only %s e on e.store = $1 and e."seqNum" = i.seq_num
         where i.seq_num <= $2',
        store.eventlog
    ) into already_there, wrong using store.id, store.head;
    if wrong is null and head > store.head then
        select min(i.seq_num) into wrong from pg_temp.livestore_import i
        where i.seq_num > store.head and i.parent_seq_num < store.head;
    end if;
    if wrong is not null then
        raise exception 'the store % has other events than %, from event % on', to_json(store_id), source, wrong
            using errcode = 'LS001', detail = json_build_object('minimumExpectedNum', store.head, 'providedNum', wrong - 1),
                hint = 'Import into an empty store, or one that has events of this table only. Nothing was imported.';
    end if;

    imported := 0;
    if head > store.head then
        perform livestore.enter_context(store_id, null, null, null);
        update livestore.stores s set head = import_table.head where s.id = store.id;
        execute format(
            'insert into %s
             select $1, i.seq_num, i.parent_seq_num, i.name, i.args, i.client_id, i.session_id, i.created_at
             from pg_temp.livestore_import i where i.seq_num > $2 order by i.seq_num',
            store.eventlog
        ) using store.id, store.head;
        get diagnostics imported = row_count;
        execute format(
            'select count(*)
             from pg_temp.livestore_import i
             join only %s e on e.store = $1 and e."seqNum" = i.seq_num
             where i.seq_num > $2 and (e."parentSeqNum", e.name, e.args::text, e."clientId", e."sessionId", e."createdAt")
                 is not distinct from (i.parent_seq_num, i.name, i.args::text, i.client_id, i.session_id, i.created_at)',
            store.eventlog
        ) into inserted using store.id, store.head;
        if inserted <> (select count(*) from pg_temp.livestore_import i where i.seq_num > store.head) then
            raise exception 'a BEFORE trigger on the event log skipped or changed events'
                using errcode = 'triggered_data_change_violation',
                    hint = 'A hook lets an event pass as it is (return new) or rejects it (raise exception).';
        end if;
        -- As livestore.append does it: with the commit the context is over.
        for hook in
            select distinct t.tgname from pg_trigger t
            where t.tgrelid = store.eventlog and not t.tgisinternal and t.tginitdeferred
        loop
            execute format('set constraints livestore.%I immediate', hook.tgname);
            execute format('set constraints livestore.%I deferred', hook.tgname);
        end loop;
        perform livestore.notify_heads(array[store_id], array[head]);
    end if;
    head := greatest(head, store.head);
    drop table pg_temp.livestore_import;
end
$$;

comment on function livestore.import_table(regclass, text, text) is
'Takes over the event log of another LiveStore backend: copies the events of a table or view with the columns "seqNum", "parentSeqNum", name, args, "clientId", "sessionId" and maybe "createdAt" into a store, whole or not at all, and returns how many it imported, how many were there already, and the head. Idempotent: again, it imports what was added since. backend_id: that of the other backend, so that clients of an empty store go on as if it were the same log. Hooks run. Raises LS001 if the store has other events, LS002 if it has another backend id, LS003 if the events are not a chain';
-- Changes of who is where come one after the other: two devices that join at the same time at two places would miss each
-- other, and connection numbers would not be in the order of the commits.
create or replace function livestore.relay_lock()
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    select pg_advisory_xact_lock(hashtextextended('livestore relay presence', 0))
$$;

comment on function livestore.relay_lock() is 'Internal: held by a transaction that changes who is connected to the peer relay, and where';

create or replace function livestore.relay_notify(sidecar text, body text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    parcel bigint;
begin
    if octet_length(body) < 7900 then
        -- In one transaction, Postgres sends what is the same once only.
        perform pg_notify('livestore_relay_' || sidecar, nextval('livestore.relay_parcels_id_seq') || ':' || body);
    else
        -- One that is being removed gets nothing, and is not waited for.
        insert into livestore.relay_parcels (sidecar, body)
        select s.sidecar, $2 from livestore.relay_sidecars s where s.sidecar = $1 for key share skip locked
        returning id into parcel;
        if found then
            perform pg_notify('livestore_relay_' || sidecar, parcel || ':');
        end if;
    end if;
end
$$;

comment on function livestore.relay_notify(text, text) is
'Internal: sends a sidecar a text of any length on its channel: <number>:<text>, or <id>: of a parcel to fetch';

create or replace function livestore.relay_forget(dead text[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from livestore.relay_sidecars s where s.sidecar = any (dead);
    if found then
        perform livestore.relay_notify(s.sidecar, json_build_object('gone', dead)::text)
        from livestore.relay_sidecars s;
    end if;
end
$$;

comment on function livestore.relay_forget(text[]) is 'Internal: removes sidecars with their devices and parcels, and tells the others';

create or replace function livestore.relay_enter(lease interval, previous text default null)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '4s'
as $$
declare
    sidecar constant text := replace(gen_random_uuid()::text, '-', '');
begin
    perform livestore.relay_lock();
    perform livestore.relay_forget(array[previous]);
    insert into livestore.relay_sidecars values (sidecar, clock_timestamp() + lease);
    return sidecar;
end
$$;

comment on function livestore.relay_enter(interval, text) is
'Makes a sidecar known to the peer relay for as long as it renews its lease, and returns a name for it that nobody had before. previous: its name before, when its connection was lost. What the sidecar uses';

create or replace function livestore.relay_miss(sidecar text, users text[])
returns void
language sql
security definer
set search_path = pg_catalog, pg_temp
as $$
    select livestore.relay_notify(s.sidecar, json_build_object('missed', users)::text)
    from livestore.relay_sidecars s
    where s.sidecar <> $1
$$;

comment on function livestore.relay_miss(text, text[]) is
'Tells all other sidecars of users who have sent messages that could not reach them. What the sidecar uses';

create or replace function livestore.relay_renew(sidecar text, lease interval)
returns boolean
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '4s'
as $$
declare
    is_known boolean;
begin
    perform livestore.relay_lock();
    update livestore.relay_sidecars s set expires_at = clock_timestamp() + lease where s.sidecar = $1;
    is_known := found;
    perform livestore.relay_forget(array_agg(s.sidecar))
    from livestore.relay_sidecars s
    where s.expires_at < clock_timestamp()
    having count(*) > 0;
    -- Deleted rows stay in the file until something overwrites them; this takes them out of it.
    if pg_relation_size('livestore.relay_parcels') > 0 and not exists (select from livestore.relay_parcels) then
        begin
            lock table livestore.relay_parcels in access exclusive mode nowait;
            if not exists (select from livestore.relay_parcels) then
                truncate livestore.relay_parcels;
            end if;
        exception when lock_not_available then
            null;
        end;
    end if;
    return is_known;
end
$$;

comment on function livestore.relay_renew(text, interval) is
'Renews the lease of a sidecar and cleans up after those whose lease is over. False: it is one of them, and has to enter again. What the sidecar uses';

create or replace function livestore.relay_exit(sidecar text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '4s'
as $$
begin
    perform livestore.relay_lock();
    perform livestore.relay_forget(array[sidecar]);
end
$$;

comment on function livestore.relay_exit(text) is 'Removes a sidecar and its devices from the peer relay. What the sidecar uses';

create or replace function livestore.relay_join(sidecar text, users text[], clients text[])
returns setof livestore.relay_device
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '4s'
as $$
declare
    replaced record;
begin
    perform livestore.relay_lock();
    -- A new row and a new number: the greatest tells the newest connection of a device.
    with old as (
        delete from livestore.relay_devices d
        using unnest(users, clients) j(user_id, client_id)
        where d.user_id = j.user_id and d.client_id = j.client_id
        returning d.user_id, d.sidecar
    )
    select coalesce(array_agg(o.user_id), '{}') as users, coalesce(array_agg(o.sidecar), '{}') as sidecars into replaced from old o;
    insert into livestore.relay_devices (user_id, client_id, sidecar)
        select j.user_id, j.client_id, $1 from unnest(users, clients) with ordinality j(user_id, client_id, n) order by j.n;
    perform livestore.relay_notify(
        c.sidecar,
        json_build_object(
            'join', json_agg(json_build_array(d.user_id, d.client_id, d.connection)), 'at', relay_join.sidecar
        )::text
    )
    from (
        select d.user_id, d.sidecar from livestore.relay_devices d where d.user_id = any (users)
        union
        select r.user_id, r.sidecar from unnest(replaced.users, replaced.sidecars) r(user_id, sidecar)
    ) c
    join unnest(users, clients) j(user_id, client_id) on j.user_id = c.user_id
    join livestore.relay_devices d on d.user_id = j.user_id and d.client_id = j.client_id
    where c.sidecar <> relay_join.sidecar
    group by c.sidecar;
    return query
    select d.user_id, d.client_id, d.connection, d.sidecar from livestore.relay_devices d where d.user_id = any (users);
end
$$;

comment on function livestore.relay_join(text, text[], text[]) is
'Makes devices of a sidecar known to the others that have devices of the same users, and returns all devices of these users. What the sidecar uses';

create or replace function livestore.relay_leave(sidecar text, users text[], clients text[], connections bigint[])
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '4s'
as $$
begin
    perform livestore.relay_lock();
    -- Only if nothing has replaced it since.
    delete from livestore.relay_devices d
    using unnest(users, clients, connections) l(user_id, client_id, connection)
    where d.user_id = l.user_id and d.client_id = l.client_id and d.connection = l.connection;
    perform livestore.relay_notify(
        c.sidecar, json_build_object('leave', json_agg(json_build_array(l.user_id, l.client_id, l.connection)))::text
    )
    from (select distinct d.user_id, d.sidecar from livestore.relay_devices d where d.user_id = any (users)) c
    join unnest(users, clients, connections) l(user_id, client_id, connection) on l.user_id = c.user_id
    where c.sidecar <> relay_leave.sidecar
    group by c.sidecar;
end
$$;

comment on function livestore.relay_leave(text, text[], text[], bigint[]) is
'Removes devices that have disconnected, by the numbers of their connections. What the sidecar uses';

create or replace function livestore.relay_send(sidecar text, receivers text[], bodies text[])
returns boolean
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '4s'
as $$
declare
    parcel record;
begin
    -- What is left over of a connection that was lost must not come behind what was sent since.
    perform from livestore.relay_sidecars s where s.sidecar = $1;
    if not found then
        return false;
    end if;
    for parcel in
        select s.receiver, s.body from unnest(receivers, bodies) with ordinality s(receiver, body, n) order by s.n
    loop
        perform livestore.relay_notify(parcel.receiver, parcel.body);
    end loop;
    return true;
end
$$;

comment on function livestore.relay_send(text, text[], text[]) is
'Sends texts of a sidecar to others, in this order; one to a sidecar that is gone is dropped. False: the sender is taken for dead, nothing was sent. What the sidecar uses';

create or replace function livestore.relay_fetch(parcel bigint)
returns text
language sql
security definer
set search_path = pg_catalog, pg_temp
as $$
    delete from livestore.relay_parcels p where p.id = parcel returning p.body
$$;

comment on function livestore.relay_fetch(bigint) is 'Takes a parcel out of livestore.relay_parcels. What the sidecar uses';
create or replace function livestore.relay_key(client_id text, session_id text, event_number text)
returns bigint
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select hashtextextended(json_build_array(client_id, session_id, event_number)::text, 0)
$$;

comment on function livestore.relay_key(text, text, text) is 'Internal: by what an event of the peer relay is found that is pushed again';

-- Arrays and not JSON: Postgres cannot take a JSON text apart that has \u0000 in it, which is legal in a client's string.
create or replace function livestore.relay_append(
    store_id text, names text[], args text[], client_ids text[], session_ids text[], event_numbers text[], timestamps text[],
    payload text default null, headers text default null, claims text default null
)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
set livestore.payload = ''
set livestore.headers = ''
set livestore.claims = ''
as $$
declare
    store livestore.stores;
    known record;
    batch json;
    result livestore.push_result;
begin
    store := livestore.lock_store(store_id);
    -- Those that have the same number, which a device may be pushing again, since it missed the answer.
    select coalesce(array_agg(r.store), '{}') as stores, coalesce(array_agg(r."seqNum"), '{}') as seq_nums into known
    from unnest(client_ids, session_ids, event_numbers) p(client_id, session_id, event_number)
    join livestore.relayed_events r
        on r.store = store.id and r.key = livestore.relay_key(p.client_id, p.session_id, p.event_number);
    with pushed as (
        select * from unnest(names, args, client_ids, session_ids, event_numbers, timestamps)
            with ordinality p(name, args, client_id, session_id, event_number, made_at, n)
    ), fresh as (
        select p.*, row_number() over (order by p.n) as place
        from pushed p
        where not exists (
            select
            from livestore.stored_events(known.stores, known.seq_nums) e
            join livestore.relayed_events r on r.store = e.store and r."seqNum" = e."seqNum"
            where (e.name, e."clientId", e."sessionId") = (p.name, p.client_id, p.session_id)
                and (e.args::text, r.event_number::text, r."timestamp"::text)
                    is not distinct from (p.args, p.event_number, p.made_at)
        )
    ), noted as (
        insert into livestore.relayed_events
        select store.id, store.head + f.place, livestore.relay_key(f.client_id, f.session_id, f.event_number),
            f.event_number::json, f.made_at::json
        from fresh f
    )
    select json_agg(
        case when f.args is null
            then json_build_object(
                'name', f.name, 'seqNum', store.head + f.place, 'parentSeqNum', store.head + f.place - 1,
                'clientId', f.client_id, 'sessionId', f.session_id)
            else json_build_object(
                'name', f.name, 'args', f.args::json, 'seqNum', store.head + f.place, 'parentSeqNum', store.head + f.place - 1,
                'clientId', f.client_id, 'sessionId', f.session_id)
        end
        order by f.place
    ) into batch from fresh f;
    if batch is null then
        return store.head;
    end if;
    select * into result from livestore.append(
        array[store_id], array[batch::text], array[null::text], null, array[payload], array[headers], array[claims]
    );
    if result.sqlstate is not null then
        raise exception '%', result.message
            using errcode = result.sqlstate, detail = coalesce(result.detail, ''), hint = coalesce(result.hint, '');
    end if;
    return result.head;
end
$$;

comment on function livestore.relay_append(text, text[], text[], text[], text[], text[], text[], text, text, text) is
'Appends events of the peer relay to the log of a store, those that it does not have, and returns the new head. Arrays with one element for each event: eventName, data (JSON text, or null for none), clientId, sessionId, eventNumber and timestamp (JSON texts, or null). payload, headers, claims: what hooks may know of the request. Raises LS003 (invalid batch), or what a hook raises. What the sidecar uses';

create or replace function livestore.relay_page(store_id text, after bigint, max_events integer, max_bytes integer)
returns table (seq_num bigint, event json)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select e.seq_num,
        case when e.args is null
            then json_build_object(
                'eventName', e.name, 'eventNumber', coalesce(r.event_number, to_json(e.seq_num)),
                'clientId', e.client_id, 'sessionId', e.session_id, 'timestamp', coalesce(r."timestamp", to_json(t.milliseconds)))
            else json_build_object(
                'eventName', e.name, 'eventNumber', coalesce(r.event_number, to_json(e.seq_num)),
                'clientId', e.client_id, 'sessionId', e.session_id,
                'data', e.args, 'timestamp', coalesce(r."timestamp", to_json(t.milliseconds)))
        end
    from livestore.pull_page(store_id, after, max_events, max_bytes) e
    cross join lateral (select floor(extract(epoch from e.created_at) * 1000)::bigint as milliseconds) t
    left join livestore.relayed_events r
        on r.store = (select s.id from livestore.stores s where s.store_id = $1) and r."seqNum" = e.seq_num
    order by e.seq_num
$$;

comment on function livestore.relay_page(text, bigint, integer, integer) is
'The events of a store after a sequence number, in order, as devices at the peer relay know them: at most max_events, and none after the one that reaches max_bytes. Those that came another way have their seqNum as eventNumber and the time of their append, in milliseconds, as timestamp';
-- Postgres lets everybody execute a new function. Here nobody may, except as listed.
revoke all on all functions in schema livestore from public;

grant usage on schema livestore to livestore_reader;
grant select on livestore.stores, livestore.eventlog_1, livestore.events, livestore.relayed_events to livestore_reader;
grant execute on function
    livestore.backend_id(text),
    livestore.head(text),
    livestore.hash_string(text),
    livestore.table_suffix(text),
    livestore.stream_name(text),
    livestore.pull(text, bigint, integer),
    livestore.pull_page(text, bigint, integer, integer),
    livestore.current_store_id(),
    livestore.current_payload(),
    livestore.current_headers(),
    livestore.current_claims(),
    livestore.relay_page(text, bigint, integer, integer)
to livestore_reader;

-- Nobody may insert into the tables: these functions run with the rights of their owner.
grant execute on function
    livestore.create_store(text, boolean),
    livestore.push(text, json, text),
    livestore.push_batch(text[], text[], text[], text, text[], text[], text[]),
    livestore.commit(text, text, json, text, text),
    livestore.relay_enter(interval, text),
    livestore.relay_miss(text, text[]),
    livestore.relay_renew(text, interval),
    livestore.relay_exit(text),
    livestore.relay_join(text, text[], text[]),
    livestore.relay_leave(text, text[], text[], bigint[]),
    livestore.relay_send(text, text[], text[]),
    livestore.relay_fetch(bigint),
    livestore.relay_append(text, text[], text[], text[], text[], text[], text[], text, text, text)
to livestore_writer;

-- What empties logs is for whoever administers stores, and for a sidecar with an admin secret.
grant execute on function livestore.reset_store(text), livestore.drop_store(text) to livestore_admin;
