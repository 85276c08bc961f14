//! The chart in packaging/chart: rendered by Helm, compared with Kubernetes' schemas, and its settings given to a real sidecar.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jsonwebtoken::dangerous::insecure_decode;
use livestore_tests::cluster::{Cluster, Database, bin};
use livestore_tests::sidecar::{Start, http_get};
use livestore_tests::{eventually, free_port, root};
use serde_json::{Value, json};

const FULL: [&str; 2] = ["--values", "packaging/chart/ci/full-values.yaml"];

/// A program of target/helm. Nothing of a reader's own clusters reaches it.
fn tool(name: &str) -> Command {
    let path = root().join("target/helm/bin").join(name);
    assert!(path.exists(), "{name} is missing: run tests/scripts/install-helm");
    let mut command = Command::new(path);
    command.current_dir(root()).env("HOME", "/nowhere").env_remove("KUBECONFIG").stdin(Stdio::null());
    command
}

fn python() -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command.env("PYTHONPATH", root().join("target/helm/python"));
    command
}

/// Runs a command, and returns its output, or the reason for which it fails.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().unwrap();
    let [printed, reason] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    if output.status.success() { Ok(printed) } else { Err(format!("{printed}{reason}")) }
}

fn template(arguments: &[&str]) -> Result<String, String> {
    output(tool("helm").args(["template", "sync", "packaging/chart"]).args(arguments))
}

/// The documents of a text in YAML.
pub fn documents(yaml: &str) -> Vec<Value> {
    let script = "import json, sys, yaml; print(json.dumps([d for d in yaml.safe_load_all(sys.stdin) if d]))";
    let mut child = python().args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(yaml.as_bytes()).unwrap();
    serde_json::from_slice(&child.wait_with_output().unwrap().stdout).expect(yaml)
}

/// The objects of the chart by their kinds and names.
struct Rendered(BTreeMap<(String, String), Value>);

impl Rendered {
    fn with(arguments: &[&str]) -> Self {
        let objects = documents(&template(arguments).unwrap());
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Self(objects.into_iter().map(|o| ((text(&o["kind"]), text(&o["metadata"]["name"])), o)).collect())
    }

    fn get(&self, kind: &str) -> &Value {
        self.named(kind, "sync-livestore-sidecar")
    }

    fn named(&self, kind: &str, name: &str) -> &Value {
        &self.0[&(kind.to_owned(), name.to_owned())]
    }

    fn pod(&self) -> &Value {
        &self.get("Deployment")["spec"]["template"]
    }
}

/// Whether these labels select an object with those.
fn selects(selector: &Value, labels: &Value) -> bool {
    let selector = selector.as_object().expect("a selector");
    !selector.is_empty() && selector.iter().all(|(name, value)| labels[name] == *value)
}

/// The environment of a container, with a function for the values in Secrets.
fn environment(container: &Value, secret: impl Fn(&str) -> String) -> Vec<(String, String)> {
    let value = |entry: &Value| match entry["value"].as_str() {
        Some(value) => value.to_owned(),
        None => secret(entry["valueFrom"]["secretKeyRef"]["key"].as_str().unwrap()),
    };
    let entries = container["env"].as_array().unwrap();
    entries.iter().map(|entry| (entry["name"].as_str().unwrap().to_owned(), value(entry))).collect()
}

#[test]
fn kubernetes_accepts_what_the_chart_renders() {
    for values in [&[][..], &FULL] {
        output(tool("helm").args(["lint", "--strict", "packaging/chart"]).args(values)).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(template(values).unwrap().as_bytes()).unwrap();
        // The oldest version that Chart.yaml names, and the newest that there is.
        for version in ["1.27", "1.37"] {
            let mut validate = python();
            validate.args(["-m", "kubernetes_validate", "--strict", "-k", version]).arg(file.path());
            let report = output(&mut validate).unwrap();
            let unknown: Vec<_> = report.lines().filter(|line| !line.contains(" passed ")).collect();
            // It is not of Kubernetes itself: another test looks at it.
            assert!(unknown.iter().all(|line| line.contains("kind ServiceMonitor")), "{unknown:?}");
        }
    }
}

#[test]
fn the_objects_of_the_chart_fit_together() {
    let rendered = Rendered::with(&FULL);
    let pod = rendered.pod();
    let labels = &pod["metadata"]["labels"];
    let ports: Vec<_> =
        pod["spec"]["containers"][0]["ports"].as_array().unwrap().iter().map(|port| port["name"].clone()).collect();
    for kind in ["Deployment", "PodDisruptionBudget"] {
        assert!(selects(&rendered.get(kind)["spec"]["selector"]["matchLabels"], labels), "{kind}");
    }
    assert!(selects(&rendered.get("NetworkPolicy")["spec"]["podSelector"]["matchLabels"], labels));
    let health = "sync-livestore-sidecar-health";
    for name in ["sync-livestore-sidecar", health] {
        let service = rendered.named("Service", name);
        assert!(selects(&service["spec"]["selector"], labels), "{name}");
        assert!(ports.contains(&service["spec"]["ports"][0]["targetPort"]), "{name}");
    }
    // The pod of the installation has the labels of the chart, too, and is no sidecar.
    let install = rendered.named("Job", "sync-livestore-sidecar-install");
    let selector = &rendered.get("Deployment")["spec"]["selector"]["matchLabels"];
    assert!(!selects(selector, &install["spec"]["template"]["metadata"]["labels"]));

    let monitor = &rendered.get("ServiceMonitor")["spec"];
    assert_eq!(monitor.as_object().unwrap().keys().collect::<Vec<_>>(), ["endpoints", "selector"]);
    assert_eq!(monitor["endpoints"], json!([{"port": "health", "path": "/metrics", "interval": "30s"}]));
    let services = rendered.0.iter().filter(|((kind, _), _)| kind == "Service");
    let monitored: Vec<_> = services
        .filter(|(_, service)| selects(&monitor["selector"]["matchLabels"], &service["metadata"]["labels"]))
        .map(|((_, name), service)| (name.as_str(), service["spec"]["ports"][0]["name"].as_str().unwrap()))
        .collect();
    assert_eq!(monitored, [(health, "health")]);

    let autoscaler = &rendered.get("HorizontalPodAutoscaler")["spec"];
    assert_eq!(autoscaler["scaleTargetRef"]["name"], "sync-livestore-sidecar");
    assert!(rendered.get("Deployment")["spec"].get("replicas").is_none(), "the autoscaler decides");
    let metric = autoscaler["metrics"][0]["pods"]["metric"]["name"].as_str().unwrap();
    let page = std::fs::read_to_string(root().join("docs/operations.md")).unwrap();
    assert!(page.contains(&format!("\n| `{metric}` | `dialect` |")), "{metric}");
    let backend = &rendered.get("Ingress")["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"];
    assert_eq!(backend, &json!({"name": "sync-livestore-sidecar", "port": {"name": "http"}}));
}

#[test]
fn the_pods_of_the_chart_have_no_rights_and_time_to_end() {
    for (values, grace, probes) in [(&[][..], 35, 1), (&FULL, 50, 2)] {
        let rendered = Rendered::with(values);
        let pods: Vec<_> = rendered.0.values().filter_map(|object| object["spec"]["template"].get("spec")).collect();
        assert_eq!(pods.len(), probes);
        for pod in pods {
            assert_eq!(pod["automountServiceAccountToken"], false);
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
            assert_eq!(pod["securityContext"]["seccompProfile"], json!({"type": "RuntimeDefault"}));
            let rights = json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}});
            assert_eq!(pod["containers"][0]["securityContext"], rights);
        }
        assert_eq!(rendered.pod()["spec"]["terminationGracePeriodSeconds"], grace);
    }
}

#[test]
fn a_setting_that_the_sidecar_does_not_have_or_that_is_secret_is_refused() {
    for name in ["LIVESTORE_AUHT", "LIVESTORE_JWT_SECRET", "DATABASE_URL", "LIVESTORE_SHUTDOWN_DELAY"] {
        let refused = template(&["--set-string", &format!("settings.{name}=x")]).unwrap_err();
        assert!(refused.contains(&format!("invalid propertyName '{name}'")), "{refused}");
    }
    // Those whose values --help hides are secret.
    let page = std::fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let own =
        ["LISTEN", "HEALTH_LISTEN", "REUSE_PORT", "SHUTDOWN_DELAY", "SHUTDOWN_DEADLINE", "DATABASE_ROOT_CERTIFICATE"]
            .map(|name| format!("LIVESTORE_{name}"));
    let settings: BTreeSet<_> = page
        .split("[env: ")
        .skip(1)
        .filter_map(|rest| rest.split_once("=]").map(|(name, _)| name))
        .filter(|name| name.starts_with("LIVESTORE_") && !name.contains('\n') && !own.iter().any(|own| own == name))
        .collect();
    let schema = std::fs::read_to_string(root().join("packaging/chart/values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let names = schema["properties"]["settings"]["propertyNames"]["anyOf"][1]["enum"].as_array().unwrap();
    let names: BTreeSet<_> = names.iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(names, settings, "values.schema.json has the settings of docs/configuration.md");
}

/// The Job would change the front.
#[test]
fn the_job_is_refused_for_shards() {
    let with = |value: &str| {
        let shards = format!("settings.LIVESTORE_SHARDS={value}");
        template(&["--set", "install.enabled=true", "--set-string", &shards])
    };
    for value in ["true", "1", "yes"] {
        let refused = with(value).unwrap_err();
        assert!(refused.contains("install.enabled is for one database"), "{refused}");
    }
    assert!(with("false").unwrap().contains("kind: Job"));
    assert!(template(&["--set-string", "settings.LIVESTORE_SHARDS=true"]).is_ok());
}

#[test]
fn an_autoscaler_without_a_measure_is_refused_and_a_chart_may_be_part_of_another() {
    let autoscaling =
        ["--set", "autoscaling.enabled=true,autoscaling.liveStreams=0,autoscaling.memory=75", "--set", "enabled=true"];
    template(&autoscaling).unwrap();
    let neither = template(&[&autoscaling[..], &["--set", "autoscaling.memory=0"]].concat()).unwrap_err();
    assert!(neither.contains("autoscaling needs liveStreams or memory"), "{neither}");
}

/// Without a cluster, Helm's lookup finds no Deployment: a stand-in takes its place.
#[test]
fn a_deployment_with_an_autoscaler_keeps_its_pods_and_is_never_at_zero() {
    let folder = tempfile::tempdir().unwrap();
    let chart = folder.path().join("chart");
    output(Command::new("cp").arg("-r").arg(root().join("packaging/chart")).arg(&chart)).unwrap();
    let file = chart.join("templates/deployment.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let lookup = r#"lookup "apps/v1" "Deployment" .Release.Namespace (include "sidecar.name" .)"#;
    assert!(text.contains(lookup), "{text}");
    // At 0, the autoscaler does nothing.
    for (found, expected) in [(0, 2), (1, 2), (7, 7)] {
        let stand_in = format!(r#"dict "spec" (dict "replicas" (float64 {found}))"#);
        std::fs::write(&file, text.replace(lookup, &stand_in)).unwrap();
        let mut helm = tool("helm");
        let rendered =
            output(helm.args(["template", "sync", "--set", "autoscaling.enabled=true"]).arg(&chart)).unwrap();
        let documents = documents(&rendered);
        let deployment = documents.iter().find(|document| document["kind"] == "Deployment").unwrap();
        assert_eq!(deployment["spec"]["replicas"], expected, "{found}");
    }
}

#[test]
fn images_and_the_page_have_the_version_of_the_sidecar() {
    let version = env!("CARGO_PKG_VERSION");
    for (file, text) in [
        ("sidecar/Dockerfile", format!("image.version=\"{version}\"")),
        ("extension/Dockerfile", format!("image.version=\"{version}\"")),
        ("packaging/cloudnative-pg/Dockerfile", format!("image.version=\"{version}\"")),
        ("docs/kubernetes.md", format!("livestore-sync-extension:18-{version}\n")),
        ("docs/kubernetes.md", format!("livestore-sidecar:{version}\n")),
    ] {
        assert!(std::fs::read_to_string(root().join(file)).unwrap().contains(&text), "{file}: {text}");
    }
}

#[test]
fn the_chart_has_the_version_of_the_sidecar() {
    let chart = std::fs::read_to_string(root().join("packaging/chart/Chart.yaml")).unwrap();
    let [chart] = &documents(&chart)[..] else { panic!("one document") };
    assert_eq!(
        (&chart["version"], &chart["appVersion"]),
        (&json!(env!("CARGO_PKG_VERSION")), &json!(env!("CARGO_PKG_VERSION")))
    );
}

/// The installation as the Job runs it, and the sidecar as the Deployment does, as far as they go without Kubernetes.
#[tokio::test(flavor = "multi_thread")]
async fn the_job_of_the_chart_installs_and_the_sidecar_serves_with_its_settings() {
    let cluster = tokio::task::spawn_blocking(Cluster::start_empty).await.unwrap().leak();
    let superuser = cluster.connect("postgres", "postgres").await;
    superuser.batch_execute("create role app login createrole").await.unwrap();
    superuser.batch_execute("create database app owner app").await.unwrap();
    let key = "a secret of at least 32 characters";
    let settings = ["--set", "install.enabled=true,shutdown.delaySeconds=2,shutdown.deadlineSeconds=3"];
    let rendered = Rendered::with(&settings);

    let job = &rendered.named("Job", "sync-livestore-sidecar-install")["spec"]["template"]["spec"]["containers"][0];
    let secrets = |key: &str| match key {
        "DATABASE_URL" => cluster.url("app", "app"),
        "LIVESTORE_SIDECAR_PASSWORD" => "password".into(),
        _ => panic!("{key}"),
    };
    let arguments: Vec<_> = job["args"].as_array().unwrap().iter().map(|argument| argument.as_str().unwrap()).collect();
    for expected in ["The sidecar connects as the role livestore_sidecar", "its password was not changed"] {
        let installed = output(Start::program().args(&arguments).envs(environment(job, secrets))).unwrap();
        assert!(installed.contains(expected), "{installed}");
    }

    let pod = &rendered.pod()["spec"];
    let container = &pod["containers"][0];
    let port = free_port();
    let mut start = Start::new(cluster.url("livestore_sidecar", "app")).environment("LIVESTORE_JWT_SECRET", key);
    for (name, value) in environment(container, |key| panic!("{key}")) {
        // The ports of a container are its own.
        let value = if name == "LIVESTORE_HEALTH_LISTEN" {
            value.replace("0.0.0.0:8788", &format!("127.0.0.1:{port}"))
        } else {
            value
        };
        start = start.environment(&name, &value);
    }
    let sidecar = start.ready().await;
    let probe = async |name: &str| {
        let probe = &container[name]["httpGet"];
        assert_eq!(probe["port"], "health");
        http_get(port, probe["path"].as_str().unwrap()).await.0
    };
    for name in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(probe(name).await, 200, "{name}");
    }
    assert!(http_get(port, "/metrics").await.1.contains("livestore_connections"));

    let (since, grace) = (Instant::now(), pod["terminationGracePeriodSeconds"].as_u64().unwrap());
    sidecar.signal("TERM");
    eventually("it is not ready", || async { probe("readinessProbe").await == 503 }).await;
    assert_eq!(probe("livenessProbe").await, 200);
    assert!(sidecar.terminate().await.success());
    assert!(since.elapsed() < Duration::from_secs(grace), "{:?}", since.elapsed());
}

#[test]
fn the_manifests_for_cloudnative_pg_fit_together() {
    let read = |name: &str| {
        let path = root().join("packaging/cloudnative-pg").join(name);
        documents(&std::fs::read_to_string(path).unwrap())
    };
    let [cluster, database] = &read("extension.yaml")[..] else { panic!("two documents") };
    let initdb = &cluster["spec"]["bootstrap"]["initdb"];
    assert_eq!(database["spec"]["cluster"]["name"], cluster["metadata"]["name"]);
    assert_eq!((&database["spec"]["name"], &database["spec"]["owner"]), (&initdb["database"], &initdb["owner"]));
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(database["spec"]["extensions"], json!([{"name": "livestore_sync", "version": version}]));
    let image = cluster["spec"]["postgresql"]["extensions"][0]["image"]["reference"].as_str().unwrap();
    assert!(image.ends_with(&format!(":18-{version}")), "{image}");
    let [portable] = &read("portable.yaml")[..] else { panic!("one document") };
    // The default of the autoscaler during a deploy: 16 connections for each pod, and room for others.
    let values = std::fs::read_to_string(root().join("packaging/chart/values.yaml")).unwrap();
    let most = documents(&values)[0]["autoscaling"]["maxReplicas"].as_u64().unwrap();
    for cluster in [cluster, portable] {
        let connections = cluster["spec"]["postgresql"]["parameters"]["max_connections"].as_str().unwrap();
        assert!(connections.parse::<u64>().unwrap() >= 16 * (2 * most + 1) + 20, "{connections}");
    }
    assert_eq!(portable["metadata"]["name"], cluster["metadata"]["name"]);
    assert_eq!(portable["spec"]["bootstrap"]["initdb"]["owner"], "app");
}

/// The blocks of docs/kubernetes.md whose fence has these words.
fn blocks(words: &str) -> Vec<String> {
    let page = std::fs::read_to_string(root().join("docs/kubernetes.md")).unwrap();
    let fence = format!("```{words}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// A program for the snippets of the page.
fn stand_in(folder: &std::path::Path, name: &str, script: &str) {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    assert!(Command::new("chmod").arg("+x").arg(path).status().unwrap().success());
}

/// With Helm and kubectl themselves, which send nothing to a cluster, and Postgres in the place of a pod that has it.
#[tokio::test(flavor = "multi_thread")]
async fn the_commands_and_values_of_the_page_run() {
    let (database, folder) = (Database::alone().await, tempfile::tempdir().unwrap());
    let values = blocks("yaml values");
    assert_eq!(values.len(), 2);
    let [adapter] = &blocks("yaml adapter")[..] else { panic!("one rule") };
    assert!(
        documents(adapter)[0]["rules"]["custom"][0]["seriesQuery"]
            .as_str()
            .unwrap()
            .starts_with("livestore_live_streams{")
    );
    let whole = [&values[1][..], &values[0]].concat();
    std::fs::write(folder.path().join("values.yaml"), &whole).unwrap();
    std::os::unix::fs::symlink(root().join("packaging"), folder.path().join("packaging")).unwrap();

    let tools = root().join("target/helm/bin");
    let psql = "while [ \"$1\" != psql ]; do shift; done\nshift\n[ \"$3\" = app ] || exit 1";
    let psql = format!("{psql}\nexec {} \"$1\" \"$2\" '{}'", bin("psql").display(), database.url("postgres"));
    let kubectl = format!("exec {}/kubectl \"$@\" --dry-run=client -o yaml", tools.display());
    stand_in(folder.path(), "kubectl", &format!("if [ \"$1\" = exec ]; then\n{psql}\nfi\n{kubectl}"));
    stand_in(folder.path(), "helm", &format!("exec {}/helm \"$@\" --dry-run=client", tools.display()));
    let run = |script: &str| {
        let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        shell.args(["-ec", script]).current_dir(folder.path()).env("PATH", path).env("HOME", "/nowhere");
        output(shell.env("OWNER_URL", "postgres://owner@db/app").env_remove("KUBECONFIG").stdin(Stdio::null())).unwrap()
    };
    let [role, owner, secret, install] =
        ["role", "owner", "secret", "install"].map(|word| blocks(&format!("sh {word}")).remove(0));

    let made = run(&format!("{role}{secret}echo \"password: $LIVESTORE_SIDECAR_PASSWORD\""));
    let (_, password) = made.rsplit_once("password: ").unwrap();
    let made =
        &documents(made.split_once("apiVersion").map(|(_, rest)| format!("apiVersion{rest}")).unwrap().as_str())[0];
    assert_eq!(made["metadata"]["name"], "livestore-sidecar");
    assert!(made["data"]["DATABASE_URL"].is_string() && made["data"]["LIVESTORE_JWT_SECRET"].is_string());
    assert_eq!(password.trim().len(), 48);
    let member = "select pg_has_role('livestore_sidecar', 'livestore_writer', 'member')";
    assert!(database.admin().await.query_one(member, &[]).await.unwrap().get::<_, bool>(0));
    assert!(run(&owner).contains("name: livestore-owner"));

    let installed = run(&install);
    assert!(installed.contains("Clients sync with wss://sync.example.com."), "{installed}");
    assert!(installed.contains("helm.sh/hook: pre-install,pre-upgrade"), "{installed}");

    // The sidecar in the place of its pod, which has the secret.
    let program = Start::program();
    let program = program.get_program().display();
    let secret = "a secret of at least 32 characters";
    let sidecar = format!("exec env LIVESTORE_JWT_SECRET='{secret}' {program} \"$@\"");
    stand_in(folder.path(), "livestore-sidecar", &sidecar);
    let kubectl = "[ \"$1 $2\" = 'exec deployment/sync-livestore-sidecar' ] || exit 1\nshift 3\nexec \"$@\"";
    stand_in(folder.path(), "kubectl", kubectl);
    let token = run(&blocks("sh token").remove(0));
    let claims = insecure_decode::<Value>(token.trim()).unwrap().claims;
    assert_eq!((&claims["sub"], &claims["livestore"]), (&json!("ann"), &json!({"user-ann": "write"})));
}
