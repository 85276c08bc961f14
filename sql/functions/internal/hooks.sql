create or replace function livestore._refuse_rules(eventlog oid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    -- ev_type 3: a rule on INSERT. Postgres counts a row that such a rule has put elsewhere as inserted.
    rule constant text := r.rulename from pg_rewrite r
        where r.ev_class = eventlog and r.ev_type = '3' and r.is_instead and r.ev_enabled::text = any (
            case current_setting('session_replication_role') when 'replica' then array['R', 'A'] else array['O', 'A'] end
        ) limit 1;
begin
    if rule is not null then
        raise exception 'the rule % on % does something else instead of storing events', rule, eventlog::regclass
            using errcode = 'triggered_data_change_violation', hint = 'A rule ON INSERT is DO ALSO, or better a trigger.';
    end if;
end
$$;

comment on function livestore._refuse_rules(oid) is
'Internal: raises an error if the table of a store has a rule by which events that are inserted would not be in it. Called where pg_class.relhasrules';

create or replace function livestore._runs_code_on_delete(eventlog regclass)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    -- Bit 3 of tgtype: a DELETE trigger. ev_type 4: a rule on DELETE.
    select exists (select from pg_trigger t where t.tgrelid = eventlog and not t.tgisinternal and t.tgtype & 8 <> 0)
        or exists (select from pg_rewrite r where r.ev_class = eventlog and r.ev_type = '4')
$$;

comment on function livestore._runs_code_on_delete(regclass) is
'Internal: whether a delete from the table of a store calls functions of the application';

create or replace function livestore._keep_triggers(eventlog oid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    execute format('lock table only %s in row exclusive mode', eventlog::regclass);
end
$$;

comment on function livestore._keep_triggers(oid) is
'Internal: sees to it that nobody adds a trigger, a rule, a policy or a constraint to the table of a store until the transaction ends. Called before a look at what there is: it decides as whom the next statement runs, which would otherwise wait for what is being added, and run it. In a transaction of REPEATABLE READ or SERIALIZABLE, the look is as old as the transaction';

create or replace function livestore._delete_events(eventlog regclass, store bigint)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    is_kept boolean;
begin
    perform livestore._keep_triggers(eventlog::oid);
    if row_security_active(eventlog::oid) then
        raise exception 'row level security is forced on %, and hides the events that are to be deleted from its owner', eventlog
            using errcode = 'insufficient_privilege', hint = format('alter table %s no force row level security', eventlog);
    end if;
    -- Bit 3 of tgtype: a DELETE trigger.
    if exists (
        select from pg_trigger t where t.tgrelid = eventlog and not t.tgisinternal and t.tgtype & 8 <> 0 and t.tgdeferrable
    ) then
        raise exception '% has a deferrable trigger on DELETE, which would run as whoever commits', eventlog
            using errcode = 'feature_not_supported', hint = 'Create it as not deferrable.';
    end if;
    if not livestore._runs_code_on_delete(eventlog) then
        execute format('delete from only %s where store = $1', eventlog) using store;
    elsif current_user <> 'livestore_owner' or has_table_privilege('livestore_hooks'::name, eventlog::oid, 'delete'::text) then
        perform livestore._admit_hooks(eventlog::oid);
        perform livestore._delete_hooked_events(eventlog::oid, store);
        execute format('select exists (select from only %s where store = $1)', eventlog) into is_kept using store;
        if is_kept then
            raise exception 'a trigger, rule or policy of % keeps events that are to be deleted', eventlog
                using errcode = 'triggered_data_change_violation',
                    hint = 'A BEFORE DELETE trigger must return OLD: NEW is null, and the row stays.';
        end if;
    else
        raise exception '% has a trigger or a rule on DELETE, and the role livestore_hooks, as which it runs, may not delete', eventlog
            using errcode = 'insufficient_privilege', hint = format('grant delete on %s to livestore_hooks', eventlog);
    end if;
end
$$;

comment on function livestore._delete_events(regclass, bigint) is
'Internal: deletes the events of a store from a table; as livestore_hooks, if that has triggers or rules on DELETE';

create or replace function livestore._admit_hooks(eventlog oid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    -- The policy is created only when it is needed: pg_dump would dump it, although the extension creates it itself.
    if exists (select from pg_class c where c.oid = eventlog and c.relrowsecurity)
        and not exists (select from pg_policy p where p.polrelid = eventlog and p.polname = 'livestore_hooks')
    then
        execute format(
            'create policy livestore_hooks on %s for all to livestore_hooks using (true) with check (true)', eventlog::regclass
        );
    end if;
end
$$;

comment on function livestore._admit_hooks(oid) is
'Internal: where row level security is on for the table of a store, a policy that lets livestore_hooks insert what is pushed, and delete and update what an administrator does';

-- Databases before 0.3.0 have tables of stores that belong to whoever installed the extension, and so do restored dumps of them.
create or replace function livestore._adopt_table(eventlog regclass)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if exists (
        select from pg_class c
        where c.oid = eventlog and c.relowner = 'livestore_owner'::regrole
            and has_table_privilege('livestore_reader'::name, c.oid, 'select'::text)
            and has_table_privilege('livestore_hooks'::name, c.oid, 'insert'::text)
    ) then
        return;
    end if;
    -- A restore in parallel may be filling it.
    execute format('lock table %s in access exclusive mode', eventlog);
    if not exists (select from pg_class c where c.oid = eventlog and c.relowner = 'livestore_owner'::regrole) then
        execute format('alter table %s owner to livestore_owner', eventlog);
    end if;
    execute format('grant select on %s to livestore_reader', eventlog);
    execute format('grant insert on %s to livestore_hooks', eventlog);
end
$$;

comment on function livestore._adopt_table(regclass) is
'Internal: gives the dedicated table of a store to livestore_owner, with the privileges that such a table has';

create or replace function livestore._adopt_restored_table()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform livestore._adopt_table(new.eventlog);
    return null;
end
$$;

comment on function livestore._adopt_restored_table() is
'Internal: trigger on livestore.stores, where nothing but a restore inserts a store that has a table already';

create or replace trigger adopt_restored_table after insert on livestore.stores
    for each row when (new.eventlog <> 'livestore.eventlog_1'::regclass) execute function livestore._adopt_restored_table();

comment on trigger adopt_restored_table on livestore.stores is
'Gives tables that come with a dump of an earlier version to livestore_owner';
