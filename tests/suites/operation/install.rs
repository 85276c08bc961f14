//! `livestore-sidecar install`, `upgrade` and `uninstall`.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use livestore_tests::cluster::{Cluster, Database};
use livestore_tests::events::chain;
use livestore_tests::flavour::Flavour;
use livestore_tests::load::Load;
use livestore_tests::rpc::Rpc;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::{eventually, root};
use serde_json::json;
use tokio_postgres::Client;

/// The roles that providers hand out, by the attributes that they document.
const PROVIDERS: [(&str, &str); 4] = [
    ("any", "createrole"),
    ("Supabase", "createrole createdb replication bypassrls"),
    ("RDS", "createrole createdb in role rds_superuser"),
    ("Neon", "createrole createdb replication bypassrls in role neon_superuser"),
];

/// An answer of the program: its exit code, and everything that it printed.
fn run(url: &str, arguments: &[&str]) -> (i32, String) {
    let output = Start::program().args(arguments).env("DATABASE_URL", url).output().expect("the program");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().expect("a code"), text)
}

fn succeed(url: &str, arguments: &[&str]) -> String {
    let (code, text) = run(url, arguments);
    assert_eq!(code, 0, "{arguments:?}: {text}");
    text
}

async fn empty_cluster() -> &'static Cluster {
    tokio::task::spawn_blocking(Cluster::start_empty).await.expect("a cluster").leak()
}

async fn text(client: &Client, query: &str) -> String {
    client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
}

/// All commands that connect by themselves give the reason of Postgres.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_is_told_with_its_reason() {
    let cluster = empty_cluster().await;
    let superuser = cluster.connect("postgres", "postgres").await;
    superuser.batch_execute("create role owner login createrole password 'right'").await.unwrap();
    let rules = "host all owner 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n";
    std::fs::write(cluster.folder().join("data/pg_hba.conf"), rules).unwrap();
    superuser.batch_execute("select pg_reload_conf()").await.unwrap();
    let url = cluster.url("owner", "postgres").replace("owner@", "owner:wrong@");
    for arguments in [&["install"][..], &["upgrade"], &["uninstall"], &["stores"], &["commit", "s", "e"], &["check"]] {
        let (code, told) = run(&url, arguments);
        assert_ne!(code, 0, "{arguments:?}");
        let reason = "password authentication failed for user \"owner\"";
        assert_eq!(told.matches(reason).count(), 1, "{arguments:?}: {told}");
        assert!(told.contains("check the user, the password and the database of its URL"), "{arguments:?}: {told}");
    }
    cluster.pg_ctl(&["stop", "-m", "immediate"]);
}

/// 192.0.2.0/24 is nowhere.
#[test]
fn commands_that_reach_another_machine_without_tls_say_so() {
    let url = "postgres://owner:secret@192.0.2.1:1/app";
    // Side by side: each may wait until a connection is given up.
    std::thread::scope(|scope| {
        for arguments in [&["install"][..], &["upgrade"], &["uninstall"], &["stores"], &["commit", "s", "e"]] {
            scope.spawn(move || {
                let (code, told) = run(url, arguments);
                let warning = "--database-url: passwords and events cross the network unencrypted";
                assert!(code == 3 && told.matches(warning).count() == 1, "{arguments:?}: {code} {told}");
                assert!(!told.contains("secret"), "{arguments:?}: {told}");
            });
            scope.spawn(move || {
                let (code, told) = run(&format!("{url}?sslmode=verify-full"), arguments);
                assert!(code == 3 && !told.contains("unencrypted"), "{arguments:?}: {code} {told}");
            });
        }
    });
}

/// As the logs of a provider, which others may read.
#[tokio::test(flavor = "multi_thread")]
async fn the_password_of_the_sidecar_is_not_in_the_log_of_postgres() {
    let cluster = empty_cluster().await;
    let superuser = cluster.connect("postgres", "postgres").await;
    for statement in [
        "alter system set log_statement = 'ddl'",
        "select pg_reload_conf()",
        "create role owner login createrole",
        "create database app owner owner",
    ] {
        superuser.batch_execute(statement).await.unwrap();
    }
    let (url, name) = (cluster.url("owner", "app"), r#"o'd"d %s"#);
    for empty in ["", "--dry-run"] {
        let arguments = ["install", "--sidecar-password", "", empty];
        let (code, refused) = run(&url, &arguments[..if empty.is_empty() { 3 } else { 4 }]);
        assert!(code == 2 && refused.contains("--sidecar-password is empty"), "{code}: {refused}");
    }
    let (code, refused) = run(&url, &["install", "--sidecar-password", "of a file\n"]);
    assert!(code == 2 && refused.contains("--sidecar-password begins or ends with white space"), "{code}: {refused}");
    succeed(&url, &["install", "--sidecar-password", "hunter2 'quoted'"]);
    succeed(&url, &["install", "--sidecar-password", "of a file\n"]);
    let made = succeed(&url, &["install", "--sidecar-role", name]);
    let (_, made) = made.split_once("Its password, which is not shown again: ").expect("a password");
    let log = std::fs::read_to_string(cluster.folder().join("log")).unwrap();
    assert!(log.contains("statement: create") && !log.contains("hunter2") && !log.contains(made.trim()), "{log}");
    let able = "select count(*)::text from pg_authid r where r.rolname in ('livestore_sidecar', $q$o'd\"d %s$q$)
         and r.rolcanlogin and r.rolpassword like 'SCRAM%' and pg_has_role(r.oid, 'livestore_writer', 'usage')";
    assert_eq!(text(&superuser, able).await, "2");
    cluster.pg_ctl(&["stop", "-m", "immediate"]);
}

/// The password of the new role is told, since it is not known again.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_without_an_answer_is_not_called_a_failure() {
    let cluster = empty_cluster().await;
    let superuser = cluster.connect("postgres", "postgres").await;
    for setting in ["alter system set synchronous_standby_names = 'nobody'", "select pg_reload_conf()"] {
        superuser.batch_execute(setting).await.unwrap();
    }
    let url = cluster.url("postgres", "postgres");
    let installing = tokio::task::spawn_blocking(move || run(&url, &["install", "--flavour", "portable"]));
    let waits = "select count(pg_terminate_backend(pid)) > 0 from pg_stat_activity where wait_event = 'SyncRep'";
    eventually("its commit waits", || async { superuser.query_one(waits, &[]).await.unwrap().get(0) }).await;
    let (code, told) = installing.await.unwrap();
    assert!(code == 3 && told.contains("not known") && !told.contains("Nothing was changed"), "{code}: {told}");
    assert!(told.contains("Its password, which is not shown again"), "{told}");
    assert_eq!(text(&superuser, "select livestore.flavour()").await, "portable");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_a_database_installs_serves_and_uninstalls() {
    for (index, (provider, attributes)) in PROVIDERS.into_iter().enumerate() {
        let cluster = empty_cluster().await;
        let superuser = cluster.connect("postgres", "postgres").await;
        let (owner, name, role) = ("owner", "app", "sidecar_of_app");
        for statement in [
            "create role rds_superuser; create role neon_superuser",
            &format!("create role {owner} login {attributes}"),
            &format!("create database {name} owner {owner}"),
        ] {
            superuser.batch_execute(statement).await.unwrap_or_else(|error| panic!("{provider}: {error:?}"));
        }
        let url = cluster.url(owner, name);
        let sql = succeed(&url, &["install", "--dry-run"]);
        assert!(sql.starts_with("begin;\n") && sql.ends_with("commit;\n"), "{provider}: {sql}");
        let admin = cluster.connect("postgres", name).await;
        assert_eq!(
            text(&admin, "select coalesce(to_regnamespace('livestore')::text, 'none')").await,
            "none",
            "{provider}"
        );

        let installed = succeed(&url, &["install", "--sidecar-role", role]);
        assert!(installed.contains("the portable flavour") && installed.contains(role), "{provider}: {installed}");
        assert_eq!(text(&admin, "select livestore.flavour()").await, "portable");
        // Nobody is left with the rights of the two roles.
        let members = "select coalesce(string_agg(m.member::regrole::text, ','), '') from pg_auth_members m
             where m.roleid in ('livestore_owner'::regrole, 'livestore_hooks'::regrole)
                 and coalesce((to_jsonb(m) ->> 'set_option')::boolean, true)";
        assert_eq!(text(&admin, members).await, "", "{provider}");
        for arguments in [&["install", "--sidecar-role", role][..], &["upgrade"]] {
            assert_eq!(succeed(&url, arguments), "Nothing to do.\n", "{provider}");
        }
        // An operator who gives a password for a role that exists hears that it is not set.
        let told = succeed(&url, &["install", "--sidecar-role", role, "--sidecar-password", "another"]);
        let note = format!("its password was not changed. To change it: alter role {role} password '…'");
        assert!(told.contains(&note) && !told.contains("another") && !told.contains("Nothing to do"), "{told}");
        let definition = "select pg_get_functiondef('livestore.version()'::regprocedure)";
        let version = text(&admin, definition).await;
        // As after going back to the sidecars from before, by the chart of before.
        let (major, _) = env!("CARGO_PKG_VERSION").split_once('.').unwrap();
        for (newer, is_taken) in [(format!("{major}.99.0"), true), ("99.0.0".into(), false)] {
            let installed = version.replace(env!("CARGO_PKG_VERSION"), &newer);
            admin.batch_execute(&installed).await.unwrap();
            let (code, told) = run(&url, &["install", "--sidecar-role", role]);
            let is_told = told.contains(&format!("livestore_sync {newer}, which is newer than this program"));
            assert!(
                is_taken == (code == 0 && is_told && told.contains("nothing to upgrade.")),
                "{newer}: {code} {told}"
            );
            for arguments in [&["upgrade"][..], &["install", "--flavour", "native"]] {
                let (code, told) = run(&url, arguments);
                assert!(code == 4 && told.contains(&format!("use livestore-sidecar {newer} or later")), "{told}");
            }
            admin.batch_execute(&version).await.unwrap();
        }
        // A further role for a sidecar is all that changes: the owner stays no member for that.
        succeed(&url, &["install", "--sidecar-role", &format!("second_{role}")]);
        assert_eq!(text(&admin, members).await, "", "{provider}: after a further role");
        assert_eq!(
            text(&admin, "select string_agg(version || flavour || installed_by, ',') from livestore.versions").await,
            format!("{}portable{owner}", env!("CARGO_PKG_VERSION"))
        );

        let sidecar_url = cluster.url(role, name);
        let checked = succeed(&sidecar_url, &["check", "--listen", "127.0.0.1:0"]);
        assert!(checked.contains("the portable flavour") && checked.contains("\n0 wrong"), "{provider}: {checked}");
        assert!(!checked.contains("livestore-sidecar upgrade"), "{provider}: {checked}");
        let sidecar = Start::new(sidecar_url).ready().await;
        push(&sidecar, "todos").await;
        drop(sidecar);
        administer_without_a_superuser(&cluster.connect(owner, name).await).await;
        let checked = succeed(&cluster.url(role, name), &["check", "--listen", "127.0.0.1:0"]);
        assert!(
            checked.contains("livestore_admin: owner; livestore_writer: second_sidecar_of_app, sidecar_of_app"),
            "{provider}: {checked}"
        );
        assert!(checked.contains("\n0 wrong"), "{provider}: {checked}");
        assert_eq!(text(&admin, members).await, "", "{provider}: after the administration");
        for (other, is_told) in [(format!("{major}.99.0"), false), ("0.3.0-old".into(), true)] {
            admin.batch_execute(&version.replace(env!("CARGO_PKG_VERSION"), &other)).await.unwrap();
            let checked = succeed(&cluster.url(role, name), &["check", "--listen", "127.0.0.1:0"]);
            assert!(
                checked.contains(&format!("livestore_sync {other}, the portable flavour")),
                "{provider}: {checked}"
            );
            assert_eq!(checked.contains("run \"livestore-sidecar upgrade\""), is_told, "{provider}: {checked}");
        }
        let (code, refused) = run(&url, &["uninstall"]);
        assert!(code == 4 && refused.contains("--drop-data") && refused.contains("Nothing was changed"), "{refused}");
        assert_eq!(text(&admin, "select count(*)::text from livestore.events").await, "1");
        // The SQL that is printed does the same.
        if index == 0 {
            let sql = succeed(&url, &["uninstall", "--drop-data", "--dry-run"]);
            cluster.connect(owner, name).await.batch_execute(&sql).await.unwrap();
        } else {
            succeed(&url, &["uninstall", "--drop-data"]);
        }
        assert_eq!(text(&admin, members).await, "", "{provider}");
        assert_eq!(run(&url, &["upgrade"]).0, 4);
        cluster.pg_ctl(&["stop", "-m", "immediate"]);
    }
}

/// The SQL of docs/managed.md, and a hook in the place that the page names.
async fn administer_without_a_superuser(owner: &Client) {
    assert!(owner.simple_query("select * from livestore.events").await.is_err());
    let page = std::fs::read_to_string(root().join("docs/managed.md")).unwrap();
    let blocks: Vec<&str> = page.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let [administrator, member] = blocks[..] else { panic!("two blocks") };
    owner.batch_execute(administrator).await.unwrap();
    let backend_id = "select backend_id from livestore.stores where store_id = 'todos'";
    let before = text(owner, backend_id).await;
    owner.batch_execute(member).await.unwrap();
    assert_ne!(text(owner, backend_id).await, before);
    let (grant, rest) = member.split_once('\n').unwrap();
    owner
        .batch_execute(&format!(
            "{grant}
             create function public.refuse_bad() returns trigger language plpgsql set search_path = pg_catalog, pg_temp
             as $$ begin if new.name = 'bad' then raise exception 'bad events are refused'; end if; return new; end $$;
             grant execute on function public.refuse_bad() to livestore_hooks;
             create trigger refuse_bad before insert on livestore.eventlog_1 for each row execute function public.refuse_bad();
             {rest}"
        ))
        .await
        .unwrap();
    let refused = owner.simple_query("select livestore.commit('todos', 'bad')").await.unwrap_err();
    assert!(refused.as_db_error().unwrap().message().contains("bad events are refused"), "{refused:?}");
    let is_no_member = owner.simple_query("select livestore.renew_backend_ids()").await.unwrap_err();
    assert_eq!(is_no_member.as_db_error().unwrap().code().code(), "42501");
}

/// Where nothing is left of a run that fails, it can be run again.
#[tokio::test(flavor = "multi_thread")]
async fn the_owner_of_a_database_sets_up_the_example_of_orders() {
    let cluster = empty_cluster().await;
    let superuser = cluster.connect("postgres", "postgres").await;
    for statement in ["create role owner login createrole", "create database app owner owner"] {
        superuser.batch_execute(statement).await.unwrap();
    }
    let url = cluster.url("owner", "app");
    succeed(&url, &["install"]);
    let set_up = || {
        let schema = root().join("examples/orders/schema.sql");
        let output = Command::new("psql").args([&*url, "-qf"]).arg(schema).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert!(!set_up().0, "it takes an administrator");
    let owner = cluster.connect("owner", "app").await;
    owner.batch_execute("grant livestore_admin to current_user").await.unwrap();
    let (is_there, said) = set_up();
    assert!(is_there, "{said}");

    let order = |quantity: i32| {
        format!(
            r#"select livestore.commit('s', 'orderPlaced', '{{"id": "1", "product": "tea", "quantity": {quantity}}}')"#
        )
    };
    let refused = owner.simple_query(&order(-1)).await.unwrap_err();
    let message = refused.as_db_error().unwrap().message();
    assert_eq!(message, "the quantity of an order must be a positive number");
    owner.batch_execute(&order(2)).await.unwrap();
    owner.batch_execute("select livestore.run_subscription('orders')").await.unwrap();
    let orders = "select string_agg(product || ' ' || quantity, ', ') from shop.orders";
    assert_eq!(text(&owner, orders).await, "tea 2");
    let members = "select coalesce(string_agg(m.roleid::regrole::text, ','), '') from pg_auth_members m
         where m.member = 'owner'::regrole and coalesce((to_jsonb(m) ->> 'set_option')::boolean, true)";
    assert_eq!(text(&owner, members).await, "livestore_admin");
    cluster.pg_ctl(&["stop", "-m", "immediate"]);
}

/// Without CREATEROLE the roles have to be there, and the role a member of two of them meanwhile: the error says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_create_no_roles_is_told_what_to_do() {
    let cluster = empty_cluster().await;
    let superuser = cluster.connect("postgres", "postgres").await;
    for statement in ["create role owner login", "create database app owner owner"] {
        superuser.batch_execute(statement).await.unwrap();
    }
    let url = cluster.url("owner", "app");
    let (code, refused) = run(&url, &["install"]);
    assert!(code == 4 && refused.contains("permission denied to create role"), "{refused}");
    // The statements of docs/managed.md, for another name.
    let page = std::fs::read_to_string(root().join("docs/managed.md")).unwrap().replace(" app", " owner");
    let (revoke, rest) = page.split_once("\n`revoke ").unwrap().1.split_once('`').unwrap();
    let statements: Vec<&str> = rest.lines().skip(2).map_while(|line| line.strip_prefix("    ")).collect();
    let (grant, others) = statements.split_last().unwrap();
    superuser.batch_execute(&others.join("\n")).await.unwrap();
    let (code, refused) = run(&url, &["install"]);
    assert!(code == 4 && refused.contains(grant.trim_end_matches(';')), "{grant}: {refused}");
    superuser.batch_execute(grant).await.unwrap();
    succeed(&url, &["install"]);
    superuser.batch_execute(&format!("revoke {revoke}")).await.unwrap();
    for arguments in [&["install"][..], &["upgrade"]] {
        assert_eq!(succeed(&url, arguments), "Nothing to do.\n");
    }
    let sidecar = Start::new(cluster.url("livestore_sidecar", "app")).ready().await;
    push(&sidecar, "todos").await;
    cluster.pg_ctl(&["stop", "-m", "immediate"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stranger_has_planted_stops_an_installation() {
    let cluster = empty_cluster().await;
    let superuser = cluster.connect("postgres", "postgres").await;
    for statement in ["create role owner login createrole", "create role stranger", "create database app owner owner"] {
        superuser.batch_execute(statement).await.unwrap();
    }
    let (admin, url) = (cluster.connect("postgres", "app").await, cluster.url("owner", "app"));
    for (planted, hint) in [
        ("create schema livestore authorization stranger", "alter schema livestore owner to"),
        ("create schema livestore authorization owner; grant create on schema livestore to stranger", "revoke create"),
        (
            "create schema livestore authorization owner; set role postgres;
             create function livestore.flavour() returns text language sql as $$ select 'portable' $$;
             alter function livestore.flavour() owner to stranger",
            "livestore.flavour() (of stranger)",
        ),
    ] {
        admin.batch_execute(planted).await.unwrap();
        let (code, refused) = run(&url, &["install"]);
        assert!(code == 4 && refused.contains(hint), "{planted}: {refused}");
        admin.batch_execute("drop schema livestore cascade").await.unwrap();
    }
    // Functions that Postgres would prefer to its own, if it looked for them there.
    for arguments in
        ["text, text", "text, text, text", "text, text, text, text", "text, text, name, text", "text, text, name"]
    {
        let planted = format!(
            "create function public.format({arguments}) returns text language plpgsql as $$ begin raise 'planted'; end $$;
             alter function public.format({arguments}) owner to stranger"
        );
        admin.batch_execute(&planted).await.unwrap();
    }
    succeed(&url, &["install"]);
    succeed(&url, &["install", "--sidecar-role", "second"]);
    succeed(&url, &["uninstall"]);
    for role in
        ["livestore_sidecar", "second", "livestore_admin", "livestore_writer", "livestore_reader", "livestore_hooks"]
    {
        admin.batch_execute(&format!("drop role {role}")).await.unwrap();
    }
    admin.batch_execute("grant livestore_owner to stranger").await.unwrap();
    let (code, refused) = run(&url, &["install"]);
    assert!(code == 4 && refused.contains("stranger is a member of livestore_owner"), "{refused}");
    cluster.pg_ctl(&["stop", "-m", "immediate"]);
}

/// All that a database has of livestore_sync, a line for each fact.
async fn facts(client: &Client) -> Vec<String> {
    let rows = client
        .query(
            "select format('function %s %s %s', md5(pg_get_functiondef(p.oid)), p.proowner::regrole,
                 (select array_agg(a::text order by a::text) from unnest(p.proacl) a)) || p.oid::regprocedure
             from pg_proc p where p.pronamespace = 'livestore'::regnamespace
             union all
             select format('relation %s %s %s %s', c.oid::regclass, c.relkind, c.relowner::regrole,
                 (select array_agg(a::text order by a::text) from unnest(c.relacl) a))
             from pg_class c where c.relnamespace = 'livestore'::regnamespace
             union all
             select format('column %s %s %s', a.attrelid::regclass, a.attname, format_type(a.atttypid, a.atttypmod))
             from pg_attribute a join pg_class c on c.oid = a.attrelid
             where c.relnamespace = 'livestore'::regnamespace and a.attnum > 0
             union all
             select format('trigger %s', pg_get_triggerdef(t.oid))
             from pg_trigger t join pg_class c on c.oid = t.tgrelid
             where c.relnamespace = 'livestore'::regnamespace and not t.tgisinternal
             union all
             select format('schema %s %s', n.nspowner::regrole, (select array_agg(a::text order by a::text) from unnest(n.nspacl) a))
             from pg_namespace n where n.nspname = 'livestore'
             union all
             select format('member %s', pg_describe_object(d.classid, d.objid, d.objsubid))
             from pg_depend d join pg_extension e on d.refclassid = 'pg_extension'::regclass and d.refobjid = e.oid
             where e.extname = 'livestore_sync' and d.deptype = 'e'
             union all
             select format('dumped %s %s', c.name::regclass, c.condition)
             from pg_extension e, unnest(e.extconfig, e.extcondition) c(name, condition) where e.extname = 'livestore_sync'
             order by 1",
            &[],
        )
        .await
        .expect("the catalogs");
    rows.into_iter().map(|row| row.get(0)).collect()
}

/// Both ways, with sidecars at work that never stop.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_in_use_changes_its_flavour_and_loses_nothing() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let url = database.url("postgres");
    admin.batch_execute("select livestore.create_store('dedicated', true)").await.unwrap();
    let sidecars = [Sidecar::on(&database).await, Sidecar::on(&database).await];
    let urls: Vec<String> = sidecars.iter().map(Sidecar::url).collect();
    let loads = [Load::start("a", &urls, 2, 2), Load::start("dedicated", &urls, 1, 1)];
    for flavour in [Flavour::Portable, Flavour::Native, Flavour::Portable, Flavour::Native] {
        tokio::time::sleep(Duration::from_millis(500)).await;
        for load in &loads {
            load.goes_on().await;
        }
        let (url, name) = (url.clone(), flavour.name());
        let install = move || succeed(&url, &["install", "--flavour", name, "--sidecar-role", "sidecar"]);
        tokio::task::spawn_blocking(install).await.unwrap();
        assert_eq!(text(&admin, "select livestore.flavour()").await, flavour.name());
    }
    for load in loads {
        load.finish(&database).await;
    }
    // The commit log has each event once: also those of pushes that an installation overtook.
    let positions = text(&admin, "select sum(position - first_position + 1)::text from livestore.commits").await;
    assert_eq!(positions, text(&admin, "select count(*)::text from livestore.events").await);
    for sidecar in &sidecars {
        let log = sidecar.log();
        assert!(!log.contains("a client is refused"), "{log}");
    }

    for flavour in [Flavour::Portable, Flavour::Native] {
        succeed(&url, &["install", "--flavour", flavour.name(), "--sidecar-role", "sidecar"]);
        let fresh = database.cluster().database_of(flavour).await.admin().await;
        fresh.batch_execute("select livestore.create_store('dedicated', true)").await.unwrap();
        let (changed, fresh) = (facts(&admin).await, facts(&fresh).await);
        let beyond = |these: &[String], those: &[String]| -> Vec<String> {
            these.iter().filter(|fact| !those.contains(fact)).cloned().collect()
        };
        let none: [Vec<String>; 2] = Default::default();
        assert_eq!(
            [beyond(&changed, &fresh), beyond(&fresh, &changed)],
            none,
            "{}: after the change, fresh",
            flavour.name()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flavour_is_changed_where_strings_are_not_those_of_the_standard() {
    let database = Database::new().await;
    let (admin, url) = (database.admin().await, database.url("postgres"));
    let setting = format!("alter database {} set standard_conforming_strings = off", database.name());
    admin.batch_execute(&setting).await.unwrap();
    for flavour in [Flavour::Portable, Flavour::Native, Flavour::Portable] {
        succeed(&url, &["install", "--flavour", flavour.name(), "--sidecar-role", "sidecar"]);
        assert_eq!(text(&admin, "select livestore.flavour()").await, flavour.name());
    }
}

/// They are somebody's, and may hold data.
#[tokio::test(flavor = "multi_thread")]
async fn objects_that_depend_on_the_schema_are_not_dropped_unasked() {
    for flavour in [Flavour::Native, Flavour::Portable] {
        let database = Database::new().await;
        let (admin, url) = (database.admin().await, database.url("postgres"));
        if flavour == Flavour::Portable {
            succeed(&url, &["install", "--flavour", "portable", "--sidecar-role", "sidecar"]);
        }
        let objects = "create schema app;
            create function app.h(e livestore.polled_event) returns integer language sql as 'select 1';
            create table app.inbox (id integer, ev livestore.polled_event);
            create view app.seen as select * from livestore.events;
            create function app.hook() returns trigger language plpgsql as 'begin return new; end';
            create trigger hook after insert on livestore.eventlog_1 for each row execute function app.hook()";
        admin.batch_execute(objects).await.unwrap();
        admin.batch_execute("insert into app.inbox (id) values (1)").await.unwrap();
        let dependents = "column ev of table app.inbox; function app.h(livestore.polled_event); view app.seen";
        let (code, refused) = run(&url, &["uninstall"]);
        assert!(code == 4 && refused.contains(&format!("{dependents}. Drop")), "{flavour:?}: {refused}");
        assert!(refused.contains("--drop-data") && refused.contains("Nothing was changed"), "{flavour:?}: {refused}");
        assert_eq!(text(&admin, "select format('%s %s', id, ev) from app.inbox").await, "1 ");
        let script = succeed(&url, &["uninstall", "--drop-data", "--dry-run"]);
        assert!(script.contains(&format!("Also dropped: {dependents}.\n")), "{flavour:?}: {script}");
        let dropped = succeed(&url, &["uninstall", "--drop-data"]);
        assert!(dropped.contains(&format!("Also dropped: {dependents}.\n")), "{flavour:?}: {dropped}");
        assert_eq!(text(&admin, "select inbox::text from app.inbox").await, "(1)");
        assert_eq!(text(&admin, "select coalesce(to_regnamespace('livestore')::text, 'none')").await, "none");
        assert_eq!(text(&admin, "select to_regproc('app.hook')::text").await, "app.hook");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_of_a_release_is_upgraded() {
    let database = Database::new().await;
    let (admin, url) = (database.admin().await, database.url("postgres"));
    for release in ["0.1.0", "0.2.0"] {
        let install = format!("drop extension livestore_sync; create extension livestore_sync version '{release}'");
        admin.batch_execute(&install).await.unwrap();
        admin.execute("select livestore.push('s', $1)", &[&chain(0, 3)]).await.unwrap();
        let upgraded = succeed(&url, &["upgrade"]);
        assert!(upgraded.contains(release), "{upgraded}");
        assert_eq!(
            text(&admin, "select livestore.version() || livestore.head('s')").await,
            format!("{}3", env!("CARGO_PKG_VERSION"))
        );
        assert_eq!(
            text(&admin, "select string_agg(version, ',') from livestore.versions").await,
            env!("CARGO_PKG_VERSION")
        );
    }
    // A hook that would lose its rights stops it: Postgres' hint comes with the error.
    let hook = "drop extension livestore_sync; create extension livestore_sync version '0.2.0';
        create function public.hook() returns trigger language plpgsql as $$ begin return new; end $$;
        create trigger hook before insert on livestore.eventlog_1 for each row execute function public.hook()";
    admin.batch_execute(hook).await.unwrap();
    let (code, refused) = run(&url, &["upgrade"]);
    assert!(code == 4 && refused.contains("hint: Either let the function run as its owner"), "{refused}");
}

/// Those before 0.3.0 know no flavours.
#[tokio::test(flavor = "multi_thread")]
async fn an_extension_of_a_release_becomes_portable() {
    let cluster = empty_cluster().await;
    let superuser = cluster.connect("postgres", "postgres").await;
    superuser.batch_execute("create database fresh").await.unwrap();
    succeed(&cluster.url("postgres", "fresh"), &["install", "--flavour", "portable"]);
    let fresh = facts(&cluster.connect("postgres", "fresh").await).await;
    for (name, release) in [("first", "0.1.0"), ("second", "0.2.0"), ("third", "0.3.0")] {
        superuser.batch_execute(&format!("create database {name}")).await.unwrap();
        let admin = cluster.connect("postgres", name).await;
        admin.batch_execute(&format!("create extension livestore_sync version '{release}'")).await.unwrap();
        admin.execute("select livestore.push('s', $1)", &[&chain(0, 3)]).await.unwrap();
        let changed = succeed(&cluster.url("postgres", name), &["install", "--flavour", "portable"]);
        assert!(changed.contains(&format!("livestore_sync {release} from the native flavour")), "{changed}");
        assert_eq!(
            text(&admin, "select livestore.version() || livestore.flavour() || livestore.head('s')").await,
            format!("{}portable3", env!("CARGO_PKG_VERSION"))
        );
        assert_eq!(facts(&admin).await, fresh, "{release}");
    }
    // Its objects without the extension, as before: nobody is told to drop the events.
    superuser.batch_execute("create database left_behind").await.unwrap();
    let admin = cluster.connect("postgres", "left_behind").await;
    let leave = std::fs::read_to_string(root().join("sql/flavours/portable/adopt.sql")).unwrap();
    admin.batch_execute(&format!("create extension livestore_sync version '0.2.0'; {leave}")).await.unwrap();
    let (code, refused) = run(&cluster.url("postgres", "left_behind"), &["install", "--flavour", "portable"]);
    assert!(code == 4 && refused.contains("holds the events of stores: drop nothing"), "{code}: {refused}");
    assert!(!refused.contains("Drop them"), "{refused}");
    cluster.pg_ctl(&["stop", "-m", "immediate"]);
}

/// The installation of a chart runs with every upgrade of the chart, and its role may have lost its rights by then.
#[tokio::test(flavor = "multi_thread")]
async fn an_installation_that_changes_nothing_takes_no_rights() {
    let database = Database::new().await;
    for arguments in [&["install", "--sidecar-role", "sidecar"][..], &["upgrade"]] {
        assert_eq!(succeed(&database.url("stranger"), arguments), "Nothing to do.\n", "{arguments:?}");
    }
    let (code, refused) = run(&database.url("stranger"), &["install", "--flavour", "portable"]);
    assert!(code == 4 && refused.contains("takes a superuser"), "{code}: {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_installations_at_once_one_has_nothing_to_do() {
    let cluster = empty_cluster().await;
    let superuser = cluster.connect("postgres", "postgres").await;
    superuser.batch_execute("create role sidecar login").await.unwrap();
    let url = cluster.url("postgres", "postgres");
    let installations: Vec<_> = (0..2)
        .map(|_| {
            let url = url.clone();
            let arguments = ["install", "--flavour", "portable", "--sidecar-role", "sidecar"];
            tokio::task::spawn_blocking(move || succeed(&url, &arguments))
        })
        .collect();
    for installation in installations {
        installation.await.unwrap();
    }
    assert_eq!(text(&superuser, "select count(*)::text from livestore.versions").await, "1");
    cluster.pg_ctl(&["stop", "-m", "immediate"]);
}

/// Pushes go on while an upgrade waits for a transaction, and of two upgrades at the same moment one has nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_that_waits_holds_up_no_push() {
    let database = Database::new().await;
    let (admin, open) = (database.admin().await, database.admin().await);
    admin
        .batch_execute("drop extension livestore_sync; create extension livestore_sync version '0.2.0'")
        .await
        .unwrap();
    open.batch_execute("begin; select count(*) from livestore.eventlog_1").await.unwrap();
    let url = database.url("postgres");
    let upgrades: Vec<_> = (0..2)
        .map(|_| {
            let url = url.clone();
            tokio::task::spawn_blocking(move || run(&url, &["upgrade"]))
        })
        .collect();
    eventually("the upgrades begin", || async {
        let tries = "select count(*) from pg_stat_activity where datname = current_database() and query like '%wait_for_locks%' and pid <> pg_backend_pid()";
        admin.query_one(tries, &[]).await.unwrap().get::<_, i64>(0) == 2
    })
    .await;
    for parent in 0..10 {
        let start = Instant::now();
        admin.execute("select livestore.push('todos', $1)", &[&chain(parent, 1)]).await.unwrap();
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }
    open.batch_execute("commit").await.unwrap();
    for upgrade in upgrades {
        let (code, printed) = upgrade.await.unwrap();
        assert_eq!(code, 0, "{printed}");
    }
    let version = text(&admin, "select extversion from pg_extension where extname = 'livestore_sync'").await;
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    assert_eq!(text(&admin, "select livestore.head('todos')::text").await, "10");
}

/// Pushes an event to an empty store.
async fn push(sidecar: &Sidecar, store: &str) {
    let mut rpc = Rpc::open(&sidecar.url(), store).await;
    rpc.push(json!("push"), store, chain(0, 1)).await;
    assert_eq!(rpc.exit(&json!("push")).await["_tag"], "Success");
}

/// pg_tle runs its script as an extension that a role without superuser creates. Postgres itself does the same with a file, which since
/// version 18 may be anywhere.
#[tokio::test(flavor = "multi_thread")]
async fn the_script_for_pg_tle_is_an_extension_of_its_owner() {
    let cluster = empty_cluster().await;
    let superuser = cluster.connect("postgres", "postgres").await;
    let version: i32 = text(&superuser, "show server_version_num").await.parse().unwrap();
    if version < 180_000 {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("extension");
    std::fs::create_dir(&files).unwrap();
    let built = Command::new("sql/build").arg(&files).current_dir(root()).status().unwrap();
    assert!(built.success());
    let script = std::fs::read_to_string(files.join("livestore-pg_tle.sql")).unwrap();
    let script = script.split("$pg_tle$").nth(1).expect("the script within the call");
    let update = std::fs::read_to_string(files.join("livestore-pg_tle--update.sql")).unwrap();
    let own = env!("CARGO_PKG_VERSION");
    let call = format!("pgtle.install_update_path('livestore_sync', '0.3.0', '{own}',\n$pg_tle$");
    let (_, update) = update.split_once(&call).expect("the way from 0.3.0");
    let (update, _) = update.split_once("$pg_tle$").expect("its end");
    let release = std::fs::read_to_string(root().join("sql/releases/livestore-0.3.0.sql")).unwrap();
    let (_, release) = release.split_once("\nbegin;\n").expect("a transaction");
    for file in std::fs::read_dir(&files).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    std::fs::write(files.join("livestore_sync.control"), format!("default_version = '{own}'\nsuperuser = false\n"))
        .unwrap();
    let path = format!("0.3.0--{own}");
    for (versions, script) in
        [(own, script), ("0.3.0", release.strip_suffix("commit;\n").expect("its end")), (&*path, update)]
    {
        std::fs::write(files.join(format!("livestore_sync--{versions}.sql")), script).unwrap();
    }
    for path in [folder.path(), &files] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }
    for statement in [
        "create role owner login createrole",
        "create database app owner owner",
        "create database updated owner owner",
        &format!("alter system set extension_control_path = '{}:$system'", folder.path().display()),
        "select pg_reload_conf()",
    ] {
        superuser.batch_execute(statement).await.unwrap();
    }
    let admin = cluster.connect("postgres", "app").await;
    let there = "select count(*)::text from pg_available_extension_versions where name = 'livestore_sync'";
    eventually("the script is found", async || text(&admin, there).await == "2").await;

    let owner = cluster.connect("owner", "app").await;
    owner.batch_execute("create extension livestore_sync").await.unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(text(&admin, "select livestore.flavour()").await, "portable");
    let updated = cluster.connect("owner", "updated").await;
    for statement in ["create extension livestore_sync version '0.3.0'", "alter extension livestore_sync update"] {
        updated.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    assert_eq!(facts(&updated).await, facts(&owner).await);
    owner.batch_execute("create role app_sidecar login in role livestore_writer").await.unwrap();
    let sidecar = Start::new(cluster.url("app_sidecar", "app")).ready().await;
    push(&sidecar, "todos").await;
    drop(sidecar);
    assert_eq!(text(&admin, "select count(*)::text from livestore.events").await, "1");
    // The installer leaves it alone.
    for arguments in [&["install"][..], &["upgrade"], &["uninstall", "--drop-data"]] {
        let (code, refused) = run(&cluster.url("owner", "app"), arguments);
        assert!(code == 4 && refused.contains("pg_tle has installed"), "{arguments:?}: {refused}");
    }
    let old =
        "create or replace function livestore.version() returns text immutable language sql as $$ select '0.3.0' $$";
    admin.batch_execute(old).await.unwrap();
    let (_, checked) = run(&cluster.url("app_sidecar", "app"), &["check", "--listen", "127.0.0.1:0"]);
    assert!(checked.contains(&format!("run livestore-pg_tle--update.sql of {own}, and then")), "{checked}");
    assert!(!checked.contains("livestore-sidecar upgrade"), "{checked}");
    admin.batch_execute("drop extension livestore_sync cascade; drop schema if exists livestore").await.unwrap();
    assert_eq!(text(&admin, "select coalesce(to_regnamespace('livestore')::text, 'none')").await, "none");
    cluster.pg_ctl(&["stop", "-m", "immediate"]);
}
