//! The calls of `--authorize-function`: for a pull one call whether the client may connect and one whether it may pull, on every
//! dialect. Nothing is read when it refuses.

use livestore_tests::cluster::Database;
use livestore_tests::dialects::{Answer, Caller, DIALECTS, WRITERS};
use livestore_tests::events::{chain, event};
use livestore_tests::relay::{self, EPOCH, Peer};
use livestore_tests::sidecar::{Sidecar, Start};
use serde_json::json;
use tokio_postgres::Client;

/// `app.may_sync` notes what it is asked, and refuses what is in `app.refused`: an action, of one store or of all.
const MAY_SYNC: &str = "
    create schema app;
    create table app.asked (n bigint generated always as identity, store text, action text);
    create table app.refused (store text, action text);
    create function app.may_sync(store_id text, action text) returns boolean
    language plpgsql security definer set search_path = pg_catalog, app, pg_temp as $$
    begin
        insert into asked (store, action) values ($1, $2);
        return not exists (select from refused r where r.action = $2 and coalesce(r.store, $1) = $1);
    end $$;
    grant usage on schema app to sidecar";

const SECRET: &str = "only for those who may read";

async fn setup(arguments: &[&str]) -> (Database, Client, Sidecar) {
    let database = Database::new().await;
    let admin = database.admin().await;
    admin.batch_execute(MAY_SYNC).await.unwrap();
    for store in ["s", "a-b", "a_b"] {
        let batch = json!([event(0, SECRET, json!({"of": store})), event(1, SECRET, json!({}))]);
        admin.execute("select livestore.push($1, $2)", &[&store, &batch]).await.unwrap();
    }
    let arguments = [&["--authorize-function", "app.may_sync"], arguments].concat();
    let sidecar = Start::new(database.url("sidecar")).arguments(&arguments).ready().await;
    (database, admin, sidecar)
}

/// The calls of the function since the last time.
async fn asked(admin: &Client) -> String {
    let asked = "select coalesce(string_agg(action || ' ' || store, ', ' order by n), '') from app.asked";
    let asked = admin.query_one(asked, &[]).await.unwrap().get(0);
    admin.batch_execute("truncate app.asked").await.unwrap();
    asked
}

async fn refuse(admin: &Client, store: Option<&str>, action: &str) {
    admin.batch_execute("truncate app.refused").await.unwrap();
    admin.execute("insert into app.refused values ($1, $2)", &[&store, &action]).await.unwrap();
}

/// Reads the store `s`; `live`: by a request that goes on.
async fn read(admin: &Client, sidecar: &Sidecar, dialect: &str, live: bool) -> Answer {
    let caller = Caller::new(sidecar, "s");
    if !live {
        return caller.read(dialect).await;
    }
    let backend_id: String = admin.query_one("select livestore.backend_id('s')", &[]).await.unwrap().get(0);
    match dialect {
        "cf-ws" | "cf-0.3" => match caller.follow(dialect).await {
            Ok(_) => Answer { status: 101, text: SECRET.into() },
            Err(refused) => refused,
        },
        _ => caller.wait(dialect, ("0_0", &backend_id)).await,
    }
}

/// Those whose live requests end, or can be left.
const LIVE: [&str; 5] = ["cf-ws", "cf-0.3", "electric", "electric-shape", "s2"];

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_is_asked_about_once_on_every_dialect() {
    let (_database, admin, sidecar) = setup(&[]).await;
    for (dialect, live) in DIALECTS.map(|dialect| (dialect, false)).into_iter().chain(LIVE.map(|live| (live, true))) {
        let answer = read(&admin, &sidecar, dialect, live).await;
        assert!(answer.text.contains(SECRET), "{dialect}: {answer:?}");
        assert_eq!(asked(&admin).await, "connect s, pull s", "{dialect}, live: {live}");
    }
    for (head, dialect) in (2..).zip(WRITERS) {
        Caller::new(&sidecar, "s").write(dialect, chain(head, 1)).await;
        let asked = asked(&admin).await;
        // A connection of sync-cf 0.3 hears of pushes without asking for them.
        let (_, after) = asked.split_once("connect s").unwrap();
        let mut after: Vec<_> = after.split(", ").filter(|asked| !asked.is_empty()).collect();
        after.sort_unstable();
        let expected: &[&str] = if dialect == "cf-0.3" { &["pull s", "push s"] } else { &["push s"] };
        assert_eq!(after, expected, "{dialect}");
    }
    let written: i64 = admin.query_one("select livestore.head('s')", &[]).await.unwrap().get(0);
    assert_eq!(written, 2 + WRITERS.len() as i64);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_read_without_permission() {
    let (_database, admin, sidecar) = setup(&[]).await;
    for action in ["connect", "pull"] {
        refuse(&admin, None, action).await;
        for dialect in DIALECTS {
            let answer = read(&admin, &sidecar, dialect, false).await;
            assert!(!answer.text.contains(SECRET) && !answer.text.contains("clientId"), "{dialect}: {answer:?}");
            assert!(answer.text.contains(&format!("not allowed to {action}")), "{dialect}: {answer:?}");
        }
        for dialect in ["electric", "electric-shape", "electric-shape (SSE)", "s2", "s2-rest"] {
            let answer = read(&admin, &sidecar, dialect, true).await;
            assert!(!answer.text.contains(SECRET), "{dialect}, live: {answer:?}");
            assert!(answer.text.contains(&format!("not allowed to {action}")), "{dialect}, live: {answer:?}");
        }
        let (status, text) = sidecar.get("/v1/streams/s/records/tail").await;
        assert!(status == 403 && !text.contains("seq_num"), "{text}");
    }
    // A client that may only push is answered, and sees nothing.
    for (head, dialect) in (2..).zip(WRITERS) {
        let answer = Caller::new(&sidecar, "s").write(dialect, chain(head, 1)).await;
        assert!(!answer.text.contains(SECRET), "{dialect}: {answer:?}");
    }
    let written: i64 = admin.query_one("select livestore.head('s')", &[]).await.unwrap().get(0);
    assert_eq!(written, 2 + WRITERS.len() as i64);
}

/// `a-b` and `a_b` are the same table to Electric's clients.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_to_find_a_store_is_not_asked_again() {
    let (_database, admin, sidecar) = setup(&[]).await;
    for (refused, action, expected) in [
        ("a-b", "connect", "connect a-b, connect a_b, pull a_b"),
        ("a_b", "pull", "connect a-b, connect a_b, pull a-b, pull a_b"),
    ] {
        refuse(&admin, Some(refused), action).await;
        let answer = Caller::new(&sidecar, "a_b").read("electric-shape").await;
        assert!(answer.text.contains(SECRET) && !answer.text.contains(&format!("\\\"{refused}\\\"")), "{answer:?}");
        let asked = asked(&admin).await;
        let mut asked: Vec<_> = asked.split(", ").collect();
        asked.sort_unstable();
        assert_eq!(asked.join(", "), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_of_the_relay_are_asked_about_as_others() {
    let (_database, admin, sidecar) = setup(&["--relay-store", "relayed"]).await;
    let mut device = Peer::join(&relay::url(&sidecar), "one").await;
    assert_eq!(asked(&admin).await, "connect relayed, pull relayed", "it pulls when it joins");
    device.push(relay::events("one", [1])).await;
    device.next_of("ack").await;
    assert_eq!(asked(&admin).await, "connect relayed, push relayed");
    device.pull(EPOCH).await;
    let response = device.next_of("pull_response").await;
    assert_eq!(response["payload"]["events"].as_array().unwrap().len(), 1);
    assert_eq!(asked(&admin).await, "connect relayed, pull relayed");
    for action in ["connect", "pull"] {
        refuse(&admin, None, action).await;
        device.pull(EPOCH).await;
        let refused = device.next_of("error").await.to_string();
        assert!(refused.contains(&format!("not allowed to {action}")), "{refused}");
    }
}
