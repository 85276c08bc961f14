create or replace function livestore.define_event(name text, schema json, mode text default 'check')
returns integer
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
-- A trigger that is created waits for the transactions that have pushed, and all pushes wait for it. Shorter than deadlock_timeout: nobody
-- else becomes the victim.
set lock_timeout = '500ms'
as $$
declare
    latest livestore.event_types;
    probe text;
begin
    if name is null or name = '' then
        raise exception 'an event type needs a name' using errcode = 'invalid_parameter_value';
    elsif mode is null or mode not in ('check', 'enforce', 'off') then
        raise exception 'the mode is check, enforce or off, not %', coalesce(to_json(mode)::text, 'null') using errcode = 'invalid_parameter_value';
    elsif schema is null or octet_length(schema::text) > 262144 then
        raise exception 'a schema is a JSON Schema of at most 256 KiB' using errcode = 'invalid_parameter_value';
    end if;
    perform livestore._check_schema(schema::jsonb, schema::jsonb, '#', false);
    foreach probe in array array['null', '{}', '[]', '""', '0'] loop
        if livestore._misfit_of_args(schema, probe::json, clock_timestamp() + interval '1 s') like 'args cannot be checked%' then
            raise exception 'the schema cannot be used: to check % by it does not end', probe using errcode = 'invalid_parameter_value';
        end if;
    end loop;
    -- Pushes lock the rows of their stores, in this order, before they write to tables.
    perform from livestore.stores s where s.eventlog <> 'livestore.eventlog_1'::regclass order by s.store_id collate "C" for update;
    -- One definition at a time, so that no two have one version.
    lock table livestore.event_types in share row exclusive mode;
    select * into latest from livestore._event_type(name);
    if latest.schema::jsonb = schema::jsonb then
        update livestore.event_types t set mode = define_event.mode where t.name = latest.name and t.version = latest.version;
    else
        insert into livestore.event_types (name, version, schema, mode)
        values (name, coalesce(latest.version, 0) + 1, schema, mode) returning * into latest;
    end if;
    -- The shared table has its trigger already: dedicated tables get theirs here, since a restore brings their triggers. They are looked
    -- for again: the trigger of the shared table has waited for transactions that made one.
    perform livestore._check_new_events(s.eventlog)
    from livestore.stores s where s.eventlog <> 'livestore.eventlog_1'::regclass order by s.store_id collate "C";
    if mode = 'enforce' then
        raise warning 'pushes of % that do not fit are refused from now on', to_json(name)
            using hint = 'A LiveStore client that is refused stops pushing, and shows its user nothing. Mode check counts such events instead.';
    end if;
    return latest.version;
exception when lock_not_available then
    raise exception 'a transaction that has written events is still open' using errcode = 'lock_not_available', hint = 'Try again.';
end
$$;

comment on function livestore.define_event(text, json, text) is
'Says what the args of an event are, by a JSON Schema (draft-07 or 2020-12; pattern and format are not checked), and returns the version of the schema. mode check: livestore.commit of events that do not fit raises LS003, pushes of them are accepted and listed in livestore.misfits. enforce: pushes of them are refused, too, after which a client stops pushing. off: nothing is checked';

create or replace function livestore.check_events(name text default null)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    stores bigint[];
    seq_nums bigint[];
    target record;
    found bigint := 0;
    added bigint;
begin
    if name is not null and not exists (select from livestore._event_type(name)) then
        raise exception 'there is no event type %', to_json(name)
            using errcode = 'undefined_object', hint = 'livestore.define_event makes one; livestore.event_types lists them.';
    end if;
    -- Looked for while nothing is locked.
    select array_agg(e.store), array_agg(e."seqNum") into stores, seq_nums
    from livestore.eventlog_1 e
    cross join lateral livestore._event_type(e.name) t
    where e.name = coalesce(check_events.name, e.name) and t.mode <> 'off'
        and livestore._misfit_of_args(t.schema, e.args, clock_timestamp() + interval '1 s') is not null;
    for target in
        select s.id from livestore.stores s
        where s.id = any (stores) or s.id in (select m.store from livestore.found_misfits m where m.name = coalesce(check_events.name, m.name))
        order by s.store_id collate "C"
        for update
    loop
        delete from livestore.found_misfits m where m.store = target.id and m.name = coalesce(check_events.name, m.name);
        -- Again, since some may have been fixed meanwhile.
        insert into livestore.found_misfits (store, seq_num, name, version, reason)
        select c.* from (
            select e.store, e."seqNum", e.name, t.version, livestore._misfit_of_args(t.schema, e.args, clock_timestamp() + interval '1 s') as reason
            from livestore._stored_events(
                array(select w.store from unnest(stores) w(store) where w.store = target.id),
                array(select w.seq_num from unnest(stores, seq_nums) w(store, seq_num) where w.store = target.id)
            ) e
            cross join lateral livestore._event_type(e.name) t
            where t.mode <> 'off'
            offset 0
        ) c
        where c.reason is not null
        on conflict (store, seq_num) do nothing;
        get diagnostics added = row_count;
        found := found + added;
    end loop;
    return found;
end
$$;

comment on function livestore.check_events(text) is
'Checks the events of this name that the logs have, or of all names, against the last version of their type; returns how many do not fit, which livestore.misfits then lists. Reads the events of all stores';
