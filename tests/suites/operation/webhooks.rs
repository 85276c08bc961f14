//! Subscriptions with a URL: a receiver that verifies signatures with the package of Standard Webhooks gets the events.

use std::collections::{BTreeMap, BTreeSet};

use livestore_tests::client::Node;
use livestore_tests::cluster::Database;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::{PATIENCE, eventually};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;
use tokio_postgres::Client;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A receiver, and the messages that it gets.
struct Receiver {
    node: Node,
    url: String,
    messages: UnboundedReceiver<Value>,
}

impl Receiver {
    async fn new(secret: &str) -> Self {
        let node = Node::webhook_receiver();
        let messages = node.messages_of("webhooks");
        let listening = node.call("listen", json!({"sub": "webhooks", "secret": secret})).await.unwrap();
        Self { node, url: listening["url"].as_str().unwrap().into(), messages }
    }

    async fn answer(&self, rule: Value) {
        self.node.call("answer", rule).await.unwrap();
    }

    /// The next message.
    async fn next(&mut self) -> Value {
        let message = timeout(PATIENCE, self.messages.recv()).await.expect("a webhook in time").unwrap();
        assert_eq!(message["value"]["isVerified"], true, "{message}");
        message["value"].clone()
    }
}

/// The events of a message, shortened.
fn events(message: &Value) -> Vec<String> {
    let events = message["data"]["events"].as_array().unwrap().iter();
    let text = |event: &Value| {
        let what = event["name"].as_str().or(event["change"].as_str()).unwrap();
        format!("{} {} {what}", event["storeId"].as_str().unwrap(), event["seqNum"])
    };
    events.map(text).collect()
}

async fn sidecar(database: &Database, arguments: &[&str]) -> Sidecar {
    let arguments = [&["--webhook-secret", SECRET, "--webhook-private-addresses"], arguments].concat();
    Start::new(database.url("sidecar")).arguments(&arguments).ready().await
}

async fn subscribe(admin: &Client, url: &str, more: &str) {
    admin.execute(&format!("select livestore.subscribe('orders', url => $1{more})"), &[&url]).await.unwrap();
}

async fn commit(admin: &Client, store: &str, name: &str) {
    admin.execute("select livestore.commit($1, $2)", &[&store, &name]).await.unwrap();
}

async fn dead_letters(admin: &Client) -> i64 {
    admin.query_one("select count(*) from livestore.dead_letters", &[]).await.unwrap().get(0)
}

/// Ends the leases of batches whose worker has died.
async fn end_leases(admin: &Client) {
    let sql = "update livestore.subscription_partitions set leased_until = now() - interval '1 second' where lease is not null";
    admin.batch_execute(sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_gets_signed_events_in_the_order_of_their_stores() {
    let database = Database::new().await;
    let admin = database.admin().await;
    for n in 0..5 {
        commit(&admin, &format!("s{n}"), "before").await;
    }
    let mut receiver = Receiver::new(SECRET).await;
    let _sidecars = [sidecar(&database, &[]).await, sidecar(&database, &[]).await];
    subscribe(&admin, &receiver.url, ", partitions => 4, start => 'beginning'").await;
    let args = r#"{"b": 1.0, "a" : "\u0000"}"#;
    for n in 0..45 {
        let store = format!("s{}", n % 5);
        admin.execute("select livestore.commit($1, 'e', $2::text::json)", &[&store, &args]).await.unwrap();
    }
    admin.batch_execute("select livestore.reset_store('s0')").await.unwrap();
    let (mut heads, mut ids, mut total, mut is_reset) = (BTreeMap::new(), BTreeSet::new(), 0, false);
    while total < 51 {
        let message = receiver.next().await;
        assert_eq!(
            (&message["type"], &message["data"]["subscription"]),
            (&json!("livestore.events"), &json!("orders"))
        );
        assert!(ids.insert(message["id"].as_str().unwrap().to_owned()), "sent twice: {message}");
        for event in message["data"]["events"].as_array().unwrap() {
            total += 1;
            let store = event["storeId"].as_str().unwrap().to_owned();
            if event["change"] == "reset" {
                is_reset = true;
                continue;
            }
            let last = heads.insert(store, event["seqNum"].as_i64().unwrap()).unwrap_or(0);
            // The reset may be read before the events that it removes.
            if event["storeId"] != "s0" {
                assert_eq!(event["seqNum"], last + 1);
                assert_eq!(event["position"].is_null(), event["name"] == "before", "{event}");
            }
        }
        if message["data"]["events"][0]["name"] == "e" {
            assert!(message["body"].as_str().unwrap().contains(args), "byte for byte: {message}");
            let event = &message["data"]["events"][0];
            assert_eq!((&event["clientId"], &event["sessionId"]), (&json!("server"), &json!("sql")));
            assert!(event["createdAt"].as_str().unwrap().ends_with('Z'), "{event}");
        }
        if is_reset && heads.iter().all(|(store, head)| store == "s0" || *head == 10) {
            break;
        }
    }
    assert!(is_reset && ids.iter().all(|id| id.starts_with("msg_") && !id.contains('.')), "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_receiver_refuses_comes_again_alike_and_becomes_a_dead_letter() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let mut receiver = Receiver::new(SECRET).await;
    receiver.answer(json!({"name": "bad", "status": 500})).await;
    subscribe(&admin, &receiver.url, ", max_failures => 2").await;
    for name in ["good", "bad", "fine"] {
        commit(&admin, "s", name).await;
    }
    let sidecar = sidecar(&database, &[]).await;
    let (first, second) = (receiver.next().await, receiver.next().await);
    assert_eq!(events(&first), ["s 1 good", "s 2 bad", "s 3 fine"]);
    assert_eq!((&first["id"], &first["body"]), (&second["id"], &second["body"]));
    for expected in ["s 1 good", "s 2 bad", "s 2 bad", "s 3 fine"] {
        let message = receiver.next().await;
        assert_eq!(events(&message), [expected]);
        assert_ne!(message["id"], first["id"]);
    }
    eventually("it is a dead letter", async || dead_letters(&admin).await == 1).await;
    let letter = "select concat_ws(' ', name, failures, error) from livestore.dead_letters";
    let letter: String = admin.query_one(letter, &[]).await.unwrap().get(0);
    // The text of the receiver is nowhere: it may repeat the URL, and the events.
    assert_eq!(letter, "bad 2 the receiver answers 500 Internal Server Error");
    assert!(sidecar.log().contains("500 Internal Server Error") && !sidecar.log().contains("cannot handle it"));
    assert!(sidecar.log().lines().any(|line| line.contains("a webhook was not taken") && line.contains("\"orders\"")));
    let metrics = sidecar.get("/metrics").await.1;
    for line in [
        "livestore_subscription_batches_total{by=\"webhook\",outcome=\"failed\"} 4",
        "livestore_subscription_batches_total{by=\"webhook\",outcome=\"taken\"} 2",
        "livestore_subscription_events_total{by=\"webhook\"} 2",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    eventually("the metrics show it", async || {
        sidecar.get("/metrics").await.1.contains("livestore_subscription_dead_letters{subscription=\"orders\"} 1")
    })
    .await;

    // Mended, and sent again.
    receiver.answer(json!({"status": 204})).await;
    admin.batch_execute("select livestore.resend(id) from livestore.dead_letters").await.unwrap();
    commit(&admin, "s", "next").await;
    assert_eq!(events(&receiver.next().await), ["s 2 bad"]);
    assert_eq!(events(&receiver.next().await), ["s 4 next"]);
    eventually("no letter is left", async || dead_letters(&admin).await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_away_gets_everything_later_and_a_slow_one_has_failed() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let mut receiver = Receiver::new(SECRET).await;
    receiver.answer(json!({"status": 503})).await;
    subscribe(&admin, &receiver.url, ", max_failures => 1").await;
    let sidecar = sidecar(&database, &["--webhook-timeout", "300ms"]).await;
    commit(&admin, "s", "a").await;
    for _ in 0..3 {
        assert_eq!(events(&receiver.next().await), ["s 1 a"]);
    }
    // The next one comes after a second.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    receiver.node.call("close", json!({})).await.unwrap();
    let is_told =
        || async { sidecar.log().contains("a webhook was not taken") && sidecar.log().contains("\"pause\":") };
    eventually("the operator is told", is_told).await;
    let error = "select failures = 0 and error like '%error sending request%' from livestore.subscriptions";
    eventually("it is shown", async || admin.query_one(error, &[]).await.unwrap().get::<_, bool>(0)).await;
    let port = receiver.url.rsplit(':').next().unwrap().trim_end_matches("/hooks").parse::<u16>().unwrap();
    let again = json!({"sub": "webhooks", "secret": SECRET, "port": port});
    receiver.node.call("listen", again).await.unwrap();
    receiver.answer(json!({"status": 204})).await;
    assert_eq!(events(&receiver.next().await), ["s 1 a"]);
    assert_eq!(dead_letters(&admin).await, 0);
    let is_back = || async { sidecar.log().contains("takes events again") };
    eventually("the operator is told that it is back", is_back).await;

    // It takes longer than it may, which the event may be the reason of.
    receiver.answer(json!({"status": 204, "delay": 2000})).await;
    commit(&admin, "s", "slow").await;
    assert_eq!(events(&receiver.next().await), ["s 2 slow"]);
    eventually("it is a dead letter", async || dead_letters(&admin).await == 1).await;

    // It breaks the connection, as a receiver does that dies of an event.
    receiver.answer(json!({"status": 0, "name": "deadly"})).await;
    commit(&admin, "s", "deadly").await;
    assert_eq!(events(&receiver.next().await), ["s 3 deadly"]);
    eventually("it is a dead letter, too", async || dead_letters(&admin).await == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_sent_again_after_a_sidecar_has_died_and_given_back_by_one_that_ends() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let mut receiver = Receiver::new(SECRET).await;
    receiver.answer(json!({"status": 204, "delay": 60_000})).await;
    subscribe(&admin, &receiver.url, "").await;
    let first = sidecar(&database, &["--webhook-timeout", "60s"]).await;
    commit(&admin, "s", "a").await;
    let message = receiver.next().await;
    first.kill();
    end_leases(&admin).await;
    let second = sidecar(&database, &["--webhook-timeout", "60s", "--shutdown-deadline", "4s"]).await;
    let again = receiver.next().await;
    assert_eq!((&again["id"], &again["body"]), (&message["id"], &message["body"]));
    let failures = "select failures from livestore.subscriptions";
    let failures = async || admin.query_one(failures, &[]).await.unwrap().get::<_, i64>(0);
    assert_eq!(failures().await, 1, "a lease that ends is a failure");
    assert!(second.terminate().await.success());
    let third = sidecar(&database, &[]).await;
    receiver.answer(json!({"status": 204})).await;
    let at_last = receiver.next().await;
    assert_eq!(at_last["id"], message["id"]);
    eventually("it is acknowledged", async || failures().await == 0).await;
    drop(third);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_without_a_secret_or_to_a_private_address() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let mut receiver = Receiver::new(SECRET).await;
    subscribe(&admin, &receiver.url, ", max_failures => 1").await;
    commit(&admin, "s", "a").await;
    for (arguments, problem) in [
        (&["--webhook-private-addresses"][..], "there is no secret to sign with: set --webhook-secret"),
        (&["--webhook-secret", SECRET], "is private, and --webhook-private-addresses is not set"),
    ] {
        let sidecar = Start::new(database.url("sidecar")).arguments(arguments).ready().await;
        eventually("the operator is told", || async { sidecar.log().contains(problem) }).await;
    }
    assert!(receiver.messages.try_recv().is_err());
    assert_eq!(dead_letters(&admin).await, 0);
    // While the secret is replaced, both are good.
    let both = format!("whsec_{},{SECRET}", "A".repeat(32));
    let arguments = ["--webhook-secret", &both, "--webhook-private-addresses"];
    let _sidecar = Start::new(database.url("sidecar")).arguments(&arguments).ready().await;
    assert_eq!(events(&receiver.next().await), ["s 1 a"]);
}

/// Nothing would come any more, and the metrics would show that all is well.
#[tokio::test(flavor = "multi_thread")]
async fn the_operator_is_told_of_subscriptions_that_cannot_be_read_in_time() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let receiver = Receiver::new(SECRET).await;
    subscribe(&admin, &receiver.url, "").await;
    let too_slow = "
        create or replace function livestore.subscription_life(subscription text) returns text language plpgsql as $$
        begin
            raise exception 'canceling statement due to statement timeout' using errcode = 'query_canceled';
        end
        $$;
        revoke select on livestore.subscriptions from livestore_reader;
        select livestore.commit('s', 'a')";
    admin.batch_execute(too_slow).await.unwrap();
    let sidecar = sidecar(&database, &[]).await;
    for problem in ["cannot read the events of a subscription", "cannot read how far subscriptions are"] {
        eventually("the operator is told", || async {
            sidecar.get("/metrics").await;
            sidecar.log().contains(problem)
        })
        .await;
    }
}

/// With `--live poll` nothing tells sidecars that there is another subscription of this name.
#[tokio::test(flavor = "multi_thread")]
async fn the_old_url_gets_nothing_of_a_subscription_that_was_made_again() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let (mut old, mut new) = (Receiver::new(SECRET).await, Receiver::new(SECRET).await);
    subscribe(&admin, &old.url, "").await;
    let _sidecars = [sidecar(&database, &["--live", "poll"]).await, sidecar(&database, &["--live", "poll"]).await];
    commit(&admin, "s", "a").await;
    assert_eq!(events(&old.next().await), ["s 1 a"]);
    admin.batch_execute("select livestore.unsubscribe('orders')").await.unwrap();
    subscribe(&admin, &new.url, "").await;
    let mut received = Vec::new();
    for (n, name) in ["b", "c", "d"].into_iter().enumerate() {
        commit(&admin, "s", name).await;
        while received.len() <= n {
            received.extend(events(&new.next().await));
        }
    }
    assert_eq!(received, ["s 2 b", "s 3 c", "s 4 d"]);
    assert!(old.messages.try_recv().is_err());
    let failures = "select failures + dead_letters from livestore.subscriptions";
    assert_eq!(admin.query_one(failures, &[]).await.unwrap().get::<_, i64>(0), 0);
}
