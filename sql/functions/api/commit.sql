-- Writing from SQL.
create or replace function livestore.commit(
    store_id text, name text, args json default null, client_id text default 'server', session_id text default 'sql',
    expected_head bigint default null, key text default null
)
returns bigint
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    store livestore.stores;
    committed bigint;
begin
    perform livestore._check_commit(array[store_id], name, array[key]);
    store := livestore._lock_store(store_id);
    if key is not null then
        committed := (select k.seq_num from livestore.commit_keys k where k.store = store.id and k.key = commit.key);
        if committed is not null then
            return committed;
        end if;
    end if;
    perform livestore._check_args(array[name], array[args]);
    if expected_head <> store.head then
        raise exception 'the head of the log is %, and not %', store.head, expected_head
            using errcode = 'LS001', detail = json_build_object('minimumExpectedNum', store.head, 'providedNum', expected_head);
    end if;
    committed := livestore.push(store_id, json_build_array(livestore._event_after(store.head, name, args, client_id, session_id)));
    if key is not null then
        insert into livestore.commit_keys (store, key, seq_num) values (store.id, key, committed);
    end if;
    return committed;
end
$$;

comment on function livestore.commit(text, text, json, text, text, bigint, text) is
'Appends one event at the head of the log of a store, from SQL, and returns its seq_num. args null: an event without args. expected_head: raises LS001 unless the log has this head (0: it is empty). key: if this log has an event that was committed with this key, of at most 1024 bytes, returns its seq_num and commits nothing. The event takes effect, and reaches live clients, when the transaction commits; until then, other writers to this store wait';

-- For literals and parameters without a type, and for jsonb. Only the form above has a default for args, so that each call has one form.
create or replace function livestore.commit(
    store_id text, name text, args text, client_id text default 'server', session_id text default 'sql',
    expected_head bigint default null, key text default null
)
returns bigint
language sql
set search_path = pg_catalog, pg_temp
as $$
    select livestore.commit(store_id, name, args::json, client_id, session_id, expected_head, key)
$$;

comment on function livestore.commit(text, text, text, text, text, bigint, text) is 'livestore.commit with args as text';

create or replace function livestore.commit(
    store_id text, name text, args jsonb, client_id text default 'server', session_id text default 'sql',
    expected_head bigint default null, key text default null
)
returns bigint
language sql
set search_path = pg_catalog, pg_temp
as $$
    select livestore.commit(store_id, name, args::json, client_id, session_id, expected_head, key)
$$;

comment on function livestore.commit(text, text, jsonb, text, text, bigint, text) is 'livestore.commit with args as jsonb';

create or replace function livestore.commit_many(
    store_ids text[], name text, args json[] default null, keys text[] default null, client_id text default 'server',
    session_id text default 'sql'
)
returns table (store_id text, seq_num bigint)
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    seq_nums bigint[];
    are_new boolean[];
    problem livestore.push_result;
begin
    perform livestore._check_commit(store_ids, name, keys);
    if cardinality(args) not in (1, cardinality(store_ids)) or cardinality(keys) <> cardinality(store_ids) then
        raise exception 'args must have one element or as many as store_ids, and keys as many as store_ids'
            using errcode = 'invalid_parameter_value';
    end if;
    perform livestore._register_stores(store_ids);
    perform s.id from livestore.stores s where s.store_id = any (store_ids) order by s.store_id collate "C" for update;
    -- They were dropped while this waited. Nothing is locked twice: that could deadlock.
    if exists (
        select from unnest(store_ids) u(store_id) where not exists (select from livestore.stores s where s.store_id = u.store_id)
    ) then
        raise exception 'another transaction has dropped one of the stores' using errcode = 'lock_not_available', hint = 'Try again.';
    end if;
    -- Of several with one key in this call, the first is committed, and the others have its number.
    select array_agg(coalesce(p.known, p.first_seq_num) order by p.n), array_agg(p.is_new order by p.n)
    into seq_nums, are_new
    from (
        select w.n, w.known, w.is_new, case when w.is_new then w.seq_num else min(w.seq_num) filter (where w.is_new) over (
            partition by w.id, w.key
        ) end as first_seq_num
        from (
            select f.*, f.head + count(*) filter (where f.is_new) over (partition by f.id order by f.n) as seq_num
            from (
                select u.n, u.key, s.id, s.head, k.seq_num as known,
                    k.seq_num is null and (u.key is null or u.n = min(u.n) over (partition by s.id, u.key)) as is_new
                from unnest(store_ids, keys) with ordinality u(store_id, key, n)
                join livestore.stores s on s.store_id = u.store_id
                left join livestore.commit_keys k on k.store = s.id and k.key = u.key
            ) f
        ) w
    ) p;
    -- Each once: only what is new, and args that are for all are the same.
    perform livestore._check_args(
        array(
            select case when u.is_new and (u.n = 1 or cardinality(args) > 1) then name end
            from unnest(are_new) with ordinality u(is_new, n) order by u.n
        ),
        array(
            select a.value from unnest(are_new) with ordinality u(is_new, n)
            left join unnest(args) with ordinality a(value, n) on a.n = case cardinality(args) when 1 then 1 else u.n end order by u.n
        )
    );
    select r.* into problem
    from (
        select array_agg(b.store_id) as store_ids, array_agg(b.batch) as batches, array_agg(null::text) as backend_ids
        from (
            select u.store_id,
                '[' || string_agg(
                    livestore._event_after(u.seq_num - 1, name, a.value, client_id, session_id)::text, ',' order by u.seq_num
                ) || ']' as batch
            from unnest(store_ids, seq_nums, are_new) with ordinality u(store_id, seq_num, is_new, n)
            left join unnest(args) with ordinality a(value, n) on a.n = case cardinality(args) when 1 then 1 else u.n end
            where u.is_new
            group by u.store_id
        ) b
        having count(*) > 0
    ) g
    cross join lateral livestore._append(g.store_ids, g.batches, g.backend_ids) r
    where r.sqlstate is not null
    limit 1;
    if problem.sqlstate is not null then
        raise exception '%', problem.message
            using errcode = problem.sqlstate, detail = coalesce(problem.detail, ''), hint = coalesce(problem.hint, '');
    end if;
    insert into livestore.commit_keys (store, key, seq_num)
    select s.id, u.key, u.seq_num
    from unnest(store_ids, keys, seq_nums, are_new) u(store_id, key, seq_num, is_new)
    join livestore.stores s on s.store_id = u.store_id
    where u.is_new and u.key is not null;
    return query select u.store_id, u.seq_num from unnest(store_ids, seq_nums) with ordinality u(store_id, seq_num, n) order by u.n;
end
$$;

comment on function livestore.commit_many(text[], text, json[], text[], text, text) is
'livestore.commit to many stores at once: an event of this name to each of store_ids, with its element of args, or the only one. Returns their seq_nums, in the same order. All are committed or none';
