//! A real Electric server behind the sidecar (`--electric-url`), or rather a stand-in for one: see `livestore_tests::electric`.

use std::time::{Duration, Instant};

use livestore_tests::client::{Client, Node};
use livestore_tests::cluster::Database;
use livestore_tests::device::Device;
use livestore_tests::electric::{Electric, Failure, SECRET};
use livestore_tests::events::{chain, event, numbers, up_to};
use livestore_tests::shape::{Answer, get, pull};
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::tokens::{Signer, WITH_SECRET, now};
use livestore_tests::{PATIENCE, eventually};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct Setup {
    database: Database,
    electric: Electric,
    sidecar: Sidecar,
    client: Client,
}

impl Setup {
    async fn new() -> Self {
        let database = Database::new().await;
        let electric = Electric::on(&database).await;
        let arguments = ["--electric-url", &electric.url(), "--electric-secret", SECRET];
        let sidecar = Start::new(database.url("sidecar")).arguments(&arguments).ready().await;
        let client = Node::sync_backend().open("electric", &sidecar.url(), "todo-app").await;
        Self { database, electric, sidecar, client }
    }

    async fn push(&self, batch: Value) {
        self.database.admin().await.execute("select livestore.push('todo-app', $1)", &[&batch]).await.unwrap();
    }

    /// The number of answers of Electric that were pages.
    fn pages(&self) -> usize {
        self.electric.requests().iter().filter(|(_, status)| *status == 200).count()
    }

    async fn run(&self, sql: &str) {
        self.database.admin().await.batch_execute(sql).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_come_from_electric_and_pushes_go_to_postgres() {
    let setup = Setup::new().await;
    let Setup { client, electric, .. } = &setup;
    client.push(chain(0, 250)).await.unwrap();
    assert_eq!(numbers(&client.pull(None).await.unwrap()), up_to(250));
    let mut live = client.live(Some(250)).await;
    assert!(live.page().await.is_empty());
    client.push(chain(250, 3)).await.unwrap();
    assert_eq!(numbers(&live.events(3).await), [251, 252, 253]);
    let since = Instant::now();
    assert!(live.page().await.is_empty());
    assert!(since.elapsed() < Duration::from_secs(15), "it is told at once that there is no more");
    assert_eq!(client.pull(None).await.unwrap()[7]["args"], json!({"id": 8}));

    let requests = electric.requests();
    assert!(requests.iter().all(|(_, status)| *status == 200), "{requests:?}");
    let asked =
        |name: &str, value: &str| requests.iter().all(|(params, _)| params.get(name).is_some_and(|it| it == value));
    assert!(
        asked("table", "livestore.\"eventlog_1\"") && asked("where", "store = 1") && asked("secret", SECRET),
        "{requests:?}"
    );
    assert!(requests.iter().any(|(params, _)| params.get("live").is_some_and(|live| live == "true")));
    let log = setup.sidecar.log();
    assert!(!log.contains(SECRET) && !log.contains("join again") && !log.contains("does not answer"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_client_syncs_through_it() {
    let setup = Setup::new().await;
    let url = setup.sidecar.http_url();
    let (a, b) = tokio::join!(Device::open_electric("a", &url), Device::open("b", setup.sidecar.port()));
    let mut ids = Vec::new();
    for (id, device) in [("1", &a), ("2", &b), ("3", &a), ("4", &b)] {
        device.create(id).await;
        ids.push(id);
        tokio::join!(a.settles(&ids), b.settles(&ids));
    }
    assert!(setup.pages() > 2);
}

/// To LiveStore's client a new shape is the end; here it does not notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_shape_is_joined_anew_where_the_client_is() {
    let setup = Setup::new().await;
    setup.push(chain(0, 120)).await;
    let mut live = setup.client.live(None).await;
    assert_eq!(numbers(&live.events(120).await), up_to(120));
    let mut expected = 120;
    for _ in 0..3 {
        setup.electric.rotate();
        setup.push(chain(expected, 150)).await;
        let events = live.events(150).await;
        assert_eq!(numbers(&events), (expected + 1..=expected + 150).collect::<Vec<_>>());
        expected += 150;
    }
    assert!(setup.electric.requests().iter().any(|(_, status)| *status == 409));
    // Nor does a client notice that comes back with the position of a shape that is long gone, and has much to read.
    let position = setup.client.pull(None).await.map(|events| events.len()).unwrap();
    assert_eq!(position, 570);
    setup.electric.rotate();
    setup.push(chain(570, 2500)).await;
    assert_eq!(numbers(&setup.client.pull(Some(570)).await.unwrap()), (571..=3070).collect::<Vec<_>>());
    assert_eq!(numbers(&live.events(2500).await), (571..=3070).collect::<Vec<_>>());
    let before = setup.pages();
    setup.push(chain(3070, 1)).await;
    assert_eq!(numbers(&live.events(1).await), [3071]);
    eventually("it reads from Electric again", || async { setup.pages() > before }).await;
}

const FAILURES: [Failure; 6] = [
    Failure::Status(503),
    Failure::Status(429),
    Failure::Nonsense,
    Failure::Gaps,
    Failure::Status(400),
    Failure::Status(403),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_electric_that_fails_is_replaced_by_postgres_meanwhile() {
    let setup = Setup::new().await;
    setup.push(chain(0, 10)).await;
    let mut live = setup.client.live(None).await;
    assert_eq!(numbers(&live.events(10).await), up_to(10));
    let mut head = 10;
    for failure in FAILURES {
        setup.electric.fail(Some(failure));
        // A request that is still open may bring the first of these events.
        for _ in 0..3 {
            setup.push(chain(head, 1)).await;
            head += 1;
            assert_eq!(numbers(&live.events(1).await), [head], "{failure:?}");
        }
        let fresh = numbers(&setup.client.pull(None).await.unwrap());
        assert_eq!(fresh, up_to(head), "{failure:?}");
        setup.electric.fail(None);
        let before = setup.pages();
        eventually("it reads from Electric again", || async {
            setup.client.pull(Some(head)).await.unwrap();
            setup.pages() > before
        })
        .await;
    }
    setup.push(chain(head, 1)).await;
    assert_eq!(numbers(&live.events(1).await), [head + 1]);
    let log = setup.sidecar.log();
    assert!(log.contains("Electric does not answer as it should") && log.contains("Electric answers again"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_electric_that_is_silent_holds_a_client_for_half_a_minute_at_most() {
    let setup = Setup::new().await;
    setup.push(chain(0, 2)).await;
    setup.electric.fail(Some(Failure::Silent));
    let since = Instant::now();
    assert_eq!(numbers(&setup.client.pull(None).await.unwrap()), [1, 2]);
    assert!(since.elapsed() < Duration::from_secs(60), "{:?}", since.elapsed());
    setup.electric.fail(None);
    let mut live = setup.client.live(Some(2)).await;
    assert!(live.page().await.is_empty());
    setup.electric.fail(Some(Failure::Silent));
    let since = Instant::now();
    setup.push(chain(2, 2)).await;
    assert_eq!(live.events(2).await.len(), 2);
    assert!(since.elapsed() < Duration::from_secs(60), "{:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_electric_that_never_has_the_shape_is_not_asked_without_end() {
    let setup = Setup::new().await;
    setup.push(chain(0, 2)).await;
    setup.electric.fail(Some(Failure::NotLive));
    let mut live = setup.client.live(None).await;
    assert_eq!(numbers(&live.events(2).await), [1, 2]);
    assert!(live.is_quiet_for(Duration::from_secs(3)).await);
    assert!(setup.electric.requests().len() < 10, "{}", setup.electric.requests().len());
    setup.push(chain(2, 1)).await;
    assert_eq!(numbers(&live.events(1).await), [3]);
}

/// Any log is right for a client that has read nothing, and the one that it reads from is right from then on.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_another_one_before_its_first_event_is_followed() {
    let setup = Setup::new().await;
    setup.run("select livestore.create_store('todo-app')").await;
    let mut live = setup.client.live(None).await;
    assert!(live.page().await.is_empty());
    eventually("it waits at Electric", || async { setup.pages() >= 2 }).await;
    setup.run("select livestore.renew_backend_ids()").await;
    for head in 0..3 {
        setup.push(chain(head, 1)).await;
        assert_eq!(numbers(&live.events(1).await), [head + 1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_electric_that_lags_behind_is_waited_for_and_makes_no_gap() {
    let setup = Setup::new().await;
    setup.push(chain(0, 5)).await;
    let mut live = setup.client.live(None).await;
    assert_eq!(numbers(&live.events(5).await), up_to(5));
    setup.electric.replicate_to(7);
    setup.push(chain(5, 5)).await;
    assert_eq!(numbers(&live.events(2).await), [6, 7]);
    assert!(live.is_quiet_for(Duration::from_secs(1)).await);
    // A rotation leads through Postgres, which is ahead; events that Electric brings later are not repeated.
    setup.electric.rotate();
    assert_eq!(numbers(&live.events(3).await), [8, 9, 10]);
    setup.electric.replicate_to(9);
    assert!(live.is_quiet_for(Duration::from_secs(1)).await);
    setup.electric.replicate_to(i64::MAX);
    setup.push(chain(10, 1)).await;
    assert_eq!(numbers(&live.events(1).await), [11]);
    // One that stands still does not say so: after a long poll that brought nothing, Postgres is asked.
    setup.electric.replicate_to(11);
    setup.push(chain(11, 1)).await;
    assert_eq!(numbers(&live.events(1).await), [12]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_may_begin_move_to_its_own_table_and_be_reset() {
    let setup = Setup::new().await;
    let mut live = setup.client.live(None).await;
    assert!(live.page().await.is_empty());
    assert_eq!(setup.electric.requests().len(), 0, "Electric cannot know of a store that is not there");
    setup.client.push(chain(0, 3)).await.unwrap();
    assert_eq!(numbers(&live.events(3).await), up_to(3));
    eventually("Electric is asked", || async { setup.pages() > 0 }).await;

    setup.run("select livestore.create_store('todo-app', own_table => true)").await;
    setup.push(chain(3, 2)).await;
    assert_eq!(numbers(&live.events(2).await), [4, 5]);
    let own = "livestore.\"eventlog_1_todo_app\"";
    eventually("Electric is asked for the own table", || async {
        setup.electric.requests().iter().any(|(params, status)| params["table"] == own && *status == 200)
    })
    .await;
    setup.push(chain(5, 1)).await;
    assert_eq!(numbers(&live.events(1).await), [6]);

    setup.run("select livestore.reset_store('todo-app')").await;
    let end = live.end().await;
    assert!(end.to_string().contains("410") && end.to_string().contains("before it was reset"), "{end}");
    setup.push(chain(0, 1)).await;
    assert_eq!(numbers(&setup.client.pull(None).await.unwrap()), [1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn args_are_what_they_were_and_clients_of_before_go_on() {
    let database = Database::new().await;
    let electric = Electric::on(&database).await;
    let admin = database.admin().await;
    let batch = json!([
        event(0, "e", json!({"z": 1, "a": [null, "\u{0}\"\\"]})),
        event(1, "e", json!(null)),
        {"name": "none", "seqNum": 3, "parentSeqNum": 2, "clientId": "c", "sessionId": "s"},
    ]);
    admin.execute("select livestore.push('todo-app', $1)", &[&batch]).await.unwrap();
    let without = Sidecar::on(&database).await;
    let node = Node::sync_backend();
    let first = Answer::to(pull(&without, "todo-app", None, true)).await;
    let with = Start::new(database.url("sidecar"))
        .arguments(&["--electric-url", &electric.url(), "--electric-secret", SECRET])
        .ready()
        .await;
    let events = node.open("electric", &with.url(), "todo-app").await.pull(None).await.unwrap();
    let args: Vec<_> = events.iter().map(|event| event["args"].clone()).collect();
    assert_eq!(args, [json!({"z": 1, "a": [null, "\u{0}\"\\"]}), json!(null), json!(null)]);
    let keys: Vec<_> = events[0].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["args", "clientId", "name", "parentSeqNum", "seqNum", "sessionId"], "nothing of Electric's");

    // From here to there and back.
    admin.execute("select livestore.push('todo-app', $1)", &[&chain(3, 1)]).await.unwrap();
    let joined = Answer::to(pull(&with, "todo-app", Some((first.offset(), first.handle())), true)).await;
    assert_eq!(joined.numbers(), [4]);
    admin.execute("select livestore.push('todo-app', $1)", &[&chain(4, 1)]).await.unwrap();
    let followed = Answer::to(pull(&with, "todo-app", Some((joined.offset(), joined.handle())), true)).await;
    assert_eq!(followed.numbers(), [5]);
    let back = Answer::to(pull(&without, "todo-app", Some((followed.offset(), followed.handle())), true)).await;
    assert_eq!((back.status, back.numbers()), (200, vec![]), "{}", back.text);
    admin.execute("select livestore.push('todo-app', $1)", &[&chain(5, 1)]).await.unwrap();
    let back = Answer::to(pull(&without, "todo-app", Some((back.offset(), back.handle())), true)).await;
    assert_eq!(back.numbers(), [6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn shape_requests_are_answered_by_electric_itself() {
    let setup = Setup::new().await;
    setup.push(chain(0, 150)).await;
    let table = ("table", "\"eventlog_6_todo_app\"");
    let secret = ("secret", SECRET);
    let request = get(&setup.sidecar, &[table, secret, ("offset", "-1"), ("log", "full")]);
    let mut response = request.send().await.unwrap();
    let since = Instant::now();
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_string());
    assert_eq!(header("etag").as_deref(), Some("\"of-electric:1100_0\""));
    assert_eq!(header("cache-control").as_deref(), Some("public, max-age=60, stale-while-revalidate=300"));
    assert!(header("electric-schema").is_some() && header("access-control-allow-origin").is_none());
    assert_eq!((header("set-cookie"), header("x-internal")), (None, None), "of whatever is in front of Electric");
    let (offset, handle) = (header("electric-offset").unwrap(), header("electric-handle").unwrap());
    let first = response.chunk().await.unwrap().unwrap().len();
    let first_after = since.elapsed();
    let mut rest = 0;
    while let Some(piece) = response.chunk().await.unwrap() {
        rest += piece.len();
    }
    assert!(first > 0 && rest > 0 && since.elapsed() > first_after + Duration::from_millis(200), "not as it comes");

    let second = Answer::to(get(&setup.sidecar, &[table, secret, ("offset", &offset), ("handle", &handle)])).await;
    assert_eq!((second.numbers(), second.controls()), ((101..=150).collect(), vec!["up-to-date".into()]));
    let asked = setup.electric.requests().last().unwrap().0.clone();
    assert_eq!((&*asked["offset"], &*asked["handle"], &*asked["where"]), (&*offset, &*handle, "store = 1"));

    let few = get(&setup.sidecar, &[table, secret, ("offset", "-1"), ("columns", "\"seqNum\",\"clientId\"")]);
    let few = Answer::to(few).await;
    // Two values of one parameter are refused: otherwise one could be checked and the other sent on.
    let before = setup.electric.requests().len();
    for (name, one, other) in
        [("columns", "\"seqNum\",\"id\"", "\"seqNum\""), ("offset", "-1", "now"), ("cache-buster", "1", "2")]
    {
        let twice =
            Answer::to(get(&setup.sidecar, &[table, secret, ("offset", "-1"), (name, one), (name, other)])).await;
        assert!(
            twice.status == 400 && twice.text.contains("more than once"),
            "{name}: {} {}",
            twice.status,
            twice.text
        );
    }
    assert_eq!(setup.electric.requests().len(), before);
    assert_eq!(few.json()[0]["value"], json!({"store": "1", "seqNum": "1", "clientId": "client"}));
    let asked = setup.electric.requests().last().unwrap().0["columns"].clone();
    assert_eq!(asked, "store,\"seqNum\",\"clientId\"", "with the whole key");

    setup.electric.rotate();
    let gone = Answer::to(get(&setup.sidecar, &[table, secret, ("offset", &offset), ("handle", &handle)])).await;
    assert_eq!((gone.status, gone.header("cache-control")), (409, Some("public, max-age=60, must-revalidate")));
    assert!(gone.handle() != handle, "clients that can start over");

    // A client that can begin here does not wait for an Electric that is away, either.
    setup.electric.fail(Some(Failure::Status(503)));
    let begun = Answer::to(get(&setup.sidecar, &[table, secret, ("offset", "-1")])).await;
    assert_eq!((begun.status, begun.numbers()), (200, up_to(150)));
    let position = [("offset", begun.offset()), ("handle", begun.handle())];
    let on = Answer::to(get(&setup.sidecar, &[&[table, secret][..], &position].concat())).await;
    assert_eq!((on.status, on.controls()), (200, vec!["up-to-date".into()]));

    // A failure is not passed on: LiveStore's client behind another server would be lost.
    setup.electric.fail(Some(Failure::Status(503)));
    let live = [table, secret, ("offset", &offset), ("handle", &handle), ("live", "true")];
    let waited = Answer::to(get(&setup.sidecar, &live)).await;
    assert_eq!((waited.status, waited.numbers(), waited.handle()), (200, vec![], &*handle));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shape_stream_and_a_server_of_the_guide_follow_it() {
    let setup = Setup::new().await;
    setup.push(chain(0, 250)).await;
    let node = Node::shape_stream();
    let mut messages = node.messages_of("s");
    let params = json!({"table": "eventlog_6_todo_app", "secret": SECRET});
    let follow = json!({"sub": "s", "url": format!("{}/v1/shape", setup.sidecar.http_url()), "params": params});
    node.call("follow", follow).await.unwrap();
    let proxy = Node::electric_proxy();
    let listen = json!({"sidecar": setup.sidecar.http_url(), "apiSecret": SECRET});
    let endpoint = proxy.call("listen", listen).await.unwrap()["url"].clone();
    let options = json!({"options": {"endpoint": endpoint}});
    let client = Node::sync_backend().open_with("electric", &setup.sidecar.url(), "todo-app", options).await;
    let mut live = client.live(None).await;
    let mut seen = Vec::new();
    for head in [250, 251, 252] {
        while seen.len() < head {
            let page = tokio::time::timeout(PATIENCE, messages.recv()).await.expect("a message").unwrap();
            let rows = page["value"].as_array().unwrap_or_else(|| panic!("{page}"));
            seen.extend(rows.iter().filter_map(|row| row["value"]["seqNum"].as_str()?.parse::<i64>().ok()));
        }
        assert_eq!(seen, up_to(head as i64));
        let new = if head == 250 { 250 } else { 1 };
        assert_eq!(live.events(new).await.len(), new);
        setup.push(chain(head as i64, 1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_pull_gets_nothing_of_electric_either() {
    let database = Database::new().await;
    let electric = Electric::on(&database).await;
    let admin = database.admin().await;
    let no = "create function no(store text, action text) returns boolean language sql as
              $$ select action <> 'pull' or store = 'open' $$";
    admin.batch_execute(no).await.unwrap();
    admin.execute("select livestore.push('todo-app', $1)", &[&chain(0, 1)]).await.unwrap();
    let arguments =
        ["--electric-url", &electric.url(), "--electric-secret", SECRET, "--authorize-function", "public.no"];
    let sidecar = Start::new(database.url("sidecar")).arguments(&arguments).ready().await;
    let shape = [("table", "eventlog_6_todo_app"), ("secret", SECRET), ("offset", "-1")];
    for answer in [pull(&sidecar, "todo-app", None, true), get(&sidecar, &shape)] {
        assert_eq!(Answer::to(answer).await.status, 403);
    }
    assert_eq!(electric.requests().len(), 0);
    admin.execute("select livestore.push('open', $1)", &[&chain(0, 1)]).await.unwrap();
    let allowed = [("table", "eventlog_6_open"), ("secret", SECRET), ("offset", "-1")];
    let allowed = Answer::to(get(&sidecar, &allowed)).await;
    assert_eq!((allowed.numbers(), allowed.header("etag")), (vec![1], Some("\"of-electric:1001_0\"")));
    assert_eq!(allowed.header("cache-control"), Some("private, no-cache"), "it is nobody else's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ends_takes_what_waits_for_electric_with_it() {
    let database = Database::new().await;
    let electric = Electric::on(&database).await;
    let arguments = ["--electric-url", &electric.url(), "--electric-secret", SECRET];
    let sidecar = Start::new(database.url("sidecar")).arguments(&arguments).arguments(&WITH_SECRET).ready().await;
    let admin = database.admin().await;
    admin.execute("select livestore.push('s', $1)", &[&chain(0, 1)]).await.unwrap();
    let claims = json!({"sub": "ann", "exp": now() + 12, "livestore": {"s": "read"}});
    let token = Signer::secret(livestore_tests::tokens::SECRET).sign(&claims);
    let ask = |request: RequestBuilder| Answer::to(request.bearer_auth(&token));
    let shape = |how, position: (&str, &str)| {
        let (offset, handle) = position;
        let params = [("table", "eventlog_6_s"), ("secret", SECRET), ("offset", offset), ("handle", handle)];
        let live = [("live", "true"), (how, "true")];
        get(&sidecar, &[&params[..], &live[usize::from(how == "live")..]].concat())
    };
    let first = ask(get(&sidecar, &[("table", "eventlog_6_s"), ("secret", SECRET), ("offset", "-1")])).await;
    let position = (first.offset(), first.handle());
    let ours = ask(pull(&sidecar, "s", None, false)).await;
    let ours = ask(pull(&sidecar, "s", Some((ours.offset(), ours.handle())), true)).await;
    let (long_poll, stream, pulled, _) = tokio::join!(
        ask(shape("live", position)),
        ask(shape("live_sse", position)),
        ask(pull(&sidecar, "s", Some((ours.offset(), ours.handle())), true)),
        async {
            tokio::time::sleep(Duration::from_secs(13)).await;
            admin.execute("select livestore.push('s', $1)", &[&json!([event(1, "afterTheEnd", json!({}))])]).await
        }
    );
    assert!(stream.text.contains("data: todoCreated"), "it is Electric's: {stream:?}");
    for answer in [&long_poll, &stream, &pulled] {
        assert!(!answer.text.contains("afterTheEnd"), "{answer:?}");
    }
    for answer in [&long_poll, &pulled] {
        assert!(answer.status == 403 && answer.text.contains("expired"), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_that_is_none_ends_the_sidecar_with_the_reason() {
    let database = Database::new().await;
    for url in ["electric:3000", "ftp://electric", "nothing", "http://"] {
        let output =
            Start::new(database.url("sidecar")).arguments(&["--electric-url", url]).command().output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{url}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("--electric-url"), "{url}");
    }
}

/// As a page of Postgres has.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_has_its_part_of_the_memory_until_it_is_read() {
    let setup = Setup::new().await;
    for parent in 0..6 {
        setup.push(json!([event(parent, "large", json!("x".repeat(4_000_000)))])).await;
    }
    let taken = || setup.sidecar.metric("livestore_buffer_bytes");
    let url = pull(&setup.sidecar, "todo-app", None, false).build().unwrap().url().clone();
    let request = format!("GET {}?{} HTTP/1.1\r\nhost: localhost\r\n\r\n", url.path(), url.query().unwrap());
    let mut slow = TcpStream::connect(("127.0.0.1", setup.sidecar.port())).await.unwrap();
    slow.write_all(request.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    slow.read_exact(&mut status).await.unwrap();
    assert_eq!((&status, setup.pages()), (b"HTTP/1.1 200", 1));
    assert!((24e6..=32e6 * 1.05).contains(&taken().await), "{}", taken().await);
    // A client that waits for events takes nothing.
    let mut last = Answer::to(pull(&setup.sidecar, "todo-app", None, false)).await;
    assert_eq!(last.numbers(), up_to(6));
    last = Answer::to(pull(&setup.sidecar, "todo-app", Some((last.offset(), last.handle())), true)).await;
    assert!(last.numbers().is_empty());
    let waiting = tokio::spawn(pull(&setup.sidecar, "todo-app", Some((last.offset(), last.handle())), true).send());
    drop(slow);
    eventually("no memory is taken", || async { taken().await == 0.0 }).await;
    assert!(!waiting.is_finished());
}
