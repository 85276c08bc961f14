-- Each function of the extension that is for one store has two forms here: one by PL/Proxy, which calls it on the shard, and around it
-- one with the same name and arguments as there, which raises the errors of the shard as they are. PL/Proxy reads the user mapping of the role
-- that runs the function, so that these run with the rights of their owner.
create or replace function livestore._push(store_id text, events json, backend_id text)
returns bigint
language plproxy
as $$
    cluster 'livestore_shards';
    run on livestore._route(store_id);
    target livestore.push;
$$;

comment on function livestore._push(text, json, text) is 'Internal: livestore.push on the shard of the store';

create or replace function livestore.push(store_id text, events json, backend_id text default null)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    state text;
    message text;
    detail text;
    hint text;
begin
    return livestore._push($1, $2, $3);
exception when others then
    get stacked diagnostics state = returned_sqlstate, message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    perform livestore._raise_as_on_shard(state, message, detail, hint);
    raise;
end
$$;

comment on function livestore.push(text, json, text) is
'livestore.push on the shard of the store. This is a transaction of its own on the shard: a rollback at the front does not undo it, the events stay';

create or replace function livestore._commit(store_id text, name text, args json, client_id text, session_id text, expected_head bigint, key text)
returns bigint
language plproxy
as $$
    cluster 'livestore_shards';
    run on livestore._route(store_id);
    target livestore.commit;
$$;

comment on function livestore._commit(text, text, json, text, text, bigint, text) is 'Internal: livestore.commit on the shard of the store';

create or replace function livestore.commit(store_id text, name text, args json default null, client_id text default 'server', session_id text default 'sql', expected_head bigint default null, key text default null)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    state text;
    message text;
    detail text;
    hint text;
begin
    return livestore._commit($1, $2, $3, $4, $5, $6, $7);
exception when others then
    get stacked diagnostics state = returned_sqlstate, message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    perform livestore._raise_as_on_shard(state, message, detail, hint);
    raise;
end
$$;

comment on function livestore.commit(text, text, json, text, text, bigint, text) is
'livestore.commit on the shard of the store. This is a transaction of its own on the shard: a rollback at the front does not undo it, the event stays. With a key, a repeat commits nothing';

create or replace function livestore.commit(store_id text, name text, args text, client_id text default 'server', session_id text default 'sql', expected_head bigint default null, key text default null)
returns bigint
language sql
set search_path = pg_catalog, pg_temp
as $$
    select livestore.commit(store_id, name, args::json, client_id, session_id, expected_head, key)
$$;

comment on function livestore.commit(text, text, text, text, text, bigint, text) is 'livestore.commit with args as text';

create or replace function livestore.commit(store_id text, name text, args jsonb, client_id text default 'server', session_id text default 'sql', expected_head bigint default null, key text default null)
returns bigint
language sql
set search_path = pg_catalog, pg_temp
as $$
    select livestore.commit(store_id, name, args::json, client_id, session_id, expected_head, key)
$$;

comment on function livestore.commit(text, text, jsonb, text, text, bigint, text) is 'livestore.commit with args as jsonb';

create or replace function livestore._pull(store_id text, after bigint, max_events integer)
returns setof livestore.event
language plproxy
as $$
    cluster 'livestore_shards';
    run on livestore._route(store_id);
    target livestore.pull;
$$;

comment on function livestore._pull(text, bigint, integer) is 'Internal: livestore.pull on the shard of the store';

create or replace function livestore.pull(store_id text, after bigint default 0, max_events integer default 100)
returns setof livestore.event
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    state text;
    message text;
    detail text;
    hint text;
begin
    return query select * from livestore._pull($1, $2, $3);
exception when others then
    get stacked diagnostics state = returned_sqlstate, message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    perform livestore._raise_as_on_shard(state, message, detail, hint);
    raise;
end
$$;

comment on function livestore.pull(text, bigint, integer) is
'livestore.pull on the shard of the store';

create or replace function livestore._events(store_id text)
returns setof livestore.event
language plproxy
as $$
    cluster 'livestore_shards';
    run on livestore._route(store_id);
    select * from livestore.pull(store_id, 0, 2147483647);
$$;

comment on function livestore._events(text) is 'Internal: livestore.events on the shard of the store';

create or replace function livestore.events(store_id text)
returns setof livestore.event
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    state text;
    message text;
    detail text;
    hint text;
begin
    return query select * from livestore._events($1);
exception when others then
    get stacked diagnostics state = returned_sqlstate, message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    perform livestore._raise_as_on_shard(state, message, detail, hint);
    raise;
end
$$;

comment on function livestore.events(text) is
'All events of a store, in order. livestore.events, which shows those of all stores, is on each shard';

create or replace function livestore._head(store_id text)
returns bigint
language plproxy
as $$
    cluster 'livestore_shards';
    run on livestore._route(store_id);
    target livestore.head;
$$;

comment on function livestore._head(text) is 'Internal: livestore.head on the shard of the store';

create or replace function livestore.head(store_id text)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    state text;
    message text;
    detail text;
    hint text;
begin
    return livestore._head($1);
exception when others then
    get stacked diagnostics state = returned_sqlstate, message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    perform livestore._raise_as_on_shard(state, message, detail, hint);
    raise;
end
$$;

comment on function livestore.head(text) is
'livestore.head on the shard of the store';

create or replace function livestore._backend_id(store_id text)
returns text
language plproxy
as $$
    cluster 'livestore_shards';
    run on livestore._route(store_id);
    target livestore.backend_id;
$$;

comment on function livestore._backend_id(text) is 'Internal: livestore.backend_id on the shard of the store';

create or replace function livestore.backend_id(store_id text)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    state text;
    message text;
    detail text;
    hint text;
begin
    return livestore._backend_id($1);
exception when others then
    get stacked diagnostics state = returned_sqlstate, message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    perform livestore._raise_as_on_shard(state, message, detail, hint);
    raise;
end
$$;

comment on function livestore.backend_id(text) is
'livestore.backend_id on the shard of the store';

create or replace function livestore._create_store(store_id text, own_table boolean)
returns text
language plproxy
as $$
    cluster 'livestore_shards';
    run on livestore._route(store_id);
    select livestore.create_store(store_id, own_table)::text as create_store;
$$;

comment on function livestore._create_store(text, boolean) is 'Internal: livestore.create_store on the shard of the store';

create or replace function livestore.create_store(store_id text, own_table boolean default false)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    state text;
    message text;
    detail text;
    hint text;
begin
    return livestore._create_store($1, $2);
exception when others then
    get stacked diagnostics state = returned_sqlstate, message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    perform livestore._raise_as_on_shard(state, message, detail, hint);
    raise;
end
$$;

comment on function livestore.create_store(text, boolean) is
'livestore.create_store on the shard of the store; returns the name that the table of its events has there. This is a transaction of its own on the shard: a rollback at the front does not undo it';

create or replace function livestore._reset_store(store_id text)
returns text
language plproxy
as $$
    cluster 'livestore_shards';
    run on livestore._route(store_id);
    target livestore.reset_store;
$$;

comment on function livestore._reset_store(text) is 'Internal: livestore.reset_store on the shard of the store';

create or replace function livestore.reset_store(store_id text)
returns text
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    state text;
    message text;
    detail text;
    hint text;
begin
    return livestore._reset_store($1);
exception when others then
    get stacked diagnostics state = returned_sqlstate, message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    perform livestore._raise_as_on_shard(state, message, detail, hint);
    raise;
end
$$;

comment on function livestore.reset_store(text) is
'livestore.reset_store on the shard of the store. This is a transaction of its own on the shard: a rollback at the front does not undo it';

create or replace function livestore._drop_store(store_id text)
returns void
language plproxy
as $$
    cluster 'livestore_shards';
    run on livestore._route(store_id);
    select livestore.drop_store(store_id) as drop_store;
$$;

comment on function livestore._drop_store(text) is 'Internal: livestore.drop_store on the shard of the store';

create or replace function livestore.drop_store(store_id text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    state text;
    message text;
    detail text;
    hint text;
begin
    perform livestore._drop_store($1);
exception when others then
    get stacked diagnostics state = returned_sqlstate, message = message_text, detail = pg_exception_detail, hint = pg_exception_hint;
    perform livestore._raise_as_on_shard(state, message, detail, hint);
    raise;
end
$$;

comment on function livestore.drop_store(text) is
'livestore.drop_store on the shard of the store. This is a transaction of its own on the shard: a rollback at the front does not undo it';
