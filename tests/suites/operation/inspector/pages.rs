//! Pages of stores and events.

use livestore_tests::cluster::Database;
use livestore_tests::rpc::Rpc;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::sse::Messages;
use reqwest::header::LOCATION;
use serde_json::json;

use super::{Visitor, head};

/// Everything that a client can write is shown as text.
#[tokio::test(flavor = "multi_thread")]
async fn what_clients_send_is_escaped() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let evil = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'";
    let event = json!([{"name": evil, "args": {evil: evil}, "seqNum": 1, "parentSeqNum": 0, "clientId": evil, "sessionId": evil}]);
    let admin = database.admin().await;
    admin.execute("select livestore.push($1, $2::text::json)", &[&evil, &event.to_string()]).await.unwrap();
    let visitor = Visitor::of(&sidecar);
    let id = "%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E%3Cimg%20src%3Dx%20onerror%3Dalert(2)%3E'";
    // A client that is refused, and one that follows.
    let url = format!("{}/?storeId={id}&transport=ws", sidecar.url());
    let mut follower = Rpc::connect_with(&url, &[("user-agent", evil)]).await.unwrap();
    follower.pull(json!("1"), evil, true).await;
    follower.frame().await;
    for path in [
        "/inspector/stores".to_owned(),
        "/inspector/stores?recent=1".into(),
        format!("/inspector/stores?prefix={id}"),
        format!("/inspector/store?id={id}&name={id}&client={id}"),
        format!("/inspector/rows?id={id}"),
        format!("/inspector/event?id={id}&number=1"),
        format!("/inspector/confirm?action=reset&id={id}"),
        format!("/inspector/store?id=no{id}"),
    ] {
        let (status, text) = visitor.get(&path).await;
        assert!([200, 404].contains(&status), "{path}: {status}");
        assert!(
            text.contains("&lt;script&gt;") && !text.contains("<script>") && !text.contains("<img"),
            "{path}: {text}"
        );
    }
    for path in [
        "/inspector/store?id=",
        "/inspector/store?id=a%00",
        "/inspector/store?id=s&since=soon",
        "/inspector/event?id=s&number=x",
    ] {
        let (status, text) = visitor.get(path).await;
        assert!(status == 400, "{path}: {status} {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_are_listed_by_pages_and_found_by_the_beginnings_of_their_ids() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    admin
        .batch_execute(
            "select livestore.create_store(format('user-%s', lpad(g::text, 4, '0'))) from generate_series(1, 250) g;
             select livestore.create_store(s) from unnest(array['user_x', 'user:1', 'user 2', 'Üser', '100%', '100x']) s;
             select livestore.commit('user-0007', 'e')",
        )
        .await
        .unwrap();
    let visitor = Visitor::of(&sidecar);
    let list = async |first: &str| {
        let (mut all, mut path) = (Vec::new(), Some(first.to_owned()));
        while let Some(next) = path.take() {
            let (status, text) = visitor.get(&next).await;
            assert_eq!(status, 200, "{next}: {text}");
            all.extend(text.split("<td><a href=\"/inspector/store?id=").skip(1).map(|cell| {
                cell.split("<code>").nth(1).and_then(|cell| cell.split("</code>").next()).unwrap().to_owned()
            }));
            path = text
                .split("<a rel=\"next\" href=\"")
                .nth(1)
                .map(|link| link.split('"').next().unwrap().replace("&amp;", "&"));
        }
        all
    };
    let all = list("/inspector/stores").await;
    assert_eq!((all.len(), all[0].as_str(), all[255].as_str()), (256, "100x", "user-0001"));
    let users = list("/inspector/stores?prefix=user-").await;
    assert_eq!((users.len(), users[0].as_str(), users[249].as_str()), (250, "user-0001", "user-0250"));
    assert_eq!(list("/inspector/stores?prefix=user%3A").await, ["user:1"]);
    assert_eq!(list("/inspector/stores?prefix=%C3%9C").await, ["Üser"]);
    assert_eq!(list("/inspector/stores?prefix=100%25").await, ["100%"]);
    assert_eq!(list("/inspector/stores?prefix=nothing").await, [""; 0]);
    assert_eq!(list("/inspector/stores?recent=1").await, ["user-0007"]);
}

/// Pages of events, and filters.
#[tokio::test(flavor = "multi_thread")]
async fn events_are_listed_by_pages_and_filters() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    admin
        .batch_execute(
            "select livestore.push('todos', (select json_agg(json_build_object('name', case when g % 50 = 0 then 'rare' else 'usual' end,
                 'seqNum', g, 'parentSeqNum', g - 1, 'clientId', 'c' || g % 3, 'sessionId', 's', 'args', json_build_object('n', g)) order by g)
             from generate_series(1, 1000) g))",
        )
        .await
        .unwrap();
    let visitor = Visitor::of(&sidecar);
    let numbers = async |query: &str| -> Vec<i64> {
        let (status, text) = visitor.get(&format!("/inspector/rows?id=todos{query}")).await;
        assert_eq!(status, 200, "{text}");
        text.split("data-seq=\"").skip(1).map(|row| row.split('"').next().unwrap().parse().unwrap()).collect()
    };
    assert_eq!(numbers("").await, (801..=1000).rev().collect::<Vec<_>>());
    assert_eq!(numbers("&before=801").await, (601..=800).rev().collect::<Vec<_>>());
    assert_eq!(numbers("&after=0").await, (1..=200).rev().collect::<Vec<_>>());
    assert_eq!(numbers("&at=3").await, [3, 2, 1]);
    assert_eq!(numbers("&name=rare&before=200").await, [150, 100, 50]);
    assert_eq!(numbers("&name=rare&client=c0&since=2020-01-01T00:00").await.len(), 6);
    assert_eq!(numbers("&since=2200-01-01T00:00").await, [0; 0]);
    let (_, text) = visitor.get("/inspector/store?id=todos&at=900").await;
    assert!(text.contains("after=900") && text.contains("before=701") && !text.contains("data-follow"));
    let refused =
        visitor.post_from(&visitor.url, "/inspector/commit", &[("store", "todos"), ("name", ""), ("args", "")]).await;
    assert_eq!((refused.status().as_u16(), refused.headers().get(LOCATION)), (400, None));
}

/// Statements of pages whose readers are gone run to their end, one after the other, and clients are served meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn readers_that_leave_keep_no_client_waiting() {
    let database = Database::new().await;
    let admin = database.admin().await;
    admin.batch_execute("select livestore.commit('todos', 'e')").await.unwrap();
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--database-connections", "3"]).ready().await;
    let visitor = Visitor::of(&sidecar);
    let holder = database.admin().await;
    holder.batch_execute("begin; lock table livestore.event_types in access exclusive mode").await.unwrap();
    for _ in 0..30 {
        let page = visitor.get("/inspector/store?id=todos");
        assert!(tokio::time::timeout(std::time::Duration::from_millis(20), page).await.is_err());
    }
    let mut client = Rpc::open(&sidecar.url(), "todos").await;
    client.pull(json!("1"), "todos", false).await;
    let start = std::time::Instant::now();
    assert_eq!(client.frame().await["_tag"], "Chunk");
    assert!(start.elapsed() < std::time::Duration::from_secs(4), "{:?}", start.elapsed());
    let waiting =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    let waiting: i64 = admin.query_one(waiting, &[]).await.unwrap().get(0);
    assert!(waiting <= 2, "{waiting} statements wait");
    holder.batch_execute("rollback").await.unwrap();
    assert_eq!(visitor.get("/inspector/store?id=todos").await.0, 200);
}

/// Without `only`, a page would wait for the dedicated tables of all stores.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_locked_keeps_only_its_own_store_waiting() {
    let database = Database::new().await;
    let events =
        "select livestore.commit('todos', 'e'), livestore.create_store('own', true), livestore.commit('own', 'e')";
    database.admin().await.batch_execute(events).await.unwrap();
    let sidecar = Sidecar::on(&database).await;
    let visitor = Visitor::of(&sidecar);
    let holder = database.admin().await;
    holder.batch_execute("begin; lock table livestore.eventlog_1_own in access exclusive mode").await.unwrap();
    for path in ["store?id=todos", "rows?id=todos&name=rare", "event?id=todos&number=1", "export?id=todos", "stores"] {
        let (status, text) = visitor.get(&format!("/inspector/{path}")).await;
        assert_eq!(status, 200, "{path}: {text}");
    }
    let (status, text) = visitor.get("/inspector/store?id=own").await;
    assert!(status == 503 && text.contains("another transaction holds a table"), "{status} {text}");
    holder.batch_execute("rollback").await.unwrap();
    assert_eq!(visitor.get("/inspector/store?id=own").await.0, 200);
}

/// A page that was away learns that its log is another one now.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_log_that_was_reset_is_told() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    admin.batch_execute("select livestore.commit('a\nb', 'e'), livestore.commit('todos', 'e')").await.unwrap();
    let visitor = Visitor::of(&sidecar);
    let (_, text) = visitor.get("/inspector/store?id=todos").await;
    let follow = text.split("data-follow=\"").nth(1).unwrap().split('"').next().unwrap().replace("&amp;", "&");
    admin.batch_execute("select livestore.reset_store('todos'), livestore.commit('todos', 'f')").await.unwrap();
    // The stream ends with the event that says so.
    let mut answer = visitor.get_with(&follow, &[]).await;
    let mut said = String::new();
    while !said.contains("event: end") {
        let chunk = answer.chunk().await.unwrap().expect("more");
        said.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert!(said.contains("reset or dropped") && !said.contains("event: following"), "{said}");

    // Line breaks in ids survive forms, which browsers send with other ones.
    let (_, text) = visitor.get("/inspector/store?id=a%0Ab").await;
    assert!(text.contains("name=\"store\" value=\"a%0Ab\"") && text.contains("name=\"key\" value=\"a%0Ab\""), "{text}");
    let commit = [("store", "a%0Ab"), ("name", "made"), ("args", "")];
    assert_eq!(visitor.post("/inspector/commit", &commit).await.0, 303);
    assert_eq!(head(&database, "a\nb").await, 2);
    assert_eq!(visitor.get("/inspector/store?key=a%250Ab&name=made").await.0, 200);
}

/// Clients choose the names of events: a page must not grow with them.
#[tokio::test(flavor = "multi_thread")]
async fn long_names_of_clients_make_no_large_pages() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let long = "<".repeat(500_000);
    for parent in 0..4 {
        let event = json!([{"seqNum": parent + 1, "parentSeqNum": parent, "name": long, "args": {}, "clientId": long, "sessionId": long}]);
        admin.execute("select livestore.push('s', $1)", &[&event]).await.unwrap();
    }
    let sidecar = Sidecar::on(&database).await;
    let visitor = Visitor::of(&sidecar);
    for path in ["/inspector/store?id=s", "/inspector/rows?id=s", "/inspector/event?id=s&number=1"] {
        let (status, page) = visitor.get(path).await;
        assert_eq!(status, 200, "{path}: {}", &page[..page.len().min(300)]);
        assert!(page.len() < 100_000, "{path}: {} bytes", page.len());
    }
}

/// A filter is for the whole name, of which a page shows the beginning.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_page_finds_events_by_long_names() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let long = "n".repeat(400);
    let event = |n: i64, end: &str| {
        let name = format!("{long}{end}");
        json!({"seqNum": n, "parentSeqNum": n - 1, "name": name, "args": {}, "clientId": name, "sessionId": "s"})
    };
    let events = json!([event(1, "other"), event(2, "")]);
    database.admin().await.execute("select livestore.push('s', $1)", &[&events]).await.unwrap();
    let visitor = Visitor::of(&sidecar);
    let path = format!("/inspector/follow?id=s&name={long}&client={long}&after=0");
    let mut messages = Messages::of(visitor.client.get(format!("{}{path}", visitor.url))).await;
    let rows = loop {
        let message = messages.next().await.unwrap();
        if message.event == "rows" && message.json()[0] == 2 {
            break message.json()[1].as_str().unwrap().to_owned();
        }
    };
    assert!(rows.contains("data-seq=\"2\"") && !rows.contains("data-seq=\"1\""), "{rows}");
}
