-- security definer: the seed in livestore.instance is nobody else's to read.
create or replace function livestore.backend_id(store_id text)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select coalesce(
        (select s.backend_id from livestore.stores s where s.store_id = $1),
        case when livestore._check_shard($1) then (select d.backend_id from livestore.dropped_stores d where d.store_id = $1) end,
        livestore._make_backend_id((select i.seed from livestore.instance i order by i.created_at limit 1) || $1)
    )
$$;

comment on function livestore.backend_id(text) is
'The backend id of a store, by which clients tell whether the log is still the same one: a reset changes it. For a store that does not exist: the id that it will have. Writes nothing. Raises LS005 if it is on another shard';

create or replace function livestore.apply_hooks(eventlog regclass)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    hook record;
    hooks integer := 0;
begin
    if not exists (select from pg_inherits where inhrelid = eventlog and inhparent = 'livestore.eventlog_1'::regclass) then
        raise exception '% is not the dedicated table of a store', eventlog using errcode = 'wrong_object_type';
    end if;
    for hook in select tgname from pg_trigger where tgrelid = eventlog and not tgisinternal loop
        execute format('drop trigger %I on %s', hook.tgname, eventlog);
    end loop;
    for hook in
        select oid, tgname, tgenabled
        from pg_trigger
        where tgrelid = 'livestore.eventlog_1'::regclass and not tgisinternal
        order by tgname
    loop
        perform livestore._copy_hook(hook.oid, eventlog::oid);
        if hook.tgenabled <> 'O' then
            execute format(
                'alter table %s %s trigger %I', eventlog,
                case hook.tgenabled when 'D' then 'disable' when 'A' then 'enable always' else 'enable replica' end,
                hook.tgname
            );
        end if;
        hooks := hooks + 1;
    end loop;
    return hooks;
end
$$;

comment on function livestore.apply_hooks(regclass) is
'Gives the dedicated table of a store the triggers that livestore.eventlog_1 has now, instead of those it had; returns how many. A child table does not inherit triggers: call this after changing hooks, for each stores.eventlog that is not eventlog_1';

create or replace function livestore.create_store(store_id text, own_table boolean default false)
returns regclass
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
-- The owner may have no right to create tables in the default tablespace of the session.
set default_tablespace = ''
set default_table_access_method = heap
as $$
declare
    store livestore.stores;
    table_name text;
    moving text;
    statement text;
begin
    store := livestore._lock_store(store_id);
    if not own_table or store.eventlog <> 'livestore.eventlog_1'::regclass then
        return store.eventlog;
    end if;

    loop
        table_name := livestore._dedicated_table_name(store_id, store.id);
        begin
            execute format(
                'create table livestore.%I (constraint own_store check (store = %s), primary key (store, "seqNum")) inherits (livestore.eventlog_1)',
                table_name, store.id
            );
            exit;
        exception when unique_violation or duplicate_table then
            -- Another transaction has just created a table of this name, for a store whose id is similar.
            if to_regclass(format('livestore.%I', table_name)) is null then
                raise;
            end if;
        end;
    end loop;
    execute format('comment on table livestore.%I is %L', table_name, 'The events of the store ' || store_id);
    perform livestore._adopt_table(format('livestore.%I', table_name)::regclass);
    -- Events that the store has already move before the hooks are there: they were hooked when they were appended.
    if store.head > 0 then
        -- They are deleted first: whoever decodes the changes, and keeps the events of all tables together, then has them afterwards.
        moving := format('livestore.%I', 'moving_' || store.id);
        -- Without generated columns, which somebody may have added.
        select format(
            'create unlogged table %s as select %s from only livestore.eventlog_1 where store = %s',
            moving, string_agg(quote_ident(a.attname), ', ' order by a.attnum), store.id
        ) into statement
        from pg_attribute a
        where a.attrelid = 'livestore.eventlog_1'::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = '';
        execute statement;
        perform livestore._delete_events('livestore.eventlog_1'::regclass, store.id);
        execute format('grant select on %s to livestore_hooks', moving);
        perform livestore._move_events(moving::regclass::oid, format('livestore.%I', table_name)::regclass::oid);
        execute format('drop table %s', moving);
        perform livestore._note_change(store.id, store.id, 'move', store_id);
    end if;
    update livestore.stores s set eventlog = format('livestore.%I', table_name)::regclass
        where s.id = store.id returning s.eventlog into store.eventlog;
    perform livestore._copy_indexes(store.eventlog::oid);
    perform livestore._warn_of_publications(store.eventlog::oid);
    perform livestore.apply_hooks(store.eventlog);
    return store.eventlog;
end
$$;

comment on function livestore.create_store(text, boolean) is
'Registers a store and returns the table of its events. Idempotent, and not needed before a push. own_table => true gives the store a dedicated table, and moves the events that it has';

create or replace function livestore.reset_store(store_id text)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    store livestore.stores;
    former_id bigint;
begin
    perform livestore._forget_errors(store_id);
    store := livestore._lock_existing_store(store_id);
    former_id := store.id;
    if store.eventlog <> 'livestore.eventlog_1'::regclass then
        perform livestore._lock_eventlog(store.eventlog);
    end if;
    if store.head > 0 then
        perform livestore._delete_events(store.eventlog, store.id);
    end if;
    delete from livestore.relayed_events r where r.store = store.id;
    -- They hold events of the log. Dead letters of changes say no more than the commit log.
    delete from livestore.dead_letters d where d.store_id = $1 and d.name is not null;
    perform livestore._mend_store_numbers();
    -- A new number, too: whoever reads the table by it, as Electric does, must not take the two logs for one.
    update livestore.stores s set id = default, head = 0, backend_id = livestore._make_backend_id(gen_random_uuid()::text)
        where s.id = store.id returning s.* into store;
    delete from livestore.store_names n where n.store = former_id;
    delete from livestore.commit_keys k where k.store = former_id;
    delete from livestore.found_misfits m where m.store = former_id;
    insert into livestore.store_names (store, store_id) values (store.id, store_id);
    if store.eventlog <> 'livestore.eventlog_1'::regclass then
        execute format(
            'alter table %s drop constraint own_store, add constraint own_store check (store = %s)', store.eventlog, store.id
        );
    end if;
    perform livestore._note_change(former_id, store.id, 'reset', store_id);
    perform livestore._notify_heads(array[store_id], array[null::bigint]);
    return store.backend_id;
end
$$;

comment on function livestore.reset_store(text) is
'Empties the log of a store and returns its new backend id; its number in livestore.stores is new, too. Its dead letters are removed. Clients drop their local log, with what they had not pushed, and start over. Raises LS004 if there is no such store';

create or replace function livestore.drop_store(store_id text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    store livestore.stores;
begin
    perform livestore._forget_errors(store_id);
    store := livestore._lock_existing_store(store_id);
    perform livestore._drop_events(store.eventlog, store.id, store.head);
    delete from livestore.relayed_events r where r.store = store.id;
    delete from livestore.dead_letters d where d.store_id = $1 and d.name is not null;
    delete from livestore.dropped_stores d where d.store_id = $1;
    insert into livestore.dropped_stores (store_id, backend_id)
        values (store_id, livestore._make_backend_id(gen_random_uuid()::text));
    delete from livestore.commit_keys k where k.store = store.id;
    delete from livestore.found_misfits m where m.store = store.id;
    delete from livestore.stores s where s.id = store.id;
    perform livestore._note_change(store.id, 0, 'drop', store_id);
    perform livestore._notify_heads(array[store_id], array[null::bigint]);
end
$$;

comment on function livestore.drop_store(text) is
'Removes a store and its events, with their dead letters, for good. A push to the same storeId later begins a new log, with another backend id. Raises LS004 if there is no such store';

create or replace function livestore.renew_backend_id(store_id text)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    store livestore.stores := livestore._lock_existing_store(store_id);
begin
    update livestore.stores s set backend_id = livestore._make_backend_id(gen_random_uuid()::text)
        where s.id = store.id returning s.* into store;
    perform livestore._note_change(store.id, store.id, 'renew', store_id);
    perform livestore._notify_heads(array[store_id], array[null::bigint]);
    return store.backend_id;
end
$$;

comment on function livestore.renew_backend_id(text) is
'Gives a store a new backend id, which it returns, and keeps the events. Clients drop their local logs, with what they had not pushed, and pull anew. Raises LS004 if there is no such store';

create or replace function livestore.renew_backend_ids()
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    renewed bigint;
    store_ids text[];
begin
    -- In the order of pushes.
    perform from livestore.stores s order by s.store_id collate "C" for update;
    -- Also those that were created while this waited for the locks: sidecars are told of every store whose id changes.
    with changed as (
        update livestore.stores s set backend_id = livestore._make_backend_id(gen_random_uuid()::text) returning s.store_id
    )
    select count(*), array_agg(c.store_id) into renewed, store_ids from changed c;
    if renewed > 0 then
        perform livestore._notify_heads(store_ids, array_fill(null::bigint, array[renewed::integer]));
    end if;
    update livestore.dropped_stores d set backend_id = livestore._make_backend_id(gen_random_uuid()::text);
    update livestore.instance i set seed = gen_random_uuid()::text;
    return renewed;
end
$$;

comment on function livestore.renew_backend_ids() is
'Gives every store a new backend id and keeps the events; returns the number of stores. Call it after restoring an older state of the database: clients then drop their local logs, which may have events that the restored logs lack, and pull anew';
