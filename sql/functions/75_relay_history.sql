create or replace function livestore.relay_key(client_id text, session_id text, event_number text)
returns bigint
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select hashtextextended(json_build_array(client_id, session_id, event_number)::text, 0)
$$;

comment on function livestore.relay_key(text, text, text) is 'Internal: by what an event of the peer relay is found that is pushed again';

-- Arrays and not JSON: Postgres cannot take a JSON text apart that has \u0000 in it, which is legal in a client's string.
create or replace function livestore.relay_append(
    store_id text, names text[], args text[], client_ids text[], session_ids text[], event_numbers text[], timestamps text[],
    context text default null
)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
as $$
declare
    store livestore.stores;
    known record;
    batch json;
    result livestore.push_result;
begin
    store := livestore.lock_store(store_id);
    -- Those that have the same number, which a device may be pushing again, since it missed the answer.
    select coalesce(array_agg(r.store), '{}') as stores, coalesce(array_agg(r."seqNum"), '{}') as seq_nums into known
    from unnest(client_ids, session_ids, event_numbers) p(client_id, session_id, event_number)
    join livestore.relayed_events r
        on r.store = store.id and r.key = livestore.relay_key(p.client_id, p.session_id, p.event_number);
    with pushed as (
        select * from unnest(names, args, client_ids, session_ids, event_numbers, timestamps)
            with ordinality p(name, args, client_id, session_id, event_number, made_at, n)
    ), fresh as (
        select p.*, row_number() over (order by p.n) as place
        from pushed p
        where not exists (
            select
            from livestore.stored_events(known.stores, known.seq_nums) e
            join livestore.relayed_events r on r.store = e.store and r."seqNum" = e."seqNum"
            where (e.name, e."clientId", e."sessionId") = (p.name, p.client_id, p.session_id)
                and (e.args::text, r.event_number::text, r."timestamp"::text)
                    is not distinct from (p.args, p.event_number, p.made_at)
        )
    ), noted as (
        insert into livestore.relayed_events
        select store.id, store.head + f.place, livestore.relay_key(f.client_id, f.session_id, f.event_number),
            f.event_number::json, f.made_at::json
        from fresh f
    )
    select json_agg(
        case when f.args is null
            then json_build_object(
                'name', f.name, 'seqNum', store.head + f.place, 'parentSeqNum', store.head + f.place - 1,
                'clientId', f.client_id, 'sessionId', f.session_id)
            else json_build_object(
                'name', f.name, 'args', f.args::json, 'seqNum', store.head + f.place, 'parentSeqNum', store.head + f.place - 1,
                'clientId', f.client_id, 'sessionId', f.session_id)
        end
        order by f.place
    ) into batch from fresh f;
    if batch is null then
        return store.head;
    end if;
    select * into result from livestore.append(
        array[store_id], array[batch::text], array[null::text], null::text, array[context]
    );
    if result.sqlstate is not null then
        raise exception '%', result.message
            using errcode = result.sqlstate, detail = coalesce(result.detail, ''), hint = coalesce(result.hint, '');
    end if;
    return result.head;
end
$$;

comment on function livestore.relay_append(text, text[], text[], text[], text[], text[], text[], text) is
'Appends events of the peer relay to the log of a store, those that it does not have, and returns the new head. Arrays with one element for each event: eventName, data (JSON text, or null for none), clientId, sessionId, eventNumber and timestamp (JSON texts, or null). context: what hooks may know of the request, a JSON object as text or null. Raises LS003 (invalid batch), or what a hook raises. What the sidecar uses';

create or replace function livestore.relay_page(store_id text, after bigint, max_events integer, max_bytes integer)
returns table (seq_num bigint, event json)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select e.seq_num,
        case when e.args is null
            then json_build_object(
                'eventName', e.name, 'eventNumber', coalesce(r.event_number, to_json(e.seq_num)),
                'clientId', e.client_id, 'sessionId', e.session_id, 'timestamp', coalesce(r."timestamp", to_json(t.milliseconds)))
            else json_build_object(
                'eventName', e.name, 'eventNumber', coalesce(r.event_number, to_json(e.seq_num)),
                'clientId', e.client_id, 'sessionId', e.session_id,
                'data', e.args, 'timestamp', coalesce(r."timestamp", to_json(t.milliseconds)))
        end
    from livestore.pull_page(store_id, after, max_events, max_bytes) e
    cross join lateral (select floor(extract(epoch from e.created_at) * 1000)::bigint as milliseconds) t
    left join livestore.relayed_events r
        on r.store = (select s.id from livestore.stores s where s.store_id = $1) and r."seqNum" = e.seq_num
    order by e.seq_num
$$;

comment on function livestore.relay_page(text, bigint, integer, integer) is
'The events of a store after a sequence number, in order, as devices at the peer relay know them: at most max_events, and none after the one that reaches max_bytes. Those that came another way have their seqNum as eventNumber and the time of their append, in milliseconds, as timestamp';
