//! What `livestore-sidecar shards` changes at a front that is there: its functions, and the address of a shard.

use std::process::Stdio;
use std::time::Duration;

use livestore_tests::client::Node;
use livestore_tests::events::{chain, numbers};
use livestore_tests::flavour::Flavour;
use livestore_tests::sidecar::Start;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use crate::shards::{Setup, all, batch, run, stores_of};

async fn made() -> Setup {
    let setup = Setup::new().await;
    let (code, text) = run(&setup.init());
    assert_eq!(code, 0, "{text}");
    setup
}

fn upgrade(setup: &Setup) -> (i32, String) {
    run(&["upgrade", "--front", &setup.cluster.url("postgres", &setup.front)].map(String::from))
}

fn set_address(setup: &Setup, shard: &str, url: &str) -> (i32, String) {
    let front = setup.cluster.url("postgres", &setup.front);
    run(&["set-address", "--front", &front, "--shard", &format!("{shard}={url}")].map(String::from))
}

/// Each function of the front, with its owner and rights.
async fn functions(front: &Client) -> Vec<String> {
    all(
        front,
        "select concat_ws(' ', p.oid::regprocedure, md5(pg_get_functiondef(p.oid)), p.proowner::regrole,
             (select array_agg(a::text order by a::text) from unnest(p.proacl) a), obj_description(p.oid))
         from pg_proc p where p.pronamespace = 'livestore'::regnamespace order by 1",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_replaces_the_functions_and_keeps_rights() {
    let setup = made().await;
    let front = setup.at_front("postgres").await;
    let store = stores_of(&front, 1).await.remove(0);
    batch(&front, &format!("select livestore.commit('{store}', 'e')")).await;
    batch(&front, "grant execute on function livestore._route(text) to reader").await;
    let expected = functions(&front).await;
    batch(
        &front,
        "create or replace function livestore.head(store_id text) returns bigint language sql as 'select 99::bigint';
         comment on function livestore.head(text) is 'older';
         drop function livestore._routes(text[]), livestore._shard_version(integer)",
    )
    .await;
    for _ in 0..2 {
        let (code, text) = upgrade(&setup);
        assert!(code == 0 && text.contains(env!("CARGO_PKG_VERSION")), "{text}");
        assert_eq!(functions(&front).await, expected);
    }
    assert_eq!(all(&front, &format!("select livestore.head('{store}')")).await, ["1"]);
    assert_eq!(setup.status("reader").0, 0);
    // The commands for other databases leave it alone.
    for arguments in
        [&["install"][..], &["install", "--flavour", "portable"], &["upgrade"], &["uninstall", "--drop-data"]]
    {
        let mut command = Start::program();
        command.args(arguments).env("DATABASE_URL", setup.cluster.url("postgres", &setup.front));
        let output = tokio::task::block_in_place(|| command.output()).unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.code() == Some(4) && told.contains("livestore-sidecar shards upgrade"),
            "{arguments:?}: {told}"
        );
        assert!(!told.contains("Drop them") && told.contains("Nothing was changed"), "{arguments:?}: {told}");
    }
    // Nor do those that look at one database, and a sidecar without --shards.
    for arguments in [&["check"][..], &["stores"], &["events", "s"], &["subscriptions"], &["export", "s"], &["import"]]
    {
        let mut command = Start::program();
        command.args(arguments).env("DATABASE_URL", setup.cluster.url("sidecar", &setup.front));
        command.env("LIVESTORE_LISTEN", "127.0.0.1:0").stdin(Stdio::null());
        let output = tokio::task::block_in_place(|| command.output()).unwrap();
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!output.status.success() && told.contains("with --shards"), "{arguments:?}: {told}");
        assert!(!told.contains("create extension"), "{arguments:?}: {told}");
    }
    let mut sidecar = Start::new(setup.cluster.url("sidecar", &setup.front)).command();
    let output = tokio::task::block_in_place(|| sidecar.output()).unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(4) && told.contains("with --shards"), "{told}");
    let error = front.batch_execute(Flavour::Portable.install()).await.expect_err("a front");
    let hint = error.as_db_error().and_then(|error| error.hint()).unwrap_or_default();
    assert!(hint.contains("livestore-sidecar shards upgrade") && !hint.contains("Drop"), "{error:?}");
    front.batch_execute("rollback").await.unwrap();
    assert_eq!(functions(&front).await, expected);
    let elsewhere = run(&["upgrade", "--front", &setup.one.url("postgres")].map(String::from));
    assert!(elsewhere.0 == 4 && elsewhere.1.contains("no front's"), "{elsewhere:?}");
    setup.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_is_given_another_address_while_clients_push() {
    let setup = made().await;
    let postgres = setup.cluster.connect("postgres", "postgres").await;
    let store = stores_of(&setup.one.admin().await, 1).await.remove(0);
    let sidecar = Start::new(setup.cluster.url("sidecar", &setup.front)).arguments(&["--shards"]).ready().await;
    let node = Node::sync_backend();
    let client = node.open("cf-ws", &sidecar.url(), &store).await;
    let mut live = client.live(None).await;
    client.push(chain(0, 1)).await.unwrap();

    let (old, new) = (setup.two.name().to_owned(), format!("{}_moved", setup.two.name()));
    let rename = format!(
        "alter database {old} allow_connections false;
         select pg_terminate_backend(a.pid, 5000) from pg_stat_activity a where a.datname = '{old}';
         alter database {old} rename to {new};
         alter database {new} allow_connections true"
    );
    for statement in rename.split(';') {
        batch(&postgres, statement).await;
    }
    let pushing = tokio::spawn({
        let client = client.clone();
        async move { client.push(chain(1, 1)).await }
    });
    let front = setup.at_front("postgres").await;
    let head = format!("select livestore.head('{store}')");
    let error = front.query(&head, &[]).await.expect_err("the shard is elsewhere");
    assert_eq!(error.code().map(|code| code.code()), Some("08006"), "{error:?}");
    sleep(Duration::from_millis(300)).await;
    assert!(!pushing.is_finished());

    let (code, text) = set_address(&setup, "two", &setup.cluster.url("postgres", &new));
    assert!(code == 0 && text.contains(&new), "{text}");
    timeout(Duration::from_secs(20), pushing).await.expect("an answer in time").unwrap().unwrap();
    assert_eq!(numbers(&live.events(2).await), [1, 2]);
    assert_eq!(all(&front, &head).await, ["2"]);
    let (code, text) = setup.status("reader");
    assert!(code == 0 && text.contains(&new) && text.matches(" ok").count() == 2, "{text}");
    let (code, text) = set_address(&setup, "two", &setup.cluster.url("postgres", &new));
    assert!(code == 0 && text.contains("Nothing to do"), "{text}");
    // The front does not wait for hours for a machine that is gone.
    let patient = "select o from pg_foreign_server f, unnest(f.srvoptions) o
         where o !~ ' keepalives_idle=15 keepalives_interval=5 tcp_user_timeout=30000$'";
    assert_eq!(all(&front, patient).await, [""; 0]);
    drop(sidecar);
    setup.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_shard_itself_is_given_another_address() {
    let setup = made().await;
    let front = setup.at_front("postgres").await;
    let map = "select m::text from livestore.shard_map() m";
    let before = all(&front, map).await;
    let other = setup.cluster.database().await;
    let copy = format!("{}_copy", setup.one.name());
    let postgres = setup.cluster.connect("postgres", "postgres").await;
    batch(&postgres, &format!("create database {copy} template {}", setup.one.name())).await;
    for (shard, url, reason) in [
        ("two", setup.one.url("postgres"), "the address of the shard one"),
        ("two", other.url("postgres"), "is not the shard two"),
        ("two", setup.cluster.url("postgres", &copy), "is not the shard two"),
        ("three", setup.two.url("postgres"), "the front has no shard three"),
        ("two", setup.cluster.url("postgres", "missing"), "does not exist"),
        ("two", setup.cluster.url("reader", &setup.front), "does not have livestore_sync"),
    ] {
        let (code, text) = set_address(&setup, shard, &url);
        assert!(code != 0 && text.contains(reason), "{shard} {url}: {code} {text}");
        assert_eq!(all(&front, map).await, before);
    }
    // As after a restore.
    let restored = setup.cluster.url("postgres", &copy);
    batch(&setup.cluster.connect("postgres", &copy).await, "select livestore.renew_backend_ids()").await;
    let (code, text) = set_address(&setup, "one", &restored);
    assert_eq!(code, 0, "{text}");
    let (url, one, two) = (
        setup.cluster.url("postgres", &setup.front),
        format!("one={restored}"),
        format!("two={}", setup.two.url("postgres")),
    );
    let moves =
        |from: &str| run(&["move", "--front", &url, "--from", from, "--to", &two, "--slot", "0"].map(String::from));
    // The shard as it was before has the same number.
    let (code, text) = moves(&format!("one={}", setup.one.url("postgres")));
    assert!(code == 4 && text.contains("--from: the database of this URL is not the shard one"), "{code} {text}");
    let (code, text) = moves(&one);
    assert!(code == 0 && text.contains("give different backend ids to new stores"), "{text}");
    setup.stop();
}
