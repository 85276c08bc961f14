//! The operator sees every refusal, because clients of LiveStore do not show it.

use livestore_tests::cluster::Database;
use livestore_tests::dialects::{Caller, DIALECTS, WRITERS};
use livestore_tests::events::{chain, event};
use livestore_tests::eventually;
use livestore_tests::rpc::Rpc;
use livestore_tests::shape;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::tokens::{SECRET, Signer, WITH_SECRET, now};
use serde_json::{Value, json};

/// All lines of the log about refusals so far. They are complete because a later line has arrived.
async fn refusals(sidecar: &Sidecar) -> Vec<Value> {
    let marker = format!("/settled-{}", sidecar.log().len());
    sidecar.get(&marker).await;
    eventually("the log is there", || async { sidecar.log().contains(&marker) }).await;
    let log = sidecar.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == "a client is refused").collect()
}

async fn counted(sidecar: &Sidecar, asked: &str, reason: &str) -> f64 {
    sidecar.metric(&format!("livestore_refusals_total{{asked=\"{asked}\",reason=\"{reason}\"}}")).await
}

fn token_of(user: &str, allowed: Value) -> String {
    Signer::secret(SECRET).sign(&json!({"sub": user, "exp": now() + 3600, "livestore": allowed}))
}

const HOOK: &str = "
    create function public.refuse() returns trigger language plpgsql security definer
    set search_path = pg_catalog, pg_temp as $$
    begin
        if new.name = 'forbidden' then
            raise exception 'not this one';
        end if;
        return new;
    end $$;
    create trigger refuse before insert on livestore.eventlog_1 for each row execute function public.refuse()";

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_push_is_a_warning_with_all_that_helps_to_find_the_device() {
    let database = Database::new().await;
    database.admin().await.batch_execute(HOOK).await.unwrap();
    let sidecar = Start::new(database.url("sidecar")).arguments(&WITH_SECRET).ready().await;
    assert_eq!(counted(&sidecar, "push", "hook").await, 0.0, "it is there from the start");
    for dialect in WRITERS {
        let token = token_of(dialect, json!({"s": "write"}));
        let caller = Caller::with_token(&sidecar, "s", &token);
        for _ in 0..2 {
            let answer = caller.write(dialect, json!([event(0, "forbidden", json!({}))])).await;
            assert!(answer.text.contains("not this one"), "{dialect}: {answer:?}");
        }
        let lines = refusals(&sidecar).await;
        let of_subject: Vec<_> = lines.iter().filter(|line| line["subject"] == dialect).collect();
        assert_eq!(of_subject.len(), 1, "{dialect}: once a minute for each subject: {lines:?}");
        let line = of_subject[0];
        let expected = json!({
            "level": "WARN", "asked": "push", "reason": "hook", "store": "s", "dialect": dialect, "client": "client",
            "event": "forbidden", "text": "not this one",
        });
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(line[field], *value, "{field}: {line}");
        }
    }
    assert_eq!(counted(&sidecar, "push", "hook").await, 2.0 * WRITERS.len() as f64);
    // A client that is behind goes on by itself, so its refusal is no warning.
    let token = token_of("behind", json!({"s": "write"}));
    Caller::with_token(&sidecar, "s", &token).write("s2", json!([event(7, "e", json!({}))])).await;
    assert!(refusals(&sidecar).await.iter().all(|line| line["subject"] != "behind"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_a_refused_pull_and_a_request_that_is_none_are_warnings_with_their_reason() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&WITH_SECRET).ready().await;
    database.admin().await.execute("select livestore.push('s', $1)", &[&chain(0, 1)]).await.unwrap();
    for dialect in DIALECTS {
        let token = token_of(dialect, json!({"another": "write"}));
        Caller::with_token(&sidecar, "s", &token).read(dialect).await;
        let lines = refusals(&sidecar).await;
        let line =
            lines.iter().find(|line| line["subject"] == dialect).unwrap_or_else(|| panic!("{dialect}: {lines:?}"));
        assert_eq!((&line["reason"], &line["store"]), (&json!("access"), &json!("s")), "{line}");
    }
    let readers = token_of("reader", json!({"s": "read"}));
    Caller::with_token(&sidecar, "s", &readers).write("cf-http", chain(1, 1)).await;
    let lines = refusals(&sidecar).await;
    let line = lines.iter().find(|line| line["subject"] == "reader").expect("a line");
    assert_eq!((&line["asked"], &line["reason"]), (&json!("push"), &json!("access")), "{line}");

    // Strangers are one, and cannot fill the log.
    for store in ["a", "b", "c"] {
        for dialect in ["cf-ws", "s2", "electric"] {
            Caller::new(&sidecar, store).write(dialect, chain(0, 1)).await;
        }
    }
    let lines = refusals(&sidecar).await;
    let strangers: Vec<_> = lines.iter().filter(|line| line["reason"] == "token").collect();
    assert_eq!(strangers.len(), 1, "{lines:?}");
    assert!(strangers[0]["text"].as_str().unwrap().contains("requires a token"), "{strangers:?}");
    assert_eq!(counted(&sidecar, "connect", "token").await, 9.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tokens_each_store_has_its_line() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    // Without args, sync-electric would push it again without end.
    let malformed = json!([{"name": "e", "seqNum": 1, "parentSeqNum": 0, "clientId": "c", "sessionId": "s"}]);
    let answer = shape::push(&sidecar, "s", malformed).send().await.unwrap();
    assert_eq!(answer.status(), 400);
    let secret =
        json!([{"name": "e", "args": {}, "seqNum": "CANARY", "parentSeqNum": 0, "clientId": "c", "sessionId": "s"}]);
    assert_eq!(shape::push(&sidecar, "s", secret.clone()).send().await.unwrap().status(), 400);
    for dialect in ["cf-ws", "cf-http", "cf-0.3", "s2-rest"] {
        // The first line of a store is written.
        Caller::new(&sidecar, dialect).write(dialect, secret.clone()).await;
        Caller::new(&sidecar, dialect).write(dialect, json!([{"name": 1}])).await;
    }
    let invalid = json!([{"name": "e", "args": {}, "seqNum": 1, "parentSeqNum": 1, "clientId": "c", "sessionId": "s"}]);
    for store in ["one", "two"] {
        Caller::new(&sidecar, store).write("cf-ws", invalid.clone()).await;
    }
    let lines = refusals(&sidecar).await;
    let stores = |reason: &str| {
        let mut stores: Vec<_> =
            lines.iter().filter(|line| line["reason"] == reason).map(|line| &line["store"]).collect();
        stores.sort_by_key(ToString::to_string);
        json!(stores)
    };
    assert_eq!(stores("invalid"), json!(["one", "two"]), "{lines:?}");
    assert!(!sidecar.log().contains("CANARY"), "{}", sidecar.log());
    assert_eq!(stores("malformed"), json!(["cf-0.3", "cf-http", "cf-ws", "s2-rest", null]), "{lines:?}");

    let url = format!("{}/?storeId=s&transport=ws", sidecar.url());
    let refused = Rpc::connect_with(&url, &[("origin", "https://evil.example")]).await.err().expect("a refusal");
    assert_eq!(refused.0, 403);
    let refused = Rpc::connect_with(&format!("{url}&payload=%257B"), &[]).await.err().expect("a refusal");
    assert_eq!(refused.0, 400);
    let lines = refusals(&sidecar).await;
    assert!(sidecar.log().contains("\"because\":\"malformed payload"), "{}", sidecar.log());
    for reason in ["origin", "malformed"] {
        let is_it = |line: &&Value| line["asked"] == "connect" && line["reason"] == reason;
        assert!(lines.iter().find(is_it).is_some(), "{reason}: {lines:?}");
    }
}
