-- The shop in Postgres. Run it once, as a superuser or, on managed Postgres, as the role that has installed livestore_sync and is a member of
-- livestore_admin: psql "$DATABASE_URL" -f schema.sql
-- Another address for the webhook: psql "$DATABASE_URL" -v receiver=https://example.com/hooks -f schema.sql
\set ON_ERROR_STOP on
\if :{?receiver}
\else
    \set receiver http://127.0.0.1:4000/hooks
\endif

-- If something is missing, nothing is left behind.
begin;
create schema shop;

-- 1. A hook refuses an order without a positive quantity. It runs before the event is stored.
create function shop.check_order() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    quantity numeric;
begin
    begin
        if json_typeof(new.args->'quantity') = 'number' then
            quantity := (new.args->>'quantity')::numeric;
        end if;
    exception when others then
        -- Postgres cannot read all JSON: \u0000 in a text is an error, for example. Such an order counts as one without a quantity.
        quantity := null;
    end;
    if quantity > 0 then
        return new;
    end if;
    raise exception 'the quantity of an order must be a positive number';
end
$$;

-- The log belongs to livestore_owner. A superuser needs neither the grant nor the revoke.
grant livestore_owner to current_user;
create trigger check_order before insert on livestore.eventlog_1
    for each row when (new.name = 'orderPlaced') execute function shop.check_order();
revoke livestore_owner from current_user;

-- 2. A handler keeps a table of all orders of all stores. It runs after the commit, once for each event.
create table shop.orders (
    store_id text,
    order_id text,
    product text not null,
    quantity numeric not null check (quantity > 0),
    status text not null default 'placed',
    placed_at timestamptz not null,
    primary key (store_id, order_id)
);

create function shop.project(event livestore.polled_event) returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    -- Changes of a store have no name, and come whatever names a subscription lists. A move leaves the events as they are.
    if event.change in ('reset', 'drop') then
        delete from shop.orders where store_id = event.store_id;
    elsif event.name = 'orderPlaced' then
        insert into shop.orders (store_id, order_id, product, quantity, placed_at)
        values (
            event.store_id, event.args->>'id', event.args->>'product', (event.args->>'quantity')::numeric, event.created_at
        )
        on conflict do nothing;
    elsif event.name = 'orderShipped' then
        update shop.orders set status = 'shipped' where store_id = event.store_id and order_id = event.args->>'id';
    end if;
exception when data_exception or integrity_constraint_violation or program_limit_exceeded then
    -- The args describe no order, and never will. All other errors are raised, so that the event is handled again.
    raise warning 'shop.project ignores event % of store %: %', event.seq_num, event.store_id, sqlerrm;
end
$$;

-- The handler runs with the rights of its owner, a role that owns nothing else. Sidecars (livestore_writer) may call it.
select 'create role shop_owner' where not exists (select from pg_roles where rolname = 'shop_owner') \gexec
revoke execute on function shop.project(livestore.polled_event) from public;
grant execute on function shop.project(livestore.polled_event) to livestore_writer;
grant usage on schema shop to shop_owner, livestore_writer;
-- To change an owner takes membership in the new owner's role, which needs CREATE on the schema. Both are only for that.
grant create on schema shop to shop_owner;
grant shop_owner to current_user;
alter table shop.orders owner to shop_owner;
alter function shop.project(livestore.polled_event) owner to shop_owner;
grant select on shop.orders to current_user;
revoke shop_owner from current_user;
revoke create on schema shop from shop_owner;
commit;

-- Commits wait for the transaction that subscribes: each of these statements is a transaction of its own.
select livestore.subscribe(
    'orders', array['orderPlaced', 'orderShipped'], start => 'beginning', partitions => 4,
    handler => 'shop.project(livestore.polled_event)'
);

-- 3. A webhook sends each order that is placed from now on to receiver.ts.
select livestore.subscribe('order-mails', array['orderPlaced'], start => 'now', url => :'receiver');
