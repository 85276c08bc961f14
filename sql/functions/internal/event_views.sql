create or replace function livestore._column_of(schema jsonb, root jsonb)
returns text
language plpgsql
immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    kinds text[];
    -- References to references may come back to where they began.
    steps integer := 20;
begin
    while schema ? '$ref' and steps > 0 loop
        schema := root #> livestore._pointer(schema -> '$ref');
        steps := steps - 1;
    end loop;
    if jsonb_typeof(schema -> 'anyOf') = 'array' then
        -- Of a union with null, the other member.
        if (select count(*) = 1 from jsonb_array_elements(schema -> 'anyOf') s where s.value -> 'type' is distinct from '"null"') then
            return livestore._column_of((
                select s.value from jsonb_array_elements(schema -> 'anyOf') s where s.value -> 'type' is distinct from '"null"'
            ), root);
        end if;
        return null;
    end if;
    kinds := case jsonb_typeof(schema)
        when 'object' then array(
            select distinct k.kind from (
                select jsonb_array_elements_text(case jsonb_typeof(schema -> 'type') when 'array' then schema -> 'type' else jsonb_build_array(schema -> 'type') end)
                where schema ? 'type'
                union all
                select jsonb_typeof(e) from jsonb_array_elements(
                    coalesce(schema -> 'enum', case when schema ? 'const' then jsonb_build_array(schema -> 'const') end)
                ) e where not schema ? 'type'
            ) k(kind)
            where k.kind <> 'null'
        )
    end;
    return case
        when kinds = '{string}' and schema ->> 'format' = 'date-time' then 'try_timestamptz'
        when kinds = '{string}' then 'text'
        when kinds = '{boolean}' then 'try_boolean'
        when kinds = '{integer}' then 'try_bigint'
        when kinds <@ '{integer,number}' and kinds <> '{}' then 'try_double'
    end;
end
$$;

comment on function livestore._column_of(jsonb, jsonb) is
'Internal: for a part of a schema, the function of this schema that makes a column of the text of a field; text: the text itself; null: the column is JSON';
