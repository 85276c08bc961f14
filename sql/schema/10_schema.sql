-- complain if this file is fed to psql instead of create extension
\echo Use "create extension livestore_sync" to load this file. \quit

do $$
begin
    if current_setting('server_encoding') <> 'UTF8' then
        raise exception 'livestore_sync needs a database with the encoding UTF8, this one has %', current_setting('server_encoding')
            using errcode = 'feature_not_supported', hint = 'Create the database with: create database … encoding ''UTF8'' template template0';
    end if;
end
$$;

comment on schema livestore is 'LiveStore event logs: stores, their events, and the functions that append and read';

-- Roles belong to the whole cluster: another database may have them already, or be creating them right now.
do $$
declare
    role_name text;
begin
    foreach role_name in array array['livestore_reader', 'livestore_writer', 'livestore_admin'] loop
        begin
            if to_regrole(role_name) is null then
                execute format('create role %I nologin', role_name);
            end if;
        exception when duplicate_object or unique_violation then
            null;
        end;
    end loop;
    if not pg_has_role('livestore_writer', 'livestore_reader', 'usage') then
        grant livestore_reader to livestore_writer;
    end if;
    if not pg_has_role('livestore_admin', 'livestore_writer', 'usage') then
        grant livestore_writer to livestore_admin;
    end if;
end
$$;
