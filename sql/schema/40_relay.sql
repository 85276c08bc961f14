-- The state that sidecars share about the devices at the peer relay. Nothing here outlives a crash, nor has to: a device that
-- connects again is there again, and messages are for those who are online.
create unlogged table livestore.relay_sidecars (
    sidecar text primary key,
    expires_at timestamptz not null
);

comment on table livestore.relay_sidecars is 'The sidecars between which the peer relay works. Unlogged: gone after a crash of Postgres';
comment on column livestore.relay_sidecars.sidecar is 'Names one connection of a sidecar; it listens to the channel livestore_relay_<sidecar>';
comment on column livestore.relay_sidecars.expires_at is 'When it counts as dead, unless it renews its lease before';

-- Not one of an unlogged table, which a crash would set back.
create sequence livestore.relay_connections;

comment on sequence livestore.relay_connections is 'Numbers of connections to the peer relay';

create unlogged table livestore.relay_devices (
    user_id text not null check (octet_length(user_id) <= 256),
    client_id text not null check (octet_length(client_id) <= 256),
    connection bigint not null default nextval('livestore.relay_connections'),
    sidecar text not null references livestore.relay_sidecars on delete cascade,
    primary key (user_id, client_id)
);
create index on livestore.relay_devices (sidecar);

comment on table livestore.relay_devices is 'The devices that are connected to the peer relay. Unlogged: gone after a crash of Postgres';
comment on column livestore.relay_devices.user_id is 'Whose device it is: the sub of the token, or the empty text without authentication';
comment on column livestore.relay_devices.client_id is 'The lasting name of the device';
comment on column livestore.relay_devices.connection is 'Number of the connection of this device: the greatest is the one that counts';
comment on column livestore.relay_devices.sidecar is 'Where it is connected';

create unlogged table livestore.relay_parcels (
    id bigint generated always as identity primary key,
    sidecar text not null references livestore.relay_sidecars on delete cascade,
    body text not null
);
create index on livestore.relay_parcels (sidecar);

comment on table livestore.relay_parcels is 'Messages that are too long for a notification, until they are fetched. Unlogged, and emptied for good when nothing is on its way';
comment on column livestore.relay_parcels.id is 'What the notification names';
comment on column livestore.relay_parcels.sidecar is 'The sidecar that it is for';
comment on column livestore.relay_parcels.body is 'JSON, as sidecars understand it';

create unlogged table livestore.relay_presence ();

comment on table livestore.relay_presence is 'Empty. Locked by a transaction that changes who is connected to the peer relay: a lock that only its owner can take';

create type livestore.relay_device as (user_id text, client_id text, connection bigint, sidecar text);

comment on type livestore.relay_device is 'A device at the peer relay, as in livestore.relay_devices';
comment on column livestore.relay_device.user_id is 'Whose device it is';
comment on column livestore.relay_device.client_id is 'The lasting name of the device';
comment on column livestore.relay_device.connection is 'Number of its connection';
comment on column livestore.relay_device.sidecar is 'Where it is connected';

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
