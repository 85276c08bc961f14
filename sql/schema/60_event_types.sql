create table livestore.event_types (
    name text,
    version integer,
    schema json not null,
    mode text not null check (mode in ('check', 'enforce', 'off')),
    defined_at timestamptz not null default clock_timestamp(),
    defined_by text not null default session_user,
    primary key (name, version)
);

comment on table livestore.event_types is 'What is known of the args of events, a row for each version of a schema; the last one counts. Written by livestore.define_event';
comment on column livestore.event_types.name is 'Name of the event';
comment on column livestore.event_types.version is 'From 1; a schema that differs from the last one is a new version';
comment on column livestore.event_types.schema is 'JSON Schema of args';
comment on column livestore.event_types.mode is 'check, enforce or off: see livestore.define_event';
comment on column livestore.event_types.defined_at is 'When this version was defined';
comment on column livestore.event_types.defined_by is 'The role that defined it';

create table livestore.found_misfits (
    store bigint,
    seq_num bigint,
    name text not null,
    version integer not null,
    reason text not null,
    found_at timestamptz not null default clock_timestamp(),
    primary key (store, seq_num)
);

comment on table livestore.found_misfits is 'The events of livestore.misfits. Written by functions only';
comment on column livestore.found_misfits.store is 'livestore.stores.id';
comment on column livestore.found_misfits.seq_num is 'The event';
comment on column livestore.found_misfits.name is 'Its name';
comment on column livestore.found_misfits.version is 'The version of the schema that it does not fit';
comment on column livestore.found_misfits.reason is 'Why not, without what is in args';
comment on column livestore.found_misfits.found_at is 'When this was found';

create view livestore.misfits as
select n.store_id, m.seq_num, m.name, m.version, m.reason, m.found_at
from livestore.found_misfits m
join livestore.store_names n on n.store = m.store;

comment on view livestore.misfits is 'Events whose args do not fit the schema of livestore.define_event, found when they were pushed or by livestore.check_events';
comment on column livestore.misfits.store_id is 'The storeId of LiveStore clients';
comment on column livestore.misfits.seq_num is 'The event';
comment on column livestore.misfits.name is 'Its name';
comment on column livestore.misfits.version is 'The version of the schema that it does not fit';
comment on column livestore.misfits.reason is 'Why not, without what is in args';
comment on column livestore.misfits.found_at is 'When this was found';
