//! The folders of `examples`, as a reader uses them: copied to another place, installed from their lockfiles, and run.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use livestore_tests::browsers::Browsers;
use livestore_tests::client::newer_node;
use livestore_tests::cluster::Database;
use livestore_tests::sidecar::{Sidecar, Start};
use livestore_tests::supabase::{Supabase, user_of};
use livestore_tests::{eventually, root, watchdog};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

/// The time that an installation from the registry may take on a busy machine.
const INSTALLING: Duration = Duration::from_secs(300);

/// A copy of an example, without what may lie in the folder of a developer.
struct Example(TempDir);

impl Example {
    fn copy(name: &str) -> Self {
        let folder = watchdog::folder();
        let files = std::process::Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
            .current_dir(root().join("examples").join(name))
            .output()
            .unwrap();
        assert!(files.status.success() && !files.stdout.is_empty(), "{files:?}");
        for file in String::from_utf8(files.stdout).unwrap().split_terminator('\0') {
            let to = folder.path().join(file);
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(root().join("examples").join(name).join(file), to).unwrap();
        }
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// A command in the folder, with Node 24 as `node`.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let node = newer_node();
        let mut folders: Vec<PathBuf> = node.parent().map(PathBuf::from).into_iter().collect();
        folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap()));
        let mut command = Command::new(program);
        // Expo shows its progress, and tells its makers, unless it is told that it runs for a test.
        command.envs([("CI", "1"), ("EXPO_NO_TELEMETRY", "1"), ("EXPO_OFFLINE", "1")]);
        command.current_dir(self.path()).env("PATH", std::env::join_paths(folders).unwrap()).kill_on_drop(true);
        command
    }

    async fn run(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Output {
        let run = self.command(program).args(arguments).output();
        let output = tokio::time::timeout(INSTALLING, run).await.expect("an end in time").unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {stdout}\n{stderr}");
        output
    }

    /// Installs what the lockfile names, which has to fit the package.json, and compiles the example. By pnpm, as each README says
    /// first: its store serves all examples, and npm takes six times as long for each.
    async fn install(&self) {
        let pnpm = root().join("tests/clients/node_modules/pnpm/bin/pnpm.mjs");
        self.run(newer_node(), &[pnpm.to_str().unwrap(), "install", "--frozen-lockfile"]).await;
        self.compile().await;
    }

    /// The same by npm.
    async fn install_with_npm(&self) {
        self.run("npm", &["ci", "--no-progress"]).await;
        self.compile().await;
    }

    async fn compile(&self) {
        self.run(newer_node(), &["node_modules/typescript/bin/tsc"]).await;
    }

    /// Its page, by Vite, and the URL of it.
    async fn serve(&self, settings: &[(&str, &str)]) -> (Running, String) {
        let port = livestore_tests::free_port().to_string();
        let arguments = ["run", "dev", "--", "--host", "127.0.0.1", "--port", &port, "--strictPort"];
        let vite = self.start("npm", &arguments, settings);
        eventually("Vite serves the page", || async {
            assert!(!vite.printed().contains("error"), "{}", vite.printed());
            vite.printed().contains("ready in")
        })
        .await;
        (vite, format!("http://127.0.0.1:{port}/"))
    }

    /// A script of the example that goes on until this is dropped.
    fn start(&self, program: &str, arguments: &[&str], settings: &[(&str, &str)]) -> Running {
        let mut command = self.command(program);
        command.args(arguments).envs(settings.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: npm would leave what it has started behind.
        command.process_group(0);
        let child = command.spawn().unwrap();
        watchdog::watch_group(child.id().unwrap());
        Running::of(child)
    }
}

/// A process, and what it has printed.
struct Running {
    child: Child,
    printed: Arc<Mutex<String>>,
}

impl Running {
    fn of(mut child: Child) -> Self {
        let printed = Arc::new(Mutex::new(String::new()));
        follow(child.stdout.take().unwrap(), Arc::clone(&printed));
        follow(child.stderr.take().unwrap(), Arc::clone(&printed));
        Self { child, printed }
    }

    fn printed(&self) -> String {
        self.printed.lock().unwrap().clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(id) = self.child.id() {
            let _ = std::process::Command::new("kill").args(["--", &format!("-{id}")]).status();
        }
    }
}

fn follow(lines: impl AsyncRead + Unpin + Send + 'static, printed: Arc<Mutex<String>>) {
    tokio::spawn(async move {
        let mut lines = BufReader::new(lines).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            printed.lock().unwrap().push_str(&(line + "\n"));
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_for_node_syncs_two_clients() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let example = Example::copy("node");
    example.install_with_npm().await;

    let node = newer_node();
    let start = |data: &str, todo: &str| {
        let url = sidecar.url();
        example.start(node.to_str().unwrap(), &["main.ts", todo], &[("DATA", data), ("SYNC_URL", &url)])
    };
    let first = start("data", "buy milk");
    eventually("the first prints its todo", || async { first.printed().contains("buy milk") }).await;
    let second = start("data-2", "bake bread");
    for client in [&first, &second] {
        eventually("a client prints both", || async {
            let printed = client.printed();
            printed.contains("buy milk") && printed.contains("bake bread")
        })
        .await;
    }
    let admin = database.admin().await;
    let stored = "select count(*) = 2 from livestore.events where store_id = 'todos' and name = 'todoCreated'";
    eventually("both are in Postgres", || async { admin.query_one(stored, &[]).await.unwrap().get(0) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_for_react_syncs_two_browsers() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let example = Example::copy("react");
    example.install().await;
    let url = sidecar.url();
    let (_vite, page) = example.serve(&[("VITE_SYNC_URL", &url)]).await;

    let browsers = Browsers::new();
    let first = browsers.open("first", &page).await;
    first.add("buy milk").await;
    let second = browsers.open("second", &page).await;
    second.shows(&["buy milk"]).await;
    second.add("bake bread").await;
    first.shows(&["buy milk", "bake bread"]).await;
    first.complete("buy milk").await;
    second.shows(&["✓ buy milk", "bake bread"]).await;
    assert_eq!((first.errors().await, second.errors().await), (vec![], vec![]));
    let stored = "select count(*) from livestore.events where store_id = 'todos'";
    assert_eq!(database.admin().await.query_one(stored, &[]).await.unwrap().get::<_, i64>(0), 3);
}

/// Signs in with Supabase's client, and goes on after its token has expired.
#[tokio::test(flavor = "multi_thread")]
async fn the_example_for_supabase_syncs_a_user_and_renews_the_token() {
    // The client pauses twice as long after each lost connection, up to 36 s. A token that lives shorter than the pause has expired when
    // it is used. On a busy machine the page takes so long that several connections end before the test goes on.
    const LIFETIME: i64 = 20;
    let supabase = Supabase::start(LIFETIME).await;
    let database = Database::new().await;
    let example = Example::copy("supabase-auth");
    example.install().await;
    let readme = std::fs::read_to_string(example.path().join("README.md")).unwrap();
    let mut start = Start::new(database.url("sidecar"));
    for setting in
        readme.split("```sh\n").nth(1).unwrap().lines().filter_map(|line| line.trim().strip_prefix("export "))
    {
        for (name, value) in setting.split(' ').filter_map(|setting| setting.split_once('=')) {
            let value = value.trim_matches('\'').replace("https://abcdefghijklmnopqrst.supabase.co", &supabase.url);
            start = start.environment(name, &value);
        }
    }
    let sidecar = start.ready().await;
    let settings = [("VITE_SYNC_URL", sidecar.url()), ("VITE_SUPABASE_URL", supabase.url.clone())];
    let settings = settings.each_ref().map(|(name, value)| (*name, &**value));
    let settings = [&settings[..], &[("VITE_SUPABASE_KEY", "sb_publishable_test")]].concat();
    let (_vite, page) = example.serve(&settings).await;

    let browsers = Browsers::new();
    let ann = browsers.open("ann", &page).await;
    ann.sign_in("ann@example.com", "secret").await;
    ann.add("buy milk").await;
    let admin = database.admin().await;
    let store = format!("user-{}", user_of("ann@example.com"));
    let stored = async || {
        let todos = "select coalesce(string_agg(args->>'text', ', ' order by seq_num), '') from livestore.pull($1)";
        admin.query_one(todos, &[&store]).await.unwrap().get::<_, String>(0)
    };
    eventually("the todo is in Postgres", async || stored().await == "buy milk").await;
    let before = supabase.renewals();
    tokio::time::sleep(Duration::from_secs(LIFETIME.unsigned_abs() + 1)).await;
    ann.add("bake bread").await;
    eventually("the next one, too", async || stored().await == "buy milk, bake bread").await;
    assert!(supabase.renewals() > before, "the worker asks for a new token");
    let others = "select livestore.commit($1, 'todoCreated', '{\"id\": \"9\", \"text\": \"rest\"}')";
    admin.query_one(others, &[&store]).await.unwrap();
    ann.shows(&["buy milk", "bake bread", "rest"]).await;

    // A device signs out without the others, and without Supabase. A token that is about to expire would be renewed first, in vain for
    // half a minute.
    supabase.set_lifetime(3600);
    let phone = browsers.open("phone", &page).await;
    phone.sign_in("ann@example.com", "secret").await;
    phone.shows(&["buy milk", "bake bread", "rest"]).await;
    phone.sign_out().await;
    eventually("Supabase is told", async || supabase.sign_outs() == ["local"]).await;
    phone.sign_in("ann@example.com", "secret").await;
    phone.shows(&["buy milk", "bake bread", "rest"]).await;
    supabase.go_down();
    phone.sign_out().await;
}

/// A hook, a handler, a webhook and a commit from SQL.
#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_orders_reacts_to_events() {
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let database = Database::new().await;
    let admin = database.admin().await;
    let example = Example::copy("orders");
    example.install().await;
    let port = livestore_tests::free_port().to_string();
    let receiver = format!("receiver=http://127.0.0.1:{port}/hooks");
    let psql = |arguments: &[&str]| {
        let folder = example.path().to_str().unwrap();
        let file = format!("{folder}/{}", arguments[0]);
        let all = [&["-d", database.name(), "-v", "ON_ERROR_STOP=1", "-q", "-f", &file], &arguments[1..]].concat();
        database.tool("psql", &all);
    };
    psql(&["schema.sql", "-v", &receiver]);
    let node = newer_node();
    let settings = [("PORT", &*port), ("LIVESTORE_WEBHOOK_SECRET", SECRET)];
    let mails = example.start(node.to_str().unwrap(), &["receiver.ts"], &settings);
    let sidecar = Start::new(database.url("sidecar"))
        .environment("LIVESTORE_WEBHOOK_SECRET", SECRET)
        .environment("LIVESTORE_WEBHOOK_PRIVATE_ADDRESSES", "true")
        .ready()
        .await;
    let shop = example.start(node.to_str().unwrap(), &["shop.ts", "coffee", "2"], &[("SYNC_URL", &sidecar.url())]);
    eventually("the mail is sent", || async { mails.printed().contains("mail to shop-1: order ") }).await;
    let order = "select concat_ws(' ', product, quantity, status) from shop.orders where store_id = 'shop-1'";
    let order = async || Some(admin.query_opt(order, &[]).await.unwrap()?.get::<_, String>(0));
    eventually("the order is in the table", async || order().await.as_deref() == Some("coffee 2 placed")).await;
    psql(&["ship.sql"]);
    eventually("the client learns of it", || async { shop.printed().contains("2 coffee: shipped") }).await;
    eventually("and the table", async || order().await.as_deref() == Some("coffee 2 shipped")).await;
    assert_eq!(mails.printed().matches("mail to").count(), 1, "{}", mails.printed());
    let bad = r#"select livestore.commit('shop-1', 'orderPlaced', '{"id": "1", "product": "tea", "quantity": -1}')"#;
    let refused = admin.query(bad, &[]).await.unwrap_err();
    let message = refused.as_db_error().unwrap().message();
    assert_eq!(message, "the quantity of an order must be a positive number");
    admin.batch_execute("select livestore.reset_store('shop-1')").await.unwrap();
    eventually("its orders are gone", async || order().await.is_none()).await;
}

/// The server sees ciphertext, and so does a device with another passphrase.
#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_encryption_shows_notes_only_to_those_with_the_passphrase() {
    let database = Database::new().await;
    let sidecar = Sidecar::on(&database).await;
    let example = Example::copy("encryption");
    example.install().await;
    let (node, url) = (newer_node(), sidecar.url());
    let without = example.command(&node).args(["main.ts", "buy milk"]).env_remove("PASSPHRASE").output().await.unwrap();
    let said = String::from_utf8_lossy(&without.stderr);
    assert!(without.status.code() == Some(2) && said.contains("PASSPHRASE="), "{said}");
    let start = |data: &str, passphrase: &str, note: &[&str]| {
        let settings = [("DATA", data), ("PASSPHRASE", passphrase), ("SYNC_URL", &url)];
        example.start(node.to_str().unwrap(), &[&["main.ts"], note].concat(), &settings)
    };
    let first = start("data", "my secret", &["buy milk"]);
    let (second, stranger) = (start("data-2", "my secret", &[]), start("data-3", "a guess", &[]));
    for client in [&first, &second] {
        eventually("it can read the note", || async { client.printed().contains("buy milk") }).await;
    }
    eventually("the stranger cannot", || async { stranger.printed().contains("does not open it") }).await;
    assert!(!stranger.printed().contains("buy milk"), "{}", stranger.printed());
    let stored = "select name, args::text from livestore.events where store_id = 'notes'";
    let row = database.admin().await.query_one(stored, &[]).await.unwrap();
    let (name, args): (String, String) = (row.get(0), row.get(1));
    assert!(name == "noteCreated" && args.contains("\"iv\"") && !args.contains("buy milk"), "{name} {args}");
}

/// There is no device to run it on.
#[tokio::test(flavor = "multi_thread")]
async fn the_example_for_expo_compiles_and_is_bundled() {
    let example = Example::copy("expo");
    example.install().await;
    // For iOS it takes as long again, and is made in the same way.
    example.run("npm", &["run", "bundle", "--", "--platform", "android"]).await;
    let bundles = example.path().join("dist/_expo/static/js/android");
    assert_eq!(std::fs::read_dir(bundles).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lockfiles_for_npm_fit() {
    for name in ["encryption", "expo", "orders", "react", "supabase-auth"] {
        Example::copy(name).run("npm", &["ci", "--dry-run", "--offline"]).await;
    }
}
