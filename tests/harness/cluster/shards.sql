-- What a front of the tests has besides: tables of all shards, so that tests read and change them as those of an only database, and a map
-- that leads sidecars through a breaker. A copy of this database is the front of copies of its shards.
create extension postgres_fdw;
create schema fixture;

create function fixture.database(number integer)
returns text
language sql
as $$
    select current_database() || '_' || number
$$;

-- Lets a copy of the front lead to its own shards.
create function fixture.settle()
returns void
language plpgsql
as $$
declare
    command text;
begin
    create temporary table here as
        select s.number, s.connection, format('host=127.0.0.1 port=%s dbname=%s', current_setting('port'), fixture.database(s.number)) as own
        from livestore.shards s;
    select format('alter server livestore_shards options (%s)', string_agg(format('set p%s %L', o.slot, h.own), ', '))
    into command
    from livestore._slots() o join here h on h.number = o.number;
    execute command;
    update livestore.shards s set connection = h.own from here h where h.number = s.number;
    for command in
        select format('alter server shard_%s options (set port %L, set dbname %L)', h.number, current_setting('port'), fixture.database(h.number))
        from here h
    loop
        execute command;
    end loop;
    drop table here;
end
$$;

-- Connections to the front through a breaker say its port, and the shards are behind the same one then.
alter function livestore.shard_map() rename to _shard_map;
create function livestore.shard_map(
    out names text[], out numbers integer[], out connections text[], out slots integer[], out moved_store_ids text[],
    out moved_shards integer[]
)
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select m.names, m.numbers,
        array(
            select regexp_replace(c, 'port=\d+', coalesce('port=' || current_setting('fixture.port', true), '\&'))
            from unnest(m.connections) c
        ),
        m.slots, m.moved_store_ids, m.moved_shards
    from livestore._shard_map() m
$$;

do $$
declare
    number integer;
    name text;
begin
    for number in select s.number from livestore.shards s order by 1 loop
        execute format(
            'create server shard_%s foreign data wrapper postgres_fdw options (host ''127.0.0.1'', port %L, dbname %L)',
            number, current_setting('port'), fixture.database(number)
        );
        execute format('create user mapping for public server shard_%s options (user ''postgres'')', number);
        execute format('create schema shard_%s', number);
        execute format(
            'import foreign schema livestore limit to (stores, eventlog_1, events, relayed_events) from server shard_%s into shard_%1$s', number
        );
        foreach name in array array['stores', 'eventlog_1', 'events', 'relayed_events'] loop
            if number = 0 then
                execute format('create table livestore.%s (like shard_0.%1$s)', name);
            end if;
            execute format('alter foreign table shard_%s.%s inherit livestore.%2$s', number, name);
        end loop;
    end loop;
end
$$;
