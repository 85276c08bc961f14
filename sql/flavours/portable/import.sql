create or replace function livestore._check_batch(batch text, after bigint)
returns table (sqlstate text, message text, detail text)
language plpgsql
strict
set search_path = pg_catalog, pg_temp
as $$
begin
    return query
    select p.sqlstates[1], p.messages[1], p.details[1]
    from livestore._read_batches(array[batch]) r
    cross join lateral livestore._plan(
        array[1], array[null::text], array[null::bigint], array[after], array[''], r.pushes, r.names, r.args, r.seq_nums,
        r.parent_seq_nums, r.client_ids, r.session_ids, r.unreadable, r.flaws
    ) p;
end
$$;

comment on function livestore._check_batch(text, bigint) is
'Internal: checks a batch that should follow the event after of a log, and returns the error that livestore.push_batch would; nulls if it is valid';

-- A table or view of another role can call functions of that role, which must not run as the superuser who imports. The
-- native flavour reads it as its owner; here a superuser has to connect as another role.
create or replace function livestore._check_reader(source oid)
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    owner record;
begin
    select r.rolname, r.rolsuper into owner from pg_class c join pg_roles r on r.oid = c.relowner where c.oid = source;
    if not found then
        raise exception 'there is no table with the number %', source using errcode = 'undefined_table';
    end if;
    if not owner.rolsuper and (select r.rolsuper from pg_roles r where r.rolname = current_user) then
        raise exception 'a superuser cannot import % here: what it calls would run as a superuser', source::regclass
            using errcode = 'insufficient_privilege',
                hint = format('Connect as %s, or as another role that may read it, after: grant livestore_admin to %1$I', owner.rolname);
    end if;
end
$$;

comment on function livestore._check_reader(oid) is
'Internal: fails for a superuser who would read a table or view of somebody who is none';

create or replace function livestore._open_source(source oid, query text)
returns text
language plpgsql
strict
set search_path = pg_catalog, pg_temp
as $$
declare
    cursor refcursor;
begin
    perform livestore._check_reader(source);
    open cursor for execute query;
    return cursor::text;
end
$$;

comment on function livestore._open_source(oid, text) is
'Internal: opens a cursor for a query on a table or view, with the rights of the caller; of a superuser, with those of its owner';

create or replace function livestore._fetch_source(source oid, cursor text, max_events integer)
returns table (
    seq_num bigint, parent_seq_num bigint, name text, args text, client_id text, session_id text, created_at timestamptz
)
language plpgsql
strict
set search_path = pg_catalog, pg_temp
as $$
declare
    opened refcursor := cursor::refcursor;
    is_found boolean;
begin
    perform livestore._check_reader(source);
    for event in 1..greatest(max_events, 1) loop
        fetch opened into seq_num, parent_seq_num, name, args, client_id, session_id, created_at;
        is_found := found;
        -- A function that the source calls may have changed search_path.
        if pg_catalog.current_setting('search_path') operator(pg_catalog.<>) 'pg_catalog, pg_temp' then
            perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
        end if;
        if not is_found then
            -- The cursor is closed by the call that finds no event, and not by the one that returns the last events.
            if event = 1 then
                close opened;
            end if;
            return;
        end if;
        return next;
    end loop;
end
$$;

comment on function livestore._fetch_source(oid, text, integer) is
'Internal: the next events of a cursor that livestore._open_source has opened; none at its end, where it is closed';
