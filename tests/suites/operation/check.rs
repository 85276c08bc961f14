//! `livestore-sidecar check`, which reports mistakes in the setup and the way to mend them.

use std::time::Duration;

use livestore_tests::breaker::Breaker;
use livestore_tests::cluster::Database;
use livestore_tests::electric::Electric;
use livestore_tests::flavour::{Flavour, is_skipped};
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::{eventually, free_port, root};

/// Its exit code and its report for these settings.
async fn check(database_url: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Start::program();
    command.arg("check").args(arguments).env("DATABASE_URL", database_url);
    // Several run at a time.
    command.env("LIVESTORE_LISTEN", "127.0.0.1:0");
    let output = tokio::task::block_in_place(|| command.output()).unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// Lines that say this.
pub async fn finds(database_url: &str, arguments: &[&str], kind: &str, what: &str) {
    let (code, report) = check(database_url, arguments).await;
    assert!(report.lines().any(|line| line.starts_with(kind) && line.contains(what)), "{kind} {what}:\n{report}");
    assert_eq!(code, Some(i32::from(report.contains("WRONG"))), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_as_it_should_be_has_nothing_wrong() {
    let database = Database::alone().await;
    let others = "revoke connect on database livestore_template from public";
    database.admin().await.batch_execute(others).await.unwrap();
    // As many as any machine has files for.
    let (code, report) = check(&database.url("sidecar"), &["--max-connections", "100"]).await;
    assert!(report.ends_with("\n0 wrong, 0 to think about\n"), "{report}");
    assert_eq!(code, Some(0));
    for good in ["settings go together", "may push", "PostgreSQL", "survives a crash", "notifications arrive"] {
        assert!(report.lines().any(|line| line.starts_with("ok ") && line.contains(good)), "{good}: {report}");
    }
    database.stop();
}

/// A sidecar that starts says the same in its log, and serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_misspelled_variable_is_named_with_the_one_that_was_meant() {
    let database = Database::new().await;
    let (url, misspelled) = (database.url("sidecar"), "LIVESTORE_AUTHORISE_FUNCTION");
    let mut command = Start::program();
    command.arg("check").env("DATABASE_URL", &url).env("LIVESTORE_LISTEN", "127.0.0.1:0");
    let output = tokio::task::block_in_place(|| command.env(misspelled, "app.is_member").output()).unwrap();
    let report = String::from_utf8(output.stdout).unwrap();
    let is_named =
        |line: &str| line.contains(misspelled) && line.contains("did you mean LIVESTORE_AUTHORIZE_FUNCTION?");
    assert!(report.lines().any(|line| line.starts_with("WRONG") && is_named(line)), "{report}");
    assert_eq!(output.status.code(), Some(1), "{report}");
    let sidecar = Start::new(url).environment(misspelled, "app.is_member").ready().await;
    assert!(sidecar.log().lines().any(|line| line.contains("WARN") && is_named(line)), "{}", sidecar.log());
}

/// As after going back to an older package of the extension.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_is_advised_only_if_it_leads_to_a_newer_version() {
    if is_skipped("updates of the extension") {
        return;
    }
    let database = Database::new().await;
    let admin = database.admin().await;
    for (installed, is_advised) in [("0.99.0", false), ("0.1.0", true)] {
        let fake = format!("update pg_extension set extversion = '{installed}' where extname = 'livestore_sync'");
        admin.batch_execute(&fake).await.unwrap();
        let (_, report) = check(&database.url("sidecar"), &[]).await;
        assert_eq!(
            report.contains("run \"alter extension livestore_sync update\""),
            is_advised,
            "{installed}: {report}"
        );
    }
}

/// Postgres has to come first, and has nothing newer than what is installed.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_newer_than_the_extension_is_told() {
    if is_skipped("updates of the extension") {
        return;
    }
    let database = Database::new().await;
    let older = "create or replace function livestore.version() returns text language sql immutable
         set search_path = pg_catalog, pg_temp as $$ select '0.3.0' $$";
    database.admin().await.batch_execute(older).await.unwrap();
    let told = "the database has livestore_sync 0.3.0, and this program is";
    finds(&database.url("sidecar"), &[], "advice", told).await;
    finds(&database.url("sidecar"), &[], "advice", "install the extension of").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_that_an_update_would_break_are_named_beforehand() {
    if is_skipped("updates of the extension") {
        return;
    }
    let database = Database::new().await;
    let (url, admin) = (database.url("sidecar"), database.admin().await);
    let hook = "create function public.keep() returns trigger language plpgsql as $$ begin return new; end $$;
        create trigger keep before insert on livestore.eventlog_1 for each row execute function public.keep()";
    let keep = |report: String| report.lines().find(|line| line.contains("keep()")).map(str::to_owned);
    for version in ["0.1.0", "0.2.0"] {
        let install =
            format!("drop extension livestore_sync cascade; create extension livestore_sync version '{version}'");
        admin.batch_execute(&install).await.unwrap();
        admin.batch_execute("drop function if exists public.keep()").await.unwrap();
        admin.batch_execute(hook).await.unwrap();
        let line = keep(check(&url, &[]).await.1).unwrap();
        assert!(line.starts_with("advice") && line.contains("security definer"), "{line}");
        assert!(line.contains("grant livestore_hooks") && line.contains("run as postgres"), "{line}");
    }
    admin.batch_execute("set livestore.hooks_checked = on; alter extension livestore_sync update").await.unwrap();
    let line = keep(check(&url, &[]).await.1).unwrap();
    assert!(line.starts_with("ok") && line.contains("run as livestore_hooks"), "{line}");
    admin.batch_execute("alter function public.keep() security definer").await.unwrap();
    assert_eq!(keep(check(&url, &[]).await.1), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_with_rights_over_the_extension_are_named() {
    let database = Database::alone().await;
    let (url, admin) = (database.url("sidecar"), database.admin().await);
    let give_back = match Flavour::of_tests() {
        Flavour::Native => "alter schema livestore owner to postgres",
        Flavour::Portable => "alter schema livestore owner to livestore_owner",
    };
    for (change, undo, what) in [
        (
            "grant create on schema livestore to stranger",
            "revoke create on schema livestore from stranger",
            "stranger may create",
        ),
        (
            "revoke usage on schema livestore from livestore_owner",
            "grant usage on schema livestore to livestore_owner",
            "livestore_owner may not use the schema livestore",
        ),
        ("alter schema livestore owner to stranger", give_back, "belongs to stranger"),
        (
            "grant livestore_owner to stranger",
            "revoke livestore_owner from stranger",
            "stranger is a member of livestore_owner",
        ),
        ("alter role livestore_hooks login", "alter role livestore_hooks nologin", "livestore_hooks may log in"),
        (
            "select livestore.create_store('own', true); alter table livestore.eventlog_1_own owner to postgres",
            "select livestore._adopt_table('livestore.eventlog_1_own')",
            "eventlog_1_own",
        ),
    ] {
        admin.batch_execute(change).await.unwrap();
        finds(&url, &[], "WRONG", what).await;
        admin.batch_execute(undo).await.unwrap();
    }
    assert_eq!(check(&url, &[]).await.0, Some(0));
    database.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn code_and_roles_that_have_to_be_trusted_are_named() {
    let database = Database::alone().await;
    let (url, admin) = (database.url("sidecar"), database.admin().await);
    let setup = "create role dev; create schema dev authorization dev; create role app login in role livestore_reader; set role dev;
        create function dev.f(text) returns text language sql immutable as 'select $1';
        create function dev.ok(text) returns boolean language sql immutable as 'select true';
        create domain dev.checked as text check (dev.ok(value));
        create function dev.note() returns trigger language plpgsql as 'begin return null; end'; reset role;
        grant usage on schema dev to public;
        create function public.f(text) returns text language sql immutable as 'select $1';
        create index indexed on livestore.eventlog_1 (dev.f(name));
        create index trusted on livestore.eventlog_1 (public.f(name));
        create statistics livestore.counted on (dev.f(name)), store from livestore.eventlog_1;
        alter table livestore.eventlog_1 add constraint checked check (name::dev.checked is not null);
        create policy seen on livestore.eventlog_1 using (dev.ok(name));
        create trigger noted after insert on livestore.stores for each row execute function dev.note();
        create trigger hooked after insert on livestore.eventlog_1 for each row execute function dev.note()";
    admin.batch_execute(setup).await.unwrap();
    for what in [
        "the index livestore.indexed calls the function dev.f(text) of dev",
        "calls the type dev.checked of dev",
        "the statistics object livestore.counted calls the function dev.f(text) of dev",
        "the policy seen on table livestore.eventlog_1 calls the function dev.ok(text) of dev",
        "the trigger noted on livestore.stores runs as livestore_owner, and dev,",
    ] {
        finds(&url, &[], "advice", what).await;
    }
    finds(&url, &[], "ok", "livestore_reader: app, ").await;
    let (_, report) = check(&url, &[]).await;
    assert!(!report.contains("the trigger hooked"), "{report}");
    assert!(!report.contains("trusted calls") && !report.contains("may log in, or has rights"), "{report}");
    admin
        .batch_execute("alter role livestore_reader login; grant livestore_owner to dev with admin option")
        .await
        .unwrap();
    finds(&url, &[], "advice", "the role livestore_reader may log in").await;
    finds(&url, &[], "advice", "dev may make itself a member of livestore_owner").await;
    if Flavour::of_tests() == Flavour::Portable {
        let change =
            "set role livestore_hooks; grant execute on function livestore._move_events(oid, oid) to dev; reset role";
        admin.batch_execute(change).await.unwrap();
        finds(&url, &[], "WRONG", "has changed livestore._move_events(oid,oid), or granted it").await;
    }
    database.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn other_databases_in_which_the_role_can_push_are_named_and_can_be_closed() {
    let database = Database::alone().await;
    let (url, admin) = (database.url("sidecar"), database.admin().await);
    admin.batch_execute("create database neighbour template livestore_template").await.unwrap();
    admin.batch_execute("create database \"Odd one\"").await.unwrap();
    let push = "select livestore.commit('s', 'e')";
    database.cluster().connect("sidecar", "neighbour").await.execute(push, &[]).await.expect("roles are the cluster's");
    finds(&url, &[], "advice", "may connect to other databases").await;
    finds(&url, &[], "advice", "\"Odd one\", livestore_template, neighbour").await;

    // The statement that security.md recommends.
    let close = "revoke connect on database \"Odd one\", livestore_template, neighbour from public";
    admin.batch_execute(close).await.unwrap();
    assert!(database.cluster().try_connect("sidecar", "neighbour").await.is_err());
    let (_, report) = check(&url, &[]).await;
    assert!(!report.contains("other databases"), "{report}");
    database.cluster().connect("postgres", "neighbour").await;
    database.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_database_is_said_with_what_mends_it() {
    let database = Database::alone().await;
    let (url, admin) = (database.url("sidecar"), database.admin().await);
    for (setting, kind) in [("fsync", "WRONG"), ("full_page_writes", "advice")] {
        admin.batch_execute(&format!("alter system set {setting} = off")).await.unwrap();
        admin.batch_execute("select pg_reload_conf()").await.unwrap();
        let is_off = || async { check(&url, &[]).await.1.contains(&format!("{setting} is off")) };
        eventually("it is off", is_off).await;
        finds(&url, &[], kind, &format!("{setting} is off")).await;
    }
    // As on Neon, whose storage keeps what is committed, and where nobody can change these settings.
    admin.batch_execute("alter system set synchronous_standby_names = 'walproposer'").await.unwrap();
    admin.batch_execute("select pg_reload_conf()").await.unwrap();
    let is_neon = || async { check(&url, &[]).await.1.contains("survives a crash (Neon's storage") };
    eventually("it is Neon's", is_neon).await;
    let (_, report) = check(&url, &[]).await;
    assert!(!report.contains(" is off"), "{report}");
    let local = format!("{url}?options=-c%20synchronous_commit%3Dlocal");
    finds(&local, &[], "WRONG", "synchronous_commit is local").await;
    admin.batch_execute("alter system reset synchronous_standby_names").await.unwrap();
    admin.batch_execute("select pg_reload_conf()").await.unwrap();
    finds(&database.url("stranger"), &[], "WRONG", "grant livestore_writer").await;
    finds(&url.replace(database.name(), "postgres"), &[], "WRONG", "create extension livestore_sync").await;
    finds(&url.replace(database.name(), "missing"), &[], "WRONG", "\"missing\" does not exist").await;
    finds(&format!("postgres://a@127.0.0.1:{}/b", free_port()), &[], "WRONG", "Connection refused").await;
    finds(
        &format!("postgres://a@127.0.0.1:{}/b", free_port()),
        &[],
        "WRONG",
        "; start Postgres, or correct --database-url",
    )
    .await;
    finds(&url, &["--admin-secret", "secret"], "WRONG", "grant livestore_admin to").await;
    finds(&database.url("admin"), &["--inspector", "off"], "advice", "revoke livestore_admin from").await;
    finds(&url, &["--authorize-function", "app.none"], "WRONG", "there is no such function").await;
    let replaceable =
        "create schema lent; create function lent.may(text, text, json) returns boolean language sql as 'select true';
        grant usage on schema lent to sidecar; alter schema lent owner to stranger;
        create schema app; create function app.handle(event livestore.polled_event) returns void language sql as '';
        select livestore.subscribe('todos', handler => 'app.handle(livestore.polled_event)'); drop schema app cascade";
    database.admin().await.batch_execute(replaceable).await.unwrap();
    finds(&url, &["--authorize-function", "lent.may"], "WRONG", "its schema belongs to stranger").await;
    finds(&url, &[], "WRONG", "the subscription todos is not run: the subscription \"todos\" has no handler").await;
    let asleep = "the handlers and webhooks of one subscription do not get what SQL";
    finds(&url, &["--database-idle-close", "5m"], "advice", asleep).await;
    database.admin().await.batch_execute("select livestore.unsubscribe('todos')").await.unwrap();
    finds(&url, &["--database-connections", "60000"], "WRONG", "raise max_connections").await;
    let free = async || {
        let (_, report) = check(&url, &[]).await;
        let (_, rest) = report.split_once("max_connections leaves ").unwrap();
        rest.split(' ').next().unwrap().parse::<i64>().unwrap()
    };
    let before = free().await;
    let others = [database.connect("stranger").await, database.connect("reader").await];
    assert_eq!(free().await, before - 2, "those of other roles count");
    drop(others);
    // Of a superuser: each remedy works in the state that it is told of.
    let superuser = database.url("postgres");
    let logins = ["sidecar", "admin"].map(|role| format!("alter role {role} nologin"));
    finds(&superuser, &[], "advice", "the sidecar needs livestore_writer only; connect as sidecar").await;
    admin.batch_execute(&logins.join(";")).await.unwrap();
    let create = "create role livestore_sidecar login password '…' in role livestore_writer";
    finds(&superuser, &[], "advice", create).await;
    admin.batch_execute("create role livestore_sidecar login").await.unwrap();
    finds(&superuser, &[], "advice", "grant livestore_writer to livestore_sidecar, and connect").await;
    admin
        .batch_execute(&format!("drop role livestore_sidecar; {}", logins.join(";").replace("nologin", "login")))
        .await
        .unwrap();
    for (sql, undo, kind, what) in [
        ("set synchronous_commit = off", "reset synchronous_commit", "WRONG", "synchronous_commit is off"),
        (
            "set default_transaction_read_only = on",
            "reset default_transaction_read_only",
            "WRONG",
            "nothing can be pushed",
        ),
        ("set statement_timeout = 500", "reset statement_timeout", "advice", "statement_timeout is 500 ms"),
        ("set idle_session_timeout = 5000", "reset idle_session_timeout", "advice", "idle_session_timeout is 5000 ms"),
        ("connection limit 5", "connection limit -1", "WRONG", "the role of --database-url may have 5 connections"),
        ("superuser", "nosuperuser", "advice", "is a superuser"),
    ] {
        admin.batch_execute(&format!("alter role sidecar {sql}")).await.unwrap();
        finds(&url, &[], kind, what).await;
        admin.batch_execute(&format!("alter role sidecar {undo}")).await.unwrap();
    }
    for (sql, undo, kind, what) in [
        ("enable", "enable", "advice", "row level security is on for livestore.stores"),
        ("force", "no force", "WRONG", "row level security is forced on livestore.stores"),
    ] {
        admin.batch_execute(&format!("alter table livestore.stores {sql} row level security")).await.unwrap();
        finds(&url, &[], kind, what).await;
        admin.batch_execute(&format!("alter table livestore.stores {undo} row level security")).await.unwrap();
    }
    for (set, kind) in [("true", "advice"), ("false", "ok")] {
        admin.batch_execute(&format!("update livestore.instance set legacy_notify = {set}")).await.unwrap();
        let (_, report) = check(&url, &[]).await;
        assert_eq!(report.contains("set livestore.legacy_notify = off"), kind == "advice", "{report}");
    }
    let installed = format!("livestore_sync {}, the {} flavour", env!("CARGO_PKG_VERSION"), Flavour::of_tests().name());
    finds(&url, &[], "ok", &installed).await;
    if !is_skipped("an update of the extension") {
        let version = "update pg_extension set extversion = '0.3.0-old' where extname = 'livestore_sync'";
        admin.execute(version, &[]).await.unwrap();
        finds(&url, &[], "advice", "run \"alter extension livestore_sync update\"").await;
    }
    database.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_the_settings_is_said_all_at_once() {
    let database = Database::new().await;
    let arguments = ["--listen", "0.0.0.0:0", "--cors-origins", "nonsense", "--admin-secret", ""];
    let (code, report) = check(&database.url("sidecar"), &arguments).await;
    assert_eq!(code, Some(1));
    for problem in ["--insecure-no-auth", "--cors-origins", "--admin-secret is empty"] {
        assert!(report.lines().any(|line| line.starts_with("WRONG") && line.contains(problem)), "{problem}: {report}");
    }
    let url = database.url("sidecar");
    finds(&url, &["--listen", "0.0.0.0:0", "--insecure-no-auth"], "advice", "everybody who reaches").await;
    finds(&url, &["--cors-origins", "*"], "advice", "pages of every origin").await;
    finds(&url, &["--allowed-hosts", "*"], "advice", "resolves to this machine").await;
    finds(&url, &["--insecure-no-auth"], "advice", "every web page in a browser of this machine").await;
    let own = ["--insecure-no-auth", "--allowed-hosts", "localhost", "--cors-origins", "local"];
    let (_, report) = check(&url, &own).await;
    assert!(!report.contains("every web page"), "{report}");
    finds(&url, &["--allowed-hosts", "http://x"], "WRONG", "--allowed-hosts").await;
    let name = ["--allowed-hosts", "sync.example.com"];
    finds(&url, &name, "advice", "everyone who reaches this sidecar under that name").await;
    for protected in
        [&["--authorize-function", "app.may_sync"][..], &["--auth", "jwt", "--jwt-secret", &"s".repeat(32)]]
    {
        let (_, report) = check(&url, &[&name, protected].concat()).await;
        assert!(!report.contains("under that name"), "{report}");
    }
    finds(&url, &["--idle-close", "60s"], "advice", "proxies keep").await;
    let of_a_file = format!("{}\n", "s".repeat(32));
    finds(&url, &["--auth", "jwt", "--jwt-secret", &of_a_file], "advice", "--jwt-secret begins or ends with").await;
    let short = ["--auth", "jwt", "--jwt-secret", "short"];
    finds(&url, &short, "WRONG", "less than 32 bytes").await;
    finds(&url, &[&short, &["--insecure-short-secret"][..]].concat(), "advice", "less than 32 bytes").await;
    let nowhere = format!("http://127.0.0.1:{}/jwks", free_port());
    finds(&url, &["--auth", "jwt", "--jwks-url", &nowhere], "advice", "--jwt-audience").await;
    finds(&url, &["--auth", "jwt", "--jwks-url", &nowhere], "WRONG", "--jwks-url: the request failed").await;
    let (_, report) = check(&url, &["--auth", "jwt", "--jwks-url", &format!("{nowhere}?key=hunter2")]).await;
    assert!(report.contains("--jwks-url: the request failed") && !report.contains("hunter2"), "{report}");
    finds(&url, &["--electric-url", "nonsense"], "WRONG", "--electric-url").await;
    let inspector = ["--inspector", "on", "--auth", "jwt", "--jwt-secret", &"s".repeat(32)].map(str::to_owned);
    let inspector: Vec<&str> = inspector.iter().map(String::as_str).collect();
    let authorizer = ["--authorize-function", "app.may_sync"];
    finds(&url, &[&inspector[..], &authorizer].concat(), "WRONG", "--inspector on: nobody could log in").await;
    let secret = ["--inspector-secret", "a secret of the operator"];
    let (_, report) = check(&url, &[&inspector[..], &authorizer, &secret].concat()).await;
    assert!(!report.contains("nobody could log in"), "{report}");
    let (_, report) = check(&url, &["--log", "loud=very=much"]).await;
    let told: Vec<_> = report.lines().filter(|line| line.starts_with("WRONG") && line.contains("--log")).collect();
    assert!(told.len() == 1 && told[0].matches("error parsing level filter").count() == 1, "{report}");
    finds(&url, &["--otlp-endpoint", "collector"], "WRONG", "--otlp-endpoint").await;
    finds(&url, &["--read-only", "--listen-url", &url], "WRONG", "--read-only and --listen-url").await;
    finds(&url, &["--trust-traceparent"], "WRONG", "--trust-traceparent needs --otlp-endpoint").await;
    finds(&url, &["--max-connections", "9999999999"], "advice", "raise the limit").await;
    finds("nonsense", &[], "WRONG", "--database-url").await;
    finds("postgres://u@nowhere.invalid/d", &[], "advice", "--database-url: passwords and events cross").await;

    let electric = Electric::on(&database).await;
    finds(&url, &["--electric-url", &electric.url()], "advice", "/v1/health answers 404").await;
    finds(&url, &["--electric-url", &format!("http://127.0.0.1:{}", free_port())], "WRONG", "nobody answers").await;
    let sidecar = Sidecar::on(&database).await;
    finds(&url, &["--listen", &format!("127.0.0.1:{}", sidecar.port())], "advice", "is taken").await;
    finds(&url, &["--listen", "192.0.2.1:80", "--insecure-no-auth"], "WRONG", "--listen 192.0.2.1:80").await;
}

/// `false` in the environment is the same as no variable, and so is an empty endpoint (OpenTelemetry's specification).
#[test]
fn a_variable_can_say_no() {
    let help = Start::program().arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let mut command = Start::program();
    command.args(["check", "--database-url", "nonsense"]).env("OTEL_EXPORTER_OTLP_ENDPOINT", "");
    command.env("LIVESTORE_LISTEN", "127.0.0.1:0");
    let (mut is_flag, mut flags) = (false, 0);
    for line in help.lines().map(str::trim) {
        if line.starts_with("--") {
            is_flag = !line.contains('<');
        } else if let Some((_, variable)) = line.split_once("[env: ").filter(|_| is_flag) {
            command.env(variable.split('=').next().unwrap(), "false");
            flags += 1;
        }
    }
    assert!(flags >= 5, "{flags} flags");
    let output = command.output().unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let wrong: Vec<_> = report.lines().filter(|line| line.starts_with("WRONG")).collect();
    assert!(wrong.iter().all(|line| line.contains("--database-url")), "{wrong:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_that_can_refuse_pushes_are_named() {
    let database = Database::new().await;
    let (url, admin) = (database.url("sidecar"), database.admin().await);
    admin
        .batch_execute("select livestore.create_store('own', true); set search_path = public, livestore")
        .await
        .unwrap();
    for (index, is_risky) in [
        ("((args->>'email'))", true),
        ("(livestore.field(args, 'email'))", true),
        ("using hash (livestore.field(args, 'email'))", false),
        ("(left(livestore.field(args, 'it''s', 'b'), 600)) where name = 'e(args)'", false),
        ("(left(livestore.field(args, 'email'), 651))", true),
        ("(left(args->>'email', 10))", true),
        ("(md5(livestore.field(args, 'email')), store)", false),
        (
            "(livestore.try_bigint(livestore.field(args, 'n')), livestore.try_timestamptz(livestore.field(args, 'at')))",
            false,
        ),
        ("((livestore.field(args, 'n')::int))", true),
        ("(store) where (args->>'n')::int > 1", true),
        ("(store) where livestore.try_bigint(livestore.field(args, 'n')) > 1", false),
        ("using gin ((args::jsonb) jsonb_path_ops)", true),
        ("(name, \"createdAt\")", false),
        ("(left(livestore.field(args, 'a'), 600), left(livestore.field(args, 'b'), 600))", true),
        ("(left(livestore.field(args, 'a'), 300), left(livestore.field(args, 'b'), 300))", false),
        ("(store) where livestore.field(args, 'n')::int > 5", true),
        ("(store) where livestore.field(args, 'n') > 'a-b' and name <> 'x'", false),
        ("(left(name, 200), \"createdAt\")", false),
        ("using hash (\"clientId\")", false),
    ] {
        for table in ["eventlog_1", "eventlog_1_own"] {
            admin.batch_execute(&format!("create index probe on livestore.{table} {index}")).await.unwrap();
            let report = check(&url, &[]).await.1;
            let told = report
                .lines()
                .any(|line| line.starts_with("WRONG") && line.contains("the index livestore.probe can refuse pushes"));
            assert_eq!(told, is_risky, "{table} {index}:\n{report}");
            admin.batch_execute("drop index livestore.probe").await.unwrap();
        }
    }
    admin.batch_execute("create unique index probe on livestore.eventlog_1 (store, \"createdAt\")").await.unwrap();
    finds(&url, &[], "WRONG", "the index livestore.probe is unique").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_that_hold_stores_and_misfits_are_told() {
    let database = Database::new().await;
    let (url, admin) = (database.url("sidecar"), database.admin().await);
    let events = r#"select livestore.define_event('e', '{"type": "object"}');
        select livestore.push('s', '[{"name":"e","args":1,"seqNum":1,"parentSeqNum":0,"clientId":"c","sessionId":"s"}]')"#;
    admin.batch_execute(events).await.unwrap();
    let sidecar = Sidecar::on(&database).await;
    admin.batch_execute("begin; select livestore.commit('held', 'x')").await.unwrap();
    let holder = database.connect("sidecar").await;
    holder.batch_execute("begin; select livestore.commit('s', 'x')").await.unwrap();
    let client = livestore_tests::client::Node::sync_backend().open("cf-ws", &sidecar.url(), "s").await;
    let pushed = tokio::spawn(async move { client.push(livestore_tests::events::chain(2, 1)).await });
    finds(&url, &[], "advice", "1 events do not fit their type").await;
    eventually("a store is held for long", async || sidecar.metric("livestore_long_held_stores").await == 1.0).await;
    assert_eq!(sidecar.metric("livestore_misfits").await, 1.0);
    finds(&url, &[], "advice", "a transaction of sidecar (process").await;
    // Since when the transaction of another role is open is not for everybody.
    finds(&url, &[], "advice", "does not see since when it is open: run \"grant pg_read_all_stats to sidecar\"").await;
    finds(&database.url("postgres"), &[], "advice", "a transaction of postgres (process").await;
    // The query of the runbook names both, and neither who only reads nor the sidecar, whose push waits.
    let reader = database.connect("postgres").await;
    reader.batch_execute("begin; select count(*) from livestore.events").await.unwrap();
    let page = std::fs::read_to_string(root().join("docs/runbook.md")).unwrap();
    let blocks = page.split("```sql\n").skip(1).map(|block| block.split("```").next().unwrap());
    let query = blocks.into_iter().find(|block| block.contains("pg_locks")).unwrap();
    let holders = database.admin().await.query(query.trim().trim_end_matches(';'), &[]).await.unwrap();
    let holders: Vec<&str> = holders.iter().map(|row| row.get("usename")).collect();
    assert_eq!(holders, ["postgres", "sidecar"]);
    holder.batch_execute("commit").await.unwrap();
    pushed.await.unwrap().unwrap();
    eventually("none is held", async || sidecar.metric("livestore_long_held_stores").await == 0.0).await;
}

/// The transaction of a sidecar holds stores as another one does, unless it waits for a lock itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_whose_hook_takes_long_is_told() {
    let database = Database::new().await;
    let hook =
        "create function slow() returns trigger language plpgsql as $$ begin perform pg_sleep(20); return null; end $$;
        create trigger slow after insert on livestore.eventlog_1 for each statement execute function slow()";
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    admin.batch_execute("select livestore.commit('s', 'x')").await.unwrap();
    admin.batch_execute(hook).await.unwrap();
    let client = livestore_tests::client::Node::sync_backend().open("cf-ws", &sidecar.url(), "s").await;
    let pushed = tokio::spawn(async move { client.push(livestore_tests::events::chain(1, 1)).await });
    let url = database.url("postgres");
    let is_told = async || check(&url, &[]).await.1.contains("a transaction of sidecar (process");
    eventually("the transaction is told", is_told).await;
    pushed.await.unwrap().unwrap();
}

/// Before, a third of five seconds was for all the round trips that a connection takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_far_away_is_reached_although_its_url_names_several_hosts() {
    let database = Database::new().await;
    let far = Breaker::to(database.cluster().port()).await;
    far.slow(Duration::from_millis(75));
    let url = database.url_at_any("sidecar", &[far.port(); 3]);
    finds(&url, &[], "ok", "may push").await;
}
