create or replace function livestore._subscriber(subscription text)
returns livestore.subscribers
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    subscriber livestore.subscribers;
begin
    select * into subscriber from livestore.subscribers s where s.name = subscription;
    if not found then
        raise exception 'there is no subscription %', coalesce(to_json(subscription)::text, 'null')
            using errcode = 'undefined_object', hint = 'livestore.subscriptions lists them; livestore.subscribe makes one.';
    end if;
    return subscriber;
end
$$;

comment on function livestore._subscriber(text) is 'Internal: a subscription';

create or replace function livestore._leased(lease text)
returns livestore.subscription_partitions
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    place livestore.subscription_partitions;
begin
    -- Also after its time, as long as no other worker has come.
    select * into place from livestore.subscription_partitions p where p.lease = $1 for update;
    if not found then
        raise exception 'the lease has ended' using errcode = 'LS007',
            hint = 'Another worker has the events, or they were acknowledged. Roll back, and poll again; a longer lease_time may help.';
    end if;
    return place;
end
$$;

comment on function livestore._leased(text) is 'Internal: the partition with a lease, locked; raises LS007 if no partition has it';

create or replace function livestore._put(place livestore.subscription_partitions)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    update livestore.subscription_partitions p
    set "position" = place."position", lease = place.lease, leased_until = place.leased_until, batch_size = place.batch_size,
        batch_end = place.batch_end, batch_store = place.batch_store, dead_letter = place.dead_letter, one_by_one = place.one_by_one,
        failures = place.failures, retry_at = place.retry_at, error = place.error, polled_at = place.polled_at
    where p.subscription = place.subscription and p.partition = place.partition
$$;

comment on function livestore._put(livestore.subscription_partitions) is 'Internal: stores the state of a partition';

create or replace function livestore._pass(place livestore.subscription_partitions)
returns livestore.subscription_partitions
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if place.dead_letter is not null then
        delete from livestore.dead_letters d where d.id = place.dead_letter;
    elsif place.batch_store is not null then
        delete from livestore.subscription_history h
        where h.subscription = place.subscription and h.partition = place.partition and h.store < place.batch_store;
        update livestore.subscription_history h set after = place.batch_end
        where h.subscription = place.subscription and h.partition = place.partition and h.store = place.batch_store;
        place.one_by_one := greatest(place.one_by_one - place.batch_size, 0);
    else
        place.position := place.batch_end;
        place.one_by_one := greatest(place.one_by_one - place.batch_size, 0);
    end if;
    place.lease := null;
    place.leased_until := null;
    place.batch_size := null;
    place.batch_end := null;
    place.batch_store := null;
    place.dead_letter := null;
    place.failures := 0;
    place.retry_at := null;
    return place;
end
$$;

comment on function livestore._pass(livestore.subscription_partitions) is
'Internal: the state of a partition behind the events that were given out';

create or replace function livestore._fail(
    subscriber livestore.subscribers, place livestore.subscription_partitions, error text
)
returns livestore.subscription_partitions
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    batch livestore.polled_event[];
    event livestore.polled_event;
    events integer := place.batch_size;
    is_known boolean := true;
begin
    place.failures := place.failures + 1;
    place.error := left(error, 1000);
    place.lease := null;
    place.leased_until := null;
    if place.failures < subscriber.max_failures then
        return place;
    end if;
    if place.dead_letter is not null then
        update livestore.dead_letters d
        set is_queued = false, failures = d.failures + place.failures, error = place.error, failed_at = clock_timestamp()
        where d.id = place.dead_letter;
        place.dead_letter := null;
        place.batch_size := null;
    else
        if events = 1 then
            batch := case when place.batch_store is not null then livestore._next_history(subscriber, place, 100, 1)
                else livestore._next_commits(subscriber, place, 1, 1) end;
            event := batch[1];
            -- An event that was rewritten meanwhile may have the name of those that are given out, or not have it any more.
            events := count(*) from unnest(batch) e where e.store_id is not null;
            -- Of a store that was reset or dropped meanwhile, this is another one.
            is_known := events = 0 or place.batch_store is null or event.seq_num = place.batch_end
                and place.batch_store in (select s.id from livestore.kept_logs s where s.store_id = event.store_id);
        end if;
        if events > 1 or not is_known then
            place.one_by_one := events;
            place.batch_size := null;
            place.batch_end := null;
            place.batch_store := null;
        else
            if events = 1 then
                perform livestore._mend_row_numbers('livestore.dead_letters');
                insert into livestore.dead_letters (
                    subscription, "partition", "position", store_id, seq_num, name, args, client_id, session_id, created_at, change,
                    failures, error
                )
                values (
                    place.subscription, place.partition, event."position", event.store_id, event.seq_num, event.name, event.args,
                    event.client_id, event.session_id, event.created_at, event.change, place.failures, place.error
                );
            end if;
            place := livestore._pass(place);
        end if;
    end if;
    place.failures := 0;
    return place;
end
$$;

comment on function livestore._fail(livestore.subscribers, livestore.subscription_partitions, text) is
'Internal: the state of a partition after the events that were given out have failed';

-- Called by livestore.run_subscription, which has the rights of its caller.
create or replace function livestore._give_one_by_one(lease text, error text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    place livestore.subscription_partitions := livestore._leased(lease);
begin
    place.one_by_one := place.batch_size;
    place.error := left(error, 1000);
    place.lease := null;
    place.leased_until := null;
    place.batch_size := null;
    place.batch_end := null;
    place.batch_store := null;
    place.failures := 0;
    place.polled_at := clock_timestamp();
    perform livestore._put(place);
end
$$;

comment on function livestore._give_one_by_one(text, text) is
'Internal: gives the events of a lease back, and out again one by one, since they take too long together';

create or replace function livestore._forget_errors(store_id text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
begin
    -- Handlers that are running have locked their partition, and may commit to the store: callers lock it afterwards.
    perform from livestore.subscription_partitions p
    join livestore.subscribers s on s.name = p.subscription
    where p.partition = livestore._partition_of($1, s.partitions) and (s.stores is null or $1 like s.stores)
    order by p.subscription, p.partition
    for update of p;
    -- All of them: a worker with an older snapshot, in which the events are as they were, then fails with 40001 instead of making a dead
    -- letter of one. A lock alone would not make it fail.
    update livestore.subscription_partitions p set error = null
    from livestore.subscribers s
    where s.name = p.subscription and p.partition = livestore._partition_of($1, s.partitions) and (s.stores is null or $1 like s.stores);
end
$$;

comment on function livestore._forget_errors(text) is
'Internal: removes what workers have told of errors in the partitions of a store, since it may have what events say. Waits for handlers that are running';

create or replace function livestore._next_commits(
    subscriber livestore.subscribers, place livestore.subscription_partitions, max_events integer, max_bytes integer
)
returns livestore.polled_event[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
declare
    -- A batch that is given out again: everything up to its end.
    is_again constant boolean := place.batch_end is not null;
begin
    return array(
        select row(
            place.lease, place.partition, e.position, e.store_id, e.seq_num, e.name, e.args, e.client_id, e.session_id, e.created_at,
            e.change, place.failures
        )::livestore.polled_event
        from livestore._read_commits(
            place.position, subscriber.names, subscriber.stores, subscriber.partitions, place.partition,
            case when is_again then greatest(least(place.batch_end - place.position, 1000000)::integer, 1) else max_events end,
            case when not is_again then max_bytes end
        ) e
        where not is_again or e.position <= place.batch_end
        order by e.position
        limit case when not is_again and place.one_by_one > 0 then 1 end
    );
end
$$;

comment on function livestore._next_commits(livestore.subscribers, livestore.subscription_partitions, integer, integer) is
'Internal: the next events of a partition in the commit log; a last one without a store says how far the log was read';

create or replace function livestore._next_history(
    subscriber livestore.subscribers, place livestore.subscription_partitions, max_events integer, max_bytes integer
)
returns livestore.polled_event[]
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return array(
        select row(
            place.lease, place.partition, null, f.store_id, f.seq_num, f.name, f.args, f.client_id, f.session_id, f.created_at, null,
            place.failures
        )::livestore.polled_event
        from (
            select n.*, sum(octet_length(n.args::text)) over (order by n.store, n.seq_num) as bytes,
                row_number() over (order by n.store, n.seq_num) as n
            from (
                select h.store, s.store_id, e.*
                from (select * from livestore._history_step(place) s order by s.store) h
                join livestore.kept_logs s on s.id = h.store
                cross join lateral livestore._history_events(s.eventlog::oid, h.store, h.after, h.upto, subscriber.names, max_events) e
                order by h.store, e.seq_num
                limit max_events
            ) n
        ) f
        -- A batch that is given out again has the size that it had.
        where place.batch_end is not null or f.n = 1 or coalesce(f.bytes, 0) <= max_bytes
        order by f.store, f.seq_num
    );
end
$$;

comment on function livestore._next_history(livestore.subscribers, livestore.subscription_partitions, integer, integer) is
'Internal: the next events of a partition from before the subscription was made';

create or replace function livestore._history_step(place livestore.subscription_partitions)
returns table (store bigint, after bigint, upto bigint)
language sql
stable
rows 100
set search_path = pg_catalog, pg_temp
-- The primary key has the order. Nothing is known about a history that was just written.
set enable_seqscan = off
set enable_bitmapscan = off
as $$
    select h.store, h.after,
        case
            when place.batch_end is null then least(h.upto, h.after + 10000 - h.before)
            when h.store = place.batch_store then place.batch_end
            else h.upto
        end
    from (
        select n.store, n.after, n.upto,
            coalesce(sum(n.upto - n.after) over (order by n.store rows between unbounded preceding and 1 preceding), 0)::bigint as before
        from (
            select h.store, h.after, h.upto
            from livestore.subscription_history h
            where h.subscription = place.subscription and h.partition = place.partition
                and (place.batch_end is null or h.store <= place.batch_store)
            order by h.store
            limit case when place.batch_end is null then 100 end
        ) n
    ) h
    where place.batch_end is not null or h.before < 10000
    order by h.store
$$;

comment on function livestore._history_step(livestore.subscription_partitions) is
'Internal: the part of the history that one step looks at: 100 stores and 10,000 events at most, or all that a batch that is given out again comes from';

create or replace function livestore._pass_history(place livestore.subscription_partitions)
returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
as $$
declare
    -- Only of the last store of a step, a part may be left.
    last record;
begin
    select s.store, s.upto into last from livestore._history_step(place) s order by s.store desc limit 1;
    -- By a range of the primary key: a join with the step could read all that is left of the history.
    delete from livestore.subscription_history h
    where h.subscription = place.subscription and h.partition = place.partition and h.store <= last.store
        and (h.store < last.store or h.upto <= last.upto);
    -- A gap may be as wide as a client wants it: the next step begins with an event.
    update livestore.subscription_history h set after = coalesce((
        select e.seq_num - 1
        from livestore.kept_logs l
        cross join lateral livestore._history_events(l.eventlog::oid, l.id, last.upto, h.upto, null, 1) e
        where l.id = h.store
    ), h.upto)
    where h.subscription = place.subscription and h.partition = place.partition and h.store = last.store;
    return exists (
        select from livestore.subscription_history h where h.subscription = place.subscription and h.partition = place.partition
    );
end
$$;

comment on function livestore._pass_history(livestore.subscription_partitions) is
'Internal: passes what livestore._history_step returns, in which there is nothing for a subscription; whether there is more history';

create or replace function livestore._history_events(
    eventlog oid, store bigint, after bigint, upto bigint, names text[], max_events integer
)
returns table (seq_num bigint, name text, args json, client_id text, session_id text, created_at timestamptz)
language plpgsql
stable
set search_path = pg_catalog, pg_temp
as $$
begin
    return query execute format(
        'select l."seqNum", l.name, l.args, l."clientId", l."sessionId", l."createdAt"
         from only %s l
         where l.store = $1 and l."seqNum" > $2 and l."seqNum" <= $3 and ($4 is null or l.name = any ($4))
         order by l."seqNum" limit $5', eventlog::regclass
    ) using store, after, upto, names, max_events;
end
$$;

comment on function livestore._history_events(oid, bigint, bigint, bigint, text[], integer) is
'Internal: events of a store behind one sequence number and up to another';

create or replace function livestore._handler(subscription text)
returns regprocedure
language plpgsql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
set quote_all_identifiers = off
as $$
declare
    subscriber constant livestore.subscribers := livestore._subscriber(subscription);
    handler regprocedure;
    owner record;
    schema record;
    other regprocedure;
begin
    -- to_regprocedure would need the right to use its schema.
    select p.oid, r.oid as id, r.rolname as name, r.rolsuper as is_superuser, p.pronamespace, p.proname into owner
    from pg_proc p join pg_roles r on r.oid = p.proowner join pg_namespace n on n.oid = p.pronamespace
    where p.proargtypes::text = 'livestore.polled_event'::regtype::oid::text and subscriber.handler in (
        p.oid::regprocedure::text,
        -- As version 0.3.0 wrote it under quote_all_identifiers.
        format('"%s"."%s"("livestore"."polled_event")', replace(n.nspname, '"', '""'), replace(p.proname, '"', '""'))
    );
    handler := owner.oid;
    if livestore._is_handler(handler) is not true then
        raise exception 'the subscription % has no handler', to_json(subscription)
            using errcode = 'undefined_function', hint = 'livestore.subscribe names one, or it was dropped or renamed.';
    end if;
    -- A stranger may make a schema and a function with the names of those that were dropped. It must not run with the rights of a sidecar.
    if owner.name is distinct from subscriber.handler_owner and not owner.is_superuser then
        raise exception 'the handler % belongs to %, and not to % any more', handler, owner.name, subscriber.handler_owner
            using errcode = 'insufficient_privilege',
                hint = case
                    when to_regrole(quote_ident(subscriber.handler_owner)) is null then 'Make the subscription anew.'
                    else format('alter function %s owner to %I, or make the subscription anew.', handler, subscriber.handler_owner)
                end;
    end if;
    -- The owner of a schema can drop what others have in it, and put a function of his own in the place, even between two events.
    select n.nspname as name, r.rolname as owner into schema
    from pg_namespace n join pg_roles r on r.oid = n.nspowner
    where n.oid = owner.pronamespace and not r.rolsuper and r.rolname <> 'pg_database_owner'
        and r.oid <> (select d.datdba from pg_database d where d.datname = current_database())
        and not pg_has_role(r.oid, owner.id, 'member');
    if found then
        raise exception 'the handler % belongs to %, but its schema to %, who can replace it', handler, owner.name, schema.owner
            using errcode = 'insufficient_privilege',
                hint = format('alter schema %I owner to %I, or move the handler to a schema of its owner.', schema.name, owner.name);
    end if;
    -- It is called by its name: Postgres would not know which one is meant.
    select p.oid into other
    from pg_proc p
    where p.pronamespace = owner.pronamespace and p.proname = owner.proname and p.oid <> handler
        and p.pronargs - p.pronargdefaults <= 1 and (p.pronargs > 1 or p.prokind = 'p')
    limit 1;
    if found then
        raise exception 'the handler % cannot be told from %, which can be called with one argument, too', handler, other
            using errcode = 'ambiguous_function', hint = 'Rename one of them.';
    end if;
    return handler;
end
$$;

comment on function livestore._handler(text) is 'Internal: the function that handles the events of a subscription';

create or replace function livestore._is_handler(handler regprocedure)
returns boolean
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select exists (
        select from pg_proc p
        where p.oid = handler and p.prokind = 'f' and not p.proretset and p.proargtypes::text = 'livestore.polled_event'::regtype::oid::text
    )
$$;

comment on function livestore._is_handler(regprocedure) is 'Internal: whether a function can handle the events of a subscription';

-- Not `set constraints all`: the triggers that give a commit its positions come last in a transaction, which may go on.
create or replace function livestore._check_deferred()
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    names constant text := string_agg(distinct format('%I.%I', n.nspname, c.conname), ', ')
        from pg_constraint c join pg_namespace n on n.oid = c.connamespace
        where c.condeferred and c.conname not in ('livestore_queue_commit', 'livestore_number_commit', 'livestore_restart')
            and has_schema_privilege(n.oid, 'usage') and not pg_is_other_temp_schema(n.oid)
            -- Only a name that means deferrable ones can be deferred again.
            and not exists (
                select from pg_constraint o where o.connamespace = c.connamespace and o.conname = c.conname and not o.condeferrable
            );
begin
    if names is not null then
        execute format('set constraints %s immediate', names);
        execute format('set constraints %s deferred', names);
    end if;
end
$$;

comment on function livestore._check_deferred() is
'Internal: checks the constraints of the application that are deferred to the commit, where nobody would count a failure of a handler';

create or replace function livestore._start(subscriber livestore.subscribers, start text)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    pruned bigint;
    last_position bigint;
    from_position bigint;
begin
    -- Pruning waits, or knows of this subscription: with an older snapshot it fails. A lock alone would not make it fail.
    update livestore.instance i set pruned_commits = i.pruned_commits;
    pruned := (select i.pruned_commits from livestore.instance i order by i.created_at limit 1);
    delete from livestore.subscription_history h where h.subscription = subscriber.name;
    -- One statement sees both as of one moment: positions become visible in their order, so the heads that it sees are those up to
    -- the last position. Commits go on meanwhile: this takes long with many stores.
    with place as materialized (
        select livestore.last_position() as last_position
    ), history as (
        insert into livestore.subscription_history
        select subscriber.name, livestore._partition_of(s.store_id, subscriber.partitions), s.id, 0, s.head
        from livestore.stores s
        where start = 'beginning' and s.head > 0 and (subscriber.stores is null or s.store_id like subscriber.stores)
    )
    select p.last_position into last_position from place p;
    from_position := case when start in ('now', 'beginning') then last_position else start::bigint end;
    if from_position not between pruned and last_position then
        raise exception 'the commit log has the positions from % to %', pruned, last_position
            using errcode = 'LS006', detail = json_build_object('prunedPosition', pruned), hint = 'Start at the beginning, or now.';
    end if;
    update livestore.subscription_partitions p
    set "position" = from_position, lease = null, leased_until = null, batch_size = null, batch_end = null, batch_store = null,
        dead_letter = null, one_by_one = 0, failures = 0, retry_at = null, error = null
    where p.subscription = subscriber.name;
    update livestore.subscribers s set started_at = clock_timestamp(), is_restarting = false where s.name = subscriber.name;
end
$$;

comment on function livestore._start(livestore.subscribers, text) is
'Internal: sets all partitions of a subscription to now, the beginning or a position';

create or replace function livestore._restart()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
set lock_timeout = 0
as $$
declare
    subscriber livestore.subscribers;
begin
    -- It may have been removed since, and made again.
    select * into subscriber from livestore.subscribers s where s.name = new.name and s.is_restarting;
    if found then
        perform livestore._start(subscriber, 'beginning');
        perform pg_notify('livestore_heads', '{"heads":{},"subscriptions":true}');
    end if;
    return null;
end
$$;

comment on function livestore._restart() is 'Internal: trigger that rebuilds a subscription, at the end of the transaction';

-- Named so that no hook of an application has this name, as for the commit log.
drop trigger if exists livestore_restart on livestore.subscribers;
create constraint trigger livestore_restart after update on livestore.subscribers
    deferrable initially deferred for each row when (new.is_restarting) execute function livestore._restart();
alter table livestore.subscribers enable always trigger livestore_restart;
comment on trigger livestore_restart on livestore.subscribers is 'Rebuilds a subscription, at the end of the transaction';
