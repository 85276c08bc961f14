//! `--demo`, as a visitor uses it: `tests/web/demo-page.mjs`.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use livestore_tests::cluster::Database;
use livestore_tests::program::Program;
use livestore_tests::sidecar::Start;
use livestore_tests::{free_port, root};
use tokio::process::Command;
use tokio::time::timeout;

async fn visit(browser: &str) {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).arguments(&["--demo"]).ready().await;
    visit_at(browser, &sidecar.http_url()).await;
}

async fn visit_at(browser: &str, url: &str) {
    let mut node = Command::new("node");
    node.arg(root().join("tests/web/demo-page.mjs")).args([browser, url]).kill_on_drop(true);
    if let Ok(folder) = std::env::var("LIVESTORE_SCREENSHOTS") {
        node.arg(folder);
    }
    let output = timeout(Duration::from_secs(300), node.output()).await.expect("it ends").unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{browser}: {said}{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_in_chromium_merge_what_they_did_apart() {
    visit("chrome").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_in_firefox_merge_what_they_did_apart() {
    visit("firefox").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_there_only_if_asked_for_and_without_tokens() {
    let database = Database::new().await;
    let sidecar = Start::new(database.url("sidecar")).ready().await;
    assert_eq!(sidecar.get("/demo/").await.0, 404);
    let arguments = ["--demo", "--auth", "jwt", "--jwt-secret", "a secret of at least 32 characters"];
    let output = Start::program().args(arguments).env("DATABASE_URL", database.url("sidecar")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--demo has no tokens"));
}

/// The files in the sidecar are those that `npm run build` makes of the sources.
#[test]
fn its_files_are_built_from_its_sources() {
    let sum = "cat package-lock.json vite.config.ts *.html src/* | sha256sum";
    let output =
        std::process::Command::new("sh").args(["-c", sum]).current_dir(root().join("examples/demo")).output().unwrap();
    let built = std::fs::read(root().join("sidecar/src/demo/files/sources.sha256")).unwrap();
    assert!(output.stdout == built, "run npm ci && npm run build in examples/demo");
    let licences = std::fs::read_to_string(root().join("sidecar/src/demo/files/LICENSES.txt")).unwrap();
    assert!(["@livestore/adapter-web", "@livestore/wa-sqlite", "effect"].iter().all(|name| licences.contains(name)));
}

/// The time that building the sidecar, which `make demo` does first, may take on a slow machine.
const BUILDING: Duration = Duration::from_secs(1200);

/// On the database of the test: `make run` without a database has a test of its own.
#[tokio::test(flavor = "multi_thread")]
async fn make_demo_serves_it_and_stops() {
    let (database, data, port) = (Database::new().await, tempfile::tempdir().unwrap(), free_port());
    let mut make = std::process::Command::new("make");
    make.arg("demo")
        .current_dir(root())
        .env("DATABASE_URL", database.url("sidecar"))
        .env("LIVESTORE_DATA", data.path())
        .env("LIVESTORE_LISTEN", format!("127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut make = Program::start(&mut make);
    let lines = BufReader::new(make.stdout.take().unwrap()).lines().map_while(Result::ok);
    let (sender, mut urls) = tokio::sync::mpsc::unbounded_channel();
    // To its end: it could not write to a closed pipe.
    std::thread::spawn(move || {
        for line in lines {
            if let Some(("", url)) = line.trim().split_once("demo ") {
                let _ = sender.send(url.trim().to_string());
            }
        }
    });
    let url = timeout(BUILDING, urls.recv()).await.expect("make demo is ready in time").expect("make demo goes on");
    assert_eq!(url, format!("http://localhost:{port}/demo/"));
    visit_at("chrome", &url).await;
    let _ = std::process::Command::new("kill").arg(make.id().to_string()).status();
    make.wait().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "the sidecar is still there");
}
