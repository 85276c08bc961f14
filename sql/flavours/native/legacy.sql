-- For sidecars of version 0.2, which are updated after the extension. To be removed with version 0.5.
create or replace function livestore._legacy_context(payload text, headers text, claims text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select case when num_nulls(payload, headers, claims) < 3 then
        '{' || concat_ws(
            ',', '"payload":' || payload::json::text, '"headers":' || headers::json::text, '"claims":' || claims::json::text
        ) || '}'
    end
$$;

comment on function livestore._legacy_context(text, text, text) is 'Internal: the context of a request, from what sidecars of version 0.2 say';

create or replace function livestore.push_batch(
    store_ids text[], batches text[], backend_ids text[], source text, payloads text[], headers text[], claims text[]
)
returns setof livestore.push_result
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if cardinality(payloads) <> cardinality(store_ids) or cardinality(headers) <> cardinality(store_ids)
        or cardinality(claims) <> cardinality(store_ids) then
        raise exception 'payloads, headers and claims must have one element for each push, or be null'
            using errcode = 'array_subscript_error';
    end if;
    return query
    select * from livestore.push_batch(
        store_ids, batches, backend_ids, source,
        array(
            select livestore._legacy_context(payloads[p.push], headers[p.push], claims[p.push])
            from generate_series(1, cardinality(store_ids)) p(push) order by p.push
        )
    );
end
$$;

comment on function livestore.push_batch(text[], text[], text[], text, text[], text[], text[]) is
'livestore.push_batch for sidecars of version 0.2: payloads, headers and claims of each request, as JSON texts or null, in place of contexts';

create or replace function livestore.relay_append(
    store_id text, names text[], args text[], client_ids text[], session_ids text[], event_numbers text[], timestamps text[],
    payload text, headers text, claims text
)
returns bigint
language sql
security definer
set search_path = pg_catalog, pg_temp
as $$
    select livestore.relay_append(
        store_id, names, args, client_ids, session_ids, event_numbers, timestamps,
        livestore._legacy_context(payload, headers, claims)
    )
$$;

comment on function livestore.relay_append(text, text[], text[], text[], text[], text[], text[], text, text, text) is
'livestore.relay_append for the peer relay of sidecars of version 0.2: payload, headers and claims of the request in place of its context';
