-- Written in Rust: extension/src/plan.rs decides, extension/src/sql.rs converts.
create function livestore.plan_pushes(
    store_ids text[], batches text[], backend_ids text[], store_heads bigint[], store_backend_ids text[],
    stored_store_ids text[], stored_seq_nums bigint[], stored_parent_seq_nums bigint[],
    stored_names text[], stored_args text[], stored_client_ids text[], stored_session_ids text[]
)
returns table (
    lookup_push integer[], lookup_seq_num bigint[],
    sqlstate text[], message text[], detail text[], hint text[], head bigint[], appended integer[],
    event_push integer[], event_seq_num bigint[], event_parent_seq_num bigint[],
    event_name text[], event_args text[], event_client_id text[], event_session_id text[]
)
language c
stable
parallel safe
as 'MODULE_PATHNAME', 'plan_pushes_wrapper';

comment on function livestore.plan_pushes(text[], text[], text[], bigint[], text[], text[], bigint[], bigint[], text[], text[], text[], text[]) is
'Internal: decides what becomes of each push, given the state of its store, and lists the events to insert';

create type livestore.push_result as (
    push integer,
    head bigint,
    appended integer,
    backend_id text,
    created_at timestamptz,
    sqlstate text,
    message text,
    detail text,
    hint text
);

comment on type livestore.push_result is 'The outcome of one push of livestore.push_batch';
comment on column livestore.push_result.push is 'Position of the push in the arguments, from 1';
comment on column livestore.push_result.head is 'The head of the log after this push; null if it failed';
comment on column livestore.push_result.appended is 'How many events at the end of the batch are new; 0 if the log had them all';
comment on column livestore.push_result.backend_id is 'The backend id of the log; null if the push failed';
comment on column livestore.push_result.created_at is 'The createdAt of the events that were appended';
comment on column livestore.push_result.sqlstate is 'null if the push is in the log; LS… (see livestore.push) or what a hook raised if it is not';
comment on column livestore.push_result.message is 'What is wrong, in a sentence';
comment on column livestore.push_result.detail is 'For LS…: the same as JSON';
comment on column livestore.push_result.hint is 'What to do next';

create function livestore.notify_heads(store_ids text[], heads bigint[], source text default null)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    -- A payload must stay under 8,000 bytes: 1,500 and the longest id there can be (1,024 characters, 6 bytes each in JSON).
    select pg_notify('livestore', json_build_object('source', source, 'heads', json_object_agg(page.store_id, page.head))::text)
    from (
        select h.store_id, h.head, sum(octet_length(to_json(h.store_id)::text) + 24) over (order by h.store_id) / 1500 as number
        from unnest(store_ids, heads) h(store_id, head)
    ) page
    group by page.number
$$;

comment on function livestore.notify_heads(text[], bigint[], text) is
'Internal: NOTIFY livestore, {"source": …, "heads": {"<storeId>": <head>, …}}; several if one would be too long. A head of null: the log is another one now';

create function livestore.stored_events(stores bigint[], seq_nums bigint[])
returns setof livestore.eventlog_1
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    own record;
begin
    -- only: through inheritance this would lock the tables of all stores, and plan a look at each.
    return query
    select e.*
    from unnest(stores, seq_nums) w(store, seq_num)
    join only livestore.eventlog_1 e on e.store = w.store and e."seqNum" = w.seq_num;
    for own in
        select s.id, s.eventlog, array_agg(w.seq_num) as seq_nums
        from unnest(stores, seq_nums) w(store, seq_num)
        join livestore.stores s on s.id = w.store
        where s.eventlog <> 'livestore.eventlog_1'::regclass
        group by s.id
    loop
        return query execute format('select * from only %s where store = $1 and "seqNum" = any ($2)', own.eventlog)
            using own.id, own.seq_nums;
    end loop;
end
$$;

comment on function livestore.stored_events(bigint[], bigint[]) is
'Internal: the events that are in the log at these positions, as arrays of livestore.stores.id and seqNum';

create function livestore.append(store_ids text[], batches text[], backend_ids text[], source text default null)
returns setof livestore.push_result
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    store record;
    plan record;
    stored record;
    own record;
    hook record;
    inserted bigint;
    changed bigint;
    appended_at timestamptz;
begin
    select array_agg(s.id order by p.push) as ids,
        array_agg(coalesce(s.head, 0) order by p.push) as heads,
        array_agg(coalesce(s.backend_id, livestore.backend_id(p.store_id)) order by p.push) as backend_ids,
        array_agg(distinct s.eventlog::oid) as eventlogs,
        array_agg(distinct s.id) filter (where s.eventlog <> 'livestore.eventlog_1'::regclass) as own_ids
    into store
    from unnest(store_ids) with ordinality p(store_id, push)
    left join livestore.stores s on s.store_id = p.store_id;

    plan := livestore.plan_pushes(
        store_ids, batches, backend_ids, store.heads, store.backend_ids, null, null, null, null, null, null, null
    );
    if cardinality(plan.lookup_push) > 0 then
        select coalesce(array_agg(store_ids[array_position(store.ids, e.store)]), '{}') as store_ids,
            coalesce(array_agg(e."seqNum"), '{}') as seq_nums,
            coalesce(array_agg(e."parentSeqNum"), '{}') as parent_seq_nums,
            coalesce(array_agg(e.name), '{}') as names,
            coalesce(array_agg(e.args::text), '{}') as args,
            coalesce(array_agg(e."clientId"), '{}') as client_ids,
            coalesce(array_agg(e."sessionId"), '{}') as session_ids
        into stored
        from livestore.stored_events(
            (select array_agg(store.ids[l.push] order by l.n) from unnest(plan.lookup_push) with ordinality l(push, n)),
            plan.lookup_seq_num
        ) e;

        plan := livestore.plan_pushes(
            store_ids, batches, backend_ids, store.heads, store.backend_ids,
            stored.store_ids, stored.seq_nums, stored.parent_seq_nums,
            stored.names, stored.args, stored.client_ids, stored.session_ids
        );
    end if;

    appended_at := clock_timestamp();
    if cardinality(plan.event_push) > 0 then
        -- Heads first: a hook that appends to the same store goes on from here. Only from the heads that the plan began
        -- with: a store that came into being, or went, while others were being locked is not locked itself.
        update livestore.stores s set head = h.head
        from (
            select store.ids[p.push] as id, min(store.heads[p.push]) as planned, max(p.head) as head
            from unnest(plan.head, plan.appended) with ordinality p(head, appended, push)
            where p.appended > 0
            group by 1
        ) h
        where s.id = h.id and s.head = h.planned;
        get diagnostics changed = row_count;
        if changed <> (
            select count(distinct store_ids[p.push])
            from unnest(plan.appended) with ordinality p(appended, push) where p.appended > 0
        ) then
            raise exception 'a store was created or dropped meanwhile'
                using errcode = 'serialization_failure', hint = 'Try again.';
        end if;

        insert into livestore.eventlog_1
        select store.ids[e.push], e.seq_num, e.parent_seq_num, e.name, e.args::json, e.client_id, e.session_id, appended_at
        from unnest(
            plan.event_push, plan.event_seq_num, plan.event_parent_seq_num,
            plan.event_name, plan.event_args, plan.event_client_id, plan.event_session_id
        ) e(push, seq_num, parent_seq_num, name, args, client_id, session_id)
        where store.own_ids is null or store.ids[e.push] <> all (store.own_ids);
        get diagnostics inserted = row_count;

        for own in select s.id, s.eventlog from livestore.stores s where s.id = any (store.own_ids) order by s.id loop
            execute format(
                'insert into %s
                 select $1, e.seq_num, e.parent_seq_num, e.name, e.args::json, e.client_id, e.session_id, $2
                 from unnest($3, $4, $5, $6, $7, $8, $9) e(push, seq_num, parent_seq_num, name, args, client_id, session_id)
                 where $10[e.push] = $1',
                own.eventlog
            )
            using own.id, appended_at,
                plan.event_push, plan.event_seq_num, plan.event_parent_seq_num,
                plan.event_name, plan.event_args, plan.event_client_id, plan.event_session_id, store.ids;
            get diagnostics changed = row_count;
            inserted := inserted + changed;
        end loop;

        -- A client that gets back another event than it pushed takes its own for missing, and pushes it again.
        -- Bit 2 of tgtype: a BEFORE trigger.
        if exists (
            select from pg_trigger t
            where t.tgrelid = any (store.eventlogs) and t.tgtype & 2 <> 0 and not t.tgisinternal
        ) then
            select count(*) into changed
            from unnest(
                plan.event_push, plan.event_seq_num, plan.event_parent_seq_num,
                plan.event_name, plan.event_args, plan.event_client_id, plan.event_session_id
            ) p(push, seq_num, parent_seq_num, name, args, client_id, session_id)
            left join livestore.stored_events(
                (select array_agg(store.ids[p.push] order by p.n) from unnest(plan.event_push) with ordinality p(push, n)),
                plan.event_seq_num
            ) e on e.store = store.ids[p.push] and e."seqNum" = p.seq_num
            where (e."seqNum", e."parentSeqNum", e.name, e."clientId", e."sessionId", e."createdAt")
                is distinct from (p.seq_num, p.parent_seq_num, p.name, p.client_id, p.session_id, appended_at)
                or e.args::text is distinct from p.args;
            if inserted <> cardinality(plan.event_push) or changed > 0 then
                raise exception 'a BEFORE trigger on the event log skipped or changed events'
                    using errcode = 'triggered_data_change_violation',
                        hint = 'A hook lets an event pass as it is (return new) or rejects it (raise exception).';
            end if;
        end if;

        -- A hook that is deferred to the commit would fail everything that is committed with this push: it runs now.
        for hook in
            select distinct t.tgname as name from pg_trigger t
            where t.tgrelid = any (store.eventlogs) and t.tginitdeferred and not t.tgisinternal
        loop
            execute format('set constraints livestore.%I immediate', hook.name);
            execute format('set constraints livestore.%I deferred', hook.name);
        end loop;

        perform livestore.notify_heads(array_agg(h.store_id), array_agg(h.head), source)
        from (
            select store_ids[p.push] as store_id, max(p.head) as head
            from unnest(plan.head, plan.appended) with ordinality p(head, appended, push)
            where p.appended > 0
            group by 1
        ) h;
    end if;

    return query
    select p.push::integer, p.head, p.appended,
        case when p.sqlstate is null then store.backend_ids[p.push] end,
        case when p.appended > 0 then appended_at end,
        p.sqlstate, p.message, p.detail, p.hint
    from unnest(plan.head, plan.appended, plan.sqlstate, plan.message, plan.detail, plan.hint)
        with ordinality p(head, appended, sqlstate, message, detail, hint, push);
end
$$;

comment on function livestore.append(text[], text[], text[], text) is
'Internal: carries out pushes to stores whose rows are locked. What a hook raises goes through';

create function livestore.lock_stores(store_ids text[], batches text[], backend_ids text[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    missing record;
    existing bigint;
    locked bigint;
begin
    if array_position(store_ids, null) is not null then
        raise exception 'a store id is null' using errcode = 'null_value_not_allowed';
    end if;
    loop
        -- Only a push that will be accepted creates a store: bad input changes nothing.
        select array_agg(p.store_id) as store_ids, array_agg(p.batch) as batches, array_agg(p.backend_id) as backend_ids,
            array_agg(0::bigint) as heads, array_agg(livestore.backend_id(p.store_id)) as store_backend_ids
        into missing
        from unnest(store_ids, batches, backend_ids) p(store_id, batch, backend_id)
        where not exists (select from livestore.stores s where s.store_id = p.store_id);
        if missing.store_ids is not null then
            perform livestore.register_stores(array_agg(p.store_id))
            from livestore.plan_pushes(
                    missing.store_ids, missing.batches, missing.backend_ids, missing.heads, missing.store_backend_ids,
                    null, null, null, null, null, null, null
                ) plan,
                unnest(missing.store_ids, plan.appended) p(store_id, appended)
            where p.appended > 0;
        end if;

        select count(*) into existing from livestore.stores s where s.store_id = any (store_ids);
        perform from livestore.stores s where s.store_id = any (store_ids) order by s.id for update;
        get diagnostics locked = row_count;
        -- Again, if a store was dropped while this waited for its lock.
        exit when locked >= existing;
    end loop;
end
$$;

comment on function livestore.lock_stores(text[], text[], text[]) is
'Internal: creates the stores that the pushes begin and locks the rows of all, in an order that cannot deadlock';

create function livestore.push(store_id text, events json, backend_id text default null)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    result livestore.push_result;
begin
    perform livestore.lock_stores(array[store_id], array[events::text], array[backend_id]);
    select * into result from livestore.append(array[store_id], array[events::text], array[backend_id]);
    if result.sqlstate is not null then
        raise exception '%', result.message
            using errcode = result.sqlstate, detail = coalesce(result.detail, ''), hint = coalesce(result.hint, '');
    end if;
    return result.head;
end
$$;

comment on function livestore.push(text, json, text) is
'Appends a batch, a JSON array of {"name","args","seqNum","parentSeqNum","clientId","sessionId"}, to the log of a store, whole or not at all, and returns the new head. A batch that is in the log already is accepted again. Raises LS001 (server ahead), LS002 (backend id mismatch), LS003 (invalid batch), each with a JSON DETAIL, or what a hook raises';

create function livestore.push_some(
    store_ids text[], batches text[], backend_ids text[], positions integer[], source text
)
returns setof livestore.push_result
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    result livestore.push_result;
    chosen record;
    half constant integer := cardinality(positions) / 2;
begin
    select array_agg(store_ids[p.push] order by p.n) as store_ids,
        array_agg(batches[p.push] order by p.n) as batches,
        array_agg(backend_ids[p.push] order by p.n) as backend_ids
    into chosen
    from unnest(positions) with ordinality p(push, n);
    begin
        perform livestore.lock_stores(chosen.store_ids, chosen.batches, chosen.backend_ids);
        for result in select * from livestore.append(chosen.store_ids, chosen.batches, chosen.backend_ids, source) loop
            result.push := positions[result.push];
            return next result;
        end loop;
        return;
    exception when others then
        if half = 0 then
            result := null;
            result.push := positions[1];
            result.appended := 0;
            get stacked diagnostics
                result.sqlstate = returned_sqlstate,
                result.message = message_text,
                result.detail = pg_exception_detail,
                result.hint = pg_exception_hint;
            -- A hook that pushes to another store, and fails, does not speak of this one.
            if result.sqlstate like 'LS%' then
                result.sqlstate := '09000';
            end if;
            return next result;
            return;
        end if;
    end;
    -- One of them failed and took the others with it. Halves find it, in the order of the pushes.
    return query select * from livestore.push_some(store_ids, batches, backend_ids, positions[:half], source);
    return query select * from livestore.push_some(store_ids, batches, backend_ids, positions[half + 1:], source);
end
$$;

comment on function livestore.push_some(text[], text[], text[], integer[], text) is
'Internal: carries out the pushes at these positions together and, if an error stops them, in halves, so that it stops only the push that it belongs to';

-- lock_timeout: a transaction that stays open holding one store must not hold up the pushes to all others.
create function livestore.push_batch(store_ids text[], batches text[], backend_ids text[], source text default null)
returns setof livestore.push_result
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '200ms'
as $$
declare
    stores record;
begin
    if cardinality(batches) is distinct from cardinality(store_ids) or cardinality(backend_ids) is distinct from cardinality(store_ids) then
        raise exception 'store_ids, batches and backend_ids must have one element for each push'
            using errcode = 'array_subscript_error';
    end if;
    if octet_length(source) > 200 then
        raise exception 'source has more than 200 bytes' using errcode = 'string_data_right_truncation';
    end if;
    -- The usual case. Locks and updates belong to one subtransaction: a row that another one locked would need a multixact.
    begin
        perform livestore.lock_stores(store_ids, batches, backend_ids);
        return query select * from livestore.append(store_ids, batches, backend_ids, source);
        return;
    exception when others then
        null;
    end;

    -- Something failed, and took everything with it. Stores that somebody else holds are left out now; the others are
    -- free, so that locking them waits for nobody. New stores come last: whether somebody else is just creating one can
    -- only be found out by waiting.
    with free as materialized (
        select s.id from livestore.stores s where s.store_id = any (store_ids) order by s.id for update skip locked
    )
    select array_agg(p.push::integer order by p.push) filter (where l.id is not null) as free,
        array_agg(p.push::integer order by p.push) filter (where l.id is null and s.id is not null) as held,
        array_agg(p.push::integer order by p.push) filter (where s.id is null) as new
    into stores
    from unnest(store_ids) with ordinality p(store_id, push)
    left join livestore.stores s on s.store_id = p.store_id
    left join free l on l.id = s.id;
    return query
    select held.push, null::bigint, 0, null::text, null::timestamptz,
        '55P03', 'another transaction holds the store', null::text, 'Try again.'
    from unnest(stores.held) held(push);
    if stores.free is not null then
        return query select * from livestore.push_some(store_ids, batches, backend_ids, stores.free, source);
    end if;
    if stores.new is not null then
        return query select * from livestore.push_some(store_ids, batches, backend_ids, stores.new, source);
    end if;
end
$$;

comment on function livestore.push_batch(text[], text[], text[], text) is
'Many pushes to many stores at once, as arrays with one element for each push: its storeId, its batch as JSON text, its backend id or null. Returns a result for each; one that fails does not fail the others. Later pushes of a store build on earlier ones. A store that another transaction holds fails its pushes with 55P03: try them again. source comes back in the notification, so that a sidecar knows its own';

create function livestore.commit(
    store_id text, name text, args json default null, client_id text default 'server', session_id text default 'sql'
)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    head bigint;
begin
    head := (livestore.lock_store(store_id)).head;
    return livestore.push(
        store_id,
        json_build_array(
            case when args is null
                then json_build_object('name', name, 'seqNum', head + 1, 'parentSeqNum', head, 'clientId', client_id, 'sessionId', session_id)
                else json_build_object('name', name, 'args', args, 'seqNum', head + 1, 'parentSeqNum', head, 'clientId', client_id, 'sessionId', session_id)
            end
        )
    );
end
$$;

comment on function livestore.commit(text, text, json, text, text) is
'Appends one event at the head of the log of a store, from SQL, and returns its seq_num. args null: an event without args. The event takes effect, and reaches live clients, when the transaction commits';
