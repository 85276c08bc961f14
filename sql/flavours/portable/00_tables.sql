create table if not exists livestore.context_key (
    key text not null default gen_random_uuid()::text || gen_random_uuid()::text
);

comment on table livestore.context_key is 'The secret key that signs the context of a request, since any role can make a setting';
comment on column livestore.context_key.key is 'A random text. Nobody but the owner may read it';

-- It has no key, as livestore.instance.
alter table livestore.context_key replica identity full;

insert into livestore.context_key select where not exists (select from livestore.context_key);

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
