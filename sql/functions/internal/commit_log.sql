create or replace function livestore._commit_entries(after bigint, last_position bigint)
returns table (first bigint, store bigint, upto bigint, events integer, change text, store_id text)
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select p.* from (
        select c.first_position + (sum(e.events) over (partition by c.position order by e.n))::bigint - e.events as first,
            e.store, e.upto, e.events, e.change, e.store_id
        from (
            -- A commit has at least one position, so there are no more commits than positions.
            select k.* from livestore.commits k where k.position > $1 order by k.position limit greatest($2 - $1, 0)
        ) c
        cross join lateral unnest(c.stores, c.upto, c.events, c.changes, c.store_ids)
            with ordinality e(store, upto, events, change, store_id, n)
        where c.first_position <= $2
    ) p
    -- One commit may have very many.
    where p.first + p.events - 1 > $1 and p.first <= $2
$$;

comment on function livestore._commit_entries(bigint, bigint) is
'Internal: what has been done to each store at positions after the first and up to the second, with the first position of it, which may be before; the first and the last one whole';

create or replace function livestore._last_events(eventlog oid, store bigint, upto bigint, left_out bigint, wanted bigint)
returns table (
    n bigint, seq_num bigint, name text, args json, client_id text, session_id text, created_at timestamptz
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query execute format(
        'select row_number() over (order by l."seqNum" desc), l."seqNum", l.name, l.args, l."clientId", l."sessionId", l."createdAt"
         from (
             select * from %s k where k.store = $1 and k."seqNum" <= $2 order by k."seqNum" desc offset $3 limit $4
         ) l', eventlog::regclass
    ) using store, upto, left_out, wanted;
end
$$;

comment on function livestore._last_events(oid, bigint, bigint, bigint, bigint) is
'Internal: the last events of a store with a dedicated table up to a sequence number, but for the very last ones that are left out. n: 1 for the last';

create or replace function livestore._partition_of(store_id text, partitions integer)
returns integer
language sql
immutable
set search_path = pg_catalog, pg_temp
as $$
    -- Not a hash function of Postgres, which may differ between machines: events would change their partitions with a dump.
    select case partitions when 1 then 0 else
        (get_byte(d.digest, 0) * 256 + get_byte(d.digest, 1)) % partitions
    end
    from (select sha256(convert_to(store_id, 'UTF8'))) d(digest)
$$;

comment on function livestore._partition_of(text, integer) is 'Internal: the partition of a subscription that a store belongs to, from 0';

create or replace function livestore._read_commits(
    after bigint, names text[], pattern text, partitions integer, partition_number integer, max_events integer, max_bytes bigint
)
returns table (
    "position" bigint, store_id text, seq_num bigint, name text, args json, client_id text, session_id text, created_at timestamptz,
    change text
)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
-- The plan is made once, perhaps while the tables are small. Events are found by the primary key.
set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    -- Most events may be passed over; this is what one call looks at.
    is_filtered constant boolean := names is not null or pattern is not null or partitions > 1;
    bound constant bigint := after + case when is_filtered then 10 else 1 end * max_events::bigint;
    last_position constant bigint := coalesce(max(c.position), 0) from livestore.commits c;
    last_looked constant bigint := least(bound, last_position);
begin
    if last_looked <= after then
        return;
    end if;
    return query
    with entries as materialized (
        select e.store, e.upto, e.events, e.first, e.change, coalesce(e.store_id, s.store_id) as store_id, s.eventlog,
            greatest(after - e.first + 1, 0) as skipped, greatest(e.first + e.events - 1 - last_looked, 0) as left_out
        from livestore._commit_entries(after, last_looked) e
        left join livestore.kept_logs s on s.id = e.store
    ), wanted as materialized (
        select e.* from entries e
        where e.events > e.skipped + e.left_out and e.store_id is not null
            and (pattern is null or e.store_id like pattern)
            and (partitions = 1 or livestore._partition_of(e.store_id, partitions) = partition_number)
    ), found as materialized (
        select l.*
        from (
            select e.first + e.events - e.left_out - v.n as position, e.store_id, v.seq_num, v.name, v.args, v.client_id, v.session_id,
                v.created_at, null::text as change
            from wanted e
            cross join lateral (
                select row_number() over (order by l."seqNum" desc) as n, l."seqNum" as seq_num, l.name, l.args,
                    l."clientId" as client_id, l."sessionId" as session_id, l."createdAt" as created_at
                from (
                    select * from only livestore.eventlog_1 k
                    where k.store = e.store and k."seqNum" <= e.upto
                    order by k."seqNum" desc offset e.left_out limit e.events - e.skipped - e.left_out
                ) l
            ) v
            where e.change is null and e.eventlog = 'livestore.eventlog_1'::regclass and (names is null or v.name = any (names))
            union all
            select e.first + e.events - e.left_out - v.n, e.store_id, v.seq_num, v.name, v.args, v.client_id, v.session_id,
                v.created_at, null
            from wanted e
            cross join lateral livestore._last_events(
                e.eventlog::oid, e.store, e.upto, e.left_out, e.events - e.skipped - e.left_out
            ) v
            where e.change is null and e.eventlog <> 'livestore.eventlog_1'::regclass and (names is null or v.name = any (names))
            union all
            -- Of a rewrite, which event it is. With its name and args, a reader would take it for a new one.
            select e.first, e.store_id, case when e.change = 'rewrite' then e.upto end, null, null, null, null, null, e.change
            from wanted e where e.change is not null
        ) l
        order by l.position
        limit max_events
    ), counted as materialized (
        select f.*, max_bytes is null or row_number() over w = 1
            or coalesce(sum(octet_length(f.args::text)) over w, 0) <= max_bytes as fits
        from found f
        window w as (order by f.position)
    )
    select f.position, f.store_id, f.seq_num, f.name, f.args, f.client_id, f.session_id, f.created_at, f.change from counted f where f.fits
    union all
    -- How far this has looked, if no row says it.
    select last_looked, null, null, null, null, null, null, null, null
    where (select count(*) < max_events and max(f.position) is distinct from last_looked and coalesce(bool_and(f.fits), true) from counted f)
    order by 1;
end
$$;

comment on function livestore._read_commits(bigint, text[], text, integer, integer, integer, bigint) is
'Internal: livestore.read_all for the stores whose id is like a pattern, and that are in a partition, with max_bytes of args (null: any number). Looks at ten times max_events positions at most';

create or replace function livestore._prune_commits(before timestamptz, max_entries bigint)
returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
-- Entries are found by the primary key. The cost of small tables without an index is no reason to compile then.
set enable_seqscan = off
set jit = off
as $$
declare
    read_upto bigint;
    last_gone bigint;
begin
    -- A subscription that is being made waits, or is known here.
    perform from livestore.instance i for update;
    -- Subscriptions have yet to read the others.
    read_upto := coalesce((select min(p.position) from livestore.subscription_partitions p), 9223372036854775807);
    -- One statement, so that it sees one state: an entry that is committed between two would go, too. No look at more entries than may go:
    -- there may be many that a subscription still needs.
    last_gone := max(o.position)
        from (
            select c.position from livestore.commits c
            where c.position <= read_upto and c.position < coalesce((
                select k.position
                from (
                    select f.position, f.committed_at from livestore.commits f
                    where f.position <= read_upto order by f.position limit max_entries
                ) k
                where k.committed_at >= before order by k.position limit 1
            ), 9223372036854775807)
            order by c.position limit max_entries
        ) o;
    if last_gone is not null then
        delete from livestore.commits c where c.position <= last_gone;
        update livestore.instance i set pruned_commits = last_gone;
    end if;
    return (select i.pruned_commits from livestore.instance i order by i.created_at limit 1);
end
$$;

comment on function livestore._prune_commits(timestamptz, bigint) is
'Internal: livestore.prune_commits for so many of the oldest entries at most (null: all)';
