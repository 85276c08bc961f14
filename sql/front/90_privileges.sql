-- As in the extension, but for the schema: everything belongs to livestore_owner, which nobody is.
do $$
declare
    object record;
begin
    for object in
        select 'table' as kind, c.oid::regclass::text as name
        from pg_class c where c.relnamespace = 'livestore'::regnamespace and c.relkind = 'r'
        union all
        select 'type', t.oid::regtype::text
        from pg_type t join pg_class c on c.oid = t.typrelid and c.relkind = 'c'
        where t.typnamespace = 'livestore'::regnamespace
        union all
        select 'function', p.oid::regprocedure::text
        from pg_proc p
        where p.pronamespace = 'livestore'::regnamespace
            -- Those of PL/Proxy itself.
            and not exists (select from pg_depend d where d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e')
    loop
        execute format('alter %s %s owner to livestore_owner', object.kind, object.name);
    end loop;
end
$$;
grant usage, create on schema livestore to livestore_owner;
grant usage on foreign server livestore_shards to livestore_owner;

revoke all on all functions in schema livestore from public;

-- Nor does anybody get what default privileges give. Rights to what an upgrade found (livestore.older) stay.
do $$
declare
    object record;
begin
    for object in
        with made as (
            select 'function' as kind, p.oid::regprocedure::text as name, p.proacl as acl, p.proowner as owner
            from pg_proc p
            where p.pronamespace = 'livestore'::regnamespace and p.oid <> all (current_setting('livestore.older')::oid[])
            union all
            select 'table', c.oid::regclass::text, c.relacl, c.relowner
            from pg_class c
            where c.relnamespace = 'livestore'::regnamespace and c.relkind = 'r' and current_setting('livestore.older') = '{}'
        )
        select distinct m.kind, m.name, case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee
        from made m, aclexplode(m.acl) a
        where a.grantee <> m.owner
    loop
        execute format('revoke all on %s %s from %s', object.kind, object.name, object.grantee);
    end loop;
end
$$;

grant usage on schema livestore to livestore_reader;
grant execute on function livestore.shard_map(), livestore.slot(text, integer), livestore.slot_count(), livestore.pull(text, bigint, integer),
    livestore.events(text), livestore.head(text), livestore.backend_id(text) to livestore_reader;
grant select on livestore.shards, livestore.moved_stores to livestore_reader;
grant execute on function livestore.push(text, json, text), livestore.push_batch(text[], text[], text[], text, text[]),
    livestore.commit(text, text, json, text, text, bigint, text), livestore.commit(text, text, text, text, text, bigint, text),
    livestore.commit(text, text, jsonb, text, text, bigint, text), livestore.create_store(text, boolean) to livestore_writer;
grant execute on function livestore.reset_store(text), livestore.drop_store(text) to livestore_admin;
