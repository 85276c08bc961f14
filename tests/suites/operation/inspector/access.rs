//! Access to the inspector.

use livestore_tests::cluster::Database;
use livestore_tests::flavour::is_skipped;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::sse::Messages;
use livestore_tests::tokens::{SECRET as TOKEN_SECRET, Signer, WITH_SECRET, now};
use reqwest::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, SET_COOKIE};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Visitor, head, life};

#[tokio::test(flavor = "multi_thread")]
async fn on_this_machine_everybody_may_look_and_commit_and_nobody_else() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    database.admin().await.batch_execute("select livestore.commit('todos', 'e')").await.unwrap();
    let visitor = Visitor::of(&sidecar);
    let response = visitor.get_with("/", &[]).await;
    assert!(response.status() == 303 && response.headers()[LOCATION] == "/inspector");
    let response = visitor.get_with("/inspector", &[]).await;
    assert_eq!(response.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
    let policy = response.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; script-src 'self';") && policy.contains("frame-ancestors 'none'"));
    assert!(response.text().await.unwrap().contains("All is well"));
    // Programs get the text.
    let text = visitor.client.get(&visitor.url).send().await.unwrap().text().await.unwrap();
    assert!(text.starts_with("livestore-sidecar"), "{text}");

    assert_eq!(visitor.get("/inspector/store?id=todos").await.0, 200);
    for (name, value) in [("x-forwarded-for", "203.0.113.9"), ("forwarded", "for=203.0.113.9"), ("via", "1.1 a")] {
        let response = visitor.get_with("/inspector/store?id=todos", &[(name, value)]).await;
        assert_eq!(response.status(), 401, "{name}");
    }
    let of_another_name = visitor.get_with("/", &[("host", "evil.example")]).await;
    assert_eq!(of_another_name.status(), 421);

    // Pages of others do not even make it work, but links to it may be followed.
    let background = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "empty")];
    assert_eq!(visitor.get_with("/inspector/rows?id=todos", &background).await.status(), 403);
    let port = [("sec-fetch-site", "same-site"), ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")];
    assert_eq!(visitor.get_with("/inspector/follow?id=todos", &port).await.status(), 403);
    let link = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
    assert_eq!(visitor.get_with("/inspector/stores", &link).await.status(), 200);

    let event = [("store", "todos"), ("name", "made"), ("args", "{\"a\": 1}")];
    for origin in ["", "null", "http://evil.example", "http://127.0.0.1:1"] {
        assert_eq!(visitor.post_from(origin, "/inspector/commit", &event).await.status(), 403, "{origin}");
    }
    assert_eq!(head(&database, "todos").await, 1);
    assert_eq!(visitor.post("/inspector/commit", &event).await.0, 303);
    let (status, text) =
        visitor.post("/inspector/commit", &[("store", "todos"), ("name", "made"), ("args", "{\"a\": ")]).await;
    assert!(status == 400 && text.contains("args are not JSON"), "{status} {text}");
    assert_eq!(head(&database, "todos").await, 2);
    // Not even who could read the form that confirms it.
    let (status, _) = visitor.post("/inspector/drop", &[("store", "todos"), ("confirmation", "todos")]).await;
    assert_eq!((status, head(&database, "todos").await), (403, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tokens_only_one_for_all_stores_opens_it_and_only_as_far_as_it_says() {
    let database = Database::new().await;
    let sidecar =
        Start::new(database.url("sidecar")).arguments(&WITH_SECRET).arguments(&["--allow", "*=write"]).ready().await;
    database.admin().await.batch_execute("select livestore.commit('todos', 'e')").await.unwrap();
    let issuer = Signer::secret(TOKEN_SECRET);
    let token = |claim: Value| issuer.sign(&json!({"sub": "ann", "exp": now() + 60, "livestore": claim}));
    let mut visitor = Visitor::of(&sidecar);
    for path in
        ["/inspector", "/inspector/stores", "/inspector/live", "/inspector/rows?id=todos", "/inspector/export?id=todos"]
    {
        let (status, text) = visitor.get(path).await;
        // A script shows the text.
        let asks = if path.ends_with("live") { "log in to look" } else { "Secret or token" };
        assert!(status == 401 && text.contains(asks) && !text.contains("todos"), "{path}: {text}");
    }
    for (claim, refusal) in [
        (json!({"todos": "admin", "t*": "admin"}), "does not give"),
        // --allow is for clients.
        (json!({}), "does not give"),
        (json!({"*": "everything"}), "malformed"),
    ] {
        let refused = visitor.log_in(&token(claim.clone())).await.unwrap_err();
        assert!(refused.contains(refusal), "{claim}: {refused}");
    }
    assert!(visitor.log_in("no token at all").await.unwrap_err().contains("not a JSON Web Token"));

    visitor.log_in(&token(json!({"*": "read"}))).await.unwrap();
    let (status, text) = visitor.get("/inspector/store?id=todos").await;
    assert!(status == 200 && text.contains("ann") && !text.contains("Commit an event"));
    let event = [("store", "todos"), ("name", "made"), ("args", "")];
    assert_eq!(visitor.post("/inspector/commit", &event).await.0, 403);
    // Their rights are checked before the body is read.
    for path in ["/inspector/commit", "/inspector/api/commit"] {
        let (status, text) = visitor.post(path, &[("nothing", "of use")]).await;
        assert!(status == 403 && text.contains("your token allows to read only"), "{path}: {status} {text}");
    }
    visitor.log_in(&token(json!({"*": "write"}))).await.unwrap();
    assert_eq!(visitor.post("/inspector/commit", &event).await.0, 303);
    assert_eq!(visitor.post("/inspector/reset", &[("store", "todos"), ("confirmation", "todos")]).await.0, 403);
    // The role of the sidecar may not, whatever the token says.
    visitor.log_in(&token(json!({"*": "admin"}))).await.unwrap();
    let reset = [("store", "todos"), ("life", &*life(&database, "todos").await), ("confirmation", "todos")];
    let (status, text) = visitor.post("/inspector/reset", &reset).await;
    assert!(status == 422 && text.contains("permission denied"), "{status} {text}");
    assert_eq!(head(&database, "todos").await, 2);
    let response = visitor.post_from(&visitor.url, "/inspector/logout", &[]).await;
    assert!(response.headers()[SET_COOKIE].to_str().unwrap().contains("Max-Age=0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_off_where_nobody_has_asked_for_it() {
    let database = Database::new().await;
    let off = Start::new(database.url("sidecar")).arguments(&["--inspector", "off"]).ready().await;
    let visitor = Visitor::of(&off);
    assert!(visitor.get("/").await.1.starts_with("livestore-sidecar"));
    assert_eq!(visitor.get("/inspector/stores").await.0, 404);

    let start = |arguments: &[&str]| {
        Start::program().args(arguments).env("DATABASE_URL", database.url("sidecar")).output().unwrap()
    };
    let open = ["--listen", "0.0.0.0:0", "--insecure-no-auth", "--inspector", "on"];
    for (arguments, reason) in [
        (&open[..], "--inspector on needs --inspector-secret"),
        (&["--inspector-secret", "short"], "less than 16 bytes"),
    ] {
        let output = start(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(reason), "{arguments:?}: {said}");
    }
}

/// Where a function decides what a token allows, a token alone does not open the pages that show everything.
#[tokio::test(flavor = "multi_thread")]
async fn an_authorize_function_is_not_gone_around() {
    let database = Database::new().await;
    let function = "create schema app; grant usage on schema app to public;
        create function app.may(store_id text, action text, payload json, headers json) returns boolean language sql
        as $$ select false $$";
    database.admin().await.batch_execute(function).await.unwrap();
    let arguments = ["--authorize-function", "app.may"];
    let sidecar = Start::new(database.url("sidecar")).arguments(&arguments).ready().await;
    let (status, text) = Visitor::of(&sidecar).get("/inspector/stores").await;
    assert!(status == 401 && text.contains("start the sidecar with --inspector-secret"), "{status} {text}");

    let sidecar = Start::new(database.url("sidecar")).arguments(&WITH_SECRET).arguments(&arguments).ready().await;
    let issuer = Signer::secret(TOKEN_SECRET);
    let token = issuer.sign(&json!({"sub": "ann", "exp": now() + 60, "livestore": {"*": "admin"}}));
    assert!(Visitor::of(&sidecar).log_in(&token).await.unwrap_err().contains("tokens are not taken here"));
}

/// However slowly it is read.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_ends_with_the_token_and_keeps_a_place_of_its_subject() {
    let database = Database::new().await;
    // More than the network holds, which is some 36 MB here.
    let events = "select livestore.commit('s', 'e', to_json(repeat('x', 1000000))) from generate_series(1, 100)";
    database.admin().await.batch_execute(events).await.unwrap();
    let arguments = ["--max-connections-per-subject", "1"];
    let sidecar = Start::new(database.url("sidecar")).arguments(&WITH_SECRET).arguments(&arguments).ready().await;
    let signer = Signer::secret(TOKEN_SECRET);
    let token = |seconds| signer.sign(&json!({"sub": "ann", "exp": now() + seconds, "livestore": {"*": "read"}}));
    for path in ["/inspector/export?id=s", "/inspector/api/export?id=s"] {
        let mut visitor = Visitor::of(&sidecar);
        visitor.log_in(&token(8)).await.unwrap();
        // Without an HTTP client, which reads ahead.
        let mut connection = TcpStream::connect(("127.0.0.1", sidecar.port())).await.unwrap();
        let cookie = visitor.cookie.as_ref().unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncookie: {cookie}\r\nconnection: close\r\n\r\n");
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut begin = [0; 12];
        connection.read_exact(&mut begin).await.unwrap();
        assert_eq!(&begin, b"HTTP/1.1 200");
        let (status, text) = visitor.get("/inspector/stores").await;
        assert!(status == 503 && text.contains("connections"), "{status} {text}");
        tokio::time::sleep(std::time::Duration::from_secs(9)).await;
        // It breaks off: the last chunk would make it look whole.
        let mut rest = Vec::new();
        let _ = connection.read_to_end(&mut rest).await;
        assert!(!rest.ends_with(b"0\r\n\r\n") && rest.len() < 90_000_000, "{path}: {} bytes", rest.len());
        visitor.log_in(&token(60)).await.unwrap();
        assert_eq!(visitor.get("/inspector/stores").await.0, 200);
    }
}

/// A sidecar serves clients from it.
#[tokio::test(flavor = "multi_thread")]
async fn the_inspector_names_the_update_that_it_needs() {
    if is_skipped("no release has it") {
        return;
    }
    let database = Database::new().await;
    let older = "drop extension livestore_sync; create extension livestore_sync version '0.3.0'; select livestore.commit('s', 'e')";
    database.admin().await.batch_execute(older).await.unwrap();
    let sidecar = Sidecar::on(&database).await;
    let visitor = Visitor::of(&sidecar);
    for path in ["/inspector/stores", "/inspector/store?id=s", "/inspector/api/export?id=s"] {
        let (status, page) = visitor.get(path).await;
        assert!(
            status == 503 && page.contains("the inspector needs version 0.4.0 of the extension"),
            "{path}: {status} {page}"
        );
    }
}

/// Pages do not come back for what has ended for good, and do for what has not.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_live_ends_with_the_session_and_says_so() {
    let database = Database::new().await;
    database.admin().await.batch_execute("select livestore.commit('todos', 'e')").await.unwrap();
    let sidecar =
        Start::new(database.url("sidecar")).arguments(&WITH_SECRET).arguments(&["--max-connections-per-subject", "2"]);
    let sidecar = sidecar.ready().await;
    let token = |seconds| {
        let claims = json!({"sub": "ann", "exp": now() + seconds, "livestore": {"*": "read"}});
        Signer::secret(TOKEN_SECRET).sign(&claims)
    };
    let mut visitor = Visitor::of(&sidecar);
    visitor.log_in(&token(8)).await.unwrap();
    let follow = async |path: &str| {
        let request = visitor.client.get(format!("{}{path}", visitor.url));
        Messages::of(request.header("cookie", visitor.cookie.as_ref().unwrap())).await
    };
    let figures = follow("/inspector/live").await;
    let mut events = follow("/inspector/follow?id=todos&after=1").await;
    assert_eq!(events.next().await.unwrap().event, "following");
    let (status, text) = visitor.get("/inspector").await;
    assert!(status == 503 && text.contains("too many connections"), "{status} {text}");
    for messages in [figures, events] {
        let last = messages.rest().await.pop().unwrap();
        assert_eq!((last.event.as_str(), last.data.as_str()), ("end", "Your session has ended: log in again."));
    }
    // Tokens are good to the end of a second.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(visitor.get("/inspector/live").await.0, 401);
}
