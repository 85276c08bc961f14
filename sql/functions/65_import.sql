-- Runs with the rights of its caller, who must own the extension's tables: nobody else may write into a log past push.
create or replace function livestore.import_table(
    source regclass, store_id text, backend_id text default null,
    out imported bigint, out already_there bigint, out head bigint
)
language plpgsql
set search_path = pg_catalog, pg_temp
set livestore.store_id = ''
set livestore.payload = ''
set livestore.headers = ''
set livestore.claims = ''
as $$
declare
    store livestore.stores;
    wanted constant text[] := array['seqNum', 'parentSeqNum', 'name', 'args', 'clientId', 'sessionId', 'createdAt'];
    found_columns text[];
    part record;
    plan record;
    wrong bigint;
    inserted bigint;
    hook record;
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
    if backend_id !~ '^[A-Za-z0-9_-]{1,64}$' then
        raise exception 'a backend id has 1 to 64 characters of A-Z, a-z, 0-9, _ and -' using errcode = 'invalid_parameter_value';
    end if;

    store := livestore.lock_store(store_id);
    if backend_id is not null and backend_id <> store.backend_id then
        if store.head > 0 then
            raise exception 'the store % has events already, with the backend id %', to_json(store_id), store.backend_id
                using errcode = 'LS002', detail = json_build_object('expected', store.backend_id, 'received', backend_id),
                    hint = 'A backend id can be taken over by an empty store only.';
        end if;
        update livestore.stores s set backend_id = $3 where s.id = store.id returning s.backend_id into store.backend_id;
        -- Who follows the store has the old one.
        perform livestore.notify_heads(array[store_id], array[null::bigint]);
    end if;

    -- A copy, so that every look is at the same events.
    execute format(
        'create temporary table livestore_import as
         select %s::bigint as seq_num, %s::bigint as parent_seq_num, %s::text as name, %s::text::json as args,
             %s::text as client_id, %s::text as session_id, coalesce(%s::text::timestamptz, clock_timestamp()) as created_at
         from %s order by 1',
        found_columns[1], found_columns[2], found_columns[3], found_columns[4], found_columns[5], found_columns[6],
        coalesce(found_columns[7], 'null'), source
    );
    head := 0;
    for part in
        select min(e.parent_seq_num) as parent, max(e.seq_num) as last,
            json_agg(
                case when e.args is null
                    then json_build_object('name', e.name, 'seqNum', e.seq_num, 'parentSeqNum', e.parent_seq_num, 'clientId', e.client_id, 'sessionId', e.session_id)
                    else json_build_object('name', e.name, 'args', e.args, 'seqNum', e.seq_num, 'parentSeqNum', e.parent_seq_num, 'clientId', e.client_id, 'sessionId', e.session_id)
                end
                order by e.seq_num
            )::text as batch
        from (select i.*, (row_number() over (order by i.seq_num) - 1) / 100 as part from pg_temp.livestore_import i) e
        group by e.part
        order by e.part
    loop
        if part.parent is distinct from head then
            raise exception '% is not an event log: an event that should follow event % names % as its parent', source, head, part.parent
                using errcode = 'LS003',
                    hint = 'The first event has the parent 0, every other the event before it. Nothing was imported.';
        end if;
        plan := livestore.plan_pushes(
            array[store_id], array[part.batch], array[null::text], array[head], array[store.backend_id],
            null, null, null, null, null, null, null
        );
        if plan.sqlstate[1] is not null then
            raise exception '% is not an event log, in what follows event %: %', source, head, plan.message[1]
                using errcode = plan.sqlstate[1], detail = coalesce(plan.detail[1], ''), hint = 'Nothing was imported.';
        end if;
        head := part.last;
    end loop;

    -- What the store has already must be the beginning of the table, or the table a beginning of what it has.
    execute format(
        'select count(*), min(i.seq_num) filter (where e."seqNum" is null or (e."parentSeqNum", e.name, e.args::text, e."clientId", e."sessionId")
             is distinct from (i.parent_seq_num, i.name, i.args::text, i.client_id, i.session_id))
         from pg_temp.livestore_import i
         left join only %s e on e.store = $1 and e."seqNum" = i.seq_num
         where i.seq_num <= $2',
        store.eventlog
    ) into already_there, wrong using store.id, store.head;
    if wrong is null and head > store.head then
        select min(i.seq_num) into wrong from pg_temp.livestore_import i
        where i.seq_num > store.head and i.parent_seq_num < store.head;
    end if;
    if wrong is not null then
        raise exception 'the store % has other events than %, from event % on', to_json(store_id), source, wrong
            using errcode = 'LS001', detail = json_build_object('minimumExpectedNum', store.head, 'providedNum', wrong - 1),
                hint = 'Import into an empty store, or one that has events of this table only. Nothing was imported.';
    end if;

    imported := 0;
    if head > store.head then
        perform livestore.enter_context(store_id, null, null, null);
        update livestore.stores s set head = import_table.head where s.id = store.id;
        execute format(
            'insert into %s
             select $1, i.seq_num, i.parent_seq_num, i.name, i.args, i.client_id, i.session_id, i.created_at
             from pg_temp.livestore_import i where i.seq_num > $2 order by i.seq_num',
            store.eventlog
        ) using store.id, store.head;
        get diagnostics imported = row_count;
        execute format(
            'select count(*)
             from pg_temp.livestore_import i
             join only %s e on e.store = $1 and e."seqNum" = i.seq_num
             where i.seq_num > $2 and (e."parentSeqNum", e.name, e.args::text, e."clientId", e."sessionId", e."createdAt")
                 is not distinct from (i.parent_seq_num, i.name, i.args::text, i.client_id, i.session_id, i.created_at)',
            store.eventlog
        ) into inserted using store.id, store.head;
        if inserted <> (select count(*) from pg_temp.livestore_import i where i.seq_num > store.head) then
            raise exception 'a BEFORE trigger on the event log skipped or changed events'
                using errcode = 'triggered_data_change_violation',
                    hint = 'A hook lets an event pass as it is (return new) or rejects it (raise exception).';
        end if;
        -- As livestore.append does it: with the commit the context is over.
        for hook in
            select distinct t.tgname from pg_trigger t
            where t.tgrelid = store.eventlog and not t.tgisinternal and t.tginitdeferred
        loop
            execute format('set constraints livestore.%I immediate', hook.tgname);
            execute format('set constraints livestore.%I deferred', hook.tgname);
        end loop;
        perform livestore.notify_heads(array[store_id], array[head]);
    end if;
    head := greatest(head, store.head);
    drop table pg_temp.livestore_import;
end
$$;

comment on function livestore.import_table(regclass, text, text) is
'Takes over the event log of another LiveStore backend: copies the events of a table or view with the columns "seqNum", "parentSeqNum", name, args, "clientId", "sessionId" and maybe "createdAt" into a store, whole or not at all, and returns how many it imported, how many were there already, and the head. Idempotent: again, it imports what was added since. backend_id: that of the other backend, so that clients of an empty store go on as if it were the same log. Hooks run. Raises LS001 if the store has other events, LS002 if it has another backend id, LS003 if the events are not a chain';
