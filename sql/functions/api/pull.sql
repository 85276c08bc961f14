-- Logs are read by functions with the rights of the owner of the tables, for whom row level security does not hold: a policy
-- cannot make a log look empty. If row level security is forced on the owner as well, row_security = off makes the statement
-- fail instead.
create or replace function livestore.head(store_id text)
returns bigint
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
    select coalesce(
        (select s.head from livestore.stores s where s.store_id = $1),
        case when livestore._check_shard($1) then 0 end
    )
$$;

comment on function livestore.head(text) is 'The sequence number of the last event of a store; 0 if its log is empty or the store does not exist. Raises LS005 if it is on another shard';

create or replace function livestore.pull(store_id text, after bigint default 0, max_events integer default 100)
returns setof livestore.events
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select $1, p.seq_num, p.parent_seq_num, p.name, p.args, p.client_id, p.session_id, p.created_at
    from livestore.pull_page($1, $2, $3, 2147483647) p
    order by p.seq_num
$$;

comment on function livestore.pull(text, bigint, integer) is
'The events of a store after a sequence number, in order, at most max_events; none if the store does not exist. Raises LS005 if it is on another shard';
