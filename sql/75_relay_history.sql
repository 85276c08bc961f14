-- With --relay-store, what devices push to each other is in an event log, too. A log has no place for the number and the time
-- that a device gave an event, by which other devices know it: they are here.
create table livestore.relayed_events (
    store bigint not null,
    "seqNum" bigint not null,
    key bigint not null,
    event_number json,
    "timestamp" json,
    primary key (store, "seqNum")
);
create index on livestore.relayed_events (store, key);

comment on table livestore.relayed_events is 'Events that came through the peer relay: what its devices know of them beside what the event log holds';
comment on column livestore.relayed_events.store is 'livestore.stores.id';
comment on column livestore.relayed_events."seqNum" is 'Position in the event log of the store';
comment on column livestore.relayed_events.key is 'Hash of who made the event and its number, to find one that is pushed again';
comment on column livestore.relayed_events.event_number is 'eventNumber, as the device sent it';
comment on column livestore.relayed_events."timestamp" is 'timestamp, as the device sent it';

select pg_catalog.pg_extension_config_dump('livestore.relayed_events', '');

create function livestore.relay_append(store_id text, events json, payload text default null, headers text default null)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set livestore.payload = ''
set livestore.headers = ''
as $$
declare
    store livestore.stores;
    batch json;
    result livestore.push_result;
begin
    store := livestore.lock_store(store_id);
    with pushed as (
        select e.event, e.n,
            hashtextextended(json_build_array(e.event -> 'clientId', e.event -> 'sessionId', e.event -> 'eventNumber')::text, 0) as key
        from json_array_elements(events) with ordinality e(event, n)
    ), known as (
        -- Those that a device pushes again, since it missed the answer.
        select p.n
        from pushed p
        join livestore.relayed_events r on r.store = store.id and r.key = p.key
        join livestore.stored_events(
            array(select r.store from livestore.relayed_events r join pushed p on r.store = store.id and r.key = p.key order by r."seqNum"),
            array(select r."seqNum" from livestore.relayed_events r join pushed p on r.store = store.id and r.key = p.key order by r."seqNum")
        ) s on s."seqNum" = r."seqNum"
        where s.name = p.event ->> 'eventName' and s.args::text is not distinct from (p.event -> 'data')::text
            and s."clientId" = p.event ->> 'clientId' and s."sessionId" = p.event ->> 'sessionId'
            and r.event_number::text is not distinct from (p.event -> 'eventNumber')::text
            and r."timestamp"::text is not distinct from (p.event -> 'timestamp')::text
    ), fresh as (
        select p.event, p.key, row_number() over (order by p.n) as n from pushed p where p.n not in (select k.n from known k)
    ), noted as (
        insert into livestore.relayed_events
        select store.id, store.head + f.n, f.key, f.event -> 'eventNumber', f.event -> 'timestamp' from fresh f
    )
    select json_agg(
        case when f.event -> 'data' is null
            then json_build_object(
                'name', f.event -> 'eventName', 'seqNum', store.head + f.n, 'parentSeqNum', store.head + f.n - 1,
                'clientId', f.event -> 'clientId', 'sessionId', f.event -> 'sessionId')
            else json_build_object(
                'name', f.event -> 'eventName', 'args', f.event -> 'data', 'seqNum', store.head + f.n, 'parentSeqNum', store.head + f.n - 1,
                'clientId', f.event -> 'clientId', 'sessionId', f.event -> 'sessionId')
        end
        order by f.n
    ) into batch from fresh f;
    if batch is null then
        return store.head;
    end if;
    select * into result from livestore.append(
        array[store_id], array[batch::text], array[null::text], null, array[payload], array[headers]
    );
    if result.sqlstate is not null then
        raise exception '%', result.message
            using errcode = result.sqlstate, detail = coalesce(result.detail, ''), hint = coalesce(result.hint, '');
    end if;
    return result.head;
end
$$;

comment on function livestore.relay_append(text, json, text, text) is
'Appends events of the peer relay, a JSON array of {"eventName","eventNumber","clientId","sessionId","data","timestamp"}, to the log of a store, those that it does not have, and returns the new head. payload, headers: what hooks may know of the request. Raises LS003 (invalid batch), or what a hook raises';

create function livestore.relay_page(store_id text, after bigint, max_events integer, max_bytes integer)
returns table (seq_num bigint, event json)
language sql
stable
set search_path = pg_catalog, pg_temp
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
