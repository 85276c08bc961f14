-- First: a role without superuser can only give objects to a role that may create in the schema.
grant usage, create on schema livestore to livestore_owner;

-- Everything belongs to livestore_owner, except the schema: a dump creates the schema before the extension, and therefore
-- before the role exists.
do $$
declare
    object record;
begin
    for object in
        select case c.relkind when 'S' then 'sequence' when 'v' then 'view' else 'table' end as kind, c.oid::regclass::text as name
        from pg_depend d
        join pg_class c on d.classid = 'pg_class'::regclass and d.objid = c.oid
        where d.refclassid = 'pg_extension'::regclass and d.deptype = 'e' and c.relowner <> 'livestore_owner'::regrole
            and d.refobjid = (select e.oid from pg_extension e where e.extname = 'livestore_sync')
            -- The sequence of an identity goes with its table.
            and not exists (
                select from pg_depend i
                where i.classid = 'pg_class'::regclass and i.objid = c.oid and i.refclassid = 'pg_class'::regclass and i.deptype = 'i'
            )
        union all
        select 'type', t.oid::regtype::text
        from pg_depend d
        join pg_type t on d.classid = 'pg_type'::regclass and d.objid = t.oid
        where d.refclassid = 'pg_extension'::regclass and d.deptype = 'e' and t.typowner <> 'livestore_owner'::regrole
            and d.refobjid = (select e.oid from pg_extension e where e.extname = 'livestore_sync')
            -- From Postgres 18 on, the types of a table's rows and of arrays are members, too. They go with what they are of.
            and (t.typrelid = 0 or (select c.relkind from pg_class c where c.oid = t.typrelid) = 'c')
            and not exists (select from pg_type e where e.typarray = t.oid)
        union all
        select 'function', p.oid::regprocedure::text
        from pg_depend d
        join pg_proc p on d.classid = 'pg_proc'::regclass and d.objid = p.oid
        where d.refclassid = 'pg_extension'::regclass and d.deptype = 'e' and p.proowner <> 'livestore_owner'::regrole
            and d.refobjid = (select e.oid from pg_extension e where e.extname = 'livestore_sync')
    loop
        execute format('alter %s %s owner to livestore_owner', object.kind, object.name);
    end loop;
end
$$;

-- Postgres lets everybody execute a new function. Here nobody may, except as listed.
revoke all on all functions in schema livestore from public;

-- Nor does anybody get what default privileges give. Rights that were granted to others stay.
do $$
declare
    object record;
begin
    for object in
        with given as (
            select a.grantee, bool_or(d.defaclobjtype = 'n') as of_schemas
            from pg_default_acl d, aclexplode(d.defaclacl) a group by 1
        ), made as (
            select 'function' as kind, p.oid::regprocedure::text as name, p.proacl as acl, p.proowner as owner
            from pg_proc p where p.pronamespace = 'livestore'::regnamespace
            union all
            select case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass::text, c.relacl, c.relowner
            from pg_class c where c.relnamespace = 'livestore'::regnamespace and c.relkind in ('r', 'v', 'S')
            union all
            select 'type', t.oid::regtype::text, t.typacl, t.typowner
            from pg_type t where t.typnamespace = 'livestore'::regnamespace
            union all
            select 'schema', 'livestore', n.nspacl, n.nspowner
            from pg_namespace n where n.oid = 'livestore'::regnamespace
        )
        select distinct m.kind, m.name, case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee
        from made m, aclexplode(m.acl) a
        join given g on g.grantee = a.grantee
        -- Usage of the schema is often granted, for views and functions of an application. livestore_owner has it from above.
        where a.grantee <> m.owner
            and (m.kind <> 'schema' or g.of_schemas and a.grantee <> 'livestore_owner'::regrole)
    loop
        execute format('revoke all on %s %s from %s', object.kind, object.name, object.grantee);
    end loop;
end
$$;

grant usage on schema livestore to livestore_reader, livestore_hooks;
-- Only what is missing: a GRANT in the script of an extension makes all privileges that a table has the extension's own, even those that
-- somebody has granted before an update, and a dump leaves them out.
do $$
declare
    missing record;
begin
    for missing in
        select g.privilege, g.name, g.grantee
        from (
            select 'select' as privilege, 'livestore_reader' as grantee, unnest(string_to_array(
                'stores store_names eventlog_1 events commits versions relayed_events '
                'event_types misfits rewrites store_sizes daily_growth '
                'subscriptions dead_letters shard shard_stores shard_moves '
                'departed_stores', ' '
            )) as name
            union all
            select 'insert', 'livestore_hooks', 'eventlog_1'
        ) g
        where not exists (
            select from pg_class c, aclexplode(c.relacl) a
            where c.relnamespace = 'livestore'::regnamespace and c.relname = g.name
                and a.grantee = to_regrole(g.grantee) and lower(a.privilege_type) = g.privilege
        )
    loop
        execute format('grant %s on livestore.%I to %I', missing.privilege, missing.name, missing.grantee);
    end loop;
end
$$;

-- Hooks run as livestore_hooks, and what they commit goes through the same functions as everything else.
grant execute on function livestore.push(text, json, text), livestore.commit(text, text, json, text, text, bigint, text),
    livestore.commit(text, text, text, text, text, bigint, text), livestore.commit(text, text, jsonb, text, text, bigint, text),
    livestore.commit_many(text[], text, json[], text[], text, text),
    livestore.field(json, text[]), livestore.json_field(json, text[]), livestore._readable(json), livestore.try_boolean(text),
    livestore.try_bigint(text), livestore.try_double(text), livestore.try_timestamptz(text) to livestore_hooks;
grant execute on function
    livestore.version(),
    livestore.flavour(),
    livestore.backend_id(text),
    livestore.head(text),
    livestore.slot(text, integer),
    livestore.hash_string(text),
    livestore.table_suffix(text),
    livestore.stream_name(text),
    livestore.pull(text, bigint, integer),
    livestore.pull_page(text, bigint, integer, integer),
    livestore.read_all(bigint, text[], integer),
    livestore.last_position(),
    livestore.field(json, text[]),
    livestore.json_field(json, text[]),
    livestore._readable(json),
    livestore.try_boolean(text),
    livestore.try_bigint(text),
    livestore.try_double(text),
    livestore.try_timestamptz(text),
    livestore.create_event_view(text, text, boolean),
    livestore.export_hooks(),
    livestore.export_store(text),
    livestore._export_events(text, bigint, integer, bytea),
    livestore._export_end(text, bigint, bytea),
    livestore._column_of(jsonb, jsonb),
    livestore._event_type(text),
    livestore._pointer(jsonb),
    livestore.heads_key(),
    livestore.store_digest(text),
    livestore.legacy_notify(),
    livestore.read_page(text, bigint, integer, integer),
    livestore.stores_of_table_suffix(text, bigint),
    livestore.stores_of_stream(text, bigint),
    livestore.store_of_number(bigint),
    livestore.list_streams(text, text, bigint),
    livestore.locate_store(text),
    livestore.inspect_store(text),
    livestore.inspect_newest_stores(bigint, bigint),
    livestore.inspect_stores_by_prefix(text, text, bigint, bigint),
    livestore.inspect_recent_stores(bigint, bigint),
    livestore.inspect_events(text, bigint, boolean, text, text, timestamptz, timestamptz, integer, integer, integer, double precision),
    livestore.inspect_event_types(text, bigint),
    livestore.inspect_dead_letters(bigint),
    livestore.current_store_id(),
    livestore._context_value(text),
    livestore.current_context(),
    livestore.current_payload(),
    livestore.current_headers(),
    livestore.current_claims(),
    livestore.relay_page(text, bigint, integer, integer)
to livestore_reader;

-- Nobody may insert into the tables: these functions run with the rights of their owner.
grant execute on function
    livestore.create_store(text, boolean),
    livestore.push(text, json, text),
    livestore.push_batch(text[], text[], text[], text, text[]),
    livestore.commit(text, text, json, text, text, bigint, text),
    livestore.commit(text, text, text, text, text, bigint, text),
    livestore.commit(text, text, jsonb, text, text, bigint, text),
    livestore.commit_many(text[], text, json[], text[], text, text),
    livestore.prune_old_commits(),
    livestore.remove_departed_store(),
    livestore.heads_since(bigint),
    livestore.poll(text, integer, interval, integer),
    livestore.run_subscription(text, integer),
    livestore._handler(text),
    livestore._check_deferred(),
    livestore._give_one_by_one(text, text),
    livestore.served_subscriptions(),
    livestore.database_life(),
    livestore.subscription_life(text),
    livestore.ack(text),
    livestore.nack(text, interval, text, boolean),
    livestore.relay_enter(interval, text),
    livestore.relay_miss(text, text[]),
    livestore.relay_renew(text, interval),
    livestore.relay_exit(text),
    livestore.relay_join(text, text[], text[]),
    livestore.relay_leave(text, text[], text[], bigint[]),
    livestore.relay_send(text, text[], text[]),
    livestore.relay_fetch(bigint),
    livestore.relay_append(text, text[], text[], text[], text[], text[], text[], text)
to livestore_writer;

-- Functions that empty logs are for administrators of stores, and for a sidecar with an admin secret.
grant execute on function livestore.reset_store(text), livestore.drop_store(text), livestore.renew_backend_id(text), livestore.prune_commits(timestamptz),
    livestore.subscribe(text, text[], text, integer, text, integer, regprocedure, text), livestore.unsubscribe(text),
    livestore.rebuild(text), livestore.resend(bigint), livestore.define_event(text, json, text), livestore.check_events(text),
    livestore.rewrite_event(text, bigint, text, json, text), livestore.erase(text, bigint[], json, text),
    livestore.lock_log(text, text)
to livestore_admin;

-- An import appends events with the times of another backend.
grant execute on function
    livestore.import_table(regclass, text, text),
    livestore.import_store(regclass, text),
    livestore._import_source(regclass, text, text, text, text, bigint),
    livestore._digest_exported(bytea, bigint, bigint, text, text, text, text, timestamptz),
    livestore._begin_import(text, text),
    livestore._import_events(text, bigint, bigint[], bigint[], text[], text[], text[], text[], timestamptz[]),
    livestore._end_import(text),
    livestore._open_source(oid, text),
    livestore._fetch_source(oid, text, integer)
to livestore_admin;

do $$
declare
    object record;
begin
    for object in
        select c.oid as id
        from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'livestore.eventlog_1'::regclass and c.relnamespace = 'livestore'::regnamespace
    loop
        perform livestore._adopt_table(object.id::regclass);
    end loop;
end
$$;

do $$
begin
    perform livestore._mend_row_numbers('livestore.versions');
end
$$;
insert into livestore.versions (version, flavour)
select livestore.version(), livestore.flavour()
where not exists (
    select from (select v.version, v.flavour from livestore.versions v order by v.id desc limit 1) last
    where last.version = livestore.version() and last.flavour = livestore.flavour()
);
