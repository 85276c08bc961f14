-- extension/src/read in SQL.
create or replace function livestore.pull_page(store_id text, after bigint, max_events integer, max_bytes integer)
returns table (
    seq_num bigint, parent_seq_num bigint, name text, args json, client_id text, session_id text, created_at timestamptz
)
language plpgsql
stable
security definer
rows 1000
set search_path = pg_catalog, pg_temp
set row_security = off
-- A plan for each page would cost more than the page: there is but one way to read it, along the primary key.
set plan_cache_mode = force_generic_plan
as $$
declare
    number bigint;
    eventlog regclass;
    eventlog_name text;
    length bigint;
    bytes bigint := 0;
begin
    select s.id, s.eventlog into number, eventlog from livestore.stores s where s.store_id = $1;
    if not found then
        perform livestore._check_shard(store_id);
        return;
    elsif max_events <= 0 then
        return;
    end if;
    -- The bytes are counted while rows arrive.
    if eventlog = 'livestore.eventlog_1'::regclass then
        for seq_num, parent_seq_num, name, args, client_id, session_id, created_at, length in
            select e."seqNum", e."parentSeqNum", e.name, e.args, e."clientId", e."sessionId", e."createdAt",
                coalesce(octet_length(e.name), 0) + coalesce(octet_length(e."clientId"), 0)
                    + coalesce(octet_length(e."sessionId"), 0) + coalesce(octet_length(e.args::text), 0)
            from only livestore.eventlog_1 e
            where e.store = number and e."seqNum" > coalesce(after, 0)
            order by e."seqNum"
            limit max_events
        loop
            return next;
            bytes := bytes + length;
            exit when bytes >= max_bytes;
        end loop;
        return;
    end if;
    select format('%I.%I', c.relnamespace::regnamespace, c.relname) into eventlog_name from pg_class c where c.oid = eventlog;
    -- Dropped since this transaction began.
    if not found then
        raise exception 'there is no table with the number %', eventlog::oid using errcode = 'undefined_table';
    end if;
    for seq_num, parent_seq_num, name, args, client_id, session_id, created_at, length in execute format(
        'select e."seqNum", e."parentSeqNum", e.name, e.args, e."clientId", e."sessionId", e."createdAt",
             coalesce(octet_length(e.name), 0) + coalesce(octet_length(e."clientId"), 0)
                 + coalesce(octet_length(e."sessionId"), 0) + coalesce(octet_length(e.args::text), 0)
         from only %s e
         where e.store = $1 and e."seqNum" > $2
         order by e."seqNum"
         limit $3', eventlog_name
    ) using number, coalesce(after, 0), max_events
    loop
        return next;
        bytes := bytes + length;
        exit when bytes >= max_bytes;
    end loop;
end
$$;

comment on function livestore.pull_page(text, bigint, integer, integer) is
'The events of livestore.read_page as rows';

create or replace function livestore.read_page(store_id text, after bigint, max_events integer, max_bytes integer)
returns table (head bigint, backend_id text, events bytea)
language plpgsql
stable
strict
security definer
rows 1
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
begin
    select s.head, s.backend_id into head, backend_id from livestore.stores s where s.store_id = $1;
    if not found then
        head := 0;
        backend_id := livestore.backend_id(store_id);
    end if;
    -- Seven fields, each behind its length, which is -1 for null. Only args may be null; another null comes from outside, and the
    -- sidecar tells which event has it.
    select coalesce(string_agg(
        int2send(7::int2) || int4send(8) || int8send(p.seq_num)
            || coalesce(int4send(8) || int8send(p.parent_seq_num), int4send(-1))
            || coalesce(int4send(octet_length(p.name)) || convert_to(p.name, 'UTF8'), int4send(-1))
            || case when p.args is null then int4send(-1)
                else int4send(octet_length(p.args::text)) || convert_to(p.args::text, 'UTF8') end
            || (
                coalesce(int4send(octet_length(p.client_id)) || convert_to(p.client_id, 'UTF8'), int4send(-1))
                || coalesce(int4send(octet_length(p.session_id)) || convert_to(p.session_id, 'UTF8'), int4send(-1))
                || coalesce(int4send(8) || timestamptz_send(p.created_at), int4send(-1))
            ),
        ''::bytea
    ), ''::bytea)
    into events
    from livestore.pull_page(store_id, after, least(max_events, 10000), least(max_bytes, 67108864)) p;
    return next;
end
$$;

comment on function livestore.read_page(text, bigint, integer, integer) is
'A page of a log, one row: the head and the backend id at that moment, and the events after a sequence number, in order: at most max_events (10,000 at most), and none after the one that reaches max_bytes (of args, name and ids; 64 MiB at most). Each event is a row in the binary format of COPY: seqNum, parentSeqNum, name, args, clientId, sessionId, createdAt. What the sidecar uses';
