-- Written in Rust: extension/src/append.
create or replace function livestore._append(
    store_ids text[], batches text[], backend_ids text[], source text default null, contexts text[] default null
)
returns table (
    push integer, head bigint, appended integer, backend_id text, created_at timestamptz,
    sqlstate text, message text, detail text, hint text
)
language c
as 'MODULE_PATHNAME', 'livestore_append';

comment on function livestore._append(text[], text[], text[], text, text[]) is
'Internal: locks the stores, creates those that are new, and carries the pushes out, as arrays with one element for each push. Returns a result for each; errors of hooks are raised. contexts: a JSON object for each push, or null; a push by a hook without a context inherits the one that the hook runs for';

-- Written in Rust: extension/src/notify.rs.
create or replace function livestore._notify_heads(store_ids text[], heads bigint[], source text default null)
returns void
language c
set search_path = pg_catalog, pg_temp
as 'MODULE_PATHNAME', 'notify_heads_wrapper';

comment on function livestore._notify_heads(text[], bigint[], text) is
'Internal: NOTIFY livestore_heads, {"source": …, "heads": {"<livestore.store_digest>": <head>, …}}; several if one would be too long. A head of null means that the store was reset, dropped or given another backend id. With livestore.legacy_notify() also NOTIFY livestore, with ids instead of digests';

-- Written in Rust: extension/src/commit_log.rs.
create or replace function livestore._note_change(store bigint, number_afterwards bigint, change text, store_id text)
returns void
language c
strict
as 'MODULE_PATHNAME', 'note_change_wrapper';

comment on function livestore._note_change(bigint, bigint, text, text) is
'Internal: notes for livestore.commits that this transaction has changed a store. change: reset, drop, move, renew, rewrite, leave or arrive; number_afterwards: livestore.stores.id afterwards, 0 for none; for a rewrite, the event';
