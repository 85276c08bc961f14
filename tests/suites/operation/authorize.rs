//! The operator's word on every dialect: hooks that know who pushes, and `--authorize-function`.

use std::time::Duration;

use livestore_tests::breaker::Breaker;
use livestore_tests::client::{Client, Node};
use livestore_tests::cluster::Database;
use livestore_tests::dialects::Caller;
use livestore_tests::events::{chain, event, numbers, up_to};
use livestore_tests::eventually;
use livestore_tests::http_rpc::{ping, post, pull, push, send};
use livestore_tests::rpc::Rpc;
use livestore_tests::shape;
use livestore_tests::sidecar::{Sidecar, Start};
use serde_json::{Value, json};
use tokio::time::timeout;

/// `app.may_sync`: everybody reads `public`, ann reads and writes everything, and eve is told why not.
const MAY_SYNC: &str = "
    create schema app;
    create table app.asked (n bigint generated always as identity, store text, action text, payload text, headers text);
    create function app.may_sync(store_id text, action text, payload json, headers json) returns boolean
    language plpgsql security definer set search_path = pg_catalog, app, pg_temp as $$
    begin
        insert into asked (store, action, payload, headers) values (store_id, action, payload::text, headers::text);
        if payload->>'user' = 'eve' then
            raise exception 'eve, % is not yours', store_id;
        end if;
        return payload->>'user' = 'ann' or headers->>'x-user' = 'ann' or (store_id = 'public' and action <> 'push');
    end $$;
    grant usage on schema app to sidecar";

async fn setup(sql: &str, arguments: &[&str]) -> (Database, Sidecar) {
    let database = Database::new().await;
    database.admin().await.batch_execute(sql).await.unwrap();
    let arguments =
        [&["--authorize-function", "app.may_sync", "--forward-headers", "X-User,cookie"], arguments].concat();
    let sidecar = Start::new(database.url("sidecar")).arguments(&arguments).ready().await;
    (database, sidecar)
}

async fn open(dialect: &str, sidecar: &Sidecar, store: &str, payload: Value) -> Client {
    let node = if dialect == "cf-0.3" { Node::sync_backend_0_3() } else { Node::sync_backend() };
    node.open_with(dialect, &sidecar.url(), store, json!({"payload": payload})).await
}

const DIALECTS: [&str; 3] = ["cf-ws", "cf-http", "cf-0.3"];

/// Everything that a client's error says.
fn text(error: &Value) -> String {
    error.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_write_writes_and_who_may_read_reads() {
    let (database, sidecar) = setup(MAY_SYNC, &[]).await;
    let mut head = 0;
    for dialect in DIALECTS {
        let ann = open(dialect, &sidecar, "public", json!({"user": "ann"})).await;
        ann.push(chain(head, 1)).await.unwrap();
        head += 1;
        let bob = open(dialect, &sidecar, "public", json!({"user": "bob"})).await;
        assert_eq!(numbers(&bob.pull(None).await.unwrap()), up_to(head), "{dialect}");
        let refused = bob.push(chain(head, 1)).await.unwrap_err();
        assert!(text(&refused).contains("not allowed to push to this store"), "{dialect}: {refused}");
    }
    let asked =
        "select string_agg(distinct action, ' ' order by action) from app.asked where payload = '{\"user\":\"bob\"}'";
    let asked: String = database.admin().await.query_one(asked, &[]).await.unwrap().get(0);
    assert_eq!(asked, "connect pull push");
    let written: i64 = database.admin().await.query_one("select livestore.head('public')", &[]).await.unwrap().get(0);
    assert_eq!(written, head);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_words_of_the_function_reach_the_client() {
    let (_database, sidecar) = setup(MAY_SYNC, &[]).await;
    let eve = open("cf-http", &sidecar, "public", json!({"user": "eve"})).await;
    for error in [eve.pull(None).await.unwrap_err(), eve.push(chain(0, 1)).await.unwrap_err()] {
        assert_eq!(error["_tag"], "UnknownError");
        assert!(text(&error).contains("eve, public is not yours"), "{error}");
    }
    let payload = "%257B%2522user%2522%253A%2522eve%2522%257D";
    for path in ["/?transport=ws&storeId=public", "/websocket?storeId=public"] {
        let refused =
            Rpc::connect_with(&format!("{}{path}&payload={payload}", sidecar.url()), &[]).await.err().unwrap();
        assert_eq!((refused.0, refused.1.trim()), (400, "eve, public is not yours"));
    }
    let refused = send(post(&sidecar, "private", ping("private"))).await;
    assert_eq!(refused.status, 400, "said to whoever looks at the status");
    assert_eq!(refused.exit()["cause"]["error"]["note"], "not allowed to connect to this store");
    let status =
        reqwest::get(format!("{}/?transport=http&storeId=private", sidecar.http_url())).await.unwrap().status();
    assert_eq!(status, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_may_have_a_payload_of_its_own_and_is_asked_about_that() {
    let (_database, sidecar) = setup(MAY_SYNC, &[]).await;
    let mut rpc = Rpc::open(&sidecar.url(), "public").await;
    for (n, user, tag) in [(1, "ann", "Success"), (2, "bob", "Failure"), (3, "eve", "Failure")] {
        let payload = json!({"storeId": "public", "payload": {"user": user}, "batch": chain(0, 1), "backendId": {"_tag": "None"}});
        rpc.request(json!(n), "SyncWsRpc.Push", payload).await;
        let exit = rpc.exit(&json!(n)).await;
        assert_eq!(exit["_tag"], tag, "{exit}");
    }
    for (n, user, tag) in [(4, "bob", "Success"), (5, "eve", "Failure")] {
        let payload =
            json!({"storeId": "public", "payload": {"user": user}, "live": false, "cursor": {"_tag": "None"}});
        rpc.request(json!(n), "SyncWsRpc.Pull", payload).await;
        assert_eq!(rpc.exit(&json!(n)).await["_tag"], tag);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_another_payload_than_its_connection_is_asked_whether_it_may_connect() {
    let on_connect = "create schema app;
        create function app.may_sync(store_id text, action text, payload json) returns boolean
            language sql as $$ select action <> 'connect' or payload->>'token' = 'good' $$;
        grant usage on schema app to sidecar";
    let (_database, sidecar) = setup(on_connect, &[]).await;
    let url = format!("{}/?transport=ws&storeId=s&payload=%257B%2522token%2522%253A%2522good%2522%257D", sidecar.url());
    let mut rpc = Rpc::connect_with(&url, &[]).await.unwrap();
    for (n, payload, tag) in [
        (0, json!(null), "Success"),
        (1, json!({"token": "good"}), "Success"),
        (2, json!({"user": "admin"}), "Failure"),
    ] {
        let push = json!({"storeId": "s", "payload": payload, "batch": chain(n, 1), "backendId": {"_tag": "None"}});
        rpc.request(json!(n), "SyncWsRpc.Push", push).await;
        assert_eq!(rpc.exit(&json!(n)).await["_tag"], tag, "{payload}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_every_origin_bring_no_cookies() {
    let cookie = "create schema app;
        create function app.may_sync(store_id text, action text, payload json, headers json) returns boolean
            language sql as $$ select headers->>'cookie' = 'session=ann' $$;
        grant usage on schema app to sidecar";
    for (arguments, foreign) in [
        (&["--cors-origins", "*"][..], false),
        (&["--insecure-no-auth"], false),
        (&["--cors-origins", "https://app.example"], true),
    ] {
        let (_database, sidecar) = setup(cookie, arguments).await;
        let from = async |origin: Option<&str>| {
            let headers: Vec<_> =
                origin.map(|origin| ("origin", origin)).into_iter().chain([("cookie", "session=ann")]).collect();
            let url = format!("{}/?transport=ws&storeId=s", sidecar.url());
            let over_ws = Rpc::connect_with(&url, &headers).await.is_ok();
            let mut request = post(&sidecar, "s", pull("s", None));
            for (name, value) in &headers {
                request = request.header(*name, *value);
            }
            let response = request.send().await.unwrap();
            assert_eq!(response.status() == 200, over_ws);
            over_ws
        };
        assert!(!from(None).await, "no page at all");
        assert_eq!(from(Some("https://app.example")).await, foreign, "{arguments:?}");
        assert!(!from(Some("https://evil.example")).await, "{arguments:?}");
        // A GET or HEAD of a page beside us has no Origin; browsers send Sec-Fetch-Site with it.
        for (site, is_ours) in [("same-origin", foreign), ("same-site", false), ("cross-site", false), ("none", false)]
        {
            let headers = vec![("cookie", "session=ann".to_string()), ("sec-fetch-site", site.into())];
            let answer = Caller { headers, ..Caller::new(&sidecar, "s") }.read("electric").await;
            assert_eq!(answer.status == 200, is_ours, "{arguments:?} {site}: {answer:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_headers_that_the_operator_names_are_forwarded() {
    let (database, sidecar) = setup(MAY_SYNC, &[]).await;
    let request = post(&sidecar, "s", push("s", chain(0, 1)));
    let request = request
        .header("X-USER", "ann")
        .header("origin", "http://localhost")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("authorization", "secret");
    assert_eq!(send(request).await.exit()["_tag"], "Success");
    let url = format!("{}/?transport=ws&storeId=s", sidecar.url());
    let mut rpc = Rpc::connect_with(&url, &[("x-user", "ann"), ("origin", "http://localhost")]).await.unwrap();
    rpc.push(json!("1"), "s", chain(1, 1)).await;
    assert_eq!(rpc.exit(&json!("1")).await["_tag"], "Success");
    let asked = "select action || ' ' || headers from app.asked order by n";
    let rows = database.admin().await.query(asked, &[]).await.unwrap();
    let asked: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let (http, ws) = (r#"{"cookie":"a=1; b=2","x-user":"ann"}"#, r#"{"x-user":"ann"}"#);
    let expected = [format!("connect {http}"), format!("push {http}"), format!("connect {ws}"), format!("push {ws}")];
    assert_eq!(asked, expected);
    assert!(!sidecar.log().contains("a=1"), "what may be a secret is not logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_know_the_context_on_every_dialect() {
    let database = Database::new().await;
    let admin = database.admin().await;
    admin
        .batch_execute(
            "create table public.seen (seq_num bigint, payload json, headers json, context json);
             grant insert on public.seen to livestore_hooks;
             create function public.witness() returns trigger language plpgsql as $$
             begin
                 insert into public.seen values (new.\"seqNum\", livestore.current_payload(), livestore.current_headers(), livestore.current_context());
                 return null;
             end $$;
             create trigger witness after insert on livestore.eventlog_1 for each row execute function public.witness()",
        )
        .await
        .unwrap();
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--forward-headers", "host"]).ready().await;
    for (head, dialect) in (0..).zip(DIALECTS) {
        let client = open(dialect, &sidecar, "s", json!({"authToken": dialect, "n": [1.0, null]})).await;
        client.push(chain(head, 1)).await.unwrap();
        let sql = "select payload::text, headers->>'host', context->>'dialect', context->>'subject'
                   from public.seen order by seq_num desc limit 1";
        let row = admin.query_one(sql, &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), format!(r#"{{"authToken":"{dialect}","n":[1,null]}}"#));
        assert_eq!(row.get::<_, String>(1), format!("127.0.0.1:{}", sidecar.port()));
        assert_eq!(row.get::<_, String>(2), dialect);
        assert_eq!(row.get::<_, Option<String>>(3), None, "nobody has said who they are");
    }
}

/// Its client sends the payload with pulls only.
#[tokio::test(flavor = "multi_thread")]
async fn sync_electric_is_asked_about_like_the_others() {
    let (database, sidecar) = setup(MAY_SYNC, &[]).await;
    let ann = shape::push(&sidecar, "public", chain(0, 2)).header("x-user", "ann");
    assert_eq!(shape::Answer::to(ann).await.status, 200);
    let bob = open("electric", &sidecar, "public", json!({"user": "bob"})).await;
    assert_eq!(numbers(&bob.pull(None).await.unwrap()), up_to(2));
    let refused = bob.push(chain(2, 1)).await.unwrap_err();
    assert!(text(&refused).contains("403"), "{refused}");
    let refused = shape::Answer::to(shape::push(&sidecar, "public", chain(2, 1))).await;
    assert_eq!((refused.status, &refused.json()["message"]), (403, &json!("not allowed to push to this store")));
    let eve = open("electric", &sidecar, "public", json!({"user": "eve"})).await;
    for error in [eve.pull(None).await.unwrap_err(), eve.live(None).await.next().await] {
        assert!(text(&error).contains("403") && text(&error).contains("eve, public is not yours"), "{error}");
    }
    let asked =
        "select string_agg(action || coalesce(' ' || payload, '') || coalesce(' ' || headers, ''), ', ' order by n)
                 from (select * from app.asked order by n limit 4) first";
    let asked: String = database.admin().await.query_one(asked, &[]).await.unwrap().get(0);
    let (ann, bob) = (r#"{"x-user":"ann"}"#, r#"{"user":"bob"}"#);
    assert_eq!(asked, format!("connect {ann}, push {ann}, connect {bob}, pull {bob}"));
    let written: i64 = database.admin().await.query_one("select livestore.head('public')", &[]).await.unwrap().get(0);
    assert_eq!(written, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_pull_hears_nothing_live_either() {
    let may_write_only = "create schema app;
        create function app.may_sync(store_id text, action text, payload json) returns boolean
            language sql as $$ select action <> 'pull' or payload->>'user' = 'ann' $$;
        grant usage on schema app to sidecar";
    let (_database, sidecar) = setup(may_write_only, &[]).await;
    let ann = open("cf-ws", &sidecar, "s", json!({"user": "ann"})).await;
    let mut heard = ann.live(None).await;
    heard.page().await;
    let refused = "not allowed to pull from this store";
    for dialect in DIALECTS {
        let blind = open(dialect, &sidecar, "s", json!({"user": "blind"})).await;
        let end = blind.live(None).await.next().await;
        assert!(end["event"] == "fail" && text(&end).contains(refused), "{dialect}: {end}");
    }
    // Connections of 0.3 hear of pushes without a pull: one that only listens, and one that pushes.
    let connect = || async { Rpc::connect(&format!("{}/websocket?storeId=s", sidecar.url())).await };
    let (mut silent, mut writer) = (connect().await, connect().await);
    tokio::time::sleep(Duration::from_millis(500)).await;
    writer.send(json!({"_tag": "WSMessage.PushReq", "requestId": "p", "batch": chain(0, 1)})).await;
    assert_eq!(writer.frame().await, json!({"_tag": "WSMessage.PushAck", "requestId": "p"}));
    assert_eq!(numbers(&heard.events(1).await), [1]);
    ann.push(chain(1, 1)).await.unwrap();
    assert_eq!(numbers(&heard.events(1).await), [2]);
    for rpc in [&mut silent, &mut writer] {
        assert!(rpc.is_quiet_for(Duration::from_millis(500)).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_that_do_not_wait_for_each_other_keep_their_order() {
    let (_database, sidecar) = setup(MAY_SYNC, &[]).await;
    let url = format!("{}/?transport=ws&storeId=s", sidecar.url());
    let mut rpc = Rpc::connect_with(&url, &[("x-user", "ann")]).await.unwrap();
    rpc.pull(json!("live"), "s", true).await;
    for n in 0..200 {
        rpc.push(json!(n.to_string()), "s", chain(n, 1)).await;
    }
    let mut exits = 0;
    while exits < 200 {
        let frame = rpc.frame().await;
        if frame["_tag"] == "Exit" {
            assert_eq!(frame["exit"]["_tag"], "Success", "{frame}");
            exits += 1;
        } else {
            rpc.send(json!({"_tag": "Ack", "requestId": "live"})).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_may_take_less_and_other_types() {
    for arguments in
        ["text, text", "varchar, app.action, jsonb", "text, text, text, jsonb", "text, text, json, text, jsonb"]
    {
        let (_, sidecar) = setup(
            &format!(
                "create schema app;
                 create type app.action as enum ('connect', 'pull', 'push');
                 create function app.may_sync({arguments}) returns boolean language sql as 'select $2::text <> ''push''';
                 grant usage on schema app to sidecar"
            ),
            &[],
        )
        .await;
        assert_eq!(send(post(&sidecar, "s", pull("s", None))).await.exit()["_tag"], "Success", "{arguments}");
        assert_eq!(send(post(&sidecar, "s", push("s", chain(0, 1)))).await.exit()["_tag"], "Failure", "{arguments}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_fails_or_says_nothing_lets_nobody_in() {
    for (body, why) in [("select 1 / 0 = 0", "SQLSTATE 22012"), ("select null::boolean", "not allowed")] {
        let (_, sidecar) = setup(
            &format!(
                "create schema app;
                 create function app.may_sync(text, text, json, json) returns boolean language sql as '{body}';
                 grant usage on schema app to sidecar"
            ),
            &[],
        )
        .await;
        let answer = send(post(&sidecar, "s", pull("s", None))).await;
        assert!(answer.exit()["cause"].to_string().contains(why), "{answer:?}");
        assert_eq!(answer.status, 400);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_is_replaced_is_found_again() {
    let (database, sidecar) = setup(MAY_SYNC, &[]).await;
    let admin = database.admin().await;
    let ask = || tokio::spawn(send(post(&sidecar, "public", pull("public", None))));
    assert_eq!(ask().await.unwrap().exit()["_tag"], "Success");
    admin.batch_execute("drop function app.may_sync").await.unwrap();
    // In the middle of a migration, say. A client that was told no would stop for good.
    let waiting = ask();
    eventually("it is not ready", || async { sidecar.get("/readyz").await.0 == 503 }).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    let replacement = "create function app.may_sync(text, text) returns boolean language sql as 'select true'";
    admin.batch_execute(replacement).await.unwrap();
    assert_eq!(waiting.await.unwrap().exit()["_tag"], "Success");
    assert_eq!(sidecar.get("/readyz").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_waits_for_nobody_and_a_websocket_is_told_to_come_back() {
    let database = Database::new().await;
    database.admin().await.batch_execute(MAY_SYNC).await.unwrap();
    let breaker = Breaker::to(database.cluster().port()).await;
    let arguments = ["--authorize-function", "app.may_sync"];
    let sidecar = Start::new(database.url_at("sidecar", breaker.port())).arguments(&arguments).ready().await;
    let start = |body| tokio::spawn(send(post(&sidecar, "public", body)));
    let first = start(pull("public", None)).await.unwrap();
    let id = first.frames[0]["values"][0]["backendId"].as_str().unwrap();
    breaker.cut();
    let (ping, known, first) =
        (start(ping("public")), start(pull("public", Some((id, 0)))), start(pull("public", None)));
    // Less than the 10 s after which a client counts as offline.
    let pong = tokio::time::timeout(Duration::from_secs(9), ping).await.unwrap().unwrap();
    assert_eq!(pong.exit()["_tag"], "Success");
    assert_eq!(known.await.unwrap().exit()["_tag"], "Success");
    let url = format!("{}/?storeId=public&transport=ws", sidecar.url());
    assert_eq!(Rpc::connect_with(&url, &[]).await.err().unwrap().0, 503);
    assert!(!first.is_finished());
    breaker.mend();
    assert_eq!(first.await.unwrap().exit()["_tag"], "Success");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_cannot_be_asked_ends_the_sidecar_with_4() {
    let database = Database::new().await;
    database
        .admin()
        .await
        .batch_execute(
            "create schema app; create schema closed; grant usage on schema app to sidecar;
             create function app.wrong(text, text) returns text language sql as 'select ''yes''';
             create function app.long(text, text, json, json, json, json) returns boolean language sql as 'select true';
             create function app.many(text, text) returns boolean language sql as 'select true';
             create function app.many(text, text, json) returns boolean language sql as 'select true';
             create function app.secret(text, text) returns boolean language sql as 'select true';
             revoke execute on function app.secret from public;
             create function closed.may_sync(text, text) returns boolean language sql as 'select true'",
        )
        .await
        .unwrap();
    for (function, why) in [
        ("app.missing", "no such function"),
        ("app.wrong", "returns boolean"),
        ("app.long", "returns boolean"),
        ("app.many", "more than one"),
        ("app.secret", "may not execute"),
        ("closed.may_sync", "permission denied"),
        ("app; drop table livestore.stores", "invalid name syntax"),
    ] {
        let start = Start::new(database.url("sidecar")).arguments(&["--authorize-function", function]);
        let output = start.command().output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{function}: {log}");
        assert!(log.contains(why) && log.contains("grant usage"), "{function}: {log}");
    }
    // By its arguments, if there are several of the name.
    let arguments = ["--authorize-function", "app.many(text, text)"];
    let sidecar = Start::new(database.url("sidecar")).arguments(&arguments).ready().await;
    let batch = json!([event(0, "e", json!({}))]);
    assert_eq!(send(post(&sidecar, "s", push("s", batch))).await.exit()["_tag"], "Success");
}

/// Connections whose other end has stopped, as with a server that hangs, are given up; Postgres itself ends what takes too long.
#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_in_the_database_is_asked_again_elsewhere() {
    let database = Database::alone().await;
    let admin = database.admin().await;
    let function = "create function limited(store_id text, action text) returns boolean
        begin atomic select current_setting('statement_timeout') = '30s'; end";
    admin.batch_execute(function).await.unwrap();
    let arguments = ["--authorize-function", "public.limited"];
    let sidecar = Start::new(database.url("sidecar")).arguments(&arguments).ready().await;
    let mut rpc = Rpc::open(&sidecar.url(), "s").await;
    rpc.pull(json!("before"), "s", false).await;
    assert_eq!(rpc.exit(&json!("before")).await["_tag"], "Success");

    let stopped = database.stopped("true").await;
    rpc.pull(json!("meanwhile"), "s", false).await;
    let answer = timeout(Duration::from_secs(100), rpc.exit(&json!("meanwhile"))).await;
    drop(stopped);
    assert_eq!(answer.expect("an answer")["_tag"], "Success");
}

/// A migration that locks what the function reads would otherwise take every sidecar out of the balancer at once.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_wait_for_the_function_do_not_make_the_sidecar_unready() {
    let may = "create schema app; create table app.members (store_id text primary key);
        insert into app.members values ('s');
        create function app.may_sync(store_id text, action text) returns boolean
            language sql stable security definer set search_path = pg_catalog, pg_temp
            as $$ select exists (select from app.members m where m.store_id = $1) $$;
        grant usage on schema app to sidecar";
    let (database, sidecar) = setup(may, &[]).await;
    let migration = database.admin().await;
    migration.batch_execute("begin; lock table app.members in access exclusive mode").await.unwrap();
    let get = |path: &'static str| {
        let url = format!("{}{path}", sidecar.http_url());
        tokio::spawn(async move { reqwest::get(url).await.unwrap().status().as_u16() })
    };
    let waiting: Vec<_> = (0..30).map(|_| get("/v1/shape?table=eventlog_6_x&store_id=s&offset=-1")).collect();
    eventually("the pool is taken", || async { sidecar.metric("livestore_database_pool_waiting").await >= 20.0 }).await;
    for path in ["/readyz", "/v1/health"] {
        let status = timeout(Duration::from_secs(4), get(path)).await.expect("an answer").unwrap();
        assert_eq!(status, 200, "{path}");
    }
    migration.batch_execute("commit").await.unwrap();
    for answer in waiting {
        assert_eq!(answer.await.unwrap(), 200);
    }
}
