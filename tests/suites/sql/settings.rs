//! The extension means the same whatever settings a user, a role or a database has.

use crate::support::{Push, all, broken_chains, fill, log, one, push, push_batch, run, stored};
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, up_to};
use livestore_tests::flavour::{Flavour, is_skipped};

/// Settings that go together, as `alter database … set` takes them, one class a line.
const CLASSES: &[&[&str]] = &[
    // Settings for reading statements.
    &["standard_conforming_strings = off", "backslash_quote = on", "escape_string_warning = off"],
    &["transform_null_equals = on", "array_nulls = off", "quote_all_identifiers = on"],
    &["search_path = ''"],
    &["search_path = pg_temp, livestore, public"],
    &["plpgsql.variable_conflict = use_column", "plpgsql.extra_errors = 'all'", "check_function_bodies = on"],
    &["plpgsql.variable_conflict = use_variable", "plpgsql.print_strict_params = on", "check_function_bodies = off"],
    // Settings for the form of values.
    &["datestyle = 'German, DMY'", "intervalstyle = iso_8601", "timezone = 'Asia/Kolkata'", "bytea_output = escape"],
    &["datestyle = 'SQL, MDY'", "timezone = 'America/St_Johns'", "extra_float_digits = -15", "xmloption = document"],
    &[
        "datestyle = 'Postgres, YMD'",
        "intervalstyle = sql_standard",
        "timezone = 'Asia/Kolkata'",
        "client_encoding = LATIN1",
    ],
    &[
        "lc_messages = 'C'",
        "lc_numeric = 'C'",
        "lc_time = 'C'",
        "lc_monetary = 'C'",
        "default_text_search_config = simple",
    ],
    // Settings for transactions.
    &["default_transaction_isolation = serializable", "default_transaction_deferrable = on"],
    &["default_transaction_isolation = 'repeatable read'", "row_security = off"],
    &["default_tablespace = elsewhere", "temp_tablespaces = elsewhere", "default_table_access_method = nothing"],
    &[
        // Not less: a commit that notifies waits for those of other databases of the cluster.
        "lock_timeout = 300",
        "statement_timeout = 60000",
        "idle_in_transaction_session_timeout = 60000",
        "deadlock_timeout = 1",
    ],
    &["session_replication_role = local", "synchronous_commit = off", "default_toast_compression = pglz"],
    &[
        "gin_pending_list_limit = 64",
        "vacuum_freeze_min_age = 0",
        "client_min_messages = debug1",
        "track_functions = 'all'",
    ],
    // Settings for planning statements.
    &[
        "enable_seqscan = off",
        "enable_sort = off",
        "enable_hashagg = off",
        "enable_nestloop = off",
        "plan_cache_mode = force_generic_plan",
        "constraint_exclusion = on",
        // Disabled plans look expensive, and would be compiled.
        "jit = off",
    ],
    &[
        "enable_indexscan = off",
        "enable_bitmapscan = off",
        "enable_hashjoin = off",
        "enable_mergejoin = off",
        "enable_material = off",
        "plan_cache_mode = force_custom_plan",
        "constraint_exclusion = off",
        "from_collapse_limit = 1",
        "join_collapse_limit = 1",
        "work_mem = 64",
        "cursor_tuple_fraction = 0.01",
    ],
    &[
        "jit = on",
        "jit_above_cost = 0",
        "jit_inline_above_cost = -1",
        "jit_optimize_above_cost = -1",
        "parallel_setup_cost = 0",
        "parallel_tuple_cost = 0",
        "min_parallel_table_scan_size = 0",
        "min_parallel_index_scan_size = 0",
        "force_parallel_mode = on",
    ],
];

/// Settings of the same categories that are not about what a statement means or may do, or that no function could withstand.
const LEFT_OUT: &[&str] = &[
    // Nothing can be written then: `check` says so.
    "default_transaction_read_only",
    "transaction_read_only",
    // Of the transaction that is running.
    "transaction_isolation",
    "transaction_deferrable",
    "idle_session_timeout",
    "vacuum_freeze_table_age",
    "vacuum_failsafe_age",
    "vacuum_multixact_freeze_min_age",
    "vacuum_multixact_freeze_table_age",
    "vacuum_multixact_failsafe_age",
    "gin_fuzzy_search_limit",
    "timezone_abbreviations",
    "lo_compat_privileges",
    "synchronize_seqscans",
    "restrict_nonsystem_relation_kind",
    "xmlbinary",
    "transaction_timeout",
    "createrole_self_grant",
    "event_triggers",
    "icu_validation_level",
    "role",
    "allow_in_place_tablespaces",
];

async fn database_with(class: &[&str]) -> Database {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(&admin, "create table public.source (seqnum bigint, parentseqnum bigint, name text, args text, createdat timestamptz, clientid text, sessionid text);
         insert into public.source
         select n, n - 1, 'e', '{\"a\": \"\\u0000 \\\\ ''\"}', '2024-05-06 07:08:09.123456+00'::timestamptz + n * interval '1 day', 'c', 's'
         from generate_series(1, 120) n;
         grant select on public.source to admin").await;
    run(&admin, Flavour::of_tests().uninstall()).await;
    let known: Vec<String> = all(&admin, "select name from pg_settings").await;
    for setting in class {
        // As it is called until Postgres 15, and since.
        let setting = match setting.split_once(" = ") {
            Some(("force_parallel_mode", value)) if known.iter().any(|name| name == "debug_parallel_query") => {
                &format!("debug_parallel_query = {value}")
            }
            _ => *setting,
        };
        run(&admin, &format!("alter database {} set {setting}", database.name())).await;
    }
    database
}

#[tokio::test]
async fn everything_works_under_every_class_of_settings() {
    let admin = Database::new().await.admin().await;
    run(&admin, "set allow_in_place_tablespaces = on").await;
    run(&admin, "create tablespace elsewhere location ''").await;
    for (n, class) in CLASSES.iter().enumerate() {
        let is_portable = Flavour::of_tests() == Flavour::Portable;
        let version = if is_portable { "" } else { ["", "version '0.2.0'"][n % 2] };
        let database = database_with(class).await;
        let admin = database.admin().await;
        let install = format!("create extension livestore_sync {version}");
        run(&admin, if is_portable { Flavour::Portable.install() } else { &install }).await;
        if !version.is_empty() && !class.contains(&"standard_conforming_strings = off") {
            run(&admin, "select livestore.create_store('old', true)").await;
        }
        if !version.is_empty() {
            run(&database.admin().await, "alter extension livestore_sync update").await;
        }
        let admin = database.admin().await;
        fill(&admin).await;
        let before = stored(&database.admin().await).await;
        let writer = database.connect("sidecar").await;
        for store in ["pooled", "new", "a-b \u{e9}"] {
            let head: i64 = one(&writer, &format!("select livestore.head('{store}')")).await;
            assert_eq!(push(&writer, store, chain(head, 3)).await.unwrap(), head + 3, "{class:?} {store}");
        }
        let outcomes = push_batch(&writer, &[Push::to("own", chain(0, 5)), Push::to("reset own", chain(0, 2))]).await;
        assert_eq!(outcomes.iter().map(|outcome| outcome.brief()).collect::<Vec<_>>(), [Ok(5), Ok(2)], "{class:?}");
        assert!(before.len() > 20);

        run(
            &admin,
            "create table public.seen (name text);
             grant insert on public.seen to livestore_hooks;
             create function public.see() returns trigger language plpgsql as
                 'begin insert into public.seen values (new.name); return new; end';
             create trigger see before insert on livestore.eventlog_1 for each row execute function public.see();
             create constraint trigger late after insert on livestore.eventlog_1
                 deferrable initially deferred for each row execute function public.see();
             select livestore.create_store('hooked', true);
             select livestore.apply_hooks('livestore.eventlog_1_own'::regclass)",
        )
        .await;
        for store in ["own", "pooled", "hooked"] {
            run(&writer, &format!("select livestore.commit('{store}', 'committed')")).await;
        }
        assert_eq!(one::<i64>(&admin, "select count(*) from public.seen").await, 6, "{class:?}");

        let caretaker = database.connect("admin").await;
        let imported = "select imported from livestore.import_table('public.source'::regclass, 'imported')";
        assert_eq!(one::<i64>(&caretaker, imported).await, 120, "{class:?}");
        assert_eq!(one::<i64>(&database.admin().await, imported).await, 0, "{class:?}");
        assert_eq!(log(&caretaker, "imported").await, up_to(120), "{class:?}");
        let same = "select count(*) from livestore.events e join public.source s on s.seqnum = e.seq_num
            where e.store_id = 'imported' and e.created_at = s.createdat and e.args::text = s.args";
        assert_eq!(one::<i64>(&admin, same).await, 120, "{class:?}");

        let relay = "select livestore.relay_join(s, array['u'], array['c']), livestore.relay_send(s, array[s], array[repeat('x', 9000)]),
                livestore.relay_leave(s, array['u'], array['c'], array[1::bigint]), livestore.relay_renew(s, interval '15 s'),
                livestore.relay_exit(s)
            from livestore.relay_enter(interval '15 s') s";
        run(&writer, relay).await;
        run(&writer, "select livestore.relay_append('relayed', array['e'], array[null], array['c'], array['s'], array['42'], array['2.50'])").await;
        run(&caretaker, "select livestore.reset_store('own'); select livestore.drop_store('reset own'); select livestore.drop_store('pooled')").await;
        run(&admin, "select livestore.renew_backend_ids()").await;
        assert_eq!(broken_chains(&admin).await, [""; 0], "{class:?}");
    }
}

#[tokio::test]
async fn no_setting_of_these_kinds_is_forgotten() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let settings: Vec<String> = all(
        &admin,
        "select name from pg_settings
         where context in ('user', 'superuser')
             and category in (
                 'Client Connection Defaults / Statement Behavior', 'Client Connection Defaults / Locale and Formatting',
                 'Version and Platform Compatibility / Previous PostgreSQL Versions',
                 'Version and Platform Compatibility / Other Platforms and Clients', 'Query Tuning / Other Planner Options'
             )",
    )
    .await;
    let tested = |name: &str| {
        CLASSES
            .iter()
            .copied()
            .flatten()
            .any(|setting| setting.split(' ').next().is_some_and(|it| it.eq_ignore_ascii_case(name)))
    };
    let planner = ["geqo", "default_statistics_target", "recursive_worktable_factor"];
    let forgotten: Vec<_> = settings
        .iter()
        .filter(|name| {
            !tested(name)
                && !LEFT_OUT.iter().any(|it| it.eq_ignore_ascii_case(name))
                && !planner.contains(&name.as_str())
        })
        .collect();
    assert!(forgotten.is_empty(), "{forgotten:?}");
}

#[tokio::test]
async fn a_publication_of_all_tables_stops_nothing() {
    for version in ["", "version '0.2.0'"] {
        if !version.is_empty() && is_skipped("no release has it") {
            continue;
        }
        let database = Database::new().await;
        let admin = database.admin().await;
        if !version.is_empty() {
            run(&admin, &format!("drop extension livestore_sync; create extension livestore_sync {version}; alter extension livestore_sync update"))
            .await;
        }
        run(&admin, "create publication everything for all tables").await;
        fill(&admin).await;
        let caretaker = database.connect("admin").await;
        run(
            &caretaker,
            "select livestore.drop_store('pooled'), livestore.drop_store('own'), livestore.reset_store('relayed')",
        )
        .await;
        push(&caretaker, "pooled", chain(0, 2)).await.unwrap();
        run(&caretaker, "select livestore.drop_store('pooled'), livestore.create_store('relayed', true)").await;
        run(&admin, "select livestore.renew_backend_ids()").await;
        run(
            &caretaker,
            "select livestore.relay_join(s, array['u'], array['c']), livestore.relay_leave(s, array['u'], array['c'], array[1::bigint]),
                 livestore.relay_renew(s, '15 s'), livestore.relay_exit(s)
             from livestore.relay_enter('15 s') s",
        )
        .await;
        let without = "select c.oid::regclass::text from pg_class c
            where c.relnamespace = 'livestore'::regnamespace and c.relkind = 'r' and c.relpersistence = 'p' and c.relreplident <> 'f'
                and not exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary)";
        assert_eq!(all::<String>(&admin, without).await, [""; 0]);
    }
}

/// `standard_conforming_strings = off` makes another text of a backslash.
#[test]
fn no_plain_literal_of_the_sql_has_a_backslash() {
    let mut folders = vec![livestore_tests::root().join("sql")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.ends_with("releases") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "sql") {
                let sql = std::fs::read_to_string(&path).expect("a file");
                assert_eq!(plain_literals_with_backslashes(&sql), [""; 0], "{}", path.display());
                files += 1;
            }
        }
    }
    assert!(files > 50, "{files}");
    let sql = "-- it's '\\a'\nselect 'b''\\c', E'\\d', \"'\" || $$ like '\\_' $$, e'\\'e\\\\', '\\f' -- '";
    assert_eq!(plain_literals_with_backslashes(sql), ["b''\\c", "\\_", "\\f"]);
}

/// Bodies in dollar quotes are code like the rest.
fn plain_literals_with_backslashes(sql: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = sql;
    while let Some(at) = rest.find(['\'', '"', '-']) {
        let (before, from) = rest.split_at(at);
        let is_escaped = before.ends_with(['E', 'e']) && !before[..at - 1].ends_with(|it: char| it.is_alphanumeric());
        let body = &from[1..];
        let (length, is_literal) = match &from[..1] {
            "-" if body.starts_with('-') => (body.find('\n').unwrap_or(body.len()), false),
            "-" => (0, false),
            "\"" => (body.find('"').map_or(body.len(), |end| end + 1), false),
            _ => (end_of_literal(body, is_escaped), true),
        };
        if is_literal && !is_escaped && body[..length].contains('\\') {
            found.push(body[..length].trim_end_matches('\''));
        }
        rest = &body[length..];
    }
    found
}

/// The length of a literal without its first quote.
fn end_of_literal(body: &str, is_escaped: bool) -> usize {
    let mut at = 0;
    while let Some(next) = body[at..].find(['\'', '\\']) {
        at += next + 1;
        let is_quote = body[..at].ends_with('\'');
        if is_quote && !body[at..].starts_with('\'') {
            return at;
        }
        if is_quote || is_escaped {
            at += body[at..].chars().next().map_or(0, char::len_utf8);
        }
    }
    body.len()
}

#[tokio::test]
async fn statements_that_are_exported_mean_the_same_under_every_setting_of_strings() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let index = "create index odd on livestore.eventlog_1 (name) where name = E'a\\\\b'";
    run(&admin, index).await;
    let export = "select livestore.export_hooks()";
    let expected: Vec<String> = all(&admin, export).await;
    assert_eq!(expected.len(), 2, "{expected:#?}");
    assert!(expected[1].contains("IF NOT EXISTS odd") && expected[1].contains("'a\\b'"), "{expected:#?}");
    for setting in ["on", "off"] {
        let session = database.admin().await;
        run(&session, "drop index livestore.odd").await;
        run(&session, &format!("set standard_conforming_strings = {setting}")).await;
        for statement in &expected {
            run(&session, statement).await;
        }
        run(&session, &format!("set standard_conforming_strings = {setting}")).await;
        assert_eq!(all::<String>(&session, export).await, expected, "{setting}");
    }
}

/// A subscription keeps the name of its handler as text, which this setting changes.
#[tokio::test]
async fn a_handler_is_found_whether_all_identifiers_are_quoted_or_not() {
    let database = Database::new().await;
    let (admin, sidecar) = (database.admin().await, database.connect("sidecar").await);
    let handler = r#"public."a ""b"""(livestore.polled_event)"#;
    run(&admin, r#"create function public."a ""b"""(event livestore.polled_event) returns void language sql as ''"#)
        .await;
    for (subscription, setting) in [("quoted", "on"), ("plain", "off"), ("0.3.0", "off")] {
        run(&admin, &format!("set quote_all_identifiers = {setting}")).await;
        run(&admin, &format!("select livestore.subscribe('{subscription}', handler => '{handler}')")).await;
    }
    let before = r#"update livestore.subscribers set handler = '"public"."a ""b"""("livestore"."polled_event")' where name = '0.3.0'"#;
    run(&admin, before).await;
    for (n, setting) in ["on", "off"].into_iter().enumerate() {
        push(&admin, "s", chain(n as i64, 1)).await.unwrap();
        run(&sidecar, &format!("set quote_all_identifiers = {setting}")).await;
        for subscription in ["quoted", "plain", "0.3.0"] {
            let events = format!("select events from livestore.run_subscription('{subscription}')");
            assert_eq!(one::<i64>(&sidecar, &events).await, 1, "{subscription}, {setting}");
        }
    }
}
