create or replace function livestore.import_table(
    source regclass, store_id text, backend_id text default null,
    out imported bigint, out already_there bigint, out head bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
-- A time becomes text and is read again. With another datestyle that text could have an abbreviation of a time zone, which
-- may stand for several zones.
set datestyle = iso
as $$
declare
    wanted constant text[] := array['seqNum', 'parentSeqNum', 'name', 'args', 'clientId', 'sessionId', 'createdAt'];
    found_columns text[];
begin
    -- Tools that copy tables fold names to lower case, or write them with underscores.
    select array_agg(
            (
                select quote_ident(a.attname)
                from pg_attribute a
                where a.attrelid = source and a.attnum > 0 and not a.attisdropped
                    and lower(replace(a.attname, '_', '')) = lower(w.name)
                order by a.attname = w.name desc
                limit 1
            )
            order by w.n
        )
    into found_columns
    from unnest(wanted) with ordinality w(name, n);
    for i in 1..6 loop
        if found_columns[i] is null then
            raise exception '% has no column "%"', source, wanted[i]
                using errcode = 'undefined_column',
                    hint = 'An event log has the columns "seqNum", "parentSeqNum", name, args, "clientId", "sessionId" and, if it knows, "createdAt". A view can rename others.';
        end if;
    end loop;

    select s.imported, s.already_there, s.head into imported, already_there, head
    from livestore._import_source(
        source,
        format(
            'select %s::bigint, %s::bigint, %s::text, %s::text::json::text, %s::text, %s::text, %s::text::timestamptz from %s order by 1',
            found_columns[1], found_columns[2], found_columns[3], found_columns[4], found_columns[5], found_columns[6],
            coalesce(found_columns[7], 'null'), source
        ),
        store_id, backend_id
    ) s;
end
$$;

comment on function livestore.import_table(regclass, text, text) is
'Takes over the event log of another LiveStore backend: copies the events of a table or view with the columns "seqNum", "parentSeqNum", name, args, "clientId", "sessionId" and maybe "createdAt" into a store, whole or not at all, and returns how many it imported, how many were there already, and the head. Idempotent: another call imports what was added since. backend_id: the backend id of the other backend, so that clients of an empty store go on as if it were the same log. Hooks run. The table is read with the rights of the caller; for a superuser, with those of its owner. Raises LS001 if the store has other events, LS002 if it has another backend id, LS003 if the events are not a chain, or a "createdAt" is not within the years 1 to 9999';

create or replace function livestore.export_store(store_id text)
returns setof text
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    event record;
    events bigint := 0;
    digest bytea := '';
begin
    for event in select e.line, e.digest from livestore._export_events(store_id, 0, null, '') e loop
        events := events + 1;
        digest := event.digest;
        return next event.line;
    end loop;
    return next livestore._export_end(store_id, events, digest);
end
$$;


comment on function livestore.export_store(text) is
'The log of a store as JSONL, for livestore.import_store: a line for each event, with args as they are, byte for byte (or as a string, argsText, if they have line breaks), and a last line with the store id, the backend id, the number of events and a digest. Raises LS004 if there is no such store';

create or replace function livestore.import_store(
    source regclass, store_id text default null, out imported bigint, out already_there bigint, out head bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
set datestyle = iso
as $$
declare
    line constant text := (
        select quote_ident(a.attname) from pg_attribute a
        where a.attrelid = source and a.attnum > 0 and not a.attisdropped and a.atttypid = 'text'::regtype
        order by a.attnum limit 1
    );
    cursor text;
    last_lines json[];
begin
    if line is null then
        raise exception '% has no column of the type text', source using errcode = 'undefined_column',
            hint = 'Copy the lines of livestore.export_store into a table with one column.';
    end if;
    -- By the functions that read the events, because a superuser must not run what a view of somebody else calls.
    cursor := livestore._open_source(source::oid, format(
        'select null::bigint, null::bigint, null::text, t.%1$s::json::text, null::text, null::text, null::timestamptz
         from %2$s t where left(t.%1$s, 11) = ''{"storeId":''', line, source
    ));
    last_lines := array(select f.args::json from livestore._fetch_source(source::oid, cursor, 1000) f);
    if cardinality(last_lines) <> 1 then
        raise exception '% has % last lines of livestore.export_store, and not one', source, cardinality(last_lines)
            using errcode = 'LS003', detail = json_build_object('index', null, 'reason', 'incomplete'),
                hint = 'The file is not whole, or more than one. Nothing was imported.';
    end if;
    -- It closes at its end.
    perform from livestore._fetch_source(source::oid, cursor, 1) f;
    select s.imported, s.already_there, s.head into imported, already_there, head
    from livestore._import_source(
        source,
        format(
            'select (h.fields->>''seqNum'')::bigint, (h.fields->>''parentSeqNum'')::bigint, h.fields->>''name'',
                 case when l.at > 0 then substr(l.line, l.at + 8, length(l.line) - l.at - 8) else h.fields->>''argsText'' end,
                 h.fields->>''clientId'', h.fields->>''sessionId'', (h.fields->>''createdAt'')::timestamptz
             from (
                 select t.%1$s as line, strpos(t.%1$s, '',"args":'') as at from %2$s t where left(t.%1$s, 11) <> ''{"storeId":''
             ) l
             cross join lateral (select case when l.at > 0 then left(l.line, l.at - 1) || ''}'' else l.line end::json) h(fields)
             order by 1',
            line, source
        ),
        coalesce(store_id, last_lines[1] ->> 'storeId'), last_lines[1] ->> 'backendId',
        last_lines[1] ->> 'digest', (last_lines[1] ->> 'events')::bigint
    ) s;
end
$$;

comment on function livestore.import_store(regclass, text) is
'Takes over the log of a store from the lines of livestore.export_store, which are in the first text column of a table, in any order; with its backend id and times, whole or not at all. The table is read with the rights of the caller; for a superuser, with those of its owner. store_id: another id than it had. Idempotent: another call imports what was added since. Returns how many events it imported, how many were there already, and the head. Hooks run. Raises LS001 if the store has other events, LS002 if it has another backend id, LS003 if lines are missing or were changed';
