//! Tokens on every dialect that has a log: a token decides whether a client is let in, to which stores, and for how long.

use std::time::Duration;

use livestore_tests::client::{Client, Node};
use livestore_tests::cluster::Database;
use livestore_tests::dialects::{Caller, DIALECTS, WRITERS};
use livestore_tests::events::{chain, event, numbers};
use livestore_tests::rpc::{Received, Rpc};
use livestore_tests::shape;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::tokens::{SECRET, Signer, WITH_SECRET, now};
use serde_json::{Value, json};

/// The name of an event, which only clients that may read are shown.
const SECRET_EVENT: &str = "theHiddenName";

async fn start(database: &Database, arguments: &[&str]) -> Sidecar {
    let arguments = [&["--auth", "jwt", "--jwt-secret", SECRET], arguments].concat();
    Start::new(database.url("sidecar")).arguments(&arguments).ready().await
}

/// A sidecar, and a store `s` with one event.
async fn setup(arguments: &[&str]) -> (Database, Sidecar) {
    let database = Database::new().await;
    let sidecar = start(&database, arguments).await;
    let batch = json!([event(0, SECRET_EVENT, json!({}))]);
    database.admin().await.execute("select livestore.push('s', $1)", &[&batch]).await.unwrap();
    (database, sidecar)
}

async fn head(database: &Database, store: &str) -> i64 {
    database.admin().await.query_one("select livestore.head($1)", &[&store]).await.unwrap().get(0)
}

/// A token of ann that allows this.
fn token(allowed: Value) -> String {
    Signer::secret(SECRET).sign(&json!({"sub": "ann", "exp": now() + 3600, "livestore": allowed}))
}

/// A token with these claims on top of one that would be good.
fn token_with(claims: Value) -> String {
    let mut all = json!({"sub": "ann", "exp": now() + 3600, "livestore": {"*": "admin"}});
    for (name, value) in claims.as_object().unwrap() {
        all[name] = value.clone();
    }
    Signer::secret(SECRET).sign(&all)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_good_opens_nothing_in_any_dialect() {
    let (database, sidecar) = setup(&["--jwt-audience", "us", "--jwt-issuer", "the issuer"]).await;
    let good = json!({"aud": "us", "iss": "the issuer"});
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        token_with(claims)
    };
    let signed = token_with(good.clone());
    let (head_and_claims, _) = signed.rsplit_once('.').unwrap();
    let claims = signed.split('.').nth(1).unwrap();
    let bad = [
        ("no token", None, "requires a token"),
        ("no JWT", Some("abc".into()), "not a JSON Web Token"),
        ("no signature", Some(format!("{head_and_claims}.")), "signature"),
        ("algorithm none", Some(format!("eyJhbGciOiJub25lIn0.{claims}.")), "algorithm"),
        ("another secret", Some(Signer::secret("another secret of somebody else").sign(&json!({}))), "signature"),
        ("another algorithm", Some(Signer::es256().sign(&json!({"sub": "ann", "exp": now() + 60}))), "algorithm"),
        ("expired", Some(with("exp", json!(now() - 10))), "expired"),
        ("an end of another form", Some(with("exp", json!((now() + 60).to_string()))), "claim exp"),
        ("a beginning of another form", Some(with("nbf", json!((now() - 60).to_string()))), "claim nbf"),
        ("not valid yet", Some(with("nbf", json!(now() + 600))), "not valid yet"),
        ("another audience", Some(with("aud", json!("them"))), "another audience"),
        ("another issuer", Some(with("iss", json!("another"))), "another issuer"),
        ("nobody", Some(with("sub", json!(""))), "claim sub"),
        ("a claim of another form", Some(with("livestore", json!(["s"]))), "malformed"),
        ("another store", Some(with("livestore", json!({"t": "admin", "S": "admin", "": "admin"}))), "not allowed"),
        ("nothing", Some(with("livestore", Value::Null)), "not allowed"),
    ];
    for dialect in DIALECTS {
        for (name, token, why) in &bad {
            let caller = match token {
                Some(token) => Caller::with_token(&sidecar, "s", token),
                None => Caller::new(&sidecar, "s"),
            };
            let read = caller.read(dialect).await;
            assert!(read.text.contains(why) && !read.text.contains(SECRET_EVENT), "{dialect}, {name}: {read:?}");
            if WRITERS.contains(&dialect) {
                let written = caller.write(dialect, chain(1, 1)).await;
                assert!(written.text.contains(why), "{dialect}, {name}: {written:?}");
            }
            if let Some(token) = token.as_ref().filter(|token| token.len() > 10) {
                assert!(!read.text.contains(&**token) && !sidecar.log().contains(&**token), "{dialect}, {name}");
            }
        }
        let read = Caller::with_token(&sidecar, "s", &signed).read(dialect).await;
        assert!(read.text.contains(SECRET_EVENT), "{dialect}: {read:?}");
    }
    assert_eq!(head(&database, "s").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_gives_what_it_says_and_no_more() {
    let (database, sidecar) = setup(&["--allow", "user-{sub}-*=write,shared=read"]).await;
    let mut written = 1;
    for dialect in DIALECTS {
        for (name, allowed, may_read, may_write) in [
            ("read", json!({"s": "read"}), true, false),
            ("write", json!({"s": "write"}), true, true),
            ("by the beginning", json!({"s*": "write", "t": "read"}), true, true),
            ("the most counts", json!({"*": "read", "s": "admin"}), true, true),
            ("another", json!({"ss": "write"}), false, false),
        ] {
            let token = token(allowed);
            let caller = Caller::with_token(&sidecar, "s", &token);
            let read = caller.read(dialect).await;
            assert_eq!(read.text.contains(SECRET_EVENT), may_read, "{dialect}, {name}: {read:?}");
            if WRITERS.contains(&dialect) {
                let answer = caller.write(dialect, chain(written, 1)).await;
                written += i64::from(may_write);
                assert_eq!(head(&database, "s").await, written, "{dialect}, {name}: {answer:?}");
                assert_eq!(answer.text.contains("not allowed"), !may_write, "{dialect}, {name}: {answer:?}");
            }
        }
    }
    for (store, user, may_write) in
        [("user-ann-1", "ann", true), ("user-ann-2", "eve", false), ("shared", "ann", false)]
    {
        let token = Signer::secret(SECRET).token(user);
        let answer = Caller::with_token(&sidecar, store, &token).write("electric", chain(0, 1)).await;
        assert_eq!(head(&database, store).await, i64::from(may_write), "{store}, {user}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn administering_takes_a_token_for_it_and_the_secret() {
    let (database, _) = setup(&[]).await;
    let arguments = [&WITH_SECRET[..], &["--admin-secret", "hunter2"]].concat();
    let sidecar = Start::new(database.url("admin")).arguments(&arguments).ready().await;
    for (access, secret, refusal) in [
        ("write", "hunter2", Some("does not allow to administer")),
        ("admin", "hunter3", Some("Invalid admin secret")),
        ("admin", "hunter2", None),
    ] {
        for request in ["WSMessage.AdminInfoReq", "WSMessage.AdminResetRoomReq"] {
            let url = format!("{}/websocket?storeId=s&token={}", sidecar.url(), token(json!({"s": access})));
            let mut rpc = Rpc::connect_with(&url, &[]).await.unwrap();
            rpc.send(json!({"_tag": request, "requestId": "1", "adminSecret": secret})).await;
            let answer = rpc.frame().await;
            let is_error = answer["_tag"] == "WSMessage.Error";
            assert_eq!(is_error, refusal.is_some(), "{access}, {secret}: {answer}");
            assert!(refusal.is_none_or(|refusal| answer.to_string().contains(refusal)), "{answer}");
        }
        assert_eq!(head(&database, "s").await, i64::from(refusal.is_some()), "{access}, {secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_may_be_in_the_header_the_payload_the_query_or_a_cookie() {
    let (_database, sidecar) = setup(&["--cors-origins", "https://app.example"]).await;
    let (good, other) = (token(json!({"s": "write"})), token(json!({"t": "write"})));
    let payload = |token: &str| {
        let json = json!({"authToken": token}).to_string();
        // A payload is encoded once more than the query is.
        ("payload", reqwest::Url::parse_with_params("http://h/", [("p", &json)]).unwrap().query().unwrap()[2..].into())
    };
    let cookie = ("cookie", format!("a=b; auth_token={good}"));
    let origin = |origin: &str| ("origin", origin.to_string());
    let site = |site: &str| ("sec-fetch-site", site.to_string());
    let bearer = |token: &str| ("authorization", format!("Bearer {token}"));
    let query = |token: &str| ("token", token.to_string());
    let cases = [
        ("header", vec![bearer(&good)], vec![], true),
        ("header of another store", vec![bearer(&other)], vec![query(&good)], false),
        ("query", vec![], vec![query(&good)], true),
        ("payload before query", vec![], vec![payload(&good), query(&other)], true),
        ("header before payload", vec![bearer(&other)], vec![payload(&good)], false),
        ("cookie", vec![cookie.clone(), origin("https://app.example")], vec![], true),
        ("query before cookie", vec![cookie.clone(), origin("https://app.example")], vec![query(&other)], false),
        ("cookie of a foreign page", vec![cookie.clone(), origin("https://evil.example")], vec![], false),
        ("cookie of no page", vec![cookie.clone()], vec![], false),
        ("cookie of a page beside us", vec![cookie.clone(), site("same-origin")], vec![], true),
        ("cookie of a page of another site", vec![cookie.clone(), site("cross-site")], vec![], false),
        // As React Native sends it with a WebSocket: the Origin is that of the server.
        ("header, and no page", vec![bearer(&good), origin("https://sync.example")], vec![], true),
        ("header before cookie", vec![bearer(&other), cookie.clone(), origin("https://evil.example")], vec![], false),
        ("query of a foreign page", vec![origin("https://evil.example")], vec![query(&good)], false),
    ];
    for dialect in DIALECTS {
        for (name, headers, query, is_let_in) in &cases {
            // The others have their payloads in their requests.
            if query.iter().any(|(name, _)| *name == "payload") && !["cf-ws", "cf-http", "cf-0.3"].contains(&dialect) {
                continue;
            }
            let (headers, query) = (headers.clone(), query.clone());
            let read = Caller { headers, query, ..Caller::new(&sidecar, "s") }.read(dialect).await;
            assert_eq!(read.text.contains(SECRET_EVENT), *is_let_in, "{dialect}, {name}: {read:?}");
        }
    }
}

async fn open(dialect: &str, sidecar: &Sidecar, token: &str) -> Client {
    let node = if dialect == "cf-0.3" { Node::sync_backend_0_3() } else { Node::sync_backend() };
    node.open_with(dialect, &sidecar.url(), "s", json!({"payload": {"authToken": token}})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn npm_clients_send_their_token_as_sync_payload() {
    let (_database, sidecar) = setup(&[]).await;
    let mut head = 1;
    for dialect in ["cf-ws", "cf-http", "cf-0.3"] {
        let writer = open(dialect, &sidecar, &token(json!({"s": "write"}))).await;
        let reader = open(dialect, &sidecar, &token(json!({"s": "read"}))).await;
        writer.push(chain(head, 2)).await.unwrap();
        head += 2;
        assert_eq!(numbers(&reader.pull(None).await.unwrap()).last(), Some(&head), "{dialect}");
        let refused = reader.push(chain(head, 1)).await.unwrap_err();
        assert!(refused.to_string().contains("not allowed to push"), "{dialect}: {refused}");
    }
    for dialect in ["electric", "s2"] {
        let reader = open(dialect, &sidecar, &token(json!({"s": "read"}))).await;
        assert_eq!(numbers(&reader.pull(None).await.unwrap()).last(), Some(&head), "{dialect}");
        let stranger = open(dialect, &sidecar, &token(json!({"t": "read"}))).await;
        let refused = stranger.pull(None).await.unwrap_err();
        assert!(refused.to_string().contains("not allowed to"), "{dialect}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_in_react_native_sends_its_token_as_a_header() {
    let (_database, sidecar) = setup(&["--cors-origins", "https://app.example"]).await;
    let node = Node::sync_backend();
    let app = json!({"origin": "https://sync.example", "token": token(json!({"s": "write"}))});
    node.call("native", app).await.unwrap();
    let client = node.open("cf-ws", &sidecar.url(), "s").await;
    let mut live = client.live(None).await;
    client.push(chain(1, 1)).await.unwrap();
    assert_eq!(numbers(&live.events(2).await), [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_takes_its_streams_with_it() {
    let (database, sidecar) = setup(&[]).await;
    let first =
        shape::get(&sidecar, &[("table", "eventlog_6_s"), ("offset", "-1"), ("token", &token(json!({"s": "read"})))]);
    let first = shape::Answer::to(first).await;
    let position = (first.offset(), first.handle());
    let admin = database.admin().await;
    let batch = json!([event(0, SECRET_EVENT, json!({}))]);
    admin.execute("select livestore.push('held', $1)", &[&batch]).await.unwrap();
    let ends = now() + 10;
    let token = token_with(json!({"exp": ends}));
    let caller = Caller::with_token(&sidecar, "s", &token);
    let websocket = async |dialect: &str| {
        let mut rpc = caller.follow(dialect).await.unwrap();
        assert_eq!(rpc.closed().await, Received::Close(4401), "{dialect}");
    };
    let waiting = async |dialect: &str| {
        let answer = caller.wait(dialect, position).await;
        assert!(!answer.text.contains("afterTheEnd"), "{dialect}: {answer:?}");
    };
    tokio::join!(
        websocket("cf-ws"),
        websocket("cf-0.3"),
        // As after a reconnect: without a pull.
        async {
            let mut rpc = Rpc::connect(&format!("{}/websocket?storeId=s&token={token}", sidecar.url())).await;
            rpc.send(json!({"_tag": "WSMessage.Ping", "requestId": "ping"})).await;
            assert_eq!(rpc.closed().await, Received::Close(4401), "cf-0.3 without a pull");
        },
        // A push that is under way is acknowledged first.
        async {
            let mut rpc = Caller::with_token(&sidecar, "held", &token).follow("cf-0.3").await.unwrap();
            admin
                .batch_execute("begin; select from livestore.stores where store_id = 'held' for update")
                .await
                .unwrap();
            rpc.send(json!({"_tag": "WSMessage.PushReq", "requestId": "held", "batch": chain(1, 1)})).await;
            tokio::time::sleep(Duration::from_secs(12)).await;
            admin.batch_execute("commit").await.unwrap();
            while !rpc.frame().await.to_string().contains("WSMessage.PushAck") {}
            assert_eq!(rpc.closed().await, Received::Close(4401), "cf-0.3 with a push");
            assert_eq!(head(&database, "held").await, 2);
        },
        waiting("electric"),
        waiting("electric-shape"),
        waiting("electric-shape (SSE)"),
        waiting("s2"),
        waiting("s2-rest"),
        async {
            tokio::time::sleep(Duration::from_secs(11)).await;
            let batch = json!([event(1, "afterTheEnd", json!({}))]);
            database.admin().await.execute("select livestore.push('s', $1)", &[&batch]).await.unwrap();
        }
    );
    for dialect in DIALECTS {
        let read = caller.read(dialect).await;
        assert!(read.text.contains("expired"), "{dialect}: {read:?}");
    }
}
