-- Takes all locks before anything changes. One by one, as each statement needs them, they would be taken in another order than pushes and
-- readers take them, and end in deadlocks. Each try ends before a deadlock is looked for, and lets go of what it has: whoever pushes waits
-- for a moment only, even if some transaction stays open for long.
do $$
declare
    relations text;
    patience interval := coalesce(nullif(current_setting('livestore.wait_for_locks', true), ''), '60 seconds');
    begun timestamptz := clock_timestamp();
    before text := current_setting('lock_timeout');
    holders text;
begin
    -- In the order of pushes. A view locks what it is of, too, and with livestore.events the tables of single stores.
    select string_agg(
            c.oid::regclass::text, ', '
            order by array_position('{stores,eventlog_1,events}'::text[], c.relname::text) nulls last, c.relkind desc, c.relname
        )
    into relations
    from pg_class c
    where c.relnamespace = to_regnamespace('livestore') and c.relkind in ('r', 'v')
        and not exists (select from pg_inherits i where i.inhrelid = c.oid);
    if relations is null then
        return;
    end if;
    perform set_config('lock_timeout', '300ms', true);
    loop
        begin
            execute 'lock table ' || relations || ' in access exclusive mode';
            exit;
        exception when lock_not_available or deadlock_detected then
            if clock_timestamp() > begun + patience then
                select string_agg(distinct l.pid::text, ', ') into holders
                from pg_locks l
                join pg_class c on c.oid = l.relation and c.relnamespace = 'livestore'::regnamespace
                where l.granted and l.pid <> pg_backend_pid();
                raise exception 'transactions that use livestore_sync stay open: no lock on its tables within %', patience
                    using errcode = 'lock_not_available',
                        detail = format('Processes that have locks now: %s.', coalesce(holders, 'none')),
                        hint = 'select * from pg_stat_activity shows what they do. End them, or wait for longer: set livestore.wait_for_locks = ''10min''';
            end if;
        end;
        -- Others go first.
        perform pg_sleep(0.05 + random() * 0.2);
    end loop;
    perform set_config('lock_timeout', before, true);
end
$$;
