//! Ownership, and the roles that code runs as: somebody with a role in the database gains nothing by either.

use crate::support::{Push, all, log, one, push, push_batch, rejection, run};
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event, up_to};
use livestore_tests::eventually;
use livestore_tests::flavour::{Flavour, is_skipped};
use serde_json::json;
use tokio_postgres::{Client, Error};

const RELEASES: [&str; 2] = ["0.1.0", "0.2.0"];

/// Removes the extension, or the flavour, and its schema.
async fn uninstall(admin: &Client) {
    run(admin, Flavour::of_tests().uninstall()).await;
    run(admin, "drop schema if exists livestore").await;
}

/// Installs the flavour of the tests.
async fn install(admin: &Client) -> Result<(), Error> {
    let result = admin.batch_execute(Flavour::of_tests().install()).await;
    // The portable flavour is a script with a transaction of its own.
    if result.is_err() {
        run(admin, "rollback").await;
    }
    result
}

/// A database without the extension, and a role in it that may create there, and nothing else.
async fn with_mallory() -> (Database, Client, String) {
    let database = Database::new().await;
    let admin = database.admin().await;
    let mallory = format!("mallory_{}", database.name());
    uninstall(&admin).await;
    run(
        &admin,
        &format!(
            "create role {mallory} login;
             grant create on database {} to {mallory}; grant create on schema public to {mallory}",
            database.name()
        ),
    )
    .await;
    (database, admin, mallory)
}

async fn is_superuser(admin: &Client, role: &str) -> bool {
    one(admin, &format!("select rolsuper from pg_roles where rolname = '{role}'")).await
}

#[tokio::test]
async fn a_schema_that_somebody_has_planted_stops_the_installation() {
    let (database, admin, mallory) = with_mallory().await;
    let planted = format!(
        "create function livestore.pg_has_role(text, text, text) returns boolean language plpgsql as $$
         begin execute 'alter role {mallory} superuser'; return true; end $$"
    );
    for (schema, words) in [
        (format!("set role {mallory}; create schema livestore; {planted}"), "belongs to"),
        (format!("create schema livestore authorization {mallory}"), "belongs to"),
        (format!("create schema livestore; grant create on schema livestore to {mallory}"), "others may create"),
        ("create schema livestore; grant create on schema livestore to public".into(), "others may create"),
        (format!("create schema livestore; {planted}"), "has objects"),
        ("create schema livestore; create table livestore.mine (n int)".into(), "has objects"),
        ("create schema livestore; create domain livestore.text as pg_catalog.text".into(), "has objects"),
        (
            "create schema livestore; create operator livestore.= (leftarg = text, rightarg = text, function = texteq)"
                .into(),
            "has objects",
        ),
    ] {
        run(&admin, &schema).await;
        run(&admin, "reset role").await;
        let stopped = rejection(install(&admin).await);
        assert!(stopped.message.contains(words) && !stopped.hint.is_empty(), "{schema}: {stopped:?}");
        assert!(!is_superuser(&admin, &mallory).await, "{schema}");
        run(&admin, "drop schema livestore cascade").await;
    }
    for schema in ["create schema livestore", "select 1"] {
        run(&admin, schema).await;
        install(&admin).await.unwrap();
        push(&database.connect("sidecar").await, schema, chain(0, 2)).await.unwrap();
        run(&admin, Flavour::of_tests().uninstall()).await;
    }
}

#[tokio::test]
async fn what_somebody_has_planted_in_an_older_version_stops_its_update() {
    if is_skipped("no release has it") {
        return;
    }
    for release in RELEASES {
        let (_database, admin, mallory) = with_mallory().await;
        run(&admin, &format!("create extension livestore_sync version '{release}'")).await;
        for (change, undo, words) in [
            (
                format!("alter schema livestore owner to {mallory}"),
                "alter schema livestore owner to postgres".to_owned(),
                "belongs to",
            ),
            (
                format!("grant create on schema livestore to {mallory}"),
                format!("revoke create on schema livestore from {mallory}"),
                "others may create",
            ),
            (
                format!(
                    "create function livestore.plan_pushes(text[], text[], text[], bigint[], text[], text, text, text, text, text, text, text)
                         returns text language sql as 'select null';
                     alter function livestore.plan_pushes(text[], text[], text[], bigint[], text[], text, text, text, text, text, text, text) owner to {mallory}"
                ),
                "drop function livestore.plan_pushes(text[], text[], text[], bigint[], text[], text, text, text, text, text, text, text)".to_owned(),
                "plan_pushes",
            ),
        ] {
            run(&admin, &change).await;
            let stopped = rejection(admin.execute("alter extension livestore_sync update", &[]).await);
            assert!(stopped.message.contains(words) && !stopped.hint.is_empty(), "{change}: {stopped:?}");
            run(&admin, &undo).await;
        }
        run(&admin, "alter extension livestore_sync update").await;
    }
}

#[tokio::test]
async fn roles_that_somebody_has_prepared_stop_the_installation() {
    let database = Database::alone().await;
    let admin = database.admin().await;
    uninstall(&admin).await;
    run(&admin, "create role mallory login; create role root login superuser").await;
    for (change, undo, words) in [
        (
            "grant livestore_owner to mallory",
            "revoke livestore_owner from mallory",
            "mallory is a member of livestore_owner",
        ),
        (
            "grant livestore_hooks to mallory",
            "revoke livestore_hooks from mallory",
            "mallory is a member of livestore_hooks",
        ),
        ("alter role livestore_owner login", "alter role livestore_owner nologin", "livestore_owner has LOGIN"),
        ("alter role livestore_hooks superuser", "alter role livestore_hooks nosuperuser", "livestore_hooks has LOGIN"),
        (
            "alter role livestore_owner createrole",
            "alter role livestore_owner nocreaterole",
            "livestore_owner has LOGIN",
        ),
    ] {
        run(&admin, change).await;
        let stopped = rejection(install(&admin).await);
        assert!(stopped.message.contains(words) && !stopped.hint.is_empty(), "{change}: {stopped:?}");
        run(&admin, undo).await;
    }
    run(&admin, "grant livestore_owner to root").await;
    install(&admin).await.unwrap();
    database.stop();
}

/// The objects that do not belong to `livestore_owner`.
const NOT_OWNED: &str = "
    select oid::regclass::text from pg_class where relnamespace = 'livestore'::regnamespace and relowner <> 'livestore_owner'::regrole
    union all
    select oid::regprocedure::text from pg_proc where pronamespace = 'livestore'::regnamespace and proowner <> 'livestore_owner'::regrole
    union all
    select oid::regtype::text from pg_type where typnamespace = 'livestore'::regnamespace and typowner <> 'livestore_owner'::regrole
    order by 1";

#[tokio::test]
async fn everything_belongs_to_a_role_without_rights() {
    for release in [None, Some("0.1.0"), Some("0.2.0")] {
        let (database, admin, _) = with_mallory().await;
        let version = release.map_or(String::new(), |release| format!("version '{release}'"));
        match release {
            Some(_) if is_skipped("no release has it") => continue,
            Some(_) => run(&admin, &format!("create extension livestore_sync {version}")).await,
            None => install(&admin).await.unwrap(),
        }
        run(&database.connect("sidecar").await, "select livestore.create_store('own', true)").await;
        if release.is_some() {
            run(&admin, "alter extension livestore_sync update").await;
        }
        run(&database.connect("sidecar").await, "select livestore.create_store('later', true)").await;
        let not_owned: Vec<String> = all(&admin, NOT_OWNED).await;
        match Flavour::of_tests() {
            Flavour::Native => assert_eq!(not_owned, [""; 0], "{release:?}"),
            // Functions that run as livestore_hooks; the library needs none.
            Flavour::Portable => {
                let names: Vec<_> = not_owned.iter().map(|name| name.split('(').next().unwrap()).collect();
                assert_eq!(
                    names,
                    [
                        "livestore._delete_hooked_events",
                        "livestore._insert_as_hooks",
                        "livestore._insert_one_as_hooks",
                        "livestore._move_events",
                        "livestore._update_hooked_events"
                    ]
                );
            }
        }
        for store in ["own", "later", "shared"] {
            push(&database.connect("sidecar").await, store, chain(0, 2)).await.unwrap();
        }
        run(&database.connect("admin").await, "select livestore.reset_store('own'), livestore.drop_store('later')")
            .await;
        let attributes =
            "select rolsuper or rolcanlogin or rolcreaterole or rolcreatedb or rolbypassrls or rolreplication
            from pg_roles where rolname in ('livestore_owner', 'livestore_hooks')";
        assert_eq!(all::<bool>(&admin, attributes).await, [false; 2]);
        let tables = "select format('%s %s', relname, privilege)
            from pg_class, unnest('{insert,update,delete,truncate,references,trigger}'::text[]) privilege
            where relnamespace = 'livestore'::regnamespace and relkind in ('r', 'v')
                and has_table_privilege('livestore_hooks', oid, privilege)
            order by 1";
        assert_eq!(all::<String>(&admin, tables).await, ["eventlog_1 insert", "eventlog_1_own insert"], "{release:?}");
    }
}

#[tokio::test]
async fn default_privileges_give_nobody_anything() {
    for release in [None, Some("0.2.0")] {
        let (database, admin, mallory) = with_mallory().await;
        run(
            &admin,
            &format!(
                "alter default privileges grant all on tables to {mallory}, public;
                 alter default privileges grant all on sequences to {mallory};
                 alter default privileges grant execute on functions to {mallory};
                 alter default privileges grant usage on types to {mallory};
                 alter default privileges grant usage on schemas to {mallory}, public"
            ),
        )
        .await;
        match release {
            Some(_) if is_skipped("no release has it") => continue,
            Some(release) => run(&admin, &format!("create extension livestore_sync version '{release}'")).await,
            None => install(&admin).await.unwrap(),
        }
        run(&admin, "select livestore.create_store('own', true); grant select on livestore.events to reader").await;
        if release.is_some() {
            run(&admin, "alter extension livestore_sync update").await;
        }
        run(&database.connect("sidecar").await, "select livestore.create_store('later', true)").await;
        let given = format!(
            "select object from (
                 select oid::regclass::text, relacl from pg_class where relnamespace = 'livestore'::regnamespace
                 union all
                 select oid::regprocedure::text, proacl from pg_proc where pronamespace = 'livestore'::regnamespace
                 union all
                 select oid::regtype::text, typacl from pg_type where typnamespace = 'livestore'::regnamespace
             ) o (object, acl), aclexplode(acl) a
             where a.grantee in (0, '{mallory}'::regrole) and object !~ '^livestore.push_result|^livestore.relay_device'"
        );
        assert_eq!(all::<String>(&admin, &given).await, [""; 0], "{release:?}");
        let seed = format!("select has_table_privilege('{mallory}', 'livestore.instance', 'select')");
        assert!(!one::<bool>(&admin, &seed).await);
        let schema = format!("select has_schema_privilege('{mallory}', 'livestore', 'usage')");
        assert!(!one::<bool>(&admin, &schema).await, "{release:?}");
        push(&database.connect("sidecar").await, "s", chain(0, 1)).await.unwrap();
        let granted = "select relacl::text from pg_class where oid = 'livestore.events'::regclass";
        assert!(one::<String>(&admin, granted).await.contains("reader=r"), "what was granted to others stays");
    }
}

#[tokio::test]
async fn an_installation_takes_back_what_hooks_have_done_to_their_functions() {
    if Flavour::of_tests() == Flavour::Native {
        return;
    }
    let (database, admin, mallory) = with_mallory().await;
    install(&admin).await.unwrap();
    run(
        &admin,
        &format!(
            "grant usage on schema livestore to {mallory};
             set role livestore_hooks;
             grant execute on function livestore._move_events(oid, oid), livestore._delete_hooked_events(oid, bigint),
                 livestore._insert_one_as_hooks(bigint, bigint, text, text, text, text, timestamptz) to {mallory} with grant option;
             alter function livestore._move_events(oid, oid) security invoker set search_path = public;
             drop function livestore._delete_hooked_events(oid, bigint);
             reset role; set role {mallory};
             grant execute on function livestore._move_events(oid, oid) to public;
             reset role"
        ),
    )
    .await;
    install(&admin).await.unwrap();
    let functions = "select format('%s %s %s', p.proname, p.prosecdef, p.proacl)
        from pg_proc p where p.pronamespace = 'livestore'::regnamespace and p.proowner = 'livestore_hooks'::regrole order by 1";
    let expected =
        ["_delete_hooked_events", "_insert_as_hooks", "_insert_one_as_hooks", "_move_events", "_update_hooked_events"];
    let owners = "{livestore_hooks=X/livestore_hooks,livestore_owner=X/livestore_hooks}";
    assert_eq!(all::<String>(&admin, functions).await, expected.map(|name| format!("{name} t {owners}")));
    push(&database.connect("sidecar").await, "s", chain(0, 1)).await.unwrap();
}

/// A hook that notes as whom it runs; `time` says when.
async fn witness(admin: &Client, time: &str) {
    run(
        admin,
        &format!(
            "create table if not exists public.seen (store bigint, name text, who text);
             grant insert on public.seen to livestore_hooks;
             create function public.witness() returns trigger language plpgsql as $$
             begin
                 insert into public.seen values (new.store, new.name, current_user);
                 return new;
             end $$;
             create {time} execute function public.witness()"
        ),
    )
    .await;
}

#[tokio::test]
async fn hooks_run_as_the_role_of_hooks_whatever_fires_them() {
    for time in [
        "trigger witness before insert on livestore.eventlog_1 for each row",
        "trigger witness after insert on livestore.eventlog_1 for each row",
        "constraint trigger witness after insert on livestore.eventlog_1 deferrable initially deferred for each row",
        "constraint trigger witness after insert on livestore.eventlog_1 deferrable for each row",
    ] {
        let database = Database::new().await;
        let admin = database.admin().await;
        witness(&admin, time).await;
        run(
            &admin,
            "create table public.source as
                 select 1 as \"seqNum\", 0 as \"parentSeqNum\", 'imported' as name, '1'::json as args, 'c' as \"clientId\", 's' as \"sessionId\";
             grant select on public.source to admin",
        )
        .await;
        let sidecar = database.connect("sidecar").await;
        run(&sidecar, "select livestore.create_store('own', true)").await;
        run(&sidecar, "begin; set constraints all deferred").await;
        for store in ["own", "shared"] {
            push(&sidecar, store, chain(0, 2)).await.unwrap();
        }
        run(&sidecar, "commit").await;
        let outcomes = push_batch(&sidecar, &[Push::to("own", chain(2, 1)), Push::to("new", chain(0, 1))]).await;
        assert_eq!(outcomes.iter().map(|outcome| outcome.brief()).collect::<Vec<_>>(), [Ok(3), Ok(1)]);
        run(&sidecar, "select livestore.commit('shared', 'committed')").await;
        run(&database.connect("admin").await, "select livestore.import_table('public.source', 'imported')").await;
        run(&admin, "select livestore.commit('shared', 'by a superuser')").await;
        assert_eq!(all::<String>(&admin, "select distinct who from public.seen").await, ["livestore_hooks"], "{time}");
        assert_eq!(one::<i64>(&admin, "select count(*) from public.seen").await, 9, "{time}");
        assert_eq!(one::<String>(&sidecar, "select current_user::text").await, "sidecar");
    }
}

/// They look which hooks there are, and then wait for the table.
#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_is_added_while_others_write_runs_as_its_role() {
    let database = Database::new().await;
    let (admin, holder) = (database.admin().await, database.connect("sidecar").await);
    run(
        &admin,
        "create table public.seen (what text);
         grant insert on public.seen to public;
         grant select, update, delete on livestore.eventlog_1 to livestore_hooks;
         create function public.see() returns trigger language plpgsql as $$
         begin
             insert into public.seen values (format('%s of %s as %s', tg_op, livestore.current_store_id(), current_user));
             return null;
         end $$",
    )
    .await;
    for store in ["one", "two", "new", "dropped", "erased"] {
        push(&admin, store, chain(0, 1)).await.unwrap();
    }
    run(&holder, "begin; select livestore.commit('held', 'e')").await;
    let mut waiting = Vec::new();
    for sql in [
        "create constraint trigger late after insert on livestore.eventlog_1 initially deferred
             for each row execute function public.see();
         create trigger changed after update or delete on livestore.eventlog_1 for each row execute function public.see()",
        "select livestore.commit('one', 'e')",
        "select livestore.commit_many('{two,new}', 'e')",
        "select livestore.reset_store('dropped')",
        "select livestore.erase('erased', '{1}', '{}')",
    ] {
        let client = database.admin().await;
        waiting.push(tokio::spawn(async move { client.batch_execute(sql).await }));
        let waits =
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        eventually("all of them wait", async || one::<i64>(&admin, waits).await == waiting.len() as i64).await;
    }
    run(&holder, "commit").await;
    for result in waiting {
        result.await.unwrap().unwrap();
    }
    assert_eq!(
        all::<String>(&admin, "select what from public.seen order by what collate \"C\"").await,
        [
            "DELETE of  as livestore_hooks",
            "INSERT of new as livestore_hooks",
            "INSERT of one as livestore_hooks",
            "INSERT of two as livestore_hooks",
            "UPDATE of  as livestore_hooks",
        ]
    );
}

#[tokio::test]
async fn a_hook_gets_no_further_than_its_role() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(
        &admin,
        "create table public.refused (what text);
         grant insert on public.refused to livestore_hooks;
         create table public.ran (who text);
         grant insert on public.ran to public;
         create schema trap;
         grant usage, create on schema trap to livestore_hooks;
         create function public.attack() returns trigger language plpgsql as $$
         declare
             attack text;
         begin
             foreach attack in array array[
                 'set role livestore_owner', 'set role postgres', 'reset role', 'set session authorization postgres',
                 'alter table livestore.stores disable trigger all', 'update livestore.stores set head = 0',
                 'delete from livestore.eventlog_1', 'select * from livestore.instance', 'drop table livestore.eventlog_1',
                 'alter function livestore._register_stores(text[]) security definer',
                 'create or replace function livestore.head(text) returns bigint language sql as ''select 1::bigint''',
                 'create function livestore.mine() returns int language sql as ''select 1''',
                 'select livestore._append(null, null, null)', 'select livestore.drop_store(''s'')',
                 'alter role livestore_hooks superuser', 'grant livestore_owner to livestore_hooks'
             ] loop
                 begin
                     execute attack;
                 exception when insufficient_privilege or undefined_function or invalid_parameter_value or wrong_object_type then
                     insert into public.refused values (attack);
                 end;
             end loop;
             -- What the function that goes on would find in such a path.
             execute 'create or replace function trap.note(bigint, bigint) returns boolean language plpgsql as ''begin
                 insert into public.ran values (current_user); return true; end''';
             execute 'create or replace function trap.note(text, text) returns boolean language plpgsql as ''begin
                 insert into public.ran values (current_user); return true; end''';
             if to_regoperator('trap.=(bigint, bigint)') is null then
                 execute 'create operator trap.= (leftarg = bigint, rightarg = bigint, function = trap.note)';
                 execute 'create operator trap.= (leftarg = text, rightarg = text, function = trap.note)';
             end if;
             perform set_config('search_path', 'trap, pg_catalog', false);
             return new;
         end $$;
         create trigger attack before insert on livestore.eventlog_1 for each row execute function public.attack()",
    )
    .await;
    let sidecar = database.connect("sidecar").await;
    run(&sidecar, "select livestore.create_store('own', true)").await;
    for store in ["s", "own"] {
        push(&sidecar, store, chain(0, 1)).await.unwrap();
        push(&sidecar, store, chain(1, 1)).await.unwrap();
    }
    assert_eq!(one::<i64>(&admin, "select count(*) from public.refused").await, 4 * 16);
    assert_eq!(
        all::<String>(&admin, "select distinct who from public.ran where who <> 'livestore_hooks'").await,
        [""; 0]
    );
    assert!(!one::<String>(&sidecar, "show search_path").await.contains("trap"));
}

/// Functions and operators in the schema `trap` that note as whom they run, for somebody whose code sets that path, and
/// `dev.ok(text)`, which does so, for a constraint or an index.
async fn trap(admin: &Client) {
    run(
        admin,
        "create table public.ran (who text);
         grant insert, select on public.ran to public;
         create schema trap; create schema dev;
         grant usage on schema trap, dev to public;
         create function trap.note(name, name) returns boolean language plpgsql as
             $$ begin insert into public.ran values (current_user); return false; end $$;
         create function trap.note(text, text) returns boolean language plpgsql as
             $$ begin insert into public.ran values (current_user); return $1 operator(pg_catalog.=) $2; end $$;
         create function trap.note(bigint, bigint) returns boolean language plpgsql as
             $$ begin insert into public.ran values (current_user); return $1 operator(pg_catalog.=) $2; end $$;
         create function trap.note(oid, oid) returns boolean language plpgsql as
             $$ begin insert into public.ran values (current_user); return $1 operator(pg_catalog.=) $2; end $$;
         create operator trap.= (leftarg = text, rightarg = text, function = trap.note);
         create operator trap.= (leftarg = bigint, rightarg = bigint, function = trap.note);
         create operator trap.= (leftarg = oid, rightarg = oid, function = trap.note);
         create operator trap.<> (leftarg = name, rightarg = name, function = trap.note);
         create function trap.concat(text, text) returns text language plpgsql as
             $$ begin insert into public.ran values (current_user); return pg_catalog.textcat($1, $2); end $$;
         create operator trap.|| (leftarg = text, rightarg = text, function = trap.concat);
         create function trap.lower(text) returns text language plpgsql as
             $$ begin insert into public.ran values (current_user); return pg_catalog.lower($1); end $$;
         create function trap.cardinality(text[]) returns int language plpgsql as
             $$ begin insert into public.ran values (current_user); return pg_catalog.cardinality($1); end $$;
         create function trap.cardinality(bigint[]) returns int language plpgsql as
             $$ begin insert into public.ran values (current_user); return pg_catalog.cardinality($1); end $$;
         create function dev.ok(text) returns boolean language plpgsql as $$
         declare
             altered text;
         begin
             insert into public.ran values (current_user);
             if current_user = 'livestore_hooks' then
                 for altered in
                     select p.oid::regprocedure::text from pg_catalog.pg_proc p where p.proowner = 'livestore_hooks'::regrole
                 loop
                     execute format(current_setting('dev.alter'), altered);
                 end loop;
                 perform pg_catalog.set_config('search_path', 'trap, pg_catalog', false);
             end if;
             return true;
         end $$",
    )
    .await;
}

/// The roles that code of the application has run as.
async fn ran(admin: &Client) -> Vec<String> {
    all(admin, "with seen as (delete from public.ran returning who) select distinct who from seen order by 1").await
}

#[tokio::test]
async fn a_constraint_that_calls_a_function_gives_nobody_the_owner() {
    for alter in [
        "alter function %s parallel unsafe",
        "alter function %s reset all",
        "alter function %s security invoker set search_path = trap, pg_catalog",
    ] {
        let database = Database::new().await;
        let admin = database.admin().await;
        trap(&admin).await;
        let sidecar = database.connect("sidecar").await;
        run(&sidecar, "select livestore.create_store('own', true)").await;
        run(
            &admin,
            &format!(
                "alter database {} set dev.alter = '{alter}';
                 alter table livestore.eventlog_1 add constraint checked check (dev.ok(name))",
                database.name()
            ),
        )
        .await;
        run(&admin, "delete from public.ran").await;
        // The library has no functions that livestore_hooks could alter.
        let is_refused = alter.contains("invoker") && Flavour::of_tests() == Flavour::Portable;
        for connection in 0..2 {
            let sidecar = database.connect("sidecar").await;
            for pushes in 0..2 {
                for store in ["own", "shared"] {
                    let pushed = push(&sidecar, store, chain(2 * connection + pushes, 1)).await;
                    assert!(pushed.is_ok() || is_refused, "{alter}: {pushed:?}");
                }
            }
            let several = [Push::to(format!("a{connection}"), chain(0, 2)), Push::to("shared", chain(99, 1))];
            push_batch(&sidecar, &several).await;
        }
        assert_eq!(ran(&admin).await, ["livestore_hooks"], "{alter}");
    }
}

#[tokio::test]
async fn a_hook_changes_nothing_that_the_session_has_prepared_or_listens_to() {
    if is_skipped("nothing but the library can watch the statements of a hook") {
        return;
    }
    let database = Database::new().await;
    let admin = database.admin().await;
    run(
        &admin,
        "create table public.refused (what text); grant insert on public.refused to livestore_hooks;
         create table public.parents (n bigint primary key);
         create table public.children (n bigint references public.parents deferrable initially deferred);
         grant insert, select on public.parents, public.children to livestore_hooks;
         -- A cursor WITH HOLD is read at the commit, with the rights of whoever commits.
         create function public.ran() returns text language sql as 'select current_user::text';
         create function public.attack() returns trigger language plpgsql as $$
         declare
             attack text;
         begin
             foreach attack in array array[
                 'prepare mine as select 1', 'deallocate theirs', 'deallocate all', 'discard plans', 'listen mine', 'unlisten *',
                 'declare late scroll cursor with hold for select public.ran()'
             ] loop
                 begin
                     execute attack;
                 exception when insufficient_privilege then
                     insert into public.refused values (attack);
                 end;
             end loop;
             execute 'declare others cursor for select 1';
             execute 'close others';
             perform pg_notify('hooks', new.name);
             notify hooks;
             create temporary table if not exists of_the_push (n bigint) on commit drop;
             insert into of_the_push values (new.\"seqNum\");
             -- Its parent comes later in the same transaction.
             insert into public.children values (new.\"seqNum\");
             insert into public.parents values (new.\"seqNum\");
             return null;
         end $$;
         create trigger attack after insert on livestore.eventlog_1 for each row execute function public.attack()",
    )
    .await;
    let sidecar = database.connect("sidecar").await;
    run(&sidecar, "prepare theirs as select 'theirs'; listen theirs").await;
    push(&sidecar, "s", chain(0, 1)).await.unwrap();
    assert_eq!(one::<i64>(&admin, "select count(*) from public.refused").await, 7);
    run(
        &admin,
        "drop trigger attack on livestore.eventlog_1; truncate public.parents, public.children;
         create constraint trigger deferred after insert on livestore.eventlog_1 initially deferred
             for each row execute function public.attack();
         alter function public.attack() security definer",
    )
    .await;
    push(&sidecar, "s", chain(1, 1)).await.unwrap();
    assert_eq!(one::<i64>(&admin, "select count(*) from public.refused").await, 14);
    assert_eq!(all::<String>(&sidecar, "select pg_listening_channels()").await, ["theirs"]);
    let prepared = "select name from pg_prepared_statements where name in ('mine', 'theirs')";
    assert_eq!(all::<String>(&sidecar, prepared).await, ["theirs"]);
    assert_eq!(one::<i64>(&sidecar, "select count(*) from pg_cursors where is_holdable").await, 0);
    // Outside of hooks, and after one that has failed, the session is its user's again.
    run(&admin, "drop table public.parents cascade").await;
    assert!(push(&sidecar, "s", chain(2, 1)).await.is_err());
    run(&sidecar, "unlisten *; deallocate all; listen others; prepare another as select 1").await;
}

#[tokio::test]
async fn whoever_may_create_where_a_hook_looks_first_gets_nothing_of_the_owner() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(
        &admin,
        "create schema app; grant create on schema app to public; grant usage on schema app to public;
         create table public.ran (who text); grant insert on public.ran to public;
         create function app.check_event() returns trigger language plpgsql set search_path = app, pg_catalog as $$
         begin
             if length(new.args->>'text') > 280 then raise exception 'too long'; end if;
             return new;
         end $$;
         create trigger check_event before insert on livestore.eventlog_1 for each row execute function app.check_event()",
    )
    .await;
    run(
        &database.connect("stranger").await,
        "create function app.length(text) returns int language plpgsql as
             $$ begin insert into public.ran values (current_user); return 1; end $$",
    )
    .await;
    push(&database.connect("sidecar").await, "s", json!([event(0, "e", json!({"text": "x"}))])).await.unwrap();
    assert_eq!(all::<String>(&admin, "select who from public.ran").await, ["livestore_hooks"]);
}

#[tokio::test]
async fn a_hook_in_a_schema_of_the_application_is_copied_to_an_own_table() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(
        &admin,
        "create schema app;
         create function app.check_event() returns trigger language plpgsql as
             $$ begin if new.name = 'bad' then raise exception 'no'; end if; return new; end $$;
         revoke execute on function app.check_event() from public;
         create trigger \"a ON livestore.eventlog_1 b\" before insert on livestore.eventlog_1
             for each row when (new.name <> ' ON livestore.eventlog_1 ') execute function app.check_event()",
    )
    .await;
    for setting in ["off", "on"] {
        let sidecar = database.connect("sidecar").await;
        if Flavour::of_tests() == Flavour::Portable && setting == "off" {
            // No superuser does it.
            let refused = rejection(sidecar.batch_execute("select livestore.create_store('own off', true)").await);
            assert_eq!(refused.sqlstate, "42501");
            run(&admin, &refused.hint).await;
        }
        run(
            &sidecar,
            &format!("set quote_all_identifiers = {setting}; select livestore.create_store('own {setting}', true)"),
        )
        .await;
        let batch = json!([event(0, "bad", json!({}))]);
        assert_eq!(rejection(push(&sidecar, &format!("own {setting}"), batch).await).message, "no");
    }
}

#[tokio::test]
async fn triggers_on_delete_run_as_the_role_of_hooks_if_that_may_delete() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(
        &admin,
        "create table public.gone (who text);
         grant insert on public.gone to livestore_hooks;
         create function public.gone() returns trigger language plpgsql as
             $$ begin insert into public.gone values (current_user); return old; end $$;
         create trigger gone before delete on livestore.eventlog_1 for each row execute function public.gone()",
    )
    .await;
    let client = database.connect("admin").await;
    push(&client, "s", chain(0, 1)).await.unwrap();
    let refused = rejection(client.execute("select livestore.reset_store('s')", &[]).await);
    assert_eq!(refused.sqlstate, "42501");
    run(&admin, &refused.hint).await;
    run(&client, "select livestore.reset_store('s')").await;
    push(&client, "s", chain(0, 1)).await.unwrap();
    run(&client, "select livestore.create_store('s', true)").await;
    push(&client, "t", chain(0, 1)).await.unwrap();
    run(&client, "select livestore.drop_store('t')").await;
    assert_eq!(all::<String>(&admin, "select who from public.gone").await, ["livestore_hooks"; 3]);
}

#[tokio::test]
async fn events_that_a_trigger_or_a_rule_keeps_stop_what_deletes_them() {
    for hook in [
        "create function public.keep() returns trigger language plpgsql as $$ begin return new; end $$;
         create trigger keep before insert or delete on livestore.eventlog_1 for each row execute function public.keep()",
        "create rule keep as on delete to livestore.eventlog_1 do instead nothing",
    ] {
        let database = Database::new().await;
        let admin = database.admin().await;
        run(&admin, hook).await;
        run(&admin, "grant delete on livestore.eventlog_1 to livestore_hooks").await;
        push(&admin, "s", chain(0, 2)).await.unwrap();
        for call in ["reset_store('s')", "drop_store('s')", "create_store('s', true)"] {
            let refused = rejection(admin.execute(&format!("select livestore.{call}"), &[]).await);
            assert_eq!(refused.sqlstate, "27000", "{call}: {refused:?}");
        }
        assert_eq!(log(&admin, "s").await, up_to(2));
    }
}

/// The owner would find nothing to delete or to move, and leave it behind.
#[tokio::test]
async fn row_level_security_that_is_forced_stops_what_deletes_events() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let caretaker = database.connect("admin").await;
    run(&caretaker, "select livestore.create_store('own', true)").await;
    push(&caretaker, "s", chain(0, 2)).await.unwrap();
    push(&caretaker, "own", chain(0, 2)).await.unwrap();
    for table in ["eventlog_1", "eventlog_1_own"] {
        let force = format!("alter table livestore.{table} enable row level security, force row level security");
        run(&admin, &force).await;
    }
    let mut hints = Vec::new();
    for call in ["reset_store('s')", "drop_store('s')", "create_store('s', true)", "reset_store('own')"] {
        let refused = rejection(caretaker.execute(&format!("select livestore.{call}"), &[]).await);
        assert_eq!(refused.sqlstate, "42501", "{call}: {refused:?}");
        hints.push(refused.hint);
    }
    for hint in hints {
        run(&admin, &hint).await;
    }
    assert_eq!((log(&admin, "s").await, log(&admin, "own").await), (up_to(2), up_to(2)));
    run(&caretaker, "select livestore.create_store('s', true), livestore.reset_store('own')").await;
    assert_eq!((log(&admin, "s").await, log(&admin, "own").await), (up_to(2), vec![]));
}

/// A push adds the policy that lets hooks through; these come before the next one.
#[tokio::test]
async fn row_level_security_does_not_keep_hooks_from_deleting_and_updating() {
    for call in ["reset_store('s')", "erase('s', '{1}', '{}')", "drop_store('s')"] {
        let database = Database::new().await;
        let admin = database.admin().await;
        push(&admin, "s", chain(0, 2)).await.unwrap();
        run(
            &admin,
            "create function public.pass() returns trigger language plpgsql as
                 $$ begin if tg_op = 'DELETE' then return old; end if; return new; end $$;
             create trigger pass before update or delete on livestore.eventlog_1 for each row execute function public.pass();
             grant select, update, delete on livestore.eventlog_1 to livestore_hooks;
             alter table livestore.eventlog_1 enable row level security",
        )
        .await;
        run(&database.connect("admin").await, &format!("select livestore.{call}")).await;
        let left = if call.contains("erase") { 2 } else { 0 };
        assert_eq!(log(&admin, "s").await, up_to(left), "{call}");
    }
}

#[tokio::test]
async fn an_update_stops_at_hooks_that_would_lose_their_rights() {
    if is_skipped("no release has it") {
        return;
    }
    for release in RELEASES {
        let (database, admin, _) = with_mallory().await;
        run(
            &admin,
            &format!(
                "create extension livestore_sync version '{release}';
                 create table public.todos (name text);
                 create function public.keep() returns trigger language plpgsql set search_path = pg_catalog, public as
                     $$ begin insert into todos values (new.name); return null; end $$;
                 create trigger keep after insert on livestore.eventlog_1 for each row execute function public.keep();
                 select livestore.create_store('own', true)"
            ),
        )
        .await;
        let update = "alter extension livestore_sync update";
        let stopped = rejection(admin.execute(update, &[]).await);
        for table in ["livestore.eventlog_1)", "livestore.eventlog_1_own)"] {
            assert!(stopped.message.contains(&format!("public.keep() (trigger keep on {table}")), "{stopped:?}");
        }
        for remedy in ["security definer", "to livestore_hooks", "set livestore.hooks_checked = on"] {
            assert!(stopped.hint.contains(remedy), "{stopped:?}");
        }

        // One remedy, then the other.
        run(&admin, "begin; alter function public.keep() security definer").await;
        run(&admin, update).await;
        push(&admin, "own", chain(0, 1)).await.unwrap();
        run(&admin, "rollback; set livestore.hooks_checked = on").await;
        run(&admin, update).await;
        let sidecar = database.connect("sidecar").await;
        assert_eq!(rejection(push(&sidecar, "own", chain(0, 1)).await).sqlstate, "42501");
        run(&admin, "grant insert on public.todos to livestore_hooks").await;
        for store in ["own", "shared"] {
            push(&sidecar, store, chain(0, 1)).await.unwrap();
        }
        assert_eq!(one::<i64>(&admin, "select count(*) from public.todos").await, 2);
    }
}

#[tokio::test]
async fn constraints_and_indexes_of_the_application_run_as_the_role_of_hooks_too() {
    let database = Database::new().await;
    let admin = database.admin().await;
    run(
        &admin,
        "create table public.ran (who text); grant insert on public.ran to public;
         create function public.valid(name text) returns boolean language plpgsql as
             $$ begin insert into public.ran values (current_user); return true; end $$;
         create function public.indexed(name text) returns text language plpgsql immutable as
             $$ begin perform public.valid(name); return name; end $$;
         alter table livestore.eventlog_1 add constraint valid check (public.valid(name));
         create index on livestore.eventlog_1 (public.indexed(name))",
    )
    .await;
    let client = database.connect("admin").await;
    run(&client, "select livestore.create_store('s'); select livestore.create_store('own', true)").await;
    // A single push, a batch, a push to a dedicated table, and a move to one.
    push(&client, "s", chain(0, 2)).await.unwrap();
    let pushes = [Push::to("s", chain(2, 1)), Push::to("new", chain(0, 1)), Push::to("own", chain(0, 1))];
    assert!(push_batch(&client, &pushes).await.iter().all(|outcome| outcome.brief().is_ok()));
    let outcomes = push_batch(&client, &[Push::to("s", chain(3, 1)), Push::to("new", chain(1, 2))]).await;
    assert!(outcomes.iter().all(|outcome| outcome.brief().is_ok()));
    run(&client, "select livestore.create_store('s', true); select livestore.reset_store('s'); select livestore.drop_store('new')").await;
    assert_eq!(all::<String>(&admin, "select distinct who from public.ran").await, ["livestore_hooks"]);
}
