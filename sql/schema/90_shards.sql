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
