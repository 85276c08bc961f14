//! Keys of an identity provider, tokens for trying, and settings that cannot be.

use std::time::Duration;

use livestore_tests::cluster::Database;
use livestore_tests::dialects::Caller;
use livestore_tests::events::chain;
use livestore_tests::eventually;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::tokens::{Provider, SECRET, Signer, now};
use serde_json::{Value, json};
use tokio::time::timeout;

fn claims() -> Value {
    json!({"sub": "ann", "exp": now() + 3600})
}

async fn start(database: &Database, arguments: &[&str]) -> Sidecar {
    let arguments = [&["--auth", "jwt", "--allow", "*=write"], arguments].concat();
    Start::new(database.url("sidecar")).arguments(&arguments).ready().await
}

/// What a request with this token is answered.
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
    for number in 0..50 {
        assert!(!is_let_in(&sidecar, &new.sign_as(&format!("unknown {number}"), &claims())).await);
    }
    assert_eq!(provider.requests(), 1, "who sends nonsense makes no requests to the provider");

    // The old key is withdrawn: with the next fetch it is gone.
    provider.says(json!({"keys": [new.jwk("new")]}));
    assert!(is_let_in(&sidecar, &old.sign_as("old", &claims())).await, "as long as nobody has asked");
    let token = new.sign_as("new", &claims());
    eventually("the new key is known", || async { is_let_in(&sidecar, &token).await }).await;
    assert!(!is_let_in(&sidecar, &old.sign_as("old", &claims())).await, "a key that is withdrawn");
    assert_eq!(provider.requests(), 2);
    provider.stop();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(is_let_in(&sidecar, &token).await);
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
        (vec!["--jwt-secret", SECRET], "without --auth jwt would protect nothing"),
        (vec!["--allow", "*=read"], "without --auth jwt would protect nothing"),
        (vec!["--auth", "jwt"], "--jwt-secret, --jwt-public-key or --jwks-url"),
        (vec!["--auth", "jwt", "--jwt-secret", ""], "--jwt-secret is empty"),
        (vec!["--auth", "jwt", "--jwt-secret", &SECRET[..31]], "--jwt-secret has less than 32 bytes"),
        (vec!["--auth", "jwt", "--jwt-secret", SECRET, "--jwt-audience", ""], "--jwt-audience is empty"),
        (vec!["--auth", "jwt", "--jwt-secret", SECRET, "--access-claim", " "], "--access-claim is empty"),
        (vec!["--auth", "jwt", "--jwt-public-key", "/nowhere/key.pem"], "cannot read the file"),
        (
            vec!["--auth", "jwt", "--jwt-public-key", "-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----"],
            "RSA, EC",
        ),
        (vec!["--auth", "jwt", "--jwt-public-key", &private], "RSA, EC"),
        (vec!["--auth", "jwt", "--jwt-public-key", r#"{"kty":"oct","k":"c2VjcmV0"}"#], "not a public key"),
        (vec!["--auth", "jwt", "--jwks-url", "http://id.example.com/keys"], "https"),
        (vec!["--auth", "jwt", "--jwt-secret", SECRET, "--allow", "todos"], "<store>=<access>"),
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
