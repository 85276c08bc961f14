-- Functions that read JSON without changing its bytes. Postgres' json functions keep the text of a value, but decode escapes
-- in strings, and fail at those that it cannot represent (\u0000, half a UTF-16 pair). So backslashes are first replaced by
-- the private-use character U+E000 and a letter; U+E000 itself becomes U+E000 and "a". The code has no backslashes in
-- literals, because standard_conforming_strings may be off.
create or replace function livestore._hide_escapes(value json)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select replace(replace(replace(replace(
        value::text, chr(57344), chr(57344) || 'a'), chr(92) || chr(92), chr(57344) || 'b'), chr(92) || '"', chr(57344) || 'q'),
        chr(92), chr(57344) || 'e')
$$;

comment on function livestore._hide_escapes(json) is
'Internal: JSON in which each backslash, and each quote that is escaped, is U+E000 and a letter. Fails for what is not JSON';

create or replace function livestore._show_escapes(value text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select replace(replace(replace(replace(
        value, chr(57344) || 'e', chr(92)), chr(57344) || 'q', chr(92) || '"'), chr(57344) || 'b', chr(92) || chr(92)),
        chr(57344) || 'a', chr(57344))
$$;

comment on function livestore._show_escapes(text) is 'Internal: what livestore._hide_escapes was given';

create or replace function livestore._decode_string(value text)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    hidden text;
    escape constant text := chr(57344) || 'eu';
begin
    if left(value, 1) <> '"' then
        return null;
    end if;
    if strpos(value, chr(92)) = 0 then
        return btrim(value, '"');
    end if;
    hidden := livestore._hide_escapes(value::json);
    -- Two halves of a UTF-16 pair are a character. One of them alone is none.
    if regexp_replace(hidden, escape || '[dD][89abAB]..' || escape || '[dD][c-fC-F]..', '', 'g') ~ (escape || '[dD][89a-fA-F]') then
        return null;
    end if;
    -- A text of Postgres' cannot contain U+0000: the caller asks livestore._has_nul.
    return livestore._show_escapes(replace(hidden, escape || '0000', '0'))::json #>> '{}';
end
$$;

comment on function livestore._decode_string(text) is
'Internal: the text that a JSON string means; null for another value, and for a string with half a UTF-16 pair';

create or replace function livestore._has_nul(value text)
returns boolean
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select strpos(livestore._hide_escapes(value::json), chr(57344) || 'eu0000') > 0
$$;

comment on function livestore._has_nul(text) is 'Internal: whether a JSON value has the character U+0000 in a string';

create or replace function livestore._json_fields(object text)
returns table (name text, value text)
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select livestore._decode_string(livestore._show_escapes(to_json(f.key)::text)), livestore._show_escapes(f.value::text)
    from json_each(livestore._hide_escapes(object::json)::json) f
$$;

comment on function livestore._json_fields(text) is
'Internal: the fields of a JSON object in their order, repeated ones too, with their values as they are written; a name that has half a UTF-16 pair is null';

create or replace function livestore._nests_deeper(value text, max_levels integer)
returns boolean
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    brackets text;
begin
    -- Most values are too short, or have too few brackets.
    if octet_length(value) <= 2 * max_levels or octet_length(value) - octet_length(translate(value, '[{', '')) <= max_levels then
        return false;
    end if;
    brackets := translate(
        regexp_replace(regexp_replace(livestore._hide_escapes(value::json), '"[^"]*"', '', 'g'), '[^][}{]+', '', 'g'), '{}', '[]'
    );
    for level in 1..max_levels loop
        exit when brackets = '';
        brackets := replace(brackets, '[]', '');
    end loop;
    return brackets <> '';
end
$$;

comment on function livestore._nests_deeper(text, integer) is
'Internal: whether a JSON value has more arrays and objects around one of its values';
