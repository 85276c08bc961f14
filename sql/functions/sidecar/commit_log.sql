create or replace function livestore.prune_old_commits()
returns bigint
language sql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select livestore.prune_commits(now() - i.keep_commits) from livestore.instance i order by i.created_at limit 1
$$;

comment on function livestore.prune_old_commits() is
'livestore.prune_commits for what is older than livestore.instance.keep_commits. What the sidecar uses';
