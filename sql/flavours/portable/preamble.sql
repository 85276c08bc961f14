-- The extension is not there, or is being taken apart by `livestore-sidecar install --flavour portable`.
do $$
begin
    if exists (select from pg_extension e where e.extname = 'livestore_sync') then
        raise exception 'the native flavour is installed in this database'
            using errcode = 'object_not_in_prerequisite_state',
                hint = 'Update it by: alter extension livestore_sync update. To have the portable flavour instead: livestore-sidecar install --flavour portable';
    end if;
end
$$;
