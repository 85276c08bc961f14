create or replace function livestore._check_commit(store_ids text[], name text, keys text[])
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    if store_ids is null or array_position(store_ids, null) is not null then
        raise exception 'an event needs a store' using errcode = 'invalid_parameter_value';
    end if;
    if name is null or name = '' then
        raise exception 'an event needs a name' using errcode = 'LS003',
            detail = json_build_object('index', 0, 'reason', 'the name is null or empty');
    end if;
    if exists (select from unnest(keys) k where octet_length(k) not between 1 and 1024) then
        raise exception 'a key has between 1 and 1024 bytes' using errcode = 'invalid_parameter_value';
    end if;
end
$$;

comment on function livestore._check_commit(text[], text, text[]) is 'Internal: checks what is common to all forms of livestore.commit';

-- A body that is parsed here, so that queries contain it: a call for each of many events takes longer than their insert.
create or replace function livestore._event_after(head bigint, name text, args json, client_id text, session_id text)
returns json
language sql
stable
-- As clients write it, without white space: the portable flavour reads that many times faster.
return pg_catalog.concat(
    '{"name":', coalesce(pg_catalog.to_json(name)::pg_catalog.text, 'null'),
    case when args is not null then pg_catalog.concat(',"args":', args::pg_catalog.text) end,
    ',"seqNum":', head operator(pg_catalog.+) 1, ',"parentSeqNum":', head,
    ',"clientId":', coalesce(pg_catalog.to_json(client_id)::pg_catalog.text, 'null'),
    ',"sessionId":', coalesce(pg_catalog.to_json(session_id)::pg_catalog.text, 'null'), '}'
)::pg_catalog.json;

comment on function livestore._event_after(bigint, text, json, text, text) is 'Internal: an event as clients push it, behind a head';
