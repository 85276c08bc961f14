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
    cursor text;
    part record;
    total bigint := 0;
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

    perform livestore._begin_import(store_id, backend_id);
    cursor := livestore._open_source(
        source::oid,
        format(
            'select %s::bigint, %s::bigint, %s::text, %s::text::json::text, %s::text, %s::text, %s::text::timestamptz from %s order by 1',
            found_columns[1], found_columns[2], found_columns[3], found_columns[4], found_columns[5], found_columns[6],
            coalesce(found_columns[7], 'null'), source
        )
    );
    imported := 0;
    head := 0;
    loop
        select array_agg(e.seq_num order by e.n) as seq_nums, array_agg(e.parent_seq_num order by e.n) as parent_seq_nums,
            array_agg(e.name order by e.n) as names, array_agg(e.args order by e.n) as args,
            array_agg(e.client_id order by e.n) as client_ids, array_agg(e.session_id order by e.n) as session_ids,
            array_agg(e.created_at order by e.n) as created_ats
        into part
        from livestore._fetch_source(source::oid, cursor, 100)
            with ordinality e(seq_num, parent_seq_num, name, args, client_id, session_id, created_at, n);
        exit when part.seq_nums is null;
        imported := imported + livestore._import_events(
            store_id, head, part.seq_nums, part.parent_seq_nums, part.names, part.args,
            part.client_ids, part.session_ids, part.created_ats
        );
        total := total + cardinality(part.seq_nums);
        head := part.seq_nums[cardinality(part.seq_nums)];
    end loop;
    already_there := total - imported;
    if imported > 0 then
        head := livestore._end_import(store_id);
    else
        head := livestore.head(store_id);
    end if;
end
$$;

comment on function livestore.import_table(regclass, text, text) is
'Takes over the event log of another LiveStore backend: copies the events of a table or view with the columns "seqNum", "parentSeqNum", name, args, "clientId", "sessionId" and maybe "createdAt" into a store, whole or not at all, and returns how many it imported, how many were there already, and the head. Idempotent: another call imports what was added since. backend_id: the backend id of the other backend, so that clients of an empty store go on as if it were the same log. Hooks run. The table is read with the rights of the caller; for a superuser, with those of its owner. Raises LS001 if the store has other events, LS002 if it has another backend id, LS003 if the events are not a chain, or a "createdAt" is not within the years 1 to 9999';
