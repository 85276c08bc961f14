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
comment on column livestore.commits.changes is 'Null if this commit has only appended. Else for each store: null where it has appended, and reset, drop, move, renew, rewrite, leave or arrive where the store was reset, dropped, moved to a dedicated table or given a new backend id, where an event was rewritten, or where the store has moved to another shard or come from one';
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
