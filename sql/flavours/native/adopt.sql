-- Makes the objects of the portable flavour members of the extension: those that belong to livestore_owner and
-- livestore_hooks. Nobody else can have created objects as these roles; the update that follows checks that they have no
-- members.
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
    -- The native flavour does not need these tables. Dropping them waits for transactions that have appended but not
    -- committed. The internal functions are dropped, since the update creates them anew.
    drop table livestore.pending_commits, livestore.hook_contexts;
    for object in
        select p.oid::regprocedure::text as name from pg_proc p
        where p.pronamespace = 'livestore'::regnamespace and left(p.proname, 1) = '_'
            and p.proowner in ('livestore_owner'::regrole, 'livestore_hooks'::regrole)
            and not exists (select from pg_trigger t where t.tgfoid = p.oid)
            -- Functions that others contain are replaced in place.
            and not exists (
                select from pg_depend d
                where d.refclassid = 'pg_proc'::regclass and d.refobjid = p.oid and d.classid = 'pg_proc'::regclass and d.deptype = 'n'
            )
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
    -- In the native flavour the schema belongs to the role that created the extension (sql/privileges.sql says why).
    execute format('alter schema livestore owner to %I', current_user);
end
$$;
