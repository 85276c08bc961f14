-- What extension/src/read_page.rs does, in PL/pgSQL.
create or replace function livestore.read_page(store_id text, after bigint, max_events integer, max_bytes integer)
returns table (
    head bigint, backend_id text,
    seq_num bigint, parent_seq_num bigint, name text, args json, client_id text, session_id text, created_at timestamptz
)
language plpgsql
stable
strict
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
    select s.head, s.backend_id, s.id, s.eventlog into head, backend_id, number, eventlog
    from livestore.stores s where s.store_id = $1;
    if not found then
        head := 0;
        backend_id := livestore.backend_id(store_id);
    elsif max_events > 0 and eventlog = 'livestore.eventlog_1'::regclass then
        for seq_num, parent_seq_num, name, args, client_id, session_id, created_at, length in
            select e."seqNum", e."parentSeqNum", e.name, e.args, e."clientId", e."sessionId", e."createdAt",
                octet_length(e.name) + octet_length(e."clientId") + octet_length(e."sessionId") + coalesce(octet_length(e.args::text), 0)
            from only livestore.eventlog_1 e
            where e.store = number and e."seqNum" > after
            order by e."seqNum"
            limit max_events
        loop
            return next;
            bytes := bytes + length;
            exit when bytes >= max_bytes;
        end loop;
    elsif max_events > 0 then
        select format('%I.%I', c.relnamespace::regnamespace, c.relname) into eventlog_name from pg_class c where c.oid = eventlog;
        -- Dropped since this transaction began.
        if not found then
            raise exception 'there is no table with the number %', eventlog::oid using errcode = 'undefined_table';
        end if;
        for seq_num, parent_seq_num, name, args, client_id, session_id, created_at, length in execute format(
            'select e."seqNum", e."parentSeqNum", e.name, e.args, e."clientId", e."sessionId", e."createdAt",
                 octet_length(e.name) + octet_length(e."clientId") + octet_length(e."sessionId") + coalesce(octet_length(e.args::text), 0)
             from only %s e
             where e.store = $1 and e."seqNum" > $2
             order by e."seqNum"
             limit $3', eventlog_name
        ) using number, after, max_events
        loop
            return next;
            bytes := bytes + length;
            exit when bytes >= max_bytes;
        end loop;
    end if;
    if seq_num is null then
        return next;
    end if;
end
$$;

comment on function livestore.read_page(text, bigint, integer, integer) is
'The events of a store after a sequence number, in order: at most max_events, and none after the one that reaches max_bytes (of args, name and ids); each beside the head and the backend id of the log at that moment. One row without an event if there is none. What the sidecar uses';
