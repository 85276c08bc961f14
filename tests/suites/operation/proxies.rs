//! The recipes of docs/proxies.md, as they stand there, in front of a sidecar.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use livestore_tests::client::Node;
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, event, numbers, up_to};
use livestore_tests::sidecar::{Sidecar, Start, http_get};
use livestore_tests::{eventually, free_port, root};
use serde_json::json;
use tempfile::TempDir;

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

/// The recipe in this language, with the addresses of the test in place of its own.
fn recipe(language: &str, site: (&str, &str), sidecar: &Sidecar) -> String {
    let page = std::fs::read_to_string(root().join("docs/proxies.md")).unwrap();
    let (_, recipe) = page.split_once(&format!("```{language}\n")).expect("a recipe");
    let (recipe, _) = recipe.split_once("```").unwrap();
    let upstream = ("127.0.0.1:8787", &*format!("127.0.0.1:{}", sidecar.port()));
    [site, upstream].iter().fold(recipe.to_string(), |recipe, (written, meant)| {
        assert!(recipe.contains(written), "{written} is not in the recipe");
        recipe.replace(written, meant)
    })
}

async fn start(port: u16, folder: TempDir, command: &mut Command) -> Proxy {
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let child = command.spawn().expect("the proxy; was it unpacked by tests/scripts/install-proxies?");
    let proxy = Proxy { child, port, _folder: folder };
    eventually("the proxy serves", || async { http_get(port, "/healthz").await.0 == 200 }).await;
    proxy
}

fn program(path: &str) -> Command {
    Command::new(root().join("target/proxies").join(path))
}

async fn nginx(sidecar: &Sidecar) -> Proxy {
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let recipe = recipe("nginx", ("listen 80;", &format!("listen 127.0.0.1:{port};")), sidecar);
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

#[test]
fn what_operations_says_of_nginx_is_of_the_recipe() {
    let read = |page: &str| std::fs::read_to_string(root().join(page)).unwrap();
    let (operations, proxies) = (read("docs/operations.md"), read("docs/proxies.md"));
    let lines: Vec<_> = operations.lines().filter(|line| line.starts_with("    proxy_")).collect();
    assert!(lines.len() > 5 && lines.iter().all(|line| proxies.contains(line)), "{lines:?}");
}
