//! Clocks that jump: libfaketime stands between a sidecar, or Postgres, and the time of day. Time that only passes, which timers go by, is
//! left alone, as it is when somebody sets the clock of a machine.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

pub struct Clock {
    library: PathBuf,
    /// A file for each machine, with the error of its clock.
    folder: TempDir,
}

/// A machine with a clock of its own. A primary and its standby have the same.
#[derive(Debug, Clone, Copy)]
pub enum Machine {
    Sidecar(usize),
    Postgres,
}

impl Clock {
    /// Nothing, if libfaketime is not there: Debian's package of that name, or `$LIVESTORE_FAKETIME`, a path.
    pub fn find() -> Option<Self> {
        let installed = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|folder| folder.path());
        let installed = installed.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
        let named = std::env::var_os("LIVESTORE_FAKETIME").map(PathBuf::from);
        let library = named.into_iter().chain(installed).find(|path| path.exists())?;
        let folder = livestore_tests::watchdog::folder();
        // Postgres is another user.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).ok()?;
        Some(Self { library, folder })
    }

    /// The environment in which a program on this machine is started.
    pub fn environment(&self, machine: Machine) -> Vec<(&'static str, String)> {
        self.set(machine, 0);
        let text = |path: &Path| path.display().to_string();
        vec![
            ("LD_PRELOAD", text(&self.library)),
            ("FAKETIME_TIMESTAMP_FILE", text(&self.file(machine))),
            ("FAKETIME_CACHE_DURATION", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }

    /// Makes the clock of a machine wrong by so many seconds, within a second.
    pub fn set(&self, machine: Machine, seconds: i64) {
        let _ = std::fs::write(self.file(machine), format!("{seconds:+}\n"));
    }

    /// Removes what libfaketime leaves of a process that was killed.
    pub fn clean_up(pid: u32) {
        for file in [format!("/dev/shm/faketime_shm_{pid}"), format!("/dev/shm/sem.faketime_sem_{pid}")] {
            let _ = std::fs::remove_file(file);
        }
    }

    fn file(&self, machine: Machine) -> PathBuf {
        self.folder.path().join(match machine {
            Machine::Sidecar(number) => number.to_string(),
            Machine::Postgres => "postgres".into(),
        })
    }
}
