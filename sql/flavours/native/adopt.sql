-- The objects of the portable flavour become members of the extension: those of the roles livestore_owner and livestore_hooks, which
-- are nobody's, as the update to today's version checks.
set local search_path = pg_catalog, pg_temp;

do $$
declare
    object record;
begin
    if not exists (
        select from pg_proc p
        where p.pronamespace = 'livestore'::regnamespace and p.proname = 'flavour' and p.proowner = 'livestore_owner'::regrole
    ) then
        raise exception 'the portable flavour is not installed in this database'
            using errcode = 'object_not_in_prerequisite_state', hint = 'Run: create extension livestore_sync';
    end if;
    -- The library needs none of these. Waits for transactions that have appended. Internal functions are created anew.
    drop table livestore.pending_commits, livestore.context_key;
    for object in
        select p.oid::regprocedure::text as name from pg_proc p
        where p.pronamespace = 'livestore'::regnamespace and p.proname like '\_%'
            and p.proowner in ('livestore_owner'::regrole, 'livestore_hooks'::regrole)
            and not exists (select from pg_trigger t where t.tgfoid = p.oid)
    loop
        execute format('drop function %s', object.name);
    end loop;
    for object in
        select case c.relkind when 'S' then 'sequence' when 'v' then 'view' else 'table' end as kind, c.oid::regclass::text as name
        from pg_class c
        where c.relnamespace = 'livestore'::regnamespace and c.relkind in ('r', 'v', 'S') and c.relowner = 'livestore_owner'::regrole
            -- Dedicated tables are no members.
            and not exists (select from pg_inherits i where i.inhrelid = c.oid)
        union all
        select 'type', t.oid::regtype::text
        from pg_type t join pg_class c on c.oid = t.typrelid and c.relkind = 'c'
        where t.typnamespace = 'livestore'::regnamespace and t.typowner = 'livestore_owner'::regrole
        union all
        select 'function', p.oid::regprocedure::text
        from pg_proc p
        where p.pronamespace = 'livestore'::regnamespace and p.proowner in ('livestore_owner'::regrole, 'livestore_hooks'::regrole)
    loop
        execute format('alter extension livestore_sync add %s %s', object.kind, object.name);
    end loop;
    -- That of the extension belongs to the role that created it.
    execute format('alter schema livestore owner to %I', current_user);
end
$$;
