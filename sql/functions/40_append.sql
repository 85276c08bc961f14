-- Written in Rust: extension/src/plan.rs decides, extension/src/sql.rs converts.
create or replace function livestore.plan_pushes(
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

-- Whoever may connect may LISTEN. So the channel names stores by digests, which only those can make who may read all stores.
create or replace function livestore.heads_key()
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select i.heads_key from livestore.instance i order by i.created_at limit 1
$$;

comment on function livestore.heads_key() is
'What livestore.store_digest is made with. What the sidecar uses';

create or replace function livestore.store_digest(store_id text)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select left(encode(sha256(convert_to(livestore.heads_key() || store_id, 'UTF8')), 'hex'), 32)
$$;

comment on function livestore.store_digest(text) is
'What stands for a store in the notifications of the channel livestore_heads';

create or replace function livestore.legacy_notify()
returns boolean
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select coalesce(
        lower(nullif(current_setting('livestore.legacy_notify', true), '')) in ('on', 'true', 'yes', '1'),
        (select i.legacy_notify from livestore.instance i order by i.created_at limit 1)
    )
$$;

comment on function livestore.legacy_notify() is
'Whether commits are told on the channel livestore, too, with the ids of stores, as sidecars before 0.3 expect it: the setting livestore.legacy_notify or, without one, whether the database was updated from such a version';

create or replace function livestore.notify_heads(store_ids text[], heads bigint[], source text default null)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    -- A payload must stay under 8,000 bytes: a digest and a head are 53 at most.
    select pg_notify(
        'livestore_heads', json_build_object('source', source, 'heads', json_object_agg(page.digest, page.head))::text
    )
    from (
        select livestore.store_digest(h.store_id) as digest, h.head, (h.number - 1) / 100 as number
        from unnest(store_ids, heads) with ordinality h(store_id, head, number)
    ) page
    group by page.number;

    -- 1,500 and the longest id there can be (1,024 characters, 6 bytes each in JSON).
    select pg_notify('livestore', json_build_object('source', source, 'heads', json_object_agg(page.store_id, page.head))::text)
    from (
        select h.store_id, h.head, sum(octet_length(to_json(h.store_id)::text) + 24) over (order by h.store_id) / 1500 as number
        from unnest(store_ids, heads) h(store_id, head)
        where livestore.legacy_notify()
    ) page
    group by page.number
$$;

comment on function livestore.notify_heads(text[], bigint[], text) is
'Internal: NOTIFY livestore_heads, {"source": …, "heads": {"<livestore.store_digest>": <head>, …}}; several if one would be too long. A head of null: the log is another one now. With livestore.legacy_notify() also NOTIFY livestore, with ids instead of digests';

create or replace function livestore.stored_events(stores bigint[], seq_nums bigint[])
returns setof livestore.eventlog_1
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set row_security = off
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

create or replace function livestore.append(
    store_ids text[], batches text[], backend_ids text[], source text default null,
    payloads text[] default null, headers text[] default null, claims text[] default null
)
returns setof livestore.push_result
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    store record;
    plan record;
    stored record;
    hooks record;
    part record;
    inserted bigint := 0;
    changed bigint;
    around text[];
    is_inherited boolean;
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
        store_ids, batches, backend_ids, store.heads, store.backend_ids,
        null::text[], null::bigint[], null::bigint[], null::text[], null::text[], null::text[], null::text[]
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

        -- Bit 2 of tgtype: a BEFORE trigger.
        select count(*) > 0 as exist, coalesce(bool_or(t.tgtype & 2 <> 0), false) as may_change
        into hooks
        from pg_trigger t
        where t.tgrelid = any (store.eventlogs) and not t.tgisinternal;
        -- What a hook appends belongs to the request that the hook runs for, and leaves it its context.
        if hooks.exist then
            around := livestore.save_context();
            is_inherited := pg_trigger_depth() > 0 and livestore.has_context();
        end if;

        -- A statement for each table and, if there are hooks, for each push: it has the context of its request.
        for part in
            select min(e.push) as push, s.eventlog, array_agg(s.id order by e.n) as ids,
                array_agg(e.seq_num order by e.n) as seq_nums, array_agg(e.parent_seq_num order by e.n) as parent_seq_nums,
                array_agg(e.name order by e.n) as names, array_agg(e.args order by e.n) as args,
                array_agg(e.client_id order by e.n) as client_ids, array_agg(e.session_id order by e.n) as session_ids,
                array_agg(appended_at) as created_ats
            from unnest(
                plan.event_push, plan.event_seq_num, plan.event_parent_seq_num,
                plan.event_name, plan.event_args, plan.event_client_id, plan.event_session_id
            ) with ordinality e(push, seq_num, parent_seq_num, name, args, client_id, session_id, n)
            join livestore.stores s on s.id = store.ids[e.push]
            group by s.eventlog, case when hooks.exist then e.push end
            order by 1
        loop
            if hooks.exist then
                perform livestore.enter_context(
                    store_ids[part.push],
                    case when payloads is not null then payloads[part.push]
                        when is_inherited then around[2] end,
                    case when headers is not null then headers[part.push]
                        when is_inherited then around[3] end,
                    case when claims is not null then claims[part.push]
                        when is_inherited then around[4] end
                );
            end if;
            perform livestore.admit_hooks(part.eventlog::oid);
            inserted := inserted + livestore.insert_events(
                part.eventlog::oid, part.ids, part.seq_nums, part.parent_seq_nums, part.names, part.args,
                part.client_ids, part.session_ids, part.created_ats
            );
        end loop;

        if hooks.exist then
            perform livestore.restore_context(around);
        end if;

        -- A client that gets back another event than it pushed takes its own for missing, and pushes it again.
        if hooks.may_change then
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

comment on function livestore.append(text[], text[], text[], text, text[], text[], text[]) is
'Internal: carries out pushes to stores whose rows are locked. What a hook raises goes through. payloads, headers: null for a push from SQL; one that a hook makes has those of the hook';

-- Written in Rust: extension/src/append.rs.
create or replace function livestore.append_pooled(store_ids text[], batches text[], backend_ids text[], source text)
returns table (
    push integer, head bigint, appended integer, backend_id text, created_at timestamptz,
    sqlstate text, message text, detail text, hint text
)
language c
as 'MODULE_PATHNAME', 'append_pooled_wrapper';

comment on function livestore.append_pooled(text[], text[], text[], text) is
'Internal: livestore.append and the locks that it needs, for pushes that are all of the usual kind: to stores that exist and are in the shared table, with nothing that is in the log already, and no hooks. No row otherwise, and nothing is written';
