-- Changes of who is where come one after the other: two devices that join at the same time at two places would miss each
-- other, and connection numbers would not be in the order of the commits. Not an advisory lock, which anybody can hold who may
-- connect.
create or replace function livestore.relay_lock()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    lock table livestore.relay_presence in exclusive mode;
end
$$;

comment on function livestore.relay_lock() is 'Internal: held by a transaction that changes who is connected to the peer relay, and where';

create or replace function livestore.relay_notify(sidecar text, body text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    parcel bigint;
begin
    if octet_length(body) < 7900 then
        -- In one transaction, Postgres sends what is the same once only.
        perform pg_notify('livestore_relay_' || sidecar, nextval('livestore.relay_parcels_id_seq') || ':' || body);
    else
        -- One that is being removed gets nothing, and is not waited for.
        insert into livestore.relay_parcels (sidecar, body)
        select s.sidecar, $2 from livestore.relay_sidecars s where s.sidecar = $1 for key share skip locked
        returning id into parcel;
        if found then
            perform pg_notify('livestore_relay_' || sidecar, parcel || ':');
        end if;
    end if;
end
$$;

comment on function livestore.relay_notify(text, text) is
'Internal: sends a sidecar a text of any length on its channel: <number>:<text>, or <id>: of a parcel to fetch';

create or replace function livestore.relay_forget(dead text[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from livestore.relay_sidecars s where s.sidecar = any (dead);
    if found then
        perform livestore.relay_notify(s.sidecar, json_build_object('gone', dead)::text)
        from livestore.relay_sidecars s;
    end if;
end
$$;

comment on function livestore.relay_forget(text[]) is 'Internal: removes sidecars with their devices and parcels, and tells the others';

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
    perform livestore.relay_lock();
    perform livestore.relay_forget(array[previous]);
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
    select livestore.relay_notify(s.sidecar, json_build_object('missed', users)::text)
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
    perform livestore.relay_lock();
    update livestore.relay_sidecars s set expires_at = clock_timestamp() + lease where s.sidecar = $1;
    is_known := found;
    perform livestore.relay_forget(array_agg(s.sidecar))
    from livestore.relay_sidecars s
    where s.expires_at < clock_timestamp()
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
'Renews the lease of a sidecar and cleans up after those whose lease is over. False: it is one of them, and has to enter again. What the sidecar uses';

create or replace function livestore.relay_exit(sidecar text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '4s'
as $$
begin
    perform livestore.relay_lock();
    perform livestore.relay_forget(array[sidecar]);
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
    perform livestore.relay_lock();
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
    perform livestore.relay_notify(
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
    perform livestore.relay_lock();
    -- Only if nothing has replaced it since.
    delete from livestore.relay_devices d
    using unnest(users, clients, connections) l(user_id, client_id, connection)
    where d.user_id = l.user_id and d.client_id = l.client_id and d.connection = l.connection;
    perform livestore.relay_notify(
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
    -- What is left over of a connection that was lost must not come behind what was sent since.
    perform from livestore.relay_sidecars s where s.sidecar = $1;
    if not found then
        return false;
    end if;
    for parcel in
        select s.receiver, s.body from unnest(receivers, bodies) with ordinality s(receiver, body, n) order by s.n
    loop
        perform livestore.relay_notify(parcel.receiver, parcel.body);
    end loop;
    return true;
end
$$;

comment on function livestore.relay_send(text, text[], text[]) is
'Sends texts of a sidecar to others, in this order; one to a sidecar that is gone is dropped. False: the sender is taken for dead, nothing was sent. What the sidecar uses';

create or replace function livestore.relay_fetch(parcel bigint)
returns text
language sql
security definer
set search_path = pg_catalog, pg_temp
as $$
    delete from livestore.relay_parcels p where p.id = parcel returning p.body
$$;

comment on function livestore.relay_fetch(bigint) is 'Takes a parcel out of livestore.relay_parcels. What the sidecar uses';
