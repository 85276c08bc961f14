-- Changes from the native flavour to the portable one: takes all objects out of the extension, so that dropping it keeps them
-- with all data. The script of the portable flavour comes next.
do $$
declare
    object record;
begin
    for object in
        select replace(i.type, 'composite type', 'type') as kind, i.identity as name
        from pg_depend d
        join pg_extension e on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid
        cross join lateral pg_identify_object(d.classid, d.objid, d.objsubid) i
        where e.extname = 'livestore_sync' and d.deptype = 'e'
            -- The types of a table's rows, and of arrays, go with what they are of.
            and not (d.classid = 'pg_type'::regclass and exists (
                select from pg_depend o where o.classid = d.classid and o.objid = d.objid and o.deptype = 'i'
            ))
    loop
        execute format('alter extension livestore_sync drop %s %s', object.kind, object.name);
    end loop;
end
$$;
drop extension livestore_sync;

-- Internal functions are created anew; those that sidecars of version 0.2 call are the extension's alone.
do $$
declare
    object record;
begin
    for object in
        select p.oid::regprocedure::text as name from pg_proc p
        where p.pronamespace = 'livestore'::regnamespace and p.proowner = 'livestore_owner'::regrole
            and (left(p.proname, 1) = '_' or p.proname = 'push_batch' and p.pronargs = 7 or p.proname = 'relay_append' and p.pronargs = 10)
            and not exists (select from pg_trigger t where t.tgfoid = p.oid)
            -- Functions that others contain are replaced in place.
            and not exists (
                select from pg_depend d
                where d.refclassid = 'pg_proc'::regclass and d.refobjid = p.oid and d.classid = 'pg_proc'::regclass and d.deptype = 'n'
            )
    loop
        execute format('drop function %s', object.name);
    end loop;
end
$$;
