create or replace function livestore.slot(store_id text, slot_count integer)
returns integer
language sql
immutable
strict
parallel safe
set search_path = pg_catalog, pg_temp
as $$
    -- Not a hash function of Postgres, which may differ between machines.
    select (('x' || left(encode(sha256(convert_to(store_id, 'UTF8')), 'hex'), 8))::bit(32)::bigint & (slot_count - 1))::integer
$$;

comment on function livestore.slot(text, integer) is
'The slot of a store, from 0, of a power of two of slots: the first four bytes of the SHA-256 of its id. Each slot is on one shard';
