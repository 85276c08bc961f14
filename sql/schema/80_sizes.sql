-- 72: the header of a row, three numbers, the time, and padding; 28: the entry of the primary key.
create view livestore.store_sizes as
select s.store_id, e.events, e.bytes, e.first_event_at, e.last_event_at, s.eventlog <> 'livestore.eventlog_1'::regclass as own_table
from livestore.stores s
cross join lateral (
    select count(*) as events,
        coalesce(sum(
            72 + 28 + pg_column_size(l.name) + coalesce(pg_column_size(l.args), 0) + pg_column_size(l."clientId") + pg_column_size(l."sessionId")
        ), 0)::bigint as bytes,
        min(l."createdAt") as first_event_at, max(l."createdAt") as last_event_at
    from livestore.eventlog_1 l
    where l.store = s.id
) e;

comment on view livestore.store_sizes is 'How many events each store has, and what they take. Reads all events of the stores that are asked for';
comment on column livestore.store_sizes.store_id is 'The storeId of LiveStore clients';
comment on column livestore.store_sizes.events is 'How many events it has';
comment on column livestore.store_sizes.bytes is 'What they take in the table and its primary key, estimated from their columns as they are stored';
comment on column livestore.store_sizes.first_event_at is 'The createdAt of the oldest event; null without events';
comment on column livestore.store_sizes.last_event_at is 'The createdAt of the newest event; null without events';
comment on column livestore.store_sizes.own_table is 'Whether it has a dedicated table';

create view livestore.daily_growth as
select (l."createdAt" at time zone 'UTC')::date as day, count(*) as events, count(distinct l.store) as stores,
    sum(
        72 + 28 + pg_column_size(l.name) + coalesce(pg_column_size(l.args), 0) + pg_column_size(l."clientId") + pg_column_size(l."sessionId")
    )::bigint as bytes
from livestore.eventlog_1 l
group by 1;

comment on view livestore.daily_growth is 'How many events each day has brought, of those that are still there. Reads all events';
comment on column livestore.daily_growth.day is 'In UTC';
comment on column livestore.daily_growth.events is 'How many events of this day there are';
comment on column livestore.daily_growth.stores is 'In how many stores';
comment on column livestore.daily_growth.bytes is 'What they take, as in livestore.store_sizes';
