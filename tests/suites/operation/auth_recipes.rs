//! The recipes of `docs/auth.md`: the settings as they are there, and tokens with the claims that each service documents.

use std::collections::HashMap;
use std::process::Command;

use livestore_tests::client::Node;
use livestore_tests::cluster::Database;
use livestore_tests::events::chain;
use livestore_tests::root;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::tokens::{Provider, Signer, WITH_SECRET, now, token};
use serde_json::{Value, json};

/// The output of the commands of the `number`th block under a heading, and the settings that they leave behind.
fn recipe(heading: &str, number: usize) -> (String, HashMap<String, String>) {
    let page = std::fs::read_to_string(root().join("docs/auth.md")).unwrap();
    let section = page.split(&format!("\n## {heading}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
    let commands = section.split("```sh\n").nth(number + 1).unwrap().split("```").next().unwrap();
    let program = Start::program();
    let folder = std::path::Path::new(program.get_program()).parent().unwrap().to_owned();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    let output = shell.args(["-euc", &format!("{commands}\nenv")]).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{heading}: {}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let settings = printed.lines().filter_map(|line| line.split_once('='));
    let settings = settings.filter(|(name, _)| name.starts_with("LIVESTORE_"));
    let settings = settings.map(|(name, value)| (name.into(), value.into())).collect();
    (printed.lines().next().unwrap().into(), settings)
}

/// A sidecar with the settings of a recipe, but with the keys of this provider.
async fn start(database: &Database, settings: &HashMap<String, String>, keys: &str) -> Sidecar {
    let mut start = Start::new(database.url("sidecar"));
    for (name, value) in settings {
        let is_url = name == "LIVESTORE_JWKS_URL";
        assert!(!is_url || value.starts_with("https://"), "{value}");
        start = start.environment(name, if is_url { keys } else { value });
    }
    start.ready().await
}

/// The answer to a client with this token in its sync payload that reads a store.
async fn refusal(node: &Node, sidecar: &Sidecar, store: &str, token: &str) -> String {
    let params = json!({"payload": {"authToken": token}});
    let client = node.open_with("cf-http", &sidecar.http_url(), store, params).await;
    client.pull(None).await.expect_err("a refusal").to_string()
}

/// Lets a client in to the store of its user, over WebSocket, and to no other.
async fn has_its_own_store_only(node: &Node, sidecar: &Sidecar, user: &str, token: &str) {
    let params = json!({"payload": {"authToken": token}});
    let own = format!("user-{user}");
    let client = node.open_with("cf-ws", &sidecar.url(), &own, params).await;
    client.push(chain(0, 1)).await.unwrap_or_else(|error| panic!("{user}: {error}"));
    assert_eq!(client.pull(None).await.unwrap().len(), 1, "{user}");
    for other in ["user-somebody", "user-", &format!("{own}-2"), user] {
        let refusal = refusal(node, sidecar, other, token).await;
        assert!(refusal.contains("not allowed"), "{user}, {other}: {refusal}");
    }
}

/// These claims with others in their place.
fn with(mut claims: Value, others: &Value) -> Value {
    for (name, value) in others.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

const PROJECT: &str = "https://abcdefghijklmnopqrst.supabase.co/auth/v1";

fn of_supabase(user: &str) -> Value {
    let now = now();
    json!({
        "aal": "aal1", "amr": [{"method": "password", "timestamp": now}],
        "app_metadata": {"provider": "email", "providers": ["email"]}, "aud": "authenticated",
        "email": "ann@example.com", "exp": now + 3600, "iat": now, "iss": PROJECT, "phone": "",
        "role": "authenticated", "session_id": "2f6a1d3c-6a0e-4f0e-9a53-5f0d9a4f7a11", "sub": user,
        "user_metadata": {"name": "Ann"}, "is_anonymous": false
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_supabase_open_the_store_of_their_user() {
    let (database, provider, node) = (Database::new().await, Provider::start().await, Node::sync_backend());
    let (_, new) = recipe("Supabase", 0);
    let (_, legacy) = recipe("Supabase", 1);
    let [ann, bob, eve] = [1, 2, 3].map(|user| format!("123e4567-e89b-12d3-a456-42661417400{user}"));
    let key = Signer::es256();
    let mut jwk = key.jwk("b9f1");
    jwk["key_ops"] = json!(["verify"]);
    provider.says(json!({"keys": [jwk]}));
    let sidecar = start(&database, &new, &provider.url).await;
    let token = |claims| key.sign_as("b9f1", &claims);
    has_its_own_store_only(&node, &sidecar, &ann, &token(of_supabase(&ann))).await;
    let other = with(of_supabase(&ann), &json!({"iss": PROJECT.replace("abc", "xyz")}));
    let own = format!("user-{ann}");
    assert!(refusal(&node, &sidecar, &own, &token(other)).await.contains("another issuer"));

    let secret = Signer::secret(&legacy["LIVESTORE_JWT_SECRET"]);
    let sidecar = start(&database, &legacy, "").await;
    has_its_own_store_only(&node, &sidecar, &bob, &secret.sign_as("legacy", &of_supabase(&bob))).await;
    for role in ["anon", "service_role"] {
        let claims = json!({
            "iss": "supabase", "ref": "abcdefghijklmnopqrst", "role": role, "iat": now(), "exp": now() + 3600
        });
        let refusal = refusal(&node, &sidecar, &own, &secret.sign(&claims)).await;
        assert!(refusal.contains("token"), "{role}: {refusal}");
    }

    // While a project migrates.
    let both = legacy.into_iter().chain(new).collect();
    let sidecar = start(&database, &both, &provider.url).await;
    has_its_own_store_only(&node, &sidecar, &eve, &secret.sign(&of_supabase(&eve))).await;
    assert!(!refusal(&node, &sidecar, "user-", &token(of_supabase(&eve))).await.contains("signature"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_clerk_open_the_store_of_their_user() {
    let (database, provider, node) = (Database::new().await, Provider::start().await, Node::sync_backend());
    let (_, mut settings) = recipe("Clerk", 0);
    let key = Signer::rs256();
    provider.says(json!({"keys": [with(key.jwk("ins_1"), &json!({"use": "sig", "alg": "RS256"}))]}));
    let now = now();
    // Those of every token, those of session tokens, and that of the template.
    let every = json!({
        "azp": "https://app.example.com", "exp": now + 900, "iat": now, "iss": "https://clerk.example.com",
        "jti": "a1b2", "nbf": now - 10, "sub": "user_2NNEqL2nrIRdJ194ndJqAHwEfxC"
    });
    let session = with(
        every.clone(),
        &json!({"exp": now + 60, "fva": [7, -1], "sid": "sess_2W", "v": 2, "pla": "u:free", "sts": "active"}),
    );
    let template = with(every.clone(), &json!({"aud": "livestore"}));
    let user = every["sub"].as_str().unwrap();
    let sidecar = start(&database, &settings, &provider.url).await;
    has_its_own_store_only(&node, &sidecar, user, &key.sign_as("ins_1", &template)).await;
    let own = format!("user-{user}");
    let session_token = key.sign_as("ins_1", &session);
    assert!(refusal(&node, &sidecar, &own, &session_token).await.contains("aud"));

    settings.remove("LIVESTORE_JWT_AUDIENCE");
    let sidecar = start(&database, &settings, &provider.url).await;
    let params = json!({"payload": {"authToken": session_token}});
    let client = node.open_with("cf-ws", &sidecar.url(), &own, params).await;
    assert_eq!(client.pull(None).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_auth0_open_the_store_of_their_user() {
    let (database, provider, node) = (Database::new().await, Provider::start().await, Node::sync_backend());
    let (_, settings) = recipe("Auth0", 0);
    let key = Signer::rs256();
    provider.says(json!({"keys": [with(key.jwk("k"), &json!({"use": "sig", "alg": "RS256", "x5t": "a1"}))]}));
    let sidecar = start(&database, &settings, &provider.url).await;
    for user in ["auth0|5f7c8ec7c33c6c004bbafe82", "google-oauth2|103547991597142817347"] {
        let access = json!({
            "iss": "https://example.eu.auth0.com/", "sub": user,
            "aud": ["https://sync.example.com", "https://example.eu.auth0.com/userinfo"], "azp": "my_client_id",
            "exp": now() + 86400, "iat": now(), "scope": "openid profile"
        });
        has_its_own_store_only(&node, &sidecar, user, &key.sign_as("k", &access)).await;
        let id = with(access, &json!({"aud": "my_client_id"}));
        let refusal = refusal(&node, &sidecar, &format!("user-{user}"), &key.sign_as("k", &id)).await;
        assert!(refusal.contains("another audience"), "{refusal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_better_auth_open_the_store_of_their_user() {
    let (database, provider, node) = (Database::new().await, Provider::start().await, Node::sync_backend());
    let (_, settings) = recipe("Better Auth", 0);
    let (key, elliptic) = (Signer::eddsa(), Signer::es256());
    // As old and new versions list them.
    let mut plain = key.jwk("c5c7995d");
    plain.as_object_mut().unwrap().retain(|name, _| ["crv", "x", "kty", "kid"].contains(&&**name));
    provider.says(json!({"keys": [plain, with(elliptic.jwk("e"), &json!({"alg": "ES256"}))]}));
    let sidecar = start(&database, &settings, &provider.url).await;
    for (user, key, name) in [("p1x7C4BqzWnYkVfT2mRs", &key, "c5c7995d"), ("9sHcJ0LdAeQ3uGiXoN5t", &elliptic, "e")] {
        let claims = json!({
            "id": user, "name": "Ann", "email": "ann@example.com", "emailVerified": true,
            "createdAt": "2026-01-02T03:04:05.678Z", "updatedAt": "2026-01-02T03:04:05.678Z", "image": null,
            "iat": now(), "exp": now() + 900, "sub": user,
            "iss": "https://app.example.com", "aud": "https://app.example.com"
        });
        has_its_own_store_only(&node, &sidecar, user, &key.sign_as(name, &claims)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_sidecar_itself_opens_its_store() {
    let (database, node) = (Database::new().await, Node::sync_backend());
    let (token, settings) = recipe("Without a service", 0);
    let sidecar = start(&database, &settings, "").await;
    has_its_own_store_only(&node, &sidecar, "ann", &token).await;
}

/// The function of the page, which decides by a table.
#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_team_open_its_store_until_they_are_removed() {
    let (database, node) = (Database::new().await, Node::sync_backend());
    let admin = database.admin().await;
    let page = std::fs::read_to_string(root().join("docs/auth.md")).unwrap();
    let blocks: Vec<_> = page.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let [function] = blocks[..] else { panic!("one block") };
    admin.batch_execute(function).await.unwrap();
    admin.batch_execute("insert into app.team_members values ('team-7', 'ann')").await.unwrap();
    let arguments = [&WITH_SECRET[..], &["--allow", "*=write", "--authorize-function", "app.is_member"]].concat();
    let sidecar = Start::new(database.url("sidecar")).arguments(&arguments).ready().await;

    let params = json!({"payload": {"authToken": token("ann")}});
    let ann = node.open_with("cf-ws", &sidecar.url(), "team-7", params).await;
    ann.push(chain(0, 1)).await.unwrap();
    assert_eq!(ann.pull(None).await.unwrap().len(), 1);
    for (user, store) in [("bob", "team-7"), ("ann", "team-8"), ("ann", "user-ann")] {
        let refusal = refusal(&node, &sidecar, store, &token(user)).await;
        assert!(refusal.contains("not allowed"), "{user}, {store}: {refusal}");
    }

    admin.batch_execute("delete from app.team_members").await.unwrap();
    let refused = ann.push(chain(1, 1)).await.unwrap_err().to_string();
    assert!(refused.contains("not allowed to push to this store"), "{refused}");
    let refused = refusal(&node, &sidecar, "team-7", &token("ann")).await;
    assert!(refused.contains("not allowed"), "{refused}");
}
