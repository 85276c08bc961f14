create or replace function livestore.version()
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select '@version@'
$$;

comment on function livestore.version() is 'The version of livestore_sync that is installed';
