//! The shape API by hand. Its clients are in `electric_shape.rs`.

use std::time::{Duration, Instant};

use livestore_tests::breaker::Breaker;
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event, up_to};
use livestore_tests::eventually;
use livestore_tests::shape::{Answer, get, shape};
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::tokens::{SECRET, Signer, WITH_SECRET, now};
use reqwest::Method;
use serde_json::{Value, json};

const TABLE: &str = "\"eventlog_6_todo_app\"";

async fn push(database: &Database, store: &str, batch: Value) {
    database.admin().await.execute("select livestore.push($1, $2)", &[&store, &batch]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_say_to_caches_how_long_they_last() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    push(&database, "todo-app", chain(0, 2500)).await;
    const A_MINUTE: &str = "public, max-age=60";

    let first = shape(&sidecar, TABLE, &[("offset", "-1")]).await;
    assert_eq!((first.status, first.offset(), first.header("cache-control")), (200, "1000_0", Some(A_MINUTE)));
    assert_eq!((first.numbers(), first.controls()), (up_to(1000), vec![]), "never up to date");
    assert_eq!((first.header("electric-up-to-date"), first.header("electric-has-data")), (None, Some("true")));
    push(&database, "small", chain(0, 1)).await;
    let whole = shape(&sidecar, "eventlog_6_small", &[("offset", "-1")]).await;
    assert_eq!((whole.numbers(), whole.controls()), (vec![1], vec![]), "not even if it is all there is");
    let handle = first.handle().to_string();
    let at = async |offset: &str, further: &[(&str, &str)]| {
        shape(&sidecar, TABLE, &[&[("offset", offset), ("handle", &handle)], further].concat()).await
    };

    // Before the first event any handle is right, so that another log may follow one day.
    let from_0 = at("0_1", &[]).await;
    assert_eq!(from_0.header("cache-control"), Some(A_MINUTE));

    let second = at("1000_0", &[]).await;
    assert_eq!((second.offset(), second.header("cache-control")), ("2000_0", Some(A_MINUTE)), "it will never change");
    let schema = json!({
        "seqNum": {"type": "int8", "pk_index": 0, "not_null": true}, "parentSeqNum": {"type": "int8", "not_null": true},
        "name": {"type": "text", "not_null": true}, "args": {"type": "json"},
        "clientId": {"type": "text", "not_null": true}, "sessionId": {"type": "text", "not_null": true},
    });
    let told: Value = serde_json::from_str(second.header("electric-schema").unwrap()).unwrap();
    assert_eq!(told, schema);
    let order: Vec<_> =
        ["seqNum", "parentSeqNum", "name", "args", "clientId", "sessionId"].map(|name| second.text.find(name)).into();
    assert!(order.is_sorted(), "{order:?}");
    let key = "\"public\".\"eventlog_6_todo_app\"/\"1001\"";
    assert_eq!(second.json()[0]["key"], key);
    let headers = json!({"operation": "insert", "relation": ["public", "eventlog_6_todo_app"], "lsn": "1001", "op_position": 0, "last": true});
    assert_eq!(second.json()[0]["headers"], headers);

    let third = at("2000_0", &[]).await;
    assert_eq!((third.offset(), &*third.controls()), ("2500_0", &["up-to-date".to_string()][..]));
    assert_eq!(third.header("cache-control"), Some(A_MINUTE));
    assert_eq!(third.header("electric-up-to-date"), Some(""));
    assert_eq!(third.json()[500], json!({"headers": {"control": "up-to-date", "global_last_seen_lsn": "2500"}}));

    // A cache need not get again the pages that it has.
    for (answer, offset) in [(&first, "-1"), (&second, "1000_0"), (&third, "2000_0")] {
        let request = get(&sidecar, &[("table", TABLE), ("offset", offset), ("handle", &handle)]);
        let tag = answer.header("etag").unwrap();
        for tags in [tag.to_string(), format!("\"other\", W/{tag}")] {
            let again = Answer::to(request.try_clone().unwrap().header("if-none-match", tags)).await;
            assert_eq!((again.status, &*again.text, again.header("etag")), (304, "", Some(tag)));
            assert_eq!((again.offset(), again.handle()), (answer.offset(), &*handle));
        }
        assert_eq!(Answer::to(request.header("if-none-match", "\"other\"")).await.status, 200);
    }

    // Nothing new is not to be kept, and live requests at the same time are one.
    push(&database, "todo-app", chain(2500, 1)).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let cursors: Vec<u64> = {
        let live = at("2500_0", &[("live", "true"), ("cursor", "0")]).await;
        assert_eq!((live.numbers(), live.header("electric-schema")), (vec![2501], None));
        assert_eq!(live.header("cache-control"), Some("public, max-age=5, stale-while-revalidate=5"));
        let cursor = live.header("electric-cursor").unwrap().to_string();
        let again = at("2500_0", &[("live", "true"), ("cursor", &cursor)]).await;
        [&live, &again].map(|answer| answer.header("electric-cursor").unwrap().parse().unwrap()).into()
    };
    assert!(cursors[0].is_multiple_of(20) && cursors[1] > cursors[0], "{cursors:?}");
    let since = now - 1_728_432_000;
    assert!((since..since + 40).contains(&cursors[0]), "{cursors:?}");
    let ends = [at("2501_0", &[]).await, at("2501_0", &[]).await];
    assert_ne!(ends[0].header("etag"), ends[1].header("etag"));
    // LiveStore's own requests do not differ from poll to poll.
    let of_livestore = at("2501_0", &[("live", "true")]).await;
    assert_eq!(of_livestore.header("cache-control"), Some("no-store"));

    // With an authorize function, a page that one client may see must not be cached for others.
    database.everywhere("create function may(text, text) returns boolean language sql as 'select $2 <> ''pull'' or $1 = ''todo-app'''").await;
    let guarded = Start::new(database.url("sidecar")).arguments(&["--authorize-function", "public.may"]).ready().await;
    let private = shape(&guarded, TABLE, &[("offset", "-1")]).await;
    assert_eq!(private.header("cache-control"), Some("private, no-cache"));
    let refused = shape(&guarded, "eventlog_6_other", &[("offset", "-1")]).await;
    assert_eq!((refused.status, refused.header("cache-control")), (403, Some("no-store")));
    assert_eq!(refused.json()["message"], "not allowed to pull from this store");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_request_waits_for_20_seconds_or_for_an_event() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    push(&database, "todo-app", chain(0, 1)).await;
    let first = shape(&sidecar, TABLE, &[("offset", "-1")]).await;
    let live = [("offset", "1_0"), ("handle", first.handle()), ("live", "true"), ("cursor", "1")];
    let since = Instant::now();
    let idle = shape(&sidecar, TABLE, &live).await;
    assert!((19..30).contains(&since.elapsed().as_secs()), "{:?}", since.elapsed());
    assert_eq!((idle.status, idle.numbers(), idle.controls()), (200, vec![], vec!["up-to-date".into()]));
    let waiting = shape(&sidecar, TABLE, &live);
    let pushing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        push(&database, "todo-app", chain(1, 1)).await;
        Instant::now()
    };
    let (news, since) = tokio::join!(waiting, pushing);
    assert!(since.elapsed() < Duration::from_secs(10));
    assert_eq!((news.numbers(), news.offset()), (vec![2], "2_0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_request_for_a_table_of_others_is_refused_at_once_whether_there_is_one_or_not() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&WITH_SECRET).ready().await;
    push(&database, "theirs", chain(0, 1)).await;
    push(&database, "my_own", chain(0, 1)).await;
    let allowed = json!({"mine": "read", "our-*": "read"});
    let token = Signer::secret(SECRET).sign(&json!({"sub": "ann", "exp": now() + 3600, "livestore": allowed}));
    let live = |table: &str| {
        let params = [("table", table), ("offset", "0_1"), ("handle", "x"), ("live", "true"), ("cursor", "1")];
        Answer::to(get(&sidecar, &params).bearer_auth(&token))
    };
    for table in ["eventlog_6_theirs", "eventlog_6_nothing", "eventlog_6_my_own"] {
        let since = Instant::now();
        let refused = live(table).await;
        assert_eq!((refused.status, &refused.json()["message"]), (403, &json!("not allowed to connect to this store")));
        assert!(since.elapsed() < Duration::from_secs(10), "{table}: {:?}", since.elapsed());
    }
    // It waits for those that it may use.
    let pushing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        for store in ["mine", "our-todos"] {
            push(&database, store, chain(0, 1)).await;
        }
    };
    let (mine, ours, ()) = tokio::join!(live("eventlog_6_mine"), live("eventlog_6_our_todos"), pushing);
    for answer in [mine, ours] {
        assert_eq!((answer.status, answer.numbers()), (200, vec![1]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_stream_has_every_event_once_and_ends_for_who_must_begin_anew() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    push(&database, "todo-app", chain(0, 2)).await;
    let first = shape(&sidecar, TABLE, &[("offset", "-1")]).await;
    let handle = first.handle().to_string();
    let stream = |offset: &str| {
        let params =
            [("table", TABLE), ("offset", offset), ("handle", &handle), ("live", "true"), ("live_sse", "true")];
        get(&sidecar, &params).header("accept", "text/event-stream").header("accept-encoding", "gzip").send()
    };
    let mut response = stream("1_0").await.unwrap();
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_string());
    assert_eq!(header("content-type").as_deref(), Some("text/event-stream"));
    assert_eq!(header("cache-control").as_deref(), Some("public, max-age=59"));
    assert_eq!((header("x-accel-buffering").as_deref(), header("content-encoding")), (Some("no"), None));
    assert!(header("electric-cursor").is_some() && header("electric-handle").as_deref() == Some(&*handle));
    push(&database, "todo-app", chain(2, 1)).await;
    let mut text = String::new();
    while text.matches("up-to-date").count() < 2 {
        text.push_str(std::str::from_utf8(&response.chunk().await.unwrap().expect("more")).unwrap());
    }
    let data: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|json| serde_json::from_str(json).unwrap())
        .collect();
    let what: Vec<_> = data
        .iter()
        .map(|message| {
            message["value"]["seqNum"].as_str().or(message["headers"]["global_last_seen_lsn"].as_str()).unwrap()
        })
        .collect();
    assert_eq!(what, ["2", "2", "3", "3"], "rows, each with the up-to-date behind it: {text}");
    assert!(text.starts_with(": keep-alive"), "{text}");

    database.admin().await.execute("select livestore.reset_store('todo-app')", &[]).await.unwrap();
    while response.chunk().await.unwrap().is_some() {}
    let refused = Answer::to(get(
        &sidecar,
        &[("table", TABLE), ("offset", "3_0"), ("handle", &handle), ("live", "true"), ("live_sse", "true")],
    ))
    .await;
    let must_refetch = json!([{"headers": {"control": "must-refetch"}}]);
    assert_eq!(
        (refused.status, refused.json(), refused.header("cache-control")),
        (409, must_refetch, Some("no-store"))
    );
    let id: String =
        database.admin().await.query_one("select livestore.backend_id('todo-app')", &[]).await.unwrap().get(0);
    assert_eq!(refused.handle(), id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_a_store_in_each_of_its_names() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    for (store, count) in [("a-b", 1), ("own", 2), ("pooled", 3)] {
        push(&database, store, chain(0, count)).await;
    }
    admin.execute("select livestore.create_store('own', own_table => true)", &[]).await.unwrap();
    let id: i64 =
        admin.query_one("select id from livestore.stores where store_id = 'pooled'", &[]).await.unwrap().get(0);
    let condition = format!("store = {id}");
    let number = id.to_string();
    let offset = ("offset", "-1");
    for (table, further, events) in [
        ("eventlog_6_a_b", vec![], 1),
        ("\"public\".\"eventlog_7_a_b\"", vec![], 1),
        ("livestore.eventlog_1_own", vec![], 2),
        ("livestore.eventlog_1", vec![("where", &*condition)], 3),
        ("livestore.eventlog_1", vec![("where", "\"store\" = $1"), ("params[1]", &*number)], 3),
        ("eventlog_6_a_b", vec![("store_id", "pooled")], 3),
        ("eventlog_6_nothing", vec![], 0),
    ] {
        let answer = shape(&sidecar, table, &[&[offset][..], &further].concat()).await;
        assert_eq!((answer.status, answer.numbers()), (200, up_to(events)), "{table} {further:?}");
    }
    push(&database, "a_b", chain(0, 5)).await;
    eventually("two stores have the name", || async {
        shape(&sidecar, "eventlog_6_a_b", &[offset]).await.status == 422
    })
    .await;
    let told = shape(&sidecar, "eventlog_6_a_b", &[offset, ("store_id", "a_b")]).await;
    assert_eq!(told.numbers(), up_to(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_long_names_makes_no_large_answer() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    push(&database, "todos", chain(0, 1000)).await;
    let table = format!("\"{}\".\"eventlog_6_todos\"", "\u{1}".repeat(20_000));
    let answer = shape(&sidecar, &table, &[("offset", "-1")]).await;
    assert_eq!((answer.status, answer.numbers()), (200, up_to(1000)));
    assert!(answer.text.len() < 2_000_000, "{} bytes", answer.text.len());
    // As long as a store id can be, and longer.
    let mine = "x".repeat(1024);
    push(&database, &mine, chain(0, 1)).await;
    let by_id = shape(&sidecar, &format!("eventlog_6_{mine}"), &[("offset", "-1")]).await;
    assert_eq!((by_id.status, by_id.numbers()), (200, vec![1]));
    let longer = format!("eventlog_6_x{mine}");
    for params in [&[("offset", "-1")][..], &[("offset", "0_0"), ("handle", by_id.handle()), ("live", "true")]] {
        let refused = shape(&sidecar, &longer, params).await;
        assert_eq!(refused.status, 400, "{params:?}");
        assert_eq!(refused.json()["message"], "storeId is longer than 1024 characters", "{params:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_log_cannot_honour_is_refused_with_the_reason() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--electric-secret", "se&cret"]).ready().await;
    let secret = ("secret", "se&cret");
    let offset = ("offset", "-1");
    let table = ("table", TABLE);
    for (params, param) in [
        (vec![offset], "table"),
        (vec![offset, ("table", "todos")], "table"),
        (vec![table], "offset"),
        (vec![table, ("offset", "x")], "offset"),
        (vec![table, ("offset", "5_0")], "handle"),
        (vec![table, offset, ("live", "true")], "live"),
        (vec![table, ("offset", "now"), ("live", "true")], "live"),
        (vec![table, offset, ("live", "yes")], "live"),
        (vec![table, offset, ("live_sse", "true")], "live_sse"),
        (vec![table, offset, ("where", "name = 'e'")], "where"),
        (vec![offset, ("table", "livestore.eventlog_1")], "where"),
        (vec![table, offset, ("columns", "name")], "columns"),
        (vec![table, offset, ("columns", "seqNum,nothing")], "columns"),
        (vec![table, offset, ("replica", "half")], "replica"),
        (vec![table, offset, ("log", "half")], "log"),
        (vec![table, offset, ("subset__limit", "5")], "subset"),
    ] {
        let answer = Answer::to(get(&sidecar, &[&params[..], &[secret]].concat())).await;
        assert_eq!((answer.status, answer.header("cache-control")), (400, Some("no-store")), "{params:?}");
        let errors = &answer.json()["errors"];
        let reason = errors[param][0].as_str();
        assert!(reason.is_some_and(|reason| !reason.is_empty()), "{params:?}: {errors}");
        assert_eq!(errors.as_object().unwrap().len(), 1, "{params:?}: {errors}");
    }
    for wrong in [vec![], vec![("secret", "other")], vec![("api_secret", "")], vec![("Secret", "se&cret")]] {
        let answer = Answer::to(get(&sidecar, &[&[table, offset][..], &wrong].concat())).await;
        assert_eq!(answer.status, 401, "{wrong:?}");
        assert_eq!(answer.json(), json!({"message": "Unauthorized - Invalid API secret"}));
    }
    for right in [("secret", "se&cret"), ("api_secret", "se&cret"), ("source_secret", "se&cret")] {
        assert_eq!(Answer::to(get(&sidecar, &[table, offset, right])).await.status, 200);
    }
    let delete = reqwest::Client::new().request(Method::DELETE, format!("{}/v1/shape", sidecar.http_url()));
    assert_eq!(Answer::to(delete).await.status, 405);
    let health = reqwest::Client::new().get(format!("{}/v1/health", sidecar.http_url()));
    let health = Answer::to(health).await;
    assert_eq!((health.status, health.json()), (200, json!({"status": "active"})));
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_read_the_headers_and_no_more_than_they_may() {
    let database = Database::new().await;
    let sidecar =
        Start::new(database.url("sidecar")).arguments(&["--cors-origins", "https://app.example"]).ready().await;
    let request = |origin: &str| get(&sidecar, &[("table", TABLE), ("offset", "-1")]).header("origin", origin);
    let answer = Answer::to(request("https://app.example")).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("https://app.example")));
    let exposed = answer.header("access-control-expose-headers").unwrap();
    for name in ["handle", "offset", "schema", "cursor", "up-to-date", "has-data"] {
        assert!(exposed.contains(&format!("electric-{name}")), "{exposed}");
    }
    assert_eq!(Answer::to(request("https://evil.example")).await.status, 403);
    let off = Start::new(database.url("sidecar")).arguments(&["--dialects", "cf-ws"]).ready().await;
    assert_eq!(shape(&off, TABLE, &[("offset", "-1")]).await.status, 404);
    let api = reqwest::Client::new().head(format!("{}/api/electric", off.http_url()));
    assert_eq!(Answer::to(api).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_requests_wait() {
    let database = Database::new().await;
    let postgres = Breaker::to(database.cluster().port()).await;
    let sidecar = Start::new(database.url_at("sidecar", postgres.port())).ready().await;
    push(&database, "todo-app", chain(0, 2)).await;
    let handle = shape(&sidecar, TABLE, &[("offset", "-1")]).await.handle().to_string();
    tokio::time::sleep(Duration::from_secs(11)).await;
    postgres.cut();
    let health = Answer::to(reqwest::Client::new().get(format!("{}/v1/health", sidecar.http_url()))).await;
    assert_eq!((health.status, health.json()), (202, json!({"status": "waiting"})));
    let send =
        |params: &[(&str, &str)]| tokio::spawn(Answer::to(get(&sidecar, &[&[("table", TABLE)], params].concat())));
    let at = [("offset", "2_0"), ("handle", &*handle)];
    let known = [
        send(&at),
        send(&[&at[..], &[("live", "true")]].concat()),
        send(&[&at[..], &[("live", "true"), ("cursor", "5")]].concat()),
    ];
    let stream = send(&[&at[..], &[("live", "true"), ("live_sse", "true")]].concat());
    let first = send(&[("offset", "-1")]);
    for (known, controls) in known.into_iter().zip([vec![], vec!["up-to-date"], vec!["up-to-date"]]) {
        let answer = known.await.unwrap();
        let controls: Vec<String> = controls.into_iter().map(Into::into).collect();
        assert_eq!((answer.status, answer.numbers(), &answer.controls()), (200, vec![], &controls));
        if controls.is_empty() {
            assert_eq!(answer.header("cache-control"), Some("no-store"), "it says nothing of the log");
        }
    }
    let stream = stream.await.unwrap();
    assert_eq!((stream.status, stream.header("cache-control")), (200, Some("no-store")));
    assert!(!first.is_finished());
    postgres.mend();
    assert_eq!(first.await.unwrap().numbers(), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_a_megabyte_is_a_page_of_its_own() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let blobs: Value = (0..5).map(|parent| event(parent, "e", json!("x".repeat(1 << 20)))).collect();
    push(&database, "todo-app", blobs).await;
    let mut position = ("-1".to_string(), String::new());
    for number in 1..=5 {
        let answer = shape(&sidecar, TABLE, &[("offset", &position.0), ("handle", &position.1)]).await;
        assert_eq!(answer.numbers(), [number]);
        position = (answer.offset().into(), answer.handle().into());
    }
}
