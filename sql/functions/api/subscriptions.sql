-- Durable subscriptions: each partition of one is a cursor into the commit log that one worker has at a time.
create or replace function livestore.subscribe(
    subscription text, names text[] default null, stores text default null, partitions integer default 1, start text default 'now',
    max_failures integer default 10, handler regprocedure default null, url text default null
)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
set lock_timeout = 0
-- livestore._handler compares the text of the handler.
set quote_all_identifiers = off
as $$
begin
    if start is null or start !~ '^(now|beginning|[0-9]{1,18})$' then
        raise exception 'start must be now, beginning, or a position' using errcode = 'invalid_parameter_value';
    end if;
    if octet_length(stores) > 1024 or cardinality(names) not between 1 and 1000 or array_position(names, null) is not null then
        raise exception 'stores must be a pattern of at most 1024 bytes, and names between 1 and 1000 names'
            using errcode = 'invalid_parameter_value';
    end if;
    -- Every poll would fail.
    if (length(stores) - length(rtrim(stores, chr(92)))) % 2 = 1 then
        raise exception 'stores must not end with a backslash that nothing follows' using errcode = 'invalid_escape_sequence';
    end if;
    if handler is not null and not livestore._is_handler(handler) then
        raise exception 'the handler % must be a function of one argument of the type livestore.polled_event', handler
            using errcode = 'invalid_function_definition';
    end if;
    if url !~ '^https?://[^[:space:]]+$' or octet_length(url) > 2048 then
        raise exception 'url must be an http or https URL of at most 2048 bytes' using errcode = 'invalid_parameter_value';
    end if;
    if handler is not null and url is not null then
        raise exception 'a subscription has a handler or a url' using errcode = 'invalid_parameter_value',
            hint = 'Make two subscriptions.';
    end if;
    insert into livestore.subscribers (name, names, stores, partitions, max_failures, handler, handler_owner, url)
    values (
        subscription, names, stores, partitions, max_failures, handler::text,
        (select r.rolname from pg_proc p join pg_roles r on r.oid = p.proowner where p.oid = handler), url
    );
    if handler is not null then
        perform livestore._handler(subscription);
    end if;
    insert into livestore.subscription_partitions (subscription, "partition", "position")
    select subscription, p.n, 0 from generate_series(0, partitions - 1) p(n);
    perform livestore._start(livestore._subscriber(subscription), start);
    if handler is not null or url is not null then
        -- Sidecars serve it from now on.
        perform pg_notify('livestore_heads', '{"heads":{},"subscriptions":true}');
    end if;
end
$$;

comment on function livestore.subscribe(text, text[], text, integer, text, integer, regprocedure, text) is
'Makes a durable subscription to events of these names (null: all) of stores whose id is LIKE a pattern (null: all). start: now, beginning (all events that there are, then all that come), or a position of livestore.read_all. Up to partitions workers (1 to 256) share it by livestore.poll; the events of a store stay in order. An event that fails max_failures times (1 to 1000) becomes a dead letter. handler: a function of one argument, livestore.polled_event, that livestore.run_subscription calls. url: where sidecars send the events to, signed as the Standard Webhooks specification says. The commit log is kept until all subscriptions have passed it';

create or replace function livestore.unsubscribe(subscription text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    perform livestore._subscriber(subscription);
    -- In the order in which livestore.rebuild locks them. A handler that is running has its partition and then needs the row of the
    -- subscription, so a delete that locks that row first would deadlock with it.
    perform from livestore.subscribers s where s.name = subscription for no key update;
    perform from livestore.subscription_partitions p where p.subscription = unsubscribe.subscription order by p.partition for update;
    delete from livestore.subscribers s where s.name = subscription;
    perform pg_notify('livestore_heads', '{"heads":{},"subscriptions":true}');
end
$$;

comment on function livestore.unsubscribe(text) is 'Removes a durable subscription with its dead letters';

create or replace function livestore.rebuild(subscription text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
set lock_timeout = 0
as $$
declare
    subscriber constant livestore.subscribers := livestore._subscriber(subscription);
begin
    -- Before its partitions, as unsubscribe locks them. Handlers may write dead letters meanwhile.
    perform from livestore.subscribers s where s.name = subscriber.name for no key update;
    -- Waits for handlers that are running. Workers that have events find their lease ended.
    perform from livestore.subscription_partitions p where p.subscription = subscriber.name order by p.partition for update;
    delete from livestore.dead_letters d where d.subscription = subscriber.name;
    -- The rest happens when this transaction ends: it begins with what is committed by then.
    update livestore.subscribers s set is_restarting = true where s.name = subscriber.name;
end
$$;

comment on function livestore.rebuild(text) is
'Gives all events to a subscription once more, from the beginning, and then those that come. Empty what its handler has written in the same transaction, after this call: then nothing is missing or there twice afterwards. Its handler does not run until that transaction has ended. Commit no events in it: they would come twice. Its dead letters are removed, and its workers find that their leases have ended (LS007)';

create or replace function livestore.poll(
    subscription text, max_events integer default 100, lease_time interval default '30 seconds', max_bytes integer default 8388608
)
returns setof livestore.polled_event
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    subscriber livestore.subscribers;
    place livestore.subscription_partitions;
    batch livestore.polled_event[];
    letter livestore.dead_letters;
    looked_upto bigint;
    has_more boolean;
    visited integer[] := '{}';
    former livestore.subscription_partitions;
    start constant timestamptz := clock_timestamp();
begin
    if max_events is null or max_events not between 1 and 10000 then
        raise exception 'max_events must be between 1 and 10000' using errcode = 'invalid_parameter_value';
    end if;
    if lease_time is null or lease_time not between interval '1 second' and interval '1 day' then
        raise exception 'lease_time must be between a second and a day' using errcode = 'invalid_parameter_value';
    end if;
    if max_bytes is null or max_bytes not between 1 and 67108864 then
        raise exception 'max_bytes must be between 1 and 67108864' using errcode = 'invalid_parameter_value';
    end if;
    subscriber := livestore._subscriber(subscription);
    -- Each partition that no other worker has, once, beginning with the one that was longest without.
    loop
        select * into place
        from livestore.subscription_partitions p
        where p.subscription = subscriber.name and p.partition <> all (visited)
            and (
                (p.lease is null or p.leased_until <= clock_timestamp()) and (p.retry_at is null or p.retry_at <= clock_timestamp())
                -- The clock was set back, or a standby with another one was promoted: nobody would come here for as long.
                or p.polled_at > clock_timestamp() + interval '1 minute'
            )
        order by coalesce(p.polled_at > clock_timestamp() + interval '1 minute', false) desc, p.polled_at nulls first, p.partition
        for update skip locked limit 1;
        exit when place.subscription is null;
        -- It may have been removed and made again meanwhile. From here on it cannot be removed.
        subscriber := livestore._subscriber(subscription);
        visited := visited || place.partition;
        former := place;
        if place.lease is not null then
            place := livestore._fail(subscriber, place, 'the lease ended');
        end if;
        place.lease := gen_random_uuid()::text;
        place.retry_at := null;
        place.polled_at := clock_timestamp();
        batch := null;
        has_more := false;
        if place.batch_end is null then
            select * into letter
            from livestore.dead_letters d
            where d.subscription = place.subscription and d.partition = place.partition and d.is_queued
            order by d.id limit 1;
            place.dead_letter := letter.id;
        end if;
        if place.dead_letter is not null then
            batch := array(
                select row(place.lease, d.partition, d.position, d.store_id, d.seq_num, d.name, d.args, d.client_id, d.session_id,
                    d.created_at, d.change, place.failures)::livestore.polled_event
                from livestore.dead_letters d where d.id = place.dead_letter
            );
        elsif exists (
            select from livestore.subscription_history h where h.subscription = place.subscription and h.partition = place.partition
        ) then
            -- Events of no interest are passed here, too.
            loop
                batch := livestore._next_history(
                    subscriber, place,
                    case when place.batch_end is not null then place.batch_size when place.one_by_one > 0 then 1 else max_events end,
                    max_bytes
                );
                exit when cardinality(batch) > 0;
                has_more := livestore._pass_history(place);
                if place.batch_end is not null then
                    place.failures := 0;
                    place.batch_size := null;
                    place.batch_end := null;
                    place.batch_store := null;
                end if;
                exit when not has_more or clock_timestamp() > start + interval '1 second';
            end loop;
            if cardinality(batch) > 0 then
                -- Before the end is noted, which changes the step. A join with the history could read all that is left of it.
                place.batch_store := (
                    select s.id
                    from livestore._history_step(place) h
                    join livestore.kept_logs s on s.id = h.store
                    where s.store_id = batch[cardinality(batch)].store_id
                );
                place.batch_end := batch[cardinality(batch)].seq_num;
                -- It was reset or dropped since it was read.
                continue when place.batch_store is null;
            end if;
        end if;
        if coalesce(cardinality(batch), 0) = 0 and not has_more then
            place.dead_letter := null;
            place.batch_store := null;
            -- Events of no interest to this partition are passed, as far as one call may go.
            loop
                batch := livestore._next_commits(subscriber, place, max_events, max_bytes);
                -- A batch that is given out again may have lost all its events, to a reset.
                looked_upto := coalesce(batch[cardinality(batch)].position, place.batch_end);
                if batch[cardinality(batch)].store_id is null then
                    batch := batch[:cardinality(batch) - 1];
                end if;
                exit when looked_upto is null or cardinality(batch) > 0;
                place.position := looked_upto;
                if place.batch_end is not null then
                    place.failures := 0;
                    place.batch_size := null;
                    place.batch_end := null;
                end if;
                exit when clock_timestamp() > start + interval '1 second';
            end loop;
            place.batch_end := case when cardinality(batch) > 0 then looked_upto end;
        end if;
        if cardinality(batch) > 0 then
            place.batch_size := cardinality(batch);
            place.leased_until := clock_timestamp() + lease_time;
            perform livestore._put(place);
            return query select * from unnest(batch);
            return;
        end if;
        place.lease := null;
        place.failures := 0;
        place.one_by_one := 0;
        if has_more then
            -- The next call begins with another partition.
            perform livestore._put(place);
            return;
        end if;
        -- Everybody who waits for events comes here with each commit.
        if place.position <> former.position or former.lease is not null or former.failures > 0 or former.one_by_one > 0
            or former.retry_at is not null or former.batch_size is not null or former.dead_letter is not null
            or former.polled_at is null or former.polled_at not between start - interval '10 seconds' and start
        then
            perform livestore._put(place);
        end if;
        -- All partitions together could take longer than a statement may, and what was passed would be lost each time.
        exit when clock_timestamp() > start + interval '1 second';
    end loop;
end
$$;

comment on function livestore.poll(text, integer, interval, integer) is
'The next events of a partition of a subscription that no other worker has, at most max_events (1 to 10000) with max_bytes of args (8 MiB; at most 64 MiB; an event of more comes alone), for lease_time (a second to a day). Call livestore.ack in the transaction of what you do with them, or livestore.nack. No row: there is nothing to do, or the call has passed over events of no interest for a second, and the next one goes on behind them. Events that are not acknowledged in time are given out again, as a batch of the same events, and count as failed';

create or replace function livestore.ack(lease text)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    place livestore.subscription_partitions := livestore._pass(livestore._leased(lease));
begin
    place.error := null;
    perform livestore._put(place);
end
$$;

comment on function livestore.ack(text) is
'Acknowledges the events that livestore.poll has given out with a lease. Raises LS007 if the lease has ended and another worker has the events: what this transaction has done with them is then rolled back';

create or replace function livestore.nack(
    lease text, retry_after interval default '1 second', error text default null, is_failure boolean default true
)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    place livestore.subscription_partitions := livestore._leased(lease);
begin
    if retry_after is null or retry_after not between interval '0' and interval '1 day' then
        raise exception 'retry_after must be between nothing and a day' using errcode = 'invalid_parameter_value';
    end if;
    if is_failure then
        place := livestore._fail(livestore._subscriber(place.subscription), place, error);
    else
        place.error := left(coalesce(error, place.error), 1000);
        place.lease := null;
        place.leased_until := null;
    end if;
    -- By the same clock, so that livestore.poll can tell if it is set back.
    place.polled_at := clock_timestamp();
    place.retry_at := place.polled_at + retry_after;
    perform livestore._put(place);
end
$$;

comment on function livestore.nack(text, interval, text, boolean) is
'Gives the events of a lease back: they have failed, and are given out again after retry_after (at most a day). is_failure => false: they have not failed, the worker stops or what it needs is away. When a batch has failed max_failures times, its events are given out one by one; an event that has then failed as often becomes a dead letter. Raises LS007 like livestore.ack';

create or replace function livestore.resend(dead_letter bigint)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    update livestore.dead_letters d set is_queued = true where d.id = dead_letter;
    if not found then
        raise exception 'there is no dead letter %', dead_letter
            using errcode = 'undefined_object', hint = 'livestore.dead_letters lists them.';
    end if;
end
$$;

comment on function livestore.resend(bigint) is
'Gives a dead letter out again, alone, before the next events of its partition. It goes when it is acknowledged, and stays a dead letter when it fails';

-- With the rights of its caller, which the handler has, too.
create or replace function livestore.run_subscription(
    subscription text, max_events integer default 100, out events bigint, out error text
)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    handler regprocedure;
    call text;
    batch livestore.polled_event[];
    count bigint;
    event livestore.polled_event;
    state text;
    context text;
begin
    batch := array(select p from livestore.poll(subscription, max_events) p);
    count := cardinality(batch);
    -- After that: the subscription may have been made again, with another handler, until its partition was locked.
    handler := livestore._handler(subscription);
    call := format('select %s($1)', handler::regproc);
    -- livestore_admin names the handler, and what it does at the commit has the rights of the caller even if it is security definer.
    if (select r.rolsuper from pg_roles r where r.rolname = current_user)
        and not (select r.rolsuper from pg_proc p join pg_roles r on r.oid = p.proowner where p.oid = handler)
    then
        raise exception 'a superuser cannot run the handler % here, which is not a superuser''s', handler
            using errcode = 'insufficient_privilege',
                hint = 'Call livestore.run_subscription as a role with livestore_writer and no other rights.';
    end if;
    events := 0;
    if count = 0 then
        return;
    end if;
    begin
        -- A handler may set a search_path: nothing that follows the first call looks for an operator or a function in it.
        foreach event in array batch loop
            execute call using event;
        end loop;
        perform livestore.ack(batch[1].lease);
        perform livestore._check_deferred();
        events := count;
    -- Others are not these: a statement that takes too long, and assert.
    exception when query_canceled or assert_failure or others then
        get stacked diagnostics state = returned_sqlstate, error = message_text, context = pg_exception_context;
        -- The work of the handler is undone.
        if state = '57014' and count > 1 then
            -- As many would take too long each time.
            perform livestore._give_one_by_one(batch[1].lease, error || chr(10) || context);
        else
            -- The pause doubles with each failure, up to five minutes.
            perform livestore.nack(
                batch[1].lease, least(interval '1 second' * 2 ^ least(batch[1].failures, 10), interval '5 minutes'),
                error || chr(10) || context
            );
        end if;
    end;
end
$$;

comment on function livestore.run_subscription(text, integer) is
'Calls the handler of a subscription with the next events of one of its partitions, at most max_events (1 to 10000), and acknowledges them in the same transaction: what the handler writes to this database is written exactly once. Returns the number of events; 0 if there is nothing to do. If the handler fails, error is its message, what it has done is undone, and the events count as failed. Events that together take longer than a statement may are given out one by one instead. The handler has the rights of the caller, unless it is security definer. Call it as a role with livestore_writer and no other rights: a superuser may not run the handler of somebody who is none';
