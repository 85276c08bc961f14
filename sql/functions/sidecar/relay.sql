create or replace function livestore.relay_enter(lease interval, previous text default null)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '4s'
as $$
declare
    sidecar constant text := replace(gen_random_uuid()::text, '-', '');
begin
    perform livestore._relay_lock();
    perform livestore._relay_forget(array[previous]);
    insert into livestore.relay_sidecars values (sidecar, clock_timestamp() + lease);
    return sidecar;
end
$$;

comment on function livestore.relay_enter(interval, text) is
'Makes a sidecar known to the peer relay for as long as it renews its lease, and returns a name for it that nobody had before. previous: its name before, when its connection was lost. What the sidecar uses';

create or replace function livestore.relay_miss(sidecar text, users text[])
returns void
language sql
security definer
set search_path = pg_catalog, pg_temp
as $$
    select livestore._relay_notify(s.sidecar, json_build_object('missed', users)::text)
    from livestore.relay_sidecars s
    where s.sidecar <> $1
$$;

comment on function livestore.relay_miss(text, text[]) is
'Tells all other sidecars of users who have sent messages that could not reach them. What the sidecar uses';

create or replace function livestore.relay_renew(sidecar text, lease interval)
returns boolean
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '4s'
as $$
declare
    is_known boolean;
begin
    perform livestore._relay_lock();
    update livestore.relay_sidecars s set expires_at = clock_timestamp() + lease where s.sidecar = $1;
    is_known := found;
    perform livestore._relay_forget(array_agg(s.sidecar))
    from livestore.relay_sidecars s
    where s.expires_at < clock_timestamp()
        -- The clock was set back: one that is dead would stay for as long.
        or s.expires_at > clock_timestamp() + relay_renew.lease + interval '1 minute'
    having count(*) > 0;
    -- Deleted rows stay in the file until something overwrites them; this takes them out of it.
    if pg_relation_size('livestore.relay_parcels') > 0 and not exists (select from livestore.relay_parcels) then
        begin
            lock table livestore.relay_parcels in access exclusive mode nowait;
            if not exists (select from livestore.relay_parcels) then
                truncate livestore.relay_parcels;
            end if;
        exception when lock_not_available then
            null;
        end;
    end if;
    return is_known;
end
$$;

comment on function livestore.relay_renew(text, interval) is
'Renews the lease of a sidecar and cleans up after those whose lease is over. Returns false if the lease of this sidecar was over: it has to enter again. What the sidecar uses';

create or replace function livestore.relay_exit(sidecar text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '4s'
as $$
begin
    perform livestore._relay_lock();
    perform livestore._relay_forget(array[sidecar]);
end
$$;

comment on function livestore.relay_exit(text) is 'Removes a sidecar and its devices from the peer relay. What the sidecar uses';

create or replace function livestore.relay_join(sidecar text, users text[], clients text[])
returns setof livestore.relay_device
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '4s'
as $$
declare
    replaced record;
begin
    perform livestore._relay_lock();
    -- A new row and a new number: the greatest tells the newest connection of a device.
    with old as (
        delete from livestore.relay_devices d
        using unnest(users, clients) j(user_id, client_id)
        where d.user_id = j.user_id and d.client_id = j.client_id
        returning d.user_id, d.sidecar
    )
    select coalesce(array_agg(o.user_id), '{}') as users, coalesce(array_agg(o.sidecar), '{}') as sidecars into replaced from old o;
    insert into livestore.relay_devices (user_id, client_id, sidecar)
        select j.user_id, j.client_id, $1 from unnest(users, clients) with ordinality j(user_id, client_id, n) order by j.n;
    perform livestore._relay_notify(
        c.sidecar,
        json_build_object(
            'join', json_agg(json_build_array(d.user_id, d.client_id, d.connection)), 'at', relay_join.sidecar
        )::text
    )
    from (
        select d.user_id, d.sidecar from livestore.relay_devices d where d.user_id = any (users)
        union
        select r.user_id, r.sidecar from unnest(replaced.users, replaced.sidecars) r(user_id, sidecar)
    ) c
    join unnest(users, clients) j(user_id, client_id) on j.user_id = c.user_id
    join livestore.relay_devices d on d.user_id = j.user_id and d.client_id = j.client_id
    where c.sidecar <> relay_join.sidecar
    group by c.sidecar;
    return query
    select d.user_id, d.client_id, d.connection, d.sidecar from livestore.relay_devices d where d.user_id = any (users);
end
$$;

comment on function livestore.relay_join(text, text[], text[]) is
'Makes devices of a sidecar known to the others that have devices of the same users, and returns all devices of these users. What the sidecar uses';

create or replace function livestore.relay_leave(sidecar text, users text[], clients text[], connections bigint[])
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '4s'
as $$
begin
    perform livestore._relay_lock();
    -- Only if nothing has replaced it since.
    delete from livestore.relay_devices d
    using unnest(users, clients, connections) l(user_id, client_id, connection)
    where d.user_id = l.user_id and d.client_id = l.client_id and d.connection = l.connection;
    perform livestore._relay_notify(
        c.sidecar, json_build_object('leave', json_agg(json_build_array(l.user_id, l.client_id, l.connection)))::text
    )
    from (select distinct d.user_id, d.sidecar from livestore.relay_devices d where d.user_id = any (users)) c
    join unnest(users, clients, connections) l(user_id, client_id, connection) on l.user_id = c.user_id
    where c.sidecar <> relay_leave.sidecar
    group by c.sidecar;
end
$$;

comment on function livestore.relay_leave(text, text[], text[], bigint[]) is
'Removes devices that have disconnected, by the numbers of their connections. What the sidecar uses';

create or replace function livestore.relay_send(sidecar text, receivers text[], bodies text[])
returns boolean
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '4s'
as $$
declare
    parcel record;
begin
    -- Messages of a connection that was lost must not come behind what was sent since.
    perform from livestore.relay_sidecars s where s.sidecar = $1;
    if not found then
        return false;
    end if;
    for parcel in
        select s.receiver, s.body from unnest(receivers, bodies) with ordinality s(receiver, body, n) order by s.n
    loop
        perform livestore._relay_notify(parcel.receiver, parcel.body);
    end loop;
    return true;
end
$$;

comment on function livestore.relay_send(text, text[], text[]) is
'Sends texts of a sidecar to others, in this order; one to a sidecar that is gone is dropped. Returns false, and sends nothing, if the lease of the sender is over. What the sidecar uses';

create or replace function livestore.relay_fetch(parcel bigint)
returns text
language sql
security definer
set search_path = pg_catalog, pg_temp
as $$
    delete from livestore.relay_parcels p where p.id = parcel returning p.body
$$;

comment on function livestore.relay_fetch(bigint) is 'Takes a parcel out of livestore.relay_parcels. What the sidecar uses';

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
    too_long bigint;
    store livestore.stores;
    batch json;
    result livestore.push_result;
begin
    -- They are beside the log, whose limits do not count them, and every page of a pull repeats them.
    select min(p.n) into too_long
    from unnest(event_numbers, timestamps) with ordinality p(event_number, made_at, n)
    where octet_length(p.event_number) > 256 or octet_length(p.made_at) > 256;
    if too_long is not null then
        raise exception 'an eventNumber and a timestamp have at most 256 bytes each'
            using errcode = 'LS003', detail = json_build_object('index', too_long - 1, 'reason', 'too long');
    end if;
    store := livestore._lock_store(store_id);
    with pushed as materialized (
        select p.*, livestore._relay_key(p.client_id, p.session_id, p.event_number) as key
        from unnest(names, args, client_ids, session_ids, event_numbers, timestamps)
            with ordinality p(name, args, client_id, session_id, event_number, made_at, n)
    ), numbered as materialized (
        -- Those that have the same number, which a device may be pushing again, since it missed the answer.
        select r.* from livestore.relayed_events r where r.store = store.id and r.key in (select p.key from pushed p)
    ), known as materialized (
        select r.key, r.event_number::text as event_number, r."timestamp"::text as made_at, e.*
        from numbered r
        join livestore._stored_events(array(select m.store from numbered m), array(select m."seqNum" from numbered m)) e
            on e."seqNum" = r."seqNum"
    ), rewritten as materialized (
        select k.* from known k
        where exists (select from livestore.rewritten_events w where w.store = k.store and w.seq_num = k."seqNum")
    ), fresh as (
        select p.*, row_number() over (order by p.n) as place
        from pushed p
        -- By values that can be hashed: a device may push thousands of events again, all with one number. No JSON is empty.
        where (
            p.key, coalesce(p.event_number, ''), coalesce(p.made_at, ''), coalesce(p.name, ''), coalesce(p.client_id, ''),
            coalesce(p.session_id, ''), coalesce(p.args, '')
        ) not in (
            select k.key, coalesce(k.event_number, ''), coalesce(k.made_at, ''), k.name, k."clientId", k."sessionId",
                coalesce(k.args::text, '')
            from known k
        ) and not exists (
            select from rewritten r
            where r.key = p.key and (r.event_number, r.made_at) is not distinct from (p.event_number, p.made_at)
                and livestore._was_rewritten(
                    r.store, r."seqNum", r."parentSeqNum", p.name, p.args, p.client_id, p.session_id
                )
        )
    ), noted as (
        insert into livestore.relayed_events
        select store.id, store.head + f.place, livestore._relay_key(f.client_id, f.session_id, f.event_number),
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
    select * into result from livestore._append(
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
'Appends events of the peer relay to the log of a store, those that it does not have, and returns the new head. Arrays with one element for each event: eventName, data (JSON text, or null for none), clientId, sessionId, eventNumber and timestamp (JSON texts of at most 256 bytes, or null). context: what hooks may know of the request, a JSON object as text or null. Raises LS003 (invalid batch), or what a hook raises. What the sidecar uses';

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
                'eventName', e.name, 'eventNumber', coalesce(e.event_number, to_json(e.seq_num)),
                'clientId', e.client_id, 'sessionId', e.session_id, 'timestamp', coalesce(e."timestamp", to_json(t.milliseconds)))
            else json_build_object(
                'eventName', e.name, 'eventNumber', coalesce(e.event_number, to_json(e.seq_num)),
                'clientId', e.client_id, 'sessionId', e.session_id,
                'data', e.args, 'timestamp', coalesce(e."timestamp", to_json(t.milliseconds)))
        end
    from (
        -- Versions before 0.4.0 stored numbers and times of any length, which pull_page does not count.
        select p.*, r.event_number, r."timestamp",
            sum(coalesce(octet_length(r.event_number::text), 0) + coalesce(octet_length(r."timestamp"::text), 0)) over (
                order by p.seq_num rows between unbounded preceding and 1 preceding
            ) as bytes_before
        from livestore.pull_page(store_id, after, max_events, max_bytes) p
        left join livestore.relayed_events r
            on r.store = (select s.id from livestore.stores s where s.store_id = $1) and r."seqNum" = p.seq_num
    ) e
    cross join lateral (select floor(extract(epoch from e.created_at) * 1000)::bigint as milliseconds) t
    where (e.bytes_before >= max_bytes) is not true
    order by e.seq_num
$$;

comment on function livestore.relay_page(text, bigint, integer, integer) is
'The events of a store after a sequence number, in order, as devices at the peer relay know them: at most max_events, and none after the one with which their contents, or their eventNumbers and timestamps, reach max_bytes. Those that came another way have their seqNum as eventNumber and the time of their append, in milliseconds, as timestamp';
