//! A LiveStore app in Chromium (`tests/web`: `@livestore/adapter-web` 0.4.0 with `makeWsSync`), used as a person would:
//! text that is typed in one browser appears on the page of another, whatever happens in between.
//!
//! Like the clients on Node, browsers that are online edit one after the other (livestorejs/livestore#1530).

use livestore_tests::breaker::Breaker;
use livestore_tests::browsers::{Browsers, page};
use livestore_tests::cluster::Database;
use livestore_tests::device::Device;
use livestore_tests::eventually;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::tokens::{WITH_SECRET, token};
use serde_json::json;

/// The log of the store in Postgres, which must be a chain: the client of each event, its name and the text of its todo.
async fn log(database: &Database) -> (Vec<String>, Vec<String>) {
    let events = "select seq_num, parent_seq_num, client_id,
            name || ' ' || first_value(args->>'text') over (partition by args->>'id' order by seq_num)
        from livestore.events where store_id = 'todos' order by seq_num";
    let mut head = 0;
    let (mut clients, mut what) = (Vec::new(), Vec::new());
    for row in database.admin().await.query(events, &[]).await.unwrap() {
        assert_eq!(row.get::<_, i64>(1), head);
        head = row.get(0);
        clients.push(row.get(2));
        what.push(row.get(3));
    }
    (clients, what)
}

/// Waits until Postgres has exactly these events.
async fn postgres_has(database: &Database, events: &[&str]) {
    eventually(&format!("Postgres has {events:?}"), || async { log(database).await.1 == events }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_browsers_converge_after_one_was_offline_and_after_reloads_and_restarts() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let port = sidecar.port();
    let (a_network, b_network) = (Breaker::to(port).await, Breaker::to(port).await);
    let browsers = Browsers::new();
    let app = browsers.serve_app().await;
    let (a_page, b_page) = (page(&app, "todos", a_network.port()), page(&app, "todos", b_network.port()));
    let (a, b) = tokio::join!(browsers.open("a", &a_page), browsers.open("b", &b_page));
    tokio::join!(a.says("connected"), b.says("connected"));

    a.add("buy milk").await;
    b.shows(&["buy milk"]).await;
    b.add("bake bread").await;
    a.shows(&["buy milk", "bake bread"]).await;
    a.complete("bake bread").await;
    b.shows(&["buy milk", "✓ bake bread"]).await;

    // The offline mode of DevTools only silences sockets, which LiveStore takes 20 s to notice; the breaker closes them.
    b_network.cut();
    b.call("offline", json!({"offline": true})).await;
    b.says("offline").await;
    b.add("make jam").await;
    b.complete("buy milk").await;
    a.add("drink tea").await;
    a.add("boil rice").await;
    let before = ["todoCreated buy milk", "todoCreated bake bread", "todoCompleted bake bread"];
    let from_a = ["todoCreated drink tea", "todoCreated boil rice"];
    let from_b = ["todoCreated make jam", "todoCompleted buy milk"];
    // By now b's, which are older, would be there too.
    postgres_has(&database, &[&before[..], &from_a].concat()).await;
    assert_eq!(a.todos().await, ["buy milk", "✓ bake bread", "drink tea", "boil rice"]);
    assert_eq!(b.todos().await, ["✓ buy milk", "✓ bake bread", "make jam"]);
    a.says("connected").await;
    b.says("offline").await;

    b_network.mend();
    b.call("offline", json!({"offline": false})).await;
    let all = ["✓ buy milk", "✓ bake bread", "make jam", "drink tea", "boil rice"];
    tokio::join!(a.shows(&all), b.shows(&all), b.says("connected"));
    // b has rebased onto a.
    let merged = [&before[..], &from_a, &from_b].concat();
    postgres_has(&database, &merged).await;
    tokio::join!(a.picture("converged-a"), b.picture("converged-b"));

    tokio::join!(a.reload(), b.reload());
    tokio::join!(a.shows(&all), b.shows(&all));

    // Without a sidecar, it comes from the disk of the browser.
    assert!(sidecar.terminate().await.success());
    a.reload().await;
    a.shows(&all).await;
    a.add("add salt").await;
    let _sidecar = Start::new(database.url("sidecar")).port(port).ready().await;
    let all = [&all[..], &["add salt"]].concat();
    b.shows(&all).await;
    b.add("serve").await;
    let all = [&all[..], &["serve"]].concat();
    tokio::join!(a.shows(&all), b.shows(&all));
    postgres_has(&database, &[&merged[..], &["todoCreated add salt", "todoCreated serve"]].concat()).await;

    let (clients, _) = log(&database).await;
    let (a_id, b_id) = (&clients[0], &clients[1]);
    assert_ne!(a_id, b_id);
    assert_eq!(clients, [a_id, b_id, a_id, a_id, a_id, b_id, b_id, a_id, b_id].map(String::as_str));
    assert_eq!((a.errors().await, b.errors().await), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_and_node_share_a_store() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let browsers = Browsers::new();
    let app = browsers.serve_app().await;
    let browser = browsers.open("web", &page(&app, "todos", sidecar.port())).await;
    let device = Device::open("node", sidecar.port()).await;

    device.create("0").await;
    browser.shows(&["todo 0"]).await;
    browser.complete("todo 0").await;
    browser.add("from the browser").await;
    postgres_has(&database, &["todoCreated todo 0", "todoCompleted todo 0", "todoCreated from the browser"]).await;
    eventually("Node has both", || async {
        let rows = device.node.call("todos", json!({})).await.unwrap();
        rows[0]["completed"] == true && rows[1]["text"] == "from the browser"
    })
    .await;

    let (clients, _) = log(&database).await;
    assert_eq!(clients[0], "node");
    assert!(clients[1] != "node" && clients[1] == clients[2], "{clients:?}");
    assert_eq!(browser.errors().await, [""; 0]);
}

/// The app is on another port of the same host, as `app.example.com` is of the same site as `sync.example.com`.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_syncs_over_http_needs_no_more_than_its_cookie() {
    let (database, browsers) = (Database::new().await, Browsers::new());
    let app = browsers.serve_app().await;
    let allowed = ["--allow", "*=write", "--cors-origins", app.trim_end_matches('/')];
    let arguments = [&WITH_SECRET[..], &allowed].concat();
    let sidecar = Start::new(database.url("sidecar")).arguments(&arguments).ready().await;
    let url = page(&app, "todos", sidecar.port()).replace("sync=ws:", "sync=http:");
    let cookies = json!([{"name": "auth_token", "value": token("ann"), "url": app, "httpOnly": true}]);
    let browser = browsers.open_with_cookies("a", &url, &cookies).await;
    browser.says("connected").await;
    browser.add("buy milk").await;
    postgres_has(&database, &["todoCreated buy milk"]).await;
    let others = r#"select livestore.commit('todos', 'todoCreated', '{"id": "9", "text": "bake bread"}')"#;
    database.admin().await.batch_execute(others).await.unwrap();
    browser.shows(&["buy milk", "bake bread"]).await;
}
