-- The context of a request: what a hook can read of the push that it runs for. It is in a setting that lasts for the
-- transaction. Since any role can make settings, the value is signed for this transaction with a key that only the owner can
-- read.
create or replace function livestore._sign_context(context text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    -- Two nested hashes, similar to HMAC. With one, text could be appended to a signed context without the key (length
    -- extension).
    select encode(sha256(convert_to(
        k.key || encode(sha256(convert_to(k.key || pg_current_xact_id_if_assigned()::text || ':' || context, 'UTF8')), 'hex'), 'UTF8'
    )), 'hex')
    from livestore.context_key k
$$;

comment on function livestore._sign_context(text) is 'Internal: the signature of a context in this transaction';

create or replace function livestore._enter_context(store_id text, request text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    -- A push by a hook that passes no context inherits the one of the push that the hook runs for.
    known constant text := coalesce(request, (livestore._verified_context()).request);
    context constant text := case when known is null then '-' else '+' end || char_length(store_id) || ':' || store_id || coalesce(known, '');
begin
    perform pg_current_xact_id();
    perform set_config('livestore.context', livestore._sign_context(context) || context, true);
end
$$;

comment on function livestore._enter_context(text, text) is 'Internal: makes this the context of the hooks that run next';

create or replace function livestore._verified_context(out store_id text, out request text)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    signed constant text := nullif(current_setting('livestore.context', true), '');
    context constant text := substr(signed, 65);
    length integer;
begin
    -- Null outside of a push, too.
    if livestore._sign_context(context) = left(signed, 64) then
        length := substr(split_part(context, ':', 1), 2)::integer;
        store_id := substr(context, strpos(context, ':') + 1, length);
        if left(context, 1) = '+' then
            request := substr(context, strpos(context, ':') + 1 + length);
        end if;
    end if;
end
$$;

comment on function livestore._verified_context() is 'Internal: the store and the context of the request of the push that a hook runs for; nulls elsewhere';

create or replace function livestore.current_store_id()
returns text
language sql
stable
strict
security definer
set search_path = pg_catalog, pg_temp
as $$
    select c.store_id from livestore._verified_context() c
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
    request constant text := (livestore._verified_context()).request;
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
