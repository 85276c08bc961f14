-- Any role that may connect may LISTEN. So the channel names stores by digests, which only roles can make that may read all stores.
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
'What livestore.store_digest is made with. What the sidecar uses';
