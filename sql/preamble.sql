-- The search path contains no schema in which other roles can create objects, so the statements below cannot call a function
-- or an operator of somebody else. The extension's own objects are named with their schema.
set local search_path = pg_catalog, pg_temp;
-- Functions call functions of files that come later.
set local check_function_bodies = off;

do $$
begin
    if current_setting('server_encoding') <> 'UTF8' then
        raise exception 'livestore_sync needs a database with the encoding UTF8, this one has %', current_setting('server_encoding')
            using errcode = 'feature_not_supported', hint = 'Create the database with: create database <name> encoding ''UTF8'' template template0';
    end if;
end
$$;

-- Roles belong to the whole cluster: another database may have them already, or be creating them right now.
do $$
declare
    role_name text;
    wrong text;
begin
    foreach role_name in array array[
        'livestore_owner', 'livestore_hooks', 'livestore_reader', 'livestore_writer', 'livestore_admin'
    ] loop
        begin
            if not exists (select from pg_roles r where r.rolname = role_name) then
                execute format('create role %I nologin', role_name);
            end if;
        exception when duplicate_object or unique_violation then
            null;
        end;
    end loop;
    -- A role with CREATEROLE could have created these roles before, with itself as a member, and would then own what is
    -- created below.
    select string_agg(w.reason, '; ' order by w.reason) into wrong
    from (
        select format('%I has LOGIN, SUPERUSER, CREATEROLE, CREATEDB, REPLICATION or BYPASSRLS', r.rolname) as reason
        from pg_roles r
        where r.rolname in ('livestore_owner', 'livestore_hooks')
            and (r.rolcanlogin or r.rolsuper or r.rolcreaterole or r.rolcreatedb or r.rolreplication or r.rolbypassrls)
        union all
        select format('%I is a member of %I', u.rolname, r.rolname)
        from pg_auth_members m
        join pg_roles r on r.oid = m.roleid and r.rolname in ('livestore_owner', 'livestore_hooks')
        -- The role that installs the portable flavour is a member until the end of the script. From Postgres 16 on, the role
        -- that created another one with CREATEROLE is its member with the ADMIN option only: it may grant that role, but
        -- neither inherits nor sets it.
        join pg_roles u on u.oid = m.member and not u.rolsuper and u.rolname <> current_user
        where coalesce((to_jsonb(m) ->> 'inherit_option')::boolean, true) or coalesce((to_jsonb(m) ->> 'set_option')::boolean, true)
    ) w;
    if wrong is not null then
        raise exception 'the roles livestore_owner and livestore_hooks must be nobody''s: %', wrong
            using errcode = 'invalid_grant_operation',
                hint = 'livestore_owner owns everything in the schema livestore, livestore_hooks runs triggers. Revoke the memberships (revoke … from …), take the attributes away (alter role … nologin nosuperuser …), then try again.';
    end if;
    if not pg_has_role('livestore_writer'::name, 'livestore_reader'::name, 'usage'::text) then
        grant livestore_reader to livestore_writer;
    end if;
    if not pg_has_role('livestore_admin'::name, 'livestore_writer'::name, 'usage'::text) then
        grant livestore_writer to livestore_admin;
    end if;
    if not pg_has_role('livestore_hooks'::name, 'livestore_reader'::name, 'usage'::text) then
        grant livestore_reader to livestore_hooks;
    end if;
end
$$;

-- A role that owns the schema, may create in it, or owns something in it could plant functions for the extension to call.
do $$
declare
    schema_acl aclitem[];
    schema_owner oid;
    is_fresh boolean;
    strangers text;
begin
    select n.nspowner, n.nspacl into schema_owner, schema_acl from pg_namespace n where n.nspname = 'livestore';
    if not exists (
        select from pg_roles r
        where r.oid = schema_owner and (r.rolsuper or r.rolname in (current_user, 'livestore_owner'))
    ) then
        raise exception 'the schema livestore belongs to %, who could replace what the extension calls', schema_owner::regrole
            using errcode = 'insufficient_privilege',
                hint = format('Look at what is in the schema, then run: alter schema livestore owner to %I', current_user);
    end if;
    select string_agg(case a.grantee when 0 then 'public' else a.grantee::regrole::text end, ', ') into strangers
    from aclexplode(schema_acl) a
    left join pg_roles r on r.oid = a.grantee
    where a.privilege_type = 'CREATE' and a.grantee <> schema_owner
        and not coalesce(r.rolsuper or r.rolname = 'livestore_owner', false);
    if strangers is not null then
        raise exception 'others may create objects in the schema livestore: %', strangers
            using errcode = 'insufficient_privilege',
                hint = format('Create the schema beforehand if it does not exist, then run: revoke create on schema livestore from %s', strangers);
    end if;

    -- A function of that name may be anybody's, but not one of that owner.
    select not exists (
        select from pg_depend m
        join pg_extension e on m.refclassid = 'pg_extension'::regclass and m.refobjid = e.oid
        where e.extname = 'livestore_sync' and m.deptype = 'e'
    ) and not exists (
        select from pg_proc p
        where p.pronamespace = 'livestore'::regnamespace and p.proname = 'flavour' and p.proowner = 'livestore_owner'::regrole
    ) into is_fresh;
    -- An object without an owner in pg_shdepend belongs to the superuser who made the cluster.
    select string_agg(
            format('%s (of %s)', pg_describe_object(d.classid, d.objid, d.objsubid), coalesce(r.rolname, 'a superuser')), ', '
        )
    into strangers
    from pg_depend d
    left join pg_shdepend s on s.dbid = (select b.oid from pg_database b where b.datname = current_database())
        and s.classid = d.classid and s.objid = d.objid and s.deptype = 'o'
    left join pg_roles r on r.oid = s.refobjid
    where d.refclassid = 'pg_namespace'::regclass and d.refobjid = 'livestore'::regnamespace and d.deptype = 'n'
        and d.classid not in ('pg_extension'::regclass, 'pg_default_acl'::regclass)
        and (is_fresh or not coalesce(r.rolsuper or r.rolname in (current_user, 'livestore_owner', 'livestore_hooks'), s.refobjid is null));
    if strangers is not null then
        raise exception 'the schema livestore has objects that the extension could take for its own: %', strangers
            using errcode = 'duplicate_object',
                hint = case
                    when exists (select from pg_proc p where p.pronamespace = 'livestore'::regnamespace and p.proname = 'shard_map') then
                        'This database is the front of shards: leave its objects as they are, and do not install livestore_sync here. livestore-sidecar shards upgrade brings it to another version.'
                    when position('livestore.eventlog_1 (of ' in strangers) > 0 then
                        'livestore.eventlog_1 holds the events of stores: drop nothing. If the objects came from a dump, restore it with their owners, livestore_owner and livestore_hooks. If they are of a version before 0.3.0, update the extension before you change its flavour.'
                    else 'Drop them, or move them to another schema, then try again.'
                end;
    end if;
end
$$;

