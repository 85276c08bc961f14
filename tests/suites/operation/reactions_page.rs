//! The examples of docs/reactions.md, and the service of docs/hooks.md, run as they stand.

use std::os::unix::fs::symlink;
use std::process::Stdio;

use livestore_tests::client::{Node, newer_node};
use livestore_tests::cluster::Database;
use livestore_tests::events::chain;
use livestore_tests::sidecar::Start;
use livestore_tests::{eventually, free_port, root, watchdog};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::{Child, Command};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn blocks(page: &str, language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(page)).unwrap();
    let fence = format!(
        "```{language}
"
    );
    text.split(&fence).skip(1).map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

/// A program of a page, beside the packages of npm.
struct Service {
    folder: TempDir,
    port: u16,
    _process: Child,
}

impl Service {
    fn start(code: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        symlink(root().join("tests/clients/node_modules"), folder.path().join("node_modules")).unwrap();
        std::fs::write(folder.path().join("service.mts"), code).unwrap();
        let port = free_port();
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let process = Command::new(newer_node())
            .arg("service.mts")
            .current_dir(folder.path())
            .envs([("PORT", &*port.to_string()), ("LIVESTORE_WEBHOOK_SECRET", SECRET)])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        watchdog::watch(process.id().unwrap());
        Self { folder, port, _process: process }
    }

    fn printed(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_read_models_and_the_webhook_of_the_page_on_reactions_work() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let [code] = &blocks("docs/reactions.md", "ts")[..] else { panic!("one receiver") };
    let receiver = Service::start(code);
    let settings = ["--webhook-secret", SECRET, "--webhook-private-addresses"];
    let sidecar = Start::new(database.url("sidecar")).arguments(&settings).ready().await;
    let [model, rebuild, second, switch, webhook, worker, publication] = &blocks("docs/reactions.md", "sql")[..] else {
        panic!("seven blocks")
    };
    let run = async |sql: &str| admin.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let commit = async |store: &str, id: &str| {
        let args = json!({"id": id, "text": format!("todo {id}")});
        admin.execute("select livestore.commit($1, 'todoCreated', $2::json)", &[&store, &args]).await.unwrap();
    };
    let shows = async |table: &str, expected: &str| {
        let todos =
            format!("select coalesce(string_agg(store_id || ' ' || id, ',' order by store_id, id), '') from {table}");
        eventually(&format!("{table} shows {expected}"), async || {
            admin.query_one(&todos, &[]).await.unwrap().get::<_, String>(0) == expected
        })
        .await;
    };

    commit("a", "1").await;
    run(model).await;
    commit("b", "2").await;
    shows("app.todos", "a 1,b 2").await;
    run("update app.todos set id = 'wrong'").await;
    run(rebuild).await;
    shows("app.todos", "a 1,b 2").await;
    run(second).await;
    commit("a", "3").await;
    let caught_up = "select lag_events = 0 and history_stores = 0 from livestore.subscriptions where name = 'todos 2'";
    eventually("the second copy has caught up", async || admin.query_one(caught_up, &[]).await.unwrap().get(0)).await;
    for table in ["app.todos", "app.todo_list", "app.todos_2"] {
        shows(table, "a 1,a 3,b 2").await;
    }
    run(switch).await;
    run("select livestore.reset_store('b')").await;
    shows("app.todo_list", "a 1,a 3").await;

    let url = "https://mail.example.com/hooks";
    assert!(webhook.contains(url));
    run(&webhook.replace(url, &format!("http://127.0.0.1:{}/hooks", receiver.port))).await;
    commit("a", "4").await;
    eventually("the mail is sent", async || receiver.printed().contains("mail to a: todo 4")).await;

    // The last two lines of the worker are a query and its result.
    let (subscribe, query) = worker.split_at(worker.rfind("select store_id").unwrap());
    run(subscribe).await;
    let (query, expected) = query.split_once("-- => ").unwrap();
    let row = admin.query_one(query, &[]).await.unwrap();
    let row: Vec<String> = (0..3).map(|column| row.get(column)).collect();
    assert_eq!(row.join(" "), expected.trim());
    run(publication).await;
    assert!(!sidecar.log().contains("\"ERROR\""), "{}", sidecar.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_of_the_page_on_hooks_decides() {
    let database = Database::new().await;
    let [code] = &blocks("docs/hooks.md", "ts")[..] else { panic!("one service") };
    let service = Service::start(code);
    let url = format!("http://127.0.0.1:{}/may-sync", service.port);
    let settings = ["--webhook-secret", SECRET, "--authorize-url", &url];
    let sidecar = Start::new(database.url("sidecar")).arguments(&settings).ready().await;
    let node = Node::sync_backend();
    let url = sidecar.url();
    let open = |store, payload| node.open_with("cf-http", &url, store, json!({"payload": payload}));
    open("ann", json!({"authToken": "secret of ann"})).await.push(chain(0, 1)).await.unwrap();
    let refused = open("bob", json!({"authToken": "secret of ann"})).await.push(chain(0, 1)).await.unwrap_err();
    assert!(refused.to_string().contains("not allowed"), "{refused}");
    let refused = open("ann", json!({"authToken": "none"})).await.pull(None).await.unwrap_err();
    assert!(refused.to_string().contains("log in"), "{refused}");
}
