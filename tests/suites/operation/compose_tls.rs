//! compose.tls.yaml as far as it runs without containers: a sidecar with its settings, and Caddy with its Caddyfile.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use livestore_tests::client::Node;
use livestore_tests::cluster::Database;
use livestore_tests::events::{chain, numbers};
use livestore_tests::sidecar::Start;
use livestore_tests::tokens::Signer;
use livestore_tests::{eventually, free_port, root, watchdog};
use serde_json::{Value, json};

use super::chart::documents;
use super::proxies::program;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn compose(file: &str) -> Value {
    documents(&std::fs::read_to_string(root().join(file)).unwrap()).remove(0)
}

/// A value with the variables of .env in place, as Compose does it for values that are one variable.
fn resolved(value: &str, variables: &BTreeMap<String, String>) -> String {
    let Some(variable) = value.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) else { return value.into() };
    let (name, default) = variable.split_once(":-").unwrap_or((variable.split(":?").next().unwrap(), ""));
    variables.get(name).map_or(default, String::as_str).into()
}

/// The sidecar's environment: that of compose.yaml, and over it that of compose.tls.yaml.
fn environment(variables: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let (base, tls) = (compose("compose.yaml"), compose("compose.tls.yaml"));
    let sidecar = &tls["services"]["sidecar"];
    assert_eq!(sidecar["extends"], json!({"file": "compose.yaml", "service": "sidecar"}));
    let mut environment = BTreeMap::new();
    for (name, value) in
        [&base["services"]["sidecar"], sidecar].into_iter().flat_map(|s| s["environment"].as_object().unwrap())
    {
        // A name without a value is passed on from .env, if it is there.
        let value = value.as_str().map(|value| resolved(value, variables)).or_else(|| variables.get(name).cloned());
        if let Some(value) = value {
            environment.insert(name.clone(), value);
        }
    }
    environment
}

/// The file .env that the commands of docs/install.md write.
fn settings(folder: &Path) -> BTreeMap<String, String> {
    let page = std::fs::read_to_string(root().join("docs/install.md")).unwrap();
    let (_, commands) = page.split_once("```sh compose-tls\n").unwrap();
    let commands = commands.split("```").next().unwrap();
    let script =
        format!("docker() {{ [ \"$*\" = 'compose --file compose.tls.yaml up --build --detach' ]; }}\n{commands}");
    assert!(Command::new("sh").args(["-ec", &script]).current_dir(folder).status().unwrap().success());
    let lines = std::fs::read_to_string(folder.join(".env")).unwrap();
    lines.lines().map(|line| line.split_once('=').unwrap()).map(|(name, value)| (name.into(), value.into())).collect()
}

/// The status of a GET, or nothing.
fn status(authority: &Path, url: &str) -> String {
    let script =
        "fetch(process.argv[1], { redirect: 'manual' }).then((answer) => process.stdout.write(String(answer.status)))";
    let mut node = Command::new("node");
    let output = node.args(["-e", script, url]).env("NODE_EXTRA_CA_CERTS", authority).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_with_tokens_sync_through_caddy_over_tls() {
    let (database, folder) = (Database::new().await, tempfile::tempdir().unwrap());
    let (port, plain) = (free_port(), free_port());
    let site = format!("localhost:{port}");
    let variables = settings(folder.path());
    assert_eq!(variables["LIVESTORE_SITE"], "sync.example.com");
    let start = |at: u16| {
        let mut start = Start::new(database.url("sidecar")).port(at);
        for (name, value) in environment(&variables) {
            if name != "DATABASE_URL" && name != "LIVESTORE_SHUTDOWN_DELAY" {
                start = start.environment(&name, &value);
            }
        }
        start
    };
    let sidecar = start(0).ready().await;

    // For localhost, Caddy is its own authority. It must not make this machine trust it, nor use the ports of others.
    let caddyfile = std::fs::read_to_string(root().join("packaging/Caddyfile")).unwrap();
    let options = format!("{{\n\tadmin off\n\tskip_install_trust\n\thttp_port {plain}\n}}\n");
    let file = folder.path().join("Caddyfile");
    std::fs::write(&file, options + &caddyfile).unwrap();
    let mut caddy: Command = program("usr/bin/caddy");
    caddy.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file);
    caddy.env("HOME", folder.path()).env("XDG_DATA_HOME", folder.path()).env("XDG_CONFIG_HOME", folder.path());
    caddy.env("LIVESTORE_SITE", &site).env("LIVESTORE_UPSTREAM", format!("127.0.0.1:{}", sidecar.port()));
    caddy.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let caddy = Killed(caddy.spawn().expect("Caddy; was it unpacked by tests/scripts/install-proxies?"));
    watchdog::watch(caddy.0.id());
    let authority = folder.path().join("caddy/pki/authorities/local/root.crt");
    eventually("Caddy has an authority", || async { authority.exists() }).await;
    let get = async |path: &str| status(&authority, &format!("https://{site}{path}"));
    eventually("Caddy serves", || async { get("/healthz").await == "200" }).await;
    assert_eq!(get("/metrics").await, "404");
    assert_eq!(status(&authority, &format!("http://localhost:{plain}/healthz")), "308", "http leads to https");

    let node = Node::sync_backend_trusting(&authority);
    // Each user has one store, and no other one with a name that begins like it.
    let secret = Signer::secret(&variables["LIVESTORE_JWT_SECRET"]);
    let with_token_of = |subject: &str| json!({"authToken": secret.token(subject)});
    let open = async |dialect: &str, payload: Value| {
        let url = if dialect == "cf-ws" { format!("wss://{site}") } else { format!("https://{site}") };
        node.open_with(dialect, &url, &format!("user-ann-{dialect}"), json!({"payload": payload, "url": url})).await
    };
    for dialect in ["cf-ws", "cf-http"] {
        let with_token = with_token_of(&format!("ann-{dialect}"));
        let (writer, reader) = (open(dialect, with_token.clone()).await, open(dialect, with_token.clone()).await);
        writer.push(chain(0, 2)).await.unwrap_or_else(|error| panic!("{dialect}: {error}"));
        let mut live = reader.live(None).await;
        assert_eq!(numbers(&live.events(2).await), [1, 2], "{dialect}");
        live.stop().await;
    }
    for (payload, why) in [(json!({}), "requires a token"), (with_token_of("ann"), "not allowed")] {
        let refused = open("cf-http", payload).await.push(chain(2, 1)).await.unwrap_err().to_string();
        assert!(refused.contains(why), "{why}: {refused}");
    }

    // A request that finds no sidecar waits for the next one. The Caddy of Debian 12 spoils those with a body meanwhile.
    let at = sidecar.port();
    assert!(sidecar.terminate().await.success());
    let url = format!("https://{site}/healthz");
    let request = tokio::task::spawn_blocking(move || status(&authority, &url));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!request.is_finished());
    let _sidecar = start(at).ready().await;
    assert_eq!(request.await.unwrap(), "200");
}

#[test]
fn the_services_of_compose_tls_have_no_rights_that_they_do_not_use() {
    let (base, tls) = (compose("compose.yaml"), compose("compose.tls.yaml"));
    let declared = tls["volumes"].as_object().unwrap();
    assert!(base["volumes"].as_object().unwrap().keys().all(|volume| declared.contains_key(volume)));
    let caddy = &tls["services"]["caddy"];
    assert_eq!((&caddy["read_only"], &caddy["cap_drop"]), (&json!(true), &json!(["ALL"])));
    assert_eq!(caddy["security_opt"], json!(["no-new-privileges:true"]));
    for name in ["postgres", "sidecar"] {
        let service = &tls["services"][name];
        assert!(service.get("ports").is_none() && service.get("cap_add").is_none(), "{name}: others come by Caddy");
    }
}
