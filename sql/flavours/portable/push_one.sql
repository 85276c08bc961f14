-- livestore._insert_as_hooks for one event of the shared table, which has no hooks.
create or replace function livestore._insert_one_as_hooks(
    store bigint, seq_num bigint, name text, args text, client_id text, session_id text, created_at timestamptz
)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if current_user operator(pg_catalog.<>) 'livestore_hooks' then
        raise exception 'livestore._insert_one_as_hooks runs as %, and not as livestore_hooks', current_user
            using errcode = 'insufficient_privilege', hint = 'Install the portable flavour again.';
    end if;
    insert into livestore.eventlog_1 values (store, seq_num, seq_num - 1, name, args::json, client_id, session_id, created_at);
    -- Of a table without hooks, too: a constraint or an index may call a function that has changed it.
    if pg_catalog.current_setting('search_path') operator(pg_catalog.<>) 'pg_catalog, pg_temp' then
        perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
    end if;
end
$$;

comment on function livestore._insert_one_as_hooks(bigint, bigint, text, text, text, text, timestamptz) is
'Internal: inserts an event into livestore.eventlog_1 as livestore_hooks';

-- The usual push of one writer, one event that follows the head of a store without hooks, in few statements: PL/pgSQL prepares every
-- expression of a function anew in each transaction, and that is most of what a push costs. livestore._append does the same for it.
create or replace function livestore._append_one(
    wanted text, batch text, received text, source text, out head bigint, out backend_id text, out created_at timestamptz
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    event record;
    store record;
begin
    -- A backslash and U+E000 need more care, and a batch of several events is not for here.
    if (strpos(batch, chr(92)) + strpos(batch, chr(57344)) + strpos(batch, '},{') > 0) is not false then
        return;
    end if;
    begin
        -- In its shortest form, an event is as long as what was found in it. 62: the bytes of the names of the fields and of
        -- the punctuation, with the brackets of the array.
        select btrim(e.name, '"') as name, e.args, btrim(e.client_id, '"') as client_id, btrim(e.session_id, '"') as session_id,
            e.seq_num, e.parent_seq_num
        into event
        from (
            select f.name::text as name, f.args::text as args, f."clientId"::text as client_id, f."sessionId"::text as session_id,
                f."seqNum"::text as seq_num, f."parentSeqNum"::text as parent_seq_num
            from json_to_record(batch::json -> 0)
                f(name json, args json, "seqNum" json, "parentSeqNum" json, "clientId" json, "sessionId" json)
            offset 0
        ) e
        where left(e.name, 1) = '"' and left(e.client_id, 1) = '"' and left(e.session_id, 1) = '"'
            and translate(e.seq_num || e.parent_seq_num, '0123456789', '') = ''
            and octet_length(e.seq_num) < 16 and octet_length(e.parent_seq_num) < 16 and coalesce(octet_length(e.args), 0) <= 1024
            and octet_length(e.name) + octet_length(e.client_id) + octet_length(e.session_id) + octet_length(e.seq_num)
                + octet_length(e.parent_seq_num) + coalesce(octet_length(e.args) + 8, 0) + 62 = octet_length(batch);
    exception when invalid_text_representation or invalid_parameter_value or statement_too_complex then
        return;
    end;
    if event.name is null then
        return;
    end if;
    select s.id, s.backend_id into store
    from livestore.stores s
    where s.store_id = wanted and s.head = event.parent_seq_num::bigint and s.eventlog = 'livestore.eventlog_1'::regclass
        and event.seq_num::bigint = event.parent_seq_num::bigint + 1 and (received is null or received = s.backend_id)
    for update skip locked;
    if store.id is null then
        return;
    end if;
    -- Nobody adds a hook, or switches row level security on, until the event is in.
    lock table only livestore.eventlog_1 in row exclusive mode;
    if exists (
        select from pg_class c
        where c.oid = 'livestore.eventlog_1'::regclass
            and (c.relrowsecurity or c.relhasrules or c.relhastriggers and exists (select from pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal))
    ) then
        return;
    end if;
    head := event.seq_num;
    backend_id := store.backend_id;
    created_at := clock_timestamp();
    with advanced as (
        update livestore.stores s set head = _append_one.head where s.id = store.id returning s.id
    )
    insert into livestore.pending_commits (stores, upto, events) select array[a.id], array[_append_one.head], array[1] from advanced a;
    perform livestore._insert_one_as_hooks(
        store.id, head, event.name, event.args, event.client_id, event.session_id, created_at
    );
    -- livestore._notify_heads, in one query.
    perform case
        when coalesce(
            lower(nullif(current_setting('livestore.legacy_notify', true), '')) in ('on', 'true', 'yes', '1'), i.legacy_notify
        ) then livestore._notify_heads(array[wanted], array[head], source)
        else pg_notify('livestore_heads', '{"heads":{"' || left(encode(sha256(convert_to(i.heads_key || wanted, 'UTF8')), 'hex'), 32)
            || '":' || head || '},"source":' || coalesce(to_json(source)::text, 'null') || '}')
        end
    from livestore.instance i order by i.created_at limit 1;
end
$$;

comment on function livestore._append_one(text, text, text, text) is
'Internal: carries out the usual push of one writer. A head of null: nothing was done, livestore._append has to look at it';
