create or replace function livestore.rewrite_event(store_id text, seq_num bigint, name text, args json, reason text default null)
returns void
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if name is null or name = '' then
        raise exception 'an event needs a name' using errcode = 'LS003',
            detail = json_build_object('index', 0, 'reason', 'the name is null or empty');
    end if;
    perform livestore._rewrite(store_id, array[seq_num], name, args, reason);
end
$$;

comment on function livestore.rewrite_event(text, bigint, text, json, text) is
'Gives an event of a log another name and other args (null: none), for an event that stops clients. reason is kept in livestore.rewrites. New clients get the new event; those that have the old one keep it until livestore.renew_backend_id. Raises LS003 if the event does not fit its type, LS004 if there is no such store. docs/erasure.md says what remains';

create or replace function livestore.erase(store_id text, seq_nums bigint[], replacement json, reason text default null)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if seq_nums is null then
        raise exception 'seq_nums is null' using errcode = 'null_value_not_allowed';
    elsif replacement is null then
        raise exception 'the replacement is null' using errcode = 'null_value_not_allowed',
            hint = 'A client that gets an event without args, where its schema has some, stops for good. Give args that fit the schema and say nothing.';
    end if;
    perform livestore._rewrite(store_id, seq_nums, null, replacement, reason);
    return (select count(distinct s.seq_num) from unnest(seq_nums) s(seq_num));
end
$$;

comment on function livestore.erase(text, bigint[], json, text) is
'Replaces the args of events, for a person''s right to be forgotten, and returns how many. The replacement must fit the schema of the application: a client that gets args which do not fit stops for good. reason is kept in livestore.rewrites. Clients that have the events keep them until livestore.renew_backend_id. Raises LS003 if the replacement does not fit a type, LS004 if there is no such store. docs/erasure.md says what remains';
