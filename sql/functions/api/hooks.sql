create or replace function livestore.current_context()
returns json
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select livestore._context_value(null::text)::json
$$;

comment on function livestore.current_context() is
'In a hook: what is known of the request, a JSON object. The sidecar writes payload, headers, claims, dialect and subject, as far as there are any. Null for pushes from SQL';

create or replace function livestore.current_payload()
returns json
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select livestore._context_value('payload')::json
$$;

comment on function livestore.current_payload() is
'In a hook: the sync payload of the client that pushes, as it sent it; null if it has none, and for pushes from SQL';

create or replace function livestore.current_headers()
returns json
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select livestore._context_value('headers')::json
$$;

comment on function livestore.current_headers() is
'In a hook: the request headers that the sidecar forwards (--forward-headers), a JSON object with names in lower case; null if there are none, and for pushes from SQL';

create or replace function livestore.current_claims()
returns json
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select livestore._context_value('claims')::json
$$;

comment on function livestore.current_claims() is
'In a hook: what the token of the client that pushes says, a JSON object, sub for one; null without authentication, and for pushes from SQL';
