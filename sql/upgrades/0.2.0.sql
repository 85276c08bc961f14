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

alter table livestore.instance
    add column context_secret text not null default gen_random_uuid()::text || gen_random_uuid()::text;
comment on column livestore.instance.context_secret is 'What the context of hooks is signed with: livestore.sign_context';

create unlogged table livestore.relay_presence ();

comment on table livestore.relay_presence is 'Empty. Locked by a transaction that changes who is connected to the peer relay: a lock that only its owner can take';

alter view livestore.events set (security_barrier = true);

alter table livestore.instance
    add column heads_key text not null default gen_random_uuid()::text,
    add column legacy_notify boolean not null default false;
comment on column livestore.instance.heads_key is 'What livestore.store_digest is made with';
comment on column livestore.instance.legacy_notify is 'Whether commits are told on the channel livestore, too, unless the setting livestore.legacy_notify says otherwise';
-- Sidecars of earlier versions listen to the old channel until they are updated. Not by alter database: connections that are
-- open would not notice.
update livestore.instance set legacy_notify = true;
