-- Not logged: rows are gone before their transaction commits.
create unlogged table if not exists livestore.hook_contexts (
    transaction xid8 not null default pg_current_xact_id(),
    depth integer not null,
    store_id text not null,
    request text,
    primary key (transaction, depth)
);

comment on table livestore.hook_contexts is 'The contexts of the pushes that the current transaction runs hooks for. Of other transactions nothing is ever seen here';
comment on column livestore.hook_contexts.transaction is 'The transaction';
comment on column livestore.hook_contexts.depth is 'From 1. A push by a hook has a greater one than the push that the hook runs for';
comment on column livestore.hook_contexts.store_id is 'What livestore.current_store_id() returns';
comment on column livestore.hook_contexts.request is 'What livestore.current_context() returns, as text';

-- The appends of the current transaction: rows are gone before it commits.
create table if not exists livestore.pending_commits (
    transaction xid8 not null default pg_current_xact_id(),
    id bigint not null generated always as identity,
    stores bigint[] not null,
    upto bigint[] not null,
    events integer[] not null,
    is_last boolean not null default false,
    changes text[],
    store_ids text[],
    primary key (transaction, id)
)
with (fillfactor = 50);

comment on table livestore.pending_commits is 'What the current transaction has appended, until it commits and takes positions in livestore.commits. Of other transactions nothing is ever seen here';
comment on column livestore.pending_commits.transaction is 'The transaction';
comment on column livestore.pending_commits.id is 'In the order of the appends';
comment on column livestore.pending_commits.stores is 'As in livestore.commits';
comment on column livestore.pending_commits.upto is 'As in livestore.commits';
comment on column livestore.pending_commits.events is 'As in livestore.commits';
comment on column livestore.pending_commits.changes is 'As in livestore.commits';
comment on column livestore.pending_commits.store_ids is 'As in livestore.commits';
comment on column livestore.pending_commits.is_last is 'Whether the trigger is queued for the second time, behind what else is deferred to the commit';
