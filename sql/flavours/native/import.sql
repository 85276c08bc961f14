-- Written in Rust: extension/src/import.rs.
create or replace function livestore._check_batch(batch text, after bigint)
returns table (sqlstate text, message text, detail text)
language c
strict
set search_path = pg_catalog, pg_temp
as 'MODULE_PATHNAME', 'check_batch_wrapper';

comment on function livestore._check_batch(text, bigint) is
'Internal: checks a batch that should follow the event after of a log, and returns the error that livestore.push_batch would; nulls if it is valid';

create or replace function livestore._open_source(source oid, query text)
returns text
language c
strict
set search_path = pg_catalog, pg_temp
as 'MODULE_PATHNAME', 'open_source_wrapper';

comment on function livestore._open_source(oid, text) is
'Internal: opens a cursor for a query on a table or view, with the rights of the caller; of a superuser, with those of its owner';

create or replace function livestore._fetch_source(source oid, cursor text, max_events integer)
returns table (
    seq_num bigint, parent_seq_num bigint, name text, args text, client_id text, session_id text, created_at timestamptz
)
language c
strict
set search_path = pg_catalog, pg_temp
as 'MODULE_PATHNAME', 'fetch_source_wrapper';

comment on function livestore._fetch_source(oid, text, integer) is
'Internal: the next events of a cursor that livestore._open_source has opened; none at its end, where it is closed';
