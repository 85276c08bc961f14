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
comment on column livestore.polled_event.change is 'Null, or reset, drop, move, renew, rewrite, leave or arrive: the store was reset, dropped, moved to a dedicated table or given a new backend id, the event seq_num was rewritten, or the store has moved to another shard or come from one';
comment on column livestore.polled_event.failures is 'How often these events have failed before';
