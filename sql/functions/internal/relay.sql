-- Transactions that change which device is connected where run one after the other. Otherwise two devices that join at the
-- same time on two sidecars would not see each other, and connection numbers would not be in the order of the commits. The
-- lock is that of a table: an advisory lock could be taken by every role that may connect.
create or replace function livestore._relay_lock()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    lock table livestore.relay_presence in exclusive mode;
end
$$;

comment on function livestore._relay_lock() is 'Internal: held by a transaction that changes who is connected to the peer relay, and where';

create or replace function livestore._relay_notify(sidecar text, body text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    parcel bigint;
begin
    if octet_length(body) < 7900 then
        -- The number makes each notification unique: Postgres sends identical ones of a transaction only once.
        perform pg_notify('livestore_relay_' || sidecar, nextval('livestore.relay_parcels_id_seq') || ':' || body);
    else
        -- A sidecar whose row is locked because it is being removed gets no message, and nobody waits for the lock.
        insert into livestore.relay_parcels (sidecar, body)
        select s.sidecar, $2 from livestore.relay_sidecars s where s.sidecar = $1 for key share skip locked
        returning id into parcel;
        if found then
            perform pg_notify('livestore_relay_' || sidecar, parcel || ':');
        end if;
    end if;
end
$$;

comment on function livestore._relay_notify(text, text) is
'Internal: sends a sidecar a text of any length on its channel: <number>:<text>, or <id>: of a parcel to fetch';

create or replace function livestore._relay_forget(dead text[])
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    delete from livestore.relay_sidecars s where s.sidecar = any (dead);
    if found then
        perform livestore._relay_notify(s.sidecar, json_build_object('gone', dead)::text)
        from livestore.relay_sidecars s;
    end if;
end
$$;

comment on function livestore._relay_forget(text[]) is 'Internal: removes sidecars with their devices and parcels, and tells the others';

create or replace function livestore._relay_key(client_id text, session_id text, event_number text)
returns bigint
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select hashtextextended(json_build_array(client_id, session_id, event_number)::text, 0)
$$;

comment on function livestore._relay_key(text, text, text) is 'Internal: a hash of an event of the peer relay, to find it if it is pushed again';
