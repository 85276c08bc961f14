//! Ends the processes of a test runner or benchmark, and removes its folders, when the runner has ended: a `Drop` does that too, but
//! not in a runner that is killed.
//!
//! A shell waits for the other end of its standard input to close, which Linux does however the runner ends. Clusters have shells
//! of their own, because Postgres is stopped in another way.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use tempfile::TempDir;

/// Its lines are `program <pid> <start>`, `process <pid> <start>`, `group <pid> <start>` and `folder <path>`. The processes of `peers`, too, have ended before
/// folders are removed.
const SCRIPT: &str = r#"
lines=$(cat)
cd /
all() { echo "$lines" | sed -n "s/^$1 //p"; }
still() { [ "$(sed 's/.*) //' "/proc/$1/stat" | cut -d ' ' -f 20)" = "$2" ]; }
all program | while read -r pid start; do still "$pid" "$start" && kill -TERM "$pid"; done
all process | while read -r pid start; do still "$pid" "$start" && kill -KILL "$pid"; done
all group | while read -r pid start; do still "$pid" "$start" && kill -KILL "-$pid"; done
sleep 1
all folder | while read -r folder; do rm -rf "$folder"; done
"#;

/// Ends this child with the runner.
pub fn watch(pid: u32) {
    tell_of("process", pid);
}

/// Tells this child, which ends what it has started, to end with the runner.
pub fn watch_program(pid: u32) {
    tell_of("program", pid);
}

/// Ends the process group of this child, its leader, with the runner.
pub fn watch_group(pid: u32) {
    tell_of("group", pid);
}

fn tell_of(what: &str, pid: u32) {
    // Another process may have the number later, but not with the same time of start.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a child that was not waited for");
    let (_, after_name) = stat.rsplit_once(") ").expect("a name");
    let start = after_name.split(' ').nth(19).expect("the time of its start");
    tell(&format!("{what} {pid} {start}"));
}

/// A temporary folder that is removed with the runner, if not before.
pub fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    tell(&format!("folder {}", folder.path().display()));
    folder
}

fn tell(line: &str) {
    static WATCHDOG: OnceLock<Mutex<Child>> = OnceLock::new();
    let watchdog = WATCHDOG.get_or_init(|| Mutex::new(shell(SCRIPT)));
    let mut watchdog = watchdog.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(watchdog.stdin.as_mut().expect("a pipe"), "{line}").expect("the watchdog runs");
}

/// A shell that is to read its standard input to the end, in a process group of its own: Ctrl-C does not end it.
pub(crate) fn shell(script: &str) -> Child {
    Command::new("sh")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("a shell")
}
