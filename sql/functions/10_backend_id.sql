-- Backend ids have the form of nanoid's, which LiveStore's own backends use: 21 characters of [A-Za-z0-9_-].
create or replace function livestore.make_backend_id(seed text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select translate(left(encode(sha256(convert_to(seed, 'UTF8')), 'base64'), 21), '+/', '-_')
$$;

comment on function livestore.make_backend_id(text) is 'Internal: 21 URL-safe characters that depend on the seed alone';

-- security definer: the seed in livestore.instance is nobody else's to read.
create or replace function livestore.backend_id(store_id text)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select coalesce(
        (select s.backend_id from livestore.stores s where s.store_id = $1),
        (select d.backend_id from livestore.dropped_stores d where d.store_id = $1),
        livestore.make_backend_id((select i.seed from livestore.instance i order by i.created_at limit 1) || $1)
    )
$$;

comment on function livestore.backend_id(text) is
'The backend id of a store: it names the life of the log and changes when the log is reset. For a store that does not exist: the id that it will have. Writes nothing';
