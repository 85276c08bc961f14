-- Hash.string of npm's effect, with which LiveStore shortens names: over UTF-16 units from the last to the first, in 32 bits.
create function livestore.hash_string(string text)
returns integer
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    hash bigint := 5381;
    code integer;
    unit integer;
begin
    for position in reverse char_length(string)..1 loop
        code := ascii(substr(string, position, 1));
        foreach unit in array case
            when code < 65536 then array[code]
            else array[56320 + (code - 65536) % 1024, 55296 + (code - 65536) / 1024]
        end loop
            hash := (hash * 33 # unit) & 4294967295;
            hash := hash - case when hash >= 2147483648 then 4294967296 else 0 end;
        end loop;
    end loop;
    hash := (hash & 3221225471) | (((hash & 4294967295) >> 1) & 1073741824);
    return hash - case when hash >= 2147483648 then 4294967296 else 0 end;
end
$$;

comment on function livestore.hash_string(text) is 'Internal: Hash.string of npm''s effect';

-- The name that toTableName of @livestore/sync-electric makes of a store id: JavaScript replaces UTF-16 units, so a character outside
-- the basic plane becomes two underscores. 52: with the 11 characters before it a name has the 63 that Postgres allows.
create function livestore.table_suffix(store_id text)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    escaped text := regexp_replace(regexp_replace(store_id, '[' || chr(65536) || '-' || chr(1114111) || ']', '__', 'g'), '[^a-zA-Z0-9_]', '_', 'g');
begin
    return case when length(escaped) <= 52 then escaped else 'hash_' || livestore.hash_string(store_id) end;
end
$$;

comment on function livestore.table_suffix(text) is
'What follows eventlog_<version>_ in the name of a store''s table as LiveStore''s Electric provider derives it: characters outside [a-zA-Z0-9_] replaced, LiveStore''s hash if that is too long. Several stores may have the same';

-- makeS2StreamName of @livestore/sync-s2, which works on UTF-16 units, too.
create function livestore.stream_name(store_id text)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return left(regexp_replace(regexp_replace(store_id, '[' || chr(65536) || '-' || chr(1114111) || ']', '--', 'g'), '[^a-zA-Z0-9_-]', '-', 'g'), 100);
end
$$;

comment on function livestore.stream_name(text) is
'The name of the S2 stream that LiveStore derives from a store id: 100 characters, those outside [a-zA-Z0-9_-] replaced. Several stores may have the same';
