//! `@livestore/sync-electric` 0.4.0 from npm, unmodified, and its endpoint by hand. The behaviour that it shares with other
//! clients is tested in `client.rs` and `shared_store.rs`.

use std::time::{Duration, Instant};

use livestore_tests::breaker::Breaker;
use livestore_tests::client::Node;
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event, numbers, up_to};
use livestore_tests::eventually;
use livestore_tests::shape::{Answer, post, pull, pull_with, push, request};
use livestore_tests::sidecar::{Sidecar, Start};
use reqwest::Method;
use serde_json::{Value, json};

/// A sidecar that logs each request.
async fn talkative(database: &Database) -> Sidecar {
    Start::new(database.url("sidecar")).arguments(&["--log", "info,livestore_sidecar::protocols=debug"]).ready().await
}

/// The number of pulls so far.
fn pulls(sidecar: &Sidecar) -> usize {
    sidecar.log().matches("\"message\":\"pull\"").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_and_resumes_behind_the_page_that_it_read_last() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let client = Node::sync_backend().open("electric", &sidecar.url(), "todos").await;
    client.push(chain(0, 1)).await.unwrap();
    client.push(chain(1, 250)).await.unwrap();
    client.push(chain(1, 250)).await.unwrap();
    assert_eq!(numbers(&client.pull(None).await.unwrap()), up_to(251));
    assert_eq!(numbers(&client.pull(Some(251)).await.unwrap()), [0; 0]);
    client.push(chain(251, 3)).await.unwrap();
    assert_eq!(numbers(&client.pull(Some(251)).await.unwrap()), [252, 253, 254]);
    assert_eq!(numbers(&client.live(Some(251)).await.events(3).await), [252, 253, 254]);

    let rows = "select seq_num, args::text from livestore.events order by seq_num";
    let rows = database.admin().await.query(rows, &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>(), up_to(254));
    assert_eq!(rows[250].get::<_, &str>(1), r#"{"id":251}"#);
}

/// A push of this client does not say which log it is for.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_waits_while_the_store_is_reset_does_not_begin_the_next_log() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin_of("todos").await;
    admin.execute("select livestore.push('todos', $1)", &[&chain(0, 1)]).await.unwrap();
    let node = Node::sync_backend();
    let client = node.open("electric", &sidecar.url(), "todos").await;
    // The sidecar knows the log because somebody follows it.
    let mut live = client.live(None).await;
    assert_eq!(numbers(&live.events(1).await), [1]);
    let streams = || sidecar.metric("livestore_live_streams{dialect=\"electric\"}");
    eventually("the client waits for more", || async { streams().await == 1.0 }).await;
    admin.batch_execute("begin; select from livestore.stores for update").await.unwrap();
    let push = {
        let client = client.clone();
        tokio::spawn(async move { client.push(chain(0, 2)).await })
    };
    eventually("the push waits", || async { sidecar.metric("livestore_held_stores").await == 1.0 }).await;
    admin.batch_execute("select livestore.reset_store('todos'); commit").await.unwrap();
    let refusal = push.await.unwrap().unwrap_err().to_string();
    assert!(refusal.contains("503"), "{refusal}");
    let head = admin.query_one("select livestore.head('todos')", &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!(head, 0);
    // The next one is for the new log.
    eventually("pushes are accepted", || async { client.push(chain(0, 2)).await.is_ok() }).await;
    assert_eq!(numbers(&node.open("electric", &sidecar.url(), "todos").await.pull(None).await.unwrap()), [1, 2]);
}

/// It may wait for more than the database: here for the operator's function.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_waits_to_be_allowed_while_the_store_is_reset_does_not_go_into_the_next_log() {
    let database = Database::new().await;
    database
        .everywhere(
            "create function public.may(store_id text, action text, payload json, headers json, claims json) returns boolean
             language plpgsql as $$ begin if action = 'push' then perform pg_advisory_xact_lock_shared(7); end if; return true; end $$",
        )
        .await;
    let admin = database.admin_of("todos").await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--authorize-function", "public.may"]).ready().await;
    admin.execute("select livestore.push('todos', $1)", &[&chain(0, 1)]).await.unwrap();
    let node = Node::sync_backend();
    let client = node.open("electric", &sidecar.url(), "todos").await;
    let mut live = client.live(None).await;
    assert_eq!(numbers(&live.events(1).await), [1]);
    let streams = || sidecar.metric("livestore_live_streams{dialect=\"electric\"}");
    eventually("the client waits for more", || async { streams().await == 1.0 }).await;
    admin.batch_execute("select pg_advisory_lock(7)").await.unwrap();
    let push = {
        let client = client.clone();
        tokio::spawn(async move { client.push(json!([event(1, "stale", json!({}))])).await })
    };
    let waiting = "select count(*) from pg_locks where locktype = 'advisory' and objid = 7 and not granted
        and database = (select oid from pg_database where datname = current_database())";
    eventually("the push waits", || async { admin.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) >= 1 }).await;
    admin.batch_execute("select livestore.reset_store('todos'), pg_sleep(1)").await.unwrap();
    admin.execute("select livestore.push('todos', $1)", &[&chain(0, 1)]).await.unwrap();
    admin.batch_execute("select pg_advisory_unlock(7)").await.unwrap();
    let refusal = push.await.unwrap().unwrap_err().to_string();
    assert!(refusal.contains("503"), "{refusal}");
    let names = "select string_agg(name, ',') from livestore.events where store_id = 'todos'";
    let names: String = admin.query_one(names, &[]).await.unwrap().get(0);
    assert!(!names.contains("stale"), "{names}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_of_10_000_events_comes_in_bounded_pages() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    for start in (0..10_000).step_by(1000) {
        admin.execute("select livestore.push('long', $1)", &[&chain(start, 1000)]).await.unwrap();
    }
    let blobs: Value = (10_000..10_010).map(|parent| event(parent, "e", json!("x".repeat(400_000)))).collect();
    admin.execute("select livestore.push('long', $1)", &[&blobs]).await.unwrap();
    let client = Node::sync_backend().open("electric", &sidecar.url(), "long").await;
    let pages = client.pages(None).await.unwrap();
    let mut last = 0;
    for page in &pages {
        let events = page["batch"].as_array().unwrap();
        assert!((1..=1000).contains(&events.len()), "{}", events.len());
        assert!(page.to_string().len() < 2_000_000, "{}", page.to_string().len());
        assert_eq!(events[0]["parentSeqNum"], last);
        last = events.last().unwrap()["seqNum"].as_i64().unwrap();
    }
    assert_eq!(last, 10_010);
    let mut live = client.live(None).await;
    assert_eq!(numbers(&live.events(10_010).await), up_to(10_010));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_an_error_and_the_open_pull_brings_what_is_missing() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let node = Node::sync_backend();
    let (a, b) = (node.open("electric", &sidecar.url(), "s").await, node.open("electric", &sidecar.url(), "s").await);
    let mut live = a.live(None).await;
    b.push(chain(0, 7)).await.unwrap();
    let error = a.push(json!([event(3, "other", json!({}))])).await.unwrap_err();
    assert_eq!(error["_tag"], "UnknownError", "the client tries again");
    assert_eq!(numbers(&live.events(7).await), up_to(7));
    a.push(json!([event(7, "other", json!({}))])).await.unwrap();

    let answer = Answer::to(push(&sidecar, "s", json!([event(3, "another", json!({}))]))).await;
    assert_eq!(answer.status, 409);
    let error = json!({"_tag": "ServerAheadError", "minimumExpectedNum": 8, "providedNum": 3});
    let message = "the batch builds on event 3, but the head of the log is 8";
    assert_eq!(answer.json(), json!({"success": false, "message": message, "error": error}));
}

/// LiveStore holds back its own events while a page says that there may be more.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_read_events_is_told_at_once_that_there_are_no_more() {
    let database = Database::new().await;
    let sidecar = talkative(&database).await;
    let client = Node::sync_backend().open("electric", &sidecar.url(), "s").await;
    let mut live = client.live(None).await;
    assert!(live.page().await.is_empty());
    for head in 0..3 {
        client.push(chain(head, 1)).await.unwrap();
        let since = Instant::now();
        assert_eq!(numbers(&live.page().await), [head + 1]);
        let told = live.next().await;
        assert_eq!((&told["value"]["batch"], &told["value"]["pageInfo"]["_tag"]), (&json!([]), &json!("NoMore")));
        assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    }
    // The pulls for the first page, the three events and the three empty pages, and the one that waits.
    eventually("the client waits", || async { pulls(&sidecar) == 8 }).await;
    assert!(live.is_quiet_for(Duration::from_secs(2)).await);
    assert_eq!(pulls(&sidecar), 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_exist_is_empty_and_is_waited_for() {
    let database = Database::new().await;
    let sidecar = talkative(&database).await;
    let client = Node::sync_backend().open("electric", &sidecar.url(), "new").await;
    let mut live = client.live(None).await;
    assert!(live.page().await.is_empty());
    assert!(live.is_quiet_for(Duration::from_secs(3)).await);
    assert_eq!(pulls(&sidecar), 2, "one request, and one that waits");
    let stores: i64 =
        database.admin().await.query_one("select count(*) from livestore.stores", &[]).await.unwrap().get(0);
    assert_eq!(stores, 0, "a pull writes nothing");
    database.admin().await.execute("select livestore.commit('new', 'e')", &[]).await.unwrap();
    assert_eq!(numbers(&live.events(1).await), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_reset_or_moved_here_says_so_to_a_cursor_of_before() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let node = Node::sync_backend();
    let client = node.open("electric", &sidecar.url(), "s").await;
    client.push(chain(0, 3)).await.unwrap();
    client.pull(None).await.unwrap();
    let mut live = client.live(Some(3)).await;
    assert!(live.page().await.is_empty());
    database.admin().await.execute("select livestore.reset_store('s')", &[]).await.unwrap();
    let end = live.end().await;
    assert_eq!(end["event"], "fail", "{end}");
    for error in [end["error"].clone(), client.pull(Some(3)).await.unwrap_err()] {
        assert_eq!(error["_tag"], "UnknownError");
        let text = error.to_string();
        assert!(text.contains("410") && text.contains("before it was reset") && text.contains("start anew"), "{text}");
    }
    client.push(chain(0, 1)).await.unwrap();
    assert_eq!(numbers(&client.pull(None).await.unwrap()), [1]);
    for (offset, handle) in [("26799576_0", "2494-84241"), ("1_0", "2494-84241"), ("garbage", "2494-84241")] {
        for live in [true, false] {
            let answer = Answer::to(pull(&sidecar, "s", Some((offset, handle)), live)).await;
            assert_eq!(answer.status, 410, "{offset} of another server");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn args_come_back_as_they_were_sent_and_an_event_without_is_refused() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let client = Node::sync_backend().open("electric", &sidecar.url(), "exact").await;
    let args = [
        json!({"z": 1, "a": {"y": [null, true, 1e300, -0.5], "b": "\u{0}\u{2028}😀\"\\"}}),
        json!(null),
        json!([]),
        json!("text"),
    ];
    let batch: Value = (0..).zip(&args).map(|(parent, args)| event(parent, "na\"me", args.clone())).collect();
    client.push(batch).await.unwrap();
    let mut without = event(4, "none", json!(null));
    without.as_object_mut().unwrap().remove("args");
    client.push(json!([without])).await.unwrap_err();
    let answer = Answer::to(push(&sidecar, "exact", json!([without]))).await;
    assert_eq!(answer.status, 400);
    let message = answer.json()["message"].as_str().unwrap().to_string();
    assert!(message.contains("event 5 has no args") && message.contains("Schema.Struct"), "{message}");
    // Clients of other protocols may.
    let admin = database.admin().await;
    admin.execute("select livestore.push('exact', $1)", &[&json!([without])]).await.unwrap();
    let events = client.pull(None).await.unwrap();
    for (event, sent) in events.iter().zip(&args) {
        assert_eq!((event["args"].to_string(), &event["name"]), (sent.to_string(), &json!("na\"me")));
    }
    assert_eq!(events[4]["args"], json!(null));
    // The JSON text itself, with the order of its keys.
    admin.execute("select livestore.commit('exact', 'e', '{\"z\": 1.0, \"a\": \"\\ud800\"}')", &[]).await.unwrap();
    let answer = Answer::to(pull(&sidecar, "exact", None, false)).await;
    assert_eq!(answer.json()[5]["value"]["args"], "{\"z\": 1.0, \"a\": \"\\ud800\"}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_for_each_request_works_too() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let node = Node::sync_backend();
    let at = |path: &str| format!("{}/api/electric{path}", sidecar.http_url());
    for endpoint in [
        json!({"push": at("/push"), "pull": at("/pull"), "ping": at("/ping")}),
        json!({"push": at(""), "pull": at(""), "ping": at("")}),
    ] {
        let options = json!({"options": {"endpoint": endpoint}});
        let client = node.open_with("electric", &sidecar.url(), "s", options).await;
        client.connect().await;
        let events = client.pull(None).await.unwrap();
        let head = events.len() as i64;
        client.push(chain(head, 2)).await.unwrap();
        assert_eq!(numbers(&client.pull(None).await.unwrap()), up_to(head + 2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_has_the_form_of_electrics() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    admin.execute("select livestore.push('s', $1)", &[&chain(0, 2)]).await.unwrap();
    let id: String = admin.query_one("select livestore.backend_id('s')", &[]).await.unwrap().get(0);
    for live in [true, false] {
        let answer = Answer::to(pull(&sidecar, "s", None, live)).await;
        assert_eq!((answer.status, answer.offset(), answer.handle()), (200, "2_0", &*id));
        assert_eq!(
            (answer.header("content-type"), answer.header("cache-control")),
            (Some("application/json"), Some("no-store"))
        );
        let value = json!({"seqNum": "2", "parentSeqNum": "1", "name": "todoCreated", "args": "{\"id\":2}", "clientId": "client", "sessionId": "session"});
        let headers = json!({"operation": "insert", "relation": ["livestore", "eventlog_1"], "lsn": "2", "op_position": 0, "last": true});
        let row = json!({"key": "\"livestore\".\"eventlog_1\"/\"2\"", "value": value, "headers": headers});
        assert_eq!(answer.json()[1], row);
        assert_eq!(answer.json()[2], json!({"headers": {"control": "up-to-date", "global_last_seen_lsn": "2"}}));
    }
    let empty = Answer::to(pull(&sidecar, "empty", None, true)).await;
    assert_eq!((empty.status, empty.numbers(), empty.controls()), (200, vec![], vec!["up-to-date".into()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_ends_after_20_seconds_with_the_same_position() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin_of("s").await;
    admin.execute("select livestore.push('s', $1)", &[&chain(0, 2)]).await.unwrap();
    let first = Answer::to(pull(&sidecar, "s", None, true)).await;
    let told = Answer::to(pull(&sidecar, "s", Some((first.offset(), first.handle())), true)).await;
    let last_query = "select query_start::text || ' ' || query from pg_stat_activity
                      where datname = current_database() and application_name = 'livestore-sidecar'
                          and query like '%livestore.%' and query not like all ('{%livestore.relay_%,%livestore.heads_key%,%livestore.served_subscriptions%}')
                      order by query_start desc limit 1";
    let asked: String = admin.query_one(last_query, &[]).await.unwrap().get(0);
    let since = Instant::now();
    let waited = Answer::to(pull(&sidecar, "s", Some((told.offset(), told.handle())), true)).await;
    assert!((19..30).contains(&since.elapsed().as_secs()), "{:?}", since.elapsed());
    assert_eq!((waited.status, waited.numbers(), waited.controls()), (200, vec![], vec!["up-to-date".into()]));
    assert_eq!((waited.offset(), waited.handle()), (told.offset(), told.handle()));
    Answer::to(pull(&sidecar, "s", Some((first.offset(), first.handle())), true)).await;
    assert_eq!(admin.query_one(last_query, &[]).await.unwrap().get::<_, String>(0), asked, "nobody asks the database");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_get_an_error_and_change_nothing() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--max-frame-bytes", "1000"]).ready().await;
    let tagged =
        |tag: &str| json!({"_tag": tag, "storeId": "s", "handle": {"_tag": "None"}, "live": true, "batch": []});
    for args in [
        String::new(),
        "{}".into(),
        "[1".into(),
        tagged("@livestore/sync-electric.Push").to_string(),
        tagged("@livestore/sync-electric.Pull").to_string().replace("\"s\"", "\"\""),
        tagged("@livestore/sync-electric.Pull").to_string().replace("None", "Some"),
        tagged("@livestore/sync-electric.Pull").to_string().replace("true", "1"),
    ] {
        let answer = Answer::to(pull_with(&sidecar, &args)).await;
        assert_eq!(answer.status, 422, "400 would make the client spin: {args}");
        assert!(!answer.json()["message"].as_str().unwrap().is_empty());
    }
    let none = Answer::to(request(&sidecar, Method::GET)).await;
    assert_eq!(none.status, 422);
    for (body, status) in [
        (String::new(), 400),
        ("{}".into(), 400),
        (tagged("@livestore/sync-electric.Pull").to_string(), 400),
        (tagged("@livestore/sync-electric.Push").to_string().replace("[]", "[1]"), 400),
        (tagged("@livestore/sync-electric.Push").to_string().replace("\"s\"", "\"\""), 400),
        (
            tagged("@livestore/sync-electric.Push").to_string().replace("\"s\"", &format!("\"{}\"", "s".repeat(1000))),
            413,
        ),
        (tagged("@livestore/sync-electric.Push").to_string(), 200),
    ] {
        let answer = Answer::to(post(&sidecar, &body)).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.text);
        assert_eq!(answer.json()["success"], status == 200);
    }
    let broken = json!([event(0, "e", json!({})), event(5, "e", json!({}))]);
    let answer = Answer::to(push(&sidecar, "s", broken)).await;
    assert_eq!((answer.status, &answer.json()["error"]["_tag"]), (400, &json!("InvalidPushError")));
    assert_eq!(Answer::to(request(&sidecar, Method::DELETE)).await.status, 405);
    let ping = Answer::to(request(&sidecar, Method::HEAD)).await;
    assert_eq!((ping.status, &*ping.text), (200, ""));
    let stores: i64 =
        database.admin().await.query_one("select count(*) from livestore.stores", &[]).await.unwrap().get(0);
    assert_eq!(stores, 0);
}

/// The client gives up syncing at the first pull that fails, and its pings at the first that fails.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_nothing_fails_that_can_wait() {
    let database = Database::new().await;
    let postgres = Breaker::to(database.cluster().port()).await;
    let sidecar =
        Start::new(database.url_at("sidecar", postgres.port())).arguments(&["--push-timeout", "1s"]).ready().await;
    database.admin().await.execute("select livestore.push('s', $1)", &[&chain(0, 2)]).await.unwrap();
    let first = Answer::to(pull(&sidecar, "s", None, true)).await;
    let handle = first.handle().to_string();
    postgres.cut();
    assert_eq!(Answer::to(request(&sidecar, Method::HEAD)).await.status, 200);
    assert_eq!(Answer::to(push(&sidecar, "s", chain(2, 1))).await.status, 503, "a push is tried again");
    let waiting = |store: &'static str, position: Option<&'static str>, live: bool| {
        let request = pull(&sidecar, store, position.map(|offset| (offset, &*handle)), live);
        tokio::spawn(Answer::to(request))
    };
    let known =
        [waiting("s", Some("2_1"), true), waiting("s", Some("2_0"), false), waiting("other", Some("0_1"), true)];
    let (first_live, first) = (waiting("s", None, true), waiting("s", None, false));
    for known in known {
        let answer = known.await.unwrap();
        assert_eq!((answer.status, answer.numbers()), (200, vec![]), "{}", answer.text);
    }
    assert_eq!(first_live.await.unwrap().status, 400, "the client asks again");
    assert!(!first.is_finished(), "there is nothing else to say");
    postgres.mend();
    assert_eq!(first.await.unwrap().numbers(), [1, 2]);
    let mut live = Node::sync_backend().open("electric", &sidecar.url(), "s").await.live(None).await;
    assert_eq!(numbers(&live.events(2).await), [1, 2]);
}
