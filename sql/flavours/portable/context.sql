-- The context of a request: what a hook can read of the push that it runs for. It is in a table that only the owner can read, and not in
-- a setting, which other code that runs in the push could read, clear, and set again in the next push. The table is not logged, so it
-- cannot be read on a standby. There, no transaction has a number.
create or replace function livestore._enter_context(store_id text, request text)
returns integer
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    depth integer;
begin
    -- A push by a hook that passes no context inherits the one of the push that the hook runs for.
    insert into livestore.hook_contexts as n (depth, store_id, request)
    select coalesce(max(c.depth), 0) + 1, $1, coalesce($2, (array_agg(c.request order by c.depth desc))[1])
    from livestore.hook_contexts c
    where c.transaction = pg_current_xact_id()
    returning n.depth into depth;
    return depth;
end
$$;

comment on function livestore._enter_context(text, text) is
'Internal: makes this the context of the hooks that run next, and returns its depth: a hook may push, too';

create or replace function livestore._leave_context(depth integer)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
begin
    delete from livestore.hook_contexts c where c.transaction = pg_current_xact_id() and c.depth >= _leave_context.depth;
end
$$;

comment on function livestore._leave_context(integer) is 'Internal: ends a context, and returns to the one around it';

create or replace function livestore._hook_context(out store_id text, out request text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
begin
    if pg_current_xact_id_if_assigned() is null then
        return;
    end if;
    select c.store_id, c.request into store_id, request
    from livestore.hook_contexts c
    where c.transaction = pg_current_xact_id_if_assigned()
    order by c.depth desc limit 1;
end
$$;

comment on function livestore._hook_context() is 'Internal: the store and the context of the request of the push that a hook runs for; nulls elsewhere';

create or replace function livestore.current_store_id()
returns text
language sql
stable
strict
security definer
set search_path = pg_catalog, pg_temp
as $$
    select c.store_id from livestore._hook_context() c
$$;

comment on function livestore.current_store_id() is
'In a hook: the store that is pushed to. Elsewhere null';

create or replace function livestore._context_value(key text)
returns text
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    request constant text := (livestore._hook_context()).request;
    is_object boolean;
    value text;
begin
    if request is null then
        return null;
    end if;
    begin
        select count(f.name) = count(*), (array_agg(f.value order by f.n desc) filter (where f.name = key))[1]
        into is_object, value
        from livestore._json_fields(request) with ordinality f(name, value, n);
    exception when invalid_text_representation or invalid_parameter_value or statement_too_complex then
        is_object := false;
    end;
    if not is_object then
        raise exception 'the context of the request is not a JSON object' using errcode = 'invalid_text_representation';
    end if;
    return case when key is null then request else value end;
end
$$;

comment on function livestore._context_value(text) is
'Internal: a value of livestore.current_context() as it was passed to livestore.push_batch; all of it if key is null';
