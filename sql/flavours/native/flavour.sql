create or replace function livestore.flavour()
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select 'native'
$$;

comment on function livestore.flavour() is
'Which flavour of livestore_sync is installed: native, an extension with a library, or portable, SQL alone. Both do the same';
