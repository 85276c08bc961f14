-- The context of a request: what a hook may know of the push that it runs for. It is in the memory of the session, where
-- livestore._append puts it and nobody else can. Written in Rust: extension/src/context.rs.
create or replace function livestore.current_store_id()
returns text
language c
stable
strict
set search_path = pg_catalog, pg_temp
as 'MODULE_PATHNAME', 'current_store_id_wrapper';

comment on function livestore.current_store_id() is
'In a hook: the store that is pushed to. Elsewhere null';

create or replace function livestore._context_value(key text)
returns text
language c
stable
set search_path = pg_catalog, pg_temp
as 'MODULE_PATHNAME', 'context_value_wrapper';

comment on function livestore._context_value(text) is
'Internal: a value of livestore.current_context() as it was passed to livestore.push_batch; all of it if key is null';

-- Statements on event logs that run triggers or check constraints of the application run as livestore_hooks, so that this
-- code does not run as the owner of the tables. Written in Rust: extension/src/hooks.rs, extension/src/import.rs.
create or replace function livestore._insert_events(
    store_id text, store bigint, eventlog oid, seq_nums bigint[], parent_seq_nums bigint[], names text[], args text[],
    client_ids text[], session_ids text[], created_ats timestamptz[]
)
returns void
language c
strict
set search_path = pg_catalog, pg_temp
as 'MODULE_PATHNAME', 'livestore_insert_events';

comment on function livestore._insert_events(text, bigint, oid, bigint[], bigint[], text[], text[], text[], text[], timestamptz[]) is
'Internal: inserts events into the table of a store whose row is locked, and runs its hooks, deferred ones too';

create or replace function livestore._move_events(source oid, eventlog oid)
returns void
language c
strict
set search_path = pg_catalog, pg_temp
as 'MODULE_PATHNAME', 'livestore_move_events';

comment on function livestore._move_events(oid, oid) is
'Internal: copies the events of a store from the shared table to a dedicated one, whose constraints may be the application''s';

create or replace function livestore._delete_hooked_events(eventlog oid, store bigint)
returns void
language c
strict
set search_path = pg_catalog, pg_temp
as 'MODULE_PATHNAME', 'livestore_delete_hooked_events';

comment on function livestore._delete_hooked_events(oid, bigint) is
'Internal: deletes the events of a store from a table that has triggers on DELETE';

create or replace function livestore._update_hooked_events(eventlog oid, store bigint, seq_nums bigint[], name text, args text)
returns void
language c
strict
set search_path = pg_catalog, pg_temp
as 'MODULE_PATHNAME', 'livestore_update_hooked_events';

comment on function livestore._update_hooked_events(oid, bigint, bigint[], text, text) is
'Internal: rewrites events in a table where an update runs code of the application; an empty name: they keep theirs; empty args: none';

-- Written in Rust: extension/src/hooks.rs.
create or replace function livestore._copy_hook(hook oid, eventlog oid)
returns void
language c
strict
set search_path = pg_catalog, pg_temp
set quote_all_identifiers = off
as 'MODULE_PATHNAME', 'copy_hook_wrapper';

comment on function livestore._copy_hook(oid, oid) is
'Internal: creates a hook of livestore.eventlog_1 on the table of a store';
