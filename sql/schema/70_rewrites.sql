create table livestore.rewritten_events (
    id bigint generated always as identity primary key,
    store_id text not null,
    store bigint not null,
    seq_num bigint not null,
    digest bytea not null,
    reason text,
    rewritten_at timestamptz not null default clock_timestamp(),
    rewritten_by text not null default session_user
);
create index on livestore.rewritten_events (store, seq_num);

comment on table livestore.rewritten_events is 'The events of livestore.rewrites, with digests of what they were. Written by functions only';
comment on column livestore.rewritten_events.id is 'Number of the rewrite';
comment on column livestore.rewritten_events.store_id is 'The store';
comment on column livestore.rewritten_events.store is 'livestore.stores.id at that time';
comment on column livestore.rewritten_events.seq_num is 'The event';
comment on column livestore.rewritten_events.digest is 'livestore._digest of the event before: a client that pushes it once more, because no answer has reached it, is told that the log has it';
comment on column livestore.rewritten_events.reason is 'Why, as whoever did it has said';
comment on column livestore.rewritten_events.rewritten_at is 'When';
comment on column livestore.rewritten_events.rewritten_by is 'The role that did it';

create view livestore.rewrites as
select r.store_id, r.seq_num, r.reason, r.rewritten_at, r.rewritten_by from livestore.rewritten_events r;

comment on view livestore.rewrites is 'The events that livestore.rewrite_event and livestore.erase have changed: which, when, by whom and why, and not what they were. Stays when the store is reset or dropped';
comment on column livestore.rewrites.store_id is 'The store';
comment on column livestore.rewrites.seq_num is 'The event';
comment on column livestore.rewrites.reason is 'Why, as whoever did it has said';
comment on column livestore.rewrites.rewritten_at is 'When';
comment on column livestore.rewrites.rewritten_by is 'The role that did it';
