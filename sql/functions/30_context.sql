-- The context of a request: what a hook may know of who pushes. It is in settings of the transaction, which the functions
-- that append make for each push (livestore.push_batch).
--
-- Any role can make any setting. So these are signed, for this transaction and with a secret of the database, and what has another
-- signature reads as null.
create or replace function livestore.sign_context(transaction xid8, store_id text, payload text, headers text, claims text)
returns text
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    -- The secret on both ends: nobody can go on from a digest. The lengths: nothing can move from one part to another.
    select encode(sha256(convert_to(
        i.context_secret || concat_ws(' ', transaction::text, length(store_id), length(payload), length(headers), length(claims))
            || ' ' || store_id || payload || headers || claims || i.context_secret,
        'UTF8'
    )), 'hex')
    from livestore.instance i
    order by i.created_at limit 1
$$;

comment on function livestore.sign_context(xid8, text, text, text, text) is
'Internal: what proves that the context of a request was made by the functions that append, in this transaction';

create or replace function livestore.enter_context(store_id text, payload text, headers text, claims text)
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    select set_config('livestore.store_id', store_id, true),
        set_config('livestore.payload', coalesce(payload, ''), true),
        set_config('livestore.headers', coalesce(headers, ''), true),
        set_config('livestore.claims', coalesce(claims, ''), true),
        set_config(
            'livestore.signature',
            livestore.sign_context(pg_current_xact_id(), store_id, coalesce(payload, ''), coalesce(headers, ''), coalesce(claims, '')),
            true
        )
$$;

comment on function livestore.enter_context(text, text, text, text) is
'Internal: makes this the context of the hooks that run next. Payload, headers and claims are JSON or null';

create or replace function livestore.save_context()
returns text[]
language sql
stable
set search_path = pg_catalog, pg_temp
as $$
    select array[
        current_setting('livestore.store_id', true), current_setting('livestore.payload', true),
        current_setting('livestore.headers', true), current_setting('livestore.claims', true),
        current_setting('livestore.signature', true)
    ]
$$;

comment on function livestore.save_context() is 'Internal: the settings of the context, for livestore.restore_context';

create or replace function livestore.restore_context(saved text[])
returns void
language sql
set search_path = pg_catalog, pg_temp
as $$
    select set_config('livestore.store_id', coalesce(saved[1], ''), true),
        set_config('livestore.payload', coalesce(saved[2], ''), true),
        set_config('livestore.headers', coalesce(saved[3], ''), true),
        set_config('livestore.claims', coalesce(saved[4], ''), true),
        set_config('livestore.signature', coalesce(saved[5], ''), true)
$$;

comment on function livestore.restore_context(text[]) is
'Internal: ends the context of a push: a hook that made it goes on in its own';

-- security definer: the secret in livestore.instance is nobody else's to read.
create or replace function livestore.has_context()
returns boolean
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(
        current_setting('livestore.signature', true) = livestore.sign_context(
            pg_current_xact_id_if_assigned(),
            current_setting('livestore.store_id', true), current_setting('livestore.payload', true),
            current_setting('livestore.headers', true), current_setting('livestore.claims', true)
        ),
        false
    )
$$;

comment on function livestore.has_context() is
'Internal: whether the settings of the context are those that the functions that append have made in this transaction';

create or replace function livestore.current_store_id()
returns text
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select case when livestore.has_context() then nullif(current_setting('livestore.store_id', true), '') end
$$;

comment on function livestore.current_store_id() is
'In a hook: the store that is pushed to. Elsewhere null';

create or replace function livestore.current_payload()
returns json
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select case when livestore.has_context() then nullif(current_setting('livestore.payload', true), '')::json end
$$;

comment on function livestore.current_payload() is
'In a hook: the sync payload of the client that pushes, as it sent it; null if it has none, and for pushes from SQL';

create or replace function livestore.current_headers()
returns json
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select case when livestore.has_context() then nullif(current_setting('livestore.headers', true), '')::json end
$$;

comment on function livestore.current_headers() is
'In a hook: the request headers that the sidecar forwards (--forward-headers), a JSON object with names in lower case; null if there are none, and for pushes from SQL';

create or replace function livestore.current_claims()
returns json
language sql
stable
security definer
set search_path = pg_catalog, pg_temp
as $$
    select case when livestore.has_context() then nullif(current_setting('livestore.claims', true), '')::json end
$$;

comment on function livestore.current_claims() is
'In a hook: what the token of the client that pushes says, a JSON object, sub for one; null without authentication, and for pushes from SQL';
