
-- Everything in the schema belongs to livestore_owner, as the members of an extension do by privileges.sql.
do $$
declare
    object record;
begin
    for object in
        select case c.relkind when 'S' then 'sequence' when 'v' then 'view' else 'table' end as kind, c.oid::regclass::text as name
        from pg_class c
        where c.relnamespace = 'livestore'::regnamespace and c.relkind in ('r', 'v', 'S') and c.relowner <> 'livestore_owner'::regrole
            -- The sequence of an identity goes with its table.
            and not exists (
                select from pg_depend i
                where i.classid = 'pg_class'::regclass and i.objid = c.oid and i.refclassid = 'pg_class'::regclass and i.deptype = 'i'
            )
        union all
        select 'type', t.oid::regtype::text
        from pg_type t
        join pg_class c on c.oid = t.typrelid and c.relkind = 'c'
        where t.typnamespace = 'livestore'::regnamespace and t.typowner <> 'livestore_owner'::regrole
        union all
        select 'function', p.oid::regprocedure::text
        from pg_proc p
        where p.pronamespace = 'livestore'::regnamespace
            and p.proowner not in ('livestore_owner'::regrole, 'livestore_hooks'::regrole)
    loop
        execute format('alter %s %s owner to livestore_owner', object.kind, object.name);
    end loop;
end
$$;

-- These functions run as livestore_hooks. A role can become the owner of a function only while it has CREATE on the schema.
grant create on schema livestore to livestore_hooks;
alter function livestore._insert_as_hooks(oid, boolean, bigint[], bigint[], bigint[], text[], text[], text[], text[], timestamptz[])
    owner to livestore_hooks;
alter function livestore._insert_one_as_hooks(bigint, bigint, text, text, text, text, timestamptz) owner to livestore_hooks;
alter function livestore._move_events(oid, oid) owner to livestore_hooks;
alter function livestore._delete_hooked_events(oid, bigint) owner to livestore_hooks;
alter function livestore._update_hooked_events(oid, bigint, bigint[], text, text) owner to livestore_hooks;
revoke create on schema livestore from livestore_hooks;
-- Code that runs as livestore_hooks may have granted them to others.
do $$
declare
    granted record;
begin
    for granted in
        select distinct p.oid::regprocedure::text as name, case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee
        from pg_proc p, aclexplode(p.proacl) a
        where p.pronamespace = 'livestore'::regnamespace and p.proowner = 'livestore_hooks'::regrole and a.grantee <> p.proowner
    loop
        execute format('revoke all on function %s from %s cascade', granted.name, granted.grantee);
    end loop;
end
$$;
grant execute on function
    livestore._insert_as_hooks(oid, boolean, bigint[], bigint[], bigint[], text[], text[], text[], text[], timestamptz[]),
    livestore._insert_one_as_hooks(bigint, bigint, text, text, text, text, timestamptz),
    livestore._move_events(oid, oid),
    livestore._delete_hooked_events(oid, bigint),
    livestore._update_hooked_events(oid, bigint, bigint[], text, text)
to livestore_owner;
grant execute on function livestore._check_reader(oid) to livestore_admin;

-- The schema has the same owner, unlike in the native flavour. A restore creates it with its owner, but grants privileges at
-- the end: without ownership, the functions that indexes call could not be called when the indexes are built.
alter schema livestore owner to livestore_owner;
