-- Reading args. The bodies are parsed here, and not with the search_path of whoever uses them; they have no settings, so that queries
-- and indexes contain the expression itself.
create or replace function livestore._readable(args json)
returns json
language sql
immutable
strict
parallel safe
-- An escaped backslash gets its other form first, so that what follows it is not taken for an escape. The second half of a pair is marked
-- by \x, which JSON does not have, and all halves without this mark are replaced. A look-behind would take time quadratic in their number.
return pg_catalog.replace(
    pg_catalog.regexp_replace(
        pg_catalog.regexp_replace(
            pg_catalog.regexp_replace(
                pg_catalog.replace(pg_catalog.replace(args::pg_catalog.text, E'\\\\', E'\\u005c'), E'\\u0000', E'\\ufffd'),
                E'(\\\\u[dD][89abAB][0-9a-fA-F]{2})\\\\u([dD][c-fC-F][0-9a-fA-F]{2})', E'\\1\\\\x\\2', 'g'
            ),
            E'\\\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\\\x)', E'\\ufffd', 'g'
        ),
        E'\\\\u[dD][c-fC-F][0-9a-fA-F]{2}', E'\\ufffd', 'g'
    ),
    E'\\x', E'\\u'
)::pg_catalog.json;

comment on function livestore._readable(json) is
'Internal: args with U+FFFD in the place of what Postgres cannot read as text, which are U+0000 and lone surrogates';

create or replace function livestore.field(args json, variadic path text[])
returns text
language sql
immutable
parallel safe
return case
    when pg_catalog.strpos(args::pg_catalog.text, E'\\u') operator(pg_catalog.=) 0 then args operator(pg_catalog.#>>) path
    else livestore._readable(args) operator(pg_catalog.#>>) path
end;

comment on function livestore.field(json, text[]) is
'The text of a field of args: livestore.field(args, ''address'', ''city''). Null if there is none. Unlike args->>, it never raises an error: in the place of U+0000 and of lone surrogates, which JSON allows and Postgres cannot read, it has U+FFFD. Parallel safe, and for indexes';

create or replace function livestore.json_field(args json, variadic path text[])
returns json
language sql
immutable
parallel safe
return case
    when pg_catalog.strpos(args::pg_catalog.text, E'\\u') operator(pg_catalog.=) 0 then args operator(pg_catalog.#>) path
    else livestore._readable(args) operator(pg_catalog.#>) path
end;

comment on function livestore.json_field(json, text[]) is
'livestore.field for objects, arrays and whatever else: the JSON of a field of args. Unlike args->, it never raises an error';

-- Casts of what livestore.field returns. Those of Postgres raise errors, and a function that catches them could not run in parallel.
create or replace function livestore.try_boolean(value text)
returns boolean
language sql
immutable
parallel safe
return case
    when value operator(pg_catalog.=) 'true' then true
    when value operator(pg_catalog.=) 'false' then false
end;

comment on function livestore.try_boolean(text) is 'The boolean that this JSON is; null if it is something else';

-- The next two are in PL/pgSQL, since Postgres does not put what uses its argument twice into the query, and calls to SQL take five times as long. A
-- setting of search_path would double the rest: all names are qualified instead.
create or replace function livestore.try_bigint(value text)
returns bigint
language plpgsql
immutable
parallel safe
as $$
begin
    return case
        when pg_catalog.length(value) operator(pg_catalog.<=) 18 and value operator(pg_catalog.~) '^-?[0-9]+$' then value::pg_catalog.int8
        when pg_catalog.length(value) operator(pg_catalog.<=) 20 and value operator(pg_catalog.~) '^-?[0-9]+[.]0+$'
            then pg_catalog.split_part(value, '.', 1)::pg_catalog.int8
    end;
end
$$;

comment on function livestore.try_bigint(text) is 'The whole number that this JSON is, of at most 17 digits; null if it is something else';

create or replace function livestore.try_double(value text)
returns double precision
language plpgsql
immutable
parallel safe
as $$
begin
    return case
        when pg_catalog.length(value) operator(pg_catalog.<=) 20 and value operator(pg_catalog.~) '^-?[0-9]+([.][0-9]+)?$'
            then value::pg_catalog.float8
        when pg_catalog.length(value) operator(pg_catalog.<=) 400
            and value operator(pg_catalog.~) '^-?[0-9]+([.][0-9]+)?([eE][-+]?[0-9]{1,3})?$'
        then case
            when value::pg_catalog.numeric operator(pg_catalog.=) 0::pg_catalog.numeric
                or pg_catalog.abs(value::pg_catalog.numeric) operator(pg_catalog.>) 2.3e-308::pg_catalog.numeric
                and pg_catalog.abs(value::pg_catalog.numeric) operator(pg_catalog.<) 1.7976931348623157e308::pg_catalog.numeric
            then value::pg_catalog.float8
        end
    end;
end
$$;

comment on function livestore.try_double(text) is 'The number that this JSON is; null if it is something else, or not between 2.3e-308 and 1.797e308';

create or replace function livestore.try_timestamptz(value text)
returns timestamptz
language sql
immutable
parallel safe
return case
    when value operator(pg_catalog.~) '^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,9})?Z$'
        and pg_catalog.left(value, 4) operator(pg_catalog.<>) '0000'
        -- The days of a month.
        and pg_catalog.substr(value, 9, 2) operator(pg_catalog.<=) case pg_catalog.substr(value, 6, 2)
            when '02' then case
                when pg_catalog.left(value, 4)::pg_catalog.int4 operator(pg_catalog.%) 4 operator(pg_catalog.=) 0 and (
                    pg_catalog.left(value, 4)::pg_catalog.int4 operator(pg_catalog.%) 100 operator(pg_catalog.<>) 0
                    or pg_catalog.left(value, 4)::pg_catalog.int4 operator(pg_catalog.%) 400 operator(pg_catalog.=) 0
                ) then '29'
                else '28'
            end
            when '04' then '30' when '06' then '30' when '09' then '30' when '11' then '30'
            else '31'
        end
        then pg_catalog.timezone('UTC', pg_catalog.make_timestamp(
            pg_catalog.left(value, 4)::pg_catalog.int4, pg_catalog.substr(value, 6, 2)::pg_catalog.int4,
            pg_catalog.substr(value, 9, 2)::pg_catalog.int4, pg_catalog.substr(value, 12, 2)::pg_catalog.int4,
            pg_catalog.substr(value, 15, 2)::pg_catalog.int4,
            pg_catalog.rtrim(pg_catalog.substr(value, 18), 'Z')::pg_catalog.float8
        ))
end;

comment on function livestore.try_timestamptz(text) is
'The time that this JSON is, as Date.toISOString writes it: 2026-01-31T12:00:00.000Z; null if it is something else';
