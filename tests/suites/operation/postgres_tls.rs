//! TLS with Postgres: used where it is asked for, and only with a server that proves who it is.

use std::path::{Path, PathBuf};
use std::process::Command;

use livestore_tests::cluster::{Cluster, Database};
use livestore_tests::dialects::Caller;
use livestore_tests::events::chain;
use livestore_tests::sidecar::Start;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::abandoned_statements::leave_while_reading;

/// Somebody who signs certificates.
pub struct Authority {
    folder: TempDir,
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Authority {
    /// With a key and a certificate of its own.
    pub fn new() -> Self {
        let authority = Self { folder: tempfile::tempdir().unwrap() };
        run(authority
            .openssl()
            .args(["req", "-x509", "-nodes", "-newkey", "rsa:2048", "-days", "2", "-subj", "/CN=authority"])
            .args(["-keyout", "authority.key", "-out", "authority.crt"]));
        authority
    }

    fn openssl(&self) -> Command {
        let mut command = Command::new("openssl");
        command.current_dir(self.folder.path());
        command
    }

    /// Its own certificate, which clients trust.
    pub fn certificate(&self) -> PathBuf {
        self.file("authority.crt")
    }

    /// Where one of its files is, e.g. `server.key`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Makes a key and a certificate for a host: `server.key` and `server.crt`.
    pub fn sign(&self, host: &str) {
        std::fs::write(self.folder.path().join("names"), format!("subjectAltName={host}")).unwrap();
        run(self.openssl().args(["req", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=server"]).args([
            "-keyout",
            "server.key",
            "-out",
            "server.csr",
        ]));
        run(self
            .openssl()
            .args([
                "x509",
                "-req",
                "-days",
                "2",
                "-in",
                "server.csr",
                "-CA",
                "authority.crt",
                "-CAkey",
                "authority.key",
            ])
            .args(["-CAcreateserial", "-extfile", "names", "-out", "server.crt"]));
    }
}

/// Gives a cluster a certificate for a host.
async fn serve_tls(cluster: &Cluster, authority: &Authority, host: &str) {
    authority.sign(host);
    for file in ["server.crt", "server.key"] {
        install(&authority.file(file), &cluster.folder().join("data").join(file));
    }
    let admin = cluster.connect("postgres", "postgres").await;
    admin.batch_execute("alter system set ssl = on").await.unwrap();
    cluster.pg_ctl(&["restart"]);
}

/// As a file that Postgres takes for a key: its own, and nobody else's.
fn install(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap();
    run(Command::new("chown").arg("--reference").arg(to.parent().unwrap()).arg(to));
    run(Command::new("chmod").arg("600").arg(to));
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_over_tls_where_it_is_asked_for() {
    let database = Database::alone().await;
    let authority = Authority::new();
    serve_tls(database.cluster(), &authority, "IP:127.0.0.1").await;
    let certificate = authority.certificate().display().to_string();
    let with = |mode: &str| {
        Start::new(format!("{}?sslmode={mode}", database.url("sidecar")))
            .arguments(&["--database-root-certificate", &certificate])
    };
    for mode in ["verify-full", "verify-ca", "require"] {
        let sidecar = with(mode).ready().await;
        let answer = Caller::new(&sidecar, mode).write("electric", chain(0, 1)).await;
        assert_eq!(answer.status, 200, "{mode}: {answer:?}");
        let plain = "select count(*), count(*) filter (where ssl) from pg_stat_ssl join pg_stat_activity using (pid)
             where application_name = 'livestore-sidecar'";
        let row = database.admin().await.query_one(plain, &[]).await.unwrap();
        let (all, with_tls): (i64, i64) = (row.get(0), row.get(1));
        assert!(all >= 3 && all == with_tls, "{mode}: {with_tls} of {all}");
        sidecar.terminate().await;
    }
    leave_while_reading(&database, with("verify-full")).await;
    database.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_prove_who_it_is_gets_nothing() {
    let database = Database::alone().await;
    let (authority, another) = (Authority::new(), Authority::new());
    let refused = |certificate: Option<PathBuf>, mode: &str| {
        let certificate = certificate.map(|file| file.display().to_string());
        let arguments: Vec<&str> =
            certificate.iter().flat_map(|file| ["--database-root-certificate", &**file]).collect();
        let url = format!("{}?sslmode={mode}", database.url("sidecar"));
        let output = Start::new(url).arguments(&arguments).command().output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let assert_refused = |(code, log): (Option<i32>, String), what: &str| {
        assert_eq!(code, Some(4), "{what}: {log}");
        assert!(log.contains("TLS with the database fails"), "{what}: {log}");
    };
    assert_refused(refused(Some(authority.certificate()), "require"), "a server without TLS");
    serve_tls(database.cluster(), &authority, "IP:127.0.0.1").await;
    assert_refused(refused(Some(another.certificate()), "require"), "another authority");
    assert_refused(refused(None, "verify-full"), "an authority that this system does not know");
    serve_tls(database.cluster(), &authority, "DNS:another.example").await;
    assert_refused(refused(Some(authority.certificate()), "verify-full"), "the certificate of another host");
    let (code, log) = refused(Some("/nowhere.pem".into()), "verify-full");
    assert_eq!(code, Some(2), "{log}");
    assert!(log.contains("--database-root-certificate"), "{log}");
    database.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_come_from_the_url_or_the_system() {
    let database = Database::alone().await;
    let authority = Authority::new();
    serve_tls(database.cluster(), &authority, "IP:127.0.0.1").await;
    let file = authority.certificate().display().to_string();
    let url = |parameters: &str| format!("{}?{parameters}", database.url("sidecar"));
    for (parameters, ssl_cert_file) in [
        (format!("sslmode=verify-full&sslrootcert={}", file.replace('/', "%2F")), None),
        (format!("sslrootcert={file}&sslmode=verify-full"), None),
        ("sslmode=verify-full&sslrootcert=system".into(), Some(&file)),
        ("sslmode=require".into(), Some(&file)),
    ] {
        let mut start = Start::new(url(&parameters));
        if let Some(file) = ssl_cert_file {
            start = start.environment("SSL_CERT_FILE", file);
        }
        start.ready().await.terminate().await;
    }
    // Without sslmode, who names an authority asks for TLS: for the option, and for the URLs of all commands.
    let only_tls = "hostssl all sidecar 127.0.0.1/32 trust\nhost all postgres 127.0.0.1/32 trust\n";
    std::fs::write(database.cluster().folder().join("data/pg_hba.conf"), only_tls).unwrap();
    database.admin().await.batch_execute("select pg_reload_conf()").await.unwrap();
    for command in ["", "check", "install", "stores"] {
        let mut without = Start::new(database.url("sidecar")).command();
        if !command.is_empty() {
            without = Start::program();
            without.arg(command).env("DATABASE_URL", database.url("sidecar")).env("LIVESTORE_LISTEN", "127.0.0.1:0");
        }
        let output = without.output().unwrap();
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!output.status.success() && told.contains("add ?sslmode=verify-full to its URL"), "{command}: {told}");
        assert!(told.contains("no rule for this user, this database and this address"), "{command}: {told}");
    }
    Start::new(url(&format!("sslrootcert={file}"))).ready().await.terminate().await;
    let option = ["--database-root-certificate", &*file];
    Start::new(database.url("sidecar")).arguments(&option).ready().await.terminate().await;
    let mut stores = Start::program();
    stores.arg("stores").args(option).env("DATABASE_URL", database.url("sidecar"));
    run(&mut stores);
    let output = Start::new(url("sslmode=verify-full&sslrootcert=/nowhere.pem")).command().output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && log.contains("--database-url: /nowhere.pem"), "{log}");
    database.stop();
}

/// Lets the sidecar log in only like this, e.g. `scram-sha-256`.
async fn ask_for(database: &Database, method: &str) {
    let rules = format!("host all sidecar 127.0.0.1/32 {method}\nhost all all 127.0.0.1/32 trust\n");
    std::fs::write(database.cluster().folder().join("data/pg_hba.conf"), rules).unwrap();
    let change = "alter role sidecar password 'secret'; select pg_reload_conf()";
    database.admin().await.batch_execute(change).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn scram_is_bound_to_the_tls_connection_where_it_is_asked_for() {
    let database = Database::alone().await;
    let authority = Authority::new();
    serve_tls(database.cluster(), &authority, "IP:127.0.0.1").await;
    let file = authority.certificate().display().to_string();
    let url = database.url("sidecar").replace("sidecar@", "sidecar:secret@");
    let bound = format!("{url}?sslmode=require&channel_binding=require&sslrootcert={file}");
    ask_for(&database, "scram-sha-256").await;
    let sidecar = Start::new(&bound).ready().await;
    assert_eq!(Caller::new(&sidecar, "bound").write("electric", chain(0, 1)).await.status, 200);
    sidecar.terminate().await;
    // Neither SCRAM without TLS, nor TLS without SCRAM.
    let refused = |url: &str| {
        let output = Start::new(url).command().output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(4) && log.contains("does not use channel binding"), "{url}: {log}");
    };
    refused(&format!("{url}?channel_binding=require"));
    ask_for(&database, "password").await;
    refused(&bound);
    database.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_is_told_which_host_is_meant() {
    let database = Database::alone().await;
    let authority = Authority::new();
    serve_tls(database.cluster(), &authority, "DNS:localhost").await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let file = authority.certificate().display().to_string();
    let url = format!("postgres://sidecar@localhost:{port}/postgres?sslmode=verify-full&sslrootcert={file}");
    let sidecar = Start::new(url).serve();
    let (mut near, _) = listener.accept().await.unwrap();
    let mut request = [0; 8];
    near.read_exact(&mut request).await.unwrap();
    near.write_all(b"S").await.unwrap();
    let mut hello = vec![0; 4096];
    let read = near.read(&mut hello).await.unwrap();
    let is_named = hello[..read].windows(b"localhost".len()).any(|part| part == b"localhost");
    assert!(is_named, "the ClientHello has no server name");
    drop(sidecar);
    database.stop();
}
