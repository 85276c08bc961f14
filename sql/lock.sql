-- Takes all locks before anything changes. One by one, as each statement needs them, they would be taken in another order than pushes and
-- readers take them, and end in deadlocks. Each try ends before a deadlock is looked for, and lets go of what it has: whoever pushes waits
-- for a moment only, even if some transaction stays open for long.
do $$
declare
    relations text;
    ids oid[];
    patience interval := coalesce(nullif(current_setting('livestore.wait_for_locks', true), ''), '60 seconds');
    begun timestamptz := clock_timestamp();
    before text := current_setting('lock_timeout');
    long_try timestamptz := '-infinity';
    holders text;
begin
    -- In the order of pushes. A view locks what it is of, too, and with livestore.events the tables of single stores. Views of others, in
    -- this schema, would lock tables of others.
    select array_agg(c.oid), string_agg(
            c.oid::regclass::text, ', '
            order by array_position('{stores,eventlog_1,events}'::text[], c.relname::text) nulls last, c.relkind desc, c.relname
        )
    into ids, relations
    from pg_class c
    where c.relnamespace = to_regnamespace('livestore') and c.relkind in ('r', 'v')
        and not exists (select from pg_inherits i where i.inhrelid = c.oid)
        and (
            c.relowner = to_regrole('livestore_owner')
            or exists (
                select from pg_depend d join pg_extension e on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid
                where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e' and e.extname = 'livestore_sync'
            )
        );
    if relations is null then
        return;
    end if;
    loop
        -- Postgres ends an autovacuum that somebody waits for, but only when it looks for a deadlock. So a try that meets one, or another
        -- VACUUM, waits for longer; not more than every ten seconds.
        if long_try < clock_timestamp() - interval '10 seconds' and exists (
            select from pg_locks l
            where l.granted and l.mode = 'ShareUpdateExclusiveLock' and l.relation = any(ids)
                and l.database = (select d.oid from pg_database d where d.datname = current_database())
        ) then
            long_try := clock_timestamp();
            perform set_config(
                'lock_timeout', (extract(epoch from current_setting('deadlock_timeout')::interval) * 1000 + 500)::bigint || 'ms', true
            );
        else
            perform set_config('lock_timeout', '300ms', true);
        end if;
        begin
            execute 'lock table ' || relations || ' in access exclusive mode';
            exit;
        exception when lock_not_available or deadlock_detected then
            if clock_timestamp() > begun + patience then
                select string_agg(distinct coalesce('process ' || l.pid, 'prepared transaction ' || quote_literal(p.gid)), ', ') into holders
                from pg_locks l
                -- A prepared transaction is known by the lock on its number: after a restart of Postgres, it has another virtual one.
                left join pg_locks t
                    on t.locktype = 'transactionid' and t.virtualtransaction = l.virtualtransaction and t.pid is null and l.pid is null
                left join pg_prepared_xacts p on p.transaction = t.transactionid
                where l.granted and l.pid is distinct from pg_backend_pid() and l.relation = any(ids)
                    and l.database = (select d.oid from pg_database d where d.datname = current_database());
                raise exception 'transactions that use livestore_sync stay open: no lock on its tables within %', patience
                    using errcode = 'lock_not_available',
                        detail = format('Locks are held by: %s.', coalesce(holders, 'nobody any more')),
                        hint = 'select * from pg_stat_activity shows what processes do. End them (a prepared transaction: rollback prepared), or wait for longer: set livestore.wait_for_locks = ''10min''';
            end if;
        end;
        -- Others go first.
        perform pg_sleep(0.05 + random() * 0.2);
    end loop;
    perform set_config('lock_timeout', before, true);
end
$$;
