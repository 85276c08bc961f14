//! Postgres: a cluster of our own, and a database for each test.

mod managed;
mod shards;
mod standby;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::{Client, NoTls};

use crate::flavour::Flavour;
use crate::free_port;

pub use managed::Agent;
pub use shards::shards_of_tests;

/// Holds the extension; the databases of the tests are copies of it.
const TEMPLATE: &str = "livestore_template";

/// A running Postgres with a data folder of its own. It ends with the process that started it, however that ends.
pub struct Cluster {
    folder: PathBuf,
    port: u16,
    /// The environment that Postgres runs in, besides ours.
    environment: Vec<(&'static str, String)>,
    /// A shell that waits for its standard input to close and cleans up then.
    watchdog: Child,
}

impl Cluster {
    /// The cluster that the tests of a process share. Tests that stop or restart Postgres start one of their own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Starts a cluster with the extension in a template database. `make install` comes before.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// The same with further lines of `postgresql.conf`.
    pub fn start_with(settings: &str) -> Self {
        Self::start_in(&std::env::temp_dir(), settings)
    }

    /// Starts a cluster that knows nothing of livestore_sync.
    pub fn start_empty() -> Self {
        Self::initialize(&std::env::temp_dir(), "", &[])
    }

    fn initialize(parent: &Path, settings: &str, environment: &[(&'static str, String)]) -> Self {
        let folder = new_folder(parent);
        run(postgres_command("initdb")
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"])
            .arg("-D")
            .arg(folder.join("data")));
        let settings = format!("listen_addresses = '127.0.0.1'\nmax_connections = 200\n{settings}");
        Self::run(folder, &settings, environment)
    }

    /// The same with its folder in this one, e.g. on a disk of its own.
    pub fn start_in(parent: &Path, settings: &str) -> Self {
        Self::start_as(parent, settings, &[])
    }

    /// The same with environment variables for Postgres.
    pub fn start_as(parent: &Path, settings: &str, environment: &[(&'static str, String)]) -> Self {
        let cluster = Self::initialize(parent, settings, environment);
        // A thread of its own: tests may or may not run on a runtime.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(cluster.create_template());
            });
        });
        cluster
    }

    /// Creates the template of the tests' databases, and their roles.
    pub async fn create_template(&self) {
        let postgres = self.connect("postgres", "postgres").await;
        postgres.batch_execute(&format!("create database {TEMPLATE}")).await.expect("a template");
        let template = self.connect("postgres", TEMPLATE).await;
        template
            .batch_execute(Flavour::of_tests().install())
            .await
            .expect("the extension; was it installed with `make install`?");
        template
            .batch_execute(
                "create role sidecar login in role livestore_writer;
                 create role admin login in role livestore_admin;
                 create role reader login in role livestore_reader;
                 create role stranger login",
            )
            .await
            .expect("roles");
        drop(template);
        shards::create_templates(self, &postgres).await;
    }

    /// Starts what is in the folder.
    fn run(folder: PathBuf, settings: &str, environment: &[(&'static str, String)]) -> Self {
        let (data, port) = (folder.join("data"), free_port());
        place(&folder, port);
        // Durable as in production: the tests kill Postgres and look for what was acknowledged.
        append(&data.join("postgresql.conf"), settings);
        let watchdog = watchdog(&folder, "");
        let cluster = Self { folder, port, environment: environment.to_vec(), watchdog };
        cluster.pg_ctl(&["start"]);
        cluster
    }

    /// A new database with the extension in it; or a front, if tests run with shards.
    pub async fn database(&'static self) -> Database {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let postgres = self.connect("postgres", "postgres").await;
        if !shards::copy_front(self, &postgres, &name).await {
            postgres.batch_execute(&format!("create database {name} template {TEMPLATE}")).await.expect("a database");
        }
        Database { cluster: self, name }
    }

    /// A new database with this flavour, whichever the other tests run on.
    pub async fn database_of(&'static self, flavour: Flavour) -> Database {
        let name = format!("test_{}", flavour.name());
        let postgres = self.connect("postgres", "postgres").await;
        postgres.batch_execute(&format!("create database {name} template template0")).await.expect("a database");
        let database = Database { cluster: self, name };
        database.admin().await.batch_execute(flavour.install()).await.expect("the flavour");
        database
    }

    /// The URL of a database for a role.
    pub fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}@127.0.0.1:{}/{database}", self.port)
    }

    /// A connection as this role.
    pub async fn connect(&self, role: &str, database: &str) -> Client {
        self.try_connect(role, database).await.expect("a connection")
    }

    /// A connection as this role, if Postgres is up.
    pub async fn try_connect(&self, role: &str, database: &str) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.url(role, database), NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Runs `pg_ctl` on the cluster and waits for it, e.g. `["restart", "-m", "immediate"]`.
    pub fn pg_ctl(&self, arguments: &[&str]) {
        run(&mut self.pg_ctl_command(arguments));
    }

    /// The same where it may fail: stopping a Postgres that has crashed, or starting one that runs. Says whether it succeeded.
    pub fn try_pg_ctl(&self, arguments: &[&str]) -> bool {
        let mut command = self.pg_ctl_command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().expect("it runs").success()
    }

    fn pg_ctl_command(&self, arguments: &[&str]) -> Command {
        // `env` behind the change of the user: libfaketime would keep something of root's.
        let mut command = as_postgres(Path::new("env"));
        command
            .args(self.environment.iter().map(|(name, value)| format!("{name}={value}")))
            .arg(bin("pg_ctl"))
            .arg("-D")
            .arg(self.folder.join("data"))
            .arg("-l")
            .arg(self.folder.join("log"))
            .arg("-w")
            .args(arguments);
        command
    }

    /// Keeps all that is written from now on, and takes a physical backup of what is there, for [`Self::restore_to`].
    pub async fn archive(&self) {
        let folder = self.folder.display();
        let admin = self.connect("postgres", "postgres").await;
        let command = format!("alter system set archive_command = 'cp %p {folder}/wal/%f'");
        admin.batch_execute(&command).await.expect("a setting");
        admin.batch_execute("alter system set archive_mode = on").await.expect("a setting");
        run(as_postgres(Path::new("mkdir")).arg(self.folder.join("wal")));
        tokio::task::block_in_place(|| {
            self.pg_ctl(&["restart", "-m", "fast"]);
            run(postgres_command("pg_basebackup")
                .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &self.port.to_string(), "--checkpoint=fast"])
                .arg("-D")
                .arg(self.folder.join("backup")));
        });
    }

    /// Puts the backup in the place of the data, and lets Postgres repeat what was written after it up to a restore point.
    pub fn restore_to(&self, point: &str) {
        let (data, folder) = (self.folder.join("data"), self.folder.display());
        self.pg_ctl(&["stop", "-m", "immediate"]);
        run(as_postgres(Path::new("mv")).arg(&data).arg(self.folder.join("lost")));
        run(as_postgres(Path::new("mv")).arg(self.folder.join("backup")).arg(&data));
        let settings = format!(
            "restore_command = 'cp {folder}/wal/%f %p'\nrecovery_target_name = '{point}'\nrecovery_target_action = 'promote'\n"
        );
        append(&data.join("postgresql.conf"), &settings);
        run(as_postgres(Path::new("touch")).arg(data.join("recovery.signal")));
        self.pg_ctl(&["start"]);
    }

    /// The folder with the cluster's data and log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Keeps the cluster for the rest of the process, for tests that need it as long as a `Database` of it lives.
    pub fn leak(self) -> &'static Self {
        Box::leak(Box::new(self))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
    }
}

/// A database of one test.
#[derive(Clone)]
pub struct Database {
    cluster: &'static Cluster,
    name: String,
}

impl Database {
    /// A database with the extension, on the shared cluster.
    pub async fn new() -> Self {
        // The first call starts the cluster, which takes seconds.
        let cluster = tokio::task::spawn_blocking(Cluster::shared).await.expect("a cluster");
        cluster.database().await
    }

    /// A database on a cluster of its own, for tests that stop or restart Postgres. They end with [`Self::stop`].
    pub async fn alone() -> Self {
        tokio::task::spawn_blocking(Cluster::start).await.expect("a cluster").leak().database().await
    }

    /// The same database on another cluster: a standby that was promoted.
    pub fn on(&self, cluster: &'static Cluster) -> Self {
        Self { cluster, name: self.name.clone() }
    }

    /// Stops the cluster: of one that is leaked nobody else does it before the process ends.
    pub fn stop(&self) {
        self.cluster.pg_ctl(&["stop", "-m", "immediate"]);
    }

    pub fn cluster(&self) -> &'static Cluster {
        self.cluster
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URL for a role, e.g. `sidecar`, which has `livestore_writer` and nothing else.
    pub fn url(&self, role: &str) -> String {
        self.url_at(role, self.cluster.port)
    }

    /// The same with another port: that of a [`crate::breaker::Breaker`].
    pub fn url_at(&self, role: &str, port: u16) -> String {
        let url = format!("postgres://{role}@127.0.0.1:{port}/{}", self.name);
        match shards_of_tests() {
            // The shards are behind the same port, too: see `shards.sql`.
            Some(_) if port != self.cluster.port => format!("{url}?options=-c%20fixture.port%3D{port}"),
            _ => url,
        }
    }

    /// The URL for a role at the one of these ports, those of several servers, that allows writes.
    pub fn url_at_any(&self, role: &str, ports: &[u16]) -> String {
        let hosts: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        format!("postgres://{role}@{}/{}?target_session_attrs=read-write", hosts.join(","), self.name)
    }

    /// The URL for a role over the Unix socket.
    pub fn socket_url(&self, role: &str) -> String {
        let folder = self.cluster.folder.display().to_string().replace('/', "%2F");
        format!("postgres://{role}@{folder}:{}/{}", self.cluster.port, self.name)
    }

    /// A connection as the superuser.
    pub async fn admin(&self) -> Client {
        self.connect("postgres").await
    }

    /// Stops processes of Postgres that serve the sidecar, as if the server hung: those of which this is true in `pg_stat_activity`.
    pub async fn stopped(&self, which: &str) -> Stopped {
        let pids = format!("select pid from pg_stat_activity where usename = 'sidecar' and {which}");
        let pids = self.admin().await.query(&pids, &[]).await.expect("pids");
        assert!(!pids.is_empty(), "nobody is served: {which}");
        let stopped = Stopped(pids.iter().map(|row| row.get::<_, i32>(0).to_string()).collect());
        stopped.signal("-STOP");
        stopped
    }

    pub async fn connect(&self, role: &str) -> Client {
        self.cluster.connect(role, &self.name).await
    }

    /// Runs a tool of Postgres on the database as the superuser, e.g. `pg_dump`, and returns what it prints.
    pub fn tool(&self, name: &str, arguments: &[&str]) -> String {
        let output = Command::new(bin(name))
            .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &self.cluster.port.to_string(), "-d", &self.name])
            .args(arguments)
            .output()
            .expect("the tool runs");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

/// Processes that do nothing, until this is dropped.
pub struct Stopped(Vec<String>);

impl Stopped {
    fn signal(&self, name: &str) {
        run(Command::new("kill").arg(name).args(&self.0));
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}

fn new_folder(parent: &Path) -> PathBuf {
    let folder = tempfile::Builder::new().prefix("livestore-test-").tempdir_in(parent).expect("a folder").keep();
    if is_root() {
        run(Command::new("chown").arg("postgres").arg(&folder));
    }
    folder
}

/// A shell that waits for its standard input to close and then runs this, stops the cluster in the folder and removes it.
fn watchdog(folder: &Path, first: &str) -> Child {
    let pg_ctl = bin("pg_ctl");
    let user = if is_root() { "runuser -u postgres --" } else { "" };
    let folder = folder.display();
    let script = format!(
        "cat > /dev/null; cd /; {first} {user} {} -D {folder}/data -m immediate stop; rm -rf {folder}",
        pg_ctl.display()
    );
    crate::watchdog::shell(&script)
}

/// Puts the port and the folder of the socket into the settings of the data in this folder.
fn place(folder: &Path, port: u16) {
    let settings = format!("port = {port}\nunix_socket_directories = '{}'", folder.display());
    append(&folder.join("data/postgresql.conf"), &settings);
}

/// Of a setting that is given twice the last one holds.
fn append(config: &Path, settings: &str) {
    let mut config = std::fs::OpenOptions::new().append(true).open(config).expect("the configuration of a cluster");
    writeln!(config, "{settings}").expect("the configuration can be written");
}

/// Postgres refuses to run as root.
pub(crate) fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output().expect("id");
    output.stdout.trim_ascii() == b"0"
}

fn postgres_command(name: &str) -> Command {
    as_postgres(&bin(name))
}

fn as_postgres(program: &Path) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    // The postgres user may not read the folder that the tests run in.
    command.current_dir("/");
    command
}

/// A program of the Postgres that `$PG_CONFIG` names.
pub fn bin(name: &str) -> PathBuf {
    static BINDIR: OnceLock<PathBuf> = OnceLock::new();
    BINDIR
        .get_or_init(|| {
            let pg_config = std::env::var("PG_CONFIG").unwrap_or_else(|_| "pg_config".into());
            let output = Command::new(pg_config).arg("--bindir").output().expect("pg_config");
            PathBuf::from(String::from_utf8(output.stdout).expect("UTF-8").trim())
        })
        .join(name)
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
    let output = output.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
