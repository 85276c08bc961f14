do $$
begin
    if exists (
        select from pg_proc p
        join pg_language l on l.oid = p.prolang and l.lanname = 'c'
        join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
        where p.pronamespace = 'livestore'::regnamespace
    ) then
        raise exception 'the native flavour is installed in this database'
            using errcode = 'object_not_in_prerequisite_state',
                hint = 'Update it by: alter extension livestore_sync update. To have the portable flavour instead: livestore-sidecar install --flavour portable';
    end if;
end
$$;
