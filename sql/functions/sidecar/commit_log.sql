create or replace function livestore.prune_old_commits()
returns bigint
language sql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    -- So many that they take less time than a statement may, also where much has gathered.
    select livestore._prune_commits(now() - i.keep_commits, 500000) from livestore.instance i order by i.created_at limit 1
$$;

comment on function livestore.prune_old_commits() is
'livestore.prune_commits for what is older than livestore.instance.keep_commits, 500,000 entries at most: call it again if the position has advanced by as much. What the sidecar uses';

create or replace function livestore.last_position()
returns bigint
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select greatest(
        (select coalesce(max(c.position), 0) from livestore.commits c),
        (select i.pruned_commits from livestore.instance i order by i.created_at limit 1)
    )
$$;

comment on function livestore.last_position() is 'The last position of the commit log; 0 if nothing was committed yet';

create or replace function livestore.heads_since(after bigint)
returns table ("position" bigint, store_id text, head bigint)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
#variable_conflict use_column
declare
    last_position constant bigint := livestore.last_position();
begin
    if last_position = after then
        return query select last_position, '', null::bigint;
        return;
    end if;
    -- The log goes back behind what the caller knows after a restore, and begins later after pruning.
    if last_position < after or last_position - after > 100000
        or after < (select i.pruned_commits from livestore.instance i order by i.created_at limit 1)
    then
        return query select last_position, null::text, null::bigint;
        return;
    end if;
    return query
    select last_position, h.store_id, case when not h.is_other then h.head end
    from (
        select coalesce(e.store_id, s.store_id) as store_id, max(e.upto) filter (where e.change is null) as head,
            bool_or(e.change in ('reset', 'drop', 'renew', 'rewrite', 'leave', 'arrive')) is true as is_other
        from livestore._commit_entries(after, last_position) e
        left join livestore.stores s on s.id = e.store
        group by 1
    ) h
    where h.store_id is not null and (h.is_other or h.head is not null)
    union all
    -- If nothing of it is left, the caller still goes on from here.
    select last_position, '', null
    order by 2 desc;
end
$$;

comment on function livestore.heads_since(bigint) is
'The stores that have changed since a position of the commit log, with their heads (null: reset, dropped, given a new backend id, moved from or to another shard, or an event was rewritten), and the last position, in every row. A row whose store is empty tells nothing but the position; one whose store is null says that any store may have changed. What the sidecar uses with --live poll';
