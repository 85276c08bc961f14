-- Written in Rust: extension/src/read.
create or replace function livestore.read_page(store_id text, after bigint, max_events integer, max_bytes integer)
returns table (head bigint, backend_id text, events bytea)
language c
stable
strict
security definer
rows 1
set search_path = pg_catalog, pg_temp
set row_security = off
-- A plan for each page would cost more than the page: there is but one way to read it, along the primary key.
set plan_cache_mode = force_generic_plan
as 'MODULE_PATHNAME', 'livestore_read_page';

comment on function livestore.read_page(text, bigint, integer, integer) is
'A page of a log, one row: the head and the backend id at that moment, and the events after a sequence number, in order: at most max_events (10,000 at most), and none after the one that reaches max_bytes (of args, name and ids; 64 MiB at most). Each event is a row in the binary format of COPY: seqNum, parentSeqNum, name, args, clientId, sessionId, createdAt. What the sidecar uses';

create or replace function livestore.pull_page(store_id text, after bigint, max_events integer, max_bytes integer)
returns table (
    seq_num bigint, parent_seq_num bigint, name text, args json, client_id text, session_id text, created_at timestamptz
)
language c
stable
security definer
rows 1000
set search_path = pg_catalog, pg_temp
set row_security = off
set plan_cache_mode = force_generic_plan
as 'MODULE_PATHNAME', 'livestore_pull_page';

comment on function livestore.pull_page(text, bigint, integer, integer) is
'The events of livestore.read_page as rows';
