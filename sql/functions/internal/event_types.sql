-- JSON Schema, as far as both drafts mean the same: draft-07 and 2020-12, which Effect's JSONSchema.make writes. In jsonb, which is what
-- a client makes of args: of two fields with one name the last one counts, and 1.0 is an integer.
create or replace function livestore._check_schema(schema jsonb, root jsonb, path text, is_negated boolean)
returns void
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    -- Those that say nothing of args, and those that are not checked: pattern and format would need the regular expressions of JavaScript.
    unchecked constant text[] := '{$schema,$id,$comment,title,description,default,examples,deprecated,readOnly,writeOnly,contentEncoding,contentMediaType,contentSchema,pattern,format}';
    flaw text;
    keyword record;
begin
    if jsonb_typeof(schema) = 'boolean' then
        return;
    elsif jsonb_typeof(schema) <> 'object' then
        flaw := 'a schema is an object, true or false';
    elsif schema ? '$ref' and (schema - unchecked) - '{$ref,$defs,definitions}'::text[] <> '{}' then
        flaw := 'drafts differ on keywords beside $ref: put both into allOf';
    elsif is_negated and schema ?| '{pattern,format,patternProperties,$ref}' then
        flaw := 'below not and oneOf, the keywords pattern, patternProperties, format and $ref cannot be used';
    end if;
    for keyword in
        select k.key, k.value, jsonb_typeof(k.value) as type from jsonb_each(case jsonb_typeof(schema) when 'object' then schema else '{}' end) k
        where k.key <> all (unchecked)
    loop
        exit when flaw is not null;
        case
            when keyword.key in ('enum', 'const') then
                if keyword.key = 'enum' and keyword.type <> 'array' then
                    flaw := 'enum is not an array';
                end if;
            when keyword.key = 'type' then
                if keyword.type not in ('string', 'array') or exists (
                    select from jsonb_array_elements(case keyword.type when 'array' then keyword.value else jsonb_build_array(keyword.value) end) t
                    where t.value not in ('"object"', '"array"', '"string"', '"number"', '"integer"', '"boolean"', '"null"')
                ) then
                    flaw := 'unknown type';
                end if;
            when keyword.key in ('minimum', 'maximum', 'exclusiveMinimum', 'exclusiveMaximum', 'multipleOf') then
                if keyword.type <> 'number' or keyword.key = 'multipleOf' and (keyword.value #>> '{}')::numeric <= 0 then
                    flaw := format('%s is not a number, or not greater than 0', keyword.key);
                end if;
            when keyword.key in ('minLength', 'maxLength', 'minItems', 'maxItems', 'minProperties', 'maxProperties') then
                if keyword.type <> 'number' or (keyword.value #>> '{}') !~ '^[0-9]{1,9}$' then
                    flaw := format('%s is not a whole number from 0 to 999999999', keyword.key);
                end if;
            when keyword.key = 'uniqueItems' then
                if keyword.type <> 'boolean' then
                    flaw := 'uniqueItems is not true or false';
                end if;
            when keyword.key = 'required' then
                if keyword.type <> 'array' or exists (
                    select from jsonb_array_elements(case keyword.type when 'array' then keyword.value else '[]' end) r
                    where jsonb_typeof(r.value) <> 'string'
                ) then
                    flaw := 'required is not an array of strings';
                end if;
            when keyword.key in ('properties', '$defs', 'definitions', 'patternProperties') then
                if keyword.type <> 'object' then
                    flaw := format('%s is not an object', keyword.key);
                else
                    perform livestore._check_schema(p.value, root, path || '/' || keyword.key || '/' || p.key, is_negated) from jsonb_each(keyword.value) p;
                end if;
            when keyword.key in ('anyOf', 'oneOf', 'allOf', 'prefixItems') or keyword.key = 'items' and keyword.type = 'array' then
                if keyword.type <> 'array' then
                    flaw := format('%s is not an array', keyword.key);
                else
                    perform livestore._check_schema(p.value, root, path || '/' || keyword.key || '/' || p.n - 1, is_negated or keyword.key = 'oneOf')
                    from jsonb_array_elements(keyword.value) with ordinality p(value, n);
                end if;
            when keyword.key in ('items', 'additionalItems', 'additionalProperties', 'propertyNames', 'not') then
                perform livestore._check_schema(keyword.value, root, path || '/' || keyword.key, is_negated or keyword.key = 'not');
            when keyword.key = '$ref' then
                -- To what is checked here, too.
                if root #> livestore._pointer(keyword.value) is null or keyword.value #>> '{}' !~ '^#(/([$]defs|definitions)/[^/]+)?$' then
                    flaw := '$ref does not name a part of this schema: it must be # or #/$defs/… or #/definitions/…';
                end if;
                for step in 1..100 loop
                    exit when root #> livestore._pointer(keyword.value) -> '$ref' is null;
                    keyword.value := root #> livestore._pointer(keyword.value) -> '$ref';
                    if step = 100 then
                        flaw := '$ref leads back to itself';
                    end if;
                end loop;
            else
                flaw := format('the keyword %s is not known here', to_json(left(keyword.key, 60)));
        end case;
    end loop;
    if flaw is not null then
        raise exception 'the schema cannot be used: at %, %', path, flaw
            using errcode = 'invalid_parameter_value', hint = 'docs/sql.md lists the keywords that are checked.';
    end if;
end
$$;

comment on function livestore._check_schema(jsonb, jsonb, text, boolean) is
'Internal: raises an error if this part of a schema, at a path of the whole one, uses what livestore._misfit does not check. is_negated: it is below not or oneOf, where what is not checked would refuse args that fit';

create or replace function livestore._pointer(reference jsonb)
returns text[]
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select case
        when reference = '"#"' then '{}'
        -- A JSON pointer in a URI.
        when jsonb_typeof(reference) = 'string' and left(reference #>> '{}', 2) = '#/' then (
            select array_agg(replace(replace(replace(s.step, '%25', '%'), '~1', '/'), '~0', '~') order by s.n)
            from unnest(string_to_array(substr(reference #>> '{}', 3), '/')) with ordinality s(step, n)
        )
    end
$$;

comment on function livestore._pointer(jsonb) is 'Internal: the path in a schema that a $ref means; null if it means another one';

-- A reason begins with where it is in the value, which the caller puts behind its own place.
create or replace function livestore._misfit(schema jsonb, subject jsonb, root jsonb, deadline timestamptz)
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    kind constant text := jsonb_typeof(subject);
    part record;
    reason text;
    keyword text;
    fitting integer;
begin
    -- A client decides by its args how long this takes, and all pushes wait for it.
    if clock_timestamp() > deadline then
        raise exception 'args cannot be checked in time' using errcode = 'LS000';
    elsif jsonb_typeof(schema) = 'boolean' then
        return case when schema = 'false' then ' must not be there' end;
    elsif schema ? '$ref' then
        return livestore._misfit(root #> livestore._pointer(schema -> '$ref'), subject, root, deadline);
    -- A few characters make a number of so many digits that to look at it takes long.
    elsif kind = 'number' and (
        subject not between '-1.8e308' and '1.8e308' or subject between '-1e-330' and '1e-330' and subject <> '0'
    ) then
        return ' is a number that JavaScript does not have';
    elsif schema ? 'type' and not (
        schema -> 'type' ? kind or kind = 'number' and schema -> 'type' ? 'integer' and (subject #>> '{}')::numeric % 1 = 0
    ) then
        return format(' is not of type %s', btrim((schema -> 'type')::text, '"'));
    elsif schema ? 'const' and subject <> schema -> 'const' then
        return ' is not the const of the schema';
    elsif schema ? 'enum' and not exists (select from jsonb_array_elements(schema -> 'enum') e where e.value = subject) then
        return ' is not in the enum of the schema';
    end if;
    if kind = 'object' then
        reason := livestore._misfit_of_object(schema, subject, root, deadline);
    elsif kind = 'array' then
        reason := livestore._misfit_of_array(schema, subject, root, deadline);
    elsif kind = 'string' and schema ?| '{minLength,maxLength}' then
        reason := livestore._misfit_of_size(schema, 'Length', char_length(subject #>> '{}'));
    elsif kind = 'number' and schema ?| '{minimum,maximum,exclusiveMinimum,exclusiveMaximum,multipleOf}' then
        reason := livestore._misfit_of_number(schema, (subject #>> '{}')::numeric);
    end if;
    if reason is not null or not schema ?| '{allOf,anyOf,oneOf,not}' then
        return reason;
    end if;
    for part in select s.value from jsonb_array_elements(schema -> 'allOf') s loop
        reason := livestore._misfit(part.value, subject, root, deadline);
        if reason is not null then
            return reason;
        end if;
    end loop;
    if schema ? 'not' and livestore._misfit(schema -> 'not', subject, root, deadline) is null then
        return ' fits what is under not';
    end if;
    foreach keyword in array array['anyOf', 'oneOf'] loop
        if schema ? keyword then
            fitting := 0;
            for part in select s.value from jsonb_array_elements(schema -> keyword) s loop
                fitting := fitting + (livestore._misfit(part.value, subject, root, deadline) is null)::integer;
                exit when fitting = 2 or fitting = 1 and keyword = 'anyOf';
            end loop;
            if fitting <> 1 then
                return format(' fits %s of %s', case fitting when 0 then 'none' else 'more than one' end, keyword);
            end if;
        end if;
    end loop;
    return null;
end
$$;

comment on function livestore._misfit(jsonb, jsonb, jsonb, timestamptz) is
'Internal: why a value does not fit a part of a schema that livestore._check_schema has passed; null if it fits. Raises LS000 after the deadline';

create or replace function livestore._misfit_of_number(schema jsonb, subject numeric)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return case
        when subject < (schema ->> 'minimum')::numeric then ' is less than ' || (schema ->> 'minimum')
        when subject > (schema ->> 'maximum')::numeric then ' is greater than ' || (schema ->> 'maximum')
        when subject <= (schema ->> 'exclusiveMinimum')::numeric then ' is not greater than ' || (schema ->> 'exclusiveMinimum')
        when subject >= (schema ->> 'exclusiveMaximum')::numeric then ' is not less than ' || (schema ->> 'exclusiveMaximum')
        when subject % (schema ->> 'multipleOf')::numeric <> 0 then ' is not a multiple of ' || (schema ->> 'multipleOf')
    end;
end
$$;

comment on function livestore._misfit_of_number(jsonb, numeric) is 'Internal: livestore._misfit for what a schema says of numbers';

create or replace function livestore._misfit_of_size(schema jsonb, sized text, size integer)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
begin
    return case
        when size < (schema ->> ('min' || sized))::integer then ' is shorter than ' || (schema ->> ('min' || sized))
        when size > (schema ->> ('max' || sized))::integer then ' is longer than ' || (schema ->> ('max' || sized))
    end;
end
$$;

comment on function livestore._misfit_of_size(jsonb, text, integer) is
'Internal: livestore._misfit for minLength and maxLength, minItems and maxItems, minProperties and maxProperties';

create or replace function livestore._misfit_of_array(schema jsonb, subject jsonb, root jsonb, deadline timestamptz)
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    -- The first items have schemas of their own, by prefixItems or, in draft-07, by items; the others have one for all.
    is_tuple constant boolean := coalesce(jsonb_typeof(schema -> 'items') = 'array', false);
    first constant jsonb := coalesce(case when is_tuple then schema -> 'items' else schema -> 'prefixItems' end, '[]');
    others constant jsonb := case when is_tuple then schema -> 'additionalItems' else schema -> 'items' end;
    part record;
    reason text := livestore._misfit_of_size(schema, 'Items', jsonb_array_length(subject));
begin
    if reason is null and schema -> 'uniqueItems' = 'true'
        and (select count(distinct e.value) <> count(*) from jsonb_array_elements(subject) e)
    then
        return ' has an item twice';
    end if;
    if reason is not null or others is null and first = '[]' then
        return reason;
    end if;
    for part in select e.value, e.n::integer - 1 as place from jsonb_array_elements(subject) with ordinality e(value, n) loop
        reason := livestore._misfit(coalesce(first -> part.place, others, 'true'), part.value, root, deadline);
        if reason is not null then
            return format('[%s]%s', part.place, reason);
        end if;
    end loop;
    return null;
end
$$;

comment on function livestore._misfit_of_array(jsonb, jsonb, jsonb, timestamptz) is 'Internal: livestore._misfit for what a schema says of arrays';

create or replace function livestore._misfit_of_object(schema jsonb, subject jsonb, root jsonb, deadline timestamptz)
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    properties constant jsonb := schema -> 'properties';
    required constant jsonb := schema -> 'required';
    -- Which names a pattern means is not checked.
    others constant jsonb := case when not schema ? 'patternProperties' then schema -> 'additionalProperties' end;
    names constant jsonb := schema -> 'propertyNames';
    name text;
    reason text;
begin
    if schema ?| '{minProperties,maxProperties}' then
        reason := livestore._misfit_of_size(schema, 'Properties', (select count(*)::integer from jsonb_object_keys(subject)));
        if reason is not null then
            return reason;
        end if;
    end if;
    for place in 0..coalesce(jsonb_array_length(required), 0) - 1 loop
        if not subject ? (required ->> place) then
            return livestore._name_in_path(required ->> place) || ' is missing';
        end if;
    end loop;
    -- Fields that tell the members of a union apart come first.
    for name in select k from jsonb_object_keys(subject) k order by not coalesce(properties -> k ?| '{const,enum}', false) loop
        reason := livestore._misfit(coalesce(properties -> name, others, 'true'), subject -> name, root, deadline);
        if reason is null and names is not null then
            reason := livestore._misfit(names, to_jsonb(name), root, deadline);
        end if;
        if reason is not null then
            -- Other names are somebody's content.
            return case when properties ? name then livestore._name_in_path(name) else '[unknown field]' end || reason;
        end if;
    end loop;
    return null;
end
$$;

comment on function livestore._misfit_of_object(jsonb, jsonb, jsonb, timestamptz) is 'Internal: livestore._misfit for what a schema says of objects';

create or replace function livestore._name_in_path(name text)
returns text
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    select case when name ~ '^[A-Za-z_][A-Za-z0-9_]{0,62}$' then '.' || name else format('[%s]', to_json(left(name, 63))) end
$$;

comment on function livestore._name_in_path(text) is 'Internal: the name of a property as a path has it';

create or replace function livestore._misfit_of_args(schema json, args json, deadline timestamptz)
returns text
language plpgsql
volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    root constant jsonb := schema;
begin
    if octet_length(args::text) > 262144 then
        return 'args cannot be checked: they are longer than 256 KiB';
    end if;
    return left(
        'args' || livestore._misfit(
            root, coalesce(case when strpos(args::text, E'\\u') = 0 then args else livestore._readable(args) end::jsonb, 'null'), root, deadline
        ), 1000
    );
exception
    when sqlstate 'LS000' then
        return 'args cannot be checked in time';
    -- They nest too deeply, or have a number or a name that is too long.
    when others then
        return format('args cannot be checked (SQLSTATE %s)', sqlstate);
end
$$;

comment on function livestore._misfit_of_args(json, json, timestamptz) is
'Internal: why args do not fit a schema; null if they do. No args count as null. In place of what Postgres cannot read as text they have U+FFFD. What cannot be checked until the deadline is said to be so';

create or replace function livestore._check_args(names text[], args json[])
returns void
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    unfit record;
begin
    if not exists (select from livestore.event_types t where t.name = any (names) and t.mode <> 'off') then
        return;
    end if;
    for unfit in
        select e.n - 1 as index, e.name, livestore._misfit_of_args(t.schema, e.args, clock_timestamp() + interval '10 s') as reason
        from unnest(names, args) with ordinality e(name, args, n)
        cross join lateral livestore._event_type(e.name) t
        where t.mode <> 'off'
        order by e.n
    loop
        if unfit.reason is not null then
            raise exception 'the event does not fit the type %: %', to_json(unfit.name), unfit.reason
                using errcode = 'LS003', detail = json_build_object('index', unfit.index, 'reason', unfit.reason);
        end if;
    end loop;
end
$$;

comment on function livestore._check_args(text[], json[]) is
'Internal: raises LS003 if one of these events, which SQL is about to write, does not fit its type';

create or replace function livestore._event_type(name text)
returns setof livestore.event_types
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select * from livestore.event_types t where t.name = $1 order by t.version desc limit 1
$$;

comment on function livestore._event_type(text) is 'Internal: the version of an event''s type that counts';

-- On livestore.eventlog_1 while there are types: without them, pushes cost what they cost without hooks. Copied like the hooks of an
-- application to dedicated tables.
create or replace function livestore._check_appended()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    unfit record;
    deadline timestamptz;
begin
    -- A restore, which brings what was found when the event was pushed.
    if livestore.current_store_id() is null then
        return null;
    end if;
    deadline := clock_timestamp() + interval '100 ms' + (select count(*) from appended) * interval '1 ms';
    for unfit in
        select a.store, a."seqNum" as seq_num, a.name, t.version, t.mode, livestore._misfit_of_args(t.schema, a.args, deadline) as reason
        from appended a
        cross join lateral livestore._event_type(a.name) t
        where t.mode <> 'off'
    loop
        if unfit.reason is null then
            continue;
        elsif unfit.mode = 'enforce' and unfit.reason not like 'args cannot be checked%' then
            raise exception 'the event does not fit the type %: %', to_json(unfit.name), unfit.reason using errcode = 'check_violation';
        end if;
        insert into livestore.found_misfits (store, seq_num, name, version, reason)
        values (unfit.store, unfit.seq_num, unfit.name, unfit.version, unfit.reason)
        on conflict (store, seq_num) do update set name = excluded.name, version = excluded.version, reason = excluded.reason, found_at = default;
    end loop;
    return null;
end
$$;

comment on function livestore._check_appended() is 'Internal: trigger on event logs, which checks what is pushed against livestore.event_types';

create or replace function livestore._check_new_events(eventlog regclass)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if not exists (select from pg_trigger t where t.tgrelid = eventlog and t.tgname = 'livestore_event_types') then
        execute format(
            'create trigger livestore_event_types after insert on %s referencing new table as appended for each statement execute function livestore._check_appended()',
            eventlog
        );
    end if;
end
$$;

comment on function livestore._check_new_events(regclass) is 'Internal: has the events of a table checked from now on';

-- A dump brings the types, and the triggers of dedicated tables, but not the trigger of an extension's table.
create or replace function livestore._follow_event_types()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform livestore._check_new_events('livestore.eventlog_1');
    return null;
end
$$;

comment on function livestore._follow_event_types() is 'Internal: trigger on livestore.event_types, for restored ones';

create or replace trigger follow_event_types after insert on livestore.event_types
    for each statement execute function livestore._follow_event_types();

comment on trigger follow_event_types on livestore.event_types is 'Has new events checked, after a restore, too';
