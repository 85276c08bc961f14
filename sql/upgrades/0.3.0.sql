-- What tables, types and the functions of sql/schema need to become what they are in the release after 0.3.0.

-- Which part of the stores this database has, if it is one of several (docs/decisions/shards.md). Without a row, all of them.
create table livestore.shard (
    number integer not null check (number between 0 and 4095),
    slot_count integer not null check (slot_count between 1 and 4096 and slot_count & (slot_count - 1) = 0),
    slots integer[] not null
);
create unique index shard_is_one_row on livestore.shard ((true));

comment on table livestore.shard is 'If this database is a shard: which one, and which slots it has. At most one row. Written by livestore-sidecar shards. A transaction that changes it, or livestore.shard_stores, locks the row for update first: stores are created under a lock for share';
comment on column livestore.shard.number is 'Number of the shard, from 0. livestore.stores.id begins with it: shard k has k·2^40 + 1 and those after it';
comment on column livestore.shard.slot_count is 'Number of slots of all shards: a power of two';
comment on column livestore.shard.slots is 'The slots whose stores are here';

create table livestore.shard_stores (
    store_id text not null,
    is_here boolean not null,
    constraint shard_stores_store_id_key exclude using hash (store_id with =)
);

comment on table livestore.shard_stores is 'The stores that are here, or elsewhere, whatever their slot says';
comment on column livestore.shard_stores.store_id is 'The storeId of LiveStore clients';
comment on column livestore.shard_stores.is_here is 'Whether the store is on this shard';

-- They have no key, and a publication of all tables needs something by which to tell a row that was deleted or changed.
alter table livestore.shard replica identity full;
alter table livestore.shard_stores replica identity full;

create table livestore.shard_moves (
    id bigint generated always as identity primary key,
    token uuid not null default gen_random_uuid(),
    is_arrival boolean not null default false,
    slot integer,
    store_id text,
    shard text not null,
    started_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    check (num_nonnulls(slot, store_id) = 1)
);

comment on table livestore.shard_moves is 'The slots and stores that this shard has given to another one, or got from one. Written by livestore-sidecar shards move';
comment on column livestore.shard_moves.id is 'Number of the move, or of the arrival';
comment on column livestore.shard_moves.token is 'The same on both shards';
comment on column livestore.shard_moves.is_arrival is 'Whether they have come here';
comment on column livestore.shard_moves.slot is 'The slot; null for a single store';
comment on column livestore.shard_moves.store_id is 'The store; null for a slot';
comment on column livestore.shard_moves.shard is 'Name of the other shard';
comment on column livestore.shard_moves.started_at is 'When this shard gave it away, or got it';
comment on column livestore.shard_moves.finished_at is 'When the front knew of it; null until then: a move that was interrupted. The same command again ends it, or takes it back';

create table livestore.departed_stores (
    id bigint primary key,
    store_id text not null,
    head bigint not null,
    backend_id text not null,
    eventlog regclass not null,
    created_at timestamptz not null,
    move bigint not null references livestore.shard_moves,
    "position" bigint
);
create index on livestore.departed_stores (move);
create index on livestore.departed_stores ("position");
create index on livestore.departed_stores using hash (store_id);

comment on table livestore.departed_stores is 'Stores that are on another shard now. Their events are still here, for readers of the commit log: sidecars remove them once that is pruned. Written by livestore-sidecar shards move';
comment on column livestore.departed_stores.id is 'livestore.stores.id, as it was';
comment on column livestore.departed_stores.store_id is 'As in livestore.stores';
comment on column livestore.departed_stores.head is 'As in livestore.stores, when the store left';
comment on column livestore.departed_stores.backend_id is 'As in livestore.stores';
comment on column livestore.departed_stores.eventlog is 'As in livestore.stores';
comment on column livestore.departed_stores.created_at is 'As in livestore.stores';
comment on column livestore.departed_stores.move is 'livestore.shard_moves.id';
comment on column livestore.departed_stores."position" is 'When the commit log is pruned up to here, nobody reads its events any more. Null until the move has ended';

-- For readers of the commit log: a store that moves takes none of its positions with it.
create view livestore.kept_logs as
select s.id, s.store_id, s.eventlog from livestore.stores s
union all
select d.id, d.store_id, d.eventlog from livestore.departed_stores d;

comment on view livestore.kept_logs is 'The logs that are here: those of stores, and of stores that are on another shard now, until readers of the commit log have passed their events';
comment on column livestore.kept_logs.id is 'Number of the store in event log tables';
comment on column livestore.kept_logs.store_id is 'The storeId of LiveStore clients';
comment on column livestore.kept_logs.eventlog is 'The table that holds the events';

comment on column livestore.commits.changes is 'Null if this commit has only appended. Else for each store: null where it has appended, and reset, drop, move, renew, rewrite, leave or arrive where the store was reset, dropped, moved to a dedicated table or given a new backend id, where an event was rewritten, or where the store has moved to another shard or come from one';
comment on column livestore.polled_event.change is 'Null, or reset, drop, move, renew, rewrite, leave or arrive: the store was reset, dropped, moved to a dedicated table or given a new backend id, the event seq_num was rewritten, or the store has moved to another shard or come from one';
