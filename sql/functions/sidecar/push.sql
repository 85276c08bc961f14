-- Every role that may connect can LISTEN. So notifications name stores by digests, whose key only roles that may read all
-- stores can get.
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
'The secret key of livestore.store_digest. What the sidecar uses';
