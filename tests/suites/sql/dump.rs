//! A dump holds everything, and a restore of it goes on where the original was.

use crate::support::{all, all_with, broken_chains, fill, log, one, one_with, push, rejection, run, stored};
use livestore_tests::cluster::{Cluster, Database};
use livestore_tests::events::{chain, event, up_to};
use livestore_tests::flavour::{Flavour, is_skipped};
use serde_json::{Value, json};
use tokio_postgres::Client;

const STORES: [&str; 7] = ["pooled", "own", "reset", "reset own", "dropped", "dropped and created", "never created"];

async fn filled() -> Database {
    let database = Database::new().await;
    fill(&database.admin().await).await;
    database
}

async fn backend_ids(client: &Client) -> Vec<String> {
    all_with(
        client,
        "select livestore.backend_id(s) from unnest($1::text[]) with ordinality u(s, n) order by n",
        &[&&STORES[..]],
    )
    .await
}

/// A database made of a dump of another.
async fn restored_from(database: &Database, name: &str) -> Client {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("dump").display().to_string();
    run(&database.admin().await, &format!("create database {name} template template0")).await;
    database.tool("pg_dump", &["-f", &file]);
    database.tool("psql", &["-d", name, "-v", "ON_ERROR_STOP=1", "-q", "-f", &file]);
    database.cluster().connect("postgres", name).await
}

#[tokio::test]
async fn a_restored_dump_has_the_same_stores_events_and_backend_ids() {
    let database = filled().await;
    let original = database.admin().await;
    let restored = restored_from(&database, "restored").await;
    assert_eq!(stored(&restored).await, stored(&original).await);
    assert_eq!(backend_ids(&restored).await, backend_ids(&original).await);
    assert_eq!(broken_chains(&restored).await, [""; 0]);
    for client in [&original, &restored] {
        let relayed: String = one(client, "select event::text from livestore.relay_page('relayed', 0, 9, 999)").await;
        assert!(relayed.contains("41") && relayed.contains("1.50"), "{relayed}");
    }
}

#[tokio::test]
async fn a_restored_database_goes_on_where_the_original_was() {
    let database = filled().await;
    let client = restored_from(&database, "continued").await;
    for (store, head) in
        [("pooled", 22), ("own", 5), ("reset own", 0), ("dropped and created", 2), ("never created", 0)]
    {
        assert_eq!(push(&client, store, chain(head, 3)).await.unwrap(), head + 3, "{store}");
    }
    assert_eq!(push(&client, "own", chain(0, 5)).await.unwrap(), 8, "a repeat of what was restored");
    assert_eq!(log(&client, "own").await, up_to(8));
    assert_eq!(one::<i64>(&client, "select count(*) from only livestore.eventlog_1_own").await, 8);
    assert_eq!(broken_chains(&client).await, [""; 0]);
    let ids: Vec<i64> = all(&client, "select id from livestore.stores order by store_id = 'never created', id").await;
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "a new store has a new number: {ids:?}");
    run(&client, "select livestore.create_store('pooled', true), livestore.drop_store('own')").await;

    let reader = database.cluster().connect("reader", "continued").await;
    assert_eq!(log(&reader, "reset own").await, up_to(3), "the privileges came along");
}

/// The roles first, as docs/operations.md says.
#[tokio::test(flavor = "multi_thread")]
async fn a_dump_is_restored_in_another_cluster_after_the_roles() {
    let database = Database::alone().await;
    let original = database.admin().await;
    fill(&original).await;
    let hook = "create function public.keep() returns trigger language plpgsql as $$ begin return new; end $$;
        grant execute on function public.keep() to livestore_hooks;
        create trigger keep before insert on livestore.eventlog_1_own for each row execute function public.keep()";
    run(&original, hook).await;
    let folder = tempfile::tempdir().expect("a folder");
    let [roles, dump] = ["roles", "dump"].map(|name| folder.path().join(name).display().to_string());
    database.tool("pg_dumpall", &["-d", "dbname=postgres", "--roles-only", "-f", &roles]);
    database.tool("pg_dump", &["-f", &dump]);

    let empty = tokio::task::spawn_blocking(Cluster::start_empty).await.unwrap().leak();
    let name = database.name();
    run(&empty.connect("postgres", "postgres").await, &format!("create database {name} template template0")).await;
    let there = database.on(empty);
    // The role postgres is there already.
    there.tool("psql", &["-q", "-f", &roles]);
    there.tool("psql", &["-v", "ON_ERROR_STOP=1", "-q", "-f", &dump]);
    let restored = there.admin().await;
    assert_eq!(stored(&restored).await, stored(&original).await);
    assert_eq!(backend_ids(&restored).await, backend_ids(&original).await);
    let owners = "select string_agg(distinct p.proowner::regrole::text, ',') from pg_proc p where p.pronamespace = 'livestore'::regnamespace and p.prosecdef";
    assert_eq!(one::<String>(&restored, owners).await, one::<String>(&original, owners).await);
    let sidecar = there.connect("sidecar").await;
    assert_eq!(push(&sidecar, "own", chain(5, 1)).await.unwrap(), 6);
    database.stop();
    there.stop();
}

#[tokio::test]
async fn a_restore_in_parallel_is_as_good() {
    let database = filled().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("dump").display().to_string();
    run(&database.admin().await, "create database parallel template template0").await;
    database.tool("pg_dump", &["-Fc", "-f", &file]);
    database.tool("pg_restore", &["-d", "parallel", "--exit-on-error", "-j", "2", &file]);
    let restored = database.cluster().connect("postgres", "parallel").await;
    assert_eq!(stored(&restored).await, stored(&database.admin().await).await);
    assert_eq!(backend_ids(&restored).await, backend_ids(&database.admin().await).await);
}

#[tokio::test]
async fn a_dump_of_a_restored_database_keeps_the_backend_ids_too() {
    let database = filled().await;
    drop(restored_from(&database, "second").await);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("dump").display().to_string();
    run(&database.admin().await, "create database third template template0").await;
    database.tool("pg_dump", &["-d", "second", "-f", &file]);
    database.tool("psql", &["-d", "third", "-v", "ON_ERROR_STOP=1", "-q", "-f", &file]);
    let third = database.cluster().connect("postgres", "third").await;
    assert_eq!(backend_ids(&third).await, backend_ids(&database.admin().await).await);
}

/// pg_dump takes the tables of an extension for its script's, with everything on them. docs/operations.md says so.
#[tokio::test]
async fn hooks_of_own_tables_survive_a_restore_and_those_of_the_shared_one_are_created_again() {
    let database = filled().await;
    run(
        &database.admin().await,
        "create function public.reject() returns trigger language plpgsql as $$ begin raise exception 'rejected'; end $$;
         create trigger reject before insert on livestore.eventlog_1 for each row execute function public.reject();
         select livestore.apply_hooks('livestore.eventlog_1_own')",
    )
    .await;
    let again =
        "create trigger reject before insert on livestore.eventlog_1 for each row execute function public.reject()";
    let restored = restored_from(&database, "hooked").await;
    assert_eq!(rejection(push(&restored, "own", chain(5, 1)).await).message, "rejected");
    // Nothing of the portable flavour is an extension's.
    if Flavour::of_tests() == Flavour::Native {
        run(&restored, again).await;
    }
    assert_eq!(rejection(push(&restored, "pooled", chain(22, 1)).await).message, "rejected");
}

#[tokio::test]
async fn args_are_dumped_byte_for_byte() {
    let database = filled().await;
    let restored = restored_from(&database, "spelled").await;
    let args: Vec<Option<String>> = all(&restored, "select args::text from livestore.pull('pooled', 20)").await;
    assert_eq!(args, [Some("{ \"b\" : 1.0,\t\"a\":\"\\u0000\\ud800\" }".to_string()), None]);
    let first: Value = one_with(&restored, "select args from livestore.pull($1, 0, 1)", &[&"pooled"]).await;
    assert_eq!(first, json!({"id": 1}));
}

/// Dumps of every version are restored with the version of today, which is what `create extension` in them asks for.
#[tokio::test]
async fn dumps_of_every_release_are_restored_and_go_on() {
    if is_skipped("no release has it") {
        return;
    }
    for release in [Some("0.1.0"), Some("0.2.0"), None] {
        let database = Database::new().await;
        let original = database.admin().await;
        if let Some(release) = release {
            let again = format!(
                "drop extension livestore_sync; drop schema livestore; create extension livestore_sync version '{release}'"
            );
            run(&original, &again).await;
        }
        fill(&original).await;
        let folder = tempfile::tempdir().expect("a folder");
        for format in ["plain", "custom"] {
            let name = format!("{}_{format}", database.name());
            run(&original, &format!("create database {name} template template0")).await;
            let file = folder.path().join(format).display().to_string();
            database.tool("pg_dump", &["-F", format, "-f", &file]);
            match format {
                "plain" => database.tool("psql", &["-d", &name, "-v", "ON_ERROR_STOP=1", "-q", "-f", &file]),
                _ => database.tool("pg_restore", &["-d", &name, "--exit-on-error", "-j", "2", &file]),
            };
            let restored = database.cluster().connect("postgres", &name).await;
            assert_eq!(stored(&restored).await, stored(&original).await, "{release:?} {format}");
            assert_eq!(backend_ids(&restored).await, backend_ids(&original).await, "{release:?} {format}");
            run(&restored, "alter extension livestore_sync update").await;
            let owners =
                "select distinct relowner::regrole::text from pg_class where relnamespace = 'livestore'::regnamespace";
            assert_eq!(all::<String>(&restored, owners).await, ["livestore_owner"], "{release:?} {format}");
            let writer = database.cluster().connect("sidecar", &name).await;
            for (store, head) in [("pooled", 22), ("own", 5), ("reset own", 0), ("never created", 0)] {
                assert_eq!(
                    push(&writer, store, chain(head, 3)).await.unwrap(),
                    head + 3,
                    "{release:?} {format} {store}"
                );
            }
            run(&writer, "select livestore.create_store('pooled', true)").await;
            let admin = database.cluster().connect("admin", &name).await;
            run(&admin, "select livestore.reset_store('own'), livestore.drop_store('reset own')").await;
        }
    }
}

/// A dump has the types, and not the trigger of the shared table that checks them.
#[tokio::test]
async fn restored_types_are_checked() {
    let database = filled().await;
    let admin = database.admin().await;
    run(&admin, "select livestore.define_event('typed', '{\"type\": \"string\"}')").await;
    for store in ["pooled", "own"] {
        push(
            &admin,
            store,
            json!([event(one(&admin, &format!("select livestore.head('{store}')")).await, "typed", json!(1))]),
        )
        .await
        .unwrap();
    }
    run(&admin, "select livestore.erase('own', '{1}', '{\"id\": 0}')").await;
    let restored = restored_from(&database, "typed").await;
    let misfits = "select store_id from livestore.misfits order by 1";
    assert_eq!(all::<String>(&restored, misfits).await, ["own", "pooled"]);
    for store in ["pooled", "own", "new"] {
        let head: i64 = one(&restored, &format!("select livestore.head('{store}')")).await;
        push(&restored, store, json!([event(head, "typed", json!(2))])).await.unwrap();
    }
    assert_eq!(all::<String>(&restored, misfits).await, ["new", "own", "own", "pooled", "pooled"]);
    assert_eq!(
        push(&restored, "own", chain(0, 1)).await.unwrap(),
        one::<i64>(&restored, "select livestore.head('own')").await,
        "as it was before it was erased"
    );
}

#[tokio::test]
async fn what_a_dump_leaves_out_is_exported() {
    if is_skipped("its tables are nobody's extension") {
        return;
    }
    let database = filled().await;
    let admin = database.admin().await;
    run(
        &admin,
        "create function public.hook() returns trigger language plpgsql as $$ begin return null; end $$;
         create trigger \"a hook\" after insert on livestore.eventlog_1 for each row when (new.name <> 'x') execute function public.hook();
         create trigger off after insert on livestore.eventlog_1 referencing new table as n for each statement execute function public.hook();
         alter table livestore.eventlog_1 disable trigger off;
         create constraint trigger late after insert on livestore.eventlog_1 deferrable initially deferred for each row execute function public.hook();
         create index \"an index\" on livestore.eventlog_1 (left(livestore.field(args, 'it''s'), 600)) where name = 'e';
         create statistics livestore.stats on name, \"clientId\" from livestore.eventlog_1;
         alter table livestore.eventlog_1 enable row level security;
         create policy mine on livestore.eventlog_1 for select to reader using (name <> 'secret');
         alter table livestore.eventlog_1 add constraint short check (length(name) < 100);
         alter table livestore.eventlog_1 add constraint \"one each\" unique (store, \"seqNum\", \"createdAt\");
         create rule \"a rule\" as on update to livestore.eventlog_1 where new.name = 'never' do also select 1;
         create publication changes for table livestore.eventlog_1, livestore.store_names;
         select livestore.define_event('e', '{}')",
    )
    .await;
    // PostgreSQL 14 has neither.
    let has_filters: bool = one(&admin, "select current_setting('server_version_num')::integer >= 150000").await;
    if has_filters {
        let filtered = "create publication filtered for table only livestore.eventlog_1 (store, \"seqNum\", name) where (name = 'e')";
        run(&admin, filtered).await;
    }
    let published = "select p::text from pg_publication_tables p order by 1";
    let export = "select livestore.export_hooks()";
    let exported: Vec<String> = all(&admin, export).await;
    assert_eq!(exported.len(), 13 + usize::from(has_filters), "{exported:#?}");
    let restored = restored_from(&database, "left_out").await;
    let kept: Vec<String> = all(&restored, export).await;
    assert!(kept.len() < 13, "{kept:#?}");
    // What Postgres keeps may be there already.
    for statement in &exported {
        if !kept.contains(statement) {
            run(&restored, statement).await;
        }
    }
    assert_eq!(all::<String>(&restored, export).await, exported);
    assert_eq!(all::<String>(&restored, published).await, all::<String>(&admin, published).await);
    let inherited = "select count(*) from pg_constraint c where c.conrelid = 'livestore.eventlog_1_own'::regclass and c.conname = 'short'";
    assert_eq!(one::<i64>(&restored, inherited).await, 1);
}

/// The privileges on the extension's tables.
const GRANTED: &str = "select concat_ws(' ', c.relname, a.grantee::regrole, a.privilege_type, a.is_grantable)
    from pg_class c, aclexplode(c.relacl) a
    where c.relnamespace = 'livestore'::regnamespace and c.relkind in ('r', 'v') and c.relname !~ '_1_' order by 1";

#[tokio::test]
async fn privileges_on_tables_that_were_granted_before_an_update_are_dumped() {
    if is_skipped("no release has it") {
        return;
    }
    let database = Database::new().await;
    let admin = database.admin().await;
    run(
        &admin,
        "drop extension livestore_sync; create extension livestore_sync version '0.3.0';
         grant delete, update on livestore.eventlog_1 to livestore_hooks; grant select on livestore.instance to stranger with grant option",
    )
    .await;
    run(&admin, "alter extension livestore_sync update").await;
    let granted: Vec<String> = all(&admin, GRANTED).await;
    for privilege in ["eventlog_1 livestore_hooks DELETE f", "instance stranger SELECT t"] {
        assert!(granted.contains(&privilege.to_owned()), "{granted:?}");
    }
    let restored = restored_from(&database, "granted").await;
    assert_eq!(all::<String>(&restored, GRANTED).await, granted);
}

/// An extension that takes over the portable flavour takes what others have granted for its own.
#[tokio::test]
async fn privileges_on_tables_that_a_dump_leaves_out_are_exported() {
    if is_skipped("its tables are nobody's extension") {
        return;
    }
    let database = Database::new().await;
    let admin = database.admin().await;
    let export = "select livestore.export_hooks()";
    assert_eq!(all::<String>(&admin, export).await, [""; 0]);
    run(&admin, "drop extension livestore_sync; drop schema livestore").await;
    run(&admin, Flavour::Portable.install()).await;
    run(&admin, "grant delete on livestore.eventlog_1 to livestore_hooks, stranger with grant option").await;
    run(&admin, "create extension livestore_sync version 'portable'; alter extension livestore_sync update").await;
    let granted: Vec<String> = all(&admin, GRANTED).await;
    let exported: Vec<String> = all(&admin, export).await;
    assert_eq!(
        exported,
        [
            "GRANT DELETE ON TABLE livestore.eventlog_1 TO livestore_hooks WITH GRANT OPTION;",
            "GRANT DELETE ON TABLE livestore.eventlog_1 TO stranger WITH GRANT OPTION;"
        ]
    );
    let restored = restored_from(&database, "taken_over").await;
    assert_ne!(all::<String>(&restored, GRANTED).await, granted);
    run(&restored, &exported.concat()).await;
    assert_eq!(all::<String>(&restored, GRANTED).await, granted);
}

#[tokio::test]
async fn indexes_that_are_not_valid_are_not_exported() {
    if is_skipped("its tables are nobody's extension") {
        return;
    }
    let database = filled().await;
    let admin = database.admin().await;
    let unique = "create unique index concurrently broken on livestore.eventlog_1 (name)";
    admin.execute(unique, &[]).await.expect_err("two events have the same name");
    assert_eq!(all::<String>(&admin, "select livestore.export_hooks()").await, [""; 0]);
}
