//! Clocks that jump: libfaketime stands between a sidecar and the time of day. Time that only passes, which timers go by, is
//! left alone, as it is when somebody sets the clock of a machine.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

pub struct Clock {
    library: PathBuf,
    /// A file for each sidecar, with the error of its clock.
    folder: TempDir,
}

impl Clock {
    /// Nothing, if libfaketime is not there: Debian's package of that name, or `$LIVESTORE_FAKETIME`, a path.
    pub fn find() -> Option<Self> {
        let installed = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|folder| folder.path());
        let installed = installed.map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
        let named = std::env::var_os("LIVESTORE_FAKETIME").map(PathBuf::from);
        let library = named.into_iter().chain(installed).find(|path| path.exists())?;
        Some(Self { library, folder: tempfile::tempdir().ok()? })
    }

    /// The environment that a sidecar is started with.
    pub fn environment(&self, sidecar: usize) -> Vec<(&'static str, String)> {
        self.set(sidecar, 0);
        let text = |path: &Path| path.display().to_string();
        vec![
            ("LD_PRELOAD", text(&self.library)),
            ("FAKETIME_TIMESTAMP_FILE", text(&self.file(sidecar))),
            ("FAKETIME_CACHE_DURATION", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }

    /// Makes the clock of a sidecar wrong by so many seconds, within a second.
    pub fn set(&self, sidecar: usize, seconds: i64) {
        let _ = std::fs::write(self.file(sidecar), format!("{seconds:+}\n"));
    }

    /// Removes what libfaketime leaves of a process that was killed.
    pub fn clean_up(pid: u32) {
        for file in [format!("/dev/shm/faketime_shm_{pid}"), format!("/dev/shm/sem.faketime_sem_{pid}")] {
            let _ = std::fs::remove_file(file);
        }
    }

    fn file(&self, sidecar: usize) -> PathBuf {
        self.folder.path().join(sidecar.to_string())
    }
}
