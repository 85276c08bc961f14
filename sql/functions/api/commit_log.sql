-- Reading over all stores, in the order of commits. stable: everything here sees the database as the calling statement does, so an
-- entry of the commit log is never seen without its events.
create or replace function livestore.read_all(after bigint, names text[] default null, max_events integer default 1000)
returns table (
    "position" bigint, store_id text, seq_num bigint, name text, args json, client_id text, session_id text, created_at timestamptz,
    change text
)
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
#variable_conflict use_column
declare
    pruned constant bigint := i.pruned_commits from livestore.instance i order by i.created_at limit 1;
begin
    if after is null or max_events is null or max_events not between 1 and 10000 then
        raise exception 'after must be a position, and max_events between 1 and 10000' using errcode = 'invalid_parameter_value';
    end if;
    if after < pruned then
        raise exception 'the commit log begins after position %: what was before has been pruned', pruned
            using errcode = 'LS006', detail = json_build_object('prunedPosition', pruned),
                hint = 'Read the state that you need from livestore.events, and go on from a position that was current before.';
    end if;
    return query select * from livestore._read_commits(after, names, null, 1, 0, max_events, 8388608);
end
$$;

comment on function livestore.read_all(bigint, text[], integer) is
'The events of all stores after a position, in the order of commits, at most max_events (1 to 10000) with 8 MiB of args, or a single event with more; with names, only events of these names. Go on from the position of the last row, which has nothing but its position if it only says how far this has read; no row: there is nothing new. A row with a change (reset, drop, move, renew, rewrite, leave, arrive) says that a store was reset, dropped, moved to a dedicated table or given a new backend id, that an event was rewritten, or that the store has moved to another shard or come from one; the events of a log that was reset or dropped are not returned any more. Events from before version 0.3 have no position. LISTEN livestore_commits says when to read again. Raises LS006 if what comes next was pruned';

create or replace function livestore.prune_commits(before timestamptz)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
begin
    if before is null then
        raise exception 'before must be a point in time' using errcode = 'null_value_not_allowed';
    end if;
    return livestore._prune_commits(before, null);
end
$$;

comment on function livestore.prune_commits(timestamptz) is
'Removes the entries of the commit log from before a point in time, and returns the position up to which entries were removed. livestore.read_all raises LS006 for positions before it. Sidecars do this by themselves for what is older than livestore.instance.keep_commits';
