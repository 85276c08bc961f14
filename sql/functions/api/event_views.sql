-- As the caller, to whom the view then belongs: it shows what its owner may read.
create or replace function livestore.create_event_view(view_name text, name text, security_barrier boolean default true)
returns regclass
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    parts constant text[] := parse_ident(view_name);
    full_name constant text := (select string_agg(quote_ident(p.part), '.' order by p.n) from unnest(parts) with ordinality p(part, n));
    -- As json, which keeps the order of the fields.
    schema constant json := t.schema from livestore._event_type(name) t;
    place text[] := '{}';
    columns text;
begin
    if security_barrier is null then
        raise exception 'security_barrier is null' using errcode = 'null_value_not_allowed';
    elsif schema is null then
        raise exception 'there is no event type %', to_json(name)
            using errcode = 'undefined_object', hint = 'livestore.define_event makes one; livestore.event_types lists them.';
    elsif cardinality(parts) <> 2 or parts[1] = 'livestore' then
        raise exception 'view_name is schema.view, in a schema of yours, and not %', to_json(view_name) using errcode = 'invalid_name';
    end if;
    -- livestore.define_event has checked that references end.
    while schema::jsonb #> place ? '$ref' loop
        place := livestore._pointer(schema::jsonb #> place -> '$ref');
    end loop;
    select string_agg(format(
        case
            when f.kind is null then ', livestore.json_field(e.args, %L) as %I'
            when f.kind = 'text' then ', livestore.field(e.args, %L) as %I'
            else ', livestore.' || f.kind || '(livestore.field(e.args, %L)) as %I'
        end,
        f.key, f.alias
    ), '' order by f.n)
    into columns
    from (
        -- Of two fields with one name, the last, which is also the one that counts in a schema.
        select distinct on (k.alias) p.key, p.n, k.alias, livestore._column_of(p.value::jsonb, schema::jsonb) as kind
        from json_each(schema #> (place || 'properties'::text)) with ordinality p(key, value, n)
        cross join lateral (
            select case when p.key in ('store_id', 'seq_num', 'client_id', 'session_id', 'created_at', 'args') then 'args.' else '' end || p.key
        ) k(alias)
        where octet_length(p.key) between 1 and 63
        order by k.alias, p.n desc
    ) f;
    execute format(
        'create or replace view %s with (security_barrier = %s) as select s.store_id, e."seqNum" as seq_num, e."clientId" as client_id, e."sessionId" as session_id, '
        'e."createdAt" as created_at, e.args%s from livestore.eventlog_1 e join livestore.stores s on s.id = e.store where e.name = %L',
        full_name, security_barrier, columns, name
    );
    execute format('comment on view %s is %L', full_name, format('The events %s, with columns made by livestore.create_event_view', name));
    return full_name::regclass;
exception when invalid_table_definition then
    raise exception 'the view % has other columns, which a view cannot change: %', full_name, sqlerrm
        using errcode = 'invalid_table_definition', hint = format('drop view %s, and call this again', full_name);
end
$$;

comment on function livestore.create_event_view(text, text, boolean) is
'Creates a view, named schema.view, of the events of this name in all stores, or replaces it: store_id, seq_num, client_id, session_id, created_at, args, and a column for each field that their type has (livestore.define_event). A value that is not of the type of its field is null in its column; no event makes a query fail. The view belongs to its creator, who needs SELECT on the events, as livestore_reader has. security_barrier => false: conditions on the columns of fields can use indexes, but whoever may query the view can see all events, by a function in a query';
