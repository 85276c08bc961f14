//! Keys of an identity provider, tokens for trying, and settings that cannot be.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use livestore_tests::cluster::Database;
use livestore_tests::dialects::Caller;
use livestore_tests::events::chain;
use livestore_tests::relay::{Peer, url};
use livestore_tests::rpc::Rpc;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::tokens::{Provider, SECRET, Signer, now};
use livestore_tests::{eventually, shape};
use serde_json::{Value, json};
use tokio::time::timeout;

fn claims() -> Value {
    json!({"sub": "ann", "exp": now() + 3600})
}

async fn start(database: &Database, arguments: &[&str]) -> Sidecar {
    let arguments = [&["--auth", "jwt", "--allow", "*=write"], arguments].concat();
    Start::new(database.url("sidecar")).arguments(&arguments).ready().await
}

/// The answer to a request with this token.
async fn read(sidecar: &Sidecar, token: &str) -> String {
    Caller::with_token(sidecar, "s", token).read("electric").await.text
}

async fn is_let_in(sidecar: &Sidecar, token: &str) -> bool {
    let answer = read(sidecar, token).await;
    assert!(answer.contains("\"seqNum\"") || answer.contains("token"), "{answer}");
    answer.contains("\"seqNum\"")
}

async fn setup(provider: &Provider) -> (Database, Sidecar) {
    let database = Database::new().await;
    database.admin().await.execute("select livestore.push('s', $1)", &[&chain(0, 1)]).await.unwrap();
    let sidecar = start(&database, &["--jwks-url", &provider.url]).await;
    (database, sidecar)
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_fetched_when_they_are_needed_and_kept_while_the_provider_is_away() {
    let provider = Provider::start().await;
    let (old, new) = (Signer::rs256(), Signer::es256());
    provider.says(json!({"keys": [old.jwk("old"), {"kty": "of the future"}, Signer::eddsa().jwk("other")]}));
    let (_database, sidecar) = setup(&provider).await;
    assert_eq!(provider.requests(), 0);
    assert!(is_let_in(&sidecar, &old.sign_as("old", &claims())).await);
    assert!(is_let_in(&sidecar, &old.sign(&claims())).await, "a token need not name its key");
    assert!(!is_let_in(&sidecar, &old.sign_as("other", &claims())).await);
    // The public key as a secret, and a key of another kind under the name of a known one.
    let confused = Signer::secret(&old.jwk("old").to_string()).sign_as("old", &claims());
    assert!(!is_let_in(&sidecar, &confused).await);
    assert!(!is_let_in(&sidecar, &new.sign_as("old", &claims())).await);
    assert_eq!(provider.requests(), 1);
    let nonsense = (0..50).map(|number| new.sign_as(&format!("unknown {number}"), &claims()));
    let refused = join_all(nonsense.map(async |token| is_let_in(&sidecar, &token).await)).await;
    assert!(refused.iter().all(|is_in| !is_in));
    assert_eq!(provider.requests(), 2, "who sends nonsense makes one request every few seconds, all together");

    // The old key is withdrawn: with the next fetch it is gone.
    provider.says(json!({"keys": [new.jwk("new")]}));
    assert!(is_let_in(&sidecar, &old.sign_as("old", &claims())).await, "as long as nobody has asked");
    // Nonsense just before the rotation: a client with the new key is not refused, which would end its sync, but waits.
    let token = new.sign_as("new", &claims());
    assert!(is_let_in(&sidecar, &token).await, "the first request with the new key");
    assert_eq!(provider.requests(), 3);
    assert!(!is_let_in(&sidecar, &old.sign_as("old", &claims())).await, "a key that is withdrawn");
    // A provider with one key need not name it.
    let newer = Signer::es256();
    provider.says(json!({"keys": [new.jwk("new"), newer.jwk("newer")]}));
    assert!(is_let_in(&sidecar, &newer.sign(&claims())).await, "a new key that the token does not name");
    provider.stop();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(is_let_in(&sidecar, &token).await);
    // Whether there is such a key cannot be told now: it passes.
    let answer = timeout(Duration::from_secs(8), read(&sidecar, &new.sign_as("newest", &claims()))).await;
    assert!(answer.is_err(), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_with_a_critical_header_is_refused() {
    let database = Database::new().await;
    database.admin().await.execute("select livestore.push('s', $1)", &[&chain(0, 1)]).await.unwrap();
    let sidecar = start(&database, &["--jwt-secret", SECRET]).await;
    let signer = Signer::secret(SECRET);
    assert!(is_let_in(&sidecar, &signer.sign_with(json!({}), &claims())).await);
    for header in
        [json!({"crit": ["exp"], "exp": 1}), json!({"crit": ["b64"]}), json!({"crit": ["typ"]}), json!({"crit": []})]
    {
        let token = signer.sign_with(header.clone(), &claims());
        let answer = read(&sidecar, &token).await;
        assert!(answer.contains("crit"), "{header}: {answer}");
    }
}

/// A secret is guessed a few times a second, however many connections guess it, and the log is not filled with it.
#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_guessed_slowly_and_the_operator_is_told_once() {
    let database = Database::new().await;
    let arguments = ["--admin-secret", "hunter2", "--electric-secret", "hunter3"];
    let sidecar = Start::new(database.url("sidecar")).arguments(&arguments).ready().await;
    let guess = |secret: &str| json!({"_tag": "WSMessage.AdminInfoReq", "requestId": "a", "adminSecret": secret});
    let url = format!("{}/websocket?storeId=s", sidecar.url());
    let mut sockets = Vec::new();
    for _ in 0..8 {
        let mut rpc = Rpc::connect(&url).await;
        for _ in 0..100 {
            rpc.send(guess("wrong")).await;
        }
        sockets.push(rpc);
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let series = "livestore_refusals_total{asked=\"admin\",reason=\"secret\"}";
    let guesses = sidecar.metric(series).await;
    assert!((3.0..=25.0).contains(&guesses), "{guesses} guesses in 3 s");
    drop(sockets);
    let mut owner = Rpc::connect(&url).await;
    owner.send(guess("hunter2")).await;
    let answer = owner.receive_patiently().await;
    assert!(format!("{answer:?}").contains("AdminInfoRes"), "{answer:?}");

    let before = Instant::now();
    let wrong = [("table", "eventlog_6_s"), ("offset", "-1"), ("secret", "wrong")];
    let answers = join_all((0..5).map(async |_| shape::get(&sidecar, &wrong).send().await.unwrap().status())).await;
    assert!(answers.iter().all(|status| *status == 401), "{answers:?}");
    assert!(before.elapsed() >= Duration::from_secs(1), "{:?}", before.elapsed());
    let right = [("table", "eventlog_6_s"), ("offset", "-1"), ("secret", "hunter3")];
    // As guesses, these would take 20 s.
    let before = Instant::now();
    let answers = join_all((0..100).map(async |_| shape::get(&sidecar, &right).send().await.unwrap().status())).await;
    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    assert!(before.elapsed() < Duration::from_secs(10), "{:?}", before.elapsed());
    let log = sidecar.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("\"secret\"")).collect();
    assert_eq!(lines.len(), 2, "one of each secret: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_says_nothing_of_use_opens_nothing() {
    let signer = Signer::es256();
    let long = format!(r#"{{"keys":[{}],"rest":"{}"}}"#, signer.jwk("k"), "x".repeat(64 << 10));
    for answer in ["", "{}", r#"{"keys":[]}"#, r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#, &long] {
        let provider = Provider::start().await;
        provider.says(answer);
        let (_database, sidecar) = setup(&provider).await;
        // It waits: a client that is told no stops for good, and this may pass.
        let token = signer.sign_as("k", &claims());
        let answer = timeout(Duration::from_secs(2), read(&sidecar, &token)).await;
        assert!(answer.is_err(), "{answer:?}");
        eventually("it is logged", || async { sidecar.log().contains("the keys of --jwks-url") }).await;
    }
}

/// The operator withdraws a stolen key, and there is no other yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_key_opens_nothing_although_it_was_the_last() {
    let provider = Provider::start().await;
    let (old, new) = (Signer::es256(), Signer::es256());
    provider.says(json!({"keys": [old.jwk("old")]}));
    let (_database, sidecar) = setup(&provider).await;
    let stolen = old.sign_as("old", &claims());
    assert!(is_let_in(&sidecar, &stolen).await);
    provider.says(json!({"keys": []}));
    let waits = async |token: &str| timeout(Duration::from_secs(7), read(&sidecar, token)).await.is_err();
    assert!(waits(&new.sign_as("new", &claims())).await, "a token of an unknown key, for which the keys are fetched");
    assert!(provider.requests() >= 2);
    assert!(waits(&stolen).await, "the withdrawn key");
    assert!(sidecar.log().contains("ERROR") && sidecar.log().contains("no public key for signatures"));
    provider.says(json!({"keys": [new.jwk("new")]}));
    assert!(is_let_in(&sidecar, &new.sign_as("new", &claims())).await);
    assert!(!is_let_in(&sidecar, &stolen).await);
}

const REFUSED_TOKENS: &str = "livestore_refusals_total{asked=\"connect\",reason=\"token\"}";

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_with_a_token_of_an_unknown_key_is_told_so_each_time() {
    let provider = Provider::start().await;
    let (known, unknown) = (Signer::es256(), Signer::es256());
    provider.says(json!({"keys": [known.jwk("known")]}));
    provider.takes(Duration::from_millis(100));
    let (_database, sidecar) = setup(&provider).await;
    // Most of them wait for the next fetch, which is up to 5 s later.
    for number in 1..=5 {
        let token = unknown.sign_as(&format!("unknown {number}"), &claims());
        let answer = Caller::with_token(&sidecar, "s", &token).read("cf-ws").await;
        assert_eq!(answer.status, 400, "{number}: {answer:?}");
        assert_eq!(sidecar.metric(REFUSED_TOKENS).await, f64::from(number));
        assert!(answer.text.contains("a key (kid) that this server does not have"), "{number}: {answer:?}");
    }
}

/// Nothing is wrong with the token as far as can be told.
#[tokio::test(flavor = "multi_thread")]
async fn without_keys_a_websocket_is_told_to_try_again() {
    let provider = Provider::start().await;
    provider.stop();
    let (_database, sidecar) = setup(&provider).await;
    let token = Signer::es256().sign_as("k", &claims());
    let answer = Caller::with_token(&sidecar, "s", &token).read("cf-ws").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.text.contains("try again") && !answer.text.contains("database is away"), "{answer:?}");
    let relay = Peer::connect_with(&format!("{}?token={token}", url(&sidecar)), &[], "a").await;
    let (status, text) = relay.err().unwrap();
    assert!(status == 503 && text.contains("try again"), "{status}: {text}");
    assert_eq!(sidecar.metric(REFUSED_TOKENS).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_can_be_minted_to_try_it() {
    let database = Database::new().await;
    database.admin().await.execute("select livestore.push('s', $1)", &[&chain(0, 1)]).await.unwrap();
    let sidecar = start_without_rules(&database).await;
    let mint = |arguments: &[&str]| {
        let output =
            Start::program().arg("token").args(arguments).env("LIVESTORE_JWT_SECRET", SECRET).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    };
    let token = mint(&["--store", "s", "--access", "write", "--expires", "1h"]);
    assert!(is_let_in(&sidecar, &token).await);
    let answer = Caller::with_token(&sidecar, "s", &token).write("electric", chain(1, 1)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let reader = mint(&["--store", "t", "--store", "s*", "--access", "read", "--subject", "bob"]);
    assert!(is_let_in(&sidecar, &reader).await);
    let answer = Caller::with_token(&sidecar, "s", &reader).write("electric", chain(2, 1)).await;
    assert!(answer.text.contains("not allowed to push"), "{answer:?}");
    let output = Start::program().args(["token", "--store", "s"]).env_remove("LIVESTORE_JWT_SECRET").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "without a secret");
    for (secret, problem) in [("short", "--jwt-secret has less than 32 bytes"), ("", "--jwt-secret is empty")] {
        let mut command = Start::program();
        command.args(["token", "--store", "s", "--jwt-secret", secret]).env_remove("LIVESTORE_JWT_SECRET");
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && told.contains(problem), "{secret:?}: {told}");
        let is_signed = command.arg("--insecure-short-secret").output().unwrap().status.success();
        assert_eq!(is_signed, !secret.is_empty(), "{secret:?}");
    }
    let long = "a".repeat(257);
    for (arguments, why) in [
        (vec!["--store", "s", "--jwt-secret", ""], "--jwt-secret is empty"),
        (vec!["--store", "s", "--subject", ""], "--subject has 1 to 256 bytes"),
        (vec!["--store", "s", "--subject", &long], "--subject has 1 to 256 bytes"),
        (vec!["--store", "s", "--store", ""], "--store is empty"),
        (vec!["--store", "s", "--access-claim", ""], "--access-claim is empty"),
        (vec!["--store", "s", "--access-claim", "sub"], "--access-claim"),
        (vec!["--store", "s", "--access-claim", "exp"], "--access-claim"),
        (vec!["--store", "s", "--access-claim", "nbf"], "--access-claim"),
    ] {
        let output =
            Start::program().arg("token").args(&arguments).env("LIVESTORE_JWT_SECRET", SECRET).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains(why), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

async fn start_without_rules(database: &Database) -> Sidecar {
    Start::new(database.url("sidecar")).arguments(&["--auth", "jwt", "--jwt-secret", SECRET]).ready().await
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be_end_the_sidecar_with_2() {
    let database = Database::new().await;
    let signer = Signer::es256();
    let private = signer.private_pem();
    for (arguments, why) in [
        (vec!["--jwt-secret", SECRET], "has no effect without --auth jwt"),
        (vec!["--allow", "*=read"], "has no effect without --auth jwt"),
        (vec!["--jwt-audience", "app"], "--jwt-audience has no effect without --auth jwt"),
        (vec!["--jwt-issuer", "https://id.example.com"], "--jwt-issuer has no effect without --auth jwt"),
        (vec!["--log", ""], "--log is empty"),
        (vec!["--auth", "jwt"], "--jwt-secret, --jwt-public-key or --jwks-url"),
        (vec!["--auth", "jwt", "--jwt-secret", ""], "--jwt-secret is empty"),
        (vec!["--auth", "jwt", "--jwt-secret", &SECRET[..31]], "--jwt-secret has less than 32 bytes"),
        (vec!["--auth", "jwt", "--jwt-secret", SECRET, "--jwt-audience", ""], "--jwt-audience is empty"),
        (vec!["--auth", "jwt", "--jwt-secret", SECRET, "--access-claim", " "], "--access-claim is empty"),
        (vec!["--auth", "jwt", "--jwt-secret", SECRET, "--access-claim", "sub"], "--access-claim"),
        (vec!["--auth", "jwt", "--jwt-public-key", "/nowhere/key.pem"], "cannot read the file"),
        (
            vec!["--auth", "jwt", "--jwt-public-key", "-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----"],
            "RSA, EC",
        ),
        (vec!["--auth", "jwt", "--jwt-public-key", &private], "RSA, EC"),
        (vec!["--auth", "jwt", "--jwt-public-key", r#"{"kty":"oct","k":"c2VjcmV0"}"#], "not a public key"),
        (vec!["--auth", "jwt", "--jwks-url", "http://id.example.com/keys"], "https"),
        (vec!["--auth", "jwt", "--jwt-secret", SECRET, "--allow", "todos"], "<store>=<access>"),
        (vec!["--auth", "jwt", "--jwt-secret", SECRET, "--allow", "user-{SUB}=write"], "{sub}"),
        (vec!["--auth", "jwt", "--jwt-secret", SECRET, "--jwt-leeway", "2days"], "more than a day"),
        (vec!["--auth", "jwt", "--jwt-secret", SECRET, "--relay-store", "everybody"], "{user}"),
    ] {
        let output = Start::new(database.url("sidecar")).arguments(&arguments).command().output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {log}");
        assert!(log.contains(why) && !log.contains(SECRET), "{arguments:?}: {log}");
    }
    database.admin().await.execute("select livestore.push('s', $1)", &[&chain(0, 1)]).await.unwrap();
    let short = ["--auth", "jwt", "--jwt-secret", "short", "--insecure-short-secret", "--allow", "*=read"];
    let sidecar = Start::new(database.url("sidecar")).arguments(&short).ready().await;
    assert!(is_let_in(&sidecar, &Signer::secret("short").sign(&claims())).await, "for development");
}
