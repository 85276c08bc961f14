//! `--authorize-url`: a service of the operator says who may do what.

use std::time::Duration;

use livestore_tests::client::Node;
use livestore_tests::cluster::Database;
use livestore_tests::dialects::Caller;
use livestore_tests::events::{chain, numbers, up_to};
use livestore_tests::eventually;
use livestore_tests::sidecar::{Sidecar, Start};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

struct Service {
    node: Node,
    url: String,
    questions: UnboundedReceiver<Value>,
}

impl Service {
    async fn new(answers: Value) -> Self {
        let node = Node::webhook_receiver();
        let questions = node.messages_of("service");
        let listening = node.call("listen", json!({"sub": "service", "secret": SECRET})).await.unwrap();
        let service = Self { node, url: listening["url"].as_str().unwrap().into(), questions };
        service.answer(answers).await;
        service
    }

    async fn answer(&self, answers: Value) {
        self.node.call("authorize", json!({"answers": answers})).await.unwrap();
    }

    /// The questions since the last call: action, store and payload.
    fn asked(&mut self) -> Vec<String> {
        let mut asked = Vec::new();
        while let Ok(question) = self.questions.try_recv() {
            let question = &question["value"];
            assert_eq!((&question["isVerified"], &question["type"]), (&json!(true), &json!("livestore.authorize")));
            let data = &question["data"];
            let text = |key: &str| data[key].as_str().unwrap().to_owned();
            asked.push(format!("{} {} {}", text("action"), text("storeId"), data["payload"]));
        }
        asked
    }

    async fn sidecar(&self, database: &Database) -> Sidecar {
        let arguments = ["--authorize-url", &self.url, "--webhook-secret", SECRET];
        Start::new(database.url("sidecar")).arguments(&arguments).ready().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_decides_on_every_dialect_and_its_reason_reaches_the_client() {
    let database = Database::new().await;
    let answers = json!({"open": {"allow": true, "ttl": 60}, "closed": {"allow": false, "reason": "not yours"}});
    let mut service = Service::new(answers).await;
    let sidecar = service.sidecar(&database).await;
    let mut head = 0;
    for dialect in ["cf-ws", "cf-http", "cf-0.3"] {
        let node = if dialect == "cf-0.3" { Node::sync_backend_0_3() } else { Node::sync_backend() };
        let client = node.open_with(dialect, &sidecar.url(), "open", json!({"payload": {"user": "ann"}})).await;
        client.push(chain(head, 1)).await.unwrap();
        head += 1;
        assert_eq!(numbers(&client.pull(None).await.unwrap()), up_to(head), "{dialect}");
    }
    let asked = service.asked();
    let once = ["connect", "pull", "push"].map(|action| format!("{action} open {{\"user\":\"ann\"}}"));
    let mut sorted = asked.clone();
    sorted.sort();
    assert_eq!(sorted, once, "an answer holds for its ttl");
    for dialect in ["electric", "s2"] {
        let caller = Caller::new(&sidecar, "open");
        assert!(caller.write(dialect, chain(head, 1)).await.status < 300, "{dialect}");
        head += 1;
        let caller = Caller::new(&sidecar, "closed");
        let refused = caller.write(dialect, chain(0, 1)).await;
        assert!(refused.status >= 400 && refused.text.contains("not yours"), "{dialect}: {}", refused.text);
    }
    let stores = "select string_agg(store_id, ' ') from livestore.stores";
    assert_eq!(database.admin().await.query_one(stores, &[]).await.unwrap().get::<_, String>(0), "open");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_does_not_answer_nothing_is_decided() {
    let database = Database::new().await;
    let mut service = Service::new(json!({"s": 500})).await;
    let sidecar = service.sidecar(&database).await;
    let node = Node::sync_backend();
    let payload = json!({"payload": {"authToken": "a secret of ann"}});
    let client = node.open_with("cf-ws", &sidecar.url(), "s", payload).await;
    let pushing = tokio::spawn(async move { client.push(chain(0, 1)).await });
    for wrong in [json!({"s": {"allow": "a secret of ann"}}), json!({"s": 500}), json!({"s": {"allowed": true}})] {
        service.answer(wrong).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!pushing.is_finished() && !service.asked().is_empty());
    }
    service.node.call("close", json!({})).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!pushing.is_finished());
    let log = sidecar.log();
    assert!(log.contains("--authorize-url does not answer") && !log.contains("a secret of ann"), "{log}");
    assert_eq!(sidecar.get("/readyz").await.0, 200, "another sidecar would not reach it either");
    let port = service.url.rsplit(':').next().unwrap().trim_end_matches("/hooks").parse::<u16>().unwrap();
    service.answer(json!({"s": {"allow": true}})).await;
    let again = json!({"sub": "service", "secret": SECRET, "port": port});
    service.node.call("listen", again).await.unwrap();
    eventually("it is decided", || async { pushing.is_finished() }).await;
    pushing.await.unwrap().unwrap();
    // Without a ttl, an answer is for one question.
    service.answer(json!({"s": {"allow": false}})).await;
    let refused = Caller::new(&sidecar, "s").write("electric", chain(1, 1)).await;
    assert!(refused.status >= 400 && refused.text.contains("not allowed"), "{}", refused.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_settings_go_together_and_check_asks() {
    let database = Database::new().await;
    let service = Service::new(json!({"livestore-sidecar-check": {"allow": false}})).await;
    let run = |arguments: &[&str]| {
        let output = Start::program().args(arguments).env("DATABASE_URL", database.url("sidecar")).output().unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.success(), text)
    };
    let (is_good, text) = run(&["--authorize-url", "http://127.0.0.1:1/"]);
    assert!(!is_good && text.contains("needs --webhook-secret"), "{text}");
    let (is_good, text) = run(&["--authorize-url", "http://127.0.0.1:1/", "--authorize-function", "f"]);
    assert!(!is_good && text.contains("cannot be used with"), "{text}");
    let secret = ["check", "--listen", "127.0.0.1:0", "--webhook-secret", SECRET, "--authorize-url"];
    let (is_good, text) = run(&[&secret[..], &[&service.url]].concat());
    assert!(is_good && text.contains("--authorize-url answers"), "{text}");
    let (is_good, text) = run(&[&secret[..], &["http://127.0.0.1:1/"]].concat());
    assert!(!is_good && text.contains("--authorize-url: "), "{text}");
}
