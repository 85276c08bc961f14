//! The inspector over HTTP: access, escaping, pages of stores and events. `inspector_browsers` looks at it in browsers.

use livestore_tests::cluster::Database;
use livestore_tests::flavour::is_skipped;
use livestore_tests::rpc::Rpc;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::sse::Messages;
use livestore_tests::tokens::{SECRET as TOKEN_SECRET, Signer, WITH_SECRET, now};
use reqwest::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, LOCATION, SET_COOKIE};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SECRET: &str = "a secret for the inspector";

/// Asks as a browser does that shows a page of this origin.
struct Visitor {
    client: Client,
    url: String,
    cookie: Option<String>,
}

impl Visitor {
    fn of(sidecar: &Sidecar) -> Self {
        let client = Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { client, url: sidecar.http_url(), cookie: None }
    }

    async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = self.client.get(format!("{}{path}", self.url)).header("accept", "text/html");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(cookie) = &self.cookie {
            request = request.header("cookie", cookie);
        }
        request.send().await.unwrap()
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let response = self.get_with(path, &[]).await;
        (response.status().as_u16(), response.text().await.unwrap())
    }

    async fn post_from(&self, origin: &str, path: &str, form: &[(&str, &str)]) -> Response {
        let mut request = self.client.post(format!("{}{path}", self.url)).form(form);
        if !origin.is_empty() {
            request = request.header("origin", origin);
        }
        if let Some(cookie) = &self.cookie {
            request = request.header("cookie", cookie);
        }
        request.send().await.unwrap()
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> (u16, String) {
        let response = self.post_from(&self.url, path, form).await;
        (response.status().as_u16(), response.text().await.unwrap())
    }

    /// Logs in; the answer is the text of the page if that fails.
    async fn log_in(&mut self, key: &str) -> Result<(), String> {
        let response = self.post_from(&self.url.clone(), "/inspector/login", &[("key", key)]).await;
        match response.headers().get(SET_COOKIE) {
            Some(cookie) => {
                let cookie = cookie.to_str().unwrap();
                assert!(cookie.contains("; HttpOnly; SameSite=Strict"), "{cookie}");
                self.cookie = Some(cookie.split(';').next().unwrap().into());
                assert_eq!(response.status(), 303);
                Ok(())
            }
            None => Err(response.text().await.unwrap()),
        }
    }
}

/// The log of a store, as forms that change it name it.
async fn life(database: &Database, store: &str) -> String {
    database.admin().await.query_one("select livestore.backend_id($1)", &[&store]).await.unwrap().get(0)
}

async fn head(database: &Database, store: &str) -> i64 {
    database.admin().await.query_one("select livestore.head($1)", &[&store]).await.unwrap().get(0)
}

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
async fn the_secret_administers_if_the_role_may_and_what_was_typed_is_right() {
    let database = Database::new().await;
    let admin = database.admin().await;
    admin
        .batch_execute("select livestore.commit('todos', 'e', '{\"n\": 1}'), livestore.commit('todos', 'f')")
        .await
        .unwrap();
    let start = Start::new(database.url("admin")).arguments(&["--inspector-secret", SECRET, "--insecure-no-auth"]);
    let sidecar = start.ready().await;
    let mut visitor = Visitor::of(&sidecar);
    // Without a secret, it would be open to whoever the proxy in front brings.
    assert_eq!(visitor.get("/inspector").await.0, 401);
    assert!(visitor.log_in("a secret for the inspecto").await.unwrap_err().contains("this is not the secret"));
    visitor.log_in(SECRET).await.unwrap();
    assert!(visitor.get("/inspector/event?id=todos&number=1").await.1.contains("Rewrite"));

    let shown = life(&database, "todos").await;
    let rewrite = |confirmation| {
        [
            ("store", "todos"),
            ("life", &*shown),
            ("number", "1"),
            ("name", "e"),
            ("args", "{\"n\": 2}"),
            ("reason", "a test"),
            ("confirmation", confirmation),
        ]
    };
    let args = async || -> String {
        let args = "select coalesce(args::text, 'none') from livestore.events where seq_num = 1";
        admin.query_one(args, &[]).await.unwrap().get(0)
    };
    assert_eq!(visitor.post("/inspector/rewrite", &rewrite("2")).await.0, 400);
    assert_eq!(args().await, "{\"n\": 1}");
    assert_eq!(visitor.post("/inspector/rewrite", &rewrite("1")).await.0, 303);
    assert_eq!(args().await, "{\"n\": 2}");
    let erase = [
        ("store", "todos"),
        ("life", &shown),
        ("number", "1"),
        ("args", "{}"),
        ("reason", "asked"),
        ("confirmation", "1"),
    ];
    assert_eq!(visitor.post("/inspector/erase", &erase).await.0, 303);
    assert_eq!(args().await, "{}");

    let (status, lines) = visitor.get("/inspector/export?id=todos").await;
    let exported: String = admin
        .query_one("select string_agg(l, E'\\n') || E'\\n' from livestore.export_store('todos') l", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!((status, lines), (200, exported));

    // A dead letter is given out again.
    admin
        .batch_execute(
            "select livestore.subscribe('mine');
             insert into livestore.dead_letters (subscription, partition, store_id, seq_num, name, failures, error)
             values ('mine', 0, 'todos', 1, 'e', 3, '<b>why</b>')",
        )
        .await
        .unwrap();
    let (_, text) = visitor.get("/inspector/subscriptions").await;
    assert!(text.contains("&lt;b&gt;why") && text.contains("Send again"), "{text}");
    let id = text.split("name=\"id\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(visitor.post("/inspector/resend", &[("id", id)]).await.0, 303);
    let queued = "select is_queued from livestore.dead_letters";
    assert!(admin.query_one(queued, &[]).await.unwrap().get::<_, bool>(0));

    for (action, confirmation, status) in [("reset", "todo", 400), ("reset", "todos", 303), ("drop", "todos", 303)] {
        let life = life(&database, "todos").await;
        let form = [("store", "todos"), ("life", &life), ("confirmation", confirmation)];
        assert_eq!(visitor.post(&format!("/inspector/{action}"), &form).await.0, status, "{action}");
    }
    let stores: i64 = admin.query_one("select count(*) from livestore.stores", &[]).await.unwrap().get(0);
    assert_eq!(stores, 0);
    // A session of another secret.
    let other = Start::new(database.url("admin")).arguments(&[
        "--inspector-secret",
        "another secret of 24 b",
        "--insecure-no-auth",
    ]);
    let other = other.ready().await;
    let stranger = Visitor { cookie: visitor.cookie.clone(), ..Visitor::of(&other) };
    assert_eq!(stranger.get("/inspector").await.0, 401);
}

/// The fields of a form as a browser sends them, with what was typed.
fn filled_in(page: &str, action: &str, typed: &[(&str, &str)]) -> Vec<(String, String)> {
    let form = page.split(&format!("action=\"{action}\"")).nth(1).unwrap().split("</form>").next().unwrap();
    let unescaped =
        |text: &str| text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&");
    let mut fields = Vec::new();
    for tag in form.split('<').skip(1) {
        let (tag, content) = tag.split_once('>').unwrap();
        let value = |name: &str| {
            let value = tag.split(&format!(" {name}=\"")).nth(1)?;
            Some(unescaped(value.split('"').next()?))
        };
        if tag.starts_with("textarea") {
            let content = content.replace("\r\n", "\n").replace('\r', "\n");
            let content = content.strip_prefix('\n').unwrap_or(&content);
            fields.push((value("name").unwrap(), unescaped(content).replace('\n', "\r\n")));
        } else if tag.starts_with("input type=\"hidden\"") {
            fields.push((value("name").unwrap(), value("value").unwrap()));
        }
    }
    fields.extend(typed.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    fields
}

fn borrowed(form: &[(String, String)]) -> Vec<(&str, &str)> {
    form.iter().map(|(name, value)| (&**name, &**value)).collect()
}

/// After a reset, another event has the number that was on the page.
#[tokio::test(flavor = "multi_thread")]
async fn a_form_of_a_log_that_was_reset_changes_nothing() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let start = Start::new(database.url("admin")).arguments(&["--inspector-secret", SECRET, "--insecure-no-auth"]);
    let sidecar = start.ready().await;
    let mut visitor = Visitor::of(&sidecar);
    visitor.log_in(SECRET).await.unwrap();
    admin.batch_execute("select livestore.commit('todos', 'old', '{}')").await.unwrap();
    let mut forms = Vec::new();
    for (page, action, confirmation) in [
        ("event?id=todos&number=1", "/inspector/rewrite", "1"),
        ("event?id=todos&number=1", "/inspector/erase", "1"),
        ("confirm?action=reset&id=todos", "/inspector/reset", "todos"),
        ("confirm?action=drop&id=todos", "/inspector/drop", "todos"),
    ] {
        let (_, page) = visitor.get(&format!("/inspector/{page}")).await;
        forms.push((action, filled_in(&page, action, &[("reason", ""), ("confirmation", confirmation)])));
    }
    admin.batch_execute("select livestore.reset_store('todos'), livestore.commit('todos', 'new', '1')").await.unwrap();
    let log = async || -> String {
        let log = "select string_agg(concat(name, args), ',') from livestore.events";
        admin.query_one(log, &[]).await.unwrap().get(0)
    };
    for (action, mut form) in forms {
        let (status, text) = visitor.post(action, &borrowed(&form)).await;
        assert!(status == 422 && text.contains("was reset"), "{action}: {status} {text}");
        form.retain(|(name, _)| name != "life");
        let (status, text) = visitor.post(action, &borrowed(&form)).await;
        assert!(status == 400 && text.contains("load the page anew"), "{action}: {status} {text}");
        assert_eq!(log().await, "new1", "{action}");
    }
    assert_eq!(visitor.get("/inspector/confirm?action=drop&id=none").await.0, 404);
}

/// A form has less than the event: the beginning of a long name, and line breaks as browsers make them.
#[tokio::test(flavor = "multi_thread")]
async fn a_rewrite_changes_nothing_that_nobody_has_touched() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let start = Start::new(database.url("admin")).arguments(&["--inspector-secret", SECRET, "--insecure-no-auth"]);
    let sidecar = start.ready().await;
    let mut visitor = Visitor::of(&sidecar);
    visitor.log_in(SECRET).await.unwrap();
    let names = ["n".repeat(400), "\nlead".into(), "a\rb".into(), " & <e>\n".into(), "<".repeat(300)];
    for (number, name) in (1..).zip(&names) {
        let args = "{\n\n\"a\": \"<&\\\"\"\n}";
        admin.execute("select livestore.commit('todos', $1, $2::text::json)", &[name, &args]).await.unwrap();
        let (_, page) = visitor.get(&format!("/inspector/event?id=todos&number={number}")).await;
        let typed = [("reason", "a test"), ("confirmation", &*number.to_string())];
        let form = filled_in(&page, "/inspector/rewrite", &typed);
        let (status, text) = visitor.post("/inspector/rewrite", &borrowed(&form)).await;
        assert_eq!(status, 303, "{text}");
        let event = "select name, args::text from livestore.events where seq_num = $1";
        let event = admin.query_one(event, &[&i64::from(number)]).await.unwrap();
        assert_eq!((event.get::<_, &str>(0), event.get::<_, &str>(1)), (&**name, args));
    }
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

/// Everything that a client can write is shown as text.
#[tokio::test(flavor = "multi_thread")]
async fn what_clients_send_is_escaped() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let evil = "\"><script>alert(1)</script><img src=x onerror=alert(2)>'";
    let event = json!([{"name": evil, "args": {evil: evil}, "seqNum": 1, "parentSeqNum": 0, "clientId": evil, "sessionId": evil}]);
    let admin = database.admin().await;
    admin.execute("select livestore.push($1, $2::text::json)", &[&evil, &event.to_string()]).await.unwrap();
    let visitor = Visitor::of(&sidecar);
    let id = "%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E%3Cimg%20src%3Dx%20onerror%3Dalert(2)%3E'";
    // A client that is refused, and one that follows.
    let url = format!("{}/?storeId={id}&transport=ws", sidecar.url());
    let mut follower = Rpc::connect_with(&url, &[("user-agent", evil)]).await.unwrap();
    follower.pull(json!("1"), evil, true).await;
    follower.frame().await;
    for path in [
        "/inspector/stores".to_owned(),
        "/inspector/stores?recent=1".into(),
        format!("/inspector/stores?prefix={id}"),
        format!("/inspector/store?id={id}&name={id}&client={id}"),
        format!("/inspector/rows?id={id}"),
        format!("/inspector/event?id={id}&number=1"),
        format!("/inspector/confirm?action=reset&id={id}"),
        format!("/inspector/store?id=no{id}"),
    ] {
        let (status, text) = visitor.get(&path).await;
        assert!([200, 404].contains(&status), "{path}: {status}");
        assert!(
            text.contains("&lt;script&gt;") && !text.contains("<script>") && !text.contains("<img"),
            "{path}: {text}"
        );
    }
    for path in [
        "/inspector/store?id=",
        "/inspector/store?id=a%00",
        "/inspector/store?id=s&since=soon",
        "/inspector/event?id=s&number=x",
    ] {
        let (status, text) = visitor.get(path).await;
        assert!(status == 400, "{path}: {status} {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stores_are_listed_by_pages_and_found_by_the_beginnings_of_their_ids() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    admin
        .batch_execute(
            "select livestore.create_store(format('user-%s', lpad(g::text, 4, '0'))) from generate_series(1, 250) g;
             select livestore.create_store(s) from unnest(array['user_x', 'user:1', 'user 2', 'Üser', '100%', '100x']) s;
             select livestore.commit('user-0007', 'e')",
        )
        .await
        .unwrap();
    let visitor = Visitor::of(&sidecar);
    let list = async |first: &str| {
        let (mut all, mut path) = (Vec::new(), Some(first.to_owned()));
        while let Some(next) = path.take() {
            let (status, text) = visitor.get(&next).await;
            assert_eq!(status, 200, "{next}: {text}");
            all.extend(text.split("<td><a href=\"/inspector/store?id=").skip(1).map(|cell| {
                cell.split("<code>").nth(1).and_then(|cell| cell.split("</code>").next()).unwrap().to_owned()
            }));
            path = text
                .split("<a rel=\"next\" href=\"")
                .nth(1)
                .map(|link| link.split('"').next().unwrap().replace("&amp;", "&"));
        }
        all
    };
    let all = list("/inspector/stores").await;
    assert_eq!((all.len(), all[0].as_str(), all[255].as_str()), (256, "100x", "user-0001"));
    let users = list("/inspector/stores?prefix=user-").await;
    assert_eq!((users.len(), users[0].as_str(), users[249].as_str()), (250, "user-0001", "user-0250"));
    assert_eq!(list("/inspector/stores?prefix=user%3A").await, ["user:1"]);
    assert_eq!(list("/inspector/stores?prefix=%C3%9C").await, ["Üser"]);
    assert_eq!(list("/inspector/stores?prefix=100%25").await, ["100%"]);
    assert_eq!(list("/inspector/stores?prefix=nothing").await, [""; 0]);
    assert_eq!(list("/inspector/stores?recent=1").await, ["user-0007"]);
}

/// Pages of events, and filters.
#[tokio::test(flavor = "multi_thread")]
async fn events_are_listed_by_pages_and_filters() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    admin
        .batch_execute(
            "select livestore.push('todos', (select json_agg(json_build_object('name', case when g % 50 = 0 then 'rare' else 'usual' end,
                 'seqNum', g, 'parentSeqNum', g - 1, 'clientId', 'c' || g % 3, 'sessionId', 's', 'args', json_build_object('n', g)) order by g)
             from generate_series(1, 1000) g))",
        )
        .await
        .unwrap();
    let visitor = Visitor::of(&sidecar);
    let numbers = async |query: &str| -> Vec<i64> {
        let (status, text) = visitor.get(&format!("/inspector/rows?id=todos{query}")).await;
        assert_eq!(status, 200, "{text}");
        text.split("data-seq=\"").skip(1).map(|row| row.split('"').next().unwrap().parse().unwrap()).collect()
    };
    assert_eq!(numbers("").await, (801..=1000).rev().collect::<Vec<_>>());
    assert_eq!(numbers("&before=801").await, (601..=800).rev().collect::<Vec<_>>());
    assert_eq!(numbers("&after=0").await, (1..=200).rev().collect::<Vec<_>>());
    assert_eq!(numbers("&at=3").await, [3, 2, 1]);
    assert_eq!(numbers("&name=rare&before=200").await, [150, 100, 50]);
    assert_eq!(numbers("&name=rare&client=c0&since=2020-01-01T00:00").await.len(), 6);
    assert_eq!(numbers("&since=2200-01-01T00:00").await, [0; 0]);
    let (_, text) = visitor.get("/inspector/store?id=todos&at=900").await;
    assert!(text.contains("after=900") && text.contains("before=701") && !text.contains("data-follow"));
    let refused =
        visitor.post_from(&visitor.url, "/inspector/commit", &[("store", "todos"), ("name", ""), ("args", "")]).await;
    assert_eq!((refused.status().as_u16(), refused.headers().get(LOCATION)), (400, None));
}

/// A push is within the limits of clients, and hooks know whose it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_with_a_token_is_a_push_of_its_subject() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let hook = "create function public.check_role() returns trigger language plpgsql as $$
        begin
            if livestore.current_claims()->>'role' is distinct from 'editor' then
                raise exception 'only editors';
            end if;
            return new;
        end $$;
        create trigger check_role before insert on livestore.eventlog_1 for each row execute function public.check_role()";
    admin.batch_execute(hook).await.unwrap();
    let sidecar = Start::new(database.url("sidecar")).arguments(&WITH_SECRET).arguments(&["--max-event-bytes", "2000"]);
    let sidecar = sidecar.ready().await;
    let signer = Signer::secret(TOKEN_SECRET);
    let token =
        |role: &str| signer.sign(&json!({"sub": "ann", "exp": now() + 60, "livestore": {"*": "write"}, "role": role}));
    let mut visitor = Visitor::of(&sidecar);
    let event = |args: String| [("store", "todos".to_owned()), ("name", "made".into()), ("args", args)];
    let post = async |visitor: &Visitor, args: String| {
        let form = event(args);
        let form: Vec<(&str, &str)> = form.iter().map(|(name, value)| (*name, value.as_str())).collect();
        visitor.post("/inspector/commit", &form).await
    };
    visitor.log_in(&token("viewer")).await.unwrap();
    let (status, text) = post(&visitor, "{}".into()).await;
    assert!(status == 422 && text.contains("only editors"), "{status} {text}");
    visitor.log_in(&token("editor")).await.unwrap();
    assert_eq!(post(&visitor, "{}".into()).await.0, 303);
    assert_eq!(post(&visitor, format!("\"{}\"", "x".repeat(3000))).await.0, 422);
    let session = "select session_id from livestore.events";
    assert_eq!(admin.query_one(session, &[]).await.unwrap().get::<_, String>(0), "ann");
}

/// Statements of pages whose readers are gone run to their end, one after the other, and clients are served meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn readers_that_leave_keep_no_client_waiting() {
    let database = Database::new().await;
    let admin = database.admin().await;
    admin.batch_execute("select livestore.commit('todos', 'e')").await.unwrap();
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--database-connections", "3"]).ready().await;
    let visitor = Visitor::of(&sidecar);
    let holder = database.admin().await;
    holder.batch_execute("begin; lock table livestore.event_types in access exclusive mode").await.unwrap();
    for _ in 0..30 {
        let page = visitor.get("/inspector/store?id=todos");
        assert!(tokio::time::timeout(std::time::Duration::from_millis(20), page).await.is_err());
    }
    let mut client = Rpc::open(&sidecar.url(), "todos").await;
    client.pull(json!("1"), "todos", false).await;
    let start = std::time::Instant::now();
    assert_eq!(client.frame().await["_tag"], "Chunk");
    assert!(start.elapsed() < std::time::Duration::from_secs(4), "{:?}", start.elapsed());
    let waiting =
        "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    let waiting: i64 = admin.query_one(waiting, &[]).await.unwrap().get(0);
    assert!(waiting <= 2, "{waiting} statements wait");
    holder.batch_execute("rollback").await.unwrap();
    assert_eq!(visitor.get("/inspector/store?id=todos").await.0, 200);
}

/// Without `only`, a page would wait for the dedicated tables of all stores.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_locked_keeps_only_its_own_store_waiting() {
    let database = Database::new().await;
    let events =
        "select livestore.commit('todos', 'e'), livestore.create_store('own', true), livestore.commit('own', 'e')";
    database.admin().await.batch_execute(events).await.unwrap();
    let sidecar = Sidecar::on(&database).await;
    let visitor = Visitor::of(&sidecar);
    let holder = database.admin().await;
    holder.batch_execute("begin; lock table livestore.eventlog_1_own in access exclusive mode").await.unwrap();
    for path in ["store?id=todos", "rows?id=todos&name=rare", "event?id=todos&number=1", "export?id=todos", "stores"] {
        let (status, text) = visitor.get(&format!("/inspector/{path}")).await;
        assert_eq!(status, 200, "{path}: {text}");
    }
    let (status, text) = visitor.get("/inspector/store?id=own").await;
    assert!(status == 503 && text.contains("another transaction holds a table"), "{status} {text}");
    holder.batch_execute("rollback").await.unwrap();
    assert_eq!(visitor.get("/inspector/store?id=own").await.0, 200);
}

/// A page that was away learns that its log is another one now.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_log_that_was_reset_is_told() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    admin.batch_execute("select livestore.commit('a\nb', 'e'), livestore.commit('todos', 'e')").await.unwrap();
    let visitor = Visitor::of(&sidecar);
    let (_, text) = visitor.get("/inspector/store?id=todos").await;
    let follow = text.split("data-follow=\"").nth(1).unwrap().split('"').next().unwrap().replace("&amp;", "&");
    admin.batch_execute("select livestore.reset_store('todos'), livestore.commit('todos', 'f')").await.unwrap();
    // The stream ends with the event that says so.
    let mut answer = visitor.get_with(&follow, &[]).await;
    let mut said = String::new();
    while !said.contains("event: end") {
        let chunk = answer.chunk().await.unwrap().expect("more");
        said.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert!(said.contains("reset or dropped") && !said.contains("event: following"), "{said}");

    // Line breaks in ids survive forms, which browsers send with other ones.
    let (_, text) = visitor.get("/inspector/store?id=a%0Ab").await;
    assert!(text.contains("name=\"store\" value=\"a%0Ab\"") && text.contains("name=\"key\" value=\"a%0Ab\""), "{text}");
    let commit = [("store", "a%0Ab"), ("name", "made"), ("args", "")];
    assert_eq!(visitor.post("/inspector/commit", &commit).await.0, 303);
    assert_eq!(head(&database, "a\nb").await, 2);
    assert_eq!(visitor.get("/inspector/store?key=a%250Ab&name=made").await.0, 200);
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

/// Clients choose the names of events: a page must not grow with them.
#[tokio::test(flavor = "multi_thread")]
async fn long_names_of_clients_make_no_large_pages() {
    let database = Database::new().await;
    let admin = database.admin().await;
    let long = "<".repeat(500_000);
    for parent in 0..4 {
        let event = json!([{"seqNum": parent + 1, "parentSeqNum": parent, "name": long, "args": {}, "clientId": long, "sessionId": long}]);
        admin.execute("select livestore.push('s', $1)", &[&event]).await.unwrap();
    }
    let sidecar = Sidecar::on(&database).await;
    let visitor = Visitor::of(&sidecar);
    for path in ["/inspector/store?id=s", "/inspector/rows?id=s", "/inspector/event?id=s&number=1"] {
        let (status, page) = visitor.get(path).await;
        assert_eq!(status, 200, "{path}: {}", &page[..page.len().min(300)]);
        assert!(page.len() < 100_000, "{path}: {} bytes", page.len());
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

/// A filter is for the whole name, of which a page shows the beginning.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_page_finds_events_by_long_names() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let long = "n".repeat(400);
    let event = |n: i64, end: &str| {
        let name = format!("{long}{end}");
        json!({"seqNum": n, "parentSeqNum": n - 1, "name": name, "args": {}, "clientId": name, "sessionId": "s"})
    };
    let events = json!([event(1, "other"), event(2, "")]);
    database.admin().await.execute("select livestore.push('s', $1)", &[&events]).await.unwrap();
    let visitor = Visitor::of(&sidecar);
    let path = format!("/inspector/follow?id=s&name={long}&client={long}&after=0");
    let mut messages = Messages::of(visitor.client.get(format!("{}{path}", visitor.url))).await;
    let rows = loop {
        let message = messages.next().await.unwrap();
        if message.event == "rows" && message.json()[0] == 2 {
            break message.json()[1].as_str().unwrap().to_owned();
        }
    };
    assert!(rows.contains("data-seq=\"2\"") && !rows.contains("data-seq=\"1\""), "{rows}");
}

/// A member of `livestore_admin` that does not inherit its rights would only be told "permission denied".
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_offered_that_the_role_may_not_do() {
    let database = Database::new().await;
    let roles = "create role aside noinherit in role livestore_admin; create role careful login in role livestore_writer, aside;
        select livestore.commit('todos', 'e')";
    database.admin().await.batch_execute(roles).await.unwrap();
    for (role, may_administer) in [("admin", true), ("careful", false)] {
        let sidecar = Start::new(database.url(role)).arguments(&["--inspector-secret", SECRET]).ready().await;
        let mut visitor = Visitor::of(&sidecar);
        visitor.log_in(SECRET).await.unwrap();
        for (path, offer) in [("store?id=todos", "action=reset"), ("event?id=todos&number=1", "Rewrite")] {
            let (status, text) = visitor.get(&format!("/inspector/{path}")).await;
            assert_eq!((status, text.contains(offer)), (200, may_administer), "{role}, {path}: {text}");
        }
    }
}
