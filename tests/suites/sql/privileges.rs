//! Privileges: readers read, writers append through the functions, and nobody else does anything.

use std::collections::BTreeSet;

use crate::support::{all, all_with, log, one, push, rejection, run};
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, up_to};
use livestore_tests::flavour::Flavour;
use tokio_postgres::Client;

/// From the least to the most that they may do; `reader` has `livestore_reader`, `sidecar` has `livestore_writer`, and
/// `admin` has `livestore_admin`.
const ROLES: [&str; 4] = ["stranger", "reader", "sidecar", "admin"];

/// The roles that may call a function: those from this one on, or none of them.
const READERS: &[&str] = &["admin", "reader", "sidecar"];
const WRITERS: &[&str] = &["admin", "sidecar"];
const ADMINS: &[&str] = &["admin"];
const NOBODY: &[&str] = &[];

/// Every function that both flavours have, with a call of it and the roles that may make it.
const CALLS: &[(&str, &str, &[&str])] = &[
    ("version", "livestore.version()", READERS),
    ("flavour", "livestore.flavour()", READERS),
    ("backend_id", "livestore.backend_id('s')", READERS),
    ("head", "livestore.head('s')", READERS),
    ("slot", "livestore.slot('s', 256)", READERS),
    ("_elsewhere_error", "livestore._elsewhere_error('s')", NOBODY),
    ("_is_elsewhere", "livestore._is_elsewhere('s')", NOBODY),
    ("_check_shard", "livestore._check_shard('s')", NOBODY),
    ("_remove_departed", "livestore._remove_departed(1)", NOBODY),
    ("_check_deferred", "livestore._check_deferred()", WRITERS),
    ("_give_one_by_one", "livestore._give_one_by_one('third', null)", WRITERS),
    ("_leaving_stores", "livestore._leaving_stores()", NOBODY),
    ("_remove_departed_log", "livestore._remove_departed_log(1)", NOBODY),
    ("_runs_code_on_delete", "livestore._runs_code_on_delete('livestore.eventlog_1')", NOBODY),
    ("table_suffix", "livestore.table_suffix('s')", READERS),
    ("stream_name", "livestore.stream_name('s')", READERS),
    ("pull", "livestore.pull('s')", READERS),
    ("pull_page", "livestore.pull_page('s', 0, 100, 1000)", READERS),
    ("commit", "livestore.commit('s', 'e')", WRITERS),
    ("commit_many", "livestore.commit_many(array['s'], 'e')", WRITERS),
    ("_check_commit", "livestore._check_commit(array['s'], 'e', null)", NOBODY),
    ("_event_after", "livestore._event_after(0, 'e', null, 'c', 's')", NOBODY),
    ("create_store", "livestore.create_store('s')", WRITERS),
    ("create_store", "livestore.create_store('new', own_table => true)", WRITERS),
    ("push", "livestore.push('s', '[]')", WRITERS),
    ("push_batch", "livestore.push_batch('{s}', '{[]}', '{null}')", WRITERS),
    ("reset_store", "livestore.reset_store('s')", ADMINS),
    ("drop_store", "livestore.drop_store('s')", ADMINS),
    ("field", "livestore.field(null, 'a')", READERS),
    ("json_field", "livestore.json_field(null, 'a')", READERS),
    ("_readable", "livestore._readable('{}')", READERS),
    ("try_boolean", "livestore.try_boolean('true')", READERS),
    ("try_bigint", "livestore.try_bigint('1')", READERS),
    ("try_double", "livestore.try_double('1')", READERS),
    ("try_timestamptz", "livestore.try_timestamptz('')", READERS),
    ("define_event", "livestore.define_event('e', '{}')", ADMINS),
    ("check_events", "livestore.check_events()", ADMINS),
    ("export_store", "livestore.export_store('s')", READERS),
    ("_export_events", "livestore._export_events('s', 0, 1, '')", READERS),
    ("_export_end", "livestore._export_end('s', 3, '')", READERS),
    ("import_store", "livestore.import_store('app.lines', 'imported')", ADMINS),
    (
        "_import_source",
        "livestore._import_source('livestore.eventlog_1', 'select 1::bigint, 0::bigint, ''e'', null::text, ''c'', ''s'', now()', 'i', null)",
        ADMINS,
    ),
    ("_digest_exported", "livestore._digest_exported('', 1, 0, 'e', null, 'c', 's', now())", ADMINS),
    ("export_hooks", "livestore.export_hooks()", READERS),
    ("create_event_view", "livestore.create_event_view('app.e', 'e')", READERS),
    ("_column_of", "livestore._column_of('{}', '{}')", READERS),
    ("_event_type", "livestore._event_type('e')", READERS),
    ("_pointer", "livestore._pointer('1')", READERS),
    ("_check_schema", "livestore._check_schema('{}', '{}', '', false)", NOBODY),
    ("_misfit", "livestore._misfit('{}', '1', '{}', now())", NOBODY),
    ("_misfit_of_number", "livestore._misfit_of_number('{}', 1)", NOBODY),
    ("_misfit_of_size", "livestore._misfit_of_size('{}', 'Items', 1)", NOBODY),
    ("_misfit_of_array", "livestore._misfit_of_array('{}', '[]', '{}', now())", NOBODY),
    ("_misfit_of_object", "livestore._misfit_of_object('{}', '{}', '{}', now())", NOBODY),
    ("_misfit_of_args", "livestore._misfit_of_args('{}', '{}', now())", NOBODY),
    ("_name_in_path", "livestore._name_in_path('a')", NOBODY),
    ("_check_args", "livestore._check_args('{e}', '{null}')", NOBODY),
    ("_check_new_events", "livestore._check_new_events('livestore.eventlog_1')", NOBODY),
    ("rewrite_event", "livestore.rewrite_event('s', 1, 'e', null)", ADMINS),
    ("erase", "livestore.erase('s', '{1}', '{}')", ADMINS),
    ("_rewrite", "livestore._rewrite('s', '{1}', 'e', '{}', null)", NOBODY),
    ("_runs_code_on_update", "livestore._runs_code_on_update('livestore.eventlog_1')", NOBODY),
    ("_digest", "livestore._digest(0, 'e', null, 'c', 's')", NOBODY),
    ("_was_rewritten", "livestore._was_rewritten(1, 1, 0, 'e', null, 'c', 's')", NOBODY),
    (
        "_update_hooked_events",
        "livestore._update_hooked_events('livestore.eventlog_1'::regclass, 1, '{1}', '', '')",
        NOBODY,
    ),
    ("read_all", "livestore.read_all(0)", READERS),
    ("prune_old_commits", "livestore.prune_old_commits()", WRITERS),
    ("remove_departed_store", "livestore.remove_departed_store()", WRITERS),
    ("prune_commits", "livestore.prune_commits(now())", ADMINS),
    ("subscribe", "livestore.subscribe('next')", ADMINS),
    ("unsubscribe", "livestore.unsubscribe('polled')", ADMINS),
    ("renew_backend_id", "livestore.renew_backend_id('s')", ADMINS),
    ("rebuild", "livestore.rebuild('polled')", ADMINS),
    ("_start", "(select livestore._start(s, 'now') from livestore.subscribers s) r", NOBODY),
    ("resend", "livestore.resend(1)", ADMINS),
    ("poll", "livestore.poll('new')", WRITERS),
    ("ack", "livestore.ack('first')", WRITERS),
    ("nack", "livestore.nack('second')", WRITERS),
    ("run_subscription", "livestore.run_subscription('handled')", WRITERS),
    ("served_subscriptions", "livestore.served_subscriptions()", WRITERS),
    ("last_position", "livestore.last_position()", READERS),
    ("heads_since", "livestore.heads_since(0)", WRITERS),
    ("subscription_life", "livestore.subscription_life('polled')", WRITERS),
    ("database_life", "livestore.database_life()", WRITERS),
    ("_handler", "livestore._handler('handled')", WRITERS),
    ("_subscriber", "livestore._subscriber('polled')", NOBODY),
    ("_leased", "livestore._leased('first')", NOBODY),
    ("_put", "(select livestore._put(p) from livestore.subscription_partitions p) r", NOBODY),
    ("_pass", "(select livestore._pass(p) from livestore.subscription_partitions p) r", NOBODY),
    (
        "_fail",
        "(select livestore._fail(s, p, null) from livestore.subscribers s, livestore.subscription_partitions p) r",
        NOBODY,
    ),
    (
        "_next_commits",
        "(select livestore._next_commits(s, p, 1, 1) from livestore.subscribers s, livestore.subscription_partitions p) r",
        NOBODY,
    ),
    (
        "_next_history",
        "(select livestore._next_history(s, p, 1, 1) from livestore.subscribers s, livestore.subscription_partitions p) r",
        NOBODY,
    ),
    ("_history_step", "(select livestore._history_step(p) from livestore.subscription_partitions p) r", NOBODY),
    ("_pass_history", "(select livestore._pass_history(p) from livestore.subscription_partitions p) r", NOBODY),
    ("_history_events", "livestore._history_events('livestore.eventlog_1'::regclass, 1, 0, 1, null, 1)", NOBODY),
    ("_is_handler", "livestore._is_handler(0)", NOBODY),
    ("_forget_errors", "livestore._forget_errors('s')", NOBODY),
    ("_lock_eventlog", "livestore._lock_eventlog('livestore.eventlog_1')", NOBODY),
    ("_commit_entries", "livestore._commit_entries(0, 1)", NOBODY),
    ("_prune_commits", "livestore._prune_commits(now(), 1)", NOBODY),
    ("_read_commits", "livestore._read_commits(0, null, null, 1, 0, 1, null)", NOBODY),
    ("_is_decoded", "livestore._is_decoded()", NOBODY),
    ("_copy_indexes", "livestore._copy_indexes('livestore.eventlog_1'::regclass)", NOBODY),
    ("_warn_of_publications", "livestore._warn_of_publications('livestore.eventlog_1'::regclass)", NOBODY),
    ("_partition_of", "livestore._partition_of('s', 2)", NOBODY),
    ("_last_events", "livestore._last_events('livestore.eventlog_1'::regclass, 1, 1, 0, 1)", NOBODY),
    ("_note_change", "livestore._note_change(1, 0, 'drop', 's')", NOBODY),
    ("current_store_id", "livestore.current_store_id()", READERS),
    ("_context_value", "livestore._context_value(null)", READERS),
    ("current_context", "livestore.current_context()", READERS),
    ("current_payload", "livestore.current_payload()", READERS),
    ("current_headers", "livestore.current_headers()", READERS),
    ("current_claims", "livestore.current_claims()", READERS),
    ("apply_hooks", "livestore.apply_hooks('livestore.eventlog_1_own')", NOBODY),
    ("_append", "livestore._append('{s}', '{[]}', '{null}')", NOBODY),
    ("hash_string", "livestore.hash_string('s')", READERS),
    ("_lock_store", "livestore._lock_store('s')", NOBODY),
    ("_make_backend_id", "livestore._make_backend_id('seed')", NOBODY),
    ("_notify_heads", "livestore._notify_heads('{s}', '{1}')", NOBODY),
    ("_dedicated_table_name", "livestore._dedicated_table_name('s', 1)", NOBODY),
    ("import_table", "livestore.import_table('livestore.eventlog_1_own', 'imported')", ADMINS),
    ("_begin_import", "livestore._begin_import('s', null)", ADMINS),
    (
        "_import_events",
        "livestore._import_events('s', 3, '{4}', '{3}', '{e}', '{null}', '{c}', '{s}', '{null}')",
        ADMINS,
    ),
    ("_end_import", "livestore._end_import('s')", ADMINS),
    ("_open_source", "livestore._open_source('livestore.events'::regclass, 'select 1')", ADMINS),
    (
        "_fetch_source",
        "livestore._fetch_source('livestore.events'::regclass, livestore._open_source('livestore.events'::regclass,
             'select 1::bigint, 0::bigint, ''e'', null::text, ''c'', ''s'', now()'), 1)",
        ADMINS,
    ),
    ("_insert_events", "livestore._insert_events('s', 1, 0::oid, '{}', '{}', '{}', '{}', '{}', '{}', '{}')", NOBODY),
    ("_check_batch", "livestore._check_batch('[]', 0)", NOBODY),
    ("_drop_events", "livestore._drop_events('livestore.eventlog_1', 1, 0)", NOBODY),
    ("_keep_triggers", "livestore._keep_triggers('livestore.eventlog_1'::regclass::oid)", NOBODY),
    ("_delete_events", "livestore._delete_events('livestore.eventlog_1', 1)", NOBODY),
    ("_delete_hooked_events", "livestore._delete_hooked_events('livestore.eventlog_1'::regclass, 1)", NOBODY),
    (
        "_move_events",
        "livestore._move_events('livestore.relayed_events'::regclass, 'livestore.eventlog_1_own'::regclass)",
        NOBODY,
    ),
    ("_copy_hook", "livestore._copy_hook(1, 1)", NOBODY),
    ("_adopt_table", "livestore._adopt_table('livestore.eventlog_1_own')", NOBODY),
    ("_lock_free_stores", "livestore._lock_free_stores('{s}')", NOBODY),
    ("_find_free_stores", "livestore._find_free_stores('{s}')", NOBODY),
    ("_push_some", "livestore._push_some('{s}', '{[]}', '{null}', '{1}', null, null)", NOBODY),
    ("_stored_events", "livestore._stored_events('{1}', '{1}')", NOBODY),
    ("_lock_existing_store", "livestore._lock_existing_store('s')", NOBODY),
    ("_register_stores", "livestore._register_stores('{s}')", NOBODY),
    ("_register_free_stores", "livestore._register_free_stores('{s}')", NOBODY),
    ("renew_backend_ids", "livestore.renew_backend_ids()", NOBODY),
    ("relay_enter", "livestore.relay_enter('15 s')", WRITERS),
    ("relay_miss", "livestore.relay_miss('x', '{u}')", WRITERS),
    ("relay_renew", "livestore.relay_renew('x', '15 s')", WRITERS),
    ("relay_join", "livestore.relay_join('x', '{u}', '{c}')", WRITERS),
    ("relay_leave", "livestore.relay_leave('x', '{u}', '{c}', '{1}')", WRITERS),
    ("relay_send", "livestore.relay_send('x', '{x}', '{body}')", WRITERS),
    ("relay_exit", "livestore.relay_exit('x')", WRITERS),
    ("relay_fetch", "livestore.relay_fetch(1)", WRITERS),
    ("relay_append", "livestore.relay_append('s', '{e}', '{null}', '{c}', '{s}', '{1}', '{1}')", WRITERS),
    ("_relay_key", "livestore._relay_key('c', 's', '1')", NOBODY),
    ("relay_page", "livestore.relay_page('s', 0, 100, 1000)", READERS),
    ("_relay_lock", "livestore._relay_lock()", NOBODY),
    ("heads_key", "livestore.heads_key()", READERS),
    ("store_digest", "livestore.store_digest('s')", READERS),
    ("legacy_notify", "livestore.legacy_notify()", READERS),
    ("read_page", "livestore.read_page('s', 0, 1, 1)", READERS),
    ("stores_of_table_suffix", "livestore.stores_of_table_suffix('s', 1)", READERS),
    ("stores_of_stream", "livestore.stores_of_stream('s', 1)", READERS),
    ("store_of_number", "livestore.store_of_number(1)", READERS),
    ("list_streams", "livestore.list_streams('', '', 1)", READERS),
    ("locate_store", "livestore.locate_store('s')", READERS),
    ("inspect_store", "livestore.inspect_store('s')", READERS),
    ("inspect_newest_stores", "livestore.inspect_newest_stores(9, 9)", READERS),
    ("inspect_stores_by_prefix", "livestore.inspect_stores_by_prefix('s', '', 0, 9)", READERS),
    ("inspect_recent_stores", "livestore.inspect_recent_stores(9, 9)", READERS),
    (
        "inspect_events",
        "livestore.inspect_events('s', 9, true, 'e', null, '-infinity', 'infinity', 9, 9, 9, 1)",
        READERS,
    ),
    ("inspect_event_types", "livestore.inspect_event_types(null, 9)", READERS),
    ("inspect_dead_letters", "livestore.inspect_dead_letters(9)", READERS),
    ("lock_log", "livestore.lock_log('s', livestore.backend_id('s'))", ADMINS),
    ("_refuse_rules", "livestore._refuse_rules(0::oid)", NOBODY),
    ("_admit_hooks", "livestore._admit_hooks(0::oid)", NOBODY),
    ("_mend_row_numbers", "livestore._mend_row_numbers('livestore.versions')", NOBODY),
    ("_mend_store_numbers", "livestore._mend_store_numbers()", NOBODY),
    ("_relay_notify", "livestore._relay_notify('x', 'body')", NOBODY),
    ("_relay_forget", "livestore._relay_forget('{x}')", NOBODY),
];

/// Those that only the native flavour has: for sidecars of version 0.2.
const NATIVE_CALLS: &[(&str, &str, &[&str])] = &[
    ("push_batch", "livestore.push_batch('{s}', '{[]}', '{null}', null, null, null, null)", WRITERS),
    ("_legacy_context", "livestore._legacy_context('1', null, null)", NOBODY),
    (
        "relay_append",
        "livestore.relay_append('s', '{f}', '{null}', '{c}', '{s}', '{2}', '{1}', null, null, null)",
        WRITERS,
    ),
];

/// Those of which the portable flavour is made.
const PORTABLE_CALLS: &[(&str, &str, &[&str])] = &[
    ("_hide_escapes", "livestore._hide_escapes('1')", NOBODY),
    ("_show_escapes", "livestore._show_escapes('1')", NOBODY),
    ("_decode_string", "livestore._decode_string('\"s\"')", NOBODY),
    ("_decode_integer", "livestore._decode_integer('1')", NOBODY),
    ("_has_nul", "livestore._has_nul('1')", NOBODY),
    ("_json_fields", "livestore._json_fields('{}')", NOBODY),
    ("_nests_deeper", "livestore._nests_deeper('1', 1)", NOBODY),
    ("_read_batch", "livestore._read_batch('[]')", NOBODY),
    ("_read_batches", "livestore._read_batches('{[]}')", NOBODY),
    (
        "_plan",
        "livestore._plan('{1}', '{null}', '{1}', '{0}', '{b}', null, null, null, null, null, null, null, null, null)",
        NOBODY,
    ),
    ("_insert_one_as_hooks", "livestore._insert_one_as_hooks(1, 9, 'e', null, 'c', 's', now())", NOBODY),
    ("_append_one", "livestore._append_one('s', '[]', null, null)", NOBODY),
    ("_lock_existing_stores", "livestore._lock_existing_stores('{s}', false)", NOBODY),
    ("_begin_stores", "livestore._begin_stores('{s}', false, '{s}', '{null}', row(1))", NOBODY),
    ("_write", "(select livestore._write(row(1), '{1}', row(1), row(1), '{null}', now(), null)) r", NOBODY),
    ("_hook_context", "livestore._hook_context()", NOBODY),
    ("_leave_context", "livestore._leave_context(1)", NOBODY),
    ("_enter_context", "livestore._enter_context('s', null)", NOBODY),
    (
        "_insert_as_hooks",
        "livestore._insert_as_hooks('livestore.eventlog_1'::regclass, false, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}')",
        NOBODY,
    ),
    (
        "_insert_part",
        "livestore._insert_part(1, 's', null, false, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}')",
        NOBODY,
    ),
    ("_check_reader", "livestore._check_reader('livestore.events'::regclass)", ADMINS),
];

/// Every function of this flavour, as [`CALLS`].
fn calls() -> impl Iterator<Item = &'static (&'static str, &'static str, &'static [&'static str])> {
    CALLS.iter().chain(match Flavour::of_tests() {
        Flavour::Native => NATIVE_CALLS,
        Flavour::Portable => PORTABLE_CALLS,
    })
}

/// A database with a store in the shared table and one in a dedicated table.
async fn filled() -> Database {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(&admin, "select livestore.create_store('own', own_table => true)").await;
    run(&admin, "insert into livestore.relay_sidecars values ('x', now() + interval '1 day')").await;
    for store in ["s", "own"] {
        push(&admin, store, chain(0, 3)).await.unwrap();
    }
    // Leases to call functions with.
    let subscriptions = "select livestore.subscribe('polled', partitions => 3), livestore.subscribe('new');
        create function public.handle(livestore.polled_event) returns void language sql as '';
        select livestore.subscribe('handled', handler => 'public.handle(livestore.polled_event)');
        update livestore.subscription_partitions set lease = (array['first', 'second', 'third'])[partition + 1], batch_size = 1, batch_end = position
        where subscription = 'polled';
        insert into livestore.dead_letters (subscription, partition, store_id, failures) values ('polled', 0, 's', 1)";
    run(&admin, subscriptions).await;
    run(
        &admin,
        "select livestore.define_event('e', '{}'); create schema app; grant usage, create on schema app to public;
        create table app.lines as select livestore.export_store('s') as line; grant select on app.lines to public",
    )
    .await;
    database
}

/// Whether a statement, which is rolled back, is allowed. It may fail for other reasons.
async fn allowed(client: &Client, sql: &str) -> bool {
    run(client, "begin").await;
    let result = client.query(sql, &[]).await;
    run(client, "rollback").await;
    result.is_ok() || rejection(result).sqlstate != "42501"
}

#[tokio::test]
async fn every_function_is_for_whom_it_is_for() {
    let database = filled().await;
    let admin = database.admin().await;
    let functions: Vec<String> =
        all(
            &admin,
            "select proname::text from pg_proc where pronamespace = 'livestore'::regnamespace and prorettype <> 'trigger'::regtype",
        )
        .await;
    let listed: BTreeSet<_> = calls().map(|(function, _, _)| function.to_string()).collect();
    assert_eq!(functions.into_iter().collect::<BTreeSet<_>>(), listed, "who may call the others?");
    for role in ROLES {
        let client = database.connect(role).await;
        for (_, call, roles) in calls() {
            let select = format!("select * from {call}");
            assert_eq!(allowed(&client, &select).await, roles.contains(&role), "{role}: {call}");
        }
    }
    // Without the right to execute it, not merely without the rights that it needs.
    for (function, call, roles) in calls() {
        let granted: Vec<String> = all_with(
            &admin,
            "select distinct role from unnest($2::text[]) role, pg_proc p
             where p.pronamespace = 'livestore'::regnamespace and p.proname = $1 and has_function_privilege(role, p.oid, 'execute')
             order by role",
            &[function, &&ROLES[..]],
        )
        .await;
        assert_eq!(granted, *roles, "{call}");
    }
    for (_, call, roles) in calls() {
        for role in *roles {
            let client = database.connect(role).await;
            run(&client, &format!("begin; select * from {call}; rollback")).await;
        }
    }
}

#[tokio::test]
async fn the_public_may_do_nothing() {
    let database = filled().await;
    let admin = database.admin().await;
    let granted: Vec<String> = all(
        &admin,
        "select what from (
             select 'function ' || oid::regprocedure, coalesce(proacl, acldefault('f', proowner)) from pg_proc
                 where pronamespace = 'livestore'::regnamespace
             union all
             select 'relation ' || oid::regclass, relacl from pg_class where relnamespace = 'livestore'::regnamespace
             union all
             select 'column ' || attrelid::regclass || '.' || attname, attacl from pg_attribute
                 where attrelid in (select oid from pg_class where relnamespace = 'livestore'::regnamespace) and attacl is not null
             union all
             select 'schema', nspacl from pg_namespace where nspname = 'livestore'
         ) object (what, acl), aclexplode(acl) entry where entry.grantee = 0",
    )
    .await;
    assert_eq!(granted, [""; 0]);
    let schema: Vec<bool> = all_with(
        &admin,
        "select has_schema_privilege(role, 'livestore', 'create') from unnest($1::text[]) role",
        &[&&ROLES[..]],
    )
    .await;
    assert_eq!(schema, [false; 4], "nobody creates anything in the schema");
}

#[tokio::test]
async fn readers_and_writers_read_the_tables_and_write_none() {
    let database = filled().await;
    let admin = database.admin().await;
    let privileges: Vec<String> = all_with(
        &admin,
        "select format('%s: %s %s', role, privilege, c.oid::regclass)
         from unnest($1::text[]) role,
             unnest('{select,insert,update,delete,truncate,references,trigger}'::text[]) privilege,
             pg_class c
         where c.relnamespace = 'livestore'::regnamespace and c.relkind in ('r', 'v')
             and has_table_privilege(role, c.oid, privilege)
         order by 1",
        &[&&ROLES[..]],
    )
    .await;
    let mut expected = Vec::new();
    for role in ["admin", "reader", "sidecar"] {
        for table in [
            "commits",
            "daily_growth",
            "dead_letters",
            "departed_stores",
            "event_types",
            "eventlog_1",
            "eventlog_1_own",
            "events",
            "misfits",
            "relayed_events",
            "rewrites",
            "shard",
            "shard_moves",
            "shard_stores",
            "store_names",
            "store_sizes",
            "stores",
            "subscriptions",
            "versions",
        ] {
            expected.push(format!("{role}: select livestore.{table}"));
        }
    }
    assert_eq!(privileges, expected);
    let sequence: Vec<bool> = all_with(
        &admin,
        "select has_sequence_privilege(role, 'livestore.stores_id_seq', 'usage, select, update') from unnest($1::text[]) role",
        &[&&ROLES[..]],
    )
    .await;
    assert_eq!(sequence, [false; 4]);
}

#[tokio::test]
async fn nobody_but_the_owner_touches_a_log_directly() {
    let database = filled().await;
    for role in ROLES {
        let client = database.connect(role).await;
        for statement in [
            "insert into livestore.eventlog_1 values (1, 9, 3, 'e', null, 'c', 's', now())",
            "insert into livestore.eventlog_1_own values (1, 9, 3, 'e', null, 'c', 's', now())",
            "insert into livestore.stores (store_id, backend_id) values ('new', 'mine')",
            "update livestore.eventlog_1 set name = 'changed'",
            "update livestore.eventlog_1_own set name = 'changed'",
            "update livestore.stores set head = 0",
            "select * from livestore.stores for update",
            "delete from livestore.eventlog_1",
            "delete from livestore.stores",
            "truncate livestore.eventlog_1",
            "select * from livestore.instance",
            "select * from livestore.dropped_stores",
            "select nextval('livestore.stores_id_seq')",
            "create trigger mine before insert on livestore.eventlog_1 for each row execute function suppress_redundant_updates_trigger()",
            "alter table livestore.eventlog_1 disable trigger all",
            "drop table livestore.eventlog_1_own",
            "create table livestore.mine (n int)",
            "create function livestore.mine() returns int language sql as 'select 1'",
            "comment on table livestore.stores is 'mine'",
            "drop schema livestore cascade",
        ] {
            assert!(!allowed(&client, statement).await, "{role}: {statement}");
        }
    }
    let admin = database.admin().await;
    assert_eq!((log(&admin, "s").await, log(&admin, "own").await), (up_to(3), up_to(3)));
}

#[tokio::test]
async fn a_reader_sees_the_stores_with_their_own_tables() {
    let database = filled().await;
    let reader = database.connect("reader").await;
    assert_eq!(log(&reader, "own").await, up_to(3));
    for source in ["livestore.pull('own')", "livestore.eventlog_1_own", "livestore.eventlog_1"] {
        assert!(one::<i64>(&reader, &format!("select count(*) from {source}")).await >= 3, "{source}");
    }
}

#[tokio::test]
async fn every_function_that_runs_statements_has_a_pinned_search_path() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let unpinned: Vec<String> = all(
        &admin,
        "select p.oid::regprocedure::text from pg_proc p join pg_language l on l.oid = p.prolang
         where p.pronamespace = 'livestore'::regnamespace and (l.lanname <> 'c' or p.prosecdef)
             -- A body that was parsed when the function was made does not depend on it.
             and p.prosqlbody is null
             -- Fast, because they have no settings: their names are qualified.
             and p.oid::regprocedure not in ('livestore.try_bigint(text)', 'livestore.try_double(text)') and not coalesce('search_path=pg_catalog, pg_temp' = any (p.proconfig), false)",
    )
    .await;
    assert_eq!(unpinned, [""; 0]);
    assert!(
        one::<i64>(&admin, "select count(*) from pg_proc where prosecdef and pronamespace = 'livestore'::regnamespace")
            .await
            > 0
    );
}

/// Functions and operators that would be called instead of Postgres' own if the caller's search path counted.
const TRAPS: &str = "
    create function public.trap() returns void language plpgsql as $$ begin raise exception 'caught'; end $$;
    do $$
    declare
        trap text;
    begin
        foreach trap in array array[
            'to_json(text)', 'octet_length(text)', 'char_length(text)', 'length(text)', 'left(text, int)',
            'cardinality(text[])', 'cardinality(int[])', 'array_position(text[], text)', 'unnest(text[])', 'to_regclass(text)',
            'translate(text, text, text)', 'encode(bytea, text)', 'sha256(bytea)', 'convert_to(text, name)', 'now()',
            'clock_timestamp()', 'gen_random_uuid()', 'pg_notify(text, text)', 'format(text, text)', 'format(text, text, bigint)',
            'json_build_array(json)', 'max(bigint)', 'count(bigint)', 'regexp_replace(text, text, text, text)'
        ] loop
            execute format('create function public.%s returns text language sql as ''select public.trap(); select null::text''', trap);
        end loop;
    end $$;
    create function public.trap(text, text) returns boolean language plpgsql as $$ begin raise exception 'caught'; end $$;
    create function public.trap(bigint, bigint) returns boolean language plpgsql as $$ begin raise exception 'caught'; end $$;
    create function public.trap(regclass, regclass) returns boolean language plpgsql as $$ begin raise exception 'caught'; end $$;
    create operator public.= (leftarg = text, rightarg = text, function = public.trap);
    create operator public.<> (leftarg = text, rightarg = text, function = public.trap);
    create operator public.= (leftarg = bigint, rightarg = bigint, function = public.trap);
    create operator public.> (leftarg = bigint, rightarg = bigint, function = public.trap);
    create operator public.= (leftarg = regclass, rightarg = regclass, function = public.trap);
    create operator public.<> (leftarg = regclass, rightarg = regclass, function = public.trap);
    create table public.stores (trapped text);
    create table public.eventlog_1 (trapped text);
    create temp table stores (trapped text);
    create temp table eventlog_1 (trapped text);
    create temp table dropped_stores (trapped text);
    create temp table instance (trapped text);
    create domain public.text as pg_catalog.text check (false);
    create domain public.regclass as pg_catalog.regclass check (false);
    set search_path = pg_temp, public, livestore, pg_catalog";

#[tokio::test]
async fn nothing_that_a_user_creates_is_picked_up() {
    let database = filled().await;
    run(&database.admin().await, "grant create on schema public to sidecar").await;
    let client = database.connect("sidecar").await;
    run(&client, TRAPS).await;
    for armed in ["octet_length('x')", "'a' = 'b'::pg_catalog.text", "now()", "cardinality('{1}'::int[])"] {
        let error = client.query(&format!("select {armed}"), &[]).await.expect_err(armed);
        assert_eq!(error.as_db_error().unwrap().message(), "caught", "{armed}");
    }
    for (_, call, _) in calls().filter(|(_, _, roles)| roles.contains(&"sidecar")) {
        run(&client, &format!("select * from {call}")).await;
    }
    run(&client, &format!("select livestore.push('trapped', '{}')", chain(0, 3))).await;
    run(&client, &format!("select livestore.push('trapped', '{}')", chain(1, 4))).await;
    let refused = rejection(client.batch_execute("select livestore.push('trapped', '[{}]')").await);
    assert_eq!(refused.sqlstate, "LS003", "{refused:?}");

    // The owner, too, may have somebody else's functions in the path.
    let admin = database.admin().await;
    run(
        &admin,
        "set search_path = public, livestore, pg_catalog;
         select livestore.create_store('trapped', own_table => true);
         select livestore.commit('trapped', 'e'), livestore.apply_hooks('livestore.eventlog_1_trapped');
         select livestore.reset_store('trapped'), livestore.drop_store('trapped'), livestore.drop_store('s')",
    )
    .await;
}

/// An advisory lock can be held by anybody.
#[tokio::test]
async fn nobody_without_rights_holds_up_the_peer_relay() {
    let database = Database::new().await;
    let sidecar = database.connect("sidecar").await;
    run(&sidecar, "set statement_timeout = '2s'").await;
    for role in ["stranger", "reader"] {
        let holder = database.connect(role).await;
        run(
            &holder,
            "begin;
             select pg_advisory_lock(hashtextextended('livestore relay presence', 0));
             select pg_advisory_lock(n) from generate_series(0, 9) n",
        )
        .await;
        run(&sidecar, "select livestore.relay_enter('15 s')").await;
        let lock = "lock table livestore.relay_presence in access share mode";
        assert_eq!(rejection(holder.batch_execute(lock).await).sqlstate, "42501", "{role}");
    }
}
