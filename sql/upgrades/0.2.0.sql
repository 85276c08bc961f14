-- What tables, types and the functions of sql/schema need to become what they are in the release after 0.2.0.

-- Hooks ran as the superuser who had installed the extension. From here on they run as livestore_hooks, which has no rights in
-- the application's schemas: a hook that needs some would fail, and with it every push.
do $$
declare
    hooks text;
begin
    if current_setting('livestore.hooks_checked', true) in ('on', 'true', 'yes', '1') then
        return;
    end if;
    select string_agg(
            format('%s (trigger %I on %s)', h.function, h.tgname, h.eventlog), ', ' order by h.function, h.tgname, h.eventlog
        )
    into hooks
    from (
        select distinct p.oid::regprocedure::text as function, t.tgname, t.tgrelid::regclass::text as eventlog
        from pg_trigger t
        join pg_proc p on p.oid = t.tgfoid
        join pg_class c on c.oid = t.tgrelid
        where c.relnamespace = 'livestore'::regnamespace and not t.tgisinternal and not p.prosecdef
            and p.pronamespace <> 'livestore'::regnamespace
    ) h;
    if hooks is not null then
        raise exception 'hooks will run as the role livestore_hooks, and no longer as a superuser: %', hooks
            using errcode = 'object_not_in_prerequisite_state',
                detail = 'A hook that lacks a right fails, and with it every push.',
                hint = 'Either let the function run as its owner, a role of the application that has what it needs (alter function … owner to …; alter function … security definer set search_path = pg_catalog, …, pg_temp; grant livestore_writer to that role, if it calls functions of the extension), or grant what it needs to livestore_hooks (create role livestore_hooks; grant usage on schema …, insert on … to livestore_hooks). Then run: set livestore.hooks_checked = on; alter extension livestore_sync update';
    end if;
end
$$;

-- Without U&'…', which standard_conforming_strings = off refuses.
create or replace function livestore.table_suffix(store_id text)
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

create or replace function livestore.stream_name(store_id text)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return left(regexp_replace(regexp_replace(store_id, '[' || chr(65536) || '-' || chr(1114111) || ']', '--', 'g'), '[^a-zA-Z0-9_-]', '-', 'g'), 100);
end
$$;

-- A publication of all tables needs to know rows by which to tell others what was deleted or changed.
alter table livestore.dropped_stores replica identity full;
alter table livestore.instance replica identity full;

alter table livestore.instance add column max_ahead bigint not null default 2147483648 check (max_ahead >= 0);
comment on column livestore.instance.max_ahead is 'How far ahead of the head of its log an event may be that leaves a gap: a push beyond is invalid. Clients of LiveStore leave no gaps';

create unlogged table livestore.relay_presence ();

comment on table livestore.relay_presence is 'Empty. Locked by a transaction that changes who is connected to the peer relay: a lock that only its owner can take';

alter view livestore.events set (security_barrier = true);

alter table livestore.instance
    add column heads_key text not null default gen_random_uuid()::text,
    add column legacy_notify boolean not null default false,
    add column keep_commits interval not null default '7 days',
    add column pruned_commits bigint not null default 0;
comment on column livestore.instance.heads_key is 'What livestore.store_digest is made with';
comment on column livestore.instance.legacy_notify is 'Whether commits are told on the channel livestore, too, unless the setting livestore.legacy_notify says otherwise';
comment on column livestore.instance.keep_commits is 'Sidecars remove entries of livestore.commits that are older';
comment on column livestore.instance.pruned_commits is 'Up to this position, entries of livestore.commits were removed';
-- Sidecars of earlier versions listen to the old channel until they are updated. Not by alter database: connections that are
-- open would not notice.
update livestore.instance set legacy_notify = true;

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
comment on column livestore.commits.upto is 'For each store: the head of its log afterwards; for a change, livestore.stores.id afterwards, or 0 if the store was dropped';
comment on column livestore.commits.events is 'For each store: the number of events that were appended, which are the last ones up to that head; 1 for a change';
comment on column livestore.commits.committed_at is 'When the transaction committed';
comment on column livestore.commits.changes is 'Null if this commit has only appended. Else for each store: null where it has appended, and reset, drop or move where the store was reset, dropped or moved to a dedicated table';
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

-- Pushes are carried out by one function in Rust, and the context of a request is one JSON object.
drop function if exists livestore.plan_pushes(text[], text[], text[], bigint[], text[], text[], bigint[], bigint[], text[], text[], text[], text[]);
drop function if exists livestore.append_pooled(text[], text[], text[], text);
drop function if exists livestore.lock_stores(text[], text[], text[]);
drop function if exists livestore.append(text[], text[], text[], text, text[], text[], text[]);
drop function if exists livestore.push_some(text[], text[], text[], integer[], text, text[], text[], text[]);
drop function if exists livestore.enter_context(text, text, text, text);
-- With defaults for the last arguments, calls with three to five would be ambiguous.
drop function if exists livestore.push_batch(text[], text[], text[], text, text[], text[], text[]);
drop function if exists livestore.relay_append(text, text[], text[], text[], text[], text[], text[], text, text, text);

-- Names of internal functions begin with an underscore.
do $$
declare
    old record;
begin
    for old in
        select p.oid::regprocedure as signature, case n.name when 'own_table_name' then 'dedicated_table_name' else n.name end as name
        from unnest('{lock_existing_store,lock_store,make_backend_id,notify_heads,own_table_name,register_stores,relay_forget,relay_key,relay_lock,relay_notify,stored_events}'::text[]) n(name)
        join pg_proc p on p.proname = n.name and p.pronamespace = 'livestore'::regnamespace
        join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
    loop
        execute format('alter function %s rename to %I', old.signature, '_' || old.name);
    end loop;
end
$$;
