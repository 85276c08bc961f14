-- Written in Rust: extension/src/read_page.rs.
create or replace function livestore.read_page(store_id text, after bigint, max_events integer, max_bytes integer)
returns table (
    head bigint, backend_id text,
    seq_num bigint, parent_seq_num bigint, name text, args json, client_id text, session_id text, created_at timestamptz
)
language c
stable
strict
security definer
rows 1000
set search_path = pg_catalog, pg_temp
set row_security = off
-- A plan for each page would cost more than the page: there is but one way to read it, along the primary key.
set plan_cache_mode = force_generic_plan
as 'MODULE_PATHNAME', 'livestore_read_page';

comment on function livestore.read_page(text, bigint, integer, integer) is
'The events of a store after a sequence number, in order: at most max_events, and none after the one that reaches max_bytes (of args, name and ids); each beside the head and the backend id of the log at that moment. One row without an event if there is none. What the sidecar uses';
