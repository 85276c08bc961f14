-- livestore_sync 0.3.0, the portable flavour: psql --set ON_ERROR_STOP=1 --file livestore.sql
begin;
create schema if not exists livestore;
-- The search path contains no schema in which other roles can create objects, so the statements below cannot call a function
-- or an operator of somebody else. The extension's own objects are named with their schema.
set local search_path = pg_catalog, pg_temp;
-- Functions call functions of files that come later.
set local check_function_bodies = off;

do $$
begin
    if current_setting('server_encoding') <> 'UTF8' then
        raise exception 'livestore_sync needs a database with the encoding UTF8, this one has %', current_setting('server_encoding')
            using errcode = 'feature_not_supported', hint = 'Create the database with: create database <name> encoding ''UTF8'' template template0';
    end if;
end
$$;

-- Roles belong to the whole cluster: another database may have them already, or be creating them right now.
do $$
declare
    role_name text;
    wrong text;
begin
    foreach role_name in array array[
        'livestore_owner', 'livestore_hooks', 'livestore_reader', 'livestore_writer', 'livestore_admin'
    ] loop
        begin
            if not exists (select from pg_roles r where r.rolname = role_name) then
                execute format('create role %I nologin', role_name);
            end if;
        exception when duplicate_object or unique_violation then
            null;
        end;
    end loop;
    -- A role with CREATEROLE could have created these roles before, with itself as a member, and would then own what is
    -- created below.
    select string_agg(w.reason, '; ' order by w.reason) into wrong
    from (
        select format('%I has LOGIN, SUPERUSER, CREATEROLE, CREATEDB, REPLICATION or BYPASSRLS', r.rolname) as reason
        from pg_roles r
        where r.rolname in ('livestore_owner', 'livestore_hooks')
            and (r.rolcanlogin or r.rolsuper or r.rolcreaterole or r.rolcreatedb or r.rolreplication or r.rolbypassrls)
        union all
        select format('%I is a member of %I', u.rolname, r.rolname)
        from pg_auth_members m
        join pg_roles r on r.oid = m.roleid and r.rolname in ('livestore_owner', 'livestore_hooks')
        -- The role that installs the portable flavour is a member until the end of the script. From Postgres 16 on, the role
        -- that created another one with CREATEROLE is its member with the ADMIN option only: it may grant that role, but
        -- neither inherits nor sets it.
        join pg_roles u on u.oid = m.member and not u.rolsuper and u.rolname <> current_user
        where coalesce((to_jsonb(m) ->> 'inherit_option')::boolean, true) or coalesce((to_jsonb(m) ->> 'set_option')::boolean, true)
    ) w;
    if wrong is not null then
        raise exception 'the roles livestore_owner and livestore_hooks must be nobody''s: %', wrong
            using errcode = 'invalid_grant_operation',
                hint = 'livestore_owner owns everything in the schema livestore, livestore_hooks runs triggers. Revoke the memberships (revoke … from …), take the attributes away (alter role … nologin nosuperuser …), then try again.';
    end if;
    if not pg_has_role('livestore_writer'::name, 'livestore_reader'::name, 'usage'::text) then
        grant livestore_reader to livestore_writer;
    end if;
    if not pg_has_role('livestore_admin'::name, 'livestore_writer'::name, 'usage'::text) then
        grant livestore_writer to livestore_admin;
    end if;
    if not pg_has_role('livestore_hooks'::name, 'livestore_reader'::name, 'usage'::text) then
        grant livestore_reader to livestore_hooks;
    end if;
end
$$;

-- A role that owns the schema, may create in it, or owns something in it could plant functions for the extension to call.
do $$
declare
    schema_acl aclitem[];
    schema_owner oid;
    is_fresh boolean;
    strangers text;
begin
    select n.nspowner, n.nspacl into schema_owner, schema_acl from pg_namespace n where n.nspname = 'livestore';
    if not exists (
        select from pg_roles r
        where r.oid = schema_owner and (r.rolsuper or r.rolname in (current_user, 'livestore_owner'))
    ) then
        raise exception 'the schema livestore belongs to %, who could replace what the extension calls', schema_owner::regrole
            using errcode = 'insufficient_privilege',
                hint = format('Look at what is in the schema, then run: alter schema livestore owner to %I', current_user);
    end if;
    select string_agg(case a.grantee when 0 then 'public' else a.grantee::regrole::text end, ', ') into strangers
    from aclexplode(schema_acl) a
    left join pg_roles r on r.oid = a.grantee
    where a.privilege_type = 'CREATE' and a.grantee <> schema_owner
        and not coalesce(r.rolsuper or r.rolname = 'livestore_owner', false);
    if strangers is not null then
        raise exception 'others may create objects in the schema livestore: %', strangers
            using errcode = 'insufficient_privilege',
                hint = format('Create the schema beforehand if it does not exist, then run: revoke create on schema livestore from %s', strangers);
    end if;

    -- A function of that name may be anybody's, but not one of that owner.
    select not exists (
        select from pg_depend m
        join pg_extension e on m.refclassid = 'pg_extension'::regclass and m.refobjid = e.oid
        where e.extname = 'livestore_sync' and m.deptype = 'e'
    ) and not exists (
        select from pg_proc p
        where p.pronamespace = 'livestore'::regnamespace and p.proname = 'flavour' and p.proowner = 'livestore_owner'::regrole
    ) into is_fresh;
    -- An object without an owner in pg_shdepend belongs to the superuser who made the cluster.
    select string_agg(
            format('%s (of %s)', pg_describe_object(d.classid, d.objid, d.objsubid), coalesce(r.rolname, 'a superuser')), ', '
        )
    into strangers
    from pg_depend d
    left join pg_shdepend s on s.dbid = (select b.oid from pg_database b where b.datname = current_database())
        and s.classid = d.classid and s.objid = d.objid and s.deptype = 'o'
    left join pg_roles r on r.oid = s.refobjid
    where d.refclassid = 'pg_namespace'::regclass and d.refobjid = 'livestore'::regnamespace and d.deptype = 'n'
        and d.classid not in ('pg_extension'::regclass, 'pg_default_acl'::regclass)
        and (is_fresh or not coalesce(r.rolsuper or r.rolname in (current_user, 'livestore_owner', 'livestore_hooks'), s.refobjid is null));
    if strangers is not null then
        raise exception 'the schema livestore has objects that the extension could take for its own: %', strangers
            using errcode = 'duplicate_object', hint = 'Drop them, or move them to another schema, then try again.';
    end if;
end
$$;

do $$
begin
    if exists (
        select from pg_proc p
        join pg_language l on l.oid = p.prolang and l.lanname = 'c'
        join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
        where p.pronamespace = 'livestore'::regnamespace
    ) then
        raise exception 'the native flavour is installed in this database'
            using errcode = 'object_not_in_prerequisite_state',
                hint = 'Update it by: alter extension livestore_sync update. To have the portable flavour instead: livestore-sidecar install --flavour portable';
    end if;
end
$$;
-- Makes the current role a member of livestore_owner and livestore_hooks until the end of this script: without superuser, a
-- role can only give objects to roles of which it is a member.
do $$
declare
    options constant text := case when current_setting('server_version_num')::integer >= 160000 then ' with inherit true, set true' else '' end;
    role_name text;
begin
    if (select r.rolsuper from pg_roles r where r.rolname = current_user) then
        return;
    end if;
    foreach role_name in array array['livestore_owner', 'livestore_hooks'] loop
        if not pg_has_role(role_name::name, 'usage'::text) then
            execute format('grant %I to %I%s', role_name, current_user, options);
            perform set_config('livestore.joined_' || role_name, 'on', true);
        end if;
    end loop;
exception when insufficient_privilege then
    raise exception 'the role % may not become a member of livestore_owner and livestore_hooks', current_user
        using errcode = 'insufficient_privilege',
            hint = format('Install with a role that has CREATEROLE and that created these roles, or let their administrator run: grant livestore_owner, livestore_hooks to %I; and revoke both afterwards.', current_user);
end
$$;
-- Takes all locks before anything changes. One by one, as each statement needs them, they would be taken in another order than pushes and
-- readers take them, and end in deadlocks. Each try ends before a deadlock is looked for, and lets go of what it has: whoever pushes waits
-- for a moment only, even if some transaction stays open for long.
do $$
declare
    relations text;
    ids oid[];
    patience interval := coalesce(nullif(current_setting('livestore.wait_for_locks', true), ''), '60 seconds');
    begun timestamptz := clock_timestamp();
    before text := current_setting('lock_timeout');
    long_try timestamptz := '-infinity';
    holders text;
begin
    -- In the order of pushes. A view locks what it is of, too, and with livestore.events the tables of single stores. Views of others, in
    -- this schema, would lock tables of others.
    select array_agg(c.oid), string_agg(
            c.oid::regclass::text, ', '
            order by array_position('{stores,eventlog_1,events}'::text[], c.relname::text) nulls last, c.relkind desc, c.relname
        )
    into ids, relations
    from pg_class c
    where c.relnamespace = to_regnamespace('livestore') and c.relkind in ('r', 'v')
        and not exists (select from pg_inherits i where i.inhrelid = c.oid)
        and (
            c.relowner = to_regrole('livestore_owner')
            or exists (
                select from pg_depend d join pg_extension e on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid
                where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e' and e.extname = 'livestore_sync'
            )
        );
    if relations is null then
        return;
    end if;
    loop
        -- Postgres ends an autovacuum that somebody waits for, but only when it looks for a deadlock. So a try that meets one, or another
        -- VACUUM, waits for longer; not more than every ten seconds.
        if long_try < clock_timestamp() - interval '10 seconds' and exists (
            select from pg_locks l
            where l.granted and l.mode = 'ShareUpdateExclusiveLock' and l.relation = any(ids)
                and l.database = (select d.oid from pg_database d where d.datname = current_database())
        ) then
            long_try := clock_timestamp();
            perform set_config(
                'lock_timeout', (extract(epoch from current_setting('deadlock_timeout')::interval) * 1000 + 500)::bigint || 'ms', true
            );
        else
            perform set_config('lock_timeout', '300ms', true);
        end if;
        begin
            execute 'lock table ' || relations || ' in access exclusive mode';
            exit;
        exception when lock_not_available or deadlock_detected then
            if clock_timestamp() > begun + patience then
                select string_agg(distinct coalesce('process ' || l.pid, 'prepared transaction ' || quote_literal(p.gid)), ', ') into holders
                from pg_locks l
                left join pg_prepared_xacts p on l.virtualtransaction = '-1/' || p.transaction
                where l.granted and l.pid is distinct from pg_backend_pid() and l.relation = any(ids)
                    and l.database = (select d.oid from pg_database d where d.datname = current_database());
                raise exception 'transactions that use livestore_sync stay open: no lock on its tables within %', patience
                    using errcode = 'lock_not_available',
                        detail = format('Locks are held by: %s.', coalesce(holders, 'nobody any more')),
                        hint = 'select * from pg_stat_activity shows what processes do. End them (a prepared transaction: rollback prepared), or wait for longer: set livestore.wait_for_locks = ''10min''';
            end if;
        end;
        -- Others go first.
        perform pg_sleep(0.05 + random() * 0.2);
    end loop;
    perform set_config('lock_timeout', before, true);
end
$$;
do $install$
begin
    if to_regclass('livestore.stores') is null then
        execute $schema$
comment on schema livestore is 'LiveStore event logs: stores, their events, and the functions that append and read';

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

-- The name that toTableName of @livestore/sync-electric makes of a store id: JavaScript replaces UTF-16 units, so a character outside
-- the basic plane becomes two underscores. 52: with the 11 characters before it a name has the 63 that Postgres allows.
create function livestore.table_suffix(store_id text)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    escaped text := regexp_replace(regexp_replace(store_id, '[' || chr(65536) || '-' || chr(1114111) || ']', '__', 'g'), '[^a-zA-Z0-9_]', '_', 'g');
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
    return left(regexp_replace(regexp_replace(store_id, '[' || chr(65536) || '-' || chr(1114111) || ']', '--', 'g'), '[^a-zA-Z0-9_-]', '-', 'g'), 100);
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

-- For those who replicate the event logs: a row of livestore.stores changes with every push, a row of this table never does.
create table livestore.store_names (
    store bigint primary key,
    store_id text not null
);

comment on table livestore.store_names is 'The store of each number in the event logs, for change data capture: written once for each life of a store, and removed by a reset or a drop. Follows livestore.stores';
comment on column livestore.store_names.store is 'livestore.stores.id';
comment on column livestore.store_names.store_id is 'The storeId of LiveStore clients';

create table livestore.commit_keys (
    store bigint,
    key text,
    seq_num bigint not null,
    primary key (store, key)
);

comment on table livestore.commit_keys is 'The keys of livestore.commit, kept as long as the log. Written by functions only';
comment on column livestore.commit_keys.store is 'livestore.stores.id';
comment on column livestore.commit_keys.key is 'The key';
comment on column livestore.commit_keys.seq_num is 'The event that was committed with it';

create view livestore.events with (security_barrier = true) as
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
    created_at timestamptz not null default now(),
    max_ahead bigint not null default 2147483648 check (max_ahead >= 0),
    heads_key text not null default gen_random_uuid()::text,
    legacy_notify boolean not null default false,
    keep_commits interval not null default '7 days',
    pruned_commits bigint not null default 0,
    rewrite_key text not null default gen_random_uuid()::text
);

comment on table livestore.instance is 'What backend ids are derived from. After a restore there are two rows, and the older one, which came with the data, counts';
comment on column livestore.instance.seed is 'A random text';
comment on column livestore.instance.created_at is 'When the extension was created';
comment on column livestore.instance.max_ahead is 'How far ahead of the head of its log an event may be that leaves a gap: a push beyond is invalid. Clients of LiveStore leave no gaps';

-- They have no key, and a publication of all tables needs something by which to tell a row that was deleted or changed.
alter table livestore.dropped_stores replica identity full;
alter table livestore.instance replica identity full;
comment on column livestore.instance.heads_key is 'What livestore.store_digest is made with';
comment on column livestore.instance.legacy_notify is 'Whether commits are told on the channel livestore, too, unless the setting livestore.legacy_notify says otherwise';
comment on column livestore.instance.keep_commits is 'Sidecars remove entries of livestore.commits that are older';
comment on column livestore.instance.rewrite_key is 'What livestore._digest is made with';
comment on column livestore.instance.pruned_commits is 'Up to this position, entries of livestore.commits were removed';

insert into livestore.instance default values;

-- The commit log: a position for every event of every store, in the order in which commits become visible. A transaction takes its
-- positions when it commits (extension/src/commit_log.rs).
create sequence livestore.commit_positions;

comment on sequence livestore.commit_positions is 'The last position of livestore.commits';

create table livestore.commits (
    first_position bigint not null,
    position bigint primary key,
    stores bigint[] not null,
    upto bigint[] not null,
    events integer[] not null,
    committed_at timestamptz not null,
    changes text[],
    store_ids text[]
);

comment on table livestore.commits is 'The commit log: what each commit has appended or changed. A reader that has read up to a position will never find a smaller one later. Written by functions only; read it with livestore.read_all';
comment on column livestore.commits.first_position is 'First position of this commit: it has a position for each event, and one for each other change, in a row';
comment on column livestore.commits.position is 'Last position of this commit';
comment on column livestore.commits.stores is 'livestore.stores.id of each store that it has appended to or changed; its positions are in this order, those of a store in the order of its log';
comment on column livestore.commits.upto is 'For each store: the head of its log afterwards; for a change, livestore.stores.id afterwards, or 0 if the store was dropped; for a rewrite, the event';
comment on column livestore.commits.events is 'For each store: the number of events that were appended, which are the last ones up to that head; 1 for a change';
comment on column livestore.commits.committed_at is 'When the transaction committed';
comment on column livestore.commits.changes is 'Null if this commit has only appended. Else for each store: null where it has appended, and reset, drop, move, renew or rewrite where the store was reset, dropped, moved to a dedicated table or given a new backend id, or where an event was rewritten';
comment on column livestore.commits.store_ids is 'The same for the ids of the stores that were changed';

create unlogged table livestore.commit_turn ();

comment on table livestore.commit_turn is 'Empty. Locked by a transaction that takes its positions, until its commit is visible: a lock that only its owner can take';

create table livestore.versions (
    id bigint generated always as identity primary key,
    version text not null,
    flavour text not null,
    installed_at timestamptz not null default now(),
    installed_by text not null default session_user
);

comment on table livestore.versions is 'The versions and flavours of livestore_sync that were installed here, in this order';
comment on column livestore.versions.id is 'Number of the installation';
comment on column livestore.versions.version is 'As livestore.version() says it';
comment on column livestore.versions.flavour is 'As livestore.flavour() says it';
comment on column livestore.versions.installed_at is 'When it was installed';
comment on column livestore.versions.installed_by is 'The role that installed it';

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
-- The state that sidecars share about the devices at the peer relay. Nothing here outlives a crash, nor has to: a device that
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

create unlogged table livestore.relay_presence ();

comment on table livestore.relay_presence is 'Empty. Locked by a transaction that changes who is connected to the peer relay: a lock that only its owner can take';

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
-- Durable subscriptions: consumers that the database remembers.
create table livestore.subscribers (
    name text primary key check (char_length(name) between 1 and 200),
    names text[],
    stores text,
    partitions integer not null check (partitions between 1 and 256),
    max_failures integer not null check (max_failures between 1 and 1000),
    handler text,
    handler_owner text,
    url text check (url ~ '^https?://' and octet_length(url) <= 2048),
    created_at timestamptz not null default now(),
    started_at timestamptz not null default clock_timestamp(),
    is_restarting boolean not null default false,
    check (handler is null or url is null)
);

comment on table livestore.subscribers is 'The durable subscriptions as livestore.subscribe made them; livestore.subscriptions shows how far they are';
comment on column livestore.subscribers.name is 'Name of the subscription';
comment on column livestore.subscribers.names is 'Names of the events that it gets; null: of all';
comment on column livestore.subscribers.stores is 'Pattern of LIKE for the ids of the stores that it gets events of; null: of all';
comment on column livestore.subscribers.partitions is 'Number of its partitions: as many workers can share it. All events of a store are in one partition';
comment on column livestore.subscribers.max_failures is 'Number of failures after which an event becomes a dead letter';
comment on column livestore.subscribers.handler is 'Function that livestore.run_subscription calls with each event, as regprocedure shows it. Text, because pg_upgrade refuses a column of type regprocedure';
comment on column livestore.subscribers.handler_owner is 'Its owner. A function of that name that somebody else has made since is not called';
comment on column livestore.subscribers.url is 'Address that sidecars send the events to. Without one and without a handler the workers are programs';
comment on column livestore.subscribers.created_at is 'When it was made';
comment on column livestore.subscribers.started_at is 'When it was made or rebuilt last';
comment on column livestore.subscribers.is_restarting is 'Whether this transaction rebuilds it. False in all others';

create table livestore.subscription_partitions (
    subscription text not null references livestore.subscribers on delete cascade,
    "partition" integer not null,
    "position" bigint not null,
    lease text unique,
    leased_until timestamptz,
    batch_size integer,
    batch_end bigint,
    batch_store bigint,
    dead_letter bigint,
    one_by_one integer not null default 0,
    failures integer not null default 0,
    retry_at timestamptz,
    error text,
    polled_at timestamptz,
    primary key (subscription, "partition")
)
with (fillfactor = 50);

comment on table livestore.subscription_partitions is 'The state of each partition of a subscription. Written by functions only';
comment on column livestore.subscription_partitions.subscription is 'Name of the subscription';
comment on column livestore.subscription_partitions."partition" is 'Number of the partition, from 0';
comment on column livestore.subscription_partitions."position" is 'Everything up to this position of the commit log is acknowledged';
comment on column livestore.subscription_partitions.lease is 'Lease of the worker that has the next events; null: none was given out, or it was given back';
comment on column livestore.subscription_partitions.leased_until is 'When the lease ends by itself, which counts as a failure';
comment on column livestore.subscription_partitions.batch_size is 'Number of events that were given out and are not acknowledged. If they are given out again, it is as many';
comment on column livestore.subscription_partitions.batch_end is 'Position of the last of these events; in the history, its sequence number';
comment on column livestore.subscription_partitions.batch_store is 'If these events are of the history: livestore.stores.id of the last of them';
comment on column livestore.subscription_partitions.dead_letter is 'If a dead letter was given out again: its number';
comment on column livestore.subscription_partitions.one_by_one is 'So many next events are given out one by one, since one of them fails';
comment on column livestore.subscription_partitions.failures is 'How often these events have failed';
comment on column livestore.subscription_partitions.retry_at is 'They are not given out again before';
comment on column livestore.subscription_partitions.error is 'The last error that a worker has told; null once it has acknowledged events';
comment on column livestore.subscription_partitions.polled_at is 'When a worker was last here';

create table livestore.subscription_history (
    subscription text not null references livestore.subscribers on delete cascade,
    "partition" integer not null,
    store bigint not null,
    after bigint not null,
    upto bigint not null,
    primary key (subscription, "partition", store)
);

comment on table livestore.subscription_history is 'What a subscription that starts at the beginning has yet to get of events from before it was made: a row for each store. Written by functions only';
comment on column livestore.subscription_history.subscription is 'Name of the subscription';
comment on column livestore.subscription_history."partition" is 'Number of the partition';
comment on column livestore.subscription_history.store is 'livestore.stores.id';
comment on column livestore.subscription_history.after is 'Everything up to this sequence number is acknowledged';
comment on column livestore.subscription_history.upto is 'The last event of the history; those that come later have a position';

create table livestore.dead_letters (
    id bigint generated always as identity primary key,
    subscription text not null references livestore.subscribers on delete cascade,
    "partition" integer not null,
    "position" bigint,
    store_id text not null,
    seq_num bigint,
    name text,
    args json,
    client_id text,
    session_id text,
    created_at timestamptz,
    change text,
    failures integer not null,
    error text,
    failed_at timestamptz not null default clock_timestamp(),
    is_queued boolean not null default false
);
create index on livestore.dead_letters (subscription, "partition", id) where is_queued;

comment on table livestore.dead_letters is 'Events that a subscription has given up. livestore.resend gives one out again. Written by functions only';
comment on column livestore.dead_letters.id is 'Number of the dead letter';
comment on column livestore.dead_letters.subscription is 'Name of the subscription';
comment on column livestore.dead_letters."partition" is 'Its partition';
comment on column livestore.dead_letters."position" is 'As livestore.poll returned it';
comment on column livestore.dead_letters.store_id is 'As livestore.poll returned it';
comment on column livestore.dead_letters.seq_num is 'As livestore.poll returned it';
comment on column livestore.dead_letters.name is 'As livestore.poll returned it';
comment on column livestore.dead_letters.args is 'As livestore.poll returned it';
comment on column livestore.dead_letters.client_id is 'As livestore.poll returned it';
comment on column livestore.dead_letters.session_id is 'As livestore.poll returned it';
comment on column livestore.dead_letters.created_at is 'As livestore.poll returned it';
comment on column livestore.dead_letters.change is 'As livestore.poll returned it';
comment on column livestore.dead_letters.failures is 'How often it has failed';
comment on column livestore.dead_letters.error is 'The last error that a worker has told';
comment on column livestore.dead_letters.failed_at is 'When it was given up';
comment on column livestore.dead_letters.is_queued is 'Whether it is to be given out again';

create view livestore.subscriptions with (security_barrier = true) as
select
    s.name, s.names, s.stores, s.partitions,
    p."position",
    coalesce(c.last, p."position") - p."position" as lag_events,
    case when coalesce(c.last, 0) > p."position" then
        extract(epoch from clock_timestamp() - (
            select k.committed_at from livestore.commits k where k.position > p."position" order by k.position limit 1
        ))::float8
    else 0 end as lag_seconds,
    (select count(*) from livestore.subscription_history h where h.subscription = s.name) as history_stores,
    p.failures, p.error,
    (select count(*) from livestore.dead_letters d where d.subscription = s.name) as dead_letters,
    p.polled_at, s.created_at
from livestore.subscribers s
cross join lateral (
    select min(q."position") as "position", sum(q.failures)::bigint as failures, max(q.polled_at) as polled_at,
        (array_agg(q.error order by q.polled_at desc nulls last) filter (where q.error is not null))[1] as error
    from livestore.subscription_partitions q where q.subscription = s.name
) p
cross join (select max(k.position) as last from livestore.commits k) c;

comment on view livestore.subscriptions is 'Durable subscriptions, and how far they are';
comment on column livestore.subscriptions.name is 'Name of the subscription';
comment on column livestore.subscriptions.names is 'Names of the events that it gets; null: of all';
comment on column livestore.subscriptions.stores is 'Pattern of LIKE for the ids of the stores that it gets events of; null: of all';
comment on column livestore.subscriptions.partitions is 'Number of its partitions';
comment on column livestore.subscriptions."position" is 'Everything up to this position is acknowledged, in the slowest partition';
comment on column livestore.subscriptions.lag_events is 'Positions behind the last commit, in the slowest partition. Events of other names and stores count, too, until a worker has polled past them';
comment on column livestore.subscriptions.lag_seconds is 'Age of the first commit that it has not passed';
comment on column livestore.subscriptions.history_stores is 'Stores of which it has yet to get events from before it was made';
comment on column livestore.subscriptions.failures is 'Failures of the events that are to come next';
comment on column livestore.subscriptions.error is 'The last error that a worker has told; null once it has acknowledged events';
comment on column livestore.subscriptions.dead_letters is 'Number of its dead letters';
comment on column livestore.subscriptions.polled_at is 'When a worker last polled';
comment on column livestore.subscriptions.created_at is 'When it was made';

create type livestore.polled_event as (
    lease text,
    "partition" integer,
    "position" bigint,
    store_id text,
    seq_num bigint,
    name text,
    args json,
    client_id text,
    session_id text,
    created_at timestamptz,
    change text,
    failures integer
);

comment on type livestore.polled_event is 'An event that livestore.poll gives out';
comment on column livestore.polled_event.lease is 'The lease, for livestore.ack and livestore.nack: the same for all events of a call';
comment on column livestore.polled_event."partition" is 'The partition of the subscription';
comment on column livestore.polled_event."position" is 'Position in the commit log; null for an event from before the subscription was made';
comment on column livestore.polled_event.store_id is 'The store';
comment on column livestore.polled_event.seq_num is 'As in livestore.events; null for a change other than rewrite';
comment on column livestore.polled_event.name is 'As in livestore.events; null for a change';
comment on column livestore.polled_event.args is 'As in livestore.events';
comment on column livestore.polled_event.client_id is 'As in livestore.events; null for a change';
comment on column livestore.polled_event.session_id is 'As in livestore.events; null for a change';
comment on column livestore.polled_event.created_at is 'As in livestore.events; null for a change';
comment on column livestore.polled_event.change is 'Null, or reset, drop, move, renew or rewrite: the store was reset, dropped, moved to a dedicated table or given a new backend id, or the event seq_num was rewritten';
comment on column livestore.polled_event.failures is 'How often these events have failed before';
create table livestore.event_types (
    name text,
    version integer,
    schema json not null,
    mode text not null check (mode in ('check', 'enforce', 'off')),
    defined_at timestamptz not null default clock_timestamp(),
    defined_by text not null default session_user,
    primary key (name, version)
);

comment on table livestore.event_types is 'What is known of the args of events, a row for each version of a schema; the last one counts. Written by livestore.define_event';
comment on column livestore.event_types.name is 'Name of the event';
comment on column livestore.event_types.version is 'From 1; a schema that differs from the last one is a new version';
comment on column livestore.event_types.schema is 'JSON Schema of args';
comment on column livestore.event_types.mode is 'check, enforce or off: see livestore.define_event';
comment on column livestore.event_types.defined_at is 'When this version was defined';
comment on column livestore.event_types.defined_by is 'The role that defined it';

create table livestore.found_misfits (
    store bigint,
    seq_num bigint,
    name text not null,
    version integer not null,
    reason text not null,
    found_at timestamptz not null default clock_timestamp(),
    primary key (store, seq_num)
);

comment on table livestore.found_misfits is 'The events of livestore.misfits. Written by functions only';
comment on column livestore.found_misfits.store is 'livestore.stores.id';
comment on column livestore.found_misfits.seq_num is 'The event';
comment on column livestore.found_misfits.name is 'Its name';
comment on column livestore.found_misfits.version is 'The version of the schema that it does not fit';
comment on column livestore.found_misfits.reason is 'Why not, without what is in args';
comment on column livestore.found_misfits.found_at is 'When this was found';

create view livestore.misfits as
select n.store_id, m.seq_num, m.name, m.version, m.reason, m.found_at
from livestore.found_misfits m
join livestore.store_names n on n.store = m.store;

comment on view livestore.misfits is 'Events whose args do not fit the schema of livestore.define_event, found when they were pushed or by livestore.check_events';
comment on column livestore.misfits.store_id is 'The storeId of LiveStore clients';
comment on column livestore.misfits.seq_num is 'The event';
comment on column livestore.misfits.name is 'Its name';
comment on column livestore.misfits.version is 'The version of the schema that it does not fit';
comment on column livestore.misfits.reason is 'Why not, without what is in args';
comment on column livestore.misfits.found_at is 'When this was found';
create table livestore.rewritten_events (
    id bigint generated always as identity primary key,
    store_id text not null,
    store bigint not null,
    seq_num bigint not null,
    digest bytea not null,
    reason text,
    rewritten_at timestamptz not null default clock_timestamp(),
    rewritten_by text not null default session_user
);
create index on livestore.rewritten_events (store, seq_num);

comment on table livestore.rewritten_events is 'The events of livestore.rewrites, with digests of what they were. Written by functions only';
comment on column livestore.rewritten_events.id is 'Number of the rewrite';
comment on column livestore.rewritten_events.store_id is 'The store';
comment on column livestore.rewritten_events.store is 'livestore.stores.id at that time';
comment on column livestore.rewritten_events.seq_num is 'The event';
comment on column livestore.rewritten_events.digest is 'livestore._digest of the event before: a client that pushes it once more, because no answer has reached it, is told that the log has it';
comment on column livestore.rewritten_events.reason is 'Why, as whoever did it has said';
comment on column livestore.rewritten_events.rewritten_at is 'When';
comment on column livestore.rewritten_events.rewritten_by is 'The role that did it';

create view livestore.rewrites as
select r.store_id, r.seq_num, r.reason, r.rewritten_at, r.rewritten_by from livestore.rewritten_events r;

comment on view livestore.rewrites is 'The events that livestore.rewrite_event and livestore.erase have changed: which, when, by whom and why, and not what they were. Stays when the store is reset or dropped';
comment on column livestore.rewrites.store_id is 'The store';
comment on column livestore.rewrites.seq_num is 'The event';
comment on column livestore.rewrites.reason is 'Why, as whoever did it has said';
comment on column livestore.rewrites.rewritten_at is 'When';
comment on column livestore.rewrites.rewritten_by is 'The role that did it';
-- 72: the header of a row, three numbers, the time, and padding; 28: the entry of the primary key.
create view livestore.store_sizes as
select s.store_id, e.events, e.bytes, e.first_event_at, e.last_event_at, s.eventlog <> 'livestore.eventlog_1'::regclass as own_table
from livestore.stores s
cross join lateral (
    select count(*) as events,
        coalesce(sum(
            72 + 28 + pg_column_size(l.name) + coalesce(pg_column_size(l.args), 0) + pg_column_size(l."clientId") + pg_column_size(l."sessionId")
        ), 0)::bigint as bytes,
        min(l."createdAt") as first_event_at, max(l."createdAt") as last_event_at
    from livestore.eventlog_1 l
    where l.store = s.id
) e;

comment on view livestore.store_sizes is 'How many events each store has, and what they take. Reads all events of the stores that are asked for';
comment on column livestore.store_sizes.store_id is 'The storeId of LiveStore clients';
comment on column livestore.store_sizes.events is 'How many events it has';
comment on column livestore.store_sizes.bytes is 'What they take in the table and its primary key, estimated from their columns as they are stored';
comment on column livestore.store_sizes.first_event_at is 'The createdAt of the oldest event; null without events';
comment on column livestore.store_sizes.last_event_at is 'The createdAt of the newest event; null without events';
comment on column livestore.store_sizes.own_table is 'Whether it has a dedicated table';

create view livestore.daily_growth as
select (l."createdAt" at time zone 'UTC')::date as day, count(*) as events, count(distinct l.store) as stores,
    sum(
        72 + 28 + pg_column_size(l.name) + coalesce(pg_column_size(l.args), 0) + pg_column_size(l."clientId") + pg_column_size(l."sessionId")
    )::bigint as bytes
from livestore.eventlog_1 l
group by 1;

comment on view livestore.daily_growth is 'How many events each day has brought, of those that are still there. Reads all events';
comment on column livestore.daily_growth.day is 'In UTC';
comment on column livestore.daily_growth.events is 'How many events of this day there are';
comment on column livestore.daily_growth.stores is 'In how many stores';
comment on column livestore.daily_growth.bytes is 'What they take, as in livestore.store_sizes';
$schema$;
    end if;
end
$install$;
-- Writing from SQL.
create or replace function livestore.commit(
    store_id text, name text, args json default null, client_id text default 'server', session_id text default 'sql',
    expected_head bigint default null, key text default null
)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    store livestore.stores;
    committed bigint;
begin
    perform livestore._check_commit(array[store_id], name, array[key]);
    store := livestore._lock_store(store_id);
    if key is not null then
        committed := (select k.seq_num from livestore.commit_keys k where k.store = store.id and k.key = commit.key);
        if committed is not null then
            return committed;
        end if;
    end if;
    perform livestore._check_args(array[name], array[args]);
    if expected_head <> store.head then
        raise exception 'the head of the log is %, and not %', store.head, expected_head
            using errcode = 'LS001', detail = json_build_object('minimumExpectedNum', store.head, 'providedNum', expected_head);
    end if;
    committed := livestore.push(store_id, json_build_array(livestore._event_after(store.head, name, args, client_id, session_id)));
    if key is not null then
        insert into livestore.commit_keys (store, key, seq_num) values (store.id, key, committed);
    end if;
    return committed;
end
$$;

comment on function livestore.commit(text, text, json, text, text, bigint, text) is
'Appends one event at the head of the log of a store, from SQL, and returns its seq_num. args null: an event without args. expected_head: raises LS001 unless the log has this head (0: it is empty). key: if this log has an event that was committed with this key, of at most 1024 bytes, returns its seq_num and commits nothing. The event takes effect, and reaches live clients, when the transaction commits; until then, other writers to this store wait';

-- For literals and parameters without a type, and for jsonb. Only the form above has a default for args, so that each call has one form.
create or replace function livestore.commit(
    store_id text, name text, args text, client_id text default 'server', session_id text default 'sql',
    expected_head bigint default null, key text default null
)
returns bigint
language sql
set search_path = pg_catalog, pg_temp
as $$
    select livestore.commit(store_id, name, args::json, client_id, session_id, expected_head, key)
$$;

comment on function livestore.commit(text, text, text, text, text, bigint, text) is 'livestore.commit with args as text';

create or replace function livestore.commit(
    store_id text, name text, args jsonb, client_id text default 'server', session_id text default 'sql',
    expected_head bigint default null, key text default null
)
returns bigint
language sql
set search_path = pg_catalog, pg_temp
as $$
    select livestore.commit(store_id, name, args::json, client_id, session_id, expected_head, key)
$$;

comment on function livestore.commit(text, text, jsonb, text, text, bigint, text) is 'livestore.commit with args as jsonb';

create or replace function livestore.commit_many(
    store_ids text[], name text, args json[] default null, keys text[] default null, client_id text default 'server',
    session_id text default 'sql'
)
returns table (store_id text, seq_num bigint)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    seq_nums bigint[];
    are_new boolean[];
    problem livestore.push_result;
begin
    perform livestore._check_commit(store_ids, name, keys);
    if cardinality(args) not in (1, cardinality(store_ids)) or cardinality(keys) <> cardinality(store_ids) then
        raise exception 'args must have one element or as many as store_ids, and keys as many as store_ids'
            using errcode = 'invalid_parameter_value';
    end if;
    perform livestore._register_stores(store_ids);
    perform s.id from livestore.stores s where s.store_id = any (store_ids) order by s.store_id collate "C" for update;
    -- They were dropped while this waited. Nothing is locked twice: that could deadlock.
    if exists (
        select from unnest(store_ids) u(store_id) where not exists (select from livestore.stores s where s.store_id = u.store_id)
    ) then
        raise exception 'another transaction has dropped one of the stores' using errcode = 'lock_not_available', hint = 'Try again.';
    end if;
    -- Of several with one key in this call, the first is committed, and the others have its number.
    select array_agg(coalesce(p.known, p.first_seq_num) order by p.n), array_agg(p.is_new order by p.n)
    into seq_nums, are_new
    from (
        select w.n, w.known, w.is_new, case when w.is_new then w.seq_num else min(w.seq_num) filter (where w.is_new) over (
            partition by w.id, w.key
        ) end as first_seq_num
        from (
            select f.*, f.head + count(*) filter (where f.is_new) over (partition by f.id order by f.n) as seq_num
            from (
                select u.n, u.key, s.id, s.head, k.seq_num as known,
                    k.seq_num is null and (u.key is null or u.n = min(u.n) over (partition by s.id, u.key)) as is_new
                from unnest(store_ids, keys) with ordinality u(store_id, key, n)
                join livestore.stores s on s.store_id = u.store_id
                left join livestore.commit_keys k on k.store = s.id and k.key = u.key
            ) f
        ) w
    ) p;
    -- Each once: only what is new, and args that are for all are the same.
    perform livestore._check_args(
        array(
            select case when u.is_new and (u.n = 1 or cardinality(args) > 1) then name end
            from unnest(are_new) with ordinality u(is_new, n) order by u.n
        ),
        array(
            select a.value from unnest(are_new) with ordinality u(is_new, n)
            left join unnest(args) with ordinality a(value, n) on a.n = case cardinality(args) when 1 then 1 else u.n end order by u.n
        )
    );
    select r.* into problem
    from (
        select array_agg(b.store_id) as store_ids, array_agg(b.batch) as batches, array_agg(null::text) as backend_ids
        from (
            select u.store_id,
                '[' || string_agg(
                    livestore._event_after(u.seq_num - 1, name, a.value, client_id, session_id)::text, ',' order by u.seq_num
                ) || ']' as batch
            from unnest(store_ids, seq_nums, are_new) with ordinality u(store_id, seq_num, is_new, n)
            left join unnest(args) with ordinality a(value, n) on a.n = case cardinality(args) when 1 then 1 else u.n end
            where u.is_new
            group by u.store_id
        ) b
        having count(*) > 0
    ) g
    cross join lateral livestore._append(g.store_ids, g.batches, g.backend_ids) r
    where r.sqlstate is not null
    limit 1;
    if problem.sqlstate is not null then
        raise exception '%', problem.message
            using errcode = problem.sqlstate, detail = coalesce(problem.detail, ''), hint = coalesce(problem.hint, '');
    end if;
    insert into livestore.commit_keys (store, key, seq_num)
    select s.id, u.key, u.seq_num
    from unnest(store_ids, keys, seq_nums, are_new) u(store_id, key, seq_num, is_new)
    join livestore.stores s on s.store_id = u.store_id
    where u.is_new and u.key is not null;
    return query select u.store_id, u.seq_num from unnest(store_ids, seq_nums) with ordinality u(store_id, seq_num, n) order by u.n;
end
$$;

comment on function livestore.commit_many(text[], text, json[], text[], text, text) is
'livestore.commit to many stores at once: an event of this name to each of store_ids, with its element of args, or the only one. Returns their seq_nums, in the same order. All are committed or none';
-- Reading over all stores, in the order of commits. stable: everything here sees the database as the calling statement does, so an
-- entry of the commit log is never seen without its events.
create or replace function livestore.read_all(after bigint, names text[] default null, max_events integer default 1000)
returns table (
    "position" bigint, store_id text, seq_num bigint, name text, args json, client_id text, session_id text, created_at timestamptz,
    change text
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
#variable_conflict use_column
declare
    pruned constant bigint := i.pruned_commits from livestore.instance i order by i.created_at limit 1;
begin
    if after is null or max_events is null or max_events not between 1 and 10000 then
        raise exception 'after must be a position, and max_events between 1 and 10000' using errcode = 'invalid_parameter_value';
    end if;
    if after < pruned then
        raise exception 'the commit log begins after position %: what was before has been pruned', pruned
            using errcode = 'LS006', detail = json_build_object('prunedPosition', pruned),
                hint = 'Read the state that you need from livestore.events, and go on from a position that was current before.';
    end if;
    return query select * from livestore._read_commits(after, names, null, 1, 0, max_events, 8388608);
end
$$;

comment on function livestore.read_all(bigint, text[], integer) is
'The events of all stores after a position, in the order of commits, at most max_events (1 to 10000) with 8 MiB of args, or a single event with more; with names, only events of these names. Go on from the position of the last row, which has nothing but its position if it only says how far this has read; no row: there is nothing new. A row with a change (reset, drop, move, renew) says that a store was reset, dropped, moved to a dedicated table or given a new backend id; the events of a log that was reset or dropped are not returned any more. Events from before version 0.3 have no position. LISTEN livestore_commits says when to read again. Raises LS006 if what comes next was pruned';

create or replace function livestore.prune_commits(before timestamptz)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    pruned bigint;
begin
    if before is null then
        raise exception 'before must be a point in time' using errcode = 'null_value_not_allowed';
    end if;
    -- A subscription that is being made waits, or is known here.
    perform from livestore.instance i for update;
    with gone as (
        delete from livestore.commits c
        where c.position < coalesce(
            (select k.position from livestore.commits k where k.committed_at >= before order by k.position limit 1),
            9223372036854775807
        )
            -- Subscriptions have yet to read the others.
            and c.position <= all (select p.position from livestore.subscription_partitions p)
        returning c.position
    )
    select max(g.position) into pruned from gone g;
    if pruned is not null then
        update livestore.instance i set pruned_commits = pruned;
    end if;
    return (select i.pruned_commits from livestore.instance i order by i.created_at limit 1);
end
$$;

comment on function livestore.prune_commits(timestamptz) is
'Removes the entries of the commit log from before a point in time, and returns the position up to which entries were removed. livestore.read_all raises LS006 for positions before it. Sidecars do this by themselves for what is older than livestore.instance.keep_commits';
create or replace function livestore.export_hooks()
returns setof text
language sql
stable
-- With nothing else in the path, definitions have full names.
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
    select s.statement || ';'
    from (
        select 1, c.relname, regexp_replace(pg_get_indexdef(i.indexrelid), '^(CREATE (UNIQUE )?INDEX) ', '\1 IF NOT EXISTS ')
        from pg_index i
        join pg_class c on c.oid = i.indexrelid
        where i.indrelid = 'livestore.eventlog_1'::regclass and not i.indisprimary
        union all
        select 2, t.stxname, regexp_replace(pg_get_statisticsobjdef(t.oid), '^CREATE STATISTICS ', 'CREATE STATISTICS IF NOT EXISTS ')
        from pg_statistic_ext t
        where t.stxrelid = 'livestore.eventlog_1'::regclass
        union all
        select 3, t.tgname, regexp_replace(pg_get_triggerdef(t.oid), '^CREATE TRIGGER ', 'CREATE OR REPLACE TRIGGER ')
        from pg_trigger t
        where t.tgrelid = 'livestore.eventlog_1'::regclass and not t.tgisinternal and t.tgname <> 'livestore_event_types'
        union all
        select 4, t.tgname, format(
            'ALTER TABLE livestore.eventlog_1 %s TRIGGER %I',
            case t.tgenabled when 'D' then 'DISABLE' when 'A' then 'ENABLE ALWAYS' else 'ENABLE REPLICA' end, t.tgname
        )
        from pg_trigger t
        where t.tgrelid = 'livestore.eventlog_1'::regclass and not t.tgisinternal and t.tgenabled <> 'O'
        union all
        select 5, '', 'ALTER TABLE livestore.eventlog_1 ENABLE ROW LEVEL SECURITY'
        from pg_class c where c.oid = 'livestore.eventlog_1'::regclass and c.relrowsecurity
        union all
        select 6, p.polname, format('DROP POLICY IF EXISTS %1$I ON livestore.eventlog_1; CREATE POLICY %1$I ON livestore.eventlog_1 AS %2$s FOR %3$s TO %4$s', p.polname,
            case when p.polpermissive then 'PERMISSIVE' else 'RESTRICTIVE' end,
            case p.polcmd when 'r' then 'SELECT' when 'a' then 'INSERT' when 'w' then 'UPDATE' when 'd' then 'DELETE' else 'ALL' end,
            (select string_agg(case r.id when 0 then 'PUBLIC' else r.id::regrole::text end, ', ') from unnest(p.polroles) r(id))
        ) || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
            || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', '')
        from pg_policy p
        where p.polrelid = 'livestore.eventlog_1'::regclass and p.polname <> 'livestore_hooks'
        union all
        -- Dedicated tables are still in it.
        select 7, p.pubname, format('ALTER PUBLICATION %I ADD TABLE ONLY %s', p.pubname, t.name)
        from pg_publication p
        join pg_publication_rel r on r.prpubid = p.oid
        cross join lateral (select r.prrelid::regclass::text) t(name)
        where r.prrelid in ('livestore.eventlog_1'::regclass, 'livestore.store_names'::regclass)
    ) s(place, name, statement)
    order by s.place, s.name, s.statement
$$;

comment on function livestore.export_hooks() is
'What a dump leaves out of livestore.eventlog_1, since it is an extension''s table: statements that create your triggers, indexes, statistics and policies on it, and add it to your publications. Run them after a restore';
create or replace function livestore.define_event(name text, schema json, mode text default 'check')
returns integer
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
-- A trigger that is created waits for the transactions that have pushed, and all pushes wait for it. Shorter than deadlock_timeout: nobody
-- else becomes the victim.
set lock_timeout = '500ms'
as $$
declare
    latest livestore.event_types;
    eventlogs regclass[];
    probe text;
begin
    if name is null or name = '' then
        raise exception 'an event type needs a name' using errcode = 'invalid_parameter_value';
    elsif mode is null or mode not in ('check', 'enforce', 'off') then
        raise exception 'the mode is check, enforce or off, not %', coalesce(to_json(mode)::text, 'null') using errcode = 'invalid_parameter_value';
    elsif schema is null or octet_length(schema::text) > 262144 then
        raise exception 'a schema is a JSON Schema of at most 256 KiB' using errcode = 'invalid_parameter_value';
    end if;
    perform livestore._check_schema(schema::jsonb, schema::jsonb, '#', false);
    foreach probe in array array['null', '{}', '[]', '""', '0'] loop
        if livestore._misfit_of_args(schema, probe::json, clock_timestamp() + interval '1 s') like 'args cannot be checked%' then
            raise exception 'the schema cannot be used: to check % by it does not end', probe using errcode = 'invalid_parameter_value';
        end if;
    end loop;
    -- Pushes lock the rows of their stores, in this order, before they write to tables.
    eventlogs := array(
        select s.eventlog from (
            select l.eventlog from livestore.stores l where l.eventlog <> 'livestore.eventlog_1'::regclass
            order by l.store_id collate "C" for update
        ) s
    );
    -- One definition at a time, so that no two have one version.
    lock table livestore.event_types in share row exclusive mode;
    select * into latest from livestore._event_type(name);
    if latest.schema::jsonb = schema::jsonb then
        update livestore.event_types t set mode = define_event.mode where t.name = latest.name and t.version = latest.version;
    else
        insert into livestore.event_types (name, version, schema, mode)
        values (name, coalesce(latest.version, 0) + 1, schema, mode) returning * into latest;
    end if;
    -- The shared table has its trigger already: dedicated tables get theirs here, since a restore brings their triggers.
    perform livestore._check_new_events(e.eventlog) from unnest(eventlogs) e(eventlog);
    if mode = 'enforce' then
        raise warning 'pushes of % that do not fit are refused from now on', to_json(name)
            using hint = 'A LiveStore client that is refused stops pushing, and shows its user nothing. Mode check counts such events instead.';
    end if;
    return latest.version;
exception when lock_not_available then
    raise exception 'a transaction that has written events is still open' using errcode = 'lock_not_available', hint = 'Try again.';
end
$$;

comment on function livestore.define_event(text, json, text) is
'Says what the args of an event are, by a JSON Schema (draft-07 or 2020-12; pattern and format are not checked), and returns the version of the schema. mode check: livestore.commit of events that do not fit raises LS003, pushes of them are accepted and listed in livestore.misfits. enforce: pushes of them are refused, too, after which a client stops pushing. off: nothing is checked';

create or replace function livestore.check_events(name text default null)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    stores bigint[];
    seq_nums bigint[];
    target record;
    found bigint := 0;
    added bigint;
begin
    if name is not null and not exists (select from livestore._event_type(name)) then
        raise exception 'there is no event type %', to_json(name)
            using errcode = 'undefined_object', hint = 'livestore.define_event makes one; livestore.event_types lists them.';
    end if;
    -- Looked for while nothing is locked.
    select array_agg(e.store), array_agg(e."seqNum") into stores, seq_nums
    from livestore.eventlog_1 e
    cross join lateral livestore._event_type(e.name) t
    where e.name = coalesce(check_events.name, e.name) and t.mode <> 'off'
        and livestore._misfit_of_args(t.schema, e.args, clock_timestamp() + interval '1 s') is not null;
    for target in
        select s.id from livestore.stores s
        where s.id = any (stores) or s.id in (select m.store from livestore.found_misfits m where m.name = coalesce(check_events.name, m.name))
        order by s.store_id collate "C"
        for update
    loop
        delete from livestore.found_misfits m where m.store = target.id and m.name = coalesce(check_events.name, m.name);
        -- Again, since some may have been fixed meanwhile.
        insert into livestore.found_misfits (store, seq_num, name, version, reason)
        select c.* from (
            select e.store, e."seqNum", e.name, t.version, livestore._misfit_of_args(t.schema, e.args, clock_timestamp() + interval '1 s') as reason
            from livestore._stored_events(
                array(select w.store from unnest(stores) w(store) where w.store = target.id),
                array(select w.seq_num from unnest(stores, seq_nums) w(store, seq_num) where w.store = target.id)
            ) e
            cross join lateral livestore._event_type(e.name) t
            where t.mode <> 'off'
            offset 0
        ) c
        where c.reason is not null
        on conflict (store, seq_num) do nothing;
        get diagnostics added = row_count;
        found := found + added;
    end loop;
    return found;
end
$$;

comment on function livestore.check_events(text) is
'Checks the events of this name that the logs have, or of all names, against the last version of their type; returns how many do not fit, which livestore.misfits then lists. Reads the events of all stores';
-- As the caller, to whom the view then belongs: it shows what its owner may read.
create or replace function livestore.create_event_view(view_name text, name text, security_barrier boolean default true)
returns regclass
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    parts constant text[] := parse_ident(view_name);
    full_name constant text := (select string_agg(quote_ident(p.part), '.' order by p.n) from unnest(parts) with ordinality p(part, n));
    -- As json, which keeps the order of the fields.
    schema constant json := t.schema from livestore._event_type(name) t;
    columns text;
begin
    if security_barrier is null then
        raise exception 'security_barrier is null' using errcode = 'null_value_not_allowed';
    elsif schema is null then
        raise exception 'there is no event type %', to_json(name)
            using errcode = 'undefined_object', hint = 'livestore.define_event makes one; livestore.event_types lists them.';
    elsif cardinality(parts) <> 2 or parts[1] = 'livestore' then
        raise exception 'view_name is schema.view, in a schema of yours, and not %', to_json(view_name) using errcode = 'invalid_name';
    end if;
    select string_agg(format(
        case
            when f.kind is null then ', livestore.json_field(e.args, %L) as %I'
            when f.kind = 'text' then ', livestore.field(e.args, %L) as %I'
            else ', livestore.' || f.kind || '(livestore.field(e.args, %L)) as %I'
        end,
        f.key, case when f.key in ('store_id', 'seq_num', 'client_id', 'session_id', 'created_at', 'args') then 'args.' else '' end || f.key
    ), '' order by f.n)
    into columns
    from (
        select p.key, p.n, livestore._column_of(p.value::jsonb, schema::jsonb) as kind
        from json_each(schema #> (coalesce(livestore._pointer(schema::jsonb -> '$ref'), '{}') || 'properties'::text))
            with ordinality p(key, value, n)
        where octet_length(p.key) between 1 and 63
    ) f;
    execute format(
        'create or replace view %s with (security_barrier = %s) as select s.store_id, e."seqNum" as seq_num, e."clientId" as client_id, e."sessionId" as session_id, '
        'e."createdAt" as created_at, e.args%s from livestore.eventlog_1 e join livestore.stores s on s.id = e.store where e.name = %L',
        full_name, security_barrier, columns, name
    );
    execute format('comment on view %s is %L', full_name, format('The events %s, with columns made by livestore.create_event_view', name));
    return full_name::regclass;
exception when invalid_table_definition then
    raise exception 'the view % has other columns, which a view cannot change: %', full_name, sqlerrm
        using errcode = 'invalid_table_definition', hint = format('drop view %s, and call this again', full_name);
end
$$;

comment on function livestore.create_event_view(text, text, boolean) is
'Creates a view, named schema.view, of the events of this name in all stores, or replaces it: store_id, seq_num, client_id, session_id, created_at, args, and a column for each field that their type has (livestore.define_event). A value that is not of the type of its field is null in its column; no event makes a query fail. The view belongs to its creator, who needs SELECT on the events, as livestore_reader has. security_barrier => false: conditions on the columns of fields can use indexes, but whoever may query the view can see all events, by a function in a query';
-- Reading args. The bodies are parsed here, and not with the search_path of whoever uses them; they have no settings, so that queries
-- and indexes contain the expression itself.
create or replace function livestore._readable(args json)
returns json
language sql
immutable
strict
parallel safe
-- An escaped backslash gets its other form first, so that what follows it is not taken for an escape.
return pg_catalog.regexp_replace(
    pg_catalog.regexp_replace(
        pg_catalog.replace(pg_catalog.replace(args::pg_catalog.text, E'\\\\', E'\\u005c'), E'\\u0000', E'\\ufffd'),
        E'\\\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\\\u[dD][c-fC-F][0-9a-fA-F]{2})', E'\\ufffd', 'g'
    ),
    E'(?<!\\\\u[dD][89abAB][0-9a-fA-F]{2})\\\\u[dD][c-fC-F][0-9a-fA-F]{2}', E'\\ufffd', 'g'
)::pg_catalog.json;

comment on function livestore._readable(json) is
'Internal: args with U+FFFD in the place of what Postgres cannot read as text, which are U+0000 and lone surrogates';

create or replace function livestore.field(args json, variadic path text[])
returns text
language sql
immutable
parallel safe
return case
    when pg_catalog.strpos(args::pg_catalog.text, E'\\u') operator(pg_catalog.=) 0 then args operator(pg_catalog.#>>) path
    else livestore._readable(args) operator(pg_catalog.#>>) path
end;

comment on function livestore.field(json, text[]) is
'The text of a field of args: livestore.field(args, ''address'', ''city''). Null if there is none. Unlike args->>, it never raises an error: in the place of U+0000 and of lone surrogates, which JSON allows and Postgres cannot read, it has U+FFFD. Parallel safe, and for indexes';

create or replace function livestore.json_field(args json, variadic path text[])
returns json
language sql
immutable
parallel safe
return case
    when pg_catalog.strpos(args::pg_catalog.text, E'\\u') operator(pg_catalog.=) 0 then args operator(pg_catalog.#>) path
    else livestore._readable(args) operator(pg_catalog.#>) path
end;

comment on function livestore.json_field(json, text[]) is
'livestore.field for objects, arrays and whatever else: the JSON of a field of args. Unlike args->, it never raises an error';

-- Casts of what livestore.field returns. Those of Postgres raise errors, and a function that catches them could not run in parallel.
create or replace function livestore.try_boolean(value text)
returns boolean
language sql
immutable
parallel safe
return case
    when value operator(pg_catalog.=) 'true' then true
    when value operator(pg_catalog.=) 'false' then false
end;

comment on function livestore.try_boolean(text) is 'The boolean that this JSON is; null if it is something else';

-- The next two are in PL/pgSQL, since Postgres does not put what uses its argument twice into the query, and calls to SQL take five times as long. A
-- setting of search_path would double the rest: all names are qualified instead.
create or replace function livestore.try_bigint(value text)
returns bigint
language plpgsql
immutable
parallel safe
as $$
begin
    return case
        when pg_catalog.length(value) operator(pg_catalog.<=) 18 and value operator(pg_catalog.~) '^-?[0-9]+$' then value::pg_catalog.int8
        when pg_catalog.length(value) operator(pg_catalog.<=) 20 and value operator(pg_catalog.~) '^-?[0-9]+[.]0+$'
            then pg_catalog.split_part(value, '.', 1)::pg_catalog.int8
    end;
end
$$;

comment on function livestore.try_bigint(text) is 'The whole number that this JSON is, of at most 17 digits; null if it is something else';

create or replace function livestore.try_double(value text)
returns double precision
language plpgsql
immutable
parallel safe
as $$
begin
    return case
        when pg_catalog.length(value) operator(pg_catalog.<=) 20 and value operator(pg_catalog.~) '^-?[0-9]+([.][0-9]+)?$'
            then value::pg_catalog.float8
        when pg_catalog.length(value) operator(pg_catalog.<=) 400
            and value operator(pg_catalog.~) '^-?[0-9]+([.][0-9]+)?([eE][-+]?[0-9]{1,3})?$'
        then case
            when value::pg_catalog.numeric operator(pg_catalog.=) 0::pg_catalog.numeric
                or pg_catalog.abs(value::pg_catalog.numeric) operator(pg_catalog.>) 2.3e-308::pg_catalog.numeric
                and pg_catalog.abs(value::pg_catalog.numeric) operator(pg_catalog.<) 1.7976931348623157e308::pg_catalog.numeric
            then value::pg_catalog.float8
        end
    end;
end
$$;

comment on function livestore.try_double(text) is 'The number that this JSON is; null if it is something else, or not between 2.3e-308 and 1.797e308';

create or replace function livestore.try_timestamptz(value text)
returns timestamptz
language sql
immutable
parallel safe
return case
    when value operator(pg_catalog.~) '^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,9})?Z$'
        and pg_catalog.left(value, 4) operator(pg_catalog.<>) '0000'
        -- The days of a month.
        and pg_catalog.substr(value, 9, 2) operator(pg_catalog.<=) case pg_catalog.substr(value, 6, 2)
            when '02' then case
                when pg_catalog.left(value, 4)::pg_catalog.int4 operator(pg_catalog.%) 4 operator(pg_catalog.=) 0 and (
                    pg_catalog.left(value, 4)::pg_catalog.int4 operator(pg_catalog.%) 100 operator(pg_catalog.<>) 0
                    or pg_catalog.left(value, 4)::pg_catalog.int4 operator(pg_catalog.%) 400 operator(pg_catalog.=) 0
                ) then '29'
                else '28'
            end
            when '04' then '30' when '06' then '30' when '09' then '30' when '11' then '30'
            else '31'
        end
        then pg_catalog.timezone('UTC', pg_catalog.make_timestamp(
            pg_catalog.left(value, 4)::pg_catalog.int4, pg_catalog.substr(value, 6, 2)::pg_catalog.int4,
            pg_catalog.substr(value, 9, 2)::pg_catalog.int4, pg_catalog.substr(value, 12, 2)::pg_catalog.int4,
            pg_catalog.substr(value, 15, 2)::pg_catalog.int4,
            pg_catalog.rtrim(pg_catalog.substr(value, 18), 'Z')::pg_catalog.float8
        ))
end;

comment on function livestore.try_timestamptz(text) is
'The time that this JSON is, as Date.toISOString writes it: 2026-01-31T12:00:00.000Z; null if it is something else';
create or replace function livestore.current_context()
returns json
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select livestore._context_value(null::text)::json
$$;

comment on function livestore.current_context() is
'In a hook: what is known of the request, a JSON object. The sidecar writes payload, headers, claims, dialect and subject, as far as there are any. Null for pushes from SQL';

create or replace function livestore.current_payload()
returns json
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select livestore._context_value('payload')::json
$$;

comment on function livestore.current_payload() is
'In a hook: the sync payload of the client that pushes, as it sent it; null if it has none, and for pushes from SQL';

create or replace function livestore.current_headers()
returns json
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select livestore._context_value('headers')::json
$$;

comment on function livestore.current_headers() is
'In a hook: the request headers that the sidecar forwards (--forward-headers), a JSON object with names in lower case; null if there are none, and for pushes from SQL';

create or replace function livestore.current_claims()
returns json
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select livestore._context_value('claims')::json
$$;

comment on function livestore.current_claims() is
'In a hook: what the token of the client that pushes says, a JSON object, sub for one; null without authentication, and for pushes from SQL';
create or replace function livestore.import_table(
    source regclass, store_id text, backend_id text default null,
    out imported bigint, out already_there bigint, out head bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
-- A time becomes text and is read again. With another datestyle that text could have an abbreviation of a time zone, which
-- may stand for several zones.
set datestyle = iso
as $$
declare
    wanted constant text[] := array['seqNum', 'parentSeqNum', 'name', 'args', 'clientId', 'sessionId', 'createdAt'];
    found_columns text[];
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

    select s.imported, s.already_there, s.head into imported, already_there, head
    from livestore._import_source(
        source,
        format(
            'select %s::bigint, %s::bigint, %s::text, %s::text::json::text, %s::text, %s::text, %s::text::timestamptz from %s order by 1',
            found_columns[1], found_columns[2], found_columns[3], found_columns[4], found_columns[5], found_columns[6],
            coalesce(found_columns[7], 'null'), source
        ),
        store_id, backend_id
    ) s;
end
$$;

comment on function livestore.import_table(regclass, text, text) is
'Takes over the event log of another LiveStore backend: copies the events of a table or view with the columns "seqNum", "parentSeqNum", name, args, "clientId", "sessionId" and maybe "createdAt" into a store, whole or not at all, and returns how many it imported, how many were there already, and the head. Idempotent: another call imports what was added since. backend_id: the backend id of the other backend, so that clients of an empty store go on as if it were the same log. Hooks run. The table is read with the rights of the caller; for a superuser, with those of its owner. Raises LS001 if the store has other events, LS002 if it has another backend id, LS003 if the events are not a chain, or a "createdAt" is not within the years 1 to 9999';

create or replace function livestore.export_store(store_id text)
returns setof text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    event record;
    events bigint := 0;
    digest bytea := '';
begin
    for event in select e.line, e.digest from livestore._export_events(store_id, 0, null, '') e loop
        events := events + 1;
        digest := event.digest;
        return next event.line;
    end loop;
    return next livestore._export_end(store_id, events, digest);
end
$$;


comment on function livestore.export_store(text) is
'The log of a store as JSONL, for livestore.import_store: a line for each event, with args as they are, byte for byte (or as a string, argsText, if they have line breaks), and a last line with the store id, the backend id, the number of events and a digest. Raises LS004 if there is no such store';

create or replace function livestore.import_store(
    source regclass, store_id text default null, out imported bigint, out already_there bigint, out head bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = iso
as $$
declare
    line constant text := (
        select quote_ident(a.attname) from pg_attribute a
        where a.attrelid = source and a.attnum > 0 and not a.attisdropped and a.atttypid = 'text'::regtype
        order by a.attnum limit 1
    );
    cursor text;
    last_lines json[];
begin
    if line is null then
        raise exception '% has no column of the type text', source using errcode = 'undefined_column',
            hint = 'Copy the lines of livestore.export_store into a table with one column.';
    end if;
    -- By the functions that read the events, because a superuser must not run what a view of somebody else calls.
    cursor := livestore._open_source(source::oid, format(
        'select null::bigint, null::bigint, null::text, t.%1$s::json::text, null::text, null::text, null::timestamptz
         from %2$s t where left(t.%1$s, 11) = ''{"storeId":''', line, source
    ));
    last_lines := array(select f.args::json from livestore._fetch_source(source::oid, cursor, 1000) f);
    if cardinality(last_lines) <> 1 then
        raise exception '% has % last lines of livestore.export_store, and not one', source, cardinality(last_lines)
            using errcode = 'LS003', detail = json_build_object('index', null, 'reason', 'incomplete'),
                hint = 'The file is not whole, or more than one. Nothing was imported.';
    end if;
    -- It closes at its end.
    perform from livestore._fetch_source(source::oid, cursor, 1) f;
    select s.imported, s.already_there, s.head into imported, already_there, head
    from livestore._import_source(
        source,
        format(
            'select (h.fields->>''seqNum'')::bigint, (h.fields->>''parentSeqNum'')::bigint, h.fields->>''name'',
                 case when l.at > 0 then substr(l.line, l.at + 8, length(l.line) - l.at - 8) else h.fields->>''argsText'' end,
                 h.fields->>''clientId'', h.fields->>''sessionId'', (h.fields->>''createdAt'')::timestamptz
             from (
                 select t.%1$s as line, strpos(t.%1$s, '',"args":'') as at from %2$s t where left(t.%1$s, 11) <> ''{"storeId":''
             ) l
             cross join lateral (select case when l.at > 0 then left(l.line, l.at - 1) || ''}'' else l.line end::json) h(fields)
             order by 1',
            line, source
        ),
        coalesce(store_id, last_lines[1] ->> 'storeId'), last_lines[1] ->> 'backendId',
        last_lines[1] ->> 'digest', (last_lines[1] ->> 'events')::bigint
    ) s;
end
$$;

comment on function livestore.import_store(regclass, text) is
'Takes over the log of a store from the lines of livestore.export_store, which are in the first text column of a table, in any order; with its backend id and times, whole or not at all. The table is read with the rights of the caller; for a superuser, with those of its owner. store_id: another id than it had. Idempotent: another call imports what was added since. Returns how many events it imported, how many were there already, and the head. Hooks run. Raises LS001 if the store has other events, LS002 if it has another backend id, LS003 if lines are missing or were changed';
-- Logs are read by functions with the rights of the owner of the tables, for whom row level security does not hold: a policy
-- cannot make a log look empty. If row level security is forced on the owner as well, row_security = off makes the statement
-- fail instead.
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
create or replace function livestore.store_digest(store_id text)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select left(encode(sha256(convert_to(livestore.heads_key() || store_id, 'UTF8')), 'hex'), 32)
$$;

comment on function livestore.store_digest(text) is
'The digest that identifies a store in the notifications of the channel livestore_heads';

create or replace function livestore.legacy_notify()
returns boolean
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select coalesce(
        lower(nullif(current_setting('livestore.legacy_notify', true), '')) in ('on', 'true', 'yes', '1'),
        (select i.legacy_notify from livestore.instance i order by i.created_at limit 1)
    )
$$;

comment on function livestore.legacy_notify() is
'Whether commits are also notified on the channel livestore, with store ids, which sidecars before 0.3 listen to: the value of the setting livestore.legacy_notify or, without it, whether the database was updated from such a version';

create or replace function livestore.push(store_id text, events json, backend_id text default null)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    result livestore.push_result;
begin
    select * into result from livestore._append(array[store_id], array[events::text], array[backend_id]);
    if result.sqlstate is not null then
        raise exception '%', result.message
            using errcode = result.sqlstate, detail = coalesce(result.detail, ''), hint = coalesce(result.hint, '');
    end if;
    return result.head;
end
$$;

comment on function livestore.push(text, json, text) is
'Appends a batch, a JSON array of {"name","args","seqNum","parentSeqNum","clientId","sessionId"}, to the log of a store, whole or not at all, and returns the new head. A batch that is in the log already is accepted again. Raises LS001 (server ahead), LS002 (backend id mismatch), LS003 (invalid batch), each with a JSON DETAIL, or what a hook raises';

-- lock_timeout: a transaction that stays open with the row of one store locked must not hold up pushes to all other stores. A
-- caller that retries such pushes itself sets livestore.held_stores to skip, and does not wait at all. Sidecars of 0.2 do not
-- set it.
create or replace function livestore.push_batch(
    store_ids text[], batches text[], backend_ids text[], source text default null, contexts text[] default null
)
returns setof livestore.push_result
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '200ms'
as $$
declare
    stores record;
    known record;
begin
    if cardinality(batches) is distinct from cardinality(store_ids) or cardinality(backend_ids) is distinct from cardinality(store_ids)
        or cardinality(contexts) <> cardinality(store_ids) then
        raise exception 'store_ids, batches, backend_ids and contexts must have one element for each push'
            using errcode = 'array_subscript_error';
    end if;
    if octet_length(source) > 200 then
        raise exception 'source has more than 200 bytes' using errcode = 'string_data_right_truncation';
    end if;
    -- Rows are locked and updated in the same subtransaction. If another one had locked them, the update would need a
    -- multixact.
    begin
        return query select * from livestore._append(store_ids, batches, backend_ids, source, contexts);
        return;
    exception when others then
        null;
    end;

    -- An error has rolled everything back. Pushes to new stores come first, in the order of store ids. Whether another
    -- transaction is just creating such a store can only be found out by waiting, and a session that waits must have locked
    -- nothing. Then the existing stores are locked without waiting, and those that others have locked are left out.
    select array_agg(p.push::integer order by p.store_id collate "C", p.push) filter (where s.id is null) as new,
        array_agg(p.push::integer order by p.push) filter (where s.id is not null) as existing
    into known
    from unnest(store_ids) with ordinality p(store_id, push)
    left join livestore.stores s on s.store_id = p.store_id;
    if known.new is not null then
        return query select * from livestore._push_some(store_ids, batches, backend_ids, known.new, source, contexts);
    end if;
    select * into stores
    from livestore._find_free_stores((select array_agg(store_ids[p.push] order by p.n) from unnest(known.existing) with ordinality p(push, n)));
    return query
    select known.existing[held.n], null::bigint, 0, null::text, null::timestamptz,
        '55P03', 'another transaction has locked the store', null::text, 'Try again.'
    -- stores.new are stores that existed above, and were dropped since.
    from unnest(stores.held || stores.new) held(n);
    if stores.free is not null then
        return query
        select * from livestore._push_some(
            store_ids, batches, backend_ids, array(select known.existing[f.n] from unnest(stores.free) with ordinality f(n, i) order by f.i),
            source, contexts
        );
    end if;
end
$$;

comment on function livestore.push_batch(text[], text[], text[], text, text[]) is
'Many pushes to many stores at once, as arrays with one element for each push: its storeId, its batch as JSON text, its backend id or null. Returns a result for each; one that fails does not fail the others. Later pushes of a store build on earlier ones. Pushes to a store that another transaction has locked fail with 55P03: try them again. source becomes part of the notification, so that a sidecar recognizes its own. contexts: what hooks can read of each request, a JSON object as text or null (livestore.current_context)';
create or replace function livestore.rewrite_event(store_id text, seq_num bigint, name text, args json, reason text default null)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if name is null or name = '' then
        raise exception 'an event needs a name' using errcode = 'LS003',
            detail = json_build_object('index', 0, 'reason', 'the name is null or empty');
    end if;
    perform livestore._rewrite(store_id, array[seq_num], name, args, reason);
end
$$;

comment on function livestore.rewrite_event(text, bigint, text, json, text) is
'Gives an event of a log another name and other args (null: none), for an event that stops clients. reason is kept in livestore.rewrites. New clients get the new event; those that have the old one keep it until livestore.renew_backend_id. Raises LS003 if the event does not fit its type, LS004 if there is no such store. docs/erasure.md says what remains';

create or replace function livestore.erase(store_id text, seq_nums bigint[], replacement json, reason text default null)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if seq_nums is null then
        raise exception 'seq_nums is null' using errcode = 'null_value_not_allowed';
    elsif replacement is null then
        raise exception 'the replacement is null' using errcode = 'null_value_not_allowed',
            hint = 'A client that gets an event without args, where its schema has some, stops for good. Give args that fit the schema and say nothing.';
    end if;
    perform livestore._rewrite(store_id, seq_nums, null, replacement, reason);
    return (select count(distinct s.seq_num) from unnest(seq_nums) s(seq_num));
end
$$;

comment on function livestore.erase(text, bigint[], json, text) is
'Replaces the args of events, for a person''s right to be forgotten, and returns how many. The replacement must fit the schema of the application: a client that gets args which do not fit stops for good. reason is kept in livestore.rewrites. Clients that have the events keep them until livestore.renew_backend_id. Raises LS003 if the replacement does not fit a type, LS004 if there is no such store. docs/erasure.md says what remains';
-- security definer: the seed in livestore.instance is nobody else's to read.
create or replace function livestore.backend_id(store_id text)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select coalesce(
        (select s.backend_id from livestore.stores s where s.store_id = $1),
        (select d.backend_id from livestore.dropped_stores d where d.store_id = $1),
        livestore._make_backend_id((select i.seed from livestore.instance i order by i.created_at limit 1) || $1)
    )
$$;

comment on function livestore.backend_id(text) is
'The backend id of a store, by which clients tell whether the log is still the same one: a reset changes it. For a store that does not exist: the id that it will have. Writes nothing';

create or replace function livestore.apply_hooks(eventlog regclass)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    hook record;
    hooks integer := 0;
begin
    if not exists (select from pg_inherits where inhrelid = eventlog and inhparent = 'livestore.eventlog_1'::regclass) then
        raise exception '% is not the dedicated table of a store', eventlog using errcode = 'wrong_object_type';
    end if;
    for hook in select tgname from pg_trigger where tgrelid = eventlog and not tgisinternal loop
        execute format('drop trigger %I on %s', hook.tgname, eventlog);
    end loop;
    for hook in
        select oid, tgname, tgenabled
        from pg_trigger
        where tgrelid = 'livestore.eventlog_1'::regclass and not tgisinternal
        order by tgname
    loop
        perform livestore._copy_hook(hook.oid, eventlog::oid);
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
'Gives the dedicated table of a store the triggers that livestore.eventlog_1 has now, instead of those it had; returns how many. A child table does not inherit triggers: call this after changing hooks, for each stores.eventlog that is not eventlog_1';

create or replace function livestore.create_store(store_id text, own_table boolean default false)
returns regclass
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
-- The owner may have no right to create tables in the default tablespace of the session.
set default_tablespace = ''
set default_table_access_method = heap
as $$
declare
    store livestore.stores;
    table_name text;
    moving text;
begin
    store := livestore._lock_store(store_id);
    if not own_table or store.eventlog <> 'livestore.eventlog_1'::regclass then
        return store.eventlog;
    end if;

    table_name := livestore._dedicated_table_name(store_id, store.id);
    execute format(
        'create table livestore.%I (constraint own_store check (store = %s), primary key (store, "seqNum")) inherits (livestore.eventlog_1)',
        table_name, store.id
    );
    execute format('comment on table livestore.%I is %L', table_name, 'The events of the store ' || store_id);
    perform livestore._adopt_table(format('livestore.%I', table_name)::regclass);
    -- Events that the store has already move before the hooks are there: they were hooked when they were appended.
    if store.head > 0 then
        -- They are deleted first: whoever decodes the changes, and keeps the events of all tables together, then has them afterwards.
        moving := format('livestore.%I', 'moving_' || store.id);
        execute format('create unlogged table %s (like livestore.eventlog_1)', moving);
        execute format('insert into %s select * from only livestore.eventlog_1 where store = $1', moving) using store.id;
        perform livestore._delete_events('livestore.eventlog_1'::regclass, store.id);
        execute format('grant select on %s to livestore_hooks', moving);
        perform livestore._move_events(moving::regclass::oid, format('livestore.%I', table_name)::regclass::oid);
        execute format('drop table %s', moving);
        perform livestore._note_change(store.id, store.id, 'move', store_id);
    end if;
    update livestore.stores s set eventlog = format('livestore.%I', table_name)::regclass
        where s.id = store.id returning s.eventlog into store.eventlog;
    perform livestore._copy_indexes(store.eventlog::oid);
    perform livestore._warn_of_publications(store.eventlog::oid);
    perform livestore.apply_hooks(store.eventlog);
    return store.eventlog;
end
$$;

comment on function livestore.create_store(text, boolean) is
'Registers a store and returns the table of its events. Idempotent, and not needed before a push. own_table => true gives the store a dedicated table, and moves the events that it has';

create or replace function livestore.reset_store(store_id text)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    store livestore.stores;
    former_id bigint;
begin
    perform livestore._forget_errors(store_id);
    store := livestore._lock_existing_store(store_id);
    former_id := store.id;
    if store.eventlog <> 'livestore.eventlog_1'::regclass then
        perform livestore._lock_eventlog(store.eventlog);
    end if;
    if store.head > 0 then
        perform livestore._delete_events(store.eventlog, store.id);
    end if;
    delete from livestore.relayed_events r where r.store = store.id;
    -- They hold events of the log. Dead letters of changes say no more than the commit log.
    delete from livestore.dead_letters d where d.store_id = $1 and d.name is not null;
    perform livestore._mend_store_numbers();
    -- A new number, too: whoever reads the table by it, as Electric does, must not take the two logs for one.
    update livestore.stores s set id = default, head = 0, backend_id = livestore._make_backend_id(gen_random_uuid()::text)
        where s.id = store.id returning s.* into store;
    delete from livestore.store_names n where n.store = former_id;
    delete from livestore.commit_keys k where k.store = former_id;
    delete from livestore.found_misfits m where m.store = former_id;
    insert into livestore.store_names (store, store_id) values (store.id, store_id);
    if store.eventlog <> 'livestore.eventlog_1'::regclass then
        execute format(
            'alter table %s drop constraint own_store, add constraint own_store check (store = %s)', store.eventlog, store.id
        );
    end if;
    perform livestore._note_change(former_id, store.id, 'reset', store_id);
    perform livestore._notify_heads(array[store_id], array[null::bigint]);
    return store.backend_id;
end
$$;

comment on function livestore.reset_store(text) is
'Empties the log of a store and returns its new backend id; its number in livestore.stores is new, too. Its dead letters are removed. Clients drop their local log, with what they had not pushed, and start over. Raises LS004 if there is no such store';

create or replace function livestore.drop_store(store_id text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    store livestore.stores;
begin
    perform livestore._forget_errors(store_id);
    store := livestore._lock_existing_store(store_id);
    if store.eventlog <> 'livestore.eventlog_1'::regclass then
        perform livestore._lock_eventlog(store.eventlog);
    end if;
    if store.head > 0 and (store.eventlog = 'livestore.eventlog_1'::regclass or livestore._is_decoded()) then
        perform livestore._delete_events(store.eventlog, store.id);
    end if;
    if store.eventlog <> 'livestore.eventlog_1'::regclass then
        execute format('drop table %s', store.eventlog);
    end if;
    delete from livestore.relayed_events r where r.store = store.id;
    delete from livestore.dead_letters d where d.store_id = $1 and d.name is not null;
    delete from livestore.dropped_stores d where d.store_id = $1;
    insert into livestore.dropped_stores (store_id, backend_id)
        values (store_id, livestore._make_backend_id(gen_random_uuid()::text));
    delete from livestore.commit_keys k where k.store = store.id;
    delete from livestore.found_misfits m where m.store = store.id;
    delete from livestore.stores s where s.id = store.id;
    perform livestore._note_change(store.id, 0, 'drop', store_id);
    perform livestore._notify_heads(array[store_id], array[null::bigint]);
end
$$;

comment on function livestore.drop_store(text) is
'Removes a store and its events, with their dead letters, for good. A push to the same storeId later begins a new log, with another backend id. Raises LS004 if there is no such store';

create or replace function livestore.renew_backend_id(store_id text)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    store livestore.stores := livestore._lock_existing_store(store_id);
begin
    update livestore.stores s set backend_id = livestore._make_backend_id(gen_random_uuid()::text)
        where s.id = store.id returning s.* into store;
    perform livestore._note_change(store.id, store.id, 'renew', store_id);
    perform livestore._notify_heads(array[store_id], array[null::bigint]);
    return store.backend_id;
end
$$;

comment on function livestore.renew_backend_id(text) is
'Gives a store a new backend id, which it returns, and keeps the events. Clients drop their local logs, with what they had not pushed, and pull anew. Raises LS004 if there is no such store';

create or replace function livestore.renew_backend_ids()
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    renewed bigint;
begin
    perform livestore._notify_heads(array_agg(s.store_id), array_agg(null::bigint))
    from (select l.store_id from livestore.stores l order by l.store_id collate "C" for update) s
    having count(*) > 0;
    update livestore.stores s set backend_id = livestore._make_backend_id(gen_random_uuid()::text);
    get diagnostics renewed = row_count;
    update livestore.dropped_stores d set backend_id = livestore._make_backend_id(gen_random_uuid()::text);
    update livestore.instance i set seed = gen_random_uuid()::text;
    return renewed;
end
$$;

comment on function livestore.renew_backend_ids() is
'Gives every store a new backend id and keeps the events; returns the number of stores. Call it after restoring an older state of the database: clients then drop their local logs, which may have events that the restored logs lack, and pull anew';
-- Durable subscriptions: each partition of one is a cursor into the commit log that one worker has at a time.
create or replace function livestore.subscribe(
    subscription text, names text[] default null, stores text default null, partitions integer default 1, start text default 'now',
    max_failures integer default 10, handler regprocedure default null, url text default null
)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
set lock_timeout = 0
as $$
begin
    if start is null or start !~ '^(now|beginning|[0-9]{1,18})$' then
        raise exception 'start must be now, beginning, or a position' using errcode = 'invalid_parameter_value';
    end if;
    if octet_length(stores) > 1024 or cardinality(names) not between 1 and 1000 or array_position(names, null) is not null then
        raise exception 'stores must be a pattern of at most 1024 bytes, and names between 1 and 1000 names'
            using errcode = 'invalid_parameter_value';
    end if;
    -- Every poll would fail.
    if (length(stores) - length(rtrim(stores, chr(92)))) % 2 = 1 then
        raise exception 'stores must not end with a backslash that nothing follows' using errcode = 'invalid_escape_sequence';
    end if;
    if handler is not null and not livestore._is_handler(handler) then
        raise exception 'the handler % must be a function of one argument of the type livestore.polled_event', handler
            using errcode = 'invalid_function_definition';
    end if;
    if url !~ '^https?://[^[:space:]]+$' or octet_length(url) > 2048 then
        raise exception 'url must be an http or https URL of at most 2048 bytes' using errcode = 'invalid_parameter_value';
    end if;
    if handler is not null and url is not null then
        raise exception 'a subscription has a handler or a url' using errcode = 'invalid_parameter_value',
            hint = 'Make two subscriptions.';
    end if;
    insert into livestore.subscribers (name, names, stores, partitions, max_failures, handler, handler_owner, url)
    values (
        subscription, names, stores, partitions, max_failures, handler::text,
        (select r.rolname from pg_proc p join pg_roles r on r.oid = p.proowner where p.oid = handler), url
    );
    if handler is not null then
        perform livestore._handler(subscription);
    end if;
    insert into livestore.subscription_partitions (subscription, "partition", "position")
    select subscription, p.n, 0 from generate_series(0, partitions - 1) p(n);
    perform livestore._start(livestore._subscriber(subscription), start);
    if handler is not null or url is not null then
        -- Sidecars serve it from now on.
        perform pg_notify('livestore_heads', '{"heads":{},"subscriptions":true}');
    end if;
end
$$;

comment on function livestore.subscribe(text, text[], text, integer, text, integer, regprocedure, text) is
'Makes a durable subscription to events of these names (null: all) of stores whose id is LIKE a pattern (null: all). start: now, beginning (all events that there are, then all that come), or a position of livestore.read_all. Up to partitions workers (1 to 256) share it by livestore.poll; the events of a store stay in order. An event that fails max_failures times (1 to 1000) becomes a dead letter. handler: a function of one argument, livestore.polled_event, that livestore.run_subscription calls. url: where sidecars send the events to, signed as the Standard Webhooks specification says. The commit log is kept until all subscriptions have passed it';

create or replace function livestore.unsubscribe(subscription text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform livestore._subscriber(subscription);
    delete from livestore.subscribers s where s.name = subscription;
    perform pg_notify('livestore_heads', '{"heads":{},"subscriptions":true}');
end
$$;

comment on function livestore.unsubscribe(text) is 'Removes a durable subscription with its dead letters';

create or replace function livestore.rebuild(subscription text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
set lock_timeout = 0
as $$
declare
    subscriber constant livestore.subscribers := livestore._subscriber(subscription);
begin
    -- Before its partitions, as unsubscribe locks them. Handlers may write dead letters meanwhile.
    perform from livestore.subscribers s where s.name = subscriber.name for no key update;
    -- Waits for handlers that are running. Workers that have events find their lease ended.
    perform from livestore.subscription_partitions p where p.subscription = subscriber.name order by p.partition for update;
    delete from livestore.dead_letters d where d.subscription = subscriber.name;
    -- The rest happens when this transaction ends: commits wait from then on only.
    update livestore.subscribers s set is_restarting = true where s.name = subscriber.name;
end
$$;

comment on function livestore.rebuild(text) is
'Gives all events to a subscription once more, from the beginning, and then those that come. Empty what its handler has written in the same transaction, after this call: then nothing is missing or there twice afterwards. Its handler does not run until that transaction has ended. Commit no events in it: they would come twice. Its dead letters are removed, and its workers find that their leases have ended (LS007)';

create or replace function livestore.poll(
    subscription text, max_events integer default 100, lease_time interval default '30 seconds', max_bytes integer default 8388608
)
returns setof livestore.polled_event
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    subscriber livestore.subscribers;
    place livestore.subscription_partitions;
    batch livestore.polled_event[];
    letter livestore.dead_letters;
    looked_upto bigint;
    visited integer[] := '{}';
    former livestore.subscription_partitions;
    start constant timestamptz := clock_timestamp();
begin
    if max_events is null or max_events not between 1 and 10000 then
        raise exception 'max_events must be between 1 and 10000' using errcode = 'invalid_parameter_value';
    end if;
    if lease_time is null or lease_time not between interval '1 second' and interval '1 day' then
        raise exception 'lease_time must be between a second and a day' using errcode = 'invalid_parameter_value';
    end if;
    if max_bytes is null or max_bytes not between 1 and 67108864 then
        raise exception 'max_bytes must be between 1 and 67108864' using errcode = 'invalid_parameter_value';
    end if;
    subscriber := livestore._subscriber(subscription);
    -- Each partition that no other worker has, once, beginning with the one that was longest without.
    for attempt in 1..subscriber.partitions loop
        select * into place
        from livestore.subscription_partitions p
        where p.subscription = subscriber.name and p.partition <> all (visited)
            and (
                (p.lease is null or p.leased_until <= clock_timestamp()) and (p.retry_at is null or p.retry_at <= clock_timestamp())
                -- The clock was set back, or a standby with another one was promoted: nobody would come here for as long.
                or p.polled_at > clock_timestamp() + interval '1 minute'
            )
        order by coalesce(p.polled_at > clock_timestamp() + interval '1 minute', false) desc, p.polled_at nulls first, p.partition
        for update skip locked limit 1;
        exit when place.subscription is null;
        visited := visited || place.partition;
        former := place;
        if place.lease is not null then
            place := livestore._fail(subscriber, place, 'the lease ended');
        end if;
        place.lease := gen_random_uuid()::text;
        place.retry_at := null;
        place.polled_at := clock_timestamp();
        batch := null;
        if place.batch_end is null then
            select * into letter
            from livestore.dead_letters d
            where d.subscription = place.subscription and d.partition = place.partition and d.is_queued
            order by d.id limit 1;
            place.dead_letter := letter.id;
        end if;
        if place.dead_letter is not null then
            batch := array(
                select row(place.lease, d.partition, d.position, d.store_id, d.seq_num, d.name, d.args, d.client_id, d.session_id,
                    d.created_at, d.change, place.failures)::livestore.polled_event
                from livestore.dead_letters d where d.id = place.dead_letter
            );
        elsif exists (
            select from livestore.subscription_history h where h.subscription = place.subscription and h.partition = place.partition
        ) then
            batch := livestore._next_history(
                subscriber, place,
                case when place.batch_end is not null then place.batch_size when place.one_by_one > 0 then 1 else max_events end, max_bytes
            );
            if cardinality(batch) = 0 then
                delete from livestore.subscription_history h
                where h.subscription = place.subscription and h.partition = place.partition;
                place.batch_end := null;
            else
                place.batch_end := batch[cardinality(batch)].seq_num;
                place.batch_store := (
                    select s.id
                    from livestore.stores s
                    join livestore.subscription_history h on h.store = s.id
                    where s.store_id = batch[cardinality(batch)].store_id
                        and h.subscription = place.subscription and h.partition = place.partition
                );
                -- It was reset or dropped since it was read.
                continue when place.batch_store is null;
            end if;
        end if;
        if coalesce(cardinality(batch), 0) = 0 then
            place.dead_letter := null;
            place.batch_store := null;
            -- Events of no interest to this partition are passed, as far as one call may go.
            loop
                batch := livestore._next_commits(subscriber, place, max_events, max_bytes);
                looked_upto := batch[cardinality(batch)].position;
                if batch[cardinality(batch)].store_id is null then
                    batch := batch[:cardinality(batch) - 1];
                end if;
                exit when looked_upto is null or cardinality(batch) > 0;
                place.position := looked_upto;
                place.batch_end := null;
                exit when clock_timestamp() > start + interval '1 second';
            end loop;
            place.batch_end := case when cardinality(batch) > 0 then looked_upto end;
        end if;
        if cardinality(batch) > 0 then
            place.batch_size := cardinality(batch);
            place.leased_until := clock_timestamp() + lease_time;
            perform livestore._put(place);
            return query select * from unnest(batch);
            return;
        end if;
        place.lease := null;
        place.failures := 0;
        place.one_by_one := 0;
        -- Everybody who waits for events comes here with each commit.
        if place.position <> former.position or former.lease is not null or former.failures > 0 or former.one_by_one > 0
            or former.retry_at is not null or former.batch_size is not null or former.dead_letter is not null
            or former.polled_at is null or former.polled_at not between start - interval '10 seconds' and start
        then
            perform livestore._put(place);
        end if;
    end loop;
end
$$;

comment on function livestore.poll(text, integer, interval, integer) is
'The next events of a partition of a subscription that no other worker has, at most max_events (1 to 10000) with max_bytes of args (8 MiB; at most 64 MiB; an event of more comes alone), for lease_time (a second to a day). Call livestore.ack in the transaction of what you do with them, or livestore.nack. No row: there is nothing to do. Events that are not acknowledged in time are given out again, as a batch of the same events, and count as failed';

create or replace function livestore.ack(lease text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    place livestore.subscription_partitions := livestore._pass(livestore._leased(lease));
begin
    place.error := null;
    perform livestore._put(place);
end
$$;

comment on function livestore.ack(text) is
'Acknowledges the events that livestore.poll has given out with a lease. Raises LS007 if the lease has ended and another worker has the events: what this transaction has done with them is then rolled back';

create or replace function livestore.nack(
    lease text, retry_after interval default '1 second', error text default null, is_failure boolean default true
)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    place livestore.subscription_partitions := livestore._leased(lease);
begin
    if retry_after is null or retry_after not between interval '0' and interval '1 day' then
        raise exception 'retry_after must be between nothing and a day' using errcode = 'invalid_parameter_value';
    end if;
    if is_failure then
        place := livestore._fail(livestore._subscriber(place.subscription), place, error);
    else
        place.error := left(coalesce(error, place.error), 1000);
        place.lease := null;
        place.leased_until := null;
    end if;
    -- By the same clock, so that livestore.poll can tell if it is set back.
    place.polled_at := clock_timestamp();
    place.retry_at := place.polled_at + retry_after;
    perform livestore._put(place);
end
$$;

comment on function livestore.nack(text, interval, text, boolean) is
'Gives the events of a lease back: they have failed, and are given out again after retry_after (at most a day). is_failure => false: they have not failed, the worker stops or what it needs is away. When a batch has failed max_failures times, its events are given out one by one; an event that has then failed as often becomes a dead letter. Raises LS007 like livestore.ack';

create or replace function livestore.resend(dead_letter bigint)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update livestore.dead_letters d set is_queued = true where d.id = dead_letter;
    if not found then
        raise exception 'there is no dead letter %', dead_letter
            using errcode = 'undefined_object', hint = 'livestore.dead_letters lists them.';
    end if;
end
$$;

comment on function livestore.resend(bigint) is
'Gives a dead letter out again, alone, before the next events of its partition. It goes when it is acknowledged, and stays a dead letter when it fails';

-- With the rights of its caller, which the handler has, too.
create or replace function livestore.run_subscription(
    subscription text, max_events integer default 100, out events bigint, out error text
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    handler constant regprocedure := livestore._handler(subscription);
    call constant text := format('select %s($1)', handler::regproc);
    batch livestore.polled_event[];
    count bigint;
    event livestore.polled_event;
    context text;
begin
    -- livestore_admin names the handler, and what it does at the commit has the rights of the caller even if it is security definer.
    if (select r.rolsuper from pg_roles r where r.rolname = current_user)
        and not (select r.rolsuper from pg_proc p join pg_roles r on r.oid = p.proowner where p.oid = handler)
    then
        raise exception 'a superuser cannot run the handler % here, which is not a superuser''s', handler
            using errcode = 'insufficient_privilege',
                hint = 'Call livestore.run_subscription as a role with livestore_writer and no other rights.';
    end if;
    batch := array(select p from livestore.poll(subscription, max_events) p);
    count := cardinality(batch);
    events := 0;
    if count = 0 then
        return;
    end if;
    begin
        -- A handler may set a search_path: nothing that follows the first call looks for an operator or a function in it.
        foreach event in array batch loop
            execute call using event;
        end loop;
        perform livestore.ack(batch[1].lease);
        events := count;
    -- Others are not these: a statement that takes too long, and assert.
    exception when query_canceled or assert_failure or others then
        get stacked diagnostics error = message_text, context = pg_exception_context;
        -- The work of the handler is undone. The pause doubles with each failure, up to five minutes.
        perform livestore.nack(
            batch[1].lease, least(interval '1 second' * 2 ^ least(batch[1].failures, 10), interval '5 minutes'),
            error || chr(10) || context
        );
    end;
end
$$;

comment on function livestore.run_subscription(text, integer) is
'Calls the handler of a subscription with the next events of one of its partitions, at most max_events (1 to 10000), and acknowledges them in the same transaction: what the handler writes to this database is written exactly once. Returns the number of events; 0 if there is nothing to do. If the handler fails, error is its message, what it has done is undone, and the events count as failed. The handler has the rights of the caller, unless it is security definer. Call it as a role with livestore_writer and no other rights: a superuser may not run the handler of somebody who is none';
create or replace function livestore.version()
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select '0.3.0'
$$;

comment on function livestore.version() is 'The version of livestore_sync that is installed';
create or replace function livestore._check_commit(store_ids text[], name text, keys text[])
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if store_ids is null or array_position(store_ids, null) is not null then
        raise exception 'an event needs a store' using errcode = 'invalid_parameter_value';
    end if;
    if name is null or name = '' then
        raise exception 'an event needs a name' using errcode = 'LS003',
            detail = json_build_object('index', 0, 'reason', 'the name is null or empty');
    end if;
    if exists (select from unnest(keys) k where octet_length(k) not between 1 and 1024) then
        raise exception 'a key has between 1 and 1024 bytes' using errcode = 'invalid_parameter_value';
    end if;
end
$$;

comment on function livestore._check_commit(text[], text, text[]) is 'Internal: checks what is common to all forms of livestore.commit';

-- A body that is parsed here, so that queries contain it: a call for each of many events takes longer than their insert.
create or replace function livestore._event_after(head bigint, name text, args json, client_id text, session_id text)
returns json
language sql
stable
-- As clients write it, without white space: the portable flavour reads that many times faster.
return pg_catalog.concat(
    '{"name":', coalesce(pg_catalog.to_json(name)::pg_catalog.text, 'null'),
    case when args is not null then pg_catalog.concat(',"args":', args::pg_catalog.text) end,
    ',"seqNum":', head operator(pg_catalog.+) 1, ',"parentSeqNum":', head,
    ',"clientId":', coalesce(pg_catalog.to_json(client_id)::pg_catalog.text, 'null'),
    ',"sessionId":', coalesce(pg_catalog.to_json(session_id)::pg_catalog.text, 'null'), '}'
)::pg_catalog.json;

comment on function livestore._event_after(bigint, text, json, text, text) is 'Internal: an event as clients push it, behind a head';
create or replace function livestore._commit_entries(after bigint, last_position bigint)
returns table (first bigint, store bigint, upto bigint, events integer, change text, store_id text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select c.first_position + (sum(e.events) over (partition by c.position order by e.n))::bigint - e.events,
        e.store, e.upto, e.events, e.change, e.store_id
    from (
        -- A commit has at least one position, so there are no more commits than positions.
        select k.* from livestore.commits k where k.position > $1 order by k.position limit greatest($2 - $1, 0)
    ) c
    cross join lateral unnest(c.stores, c.upto, c.events, c.changes, c.store_ids)
        with ordinality e(store, upto, events, change, store_id, n)
    where c.first_position <= $2
$$;

comment on function livestore._commit_entries(bigint, bigint) is
'Internal: what the commits with positions after the first and up to the second have done to each store, with the first position of it; the first and the last commit whole';

create or replace function livestore._last_events(eventlog oid, store bigint, upto bigint, left_out bigint, wanted bigint)
returns table (
    n bigint, seq_num bigint, name text, args json, client_id text, session_id text, created_at timestamptz
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query execute format(
        'select row_number() over (order by l."seqNum" desc), l."seqNum", l.name, l.args, l."clientId", l."sessionId", l."createdAt"
         from (
             select * from %s k where k.store = $1 and k."seqNum" <= $2 order by k."seqNum" desc offset $3 limit $4
         ) l', eventlog::regclass
    ) using store, upto, left_out, wanted;
end
$$;

comment on function livestore._last_events(oid, bigint, bigint, bigint, bigint) is
'Internal: the last events of a store with a dedicated table up to a sequence number, but for the very last ones that are left out. n: 1 for the last';

create or replace function livestore._partition_of(store_id text, partitions integer)
returns integer
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    -- Not a hash function of Postgres, which may differ between machines: events would change their partitions with a dump.
    select case partitions when 1 then 0 else
        (get_byte(d.digest, 0) * 256 + get_byte(d.digest, 1)) % partitions
    end
    from (select sha256(convert_to(store_id, 'UTF8'))) d(digest)
$$;

comment on function livestore._partition_of(text, integer) is 'Internal: the partition of a subscription that a store belongs to, from 0';

create or replace function livestore._read_commits(
    after bigint, names text[], pattern text, partitions integer, partition_number integer, max_events integer, max_bytes bigint
)
returns table (
    "position" bigint, store_id text, seq_num bigint, name text, args json, client_id text, session_id text, created_at timestamptz,
    change text
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
-- The plan is made once, perhaps while the tables are small. Events are found by the primary key.
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    -- Most events may be passed over; this is what one call looks at.
    is_filtered constant boolean := names is not null or pattern is not null or partitions > 1;
    bound constant bigint := after + case when is_filtered then 10 else 1 end * max_events::bigint;
    last_position constant bigint := coalesce(max(c.position), 0) from livestore.commits c;
    last_looked constant bigint := least(bound, last_position);
begin
    if last_looked <= after then
        return;
    end if;
    return query
    with entries as materialized (
        select e.store, e.upto, e.events, e.first, e.change, coalesce(e.store_id, s.store_id) as store_id, s.eventlog,
            greatest(after - e.first + 1, 0) as skipped, greatest(e.first + e.events - 1 - last_looked, 0) as left_out
        from livestore._commit_entries(after, last_looked) e
        left join livestore.stores s on s.id = e.store
    ), wanted as materialized (
        select e.* from entries e
        where e.events > e.skipped + e.left_out and e.store_id is not null
            and (pattern is null or e.store_id like pattern)
            and (partitions = 1 or livestore._partition_of(e.store_id, partitions) = partition_number)
    ), found as materialized (
        select l.*
        from (
            select e.first + e.events - e.left_out - v.n as position, e.store_id, v.seq_num, v.name, v.args, v.client_id, v.session_id,
                v.created_at, null::text as change
            from wanted e
            cross join lateral (
                select row_number() over (order by l."seqNum" desc) as n, l."seqNum" as seq_num, l.name, l.args,
                    l."clientId" as client_id, l."sessionId" as session_id, l."createdAt" as created_at
                from (
                    select * from only livestore.eventlog_1 k
                    where k.store = e.store and k."seqNum" <= e.upto
                    order by k."seqNum" desc offset e.left_out limit e.events - e.skipped - e.left_out
                ) l
            ) v
            where e.change is null and e.eventlog = 'livestore.eventlog_1'::regclass and (names is null or v.name = any (names))
            union all
            select e.first + e.events - e.left_out - v.n, e.store_id, v.seq_num, v.name, v.args, v.client_id, v.session_id,
                v.created_at, null
            from wanted e
            cross join lateral livestore._last_events(
                e.eventlog::oid, e.store, e.upto, e.left_out, e.events - e.skipped - e.left_out
            ) v
            where e.change is null and e.eventlog <> 'livestore.eventlog_1'::regclass and (names is null or v.name = any (names))
            union all
            -- Of a rewrite, which event it is. With its name and args, a reader would take it for a new one.
            select e.first, e.store_id, case when e.change = 'rewrite' then e.upto end, null, null, null, null, null, e.change
            from wanted e where e.change is not null
        ) l
        order by l.position
        limit max_events
    ), counted as materialized (
        select f.*, max_bytes is null or row_number() over w = 1
            or coalesce(sum(octet_length(f.args::text)) over w, 0) <= max_bytes as fits
        from found f
        window w as (order by f.position)
    )
    select f.position, f.store_id, f.seq_num, f.name, f.args, f.client_id, f.session_id, f.created_at, f.change from counted f where f.fits
    union all
    -- How far this has looked, if no row says it.
    select last_looked, null, null, null, null, null, null, null, null
    where (select count(*) < max_events and max(f.position) is distinct from last_looked and coalesce(bool_and(f.fits), true) from counted f)
    order by 1;
end
$$;

comment on function livestore._read_commits(bigint, text[], text, integer, integer, integer, bigint) is
'Internal: livestore.read_all for the stores whose id is like a pattern, and that are in a partition, with max_bytes of args (null: any number). Looks at ten times max_events positions at most';
-- JSON Schema, as far as both drafts mean the same: draft-07 and 2020-12, which Effect's JSONSchema.make writes. In jsonb, which is what
-- a client makes of args: of two fields with one name the last one counts, and 1.0 is an integer.
create or replace function livestore._check_schema(schema jsonb, root jsonb, path text, is_negated boolean)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Those that say nothing of args, and those that are not checked: pattern and format would need the regular expressions of JavaScript.
    unchecked constant text[] := '{$schema,$id,$comment,title,description,default,examples,deprecated,readOnly,writeOnly,contentEncoding,contentMediaType,contentSchema,pattern,format}';
    flaw text;
    keyword record;
begin
    if jsonb_typeof(schema) = 'boolean' then
        return;
    elsif jsonb_typeof(schema) <> 'object' then
        flaw := 'a schema is an object, true or false';
    elsif schema ? '$ref' and (schema - unchecked) - '{$ref,$defs,definitions}'::text[] <> '{}' then
        flaw := 'drafts differ on keywords beside $ref: put both into allOf';
    elsif is_negated and schema ?| '{pattern,format,patternProperties,$ref}' then
        flaw := 'below not and oneOf, the keywords pattern, patternProperties, format and $ref cannot be used';
    end if;
    for keyword in
        select k.key, k.value, jsonb_typeof(k.value) as type from jsonb_each(case jsonb_typeof(schema) when 'object' then schema else '{}' end) k
        where k.key <> all (unchecked)
    loop
        exit when flaw is not null;
        case
            when keyword.key in ('enum', 'const') then
                if keyword.key = 'enum' and keyword.type <> 'array' then
                    flaw := 'enum is not an array';
                end if;
            when keyword.key = 'type' then
                if keyword.type not in ('string', 'array') or exists (
                    select from jsonb_array_elements(case keyword.type when 'array' then keyword.value else jsonb_build_array(keyword.value) end) t
                    where t.value not in ('"object"', '"array"', '"string"', '"number"', '"integer"', '"boolean"', '"null"')
                ) then
                    flaw := 'unknown type';
                end if;
            when keyword.key in ('minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum', 'multipleOf') then
                if keyword.type <> 'number' or keyword.key = 'multipleOf' and (keyword.value #>> '{}')::numeric <= 0 then
                    flaw := format('%s is not a number, or not greater than 0', keyword.key);
                end if;
            when keyword.key in ('minLength', 'maxLength', 'minItems', 'maxItems', 'minProperties', 'maxProperties') then
                if keyword.type <> 'number' or (keyword.value #>> '{}') !~ '^[0-9]{1,9}$' then
                    flaw := format('%s is not a whole number from 0 to 999999999', keyword.key);
                end if;
            when keyword.key = 'uniqueItems' then
                if keyword.type <> 'boolean' then
                    flaw := 'uniqueItems is not true or false';
                end if;
            when keyword.key = 'required' then
                if keyword.type <> 'array' or exists (
                    select from jsonb_array_elements(case keyword.type when 'array' then keyword.value else '[]' end) r
                    where jsonb_typeof(r.value) <> 'string'
                ) then
                    flaw := 'required is not an array of strings';
                end if;
            when keyword.key in ('properties', '$defs', 'definitions', 'patternProperties') then
                if keyword.type <> 'object' then
                    flaw := format('%s is not an object', keyword.key);
                else
                    perform livestore._check_schema(p.value, root, path || '/' || keyword.key || '/' || p.key, is_negated) from jsonb_each(keyword.value) p;
                end if;
            when keyword.key in ('anyOf', 'oneOf', 'allOf', 'prefixItems') or keyword.key = 'items' and keyword.type = 'array' then
                if keyword.type <> 'array' then
                    flaw := format('%s is not an array', keyword.key);
                else
                    perform livestore._check_schema(p.value, root, path || '/' || keyword.key || '/' || p.n - 1, is_negated or keyword.key = 'oneOf')
                    from jsonb_array_elements(keyword.value) with ordinality p(value, n);
                end if;
            when keyword.key in ('items', 'additionalItems', 'additionalProperties', 'propertyNames', 'not') then
                perform livestore._check_schema(keyword.value, root, path || '/' || keyword.key, is_negated or keyword.key = 'not');
            when keyword.key = '$ref' then
                -- To what is checked here, too.
                if root #> livestore._pointer(keyword.value) is null or keyword.value #>> '{}' !~ '^#(/([$]defs|definitions)/[^/]+)?$' then
                    flaw := '$ref does not name a part of this schema: it must be # or #/$defs/… or #/definitions/…';
                end if;
                for step in 1..100 loop
                    exit when root #> livestore._pointer(keyword.value) -> '$ref' is null;
                    keyword.value := root #> livestore._pointer(keyword.value) -> '$ref';
                    if step = 100 then
                        flaw := '$ref leads back to itself';
                    end if;
                end loop;
            else
                flaw := format('the keyword %s is not known here', to_json(left(keyword.key, 60)));
        end case;
    end loop;
    if flaw is not null then
        raise exception 'the schema cannot be used: at %, %', path, flaw
            using errcode = 'invalid_parameter_value', hint = 'docs/sql.md lists the keywords that are checked.';
    end if;
end
$$;

comment on function livestore._check_schema(jsonb, jsonb, text, boolean) is
'Internal: raises an error if this part of a schema, at a path of the whole one, uses what livestore._misfit does not check. is_negated: it is below not or oneOf, where what is not checked would refuse args that fit';

create or replace function livestore._pointer(reference jsonb)
returns text[]
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when reference = '"#"' then '{}'
        -- A JSON pointer in a URI.
        when jsonb_typeof(reference) = 'string' and left(reference #>> '{}', 2) = '#/' then (
            select array_agg(replace(replace(replace(s.step, '%25', '%'), '~1', '/'), '~0', '~') order by s.n)
            from unnest(string_to_array(substr(reference #>> '{}', 3), '/')) with ordinality s(step, n)
        )
    end
$$;

comment on function livestore._pointer(jsonb) is 'Internal: the path in a schema that a $ref means; null if it means another one';

-- A reason begins with where it is in the value, which the caller puts behind its own place.
create or replace function livestore._misfit(schema jsonb, subject jsonb, root jsonb, deadline timestamptz)
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    kind constant text := jsonb_typeof(subject);
    part record;
    reason text;
    keyword text;
    fitting integer;
begin
    -- A client decides by its args how long this takes, and all pushes wait for it.
    if clock_timestamp() > deadline then
        raise exception 'args cannot be checked in time' using errcode = 'LS000';
    elsif jsonb_typeof(schema) = 'boolean' then
        return case when schema = 'false' then ' must not be there' end;
    elsif schema ? '$ref' then
        return livestore._misfit(root #> livestore._pointer(schema -> '$ref'), subject, root, deadline);
    -- A few characters make a number of so many digits that to look at it takes long.
    elsif kind = 'number' and (
        subject not between '-1.8e308' and '1.8e308' or subject between '-1e-330' and '1e-330' and subject <> '0'
    ) then
        return ' is a number that JavaScript does not have';
    elsif schema ? 'type' and not (
        schema -> 'type' ? kind or kind = 'number' and schema -> 'type' ? 'integer' and (subject #>> '{}')::numeric % 1 = 0
    ) then
        return format(' is not of type %s', btrim((schema -> 'type')::text, '"'));
    elsif schema ? 'const' and subject <> schema -> 'const' then
        return ' is not the const of the schema';
    elsif schema ? 'enum' and not exists (select from jsonb_array_elements(schema -> 'enum') e where e.value = subject) then
        return ' is not in the enum of the schema';
    end if;
    if kind = 'object' then
        reason := livestore._misfit_of_object(schema, subject, root, deadline);
    elsif kind = 'array' then
        reason := livestore._misfit_of_array(schema, subject, root, deadline);
    elsif kind = 'string' and schema ?| '{minLength,maxLength}' then
        reason := livestore._misfit_of_size(schema, 'Length', char_length(subject #>> '{}'));
    elsif kind = 'number' and schema ?| '{minimum,maximum,exclusiveMinimum,exclusiveMaximum,multipleOf}' then
        reason := livestore._misfit_of_number(schema, (subject #>> '{}')::numeric);
    end if;
    if reason is not null or not schema ?| '{allOf,anyOf,oneOf,not}' then
        return reason;
    end if;
    for part in select s.value from jsonb_array_elements(schema -> 'allOf') s loop
        reason := livestore._misfit(part.value, subject, root, deadline);
        if reason is not null then
            return reason;
        end if;
    end loop;
    if schema ? 'not' and livestore._misfit(schema -> 'not', subject, root, deadline) is null then
        return ' fits what is under not';
    end if;
    foreach keyword in array array['anyOf', 'oneOf'] loop
        if schema ? keyword then
            fitting := 0;
            for part in select s.value from jsonb_array_elements(schema -> keyword) s loop
                fitting := fitting + (livestore._misfit(part.value, subject, root, deadline) is null)::integer;
                exit when fitting = 2 or fitting = 1 and keyword = 'anyOf';
            end loop;
            if fitting <> 1 then
                return format(' fits %s of %s', case fitting when 0 then 'none' else 'more than one' end, keyword);
            end if;
        end if;
    end loop;
    return null;
end
$$;

comment on function livestore._misfit(jsonb, jsonb, jsonb, timestamptz) is
'Internal: why a value does not fit a part of a schema that livestore._check_schema has passed; null if it fits. Raises LS000 after the deadline';

create or replace function livestore._misfit_of_number(schema jsonb, subject numeric)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return case
        when subject < (schema ->> 'minimum')::numeric then ' is less than ' || (schema ->> 'minimum')
        when subject > (schema ->> 'maximum')::numeric then ' is greater than ' || (schema ->> 'maximum')
        when subject <= (schema ->> 'exclusiveMinimum')::numeric then ' is not greater than ' || (schema ->> 'exclusiveMinimum')
        when subject >= (schema ->> 'exclusiveMaximum')::numeric then ' is not less than ' || (schema ->> 'exclusiveMaximum')
        when subject % (schema ->> 'multipleOf')::numeric <> 0 then ' is not a multiple of ' || (schema ->> 'multipleOf')
    end;
end
$$;

comment on function livestore._misfit_of_number(jsonb, numeric) is 'Internal: livestore._misfit for what a schema says of numbers';

create or replace function livestore._misfit_of_size(schema jsonb, sized text, size integer)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return case
        when size < (schema ->> ('min' || sized))::integer then ' is shorter than ' || (schema ->> ('min' || sized))
        when size > (schema ->> ('max' || sized))::integer then ' is longer than ' || (schema ->> ('max' || sized))
    end;
end
$$;

comment on function livestore._misfit_of_size(jsonb, text, integer) is
'Internal: livestore._misfit for minLength and maxLength, minItems and maxItems, minProperties and maxProperties';

create or replace function livestore._misfit_of_array(schema jsonb, subject jsonb, root jsonb, deadline timestamptz)
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    -- The first items have schemas of their own, by prefixItems or, in draft-07, by items; the others have one for all.
    is_tuple constant boolean := coalesce(jsonb_typeof(schema -> 'items') = 'array', false);
    first constant jsonb := coalesce(case when is_tuple then schema -> 'items' else schema -> 'prefixItems' end, '[]');
    others constant jsonb := case when is_tuple then schema -> 'additionalItems' else schema -> 'items' end;
    part record;
    reason text := livestore._misfit_of_size(schema, 'Items', jsonb_array_length(subject));
begin
    if reason is null and schema -> 'uniqueItems' = 'true'
        and (select count(distinct e.value) <> count(*) from jsonb_array_elements(subject) e)
    then
        return ' has an item twice';
    end if;
    if reason is not null or others is null and first = '[]' then
        return reason;
    end if;
    for part in select e.value, e.n::integer - 1 as place from jsonb_array_elements(subject) with ordinality e(value, n) loop
        reason := livestore._misfit(coalesce(first -> part.place, others, 'true'), part.value, root, deadline);
        if reason is not null then
            return format('[%s]%s', part.place, reason);
        end if;
    end loop;
    return null;
end
$$;

comment on function livestore._misfit_of_array(jsonb, jsonb, jsonb, timestamptz) is 'Internal: livestore._misfit for what a schema says of arrays';

create or replace function livestore._misfit_of_object(schema jsonb, subject jsonb, root jsonb, deadline timestamptz)
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    properties constant jsonb := schema -> 'properties';
    required constant jsonb := schema -> 'required';
    -- Which names a pattern means is not checked.
    others constant jsonb := case when not schema ? 'patternProperties' then schema -> 'additionalProperties' end;
    names constant jsonb := schema -> 'propertyNames';
    name text;
    reason text;
begin
    if schema ?| '{minProperties,maxProperties}' then
        reason := livestore._misfit_of_size(schema, 'Properties', (select count(*)::integer from jsonb_object_keys(subject)));
        if reason is not null then
            return reason;
        end if;
    end if;
    for place in 0..coalesce(jsonb_array_length(required), 0) - 1 loop
        if not subject ? (required ->> place) then
            return livestore._name_in_path(required ->> place) || ' is missing';
        end if;
    end loop;
    -- Fields that tell the members of a union apart come first.
    for name in select k from jsonb_object_keys(subject) k order by not coalesce(properties -> k ?| '{const,enum}', false) loop
        reason := livestore._misfit(coalesce(properties -> name, others, 'true'), subject -> name, root, deadline);
        if reason is null and names is not null then
            reason := livestore._misfit(names, to_jsonb(name), root, deadline);
        end if;
        if reason is not null then
            -- Other names are somebody's content.
            return case when properties ? name then livestore._name_in_path(name) else '[unknown field]' end || reason;
        end if;
    end loop;
    return null;
end
$$;

comment on function livestore._misfit_of_object(jsonb, jsonb, jsonb, timestamptz) is 'Internal: livestore._misfit for what a schema says of objects';

create or replace function livestore._name_in_path(name text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select case when name ~ '^[A-Za-z_][A-Za-z0-9_]{0,62}$' then '.' || name else format('[%s]', to_json(left(name, 63))) end
$$;

comment on function livestore._name_in_path(text) is 'Internal: the name of a property as a path has it';

create or replace function livestore._misfit_of_args(schema json, args json, deadline timestamptz)
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    root constant jsonb := schema;
begin
    if octet_length(args::text) > 262144 then
        return 'args cannot be checked: they are longer than 256 KiB';
    end if;
    return left(
        'args' || livestore._misfit(
            root, coalesce(case when strpos(args::text, E'\\u') = 0 then args else livestore._readable(args) end::jsonb, 'null'), root, deadline
        ), 1000
    );
exception
    when sqlstate 'LS000' then
        return 'args cannot be checked in time';
    -- They nest too deeply, or have a number or a name that is too long.
    when others then
        return format('args cannot be checked (SQLSTATE %s)', sqlstate);
end
$$;

comment on function livestore._misfit_of_args(json, json, timestamptz) is
'Internal: why args do not fit a schema; null if they do. No args count as null. In place of what Postgres cannot read as text they have U+FFFD. What cannot be checked until the deadline is said to be so';

create or replace function livestore._check_args(names text[], args json[])
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    unfit record;
begin
    if not exists (select from livestore.event_types t where t.name = any (names) and t.mode <> 'off') then
        return;
    end if;
    for unfit in
        select e.n - 1 as index, e.name, livestore._misfit_of_args(t.schema, e.args, clock_timestamp() + interval '10 s') as reason
        from unnest(names, args) with ordinality e(name, args, n)
        cross join lateral livestore._event_type(e.name) t
        where t.mode <> 'off'
        order by e.n
    loop
        if unfit.reason is not null then
            raise exception 'the event does not fit the type %: %', to_json(unfit.name), unfit.reason
                using errcode = 'LS003', detail = json_build_object('index', unfit.index, 'reason', unfit.reason);
        end if;
    end loop;
end
$$;

comment on function livestore._check_args(text[], json[]) is
'Internal: raises LS003 if one of these events, which SQL is about to write, does not fit its type';

create or replace function livestore._event_type(name text)
returns setof livestore.event_types
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select * from livestore.event_types t where t.name = $1 order by t.version desc limit 1
$$;

comment on function livestore._event_type(text) is 'Internal: the version of an event''s type that counts';

-- On livestore.eventlog_1 while there are types: without them, pushes cost what they cost without hooks. Copied like the hooks of an
-- application to dedicated tables.
create or replace function livestore._check_appended()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    unfit record;
    deadline timestamptz;
begin
    -- A restore, which brings what was found when the event was pushed.
    if livestore.current_store_id() is null then
        return null;
    end if;
    deadline := clock_timestamp() + interval '100 ms' + (select count(*) from appended) * interval '1 ms';
    for unfit in
        select a.store, a."seqNum" as seq_num, a.name, t.version, t.mode, livestore._misfit_of_args(t.schema, a.args, deadline) as reason
        from appended a
        cross join lateral livestore._event_type(a.name) t
        where t.mode <> 'off'
    loop
        if unfit.reason is null then
            continue;
        elsif unfit.mode = 'enforce' and unfit.reason not like 'args cannot be checked%' then
            raise exception 'the event does not fit the type %: %', to_json(unfit.name), unfit.reason using errcode = 'check_violation';
        end if;
        insert into livestore.found_misfits (store, seq_num, name, version, reason)
        values (unfit.store, unfit.seq_num, unfit.name, unfit.version, unfit.reason)
        on conflict (store, seq_num) do update set name = excluded.name, version = excluded.version, reason = excluded.reason, found_at = default;
    end loop;
    return null;
end
$$;

comment on function livestore._check_appended() is 'Internal: trigger on event logs, which checks what is pushed against livestore.event_types';

create or replace function livestore._check_new_events(eventlog regclass)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from pg_trigger t where t.tgrelid = eventlog and t.tgname = 'livestore_event_types') then
        execute format(
            'create trigger livestore_event_types after insert on %s referencing new table as appended for each statement execute function livestore._check_appended()',
            eventlog
        );
    end if;
end
$$;

comment on function livestore._check_new_events(regclass) is 'Internal: has the events of a table checked from now on';

-- A dump brings the types, and the triggers of dedicated tables, but not the trigger of an extension's table.
create or replace function livestore._follow_event_types()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform livestore._check_new_events('livestore.eventlog_1');
    return null;
end
$$;

comment on function livestore._follow_event_types() is 'Internal: trigger on livestore.event_types, for restored ones';

create or replace trigger follow_event_types after insert on livestore.event_types
    for each statement execute function livestore._follow_event_types();

comment on trigger follow_event_types on livestore.event_types is 'Has new events checked, after a restore, too';
create or replace function livestore._column_of(schema jsonb, root jsonb)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    kinds text[];
    -- References to references may come back to where they began.
    steps integer := 20;
begin
    while schema ? '$ref' and steps > 0 loop
        schema := root #> livestore._pointer(schema -> '$ref');
        steps := steps - 1;
    end loop;
    if jsonb_typeof(schema -> 'anyOf') = 'array' then
        -- Of a union with null, the other member.
        if (select count(*) = 1 from jsonb_array_elements(schema -> 'anyOf') s where s.value -> 'type' is distinct from '"null"') then
            return livestore._column_of((
                select s.value from jsonb_array_elements(schema -> 'anyOf') s where s.value -> 'type' is distinct from '"null"'
            ), root);
        end if;
        return null;
    end if;
    kinds := case jsonb_typeof(schema)
        when 'object' then array(
            select distinct k.kind from (
                select jsonb_array_elements_text(case jsonb_typeof(schema -> 'type') when 'array' then schema -> 'type' else jsonb_build_array(schema -> 'type') end)
                where schema ? 'type'
                union all
                select jsonb_typeof(e) from jsonb_array_elements(
                    coalesce(schema -> 'enum', case when schema ? 'const' then jsonb_build_array(schema -> 'const') end)
                ) e where not schema ? 'type'
            ) k(kind)
            where k.kind <> 'null'
        )
    end;
    return case
        when kinds = '{string}' and schema ->> 'format' = 'date-time' then 'try_timestamptz'
        when kinds = '{string}' then 'text'
        when kinds = '{boolean}' then 'try_boolean'
        when kinds = '{integer}' then 'try_bigint'
        when kinds <@ '{integer,number}' and kinds <> '{}' then 'try_double'
    end;
end
$$;

comment on function livestore._column_of(jsonb, jsonb) is
'Internal: for a part of a schema, the function of this schema that makes a column of the text of a field; text: the text itself; null: the column is JSON';
create or replace function livestore._delete_events(eventlog regclass, store bigint)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Bit 3 of tgtype: a DELETE trigger.
    if exists (
        select from pg_trigger t where t.tgrelid = eventlog and not t.tgisinternal and t.tgtype & 8 <> 0 and t.tgdeferrable
    ) then
        raise exception '% has a deferrable trigger on DELETE, which would run as whoever commits', eventlog
            using errcode = 'feature_not_supported', hint = 'Create it as not deferrable.';
    end if;
    -- ev_type 4: a rule on DELETE.
    if not exists (select from pg_trigger t where t.tgrelid = eventlog and not t.tgisinternal and t.tgtype & 8 <> 0)
        and not exists (select from pg_rewrite r where r.ev_class = eventlog and r.ev_type = '4')
    then
        execute format('delete from only %s where store = $1', eventlog) using store;
    elsif current_user <> 'livestore_owner' or has_table_privilege('livestore_hooks'::name, eventlog::oid, 'delete'::text) then
        perform livestore._delete_hooked_events(eventlog::oid, store);
    else
        raise exception '% has a trigger or a rule on DELETE, and the role livestore_hooks, as which it runs, may not delete', eventlog
            using errcode = 'insufficient_privilege', hint = format('grant delete on %s to livestore_hooks', eventlog);
    end if;
end
$$;

comment on function livestore._delete_events(regclass, bigint) is
'Internal: deletes the events of a store from a table; as livestore_hooks, if that has triggers or rules on DELETE';

create or replace function livestore._admit_hooks(eventlog oid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- The policy is created only when it is needed: pg_dump would dump it, although the extension creates it itself.
    if exists (select from pg_class c where c.oid = eventlog and c.relrowsecurity)
        and not exists (select from pg_policy p where p.polrelid = eventlog and p.polname = 'livestore_hooks')
    then
        execute format(
            'create policy livestore_hooks on %s for all to livestore_hooks using (true) with check (true)', eventlog::regclass
        );
    end if;
end
$$;

comment on function livestore._admit_hooks(oid) is
'Internal: where row level security is on for the table of a store, a policy that lets livestore_hooks insert what is pushed';

-- Databases before 0.3.0 have tables of stores that belong to whoever installed the extension, and so do restored dumps of them.
create or replace function livestore._adopt_table(eventlog regclass)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (
        select from pg_class c
        where c.oid = eventlog and c.relowner = 'livestore_owner'::regrole
            and has_table_privilege('livestore_reader'::name, c.oid, 'select'::text)
            and has_table_privilege('livestore_hooks'::name, c.oid, 'insert'::text)
    ) then
        return;
    end if;
    -- A restore in parallel may be filling it.
    execute format('lock table %s in access exclusive mode', eventlog);
    if not exists (select from pg_class c where c.oid = eventlog and c.relowner = 'livestore_owner'::regrole) then
        execute format('alter table %s owner to livestore_owner', eventlog);
    end if;
    execute format('grant select on %s to livestore_reader', eventlog);
    execute format('grant insert on %s to livestore_hooks', eventlog);
end
$$;

comment on function livestore._adopt_table(regclass) is
'Internal: gives the dedicated table of a store to livestore_owner, with the privileges that such a table has';

create or replace function livestore._adopt_restored_table()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform livestore._adopt_table(new.eventlog);
    return null;
end
$$;

comment on function livestore._adopt_restored_table() is
'Internal: trigger on livestore.stores, where nothing but a restore inserts a store that has a table already';

create or replace trigger adopt_restored_table after insert on livestore.stores
    for each row when (new.eventlog <> 'livestore.eventlog_1'::regclass) execute function livestore._adopt_restored_table();

comment on trigger adopt_restored_table on livestore.stores is
'Gives tables that come with a dump of an earlier version to livestore_owner';
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
        raise exception 'these are not the lines that were exported: of % events there are %', expected_events, total
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
create or replace function livestore._stored_events(stores bigint[], seq_nums bigint[])
returns setof livestore.eventlog_1
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    own record;
begin
    -- only, because without it Postgres would lock the dedicated tables of all stores, which inherit from this one, and plan
    -- a scan of each.
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

comment on function livestore._stored_events(bigint[], bigint[]) is
'Internal: the events that are in the log at these positions, as arrays of livestore.stores.id and seqNum';

create or replace function livestore._push_some(
    store_ids text[], batches text[], backend_ids text[], positions integer[], source text, contexts text[]
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
        array_agg(contexts[p.push] order by p.n) as contexts
    into chosen
    from unnest(positions) with ordinality p(push, n);
    begin
        for result in
            select * from livestore._append(chosen.store_ids, chosen.batches, chosen.backend_ids, source, chosen.contexts)
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
            -- LS… from a hook that pushes to another store says nothing about this push, and must not be read as its result.
            if result.sqlstate like 'LS%' then
                result.sqlstate := '09000';
            end if;
            return next result;
            return;
        end if;
    end;
    -- One of these pushes failed and rolled all of them back. Trying the halves, in order, finds it.
    return query select * from livestore._push_some(store_ids, batches, backend_ids, positions[:half], source, contexts);
    return query select * from livestore._push_some(store_ids, batches, backend_ids, positions[half + 1:], source, contexts);
end
$$;

comment on function livestore._push_some(text[], text[], text[], integer[], text, text[]) is
'Internal: carries out the pushes at these positions together and, if an error stops them, in halves, so that it stops only the push that it belongs to';

create or replace function livestore._lock_free_stores(store_ids text[], out free integer[], out held integer[], out new integer[])
language sql
set search_path = pg_catalog, pg_temp
as $$
    with locked as materialized (
        select s.id from livestore.stores s where s.store_id = any (store_ids)
        order by s.store_id collate "C" for update skip locked
    )
    select array_agg(p.push::integer order by p.push) filter (where l.id is not null),
        array_agg(p.push::integer order by p.push) filter (where l.id is null and s.id is not null),
        array_agg(p.push::integer order by p.push) filter (where s.id is null)
    from unnest(store_ids) with ordinality p(store_id, push)
    left join livestore.stores s on s.store_id = p.store_id
    left join locked l on l.id = s.id
$$;

comment on function livestore._lock_free_stores(text[]) is
'Internal: locks the rows of the stores that nobody else holds, without waiting, and tells which pushes are to those, which to stores that are held, and which to stores that do not exist';

-- SKIP LOCKED still waits if another transaction has locked a version of the row that is newer than the one the statement sees.
create or replace function livestore._find_free_stores(store_ids text[], out free integer[], out held integer[], out new integer[])
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '3ms'
as $$
declare
    half constant integer := cardinality(store_ids) / 2;
    first record;
    second record;
begin
    select * into free, held, new from livestore._lock_free_stores(store_ids);
exception when lock_not_available then
    if half = 0 then
        held := array[1];
        return;
    end if;
    first := livestore._find_free_stores(store_ids[:half]);
    second := livestore._find_free_stores(store_ids[half + 1:]);
    free := first.free || array(select p.push + half from unnest(second.free) p(push));
    held := first.held || array(select p.push + half from unnest(second.held) p(push));
    new := first.new || array(select p.push + half from unnest(second.new) p(push));
    free := nullif(free, '{}');
    held := nullif(held, '{}');
    new := nullif(new, '{}');
end
$$;

comment on function livestore._find_free_stores(text[]) is
'Internal: livestore._lock_free_stores for any stores, which never fails: where it would wait, it tries halves, so that only the stores for which it would wait count as held';
-- Transactions that change which device is connected where run one after the other. Otherwise two devices that join at the
-- same time on two sidecars would not see each other, and connection numbers would not be in the order of the commits. The
-- lock is that of a table: an advisory lock could be taken by every role that may connect.
create or replace function livestore._relay_lock()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    lock table livestore.relay_presence in exclusive mode;
end
$$;

comment on function livestore._relay_lock() is 'Internal: held by a transaction that changes who is connected to the peer relay, and where';

create or replace function livestore._relay_notify(sidecar text, body text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    parcel bigint;
begin
    if octet_length(body) < 7900 then
        -- The number makes each notification unique: Postgres sends identical ones of a transaction only once.
        perform pg_notify('livestore_relay_' || sidecar, nextval('livestore.relay_parcels_id_seq') || ':' || body);
    else
        -- A sidecar whose row is locked because it is being removed gets no message, and nobody waits for the lock.
        insert into livestore.relay_parcels (sidecar, body)
        select s.sidecar, $2 from livestore.relay_sidecars s where s.sidecar = $1 for key share skip locked
        returning id into parcel;
        if found then
            perform pg_notify('livestore_relay_' || sidecar, parcel || ':');
        end if;
    end if;
end
$$;

comment on function livestore._relay_notify(text, text) is
'Internal: sends a sidecar a text of any length on its channel: <number>:<text>, or <id>: of a parcel to fetch';

create or replace function livestore._relay_forget(dead text[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from livestore.relay_sidecars s where s.sidecar = any (dead);
    if found then
        perform livestore._relay_notify(s.sidecar, json_build_object('gone', dead)::text)
        from livestore.relay_sidecars s;
    end if;
end
$$;

comment on function livestore._relay_forget(text[]) is 'Internal: removes sidecars with their devices and parcels, and tells the others';

create or replace function livestore._relay_key(client_id text, session_id text, event_number text)
returns bigint
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select hashtextextended(json_build_array(client_id, session_id, event_number)::text, 0)
$$;

comment on function livestore._relay_key(text, text, text) is 'Internal: a hash of an event of the peer relay, to find it if it is pushed again';
-- Keyed, so that whoever reads it cannot try out what the event may have been.
create or replace function livestore._digest(parent_seq_num bigint, name text, args text, client_id text, session_id text)
returns bytea
language sql
stable
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select sha256(convert_to(
        (select i.rewrite_key from livestore.instance i order by i.created_at limit 1)
            || json_build_array(parent_seq_num, name, args, client_id, session_id)::text, 'UTF8'
    ))
$$;

comment on function livestore._digest(bigint, text, text, text, text) is
'Internal: what tells an event that was rewritten from others';

create or replace function livestore._was_rewritten(
    store bigint, seq_num bigint, parent_seq_num bigint, name text, args text, client_id text, session_id text
)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select exists (
        select from livestore.rewritten_events r
        where r.store = $1 and r.seq_num = $2 and r.digest = livestore._digest(parent_seq_num, name, args, client_id, session_id)
    )
$$;

comment on function livestore._was_rewritten(bigint, bigint, bigint, text, text, text, text) is
'Internal: whether an event of the log was this one before livestore.rewrite_event or livestore.erase changed it';

create or replace function livestore._rewrite(store_id text, seq_nums bigint[], new_name text, new_args json, reason text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    store livestore.stores;
    stored livestore.eventlog_1[];
    event record;
    found livestore.push_result;
begin
    perform livestore._forget_errors(store_id);
    store := livestore._lock_existing_store(store_id);
    seq_nums := array(select distinct w.seq_num from unnest(seq_nums) w(seq_num) order by 1);
    stored := array(select e from livestore._stored_events(array_fill(store.id, array[cardinality(seq_nums)]), seq_nums) e);
    if cardinality(stored) < cardinality(seq_nums) then
        raise exception 'the store % has no event %', to_json(store_id), (
            select coalesce(min(w.seq_num)::text, 'null') from unnest(seq_nums) w(seq_num)
            where not exists (select from unnest(stored) e where e."seqNum" = w.seq_num)
        ) using errcode = 'no_data_found';
    end if;
    for event in select distinct coalesce(new_name, e.name) as name from unnest(stored) e loop
        -- Pushes decide what an event may contain. This one has a wrong backend id, which is looked at last.
        select r.* into found
        from livestore._append(
            array[store_id],
            array[json_build_array(livestore._event_after(store.head, event.name, new_args, 'server', 'sql'))::text], array['']
        ) r;
        if found.sqlstate = 'LS003' then
            raise exception '%', found.message using errcode = 'LS003', detail = found.detail;
        end if;
        perform livestore._check_args(array[event.name], array[new_args]);
    end loop;
    insert into livestore.rewritten_events (store_id, store, seq_num, digest, reason)
    select store_id, store.id, e."seqNum",
        livestore._digest(e."parentSeqNum", e.name, e.args::text, e."clientId", e."sessionId"), reason
    from unnest(stored) e
    order by e."seqNum";
    delete from livestore.found_misfits m where m.store = store.id and m.seq_num = any (seq_nums);
    update livestore.dead_letters d set name = coalesce(new_name, d.name), args = new_args, error = null
    from unnest(stored) e
    where d.store_id = _rewrite.store_id and d.seq_num = e."seqNum" and d.created_at = e."createdAt";
    if not livestore._runs_code_on_update(store.eventlog) then
        execute format('update only %s set name = coalesce($1, name), args = $2 where store = $3 and "seqNum" = any ($4)', store.eventlog)
            using new_name, new_args, store.id, seq_nums;
    elsif current_user <> 'livestore_owner' or has_table_privilege('livestore_hooks'::name, store.eventlog::oid, 'update'::text) then
        perform livestore._update_hooked_events(
            store.eventlog::oid, store.id, seq_nums, coalesce(new_name, ''), coalesce(new_args::text, '')
        );
    else
        raise exception 'an update of % runs code of the application, and the role livestore_hooks, as which it runs, may not update', store.eventlog
            using errcode = 'insufficient_privilege', hint = format('grant select, update on %s to livestore_hooks', store.eventlog);
    end if;
    if exists (
        select from livestore._stored_events(array_fill(store.id, array[cardinality(seq_nums)]), seq_nums) e
        where e.name <> coalesce(new_name, e.name) or e.args::text is distinct from new_args::text
    ) then
        raise exception 'a trigger or a policy of % has kept events from being rewritten', store.eventlog
            using errcode = 'triggered_data_change_violation';
    end if;
    perform livestore._note_change(store.id, w.seq_num, 'rewrite', store_id)
    from unnest(seq_nums) with ordinality w(seq_num, n)
    order by w.n;
    perform livestore._notify_heads(array[store_id], array[null::bigint]);
end
$$;

comment on function livestore._rewrite(text, bigint[], text, json, text) is
'Internal: gives events of a store another name (null: keeps it) and other args; sidecars forget what they hold of the store';

create or replace function livestore._runs_code_on_update(eventlog regclass)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Bit 4 of tgtype: an UPDATE trigger.
    if exists (
        select from pg_trigger t where t.tgrelid = eventlog and not t.tgisinternal and t.tgtype & 16 <> 0 and t.tgdeferrable
    ) then
        raise exception '% has a deferrable trigger on UPDATE, which would run as whoever commits', eventlog
            using errcode = 'feature_not_supported', hint = 'Create it as not deferrable.';
    end if;
    -- ev_type: 1 is a rule on SELECT, 2 on UPDATE. What Postgres comes with is not in pg_depend. A domain may have constraints that
    -- call functions; an enum calls none.
    return exists (select from pg_trigger t where t.tgrelid = eventlog and not t.tgisinternal and t.tgtype & 16 <> 0)
        or exists (select from pg_rewrite r where r.ev_class = eventlog and r.ev_type = '2')
        or exists (
            select from pg_depend d
            left join pg_proc p on d.refclassid = 'pg_proc'::regclass and p.oid = d.refobjid
            left join pg_type t on d.refclassid = 'pg_type'::regclass and t.oid = d.refobjid
            where d.refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_opclass'::regclass, 'pg_type'::regclass)
                and p.pronamespace is distinct from 'livestore'::regnamespace
                and t.typtype is distinct from 'e'
                and (
                    d.classid = 'pg_class'::regclass and d.objid in (select i.indexrelid from pg_index i where i.indrelid = eventlog)
                    or d.classid = 'pg_constraint'::regclass and d.objid in (select c.oid from pg_constraint c where c.conrelid = eventlog)
                    or d.classid = 'pg_attrdef'::regclass and d.objid in (select a.oid from pg_attrdef a where a.adrelid = eventlog)
                )
        );
end
$$;

comment on function livestore._runs_code_on_update(regclass) is
'Internal: whether an update of the table of a store calls functions of the application: by a trigger, a rule, an index, a constraint or a generated column';
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
    greatest_number constant bigint := max(s.id) from livestore.stores s;
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

create or replace function livestore._register_stores(store_ids text[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    missing constant text[] := array_agg(distinct w.store_id) from unnest(store_ids) w(store_id)
        where not exists (select from livestore.stores s where s.store_id = w.store_id);
begin
    if missing is null then
        return;
    end if;
    perform livestore._mend_store_numbers();
    -- Names the constraint, so that only an existing store is ignored. Any other conflict is an error.
    insert into livestore.stores (store_id, backend_id)
    select m.store_id, livestore.backend_id(m.store_id)
    from unnest(missing) m(store_id)
    order by m.store_id collate "C"
    on conflict on constraint stores_store_id_key do nothing;
end
$$;

comment on function livestore._register_stores(text[]) is 'Internal: adds the stores that do not exist yet';

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
            found.definition, ' INDEX .*? ON (?:ONLY )?livestore\.eventlog_1 USING ', format(' INDEX ON %s USING ', eventlog::regclass)
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
create or replace function livestore._subscriber(subscription text)
returns livestore.subscribers
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    subscriber livestore.subscribers;
begin
    select * into subscriber from livestore.subscribers s where s.name = subscription;
    if not found then
        raise exception 'there is no subscription %', coalesce(to_json(subscription)::text, 'null')
            using errcode = 'undefined_object', hint = 'livestore.subscriptions lists them; livestore.subscribe makes one.';
    end if;
    return subscriber;
end
$$;

comment on function livestore._subscriber(text) is 'Internal: a subscription';

create or replace function livestore._leased(lease text)
returns livestore.subscription_partitions
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    place livestore.subscription_partitions;
begin
    -- Also after its time, as long as no other worker has come.
    select * into place from livestore.subscription_partitions p where p.lease = $1 for update;
    if not found then
        raise exception 'the lease has ended' using errcode = 'LS007',
            hint = 'Another worker has the events, or they were acknowledged. Roll back, and poll again; a longer lease_time may help.';
    end if;
    return place;
end
$$;

comment on function livestore._leased(text) is 'Internal: the partition with a lease, locked; raises LS007 if no partition has it';

create or replace function livestore._put(place livestore.subscription_partitions)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    update livestore.subscription_partitions p
    set "position" = place."position", lease = place.lease, leased_until = place.leased_until, batch_size = place.batch_size,
        batch_end = place.batch_end, batch_store = place.batch_store, dead_letter = place.dead_letter, one_by_one = place.one_by_one,
        failures = place.failures, retry_at = place.retry_at, error = place.error, polled_at = place.polled_at
    where p.subscription = place.subscription and p.partition = place.partition
$$;

comment on function livestore._put(livestore.subscription_partitions) is 'Internal: stores the state of a partition';

create or replace function livestore._pass(place livestore.subscription_partitions)
returns livestore.subscription_partitions
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if place.dead_letter is not null then
        delete from livestore.dead_letters d where d.id = place.dead_letter;
    elsif place.batch_store is not null then
        delete from livestore.subscription_history h
        where h.subscription = place.subscription and h.partition = place.partition and h.store < place.batch_store;
        update livestore.subscription_history h set after = place.batch_end
        where h.subscription = place.subscription and h.partition = place.partition and h.store = place.batch_store;
        place.one_by_one := greatest(place.one_by_one - place.batch_size, 0);
    else
        place.position := place.batch_end;
        place.one_by_one := greatest(place.one_by_one - place.batch_size, 0);
    end if;
    place.lease := null;
    place.leased_until := null;
    place.batch_size := null;
    place.batch_end := null;
    place.batch_store := null;
    place.dead_letter := null;
    place.failures := 0;
    place.retry_at := null;
    return place;
end
$$;

comment on function livestore._pass(livestore.subscription_partitions) is
'Internal: the state of a partition behind the events that were given out';

create or replace function livestore._fail(
    subscriber livestore.subscribers, place livestore.subscription_partitions, error text
)
returns livestore.subscription_partitions
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    event livestore.polled_event;
begin
    place.failures := place.failures + 1;
    place.error := left(error, 1000);
    place.lease := null;
    place.leased_until := null;
    if place.failures < subscriber.max_failures then
        return place;
    end if;
    if place.dead_letter is not null then
        update livestore.dead_letters d
        set is_queued = false, failures = d.failures + place.failures, error = place.error, failed_at = clock_timestamp()
        where d.id = place.dead_letter;
        place.dead_letter := null;
        place.batch_size := null;
    elsif place.batch_size > 1 then
        place.one_by_one := place.batch_size;
        place.batch_size := null;
        place.batch_end := null;
        place.batch_store := null;
    else
        event := (case when place.batch_store is not null then livestore._next_history(subscriber, place, 1, 1)
            else livestore._next_commits(subscriber, place, 1, 1) end)[1];
        -- Of a store that was reset or dropped meanwhile, this is another one.
        if event.store_id is not null and (
            place.batch_store is null or event.seq_num = place.batch_end
                and place.batch_store = (select s.id from livestore.stores s where s.store_id = event.store_id)
        ) then
            insert into livestore.dead_letters (
                subscription, "partition", "position", store_id, seq_num, name, args, client_id, session_id, created_at, change, failures,
                error
            )
            values (
                place.subscription, place.partition, event."position", event.store_id, event.seq_num, event.name, event.args,
                event.client_id, event.session_id, event.created_at, event.change, place.failures, place.error
            );
        end if;
        place := livestore._pass(place);
    end if;
    place.failures := 0;
    return place;
end
$$;

comment on function livestore._fail(livestore.subscribers, livestore.subscription_partitions, text) is
'Internal: the state of a partition after the events that were given out have failed';

create or replace function livestore._forget_errors(store_id text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
begin
    -- Handlers that are running have locked their partition, and may commit to the store: callers lock it afterwards.
    perform from livestore.subscription_partitions p
    join livestore.subscribers s on s.name = p.subscription
    where p.partition = livestore._partition_of($1, s.partitions) and (s.stores is null or $1 like s.stores)
    order by p.subscription, p.partition
    for update of p;
    update livestore.subscription_partitions p set error = null
    from livestore.subscribers s
    where s.name = p.subscription and p.error is not null and p.partition = livestore._partition_of($1, s.partitions)
        and (s.stores is null or $1 like s.stores);
end
$$;

comment on function livestore._forget_errors(text) is
'Internal: removes what workers have told of errors in the partitions of a store, since it may have what events say. Waits for handlers that are running';

create or replace function livestore._next_commits(
    subscriber livestore.subscribers, place livestore.subscription_partitions, max_events integer, max_bytes integer
)
returns livestore.polled_event[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    -- A batch that is given out again: everything up to its end.
    is_again constant boolean := place.batch_end is not null;
begin
    return array(
        select row(
            place.lease, place.partition, e.position, e.store_id, e.seq_num, e.name, e.args, e.client_id, e.session_id, e.created_at,
            e.change, place.failures
        )::livestore.polled_event
        from livestore._read_commits(
            place.position, subscriber.names, subscriber.stores, subscriber.partitions, place.partition,
            case when is_again then greatest(least(place.batch_end - place.position, 1000000)::integer, 1) else max_events end,
            case when not is_again then max_bytes end
        ) e
        where not is_again or e.position <= place.batch_end
        order by e.position
        limit case when not is_again and place.one_by_one > 0 then 1 end
    );
end
$$;

comment on function livestore._next_commits(livestore.subscribers, livestore.subscription_partitions, integer, integer) is
'Internal: the next events of a partition in the commit log; a last one without a store says how far the log was read';

create or replace function livestore._next_history(
    subscriber livestore.subscribers, place livestore.subscription_partitions, max_events integer, max_bytes integer
)
returns livestore.polled_event[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select row(
            place.lease, place.partition, null, f.store_id, f.seq_num, f.name, f.args, f.client_id, f.session_id, f.created_at, null,
            place.failures
        )::livestore.polled_event
        from (
            select n.*, sum(octet_length(n.args::text)) over (order by n.store, n.seq_num) as bytes,
                row_number() over (order by n.store, n.seq_num) as n
            from (
                select h.store, s.store_id, e.*
                from (
                    select * from livestore.subscription_history h
                    where h.subscription = place.subscription and h.partition = place.partition
                    order by h.store
                ) h
                join livestore.stores s on s.id = h.store
                cross join lateral livestore._history_events(s.eventlog::oid, h.store, h.after, h.upto, subscriber.names, max_events) e
                order by h.store, e.seq_num
                limit max_events
            ) n
        ) f
        -- A batch that is given out again has the size that it had.
        where place.batch_end is not null or f.n = 1 or coalesce(f.bytes, 0) <= max_bytes
        order by f.store, f.seq_num
    );
end
$$;

comment on function livestore._next_history(livestore.subscribers, livestore.subscription_partitions, integer, integer) is
'Internal: the next events of a partition from before the subscription was made';

create or replace function livestore._history_events(
    eventlog oid, store bigint, after bigint, upto bigint, names text[], max_events integer
)
returns table (seq_num bigint, name text, args json, client_id text, session_id text, created_at timestamptz)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query execute format(
        'select l."seqNum", l.name, l.args, l."clientId", l."sessionId", l."createdAt"
         from only %s l
         where l.store = $1 and l."seqNum" > $2 and l."seqNum" <= $3 and ($4 is null or l.name = any ($4))
         order by l."seqNum" limit $5', eventlog::regclass
    ) using store, after, upto, names, max_events;
end
$$;

comment on function livestore._history_events(oid, bigint, bigint, bigint, text[], integer) is
'Internal: events of a store behind one sequence number and up to another';

create or replace function livestore._handler(subscription text)
returns regprocedure
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    subscriber constant livestore.subscribers := livestore._subscriber(subscription);
    handler regprocedure;
    owner record;
    schema record;
    other regprocedure;
begin
    -- to_regprocedure would need the right to use its schema.
    select p.oid, r.oid as id, r.rolname as name, r.rolsuper as is_superuser, p.pronamespace, p.proname into owner
    from pg_proc p join pg_roles r on r.oid = p.proowner
    where p.proargtypes::text = 'livestore.polled_event'::regtype::oid::text and p.oid::regprocedure::text = subscriber.handler;
    handler := owner.oid;
    if livestore._is_handler(handler) is not true then
        raise exception 'the subscription % has no handler', to_json(subscription)
            using errcode = 'undefined_function', hint = 'livestore.subscribe names one, or it was dropped or renamed.';
    end if;
    -- A stranger may make a schema and a function with the names of those that were dropped. It must not run with the rights of a sidecar.
    if owner.name is distinct from subscriber.handler_owner and not owner.is_superuser then
        raise exception 'the handler % belongs to %, and not to % any more', handler, owner.name, subscriber.handler_owner
            using errcode = 'insufficient_privilege',
                hint = case
                    when to_regrole(quote_ident(subscriber.handler_owner)) is null then 'Make the subscription anew.'
                    else format('alter function %s owner to %I, or make the subscription anew.', handler, subscriber.handler_owner)
                end;
    end if;
    -- The owner of a schema can drop what others have in it, and put a function of his own in the place, even between two events.
    select n.nspname as name, r.rolname as owner into schema
    from pg_namespace n join pg_roles r on r.oid = n.nspowner
    where n.oid = owner.pronamespace and not r.rolsuper and r.rolname <> 'pg_database_owner'
        and r.oid <> (select d.datdba from pg_database d where d.datname = current_database())
        and not pg_has_role(r.oid, owner.id, 'member');
    if found then
        raise exception 'the handler % belongs to %, but its schema to %, who can replace it', handler, owner.name, schema.owner
            using errcode = 'insufficient_privilege',
                hint = format('alter schema %I owner to %I, or move the handler to a schema of its owner.', schema.name, owner.name);
    end if;
    -- It is called by its name: Postgres would not know which one is meant.
    select p.oid into other
    from pg_proc p
    where p.pronamespace = owner.pronamespace and p.proname = owner.proname and p.oid <> handler
        and p.pronargs - p.pronargdefaults <= 1 and (p.pronargs > 1 or p.prokind = 'p')
    limit 1;
    if found then
        raise exception 'the handler % cannot be told from %, which can be called with one argument, too', handler, other
            using errcode = 'ambiguous_function', hint = 'Rename one of them.';
    end if;
    return handler;
end
$$;

comment on function livestore._handler(text) is 'Internal: the function that handles the events of a subscription';

create or replace function livestore._is_handler(handler regprocedure)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select exists (
        select from pg_proc p
        where p.oid = handler and p.prokind = 'f' and not p.proretset and p.proargtypes::text = 'livestore.polled_event'::regtype::oid::text
    )
$$;

comment on function livestore._is_handler(regprocedure) is 'Internal: whether a function can handle the events of a subscription';

create or replace function livestore._start(subscriber livestore.subscribers, start text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    pruned bigint;
    last_position bigint;
    from_position bigint;
begin
    -- Pruning waits, or knows of this subscription.
    perform from livestore.instance i for update;
    -- No commit takes positions meanwhile: all that are visible are before this one, and all others after it.
    lock table livestore.commit_turn in exclusive mode;
    pruned := (select i.pruned_commits from livestore.instance i order by i.created_at limit 1);
    last_position := livestore.last_position();
    from_position := case when start in ('now', 'beginning') then last_position else start::bigint end;
    if from_position not between pruned and last_position then
        raise exception 'the commit log has the positions from % to %', pruned, last_position
            using errcode = 'LS006', detail = json_build_object('prunedPosition', pruned), hint = 'Start at the beginning, or now.';
    end if;
    update livestore.subscription_partitions p
    set "position" = from_position, lease = null, leased_until = null, batch_size = null, batch_end = null, batch_store = null,
        dead_letter = null, one_by_one = 0, failures = 0, retry_at = null, error = null
    where p.subscription = subscriber.name;
    update livestore.subscribers s set started_at = clock_timestamp(), is_restarting = false where s.name = subscriber.name;
    delete from livestore.subscription_history h where h.subscription = subscriber.name;
    if start = 'beginning' then
        insert into livestore.subscription_history
        select subscriber.name, livestore._partition_of(s.store_id, subscriber.partitions), s.id, 0, s.head
        from livestore.stores s
        where s.head > 0 and (subscriber.stores is null or s.store_id like subscriber.stores);
    end if;
end
$$;

comment on function livestore._start(livestore.subscribers, text) is
'Internal: sets all partitions of a subscription to now, the beginning or a position';

create or replace function livestore._restart()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
set lock_timeout = 0
as $$
declare
    subscriber livestore.subscribers;
begin
    -- It may have been removed since, and made again.
    select * into subscriber from livestore.subscribers s where s.name = new.name and s.is_restarting;
    if found then
        perform livestore._start(subscriber, 'beginning');
        perform pg_notify('livestore_heads', '{"heads":{},"subscriptions":true}');
    end if;
    return null;
end
$$;

comment on function livestore._restart() is 'Internal: trigger that rebuilds a subscription, at the end of the transaction';

-- Named so that no hook of an application has this name, as for the commit log.
drop trigger if exists livestore_restart on livestore.subscribers;
create constraint trigger livestore_restart after update on livestore.subscribers
    deferrable initially deferred for each row when (new.is_restarting) execute function livestore._restart();
alter table livestore.subscribers enable always trigger livestore_restart;
comment on trigger livestore_restart on livestore.subscribers is 'Rebuilds a subscription, at the end of the transaction';
create or replace function livestore.prune_old_commits()
returns bigint
language sql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select livestore.prune_commits(now() - i.keep_commits) from livestore.instance i order by i.created_at limit 1
$$;

comment on function livestore.prune_old_commits() is
'livestore.prune_commits for what is older than livestore.instance.keep_commits. What the sidecar uses';

create or replace function livestore.last_position()
returns bigint
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select greatest(
        (select coalesce(max(c.position), 0) from livestore.commits c),
        (select i.pruned_commits from livestore.instance i order by i.created_at limit 1)
    )
$$;

comment on function livestore.last_position() is 'The last position of the commit log; 0 if nothing was committed yet';

create or replace function livestore.heads_since(after bigint)
returns table ("position" bigint, store_id text, head bigint)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
#variable_conflict use_column
declare
    last_position constant bigint := livestore.last_position();
begin
    if last_position = after then
        return query select last_position, '', null::bigint;
        return;
    end if;
    -- The log goes back behind what the caller knows after a restore, and begins later after pruning.
    if last_position < after or last_position - after > 100000
        or after < (select i.pruned_commits from livestore.instance i order by i.created_at limit 1)
    then
        return query select last_position, null::text, null::bigint;
        return;
    end if;
    return query
    select last_position, h.store_id, case when not h.is_other then h.head end
    from (
        select coalesce(e.store_id, s.store_id) as store_id, max(e.upto) filter (where e.change is null) as head,
            bool_or(e.change in ('reset', 'drop', 'renew', 'rewrite')) is true as is_other
        from livestore._commit_entries(after, last_position) e
        left join livestore.stores s on s.id = e.store
        group by 1
    ) h
    where h.store_id is not null and (h.is_other or h.head is not null)
    union all
    -- If nothing of it is left, the caller still goes on from here.
    select last_position, '', null
    order by 2 desc;
end
$$;

comment on function livestore.heads_since(bigint) is
'The stores that have changed since a position of the commit log, with their heads (null: reset, dropped, given a new backend id, or an event was rewritten), and the last position, in every row. A row whose store is empty tells nothing but the position; one whose store is null says that any store may have changed. What the sidecar uses with --live poll';
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
-- Every role that may connect can LISTEN. So notifications name stores by digests, whose key only roles that may read all
-- stores can get.
create or replace function livestore.heads_key()
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select i.heads_key from livestore.instance i order by i.created_at limit 1
$$;

comment on function livestore.heads_key() is
'The secret key of livestore.store_digest. What the sidecar uses';
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
    perform livestore._relay_lock();
    perform livestore._relay_forget(array[previous]);
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
    select livestore._relay_notify(s.sidecar, json_build_object('missed', users)::text)
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
    perform livestore._relay_lock();
    update livestore.relay_sidecars s set expires_at = clock_timestamp() + lease where s.sidecar = $1;
    is_known := found;
    perform livestore._relay_forget(array_agg(s.sidecar))
    from livestore.relay_sidecars s
    where s.expires_at < clock_timestamp()
        -- The clock was set back: one that is dead would stay for as long.
        or s.expires_at > clock_timestamp() + relay_renew.lease + interval '1 minute'
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
'Renews the lease of a sidecar and cleans up after those whose lease is over. Returns false if the lease of this sidecar was over: it has to enter again. What the sidecar uses';

create or replace function livestore.relay_exit(sidecar text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '4s'
as $$
begin
    perform livestore._relay_lock();
    perform livestore._relay_forget(array[sidecar]);
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
    perform livestore._relay_lock();
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
    perform livestore._relay_notify(
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
    perform livestore._relay_lock();
    -- Only if nothing has replaced it since.
    delete from livestore.relay_devices d
    using unnest(users, clients, connections) l(user_id, client_id, connection)
    where d.user_id = l.user_id and d.client_id = l.client_id and d.connection = l.connection;
    perform livestore._relay_notify(
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
    -- Messages of a connection that was lost must not come behind what was sent since.
    perform from livestore.relay_sidecars s where s.sidecar = $1;
    if not found then
        return false;
    end if;
    for parcel in
        select s.receiver, s.body from unnest(receivers, bodies) with ordinality s(receiver, body, n) order by s.n
    loop
        perform livestore._relay_notify(parcel.receiver, parcel.body);
    end loop;
    return true;
end
$$;

comment on function livestore.relay_send(text, text[], text[]) is
'Sends texts of a sidecar to others, in this order; one to a sidecar that is gone is dropped. Returns false, and sends nothing, if the lease of the sender is over. What the sidecar uses';

create or replace function livestore.relay_fetch(parcel bigint)
returns text
language sql
security definer
set search_path = pg_catalog, pg_temp
as $$
    delete from livestore.relay_parcels p where p.id = parcel returning p.body
$$;

comment on function livestore.relay_fetch(bigint) is 'Takes a parcel out of livestore.relay_parcels. What the sidecar uses';

-- Arrays and not JSON: Postgres cannot take a JSON text apart that has \u0000 in it, which is legal in a client's string.
create or replace function livestore.relay_append(
    store_id text, names text[], args text[], client_ids text[], session_ids text[], event_numbers text[], timestamps text[],
    context text default null
)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
    store livestore.stores;
    known record;
    batch json;
    result livestore.push_result;
begin
    store := livestore._lock_store(store_id);
    -- Those that have the same number, which a device may be pushing again, since it missed the answer.
    select coalesce(array_agg(r.store), '{}') as stores, coalesce(array_agg(r."seqNum"), '{}') as seq_nums into known
    from unnest(client_ids, session_ids, event_numbers) p(client_id, session_id, event_number)
    join livestore.relayed_events r
        on r.store = store.id and r.key = livestore._relay_key(p.client_id, p.session_id, p.event_number);
    with pushed as (
        select * from unnest(names, args, client_ids, session_ids, event_numbers, timestamps)
            with ordinality p(name, args, client_id, session_id, event_number, made_at, n)
    ), fresh as (
        select p.*, row_number() over (order by p.n) as place
        from pushed p
        where not exists (
            select
            from livestore._stored_events(known.stores, known.seq_nums) e
            join livestore.relayed_events r on r.store = e.store and r."seqNum" = e."seqNum"
            where (e.name, e."clientId", e."sessionId") = (p.name, p.client_id, p.session_id)
                and (e.args::text, r.event_number::text, r."timestamp"::text)
                    is not distinct from (p.args, p.event_number, p.made_at)
        )
    ), noted as (
        insert into livestore.relayed_events
        select store.id, store.head + f.place, livestore._relay_key(f.client_id, f.session_id, f.event_number),
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
    select * into result from livestore._append(
        array[store_id], array[batch::text], array[null::text], null::text, array[context]
    );
    if result.sqlstate is not null then
        raise exception '%', result.message
            using errcode = result.sqlstate, detail = coalesce(result.detail, ''), hint = coalesce(result.hint, '');
    end if;
    return result.head;
end
$$;

comment on function livestore.relay_append(text, text[], text[], text[], text[], text[], text[], text) is
'Appends events of the peer relay to the log of a store, those that it does not have, and returns the new head. Arrays with one element for each event: eventName, data (JSON text, or null for none), clientId, sessionId, eventNumber and timestamp (JSON texts, or null). context: what hooks may know of the request, a JSON object as text or null. Raises LS003 (invalid batch), or what a hook raises. What the sidecar uses';

create or replace function livestore.relay_page(store_id text, after bigint, max_events integer, max_bytes integer)
returns table (seq_num bigint, event json)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
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
create or replace function livestore.served_subscriptions()
returns table (subscription text, url text)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select s.name, s.url from livestore.subscribers s where s.handler is not null or s.url is not null order by s.name collate "C"
$$;

comment on function livestore.served_subscriptions() is
'The subscriptions that sidecars serve: those with a url, where they send the events, and those with a handler (url: null), which livestore.run_subscription calls. What the sidecar uses';

-- security definer: the seed in livestore.instance is nobody else's to read.
create or replace function livestore.database_life()
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select livestore._make_backend_id('life ' || i.seed) from livestore.instance i order by i.created_at limit 1
$$;

comment on function livestore.database_life() is
'Tells positions of the commit log from those of the same database before a restore: livestore.renew_backend_ids changes it. What the sidecar uses';

-- volatile: after livestore.poll in one query, it sees what that has seen.
create or replace function livestore.subscription_life(subscription text)
returns text
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select livestore._make_backend_id(concat_ws(' ', livestore.database_life(), s.name, extract(epoch from s.started_at)))
    from livestore.subscribers s where s.name = subscription
$$;

comment on function livestore.subscription_life(text) is
'Tells the events that a subscription gives out from those that it gave out before it was rebuilt, made again, or restored with the database. What the sidecar uses';
-- Not logged: rows are gone before their transaction commits.
create unlogged table if not exists livestore.hook_contexts (
    transaction xid8 not null default pg_current_xact_id(),
    depth integer not null,
    store_id text not null,
    request text,
    primary key (transaction, depth)
);

comment on table livestore.hook_contexts is 'The contexts of the pushes that the current transaction runs hooks for. Of other transactions nothing is ever seen here';
comment on column livestore.hook_contexts.transaction is 'The transaction';
comment on column livestore.hook_contexts.depth is 'From 1. A push by a hook has a greater one than the push that the hook runs for';
comment on column livestore.hook_contexts.store_id is 'What livestore.current_store_id() returns';
comment on column livestore.hook_contexts.request is 'What livestore.current_context() returns, as text';

-- The appends of the current transaction: rows are gone before it commits.
create table if not exists livestore.pending_commits (
    transaction xid8 not null default pg_current_xact_id(),
    id bigint not null generated always as identity,
    stores bigint[] not null,
    upto bigint[] not null,
    events integer[] not null,
    is_last boolean not null default false,
    changes text[],
    store_ids text[],
    primary key (transaction, id)
)
with (fillfactor = 50);

comment on table livestore.pending_commits is 'What the current transaction has appended, until it commits and takes positions in livestore.commits. Of other transactions nothing is ever seen here';
comment on column livestore.pending_commits.transaction is 'The transaction';
comment on column livestore.pending_commits.id is 'In the order of the appends';
comment on column livestore.pending_commits.stores is 'As in livestore.commits';
comment on column livestore.pending_commits.upto is 'As in livestore.commits';
comment on column livestore.pending_commits.events is 'As in livestore.commits';
comment on column livestore.pending_commits.changes is 'As in livestore.commits';
comment on column livestore.pending_commits.store_ids is 'As in livestore.commits';
comment on column livestore.pending_commits.is_last is 'Whether the trigger is queued for the second time, behind what else is deferred to the commit';
-- extension/rules/src/validation.rs in SQL.
create or replace function livestore._read_batch(batch text)
returns table (
    name text, args text, seq_num bigint, parent_seq_num bigint, client_id text, session_id text, unreadable text, flaw text
)
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    element text;
    elements text[];
    field record;
begin
    begin
        elements := array(
            select livestore._show_escapes(e.value::text)
            from json_array_elements(livestore._hide_escapes(batch::json)::json) with ordinality e(value, n) order by e.n
        );
    exception when invalid_text_representation or invalid_parameter_value or statement_too_complex then
        unreadable := 'not a JSON array of events';
        return next;
        return;
    end;
    foreach element in array elements loop
        if left(element, 1) <> '{' then
            unreadable := 'an event must be a JSON object';
            return next;
            return;
        end if;
        select count(*) filter (where f.name is null) as undecoded,
            count(*) filter (where f.name in ('name', 'seqNum', 'parentSeqNum', 'clientId', 'sessionId')) as wanted,
            count(*) filter (where f.name = 'args') as args_count,
            min(f.value) filter (where f.name = 'args') as args,
            min(f.value) filter (where f.name = 'name') as name,
            min(f.value) filter (where f.name = 'clientId') as client_id,
            min(f.value) filter (where f.name = 'sessionId') as session_id,
            min(f.value) filter (where f.name = 'seqNum') as seq_num,
            min(f.value) filter (where f.name = 'parentSeqNum') as parent_seq_num
        into field
        from livestore._json_fields(element) f;
        args := field.args;
        name := livestore._decode_string(field.name);
        client_id := livestore._decode_string(field.client_id);
        session_id := livestore._decode_string(field.session_id);
        seq_num := livestore._decode_integer(field.seq_num);
        parent_seq_num := livestore._decode_integer(field.parent_seq_num);
        -- One of each, since there are five and none is missing.
        if field.undecoded > 0 or field.wanted <> 5 or field.args_count > 1
            or num_nulls(name, client_id, session_id, seq_num, parent_seq_num) > 0
        then
            unreadable := 'not an event, which has name, clientId and sessionId (strings), seqNum and parentSeqNum (integers), each once, and args at most once';
            return next;
            return;
        end if;
        flaw := case
            when livestore._has_nul(field.name) then 'name'
            when livestore._has_nul(field.client_id) then 'clientId'
            when livestore._has_nul(field.session_id) then 'sessionId'
        end || ' contains the character U+0000, which Postgres cannot store in a text';
        if flaw is null and livestore._nests_deeper(args, 512) then
            flaw := 'args nests deeper than 512 levels';
        end if;
        return next;
    end loop;
end
$$;

comment on function livestore._read_batch(text) is
'Internal: the events of a batch, of whatever form, up to the first that cannot be read. unreadable: why not; flaw: what is wrong with an event that could be read';

create or replace function livestore._decode_integer(value text)
returns bigint
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Digits only. -0 is refused: JSON has it only as a floating-point number.
    if value ~ '^(0|-?[1-9][0-9]{0,18})$' and value::numeric between -9223372036854775808 and 9223372036854775807 then
        return value::bigint;
    end if;
    return null;
end
$$;

comment on function livestore._decode_integer(text) is 'Internal: the integer that a JSON value is; null for another one';

-- Clients usually write events without white space or unknown fields. Such batches are all read by one statement. A batch has
-- this form if its length is exactly that of the fields that were found. Other batches are read one by one.
create or replace function livestore._read_batches(
    batches text[],
    out pushes integer[], out names text[], out args text[], out seq_nums bigint[], out parent_seq_nums bigint[],
    out client_ids text[], out session_ids text[], out unreadable text[], out flaws text[]
)
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    sizes integer[];
    lengths integer[];
    others integer[];
    event integer := 1;
    event_count integer;
    rest integer;
begin
    begin
        -- 61: the bytes of the names of the fields, of the punctuation, and of the comma behind the event.
        select array_agg(e.push), array_agg(btrim(e.name, '"')),
            array_agg(case when strpos(e.args, chr(57344)) = 0 then e.args else livestore._show_escapes(e.args) end),
            array_agg(case when e.are_numbers then e.seq_num::bigint end),
            array_agg(case when e.are_numbers then e.parent_seq_num::bigint end),
            array_agg(btrim(e.client_id, '"')), array_agg(btrim(e.session_id, '"')),
            array_agg(case when e.are_numbers and strpos(e.texts, chr(57344)) = 0
                and left(e.name, 1) = '"' and left(e.client_id, 1) = '"' and left(e.session_id, 1) = '"'
                and (e.args is null or octet_length(e.args) <= 1024 or not livestore._nests_deeper(e.args, 512))
            then
                octet_length(e.texts) + octet_length(e.seq_num) + octet_length(e.parent_seq_num) + 61
                    + coalesce(octet_length(e.args) + 8, 0)
            end),
            array_agg(e.length)
        into pushes, names, args, seq_nums, parent_seq_nums, client_ids, session_ids, sizes, lengths
        from (
            select r.push, r.name, r.args, r.seq_num, r.parent_seq_num, r.client_id, r.session_id, r.length,
                r.name || r.client_id || r.session_id as texts,
                translate(r.seq_num || r.parent_seq_num, '0123456789', '') = ''
                    and octet_length(r.seq_num) < 19 and octet_length(r.parent_seq_num) < 19 as are_numbers
            from (
                select b.push::integer as push, octet_length(b.batch) as length, f.name::text as name, f.args::text as args,
                    f."seqNum"::text as seq_num, f."parentSeqNum"::text as parent_seq_num,
                    f."clientId"::text as client_id, f."sessionId"::text as session_id
                from (
                    select p.push, case when strpos(p.batch, chr(92)) = 0 and strpos(p.batch, chr(57344)) = 0 then p.batch
                        else livestore._hide_escapes(p.batch::json) end as batch
                    from unnest(batches) with ordinality p(batch, push)
                    offset 0
                ) b
                cross join lateral json_to_recordset(b.batch::json)
                    f(name json, args json, "seqNum" json, "parentSeqNum" json, "clientId" json, "sessionId" json)
                offset 0
            ) r
            offset 0
        ) e;
        event_count := coalesce(cardinality(pushes), 0);
        for push in 1..cardinality(batches) loop
            if event <= event_count and pushes[event] = push then
                rest := lengths[event] - 1;
                while event <= event_count and pushes[event] = push loop
                    rest := rest - sizes[event];
                    event := event + 1;
                end loop;
            else
                rest := case when batches[push] = '[]' then 0 end;
            end if;
            if rest is distinct from 0 then
                others := others || push;
            end if;
        end loop;
    exception when invalid_text_representation or invalid_parameter_value or statement_too_complex then
        pushes := null;
        others := array(select p.push from generate_series(1, cardinality(batches)) p(push));
    end;
    if others is null then
        return;
    end if;
    select array_agg(e.push), array_agg(e.name), array_agg(e.args), array_agg(e.seq_num), array_agg(e.parent_seq_num),
        array_agg(e.client_id), array_agg(e.session_id), array_agg(e.unreadable), array_agg(e.flaw)
    into pushes, names, args, seq_nums, parent_seq_nums, client_ids, session_ids, unreadable, flaws
    from (
        select p.*, null::text as unreadable, null::text as flaw
        from unnest(pushes, names, args, seq_nums, parent_seq_nums, client_ids, session_ids)
            with ordinality p(push, name, args, seq_num, parent_seq_num, client_id, session_id, n)
        where p.push <> all (others)
        union all
        select o.push, r.name, r.args, r.seq_num, r.parent_seq_num, r.client_id, r.session_id, r.n, r.unreadable, r.flaw
        from unnest(others) o(push)
        cross join lateral livestore._read_batch(coalesce(batches[o.push], ''))
            with ordinality r(name, args, seq_num, parent_seq_num, client_id, session_id, unreadable, flaw, n)
        order by 1, n
    ) e;
end
$$;

comment on function livestore._read_batches(text[]) is
'Internal: the events of batches as arrays with one element for each, in their order; pushes: the place of the batch. As livestore._read_batch reads them';
-- Two triggers give a commit its positions, when its transaction commits. The first, on an insert, only queues the second, on an
-- update, behind everything that was deferred to the commit by then.
create or replace function livestore._queue_commit()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
begin
    update livestore.pending_commits p set is_last = true
    where p.transaction = new.transaction and p.id = new.id
        and not exists (select from livestore.pending_commits l where l.transaction = new.transaction and l.is_last);
    return null;
end
$$;

comment on function livestore._queue_commit() is
'Internal: trigger that queues livestore._number_commit behind everything that is deferred to the end of the transaction';

-- Positions are taken under a lock that is held until the commit is visible, so that they become visible in their order; NOTIFY holds
-- such a lock anyway. It must be the last lock that a transaction takes: a deferred trigger of the application may append, and would
-- wait for a store while holding it. lock_timeout: with one of the session's, a commit would fail that only waits for other commits. It still
-- holds for the lock that NOTIFY takes after this: a value set for the rest of the transaction would outlast `set constraints immediate`.
create or replace function livestore._number_commit()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = 0
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
as $$
declare
    stores bigint[] := new.stores;
    upto bigint[] := new.upto;
    events integer[] := new.events;
    changes text[] := new.changes;
    store_ids text[] := new.store_ids;
    total bigint;
    first_position bigint;
begin
    delete from livestore.pending_commits p where p.transaction = new.transaction and p.id = new.id;
    if exists (select from livestore.pending_commits p where p.transaction = new.transaction) then
        -- Appends to a store that come one after the other are one.
        with others as (
            delete from livestore.pending_commits p where p.transaction = new.transaction
            returning p.id, p.stores, p.upto, p.events, p.changes, p.store_ids
        ), entries as (
            select a.id, e.n, e.store, e.upto, e.events, e.change, e.store_id,
                e.change is not null or lag(e.change) over w is not null
                    or lag(e.store) over w is distinct from e.store as is_other
            from (
                select new.id as id, new.stores as stores, new.upto as upto, new.events as events, new.changes as changes,
                    new.store_ids as store_ids
                union all
                select o.id, o.stores, o.upto, o.events, o.changes, o.store_ids from others o
            ) a
            cross join lateral unnest(a.stores, a.upto, a.events, a.changes, a.store_ids)
                with ordinality e(store, upto, events, change, store_id, n)
            window w as (order by a.id, e.n)
        ), runs as (
            select e.store, e.upto, e.events, e.change, e.store_id,
                count(*) filter (where e.is_other) over (order by e.id, e.n) as run
            from entries e
        )
        select array_agg(r.store order by r.run), array_agg(r.upto order by r.run), array_agg(r.events order by r.run),
            case when count(r.change) > 0 then array_agg(r.change order by r.run) end,
            case when count(r.change) > 0 then array_agg(r.store_id order by r.run) end
        into stores, upto, events, changes, store_ids
        from (
            select u.run, u.store, max(u.upto) as upto, sum(u.events)::integer as events, min(u.change) as change,
                min(u.store_id) as store_id
            from runs u group by u.run, u.store
        ) r;
    end if;
    total := events[1];
    if cardinality(events) > 1 then
        total := (select sum(e.n) from unnest(events) e(n));
    end if;
    lock table livestore.commit_turn in exclusive mode;
    first_position := nextval('livestore.commit_positions'::regclass);
    if total > 1 then
        perform setval('livestore.commit_positions'::regclass, first_position + total - 1);
    end if;
    insert into livestore.commits
    values (first_position, first_position + total - 1, stores, upto, events, clock_timestamp(), changes, store_ids);
    perform pg_notify('livestore_commits', (first_position + total - 1)::text);
    return null;
end
$$;

comment on function livestore._number_commit() is
'Internal: trigger that moves what a transaction has appended from livestore.pending_commits to livestore.commits';

-- Named so that no hook of an application has these names: set constraints knows constraints by schema and name.
drop trigger if exists livestore_queue_commit on livestore.pending_commits;
create constraint trigger livestore_queue_commit after insert on livestore.pending_commits
    deferrable initially deferred for each row execute function livestore._queue_commit();
alter table livestore.pending_commits enable always trigger livestore_queue_commit;
comment on trigger livestore_queue_commit on livestore.pending_commits is 'Queues the other trigger, at the end of a transaction';

drop trigger if exists livestore_number_commit on livestore.pending_commits;
create constraint trigger livestore_number_commit after update on livestore.pending_commits
    deferrable initially deferred for each row execute function livestore._number_commit();
alter table livestore.pending_commits enable always trigger livestore_number_commit;
comment on trigger livestore_number_commit on livestore.pending_commits is 'Gives a commit its positions';

create or replace function livestore._note_change(store bigint, number_afterwards bigint, change text, store_id text)
returns void
language sql
strict
set search_path = pg_catalog, pg_temp
as $$
    insert into livestore.pending_commits (stores, upto, events, changes, store_ids)
    values (array[store], array[number_afterwards], array[1], array[change], array[store_id])
$$;

comment on function livestore._note_change(bigint, bigint, text, text) is
'Internal: notes for livestore.commits that this transaction has changed a store. change: reset, drop, move, renew or rewrite; number_afterwards: livestore.stores.id afterwards, 0 for none; for a rewrite, the event';
-- The context of a request: what a hook can read of the push that it runs for. It is in a table that only the owner can read, and not in
-- a setting, which other code that runs in the push could read, clear, and set again in the next push. The table is not logged, so it
-- cannot be read on a standby. There, no transaction has a number.
create or replace function livestore._enter_context(store_id text, request text)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    depth integer;
begin
    -- A push by a hook that passes no context inherits the one of the push that the hook runs for.
    insert into livestore.hook_contexts as n (depth, store_id, request)
    select coalesce(max(c.depth), 0) + 1, $1, coalesce($2, (array_agg(c.request order by c.depth desc))[1])
    from livestore.hook_contexts c
    where c.transaction = pg_current_xact_id()
    returning n.depth into depth;
    return depth;
end
$$;

comment on function livestore._enter_context(text, text) is
'Internal: makes this the context of the hooks that run next, and returns its depth: a hook may push, too';

create or replace function livestore._leave_context(depth integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
begin
    delete from livestore.hook_contexts c where c.transaction = pg_current_xact_id() and c.depth >= _leave_context.depth;
end
$$;

comment on function livestore._leave_context(integer) is 'Internal: ends a context, and returns to the one around it';

create or replace function livestore._hook_context(out store_id text, out request text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
begin
    if pg_current_xact_id_if_assigned() is null then
        return;
    end if;
    select c.store_id, c.request into store_id, request
    from livestore.hook_contexts c
    where c.transaction = pg_current_xact_id_if_assigned()
    order by c.depth desc limit 1;
end
$$;

comment on function livestore._hook_context() is 'Internal: the store and the context of the request of the push that a hook runs for; nulls elsewhere';

create or replace function livestore.current_store_id()
returns text
language sql
stable
strict
security definer
set search_path = pg_catalog, pg_temp
as $$
    select c.store_id from livestore._hook_context() c
$$;

comment on function livestore.current_store_id() is
'In a hook: the store that is pushed to. Elsewhere null';

create or replace function livestore._context_value(key text)
returns text
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    request constant text := (livestore._hook_context()).request;
    is_object boolean;
    value text;
begin
    if request is null then
        return null;
    end if;
    begin
        select count(f.name) = count(*), (array_agg(f.value order by f.n desc) filter (where f.name = key))[1]
        into is_object, value
        from livestore._json_fields(request) with ordinality f(name, value, n);
    exception when invalid_text_representation or invalid_parameter_value or statement_too_complex then
        is_object := false;
    end;
    if not is_object then
        raise exception 'the context of the request is not a JSON object' using errcode = 'invalid_text_representation';
    end if;
    return case when key is null then request else value end;
end
$$;

comment on function livestore._context_value(text) is
'Internal: a value of livestore.current_context() as it was passed to livestore.push_batch; all of it if key is null';
create or replace function livestore.flavour()
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select 'portable'
$$;

comment on function livestore.flavour() is
'Which flavour of livestore_sync is installed: native, an extension with a library, or portable, SQL alone. Both do the same';
-- Statements on event logs run as livestore_hooks, so that code of the application (in hooks, constraints or indexes) does
-- not run as the owner of the tables. The security definer functions below belong to livestore_hooks. Hooks run as that role
-- too, so they could alter these functions, for example to security invoker with a search_path of theirs, although not replace
-- their bodies, for which they would need CREATE on the schema. So each function first checks its current user, with an operator
-- that it names with its schema, and computes nothing before. A hook may also have changed search_path: what comes after a
-- statement that fires hooks names operators and functions with their schema, and restores the path for all callers.
create or replace function livestore._insert_as_hooks(
    eventlog oid, is_hooked boolean, stores bigint[], seq_nums bigint[], parent_seq_nums bigint[], names text[], args text[],
    client_ids text[], session_ids text[], created_ats timestamptz[]
)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
-- Hooks get the default planner settings, not those of livestore._append.
set plan_cache_mode = auto
set enable_seqscan = on
as $$
begin
    if current_user operator(pg_catalog.<>) 'livestore_hooks' then
        raise exception 'livestore._insert_as_hooks runs as %, and not as livestore_hooks', current_user
            using errcode = 'insufficient_privilege', hint = 'Install the portable flavour again.';
    end if;
    declare
        is_shared constant boolean := eventlog = 'livestore.eventlog_1'::regclass;
        count constant integer := cardinality(seq_nums);
        may_change boolean := false;
        constraints text[];
        statement text;
        inserted bigint;
    begin
        if is_hooked then
            select coalesce(bool_or(t.tgtype & 2 <> 0), false),
                array_agg(format('set constraints livestore.%I immediate', t.tgname)) filter (where t.tgdeferrable)
                    || array_agg(format('set constraints livestore.%I deferred', t.tgname)) filter (where t.tginitdeferred)
            into may_change, constraints
            from pg_trigger t
            where t.tgrelid = eventlog and not t.tgisinternal;
        end if;
        if is_shared and not may_change then
            if count = 1 then
                insert into livestore.eventlog_1
                values (stores[1], seq_nums[1], parent_seq_nums[1], names[1], args[1]::json, client_ids[1], session_ids[1], created_ats[1]);
            else
                insert into livestore.eventlog_1
                select e.store, e.seq_num, e.parent_seq_num, e.name, e.args::json, e.client_id, e.session_id, e.created_at
                from unnest(stores, seq_nums, parent_seq_nums, names, args, client_ids, session_ids, created_ats)
                    e(store, seq_num, parent_seq_num, name, args, client_id, session_id, created_at);
            end if;
            get diagnostics inserted = row_count;
        elsif not may_change then
            execute format(
                'insert into %s
                 select e.store, e.seq_num, e.parent_seq_num, e.name, e.args::json, e.client_id, e.session_id, e.created_at
                 from unnest($1, $2, $3, $4, $5, $6, $7, $8)
                     e(store, seq_num, parent_seq_num, name, args, client_id, session_id, created_at)', eventlog::regclass
            ) using stores, seq_nums, parent_seq_nums, names, args, client_ids, session_ids, created_ats;
            get diagnostics inserted = row_count;
        else
            execute format(
                'with pushed as (
                     select e.*
                     from unnest($1, $2, $3, $4, $5, $6, $7, $8)
                         with ordinality e(store, seq_num, parent_seq_num, name, args, client_id, session_id, created_at, n)
                 ), added as (
                     insert into %s
                     select p.store, p.seq_num, p.parent_seq_num, p.name, p.args::json, p.client_id, p.session_id, p.created_at
                     from pushed p order by p.n
                     returning *
                 )
                 select count(*) filter (where p.n is not null and p.count = $9 and p.total = $9)
                 from (
                     select p.n, count(p.n) over () as count, count(*) over () as total
                     from added a
                     left join pushed p
                         on a.store = p.store and a."seqNum" = p.seq_num and a."parentSeqNum" = p.parent_seq_num and a.name = p.name
                         and a.args::text is not distinct from p.args and a."clientId" = p.client_id and a."sessionId" = p.session_id
                         and a."createdAt" = p.created_at
                 ) p', eventlog::regclass
            ) into inserted using stores, seq_nums, parent_seq_nums, names, args, client_ids, session_ids, created_ats, count;
            if inserted operator(pg_catalog.<>) count then
                raise exception 'a BEFORE trigger on the event log skipped or changed events'
                    using errcode = 'triggered_data_change_violation',
                        hint = 'A hook lets an event pass as it is (return new) or rejects it (raise exception).';
            end if;
        end if;
        -- A hook that is deferred to the commit would run as whoever commits, and fail everything that is committed with this push: it
        -- runs now. One that is merely deferrable may have been deferred for the transaction.
        foreach statement in array coalesce(constraints, '{}') loop
            execute statement;
        end loop;
        if pg_catalog.current_setting('search_path') operator(pg_catalog.<>) 'pg_catalog, pg_temp' then
            perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
        end if;
        return inserted;
    end;
end
$$;

comment on function livestore._insert_as_hooks(oid, boolean, bigint[], bigint[], bigint[], text[], text[], text[], text[], timestamptz[]) is
'Internal: inserts events into an event log as livestore_hooks, and runs its hooks, deferred ones too; returns how many';

create or replace function livestore._insert_part(
    eventlog oid, store_id text, request text, is_hooked boolean, stores bigint[], seq_nums bigint[], parent_seq_nums bigint[],
    names text[], args text[], client_ids text[], session_ids text[], created_ats timestamptz[]
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    depth integer;
    inserted bigint;
begin
    if is_hooked then
        depth := livestore._enter_context(store_id, request);
    end if;
    inserted := livestore._insert_as_hooks(
        eventlog, is_hooked, stores, seq_nums, parent_seq_nums, names, args, client_ids, session_ids, created_ats
    );
    if is_hooked then
        perform livestore._leave_context(depth);
    end if;
    if inserted is distinct from cardinality(seq_nums) then
        raise exception 'of % events % were inserted', cardinality(seq_nums), inserted;
    end if;
end
$$;

comment on function livestore._insert_part(oid, text, text, boolean, bigint[], bigint[], bigint[], text[], text[], text[], text[], timestamptz[]) is
'Internal: inserts events into an event log; if it is hooked, those of one push, in the context of its request';

create or replace function livestore._insert_events(
    store_id text, store bigint, eventlog oid, seq_nums bigint[], parent_seq_nums bigint[], names text[], args text[],
    client_ids text[], session_ids text[], created_ats timestamptz[]
)
returns void
language plpgsql
strict
set search_path = pg_catalog, pg_temp
as $$
declare
    count constant integer := cardinality(seq_nums);
begin
    if (cardinality(parent_seq_nums), cardinality(names), cardinality(args), cardinality(client_ids), cardinality(session_ids),
        cardinality(created_ats)) <> (count, count, count, count, count, count)
    then
        raise exception 'the arrays must have one element for each event' using errcode = 'array_subscript_error';
    end if;
    if count = 0 then
        return;
    end if;
    insert into livestore.pending_commits (stores, upto, events) values (array[store], seq_nums[count:], array[count]);
    perform livestore._admit_hooks(c.oid) from pg_class c where c.oid = eventlog and c.relrowsecurity;
    perform livestore._insert_part(
        eventlog, store_id, null, exists (select from pg_trigger t where t.tgrelid = eventlog and not t.tgisinternal),
        array_fill(store, array[count]), seq_nums, parent_seq_nums, names, args, client_ids, session_ids, created_ats
    );
end
$$;

comment on function livestore._insert_events(text, bigint, oid, bigint[], bigint[], text[], text[], text[], text[], timestamptz[]) is
'Internal: inserts events into the table of a store whose row is locked, and runs its hooks, deferred ones too';

create or replace function livestore._move_events(source oid, eventlog oid)
returns void
language plpgsql
strict
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if current_user operator(pg_catalog.<>) 'livestore_hooks' then
        raise exception 'livestore._move_events runs as %, and not as livestore_hooks', current_user
            using errcode = 'insufficient_privilege', hint = 'Install the portable flavour again.';
    end if;
    execute format('insert into %s select * from only %s', eventlog::regclass, source::regclass);
    if pg_catalog.current_setting('search_path') operator(pg_catalog.<>) 'pg_catalog, pg_temp' then
        perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
    end if;
end
$$;

comment on function livestore._move_events(oid, oid) is
'Internal: copies the events of a store to its dedicated table, whose constraints may be the application''s';

create or replace function livestore._delete_hooked_events(eventlog oid, store bigint)
returns void
language plpgsql
strict
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if current_user operator(pg_catalog.<>) 'livestore_hooks' then
        raise exception 'livestore._delete_hooked_events runs as %, and not as livestore_hooks', current_user
            using errcode = 'insufficient_privilege', hint = 'Install the portable flavour again.';
    end if;
    execute format('delete from only %s where store = $1', eventlog::regclass) using store;
    if pg_catalog.current_setting('search_path') operator(pg_catalog.<>) 'pg_catalog, pg_temp' then
        perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
    end if;
end
$$;

comment on function livestore._delete_hooked_events(oid, bigint) is
'Internal: deletes the events of a store from a table that has triggers on DELETE';

create or replace function livestore._update_hooked_events(eventlog oid, store bigint, seq_nums bigint[], name text, args text)
returns void
language plpgsql
strict
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if current_user operator(pg_catalog.<>) 'livestore_hooks' then
        raise exception 'livestore._update_hooked_events runs as %, and not as livestore_hooks', current_user
            using errcode = 'insufficient_privilege', hint = 'Install the portable flavour again.';
    end if;
    execute format(
        'update only %s set name = coalesce(nullif($1, ''''), name), args = nullif($2, '''')::json where store = $3 and "seqNum" = any ($4)', eventlog::regclass
    ) using name, args, store, seq_nums;
    if pg_catalog.current_setting('search_path') operator(pg_catalog.<>) 'pg_catalog, pg_temp' then
        perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
    end if;
end
$$;

comment on function livestore._update_hooked_events(oid, bigint, bigint[], text, text) is
'Internal: rewrites events in a table where an update runs code of the application; an empty name: they keep theirs; empty args: none';

-- In the definition of a trigger its name comes first, and may contain anything, even " ON livestore.eventlog_1 ".
create or replace function livestore._copy_hook(hook oid, eventlog oid)
returns void
language plpgsql
strict
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
declare
    definition text;
    after_name integer;
    shared constant text := ' ON livestore.eventlog_1 ';
    rest text;
    called regprocedure;
begin
    select pg_get_triggerdef(t.oid), strpos(pg_get_triggerdef(t.oid), quote_ident(t.tgname)) + length(quote_ident(t.tgname)), t.tgfoid
    into definition, after_name, called
    from pg_trigger t
    where t.oid = hook and not t.tgisinternal and t.tgrelid = 'livestore.eventlog_1'::regclass
        and exists (select from pg_inherits i where i.inhrelid = eventlog and i.inhparent = t.tgrelid);
    if not found then
        raise exception 'there is no such hook, or % is not the table of a store', eventlog::regclass using errcode = 'wrong_object_type';
    end if;
    rest := substr(definition, after_name);
    begin
        execute left(definition, after_name - 1) || overlay(
            rest placing format(' ON %s ', eventlog::regclass) from strpos(rest, shared) for length(shared)
        );
    exception when insufficient_privilege then
        raise exception 'the owner of the event logs may not use %, the function of a hook', called
            using errcode = 'insufficient_privilege',
                hint = format(
                    'grant usage on schema %I to livestore_owner; grant execute on function %s to livestore_owner',
                    (select n.nspname from pg_proc p join pg_namespace n on n.oid = p.pronamespace where p.oid = called), called
                );
    end;
end
$$;

comment on function livestore._copy_hook(oid, oid) is
'Internal: creates a hook of livestore.eventlog_1 on the table of a store';
create or replace function livestore._check_batch(batch text, after bigint)
returns table (sqlstate text, message text, detail text)
language plpgsql
strict
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select p.sqlstates[1], p.messages[1], p.details[1]
    from livestore._read_batches(array[batch]) r
    cross join lateral livestore._plan(
        array[1], array[null::text], array[null::bigint], array[after], array[''], r.pushes, r.names, r.args, r.seq_nums,
        r.parent_seq_nums, r.client_ids, r.session_ids, r.unreadable, r.flaws
    ) p;
end
$$;

comment on function livestore._check_batch(text, bigint) is
'Internal: checks a batch that should follow the event after of a log, and returns the error that livestore.push_batch would; nulls if it is valid';

-- A table or view of another role can call functions of that role, which must not run as the superuser who imports. The
-- native flavour reads it as its owner; here a superuser has to connect as another role.
create or replace function livestore._check_reader(source oid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    owner record;
begin
    select r.rolname, r.rolsuper into owner from pg_class c join pg_roles r on r.oid = c.relowner where c.oid = source;
    if not found then
        raise exception 'there is no table with the number %', source using errcode = 'undefined_table';
    end if;
    if not owner.rolsuper and (select r.rolsuper from pg_roles r where r.rolname = current_user) then
        raise exception 'a superuser cannot import % here: what it calls would run as a superuser', source::regclass
            using errcode = 'insufficient_privilege',
                hint = format('Connect as %s, or as another role that may read it, after: grant livestore_admin to %1$I', owner.rolname);
    end if;
end
$$;

comment on function livestore._check_reader(oid) is
'Internal: fails for a superuser who would read a table or view of somebody who is none';

create or replace function livestore._open_source(source oid, query text)
returns text
language plpgsql
strict
set search_path = pg_catalog, pg_temp
as $$
declare
    cursor refcursor;
begin
    perform livestore._check_reader(source);
    open cursor for execute query;
    return cursor::text;
end
$$;

comment on function livestore._open_source(oid, text) is
'Internal: opens a cursor for a query on a table or view, with the rights of the caller; of a superuser, with those of its owner';

create or replace function livestore._fetch_source(source oid, cursor text, max_events integer)
returns table (
    seq_num bigint, parent_seq_num bigint, name text, args text, client_id text, session_id text, created_at timestamptz
)
language plpgsql
strict
set search_path = pg_catalog, pg_temp
as $$
declare
    opened refcursor := cursor::refcursor;
    is_found boolean;
begin
    perform livestore._check_reader(source);
    for event in 1..greatest(max_events, 1) loop
        fetch opened into seq_num, parent_seq_num, name, args, client_id, session_id, created_at;
        is_found := found;
        -- A function that the source calls may have changed search_path.
        if pg_catalog.current_setting('search_path') operator(pg_catalog.<>) 'pg_catalog, pg_temp' then
            perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
        end if;
        if not is_found then
            -- The cursor is closed by the call that finds no event, and not by the one that returns the last events.
            if event = 1 then
                close opened;
            end if;
            return;
        end if;
        return next;
    end loop;
end
$$;

comment on function livestore._fetch_source(oid, text, integer) is
'Internal: the next events of a cursor that livestore._open_source has opened; none at its end, where it is closed';
-- Functions that read JSON without changing its bytes. Postgres' json functions keep the text of a value, but decode escapes
-- in strings, and fail at those that it cannot represent (\u0000, half a UTF-16 pair). So backslashes are first replaced by
-- the private-use character U+E000 and a letter; U+E000 itself becomes U+E000 and "a". The code has no backslashes in
-- literals, because standard_conforming_strings may be off.
create or replace function livestore._hide_escapes(value json)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select replace(replace(replace(replace(
        value::text, chr(57344), chr(57344) || 'a'), chr(92) || chr(92), chr(57344) || 'b'), chr(92) || '"', chr(57344) || 'q'),
        chr(92), chr(57344) || 'e')
$$;

comment on function livestore._hide_escapes(json) is
'Internal: JSON in which each backslash, and each quote that is escaped, is U+E000 and a letter. Fails for what is not JSON';

create or replace function livestore._show_escapes(value text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select replace(replace(replace(replace(
        value, chr(57344) || 'e', chr(92)), chr(57344) || 'q', chr(92) || '"'), chr(57344) || 'b', chr(92) || chr(92)),
        chr(57344) || 'a', chr(57344))
$$;

comment on function livestore._show_escapes(text) is 'Internal: what livestore._hide_escapes was given';

create or replace function livestore._decode_string(value text)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    hidden text;
    escape constant text := chr(57344) || 'eu';
begin
    if left(value, 1) <> '"' then
        return null;
    end if;
    if strpos(value, chr(92)) = 0 then
        return btrim(value, '"');
    end if;
    hidden := livestore._hide_escapes(value::json);
    -- Two halves of a UTF-16 pair are a character. One of them alone is none.
    if regexp_replace(hidden, escape || '[dD][89abAB]..' || escape || '[dD][c-fC-F]..', '', 'g') ~ (escape || '[dD][89a-fA-F]') then
        return null;
    end if;
    -- A text of Postgres' cannot contain U+0000: the caller asks livestore._has_nul.
    return livestore._show_escapes(replace(hidden, escape || '0000', '0'))::json #>> '{}';
end
$$;

comment on function livestore._decode_string(text) is
'Internal: the text that a JSON string means; null for another value, and for a string with half a UTF-16 pair';

create or replace function livestore._has_nul(value text)
returns boolean
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select strpos(livestore._hide_escapes(value::json), chr(57344) || 'eu0000') > 0
$$;

comment on function livestore._has_nul(text) is 'Internal: whether a JSON value has the character U+0000 in a string';

create or replace function livestore._json_fields(object text)
returns table (name text, value text)
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select livestore._decode_string(livestore._show_escapes(to_json(f.key)::text)), livestore._show_escapes(f.value::text)
    from json_each(livestore._hide_escapes(object::json)::json) f
$$;

comment on function livestore._json_fields(text) is
'Internal: the fields of a JSON object in their order, repeated ones too, with their values as they are written; a name that has half a UTF-16 pair is null';

create or replace function livestore._nests_deeper(value text, max_levels integer)
returns boolean
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    brackets text;
begin
    -- Most values are too short, or have too few brackets.
    if octet_length(value) <= 2 * max_levels or octet_length(value) - octet_length(translate(value, '[{', '')) <= max_levels then
        return false;
    end if;
    brackets := translate(
        regexp_replace(regexp_replace(livestore._hide_escapes(value::json), '"[^"]*"', '', 'g'), '[^][}{]+', '', 'g'), '{}', '[]'
    );
    for level in 1..max_levels loop
        exit when brackets = '';
        brackets := replace(brackets, '[]', '');
    end loop;
    return brackets <> '';
end
$$;

comment on function livestore._nests_deeper(text, integer) is
'Internal: whether a JSON value has more arrays and objects around one of its values';
-- extension/rules/src/plan.rs in SQL: the rules of a log. places and received have one element for each push: the index of
-- its store, and the backend id that the client sent. stores, heads and backend_ids have one for each store. The other arrays
-- have one for each event (livestore._read_batches).
create or replace function livestore._plan(
    places integer[], received text[], stores bigint[], heads bigint[], backend_ids text[],
    pushes integer[], names text[], args text[], seq_nums bigint[], parent_seq_nums bigint[], client_ids text[], session_ids text[],
    unreadable text[], flaws text[],
    out new_heads bigint[], out events integer[], out heads_after bigint[], out appended integer[],
    out sqlstates text[], out messages text[], out details text[], out is_new boolean[]
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    event integer := 1;
    first_event integer;
    place integer;
    head bigint;
    following bigint;
    repeated integer;
    known integer;
    planned integer;
    stored boolean[];
    has_gap boolean;
    reason text;
    wrong integer;
    max_ahead bigint;
    last_gap constant bigint := 4503599627370495;
    count constant integer := cardinality(places);
    event_count constant integer := coalesce(cardinality(pushes), 0);
begin
    new_heads := heads;
    events := array_fill(0, array[cardinality(heads)]);
    heads_after := array_fill(null::bigint, array[count]);
    appended := array_fill(0, array[count]);
    is_new := array_fill(false, array[event_count]);
    for push in 1..count loop
        first_event := event;
        following := null;
        reason := null;
        has_gap := false;
        while event <= event_count and pushes[event] = push loop
            if reason is null then
                if unreadable[event] is not null then
                    reason := unreadable[event];
                elsif parent_seq_nums[event] < 0 then
                    reason := format('parentSeqNum %s is negative', parent_seq_nums[event]);
                elsif seq_nums[event] <= parent_seq_nums[event] then
                    reason := format('seqNum %s must be greater than its parentSeqNum %s', seq_nums[event], parent_seq_nums[event]);
                elsif seq_nums[event] > 9007199254740991 then
                    reason := format(
                        'seqNum %s is greater than 9007199254740991, the last that clients can count to; a log that has reached it takes no more events until livestore.reset_store empties it',
                        seq_nums[event]
                    );
                elsif parent_seq_nums[event] <> following then
                    reason := format('parentSeqNum %s must be the seqNum of the event before it, %s', parent_seq_nums[event], following);
                elsif flaws[event] is not null then
                    reason := flaws[event];
                else
                    following := seq_nums[event];
                    has_gap := has_gap or following > parent_seq_nums[event] + 1;
                end if;
                wrong := event - first_event;
            end if;
            event := event + 1;
        end loop;
        place := places[push];
        continue when place is null;
        head := new_heads[place];
        if reason is null and received[push] <> backend_ids[place] then
            sqlstates[push] := 'LS002';
            messages[push] := format('the backend id is %s, not %s', backend_ids[place], received[push]);
            details[push] := format('{"expected":%s,"received":%s}', to_json(backend_ids[place]), to_json(received[push]));
            continue;
        end if;
        if reason is null and event = first_event then
            heads_after[push] := head;
            continue;
        end if;
        repeated := 0;
        if reason is null and seq_nums[first_event] <= head then
            -- Events that the log had before are compared by one statement for all pushes.
            if stored is null then
                stored := array_fill(false, array[event_count]);
                foreach known in array array(
                    select e.n
                    from unnest(pushes, seq_nums, parent_seq_nums, names, args, client_ids, session_ids)
                        with ordinality e(push, seq_num, parent_seq_num, name, args, client_id, session_id, n)
                    join livestore._stored_events(
                        array(
                            select stores[places[w.push]] from unnest(pushes, seq_nums) with ordinality w(push, seq_num, n)
                            where w.seq_num <= heads[places[w.push]] order by w.n
                        ),
                        array(
                            select w.seq_num from unnest(pushes, seq_nums) with ordinality w(push, seq_num, n)
                            where w.seq_num <= heads[places[w.push]] order by w.n
                        )
                    ) s on s.store = stores[places[e.push]] and s."seqNum" = e.seq_num
                    where (s."parentSeqNum", s.name, s.args::text, s."clientId", s."sessionId")
                        is not distinct from (e.parent_seq_num, e.name, e.args, e.client_id, e.session_id)
                        or livestore._was_rewritten(
                            s.store, s."seqNum", e.parent_seq_num, e.name, e.args, e.client_id, e.session_id
                        )
                ) loop
                    stored[known] := true;
                end loop;
            end if;
            while first_event + repeated < event and seq_nums[first_event + repeated] <= head loop
                known := first_event + repeated;
                exit when seq_nums[known] <= heads[place] and not stored[known];
                if seq_nums[known] > heads[place] then
                    -- One that an earlier push of the group brings.
                    planned := first_event - 1;
                    while planned > 0 and not (
                        is_new[planned] and seq_nums[planned] = seq_nums[known] and places[pushes[planned]] = place
                    ) loop
                        planned := planned - 1;
                    end loop;
                    exit when planned = 0 or (
                        parent_seq_nums[planned], names[planned], args[planned], client_ids[planned], session_ids[planned]
                    ) is distinct from (
                        parent_seq_nums[known], names[known], args[known], client_ids[known], session_ids[known]
                    );
                end if;
                repeated := repeated + 1;
            end loop;
        end if;
        if reason is null and first_event + repeated < event and parent_seq_nums[first_event + repeated] <> head then
            sqlstates[push] := 'LS001';
            messages[push] := format('the batch builds on event %s, but the head of the log is %s', parent_seq_nums[first_event], head);
            details[push] := format('{"minimumExpectedNum":%s,"providedNum":%s}', head, parent_seq_nums[first_event]);
            continue;
        end if;
        if reason is null and has_gap then
            for jump in first_event + repeated..event - 1 loop
                if seq_nums[jump] > parent_seq_nums[jump] + 1 then
                    max_ahead := coalesce(max_ahead, (select i.max_ahead from livestore.instance i order by i.created_at limit 1), 2147483648);
                    wrong := jump - first_event;
                    if seq_nums[jump] - head > max_ahead then
                        reason := format('seqNum %s is more than %s ahead of the head of the log, %s', seq_nums[jump], max_ahead, head);
                    elsif seq_nums[jump] > last_gap then
                        reason := format(
                            'seqNum %s leaves no room: beyond %s every event must directly follow its parent', seq_nums[jump], last_gap
                        );
                    end if;
                    exit when reason is not null;
                end if;
            end loop;
        end if;
        if reason is not null then
            wrong := case when reason <> 'not a JSON array of events' then wrong end;
            sqlstates[push] := 'LS003';
            messages[push] := case when wrong is null then 'invalid batch: ' else format('invalid event %s: ', wrong) end || reason;
            details[push] := format('{"index":%s,"reason":%s}', coalesce(wrong::text, 'null'), to_json(reason));
            continue;
        end if;
        for fresh in first_event + repeated..event - 1 loop
            is_new[fresh] := true;
        end loop;
        appended[push] := event - first_event - repeated;
        if appended[push] > 0 then
            head := following;
        end if;
        new_heads[place] := head;
        events[place] := events[place] + appended[push];
        heads_after[push] := head;
    end loop;
end
$$;

comment on function livestore._plan(integer[], text[], bigint[], bigint[], text[], integer[], text[], text[], bigint[], bigint[], text[], text[], text[], text[]) is
'Internal: decides on pushes. new_heads and events: the head of each store afterwards, and how many events are new; heads_after, appended, sqlstates, messages and details: the verdict on each push; is_new: which events to insert. A push whose place is null is left out';
-- extension/src/read in SQL.
create or replace function livestore.pull_page(store_id text, after bigint, max_events integer, max_bytes integer)
returns table (
    seq_num bigint, parent_seq_num bigint, name text, args json, client_id text, session_id text, created_at timestamptz
)
language plpgsql
stable
security definer
rows 1000
set search_path = pg_catalog, pg_temp
set row_security = off
-- A plan for each page would cost more than the page: there is but one way to read it, along the primary key.
set plan_cache_mode = force_generic_plan
as $$
declare
    number bigint;
    eventlog regclass;
    eventlog_name text;
    length bigint;
    bytes bigint := 0;
begin
    select s.id, s.eventlog into number, eventlog from livestore.stores s where s.store_id = $1;
    if not found or max_events <= 0 then
        return;
    end if;
    -- The bytes are counted while rows arrive.
    if eventlog = 'livestore.eventlog_1'::regclass then
        for seq_num, parent_seq_num, name, args, client_id, session_id, created_at, length in
            select e."seqNum", e."parentSeqNum", e.name, e.args, e."clientId", e."sessionId", e."createdAt",
                coalesce(octet_length(e.name), 0) + coalesce(octet_length(e."clientId"), 0)
                    + coalesce(octet_length(e."sessionId"), 0) + coalesce(octet_length(e.args::text), 0)
            from only livestore.eventlog_1 e
            where e.store = number and e."seqNum" > coalesce(after, 0)
            order by e."seqNum"
            limit max_events
        loop
            return next;
            bytes := bytes + length;
            exit when bytes >= max_bytes;
        end loop;
        return;
    end if;
    select format('%I.%I', c.relnamespace::regnamespace, c.relname) into eventlog_name from pg_class c where c.oid = eventlog;
    -- Dropped since this transaction began.
    if not found then
        raise exception 'there is no table with the number %', eventlog::oid using errcode = 'undefined_table';
    end if;
    for seq_num, parent_seq_num, name, args, client_id, session_id, created_at, length in execute format(
        'select e."seqNum", e."parentSeqNum", e.name, e.args, e."clientId", e."sessionId", e."createdAt",
             coalesce(octet_length(e.name), 0) + coalesce(octet_length(e."clientId"), 0)
                 + coalesce(octet_length(e."sessionId"), 0) + coalesce(octet_length(e.args::text), 0)
         from only %s e
         where e.store = $1 and e."seqNum" > $2
         order by e."seqNum"
         limit $3', eventlog_name
    ) using number, coalesce(after, 0), max_events
    loop
        return next;
        bytes := bytes + length;
        exit when bytes >= max_bytes;
    end loop;
end
$$;

comment on function livestore.pull_page(text, bigint, integer, integer) is
'The events of livestore.read_page as rows';

create or replace function livestore.read_page(store_id text, after bigint, max_events integer, max_bytes integer)
returns table (head bigint, backend_id text, events bytea)
language plpgsql
stable
strict
security definer
rows 1
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
begin
    select s.head, s.backend_id into head, backend_id from livestore.stores s where s.store_id = $1;
    if not found then
        head := 0;
        backend_id := livestore.backend_id(store_id);
    end if;
    -- Seven fields, each behind its length, which is -1 for null. Only args may be null; another null comes from outside, and the
    -- sidecar tells which event has it.
    select coalesce(string_agg(
        int2send(7::int2) || int4send(8) || int8send(p.seq_num)
            || coalesce(int4send(8) || int8send(p.parent_seq_num), int4send(-1))
            || coalesce(int4send(octet_length(p.name)) || convert_to(p.name, 'UTF8'), int4send(-1))
            || case when p.args is null then int4send(-1)
                else int4send(octet_length(p.args::text)) || convert_to(p.args::text, 'UTF8') end
            || (
                coalesce(int4send(octet_length(p.client_id)) || convert_to(p.client_id, 'UTF8'), int4send(-1))
                || coalesce(int4send(octet_length(p.session_id)) || convert_to(p.session_id, 'UTF8'), int4send(-1))
                || coalesce(int4send(8) || timestamptz_send(p.created_at), int4send(-1))
            ),
        ''::bytea
    ), ''::bytea)
    into events
    from livestore.pull_page(store_id, after, least(max_events, 10000), least(max_bytes, 67108864)) p;
    return next;
end
$$;

comment on function livestore.read_page(text, bigint, integer, integer) is
'A page of a log, one row: the head and the backend id at that moment, and the events after a sequence number, in order: at most max_events (10,000 at most), and none after the one that reaches max_bytes (of args, name and ids; 64 MiB at most). Each event is a row in the binary format of COPY: seqNum, parentSeqNum, name, args, clientId, sessionId, createdAt. What the sidecar uses';
-- extension/src/append in PL/pgSQL.
create or replace function livestore._append(
    store_ids text[], batches text[], backend_ids text[], source text default null, contexts text[] default null
)
returns table (
    push integer, head bigint, appended integer, backend_id text, created_at timestamptz,
    sqlstate text, message text, detail text, hint text
)
language plpgsql
set search_path = pg_catalog, pg_temp
-- Here and in all functions that are called: planning each statement anew would take longer than executing it.
set plan_cache_mode = force_generic_plan
-- A generic plan that was made while a table was small would be a sequential scan, which later reads all dead rows of the
-- table.
set enable_seqscan = off
-- With enable_seqscan off, a plan that still has to scan gets a huge cost, which would trigger JIT compilation.
set jit = off
as $$
declare
    usual record;
    read record;
    stores record;
    plan record;
    names text[];
    places integer[];
    at timestamptz;
    skips constant boolean := coalesce(current_setting('livestore.held_stores', true) = 'skip', false);
    count constant integer := coalesce(cardinality(store_ids), 0);
begin
    if coalesce(cardinality(batches), 0) <> count or coalesce(cardinality(backend_ids), 0) <> count or cardinality(contexts) <> count then
        raise exception 'store_ids, batches, backend_ids and contexts must have one element for each push'
            using errcode = 'array_subscript_error';
    end if;
    if array_position(store_ids, null) is not null then
        raise exception 'a store id is null' using errcode = 'null_value_not_allowed';
    end if;
    if count = 0 then
        return;
    end if;
    if count = 1 then
        select * into usual from livestore._append_one(store_ids[1], batches[1], backend_ids[1], source);
        if usual.head is not null then
            return query select 1, usual.head, 1, usual.backend_id, usual.created_at, null::text, null::text, null::text, null::text;
            return;
        end if;
    end if;
    select * into read from livestore._read_batches(batches);
    names := array(select distinct w.name collate "C" from unnest(store_ids) w(name) order by 1);
    select array_agg(s.store_id) as names, array_agg(s.id) as ids, array_agg(s.head) as heads,
        array_agg(s.backend_id) as backend_ids, array_agg(s.eventlog::oid) as eventlogs
    into stores
    from livestore._lock_existing_stores(names, skips) s;
    if stores.ids is null or not skips and cardinality(stores.ids) < cardinality(names) then
        if stores.ids is not null then
            -- A store was dropped while this call waited for its lock. To create it again would mean to wait with the other
            -- stores locked, so the caller has to try again from the start.
            raise exception 'another transaction has dropped a store' using errcode = 'lock_not_available';
        end if;
        select array_agg(s.store_id) as names, array_agg(s.id) as ids, array_agg(s.head) as heads,
            array_agg(s.backend_id) as backend_ids, array_agg(s.eventlog::oid) as eventlogs
        into stores
        from livestore._begin_stores(names, skips, store_ids, backend_ids, read) s;
    end if;
    if count = 1 then
        places := array[cardinality(stores.ids)];
    else
        select array_agg(s.place::integer order by p.push) into places
        from unnest(store_ids) with ordinality p(store_id, push)
        left join unnest(stores.names) with ordinality s(name, place) on s.name = p.store_id;
    end if;
    if stores.ids is not null then
        select * into plan from livestore._plan(
            places, backend_ids, stores.ids, stores.heads, stores.backend_ids,
            read.pushes, read.names, read.args, read.seq_nums, read.parent_seq_nums, read.client_ids, read.session_ids,
            read.unreadable, read.flaws
        );
        at := clock_timestamp();
        if true = any (plan.is_new) then
            perform livestore._write(stores, places, plan, read, contexts, at, source);
        end if;
    end if;
    for position in 1..count loop
        continue when places[position] is null;
        push := position;
        head := plan.heads_after[position];
        appended := plan.appended[position];
        backend_id := case when head is not null then stores.backend_ids[places[position]] end;
        created_at := case when appended > 0 then at end;
        sqlstate := plan.sqlstates[position];
        message := plan.messages[position];
        detail := plan.details[position];
        hint := case sqlstate
            when 'LS001' then 'Pull the events after the last one you know, rebase onto them, push again.'
            when 'LS002' then 'The log was reset since the client last pulled: drop the local log and pull from the start.'
            when 'LS003' then 'Correct the batch: it is rejected whole, and a retry will not help.'
        end;
        return next;
    end loop;
    if array_position(places, null) is not null then
        -- As livestore.push_batch says it, too.
        return query
        select p.push::integer, null::bigint, 0, null::text, null::timestamptz, '55P03', 'another transaction has locked the store', null::text, 'Try again.'
        from unnest(places) with ordinality p(place, push)
        where p.place is null;
    end if;
end
$$;

comment on function livestore._append(text[], text[], text[], text, text[]) is
'Internal: locks the stores, creates those that are new, and carries the pushes out, as arrays with one element for each push. Returns a result for each; errors of hooks are raised. contexts: a JSON object for each push, or null; a push by a hook without a context inherits the one that the hook runs for';

create or replace function livestore._write(
    stores record, places integer[], plan record, read record, contexts text[], at timestamptz, source text
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    advances record;
    tables record;
    part record;
    advanced integer;
    added bigint;
    done oid[] := '{}';
    is_all_new constant boolean := not false = any (plan.is_new);
begin
    if cardinality(stores.ids) = 1 then
        select stores.ids as ids, plan.new_heads as heads, plan.events as events, stores.names as names, stores.eventlogs as eventlogs
        into advances;
        update livestore.stores s set head = advances.heads[1] where s.id = advances.ids[1];
    else
        -- In the order of the first event of each.
        select array_agg(stores.ids[f.place]) as ids, array_agg(plan.new_heads[f.place]) as heads,
            array_agg(plan.events[f.place]) as events, array_agg(stores.names[f.place]) as names,
            array_agg(stores.eventlogs[f.place]) as eventlogs
        into advances
        from (
            select places[e.push] as place
            from unnest(read.pushes, plan.is_new) with ordinality e(push, is_new, n)
            where e.is_new group by 1 order by min(e.n)
        ) f;
        update livestore.stores s set head = n.head from unnest(advances.ids, advances.heads) n(id, head) where s.id = n.id;
    end if;
    -- The heads are updated before the hooks run, because a hook that appends to the same store must build on the new head.
    -- The commit log is written before them, too, because the events that hooks append come after these.
    get diagnostics advanced = row_count;
    if advanced <> cardinality(advances.ids) then
        raise exception 'of % heads % were advanced', cardinality(advances.ids), advanced;
    end if;
    insert into livestore.pending_commits (stores, upto, events) values (advances.ids, advances.heads, advances.events);

    if cardinality(advances.ids) = 1 then
        select array[c.oid] as used, case
            when c.relhastriggers and exists (select from pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal) then array[c.oid]
            else '{}' end as hooked, case when c.relrowsecurity then array[c.oid] end as secured
        into tables
        from pg_class c
        where c.oid = advances.eventlogs[1];
    else
        select array_agg(c.oid) as used, coalesce(array_agg(c.oid) filter (
            where c.relhastriggers and exists (select from pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal)
        ), '{}') as hooked, array_agg(c.oid) filter (where c.relrowsecurity) as secured
        into tables
        from pg_class c
        where c.oid = any (advances.eventlogs);
    end if;
    if tables.secured is not null then
        perform livestore._admit_hooks(c.oid) from unnest(tables.secured) c(oid);
    end if;
    if cardinality(tables.used) = 1 and cardinality(tables.hooked) = 0 and is_all_new then
        -- As livestore._insert_part does it without hooks.
        added := livestore._insert_as_hooks(
            tables.used[1], false,
            case when cardinality(stores.ids) = 1 then array_fill(stores.ids[1], array[cardinality(read.pushes)])
                else array(select stores.ids[places[e.push]] from unnest(read.pushes) with ordinality e(push, n) order by e.n) end,
            read.seq_nums, read.parent_seq_nums, read.names, read.args, read.client_ids, read.session_ids,
            array_fill(at, array[cardinality(read.pushes)])
        );
        if added is distinct from cardinality(read.pushes) then
            raise exception 'of % events % were inserted', cardinality(read.pushes), added;
        end if;
    else
        -- One statement for each table, and for each push where there are hooks, which know the request that they run for.
        for part in
            select f.push, stores.eventlogs[places[f.push]] as eventlog, stores.names[places[f.push]] as store_id,
                stores.eventlogs[places[f.push]] = any (tables.hooked) as is_hooked
            from (
                select e.push, min(e.n) as first
                from unnest(read.pushes, plan.is_new) with ordinality e(push, is_new, n) where e.is_new group by e.push
            ) f
            order by f.first
        loop
            continue when part.eventlog = any (done);
            if not part.is_hooked then
                done := done || part.eventlog;
            end if;
            perform livestore._insert_part(
                part.eventlog, part.store_id, contexts[part.push], part.is_hooked, array_agg(stores.ids[places[e.push]]),
                array_agg(e.seq_num), array_agg(e.parent_seq_num), array_agg(e.name), array_agg(e.args), array_agg(e.client_id),
                array_agg(e.session_id), array_agg(at)
            )
            from (
                select *
                from unnest(
                    read.pushes, plan.is_new, read.seq_nums, read.parent_seq_nums, read.names, read.args, read.client_ids,
                    read.session_ids
                ) with ordinality e(push, is_new, seq_num, parent_seq_num, name, args, client_id, session_id, n)
                where e.is_new and stores.eventlogs[places[e.push]] = part.eventlog and (not part.is_hooked or e.push = part.push)
                order by e.n
            ) e;
        end loop;
    end if;
    perform livestore._notify_heads(advances.names, advances.heads, source);
end
$$;

comment on function livestore._write(record, integer[], record, record, text[], timestamptz, text) is
'Internal: heads, the entry in the commit log, events with their hooks, and the notification. stores: the rows of the stores as arrays; places: the store of each push; plan and read: what livestore._plan and livestore._read_batches return';

-- extension/rules/src/notification.rs in SQL. A digest takes 58 of 1,500 bytes.
create or replace function livestore._notify_heads(store_ids text[], heads bigint[], source text default null)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    instance record;
    store_id text;
    page integer := 1;
    pages integer[] := '{}';
    bytes integer := 0;
    length integer;
    source_end constant text := '},"source":' || coalesce(to_json(source)::text, 'null') || '}';
begin
    select i.heads_key, coalesce(
        lower(nullif(current_setting('livestore.legacy_notify', true), '')) in ('on', 'true', 'yes', '1'), i.legacy_notify
    ) as is_legacy
    into instance
    from livestore.instance i order by i.created_at limit 1;
    if cardinality(store_ids) = 1 and store_ids[1] is not null then
        -- The same without a query, whose beginning and end would cost most of it.
        perform pg_notify('livestore_heads', '{"heads":{"'
            || left(encode(sha256(convert_to(instance.heads_key || store_ids[1], 'UTF8')), 'hex'), 32)
            || '":' || coalesce(heads[1]::text, 'null') || source_end);
    else
        perform pg_notify('livestore_heads', '{"heads":{' || string_agg(
            '"' || h.digest || '":' || coalesce(h.head::text, 'null'), ',' order by h.digest collate "C") || source_end)
        from (
            select left(encode(sha256(convert_to(instance.heads_key || s.store_id, 'UTF8')), 'hex'), 32) as digest, s.head,
                (s.n - 1) / 25 as page
            from unnest(store_ids, heads) with ordinality s(store_id, head, n)
            where s.store_id is not null
        ) h
        group by h.page
        order by h.page;
    end if;
    if not instance.is_legacy then
        return;
    end if;
    -- Names are of any length: as many to a page as fit.
    foreach store_id in array store_ids loop
        length := octet_length(to_json(store_id)::text) + 24;
        if bytes + length > 1500 and bytes > 0 then
            page := page + 1;
            bytes := 0;
        end if;
        bytes := bytes + coalesce(length, 0);
        pages := pages || page;
    end loop;
    perform pg_notify('livestore', '{"heads":{' || string_agg(
        to_json(s.store_id)::text || ':' || coalesce(s.head::text, 'null'), ',' order by s.store_id collate "C") || source_end)
    from unnest(store_ids, heads, pages) s(store_id, head, page)
    where s.store_id is not null
    group by s.page
    order by s.page;
end
$$;

comment on function livestore._notify_heads(text[], bigint[], text) is
'Internal: NOTIFY livestore_heads, {"source": …, "heads": {"<livestore.store_digest>": <head>, …}}; several if one would be too long. A head of null means that the store was reset, dropped or given another backend id. With livestore.legacy_notify() also NOTIFY livestore, with ids instead of digests';
-- livestore._insert_as_hooks for one event of the shared table, which has no hooks.
create or replace function livestore._insert_one_as_hooks(
    store bigint, seq_num bigint, name text, args text, client_id text, session_id text, created_at timestamptz
)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if current_user operator(pg_catalog.<>) 'livestore_hooks' then
        raise exception 'livestore._insert_one_as_hooks runs as %, and not as livestore_hooks', current_user
            using errcode = 'insufficient_privilege', hint = 'Install the portable flavour again.';
    end if;
    insert into livestore.eventlog_1 values (store, seq_num, seq_num - 1, name, args::json, client_id, session_id, created_at);
    -- Of a table without hooks, too: a constraint or an index may call a function that has changed it.
    if pg_catalog.current_setting('search_path') operator(pg_catalog.<>) 'pg_catalog, pg_temp' then
        perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
    end if;
end
$$;

comment on function livestore._insert_one_as_hooks(bigint, bigint, text, text, text, text, timestamptz) is
'Internal: inserts an event into livestore.eventlog_1 as livestore_hooks';

-- The usual push of one writer, one event that follows the head of a store without hooks, in few statements: PL/pgSQL prepares every
-- expression of a function anew in each transaction, and that is most of what a push costs. livestore._append does the same for it.
create or replace function livestore._append_one(
    wanted text, batch text, received text, source text, out head bigint, out backend_id text, out created_at timestamptz
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    event record;
    store record;
begin
    -- A backslash and U+E000 need more care, and a batch of several events is not for here.
    if (strpos(batch, chr(92)) + strpos(batch, chr(57344)) + strpos(batch, '},{') > 0) is not false then
        return;
    end if;
    begin
        -- In its shortest form, an event is as long as what was found in it. 62: the bytes of the names of the fields and of
        -- the punctuation, with the brackets of the array.
        select btrim(e.name, '"') as name, e.args, btrim(e.client_id, '"') as client_id, btrim(e.session_id, '"') as session_id,
            e.seq_num, e.parent_seq_num
        into event
        from (
            select f.name::text as name, f.args::text as args, f."clientId"::text as client_id, f."sessionId"::text as session_id,
                f."seqNum"::text as seq_num, f."parentSeqNum"::text as parent_seq_num
            from json_to_record(batch::json -> 0)
                f(name json, args json, "seqNum" json, "parentSeqNum" json, "clientId" json, "sessionId" json)
            offset 0
        ) e
        where left(e.name, 1) = '"' and left(e.client_id, 1) = '"' and left(e.session_id, 1) = '"'
            and translate(e.seq_num || e.parent_seq_num, '0123456789', '') = ''
            and octet_length(e.seq_num) < 16 and octet_length(e.parent_seq_num) < 16 and coalesce(octet_length(e.args), 0) <= 1024
            and octet_length(e.name) + octet_length(e.client_id) + octet_length(e.session_id) + octet_length(e.seq_num)
                + octet_length(e.parent_seq_num) + coalesce(octet_length(e.args) + 8, 0) + 62 = octet_length(batch);
    exception when invalid_text_representation or invalid_parameter_value or statement_too_complex then
        return;
    end;
    if event.name is null then
        return;
    end if;
    select s.id, s.backend_id into store
    from livestore.stores s
    where s.store_id = wanted and s.head = event.parent_seq_num::bigint and s.eventlog = 'livestore.eventlog_1'::regclass
        and event.seq_num::bigint = event.parent_seq_num::bigint + 1 and (received is null or received = s.backend_id)
    for update skip locked;
    if store.id is null or exists (
        select from pg_class c
        where c.oid = 'livestore.eventlog_1'::regclass
            and (c.relrowsecurity or c.relhastriggers and exists (select from pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal))
    ) then
        return;
    end if;
    head := event.seq_num;
    backend_id := store.backend_id;
    created_at := clock_timestamp();
    with advanced as (
        update livestore.stores s set head = _append_one.head where s.id = store.id returning s.id
    )
    insert into livestore.pending_commits (stores, upto, events) select array[a.id], array[_append_one.head], array[1] from advanced a;
    perform livestore._insert_one_as_hooks(
        store.id, head, event.name, event.args, event.client_id, event.session_id, created_at
    );
    -- livestore._notify_heads, in one query.
    perform case
        when coalesce(
            lower(nullif(current_setting('livestore.legacy_notify', true), '')) in ('on', 'true', 'yes', '1'), i.legacy_notify
        ) then livestore._notify_heads(array[wanted], array[head], source)
        else pg_notify('livestore_heads', '{"heads":{"' || left(encode(sha256(convert_to(i.heads_key || wanted, 'UTF8')), 'hex'), 32)
            || '":' || head || '},"source":' || coalesce(to_json(source)::text, 'null') || '}')
        end
    from livestore.instance i order by i.created_at limit 1;
end
$$;

comment on function livestore._append_one(text, text, text, text) is
'Internal: carries out the usual push of one writer. A head of null: nothing was done, livestore._append has to look at it';
-- extension/src/append/stores.rs in SQL.
create or replace function livestore._lock_existing_stores(names text[], skips boolean)
returns setof livestore.stores
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
begin
    -- Locks in the order of store ids, and locks nothing unless all stores exist: missing ones are created first, while
    -- nothing is locked. Otherwise two groups could deadlock.
    if cardinality(names) = 1 then
        if skips then
            return query select s.* from livestore.stores s where s.store_id = names[1] for update skip locked;
        else
            return query select s.* from livestore.stores s where s.store_id = names[1] for update;
        end if;
    elsif skips then
        return query
        select s.*
        from unnest(names) n(name)
        join livestore.stores s on s.store_id = n.name
        where (select count(*) from unnest(names) n(name) join livestore.stores k on k.store_id = n.name) = cardinality(names)
        order by s.store_id collate "C"
        for update of s skip locked;
    else
        return query
        select s.*
        from unnest(names) n(name)
        join livestore.stores s on s.store_id = n.name
        where (select count(*) from unnest(names) n(name) join livestore.stores k on k.store_id = n.name) = cardinality(names)
        order by s.store_id collate "C"
        for update of s;
    end if;
end
$$;

comment on function livestore._lock_existing_stores(text[], boolean) is
'Internal: locks these stores, each once. None of them if one does not exist; with skips, those that another transaction holds are left out';

-- Needs the events of the batches, because it creates a store only for a push that will be accepted. A push that is refused
-- changes nothing.
create or replace function livestore._begin_stores(all_names text[], skips boolean, store_ids text[], received text[], read record)
returns setof livestore.stores
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    missing record;
    plan record;
    begun text[];
    existing text[];
    locked livestore.stores[];
begin
    for round in 1..100 loop
        select coalesce(array_agg(m.name), '{}') as names, coalesce(array_agg(m.backend_id), '{}') as backend_ids
        into missing
        from (
            select w.name, livestore.backend_id(w.name) as backend_id
            from unnest(all_names) w(name)
            where not exists (select from livestore.stores s where s.store_id = w.name)
        ) m;
        begun := '{}';
        if cardinality(missing.names) > 0 then
            select * into plan from livestore._plan(
                array(select array_position(missing.names, p.store_id) from unnest(store_ids) with ordinality p(store_id, push) order by p.push),
                received, array_fill(null::bigint, array[cardinality(missing.names)]),
                array_fill(0::bigint, array[cardinality(missing.names)]), missing.backend_ids,
                read.pushes, read.names, read.args, read.seq_nums, read.parent_seq_nums, read.client_ids, read.session_ids,
                read.unreadable, read.flaws
            );
            begun := array(
                select m.name from unnest(missing.names, plan.events) m(name, events) where m.events > 0 order by m.name collate "C"
            );
        end if;
        if cardinality(begun) > 0 then
            if skips then
                perform livestore._register_free_stores(begun);
            else
                perform livestore._register_stores(begun);
            end if;
        end if;
        existing := array(select w.name from unnest(all_names) w(name) where w.name = any (begun) or w.name <> all (missing.names));
        if cardinality(existing) > 0 then
            locked := array(select s from livestore._lock_existing_stores(existing, skips) s);
            -- One was dropped, or created, since it was looked for.
            continue when cardinality(locked) = 0 and not skips;
            if cardinality(locked) < cardinality(existing) and not skips then
                raise exception 'another transaction has dropped a store' using errcode = 'lock_not_available';
            end if;
        end if;
        return query select s.* from unnest(locked) s;
        -- Stores that do not exist, and that no push begins.
        return query
        select null::bigint, m.name, 0::bigint, m.backend_id, null::regclass, null::timestamptz
        from unnest(missing.names, missing.backend_ids) m(name, backend_id)
        where m.name <> all (begun);
        return;
    end loop;
    raise exception 'other transactions drop a store again and again' using errcode = 'lock_not_available';
end
$$;

comment on function livestore._begin_stores(text[], boolean, text[], text[], record) is
'Internal: the rows of stores, of which not all exist, locked; those that a push begins are created first, and one that does not exist has no id. A store that is missing is held by another transaction, and the caller does not want to wait. read: what livestore._read_batches returns';
-- First: a role without superuser can only give objects to a role that may create in the schema.
grant usage, create on schema livestore to livestore_owner;

-- Everything belongs to livestore_owner, except the schema: a dump creates the schema before the extension, and therefore
-- before the role exists.
do $$
declare
    object record;
begin
    for object in
        select case c.relkind when 'S' then 'sequence' when 'v' then 'view' else 'table' end as kind, c.oid::regclass::text as name
        from pg_depend d
        join pg_class c on d.classid = 'pg_class'::regclass and d.objid = c.oid
        where d.refclassid = 'pg_extension'::regclass and d.deptype = 'e' and c.relowner <> 'livestore_owner'::regrole
            and d.refobjid = (select e.oid from pg_extension e where e.extname = 'livestore_sync')
            -- The sequence of an identity goes with its table.
            and not exists (
                select from pg_depend i
                where i.classid = 'pg_class'::regclass and i.objid = c.oid and i.refclassid = 'pg_class'::regclass and i.deptype = 'i'
            )
        union all
        select 'type', t.oid::regtype::text
        from pg_depend d
        join pg_type t on d.classid = 'pg_type'::regclass and d.objid = t.oid
        where d.refclassid = 'pg_extension'::regclass and d.deptype = 'e' and t.typowner <> 'livestore_owner'::regrole
            and d.refobjid = (select e.oid from pg_extension e where e.extname = 'livestore_sync')
            -- From Postgres 18 on, the types of a table's rows and of arrays are members, too. They go with what they are of.
            and (t.typrelid = 0 or (select c.relkind from pg_class c where c.oid = t.typrelid) = 'c')
            and not exists (select from pg_type e where e.typarray = t.oid)
        union all
        select 'function', p.oid::regprocedure::text
        from pg_depend d
        join pg_proc p on d.classid = 'pg_proc'::regclass and d.objid = p.oid
        where d.refclassid = 'pg_extension'::regclass and d.deptype = 'e' and p.proowner <> 'livestore_owner'::regrole
            and d.refobjid = (select e.oid from pg_extension e where e.extname = 'livestore_sync')
    loop
        execute format('alter %s %s owner to livestore_owner', object.kind, object.name);
    end loop;
end
$$;

-- Postgres lets everybody execute a new function. Here nobody may, except as listed.
revoke all on all functions in schema livestore from public;

-- Nor does anybody get what default privileges give. Rights that were granted to others stay.
do $$
declare
    object record;
begin
    for object in
        with given as (
            select a.grantee, bool_or(d.defaclobjtype = 'n') as of_schemas
            from pg_default_acl d, aclexplode(d.defaclacl) a group by 1
        ), made as (
            select 'function' as kind, p.oid::regprocedure::text as name, p.proacl as acl, p.proowner as owner
            from pg_proc p where p.pronamespace = 'livestore'::regnamespace
            union all
            select case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass::text, c.relacl, c.relowner
            from pg_class c where c.relnamespace = 'livestore'::regnamespace and c.relkind in ('r', 'v', 'S')
            union all
            select 'type', t.oid::regtype::text, t.typacl, t.typowner
            from pg_type t where t.typnamespace = 'livestore'::regnamespace
            union all
            select 'schema', 'livestore', n.nspacl, n.nspowner
            from pg_namespace n where n.oid = 'livestore'::regnamespace
        )
        select distinct m.kind, m.name, case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee
        from made m, aclexplode(m.acl) a
        join given g on g.grantee = a.grantee
        -- Usage of the schema is often granted, for views and functions of an application. livestore_owner has it from above.
        where a.grantee <> m.owner
            and (m.kind <> 'schema' or g.of_schemas and a.grantee <> 'livestore_owner'::regrole)
    loop
        execute format('revoke all on %s %s from %s', object.kind, object.name, object.grantee);
    end loop;
end
$$;

grant usage on schema livestore to livestore_reader, livestore_hooks;
grant select on livestore.stores, livestore.store_names, livestore.eventlog_1, livestore.events, livestore.commits, livestore.versions, livestore.relayed_events,
    livestore.event_types, livestore.misfits, livestore.rewrites, livestore.store_sizes, livestore.daily_growth,
    livestore.subscriptions, livestore.dead_letters to livestore_reader;

-- Hooks run as livestore_hooks, and what they commit goes through the same functions as everything else.
grant insert on livestore.eventlog_1 to livestore_hooks;
grant execute on function livestore.push(text, json, text), livestore.commit(text, text, json, text, text, bigint, text),
    livestore.commit(text, text, text, text, text, bigint, text), livestore.commit(text, text, jsonb, text, text, bigint, text),
    livestore.commit_many(text[], text, json[], text[], text, text),
    livestore.field(json, text[]), livestore.json_field(json, text[]), livestore._readable(json), livestore.try_boolean(text),
    livestore.try_bigint(text), livestore.try_double(text), livestore.try_timestamptz(text) to livestore_hooks;
grant execute on function
    livestore.version(),
    livestore.flavour(),
    livestore.backend_id(text),
    livestore.head(text),
    livestore.hash_string(text),
    livestore.table_suffix(text),
    livestore.stream_name(text),
    livestore.pull(text, bigint, integer),
    livestore.pull_page(text, bigint, integer, integer),
    livestore.read_all(bigint, text[], integer),
    livestore.last_position(),
    livestore.field(json, text[]),
    livestore.json_field(json, text[]),
    livestore._readable(json),
    livestore.try_boolean(text),
    livestore.try_bigint(text),
    livestore.try_double(text),
    livestore.try_timestamptz(text),
    livestore.create_event_view(text, text, boolean),
    livestore.export_hooks(),
    livestore.export_store(text),
    livestore._export_events(text, bigint, integer, bytea),
    livestore._export_end(text, bigint, bytea),
    livestore._column_of(jsonb, jsonb),
    livestore._event_type(text),
    livestore._pointer(jsonb),
    livestore.heads_key(),
    livestore.store_digest(text),
    livestore.legacy_notify(),
    livestore.read_page(text, bigint, integer, integer),
    livestore.stores_of_table_suffix(text, bigint),
    livestore.stores_of_stream(text, bigint),
    livestore.store_of_number(bigint),
    livestore.list_streams(text, text, bigint),
    livestore.locate_store(text),
    livestore.current_store_id(),
    livestore._context_value(text),
    livestore.current_context(),
    livestore.current_payload(),
    livestore.current_headers(),
    livestore.current_claims(),
    livestore.relay_page(text, bigint, integer, integer)
to livestore_reader;

-- Nobody may insert into the tables: these functions run with the rights of their owner.
grant execute on function
    livestore.create_store(text, boolean),
    livestore.push(text, json, text),
    livestore.push_batch(text[], text[], text[], text, text[]),
    livestore.commit(text, text, json, text, text, bigint, text),
    livestore.commit(text, text, text, text, text, bigint, text),
    livestore.commit(text, text, jsonb, text, text, bigint, text),
    livestore.commit_many(text[], text, json[], text[], text, text),
    livestore.prune_old_commits(),
    livestore.heads_since(bigint),
    livestore.poll(text, integer, interval, integer),
    livestore.run_subscription(text, integer),
    livestore._handler(text),
    livestore.served_subscriptions(),
    livestore.database_life(),
    livestore.subscription_life(text),
    livestore.ack(text),
    livestore.nack(text, interval, text, boolean),
    livestore.relay_enter(interval, text),
    livestore.relay_miss(text, text[]),
    livestore.relay_renew(text, interval),
    livestore.relay_exit(text),
    livestore.relay_join(text, text[], text[]),
    livestore.relay_leave(text, text[], text[], bigint[]),
    livestore.relay_send(text, text[], text[]),
    livestore.relay_fetch(bigint),
    livestore.relay_append(text, text[], text[], text[], text[], text[], text[], text)
to livestore_writer;

-- Functions that empty logs are for administrators of stores, and for a sidecar with an admin secret.
grant execute on function livestore.reset_store(text), livestore.drop_store(text), livestore.renew_backend_id(text), livestore.prune_commits(timestamptz),
    livestore.subscribe(text, text[], text, integer, text, integer, regprocedure, text), livestore.unsubscribe(text),
    livestore.rebuild(text), livestore.resend(bigint), livestore.define_event(text, json, text), livestore.check_events(text),
    livestore.rewrite_event(text, bigint, text, json, text), livestore.erase(text, bigint[], json, text)
to livestore_admin;

-- An import appends events with the times of another backend.
grant execute on function
    livestore.import_table(regclass, text, text),
    livestore.import_store(regclass, text),
    livestore._import_source(regclass, text, text, text, text, bigint),
    livestore._digest_exported(bytea, bigint, bigint, text, text, text, text, timestamptz),
    livestore._begin_import(text, text),
    livestore._import_events(text, bigint, bigint[], bigint[], text[], text[], text[], text[], timestamptz[]),
    livestore._end_import(text),
    livestore._open_source(oid, text),
    livestore._fetch_source(oid, text, integer)
to livestore_admin;

do $$
declare
    object record;
begin
    for object in
        select c.oid as id
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'livestore.eventlog_1'::regclass and c.relnamespace = 'livestore'::regnamespace
    loop
        perform livestore._adopt_table(object.id::regclass);
    end loop;
end
$$;

insert into livestore.versions (version, flavour)
select livestore.version(), livestore.flavour()
where not exists (
    select from (select v.version, v.flavour from livestore.versions v order by v.id desc limit 1) last
    where last.version = livestore.version() and last.flavour = livestore.flavour()
);

-- Everything in the schema belongs to livestore_owner, as the members of an extension do by privileges.sql.
do $$
declare
    object record;
begin
    for object in
        select case c.relkind when 'S' then 'sequence' when 'v' then 'view' else 'table' end as kind, c.oid::regclass::text as name
        from pg_class c
        where c.relnamespace = 'livestore'::regnamespace and c.relkind in ('r', 'v', 'S') and c.relowner <> 'livestore_owner'::regrole
            -- The sequence of an identity goes with its table.
            and not exists (
                select from pg_depend i
                where i.classid = 'pg_class'::regclass and i.objid = c.oid and i.refclassid = 'pg_class'::regclass and i.deptype = 'i'
            )
        union all
        select 'type', t.oid::regtype::text
        from pg_type t
        join pg_class c on c.oid = t.typrelid and c.relkind = 'c'
        where t.typnamespace = 'livestore'::regnamespace and t.typowner <> 'livestore_owner'::regrole
        union all
        select 'function', p.oid::regprocedure::text
        from pg_proc p
        where p.pronamespace = 'livestore'::regnamespace
            and p.proowner not in ('livestore_owner'::regrole, 'livestore_hooks'::regrole)
    loop
        execute format('alter %s %s owner to livestore_owner', object.kind, object.name);
    end loop;
end
$$;

-- These functions run as livestore_hooks. A role can become the owner of a function only while it has CREATE on the schema.
grant create on schema livestore to livestore_hooks;
alter function livestore._insert_as_hooks(oid, boolean, bigint[], bigint[], bigint[], text[], text[], text[], text[], timestamptz[])
    owner to livestore_hooks;
alter function livestore._insert_one_as_hooks(bigint, bigint, text, text, text, text, timestamptz) owner to livestore_hooks;
alter function livestore._move_events(oid, oid) owner to livestore_hooks;
alter function livestore._delete_hooked_events(oid, bigint) owner to livestore_hooks;
alter function livestore._update_hooked_events(oid, bigint, bigint[], text, text) owner to livestore_hooks;
revoke create on schema livestore from livestore_hooks;
-- Code that runs as livestore_hooks may have granted them to others.
do $$
declare
    granted record;
begin
    for granted in
        select distinct p.oid::regprocedure::text as name, case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee
        from pg_proc p, aclexplode(p.proacl) a
        where p.pronamespace = 'livestore'::regnamespace and p.proowner = 'livestore_hooks'::regrole and a.grantee <> p.proowner
    loop
        execute format('revoke all on function %s from %s cascade', granted.name, granted.grantee);
    end loop;
end
$$;
grant execute on function
    livestore._insert_as_hooks(oid, boolean, bigint[], bigint[], bigint[], text[], text[], text[], text[], timestamptz[]),
    livestore._insert_one_as_hooks(bigint, bigint, text, text, text, text, timestamptz),
    livestore._move_events(oid, oid),
    livestore._delete_hooked_events(oid, bigint),
    livestore._update_hooked_events(oid, bigint, bigint[], text, text)
to livestore_owner;
grant execute on function livestore._check_reader(oid) to livestore_admin;

-- The schema has the same owner, unlike in the native flavour. A restore creates it with its owner, but grants privileges at
-- the end: without ownership, the functions that indexes call could not be called when the indexes are built.
alter schema livestore owner to livestore_owner;
-- The memberships that flavours/portable/join.sql has taken.
do $$
declare
    role_name text;
begin
    foreach role_name in array array['livestore_owner', 'livestore_hooks'] loop
        if current_setting('livestore.joined_' || role_name, true) = 'on' then
            execute format('revoke %I from %I', role_name, current_user);
            perform set_config('livestore.joined_' || role_name, '', true);
        end if;
    end loop;
end
$$;
commit;
