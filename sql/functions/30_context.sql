-- The context of a request: what a hook may know of who pushes. It is in settings of the transaction, which the functions
-- that append make for each push (livestore.push_batch).
create or replace function livestore.enter_context(store_id text, payload text, headers text, claims text)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    select set_config('livestore.store_id', store_id, true),
        set_config('livestore.payload', coalesce(payload, ''), true),
        set_config('livestore.headers', coalesce(headers, ''), true),
        set_config('livestore.claims', coalesce(claims, ''), true)
$$;

comment on function livestore.enter_context(text, text, text, text) is
'Internal: makes this the context of the hooks that run next. Payload, headers and claims are JSON or null';

create or replace function livestore.current_store_id()
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select nullif(current_setting('livestore.store_id', true), '')
$$;

comment on function livestore.current_store_id() is
'In a hook: the store that is pushed to. Elsewhere null';

create or replace function livestore.current_payload()
returns json
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select nullif(current_setting('livestore.payload', true), '')::json
$$;

comment on function livestore.current_payload() is
'In a hook: the sync payload of the client that pushes, as it sent it; null if it has none, and for pushes from SQL';

create or replace function livestore.current_headers()
returns json
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select nullif(current_setting('livestore.headers', true), '')::json
$$;

comment on function livestore.current_headers() is
'In a hook: the request headers that the sidecar forwards (--forward-headers), a JSON object with names in lower case; null if there are none, and for pushes from SQL';

create or replace function livestore.current_claims()
returns json
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select nullif(current_setting('livestore.claims', true), '')::json
$$;

comment on function livestore.current_claims() is
'In a hook: what the token of the client that pushes says, a JSON object, sub for one; null without authentication, and for pushes from SQL';
