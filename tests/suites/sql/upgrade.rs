//! `alter extension livestore_sync update` from every release: the data stays, and what comes of it is what a fresh
//! installation has.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{all, all_with, broken_chains, fill, log, one, push, rejection, run, stored};
use livestore_tests::cluster::{Cluster, Database};
use livestore_tests::events::chain;
use livestore_tests::flavour::{Flavour, is_skipped};
use livestore_tests::{eventually, root};
use tokio_postgres::Client;

const VERSION: &str = "select extversion from pg_extension where extname = 'livestore_sync'";

/// The versions that are updated to today's.
fn releases() -> BTreeSet<String> {
    let mut releases = kept();
    releases.remove(env!("CARGO_PKG_VERSION"));
    assert!(!releases.is_empty());
    releases
}

/// The versions whose scripts are in `sql/releases`: today's is one of them from its release to the next change.
fn kept() -> BTreeSet<String> {
    let names = std::fs::read_dir(root().join("sql/releases")).unwrap().map(|entry| entry.unwrap().file_name());
    let version = |name: &str| Some(name.strip_prefix("livestore_sync--")?.strip_suffix(".sql")?.to_owned());
    names.filter_map(|name| version(name.to_str().unwrap())).collect()
}

/// A database with this version of the extension.
async fn at(release: &str) -> (Database, Client) {
    let database = Database::new().await;
    let client = database.admin().await;
    run(&client, &format!("drop extension livestore_sync; create extension livestore_sync version '{release}'")).await;
    (database, client)
}

/// All that the extension is made of, a line for each fact. Positions of columns are left out: one that an update adds is
/// the last.
async fn made_of(client: &Client) -> BTreeSet<String> {
    let facts = "
        select format('function %s %s %s', pg_get_functiondef(p.oid), (select array_agg(a::text order by a::text) from unnest(p.proacl) a), obj_description(p.oid, 'pg_proc'))
        from pg_proc p where pronamespace = 'livestore'::regnamespace
        union all
        select format('relation %s %s %s %s %s %s %s %s', c.oid::regclass, c.relkind, c.relpersistence, c.relreplident, c.reloptions, c.relowner::regrole,
            (select array_agg(a::text order by a::text) from unnest(c.relacl) a), obj_description(c.oid, 'pg_class'))
        from pg_class c where relnamespace = 'livestore'::regnamespace
        union all
        select format('column %s.%I %s %s %s %s %s', a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod),
            a.attnotnull, a.attidentity, pg_get_expr(d.adbin, d.adrelid), col_description(a.attrelid, a.attnum))
        from pg_attribute a
        join pg_class c on c.oid = a.attrelid and c.relnamespace = 'livestore'::regnamespace
        left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where a.attnum > 0 and not a.attisdropped
        union all
        select format('constraint %s %s %s', conname, conrelid::regclass, pg_get_constraintdef(oid))
        from pg_constraint where connamespace = 'livestore'::regnamespace
        union all
        select format('index %s', pg_get_indexdef(i.indexrelid))
        from pg_index i join pg_class c on c.oid = i.indexrelid and c.relnamespace = 'livestore'::regnamespace
        union all
        select format('view %s %s', c.oid::regclass, pg_get_viewdef(c.oid))
        from pg_class c where relnamespace = 'livestore'::regnamespace and relkind = 'v'
        union all
        select format('type %s %s %s', t.oid::regtype, t.typtype, obj_description(t.oid, 'pg_type'))
        from pg_type t where typnamespace = 'livestore'::regnamespace
        union all
        select format('member %s', pg_describe_object(d.classid, d.objid, d.objsubid))
        from pg_depend d
        where d.refclassid = 'pg_extension'::regclass and d.deptype = 'e'
            and d.refobjid = (select oid from pg_extension where extname = 'livestore_sync')
        union all
        select format('dumped %s %s', c.name::regclass, c.condition)
        from pg_extension, unnest(extconfig, extcondition) c(name, condition) where extname = 'livestore_sync'
        union all
        select format('trigger %s', pg_get_triggerdef(t.oid))
        from pg_trigger t join pg_class c on c.oid = t.tgrelid and c.relnamespace = 'livestore'::regnamespace
        where not t.tgisinternal";
    all(client, facts).await.into_iter().collect()
}

#[tokio::test]
async fn an_update_makes_of_every_release_what_a_fresh_installation_is() {
    if is_skipped("no release has it") {
        return;
    }
    let fresh = Database::new().await.admin().await;
    let expected = made_of(&fresh).await;
    assert!(expected.len() > 150, "{} facts", expected.len());
    for release in releases() {
        let (_database, client) = at(&release).await;
        run(&client, "alter extension livestore_sync update").await;
        let found = made_of(&client).await;
        let missing: Vec<_> = expected.difference(&found).collect();
        let left: Vec<_> = found.difference(&expected).collect();
        assert!(missing.is_empty() && left.is_empty(), "{release}: missing {missing:#?}, left {left:#?}");
        assert_eq!(one::<String>(&client, VERSION).await, one::<String>(&fresh, VERSION).await);
    }
}

#[tokio::test]
async fn an_update_leaves_stores_events_and_backend_ids_as_they_are_and_logs_go_on() {
    if is_skipped("no release has it") {
        return;
    }
    for release in releases() {
        let (database, client) = at(&release).await;
        fill(&client).await;
        let names = "select livestore.backend_id(s) from unnest(array['own', 'dropped', 'never created']) s";
        let (before, ids) = (stored(&client).await, all::<String>(&client, names).await);

        run(&client, "alter extension livestore_sync update").await;
        assert_eq!(stored(&client).await, before, "{release}");
        assert_eq!(all::<String>(&client, names).await, ids, "{release}");
        let relayed: String = one(&client, "select event::text from livestore.relay_page('relayed', 0, 9, 999)").await;
        assert!(relayed.contains("41") && relayed.contains("1.50"), "{relayed}");

        assert_eq!(push(&client, "own", chain(0, 5)).await.unwrap(), 5, "{release}: a repeat of what is there");
        let writer = database.connect("sidecar").await;
        for (store, head) in [("pooled", 22), ("own", 5), ("reset own", 0), ("dropped", 0), ("never created", 0)] {
            assert_eq!(push(&writer, store, chain(head, 3)).await.unwrap(), head + 3, "{release} {store}");
        }
        assert_eq!(log(&database.connect("reader").await, "own").await.len(), 8, "{release}");
        assert_eq!(broken_chains(&client).await, [""; 0], "{release}");
    }
}

#[tokio::test]
async fn the_library_of_today_serves_the_functions_of_every_release() {
    if is_skipped("no release has it") {
        return;
    }
    // An installation brings the new library at once; the update of the SQL comes later.
    for release in releases() {
        let (_database, client) = at(&release).await;
        let control = root().join(format!("sql/releases/livestore_sync--{release}.control"));
        let control = std::fs::read_to_string(control).unwrap();
        let library =
            "select distinct probin from pg_proc where pronamespace = 'livestore'::regnamespace and probin is not null";
        let library: String = one(&client, library).await;
        assert!(control.contains(&format!("'{library}'")), "{release} has {library}");
        fill(&client).await;
        assert_eq!(push(&client, "pooled", chain(22, 3)).await.unwrap(), 25, "{release}");
        let rule = "create table public.others (name text); grant all on public.others to public;
             create rule also as on insert to livestore.eventlog_1 do also insert into public.others values (new.name)";
        run(&client, rule).await;
        assert_eq!(push(&client, "pooled", chain(25, 1)).await.unwrap(), 26, "{release}");
        assert_eq!(broken_chains(&client).await, [""; 0], "{release}");
    }
}

#[tokio::test]
async fn there_is_one_way_from_every_release_to_today() {
    if is_skipped("no release has it") {
        return;
    }
    let client = Database::new().await.admin().await;
    let today: String = one(&client, VERSION).await;
    for release in releases() {
        let path = "select path from pg_extension_update_paths('livestore_sync') where source = $1 and target = $2";
        let path: Vec<String> = all_with(&client, path, &[&release, &today]).await;
        assert_eq!(path, [format!("{release}--{today}")]);
    }
}

#[tokio::test]
async fn what_is_released_does_not_change() {
    if is_skipped("no release has it") {
        return;
    }
    let sums = Command::new("sha256sum")
        .args(["--check", "--strict", "SHA256SUMS"])
        .current_dir(root().join("sql/releases"))
        .output()
        .unwrap();
    assert!(sums.status.success(), "{}", String::from_utf8_lossy(&sums.stdout));
    let listed = std::fs::read_to_string(root().join("sql/releases/SHA256SUMS")).unwrap();
    for release in kept() {
        assert!(listed.contains(&format!("livestore_sync--{release}.sql")), "{release} is not in SHA256SUMS");
    }

    let today: String = one(&Database::new().await.admin().await, VERSION).await;
    assert_eq!(today, env!("CARGO_PKG_VERSION"), "extension and sidecar have one version");
    if kept().contains(&today) {
        let folder = tempfile::tempdir().unwrap();
        assert!(Command::new(root().join("sql/build")).arg(folder.path()).status().unwrap().success());
        let script = format!("livestore_sync--{today}.sql");
        let (built, released) = (folder.path().join(&script), root().join("sql/releases").join(&script));
        let same = std::fs::read(built).unwrap() == std::fs::read(released).unwrap();
        assert!(same, "sql/ has changed since {today}: give default_version and the workspace a new number");
    }
}

/// An empty database.
async fn without_it() -> (Database, Client) {
    let database = Database::new().await;
    let client = database.admin().await;
    run(&client, Flavour::of_tests().uninstall()).await;
    run(&client, "drop schema if exists livestore").await;
    (database, client)
}

/// That script brings back its functions, and knows nothing of newer tables.
#[tokio::test]
async fn the_script_mends_what_an_older_one_has_brought_back_and_refuses_newer_versions() {
    let ((_database, client), (_other, fresh)) = (without_it().await, without_it().await);
    let (today, own) = (Flavour::Portable.install(), env!("CARGO_PKG_VERSION"));
    let old = std::fs::read_to_string(root().join("sql/releases/livestore-0.3.0.sql")).unwrap();
    run(&fresh, today).await;
    let expected = made_of(&fresh).await;
    for script in [&*old, today, &*old, today] {
        run(&client, script).await;
    }
    let found = made_of(&client).await;
    let missing: Vec<_> = expected.difference(&found).collect();
    let left: Vec<_> = found.difference(&expected).collect();
    assert!(missing.is_empty() && left.is_empty(), "missing {missing:#?}, left {left:#?}");
    let versions = "select version from livestore.versions order by id";
    assert_eq!(all::<String>(&client, versions).await, ["0.3.0", own, "0.3.0", own]);

    let mut updates = vec![today];
    if Flavour::of_tests() == Flavour::Native {
        updates.push("create extension livestore_sync version 'portable'; alter extension livestore_sync update");
    }
    for update in updates {
        for newer in [
            "insert into livestore.versions (version, flavour, installed_by) values ('99.0.0', 'portable', 'test')",
            "create or replace function livestore.version() returns text immutable language sql as $$ select '99.0.0' $$",
        ] {
            // The transaction takes back what is faked.
            run(&client, &format!("begin; {newer}")).await;
            let refused = rejection(client.batch_execute(update).await);
            assert!(refused.message.contains("the database has livestore_sync 99.0.0"), "{newer}: {refused:?}");
            assert!(refused.hint.contains("livestore.sql of version 99.0.0"), "{newer}: {refused:?}");
            run(&client, "rollback").await;
        }
    }
    run(&client, today).await;
}

/// Waits until the update has begun, and may wait for locks.
async fn begins(client: &Client) {
    let begun = "select exists (
        select from pg_stat_activity
        where query like '%alter extension%' and state = 'active' and datname = current_database() and pid <> pg_backend_pid()
    )";
    eventually("the update has begun", async || one::<bool>(client, begun).await).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
}

/// Postgres ends an autovacuum for a session that waits long enough for its lock.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_does_not_wait_for_an_autovacuum() {
    if is_skipped("no release has it") {
        return;
    }
    let cluster = tokio::task::spawn_blocking(|| Cluster::start_with("autovacuum_naptime = 1s")).await.unwrap().leak();
    let database = cluster.database().await;
    let client = database.admin().await;
    let release = releases().pop_last().unwrap();
    run(&client, &format!("drop extension livestore_sync; create extension livestore_sync version '{release}'")).await;
    for parent in 0..20 {
        push(&client, "s", chain(parent * 1000, 1000)).await.unwrap();
    }
    // It takes a minute.
    run(
        &client,
        "alter table livestore.eventlog_1 set (
             autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1,
             autovacuum_vacuum_insert_threshold = 0, autovacuum_vacuum_insert_scale_factor = 0
         )",
    )
    .await;
    let running = "select count(*) from pg_stat_progress_vacuum where relid = 'livestore.eventlog_1'::regclass";
    eventually("an autovacuum is under way", || async { one::<i64>(&client, running).await == 1 }).await;
    run(&client, "set livestore.wait_for_locks = '15s'").await;
    run(&client, "alter extension livestore_sync update").await;
    assert_eq!(one::<i64>(&client, "select livestore.head('s')").await, 20_000);
    database.stop();
}

/// Beside a push that has locked the first of its tables, and a transaction that has read events and will read stores.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_ends_in_no_deadlock_and_holds_up_nobody_while_it_waits() {
    if is_skipped("no release has it") {
        return;
    }
    for release in releases() {
        let (database, client) = at(&release).await;
        fill(&client).await;
        for (first, then) in [
            ("lock table livestore.stores in row exclusive mode", "select livestore.push('held', '[]')"),
            ("select count(*) from livestore.eventlog_1", "select count(*) from livestore.stores"),
            ("select count(*) from livestore.events", "select count(*) from livestore.stores"),
        ] {
            let (open, updater) = (database.admin().await, database.admin().await);
            // A statement that waits for longer does not end by itself.
            for client in [&client, &open] {
                run(client, "set statement_timeout = '20s'").await;
            }
            run(&open, &format!("begin; {first}")).await;
            let begin = "begin; alter extension livestore_sync update";
            let update = tokio::spawn(async move { (updater.batch_execute(begin).await, updater) });
            begins(&client).await;
            let start = Instant::now();
            assert_eq!(push(&client, "beside", chain(0, 1)).await.unwrap(), 1, "{release}: {first}");
            assert!(start.elapsed() < Duration::from_secs(10), "{release}: {first}: {:?}", start.elapsed());
            let result = open.batch_execute(then).await;
            assert!(result.is_ok(), "{release}: {first}, {then}: {result:?}");
            run(&open, "commit").await;
            let (result, updater) = update.await.unwrap();
            assert!(result.is_ok(), "{release}: {first}: {result:?}");
            // For the next one.
            run(&updater, "rollback").await;
            run(&client, "select livestore.reset_store('beside')").await;
        }
        let open = database.admin().await;
        // A view of somebody else's tables, and another database with the same numbers.
        run(&open, "create table public.orders (); create view livestore.orders as select from public.orders").await;
        run(&open, "begin; select count(*) from public.orders; select count(*) from livestore.events").await;
        let elsewhere = Database::new().await.admin().await;
        run(&elsewhere, "begin; select count(*) from livestore.events").await;
        let other_pid: i32 = one(&elsewhere, "select pg_backend_pid()").await;
        run(&client, "set livestore.wait_for_locks = '1s'").await;
        let refused = client.batch_execute("alter extension livestore_sync update").await.unwrap_err();
        let refused = refused.as_db_error().unwrap();
        assert_eq!(refused.code().code(), "55P03", "{refused:?}");
        let pid: i32 = one(&open, "select pg_backend_pid()").await;
        assert!(refused.detail().unwrap().contains(&pid.to_string()), "{refused:?}");
        assert!(!refused.detail().unwrap().contains(&other_pid.to_string()), "{refused:?}");
        run(&open, "commit; begin; select count(*) from public.orders").await;
        run(&client, "alter extension livestore_sync update").await;
        run(&open, "commit").await;
    }
}

/// A portable installation is updated by installing it again.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_gives_up_names_a_prepared_transaction() {
    let start = || Cluster::start_with("max_prepared_transactions = 1");
    let database = tokio::task::spawn_blocking(start).await.unwrap().leak().database().await;
    let client = database.admin().await;
    if Flavour::of_tests() == Flavour::Native {
        let release = releases().pop_last().unwrap();
        run(&client, &format!("drop extension livestore_sync; create extension livestore_sync version '{release}'"))
            .await;
    }
    run(&client, "begin; select count(*) from livestore.events; prepare transaction 'it''s here'").await;
    run(&client, "set livestore.wait_for_locks = '1s'").await;
    let update = match Flavour::of_tests() {
        Flavour::Native => "alter extension livestore_sync update",
        Flavour::Portable => Flavour::Portable.install(),
    };
    let refused = rejection(client.batch_execute(update).await);
    assert_eq!(&*refused.sqlstate, "55P03", "{refused:?}");
    assert_eq!(refused.detail, "Locks are held by: prepared transaction 'it''s here'.");
    run(&client, "rollback").await;
    run(&client, "rollback prepared 'it''s here'").await;
    run(&client, update).await;
    database.stop();
}
