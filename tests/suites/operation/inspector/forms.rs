//! Changes by the forms of the inspector.

use livestore_tests::cluster::Database;
use livestore_tests::sidecar::Start;
use livestore_tests::tokens::{SECRET as TOKEN_SECRET, Signer, WITH_SECRET, now};
use serde_json::json;

use super::{SECRET, Visitor, life};

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
