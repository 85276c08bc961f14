//! `--shards`: sidecars that serve the stores of several databases.
//!
//! The front database is a table here, and a function that reads it: what sidecars know of it.

use std::process::{Command, Stdio};
use std::time::Duration;

use livestore_tests::breaker::Breaker;
use livestore_tests::client::{Client as SyncClient, Node};
use livestore_tests::cluster::{Cluster, Database};
use livestore_tests::dialects::Caller;
use livestore_tests::events::{chain, event, numbers, up_to};
use livestore_tests::eventually;
use livestore_tests::relay::{Peer, events, url_of};
use livestore_tests::rpc::Received;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::tokens::{SECRET, Signer, WITH_SECRET, now};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

const DIALECTS: [&str; 5] = ["cf-ws", "cf-http", "cf-0.3", "electric", "s2"];

const NAMES: [&str; 2] = ["one", "two"];

/// Even slots are on the first shard.
const FRONT: &str = "
    create schema livestore;
    create table livestore.map (names text[], numbers integer[], connections text[], slots integer[]);
    create table livestore.moved (store_id text, shard integer);
    create function livestore.shard_map(
        out names text[], out numbers integer[], out connections text[], out slots integer[], out moved_store_ids text[],
        out moved_shards integer[]
    ) language sql stable security definer as $$
        select m.names, m.numbers, m.connections, m.slots, coalesce(s.ids, '{}'), coalesce(s.shards, '{}')
        from livestore.map m, (select array_agg(store_id) as ids, array_agg(shard) as shards from livestore.moved) s
    $$;
    grant usage on schema livestore to sidecar;
    insert into livestore.map
        select '{one,two}', '{0,1}', array[$1, $2], (select array_agg(s % 2 order by s) from generate_series(0, 255) s);";

struct Setup {
    shards: [Database; 2],
    front: Client,
    front_name: String,
}

/// A front database and two shards, the second of them on a cluster of its own if it `is_alone`.
async fn setup(is_alone: bool) -> Setup {
    let first = Database::new().await;
    let second = if is_alone { Database::alone().await } else { Database::new().await };
    let shards = [first, second];
    let seed: String =
        shards[0].admin().await.query_one("select seed from livestore.instance", &[]).await.unwrap().get(0);
    for (number, shard) in (0..).zip(&shards) {
        let admin = shard.admin().await;
        run(&admin, &format!("update livestore.instance set seed = '{seed}'")).await;
        run(
            &admin,
            &format!(
                "insert into livestore.shard (number, slot_count, slots)
                 select {number}, 256, array_agg(s) from generate_series(0, 255) s where s % 2 = {number}"
            ),
        )
        .await;
    }
    let front_name = format!("front_of_{}", shards[0].name());
    let cluster = Cluster::shared();
    run(&cluster.connect("postgres", "postgres").await, &format!("create database {front_name} template template0"))
        .await;
    let front = cluster.connect("postgres", &front_name).await;
    let [one, two] = [0, 1].map(|number: usize| connection(&shards[number]));
    run(&front, &FRONT.replace("$1", &format!("'{one}'")).replace("$2", &format!("'{two}'"))).await;
    Setup { shards, front, front_name }
}

/// A name that Electric's tables have, too.
fn name_of(dialect: &str) -> String {
    dialect.replace(['-', '.'], "_")
}

fn connection(database: &Database) -> String {
    format!("host=127.0.0.1 port={} dbname={}", database.cluster().port(), database.name())
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

impl Setup {
    fn start(&self) -> Start {
        Start::new(Cluster::shared().url("sidecar", &self.front_name)).arguments(&["--shards"])
    }

    async fn sidecar(&self) -> Sidecar {
        self.start().ready().await
    }

    /// A store of this shard.
    async fn store(&self, prefix: &str, shard: usize) -> String {
        let admin = self.shards[0].admin().await;
        for n in 0.. {
            let store = format!("{prefix}_{n}");
            let slot: i32 = admin.query_one("select livestore.slot($1, 256)", &[&store]).await.unwrap().get(0);
            if slot % 2 == i32::try_from(shard).unwrap() {
                return store;
            }
        }
        unreachable!()
    }

    /// The number of the events of a store that each shard has.
    async fn heads(&self, store: &str) -> [Option<i64>; 2] {
        let mut heads = [None; 2];
        for (head, shard) in heads.iter_mut().zip(&self.shards) {
            let row = "select head from livestore.stores where store_id = $1";
            let row = shard.admin().await.query_opt(row, &[&store]).await.unwrap();
            *head = row.map(|row| row.get(0));
        }
        heads
    }

    /// Brings a store to another shard. In between, nobody has it.
    async fn go_over(&self, store: &str, from: usize, to: usize) {
        let [source, target] = [&self.shards[from], &self.shards[to]];
        let admin = source.admin().await;
        // Nothing is written after what is exported.
        run(&admin, &format!("begin; select from livestore.stores where store_id = '{store}' for update")).await;
        let lines = "select string_agg(l, E'\\n') || E'\\n' from livestore.export_store($1) l";
        let lines: String = admin.query_one(lines, &[&store]).await.unwrap().get(0);
        run(
            &admin,
            &format!(
                "select livestore.drop_store('{store}'); delete from livestore.shard_stores where store_id = '{store}';
                 insert into livestore.shard_stores values ('{store}', false); commit"
            ),
        )
        .await;
        // Clients that come now wait.
        sleep(Duration::from_millis(300)).await;
        run(
            &target.admin().await,
            &format!(
                "delete from livestore.shard_stores where store_id = '{store}'; insert into livestore.shard_stores values ('{store}', true)"
            ),
        )
        .await;
        import(&target.url("postgres"), lines.as_bytes());
        sleep(Duration::from_millis(300)).await;
        let map = format!(
            "begin; delete from livestore.moved where store_id = '{store}'; insert into livestore.moved values ('{store}', {to}); commit"
        );
        run(&self.front, &map).await;
    }
}

fn import(url: &str, lines: &[u8]) {
    use std::io::Write;
    let mut command = Start::program();
    command.arg("import").env("DATABASE_URL", url).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines).unwrap();
    assert!(child.wait().unwrap().success());
}

/// The programs of the clients of each version.
struct Nodes(Node, Node);

impl Nodes {
    fn new() -> Self {
        Self(Node::sync_backend(), Node::sync_backend_0_3())
    }

    async fn open(&self, dialect: &str, sidecar: &Sidecar, store: &str) -> SyncClient {
        let node = if dialect == "cf-0.3" { &self.1 } else { &self.0 };
        node.open(dialect, &sidecar.url(), store).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_each_dialect_work_with_the_stores_of_all_shards() {
    let setup = setup(false).await;
    let (sidecars, nodes) = ([setup.sidecar().await, setup.sidecar().await], Nodes::new());
    let mut stores = Vec::new();
    for dialect in DIALECTS {
        for shard in [0, 1] {
            let store = setup.store(&name_of(dialect), shard).await;
            let reader = nodes.open(dialect, &sidecars[1], &store).await;
            let mut live = reader.live(None).await;
            nodes.open(dialect, &sidecars[0], &store).await.push(chain(0, 2)).await.unwrap();
            assert_eq!(numbers(&live.events(2).await), up_to(2), "{store}");
            let commit = format!("select livestore.commit('{store}', 'e')");
            run(&setup.shards[shard].admin().await, &commit).await;
            assert_eq!(numbers(&live.events(1).await), [3], "{store}");
            let mut heads = [None, None];
            heads[shard] = Some(3);
            assert_eq!(setup.heads(&store).await, heads, "{store}");
            stores.push(store);
        }
    }
    // Stores are found by their other names on every shard, and listed in order.
    for store in &stores {
        let shape = Caller::new(&sidecars[0], store).read("electric-shape").await;
        assert!(shape.status == 200 && shape.text.matches("\"seqNum\"").count() >= 3, "{store}: {shape:?}");
        let rest = Caller::new(&sidecars[0], store).read("s2-rest").await;
        assert!(rest.status == 200 && rest.text.contains("\"seq_num\":2"), "{store}: {rest:?}");
    }
    let (_, listed) = sidecars[0].get("/v1/streams?limit=9").await;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let names: Vec<_> =
        listed["streams"].as_array().unwrap().iter().map(|stream| stream["name"].as_str().unwrap()).collect();
    assert!(names.len() == 9 && names.is_sorted() && listed["has_more"] == true, "{listed}");

    for name in NAMES {
        let listening = format!("livestore_listening{{shard=\"{name}\"}}");
        assert!(sidecars[0].metric(&listening).await == 1.0, "{}", sidecars[0].get("/metrics").await.1);
        assert!(
            sidecars[0]
                .log()
                .lines()
                .any(|line| line.contains("listening") && line.contains(&format!("\"shard\":\"{name}\"")))
        );
    }
    let (status, page) = sidecars[0].get("/inspector").await;
    assert!(status == 404 && page.contains("the inspector is off"), "{status} {page}");
    for arguments in [&["stores"][..], &["stores", "--token", "t"], &["commit", "s", "e"]] {
        let mut command = Start::program();
        command.args(arguments).args(["--sidecar-url", &sidecars[0].http_url()]).env_remove("DATABASE_URL");
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(4) && error.contains("without --shards"), "{arguments:?}: {error}");
    }
    assert!(sidecars[0].log().contains("the inspector is off"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_away_makes_its_stores_wait_and_no_others() {
    let setup = setup(true).await;
    let (sidecar, nodes) = (setup.sidecar().await, Nodes::new());
    let (here, there) = (setup.store("s", 0).await, setup.store("s", 1).await);
    let [here, there] = [nodes.open("cf-ws", &sidecar, &here).await, nodes.open("cf-ws", &sidecar, &there).await];
    let mut lives = [here.live(None).await, there.live(None).await];
    for (client, live) in [&here, &there].into_iter().zip(&mut lives) {
        client.push(chain(0, 1)).await.unwrap();
        assert_eq!(numbers(&live.events(1).await), [1]);
    }

    let cluster = setup.shards[1].cluster();
    tokio::task::block_in_place(|| cluster.pg_ctl(&["stop", "-m", "immediate"]));
    let waiting = tokio::spawn({
        let there = there.clone();
        async move { there.push(chain(1, 1)).await }
    });
    here.push(chain(1, 1)).await.unwrap();
    assert_eq!(numbers(&lives[0].events(1).await), [2]);
    eventually("it says that a shard is away", async || sidecar.get("/readyz").await.1.contains("shard two: ")).await;
    let (status, text) = sidecar.get("/readyz").await;
    assert!(status == 200 && text.starts_with("ready\n") && !text.contains("shard one"), "{status} {text}");
    assert_eq!(sidecar.metric("livestore_listening{shard=\"one\"}").await, 1.0);
    // A sidecar that starts now is ready, and so is one that looks by another name.
    let another = setup.sidecar().await;
    let store = setup.store("s", 0).await;
    let found = Caller::new(&another, &store).read("s2-rest").await;
    assert!(found.status == 200 && found.text.contains("\"seq_num\":1"), "{found:?}");
    assert!(!waiting.is_finished());

    tokio::task::block_in_place(|| cluster.pg_ctl(&["start"]));
    waiting.await.unwrap().unwrap();
    assert_eq!(numbers(&lives[1].events(1).await), [2]);
    eventually("it is whole", async || sidecar.get("/readyz").await == (200, "ready\n".into())).await;
    setup.shards[1].stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn live_streams_go_on_when_their_store_goes_over_to_another_shard() {
    let setup = setup(false).await;
    let (sidecars, nodes) = ([setup.sidecar().await, setup.sidecar().await], Nodes::new());
    for dialect in DIALECTS {
        let store = setup.store(&format!("moves_{}", name_of(dialect)), 0).await;
        let writer = nodes.open(dialect, &sidecars[0], &store).await;
        let mut lives = Vec::new();
        for sidecar in &sidecars {
            lives.push(nodes.open(dialect, sidecar, &store).await.live(None).await);
        }
        let mut head = 0;
        for (from, to) in [(0, 1), (1, 0)] {
            writer.push(chain(head, 2)).await.unwrap();
            head += 2;
            for live in &mut lives {
                assert_eq!(numbers(&live.events(2).await), [head - 1, head], "{dialect}");
            }
            // A push that comes in the middle of it waits.
            let pushing = tokio::spawn({
                let (writer, batch) = (writer.clone(), chain(head, 1));
                async move {
                    sleep(Duration::from_millis(500)).await;
                    writer.push(batch).await
                }
            });
            setup.go_over(&store, from, to).await;
            pushing.await.unwrap().unwrap_or_else(|error| panic!("{dialect}: {error}\n{}", sidecars[0].log()));
            head += 1;
            for live in &mut lives {
                assert_eq!(numbers(&live.events(1).await), [head], "{dialect}");
            }
            let mut heads = [None, None];
            heads[to] = Some(head);
            assert_eq!(setup.heads(&store).await, heads, "{dialect}");
        }
        let (reader, expected) = (nodes.open(dialect, &sidecars[1], &store).await, up_to(head));
        let all = numbers(&reader.live(None).await.events(expected.len()).await);
        assert_eq!(all, expected, "{dialect}");
    }
}

/// Before, it was rejected if the store was still on its way when it was tried again, and devices do not repeat what is rejected.
#[tokio::test(flavor = "multi_thread")]
async fn a_push_of_a_device_waits_for_a_store_that_goes_over() {
    let setup = setup(false).await;
    let arguments = [&WITH_SECRET[..], &["--relay-store", "relay_{user}"]].concat();
    let (sidecar, store) = (setup.start().arguments(&arguments).ready().await, setup.store("relay", 0).await);
    let user = store.strip_prefix("relay_").unwrap();
    let mut device = Peer::join(&url_of(&sidecar, user), "a").await;
    device.push_to(&mut [], events("a", [1])).await;
    let pushing = async {
        sleep(Duration::from_millis(500)).await;
        device.push_to(&mut [], events("a", [2])).await;
    };
    tokio::join!(setup.go_over(&store, 0, 1), pushing);
    assert_eq!(setup.heads(&store).await, [None, Some(2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_goes_over_ends_with_its_token() {
    let setup = setup(false).await;
    let auth = ["--auth", "jwt", "--jwt-secret", SECRET];
    let (sidecar, store) = (setup.start().arguments(&auth).ready().await, setup.store("ends", 0).await);
    let append = async |shard: usize, after: i64, name: &str| {
        let batch = json!([event(after, name, json!({}))]);
        let admin = setup.shards[shard].admin().await;
        admin.execute("select livestore.push($1, $2)", &[&store, &batch]).await.unwrap();
    };
    append(0, 0, "first").await;
    let ends = now() + 14;
    let claims = json!({"sub": "ann", "exp": ends, "livestore": {(store.clone()): "read"}});
    let token = Signer::secret(SECRET).sign(&claims);
    let caller = Caller::with_token(&sidecar, &store, &token);
    let followed = async |dialect: &str| {
        let mut rpc = caller.follow(dialect).await.unwrap();
        let mut heard = String::new();
        let end = loop {
            match rpc.receive().await {
                Received::Frame(frame) => heard.push_str(&frame.to_string()),
                end => break end,
            }
        };
        assert_eq!(end, Received::Close(4401), "{dialect}");
        assert!(heard.contains("afterTheMove") && !heard.contains("afterTheEnd"), "{dialect}: {heard}");
    };
    let waited = async |dialect: &str| {
        let heard = caller.wait(dialect, ("", "")).await.text;
        assert!(heard.contains("afterTheMove") && !heard.contains("afterTheEnd"), "{dialect}: {heard}");
    };
    tokio::join!(followed("cf-ws"), followed("cf-0.3"), waited("s2"), waited("s2-rest"), async {
        sleep(Duration::from_secs(1)).await;
        setup.go_over(&store, 0, 1).await;
        append(1, 1, "afterTheMove").await;
        sleep(Duration::from_secs(u64::try_from(ends - now()).unwrap_or(0) + 1)).await;
        append(1, 2, "afterTheEnd").await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_come_and_go_with_the_map() {
    let setup = setup(false).await;
    // Both shards are the first one.
    let before = "update livestore.map set names = '{one}', numbers = '{0}', connections = connections[1:1],
                  slots = (select array_agg(0) from generate_series(0, 255))";
    let after = format!(
        "update livestore.map set names = '{{one,two}}', numbers = '{{0,1}}', connections = connections || '{}'::text,
         slots = (select array_agg(s % 2 order by s) from generate_series(0, 255) s)",
        connection(&setup.shards[1])
    );
    run(&setup.front, before).await;
    let (sidecar, nodes) = (setup.sidecar().await, Nodes::new());
    let store = setup.store("late", 1).await;
    let client = nodes.open("cf-ws", &sidecar, &store).await;
    let mut live = client.live(None).await;
    // The shard does not have it, and the map says nothing else: it waits.
    let pushing = tokio::spawn({
        let client = client.clone();
        async move { client.push(chain(0, 1)).await }
    });
    sleep(Duration::from_millis(1500)).await;
    assert!(!pushing.is_finished());
    run(&setup.front, &after).await;
    pushing.await.unwrap().unwrap();
    assert_eq!(numbers(&live.events(1).await), [1]);
    assert_eq!(setup.heads(&store).await, [None, Some(1)]);
    run(&setup.front, before).await;
    eventually("it ends", async || sidecar.log().contains("a shard is served no more")).await;
    assert_eq!(sidecar.get("/readyz").await, (200, "ready\n".into()));
    run(&setup.front, &after).await;
    client.push(chain(1, 1)).await.unwrap();
    assert_eq!(numbers(&live.events(1).await), [2]);
}

/// Code of the application that asks for a store of another shard: its push, or its client, is refused, and does not wait.
#[tokio::test(flavor = "multi_thread")]
async fn code_that_asks_for_a_store_of_another_shard_is_refused() {
    let setup = setup(false).await;
    let (store, other) = (setup.store("mine", 0).await, setup.store("yours", 1).await);
    let (denied, late) = (setup.store("denied", 0).await, setup.store("late", 0).await);
    let admin = setup.shards[0].admin().await;
    let code = format!(
        "create schema app; grant usage on schema app to sidecar;
         create function app.may(store_id text, action text, payload json, headers json) returns boolean
         language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
         begin return store_id <> '{denied}' or livestore.head('{other}') >= 0; end $$;
         create function app.late() returns trigger language plpgsql as $$
         begin perform livestore.head('{other}'); return null; end $$;
         create constraint trigger late after insert on livestore.eventlog_1 deferrable initially deferred
         for each row when (new.name = 'late') execute function app.late();
         grant execute on function livestore.head(text) to livestore_hooks"
    );
    run(&admin, &code).await;
    run(
        &setup.shards[1].admin().await,
        "create schema app; grant usage on schema app to sidecar;
         create function app.may(store_id text, action text, payload json, headers json) returns boolean return true",
    )
    .await;
    let sidecar = setup.start().arguments(&["--authorize-function", "app.may"]).ready().await;
    let nodes = Nodes::new();
    nodes.open("cf-ws", &sidecar, &store).await.push(chain(0, 1)).await.unwrap();
    for (store, batch) in [(&denied, chain(0, 1)), (&late, json!([event(0, "late", json!(null))]))] {
        let client = nodes.open("cf-http", &sidecar, store).await;
        let answer = timeout(Duration::from_secs(20), client.push(batch)).await;
        let refused = answer.unwrap_or_else(|_| panic!("{store}: no answer\n{}", sidecar.log())).unwrap_err();
        assert!(!refused.to_string().contains(&other), "{store}: {refused}");
        assert_eq!(setup.heads(store).await, [None, None]);
    }
}

/// Its pushes do not wait for the host that does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_hangs_is_given_another_address() {
    let setup = setup(false).await;
    let breaker = Breaker::to(setup.shards[1].cluster().port()).await;
    let good = connection(&setup.shards[1]);
    let bad = format!("host=127.0.0.1 port={} dbname={}", breaker.port(), setup.shards[1].name());
    let at = |address: &str| format!("update livestore.map set connections[2] = '{address}'");
    run(&setup.front, &at(&bad)).await;
    let (sidecar, nodes) = (setup.sidecar().await, Nodes::new());
    let store = setup.store("hangs", 1).await;
    let client = nodes.open("cf-ws", &sidecar, &store).await;
    let mut live = client.live(None).await;
    client.push(chain(0, 1)).await.unwrap();
    breaker.stall();
    let pushing = tokio::spawn({
        let client = client.clone();
        async move { client.push(chain(1, 1)).await }
    });
    sleep(Duration::from_millis(500)).await;
    assert!(!pushing.is_finished());
    run(&setup.front, &at(&good)).await;
    timeout(Duration::from_secs(10), pushing).await.expect("an answer in time").unwrap().unwrap();
    assert_eq!(numbers(&live.events(2).await), [1, 2]);
    assert_eq!(setup.heads(&store).await, [None, Some(2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_front_database_may_be_away() {
    let setup = setup(false).await;
    let breaker = Breaker::to(Cluster::shared().port()).await;
    breaker.cut();
    let url = format!("postgres://sidecar@127.0.0.1:{}/{}", breaker.port(), setup.front_name);
    let (sidecar, nodes) = (Start::new(url).arguments(&["--shards"]).serve(), Nodes::new());
    let mut waiting = Vec::new();
    for dialect in DIALECTS {
        let store = setup.store(&format!("early_{}", name_of(dialect)), 1).await;
        let client = nodes.open(dialect, &sidecar, &store).await;
        waiting.push((store, tokio::spawn(async move { client.push(chain(0, 1)).await })));
    }
    sleep(Duration::from_millis(500)).await;
    let (status, text) = sidecar.get("/readyz").await;
    assert!(status == 503 && text.contains("cannot be reached"), "{status} {text}");
    // An alert needs a value.
    let (_, metrics) = sidecar.get("/metrics").await;
    assert!(metrics.lines().any(|line| line == "livestore_listening 0"), "{metrics}");
    assert!(sidecar.metric("livestore_commit_queue_bytes").await > 0.0);
    breaker.mend();
    for (store, pushing) in waiting {
        let pushed = pushing.await.unwrap();
        pushed.unwrap_or_else(|error| panic!("{store}: {error}\n{}", sidecar.log()));
        assert_eq!(setup.heads(&store).await, [None, Some(1)]);
    }
    assert!(!sidecar.log().contains("does not exist"), "the front was asked for events: {}", sidecar.log());
    for series in ["livestore_listening", "livestore_listening{shard=\"one\"}"] {
        eventually("it listens", async || sidecar.metric(series).await == 1.0).await;
    }
    assert_eq!(sidecar.metric("livestore_commit_queue_bytes").await, 0.0);
    breaker.cut();
    sleep(Duration::from_millis(1500)).await;
    for shard in [0, 1] {
        let client = nodes.open("cf-ws", &sidecar, &setup.store("late", shard).await).await;
        timeout(Duration::from_secs(5), client.push(chain(0, 1))).await.unwrap().unwrap();
        assert_eq!(numbers(&client.live(None).await.events(1).await), [1]);
    }
    assert_eq!(sidecar.get("/readyz").await, (200, "ready\n".into()));
}

fn fails(mut command: Command) -> (Option<i32>, String) {
    let output = command.stderr(Stdio::piped()).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap() + &String::from_utf8_lossy(&output.stdout))
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_do_not_go_together_are_refused() {
    let setup = setup(false).await;
    for (arguments, code, reason) in [
        (&["--read-only"][..], 2, "--read-only"),
        (&["--read-database-url", "postgres://u@h/d"], 2, "--read-database-url"),
        (&["--listen-url", "postgres://u@h/d"], 2, "--listen-url"),
        (&["--database-idle-close", "5m"], 2, "--database-idle-close"),
        (&["--electric-url", "http://127.0.0.1:1"], 2, "--electric-url"),
    ] {
        let failed = tokio::task::block_in_place(|| fails(setup.start().arguments(arguments).command()));
        assert!(failed.0 == Some(code) && failed.1.contains(reason) && failed.1.contains("--shards"), "{failed:?}");
    }
    let no_front = Start::new(setup.shards[0].url("sidecar")).arguments(&["--shards"]).command();
    let failed = tokio::task::block_in_place(|| fails(no_front));
    assert!(failed.0 == Some(4) && failed.1.contains("has to lead to the front database"), "{failed:?}");

    let mut check = Start::program();
    check.args(["check", "--shards"]).env("DATABASE_URL", Cluster::shared().url("sidecar", &setup.front_name));
    check.env("LIVESTORE_LISTEN", "127.0.0.1:0").stdout(Stdio::piped());
    let (_, report) = tokio::task::block_in_place(|| fails(check));
    for found in ["lists 2 shards", "shard one: the database is reached", "shard two: the database is reached"] {
        assert!(report.contains(found), "{found}: {report}");
    }
    assert!(report.contains("ok      shard two: it has the roles, hooks and event types of one"), "{report}");
    let differs = "create index on livestore.eventlog_1 (name); select livestore.define_event('e', '{}', 'check');
         insert into livestore.shard_moves (slot, shard, started_at) values (7, 'one', now() - interval '1 minute')";
    run(&setup.shards[1].admin().await, differs).await;
    let mut check = Start::program();
    check.args(["check", "--shards"]).env("DATABASE_URL", Cluster::shared().url("sidecar", &setup.front_name));
    check.env("LIVESTORE_LISTEN", "127.0.0.1:0").stdout(Stdio::piped());
    let (code, report) = tokio::task::block_in_place(|| fails(check));
    for found in [
        "advice  shard two: it differs from one in hooks",
        "advice  shard two: it differs from one in livestore.event_types",
        "WRONG   shard two: a move of slot 7 to the shard one was interrupted",
    ] {
        assert!(code == Some(1) && report.contains(found), "{found}: {report}");
    }
}
