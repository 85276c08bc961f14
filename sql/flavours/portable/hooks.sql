-- Statements on event logs run as livestore_hooks, so that code of the application (in hooks, constraints or indexes) does
-- not run as the owner of the tables. The security definer functions below belong to livestore_hooks. Hooks run as that role
-- too, so they could alter these functions, for example to security invoker with a search_path of theirs, although not replace
-- their bodies, for which they would need CREATE on the schema. So each function first checks its current user, with an operator
-- that it names with its schema, and computes nothing before. A hook may also have changed search_path: what comes after a
-- statement that fires hooks names operators and functions with their schema, and restores the path for all callers.
create or replace function livestore._insert_as_hooks(
    eventlog oid, is_hooked boolean, stores bigint[], seq_nums bigint[], parent_seq_nums bigint[], names text[], args text[],
    client_ids text[], session_ids text[], created_ats timestamptz[]
)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
-- Hooks get the default planner settings, not those of livestore._append.
set plan_cache_mode = auto
set enable_seqscan = on
as $$
begin
    if current_user operator(pg_catalog.<>) 'livestore_hooks' then
        raise exception 'livestore._insert_as_hooks runs as %, and not as livestore_hooks', current_user
            using errcode = 'insufficient_privilege', hint = 'Install the portable flavour again.';
    end if;
    declare
        is_shared constant boolean := eventlog = 'livestore.eventlog_1'::regclass;
        count constant integer := cardinality(seq_nums);
        may_change boolean := false;
        constraints text[];
        statement text;
        inserted bigint;
    begin
        if is_hooked then
            select coalesce(bool_or(t.tgtype & 2 <> 0), false),
                array_agg(format('set constraints livestore.%I immediate', t.tgname)) filter (where t.tgdeferrable)
                    || array_agg(format('set constraints livestore.%I deferred', t.tgname)) filter (where t.tginitdeferred)
            into may_change, constraints
            from pg_trigger t
            where t.tgrelid = eventlog and not t.tgisinternal;
        end if;
        if is_shared and not may_change then
            if count = 1 then
                insert into livestore.eventlog_1
                values (stores[1], seq_nums[1], parent_seq_nums[1], names[1], args[1]::json, client_ids[1], session_ids[1], created_ats[1]);
            else
                insert into livestore.eventlog_1
                select e.store, e.seq_num, e.parent_seq_num, e.name, e.args::json, e.client_id, e.session_id, e.created_at
                from unnest(stores, seq_nums, parent_seq_nums, names, args, client_ids, session_ids, created_ats)
                    e(store, seq_num, parent_seq_num, name, args, client_id, session_id, created_at);
            end if;
            get diagnostics inserted = row_count;
        elsif not may_change then
            execute format(
                'insert into %s
                 select e.store, e.seq_num, e.parent_seq_num, e.name, e.args::json, e.client_id, e.session_id, e.created_at
                 from unnest($1, $2, $3, $4, $5, $6, $7, $8)
                     e(store, seq_num, parent_seq_num, name, args, client_id, session_id, created_at)', eventlog::regclass
            ) using stores, seq_nums, parent_seq_nums, names, args, client_ids, session_ids, created_ats;
            get diagnostics inserted = row_count;
        else
            execute format(
                'with pushed as (
                     select e.*
                     from unnest($1, $2, $3, $4, $5, $6, $7, $8)
                         with ordinality e(store, seq_num, parent_seq_num, name, args, client_id, session_id, created_at, n)
                 ), added as (
                     insert into %s
                     select p.store, p.seq_num, p.parent_seq_num, p.name, p.args::json, p.client_id, p.session_id, p.created_at
                     from pushed p order by p.n
                     returning *
                 )
                 select count(*) filter (where p.n is not null and p.count = $9 and p.total = $9)
                 from (
                     select p.n, count(p.n) over () as count, count(*) over () as total
                     from added a
                     left join pushed p
                         on a.store = p.store and a."seqNum" = p.seq_num and a."parentSeqNum" = p.parent_seq_num and a.name = p.name
                         and a.args::text is not distinct from p.args and a."clientId" = p.client_id and a."sessionId" = p.session_id
                         and a."createdAt" = p.created_at
                 ) p', eventlog::regclass
            ) into inserted using stores, seq_nums, parent_seq_nums, names, args, client_ids, session_ids, created_ats, count;
            if inserted operator(pg_catalog.<>) count then
                raise exception 'a BEFORE trigger on the event log skipped or changed events'
                    using errcode = 'triggered_data_change_violation',
                        hint = 'A hook lets an event pass as it is (return new) or rejects it (raise exception).';
            end if;
        end if;
        -- A hook that is deferred to the commit would run as whoever commits, and fail everything that is committed with this push: it
        -- runs now. One that is merely deferrable may have been deferred for the transaction.
        foreach statement in array coalesce(constraints, '{}') loop
            execute statement;
        end loop;
        if pg_catalog.current_setting('search_path') operator(pg_catalog.<>) 'pg_catalog, pg_temp' then
            perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
        end if;
        return inserted;
    end;
end
$$;

comment on function livestore._insert_as_hooks(oid, boolean, bigint[], bigint[], bigint[], text[], text[], text[], text[], timestamptz[]) is
'Internal: inserts events into an event log as livestore_hooks, and runs its hooks, deferred ones too; returns how many';

create or replace function livestore._insert_part(
    eventlog oid, store_id text, request text, is_hooked boolean, stores bigint[], seq_nums bigint[], parent_seq_nums bigint[],
    names text[], args text[], client_ids text[], session_ids text[], created_ats timestamptz[]
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    depth integer;
    inserted bigint;
begin
    if is_hooked then
        depth := livestore._enter_context(store_id, request);
    end if;
    inserted := livestore._insert_as_hooks(
        eventlog, is_hooked, stores, seq_nums, parent_seq_nums, names, args, client_ids, session_ids, created_ats
    );
    if is_hooked then
        perform livestore._leave_context(depth);
    end if;
    if inserted is distinct from cardinality(seq_nums) then
        raise exception 'of % events % were inserted', cardinality(seq_nums), inserted;
    end if;
end
$$;

comment on function livestore._insert_part(oid, text, text, boolean, bigint[], bigint[], bigint[], text[], text[], text[], text[], timestamptz[]) is
'Internal: inserts events into an event log; if it is hooked, those of one push, in the context of its request';

create or replace function livestore._insert_events(
    store_id text, store bigint, eventlog oid, seq_nums bigint[], parent_seq_nums bigint[], names text[], args text[],
    client_ids text[], session_ids text[], created_ats timestamptz[]
)
returns void
language plpgsql
strict
set search_path = pg_catalog, pg_temp
as $$
declare
    count constant integer := cardinality(seq_nums);
begin
    if (cardinality(parent_seq_nums), cardinality(names), cardinality(args), cardinality(client_ids), cardinality(session_ids),
        cardinality(created_ats)) <> (count, count, count, count, count, count)
    then
        raise exception 'the arrays must have one element for each event' using errcode = 'array_subscript_error';
    end if;
    if count = 0 then
        return;
    end if;
    insert into livestore.pending_commits (stores, upto, events) values (array[store], seq_nums[count:], array[count]);
    perform livestore._keep_triggers(eventlog);
    perform livestore._refuse_rules(c.oid) from pg_class c where c.oid = eventlog and c.relhasrules;
    perform livestore._admit_hooks(c.oid) from pg_class c where c.oid = eventlog and c.relrowsecurity;
    perform livestore._insert_part(
        eventlog, store_id, null, exists (select from pg_trigger t where t.tgrelid = eventlog and not t.tgisinternal),
        array_fill(store, array[count]), seq_nums, parent_seq_nums, names, args, client_ids, session_ids, created_ats
    );
end
$$;

comment on function livestore._insert_events(text, bigint, oid, bigint[], bigint[], text[], text[], text[], text[], timestamptz[]) is
'Internal: inserts events into the table of a store whose row is locked, and runs its hooks, deferred ones too';

create or replace function livestore._move_events(source oid, eventlog oid)
returns void
language plpgsql
strict
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if current_user operator(pg_catalog.<>) 'livestore_hooks' then
        raise exception 'livestore._move_events runs as %, and not as livestore_hooks', current_user
            using errcode = 'insufficient_privilege', hint = 'Install the portable flavour again.';
    end if;
    -- Without generated columns, which somebody may have added.
    execute (
        select format(
            'insert into %1$s (%2$s) select %2$s from only %3$s',
            eventlog::regclass, string_agg(quote_ident(a.attname), ', ' order by a.attnum), source::regclass
        )
        from pg_attribute a
        where a.attrelid = eventlog and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
    );
    if pg_catalog.current_setting('search_path') operator(pg_catalog.<>) 'pg_catalog, pg_temp' then
        perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
    end if;
end
$$;

comment on function livestore._move_events(oid, oid) is
'Internal: copies the events of a store to its dedicated table, whose constraints may be the application''s';

create or replace function livestore._delete_hooked_events(eventlog oid, store bigint)
returns void
language plpgsql
strict
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if current_user operator(pg_catalog.<>) 'livestore_hooks' then
        raise exception 'livestore._delete_hooked_events runs as %, and not as livestore_hooks', current_user
            using errcode = 'insufficient_privilege', hint = 'Install the portable flavour again.';
    end if;
    execute format('delete from only %s where store = $1', eventlog::regclass) using store;
    if pg_catalog.current_setting('search_path') operator(pg_catalog.<>) 'pg_catalog, pg_temp' then
        perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
    end if;
end
$$;

comment on function livestore._delete_hooked_events(oid, bigint) is
'Internal: deletes the events of a store from a table that has triggers on DELETE';

create or replace function livestore._update_hooked_events(eventlog oid, store bigint, seq_nums bigint[], name text, args text)
returns void
language plpgsql
strict
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if current_user operator(pg_catalog.<>) 'livestore_hooks' then
        raise exception 'livestore._update_hooked_events runs as %, and not as livestore_hooks', current_user
            using errcode = 'insufficient_privilege', hint = 'Install the portable flavour again.';
    end if;
    execute format(
        'update only %s set name = coalesce(nullif($1, ''''), name), args = nullif($2, '''')::json where store = $3 and "seqNum" = any ($4)', eventlog::regclass
    ) using name, args, store, seq_nums;
    if pg_catalog.current_setting('search_path') operator(pg_catalog.<>) 'pg_catalog, pg_temp' then
        perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
    end if;
end
$$;

comment on function livestore._update_hooked_events(oid, bigint, bigint[], text, text) is
'Internal: rewrites events in a table where an update runs code of the application; an empty name: they keep theirs; empty args: none';

-- In the definition of a trigger its name comes first, and may contain anything, even " ON livestore.eventlog_1 ".
create or replace function livestore._copy_hook(hook oid, eventlog oid)
returns void
language plpgsql
strict
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as $$
declare
    definition text;
    after_name integer;
    shared constant text := ' ON livestore.eventlog_1 ';
    rest text;
    called regprocedure;
begin
    select pg_get_triggerdef(t.oid), strpos(pg_get_triggerdef(t.oid), quote_ident(t.tgname)) + length(quote_ident(t.tgname)), t.tgfoid
    into definition, after_name, called
    from pg_trigger t
    where t.oid = hook and not t.tgisinternal and t.tgrelid = 'livestore.eventlog_1'::regclass
        and exists (select from pg_inherits i where i.inhrelid = eventlog and i.inhparent = t.tgrelid);
    if not found then
        raise exception 'there is no such hook, or % is not the table of a store', eventlog::regclass using errcode = 'wrong_object_type';
    end if;
    rest := substr(definition, after_name);
    begin
        execute left(definition, after_name - 1) || overlay(
            rest placing format(' ON %s ', eventlog::regclass) from strpos(rest, shared) for length(shared)
        );
    exception when insufficient_privilege then
        raise exception 'the owner of the event logs may not use %, the function of a hook', called
            using errcode = 'insufficient_privilege',
                hint = format(
                    'grant usage on schema %I to livestore_owner; grant execute on function %s to livestore_owner',
                    (select n.nspname from pg_proc p join pg_namespace n on n.oid = p.pronamespace where p.oid = called), called
                );
    end;
end
$$;

comment on function livestore._copy_hook(oid, oid) is
'Internal: creates a hook of livestore.eventlog_1 on the table of a store';
