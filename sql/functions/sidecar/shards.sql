-- No row_security = off: where the application has policies and hooks on DELETE, these run as livestore_hooks.
create or replace function livestore.remove_departed_store()
returns boolean
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    log livestore.departed_stores;
    removed bigint;
begin
    for log in
        select d.*
        from livestore.departed_stores d
        where d.position <= (select i.pruned_commits from livestore.instance i order by i.created_at limit 1)
            and not exists (select from livestore.subscription_history h where h.store = d.id)
        order by d.position
        for update skip locked
    loop
        begin
            -- In parts, none of which takes long. Hooks on DELETE see all of a store at once, as when it is dropped.
            removed := 0;
            perform livestore._keep_triggers(log.eventlog::oid);
            if not livestore._runs_code_on_delete(log.eventlog) then
                execute format(
                    'delete from only %1$s e using (select k.store, k."seqNum" from only %1$s k where k.store = $1 order by k."seqNum" limit 10000) p
                     where e.store = p.store and e."seqNum" = p."seqNum"', log.eventlog
                ) using log.id;
                get diagnostics removed = row_count;
            end if;
            if removed < 10000 then
                perform livestore._remove_departed(log.id);
            end if;
            return true;
        exception when others then
            raise warning 'the events of a store that is on another shard cannot be removed: %', sqlerrm
                using detail = to_json(log.store_id)::text;
        end;
    end loop;
    return false;
end
$$;

comment on function livestore.remove_departed_store() is
'Removes events, ten thousand at most, of a store that is on another shard now, and whose entries in the commit log are pruned; returns whether there was one. Warns of those that cannot be removed. What the sidecar uses';
