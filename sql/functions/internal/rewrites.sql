-- Keyed, so that whoever reads it cannot try out what the event may have been.
create or replace function livestore._digest(parent_seq_num bigint, name text, args text, client_id text, session_id text)
returns bytea
language sql
stable
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select sha256(convert_to(
        (select i.rewrite_key from livestore.instance i order by i.created_at limit 1)
            || json_build_array(parent_seq_num, name, args, client_id, session_id)::text, 'UTF8'
    ))
$$;

comment on function livestore._digest(bigint, text, text, text, text) is
'Internal: what tells an event that was rewritten from others';

create or replace function livestore._was_rewritten(
    store bigint, seq_num bigint, parent_seq_num bigint, name text, args text, client_id text, session_id text
)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select exists (
        select from livestore.rewritten_events r
        where r.store = $1 and r.seq_num = $2 and r.digest = livestore._digest(parent_seq_num, name, args, client_id, session_id)
    )
$$;

comment on function livestore._was_rewritten(bigint, bigint, bigint, text, text, text, text) is
'Internal: whether an event of the log was this one before livestore.rewrite_event or livestore.erase changed it';

create or replace function livestore._rewrite(store_id text, seq_nums bigint[], new_name text, new_args json, reason text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    store livestore.stores;
    stored livestore.eventlog_1[];
    event record;
    found livestore.push_result;
begin
    perform livestore._forget_errors(store_id);
    store := livestore._lock_existing_store(store_id);
    seq_nums := array(select distinct w.seq_num from unnest(seq_nums) w(seq_num) order by 1);
    stored := array(select e from livestore._stored_events(array_fill(store.id, array[cardinality(seq_nums)]), seq_nums) e);
    if cardinality(stored) < cardinality(seq_nums) then
        raise exception 'the store % has no event %', to_json(store_id), (
            select coalesce(min(w.seq_num)::text, 'null') from unnest(seq_nums) w(seq_num)
            where not exists (select from unnest(stored) e where e."seqNum" = w.seq_num)
        ) using errcode = 'no_data_found';
    end if;
    for event in select distinct coalesce(new_name, e.name) as name from unnest(stored) e loop
        -- Pushes decide what an event may contain. This one has a wrong backend id, which is looked at last.
        select r.* into found
        from livestore._append(
            array[store_id],
            array[json_build_array(livestore._event_after(store.head, event.name, new_args, 'server', 'sql'))::text], array['']
        ) r;
        if found.sqlstate = 'LS003' then
            raise exception '%', found.message using errcode = 'LS003', detail = found.detail;
        end if;
        perform livestore._check_args(array[event.name], array[new_args]);
    end loop;
    perform livestore._mend_row_numbers('livestore.rewritten_events');
    insert into livestore.rewritten_events (store_id, store, seq_num, digest, reason)
    select store_id, store.id, e."seqNum",
        livestore._digest(e."parentSeqNum", e.name, e.args::text, e."clientId", e."sessionId"), reason
    from unnest(stored) e
    order by e."seqNum";
    delete from livestore.found_misfits m where m.store = store.id and m.seq_num = any (seq_nums);
    update livestore.dead_letters d set name = coalesce(new_name, d.name), args = new_args, error = null
    from unnest(stored) e
    where d.store_id = _rewrite.store_id and d.seq_num = e."seqNum" and d.created_at = e."createdAt";
    perform livestore._keep_triggers(store.eventlog::oid);
    if not livestore._runs_code_on_update(store.eventlog) then
        execute format('update only %s set name = coalesce($1, name), args = $2 where store = $3 and "seqNum" = any ($4)', store.eventlog)
            using new_name, new_args, store.id, seq_nums;
    elsif current_user <> 'livestore_owner' or has_table_privilege('livestore_hooks'::name, store.eventlog::oid, 'update'::text) then
        perform livestore._admit_hooks(store.eventlog::oid);
        perform livestore._update_hooked_events(
            store.eventlog::oid, store.id, seq_nums, coalesce(new_name, ''), coalesce(new_args::text, '')
        );
    else
        raise exception 'an update of % runs code of the application, and the role livestore_hooks, as which it runs, may not update', store.eventlog
            using errcode = 'insufficient_privilege', hint = format('grant select, update on %s to livestore_hooks', store.eventlog);
    end if;
    if exists (
        select from livestore._stored_events(array_fill(store.id, array[cardinality(seq_nums)]), seq_nums) e
        where e.name <> coalesce(new_name, e.name) or e.args::text is distinct from new_args::text
    ) then
        raise exception 'a trigger or a policy of % has kept events from being rewritten', store.eventlog
            using errcode = 'triggered_data_change_violation';
    end if;
    perform livestore._note_change(store.id, w.seq_num, 'rewrite', store_id)
    from unnest(seq_nums) with ordinality w(seq_num, n)
    order by w.n;
    perform livestore._notify_heads(array[store_id], array[null::bigint]);
end
$$;

comment on function livestore._rewrite(text, bigint[], text, json, text) is
'Internal: gives events of a store another name (null: keeps it) and other args; sidecars forget what they hold of the store';

create or replace function livestore._runs_code_on_update(eventlog regclass)
returns boolean
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Bit 4 of tgtype: an UPDATE trigger.
    if exists (
        select from pg_trigger t where t.tgrelid = eventlog and not t.tgisinternal and t.tgtype & 16 <> 0 and t.tgdeferrable
    ) then
        raise exception '% has a deferrable trigger on UPDATE, which would run as whoever commits', eventlog
            using errcode = 'feature_not_supported', hint = 'Create it as not deferrable.';
    end if;
    -- ev_type: 1 is a rule on SELECT, 2 on UPDATE. What Postgres comes with is not in pg_depend. A domain may have constraints that
    -- call functions; an enum calls none.
    return exists (select from pg_trigger t where t.tgrelid = eventlog and not t.tgisinternal and t.tgtype & 16 <> 0)
        or exists (select from pg_rewrite r where r.ev_class = eventlog and r.ev_type = '2')
        or exists (
            select from pg_depend d
            left join pg_proc p on d.refclassid = 'pg_proc'::regclass and p.oid = d.refobjid
            left join pg_type t on d.refclassid = 'pg_type'::regclass and t.oid = d.refobjid
            where d.refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_opclass'::regclass, 'pg_type'::regclass)
                and p.pronamespace is distinct from 'livestore'::regnamespace
                and t.typtype is distinct from 'e'
                and (
                    d.classid = 'pg_class'::regclass and d.objid in (select i.indexrelid from pg_index i where i.indrelid = eventlog)
                    or d.classid = 'pg_constraint'::regclass and d.objid in (select c.oid from pg_constraint c where c.conrelid = eventlog)
                    or d.classid = 'pg_attrdef'::regclass and d.objid in (select a.oid from pg_attrdef a where a.adrelid = eventlog)
                )
        );
end
$$;

comment on function livestore._runs_code_on_update(regclass) is
'Internal: whether an update of the table of a store calls functions of the application: by a trigger, a rule, an index, a constraint or a generated column';
