create or replace function livestore.handled_subscriptions()
returns setof text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select s.name from livestore.subscribers s where s.handler is not null order by s.name collate "C"
$$;

comment on function livestore.handled_subscriptions() is
'The subscriptions that livestore.run_subscription has a handler for. What the sidecar uses';
