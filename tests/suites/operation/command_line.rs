//! `livestore-sidecar stores`, `events`, `tail`, `commit` and `subscriptions`, asking a database or a sidecar.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use livestore_tests::cluster::Database;
use livestore_tests::events::event;
use livestore_tests::eventually;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::tokens::{SECRET, Signer, WITH_SECRET, now};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// The one that is asked.
enum Source {
    Database(String),
    Sidecar(String),
}

impl Source {
    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = Start::program();
        command.args(arguments).env_remove("DATABASE_URL");
        match self {
            Self::Database(url) => command.env("DATABASE_URL", url),
            Self::Sidecar(url) => command.env("LIVESTORE_SIDECAR_URL", url),
        };
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let said = self.says(&[arguments, &["--json"]].concat());
        said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn refuses(&self, arguments: &[&str], code: i32, reason: &str) {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(code) && said.contains(reason), "{arguments:?}: {said}");
    }

    /// The lines of a command that does not end.
    fn follow(&self, arguments: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
        let mut command = Command::from(self.command(arguments));
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        (child, lines)
    }
}

async fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> Value {
    serde_json::from_str(&next_line(lines).await).unwrap()
}

async fn next_line(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    timeout(Duration::from_secs(60), lines.next_line()).await.expect("a line").unwrap().unwrap()
}

/// Args that Postgres and clients take, and serde cannot hold as values: a lone surrogate, a number that is too large for a float, and
/// what a value would not keep.
const ODD_ARGS: [&str; 5] = [
    r#"{"x": "\ud83d"}"#,
    r#"{"x": 1e400}"#,
    r#"{"b": 12345678901234567890.0, "a": 0.1000000000000000000001, "a": 1}"#,
    r#""\ud800 \u0000""#,
    "null",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_database_and_a_sidecar_answer_alike() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    let many: Value = (0..1500).map(|n| event(n, "todoCreated", json!({"n": n}))).collect();
    admin.execute("select livestore.push('many', $1::text::json)", &[&many.to_string()]).await.unwrap();
    let odd = "{\"big\": 12345678901234567890, \"a\":\n\t[1.0]}";
    admin.execute("select livestore.commit('odd', 'e', $1::text)", &[&odd]).await.unwrap();
    admin.batch_execute("select livestore.subscribe('mine'); select livestore.commit('none', 'bare')").await.unwrap();
    let sources = [Source::Database(database.url("sidecar")), Source::Sidecar(sidecar.http_url())];
    for source in &sources {
        let ids =
            |rows: Vec<Value>| rows.iter().map(|row| row["store_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(ids(source.json(&["stores", "--limit", "2"])), ["none", "odd"]);
        assert_eq!(ids(source.json(&["stores", "ma"])), ["many"]);
        let numbers = |rows: Vec<Value>| rows.iter().map(|row| row["seq_num"].as_i64().unwrap()).collect::<Vec<_>>();
        assert_eq!(numbers(source.json(&["events", "many"])), (1481..=1500).collect::<Vec<_>>());
        assert_eq!(numbers(source.json(&["events", "many", "--limit", "2"])), [1499, 1500]);
        assert_eq!(
            numbers(source.json(&["events", "many", "--after", "0", "--limit", "1000"])),
            (1..=1000).collect::<Vec<_>>()
        );
        assert_eq!(source.json(&["events", "nothing"]), [json!(null); 0]);
        for (arguments, reason) in [
            (&["events", "nothing"][..], "there is no store \"nothing\""),
            (&["events", "man"], "there is no store \"man\""),
            (&["events", "many", "--after", "1500"], ""),
        ] {
            let told = source.run(arguments).stderr;
            let told = String::from_utf8_lossy(&told);
            assert!(told.contains(reason) && told.is_empty() == reason.is_empty(), "{arguments:?}: {told}");
        }
        let said = source.says(&["events", "odd", "--json"]);
        assert!(said.lines().count() == 1 && said.contains(r#"{"big": 12345678901234567890, "a": "#), "{said}");
        assert_eq!(source.json(&["events", "none"])[0]["args"], json!(null));
        assert_eq!(source.json(&["subscriptions"])[0]["name"], "mine");
        let table = source.says(&["stores"]);
        assert!(table.lines().next().unwrap().split_whitespace().eq(["store_id", "head", "created_at"]), "{table}");
    }
    // A list is as long as its bytes allow, and leaves nothing out: events without args, too.
    let large = format!("\"{}\"", "x".repeat(300_000));
    for n in 0..8 {
        let args = (n % 2 == 0).then_some(&large);
        admin.execute("select livestore.commit('large', 'e', $1::text::json)", &[&args]).await.unwrap();
    }
    for source in &sources {
        let (mut after, mut all, mut pages) = (0, Vec::new(), 0);
        while let Some(rows) = Some(source.json(&["events", "large", "--after", &after.to_string(), "--limit", "1000"]))
            .filter(|rows| !rows.is_empty())
        {
            all.extend(rows.iter().map(|row| row["seq_num"].as_i64().unwrap()));
            after = *all.last().unwrap();
            pages += 1;
        }
        assert_eq!(all, (1..=8).collect::<Vec<_>>());
        assert!(pages > 1);
    }
    // Both follow what either commits.
    for (asked, committer) in [(&sources[0], &sources[1]), (&sources[1], &sources[0])] {
        let (_events, mut events) = asked.follow(&["events", "odd", "--follow", "--limit", "1", "--json"]);
        let before = next(&mut events).await["seq_num"].as_i64().unwrap();
        let (_tail, mut tail) = asked.follow(&["tail", "--json", "--after", "1500"]);
        assert_eq!(next(&mut tail).await["position"], 1501);
        let said = committer.says(&["commit", "odd", "added", "{\"a\": 1}"]);
        assert_eq!(said, format!("committed as event {}\n", before + 1));
        let added = next(&mut events).await;
        assert_eq!((&added["name"], &added["args"]), (&json!("added"), &json!({"a": 1})));
        loop {
            let row = next(&mut tail).await;
            if row["name"] == "added" && row["seq_num"] == before + 1 {
                assert_eq!(row["store_id"], "odd");
                break;
            }
        }
    }
    let without = Source::Database(database.url("sidecar").replace(database.name(), "postgres"));
    for arguments in [&["stores"][..], &["events", "s"], &["commit", "s", "e"], &["export", "s"]] {
        without.refuses(arguments, 4, "run livestore-sidecar install");
    }
    for url in ["127.0.0.1:8787", "localhost:8787", "foo"] {
        let nobody = Source::Sidecar(url.into());
        nobody.refuses(&["stores"], 2, "--sidecar-url: begin it with http:// or https://");
    }
    for source in &sources {
        source.refuses(&["commit", "odd", "added", "{"], 2, "args are not JSON");
        source.refuses(&["commit", "odd", ""], 4, "name");
        source.refuses(&["events", "odd", "--limit", "0"], 2, "--limit");
    }
    let head: i64 = admin.query_one("select livestore.head('odd')", &[]).await.unwrap().get(0);
    assert_eq!(head, 3);
}

/// An operator who repeats the command would have the event twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_not_called_refused() {
    let database = Database::new().await;
    let (mut holder, admin) = (database.admin().await, database.admin().await);
    admin.batch_execute("select livestore.commit('todos', 'e')").await.unwrap();
    let held = holder.transaction().await.unwrap();
    held.batch_execute("select from livestore.stores for update").await.unwrap();
    let mut command = Command::from(Source::Database(database.url("sidecar")).command(&["commit", "todos", "e"]));
    let committing = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let end = "select count(pg_terminate_backend(pid)) > 0 from pg_stat_activity
         where datname = current_database() and wait_event_type = 'Lock'";
    eventually("it waits", async || admin.query_one(end, &[]).await.unwrap().get(0)).await;
    let output = committing.wait_with_output().await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("not known whether the event was committed"), "{said}");
    assert_eq!(output.status.code(), Some(3), "{said}");

    // A sidecar that ends without an answer, and one that is not there.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let silent = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
    });
    let commit = ["commit", "todos", "e"];
    tokio::task::block_in_place(|| Source::Sidecar(url.clone()).refuses(&commit, 3, "not known whether the event"));
    silent.await.unwrap();
    let nobody = tokio::task::block_in_place(|| Source::Sidecar(url).run(&commit));
    let said = String::from_utf8(nobody.stderr).unwrap();
    assert!(nobody.status.code() == Some(3) && !said.contains("not known"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_shown_whatever_is_in_their_args() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    for args in ODD_ARGS {
        admin.execute("select livestore.commit('odd', 'e', $1::text::json)", &[&args]).await.unwrap();
    }
    for source in [Source::Database(database.url("sidecar")), Source::Sidecar(sidecar.http_url())] {
        let (table, json) = (source.says(&["events", "odd"]), source.says(&["events", "odd", "--json"]));
        for args in ODD_ARGS {
            let in_json = format!("\"args\" : {args}");
            assert!(json.lines().any(|line| line.contains(&in_json)), "{args}: {json}");
            // There is one event without a value in its args.
            assert!(args == "null" || table.lines().any(|line| line.contains(args)), "{args}: {table}");
        }
        for arguments in [&["events", "odd", "--follow"][..], &["tail", "--after", "0"]] {
            let (_child, mut lines) = source.follow(arguments);
            for args in &ODD_ARGS[..4] {
                let line = next_line(&mut lines).await;
                assert!(line.ends_with(args), "{arguments:?}, {args}: {line}");
            }
            let (_child, mut lines) = source.follow(&[arguments, &["--json"]].concat());
            for args in ODD_ARGS {
                let line = next_line(&mut lines).await;
                assert!(line.contains(args), "{arguments:?}, {args}: {line}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn args_are_committed_byte_for_byte_by_either_source() {
    let database = Database::new().await;
    let open = Sidecar::on(&database).await;
    let secret = ["--inspector-secret", "the secret of the operator"];
    let closed = Start::new(database.url("sidecar")).arguments(&secret).ready().await;
    let sources = [
        ("database", Source::Database(database.url("sidecar")), &[][..]),
        ("client", Source::Sidecar(open.http_url()), &[]),
        ("operator", Source::Sidecar(closed.http_url()), &["--token", secret[1]]),
    ];
    let lines = "{\"z\":\n\t[1.0]}";
    for (store, source, options) in &sources {
        for args in ODD_ARGS.into_iter().chain([lines]) {
            source.says(&[&["commit", *store, "e", args][..], *options].concat());
        }
        source.says(&[&["commit", *store, "e"][..], *options].concat());
        let sql = "select args::text from livestore.events where store_id = $1 order by seq_num";
        let rows = database.admin().await.query(sql, &[store]).await.unwrap();
        let committed: Vec<Option<String>> = rows.iter().map(|row| row.get(0)).collect();
        let expected = ODD_ARGS.into_iter().chain([lines]).map(|args| Some(args.to_owned())).chain([None]);
        assert_eq!(committed, expected.collect::<Vec<_>>(), "{store}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_events_are_listed_although_they_are_large() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    let large = format!("\"{}\"", "x".repeat(200_000));
    for _ in 0..12 {
        admin.execute("select livestore.commit('large', 'e', $1::text::json)", &[&large]).await.unwrap();
    }
    let mut gaps = json!([event(0, "e", json!(1)), event(1, "e", json!(2)), event(2, "e", json!(3))]);
    gaps[2]["seqNum"] = json!(10);
    admin.execute("select livestore.push('gaps', $1::text::json)", &[&gaps.to_string()]).await.unwrap();
    for source in [Source::Database(database.url("sidecar")), Source::Sidecar(sidecar.http_url())] {
        let numbers = |text: &[u8]| {
            let rows = String::from_utf8_lossy(text);
            let number = |row: &str| serde_json::from_str::<Value>(row).unwrap()["seq_num"].as_i64().unwrap();
            rows.lines().map(number).collect::<Vec<_>>()
        };
        let Output { stdout, stderr, .. } = source.run(&["events", "large", "--json"]);
        let told = String::from_utf8_lossy(&stderr);
        assert_eq!(numbers(&stdout), [8, 9, 10, 11, 12], "{told}");
        assert!(told.contains("events up to 7 are left out") && told.contains("--after"), "{told}");
        let Output { stdout, stderr, .. } = source.run(&["events", "large", "--after", "0", "--json"]);
        let told = String::from_utf8_lossy(&stderr);
        assert_eq!(numbers(&stdout), [1, 2, 3, 4, 5], "{told}");
        assert!(told.contains("events after 5 are left out") && told.contains("--after 5"), "{told}");
        for (arguments, expected) in [
            (&["events", "large", "--limit", "3"][..], &[10, 11, 12][..]),
            (&["events", "gaps", "--limit", "2"], &[2, 10]),
            (&["events", "gaps"], &[1, 2, 10]),
            (&["events", "gaps", "--after", "1"], &[2, 10]),
        ] {
            let Output { stdout, stderr, .. } = source.run(&[arguments, &["--json"]].concat());
            assert_eq!(
                (numbers(&stdout), &*String::from_utf8_lossy(&stderr)),
                (expected.to_vec(), ""),
                "{arguments:?}"
            );
        }
    }
}

/// The numbers of a log that was reset begin anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_followed_over_resets() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    admin
        .batch_execute("select livestore.commit('todos', 'before'), livestore.commit('todos', 'before')")
        .await
        .unwrap();
    let sources = [Source::Database(database.url("sidecar")), Source::Sidecar(sidecar.http_url())];
    let mut followed = Vec::new();
    for source in &sources {
        let mut command = Command::from(source.command(&["events", "todos", "--follow", "--json"]));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut events = BufReader::new(child.stdout.take().unwrap()).lines();
        for n in 1..=2 {
            assert_eq!(next(&mut events).await["seq_num"], n);
        }
        followed.push((child, events));
    }
    // Emptied; with more events than before at once; dropped, and made again.
    for (change, name, length) in [
        ("select livestore.reset_store('todos')", "one", 1),
        ("select livestore.reset_store('todos')", "three", 3),
        ("select livestore.drop_store('todos')", "two", 2),
    ] {
        let commit = format!("select livestore.commit('todos', '{name}');").repeat(length);
        admin.batch_execute(&format!("begin; {change}; {commit} commit")).await.unwrap();
        for (_, events) in &mut followed {
            for n in 1..=length {
                let event = next(events).await;
                assert_eq!((&event["seq_num"], &event["name"]), (&json!(n), &json!(name)));
            }
        }
    }
    for (mut child, _) in followed {
        child.start_kill().unwrap();
        let output = child.wait_with_output().await.unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(told.matches("the store \"todos\" was reset").count(), 3, "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_no_event_is_named_in_the_tail() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let admin = database.admin().await;
    admin.batch_execute("select livestore.commit('kept', 'e')").await.unwrap();
    for change in ["livestore.commit('todos', 'e')", "livestore.reset_store('todos')", "livestore.drop_store('todos')"]
    {
        admin.batch_execute(&format!("select {change}")).await.unwrap();
    }
    for source in [Source::Database(database.url("sidecar")), Source::Sidecar(sidecar.http_url())] {
        let (_child, mut lines) = source.follow(&["tail", "--after", "0"]);
        let mut said = Vec::new();
        while !said.last().is_some_and(|line: &String| line.ends_with("  todos    drop")) {
            said.push(next_line(&mut lines).await.trim_end().to_owned());
        }
        assert!(said.iter().any(|line| line.ends_with("  kept  1  e")), "{said:?}");
        assert!(said.iter().any(|line| line.ends_with("  todos    reset")), "{said:?}");
    }
}

/// Otherwise a shell that has the variable of one place writes into it, whatever the command says.
#[tokio::test(flavor = "multi_thread")]
async fn an_option_counts_more_than_a_variable() {
    let (here, there) = (Database::new().await, Database::new().await);
    let sidecar = Sidecar::on(&here).await;
    let (database_url, sidecar_url) = (there.url("sidecar"), sidecar.http_url());
    let count = async |database: &Database| {
        let sql = "select count(*) from livestore.events";
        database.admin().await.query_one(sql, &[]).await.unwrap().get::<_, i64>(0)
    };
    Source::Sidecar(sidecar_url.clone()).says(&["commit", "todos", "e", "--database-url", &database_url]);
    assert_eq!((count(&here).await, count(&there).await), (0, 1));
    Source::Database(database_url.clone()).says(&["commit", "todos", "e", "--sidecar-url", &sidecar_url]);
    assert_eq!((count(&here).await, count(&there).await), (1, 1));
    // The sidecar, if there are only variables.
    let mut both = Source::Sidecar(sidecar_url.clone()).command(&["commit", "todos", "e"]);
    assert!(both.env("DATABASE_URL", &database_url).output().unwrap().status.success());
    assert_eq!((count(&here).await, count(&there).await), (2, 1));
    // An empty variable is none. An empty option is no reason to write elsewhere.
    let mut empty = Source::Database(database_url.clone()).command(&["commit", "todos", "e"]);
    assert!(empty.env("LIVESTORE_SIDECAR_URL", "").output().unwrap().status.success());
    let mut empty = Source::Sidecar(sidecar_url.clone()).command(&["stores"]);
    assert!(empty.env("DATABASE_URL", "").env("LIVESTORE_TOKEN", "").output().unwrap().status.success());
    Source::Sidecar(String::new()).refuses(&["stores"], 2, "say which database to ask");
    Source::Sidecar(sidecar_url.clone()).refuses(&["commit", "todos", "e", "--database-url", ""], 2, "names no host");
    assert_eq!((count(&here).await, count(&there).await), (2, 2));
    let options = ["commit", "todos", "e", "--sidecar-url", &sidecar_url, "--database-url", &database_url];
    Source::Database(database_url.clone()).refuses(&options, 2, "--database-url and --sidecar-url do not go together");
    assert_eq!((count(&here).await, count(&there).await), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_asks_for_a_token_and_gives_no_more_than_it_allows() {
    let database = Database::new().await;
    database.admin().await.batch_execute("select livestore.commit('todos', 'e')").await.unwrap();
    let sidecar = Start::new(database.url("sidecar")).arguments(&WITH_SECRET).ready().await;
    let source = Source::Sidecar(sidecar.http_url());
    let token =
        |claim: Value| Signer::secret(SECRET).sign(&json!({"sub": "ann", "exp": now() + 60, "livestore": claim}));
    source.refuses(&["stores"], 4, "asks for --token");
    source.refuses(
        &["stores", "--token", &token(json!({"todos": "admin"}))],
        4,
        "does not take this token: the claim of this token does not give \"*\":",
    );
    let read = token(json!({"*": "read"}));
    assert_eq!(source.json(&["stores", "--token", &read]).len(), 1);
    source.refuses(&["commit", "todos", "e", "--token", &read], 4, "your token allows to read only");
    source.says(&["commit", "todos", "e", "--token", &token(json!({"*": "write"}))]);
    let session = "select session_id from livestore.events where seq_num = 2";
    assert_eq!(database.admin().await.query_one(session, &[]).await.unwrap().get::<_, String>(0), "ann");

    // One that ends meanwhile.
    let claims = json!({"sub": "ann", "exp": now() + 10, "livestore": {"*": "read"}});
    let arguments = ["events", "todos", "--follow", "--token", &Signer::secret(SECRET).sign(&claims)];
    let followed = Command::from(source.command(&arguments)).kill_on_drop(true).output();
    let followed = timeout(Duration::from_secs(60), followed).await.expect("it ends").unwrap();
    let said = String::from_utf8_lossy(&followed.stderr);
    let reason = "the sidecar does not take this token any more: the token has expired";
    assert!(followed.status.code() == Some(4) && said.contains(reason), "{said}");

    let off = Start::new(database.url("sidecar")).arguments(&["--inspector", "off"]).ready().await;
    Source::Sidecar(off.http_url()).refuses(&["stores"], 4, "--inspector on");
    let nobody = Source::Sidecar(format!("http://127.0.0.1:{}", livestore_tests::free_port()));
    nobody.refuses(&["stores"], 3, "does not answer");
    let told = String::from_utf8(nobody.run(&["stores"]).stderr).unwrap();
    assert!(!told.contains("unencrypted"), "{told}");
    // No loopback address, and nobody answers at once.
    let remote = Source::Sidecar(format!("http://0.0.0.0:{}", livestore_tests::free_port()));
    let told = "livestore-sidecar: --sidecar-url: tokens and events cross the network unencrypted";
    remote.refuses(&["stores", "--token", "secret"], 3, told);
    let output = Start::program().arg("stores").env_remove("DATABASE_URL").output().unwrap();
    assert!(output.status.code() == Some(2) && String::from_utf8_lossy(&output.stderr).contains("--sidecar-url"));
}

/// The URL of a proxy that puts its own name of the sidecar into the header `Host`, as proxies do unless they are told otherwise.
async fn renaming_proxy(sidecar: &Sidecar) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (near, far) = (listener.local_addr().unwrap(), sidecar.port());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut sidecar = TcpStream::connect(("127.0.0.1", far)).await.unwrap();
            // The commands send one request on each connection.
            let mut head = vec![0; 1 << 16];
            let read = client.read(&mut head).await.unwrap();
            let head = String::from_utf8_lossy(&head[..read]);
            let renamed = head.replacen(&format!("host: {near}\r\n"), "host: sidecar.internal\r\n", 1);
            assert_ne!(renamed, head);
            sidecar.write_all(renamed.as_bytes()).await.unwrap();
            tokio::spawn(async move { copy_bidirectional(&mut client, &mut sidecar).await });
        }
    });
    format!("http://{near}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_may_rename_the_sidecar_and_refusals_are_text() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&WITH_SECRET).ready().await;
    let claims = json!({"sub": "ann", "exp": now() + 60, "livestore": {"*": "write"}});
    let token = Signer::secret(SECRET).sign(&claims);
    let source = Source::Sidecar(renaming_proxy(&sidecar).await);
    let said = source.says(&["commit", "todos", "e", "--token", &token]);
    assert_eq!(said, "committed as event 1\n");
    assert_eq!(source.json(&["stores", "--token", &token]).len(), 1);

    let (status, text) = sidecar.get("/inspector/api/list?of=stores").await;
    assert_eq!((status, text.as_str()), (401, "log in to look"));
    for path in ["api/commit", "api/import", "login"] {
        let url = format!("{}/inspector/{path}", sidecar.http_url());
        let request = reqwest::Client::new().post(url).header("origin", "http://proxy.example");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 403);
        assert_eq!(answer.headers()["content-type"], "text/plain; charset=utf-8");
        let text = answer.text().await.unwrap();
        assert!(text.contains("the header Host") && !text.contains('<'), "{text}");
    }
}

/// A log goes from one sidecar to another as a file, byte for byte, or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_exported_from_a_sidecar_and_imported_into_another() {
    let (from, to) = (Database::new().await, Database::new().await);
    let admin = from.admin().await;
    let many: Value = (0..2500).map(|n| event(n, "todoCreated", json!({"n": n}))).collect();
    admin.execute("select livestore.push('todos', $1::text::json)", &[&many.to_string()]).await.unwrap();
    let odd = "{\"big\": 12345678901234567890, \"a\":\n\t[\"\\u0000 \\\\ é\"]}";
    admin.execute("select livestore.commit('todos', 'e', $1::text)", &[&odd]).await.unwrap();
    let token = |claim: Value| {
        let claims = json!({"sub": "ann", "exp": now() + 60, "livestore": claim});
        Signer::secret(SECRET).sign(&claims)
    };
    let (read, write, all) = (token(json!({"*": "read"})), token(json!({"*": "write"})), token(json!({"*": "admin"})));
    let one = Start::new(from.url("sidecar")).arguments(&WITH_SECRET).ready().await;
    // The role of the sidecar may administer, too.
    let other = Start::new(to.url("admin")).arguments(&WITH_SECRET).ready().await;
    let (source, target) = (Source::Sidecar(one.http_url()), Source::Sidecar(other.http_url()));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("todos.jsonl").display().to_string();

    source.refuses(&["export", "todos"], 4, "asks for --token");
    source.refuses(&["export", "nothing", "--token", &read], 4, "no such store");
    let lines = source.says(&["export", "todos", "--token", &read]);
    assert_eq!(lines, Source::Database(from.url("sidecar")).says(&["export", "todos"]));
    assert_eq!(lines.lines().count(), 2502);
    source.says(&["export", "todos", "--token", &read, "--output", &file]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), lines);

    let none = folder.path().join("none.jsonl").display().to_string();
    let database = Source::Database(from.url("sidecar"));
    for (source, reason) in [(&database, "there is no store \"nothing\""), (&source, "no such store")] {
        source.refuses(&["export", "nothing", "--token", &read, "--output", &none], 4, reason);
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["todos.jsonl"]);
    }

    let cut = folder.path().join("cut.jsonl").display().to_string();
    std::fs::write(&cut, lines.lines().take(2000).map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    target.refuses(&["import", &file, "--token", &write], 4, "\"admin\"");
    target.refuses(&["import", &cut, "--token", &all], 4, "not whole");
    target.refuses(&["import", "/nowhere.jsonl", "--token", &all], 1, "/nowhere.jsonl");
    source.refuses(&["import", &file, "--token", &all], 4, "permission denied");
    assert_eq!(target.json(&["stores", "--token", &all]), [json!(null); 0]);
    let said = |arguments: &[&str]| String::from_utf8(target.run(arguments).stderr).unwrap();
    let import = ["import", &file, "--token", &all];
    assert_eq!(said(&import), "imported 2501 events, 0 were there already; the head is 2501\n");
    assert_eq!(said(&import), "imported 0 events, 2501 were there already; the head is 2501\n");
    assert_eq!(target.says(&["export", "todos", "--token", &read]), lines);
    let copy = [&import[..], &["--store", "a copy"]].concat();
    assert_eq!(said(&copy), "imported 2501 events, 0 were there already; the head is 2501\n");
}

/// A client that sends half of a file and no more keeps nothing open, and imports nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_does_not_go_on_ends() {
    let database = Database::new().await;
    let secret = ["--inspector-secret", "the secret of the operator"];
    let sidecar = Start::new(database.url("admin")).arguments(&secret).ready().await;
    let mut child = Command::from(Source::Sidecar(sidecar.http_url()).command(&["import", "--token", secret[1]]))
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"{\"seqNum\":1,").await.unwrap();
    stdin.flush().await.unwrap();
    let output = timeout(Duration::from_secs(60), child.wait_with_output()).await.expect("an end").unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(4) && said.contains("nothing more came for 30 seconds"), "{said}");
    drop(stdin);
    let open = "select count(*) from pg_stat_activity where datname = current_database() and query like '%imported_lines%' and pid <> pg_backend_pid()";
    let deadline = Instant::now() + Duration::from_secs(10);
    while database.admin().await.query_one(open, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(Instant::now() < deadline, "the import goes on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Texts of clients move no cursor and change no colour.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_gets_no_control_characters() {
    let database = Database::new().await;
    let evil = "\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}31m\u{202e}\r\n";
    let event = json!([{"name": evil, "args": {"a": evil}, "seqNum": 1, "parentSeqNum": 0, "clientId": evil, "sessionId": evil}]);
    let admin = database.admin().await;
    admin.execute("select livestore.push($1, $2::text::json)", &[&evil, &event.to_string()]).await.unwrap();
    let source = Source::Database(database.url("sidecar"));
    for arguments in [&["stores"][..], &["events", evil]] {
        let said = source.says(arguments);
        let is_evil = |character: char| (character.is_control() && character != '\n') || character == '\u{202e}';
        assert!(said.contains("\\u{1b}[2J") && !said.contains(is_evil), "{said:?}");
    }
    assert_eq!(source.json(&["events", evil])[0]["name"], evil);
}

#[test]
fn shells_and_man_get_what_help_says() {
    let run = |arguments: &[&str]| {
        let output = Start::program().args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]);
        assert!(script.contains("inspector-secret") && script.contains("tail"), "{shell}");
    }
    let page = run(&["man"]);
    assert!(page.starts_with(".ie") && page.contains("inspector\\-secret"), "{page}");
    assert!(run(&["man", "events"]).contains("livestore\\-sidecar\\-events"));
    assert!(run(&["man", "shards", "init"]).contains("livestore\\-sidecar\\-shards\\-init"));
    for (names, told) in
        [(&["nothing"][..], "subcommand nothing"), (&["shards", "nothing"], "subcommand shards nothing")]
    {
        let output = Start::program().arg("man").args(names).output().unwrap();
        assert!(output.status.code() == Some(2) && String::from_utf8_lossy(&output.stderr).contains(told), "{names:?}");
    }
}

/// As by a proxy that has a page of its own.
#[test]
fn an_answer_that_is_no_answer_of_a_sidecar_is_not_taken_for_a_mistake_in_the_args() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let source = Source::Sidecar(format!("http://{}", listener.local_addr().unwrap()));
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            std::io::Read::read(&mut connection, &mut [0; 1 << 14]).unwrap();
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>";
            std::io::Write::write_all(&mut connection, answer.as_bytes()).unwrap();
        }
    });
    for arguments in [&["stores"][..], &["commit", "s", "e", "{}"]] {
        source.refuses(arguments, 4, "the answer cannot be read");
    }
}
