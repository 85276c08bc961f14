-- extension/src/append in PL/pgSQL.
create or replace function livestore._append(
    store_ids text[], batches text[], backend_ids text[], source text default null, contexts text[] default null
)
returns table (
    push integer, head bigint, appended integer, backend_id text, created_at timestamptz,
    sqlstate text, message text, detail text, hint text
)
language plpgsql
set search_path = pg_catalog, pg_temp
-- Here and in all functions that are called: planning each statement anew would take longer than executing it.
set plan_cache_mode = force_generic_plan
-- A generic plan that was made while a table was small would be a sequential scan, which later reads all dead rows of the
-- table.
set enable_seqscan = off
-- With enable_seqscan off, a plan that still has to scan gets a huge cost, which would trigger JIT compilation.
set jit = off
as $$
declare
    usual record;
    read record;
    stores record;
    plan record;
    names text[];
    places integer[];
    at timestamptz;
    skips constant boolean := coalesce(current_setting('livestore.held_stores', true) = 'skip', false);
    count constant integer := coalesce(cardinality(store_ids), 0);
begin
    if coalesce(cardinality(batches), 0) <> count or coalesce(cardinality(backend_ids), 0) <> count or cardinality(contexts) <> count then
        raise exception 'store_ids, batches, backend_ids and contexts must have one element for each push'
            using errcode = 'array_subscript_error';
    end if;
    if array_position(store_ids, null) is not null then
        raise exception 'a store id is null' using errcode = 'null_value_not_allowed';
    end if;
    if count = 0 then
        return;
    end if;
    if count = 1 then
        select * into usual from livestore._append_one(store_ids[1], batches[1], backend_ids[1], source);
        if usual.head is not null then
            return query select 1, usual.head, 1, usual.backend_id, usual.created_at, null::text, null::text, null::text, null::text;
            return;
        end if;
    end if;
    select * into read from livestore._read_batches(batches);
    names := array(select distinct w.name collate "C" from unnest(store_ids) w(name) order by 1);
    select array_agg(s.store_id) as names, array_agg(s.id) as ids, array_agg(s.head) as heads,
        array_agg(s.backend_id) as backend_ids, array_agg(s.eventlog::oid) as eventlogs
    into stores
    from livestore._lock_existing_stores(names, skips) s;
    if stores.ids is null or not skips and cardinality(stores.ids) < cardinality(names) then
        if stores.ids is not null then
            -- A store was dropped while this call waited for its lock. To create it again would mean to wait with the other
            -- stores locked, so the caller has to try again from the start.
            raise exception 'another transaction has dropped a store' using errcode = 'lock_not_available';
        end if;
        select array_agg(s.store_id) as names, array_agg(s.id) as ids, array_agg(s.head) as heads,
            array_agg(s.backend_id) as backend_ids, array_agg(s.eventlog::oid) as eventlogs
        into stores
        from livestore._begin_stores(names, skips, store_ids, backend_ids, read) s;
    end if;
    if count = 1 then
        places := array[cardinality(stores.ids)];
    else
        select array_agg(s.place::integer order by p.push) into places
        from unnest(store_ids) with ordinality p(store_id, push)
        left join unnest(stores.names) with ordinality s(name, place) on s.name = p.store_id;
    end if;
    if stores.ids is not null then
        select * into plan from livestore._plan(
            places, backend_ids, stores.ids, stores.heads, stores.backend_ids,
            read.pushes, read.names, read.args, read.seq_nums, read.parent_seq_nums, read.client_ids, read.session_ids,
            read.unreadable, read.flaws
        );
        at := clock_timestamp();
        if true = any (plan.is_new) then
            perform livestore._write(stores, places, plan, read, contexts, at, source);
        end if;
    end if;
    for position in 1..count loop
        continue when places[position] is null;
        push := position;
        head := plan.heads_after[position];
        appended := plan.appended[position];
        backend_id := case when head is not null then stores.backend_ids[places[position]] end;
        created_at := case when appended > 0 then at end;
        sqlstate := plan.sqlstates[position];
        message := plan.messages[position];
        detail := plan.details[position];
        hint := case sqlstate
            when 'LS001' then 'Pull the events after the last one you know, rebase onto them, push again.'
            when 'LS002' then 'The log was reset since the client last pulled: drop the local log and pull from the start.'
            when 'LS003' then 'Correct the batch: it is rejected whole, and a retry will not help.'
        end;
        return next;
    end loop;
    if array_position(places, null) is not null then
        -- As livestore.push_batch says it, too.
        return query
        select p.push::integer, null::bigint, 0, null::text, null::timestamptz, '55P03', 'another transaction has locked the store', null::text, 'Try again.'
        from unnest(places) with ordinality p(place, push)
        where p.place is null;
    end if;
end
$$;

comment on function livestore._append(text[], text[], text[], text, text[]) is
'Internal: locks the stores, creates those that are new, and carries the pushes out, as arrays with one element for each push. Returns a result for each; errors of hooks are raised. contexts: a JSON object for each push, or null; a push by a hook without a context inherits the one that the hook runs for';

create or replace function livestore._write(
    stores record, places integer[], plan record, read record, contexts text[], at timestamptz, source text
)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    advances record;
    tables record;
    part record;
    advanced integer;
    added bigint;
    done oid[] := '{}';
    eventlog oid;
    is_all_new constant boolean := not false = any (plan.is_new);
begin
    if cardinality(stores.ids) = 1 then
        select stores.ids as ids, plan.new_heads as heads, plan.events as events, stores.names as names, stores.eventlogs as eventlogs
        into advances;
        update livestore.stores s set head = advances.heads[1] where s.id = advances.ids[1];
    else
        -- In the order of the first event of each.
        select array_agg(stores.ids[f.place]) as ids, array_agg(plan.new_heads[f.place]) as heads,
            array_agg(plan.events[f.place]) as events, array_agg(stores.names[f.place]) as names,
            array_agg(stores.eventlogs[f.place]) as eventlogs
        into advances
        from (
            select places[e.push] as place
            from unnest(read.pushes, plan.is_new) with ordinality e(push, is_new, n)
            where e.is_new group by 1 order by min(e.n)
        ) f;
        update livestore.stores s set head = n.head from unnest(advances.ids, advances.heads) n(id, head) where s.id = n.id;
    end if;
    -- The heads are updated before the hooks run, because a hook that appends to the same store must build on the new head.
    -- The commit log is written before them, too, because the events that hooks append come after these.
    get diagnostics advanced = row_count;
    if advanced <> cardinality(advances.ids) then
        raise exception 'of % heads % were advanced', cardinality(advances.ids), advanced;
    end if;
    insert into livestore.pending_commits (stores, upto, events) values (advances.ids, advances.heads, advances.events);
    foreach eventlog in array array(select distinct e.oid from unnest(advances.eventlogs) e(oid) order by 1) loop
        perform livestore._keep_triggers(eventlog);
    end loop;

    if cardinality(advances.ids) = 1 then
        select array[c.oid] as used, case
            when c.relhastriggers and exists (select from pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal) then array[c.oid]
            else '{}' end as hooked, case when c.relrowsecurity then array[c.oid] end as secured,
            case when c.relhasrules then array[c.oid] end as ruled
        into tables
        from pg_class c
        where c.oid = advances.eventlogs[1];
    else
        select array_agg(c.oid) as used, coalesce(array_agg(c.oid) filter (
            where c.relhastriggers and exists (select from pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal)
        ), '{}') as hooked, array_agg(c.oid) filter (where c.relrowsecurity) as secured,
            array_agg(c.oid) filter (where c.relhasrules) as ruled
        into tables
        from pg_class c
        where c.oid = any (advances.eventlogs);
    end if;
    if tables.ruled is not null then
        perform livestore._refuse_rules(c.oid) from unnest(tables.ruled) c(oid);
    end if;
    if tables.secured is not null then
        perform livestore._admit_hooks(c.oid) from unnest(tables.secured) c(oid);
    end if;
    if cardinality(tables.used) = 1 and cardinality(tables.hooked) = 0 and is_all_new then
        -- As livestore._insert_part does it without hooks.
        added := livestore._insert_as_hooks(
            tables.used[1], false,
            case when cardinality(stores.ids) = 1 then array_fill(stores.ids[1], array[cardinality(read.pushes)])
                else array(select stores.ids[places[e.push]] from unnest(read.pushes) with ordinality e(push, n) order by e.n) end,
            read.seq_nums, read.parent_seq_nums, read.names, read.args, read.client_ids, read.session_ids,
            array_fill(at, array[cardinality(read.pushes)])
        );
        if added is distinct from cardinality(read.pushes) then
            raise exception 'of % events % were inserted', cardinality(read.pushes), added;
        end if;
    else
        -- One statement for each push where there are hooks, which know the request that they run for, and for each to a dedicated table. The
        -- other events of the shared table come with the first of them.
        for part in
            select f.push, f.first, f.last, stores.eventlogs[places[f.push]] as eventlog, stores.names[places[f.push]] as store_id,
                stores.eventlogs[places[f.push]] = any (tables.hooked) as is_hooked
            from (
                select e.push, min(e.n)::integer as first, max(e.n)::integer as last
                from unnest(read.pushes, plan.is_new) with ordinality e(push, is_new, n) where e.is_new group by e.push
            ) f
            order by f.first
        loop
            continue when part.eventlog = any (done);
            -- The new events of a push are in a row.
            if part.is_hooked or part.eventlog <> 'livestore.eventlog_1'::regclass then
                perform livestore._insert_part(
                    part.eventlog, part.store_id, contexts[part.push], part.is_hooked,
                    array_fill(stores.ids[places[part.push]], array[part.last - part.first + 1]),
                    read.seq_nums[part.first:part.last], read.parent_seq_nums[part.first:part.last], read.names[part.first:part.last],
                    read.args[part.first:part.last], read.client_ids[part.first:part.last], read.session_ids[part.first:part.last],
                    array_fill(at, array[part.last - part.first + 1])
                );
                continue;
            end if;
            done := done || part.eventlog;
            perform livestore._insert_part(
                part.eventlog, part.store_id, contexts[part.push], false, array_agg(stores.ids[places[e.push]]),
                array_agg(e.seq_num), array_agg(e.parent_seq_num), array_agg(e.name), array_agg(e.args), array_agg(e.client_id),
                array_agg(e.session_id), array_agg(at)
            )
            from (
                select *
                from unnest(
                    read.pushes, plan.is_new, read.seq_nums, read.parent_seq_nums, read.names, read.args, read.client_ids,
                    read.session_ids
                ) with ordinality e(push, is_new, seq_num, parent_seq_num, name, args, client_id, session_id, n)
                where e.is_new and stores.eventlogs[places[e.push]] = part.eventlog
                order by e.n
            ) e;
        end loop;
    end if;
    perform livestore._notify_heads(advances.names, advances.heads, source);
end
$$;

comment on function livestore._write(record, integer[], record, record, text[], timestamptz, text) is
'Internal: heads, the entry in the commit log, events with their hooks, and the notification. stores: the rows of the stores as arrays; places: the store of each push; plan and read: what livestore._plan and livestore._read_batches return';

-- extension/rules/src/notification.rs in SQL. A digest takes 58 of 1,500 bytes.
create or replace function livestore._notify_heads(store_ids text[], heads bigint[], source text default null)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    instance record;
    store_id text;
    page integer := 1;
    pages integer[] := '{}';
    bytes integer := 0;
    length integer;
    source_end constant text := '},"source":' || coalesce(to_json(source)::text, 'null') || '}';
begin
    select i.heads_key, coalesce(
        lower(nullif(current_setting('livestore.legacy_notify', true), '')) in ('on', 'true', 'yes', '1'), i.legacy_notify
    ) as is_legacy
    into instance
    from livestore.instance i order by i.created_at limit 1;
    if cardinality(store_ids) = 1 and store_ids[1] is not null then
        -- The same without a query, whose beginning and end would cost most of it.
        perform pg_notify('livestore_heads', '{"heads":{"'
            || left(encode(sha256(convert_to(instance.heads_key || store_ids[1], 'UTF8')), 'hex'), 32)
            || '":' || coalesce(heads[1]::text, 'null') || source_end);
    else
        perform pg_notify('livestore_heads', '{"heads":{' || string_agg(
            '"' || h.digest || '":' || coalesce(h.head::text, 'null'), ',' order by h.digest collate "C") || source_end)
        from (
            select left(encode(sha256(convert_to(instance.heads_key || s.store_id, 'UTF8')), 'hex'), 32) as digest, s.head,
                (s.n - 1) / 25 as page
            from unnest(store_ids, heads) with ordinality s(store_id, head, n)
            where s.store_id is not null
        ) h
        group by h.page
        order by h.page;
    end if;
    if not instance.is_legacy then
        return;
    end if;
    -- Names are of any length: as many to a page as fit.
    foreach store_id in array store_ids loop
        length := octet_length(to_json(store_id)::text) + 24;
        if bytes + length > 1500 and bytes > 0 then
            page := page + 1;
            bytes := 0;
        end if;
        bytes := bytes + coalesce(length, 0);
        pages := pages || page;
    end loop;
    perform pg_notify('livestore', '{"heads":{' || string_agg(
        to_json(s.store_id)::text || ':' || coalesce(s.head::text, 'null'), ',' order by s.store_id collate "C") || source_end)
    from unnest(store_ids, heads, pages) s(store_id, head, page)
    where s.store_id is not null
    group by s.page
    order by s.page;
end
$$;

comment on function livestore._notify_heads(text[], bigint[], text) is
'Internal: NOTIFY livestore_heads, {"source": …, "heads": {"<livestore.store_digest>": <head>, …}}; several if one would be too long. A head of null means that the store was reset, dropped or given another backend id. With livestore.legacy_notify() also NOTIFY livestore, with ids instead of digests';
