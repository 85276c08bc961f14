create extension if not exists plproxy with schema pg_catalog;

comment on schema livestore is 'The front of several databases with livestore_sync: its functions go to the one that has the store. No events are here';

create table livestore.shards (
    name text primary key,
    number integer unique not null check (number between 0 and 4095),
    connection text unique not null
);

comment on table livestore.shards is 'The databases that have the stores. Written by livestore-sidecar shards';
comment on column livestore.shards.name is 'Name of the shard, as operators call it';
comment on column livestore.shards.number is 'Its number, from 0: the same as in livestore.shard there';
comment on column livestore.shards.connection is 'Its host, port and database, in libpq''s form: what the options of the server livestore_shards say for each of its slots';

create table livestore.moved_stores (
    store_id text not null,
    shard text not null references livestore.shards,
    constraint moved_stores_store_id_key exclude using hash (store_id with =)
);

comment on table livestore.moved_stores is 'Stores that are on another shard than their slot';
comment on column livestore.moved_stores.store_id is 'The storeId of LiveStore clients';
comment on column livestore.moved_stores.shard is 'The shard that has the store: one that has a slot';

create table livestore.shared_keys (
    seed text not null,
    heads_key text not null,
    rewrite_key text not null
);

comment on table livestore.shared_keys is 'The keys that all shards have in livestore.instance, for shards that are added: nobody but the owner may read it. One row';
comment on column livestore.shared_keys.seed is 'Backend ids are derived from it: the same store has the same one on every shard';
comment on column livestore.shared_keys.heads_key is 'Key of the digests of notifications';
comment on column livestore.shared_keys.rewrite_key is 'Key of the digests of rewritten events, which move with a store';

create type livestore.event as (
    store_id text,
    seq_num bigint,
    parent_seq_num bigint,
    name text,
    args json,
    client_id text,
    session_id text,
    created_at timestamptz
);

comment on type livestore.event is 'A row of livestore.events of a shard';

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

comment on type livestore.push_result is 'The outcome of one push of livestore.push_batch, as on a shard';
