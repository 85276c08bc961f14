-- Reading args. The bodies are parsed here, and not with the search_path of whoever uses them; they have no settings, so that queries
-- and indexes contain the expression itself.
create or replace function livestore._readable(args json)
returns json
language sql
immutable
strict
parallel safe
-- An escaped backslash gets its other form first, so that what follows it is not taken for an escape.
return pg_catalog.regexp_replace(
    pg_catalog.regexp_replace(
        pg_catalog.replace(pg_catalog.replace(args::pg_catalog.text, E'\\\\', E'\\u005c'), E'\\u0000', E'\\ufffd'),
        E'\\\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\\\u[dD][c-fC-F][0-9a-fA-F]{2})', E'\\ufffd', 'g'
    ),
    E'(?<!\\\\u[dD][89abAB][0-9a-fA-F]{2})\\\\u[dD][c-fC-F][0-9a-fA-F]{2}', E'\\ufffd', 'g'
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
