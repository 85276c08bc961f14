create or replace function livestore.head(store_id text)
returns bigint
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select coalesce((select s.head from livestore.stores s where s.store_id = $1), 0)
$$;

comment on function livestore.head(text) is 'The sequence number of the last event of a store; 0 if its log is empty or the store does not exist';

create or replace function livestore.pull_page(store_id text, after bigint, max_events integer, max_bytes integer)
returns table (
    seq_num bigint, parent_seq_num bigint, name text, args json, client_id text, session_id text, created_at timestamptz
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    store livestore.stores;
    bytes bigint := 0;
    event record;
    events refcursor;
begin
    select * into store from livestore.stores s where s.store_id = $1;
    if not found then
        return;
    end if;
    -- A transaction with a snapshot from before a drop still sees the store, but not its table, of which only the number
    -- is left.
    if store.eventlog::text ~ '^[0-9]+$' then
        raise exception 'the store % was dropped', to_json(store_id)
            using errcode = 'serialization_failure', hint = 'Read again in a new transaction.';
    end if;
    -- only: an own table is asked itself, and the shared one without its children.
    open events no scroll for execute format(
        'select "seqNum", "parentSeqNum", name, args, "clientId", "sessionId", "createdAt"
         from only %s where store = $1 and "seqNum" > $2 order by "seqNum" limit $3',
        store.eventlog
    ) using store.id, coalesce(after, 0), max_events;
    loop
        fetch events into seq_num, parent_seq_num, name, args, client_id, session_id, created_at;
        exit when not found;
        bytes := bytes + coalesce(octet_length(args::text), 0) + octet_length(name) + octet_length(client_id) + octet_length(session_id);
        return next;
        exit when bytes >= max_bytes;
    end loop;
    close events;
end
$$;

comment on function livestore.pull_page(text, bigint, integer, integer) is
'The events of a store after a sequence number, in order: at most max_events, and none after the one that reaches max_bytes (of args, name and ids)';

create or replace function livestore.pull(store_id text, after bigint default 0, max_events integer default 100)
returns setof livestore.events
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select $1, p.seq_num, p.parent_seq_num, p.name, p.args, p.client_id, p.session_id, p.created_at
    from livestore.pull_page($1, $2, $3, 2147483647) p
    order by p.seq_num
$$;

comment on function livestore.pull(text, bigint, integer) is
'The events of a store after a sequence number, in order, at most max_events; none if the store does not exist';
