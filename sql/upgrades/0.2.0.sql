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

-- For those who replicate the event logs: a row of livestore.stores changes with every push, a row of this table never does.
create table livestore.store_names (
    store bigint primary key,
    store_id text not null
);

comment on table livestore.store_names is 'The store of each number in the event logs, for change data capture: written once for each life of a store, and removed by a reset or a drop. Follows livestore.stores';
comment on column livestore.store_names.store is 'livestore.stores.id';
comment on column livestore.store_names.store_id is 'The storeId of LiveStore clients';

insert into livestore.store_names select s.id, s.store_id from livestore.stores s;

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

alter table livestore.instance add column rewrite_key text not null default gen_random_uuid()::text;
comment on column livestore.instance.rewrite_key is 'What livestore._digest is made with';

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

-- It has more parameters now. Beside the new one, calls would be ambiguous.
do $$
begin
    drop function livestore.commit(text, text, json, text, text);
exception when dependent_objects_still_exist then
    raise exception 'objects of yours depend on livestore.commit, which gets more parameters: %', sqlerrm
        using errcode = 'dependent_objects_still_exist', hint = 'Drop them, update, and create them again. They are those that say "begin atomic" or "return".';
end
$$;
