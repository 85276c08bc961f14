//! The recipes of docs/proxies.md, as they stand there, in front of a sidecar.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use livestore_tests::client::Node;
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event, numbers, up_to};
use livestore_tests::sidecar::{Sidecar, Start, http_get};
use livestore_tests::{PATIENCE, eventually, free_port, root, shape, watchdog};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::timeout;

/// A proxy that runs, with a folder of its own. It is killed when this is dropped.
struct Proxy {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What docs/proxies.md has in this language.
fn documented(language: &str) -> String {
    let page = std::fs::read_to_string(root().join("docs/proxies.md")).unwrap();
    let (_, recipe) = page.split_once(&format!("```{language}\n")).expect("a recipe");
    recipe.split_once("```").unwrap().0.into()
}

/// The recipe in this language, with the addresses of the test in place of its own.
fn recipe(language: &str, site: (&str, &str), sidecar: &Sidecar) -> String {
    let recipe = documented(language);
    let upstream = ("127.0.0.1:8787", &*format!("127.0.0.1:{}", sidecar.port()));
    [site, upstream].iter().fold(recipe, |recipe, (written, meant)| {
        assert!(recipe.contains(written), "{written} is not in the recipe");
        recipe.replace(written, meant)
    })
}

async fn start(port: u16, folder: TempDir, command: &mut Command) -> Proxy {
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let child = command.spawn().expect("the proxy; was it unpacked by tests/scripts/install-proxies?");
    watchdog::watch(child.id());
    let proxy = Proxy { child, port, _folder: folder };
    eventually("the proxy serves", || async { http_get(port, "/healthz").await.0 == 200 }).await;
    proxy
}

pub fn program(path: &str) -> Command {
    Command::new(root().join("target/proxies").join(path))
}

async fn nginx(sidecar: &Sidecar) -> Proxy {
    nginx_with(sidecar, |recipe, _| recipe).await
}

/// nginx with more in its configuration. `more` gets the recipe and the folder.
async fn nginx_with(sidecar: &Sidecar, more: impl FnOnce(String, &Path) -> String) -> Proxy {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let recipe = recipe("nginx", ("listen 80;", &format!("listen 127.0.0.1:{port};")), sidecar);
    let recipe = more(recipe, folder.path());
    let at = |name: &str| folder.path().join(name).display().to_string();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path {};\n", at(kind)))
        .collect();
    let pid = at("pid");
    let config = format!(
        "daemon off; master_process off; pid {pid}; events {{}}\nhttp {{ access_log off; {temporary}\n{recipe}\n}}\n"
    );
    write(&folder, "nginx.conf", &config);
    let mut command = program("usr/sbin/nginx");
    command.arg("-p").arg(folder.path()).args(["-e", "stderr", "-c"]).arg(folder.path().join("nginx.conf"));
    start(port, folder, &mut command).await
}

async fn caddy(sidecar: &Sidecar) -> Proxy {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let recipe = recipe("caddyfile", ("sync.example.com {", &format!("http://127.0.0.1:{port} {{")), sidecar);
    write(&folder, "Caddyfile", &format!("{{\n    admin off\n}}\n{recipe}"));
    let mut command = program("usr/bin/caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(folder.path().join("Caddyfile"));
    command.env("HOME", folder.path()).env("XDG_DATA_HOME", folder.path()).env("XDG_CONFIG_HOME", folder.path());
    start(port, folder, &mut command).await
}

fn write(folder: &TempDir, name: &str, text: &str) {
    std::fs::write(Path::new(folder.path()).join(name), text).unwrap();
}

/// Clients of every dialect, all that they do through the proxy.
async fn clients_sync_through(proxy: Proxy, name: &str) {
    let url = format!("ws://127.0.0.1:{}", proxy.port);
    let (node, old) = (Node::sync_backend(), Node::sync_backend_0_3());
    for dialect in ["cf-ws", "cf-http", "cf-0.3", "electric", "s2"] {
        let store = format!("{name}-{dialect}");
        let node = if dialect == "cf-0.3" { &old } else { &node };
        let (writer, reader) = (node.open(dialect, &url, &store).await, node.open(dialect, &url, &store).await);
        writer.push(chain(0, 2)).await.unwrap_or_else(|error| panic!("{name} {dialect}: {error}"));
        let mut live = reader.live(None).await;
        assert_eq!(numbers(&live.events(2).await), [1, 2], "{name} {dialect}");
        // Later events are not held back until there are more of them.
        for head in 2..5 {
            let since = Instant::now();
            writer.push(chain(head, 1)).await.unwrap();
            assert_eq!(numbers(&live.events(1).await), [head + 1], "{name} {dialect}");
            assert!(since.elapsed() < Duration::from_secs(5), "{name} {dialect}: {:?}", since.elapsed());
        }
        // The other clients have a bound of their own.
        let bytes = if dialect == "electric" { 3 << 20 } else { 800_000 };
        let large = json!([event(5, "e", json!("x".repeat(bytes)))]);
        writer.push(large).await.unwrap_or_else(|error| panic!("{name} {dialect}, a large push: {error}"));
        assert_eq!(numbers(&live.events(1).await), [6], "{name} {dialect}");
        assert_eq!(numbers(&reader.pull(None).await.unwrap()), up_to(6), "{name} {dialect}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_every_dialect_sync_through_nginx_as_documented() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).ready().await;
    clients_sync_through(nginx(&sidecar).await, "nginx").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_every_dialect_sync_through_caddy_as_documented() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).ready().await;
    clients_sync_through(caddy(&sidecar).await, "caddy").await;
}

/// nginx as it is documented with a cache.
async fn caching_nginx(sidecar: &Sidecar) -> Proxy {
    nginx_with(sidecar, |recipe, folder| {
        let cache = documented("nginx-cache")
            .replace("/var/cache/nginx/livestore", &folder.join("cache").display().to_string());
        let location = documented("nginx-location");
        let server = recipe.replacen("    location / {", &format!("{location}\n    location / {{"), 1);
        assert!(server.contains("proxy_cache livestore") && cache.contains("/cache keys_zone"), "{server}{cache}");
        cache + &server
    })
    .await
}

/// Reads a log with the requests of Electric's client, from its first page to the one that is up to date. Returns the event numbers.
async fn read_shape(port: u16, store: &str) -> Vec<i64> {
    let (client, table) = (reqwest::Client::new(), format!("eventlog_6_{store}"));
    let (mut offset, mut handle, mut numbers) = ("-1".to_string(), None, Vec::new());
    loop {
        let mut params = vec![("table", table.clone()), ("offset", offset)];
        params.extend(handle.map(|handle| ("handle", handle)));
        let url = reqwest::Url::parse_with_params(&format!("http://127.0.0.1:{port}/v1/shape"), &params).unwrap();
        let answer = shape::Answer::to(client.get(url)).await;
        if answer.status == 409 {
            (offset, handle, numbers) = ("-1".into(), Some(answer.handle().into()), Vec::new());
            continue;
        }
        assert_eq!(answer.status, 200, "{}", answer.text);
        numbers.extend(answer.numbers());
        if answer.controls().contains(&"up-to-date".to_string()) {
            return numbers;
        }
        (offset, handle) = (answer.offset().into(), Some(answer.handle().into()));
    }
}

/// However many clients there are, a page reaches the sidecar once or twice; after a reset, they get what is there.
#[tokio::test(flavor = "multi_thread")]
async fn clients_of_electric_share_pages_behind_nginx_with_a_cache_as_documented() {
    const CLIENTS: usize = 30;
    let database = Database::new().await;
    let admin = database.admin().await;
    let sidecar = Sidecar::on(&database).await;
    let proxy = caching_nginx(&sidecar).await;
    // Of three pages, the first two of which others follow.
    let fill = async |count: i64| {
        admin.execute("select livestore.push('team', $1::text::json)", &[&chain(0, count).to_string()]).await.unwrap();
    };
    fill(2500).await;
    let answered = async || sidecar.metric("livestore_http_requests_total{status=\"200\"}").await;
    let before = answered().await;
    for numbers in join_all((0..CLIENTS).map(|_| read_shape(proxy.port, "team"))).await {
        assert_eq!(numbers, up_to(2500));
    }
    let reached = answered().await - before;
    assert!((3.0..=6.0).contains(&reached), "{reached} requests of {CLIENTS} clients reach the sidecar");

    // sync-electric asks for a ping, the first page, the last one, and whether there is more. The page in between is shared.
    let node = Node::sync_backend();
    let url = format!("ws://127.0.0.1:{}", proxy.port);
    let before = answered().await;
    let clients = join_all((0..10).map(|_| node.open("electric", &url, "team"))).await;
    for pulled in join_all(clients.iter().map(|client| client.pull(None))).await {
        assert_eq!(numbers(&pulled.unwrap()), up_to(2500));
    }
    let reached = answered().await - before;
    assert!((41.0..=44.0).contains(&reached), "{reached} requests of 10 clients of sync-electric");
    // A push, and what is live, go through.
    let mut live = clients[0].live(None).await;
    assert_eq!(live.events(2500).await.len(), 2500);
    clients[1].push(chain(2500, 1)).await.unwrap();
    assert_eq!(numbers(&live.events(1).await), [2501]);

    admin.execute("select livestore.reset_store('team')", &[]).await.unwrap();
    fill(3).await;
    // A client that follows is told when it goes live, if not before.
    let shapes = Node::shape_stream();
    let mut messages = shapes.messages_of("later");
    let follow = json!({"sub": "later", "url": format!("http://127.0.0.1:{}/v1/shape", proxy.port), "params": {"table": "eventlog_6_team"}});
    shapes.call("follow", follow).await.unwrap();
    let mut log = Vec::new();
    while log != up_to(3) {
        let page = timeout(PATIENCE, messages.recv()).await.expect("the log as it is").unwrap();
        for message in page["value"].as_array().unwrap() {
            if message["headers"]["control"] == "must-refetch" {
                log.clear();
            }
            log.extend(message["value"]["seqNum"].as_str().map(|number| number.parse::<i64>().unwrap()));
        }
    }
    let later = node.open("electric", &url, "team").await;
    assert_eq!(numbers(&later.pull(None).await.unwrap()), up_to(3));
}
