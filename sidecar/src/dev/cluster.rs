//! A Postgres cluster that lives and ends with this process.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::programs::Programs;
use super::{NAME, read, write_secret};

/// Where a cluster is whose user may not enter the folder of the data.
const ELSEWHERE: &str = "/var/lib/livestore-sync";

/// Why it does not run.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error(
        "Postgres does not run as root, and this machine has no user postgres to run it as: start this as another user"
    )]
    NoUser,
    #[error("{program} fails:\n{output}")]
    Program { program: &'static str, output: String },
    #[error("Postgres does not start, see {}:\n{last_lines}", .log.display())]
    Start { log: PathBuf, last_lines: String },
    #[error("the folder of the cluster: {0}")]
    System(#[from] io::Error),
}

/// A cluster that runs, until this is dropped.
#[derive(Debug)]
pub struct Cluster {
    pub port: u16,
    /// Without links.
    pub folder: PathBuf,
    pg_ctl: PathBuf,
    user: Option<User>,
    /// Released at last.
    _lock: File,
}

/// The user that Postgres runs as if this runs as root.
#[derive(Debug, Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

/// The version of the cluster in a folder of data, if there is one.
pub fn version(data: &Path) -> Option<u32> {
    read(&data.join("postgres/PG_VERSION"))?.parse().ok()
}

impl Cluster {
    /// Starts the cluster in a folder of data, and creates it if it does not exist. The caller holds the lock of the folder.
    pub fn start(lock: File, data: &Path, programs: &Programs, password: &str) -> Result<Self, ClusterError> {
        let user = User::of_postgres()?;
        let program = |name: &str| programs.folder.join(name);
        let place = data.join("postgres");
        if !place.join("PG_VERSION").exists() {
            // In another place, so that a cluster that is half made, because this process was killed, is never taken for one.
            let new = data.join("postgres.new");
            remove(&new)?;
            let folder = create_folder(data, &new, user)?;
            let version = programs.version;
            match folder.starts_with(data) {
                true => writeln!(io::stdout(), "Creating a Postgres {version} cluster in {}.", data.display())?,
                false => writeln!(
                    io::stdout(),
                    "Creating a Postgres {version} cluster in {}, because the user postgres may not enter {}.",
                    folder.display(),
                    data.display()
                )?,
            }
            let file = PasswordFile::write(password_path(&folder), password, user)?;
            let mut initdb = command(&program("initdb"), user);
            // Sorting is by code points, and letters are letters. macOS calls that C.
            let locale = if cfg!(target_os = "macos") { "--locale=C" } else { "--locale=C.UTF-8" };
            initdb.args(["--encoding=UTF8", locale, "--auth=scram-sha-256", "--username", NAME]);
            // It has the lock until it ends, even if this process is killed.
            initdb.stdin(lock.try_clone()?);
            run("initdb", initdb.arg("--pwfile").arg(&file.0).arg("--pgdata").arg(&folder))?;
            // Before the cluster has its name: later, nobody looks for it.
            drop(file);
            if place.is_symlink() {
                fs::remove_file(&place)?;
            }
            fs::rename(&new, &place)?;
        }
        let folder = place.canonicalize()?;
        let (pg_ctl, log) = (program("pg_ctl"), folder.join("log"));
        let pg_ctl_in = |arguments: &[&str]| {
            let mut command = command(&pg_ctl, user);
            command.arg("--pgdata").arg(&folder).args(arguments);
            command
        };
        if pg_ctl_in(&["status"]).output()?.status.success() {
            run("pg_ctl stop", &mut pg_ctl_in(&["--mode=fast", "--wait", "stop"]))?;
        }
        // The same at every start, as long as it is free: what a developer has noted stays true.
        let last = read(&data.join("port")).and_then(|port| port.parse().ok()).filter(|port| is_free(*port));
        let port = last.map_or_else(free_port, Ok)?;
        let options = format!("-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories=''");
        let mut start = pg_ctl_in(&["--wait", "--options", &options, "--log"]);
        match run("pg_ctl start", start.arg(&log).arg("start")) {
            Ok(()) => Ok(Self { port, folder, pg_ctl, user, _lock: lock }),
            Err(ClusterError::Program { .. }) => Err(ClusterError::Start { last_lines: last_lines(&log), log }),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut stop = command(&self.pg_ctl, self.user);
        stop.arg("--pgdata").arg(&self.folder).args(["--mode=fast", "--wait", "stop"]);
        if let Err(error) = run("pg_ctl stop", &mut stop) {
            eprintln!("livestore-sidecar: {error}");
        }
    }
}

impl User {
    fn of_postgres() -> Result<Option<Self>, ClusterError> {
        let id = |arguments: &[&str]| -> Result<u32, ClusterError> {
            let output = Command::new("id").args(arguments).output()?;
            String::from_utf8_lossy(&output.stdout).trim().parse().map_err(|_| ClusterError::NoUser)
        };
        if id(&["-u"])? != 0 {
            return Ok(None);
        }
        Ok(Some(Self { uid: id(&["-u", "postgres"])?, gid: id(&["-g", "postgres"])? }))
    }
}

/// A program, run as the user of Postgres, in a folder that this user may enter.
fn command(program: &Path, user: Option<User>) -> Command {
    let mut command = Command::new(program);
    // Ctrl-C at a terminal is for this process, which then stops Postgres.
    command.current_dir("/").stdin(Stdio::null()).process_group(0);
    if let Some(User { uid, gid }) = user {
        command.uid(uid).gid(gid);
    }
    command
}

/// Runs a program that tells something only if it fails.
fn run(program: &'static str, command: &mut Command) -> Result<(), ClusterError> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let output = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(ClusterError::Program { program, output: output.trim().into() })
}

/// Creates a folder for a cluster. The user of Postgres may not be able to enter the folder of the data, which is often below root's home:
/// then the cluster is elsewhere, with a link to it.
fn create_folder(data: &Path, folder: &Path, user: Option<User>) -> io::Result<PathBuf> {
    let create = |path: &Path| fs::DirBuilder::new().mode(0o700).create(path);
    match user {
        None => create(folder)?,
        Some(user) => {
            let may_enter = command(Path::new("test"), Some(user)).arg("-x").arg(data).status()?.success();
            let place = if may_enter { folder.to_owned() } else { elsewhere()? };
            create(&place)?;
            chown(&place, Some(user.uid), Some(user.gid))?;
            if !may_enter {
                symlink(&place, folder)?;
            }
        }
    }
    folder.canonicalize()
}

/// Removes the folder of a cluster that is half made, or a link and the folder that it leads to, if there is one.
fn remove(folder: &Path) -> io::Result<()> {
    if folder.exists() {
        let folder = folder.canonicalize()?;
        let password = password_path(&folder);
        if password.exists() {
            fs::remove_file(password)?;
        }
        fs::remove_dir_all(folder)?;
    }
    if folder.is_symlink() { fs::remove_file(folder) } else { Ok(()) }
}

/// A name that no cluster has yet.
fn elsewhere() -> io::Result<PathBuf> {
    fs::create_dir_all(ELSEWHERE)?;
    let mut names = (1_u32..).map(|number| Path::new(ELSEWHERE).join(number.to_string()));
    names.find(|path| !path.exists()).ok_or_else(|| io::ErrorKind::QuotaExceeded.into())
}

/// The file of the password for initdb: beside the cluster, so that the next start removes it if this process is killed. initdb takes
/// an empty folder only.
fn password_path(folder: &Path) -> PathBuf {
    folder.with_extension("password")
}

/// A file for initdb alone, which is gone with this.
struct PasswordFile(PathBuf);

impl PasswordFile {
    fn write(path: PathBuf, password: &str, user: Option<User>) -> io::Result<Self> {
        let file = Self(path);
        write_secret(&file.0, password)?;
        if let Some(User { uid, gid }) = user {
            chown(&file.0, Some(uid), Some(gid))?;
        }
        Ok(file)
    }
}

impl Drop for PasswordFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// A port below those that systems give to connections, which would take it while the cluster is down.
fn free_port() -> io::Result<u16> {
    let first = 20_000 + (std::process::id() % 10_000) as u16;
    (first..32_000).find(|port| is_free(*port)).ok_or_else(|| io::ErrorKind::AddrInUse.into())
}

/// The end of a log.
fn last_lines(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let from = text.trim_end().rmatch_indices('\n').nth(4).map_or(0, |(at, _)| at + 1);
    text[from..].trim_end().to_owned()
}
