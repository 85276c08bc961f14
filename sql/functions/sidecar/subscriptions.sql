create or replace function livestore.served_subscriptions()
returns table (subscription text, url text)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select s.name, s.url from livestore.subscribers s where s.handler is not null or s.url is not null order by s.name collate "C"
$$;

comment on function livestore.served_subscriptions() is
'The subscriptions that sidecars serve: those with a url, where they send the events, and those with a handler (url: null), which livestore.run_subscription calls. What the sidecar uses';

-- security definer: the seed in livestore.instance is nobody else's to read.
create or replace function livestore.database_life()
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select livestore._make_backend_id('life ' || i.seed) from livestore.instance i order by i.created_at limit 1
$$;

comment on function livestore.database_life() is
'Tells positions of the commit log from those of the same database before a restore: livestore.renew_backend_ids changes it. What the sidecar uses';

-- volatile: after livestore.poll in one query, it sees what that has seen.
create or replace function livestore.subscription_life(subscription text)
returns text
language sql
volatile
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select livestore._make_backend_id(concat_ws(' ', livestore.database_life(), s.name, extract(epoch from s.started_at)))
    from livestore.subscribers s where s.name = subscription
$$;

comment on function livestore.subscription_life(text) is
'Tells the events that a subscription gives out from those that it gave out before it was rebuilt, made again, or restored with the database. What the sidecar uses';
