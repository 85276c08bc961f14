-- Whoever may connect may LISTEN. So the channel names stores by digests, which only those can make who may read all stores.
create or replace function livestore.heads_key()
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select i.heads_key from livestore.instance i order by i.created_at limit 1
$$;

comment on function livestore.heads_key() is
'What livestore.store_digest is made with. What the sidecar uses';

create or replace function livestore.store_digest(store_id text)
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select left(encode(sha256(convert_to(livestore.heads_key() || store_id, 'UTF8')), 'hex'), 32)
$$;

comment on function livestore.store_digest(text) is
'What stands for a store in the notifications of the channel livestore_heads';

create or replace function livestore.legacy_notify()
returns boolean
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select coalesce(
        lower(nullif(current_setting('livestore.legacy_notify', true), '')) in ('on', 'true', 'yes', '1'),
        (select i.legacy_notify from livestore.instance i order by i.created_at limit 1)
    )
$$;

comment on function livestore.legacy_notify() is
'Whether commits are told on the channel livestore, too, with the ids of stores, as sidecars before 0.3 expect it: the setting livestore.legacy_notify or, without one, whether the database was updated from such a version';

-- Written in Rust: extension/src/notify.rs.
create or replace function livestore.notify_heads(store_ids text[], heads bigint[], source text default null)
returns void
language c
set search_path = pg_catalog, pg_temp
as 'MODULE_PATHNAME', 'notify_heads_wrapper';

comment on function livestore.notify_heads(text[], bigint[], text) is
'Internal: NOTIFY livestore_heads, {"source": …, "heads": {"<livestore.store_digest>": <head>, …}}; several if one would be too long. A head of null: the log is another one now. With livestore.legacy_notify() also NOTIFY livestore, with ids instead of digests';

create or replace function livestore.stored_events(stores bigint[], seq_nums bigint[])
returns setof livestore.eventlog_1
language plpgsql
stable
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    own record;
begin
    -- only: through inheritance this would lock the tables of all stores, and plan a look at each.
    return query
    select e.*
    from unnest(stores, seq_nums) w(store, seq_num)
    join only livestore.eventlog_1 e on e.store = w.store and e."seqNum" = w.seq_num;
    for own in
        select s.id, s.eventlog, array_agg(w.seq_num) as seq_nums
        from unnest(stores, seq_nums) w(store, seq_num)
        join livestore.stores s on s.id = w.store
        where s.eventlog <> 'livestore.eventlog_1'::regclass
        group by s.id
    loop
        return query execute format('select * from only %s where store = $1 and "seqNum" = any ($2)', own.eventlog)
            using own.id, own.seq_nums;
    end loop;
end
$$;

comment on function livestore.stored_events(bigint[], bigint[]) is
'Internal: the events that are in the log at these positions, as arrays of livestore.stores.id and seqNum';

-- Written in Rust: extension/src/append.
create or replace function livestore.append(
    store_ids text[], batches text[], backend_ids text[], source text default null, contexts text[] default null
)
returns table (
    push integer, head bigint, appended integer, backend_id text, created_at timestamptz,
    sqlstate text, message text, detail text, hint text
)
language c
as 'MODULE_PATHNAME', 'livestore_append';

comment on function livestore.append(text[], text[], text[], text, text[]) is
'Internal: locks the stores, creates those that are new, and carries the pushes out, as arrays with one element for each push. Returns a result for each; what a hook raises goes through. contexts: a JSON object each, or null; a push that a hook makes without one has that of the hook';
